//! Opening what was sealed, with the identities of whoever is reading.

use std::{io::Read, path::Path, str::FromStr};

use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{NoPassphrase, Passphrase, protect};
use crate::error::{Context, ExitCode, Failure, Result};

/// Bytes that an identity file may have; a longer file is something else.
const IDENTITY_BYTES_MAX: u64 = 1 << 20;

/// Private keys that open what was sealed to their public halves. Never printed.
#[derive(Clone)]
pub struct Identities(Vec<age::x25519::Identity>);

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} identities", self.0.len())
    }
}

impl Identities {
    /// Reads an identity file that must work unattended: `AGE-SECRET-KEY-1…` lines, `#` comments, empty lines.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_protected_file(path, &NoPassphrase)
    }

    /// Reads an identity file; `passphrase` is asked when the file is protected by one, as `age -p` does it.
    pub fn from_protected_file(path: &Path, passphrase: &dyn Passphrase) -> Result<Self> {
        let bytes = read_identity(path)?;
        let text = if protect::is_sealed(bytes.expose_secret()) {
            let passphrase = passphrase.passphrase(path)?;
            protect::open(bytes.expose_secret(), passphrase)
        } else {
            let text = std::str::from_utf8(bytes.expose_secret()).map(SecretString::from);
            text.failed(ExitCode::KeyRefused, || "it is no text".to_owned())
        };
        text.and_then(|text| Self::from_text(text.expose_secret())).map_err(|failure| {
            let what = format!("identity file `{}` holds no usable key", path.display());
            let hints = failure.hints().to_vec();
            hints.into_iter().fold(Failure::new(ExitCode::KeyRefused, what).because(failure), Failure::hint)
        })
    }

    /// Returns whether an identity file is protected by a passphrase; `false` where it cannot be read.
    pub fn is_protected(path: &Path) -> bool {
        read_identity(path).is_ok_and(|bytes| protect::is_sealed(bytes.expose_secret()))
    }

    /// Parses the text of an identity file.
    pub fn from_text(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        // The line itself is never told: it may be a secret with one wrong letter.
        let parse = |line: &str| {
            age::x25519::Identity::from_str(line).map_err(|cause| {
                Failure::new(ExitCode::KeyRefused, "a line is not an age secret key")
                    .because(cause)
                    .hint("Each line begins with AGE-SECRET-KEY-1; comments begin with #.")
            })
        };
        let keys: Vec<_> = lines.map(parse).collect::<Result<_>>()?;
        if keys.is_empty() {
            return Err(Failure::new(ExitCode::KeyRefused, "there is no key in it"));
        }
        Ok(Self(keys))
    }

    /// Returns the public halves, `age1…`.
    pub fn recipients(&self) -> Vec<String> {
        self.0.iter().map(|identity| identity.to_public().to_string()).collect()
    }

    /// Opens `sealed` as a whole; `what` names it in the failure.
    pub fn open(&self, sealed: &[u8], what: &str) -> Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(sealed.len());
        let mut reader = self.reader(sealed, what)?;
        reader
            .read_to_end(&mut plain)
            .failed(ExitCode::Damage, || format!("`{what}` cannot be decrypted"))?;
        Ok(plain)
    }

    /// Returns a reader of the plain bytes of `sealed`.
    pub fn reader<R: Read>(&self, sealed: R, what: &str) -> Result<age::stream::StreamReader<R>> {
        let refused = |cause: age::DecryptError| refusal(cause, what);
        let decryptor = age::Decryptor::new(sealed).map_err(refused)?;
        decryptor.decrypt(self.each()).map_err(refused)
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|identity| identity as &dyn age::Identity)
    }
}

/// Returns the text of an identity file that is not protected, and holds at least one key.
pub fn identity_text(path: &Path) -> Result<SecretString> {
    let bytes = read_identity(path)?;
    if protect::is_sealed(bytes.expose_secret()) {
        let what = format!("identity file `{}` is protected by a passphrase already", path.display());
        return Err(Failure::new(ExitCode::Usage, what)
            .hint("To change the passphrase open it with `age -d` first, and protect the result."));
    }
    Identities::from_file(path)?;
    let text = std::str::from_utf8(bytes.expose_secret()).map(SecretString::from);
    text.failed(ExitCode::KeyRefused, || format!("identity file `{}` is no text", path.display()))
}

/// Reads a key file whole; it is wiped from memory when dropped.
fn read_identity(path: &Path) -> Result<SecretSlice<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path)?.take(IDENTITY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if read as u64 > IDENTITY_BYTES_MAX {
            return Err(std::io::Error::other(format!("it has more than {IDENTITY_BYTES_MAX} bytes")));
        }
        Ok(SecretSlice::from(bytes))
    };
    read()
        .failed(ExitCode::KeyRefused, || format!("identity file `{}` cannot be read", path.display()))
        .map_err(|failure| failure.hint("Give the recovery identity with --identity FILE."))
}

/// Tells a wrong key from broken bytes.
pub(super) fn refusal(cause: age::DecryptError, what: &str) -> Failure {
    match cause {
        age::DecryptError::NoMatchingKeys | age::DecryptError::KeyDecryptionFailed => {
            Failure::new(ExitCode::KeyRefused, format!("`{what}` is not encrypted to the given identity"))
                .because(cause)
                .hint("Use an identity whose public key is among the repository's recipients.")
        }
        other => Failure::new(ExitCode::Damage, format!("`{what}` cannot be decrypted"))
            .because(other)
            .hint("Run `lifeboat verify --read-data` to see what else is damaged."),
    }
}

/// Makes an identity and what seals to it.
#[cfg(test)]
pub(crate) fn pair() -> (Identities, super::Recipients) {
    let identity = age::x25519::Identity::generate();
    let public = identity.to_public().to_string();
    (Identities(vec![identity]), super::Recipients::parse(&[public]).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_right_identity_only() {
        let ((mine, to_me), (stranger, _)) = (pair(), pair());
        let sealed = to_me.seal(b"hello").unwrap();
        assert_eq!(mine.open(&sealed, "x").unwrap(), b"hello");
        let failure = stranger.open(&sealed, "x").unwrap_err();
        assert_eq!(failure.exit(), ExitCode::KeyRefused);
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let (mine, to_me) = pair();
        let sealed = to_me.seal(b"hello").unwrap();
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 0x20;
            assert!(mine.open(&bad, "x").is_err(), "byte {at}");
        }
        assert!(mine.open(&sealed[..sealed.len() - 1], "x").is_err());
    }

    #[test]
    fn a_bad_identity_file_never_shows_its_lines() {
        let failure = Identities::from_text("AGE-SECRET-KEY-1NOTREAL").unwrap_err();
        assert!(!failure.chain().join("").contains("NOTREAL"));
        assert!(Identities::from_text("# only a comment\n").is_err());
    }
}
