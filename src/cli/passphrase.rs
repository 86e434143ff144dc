//! Passphrases: from the file or the systemd credential that holds one, or from whoever sits at the terminal.
//!
//! Never from the command line and never from a variable's value: both can be read by others on the host.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};

use crate::{
    crypt::Passphrase,
    error::{ExitCode, Failure, Result},
    policy::SecretRef,
};

/// The systemd credential that holds the passphrase, if there is one: `LoadCredential=lifeboat-passphrase:…`.
const CREDENTIAL: &str = "lifeboat-passphrase";

/// Where passphrases come from.
#[derive(Clone, Debug)]
pub struct Asking {
    /// `--passphrase-file`.
    pub file: Option<PathBuf>,
}

impl Asking {
    /// Returns where a passphrase lies, if nobody need be asked.
    fn kept(&self) -> Option<SecretRef> {
        if let Some(file) = &self.file {
            return Some(SecretRef::File(file.clone()));
        }
        let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
        let is_there = Path::new(&folder).join(CREDENTIAL).exists();
        is_there.then(|| SecretRef::Credential(CREDENTIAL.to_owned()))
    }

    /// Returns the passphrase for a file that is about to be written; a person types it twice.
    pub fn new_passphrase(&self, file: &Path) -> Result<SecretString> {
        let once = self.passphrase(file)?;
        if self.kept().is_none() {
            let again = ask("Once more: ")?;
            if once.expose_secret() != again.expose_secret() {
                return Err(Failure::new(ExitCode::KeyRefused, "the two passphrases are not the same")
                    .hint("Nothing was written; try again."));
            }
        }
        Ok(once)
    }
}

impl Passphrase for Asking {
    fn passphrase(&self, file: &Path) -> Result<SecretString> {
        let passphrase = match self.kept() {
            Some(kept) => kept.resolve().map_err(|failure| failure.with_exit(ExitCode::KeyRefused))?,
            None if std::io::stdin().is_terminal() => ask(&format!("Passphrase of {}: ", file.display()))?,
            None => {
                let what = format!(
                    "key file `{}` needs a passphrase, and nobody sits at a terminal",
                    file.display()
                );
                return Err(Failure::new(ExitCode::KeyRefused, what).hint(format!(
                    "Name a file that holds it with --passphrase-file, or give systemd the credential {CREDENTIAL}."
                )));
            }
        };
        if passphrase.expose_secret().is_empty() {
            return Err(Failure::new(ExitCode::KeyRefused, "the passphrase is empty"));
        }
        Ok(passphrase)
    }
}

/// Asks at the terminal without echo.
///
/// It blocks: a thread that was left behind at a signal would leave the terminal without echo too. Ctrl-C
/// ends it at once, other signals wait for Enter.
fn ask(question: &str) -> Result<SecretString> {
    match rpassword::prompt_password(question) {
        Ok(typed) => Ok(typed.into()),
        Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {
            Err(Failure::new(ExitCode::Interrupted, "stopped while a passphrase was asked for"))
        }
        Err(cause) => {
            Err(Failure::new(ExitCode::KeyRefused, "the passphrase cannot be asked for").because(cause))
        }
    }
}
