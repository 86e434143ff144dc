//! What is secret appears nowhere: not in any stream, not in the repository, not in the process list.

use std::{fs, process::Command};

use crate::stage::{Silent, Stage, closed_port, ran, send};

const SECRET: &str = "correct-horse-battery";

pub fn no_secret_in_keys(stage: &Stage, text: &str) {
    for key in ["keys/identity.txt", "keys/index.key"] {
        let key = stage.read(key);
        let line = key.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
        assert!(!text.contains(line), "{text}");
    }
    let signing = stage.read("keys/signing.key");
    assert!(!text.contains(signing.lines().nth(1).unwrap()), "{text}");
}

#[test]
fn no_face_and_no_file_shows_a_password_or_a_key() {
    let stage = Stage::with_files();
    stage.add_redis(closed_port(), SECRET);
    stage.write("data/app.env", &format!("TOKEN={SECRET}\n"));
    let verbs: [&[&str]; 11] = [
        &["policy", "check"],
        &["policy", "show", "--effective"],
        &["-v", "backup"],
        &["-v", "snapshots"],
        &["-v", "ls", "latest"],
        &["-v", "verify", "--read-data"],
        &["-v", "restore", "latest", "--plan"],
        &["-v", "catalog", "rebuild"],
        &["-v", "keys", "list"],
        &["-v", "keys", "check"],
        &["-v", "kit", "--text"],
    ];
    for words in verbs {
        for face in [&[][..], &["--json"]] {
            let ran = stage.run(&[words, face].concat()).hides(SECRET);
            no_secret_in_keys(&stage, &format!("{}{}", ran.out, ran.err));
        }
    }
    stage.holds_nowhere("repo", SECRET);
    stage.holds_nowhere("state", SECRET);
    // Names of files are told to nobody without a key either.
    stage.holds_nowhere("repo", "nginx.conf");
}

#[test]
fn no_face_shows_a_passphrase_or_the_key_that_it_protects() {
    let stage = Stage::with_files();
    stage.snapshot();
    stage.write("phrase", SECRET);
    stage.run(&["--passphrase-file", "phrase", "keys", "protect", "keys/identity.txt"]).ends(0);
    let new = ["keys", "new", "--passphrase", "--out", "second.age"];
    let with = ["--identity", "keys/identity.txt.age"];
    let check = [&with[..], &["keys", "check"]].concat();
    let export = [&with[..], &["export", "latest", "config", "--format", "tar"]].concat();
    for words in [&new[..], &check, &export] {
        let ran = stage.run(&[&["-v", "--passphrase-file", "phrase"], words].concat()).ends(0).hides(SECRET);
        no_secret_in_keys(&stage, &format!("{}{}", ran.out, ran.err));
        assert!(!format!("{}{}", ran.out, ran.err).contains("AGE-SECRET-KEY"), "{words:?}");
    }
    // Given where everybody can read it, it is not taken, and not repeated.
    stage.run(&["--passphrase", SECRET, "keys", "check"]).ends(2).hides(SECRET);
    for place in ["keys", "repo", "state"] {
        stage.holds_nowhere(place, SECRET);
    }
    assert!(!stage.read("second.age").contains("AGE-SECRET-KEY"));
}

#[test]
fn no_face_and_no_file_shows_the_token_of_a_robot() {
    let token = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
    let stage = Stage::with_files();
    let url = format!("http://127.0.0.1:{}/robot/send?access_token={token}", closed_port());
    stage.write("secrets/address", &url);
    stage.write("secrets/no-address", &format!("{token} is no address"));
    stage.write("secrets/sign", SECRET);
    let file = |name: &str| format!("{{ file = \"{}\" }}", stage.at(&format!("secrets/{name}")));
    let (address, no_address, sign) = (file("address"), file("no-address"), file("sign"));
    for (kind, webhook) in
        [("dingtalk", &address), ("feishu", &no_address), ("wecom", &address), ("slack", &no_address)]
    {
        let secret = if kind.len() > 5 { format!("secret = {sign}\n") } else { String::new() };
        stage.append(&format!("[[notify]]\nkind = \"{kind}\"\nwebhook = {webhook}\n{secret}"));
    }
    stage.append(&format!("[[notify]]\nkind = \"webhook\"\nwebhook = {address}\nsecret = {sign}\n"));
    stage.append(&format!("[[notify]]\nkind = \"healthchecks\"\nwebhook = {address}\n"));
    let verbs: [(&[&str], i32); 4] = [
        (&["policy", "check"], 0),
        (&["policy", "show", "--effective"], 0),
        (&["-v", "notify", "test"], 1),
        (&["-v", "notify", "test", "--digest"], 1),
    ];
    for (words, exit) in verbs {
        for face in [&[][..], &["--json"]] {
            let ran = stage.run(&[words, face].concat()).ends(exit).hides(token).hides(SECRET);
            // The path and the query are as secret as what is in them.
            ran.hides("robot/send").hides("access_token");
        }
    }
    stage.holds_nowhere("state", token);
    stage.holds_nowhere("repo", token);
}

#[test]
fn the_process_list_shows_no_secret_while_a_backup_runs() {
    let stage = Stage::with_files();
    let server = Silent::new();
    stage.add_redis(server.port(), SECRET);
    let child = stage.start(&["backup"]);
    let caller = server.caller();
    for pid in family(child.id()) {
        for file in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains(SECRET), "/proc/{pid}/{file}");
        }
    }
    send(&child, rustix::process::Signal::TERM);
    ran(&child.wait_with_output().unwrap()).ends(130).hides(SECRET);
    drop(caller);
}

/// Returns a process and all its descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        let children = Command::new("pgrep").args(["-P", &all[at].to_string()]).output();
        let children = children.map(|found| String::from_utf8_lossy(&found.stdout).into_owned());
        all.extend(children.unwrap_or_default().lines().filter_map(|line| line.parse::<u32>().ok()));
        at += 1;
    }
    all
}

#[test]
fn a_secret_that_is_not_text_is_not_shown_by_the_failure() {
    use std::os::unix::ffi::OsStrExt as _;
    let stage = Stage::new();
    stage.append(
        "[[source]]\nname = \"db\"\nkind = \"mysql\"\nuser = \"u\"\npassword = { env = \"DB_PASSWORD\" }\n",
    );
    let value = [b"\xff\xfe", SECRET.as_bytes()].concat();
    let mut program = stage.program();
    program.env("DB_PASSWORD", std::ffi::OsStr::from_bytes(&value)).args(["policy", "check"]);
    ran(&program.output().unwrap()).ends(2).hides(SECRET).tells("its value is not UTF-8");
}
