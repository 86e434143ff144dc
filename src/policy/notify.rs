//! What a policy says about those who hear how runs end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;

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
    /// The way itself.
    #[serde(flatten)]
    pub channel: Channel,
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
    Wecom(WebhookConfig),
    /// Slack, or what understands its messages.
    Slack(WebhookConfig),
    /// A POST with JSON.
    Webhook(WebhookConfig),
    /// A ping to healthchecks.io or one's own.
    Healthchecks(WebhookConfig),
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

/// An address that takes a POST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// The address.
    pub webhook: SecretRef,
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

    /// Returns the secrets it needs and the keys that name them.
    pub fn secrets(&self) -> Vec<(&'static str, &SecretRef)> {
        match self {
            Self::Dingtalk(robot) | Self::Feishu(robot) => {
                let secret = robot.secret.iter().map(|secret| ("secret", secret));
                [("webhook", &robot.webhook)].into_iter().chain(secret).collect()
            }
            Self::Wecom(hook) | Self::Slack(hook) | Self::Webhook(hook) | Self::Healthchecks(hook) => {
                vec![("webhook", &hook.webhook)]
            }
            Self::Email(email) => email.password.iter().map(|secret| ("password", secret)).collect(),
            Self::Exec(_) => Vec::new(),
        }
    }
}

fn default_mail_port() -> u16 {
    465
}
