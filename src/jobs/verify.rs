//! Verify: looks whether all that was stored is there, whole and unchanged.
//!
//! *Order.* Structure first, then the bytes, those that were read longest ago before the others; see `repo::verify`.

use super::{
    open::Opening,
    run::{Outcome, Remembered, RunContext, noted, stopped},
    seen::PlaceSeen,
};
use crate::{
    crypt::Identities,
    error::{ExitCode, Result},
    names::{Job, Task},
    repo::{VerifyOptions, VerifyReport},
};

/// What a person asks of a verify.
#[derive(Default)]
pub struct Wanted {
    /// The offsite; the stack's repository when none is named.
    pub offsite: Option<String>,
    /// The share of the data that is read, in percent.
    pub read_percent: f64,
    /// Opens the data, if somebody who can is there. Without it packs are read and compared with their names.
    pub identity: Option<Identities>,
}

/// Returns how a process that found this ends.
pub fn exit_of(report: &VerifyReport) -> ExitCode {
    match &report.damage[..] {
        [] => ExitCode::Ok,
        damage if damage.iter().any(|damage| damage.tampering) => ExitCode::Tampering,
        _ => ExitCode::Damage,
    }
}

impl Remembered for VerifyReport {
    fn outcome(&self) -> Outcome {
        let first = self.damage.iter().find(|one| one.tampering).or(self.damage.first());
        Outcome {
            exit: Some(exit_of(self)),
            message: first.map(|one| format!("`{}`: {}", one.object, one.what)),
            hint: first.map(|_| {
                "Run `lifeboat verify --read-data` to see all of it, and which snapshots it concerns."
                    .to_owned()
            }),
            place: PlaceSeen { snapshots: Some(self.snapshots), ..PlaceSeen::default() },
            ..Outcome::default()
        }
    }
}

/// Looks at the repository or at a copy, as a run.
pub async fn of_stack(context: RunContext<'_>, wanted: Wanted) -> Result<VerifyReport> {
    let RunContext { stack, ground, monitor, stop, .. } = context;
    let task = Task { job: Job::Verify, place: wanted.offsite.clone() };
    let work = Box::pin(async {
        let opening = Opening::named(stack, wanted.offsite.as_deref(), monitor)?;
        let options = VerifyOptions { read_percent: wanted.read_percent };
        // Whoever has no key still sees whether all is there and nobody changed it.
        if wanted.identity.is_some() || stack.repository.settings.index_key().exists() {
            opening.look(stack, wanted.identity, monitor).await?.verify(options, ground, monitor).await
        } else {
            opening.clear().await?.verify(options, ground, monitor).await
        }
    });
    noted(context, &task, async { stop.run_until_cancelled(work).await.unwrap_or_else(|| Err(stopped())) })
        .await
}
