//! Prometheus itself is asked: `promtool` checks the rules, their tests and the metrics, and a server that scrapes
//! them runs every query.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use lifeboat::serve::metrics::{CONTENT_TYPE, render, write_textfile};

use super::{dashboard, rules, standing};

const WAIT: Duration = Duration::from_mins(1);

/// Runs promtool, which must be there.
fn promtool(args: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .args(args)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("written");
    child.wait_with_output().expect("ended")
}

fn accepted(args: &[&str], input: &str) -> String {
    let output = promtool(args, input);
    let shown = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "promtool {args:?}: {}{}", shown[0], shown[1]);
    shown.into_iter().next().expect("stdout")
}

#[test]
#[ignore = "needs promtool: run fixtures/test"]
fn promtool_takes_the_rules_and_their_tests_pass() {
    accepted(&["check", "rules", "prometheus-rules.yml"], "");
    accepted(&["test", "rules", "prometheus-rules.test.yml"], "");
}

#[test]
#[ignore = "needs promtool: run fixtures/test"]
fn promtool_finds_no_fault_in_the_metrics() {
    accepted(&["check", "metrics"], &render(&standing::full()));
    accepted(&["check", "metrics"], &render(&standing::empty()));
    assert!(
        !promtool(&["check", "metrics"], "lifeboat_x{a=\"1\"} 1\nlifeboat_x{a=\"1\"} x\n").status.success()
    );
}

/// Answers every request with the metrics of a full standing, as long as the test runs.
fn serve_metrics() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let body = render(&standing::full());
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes());
        }
    });
    port
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns an address of loopback that nobody listens at.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address")
}

/// A Prometheus of our own on loopback.
struct Prometheus {
    url: String,
    _running: Running,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` in both ways: with our own label `job`, and with it as `exported_job`.
    fn start(target: u16) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let jobs = [("direct", true), ("textfile", false)].map(|(name, honor)| {
            format!(
                "  - job_name: {name}\n    honor_labels: {honor}\n    static_configs: [{{targets: ['127.0.0.1:{target}']}}]\n"
            )
        });
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/prometheus-rules.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n{}",
            rules.display(),
            jobs.concat()
        );
        let config_file = dir.path().join("prometheus.yml");
        std::fs::write(&config_file, config).expect("written");
        let free = free_address();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config_file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus, of Debian's package");
        Self { url: format!("http://{free}"), _running: Running(child), _dir: dir }
    }

    fn query(&self, expr: &str) -> Output {
        promtool(&["query", "instant", &self.url, expr], "")
    }

    /// Waits until a query has an answer.
    fn wait_for(&self, expr: &str) {
        let began = Instant::now();
        while self.query(expr).stdout.is_empty() {
            assert!(began.elapsed() < WAIT, "no answer to {expr}: {:?}", self.query(expr));
            thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
#[ignore = "needs prometheus: run fixtures/test"]
fn every_query_of_the_dashboard_and_of_the_rules_has_an_answer_in_a_real_prometheus() {
    let prometheus = Prometheus::start(serve_metrics());
    prometheus.wait_for("count(lifeboat_build_info) == 2");
    for (title, expr) in dashboard::queries() {
        let answer = prometheus.query(&expr.replace("$stack", ".*"));
        assert!(answer.status.success(), "{title}: {expr}: {}", String::from_utf8_lossy(&answer.stderr));
        assert!(!answer.stdout.is_empty(), "{title} is empty: {expr}");
    }
    for expr in rules::expressions() {
        let answer = prometheus.query(&expr);
        assert!(answer.status.success(), "{expr}: {}", String::from_utf8_lossy(&answer.stderr));
    }
    // What the standing holds fires, whichever way it came in.
    prometheus.wait_for("count(ALERTS{alertname='LifeboatPruneFrozen',alertstate='firing'}) == 2");
}

/// Returns the answer to a GET of `/metrics`, or nothing when nobody answers.
fn scrape(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: lifeboat\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
#[ignore = "needs prometheus-node-exporter: run fixtures/test"]
fn node_exporter_passes_every_line_of_the_text_file_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = render(&standing::full());
    write_textfile(&dir.path().join("lifeboat.prom"), &text).expect("written");
    let address = free_address();
    let child = Command::new("prometheus-node-exporter")
        .args(["--collector.disable-defaults", "--collector.textfile"])
        .arg(format!("--collector.textfile.directory={}", dir.path().display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus-node-exporter, of Debian's package");
    let _running = Running(child);
    let began = Instant::now();
    let answer = loop {
        assert!(began.elapsed() < WAIT, "no answer");
        match scrape(address) {
            Some(answer) => break answer,
            None => thread::sleep(Duration::from_millis(100)),
        }
    };
    assert!(answer.contains("node_textfile_scrape_error 0"), "{answer}");
    let ours = |text: &str| text.lines().filter(|line| line.starts_with("lifeboat_")).count();
    assert_eq!(ours(&answer), ours(&text));
}
