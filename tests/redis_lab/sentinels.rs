//! A primary, its replica and three Sentinels that watch them.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use lifeboat::{
    clock::Ground,
    policy::{RedisConfig, SecretRef},
};
use redis::IntoConnectionInfo as _;

use super::{Lab, Network, PASSWORD, READY_SECONDS_MAX, address_of, docker};

/// The name under which the Sentinels watch the primary.
pub const NAME: &str = "cache-main";
/// The Sentinels' own password.
const SENTINEL_PASSWORD: &str = "who watches";

/// A Sentinel in a container.
struct Sentinel {
    container: String,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        drop(docker(&["rm", "-fv", &self.container]));
    }
}

impl Sentinel {
    fn start(network: &Network) -> Self {
        let image = std::env::var("REDIS7_IMAGE").unwrap_or_else(|_| "lifeboat-redis7:latest".to_owned());
        let container = format!("lifeboat-test-sentinel-{}", Ground::system().hex(6));
        let settings = format!(
            "port 26379\\nrequirepass \"{SENTINEL_PASSWORD}\"\\nsentinel sentinel-pass \"{SENTINEL_PASSWORD}\"\\n"
        );
        let script = format!(
            "printf '{settings}' >/tmp/sentinel.conf; exec redis-server /tmp/sentinel.conf --sentinel"
        );
        let name = ["run", "-d", "--name", container.as_str(), "--label", "lifeboat.test=redis"];
        let program = ["--entrypoint", "sh", image.as_str(), "-c", script.as_str()];
        let words = [&name[..], &network.words(), &program].concat();
        docker(&words).unwrap();
        Self { container }
    }

    fn address(&self) -> String {
        address_of(&self.container)
    }

    async fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let info = redis::RedisConnectionInfo::default().set_password(SENTINEL_PASSWORD);
        let address = redis::ConnectionAddr::Tcp(self.address(), 26379);
        let client = redis::Client::open(address.into_connection_info()?.set_redis_settings(info))?;
        let mut command = redis::Cmd::new();
        command.arg(words);
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        command.query_async(&mut connection?).await
    }

    /// Waits until a question has an answer that will do.
    async fn until<T: redis::FromRedisValue + std::fmt::Debug>(
        &self,
        words: &[&str],
        good: impl Fn(&T) -> bool,
    ) {
        let until = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        loop {
            let answer = self.run::<T>(words).await;
            if answer.as_ref().is_ok_and(&good) {
                return;
            }
            assert!(Instant::now() < until, "{words:?}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A primary, its replica and three Sentinels.
pub struct Watched {
    /// The server that is the primary at first.
    pub primary: Lab,
    /// Its replica.
    pub replica: Lab,
    sentinels: Vec<Sentinel>,
    secret: tempfile::NamedTempFile,
    _network: Network,
}

impl Watched {
    /// Starts all of them and waits until the Sentinels know the replica and each other.
    pub async fn start() -> Self {
        const SETTINGS: [&str; 6] =
            ["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0"];
        let network = Network::make();
        let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(&network)).collect();
        let primary = Lab::start_as("redis7", &network.words(), &SETTINGS).await;
        let address = primary.address();
        let follows = [&SETTINGS[..], &["--replicaof", &address, "6379"]].concat();
        let replica = Lab::start_as("redis7", &network.words(), &follows).await;
        for sentinel in &sentinels {
            sentinel.until(&["PING"], |_: &String| true).await;
            let () = sentinel.run(&["SENTINEL", "MONITOR", NAME, &address, "6379", "2"]).await.unwrap();
            for (name, value) in [("auth-pass", PASSWORD), ("failover-timeout", "5000")] {
                let () = sentinel.run(&["SENTINEL", "SET", NAME, name, value]).await.unwrap();
            }
        }
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        secret.write_all(SENTINEL_PASSWORD.as_bytes()).unwrap();
        let watched = Self { primary, replica, sentinels, secret, _network: network };
        watched.wait().await;
        watched
    }

    async fn wait(&self) {
        for sentinel in &self.sentinels {
            let count = |words: &Vec<redis::Value>| words.len() == 2;
            sentinel.until(&["SENTINEL", "SENTINELS", NAME], count).await;
            let linked = |replicas: &Vec<std::collections::BTreeMap<String, String>>| {
                replicas
                    .iter()
                    .any(|replica| replica["master-link-status"] == "ok" && replica["flags"] == "slave")
            };
            sentinel.until(&["SENTINEL", "REPLICAS", NAME], linked).await;
        }
    }

    /// Has the replica and the primary change their roles, and waits until it is done.
    pub async fn change_roles(&self) {
        let was: String = self.replica.say(0, "INFO replication").await;
        let (new, old) = if was.contains("role:slave") {
            (&self.replica, &self.primary)
        } else {
            (&self.primary, &self.replica)
        };
        let () = self.sentinels[0].run(&["SENTINEL", "FAILOVER", NAME]).await.unwrap();
        new.until("replication", "role:master").await;
        old.until("replication", "master_link_status:up").await;
        for sentinel in &self.sentinels {
            let named = |told: &Vec<String>| told[0] == new.address();
            sentinel.until(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME], named).await;
        }
        self.wait().await;
    }

    /// Makes the Sentinels quick to believe that a server is down; before, a slow machine is not taken for a failure.
    pub async fn hasten(&self) {
        for sentinel in &self.sentinels {
            let words = ["SENTINEL", "SET", NAME, "down-after-milliseconds", "1000"];
            let () = sentinel.run(&words).await.unwrap();
        }
    }

    /// Waits until a Sentinel takes the replica at an address for down.
    pub async fn until_down(&self, address: &str) {
        let is_down = |replicas: &Vec<std::collections::BTreeMap<String, String>>| {
            replicas.iter().any(|replica| replica["ip"] == address && replica["flags"].contains("s_down"))
        };
        self.sentinels[0].until(&["SENTINEL", "REPLICAS", NAME], is_down).await;
    }

    /// Returns the settings with which the engine finds the server.
    pub fn config(&self) -> RedisConfig {
        let sentinels = self.sentinels.iter().map(|sentinel| format!("redis://{}", sentinel.address()));
        RedisConfig {
            url: String::new(),
            // The first one does not answer.
            sentinels: std::iter::once("redis://127.0.0.1:1".to_owned()).chain(sentinels).collect(),
            primary_name: Some(NAME.to_owned()),
            sentinel_password: Some(SecretRef::File(self.secret.path().to_owned())),
            ..self.primary.config()
        }
    }
}
