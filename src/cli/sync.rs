//! `lifeboat sync`.

use clap::Args;
use serde_json::{Value, json};

use super::{json, session::Session};
use crate::{
    error::{ExitCode, Failure, Result},
    jobs::{
        open::offsite_of,
        sync::{self, Copies, Synced},
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
    let copies = sync::of_each(session.context(&stack, &monitor), names).await;
    if session.json {
        json::print(&json::document("sync", json!({ "offsites": done(&copies), "failed": failed(&copies) })));
    } else {
        for one in &copies.done {
            session.report(&line(one));
        }
    }
    for (_, failure) in &copies.failed {
        session.screen.failure(failure);
    }
    Ok(copies.exit())
}

/// Returns what is told of the offsites that were reached.
pub(super) fn done(copies: &Copies) -> Vec<Value> {
    copies.done.iter().map(facts).collect()
}

/// Returns what is told of the others.
pub(super) fn failed(copies: &Copies) -> Vec<Value> {
    let facts = |(name, failure): &(String, Failure)| json!({ "name": name, "error": failure.chain(), "hints": failure.hints() });
    copies.failed.iter().map(facts).collect()
}

fn facts(one: &Synced) -> Value {
    let (copy, state) = (&one.copy, &one.copy.state);
    let newest = state.newest.as_ref().map(|(id, began)| json!({ "id": id, "time": began }));
    json!({
        "name": one.name,
        "place": one.place,
        "snapshots": copy.copied,
        "copied": { "packs": copy.packs, "bytes": copy.packs_bytes, "packs_reread": copy.packs_reread },
        "skipped": copy.there,
        "there": {
            "snapshots": state.snapshots,
            "proven": state.proven,
            "newest": newest,
            "bytes": state.packs_bytes,
        },
        "lag_bytes": state.lag_bytes,
        "lag_seconds": one.lag_seconds(),
        "damaged": copy.damaged.iter().map(|(id, why)| json!({ "id": id, "why": why })).collect::<Vec<_>>(),
        "waiting": copy.waiting,
        "proofs": {
            "copied": copy.proofs,
            "left": copy.proofs_left.iter().map(|(key, why)| json!({ "object": key, "why": why })).collect::<Vec<_>>(),
        },
        "packs_healed": copy.healed.len(),
        "unhealed": copy.unhealed.iter().map(|(id, why)| json!({ "id": id, "why": why })).collect::<Vec<_>>(),
    })
}

/// Tells a person what became of one offsite.
pub(super) fn line(one: &Synced) -> String {
    let copy = &one.copy;
    let mut parts =
        vec![format!("{}: {} snapshots copied, {} were there", one.name, copy.copied.len(), copy.there)];
    if copy.packs > 0 {
        parts.push(format!("{} in {} packs", ByteCount(copy.packs_bytes), copy.packs));
    }
    if copy.proofs > 0 {
        parts.push(format!("{} proofs of drills", copy.proofs));
    }
    let state = &copy.state;
    parts.push(format!("{} there in {}", state.snapshots, ByteCount(state.packs_bytes)));
    if let Some((id, _)) = &state.behind {
        let lag = ByteCount(state.lag_bytes);
        parts.push(format!("snapshot {id} is the oldest that it lacks, {lag} in all"));
    }
    if !copy.healed.is_empty() {
        parts.push(format!("{} packs were gone there and were copied again", copy.healed.len()));
    }
    if !copy.unhealed.is_empty() {
        parts.push(format!("{} lack packs there", copy.unhealed.len()));
    }
    if !copy.damaged.is_empty() {
        parts.push(format!("{} are damaged here and were left out", copy.damaged.len()));
    }
    parts.join("; ")
}
