//! What the types of a policy cannot say: paths are absolute, globs are globs, addresses hold no password.

use std::net::SocketAddr;

use chrono::NaiveTime;
use chrono_tz::Tz;
use globset::Glob;

use super::{
    AnomalyConfig, Channel, EmailConfig, ExecConfig, FilesConfig, HealthchecksConfig, MysqlConfig,
    NotifyConfig, OffsiteSettings, Prefer, RedisConfig, RepositorySettings, RetentionConfig, RevokedConfig,
    S3Config, ScheduleConfig, SecretRef, ServeConfig, StoreConfig, Tls, WebhookConfig,
    place::{Kind, OptionValue, SCHEMES, is_secret_option},
    read::{Reader, Section, nearest},
};
use crate::schedule::Cron;

/// Connections or requests at once that a policy may ask for.
const PARALLEL_MAX: usize = 256;
/// Days that an offsite may be locked ahead. Nobody takes a lock back, and each sync renews it.
const LOCK_DAYS_MAX: u32 = 366;
/// Packs at once that may be sent to an offsite; each of them is in memory.
const PACKS_AT_ONCE_MAX: usize = 16;
/// Seconds that a lock may be waited for.
const LOCK_WAIT_SECONDS_MAX: u64 = 3600;
/// Seconds that a dump may wait behind other saves of its server.
const SAVE_WAIT_SECONDS_MAX: u64 = 24 * 3600;
/// Tries after the first that a policy may ask for.
const RETRIES_MAX: u32 = 10;
/// Seconds that chance may put a run off.
const JITTER_SECONDS_MAX: u32 = 6 * 3600;
/// What zstd calls its levels, without those that need much memory to read.
const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

pub(super) fn mysql(reader: &mut Reader<'_>, section: &Section<'_>, config: &MysqlConfig) {
    not_empty(reader, section, "host", &config.host);
    not_empty(reader, section, "user", &config.user);
    if config.port == 0 {
        reader.wrong(section, "port", "`port` cannot be 0".to_owned(), "");
    }
    if let Some(socket) = &config.socket {
        absolute(reader, section, "socket", &socket.display().to_string());
    }
    globs(reader, section, "databases", &config.databases);
    globs(reader, section, "exclude", &config.exclude);
    parallel(reader, section, "threads", config.threads);
    if !(1..=LOCK_WAIT_SECONDS_MAX).contains(&config.lock_wait_seconds) {
        let message = format!("`lock_wait_seconds` must be from 1 to {LOCK_WAIT_SECONDS_MAX}");
        reader.wrong(section, "lock_wait_seconds", message, "");
    }
    if !(1..=LOCK_WAIT_SECONDS_MAX).contains(&config.long_query_seconds) {
        let message = format!("`long_query_seconds` must be from 1 to {LOCK_WAIT_SECONDS_MAX}");
        reader.wrong(section, "long_query_seconds", message, "");
    }
    certificates(reader, section, config);
}

fn certificates(reader: &mut Reader<'_>, section: &Section<'_>, config: &MysqlConfig) {
    let files = [
        ("ca_file", &config.ca_file),
        ("client_cert", &config.client_cert),
        ("client_key", &config.client_key),
    ];
    for (key, path) in files.iter().filter_map(|(key, path)| Some((*key, path.as_ref()?))) {
        absolute(reader, section, key, &path.display().to_string());
        if config.tls == Tls::Off {
            let hint = format!("Write tls = \"verified\", or leave `{key}` out.");
            reader.wrong(section, key, format!("`{key}` needs an encrypted connection"), &hint);
        }
    }
    if config.ca_file.is_some() && config.tls == Tls::Unverified {
        let hint = "Write tls = \"verified\", or leave `ca_file` out.";
        reader.wrong(
            section,
            "ca_file",
            "`ca_file` is not looked at: any certificate is accepted".to_owned(),
            hint,
        );
    }
    both_or_neither(
        reader,
        section,
        [("client_cert", config.client_cert.is_some()), ("client_key", config.client_key.is_some())],
    );
}

/// Tells which of two keys is missing where the other is given.
fn both_or_neither(reader: &mut Reader<'_>, section: &Section<'_>, keys: [(&str, bool); 2]) {
    for (index, (key, is_given)) in keys.into_iter().enumerate() {
        let (wanted, is_there) = keys[1 - index];
        if is_given && !is_there {
            reader.wrong(section, key, format!("`{key}` needs `{wanted}`"), "Name both files, or neither.");
        }
    }
}

pub(super) fn redis(reader: &mut Reader<'_>, section: &Section<'_>, config: &RedisConfig) {
    if let Some(path) = config.url.strip_prefix("unix://") {
        absolute(reader, section, "url", path);
    } else if !config.url.is_empty() {
        url(reader, section, "url", &config.url, &["redis", "rediss"]);
    } else if config.sentinels.is_empty() {
        let message = format!("`url` is missing in {}", section.label);
        reader.wrong(section, "url", message, "Name the server, or `sentinels` that know where it is.");
    }
    let certificates =
        [("ca_file", &config.ca_file), ("cert_file", &config.cert_file), ("key_file", &config.key_file)];
    let folders = [("spool_dir", &config.spool_dir), ("safety_dir", &config.safety_dir)];
    for (key, path) in certificates.into_iter().chain(folders) {
        if let Some(path) = path {
            absolute(reader, section, key, &path.display().to_string());
        }
    }
    if !config.addresses().any(|url| url.starts_with("rediss://")) {
        let place = if config.url.is_empty() { "sentinels" } else { "url" };
        for (key, _) in certificates.iter().filter(|(_, path)| path.is_some()) {
            let hint = format!("Write rediss:// in `{place}`, or leave `{key}` out.");
            reader.wrong(section, key, format!("`{key}` needs an encrypted connection"), &hint);
        }
    }
    both_or_neither(
        reader,
        section,
        [("cert_file", config.cert_file.is_some()), ("key_file", config.key_file.is_some())],
    );
    if config.save_wait_seconds.is_some_and(|seconds| !(1..=SAVE_WAIT_SECONDS_MAX).contains(&seconds)) {
        let message = format!("`save_wait_seconds` must be from 1 to {SAVE_WAIT_SECONDS_MAX}");
        reader.wrong(section, "save_wait_seconds", message, "");
    }
    sentinels(reader, section, config);
    cluster(reader, section, config);
}

fn sentinels(reader: &mut Reader<'_>, section: &Section<'_>, config: &RedisConfig) {
    addresses(reader, section, "sentinels", &config.sentinels);
    if config.sentinels.is_empty() {
        for (key, is_given) in [
            ("primary_name", config.primary_name.is_some()),
            ("sentinel_user", config.sentinel_user.is_some()),
            ("sentinel_password", config.sentinel_password.is_some()),
        ] {
            if is_given {
                reader.wrong(section, key, format!("`{key}` needs `sentinels`"), "");
            }
        }
        return;
    }
    if !config.url.is_empty() {
        let hint = "Leave `url` out: the Sentinels tell which server it is today.";
        reader.wrong(section, "url", "`url` and `sentinels` exclude each other".to_owned(), hint);
    }
    if config.cluster {
        let hint = "A cluster watches itself: name one of its nodes as `url`.";
        reader.wrong(section, "cluster", "`cluster` and `sentinels` exclude each other".to_owned(), hint);
    }
    if config.primary_name.as_deref().is_none_or(|name| name.trim().is_empty()) {
        let hint = "Write the name of `sentinel monitor NAME …` in the Sentinels' settings.";
        reader.wrong(section, "primary_name", "`sentinels` need `primary_name`".to_owned(), hint);
    }
    if config.sentinel_user.is_some() && config.sentinel_password.is_none() {
        let message = "`sentinel_user` needs `sentinel_password`".to_owned();
        reader.wrong(section, "sentinel_user", message, "");
    }
}

fn cluster(reader: &mut Reader<'_>, section: &Section<'_>, config: &RedisConfig) {
    addresses(reader, section, "nodes", &config.nodes);
    if !config.nodes.is_empty() && !config.cluster {
        let hint = "Write cluster = true to take every shard, or leave `nodes` out.";
        reader.wrong(section, "nodes", "`nodes` need `cluster = true`".to_owned(), hint);
    }
    if config.prefer != Prefer::default() && !config.cluster && config.sentinels.is_empty() {
        let hint = "Name the server that is wanted as `url`.";
        let message = "`prefer` needs `sentinels` or `cluster = true`".to_owned();
        reader.wrong(section, "prefer", message, hint);
    }
}

/// Checks addresses that stand in for each other: all are encrypted, or none.
fn addresses(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, urls: &[String]) {
    for (index, text) in urls.iter().enumerate() {
        let path = format!("{}.{key}[{index}]", section.path);
        if let Err(message) = check_url(key, text, &["redis", "rediss"]) {
            reader.tell(&section.at_item(key, index), path, message, None);
        } else if text.starts_with("rediss://") != urls[0].starts_with("rediss://") {
            let message = format!("`{key}` are encrypted in part");
            let hint = Some("Write rediss:// in all of them, or in none.".to_owned());
            reader.tell(&section.at_item(key, index), path, message, hint);
        }
    }
}

pub(super) fn s3(reader: &mut Reader<'_>, section: &Section<'_>, config: &S3Config) {
    url(reader, section, "endpoint", &config.endpoint, &["http", "https"]);
    not_empty(reader, section, "region", &config.region);
    globs(reader, section, "buckets", &config.buckets);
    globs(reader, section, "exclude", &config.exclude);
    parallel(reader, section, "concurrency", config.concurrency);
}

pub(super) fn files(reader: &mut Reader<'_>, section: &Section<'_>, config: &FilesConfig) {
    if config.paths.is_empty() {
        reader.wrong(section, "paths", "`paths` is empty".to_owned(), "Name at least one file or folder.");
    }
    for (index, path) in config.paths.iter().enumerate() {
        let text = path.display().to_string();
        let wrong = if !path.is_absolute() {
            Some(format!("path `{text}` is not absolute"))
        } else if path.components().any(|part| part == std::path::Component::ParentDir) {
            Some(format!("path `{text}` climbs"))
        } else if config.paths[..index].contains(path) {
            Some(format!("path `{text}` is named twice"))
        } else {
            None
        };
        if let Some(message) = wrong {
            let key = format!("{}.paths[{index}]", section.path);
            reader.tell(&section.at_item("paths", index), key, message, None);
        }
    }
    globs(reader, section, "exclude", &config.exclude);
    if config.max_age_days == Some(0) {
        let hint = "Leave it out to take files of any age.";
        reader.wrong(section, "max_age_days", "`max_age_days` is 0, which takes nothing".to_owned(), hint);
    }
}

pub(super) fn store(reader: &mut Reader<'_>, section: &Section<'_>, config: &StoreConfig) {
    let Some(kind) = Kind::of(&config.store) else {
        let hint = format!("This build knows {}.", SCHEMES.join(", "));
        reader.wrong(section, "store", format!("store `{}` is not known", config.store), &hint);
        return;
    };
    for needed in kind.needed {
        if !config.options.contains_key(*needed) {
            let message = format!("store `{}` needs the option `{needed}`", kind.scheme);
            reader.wrong(section, "options", message, "");
        }
    }
    let known: Vec<&str> = kind.known.iter().map(String::as_str).collect();
    for (name, value) in &config.options {
        let mut wrong = |message: String, hint: Option<String>| {
            let key = format!("{}.options.{name}", section.path);
            reader.tell(&section.at_inside("options", name), key, message, hint);
        };
        if !known.contains(&name.as_str()) {
            let message = format!("store `{}` has no option `{name}`", kind.scheme);
            wrong(message, nearest(name, &known));
        } else if matches!(value, OptionValue::Text(_)) && is_secret_option(name) {
            wrong(format!("`{name}`: {}", SecretRef::RULE), Some(SecretRef::REMEDY.to_owned()));
        } else if let (OptionValue::Text(text), "endpoint") = (value, name.as_str()) {
            if let Err(message) = check_url(name, text, &["http", "https"]) {
                wrong(message, None);
            }
        } else if let (OptionValue::Text(text), "root", "fs") = (value, name.as_str(), kind.scheme)
            && !text.starts_with('/')
        {
            wrong(format!("`root` must be absolute, not `{text}`"), None);
        }
    }
}

pub(super) fn lock(reader: &mut Reader<'_>, section: &Section<'_>, settings: &OffsiteSettings) {
    match settings.lock_days {
        None if settings.lock_mode.is_some() => {
            let hint = "Say for how long: lock_days = 30.";
            reader.wrong(section, "lock_mode", "`lock_mode` needs `lock_days`".to_owned(), hint);
        }
        Some(days) if !(1..=LOCK_DAYS_MAX).contains(&days) => {
            let message = format!("`lock_days` must be from 1 to {LOCK_DAYS_MAX}");
            let hint = "Each sync renews the lock of what is kept, so 30 days are enough for years.";
            reader.wrong(section, "lock_days", message, hint);
        }
        _ => {}
    }
}

pub(super) fn offsite(reader: &mut Reader<'_>, section: &Section<'_>, config: &OffsiteSettings) {
    if config.limit_mib_per_second == Some(0) {
        let hint = "Leave it out to send as fast as the line allows.";
        reader.wrong(section, "limit_mib_per_second", "`limit_mib_per_second` cannot be 0".to_owned(), hint);
    }
    if !(1..=PACKS_AT_ONCE_MAX).contains(&config.concurrency) {
        let message = format!("`concurrency` must be from 1 to {PACKS_AT_ONCE_MAX}");
        reader.wrong(section, "concurrency", message, "");
    }
    if config.reread_percent > 100 {
        reader.wrong(section, "reread_percent", "`reread_percent` must be from 0 to 100".to_owned(), "");
    }
}

pub(super) fn repository(reader: &mut Reader<'_>, section: &Section<'_>, config: &RepositorySettings) {
    if config.recipients.is_empty() {
        let hint = "`lifeboat keys new` makes a key pair; write the age1… line here.";
        reader.wrong(section, "recipients", "`recipients` is empty".to_owned(), hint);
    }
    for (index, recipient) in config.recipients.iter().enumerate() {
        let wrong = if recipient.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
            // Not repeated: whoever reads the error must not learn the key.
            Some("a secret key stands where the public one belongs".to_owned())
        } else if !recipient.starts_with("age1") {
            Some(format!("`{recipient}` is no age recipient"))
        } else if config.recipients[..index].contains(recipient) {
            Some(format!("recipient `{recipient}` is named twice"))
        } else {
            None
        };
        if let Some(message) = wrong {
            let hint = "A recipient begins with age1 and is safe to show.".to_owned();
            let key = format!("{}.recipients[{index}]", section.path);
            reader.tell(&section.at_item("recipients", index), key, message, Some(hint));
        }
    }
    signing_keys(reader, section, "signers", &config.signers);
    signing_keys(reader, section, "maintainers", &config.maintainers);
    let paths = [
        ("keys", Some(&config.keys)),
        ("index_key", config.index_key.as_ref()),
        ("signing_key", config.signing_key.as_ref()),
    ];
    for (key, path) in paths {
        if let Some(path) = path {
            absolute(reader, section, key, &path.display().to_string());
        }
    }
    if !LEVELS.contains(&config.compression_level) {
        let message = format!("`compression_level` must be from {} to {}", LEVELS.start(), LEVELS.end());
        reader.wrong(section, "compression_level", message, "");
    }
}

/// Characters of a minisign public key; what is longer may be a secret one and is not repeated.
const SIGNER_CHARS: usize = 56;

fn signing_keys(reader: &mut Reader<'_>, section: &Section<'_>, list: &str, keys: &[String]) {
    for (index, text) in keys.iter().enumerate() {
        let wrong = match not_a_signer(text) {
            None if keys[..index].contains(text) => Some(format!("`{text}` is named twice in `{list}`")),
            other => other,
        };
        if let Some(message) = wrong {
            let key = format!("{}.{list}[{index}]", section.path);
            reader.tell(&section.at_item(list, index), key, message, Some(SIGNER_HINT.to_owned()));
        }
    }
}

const SIGNER_HINT: &str = "A signer begins with RW and is safe to show: the line of signing.pub.";

/// Returns what keeps a text from being a minisign public key, as far as its looks tell.
fn not_a_signer(text: &str) -> Option<String> {
    if text.len() > SIGNER_CHARS {
        return Some("what stands here is too long for a signer's public key".to_owned());
    }
    (!text.starts_with("RW")).then(|| format!("`{text}` is no signer"))
}

/// Reads the tables of signers that are not believed any more.
pub(super) fn revoked<'a>(
    reader: &mut Reader<'a>,
    tables: &[Section<'a>],
    signers: &[String],
) -> Vec<RevokedConfig> {
    let mut found: Vec<RevokedConfig> = Vec::new();
    for table in tables {
        let Some(config) = reader.rest::<RevokedConfig>(table) else { continue };
        let (wrong, hint) = if let Some(wrong) = not_a_signer(&config.signer) {
            (wrong, SIGNER_HINT)
        } else if !signers.contains(&config.signer) {
            let hint = "Keep a revoked key in `signers`: what it signed before is still believed.";
            (format!("`{}` is not among `signers`", config.signer), hint)
        } else if found.iter().any(|other| other.signer == config.signer) {
            (format!("`{}` is revoked twice", config.signer), "Keep the table with the smaller `after_seq`.")
        } else {
            found.push(config);
            continue;
        };
        reader.wrong(table, "signer", wrong, hint);
    }
    found
}

pub(super) fn schedule(reader: &mut Reader<'_>, section: &Section<'_>, config: &ScheduleConfig) {
    for (job, cron) in config.jobs() {
        if let Err(error) = Cron::parse(cron, Tz::UTC) {
            let hint = "Five fields: minute, hour, day of month, month, day of week, as \"0 2 * * *\".";
            let message = format!("`{job}` is no time of a schedule: {}", lower_first(&error));
            reader.wrong(section, job, message, hint);
        }
    }
    if config.deadline_minutes == Some(0) {
        reader.wrong(section, "deadline_minutes", "`deadline_minutes` cannot be 0".to_owned(), "");
    }
    if config.retries > RETRIES_MAX {
        reader.wrong(section, "retries", format!("`retries` must be from 0 to {RETRIES_MAX}"), "");
    }
    if config.jitter_seconds > JITTER_SECONDS_MAX {
        let message = format!("`jitter_seconds` must be from 0 to {JITTER_SECONDS_MAX}");
        reader.wrong(section, "jitter_seconds", message, "");
    }
}

pub(super) fn anomaly(reader: &mut Reader<'_>, section: &Section<'_>, config: &AnomalyConfig) {
    if !(1..=100).contains(&config.shrink_percent) {
        let hint = "100 asks only when nothing is left.";
        reader.wrong(section, "shrink_percent", "`shrink_percent` must be from 1 to 100".to_owned(), hint);
    }
}

pub(super) fn serve(reader: &mut Reader<'_>, section: &Section<'_>, config: &ServeConfig) {
    if config.listen.parse::<SocketAddr>().is_err() {
        let hint = "An address and a port, as \"127.0.0.1:9412\".";
        reader.wrong(section, "listen", format!("`{}` is no address to listen at", config.listen), hint);
    }
    if let Some(path) = &config.textfile {
        absolute(reader, section, "textfile", &path.display().to_string());
    }
    if config.remember_days < 31 {
        let message = "`remember_days` must be 31 or more".to_owned();
        reader.wrong(section, "remember_days", message, "");
    }
}

pub(super) fn retention(reader: &mut Reader<'_>, section: &Section<'_>, config: &RetentionConfig) {
    if config.min_keep == 0 {
        let hint = "At least 1: the newest good snapshot is never removed.";
        reader.wrong(section, "min_keep", "`min_keep` cannot be 0".to_owned(), hint);
    }
    if !(1..=100).contains(&config.remove_percent_max) {
        let message = "`remove_percent_max` must be from 1 to 100".to_owned();
        reader.wrong(section, "remove_percent_max", message, "");
    }
    let (key, wrong) = match config.rules() {
        Err(failure) => ("within", Err(failure)),
        Ok(rules) => ("", rules.check()),
    };
    if let Err(failure) = wrong {
        let hint = failure.first_hint().unwrap_or_default();
        reader.wrong(section, key, failure.to_string(), hint);
    }
}

pub(super) fn email(reader: &mut Reader<'_>, section: &Section<'_>, config: &EmailConfig) {
    not_empty(reader, section, "host", &config.host);
    if config.to.is_empty() {
        reader.wrong(section, "to", "`to` is empty".to_owned(), "");
    }
    if !config.from.contains('@') {
        reader.wrong(section, "from", format!("`{}` is no mail address", config.from), "");
    }
    for (index, address) in config.to.iter().enumerate().filter(|(_, address)| !address.contains('@')) {
        let key = format!("{}.to[{index}]", section.path);
        reader.tell(&section.at_item("to", index), key, format!("`{address}` is no mail address"), None);
    }
    if config.password.is_some() != config.user.is_some() {
        let message = "`user` and `password` go together".to_owned();
        reader.wrong(section, if config.user.is_some() { "user" } else { "password" }, message, "");
    }
}

pub(super) fn exec(reader: &mut Reader<'_>, section: &Section<'_>, config: &ExecConfig) {
    match config.command.first() {
        Some(program) => absolute(reader, section, "command", program),
        None => reader.wrong(section, "command", "`command` is empty".to_owned(), ""),
    }
}

pub(super) fn webhook(reader: &mut Reader<'_>, section: &Section<'_>, config: &WebhookConfig) {
    let Some(template) = &config.template else { return };
    if let Err(error) = minijinja::Environment::new().template_from_str(template) {
        let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        let line = error.line().map(|line| format!(" in its line {line}")).unwrap_or_default();
        reader.wrong(section, "template", format!("`template` is no template: {what}{line}"), "");
    }
}

/// Tells when all channels that hear of trouble wait for another one to fail; pings are no news to anybody.
pub(super) fn first_to_hear(reader: &mut Reader<'_>, channels: &[(NotifyConfig, Section<'_>)]) {
    let mut hearing =
        channels.iter().filter(|(one, _)| !matches!(one.channel, Channel::Healthchecks(_))).peekable();
    let Some((_, first)) = hearing.peek().copied() else { return };
    if hearing.all(|(one, _)| one.fallback) {
        let hint =
            "Leave `fallback` out of one of them; healthchecks hears of runs alone and stands for nobody.";
        let message = "every channel is a fallback, so nobody is told first".to_owned();
        reader.wrong(first, "fallback", message, hint);
    }
}

pub(super) fn healthchecks(reader: &mut Reader<'_>, section: &Section<'_>, config: &HealthchecksConfig) {
    if config.jobs.is_empty() {
        let hint = "Leave `jobs` out for the backup alone.";
        reader.wrong(section, "jobs", "`jobs` is empty, so nothing would be told".to_owned(), hint);
    }
}

/// Reads `22:00`.
pub(super) fn hour(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    key: &str,
    text: &str,
) -> Option<NaiveTime> {
    let time = NaiveTime::parse_from_str(text, "%H:%M").ok();
    if time.is_none() {
        let hint = "Write an hour and a minute of the policy's zone, as \"22:00\".";
        reader.wrong(section, key, format!("`{text}` is no time of a day"), hint);
    }
    time
}

/// Checks that a query only reads: a drill runs it on what it restored.
pub(super) fn query(reader: &mut Reader<'_>, section: &Section<'_>, text: &str) {
    let first = text.trim_start().split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let reads = ["select", "with", "table"].contains(&first.to_ascii_lowercase().as_str());
    if !reads || text.trim_end().trim_end_matches(';').contains(';') {
        let hint = "A drill asks one question: SELECT …";
        reader.wrong(section, "query", "`query` is not a single SELECT".to_owned(), hint);
    }
}

pub(super) fn absolute(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, path: &str) {
    if !path.starts_with('/') {
        reader.wrong(section, key, format!("`{key}` must be an absolute path, not `{path}`"), "");
    }
}

pub(super) fn not_empty(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, text: &str) {
    if text.trim().is_empty() {
        reader.wrong(section, key, format!("`{key}` is empty"), "");
    }
}

fn parallel(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, count: usize) {
    if !(1..=PARALLEL_MAX).contains(&count) {
        reader.wrong(section, key, format!("`{key}` must be from 1 to {PARALLEL_MAX}"), "");
    }
}

/// Checks that a text is a glob.
pub(super) fn glob(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, pattern: &str) {
    if let Err(error) = Glob::new(pattern) {
        reader.wrong(section, key, format!("`{pattern}` is no glob: {}", error.kind()), "");
    }
}

fn globs(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, patterns: &[String]) {
    for (index, pattern) in patterns.iter().enumerate() {
        if let Err(error) = Glob::new(pattern) {
            let path = format!("{}.{key}[{index}]", section.path);
            let message = format!("`{pattern}` is no glob: {}", error.kind());
            reader.tell(&section.at_item(key, index), path, message, None);
        }
    }
    if patterns.is_empty() && key != "exclude" {
        let hint = format!("Leave `{key}` out to take everything.");
        reader.wrong(section, key, format!("`{key}` is empty, so nothing would be taken"), &hint);
    }
}

fn url(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, text: &str, schemes: &[&str]) {
    if let Err(message) = check_url(key, text, schemes) {
        let hint = if text.contains('@') {
            "Take the login out of the address: user = \"…\" and password = { file = \"…\" } are keys of their own."
        } else {
            ""
        };
        reader.wrong(section, key, message, hint);
    }
}

/// Checks `scheme://host[:port][/…]`; an address with a login is not repeated in the message.
fn check_url(key: &str, text: &str, schemes: &[&str]) -> Result<(), String> {
    let wanted = schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(" or ");
    let host = text
        .split_once("://")
        .filter(|(scheme, _)| schemes.contains(scheme))
        .map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if text.contains('@') {
        return Err(format!("`{key}` holds a login"));
    }
    let Some(host) = host else { return Err(format!("`{key}` must begin with {wanted}, not `{text}`")) };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if name.is_empty() || name.contains(char::is_whitespace) || !port_good {
        return Err(format!("`{key}` is no address: `{text}`"));
    }
    Ok(())
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_lowercase().to_string()).unwrap_or_default();
    (first + chars.as_str()).trim_end_matches('.').to_owned()
}
