//! Which snapshot a drill takes.

use chrono::{DateTime, Duration, Utc};

use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    jobs::when::When,
    names::{Key, SnapshotId},
    policy::Pick,
    repo::format::layout,
};

/// Snapshots that cannot be believed and are named; more are counted.
const NAMED_MAX: usize = 5;

/// Returns what a person would have said to get the snapshot that `pick` means; `ids` come oldest first.
///
/// A random second lies between the oldest snapshot and now, and means the newest snapshot that is not younger.
pub(super) fn when(pick: Pick, ids: &[SnapshotId], ground: &Ground) -> Result<When> {
    let (Some(oldest), Some(newest)) = (ids.first(), ids.last()) else {
        return Err(Failure::new(ExitCode::Usage, "there is no snapshot yet")
            .hint("Make one with `lifeboat backup`."));
    };
    Ok(match pick {
        Pick::Latest => When::Latest,
        Pick::Random => {
            let at = dice(ground, ids.len() as u64);
            let id = usize::try_from(at).ok().and_then(|at| ids.get(at)).unwrap_or(newest);
            When::Id(id.to_string())
        }
        Pick::Second => When::NotAfter(second(oldest.time(), ground.clock.now(), ground)),
    })
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
    use super::*;

    fn ids() -> Vec<SnapshotId> {
        ["20261001T020000Z-0001", "20261002T020000Z-0002", "20261003T020000Z-0003"]
            .map(|text| SnapshotId::new(text).unwrap())
            .to_vec()
    }

    #[test]
    fn every_snapshot_comes_up_and_none_that_is_not_there() {
        let (ids, ground) = (ids(), Ground::system());
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..300 {
            seen.insert(when(Pick::Random, &ids, &ground).unwrap().pick(&ids).unwrap());
            seen.insert(when(Pick::Second, &ids, &ground).unwrap().pick(&ids).unwrap());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ids);
        assert_eq!(when(Pick::Latest, &ids, &ground).unwrap(), When::Latest);
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
        assert_eq!(when(Pick::Latest, &[], &Ground::system()).unwrap_err().exit(), ExitCode::Usage);
    }
}
