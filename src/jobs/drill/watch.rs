//! The stopwatch of a drill, and the folder that it works in.

use std::{
    fs,
    future::Future,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{
    drill::{Phase, Report, Step, Way},
    error::{Context, ExitCode, Result},
    jobs::open::state_dir,
    lab,
    policy::Stack,
};

/// Tells how long each step took.
pub(super) struct Watch {
    began: Instant,
    phases: Vec<Phase>,
}

impl Watch {
    pub(super) fn start() -> Self {
        Self { began: Instant::now(), phases: Vec::new() }
    }

    /// Does `work` and notes how long it took.
    pub(super) async fn time<T>(&mut self, step: Step, work: impl Future<Output = T>) -> T {
        let began = self.began.elapsed().as_secs_f64();
        let done = work.await;
        let seconds = self.began.elapsed().as_secs_f64() - began;
        self.phases.push(Phase { step, source: None, began_seconds: began, seconds });
        done
    }

    /// Returns the seconds since the drill began.
    pub(super) fn elapsed(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Returns what was done so far.
    pub(super) fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Notes a step whose time somebody else took.
    pub(super) fn note(&mut self, phase: Phase) {
        self.phases.push(phase);
    }

    /// Puts the phases into the report.
    pub(super) fn conclude(self, report: &mut Report) {
        report.phases = self.phases;
    }
}

/// Returns how long a restore of everything took, if everything was restored.
pub(super) fn rto_seconds(phases: &[Phase]) -> f64 {
    phases.iter().filter(|phase| phase.step.counts()).map(|phase| phase.seconds).sum()
}

/// A folder that nobody else can look into: for the lab's throwaway passwords and for files that are restored.
pub(super) struct Workplace(PathBuf);

impl Workplace {
    fn of(stack: &Stack, way: Way) -> PathBuf {
        state_dir(stack).join("drills").join(format!("{}-{}.work", stack.name, way.word()))
    }

    /// Makes it, empty. A drill has one at a time: its run lock keeps a second one away.
    pub(super) fn make(stack: &Stack, way: Way) -> Result<Self> {
        Self::clear(stack, way)?;
        let path = Self::of(stack, way);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.failed(ExitCode::DrillNotRun, || format!("folder `{}` cannot be made", path.display()))?;
        Ok(Self(path))
    }

    /// Returns whether a drill is at work in it, or left it behind.
    pub(super) fn is_there(stack: &Stack, way: Way) -> bool {
        Self::of(stack, way).exists()
    }

    /// Removes it with all that is in it.
    pub(super) fn clear(stack: &Stack, way: Way) -> Result<()> {
        let path = Self::of(stack, way);
        lab::remove_tree(&path).failed(ExitCode::Failed, || format!("`{}` cannot be removed", path.display()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}
