//! The container engine: where its socket is, what it calls itself, and what its refusals mean.
//!
//! Only what podman's compatible socket has too is asked of it.

use std::{collections::HashMap, env, path::Path, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error, models::SystemVersion};
use tokio::time::timeout;

use super::super::not_run;
use crate::error::{Failure, Result};

/// How long the engine may take to answer for the first time.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take for one request, in seconds: a busy disk makes removing slow.
const REQUEST_SECONDS: u64 = 120;
/// Docker's socket.
const DOCKER: &str = "/var/run/docker.sock";
/// The socket of podman for all users.
const PODMAN: &str = "/run/podman/podman.sock";

/// Returns the address of the container engine: the one that is given, or `DOCKER_HOST`, or docker's socket, or
/// podman's.
pub fn address(given: Option<&str>) -> String {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let (host, runtime) = (set("DOCKER_HOST"), set("XDG_RUNTIME_DIR"));
    choose(given.or(host.as_deref()), runtime.as_deref(), |path| Path::new(path).exists())
}

fn choose(said: Option<&str>, runtime: Option<&str>, exists: impl Fn(&str) -> bool) -> String {
    let path = match said {
        Some(address) if !address.starts_with('/') => return address.to_owned(),
        Some(path) => path.to_owned(),
        None => {
            let own = runtime.map(|folder| format!("{folder}/podman/podman.sock"));
            let known = [Some(DOCKER.to_owned()), own, Some(PODMAN.to_owned())];
            known.into_iter().flatten().find(|path| exists(path)).unwrap_or_else(|| DOCKER.to_owned())
        }
    };
    format!("unix://{path}")
}

/// Returns whether a container engine answers at `socket`.
pub async fn answers(socket: Option<&str>) -> bool {
    Engine::open(socket).await.is_ok()
}

/// An engine that answered.
#[derive(Clone)]
pub(super) struct Engine {
    /// The client.
    pub docker: Docker,
    /// Where it answers.
    pub address: String,
    /// What it is: `docker 28.3.0`.
    pub name: String,
    /// Whether it is podman.
    pub is_podman: bool,
    /// Whether its networks are apart from this host's: it runs without root, or in a machine of its own.
    pub is_apart: bool,
}

impl Engine {
    /// Asks the engine what it is.
    pub async fn open(socket: Option<&str>) -> Result<Self> {
        let address = address(socket);
        let no_answer = |why: Failure| {
            why.hint("Start it, and let this user use its socket: `lifeboat doctor` looks at it.")
                .hint("Without containers: lab = \"process\" in [drill].")
        };
        let silent = || not_run(format!("no container engine answers at `{address}`"));
        let hello = timeout(HELLO_LIMIT, hello(&address)).await;
        let (docker, version) = hello
            .map_err(|_| no_answer(silent().because(format!("nothing in {} s", HELLO_LIMIT.as_secs()))))?
            .map_err(|error| no_answer(silent().because(error)))?;
        let is_podman = names_podman(&version);
        let number = version.version.unwrap_or_default();
        let name = format!("{} {number}", if is_podman { "podman" } else { "docker" });
        // Podman's answer is not docker's in every field; what cannot be read says nothing.
        let info = docker.info().await.unwrap_or_default();
        let rootless = info.security_options.iter().flatten().any(|option| option.contains("rootless"));
        let desktop = info.operating_system.is_some_and(|system| system.contains("Docker Desktop"));
        let is_apart = rootless || desktop || address.starts_with("unix:///run/user/");
        Ok(Self { docker, address, name: name.trim().to_owned(), is_podman, is_apart })
    }

    /// Returns whether the engine is on another machine, as far as its address tells.
    pub fn is_elsewhere(&self) -> bool {
        let Some((scheme, rest)) = self.address.split_once("://") else { return false };
        let host = rest.split('/').next().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        scheme != "unix" && !matches!(host, "localhost" | "[::1]") && !host.starts_with("127.")
    }
}

async fn hello(address: &str) -> Result<(Docker, SystemVersion), Error> {
    let docker = if address.starts_with("unix://") {
        Docker::connect_with_unix(address, REQUEST_SECONDS, API_DEFAULT_VERSION)?
    } else if address.starts_with("tcp://") || address.starts_with("http://") {
        Docker::connect_with_http(address, REQUEST_SECONDS, API_DEFAULT_VERSION)?
    } else {
        return Err(Error::UnsupportedURISchemeError { uri: address.to_owned() });
    };
    let docker = docker.negotiate_version().await?;
    let version = docker.version().await?;
    Ok((docker, version))
}

fn names_podman(version: &SystemVersion) -> bool {
    version.components.iter().flatten().any(|part| part.name.to_lowercase().contains("podman"))
}

/// Returns the status of an engine's refusal.
fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Returns whether what was asked for is not there.
pub(super) fn is_missing(error: &Error) -> bool {
    status(error) == Some(404)
}

/// Returns whether somebody else is at it already.
pub(super) fn is_busy(error: &Error) -> bool {
    matches!(status(error), Some(403 | 409))
}

/// Returns the filter for things that have a label with this value.
pub(super) fn with_label(name: &str, value: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{name}={value}")])])
}

#[cfg(test)]
mod tests {
    use bollard::models::SystemVersionComponents;

    use super::*;

    #[test]
    fn the_socket_is_the_given_one_or_the_first_that_is_there() {
        let none = |_: &str| false;
        assert_eq!(choose(Some("/a/b.sock"), None, none), "unix:///a/b.sock");
        assert_eq!(choose(Some("tcp://127.0.0.1:2375"), None, none), "tcp://127.0.0.1:2375");
        assert_eq!(choose(None, Some("/run/user/7"), |_| true), "unix:///var/run/docker.sock");
        let podman = |path: &str| path.ends_with("podman.sock");
        assert_eq!(choose(None, Some("/run/user/7"), podman), "unix:///run/user/7/podman/podman.sock");
        assert_eq!(choose(None, None, podman), "unix:///run/podman/podman.sock");
        assert_eq!(choose(None, None, none), "unix:///var/run/docker.sock");
    }

    #[test]
    fn an_engine_on_another_machine_is_known_by_its_address() {
        let at = |address: &str| Engine {
            docker: Docker::connect_with_http("tcp://127.0.0.1:9", 1, API_DEFAULT_VERSION).unwrap(),
            address: address.to_owned(),
            name: String::new(),
            is_podman: false,
            is_apart: false,
        };
        for here in ["unix:///a/b", "tcp://127.0.0.1:2375", "tcp://localhost:2375/", "http://[::1]:2375"] {
            assert!(!at(here).is_elsewhere(), "{here}");
        }
        for there in ["tcp://10.0.0.7:2375", "tcp://docker:2375/v1"] {
            assert!(at(there).is_elsewhere(), "{there}");
        }
    }

    #[test]
    fn podman_says_who_it_is_among_its_components() {
        let part = |name: &str| SystemVersionComponents { name: name.to_owned(), ..Default::default() };
        let with = |name| SystemVersion { components: Some(vec![part(name)]), ..Default::default() };
        assert!(names_podman(&with("Podman Engine")));
        assert!(!names_podman(&with("Engine")));
    }
}
