//! Robots of chats, webhooks and pings: what each service wants to be sent, and what it answers when it did not take
//! it.
//!
//! Chat robots answer HTTP 200 to nearly everything; whether they took a message is in the answer's body.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Url;
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::Sha256;

use super::{
    Message, Phase, Refused, Topic,
    hidden::cut,
    http::{Answer, Caller, reveal},
    text::{self, Dialect},
};
use crate::{drill::Outcome, status::Urgency};

/// Bytes of a message that `DingTalk` takes (20 000 with everything around it).
const DINGTALK_BYTES_MAX: usize = 18_000;
/// Bytes of a request that Feishu takes are 20 KiB; the rest is for the card and what JSON escapes.
const FEISHU_BYTES_MAX: usize = 12_000;
/// Bytes of a text that `WeCom` takes.
const WECOM_BYTES_MAX: usize = 4096;
/// Bytes after which Slack cuts a text itself, in the middle of a word.
const SLACK_BYTES_MAX: usize = 4000;
/// Bytes that healthchecks keeps are 100 000; nobody reads that many.
const PING_BYTES_MAX: usize = 10_000;
/// Bytes of a title in a list of chats.
const TITLE_BYTES_MAX: usize = 200;

/// Returns the base64 of the HMAC-SHA256 of `text`.
fn signature(key: &str, text: &str) -> String {
    BASE64_STANDARD.encode(mac(key, text))
}

fn mac(key: &str, text: &str) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any key will do");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// What the error codes of a service mean.
struct Codes {
    /// Those that time heals: too many messages, a busy server.
    passing: &'static [i64],
    /// What to do about others.
    hints: &'static [(i64, &'static str)],
}

/// Takes the first code that an answer has under one of these names; 0 is success, and no code is none.
fn settled(
    caller: &Caller,
    answer: &Answer,
    names: &[&str],
    texts: &[&str],
    codes: &Codes,
) -> Result<(), Refused> {
    let json = answer.json().unwrap_or(Value::Null);
    let found = names.iter().find_map(|name| Some((name, json.get(name)?.as_i64()?)));
    let Some((name, code)) = found else {
        let why = format!("the answer is not that of a robot: {}", caller.shown(&answer.body));
        return Err(Refused::for_good(why).hint("Check the address."));
    };
    if code == 0 {
        return Ok(());
    }
    let said = texts.iter().find_map(|text| json.get(text)?.as_str()).unwrap_or_default();
    let why = caller.shown(&format!("{name} {code}: {said}"));
    if codes.passing.contains(&code) {
        return Err(Refused::for_now(why));
    }
    let hint = codes.hints.iter().find(|(known, _)| *known == code).map_or("", |(_, hint)| hint);
    Err(Refused::for_good(why).hint(hint))
}

/// Returns the address with what must be in its query to be believed.
pub(super) fn dingtalk_url(webhook: &str, secret: Option<&str>, now: DateTime<Utc>) -> Result<Url, Refused> {
    let mut url = parsed(webhook)?;
    if let Some(secret) = secret {
        let millis = now.timestamp_millis();
        let sign = signature(secret, &format!("{millis}\n{secret}"));
        url.query_pairs_mut().append_pair("timestamp", &millis.to_string()).append_pair("sign", &sign);
    }
    Ok(url)
}

fn parsed(webhook: &str) -> Result<Url, Refused> {
    let wrong = || Refused::for_good("the address is no URL").hint("Its secret must hold https://… alone.");
    Url::parse(webhook).ok().filter(Url::has_host).ok_or_else(wrong)
}

pub(super) async fn dingtalk(
    caller: &Caller,
    webhook: &SecretString,
    secret: Option<&SecretString>,
    message: &Message,
    now: DateTime<Utc>,
) -> Result<(), Refused> {
    const CODES: Codes = Codes {
        // 20 messages a minute, and then 10 minutes of silence; and a system that is busy.
        passing: &[130_101, 130_102, -1],
        hints: &[
            (
                310_000,
                "The robot asks for a signature, a keyword or an address. With a signature: is `secret` its \
                       SEC… and this host's clock right? With a keyword: use lifeboat.",
            ),
            (300_001, "The robot is gone, or its address is not whole."),
        ],
    };
    let url = dingtalk_url(reveal(webhook), secret.map(reveal), now)?;
    let words = message.words();
    let text = cut(&words.markdown(Dialect::Chat), DINGTALK_BYTES_MAX);
    let body = json!({
        "msgtype": "markdown",
        "markdown": { "title": cut(&words.title, TITLE_BYTES_MAX), "text": text },
    });
    let answer = caller.post_json(url.as_str(), &body).await?;
    settled(caller, &answer, &["errcode"], &["errmsg"], &CODES)
}

/// Returns what a body must have to be believed: the key is what is signed, and the message is empty.
pub(super) fn feishu_sign(secret: &str, now: DateTime<Utc>) -> (String, String) {
    let seconds = now.timestamp().to_string();
    let sign = signature(&format!("{seconds}\n{secret}"), "");
    (seconds, sign)
}

pub(super) async fn feishu(
    caller: &Caller,
    webhook: &SecretString,
    secret: Option<&SecretString>,
    message: &Message,
    now: DateTime<Utc>,
) -> Result<(), Refused> {
    const CODES: Codes = Codes {
        // 100 messages a minute and 5 a second.
        passing: &[9499, 11_232],
        hints: &[
            (19_001, "The robot is gone, or its address is not whole."),
            (19_021, "Is `secret` that of the robot, and this host's clock right within an hour?"),
            (19_022, "Add this host's address to the robot's list."),
            (19_024, "The robot asks for a keyword: use lifeboat."),
        ],
    };
    let words = message.words();
    let mut body = json!({
        "msg_type": "interactive",
        "card": {
            "config": { "wide_screen_mode": true },
            "header": {
                "template": colour(message),
                "title": { "tag": "plain_text", "content": cut(&words.title, TITLE_BYTES_MAX) },
            },
            "elements": [{
                "tag": "markdown",
                "content": cut(&words.markdown_body(Dialect::Card), FEISHU_BYTES_MAX),
            }],
        },
    });
    if let Some(secret) = secret {
        let (timestamp, sign) = feishu_sign(reveal(secret), now);
        body["timestamp"] = timestamp.into();
        body["sign"] = sign.into();
    }
    let answer = caller.post_json(parsed(reveal(webhook))?.as_str(), &body).await?;
    // Older robots answer with StatusCode.
    settled(caller, &answer, &["code", "StatusCode"], &["msg", "StatusMessage"], &CODES)
}

/// Returns the colour of a card's head.
fn colour(message: &Message) -> &'static str {
    match (&message.topic, message.incident().map(|incident| incident.urgency)) {
        (Topic::Resolved(_) | Topic::Done(_), _) => "green",
        (Topic::Drill(drill), _) => match drill.outcome {
            Outcome::Passed => "green",
            Outcome::Failed => "red",
            Outcome::CouldNotRun => "orange",
        },
        (_, Some(Urgency::Page)) => "red",
        (_, Some(Urgency::Ticket)) => "orange",
        _ => "blue",
    }
}

pub(super) async fn wecom(caller: &Caller, webhook: &SecretString, message: &Message) -> Result<(), Refused> {
    const CODES: Codes = Codes {
        // 20 messages a minute; and a system that is busy.
        passing: &[45_009, -1],
        hints: &[(93_000, "The robot is gone, or its address is not whole.")],
    };
    let text = cut(&message.words().markdown(Dialect::Chat), WECOM_BYTES_MAX);
    let body = json!({ "msgtype": "markdown", "markdown": { "content": text } });
    let answer = caller.post_json(parsed(reveal(webhook))?.as_str(), &body).await?;
    settled(caller, &answer, &["errcode"], &["errmsg"], &CODES)
}

pub(super) async fn slack(caller: &Caller, webhook: &SecretString, message: &Message) -> Result<(), Refused> {
    let text = cut(&message.words().markdown(Dialect::Slack), SLACK_BYTES_MAX);
    let answer = caller.post_json(parsed(reveal(webhook))?.as_str(), &json!({ "text": text })).await?;
    let json = answer.json().unwrap_or(Value::Null);
    let is_taken = answer.body.trim() == "ok" || ["ok", "success"].iter().any(|key| json[key] == true);
    if is_taken {
        return Ok(());
    }
    let why = format!("the answer is not `ok`: {}", caller.shown(&answer.body));
    Err(Refused::for_good(why).hint("Check the address."))
}

/// Returns the message as a document, with its words.
pub(super) fn document(message: &Message) -> Value {
    let words = message.words();
    let mut facts = serde_json::to_value(message).unwrap_or_default();
    if let Some(map) = facts.as_object_mut() {
        map.insert("schema".to_owned(), "lifeboat.message/1".into());
        map.insert("urgent".to_owned(), message.is_urgent().into());
        map.insert("title".to_owned(), words.title.clone().into());
        map.insert("text".to_owned(), words.plain().into());
    }
    facts
}

pub(super) async fn webhook(
    caller: &Caller,
    (webhook, secret): (&SecretString, Option<&SecretString>),
    template: Option<&str>,
    message: &Message,
    now: DateTime<Utc>,
) -> Result<(), Refused> {
    let (body, is_json) = match template {
        None => (document(message).to_string(), true),
        Some(template) => {
            let body = text::of_template(template, message).map_err(|error| {
                let line = error.line().map(|line| format!(" in its line {line}")).unwrap_or_default();
                let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
                Refused::for_good(format!("its template cannot be filled in{line}: {what}"))
                    .hint("docs/notify.md has what a template can name.")
            })?;
            let is_json = serde_json::from_str::<Value>(&body).is_ok();
            (body, is_json)
        }
    };
    let form = if is_json { "application/json; charset=utf-8" } else { "text/plain; charset=utf-8" };
    let mut headers = vec![("content-type", form.to_owned())];
    if let Some(secret) = secret {
        headers.push(("x-lifeboat-timestamp", now.timestamp().to_string()));
        headers.push(("x-lifeboat-signature", format!("sha256={}", hex::encode(mac(reveal(secret), &body)))));
    }
    caller.post(parsed(reveal(webhook))?.as_str(), body, &headers).await.map(drop)
}

/// Returns the address that is told of a phase; whatever the query says stays.
pub(super) fn ping_url(webhook: &str, topic: &Topic) -> Result<Url, Refused> {
    let ending = match topic {
        Topic::Ping { phase: Phase::Started, .. } => "start",
        Topic::Ping { phase: Phase::Failed, .. } => "fail",
        Topic::Ping { phase: Phase::Succeeded, .. } => return parsed(webhook),
        // Noted, and changes nothing.
        _ => "log",
    };
    let mut url = parsed(webhook)?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push(ending);
    }
    Ok(url)
}

pub(super) async fn healthchecks(
    caller: &Caller,
    webhook: &SecretString,
    message: &Message,
) -> Result<(), Refused> {
    let url = ping_url(reveal(webhook), &message.topic)?;
    let body = cut(&message.words().plain(), PING_BYTES_MAX);
    let answer =
        caller.post(url.as_str(), body, &[("content-type", "text/plain; charset=utf-8".to_owned())]).await?;
    // An address that nobody knows is answered with 200 too.
    match answer.body.trim() {
        text if text.contains("(not found)") => {
            Err(Refused::for_good(format!("the answer is `{}`", caller.shown(text)))
                .hint("The check is gone, or its address is not whole."))
        }
        text if text.contains("(rate limited)") => Err(Refused::for_now("too many pings")),
        _ => Ok(()),
    }
}
