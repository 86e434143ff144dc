//! `lifeboat init`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use clap::Args;
use serde_json::json;

use super::{json, say, session::Session};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    jobs::{self, compose},
    policy::{OptionValue, SCHEMES, SecretRef, StoreConfig},
};

/// Make keys, a repository and a starter policy. Never overwrites a key, a repository or a policy.
#[derive(Debug, Args)]
pub struct Init {
    /// The kind of store that the repository lies in
    #[arg(long, default_value = "fs", value_parser = SCHEMES)]
    store: String,
    /// The repository's folder, for store fs [default: /var/backups/lifeboat]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// An option of another store under opendal's name; a secret is `env:NAME`, `file:PATH` or `credential:NAME`
    #[arg(long, value_name = "NAME=VALUE")]
    option: Vec<String>,
    /// The folder for the keys
    #[arg(long, value_name = "DIR", default_value = "/etc/lifeboat/keys")]
    keys: PathBuf,
    /// The stack's name
    #[arg(long, value_name = "NAME", default_value = "im-suite")]
    stack: String,
    /// Somebody else who shall be able to read the data, age1…; may be repeated (age-keygen makes keys)
    #[arg(long, value_name = "KEY")]
    recipient: Vec<String>,
    /// Write the policy for the services of this compose file
    #[arg(long, value_name = "FILE")]
    from_compose: Option<PathBuf>,
    /// The environment file of the compose file
    #[arg(long, value_name = "FILE", requires = "from_compose")]
    env: Option<PathBuf>,
}

/// Returns where the repository goes.
fn place(args: &Init) -> Result<StoreConfig> {
    let store = args.store.clone();
    let mut options = args.option.iter().map(|text| option(text)).collect::<Result<BTreeMap<_, _>>>()?;
    if store == "fs" {
        let root = args.root.clone().unwrap_or_else(|| PathBuf::from("/var/backups/lifeboat"));
        let root = std::path::absolute(&root)
            .failed(ExitCode::Usage, || format!("`{}` is no path", root.display()))?;
        let text = root
            .to_str()
            .ok_or_else(|| Failure::new(ExitCode::Usage, "the repository's folder is not UTF-8"))?;
        options.insert("root".to_owned(), OptionValue::Text(text.to_owned()));
    } else if args.root.is_some() {
        return Err(Failure::new(ExitCode::Usage, "--root is for the store fs")
            .hint("Give a prefix in another store as --option root=/prefix."));
    }
    Ok(StoreConfig { store, options })
}

/// Returns the sources of the compose file, and the file itself with its variables as a source of files.
fn sources(args: &Init) -> Result<String> {
    let Some(compose) = &args.from_compose else { return Ok(String::new()) };
    let read = |path: &PathBuf| {
        fs::read_to_string(path)
            .failed(ExitCode::Usage, || format!("file `{}` cannot be read", path.display()))
    };
    let variables = args.env.as_ref().map(read).transpose()?.map(|text| compose::variables(&text));
    let mut tables = compose::sources(&read(compose)?, &variables.unwrap_or_default())?;
    let paths = std::iter::once(compose).chain(&args.env).map(std::path::absolute);
    let paths =
        paths.collect::<std::io::Result<Vec<_>>>().failed(ExitCode::Usage, || "a path is none".to_owned())?;
    tables += "\n# the compose file and its variables\n[[source]]\nname = \"compose\"\nkind = \"files\"\npaths = [\n";
    for path in paths {
        let quoted = serde_json::Value::from(path.display().to_string()).to_string();
        tables.extend(["    ", &quoted, ",\n"]);
    }
    Ok(tables + "]\n")
}

/// Parses `NAME=VALUE`. A command line is no place for a secret: everybody on the host can read it.
fn option(text: &str) -> Result<(String, OptionValue)> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        Failure::new(ExitCode::Usage, "an --option has no `=`").hint("Write --option NAME=VALUE.")
    })?;
    let reference = match value.split_once(':') {
        Some(("env", name)) => Some(SecretRef::Env(name.to_owned())),
        Some(("file", path)) => Some(SecretRef::File(PathBuf::from(path))),
        Some(("credential", name)) => Some(SecretRef::Credential(name.to_owned())),
        _ => None,
    };
    let secret = ["secret", "password", "token", "key_id"].iter().any(|word| name.contains(word));
    match reference {
        Some(reference) => Ok((name.to_owned(), OptionValue::Secret(reference))),
        None if secret => Err(Failure::new(
            ExitCode::Usage,
            format!("option `{name}` is a secret and was given openly"),
        )
        .hint(format!(
            "Write --option {name}=env:NAME or --option {name}=file:/path; the policy keeps the reference."
        ))),
        None => Ok((name.to_owned(), OptionValue::Text(value.to_owned()))),
    }
}

pub(super) async fn run(args: Init, session: &Session) -> Result<ExitCode> {
    let sources = sources(&args)?;
    let policy = session.policy.clone().unwrap_or_else(|| PathBuf::from("lifeboat.toml"));
    let place = place(&args)?;
    let wanted = jobs::init::Wanted {
        stack: args.stack,
        policy,
        keys: args.keys,
        place,
        others: args.recipient,
        sources,
    };
    let made = jobs::init::run(wanted, &session.ground).await?;
    if session.json {
        json::print(&json::document(
            "init",
            json!({
                "policy": made.policy,
                "repository": made.repository,
                "recipient": made.recipient,
                "identity_file": made.identity_file,
            }),
        ));
    } else if !session.quiet {
        say(&format!("policy      {}", made.policy.display()));
        say(&format!("repository  {}", made.repository));
        say(&format!("recipient   {}", made.recipient));
        say(&format!("identity    {}", made.identity_file.display()));
        say("");
        say("The identity opens every backup. Copy it to two places that do not burn with this host, then");
        say("remove it here: backups do not need it. Next: add [[source]] tables to the policy and run");
        say("`lifeboat policy check`.");
    }
    Ok(ExitCode::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_given_by_reference_only() {
        let (name, value) = option("secret_access_key=env:X").unwrap();
        assert_eq!(
            (name.as_str(), value),
            ("secret_access_key", OptionValue::Secret(SecretRef::Env("X".into())))
        );
        let (_, value) = option("endpoint=http://127.0.0.1:9000").unwrap();
        assert_eq!(value, OptionValue::Text("http://127.0.0.1:9000".into()));
        for open in ["secret_access_key=hunter2", "password=hunter2", "access_key_id=hunter2"] {
            let failure = option(open).unwrap_err();
            assert_eq!(failure.exit(), ExitCode::Usage);
            assert!(!failure.chain().join("").contains("hunter2"));
        }
        assert!(option("bucket").is_err());
    }
}
