//! What a person chooses about a restore into `MinIO`: `--iam`.

use clap::Args;

use crate::{
    error::{ExitCode, Failure, Result},
    jobs::registry::Into,
    policy::{SourceConfig, SourceKind},
};

/// The choice as the command line has it.
#[derive(Debug, Default, Args)]
pub(super) struct S3Choosing {
    /// Put users, groups and rights back too: those of the same name are replaced, others stay (needs `admin` in the
    /// policy)
    #[arg(long, help_heading = "Choices for MinIO")]
    pub(super) iam: bool,
}

impl S3Choosing {
    /// Refuses a choice that no server could follow. `sources` are those that are restored.
    pub(super) fn check(&self, sources: &[(&SourceConfig, Option<&Into>)]) -> Result<()> {
        let goes = |(one, into): &(&SourceConfig, Option<&Into>)| {
            matches!(one.kind, SourceKind::S3(_)) && !matches!(into, Some(Into::Folder(_)))
        };
        if !self.iam || sources.iter().any(goes) {
            return Ok(());
        }
        let what = "--iam is about MinIO, and no S3 server is restored".to_owned();
        Err(Failure::new(ExitCode::Usage, what).hint("Leave it out, or add the source with --source."))
    }
}
