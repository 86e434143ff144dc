//! `lifeboat keys`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{json, session::Session};
use crate::{
    crypt,
    error::{Context, ExitCode, Failure, Result},
};

/// Look at keys, make them and protect them.
#[derive(Debug, Args)]
pub struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a copy of an identity file that opens with a passphrase only: FILE.age, beside it
    Protect {
        /// The identity file
        file: PathBuf,
    },
}

pub(super) fn run(args: &Keys, session: &Session) -> Result<ExitCode> {
    match &args.verb {
        Verb::Protect { file } => protect(file, session),
    }
}

fn protect(file: &Path, session: &Session) -> Result<ExitCode> {
    let text = crypt::identity_text(file)?;
    let mut name = file.as_os_str().to_owned();
    name.push(".age");
    let protected = PathBuf::from(name);
    // Whoever is refused need not type a passphrase first.
    check_new(&protected)?;
    let passphrase = session.passphrase.new_passphrase(&protected)?;
    crypt::write_new(&protected, &crypt::protect(text.expose_secret(), &passphrase)?)?;
    if session.json {
        json::print(&json::document("keys", json!({ "protected": protected, "plain": file })));
    } else {
        session.report(&format!("protected  {}", protected.display()));
        session.report("");
        session.report("It was opened again with the passphrase. The plain file is still there:");
        session.report(&format!("    {}", file.display()));
        session.report("Try the copy (`lifeboat --identity FILE.age keys check`), keep the passphrase in");
        session.report("another place than the file, then remove the plain one (`shred -u`).");
    }
    Ok(ExitCode::Ok)
}

/// Fails when there is something at `path`.
fn check_new(path: &Path) -> Result<()> {
    let is_there =
        path.try_exists().failed(ExitCode::Failed, || format!("`{}` cannot be looked at", path.display()))?;
    if is_there {
        let what = format!("key file `{}` exists already", path.display());
        return Err(Failure::new(ExitCode::Usage, what)
            .hint("Keys are never overwritten: choose another place, or move the old key away."));
    }
    Ok(())
}
