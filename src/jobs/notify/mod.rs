//! Tells people: writes messages down, and delivers what is due.
//!
//! *Order.* [`tell`] writes a message into the catalog for every channel that subscribes; nothing is sent yet.
//! [`deliver`] sends what is due and notes how it ended. It is a future of its own: the service runs it in a task that
//! no job can cancel, so a run that is stopped or hits its deadline still alerts.
//!
//! A channel that is in trouble is tried again after 1, 4, 15 and 15 minutes; what comes for it meanwhile waits behind,
//! so a channel hears everything in order. When it refuses for good, or for the fifth time, the fallback channels get
//! the message, once, with the names of those that could not be reached. What is urgent goes to them as soon as the
//! channel refused twice, and is tried on.
//!
//! *Crash.* A message that was sent and not noted is sent again: people may hear a thing twice, never not at all. The
//! fallbacks are written down before the channel is given up. Two processes that deliver at the same time may send a
//! message twice as well; one should. What cannot be noted because the ledger cannot be written is kept in mind by the
//! [`Deliverer`].

mod deliver;
#[cfg(test)]
mod tests;
mod unnoted;

use chrono::{DateTime, Duration, Utc};
use futures_util::{StreamExt, stream};

pub use self::deliver::{Delivered, Deliverer, GaveUp, deliver};
use super::backup::host_name;
use crate::{
    catalog::Catalog,
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    notify::{Message, Notifier, Refused, Topic},
    policy::{Channel, NotifyConfig, Stack},
};

/// How long messages are remembered.
const MESSAGE_AGE_MAX: Duration = Duration::days(30);
/// Channels that are served at the same time.
const CHANNELS_MAX: usize = 4;

/// Makes a message of a topic, at this instant and on this host.
pub fn message(stack: &Stack, topic: Topic, ground: &Ground) -> Message {
    Message {
        stack: stack.name.clone(),
        host: host_name(),
        at: ground.clock.now(),
        language: stack.language,
        timezone: stack.timezone.name().to_owned(),
        topic,
        unreached: Vec::new(),
        is_trial: false,
    }
}

/// Writes a message down for every channel that subscribes, to be sent by [`deliver`]. What is not urgent waits for the
/// end of a channel's quiet hours. Returns the message's number, or `None` when nobody wants to hear it.
pub fn tell(stack: &Stack, ledger: &Catalog, topic: Topic, ground: &Ground) -> Result<Option<i64>> {
    let message = message(stack, topic, ground);
    let listeners = stack.notify.iter().filter(|channel| wants(channel, &message));
    let channels: Vec<(String, DateTime<Utc>)> = listeners
        .map(|channel| (channel.name.clone(), not_before(stack, channel, &message, message.at)))
        .collect();
    if channels.is_empty() {
        return Ok(None);
    }
    let body = serde_json::to_string(&message)
        .failed(ExitCode::Failed, || "a message cannot be written".to_owned())?;
    ledger.add_message(&body, &channels, message.at).map(Some)
}

/// Returns whether a channel is told of a message from the beginning.
fn wants(channel: &NotifyConfig, message: &Message) -> bool {
    match (&channel.channel, &message.topic) {
        (Channel::Healthchecks(pings), Topic::Ping { task, .. }) => pings.jobs.contains(&task.job),
        (Channel::Healthchecks(_), _) | (_, Topic::Ping { .. }) => false,
        _ => !channel.fallback && message.occasion().is_some_and(|occasion| channel.on.contains(&occasion)),
    }
}

fn not_before(stack: &Stack, channel: &NotifyConfig, message: &Message, now: DateTime<Utc>) -> DateTime<Utc> {
    let quiet = channel.quiet.filter(|_| !message.is_urgent() && !message.is_ping());
    quiet.and_then(|quiet| quiet.until(now, stack.timezone)).unwrap_or(now)
}

/// What came of a trial of one channel.
pub struct Trial<'a> {
    /// The channel.
    pub channel: &'a NotifyConfig,
    /// How it ended.
    pub ended: std::result::Result<(), Refused>,
    /// Why the ledger does not know that the channel was reached.
    pub unnoted: Option<Failure>,
}

/// Sends a message to each of these channels right now, or to all of them, fallbacks too; what it tells is a test. The
/// ledger is told of those that took it: a channel that was repaired is in trouble no more.
pub async fn try_out<'a>(
    stack: &'a Stack,
    ledger: &Catalog,
    names: &[String],
    topic: Topic,
    ground: &Ground,
) -> Result<Vec<Trial<'a>>> {
    let known: Vec<&str> = stack.notify.iter().map(|channel| channel.name.as_str()).collect();
    if known.is_empty() {
        return Err(Failure::new(ExitCode::Usage, "the policy has no [[notify]]")
            .hint("Add one; docs/notify.md has an example of each kind."));
    }
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Failure::new(ExitCode::Usage, format!("the policy has no channel `{name}`"))
            .hint(format!("It has: {}.", known.join(", "))));
    }
    let message = Message { is_trial: true, ..message(stack, topic, ground) };
    let notifier = Notifier::new(ground.clock.clone());
    let wanted = stack.notify.iter().filter(|channel| names.is_empty() || names.contains(&channel.name));
    let trials = wanted.map(|channel| {
        let (notifier, message) = (&notifier, &message);
        async move {
            let ended = notifier.send(channel, message).await;
            let noted = ended.as_ref().ok().map(|()| ledger.note_reached(&channel.name, ground.clock.now()));
            Trial { channel, ended, unnoted: noted.and_then(Result::err) }
        }
    });
    Ok(stream::iter(trials).buffered(CHANNELS_MAX).collect().await)
}
