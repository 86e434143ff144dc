//! Problems of a bucket's objects that are alike and nobody's fault: the first are named, the others counted.
//!
//! That an object is archived, or has a key that is no text, says nothing of the next one. So they never end a run,
//! however many there are; and as a bucket may be full of them neither memory nor the snapshot has a line for each.

use crate::flow::{EntrySink, FlowResult, Problem};

/// Problems of a kind that are named of each bucket.
const NAMED_MAX: usize = 20;

/// Problems of one kind in one bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Alike {
    named: Vec<Problem>,
    more: u64,
}

impl Alike {
    /// Adds one.
    pub(super) fn add(&mut self, problem: Problem) {
        if self.named.len() < NAMED_MAX {
            self.named.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// Adds several.
    pub(super) fn add_all(&mut self, problems: impl IntoIterator<Item = Problem>) {
        problems.into_iter().for_each(|problem| self.add(problem));
    }

    /// Reports all of them.
    pub(super) async fn report(self, bucket: &str, sink: &EntrySink) -> FlowResult<()> {
        let last = self.named.last().cloned();
        for problem in self.named {
            sink.report(problem).await?;
        }
        if let Some(Problem { what, why }) = last.filter(|_| self.more > 0) {
            let why = format!("{} more objects cannot be read either; of `{what}`: {why}", self.more);
            sink.report(Problem { what: format!("bucket {bucket}"), why }).await?;
        }
        Ok(())
    }
}
