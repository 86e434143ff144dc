//! From a compose file to the sources of a policy: which of its services hold data, and how they are reached.
//!
//! A pure function of the file's text and the variables of its `.env`. No secret is ever copied: the policy names the
//! variable that holds it, or a file that a person fills.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_norway::Value;

use crate::error::{Context, ExitCode, Failure, Result};

/// What a service of a compose file tells; all else is of no interest.
#[derive(Debug, Default, Deserialize)]
struct Service {
    #[serde(default)]
    image: String,
    #[serde(default)]
    environment: Value,
    #[serde(default)]
    command: Value,
    #[serde(default)]
    ports: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Compose {
    #[serde(default)]
    services: BTreeMap<String, Service>,
}

/// The variables that a `.env` file sets: `NAME=value` lines, comments and quotes as compose reads them.
pub fn variables(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let value = value.trim();
        let bare = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        Some((name.trim().to_owned(), bare.unwrap_or(value).to_owned()))
    };
    lines.filter_map(pair).collect()
}

/// Returns `[[source]]` tables for the services of a compose file that hold data.
pub fn sources(text: &str, variables: &BTreeMap<String, String>) -> Result<String> {
    let compose: Compose = serde_norway::from_str(text)
        .failed(ExitCode::Usage, || "the compose file is not what compose reads".to_owned())?;
    let mut out = String::new();
    for (name, service) in &compose.services {
        let place = Reached { name, service, variables };
        match kind(&service.image) {
            Some("mysql") => out += &place.mysql(),
            Some("redis") => out += &place.redis(),
            Some("s3") => out += &place.s3(),
            _ => {}
        }
    }
    if out.is_empty() {
        return Err(Failure::new(
            ExitCode::Usage,
            "the compose file has no MySQL, MariaDB, Redis, Valkey or MinIO",
        )
        .hint("Services are known by their images; append [[source]] tables for others by hand."));
    }
    Ok(out)
}

/// Tells by an image's name what is inside.
fn kind(image: &str) -> Option<&'static str> {
    let name = image.rsplit('/').next()?.split([':', '@']).next()?;
    let known = [
        ("mysql", "mysql"),
        ("mariadb", "mysql"),
        ("percona", "mysql"),
        ("redis", "redis"),
        ("valkey", "redis"),
    ];
    let found = known.iter().find(|(word, _)| name.starts_with(word)).map(|(_, kind)| *kind);
    found.or_else(|| name.starts_with("minio").then_some("s3"))
}

/// A service and how it is reached.
struct Reached<'a> {
    name: &'a str,
    service: &'a Service,
    variables: &'a BTreeMap<String, String>,
}

impl Reached<'_> {
    fn mysql(&self) -> String {
        let (host, port) = self.address(3306);
        let password =
            self.variable("MYSQL_ROOT_PASSWORD").or_else(|| self.variable("MARIADB_ROOT_PASSWORD"));
        let password = self.secret(password.as_deref());
        self.table(
            "mysql",
            &format!("host = {}\nport = {port}\nuser = \"root\"\npassword = {password}", quoted(&host)),
        )
    }

    fn redis(&self) -> String {
        let (host, port) = self.address(6379);
        let words = words(&self.service.command);
        let given = words.iter().position(|word| word == "--requirepass").and_then(|at| words.get(at + 1));
        let password =
            given.map(|word| format!("\npassword = {}", self.secret(Some(word)))).unwrap_or_default();
        self.table("redis", &format!("url = {}{password}", quoted(&format!("redis://{host}:{port}"))))
    }

    fn s3(&self) -> String {
        let (host, port) = self.address(9000);
        let (user, password) = (self.variable("MINIO_ROOT_USER"), self.variable("MINIO_ROOT_PASSWORD"));
        let keys = format!(
            "access_key = {}\nsecret_key = {}",
            self.secret(user.as_deref()),
            self.secret(password.as_deref())
        );
        self.table("s3", &format!("endpoint = {}\n{keys}", quoted(&format!("http://{host}:{port}"))))
    }

    fn table(&self, kind: &str, settings: &str) -> String {
        let name: String = self
            .name
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let name = name.trim_start_matches('-');
        format!(
            "\n# service {}, image {}\n[[source]]\nname = {}\nkind = \"{kind}\"\n{settings}\n",
            self.name,
            self.service.image,
            quoted(name)
        )
    }

    /// Returns where this host reaches the service: at a published port, or by its name on the compose network.
    fn address(&self, port: u16) -> (String, u16) {
        let published = self.service.ports.iter().find_map(|entry| match entry {
            Value::String(text) => published(&self.filled(text), port),
            Value::Mapping(map) => {
                let number = |key: &str| {
                    let value = map.get(key)?;
                    value
                        .as_u64()
                        .map(|number| number.to_string())
                        .or_else(|| value.as_str().map(str::to_owned))
                };
                let fits = number("target")? == port.to_string();
                let host = map.get("host_ip").and_then(Value::as_str).unwrap_or("0.0.0.0").to_owned();
                fits.then_some((host, number("published")?.parse().ok()?))
            }
            _ => None,
        });
        match published {
            Some((host, port)) if host == "0.0.0.0" || host == "::" => ("127.0.0.1".to_owned(), port),
            Some(found) => found,
            None => (self.name.to_owned(), port),
        }
    }

    /// Returns what the service's environment says of `name`, as the file has it.
    fn variable(&self, name: &str) -> Option<String> {
        match &self.service.environment {
            Value::Mapping(map) => map.get(name)?.as_str().map(str::to_owned),
            Value::Sequence(list) => {
                let mut lines = list.iter().filter_map(Value::as_str);
                lines.find_map(|line| match line.split_once('=') {
                    Some((own, value)) => (own == name).then(|| value.to_owned()),
                    // Without a value it is handed through from the `.env` file.
                    None => (line == name).then(|| format!("${{{name}}}")),
                })
            }
            _ => None,
        }
    }

    /// Returns a reference to a secret: the variable that the file names, or a file for a secret written out in it.
    fn secret(&self, value: Option<&str>) -> String {
        let variable = value.and_then(|value| {
            let inside = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            let name = inside.or_else(|| value.strip_prefix('$'))?.split([':', '?', '-']).next()?;
            (!name.is_empty()).then(|| name.to_owned())
        });
        match variable {
            Some(name) => format!("{{ env = {} }}", quoted(&name)),
            None => format!("{{ file = {} }}", quoted(&format!("/etc/lifeboat/secrets/{}", self.name))),
        }
    }

    /// Fills `${NAME:-default}` in a port.
    fn filled(&self, text: &str) -> String {
        let Some((before, rest)) = text.split_once("${") else { return text.to_owned() };
        let Some((inside, after)) = rest.split_once('}') else { return text.to_owned() };
        let (name, default) = inside.split_once(":-").unwrap_or((inside, ""));
        let value = self.variables.get(name).map_or(default, String::as_str);
        format!("{before}{value}{}", self.filled(after))
    }
}

/// Reads `[ip:]published:target[/tcp]` for the port `target`.
fn published(text: &str, target: u16) -> Option<(String, u16)> {
    let text = text.strip_suffix("/tcp").unwrap_or(text);
    let (rest, inside) = text.rsplit_once(':')?;
    if inside != target.to_string() {
        return None;
    }
    let (host, port) = rest.rsplit_once(':').unwrap_or(("0.0.0.0", rest));
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

/// Returns a command's words, whether it is a list or a line.
fn words(command: &Value) -> Vec<String> {
    match command {
        Value::String(line) => {
            line.split_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned()).collect()
        }
        Value::Sequence(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPOSE: &str = r#"
services:
  mysql:
    image: mysql:8.0
    environment:
      MYSQL_ROOT_PASSWORD: ${MYSQL_ROOT_PASSWORD:?set it}
      MYSQL_DATABASE: im
    ports: ["127.0.0.1:${MYSQL_PORT:-3306}:3306"]
  redis:
    image: redis:7-alpine
    command: redis-server --appendonly yes --requirepass ${REDIS_PASSWORD}
  minio:
    image: minio/minio:latest
    environment:
      - MINIO_ROOT_USER=${MINIO_ROOT_USER}
      - MINIO_ROOT_PASSWORD
    ports:
      - target: 9000
        published: "19000"
  backend:
    image: registry.example/im/backend:1
    environment:
      MYSQL_ROOT_PASSWORD: never looked at
  old:
    image: docker.io/library/mariadb@sha256:0
    environment:
      MARIADB_ROOT_PASSWORD: hunter2
"#;

    #[test]
    fn services_that_hold_data_become_sources_without_their_secrets() {
        let env = variables("# ports\nMYSQL_PORT = '33306'\nexport REDIS_PASSWORD=hunter2\n");
        let text = sources(COMPOSE, &env).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_file_without_data_or_sense_is_refused() {
        let none = sources("services:\n  web:\n    image: nginx\n", &BTreeMap::new()).unwrap_err();
        assert_eq!(none.exit(), ExitCode::Usage);
        assert_eq!(sources("services: [", &BTreeMap::new()).unwrap_err().exit(), ExitCode::Usage);
    }
}
