//! The tamper test: whether the credential that we have, and so whoever steals it, can remove what is locked.
//!
//! It works on objects under [`PROBES`] that are its own: none of a repository is ever touched. One locked object is
//! enough for many runs; a new one is put when the lock of the last one is about to run out. What is asked after each
//! attempt is the state of the object, not the service's word for it: refused is what had no effect.
//!
//! What counts as the test's object is a version with its very bytes: a bucket with a default retention also locks what
//! the test puts over it. And a refusal proves something only where the same request has an effect when it asks for
//! what is allowed, so the test first makes the lock a second longer.
//!
//! *Order.* Lengthen; soften; shorten, then delete, each without and with the bypass of governance; overwrite; hide
//! behind a delete marker. What an attempt destroyed is made anew for the next one.
//!
//! *Crash.* A run that dies leaves a small object, a lock of it that runs out within a day, or a delete marker; the
//! next run clears them away.
//!
//! The lock's own configuration of the bucket is not tried: that would be a change for all that lies there.

use aws_sdk_s3::{
    primitives::{ByteStream, DateTime as SdkTime},
    types::ObjectLockMode,
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use md5::{Digest, Md5};

use super::{LockError, Locker, Mode, NoLock, Retention};
use crate::{finding::Status, store::PROBES};

/// How long the test's own object is locked.
const LOCKED: TimeDelta = TimeDelta::days(1);
/// An object whose lock ends sooner is not used any more.
const LEFT_MIN: TimeDelta = TimeDelta::hours(2);
/// By how much the test tries to shorten.
const SHORTER: TimeDelta = TimeDelta::hours(1);
/// By how much it makes the lock longer, to see that it can.
const LONGER: TimeDelta = TimeDelta::seconds(1);
/// The name of the object in each mode.
const GOVERNANCE: &str = "object-lock-governance";
const COMPLIANCE: &str = "object-lock-compliance";
/// Its bytes.
const BODY: &[u8] = b"lifeboat puts this here to try out whether it can be deleted\n";
/// The bytes that are to overwrite them.
const OTHER: &[u8] = b"this was to overwrite a locked object\n";

/// What a person should do about a lock that does not hold.
const BYPASS: &str =
    "Take s3:BypassGovernanceRetention from this credential, or set lock_mode = \"compliance\".";
const NOT_KEPT: &str =
    "The service does not keep its word: do not rely on its lock, and keep another copy elsewhere.";
const NO_CONTROL: &str = "it had no effect, but neither had the same request for a longer lock";
const ASK: &str =
    "The credential must be allowed to lock, read and list versions: see docs/offsite.md for its policy.";

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its name for programs.
    pub id: &'static str,
    /// What must be true.
    pub law: &'static str,
    /// Whether it is.
    pub status: Status,
    /// What was seen.
    pub detail: String,
    /// What to do, if anything is to be done.
    pub hint: Option<String>,
}

/// What the test says as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every attempt was refused.
    Proven,
    /// Something was possible.
    Broken,
    /// There is no lock, or it could not be asked.
    Unproven,
}

impl Verdict {
    /// Returns the word for screens, documents and the catalog.
    pub fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Broken => "broken",
            Self::Unproven => "unproven",
        }
    }

    /// Returns what attempts say together: one attempt that had success breaks it; one that could not be made, or
    /// none at all, proves nothing.
    pub fn of(attempts: &[Attempt]) -> Self {
        if attempts.iter().any(|attempt| attempt.status == Status::Broken) {
            Self::Broken
        } else if attempts.is_empty() || attempts.iter().any(|attempt| attempt.status != Status::Ok) {
            Self::Unproven
        } else {
            Self::Proven
        }
    }
}

/// Something that must not be possible.
struct Law {
    id: &'static str,
    text: &'static str,
    bypass: bool,
}

/// The law that is no attempt: whether there is a lock at all.
pub const HAS_LOCK_ID: &str = "lock";

const HAS_LOCK: Law = Law { id: HAS_LOCK_ID, text: "the service locks objects", bypass: false };
/// The law of what must be possible: it is tried out that a lock can be changed at all.
pub const CONTROL_ID: &str = "lengthen";

const LENGTHEN: Law = Law { id: CONTROL_ID, text: "a lock can be made longer", bypass: false };
const SOFTEN: Law = Law { id: "soften", text: "compliance cannot be softened to governance", bypass: false };
const SHORTEN: Law = Law { id: "shorten", text: "a lock cannot be shortened", bypass: false };
const SHORTEN_BYPASS: Law =
    Law { id: "shorten_bypass", text: "a lock cannot be shortened by bypassing governance", bypass: true };
const DELETE: Law = Law { id: "delete_version", text: "a locked version cannot be deleted", bypass: false };
const DELETE_BYPASS: Law = Law {
    id: "delete_version_bypass",
    text: "a locked version cannot be deleted by bypassing governance",
    bypass: true,
};
const OVERWRITE: Law =
    Law { id: "overwrite", text: "a locked version is still there after an overwrite", bypass: false };
const HIDE: Law =
    Law { id: "delete", text: "a locked version is still there after a plain delete", bypass: false };

impl Law {
    /// Returns whether the attempt asks for another lock.
    fn changes_lock(&self) -> bool {
        [SOFTEN.id, SHORTEN.id, SHORTEN_BYPASS.id].contains(&self.id)
    }

    fn found(&self, status: Status, detail: impl Into<String>, hint: Option<&str>) -> Attempt {
        let hint = hint.map(str::to_owned);
        Attempt { id: self.id, law: self.text, status, detail: detail.into(), hint }
    }

    /// Returns what an attempt is worth: that a change of the lock had no effect says nothing where none has.
    fn proven_by(&self, can_change: bool, attempt: Attempt) -> Attempt {
        if self.changes_lock() && attempt.status == Status::Ok && !can_change {
            self.found(Status::Unknown, NO_CONTROL, Some(ASK))
        } else {
            attempt
        }
    }

    fn held(&self, answer: Result<(), LockError>) -> Attempt {
        let detail = match answer {
            Ok(()) => "it had no effect".to_owned(),
            Err(error) => error.to_string(),
        };
        self.found(Status::Ok, detail, None)
    }

    fn broken(&self, what: &str) -> Attempt {
        self.found(Status::Broken, what, Some(if self.bypass { BYPASS } else { NOT_KEPT }))
    }

    fn unknown(&self, error: &LockError) -> Attempt {
        self.found(Status::Unknown, error.to_string(), Some(ASK))
    }
}

/// What is told where nothing can be locked at all.
pub fn no_lock(no: &NoLock) -> Attempt {
    HAS_LOCK.found(Status::Unknown, no.what.clone(), Some(no.hint))
}

/// Tries to do what a thief of the credential would do.
pub async fn test(locker: &Locker, mode: Mode, now: DateTime<Utc>) -> Vec<Attempt> {
    if let Err(no) = locker.check().await {
        return vec![no_lock(&no)];
    }
    let name = match mode {
        Mode::Governance => GOVERNANCE,
        Mode::Compliance => COMPLIANCE,
    };
    let at = format!("{}{PROBES}{name}", locker.prefix);
    let test = Test { locker, at, mode, now };
    let mut attempts = vec![HAS_LOCK.found(Status::Ok, locker.place(), None)];
    let control = test.lengthen().await.unwrap_or_else(|error| LENGTHEN.unknown(&error));
    let can_change = control.status == Status::Ok;
    attempts.push(control);
    for law in [SOFTEN, SHORTEN, SHORTEN_BYPASS, DELETE, DELETE_BYPASS, OVERWRITE, HIDE] {
        if law.id == SOFTEN.id && mode != Mode::Compliance {
            continue;
        }
        // What an attempt before has destroyed is made anew.
        let tried = match test.locked().await {
            Ok(locked) => test.attempt(&law, &locked).await,
            Err(error) => Err(error),
        };
        attempts.push(law.proven_by(can_change, tried.unwrap_or_else(|error| law.unknown(&error))));
    }
    test.clear().await;
    attempts
}

/// One run of the test.
struct Test<'a> {
    locker: &'a Locker,
    at: String,
    mode: Mode,
    now: DateTime<Utc>,
}

/// A version of the test's object and its lock.
struct Locked {
    version: String,
    retention: Retention,
}

/// A version or a delete marker, as a listing shows it.
struct Shown {
    version: String,
    is_marker: bool,
    size_bytes: i64,
}

impl Shown {
    /// Returns whether it has the size of the test's bytes.
    fn may_be_body(&self) -> bool {
        !self.is_marker && usize::try_from(self.size_bytes) == Ok(BODY.len())
    }
}

impl Test<'_> {
    /// Makes the lock a second longer, which is allowed: what is refused later is not refused for another reason.
    async fn lengthen(&self) -> Result<Attempt, LockError> {
        let locked = self.locked().await?;
        let longer = Retention { until: locked.retention.until + LONGER, ..locked.retention };
        self.locker.set_retention(&self.at, Some(&locked.version), longer, false).await?;
        Ok(match self.locker.retention_of(&self.at, Some(&locked.version)).await? {
            Some(found) if found.until >= longer.until && found.mode >= longer.mode => {
                let until = found.until.format("%Y-%m-%d %H:%M:%S UTC");
                LENGTHEN.found(Status::Ok, format!("it ends {until} now"), None)
            }
            _ => LENGTHEN.found(Status::Unknown, "the service accepted it and did nothing", Some(NOT_KEPT)),
        })
    }

    /// Makes one attempt and looks what it did.
    async fn attempt(&self, law: &Law, locked: &Locked) -> Result<Attempt, LockError> {
        let before = self.versions().await?;
        let done = match law.id {
            id if id == SOFTEN.id => self.soften(locked).await,
            id if id == SHORTEN.id || id == SHORTEN_BYPASS.id => self.shorten(locked, law.bypass).await,
            id if id == DELETE.id || id == DELETE_BYPASS.id => self.delete(&locked.version, law.bypass).await,
            id if id == OVERWRITE.id => self.overwrite().await,
            _ => self.hide().await,
        };
        if let Err(LockError::Unanswered(_)) = &done {
            return done.map(|()| law.held(Ok(())));
        }
        let attempt = match self.state(locked).await? {
            None => law.broken("the locked version is gone"),
            Some(None) => law.broken("the version is not locked any more"),
            Some(Some(left)) if left.until < locked.retention.until || left.mode < locked.retention.mode => {
                law.broken(&format!(
                    "the lock ends {} now, or is weaker",
                    left.until.format("%Y-%m-%d %H:%M UTC")
                ))
            }
            Some(Some(_)) => law.held(done),
        };
        if attempt.status == Status::Broken {
            // What was weakened is put back; what is gone is made anew by the next attempt.
            let put_back =
                self.locker.set_retention(&self.at, Some(&locked.version), locked.retention, false).await;
            drop(put_back);
        }
        self.remove_new(&before).await;
        Ok(attempt)
    }

    /// Returns the version with the test's bytes that is locked longest, or puts a new one. Where a bucket has a
    /// default retention other versions are locked too; an `ETag` is no MD5 where the service encrypts, so the bytes
    /// are read.
    async fn locked(&self) -> Result<Locked, LockError> {
        let mut best: Option<Locked> = None;
        for shown in self.versions().await?.into_iter().filter(Shown::may_be_body) {
            let retention = self.locker.retention_of(&self.at, Some(&shown.version)).await?;
            let Some(retention) = retention.filter(|found| found.mode == self.mode) else { continue };
            let is_longer = best.as_ref().is_none_or(|best| best.retention.until < retention.until);
            let locked = Locked { version: shown.version, retention };
            let is_long = retention.until > self.now + LEFT_MIN && is_longer;
            if is_long && self.state(&locked).await?.is_some() {
                best = Some(locked);
            }
        }
        match best {
            Some(best) => Ok(best),
            None => self.put_locked().await,
        }
    }

    async fn put_locked(&self) -> Result<Locked, LockError> {
        // A service counts whole seconds.
        let until = (self.now + LOCKED).trunc_subsecs(0);
        let mode = match self.mode {
            Mode::Governance => ObjectLockMode::Governance,
            Mode::Compliance => ObjectLockMode::Compliance,
        };
        let put = self.put(BODY).object_lock_mode(mode);
        let put = put.object_lock_retain_until_date(SdkTime::from_secs(until.timestamp()));
        let answer = put.send().await.map_err(|error| LockError::of(&error))?;
        let Some(version) = answer.version_id().map(str::to_owned) else {
            return Err(LockError::Refused("the service tells no version of what it stored".to_owned()));
        };
        // What the service says that it is, and not what was asked for.
        let retention = self.locker.retention_of(&self.at, Some(&version)).await?;
        let retention = as_asked(retention, Retention { mode: self.mode, until })?;
        Ok(Locked { version, retention })
    }

    fn put(
        &self,
        body: &'static [u8],
    ) -> aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder {
        let Locker { client, bucket, .. } = self.locker;
        let digest = aws_smithy_types::base64::encode(Md5::digest(body));
        let put = client.put_object().bucket(bucket).key(&self.at).content_md5(digest);
        put.body(ByteStream::from_static(body))
    }

    /// Asks for the other mode until the same instant.
    async fn soften(&self, locked: &Locked) -> Result<(), LockError> {
        let softer = Retention { mode: Mode::Governance, ..locked.retention };
        self.locker.set_retention(&self.at, Some(&locked.version), softer, false).await
    }

    async fn shorten(&self, locked: &Locked, bypass: bool) -> Result<(), LockError> {
        let shorter = Retention { until: locked.retention.until - SHORTER, ..locked.retention };
        self.locker.set_retention(&self.at, Some(&locked.version), shorter, bypass).await
    }

    async fn delete(&self, version: &str, bypass: bool) -> Result<(), LockError> {
        let Locker { client, bucket, .. } = self.locker;
        let delete = client.delete_object().bucket(bucket).key(&self.at).version_id(version);
        let delete = delete.set_bypass_governance_retention(bypass.then_some(true));
        delete.send().await.map(drop).map_err(|error| LockError::of(&error))
    }

    async fn overwrite(&self) -> Result<(), LockError> {
        self.put(OTHER).send().await.map(drop).map_err(|error| LockError::of(&error))
    }

    async fn hide(&self) -> Result<(), LockError> {
        let Locker { client, bucket, .. } = self.locker;
        let delete = client.delete_object().bucket(bucket).key(&self.at);
        delete.send().await.map(drop).map_err(|error| LockError::of(&error))
    }

    /// Returns the lock that the version has, `None` when it cannot be read any more as it was put.
    async fn state(&self, locked: &Locked) -> Result<Option<Option<Retention>>, LockError> {
        let Locker { client, bucket, .. } = self.locker;
        let get = client.get_object().bucket(bucket).key(&self.at).version_id(&locked.version);
        let body = match get.send().await {
            Ok(answer) => answer.body.collect().await,
            Err(error) => match LockError::of(&error) {
                LockError::Absent => return Ok(None),
                other => return Err(other),
            },
        };
        let body = body.map_err(|error| LockError::Unanswered(super::innermost(&error)))?;
        if body.to_vec() != BODY {
            return Ok(None);
        }
        match self.locker.retention_of(&self.at, Some(&locked.version)).await {
            Err(LockError::Absent) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Lists the versions and delete markers of the test's object. There are few: one page has them.
    async fn versions(&self) -> Result<Vec<Shown>, LockError> {
        let Locker { client, bucket, .. } = self.locker;
        let list = client.list_object_versions().bucket(bucket).prefix(&self.at).send().await;
        let list = list.map_err(|error| LockError::of(&error))?;
        let is_ours = |key: Option<&str>| key == Some(self.at.as_str());
        let versions = list.versions().iter().filter(|one| is_ours(one.key()));
        let versions =
            versions.filter_map(|one| Some((one.version_id()?, false, one.size().unwrap_or_default())));
        let markers = list.delete_markers().iter().filter(|one| is_ours(one.key()));
        let markers = markers.filter_map(|one| Some((one.version_id()?, true, 0)));
        let shown = versions.chain(markers);
        let shown = shown.map(|(version, is_marker, size_bytes)| {
            let version = version.to_owned();
            Shown { version, is_marker, size_bytes }
        });
        Ok(shown.collect())
    }

    /// Removes what came since `before`: another version, a delete marker. Where that is refused it stays.
    async fn remove_new(&self, before: &[Shown]) {
        for shown in self.versions().await.unwrap_or_default() {
            if !before.iter().any(|old| old.version == shown.version) {
                self.delete(&shown.version, false).await.ok();
            }
        }
    }

    /// Removes delete markers and versions whose lock has run out. Those that are locked refuse, as they should.
    async fn clear(&self) {
        for shown in self.versions().await.unwrap_or_default() {
            let retention = self.locker.retention_of(&self.at, Some(&shown.version)).await;
            let has_run_out = match retention {
                Ok(Some(retention)) => retention.until <= self.now,
                Ok(None) => true,
                Err(_) => false,
            };
            if shown.is_marker || has_run_out {
                self.delete(&shown.version, false).await.ok();
            }
        }
    }
}

/// Returns the lock that the service gave to what was put, if it is not weaker than was asked for.
fn as_asked(stored: Option<Retention>, asked: Retention) -> Result<Retention, LockError> {
    let weak = match stored {
        Some(stored) if stored.mode >= asked.mode && stored.until >= asked.until => return Ok(stored),
        Some(_) => "the service stored it with a weaker lock than it was asked for",
        None => "the service stored it without a lock",
    };
    Err(LockError::Refused(weak.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_success_breaks_it_and_what_was_not_tried_proves_nothing() {
        let ok = || SHORTEN.held(Err(LockError::Refused("403 AccessDenied".to_owned())));
        let unknown = || HIDE.unknown(&LockError::Unanswered("503".to_owned()));
        let broken = || DELETE.broken("the locked version is gone");
        assert_eq!(Verdict::of(&[ok(), ok()]), Verdict::Proven);
        assert_eq!(Verdict::of(&[ok(), unknown()]), Verdict::Unproven);
        assert_eq!(Verdict::of(&[unknown(), broken(), ok()]), Verdict::Broken);
        assert_eq!(Verdict::of(&[]), Verdict::Unproven);
    }

    #[test]
    fn a_weaker_lock_than_was_asked_for_is_refused() {
        let at = DateTime::UNIX_EPOCH + LOCKED;
        let asked = Retention { mode: Mode::Compliance, until: at };
        assert_eq!(as_asked(Some(asked), asked), Ok(asked));
        let longer = Retention { until: at + LONGER, ..asked };
        assert_eq!(as_asked(Some(longer), asked), Ok(longer));
        let shorter = Retention { until: at - LONGER, ..asked };
        let softer = Retention { mode: Mode::Governance, ..longer };
        for weak in [None, Some(shorter), Some(softer)] {
            assert!(matches!(as_asked(weak, asked), Err(LockError::Refused(_))), "{weak:?}");
        }
    }

    #[test]
    fn a_change_that_was_refused_proves_nothing_where_no_change_has_an_effect() {
        for law in [SOFTEN, SHORTEN, SHORTEN_BYPASS] {
            let held = || law.held(Err(LockError::Refused("403 AccessDenied".to_owned())));
            assert_eq!(law.proven_by(true, held()).status, Status::Ok);
            assert_eq!(law.proven_by(false, held()).status, Status::Unknown);
            assert_eq!(law.proven_by(false, law.broken("x")).status, Status::Broken);
        }
        assert_eq!(DELETE.proven_by(false, DELETE.held(Ok(()))).status, Status::Ok);
    }

    #[test]
    fn what_overwrites_is_never_taken_for_what_was_locked() {
        let shown = |body: &[u8], is_marker| Shown {
            version: "1".to_owned(),
            is_marker,
            size_bytes: i64::try_from(body.len()).unwrap(),
        };
        assert!(shown(BODY, false).may_be_body());
        assert!(!shown(OTHER, false).may_be_body() && !shown(BODY, true).may_be_body());
    }

    #[test]
    fn what_is_broken_says_what_to_do() {
        assert!(DELETE_BYPASS.broken("x").hint.unwrap().contains("BypassGovernanceRetention"));
        assert!(DELETE.broken("x").hint.unwrap().contains("another copy"));
        let no =
            NoLock { what: "bucket `b` has no Object Lock".into(), hint: "Make one.", is_unknown: false };
        let attempt = no_lock(&no);
        assert_eq!(
            (attempt.id, attempt.status, attempt.hint.as_deref()),
            ("lock", Status::Unknown, Some("Make one."))
        );
    }
}
