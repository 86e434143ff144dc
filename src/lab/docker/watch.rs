//! Whether a container runs, why it does not, and what it wrote.

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerInspectResponse, ContainerState},
    query_parameters::{InspectContainerOptions, LogsOptionsBuilder},
};
use futures_util::{StreamExt, pin_mut};
use tokio::time::sleep;

use super::{super::not_run, PAUSE};
use crate::error::{Context, ExitCode, Failure, Result};

/// Lines of a log that are told, and characters of each.
const LINES_MAX: usize = 12;
const COLUMNS_MAX: usize = 300;
/// Bytes of a log that these lines are looked for in.
const TAIL_BYTES: usize = 16 << 10;
/// How often a container is looked at that cannot be read.
const LOOKS_MAX: u32 = 50;
/// How a process ends that was killed.
const KILLED: i64 = 128 + 9;

/// Looks at a container. Podman says `stopped` of one that has ended and is not tidied up yet, a word that docker has
/// not: for so long there is nothing to be read, so it is asked again.
pub(super) async fn look_at(docker: &Docker, id: &str) -> Result<ContainerInspectResponse, Error> {
    for _ in 1..LOOKS_MAX {
        match docker.inspect_container(id, None::<InspectContainerOptions>).await {
            Err(Error::JsonDataError { .. }) => sleep(PAUSE).await,
            found => return found,
        }
    }
    docker.inspect_container(id, None::<InspectContainerOptions>).await
}

/// Fails when the container of the server `name` does not run.
pub(super) async fn runs(docker: &Docker, id: &str, name: &str) -> Result<ContainerInspectResponse> {
    let found = look_at(docker, id).await;
    let found = found
        .failed(ExitCode::DrillNotRun, || format!("failed to look at the server `{name}` of the lab"))?;
    match found.state.as_ref().and_then(|state| reason(name, state)) {
        None => Ok(found),
        Some(failure) => Err(with_log(docker, id, failure).await),
    }
}

/// Returns why a container does not run; `None` if it does, or is about to.
fn reason(name: &str, state: &ContainerState) -> Option<Failure> {
    if state.running.unwrap_or_default() {
        return None;
    }
    let code = state.exit_code.unwrap_or_default();
    let more = "Give the lab's servers more: memory_mib in [drill].";
    if state.oom_killed.unwrap_or_default() {
        return Some(not_run(format!("the server `{name}` of the lab was out of memory")).hint(more));
    }
    let failure = not_run(format!("the server `{name}` of the lab ended with code {code}"));
    Some(if code == KILLED { failure.hint(more) } else { failure })
}

/// Adds the last lines that a container wrote as the cause of a failure.
pub(super) async fn with_log(docker: &Docker, id: &str, failure: Failure) -> Failure {
    let written = output(docker, id, TAIL_BYTES).await;
    let lines = last_lines(&written);
    if lines.is_empty() { failure } else { failure.because(format!("it wrote at last:\n{lines}")) }
}

/// Returns the last `limit` bytes that a container wrote, both outputs together.
pub(super) async fn output(docker: &Docker, id: &str, limit: usize) -> String {
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail("all").build();
    let log = docker.logs(id, Some(options));
    pin_mut!(log);
    let mut tail = Tail::new(limit);
    // A log that breaks off is still what there is to be told.
    while let Some(Ok(piece)) = log.next().await {
        tail.push(piece.as_ref());
    }
    tail.text()
}

/// The last bytes of what may be long.
struct Tail {
    bytes: Vec<u8>,
    limit: usize,
}

impl Tail {
    fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit }
    }

    fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
        if self.bytes.len() > 2 * self.limit {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let over = self.bytes.len().saturating_sub(self.limit);
        self.bytes.drain(..over);
    }

    fn text(mut self) -> String {
        let was_longer = self.bytes.len() > self.limit;
        self.cut();
        // A character that was cut in the middle has gone.
        let is_rest = |byte: &&u8| was_longer && **byte & 0xC0 == 0x80;
        let begin = self.bytes.iter().take_while(is_rest).count();
        String::from_utf8_lossy(&self.bytes[begin..]).into_owned()
    }
}

/// Returns the last lines of a log as a person can read them.
fn last_lines(log: &str) -> String {
    let shown =
        |line: &str| -> String { line.chars().filter(|c| !c.is_control()).take(COLUMNS_MAX).collect() };
    let lines: Vec<String> = log.lines().map(shown).filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ended_is_told_with_its_reason() {
        let told = |running, oom_killed, code| {
            let state = ContainerState {
                running: Some(running),
                oom_killed: Some(oom_killed),
                exit_code: Some(code),
                ..ContainerState::default()
            };
            reason("db", &state).map(|failure| (failure.to_string(), failure.hints().len()))
        };
        assert_eq!(told(true, false, 0), None);
        let memory = "the server `db` of the lab was out of memory".to_owned();
        assert_eq!(told(false, true, 137), Some((memory, 1)));
        assert_eq!(
            told(false, false, 1),
            Some(("the server `db` of the lab ended with code 1".to_owned(), 0))
        );
        assert_eq!(told(false, false, 137).unwrap().1, 1);
    }

    #[test]
    fn the_last_bytes_stay_whole_characters() {
        let mut tail = Tail::new(5);
        for piece in ["0123456789".as_bytes(), b"ab", "c密de".as_bytes()] {
            tail.push(piece);
        }
        assert_eq!(tail.text(), "密de");
        let mut cut = Tail::new(4);
        cut.push("密de".as_bytes());
        assert_eq!(cut.text(), "de");
        let mut short = Tail::new(8);
        short.push(b"abc");
        assert_eq!(short.text(), "abc");
    }

    #[test]
    fn the_last_lines_are_those_with_words() {
        let log: String =
            (0..40).map(|number| format!("line {number}\u{1b}\r\n\n")).collect::<Vec<_>>().concat();
        let lines = last_lines(&log);
        assert_eq!(lines.lines().count(), LINES_MAX);
        assert!(lines.starts_with("line 28\n") && lines.ends_with("line 39"));
        assert_eq!(last_lines(&"x".repeat(1000)).len(), COLUMNS_MAX);
    }
}
