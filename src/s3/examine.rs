//! Looks whether buckets can be backed up: [`examine`].
//!
//! Of each bucket a few keys are listed and one byte of one object is read, and the same of versions where they are
//! taken; nothing is written.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    admin::Admin,
    bucket,
    client::{Server, Told},
    source::exclusion,
};
use crate::{
    clock::Ground,
    error::{Failure, Result},
    finding::{Finding, Status, laws, skew_seconds},
    names::SourceName,
    policy::{S3Config, Versions},
};

laws! {
    page "s3";
    ANSWERS = "s3.answers",
        "the server answers and knows our keys",
        "Is the server running, and are `endpoint`, `access_key` and `secret_key` right?";
    VERSION = "s3.version",
        "the server says what it is",
        "Nothing: servers behind a proxy often do not tell.";
    BUCKETS = "s3.buckets",
        "the buckets of the policy are there",
        "Check the names in `buckets`; a pattern that matches nothing backs up nothing.";
    LIST = "s3.list",
        "each bucket can be listed",
        "Give this access key the right s3:ListBucket on each bucket.";
    READ = "s3.read",
        "an object of each bucket can be read",
        "Give this access key the right s3:GetObject on each bucket.";
    VERSIONS = "s3.versions",
        "the versions of each bucket that keeps them can be listed and read",
        "Give this access key the rights s3:ListBucketVersions and s3:GetObjectVersion, or write versions = \"current\".";
    ADMIN = "s3.admin",
        "the administrator's keys can read MinIO's exports",
        "Give these keys the rights admin:ExportIAM and admin:ExportBucketMetadata, or leave `admin` out.";
    CLOCK = "s3.clock",
        "the server's clock is within 5 minutes of this host's",
        "Set both clocks by NTP: `timedatectl` shows this host's.";
}

/// Keys that are listed in search of one with a body.
const KEYS_LISTED: i32 = 20;

/// Looks at one server and its buckets.
pub async fn examine(name: &SourceName, config: &S3Config, ground: &Ground) -> Vec<Finding> {
    let server = match Server::new(name, config) {
        Ok(server) => server,
        Err(failure) => return vec![ANSWERS.failed(Status::Broken, &failure)],
    };
    let began = ground.clock.now();
    let selected = select(&server, &config.buckets).await;
    let ended = ground.clock.now();
    let mut findings = match &selected {
        // What does not even answer has no other findings.
        Err(failure) if server.date().is_none() => return vec![ANSWERS.failed(Status::Broken, failure)],
        Err(failure) => vec![ANSWERS.failed(Status::Broken, failure)],
        Ok(_) => vec![ANSWERS.ok(server.version())],
    };
    findings.push(match server.product() {
        Some(product) => VERSION.ok(product),
        None => VERSION.ok("it does not tell"),
    });
    findings.push(clock(server.date().as_deref(), began, ended));
    let Ok(selected) = selected else { return findings };
    findings.push(judge_buckets(&selected));
    let looked = Looked::into(&server, &selected.there, config.versions).await;
    // To look for a bucket is answered without words; listing it tells that it is the keys.
    if let Some(failure) = &looked.wrong_keys {
        findings[0] = ANSWERS.failed(Status::Broken, failure);
    }
    findings.extend(looked.findings(selected.there.len()));
    findings.extend(admin(name, config).await);
    findings
}

/// Reads the exports where the policy names an administrator's keys.
async fn admin(name: &SourceName, config: &S3Config) -> Option<Finding> {
    let admin = match Admin::of(name, config) {
        Ok(admin) => admin?,
        Err(failure) => return Some(ADMIN.failed(Status::Broken, &failure)),
    };
    Some(match admin.try_exports().await {
        Ok(true) => ADMIN.ok("users, groups, rights and settings of buckets"),
        Ok(false) => ADMIN.found(Status::Warn, "the server has no such exports"),
        Err(why) => ADMIN.broken(why),
    })
}

/// Which buckets the policy means.
#[derive(Default)]
struct Selected {
    there: Vec<String>,
    missing: Vec<String>,
    /// Patterns that match no bucket.
    idle: Vec<String>,
}

async fn select(server: &Server, patterns: &[String]) -> Result<Selected> {
    let mut selected = Selected::default();
    let (globs, names): (Vec<&String>, Vec<&String>) =
        patterns.iter().partition(|pattern| pattern.contains(['*', '?', '[', '{']));
    for name in names {
        match server.client.head_bucket().bucket(name).send().await {
            Ok(_) => selected.there.push(name.clone()),
            Err(error) => match Told::from(&error) {
                Some(told) if told.is_absent() => selected.missing.push(name.clone()),
                // Whether it may be listed and read is asked below; an answer to HEAD has no words.
                Some(told) if told.status == 403 => selected.there.push(name.clone()),
                _ => return Err(server.failure(&format!("look for bucket `{name}`"), error)),
            },
        }
    }
    if !globs.is_empty() {
        let all = bucket::list(server).await?;
        for pattern in globs {
            let set = exclusion(std::slice::from_ref(pattern))?;
            let before = selected.there.len();
            selected.there.extend(all.iter().filter(|name| set.is_match(name)).cloned());
            if selected.there.len() == before {
                selected.idle.push(pattern.clone());
            }
        }
    }
    selected.there.sort();
    selected.there.dedup();
    Ok(selected)
}

fn judge_buckets(selected: &Selected) -> Finding {
    if !selected.missing.is_empty() {
        return BUCKETS.broken(format!("not there: {}", selected.missing.join(", ")));
    }
    if !selected.idle.is_empty() {
        return BUCKETS.found(Status::Warn, format!("no bucket matches {}", selected.idle.join(", ")));
    }
    BUCKETS.ok(format!("{} buckets", selected.there.len()))
}

/// What was seen of the buckets' insides.
#[derive(Default)]
struct Looked {
    unlisted: Vec<String>,
    unread: Vec<String>,
    read: usize,
    /// Buckets whose versions cannot be listed or read.
    unversioned: Vec<String>,
    /// Buckets whose versions can; not given where versions are not taken.
    versioned: Option<usize>,
    /// Tells that it is the credentials that are wrong.
    wrong_keys: Option<Failure>,
}

impl Looked {
    /// Lists and reads a little of each bucket.
    async fn into(server: &Server, buckets: &[String], versions: Versions) -> Self {
        let mut looked = Self::default();
        for name in buckets {
            looked.bucket(server, name).await;
        }
        if versions == Versions::All && looked.wrong_keys.is_none() {
            let mut count = 0;
            for name in buckets {
                match versions_of(server, name).await {
                    Ok(has_some) => count += usize::from(has_some),
                    Err(told) => looked.unversioned.push(why(name, told)),
                }
            }
            looked.versioned = Some(count);
        }
        looked
    }

    async fn bucket(&mut self, server: &Server, name: &str) {
        let page = match server.client.list_objects_v2().bucket(name).max_keys(KEYS_LISTED).send().await {
            Ok(page) => page,
            Err(error) => {
                let told = Told::from(&error);
                if told.as_ref().is_some_and(Told::is_about_credentials) {
                    self.wrong_keys = Some(server.failure(&format!("list bucket `{name}`"), error));
                }
                return self.unlisted.push(why(name, told));
            }
        };
        let with_body = page.contents().iter().find(|one| one.size() > Some(0));
        let Some(key) = with_body.and_then(|one| one.key()) else { return };
        match server.client.get_object().bucket(name).key(key).range("bytes=0-0").send().await {
            Ok(_) => self.read += 1,
            Err(error) => self.unread.push(why(name, Told::from(&error))),
        }
    }

    fn findings(&self, buckets: usize) -> Vec<Finding> {
        let list = match &self.unlisted[..] {
            [] => LIST.ok(format!("{buckets} buckets")),
            unlisted => LIST.broken(unlisted.join(", ")),
        };
        let read = match &self.unread[..] {
            [] => READ.ok(format!("an object of {} buckets", self.read)),
            unread => READ.broken(unread.join(", ")),
        };
        let versions = self.versioned.map(|count| match &self.unversioned[..] {
            [] => VERSIONS.ok(format!("{count} buckets")),
            refused => VERSIONS.broken(refused.join(", ")),
        });
        [list, read].into_iter().chain(versions).collect()
    }
}

fn why(bucket: &str, told: Option<Told>) -> String {
    format!("{bucket} ({})", told.map_or_else(|| "no answer".to_owned(), |told| told.text()))
}

/// Lists some versions of a bucket and reads a byte of one; returns whether it keeps versions at all.
async fn versions_of(server: &Server, bucket: &str) -> Result<bool, Option<Told>> {
    let client = &server.client;
    let state = client.get_bucket_versioning().bucket(bucket).send().await;
    if state.map_err(|error| Told::from(&error))?.status().is_none() {
        return Ok(false);
    }
    let page = client.list_object_versions().bucket(bucket).max_keys(KEYS_LISTED).send().await;
    let page = page.map_err(|error| Told::from(&error))?;
    if let Some(version) = page.versions().iter().find(|version| version.size() > Some(0)) {
        let (key, id) = (version.key().unwrap_or_default(), version.version_id().map(str::to_owned));
        let get = client.get_object().bucket(bucket).key(key).set_version_id(id).range("bytes=0-0");
        get.send().await.map_err(|error| Told::from(&error))?;
    }
    Ok(true)
}

/// Judges the `Date` of an answer, which counts whole seconds.
fn clock(date: Option<&str>, began: DateTime<Utc>, ended: DateTime<Utc>) -> Finding {
    match date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()) {
        Some(theirs) => CLOCK.skew(skew_seconds(theirs.to_utc(), began, ended, TimeDelta::seconds(1))),
        None => CLOCK.found(Status::Unknown, "its answers bear no date"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_its_clock() {
        let now = DateTime::from_timestamp(1_445_412_480, 0).unwrap();
        let judged = |date| clock(date, now, now).figure;
        assert_eq!(judged(Some("Wed, 21 Oct 2015 07:28:00 GMT")), Some(0.0));
        assert_eq!(judged(Some("Wed, 21 Oct 2015 07:38:00 GMT")), Some(600.0));
        assert_eq!(judged(Some("yesterday")), None);
        assert_eq!(judged(None), None);
    }

    #[test]
    fn a_missing_bucket_is_worse_than_a_pattern_that_matches_nothing() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let judged = |missing: &[&str], idle: &[&str]| {
            judge_buckets(&Selected { there: names(&["a"]), missing: names(missing), idle: names(idle) })
        };
        assert_eq!(judged(&[], &[]).status, Status::Ok);
        assert_eq!(judged(&[], &["x*"]).status, Status::Warn);
        let found = judged(&["im-files"], &["x*"]);
        assert_eq!((found.status, found.detail.as_str()), (Status::Broken, "not there: im-files"));
    }
}
