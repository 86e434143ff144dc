//! Mail as servers and readers get it.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::net::TcpListener;

use super::{
    facts::{at, incident, message, resolved, standing},
    receiver::closed_port,
    senders::{Safe, named},
    smtp::{Opening, Smtp},
};
use crate::{
    clock::StoppedClock,
    notify::{Limits, Message, Notifier, Refused, Topic},
    policy::{Channel, EmailConfig, Language, MailEncryption},
    status::{Kind, Urgency},
};

const PASSWORD: &str = "correct-horse-battery";

fn trouble() -> Message {
    message(Language::Zh, Topic::Opened(incident(Kind::Failed, "backup", Urgency::Page)))
}

async fn send(
    port: u16,
    encryption: MailEncryption,
    patience: Duration,
    message: &Message,
) -> Result<(), Refused> {
    let safe = Safe::new();
    let email = EmailConfig {
        host: "localhost".into(),
        port,
        encryption,
        user: Some("ops@example.com".into()),
        password: Some(safe.keep("password", PASSWORD)),
        from: "lifeboat <ops@example.com>".into(),
        to: vec!["oncall@example.com".into(), "值班 <duty@example.com>".into()],
    };
    let limits = Limits { request: patience, mail: patience, program: patience };
    let clock = StoppedClock::at(at("2026-11-23T00:00:18Z"));
    let notifier = Notifier::new(Arc::new(clock)).with_limits(limits);
    notifier.send(&named("mail", Channel::Email(email)), message).await
}

async fn taken(message: &Message) -> String {
    let server = Smtp::starting(Opening::Plain, None).await;
    send(server.port, MailEncryption::Off, Duration::from_secs(20), message).await.unwrap();
    let heard = server.heard();
    assert_eq!(heard.mails.len(), 1, "{heard:?}");
    heard.mails[0].clone()
}

/// Returns a header's value, unfolded and decoded.
fn header(mail: &str, name: &str) -> Option<String> {
    let head = mail.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
    let value = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))?.to_owned();
    let mut decoded = String::new();
    let mut bytes = Vec::new();
    for word in value.split(' ') {
        match word.strip_prefix("=?utf-8?b?").and_then(|word| word.strip_suffix("?=")) {
            Some(word) => bytes.extend(BASE64_STANDARD.decode(word).unwrap()),
            None => decoded.extend([word, " "]),
        }
    }
    Some(format!("{}{}", String::from_utf8(bytes).unwrap(), decoded.trim()))
}

/// Returns the decoded parts of a mail, each with its type.
fn parts(mail: &str) -> Vec<(String, String)> {
    let kind = header(mail, "Content-Type").unwrap();
    let border = kind.split("boundary=\"").nth(1).unwrap().trim_end_matches('"');
    let pieces: Vec<&str> = mail.split(&format!("--{border}")).collect();
    let inner = &pieces[1..pieces.len() - 1];
    inner.iter().map(|part| part.trim_start_matches("\r\n")).map(part).collect()
}

fn part(part: &str) -> (String, String) {
    let (_, body) = part.split_once("\r\n\r\n").unwrap();
    let bytes = match header(part, "Content-Transfer-Encoding").unwrap().as_str() {
        "base64" => BASE64_STANDARD.decode(body.replace("\r\n", "")).unwrap(),
        "quoted-printable" => {
            let joined = body.replace("=\r\n", "");
            let mut bytes = Vec::new();
            let mut rest = joined.bytes();
            while let Some(byte) = rest.next() {
                let mut hex = || char::from(rest.next().unwrap()).to_digit(16).unwrap() as u8;
                bytes.push(if byte == b'=' { hex() * 16 + hex() } else { byte });
            }
            bytes
        }
        "7bit" | "8bit" => body.as_bytes().to_vec(),
        other => panic!("{other}"),
    };
    (header(part, "Content-Type").unwrap(), String::from_utf8(bytes).unwrap())
}

#[tokio::test]
async fn a_mail_has_a_chinese_subject_and_both_forms() {
    let mail = taken(&trouble()).await;
    let subject = header(&mail, "Subject").unwrap();
    assert_eq!(subject.replace(' ', ""), "【紧急】im-suite：备份失败，始于2026-11-2302:00UTC+08:00");
    assert!(mail.is_ascii(), "{mail}");
    let parts = parts(&mail);
    assert_eq!(parts.len(), 2);
    assert!(parts[0].0.starts_with("text/plain"), "{parts:?}");
    assert!(parts[0].1.contains("处理建议：Is the server running?"), "{parts:?}");
    assert!(
        parts[1].0.starts_with("text/html") && parts[1].1.contains("<p>处置手册：docs/runbook/failed.md</p>"),
        "{parts:?}"
    );
    assert_eq!(header(&mail, "Date").unwrap(), "Mon, 23 Nov 2026 00:00:18 +0000");
    assert_eq!(header(&mail, "Auto-Submitted").unwrap(), "auto-generated");
    assert_eq!(header(&mail, "X-Priority").unwrap(), "1");
}

#[tokio::test]
async fn everybody_is_told_in_one_conversation_after_a_login() {
    let server = Smtp::starting(Opening::Plain, None).await;
    send(server.port, MailEncryption::Off, Duration::from_secs(20), &trouble()).await.unwrap();
    let heard = server.heard();
    assert_eq!(heard.login, Some(("ops@example.com".into(), PASSWORD.into())));
    let said = |part: &str| heard.commands.iter().filter(|command| command.contains(part)).count();
    assert_eq!((said("MAIL FROM:<ops@example.com>"), said("RCPT TO:")), (1, 2), "{heard:?}");
}

#[tokio::test]
async fn a_mail_that_is_sent_again_has_the_same_id_and_an_incident_is_one_thread() {
    let (first, again) = (taken(&trouble()).await, taken(&trouble()).await);
    let over = taken(&message(Language::Zh, Topic::Resolved(resolved()))).await;
    assert_eq!(header(&first, "Message-ID"), header(&again, "Message-ID"));
    assert_ne!(header(&first, "Message-ID"), header(&over, "Message-ID"));
    assert_eq!(header(&first, "References"), header(&over, "References"));
    assert!(header(&first, "References").unwrap().starts_with("<incident-12-"));
    let digest = taken(&message(Language::En, Topic::Digest(Box::new(standing())))).await;
    assert_eq!(header(&digest, "References"), None);
}

#[tokio::test]
async fn what_a_server_says_decides_whether_it_is_tried_again() {
    let cases = [
        ("AUTH", "535 5.7.8 wrong password", false),
        ("RCPT", "550 5.1.1 no such user", false),
        ("RCPT", "451 4.7.1 greylisted, try later", true),
        ("MAIL", "421 4.3.2 shutting down", true),
        ("DATA", "554 5.7.1 spam", false),
    ];
    for (verb, answer, again) in cases {
        let server = Smtp::starting(Opening::Plain, Some((verb, answer))).await;
        let refused =
            send(server.port, MailEncryption::Off, Duration::from_secs(20), &trouble()).await.unwrap_err();
        assert_eq!(refused.again, again, "{refused:?}");
        assert!(refused.why.contains("localhost") && refused.why.contains(&answer[10..]), "{refused:?}");
        assert!(!format!("{refused:?}").contains(PASSWORD), "{refused:?}");
    }
}

#[tokio::test]
async fn a_server_whose_certificate_nobody_believes_gets_neither_password_nor_mail() {
    for (opening, encryption) in
        [(Opening::StartTls, MailEncryption::Starttls), (Opening::Tls, MailEncryption::Tls)]
    {
        let server = Smtp::starting(opening, None).await;
        let refused = send(server.port, encryption, Duration::from_secs(20), &trouble()).await.unwrap_err();
        assert!(!refused.again && refused.hint.clone().unwrap().contains("SSL_CERT_FILE"), "{refused:?}");
        let heard = server.heard();
        assert!(heard.login.is_none() && heard.mails.is_empty(), "{heard:?}");
        let asked = heard.commands.iter().filter(|command| command.ends_with("STARTTLS")).count();
        assert_eq!(asked, usize::from(opening == Opening::StartTls), "no other roots are tried: {heard:?}");
    }
}

#[tokio::test]
async fn a_server_that_offers_no_encryption_gets_neither_password_nor_mail() {
    let server = Smtp::starting(Opening::Plain, None).await;
    let refused = send(server.port, MailEncryption::Starttls, Duration::from_secs(20), &trouble()).await;
    assert!(refused.is_err());
    let heard = server.heard();
    assert!(heard.login.is_none() && heard.mails.is_empty(), "{heard:?}");
}

#[tokio::test]
async fn a_server_that_hangs_or_is_away_is_tried_again() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let refused = send(port, MailEncryption::Off, Duration::from_millis(100), &trouble()).await.unwrap_err();
    assert!(refused.again, "{refused:?}");
    let port = closed_port().await;
    let refused = send(port, MailEncryption::Off, Duration::from_secs(20), &trouble()).await.unwrap_err();
    assert!(refused.again && refused.why.contains("localhost"), "{refused:?}");
}
