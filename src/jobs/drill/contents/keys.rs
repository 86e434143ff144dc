//! Redis: one dump against another, and the keys that differ.

use super::{Findings, Pair};
use crate::{
    drill::{Assertion, FINDINGS_MAX},
    error::Result,
    flow::{
        Oddity, STREAM_DEPTH, Seen, Selection, channel,
        compare::{Counts, Difference, Observer},
        settle,
    },
    lab,
    policy::RedisConfig,
    redis::compare::{Dump, KeyOdds, differing_keys, is_opaque},
};

/// What the detail tells of; the types that were met follow.
const COUNTS: &str = "keys";

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
        if difference.oddity == Oddity::Different {
            self.differs = true;
        } else {
            self.alone.push(format!("entry {} {}", difference.meta.path, difference.oddity.verb()));
        }
    }
}

pub(super) async fn compare(pair: &Pair<'_>, config: &RedisConfig) -> Result<Assertion> {
    let mut watch = Watch::default();
    let compared = pair.entries(&mut watch).await?;
    if watch.opaque {
        let what = "the dump is of a newer format: its keys cannot be told apart by this version";
        return Err(lab::not_run(what));
    }
    let mut findings = Findings::default();
    findings.extend(watch.alone);
    if watch.differs {
        let KeyOdds { odds, .. } = differing(pair, config).await?;
        findings.total += odds.total;
        findings.is_open = odds.is_open;
        findings
            .named
            .extend(odds.named.into_iter().map(|odd| format!("{} {}", odd.name, odd.oddity.verb())));
    }
    let kinds = kinds(&compared.counts);
    let counts: Vec<&str> = std::iter::once(COUNTS).chain(kinds.iter().map(String::as_str)).collect();
    Ok(pair.verdict(&compared, findings, &counts))
}

fn kinds(counts: &Counts) -> Vec<String> {
    counts.keys().filter(|name| *name != COUNTS).cloned().collect()
}

/// Takes both dumps once more and judges them at one instant.
async fn differing(pair: &Pair<'_>, config: &RedisConfig) -> Result<KeyOdds> {
    let clock = &pair.scene.ground.clock;
    let (name, now_ms) = (pair.name(), || clock.now().timestamp_millis());
    let (sink, entries) = channel(STREAM_DEPTH);
    let all = Selection::all();
    let read = pair.scene.snapshot.read_source(name, &all, sink, pair.scene.monitor);
    let (read, taken) = tokio::join!(read, Dump::take(entries, config, now_ms()));
    let ((), stored) = settle(read, taken).map_err(|error| error.about(name))?;
    let (sink, entries) = channel(STREAM_DEPTH);
    let (read, taken) = tokio::join!(pair.source()?.read(sink, None), Dump::take(entries, config, now_ms()));
    let ((), found) = settle(read, taken).map_err(|error| error.about(name))?;
    // What expired while the dump was on its way may be in it or not.
    differing_keys(stored, found, now_ms(), FINDINGS_MAX).await
}
