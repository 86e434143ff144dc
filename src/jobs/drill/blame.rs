//! Whose fault it is that a restore failed: the backup's, or that of the lab, which could not take it.
//!
//! Damage is the backup's, whatever became of the lab. A server that ended, whose disk or memory is full, that is too
//! old or was not empty, is the lab's.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::is_damage;
use crate::{
    error::{ExitCode, Failure},
    lab::Lab,
};

/// How long it may take until it shows that a server ended.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What systems and servers say whose disk or memory is full.
const FULL: [&str; 17] = [
    "No space left on device",
    "Disk quota exceeded",
    "the disk takes no more",
    // MySQL, and the system's own numbers in its words.
    "error 1021: ",
    "error 1114: ",
    // Out of memory, of memory to sort, of connections' memory, of threads, of room for locks.
    "error 1037: ",
    "error 1038: ",
    "error 1041: ",
    "error 1135: ",
    "error 1206: ",
    "errno: 28",
    "Errcode: 28",
    // Redis.
    "OOM command not allowed",
    "has too little memory for this dump",
    " keys during the restore",
    // MinIO.
    "XMinioStorageFull",
    "minimum free drive threshold",
];

/// What is said of a server that was refused before anything was changed, as it is not one for this snapshot, and of a
/// folder of this host that nothing can be put into.
const UNFIT: [&str; 4] = [
    "cannot load this dump",
    "lacks modules that this dump needs",
    "in the spool folder",
    "to the spool folder",
];

/// Returns why the lab is to blame for `failure`; `None` when it is not.
pub(super) async fn of_lab(lab: &dyn Lab, failure: &Failure) -> Option<Failure> {
    if is_damage(failure) {
        return None;
    }
    let said = failure.one_line();
    let until = Instant::now() + SHOWN_WITHIN;
    loop {
        if let Err(reason) = lab.check().await {
            return Some(reason);
        }
        if FULL.iter().any(|words| said.contains(words)) {
            return Some(
                Failure::new(ExitCode::DrillNotRun, "the lab has no room for the snapshot")
                    .because(said)
                    .hint("Give its servers more memory (memory_mib in [drill]), or its disk more room."),
            );
        }
        if is_unfit(failure.exit(), &said) {
            let outer = Failure::new(ExitCode::DrillNotRun, "the lab is not one that takes this snapshot")
                .because(said)
                .hint("Set the source's image or arguments in [drill], of the release that was backed up.");
            return Some(failure.hints().iter().cloned().fold(outer, Failure::hint));
        }
        if Instant::now() >= until {
            return None;
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// A drill's lab is its own: that it was not empty, or was asked for what it does not know, says nothing of the backup.
fn is_unfit(exit: ExitCode, said: &str) -> bool {
    matches!(exit, ExitCode::TargetNotEmpty | ExitCode::Usage)
        || UNFIT.iter().any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::{
        error::Result,
        lab::{Ended, Program, Running, Server},
    };

    /// A lab whose server is seen to have ended when it is looked at so often; never when that is 0.
    struct Dying(AtomicU32);

    #[async_trait]
    impl Lab for Dying {
        fn describe(&self) -> String {
            "dying".to_owned()
        }
        async fn start(&self, _: &[Server]) -> Result<Vec<Running>> {
            Ok(Vec::new())
        }
        async fn check(&self) -> Result<()> {
            if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
                return Err(Failure::new(ExitCode::DrillNotRun, "the server was out of memory"));
            }
            Ok(())
        }
        async fn run(&self, _: &Program) -> Result<Ended> {
            Err(Failure::new(ExitCode::DrillNotRun, "nothing runs here"))
        }
        async fn remove(&self) -> Result<()> {
            Ok(())
        }
    }

    fn down(why: &str) -> Failure {
        Failure::new(ExitCode::SourceDown, "failed to load a table").because(why.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_server_that_shows_late_is_the_labs_fault() {
        let blamed = of_lab(&Dying(AtomicU32::new(8)), &down("connection reset by peer")).await.unwrap();
        assert_eq!(blamed.to_string(), "the server was out of memory");
        assert_eq!(blamed.exit(), ExitCode::DrillNotRun);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_that_runs_does_not_take_is_the_backups_fault() {
        for why in ["error 1064: syntax", "ERR Bad data format", "the server answered 400 InvalidArgument"] {
            assert!(of_lab(&Dying(AtomicU32::new(0)), &down(why)).await.is_none(), "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_or_memory_is_the_labs_fault() {
        for why in [
            "No space left on device (os error 28)",
            "error 1114: The table 'im.messages' is full",
            "error 1021: Disk full (/tmp/#sql); waiting for someone to free some space",
            "error 3: Error writing file './im/x.ibd' (Errcode: 28 - No space left on device)",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "the server answered 507 XMinioStorageFull",
            "error 1038: Out of sort memory, consider increasing server sort buffer size",
            "error 1135: Can't create a new thread (errno 11)",
            "error 1206: The total number of locks exceeds the lock table size",
            "redis `redis` at 127.0.0.1 evicted 12 keys during the restore",
        ] {
            let blamed = of_lab(&Dying(AtomicU32::new(0)), &down(why)).await.unwrap();
            assert_eq!(blamed.exit(), ExitCode::DrillNotRun);
            assert!(blamed.one_line().contains(why), "{why}: {}", blamed.one_line());
            assert!(!blamed.hints().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_not_one_for_this_snapshot_is_the_labs_fault() {
        let not_run = |failure: Failure| async move {
            let blamed = of_lab(&Dying(AtomicU32::new(0)), &failure).await.unwrap();
            assert_eq!(blamed.exit(), ExitCode::DrillNotRun);
            assert!(blamed.one_line().contains(&failure.one_line()), "{}", blamed.one_line());
        };
        for exit in [ExitCode::TargetNotEmpty, ExitCode::Usage] {
            not_run(Failure::new(exit, "database `im` is there already")).await;
        }
        for what in [
            "redis `redis` at 127.0.0.1:6379 cannot load this dump",
            "redis `redis` at 127.0.0.1:6379 lacks modules that this dump needs",
            "no file can be made in the spool folder `/spool`",
            "the dump cannot be written to the spool folder",
        ] {
            not_run(Failure::new(ExitCode::Failed, what)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn damage_is_never_the_labs_fault() {
        let damage = Failure::new(ExitCode::Damage, "pack ab12 was changed");
        assert!(of_lab(&Dying(AtomicU32::new(1)), &damage).await.is_none());
    }
}
