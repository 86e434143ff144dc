//! A terminal of a test's own, for what is asked without echo. Needs `script` and `stty`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs the shell command `line` at a terminal, with the folder and the variables of `like`, and types each of
/// `answers` once its question was asked and the terminal shows no echo. What the terminal showed is the output.
pub fn at_a_terminal(like: &Command, line: &str, answers: &[(&str, &str)]) -> Output {
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &format!("tty; {line}"), "/dev/null"]);
    script.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.current_dir(like.get_current_dir().unwrap());
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().expect("`script` of util-linux");
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut terminal = String::new();
    output.read_line(&mut terminal).unwrap();
    let mut shown = Vec::new();
    for (question, answer) in answers {
        let before = shown.len();
        while !String::from_utf8_lossy(&shown[before..]).contains(question) {
            let mut byte = [0];
            let read = output.read(&mut byte).unwrap();
            assert!(read > 0, "`{question}` was not asked: {}", String::from_utf8_lossy(&shown));
            shown.push(byte[0]);
        }
        wait_for_silence(terminal.trim());
        writeln!(input, "{answer}").unwrap();
    }
    output.read_to_end(&mut shown).unwrap();
    drop(input);
    let status = child.wait().unwrap();
    Output { status, stdout: shown, stderr: Vec::new() }
}

/// Waits until a terminal does not show what is typed.
fn wait_for_silence(terminal: &str) {
    let began = Instant::now();
    loop {
        let told = Command::new("stty").args(["-F", terminal, "-a"]).output().unwrap();
        if String::from_utf8_lossy(&told.stdout).split_whitespace().any(|word| word == "-echo") {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{terminal} shows what is typed");
        std::thread::sleep(Duration::from_millis(5));
    }
}
