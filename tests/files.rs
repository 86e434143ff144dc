//! The files engine on real file systems: everything that belongs to a path comes back, nothing goes
//! elsewhere.

#![allow(clippy::unwrap_used)] // A test that cannot go on says so by panicking, in its helpers too.

#[path = "files/restore.rs"]
mod restore;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat::{
    clock::{Clock, Ground, StoppedClock, System},
    error::{ExitCode, Result},
    event::NoMonitor,
    files::{EntryFolder, FilesLikeness, FilesSource, FilesTarget},
    flow::{
        Attrs, EntryMeta, EntrySink, FlowError, FlowResult, Likeness, Point, Previous, PreviousEntry,
        Problem, Reuse, STREAM_DEPTH, Selection, Source, Stage, Tally, Target, Verified, WriteOptions,
        channel, conformance, fixed_path, pipe, settle,
    },
    names::{EntryPath, SourceName},
    policy::FilesConfig,
};
use proptest::prelude::*;

fn name() -> SourceName {
    SourceName::new("config").unwrap()
}

fn config(paths: &[&Path], exclude: &[&str]) -> FilesConfig {
    let exclude = exclude.iter().map(|glob| (*glob).to_owned()).collect();
    FilesConfig { paths: paths.iter().map(|path| path.to_path_buf()).collect(), exclude, max_age_days: None }
}

/// A source that stands an hour in the future, so that no file is fresh.
fn source(paths: &[&Path]) -> FilesSource {
    let clock = StoppedClock::at(System.now() + chrono::Duration::hours(1));
    let ground = Ground { clock: Arc::new(clock), ..Ground::system() };
    FilesSource::new(name(), config(paths, &[]), ground, NoMonitor::shared())
}

fn into(folder: &Path) -> Box<dyn Target> {
    Box::new(FilesTarget::into(name(), folder, NoMonitor::shared()))
}

fn all(replace: bool) -> WriteOptions {
    WriteOptions { replace, ..WriteOptions::default() }
}

fn failure<T: std::fmt::Debug>(result: Result<T, FlowError>) -> lifeboat::error::Failure {
    match result {
        Err(FlowError::Failed(failure)) => failure,
        other => panic!("this should have failed for a reason: {other:?}"),
    }
}

/// Makes a tree with one of everything; returns its root.
fn tree(below: &Path) -> PathBuf {
    let root = below.join("root");
    fs::create_dir_all(root.join("etc/empty")).unwrap();
    fs::create_dir_all(root.join("a")).unwrap();
    fs::write(root.join(".env"), "SECRET=1\n").unwrap();
    fs::set_permissions(root.join(".env"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(root.join("a.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("a.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("a/b"), "").unwrap();
    fs::write(root.join("a-b"), vec![7; 3 << 20]).unwrap();
    fs::write(root.join("100% new\nline"), "odd").unwrap();
    fs::write(root.join("图片"), "text").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not\xffutf8")), "bytes").unwrap();
    symlink("a/b", root.join("link")).unwrap();
    fs::hard_link(root.join("a-b"), root.join("a/second name")).unwrap();
    fs::hard_link(root.join("a-b"), root.join(OsStr::from_bytes(b"third\xff"))).unwrap();
    let disk = fs::File::create(root.join("disk.img")).unwrap();
    disk.write_all_at(b"data", 5 << 20).unwrap();
    disk.set_len(9 << 20).unwrap();
    give(&root.join("a.sh"), "user.owner 是", b"\x00any\xff");
    give(&root.join("etc"), "user.kept", b"");
    give(&root.join("etc"), "system.posix_acl_default", &access_list(12_345));
    give(&root.join("a/b"), "system.posix_acl_access", &access_list(12_346));
    symlink(OsStr::from_bytes(b"/no\xfewhere"), root.join("dangling")).unwrap();
    let old = fs::File::options().write(true).open(root.join(".env")).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    old.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    fs::set_permissions(root.join("etc/empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::File::open(root.join("a")).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    root
}

/// An access list as the kernel takes it (`linux/posix_acl_xattr.h`): one more user may read and write.
fn access_list(user: u32) -> Vec<u8> {
    let entry = |tag: u16, rights: u16, id: u32| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let entries = [(1, 6, none), (2, 6, user), (4, 4, none), (16, 6, none), (32, 0, none)];
    let entries = entries.map(|(tag, rights, id)| entry(tag, rights, id));
    [&2_u32.to_le_bytes()[..], &entries.concat()].concat()
}

fn give(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn given(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1 << 16];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

struct Pair {
    from: PathBuf,
    to: PathBuf,
    likeness: FilesLikeness,
}
impl conformance::Pair for Pair {
    fn source(&self) -> Box<dyn Source> {
        Box::new(source(&[&self.from]))
    }
    fn target(&self) -> Box<dyn Target> {
        into(&self.to)
    }
    fn copy(&self) -> Box<dyn Source> {
        Box::new(Moved { inner: source(&[&below(&self.to, &self.from)]), prefix: self.to.clone() })
    }
    fn likeness(&self) -> &dyn Likeness {
        &self.likeness
    }
}

#[tokio::test]
async fn a_tree_is_copied_with_all_that_belongs_to_it() {
    let here = tempfile::tempdir().unwrap();
    let there = tempfile::tempdir().unwrap();
    let root = tree(here.path());
    let pair = Pair { from: root.clone(), to: there.path().to_owned(), likeness: FilesLikeness::in_place() };
    conformance::piping_is_copying(&pair).await;
    let env = fs::metadata(below(there.path(), &root).join(".env")).unwrap();
    assert_eq!((env.mode() & 0o7777, env.mtime(), env.mtime_nsec()), (0o600, 1_000_000_000, 123_456_789));

    let copy = below(there.path(), &root);
    let inode = |name: &[u8]| fs::metadata(copy.join(OsStr::from_bytes(name))).unwrap().ino();
    assert_eq!((inode(b"a-b"), inode(b"a-b")), (inode(b"a/second name"), inode(b"third\xff")));
    assert_eq!(fs::metadata(copy.join("a-b")).unwrap().nlink(), 3);
    let disk = fs::metadata(copy.join("disk.img")).unwrap();
    assert_eq!((disk.size(), disk.blocks() * 512 < 1 << 20), (9 << 20, true), "{} blocks", disk.blocks());
    assert_eq!(given(&copy.join("a.sh"), "user.owner 是").unwrap(), b"\x00any\xff");
    assert_eq!(given(&copy.join("etc"), "user.kept").unwrap(), b"");
    assert_eq!(given(&copy.join("etc"), "system.posix_acl_default").unwrap(), access_list(12_345));
    assert_eq!(given(&copy.join("a/b"), "system.posix_acl_access").unwrap(), access_list(12_346));
    // What a folder's list gave to new files while they were written is not theirs.
    assert_eq!(given(&copy.join("etc/empty"), "system.posix_acl_default"), None);
    assert_eq!(fs::metadata(copy.join("etc/empty")).unwrap().mode() & 0o7777, 0o1777);
}

#[tokio::test]
async fn owners_come_back_where_root_restores() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root can give files away");
        return;
    }
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = tree(here.path());
    let owned = [("a.sh", 10_001, 20_001), ("etc", 10_002, 20_002), ("link", 10_003, 20_003)];
    for (name, user, group) in owned {
        lchown(root.join(name), Some(user), Some(group)).unwrap();
    }
    pipe(Box::new(source(&[&root])), into(there.path()), all(false)).await.unwrap();
    for (name, user, group) in owned {
        let copy = fs::symlink_metadata(below(there.path(), &root).join(name)).unwrap();
        assert_eq!((copy.uid(), copy.gid()), (user, group), "{name}");
    }
    let link = fs::symlink_metadata(root.join("a/b")).unwrap();
    let copy = fs::symlink_metadata(below(there.path(), &root).join("a/b")).unwrap();
    assert_eq!((copy.uid(), copy.gid()), (link.uid(), link.gid()), "what a link leads to keeps its own");
}

#[tokio::test]
async fn names_of_one_file_are_one_file_again_however_many_are_asked_for() {
    let here = tempfile::tempdir().unwrap();
    let root = here.path().join("root");
    fs::create_dir_all(root.join("in")).unwrap();
    for (file, names) in [("one", ["in/a", "in/b"]), ("two", ["in/c", "out"])] {
        fs::write(root.join(file), file).unwrap();
        for name in names {
            fs::hard_link(root.join(file), root.join(name)).unwrap();
        }
    }
    let snapshot = read(source(&[&root]), None).await.unwrap();
    let bytes: usize = snapshot.entries.values().map(|kept| kept.bytes.len()).sum();
    assert_eq!(bytes, 18, "each name holds what it leads to");

    // Without its first name, the others are one file all the same.
    let there = tempfile::tempdir().unwrap();
    let only = Selection::new(&[root.join("in/*").to_str().unwrap().to_owned()]).unwrap();
    snapshot.write(into(there.path()), WriteOptions { only, ..WriteOptions::default() }).await.unwrap();
    let at = |name: &str| below(there.path(), &root).join(name);
    let names = |name: &str| {
        let meta = fs::metadata(at(name)).unwrap();
        (meta.ino(), meta.nlink(), fs::read(at(name)).unwrap())
    };
    assert_eq!(names("in/a"), names("in/b"));
    assert_eq!((names("in/a").1, names("in/a").2, names("in/c").1), (2, b"one".to_vec(), 1));

    // Over what is there, twice: the second time nothing has to be linked.
    fs::write(at("in/b"), "another").unwrap();
    for _ in 0..2 {
        let tally = snapshot.write(into(there.path()), all(true)).await.unwrap();
        assert!(!tally.notes.iter().any(|note| note.contains("two now")), "{:?}", tally.notes);
        assert_eq!((names("one").1, names("two").1, names("in/b").2), (3, 3, b"one".to_vec()));
        assert_eq!((names("one").0, names("two").0), (names("in/b").0, names("out").0));
        let left = fs::read_dir(at("in")).unwrap().count();
        assert_eq!(left, 3, "a draft was left");
    }
}

#[tokio::test]
async fn a_name_that_was_added_or_an_attribute_that_was_set_is_seen_by_the_next_run() {
    let here = tempfile::tempdir().unwrap();
    let root = here.path().join("root");
    fs::create_dir_all(&root).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(root.join(name), name).unwrap();
    }
    let first = read(source(&[&root]), None).await.unwrap();
    fs::hard_link(root.join("a"), root.join("z")).unwrap();
    give(&root.join("b"), "user.new", b"1");
    let second = read(source(&[&root]), Some(first.remembered())).await.unwrap();
    let reused = |name: &str| {
        second.entries.values().any(|kept| kept.reused && kept.meta.text("path") == root.join(name).to_str())
    };
    assert_eq!(["a", "b", "c"].map(reused), [false, false, true]);
    let there = tempfile::tempdir().unwrap();
    second.write(into(there.path()), all(false)).await.unwrap();
    let at = |name: &str| below(there.path(), &root).join(name);
    assert_eq!(fs::metadata(at("a")).unwrap().ino(), fs::metadata(at("z")).unwrap().ino());
    assert_eq!(given(&at("b"), "user.new").unwrap(), b"1");
}

#[tokio::test]
async fn a_name_that_leads_to_another_state_of_a_file_is_a_file_of_its_own() {
    let here = tempfile::tempdir().unwrap();
    let root = here.path().join("root");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("a"), vec![1; 20 << 20]).unwrap();
    fs::hard_link(root.join("a"), root.join("b")).unwrap();
    // The first name is being read when somebody writes through the second.
    let snapshot = read_while(source(&[&root]), || {
        let mut file = fs::File::options().append(true).open(root.join("b")).unwrap();
        file.write_all(b"more").unwrap();
    })
    .await;
    let lengths: Vec<usize> = snapshot.entries.values().map(|kept| kept.bytes.len()).collect();
    assert_eq!(lengths, [0, 20 << 20, (20 << 20) + 4]);
    let there = tempfile::tempdir().unwrap();
    snapshot.write(into(there.path()), all(false)).await.unwrap();
    let length = |name: &str| fs::metadata(below(there.path(), &root).join(name)).unwrap().len();
    assert_eq!((length("a"), length("b")), (20 << 20, (20 << 20) + 4));
}

#[tokio::test]
async fn capabilities_of_programs_come_back_where_root_restores_and_a_note_says_where_not() {
    let here = tempfile::tempdir().unwrap();
    let there = tempfile::tempdir().unwrap();
    let root = here.path().join("root");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("ping"), "program").unwrap();
    // linux/capability.h: revision 2, effective; CAP_NET_RAW is bit 13.
    let net_raw: Vec<u8> =
        [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        give(&root.join("ping"), "security.capability", &net_raw);
    }
    let tally =
        read(source(&[&root]), None).await.unwrap().write(into(there.path()), all(false)).await.unwrap();
    let copy = given(&below(there.path(), &root).join("ping"), "security.capability");
    assert_eq!(copy, is_root.then_some(net_raw));
    assert_eq!(tally.notes.iter().any(|note| note.contains("only root can")), !is_root);
}

#[tokio::test]
async fn log_archives_are_taken_for_as_many_days_as_the_policy_says() {
    let here = tempfile::tempdir().unwrap();
    let root = here.path().join("log");
    fs::create_dir_all(&root).unwrap();
    let now = System.now();
    for (name, days) in [("im.log", 0), ("im.log.1", 1), ("im.log.29.gz", 29), ("im.log.31.gz", 31)] {
        let file = fs::File::create(root.join(name)).unwrap();
        let changed = std::time::SystemTime::from(now - chrono::Duration::days(days));
        file.set_times(fs::FileTimes::new().set_modified(changed)).unwrap();
    }
    let logs = FilesConfig { max_age_days: Some(30), ..config(&[&root], &[]) };
    let ground = Ground { clock: Arc::new(StoppedClock::at(now)), ..Ground::system() };
    let snapshot = read(FilesSource::new(name(), logs, ground, NoMonitor::shared()), None).await.unwrap();
    let names: Vec<&str> = snapshot.order.iter().filter_map(|path| path.rsplit('/').next()).collect();
    assert_eq!(names, ["log", "im.log", "im.log.1", "im.log.29.gz"]);
    assert_eq!(snapshot.problems, []);
}

#[tokio::test]
async fn the_second_run_reads_only_what_changed() {
    let here = tempfile::tempdir().unwrap();
    let root = tree(here.path());
    let first = read(source(&[&root]), None).await.unwrap();
    fs::write(root.join("a-b"), "changed").unwrap();
    fs::write(root.join("a/new"), "new").unwrap();
    fs::remove_file(root.join("a.sh")).unwrap();
    let second = read(source(&[&root]), Some(first.remembered())).await.unwrap();
    let files = |of: &Snapshot, reused: bool| -> Vec<String> {
        let kept = of.order.iter().map(|path| &of.entries[path]);
        let kept = kept.filter(|kept| kept.meta.text("kind") == Some("file") && kept.reused == reused);
        kept.map(|kept| kept.meta.path.as_str().rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!(files(&second, false), ["new", "second name", "a-b", "third%FF"]);
    assert_eq!(files(&second, true), [".env", "100%25 new%0Aline", "b", "disk.img", "not%FFutf8", "图片"]);

    // A file that was changed in the very moment of the first run is not trusted to look different.
    let now = FilesSource::new(name(), config(&[&root], &[]), Ground::system(), NoMonitor::shared());
    fs::write(root.join("hot"), "1").unwrap();
    let first = read(now.clone(), None).await.unwrap();
    let second = read(now, Some(first.remembered())).await.unwrap();
    assert!(files(&second, false).contains(&"hot".to_owned()));
}

#[tokio::test]
async fn restoring_to_the_old_paths_follows_the_rules_of_replace() {
    let here = tempfile::tempdir().unwrap();
    let root = tree(here.path());
    let snapshot = read(source(&[&root]), None).await.unwrap();
    let target = || Box::new(FilesTarget::new(name(), config(&[&root], &[]), NoMonitor::shared()));
    fs::write(root.join(".env"), "SECRET=changed").unwrap();
    fs::write(root.join("unrelated"), "mine").unwrap();

    let refused = failure(snapshot.write(target(), all(false)).await);
    assert_eq!(refused.exit(), ExitCode::TargetNotEmpty);
    assert!(refused.to_string().contains("entries"), "{refused}");
    assert_eq!(fs::read(root.join(".env")).unwrap(), b"SECRET=changed");

    let only = Selection::new(&[root.join(".env").to_str().unwrap().to_owned()]).unwrap();
    fs::remove_file(root.join("a.sh")).unwrap();
    let tally = snapshot
        .write(target(), WriteOptions { replace: true, only, ..WriteOptions::default() })
        .await
        .unwrap();
    assert_eq!(tally.verified, Verified::Counts);
    assert_eq!(fs::read(root.join(".env")).unwrap(), b"SECRET=1\n");
    assert!(!root.join("a.sh").exists());

    snapshot.write(target(), all(true)).await.unwrap();
    assert!(root.join("a.sh").exists());
    assert_eq!(fs::read(root.join("unrelated")).unwrap(), b"mine");
    let drafts = fs::read_dir(&root)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".lifeboat-"));
    assert_eq!(drafts.count(), 0);

    fs::remove_dir_all(&root).unwrap();
    snapshot.write(target(), all(false)).await.unwrap();
    assert_eq!(fs::read(root.join("a-b")).unwrap().len(), 3 << 20);
}

#[tokio::test]
async fn what_cannot_be_kept_is_reported() {
    let here = tempfile::tempdir().unwrap();
    let root = here.path().join("r");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("good"), "good").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let missing = here.path().join("missing");
    let seen = read(source(&[&root, &missing]), None).await.unwrap();
    assert_eq!(seen.entries.len(), 2);
    let what: Vec<&str> = seen.problems.iter().map(|problem| problem.what.as_str()).collect();
    assert_eq!(what, [missing.to_str().unwrap()]);
    // A socket is nothing that could be kept: it makes no snapshot partial.
    let seen = read(source(&[&root]), None).await.unwrap();
    assert_eq!((seen.entries.len(), seen.problems.len()), (2, 0));

    let failed = failure(read(source(&[&missing]), None).await);
    assert_eq!(failed.exit(), ExitCode::SourceDown);
}

#[tokio::test]
async fn excluded_paths_and_all_below_are_left_out() {
    let here = tempfile::tempdir().unwrap();
    let root = tree(here.path());
    let out = [root.join("a").to_str().unwrap().to_owned(), "*.sh".to_owned()];
    let out: Vec<&str> = out.iter().map(String::as_str).collect();
    let source = FilesSource::new(name(), config(&[&root], &out), Ground::system(), NoMonitor::shared());
    let seen = read(source, None).await.unwrap();
    let names: Vec<&str> = seen.order.iter().filter_map(|path| path.rsplit('/').next()).collect();
    assert!(!names.contains(&"b") && !names.contains(&"a.sh") && names.contains(&"a-b"), "{names:?}");
}

#[tokio::test]
async fn a_log_that_grows_is_kept_up_to_where_it_was() {
    let here = tempfile::tempdir().unwrap();
    let root = here.path().join("r");
    fs::create_dir(&root).unwrap();
    let log = root.join("log");
    fs::write(&log, vec![b'x'; 8 << 20]).unwrap();
    let grown = read_while(source(&[&root]), || {
        fs::File::options().append(true).open(&log).unwrap().write_all(b"more").unwrap();
    })
    .await;
    assert!(grown.problems.is_empty(), "{:?}", grown.problems);
    assert_eq!(grown.file("log").bytes, vec![b'x'; 8 << 20]);

    let shrunk = read_while(source(&[&root]), || {
        fs::File::options().write(true).open(&log).unwrap().set_len(6 << 20).unwrap();
    })
    .await;
    assert_eq!(shrunk.problems.len(), 1);
    assert!(shrunk.file("log").trailer.contains_key("torn"));
    // And the next run does not take it for whole.
    let next = read(source(&[&root]), Some(shrunk.remembered())).await.unwrap();
    assert!(!next.file("log").reused);
    // It is still worth having, with a word about it.
    let there = tempfile::tempdir().unwrap();
    let tally = shrunk.write(into(there.path()), all(false)).await.unwrap();
    assert!(tally.notes.iter().any(|note| note.contains("shrank")), "{:?}", tally.notes);
}

#[tokio::test]
async fn a_file_that_is_rewritten_while_it_is_read_is_never_taken_for_whole() {
    let here = tempfile::tempdir().unwrap();
    let root = here.path().join("r");
    fs::create_dir(&root).unwrap();
    let file = root.join("db");
    let rewrite = |size: usize| {
        let old = fs::metadata(&file).unwrap().modified().unwrap();
        let mut there = fs::File::options().write(true).open(&file).unwrap();
        there.write_all(&vec![b'b'; size]).unwrap();
        // A program may set the time back.
        there.set_modified(old).unwrap();
    };
    let mebibytes = 16 << 20;
    for size in [mebibytes, mebibytes + 10, 2 * mebibytes] {
        fs::write(&file, vec![b'a'; mebibytes]).unwrap();
        let seen = read_while(source(&[&root]), || rewrite(size)).await;
        let what: Vec<&str> = seen.problems.iter().map(|problem| problem.why.as_str()).collect();
        assert_eq!(what, ["it changed while it was read"], "{size}");
        assert!(seen.file("db").trailer.contains_key("torn"));
    }
    // Nor is one torn of which only the mode changed.
    let seen = read_while(source(&[&root]), || {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    });
    assert_eq!(seen.await.problems.len(), 0);
}

#[tokio::test]
async fn a_path_that_is_long_and_no_text_comes_back() {
    let here = tempfile::tempdir().unwrap();
    let root = here.path().join("r");
    let mut deep = root.clone();
    // As a program with another encoding writes them: 1.6 kB, three times as long when escaped.
    for folder in 0_u8..8 {
        deep.push(OsStr::from_bytes(&[&[0xb0 + folder][..], &[0xce; 200]].concat()));
    }
    fs::create_dir_all(&deep).unwrap();
    let twin = deep.join(OsStr::from_bytes(&[0xcf]));
    for path in [&deep.join(OsStr::from_bytes(&[0xce])), &twin] {
        fs::write(path, path.as_os_str().as_bytes()).unwrap();
    }
    let seen = read(source(&[&root]), None).await.unwrap();
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    let there = tempfile::tempdir().unwrap();
    seen.write(into(there.path()), all(false)).await.unwrap();
    assert_eq!(fs::read(below(there.path(), &twin)).unwrap(), twin.as_os_str().as_bytes());
    let next = read(source(&[&root]), Some(seen.remembered())).await.unwrap();
    assert!(next.entries.values().filter(|kept| !kept.bytes.is_empty()).all(|kept| kept.reused));
}

#[tokio::test]
async fn a_broken_stream_is_never_a_success() {
    let there = tempfile::tempdir().unwrap();
    let meta = EntryMeta::new(fixed_path("a/b"), Stage::Data, "/a")
        .with("kind", "file")
        .with("mode", "0644")
        .with("path", "/a/b");
    conformance::a_broken_stream_is_never_a_success(into(there.path()), "/a", meta.clone()).await;
    assert_eq!(fs::read_dir(there.path().join("a")).unwrap().count(), 0);
    let folder = EntryFolder::new(name(), there.path().join("entries"));
    conformance::a_broken_stream_is_never_a_success(Box::new(folder), "/a", meta).await;
    assert!(!there.path().join("entries/ENTRIES.jsonl").exists());
}

#[tokio::test]
async fn entries_of_any_source_become_plain_files() {
    let there = tempfile::tempdir().unwrap();
    let long = "n".repeat(1000);
    let paths = ["mysql/im.sql", "a", "a/b", "a/b/c", "c/d", "c", "ENTRIES.jsonl", "%bucket/b.json", &long];
    let entry = |path: &&str| {
        let meta = EntryMeta::new(EntryPath::new(path).unwrap(), Stage::Data, "x").with("n", 1);
        let trailer = [("rows".to_owned(), 3.into())].into();
        Kept { meta, trailer, bytes: path.as_bytes().to_vec(), reused: false }
    };
    let snapshot = Snapshot::of("x", paths.iter().map(entry).collect());
    let tally = snapshot.write(Box::new(EntryFolder::new(name(), there.path())), all(false)).await.unwrap();
    assert_eq!(tally.entries, paths.len() as u64);
    assert_eq!(tally.notes.len(), 5, "{:?}", tally.notes);

    let sidecar = fs::read_to_string(there.path().join("ENTRIES.jsonl")).unwrap();
    let mut seen = BTreeMap::new();
    for line in sidecar.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = line["entry"]["path"].as_str().unwrap().to_owned();
        let file = line["file"].as_str().unwrap().to_owned();
        assert_eq!(fs::read(there.path().join(&file)).unwrap(), path.as_bytes(), "{file}");
        assert_eq!(line["trailer"]["rows"], 3);
        assert_eq!(line["sha256"].as_str().unwrap().len(), 64);
        seen.insert(path, file);
    }
    assert_eq!(seen["a"], "a%");
    assert_eq!(seen["a/b"], "a/b%");
    assert_eq!(seen["c"], "c%");
    assert_eq!(seen["ENTRIES.jsonl"], "ENTRIES.jsonl%");
    assert_eq!(seen["mysql/im.sql"], "mysql/im.sql");
    assert!(seen[&long].len() <= 255);

    let again = failure(snapshot.write(Box::new(EntryFolder::new(name(), there.path())), all(false)).await);
    assert_eq!(again.exit(), ExitCode::TargetNotEmpty);
    snapshot.write(Box::new(EntryFolder::new(name(), there.path())), all(true)).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn any_names_survive_a_copy(names in prop::collection::btree_set(prop::collection::vec(1_u8.., 1..12), 1..6)) {
        let here = tempfile::tempdir().unwrap();
        let there = tempfile::tempdir().unwrap();
        let names: Vec<Vec<u8>> = names.into_iter()
            .map(|name| name.into_iter().map(|b| if b == b'/' { b'_' } else { b }).collect())
            .filter(|name: &Vec<u8>| name != b"." && name != b"..")
            .collect();
        for name in &names {
            fs::write(here.path().join(OsStr::from_bytes(name)), name).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let copied = runtime.block_on(pipe(Box::new(source(&[here.path()])), into(there.path()), all(false)));
        prop_assert!(copied.is_ok(), "{:?}", copied.err());
        for name in &names {
            let copy = below(there.path(), here.path()).join(OsStr::from_bytes(name));
            prop_assert_eq!(&fs::read(copy).unwrap(), name);
        }
    }
}

/// Returns where a path goes below a folder.
fn below(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path.strip_prefix("/").unwrap())
}

#[derive(Clone, Debug)]
struct Kept {
    meta: EntryMeta,
    trailer: Attrs,
    bytes: Vec<u8>,
    reused: bool,
}

#[derive(Debug)]
struct Snapshot {
    inventory: Vec<String>,
    order: Vec<String>,
    entries: BTreeMap<String, Kept>,
    problems: Vec<Problem>,
}

struct Remembered(std::vec::IntoIter<PreviousEntry>);

#[async_trait]
impl Previous for Remembered {
    async fn next(&mut self) -> Result<Option<PreviousEntry>> {
        Ok(self.0.next())
    }
}

impl Snapshot {
    fn of(item: &str, kept: Vec<Kept>) -> Self {
        let order = kept.iter().map(|kept| kept.meta.path.to_string()).collect();
        let entries = kept.into_iter().map(|kept| (kept.meta.path.to_string(), kept)).collect();
        let mut snapshot = Self { inventory: vec![item.to_owned()], order, entries, problems: vec![] };
        snapshot.entries.values_mut().for_each(|kept| item.clone_into(&mut kept.meta.item));
        snapshot
    }

    fn file(&self, name: &str) -> &Kept {
        self.entries.iter().find(|(path, _)| path.rsplit('/').next() == Some(name)).unwrap().1
    }

    fn remembered(&self) -> Box<dyn Previous> {
        let entry = |path: &String| {
            let kept = &self.entries[path];
            PreviousEntry {
                meta: kept.meta.clone(),
                trailer: kept.trailer.clone(),
                size_bytes: kept.bytes.len() as u64,
                reuse: Reuse(Bytes::from(kept.bytes.clone())),
            }
        };
        Box::new(Remembered(self.order.iter().map(entry).collect::<Vec<_>>().into_iter()))
    }

    async fn write(&self, target: Box<dyn Target>, options: WriteOptions) -> FlowResult<Tally> {
        let (sink, stream) = channel(STREAM_DEPTH);
        let only = options.only.clone();
        let send = async {
            sink.announce(self.inventory.clone()).await?;
            for path in &self.order {
                let kept = &self.entries[path];
                if only.wants(&kept.meta) {
                    let mut body = sink.begin(kept.meta.clone()).await?;
                    body.write(Bytes::from(kept.bytes.clone())).await?;
                    body.finish_with(kept.trailer.clone()).await?;
                }
            }
            self.inventory.iter().for_each(|item| sink.complete(item));
            sink.finish(Point::at(System.now())).await
        };
        let (up, written) = tokio::join!(send, target.write(options, stream));
        settle(up, written).map(|((), tally)| tally)
    }
}

async fn read(source: FilesSource, previous: Option<Box<dyn Previous>>) -> FlowResult<Snapshot> {
    read_with(source, previous, || {}).await
}

/// Reads a source and does something after the first bytes of the first big file.
async fn read_while(source: FilesSource, meanwhile: impl FnOnce()) -> Snapshot {
    read_with(source, None, meanwhile).await.unwrap()
}

async fn read_with(
    source: FilesSource,
    previous: Option<Box<dyn Previous>>,
    meanwhile: impl FnOnce(),
) -> FlowResult<Snapshot> {
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let receive = async {
        let (mut order, mut entries, mut meanwhile) = (Vec::new(), BTreeMap::new(), Some(meanwhile));
        while let Some(mut entry) = stream.next().await? {
            order.push(entry.meta.path.to_string());
            let mut bytes = Vec::new();
            let reused = entry.body.reused().cloned();
            match &reused {
                Some(Reuse(kept)) => bytes.extend_from_slice(kept),
                None => {
                    while let Some(some) = entry.body.next().await? {
                        bytes.extend_from_slice(&some);
                        if let Some(act) = meanwhile.take() {
                            act();
                        }
                    }
                }
            }
            let (meta, trailer) = (entry.meta.clone(), entry.body.trailer().clone());
            entries.insert(meta.path.to_string(), Kept { meta, trailer, bytes, reused: reused.is_some() });
        }
        FlowResult::Ok((order, entries))
    };
    let (sent, received) = tokio::join!(Box::new(source).read(sink, previous), receive);
    let ((), (order, entries)) = settle(sent, received)?;
    let (inventory, problems) = (stream.inventory().to_vec(), stream.problems().to_vec());
    Ok(Snapshot { inventory, order, entries, problems })
}

/// A source whose paths lose a prefix, so that a copy below a folder can be compared with its original.
struct Moved {
    inner: FilesSource,
    prefix: PathBuf,
}

#[async_trait]
impl Source for Moved {
    fn name(&self) -> &SourceName {
        self.inner.name()
    }

    async fn read(self: Box<Self>, sink: EntrySink, _: Option<Box<dyn Previous>>) -> FlowResult<()> {
        let prefix = self.prefix.to_str().unwrap().to_owned();
        let all = read(self.inner, None).await?;
        let cut = |text: &str| text.replace(&prefix, "");
        sink.announce(all.inventory.iter().map(|item| cut(item)).collect()).await?;
        for path in &all.order {
            let Kept { mut meta, trailer, bytes, .. } = all.entries[path].clone();
            (meta.item, meta.select) = (cut(&meta.item), cut(&meta.select));
            meta.path = EntryPath::new(&path[prefix.len()..]).unwrap();
            for name in ["path", "same_as"] {
                if let Some(text) = meta.text(name).map(cut) {
                    meta.attrs.insert(name.to_owned(), text.into());
                }
                let hexed = format!("{name}_hex");
                if let Some(text) = meta.text(&hexed).map(|text| text.replace(&hex::encode(&prefix), "")) {
                    meta.attrs.insert(hexed, text.into());
                }
            }
            let mut body = sink.begin(meta).await?;
            body.write(bytes.into()).await?;
            body.finish_with(trailer).await?;
        }
        all.inventory.iter().for_each(|item| sink.complete(&cut(item)));
        sink.finish(Point::at(System.now())).await
    }
}
