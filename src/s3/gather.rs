//! A body on its way to a server: gathered into parts, and compared with what its entry says of itself.
//!
//! *Order.* Bytes come out as they came; only after the last is it known whether they are those of the object.
//!
//! *Crash.* Nothing is kept.
//!
//! *Limits.* A part, and a piece of the next, are in memory.

use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};

use crate::flow::{Body, Entry, FlowResult, TORN};

/// Gathers a body into parts.
pub(super) struct Gather {
    /// What came and is in no part yet.
    pub(super) buffer: BytesMut,
    part_bytes: usize,
    md5: Md5,
    /// Bytes that came so far.
    pub(super) size_bytes: u64,
    /// Whether all came.
    pub(super) ended: bool,
}

impl Gather {
    /// Begins one of parts of this size.
    pub(super) fn new(part_bytes: u64) -> Self {
        Self {
            buffer: BytesMut::new(),
            part_bytes: usize::try_from(part_bytes).unwrap_or(usize::MAX),
            md5: Md5::new(),
            size_bytes: 0,
            ended: false,
        }
    }

    /// Returns the next part, full unless it is the last; `None` after the last.
    pub(super) async fn part(&mut self, body: &mut Body) -> FlowResult<Option<Bytes>> {
        while !self.ended && self.buffer.len() <= self.part_bytes {
            match body.next().await? {
                Some(bytes) => {
                    self.md5.update(&bytes);
                    self.size_bytes += bytes.len() as u64;
                    self.buffer.extend_from_slice(&bytes);
                }
                None => self.ended = true,
            }
        }
        let length = self.buffer.len().min(self.part_bytes);
        Ok((length > 0).then(|| self.buffer.split_to(length).freeze()))
    }

    /// Reads the rest of a body that nobody wants.
    pub(super) async fn rest(&mut self, body: &mut Body) -> FlowResult<()> {
        while self.part(body).await?.is_some() {}
        Ok(())
    }

    /// Compares what came with what the entry says of itself; only after the end.
    pub(super) fn check(&self, entry: &Entry) -> Result<(), String> {
        let trailer = entry.body.trailer();
        if let Some(why) = trailer.get(TORN).and_then(serde_json::Value::as_str) {
            return Err(torn_why(why));
        }
        let size = entry.meta.attrs.get("size").and_then(serde_json::Value::as_u64);
        if size.is_some_and(|size| size != self.size_bytes) {
            let size = size.unwrap_or_default();
            return Err(format!("the snapshot has {} of its {size} bytes", self.size_bytes));
        }
        let md5 = hex::encode(self.md5.clone().finalize());
        match trailer.get("md5").and_then(serde_json::Value::as_str) {
            Some(read) if read != md5 => Err(format!("its bytes have the MD5 {md5} and had {read}")),
            _ => Ok(()),
        }
    }
}

/// Returns why an object is not written of which the snapshot has only a part.
pub(super) fn torn_why(why: &str) -> String {
    format!("the snapshot holds only a part of it: {why}")
}
