//! A stack of a test's own, and who talks to its servers.

#[path = "../live_support/redis.rs"]
mod redis_connection;
#[path = "../live_support/s3.rs"]
mod s3;

use std::{collections::BTreeMap, env, net::SocketAddr, process::Command, time::Duration};

use lifeboat::{
    clock::{Clock, System},
    lab::{Lab, Limits, Marks, Product, Program, Server, docker::DockerLab},
};
use mysql_async::{Conn, OptsBuilder};

/// The password of every server; Redis must quote it.
pub const PASSWORD: &str = "not secret: \"quoted\" $HOME";

/// Returns an image's name from the environment.
pub fn image(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `source <(fixtures/stack env)` first"))
}

/// Runs the engine's own command line: what the lab says of itself is not believed.
pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn limits() -> Limits {
    Limits {
        memory_bytes: 1 << 30,
        cpu_percent: None,
        data_in_memory: false,
        start: Duration::from_mins(3),
        lifetime: Duration::from_hours(1),
    }
}

pub fn server(name: &str, product: Product, image_name: &str) -> Server {
    Server {
        name: name.to_owned(),
        product,
        image: image(image_name),
        arguments: Vec::new(),
        password: PASSWORD.into(),
    }
}

pub fn redis(name: &str) -> Server {
    server(name, Product::Redis, "REDIS7_IMAGE")
}

/// A program of bash.
pub fn bash(script: &str) -> Program {
    Program {
        name: "look".to_owned(),
        image: Some(image("BARE_IMAGE")),
        beside: None,
        command: vec!["bash".to_owned(), "-c".to_owned(), script.to_owned()],
        environment: BTreeMap::new(),
        read_only: Vec::new(),
        writable: Vec::new(),
        is_alone: false,
        timeout: Duration::from_mins(1),
    }
}

pub fn marks(stack: &str, task: &str) -> Marks {
    Marks {
        stack: stack.to_owned(),
        host: "here".to_owned(),
        task: task.to_owned(),
        drill: format!("{task}-1"),
    }
}

/// A name that no other test has. What is left of it goes when the test fails, too.
pub struct Stack {
    pub name: String,
}

impl Stack {
    pub fn new(name: &str) -> Self {
        Self { name: format!("lbt-{}-{name}", std::process::id()) }
    }

    /// Opens a lab for a task.
    pub async fn lab(&self, task: &str) -> DockerLab {
        self.lab_within(task, limits()).await
    }

    pub async fn lab_within(&self, task: &str, limits: Limits) -> DockerLab {
        DockerLab::open(None, marks(&self.name, task), limits, System.now()).await.unwrap()
    }

    fn label(&self) -> String {
        format!("label=lifeboat.lab.stack={}", self.name)
    }

    /// Returns the ids of its containers.
    pub fn containers(&self) -> Vec<String> {
        let found = docker(&["ps", "-aq", "--no-trunc", "--filter", &self.label()]);
        found.lines().map(str::to_owned).collect()
    }

    /// Returns the ids of its networks.
    pub fn networks(&self) -> Vec<String> {
        let found = docker(&["network", "ls", "-q", "--no-trunc", "--filter", &self.label()]);
        found.lines().map(str::to_owned).collect()
    }

    /// Returns the volumes of its containers.
    pub fn volumes(&self) -> Vec<String> {
        let form = "{{range .Mounts}}{{.Name}} {{end}}";
        let names = self.containers().into_iter().map(|id| docker(&["inspect", "-f", form, &id]));
        names.flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// Removes a lab, twice, and sees that nothing is left of its stack.
    pub async fn gone(&self, lab: &DockerLab) {
        let volumes = self.volumes();
        lab.remove().await.unwrap();
        lab.remove().await.unwrap();
        assert_eq!((self.containers(), self.networks()), (Vec::new(), Vec::new()));
        assert_no_volumes(&volumes);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for id in self.containers() {
            docker(&["rm", "-fv", &id]);
        }
        for id in self.networks() {
            docker(&["network", "rm", &id]);
        }
    }
}

/// Sees that volumes have gone.
pub fn assert_no_volumes(names: &[String]) {
    let left = docker(&["volume", "ls", "-q"]);
    let left: Vec<&str> = left.lines().filter(|volume| names.iter().any(|name| name == volume)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Opens a session with MySQL or MariaDB.
pub async fn mysql(address: SocketAddr) -> Conn {
    let opts = OptsBuilder::default()
        .ip_or_hostname(address.ip().to_string())
        .tcp_port(address.port())
        .user(Some(Product::Mysql.user()))
        .pass(Some(PASSWORD));
    Conn::new(opts).await.unwrap()
}

/// Asks Redis one thing.
pub async fn redis_says<T: redis::FromRedisValue>(address: SocketAddr, command: &[&str]) -> T {
    let info =
        redis::IntoConnectionInfo::into_connection_info((address.ip().to_string(), address.port())).unwrap();
    let login =
        redis::RedisConnectionInfo::default().set_username(Product::Redis.user()).set_password(PASSWORD);
    let client = redis::Client::open(info.set_redis_settings(login)).unwrap();
    let mut conn = redis_connection::connect(&client).await.unwrap();
    let mut asked = redis::cmd(command[0]);
    for argument in &command[1..] {
        asked.arg(*argument);
    }
    asked.query_async(&mut conn).await.unwrap()
}

/// Lists the buckets of an S3 server, with a signed request.
pub async fn s3_buckets(address: SocketAddr) -> Vec<String> {
    let client = s3::client(&format!("http://{address}"), Product::S3.user(), PASSWORD);
    let listed = client.list_buckets().send().await.unwrap();
    listed.buckets().iter().map(|bucket| bucket.name().unwrap().to_owned()).collect()
}
