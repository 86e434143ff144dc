//! The ways to people: picks the sender of a channel's kind and gives it its secrets.

use std::sync::Arc;

use secrecy::SecretString;

use super::{Limits, Message, Refused, email, exec, http::Caller, robots};
use crate::{
    clock::Clock,
    policy::{Channel, NotifyConfig, SecretRef},
};

/// Sends messages.
#[derive(Clone)]
pub struct Notifier {
    clock: Arc<dyn Clock>,
    limits: Limits,
}

impl Notifier {
    /// Returns a notifier; signatures carry the time of this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, limits: Limits::default() }
    }

    /// Returns it with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sends a message once. Success means that the other side said so.
    pub async fn send(&self, channel: &NotifyConfig, message: &Message) -> Result<(), Refused> {
        let now = self.clock.now();
        match &channel.channel {
            Channel::Email(config) => {
                let password = optional(config.password.as_ref())?;
                email::send(config, password, &channel.name, message, now, self.limits.mail).await
            }
            Channel::Exec(config) => exec::send(config, message, self.limits.program).await,
            robot => self.call(robot, message).await,
        }
    }

    async fn call(&self, channel: &Channel, message: &Message) -> Result<(), Refused> {
        let secrets: Vec<(&str, SecretString)> = channel
            .secrets()
            .into_iter()
            .map(|(key, secret)| Ok((key, resolved(secret)?)))
            .collect::<Result<_, Refused>>()?;
        let secret_of = |key| secrets.iter().find(|(name, _)| *name == key).map(|(_, secret)| secret);
        let Some(webhook) = secret_of("webhook") else {
            return Err(Refused::for_good("there is no address"));
        };
        let secret = secret_of("secret");
        let caller = Caller::new(self.limits, secrets.iter().map(|(_, secret)| secret.clone()).collect())?;
        let now = self.clock.now();
        match channel {
            Channel::Dingtalk(_) => robots::dingtalk(&caller, webhook, secret, message, now).await,
            Channel::Feishu(_) => robots::feishu(&caller, webhook, secret, message, now).await,
            Channel::Wecom(_) => robots::wecom(&caller, webhook, message).await,
            Channel::Slack(_) => robots::slack(&caller, webhook, message).await,
            Channel::Healthchecks(_) => robots::healthchecks(&caller, webhook, message).await,
            Channel::Webhook(config) => {
                let template = config.template.as_deref();
                robots::webhook(&caller, (webhook, secret), template, message, now).await
            }
            Channel::Email(_) | Channel::Exec(_) => Err(Refused::for_good("it has no address")),
        }
    }
}

/// Reads a secret.
fn resolved(secret: &SecretRef) -> Result<SecretString, Refused> {
    secret.resolve().map_err(|failure| {
        let hint = failure.first_hint().unwrap_or_default();
        Refused::for_good(failure.one_line()).hint(hint)
    })
}

fn optional(secret: Option<&SecretRef>) -> Result<Option<SecretString>, Refused> {
    secret.map(resolved).transpose()
}
