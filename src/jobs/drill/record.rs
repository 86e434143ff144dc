//! The report of a drill: rendered, signed, put into its folder, into the repository and into the catalog.
//!
//! *Order.* The trend of earlier drills goes into the report first; files are written and signed; the proof is stored
//! in the place that was drilled and in the stack's repository, its signature last; the catalog is told. What cannot be
//! done is told and keeps nothing else from being done. *Crash.* What is missing then is missing: a proof without its
//! signature proves nothing, and the next drill makes its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Opened, REPOSITORY};
use crate::{
    crypt::SigningKey,
    drill::{Report, Way},
    error::{Context, ExitCode, Failure, Result},
    jobs::{
        open::{Opening, state_dir},
        run::RunContext,
        seen::{self, PlaceSeen},
    },
    policy::Stack,
    report,
};

/// What became of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The folder with its files.
    pub folder: Option<PathBuf>,
    /// Whether the repository has the signed proof.
    pub stored: bool,
    /// What could not be done, and what to do about it.
    pub troubles: Vec<(String, Option<String>)>,
}

impl Recorded {
    fn note(&mut self, failure: &Failure) {
        let told = (failure.one_line(), failure.first_hint().map(str::to_owned));
        if !self.troubles.contains(&told) {
            self.troubles.push(told);
        }
    }

    /// Returns what could not be done, in one line.
    pub fn trouble(&self) -> Option<String> {
        let first = |(what, _): &(String, _)| what.lines().next().unwrap_or_default().to_owned();
        let told = self.troubles.iter().map(first).collect::<Vec<_>>().join("; ");
        (!told.is_empty()).then_some(told)
    }
}

/// Returns the drill before of this way, if the catalog has it.
pub(super) fn previous(context: RunContext<'_>, way: Way) -> Option<Report> {
    let ledger = context.ledger().ok()?;
    let last = ledger.last_told_drill(way).ok()??;
    ledger.drill_report(&last.id).ok()?
}

/// Records a report. Nothing that goes wrong here changes what the drill found.
pub(super) async fn record(context: RunContext<'_>, opened: &Opened, report: &mut Report) -> Recorded {
    let mut recorded = Recorded::default();
    let ledger = context.ledger();
    match ledger.as_ref().map(|ledger| ledger.drill_trend(report.way)) {
        Ok(Ok(trend)) => report.trend = trend,
        Ok(Err(failure)) => recorded.note(&failure),
        Err(failure) => recorded.note(failure),
    }
    let files = match files(context.stack, report) {
        Ok(files) => files,
        Err(failure) => {
            recorded.note(&failure);
            Vec::new()
        }
    };
    match write(context.stack, report, &files) {
        Ok(folder) => recorded.folder = Some(folder),
        Err(failure) => recorded.note(&failure),
    }
    store(context, opened, report, &files, &mut recorded).await;
    let noted = ledger.and_then(|ledger| {
        ledger.note_drill(report, recorded.folder.as_deref())?;
        ledger.note_drill_trouble(&report.id, recorded.trouble().as_deref())
    });
    if let Err(failure) = noted {
        recorded.note(&failure);
    }
    for (what, hint) in &recorded.troubles {
        context.monitor.warn(None, what.clone(), hint.as_deref());
    }
    recorded
}

/// Returns the files of a report, each with its signature where this host can sign.
fn files(stack: &Stack, report: &Report) -> Result<Vec<(String, Vec<u8>)>> {
    let texts = [
        ("report.json", report::json(report)),
        ("report.html", report::html(report, stack.language)?.into_bytes()),
        ("junit.xml", report::junit(report).into_bytes()),
    ];
    let path = stack.repository.settings.signing_key();
    let signing = if path.exists() { Some(SigningKey::from_file(&path)?) } else { None };
    let mut files = Vec::new();
    for (name, bytes) in texts {
        if let Some(signing) = &signing {
            let comment = format!("drill {} of {}: {}", report.id, report.stack, report.outcome.word());
            files.push((format!("{name}.minisig"), signing.sign(&bytes, &comment)?.into_bytes()));
        }
        files.push((name.to_owned(), bytes));
    }
    Ok(files)
}

/// Writes the files into a folder of their own, readable by this user alone: they name tables, rows and keys.
fn write(stack: &Stack, report: &Report, files: &[(String, Vec<u8>)]) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let root = stack.drill.reports.clone().unwrap_or_else(|| state_dir(stack).join("drills"));
    let folder = root.join(format!("{}-{}", stack.name, report.id));
    let cannot = |path: &Path| format!("report `{}` cannot be written", path.display());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .failed(ExitCode::Failed, || cannot(&folder))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::write(&path, bytes).failed(ExitCode::Failed, || cannot(&path))?;
    }
    Ok(folder)
}

/// Stores the signed proof where the drill read from, and in the stack's repository, from which copies get it. A place
/// that cannot be written to keeps the proof from no other.
async fn store(
    context: RunContext<'_>,
    opened: &Opened,
    report: &Report,
    files: &[(String, Vec<u8>)],
    recorded: &mut Recorded,
) {
    let RunContext { stack, monitor, .. } = context;
    if !stack.repository.settings.signing_key().exists() {
        let what = "the drill proves nothing to others, for this host has no key that signs";
        let hint =
            "`lifeboat keys new` makes one; its public half belongs to signers in every host's policy.";
        return recorded.note(&Failure::new(ExitCode::KeyRefused, what).hint(hint));
    }
    let from = opened.from.as_str();
    let mut places = vec![(from, Ok(&opened.opening))];
    let repository = (from != REPOSITORY).then(|| Opening::new(stack, monitor));
    places.extend(repository.as_ref().map(|opening| (REPOSITORY, opening.as_ref())));
    for (place, opening) in places {
        let proof = match opening {
            Ok(opening) => opening.record_proof(stack, report, opened.refs, files).await,
            Err(failure) => Err(Failure::new(failure.exit(), failure.one_line())),
        };
        let noted = match proof {
            Ok(proof) => {
                recorded.stored |= place == REPOSITORY;
                note_proven(context, place, proof.proven)
            }
            Err(failure) => Err(not_there(place, failure)),
        };
        if let Err(failure) = noted {
            recorded.note(&failure);
        }
    }
}

fn not_there(place: &str, failure: Failure) -> Failure {
    Failure::new(failure.exit(), format!("the proof of the drill is not in `{place}`"))
        .because(failure)
        .hint("Whoever looks or prunes there does not know what it found. It needs a credential that may add objects.")
}

/// Notes how many snapshots of a place are proven now.
fn note_proven(context: RunContext<'_>, place: &str, proven: Option<u64>) -> Result<()> {
    let seen = PlaceSeen { proven, ..PlaceSeen::default() };
    seen::note_place(&*context.ledger()?, place, seen, context.ground.clock.now())
}
