//! An object of which only a part could be read: nothing that is made of the snapshot takes that part for the object.

use std::{fs, process::Command};

use crate::{
    fake_bucket::{FakeBucket, Object},
    stage::{Stage, ran},
};

/// Makes a partial snapshot of a bucket with one whole object and one whose bytes are not those of its `ETag`.
async fn stage() -> Stage {
    let server = FakeBucket::start("files", false, vec![]).await;
    server.put("whole", Object::of(b"whole"));
    server.put("video", Object { etag: "0".repeat(32), ..Object::of(&vec![7; 2 << 20]) });
    let stage = Stage::with_files();
    stage.secret("key", "any");
    let key = stage.at("secrets/key");
    stage.append(&format!(
        "[[source]]\nname = \"minio\"\nkind = \"s3\"\nendpoint = \"{}\"\nbuckets = [\"files\"]\n\
         access_key = {{ file = \"{key}\" }}\nsecret_key = {{ file = \"{key}\" }}\n",
        server.url()
    ));
    stage.run(&["backup"]).ends(3).says("files/video");
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_has_it_by_another_name() {
    let stage = stage().await;
    let into = format!("minio={}", stage.at("out"));
    let words = ["restore", "latest", "--source", "minio", "--into", &into, "--yes", "demo"];
    stage.run(&words).ends(3).says("files/video is written as files/video%torn: its bytes have the MD5");
    let names = |name: &str| stage.files("out").iter().any(|file| file.ends_with(name));
    assert!(names("files/whole") && names("files/video%torn") && !names("files/video"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_has_it_by_another_name_and_ends_as_one_that_is_not_whole() {
    let stage = stage().await;
    let export = |what: &str, format: &str| {
        let mut export = stage.program();
        let done = export.args(["export", "latest", what, "--format", format]).output().unwrap();
        let told = String::from_utf8(done.stderr).unwrap();
        (done.status.code(), done.stdout, told)
    };
    let (code, tar, told) = export("minio", "tar");
    assert_eq!(code, Some(3), "{told}");
    assert!(
        told.contains("of 1 entry the snapshot holds only a part") && told.contains("files/video"),
        "{told}"
    );
    fs::write(stage.path("out.tar"), tar).unwrap();
    let listed = Command::new("tar").arg("-tf").arg(stage.path("out.tar")).output().unwrap();
    let listed = ran(&listed).ends(0).out;
    let has = |name: &str| listed.lines().any(|line| line == name);
    assert!(has("files/whole") && has("files/video%torn") && !has("files/video"), "{listed}");

    let (code, raw, told) = export("minio/files/video", "raw");
    assert_eq!((code, raw.len()), (Some(3), 2 << 20), "{told}");
    assert_eq!(export("minio/files/whole", "raw").0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_recovers_it_by_hand_is_told() {
    let stage = stage().await;
    let mut by_hand = Command::new("bash");
    by_hand.args([stage.at("repo/recover.sh"), "-i".into(), stage.at("keys/identity.txt"), "-o".into()]);
    let told = ran(&by_hand.arg(stage.at("out")).output().unwrap()).ends(0);
    told.tells("not whole in this snapshot: minio: files/video (its bytes have the MD5");
}
