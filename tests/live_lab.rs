//! Labs in a real container engine.
//!
//! Run by `fixtures/test`. Each test has a stack of its own, by whose label everything that it made is found, and at
//! its end nothing is left.

#![allow(clippy::unwrap_used)] // A test that cannot go on says so by panicking, in its helpers too.

#[path = "live_lab/podman.rs"]
mod podman;
#[path = "live_lab/stage.rs"]
mod stage;

use std::{env, fs, process::Command, time::Duration};

use lifeboat::{
    clock::{Clock, System},
    error::{ExitCode, Failure},
    lab::{
        Lab, Limits, OUTPUT_BYTES_MAX, Product, Program,
        docker::{DockerLab, reap},
    },
};
use mysql_async::prelude::Queryable;
use tokio::net::TcpListener;

use self::stage::{
    Stack, assert_no_volumes, bash, docker, image, limits, marks, mysql, redis, redis_says, s3_buckets,
    server,
};

/// Returns what a failure of a lab says, all of it.
fn refused<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    let failure = result.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::DrillNotRun, "{failure:?}");
    [failure.chain(), failure.hints().to_vec()].concat().join("\n")
}

/// Returns whether a program of the lab gets through to `host/port`.
async fn gets_to(lab: &DockerLab, address: &str) -> bool {
    let ended = lab.run(&bash(&format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{address}'"))).await.unwrap();
    ended.code == Some(0)
}

/// Sees that a program of the lab gets through to `host/port`. On a busy machine the first packets of a new container
/// may be lost for a while, so it tries again.
async fn assert_gets_to(lab: &DockerLab, address: &str) {
    let once = format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{address}'");
    let ended = lab.run(&bash(&format!("for _ in {{1..8}}; do {once} && exit; sleep 1; done; exit 1"))).await;
    let ended = ended.unwrap();
    assert_eq!(ended.code, Some(0), "`{address}` is reached: {}", ended.output);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn servers_start_together_and_know_their_passwords() {
    let stack = Stack::new("together");
    let lab = stack.lab("drill").await;
    let mut database = server("db", Product::Mysql, "MYSQL_IMAGE");
    database.arguments =
        ["--max-connections=77", "--event-scheduler=ON", "--log-bin=told"].map(str::to_owned).to_vec();
    let all = [database, redis("cache"), server("objects", Product::S3, "S3_IMAGE")];
    let running = lab.start(&all).await.unwrap();
    lab.check().await.unwrap();
    let inside: Vec<&str> = running.iter().map(|one| one.inside.as_str()).collect();
    assert_eq!(inside, ["db:3306", "cache:6379", "objects:9000"]);
    let told = format!("{} (sha256:", image("MYSQL_IMAGE"));
    assert!(running[0].image.starts_with(&told), "{}", running[0].image);
    assert!(lab.describe().starts_with("docker "), "{}", lab.describe());

    let mut conn = mysql(running[0].address).await;
    let asked = "SELECT @@max_connections, @@log_bin, @@event_scheduler, @@max_allowed_packet";
    let settings: Option<(u32, u32, String, u64)> = conn.query_first(asked).await.unwrap();
    assert_eq!(settings, Some((77, 0, "OFF".to_owned(), 1 << 30)));
    conn.disconnect().await.unwrap();
    for (name, value) in [("maxmemory", "0"), ("appendonly", "yes"), ("dir", "/data")] {
        let found: Vec<String> = redis_says(running[1].address, &["CONFIG", "GET", name]).await;
        assert_eq!(found, [name, value]);
    }
    assert!(s3_buckets(running[2].address).await.is_empty());

    for id in stack.containers() {
        assert!(docker(&["port", &id]).is_empty(), "nothing is published");
        assert!(!docker(&["top", &id]).contains("quoted"), "no password is an argument");
    }
    stack.gone(&lab).await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn servers_are_reached_by_ports_of_the_loopback_address_where_they_must() {
    let stack = Stack::new("published");
    let limits = Limits { data_in_memory: true, cpu_percent: Some(150), ..limits() };
    let lab = stack.lab_within("drill", limits).await.publishing();
    let maria = server("db", Product::Mariadb, "MARIADB_IMAGE");
    let running = lab.start(&[maria, server("cache", Product::Redis, "REDIS8_IMAGE")]).await.unwrap();
    assert!(running.iter().all(|one| one.address.ip().is_loopback()), "{running:?}");
    let mut conn = mysql(running[0].address).await;
    let settings: Option<(String, u32)> =
        conn.query_first("SELECT @@event_scheduler, @@log_bin").await.unwrap();
    assert_eq!(settings, Some(("OFF".to_owned(), 0)));
    conn.disconnect().await.unwrap();
    assert_eq!(redis_says::<String>(running[1].address, &["PING"]).await, "PONG");
    assert_gets_to(&lab, "cache/6379").await;
    assert!(stack.volumes().iter().all(String::is_empty), "data lies in memory");
    for id in stack.containers() {
        let ports = docker(&["port", &id]);
        assert!(!ports.is_empty() && ports.lines().all(|line| line.contains("-> 127.0.0.1:")), "{ports}");
    }
    stack.gone(&lab).await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_lab_reaches_its_own_servers_and_nothing_else() {
    let (stack, other) = (Stack::new("closed"), Stack::new("closed-other"));
    let (lab, outside) = (stack.lab("drill").await, other.lab("drill").await);
    lab.start(&[redis("cache")]).await.unwrap();
    let elsewhere = outside.start(&[redis("elsewhere")]).await.unwrap()[0].address;
    assert_eq!(redis_says::<String>(elsewhere, &["PING"]).await, "PONG");
    assert_gets_to(&lab, "cache/6379").await;
    assert_gets_to(&outside, "elsewhere/6379").await;
    assert!(!gets_to(&lab, &format!("{}/6379", elsewhere.ip())).await);
    assert!(!gets_to(&lab, "elsewhere/6379").await);
    assert!(!gets_to(&lab, "1.1.1.1/443").await);
    let alone = Program { is_alone: true, ..bash("ls /sys/class/net; exec 3<>/dev/tcp/cache/6379") };
    let alone = lab.run(&alone).await.unwrap();
    assert!(!alone.output.contains("eth0") && alone.code == Some(1), "{alone:?}");
    // Names are asked of the engine, which has nobody else to ask.
    let names = lab.run(&bash("grep nameserver /etc/resolv.conf")).await.unwrap();
    assert_eq!(names.output, "nameserver 127.0.0.11\n");
    let inspect = |form: &str| docker(&["network", "inspect", "-f", form, &stack.networks()[0]]);
    assert_eq!(inspect("{{.Internal}}"), "true");
    lab.remove().await.unwrap();

    // A network that is published cannot be closed.
    let again = stack.lab("by-hand").await.publishing();
    again.start(&[redis("cache")]).await.unwrap();
    assert!(!gets_to(&again, &format!("{}/6379", elsewhere.ip())).await);
    assert!(!gets_to(&again, "1.1.1.1/443").await);
    assert_eq!(inspect("{{index .Options \"com.docker.network.bridge.enable_ip_masquerade\"}}"), "false");
    stack.gone(&again).await;
    other.gone(&outside).await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_without_enough_memory_is_no_lab() {
    let stack = Stack::new("memory");
    let lab = stack.lab_within("drill", Limits { memory_bytes: 8 << 20, ..limits() }).await;
    let told = refused(lab.start(&[server("db", Product::Mysql, "MYSQL_IMAGE")]).await);
    assert!(told.contains("`db` of the lab was out of memory"), "{told}");
    assert!(told.contains("memory_mib"), "{told}");
    assert!(refused(lab.check().await).contains("out of memory"));
    stack.gone(&lab).await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_ends_is_told_with_what_it_wrote() {
    let stack = Stack::new("ended");
    let lab = stack.lab("drill").await;
    let mut wrong = redis("cache");
    wrong.arguments = vec!["--no-such-setting".to_owned(), "1".to_owned()];
    let told = refused(lab.start(&[wrong]).await);
    assert!(told.contains("`cache` of the lab ended with code 1"), "{told}");
    assert!(told.contains("no-such-setting"), "{told}");
    lab.remove().await.unwrap();

    let lab = stack.lab("drill").await;
    lab.start(&[redis("cache")]).await.unwrap();
    lab.check().await.unwrap();
    docker(&["kill", &stack.containers()[0]]);
    assert!(refused(lab.check().await).contains("`cache` of the lab ended with code 137"));
    stack.gone(&lab).await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn an_image_that_is_not_to_be_had_is_named() {
    let stack = Stack::new("image");
    let lab = stack.lab("drill").await.pulling_within(Duration::from_secs(2));
    let mut absent = redis("cache");
    // Nothing listens on this port, so the answer comes at once.
    absent.image = "127.0.0.1:9/lifeboat/absent:1".to_owned();
    let told = refused(lab.start(&[absent.clone()]).await);
    assert!(told.starts_with("the image `127.0.0.1:9/lifeboat/absent:1` is not here"), "{told}");
    assert!(told.contains("[drill.images]"), "{told}");

    // A registry that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    absent.image = format!("{}/lifeboat/absent", silent.local_addr().unwrap());
    let told = refused(lab.start(&[absent]).await);
    assert!(told.contains("more than 2 s"), "{told}");
    stack.gone(&lab).await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_a_killed_drill_left_is_reaped_and_what_others_have_is_not() {
    let (stack, other) = (Stack::new("reaped"), Stack::new("reaped-not"));
    let theirs = other.lab("drill").await;
    theirs.start(&[redis("cache")]).await.unwrap();
    let killed = stack.lab("drill").await;
    killed.start(&[redis("cache"), redis("more")]).await.unwrap();
    drop(killed);
    let at_work = stack.lab("by-hand").await;
    at_work.start(&[redis("cache")]).await.unwrap();
    let volumes = stack.volumes();
    assert_eq!((stack.containers().len(), stack.networks().len(), volumes.len()), (3, 2, 3));

    let lab = stack.lab("drill").await;
    assert_eq!((stack.containers().len(), stack.networks().len()), (1, 1));
    at_work.check().await.unwrap();
    theirs.check().await.unwrap();
    lab.start(&[redis("cache")]).await.unwrap();
    drop(lab);

    let reap_at = |host: &'static str, task: &'static str, now| {
        let stack = stack.name.clone();
        async move { reap(None, &stack, host, task, now).await.unwrap() }
    };
    let now = System.now();
    assert_eq!(reap_at("elsewhere", "drill", now).await, 0);
    assert_eq!(reap_at("here", "drill", now).await, 1);
    at_work.check().await.unwrap();
    let later = now + chrono::Duration::hours(2);
    assert_eq!(reap_at("elsewhere", "drill", later).await, 1);
    assert!(stack.containers().is_empty() && stack.networks().is_empty());
    assert_no_volumes(&volumes);
    theirs.check().await.unwrap();
    other.gone(&theirs).await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn programs_run_beside_the_servers_within_their_time() {
    let stack = Stack::new("programs");
    let lab = stack.lab("drill").await;
    lab.start(&[redis("cache")]).await.unwrap();
    let before = stack.containers();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("question"), "why").unwrap();

    let script =
        "cat /in/question; echo \" $NAME\" >&2; echo because > /out/answer; echo x > /in/more; exit 7";
    let mut program = bash(script);
    program.environment.insert("NAME".to_owned(), "a=b \"c\"".to_owned());
    program.read_only = vec![(folder.path().to_owned(), "/in".into())];
    program.writable = vec![(folder.path().to_owned(), "/out".into())];
    let ended = lab.run(&program).await.unwrap();
    assert_eq!(ended.code, Some(7));
    for part in ["why", " a=b \"c\"\n", "Read-only"] {
        assert!(ended.output.contains(part), "{}", ended.output);
    }
    assert_eq!(fs::read_to_string(folder.path().join("answer")).unwrap(), "because\n");

    let long = lab.run(&bash("seq 1 30000; echo end")).await.unwrap();
    assert_eq!((long.code, long.output.len()), (Some(0), OUTPUT_BYTES_MAX));
    assert!(long.output.ends_with("30000\nend\n"));
    let late = Program { timeout: Duration::from_secs(2), ..bash("echo begun; sleep 600") };
    let late = lab.run(&late).await.unwrap();
    assert_eq!((late.code, late.output.as_str()), (None, "begun\n"));

    let beside = |server: &str| Program {
        image: None,
        beside: Some(server.to_owned()),
        ..bash("redis-cli --version")
    };
    assert_eq!(lab.run(&beside("cache")).await.unwrap().code, Some(0));
    assert!(refused(lab.run(&beside("db")).await).contains("beside `db`"));
    assert!(refused(lab.run(&Program { image: None, ..bash("true") }).await).contains("no image"));
    let absent = Program { command: vec!["/no/such/program".to_owned()], ..bash("") };
    assert!(refused(lab.run(&absent).await).contains("/no/such/program"));
    assert_eq!(stack.containers(), before, "programs leave no container");
    stack.gone(&lab).await;
}

/// What a lab must do wherever this process runs: reached at its address, and folders of this process shared with its
/// programs. The next test runs this one in a container.
#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_lab_is_reached_from_where_this_process_runs() {
    // In a container there is no `docker` to tidy up with: the test outside does it.
    let own = env::var("LAB_STACK").is_err().then(|| Stack::new("here"));
    let name = own.as_ref().map_or_else(|| env::var("LAB_STACK").unwrap(), |stack| stack.name.clone());
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("question"), "why").unwrap();
    let lab = DockerLab::open(None, marks(&name, "drill"), limits(), System.now()).await.unwrap();
    let running = lab.start(&[redis("cache")]).await.unwrap();
    assert!(!running[0].address.ip().is_loopback());
    assert_eq!(redis_says::<String>(running[0].address, &["PING"]).await, "PONG");
    let mut program = bash("cat /in/question");
    program.read_only = vec![(folder.path().to_owned(), "/in".into())];
    let ended = lab.run(&program).await.unwrap();
    assert_eq!((ended.code, ended.output.as_str()), (Some(0), "why"));
    lab.remove().await.unwrap();
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_process_in_a_container_attaches_itself_to_the_lab() {
    let stack = Stack::new("inside");
    let folder = tempfile::tempdir().unwrap();
    let own = env::current_exe().unwrap();
    let mount = |from: &str, to: &str| format!("{from}:{to}");
    let ran = Command::new("docker")
        .args(["run", "--rm", "--network", "bridge", "--label", "lifeboat.fixture=1"])
        // A name that is not the container's id, as compose files set it.
        .args(["--hostname", "lifeboat", "-e", "TMPDIR=/shared", "-e", &format!("LAB_STACK={}", stack.name)])
        .args(["-e", &format!("REDIS7_IMAGE={}", image("REDIS7_IMAGE"))])
        .args(["-e", &format!("BARE_IMAGE={}", image("BARE_IMAGE"))])
        .args([
            "-v",
            &mount(own.to_str().unwrap(), "/own"),
            "-v",
            &mount(folder.path().to_str().unwrap(), "/shared"),
        ])
        .args(["-v", "/var/run/docker.sock:/var/run/docker.sock", &image("BARE_IMAGE")])
        .args(["/own", "--ignored", "--exact", "a_lab_is_reached_from_where_this_process_runs"])
        .output()
        .unwrap();
    let told = [ran.stdout, ran.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(ran.status.success() && told.contains("1 passed"), "{told}");
    assert!(stack.containers().is_empty() && stack.networks().is_empty());
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn without_an_engine_there_is_no_lab() {
    let stack = Stack::new("down");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let opened = DockerLab::open(socket.to_str(), marks(&stack.name, "drill"), limits(), System.now()).await;
    let told = refused(opened.map(|lab| lab.describe()));
    assert!(told.contains("no container engine answers") && told.contains("lab = \"process\""), "{told}");
}
