//! A program as a channel: JSON on its standard input, and its exit code is the answer.
//!
//! No shell reads the command. The program gets an environment of its own, so it cannot find the secrets that lifeboat
//! was given there. It and all that it started are ended when it takes too long, also when lifeboat stops waiting.

use std::{
    io::{Read, Seek},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use super::{Message, Refused, hidden::one_line, robots::document};
use crate::policy::ExecConfig;

/// Where the program finds other programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of what it complains about that are looked at.
const COMPLAINT_BYTES_MAX: u64 = 4096;
/// Characters of it that are shown.
const COMPLAINT_CHARS_MAX: usize = 200;

/// Ends a program and all of its group when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may be gone already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

pub(super) async fn send(config: &ExecConfig, message: &Message, patience: Duration) -> Result<(), Refused> {
    let [program, arguments @ ..] = config.command.as_slice() else {
        return Err(Refused::for_good("`command` is empty"));
    };
    // A file: a pipe would be held open by what the program leaves behind.
    let mut complaint = tempfile::tempfile()
        .map_err(|error| Refused::for_now(format!("no file for what it says: {error}")))?;
    let stderr = complaint.try_clone().map_err(|error| Refused::for_now(error.to_string()))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        Refused::for_good(format!("`{program}` cannot be started: {error}"))
            .hint("Check the path, and that this user may run it.")
    })?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let mut group = Group(pid);
    let ended = tokio::time::timeout(patience, talk(&mut child, document(message).to_string())).await;
    let status = match ended {
        Err(_) => {
            let why = format!("`{program}` was not done after {} s and was ended", patience.as_secs());
            return Err(Refused::for_now(why));
        }
        Ok(Err(error)) => return Err(Refused::for_now(format!("`{program}` cannot be waited for: {error}"))),
        Ok(Ok(status)) => status,
    };
    // It is gone, and its number may soon be that of another.
    group.0 = None;
    if status.success() {
        return Ok(());
    }
    let said = said(&mut complaint);
    let how = status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"));
    let why = if said.is_empty() { how } else { format!("{how}: {said}") };
    Err(Refused::for_now(format!("`{program}` failed with {why}")))
}

/// Gives the program its input and waits for its end.
async fn talk(child: &mut Child, input: String) -> std::io::Result<std::process::ExitStatus> {
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing has not failed.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    child.wait().await
}

fn said(complaint: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is not shown.
    let _ = complaint.rewind().and_then(|()| complaint.take(COMPLAINT_BYTES_MAX).read_to_end(&mut bytes));
    one_line(&String::from_utf8_lossy(&bytes), COMPLAINT_CHARS_MAX)
}
