//! Signatures: minisign (Ed25519 over BLAKE2b-512 of the bytes), so that the stock tool can check them.
//!
//! The secret key file is minisign's own form without a password: the host must sign at night. What it can
//! sign is new snapshots; it can neither read nor remove old ones.

use std::{collections::BTreeMap, io::Cursor, path::Path};

use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

use crate::error::{Context, ExitCode, Failure, Result};

/// Signs what a writer commits.
pub struct SigningKey {
    secret: SecretKey,
    public: PublicKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "signing key of {}", self.public())
    }
}

impl SigningKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self> {
        let pair = KeyPair::generate_unencrypted_keypair()
            .failed(ExitCode::Failed, || "a signing key could not be made".to_owned())?;
        Ok(Self { secret: pair.sk, public: pair.pk })
    }

    /// Reads a key file as [`Self::to_text`] made it. What `minisign -G -W` makes has no checksum and is refused.
    pub fn from_file(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .failed(ExitCode::KeyRefused, || format!("signing key `{shown}` cannot be read"))
            .map_err(|failure| {
                failure.hint("Check `keys` in [repository]; `lifeboat init` makes the keys.")
            })?;
        Self::from_text(&text)
            .failed(ExitCode::KeyRefused, || {
                format!("signing key `{shown}` is not a minisign key without password")
            })
            .map_err(|failure| {
                failure
                    .hint("`lifeboat keys new --signing` makes one; those of `minisign -W` have no checksum.")
            })
    }

    /// Reads what [`Self::to_text`] made.
    pub fn from_text(text: &str) -> std::result::Result<Self, minisign::PError> {
        let secret = SecretKeyBox::from_string(text)?.into_unencrypted_secret_key()?;
        let public = PublicKey::from_secret_key(&secret)?;
        Ok(Self { secret, public })
    }

    /// Returns the text of the key file.
    pub fn to_text(&self) -> Result<String> {
        let text = self.secret.to_box(Some("lifeboat writer key: signs what this host commits"));
        text.map(SecretKeyBox::into_string)
            .failed(ExitCode::Failed, || "a signing key could not be written".to_owned())
    }

    /// Returns the public half, `RW…`.
    pub fn public(&self) -> String {
        self.public.to_base64()
    }

    /// Signs `bytes`; `comment` is signed too and comes back from [`TrustedKeys::verify`].
    pub fn sign(&self, bytes: &[u8], comment: &str) -> Result<String> {
        minisign::sign(
            Some(&self.public),
            &self.secret,
            Cursor::new(bytes),
            Some(comment),
            Some("signature of lifeboat"),
        )
        .map(minisign::SignatureBox::into_string)
        .failed(ExitCode::Failed, || "signing failed".to_owned())
    }
}

/// Who signed, as far as it is known, and what the signer said beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The signer, `RW…`.
    pub signer: String,
    /// The trusted comment.
    pub comment: String,
}

/// The keys whose signatures are believed.
#[derive(Clone)]
pub struct TrustedKeys(Vec<(String, minisign_verify::PublicKey)>);

impl TrustedKeys {
    /// Checks `RW…` texts; none at all is an error.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        if texts.is_empty() {
            return Err(Failure::new(ExitCode::Usage, "there is no signer to believe")
                .hint("Add signers = [\"RW…\"] to [repository]; `lifeboat init` writes it."));
        }
        let parse = |text: &S| {
            let text = text.as_ref();
            minisign_verify::PublicKey::from_base64(text)
                .map(|key| (text.to_owned(), key))
                .failed(ExitCode::Usage, || format!("signer `{text}` is not a minisign public key"))
        };
        Ok(Self(texts.iter().map(parse).collect::<Result<_>>()?))
    }

    /// Returns whether `signer` is one of them.
    fn has(&self, signer: &str) -> bool {
        self.0.iter().any(|(text, _)| text == signer)
    }

    /// Returns the texts that the keys were parsed from.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|(text, _)| text.clone()).collect()
    }

    /// Checks that one of the keys signed `bytes`; `what` names them in the failure.
    pub fn verify(&self, bytes: &[u8], signature: &str, what: &str) -> Result<Verified> {
        let forged = || {
            Failure::new(
                ExitCode::Tampering,
                format!("`{what}` is not signed by a key that the policy trusts"),
            )
            .hint("Somebody without the key wrote or changed it. Keep the store as it is and look into it.")
        };
        let decoded =
            minisign_verify::Signature::decode(signature).map_err(|cause| forged().because(cause))?;
        for (text, key) in &self.0 {
            if key.verify(bytes, &decoded, false).is_ok() {
                return Ok(Verified { signer: text.clone(), comment: decoded.trusted_comment().to_owned() });
            }
        }
        Err(forged())
    }
}

/// Whose signatures are believed, for what, and up to when.
#[derive(Clone)]
pub struct Trust {
    /// Who may sign the config, refs and indexes; revoked ones too, for what they signed before.
    pub writers: TrustedKeys,
    /// Who may sign tombstones and prune lists.
    pub maintainers: TrustedKeys,
    /// The last sequence number that is believed of a writer that was revoked.
    pub revoked: BTreeMap<String, u64>,
}

impl Trust {
    /// Checks the keys that a policy names. Without maintainers the signers that are not revoked maintain: a
    /// stolen key must not remove what it can no longer write. That may be nobody.
    pub fn parse<S: AsRef<str>>(signers: &[S], maintainers: &[S], revoked: &[(&str, u64)]) -> Result<Self> {
        let writers = TrustedKeys::parse(signers)?;
        let revoked: BTreeMap<String, u64> =
            revoked.iter().map(|(signer, after)| ((*signer).to_owned(), *after)).collect();
        if let Some(stranger) = revoked.keys().find(|key| !writers.has(key)) {
            let what = format!("revoked key `{stranger}` is not among the signers");
            return Err(Failure::new(ExitCode::Usage, what)
                .hint("Keep a revoked key in `signers`: what it signed before is still believed."));
        }
        let maintainers = if maintainers.is_empty() {
            let still = writers.0.iter().filter(|(text, _)| !revoked.contains_key(text));
            TrustedKeys(still.cloned().collect())
        } else {
            TrustedKeys::parse(maintainers)?
        };
        Ok(Self { writers, maintainers, revoked })
    }

    /// Returns whether a snapshot with this sequence number is believed of `signer`.
    pub fn believes(&self, signer: &str, seq: u64) -> bool {
        self.writers.has(signer) && self.revoked.get(signer).is_none_or(|last| seq <= *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_signer_is_believed_up_to_its_last_snapshot_and_maintains_nothing() {
        let [old, new, chief] = [(); 3].map(|()| SigningKey::generate().unwrap().public());
        let signers = [old.as_str(), new.as_str()];
        let trust = Trust::parse(&signers, &[], &[(&old, 41)]).unwrap();
        let believed = |signer: &str, seqs: [u64; 3]| seqs.map(|seq| trust.believes(signer, seq));
        assert_eq!(believed(&old, [1, 41, 42]), [true, true, false]);
        assert_eq!(believed(&new, [1, 41, 42]), [true; 3]);
        assert_eq!(believed(&chief, [1, 41, 42]), [false; 3]);
        assert_eq!(trust.writers.texts(), signers);
        assert_eq!(trust.maintainers.texts(), [new.as_str()]);
        let apart = Trust::parse(&signers, &[chief.as_str()], &[(&old, 0)]).unwrap();
        assert_eq!(apart.maintainers.texts(), [chief.as_str()]);
        assert!(!apart.believes(&old, 1));
        assert!(!apart.believes(&chief, 1), "who removes does not write");
        assert!(Trust::parse(&signers, &[], &[(&chief, 1)]).is_err());
        assert!(Trust::parse(&signers, &["RWnot-a-key"], &[]).is_err());
    }

    #[test]
    fn where_every_signer_is_revoked_nobody_maintains() {
        let key = SigningKey::generate().unwrap();
        let signer = key.public();
        let trust = Trust::parse(&[signer.as_str()], &[], &[(&signer, 7)]).unwrap();
        let signature = key.sign(b"prune", "x").unwrap();
        assert!(trust.writers.verify(b"prune", &signature, "x").is_ok());
        let failure = trust.maintainers.verify(b"prune", &signature, "x").unwrap_err();
        assert_eq!(failure.exit(), ExitCode::Tampering);
    }

    #[test]
    fn a_signature_is_believed_from_a_trusted_key_only() {
        let (mine, stranger) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let trusted = TrustedKeys::parse(&[mine.public()]).unwrap();
        let signature = mine.sign(b"refs", "seq=1").unwrap();
        let verified = trusted.verify(b"refs", &signature, "x").unwrap();
        assert_eq!((verified.signer, verified.comment), (mine.public(), "seq=1".to_owned()));
        for (bytes, signature) in [
            (&b"refz"[..], signature.clone()),
            (b"refs", stranger.sign(b"refs", "seq=1").unwrap()),
            (b"refs", signature.replace("seq=1", "seq=2")),
            (b"refs", String::new()),
        ] {
            assert_eq!(trusted.verify(bytes, &signature, "x").unwrap_err().exit(), ExitCode::Tampering);
        }
    }

    #[test]
    fn a_key_file_survives_and_holds_no_more_than_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("writer.key");
        let key = SigningKey::generate().unwrap();
        std::fs::write(&path, key.to_text().unwrap()).unwrap();
        assert_eq!(SigningKey::from_file(&path).unwrap().public(), key.public());
        assert!(!format!("{key:?}").contains(key.to_text().unwrap().lines().nth(1).unwrap()));
    }
}
