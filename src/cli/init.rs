//! `lifeboat init`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{json, say, session::Session};
use crate::{
    error::{ExitCode, Failure, Result},
    jobs,
};

/// Make keys, a repository and a starter policy. Never overwrites a key, a repository or a policy.
#[derive(Debug, Args)]
pub struct Init {
    /// Where the repository lies; another store is set in the policy afterwards
    #[arg(long, default_value = "fs", value_parser = ["fs"])]
    store: String,
    /// The repository's folder
    #[arg(long, value_name = "DIR", default_value = "/var/backups/lifeboat")]
    root: PathBuf,
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

pub(super) async fn run(args: Init, session: &Session) -> Result<ExitCode> {
    if args.from_compose.is_some() {
        return Err(Failure::new(ExitCode::Usage, "a policy from a compose file cannot be made yet")
            .hint("Run init without --from-compose and append [[source]] tables; policies/im-suite.toml is an example."));
    }
    let policy = session.policy.clone().unwrap_or_else(|| PathBuf::from("lifeboat.toml"));
    let wanted = jobs::init::Wanted {
        stack: args.stack,
        policy,
        keys: args.keys,
        root: args.root,
        others: args.recipient,
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
