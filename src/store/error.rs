//! What a store can fail with: coarse kinds that callers act on, the cause kept as the source.

use std::{error::Error, io};

use crate::{
    error::{ExitCode, Failure},
    names::Key,
};

type Cause = Box<dyn Error + Send + Sync + 'static>;

/// Why a store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("`{key}` is not in the store")]
    NotFound {
        /// The object.
        key: Key,
    },
    /// The name is taken; nothing was changed.
    #[error("`{key}` is in the store already")]
    Exists {
        /// The object.
        key: Key,
    },
    /// The object ends before the bytes that were asked for.
    #[error("`{key}` has {size_bytes} bytes, byte {wanted} was asked for")]
    Short {
        /// The object.
        key: Key,
        /// How many bytes it has.
        size_bytes: u64,
        /// The end of the range that was asked for.
        wanted: u64,
    },
    /// The store refuses us.
    #[error("the store refuses access to `{at}`")]
    Denied {
        /// The object or prefix.
        at: String,
        /// What the store said.
        source: Cause,
    },
    /// No space is left.
    #[error("the store has no space left for `{at}`")]
    Full {
        /// The object.
        at: String,
        /// What the store said.
        source: Cause,
    },
    /// The store does not answer, or says that it cannot now; trying later may help.
    #[error("the store does not answer for `{at}`")]
    Unavailable {
        /// The object or prefix.
        at: String,
        /// What happened instead.
        source: Cause,
    },
    /// The store answered with something that helps nobody; trying again will not help either.
    #[error("the store failed at `{at}`")]
    Broken {
        /// The object or prefix.
        at: String,
        /// What the store said.
        source: Cause,
    },
}

impl StoreError {
    /// Sorts an error of the operating system about `at`.
    pub(super) fn of_io(at: &str, error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let (at, kind) = (at.to_owned(), error.kind());
        let source = Box::new(error);
        match kind {
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Denied { at, source },
            Kind::StorageFull | Kind::QuotaExceeded => Self::Full { at, source },
            Kind::TimedOut | Kind::StaleNetworkFileHandle | Kind::HostUnreachable => {
                Self::Unavailable { at, source }
            }
            _ => Self::Broken { at, source },
        }
    }

    /// Returns whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Returns whether the name was taken.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::Exists { .. })
    }

    /// Turns the error into what a person is told, when no caller expected it.
    pub fn failure(self) -> Failure {
        let (exit, hint) = match &self {
            Self::NotFound { .. } | Self::Short { .. } => (
                ExitCode::Damage,
                "Something took bytes away from the repository: run `lifeboat verify`, and restore from another copy.",
            ),
            Self::Exists { .. } => (
                ExitCode::Failed,
                "Another run may have stored it; nothing was overwritten. Run `lifeboat verify` if it happens again.",
            ),
            Self::Denied { .. } => (
                ExitCode::StoreDown,
                "Check the store's credentials and that they may do this here; the system clock may also be wrong.",
            ),
            Self::Full { .. } => (
                ExitCode::StoreDown,
                "Free space or raise the quota, then run again: nothing half-written stays, no snapshot is harmed.",
            ),
            Self::Unavailable { .. } => (
                ExitCode::StoreDown,
                "Check the network, the endpoint and that the disk is mounted, then run again: it resumes.",
            ),
            Self::Broken { .. } => (
                ExitCode::StoreDown,
                "Check the store's settings in the policy; `lifeboat doctor` tries each operation.",
            ),
        };
        let failure = Failure::new(exit, self.to_string()).hint(hint);
        match self {
            Self::NotFound { .. } | Self::Exists { .. } | Self::Short { .. } => failure,
            Self::Denied { source, .. }
            | Self::Full { source, .. }
            | Self::Unavailable { source, .. }
            | Self::Broken { source, .. } => failure.because(source),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        error.failure()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_tells_the_thing_the_cause_and_what_to_do() {
        let error = StoreError::of_io("packs/ab/1", io::Error::from(io::ErrorKind::StorageFull));
        let failure = error.failure();
        assert_eq!(failure.exit(), ExitCode::StoreDown);
        assert_eq!(failure.chain(), ["the store has no space left for `packs/ab/1`", "no storage space"]);
        assert!(failure.hints()[0].starts_with("Free space"));
    }

    #[test]
    fn what_should_be_there_and_is_not_is_damage() {
        let key = Key::new("packs/ab/1").unwrap();
        assert_eq!(StoreError::NotFound { key: key.clone() }.failure().exit(), ExitCode::Damage);
        let short = StoreError::Short { key, size_bytes: 3, wanted: 9 };
        assert_eq!(short.to_string(), "`packs/ab/1` has 3 bytes, byte 9 was asked for");
        assert_eq!(short.failure().exit(), ExitCode::Damage);
    }
}
