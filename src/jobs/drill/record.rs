//! The report of a drill: rendered, signed, put into its folder, into the repository and into the catalog.
//!
//! *Order.* The trend of earlier drills goes into the report first; files are written and signed; the proof is stored
//! in the place that was drilled and in the stack's repository, its signature last; the catalog is told. *Crash.* What
//! is missing then is missing: a proof without its signature proves nothing, and the next drill makes its own.

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
        self.troubles.push((failure.one_line(), failure.first_hint().map(str::to_owned)));
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
    match store(context, opened, report, &files).await {
        Ok(()) => recorded.stored = true,
        Err(failure) => recorded.note(&failure),
    }
    let noted = ledger.and_then(|ledger| ledger.note_drill(report, recorded.folder.as_deref()));
    if let Err(failure) = noted {
        recorded.note(&failure);
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

/// Stores the signed proof where the drill read from, and in the stack's repository, from which copies get it.
async fn store(
    context: RunContext<'_>,
    opened: &Opened,
    report: &Report,
    files: &[(String, Vec<u8>)],
) -> Result<()> {
    let RunContext { stack, monitor, .. } = context;
    let refs = opened.refs;
    let proven = opened.opening.record_proof(stack, report, refs, files).await?.proven;
    note_proven(context, &opened.from, proven)?;
    if opened.from == REPOSITORY {
        return Ok(());
    }
    let recorded = Opening::new(stack, monitor)?.record_proof(stack, report, refs, files).await;
    let recorded = recorded.map_err(|failure| {
        failure.hint("The offsite has the proof. Prune of the repository does not know of it.")
    })?;
    note_proven(context, REPOSITORY, recorded.proven)
}

/// Notes how many snapshots of a place are proven now.
fn note_proven(context: RunContext<'_>, place: &str, proven: Option<u64>) -> Result<()> {
    let seen = PlaceSeen { proven, ..PlaceSeen::default() };
    seen::note_place(&*context.ledger()?, place, seen, context.ground.clock.now())
}
