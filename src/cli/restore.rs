//! `lifeboat restore`.

use std::{collections::BTreeMap, io::Write};

use chrono_tz::Tz;
use clap::Args;
use serde_json::{Value, json};

use super::{
    choices::Choosing,
    copies, json,
    redis_choices::RedisChoosing,
    s3_choices::S3Choosing,
    say,
    session::{Origin, Session, known},
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::{Changes, Fit, Preflight, Selection, Verified, Verify, Weight},
    jobs::{
        drilled, open,
        registry::{self, Chosen, Into},
        restore::{Missing, Outcome, Plan, Restored, Resume, SourcePlan, Wanted, choose, execute, plan},
        run::interrupted,
        seen::REPOSITORY,
        when::When,
    },
    names::{ByteCount, SourceName},
    policy::{SourceConfig, SourceKind, Stack},
    repo::Snapshot,
};

/// Lines that tell what is missing; more are counted, and `--json` names them all.
const MISSING_SHOWN: usize = 20;

/// Restore a snapshot: shows the plan, asks for the stack's name, restores, verifies.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the command line")]
pub struct Restore {
    /// latest, a snapshot id, 20251011-150000, RFC 3339, or "2 hours ago"
    #[arg(required_unless_present_any = ["at", "safety"])]
    when: Option<String>,
    /// Only this source; may be repeated
    #[arg(long, value_name = "SOURCE")]
    pub(super) source: Vec<String>,
    /// Only what fits: db, db.table, 'db.table[100..200]' (keys, both ends included), bucket/key, a path; globs; may
    /// be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(super) only: Vec<String>,
    /// Somewhere else: SOURCE=URL (without password; MySQL: URL/DATABASE for another name; Redis: URL/3 or SOURCE=db=3
    /// for one database, beside what the others hold; S3: URL/BUCKET for another bucket) or SOURCE=/absolute/folder;
    /// may be repeated
    #[arg(long, value_name = "SOURCE=WHERE")]
    into: Vec<String>,
    /// To any second (needs the journal)
    #[arg(long, value_name = "TIME", conflicts_with = "when")]
    at: Option<String>,
    /// Show what would be done, and stop
    #[arg(long)]
    pub(super) plan: bool,
    /// Remove what is in the way first
    #[arg(long)]
    pub(super) replace: bool,
    /// Continue a restore of the same that was interrupted (MySQL)
    #[arg(long, conflicts_with = "replace")]
    resume: bool,
    #[command(flatten)]
    fitting: Fitting,
    /// Where the repository is damaged, restore what is not and name what is missing: reads everything twice
    #[arg(long)]
    pub(super) salvage: bool,
    /// How what is restored is checked: a server's rows are read back and compared, or counted, or neither
    #[arg(long, value_enum, value_name = "HOW", default_value_t = How::Digests)]
    pub(super) verify: How,
    /// Do not ask; the stack's name says that you know which one
    #[arg(long, value_name = "STACK")]
    pub(super) yes: Option<String>,
    #[command(flatten)]
    choosing: Choosing,
    #[command(flatten)]
    pub(super) redis: RedisChoosing,
    #[command(flatten)]
    s3: S3Choosing,
    #[command(flatten)]
    origin: Origin,
}

/// The words of `--verify`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum How {
    Digests,
    Counts,
    None,
}

impl From<How> for Verify {
    fn from(how: How) -> Self {
        match how {
            How::Digests => Self::Digests,
            How::Counts => Self::Counts,
            How::None => Self::Nothing,
        }
    }
}

/// What becomes of things that the server does not know.
#[derive(Debug, Args)]
struct Fitting {
    /// Use another collation where the server does not know one; may be repeated
    #[arg(long, value_name = "FROM=TO")]
    map_collation: Vec<String>,
    /// Restore without what the server cannot hold (the plan lists it)
    #[arg(long)]
    leave_out_unfit: bool,
}

impl Fitting {
    fn read(&self) -> Result<Fit> {
        Ok(Fit { collations: collations(&self.map_collation)?, leave_out: self.leave_out_unfit })
    }
}

pub(super) async fn run(args: Restore, session: &Session) -> Result<ExitCode> {
    if let Some(file) = &args.redis.safety {
        return copies::run(&args, file.as_deref(), session).await;
    }
    // Nothing is touched yet, so it is dropped where it is.
    let Some(ready) = session.stop.run_until_cancelled(Box::pin(ready(args, session))).await else {
        return Err(interrupted("the restore was stopped before it began"));
    };
    let Some((opening, snapshot, plan)) = ready? else { return Ok(ExitCode::Ok) };
    let hold = session.hold(&opening, &snapshot.refs.snapshot).await;
    let outcome = execute(&snapshot, plan, &session.stop, &session.monitor()).await;
    session.release(hold).await;
    let outcome = outcome?;
    tell(&outcome, ("snapshot", json!(snapshot.refs.snapshot)), session);
    // What is not there now either, nobody should learn later.
    Ok(outcome.exit())
}

/// Plans, shows the plan and asks. Returns what is to be carried out, unless only the plan was wished.
async fn ready(args: Restore, session: &Session) -> Result<Option<(open::Opening, Snapshot, Plan)>> {
    let Some(when) = &args.when else {
        return Err(Failure::new(
            ExitCode::Usage,
            "restoring to any second needs the journal, which is not there yet",
        )
        .hint(format!(
            "Restore the newest snapshot that is not younger: `lifeboat restore {}`.",
            args.at.as_deref().unwrap_or("latest")
        )));
    };
    let stack = session.stack()?;
    let wanted = wanted(&args, &stack, session)?;
    if let Some(typed) = args.yes.as_deref().filter(|_| !args.plan) {
        check_name(typed, &stack.name)?;
    }
    // A plan reads no data, so it needs no recovery identity: look at it before anybody fetches the key. Only that of
    // a salvage reads it all.
    let is_look = args.plan && !args.salvage;
    let opening = session.open(&stack, &args.origin)?;
    let repository =
        if is_look { session.look(&stack, &opening).await? } else { session.read(&stack, &opening).await? };
    let when = When::parse(when, stack.timezone, session.ground.clock.now())?;
    let refs = session.believed(&repository).await?;
    let id = choose(&repository, &refs, &when, &wanted.sources(&stack)).await?;
    let snapshot = repository.snapshot(&id).await?;
    let wanted = targets(wanted, &args, &stack, &snapshot, session)?;
    let hold = if args.salvage { session.hold(&opening, &id).await } else { None };
    let planned = plan(&snapshot, wanted, &session.monitor()).await;
    session.release(hold).await;
    let mut plan = planned?;
    predict(&mut plan, &stack, &args.origin, session);
    if args.plan {
        if session.json {
            let facts = facts(&plan, &args.origin, opening.shown());
            json::print(&json::document("restore", json!({ "plan": facts })));
        } else {
            show(&plan, stack.timezone, &args.origin, opening.shown());
        }
        return Ok(None);
    }
    plan.check()?;
    let is_asked = args.yes.is_none();
    if !session.json && (is_asked || !session.quiet) {
        show(&plan, stack.timezone, &args.origin, opening.shown());
    }
    if is_asked {
        confirm(&stack.name).await?;
    }
    Ok(Some((opening, snapshot, plan)))
}

/// Says in the plan how long it takes, as far as this host's catalog knows. That it does not stops no restore.
fn predict(plan: &mut Plan, stack: &Stack, origin: &Origin, session: &Session) {
    let from = origin.from.as_deref().unwrap_or(REPOSITORY);
    let ledger = open::ledger(stack, &session.monitor());
    if let Ok(rates) = ledger.and_then(|ledger| drilled::rates(&ledger, from)) {
        plan.predict(&rates);
    }
}

/// Tells what was restored and what is missing.
pub(super) fn tell(outcome: &Outcome, (of, name): (&str, Value), session: &Session) {
    let restored = &outcome.restored;
    if session.json {
        let restored: Vec<Value> = restored.iter().map(restored_facts).collect();
        let missing: Vec<Value> = outcome.missing.iter().map(missing_facts).collect();
        let facts = json!({ of: name, "restored": restored, "missing": missing });
        json::print(&json::document("restore", facts));
    } else {
        if !(session.quiet && restored.iter().all(|one| is_verified(one) && one.tally.notes.is_empty())) {
            show_restored(restored);
        }
        // What the backup had left out stands in the plan, which quiet people have not seen.
        show_missing(outcome.missing.iter().filter(|one| one.damaged || session.quiet));
    }
}

/// What the command line asks for, checked before anything is opened.
pub(super) struct Asked {
    names: Vec<SourceName>,
    into: Vec<(SourceName, Into)>,
    pub(super) only: Selection,
    fit: Fit,
}

impl Asked {
    /// Returns where a source goes, if not to its own place.
    pub(super) fn place(&self, name: &SourceName) -> Option<&Into> {
        place(&self.into, name)
    }

    /// Checks that only what is restored is sent elsewhere.
    pub(super) fn check_into(&self, names: &[SourceName]) -> Result<()> {
        match self.into.iter().find(|(name, _)| !names.contains(name)) {
            Some((name, _)) => {
                Err(Failure::new(ExitCode::Usage, format!("--into names `{name}`, which is not restored"))
                    .hint(format!("Add --source {name}, or leave that --into out.")))
            }
            None => Ok(()),
        }
    }

    /// Returns the sources that the snapshot should hold: those that were named, or all of the policy.
    fn sources(&self, stack: &Stack) -> Vec<SourceName> {
        if self.names.is_empty() {
            stack.sources.iter().map(|source| source.name.clone()).collect()
        } else {
            self.names.clone()
        }
    }
}

/// Checks what the command line asks for.
pub(super) fn wanted(args: &Restore, stack: &Stack, session: &Session) -> Result<Asked> {
    let mut names = Vec::new();
    for name in &args.source {
        let name = &known(stack, name)?.name;
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let mut into: Vec<(SourceName, Into)> = Vec::new();
    for text in &args.into {
        let (config, place) = elsewhere(stack, text)?;
        if into.iter().any(|(name, _)| *name == config.name) {
            return Err(Failure::new(ExitCode::Usage, format!("--into names `{}` twice", config.name))
                .hint("A source goes to one place; restore again for a second one."));
        }
        into.push((config.name.clone(), place));
    }
    let all: Vec<&SourceConfig> =
        stack.sources.iter().filter(|one| names.is_empty() || names.contains(&one.name)).collect();
    let all: Vec<_> = all.into_iter().map(|one| (one, place(&into, &one.name))).collect();
    let fit = args.fitting.read()?;
    let only = Selection::new(&args.only).map_err(|failure| {
        if failure.first_hint().is_some() {
            return failure;
        }
        failure
            .hint("Write a glob such as im, im.users, 'bucket/2025/*'; [x] for a character that means more.")
    })?;
    args.choosing.check(args, &only, &all)?;
    args.redis.check(&all)?;
    args.s3.check(&all)?;
    let only = only.at(args.s3.as_of(stack.timezone, session.ground.clock.now())?);
    Ok(Asked { names, into, only, fit })
}

/// Returns where a source goes, if that was said.
fn place<'a>(into: &'a [(SourceName, Into)], name: &SourceName) -> Option<&'a Into> {
    into.iter().find(|(source, _)| source == name).map(|(_, into)| into)
}

/// Reads `SOURCE=WHERE`. What does not fit is never repeated: people try it with a password first.
fn elsewhere<'s>(stack: &'s Stack, text: &str) -> Result<(&'s SourceConfig, Into)> {
    let named = text.split_once('=').filter(|(name, _)| SourceName::new(name).is_ok());
    let (name, place) = named.ok_or_else(|| {
        Failure::new(ExitCode::Usage, "--into does not begin with a source's name and `=`")
            .hint("Write --into SOURCE=URL or --into SOURCE=/absolute/folder.")
    })?;
    if name == "db"
        && stack.source(name).is_none()
        && let Ok(into @ Into::Database(_)) = Into::parse(text)
    {
        return Ok((only_redis(stack)?, into));
    }
    let config = known(stack, name)?;
    let into = Into::parse(place)?;
    into.check(&config.kind)?;
    Ok((config, into))
}

/// Returns the source that a database by number alone can mean.
fn only_redis(stack: &Stack) -> Result<&SourceConfig> {
    let mut all = stack.sources.iter().filter(|source| matches!(source.kind, SourceKind::Redis(_)));
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one),
        (found, _) => {
            let many = if found.is_some() { "several Redis sources" } else { "no Redis source" };
            let what = format!("--into names a database, and the stack has {many}");
            Err(Failure::new(ExitCode::Usage, what).hint("Name the source too: --into SOURCE=db=3."))
        }
    }
}

/// Makes the targets: of the sources asked for, or of all that the snapshot has.
fn targets(
    asked: Asked,
    args: &Restore,
    stack: &Stack,
    snapshot: &Snapshot,
    session: &Session,
) -> Result<Wanted> {
    let names: Vec<SourceName> = if asked.names.is_empty() {
        snapshot.manifest.sources.iter().map(|source| source.name.clone()).collect()
    } else {
        asked.names.clone()
    };
    asked.check_into(&names)?;
    let mut configs = Vec::new();
    for name in &names {
        let config = stack.source(name.as_str()).ok_or_else(|| {
            Failure::new(ExitCode::Usage, format!("the snapshot has `{name}`, the policy has no such source"))
                .hint("Add the source to the policy, or pick others with --source.")
        })?;
        configs.push((config, asked.place(name)));
    }
    let (ground, monitor) = (&session.ground, session.monitor());
    let (waived, ttl, home) = (args.redis.waived(), args.redis.ttl(), open::home(stack));
    let mut targets = Vec::new();
    for (config, into) in configs {
        let mysql = args.choosing.choices(config, into, snapshot, ground)?;
        let chosen = Chosen { mysql, waived, ttl, copy: None, home: Some(home.clone()), iam: args.s3.iam };
        let target = registry::chosen_target(config, into, chosen, ground, &monitor)?;
        targets.push((config.name.clone(), target));
    }
    let (by_name, only) = (!args.source.is_empty(), asked.only);
    let (verify, resume) = (args.verify.into(), if args.resume { Resume::Now } else { Resume::Later });
    let (replace, salvage, fit) = (args.replace, args.salvage, asked.fit);
    Ok(Wanted { targets, by_name, only, replace, salvage, fit, verify, resume })
}

/// Reads `FROM=TO`. Both become part of statements, so both are words.
fn collations(pairs: &[String]) -> Result<BTreeMap<String, String>> {
    let is_word =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let read = |pair: &String| {
        let pair = pair.split_once('=').filter(|(from, to)| is_word(from) && is_word(to));
        let (from, to) = pair.ok_or_else(|| {
            Failure::new(ExitCode::Usage, "--map-collation is not FROM=TO with the names of two collations")
                .hint("For example --map-collation utf8mb4_0900_ai_ci=utf8mb4_unicode_ci.")
        })?;
        Ok((from.to_owned(), to.to_owned()))
    };
    pairs.iter().map(read).collect()
}

/// Asks for the stack's name. A thread of its own waits for the answer, so that a signal still ends all.
pub(super) async fn confirm(stack: &str) -> Result<()> {
    // A terminal that is gone or does not flush shows the question late or not at all, no more.
    let _ = write!(std::io::stderr(), "Type the stack's name to go on: ");
    let _ = std::io::stderr().flush();
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = answer.await.failed(ExitCode::Failed, || "the question broke off".to_owned())?;
    let line = line.unwrap_or_default();
    if !line.ends_with('\n') {
        // Nobody pressed Enter: what is said next begins a line of its own.
        let _ = writeln!(std::io::stderr());
    }
    check_name(line.trim(), stack)
}

pub(super) fn check_name(typed: &str, stack: &str) -> Result<()> {
    if typed == stack {
        return Ok(());
    }
    let what = if typed.is_empty() {
        "nobody typed the stack's name; nothing was touched".to_owned()
    } else {
        format!("`{typed}` is not the stack's name; nothing was touched")
    };
    let hint = format!("The policy's stack is `{stack}`; a program says --yes {stack}.");
    Err(Failure::new(ExitCode::Usage, what).hint(hint))
}

fn facts(plan: &Plan, origin: &Origin, place: &str) -> Value {
    let sources = plan.sources.iter().map(|source| {
        json!({
            "source": source.source,
            "kind": source.kind,
            "point": source.point,
            "entries": source.entries,
            "bytes": source.size_bytes,
            "into": source.place,
            "version": source.state.version,
            "in_the_way": source.state.in_the_way,
            "continues": source.continues,
            "preflight": source.state.preflight,
            "predicted_seconds": source.predicted_seconds,
            "choices": source.choices,
            "names": source.state.names,
        })
    });
    json!({
        "stack": plan.stack,
        "snapshot": plan.snapshot,
        "from": { "offsite": origin.from, "place": place },
        "replace": plan.replace,
        "only": plan.only.patterns(),
        "as_of": plan.only.as_of(),
        "missing": plan.missing.iter().map(missing_facts).collect::<Vec<_>>(),
        "predicted_seconds": plan.predicted_seconds,
        "sources": sources.collect::<Vec<_>>(),
    })
}

fn show(plan: &Plan, zone: Tz, origin: &Origin, place: &str) {
    let from = match &origin.from {
        Some(name) => format!("offsite {name}, {place}"),
        None => place.to_owned(),
    };
    say(&format!("Restore of stack {} to snapshot {}, read from {from}", plan.stack, plan.snapshot));
    let mut table = super::screen::table(&["source", "as of", "entries", "size", "into", "in the way"]);
    for source in &plan.sources {
        let in_the_way = match (&source.state.in_the_way[..], plan.replace) {
            _ if source.continues => "what was begun, and is continued".to_owned(),
            ([], _) => "nothing".to_owned(),
            (lines, false) => lines.join("\n"),
            (lines, true) if source.state.preflight.changes.is_some() => {
                lines.iter().map(|line| format!("{line}: see below")).collect::<Vec<_>>().join("\n")
            }
            (lines, true) if !plan.only.is_of_all() => lines
                .iter()
                .map(|line| format!("{line}: what fits will be replaced"))
                .collect::<Vec<_>>()
                .join("\n"),
            (lines, true) => {
                lines.iter().map(|line| format!("{line}: WILL BE REMOVED")).collect::<Vec<_>>().join("\n")
            }
        };
        table.add_row([
            source.source.to_string(),
            plan.only
                .as_of()
                .unwrap_or(source.point.at)
                .with_timezone(&zone)
                .format("%Y-%m-%d %H:%M:%S %Z")
                .to_string(),
            source.entries.to_string(),
            ByteCount(source.size_bytes).to_string(),
            format!("{}\n{}", source.place, source.state.version),
            in_the_way,
        ]);
    }
    say(&table.to_string());
    let beside =
        plan.sources.iter().filter_map(|source| super::instant::beside(&source.source, &source.point));
    beside.for_each(|line| say(&line));
    for source in plan.sources.iter().filter(|source| !source.choices.is_empty()) {
        let choices = source.choices.iter().filter(|(name, _)| **name != "names");
        let choices: Vec<String> = choices.map(|(name, word)| format!("{name} {word}")).collect();
        say(&format!("{}: {}", source.source, choices.join(", ")));
        for (old, new) in &source.state.names {
            say(&format!("{}: {old} goes by the name {new}", source.source));
        }
        if let Some(swap) = source.choices.get("names").filter(|names| names.starts_with("swap")) {
            say(&format!(
                "{}: {swap}; what is written to the live tables until then stays in the old ones",
                source.source
            ));
        }
    }
    say(&expected(plan.predicted_seconds));
    plan.sources.iter().for_each(|source| show_preflight(source, plan));
    show_missing(plan.missing.iter());
}

/// Tells what a server will need, and what of the snapshot it cannot hold.
fn show_preflight(source: &SourcePlan, plan: &Plan) {
    let found = &source.state.preflight;
    if *found != Preflight::default() {
        let removes = plan.replace && plan.only.is_of_all();
        for line in preflight_lines(source.source.as_str(), found, (plan.fit.leave_out, removes)) {
            say(&line);
        }
    }
}

fn preflight_lines(source: &str, found: &Preflight, (leave_out, removes): (bool, bool)) -> Vec<String> {
    let count = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let (tables, rows) = (count(found.tables, "table"), count(found.rows, "row"));
    let needed = ByteCount(found.needed_bytes);
    let counts = format!("{source}: {tables}, {rows}; they take about {needed}; {}", found.room);
    let mut lines = match &found.changes {
        Some(changes) => change_lines(source, changes, removes),
        // Where nobody counted, there are remarks only.
        None if found.room.is_empty() => vec![format!("{source}:")],
        None => vec![counts],
    };
    lines.extend(found.remarks.iter().map(|remark| {
        let word = match remark.weight {
            Weight::Blocks => "NOT POSSIBLE",
            Weight::DoesNotFit if leave_out => "WILL BE LEFT OUT",
            Weight::DoesNotFit => "DOES NOT FIT",
            Weight::Mapped => "otherwise",
            Weight::Note => "note",
        };
        format!("  {word}: {}: {}", remark.what, remark.why)
    }));
    lines
}

/// Tells what stands there already, and what of it goes.
fn change_lines(source: &str, changes: &Changes, removes: bool) -> Vec<String> {
    let Changes { equal, changed, new, extra, extra_named } = changes;
    let mut lines =
        vec![format!("{source}: {equal} are there already, {changed} will be overwritten, {new} are new")];
    if *extra > 0 {
        let what = if removes { "WILL BE REMOVED" } else { "--replace would remove them" };
        lines.push(format!("  {extra} are there that the snapshot does not have: {what}"));
        lines.extend(extra_named.iter().map(|name| format!("    {}", name.escape_debug())));
        let more = extra.saturating_sub(extra_named.len() as u64);
        lines.extend((more > 0).then(|| format!("    and {more} more")));
    }
    lines
}

/// Says how long a restore is expected to take.
fn expected(seconds: Option<f64>) -> String {
    let time = seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok());
    let Some(seconds) = time.map(|time| time.as_secs()) else {
        return "How long it takes is not known: no drill has measured it yet".to_owned();
    };
    let (hours, minutes) = (seconds / 3600, seconds % 3600 / 60);
    let text = match (hours, minutes) {
        (0, 0) => "less than a minute".to_owned(),
        (0, _) => format!("about {minutes} min"),
        _ => format!("about {hours} h {minutes} min"),
    };
    format!("It takes {text}, by what drills have measured")
}

/// Tells what is not there, or will not be.
fn show_missing<'a>(missing: impl Iterator<Item = &'a Missing>) {
    let (mut shown, mut more) = (0, 0);
    for one in missing {
        if shown == MISSING_SHOWN {
            more += 1;
            continue;
        }
        shown += 1;
        let Missing { source, entry, why, damaged } = one;
        let what = match (entry, damaged) {
            (Some(entry), true) => format!("{source}/{entry}"),
            (Some(entry), false) => format!("{source}: {entry}"),
            (None, true) => source.clone(),
            (None, false) => format!("{source}: all of it"),
        };
        let word = if *damaged { "MISSING" } else { "not restored:" };
        say(&format!("{word} {what}: {why}"));
    }
    if more > 0 {
        say(&format!("and {more} more; --json names them all"));
    }
}

fn missing_facts(missing: &Missing) -> Value {
    let Missing { source, entry, why, damaged } = missing;
    json!({ "source": source, "entry": entry, "why": why, "damaged": damaged })
}

fn restored_facts(restored: &Restored) -> Value {
    json!({
        "source": restored.source,
        "entries": restored.tally.entries,
        "bytes": restored.tally.bytes,
        "seconds": restored.seconds,
        "verified": restored.tally.verified.word(),
        "dangling": restored.tally.dangling,
        "changes": restored.tally.changes,
        "notes": restored.tally.notes,
    })
}

/// Returns whether there is nothing to be said about the checking.
fn is_verified(restored: &Restored) -> bool {
    restored.tally.verified != Verified::No
}

fn show_restored(all: &[Restored]) {
    let mut table = super::screen::table(&["source", "entries", "size", "seconds", "verified"]);
    for restored in all {
        table.add_row([
            restored.source.to_string(),
            restored.tally.entries.to_string(),
            ByteCount(restored.tally.bytes).to_string(),
            format!("{:.1}", restored.seconds),
            restored.tally.verified.word().to_owned(),
        ]);
    }
    say(&table.to_string());
    for restored in all {
        for note in &restored.tally.notes {
            say(&format!("{}: {note}", restored.source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Remark;

    #[test]
    fn what_no_drill_measured_is_not_guessed() {
        assert_eq!(expected(None), "How long it takes is not known: no drill has measured it yet");
        assert_eq!(expected(Some(59.9)), "It takes less than a minute, by what drills have measured");
        assert_eq!(expected(Some(720.0)), "It takes about 12 min, by what drills have measured");
        assert_eq!(expected(Some(7500.0)), "It takes about 2 h 5 min, by what drills have measured");
    }

    #[test]
    fn the_plan_tells_what_a_server_needs_and_what_does_not_fit() {
        let found = Preflight {
            tables: 1,
            rows: 2000,
            needed_bytes: 3_000_000,
            room: "the databases there take 0 B now".to_owned(),
            changes: None,
            in_the_way: Vec::new(),
            remarks: vec![
                Remark::new(Weight::Blocks, "read_only", "the server is read-only"),
                Remark::new(Weight::DoesNotFit, "sequence im.s", "MySQL has no sequences"),
                Remark::new(Weight::Mapped, "table im.users", "collation a becomes b"),
                Remark::new(Weight::Note, "local_infile", "it is off"),
            ],
        };
        insta::assert_snapshot!(preflight_lines("mysql", &found, (false, false)).join("\n"), @r"
        mysql: 1 table, 2000 rows; they take about 2.86 MiB; the databases there take 0 B now
          NOT POSSIBLE: read_only: the server is read-only
          DOES NOT FIT: sequence im.s: MySQL has no sequences
          otherwise: table im.users: collation a becomes b
          note: local_infile: it is off
        ");
        assert!(
            preflight_lines("mysql", &found, (true, false))[2]
                .starts_with("  WILL BE LEFT OUT: sequence im.s")
        );
    }

    #[test]
    fn the_plan_counts_what_stands_there_and_names_the_first_of_what_goes() {
        let changes = Changes {
            equal: 10,
            changed: 3,
            new: 2,
            extra: 5,
            extra_named: vec!["im-files/a".to_owned(), "im-files/line\nend".to_owned()],
        };
        let remark = Remark::new(Weight::Note, "users, groups and rights", "--iam puts them back");
        let found = Preflight { changes: Some(changes), remarks: vec![remark], ..Preflight::default() };
        insta::assert_snapshot!(preflight_lines("minio", &found, (false, true)).join("\n"), @r"
        minio: 10 are there already, 3 will be overwritten, 2 are new
          5 are there that the snapshot does not have: WILL BE REMOVED
            im-files/a
            im-files/line\nend
            and 3 more
          note: users, groups and rights: --iam puts them back
        ");
        let without = preflight_lines("minio", &found, (false, false));
        assert!(without[1].ends_with("--replace would remove them"), "{without:?}");
    }

    #[test]
    fn one_database_of_redis_is_meant_by_its_number() {
        let stack = |more: &str| {
            let text = format!(
                "stack = \"im\"\n[repository]\nstore = \"fs\"\noptions = {{ root = \"/r\" }}\n\
                 recipients = [\"age1abc\"]\n[[source]]\nname = \"cache\"\nkind = \"redis\"\n\
                 url = \"redis://a\"\n[[source]]\nname = \"mysql\"\nkind = \"mysql\"\nuser = \"u\"\n{more}"
            );
            Stack::parse(&text, "p.toml", crate::policy::Need::Repository).unwrap()
        };
        let one = stack("");
        for text in ["db=3", "cache=db=3"] {
            let (config, into) = elsewhere(&one, text).unwrap();
            assert_eq!((config.name.as_str(), into), ("cache", Into::Database(3)), "{text}");
        }
        let (_, into) = elsewhere(&one, "cache=redis://other:6380/3").unwrap();
        assert_eq!(into, Into::Server("redis://other:6380/3".to_owned()));
        for wrong in ["mysql=db=3", "cache=db=x", "cache=redis://other/x", "db=x", "db=redis://h"] {
            assert_eq!(elsewhere(&one, wrong).unwrap_err().exit(), ExitCode::Usage, "{wrong}");
        }
        let two = stack("[[source]]\nname = \"other\"\nkind = \"redis\"\nurl = \"redis://b\"\n");
        assert!(elsewhere(&two, "db=3").unwrap_err().to_string().contains("several Redis sources"));
    }

    #[test]
    fn collations_are_words() {
        let pairs = |text: &str| collations(&[text.to_owned()]);
        assert_eq!(pairs("a_ci=b_ci").unwrap()["a_ci"], "b_ci");
        for wrong in ["a", "a=", "=b", "a=b;DROP", "a=b c", "a=b=c"] {
            assert_eq!(pairs(wrong).unwrap_err().exit(), ExitCode::Usage, "{wrong}");
        }
    }
}
