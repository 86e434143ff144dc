//! `lifeboat sync`.

use clap::Args;
use serde_json::{Value, json};

use super::{json, session::Session};
use crate::{
    error::{ExitCode, Failure, Result},
    jobs::{
        open::offsite_of,
        sync::{self, Synced},
    },
    names::ByteCount,
};

/// Copy snapshots to an offsite repository.
#[derive(Debug, Args)]
pub struct Sync {
    /// The offsite of the policy [default: all]
    name: Option<String>,
}

pub(super) async fn run(args: Sync, session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let names: Vec<String> = match &args.name {
        Some(name) => vec![offsite_of(&stack, name)?.name.to_string()],
        None => stack.offsites.iter().map(|one| one.name.to_string()).collect(),
    };
    if names.is_empty() {
        return Err(Failure::new(ExitCode::Usage, "the policy has no offsite")
            .hint("Add an [[offsite]] table to it: a second place, in another building."));
    }
    let monitor = session.monitor();
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        // One place that is down must not keep the others from being filled.
        match sync::of_stack(session.context(&stack, &monitor), &name).await {
            Ok(synced) => done.push(synced),
            Err(failure) => failed.push((name, failure)),
        }
    }
    if session.json {
        let failed: Vec<Value> = failed
            .iter()
            .map(
                |(name, failure)| json!({ "name": name, "error": failure.chain(), "hints": failure.hints() }),
            )
            .collect();
        let facts: Vec<Value> = done.iter().map(|one| facts(one, session)).collect();
        json::print(&json::document("sync", json!({ "offsites": facts, "failed": failed })));
    } else {
        for one in &done {
            session.report(&line(one));
        }
    }
    for (_, failure) in &failed {
        session.screen.failure(failure);
    }
    let worst = failed.first().map(|(_, failure)| failure.exit());
    let left_out = done.iter().map(Synced::exit).find(|exit| *exit != ExitCode::Ok);
    Ok(worst.or(left_out).unwrap_or(ExitCode::Ok))
}

fn facts(one: &Synced, session: &Session) -> Value {
    let lag = one.behind.as_ref().map_or(0, |(_, began)| (session.ground.clock.now() - *began).num_seconds());
    json!({
        "name": one.name,
        "place": one.place,
        "snapshots": one.copy.copied,
        "copied": { "packs": one.copy.packs, "bytes": one.copy.packs_bytes },
        "skipped": one.copy.there,
        "lag_seconds": lag,
        "damaged": one.copy.damaged.iter().map(|(id, why)| json!({ "id": id, "why": why })).collect::<Vec<_>>(),
        "waiting": one.copy.waiting,
    })
}

fn line(one: &Synced) -> String {
    let copy = &one.copy;
    let mut parts =
        vec![format!("{}: {} snapshots copied, {} were there", one.name, copy.copied.len(), copy.there)];
    if copy.packs > 0 {
        parts.push(format!("{} in {} packs", ByteCount(copy.packs_bytes), copy.packs));
    }
    if !copy.damaged.is_empty() {
        parts.push(format!("{} are damaged here and were left out", copy.damaged.len()));
    }
    parts.join("; ")
}
