//! What a server says about itself: the entry `server.json`.
//!
//! Users are not part of a dump, nor are settings: without them a restored server may answer nobody. What
//! is secret is left out: settings that hold passwords are dropped, ACL lines hold hashes only (the server
//! keeps no others).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::control::Control;
use crate::error::Result;

/// The facts, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServerFacts {
    /// `redis` or `valkey`.
    pub(super) product: String,
    /// The product's own version.
    pub(super) version: String,
    /// Fields of `INFO`: server, replication, persistence, memory, cluster.
    pub(super) info: BTreeMap<String, String>,
    /// Lines of `ACL LIST`, or `None` where that is not allowed.
    pub(super) acl: Option<Vec<String>>,
    /// Names of loaded modules, or `None` where that is not allowed.
    pub(super) modules: Option<Vec<String>>,
    /// Settings without secrets, or `None` where that is not allowed.
    pub(super) config: Option<BTreeMap<String, String>>,
    /// What could not be asked.
    pub(super) refused: Vec<String>,
}

/// Fields of `INFO` that are worth keeping. Counters are not: two backups of an unchanged server should
/// say the same.
const INFO_KEPT: [&str; 22] = [
    "redis_version",
    "valkey_version",
    "server_name",
    "redis_mode",
    "server_mode",
    "os",
    "arch_bits",
    "run_id",
    "tcp_port",
    "config_file",
    "role",
    "master_host",
    "master_port",
    "master_link_status",
    "master_replid",
    "loading",
    "aof_enabled",
    "rdb_last_bgsave_status",
    "maxmemory",
    "maxmemory_policy",
    "total_system_memory",
    "cluster_enabled",
];

impl ServerFacts {
    /// Asks a server; what it refuses is noted, except `INFO` itself.
    pub(super) async fn ask(control: &mut Control) -> Result<Self> {
        let mut facts = Self::default();
        for section in ["server", "replication", "persistence", "memory", "cluster"] {
            let fields = control.info(section).await?;
            facts.info.extend(fields.into_iter().filter(|(name, _)| INFO_KEPT.contains(&name.as_str())));
        }
        let is_valkey = facts.info.contains_key("valkey_version");
        let (product, version) =
            if is_valkey { ("valkey", "valkey_version") } else { ("redis", "redis_version") };
        facts.version = facts.info.get(version).cloned().unwrap_or_else(|| "unknown".to_owned());
        product.clone_into(&mut facts.product);
        facts.acl = facts.note("ACL LIST", control.ask(&["ACL", "LIST"]).await);
        facts.modules = facts.note("MODULE LIST", module_names(control).await);
        facts.config = facts.note("CONFIG GET", control.settings("*").await);
        if let Some(config) = &mut facts.config {
            config.retain(|name, _| !is_secret(name));
        }
        Ok(facts)
    }

    fn note<T>(&mut self, what: &str, answer: Result<T>) -> Option<T> {
        if answer.is_err() {
            self.refused.push(what.to_owned());
        }
        answer.ok()
    }

    /// Returns a field of `INFO`.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.info.get(name).map(String::as_str)
    }

    /// Returns a field of `INFO` that is a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    /// Returns product and version as a person would say them.
    pub(super) fn shown(&self) -> String {
        let product = if self.product == "valkey" { "Valkey" } else { "Redis" };
        format!("{product} {}", self.version)
    }
}

/// Reads the names out of `MODULE LIST`, whose entries are lists of field and value.
async fn module_names(control: &mut Control) -> Result<Vec<String>> {
    use ::redis::Value;
    let entries: Vec<Value> = control.ask(&["MODULE", "LIST"]).await?;
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    };
    let name = |entry: &Value| {
        let Value::Array(fields) = entry else { return None };
        let at = fields.iter().position(|field| text(field).as_deref() == Some("name"))?;
        text(fields.get(at + 1)?)
    };
    let mut names: Vec<String> = entries.iter().filter_map(name).collect();
    names.sort();
    Ok(names)
}

/// Returns whether a setting's value may be a secret; rather one too many.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "auth", "secret", "token"].iter().any(|part| name.contains(part)) && name != "tls-auth-clients"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_hold_passwords_are_secret() {
        for secret in
            ["requirepass", "masterauth", "primaryauth", "tls-key-file-pass", "tls-client-key-file-pass"]
        {
            assert!(is_secret(secret), "{secret}");
        }
        for plain in ["appendonly", "maxmemory", "masteruser", "tls-auth-clients"] {
            assert!(!is_secret(plain), "{plain}");
        }
    }
}
