//! Which snapshot a drill takes.

use chrono::{DateTime, Duration, Utc};

use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    jobs::when::When,
    names::SnapshotId,
    policy::Pick,
};

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
    fn without_a_snapshot_there_is_nothing_to_drill() {
        assert_eq!(when(Pick::Latest, &[], &Ground::system()).unwrap_err().exit(), ExitCode::Usage);
    }
}
