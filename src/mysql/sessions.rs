//! Sessions that are used again: [`Sessions`].
//!
//! To open one costs a login and some twenty settings, more than the work on a small table. Of as many as work at once
//! each is opened once.

use std::sync::{Mutex, PoisonError};

use mysql_async::Conn;

use super::conn::{Purpose, Server};
use crate::error::Result;

/// Sessions that write definitions and wait for work.
pub(super) struct Sessions<'a> {
    server: &'a Server,
    idle: Mutex<Vec<Conn>>,
}

impl<'a> Sessions<'a> {
    /// Begins without any.
    pub fn of(server: &'a Server) -> Self {
        Self { server, idle: Mutex::default() }
    }

    /// Lends a session to some work. One whose work failed is used no more.
    pub async fn lend<T>(&self, work: impl AsyncFnOnce(&mut Conn) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut conn = match idle {
            Some(conn) => conn,
            None => self.server.open(Purpose::WriteNames).await?,
        };
        let done = work(&mut conn).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        Ok(done)
    }

    /// Ends all.
    pub async fn end(self) {
        for conn in self.idle.into_inner().unwrap_or_else(PoisonError::into_inner) {
            // Told politely; a server that does not hear it will find out.
            let _gone_anyway = conn.disconnect().await;
        }
    }
}
