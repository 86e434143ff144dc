//! Makes keys, a repository and a starter policy.
//!
//! *Order.* Keys, repository, policy: the policy names what exists already. *Crash.* An `init` that died after
//! the keys can be repeated with another keys folder; nothing is ever overwritten.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use crate::{
    clock::Ground,
    crypt::{self, Recipients, SigningKey, files},
    error::{Context, ExitCode, Failure, Result},
    names::SourceName,
    policy::{self, StoreConfig},
    repo, store,
};

/// What to make.
pub struct Wanted {
    /// The stack's name.
    pub stack: String,
    /// Where the policy goes.
    pub policy: PathBuf,
    /// Where the keys go.
    pub keys: PathBuf,
    /// Where the repository goes.
    pub place: StoreConfig,
    /// Whom data is sealed to besides the new recovery identity.
    pub others: Vec<String>,
    /// `[[source]]` tables that the policy begins with.
    pub sources: String,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The policy.
    pub policy: PathBuf,
    /// The repository's id.
    pub repository: String,
    /// The data recipient.
    pub recipient: String,
    /// The identity file, which belongs offline.
    pub identity_file: PathBuf,
}

/// Makes all of it.
pub async fn run(wanted: Wanted, ground: &Ground) -> Result<Made> {
    let keys = absolute(&wanted.keys)?;
    let StoreConfig { store: scheme, options } = &wanted.place;
    let resolved = wanted.place.resolve()?;
    // Whoever is refused finds everything as it was: all of it is looked at before any of it is made.
    check_words(&wanted)?;
    crypt::check_no_keys(&keys)?;
    let store = store::open(scheme, &resolved)?;
    if repo::is_there(store.get.as_ref()).await? {
        return Err(Failure::new(
            ExitCode::Usage,
            format!("there is a repository at `{}` already", store.place),
        )
        .hint("Choose another place; a repository is never overwritten."));
    }
    let store = store::create(scheme, &resolved)?;
    let new = crypt::make_keys(&keys, &ground.clock.now().to_rfc3339())?;
    let signing = SigningKey::from_file(&keys.join(files::SIGNING))?;
    let recipients: Vec<String> =
        std::iter::once(new.recipient.clone()).chain(wanted.others.iter().cloned()).collect();
    let made = repo::NewRepository {
        data_recipients: recipients.clone(),
        index_recipients: vec![new.index_recipient],
        signing: &signing,
        ground,
    };
    let config = repo::create(store.put.as_ref(), store.get.as_ref(), made).await?;
    // A host that does not know its zone is told so by the policy's first lines.
    let timezone = iana_time_zone::get_timezone().unwrap_or_else(|_| "UTC".to_owned());
    let starter = policy::Starter {
        stack: &wanted.stack,
        store: scheme,
        options,
        recipients: &recipients,
        signers: std::slice::from_ref(&new.signer),
        keys: &keys,
        timezone: &timezone,
    };
    write_new(&wanted.policy, &format!("{}{}", policy::starter(&starter), wanted.sources))?;
    Ok(Made {
        policy: wanted.policy,
        repository: config.repository,
        recipient: new.recipient,
        identity_file: keys.join(files::IDENTITY),
    })
}

/// Fails when the policy is there already, the stack's name is none or a recipient is no key.
fn check_words(wanted: &Wanted) -> Result<()> {
    if wanted.policy.exists() {
        return Err(Failure::new(
            ExitCode::Usage,
            format!("policy `{}` exists already", wanted.policy.display()),
        )
        .hint("A policy is never overwritten: name another with --policy, or edit this one."));
    }
    SourceName::new(&wanted.stack).map_err(|error| {
        Failure::new(ExitCode::Usage, format!("`{}` is not a stack name: {}", wanted.stack, error.rule))
            .hint("Choose another with --stack; it is what a person types to confirm a restore.")
    })?;
    if wanted.others.is_empty() { Ok(()) } else { Recipients::parse(&wanted.others).map(drop) }
}

/// Policies live longer than the folder a person stood in when typing the command.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).failed(ExitCode::Usage, || format!("`{}` is no path", path.display()))
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    let write = || {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().failed(ExitCode::Failed, || format!("policy `{}` cannot be written", path.display()))
}
