//! The recovery sheet's facts: what a person needs when nothing but the repository and an identity is left.
//!
//! All of them are public. What could be a credential is left out by naming what may be shown, not what may
//! not. *Crash.* Nothing is changed.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};

use crate::{
    clock::Ground,
    crypt::Trust,
    error::Result,
    policy::{OptionValue, Stack, StoreConfig},
    repo::format::Config,
};

/// Options of stores that say where it is and are no credential.
const PUBLIC_OPTIONS: [&str; 4] = ["endpoint", "bucket", "region", "root"];

/// Everything that a recovery sheet tells.
#[derive(Clone, Debug)]
pub struct Kit {
    /// The stack's name.
    pub stack: String,
    /// The zone of its times.
    pub timezone: Tz,
    /// When the sheet was made.
    pub made: DateTime<Utc>,
    /// The version of lifeboat that made it.
    pub version: String,
    /// The repository's id.
    pub repository: String,
    /// Where the repository is.
    pub place: String,
    /// The names of offsite repositories, and where they are.
    pub offsites: Vec<(String, String)>,
    /// Whom data is sealed to.
    pub recipients: Vec<String>,
    /// Whom indexes are sealed to besides.
    pub index_recipients: Vec<String>,
    /// Whose signatures are believed.
    pub signers: Vec<String>,
    /// Who may remove.
    pub maintainers: Vec<String>,
    /// Signers that are believed up to a sequence number.
    pub revoked: Vec<(String, u64)>,
    /// A policy that is enough to read the repository on a new host.
    pub policy: String,
    /// Whether the repository lies in a folder.
    pub is_folder: bool,
}

impl Kit {
    /// Gathers the facts from the policy and the repository's config.
    pub fn gather(stack: &Stack, config: &Config, ground: &Ground) -> Result<Self> {
        let settings = &stack.repository.settings;
        let trust = Trust::parse(&settings.signers, &settings.maintainers, &settings.revoked_after())?;
        let offsites = stack.offsites.iter().map(|offsite| (offsite.name.to_string(), place(&offsite.place)));
        Ok(Self {
            stack: stack.name.clone(),
            timezone: stack.timezone,
            made: ground.clock.now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            repository: config.repository.clone(),
            place: place(&stack.repository.place),
            offsites: offsites.collect(),
            recipients: config.data_recipients.clone(),
            index_recipients: config.index_recipients.clone(),
            signers: settings.signers.clone(),
            maintainers: trust.maintainers.texts(),
            revoked: trust.revoked.into_iter().collect(),
            policy: policy(stack, config),
            is_folder: stack.repository.place.store == "fs",
        })
    }

    /// Returns the facts that a machine reads off the sheet.
    pub fn facts(&self) -> Value {
        json!({
            "stack": self.stack,
            "repository": self.repository,
            "place": self.place,
            "recipients": self.recipients,
            "signers": self.signers,
        })
    }
}

/// Returns the options that may be shown.
fn public(config: &StoreConfig) -> impl Iterator<Item = (&str, &str)> {
    PUBLIC_OPTIONS.iter().filter_map(|name| Some((*name, config.text(name)?)))
}

/// Words a place: `s3 endpoint=https://… bucket=backups`.
fn place(config: &StoreConfig) -> String {
    let options = public(config).map(|(name, value)| format!(" {name}={value}"));
    std::iter::once(config.store.clone()).chain(options).collect()
}

/// Writes the policy for a new host. What is not public comes from the environment there.
fn policy(stack: &Stack, config: &Config) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list =
        |keys: &[String]| keys.iter().map(|key| ["    ", &quoted(key), ",\n"].concat()).collect::<String>();
    let repository = &stack.repository;
    let option = |(name, value): (&String, &OptionValue)| match value {
        OptionValue::Text(text) if PUBLIC_OPTIONS.contains(&name.as_str()) => {
            format!("{name} = {}", quoted(text))
        }
        _ => format!("{name} = {{ env = {} }}", quoted(&name.to_uppercase())),
    };
    let options: Vec<String> = repository.place.options.iter().map(option).collect();
    let mut text = format!(
        "stack = {}\ntimezone = {}\n[repository]\nstore = {}\noptions = {{ {} }}\nrecipients = [\n{}]\nsigners = [\n{}]\n",
        quoted(&stack.name),
        quoted(stack.timezone.name()),
        quoted(&repository.place.store),
        options.join(", "),
        list(&config.data_recipients),
        list(&repository.settings.signers),
    );
    for (signer, last) in repository.settings.revoked_after() {
        let (signer, last) = (quoted(signer), last.to_string());
        text.extend(["[[repository.revoked]]\nsigner = ", &signer, "\nafter_seq = ", &last, "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::Need;

    const POLICY: &str = r#"
stack = "shop"
timezone = "Asia/Shanghai"
[repository]
store = "s3"
options = { bucket = "b", root = "/a \"b\"", access_key_id = "AKIAPLAIN", secret_access_key = { env = "HIDDEN" } }
recipients = ["age1abc"]
signers = ["RWa", "RWb"]
revoked = [{ signer = "RWa", after_seq = 4 }]
"#;

    fn config() -> Config {
        let chunker =
            json!({ "algorithm": "x", "min_bytes": 1, "avg_bytes": 1, "max_bytes": 1, "seed_sealed": "" });
        let config = json!({
            "format": 1, "repository": "ab", "created": "2026-01-01T00:00:00Z", "chunker": chunker,
            "data_recipients": ["age1abc"], "index_recipients": [], "signers": [], "pack_size_bytes": 1,
        });
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn a_place_is_told_without_any_credential() {
        let stack = Stack::parse(POLICY, "p", Need::Repository).unwrap();
        assert_eq!(place(&stack.repository.place), "s3 bucket=b root=/a \"b\"");
        let plain = StoreConfig {
            store: "webdav".to_owned(),
            options: BTreeMap::from([("username".to_owned(), OptionValue::Text("bob".to_owned()))]),
        };
        assert_eq!(place(&plain), "webdav");
    }

    #[test]
    fn the_policy_for_a_new_host_loads_and_believes_no_more_than_the_old_one() {
        let stack = Stack::parse(POLICY, "p", Need::Repository).unwrap();
        let text = policy(&stack, &config());
        assert!(!text.contains("AKIAPLAIN") && !text.contains("HIDDEN"), "{text}");
        let again = Stack::parse(&text, "p", Need::Repository).unwrap();
        let (old, new) = (&stack.repository, &again.repository);
        assert_eq!(old.settings.signers, new.settings.signers);
        assert_eq!(old.settings.revoked, new.settings.revoked);
        assert_eq!(old.settings.recipients, new.settings.recipients);
        assert_eq!((&stack.name, stack.timezone), (&again.name, again.timezone));
        assert_eq!(new.place.text("root"), Some("/a \"b\""));
        assert_eq!(new.place.secrets().count(), 2);
    }
}
