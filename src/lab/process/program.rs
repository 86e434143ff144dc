//! Runs a program on the host, as one would be run beside the servers of a lab of containers.
//!
//! It gets an environment of its own. Where it would find a file in a container, its command names the file's real
//! place here.
//!
//! *Order.* A program that has ended is not taken leave of before the rest of its group is ended too: so long nobody
//! else gets its number. It and all that it started are ended also when its time is up, and when lifeboat stops
//! waiting. *Limits.* What a program moved into a group of its own is not found.

use std::{
    io::{ErrorKind, PipeReader, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    pin::pin,
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    process::Command,
    signal::unix::{SignalKind, signal},
};

use super::{
    super::{Ended, OUTPUT_BYTES_MAX, Program, not_run},
    tools::Tools,
};
use crate::error::{Context, ExitCode, Result};

/// Bytes of output that are read at once, and that may still be in the pipe when a program has ended.
const PIECE_BYTES: usize = 16 << 10;
const PIPE_BYTES_MAX: usize = 1 << 20;
/// What a shell answers when there is no such program.
const NOT_FOUND: i64 = 127;

/// Ends a program and all of its group when dropped.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

/// The last bytes of what was written.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        if self.0.len() > 2 * OUTPUT_BYTES_MAX {
            self.0.drain(..self.0.len() - OUTPUT_BYTES_MAX);
        }
    }

    fn text(&self) -> String {
        let skipped = self.0.len().saturating_sub(OUTPUT_BYTES_MAX);
        String::from_utf8_lossy(&self.0[skipped..]).into_owned()
    }
}

/// Runs a program in `home` and hands its number to `note` as soon as it has one.
pub(super) async fn run(
    program: &Program,
    tools: &Tools,
    home: &Path,
    note: impl FnOnce(u32) -> Result<()>,
) -> Result<Ended> {
    let places = places(program);
    let words: Vec<String> = program.command.iter().map(|word| replaced(word, &places)).collect();
    let Some((name, arguments)) = words.split_first() else {
        return Err(not_run(format!("`{}` has no command", program.name)));
    };
    let what = || format!("`{}` cannot be started", program.name);
    let path = if name.contains('/') { Some(PathBuf::from(name)) } else { tools.find(name) };
    let Some(path) = path else { return Ok(not_found(name)) };
    let (reader, writer) = std::io::pipe().failed(ExitCode::DrillNotRun, what)?;
    let both = writer.try_clone().failed(ExitCode::DrillNotRun, what)?;
    let mut command = Command::new(path);
    command.args(arguments).env_clear().env("PATH", tools.path()).env("LANG", "C.UTF-8").env("HOME", home);
    command.envs(program.environment.iter().map(|(key, value)| (key, replaced(value, &places))));
    command.current_dir(home).stdin(Stdio::null()).stdout(writer).stderr(both).process_group(0);
    let mut child = match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(not_found(name)),
        spawned => spawned.failed(ExitCode::DrillNotRun, what)?,
    };
    // It holds an end of the pipe, which would never close.
    drop(command);
    let id = child.id().ok_or_else(|| not_run(what()))?;
    let pid = Pid::from_raw(id.cast_signed()).ok_or_else(|| not_run(what()))?;
    let group = Group(pid);
    note(id)?;
    let mut tail = Tail::default();
    let ended = tokio::time::timeout(program.timeout, listen(reader, group, &mut tail)).await;
    let code = match ended {
        Err(_) => None,
        Ok(ended) => {
            ended.failed(ExitCode::DrillNotRun, what)?;
            Some(code_of(child.wait().await.failed(ExitCode::DrillNotRun, what)?))
        }
    };
    Ok(Ended { code, output: tail.text() })
}

fn not_found(name: &str) -> Ended {
    Ended { code: Some(NOT_FOUND), output: format!("`{name}` is not installed on this host\n") }
}

/// Returns an exit code as a shell counts it: a program that a signal ended has 128 and its number.
fn code_of(status: ExitStatus) -> i64 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).map_or(-1, i64::from)
}

/// Takes what the program writes until it ends, and ends its group.
async fn listen(from: PipeReader, group: Group, tail: &mut Tail) -> std::io::Result<()> {
    let mut from = Receiver::from_owned_fd(OwnedFd::from(from))?;
    let mut buffer = vec![0; PIECE_BYTES];
    let mut is_open = true;
    let mut end = pin!(end_of(group.0));
    loop {
        tokio::select! {
            read = from.read(&mut buffer), if is_open => match read? {
                0 => is_open = false,
                count => tail.push(&buffer[..count]),
            },
            ended = &mut end => break ended?,
        }
    }
    drop(group);
    // What is still in the pipe; more than a pipe holds is of somebody who left the group, and is not waited for.
    let mut rest = PipeReader::from(from.into_nonblocking_fd()?);
    for _ in 0..PIPE_BYTES_MAX / PIECE_BYTES {
        match rest.read(&mut buffer) {
            Ok(count @ 1..) => tail.push(&buffer[..count]),
            _ => break,
        }
    }
    Ok(())
}

/// Waits until a child has ended, and leaves it to be taken leave of.
async fn end_of(pid: Pid) -> std::io::Result<()> {
    // Before the first look: no end comes unnoticed.
    let mut ends = signal(SignalKind::child())?;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), look)?.is_none() {
        ends.recv().await;
    }
    Ok(())
}

/// Returns where the program would find things in a container, and where they really are.
fn places(program: &Program) -> Vec<(&str, &str)> {
    let all = program.read_only.iter().chain(&program.writable);
    let texts = all.filter_map(|(real, inside)| Some((inside.to_str()?, real.to_str()?)));
    let mut places: Vec<_> = texts.filter(|(inside, _)| !inside.is_empty()).collect();
    // Of two that fit the longer one is meant.
    places.sort_by_key(|(inside, _)| std::cmp::Reverse(inside.len()));
    places
}

/// Replaces each path of a container in `text` by the real one; a path that only begins alike stays.
fn replaced(text: &str, places: &[(&str, &str)]) -> String {
    let in_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    let (mut done, mut rest) = (String::new(), text);
    while let Some(next) = rest.chars().next() {
        let begins = !done.ends_with(|c: char| in_name(c) || c == '/');
        let fits = |inside: &str| rest.strip_prefix(inside).is_some_and(|after| !after.starts_with(in_name));
        if let Some((inside, real)) = places.iter().find(|(inside, _)| begins && fits(inside)) {
            done.push_str(real);
            rest = &rest[inside.len()..];
        } else {
            done.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;

    fn program(command: &[&str]) -> Program {
        Program {
            name: "a program".to_owned(),
            image: None,
            beside: None,
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            environment: BTreeMap::new(),
            read_only: Vec::new(),
            writable: Vec::new(),
            is_alone: false,
            timeout: Duration::from_mins(1),
        }
    }

    async fn ended(program: &Program) -> Ended {
        let home = tempfile::tempdir().unwrap();
        run(program, &Tools::of_host(), home.path(), |_| Ok(())).await.unwrap()
    }

    #[test]
    fn paths_of_a_container_become_the_real_ones() {
        let places = [("/out/deep", "/tmp/out/d"), ("/out", "/tmp/out/x"), ("/id.txt", "/keys/identity.txt")];
        let become_real = |text| replaced(text, &places);
        assert_eq!(become_real("/out"), "/tmp/out/x");
        assert_eq!(become_real("/out/deep/a /out/shallow"), "/tmp/out/d/a /tmp/out/x/shallow");
        assert_eq!(become_real("--to=/out:/id.txt"), "--to=/tmp/out/x:/keys/identity.txt");
        assert_eq!(become_real("cat '/id.txt'|x>/out;"), "cat '/keys/identity.txt'|x>/tmp/out/x;");
        for other in ["/outer", "/out.txt", "/var/out", "x/out", "图/id.txt", ""] {
            assert_eq!(become_real(other), other);
        }
    }

    #[tokio::test]
    async fn a_program_sees_its_own_environment_only_and_both_outputs_are_kept() {
        let mut asks = program(&["sh", "-c", "env | sort | cut -d= -f1; echo $WORD >&2; cat /in; exit 7"]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "read\n").unwrap();
        asks.environment.insert("WORD".to_owned(), "at /in".to_owned());
        asks.read_only.push((file.path().to_owned(), "/in".into()));
        let ended = ended(&asks).await;
        assert_eq!(ended.code, Some(7));
        let mut lines: Vec<&str> = ended.output.lines().collect();
        // What the shell itself sets.
        lines.retain(|line| !["PWD", "SHLVL", "_", "OLDPWD"].contains(line));
        assert_eq!(lines, ["HOME", "LANG", "PATH", "WORD", &format!("at {}", file.path().display()), "read"]);
    }

    #[tokio::test]
    async fn the_last_of_a_long_output_is_kept() {
        let ended = ended(&program(&["sh", "-c", "seq 1 100000"])).await;
        assert_eq!(ended.output.len(), OUTPUT_BYTES_MAX);
        assert!(ended.output.ends_with("99999\n100000\n"));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told_as_a_shell_does() {
        for name in ["no-such-program", "/no/such/program"] {
            let ended = ended(&program(&[name])).await;
            assert_eq!(ended.code, Some(NOT_FOUND));
            assert_eq!(ended.output, format!("`{name}` is not installed on this host\n"));
        }
    }

    #[tokio::test]
    async fn what_a_program_left_running_is_ended_with_it_and_so_is_what_takes_too_long() {
        let left = ended(&program(&["sh", "-c", "sleep 1000 & echo $!"])).await;
        assert_eq!(left.code, Some(0));
        assert_eq!(
            ended(&program(&["sh", "-c", "yes & sleep 0.1"])).await.code,
            Some(0),
            "it never falls silent"
        );
        gone(left.output.trim().parse().unwrap()).await;
        let mut slow = program(&["sh", "-c", "sleep 1000 & echo $!; wait"]);
        slow.timeout = Duration::from_millis(500);
        let slow = ended(&slow).await;
        assert_eq!(slow.code, None);
        gone(slow.output.trim().parse().unwrap()).await;
    }

    /// Waits until a process that was killed is gone; whoever adopts it takes its leave.
    async fn gone(pid: i32) {
        let runs = || std::fs::read_to_string(format!("/proc/{pid}/stat"));
        let gone = async {
            while runs().is_ok_and(|text| !text.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), gone).await.unwrap();
    }
}
