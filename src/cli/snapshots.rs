//! `lifeboat snapshots`.

use clap::Args;
use serde_json::json;

use super::{
    json, say,
    session::{Origin, Session},
};
use crate::{
    error::{ExitCode, Failure, Result},
    names::{ByteCount, Key},
    repo::format::{Manifest, Refs},
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
    let (good, bad) = repository.survey().await?;
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
        let snapshots: Vec<_> = all.iter().map(|(refs, manifest)| facts(refs, manifest.as_ref())).collect();
        let refused: Vec<_> = bad.iter().map(|(key, failure)| refusal(key, failure)).collect();
        json::print(&json::document("snapshots", json!({ "snapshots": snapshots, "refused": refused })));
    } else if all.is_empty() {
        say("there is no snapshot yet");
    } else {
        show(&all, stack.timezone);
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

fn facts(refs: &Refs, manifest: Option<&Manifest>) -> serde_json::Value {
    let sources: Vec<&str> =
        manifest.iter().flat_map(|manifest| &manifest.sources).map(|source| source.name.as_str()).collect();
    json!({
        "id": refs.snapshot,
        "time": refs.began,
        "status": status(refs, manifest),
        "sources": sources,
        "bytes": manifest.map(Manifest::size_bytes),
        "proven": false,
        "tag": manifest.and_then(|manifest| manifest.tag.clone()),
        "pin": manifest.and_then(|manifest| manifest.pin.clone()),
    })
}

fn show(all: &[(Refs, Option<Manifest>)], zone: chrono_tz::Tz) {
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
            status(refs, manifest.as_ref()).to_owned(),
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
