//! Every edit of a table is named by its key and its columns, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::{super::super::layout::table_meta, *};
use crate::flow::{Point, STREAM_DEPTH, Stage, channel};

const AT: (&str, &str) = ("im", "messages");

/// Sends rows as a source does, in pieces of `piece_rows` whose bytes are cut anywhere.
fn table(key: &str, rows: &[String], piece_rows: usize) -> EntryStream {
    let (sink, stream) = channel(STREAM_DEPTH);
    let layout = format!(
        r#"{{"columns":[{{"name":"id","type":"int","codec":"raw"}},{{"name":"a","type":"int","codec":"raw"}},
            {{"name":"b","type":"int","codec":"raw"}}],"key":[{key}],"engine":"InnoDB"}}"#
    );
    let pieces: Vec<String> = rows.chunks(piece_rows).map(<[String]>::concat).collect();
    tokio::spawn(async move {
        let at = Place { db: AT.0.to_owned(), table: AT.1.to_owned() };
        let other = Place { db: AT.0.to_owned(), table: "other".to_owned() };
        sink.announce(vec!["im.messages".to_owned()]).await?;
        sink.put(table_meta("layout", &at, Stage::Schema, "table.json")?, layout).await?;
        sink.put(table_meta("rows", &other, Stage::Data, "data.00001.tsv")?, "9\t9\t9\n").await?;
        for (number, piece) in pieces.into_iter().enumerate() {
            let meta = table_meta("rows", &at, Stage::Data, &format!("data.{number:05}.tsv"))?;
            let mut body = sink.begin(meta).await?;
            for bytes in piece.as_bytes().chunks(7) {
                body.write(Bytes::copy_from_slice(bytes)).await?;
            }
            body.finish().await?;
        }
        sink.complete("im.messages");
        sink.finish(Point::at(chrono::DateTime::UNIX_EPOCH)).await
    });
    stream
}

async fn differing(key: &str, stored: &[String], found: &[String]) -> RowOdds {
    let one = sum_rows(table(key, stored, 5), AT, None).await.unwrap();
    let two = sum_rows(table(key, found, 3), AT, Some(&one)).await.unwrap();
    assert!(one.is_comparable(&two));
    assert_eq!((one.rows(), two.rows()), (stored.len() as u64, found.len() as u64));
    let Some(mut listing) = one.listing(&two) else { return RowOdds::default() };
    list_rows(table(key, stored, 4), AT, &one, Side::Stored, &mut listing).await.unwrap();
    list_rows(table(key, found, 6), AT, &one, Side::Found, &mut listing).await.unwrap();
    name_rows(AT, &one, listing, usize::MAX)
}

fn line(id: u16, (a, b): (u8, u8)) -> String {
    format!("{id}\t{a}\t{b}\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_edit_of_a_table_is_named_and_nothing_else(
        rows in prop::collection::btree_map(any::<u16>(), any::<(u8, u8)>(), 0..60),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..4, 1_u8..), 0..8),
        added in prop::collection::btree_map(any::<u16>(), any::<(u8, u8)>(), 0..4),
    ) {
        let mut after = rows.clone();
        let keys: Vec<u16> = rows.keys().copied().collect();
        for (at, edit, by) in edits.iter().filter(|_| !keys.is_empty()) {
            let key = keys[at.index(keys.len())];
            let Some(row) = after.get_mut(&key) else { continue };
            match edit {
                0 => drop(after.remove(&key)),
                1 => row.0 = row.0.wrapping_add(*by),
                2 => row.1 = row.1.wrapping_add(*by),
                _ => *row = (row.0.wrapping_add(*by), row.1.wrapping_add(*by)),
            }
        }
        for (key, row) in added {
            after.entry(key).or_insert(row);
        }
        let mut expected = Vec::new();
        let all: BTreeSet<u16> = rows.keys().chain(after.keys()).copied().collect();
        for key in &all {
            match (rows.get(key), after.get(key)) {
                (Some(_), None) => expected.push(format!("im.messages id={key} is missing")),
                (None, Some(_)) => expected.push(format!("im.messages id={key} is extra")),
                (Some(one), Some(two)) if one != two => {
                    let columns = [("a", one.0 != two.0), ("b", one.1 != two.1)];
                    let columns: Vec<&str> = columns.iter().filter(|(_, odd)| *odd).map(|(name, _)| *name).collect();
                    expected.push(format!("im.messages id={key} differs: {}", columns.join(", ")));
                }
                _ => {}
            }
        }
        expected.sort();
        let lines = |rows: &BTreeMap<u16, (u8, u8)>| -> Vec<String> {
            rows.iter().map(|(id, row)| line(*id, *row)).collect()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut odds = runtime.block_on(differing("\"id\"", &lines(&rows), &lines(&after)));
        odds.named.sort();
        prop_assert_eq!(odds.total, expected.len() as u64);
        prop_assert_eq!(odds.named, expected);
    }
}

#[tokio::test]
async fn rows_without_a_key_are_compared_in_no_order_and_counted() {
    let one: Vec<String> = ["1\ta\tb\n", "1\ta\tb\n", "2\t\\N\t\\t\n"].map(str::to_owned).into();
    let mut two = one.clone();
    two.reverse();
    assert_eq!(differing("", &one, &two).await, RowOdds::default());
    two.retain(|row| !row.starts_with('2'));
    two.push("1\ta\tb\n".to_owned());
    let odds = differing("", &one, &two).await;
    assert_eq!(
        odds.named,
        ["im.messages row (id=1 a=a b=b) is extra", "im.messages row (id=2 a=\\N b=\\t) is missing"]
    );
}

#[tokio::test]
async fn a_piece_that_ends_inside_a_row_is_damage() {
    let broken = table("\"id\"", &["1\t2\t3".to_owned()], 1);
    assert!(sum_rows(broken, AT, None).await.is_err());
}
