//! The S3 engine: whole buckets of `MinIO`, Ceph, AWS or any other S3 server, read and written back.
//!
//! Keys are bytes to be kept. That is why this engine speaks to users' buckets through the AWS SDK with its
//! own listing, and never through a library that tidies paths.
//!
//! | module | duty |
//! |---|---|
//! | [`client`] | a signed connection, its limits, and what its errors mean to a person |
//! | [`listing`] | all keys of a bucket in order, with proof that the order held |
//! | [`versions`] | all versions of a bucket's objects, listed and named |
//! | [`history`] | the versions of one key, oldest first, and what of them stands in a target |
//! | [`in_hand`] | what becomes of each version of a key in a target |
//! | [`facts`] | what is kept of an object beside its bytes |
//! | [`bucket`], [`capture`] | a bucket's own settings; answers as they came |
//! | [`tags`] | tags that change alone |
//! | [`admin`] | what `MinIO` exports to its administrators |
//! | [`fetch`] | one object's bytes, whole or not at all; or its facts alone |
//! | [`body`] | a big object's bytes, in ranges side by side |
//! | [`merge`] | what the previous snapshot had, walked beside the listing |
//! | [`source`], [`sample`] | the reader; which objects it reads whole, where not all |
//! | [`judge`] | whether what is gone of a bucket may be gone |
//! | [`ranges`] | buckets divided among several processes |
//! | [`alike`] | problems that many objects of a bucket have in common |
//! | [`layout`] | how an object that was made in parts was cut, told by its `ETag` |
//! | [`rules`] | lifecycle rules of a target while it is written |
//! | [`guard`] | whether a server writes only where nothing changed |
//! | [`put`], [`gather`] | one object written; its body on the way |
//! | [`standing`], [`present`] | what stands in the target's buckets already, beside a snapshot |
//! | [`survey`] | what a restore would do |
//! | [`uploads`] | what killed restores left of uploads in parts |
//! | [`target`] | the writer |
//! | [`examine`] | whether buckets can be backed up |
//! | [`compare`] | when two objects are the same |
//!
//! *Not kept yet*: ACLs and replication settings.

mod admin;
mod alike;
mod body;
mod bucket;
mod capture;
mod client;
mod compare;
pub mod examine;
mod facts;
mod fetch;
mod gather;
mod guard;
mod history;
mod in_hand;
mod judge;
mod layout;
mod listing;
mod merge;
mod present;
mod put;
mod ranges;
mod rules;
mod sample;
mod source;
mod standing;
mod survey;
mod tags;
mod target;
mod uploads;
mod versions;

pub use self::{
    admin::is_bucket,
    compare::{READ_WHOLE, S3Likeness},
    merge::Shrink,
    ranges::{Border, Share, borders, by_bytes, joined},
    sample::{Sample, WHOLE_MIN},
    source::S3Source,
    target::S3Target,
};
