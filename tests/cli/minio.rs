//! What `MinIO` has beyond S3, from the command line: users and rights, and what the doctor says of the keys.

use crate::{
    fake_minio::{ADMIN, BUCKET, Export, FakeMinio, Listing, USER},
    stage::Stage,
};

/// A zip without files.
const EMPTY_ZIP: [u8; 22] = [b'P', b'K', 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Makes a stack with this server's bucket beside a folder.
fn stage(server: &FakeMinio, admin: Option<(&str, &str)>) -> Stage {
    let stage = Stage::with_files();
    let secret = |name: &str, value: &str| {
        stage.secret(name, value);
        format!("{{ file = \"{}\" }}", stage.at(&format!("secrets/{name}")))
    };
    let admin = admin.map_or_else(String::new, |(name, key)| {
        let (name, key) = (secret("admin-name", name), secret("admin-key", key));
        format!("admin = {{ access_key = {name}, secret_key = {key} }}\n")
    });
    stage.append(&format!(
        "[[source]]\nname = \"minio\"\nkind = \"s3\"\nendpoint = \"http://127.0.0.1:{}\"\nbuckets = [\"{BUCKET}\"]\n\
         exclude = [\"{BUCKET}/frozen\"]\naccess_key = {}\nsecret_key = {}\n{admin}",
        server.port,
        secret("name", USER.0),
        secret("key", USER.1),
    ));
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_rights_come_back_by_a_word_of_their_own() {
    let server = FakeMinio::start(Listing::Tells, Export::Zip(EMPTY_ZIP.to_vec())).await;
    let imported = || server.imported.lock().unwrap().clone();
    let stage = stage(&server, Some(ADMIN));
    stage.run(&["backup"]).ends(0);
    let words = ["restore", "latest", "--source", "minio", "--only", "%admin"];
    let plan = stage.run(&[&words[..], &["--plan"]].concat()).ends(0);
    plan.says("note: users, groups and rights: they are in the snapshot and are not put back: --iam does");
    let plan = stage.run(&[&words[..], &["--iam", "--plan", "--json"]].concat()).ends(0).json();
    let source = &plan["plan"]["sources"][0];
    assert_eq!(source["choices"]["iam"], "replace", "{plan}");
    assert!(source["preflight"]["remarks"][0]["why"].as_str().unwrap().starts_with("they are put back"));
    stage.run(&[&words[..], &["--yes", "demo"]].concat()).ends(0);
    assert!(imported().is_empty());
    stage.run(&[&words[..], &["--iam", "--yes", "demo"]].concat()).ends(0);
    assert_eq!(imported(), EMPTY_ZIP);

    let words = ["restore", "latest", "--iam", "--yes", "demo", "--source"];
    stage.run(&[&words[..], &["config"]].concat()).ends(2).tells("no S3 server is restored");
    let into = format!("minio={}", stage.at("out"));
    stage.run(&[&words[..], &["minio", "--into", &into]].concat()).ends(2).tells("no S3 server is restored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_cannot_be_read_is_named_and_the_rest_is_in_a_partial_snapshot() {
    let server = FakeMinio::start(Listing::Tells, Export::Unknown).await;
    let stage = stage(&server, None);
    stage.edit(|policy| policy.replace(&format!("exclude = [\"{BUCKET}/frozen\"]\n"), ""));
    stage.run(&["backup"]).ends(3).says(&format!("{BUCKET}/frozen"));
    let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
    assert_eq!(listed["snapshots"][0]["status"], "partial");
    let into = format!("minio={}", stage.at("out"));
    stage
        .run(&["restore", "latest", "--source", "minio", "--into", &into, "--yes", "demo"])
        .ends(3)
        .says("frozen");
    let back = stage.files("out");
    let has = |key: &str| back.iter().any(|file| file.ends_with(format!("{BUCKET}/{key}")));
    assert!(["a", "b", "c"].into_iter().all(has) && !has("frozen"), "{back:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_administrators_keys_users_and_rights_are_refused_before_anything_is_asked() {
    let server = FakeMinio::start(Listing::Tells, Export::Zip(EMPTY_ZIP.to_vec())).await;
    let stage = stage(&server, Some(ADMIN));
    stage.run(&["backup"]).ends(0);
    stage.edit(|policy| {
        let kept: Vec<&str> = policy.lines().filter(|line| !line.starts_with("admin = ")).collect();
        kept.join("\n")
    });
    server.take_asked();
    let words = ["restore", "latest", "--source", "minio", "--only", "%admin", "--iam", "--yes", "demo"];
    stage.run(&words).ends(2).tells("admin");
    assert_eq!(server.take_asked(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_reads_the_exports_as_a_backup_does() {
    let zip = Export::Zip(EMPTY_ZIP.to_vec());
    for (admin, export, status) in [
        (Some(ADMIN), zip.clone(), "ok"),
        (Some(ADMIN), Export::Unknown, "warn"),
        (Some(ADMIN), Export::Zip(b"a page of a proxy".to_vec()), "broken"),
        (Some(USER), zip.clone(), "broken"),
        (None, zip, "absent"),
    ] {
        let server = FakeMinio::start(Listing::Tells, export).await;
        let stage = stage(&server, admin);
        let json = stage.run(&["doctor", "--json"]).json();
        let found =
            json["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == "source.minio.admin");
        let found = found.map_or("absent", |finding| finding["status"].as_str().unwrap());
        assert_eq!(found, status, "{json:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_is_asked_only_of_versions() {
    let server = FakeMinio::start(Listing::Tells, Export::Unknown).await;
    let stage = stage(&server, None);
    stage.run(&["backup"]).ends(0);
    let words = ["restore", "latest", "--plan", "--as-of"];
    stage.run(&[&words[..], &["1 second ago"]].concat()).ends(2).tells("`config` is restored");
    let words = ["restore", "latest", "--source", "minio", "--plan", "--as-of"];
    for (time, why) in [
        ("latest", "is no time"),
        ("2100-01-01T00:00:00Z", "knows nothing of 2100-01-01T00:00:00Z"),
        ("2026-02-01T00:00:00Z", "has no versions of bucket `files`"),
        ("2020-01-01T00:00:00Z", "the oldest version in the snapshot is of 2026-01-02T03:04:05Z"),
    ] {
        stage.run(&[&words[..], &[time]].concat()).ends(2).tells(why);
    }
    let into = format!("minio={}", stage.at("out"));
    let words = [&words[..], &["2026-02-01T00:00:00Z", "--into", &into]].concat();
    stage.run(&words).ends(2).tells("about versions of objects in an S3 server");
}
