//! Recovery without lifeboat, drilled: the repository's own `recover.sh` runs with stock tools in a lab, and what it
//! brings back is compared with what the snapshot says was stored.
//!
//! *Order.* What an earlier one left in the folder for the result goes first; then the repository is fetched, where it
//! is not a folder of this host; the script runs, and only if it says that all is well its files are compared, one
//! after the other, each removed once it was; what is left then is too much. *Crash.* The folder holds plain data: it
//! is removed at the end whatever came of it, and by the next one if lifeboat was killed.
//!
//! The script is not signed, and it is given an identity: one that lifeboat did not put there is not run. What runs are
//! the very bytes that were looked at: they lie in a folder of the drill's own that looks like the repository, by
//! links.
//!
//! *Limits.* One entry of the list and one piece of a file are in memory. The folder needs twice the plain bytes of the
//! snapshot, and room for its packs where they are fetched.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{ErrorKind, Read},
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use crate::{
    crypt::Identities,
    drill::{Assertion, FINDINGS_MAX, Question},
    error::{Context, ExitCode, Failure, Result},
    lab::{self, Ended, Lab, Program},
    names::ChunkId,
    repo::{
        self, Read as Readable, Repository, Snapshot,
        format::{EntryRecord, Manifest, SourceManifest},
    },
};

/// Where the script lies, beside links to what the repository has.
const REPOSITORY: &str = "/repository";
/// Where these lead: the repository, and how it is reached from the folder beside it.
const STORE: &str = "/store";
const BESIDE: &str = "../store";
/// Where it finds the identity.
const IDENTITY: &str = "/identity.txt";
/// Where it writes to.
const RESULT: &str = "/recovered";
/// The answer to whether the script can be run to its end.
const RUNS: &str = "recover.sh brings the snapshot back";
/// The answer to whether anything lacks that should have been stored.
const ALL: &str = "everything was brought back";
/// The answer to whether there is more than was stored.
const NO_MORE: &str = "nothing else was brought back";
/// Lines of the script's output that are shown when it failed.
const LINES_SHOWN: usize = 10;
/// Bytes of a file that are read at once.
const PIECE_BYTES: usize = 1 << 20;
/// A path of more bytes, or a name in it of so many, is too long for the script: it goes under its hash.
const PATH_BYTES_MAX: usize = 3000;
const NAME_BYTES_MIN: usize = 255;

/// What is recovered, from where, with what.
pub struct Recovery<'a> {
    /// The repository or a copy of it.
    pub repository: &'a Repository<Readable>,
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// What the snapshot should have and does not, a line each.
    pub lost: &'a [String],
    /// The folder that the repository lies in; where it lies elsewhere it is fetched first.
    pub folder: Option<&'a Path>,
    /// The file with the identity that opens the data; one under a passphrase is refused.
    pub identity: &'a Path,
    /// The public keys of all who sign in this repository, maintainers too, as they stand on the recovery sheet.
    pub signers: &'a [String],
    /// The image with the stock tools, in a lab of containers.
    pub image: Option<&'a str>,
    /// A folder of which the last part is this drill's alone: it is removed with all that is in it, before and after.
    pub scratch: &'a Path,
    /// How long the script may take.
    pub timeout: Duration,
}

/// Recovers a snapshot by hand and tells whether that worked. Fails where it is not known: a lab that does not run a
/// program, a folder that cannot be written. What was found until then is in `answers` all the same.
pub async fn recover(lab: &dyn Lab, what: &Recovery<'_>, answers: &mut Vec<Assertion>) -> Result<()> {
    clear(what.scratch).await?;
    let ended = recover_into(lab, what, answers).await;
    let cleared = clear(what.scratch).await;
    ended.and(cleared)
}

/// Removes what a drill that was killed left in its folder: plain data.
pub async fn clear(scratch: &Path) -> Result<()> {
    let gone = scratch.to_owned();
    let told = || format!("folder `{}` with recovered data cannot be removed", scratch.display());
    let removed =
        spawn_blocking(move || lab::remove_tree(&gone)).await.failed(ExitCode::DrillNotRun, told)?;
    removed.failed(ExitCode::DrillNotRun, told)
}

/// Returns where the identity is. In a lab nobody can type a passphrase.
fn identity(given: &Path) -> Result<PathBuf> {
    let told = || format!("the identity `{}` cannot be read", given.display());
    let path = fs::canonicalize(given).failed(ExitCode::DrillNotRun, told)?;
    if Identities::is_protected(&path) {
        let what =
            format!("the identity `{}` is under a passphrase, which nobody can type here", path.display());
        return Err(Failure::new(ExitCode::DrillNotRun, what)
            .hint(
                "Give the drill an identity that opens without one: identity in [drill], or --identity FILE.",
            )
            .hint("With a passphrase recover.sh runs at a terminal only: RECOVERY.md says how."));
    }
    Ok(path)
}

async fn recover_into(lab: &dyn Lab, what: &Recovery<'_>, answers: &mut Vec<Assertion>) -> Result<()> {
    let identity = identity(what.identity)?;
    let result = what.scratch.join("recovered");
    make(&result)?;
    let folder = if let Some(folder) = what.folder {
        folder.to_owned()
    } else {
        let fetched = what.scratch.join("fetched");
        make(&fetched)?;
        what.repository.fetch_for_recovery(&what.snapshot.refs, &fetched).await?;
        fetched
    };
    let folder = fs::canonicalize(&folder)
        .failed(ExitCode::DrillNotRun, || format!("folder `{}` is not there", folder.display()))?;
    let script = match fs::read(folder.join(repo::RECOVERY_SCRIPT)) {
        Ok(script) if repo::is_own_script(&script) => script,
        Ok(_) => {
            let why = "the script in the repository is not one that this lifeboat knows; it was not run";
            answers.push(not_run(why));
            return Ok(());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            answers.push(failed("there is no recover.sh in the repository"));
            return Ok(());
        }
        Err(error) => {
            answers.push(not_run(&format!("recover.sh cannot be read: {error}")));
            return Ok(());
        }
    };
    let view = view(&folder, &script, what.scratch).failed(ExitCode::DrillNotRun, || {
        format!("recover.sh cannot be put beside `{}`", folder.display())
    })?;
    let ended = lab.run(&program(what, &identity, &view, &folder, &result)).await?;
    answers.push(judge(&ended, what.timeout));
    if ended.code == Some(0) {
        answers.push(all_there(&what.snapshot.manifest, what.lost));
        for source in &what.snapshot.manifest.sources {
            answers.push(compare(what.snapshot, source, &result).await?);
        }
        answers.push(look_for_more(&what.snapshot.manifest, &result).await?);
    }
    Ok(())
}

fn make(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.failed(ExitCode::DrillNotRun, || format!("folder `{}` cannot be made", folder.display()))
}

/// Makes a folder that looks like the repository, with these bytes as its script: whoever may write to the repository
/// could have put others there meanwhile. The links lead to the same place on this host and in a container.
fn view(repository: &Path, script: &[u8], scratch: &Path) -> std::io::Result<PathBuf> {
    let view = scratch.join("repository");
    DirBuilder::new().mode(0o700).create(&view)?;
    symlink(repository, view.join(BESIDE))?;
    for item in fs::read_dir(repository)? {
        let name = item?.file_name();
        if name != repo::RECOVERY_SCRIPT {
            symlink(Path::new(BESIDE).join(&name), view.join(&name))?;
        }
    }
    fs::write(view.join(repo::RECOVERY_SCRIPT), script)?;
    Ok(view)
}

fn program(what: &Recovery<'_>, identity: &Path, view: &Path, folder: &Path, result: &Path) -> Program {
    let script = format!("{REPOSITORY}/{}", repo::RECOVERY_SCRIPT);
    let mut command: Vec<String> =
        ["bash", &script, "-i", IDENTITY, "-o", RESULT].into_iter().map(str::to_owned).collect();
    for signer in what.signers {
        command.extend(["-k".to_owned(), signer.clone()]);
    }
    command.push(what.snapshot.refs.snapshot.to_string());
    Program {
        name: repo::RECOVERY_SCRIPT.to_owned(),
        image: what.image.map(str::to_owned),
        beside: None,
        command,
        environment: BTreeMap::new(),
        read_only: vec![
            (view.to_owned(), REPOSITORY.into()),
            (folder.to_owned(), STORE.into()),
            (identity.to_owned(), IDENTITY.into()),
        ],
        writable: vec![(result.to_owned(), RESULT.into())],
        // It is given the identity, and has nobody to talk to.
        is_alone: true,
        timeout: what.timeout,
    }
}

fn failed(why: &str) -> Assertion {
    Assertion::failed(Question::Restored, RUNS, why)
}

fn not_run(why: &str) -> Assertion {
    Assertion::could_not_run(Question::Restored, RUNS, why)
}

/// Tells from how the script ended whether it brought the snapshot back. What the place lacked says nothing about the
/// repository.
fn judge(ended: &Ended, timeout: Duration) -> Assertion {
    let lines: Vec<&str> = ended.output.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.last().copied().unwrap_or("it said nothing");
    let lacks = lines.iter().rev().find(|line| {
        let is_missing = line.starts_with("recover.sh: ") && line.ends_with(" is not installed");
        // Which of its files this host lets nobody read is no news of the repository.
        let is_closed = line.starts_with("recover.sh: identity file ") && line.ends_with(" cannot be read");
        is_missing
            || is_closed
            || line.ends_with(": No space left on device")
            || line.to_ascii_lowercase().ends_with(": permission denied")
    });
    match ended.code {
        None => not_run(&format!("the script was not done after {} s", timeout.as_secs())),
        Some(0) => Assertion::held(Question::Restored, RUNS, "exit code 0"),
        Some(126 | 127) => not_run(last),
        Some(_) if lacks.is_some() => not_run(lacks.copied().unwrap_or(last)),
        Some(code) if code > 128 => not_run(&format!("the script was ended by signal {}", code - 128)),
        Some(code) => {
            let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
            let findings = shown.iter().map(|line| (*line).to_owned()).collect();
            failed(&format!("exit code {code}: {last}")).with_findings(findings, shown.len() as u64)
        }
    }
}

/// Tells whether a good recovery of this snapshot brings everything back. What the backup had left out nobody can bring
/// back, and of nothing nothing is proven.
fn all_there(manifest: &Manifest, lost: &[String]) -> Assertion {
    let mut missing = Findings::default();
    for failed in &manifest.failed {
        missing.tell(|| format!("{}: {}", failed.what, failed.why));
    }
    for source in &manifest.sources {
        for problem in &source.problems {
            missing.tell(|| format!("{}: {}: {}", source.name, problem.what, problem.why));
        }
    }
    for line in lost {
        missing.tell(|| line.clone());
    }
    let entries: u64 = manifest.sources.iter().map(|source| source.entries).sum();
    let detail = format!("{} sources, {entries} entries", manifest.sources.len());
    if missing.total > 0 {
        let detail = format!("{detail}; {} are missing", missing.total);
        Assertion::failed(Question::Restored, ALL, detail).with_findings(missing.named, missing.total)
    } else if entries == 0 {
        Assertion::could_not_run(Question::Restored, ALL, "the snapshot holds no entry")
    } else {
        Assertion::held(Question::Restored, ALL, detail)
    }
}

/// What did not hold: the first ones by name, all by count.
#[derive(Default)]
struct Findings {
    named: Vec<String>,
    total: u64,
}

impl Findings {
    fn tell(&mut self, finding: impl FnOnce() -> String) {
        self.total += 1;
        if self.named.len() < FINDINGS_MAX {
            self.named.push(finding());
        }
    }
}

/// What lies where an entry should.
enum Found {
    Nothing,
    NoFile,
    Sized(u64),
    Whole(ChunkId),
}

/// Compares the files of a source with its entries, and removes each file that was compared.
async fn compare(snapshot: &Snapshot, source: &SourceManifest, result: &Path) -> Result<Assertion> {
    let mut entries = snapshot.entries(source);
    let (mut count, mut size_bytes, mut findings) = (0_u64, 0_u64, Findings::default());
    while let Some(EntryRecord { meta, size_bytes: wanted, sha256, .. }) = entries.next().await? {
        count += 1;
        size_bytes = size_bytes.saturating_add(wanted);
        let path = meta.path.to_string();
        let place = place(result, source.name.as_str(), &path);
        let told = || format!("the file of `{path}` cannot be compared");
        let found = spawn_blocking(move || take(&place, wanted)).await.failed(ExitCode::DrillNotRun, told)?;
        match found.failed(ExitCode::DrillNotRun, told)? {
            Found::Whole(digest) if digest == sha256 => {}
            Found::Whole(_) => findings.tell(|| format!("`{path}` has other bytes than were stored")),
            Found::Sized(found) => {
                findings.tell(|| format!("`{path}` has {found} bytes instead of {wanted}"));
            }
            Found::Nothing => findings.tell(|| format!("`{path}` is missing")),
            Found::NoFile => findings.tell(|| format!("`{path}` is not a file")),
        }
    }
    let name = format!("`{}` recovered by hand is what was stored", source.name);
    let answer = if findings.total == 0 {
        let detail = format!("{count} entries, {size_bytes} bytes, each with its SHA-256");
        Assertion::held(Question::Contents, name, detail)
    } else {
        let detail = format!("{} of {count} entries are not what was stored", findings.total);
        Assertion::failed(Question::Contents, name, detail).with_findings(findings.named, findings.total)
    };
    Ok(answer.about(source.name.as_str()))
}

/// Returns where the script writes an entry: what has others below it is a folder, and its own bytes are beside it.
fn place(result: &Path, source: &str, path: &str) -> PathBuf {
    if path.len() > PATH_BYTES_MAX || path.split('/').any(|name| name.len() >= NAME_BYTES_MIN) {
        let hash = hex::encode(Sha256::digest(path));
        return result.join(format!("{source}%long-names")).join(hash);
    }
    let place = format!("{}/{source}/{path}", result.display());
    if Path::new(&place).is_dir() { PathBuf::from(place + "%") } else { place.into() }
}

/// Reads a file whole and removes it; one that has not the wanted size is not read.
fn take(place: &Path, wanted: u64) -> std::io::Result<Found> {
    let facts = match fs::symlink_metadata(place) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Found::Nothing);
        }
        facts => facts?,
    };
    if !facts.is_file() {
        return Ok(Found::NoFile);
    }
    let mut found = Found::Sized(facts.len());
    if facts.len() == wanted {
        let (mut file, mut hash) = (File::open(place)?, Sha256::new());
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(wanted).unwrap_or(PIECE_BYTES)).max(1)];
        loop {
            let count = file.read(&mut piece)?;
            if count == 0 {
                break;
            }
            hash.update(&piece[..count]);
        }
        found = Found::Whole(ChunkId(hash.finalize().into()));
    }
    fs::remove_file(place)?;
    Ok(found)
}

/// Looks for files that nobody stored, after those that somebody did were compared.
async fn look_for_more(manifest: &Manifest, result: &Path) -> Result<Assertion> {
    let mut own: Vec<PathBuf> =
        manifest.sources.iter().map(|one| result.join(format!("{}.entries.jsonl", one.name))).collect();
    own.push(result.join("manifest.json"));
    let (root, shown) = (result.to_owned(), result.display().to_string());
    let told = || format!("folder `{shown}` cannot be read");
    let walked = spawn_blocking(move || more(&root, &own)).await.failed(ExitCode::DrillNotRun, told)?;
    let findings = walked.failed(ExitCode::DrillNotRun, told)?;
    if findings.total == 0 {
        return Ok(Assertion::held(Question::Contents, NO_MORE, "each file is an entry"));
    }
    let detail = format!("{} files are no entries", findings.total);
    Ok(Assertion::failed(Question::Contents, NO_MORE, detail).with_findings(findings.named, findings.total))
}

fn more(root: &Path, own: &[PathBuf]) -> std::io::Result<Findings> {
    let mut findings = Findings::default();
    // One open folder a level.
    let mut open = vec![fs::read_dir(root)?];
    while let Some(folder) = open.last_mut() {
        let Some(item) = folder.next() else {
            open.pop();
            continue;
        };
        let item = item?;
        if item.file_type()?.is_dir() {
            open.push(fs::read_dir(item.path())?);
        } else if !own.contains(&item.path()) {
            let path = item.path();
            findings
                .tell(|| format!("`{}` was not stored", path.strip_prefix(root).unwrap_or(&path).display()));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::Answer;

    /// Of a snapshot that got nothing.
    fn manifest() -> Manifest {
        serde_json::from_value(serde_json::json!({
            "format": 1, "snapshot": "20261101T030000Z-7f3a", "stack": "town", "host": "tower",
            "lifeboat": "0.1.0", "began": "2026-11-01T03:00:00Z", "ended": "2026-11-01T03:01:00Z", "sources": [],
            "failed": [{"what": "redis", "why": "it did not answer"}],
        }))
        .unwrap()
    }

    fn judged(code: Option<i64>, output: &str) -> (Answer, String) {
        let ended = Ended { code, output: output.to_owned() };
        let answer = judge(&ended, Duration::from_mins(2));
        (answer.answer, answer.detail)
    }

    #[test]
    fn what_the_place_lacks_is_not_held_against_the_repository() {
        let not_run = |code, output: &str, detail: &str| {
            assert_eq!(judged(code, output), (Answer::CouldNotRun, detail.to_owned()));
        };
        not_run(None, "pack 1 of 9\n", "the script was not done after 120 s");
        not_run(Some(127), "`bash` is not installed on this host\n", "`bash` is not installed on this host");
        not_run(Some(1), "recover.sh: age is not installed\n", "recover.sh: age is not installed");
        let full = "zstd: error 70 : Write error: No space left on device";
        not_run(Some(1), &format!("{full}\nrecover.sh: pack ab cannot be opened\n"), full);
        let closed = "recover.sh: identity file /identity.txt cannot be read";
        not_run(Some(1), &format!("{closed}\n"), closed);
        let denied = "bash: /recovered/manifest.json: Permission denied";
        not_run(Some(1), &format!("{denied}\nrecover.sh: pack ab cannot be opened\n"), denied);
        not_run(Some(137), "Killed\n", "the script was ended by signal 9");
        let (answer, detail) = judged(Some(1), "pack 1 of 2\nrecover.sh: pack ab was changed\n");
        assert_eq!(
            (answer, detail.as_str()),
            (Answer::Failed, "exit code 1: recover.sh: pack ab was changed")
        );
    }

    #[test]
    fn what_the_snapshot_lost_is_missing_and_nothing_proves_nothing() {
        let answer = |manifest: &Manifest, lost: &[&str]| {
            let lost: Vec<String> = lost.iter().map(|&line| line.to_owned()).collect();
            let told = all_there(manifest, &lost);
            (told.answer, told.detail, told.findings)
        };
        let missing = |lines: &[&str], detail: &str| {
            (Answer::Failed, detail.to_owned(), lines.iter().map(|line| (*line).to_owned()).collect())
        };
        let mut partial = manifest();
        let (redis, mysql) = ("redis: it did not answer", "mysql: the snapshot does not have it");
        assert_eq!(answer(&partial, &[]), missing(&[redis], "0 sources, 0 entries; 1 are missing"));
        assert_eq!(
            answer(&partial, &[mysql]),
            missing(&[redis, mysql], "0 sources, 0 entries; 2 are missing")
        );
        partial.failed.clear();
        assert_eq!(answer(&partial, &[mysql]), missing(&[mysql], "0 sources, 0 entries; 1 are missing"));
        let nothing = (Answer::CouldNotRun, "the snapshot holds no entry".to_owned(), Vec::new());
        assert_eq!(answer(&partial, &[]), nothing);
    }
}
