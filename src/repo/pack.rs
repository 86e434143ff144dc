//! Packs: the files that chunks lie in. A pack is a plain `tar.zst.age`.
//!
//! *Layout.* ustar members `chunks/<sha256>`; a zstd frame ends at a member's border once [`FRAME_BYTES`] of
//! tar are in it; `PACK-INDEX.json` is the last member, in a frame of its own with the two zero blocks that
//! end a tar; then a zstd seek table in a skippable frame. `age -d | zstd -d | tar x` opens it; so does
//! reading one frame.
//!
//! *Order.* The name is the SHA-256 of the sealed bytes, so it is known only when the pack is whole; until
//! then it is memory. *Crash.* What was not put leaves nothing behind.

use std::io::Write;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::format::{
    self, ChunkRecord, FRAME_BYTES_MAX, FrameRecord, PackIndex, PackKind, PackRecord, PackTail,
};
use crate::{
    crypt::{Recipients, SealedWriter, payload_offset},
    error::{Context, ExitCode, Failure, Result},
    names::{ChunkId, PackId},
};

/// Plain bytes at which a frame is closed at the next member's border.
pub const FRAME_BYTES: usize = 512 << 10;
/// The name of the last member.
pub const INDEX_MEMBER: &str = "PACK-INDEX.json";
/// Chunks at which a pack is closed: the index of a pack of very many small ones stays small.
pub const CHUNKS_IN_PACK_MAX: usize = 1 << 16;

/// Bytes that the inner index may have; a larger one is hostile.
const INDEX_BYTES_MAX: usize = 256 << 20;
pub(super) const BLOCK: usize = 512;

/// Some members on their way into one frame.
#[derive(Default)]
pub struct Frame {
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32, u32)>,
}

impl Frame {
    /// Adds a chunk.
    pub fn push(&mut self, id: ChunkId, bytes: &[u8]) -> Result<()> {
        let offset = append_member(&mut self.plain, &format!("chunks/{id}"), bytes)?;
        let fits = |number: usize| {
            u32::try_from(number).failed(ExitCode::Failed, || format!("chunk `{id}` is too large"))
        };
        self.chunks.push((id, fits(offset)?, fits(bytes.len())?));
        Ok(())
    }

    /// Returns whether the frame is to be closed.
    pub fn is_full(&self) -> bool {
        self.plain.len() >= FRAME_BYTES
    }

    /// Returns whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty()
    }

    /// Compresses it; this is the expensive step and needs nothing else.
    pub fn compress(self, level: i32) -> Result<CompressedFrame> {
        let bytes = compress(&self.plain, level)?;
        let plain_bytes =
            u32::try_from(self.plain.len()).failed(ExitCode::Failed, || "a frame is too large".to_owned())?;
        Ok(CompressedFrame { bytes, plain_bytes, chunks: self.chunks })
    }
}

/// A frame that is ready to be put into a pack.
pub struct CompressedFrame {
    bytes: Vec<u8>,
    plain_bytes: u32,
    chunks: Vec<(ChunkId, u32, u32)>,
}

/// A pack that is being filled.
pub struct PackBuilder {
    sealed: SealedWriter<Vec<u8>>,
    kind: PackKind,
    config: u32,
    index: PackIndex,
    seek: zeekstd::SeekTable,
    offset: u64,
}

/// A whole pack, ready to be put.
pub struct SealedPack {
    /// Its name and what is in it.
    pub record: PackRecord,
    /// Its bytes.
    pub bytes: Bytes,
}

impl PackBuilder {
    /// Begins a pack for `recipients`, those of the config's revision `config`.
    pub fn new(kind: PackKind, config: u32, recipients: &Recipients, size_bytes: u64) -> Result<Self> {
        let room = usize::try_from(size_bytes + (4 << 20)).unwrap_or_default();
        let sealed = recipients.writer(Vec::with_capacity(room))?;
        let (index, seek) = (PackIndex::default(), zeekstd::SeekTable::new());
        Ok(Self { sealed, kind, config, index, seek, offset: 0 })
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &CompressedFrame) -> Result<()> {
        let number = u32::try_from(self.index.frames.len()).unwrap_or(u32::MAX);
        let chunks = frame.chunks.iter().map(|(id, offset, size_bytes)| ChunkRecord {
            id: *id,
            frame: number,
            offset: *offset,
            size_bytes: *size_bytes,
        });
        self.index.chunks.extend(chunks);
        let record = self.append(&frame.bytes, frame.plain_bytes)?;
        self.index.frames.push(record);
        Ok(())
    }

    /// Returns whether the pack is to be closed, being meant for `size_bytes`.
    pub fn is_full(&self, size_bytes: u64) -> bool {
        self.offset >= size_bytes || self.index.chunks.len() >= CHUNKS_IN_PACK_MAX
    }

    /// Writes the index and the seek table and closes the pack.
    pub fn seal(mut self) -> Result<SealedPack> {
        let mut last = Vec::new();
        let tail = PackTail { kind: Some(self.kind), config: self.config, index: self.index.clone() };
        append_member(&mut last, INDEX_MEMBER, &format::write(&tail))?;
        last.resize(last.len() + 2 * BLOCK, 0);
        let plain_bytes =
            u32::try_from(last.len()).failed(ExitCode::Failed, || "a pack index is too large".to_owned())?;
        self.append(&compress(&last, 3)?, plain_bytes)?;
        let mut serializer = std::mem::take(&mut self.seek).into_serializer();
        let mut table = vec![0; serializer.encoded_len()];
        let written = serializer.write_into(&mut table);
        let sealing = || "a pack could not be sealed".to_owned();
        self.sealed.write_all(&table[..written]).failed(ExitCode::Failed, sealing)?;
        let bytes = Bytes::from(self.sealed.finish().failed(ExitCode::Failed, sealing)?);
        let record = PackRecord {
            pack: PackId(Sha256::digest(&bytes).into()),
            size_bytes: bytes.len() as u64,
            payload_offset: payload_offset(&bytes).expect("age wrote a header"),
            kind: self.kind,
            config: self.config,
            inner: self.index,
        };
        Ok(SealedPack { record, bytes })
    }

    fn append(&mut self, compressed: &[u8], plain_bytes: u32) -> Result<FrameRecord> {
        let too_large = || "a frame is too large".to_owned();
        let size_bytes = u32::try_from(compressed.len()).failed(ExitCode::Failed, too_large)?;
        self.seek.log_frame(size_bytes, plain_bytes).failed(ExitCode::Failed, too_large)?;
        self.sealed
            .write_all(compressed)
            .failed(ExitCode::Failed, || "a pack could not be sealed".to_owned())?;
        let record = FrameRecord { offset: self.offset, size_bytes, plain_bytes };
        self.offset += u64::from(size_bytes);
        Ok(record)
    }
}

/// Appends a ustar member with constant owner, mode and time: the same chunk is the same bytes. Returns where
/// its content begins.
pub(super) fn append_member(tar: &mut Vec<u8>, name: &str, content: &[u8]) -> Result<usize> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_path(name).failed(ExitCode::Failed, || format!("`{name}` is too long for a tar member"))?;
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    let offset = tar.len();
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    Ok(offset)
}

fn compress(plain: &[u8], level: i32) -> Result<Vec<u8>> {
    let compress = || {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.include_checksum(true)?;
        compressor.include_contentsize(true)?;
        compressor.compress(plain)
    };
    compress().failed(ExitCode::Failed, || "compression failed".to_owned())
}

/// Unpacks one frame of known plain size; `pack` names it in the failure.
pub fn unpack_frame(compressed: &[u8], record: FrameRecord, pack: PackId) -> Result<Bytes> {
    let damaged = || format!("a frame of pack `{pack}` cannot be unpacked");
    let size = record.plain_bytes as usize;
    if size > FRAME_BYTES_MAX {
        return Err(Failure::new(ExitCode::Damage, damaged()));
    }
    let plain = zstd::bulk::decompress(compressed, size).failed(ExitCode::Damage, damaged)?;
    if plain.len() != size {
        return Err(Failure::new(ExitCode::Damage, damaged()));
    }
    Ok(plain.into())
}

/// Reads a whole decrypted pack: every member's chunk is handed to `each` with the id in its name, and the
/// inner index is returned. Members that the format does not know are an error.
pub fn read_members(
    plain: impl std::io::Read,
    pack: PackId,
    mut each: impl FnMut(ChunkId, &[u8]) -> Result<()>,
) -> Result<PackIndex> {
    use std::io::Read;
    let damaged = || format!("pack `{pack}` is not the tar it should be");
    let decoder = zstd::stream::read::Decoder::new(plain).failed(ExitCode::Damage, damaged)?;
    let mut archive = tar::Archive::new(decoder);
    let mut index = None;
    for member in archive.entries().failed(ExitCode::Damage, damaged)?.raw(true) {
        let mut member = member.failed(ExitCode::Damage, damaged)?;
        let regular = member.header().entry_type().is_file();
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let mut content = Vec::new();
        let size = member.size();
        let limit = if name == INDEX_MEMBER { INDEX_BYTES_MAX } else { FRAME_BYTES_MAX };
        if !regular || size > limit as u64 {
            return Err(Failure::new(ExitCode::Damage, damaged()).because(format!("member `{name}`")));
        }
        member.read_to_end(&mut content).failed(ExitCode::Damage, damaged)?;
        match name.strip_prefix("chunks/").map(str::parse::<ChunkId>) {
            Some(Ok(id)) => each(id, &content)?,
            _ if name == INDEX_MEMBER => index = Some(format::parse(&content, INDEX_MEMBER)?),
            _ => return Err(Failure::new(ExitCode::Damage, damaged()).because(format!("member `{name}`"))),
        }
    }
    index.ok_or_else(|| Failure::new(ExitCode::Damage, damaged()).because("the inner index is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::pair;

    fn build(recipients: &Recipients, chunks: &[Vec<u8>]) -> SealedPack {
        let mut builder = PackBuilder::new(PackKind::Data, 0, recipients, 1 << 20).unwrap();
        let mut frame = Frame::default();
        for chunk in chunks {
            frame.push(ChunkId(Sha256::digest(chunk).into()), chunk).unwrap();
            if frame.is_full() {
                builder.push(&std::mem::take(&mut frame).compress(3).unwrap()).unwrap();
            }
        }
        if !frame.is_empty() {
            builder.push(&frame.compress(3).unwrap()).unwrap();
        }
        builder.seal().unwrap()
    }

    fn chunks() -> Vec<Vec<u8>> {
        [0, 1, 511, 512, 513, 300_000, 600_000, 10]
            .iter()
            .map(|size| (0..*size).map(|i| (i % 97) as u8).collect())
            .collect()
    }

    #[test]
    fn a_pack_gives_back_every_chunk_and_its_index() {
        let (identities, recipients) = pair();
        let pack = build(&recipients, &chunks());
        let reader = identities.reader(&pack.bytes[..], "pack").unwrap();
        let mut seen = Vec::new();
        let index = read_members(reader, pack.record.pack, |id, bytes| {
            assert_eq!(id, ChunkId(Sha256::digest(bytes).into()));
            seen.push(bytes.to_vec());
            Ok(())
        });
        assert_eq!(index.unwrap(), pack.record.inner);
        assert_eq!(seen, chunks());
        assert!(pack.record.inner.frames.len() >= 2);
    }

    #[test]
    fn a_frame_can_be_read_alone() {
        let (identities, recipients) = pair();
        let pack = build(&recipients, &chunks());
        let plain = identities.open(&pack.bytes, "pack").unwrap();
        for chunk in &pack.record.inner.chunks {
            let frame = pack.record.inner.frames[chunk.frame as usize];
            let at = frame.offset as usize;
            let bytes =
                unpack_frame(&plain[at..at + frame.size_bytes as usize], frame, pack.record.pack).unwrap();
            let at = chunk.offset as usize;
            let content = &bytes[at..at + chunk.size_bytes as usize];
            assert_eq!(chunk.id, ChunkId(Sha256::digest(content).into()));
        }
    }

    #[test]
    fn a_foreign_member_is_an_error() {
        let mut tar = Vec::new();
        append_member(&mut tar, "evil", b"x").unwrap();
        tar.resize(tar.len() + 2 * BLOCK, 0);
        let packed = compress(&tar, 3).unwrap();
        let read = read_members(&packed[..], PackId([0; 32]), |_, _| Ok(()));
        assert_eq!(read.unwrap_err().exit(), ExitCode::Damage);
    }

    #[test]
    fn the_seek_table_is_the_standard_one() {
        let (identities, recipients) = pair();
        let pack = build(&recipients, &chunks());
        let plain = identities.open(&pack.bytes, "pack").unwrap();
        let table = zeekstd::SeekTable::from_seekable(&mut std::io::Cursor::new(&plain)).unwrap();
        assert_eq!(table.num_frames() as usize, pack.record.inner.frames.len() + 1);
    }
}
