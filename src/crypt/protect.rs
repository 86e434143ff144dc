//! Identity files under a passphrase: an age file around an identity file, as `age -p` writes it.
//!
//! Who keeps a recovery identity in a drawer keeps a key that opens everything; with a passphrase in another
//! place the drawer alone opens nothing. Stock age opens such a file (`age -d`, or as `-i` of any command).

use std::{
    io::{Read, Write},
    path::Path,
};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use secrecy::{ExposeSecret, SecretString};

use super::Identities;
use crate::error::{Context, ExitCode, Failure, Result};

/// scrypt's work, as a power of two, in what we write: that of `age -p`, about a second and 256 MiB.
const WORK: u8 = 18;
/// The most work that a file may ask for, as in `age`: 4 GiB. A hostile file could ask for days.
const WORK_MAX: u8 = 22;
/// Bytes of the shortest passphrase that is taken for a new file. A stolen file can be tried for years.
const PASSPHRASE_BYTES_MIN: usize = 12;

/// Knows the passphrase of an identity file, or somebody who can be asked for it.
pub trait Passphrase: Send + Sync {
    /// Returns the passphrase of `file`.
    fn passphrase(&self, file: &Path) -> Result<SecretString>;
}

/// Knows none and can ask nobody: for keys that work unattended.
#[derive(Clone, Copy, Debug)]
pub struct NoPassphrase;

impl Passphrase for NoPassphrase {
    fn passphrase(&self, file: &Path) -> Result<SecretString> {
        let what =
            format!("key file `{}` is protected by a passphrase, and nobody can be asked", file.display());
        Err(Failure::new(ExitCode::KeyRefused, what)
            .hint("The keys of a host work unattended: let this file hold the key itself, with mode 0600."))
    }
}

/// Returns whether the bytes of an identity file are an age file, binary or armored.
pub(super) fn is_sealed(bytes: &[u8]) -> bool {
    let bytes = bytes.trim_ascii_start();
    bytes.starts_with(b"age-encryption.org/") || bytes.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")
}

/// Opens the bytes of a protected identity file.
pub(super) fn open(sealed: &[u8], passphrase: SecretString) -> Result<SecretString> {
    let refused = |cause: age::DecryptError| refusal(cause);
    let decryptor =
        age::Decryptor::new_buffered(ArmoredReader::new(sealed.trim_ascii_start())).map_err(refused)?;
    if !decryptor.is_scrypt() {
        return Err(Failure::new(ExitCode::KeyRefused, "it is sealed to a key, not with a passphrase")
            .hint("Open it with `age -d -i KEY FILE` and give the result."));
    }
    let mut identity = age::scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(WORK_MAX);
    let mut plain = String::new();
    let mut reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(refused)?;
    let read = reader.read_to_string(&mut plain);
    let plain = SecretString::from(plain);
    read.failed(ExitCode::KeyRefused, || "the file is damaged".to_owned())
        .map_err(|failure| failure.hint("Take another copy of the identity."))?;
    Ok(plain)
}

fn refusal(cause: age::DecryptError) -> Failure {
    match cause {
        age::DecryptError::DecryptionFailed | age::DecryptError::KeyDecryptionFailed => {
            Failure::new(ExitCode::KeyRefused, "the passphrase is wrong, or the file is damaged")
                .hint("Try again; letters, case and blanks count. Is this the passphrase of this very file?")
        }
        age::DecryptError::ExcessiveWork { required, .. } => {
            let what = format!("the file asks for 2^{required} units of work, more than 2^{WORK_MAX}");
            Failure::new(ExitCode::KeyRefused, what)
                .hint("No known tool writes such a file: take another copy of the identity.")
        }
        other => Failure::new(ExitCode::KeyRefused, "the file is no age file that can be read")
            .because(other)
            .hint("Take another copy of the identity."),
    }
}

/// Returns the text of an identity file protected by `passphrase`: an armored age file, which can be printed.
///
/// It was opened again before it is returned.
pub fn protect(identity_text: &str, passphrase: &SecretString) -> Result<String> {
    protect_with(identity_text, passphrase, WORK)
}

fn protect_with(identity_text: &str, passphrase: &SecretString, work: u8) -> Result<String> {
    if passphrase.expose_secret().len() < PASSPHRASE_BYTES_MIN {
        return Err(Failure::new(ExitCode::Usage, "the passphrase is too short").hint(
            "Take four or more words that nobody would guess: whoever has the file can try for years.",
        ));
    }
    Identities::from_text(identity_text)?;
    let mut recipient = age::scrypt::Recipient::new(passphrase.clone());
    recipient.set_work_factor(work);
    let seal = || {
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))?;
        let armored = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
        let mut writer = encryptor.wrap_output(armored)?;
        writer.write_all(identity_text.as_bytes())?;
        Ok::<_, age::EncryptError>(writer.finish()?.finish()?)
    };
    let failed = || "the identity could not be protected".to_owned();
    let sealed = seal().failed(ExitCode::Failed, failed)?;
    let again = open(&sealed, passphrase.clone())?;
    assert!(again.expose_secret() == identity_text, "what was sealed opens as itself");
    String::from_utf8(sealed).failed(ExitCode::Failed, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known(&'static str);

    impl Passphrase for Known {
        fn passphrase(&self, _file: &Path) -> Result<SecretString> {
            Ok(self.0.into())
        }
    }

    const PHRASE: &str = "four words and more";

    fn identity() -> (String, String) {
        let identity = age::x25519::Identity::generate();
        let text = format!("# a comment\n{}\n", identity.to_string().expose_secret());
        (text, identity.to_public().to_string())
    }

    fn file(bytes: impl AsRef<[u8]>) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_protected_identity_opens_with_its_passphrase_armored_or_not() {
        let (text, public) = identity();
        let armored = protect_with(&text, &PHRASE.into(), 2).unwrap();
        assert!(armored.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"));
        let mut binary = Vec::new();
        ArmoredReader::new(armored.as_bytes()).read_to_end(&mut binary).unwrap();
        for bytes in [armored.clone().into_bytes(), binary, format!("\n\n{armored}").into_bytes()] {
            let file = file(bytes);
            let opened = Identities::from_protected_file(file.path(), &Known(PHRASE)).unwrap();
            assert_eq!(opened.recipients(), [public.as_str()]);
        }
    }

    #[test]
    fn a_plain_identity_is_read_without_asking() {
        let (text, public) = identity();
        let file = file(text);
        let opened = Identities::from_protected_file(file.path(), &NoPassphrase).unwrap();
        assert_eq!(opened.recipients(), [public]);
    }

    #[test]
    fn who_cannot_say_the_passphrase_is_refused() {
        let (text, _) = identity();
        let armored = protect_with(&text, &PHRASE.into(), 2).unwrap();
        let damaged = armored.replacen("\n-----END", "A\n-----END", 1);
        let cases: [(&str, &dyn Passphrase, &str); 3] = [
            (&armored, &Known("another phrase"), "the passphrase is wrong"),
            (&armored, &NoPassphrase, "nobody can be asked"),
            (&damaged, &Known(PHRASE), "holds no usable key"),
        ];
        for (bytes, knows, text) in cases {
            let failure = Identities::from_protected_file(file(bytes).path(), knows).unwrap_err();
            let told = failure.one_line();
            assert!(failure.exit() == ExitCode::KeyRefused && told.contains(text), "{told}");
            assert!(!failure.hints().is_empty(), "{told}");
        }
    }

    #[test]
    fn a_file_that_asks_for_too_much_work_is_refused_at_once() {
        let (text, _) = identity();
        let armored = protect_with(&text, &PHRASE.into(), 2).unwrap();
        let mut binary = Vec::new();
        ArmoredReader::new(armored.as_bytes()).read_to_end(&mut binary).unwrap();
        let end = binary.windows(3).position(|three| three == b" 2\n").unwrap();
        let hostile = [&binary[..end], b" 60\n", &binary[end + 3..]].concat();
        let failure = open(&hostile, PHRASE.into()).unwrap_err();
        assert_eq!(failure.exit(), ExitCode::KeyRefused);
        assert!(failure.to_string().contains("2^60"), "{failure}");
    }

    #[test]
    fn a_file_that_is_sealed_to_a_key_is_told_as_such() {
        let (text, public) = identity();
        let sealed = crate::crypt::Recipients::parse(&[public]).unwrap().seal(text.as_bytes()).unwrap();
        assert!(open(&sealed, PHRASE.into()).unwrap_err().to_string().contains("sealed to a key"));
    }

    #[test]
    fn a_short_passphrase_and_a_text_without_a_key_are_not_taken() {
        let (text, _) = identity();
        assert_eq!(protect_with(&text, &"short".into(), 2).unwrap_err().exit(), ExitCode::Usage);
        assert_eq!(protect_with("nothing", &PHRASE.into(), 2).unwrap_err().exit(), ExitCode::KeyRefused);
    }
}
