//! What a person chooses about a restore of S3: `--iam`, `--as-of`.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use clap::Args;

use crate::{
    error::{ExitCode, Failure, Result},
    jobs::{registry::Into, when::When},
    policy::{SourceConfig, SourceKind},
};

/// The choices as the command line has them.
#[derive(Debug, Default, Args)]
pub(super) struct S3Choosing {
    /// Put users, groups and rights back too: those of the same name are replaced, others stay (needs `admin` in the
    /// policy)
    #[arg(long, help_heading = "Choices for S3 and MinIO")]
    pub(super) iam: bool,
    /// What each key showed at this time, of the versions that the snapshot has: 20251011-150000, RFC 3339, or "2 hours
    /// ago"
    #[arg(long, value_name = "TIME", help_heading = "Choices for S3 and MinIO")]
    as_of: Option<String>,
}

impl S3Choosing {
    /// Reads the time as of which objects are wanted, where it is not the latest.
    pub(super) fn as_of(&self, zone: Tz, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
        let Some(text) = &self.as_of else { return Ok(None) };
        match When::parse(text, zone, now)? {
            When::NotAfter(time) => Ok(Some(time)),
            When::Latest | When::Id(_) => {
                Err(Failure::new(ExitCode::Usage, format!("`{text}` of --as-of is no time"))
                    .hint("Say 20251011-150000, 2025-10-11T15:00:00+08:00, or \"2 hours ago\"."))
            }
        }
    }

    /// Refuses a choice that no server could follow. `sources` are those that are restored.
    pub(super) fn check(&self, sources: &[(&SourceConfig, Option<&Into>)]) -> Result<()> {
        let is_s3 = |one: &SourceConfig| matches!(one.kind, SourceKind::S3(_));
        let goes = |(one, into): &(&SourceConfig, Option<&Into>)| {
            is_s3(one) && !matches!(into, Some(Into::Folder(_)))
        };
        if self.iam && !sources.iter().any(goes) {
            let what = "--iam is about MinIO, and no S3 server is restored".to_owned();
            return Err(
                Failure::new(ExitCode::Usage, what).hint("Leave it out, or add the source with --source.")
            );
        }
        if self.as_of.is_some()
            && let Some((other, _)) = sources.iter().find(|one| !goes(one))
        {
            let what = format!(
                "--as-of is about versions of objects in an S3 server, and `{}` is restored",
                other.name
            );
            return Err(
                Failure::new(ExitCode::Usage, what).hint("Name the sources of S3 alone with --source.")
            );
        }
        Ok(())
    }
}
