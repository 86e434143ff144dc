//! Every topic in both languages, as people see it.

use proptest::prelude::*;

use super::facts::{at, calm, drill, incident, message, resolved, run, standing};
use crate::{
    drill::{Outcome, Way},
    names::{Job, Task},
    notify::{Message, Phase, Topic, text::Dialect},
    policy::{Language, Occasion},
    status::{DrillStanding, Incident, Kind, Standing, Urgency, Verdict},
};

const LANGUAGES: [Language; 2] = [Language::En, Language::Zh];

/// Compares a topic's plain text in each language with what a person approved.
macro_rules! assert_words {
    ($name:literal, $topic:expr) => {
        for language in LANGUAGES {
            let message: Message = message(language, $topic);
            insta::assert_snapshot!(format!("{}_{language:?}", $name), message.words().plain());
        }
    };
}

#[test]
fn an_incident_says_first_what_is_wrong_and_since_when() {
    assert_words!("opened", Topic::Opened(incident(Kind::Failed, "backup", Urgency::Page)));
    assert_words!("reminder", Topic::Reminder(incident(Kind::Lag, "sync oss", Urgency::Ticket)));
    assert_words!("resolved", Topic::Resolved(resolved()));
}

#[test]
fn every_kind_of_incident_has_words_of_its_own_and_a_page_of_the_runbook() {
    for language in LANGUAGES {
        let titles: Vec<String> = Kind::ALL
            .into_iter()
            .map(|kind| {
                let about = if kind == Kind::Failed { "sync oss" } else { "backup" };
                let words = message(language, Topic::Opened(incident(kind, about, Urgency::Ticket))).words();
                assert!(words.plain().contains(&format!("docs/runbook/{}.md", kind.word())), "{kind:?}");
                words.title
            })
            .collect();
        insta::assert_snapshot!(format!("kinds_{language:?}"), titles.join("\n"));
    }
}

#[test]
fn a_run_says_what_it_made_or_what_failed() {
    assert_words!("done", Topic::Done(run(0)));
    assert_words!("done_with_gaps", Topic::Done(run(3)));
}

#[test]
fn a_drill_says_how_long_it_took_and_what_held() {
    assert_words!("drill_passed", Topic::Drill(drill(Outcome::Passed)));
    assert_words!("drill_failed", Topic::Drill(drill(Outcome::Failed)));
    let trouble = Some("the proof of the drill is not in `oss`: the store refused".to_owned());
    let unrecorded = DrillStanding { trouble, ..drill(Outcome::Passed) };
    assert_words!("drill_unrecorded", Topic::Drill(unrecorded.clone()));
    let recipe = DrillStanding { way: Way::ByHand, from: "oss".into(), ..drill(Outcome::CouldNotRun) };
    assert_words!("drill_could_not_run", Topic::Drill(recipe.clone()));
}

#[test]
fn the_digest_is_the_page_in_words() {
    assert_words!("digest", Topic::Digest(Box::new(standing())));
    assert_words!("digest_calm", Topic::Digest(Box::new(calm())));
}

#[test]
fn a_digest_without_facts_does_not_look_good() {
    let nothing = Standing {
        verdict: Verdict::Unknown,
        drill: None,
        by_hand: None,
        next: Vec::new(),
        tasks: Vec::new(),
        sources: standing()
            .sources
            .into_iter()
            .map(|s| crate::status::SourceStanding {
                point: None,
                point_offsite: None,
                counts: Vec::new(),
                ..s
            })
            .collect(),
        places: calm()
            .places
            .into_iter()
            .map(|p| crate::status::PlaceStanding {
                snapshots: None,
                newest: None,
                stored_bytes: None,
                lag_seconds: None,
                free_bytes: None,
                full_in_days: None,
                lock: None,
                ..p
            })
            .collect(),
        ..calm()
    };
    assert_words!("digest_unknown", Topic::Digest(Box::new(nothing.clone())));
}

#[test]
fn a_ping_and_a_test_are_short() {
    let ping = |phase, exit, text: Option<&str>| Topic::Ping {
        task: Task::at(Job::Sync, "oss"),
        phase,
        exit,
        text: text.map(str::to_owned),
    };
    assert_words!("ping_failed", ping(Phase::Failed, Some(20), Some("`oss` does not answer")));
    assert_words!("ping_started", ping(Phase::Started, None, None));
    assert_words!("test", Topic::Test);
}

#[test]
fn every_job_has_a_chinese_name() {
    for job in Job::ALL {
        let topic = Topic::Ping { task: Task::of(job), phase: Phase::Started, exit: None, text: None };
        let title = message(Language::Zh, topic).words().title;
        assert!(!title.contains(job.word()), "{title}");
    }
}

#[test]
fn a_fallback_says_whom_it_stands_for() {
    for language in LANGUAGES {
        let mut message = message(language, Topic::Opened(incident(Kind::Failed, "backup", Urgency::Page)));
        message.unreached = vec!["duty-group".into(), "mail".into()];
        let text = message.words().plain();
        let line = text.lines().find(|line| line.contains("duty-group")).unwrap();
        assert!(line.contains("mail"), "{line}");
    }
}

#[test]
fn the_forms_say_the_same_and_take_nothing_for_a_tag() {
    let mut incident = incident(Kind::Failed, "backup", Urgency::Page);
    incident.condition.what = "said <at id=all>\n## not a part & **nothing**\u{7}".into();
    let words = message(Language::En, Topic::Opened(incident)).words();
    let plain = words.plain();
    assert!(plain.contains("said <at id=all> ## not a part & **nothing**\n"), "{plain}");
    for (dialect, told) in [
        (Dialect::Chat, "said ＜at id=all>"),
        (Dialect::Card, "said &#60;at id=all>"),
        (Dialect::Slack, "said &lt;at id=all&gt; ## not a part &amp; "),
    ] {
        let text = words.markdown(dialect);
        assert!(text.contains(told), "{text}");
        assert!(!text.contains('<'), "{text}");
    }
    let html = words.html();
    assert!(html.contains("<p>said &lt;at id=all&gt; ## not a part &amp; **nothing**</p>"), "{html}");
    insta::assert_snapshot!(
        "digest_markdown_En",
        message(Language::En, Topic::Digest(Box::new(standing()))).words().markdown(Dialect::Chat)
    );
    insta::assert_snapshot!(
        "digest_html_Zh",
        message(Language::Zh, Topic::Digest(Box::new(standing()))).words().html()
    );
}

#[test]
fn times_are_those_of_the_policys_zone() {
    let in_zone = |zone: &str| {
        let message = message(Language::En, Topic::Test);
        Message { timezone: zone.into(), at: at("2026-07-01T18:30:00Z"), ..message }.words().plain()
    };
    assert!(in_zone("Europe/Berlin").contains("2026-07-01 20:30 UTC+02:00"));
    assert!(in_zone("UTC").contains("2026-07-01 18:30 UTC."));
    assert!(in_zone("Not/AZone").contains("2026-07-01 18:30 UTC."));
}

#[test]
fn a_message_is_for_its_occasion_and_urgent_when_it_pages() {
    let of = |topic| {
        let message = message(Language::En, topic);
        (message.occasion(), message.is_urgent())
    };
    let page = || incident(Kind::Failed, "backup", Urgency::Page);
    assert_eq!(of(Topic::Opened(page())), (Some(Occasion::Trouble), true));
    assert_eq!(of(Topic::Reminder(page())), (Some(Occasion::Trouble), true));
    assert_eq!(of(Topic::Resolved(page())), (Some(Occasion::Trouble), true));
    assert_eq!(
        of(Topic::Opened(incident(Kind::Lag, "oss", Urgency::Ticket))),
        (Some(Occasion::Trouble), false)
    );
    assert_eq!(of(Topic::Done(run(0))), (Some(Occasion::Success), false));
    assert_eq!(of(Topic::Drill(drill(Outcome::Failed))), (Some(Occasion::Drill), false));
    assert_eq!(of(Topic::Digest(Box::new(calm()))), (Some(Occasion::Digest), false));
    assert_eq!(of(Topic::Test), (None, false));
}

#[test]
fn a_message_is_the_same_after_it_lay_in_the_outbox() {
    for topic in [
        Topic::Opened(incident(Kind::Anomaly, "mysql", Urgency::Page)),
        Topic::Done(run(3)),
        Topic::Drill(drill(Outcome::Failed)),
        Topic::Digest(Box::new(standing())),
        Topic::Ping { task: Task::of(Job::Backup), phase: Phase::Failed, exit: Some(20), text: None },
        Topic::Test,
    ] {
        let message = message(Language::Zh, topic);
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message, "{text}");
    }
}

proptest! {
    #[test]
    fn whatever_a_failure_says_is_one_paragraph(what in "\\PC{1,40}(\n|\r\n|\t)\\PC{0,40}") {
        let mut incident: Incident = incident(Kind::Failed, "backup", Urgency::Page);
        incident.condition.hint = None;
        let usual = message(Language::En, Topic::Opened(incident.clone())).words().plain().lines().count();
        incident.condition.what = format!("it said {what}");
        let text = message(Language::En, Topic::Opened(incident)).words().plain();
        prop_assert_eq!(text.lines().count(), usual, "{}", text);
    }
}
