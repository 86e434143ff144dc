//! The stopwatch of a drill, and the folder that it works in.

use std::{
    fs,
    future::Future,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    drill::{Assertion, Phase, Question, Report, Step, Way},
    error::{Context, ExitCode, Result},
    jobs::open::{state_dir, state_mark},
    lab,
    policy::Stack,
};

/// The part of a drill's deadline that is the drill's own; the rest is for its end.
const OWN_SHARE: f64 = 0.95;

/// Tells how long each step took.
pub(super) struct Watch {
    began: Instant,
    phases: Vec<Phase>,
}

impl Watch {
    pub(super) fn start() -> Self {
        Self::since(Instant::now())
    }

    pub(super) fn since(began: Instant) -> Self {
        Self { began, phases: Vec::new() }
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

    /// Returns how long the drill may still take. A little of `deadline` is kept back, so that it ends by itself, with
    /// a report and without a lab, before whoever began it gives it up.
    pub(super) fn left(&self, deadline: Duration) -> Duration {
        deadline.mul_f64(OWN_SHARE).saturating_sub(self.began.elapsed())
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

/// Returns how long a restore of everything took, if everything was restored: half a restore is no measure.
pub(super) fn rto_seconds(phases: &[Phase], is_whole: bool) -> Option<f64> {
    let counting = phases.iter().filter(|phase| phase.step.counts());
    is_whole.then(|| counting.map(|phase| phase.seconds).sum())
}

/// Says whether a restore was as fast as it must be.
pub(super) fn judge_time(rto_seconds: Option<f64>, objective_seconds: u64) -> Assertion {
    let name = "the restore was as fast as it must be";
    let Some(seconds) = rto_seconds else {
        return Assertion::could_not_run(Question::Objective, name, "not everything was restored");
    };
    let detail = format!("{seconds:.0} s of {objective_seconds} s");
    #[expect(clippy::cast_precision_loss, reason = "minutes of a policy")]
    let is_fast = seconds <= objective_seconds as f64;
    let say = if is_fast { Assertion::held } else { Assertion::failed };
    say(Question::Objective, name, detail)
}

/// A folder that nobody else can look into: for the lab's throwaway passwords and for files that are restored.
pub(crate) struct Workplace(PathBuf);

impl Workplace {
    /// Its name tells the repository too, as that of the run lock does: two policies that share a stack's name and a
    /// state folder never clear each other's.
    pub(crate) fn of(stack: &Stack, way: Way) -> PathBuf {
        let name = format!("{}-{}-{}.work", stack.name, state_mark(stack), way.word());
        state_dir(stack).join("drills").join(name)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::Answer;

    #[test]
    fn the_time_of_a_restore_is_told_only_of_one_that_brought_everything_back() {
        let phase = |step, seconds| Phase { step, source: None, began_seconds: 0.0, seconds };
        let phases = [phase(Step::Open, 1.0), phase(Step::Lab, 50.0), phase(Step::Restore, 60.0)];
        assert_eq!(rto_seconds(&phases, true), Some(61.0));
        assert_eq!(rto_seconds(&phases, false), None);
        for (rto, answer, detail) in [
            (Some(60.0), Answer::Held, "60 s of 60 s"),
            (Some(61.0), Answer::Failed, "61 s of 60 s"),
            (None, Answer::CouldNotRun, "not everything was restored"),
        ] {
            let asked = judge_time(rto, 60);
            assert_eq!((asked.answer, &*asked.detail, asked.kind), (answer, detail, Question::Objective));
        }
    }
}
