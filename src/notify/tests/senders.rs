//! What each service is sent, and what counts as taken.

use std::{fs, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::net::TcpListener;

use super::{
    facts::{at, calm, drill, incident, message, standing},
    receiver::{Receiver, closed_port},
};
use crate::{
    clock::StoppedClock,
    drill::Outcome,
    names::{Job, Task},
    notify::{
        Limits, Message, Notifier, Phase, Refused, Topic,
        robots::{dingtalk_url, feishu_sign, ping_url},
    },
    policy::{
        AddressConfig, Channel, ExecConfig, HealthchecksConfig, Language, NotifyConfig, Occasion,
        RobotConfig, SecretRef, WebhookConfig,
    },
    status::{Kind, Urgency},
};

const SECRET: &str = "SEC0123456789abcdef";
const TOKEN: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const PATIENCE: Duration = Duration::from_secs(20);

/// Secrets in files.
pub struct Safe(tempfile::TempDir);

impl Safe {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn keep(&self, name: &str, value: &str) -> SecretRef {
        let path = self.0.path().join(name);
        fs::write(&path, format!("{value}\n")).unwrap();
        SecretRef::File(path)
    }
}

pub fn named(name: &str, channel: Channel) -> NotifyConfig {
    NotifyConfig { name: name.into(), on: vec![Occasion::Trouble], fallback: false, quiet: None, channel }
}

fn notifier(patience: Duration) -> Notifier {
    let limits = Limits { request: patience, mail: patience, program: patience };
    Notifier::new(Arc::new(StoppedClock::at(at("2026-11-23T00:00:18Z")))).with_limits(limits)
}

fn trouble() -> Message {
    message(Language::Zh, Topic::Opened(incident(Kind::Failed, "backup", Urgency::Page)))
}

async fn send(channel: Channel, message: &Message) -> Result<(), Refused> {
    notifier(PATIENCE).send(&named("x", channel), message).await
}

/// What a robot at a path answers to a message.
struct Robot {
    safe: Safe,
    receiver: Receiver,
}

impl Robot {
    async fn answering(status: u16, body: &str) -> Self {
        Self { safe: Safe::new(), receiver: Receiver::answering(&[(status, body)]).await }
    }

    fn webhook(&self) -> SecretRef {
        self.safe.keep("webhook", &self.receiver.url(&format!("/robot/send?access_token={TOKEN}")))
    }

    fn robot(&self) -> RobotConfig {
        RobotConfig { webhook: self.webhook(), secret: Some(self.safe.keep("secret", SECRET)) }
    }

    fn address(&self) -> AddressConfig {
        AddressConfig { webhook: self.webhook() }
    }

    fn hook(&self, template: Option<&str>) -> Channel {
        let secret = Some(self.safe.keep("secret", SECRET));
        Channel::Webhook(WebhookConfig {
            webhook: self.webhook(),
            secret,
            template: template.map(str::to_owned),
        })
    }

    fn every_kind(&self) -> [Channel; 6] {
        [
            Channel::Dingtalk(self.robot()),
            Channel::Feishu(self.robot()),
            Channel::Wecom(self.address()),
            Channel::Slack(self.address()),
            self.hook(None),
            Channel::Healthchecks(HealthchecksConfig { webhook: self.webhook(), jobs: vec![Job::Backup] }),
        ]
    }
}

fn mac(key: &str, text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[test]
fn signatures_are_those_of_the_vendors_own_examples_in_python() {
    let now = at("2026-11-23T00:00:18Z");
    let url = dingtalk_url("https://oapi.dingtalk.com/robot/send?access_token=t", Some(SECRET), now).unwrap();
    assert_eq!(
        url.as_str(),
        "https://oapi.dingtalk.com/robot/send?access_token=t&timestamp=1795392018000&sign=zva5w2wjZAD9zC31b3Y%2FIbXUiZRkh02JZrwGpzqS%2Flo%3D"
    );
    let (timestamp, sign) = feishu_sign(SECRET, now);
    assert_eq!(
        (timestamp.as_str(), sign.as_str()),
        ("1795392018", "JOxI6zg7Cp8cojpKH9naTBgjxh4d0KDMtUuQggBCn9w=")
    );
}

#[tokio::test]
async fn dingtalk_gets_markdown_and_a_signature_that_it_can_check() {
    let robot = Robot::answering(200, r#"{"errcode":0,"errmsg":"ok"}"#).await;
    send(Channel::Dingtalk(robot.robot()), &trouble()).await.unwrap();
    let request = robot.receiver.only();
    assert_eq!(request.query("access_token").as_deref(), Some(TOKEN));
    let timestamp = request.query("timestamp").unwrap();
    let expected = BASE64_STANDARD.encode(mac(SECRET, &format!("{timestamp}\n{SECRET}")));
    assert_eq!(request.query("sign"), Some(expected));
    assert_eq!(timestamp, at("2026-11-23T00:00:18Z").timestamp_millis().to_string());
    let body = request.json();
    assert_eq!(body["msgtype"], "markdown");
    let text = body["markdown"]["text"].as_str().unwrap();
    assert!(text.starts_with("### 【紧急】im-suite：备份失败"), "{text}");
    assert!(text.contains("lifeboat"), "robots may ask for a keyword: {text}");
    assert_eq!(request.headers["content-type"], "application/json; charset=utf-8");
}

#[tokio::test]
async fn feishu_gets_a_card_and_a_signature_that_it_can_check() {
    let robot = Robot::answering(200, r#"{"code":0,"msg":"success","data":{}}"#).await;
    send(Channel::Feishu(robot.robot()), &trouble()).await.unwrap();
    let body = robot.receiver.only().json();
    let timestamp = body["timestamp"].as_str().unwrap();
    assert_eq!(body["sign"], BASE64_STANDARD.encode(mac(&format!("{timestamp}\n{SECRET}"), "")));
    assert_eq!(body["card"]["header"]["template"], "red");
    assert!(body["card"]["header"]["title"]["content"].as_str().unwrap().contains("备份失败"), "{body}");
    let older = Robot::answering(200, r#"{"StatusCode":0,"StatusMessage":"success"}"#).await;
    let unsigned = RobotConfig { secret: None, ..older.robot() };
    send(Channel::Feishu(unsigned), &message(Language::Zh, Topic::Drill(drill(Outcome::Passed))))
        .await
        .unwrap();
    let body = older.receiver.only().json();
    assert_eq!(
        (&body["sign"], &body["card"]["header"]["template"]),
        (&serde_json::Value::Null, &"green".into())
    );
}

#[tokio::test]
async fn wecom_gets_no_more_bytes_than_it_takes() {
    let robot = Robot::answering(200, r#"{"errcode":0,"errmsg":"ok"}"#).await;
    let mut standing = standing();
    let one = standing.incidents[0].clone();
    standing.incidents = vec![one; 60];
    send(Channel::Wecom(robot.address()), &message(Language::Zh, Topic::Digest(Box::new(standing))))
        .await
        .unwrap();
    let body = robot.receiver.only().json();
    let text = body["markdown"]["content"].as_str().unwrap();
    assert!((3000..=4096).contains(&text.len()), "{} bytes", text.len());
    assert!(text.starts_with("### im-suite") && text.ends_with("\n…"), "{text}");
}

#[tokio::test]
async fn slack_and_what_understands_its_messages_say_ok_in_three_ways() {
    for answer in ["ok", r#"{"ok":true}"#, r#"{"success":true}"#] {
        let robot = Robot::answering(200, answer).await;
        send(Channel::Slack(robot.address()), &trouble()).await.unwrap();
        let text = robot.receiver.only().json()["text"].as_str().unwrap().to_owned();
        assert!(text.starts_with("*【紧急】im-suite"), "{text}");
    }
}

#[tokio::test]
async fn a_webhook_gets_all_facts_and_a_signature_over_the_body() {
    let robot = Robot::answering(204, "").await;
    send(robot.hook(None), &trouble()).await.unwrap();
    let request = robot.receiver.only();
    let signature = format!("sha256={}", hex::encode(mac(SECRET, &request.body)));
    assert_eq!(request.headers["x-lifeboat-signature"], signature.as_str());
    assert_eq!(request.headers["x-lifeboat-timestamp"], "1795392018");
    let body = request.json();
    assert_eq!((&body["schema"], &body["urgent"]), (&"lifeboat.message/1".into(), &true.into()));
    assert_eq!(body["topic"]["opened"]["kind"], "failed");
    assert!(body["text"].as_str().unwrap().contains("docs/runbook/failed.md"));
}

#[tokio::test]
async fn a_template_of_the_policy_makes_the_body() {
    let robot = Robot::answering(200, "").await;
    let template =
        r#"{"summary": {{ title | tojson }}, "n": {{ incident.number }}, "page": {{ urgent | tojson }}}"#;
    send(robot.hook(Some(template)), &trouble()).await.unwrap();
    let request = robot.receiver.only();
    assert_eq!(request.json()["n"], 12);
    assert!(request.json()["summary"].as_str().unwrap().contains("备份失败"));
    assert_eq!(request.headers["content-type"], "application/json; charset=utf-8");
    let robot = Robot::answering(200, "").await;
    send(robot.hook(Some("{{ stack }}\n{{ text }}")), &trouble()).await.unwrap();
    assert!(robot.receiver.only().body.starts_with("im-suite\n【紧急】"));
    assert_eq!(robot.receiver.only().headers["content-type"], "text/plain; charset=utf-8");
    let refused = send(robot.hook(Some("{{ incident.number.no.such }}")), &trouble()).await.unwrap_err();
    assert!(!refused.again && refused.why.contains("template"), "{refused:?}");
    assert_eq!(robot.receiver.requests().len(), 1);
}

#[tokio::test]
async fn a_ping_goes_to_the_address_of_its_phase_with_the_exit_code() {
    let ping = |phase, exit| {
        let text = Some("`mysql` does not answer".to_owned());
        message(Language::En, Topic::Ping { task: Task::of(Job::Backup), phase, exit, text })
    };
    let robot = Robot::answering(200, "OK").await;
    let channel =
        || Channel::Healthchecks(HealthchecksConfig { webhook: robot.webhook(), jobs: vec![Job::Backup] });
    for message in
        [ping(Phase::Started, None), ping(Phase::Failed, Some(20)), ping(Phase::Succeeded, Some(0))]
    {
        send(channel(), &message).await.unwrap();
    }
    send(channel(), &message(Language::En, Topic::Test)).await.unwrap();
    let requests = robot.receiver.requests();
    let paths: Vec<&str> = requests.iter().map(|one| one.path.split('?').next().unwrap()).collect();
    assert_eq!(paths, ["/robot/send/start", "/robot/send/fail", "/robot/send", "/robot/send/log"]);
    assert!(requests[1].body.contains("exit 20\n`mysql` does not answer"), "{}", requests[1].body);
    let topic = ping(Phase::Started, None).topic;
    let url = ping_url("https://hc-ping.com/uuid/?rid=1", &topic).unwrap();
    assert_eq!(url.as_str(), "https://hc-ping.com/uuid/start?rid=1");
}

#[tokio::test]
async fn http_200_with_an_error_in_the_body_is_a_refusal() {
    let cases = [
        (0, r#"{"errcode":310000,"errmsg":"sign not match"}"#, false, "errcode 310000: sign not match"),
        (0, r#"{"errcode":130101,"errmsg":"send too fast"}"#, true, "errcode 130101: send too fast"),
        (0, "<html>login</html>", false, "the answer is not that of a robot: <html>login</html>"),
        (1, r#"{"code":19021,"msg":"sign match fail"}"#, false, "code 19021: sign match fail"),
        (1, r#"{"code":9499,"msg":"too many request"}"#, true, "code 9499: too many request"),
        (1, r#"{"StatusCode":1,"StatusMessage":"no"}"#, false, "StatusCode 1: no"),
        (
            2,
            r#"{"errcode":93000,"errmsg":"invalid webhook url"}"#,
            false,
            "errcode 93000: invalid webhook url",
        ),
        (
            2,
            r#"{"errcode":45009,"errmsg":"api freq out of limit"}"#,
            true,
            "errcode 45009: api freq out of limit",
        ),
        (3, "invalid_token", false, "the answer is not `ok`: invalid_token"),
        (5, "OK (not found)", false, "the answer is `OK (not found)`"),
        (5, "OK (rate limited)", true, "too many pings"),
    ];
    for (kind, answer, again, why) in cases {
        let robot = Robot::answering(200, answer).await;
        let channel = robot.every_kind()[kind].clone();
        let refused = send(channel, &trouble()).await.unwrap_err();
        assert_eq!((refused.why.as_str(), refused.again), (why, again));
        assert_eq!(robot.receiver.requests().len(), 1, "it is tried once");
    }
}

#[tokio::test]
async fn a_server_in_trouble_is_tried_again_and_one_that_refuses_is_not() {
    for (status, again) in
        [(500, true), (502, true), (503, true), (429, true), (400, false), (403, false), (404, false)]
    {
        let robot = Robot::answering(status, "no").await;
        for channel in robot.every_kind() {
            let refused = send(channel, &trouble()).await.unwrap_err();
            assert_eq!(refused.again, again, "{status}: {refused:?}");
            assert!(refused.why.starts_with(&format!("HTTP {status}")), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_counts_as_refused() {
    let elsewhere = Robot::answering(200, r#"{"errcode":0}"#).await;
    let robot = Robot::answering(302, &elsewhere.receiver.url("/elsewhere")).await;
    for channel in robot.every_kind() {
        let refused = send(channel, &trouble()).await.unwrap_err();
        assert!(!refused.again && refused.why.starts_with("HTTP 302"), "{refused:?}");
        assert!(refused.hint.unwrap().contains("Redirects are not followed"));
    }
    assert_eq!(elsewhere.receiver.requests().len(), 0);
}

#[tokio::test]
async fn one_who_hangs_is_given_up_in_time_and_one_who_is_away_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let safe = Safe::new();
    let slack = |port: u16| {
        let url = format!("http://127.0.0.1:{port}/services/{TOKEN}");
        named("x", Channel::Slack(AddressConfig { webhook: safe.keep("webhook", &url) }))
    };
    let hung = slack(silent.local_addr().unwrap().port());
    let refused = notifier(Duration::from_millis(100)).send(&hung, &trouble()).await.unwrap_err();
    assert_eq!((refused.why.as_str(), refused.again), ("`127.0.0.1` did not answer in time", true));
    let away = slack(closed_port().await);
    let refused = notifier(PATIENCE).send(&away, &trouble()).await.unwrap_err();
    assert!(refused.again && refused.why.starts_with("`127.0.0.1` cannot be reached: "), "{refused:?}");
}

#[tokio::test]
async fn no_refusal_holds_a_token_or_a_secret() {
    let echo = format!("no such token {TOKEN} nor {SECRET}");
    let robots = [
        Robot::answering(
            200,
            &format!(r#"{{"errcode":300001,"code":19001,"errmsg":"{echo}","msg":"{echo}"}}"#),
        )
        .await,
        Robot::answering(404, &echo).await,
        Robot::answering(302, &format!("/{TOKEN}")).await,
    ];
    for robot in &robots {
        for channel in robot.every_kind() {
            let has_secret = channel.secrets().len() > 1;
            if let Err(refused) = send(channel, &trouble()).await {
                let told = format!("{refused:?}");
                assert!(!told.contains(TOKEN), "{told}");
                assert!(!has_secret || !told.contains(SECRET), "{told}");
                assert!(!told.contains("access_token"), "{told}");
            }
        }
    }
    let safe = Safe::new();
    for address in [format!("http://127.0.0.1:{}/{TOKEN}", closed_port().await), format!("{TOKEN} is no URL")]
    {
        let webhook = safe.keep("webhook", &address);
        let refused = send(Channel::Slack(AddressConfig { webhook }), &trouble()).await.unwrap_err();
        assert!(!format!("{refused:?}").contains(TOKEN), "{refused:?}");
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_is_named_and_not_waited_for() {
    let webhook = SecretRef::Env("LIFEBOAT_NO_SUCH_VARIABLE".into());
    let refused = send(Channel::Wecom(AddressConfig { webhook }), &trouble()).await.unwrap_err();
    assert!(!refused.again && refused.why.contains("$LIFEBOAT_NO_SUCH_VARIABLE"), "{refused:?}");
    assert!(refused.hint.is_some());
}

fn shell(script: &str, file: &std::path::Path) -> Channel {
    let words = ["/bin/sh", "-c", script, "sh", file.to_str().unwrap()];
    Channel::Exec(ExecConfig { command: words.map(str::to_owned).to_vec() })
}

#[tokio::test]
async fn a_program_reads_the_message_and_sees_nothing_of_our_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("seen");
    let script = r#"cat > "$1"; env > "$1.env"; pwd >> "$1.env""#;
    let calm = message(Language::En, Topic::Digest(Box::new(calm())));
    send(shell(script, &file), &calm).await.unwrap();
    let seen: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(seen["topic"]["digest"]["verdict"], "good");
    let env = fs::read_to_string(dir.path().join("seen.env")).unwrap();
    let names: Vec<&str> =
        env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    // PWD and the like are the shell's own.
    let strange: Vec<&&str> =
        names.iter().filter(|name| !["PATH", "LANG", "PWD", "SHLVL", "OLDPWD", "_"].contains(name)).collect();
    assert!(strange.is_empty(), "{env}");
    assert!(std::env::vars().count() > names.len(), "there was something to see");
}

#[tokio::test]
async fn a_program_that_fails_or_is_not_there_is_told_with_what_it_said() {
    let dir = tempfile::tempdir().unwrap();
    let refused = send(shell("echo 'no modem' >&2; exit 3", dir.path()), &trouble()).await.unwrap_err();
    assert_eq!((refused.why.as_str(), refused.again), ("`/bin/sh` failed with exit code 3: no modem", true));
    let away = Channel::Exec(ExecConfig { command: vec!["/no/such/program".into()] });
    let refused = send(away, &trouble()).await.unwrap_err();
    assert!(
        !refused.again && refused.why.starts_with("`/no/such/program` cannot be started: "),
        "{refused:?}"
    );
    // One that reads nothing, whatever the size of the message, has done its duty.
    send(shell("exit 0", dir.path()), &message(Language::En, Topic::Digest(Box::new(standing()))))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_program_that_hangs_is_ended_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = r#"sleep 600 & echo $! > "$1"; wait"#;
    let channel = named("x", shell(script, &file));
    let mut patience = Duration::from_millis(200);
    // A busy machine may need longer to get as far as the child.
    let child = loop {
        let refused = notifier(patience).send(&channel, &trouble()).await.unwrap_err();
        assert!(refused.again && refused.why.contains("was not done after"), "{refused:?}");
        match fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u32>().ok()) {
            Some(pid) => break pid,
            None => patience *= 2,
        }
    };
    let began = std::time::Instant::now();
    // It is gone, or waits to be reaped by init.
    let is_alive = || {
        fs::read_to_string(format!("/proc/{child}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
    };
    while is_alive() {
        assert!(began.elapsed() < PATIENCE, "process {child} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
