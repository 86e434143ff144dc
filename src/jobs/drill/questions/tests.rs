//! Questions that are broken off, and what had been found by then.

use async_trait::async_trait;
use futures_util::FutureExt;

use super::*;
use crate::{
    drill::Answer,
    event::NoMonitor,
    lab::{Ended, Program, Running, Server},
    policy::RedisConfig,
    redis::compare::Dump,
};

/// A lab in which `false` fails at once and any other program never ends.
struct Slow;

#[async_trait]
impl Lab for Slow {
    fn describe(&self) -> String {
        "slow".to_owned()
    }
    async fn start(&self, _: &[Server]) -> Result<Vec<Running>> {
        Ok(Vec::new())
    }
    async fn check(&self) -> Result<()> {
        Ok(())
    }
    async fn run(&self, program: &Program) -> Result<Ended> {
        if program.command != ["false"] {
            std::future::pending::<()>().await;
        }
        Ok(Ended { code: Some(1), output: "a row is missing".to_owned() })
    }
    async fn remove(&self) -> Result<()> {
        Ok(())
    }
}

/// A snapshot that is not looked into.
struct Nothing;

#[async_trait]
impl Dumps for Nothing {
    async fn dump(&self, _: &SourceName, _: &RedisConfig) -> Result<Dump> {
        unreachable!("no reference into Redis is asked for")
    }
}

const TWO: &str = "
    [[reference]]
    source = \"mysql\"
    query = \"SELECT path FROM im.files\"
    in = \"minio\"
    bucket = \"im-files\"
    [[command]]
    name = \"quick\"
    command = [\"false\"]
    [[command]]
    name = \"slow\"
    command = [\"sleep\", \"infinity\"]
";

fn around() -> (SnapshotId, Ground, SharedMonitor) {
    (SnapshotId::new("20261101T030000Z-7f3a").unwrap(), Ground::system(), NoMonitor::shared())
}

/// Asks of no server, in a lab that is slow.
fn asking<'a>(
    drill: &'a DrillConfig,
    snapshot: &'a SnapshotId,
    ground: &'a Ground,
    monitor: &'a SharedMonitor,
) -> Asking<'a> {
    let (points, dumps, cast) = (BTreeMap::new(), &Nothing, &[]);
    Asking { drill, snapshot, points, dumps, cast, lab: &Slow, ground, monitor }
}

#[test]
fn what_was_found_before_a_drill_broke_off_stays_found() {
    let drill: DrillConfig = toml::from_str(TWO).unwrap();
    let (snapshot, ground, monitor) = around();
    let asking = asking(&drill, &snapshot, &ground, &monitor);
    let full = Failure::new(ExitCode::Failed, "the temporary file of a drill's comparisons failed")
        .because("database or disk is full");
    let mut answers = Vec::new();
    // Nobody waits for the program that never ends.
    assert_eq!(asking.ask(Err(&full), None, &mut answers).now_or_never(), None);
    let told: Vec<(&str, Answer)> = answers.iter().map(|one| (one.name.as_str(), one.answer)).collect();
    assert_eq!(told, [("mysql in minio/im-files", Answer::CouldNotRun), ("quick", Answer::Failed)]);
    let why = "the temporary file of a drill's comparisons failed: database or disk is full";
    assert_eq!(answers[0].detail, why);
    assert_eq!(answers[1].findings, ["a row is missing"]);
}

#[tokio::test]
async fn damage_that_a_question_meets_in_the_snapshot_fails_it() {
    let drill: DrillConfig = toml::from_str("").unwrap();
    let (snapshot, ground, monitor) = around();
    let asking = asking(&drill, &snapshot, &ground, &monitor);
    let source = "mysql".to_owned();
    for (exit, answer) in [
        (ExitCode::Damage, Answer::Failed),
        (ExitCode::Tampering, Answer::Failed),
        (ExitCode::StoreDown, Answer::CouldNotRun),
    ] {
        let failure = Failure::new(exit, "pack ab12 was changed");
        let asked = asking.settle(Err(failure), (Question::Reference, "sessions", Some(&source))).await;
        assert_eq!((asked.answer, asked.kind), (answer, Question::Reference));
        assert_eq!((asked.name.as_str(), asked.source.as_deref()), ("sessions", Some("mysql")));
        assert_eq!(asked.detail, "pack ab12 was changed");
        let met = super::super::contents::could_not(&Slow, Failure::new(exit, "pack ab12 was changed")).await;
        assert_eq!((met.answer, met.kind), (answer, Question::Contents));
    }
}
