//! From the outbox to people, with servers that take messages and others that do not.

use std::{fs, sync::Arc};

use chrono::{DateTime, Duration, Utc};

use super::*;
use crate::{
    clock::{Clock, StoppedClock, System},
    names::{Job, Task},
    notify::{
        Limits, Phase,
        tests::{
            facts::{calm, drill, incident, run},
            receiver::{Receiver, closed_port},
        },
    },
    policy::Need,
    status::{Kind, Urgency},
};

const OK: &str = r#"{"errcode":0,"code":0,"errmsg":"ok"}"#;

/// A stack, its outbox and a clock that stands.
struct Stage {
    dir: tempfile::TempDir,
    notify: String,
    ledger: Catalog,
    clock: StoppedClock,
}

impl Stage {
    /// Starts at 02:00 in Shanghai.
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            notify: String::new(),
            ledger: Catalog::in_memory().unwrap(),
            clock: StoppedClock::at("2026-11-22T18:00:00Z".parse().unwrap()),
        }
    }

    /// Adds a channel; `more` are further keys.
    fn with(mut self, name: &str, kind: &str, address: &str, more: &str) -> Self {
        let file = self.dir.path().join(name);
        fs::write(&file, address).unwrap();
        let file = file.display();
        let table = format!(
            "[[notify]]\nname = \"{name}\"\nkind = \"{kind}\"\nwebhook = {{ file = \"{file}\" }}\n{more}\n"
        );
        self.notify.push_str(&table);
        self
    }

    fn stack(&self) -> Stack {
        let text = format!(
            "stack = \"im-suite\"\ntimezone = \"Asia/Shanghai\"\n[repository]\nstore = \"fs\"\n\
             options = {{ root = \"/backups\" }}\nrecipients = [\"age1abc\"]\nsigners = [\"RWabc\"]\n{}",
            self.notify
        );
        Stack::parse(&text, "p.toml", Need::Repository).unwrap()
    }

    fn ground(&self) -> Ground {
        Ground { clock: Arc::new(self.clock.clone()), dice: Arc::new(System) }
    }

    fn tell(&self, topic: Topic) -> Option<i64> {
        tell(&self.stack(), &self.ledger, topic, &self.ground()).unwrap()
    }

    async fn deliver(&self) -> Delivered {
        deliver(&self.stack(), &self.ledger, &self.ground()).await.unwrap()
    }

    async fn deliver_after(&self, minutes: i64) -> Delivered {
        self.clock.advance(Duration::minutes(minutes));
        self.deliver().await
    }

    /// Returns to which channels something goes within a day.
    fn addressees(&self) -> Vec<String> {
        let due = self.ledger.due_messages(self.clock.now() + Duration::days(1)).unwrap();
        due.into_iter().map(|one| one.channel).collect()
    }
}

fn page() -> Topic {
    Topic::Opened(incident(Kind::Failed, "backup", Urgency::Page))
}

fn ticket() -> Topic {
    Topic::Opened(incident(Kind::Lag, "sync oss", Urgency::Ticket))
}

fn over() -> Topic {
    Topic::Resolved(incident(Kind::Lag, "sync oss", Urgency::Ticket))
}

fn ping(job: Job) -> Topic {
    Topic::Ping { task: Task::of(job), phase: Phase::Started, exit: None, text: None }
}

/// Returns how often a message was tried so far and whether it is still on its way.
fn shown(delivered: &Delivered) -> (usize, usize, Vec<&str>) {
    let gave_up = delivered.gave_up.iter().map(|one| one.channel.as_str()).collect();
    (delivered.sent, delivered.again, gave_up)
}

#[test]
fn a_message_goes_to_those_who_subscribe_and_to_no_fallback() {
    let nowhere = "http://127.0.0.1:1/";
    let to = |topic: Topic| {
        let stage = Stage::new()
            .with("all", "slack", nowhere, "on = [\"trouble\", \"success\", \"drill\", \"digest\"]")
            .with("usual", "wecom", nowhere, "")
            .with("quiet", "feishu", nowhere, "on = [\"digest\"]")
            .with("mail", "slack", nowhere, "fallback = true")
            .with("pings", "healthchecks", nowhere, "on = [\"trouble\"]")
            .with("more-pings", "healthchecks", nowhere, "jobs = [\"backup\", \"sync\"]");
        let number = stage.tell(topic);
        let addressees = stage.addressees();
        assert_eq!(number.is_some(), !addressees.is_empty());
        addressees.join(" ")
    };
    assert_eq!(to(page()), "all usual");
    assert_eq!(to(over()), "all usual");
    assert_eq!(to(Topic::Done(run(0))), "all");
    assert_eq!(to(Topic::Drill(drill(crate::drill::Outcome::Failed))), "all usual");
    assert_eq!(to(Topic::Digest(Box::new(calm()))), "all quiet usual");
    assert_eq!(to(ping(Job::Backup)), "more-pings pings");
    assert_eq!(to(ping(Job::Sync)), "more-pings");
    assert_eq!(to(ping(Job::Prune)), "");
    assert_eq!(to(Topic::Test), "");
}

#[tokio::test]
async fn what_is_not_urgent_waits_for_the_end_of_quiet_hours() {
    let chat = Receiver::answering(&[(200, OK)]).await;
    let quiet = "quiet = { from = \"22:00\", to = \"08:00\" }";
    let stage = Stage::new().with("duty", "dingtalk", &chat.url("/"), quiet);
    stage.tell(ticket());
    stage.tell(page());
    assert_eq!(stage.deliver().await.sent, 1);
    assert!(chat.only().body.contains("backup failed"), "{:?}", chat.only());
    assert_eq!(stage.deliver_after(359).await.sent, 0);
    assert_eq!(stage.deliver_after(1).await.sent, 1);
    stage.tell(ticket());
    assert_eq!(stage.deliver().await.sent, 1, "by day it goes at once");
}

#[tokio::test]
async fn a_job_that_is_cancelled_or_hits_its_deadline_still_alerts() {
    let chat = Receiver::answering(&[(200, OK)]).await;
    let stage = Stage::new().with("duty", "dingtalk", &chat.url("/"), "");
    let job = async {
        stage.tell(page());
        std::future::pending::<()>().await;
    };
    let deadline = std::time::Duration::from_millis(1);
    assert!(tokio::time::timeout(deadline, job).await.is_err(), "the job hit its deadline");
    assert_eq!(stage.deliver().await.sent, 1);
    assert!(chat.only().body.contains("[URGENT]"), "{:?}", chat.only());
    assert_eq!(stage.deliver().await, Delivered::default(), "one message once");
}

#[tokio::test]
async fn http_200_with_an_error_code_counts_as_failed_and_the_fallback_is_told_once() {
    for (kind, answer) in [
        ("dingtalk", r#"{"errcode":310000,"errmsg":"keywords not in content"}"#),
        ("feishu", r#"{"code":19024,"msg":"Key Words Not Found"}"#),
        ("wecom", r#"{"errcode":93000,"errmsg":"invalid webhook url"}"#),
    ] {
        let chat = Receiver::answering(&[(200, answer)]).await;
        let other = Receiver::answering(&[(200, "ok")]).await;
        let stage = Stage::new()
            .with("duty-group", kind, &chat.url("/"), "")
            .with("second-group", kind, &chat.url("/"), "")
            .with("spare", "slack", &other.url("/"), "fallback = true");
        stage.tell(page());
        let delivered = stage.deliver().await;
        assert_eq!(shown(&delivered), (1, 0, vec!["duty-group", "second-group"]), "{kind}");
        assert!(delivered.gave_up.iter().all(|one| one.passed_on), "{delivered:?}");
        assert_eq!(chat.requests().len(), 2);
        let told = other.only().json()["text"].as_str().unwrap().to_owned();
        assert!(told.contains("Could not be reached: duty-group, second-group."), "{told}");
        assert_eq!(stage.deliver_after(60).await, Delivered::default(), "{kind}");
        assert!(stage.ledger.last_refusal("duty-group").unwrap().unwrap().contains("code"));
    }
}

#[tokio::test]
async fn a_server_that_fails_and_comes_back_gets_the_message_after_a_minute() {
    let chat = Receiver::answering(&[(502, "bad gateway"), (200, "ok")]).await;
    let stage = Stage::new().with("chat", "slack", &chat.url("/"), "");
    stage.tell(ticket());
    assert_eq!(shown(&stage.deliver().await), (0, 1, vec![]));
    assert_eq!(shown(&stage.deliver().await), (0, 0, vec![]), "not before its time");
    assert_eq!(shown(&stage.deliver_after(1).await), (1, 0, vec![]));
    assert_eq!(chat.requests().len(), 2);
}

#[tokio::test]
async fn a_channel_that_is_away_is_tried_five_times_and_then_given_up() {
    let away = format!("http://127.0.0.1:{}/", closed_port().await);
    let other = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new().with("chat", "slack", &away, "").with(
        "spare",
        "slack",
        &other.url("/"),
        "fallback = true",
    );
    stage.tell(ticket());
    assert_eq!(shown(&stage.deliver().await), (0, 1, vec![]));
    for minutes in [1, 4, 15] {
        assert_eq!(shown(&stage.deliver_after(minutes - 1).await), (0, 0, vec![]), "{minutes}");
        assert_eq!(shown(&stage.deliver_after(1).await), (0, 1, vec![]), "{minutes}");
    }
    assert_eq!(other.requests().len(), 0);
    assert_eq!(shown(&stage.deliver_after(15).await), (1, 0, vec!["chat"]));
    assert!(other.only().body.contains("Could not be reached: chat."));
    assert_eq!(stage.deliver_after(99).await, Delivered::default());
}

#[tokio::test]
async fn what_is_urgent_goes_to_the_fallback_after_the_second_refusal_and_is_tried_on() {
    let chat = Receiver::answering(&[(500, ""), (500, ""), (200, "ok")]).await;
    let other = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new().with("chat", "slack", &chat.url("/"), "").with(
        "spare",
        "slack",
        &other.url("/"),
        "fallback = true",
    );
    stage.tell(page());
    assert_eq!(shown(&stage.deliver().await), (0, 1, vec![]));
    assert_eq!(shown(&stage.deliver_after(1).await), (1, 1, vec![]));
    assert!(other.only().body.contains("Could not be reached: chat."));
    assert_eq!(shown(&stage.deliver_after(4).await), (1, 0, vec![]));
    assert_eq!((chat.requests().len(), other.requests().len()), (3, 1));
}

#[tokio::test]
async fn a_channel_hears_everything_in_order_also_after_trouble() {
    let chat = Receiver::answering(&[(429, "slow down"), (200, "ok")]).await;
    let other = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new().with("chat", "slack", &chat.url("/"), "").with(
        "spare",
        "slack",
        &other.url("/"),
        "fallback = true",
    );
    stage.tell(ticket());
    stage.tell(over());
    assert_eq!(shown(&stage.deliver().await), (0, 2, vec![]));
    assert_eq!(chat.requests().len(), 1, "the second waits behind the first");
    stage.tell(page());
    // The channel is known to be in trouble: what is urgent takes the other way as well.
    assert_eq!(shown(&stage.deliver().await), (1, 1, vec![]));
    assert_eq!((chat.requests().len(), other.requests().len()), (1, 1));
    assert_eq!(shown(&stage.deliver_after(1).await), (3, 0, vec![]));
    let texts: Vec<String> =
        chat.requests()[1..].iter().map(|one| one.json()["text"].as_str().unwrap().to_owned()).collect();
    assert!(texts[0].contains("behind") && texts[1].contains("over:"), "{texts:?}");
    assert!(texts[2].contains("[URGENT]"), "{texts:?}");
}

#[tokio::test]
async fn a_ping_that_is_late_is_dropped_and_has_no_fallback() {
    let checks = Receiver::answering(&[(503, ""), (200, "OK")]).await;
    let other = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new()
        .with("checks", "healthchecks", &checks.url("/uuid"), "")
        .with("chat", "slack", &other.url("/"), "")
        .with("spare", "slack", &other.url("/"), "fallback = true");
    stage.tell(ping(Job::Backup));
    assert_eq!(shown(&stage.deliver().await), (0, 1, vec![]));
    let delivered = stage.deliver_after(11).await;
    assert_eq!(shown(&delivered), (0, 0, vec!["checks"]));
    assert!(delivered.gave_up[0].why.contains("too old"), "{delivered:?}");
    assert_eq!((checks.requests().len(), other.requests().len()), (1, 0));
    stage.tell(ping(Job::Backup));
    assert_eq!(stage.deliver().await.sent, 1);
    assert_eq!(checks.requests()[1].path, "/uuid/start");
}

#[tokio::test]
async fn a_channel_that_left_the_policy_is_given_up_and_the_message_is_not() {
    let other = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new().with("old-name", "slack", "http://127.0.0.1:1/", "").with(
        "spare",
        "slack",
        &other.url("/"),
        "fallback = true",
    );
    stage.tell(page());
    let renamed = Stage { notify: stage.notify.replace("\"old-name\"", "\"new-name\""), ..stage };
    assert_eq!(shown(&renamed.deliver().await), (1, 0, vec!["old-name"]));
    assert!(other.only().body.contains("old-name"));
}

#[tokio::test]
async fn a_channel_that_hangs_keeps_no_other_waiting_and_its_message_is_not_lost() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hung = format!("http://{}/", silent.local_addr().unwrap());
    let chat = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new().with("a-hung", "slack", &hung, "").with("b-chat", "slack", &chat.url("/"), "");
    stage.tell(page());
    let (stack, ground) = (stage.stack(), stage.ground());
    let reached = async {
        while stage.ledger.last_sent("b-chat").unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    // The deliverer is dropped on its way, as when the host goes down.
    tokio::select! {
        ended = deliver(&stack, &stage.ledger, &ground) => panic!("{ended:?}"),
        () = reached => {}
    }
    assert_eq!(stage.addressees(), ["a-hung"]);
    let patience = std::time::Duration::from_millis(50);
    let limits = Limits { request: patience, mail: patience, program: patience };
    let deliverer = Deliverer::new(&ground).with_limits(limits);
    let delivered = deliverer.deliver(&stack, &stage.ledger, &ground).await.unwrap();
    assert_eq!(shown(&delivered), (0, 1, vec![]));
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_makes_no_message_go_out_twice_and_holds_none_up() {
    let chat = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new().with("chat", "slack", &chat.url("/"), "");
    let (stack, ground) = (stage.stack(), stage.ground());
    let deliverer = Deliverer::new(&ground);
    stage.tell(ticket());
    stage.tell(over());
    let sent = stage.clock.now();
    stage.ledger.refuse_writes(true);
    let (mut failures, mut told) = (0, 0);
    for _ in 0..150 {
        match deliverer.deliver(&stack, &stage.ledger, &ground).await {
            Ok(delivered) => told += delivered.sent,
            Err(_) => failures += 1,
        }
        stage.clock.advance(Duration::seconds(2));
    }
    assert_eq!(chat.requests().len(), 2, "each of them once");
    assert_eq!((failures, told), (9, 2), "the ledger is tried after 2, 4, 8 … 64 seconds");
    stage.ledger.refuse_writes(false);
    stage.clock.advance(Duration::minutes(2));
    assert_eq!(deliverer.deliver(&stack, &stage.ledger, &ground).await.unwrap(), Delivered::default());
    assert_eq!((stage.addressees(), stage.ledger.last_sent("chat").unwrap()), (vec![], Some(sent)));
    deliverer.deliver(&stack, &stage.ledger, &ground).await.unwrap();
    assert_eq!(chat.requests().len(), 2);
}

#[tokio::test]
async fn a_refusal_that_cannot_be_noted_is_tried_again_in_time_and_given_up_after_the_fifth() {
    let away = Receiver::answering(&[(502, "bad gateway")]).await;
    let other = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new().with("chat", "slack", &away.url("/"), "").with(
        "spare",
        "slack",
        &other.url("/"),
        "fallback = true",
    );
    let (stack, ground) = (stage.stack(), stage.ground());
    let deliverer = Deliverer::new(&ground);
    stage.tell(ticket());
    stage.ledger.refuse_writes(true);
    let (mut tries, mut gave_up) = (Vec::new(), Vec::new());
    for minute in 0..60 {
        if let Ok(delivered) = deliverer.deliver(&stack, &stage.ledger, &ground).await {
            gave_up.extend(delivered.gave_up);
        }
        tries.resize(away.requests().len(), minute);
        stage.clock.advance(Duration::minutes(1));
    }
    assert_eq!((tries, gave_up.len(), other.requests().len()), (vec![0, 1, 5, 20, 35], 1, 0));
    stage.ledger.refuse_writes(false);
    stage.clock.advance(Duration::minutes(2));
    let delivered = deliverer.deliver(&stack, &stage.ledger, &ground).await.unwrap();
    assert_eq!(shown(&delivered), (1, 0, vec![]));
    assert!(other.only().body.contains("Could not be reached: chat."));
    assert_eq!(away.requests().len(), 5);
}

#[tokio::test]
async fn what_could_not_be_noted_hides_no_message_of_a_ledger_that_was_made_anew() {
    let chat = Receiver::answering(&[(200, "ok")]).await;
    let mut stage = Stage::new().with("chat", "slack", &chat.url("/"), "");
    let (stack, ground) = (stage.stack(), stage.ground());
    let deliverer = Deliverer::new(&ground);
    let old = stage.tell(ticket());
    stage.ledger.refuse_writes(true);
    assert!(deliverer.deliver(&stack, &stage.ledger, &ground).await.is_err());
    stage.ledger = Catalog::in_memory().unwrap();
    assert_eq!(stage.tell(over()), old, "it has the number of the other");
    stage.clock.advance(Duration::minutes(2));
    assert_eq!(deliverer.deliver(&stack, &stage.ledger, &ground).await.unwrap().sent, 2);
    assert_eq!((chat.requests().len(), stage.addressees()), (2, vec![]));
}

#[tokio::test]
async fn a_message_of_another_version_stops_nobody() {
    let chat = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new().with("chat", "slack", &chat.url("/"), "");
    let now: DateTime<Utc> = stage.clock.now();
    stage.ledger.add_message("{\"topic\":\"news\"}", &[("chat".to_owned(), now)], now).unwrap();
    stage.tell(ticket());
    assert_eq!(shown(&stage.deliver().await), (1, 0, vec!["chat"]));
}

#[tokio::test]
async fn messages_are_forgotten_after_a_month() {
    let chat = Receiver::answering(&[(200, "ok")]).await;
    let stage = Stage::new().with("chat", "slack", &chat.url("/"), "");
    let old = stage.tell(Topic::Digest(Box::new(calm()))).unwrap();
    stage.deliver().await;
    stage.clock.advance(Duration::days(31));
    let new = stage.tell(ticket()).unwrap();
    assert_eq!(stage.deliver().await.sent, 1);
    let is_there = |message| stage.ledger.add_delivery(message, "other", stage.clock.now()).is_ok();
    assert_eq!((is_there(old), is_there(new)), (false, true));
}

#[tokio::test]
async fn a_trial_reaches_all_channels_or_those_that_are_named() {
    let good = Receiver::answering(&[(200, "ok")]).await;
    let bad = Receiver::answering(&[(200, r#"{"errcode":310000,"errmsg":"sign not match"}"#)]).await;
    let stage = Stage::new().with("chat", "slack", &good.url("/"), "fallback = true").with(
        "duty",
        "dingtalk",
        &bad.url("/"),
        "",
    );
    let (stack, ground) = (stage.stack(), stage.ground());
    let trials = try_out(&stack, &stage.ledger, &[], Topic::Test, &ground).await.unwrap();
    let ended: Vec<(&str, bool)> =
        trials.iter().map(|trial| (trial.channel.name.as_str(), trial.ended.is_ok())).collect();
    assert_eq!(ended, [("chat", true), ("duty", false)]);
    let digest = Topic::Digest(Box::new(calm()));
    let trials = try_out(&stack, &stage.ledger, &["chat".into()], digest, &ground).await.unwrap();
    assert_eq!(trials.len(), 1);
    assert!(good.requests()[1].body.contains("Sent by hand, as a test"), "{:?}", good.requests()[1]);
    let failure = try_out(&stack, &stage.ledger, &["chta".into()], Topic::Test, &ground).await.err().unwrap();
    assert_eq!((failure.exit(), failure.hints()[0].as_str()), (ExitCode::Usage, "It has: chat, duty."));
    stage.ledger.refuse_writes(true);
    let trials = try_out(&stack, &stage.ledger, &["chat".into()], Topic::Test, &ground).await.unwrap();
    assert!(
        trials[0].ended.is_ok() && trials[0].unnoted.is_some(),
        "it was reached, whatever the ledger says"
    );
    assert_eq!(stage.addressees(), [""; 0], "nothing of it lies in the outbox");
}
