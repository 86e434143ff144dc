//! Does each row have its object or key, and each object its row?
//!
//! *Order.* The rows are read first; then each is held against what it names; then what must have a row is walked.
//!
//! A reference that looked at nothing has not held: without rows and without objects it could not run. Neither could
//! one of which the objects were not all read.

use std::ops::ControlFlow;

use globset::{Glob, GlobMatcher};

use super::{
    objects::ObjectBook,
    questions::Asking,
    rows::{self, Fault, Names, Tally},
};
use crate::{
    drill::{Assertion, Question, Report},
    error::{Context, ExitCode, Failure, Result},
    mysql,
    names::SourceName,
    policy::{MysqlConfig, RedisConfig, ReferenceConfig, SourceKind},
    redis::{
        compare::Dump,
        keys::{BATCH_KEYS, Keys, beginning_with},
    },
};

#[cfg(test)]
mod tests;

/// Returns what reports call a reference.
pub(super) fn name_of(config: &ReferenceConfig) -> String {
    config.name.clone().unwrap_or_else(|| {
        let place = config.bucket.clone().unwrap_or_else(|| config.db.to_string());
        format!("{} in {}/{place}", config.source, config.inside)
    })
}

/// Asks a reference. Fails when the lab could not be asked.
pub(super) async fn ask(
    asking: &Asking<'_>,
    config: &ReferenceConfig,
    book: &ObjectBook,
    previous: Option<&Report>,
) -> Result<Assertion> {
    let (source, mysql) = asking.mysql(&config.source)?;
    let inside = asking.copy_of(&config.inside)?;
    let glob = config.orphans.as_deref().map(compile).transpose()?;
    let names = names(config, &inside.config.kind);
    let tally = read(book, (source, mysql), &config.query, &names).await?;
    let tally = match &inside.config.kind {
        SourceKind::S3(_) => in_bucket(book, config, glob, &names, tally).await?,
        SourceKind::Redis(redis) => {
            let place = (&inside.config.name, redis);
            in_database(asking, book, place, (config, glob), &names, tally).await?
        }
        other => {
            let what = format!("source `{}` is of kind {}, not s3 or redis", config.inside, other.word());
            return Err(Failure::new(ExitCode::Usage, what));
        }
    };
    Ok(judge(config, names.thing, &tally, earlier(config, previous)))
}

fn compile(glob: &str) -> Result<GlobMatcher> {
    let glob = Glob::new(glob).failed(ExitCode::Usage, || format!("pattern `{glob}` is no glob"))?;
    Ok(glob.compile_matcher())
}

fn names(config: &ReferenceConfig, kind: &SourceKind) -> Names {
    let is_bucket = matches!(kind, SourceKind::S3(_));
    let bucket = config.bucket.as_deref().filter(|_| is_bucket);
    Names {
        before: bucket.map(|bucket| format!("{bucket}/")).unwrap_or_default(),
        thing: if is_bucket { "object" } else { "key" },
        strip_prefix: config.strip_prefix.clone(),
        columns_max: if is_bucket { 3 } else { 1 },
    }
}

/// Reads the rows and sorts them.
async fn read(
    book: &ObjectBook,
    (source, mysql): (&SourceName, &MysqlConfig),
    query: &str,
    names: &Names,
) -> Result<Tally> {
    book.think(Names::begin).await?;
    let mut tally = Tally::default();
    let hear = |row| names.take(&mut book.pages(), &mut tally, &row).map(ControlFlow::Continue);
    mysql::ask(source, mysql, query, hear).await?;
    book.think(rows::sort).await?;
    Ok(tally)
}

/// Holds rows and the objects of a bucket against each other.
async fn in_bucket(
    book: &ObjectBook,
    config: &ReferenceConfig,
    glob: Option<GlobMatcher>,
    names: &Names,
    mut tally: Tally,
) -> Result<Tally> {
    let (source, bucket) = (config.inside.clone(), config.bucket.clone().unwrap_or_default());
    let names = names.clone();
    book.think(move |pages| {
        pages.check_read(&source)?;
        let place = pages.place(&source, &bucket);
        rows::hold(pages, place, &names, &mut tally)?;
        rows::orphans(pages, place, glob.as_ref(), &names, &mut tally)?;
        Ok(tally)
    })
    .await
}

/// Holds rows and the keys of a database against each other. Keys go on expiring in the lab: of those that are not
/// there, the stored dump says which have.
async fn in_database(
    asking: &Asking<'_>,
    book: &ObjectBook,
    (source, redis): (&SourceName, &RedisConfig),
    (config, glob): (&ReferenceConfig, Option<GlobMatcher>),
    names: &Names,
    mut tally: Tally,
) -> Result<Tally> {
    let mut keys = Keys::open(source, redis, config.db).await?;
    let mut after = Vec::new();
    loop {
        let (batch, counts): (Vec<Vec<u8>>, Vec<u64>) =
            rows::next_keys(&book.pages(), &after, BATCH_KEYS)?.into_iter().unzip();
        let there = keys.are_there(&batch).await?;
        for ((key, count), is_there) in batch.iter().zip(counts).zip(there) {
            if !is_there {
                rows::absent(&mut book.pages(), key, count)?;
            }
        }
        match batch.into_iter().next_back() {
            Some(last) => after = last,
            None => break,
        }
    }
    if rows::are_absent(&book.pages())? {
        let dump = asking.dumps.dump(source, redis).await?;
        let now_ms = asking.ground.clock.now().timestamp_millis();
        tally = without(book, dump, (config.db, now_ms), names, tally).await?;
    }
    let (Some(glob), Some(pattern)) = (glob, &config.orphans) else { return Ok(tally) };
    let plain = pattern.find(['*', '?', '[', '{', '\\']).map_or(pattern.as_str(), |at| &pattern[..at]);
    let hear = |key: Vec<u8>| {
        if rows::matches(&glob, &key) { rows::found(&mut book.pages(), &key) } else { Ok(()) }
    };
    keys.walk(&beginning_with(plain.as_bytes()), hear).await?;
    let names = names.clone();
    let look = move |pages: &mut _| rows::orphan_keys(pages, &names, &mut tally).map(|()| tally);
    book.think(look).await
}

/// Tells the keys that have expired since the snapshot from those that are missing.
async fn without(
    book: &ObjectBook,
    dump: Dump,
    (db, now_ms): (u32, i64),
    names: &Names,
    mut tally: Tally,
) -> Result<Tally> {
    let names = names.clone();
    book.think(move |pages| {
        dump.expired(db, now_ms, |key| rows::expired(pages, key))?;
        rows::count_absent(pages, &names, &mut tally)?;
        Ok(tally)
    })
    .await
}

/// Returns how many were missing in the drill before; `None` when that is not known for sure.
fn earlier(config: &ReferenceConfig, previous: Option<&Report>) -> Option<u64> {
    let name = name_of(config);
    let assertions = previous?.assertions.iter();
    let mut same = assertions.filter(|one| one.kind == Question::Reference && one.name == name);
    match (same.next(), same.next()) {
        (Some(only), None) => only.value.and_then(|value| u64::try_from(value).ok()),
        _ => None,
    }
}

/// Judges what was counted. What failed has failed; what could not be compared has not held.
fn judge(config: &ReferenceConfig, thing: &str, tally: &Tally, earlier: Option<u64>) -> Assertion {
    let (kind, name) = (Question::Reference, name_of(config));
    let wrong = wrong(config, thing, tally, earlier);
    let mut faults: Vec<Fault> = wrong.iter().map(|(fault, _)| *fault).collect();
    let incomparable = tally.count(Fault::Incomparable);
    if incomparable > 0 {
        faults.push(Fault::Incomparable);
    }
    faults.sort_unstable();
    faults.dedup();
    let mut detail = summary(config, thing, tally, earlier);
    let assertion = if !wrong.is_empty() {
        for (_, text) in &wrong {
            detail = format!("{detail}; {text}");
        }
        Assertion::failed(kind, name, detail)
    } else if incomparable > 0 {
        detail = format!(
            "{detail}; {} cannot be compared",
            counted(incomparable, "hash or size", "hashes or sizes")
        );
        Assertion::could_not_run(kind, name, detail)
    } else if let Some(nothing) = nothing(config, thing, tally) {
        return Assertion::could_not_run(kind, name, nothing).about(&config.source);
    } else {
        Assertion::held(kind, name, detail)
    };
    let total = faults.iter().map(|fault| tally.count(*fault)).sum();
    let missing = i64::try_from(tally.count(Fault::Missing)).unwrap_or(i64::MAX);
    assertion.about(&config.source).with_value(missing).with_findings(tally.texts(&faults), total)
}

/// Returns each limit that is broken, with what to say about it.
fn wrong(config: &ReferenceConfig, thing: &str, tally: &Tally, earlier: Option<u64>) -> Vec<(Fault, String)> {
    let mut wrong = Vec::new();
    let (missing, orphans) = (tally.count(Fault::Missing), tally.count(Fault::Orphan));
    if missing > config.missing_max {
        wrong.push((Fault::Missing, format!("{} may be missing", config.missing_max)));
    }
    if let (Some(max), Some(earlier)) = (config.growth_max, earlier)
        && missing > earlier.saturating_add(max)
    {
        let more = missing - earlier;
        wrong.push((Fault::Missing, format!("{more} more are missing than in the drill before, {max} may")));
    }
    let hashes = tally.count(Fault::Hash);
    if hashes > 0 {
        wrong.push((
            Fault::Hash,
            format!("{} another SHA-256", counted(hashes, "object has", "objects have")),
        ));
    }
    let sizes = tally.count(Fault::Size);
    if sizes > 0 {
        wrong.push((Fault::Size, format!("{} another size", counted(sizes, "object has", "objects have"))));
    }
    if let Some(max) = config.orphans_max.filter(|max| orphans > *max) {
        wrong.push((Fault::Orphan, format!("{max} {thing}s may be without a row")));
    }
    wrong
}

/// Returns the figures, as a line.
fn summary(config: &ReferenceConfig, thing: &str, tally: &Tally, earlier: Option<u64>) -> String {
    let nameless = match tally.nameless {
        0 => String::new(),
        count => format!(" ({count} more name nothing)"),
    };
    let rows = counted(tally.named(), "row", "rows");
    let mut text = format!("{rows}{nameless}, {} missing", tally.count(Fault::Missing));
    if tally.expired > 0 {
        let expired = counted(tally.expired, "key has", "keys have");
        text = format!("{text}, {expired} expired since the snapshot");
    }
    if let Some(objects) = tally.objects {
        let objects = counted(objects, thing, &format!("{thing}s"));
        text = format!("{text}; {objects}, {} without a row", tally.count(Fault::Orphan));
    }
    if tally.unread > 0 {
        let hashes = counted(tally.hashes, "object", "objects");
        text =
            format!("{text}; the SHA-256 of {hashes} compared, of {} only existence and size", tally.unread);
    }
    if config.growth_max.is_some() && earlier.is_none() {
        text.push_str("; no drill before to compare the growth with");
    }
    text
}

/// Returns why nothing was proven, if so.
fn nothing(config: &ReferenceConfig, thing: &str, tally: &Tally) -> Option<String> {
    let objects = tally.objects.unwrap_or(0);
    let place = config.bucket.as_deref().filter(|_| thing == "object").map_or("database", |_| "bucket");
    let returned = if tally.rows == 0 {
        "the query returned no rows".to_owned()
    } else {
        format!("none of the query's {} names anything", counted(tally.rows, "row", "rows"))
    };
    match (tally.named(), objects, &config.orphans) {
        (0, 0, None) if tally.objects.is_some() => {
            Some(format!("{returned} and the {place} has no {thing}s: nothing was compared"))
        }
        (0, 0, Some(glob)) => {
            Some(format!("{returned} and the {place} has no {thing}s like `{glob}`: nothing was compared"))
        }
        (0, ..) if config.orphans_max.is_none() => Some(format!(
            "{returned} and `orphans_max` does not say how many {thing}s may be without a row: nothing was compared"
        )),
        (named @ 1.., 0, _) if tally.expired > 0 && named == tally.expired + tally.count(Fault::Missing) => {
            let keys = counted(tally.expired, "key that a row names has", "keys that rows name have");
            let missing = match tally.count(Fault::Missing) {
                0 => String::new(),
                missing => format!(" and {missing} missing"),
            };
            Some(format!("{keys} expired since the snapshot{missing}: nothing was compared"))
        }
        (named, 0, Some(glob))
            if config.orphans_max.is_some() && named > tally.count(Fault::Missing) + tally.expired =>
        {
            Some(format!(
                "`{glob}` matches no {thing} of the {place}, not even those that rows name: write a glob of {thing}s"
            ))
        }
        _ if tally.unread > 0 && tally.hashes == 0 => {
            let unread = counted(tally.unread, "object was", "objects were");
            Some(format!("{unread} not read, and no other has a row with a SHA-256: no SHA-256 was compared"))
        }
        _ => None,
    }
}

/// Returns a number with its word.
fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
