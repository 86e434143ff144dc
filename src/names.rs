//! Names of things, as types: what was checked once need not be checked again.
//!
//! Floor 0: imports nothing of the crate. Each newtype can only be made through a constructor that
//! checks it, so a function that takes a [`SourceName`] or a [`Key`] never meets a hostile string.

use std::{
    fmt::{self, Write as _},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// A name that did not pass its check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {what}: {rule}")]
pub struct NameError {
    /// What the text was meant to be, as a person would call it.
    pub what: &'static str,
    /// The text as it was given, shortened when it is long.
    pub given: String,
    /// The rule that it broke.
    pub rule: &'static str,
}

impl NameError {
    fn new(what: &'static str, given: &str, rule: &'static str) -> Self {
        Self { what, given: given.chars().take(80).collect(), rule }
    }
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

text_name!(
    /// The name of one source of a stack, as the policy gives it: `mysql`, `minio`, `config`.
    SourceName
);
text_name!(
    /// The id of a snapshot: the UTC second at which it began and four hex digits, `20251010T180000Z-7f3a`.
    SnapshotId
);
text_name!(
    /// The name of a run that several processes make together: `2026-11-24`, the name of a Kubernetes job.
    RunName
);
text_name!(
    /// Where an object lies in a store: a relative, plain ASCII path.
    Key
);
text_name!(
    /// The path of an entry inside its source: `/`-separated, never empty, never climbing.
    EntryPath
);

impl SourceName {
    /// Checks `text`: 1–63 of `a-z 0-9 _ -`, beginning with a letter or digit.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        let good = (1..=63).contains(&text.len())
            && text.chars().all(fits)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::new(
                "source name",
                text,
                "use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit",
            ))
        }
    }
}

impl SnapshotId {
    /// Checks `text` against `YYYYMMDDTHHMMSSZ-hhhh`.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let form = "ddddddddTddddddZ-xxxx";
        let good = text.len() == form.len()
            && text.bytes().zip(form.bytes()).all(|(t, f)| match f {
                b'd' => t.is_ascii_digit(),
                b'x' => t.is_ascii_digit() || (b'a'..=b'f').contains(&t),
                _ => t == f,
            });
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::new("snapshot id", text, "it looks like 20251010T180000Z-7f3a"))
        }
    }

    /// Makes the id of a snapshot that begins at `began`, with `salt` to tell apart two of one second.
    pub fn at(began: chrono::DateTime<chrono::Utc>, salt: u16) -> Self {
        Self(format!("{}-{salt:04x}", began.format("%Y%m%dT%H%M%SZ")))
    }

    /// Returns the second that the id names.
    pub fn time(&self) -> chrono::DateTime<chrono::Utc> {
        chrono::NaiveDateTime::parse_from_str(&self.0[..15], "%Y%m%dT%H%M%S")
            .map(|naive| naive.and_utc())
            .unwrap_or_default()
    }
}

impl RunName {
    /// Checks `text`: 1 to 100 ASCII letters, digits and `._-`, beginning with a letter or digit.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let good = (1..=100).contains(&text.len())
            && text.chars().all(fits)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if good {
            Ok(Self(text.to_owned()))
        } else {
            let rule = "use 1 to 100 letters, digits and . _ -, beginning with a letter or digit";
            Err(NameError::new("name of a run", text, rule))
        }
    }
}

impl Key {
    /// Checks `text`: ASCII letters, digits and `._-/`, no empty, `.` or `..` part, at most 512 bytes.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
        let parts_good = text.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if text.len() <= 512 && text.bytes().all(fits) && parts_good {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::new("store key", text, "use plain ASCII names divided by single slashes"))
        }
    }
}

impl EntryPath {
    /// Bytes that a path may have at most; an S3 key of 1,024 bytes fits even if every byte is escaped.
    pub const MAX_BYTES: usize = 4096;

    /// Checks `text`: no empty, `.` or `..` part, no control character, at most [`Self::MAX_BYTES`].
    pub fn new(text: &str) -> Result<Self, NameError> {
        let parts_good = text.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if text.len() <= Self::MAX_BYTES && parts_good && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::new("entry path", text, "it must be relative, plain and must not climb"))
        }
    }

    /// Makes a path from parts that may hold anything: `/`, `%`, control characters and the special
    /// parts `.`, `..` and the empty one are percent-escaped, all else stays readable.
    ///
    /// Two different lists of parts never give one path, because `%` itself is escaped. The empty part
    /// becomes `%`, which no other part can become.
    pub fn of_parts<S: AsRef<str>>(parts: &[S]) -> Result<Self, NameError> {
        let escaped: Vec<String> = parts.iter().map(|part| escape_part(part.as_ref())).collect();
        Self::new(&escaped.join("/"))
    }

    /// Returns the parts that [`Self::of_parts`] was given.
    pub fn parts(&self) -> Vec<String> {
        self.0.split('/').map(unescape_part).collect()
    }
}

/// Escapes one part of an entry path; see [`EntryPath::of_parts`].
fn escape_part(part: &str) -> String {
    match part {
        "" => return "%".to_owned(),
        "." => return "%2E".to_owned(),
        ".." => return "%2E%2E".to_owned(),
        _ => {}
    }
    let mut out = String::with_capacity(part.len());
    for c in part.chars() {
        if c == '%' || c == '/' || c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                // Writing into a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// The inverse of [`escape_part`]; a `%` that begins no escape, which is two upper-case hex digits, stays as it is.
fn unescape_part(part: &str) -> String {
    if part == "%" {
        return String::new();
    }
    let bytes = part.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let upper =
            digits.filter(|pair| pair.iter().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(b)));
        let byte = upper.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

macro_rules! hash_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let mut bytes = [0; 32];
                if text.bytes().any(|b| b.is_ascii_uppercase()) || hex::decode_to_slice(text, &mut bytes).is_err() {
                    return Err(NameError::new($what, text, "it is 64 lower-case hex digits"));
                }
                Ok(Self(bytes))
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.to_string()
            }
        }
    };
}

hash_name!(
    /// The SHA-256 of a chunk's plain bytes.
    ChunkId,
    "chunk id"
);
hash_name!(
    /// The SHA-256 of a pack's encrypted bytes, so that `sha256sum` checks a store without any key.
    PackId,
    "pack id"
);

/// A number of bytes that prints the way people read it: `1.4 GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut unit = 0;
        let mut value = self.0 as f64;
        while value >= 1024.0 && unit < UNITS.len() - 1 {
            value /= 1024.0;
            unit += 1;
        }
        let text = match unit {
            0 => format!("{} B", self.0),
            _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
            _ if value < 100.0 => format!("{value:.1} {}", UNITS[unit]),
            _ => format!("{value:.0} {}", UNITS[unit]),
        };
        f.pad(&text)
    }
}

/// What lifeboat does on a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Job {
    /// A snapshot of all sources.
    Backup,
    /// The copy to an offsite repository.
    Sync,
    /// Retention, and freeing what nothing needs.
    Prune,
    /// Reading and checking what is stored.
    Verify,
    /// A restore into a lab.
    Drill,
    /// The daily report.
    Digest,
    /// A look at what the next backup will need.
    Doctor,
    /// The tamper test of a locked offsite.
    Lock,
}

impl Job {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Backup,
        Self::Sync,
        Self::Prune,
        Self::Verify,
        Self::Drill,
        Self::Digest,
        Self::Doctor,
        Self::Lock,
    ];

    /// Returns the word for screens, the policy and the catalog.
    pub fn word(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Sync => "sync",
            Self::Prune => "prune",
            Self::Verify => "verify",
            Self::Drill => "drill",
            Self::Digest => "digest",
            Self::Doctor => "doctor",
            Self::Lock => "lock",
        }
    }

    /// Returns the job of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|job| job.word() == word)
    }
}

/// A job, and the place that it works on where a stack has several: `sync` to `oss`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Task {
    /// What is done.
    pub job: Job,
    /// The offsite; `None` for the stack's repository, or where there is nothing to choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl Task {
    /// Returns the task that needs no place.
    pub fn of(job: Job) -> Self {
        Self { job, place: None }
    }

    /// Returns the task at an offsite.
    pub fn at(job: Job, offsite: &str) -> Self {
        Self { job, place: Some(offsite.to_owned()) }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{} {place}", self.job.word()),
            None => f.write_str(self.job.word()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_source_name_is_short_lower_case_and_plain() {
        assert!(SourceName::new("mysql").is_ok());
        assert!(SourceName::new("im-suite_2").is_ok());
        for bad in ["", "-x", "MySQL", "a b", "a/b", "ü", &"x".repeat(64)] {
            assert!(SourceName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_snapshot_id_tells_its_second() {
        let id = SnapshotId::new("20251010T180000Z-7f3a").unwrap();
        assert_eq!(id.time().to_rfc3339(), "2025-10-10T18:00:00+00:00");
        assert_eq!(SnapshotId::at(id.time(), 0x7f3a), id);
        for bad in ["20251010T180000Z", "20251010T180000Z-7F3A", "2025-1010T180000Z-7f3", "", "x"] {
            assert!(SnapshotId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_never_climbs() {
        assert!(Key::new("packs/ab/0123.tar.zst.age").is_ok());
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "ä", &"x".repeat(513)] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_special_parts_of_a_path_are_escaped() {
        let path = EntryPath::of_parts(&["b", "", "..", "a/b", "100%", "x\ny", "图片"]).unwrap();
        assert_eq!(path.as_str(), "b/%/%2E%2E/a%2Fb/100%25/x%0Ay/图片");
        assert!(EntryPath::new("a/../b").is_err());
        assert!(EntryPath::new("/a").is_err());
    }

    proptest! {
        #[test]
        fn every_list_of_parts_survives_its_path(parts in prop::collection::vec(".{0,20}", 1..6)) {
            let path = EntryPath::of_parts(&parts).unwrap();
            prop_assert_eq!(path.parts(), parts);
        }
    }

    #[test]
    fn byte_counts_read_like_people_write_them() {
        let shown: Vec<String> =
            [0, 1023, 1024, 1536, 10 << 20, 3 << 30].iter().map(|n| ByteCount(*n).to_string()).collect();
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "10.0 MiB", "3.00 GiB"]);
    }
}
