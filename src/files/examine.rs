//! Looks whether files can be backed up: [`examine`].
//!
//! Every file is opened for reading and closed again; none is read. After [`PATHS_MAX`] paths the looking ends and says
//! so: what a person waits for is an answer, and a backup tells of each file anyway.

use std::{fs, path::PathBuf};

use super::{
    facts::Kind,
    found::Found,
    walk::{Step, Walk, plan},
};
use crate::{
    error::{Context, ExitCode, Result},
    finding::{Finding, Status, laws},
    policy::FilesConfig,
};

laws! {
    page "files";
    ANSWERS = "files.answers",
        "the paths of the policy are there",
        "Check `paths` of this source, and that what they lie on is mounted.";
    READABLE = "files.readable",
        "every file can be read",
        "Run lifeboat as a user that may read them, or leave them out with `exclude`.";
}

/// Paths that are looked at.
const PATHS_MAX: u64 = 100_000;
/// Paths that are named.
const NAMED_MAX: usize = 3;

/// Looks at all paths of one source.
pub async fn examine(config: &FilesConfig) -> Vec<Finding> {
    let config = config.clone();
    let looked = tokio::task::spawn_blocking(move || look(&config));
    let looked = looked.await.failed(ExitCode::Failed, || "looking at files was stopped".to_owned());
    looked.and_then(|looked| looked).unwrap_or_else(|failure| vec![ANSWERS.failed(Status::Broken, &failure)])
}

fn look(config: &FilesConfig) -> Result<Vec<Finding>> {
    let (roots, exclude) = plan(config)?;
    let is_there = |root: &&PathBuf| fs::symlink_metadata(root).is_ok();
    let (there, gone): (Vec<&PathBuf>, Vec<&PathBuf>) = roots.iter().partition(is_there);
    let answers = if gone.is_empty() {
        ANSWERS.ok(format!("{} paths", there.len()))
    } else {
        ANSWERS.broken(format!("not there: {}", named(&gone)))
    };
    if there.is_empty() {
        return Ok(vec![answers]);
    }
    let (mut seen, mut unreadable) = (0, Vec::new());
    for root in there {
        let Ok(mut walk) = Walk::new(root, exclude.clone()) else {
            unreadable.push(root.clone());
            continue;
        };
        while seen < PATHS_MAX
            && let Some(step) = walk.next()
        {
            let Step::Path(found) = step else { continue };
            seen += 1;
            if !can_be_read(&found, &mut walk) {
                unreadable.push(found.path().to_owned());
            }
        }
    }
    let more = if seen == PATHS_MAX { ", the others were not looked at" } else { "" };
    let readable = if unreadable.is_empty() {
        READABLE.ok(format!("{seen} paths{more}"))
    } else {
        let paths: Vec<&PathBuf> = unreadable.iter().collect();
        READABLE.broken(format!("{} of {seen} paths cannot be read{more}: {}", paths.len(), named(&paths)))
    };
    Ok(vec![answers, readable])
}

fn named(paths: &[&PathBuf]) -> String {
    let mut text: Vec<String> = paths.iter().take(NAMED_MAX).map(|path| path.display().to_string()).collect();
    if paths.len() > NAMED_MAX {
        text.push("…".to_owned());
    }
    text.join(", ")
}

/// Tries one path. What went away meanwhile, and what is no file at all, is nobody's fault.
fn can_be_read(found: &Found, walk: &mut Walk) -> bool {
    let Ok(seen) = found.look() else { return true };
    let is_gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    match Kind::of(&seen.meta) {
        Some(Kind::File) => found.open().map_or_else(|error| is_gone(&error), |_| true),
        Some(Kind::Folder) => walk.descend(found).map_or_else(|error| is_gone(&error), |()| true),
        Some(Kind::Link) | None => true,
    }
}
