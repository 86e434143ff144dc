//! Sends what is due, channel by channel, and notes how each try ended.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Duration, Utc};
use futures_util::{StreamExt, stream};

use super::{
    CHANNELS_MAX, MESSAGE_AGE_MAX, not_before,
    unnoted::{Note, Unnoted},
};
use crate::{
    catalog::{Catalog, Delivery, Due},
    clock::Ground,
    error::Result,
    notify::{Limits, Message, Notifier, Refused},
    policy::{Channel, NotifyConfig, Stack},
};

/// When a message is tried again, counted from the last try. After one more it is given up.
const RETRY_AFTER: [Duration; 4] =
    [Duration::minutes(1), Duration::minutes(4), Duration::minutes(15), Duration::minutes(15)];
/// How long a ping is worth something: a service that hears of a beginning after the end draws the wrong conclusion.
const PING_AGE_MAX: Duration = Duration::minutes(10);
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

/// Delivers again and again, and keeps in mind what the ledger could not be told.
pub struct Deliverer {
    notifier: Notifier,
    unnoted: Mutex<Unnoted>,
}

impl Deliverer {
    /// Returns a deliverer that has nothing in mind.
    pub fn new(ground: &Ground) -> Self {
        Self { notifier: Notifier::new(ground.clock.clone()), unnoted: Mutex::default() }
    }

    /// Returns it with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { notifier: self.notifier.with_limits(limits), ..self }
    }

    /// Sends what is due. It fails when the ledger does, after all was sent that could be; what it did then is told by
    /// the next call.
    pub async fn deliver(&self, stack: &Stack, ledger: &Catalog, ground: &Ground) -> Result<Delivered> {
        let post = Post { deliverer: self, stack, ledger, ground };
        let mut all = Delivered::default();
        loop {
            let now = ground.clock.now();
            let due = ledger.due_messages(now)?;
            if due.is_empty() {
                break;
            }
            let round = post.round(due).await?;
            self.unnoted().try_write(now, || ledger.forget_messages(now - MESSAGE_AGE_MAX));
            let was_passed_on = round.passed_on > 0;
            all.add(round);
            // Once more, for the fallbacks. They pass nothing on that they all have already, so this ends.
            if !was_passed_on {
                break;
            }
        }
        self.unnoted().end(all, ground.clock.now())
    }

    fn unnoted(&self) -> MutexGuard<'_, Unnoted> {
        self.unnoted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what is due, once.
pub async fn deliver(stack: &Stack, ledger: &Catalog, ground: &Ground) -> Result<Delivered> {
    Deliverer::new(ground).deliver(stack, ledger, ground).await
}

impl Delivered {
    pub(super) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.again += other.again;
        self.passed_on += other.passed_on;
        self.gave_up.extend(other.gave_up);
    }
}

/// Carries messages.
struct Post<'a> {
    deliverer: &'a Deliverer,
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
        for mut one in due {
            let kept = self.deliverer.unnoted().of(&one);
            if let Some((kept, note)) = kept {
                let until = self.waits_for(&note);
                if until.is_some() || !matches!(note.how, Delivery::Again { .. }) {
                    self.note(&kept, note, &mut done);
                    waits = until.or(waits);
                    continue;
                }
                one.tries = kept.tries + 1;
            }
            let Ok(message) = serde_json::from_str::<Message>(&one.body) else {
                self.give_up(&one, None, "another version of lifeboat wrote it", &mut done);
                continue;
            };
            let Some(channel) = channel else {
                self.give_up(&one, Some(&message), "it is not in the policy any more", &mut done);
                continue;
            };
            if message.is_ping() && self.ground.clock.now() - message.at > PING_AGE_MAX {
                self.give_up(&one, None, "the ping is too old to be worth something", &mut done);
            } else if let Some((until, why)) = &waits {
                let behind = Refused { why: why.clone(), again: true, hint: None };
                self.refused(&one, &message, &behind, Some(*until), &mut done);
            } else if let Err(refused) = self.send(channel, &one, &message).await? {
                let until = self.refused(&one, &message, &refused, None, &mut done);
                waits = until.map(|until| (until, refused.why));
            } else {
                let at = self.ground.clock.now();
                self.note(&one, Note { how: Delivery::Sent, at, fallbacks: Vec::new() }, &mut done);
                done.sent += 1;
            }
        }
        Ok(done)
    }

    /// Returns until when the channel waits because of a refusal that the ledger does not know, and what it was.
    fn waits_for(&self, note: &Note) -> Option<(DateTime<Utc>, String)> {
        let Delivery::Again { not_before, error } = &note.how else { return None };
        let wait = *not_before - self.ground.clock.now();
        // What lies further ahead than any wait was meant by a clock that was ahead.
        let waits = wait > Duration::zero() && RETRY_AFTER.iter().any(|longest| wait <= *longest);
        waits.then(|| (*not_before, error.clone()))
    }

    /// Notes how a try ended, now or when the ledger can be written again.
    fn note(&self, due: &Due, note: Note, done: &mut Delivered) {
        let passed_on = note.fallbacks.len();
        if self.deliverer.unnoted().note(due, note, self.ledger, self.ground.clock.now()) {
            done.passed_on += passed_on;
        }
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
        Ok(self.deliverer.notifier.send(channel, &message).await)
    }

    /// Notes that a message was refused, or that it waits behind one that was; returns until when the channel waits.
    fn refused(
        &self,
        due: &Due,
        message: &Message,
        refused: &Refused,
        behind: Option<DateTime<Utc>>,
        done: &mut Delivered,
    ) -> Option<DateTime<Utc>> {
        let wait = RETRY_AFTER.get(due.tries as usize).filter(|_| refused.again);
        let Some(wait) = wait else {
            self.give_up(due, Some(message), &refused.why, done);
            return None;
        };
        let now = self.ground.clock.now();
        let is_known_trouble = due.tries > 0 || behind.is_some();
        let fallbacks = if message.is_urgent() && is_known_trouble {
            self.fallbacks(due, message, now)
        } else {
            Vec::new()
        };
        let until = behind.unwrap_or(now + *wait);
        let how = Delivery::Again { not_before: until, error: refused.why.clone() };
        self.note(due, Note { how, at: now, fallbacks }, done);
        done.again += 1;
        Some(until)
    }

    /// Gives up; `message` is what the fallbacks are given, unless nobody needs it any more.
    fn give_up(&self, due: &Due, message: Option<&Message>, why: &str, done: &mut Delivered) {
        let now = self.ground.clock.now();
        let fallbacks = message.map(|message| self.fallbacks(due, message, now)).unwrap_or_default();
        let (channel, passed_on) = (due.channel.clone(), !fallbacks.is_empty());
        let how = Delivery::GaveUp { error: why.to_owned() };
        self.note(due, Note { how, at: now, fallbacks }, done);
        done.gave_up.push(GaveUp { channel, why: why.to_owned(), passed_on });
    }

    /// Returns the channels that are given a message in another one's stead, and when; one that has it already does not
    /// get it twice.
    fn fallbacks(&self, due: &Due, message: &Message, now: DateTime<Utc>) -> Vec<(String, DateTime<Utc>)> {
        let channels = &self.stack.notify;
        let is_of_a_fallback = channels.iter().any(|one| one.name == due.channel && one.fallback);
        if is_of_a_fallback || message.is_ping() {
            return Vec::new();
        }
        let fallbacks =
            channels.iter().filter(|one| one.fallback && !matches!(one.channel, Channel::Healthchecks(_)));
        fallbacks.map(|one| (one.name.clone(), not_before(self.stack, one, message, now))).collect()
    }
}
