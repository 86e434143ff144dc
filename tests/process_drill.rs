//! Whole drills in a lab of processes: what is whole passes, what was changed in the lab is named, nothing stays of a
//! drill that was killed. The servers that are backed up are such processes too, so this needs no container engine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "service/host.rs"]
#[allow(dead_code, reason = "made for the tests of the service")]
mod host;
#[path = "live_support/redis.rs"]
mod redis_connection;
#[path = "cli/stage.rs"]
mod stage;

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use futures_util::FutureExt;
use lifeboat::{
    clock::Ground,
    drill::{Outcome, Way},
    event::{NoMonitor, SharedMonitor},
    jobs::{
        drill::{self, Scene, Wanted},
        run::RunContext,
    },
    lab::{Lab, Limits, Marks, ProcessLab, Product, Running, Server},
    names::SourceName,
    policy::Stack,
};
use mysql_async::prelude::Queryable;
use tokio_util::sync::CancellationToken;

use self::{
    host::{Left, Service},
    stage::Stage,
};

const PASSWORD: &str = "5f1c0a7e9b3d4c2f8a6e1d0b";

/// A stack whose servers are processes of this test.
struct Harbour {
    stage: Stage,
    servers: ProcessLab,
}

fn server(name: &str, product: Product) -> Server {
    let name = name.to_owned();
    Server { name, product, image: String::new(), arguments: Vec::new(), password: PASSWORD.into() }
}

async fn sql(at: &Running, password: &str, statements: &[String]) {
    let opts = mysql_async::OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(at.address.port());
    let opts = opts.user(Some("root")).pass(Some(password.to_owned()));
    let mut connection = mysql_async::Conn::new(opts).await.unwrap();
    for statement in statements {
        connection.query_drop(statement).await.unwrap();
    }
    connection.disconnect().await.unwrap();
}

async fn keys(at: &Running, password: &str, commands: &[[String; 3]]) {
    let client = redis::Client::open(format!("redis://:{password}@{}/", at.address)).unwrap();
    let mut connection = redis_connection::connect(&client).await.unwrap();
    for [command, key, value] in commands {
        let mut command = redis::cmd(command);
        command.arg(key);
        if !value.is_empty() {
            command.arg(value);
        }
        let _: redis::Value = command.query_async(&mut connection).await.unwrap();
    }
}

fn set(key: &str, value: &str) -> [String; 3] {
    ["SET", key, value].map(str::to_owned)
}

impl Harbour {
    /// Starts and fills the servers, and backs them up.
    async fn stored() -> Self {
        let stage = Stage::new();
        // Where this is root, servers without rights pass through.
        fs::set_permissions(stage.path(""), fs::Permissions::from_mode(0o711)).unwrap();
        let limits = Limits {
            memory_bytes: 256 << 20,
            cpu_percent: None,
            data_in_memory: false,
            start: Duration::from_mins(4),
            lifetime: Duration::from_hours(1),
        };
        let text = str::to_owned;
        let marks = Marks { stack: text("harbour"), host: text("h"), task: text("own"), drill: text("1") };
        let servers = ProcessLab::open(&stage.path("servers"), marks, limits).await.unwrap();
        let both = [server("shop", Product::Mariadb), server("cache", Product::Redis)];
        let running = servers.start(&both).await.unwrap();
        let mut statements = vec![
            "CREATE DATABASE town CHARACTER SET utf8mb4".to_owned(),
            "CREATE TABLE town.users (id INT PRIMARY KEY, name VARCHAR(99))".to_owned(),
        ];
        statements.extend((0..50).map(|n| format!("INSERT INTO town.users VALUES ({n}, '志航 {n}')")));
        sql(&running[0], PASSWORD, &statements).await;
        let all: Vec<[String; 3]> = (0..20).map(|n| set(&format!("user:{n}"), "here")).collect();
        keys(&running[1], PASSWORD, &all).await;
        stage.write("data/app.env", "COLOUR=blue\n");
        stage.add_files("config", "data");
        stage.secret("shop", PASSWORD);
        stage.append(&format!(
            "[[source]]\nname = \"shop\"\nkind = \"mysql\"\nhost = \"127.0.0.1\"\nport = {}\nuser = \"root\"\n\
             password = {{ file = \"{}\" }}\ndatabases = [\"town\"]\nexclude = [\"accounts\"]\n",
            running[0].address.port(),
            stage.at("secrets/shop"),
        ));
        stage.add_redis(running[1].address.port(), PASSWORD);
        stage.append(
            "[drill]\nlab = \"process\"\nmemory_mib = 256\n\
             [[drill.reference]]\nname = \"each user is in the cache\"\nsource = \"shop\"\n\
             query = \"SELECT CONCAT('user:', id) FROM town.users WHERE id < 20\"\nin = \"redis\"\n\
             orphans = \"user:*\"\norphans_max = 0\n\
             [[drill.expect]]\nname = \"there are users\"\nsource = \"shop\"\n\
             query = \"SELECT COUNT(*) FROM town.users\"\nat_least = 50\n\
             [[drill.command]]\nname = \"the servers answer\"\ncommand = [\"bash\", \"-c\", \
             \"exec 3<>/dev/tcp/$LIFEBOAT_SHOP_HOST/$LIFEBOAT_SHOP_PORT \
             4<>/dev/tcp/$LIFEBOAT_REDIS_HOST/$LIFEBOAT_REDIS_PORT\"]\n",
        );
        stage.run(&["backup"]).ends(0);
        Self { stage, servers }
    }

    /// Sees that no lab is left, and ends the servers.
    async fn end(self) {
        assert_eq!(self.stage.files("state/labs"), Vec::<std::path::PathBuf>::new());
        self.servers.remove().await.unwrap();
    }
}

/// The servers end with the test also when it fails.
impl Drop for Harbour {
    fn drop(&mut self) {
        for file in self.stage.files("servers").iter().filter(|file| file.ends_with("lab.json")) {
            let trace: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
            for process in trace["processes"].as_array().into_iter().flatten() {
                let group = format!("-{}", process["pid"]);
                let _ = std::process::Command::new("kill").args(["-KILL", "--", &group]).output();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mariadbd and redis-server: run fixtures/test"]
async fn a_whole_stack_passes_and_so_does_its_recipe() {
    let harbour = Harbour::stored().await;
    for (words, way) in [(&["drill"][..], "restore"), (&["drill", "--by-hand"], "by-hand")] {
        let drilled = harbour.stage.run(&[&["--json"], words].concat()).ends(0).hides(PASSWORD).json();
        assert_eq!((&drilled["passed"], &drilled["way"]), (&true.into(), &way.into()), "{drilled:#}");
        assert_eq!(drilled["lab"], "processes of this host");
        let answers = drilled["assertions"].as_array().unwrap();
        assert!(answers.iter().all(|one| one["result"] == "held"), "{drilled:#}");
    }
    harbour.end().await;
}

async fn change_all(scene: &Scene<'_>) {
    let copy = |name: &str| scene.copy_of(&SourceName::new(name).unwrap()).unwrap();
    let password = |name: &str| {
        let files = fs::read_dir(scene_folder(scene)).unwrap().map(|item| item.unwrap().path());
        let wanted = format!("{name}-password");
        let file = files.into_iter().find(|file| file.file_name().unwrap() == wanted.as_str()).unwrap();
        fs::read_to_string(file).unwrap()
    };
    let statements = ["DELETE FROM town.users WHERE id = 7", "UPDATE town.users SET name = 'x' WHERE id = 8"];
    let shop = copy("shop").running.as_ref().unwrap();
    sql(shop, &password("shop"), &statements.map(str::to_owned)).await;
    let commands = [["DEL", "user:3", ""].map(str::to_owned), set("user:4", "hers")];
    keys(copy("redis").running.as_ref().unwrap(), &password("redis"), &commands).await;
    let folder = copy("config").folder.clone().unwrap();
    let original = fs::canonicalize(&folder).unwrap();
    let mut open = vec![original];
    while let Some(folder) = open.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.ends_with("app.env") {
                fs::write(path, "COLOUR=blux\n").unwrap();
            }
        }
    }
}

/// The drill's own folder, where the lab's passwords are.
fn scene_folder(scene: &Scene<'_>) -> std::path::PathBuf {
    let folder = scene.copy_of(&SourceName::new("config").unwrap()).unwrap().folder.clone().unwrap();
    folder.parent().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mariadbd and redis-server: run fixtures/test"]
async fn every_row_key_and_file_that_was_changed_is_named() {
    let harbour = Harbour::stored().await;
    let stack = Stack::load(harbour.stage.path("lifeboat.toml").as_path()).unwrap();
    let (ground, stop) = (Ground::system(), CancellationToken::new());
    let monitor: SharedMonitor = Arc::new(NoMonitor);
    let context = RunContext { stack: &stack, ground: &ground, monitor: &monitor, stop: &stop, attempt: 1 };
    let meddle: drill::Meddle = Box::new(move |scene| async move { change_all(scene).await }.boxed());
    let wanted = Wanted { meddle: Some(meddle), ..Wanted::of(Way::Restore) };
    let drilled = drill::of_stack(context, wanted).await.unwrap();
    let report = &drilled.report;
    assert_eq!(report.outcome, Outcome::Failed, "{:#?}", report.problem);
    let named: Vec<&String> = report.assertions.iter().flat_map(|one| &one.findings).collect();
    for part in ["town.users id=7", "town.users id=8", "\"user:3\"", "\"user:4\"", "app.env"] {
        assert!(named.iter().any(|finding| finding.contains(part)), "{part} is not in {named:#?}");
    }
    harbour.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mariadbd and redis-server: run fixtures/test"]
async fn the_servers_of_a_killed_drill_are_ended_when_the_service_starts() {
    let harbour = Harbour::stored().await;
    let left = Left::by_a_killed_drill(&harbour.stage);
    let service = Service::start(&harbour.stage);
    left.is_gone(&harbour.stage);
    service.stop();
    harbour.end().await;
}
