//! Questions and settings: the control connection, over the `redis` crate.
//!
//! The connection is dialed and logged in by [`Server`], so addresses, certificates and refusals are the
//! same for both kinds of connection; the crate does the rest.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisConnectionInfo, RedisError, Value,
    aio::MultiplexedConnection,
};
use tokio::task::AbortHandle;

use super::server::Server;
use crate::error::{ExitCode, Failure, Result};

/// How long an answer may take; a server answers nothing else while it empties or loads a database.
const ANSWER_SECONDS_MAX: u64 = 120;

/// An open control connection.
pub(super) struct Control {
    connection: MultiplexedConnection,
    driver: AbortHandle,
    server: Arc<Server>,
    local: Option<SocketAddr>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Control {
    /// Connects to the server.
    pub(super) async fn open(server: &Arc<Server>) -> Result<Self> {
        let wire = server.dial().await?;
        let local = wire.local();
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config =
            AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(ANSWER_SECONDS_MAX)));
        let opened = MultiplexedConnection::new_with_config(&info, wire.into_stream(), config).await;
        let (connection, driver) = opened.map_err(|error| server.down(error))?;
        let driver = tokio::spawn(driver).abort_handle();
        Ok(Self { connection, driver, server: Arc::clone(server), local })
    }

    /// Returns this end's own address.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Returns the server at the other end.
    pub(super) fn server(&self) -> Arc<Server> {
        Arc::clone(&self.server)
    }

    /// Asks; `words` must hold nothing secret, because a refusal repeats the first of them.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> Result<T> {
        let mut command = Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let name = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        let answer = command.query_async(&mut self.connection).await;
        answer.map_err(|error| failure(&self.server, &name, &error))
    }

    /// Tries a command; a refusal is an answer too, in the server's own words.
    pub(super) async fn attempt(&mut self, words: &[&[u8]]) -> Result<std::result::Result<Value, String>> {
        let mut command = Cmd::new();
        for word in words {
            command.arg(*word);
        }
        match command.query_async(&mut self.connection).await {
            Ok(value) => Ok(Ok(value)),
            Err(error) => match error.code() {
                Some(code) => {
                    Ok(Err(format!("{code} {}", error.detail().unwrap_or_default()).trim_end().to_owned()))
                }
                None => Err(self.server.down(error.to_string())),
            },
        }
    }

    /// Sends many commands at once and returns their answers in order; `name` is what a refusal says.
    pub(super) async fn ask_all<T: FromRedisValue>(&mut self, name: &str, commands: &Pipeline) -> Result<T> {
        let answer = commands.query_async(&mut self.connection).await;
        answer.map_err(|error| failure(&self.server, name, &error))
    }

    /// Reads a section of `INFO` as fields.
    pub(super) async fn info(&mut self, section: &str) -> Result<BTreeMap<String, String>> {
        let text: String = self.ask(&["INFO", section]).await?;
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Ok(fields.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned())).collect())
    }

    /// Reads the keys of each database from `INFO keyspace`.
    pub(super) async fn keys_by_db(&mut self) -> Result<BTreeMap<u64, u64>> {
        let fields = self.info("keyspace").await?;
        let counts = fields.iter().filter_map(|(name, value)| {
            let db = name.strip_prefix("db")?.parse().ok()?;
            let keys = value.split(',').find_map(|field| field.strip_prefix("keys="))?;
            Some((db, keys.parse().ok()?))
        });
        Ok(counts.collect())
    }

    /// Reads settings by glob.
    pub(super) async fn settings(&mut self, glob: &str) -> Result<BTreeMap<String, String>> {
        self.ask(&["CONFIG", "GET", glob]).await
    }

    /// Changes a setting; neither the old nor the new value is ever told.
    pub(super) async fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let mut command = Cmd::new();
        command.arg("CONFIG").arg("SET").arg(name).arg(value);
        let answer: Result<(), RedisError> = command.query_async(&mut self.connection).await;
        answer.map_err(|error| {
            let what = format!("{} refused CONFIG SET {name}", self.server.shown());
            let code = error.code().unwrap_or("no answer").to_owned();
            Failure::new(ExitCode::SourceDown, what)
                .because(code)
                .hint("Give the user the rights +config|get +config|set for the time of the restore.")
        })
    }
}

/// Turns the crate's error into ours; its own text holds what the server said and nothing that we sent.
fn failure(server: &Server, command: &str, error: &RedisError) -> Failure {
    match error.code() {
        Some(code) => server.refused(command, &format!("{code} {}", error.detail().unwrap_or_default())),
        None => server.down(error.to_string()),
    }
}
