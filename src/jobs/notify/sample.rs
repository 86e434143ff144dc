//! A daily report with made-up figures, to see how it looks where it will be read.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};

use crate::{
    clock::Ground,
    names::{Job, Task},
    policy::Stack,
    status::{PlaceStanding, SourceStanding, Standing, Upcoming, Verdict},
};

/// Returns a standing with the names of the policy and the figures of nobody.
pub fn sample(stack: &Stack, ground: &Ground) -> Standing {
    let at = ground.clock.now();
    let sources = stack.sources_in_order().into_iter().map(|source| SourceStanding {
        name: source.name.to_string(),
        kind: source.kind.word().to_owned(),
        point: Some(at - Duration::hours(6)),
        point_offsite: stack.offsites.first().map(|_| at - Duration::hours(6)),
        counts: vec![("bytes".to_owned(), 12 << 30)],
    });
    let offsites = stack.offsites.iter().map(|offsite| place(offsite.name.as_str(), true, at, ground));
    Standing {
        stack: stack.name.clone(),
        host: super::host_name(),
        at,
        timezone: stack.timezone.name().to_owned(),
        verdict: Verdict::Good,
        tasks: Vec::new(),
        sources: sources.collect(),
        places: [place("repository", false, at, ground)].into_iter().chain(offsites).collect(),
        incidents: Vec::new(),
        resolved: Vec::new(),
        prune_frozen: None,
        drill: None,
        clock_skew_seconds: BTreeMap::new(),
        next: vec![Upcoming { task: Task::of(Job::Backup), at: at + Duration::hours(18) }],
    }
}

fn place(name: &str, is_offsite: bool, at: DateTime<Utc>, ground: &Ground) -> PlaceStanding {
    let began = at - Duration::hours(6);
    PlaceStanding {
        name: name.to_owned(),
        is_offsite,
        snapshots: Some(14),
        proven: 2,
        immutable: 0,
        newest: Some(ground.id_at(began)),
        newest_began: Some(began),
        logical_bytes: Some(40 << 30),
        stored_bytes: Some(20 << 30),
        lag_bytes: is_offsite.then_some(0),
        lag_seconds: is_offsite.then_some(0),
        free_bytes: None,
        full_in_days: None,
        lock: None,
    }
}
