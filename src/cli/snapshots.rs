//! `lifeboat snapshots`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;

use super::{
    json, say,
    session::{Origin, Session},
};
use crate::{
    error::{ExitCode, Failure, Result},
    names::{ByteCount, Key, SnapshotId},
    repo::{
        RestorePoints,
        format::{Manifest, Proof, Refs},
    },
};

/// List the restore points.
#[derive(Debug, Args)]
pub struct Snapshots {
    #[command(flatten)]
    origin: Origin,
}

pub(super) async fn run(args: Snapshots, session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let repository = session.look(&stack, &session.open(&stack, &args.origin)?).await?;
    let RestorePoints { snapshots: good, proven, refused: bad } = repository.restore_points().await?;
    let mut all = Vec::new();
    for refs in good {
        // A manifest that is damaged must not hide the other snapshots.
        let manifest = match repository.manifest(&refs).await {
            Ok(manifest) => Some(manifest),
            Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
            Err(failure) => {
                session.screen.failure(&failure);
                None
            }
        };
        all.push((refs, manifest));
    }
    for (_, failure) in &bad {
        session.screen.failure(failure);
    }
    if session.json {
        let snapshots: Vec<_> = all
            .iter()
            .map(|(refs, manifest)| facts(refs, manifest.as_ref(), proven.get(&refs.snapshot)))
            .collect();
        let refused: Vec<_> = bad.iter().map(|(key, failure)| refusal(key, failure)).collect();
        json::print(&json::document("snapshots", json!({ "snapshots": snapshots, "refused": refused })));
    } else if all.is_empty() {
        say("there is no snapshot yet");
    } else {
        show(&all, &proven, stack.timezone);
    }
    let damaged = all.iter().any(|(_, manifest)| manifest.is_none()).then_some(ExitCode::Damage);
    let refused = bad.iter().map(|(_, failure)| failure.exit()).min();
    Ok(refused.or(damaged).unwrap_or(ExitCode::Ok))
}

/// Returns what is told of refs that cannot be believed.
fn refusal(key: &Key, failure: &Failure) -> serde_json::Value {
    json!({ "object": key, "code": failure.exit().word(), "error": failure.chain() })
}

fn status(refs: &Refs, manifest: Option<&Manifest>) -> &'static str {
    if manifest.is_some() { refs.word() } else { "damaged" }
}

/// Returns the words for people. What is damaged now is not what was proven then.
fn words(refs: &Refs, manifest: Option<&Manifest>, is_proven: bool) -> String {
    let status = status(refs, manifest);
    if is_proven && manifest.is_some() { format!("{status}, proven") } else { status.to_owned() }
}

fn facts(refs: &Refs, manifest: Option<&Manifest>, proof: Option<&Proof>) -> serde_json::Value {
    let sources: Vec<&str> =
        manifest.iter().flat_map(|manifest| &manifest.sources).map(|source| source.name.as_str()).collect();
    json!({
        "id": refs.snapshot,
        "time": refs.began,
        "status": status(refs, manifest),
        "sources": sources,
        "bytes": manifest.map(Manifest::size_bytes),
        "proven": proof.is_some(),
        "proof": proof.map(|proof| json!({ "drill": proof.drill, "time": proof.ended })),
        "tag": manifest.and_then(|manifest| manifest.tag.clone()),
        "pin": manifest.and_then(|manifest| manifest.pin.clone()),
    })
}

fn show(all: &[(Refs, Option<Manifest>)], proven: &BTreeMap<SnapshotId, Proof>, zone: chrono_tz::Tz) {
    let mut table = super::screen::table(&["id", "time", "status", "sources", "size", "tag"]);
    for (refs, manifest) in all {
        let sources: Vec<&str> = manifest
            .iter()
            .flat_map(|manifest| &manifest.sources)
            .map(|source| source.name.as_str())
            .collect();
        table.add_row([
            refs.snapshot.to_string(),
            refs.began.with_timezone(&zone).format("%Y-%m-%d %H:%M:%S %Z").to_string(),
            words(refs, manifest.as_ref(), proven.contains_key(&refs.snapshot)),
            sources.join(" "),
            manifest
                .as_ref()
                .map(|manifest| ByteCount(manifest.size_bytes()).to_string())
                .unwrap_or_default(),
            manifest.as_ref().and_then(|manifest| manifest.tag.clone()).unwrap_or_default(),
        ]);
    }
    say(&table.to_string());
}
