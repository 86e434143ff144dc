//! Redis: one dump against another, and the keys that differ.

use super::{NAME, Pair};
use crate::{
    drill::{Answer, Assertion, FINDINGS_MAX, Question},
    error::Result,
    flow::{
        Oddity, STREAM_DEPTH, Seen, channel,
        compare::{Counts, Difference, Observer},
        settle,
    },
    jobs::{
        contents::Findings,
        drill::{of_lab, scene::Dumps},
    },
    lab,
    plain::grouped,
    policy::RedisConfig,
    redis::compare::{Dump, EXPIRED, KEYS, KeyOdds, differing_keys, is_dump, is_opaque},
};

#[derive(Default)]
struct Watch {
    differs: bool,
    opaque: bool,
    alone: Vec<String>,
}

impl Observer for Watch {
    fn held(&mut self, seen: &Seen, _bytes: Option<&bytes::Bytes>) {
        self.opaque |= is_opaque(seen);
    }

    fn differs(&mut self, difference: Difference) {
        // The shards of a cluster are one server in a lab: their dumps differ in number before they do in keys.
        if difference.oddity == Oddity::Different || is_dump(difference.meta.path.as_str()) {
            self.differs = true;
        } else {
            self.alone.push(format!("entry {} {}", difference.meta.path, difference.oddity.verb()));
        }
    }
}

pub(super) async fn compare(pair: &Pair<'_>, config: &RedisConfig) -> Result<Assertion> {
    let mut watch = Watch::default();
    let mut compared = pair.entries(&mut watch).await?;
    if watch.opaque {
        let what = "the dump is of a newer format: its keys cannot be told apart by this version";
        return Err(lab::not_run(what));
    }
    let mut findings = Findings::default();
    findings.extend(watch.alone);
    if watch.differs {
        let KeyOdds { odds, counts } = differing(pair, config).await?;
        compared.counts = counts;
        findings.total += odds.total;
        findings.is_open = odds.is_open;
        findings
            .named
            .extend(odds.named.into_iter().map(|odd| format!("{} {}", odd.name, odd.oddity.verb())));
    }
    let kinds = kinds(&compared.counts);
    let assertion = pair.verdict(&compared, findings, &kinds);
    let count = |name| compared.counts.get(name).copied().unwrap_or(0);
    Ok(match (assertion.answer, count(KEYS), count(EXPIRED)) {
        (Answer::Held, 0, expired @ 1..) => none_left(expired),
        _ => assertion,
    })
}

/// Nothing was compared with nothing: that proves nothing.
fn none_left(expired: u64) -> Assertion {
    let keys = if expired == 1 {
        "the only key has".to_owned()
    } else {
        format!("all {} keys have", grouped(expired))
    };
    let detail = format!("{keys} expired since the snapshot: nothing was compared");
    Assertion::could_not_run(Question::Contents, NAME, detail).with_value(0)
}

/// Returns what the detail tells of: all keys, those of each type, and what is gone.
fn kinds(counts: &Counts) -> Vec<&str> {
    let kinds = counts.keys().map(String::as_str).filter(|name| ![KEYS, EXPIRED].contains(name));
    std::iter::once(KEYS).chain(kinds).chain([EXPIRED]).collect()
}

/// Takes both dumps once more and judges them at one instant.
async fn differing(pair: &Pair<'_>, config: &RedisConfig) -> Result<KeyOdds> {
    let clock = &pair.scene.ground.clock;
    let (name, now_ms) = (pair.name(), || clock.now().timestamp_millis());
    let stored = pair.scene.dump(name, config).await?;
    let (sink, entries) = channel(STREAM_DEPTH);
    let (read, taken) = tokio::join!(pair.source()?.read(sink, None), Dump::take(entries, config, now_ms()));
    let ((), found) = settle(read, taken).map_err(|error| of_lab(error.about(name)))?;
    // What expired while the dump was on its way may be in it or not.
    differing_keys(stored, found, now_ms(), FINDINGS_MAX).await
}
