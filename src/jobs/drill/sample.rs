//! Which objects of the lab a drill reads byte for byte, where the policy does not want all of them.
//!
//! They are drawn by the drill's own id, so that each drill reads others. Where rows say what an object's SHA-256 must
//! be, some of those objects are always among them: else a reference to a few objects of a large bucket would compare
//! no hash at all.
//!
//! *Limits.* [`WHOLE_MIN`] keys of each reference are in memory.

use std::{collections::BTreeSet, ops::ControlFlow};

use super::{Cast, Scene};
use crate::{
    error::Result,
    mysql::{self, Answer},
    names::SourceName,
    policy::{ReferenceConfig, SourceKind},
    s3::{Sample, WHOLE_MIN},
};

/// Draws the objects of a source that are read whole; `None` when all are, or when it has no objects.
pub(super) async fn of_source(scene: &Scene<'_>, cast: &Cast) -> Option<Sample> {
    let percent = scene.stack.drill.objects_percent;
    if percent >= 100 || !matches!(cast.config.kind, SourceKind::S3(_)) {
        return None;
    }
    let mut sample = Sample::new(scene.drill.as_str(), percent);
    for reference in &scene.stack.drill.references {
        let Some(bucket) = reference.bucket.as_deref() else { continue };
        if reference.inside != cast.config.name.as_str() {
            continue;
        }
        let mut drawn = Drawn { sample: &sample, bucket, reference, lowest: BTreeSet::new() };
        // A question that the lab does not answer is told when it is asked for its own sake.
        let lowest = drawn.ask(scene).await.map_or_else(|_| BTreeSet::new(), |()| drawn.lowest);
        for (_, key) in lowest {
            sample.choose(bucket, &key);
        }
    }
    Some(sample)
}

/// The objects of one reference that drew the lowest lots.
struct Drawn<'a> {
    sample: &'a Sample,
    bucket: &'a str,
    reference: &'a ReferenceConfig,
    lowest: BTreeSet<(u64, String)>,
}

impl Drawn<'_> {
    async fn ask(&mut self, scene: &Scene<'_>) -> Result<()> {
        let named = SourceName::new(&self.reference.source).ok().and_then(|name| scene.copy_of(&name));
        let Some(Cast { config, .. }) = named else { return Ok(()) };
        let SourceKind::Mysql(server) = &config.kind else { return Ok(()) };
        let query = &self.reference.query;
        let hear = |row| {
            self.take(&row);
            Ok(ControlFlow::Continue(()))
        };
        mysql::ask(&config.name, server, query, hear).await
    }

    /// Takes a row that says what the SHA-256 of its object is.
    fn take(&mut self, row: &Answer) {
        let column = |at: usize| row.get(at)?.as_deref().filter(|value| !value.is_empty());
        let (Some(name), Some(_)) = (column(0), column(1)) else { return };
        let prefix = self.reference.strip_prefix.as_deref().unwrap_or_default();
        let key = name.strip_prefix(prefix.as_bytes()).and_then(|key| std::str::from_utf8(key).ok());
        let Some(key) = key else { return };
        self.lowest.insert((self.sample.lot(self.bucket, key.as_bytes()), key.to_owned()));
        if self.lowest.len() > WHOLE_MIN {
            self.lowest.pop_last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(texts: &[&str]) -> Answer {
        texts.iter().map(|text| (*text != "-").then(|| text.as_bytes().to_vec())).collect()
    }

    fn drawn(reference: &str, rows: &[Answer]) -> Vec<String> {
        let text = format!("source = \"mysql\"\nquery = \"SELECT 1\"\nin = \"minio\"\n{reference}");
        let reference: ReferenceConfig = toml::from_str(&text).unwrap();
        let sample = Sample::new("drill", 1);
        let mut drawn =
            Drawn { sample: &sample, bucket: "im-files", reference: &reference, lowest: BTreeSet::new() };
        for row in rows {
            drawn.take(row);
        }
        drawn.lowest.into_iter().map(|(_, key)| key).collect()
    }

    #[test]
    fn the_rows_that_say_a_hash_name_what_is_read() {
        let rows =
            [&["a", "00"][..], &["b", "-"], &["c", ""], &["-", "00"], &["", "00"], &["d"], &["a", "11"]];
        assert_eq!(drawn("", &rows.map(row)), ["a"]);
        let rows = [&["/data/a", "00"][..], &["b", "00"]];
        assert_eq!(drawn("strip_prefix = \"/data/\"", &rows.map(row)), ["a"]);
    }

    #[test]
    fn of_many_rows_those_with_the_lowest_lots_are_taken() {
        let keys: Vec<String> = (0..500).map(|n| format!("2026/{n}")).collect();
        let rows: Vec<Answer> = keys.iter().map(|key| row(&[key, "00"])).collect();
        let sample = Sample::new("drill", 1);
        let mut lowest = keys;
        lowest.sort_by_key(|key| sample.lot("im-files", key.as_bytes()));
        lowest.truncate(WHOLE_MIN);
        assert_eq!(drawn("", &rows), lowest);
    }
}
