//! Cuts and hashes the pieces of one body; meant for a blocking thread.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::chunker::Cutter;
use crate::{flow::Piece, names::ChunkId};

/// One body on its way to chunks.
pub(super) struct Cutting {
    cutter: Option<Cutter>,
    whole: Sha256,
    first: bool,
    size_bytes: u64,
}

impl Cutting {
    /// Begins with a cutter of its own.
    pub(super) fn new(cutter: Cutter) -> Self {
        Self { cutter: Some(cutter), whole: Sha256::new(), first: true, size_bytes: 0 }
    }

    /// Takes pieces and returns the chunks that are sure now with their ids.
    pub(super) fn advance(&mut self, pieces: Vec<Piece>, ended: bool) -> Vec<(ChunkId, Bytes)> {
        let mut chunks = Vec::new();
        let cutter = self.cutter.as_mut().expect("a body ends once");
        for piece in pieces {
            match piece {
                Piece::Data(bytes) => chunks.extend(cutter.push(&bytes)),
                Piece::Border => chunks.extend(cutter.border()),
            }
        }
        if ended {
            chunks.extend(self.cutter.take().expect("a body ends once").finish());
        }
        chunks.into_iter().map(|chunk| (self.hash(&chunk), chunk)).collect()
    }

    fn hash(&mut self, chunk: &Bytes) -> ChunkId {
        self.size_bytes += chunk.len() as u64;
        self.whole.update(chunk);
        // The digest of the whole after one chunk is that chunk's own: most entries are hashed once.
        let digest = if self.first { self.whole.clone().finalize() } else { Sha256::digest(chunk) };
        self.first = false;
        ChunkId(digest.into())
    }

    /// Returns the plain size and the SHA-256 of the whole body.
    pub(super) fn digest(self) -> (u64, ChunkId) {
        (self.size_bytes, ChunkId(self.whole.finalize().into()))
    }
}
