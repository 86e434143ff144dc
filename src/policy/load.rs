//! From a file to a [`Stack`], or to everything that is wrong with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use chrono_tz::Tz;

use super::{
    AnomalyConfig, Channel, CommandConfig, DrillConfig, ExpectConfig, FreshnessConfig, LabKind, NotifyConfig,
    Occasion, OffsiteConfig, OffsiteSettings, PolicyProblems, Quiet, ReferenceConfig, RepositoryConfig,
    RepositorySettings, RetentionConfig, ScheduleConfig, ServeConfig, SourceConfig, SourceKind, Stack, check,
    read::{Head, Hearing, Hours, Named, Reader, Section, Tag, nearest},
};
use crate::{
    error::{ExitCode, Failure},
    names::SourceName,
};

/// What a verb needs of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// At least one source: everything that reads or writes one.
    Sources,
    /// Only the repository: a new host that is being rebuilt may know nothing else yet.
    Repository,
}

/// Where a policy is looked for when nobody names one.
const USUAL_PLACES: [&str; 2] = ["lifeboat.toml", "/etc/lifeboat/policy.toml"];

/// Bytes that a policy may have; a longer file is something else.
const POLICY_BYTES_MAX: u64 = 1024 * 1024;

/// Returns the policy file: the one that was named, `$LIFEBOAT_POLICY`, or the first of the usual places
/// that exists. A file that was named must exist: another one in its stead would be a surprise.
pub fn find_policy(explicit: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let named = explicit.or_else(|| env::var_os("LIFEBOAT_POLICY").filter(|v| !v.is_empty()).map(Into::into));
    find_among(named, &USUAL_PLACES.map(PathBuf::from))
}

fn find_among(named: Option<PathBuf>, usual: &[PathBuf]) -> Result<PathBuf, Failure> {
    if let Some(named) = named {
        return Ok(named);
    }
    usual.iter().find(|place| place.is_file()).cloned().ok_or_else(|| {
        let looked =
            usual.iter().map(|place| format!("`{}`", place.display())).collect::<Vec<_>>().join(", ");
        Failure::new(ExitCode::Usage, format!("no policy is at {looked}"))
            .hint("Name one with --policy or $LIFEBOAT_POLICY, or make one with `lifeboat init`.")
    })
}

impl Stack {
    /// Reads and checks a policy file.
    pub fn load(path: &Path) -> Result<Self, PolicyProblems> {
        Self::load_for(path, Need::Sources)
    }

    /// Reads and checks a policy file for a verb that may not need all of it.
    pub fn load_for(path: &Path, need: Need) -> Result<Self, PolicyProblems> {
        let file = path.display().to_string();
        let hint = "Check the path and that this user may read it; `lifeboat init` makes a policy.";
        let size_bytes = fs::metadata(path).map(|metadata| metadata.len());
        let text = match size_bytes {
            Ok(size) if size > POLICY_BYTES_MAX => Err(std::io::Error::other(format!("it has {size} bytes"))),
            Ok(_) => fs::read_to_string(path),
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => Self::parse(&text, &file, need),
            Err(error) => Err(PolicyProblems::unreadable(file, format!("cannot be read: {error}"), hint)),
        }
    }

    /// Checks the text of a policy; `file` is what problems call it.
    pub fn parse(text: &str, file: &str, need: Need) -> Result<Self, PolicyProblems> {
        let (mut reader, root) = Reader::new(text);
        let stack = root.and_then(|root| whole(&mut reader, root, need));
        let problems = reader.finish();
        match stack {
            Some(stack) if problems.is_empty() => Ok(stack),
            _ => Err(PolicyProblems { file: file.to_owned(), problems }),
        }
    }
}

/// Reads the whole file. A part that does not fit has told so; the others are read all the same.
fn whole<'a>(reader: &mut Reader<'a>, mut root: Section<'a>, need: Need) -> Option<Stack> {
    let repository = if root.has("repository") {
        reader.table(&mut root, "repository").and_then(|section| repository(reader, section))
    } else {
        let hint = "It says where the snapshots lie: store, options, recipients.";
        reader.wrong(&root, "repository", "the policy has no [repository]".to_owned(), hint);
        reader.table(&mut root, "repository");
        None
    };
    let sources = sources(reader, &mut root, need);
    let offsites = offsites(reader, &mut root);
    let schedule = simple::<ScheduleConfig>(reader, &mut root, "schedule", check::schedule);
    let retention = simple::<RetentionConfig>(reader, &mut root, "retention", check::retention);
    let drill = drill(reader, &mut root, &sources, &offsites);
    let anomaly = simple::<AnomalyConfig>(reader, &mut root, "anomaly", check::anomaly);
    let serve = simple::<ServeConfig>(reader, &mut root, "serve", check::serve);
    let notify = notify(reader, &mut root);
    let head: Option<Head> = reader.rest(&root);
    let head = head?;
    let timezone = timezone(reader, &root, head.timezone.as_deref());
    if let Err(error) = SourceName::new(&head.stack) {
        reader.wrong(&root, "stack", format!("`{}` is not a stack name: {}", head.stack, error.rule), "");
    }
    let repository = repository?;
    for (offsite, section) in &offsites {
        if offsite.place == repository.place {
            let message = format!("offsite `{}` is the repository itself", offsite.name);
            reader.wrong(section, "options", message, "A copy helps only where the first one is not.");
        }
    }
    Some(Stack {
        name: head.stack,
        timezone: timezone?,
        language: head.language,
        repository,
        sources: sources.into_iter().map(|(source, _)| source).collect(),
        offsites: offsites.into_iter().map(|(offsite, _)| offsite).collect(),
        schedule: schedule?,
        retention: retention?,
        drill: drill?,
        anomaly: anomaly?,
        serve: serve?,
        notify,
    })
}

fn timezone(reader: &mut Reader<'_>, root: &Section<'_>, text: Option<&str>) -> Option<Tz> {
    let Some(text) = text else { return Some(Tz::UTC) };
    let zone = text.parse::<Tz>().ok();
    if zone.is_none() {
        let names: Vec<&str> = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()).collect();
        let hint = nearest(text, &names).unwrap_or("Use a name like Asia/Shanghai.".to_owned());
        reader.wrong(root, "timezone", format!("timezone `{text}` is not known"), &hint);
    }
    zone
}

/// Reads a table that stands for itself and may be missing.
fn simple<'a, T: serde::de::DeserializeOwned + Default>(
    reader: &mut Reader<'a>,
    root: &mut Section<'a>,
    key: &str,
    check: impl Fn(&mut Reader<'_>, &Section<'_>, &T),
) -> Option<T> {
    let is_there = root.has(key);
    match reader.table(root, key) {
        Some(section) => {
            let config: T = reader.rest(&section)?;
            check(reader, &section, &config);
            Some(config)
        }
        None => (!is_there).then(T::default),
    }
}

fn repository<'a>(reader: &mut Reader<'a>, mut section: Section<'a>) -> Option<RepositoryConfig> {
    let place = reader.take(&mut section);
    let tables = reader.tables(&mut section, "revoked");
    let settings: Option<RepositorySettings> = reader.rest(&section);
    let mut config = RepositoryConfig { place: place?, settings: settings? };
    check::store(reader, &section, &config.place);
    check::repository(reader, &section, &config.settings);
    config.settings.revoked = check::revoked(reader, &tables, &config.settings.signers);
    Some(config)
}

/// Reads a name and gives it to the section, so that problems can be told apart by it.
fn name<'a>(reader: &mut Reader<'a>, section: &mut Section<'a>, text: Option<String>) -> Option<SourceName> {
    let Some(text) = text else {
        if !section.has("name") {
            reader.wrong(section, "name", format!("`name` is missing in {}", section.label), "");
        }
        return None;
    };
    match SourceName::new(&text) {
        Ok(name) => {
            section.call(&text);
            Some(name)
        }
        Err(error) => {
            reader.wrong(section, "name", format!("`{text}` is no name: {}", error.rule), "");
            None
        }
    }
}

/// Tells of a name that an earlier table has, also one that was wrong in other ways.
fn unique(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    name: &SourceName,
    seen: &mut BTreeSet<SourceName>,
) {
    if !seen.insert(name.clone()) {
        let hint = "Give each a name of its own: it is how restores and reports call it.";
        reader.wrong(section, "name", format!("name `{name}` is taken"), hint);
    }
}

/// Reads the word that says of which kind a table is.
fn kind<'a>(reader: &mut Reader<'a>, section: &Section<'a>, given: Option<&str>, known: &[&str]) -> bool {
    let Some(given) = given else {
        if !section.has("kind") {
            let message = format!("`kind` is missing in {}", section.label);
            reader.wrong(section, "kind", message, &format!("Use one of {}.", known.join(", ")));
        }
        return false;
    };
    let is_known = known.contains(&given);
    if !is_known {
        let hint = nearest(given, known).unwrap_or(format!("Use one of {}.", known.join(", ")));
        reader.wrong(section, "kind", format!("kind `{given}` is not known"), &hint);
    }
    is_known
}

type Placed<'a, T> = Vec<(T, Section<'a>)>;

fn sources<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>, need: Need) -> Placed<'a, SourceConfig> {
    if need == Need::Sources && !root.has("source") {
        let hint = "Add a [[source]] table for each database, object store or folder.";
        reader.wrong(
            root,
            "source",
            "the policy has no [[source]], so nothing is protected".to_owned(),
            hint,
        );
    }
    let (mut found, mut seen): (Placed<'a, SourceConfig>, _) = (Vec::new(), BTreeSet::new());
    for mut section in reader.tables(root, "source") {
        let Some(tag) = reader.take::<Tag>(&mut section) else { continue };
        let name = name(reader, &mut section, tag.name);
        if let Some(name) = &name {
            unique(reader, &section, name, &mut seen);
        }
        let kind = source_kind(reader, &section, tag.kind.as_deref());
        if let (Some(name), Some(kind)) = (name, kind) {
            found.push((SourceConfig { name, kind }, section));
        }
    }
    found
}

fn source_kind<'a>(
    reader: &mut Reader<'a>,
    section: &Section<'a>,
    given: Option<&str>,
) -> Option<SourceKind> {
    if !kind(reader, section, given, &SourceKind::WORDS) {
        return None;
    }
    let kind = match given? {
        "mysql" => SourceKind::Mysql(reader.rest(section)?),
        "redis" => SourceKind::Redis(reader.rest(section)?),
        "s3" => SourceKind::S3(reader.rest(section)?),
        _ => SourceKind::Files(reader.rest(section)?),
    };
    match &kind {
        SourceKind::Mysql(mysql) => check::mysql(reader, section, mysql),
        SourceKind::Redis(redis) => check::redis(reader, section, redis),
        SourceKind::S3(s3) => check::s3(reader, section, s3),
        SourceKind::Files(files) => check::files(reader, section, files),
    }
    Some(kind)
}

fn offsites<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Placed<'a, OffsiteConfig> {
    let (mut found, mut seen): (Placed<'a, OffsiteConfig>, _) = (Vec::new(), BTreeSet::new());
    for mut section in reader.tables(root, "offsite") {
        let named = reader.take::<Named>(&mut section).and_then(|named| named.name);
        let name = name(reader, &mut section, named);
        if let Some(name) = &name {
            unique(reader, &section, name, &mut seen);
        }
        let has_retention = section.has("retention");
        let retention = simple::<RetentionConfig>(reader, &mut section, "retention", check::retention);
        let place = reader.take(&mut section);
        let settings: Option<OffsiteSettings> = reader.rest(&section);
        if let Some(place) = &place {
            check::store(reader, &section, place);
        }
        if let Some(settings) = &settings {
            check::lock(reader, &section, settings);
            check::offsite(reader, &section, settings);
        }
        if let (Some(name), Some(place), Some(settings)) = (name, place, settings) {
            let retention = retention.filter(|_| has_retention);
            found.push((OffsiteConfig { name, place, settings, retention }, section));
        }
    }
    found
}

fn drill<'a>(
    reader: &mut Reader<'a>,
    root: &mut Section<'a>,
    sources: &Placed<'a, SourceConfig>,
    offsites: &Placed<'a, OffsiteConfig>,
) -> Option<DrillConfig> {
    let is_there = root.has("drill");
    let Some(mut section) = reader.table(root, "drill") else {
        return (!is_there).then(DrillConfig::default);
    };
    let kinds: BTreeMap<&str, &str> =
        sources.iter().map(|(source, _)| (source.name.as_str(), source.kind.word())).collect();
    let references = reader.tables(&mut section, "reference");
    let references = references.iter().filter_map(|inside| reference(reader, inside, &kinds)).collect();
    let expectations = reader.tables(&mut section, "expect");
    let expectations = expectations.iter().filter_map(|inside| expect(reader, inside, &kinds)).collect();
    let newest = reader.tables(&mut section, "freshness");
    let newest = newest.iter().filter_map(|inside| freshness(reader, inside, &kinds)).collect();
    let commands = reader.tables(&mut section, "command");
    let commands = commands.iter().filter_map(|inside| command(reader, inside)).collect();
    let config: DrillConfig = reader.rest(&section)?;
    let from_known = config.from == "repository"
        || offsites.iter().any(|(offsite, _)| offsite.name.as_str() == config.from);
    if !from_known {
        let hint = "Use repository, or the name of an [[offsite]].";
        reader.wrong(&section, "from", format!("offsite `{}` is not in the policy", config.from), hint);
    }
    let named = [
        ("images", config.images.keys().collect::<Vec<_>>()),
        ("arguments", config.arguments.keys().collect()),
    ];
    for (table, names) in named {
        for name in names.into_iter().filter(|name| !kinds.contains_key(name.as_str())) {
            let key = format!("drill.{table}.{name}");
            let message = format!("source `{name}` is not in the policy");
            reader.tell(&section.at_inside(table, name), key, message, None);
        }
    }
    for (key, value) in [("deadline_minutes", config.deadline_minutes), ("memory_mib", config.memory_mib)] {
        if value == 0 {
            reader.wrong(&section, key, format!("`{key}` cannot be 0"), "");
        }
    }
    if config.cpu_percent == Some(0) {
        reader.wrong(&section, "cpu_percent", "`cpu_percent` cannot be 0".to_owned(), "");
    }
    if !(1..=100).contains(&config.objects_percent) {
        let hint = "100 reads every object whole; existence, size and metadata are always compared.";
        let message = "`objects_percent` must be from 1 to 100".to_owned();
        reader.wrong(&section, "objects_percent", message, hint);
    }
    for (key, path) in [("identity", &config.identity), ("reports", &config.reports)] {
        if let Some(path) = path {
            check::absolute(reader, &section, key, &path.display().to_string());
        }
    }
    if config.by_hand && config.lab == LabKind::Docker && config.by_hand_image.is_none() {
        let hint = "Name an image that has bash, age, zstd, tar, jq and minisign.";
        reader.wrong(&section, "by_hand", "`by_hand` needs `by_hand_image`".to_owned(), hint);
    }
    Some(DrillConfig { references, expectations, freshness: newest, commands, ..config })
}

/// Tells of a source that is not there, or is of another kind than the thing needs.
fn needs(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    key: &str,
    (name, wanted): (&str, &str),
    kinds: &BTreeMap<&str, &str>,
) {
    let message = match kinds.get(name) {
        Some(kind) if *kind == wanted => return,
        Some(kind) => format!("source `{name}` is of kind {kind}, not {wanted}"),
        None => format!("source `{name}` is not in the policy"),
    };
    let known: Vec<&str> = kinds.keys().copied().collect();
    reader.wrong(
        section,
        key,
        message,
        &nearest(name, &known).filter(|_| !kinds.contains_key(name)).unwrap_or_default(),
    );
}

fn reference<'a>(
    reader: &mut Reader<'a>,
    section: &Section<'a>,
    kinds: &BTreeMap<&str, &str>,
) -> Option<ReferenceConfig> {
    let config: ReferenceConfig = reader.rest(section)?;
    needs(reader, section, "source", (&config.source, "mysql"), kinds);
    check::query(reader, section, &config.query);
    if kinds.get(config.inside.as_str()) != Some(&"redis") {
        needs(reader, section, "in", (&config.inside, "s3"), kinds);
        if config.bucket.as_deref().is_none_or(|bucket| bucket.trim().is_empty()) {
            reader.wrong(
                section,
                "bucket",
                "`bucket` is empty".to_owned(),
                "Name the bucket of the objects.",
            );
        }
    } else if config.orphans_max.is_some() && config.orphans.is_none() {
        let hint = "Write a glob in `orphans`, as \"session:*\".";
        reader.wrong(section, "orphans_max", "it is not said which keys must have a row".to_owned(), hint);
    }
    if let Some(pattern) = &config.orphans {
        check::glob(reader, section, "orphans", pattern);
    }
    Some(config)
}

fn freshness<'a>(
    reader: &mut Reader<'a>,
    section: &Section<'a>,
    kinds: &BTreeMap<&str, &str>,
) -> Option<FreshnessConfig> {
    let config: FreshnessConfig = reader.rest(section)?;
    needs(reader, section, "source", (&config.source, "mysql"), kinds);
    check::query(reader, section, &config.query);
    check::not_empty(reader, section, "name", &config.name);
    if let Some(zone) = config.timezone.as_deref().filter(|zone| zone.parse::<chrono_tz::Tz>().is_err()) {
        let hint = "Use a name of the IANA database, as \"Asia/Shanghai\".";
        reader.wrong(section, "timezone", format!("`{zone}` is no time zone"), hint);
    }
    Some(config)
}

fn command<'a>(reader: &mut Reader<'a>, section: &Section<'a>) -> Option<CommandConfig> {
    let config: CommandConfig = reader.rest(section)?;
    check::not_empty(reader, section, "name", &config.name);
    if config.command.first().is_none_or(String::is_empty) {
        reader.wrong(
            section,
            "command",
            "`command` is empty".to_owned(),
            "Write [\"/path/to/program\", \"argument\"].",
        );
    }
    if config.timeout_minutes == 0 {
        reader.wrong(section, "timeout_minutes", "`timeout_minutes` cannot be 0".to_owned(), "");
    }
    Some(config)
}

fn expect<'a>(
    reader: &mut Reader<'a>,
    section: &Section<'a>,
    kinds: &BTreeMap<&str, &str>,
) -> Option<ExpectConfig> {
    let config: ExpectConfig = reader.rest(section)?;
    needs(reader, section, "source", (&config.source, "mysql"), kinds);
    check::query(reader, section, &config.query);
    check::not_empty(reader, section, "name", &config.name);
    let (least, most) = (config.at_least.unwrap_or(i64::MIN), config.at_most.unwrap_or(i64::MAX));
    if config.at_least.is_none() && config.at_most.is_none() || least > most {
        let hint = "Give `at_least`, `at_most` or both.";
        reader.wrong(section, "at_least", "no answer is wrong here, or none is right".to_owned(), hint);
    }
    Some(config)
}

fn notify<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Vec<NotifyConfig> {
    let (mut found, mut seen): (Placed<'a, NotifyConfig>, _) = (Vec::new(), BTreeSet::new());
    let sections = reader.tables(root, "notify");
    let count = sections.len();
    for mut section in sections {
        let Some(tag) = reader.take::<Tag>(&mut section) else { continue };
        let given = tag.name.or(tag.kind.clone());
        let name = name(reader, &mut section, given);
        let hearing = reader.take::<Hearing>(&mut section);
        let quiet = quiet(reader, &mut section);
        let channel = channel(reader, &section, tag.kind.as_deref());
        let (Some(name), Some(hearing), Some(channel)) = (name, hearing, channel) else { continue };
        unique(reader, &section, &name, &mut seen);
        let on = hearing.on.unwrap_or(vec![Occasion::Trouble, Occasion::Drill, Occasion::Digest]);
        let name = name.to_string();
        found.push((NotifyConfig { name, on, fallback: hearing.fallback, quiet, channel }, section));
    }
    // One that could not be read may be the one that hears first.
    if found.len() == count {
        check::first_to_hear(reader, &found);
    }
    found.into_iter().map(|(channel, _)| channel).collect()
}

/// Reads the quiet hours of a channel. What is wrong with them has been told when there are none.
fn quiet<'a>(reader: &mut Reader<'a>, section: &mut Section<'a>) -> Option<Quiet> {
    if !section.has("quiet") {
        return None;
    }
    let inside = reader.table(section, "quiet")?;
    let hours: Hours = reader.rest(&inside)?;
    let from = check::hour(reader, &inside, "from", &hours.from);
    let to = check::hour(reader, &inside, "to", &hours.to);
    Some(Quiet { from: from?, to: to? })
}

fn channel<'a>(reader: &mut Reader<'a>, section: &Section<'a>, given: Option<&str>) -> Option<Channel> {
    if !kind(reader, section, given, &Channel::WORDS) {
        return None;
    }
    let channel = match given? {
        "dingtalk" => Channel::Dingtalk(reader.rest(section)?),
        "feishu" => Channel::Feishu(reader.rest(section)?),
        "wecom" => Channel::Wecom(reader.rest(section)?),
        "slack" => Channel::Slack(reader.rest(section)?),
        "webhook" => Channel::Webhook(reader.rest(section)?),
        "healthchecks" => Channel::Healthchecks(reader.rest(section)?),
        "email" => Channel::Email(reader.rest(section)?),
        _ => Channel::Exec(reader.rest(section)?),
    };
    match &channel {
        Channel::Email(email) => check::email(reader, section, email),
        Channel::Exec(exec) => check::exec(reader, section, exec),
        Channel::Webhook(hook) => check::webhook(reader, section, hook),
        Channel::Healthchecks(pings) => check::healthchecks(reader, section, pings),
        _ => {}
    }
    Some(channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_policy_is_never_replaced_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let usual = [dir.path().join("lifeboat.toml"), dir.path().join("policy.toml")];
        std::fs::write(&usual[1], "").unwrap();
        assert_eq!(find_among(Some("/no/such".into()), &usual).unwrap(), Path::new("/no/such"));
        assert_eq!(find_among(None, &usual).unwrap(), usual[1]);
        std::fs::write(&usual[0], "").unwrap();
        assert_eq!(find_among(None, &usual).unwrap(), usual[0]);
        let failure = find_among(None, &[dir.path().join("none")]).unwrap_err();
        assert_eq!(failure.exit(), ExitCode::Usage);
    }
}
