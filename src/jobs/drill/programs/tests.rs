//! Programs in a lab that only says what it is told.

use std::{collections::BTreeMap, net::SocketAddr, sync::Mutex};

use async_trait::async_trait;

use super::*;
use crate::{
    clock::Ground,
    drill::Answer,
    event::{NoMonitor, SharedMonitor},
    jobs::drill::{Dumps, ObjectBook},
    lab::{Lab, Running, Server},
    names::{SnapshotId, SourceName},
    policy::{DrillConfig, RedisConfig, SourceConfig},
    redis::compare::Dump,
};

/// A lab without servers.
struct Stage {
    ended: Mutex<Option<Result<Ended>>>,
    seen: Mutex<Option<Program>>,
    gone: Option<&'static str>,
}

impl Stage {
    fn says(ended: Result<Ended>) -> Self {
        Self { ended: Mutex::new(Some(ended)), seen: Mutex::default(), gone: None }
    }
}

#[async_trait]
impl Lab for Stage {
    fn describe(&self) -> String {
        "stage".to_owned()
    }
    async fn start(&self, _: &[Server]) -> Result<Vec<Running>> {
        Ok(Vec::new())
    }
    async fn check(&self) -> Result<()> {
        match self.gone {
            Some(why) => Err(Failure::new(ExitCode::DrillNotRun, why)),
            None => Ok(()),
        }
    }
    async fn run(&self, program: &Program) -> Result<Ended> {
        *self.seen.lock().unwrap() = Some(program.clone());
        self.ended.lock().unwrap().take().expect("one program runs")
    }
    async fn remove(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Dumps for Stage {
    async fn dump(&self, _: &SourceName, _: &RedisConfig) -> Result<Dump> {
        unreachable!("no reference is asked for")
    }
}

fn copy(name: &str, kind: SourceKind, inside: Option<&str>) -> Cast {
    let name = SourceName::new(name).unwrap();
    let running = inside.map(|inside| Running {
        name: name.to_string(),
        address: SocketAddr::from(([127, 0, 0, 1], 40_000)),
        inside: inside.to_owned(),
        image: "image".to_owned(),
    });
    Cast { config: SourceConfig { name, kind }, running, folder: None }
}

fn cast(secret: &std::path::Path) -> Vec<Cast> {
    let file = format!("{{ file = \"{}\" }}", secret.display());
    let mysql = toml::from_str(&format!("user = \"root\"\npassword = {file}")).unwrap();
    let redis = toml::from_str(&format!("url = \"redis://127.0.0.1:1\"\npassword = {file}")).unwrap();
    let s3 = toml::from_str(&format!(
        "endpoint = \"http://127.0.0.1:1\"\naccess_key = {file}\nsecret_key = {file}"
    ));
    let files = toml::from_str("paths = [\"/lab/opt/im\", \"/lab/etc/im\"]").unwrap();
    vec![
        copy("config", SourceKind::Files(files), None),
        copy("im-mysql", SourceKind::Mysql(mysql), Some("im-mysql:3306")),
        copy("redis", SourceKind::Redis(redis), Some("[::1]:6379")),
        copy("minio", SourceKind::S3(s3.unwrap()), Some("minio:9000")),
    ]
}

/// Asks with this lab; returns the assertions.
async fn asked(stage: &Stage, cast: &[Cast], drill: &str) -> Vec<Assertion> {
    let drill: DrillConfig = toml::from_str(drill).unwrap();
    let monitor: SharedMonitor = NoMonitor::shared();
    let snapshot = SnapshotId::new("20261101T030000Z-7f3a").unwrap();
    let asking = Asking {
        drill: &drill,
        snapshot: &snapshot,
        points: BTreeMap::new(),
        dumps: stage,
        cast,
        lab: stage,
        ground: &Ground::system(),
        monitor: &monitor,
    };
    let (book, mut answers) = (ObjectBook::new(), Vec::new());
    asking.ask(book.as_ref(), None, &mut answers).await;
    answers
}

const SMOKE: &str = "[[command]]\nname = \"smoke\"\ncommand = [\"/smoke\", \"-v\"]\ntimeout_minutes = 2";

fn ended(code: Option<i64>, output: &str) -> Ended {
    Ended { code, output: output.to_owned() }
}

#[tokio::test]
async fn a_program_learns_where_everything_is() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "throwaway\n").unwrap();
    let stage = Stage::says(Ok(ended(Some(0), "fine\n")));
    let assertions = asked(&stage, &cast(&secret), SMOKE).await;
    assert_eq!((assertions[0].answer, assertions[0].value), (Answer::Held, Some(0)));
    let program = stage.seen.lock().unwrap().take().unwrap();
    let environment: Vec<String> =
        program.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        environment,
        [
            "LIFEBOAT_CONFIG_PATHS=/lab/opt/im:/lab/etc/im",
            "LIFEBOAT_IM_MYSQL_HOST=im-mysql",
            "LIFEBOAT_IM_MYSQL_PASSWORD=throwaway",
            "LIFEBOAT_IM_MYSQL_PORT=3306",
            "LIFEBOAT_IM_MYSQL_USER=root",
            "LIFEBOAT_MINIO_HOST=minio",
            "LIFEBOAT_MINIO_PASSWORD=throwaway",
            "LIFEBOAT_MINIO_PORT=9000",
            "LIFEBOAT_MINIO_USER=throwaway",
            "LIFEBOAT_REDIS_HOST=::1",
            "LIFEBOAT_REDIS_PASSWORD=throwaway",
            "LIFEBOAT_REDIS_PORT=6379",
            "LIFEBOAT_REDIS_USER=default",
            "LIFEBOAT_SNAPSHOT=20261101T030000Z-7f3a",
        ]
    );
    assert_eq!((program.beside.as_deref(), program.image), (Some("im-mysql"), None));
    assert_eq!(program.read_only[0], ("/lab/opt/im".into(), "/lab/opt/im".into()));
    assert_eq!(
        (program.command, program.timeout),
        (vec!["/smoke".to_owned(), "-v".to_owned()], Duration::from_mins(2))
    );
}

#[tokio::test]
async fn a_program_that_fails_is_quoted() {
    let lines: Vec<String> = (1..=30).map(|n| format!("line {n}\r\n\n")).collect();
    let assertions = asked(&Stage::says(Ok(ended(Some(3), &lines.concat()))), &[], SMOKE).await;
    let failed = &assertions[0];
    assert_eq!((failed.answer, failed.detail.as_str()), (Answer::Failed, "it ended with exit code 3"));
    assert_eq!((failed.findings.len(), failed.findings_total), (FINDINGS_MAX, 30));
    assert_eq!((failed.findings[0].as_str(), failed.findings[19].as_str()), ("line 11", "line 30"));
}

#[tokio::test]
async fn a_program_that_could_not_be_executed_or_was_killed_has_not_run() {
    for (code, detail) in [
        (126, "it could not be executed (exit code 126)"),
        (127, "it, or a program that it needs, was not found (exit code 127)"),
        (137, "it was ended by signal 9 (SIGKILL), as one is that takes too much memory (exit code 137)"),
        (139, "it was ended by signal 11 (exit code 139)"),
        (143, "it was ended by signal 15 (exit code 143)"),
        (-1, "it ended without an exit code"),
    ] {
        let assertions = asked(&Stage::says(Ok(ended(Some(code), "sh: 1: smoke\n"))), &[], SMOKE).await;
        let one = &assertions[0];
        assert_eq!((one.answer, one.detail.as_str()), (Answer::CouldNotRun, detail));
        assert_eq!(
            (one.value, one.findings.as_slice()),
            (Some(code), ["sh: 1: smoke".to_owned()].as_slice())
        );
    }
    // What a program ends with by its own will, it has said.
    for code in [1, 2, 125, 128, 193, 255] {
        let assertions = asked(&Stage::says(Ok(ended(Some(code), ""))), &[], SMOKE).await;
        assert_eq!(assertions[0].answer, Answer::Failed, "{code}");
    }
}

#[tokio::test]
async fn a_program_that_takes_too_long_has_failed() {
    let assertions = asked(&Stage::says(Ok(ended(None, "waiting\n"))), &[], SMOKE).await;
    assert_eq!(assertions[0].answer, Answer::Failed);
    assert_eq!(assertions[0].detail, "did not end within 2 minutes");
    assert_eq!(assertions[0].findings, ["waiting"]);
}

#[tokio::test]
async fn a_program_that_cannot_start_has_not_run() {
    let failure =
        || Failure::new(ExitCode::DrillNotRun, "image `smoke:1` is not there").because("pull refused");
    let assertions = asked(&Stage::says(Err(failure())), &[], SMOKE).await;
    assert_eq!(assertions[0].answer, Answer::CouldNotRun);
    assert_eq!(assertions[0].detail, "image `smoke:1` is not there: pull refused");
    let stage = Stage { gone: Some("server `mysql` was out of memory"), ..Stage::says(Err(failure())) };
    let assertions = asked(&stage, &[], SMOKE).await;
    assert!(
        assertions[0].detail.starts_with("server `mysql` was out of memory; so image"),
        "{:?}",
        assertions[0]
    );
}

#[tokio::test]
async fn two_sources_do_not_share_a_variable() {
    let files = |name| copy(name, SourceKind::Files(toml::from_str("paths = [\"/a\"]").unwrap()), None);
    let assertions = asked(&Stage::says(Ok(ended(Some(0), ""))), &[files("a-b"), files("a_b")], SMOKE).await;
    assert_eq!(assertions[0].answer, Answer::CouldNotRun);
    assert!(assertions[0].detail.contains("LIFEBOAT_A_B_PATHS"), "{}", assertions[0].detail);
}

#[tokio::test]
async fn a_question_about_a_source_that_is_not_there_has_not_run() {
    let drill = "
[[reference]]
source = \"mysql\"
query = \"SELECT 1\"
in = \"minio\"
bucket = \"b\"
[[expect]]
name = \"users\"
source = \"mysql\"
query = \"SELECT 1\"
at_least = 1
[[freshness]]
name = \"messages\"
source = \"mysql\"
query = \"SELECT 1\"
within_minutes = 1
";
    let assertions = asked(&Stage::says(Ok(ended(Some(0), ""))), &[], drill).await;
    let kinds: Vec<Question> = assertions.iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [Question::Reference, Question::Expectation, Question::Freshness]);
    for assertion in assertions {
        assert_eq!(assertion.answer, Answer::CouldNotRun);
        assert_eq!(assertion.detail, "source `mysql` was not restored into the lab");
        assert_eq!(assertion.source.as_deref(), Some("mysql"));
    }
}
