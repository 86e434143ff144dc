//! Where a secret comes from, and how it is kept from being printed.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor},
};

use crate::error::{Context, ExitCode, Failure, Result};

/// Bytes that a secret file may hold; a longer one is no password.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A reference to a secret: the policy never holds the value itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretRef {
    /// `{ env = "X" }`: an environment variable of this process.
    Env(String),
    /// `{ file = "/run/secrets/x" }`: a file; one trailing line end is not part of the secret.
    File(PathBuf),
    /// `{ credential = "x" }`: a systemd credential, read from `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl SecretRef {
    /// What a person is told who wrote something else; never what they wrote, which may be the secret.
    pub(super) const RULE: &'static str = "a secret is named here, never written";
    /// What to write instead.
    pub(super) const REMEDY: &'static str =
        "Write { env = \"NAME\" }, { file = \"/run/secrets/name\" } or { credential = \"name\" }.";

    /// Reads the value.
    pub fn resolve(&self) -> Result<SecretString> {
        match self {
            Self::Env(name) => env::var(name).map(SecretString::from).map_err(|cause| {
                let hint = format!(
                    "Set the environment variable {name}, or name a file instead: {{ file = \"…\" }}."
                );
                let failure = Failure::new(ExitCode::Usage, format!("secret `${name}` cannot be read"));
                match cause {
                    env::VarError::NotPresent => failure.because(cause),
                    // That error prints the value.
                    env::VarError::NotUnicode(_) => failure.because("its value is not UTF-8"),
                }
                .hint(hint)
            }),
            Self::File(path) => read_secret(path),
            Self::Credential(name) => {
                let folder = env::var("CREDENTIALS_DIRECTORY").map_err(|cause| {
                    Failure::new(ExitCode::Usage, format!("credential `{name}` cannot be read"))
                        .because(cause)
                        .hint("Credentials exist only under systemd: add LoadCredential= to the unit.")
                })?;
                read_secret(&Path::new(&folder).join(name))
            }
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "${name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// Takes a table of one known key; whatever else comes is not repeated in the error.
struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = SecretRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ env }, { file } or { credential }")
    }

    fn visit_str<E: de::Error>(self, _value: &str) -> Result<SecretRef, E> {
        Err(E::custom(SecretRef::RULE))
    }

    fn visit_i64<E: de::Error>(self, _value: i64) -> Result<SecretRef, E> {
        Err(E::custom(SecretRef::RULE))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretRef, A::Error> {
        let wrong = || de::Error::custom(SecretRef::RULE);
        let (Some((way, name)), None) = (map.next_entry::<String, String>()?, map.next_key::<String>()?)
        else {
            return Err(wrong());
        };
        match way.as_str() {
            _ if name.is_empty() => Err(wrong()),
            "env" => Ok(SecretRef::Env(name)),
            "file" if name.starts_with('/') => Ok(SecretRef::File(name.into())),
            "credential" if !name.contains('/') => Ok(SecretRef::Credential(name)),
            _ => Err(wrong()),
        }
    }
}

fn read_secret(path: &Path) -> Result<SecretString> {
    let shown = path.display().to_string();
    let read = || -> io::Result<String> {
        let size_bytes = fs::metadata(path)?.len();
        if size_bytes > SECRET_BYTES_MAX {
            return Err(io::Error::other(format!("it has {size_bytes} bytes")));
        }
        fs::read_to_string(path)
    };
    let text = read()
        .failed(ExitCode::Usage, || format!("secret file `{shown}` cannot be read"))
        .map_err(|failure| failure.hint("Check the path and that this user may read it."))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_secret_file_loses_one_line_end_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        fs::write(&path, " a b \n\n").unwrap();
        let secret = SecretRef::File(path).resolve().unwrap();
        assert_eq!(secret.expose_secret(), " a b \n");
        assert!(!format!("{secret:?}").contains("a b"));
    }

    #[test]
    fn a_missing_secret_says_which_and_what_to_do() {
        let failure = SecretRef::Env("LIFEBOAT_NO_SUCH_VARIABLE".into()).resolve().unwrap_err();
        assert_eq!(failure.to_string(), "secret `$LIFEBOAT_NO_SUCH_VARIABLE` cannot be read");
        assert!(failure.hints()[0].contains("LIFEBOAT_NO_SUCH_VARIABLE"));
        let failure = SecretRef::File("/no/such/file".into()).resolve().unwrap_err();
        assert_eq!(failure.exit(), ExitCode::Usage);
    }
}
