//! Whether a server that was restored holds what the dump does: its own dump is pulled and both are compared, key by
//! key, by digests.

use std::sync::Arc;

use super::{
    archive::Archive,
    compare::{Dump, differing_keys},
    safety,
    server::Server,
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    flow::Verified,
    policy::RedisConfig,
};

/// Keys that a message names.
const NAMED_MAX: usize = 5;

/// Reads all of it back and compares. What has expired by then counts on neither side.
pub(super) async fn compare(
    server: &Arc<Server>,
    config: &RedisConfig,
    archive: &Archive,
    ground: &Ground,
) -> Result<Verified> {
    let (spool, survey, _) = safety::pull(server, config, ground).await?;
    if !survey.introspected || !archive.survey.introspected {
        return Ok(Verified::Counts);
    }
    let now_ms = ground.clock.now().timestamp_millis();
    let (stored, found) = (Dump::of(archive.spool.clone()), Dump::of(spool));
    let odds = differing_keys(stored, found, now_ms, NAMED_MAX).await?.odds;
    if odds.total == 0 {
        return Ok(Verified::Digests);
    }
    let named: Vec<&str> = odds.named.iter().map(|odd| odd.name.as_str()).collect();
    let what = format!("{} does not hold what the dump does", server.shown());
    Err(Failure::new(ExitCode::Partial, what)
        .because(format!("{} keys differ: {}", odds.total, named.join(", ")))
        .hint("Restore again. If it stays so, keep the server's log and report it."))
}
