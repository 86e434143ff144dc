//! Which of several servers with the same data a dump is pulled from: [`choose`].
//!
//! A server forks for a dump and needs memory for what is written meanwhile, so a replica does it rather than the
//! primary. But a replica is behind, by what is still on its way. A dump must hold all that was written before the
//! instant that it is noted with, for other sources are read on that promise.
//!
//! *Order.* This host's clock is read, then the primary says how far its history goes, then a replica is waited for
//! until it has come that far: all that was written before that reading of the clock is then in its dump.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};

use super::{
    control::Control,
    server::{Server, withholds},
};
use crate::{clock::Ground, error::Result, policy::Prefer};

/// How long a replica may take to come as far as its primary was.
const BEHIND_SECONDS_MAX: u64 = 10;
/// How long is waited between two looks.
const LOOK_MILLISECONDS: u64 = 50;

/// The server that a dump is pulled from.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// The server.
    pub(super) server: Arc<Server>,
    /// `primary` or `replica`; `server` where nobody asked.
    pub(super) role: &'static str,
    /// This host's clock when everything was written that the server is known to have, where it is a replica.
    pub(super) known_at: Option<DateTime<Utc>>,
    /// Why replicas were not taken, a line each.
    pub(super) passed_over: Vec<String>,
}

impl Chosen {
    /// Returns the only server that there is.
    pub(super) fn only(server: Arc<Server>) -> Self {
        Self { server, role: "server", known_at: None, passed_over: Vec::new() }
    }

    /// Returns what a person hears about the choice.
    pub(super) fn shown(&self) -> String {
        format!("{} {}", self.role, self.server.address())
    }
}

/// Chooses between a primary and its replicas, which stand in the order in which they are tried.
pub(super) async fn choose(
    primary: Server,
    replicas: Vec<Server>,
    prefer: Prefer,
    ground: &Ground,
) -> Result<Chosen> {
    let asked_at = ground.clock.now();
    let primary = Arc::new(primary);
    let Some(history) = History::of_primary(&primary).await? else {
        // It may not be asked: then no replica can be compared with it.
        return Ok(Chosen { role: "primary", ..Chosen::only(primary) });
    };
    let mut passed_over = Vec::new();
    if prefer == Prefer::Replica {
        for replica in replicas {
            let server = Arc::new(replica);
            match wait_for(&server, &history).await {
                Ok(()) => {
                    return Ok(Chosen { server, role: "replica", known_at: Some(asked_at), passed_over });
                }
                Err(why) => passed_over.push(format!("replica {}: {why}", server.address())),
            }
        }
    }
    Ok(Chosen { server: primary, role: "primary", known_at: None, passed_over })
}

/// How far a server's history goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct History {
    id: String,
    offset: u64,
}

impl History {
    /// Asks a primary; `None` where `INFO` is not allowed.
    async fn of_primary(server: &Arc<Server>) -> Result<Option<Self>> {
        let mut control = Control::open(server).await?;
        let fields = match control.info("replication").await {
            Ok(fields) => fields,
            Err(failure) if withholds(&failure) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        if fields.get("role").is_some_and(|role| role != "master") {
            return Err(server.down("it is no primary any more"));
        }
        Ok(Self::told(&fields, "master_repl_offset"))
    }

    fn told(fields: &BTreeMap<String, String>, offset: &str) -> Option<Self> {
        Some(Self { id: fields.get("master_replid")?.clone(), offset: fields.get(offset)?.parse().ok()? })
    }
}

/// Waits until a replica has a whole history, or tells why it cannot be read.
async fn wait_for(server: &Arc<Server>, history: &History) -> Result<(), String> {
    let mut control = Control::open(server).await.map_err(|failure| failure.one_line())?;
    let until = Instant::now() + Duration::from_secs(BEHIND_SECONDS_MAX);
    loop {
        let fields = control.info("replication").await.map_err(|failure| failure.one_line())?;
        match standing(&fields, history)? {
            0 => return Ok(()),
            behind if Instant::now() >= until => {
                return Err(format!("it is {behind} bytes behind and does not catch up"));
            }
            _ => sleep(Duration::from_millis(LOOK_MILLISECONDS)).await,
        }
    }
}

/// Returns how many bytes a replica lacks of a history, or why it never gets them.
fn standing(fields: &BTreeMap<String, String>, history: &History) -> Result<u64, String> {
    let is = |name: &str, wanted: &str| fields.get(name).is_some_and(|value| value == wanted);
    if !is("role", "slave") {
        return Err("it is no replica".to_owned());
    }
    if !is("master_link_status", "up") {
        return Err("its link to the primary is down".to_owned());
    }
    match History::told(fields, "slave_repl_offset") {
        Some(own) if own.id == history.id => Ok(history.offset.saturating_sub(own.offset)),
        Some(_) => Err("it follows another history than the primary's".to_owned()),
        None => Err("it does not tell how far it is".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_counts_only_with_the_history_of_its_primary() {
        let history = History { id: "abc".to_owned(), offset: 100 };
        let judged = |role: &str, link: &str, id: &str, offset: &str| {
            let fields = [
                ("role", role),
                ("master_link_status", link),
                ("master_replid", id),
                ("slave_repl_offset", offset),
            ];
            let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            standing(&fields, &history)
        };
        assert_eq!(judged("slave", "up", "abc", "100"), Ok(0));
        assert_eq!(judged("slave", "up", "abc", "140"), Ok(0));
        assert_eq!(judged("slave", "up", "abc", "58"), Ok(42));
        for (role, link, id, offset, why) in [
            ("master", "up", "abc", "100", "no replica"),
            ("slave", "down", "abc", "100", "link"),
            ("slave", "up", "xyz", "100", "another history"),
            ("slave", "up", "abc", "?", "does not tell"),
        ] {
            assert!(judged(role, link, id, offset).unwrap_err().contains(why), "{why}");
        }
    }
}
