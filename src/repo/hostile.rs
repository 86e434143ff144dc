//! The private readers of bytes that a thief of the store can choose, open to the tests that choose them: `fuzz/`.
//! No program needs them.

pub use super::{
    chunks::ranges,
    marks::{
        Condemned, Done, GENERATION_MAX, Open, SessionMark, Step, Tombstone, session_of, step, step_of,
        tombstone, tombstone_of, upstream,
    },
    pack::read_members,
    proofs::report_members,
};
