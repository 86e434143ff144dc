//! What is shipped to run lifeboat with: that it says what the documents promise, and that the tools take it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use lifeboat::policy::Stack;
use serde::Deserialize;
use serde_norway::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect(path)
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect(folder);
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    found
}

fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("YAML");
    let all = serde_norway::Deserializer::from_str(&text);
    all.map(|one| Value::deserialize(one).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect()
}

/// Fails with what a program said, if it failed.
fn ended_well(output: &Output, what: &str) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}{err}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_units_give_no_secret_to_the_environment_and_no_right_that_is_not_needed() {
    for file in files("deploy/systemd").iter().filter(|file| file.extension().is_some_and(|e| e == "service"))
    {
        let text = fs::read_to_string(file).expect("a unit");
        let lines: BTreeSet<&str> = text.lines().collect();
        for needed in [
            "User=lifeboat",
            "NoNewPrivileges=true",
            "ProtectSystem=strict",
            "CapabilityBoundingSet=",
            "StateDirectory=lifeboat",
            "MemoryMax=1G",
        ] {
            assert!(lines.contains(needed), "{} lacks {needed}", file.display());
        }
        let environment: Vec<&str> =
            lines.iter().copied().filter(|line| line.starts_with("Environment")).collect();
        let harmless = ["Environment=MALLOC_ARENA_MAX=2", "Environment=XDG_STATE_HOME=/var/lib"];
        assert!(
            environment.iter().all(|line| harmless.contains(line)),
            "{}: {environment:?}",
            file.display()
        );
    }
}

#[test]
fn every_timer_starts_a_task_that_there_is_and_makes_up_for_a_host_that_was_off() {
    let tasks = ["backup", "sync", "prune", "verify", "drill", "digest", "doctor", "lock"];
    let timers: Vec<PathBuf> = files("deploy/systemd")
        .into_iter()
        .filter(|file| file.extension().is_some_and(|e| e == "timer"))
        .collect();
    assert!(timers.len() >= 6, "{timers:?}");
    for file in timers {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let task = name.strip_prefix("lifeboat@").unwrap_or_else(|| panic!("{name}"));
        assert!(tasks.contains(&task), "{name}");
        let text = fs::read_to_string(&file).expect("a timer");
        for needed in ["OnCalendar=", "Persistent=true", "RandomizedDelaySec=", "WantedBy=timers.target"] {
            assert!(text.contains(needed), "{name} lacks {needed}");
        }
    }
}

#[test]
fn every_cron_job_runs_alone_with_nothing_but_files_for_secrets() {
    let mut names = BTreeSet::new();
    for document in files("deploy/kubernetes").iter().flat_map(|file| documents(file)) {
        if document["kind"] != "CronJob" {
            continue;
        }
        let name = document["metadata"]["name"].as_str().expect("a name").to_owned();
        let spec = &document["spec"];
        assert_eq!(spec["concurrencyPolicy"], "Forbid", "{name}");
        assert!(spec["startingDeadlineSeconds"].as_u64().is_some_and(|seconds| seconds >= 3600), "{name}");
        let pod = &spec["jobTemplate"]["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        let container = &pod["containers"][0];
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL", "{name}");
        assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
        assert!(container["envFrom"].is_null(), "{name}");
        for variable in container["env"].as_sequence().into_iter().flatten() {
            assert!(variable["valueFrom"]["secretKeyRef"].is_null(), "{name}: {variable:?}");
        }
        let mounted = container["volumeMounts"].as_sequence().expect("mounts").iter();
        let volumes = pod["volumes"].as_sequence().expect("volumes").iter();
        let names_of = |one: &Value| one["name"].as_str().expect("a name").to_owned();
        let (mounted, volumes): (BTreeSet<_>, BTreeSet<_>) =
            (mounted.map(names_of).collect(), volumes.map(names_of).collect());
        assert_eq!(mounted, volumes, "{name}");
        names.insert(name);
    }
    let expected = ["backup", "backup-sharded", "digest", "prune", "sync", "verify"];
    assert_eq!(names, expected.iter().map(|name| format!("lifeboat-{name}")).collect());
}

#[test]
fn the_shards_of_the_example_are_as_many_as_its_pods() {
    let job = documents(&root().join("deploy/kubernetes/sharded-backup.yaml")).remove(0);
    let spec = &job["spec"]["jobTemplate"]["spec"];
    let shards = spec["completions"].as_u64().expect("a number");
    assert_eq!(spec["completionMode"], "Indexed");
    let args: Vec<&str> = spec["template"]["spec"]["containers"][0]["args"]
        .as_sequence()
        .expect("arguments")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(args[..5], ["backup", "--run", "$(RUN)", "--shard", &format!("$(SHARD)/{shards}")]);
}

#[test]
fn the_container_runs_as_nobody_special_and_its_policy_has_a_file_for_each_secret() {
    let compose = documents(&root().join("deploy/docker/compose.lifeboat.yml")).remove(0);
    let service = &compose["services"]["lifeboat"];
    assert!(service["environment"].is_null(), "secrets are files");
    assert_eq!(service["cap_drop"][0], "ALL");
    assert_eq!(service["read_only"], true);
    assert_eq!(service["networks"][0], "im-network");
    assert!(service["logging"]["options"]["max-size"].is_string());
    let policy = root().join("deploy/docker/policy.toml");
    let stack = Stack::load(&policy).unwrap_or_else(|problems| panic!("{:#?}", problems.lines()));
    let named = read("deploy/docker/policy.toml");
    let named = named.split('"').filter_map(|part| part.strip_prefix("/run/secrets/"));
    let named: BTreeSet<&str> = named.collect();
    assert_eq!(named.len(), stack.secrets().len(), "every secret is such a file");
    let keys = |value: &Value| -> BTreeSet<String> {
        let keys = value.as_mapping().expect("a table").keys();
        keys.map(|key| key.as_str().expect("a name").to_owned()).collect()
    };
    let listed = service["secrets"].as_sequence().expect("secrets").iter();
    let listed: BTreeSet<&str> = listed.filter_map(Value::as_str).collect();
    assert_eq!(listed, named);
    assert_eq!(keys(&compose["secrets"]), named.iter().map(|name| (*name).to_owned()).collect());
}

/// Copies the units to a folder of ours, with a program that is there in the place of ours.
fn units() -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut copies = Vec::new();
    for file in files("deploy/systemd") {
        let text = fs::read_to_string(&file).expect("a unit").replace("/usr/bin/lifeboat", "/bin/true");
        let copy = dir.path().join(file.file_name().expect("a name"));
        fs::write(&copy, text).expect("written");
        copies.push(copy);
    }
    (dir, copies)
}

#[test]
#[ignore = "needs systemd-analyze: run fixtures/test"]
fn systemd_takes_the_units_and_finds_them_safe() {
    let (dir, units) = units();
    let analyze = |args: &[&str]| {
        let run = Command::new("systemd-analyze").args(args).current_dir(dir.path()).output();
        run.expect("systemd-analyze, of Debian's package systemd")
    };
    for unit in units {
        let unit = unit.to_string_lossy().replace("lifeboat@.service", "lifeboat@backup.service");
        let template = dir.path().join("lifeboat@.service");
        if !Path::new(&unit).exists() {
            fs::copy(&template, &unit).expect("copied");
        }
        let verified = analyze(&["verify", "--man=no", &unit]);
        ended_well(&verified, &unit);
        assert!(verified.stderr.is_empty(), "{unit}: {}", String::from_utf8_lossy(&verified.stderr));
        if unit.ends_with(".service") {
            ended_well(&analyze(&["security", "--offline=true", "--threshold=20", &unit]), &unit);
        }
    }
    let text = read("deploy/systemd/lifeboat@verify.timer");
    let calendar = text.lines().find_map(|line| line.strip_prefix("OnCalendar=")).expect("a time");
    ended_well(&analyze(&["calendar", calendar]), calendar);
}

/// Runs docker, and returns what it printed.
fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).env("DOCKER_BUILDKIT", "0").output().expect("docker");
    ended_well(&output, &format!("docker {args:?}"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Images that are removed when the test ends.
struct Images<'a>(&'a [&'a str]);

impl Drop for Images<'_> {
    fn drop(&mut self) {
        for image in self.0 {
            let _ = Command::new("docker").args(["image", "rm", "--force", image]).output();
        }
    }
}

#[test]
#[ignore = "needs docker and the image lifeboat-bare of fixtures/stack: run fixtures/test"]
fn the_last_stage_of_the_image_runs_without_rights_on_a_read_only_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("tree/out");
    fs::create_dir_all(out.join("state")).expect("a folder");
    fs::copy(env!("CARGO_BIN_EXE_lifeboat"), out.join("lifeboat")).expect("the program");
    fs::write(out.join("ca-certificates.crt"), "none here\n").expect("written");
    let (tar, tree) = (dir.path().join("tree.tar"), dir.path().join("tree"));
    let packed = Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&tree).arg("out").output();
    ended_well(&packed.expect("tar"), "tar");
    let tag = std::process::id();
    let (binary, image) = (format!("lifeboat-test-binary:{tag}"), format!("lifeboat-test-image:{tag}"));
    let names = [image.as_str(), binary.as_str()];
    let _images = Images(&names);
    docker(&["import", &tar.to_string_lossy(), &binary]);
    // The stage that compiles needs an image of Rust; what it makes is handed in.
    let whole = read("deploy/docker/Dockerfile");
    let (before, rest) = whole.split_once("FROM ${RUST} AS build").expect("the stage that compiles");
    let (_, after) = rest.split_once("FROM ${BINARY}").expect("the stage that is handed in");
    let context = dir.path().join("context");
    fs::create_dir(&context).expect("a folder");
    fs::write(context.join("Dockerfile"), format!("{before}FROM ${{BINARY}}{after}")).expect("written");
    let handed = format!("BINARY={binary}");
    let build = ["build", "--quiet", "--build-arg", "BASE=lifeboat-bare:latest", "--build-arg", &handed];
    docker(&[&build[..], &["--tag", &image, &context.to_string_lossy()]].concat());
    let bare = ["run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL"];
    let version = docker(&[&bare[..], &[&image, "--version"]].concat());
    assert_eq!(version, format!("lifeboat {}", env!("CARGO_PKG_VERSION")));
    let shell = ["--entrypoint", "/bin/sh", &image, "-c", "id -u; stat -c %u:%a /var/lib/lifeboat"];
    assert_eq!(docker(&[&bare[..], &shell].concat()), "10001\n10001:755");
}
