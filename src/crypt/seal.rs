//! Sealing to age recipients (X25519), so that only the holders of their identities can read.

use std::{io::Write, str::FromStr};

use crate::error::{Context, ExitCode, Failure, Result};

/// The public keys that something is sealed to.
#[derive(Clone)]
pub struct Recipients(Vec<age::x25519::Recipient>);

impl Recipients {
    /// Checks `age1…` texts; none at all is an error.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        if texts.is_empty() {
            return Err(Failure::new(ExitCode::Usage, "there is no recipient to encrypt to")
                .hint("Add recipients = [\"age1…\"] to [repository]; `lifeboat init` makes a key."));
        }
        let parse = |text: &S| {
            age::x25519::Recipient::from_str(text.as_ref()).map_err(|cause| {
                let what = format!("recipient `{}` is not an age public key", text.as_ref());
                Failure::new(ExitCode::Usage, what).because(cause).hint(
                    "A recipient begins with age1; the text after `public key:` in an identity file is one.",
                )
            })
        };
        Ok(Self(texts.iter().map(parse).collect::<Result<_>>()?))
    }

    /// Returns all of these and all of `others`.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(&others.0).cloned().collect())
    }

    /// Seals `plain` in memory.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let mut writer = self.writer(Vec::with_capacity(plain.len() + 1024))?;
        writer.write_all(plain).failed(ExitCode::Failed, || "encryption failed".to_owned())?;
        writer.finish().failed(ExitCode::Failed, || "encryption failed".to_owned())
    }

    /// Returns a writer that seals what is written to it into `into`.
    pub fn writer<W: Write>(&self, into: W) -> Result<SealedWriter<W>> {
        let each = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(each)
            .failed(ExitCode::Failed, || "encryption could not begin".to_owned())?;
        encryptor.wrap_output(into).failed(ExitCode::Failed, || "encryption could not begin".to_owned())
    }
}

/// Seals what is written to it; must be finished.
pub type SealedWriter<W> = age::stream::StreamWriter<W>;
