//! What was changed in the lab between the restore and the questions is found, and named.

use std::sync::Arc;

use futures_util::FutureExt;
use lifeboat::{
    clock::Ground,
    drill::{Answer, Outcome, Question, Way},
    event::{NoMonitor, SharedMonitor},
    jobs::{
        drill::{self, Scene, Wanted},
        run::RunContext,
    },
    names::SourceName,
    policy::{SourceKind, Stack},
};
use mysql_async::prelude::Queryable;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::{buckets, own, redis_connection, stored};

fn kind<'s>(scene: &'s Scene<'_>, name: &str) -> &'s SourceKind {
    &scene.copy_of(&SourceName::new(name).unwrap()).unwrap().config.kind
}

async fn change_all(scene: &Scene<'_>, db: &str, bucket: &str) {
    let SourceKind::Mysql(mysql) = kind(scene, "mysql") else { unreachable!() };
    let password = mysql.password.as_ref().unwrap().resolve().unwrap();
    let opts = mysql_async::OptsBuilder::default()
        .ip_or_hostname(mysql.host.clone())
        .tcp_port(mysql.port)
        .user(Some(mysql.user.clone()))
        .pass(Some(password.expose_secret().to_owned()));
    let mut conn = mysql_async::Conn::new(opts).await.unwrap();
    for statement in [
        format!("DELETE FROM {db}.users WHERE id = 7"),
        format!("UPDATE {db}.users SET name = CONCAT(name, '!') WHERE id = 8"),
        format!("DROP TRIGGER {db}.stamp"),
    ] {
        conn.query_drop(statement).await.unwrap();
    }
    let SourceKind::Redis(redis) = kind(scene, "redis") else { unreachable!() };
    let password = redis.password.as_ref().unwrap().resolve().unwrap();
    let url = redis.url.replacen("redis://", &format!("redis://:{}@", password.expose_secret()), 1);
    let mut cache = redis_connection::connect(&::redis::Client::open(url).unwrap()).await.unwrap();
    let () = ::redis::cmd("DEL").arg("user:3").query_async(&mut cache).await.unwrap();
    let () = ::redis::cmd("SET").arg("user:4").arg("hers").query_async(&mut cache).await.unwrap();
    let SourceKind::S3(s3) = kind(scene, "minio") else { unreachable!() };
    let client = buckets::client_of(s3);
    client.delete_object().bucket(bucket).key("a/1.bin").send().await.unwrap();
    let body = b"object X".to_vec();
    client.put_object().bucket(bucket).key("a/2.bin").body(body.into()).send().await.unwrap();
    let folder = scene.copy_of(&SourceName::new("config").unwrap()).unwrap().folder.clone().unwrap();
    let file = walk(&folder).into_iter().find(|path| path.ends_with("app.env")).unwrap();
    std::fs::write(file, "COLOUR=blux\n").unwrap();
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(walk(&path)) } else { all.push(path) }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn every_row_key_object_and_trigger_that_was_changed_is_named() {
    let stack = own("drillmutate");
    let (town, _) = stored(&stack).await;
    let stack = Stack::load(town.stage.at("lifeboat.toml").as_ref()).unwrap();
    let (ground, stop) = (Ground::system(), CancellationToken::new());
    let monitor: SharedMonitor = Arc::new(NoMonitor);
    let context = RunContext { stack: &stack, ground: &ground, monitor: &monitor, stop: &stop, attempt: 1 };
    let (db, bucket) = (town.db.clone(), town.bucket.name.clone());
    let meddle: drill::Meddle =
        Box::new(move |scene| async move { change_all(scene, &db, &bucket).await }.boxed());
    let wanted = Wanted { meddle: Some(meddle), ..Wanted::of(Way::Restore) };
    let drilled = drill::of_stack(context, wanted).await.unwrap();
    let report = &drilled.report;
    assert_eq!(report.outcome, Outcome::Failed);
    let named: Vec<&String> = report.assertions.iter().flat_map(|one| &one.findings).collect();
    let db = &town.db;
    for part in [
        &format!("{db}.users id=7"),
        &format!("{db}.users id=8"),
        "stamp",
        "\"user:3\"",
        "\"user:4\"",
        "a/1.bin",
        "a/2.bin",
        "app.env",
    ] {
        assert!(named.iter().any(|finding| finding.contains(part)), "{part} is not in {named:#?}");
    }
    let failed = |kind: Question, name: &str| {
        report
            .assertions
            .iter()
            .any(|one| one.kind == kind && one.name == name && one.answer == Answer::Failed)
    };
    assert!(failed(Question::Reference, "each file has its object"), "{:#?}", report.assertions);
    assert!(failed(Question::Reference, "each user is in the cache"), "{:#?}", report.assertions);
    let total: u64 = report
        .assertions
        .iter()
        .filter(|one| one.kind == Question::Contents)
        .map(|one| one.findings_total)
        .sum();
    assert_eq!(total, 8, "{named:#?}");
    town.end().await;
}
