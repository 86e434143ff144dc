//! `lifeboat ls`.

use clap::Args;
use serde_json::json;

use super::{
    json, output_ended, say,
    session::{Origin, Session},
};
use crate::{
    error::{ExitCode, Failure, Result},
    names::ByteCount,
    repo::format::{EntryRecord, SourceManifest},
};

/// List the entries of a snapshot.
#[derive(Debug, Args)]
pub struct Ls {
    /// latest, a snapshot id, 20251011-150000, RFC 3339, or "2 hours ago"
    when: String,
    /// Only what is at or below this path: SOURCE, SOURCE/db, SOURCE/bucket/prefix
    path: Option<String>,
    #[command(flatten)]
    origin: Origin,
}

pub(super) async fn run(args: Ls, session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let repository = session.look(&stack, &session.open(&stack, &args.origin)?).await?;
    let snapshot = repository.snapshot(&session.pick(&stack, &repository, &args.when).await?).await?;
    let wanted = args.path.as_deref().map(|path| path.trim_end_matches('/'));
    let mut some = false;
    for source in &snapshot.manifest.sources {
        let name = source.name.as_str();
        if wanted.is_some_and(|wanted| wanted.split('/').next() != Some(name)) {
            continue;
        }
        let mut lines = snapshot.entries(source);
        while let Some(record) = lines.next().await? {
            let path = format!("{name}/{}", record.meta.path);
            if !wanted.is_none_or(|wanted| is_at(&path, wanted)) {
                continue;
            }
            some = true;
            show(&path, source, &record, session.json);
            if output_ended() {
                return Ok(ExitCode::Ok);
            }
        }
    }
    if some || wanted.is_none() {
        return Ok(ExitCode::Ok);
    }
    let what =
        format!("nothing is at `{}` in snapshot `{}`", wanted.unwrap_or_default(), snapshot.refs.snapshot);
    Err(Failure::new(ExitCode::Usage, what)
        .hint("Begin the path with a source's name; leave it out to see all."))
}

/// Returns whether `path` is `wanted` or below it.
fn is_at(path: &str, wanted: &str) -> bool {
    path.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn show(path: &str, source: &SourceManifest, record: &EntryRecord, json: bool) {
    if !json {
        return say(&format!("{:>10}  {path}", ByteCount(record.size_bytes)));
    }
    let facts = json!({
        "source": source.name,
        "path": record.meta.path,
        "select": record.meta.select,
        "stage": record.meta.stage,
        "size_bytes": record.size_bytes,
        "sha256": record.sha256,
        "attrs": record.meta.attrs,
        "trailer": record.trailer,
    });
    json::print(&json::document("ls", facts));
}
