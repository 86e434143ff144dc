//! A lab in podman, which answers docker's questions on a socket of its own, and not always with docker's words.

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use lifeboat::{
    clock::{Clock, System},
    lab::{
        Lab, Product, Program, Server,
        docker::{DockerLab, reap},
    },
};

use super::{
    refused,
    stage::{PASSWORD, bash, image, limits, marks, redis_says},
};

/// Podman's own defaults suit neither a host without systemd nor one with both kinds of control groups.
const SETTINGS: &str = "[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n\
                        [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\n";

/// Podman's service for one test; it and its containers end with the test.
struct Podman {
    child: Child,
    folder: tempfile::TempDir,
    stack: String,
}

impl Podman {
    fn start(stack: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("containers.conf");
        fs::write(&settings, SETTINGS).unwrap();
        let socket = folder.path().join("podman.sock");
        let stack = format!("lbt-{}-{stack}", std::process::id());
        let child = Command::new("podman")
            .args(["system", "service", "--time=0", &format!("unix://{}", socket.display())])
            .env("CONTAINERS_CONF", settings)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("podman is installed: run fixtures/test");
        // From here on it ends when this fails.
        let podman = Self { child, folder, stack };
        let until = Instant::now() + Duration::from_mins(1);
        while !socket.exists() {
            assert!(Instant::now() < until, "podman does not answer");
            sleep(Duration::from_millis(50));
        }
        podman
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("podman.sock")
    }

    /// Gives podman an image of docker's and returns what podman calls it.
    fn image(name: &str) -> String {
        let (name, here) = (image(name), format!("localhost/{}", image(name)));
        if !Command::new("podman").args(["image", "exists", &here]).status().unwrap().success() {
            let mut saved =
                Command::new("docker").args(["save", &name]).stdout(Stdio::piped()).spawn().unwrap();
            let read = Stdio::from(saved.stdout.take().unwrap());
            podman(Command::new("podman").args(["load", "--quiet"]).stdin(read));
            assert!(saved.wait().unwrap().success());
        }
        here
    }

    async fn lab(&self) -> DockerLab {
        let socket = self.socket();
        DockerLab::open(socket.to_str(), marks(&self.stack, "drill"), limits(), System.now()).await.unwrap()
    }

    /// Returns what is left of its containers and networks.
    fn left(&self) -> Vec<String> {
        let label = format!("label=lifeboat.lab.stack={}", self.stack);
        let containers = podman(Command::new("podman").args(["ps", "-aq", "--filter", &label]));
        let networks = podman(Command::new("podman").args(["network", "ls", "-q", "--filter", &label]));
        containers.lines().chain(networks.lines()).map(str::to_owned).collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for id in self.left() {
            for remove in [["rm", "-fv"], ["network", "rm"]] {
                let _ = Command::new("podman").args(remove).arg(&id).output();
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn podman(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns a program of bash in an image that podman has.
fn program(script: &str, image: &str) -> Program {
    Program { image: Some(image.to_owned()), ..bash(script) }
}

async fn reaches(lab: &DockerLab, image: &str, address: &str) -> bool {
    let script = format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{address}'");
    lab.run(&program(&script, image)).await.unwrap().code == Some(0)
}

/// Docker drops what its host forwards between others' containers, so this test runs again in a network of its own.
#[test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
fn podman_makes_labs_too() {
    if env::var("LAB_APART").is_ok() {
        return tokio::runtime::Runtime::new().unwrap().block_on(labs_in_podman());
    }
    // Only root may have a network of its own in which containers run.
    let is_root = rustix::process::geteuid().is_root();
    let words: &[&str] = if is_root { &["unshare"] } else { &["sudo", "-nE", "unshare"] };
    let ran = Command::new(words[0])
        .args(&words[1..])
        .arg("--net")
        .arg(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "podman::podman_makes_labs_too", "--nocapture"])
        .env("LAB_APART", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert!(ran.status.success() && told.contains("1 passed"), "{told}");
}

async fn labs_in_podman() {
    let engine = Podman::start("podman");
    let (redis, bare) = (Podman::image("REDIS7_IMAGE"), Podman::image("BARE_IMAGE"));
    let cache = Server {
        name: "cache".to_owned(),
        product: Product::Redis,
        image: redis,
        arguments: Vec::new(),
        password: PASSWORD.into(),
    };
    let lab = engine.lab().await;
    assert!(lab.describe().starts_with("podman "), "{}", lab.describe());
    let running = lab.start(std::slice::from_ref(&cache)).await.unwrap();
    assert_eq!(redis_says::<String>(running[0].address, &["PING"]).await, "PONG");
    assert!(reaches(&lab, &bare, "cache/6379").await, "servers have names");
    let networks =
        podman(Command::new("podman").args(["network", "ls", "-q", "--filter", "name=lifeboat-lab"]));
    let closed = podman(
        Command::new("podman").args(["network", "inspect", "-f", "{{.Internal}}"]).args(networks.lines()),
    );
    assert_eq!(closed.trim(), "true", "nothing leads out");
    let folder = tempfile::tempdir().unwrap();
    let mut writes = program("echo because > /out/answer; echo said; exit 7", &bare);
    writes.writable = vec![(folder.path().to_owned(), "/out".into())];
    let ended = lab.run(&writes).await.unwrap();
    assert_eq!((ended.code, ended.output.as_str()), (Some(7), "said\n"));
    assert_eq!(fs::read_to_string(folder.path().join("answer")).unwrap(), "because\n");
    lab.remove().await.unwrap();
    assert!(engine.left().is_empty());

    let wrong = Server { arguments: vec!["--no-such-setting".to_owned(), "1".to_owned()], ..cache.clone() };
    let lab = engine.lab().await;
    let told = refused(lab.start(&[wrong]).await);
    assert!(
        told.contains("`cache` of the lab ended with code 1") && told.contains("no-such-setting"),
        "{told}"
    );
    drop(lab);
    assert!(!engine.left().is_empty());
    let lab = engine.lab().await;
    assert!(engine.left().is_empty(), "what was left behind goes before the next");

    lab.start(&[cache]).await.unwrap();
    drop(lab);
    let socket = engine.socket();
    assert_eq!(reap(socket.to_str(), &engine.stack, "here", "drill", System.now()).await.unwrap(), 1);
    assert!(engine.left().is_empty());
}
