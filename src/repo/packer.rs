//! Turns new chunks into packs in the store: frame, compress, seal, put.
//!
//! *Order.* Chunks go into frames as they come; frames are compressed in parallel and enter the pack in
//! order; a full pack is sealed and put while the next one fills. [`Packer::finish`] returns the records of
//! all packs after every one of them is in the store. *Crash.* A packer that is dropped stops at once and
//! puts nothing more; packs it has put are found again by `refresh` of a later run only through an index.
//!
//! *Limits.* [`CHUNKS_WAITING_MAX`] chunks, [`FRAMES_COMPRESSING_MAX`] frames, one pack that fills and
//! [`PUTS_MAX`] packs on their way to the store are in memory.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesOrdered};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet, spawn_blocking},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    format::{PackKind, PackRecord, layout},
    pack::{CompressedFrame, Frame, PackBuilder},
};
use crate::{
    crypt::Recipients,
    error::{Context, ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    names::ChunkId,
    store::Put,
};

/// Chunks that may wait to be framed.
pub const CHUNKS_WAITING_MAX: usize = 4;
/// Frames that are compressed at the same time.
pub const FRAMES_COMPRESSING_MAX: usize = 4;
/// Packs that are put at the same time.
pub const PUTS_MAX: usize = 2;

/// What a packer needs to know.
#[derive(Clone)]
pub struct PackerSettings {
    /// Where packs go.
    pub put: Arc<dyn Put>,
    /// Who can open them.
    pub kind: PackKind,
    /// Whom they are sealed to.
    pub recipients: Recipients,
    /// Bytes at which a pack is closed.
    pub pack_size_bytes: u64,
    /// zstd level.
    pub level: i32,
    /// Hears of each pack.
    pub monitor: SharedMonitor,
}

enum Message {
    Chunk(ChunkId, Bytes),
    Finish,
}

/// Takes new chunks and makes packs of them in the background.
pub struct Packer {
    messages: mpsc::Sender<Message>,
    task: AbortOnDropHandle<Option<Vec<PackRecord>>>,
    fault: Arc<Mutex<Option<Failure>>>,
}

impl Packer {
    /// Starts the background work.
    pub fn start(settings: PackerSettings) -> Self {
        let (messages, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        let fault = Arc::new(Mutex::new(None));
        let report = fault.clone();
        let task = tokio::spawn(async move {
            let mut work = Work::new(settings, receiver);
            match work.run().await {
                Ok(records) => Some(records),
                Err(failure) => {
                    // Said before the receiver goes, so that whoever meets a closed channel finds the cause.
                    *report.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                    None
                }
            }
        });
        Self { messages, task: AbortOnDropHandle::new(task), fault }
    }

    /// Hands over a chunk; waits while packs are being put. `Err(())` when the packer stopped: its
    /// [`Self::fault`] tells why.
    pub async fn push(&self, id: ChunkId, bytes: Bytes) -> Result<(), ()> {
        self.messages.send(Message::Chunk(id, bytes)).await.map_err(drop)
    }

    /// Returns why the packer stopped, once.
    pub fn fault(&self) -> Option<Failure> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Closes the last pack and returns the records of all, each of them in the store.
    pub async fn finish(self) -> Result<Vec<PackRecord>> {
        let stopped = || Failure::new(ExitCode::Failed, "the packer stopped");
        // A packer that stopped early says so by its result.
        let _ = self.messages.send(Message::Finish).await;
        let records = self.task.await.failed(ExitCode::Failed, || "the packer broke off".to_owned())?;
        records.ok_or_else(|| {
            self.fault.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(stopped)
        })
    }
}

struct Work {
    settings: PackerSettings,
    messages: mpsc::Receiver<Message>,
    frame: Frame,
    compressing: FuturesOrdered<JoinHandle<Result<CompressedFrame>>>,
    pack: Option<PackBuilder>,
    puts: JoinSet<Result<PackRecord>>,
    records: Vec<PackRecord>,
}

impl Work {
    fn new(settings: PackerSettings, messages: mpsc::Receiver<Message>) -> Self {
        Self {
            settings,
            messages,
            frame: Frame::default(),
            compressing: FuturesOrdered::new(),
            pack: None,
            puts: JoinSet::new(),
            records: Vec::new(),
        }
    }

    async fn run(&mut self) -> Result<Vec<PackRecord>> {
        let mut finishing = false;
        loop {
            let busy = self.compressing.len() >= FRAMES_COMPRESSING_MAX || self.puts.len() >= PUTS_MAX;
            tokio::select! {
                biased;
                Some(put) = self.puts.join_next(), if !self.puts.is_empty() => {
                    self.records.push(put.failed(ExitCode::Failed, || "a put broke off".to_owned())??);
                }
                Some(frame) = self.compressing.next(), if !self.compressing.is_empty() => {
                    self.append(frame.failed(ExitCode::Failed, || "compression broke off".to_owned())??).await?;
                }
                message = self.messages.recv(), if !finishing && !busy => match message {
                    Some(Message::Chunk(id, bytes)) => self.take(id, &bytes)?,
                    Some(Message::Finish) => {
                        self.close_frame();
                        finishing = true;
                    }
                    None => return Err(Failure::new(ExitCode::Interrupted, "the backup was given up")),
                },
                else => {}
            }
            if finishing && self.compressing.is_empty() {
                self.close_pack().await?;
                if self.puts.is_empty() {
                    return Ok(std::mem::take(&mut self.records));
                }
            }
        }
    }

    fn take(&mut self, id: ChunkId, bytes: &[u8]) -> Result<()> {
        self.frame.push(id, bytes)?;
        if self.frame.is_full() {
            self.close_frame();
        }
        Ok(())
    }

    fn close_frame(&mut self) {
        if !self.frame.is_empty() {
            let (frame, level) = (std::mem::take(&mut self.frame), self.settings.level);
            self.compressing.push_back(spawn_blocking(move || frame.compress(level)));
        }
    }

    async fn append(&mut self, frame: CompressedFrame) -> Result<()> {
        let PackerSettings { kind, recipients, pack_size_bytes, .. } = self.settings.clone();
        let pack = self.pack.take();
        let work = spawn_blocking(move || {
            let mut pack = match pack {
                Some(pack) => pack,
                None => PackBuilder::new(kind, &recipients, pack_size_bytes)?,
            };
            pack.push(frame)?;
            Ok::<_, Failure>(pack)
        });
        let pack = work.await.failed(ExitCode::Failed, || "packing broke off".to_owned())??;
        let full = pack.size_bytes() >= pack_size_bytes;
        self.pack = Some(pack);
        if full { self.close_pack().await } else { Ok(()) }
    }

    async fn close_pack(&mut self) -> Result<()> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        let sealed = spawn_blocking(move || pack.seal());
        let sealed = sealed.await.failed(ExitCode::Failed, || "packing broke off".to_owned())??;
        let (put, monitor) = (self.settings.put.clone(), self.settings.monitor.clone());
        self.puts.spawn(async move {
            put.put(&layout::pack(sealed.record.pack), sealed.bytes).await.map_err(Failure::from)?;
            monitor.event(Event::PackStored { size_bytes: sealed.record.size_bytes });
            Ok(sealed.record)
        });
        Ok(())
    }
}
