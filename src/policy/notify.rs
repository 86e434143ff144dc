//! What a policy says about those who hear how runs end.

use chrono::{DateTime, Days, Duration, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::SecretRef;
use crate::names::Job;

/// One way to tell people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NotifyConfig {
    /// Its name; the kind when none was given.
    #[schemars(with = "Option<String>")]
    pub name: String,
    /// What it is told.
    #[schemars(with = "Option<Vec<Occasion>>")]
    pub on: Vec<Occasion>,
    /// Whether it is used only when another one failed.
    #[schemars(default)]
    pub fallback: bool,
    /// When only what is urgent is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Quiet>,
    /// The way itself.
    #[serde(flatten)]
    pub channel: Channel,
}

/// Hours in which a channel keeps quiet: what is not urgent waits for their end. In the policy's zone; they may go over
/// midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Quiet {
    /// Their beginning, as `22:00`.
    #[serde(serialize_with = "hour_and_minute")]
    #[schemars(with = "String")]
    pub from: NaiveTime,
    /// Their end, as `08:00`.
    #[serde(serialize_with = "hour_and_minute")]
    #[schemars(with = "String")]
    pub to: NaiveTime,
}

impl Quiet {
    /// Returns when the quiet hours that `now` lies in are over; `None` when it lies in none.
    pub fn until(&self, now: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let local = now.with_timezone(&zone).naive_local();
        let (day, time) = (local.date(), local.time());
        let is_quiet = if self.from <= self.to {
            (self.from..self.to).contains(&time)
        } else {
            time >= self.from || time < self.to
        };
        let ends = if time < self.to { day } else { day.checked_add_days(Days::new(1))? };
        let ends = ends.and_time(self.to);
        // An end in the hour that a clock skips comes an hour later by that clock.
        let ends = [ends, ends + Duration::hours(1)]
            .into_iter()
            .find_map(|ends| zone.from_local_datetime(&ends).earliest())?;
        is_quiet.then(|| ends.to_utc())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn hour_and_minute<S: Serializer>(time: &NaiveTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.format("%H:%M"))
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Occasion {
    /// A run failed, or one did not happen; also when that is over.
    Trouble,
    /// A run was done.
    Success,
    /// A drill ended, in whatever way.
    Drill,
    /// The daily report.
    Digest,
}

/// How people are told. Addresses that give the right to write are secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Channel {
    /// A DingTalk robot.
    Dingtalk(RobotConfig),
    /// A Feishu (Lark) robot.
    Feishu(RobotConfig),
    /// A WeCom robot.
    Wecom(AddressConfig),
    /// Slack, or what understands its messages.
    Slack(AddressConfig),
    /// A POST with JSON.
    Webhook(WebhookConfig),
    /// A ping to healthchecks.io or one's own.
    Healthchecks(HealthchecksConfig),
    /// Mail.
    Email(EmailConfig),
    /// A program, which reads JSON.
    Exec(ExecConfig),
}

/// A robot of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RobotConfig {
    /// The robot's address.
    pub webhook: SecretRef,
    /// The secret that its messages are signed with.
    #[serde(default)]
    pub secret: Option<SecretRef>,
}

/// An address that takes messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressConfig {
    /// The address.
    pub webhook: SecretRef,
}

/// An address that takes a POST of one's own form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// The address.
    pub webhook: SecretRef,
    /// What the bodies are signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// The body, as a Jinja template; JSON with all facts when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

/// An address that is told when runs begin and end, and misses them when they do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthchecksConfig {
    /// The address.
    pub webhook: SecretRef,
    /// The jobs that it is told of.
    #[serde(default = "default_jobs")]
    #[schemars(with = "Vec<String>")]
    pub jobs: Vec<Job>,
}

/// Mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// The server that takes the mail.
    pub host: String,
    /// Its port.
    #[serde(default = "default_mail_port")]
    pub port: u16,
    /// How the connection is encrypted.
    #[serde(default)]
    pub encryption: MailEncryption,
    /// The account there.
    #[serde(default)]
    pub user: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<SecretRef>,
    /// Who writes.
    pub from: String,
    /// Who reads.
    pub to: Vec<String>,
}

/// How a connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MailEncryption {
    /// From the first byte (port 465).
    #[default]
    Tls,
    /// After a plain greeting (port 587).
    Starttls,
    /// Not at all: for a relay on this host.
    Off,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecConfig {
    /// The program, absolute, and its arguments; no shell reads them.
    pub command: Vec<String>,
}

impl Channel {
    /// The words for kinds.
    pub const WORDS: [&'static str; 8] =
        ["dingtalk", "email", "exec", "feishu", "healthchecks", "slack", "webhook", "wecom"];

    /// Returns the word for its kind.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Dingtalk(_) => "dingtalk",
            Self::Feishu(_) => "feishu",
            Self::Wecom(_) => "wecom",
            Self::Slack(_) => "slack",
            Self::Webhook(_) => "webhook",
            Self::Healthchecks(_) => "healthchecks",
            Self::Email(_) => "email",
            Self::Exec(_) => "exec",
        }
    }

    /// Returns the secrets it needs and the keys that name them.
    pub fn secrets(&self) -> Vec<(&'static str, &SecretRef)> {
        match self {
            Self::Dingtalk(RobotConfig { webhook, secret })
            | Self::Feishu(RobotConfig { webhook, secret })
            | Self::Webhook(WebhookConfig { webhook, secret, .. }) => {
                let secret = secret.iter().map(|secret| ("secret", secret));
                [("webhook", webhook)].into_iter().chain(secret).collect()
            }
            Self::Wecom(address) | Self::Slack(address) => vec![("webhook", &address.webhook)],
            Self::Healthchecks(pings) => vec![("webhook", &pings.webhook)],
            Self::Email(email) => email.password.iter().map(|secret| ("password", secret)).collect(),
            Self::Exec(_) => Vec::new(),
        }
    }
}

fn default_mail_port() -> u16 {
    465
}

fn default_jobs() -> Vec<Job> {
    vec![Job::Backup]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(from: u32, to: u32) -> Quiet {
        let at = |hour| NaiveTime::from_hms_opt(hour, 0, 0).unwrap();
        Quiet { from: at(from), to: at(to) }
    }

    /// Returns how long quiet lasts from an instant.
    fn wait(quiet: Quiet, zone: Tz, now: &str) -> Option<i64> {
        let now: DateTime<Utc> = now.parse().unwrap();
        quiet.until(now, zone).map(|end| (end - now).num_minutes())
    }

    #[test]
    fn quiet_hours_may_go_over_midnight_and_end_on_the_minute() {
        let shanghai = chrono_tz::Asia::Shanghai;
        // 22:00 to 08:00 in Shanghai is 14:00 to 00:00 UTC.
        for (now, minutes) in [
            ("2026-11-23T13:59:59Z", None),
            ("2026-11-23T14:00:00Z", Some(600)),
            ("2026-11-23T16:30:00Z", Some(450)),
            ("2026-11-23T23:59:00Z", Some(1)),
            ("2026-11-24T00:00:00Z", None),
        ] {
            assert_eq!(wait(quiet(22, 8), shanghai, now), minutes, "{now}");
        }
        assert_eq!(wait(quiet(12, 14), shanghai, "2026-11-23T04:30:00Z"), Some(90));
        assert_eq!(wait(quiet(12, 14), shanghai, "2026-11-23T06:00:00Z"), None);
        assert_eq!(wait(quiet(8, 8), shanghai, "2026-11-23T00:00:00Z"), None);
    }

    #[test]
    fn quiet_hours_end_also_where_the_clock_skips_their_end() {
        // In Berlin the hour from 02:00 to 03:00 does not exist on 2026-03-29.
        let wait = |now| wait(quiet(22, 2), chrono_tz::Europe::Berlin, now);
        assert_eq!(wait("2026-03-29T00:30:00Z"), Some(30));
        assert_eq!(wait("2026-03-29T01:30:00Z"), None);
    }
}
