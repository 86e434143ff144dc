//! Whether what is gone of a bucket may be gone.
//!
//! A bad listing must not look like deletions: what is too much ends the reading of the source, and its older snapshots
//! stay what the next run is compared with, until a person says that it is right.

use globset::GlobSet;

use super::{
    client::Server,
    listing::Lister,
    merge::{Change, Shrink},
};
use crate::{
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::Problem,
    names::SourceName,
};

/// Judges the buckets of one source.
pub(super) struct Judge {
    pub(super) server: Server,
    pub(super) name: SourceName,
    pub(super) monitor: SharedMonitor,
    pub(super) shrink: Shrink,
}

impl Judge {
    /// Fails when too much of a bucket is gone; it is listed again first, for a server that is being started may show
    /// less than it has.
    pub(super) async fn bucket(&self, bucket: &str, change: Change) -> Result<()> {
        let Shrink::Percent(percent) = self.shrink else { return Ok(()) };
        let Some(why) = change.anomaly(percent) else {
            if let Some(what) = change.turnover(percent) {
                self.monitor.warn(Some(&self.name), format!("bucket `{bucket}`: {what}"), None);
            }
            return Ok(());
        };
        let (mut lister, mut again) = (Lister::new(&self.server, bucket), 0_u64);
        while lister.next().await?.is_some() {
            again += 1;
        }
        let found = again.saturating_sub(change.listed);
        let now = Change { gone: change.gone.saturating_sub(found), listed: again, ..change };
        if again > change.listed && now.anomaly(percent).is_none() {
            let what = format!("the listing of bucket `{bucket}` of `{}` cannot be trusted", self.name);
            let why = format!("it had {} objects and, a moment later, {again}", change.listed);
            let hint = "Nothing was taken for deleted. Run the backup again once the server is well.";
            return Err(Failure::new(ExitCode::SourceDown, what).because(why).hint(hint));
        }
        self.refuse(format!("bucket `{bucket}` of `{}` has lost too much", self.name), &why)
    }

    /// Judges a bucket that the snapshot before had and that was not met. That one is taken no more is a change of the
    /// policy, and to be reported; one that is taken and not there is a loss.
    pub(super) fn gone(&self, bucket: &str, wanted: &GlobSet) -> Result<Option<Problem>> {
        if wanted.is_match(bucket) {
            let why = "the previous snapshot had objects in it, now the server does not show it";
            return self.refuse(format!("bucket `{bucket}` of `{}` is gone", self.name), why).map(|()| None);
        }
        let why = "the previous snapshot had objects in it, now the policy does not take it".to_owned();
        Ok(Some(Problem { what: format!("bucket {bucket}"), why }))
    }

    /// Fails for an anomaly, unless a person said that it is right.
    pub(super) fn refuse(&self, what: String, why: &str) -> Result<()> {
        if self.shrink == Shrink::Accepted {
            self.monitor.step(Some(&self.name), format!("{what}, which was accepted: {why}"));
            return Ok(());
        }
        let hint = format!(
            "If that is right, run `lifeboat backup {} --accept-shrink` once. If not, look at the server: older snapshots \
             are as they were.",
            self.name
        );
        Err(Failure::new(ExitCode::SourceDown, what).because(why.to_owned()).hint(hint))
    }
}
