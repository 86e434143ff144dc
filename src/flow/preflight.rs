//! What is known of a restore before anything is touched: what would come, and what the target says of it.

use async_trait::async_trait;
use serde::Serialize;

use super::{Attrs, EntryMeta, Problem};
use crate::error::Result;

/// An entry that would come.
#[derive(Clone, Debug)]
pub struct ComingEntry {
    /// What is known of it.
    pub meta: EntryMeta,
    /// What was told at its end.
    pub trailer: Attrs,
    /// Its plain size.
    pub size_bytes: u64,
    /// The bytes of a definition. `None` for data, which nobody reads twice, and where nothing can be read without
    /// the recovery identity.
    pub definition: Option<Vec<u8>>,
}

/// The entries that would come, in the order in which they would.
#[async_trait]
pub trait Coming: Send {
    /// Returns the next entry, `None` at the end.
    async fn next(&mut self) -> Result<Option<ComingEntry>>;

    /// Returns what is known not to come although it should.
    fn problems(&self) -> &[Problem] {
        &[]
    }
}

/// How things that are compared one by one with what stands in the target differ from that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Those that stand there and are left alone.
    pub equal: u64,
    /// Those that take the place of something else.
    pub changed: u64,
    /// Those that take nothing's place.
    pub new: u64,
    /// Those that stand there and not in the snapshot, where all of it is compared: in a plan what `--replace`
    /// removes, at the end what was removed.
    pub extra: u64,
    /// The first of these.
    pub extra_named: Vec<String>,
}

/// How much a remark matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// The restore would fail, or hold something else than the snapshot: it is refused.
    Blocks,
    /// The target cannot hold it; it is refused unless the person leaves it out.
    DoesNotFit,
    /// It is written in other words than the source's.
    Mapped,
    /// Good to know.
    Note,
}

/// What a target says of something that would be restored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Remark {
    /// How much it matters.
    pub weight: Weight,
    /// What it is about.
    pub what: String,
    /// What is to be known of it.
    pub why: String,
}

impl Remark {
    /// Makes a remark.
    pub fn new(weight: Weight, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { weight, what: what.into(), why: why.into() }
    }
}

/// What a target says before anything is touched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preflight {
    /// Tables that would be filled.
    pub tables: u64,
    /// Rows that would be loaded.
    pub rows: u64,
    /// Bytes that they take on the target, about.
    pub needed_bytes: u64,
    /// What the server tells of its room.
    pub room: String,
    /// What becomes of what would come, where that is known thing by thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    /// Rows in the way of a range of keys, a line for each range.
    pub in_the_way: Vec<String>,
    /// What does not fit, what is mapped, and what else is good to know; the weightiest first.
    pub remarks: Vec<Remark>,
}
