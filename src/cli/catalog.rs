//! `lifeboat catalog rebuild`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{json, session::Session};
use crate::{
    error::{ExitCode, Result},
    jobs::{
        open::Opening,
        recall::{self, Recalled},
    },
};

/// The local memory of what the repository holds.
#[derive(Debug, Args)]
pub struct Catalog {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make it again from the repository
    Rebuild,
}

pub(super) async fn run(args: &Catalog, session: &Session) -> Result<ExitCode> {
    let Verb::Rebuild = args.verb;
    let stack = session.repository_of_stack()?;
    let monitor = session.monitor();
    let opening = Opening::new(&stack, &monitor)?;
    opening.catalog.clear_index()?;
    let repository = opening.look(&stack, session.identity(&stack)?, &monitor).await?;
    let (snapshots, packs) = (repository.refs().await?.len(), repository.packs().await?.len());
    let indexes = opening.catalog.origins()?.len();
    let recalled = recall::recall(&stack, &opening.catalog, &monitor).await?;
    if session.json {
        let facts = json!({ "snapshots": snapshots, "packs": packs, "indexes": indexes, "runs": recalled.backups, "drills": recalled.drills });
        json::print(&json::document("catalog", facts));
    } else {
        session
            .report(&format!("the catalog knows {snapshots} snapshots, {packs} packs and {indexes} indexes"));
        let Recalled { backups, drills } = recalled;
        if backups > 0 {
            session.report(&format!("it had forgotten its past: {backups} backups were recalled"));
        }
        if drills > 0 {
            session.report(&format!("{drills} drills were recalled by their proofs"));
        }
    }
    Ok(ExitCode::Ok)
}
