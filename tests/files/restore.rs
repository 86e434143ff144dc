//! A restore goes nowhere else than it should, and opens nothing to others.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink},
    sync::Arc,
};

use bytes::Bytes;
use lifeboat::{
    clock::{Clock, System},
    error::ExitCode,
    event::{NoMonitor, Recorder},
    files::FilesTarget,
    flow::{Attrs, EntryMeta, FlowResult, Point, STREAM_DEPTH, Stage, channel, fixed_path, pipe, settle},
    names::EntryPath,
};

use super::{
    Kept, Snapshot, access_list, all, below, config, failure, give, given, into, name, read, source, tree,
};

#[tokio::test]
async fn a_planted_link_leads_nowhere() {
    let here = tempfile::tempdir().unwrap();
    let there = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let root = here.path().join("r");
    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(root.join("d/f"), "from the snapshot").unwrap();
    let mut snapshot = read(source(&[&root]), None).await.unwrap();
    // The snapshot's own folder entry is taken out, so that only the file comes through the planted link.
    snapshot.order.retain(|path| !path.ends_with("/d"));
    let copy = below(there.path(), &root);
    fs::create_dir_all(&copy).unwrap();
    symlink(outside.path(), copy.join("d")).unwrap();
    let recorder = Arc::new(Recorder::default());
    let target = FilesTarget::into(name(), there.path(), recorder.clone());
    let failed = failure(snapshot.write(Box::new(target), all(true)).await);
    assert_eq!(failed.exit(), ExitCode::Partial);
    assert!(failed.chain()[1].contains("links are not followed"), "{:?}", failed.chain());
    assert_eq!(recorder.warnings().len(), 1);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);

    // A link in the place of a file is replaced, not written through.
    fs::remove_file(copy.join("d")).unwrap();
    fs::create_dir(copy.join("d")).unwrap();
    fs::write(outside.path().join("victim"), "safe").unwrap();
    symlink(outside.path().join("victim"), copy.join("d/f")).unwrap();
    snapshot.write(into(there.path()), all(true)).await.unwrap();
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"safe");
    assert_eq!(fs::read(copy.join("d/f")).unwrap(), b"from the snapshot");
}

#[tokio::test]
async fn an_entry_that_climbs_is_refused() {
    let there = tempfile::tempdir().unwrap();
    for path in ["/a/../../x", "relative", "/a/./b/../c"] {
        let meta = EntryMeta::new(fixed_path("x"), Stage::Data, "/a")
            .with("kind", "file")
            .with("mode", "0644")
            .with("path", path);
        let kept = Kept { meta, trailer: Attrs::new(), bytes: b"evil".to_vec(), reused: false };
        let snapshot = Snapshot::of("/a", vec![kept]);
        let failed = failure(snapshot.write(into(&there.path().join("deep/er")), all(false)).await);
        assert_eq!(failed.exit(), ExitCode::Damage, "{path}");
    }
    assert_eq!(fs::read_dir(there.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_entry_outside_its_item_or_of_an_item_that_was_not_announced_is_refused() {
    let here = tempfile::tempdir().unwrap();
    let (inside, outside) = (here.path().join("x"), here.path().join("y"));
    for (item, announced) in [(&inside, &inside), (&outside, &inside)] {
        let meta = EntryMeta::new(fixed_path("y/f"), Stage::Data, "")
            .with("kind", "file")
            .with("mode", "0644")
            .with("path", outside.join("f").to_str().unwrap());
        let kept = Kept { meta, trailer: Attrs::new(), bytes: b"evil".to_vec(), reused: false };
        let mut snapshot = Snapshot::of(item.to_str().unwrap(), vec![kept]);
        snapshot.inventory = vec![announced.to_str().unwrap().to_owned()];
        let target = FilesTarget::new(name(), config(&[&inside], &[]), NoMonitor::shared());
        let failed = failure(snapshot.write(Box::new(target), all(true)).await);
        assert_eq!(failed.exit(), ExitCode::Damage, "{failed}");
        assert!(!outside.exists());
    }
}

#[tokio::test]
async fn a_folder_is_opened_to_others_only_when_all_is_in_it() {
    let there = tempfile::tempdir().unwrap();
    let meta = EntryMeta::new(fixed_path("a"), Stage::Data, "/a")
        .with("kind", "folder")
        .with("mode", "0755")
        .with("path", "/a");
    let (sink, stream) = channel(STREAM_DEPTH);
    let send = async {
        sink.announce(vec!["/a".to_owned()]).await?;
        sink.put(meta, Bytes::new()).await?;
        drop(sink);
        FlowResult::Ok(())
    };
    let (sent, written) = tokio::join!(send, into(there.path()).write(all(false), stream));
    assert!(sent.is_ok() && written.is_err(), "it broke off");
    assert_eq!(fs::metadata(there.path().join("a")).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_folder_that_is_taken_away_while_it_is_written_into_is_told() {
    for has_folder in [true, false] {
        let there = tempfile::tempdir().unwrap();
        let entry = |kind: &str, path: &str| {
            EntryMeta::new(EntryPath::new(&path[1..]).unwrap(), Stage::Data, "/a")
                .with("kind", kind)
                .with("mode", "0755")
                .with("path", path)
        };
        let (sink, stream) = channel(STREAM_DEPTH);
        let send = async {
            sink.announce(vec!["/a".to_owned()]).await?;
            if has_folder {
                sink.put(entry("folder", "/a/b"), Bytes::new()).await?;
            }
            sink.put(entry("file", "/a/b/f"), Bytes::new()).await?;
            while !there.path().join("a/b/f").exists() {
                tokio::task::yield_now().await;
            }
            fs::rename(there.path().join("a/b"), there.path().join("a/away")).unwrap();
            fs::create_dir(there.path().join("a/b")).unwrap();
            fs::set_permissions(there.path().join("a/b"), fs::Permissions::from_mode(0o700)).unwrap();
            sink.complete("/a");
            sink.finish(Point::at(System.now())).await
        };
        let (sent, written) = tokio::join!(send, into(there.path()).write(all(false), stream));
        let failed = failure(settle(sent, written));
        assert_eq!(failed.exit(), ExitCode::Partial, "{has_folder}");
        assert!(failed.chain()[1].contains("another folder has taken its place"), "{:?}", failed.chain());
        let other = fs::metadata(there.path().join("a/b")).unwrap();
        assert_eq!(other.mode() & 0o777, 0o700, "what is not ours keeps its rights");
    }
}

#[test]
fn a_path_whose_owner_is_refused_comes_back_without_and_a_note_says_so() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root is refused an owner");
        return;
    }
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = tree(here.path());
    for name in ["a.sh", "etc", "link"] {
        lchown(root.join(name), Some(10_001), Some(20_001)).unwrap();
    }
    fs::set_permissions(root.join("a.sh"), fs::Permissions::from_mode(0o4755)).unwrap();
    // Capabilities are a thread's own, and those that it starts have no more.
    let copying = std::thread::spawn({
        let (root, there) = (root.clone(), there.path().to_owned());
        move || {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective.remove(rustix::thread::CapabilitySet::CHOWN);
            rustix::thread::set_capabilities(None, sets).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let copied = pipe(Box::new(source(&[&root])), into(&there), all(false));
            runtime.block_on(copied).unwrap()
        }
    });
    let notes = copying.join().unwrap().notes;
    assert!(
        notes.iter().any(|note| note.contains("lack their owner") && note.contains(": 3, ")),
        "{notes:?}"
    );
    let copy = |name: &str| fs::symlink_metadata(below(there.path(), &root).join(name)).unwrap();
    for name in ["a.sh", "etc", "link"] {
        assert_eq!((copy(name).uid(), copy(name).gid()), (0, 0), "{name}");
    }
    assert_eq!(copy("a.sh").mode() & 0o7777, 0o755, "a program gains no rights of whoever restores it");
}

#[tokio::test]
async fn a_folder_that_was_opened_to_others_since_is_as_the_snapshot_has_it_again() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = tree(here.path());
    let snapshot = read(source(&[&root]), None).await.unwrap();
    snapshot.write(into(there.path()), all(false)).await.unwrap();
    let copy = |name: &str| below(there.path(), &root).join(name);
    for list in ["system.posix_acl_access", "system.posix_acl_default"] {
        give(&copy("a"), list, &access_list(12_347));
    }
    snapshot.write(into(there.path()), all(true)).await.unwrap();
    for list in ["system.posix_acl_access", "system.posix_acl_default"] {
        assert_eq!(given(&copy("a"), list), None, "{list}");
    }
    assert_eq!(given(&copy("etc"), "system.posix_acl_default").unwrap(), access_list(12_345));
    assert_eq!(given(&copy("a/b"), "system.posix_acl_access").unwrap(), access_list(12_346));
}
