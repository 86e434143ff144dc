//! Sealing, opening and signing: age for secrecy, minisign for authorship.
//!
//! age proves no sender: whoever knows a recipient can seal a file that opens well. So nothing is believed
//! because it opens; it is believed because a signature over it, or over its hash, is by a key that the
//! policy names.

mod open;
mod protect;
mod range;
mod seal;
mod sign;

#[cfg(test)]
pub(crate) use self::open::pair;
pub use self::{
    open::{Identities, identity_text},
    protect::{NoPassphrase, Passphrase, protect},
    range::{CIPHER_CHUNK_BYTES, PLAIN_CHUNK_BYTES, Payload, payload_offset},
    seal::{Recipients, SealedWriter},
    sign::{SigningKey, Trust, TrustedKeys, Verified},
};

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use secrecy::{ExposeSecret, SecretString};

use crate::error::{Context, ExitCode, Failure, Result};

/// The names of the key files that a keys folder holds.
pub mod files {
    /// Opens everything; belongs offline once it was copied.
    pub const IDENTITY: &str = "identity.txt";
    /// Opens indexes and manifests, never data; the backup host needs it.
    pub const INDEX: &str = "index.key";
    /// Signs what this host commits.
    pub const SIGNING: &str = "signing.key";
    /// The public half of [`SIGNING`].
    pub const SIGNING_PUBLIC: &str = "signing.pub";
}

/// The public facts about keys that were just made.
#[derive(Clone, Debug)]
pub struct NewKeys {
    /// The data recipient, `age1…`.
    pub recipient: String,
    /// The index recipient, `age1…`.
    pub index_recipient: String,
    /// The signer, `RW…`.
    pub signer: String,
}

/// An identity that was just made and lies nowhere yet.
#[derive(Debug)]
pub struct NewIdentity {
    /// The text of its file.
    pub text: SecretString,
    /// The public half, `age1…`.
    pub recipient: String,
}

impl NewIdentity {
    /// Makes a recovery identity.
    pub fn recovery(created: &str) -> Self {
        Self::of("recovery identity: opens every backup; keep it offline", created)
    }

    fn of(role: &str, created: &str) -> Self {
        let identity = age::x25519::Identity::generate();
        let (recipient, secret) = (identity.to_public().to_string(), identity.to_string());
        let secret = secret.expose_secret();
        let text = format!("# lifeboat {role}, created {created}\n# public key: {recipient}\n{secret}\n");
        Self { text: text.into(), recipient }
    }
}

/// Makes a data identity, an index identity and a signing key in `folder`; never overwrites a file.
///
/// Order: each file is created exclusively with mode 0600, so of two runs at once one fails before any key
/// is used.
pub fn make_keys(folder: &Path, created: &str) -> Result<NewKeys> {
    check_no_keys(folder)?;
    fs::create_dir_all(folder)
        .failed(ExitCode::Failed, || format!("keys folder `{}` cannot be made", folder.display()))?;
    let data = NewIdentity::recovery(created);
    let index = NewIdentity::of("index key of this host: opens indexes and manifests, never data", created);
    let signer = SigningKey::generate()?;
    write_new(&folder.join(files::IDENTITY), data.text.expose_secret())?;
    write_new(&folder.join(files::INDEX), index.text.expose_secret())?;
    write_new(&folder.join(files::SIGNING), &signer.to_text()?)?;
    write_new(&folder.join(files::SIGNING_PUBLIC), &format!("{}\n", signer.public()))?;
    Ok(NewKeys { recipient: data.recipient, index_recipient: index.recipient, signer: signer.public() })
}

/// Fails when a key file lies in `folder` already.
pub fn check_no_keys(folder: &Path) -> Result<()> {
    for name in [files::IDENTITY, files::INDEX, files::SIGNING, files::SIGNING_PUBLIC] {
        if folder.join(name).exists() {
            let what = format!("key file `{}` exists already", folder.join(name).display());
            return Err(Failure::new(ExitCode::Usage, what).hint(
                "Keys are never overwritten: choose another --keys folder, or move the old keys away.",
            ));
        }
    }
    Ok(())
}

/// Creates a key file that only its owner may read; never overwrites one.
pub fn write_new(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().failed(ExitCode::Failed, || format!("key file `{}` cannot be written", path.display()))
}
