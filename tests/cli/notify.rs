//! `lifeboat notify test`: a message to every channel right now, and what each of them said.

#[allow(dead_code, reason = "the command line needs a part of it")]
#[path = "../../src/notify/tests/receiver.rs"]
mod receiver;
#[allow(dead_code, reason = "the command line needs a part of it")]
#[path = "../../src/notify/tests/smtp.rs"]
mod smtp;

use serde_json::Value;

use self::{
    receiver::Receiver,
    smtp::{CERTIFICATE, Opening, Smtp},
};
use crate::stage::Stage;

const PASSWORD: &str = "correct-horse-battery";

/// Adds a channel with an address.
fn add(stage: &Stage, name: &str, kind: &str, address: &str) {
    let file = format!("secrets/{name}");
    stage.write(&file, address);
    stage.append(&format!(
        "[[notify]]\nname = \"{name}\"\nkind = \"{kind}\"\nwebhook = {{ file = \"{}\" }}\n",
        stage.at(&file)
    ));
}

/// Adds a program that writes what it reads and its environment into files.
fn add_program(stage: &Stage, name: &str) {
    let seen = stage.at("seen");
    let script = format!("cat > {seen}.json; env > {seen}.env");
    stage.append(&format!(
        "[[notify]]\nname = \"{name}\"\nkind = \"exec\"\nfallback = true\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_channel_gets_a_test_and_a_line_fallbacks_too() {
    let chat = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new();
    add(&stage, "chat", "slack", &chat.url("/services/T/B/x"));
    add_program(&stage, "script");
    let ran = stage.run_with(&["notify", "test"], &[("DB_PASSWORD", PASSWORD)], "").ends(0);
    assert_eq!(ran.out, "chat (slack): sent\nscript (exec): sent\n");
    assert!(chat.only().json()["text"].as_str().unwrap().contains("demo: this is a test"));
    let seen: Value = serde_json::from_str(&stage.read("seen.json")).unwrap();
    assert_eq!((&seen["topic"], &seen["is_trial"]), (&"test".into(), &true.into()));
    assert!(!stage.read("seen.env").contains(PASSWORD), "{}", stage.read("seen.env"));
    assert_eq!(stage.run(&["--quiet", "notify", "test"]).ends(0).out, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_container_without_root_certificates_can_tell_people_too() {
    let chat = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new();
    add(&stage, "chat", "slack", &chat.url("/"));
    let bare = [("SSL_CERT_FILE", "/no/such/file"), ("SSL_CERT_DIR", "/no/such/folder")];
    stage.run_with(&["notify", "test"], &bare, "").ends(0);
    assert_eq!(chat.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_refuses_is_told_with_what_to_do_and_fails_the_whole() {
    let chat = Receiver::answering(&[(200, r#"{"errcode":310000,"errmsg":"sign not match"}"#)]).await;
    let stage = Stage::new();
    add(&stage, "duty-group", "dingtalk", &chat.url("/robot/send?access_token=t"));
    add_program(&stage, "script");
    let ran = stage.run(&["notify", "test"]).ends(1);
    insta::assert_snapshot!(ran.out, @"
    duty-group (dingtalk): refused: errcode 310000: sign not match
        hint: The robot asks for a signature, a keyword or an address. With a signature: is `secret` its SEC… and this host's clock right? With a keyword: use lifeboat.
    script (exec): sent
    ");
    let json = stage.run(&["notify", "test", "--json"]).ends(1).json();
    assert_eq!(json["schema"], "lifeboat.notify/1");
    let channels = json["channels"].as_array().unwrap();
    assert_eq!(channels.len(), 2);
    assert_eq!(channels[0]["error"], "errcode 310000: sign not match");
    assert!(channels[0]["hint"].as_str().unwrap().contains("SEC"), "{json}");
    let facts: Vec<_> = channels.iter().map(|one| [&one["name"], &one["kind"], &one["status"]]).collect();
    assert_eq!(facts, [["duty-group", "dingtalk", "refused"], ["script", "exec", "sent"]]);
    assert_eq!(channels[1]["error"], Value::Null);
    stage.run(&["notify", "test", "script"]).ends(0);
}

#[test]
fn nobody_to_tell_is_a_wrong_policy_and_a_strange_name_a_wrong_command_line() {
    let stage = Stage::new();
    stage.run(&["notify", "test"]).ends(2).tells("the policy has no [[notify]]");
    add_program(&stage, "script");
    stage.run(&["notify", "test"]).ends(2).tells("every channel is a fallback, so nobody is told first");
    add(&stage, "chat", "slack", "http://127.0.0.1:1/");
    stage.run(&["notify", "test", "scirpt"]).ends(2).tells("It has: script, chat.");
    assert_eq!(stage.run(&["notify", "test", "--json", "x"]).ends(2).json()["schema"], "lifeboat.failure/1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fallback_that_was_repaired_is_in_trouble_until_a_test_reaches_it() {
    let chat = Receiver::answering(&[(404, "no_team")]).await;
    let spare = Receiver::answering(&[(404, "no_service"), (404, "no_service"), (200, "ok")]).await;
    let stage = Stage::with_files();
    add(&stage, "chat", "slack", &chat.url("/"));
    stage.append("on = [\"success\"]\n");
    add(&stage, "spare", "slack", &spare.url("/"));
    stage.append("fallback = true\n");
    let in_trouble = || {
        stage.run(&["serve", "--once"]).ends(0);
        let open = stage.run(&["incidents", "--json"]).ends(0).json();
        let open = open["open"].as_array().unwrap().iter().filter(|one| one["kind"] == "notify");
        open.map(|one| one["about"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    stage.run(&["serve", "--once", "backup"]).ends(0);
    assert_eq!(in_trouble(), ["chat", "spare"]);
    stage.run(&["notify", "test", "spare"]).ends(1);
    assert_eq!(in_trouble(), ["chat", "spare"]);
    stage.run(&["notify", "test", "spare"]).ends(0);
    assert_eq!(in_trouble(), ["chat"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daily_report_that_is_sent_by_hand_says_so_and_how_things_really_are() {
    let chat = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::with_files();
    stage.edit(|text| format!("language = \"zh\"\n{text}"));
    add(&stage, "chat", "slack", &chat.url("/"));
    let digest = |nth: usize| {
        stage.run(&["notify", "test", "--digest"]).ends(0);
        chat.requests()[nth].json()["text"].as_str().unwrap().to_owned()
    };
    let text = digest(0);
    assert!(text.contains("备份日报") && text.contains("手动测试"), "{text}");
    assert!(text.contains("config（files）：没有可用快照"), "{text}");
    let snapshot = stage.snapshot();
    let text = digest(1);
    assert!(text.contains(&format!("最新快照 {snapshot}")) && !text.contains("没有可用快照"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_goes_over_the_encryption_that_the_policy_asks_for_and_to_a_server_that_is_believed() {
    for (opening, encryption) in [(Opening::StartTls, "starttls"), (Opening::Tls, "tls")] {
        let server = Smtp::starting(opening, None).await;
        let stage = Stage::new();
        stage.write("secrets/mail", PASSWORD);
        stage.write("ca.pem", CERTIFICATE);
        stage.append(&format!(
            "[[notify]]\nkind = \"email\"\nhost = \"localhost\"\nport = {}\nencryption = \"{encryption}\"\n\
             user = \"ops@example.com\"\npassword = {{ file = \"{}\" }}\nfrom = \"ops@example.com\"\n\
             to = [\"oncall@example.com\"]\n",
            server.port,
            stage.at("secrets/mail"),
        ));
        stage.run(&["notify", "test"]).ends(1).hides(PASSWORD);
        assert!(server.heard().login.is_none(), "{:?}", server.heard());
        let believed = [("SSL_CERT_FILE", stage.at("ca.pem"))];
        let believed: Vec<(&str, &str)> =
            believed.iter().map(|(name, path)| (*name, path.as_str())).collect();
        stage.run_with(&["notify", "test"], &believed, "").ends(0).hides(PASSWORD);
        let heard = server.heard();
        assert_eq!(heard.login, Some(("ops@example.com".into(), PASSWORD.into())));
        assert_eq!(heard.mails.len(), 1);
        let plain = heard.commands.iter().filter(|command| command.starts_with("plain "));
        let strange = plain.filter(|command| !command.contains("EHLO") && !command.contains("STARTTLS"));
        assert_eq!(strange.count(), 0, "{heard:?}");
    }
}
