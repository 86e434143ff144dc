//! The catalog is a memory, never the truth: what happens to it happens to no snapshot.

use std::{
    fs,
    io::{Seek, SeekFrom, Write as _},
    path::PathBuf,
};

use crate::stage::Stage;

fn catalog(stage: &Stage) -> PathBuf {
    stage.files("state").into_iter().find(|file| file.extension().is_some_and(|e| e == "sqlite")).unwrap()
}

fn restores(stage: &Stage, to: &str) {
    let into = format!("config={}", stage.at(to));
    stage.run(&["restore", "latest", "--into", &into, "--yes", "demo"]).ends(0);
}

#[test]
fn a_catalog_that_is_lost_is_made_again_without_a_word() {
    let (stage, _) = Stage::with_snapshot();
    fs::remove_dir_all(stage.path("state")).unwrap();
    let json = stage.run(&["backup", "--json"]).ends(0).json();
    assert_eq!(json["sources"][0]["bytes_added"], 0, "it knows again what is stored");
    restores(&stage, "out");
}

#[test]
fn a_catalog_that_is_something_else_is_set_aside() {
    let (stage, _) = Stage::with_snapshot();
    let file = catalog(&stage);
    fs::write(&file, "this is a poem and no database, ".repeat(1000)).unwrap();
    stage.run(&["snapshots"]).ends(0).tells("warning: the catalog was broken and is made again");
    assert!(file.with_extension("sqlite.broken").exists());
    restores(&stage, "out");
}

#[test]
fn a_rebuild_tells_what_it_found_and_mends_a_catalog_that_breaks_in_use() {
    let (stage, _) = Stage::with_snapshot();
    let json = stage.run(&["catalog", "rebuild", "--json"]).ends(0).json();
    assert_eq!(json["schema"], "lifeboat.catalog/1");
    assert_eq!((&json["snapshots"], &json["packs"], &json["indexes"]), (&1.into(), &2.into(), &1.into()));
    // The first page stays, so that it opens; everything behind it is rubbish.
    let file = catalog(&stage);
    let size = file.metadata().unwrap().len();
    let mut broken = fs::OpenOptions::new().write(true).open(&file).unwrap();
    broken.seek(SeekFrom::Start(4096)).unwrap();
    broken.write_all(&vec![0xab; usize::try_from(size - 4096).unwrap()]).unwrap();
    let ran = stage.run(&["ls", "latest"]);
    assert!(ran.exit == 0 || ran.err.contains("lifeboat catalog rebuild"), "{}", ran.err);
    stage.run(&["catalog", "rebuild"]).ends(0);
    stage.run(&["ls", "latest"]).ends(0);
    restores(&stage, "out");
}
