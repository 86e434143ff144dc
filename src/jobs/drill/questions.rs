//! What the policy asks of a restored stack: references, expectations, freshness, commands, in this order.
//!
//! A question that the lab could not answer could not run: its reason stands in the assertion, beside the lab's own
//! when a server of it is gone. The others are asked all the same.

use std::{collections::BTreeMap, ops::ControlFlow};

use chrono::{DateTime, Utc};

use super::{
    answers::{Single, judge_age, judge_number},
    is_damage,
    objects::ObjectBook,
    programs, references,
    scene::{Cast, Dumps, Scene},
    unsound,
};
use crate::{
    clock::Ground,
    drill::{Assertion, Question, Report},
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    lab::Lab,
    mysql,
    names::{SnapshotId, SourceName},
    policy::{DrillConfig, ExpectConfig, FreshnessConfig, MysqlConfig, SourceKind},
};

#[cfg(test)]
mod tests;

/// What questions need to know of a scene.
pub struct Asking<'a> {
    /// What the policy asks.
    pub drill: &'a DrillConfig,
    /// The snapshot that was restored.
    pub snapshot: &'a SnapshotId,
    /// The instant that each source was read at.
    pub points: BTreeMap<SourceName, DateTime<Utc>>,
    /// What the snapshot holds of Redis.
    pub dumps: &'a dyn Dumps,
    /// The sources that were restored.
    pub cast: &'a [Cast],
    /// Where they were restored to.
    pub lab: &'a dyn Lab,
    /// Time and chance.
    pub ground: &'a Ground,
    /// Who hears what happens.
    pub monitor: &'a SharedMonitor,
}

impl<'a> Asking<'a> {
    /// Takes what is needed out of a scene.
    pub fn of(scene: &'a Scene<'_>) -> Self {
        let sources = scene.snapshot.manifest.sources.iter();
        Self {
            drill: &scene.stack.drill,
            snapshot: &scene.snapshot.refs.snapshot,
            points: sources.map(|source| (source.name.clone(), source.point.at)).collect(),
            dumps: scene,
            cast: &scene.cast,
            lab: scene.lab,
            ground: scene.ground,
            monitor: scene.monitor,
        }
    }

    /// Asks everything. `book` has every object of the lab, or why it has not; `previous` is the drill before. Each
    /// answer is in `answers` before the next question: whatever breaks a drill off, what was found stays found.
    pub async fn ask(
        &self,
        book: Result<&ObjectBook, &Failure>,
        previous: Option<&Report>,
        answers: &mut Vec<Assertion>,
    ) {
        for config in &self.drill.references {
            let name = references::name_of(config);
            self.tell(&name);
            let answer = match book {
                Ok(book) => references::ask(self, config, book, previous).await,
                Err(failure) => Err(Failure::new(ExitCode::DrillNotRun, failure.one_line())),
            };
            answers.push(self.settle(answer, (Question::Reference, &name, Some(&config.source))).await);
        }
        for config in &self.drill.expectations {
            self.tell(&config.name);
            let about = (Question::Expectation, config.name.as_str(), Some(&config.source));
            answers.push(self.settle(self.expect(config).await, about).await);
        }
        for config in &self.drill.freshness {
            self.tell(&config.name);
            let about = (Question::Freshness, config.name.as_str(), Some(&config.source));
            answers.push(self.settle(self.newest(config).await, about).await);
        }
        for config in &self.drill.commands {
            self.tell(&config.name);
            let about = (Question::Command, config.name.as_str(), None);
            answers.push(self.settle(programs::run(self, config).await, about).await);
        }
    }

    fn tell(&self, name: &str) {
        self.monitor.step(None, format!("ask `{name}`"));
    }

    /// Returns the answer, or why there is none.
    async fn settle(
        &self,
        answer: Result<Assertion>,
        (kind, name, source): (Question, &str, Option<&String>),
    ) -> Assertion {
        let failure = match answer {
            Ok(assertion) => return assertion,
            Err(failure) => failure,
        };
        let about = |assertion: Assertion| match source {
            Some(source) => assertion.about(source),
            None => assertion,
        };
        // The lab's own answers are never damage: these are the snapshot's bytes.
        if is_damage(&failure) {
            return about(unsound(kind, name, &failure));
        }
        let mut why = failure.chain().join(": ");
        if let Err(reason) = self.lab.check().await {
            why = format!("{}; so {why}", reason.chain().join(": "));
        }
        about(Assertion::could_not_run(kind, name, why))
    }

    /// Returns the copy of a source.
    pub(super) fn copy_of(&self, name: &str) -> Result<&Cast> {
        self.cast.iter().find(|one| one.config.name.as_str() == name).ok_or_else(|| {
            Failure::new(ExitCode::DrillNotRun, format!("source `{name}` was not restored into the lab"))
        })
    }

    /// Returns a MySQL source's copy.
    pub(super) fn mysql(&self, name: &str) -> Result<(&SourceName, &MysqlConfig)> {
        let copy = self.copy_of(name)?;
        match &copy.config.kind {
            SourceKind::Mysql(config) => Ok((&copy.config.name, config)),
            other => {
                let what = format!("source `{name}` is of kind {}, not mysql", other.word());
                Err(Failure::new(ExitCode::Usage, what))
            }
        }
    }

    /// Asks for a single value.
    async fn single(&self, source: &str, query: &str) -> Result<Single> {
        let (name, config) = self.mysql(source)?;
        let mut single = Single::NoRow;
        let hear = |row| {
            single = std::mem::replace(&mut single, Single::NoRow).and(row);
            Ok(if matches!(single, Single::Several(_)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        };
        mysql::ask(name, config, query, hear).await?;
        Ok(single)
    }

    async fn expect(&self, config: &ExpectConfig) -> Result<Assertion> {
        let answer = self.single(&config.source, &config.query).await?;
        Ok(judge_number(config, &answer).about(&config.source))
    }

    async fn newest(&self, config: &FreshnessConfig) -> Result<Assertion> {
        let (name, _) = self.mysql(&config.source)?;
        let point = self.points.get(name).ok_or_else(|| {
            let what = format!("snapshot `{}` does not say when `{name}` was read", self.snapshot);
            Failure::new(ExitCode::DrillNotRun, what)
        })?;
        let answer = self.single(&config.source, &config.query).await?;
        Ok(judge_age(config, &answer, *point).about(&config.source))
    }
}
