//! Reading a part of an age file without the rest of it.
//!
//! An age payload is a STREAM of ChaCha20-Poly1305 chunks of 64 KiB (age-encryption.org/v1, "Payload"):
//! the key is HKDF-SHA-256 of the file key with the 16-byte nonce as salt and `payload` as info; chunk `n`
//! has the 12-byte nonce `n` (11 bytes, big endian) and a flag that is 1 for the last one. So any run of
//! chunks opens alone, once the header told the file key. What a range read cannot see is that the file was
//! cut behind it; therefore whoever reads ranges checks a hash of what came out.

use std::io;

use age_core::{
    format::{FileKey, Stanza},
    secrecy::{ExposeSecret, SecretBox},
};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, aead::Aead};

use super::open::refusal;
use crate::{
    crypt::Identities,
    error::{ExitCode, Failure, Result},
};

/// Plain bytes in one chunk of the payload.
pub const PLAIN_CHUNK_BYTES: u64 = 64 * 1024;
/// Bytes of a chunk as it is stored: the plain ones and a 16-byte tag.
pub const CIPHER_CHUNK_BYTES: u64 = PLAIN_CHUNK_BYTES + 16;

const NONCE_BYTES: usize = 16;

/// Returns where the payload begins: behind the header's MAC line and the nonce.
pub fn payload_offset(sealed: &[u8]) -> Option<u64> {
    let mac = sealed.windows(5).position(|window| window == b"\n--- ")?;
    let end = sealed[mac + 1..].iter().position(|byte| *byte == b'\n')?;
    Some((mac + 1 + end + 1 + NONCE_BYTES) as u64)
}

/// The key of one file's payload.
pub struct Payload {
    cipher: ChaCha20Poly1305,
}

impl Payload {
    /// Unwraps the file key from `head`, the bytes before the payload. `what` names the file in failures.
    pub fn unlock(head: &[u8], identities: &Identities, what: &str) -> Result<Self> {
        let damaged = || Failure::new(ExitCode::Damage, format!("the header of `{what}` is not whole"));
        let nonce = head.len().checked_sub(NONCE_BYTES).and_then(|at| head.get(at..)).ok_or_else(damaged)?;
        let decryptor = age::Decryptor::new(head).map_err(|cause| refusal(cause, what))?;
        let wrapped: Vec<Capture<'_>> = identities.each().map(Capture::new).collect();
        let each = wrapped.iter().map(|capture| capture as &dyn age::Identity);
        decryptor.decrypt(each).map(drop).map_err(|cause| refusal(cause, what))?;
        let key = wrapped.iter().find_map(Capture::take).ok_or_else(damaged)?;
        let mut payload_key = [0; 32];
        hkdf::Hkdf::<hkdf_sha256::Sha256>::new(Some(nonce), key.expose_secret())
            .expand(b"payload", &mut payload_key)
            .expect("32 bytes are a valid length");
        Ok(Self { cipher: ChaCha20Poly1305::new(&payload_key.into()) })
    }

    /// Opens `sealed`, which are whole chunks from number `first` on; `ends` tells whether the last of them
    /// is the last of the file.
    pub fn open(&self, sealed: &[u8], first: u64, ends: bool) -> io::Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(sealed.len());
        let chunks = sealed.chunks(usize::try_from(CIPHER_CHUNK_BYTES).map_err(io::Error::other)?);
        let count = chunks.len() as u64;
        for (at, chunk) in chunks.enumerate() {
            let number = first + at as u64;
            let mut nonce = [0; 12];
            nonce[3..11].copy_from_slice(&number.to_be_bytes());
            nonce[11] = u8::from(ends && at as u64 == count - 1);
            let bytes = self.cipher.decrypt(&nonce.into(), chunk).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("encrypted chunk {number} was changed"))
            })?;
            plain.extend_from_slice(&bytes);
        }
        Ok(plain)
    }
}

/// An identity that remembers the file key it unwrapped.
struct Capture<'a> {
    identity: &'a dyn age::Identity,
    key: std::cell::RefCell<Option<SecretBox<[u8; 16]>>>,
}

impl<'a> Capture<'a> {
    fn new(identity: &'a dyn age::Identity) -> Self {
        Self { identity, key: std::cell::RefCell::new(None) }
    }

    fn take(&self) -> Option<SecretBox<[u8; 16]>> {
        self.key.borrow_mut().take()
    }
}

impl age::Identity for Capture<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        let unwrapped = self.identity.unwrap_stanza(stanza);
        if let Some(Ok(key)) = &unwrapped {
            *self.key.borrow_mut() = Some(SecretBox::new(Box::new(*key.expose_secret())));
        }
        unwrapped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypt::pair;

    fn sealed(plain: &[u8]) -> (Identities, Vec<u8>) {
        let (identities, to) = pair();
        (identities, to.seal(plain).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_run_of_chunks_reads_as_the_same_part_of_the_whole(
            size in 0usize..400_000,
            from in 0u64..7,
            count in 1u64..7,
        ) {
            let plain: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let (identities, sealed) = sealed(&plain);
            let start = payload_offset(&sealed).unwrap();
            let payload = Payload::unlock(&sealed[..start as usize], &identities, "x").unwrap();
            let chunks = (sealed.len() as u64 - start).div_ceil(CIPHER_CHUNK_BYTES);
            let first = from.min(chunks - 1);
            let last = (first + count).min(chunks);
            let end = (start + last * CIPHER_CHUNK_BYTES).min(sealed.len() as u64);
            let part = &sealed[(start + first * CIPHER_CHUNK_BYTES) as usize..end as usize];
            let opened = payload.open(part, first, last == chunks).unwrap();
            let want = &plain[(first * PLAIN_CHUNK_BYTES) as usize..((last * PLAIN_CHUNK_BYTES) as usize).min(size)];
            prop_assert_eq!(opened, want);
        }
    }

    #[test]
    fn a_changed_or_moved_chunk_does_not_open() {
        let (identities, sealed) = sealed(&vec![1; 200_000]);
        let start = payload_offset(&sealed).unwrap() as usize;
        let payload = Payload::unlock(&sealed[..start], &identities, "x").unwrap();
        let chunk = &sealed[start..start + CIPHER_CHUNK_BYTES as usize];
        assert!(payload.open(chunk, 0, false).is_ok());
        assert!(payload.open(chunk, 1, false).is_err());
        assert!(payload.open(chunk, 0, true).is_err());
        let mut changed = chunk.to_vec();
        changed[100] ^= 1;
        assert!(payload.open(&changed, 0, false).is_err());
    }

    #[test]
    fn a_hostile_header_is_an_error() {
        let (identities, sealed) = sealed(b"x");
        assert!(Payload::unlock(b"", &identities, "x").is_err());
        assert!(Payload::unlock(&sealed[..40], &identities, "x").is_err());
        assert_eq!(payload_offset(b"age-encryption.org/v1\n"), None);
    }
}
