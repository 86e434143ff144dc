//! `lifeboat keys`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{json, say, session::Session};
use crate::{
    crypt::{self, Identities, NewIdentity, SigningKey},
    error::{Context, ExitCode, Failure, Result},
    event::Monitor,
    jobs::{
        keys::{self, KeyFacts, KeyList, Role},
        open::Opening,
    },
};

/// Look at keys, make them and protect them.
#[derive(Debug, Args)]
pub struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List every key that counts, and where its private half lies on this host
    List,
    /// Make a further recovery identity, or a signing key; never overwrites a file
    New {
        /// The new key file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Protect it with a passphrase
        #[arg(long)]
        passphrase: bool,
        /// Make a signing key: of a host, or of a maintainer
        #[arg(long, conflicts_with = "passphrase")]
        signing: bool,
    },
    /// Write a copy of an identity file that opens with a passphrase only: FILE.age, beside it
    Protect {
        /// The identity file
        file: PathBuf,
    },
    /// Check that the identity opens this repository: --identity FILE, or this host's own key
    Check,
    /// Seal everything from now on to the recipients that the policy names
    Rotate {
        /// Whom indexes and manifests are sealed to besides, instead of those of today; may be repeated
        #[arg(long, value_name = "KEY")]
        index_recipient: Vec<String>,
    },
}

pub(super) async fn run(args: Keys, session: &Session) -> Result<ExitCode> {
    match args.verb {
        Verb::List => list(session).await,
        Verb::New { out, signing: true, .. } => new_signing(&out, session),
        Verb::New { out, passphrase, .. } => new(&out, passphrase, session),
        Verb::Protect { file } => protect(&file, session),
        Verb::Check => check(session).await,
        Verb::Rotate { index_recipient } => rotate(index_recipient, session).await,
    }
}

/// Makes a new revision of the config.
async fn rotate(index_recipients: Vec<String>, session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let opens = match session.identity(&stack)? {
        Some(identity) => identity,
        None => Identities::from_file(&stack.repository.settings.index_key())?,
    };
    let monitor = session.monitor();
    let config = keys::rotate(&stack, index_recipients, &opens, &session.ground, &monitor).await?;
    if session.json {
        let facts = json!({
            "revision": config.revision,
            "data_recipients": config.data_recipients,
            "index_recipients": config.index_recipients,
        });
        json::print(&json::document("keys", facts));
        return Ok(ExitCode::Ok);
    }
    session.report(&format!("from now on everything is sealed to {}", config.data_recipients.join(", ")));
    session.report("what was stored before opens to whom it did; docs/keys.md tells what that means");
    Ok(ExitCode::Ok)
}

/// Lists the keys. Where the repository cannot be asked, policy and host are told all the same.
async fn list(session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let config = keys::config(&stack, &session.monitor()).await;
    let list = keys::list(&stack, config.as_ref().ok(), session.identity.as_deref())?;
    if session.json {
        let keys: Vec<_> = list.keys.iter().map(facts).collect();
        let repository = config.as_ref().ok().map(|config| &config.repository);
        let document = json!({ "repository": repository, "keys": keys, "protected": list.protected });
        json::print(&json::document("keys", document));
    } else {
        show(&list);
    }
    for (file, mode) in open_to_others(&list) {
        let hint = format!("chmod 600 {}", file.display());
        let what = format!("key file `{}` has mode {mode:04o}: others may read it", file.display());
        session.screen.warn(None, what, Some(&hint));
    }
    match config {
        Ok(_) => Ok(ExitCode::Ok),
        Err(failure) => {
            session.screen.failure(&failure);
            Ok(failure.exit())
        }
    }
}

fn facts(key: &KeyFacts) -> serde_json::Value {
    let private = key.private.as_ref();
    json!({
        "role": key.role.word(),
        "public": key.public,
        "in_policy": key.in_policy,
        "in_repository": key.in_repository,
        "file": private.map(|private| &private.file),
        "mode": private.map(|private| format!("{:04o}", private.mode)),
        "works": private.map(|private| private.works),
        "revoked_after": key.revoked_after,
    })
}

fn open_to_others(list: &KeyList) -> Vec<(&Path, u32)> {
    let private = list.keys.iter().filter_map(|key| key.private.as_ref());
    let mut open: Vec<(&Path, u32)> = private
        .filter(|private| private.is_open_to_others())
        .map(|private| (private.file.as_path(), private.mode))
        .collect();
    // A key with two roles is one file.
    open.dedup();
    open
}

fn show(list: &KeyList) {
    let mut table = super::screen::table(&["role", "public half", "named in", "private half here", "works"]);
    for key in &list.keys {
        let named = [("policy", key.in_policy), ("repository", key.in_repository)];
        let named: Vec<&str> =
            named.into_iter().filter(|(_, is)| *is == Some(true)).map(|(place, _)| place).collect();
        let revoked = key.revoked_after.map(|last| format!("\nrevoked after {last}")).unwrap_or_default();
        let private = key.private.as_ref();
        table.add_row([
            format!("{}{revoked}", key.role.word()),
            key.public.clone(),
            named.join(" "),
            private.map(|one| format!("{} {:04o}", one.file.display(), one.mode)).unwrap_or_default(),
            private.map(|one| if one.works { "yes" } else { "NO" }).unwrap_or_default().to_owned(),
        ]);
    }
    say(&table.to_string());
    for file in &list.protected {
        say(&format!("{} opens with a passphrase only; `keys check` tells what it is", file.display()));
    }
    let recovery = list.keys.iter().find(|key| key.role == Role::Data && key.private.is_some());
    if let Some(private) = recovery.and_then(|key| key.private.as_ref()) {
        say(&format!(
            "{} opens every backup and lies on this host: copy it to two other places and remove it here",
            private.file.display()
        ));
    }
}

fn new(out: &Path, protected: bool, session: &Session) -> Result<ExitCode> {
    check_new(out)?;
    let made = NewIdentity::recovery(&session.ground.clock.now().to_rfc3339());
    if protected {
        let passphrase = session.passphrase.new_passphrase(out)?;
        crypt::write_new(out, &crypt::protect(made.text.expose_secret(), &passphrase)?)?;
    } else {
        crypt::write_new(out, made.text.expose_secret())?;
    }
    if session.json {
        let facts = json!({ "recipient": made.recipient, "identity_file": out, "protected": protected });
        json::print(&json::document("keys", facts));
    } else {
        session.report(&format!("recipient  {}", made.recipient));
        session.report(&format!("identity   {}", out.display()));
        session.report("");
        session.report("A new repository seals to it with `lifeboat init --recipient`.");
    }
    Ok(ExitCode::Ok)
}

fn new_signing(out: &Path, session: &Session) -> Result<ExitCode> {
    check_new(out)?;
    let made = SigningKey::generate()?;
    crypt::write_new(out, &made.to_text()?)?;
    if session.json {
        json::print(&json::document("keys", json!({ "signer": made.public(), "signing_key": out })));
    } else {
        session.report(&format!("signer  {}", made.public()));
        session.report(&format!("key     {}", out.display()));
        session.report("");
        session.report("It is believed once its signer stands in `signers` or `maintainers` of the policy.");
    }
    Ok(ExitCode::Ok)
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

/// Opens the repository and its newest manifest with the identity. One that was given must open the data.
async fn check(session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let identity = session.identity(&stack)?;
    let is_given = session.identity.is_some();
    let repository =
        Opening::new(&stack, &session.monitor())?.look(&stack, identity, &session.monitor()).await?;
    let data = repository.check_data_opens();
    let opens_data = data.is_ok();
    if is_given {
        data?;
    }
    let newest = session.believed(&repository).await?.pop();
    if let Some(refs) = &newest {
        repository.manifest(refs).await?;
    }
    let snapshot = newest.map(|refs| refs.snapshot);
    let id = &repository.config().repository;
    let opens = if opens_data { "data" } else { "index" };
    if session.json {
        let facts = json!({ "repository": id, "opens": opens, "snapshot": snapshot });
        json::print(&json::document("keys", facts));
    } else {
        let what = if opens_data { "the data" } else { "indexes and manifests, not the data," };
        let tried = snapshot.map_or("there is no snapshot yet to try it on".to_owned(), |snapshot| {
            format!("the manifest of {snapshot} was opened")
        });
        session.report(&format!("the identity opens {what} of repository {id}; {tried}"));
    }
    Ok(ExitCode::Ok)
}
