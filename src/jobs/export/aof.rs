//! What a Redis server with `appendonly yes` starts from: its dump as the base of an append-only file.
//!
//! Such a server ignores a `dump.rdb`. Since 7.0 it reads a manifest, which names a base that may be an RDB and the
//! files that follow it; none need follow. Before 7.0 the append-only file is one, which may begin with an RDB. The
//! files have the names that the source's settings say, because the server looks for no others.

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Member, Output, in_archive, send};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    repo::{
        Snapshot,
        format::{EntryRecord, PackKind},
    },
};

/// Bytes that the server's facts may have.
const FACTS_BYTES_MAX: u64 = 16 << 20;

/// What a server said of itself, as far as it matters here.
#[derive(Deserialize)]
struct Facts {
    product: String,
    version: String,
    config: Option<std::collections::BTreeMap<String, String>>,
}

/// How the files are named.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AofBase {
    /// The dump's path.
    dump: String,
    /// The manifest's path and text, since 7.0.
    manifest: Option<(String, String)>,
}

impl AofBase {
    /// Asks the snapshot's facts about the server for its names; those that every server has by itself otherwise.
    pub(super) async fn of(
        snapshot: &Snapshot,
        dump: &EntryRecord,
        facts: Option<&EntryRecord>,
    ) -> Result<Self> {
        let told = dump.trailer.get("redis_version").and_then(|version| version.as_str());
        let facts = match facts {
            Some(record) if record.size_bytes <= FACTS_BYTES_MAX => {
                let mut json = Vec::new();
                for id in snapshot.chunks().body_chunks(&record.body).await? {
                    json.extend_from_slice(&snapshot.chunks().chunk(PackKind::Data, id).await?);
                }
                let unread = || format!("entry `{}` cannot be read", record.meta.path);
                serde_json::from_slice(&json).failed(ExitCode::Damage, unread)?
            }
            _ => Facts { product: String::new(), version: told.unwrap_or_default().to_owned(), config: None },
        };
        Self::named(&facts)
    }

    fn named(facts: &Facts) -> Result<Self> {
        let setting = |name: &str, default: &str| {
            let value = facts.config.as_ref().and_then(|config| config.get(name));
            value.cloned().unwrap_or_else(|| default.to_owned())
        };
        let (folder, file) =
            (setting("appenddirname", "appendonlydir"), setting("appendfilename", "appendonly.aof"));
        for name in [&folder, &file] {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
                let what = format!("the server calls its append-only file `{name}`, which is no plain name");
                return Err(Failure::new(ExitCode::Usage, what).hint("Export it with --format rdb."));
            }
        }
        let major = facts.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if facts.product != "valkey" && major.is_some_and(|major| major < 7) {
            return Ok(Self { dump: file, manifest: None });
        }
        let base = format!("{file}.1.base.rdb");
        let manifest = format!("file {base} seq 1 type b\n");
        Ok(Self {
            dump: format!("{folder}/{base}"),
            manifest: Some((format!("{folder}/{file}.manifest"), manifest)),
        })
    }

    /// Writes the archive. The manifest comes last: an archive that broke off leaves nothing that a server starts from.
    pub(super) async fn write(self, snapshot: &Snapshot, dump: &EntryRecord, out: Output) -> Result<()> {
        in_archive(out, async |members| {
            send(snapshot, dump, self.dump, members).await?;
            if let Some((path, text)) = self.manifest {
                send_text(path, text, members).await;
            }
            Ok(())
        })
        .await
    }
}

/// Sends a member of a few bytes. A closed channel means that the writing side failed, and says why when it is asked.
async fn send_text(path: String, text: String, members: &mpsc::Sender<Member>) {
    let (sender, bytes) = mpsc::channel(1);
    let size_bytes = text.len() as u64;
    if members.send(Member { path, size_bytes, bytes }).await.is_ok() {
        drop(sender.send(Bytes::from(text)).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(facts: serde_json::Value) -> Result<AofBase> {
        AofBase::named(&serde_json::from_value(facts).unwrap())
    }

    #[test]
    fn the_files_have_the_names_that_the_server_looks_for() {
        let seven =
            named(serde_json::json!({"product": "redis", "version": "7.0.15", "config": null})).unwrap();
        assert_eq!(seven.dump, "appendonlydir/appendonly.aof.1.base.rdb");
        let (path, text) = seven.manifest.unwrap();
        assert_eq!(path, "appendonlydir/appendonly.aof.manifest");
        assert_eq!(text, "file appendonly.aof.1.base.rdb seq 1 type b\n");

        let own = serde_json::json!({"appenddirname": "aof", "appendfilename": "im.aof"});
        let valkey = serde_json::json!({"product": "valkey", "version": "9.1.2", "config": own});
        assert_eq!(named(valkey).unwrap().dump, "aof/im.aof.1.base.rdb");
        let six = serde_json::json!({"product": "redis", "version": "6.2.14", "config": own});
        assert_eq!(named(six).unwrap(), AofBase { dump: "im.aof".into(), manifest: None });
        for bad in ["../x", "", "a b", ".."] {
            let config = serde_json::json!({"appendfilename": bad});
            let facts = serde_json::json!({"product": "redis", "version": "8.0.6", "config": config});
            assert_eq!(named(facts).unwrap_err().exit(), ExitCode::Usage, "{bad}");
        }
    }
}
