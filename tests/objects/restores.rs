//! Restores to servers that refuse a part of what they are asked: what can be done is done, and the rest is told.

use std::sync::Arc;

use lifeboat::{
    clock::Ground,
    error::{ExitCode, Failure},
    event::{NoMonitor, Recorder, SharedMonitor},
    flow::{FlowResult, Selection, Tally, WriteOptions, pipe},
    policy::S3Config,
    s3::{S3Source, S3Target},
};

use super::{
    failure,
    fake_bucket::{FakeBucket, HELD, LOST, Object, Script},
    minio::{config_of, name},
};

const BUCKET: &str = "files";
const DENIED: (u16, &str, &str) = (403, "", "<Error><Code>AccessDenied</Code></Error>");
/// Rules by which objects expire that are some days old.
const OF_DAYS: &str = "<LifecycleConfiguration><Rule><ID>new</ID><Expiration><Days>90</Days></Expiration></Rule>\
                       </LifecycleConfiguration>";
/// Rules by which everything expires at once.
const OVER: &str = "<LifecycleConfiguration><Rule><ID>old</ID><Expiration><Date>2020-01-01T00:00:00.000Z</Date>\
                    </Expiration></Rule></LifecycleConfiguration>";
const POLICY: &str = "{\"Statement\":[]}";

async fn server(scripts: Vec<Script>) -> FakeBucket {
    FakeBucket::start(BUCKET, false, scripts).await
}

fn always(line: &'static str, answer: (u16, &'static str, &'static str)) -> Script {
    Script { line, answer, times: usize::MAX }
}

fn config(server: &FakeBucket) -> S3Config {
    config_of(server.url(), BUCKET)
}

fn source(server: &FakeBucket) -> Box<S3Source> {
    Box::new(S3Source::new(name(), config(server), Ground::system(), NoMonitor::shared()))
}

async fn restore(
    from: &FakeBucket,
    to: &FakeBucket,
    options: WriteOptions,
    monitor: SharedMonitor,
) -> FlowResult<Tally> {
    pipe(source(from), Box::new(S3Target::new(name(), config(to), monitor)), options).await
}

fn replacing() -> WriteOptions {
    WriteOptions { replace: true, ..WriteOptions::default() }
}

async fn replace(from: &FakeBucket, to: &FakeBucket) -> FlowResult<Tally> {
    restore(from, to, replacing(), NoMonitor::shared()).await
}

fn says(failure: &Failure, text: &str) -> bool {
    failure.chain().iter().any(|line| line.contains(text))
}

/// A bucket with one object.
async fn filled() -> FakeBucket {
    let from = server(vec![]).await;
    from.put("a", Object::of(b"a"));
    from
}

#[tokio::test]
async fn lifecycle_rules_of_before_do_not_come_back_because_another_setting_was_refused() {
    for rules in [Some(OF_DAYS), None] {
        let from = filled().await;
        from.set("policy", POLICY);
        if let Some(rules) = rules {
            from.set("lifecycle", rules);
        }
        let malformed = (400, "", "<Error><Code>MalformedPolicy</Code></Error>");
        let to = server(vec![always("PUT /files/?policy", malformed)]).await;
        to.set("lifecycle", OVER);
        let refused = failure(replace(&from, &to).await);
        assert!(refused.exit() == ExitCode::Partial && says(&refused, "MalformedPolicy"), "{refused:?}");
        assert_eq!(to.setting("lifecycle").as_deref(), rules);
    }
}

#[tokio::test]
async fn lifecycle_rules_that_nothing_takes_the_place_of_are_put_back_and_that_they_may_take_all_is_told() {
    // Nobody said that the bucket is to equal the snapshot, which has none.
    let (from, to) = (filled().await, server(vec![]).await);
    to.set("lifecycle", OVER);
    let tally = restore(&from, &to, WriteOptions::default(), NoMonitor::shared()).await.unwrap();
    assert_eq!(to.setting("lifecycle").as_deref(), Some(OVER));
    assert_eq!(to.count("DELETE", "?lifecycle"), 1);
    assert!(tally.notes.iter().any(|note| note.contains("may expire what is restored")), "{:?}", tally.notes);
    // The snapshot does not know whether it has some.
    let from = server(vec![always("GET /files/?lifecycle", DENIED)]).await;
    from.put("a", Object::of(b"a"));
    let to = server(vec![]).await;
    to.set("lifecycle", OVER);
    to.put("a", Object::of(b"other"));
    let told = Arc::new(Recorder::default());
    restore(&from, &to, replacing(), told.clone()).await.unwrap();
    assert_eq!(to.setting("lifecycle").as_deref(), Some(OVER));
    let lines: Vec<String> = to.requests().into_iter().map(|(line, _)| line).collect();
    let at = |text: &str| lines.iter().position(|line| line.starts_with(text)).unwrap();
    assert!(at("DELETE /files/?lifecycle") < at("PUT /files/a"), "{lines:#?}");
    assert!(at("PUT /files/a") < at("PUT /files/?lifecycle"), "{lines:#?}");
    assert!(told.warnings().iter().any(|told| told.contains("their date is over")), "{:?}", told.warnings());
}

#[tokio::test]
async fn a_restore_of_a_part_leaves_lifecycle_rules_and_tells_that_they_may_take_it() {
    let (from, to) = (filled().await, server(vec![]).await);
    to.set("lifecycle", OVER);
    to.put("a", Object::of(b"other"));
    let only = Selection::new(&["files/a".to_owned()]).unwrap();
    let told = Arc::new(Recorder::default());
    restore(&from, &to, WriteOptions { only, ..replacing() }, told.clone()).await.unwrap();
    assert_eq!(to.setting("lifecycle").as_deref(), Some(OVER));
    assert_eq!(to.count("DELETE", "?lifecycle"), 0);
    assert!(told.warnings().iter().any(|told| told.contains("their date is over")), "{:?}", told.warnings());
}

#[tokio::test]
async fn lifecycle_rules_that_may_not_be_looked_at_are_told_and_end_no_restore() {
    let (from, to) = (filled().await, server(vec![always("GET /files/?lifecycle", DENIED)]).await);
    let told = Arc::new(Recorder::default());
    restore(&from, &to, replacing(), told.clone()).await.unwrap();
    assert!(told.warnings()[0].contains("may expire what is restored"), "{:?}", told.warnings());
    assert_eq!(to.objects().len(), 1);
}

#[tokio::test]
async fn what_may_not_be_removed_keeps_no_other_object_and_no_setting_away() {
    let from = filled().await;
    from.set("policy", POLICY);
    from.set("lifecycle", OF_DAYS);
    for (scripts, kept) in [(vec![], 1), (vec![always("POST /files/?delete", DENIED)], 200)] {
        let to = server(scripts).await;
        to.set("lifecycle", OVER);
        to.put("held", Object::of(b"x").with(HELD, "ON"));
        (1..200).for_each(|n| to.put(&format!("x{n:03}"), Object::of(b"x")));
        let refused = failure(replace(&from, &to).await);
        assert_eq!(refused.exit(), ExitCode::Partial);
        assert!(says(&refused, &format!("{kept} objects cannot be removed")), "{refused:?}");
        assert!(says(&refused, "`files/held`: ") && says(&refused, "AccessDenied"), "{refused:?}");
        assert_eq!(to.objects().len(), kept + 1);
        assert_eq!(to.setting("policy").as_deref(), Some(POLICY));
        assert_eq!(to.setting("lifecycle").as_deref(), Some(OF_DAYS));
    }
}

#[tokio::test]
async fn a_restore_that_may_remove_nothing_does_not_try_it_with_each_of_a_million_objects() {
    let from = filled().await;
    let to = server(vec![always("POST /files/?delete", DENIED)]).await;
    (0..1500).for_each(|n| to.put(&format!("x{n:04}"), Object::of(b"x")));
    let refused = failure(replace(&from, &to).await);
    assert!(says(&refused, "and no more were tried"), "{refused:?}");
    assert!(to.count("HEAD", "/files/x") < 1100, "{}", to.count("HEAD", "/files/x"));
}

#[tokio::test]
async fn an_object_is_removed_right_after_it_was_looked_at() {
    let (from, to) = (filled().await, server(vec![]).await);
    (0..300).for_each(|n| to.put(&format!("x{n:03}"), Object::of(b"x")));
    replace(&from, &to).await.unwrap();
    assert_eq!(to.objects().len(), 1);
    let (mut looked, mut most) = (0, 0);
    for (line, _) in to.requests() {
        if line.starts_with("HEAD /files/x") {
            looked += 1;
        } else if line.starts_with("POST /files/?delete") {
            looked = 0;
        }
        most = most.max(looked);
    }
    assert!((1..=64).contains(&most), "{most} were looked at before one was removed");
}

#[tokio::test]
async fn keys_that_xml_cannot_hold_are_removed_and_keep_no_other_key() {
    let (from, to) = (filled().await, server(vec![]).await);
    for key in ["x\u{fffe}", "x\u{ffff}", "x\u{1}", "x\u{fffd}", "x<&>", "x"] {
        to.put(key, Object::of(b"x"));
    }
    replace(&from, &to).await.unwrap();
    assert_eq!(to.objects().into_keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(to.count("POST", "?delete"), 1);
}

#[tokio::test]
async fn what_the_policy_leaves_out_of_a_bucket_is_spared_also_where_that_has_another_name() {
    let from = filled().await;
    let to = FakeBucket::start("other", false, vec![]).await;
    for key in ["tmp/source's", "own/target's", "x"] {
        to.put(key, Object::of(b"x"));
    }
    let exclude = vec!["files/tmp".to_owned(), "other/own".to_owned()];
    let config = S3Config { exclude, ..config_of(to.url(), BUCKET) };
    let target = S3Target::new(name(), config, NoMonitor::shared()).into_bucket(Some("other".to_owned()));
    pipe(source(&from), Box::new(target), replacing()).await.unwrap();
    let left = to.objects();
    assert_eq!(left.keys().collect::<Vec<_>>(), ["a", "own/target's", "tmp/source's"]);
}

#[tokio::test]
async fn an_answer_that_was_lost_makes_nobody_else_of_us_also_where_the_server_encrypts() {
    let from = filled().await;
    for encryption in
        [None, Some("<ServerSideEncryptionConfiguration><Rule/></ServerSideEncryptionConfiguration>")]
    {
        let to = server(vec![Script { line: "PUT /files/a", answer: LOST, times: 1 }]).await;
        if let Some(rule) = encryption {
            to.set("encryption", rule);
        }
        restore(&from, &to, WriteOptions::default(), NoMonitor::shared()).await.unwrap();
        assert_eq!(to.count("PUT", "/files/a"), 2);
        let lost = to.objects()["a"].etag.clone();
        assert_eq!(lost == Object::of(b"a").etag, encryption.is_none());
    }
}
