//! Keys and secrets: whether they can be used, and who else can.

use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    crypt::{Identities, SigningKey, files},
    error::{ExitCode, Failure, Result},
    finding::{Finding, Law, Status, laws},
    policy::{SecretRef, Stack},
};

laws! {
    page "keys";
    INDEX = "key.index",
        "the index key opens and is its owner's alone",
        "Without it this host cannot see what is stored: restore it from its copy, or make a new one.";
    SIGNING = "key.signing",
        "the signing key is believed and its owner's alone",
        "Restore it from its copy, or make a new one and add it to `signers`.";
    IDENTITY = "key.identity",
        "the recovery identity is kept offline",
        "Copy it to two places off this host, try one of them with --identity, then remove it here.";
    READABLE = "secret.readable",
        "the policy's secrets can be read",
        "Check the path and that this user may read it.";
    MODE = "secret.mode",
        "files with secrets are their owner's alone",
        "Take the rights of group and others away: chmod 600.";
}

/// Looks at all keys and secrets.
pub(super) fn look(stack: &Stack) -> Vec<Finding> {
    let mut findings = keys(stack);
    findings.extend(secrets(stack));
    findings.push(modes(stack));
    findings
}

fn keys(stack: &Stack) -> Vec<Finding> {
    let settings = &stack.repository.settings;
    let index = settings.index_key();
    let opens = Identities::from_file(&index).map(drop);
    let mut findings = vec![key(&INDEX, &index, opens)];
    let signing = settings.signing_key();
    let opens = SigningKey::from_file(&signing).and_then(|signing| is_believed(&signing, &settings.signers));
    findings.push(key(&SIGNING, &signing, opens));
    let identity = settings.keys.join(files::IDENTITY);
    if identity.exists() {
        // One under a passphrase opens nothing by itself.
        let is_protected = Identities::is_protected(&identity);
        let opens = if is_protected { Ok(()) } else { Identities::from_file(&identity).map(drop) };
        let found = key(&IDENTITY, &identity, opens);
        findings.push(if found.status == Status::Ok {
            let whom = if is_protected { "has its passphrase" } else { "takes over this host" };
            let detail = format!("{} opens every backup, to whoever {whom} too", found.detail);
            IDENTITY.found(Status::Warn, detail)
        } else {
            found
        });
    }
    findings
}

fn is_believed(signing: &SigningKey, signers: &[String]) -> Result<()> {
    if signers.contains(&signing.public()) {
        return Ok(());
    }
    let what = format!("the signing key `{}` is not among the policy's signers", signing.public());
    Err(Failure::new(ExitCode::KeyRefused, what).hint("Add it to `signers` in [repository]."))
}

/// Looks at one key file: whether it can be used, and who else can.
fn key(law: &Law, path: &Path, opens: Result<()>) -> Finding {
    match opens {
        Err(failure) => law.failed(Status::Broken, &failure),
        Ok(()) => match exposure(path) {
            None => law.ok(path.display().to_string()),
            Some(Exposure { status, detail, hint }) => law.found(status, detail).hint(hint),
        },
    }
}

/// How a file with a secret lies open.
#[derive(Debug, PartialEq, Eq)]
struct Exposure {
    status: Status,
    detail: String,
    hint: String,
}

/// Returns how a file lies open to others; `None` when it is its owner's alone, and that is us.
fn exposure(path: &Path) -> Option<Exposure> {
    let shown = path.display();
    let exposed = |status, detail, hint: String| Some(Exposure { status, detail, hint });
    let (mode, owner) = match std::fs::metadata(path) {
        Ok(metadata) => (metadata.mode() & 0o777, metadata.uid()),
        Err(error) => {
            return exposed(Status::Broken, format!("{shown}: {error}"), "Check the path.".to_owned());
        }
    };
    let us = rustix::process::geteuid();
    if mode & 0o077 != 0 {
        let hint = format!("Run `chmod 600 {shown}`; if others may have read it, make new ones.");
        exposed(Status::Broken, format!("{shown} has mode {mode:04o}: others may use it"), hint)
    } else if owner != us.as_raw() {
        let detail = format!("{shown} belongs to user {owner}, this is user {}", us.as_raw());
        let hint = "Run this as the user that makes the backups, or change the owner.";
        exposed(Status::Warn, detail, hint.to_owned())
    } else {
        None
    }
}

/// Tells of each secret that cannot be read, or that all can.
fn secrets(stack: &Stack) -> Vec<Finding> {
    let all = stack.secrets();
    let unread = all.iter().filter_map(|(name, secret)| {
        let failure = secret.resolve().err()?;
        let found = READABLE.failed(Status::Broken, &failure);
        Some(Finding { detail: format!("{name}: {}", found.detail), ..found })
    });
    let unread: Vec<Finding> = unread.collect();
    if unread.is_empty() {
        return vec![READABLE.ok(format!("{} of {}", all.len(), all.len()))];
    }
    unread
}

/// Looks who else can read the files that the policy names for secrets. The policy's own file holds none.
fn modes(stack: &Stack) -> Finding {
    let path_of = |(_, secret): (String, &SecretRef)| match secret {
        SecretRef::File(path) => Some(path.clone()),
        SecretRef::Env(_) | SecretRef::Credential(_) => None,
    };
    let paths: BTreeSet<PathBuf> = stack.secrets().into_iter().filter_map(path_of).collect();
    let count = paths.len();
    // One that is not there was told as unreadable.
    let exposed: Vec<Exposure> =
        paths.iter().filter(|path| path.exists()).filter_map(|path| exposure(path)).collect();
    let Some(worst) = exposed.iter().map(|one| one.status).max() else {
        return MODE.ok(format!("{count} files"));
    };
    let join = |texts: Vec<&str>| texts.join("; ");
    let hints: Vec<&str> = exposed.iter().map(|one| one.hint.as_str()).collect();
    MODE.found(worst, join(exposed.iter().map(|one| one.detail.as_str()).collect())).hint(hints.join(" "))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_file_that_others_may_read_or_write_is_exposed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "x").unwrap();
        for (mode, status) in [
            (0o600, None),
            (0o400, None),
            (0o640, Some(Status::Broken)),
            (0o604, Some(Status::Broken)),
            (0o620, Some(Status::Broken)),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposure(&path).map(|one| one.status), status, "{mode:o}");
        }
    }
}
