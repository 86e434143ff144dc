//! A stack with one source of each kind on real servers: a database, a Redis and a bucket of its own.

use crate::{
    buckets::{Bucket, endpoint},
    redis_lab::{Lab, PASSWORD},
    stage::{Ran, Stage},
    support::{Product, Server, own},
};

/// A password that is wrong everywhere, and easy to find where it must not be.
pub const WRONG: &str = "wrong-horse-battery";

/// The stack and its servers.
pub struct Town {
    pub stage: Stage,
    pub mysql: Server,
    pub redis: Lab,
    pub bucket: Bucket,
    pub db: String,
}

impl Town {
    /// Fills the servers; the policy has no source yet.
    pub async fn new(what: &str) -> Self {
        let town = Self {
            stage: Stage::new(),
            mysql: Server::shared(Product::Mysql).await,
            redis: Lab::start(7).await,
            bucket: Bucket::new(what).await,
            db: own(&format!("cli_{what}")),
        };
        let db = &town.db;
        let mut statements = vec![
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"),
            format!("CREATE TABLE {db}.users (id INT PRIMARY KEY, name VARCHAR(99))"),
            format!("CREATE TABLE {db}.files (id INT PRIMARY KEY, path VARCHAR(99))"),
        ];
        statements.extend((0..50).map(|n| format!("INSERT INTO {db}.users VALUES ({n}, '志航 {n}')")));
        statements.extend((0..20).map(|n| format!("INSERT INTO {db}.files VALUES ({n}, 'a/{n}.bin')")));
        town.mysql.run(&statements).await;
        for n in 0..20 {
            town.bucket.put(&format!("a/{n}.bin"), format!("object {n}").as_bytes()).await;
            let () = town.redis.run(0, &[b"SET", format!("user:{n}").as_bytes(), b"here"]).await;
        }
        town
    }

    /// Fills the servers and writes a policy that takes them and a folder.
    pub async fn with_policy(what: &str) -> Self {
        let town = Self::new(what).await;
        town.stage.append(&town.mysql_source(town.mysql.config.port, &town.mysql_password()));
        town.stage.append(&town.redis_source(town.redis_port(), PASSWORD));
        town.stage.append(&town.s3_source(&endpoint(), &secret_key()));
        town.stage.write("data/app.env", "COLOUR=blue\n");
        town.stage.add_files("config", "data");
        town
    }

    /// Writes a policy of one source.
    pub fn take_only(&self, source: &str) {
        self.stage.edit(|text| match text.find("\n[[source]]") {
            Some(at) => format!("{}\n{source}", &text[..at]),
            None => format!("{text}\n{source}"),
        });
    }

    pub fn mysql_password(&self) -> String {
        let Some(lifeboat::policy::SecretRef::File(file)) = &self.mysql.config.password else {
            unreachable!()
        };
        std::fs::read_to_string(file).unwrap()
    }

    pub fn redis_port(&self) -> u16 {
        self.redis.config().url.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub fn mysql_source(&self, port: u16, password: &str) -> String {
        let file = self.secret("mysql", password);
        let db = &self.db;
        format!(
            "[[source]]\nname = \"mysql\"\nkind = \"mysql\"\nport = {port}\nuser = \"root\"\npassword = {file}\n\
             databases = [\"{db}\"]\nexclude = [\"accounts\"]\n"
        )
    }

    pub fn redis_source(&self, port: u16, password: &str) -> String {
        let file = self.secret("redis", password);
        let url = format!("redis://127.0.0.1:{port}");
        format!("[[source]]\nname = \"redis\"\nkind = \"redis\"\nurl = \"{url}\"\npassword = {file}\n")
    }

    pub fn s3_source(&self, endpoint: &str, secret: &str) -> String {
        let id = self.secret("s3-id", &std::env::var("S3_ACCESS_KEY").unwrap());
        let secret = self.secret("s3", secret);
        let bucket = &self.bucket.name;
        format!(
            "[[source]]\nname = \"minio\"\nkind = \"s3\"\nendpoint = \"{endpoint}\"\nbuckets = [\"{bucket}\"]\n\
             access_key = {id}\nsecret_key = {secret}\n"
        )
    }

    fn secret(&self, name: &str, value: &str) -> String {
        self.stage.secret(name, value);
        format!("{{ file = \"{}\" }}", self.stage.at(&format!("secrets/{name}")))
    }

    /// Runs the program and checks that no secret of the servers is told.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ran {
        let ran = self.stage.run(words);
        ran.hides(&self.mysql_password()).hides(PASSWORD).hides(&secret_key()).hides(WRONG)
    }

    /// Returns what all servers hold now.
    pub async fn contents(&self) -> (String, Vec<(i64, u64)>, Vec<String>) {
        let db = &self.db;
        let rows = format!(
            "SELECT CONCAT((SELECT GROUP_CONCAT(id, name ORDER BY id) FROM {db}.users), \
             (SELECT GROUP_CONCAT(id, path ORDER BY id) FROM {db}.files))"
        );
        (self.mysql.ask(&rows).await, self.redis.sizes().await, self.bucket.keys().await)
    }

    /// Takes everything away, as the worst day does.
    pub async fn lose_all(&self) {
        self.mysql.run([format!("DROP DATABASE {}", self.db)]).await;
        let () = self.redis.say(0, "FLUSHALL").await;
        for key in self.bucket.keys().await {
            self.bucket.delete(&key).await;
        }
    }

    /// Removes the database; the rest goes with the value.
    pub async fn end(self) {
        self.mysql.run([format!("DROP DATABASE IF EXISTS {}", self.db)]).await;
    }
}

pub fn secret_key() -> String {
    std::env::var("S3_SECRET_KEY").expect("S3_SECRET_KEY: source fixtures/stack env")
}
