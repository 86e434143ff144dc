//! What a container of a lab is made of: what it may use, what its server is told, and where it reaches out.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkingConfig, PortBinding,
};
use secrecy::ExposeSecret;

use super::{
    super::{Limits, Product, Program, Server, not_run},
    images::Image,
    place::{Place, Way},
};
use crate::error::{Context, ExitCode, Result};

/// What the entry points of the usual images need to give the data to their server's own user; and root of a container
/// needs to write where a folder belongs to somebody else.
const CAPABILITIES: [&str; 8] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETPCAP", "SETUID"];
/// Processes and threads of one container.
const PROCESSES_MAX: i64 = 4096;
/// Where the password of Redis is put.
const REDIS_FOLDER: &str = "/etc";
const REDIS_FILE: &str = "lifeboat-lab.conf";
/// The least buffer pool that `InnoDB` takes.
const POOL_BYTES_MIN: u64 = 5 << 20;

/// What all containers of a lab have.
pub(super) struct Frame<'a> {
    pub limits: &'a Limits,
    pub labels: &'a HashMap<String, String>,
    pub place: &'a Place,
    pub is_podman: bool,
    /// This process's user and group, where root of a container is root of the host: what a program writes is theirs.
    pub owner: Option<String>,
}

impl Frame<'_> {
    fn host(&self) -> HostConfig {
        let memory = i64::try_from(self.limits.memory_bytes).unwrap_or(i64::MAX);
        let log = [("max-size", "1m"), ("max-file", "2")];
        let log = log.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        HostConfig {
            network_mode: Some(self.place.network.clone()),
            memory: Some(memory),
            // With swap it is the sum: no more than the memory itself.
            memory_swap: Some(memory),
            nano_cpus: self.limits.cpu_percent.map(|percent| i64::from(percent) * 10_000_000),
            pids_limit: Some(PROCESSES_MAX),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(CAPABILITIES.map(str::to_owned).into()),
            log_config: Some(HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(log) }),
            // Docker answers for names that it does not know by asking the host's own name servers, even from a
            // closed network. Nobody is there to be asked.
            dns: (!self.is_podman).then(|| vec!["127.0.0.1".to_owned()]),
            ..HostConfig::default()
        }
    }

    fn body(&self, image: &Image, aliases: Vec<String>) -> ContainerCreateBody {
        let endpoint = EndpointSettings { aliases: Some(aliases), ..EndpointSettings::default() };
        let endpoints = HashMap::from([(self.place.network.clone(), endpoint)]);
        ContainerCreateBody {
            image: Some(image.id.clone()),
            labels: Some(self.labels.clone()),
            networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
            ..ContainerCreateBody::default()
        }
    }

    /// Returns the container of a server.
    pub fn server(&self, server: &Server, image: &Image) -> ContainerCreateBody {
        let port = format!("{}/tcp", server.product.port());
        let data = data_folder(server.product).to_owned();
        let mut host = self.host();
        if self.place.way == Way::Published {
            let any = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
            host.port_bindings = Some(HashMap::from([(port.clone(), Some(vec![any]))]));
        }
        let mut volumes = None;
        if self.limits.data_in_memory {
            // It counts for the container's memory, so it needs no limit of its own.
            host.tmpfs = Some(HashMap::from([(data, format!("rw,size={}", self.limits.memory_bytes))]));
        } else {
            volumes = Some(vec![data]);
        }
        ContainerCreateBody {
            cmd: Some(command(server, self.limits)),
            env: Some(environment(server)),
            exposed_ports: Some(vec![port]),
            volumes,
            host_config: Some(host),
            ..self.body(image, vec![server.name.clone()])
        }
    }

    /// Returns the container of a program, which finds `hosts` by their names.
    pub fn program(
        &self,
        program: &Program,
        image: &Image,
        hosts: Vec<String>,
    ) -> Result<ContainerCreateBody> {
        let writable = program.writable.iter().map(|pair| (pair, false));
        let binds = program.read_only.iter().map(|pair| (pair, true)).chain(writable);
        let mut mounts = Vec::new();
        for ((from, to), read_only) in binds {
            let source = self.place.on_host(from).ok_or_else(|| {
                not_run(format!("`{}` lies inside lifeboat's own container", from.display()))
                    .hint("Mount a folder of the host there, so that the container engine can share it.")
            })?;
            mounts.push(Mount {
                target: Some(to.to_string_lossy().into_owned()),
                source: Some(source.to_string_lossy().into_owned()),
                typ: Some(MountType::BIND),
                read_only: Some(read_only),
                ..Mount::default()
            });
        }
        let mut body = self.body(image, Vec::new());
        let mut host = HostConfig { mounts: Some(mounts), extra_hosts: Some(hosts), ..self.host() };
        if program.is_alone {
            (host.network_mode, host.dns, host.extra_hosts) = (Some("none".to_owned()), None, None);
            body.networking_config = None;
        }
        let user = self.owner.clone().filter(|_| !program.writable.is_empty());
        if user.is_some() {
            // What this process may read by one of its groups, the program may too.
            let groups = rustix::process::getgroups().unwrap_or_default();
            host.group_add = Some(groups.iter().map(|group| group.as_raw().to_string()).collect());
        }
        Ok(ContainerCreateBody {
            // In place of the image's own entry point, which may be a program itself.
            entrypoint: Some(program.command.clone()),
            env: Some(program.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            host_config: Some(host),
            user,
            ..body
        })
    }
}

fn data_folder(product: Product) -> &'static str {
    match product {
        Product::Mysql | Product::Mariadb => "/var/lib/mysql",
        Product::Redis | Product::S3 => "/data",
    }
}

/// Returns the environment of a server, as its official image understands it. These passwords are seen by whoever may
/// look into containers. They were made for this lab, open nothing else, and who looks could read its data as well.
fn environment(server: &Server) -> Vec<String> {
    let password = server.password.expose_secret();
    match server.product {
        Product::Mysql | Product::Mariadb => {
            vec![format!("MYSQL_ROOT_PASSWORD={password}"), format!("MARIADB_ROOT_PASSWORD={password}")]
        }
        Product::S3 => vec![
            format!("MINIO_ROOT_USER={}", server.product.user()),
            format!("MINIO_ROOT_PASSWORD={password}"),
        ],
        Product::Redis => Vec::new(),
    }
}

/// Returns what a server is told: what a lab needs, what the policy adds, and then what the policy cannot undo, for of
/// two the last one counts.
fn command(server: &Server, limits: &Limits) -> Vec<String> {
    let is_database = matches!(server.product, Product::Mysql | Product::Mariadb);
    let mut command: Vec<String> = match server.product {
        Product::Mysql | Product::Mariadb => {
            let pool_bytes = (limits.memory_bytes / 3).max(POOL_BYTES_MIN);
            let mut all = [
                // What is restored is not changed again, and a crash loses nothing that is not in the repository.
                "--innodb-flush-log-at-trx-commit=2",
                "--sync-binlog=0",
                "--local-infile=ON",
                "--max-allowed-packet=1G",
                "--skip-name-resolve",
            ]
            .map(str::to_owned)
            .to_vec();
            all.push(format!("--innodb-buffer-pool-size={pool_bytes}"));
            all
        }
        Product::Redis => vec!["redis-server".to_owned(), format!("{REDIS_FOLDER}/{REDIS_FILE}")],
        Product::S3 => ["server", data_folder(server.product)].map(str::to_owned).into(),
    };
    command.extend(server.arguments.iter().cloned());
    if is_database {
        // Events of the restored stack must never fire in a drill, and nothing may be fed from one.
        command.extend(["--event-scheduler=OFF", "--skip-log-bin"].map(str::to_owned));
    }
    command
}

/// Returns a folder of the container and the archive to unpack there before the server starts. What stands in the
/// arguments of a process is shown to everybody on the host; so Redis reads its password from a file.
pub(super) fn files(server: &Server) -> Result<Option<(&'static str, Vec<u8>)>> {
    if server.product != Product::Redis {
        return Ok(None);
    }
    let text = redis_settings(server.password.expose_secret());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    // The server reads it as a user of its own.
    header.set_mode(0o444);
    let mut archive = tar::Builder::new(Vec::new());
    let appended = archive.append_data(&mut header, REDIS_FILE, text.as_bytes());
    let bytes = appended.and_then(|()| archive.into_inner());
    let bytes = bytes
        .failed(ExitCode::DrillNotRun, || format!("failed to write the settings of `{}`", server.name))?;
    Ok(Some((REDIS_FOLDER, bytes)))
}

fn redis_settings(password: &str) -> String {
    let quoted = password.bytes().fold(String::new(), |text, byte| text + "\\x" + &hex::encode([byte]));
    let folder = data_folder(Product::Redis);
    format!(
        "bind * -::*\nprotected-mode no\ndir {folder}\nappendonly yes\nsave \"\"\nrequirepass \"{quoted}\"\n"
    )
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;

    fn limits() -> Limits {
        Limits {
            memory_bytes: 300 << 20,
            cpu_percent: Some(150),
            data_in_memory: false,
            start: Duration::from_mins(1),
            lifetime: Duration::from_mins(1),
        }
    }

    fn server(product: Product) -> Server {
        Server {
            name: "db".to_owned(),
            product,
            image: "image".to_owned(),
            arguments: vec!["--one-more".to_owned()],
            password: "pass \"word".into(),
        }
    }

    fn made<T>(way: Way, limits: &Limits, make: impl FnOnce(&Frame<'_>, &Image) -> T) -> T {
        let place = Place { network: "lab".to_owned(), way };
        let image = Image { id: "sha256:11".to_owned(), shown: String::new() };
        make(&Frame { limits, labels: &HashMap::new(), place: &place, is_podman: false, owner: None }, &image)
    }

    fn program() -> Program {
        Program {
            name: "look".to_owned(),
            image: None,
            beside: None,
            command: vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()],
            environment: BTreeMap::from([("A".to_owned(), "1=2".to_owned())]),
            read_only: vec![("/srv/a".into(), "/a".into())],
            writable: vec![("/srv/b".into(), "/b".into())],
            is_alone: false,
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_server_has_its_limits_and_no_port_of_the_host() {
        let body = made(Way::Address, &limits(), |frame, image| frame.server(&server(Product::Mysql), image));
        let host = body.host_config.unwrap();
        assert_eq!((host.memory, host.memory_swap), (Some(300 << 20), Some(300 << 20)));
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(1_500_000_000), Some(PROCESSES_MAX)));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!((host.port_bindings, host.tmpfs), (None, None));
        assert_eq!(body.volumes, Some(vec!["/var/lib/mysql".to_owned()]));
        let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
        assert_eq!(endpoints["lab"].aliases, Some(vec!["db".to_owned()]));
    }

    #[test]
    fn data_may_lie_in_memory_and_ports_on_the_loopback_address_alone() {
        let limits = Limits { data_in_memory: true, ..limits() };
        let body = made(Way::Published, &limits, |frame, image| frame.server(&server(Product::Redis), image));
        let host = body.host_config.unwrap();
        assert_eq!((body.volumes, host.tmpfs.unwrap()["/data"].as_str()), (None, "rw,size=314572800"));
        let bindings = host.port_bindings.unwrap();
        assert_eq!(bindings["6379/tcp"].as_ref().unwrap()[0].host_ip.as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn the_policy_may_change_what_a_server_is_told_but_not_wake_its_events() {
        for product in [Product::Mysql, Product::Mariadb] {
            let told = command(&server(product), &limits());
            let at = |argument: &str| told.iter().position(|one| one == argument).unwrap();
            assert!(at("--innodb-buffer-pool-size=104857600") < at("--one-more"));
            assert_eq!(told[at("--one-more") + 1..], ["--event-scheduler=OFF", "--skip-log-bin"]);
        }
        let s3 = command(&server(Product::S3), &limits());
        assert_eq!(s3, ["server", "/data", "--one-more"]);
    }

    #[test]
    fn the_password_of_redis_is_neither_an_argument_nor_in_the_environment() {
        let body = made(Way::Address, &limits(), |frame, image| frame.server(&server(Product::Redis), image));
        assert_eq!(body.env, Some(Vec::new()));
        assert_eq!(body.cmd.unwrap(), ["redis-server", "/etc/lifeboat-lab.conf", "--one-more"]);
        let (folder, archive) = files(&server(Product::Redis)).unwrap().unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!((folder, entry.path().unwrap().to_str()), ("/etc", Some(REDIS_FILE)));
        assert!(redis_settings("a \"").contains("requirepass \"\\x61\\x20\\x22\"\n"));
    }

    #[test]
    fn a_program_takes_the_place_of_the_entry_point_and_sees_what_it_may() {
        let body = made(Way::Address, &limits(), |frame, image| {
            frame.program(&program(), image, vec!["db:172.30.0.2".to_owned()])
        })
        .unwrap();
        assert_eq!(body.entrypoint.unwrap(), ["sh", "-c", "true"]);
        assert_eq!(body.env.unwrap(), ["A=1=2"]);
        let host = body.host_config.unwrap();
        assert_eq!(host.extra_hosts.unwrap(), ["db:172.30.0.2"]);
        let mounts = host.mounts.unwrap();
        let seen: Vec<_> = mounts.iter().map(|one| (one.source.as_deref(), one.read_only)).collect();
        assert_eq!(seen, [(Some("/srv/a"), Some(true)), (Some("/srv/b"), Some(false))]);
    }

    #[test]
    fn a_program_that_is_alone_has_no_network() {
        let alone = Program { is_alone: true, ..program() };
        let body =
            made(Way::Address, &limits(), |frame, image| frame.program(&alone, image, Vec::new())).unwrap();
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!((host.dns, body.networking_config), (None, None));
    }

    #[test]
    fn what_a_program_writes_belongs_to_who_runs_lifeboat() {
        let user = |program: Program, owner: Option<&str>| {
            made(Way::Address, &limits(), |frame, image| {
                let owner = owner.map(str::to_owned);
                let frame =
                    Frame { owner, limits: frame.limits, labels: frame.labels, place: frame.place, ..*frame };
                frame.program(&program, image, Vec::new()).unwrap().user
            })
        };
        assert_eq!(user(program(), Some("1000:100")).as_deref(), Some("1000:100"));
        assert_eq!(user(Program { writable: Vec::new(), ..program() }, Some("1000:100")), None);
        assert_eq!(user(program(), None), None, "root of the container is this very user");
    }

    #[test]
    fn a_folder_inside_the_own_container_cannot_be_shared() {
        let refused = made(Way::Attached(Vec::new()), &limits(), |frame, image| {
            frame.program(&program(), image, Vec::new())
        });
        assert_eq!(refused.unwrap_err().exit(), ExitCode::DrillNotRun);
    }
}
