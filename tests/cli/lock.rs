//! `lifeboat lock` where there is nothing to lock with: a person is told what to do, and no copy fails for it.

use crate::stage::Stage;

/// Makes a stack with a snapshot and an offsite in a folder that is to be locked.
fn wishful() -> Stage {
    let (stage, _) = Stage::with_snapshot();
    crate::sync::add_offsite(&stage, "far");
    stage.append("lock_days = 30\n");
    std::fs::create_dir(stage.path("far")).unwrap();
    stage
}

#[test]
fn without_lock_days_it_says_what_to_write() {
    let (stage, _) = Stage::with_snapshot();
    stage.run(&["lock"]).ends(2).tells("no offsite has `lock_days`").tells("lock_days = 30");
    crate::sync::add_offsite(&stage, "far");
    stage.run(&["lock", "far"]).ends(2).tells("offsite `far` has no `lock_days`");
    stage.run(&["lock", "near"]).ends(2).tells("the policy has no offsite `near`");
    stage.run(&["lock", "--test", "--extend"]).ends(2);
}

#[test]
fn a_store_without_a_lock_is_unproven_and_its_sync_succeeds() {
    let stage = wishful();
    stage.run(&["sync"]).ends(0).tells("far: the lock is unproven").tells("hint: `lock_days` works with");
    let document = stage.run(&["lock", "--test", "--json"]).ends(3).json();
    assert_eq!(document["schema"], "lifeboat.lock/1");
    let far = &document["offsites"][0];
    assert_eq!((&far["name"], &far["verdict"]), (&"far".into(), &"unproven".into()));
    assert_eq!((&far["lock_mode"], &far["lock_days"]), (&"compliance".into(), &30.into()));
    assert_eq!(far["findings"][0]["status"], "unknown");
    let screen = stage.run(&["lock", "--test"]).ends(3).out;
    assert!(screen.starts_with("far: unproven (compliance mode)\n"), "{screen}");
    let extended = stage.run(&["lock", "--extend"]).ends(3).out;
    assert!(extended.contains("store `fs` has no Object Lock"), "{extended}");
    let looked = stage.run(&["lock", "--json"]).ends(0).json();
    assert_eq!(looked["offsites"][0]["test"]["verdict"], "unproven", "it is remembered");
    assert!(!stage.exists("far/probe"), "nothing was put there");
    stage.run(&["prune", "--offsite", "far", "--apply"]).ends(0);
}

#[test]
fn a_sync_that_fails_looks_after_the_locks_all_the_same_and_ends_as_it_failed() {
    let stage = wishful();
    stage.run(&["sync"]).ends(0);
    std::fs::rename(stage.path("repo"), stage.path("elsewhere")).unwrap();
    stage.run(&["sync"]).ends(10).tells("far: the lock is unproven").tells("there is no repository at");
}
