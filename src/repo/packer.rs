//! Turns new chunks into packs in the store: frame, compress, seal, put.
//!
//! *Order.* Chunks go into frames as they come; frames are compressed in parallel and enter the pack in
//! order; a full pack is sealed and put while the next one fills. [`Packer::finish`] returns after every pack
//! is in the store. *Crash.* A packer that is dropped stops at once and
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
    store::{Get, Put, StoreError},
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
    /// To look whether a put that says "there already" was our own.
    pub get: Arc<dyn Get>,
    /// Who can open them.
    pub kind: PackKind,
    /// The revision of the config whose readers these are.
    pub config: u32,
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
    task: AbortOnDropHandle<bool>,
    shared: Arc<Shared>,
}

/// What the background work tells at any time.
#[derive(Default)]
struct Shared {
    fault: Mutex<Option<Failure>>,
    stored: Mutex<Vec<PackRecord>>,
}

impl Packer {
    /// Starts the background work.
    pub fn start(settings: PackerSettings) -> Self {
        let (messages, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        let shared = Arc::new(Shared::default());
        let told = shared.clone();
        let task = tokio::spawn(async move {
            let mut work = Work::new(settings, receiver, told.clone());
            let ended = work.run().await;
            // Said before the receiver goes, so that whoever meets a closed channel finds the cause.
            let whole = ended.is_ok();
            *told.fault.lock().unwrap_or_else(PoisonError::into_inner) = ended.err();
            whole
        });
        Self { messages, task: AbortOnDropHandle::new(task), shared }
    }

    /// Hands over a chunk; waits while packs are being put. `Err(())` when the packer stopped: its
    /// [`Self::fault`] tells why.
    pub async fn push(&self, id: ChunkId, bytes: Bytes) -> Result<(), ()> {
        self.messages.send(Message::Chunk(id, bytes)).await.map_err(drop)
    }

    /// Returns why the packer stopped, if it did.
    pub fn fault(&self) -> Option<Failure> {
        self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(retold)
    }

    /// Returns the records of the packs that reached the store since the last call.
    pub fn stored(&self) -> Vec<PackRecord> {
        std::mem::take(&mut self.shared.stored.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Closes the last pack and returns the records that [`Self::stored`] did not, each pack in the store.
    pub async fn finish(self) -> Result<Vec<PackRecord>> {
        let Self { messages, task, shared } = self;
        // A packer that stopped early says so by its result.
        let _ = messages.send(Message::Finish).await;
        let whole = task.await.failed(ExitCode::Failed, || "the packer broke off".to_owned())?;
        let fault = shared.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        match fault {
            Some(failure) => Err(failure),
            None if whole => {
                Ok(std::mem::take(&mut shared.stored.lock().unwrap_or_else(PoisonError::into_inner)))
            }
            None => Err(Failure::new(ExitCode::Failed, "the packer stopped")),
        }
    }
}

/// Tells a failure a second time: each source that meets a stopped packer is told why.
fn retold(failure: &Failure) -> Failure {
    let mut again = Failure::new(failure.exit(), failure.to_string());
    let causes = failure.chain().split_off(1);
    if !causes.is_empty() {
        again = again.because(causes.join(": "));
    }
    failure.hints().iter().fold(again, |told, hint| told.hint(hint.clone()))
}

struct Work {
    settings: PackerSettings,
    messages: mpsc::Receiver<Message>,
    frame: Frame,
    compressing: FuturesOrdered<JoinHandle<Result<CompressedFrame>>>,
    pack: Option<PackBuilder>,
    puts: JoinSet<Result<PackRecord>>,
    shared: Arc<Shared>,
}

impl Work {
    fn new(settings: PackerSettings, messages: mpsc::Receiver<Message>, shared: Arc<Shared>) -> Self {
        Self {
            settings,
            messages,
            frame: Frame::default(),
            compressing: FuturesOrdered::new(),
            pack: None,
            puts: JoinSet::new(),
            shared,
        }
    }

    /// Works until the last pack is in the store. A frame enters a pack only while another put may begin, for
    /// it may be the one that fills the pack.
    async fn run(&mut self) -> Result<()> {
        let mut finishing = false;
        loop {
            let puts_full = self.puts.len() >= PUTS_MAX;
            let busy = self.compressing.len() >= FRAMES_COMPRESSING_MAX || puts_full;
            tokio::select! {
                biased;
                Some(put) = self.puts.join_next(), if !self.puts.is_empty() => {
                    let record = put.failed(ExitCode::Failed, || "a put broke off".to_owned())??;
                    self.shared.stored.lock().unwrap_or_else(PoisonError::into_inner).push(record);
                }
                Some(frame) = self.compressing.next(), if !self.compressing.is_empty() && !puts_full => {
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
            if finishing && self.compressing.is_empty() && self.puts.len() < PUTS_MAX {
                self.close_pack().await?;
                if self.puts.is_empty() {
                    return Ok(());
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
        let PackerSettings { kind, config, recipients, pack_size_bytes, .. } = self.settings.clone();
        let pack = self.pack.take();
        let work = spawn_blocking(move || {
            let mut pack = match pack {
                Some(pack) => pack,
                None => PackBuilder::new(kind, config, &recipients, pack_size_bytes)?,
            };
            pack.push(&frame)?;
            Ok::<_, Failure>(pack)
        });
        let pack = work.await.failed(ExitCode::Failed, || "packing broke off".to_owned())??;
        let full = pack.is_full(pack_size_bytes);
        self.pack = Some(pack);
        if full { self.close_pack().await } else { Ok(()) }
    }

    async fn close_pack(&mut self) -> Result<()> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        let sealed = spawn_blocking(move || pack.seal());
        let sealed = sealed.await.failed(ExitCode::Failed, || "packing broke off".to_owned())??;
        let (put, get) = (self.settings.put.clone(), self.settings.get.clone());
        let monitor = self.settings.monitor.clone();
        self.puts.spawn(async move {
            let (key, size_bytes) = (layout::pack(sealed.record.pack), sealed.record.size_bytes);
            match put.put(&key, sealed.bytes).await {
                // Sealing is random, so the name is nobody else's: an attempt before this one did it.
                Err(StoreError::Exists { .. }) if get.size(&key).await? == Some(size_bytes) => {}
                other => other?,
            }
            monitor.event(Event::PackStored { size_bytes: sealed.record.size_bytes });
            Ok(sealed.record)
        });
        Ok(())
    }
}
