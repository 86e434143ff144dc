//! Certificates of real TLS servers: of OpenSSL with one of our own making, and of MySQL.

use std::{
    process::{Child, Command, Stdio},
    time::Instant,
};

use lifeboat::policy::SecretRef;

use crate::{
    finding,
    stage::{PATIENCE, Stage, closed_port},
    support::{Product, Server},
};

/// OpenSSL's server with a certificate that is valid for some days.
struct Shown {
    server: Child,
    port: u16,
}

impl Drop for Shown {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Shown {
    fn start(stage: &Stage, days: u32) -> Self {
        let (key, certificate) = (stage.at(&format!("key{days}.pem")), stage.at(&format!("cert{days}.pem")));
        let days = days.to_string();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-days", &days, "-keyout", &key, "-out", &certificate])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = closed_port();
        let server = Command::new("openssl")
            .args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}")])
            .args(["-key", &key, "-cert", &certificate])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let shown = Self { server, port };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "openssl s_server does not listen");
            std::thread::yield_now();
        }
        shown
    }
}

#[test]
#[ignore = "needs openssl: run fixtures/test"]
fn a_certificate_that_runs_out_soon_is_told_with_its_days() {
    for (days, status) in [(90, "ok"), (10, "warn"), (2, "broken")] {
        let stage = Stage::with_files();
        let shown = Shown::start(&stage, days);
        stage.append(&format!(
            "[[source]]\nname = \"cache\"\nkind = \"redis\"\nurl = \"rediss://localhost:{}\"\n",
            shown.port
        ));
        let document = stage.run(&["doctor", "cache", "--json"]).json();
        let found = finding(&document, "source.cache.certificate");
        assert_eq!(found["status"], status, "{found}");
        let detail = found["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("valid for {} days", days - 1)), "{detail}");
        // That nobody knows who signed it is told by the connection itself.
        assert_eq!(finding(&document, "source.cache.answers")["status"], "broken");
    }
}

#[test]
#[ignore = "needs openssl: run fixtures/test"]
fn a_server_that_is_not_there_leaves_its_certificate_unknown() {
    let stage = Stage::with_files();
    let port = closed_port();
    stage.append(&format!(
        "[[source]]\nname = \"cache\"\nkind = \"redis\"\nurl = \"rediss://localhost:{port}\"\n"
    ));
    let document = stage.run(&["doctor", "cache", "--json"]).ends(20).json();
    assert_eq!(finding(&document, "source.cache.certificate")["status"], "unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn the_certificate_of_mysql_is_seen_after_a_login_and_not_without_one() {
    let server = Server::shared(Product::Mysql).await;
    let Some(SecretRef::File(password)) = &server.config.password else { unreachable!() };
    let password = std::fs::read_to_string(password).unwrap();
    for (password, is_let_in) in [(password.as_str(), true), ("wrong-horse-battery", false)] {
        let stage = Stage::with_files();
        stage.secret("mysql", password);
        stage.append(&format!(
            "[[source]]\nname = \"mysql\"\nkind = \"mysql\"\nport = {}\nuser = \"root\"\ntls = \"unverified\"\n\
             password = {{ file = \"{}\" }}\n",
            server.config.port,
            stage.at("secrets/mysql")
        ));
        let document = stage.run(&["doctor", "mysql", "--json"]).json();
        let findings = document["findings"].as_array().unwrap().iter();
        let found: Vec<_> = findings.filter(|one| one["id"] == "source.mysql.certificate").collect();
        let statuses: Vec<_> = found.iter().map(|one| one["status"].as_str().unwrap()).collect();
        let expected: &[&str] = if is_let_in { &["ok"] } else { &[] };
        assert_eq!(statuses, expected, "{document:#}");
    }
}
