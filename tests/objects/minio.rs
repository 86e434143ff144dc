//! What `MinIO` does beyond S3: tags in its listings, and exports for its administrator.

use std::{fs, sync::LazyLock};

use bytes::Bytes;
use lifeboat::{
    clock::Ground,
    error::ExitCode,
    event::NoMonitor,
    flow::{
        EntryMeta, FlowResult, Point, PreviousEntry, Problem, Reuse, STREAM_DEPTH, Source, Stage, Tally,
        Target, WriteOptions, channel, fixed_path, settle,
    },
    names::SourceName,
    policy::{S3Admin, S3Config, S3Tags, SecretRef, Versions},
    s3::{S3Source, S3Target},
};
use serde_json::{Value, json};

use super::{
    Kept, failure,
    fake_minio::{ADMIN, BUCKET, Export, FakeMinio, Listing, USER},
};

/// Bytes of an object that may be read here.
const READ_BYTES_MAX: usize = 80 << 20;
/// A zip without files.
const EMPTY_ZIP: [u8; 22] = [b'P', b'K', 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn secret(text: &str) -> SecretRef {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    let path = FOLDER.path().join(text);
    fs::write(&path, text).unwrap();
    SecretRef::File(path)
}

fn config(server: &FakeMinio, admin: Option<(&str, &str)>) -> S3Config {
    S3Config {
        exclude: vec!["files/frozen".to_owned()],
        admin: admin.map(|(name, key)| S3Admin { access_key: secret(name), secret_key: secret(key) }),
        ..config_of(format!("http://127.0.0.1:{}", server.port), BUCKET)
    }
}

/// Returns the settings of a source of one bucket.
pub fn config_of(endpoint: String, bucket: &str) -> S3Config {
    S3Config {
        endpoint,
        region: "us-east-1".to_owned(),
        buckets: vec![bucket.to_owned()],
        exclude: vec![],
        access_key: secret(USER.0),
        secret_key: secret(USER.1),
        concurrency: 2,
        versions: Versions::Current,
        tags: S3Tags::Known,
        admin: None,
    }
}

/// Returns the name of the source.
pub fn name() -> SourceName {
    SourceName::new("minio").unwrap()
}

/// What a source sent.
pub struct Seen {
    pub entries: Vec<(EntryMeta, Option<Vec<u8>>)>,
    pub problems: Vec<Problem>,
    pub point: Point,
}

impl Seen {
    fn tags(&self, key: &str) -> Value {
        let found = self.entries.iter().find(|(meta, _)| meta.text("key") == Some(key)).unwrap();
        found.0.attrs.get("tags").cloned().unwrap_or_default()
    }
    fn export(&self, path: &str) -> Option<&[u8]> {
        let found = self.entries.iter().find(|(meta, _)| meta.path.as_str() == path);
        found.and_then(|(_, bytes)| bytes.as_deref())
    }
    fn remembered(&self) -> Kept {
        let objects = self.entries.iter().filter(|(meta, _)| meta.text("key").is_some());
        let entries = objects.map(|(meta, _)| PreviousEntry {
            meta: meta.clone(),
            trailer: lifeboat::flow::Attrs::new(),
            size_bytes: meta.attrs["size"].as_u64().unwrap(),
            reuse: Reuse(Bytes::new()),
        });
        Kept(entries.collect::<Vec<_>>().into_iter())
    }
}

/// Reads a source.
pub async fn read(config: S3Config, before: Option<Kept>) -> FlowResult<Seen> {
    let source = Box::new(S3Source::new(name(), config, Ground::system(), NoMonitor::shared()));
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let taking = async {
        let mut entries = Vec::new();
        while let Some(mut entry) = stream.next().await? {
            let is_reused = entry.body.reused().is_some();
            let bytes = if is_reused { None } else { Some(entry.body.read_all(READ_BYTES_MAX).await?) };
            entries.push((entry.meta, bytes));
        }
        let point = stream.point().unwrap().clone();
        Ok(Seen { entries, problems: stream.problems().to_vec(), point })
    };
    let before = before.map(|before| Box::new(before) as _);
    let (sent, seen) = tokio::join!(source.read(sink, before), taking);
    settle(sent, seen).map(|((), seen)| seen)
}

fn asks_objects(asked: &[String]) -> Vec<&String> {
    asked.iter().filter(|line| line.contains("/files/") && !line.contains("/files/?")).collect()
}

#[tokio::test]
async fn tags_that_change_alone_are_told_by_the_listing_and_cost_no_request() {
    let server = FakeMinio::start(Listing::Tells, Export::Unknown).await;
    server.tag("a", "colour=red");
    let first = read(config(&server, None), None).await.unwrap();
    assert_eq!((first.tags("a"), first.tags("b")), (json!({"colour": "red"}), Value::Null));
    server.tag("a", "colour=dark+blue&n=1%2B1");
    server.tag("b", "new=1");
    server.take_asked();
    let second = read(config(&server, None), Some(first.remembered())).await.unwrap();
    let asked = server.take_asked();
    assert!(asked.iter().any(|line| line.contains("metadata=true")), "{asked:#?}");
    assert!(asks_objects(&asked).is_empty(), "{asked:#?}");
    assert_eq!(second.tags("a"), json!({"colour": "dark blue", "n": "1+1"}));
    assert_eq!((second.tags("b"), second.tags("c")), (json!({"new": "1"}), Value::Null));
    // That they are gone is asked for: to whom may not read them none are told as well.
    server.tag("a", "");
    let third = read(config(&server, None), Some(second.remembered())).await.unwrap();
    let asked = server.take_asked();
    assert_eq!(asks_objects(&asked), ["GET /files/a?tagging"]);
    assert_eq!((third.tags("a"), third.tags("b")), (Value::Null, json!({"new": "1"})));
}

#[tokio::test]
async fn a_listing_that_does_not_tell_tags_is_read_all_the_same() {
    for listing in [Listing::Ignores, Listing::Refuses, Listing::Unreadable] {
        let server = FakeMinio::start(listing, Export::Unknown).await;
        server.tag("a", "colour=red");
        let first = read(config(&server, None), None).await.unwrap();
        assert_eq!((first.tags("a"), first.problems.len()), (json!({"colour": "red"}), 0), "{listing:?}");
        server.tag("a", "colour=blue");
        server.tag("b", "new=1");
        server.take_asked();
        let second = read(config(&server, None), Some(first.remembered())).await.unwrap();
        assert_eq!(asks_objects(&server.take_asked()), ["GET /files/a?tagging"], "{listing:?}");
        assert_eq!((second.tags("a"), second.tags("b")), (json!({"colour": "blue"}), Value::Null));
        let always = S3Config { tags: S3Tags::Always, ..config(&server, None) };
        let third = read(always, Some(second.remembered())).await.unwrap();
        assert_eq!(third.tags("b"), json!({"new": "1"}), "{listing:?}");
        assert_eq!(asks_objects(&server.take_asked()).len(), 3, "{listing:?}");
    }
}

#[tokio::test]
async fn an_archived_object_is_named_and_the_others_are_kept() {
    let server = FakeMinio::start(Listing::Tells, Export::Unknown).await;
    let all = S3Config { exclude: vec![], ..config(&server, None) };
    let seen = read(all, None).await.unwrap();
    assert_eq!(seen.problems[0].what, "files/frozen");
    assert!(seen.problems[0].why.starts_with("it is archived"), "{:?}", seen.problems);
    assert_eq!(seen.entries.iter().filter(|(meta, _)| meta.text("key").is_some()).count(), 3);
}

#[tokio::test]
async fn exports_are_kept_and_what_is_wrong_with_them_is_told() {
    let zip = Export::Zip(EMPTY_ZIP.to_vec());
    for (admin, export, problems, why) in [
        (Some(ADMIN), zip.clone(), 0, ""),
        (None, zip.clone(), 0, ""),
        (Some(ADMIN), Export::Unknown, 0, ""),
        (Some(USER), zip.clone(), 2, "AccessDenied"),
        (Some((ADMIN.0, "wrong")), zip, 2, "SignatureDoesNotMatch"),
        (Some(ADMIN), Export::Zip(EMPTY_ZIP[..21].to_vec()), 2, "no whole zip"),
        (Some(ADMIN), Export::Cut(EMPTY_ZIP.to_vec()), 2, "it broke off after"),
        (Some(ADMIN), Export::Endless(65), 1, "it is longer than 64 MiB"),
    ] {
        let server = FakeMinio::start(Listing::Tells, export.clone()).await;
        let seen = read(config(&server, admin), None).await.unwrap();
        assert_eq!(seen.problems.len(), problems, "{why} {:?}", seen.problems);
        assert!(seen.problems.iter().all(|problem| problem.why.contains(why)), "{:?}", seen.problems);
        let is_kept = admin == Some(ADMIN) && problems == 0 && !matches!(export, Export::Unknown);
        for path in ["%admin/iam.zip", "%admin/bucket-metadata.zip"] {
            assert_eq!(seen.export(path), is_kept.then_some(&EMPTY_ZIP[..]), "{path} {why}");
        }
    }
}

async fn put_back(config: S3Config, iam: bool) -> FlowResult<Tally> {
    let target = Box::new(S3Target::new(name(), config, NoMonitor::shared()).with_iam(iam));
    let (sink, stream) = channel(STREAM_DEPTH);
    let sending = async {
        sink.announce(vec!["%admin".to_owned()]).await?;
        let meta = EntryMeta::new(fixed_path("%admin/iam.zip"), Stage::After, "%admin");
        sink.put(meta, EMPTY_ZIP.to_vec()).await?;
        sink.complete("%admin");
        sink.finish(Point::at(Ground::system().clock.now())).await
    };
    let (sent, written) = tokio::join!(sending, target.write(WriteOptions::default(), stream));
    settle(sent, written).map(|((), tally)| tally)
}

#[tokio::test]
async fn users_and_rights_are_put_back_only_when_that_is_asked_for() {
    let server = FakeMinio::start(Listing::Tells, Export::Unknown).await;
    let imported = || server.imported.lock().unwrap().clone();
    let told = put_back(config(&server, Some(ADMIN)), false).await.unwrap();
    assert!(told.notes[0].contains("--iam"), "{:?}", told.notes);
    assert!(imported().is_empty() && server.take_asked().is_empty());
    put_back(config(&server, Some(ADMIN)), true).await.unwrap();
    assert_eq!(imported(), EMPTY_ZIP);
    // Without an administrator's keys nothing is touched.
    server.take_asked();
    let refused = failure(put_back(config(&server, None), true).await);
    assert_eq!(refused.exit(), ExitCode::Usage, "{refused}");
    assert!(server.take_asked().is_empty());
    let refused = failure(put_back(config(&server, Some(USER)), true).await);
    assert_eq!(refused.exit(), ExitCode::Partial, "{refused}");
}
