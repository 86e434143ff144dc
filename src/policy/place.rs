//! What a policy says about a store: its kind and opendal's own options, secrets by reference.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor},
};

use super::SecretRef;
use crate::error::Result;

/// A place for a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The kind of store: `fs`, `s3`, `oss`, …
    pub store: String,
    /// Its options, under the names that opendal gives them.
    #[serde(default)]
    pub options: BTreeMap<String, OptionValue>,
}

impl StoreConfig {
    /// Returns the options with all secrets read.
    pub fn resolve(&self) -> Result<BTreeMap<String, String>> {
        use secrecy::ExposeSecret;
        let read = |value: &OptionValue| -> Result<String> {
            match value {
                OptionValue::Text(text) => Ok(text.clone()),
                OptionValue::Secret(secret) => Ok(secret.resolve()?.expose_secret().to_owned()),
            }
        };
        self.options.iter().map(|(name, value)| Ok((name.clone(), read(value)?))).collect()
    }

    /// Returns the folder of this host that it is, if it is one.
    pub fn folder(&self) -> Option<PathBuf> {
        match self.options.get("root") {
            Some(OptionValue::Text(root)) if self.store == "fs" => Some(PathBuf::from(root)),
            _ => None,
        }
    }

    /// Returns the secrets it needs and the options that name them.
    pub fn secrets(&self) -> impl Iterator<Item = (&str, &SecretRef)> {
        self.options.iter().filter_map(|(name, value)| match value {
            OptionValue::Secret(secret) => Some((name.as_str(), secret)),
            OptionValue::Text(_) => None,
        })
    }

    /// Returns an option that is written out.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.options.get(name) {
            Some(OptionValue::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OptionValue {
    /// Written out; numbers and truth values become their text.
    Text(String),
    /// A secret, by reference.
    Secret(SecretRef),
}

impl<'de> Deserialize<'de> for OptionValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OptionVisitor)
    }
}

struct OptionVisitor;

impl<'de> Visitor<'de> for OptionVisitor {
    type Value = OptionValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true, false or a secret")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<OptionValue, E> {
        Ok(OptionValue::Text(value.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<OptionValue, E> {
        Ok(OptionValue::Text(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<OptionValue, E> {
        Ok(OptionValue::Text(value.to_string()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OptionValue, A::Error> {
        SecretRef::deserialize(de::value::MapAccessDeserializer::new(map)).map(OptionValue::Secret)
    }
}

/// One kind of store: what a policy may write about it.
pub(super) struct Kind {
    /// Its name.
    pub(super) scheme: &'static str,
    /// Options without which it cannot work.
    pub(super) needed: &'static [&'static str],
    /// All options that opendal knows.
    pub(super) known: Vec<String>,
}

/// The kinds of store that a policy can name; the same as `store::SCHEMES`, which a test compares.
pub const SCHEMES: [&str; 6] = ["cos", "fs", "obs", "oss", "s3", "webdav"];

impl Kind {
    /// Returns what is known about `scheme`.
    pub(super) fn of(scheme: &str) -> Option<Self> {
        use opendal::services;
        let (scheme, needed, known): (_, &[_], _) = match scheme {
            "cos" => ("cos", &["bucket", "endpoint"], options_of(&services::CosConfig::default())),
            "fs" => ("fs", &["root"], vec!["root".to_owned()]),
            "obs" => ("obs", &["bucket", "endpoint"], options_of(&services::ObsConfig::default())),
            "oss" => ("oss", &["bucket", "endpoint"], options_of(&services::OssConfig::default())),
            "s3" => ("s3", &["bucket"], options_of(&services::S3Config::default())),
            "webdav" => ("webdav", &["endpoint"], options_of(&services::WebdavConfig::default())),
            _ => return None,
        };
        Some(Self { scheme, needed, known })
    }
}

/// Returns the option names of one of opendal's settings.
fn options_of(config: &impl Serialize) -> Vec<String> {
    match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(fields)) => fields.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Returns whether an option's value is one that must not be written out.
pub(super) fn is_secret_option(name: &str) -> bool {
    ["secret", "password", "token", "customer_key"].iter().any(|word| name.contains(word))
        && !["secret_id", "server_side_encryption_customer_key_md5"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_known_with_opendals_names() {
        for scheme in SCHEMES {
            let kind = Kind::of(scheme).unwrap();
            assert!(kind.known.iter().any(|name| name == "root"), "{scheme}");
            assert!(kind.needed.iter().all(|name| kind.known.iter().any(|known| known == name)), "{scheme}");
        }
        assert!(Kind::of("s3").unwrap().known.contains(&"secret_access_key".to_owned()));
        assert!(Kind::of("oss").unwrap().known.contains(&"access_key_secret".to_owned()));
        assert!(Kind::of("ftp").is_none());
    }

    #[test]
    fn what_must_not_be_written_out_is_known_by_name() {
        for name in ["secret_access_key", "access_key_secret", "secret_key", "password", "session_token"] {
            assert!(is_secret_option(name), "{name}");
        }
        for name in ["access_key_id", "secret_id", "bucket", "username"] {
            assert!(!is_secret_option(name), "{name}");
        }
    }
}
