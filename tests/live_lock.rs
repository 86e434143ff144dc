//! Object Lock on a real server: what is kept is locked, what a thief would do is refused or told, prune goes on.
//!
//! Run by `fixtures/test`. Locks that nobody can take back end within a day.

#![allow(clippy::unwrap_used)] // A test that cannot go on says so by panicking, in its helpers too.

#[path = "live_s3/stage.rs"]
#[allow(dead_code, reason = "made for the tests of the S3 engine")]
mod buckets;
#[path = "repository/fixture.rs"]
#[allow(dead_code, reason = "made for the tests of the repository")]
mod fixture;
#[path = "cli/stage.rs"]
mod stage;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
};

use aws_sdk_s3::{
    Client,
    types::{
        DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockRetention,
        ObjectLockRetentionMode, ObjectLockRule,
    },
};
use buckets::{Bucket, endpoint};
use fixture::{AT_ONCE, Cargo, Ship, noise, parcel};
use lifeboat::{
    repo::{self, format::layout},
    store::{Get, RemoteStore},
};
use serde_json::Value;
use stage::Stage;

const DAY: i64 = 24 * 3600;

/// A bucket that has Object Lock, or one like it that has none; emptied with all that the owner may do.
struct Vault(Bucket);

impl Vault {
    async fn new(has_lock: bool) -> Self {
        let bucket = Bucket::absent("lock");
        let create = bucket.client.create_bucket().bucket(&bucket.name);
        create.object_lock_enabled_for_bucket(has_lock).send().await.unwrap();
        Self(bucket)
    }

    /// Locks for a day whatever is put from now on.
    async fn lock_by_default(&self) {
        let day = DefaultRetention::builder().mode(ObjectLockRetentionMode::Compliance).days(1).build();
        let rule = ObjectLockRule::builder().default_retention(day).build();
        let config = ObjectLockConfiguration::builder()
            .object_lock_enabled(ObjectLockEnabled::Enabled)
            .rule(rule)
            .build();
        let put = self.0.client.put_object_lock_configuration().bucket(&self.0.name);
        put.object_lock_configuration(config).send().await.unwrap();
    }

    /// Lets nobody do this, not even the owner.
    async fn deny(&self, action: &str, below: &str) {
        let name = &self.0.name;
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny","Principal":"*","Action":["{action}"],
            "Resource":"arn:aws:s3:::{name}/{below}*"}}]}}"#
        );
        self.0.client.put_bucket_policy().bucket(name).policy(policy).send().await.unwrap();
    }

    async fn allow(&self) {
        self.0.client.delete_bucket_policy().bucket(&self.0.name).send().await.unwrap();
    }

    async fn retention(&self, key: &str) -> Option<ObjectLockRetention> {
        let ask = self.0.client.get_object_retention().bucket(&self.0.name).key(key).send().await;
        ask.ok().and_then(|answer| answer.retention().cloned())
    }

    /// Returns the versions and the delete markers below a prefix.
    async fn versions(&self, prefix: &str) -> (Vec<(String, String)>, Vec<(String, String)>) {
        versions(&self.0.client, &self.0.name, prefix).await
    }

    fn options(&self, root: &str) -> BTreeMap<String, String> {
        let pairs = [
            ("bucket", self.0.name.clone()),
            ("endpoint", endpoint()),
            ("region", "us-east-1".to_owned()),
            ("root", root.to_owned()),
            ("access_key_id", env::var("S3_ACCESS_KEY").unwrap()),
            ("secret_access_key", env::var("S3_SECRET_KEY").unwrap()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

async fn versions(
    client: &Client,
    bucket: &str,
    prefix: &str,
) -> (Vec<(String, String)>, Vec<(String, String)>) {
    let Ok(page) = client.list_object_versions().bucket(bucket).prefix(prefix).send().await else {
        return Default::default();
    };
    let pair = |key: Option<&str>, version: Option<&str>| {
        (key.unwrap_or_default().to_owned(), version.unwrap_or_default().to_owned())
    };
    let versions = page.versions().iter().map(|one| pair(one.key(), one.version_id()));
    let markers = page.delete_markers().iter().map(|one| pair(one.key(), one.version_id()));
    (versions.collect(), markers.collect())
}

impl Drop for Vault {
    /// Removes what governance locks; the rest goes when its day is over. The bucket's own end does what comes after.
    fn drop(&mut self) {
        let name = self.0.name.clone();
        let sweep = async move {
            let client = Bucket::absent("sweeper").client.clone();
            client.delete_bucket_policy().bucket(&name).send().await.ok();
            let (objects, markers) = versions(&client, &name, "").await;
            for (key, version) in objects.into_iter().chain(markers) {
                let delete = client.delete_object().bucket(&name).key(key).version_id(version);
                delete.bypass_governance_retention(true).send().await.ok();
            }
        };
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(sweep);
        });
        thread.join().ok();
    }
}

/// Makes a stack with a snapshot, and an offsite `far` in this bucket.
fn with_offsite(vault: &Vault, lock: &str) -> Stage {
    let (stage, _) = Stage::with_snapshot();
    stage.write("secret", &env::var("S3_SECRET_KEY").unwrap());
    stage.append(&format!(
        "[[offsite]]\nname = \"far\"\nstore = \"s3\"\n{lock}\noptions = {{ bucket = \"{}\", endpoint = \"{}\", \
         region = \"us-east-1\", root = \"/a/b/\", access_key_id = \"{}\", secret_access_key = {{ file = \"{}\" }} }}\n",
        vault.0.name,
        endpoint(),
        env::var("S3_ACCESS_KEY").unwrap(),
        stage.at("secret"),
    ));
    stage
}

/// Returns what `lifeboat lock` says of the offsite.
#[track_caller]
fn lock(stage: &Stage, words: &[&str], exit: i32) -> Value {
    let all = [&["lock", "far", "--json"], words].concat();
    stage.run(&all).ends(exit).json()["offsites"][0].clone()
}

/// Returns the statuses of a test by their ids.
fn statuses(tested: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = tested["findings"].as_array().unwrap().iter();
    findings.map(|one| (text(&one["id"]), text(&one["status"]))).collect()
}

fn now() -> i64 {
    lifeboat::clock::Ground::system().clock.now().timestamp()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_is_kept_is_locked_for_whoever_asks_and_the_tamper_test_proves_it() {
    let vault = Vault::new(true).await;
    let stage = with_offsite(&vault, "lock_days = 1");
    let began = now();
    stage.run(&["sync"]).ends(0).hides("warning");
    let (objects, _) = vault.versions("a/b/").await;
    let is_needed = |key: &str| !key.contains("/sessions/") && !key.contains("/tombstones/");
    let needed: Vec<&str> =
        objects.iter().map(|(key, _)| key.as_str()).filter(|key| is_needed(key)).collect();
    assert!(needed.iter().any(|key| key.contains("/packs/")) && needed.len() >= 8, "{needed:?}");
    for key in &needed {
        let retention = vault.retention(key).await.unwrap_or_else(|| panic!("{key} is not locked"));
        assert_eq!(retention.mode(), Some(&ObjectLockRetentionMode::Compliance));
        let until = retention.retain_until_date().unwrap().secs();
        assert!((began + DAY - 1..=now() + DAY).contains(&until), "{key}: {until}");
    }
    let counts = lock(&stage, &[], 0)["counts"].clone();
    assert_eq!((&counts["objects"], &counts["locked"]), (&needed.len().into(), &needed.len().into()));
    assert_eq!((&counts["packs_unlocked"], &counts["immutable"]), (&0.into(), &1.into()));
    let again = lock(&stage, &["--extend"], 0)["extended"].clone();
    assert_eq!((&again["locked"], &again["extended"]), (&0.into(), &0.into()), "nothing is due");
    assert_eq!(again["left"], Value::from(needed.len()));

    // The owner of the bucket may bypass governance, and compliance holds all the same.
    let tested = lock(&stage, &["--test"], 0);
    assert_eq!(tested["verdict"], "proven", "{tested}");
    assert!(statuses(&tested).values().all(|status| status == "ok") && statuses(&tested).len() == 9);
    lock(&stage, &["--test"], 0);
    let (probes, markers) = vault.versions("a/b/probe/").await;
    assert_eq!(
        (probes.len(), markers.len()),
        (1, 0),
        "the second run used the first one's object: {probes:?}"
    );
    assert_eq!(lock(&stage, &[], 0)["test"]["verdict"], "proven", "it is remembered");
    stage.run(&["lock"]).ends(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn the_tamper_test_is_not_misled_by_what_a_default_retention_locks() {
    let vault = Vault::new(true).await;
    vault.lock_by_default().await;
    let stage = with_offsite(&vault, "lock_days = 1");
    for _ in 0..2 {
        let tested = lock(&stage, &["--test"], 0);
        assert_eq!(tested["verdict"], "proven", "{tested}");
    }
    let (probes, markers) = vault.versions("a/b/probe/").await;
    assert_eq!((probes.len(), markers.len()), (3, 0), "one of the test, two that overwrote it: {probes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn governance_is_broken_for_a_credential_that_may_bypass_it_and_proven_for_one_that_may_not() {
    let vault = Vault::new(true).await;
    let stage = with_offsite(&vault, "lock_days = 2\nlock_mode = \"governance\"");
    stage.run(&["sync"]).ends(0);
    let tested = lock(&stage, &["--test"], 1);
    assert_eq!(tested["verdict"], "broken");
    let found = statuses(&tested);
    for bypassed in ["shorten_bypass", "delete_version_bypass"] {
        assert_eq!(found[bypassed], "broken", "{tested}");
    }
    for refused in ["shorten", "delete_version", "overwrite", "delete"] {
        assert_eq!(found[refused], "ok", "{tested}");
    }
    let hint = tested["findings"][3]["hint"].as_str().unwrap();
    assert!(hint.contains("BypassGovernanceRetention"), "{hint}");
    assert_eq!(lock(&stage, &[], 0)["counts"]["immutable"], 1, "no real object was touched");

    vault.deny("s3:BypassGovernanceRetention", "").await;
    let tested = lock(&stage, &["--test"], 0);
    vault.allow().await;
    assert_eq!(tested["verdict"], "proven", "{tested}");

    // A lock becomes longer when the policy says so, and never shorter.
    let longer = |days: &str| stage.edit(|text| text.replace("lock_days = 2", days));
    longer("lock_days = 8");
    let done = lock(&stage, &["--extend"], 0);
    let objects = done["counts"]["objects"].clone();
    assert_eq!((&done["extended"]["extended"], &done["extended"]["locked"]), (&objects, &0.into()));
    let config = vault.retention("a/b/config.json").await.unwrap();
    assert!(config.retain_until_date().unwrap().secs() > now() + 7 * DAY);
    stage.edit(|text| text.replace("lock_days = 8", "lock_days = 1"));
    assert_eq!(lock(&stage, &["--extend"], 0)["extended"]["left"], objects);
    let config = vault.retention("a/b/config.json").await.unwrap();
    assert!(config.retain_until_date().unwrap().secs() > now() + 7 * DAY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_without_a_lock_is_told_as_unproven_and_fails_no_sync() {
    let vault = Vault::new(false).await;
    let stage = with_offsite(&vault, "lock_days = 1");
    stage
        .run(&["sync"])
        .ends(0)
        .tells("far: the lock is unproven")
        .tells("has no Object Lock")
        .tells("hint: ");
    let tested = lock(&stage, &["--test"], 3);
    assert_eq!(
        (&tested["verdict"], &tested["findings"][0]["status"]),
        (&"unproven".into(), &"unknown".into())
    );
    assert!(tested["findings"][0]["hint"].as_str().unwrap().contains("when a bucket is made"));
    let done = lock(&stage, &["--extend"], 3);
    assert!(done["no_lock"]["what"].as_str().unwrap().contains("has no Object Lock"));
    assert_eq!(lock(&stage, &[], 0)["test"]["verdict"], "unproven");
    let (probes, _) = vault.versions("a/b/probe/").await;
    assert!(probes.is_empty(), "nothing was put where nothing can be locked: {probes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_a_thief_hid_is_missed_and_comes_back_when_its_delete_marker_goes() {
    let vault = Vault::new(true).await;
    let stage = with_offsite(&vault, "lock_days = 1\nlock_mode = \"governance\"");
    stage.run(&["sync"]).ends(0);
    let (packs, _) = vault.versions("a/b/packs/").await;
    vault.0.delete(&packs[0].0).await;
    let done = lock(&stage, &["--extend"], 3);
    let failed = &done["extended"]["failed"][0];
    assert!(packs[0].0.ends_with(failed["object"].as_str().unwrap()), "{done}");
    assert!(failed["why"].as_str().unwrap().contains("delete marker"));
    assert_eq!((&done["counts"]["packs_unlocked"], &done["counts"]["immutable"]), (&1.into(), &0.into()));
    let (_, markers) = vault.versions("a/b/packs/").await;
    let (key, version) = &markers[0];
    let bring_back = vault.0.client.delete_object().bucket(&vault.0.name).key(key).version_id(version);
    bring_back.send().await.unwrap();
    assert_eq!(lock(&stage, &["--extend"], 0)["counts"]["immutable"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_was_replaced_after_it_was_locked_is_told_and_never_locked() {
    let vault = Vault::new(true).await;
    let stage = with_offsite(&vault, "lock_days = 1\nlock_mode = \"governance\"");
    stage.run(&["sync"]).ends(0);
    let (packs, _) = vault.versions("a/b/packs/").await;
    let key = &packs[0].0;
    // The listing may tell whole seconds only.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let put = vault.0.client.put_object().bucket(&vault.0.name).key(key);
    let newer = put.body(b"junk".to_vec().into()).send().await.unwrap().version_id.unwrap();
    for words in [&["--extend"][..], &["--extend"], &[]] {
        let done = lock(&stage, words, if words.is_empty() { 0 } else { 3 });
        assert_eq!((&done["counts"]["packs_unlocked"], &done["counts"]["immutable"]), (&1.into(), &0.into()));
        if let Some(failed) = done["extended"]["failed"].as_array() {
            assert_eq!(failed.len(), 1, "{done}");
            assert!(failed[0]["why"].as_str().unwrap().contains("it was replaced after it was locked"));
        }
        assert!(vault.retention(key).await.is_none(), "what a thief has put is not kept for him");
    }
    vault.0.client.delete_object().bucket(&vault.0.name).key(key).version_id(newer).send().await.unwrap();
    assert_eq!(lock(&stage, &["--extend"], 0)["counts"]["immutable"], 1);

    // What a sync puts again in place of what was hidden is no theft.
    vault.0.delete(key).await;
    stage.run(&["sync"]).ends(0).tells("were gone from the copy and were copied again");
    assert!(vault.retention(key).await.is_some());
    assert_eq!(lock(&stage, &[], 0)["counts"]["immutable"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn prune_goes_on_where_the_service_refuses_to_delete_only_if_that_was_wanted() {
    // This server keeps no create-only put in a bucket with versions, which prune needs more than a lock.
    let vault = Vault::new(false).await;
    let stage = with_offsite(&vault, "lock_days = 1\nlock_mode = \"governance\"");
    stage.run(&["sync"]).ends(0);
    vault.deny("s3:DeleteObject", "").await;
    let pruned = stage.run(&["prune", "--offsite", "far", "--apply", "--json"]);
    stage.edit(|text| text.replace("lock_days = 1\nlock_mode = \"governance\"", ""));
    let refused = stage.run(&["prune", "--offsite", "far", "--apply"]);
    vault.allow().await;
    assert_eq!(pruned.ends(0).json()["done"]["retained"], 0);
    refused.ends(1).tells("objects can be deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn packs_that_the_service_keeps_are_retained_and_locked_ones_survive_their_delete_marker() {
    let vault = Vault::new(true).await;
    let store = RemoteStore::new("s3", &vault.options("")).unwrap();
    let ship = Ship::new();
    ship.create(&store).await;
    let cargo = |seed| Cargo::of("minio", vec![parcel("only", noise(100_000, seed))]);
    let first = ship.backup(&store, &cargo(1)).await.unwrap().id;
    let second = ship.backup(&store, &cargo(2)).await.unwrap().id;
    // The store's own clock stamps what it has.
    let ground = lifeboat::clock::Ground::system();
    let prune = async |forget: &[&lifeboat::names::SnapshotId]| {
        let repository = ship.maintain(&store).await.unwrap().retaining();
        let seen = repository.inspect(&ground, &ship.monitor()).await.unwrap();
        let remove = forget.iter().map(|id| ((*id).clone(), "a test says so".to_owned())).collect();
        let plan = repo::plan(&seen, &remove, AT_ONCE, ground.clock.now());
        repository.apply(plan, &ground, &ship.monitor()).await.unwrap()
    };
    let condemned = prune(&[&first]).await.condemned;
    assert!(condemned > 0);
    // A commit counts as newer from the next second on: the store counts whole ones.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    ship.backup(&store, &cargo(2)).await.unwrap();

    vault.deny("s3:DeleteObject", "packs/").await;
    let report = prune(&[]).await;
    vault.allow().await;
    assert_eq!(report.retained.len() as u64, condemned, "{report:?}");
    assert!(report.swept[0].deleted.is_empty() && report.swept[0].snapshots.contains(&first));

    let retained: BTreeSet<_> = report.retained;
    let lock = ObjectLockRetention::builder().mode(ObjectLockRetentionMode::Governance);
    let until = aws_sdk_s3::primitives::DateTime::from_secs(now() + DAY);
    let lock = lock.retain_until_date(until).build();
    for key in &retained {
        let put = vault.0.client.put_object_retention().bucket(&vault.0.name).key(key.as_str());
        put.retention(lock.clone()).send().await.unwrap();
    }
    prune(&[]).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    ship.backup(&store, &cargo(2)).await.unwrap();
    let report = prune(&[]).await;
    let deleted: usize = report.swept.iter().map(|one| one.deleted.len()).sum();
    assert_eq!(deleted as u64, condemned, "a delete marker is a success: {report:?}");
    let (versions, markers) = vault.versions(layout::PACKS).await;
    for key in &retained {
        assert_eq!(store.size(key).await.unwrap(), None, "the listing shows it no more");
        assert!(markers.iter().any(|(marked, _)| marked == key.as_str()));
        assert!(versions.iter().any(|(kept, _)| kept == key.as_str()), "and the version is still there");
    }
    ship.assert_holds(&store, &second, &cargo(2)).await;
}
