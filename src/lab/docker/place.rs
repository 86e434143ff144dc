//! The network of a lab, and the way into it.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use bollard::{
    Docker,
    errors::Error,
    models::{
        ContainerInspectResponse, EndpointSettings, MountPoint, NetworkConnectRequest, NetworkCreateRequest,
        NetworkSettings,
    },
    query_parameters::InspectContainerOptions,
};

use super::{super::not_run, engine::Engine};
use crate::error::{Context, ExitCode, Result};

/// Bytes of a bridge's name that docker takes of its network's id.
const BRIDGE_ID_BYTES: usize = 12;
/// Hexadecimal digits of a container's id.
const ID_DIGITS: usize = 64;

/// How this process reaches a server of the lab.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Way {
    /// At the container's address: the network is of this host.
    Address,
    /// At the container's address, because this process's own container was attached; with what is mounted there.
    Attached(Vec<MountPoint>),
    /// By a port of the loopback address.
    Published,
}

/// A lab's network.
pub(super) struct Place {
    /// Its name.
    pub network: String,
    /// How it is reached.
    pub way: Way,
}

impl Place {
    /// Makes the network, and attaches this process's container if it runs in one.
    pub async fn make(
        engine: &Engine,
        network: &str,
        labels: &HashMap<String, String>,
        must_publish: bool,
    ) -> Result<Self> {
        let make = |way| Self { network: network.to_owned(), way };
        let failed = || format!("failed to make the network `{network}`");
        let docker = &engine.docker;
        if !must_publish {
            let own = own_container(docker).await;
            let is_closed = own.is_some() || !engine.is_apart && !engine.is_elsewhere();
            if is_closed {
                let created = docker.create_network(request(network, labels, true)).await;
                let id = created.failed(ExitCode::DrillNotRun, failed)?.id;
                if let Some(own) = own {
                    attach(docker, &id, &own).await.failed(ExitCode::DrillNotRun, || {
                        format!("failed to attach this process's container to the network `{network}`")
                    })?;
                    return Ok(make(Way::Attached(own.mounts.unwrap_or_default())));
                }
                if engine.is_podman || has_bridge(&id) {
                    return Ok(make(Way::Address));
                }
                docker.remove_network(&id).await.failed(ExitCode::DrillNotRun, failed)?;
            }
        }
        if engine.is_elsewhere() {
            return Err(not_run(format!("the engine at `{}` is on another machine", engine.address))
                .hint("Drill on that machine, or let lifeboat run there in a container of its own."));
        }
        // Podman's closed networks can be published; docker's cannot.
        let created = docker.create_network(request(network, labels, engine.is_podman)).await;
        created.failed(ExitCode::DrillNotRun, failed)?;
        Ok(make(Way::Published))
    }

    /// Returns where this process reaches `port` of a container.
    pub fn reach(&self, found: &NetworkSettings, port: u16) -> Option<SocketAddr> {
        if self.way == Way::Published {
            let bindings = found.ports.as_ref()?.get(&format!("{port}/tcp"))?.as_ref()?;
            let port = bindings.iter().find_map(|one| one.host_port.as_ref()?.parse().ok())?;
            return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        Some(SocketAddr::from((self.address(found)?, port)))
    }

    /// Returns a container's address in the network.
    pub fn address(&self, found: &NetworkSettings) -> Option<IpAddr> {
        found.networks.as_ref()?.get(&self.network)?.ip_address.as_ref()?.parse().ok()
    }

    /// Returns the path by which the engine finds what this process has at `path`; `None` if it does not.
    pub fn on_host(&self, path: &Path) -> Option<PathBuf> {
        match &self.way {
            Way::Attached(mounts) => through(mounts, path),
            Way::Address | Way::Published => Some(path.to_owned()),
        }
    }
}

fn request(network: &str, labels: &HashMap<String, String>, is_closed: bool) -> NetworkCreateRequest {
    // An open network whose addresses are not translated: what leaves it finds no way back.
    let masked = ("com.docker.network.bridge.enable_ip_masquerade".to_owned(), "false".to_owned());
    NetworkCreateRequest {
        name: network.to_owned(),
        driver: Some("bridge".to_owned()),
        internal: Some(is_closed),
        enable_ipv6: Some(false),
        options: (!is_closed).then(|| HashMap::from([masked])),
        labels: Some(labels.clone()),
        ..NetworkCreateRequest::default()
    }
}

/// Returns whether docker's network `id` has its bridge among this host's interfaces. If not, its addresses are those
/// of another place, and what answers at one of them here would be somebody else.
fn has_bridge(id: &str) -> bool {
    let name = id.get(..BRIDGE_ID_BYTES).unwrap_or(id);
    Path::new("/sys/class/net").join(format!("br-{name}")).exists()
}

async fn attach(docker: &Docker, network: &str, own: &ContainerInspectResponse) -> Result<(), Error> {
    let request = NetworkConnectRequest {
        container: own.id.clone().unwrap_or_default(),
        endpoint_config: Some(EndpointSettings::default()),
    };
    docker.connect_network(network, request).await
}

/// Returns the container that this process runs in, if the engine knows it and it has a network of its own.
async fn own_container(docker: &Docker) -> Option<ContainerInspectResponse> {
    if !["/.dockerenv", "/run/.containerenv"].into_iter().any(|mark| Path::new(mark).exists()) {
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for id in own_ids(&mounts, &host) {
        if let Ok(found) = docker.inspect_container(&id, None::<InspectContainerOptions>).await {
            let mode = found.host_config.as_ref().and_then(|config| config.network_mode.as_deref());
            return (mode != Some("host")).then_some(found);
        }
    }
    None
}

/// Returns what may be the id of the container that this process runs in: in the path of a file that the engine mounts
/// into each, and the usual name of the host.
fn own_ids(mountinfo: &str, hostname: &str) -> Vec<String> {
    let is_hex = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit());
    let mounted = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let is_usual = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].contains(&at);
        is_usual.then(|| root.split('/').find(|part| part.len() == ID_DIGITS && is_hex(part)))?
    });
    let mut ids: Vec<String> = mounted.map(str::to_owned).collect();
    if hostname.len() == BRIDGE_ID_BYTES && is_hex(hostname) {
        ids.push(hostname.to_owned());
    }
    ids.dedup();
    ids
}

/// Returns where on the host a path of a container lies, by what is mounted there.
fn through(mounts: &[MountPoint], path: &Path) -> Option<PathBuf> {
    let inside = |mount: &MountPoint| {
        let rest = path.strip_prefix(mount.destination.as_ref()?).ok()?;
        let source = Path::new(mount.source.as_ref().filter(|source| !source.is_empty())?);
        Some((mount.destination.as_ref()?.len(), source.join(rest)))
    };
    mounts.iter().filter_map(inside).max_by_key(|(length, _)| *length).map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use bollard::models::PortBinding;

    use super::*;

    #[test]
    fn a_process_in_a_container_finds_its_id() {
        let id = "4f".repeat(32);
        let docker = format!(
            "700 690 0:30 / / rw - overlay overlay rw\n\
             710 700 8:1 /var/lib/docker/containers/{id}/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n\
             711 700 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"
        );
        assert_eq!(own_ids(&docker, "lifeboat"), std::slice::from_ref(&id));
        let podman =
            format!("7 6 0:5 /overlay-containers/{id}/userdata/hosts /etc/hosts rw - tmpfs tmpfs rw\n");
        assert_eq!(own_ids(&podman, "0123456789ab"), [id.clone(), "0123456789ab".to_owned()]);
        let volume = format!("7 6 8:1 /volumes/{id}/_data /data rw - ext4 /dev/sda1 rw\n");
        assert!(own_ids(&volume, "mysql").is_empty());
        assert!(own_ids("", "vm").is_empty());
    }

    #[test]
    fn what_is_mounted_is_found_on_the_host() {
        let mount = |destination: &str, source: &str| MountPoint {
            destination: Some(destination.to_owned()),
            source: Some(source.to_owned()),
            ..MountPoint::default()
        };
        let mounts = [mount("/data", "/srv/data"), mount("/data/lab", "/mnt/lab"), mount("/tmp", "")];
        let found = |path: &str| through(&mounts, Path::new(path));
        assert_eq!(found("/data/a/b"), Some("/srv/data/a/b".into()));
        assert_eq!(found("/data/lab/a"), Some("/mnt/lab/a".into()));
        assert_eq!(found("/database"), None);
        assert_eq!(found("/tmp/a"), None);
    }

    #[test]
    fn a_server_is_reached_at_its_address_or_by_its_port() {
        let endpoint = EndpointSettings { ip_address: Some("172.30.0.2".to_owned()), ..Default::default() };
        let binding =
            PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some("40001".to_owned()) };
        let found = NetworkSettings {
            networks: Some(HashMap::from([("lab".to_owned(), endpoint)])),
            ports: Some(HashMap::from([("3306/tcp".to_owned(), Some(vec![binding]))])),
            ..NetworkSettings::default()
        };
        let place = |way| Place { network: "lab".to_owned(), way };
        let reach = |way| place(way).reach(&found, 3306).map(|address| address.to_string());
        assert_eq!(reach(Way::Address).as_deref(), Some("172.30.0.2:3306"));
        assert_eq!(reach(Way::Attached(Vec::new())).as_deref(), Some("172.30.0.2:3306"));
        assert_eq!(reach(Way::Published).as_deref(), Some("127.0.0.1:40001"));
        assert_eq!(place(Way::Published).reach(&found, 6379), None);
    }

    #[test]
    fn a_network_is_closed_or_leads_nowhere() {
        let closed = request("lab", &HashMap::new(), true);
        assert_eq!((closed.internal, closed.options), (Some(true), None));
        let open = request("lab", &HashMap::new(), false);
        assert_eq!(open.options.unwrap()["com.docker.network.bridge.enable_ip_masquerade"], "false");
    }
}
