//! Time and chance, as arguments.
//!
//! The only module that asks the machine what time it is or throws dice. Everything else is handed a
//! [`Clock`] or [`Dice`], so a test can stand in any year and see the same numbers twice.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Datelike, Utc};

use crate::names::SnapshotId;
use serde::{Deserialize, Deserializer};

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Returns the present instant.
    fn now(&self) -> DateTime<Utc>;
}

/// Throws dice: unpredictable bytes for names and tokens, never for keys (the key libraries have their own).
pub trait Dice: Send + Sync {
    /// Fills `bytes` with unpredictable values.
    fn fill(&self, bytes: &mut [u8]);
}

/// Reads an instant as RFC 3339 has it, with a year of four digits. The calendar library knows years far beyond them,
/// and gives way where they end; serde's own reader would let a stored text name such a one.
pub fn stored_time<'de, D: Deserializer<'de>>(from: D) -> Result<DateTime<Utc>, D::Error> {
    let time = DateTime::<Utc>::deserialize(from)?;
    if (0..=9999).contains(&time.year()) {
        return Ok(time);
    }
    Err(serde::de::Error::custom(format!("the year {} has not four digits", time.year())))
}

/// The machine's own clock and random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Clock for System {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may ask")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

impl Dice for System {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may ask")]
    fn fill(&self, bytes: &mut [u8]) {
        rand::Rng::fill_bytes(&mut rand::rng(), bytes);
    }
}

/// A clock that stands where a test put it.
#[derive(Clone, Debug)]
pub struct StoppedClock(Arc<Mutex<DateTime<Utc>>>);

impl StoppedClock {
    /// Stops the clock at `instant`.
    pub fn at(instant: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(instant)))
    }

    /// Moves the clock by `step`, which may be negative.
    pub fn advance(&self, step: chrono::Duration) {
        let mut instant = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *instant += step;
    }
}

impl Clock for StoppedClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Time and chance together, as most jobs need both.
#[derive(Clone)]
pub struct Ground {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Throws dice.
    pub dice: Arc<dyn Dice>,
}

impl Ground {
    /// Returns the machine's own clock and dice.
    pub fn system() -> Self {
        Self { clock: Arc::new(System), dice: Arc::new(System) }
    }

    /// Makes an id for a run that began at `began`; two runs of one second differ by chance.
    pub fn id_at(&self, began: DateTime<Utc>) -> SnapshotId {
        let mut salt = [0; 2];
        self.dice.fill(&mut salt);
        SnapshotId::at(began, u16::from_be_bytes(salt))
    }

    /// Returns `count` random bytes as lower-case hex.
    pub fn hex(&self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.dice.fill(&mut bytes);
        hex::encode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_clock_moves_only_when_told() {
        let clock = StoppedClock::at(DateTime::UNIX_EPOCH);
        assert_eq!(clock.now(), clock.now());
        clock.advance(chrono::Duration::seconds(-5));
        assert_eq!(clock.now().timestamp(), -5);
    }

    #[test]
    fn the_dice_do_not_repeat() {
        let ground = Ground::system();
        assert_ne!(ground.hex(16), ground.hex(16));
        assert_eq!(ground.hex(16).len(), 32);
    }
}
