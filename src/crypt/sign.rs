//! Signatures: minisign (Ed25519 over BLAKE2b-512 of the bytes), so that the stock tool can check them.
//!
//! The secret key file is minisign's own form without a password: the host must sign at night. What it can
//! sign is new snapshots; it can neither read nor remove old ones.

use std::{io::Cursor, path::Path};

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

    /// Reads a key file as [`Self::to_text`] or `minisign -G -W` made it.
    pub fn from_file(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .failed(ExitCode::KeyRefused, || format!("signing key `{shown}` cannot be read"))
            .map_err(|failure| {
                failure.hint("Check `keys` in [repository]; `lifeboat init` makes the keys.")
            })?;
        let parse = || {
            let secret = SecretKeyBox::from_string(&text)?.into_unencrypted_secret_key()?;
            let public = PublicKey::from_secret_key(&secret)?;
            Ok::<_, minisign::PError>(Self { secret, public })
        };
        parse().failed(ExitCode::KeyRefused, || {
            format!("signing key `{shown}` is not a minisign key without password")
        })
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

#[cfg(test)]
mod tests {
    use super::*;

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
