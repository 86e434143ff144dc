//! `lifeboat restore --safety`: lists the copies of what restores replaced, or loads one.

use std::{path::Path, time::Instant};

use chrono::SecondsFormat;
use serde_json::{Value, json};

use super::{
    json,
    restore::{self, Restore, check_name, confirm},
    say,
    session::{Session, known},
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{Selection, TargetState, WriteOptions, pipe},
    jobs::{
        open,
        registry::{self, Chosen, Into, ReadyTarget},
        restore::{Missing, Outcome, Restored},
        run::interrupted,
    },
    names::ByteCount,
    policy::{RedisConfig, SourceConfig, SourceKind, Stack},
    redis::copies::{Copy, CopySource, folder, kept, no_copy},
};

/// Lists the copies, or loads the one in `file`.
pub(super) async fn run(args: &Restore, file: Option<&Path>, session: &Session) -> Result<ExitCode> {
    let stack = session.stack()?;
    let Some(file) = file else {
        list(&stack, session);
        return Ok(ExitCode::Ok);
    };
    let Some(ready) = session.stop.run_until_cancelled(Box::pin(ready(args, file, &stack, session))).await
    else {
        return Err(interrupted("the restore was stopped before it began"));
    };
    let Some((copy, target, only)) = ready? else { return Ok(ExitCode::Ok) };
    let began = Instant::now();
    let (source, verify, stop) = (target.target.name().clone(), args.verify.into(), session.stop.clone());
    let options = WriteOptions { replace: args.replace, only, verify, stop, ..WriteOptions::default() };
    let tally = pipe(Box::new(copy), target.target, options).await.map_err(|error| error.about(&source))?;
    let missing = tally.left_out.iter().map(|one| Missing {
        source: source.to_string(),
        entry: Some(one.what.clone()),
        why: one.why.clone(),
        damaged: false,
    });
    let missing = missing.collect::<Vec<_>>();
    let is_whole = missing.is_empty();
    let restored =
        vec![Restored { source, tally, seconds: began.elapsed().as_secs_f64(), stands_beside: false }];
    restore::tell(&Outcome { restored, missing }, ("copy", json!(file)), session);
    Ok(if is_whole { ExitCode::Ok } else { ExitCode::Partial })
}

/// Returns every Redis source with its copies.
fn all(stack: &Stack) -> impl Iterator<Item = Copy> {
    let home = open::home(stack);
    let of = move |source: &SourceConfig| match &source.kind {
        SourceKind::Redis(config) => kept(&folder(&home, config), &source.name),
        _ => Vec::new(),
    };
    stack.sources.iter().flat_map(of)
}

fn list(stack: &Stack, session: &Session) {
    let copies: Vec<Copy> = all(stack).collect();
    let at = |copy: &Copy| copy.at.to_rfc3339_opts(SecondsFormat::Secs, true);
    if session.json {
        let facts = |copy: &Copy| {
            json!({
                "source": copy.source, "into": copy.elsewhere(), "at": at(copy), "file": copy.path,
                "command": copy.command(),
            })
        };
        let facts: Vec<Value> = copies.iter().map(facts).collect();
        json::print(&json::document("restore", json!({ "copies": facts })));
        return;
    }
    if copies.is_empty() {
        say("No copies: no restore of this host has replaced what a Redis server held.");
        return;
    }
    let mut table = super::screen::table(&["source", "server", "held until", "file"]);
    for copy in &copies {
        let until = copy.at.with_timezone(&stack.timezone).format("%Y-%m-%d %H:%M:%S %Z").to_string();
        table.add_row([copy.source.to_string(), copy.shown_place(), until, copy.path.display().to_string()]);
    }
    say(&table.to_string());
    say(&format!("The newest is loaded by `{}`.", copies[0].command()));
}

/// Returns the source that a copy is of: the one that was named, or that its name says.
fn source_of<'s>(
    args: &Restore,
    file: &Path,
    stack: &'s Stack,
) -> Result<(&'s SourceConfig, &'s RedisConfig)> {
    let named = Copy::named(file);
    let config = match (&args.source[..], &named) {
        ([name], _) => known(stack, name)?,
        ([], Some(copy)) => known(stack, copy.source.as_str())?,
        _ => {
            let what = "a safety copy goes into one source, and its name does not say which";
            return Err(Failure::new(ExitCode::Usage, what).hint("Name it: --source SOURCE, once."));
        }
    };
    let SourceKind::Redis(redis) = &config.kind else {
        let what = format!("`{}` is no Redis server, and safety copies are of such", config.name);
        return Err(Failure::new(ExitCode::Usage, what).hint("Name another with --source."));
    };
    Ok((config, redis))
}

/// Opens the copy, looks at the server, shows both and asks. Returns nothing when only the plan was wished.
async fn ready(
    args: &Restore,
    file: &Path,
    stack: &Stack,
    session: &Session,
) -> Result<Option<(CopySource, ReadyTarget, Selection)>> {
    let asked = restore::wanted(args, stack, session)?;
    if !file.is_file() {
        return Err(no_copy(file, &all(stack).collect::<Vec<_>>()));
    }
    let (config, redis) = source_of(args, file, stack)?;
    asked.check_into(std::slice::from_ref(&config.name))?;
    if let Some(typed) = args.yes.as_deref().filter(|_| !args.plan) {
        check_name(typed, &stack.name)?;
    }
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let identity = session.identity_needed(stack)?;
    let copy = CopySource::open((&config.name, redis), &file, identity, &session.ground).await?;
    let chosen = Chosen {
        waived: args.redis.waived(),
        ttl: args.redis.ttl(),
        copy: Some(file.clone()),
        home: Some(open::home(stack)),
        ..Chosen::default()
    };
    // A copy goes back to where it was taken.
    let taken = || copy.goes_into(redis)?.map(|into| Into::parse(&into)).transpose();
    let into = asked.place(&config.name).cloned().map_or_else(taken, |into| Ok(Some(into)))?;
    let mut target =
        registry::chosen_target(config, into.as_ref(), chosen, &session.ground, &session.monitor())?;
    let state = target.target.inspect(&[]).await?;
    if args.plan || !session.json && (args.yes.is_none() || !session.quiet) {
        show(&copy, (&file, &target), &state, (args, session));
    }
    if args.plan {
        return Ok(None);
    }
    if asked.only.is_all() && !args.replace && !state.in_the_way.is_empty() {
        let what = format!("the target is not empty: {}", state.in_the_way.join("; "));
        return Err(Failure::new(ExitCode::TargetNotEmpty, what)
            .hint("Say --replace to put the copy in its place; what is there is copied first."));
    }
    if args.yes.is_none() {
        confirm(&stack.name).await?;
    }
    Ok(Some((copy, target, asked.only)))
}

fn show(
    copy: &CopySource,
    (file, target): (&Path, &ReadyTarget),
    state: &TargetState,
    (args, session): (&Restore, &Session),
) {
    let at = copy.at().to_rfc3339_opts(SecondsFormat::Secs, true);
    let keys = copy.keys();
    if session.json {
        let facts = json!({
            "copy": file, "at": at, "bytes": copy.size_bytes(), "keys": keys, "into": target.place,
            "version": state.version, "in_the_way": state.in_the_way, "replace": args.replace,
            "choices": target.choices,
        });
        json::print(&json::document("restore", json!({ "plan": facts })));
        return;
    }
    say(&format!(
        "Restore of source {} to what it held at {at}, kept in {}",
        target.target.name(),
        file.display()
    ));
    let keys = keys.map_or_else(
        || "not known".to_owned(),
        |keys| {
            let lines = keys.iter().map(|(db, count)| format!("db {db}: {count}"));
            lines.collect::<Vec<_>>().join("\n")
        },
    );
    let mut table = super::screen::table(&["keys", "size", "into", "in the way"]);
    let ending = if args.replace { ": WILL BE REMOVED" } else { "" };
    let in_the_way: Vec<String> = state.in_the_way.iter().map(|line| format!("{line}{ending}")).collect();
    let in_the_way = if in_the_way.is_empty() { "nothing".to_owned() } else { in_the_way.join("\n") };
    let place = format!("{}\n{}", target.place, state.version);
    table.add_row([keys, ByteCount(copy.size_bytes()).to_string(), place, in_the_way]);
    say(&table.to_string());
    for (name, word) in &target.choices {
        say(&format!("{name} {word}"));
    }
}
