//! Which snapshot a drill takes where nobody names one.
//!
//! Only what stands for its whole stack is drawn. What holds a source that the policy has no more is drawn last: nobody
//! knows how to restore that.

use chrono::{DateTime, Duration, Utc};

use crate::{
    clock::Ground,
    error::Result,
    jobs::{restore, when::When},
    names::{Key, SnapshotId, SourceName},
    policy::{Pick, Stack},
    repo::{
        Read, Repository,
        format::{Refs, layout},
    },
};

/// Snapshots that cannot be believed and are named; more are counted.
const NAMED_MAX: usize = 5;

/// Returns the snapshot that the policy's `pick` means; `refs` come oldest first.
pub(super) async fn choose(
    stack: &Stack,
    repository: &Repository<Read>,
    refs: &[Refs],
    ground: &Ground,
) -> Result<SnapshotId> {
    let sources: Vec<SourceName> = stack.sources.iter().map(|source| source.name.clone()).collect();
    let is_latest = stack.drill.pick == Pick::Latest;
    // The newest one is what a restore would take, also where something of it could not be read.
    let is_fit = |one: &&Refs| if is_latest { !one.chosen } else { one.is_whole() };
    let mut pool: Vec<Refs> = refs.iter().filter(is_fit).cloned().collect();
    if pool.is_empty() {
        pool = refs.to_vec();
    }
    if is_latest {
        return restore::choose(repository, &pool, &When::Latest, &sources).await;
    }
    let ids: Vec<SnapshotId> = pool.iter().map(|refs| refs.snapshot.clone()).collect();
    let order = order(stack.drill.pick, &ids, ground)?;
    for id in &order {
        let Some(refs) = pool.iter().find(|refs| refs.snapshot == *id) else { continue };
        // One whose manifest is damaged is not passed over in silence: opening it says what is wrong.
        let Ok(manifest) = repository.manifest(refs).await else { return Ok(id.clone()) };
        if manifest.sources.iter().all(|source| sources.contains(&source.name)) {
            return Ok(id.clone());
        }
    }
    Ok(order[0].clone())
}

/// Returns the snapshots in the order in which they are wanted, never none; `ids` come oldest first.
///
/// A random second lies between the oldest snapshot and now, and means the newest snapshot that is not younger.
fn order(pick: Pick, ids: &[SnapshotId], ground: &Ground) -> Result<Vec<SnapshotId>> {
    let newest_first = When::Latest.fitting(ids)?;
    match pick {
        Pick::Latest => Ok(newest_first),
        Pick::Random => Ok(drawn(ids, ground)),
        Pick::Second => When::NotAfter(second(ids[0].time(), ground.clock.now(), ground)).fitting(ids),
    }
}

/// Returns all of them as they are drawn, each order as likely as any other.
fn drawn(ids: &[SnapshotId], ground: &Ground) -> Vec<SnapshotId> {
    let mut left = ids.to_vec();
    let mut drawn = Vec::new();
    while !left.is_empty() {
        let at = usize::try_from(dice(ground, left.len() as u64)).unwrap_or(0);
        drawn.push(left.swap_remove(at.min(left.len() - 1)));
    }
    drawn
}

/// Returns what a report says of refs that cannot be believed, and so were not to choose from, if there are any.
pub(super) fn left_out<'k>(refs: impl Iterator<Item = &'k Key>) -> Option<String> {
    let shown = |key: &Key| layout::refs_of(key).map_or_else(|| key.to_string(), |(id, _)| id.to_string());
    let mut ids: Vec<String> = refs.map(shown).collect();
    ids.sort();
    ids.dedup();
    let (named, more) = ids.split_at(ids.len().min(NAMED_MAX));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    let count = if ids.len() == 1 { "1 snapshot".to_owned() } else { format!("{} snapshots", ids.len()) };
    (!ids.is_empty()).then(|| {
        format!(
            "the refs of {count} were left out, for they cannot be believed: {}{more}: run `lifeboat verify`",
            named.join(", ")
        )
    })
}

/// Returns an instant between the two, each second as likely as any other.
fn second(from: DateTime<Utc>, to: DateTime<Utc>, ground: &Ground) -> DateTime<Utc> {
    let span = u64::try_from((to - from).num_seconds()).unwrap_or(0);
    from + Duration::seconds(i64::try_from(dice(ground, span + 1)).unwrap_or(0))
}

/// Returns a number below `sides`.
fn dice(ground: &Ground, sides: u64) -> u64 {
    u64::from_str_radix(&ground.hex(8), 16).unwrap_or(0) % sides.max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::error::ExitCode;

    fn ids() -> Vec<SnapshotId> {
        ["20261001T020000Z-0001", "20261002T020000Z-0002", "20261003T020000Z-0003"]
            .map(|text| SnapshotId::new(text).unwrap())
            .to_vec()
    }

    #[test]
    fn every_snapshot_comes_up_and_none_that_is_not_there() {
        let (ids, ground) = (ids(), Ground::system());
        for pick in [Pick::Random, Pick::Second] {
            let first = |_| order(pick, &ids, &ground).unwrap().swap_remove(0);
            let seen: BTreeSet<SnapshotId> = (0..300).map(first).collect();
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), ids, "{pick:?}");
        }
        let mut all = order(Pick::Random, &ids, &ground).unwrap();
        all.sort();
        assert_eq!(all, ids, "each is wanted once");
        assert_eq!(order(Pick::Latest, &ids, &ground).unwrap()[0], ids[2]);
    }

    #[test]
    fn snapshots_that_cannot_be_believed_are_counted_and_the_first_are_named() {
        let keys: Vec<Key> = (1..=9)
            .flat_map(|day| {
                let id = SnapshotId::new(&format!("2026100{day}T020000Z-000{day}")).unwrap();
                [layout::refs(&id, 0), layout::refs(&id, 1)]
            })
            .collect();
        assert_eq!(left_out([].into_iter()), None);
        assert_eq!(
            left_out(keys[..2].iter()).unwrap(),
            "the refs of 1 snapshot were left out, for they cannot be believed: 20261001T020000Z-0001: \
             run `lifeboat verify`"
        );
        let all = left_out(keys.iter()).unwrap();
        assert!(all.starts_with("the refs of 9 snapshots were left out, "), "{all}");
        assert!(all.ends_with(", 20261005T020000Z-0005 and 4 more: run `lifeboat verify`"), "{all}");
    }

    #[test]
    fn without_a_snapshot_there_is_nothing_to_drill() {
        for pick in [Pick::Latest, Pick::Random, Pick::Second] {
            assert_eq!(order(pick, &[], &Ground::system()).unwrap_err().exit(), ExitCode::Usage);
        }
    }
}
