//! Kills in the middle of loading: the program, and the server. What the server holds then is old or new, never a part
//! that passes for the whole; it is told, and the same restore again succeeds.

use rustix::process::Signal;

use super::{
    redis_lab::{Lab, PASSWORD},
    redis_restore::SLOW,
    replication_settings, role,
    stage::{STACK, Stage, send},
};

const RESTORE: [&str; 7] = ["restore", "latest", "--replace", "--source", "redis", "--yes", STACK];

/// A server that loads for seconds and answers meanwhile, at a port that stays its own; and a stack with a snapshot of
/// 2 055 keys or so of it, while it holds one other now.
struct Scene {
    lab: Lab,
    stage: Stage,
    held: Vec<(i64, u64)>,
    settings: Vec<(String, String)>,
}

impl Scene {
    async fn make(settings: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let publish = format!("127.0.0.1:{port}:6379");
        let slow = ["--key-load-delay", "1200", "--loading-process-events-interval-bytes", "1024"];
        let settings = [&["--requirepass", PASSWORD][..], &slow, settings].concat();
        let lab = Lab::start_as("redis7", &["-p", &publish], &settings).await;
        lab.fill(7).await;
        let stage = Stage::new();
        stage.add_redis(port, PASSWORD);
        stage.run(&["backup"]).ends(0);
        let held = lab.sizes().await;
        let _: () = lab.say(0, "FLUSHALL").await;
        let _: () = lab.say(0, "SET old data").await;
        let settings = replication_settings(&lab).await;
        Self { lab, stage, held, settings }
    }

    /// Starts a restore and returns when the server loads.
    async fn loading(&self) -> std::process::Child {
        let child = self.stage.start(&RESTORE);
        self.lab.until("persistence", "loading:1").await;
        child
    }

    async fn is_well(&self, holds: &[(i64, u64)]) {
        assert_eq!(self.lab.sizes().await, holds);
        assert_eq!(role(&self.lab).await, "master");
        assert_eq!(replication_settings(&self.lab).await, self.settings);
    }
}

async fn ended(child: std::process::Child) -> (Option<i32>, String) {
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_program_that_is_killed_while_the_server_loads_leaves_all_of_the_new() {
    let mut scene = Scene::make(&["--appendonly", "yes"]).await;
    let child = scene.loading().await;
    send(&child, Signal::TERM);
    let (code, told) = ended(child).await;
    assert_eq!(code, Some(130), "{told}");
    assert!(told.contains("stopped by SIGTERM") && told.contains("holds the restored data"), "{told}");
    scene.is_well(&scene.held).await;

    let _: () = scene.lab.say(0, "SET more data").await;
    let child = scene.loading().await;
    send(&child, Signal::KILL);
    assert_eq!(ended(child).await.0, None);
    assert_eq!(role(&scene.lab).await, "slave", "it takes no writes that would be lost");
    scene.lab.until("persistence", "loading:0").await;
    let told = scene.stage.run(&["doctor", "redis"]);
    assert!(told.out.contains("let go with the restored data"), "{}", told.out);
    scene.is_well(&scene.held).await;

    // While it still loads, nothing is said of what it holds, and a restore waits for nothing.
    let child = scene.loading().await;
    send(&child, Signal::KILL);
    assert_eq!(ended(child).await.0, None);
    let told = scene.stage.run(&["doctor", "redis"]);
    assert!(!told.out.contains("let go with"), "{}", told.out);
    scene.lab.until("persistence", "loading:0").await;
    scene.stage.run(&RESTORE).ends(0).says("was killed before");
    scene.is_well(&scene.held).await;
    scene.lab.crash().await;
    scene.is_well(&scene.held).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_is_killed_while_it_loads_comes_back_with_old_or_new_and_never_half() {
    // With an append-only file it has its old data; without one the dump that it had taken is its own.
    for (settings, is_old) in [(["--appendonly", "yes"], true), (["--save", ""], false)] {
        let mut scene = Scene::make(&settings).await;
        let child = scene.loading().await;
        scene.lab.kill();
        let (code, told) = ended(child).await;
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("went down in the middle"), "{told}");
        assert!(told.contains("lifeboat restore --safety"), "the copy is named: {told}");
        scene.lab.again().await;
        scene.lab.until("persistence", "loading:0").await;
        let holds = if is_old { vec![(0, 1)] } else { scene.held.clone() };
        assert_eq!((scene.lab.sizes().await, role(&scene.lab).await.as_str()), (holds.clone(), "master"));
        // The settings came with the restart already.
        scene.stage.run(&["doctor", "redis"]);
        scene.is_well(&holds).await;
        scene.stage.run(&RESTORE).ends(0);
        scene.is_well(&scene.held).await;
    }
}

/// Key by key a part is there at once: it is told until the place is filled again, and what it held is in the copy.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_program_that_is_killed_while_it_fills_key_by_key_is_told_of_until_it_is_done_again() {
    let scene = Scene::make(&["--appendonly", "yes", "--rename-command", "REPLICAOF", ""]).await;
    let mut connection = scene.lab.connect(0).await;
    scene.lab.limit_cpus(SLOW);
    let child = scene.stage.start(&RESTORE);
    // The old key is gone and new ones are there.
    let until = std::time::Instant::now() + super::stage::PATIENCE;
    loop {
        let (old, count): (bool, u64) =
            redis::pipe().cmd("EXISTS").arg("old").cmd("DBSIZE").query_async(&mut connection).await.unwrap();
        if !old && count > 0 {
            break;
        }
        assert!(std::time::Instant::now() < until, "it does not come to the keys");
    }
    send(&child, Signal::KILL);
    assert_eq!(ended(child).await.0, None);
    scene.lab.limit_cpus("2");
    assert_ne!(scene.lab.sizes().await, scene.held, "it must be in the middle");

    for _ in 0..2 {
        let told = scene.stage.run(&["doctor", "redis"]);
        assert!(told.out.contains("a part of the snapshot only"), "{}", told.out);
        assert!(told.out.contains("lifeboat restore --safety"), "{}", told.out);
    }
    let one = ["restore", "latest", "--source", "redis", "--only", "k:1", "--replace", "--yes", STACK];
    scene.stage.run(&one).ends(1).tells("a part of the snapshot only");
    // One that is refused changes nothing of that.
    let _: () = scene.lab.say(0, "CONFIG SET maxmemory 1").await;
    scene.stage.run(&RESTORE).ends(20).tells("Nothing was changed");
    let _: () = scene.lab.say(0, "CONFIG SET maxmemory 0").await;
    assert!(scene.stage.run(&["doctor", "redis"]).out.contains("a part of the snapshot only"));
    scene.stage.run(&RESTORE).ends(0).says("what it left is now replaced");
    scene.is_well(&scene.held).await;
    let told = scene.stage.run(&["doctor", "redis"]);
    assert!(!told.out.contains("a part of the snapshot"), "{}", told.out);

    // Also what was there before can be had back.
    let copies = scene.stage.run(&["restore", "--safety", "--json"]).ends(0).json();
    let copies = copies["copies"].as_array().unwrap();
    let first = copies.last().unwrap()["file"].as_str().unwrap();
    scene.stage.run(&["restore", "--safety", first, "--replace", "--yes", STACK]).ends(0);
    scene.is_well(&[(0, 1)]).await;
}
