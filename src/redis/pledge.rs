//! What a restore owes a server: noted before anything of it is changed, given back by whoever comes next.
//!
//! A server that follows us takes no writes, and a lifeboat that is killed cannot let it go. So the next restore and
//! the next doctor look for a note whose writer is dead, and do what it could not. A server that is filled key by key
//! holds a part until it is done: they say so until it is filled again.
//!
//! *Order.* The file is made, locked and on disk with the old value of each setting before the first of them changes.
//! Each address is added before the server is told to follow it, and that the whole dump goes over before its last
//! byte does. The file goes when the server is a primary with its own settings again.
//!
//! *Crash.* The kernel lets the lock go with the process. A line that is torn was not yet acted upon. Nothing secret
//! is in the file: a `masterauth` that the server had is used and not changed, and ours is noted as a hash.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    control::Control,
    home::{Home, make_folder, sync_names},
    server::Server,
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    finding::{Finding, Status, laws},
    names::SourceName,
    policy::RedisConfig,
};

laws! {
    page "redis";
    TAKEN = "redis.taken",
        "no restore that was killed has left the server a replica, or filled in part",
        "Run `lifeboat doctor` again when the server answers: it lets the server go.";
}

/// Bytes of a note that are read.
const NOTE_BYTES_MAX: u64 = 1 << 20;

/// A setting that a takeover changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    /// Its name.
    pub(super) name: String,
    /// What it was.
    pub(super) old: String,
    /// SHA-256 of what it becomes, as hex.
    pub(super) new_sha256: String,
}

impl Change {
    /// Makes the note of a change.
    pub(super) fn new(name: &str, old: &str, new: &str) -> Self {
        Self { name: name.to_owned(), old: old.to_owned(), new_sha256: sha256(new) }
    }
}

/// What must be given back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owed {
    /// The source's name.
    pub(super) source: String,
    /// The server's url.
    pub(super) url: String,
    /// The settings.
    pub(super) changes: Vec<Change>,
    /// Keys by database before.
    pub(super) before: BTreeMap<u64, u64>,
    /// Keys by database of the dump, where they are known.
    pub(super) wanted: Option<BTreeMap<u64, u64>>,
    /// Where what the server held was put.
    pub(super) safety: Option<PathBuf>,
    /// What is filled key by key, where it does not follow us.
    #[serde(default)]
    pub(super) filling: Option<Place>,
}

/// What of a server a restore fills, and empties before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// All of it.
    Whole,
    /// One database.
    Database(u64),
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Owed(Owed),
    Asked { host: String, port: u16 },
    Whole,
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Note {
    /// Of the last restore.
    owed: Option<Owed>,
    /// What one or more of them filled in part, with the copy that the first of these made: those of later ones hold
    /// the part.
    filled: Option<Owed>,
    asked: Vec<(String, u16)>,
    whole: bool,
}

impl Note {
    fn of(text: &str) -> Self {
        let mut note = Self::default();
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(Line::Owed(owed)) => {
                    note.fill(&owed);
                    note.owed = Some(owed);
                }
                Ok(Line::Asked { host, port }) => note.asked.push((host, port)),
                Ok(Line::Whole) => note.whole = true,
                Err(_) => {}
            }
        }
        note
    }

    fn fill(&mut self, owed: &Owed) {
        if owed.filling.is_none() {
            return;
        }
        let filled = self.filled.get_or_insert_with(|| owed.clone());
        if owed.filling == Some(Place::Whole) {
            filled.filling = owed.filling;
        }
        if filled.safety.is_none() {
            filled.safety.clone_from(&owed.safety);
        }
    }
}

/// A note that is being kept; its file is locked as long as this lives.
#[derive(Clone, Debug)]
pub(super) struct Pledge {
    file: Arc<Mutex<File>>,
    path: PathBuf,
    /// What restores that were killed before have filled in part.
    left: Option<Owed>,
}

impl Pledge {
    /// Notes what will be owed, where this host has a place for notes. One without room or rights for a note must be
    /// able to restore all the same.
    pub(super) fn begin_at(home: Option<&Home>, owed: Owed, monitor: &SharedMonitor) -> Result<Option<Self>> {
        let source = SourceName::new(&owed.source).ok();
        match home.map(|home| Self::begin(home, owed)) {
            None => Ok(None),
            Some(Ok(pledge)) => Ok(Some(pledge)),
            Some(Err(failure)) if failure.exit() == ExitCode::Busy => Err(failure),
            Some(Err(failure)) => {
                let hint = "Were this restore killed, nobody would know what it left.";
                monitor.warn(source.as_ref(), failure.one_line(), Some(hint));
                Ok(None)
            }
        }
    }

    /// Notes what will be owed; on return it is on disk.
    fn begin(home: &Home, owed: Owed) -> Result<Self> {
        let path = home.folder.join(file_name(&owed.source, &owed.url));
        let what = || format!("the note `{}` for the time of the restore cannot be written", path.display());
        make_folder(&home.folder).failed(ExitCode::Failed, what)?;
        // What was filled in part is owed until all is done again.
        let left = read(&path)?.and_then(|(_, note)| note.filled);
        let is_new = left.is_none();
        let opened =
            fs::OpenOptions::new().append(true).create(true).create_new(is_new).mode(0o600).open(&path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(busy(&path)),
            opened => opened.failed(ExitCode::Failed, what)?,
        };
        flock(&file, FlockOperation::NonBlockingLockExclusive).failed(ExitCode::Failed, what)?;
        let pledge = Self { file: Arc::new(Mutex::new(file)), path: path.clone(), left };
        pledge
            .add(&Line::Owed(owed))
            .and_then(|()| sync_names(&home.folder))
            .failed(ExitCode::Failed, what)?;
        Ok(pledge)
    }

    /// Notes an address that the server will be told to follow.
    pub(super) fn asked(&self, host: &str, port: u16) -> Result<()> {
        let line = Line::Asked { host: host.to_owned(), port };
        let what = || format!("the note `{}` cannot be written", self.path.display());
        self.add(&line).failed(ExitCode::Failed, what)
    }

    /// Notes that the server will have the whole dump.
    pub(super) fn whole(&self) -> io::Result<()> {
        self.add(&Line::Whole)
    }

    fn add(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&text)?;
        file.sync_data()
    }

    /// Takes the note away: what was wanted is in its place, and nothing is owed any more.
    pub(super) fn paid(self) -> Result<()> {
        remove(&self.path)
    }

    /// Ends what this restore owes, which has failed and said so; what an earlier one filled in part stays owed.
    pub(super) fn given_back(self) -> Result<()> {
        settle(&self.path, self.left.as_ref())
    }
}

/// Makes a note say nothing but that a place was filled in part, or goes, where none was.
fn settle(path: &Path, filled: Option<&Owed>) -> Result<()> {
    let Some(filled) = filled else { return remove(path) };
    let what = || format!("the note `{}` cannot be written", path.display());
    let write = || -> io::Result<()> {
        let mut text = serde_json::to_vec(&Line::Owed(filled.clone()))?;
        text.push(b'\n');
        // No name of a note, so that nobody reads the half of one.
        let next = path.with_extension("next");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&text)?;
        file.sync_data()?;
        fs::rename(&next, path)?;
        path.parent().map_or(Ok(()), sync_names)
    };
    write().failed(ExitCode::Failed, what)
}

/// Returns the copies that notes name: what they are of can be had from nowhere else.
pub(super) fn copies(home: &Home) -> Vec<PathBuf> {
    let notes = fs::read_dir(&home.folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let notes = notes.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    let owed = notes.filter_map(|path| fs::read_to_string(path).ok()).flat_map(|text| {
        let note = Note::of(&text);
        [note.owed, note.filled]
    });
    owed.flatten().filter_map(|owed| owed.safety).collect()
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path)
        .and_then(|()| path.parent().map_or(Ok(()), sync_names))
        .failed(ExitCode::Failed, || format!("the note `{}` cannot be removed", path.display()))
}

fn busy(path: &Path) -> Failure {
    Failure::new(ExitCode::Busy, "another restore into this server is under way on this host")
        .because(format!("it holds `{}`", path.display()))
        .hint("Wait until it ends.")
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

fn prefix(source: &str) -> String {
    format!("takeover-{source}-")
}

fn file_name(source: &str, url: &str) -> String {
    format!("{}{}.jsonl", prefix(source), &sha256(url)[..8])
}

/// Lets a server go that a restore left because it was killed. Returns what was done, if there was anything.
///
/// A server that may hold neither the old nor the new data is let go only where what comes replaces that.
pub(super) async fn repay(home: &Home, server: &Arc<Server>, owner: &Owner<'_>) -> Result<Option<String>> {
    let path = home.folder.join(file_name(owner.name.as_str(), &owner.config.url));
    let Some((_lock, note)) = read(&path)? else { return Ok(None) };
    let Some(owed) = note.owed.clone() else { return remove(&path).map(|()| None) };
    if owed.filling.is_some() {
        return may_fill(server, &note, owner, &path);
    }
    let mut control = Control::open(server).await?;
    let may_empty = owner.replaces == Some(Place::Whole);
    let done = release(&mut control, server, &note, &owed, may_empty).await?;
    for change in &owed.changes {
        let now = control.settings(&change.name).await?;
        // What somebody has set since is theirs.
        if now.get(&change.name).is_some_and(|now| sha256(now) == change.new_sha256) {
            control.set(&change.name, &change.old).await?;
        }
    }
    settle(&path, note.filled.as_ref())?;
    Ok(Some(match may_fill(server, &note, owner, &path)? {
        Some(more) => format!("{done}; {more}"),
        None => done,
    }))
}

/// Fails when a place was filled in part, unless what comes replaces it.
fn may_fill(server: &Server, note: &Note, owner: &Owner<'_>, path: &Path) -> Result<Option<String>> {
    let Some(filled) = &note.filled else { return Ok(None) };
    let what = format!("a restore of {}, key by key, was killed before its end", server.shown());
    if owner.replaces != Some(Place::Whole) && owner.replaces != filled.filling {
        return Err(half_filled(what, filled, path));
    }
    Ok(Some(format!("{what}; what it left is now replaced")))
}

/// Whose server it is, and what may become of it.
pub(super) struct Owner<'a> {
    /// The source's name.
    pub(super) name: &'a SourceName,
    /// How it is reached.
    pub(super) config: &'a RedisConfig,
    /// What of it is to be replaced anyhow.
    pub(super) replaces: Option<Place>,
}

/// Reads a note whose writer is dead, and locks it.
fn read(path: &Path) -> Result<Option<(File, Note)>> {
    let what = || format!("the note `{}` of an interrupted restore cannot be read", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.failed(ExitCode::Failed, what)?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(busy(path)),
        locked => locked.failed(ExitCode::Failed, what)?,
    }
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(&file, NOTE_BYTES_MAX), &mut text)
        .failed(ExitCode::Failed, what)?;
    Ok(Some((file, Note::of(&String::from_utf8_lossy(&text)))))
}

/// Ends that the server follows an address of ours.
async fn release(
    control: &mut Control,
    server: &Server,
    note: &Note,
    owed: &Owed,
    may_empty: bool,
) -> Result<String> {
    let replication = control.info("replication").await?;
    let field = |name: &str| replication.get(name).map_or("", String::as_str);
    let is_ours = |(host, port): &(String, u16)| {
        host == field("master_host") && port.to_string() == field("master_port")
    };
    let shown = server.shown();
    if field("role") == "master" || !note.asked.iter().any(is_ours) {
        return Ok(format!(
            "a restore of {shown} was killed before; the server does not follow it, and its settings were put back"
        ));
    }
    let held = control.keys_by_db().await?;
    let holds = if owed.wanted.as_ref() == Some(&held) && note.whole {
        "the restored data"
    } else if !note.whole || held == owed.before {
        "the data that it had"
    } else if may_empty {
        "less than it had, which is now replaced"
    } else {
        return Err(neither(&shown, owed));
    };
    let _: String = control.ask(&["REPLICAOF", "NO", "ONE"]).await?;
    Ok(format!(
        "a restore of {shown} was killed before and had left it a replica; it was let go with {holds}"
    ))
}

fn half_filled(what: String, owed: &Owed, note: &Path) -> Failure {
    let held = match owed.filling {
        Some(Place::Database(db)) => format!("database {db} may hold a part of the snapshot only"),
        _ => "it may hold a part of the snapshot only".to_owned(),
    };
    let failure = Failure::new(ExitCode::Failed, what).because(held).hint(format!(
        "Restore again with --replace. If it was put right in another way, remove `{}`.",
        note.display()
    ));
    match &owed.safety {
        Some(file) => failure.hint(super::safety::how_to_load(file)),
        None => failure,
    }
}

fn neither(shown: &str, owed: &Owed) -> Failure {
    let what = format!(
        "{shown} was left as a replica by a restore that was killed, with neither the old nor the new data"
    );
    let failure = Failure::new(ExitCode::Failed, what).hint(
        "Restore all of it with --replace; or restart it, if it has appendonly yes, to load its own append-only file; \
         or run REPLICAOF NO ONE to keep what it holds now.",
    );
    match &owed.safety {
        Some(file) => failure.hint(super::safety::how_to_load(file)),
        None => failure,
    }
}

/// Looks for notes of a source, and lets its server go if one was left. A source without notes has no finding.
pub async fn examine(name: &SourceName, config: &RedisConfig, home: &Home) -> Vec<Finding> {
    let Ok(server) = Server::of(name, config).map(Arc::new) else { return Vec::new() };
    let mut findings = Vec::new();
    match repay(home, &server, &Owner { name, config, replaces: None }).await {
        Ok(None) => {}
        Ok(Some(done)) => findings.push(TAKEN.found(Status::Warn, done).hint("Nothing: it is done.")),
        // A restore that is at work is no finding.
        Err(failure) if failure.exit() == ExitCode::Busy => return findings,
        Err(failure) => findings.push(TAKEN.failed(Status::Broken, &failure)),
    }
    for url in elsewhere(home, name, &config.url) {
        let what =
            format!("a restore into `{url}` was killed and may have left it a replica, or filled in part");
        let hint = format!(
            "Run the restore again with --into {name}={url}; or, where it is a replica: REPLICAOF NO ONE, CONFIG SET masterauth \"\"."
        );
        findings.push(TAKEN.found(Status::Warn, what).hint(hint));
    }
    findings
}

/// Returns the other servers that notes of a source are about, if their writers are dead.
fn elsewhere(home: &Home, name: &SourceName, url: &str) -> Vec<String> {
    let Ok(listed) = fs::read_dir(&home.folder) else { return Vec::new() };
    let mut urls: Vec<String> = listed
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix(name.as_str())))
        .filter_map(|entry| read(&entry.path()).ok().flatten()?.1.owed)
        .filter(|owed| owed.source == name.as_str() && owed.url != url)
        .map(|owed| owed.url)
        .collect();
    urls.sort();
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owed() -> Owed {
        Owed {
            source: "redis".into(),
            url: "redis://a".into(),
            changes: vec![Change::new("masterauth", "", "t0ken")],
            before: [(0, 3)].into(),
            ..Owed::default()
        }
    }

    #[test]
    fn a_note_holds_what_is_owed_and_nothing_secret() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home { folder: folder.path().join("state"), recipients: Vec::new() };
        let pledge = Pledge::begin(&home, owed()).unwrap();
        pledge.asked("172.17.0.1", 4000).unwrap();
        let path = pledge.path.clone();
        assert_eq!(read(&path).unwrap_err().exit(), ExitCode::Busy, "its writer lives");
        assert_eq!(Pledge::begin(&home, owed()).unwrap_err().exit(), ExitCode::Busy);
        assert!(elsewhere(&home, &SourceName::new("redis").unwrap(), "redis://b").is_empty());
        pledge.whole().unwrap();
        drop(pledge);

        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("t0ken"), "{text}");
        let (_lock, note) = read(&path).unwrap().unwrap();
        let asked = vec![("172.17.0.1".to_owned(), 4000)];
        assert_eq!(note, Note { owed: Some(owed()), asked, whole: true, ..Note::default() });
    }

    #[test]
    fn notes_about_other_servers_of_a_source_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home { folder: folder.path().to_owned(), recipients: Vec::new() };
        drop(Pledge::begin(&home, owed()).unwrap());
        let name = SourceName::new("redis").unwrap();
        assert_eq!(elsewhere(&home, &name, "redis://b"), ["redis://a"]);
        assert!(elsewhere(&home, &name, "redis://a").is_empty());
        assert!(elsewhere(&home, &SourceName::new("red").unwrap(), "redis://b").is_empty());
    }

    #[test]
    fn what_was_filled_in_part_stays_owed_until_a_restore_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home { folder: folder.path().to_owned(), recipients: Vec::new() };
        let filling = |safety: &str| Owed {
            filling: Some(Place::Whole),
            safety: Some(PathBuf::from(safety)),
            ..owed()
        };
        let first = Pledge::begin(&home, filling("/good")).unwrap();
        let path = first.path.clone();
        // It is killed, and so is the next one, which copied the part.
        drop(first);
        drop(Pledge::begin(&home, filling("/part")).unwrap());
        // One that takes the server over fails before it changes anything, and one that fills it as well.
        Pledge::begin(&home, owed()).unwrap().given_back().unwrap();
        Pledge::begin(&home, filling("/another")).unwrap().given_back().unwrap();
        let (lock, note) = read(&path).unwrap().unwrap();
        assert_eq!(note.filled.unwrap().safety, Some(PathBuf::from("/good")));
        assert!(copies(&home).contains(&PathBuf::from("/good")));
        drop(lock);
        Pledge::begin(&home, filling("/last")).unwrap().paid().unwrap();
        assert!(!path.exists() && copies(&home).is_empty());
        // Without such a debt nothing stays.
        Pledge::begin(&home, owed()).unwrap().given_back().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_torn_line_says_nothing() {
        let whole = serde_json::to_string(&Line::Owed(owed())).unwrap();
        assert_eq!(Note::of(&whole[..whole.len() / 2]), Note::default());
        assert_eq!(Note::of(&format!("{whole}\n\"who")), Note { owed: Some(owed()), ..Note::default() });
    }
}
