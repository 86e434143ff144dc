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
//! message twice as well; one should.

mod sample;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use futures_util::{StreamExt, stream};

pub use self::sample::sample;
use super::backup::host_name;
use crate::{
    catalog::{Catalog, Delivery, Due},
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    notify::{Message, Notifier, Refused, Topic},
    policy::{Channel, NotifyConfig, Stack},
};

/// When a message is tried again, counted from the last try. After one more it is given up.
const RETRY_AFTER: [Duration; 4] =
    [Duration::minutes(1), Duration::minutes(4), Duration::minutes(15), Duration::minutes(15)];
/// How long a ping is worth something: a service that hears of a beginning after the end draws the wrong conclusion.
const PING_AGE_MAX: Duration = Duration::minutes(10);
/// How long messages are remembered.
const MESSAGE_AGE_MAX: Duration = Duration::days(30);
/// Channels that are served at the same time.
const CHANNELS_MAX: usize = 4;

/// What [`deliver`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Messages that were taken.
    pub sent: usize,
    /// Messages that were refused and are tried again.
    pub again: usize,
    /// Messages that are not tried again.
    pub gave_up: Vec<GaveUp>,
    /// Messages that fallback channels were given.
    passed_on: usize,
}

/// A message that a channel did not take in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaveUp {
    /// The channel.
    pub channel: String,
    /// Why.
    pub why: String,
    /// Whether another channel was given the message instead.
    pub passed_on: bool,
}

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

/// Sends what is due.
pub async fn deliver(stack: &Stack, ledger: &Catalog, ground: &Ground) -> Result<Delivered> {
    deliver_with(&Notifier::new(ground.clock.clone()), stack, ledger, ground).await
}

/// Sends what is due with a notifier that has limits of its own.
pub async fn deliver_with(
    notifier: &Notifier,
    stack: &Stack,
    ledger: &Catalog,
    ground: &Ground,
) -> Result<Delivered> {
    let post = Post { notifier, stack, ledger, ground };
    let mut all = Delivered::default();
    loop {
        let due = ledger.due_messages(ground.clock.now())?;
        if due.is_empty() {
            return Ok(all);
        }
        let round = post.round(due).await?;
        ledger.forget_messages(ground.clock.now() - MESSAGE_AGE_MAX)?;
        let was_passed_on = round.passed_on > 0;
        all.add(round);
        // Once more, for the fallbacks. They pass nothing on that they all have already, so this ends.
        if !was_passed_on {
            return Ok(all);
        }
    }
}

impl Delivered {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.again += other.again;
        self.passed_on += other.passed_on;
        self.gave_up.extend(other.gave_up);
    }
}

/// Carries messages.
struct Post<'a> {
    notifier: &'a Notifier,
    stack: &'a Stack,
    ledger: &'a Catalog,
    ground: &'a Ground,
}

impl Post<'_> {
    /// Sends what is due: some channels at the same time, and each its messages in order.
    async fn round(&self, due: Vec<Due>) -> Result<Delivered> {
        let mut by_channel: BTreeMap<String, Vec<Due>> = BTreeMap::new();
        for one in due {
            by_channel.entry(one.channel.clone()).or_default().push(one);
        }
        let rounds = by_channel.into_iter().map(|(name, due)| async move { self.serve(&name, due).await });
        let ended: Vec<Result<Delivered>> =
            stream::iter(rounds).buffer_unordered(CHANNELS_MAX).collect().await;
        let mut all = Delivered::default();
        for one in ended {
            all.add(one?);
        }
        Ok(all)
    }

    /// Sends one channel what is due for it.
    async fn serve(&self, name: &str, due: Vec<Due>) -> Result<Delivered> {
        let channel = self.stack.notify.iter().find(|channel| channel.name == name);
        let mut done = Delivered::default();
        let mut waits = self.ledger.channel_waits(name, self.ground.clock.now())?;
        for one in due {
            let Ok(message) = serde_json::from_str::<Message>(&one.body) else {
                self.give_up(&one, None, "another version of lifeboat wrote it", &mut done)?;
                continue;
            };
            let Some(channel) = channel else {
                self.give_up(&one, Some(&message), "it is not in the policy any more", &mut done)?;
                continue;
            };
            if message.is_ping() && self.ground.clock.now() - message.at > PING_AGE_MAX {
                self.give_up(&one, None, "the ping is too old to be worth something", &mut done)?;
            } else if let Some((until, why)) = &waits {
                let behind = Refused { why: why.clone(), again: true, hint: None };
                self.refused(&one, &message, &behind, Some(*until), &mut done)?;
            } else if let Err(refused) = self.send(channel, &one, &message).await? {
                let until = self.refused(&one, &message, &refused, None, &mut done)?;
                waits = until.map(|until| (until, refused.why));
            } else {
                self.ledger.note_delivery(one.message, name, &Delivery::Sent, self.ground.clock.now())?;
                done.sent += 1;
            }
        }
        Ok(done)
    }

    /// Sends a message; a fallback is told for whom it stands.
    async fn send(
        &self,
        channel: &NotifyConfig,
        due: &Due,
        message: &Message,
    ) -> Result<std::result::Result<(), Refused>> {
        let mut message = message.clone();
        if channel.fallback {
            message.unreached = self.ledger.refused_by(due.message)?;
            message.unreached.retain(|other| *other != channel.name);
        }
        Ok(self.notifier.send(channel, &message).await)
    }

    /// Notes that a message was refused, or that it waits behind one that was; returns until when the channel waits.
    fn refused(
        &self,
        due: &Due,
        message: &Message,
        refused: &Refused,
        behind: Option<DateTime<Utc>>,
        done: &mut Delivered,
    ) -> Result<Option<DateTime<Utc>>> {
        let wait = RETRY_AFTER.get(due.tries as usize).filter(|_| refused.again);
        let Some(wait) = wait else {
            self.give_up(due, Some(message), &refused.why, done)?;
            return Ok(None);
        };
        let now = self.ground.clock.now();
        let is_known_trouble = due.tries > 0 || behind.is_some();
        if message.is_urgent() && is_known_trouble {
            done.passed_on += self.pass_on(due, message, now)?;
        }
        let until = behind.unwrap_or(now + *wait);
        let how = Delivery::Again { not_before: until, error: refused.why.clone() };
        self.ledger.note_delivery(due.message, &due.channel, &how, now)?;
        done.again += 1;
        Ok(Some(until))
    }

    /// Gives up; `message` is what the fallbacks are given, unless nobody needs it any more.
    fn give_up(&self, due: &Due, message: Option<&Message>, why: &str, done: &mut Delivered) -> Result<()> {
        let now = self.ground.clock.now();
        let passed_on = message.map_or(Ok(0), |message| self.pass_on(due, message, now))?;
        let how = Delivery::GaveUp { error: why.to_owned() };
        self.ledger.note_delivery(due.message, &due.channel, &how, now)?;
        done.passed_on += passed_on;
        let why = why.to_owned();
        done.gave_up.push(GaveUp { channel: due.channel.clone(), why, passed_on: passed_on > 0 });
        Ok(())
    }

    /// Writes a message down for the fallback channels; one that has it already does not get it twice.
    fn pass_on(&self, due: &Due, message: &Message, now: DateTime<Utc>) -> Result<usize> {
        let is_of_a_fallback =
            self.stack.notify.iter().any(|channel| channel.name == due.channel && channel.fallback);
        if is_of_a_fallback || message.is_ping() {
            return Ok(0);
        }
        let fallbacks = self
            .stack
            .notify
            .iter()
            .filter(|channel| channel.fallback && !matches!(channel.channel, Channel::Healthchecks(_)));
        let mut count = 0;
        for fallback in fallbacks {
            let not_before = not_before(self.stack, fallback, message, now);
            self.ledger.add_delivery(due.message, &fallback.name, not_before)?;
            count += 1;
        }
        Ok(count)
    }
}

/// What came of a trial of one channel.
pub struct Trial<'a> {
    /// The channel.
    pub channel: &'a NotifyConfig,
    /// How it ended.
    pub ended: std::result::Result<(), Refused>,
}

/// Sends a message to each of these channels right now, or to all of them, fallbacks too; what it tells is a test.
pub async fn try_out<'a>(
    stack: &'a Stack,
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
        async move { Trial { channel, ended: notifier.send(channel, message).await } }
    });
    Ok(stream::iter(trials).buffered(CHANNELS_MAX).collect().await)
}
