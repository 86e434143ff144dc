//! The daily report: how the stack stands, sent to those who want it. That it comes is a sign of life; that it does not
//! is one too.

use super::{
    notify,
    run::{Outcome, RunContext, noted},
    standing,
};
use crate::{
    error::Result,
    names::{Job, Task},
    notify::Topic,
};

/// Writes the report to the outbox, as a run.
pub async fn of_stack(context: RunContext<'_>) -> Result<Outcome> {
    noted(context, &Task::of(Job::Digest), async {
        let ledger = context.ledger()?;
        let standing = standing::gather(context.stack, &ledger, context.ground.clock.now())?;
        notify::tell(context.stack, &ledger, Topic::Digest(Box::new(standing)), context.ground)?;
        Ok(Outcome::default())
    })
    .await
}
