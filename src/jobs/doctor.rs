//! Looks at what a backup needs before it needs it: the keys, the secrets, the state folder and the stores.
//!
//! *Order.* What is free of effects comes first. A store is written to only when a repository is found at the
//! policy's place, for a disk that is not mounted must not be written beside; what is put there is small, lies
//! under `probe/` and is deleted again. A copy elsewhere may still be empty and is tried out as it is.
//!
//! The sources are not looked at yet: `backup` tells what is wrong with them.

use std::{os::unix::fs::MetadataExt, path::Path};

use crate::{
    clock::Ground,
    crypt::{Identities, SigningKey, files},
    error::{Context, ExitCode, Failure, Result},
    names::ByteCount,
    policy::{Stack, StoreConfig},
    repo::format::layout,
    store::{self, Opened, PROBES, probe::Status, probe::probe},
};

/// With less than this free the next pack may be the one that does not fit.
const ROOM_MIN_BYTES: u64 = 64 * 1024 * 1024;
/// With a smaller share free a person should look.
const ROOM_MIN_PERCENT: u64 = 10;

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name for programs: `repository.race`, `key.signing`.
    pub id: String,
    /// Whether it is as it must be.
    pub status: Status,
    /// What must be true.
    pub what: String,
    /// What was seen.
    pub detail: String,
    /// What to do, if anything is to be done.
    pub hint: Option<String>,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One for each thing that was looked at.
    pub findings: Vec<Finding>,
    /// Whether a store does not answer, is full or refuses us.
    pub store_is_down: bool,
}

impl Report {
    /// Returns how a run with these findings ends.
    pub fn exit(&self) -> ExitCode {
        if self.store_is_down {
            ExitCode::StoreDown
        } else if self.findings.iter().any(|finding| finding.status == Status::Broken) {
            ExitCode::Failed
        } else {
            ExitCode::Ok
        }
    }

    fn add(&mut self, id: impl Into<String>, what: &str, seen: Seen) {
        let Seen(status, detail, hint) = seen;
        self.findings.push(Finding { id: id.into(), status, what: what.to_owned(), detail, hint });
    }
}

/// How a thing was found, the detail, and what to do.
struct Seen(Status, String, Option<String>);

impl Seen {
    fn ok(detail: impl Into<String>) -> Self {
        Self(Status::Ok, detail.into(), None)
    }

    fn not_ok(status: Status, detail: impl Into<String>, hint: &str) -> Self {
        Self(status, detail.into(), Some(hint.to_owned()))
    }

    fn failed(failure: &Failure) -> Self {
        let hint = (!failure.hints().is_empty()).then(|| failure.hints().join(" "));
        Self(Status::Broken, failure.chain().join(": "), hint)
    }
}

/// Looks at everything that the policy names but its sources.
pub async fn doctor(stack: &Stack, ground: &Ground) -> Report {
    let mut report = Report::default();
    keys(stack, &mut report);
    secrets(stack, &mut report);
    report.add("state_dir", "the state folder can be written", state_dir(stack));
    place("repository", &stack.repository.place, true, ground, &mut report).await;
    for offsite in &stack.offsites {
        let name = format!("offsite.{}", offsite.name);
        place(&name, &offsite.place, false, ground, &mut report).await;
    }
    report
}

fn keys(stack: &Stack, report: &mut Report) {
    let settings = &stack.repository.settings;
    let index = settings.index_key();
    let opens = Identities::from_file(&index).map(drop);
    report.add("key.index", "the index key opens and is its owner's alone", key(&index, opens));
    let signing = settings.signing_key();
    let opens = SigningKey::from_file(&signing).and_then(|signing| is_believed(&signing, &settings.signers));
    report.add("key.signing", "the signing key is believed and its owner's alone", key(&signing, opens));
    let identity = settings.keys.join(files::IDENTITY);
    if identity.exists() {
        let seen = match key(&identity, Identities::from_file(&identity).map(drop)) {
            Seen(Status::Ok, path, _) => Seen::not_ok(
                Status::Warn,
                format!("{path} opens every backup, to whoever takes over this host too"),
                "Copy it to two places off this host, try one of them with --identity, then remove it here.",
            ),
            seen => seen,
        };
        report.add("key.identity", "the recovery identity is kept offline", seen);
    }
}

fn is_believed(signing: &SigningKey, signers: &[String]) -> Result<()> {
    if signers.contains(&signing.public()) {
        return Ok(());
    }
    let what = format!("the signing key `{}` is not among the policy's signers", signing.public());
    Err(Failure::new(ExitCode::KeyRefused, what).hint("Add it to `signers` in [repository]."))
}

/// Looks at one key file: whether it can be used, and who else can.
fn key(path: &Path, opens: Result<()>) -> Seen {
    let shown = path.display();
    if let Err(failure) = opens {
        return Seen::failed(&failure);
    }
    let (mode, owner) = match std::fs::metadata(path) {
        Ok(metadata) => (metadata.mode() & 0o777, metadata.uid()),
        Err(error) => return Seen::not_ok(Status::Broken, format!("{shown}: {error}"), "Check the path."),
    };
    let us = rustix::process::geteuid();
    if mode & 0o077 != 0 {
        let hint = format!("Run `chmod 600 {shown}`; if others may have read it, make new keys.");
        Seen::not_ok(Status::Broken, format!("{shown} has mode {mode:04o}: others may use it"), &hint)
    } else if owner != us.as_raw() {
        let detail = format!("{shown} belongs to user {owner}, this is user {}", us.as_raw());
        Seen::not_ok(
            Status::Warn,
            detail,
            "Run this as the user that makes the backups, or change the owner.",
        )
    } else {
        Seen::ok(shown.to_string())
    }
}

/// Tells of each secret that cannot be read, or that all can.
fn secrets(stack: &Stack, report: &mut Report) {
    const WHAT: &str = "the policy's secrets can be read";
    let (all, before) = (stack.secrets(), report.findings.len());
    for (name, secret) in &all {
        if let Err(failure) = secret.resolve() {
            let Seen(status, detail, hint) = Seen::failed(&failure);
            report.add("secret", WHAT, Seen(status, format!("{name}: {detail}"), hint));
        }
    }
    if report.findings.len() == before {
        report.add("secret", WHAT, Seen::ok(format!("{} of {}", all.len(), all.len())));
    }
}

fn state_dir(stack: &Stack) -> Seen {
    let folder = super::open::state_dir(stack);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        tempfile::tempfile_in(&folder).map(drop)
    };
    match write() {
        Ok(()) => Seen::ok(folder.display().to_string()),
        Err(error) => Seen::not_ok(
            Status::Broken,
            format!("{}: {error}", folder.display()),
            "Set state_dir in the policy to a folder that this user may write.",
        ),
    }
}

/// Looks at one store. `is_home`: whether a repository must be there already.
async fn place(name: &str, config: &StoreConfig, is_home: bool, ground: &Ground, report: &mut Report) {
    let opened = config.resolve().and_then(|options| store::open(&config.store, &options));
    let opened = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            return report.add(format!("{name}.settings"), "the store can be opened", Seen::failed(&failure));
        }
    };
    if is_home {
        let (seen, is_down) = repository(&opened).await;
        let is_there = seen.0 == Status::Ok;
        report.add(format!("{name}.there"), "there is a repository", seen);
        report.store_is_down |= is_down;
        if !is_there {
            return;
        }
    }
    let findings = probe(&opened, ground).await;
    // The one finding of a store that does not even answer.
    report.store_is_down |= findings.len() == 1;
    for found in findings {
        let seen = Seen(found.status, found.detail, found.hint);
        report.add(format!("{name}.{}", found.id), found.law, seen);
    }
    if let Some(root) = config.text("root").filter(|_| config.store == "fs") {
        report.add(format!("{name}.room"), "there is room for the next packs", room(root, &opened).await);
    }
}

/// Looks for a repository, and tells whether the store is down.
async fn repository(opened: &Opened) -> (Seen, bool) {
    let looked = match opened.get.size(&layout::config()).await {
        // A folder that is missing holds no object; that it does not list tells that it is missing.
        Ok(None) => opened.get.list(PROBES).await.map(|_| false),
        other => other.map(|size_bytes| size_bytes.is_some()),
    };
    match looked {
        Ok(true) => (Seen::ok(opened.place.clone()), false),
        Ok(false) => {
            let detail = format!("nothing of one lies at {}; the store was left untouched", opened.place);
            let hint = "Check that the disk is mounted and that the policy names the right place.";
            (Seen::not_ok(Status::Broken, detail, hint), false)
        }
        Err(error) => (Seen::failed(&error.failure()), true),
    }
}

/// Looks how full a folder's file system is.
async fn room(root: &str, opened: &Opened) -> Seen {
    let measure = || -> Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(root)
            .failed(ExitCode::StoreDown, || format!("the file system of `{root}` does not tell its size"))?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    };
    let (free_bytes, all_bytes) = match measure() {
        Ok(measured) => measured,
        Err(failure) => return Seen::failed(&failure),
    };
    let mut detail = format!("{} of {} are free", ByteCount(free_bytes), ByteCount(all_bytes));
    match opened.delete.trash().await {
        Ok(trash) if trash.objects > 0 => {
            detail = format!("{detail}; {} lie in the trash", ByteCount(trash.size_bytes));
        }
        Ok(_) => {}
        Err(error) => return Seen::failed(&error.failure()),
    }
    match enough(free_bytes, all_bytes) {
        Status::Ok => Seen::ok(detail),
        status => Seen::not_ok(status, detail, "Free space, or move the repository to a larger disk."),
    }
}

/// Judges how much room is left.
fn enough(free_bytes: u64, all_bytes: u64) -> Status {
    if free_bytes < ROOM_MIN_BYTES {
        Status::Broken
    } else if free_bytes < all_bytes / 100 * ROOM_MIN_PERCENT {
        Status::Warn
    } else {
        Status::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn room_is_judged_by_bytes_and_by_share() {
        for (free_bytes, all_bytes, status) in [
            (50 * GIB, 100 * GIB, Status::Ok),
            (9 * GIB, 100 * GIB, Status::Warn),
            (ROOM_MIN_BYTES, 100 * GIB, Status::Warn),
            (ROOM_MIN_BYTES - 1, ROOM_MIN_BYTES, Status::Broken),
            (0, 0, Status::Broken),
        ] {
            assert_eq!(enough(free_bytes, all_bytes), status, "{free_bytes} of {all_bytes}");
        }
    }

    #[test]
    fn only_what_is_broken_fails_and_a_store_that_is_down_comes_first() {
        let mut report = Report::default();
        for status in [Status::Ok, Status::Warn, Status::Unknown] {
            report.add("x", "x", Seen(status, String::new(), None));
        }
        assert_eq!(report.exit(), ExitCode::Ok);
        report.add("x", "x", Seen(Status::Broken, String::new(), None));
        assert_eq!(report.exit(), ExitCode::Failed);
        report.store_is_down = true;
        assert_eq!(report.exit(), ExitCode::StoreDown);
    }
}
