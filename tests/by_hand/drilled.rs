//! The recovery by hand, drilled by lifeboat: what holds, what fails and names it, and what could not be run.

use std::{os::unix::fs::symlink, time::Duration};

use async_trait::async_trait;
use lifeboat::{
    drill::{Answer, Assertion, Question},
    error::{ExitCode, Result},
    flow::Problem,
    jobs::drill::by_hand::{Recovery, recover},
    lab::{Ended, Lab, Limits, Marks, ProcessLab, Program, Running, Server},
    repo::Snapshot,
};

use super::*;

const ALL: [&str; 5] = [
    "recover.sh brings the snapshot back",
    "everything was brought back",
    "`minio` recovered by hand is what was stored",
    "`redis` recovered by hand is what was stored",
    "nothing else was brought back",
];

async fn lab(wreck: &Wreck) -> ProcessLab {
    let limits = Limits {
        memory_bytes: 0,
        cpu_percent: None,
        data_in_memory: false,
        start: Duration::ZERO,
        lifetime: Duration::from_hours(1),
    };
    let marks = Marks { stack: "s".into(), host: "h".into(), task: "by-hand".into(), drill: "d".into() };
    ProcessLab::open(&wreck.dir.path().join("labs"), marks, limits).await.unwrap()
}

impl Wreck {
    async fn drill(
        &self,
        lab: &dyn Lab,
        is_near: bool,
        change: impl FnOnce(&mut Snapshot),
    ) -> Vec<Assertion> {
        self.drill_with(lab, is_near, &self.identity(), change).await.unwrap()
    }

    async fn drill_with(
        &self,
        lab: &dyn Lab,
        is_near: bool,
        identity: &Path,
        change: impl FnOnce(&mut Snapshot),
    ) -> Result<Vec<Assertion>> {
        let repository = self.ship.reader(&FsStore::new(self.repository())).await.unwrap();
        let mut snapshot = repository.snapshot(&self.id).await.unwrap();
        change(&mut snapshot);
        let (scratch, folder) = (self.dir.path().join("state/by-hand"), self.repository());
        // What one that was killed left there.
        fs::create_dir_all(scratch.join("recovered/minio")).unwrap();
        fs::write(scratch.join("recovered/minio/old"), "plain data").unwrap();
        let what = Recovery {
            repository: &repository,
            snapshot: &snapshot,
            lost: &[],
            folder: is_near.then_some(folder.as_path()),
            identity,
            signers: std::slice::from_ref(&self.ship.made.signer),
            image: None,
            scratch: &scratch,
            timeout: Duration::from_mins(4),
        };
        let mut answers = Vec::new();
        let recovered = recover(lab, &what, &mut answers).await;
        assert!(!scratch.exists(), "plain data stays");
        recovered.map(|()| answers)
    }

    /// Returns the only answer of a drill that came to no comparison.
    async fn only_answer(&self, lab: &dyn Lab) -> Assertion {
        let mut answers = self.drill(lab, true, |_| ()).await;
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }
}

fn names(answers: &[Assertion]) -> Vec<&str> {
    answers.iter().map(|one| one.name.as_str()).collect()
}

#[tokio::test]
async fn a_good_repository_passes_where_it_lies_and_fetched() {
    let wreck = wreck().await;
    let lab = lab(&wreck).await;
    for is_near in [true, false] {
        let answers = wreck.drill(&lab, is_near, |_| ()).await;
        assert_eq!(names(&answers), ALL);
        assert!(answers.iter().all(|one| one.answer == Answer::Held), "{answers:?}");
        assert_eq!(answers[0].kind, Question::Restored);
        let entries = entries().len();
        assert_eq!(answers[1].detail, format!("2 sources, {} entries", entries + 1));
        assert!(answers[2].detail.starts_with(&format!("{entries} entries, ")), "{}", answers[2].detail);
        assert_eq!((answers[3].source.as_deref(), answers[3].kind), (Some("redis"), Question::Contents));
    }
    lab.remove().await.unwrap();
}

#[tokio::test]
async fn a_pack_of_which_one_byte_changed_fails_by_its_name_and_so_does_one_that_is_gone() {
    let wreck = wreck().await;
    let lab = lab(&wreck).await;
    let refs: serde_json::Value =
        serde_json::from_slice(&wreck.bytes(layout::refs(&wreck.id, 0).as_str())).unwrap();
    let pack = refs["packs"].as_object().unwrap().keys().next().unwrap();
    let key = layout::pack(pack.parse().unwrap());
    let mut bytes = wreck.bytes(key.as_str());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    wreck.overwrite(key.as_str(), &bytes);
    let answer = wreck.only_answer(&lab).await;
    assert_eq!(answer.answer, Answer::Failed);
    assert_eq!(answer.detail, format!("exit code 1: recover.sh: pack {pack} was changed"));
    assert_eq!(answer.findings.last().unwrap(), &format!("recover.sh: pack {pack} was changed"));
    fs::remove_file(wreck.repository().join(key.as_str())).unwrap();
    for is_near in [true, false] {
        let answers = wreck.drill(&lab, is_near, |_| ()).await;
        assert_eq!(answers[0].detail, format!("exit code 1: recover.sh: pack {pack} is missing"));
    }
}

#[tokio::test]
async fn a_snapshot_that_lacks_something_has_not_been_brought_back() {
    let wreck = wreck().await;
    let lab = lab(&wreck).await;
    let problem = |what: &str, why: &str| Problem { what: what.into(), why: why.into() };
    let answers = wreck
        .drill(&lab, true, |snapshot| {
            snapshot.manifest.failed.push(problem("mysql", "it did not answer"));
            snapshot.manifest.sources[0].problems.push(problem("big/er", "access is denied"));
        })
        .await;
    assert_eq!((names(&answers), answers[1].answer), (ALL.to_vec(), Answer::Failed));
    assert_eq!(answers[1].findings, ["mysql: it did not answer", "minio: big/er: access is denied"]);
    assert_eq!(answers[1].findings_total, 2);
    // The others hold: what is there was brought back.
    assert_eq!(answers.iter().filter(|one| one.answer == Answer::Held).count(), 4);
}

/// A lab in which something happens to what the script has brought back.
struct Mishap<'a>(&'a dyn Lab, fn(&Path));

#[async_trait]
impl Lab for Mishap<'_> {
    fn describe(&self) -> String {
        self.0.describe()
    }

    async fn start(&self, servers: &[Server]) -> Result<Vec<Running>> {
        self.0.start(servers).await
    }

    async fn check(&self) -> Result<()> {
        self.0.check().await
    }

    async fn run(&self, program: &Program) -> Result<Ended> {
        let ended = self.0.run(program).await?;
        self.1(&program.writable[0].0);
        Ok(ended)
    }

    async fn remove(&self) -> Result<()> {
        self.0.remove().await
    }
}

#[tokio::test]
async fn a_file_that_is_missing_other_or_too_much_is_named() {
    let wreck = wreck().await;
    let lab = lab(&wreck).await;
    let mishap = Mishap(&lab, |result| {
        let mut big = fs::read(result.join("minio/big")).unwrap();
        big[4 << 20] ^= 1;
        fs::write(result.join("minio/big"), big).unwrap();
        fs::write(result.join("minio/one"), "xy").unwrap();
        // `a` has others below it.
        fs::remove_file(result.join("minio/a%")).unwrap();
        fs::remove_file(result.join("minio/empty")).unwrap();
        symlink("one", result.join("minio/empty")).unwrap();
        fs::create_dir(result.join("minio/new")).unwrap();
        fs::write(result.join("minio/new/x"), "").unwrap();
    });
    let answers = wreck.drill(&mishap, true, |_| ()).await;
    assert_eq!(names(&answers), ALL);
    let found: Vec<Answer> = answers.iter().map(|one| one.answer).collect();
    assert_eq!(found, [Answer::Held, Answer::Held, Answer::Failed, Answer::Held, Answer::Failed]);
    let mut findings = answers[2].findings.clone();
    findings.sort();
    assert_eq!(
        findings,
        [
            "`a` is missing",
            "`big` has other bytes than were stored",
            "`empty` is not a file",
            "`one` has 2 bytes instead of 1",
        ]
    );
    assert_eq!(answers[2].findings_total, 4);
    let mut more = answers[4].findings.clone();
    more.sort();
    assert_eq!(more, ["`minio/empty` was not stored", "`minio/new/x` was not stored"]);
}

#[tokio::test]
async fn what_was_found_stays_found_when_the_recovery_breaks_off_and_its_folder_stays() {
    let wreck = wreck().await;
    let lab = lab(&wreck).await;
    // Where the folder was is a file now: nothing can be read there, and it is no folder to remove.
    let mishap = Mishap(&lab, |result| {
        let scratch = result.parent().unwrap();
        fs::remove_dir_all(scratch).unwrap();
        fs::write(scratch, "").unwrap();
    });
    let repository = wreck.ship.reader(&FsStore::new(wreck.repository())).await.unwrap();
    let snapshot = repository.snapshot(&wreck.id).await.unwrap();
    let (scratch, folder) = (wreck.dir.path().join("state/by-hand"), wreck.repository());
    let what = Recovery {
        repository: &repository,
        snapshot: &snapshot,
        lost: &[],
        folder: Some(folder.as_path()),
        identity: &wreck.identity(),
        signers: std::slice::from_ref(&wreck.ship.made.signer),
        image: None,
        scratch: &scratch,
        timeout: Duration::from_mins(4),
    };
    let mut answers = Vec::new();
    let failure = recover(&mishap, &what, &mut answers).await.unwrap_err();
    assert_eq!(failure.exit(), lifeboat::error::ExitCode::DrillNotRun);
    assert_eq!(names(&answers), ALL[..4]);
    let found: Vec<Answer> = answers.iter().map(|one| one.answer).collect();
    assert_eq!(found, [Answer::Held, Answer::Held, Answer::Failed, Answer::Failed]);
}

#[tokio::test]
async fn without_its_tools_a_recovery_could_not_run() {
    let wreck = wreck().await;
    let tools = wreck.dir.path().join("tools");
    fs::create_dir(&tools).unwrap();
    let bare = lab(&wreck).await.looking_in(vec![tools.clone()]);
    let answer = wreck.only_answer(&bare).await;
    assert_eq!(
        (answer.answer, answer.detail.as_str()),
        (Answer::CouldNotRun, "`bash` is not installed on this host")
    );
    for tool in ["bash", "dirname"] {
        symlink(Path::new("/usr/bin").join(tool), tools.join(tool)).unwrap();
    }
    let answer = wreck.only_answer(&bare).await;
    assert_eq!(
        (answer.answer, answer.detail.as_str()),
        (Answer::CouldNotRun, "recover.sh: age is not installed")
    );
}

#[tokio::test]
async fn a_script_that_lifeboat_did_not_put_there_is_not_run() {
    let wreck = wreck().await;
    let lab = lab(&wreck).await;
    let ran = wreck.dir.path().join("ran");
    wreck.overwrite("recover.sh", format!("touch '{}'\n", ran.display()).as_bytes());
    let answer = wreck.only_answer(&lab).await;
    assert_eq!(answer.answer, Answer::CouldNotRun);
    assert!(answer.detail.contains("not one that this lifeboat knows"), "{}", answer.detail);
    assert!(!ran.exists());
    fs::remove_file(wreck.repository().join("recover.sh")).unwrap();
    assert_eq!(wreck.only_answer(&lab).await.answer, Answer::Failed);
}

/// A lab before which somebody changes the script of the repository.
struct Intruder<'a> {
    lab: &'a dyn Lab,
    script: PathBuf,
    ran: PathBuf,
}

#[async_trait]
impl Lab for Intruder<'_> {
    fn describe(&self) -> String {
        self.lab.describe()
    }

    async fn start(&self, servers: &[Server]) -> Result<Vec<Running>> {
        self.lab.start(servers).await
    }

    async fn check(&self) -> Result<()> {
        self.lab.check().await
    }

    async fn run(&self, program: &Program) -> Result<Ended> {
        fs::remove_file(&self.script).unwrap();
        fs::write(&self.script, format!("touch '{}'\n", self.ran.display())).unwrap();
        self.lab.run(program).await
    }

    async fn remove(&self) -> Result<()> {
        self.lab.remove().await
    }
}

#[tokio::test]
async fn a_script_that_is_changed_after_it_was_looked_at_does_not_run() {
    let wreck = wreck().await;
    let lab = lab(&wreck).await;
    let (script, ran) = (wreck.repository().join("recover.sh"), wreck.dir.path().join("ran"));
    let intruder = Intruder { lab: &lab, script, ran: ran.clone() };
    let answers = wreck.drill(&intruder, true, |_| ()).await;
    assert!(!ran.exists());
    assert!(answers.iter().all(|one| one.answer == Answer::Held), "{answers:?}");
}

#[tokio::test]
async fn an_identity_is_found_from_where_a_person_stands_and_one_under_a_passphrase_is_refused() {
    let wreck = wreck().await;
    let lab = lab(&wreck).await;
    let whole = wreck.identity();
    // As it is named from the folder that the test runs in.
    let up: PathBuf = std::env::current_dir().unwrap().iter().skip(1).map(|_| "..").collect();
    let relative = up.join(whole.strip_prefix("/").unwrap());
    let answers = wreck.drill_with(&lab, true, &relative, |_| ()).await.unwrap();
    assert!(answers.iter().all(|one| one.answer == Answer::Held), "{answers:?}");

    let protected = wreck.dir.path().join("protected.txt");
    let text = crypt::protect(&fs::read_to_string(whole).unwrap(), &"correct horse".into()).unwrap();
    fs::write(&protected, text).unwrap();
    let failure = wreck.drill_with(&lab, true, &protected, |_| ()).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::DrillNotRun);
    assert!(failure.to_string().contains("is under a passphrase"), "{failure}");
    assert!(failure.hints()[0].contains("identity in [drill]"), "{:?}", failure.hints());
}
