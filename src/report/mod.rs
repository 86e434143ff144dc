//! How a drill's report is shown: as JSON for programs, as a page for people, as `JUnit` for build servers.
//!
//! All of it is made from a [`Report`] alone: nothing here reads, asks or prints. What a report tells may have been
//! chosen by a stranger (a row's name, an object's key, a server's answer), so every form makes it harmless in one
//! place ([`crate::plain`]), and none of them loads anything or runs anything.

mod chart;
mod junit;
mod page;
#[cfg(test)]
mod tests;

pub use self::{junit::junit, page::html};

use crate::{
    drill::{Report, SCHEMA},
    plain,
};

/// Characters of one thing that is shown; `report.json` has all of it.
const CHARS_MAX: usize = 1_000;

/// Writes the report for programs: the same report gives the same bytes. [`schema`] says what is in them.
pub fn json(report: &Report) -> Vec<u8> {
    // Facts have no keys but their own names, so there is nothing that JSON could not say.
    let mut bytes = serde_json::to_vec_pretty(report).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Returns the JSON schema of [`json`]; `docs/drill-report.schema.json` is this.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Report).to_value();
    schema["title"] = SCHEMA.into();
    schema["properties"]["schema"]["const"] = SCHEMA.into();
    schema
}

/// Returns a text of a report as it is shown.
fn visible(text: &str) -> String {
    plain::visible(text, CHARS_MAX)
}
