//! Loads pieces of rows by several sessions at once.
//!
//! *Order.* A piece is handed over when a session is free for it; which one takes it is chance.
//!
//! *Crash.* The first session that fails ends all: what it was loading is taken back by the server.

use std::{collections::BTreeMap, sync::Arc};

use mysql_async::Conn;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::{
    conn::{Purpose, Server},
    layout::{Layout, Place},
    ledger::Ledger,
    load::{Way, load},
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{Entry, FlowError, FlowResult},
};

/// A piece of rows and where it goes.
pub(super) struct Job {
    pub entry: Entry,
    pub at: Place,
    pub layout: Arc<Layout>,
}

/// What was loaded.
#[derive(Default)]
pub(super) struct Loaded {
    pub rows: BTreeMap<Place, u64>,
    pub bytes: u64,
}

/// Sessions that load pieces.
#[derive(Default)]
pub(super) struct Loaders {
    jobs: Option<mpsc::Sender<Job>>,
    running: JoinSet<FlowResult<Loaded>>,
}

impl Loaders {
    /// Returns whether the sessions are open.
    pub fn have_begun(&self) -> bool {
        self.jobs.is_some()
    }

    /// Opens the sessions.
    pub async fn start(&mut self, server: &Server, names: &mut Conn, ledger: Option<&Ledger>) -> Result<()> {
        let way = Way::of(server, names).await?;
        let (jobs, queue) = mpsc::channel(1);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..server.config.threads.clamp(1, 64) {
            let conn = server.open(Purpose::WriteRows).await?;
            self.running.spawn(load_all(server.clone(), conn, way, ledger.cloned(), Arc::clone(&queue)));
        }
        self.jobs = Some(jobs);
        Ok(())
    }

    /// Hands over a piece, once a loader is free.
    pub async fn give(&mut self, job: Job) -> FlowResult<()> {
        let Some(jobs) = self.jobs.clone() else { return Err(FlowError::Closed) };
        self.or_failed(async move { jobs.send(job).await.map_err(|_| FlowError::Closed) }).await
    }

    /// Waits for `step`, or for a loader to fail: while jobs may come, none ends otherwise.
    pub async fn or_failed<T>(&mut self, step: impl Future<Output = FlowResult<T>>) -> FlowResult<T> {
        tokio::select! {
            done = step => done,
            Some(ended) = self.running.join_next() => match joined(ended) {
                Ok(_) => Err(FlowError::Closed),
                Err(error) => Err(error),
            },
        }
    }

    /// Returns the error to tell: a loader that failed for a reason of its own knows better than an echo.
    pub fn blame<T>(&mut self, error: FlowError) -> FlowResult<T> {
        let mut told = error;
        while let Some(ended) = self.running.try_join_next() {
            if let Err(other) = joined(ended)
                && told.is_echo()
            {
                told = other;
            }
        }
        Err(told)
    }

    /// Waits until all pieces are in.
    pub async fn finish(mut self) -> FlowResult<Loaded> {
        self.jobs = None;
        let mut all = Loaded::default();
        while let Some(ended) = self.running.join_next().await {
            let loaded = joined(ended)?;
            all.bytes += loaded.bytes;
            for (at, rows) in loaded.rows {
                *all.rows.entry(at).or_default() += rows;
            }
        }
        Ok(all)
    }
}

fn joined(ended: Result<FlowResult<Loaded>, tokio::task::JoinError>) -> FlowResult<Loaded> {
    ended.unwrap_or_else(|error| {
        Err(Failure::new(ExitCode::Failed, "a loading task broke down").because(error).into())
    })
}

async fn load_all(
    server: Server,
    mut conn: Conn,
    way: Way,
    ledger: Option<Ledger>,
    queue: Arc<Mutex<mpsc::Receiver<Job>>>,
) -> FlowResult<Loaded> {
    let mut loaded = Loaded::default();
    loop {
        let next = queue.lock().await.recv().await;
        let Some(mut job) = next else {
            // Told politely; all is committed.
            let _gone_anyway = conn.disconnect().await;
            return Ok(loaded);
        };
        let (path, body) = (&job.entry.meta.path, &mut job.entry.body);
        // Where there are no transactions a note proves nothing: all of such a table comes again.
        let noted = ledger.as_ref().filter(|_| job.layout.is_transactional()).map(|ledger| (ledger, path));
        let (rows, bytes) = load(&server, &mut conn, way, &job.at, &job.layout, noted, body).await?;
        loaded.bytes += bytes;
        *loaded.rows.entry(job.at).or_default() += rows;
    }
}
