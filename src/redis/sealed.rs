//! A safety copy as a file: what is known of it and the dump, packed and sealed to the policy's recipients.
//!
//! The facts are a skippable frame of zstd (RFC 8878, 3.1.2) before the dump's: `age -d | zstd -d` gives the plain
//! dump. Copies of older versions have none.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{describe::ServerFacts, spool::Spool};
use crate::{
    crypt::{Identities, Recipients},
    error::{Context, ExitCode, Failure, Result},
    names::SourceName,
};

/// How hard a copy is compressed.
const ZSTD_LEVEL: i32 = 3;
/// The first bytes of a frame that unpackers pass over.
const SKIPPED: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
/// Bytes that the facts may have.
const FACTS_BYTES_MAX: u32 = 16 << 20;
/// Bytes of a dump that are handed on at a time.
const PIECE_BYTES: usize = 256 << 10;

/// What is known of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The source.
    pub(super) source: SourceName,
    /// Where the restore went, as `--into` says it; `None` for the source's own server.
    pub(super) into: Option<String>,
    /// The server's url, without a password; empty where Sentinels name it.
    pub(super) url: String,
    /// What the server said of itself.
    pub(super) server: Option<ServerFacts>,
}

/// Writes a copy to a new file; on return its bytes are on disk.
pub(super) fn write(file: &fs::File, recipients: &Recipients, facts: &Facts, dump: &Spool) -> io::Result<()> {
    let mut sealing = recipients.writer(file).map_err(io::Error::other)?;
    let noted = serde_json::to_vec(facts)?;
    // Without facts a copy is still a copy.
    if let Ok(length) = u32::try_from(noted.len())
        && length <= FACTS_BYTES_MAX
    {
        sealing.write_all(&SKIPPED)?;
        sealing.write_all(&length.to_le_bytes())?;
        sealing.write_all(&noted)?;
    }
    let mut packing = zstd::Encoder::new(sealing, ZSTD_LEVEL)?;
    io::copy(&mut dump.reader(0), &mut packing)?;
    packing.finish()?.finish()?;
    file.sync_all()
}

/// Opens a copy: puts its dump into an empty spool, and returns its facts, where it has them.
pub(super) fn read(path: &Path, identities: &Identities, into: &Spool) -> Result<Option<Facts>> {
    let shown = path.display().to_string();
    let what = || format!("the safety copy `{shown}` cannot be read");
    let sealed = fs::File::open(path).failed(ExitCode::Usage, what)?;
    let mut packed = identities.reader(io::BufReader::new(sealed), &shown)?;
    let mut first = [0; SKIPPED.len()];
    // What cannot be read is damage; what cannot be written is want of room.
    packed.read_exact(&mut first).failed(ExitCode::Damage, what)?;
    let (facts, first) = if first == SKIPPED {
        (Some(read_facts(&mut packed).failed(ExitCode::Damage, what)?), &[][..])
    } else {
        (None, &first[..])
    };
    let mut plain = zstd::Decoder::new(first.chain(packed)).failed(ExitCode::Damage, what)?;
    let mut file = into.rewound()?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = plain.read(&mut piece).failed(ExitCode::Damage, what)?;
        if count == 0 {
            return Ok(facts);
        }
        file.write_all(&piece[..count]).map_err(|error| {
            Failure::new(ExitCode::Failed, "the dump cannot be written to the spool folder").because(error)
        })?;
    }
}

fn read_facts(packed: &mut impl Read) -> io::Result<Facts> {
    let mut length = [0; 4];
    packed.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > FACTS_BYTES_MAX {
        return Err(io::Error::other("its facts are too long"));
    }
    let mut noted = Vec::new();
    packed.take(length.into()).read_to_end(&mut noted)?;
    Ok(serde_json::from_slice(&noted)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::NewIdentity;

    #[test]
    fn a_copy_says_what_is_known_of_it_and_stock_tools_read_only_the_dump() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy");
        let key = NewIdentity::recovery("today");
        let recipients = Recipients::parse(std::slice::from_ref(&key.recipient)).unwrap();
        let identities = Identities::from_text(secrecy::ExposeSecret::expose_secret(&key.text)).unwrap();
        let spool = Spool::new(None).unwrap();
        spool.rewound().unwrap().write_all(b"REDIS0011 and more").unwrap();
        let facts = Facts {
            source: SourceName::new("redis").unwrap(),
            into: Some("redis://other:6380".into()),
            url: "redis://other:6380".into(),
            server: Some(ServerFacts { modules: Some(vec!["search".into()]), ..ServerFacts::default() }),
        };
        write(&fs::File::create(&path).unwrap(), &recipients, &facts, &spool).unwrap();
        let opened = identities.open(&fs::read(&path).unwrap(), "the copy").unwrap();
        assert_eq!(zstd::decode_all(opened.as_slice()).unwrap(), b"REDIS0011 and more");
        let back = Spool::new(None).unwrap();
        assert_eq!(read(&path, &identities, &back).unwrap(), Some(facts));
        let mut dump = Vec::new();
        back.reader(0).read_to_end(&mut dump).unwrap();
        assert_eq!(dump, b"REDIS0011 and more");

        // As older versions wrote it.
        let mut sealing = recipients.writer(fs::File::create(&path).unwrap()).unwrap();
        sealing.write_all(&zstd::encode_all(&b"REDIS0009 of old"[..], 3).unwrap()).unwrap();
        sealing.finish().unwrap();
        let back = Spool::new(None).unwrap();
        assert_eq!(read(&path, &identities, &back).unwrap(), None);
        let mut dump = Vec::new();
        back.reader(0).read_to_end(&mut dump).unwrap();
        assert_eq!(dump, b"REDIS0009 of old");
    }
}
