//! What only a store in a folder has to prove: crashes, full disks, links and disks that are not there.

use std::{os::unix::fs::PermissionsExt, process::Command};

use super::*;
use crate::store::conformance;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn store() -> (tempfile::TempDir, FsStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = FsStore::new(dir.path());
    (dir, store)
}

fn later() -> DateTime<Utc> {
    DateTime::from_timestamp(32_503_680_000, 0).unwrap()
}

#[tokio::test]
async fn the_suite() {
    let (_dir, store) = store();
    conformance::run(&store, conformance::Quirks { tells_time: true, ..Default::default() }).await;
}

#[tokio::test]
async fn the_suite_at_a_pace() {
    let (_dir, store) = store();
    let store = store.paced(Pace::new(u64::MAX));
    conformance::run(&store, conformance::Quirks { tells_time: true, ..Default::default() }).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_is_written_at_the_pace_and_stands_there_only_when_it_is_whole() {
    let (dir, store) = store();
    let store = store.paced(Pace::new(1 << 20));
    let body = Bytes::from((0..3_u32 << 20).map(|n| n.to_le_bytes()[1]).collect::<Vec<u8>>());
    let at = key("packs/ab/1");
    let began = tokio::time::Instant::now();
    let mut put = Box::pin(store.put(&at, body.clone()));
    let half = tokio::time::timeout(std::time::Duration::from_millis(1500), &mut put).await;
    assert!(half.is_err(), "half of the time is over, and so it is not done");
    assert_eq!(store.size(&at).await.unwrap(), None);
    let written = std::fs::read_dir(dir.path().join("tmp")).unwrap().next().unwrap().unwrap();
    let written = written.metadata().unwrap().len();
    assert!((1 << 20..2 << 20).contains(&written), "{written}");
    put.await.unwrap();
    assert!(began.elapsed() > std::time::Duration::from_millis(2800), "{:?}", began.elapsed());
    assert_eq!(store.get(&at, None).await.unwrap(), body);
}

#[tokio::test(start_paused = true)]
async fn a_put_that_is_given_up_on_its_way_leaves_nothing() {
    let (dir, store) = store();
    let store = store.paced(Pace::new(1 << 20));
    let at = key("packs/ab/1");
    let put = store.put(&at, vec![1; 4 << 20].into());
    tokio::time::timeout(std::time::Duration::from_secs(1), put).await.unwrap_err();
    // A block that was being written ends on a thread of its own.
    while std::fs::read_dir(dir.path().join("tmp")).unwrap().count() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test]
async fn a_file_system_without_rename_flags_is_served_by_a_second_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = rustix::fs::open(dir.path(), FOLDER_FLAGS, Mode::empty()).unwrap();
    std::fs::write(dir.path().join("t1"), "one").unwrap();
    std::fs::write(dir.path().join("t2"), "two").unwrap();
    link_new(&folder, "t1", &folder, "x").unwrap();
    assert_eq!(link_new(&folder, "t2", &folder, "x").unwrap_err(), Errno::EXIST);
    assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"one");
    assert!(!dir.path().join("t1").exists());
}

#[tokio::test]
async fn a_crash_before_the_rename_leaves_nothing_that_is_listed() {
    let (dir, store) = store();
    store.put(&key("packs/ab/1"), "one".into()).await.unwrap();
    // What a dead process leaves, under the very name that this one would take next.
    let next = format!("{}-{}", std::process::id(), store.inner.next_tmp.load(Ordering::Relaxed));
    std::fs::write(dir.path().join("tmp").join(next), "half").unwrap();
    let all = store.list("").await.unwrap();
    assert_eq!(all.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(), ["packs/ab/1"]);
    store.put(&key("packs/ab/2"), "two".into()).await.unwrap();
    assert_eq!(store.get(&key("packs/ab/2"), None).await.unwrap(), "two");

    assert_eq!(store.tidy(DateTime::UNIX_EPOCH, later()).await.unwrap(), 0, "it is too young");
    assert_eq!(store.tidy(later(), DateTime::UNIX_EPOCH).await.unwrap(), 4);
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(store.list("").await.unwrap().len(), 2);
}

#[tokio::test]
async fn nothing_is_left_in_tmp_after_puts_that_worked_or_lost() {
    let (dir, store) = store();
    for _ in 0..2 {
        let _ = store.put(&key("refs/a"), "x".into()).await;
    }
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_missing_root_is_no_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not-mounted");
    let store = FsStore::new(&root);
    assert!(matches!(store.list("refs/").await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(store.put(&key("a"), "a".into()).await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(store.delete(&key("a")).await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(store.get(&key("config.json"), None).await, Err(StoreError::NotFound { .. })));
    assert!(!root.exists());
    let store = FsStore::create(&root).unwrap();
    store.put(&key("a"), "a".into()).await.unwrap();
    assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn no_symbolic_link_leads_out() {
    let (dir, store) = store();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("packs")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
    assert!(store.put(&key("packs/a"), "a".into()).await.is_err());
    assert!(store.get(&key("packs/secret"), None).await.is_err());
    assert!(store.get(&key("file"), None).await.is_err());
    assert!(store.list("packs/").await.is_err());
    assert!(store.list("").await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn foreign_files_are_not_listed_and_the_tmp_folder_is_ours() {
    let (dir, store) = store();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    std::fs::write(dir.path().join("a note.txt"), "hello").unwrap();
    store.put(&key("a"), "a".into()).await.unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 1);
    for reserved in ["tmp", "tmp/x", "trash", "trash/a"] {
        assert!(store.put(&key(reserved), "x".into()).await.is_err(), "{reserved}");
        assert!(store.delete(&key(reserved)).await.is_err(), "{reserved}");
    }
    store.put(&key("trashy/x"), "x".into()).await.unwrap();
    assert_eq!(store.list("trash").await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_deleted_lies_in_the_trash_until_it_is_purged() {
    let (dir, store) = store();
    let object = key("packs/ab/1");
    store.put(&object, "one".into()).await.unwrap();
    store.put(&key("refs/a"), "a".into()).await.unwrap();
    // Made long ago, deleted now: only the second counts.
    let old = std::fs::File::open(dir.path().join("packs/ab/1")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(store.trash().await.unwrap(), Trash::default());
    store.delete(&object).await.unwrap();

    assert_eq!(std::fs::read(dir.path().join("trash/packs/ab/1")).unwrap(), b"one");
    assert_eq!(store.list("").await.unwrap().len(), 1);
    for prefix in ["t", "trash", "trash/", "trash/packs/ab/"] {
        assert_eq!(store.list(prefix).await.unwrap(), [], "{prefix}");
    }
    assert!(store.get(&key("trash/packs/ab/1"), None).await.unwrap_err().is_not_found());
    let trash = store.trash().await.unwrap();
    assert_eq!((trash.objects, trash.size_bytes), (1, 3));
    let deleted = trash.oldest.unwrap();
    assert!(deleted > DateTime::from_timestamp(1_600_000_000, 0).unwrap(), "{deleted}");

    assert_eq!(store.tidy(later(), deleted).await.unwrap(), 0, "it was deleted no earlier than that");
    assert_eq!(store.tidy(DateTime::UNIX_EPOCH, later()).await.unwrap(), 3);
    assert_eq!(store.trash().await.unwrap(), Trash::default());
    assert_eq!(store.get(&key("refs/a"), None).await.unwrap(), "a");
}

#[tokio::test]
async fn a_name_can_be_deleted_again() {
    let (dir, store) = store();
    for body in ["first", "second"] {
        store.put(&key("refs/a"), body.into()).await.unwrap();
        store.delete(&key("refs/a")).await.unwrap();
        store.delete(&key("refs/a")).await.unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("trash/refs/a")).unwrap(), body);
    }
    assert_eq!(store.trash().await.unwrap().objects, 1);
}

#[tokio::test]
async fn a_delete_that_broke_off_before_its_rename_is_done_by_the_next() {
    let (dir, store) = store();
    store.put(&key("refs/a"), "a".into()).await.unwrap();
    // What was done until then: the trash's folder is there, the object has a new time.
    std::fs::create_dir_all(dir.path().join("trash/refs")).unwrap();
    assert_eq!(store.get(&key("refs/a"), None).await.unwrap(), "a");
    store.delete(&key("refs/a")).await.unwrap();
    assert_eq!(store.size(&key("refs/a")).await.unwrap(), None);
    assert_eq!(store.trash().await.unwrap().objects, 1);
}

#[tokio::test]
async fn what_cannot_be_moved_to_the_trash_stays() {
    let (dir, store) = store();
    store.put(&key("refs/a"), "a".into()).await.unwrap();
    std::fs::write(dir.path().join("trash"), "a file of somebody").unwrap();
    assert!(store.delete(&key("refs/a")).await.is_err());
    assert!(store.delete(&key("refs")).await.is_err(), "a folder is no object");
    assert_eq!(store.get(&key("refs/a"), None).await.unwrap(), "a");
    assert!(store.trash().await.is_err());
}

#[tokio::test]
async fn objects_cannot_be_written_to_by_accident() {
    let (dir, store) = store();
    store.put(&key("a"), "a".into()).await.unwrap();
    assert_eq!(std::fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o400);
}

/// A file system of one MiB, for as long as it is held.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
        let status = Command::new("mount").args(mount).arg(dir.path()).status().unwrap();
        assert!(status.success(), "mounting needs root");
        Self(dir)
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
#[ignore = "mounts a small tmpfs, which needs root: run fixtures/test"]
async fn a_full_disk_is_told_as_such_and_nothing_half_written_stays() {
    let disk = TinyDisk::mount();
    let store = FsStore::new(disk.0.path());
    store.put(&key("packs/ab/1"), vec![1; 512 << 10].into()).await.unwrap();
    let error = store.put(&key("packs/ab/2"), vec![2; 768 << 10].into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(store.list("").await.unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(disk.0.path().join("tmp")).unwrap().count(), 0);
    store.put(&key("packs/ab/3"), vec![3; 256 << 10].into()).await.unwrap();
    assert_eq!(store.size(&key("packs/ab/3")).await.unwrap(), Some(256 << 10));
}
