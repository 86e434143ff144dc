//! Redis servers of a test's own: real ones in containers, gone when the test ends.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test's support ends the test")]

pub mod sentinels;

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lifeboat::{
    clock::Ground,
    event::{NoMonitor, SharedMonitor},
    names::SourceName,
    policy::{RedisConfig, SecretRef},
    redis::{RedisSource, RedisTarget},
};
use redis::IntoConnectionInfo as _;

/// A password that programs must quote, escape and encode rightly (R13).
pub const PASSWORD: &str = "not secret: $HOME \"quoted\" %41 密é";

/// The password of ACL users.
pub const USER_PASSWORD: &str = "pw";

/// How long a fresh server may take to answer.
const READY_SECONDS_MAX: u64 = 90;

/// A server in a container.
pub struct Lab {
    container: String,
    port: u16,
    secret: tempfile::NamedTempFile,
    user_secret: tempfile::NamedTempFile,
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(docker(&["rm", "-fv", &self.container]));
    }
}

fn docker(words: &[&str]) -> Result<String, String> {
    let out = Command::new("docker").args(words).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

/// A network for containers that talk to each other by their addresses: where one dies, no other test's takes its
/// place.
pub struct Network(String);

impl Drop for Network {
    fn drop(&mut self) {
        drop(docker(&["network", "rm", &self.0]));
    }
}

impl Network {
    /// Makes one.
    pub fn make() -> Self {
        let name = format!("lifeboat-test-{}", Ground::system().hex(6));
        docker(&["network", "create", "--label", "lifeboat.test=redis", &name]).unwrap();
        Self(name)
    }

    /// Returns the addresses that its first containers get.
    pub fn addresses(&self) -> Vec<String> {
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        let gateway = docker(&["network", "inspect", "-f", format, &self.0]).unwrap();
        let (net, _) = gateway.rsplit_once('.').unwrap();
        (2..10).map(|host| format!("{net}.{host}")).collect()
    }

    /// Returns the words with which a container joins it.
    pub fn words(&self) -> [&str; 2] {
        ["--network", &self.0]
    }
}

/// Returns the address of a container in its one network.
fn address_of(container: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    docker(&["inspect", "-f", format, container]).unwrap()
}

impl Lab {
    /// Starts a server of a major version, `7` or `8`, with `appendonly yes` and the awkward password.
    pub async fn start(major: u8) -> Self {
        Self::start_with(major, &["--appendonly", "yes", "--requirepass", PASSWORD]).await
    }

    /// Starts a server with settings of its own.
    pub async fn start_with(major: u8, settings: &[&str]) -> Self {
        Self::start_sharing(major, None, settings).await
    }

    /// Starts a server that sees a folder of this machine as `/shared`.
    pub async fn start_sharing(major: u8, folder: Option<&Path>, settings: &[&str]) -> Self {
        Self::start_image(&format!("redis{major}"), folder, settings).await
    }

    /// Starts a Valkey server with `appendonly yes` and the awkward password.
    pub async fn valkey() -> Self {
        Self::start_image("valkey9", None, &["--appendonly", "yes", "--requirepass", PASSWORD]).await
    }

    /// Starts a server of one of the images of `fixtures/images`.
    pub async fn start_image(image: &str, folder: Option<&Path>, settings: &[&str]) -> Self {
        let share = folder.map(|folder| format!("{}:/shared", folder.display()));
        let words: Vec<&str> = share.iter().flat_map(|share| ["-v", share.as_str()]).collect();
        Self::start_as(image, &words, settings).await
    }

    /// Starts a server of one of the images with words for the container engine.
    pub async fn start_as(image: &str, engine: &[&str], settings: &[&str]) -> Self {
        let variable = format!("{}_IMAGE", image.to_uppercase());
        let tagged = std::env::var(&variable).unwrap_or_else(|_| format!("lifeboat-{image}:latest"));
        let container = format!("lifeboat-test-{image}-{}", Ground::system().hex(6));
        let product = if image.starts_with("valkey") { "valkey" } else { "redis" };
        let program = format!("{product}-server");
        let mut words = vec!["run", "-d", "--name", &container, "--label", "lifeboat.test=redis"];
        words.extend(engine);
        words.extend(["-p", "127.0.0.1::6379", "-p", "127.0.0.1::6380"]);
        words.extend([tagged.as_str(), program.as_str(), "--enable-debug-command", "yes"]);
        // A server waits for more replicas before it sends a dump; nobody here needs that.
        words.extend(["--repl-diskless-sync-delay", "0"]);
        words.extend(settings);
        docker(&words).unwrap_or_else(|error| panic!("a {image} container cannot start: {error}"));
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        secret.write_all(PASSWORD.as_bytes()).unwrap();
        let mut user_secret = tempfile::NamedTempFile::new().unwrap();
        user_secret.write_all(USER_PASSWORD.as_bytes()).unwrap();
        let mut lab = Self { container, port: 0, secret, user_secret };
        lab.wait().await;
        lab
    }

    /// Stops and starts the server, as a reboot of the host would.
    pub async fn restart(&mut self) {
        docker(&["restart", "-t", "10", &self.container]).unwrap();
        self.wait().await;
    }

    /// Kills the server without a chance to write anything, and starts it again.
    pub async fn crash(&mut self) {
        docker(&["kill", "-s", "KILL", &self.container]).unwrap();
        docker(&["start", &self.container]).unwrap();
        self.wait().await;
    }

    /// Stops the server for good; its address stays known.
    pub fn stop(&self) {
        docker(&["stop", "-t", "2", &self.container]).unwrap();
    }

    /// Returns the port of this machine that leads to a port of the container.
    pub fn published(&self, inside: u16) -> Option<u16> {
        let published = docker(&["port", &self.container, &format!("{inside}/tcp")]).ok()?;
        published.lines().next()?.rsplit(':').next()?.parse().ok()
    }

    /// Returns the address under which the container reaches this machine.
    pub fn gateway(&self) -> String {
        docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", &self.container])
            .unwrap()
    }

    /// Waits until the server answers through its published port.
    async fn wait(&mut self) {
        let until = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        loop {
            let published = docker(&["port", &self.container, "6379/tcp"]).unwrap_or_default();
            if let Some(port) =
                published.lines().next().and_then(|line| line.rsplit(':').next()?.parse().ok())
            {
                self.port = port;
                if let Ok(mut connection) = self.try_connect(0).await
                    && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
                {
                    return;
                }
            }
            assert!(
                Instant::now() < until,
                "the server does not answer: {:?}",
                docker(&["logs", &self.container])
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn try_connect(&self, db: i64) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let info = redis::RedisConnectionInfo::default().set_db(db).set_password(PASSWORD);
        let address = redis::ConnectionAddr::Tcp("127.0.0.1".into(), self.port);
        let info = address.into_connection_info()?.set_redis_settings(info);
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
        redis::Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Connects to a database; a machine with much to do may let the first attempts time out.
    pub async fn connect(&self, db: i64) -> redis::aio::MultiplexedConnection {
        let until = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        loop {
            match self.try_connect(db).await {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < until, "no connection: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs one command in a database.
    pub async fn run<T: redis::FromRedisValue>(&self, db: i64, words: &[&[u8]]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let answer = command.query_async(&mut self.connect(db).await).await;
        answer.unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(words[0])))
    }

    /// Runs a command written as words without blanks.
    pub async fn say<T: redis::FromRedisValue>(&self, db: i64, line: &str) -> T {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.run(db, &words).await
    }

    /// Returns the settings with which the engine reaches it.
    pub fn config(&self) -> RedisConfig {
        RedisConfig {
            url: format!("redis://127.0.0.1:{}", self.port),
            password: Some(SecretRef::File(self.secret.path().to_owned())),
            ..RedisConfig::default()
        }
    }

    /// Makes or changes an ACL user and returns the settings with which the engine is that user.
    pub async fn as_user(&self, name: &str, rights: &str) -> RedisConfig {
        let _: () = self.say(0, &format!("ACL SETUSER {name} reset on >{USER_PASSWORD} {rights}")).await;
        let password = Some(SecretRef::File(self.user_secret.path().to_owned()));
        RedisConfig { user: Some(name.to_owned()), password, ..self.config() }
    }

    /// Returns the server as a source.
    pub fn source(&self) -> Box<RedisSource> {
        Box::new(RedisSource::new(name(), self.config(), Ground::system(), NoMonitor::shared()))
    }

    /// Returns the server as a target.
    pub fn target(&self) -> Box<RedisTarget> {
        self.target_heard_by(NoMonitor::shared())
    }

    /// Returns the server as a target whose events `monitor` hears.
    pub fn target_heard_by(&self, monitor: SharedMonitor) -> Box<RedisTarget> {
        Box::new(RedisTarget::new(name(), self.config(), Ground::system(), monitor))
    }

    /// Stores one key of every type and encoding, in several databases, some binary, some expiring.
    pub async fn fill(&self, major: u8) {
        let mut pipe = redis::pipe();
        for n in 0..2000 {
            pipe.cmd("SET").arg(format!("k:{n}")).arg(format!("value {n}")).ignore();
        }
        pipe.cmd("SET").arg(b"bin\x00\xff\r\n\xfe").arg(vec![0_u8, 255, 10, 13, 128]).ignore();
        pipe.cmd("SET").arg("int").arg(-123_456).ignore();
        pipe.cmd("SET").arg("packed").arg("a".repeat(5000)).ignore();
        pipe.cmd("SET").arg("big").arg(vec![7_u8; 3 << 20]).ignore();
        pipe.cmd("SET").arg("ttl").arg("x").arg("EX").arg(86_400).ignore();
        pipe.cmd("RPUSH").arg("list").arg(&["a", "1", "-70000", &"b".repeat(300)]).ignore();
        pipe.cmd("RPUSH")
            .arg("longlist")
            .arg((0..3000).map(|n| format!("m{n}")).collect::<Vec<_>>())
            .ignore();
        pipe.cmd("RPUSH").arg("plainlist").arg("c".repeat(20_000)).arg("d").ignore();
        pipe.cmd("SADD").arg("ints").arg(&[1, 2, -3, 70_000]).ignore();
        pipe.cmd("SADD").arg("smallset").arg(&["a", "b", "7"]).ignore();
        pipe.cmd("SADD").arg("bigset").arg((0..1000).map(|n| format!("m{n}")).collect::<Vec<_>>()).ignore();
        pipe.cmd("ZADD").arg("smallz").arg("1.5").arg("a").arg("-inf").arg("b").arg("3").arg("c").ignore();
        for n in 0..300 {
            pipe.cmd("ZADD").arg("bigz").arg(f64::from(n) / 7.0).arg(format!("m{n}")).ignore();
            pipe.cmd("HSET").arg("bigh").arg(format!("f{n}")).arg(n).ignore();
        }
        pipe.cmd("HSET").arg("smallh").arg("f").arg("v").arg("n").arg(42).ignore();
        pipe.cmd("PFADD").arg("hll").arg("a").arg("b").ignore();
        pipe.cmd("SETBIT").arg("bits").arg(100_003).arg(1).ignore();
        pipe.cmd("BITFIELD").arg("bitfield").arg("SET").arg("i5").arg("#9").arg(-7).ignore();
        pipe.cmd("GEOADD").arg("geo").arg("13.36").arg("38.11").arg("Palermo").ignore();
        add_streams(&mut pipe);
        pipe.cmd("FUNCTION")
            .arg("LOAD")
            .arg("#!lua name=mylib\nredis.register_function('f', function() return 7 end)")
            .ignore();
        if major >= 8 {
            pipe.cmd("HSET").arg("hfe").arg("a").arg(1).arg("b").arg(2).ignore();
            pipe.cmd("HEXPIRE").arg("hfe").arg(90_000).arg("FIELDS").arg(1).arg("a").ignore();
            for n in 0..600 {
                pipe.cmd("HSET").arg("bighfe").arg(format!("f{n}")).arg(n).ignore();
            }
            pipe.cmd("HEXPIRE").arg("bighfe").arg(90_000).arg("FIELDS").arg(2).arg("f1").arg("f2").ignore();
            pipe.cmd("VADD").arg("vectors").arg("VALUES").arg(3).arg("1").arg("2").arg("3").arg("e").ignore();
        }
        pipe.query_async::<()>(&mut self.connect(0).await).await.unwrap();
        for db in [3, 15] {
            let _: () =
                self.run(db, &[b"SET", format!("only-in-{db}").as_bytes(), b"x", b"EX", b"90000"]).await;
        }
    }

    /// Changes how much of a processor the server has.
    pub fn limit_cpus(&self, cpus: &str) {
        docker(&["update", "--cpus", cpus, &self.container]).unwrap();
    }

    /// Starts the server, which may be down, and waits until it answers.
    pub async fn again(&mut self) {
        docker(&["start", &self.container]).unwrap();
        self.wait().await;
    }

    /// Returns what kills the server.
    pub fn killer(&self) -> impl Fn() + Send + Sync + 'static {
        let container = self.container.clone();
        move || drop(docker(&["kill", "-s", "KILL", &container]))
    }

    /// Returns the container's own address.
    pub fn address(&self) -> String {
        address_of(&self.container)
    }

    /// Runs a command inside the container, whatever became of its ports.
    pub fn inside(&self, words: &[&str]) -> String {
        let client = ["exec", "-e", &format!("REDISCLI_AUTH={PASSWORD}"), &self.container, "redis-cli"];
        docker(&[&client[..], words].concat()).unwrap()
    }

    /// Waits until a section of `INFO` has a line that begins so.
    pub async fn until(&self, section: &str, line: &str) {
        let mut connection = self.connect(0).await;
        let until = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        loop {
            let told = redis::cmd("INFO").arg(section).query_async::<String>(&mut connection).await;
            if told.as_ref().is_ok_and(|told| told.lines().any(|told| told.starts_with(line))) {
                return;
            }
            assert!(Instant::now() < until, "no {line} in {told:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            if told.is_err() {
                // Sentinels end all connections of a server whose role they change.
                connection = self.connect(0).await;
            }
        }
    }

    /// Waits until the server serves the slots of its cluster.
    pub async fn until_clustered(&self) {
        while !self.say::<String>(0, "CLUSTER INFO").await.contains("cluster_state:ok") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns a connection that can listen to channels.
    pub async fn subscriber(&self) -> redis::aio::PubSub {
        let info = redis::RedisConnectionInfo::default().set_password(PASSWORD);
        let address = redis::ConnectionAddr::Tcp("127.0.0.1".into(), self.port);
        let info = address.into_connection_info().unwrap().set_redis_settings(info);
        redis::Client::open(info).unwrap().get_async_pubsub().await.unwrap()
    }

    /// Returns how many keys there are, by database.
    pub async fn sizes(&self) -> Vec<(i64, u64)> {
        let mut sizes = Vec::new();
        for db in 0..16 {
            let count: u64 = self.say(db, "DBSIZE").await;
            if count > 0 {
                sizes.push((db, count));
            }
        }
        sizes
    }

    /// Returns what runs the server's own client, for where nothing can be awaited.
    pub fn client(&self) -> impl Fn(&[&str]) + Send + Sync + use<> {
        let container = self.container.clone();
        move |words| {
            let login = format!("REDISCLI_AUTH={PASSWORD}");
            let client = ["exec", "-e", login.as_str(), container.as_str(), "redis-cli"];
            docker(&[&client[..], words].concat()).unwrap();
        }
    }

    /// Kills the server for good, without a chance to say so.
    pub fn kill(&self) {
        docker(&["kill", "-s", "KILL", &self.container]).unwrap();
    }

    /// Runs a program in the server's container and returns what it says.
    pub fn exec(&self, words: &[&str]) -> Result<String, String> {
        docker(&[&["exec", &self.container], words].concat())
    }
}

/// A cluster of three primaries, each in a container; node `n` has the `n`th third of the slots.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Lab>,
    network: Network,
    settings: Vec<String>,
}

impl Cluster {
    /// Slots of each node, first and last.
    const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

    /// Starts one and waits until every node knows all others.
    pub async fn start(major: u8) -> Self {
        Self::start_in(major, Network::make(), &[], &[]).await
    }

    /// Starts one in a network, with words for the container engine and settings of its own.
    pub async fn start_in(major: u8, network: Network, engine: &[&str], settings: &[&str]) -> Self {
        const SETTINGS: [&str; 8] = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--requirepass",
            PASSWORD,
            "--masterauth",
            PASSWORD,
        ];
        let image = format!("redis{major}");
        let words = [&network.words(), engine].concat();
        let settings = [&SETTINGS[..], settings].concat();
        let port = if settings.contains(&"--tls-cluster") { "6380" } else { "6379" };
        let starting = Self::SLOTS.map(|_| Lab::start_as(&image, &words, &settings));
        let mut nodes = Vec::new();
        for (node, (first, last)) in
            futures_util::future::join_all(starting).await.into_iter().zip(Self::SLOTS)
        {
            let _: () = node.say(0, &format!("CONFIG SET cluster-announce-ip {}", node.address())).await;
            let _: () = node.say(0, &format!("CLUSTER ADDSLOTSRANGE {first} {last}")).await;
            let _: () = node.say(0, &format!("CLUSTER SET-CONFIG-EPOCH {}", nodes.len() + 1)).await;
            nodes.push(node);
        }
        for other in &nodes[1..] {
            let _: () = nodes[0].say(0, &format!("CLUSTER MEET {} {port}", other.address())).await;
        }
        let settings = settings.iter().map(|word| (*word).to_owned()).collect();
        let cluster = Self { nodes, network, settings };
        cluster.wait().await;
        cluster
    }

    /// Starts a replica of a node, which holds something, and waits until it has caught up and the others know it.
    pub async fn follow(&self, node: usize) -> Lab {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let replica = Lab::start_as("redis7", &self.network.words(), &settings).await;
        let address = replica.address();
        let _: () = replica.say(0, &format!("CONFIG SET cluster-announce-ip {address}")).await;
        let _: () = replica.say(0, &format!("CLUSTER MEET {} 6379", self.nodes[0].address())).await;
        let (id, until) = (self.id(node).await, Instant::now() + Duration::from_secs(READY_SECONDS_MAX));
        while !replica.say::<String>(0, "CLUSTER NODES").await.contains(&id) {
            assert!(Instant::now() < until, "the replica does not meet its primary");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let _: () = replica.say(0, &format!("CLUSTER REPLICATE {id}")).await;
        replica.until("replication", "master_link_status:up").await;
        for node in &self.nodes {
            while !node.inside(&["CLUSTER", "NODES"]).contains(&format!("{address}:6379@16379 slave {id}")) {
                assert!(Instant::now() < until, "the cluster does not know the replica");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        // Until its offset has gone round, it is said to be loading.
        while self.nodes[0].inside(&["CLUSTER", "SHARDS"]).contains("loading") {
            assert!(Instant::now() < until, "the cluster does not hear of the replica's offset");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        replica
    }

    async fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        for node in &self.nodes {
            loop {
                let info: String = node.say(0, "CLUSTER INFO").await;
                if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                    break;
                }
                assert!(Instant::now() < until, "the cluster does not come together: {info}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Returns the settings with which the engine reaches it, by the address that a node announces.
    pub fn config(&self) -> RedisConfig {
        RedisConfig { url: format!("redis://{}:6379", self.nodes[0].address()), ..self.nodes[0].config() }
    }

    /// Returns the name that the cluster has for a node.
    pub async fn id(&self, node: usize) -> String {
        self.nodes[node].say(0, "CLUSTER MYID").await
    }
}

/// Adds streams with groups, with pending entries, and such whose counters tell of entries that are gone.
fn add_streams(pipe: &mut redis::Pipeline) {
    for n in 1..=300 {
        pipe.cmd("XADD").arg("stream").arg(format!("{n}-1")).arg("f").arg(n).ignore();
    }
    pipe.cmd("XDEL").arg("stream").arg("5-1").ignore();
    pipe.cmd("XGROUP").arg("CREATE").arg("stream").arg("g").arg("0").ignore();
    pipe.cmd("XREADGROUP")
        .arg("GROUP")
        .arg("g")
        .arg("alice")
        .arg("COUNT")
        .arg(7)
        .arg("STREAMS")
        .arg("stream")
        .arg(">")
        .ignore();
    pipe.cmd("XACK").arg("stream").arg("g").arg("2-1").ignore();
    pipe.cmd("XGROUP").arg("CREATECONSUMER").arg("stream").arg("g").arg("idle").ignore();
    pipe.cmd("XTRIM").arg("stream").arg("MINID").arg("=").arg("120-1").ignore();
    pipe.cmd("XGROUP").arg("CREATE").arg("empty").arg("g").arg("$").arg("MKSTREAM").ignore();
    for n in 1..=5 {
        pipe.cmd("XADD").arg("trimmed").arg(format!("{n}-1")).arg("f").arg(n).ignore();
    }
    pipe.cmd("XTRIM").arg("trimmed").arg("MAXLEN").arg(0).ignore();
    pipe.cmd("XSETID").arg("trimmed").arg("9-9").arg("ENTRIESADDED").arg(50).ignore();
}

/// Returns the name that the source has in these tests.
pub fn name() -> SourceName {
    SourceName::new("redis").unwrap()
}
