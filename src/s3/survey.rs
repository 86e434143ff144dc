//! What a restore would do, before anything is touched: a snapshot's entries walked beside the target's listing.
//!
//! The target is listed and no object is asked for: what has the same `ETag` counts as equal here. The restore itself
//! compares headers, metadata and tags as well, and may write a few more.
//!
//! *Crash.* Nothing is changed.
//!
//! *Limits.* Of a restore of a part, [`LOOKS_MAX`] objects are looked up one by one; behind them the bucket is listed.

use std::collections::BTreeSet;

use aws_sdk_s3::types::BucketVersioningStatus;
use chrono::{DateTime, Utc};

use super::{
    admin, bucket,
    client::Server,
    in_hand::Fate,
    listing::Lister,
    present::Present,
    put::{Tentative, There},
    rules::is_over,
    source::exclusion,
    standing::Standing,
    target::{S3Target, lacking, make_object, only_current},
    versions::{self, VERSIONS},
};
use crate::{
    error::Result,
    flow::{
        Changes, Coming, ComingEntry, EntryMeta, Preflight, Problem, Remark, Stage, Weight, WriteOptions,
    },
};

/// Objects of a part that are looked up one by one.
const LOOKS_MAX: u32 = 1000;
/// What the remark about the export of users is about.
const RIGHTS: &str = "users, groups and rights";

/// A plan under way.
pub(super) struct Survey<'a> {
    target: &'a S3Target,
    server: &'a Server,
    present: Present<'a>,
    as_of: Option<DateTime<Utc>>,
    /// Buckets that are not there yet.
    absent: BTreeSet<String>,
    /// The bucket and the key in hand.
    last: (String, String),
    /// What is written only if it is the last of its key.
    waiting: Option<Waiting>,
    looks: Looks,
    changes: Changes,
    /// Versions that find no place.
    left_out: u64,
    /// What is not there as it should: nothing is removed then.
    lacking: u64,
    has_iam: bool,
    /// Buckets that keep lifecycle rules whose date is over.
    expiring: Vec<String>,
}

struct Waiting {
    tentative: Tentative,
    there: There,
    etag: Option<String>,
}

/// Where a look at single objects has come to.
struct Looks {
    count: u32,
    bucket: String,
    walk: Standing,
}

impl<'a> Survey<'a> {
    /// Begins.
    pub(super) fn new(
        target: &'a S3Target,
        server: &'a Server,
        options: &'a WriteOptions,
        problems: &[Problem],
    ) -> Result<Self> {
        let (lacks, lacking) = lacking(problems);
        // Nothing that is passed over is to be noted.
        let walk = Standing::new(server, exclusion(&["*".to_owned()])?)?;
        Ok(Self {
            target,
            server,
            present: Present::new(server, &options.only, false, &target.config.exclude, lacks)?,
            as_of: options.only.as_of(),
            absent: BTreeSet::new(),
            last: (String::new(), String::new()),
            waiting: None,
            looks: Looks { count: 0, bucket: String::new(), walk },
            changes: Changes::default(),
            left_out: 0,
            lacking,
            has_iam: false,
            expiring: Vec::new(),
        })
    }

    /// Walks all that would come.
    pub(super) async fn all(mut self, coming: &mut dyn Coming) -> Result<Preflight> {
        while let Some(entry) = coming.next().await? {
            self.entry(entry).await?;
        }
        self.key_ended().await?;
        let mut remarks = self.remarks();
        match self.present.take_extras().await? {
            Some(extras) if self.lacking == 0 => {
                (self.changes.extra, self.changes.extra_named) = (extras.count, extras.named);
            }
            Some(extras) if extras.count > 0 => {
                let why = "nothing is removed, because the snapshot lacks something that may stand there";
                remarks.push(Remark::new(Weight::Note, "what the snapshot does not have", why));
            }
            _ => {}
        }
        Ok(Preflight { changes: Some(self.changes), remarks, ..Preflight::default() })
    }

    async fn entry(&mut self, ComingEntry { mut meta, .. }: ComingEntry) -> Result<()> {
        if admin::is_export(&meta) {
            self.has_iam |= admin::is_iam(&meta);
            return Ok(());
        }
        // What is odd about an entry the restore itself tells.
        let Some(from) = meta.text("bucket").map(str::to_owned) else { return Ok(()) };
        let bucket = self.target.renamed(&from);
        if meta.stage != Stage::Data {
            let keeps = meta.attrs.contains_key(VERSIONS);
            if self.as_of.is_some() && !keeps {
                return Err(only_current(&from));
            }
            return self.enter(&bucket, &from, keeps && self.as_of.is_none()).await;
        }
        if self.as_of.is_some() {
            make_object(&mut meta, &from)?;
        }
        if !self.present.has(&bucket) && !self.absent.contains(&bucket) {
            self.enter(&bucket, &from, versions::is_version(&meta)).await?;
        }
        self.object(bucket, &meta).await
    }

    async fn enter(&mut self, bucket: &str, from: &str, mut keeps: bool) -> Result<()> {
        if !bucket::exists(self.server, bucket).await? {
            self.absent.insert(bucket.to_owned());
            return Ok(());
        }
        // One that is to equal the snapshot is made to keep them, and its lifecycle rules are taken away meanwhile.
        if self.present.is_patch() {
            if keeps {
                let status = bucket::versioning(self.server, bucket).await?;
                keeps = status == Some(BucketVersioningStatus::Enabled);
            }
            if let Ok(Some(rules)) = bucket::dated_rules(self.server, bucket).await?
                && is_over(&rules, self.server.date().as_deref())
            {
                self.expiring.push(bucket.to_owned());
            }
        }
        self.present.enter(bucket, from, keeps, false);
        Ok(())
    }

    async fn object(&mut self, bucket: String, meta: &EntryMeta) -> Result<()> {
        let Some(key) = versions::key_of(meta).map(str::to_owned) else { return Ok(()) };
        if self.absent.contains(&bucket) {
            self.changes.new += 1;
            return Ok(());
        }
        let (here, etag) = ((bucket, key), meta.text("etag").map(str::to_owned));
        if here != self.last {
            self.key_ended().await?;
            self.last = here;
        }
        let (bucket, key) = self.last.clone();
        if !versions::is_version(meta) {
            let there = self.present.at(&bucket, &key).await?;
            return self.count(there, etag, false).await;
        }
        let fate = self.present.fate(&bucket, meta).await?;
        self.decide().await?;
        match fate {
            Fate::Write(there) => self.count(there, etag, self.present.keeps(&bucket)).await?,
            Fate::IfLast(there, tentative) => self.waiting = Some(Waiting { tentative, there, etag }),
            Fate::LeftOut | Fate::Shut { .. } => self.left_out += 1,
        }
        Ok(())
    }

    /// Ends the key in hand.
    async fn key_ended(&mut self) -> Result<()> {
        self.present.key_ended();
        self.decide().await
    }

    /// Counts what waited to hear whether it is the last of its key.
    async fn decide(&mut self) -> Result<()> {
        let Some(Waiting { mut tentative, there, etag }) = self.waiting.take() else { return Ok(()) };
        let is_last = tentative.is_last.try_recv().unwrap_or(false);
        let there = if is_last && there == There::Unknown { self.look().await? } else { there };
        match (is_last, tentative.is_there) {
            (false, true) => self.changes.equal += 1,
            (true, is_kept) if tentative.may_replace || there == There::Nothing => {
                return self.count(there, etag, is_kept).await;
            }
            _ => self.left_out += 1,
        }
        Ok(())
    }

    /// Counts what would be written where something stands, or nothing; beside that, in a bucket that keeps it.
    async fn count(&mut self, there: There, etag: Option<String>, is_kept: bool) -> Result<()> {
        let there = if there == There::Unknown { self.look().await? } else { there };
        let count = match there {
            There::Same => &mut self.changes.equal,
            There::Object(there) if etag.as_ref() == Some(&there) => &mut self.changes.equal,
            There::Object(_) if !is_kept => &mut self.changes.changed,
            _ => &mut self.changes.new,
        };
        *count += 1;
        Ok(())
    }

    /// Looks up the object in hand.
    async fn look(&mut self) -> Result<There> {
        let ((bucket, key), looks) = (&self.last, &mut self.looks);
        looks.count += 1;
        let found = if looks.count <= LOOKS_MAX {
            Lister::look_up(self.server, bucket, key).await?
        } else {
            if looks.bucket != *bucket {
                looks.bucket.clone_from(bucket);
                // Nothing stands between a key and itself without its last letter but what begins like it.
                let mut before = key.clone();
                before.pop();
                if !before.is_empty() {
                    looks.walk.begin_behind(bucket, before).await?;
                }
            }
            looks.walk.at(bucket, key).await?
        };
        Ok(found.map_or(There::Nothing, |found| There::Object(found.etag)))
    }

    fn remarks(&self) -> Vec<Remark> {
        let mut remarks = Vec::new();
        let mut note = |what: &str, why: &str| remarks.push(Remark::new(Weight::Note, what, why));
        match (self.has_iam, self.target.iam) {
            (true, true) => {
                note(RIGHTS, "they are put back: what has the same name is replaced, all else stays");
            }
            (true, false) => note(RIGHTS, "they are in the snapshot and are not put back: --iam does"),
            (false, true) => note(RIGHTS, "none would come from the snapshot: the restore would end with 3"),
            (false, false) => {}
        }
        for bucket in &self.expiring {
            let why = "their date is over, and they may expire what is restored: take them away first if it is to stay";
            note(&format!("lifecycle rules of bucket {bucket}"), why);
        }
        if self.left_out > 0 {
            let why = format!(
                "{} find no place: a bucket keeps no versions, or shows what is newer",
                self.left_out
            );
            note("older versions and delete markers", &why);
        }
        remarks
    }
}
