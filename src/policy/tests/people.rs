//! What a policy says of those who hear how runs end.

use super::*;

#[test]
fn those_who_hear_of_it_are_checked() {
    let more = r#"
[[notify]]
kind = "dingding"
[[notify]]
kind = "email"
host = "smtp"
from = "me"
to = ["you"]
user = "u"
[[notify]]
kind = "exec"
command = ["notify-send"]
on = ["trouble", "sucess"]
[[notify]]
kind = "exec"
command = []
"#;
    insta::assert_snapshot!(told_with(more), @r#"
    policy `p.toml` has 7 problems
    p.toml:13:8: kind `dingding` is not known
    p.toml:17:8: `me` is no mail address
    p.toml:18:7: `you` is no mail address
    p.toml:19:8: `user` and `password` go together
    p.toml:22:11: `command` must be an absolute path, not `notify-send`
    p.toml:23:18: `on` cannot be "sucess"
    p.toml:26:11: `command` is empty
    hint: Line 13: Use one of dingtalk, email, exec, feishu, healthchecks, slack, webhook, wecom.
    hint: Line 23: Use `trouble`, `success`, `drill`, `digest`.
    "#);
}

#[test]
fn quiet_hours_templates_and_pings_are_checked() {
    let more = r#"
[[notify]]
kind = "slack"
webhook = { env = "A" }
quiet = { from = "22:00", to = "8 o'clock" }
[[notify]]
kind = "webhook"
webhook = { env = "B" }
template = "{{ title"
quiet = { from = "22:00", until = "08:00" }
[[notify]]
kind = "healthchecks"
webhook = { env = "C" }
jobs = ["backup", "sink"]
[[notify]]
name = "none"
kind = "healthchecks"
webhook = { env = "D" }
jobs = []
quiet = "at night"
[[notify]]
name = "wecom"
kind = "wecom"
webhook = { env = "E" }
secret = { env = "F" }
"#;
    insta::assert_snapshot!(told_with(more), @r#"
    policy `p.toml` has 8 problems
    p.toml:15:32: `8 o'clock` is no time of a day
    p.toml:19:12: `template` is no template: unexpected end of input, expected end of variable block in its line 1
    p.toml:20:9: `to` is missing in [notify.webhook.quiet]
    p.toml:20:27: unknown key `until` in [notify.webhook.quiet]
    p.toml:24:19: `jobs` cannot be "sink"
    p.toml:29:8: `jobs` is empty, so nothing would be told
    p.toml:30:9: `quiet` is no table
    p.toml:35:1: unknown key `secret` in [[notify]] wecom
    hint: Line 15: Write an hour and a minute of the policy's zone, as "22:00".
    hint: Line 24: Use `backup`, `sync`, `prune`, `verify`, `drill`, `digest`, `doctor`, `lock`.
    hint: Line 29: Leave `jobs` out for the backup alone.
    hint: Line 30: Write quiet = { … }, or [notify.quiet] right below its [[notify]].
    "#);
}

#[test]
fn a_channel_gets_its_defaults_and_keeps_what_it_was_given() {
    let more = r#"
[[notify]]
kind = "webhook"
webhook = { env = "A" }
secret = { env = "B" }
template = "{{ title }}"
quiet = { from = "22:00", to = "07:30" }
[[notify]]
kind = "healthchecks"
webhook = { env = "C" }
"#;
    let stack = parse(&format!("{SMALL}{more}")).unwrap();
    let Channel::Webhook(hook) = &stack.notify[0].channel else { panic!("{:?}", stack.notify) };
    assert_eq!(hook.template.as_deref(), Some("{{ title }}"));
    let Channel::Healthchecks(pings) = &stack.notify[1].channel else { panic!("{:?}", stack.notify) };
    assert_eq!(pings.jobs, [crate::names::Job::Backup]);
    assert_eq!(stack.notify[1].quiet, None);
    let effective = stack.effective().unwrap();
    assert!(effective.contains("to = \"07:30\""), "{effective}");
    assert_eq!(parse(&effective).unwrap(), stack);
    let secrets: Vec<String> = stack.secrets().into_iter().map(|(what, _)| what).collect();
    assert!(secrets.contains(&"notify webhook secret".to_owned()), "{secrets:?}");
}

#[test]
fn somebody_must_hear_first() {
    let channel = |name: &str, more: &str| format!("[[notify]]\nname = \"{name}\"\n{more}\n");
    let program = "kind = \"exec\"\ncommand = [\"/bin/mail\"]\nfallback = true";
    let (mail, sms) = (channel("mail", program), channel("sms", program));
    let pings = channel("pings", "kind = \"healthchecks\"\nwebhook = { env = \"A\" }");
    let chat = channel("chat", "kind = \"slack\"\nwebhook = { env = \"B\" }");
    insta::assert_snapshot!(told_with(&format!("\n{pings}{mail}{sms}")), @"
    policy `p.toml` has a problem
    p.toml:20:12: every channel is a fallback, so nobody is told first
    hint: Line 20: Leave `fallback` out of one of them; healthchecks hears of runs alone and stands for nobody.
    ");
    for good in [String::new(), pings.clone(), format!("{mail}{chat}"), format!("{pings}{mail}{chat}")] {
        assert!(parse(&format!("{SMALL}\n{good}")).is_ok(), "{good}");
    }
    let broken = format!("\n{mail}{}", chat.replace("slack", "slakc"));
    assert!(!told_with(&broken).contains("nobody is told first"), "the other may be meant to be the first");
}
