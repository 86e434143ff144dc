//! References over books that are written by hand.

use std::collections::BTreeSet;

use super::*;
use crate::{
    drill::{Answer, FINDINGS_MAX},
    jobs::drill::rows::shown,
};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn config(more: &str) -> ReferenceConfig {
    let text =
        format!("source = \"mysql\"\nquery = \"SELECT 1\"\nin = \"minio\"\nbucket = \"im-files\"\n{more}");
    toml::from_str(&text).unwrap()
}

fn book(objects: &[(&[u8], u64, &str)]) -> ObjectBook {
    let mut book = ObjectBook::new().unwrap();
    for (key, size, sha256) in objects {
        book.note("minio", "im-files", key, *size, sha256).unwrap();
        // Neighbours with the same keys must not be taken for them.
        book.note("minio", "other", key, *size + 1, B).unwrap();
        book.note("other", "im-files", key, *size + 1, B).unwrap();
    }
    book.note("minio", "other", b"neighbour", 1, B).unwrap();
    book
}

/// A row of texts; `-` is NULL.
fn row(texts: &[&str]) -> mysql::Answer {
    texts.iter().map(|text| (*text != "-").then(|| text.as_bytes().to_vec())).collect()
}

async fn answer(
    book: &ObjectBook,
    config: &ReferenceConfig,
    rows: impl IntoIterator<Item = mysql::Answer>,
    earlier: Option<u64>,
) -> Result<Assertion> {
    let kind = SourceKind::S3(
        toml::from_str("endpoint = \"http://x\"\naccess_key = { env = \"A\" }\nsecret_key = { env = \"B\" }")
            .unwrap(),
    );
    let names = names(config, &kind);
    book.think(Names::begin).await?;
    let mut tally = Tally::default();
    for row in rows {
        names.take(&mut book.pages(), &mut tally, &row)?;
    }
    book.think(rows::sort).await?;
    let glob = config.orphans.as_deref().map(compile).transpose()?;
    let tally = in_bucket(book, config, glob, &names, tally).await?;
    Ok(judge(config, names.thing, &tally, earlier))
}

async fn asked(book: &ObjectBook, more: &str, rows: &[&[&str]]) -> Assertion {
    answer(book, &config(more), rows.iter().map(|texts| row(texts)), None).await.unwrap()
}

#[tokio::test]
async fn rows_that_have_their_objects_hold() {
    let book = book(&[(b"2026/a.png", 3, A), (b"2026/b.png", 4, B), (b"c", 5, A)]);
    let rows: [&[&str]; 4] =
        [&["2026/a.png", &A.to_uppercase(), "3"], &["2026/b.png", "-", "4"], &["-", A, "3"], &["", "", ""]];
    let assertion = asked(&book, "", &rows).await;
    assert_eq!(assertion.answer, Answer::Held);
    assert_eq!(assertion.name, "mysql in minio/im-files");
    assert_eq!(assertion.detail, "2 rows (2 more name nothing), 0 missing; 3 objects, 1 without a row");
    assert_eq!((assertion.value, assertion.source.as_deref()), (Some(0), Some("mysql")));
    assert!(assertion.findings.is_empty(), "orphans are counted only: {:?}", assertion.findings);
}

#[tokio::test]
async fn what_was_not_read_is_not_missing() {
    let mut book = book(&[(b"a", 1, A)]);
    // The lab's server died after the first object.
    book.note_unread("minio");
    let failure = answer(&book, &config(""), [row(&["a"]), row(&["b"])], None).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::DrillNotRun);
    let what = "the objects of `minio` could not all be read: none can be called missing";
    assert_eq!(failure.to_string(), what);
    let other = ReferenceConfig { inside: "other".to_owned(), ..config("") };
    let assertion = answer(&book, &other, [row(&["a"])], None).await.unwrap();
    assert_eq!(assertion.answer, Answer::Held, "another source was");
}

#[tokio::test]
async fn every_fault_is_named() {
    let book = book(&[(b"a", 1, A), (b"b", 2, A), (b"c", 3, A), (b"x", 4, A)]);
    let rows: [&[&str]; 5] =
        [&["gone", A, "1"], &["gone", A, "1"], &["b", B, "2"], &["c", A, "9"], &["a", A, "1"]];
    let assertion = asked(&book, "orphans_max = 0\nname = \"files\"", &rows).await;
    assert_eq!((assertion.answer, assertion.name.as_str()), (Answer::Failed, "files"));
    assert_eq!(
        assertion.findings,
        [
            "row `im-files/gone` has no object".to_owned(),
            "row `im-files/gone` has no object".to_owned(),
            format!("object `im-files/b` has another SHA-256: row says {B}, object has {A}"),
            "object `im-files/c` has another size: row says 9 bytes, object has 3".to_owned(),
            "object `im-files/x` has no row".to_owned(),
        ]
    );
    assert_eq!((assertion.value, assertion.findings_total), (Some(2), 5));
    assert_eq!(
        assertion.detail,
        "5 rows, 2 missing; 4 objects, 1 without a row; 0 may be missing; 1 object has another SHA-256; \
         1 object has another size; 0 objects may be without a row"
    );
}

#[tokio::test]
async fn a_row_is_held_against_its_own_object_alone() {
    let book = book(&[(b"a", 1, A)]);
    // `neighbour` lies in another bucket.
    let assertion = asked(&book, "", &[&["a", A, "1"], &["neighbour"]]).await;
    assert_eq!(assertion.findings, ["row `im-files/neighbour` has no object"]);
    let assertion = asked(&book, "", &[&["A", A, "1"]]).await;
    assert_eq!(assertion.findings, ["row `im-files/A` has no object"], "keys have a case");
}

#[tokio::test]
async fn an_object_that_was_not_read_is_there_and_has_no_other_hash() {
    let book = book(&[(b"a", 1, A), (b"b", 2, ""), (b"c", 3, ""), (b"d", 4, "")]);
    let rows: [&[&str]; 4] = [&["a", A, "1"], &["b", B, "2"], &["c", A, "3"], &["d", "-", "4"]];
    let assertion = asked(&book, "", &rows).await;
    assert_eq!(assertion.answer, Answer::Held, "{assertion:#?}");
    assert_eq!(
        assertion.detail,
        "4 rows, 0 missing; 4 objects, 0 without a row; the SHA-256 of 1 object compared, of 2 only existence and size"
    );
    // What is known of it without its bytes still counts.
    let rows: [&[&str]; 4] = [&["a", B, "1"], &["b", B, "9"], &["gone", A, "1"], &["d", "-", "4"]];
    let assertion = asked(&book, "orphans_max = 0", &rows).await;
    assert_eq!(
        assertion.findings,
        [
            "row `im-files/gone` has no object".to_owned(),
            format!("object `im-files/a` has another SHA-256: row says {B}, object has {A}"),
            "object `im-files/b` has another size: row says 9 bytes, object has 2".to_owned(),
            "object `im-files/c` has no row".to_owned(),
        ]
    );
}

#[tokio::test]
async fn hashes_of_which_none_was_compared_have_not_held() {
    let book = book(&[(b"a", 1, ""), (b"b", 2, "")]);
    let assertion = asked(&book, "", &[&["a", A, "1"], &["b", "-", "2"]]).await;
    assert_eq!(assertion.answer, Answer::CouldNotRun);
    assert_eq!(
        assertion.detail,
        "1 object was not read, and no other has a row with a SHA-256: no SHA-256 was compared"
    );
    assert_eq!(asked(&book, "", &[&["a", "-", "1"]]).await.answer, Answer::Held, "no row asks for a hash");
}

#[tokio::test]
async fn limits_are_the_most_that_may_be() {
    let book = book(&[(b"a", 1, A), (b"x", 1, A)]);
    let rows: [&[&str]; 3] = [&["a"], &["gone"], &["lost"]];
    for (more, answer) in [
        ("missing_max = 2", Answer::Held),
        ("missing_max = 1", Answer::Failed),
        ("missing_max = 2\norphans_max = 1", Answer::Held),
        ("missing_max = 2\norphans_max = 0", Answer::Failed),
    ] {
        let assertion = asked(&book, more, &rows).await;
        assert_eq!(assertion.answer, answer, "{more}: {}", assertion.detail);
        assert_eq!(assertion.value, Some(2));
    }
    let assertion = asked(&book, "missing_max = 2\norphans_max = 0", &rows).await;
    assert_eq!(assertion.findings, ["object `im-files/x` has no row"], "what may be is no finding");
}

#[tokio::test]
async fn what_is_missing_may_grow_by_so_much() {
    let book = book(&[(b"a", 1, A)]);
    let config = config("missing_max = 9\ngrowth_max = 1");
    let rows = || ["a", "gone", "lost", "stolen"].map(|key| row(&[key]));
    for (earlier, held) in
        [(Some(3), true), (Some(2), true), (Some(1), false), (Some(0), false), (None, true)]
    {
        let assertion = answer(&book, &config, rows(), earlier).await.unwrap();
        assert_eq!(assertion.answer == Answer::Held, held, "{earlier:?}: {}", assertion.detail);
        assert_eq!(assertion.detail.contains("no drill before"), earlier.is_none(), "{}", assertion.detail);
    }
    let assertion = answer(&book, &config, rows(), Some(1)).await.unwrap();
    assert!(assertion.detail.ends_with("; 2 more are missing than in the drill before, 1 may"));
    assert_eq!(assertion.findings.len(), 3);
}

/// Asks of keys, none of which is there: `dump` is what the snapshot holds, `now_ms` the time of the drill.
async fn keys_gone(more: &str, rows: &[&str], dump: Dump, now_ms: i64) -> Assertion {
    let text = format!("source = \"mysql\"\nquery = \"SELECT 1\"\nin = \"redis\"\ndb = 3\n{more}");
    let config: ReferenceConfig = toml::from_str(&text).unwrap();
    let names = names(&config, &SourceKind::Redis(toml::from_str("url = \"redis://x\"").unwrap()));
    let book = ObjectBook::new().unwrap();
    book.think(Names::begin).await.unwrap();
    let mut tally = Tally::default();
    for key in rows {
        names.take(&mut book.pages(), &mut tally, &row(&[key])).unwrap();
    }
    book.think(rows::sort).await.unwrap();
    let absent = rows::next_keys(&book.pages(), b"", 99).unwrap();
    for (key, count) in absent {
        rows::absent(&mut book.pages(), &key, count).unwrap();
    }
    assert!(rows::are_absent(&book.pages()).unwrap());
    let tally = without(&book, dump, (3, now_ms), &names, tally).await.unwrap();
    judge(&config, names.thing, &tally, None)
}

#[tokio::test]
async fn a_key_that_has_expired_since_the_snapshot_is_not_missing() {
    let dump = || {
        Dump::sample(&[
            (3, "expired", Some(1000)),
            (3, "later", Some(2000)),
            (3, "stays", None),
            (0, "other", Some(1000)),
        ])
    };
    let rows = ["expired", "expired", "later", "stays", "other", "never was"];
    let assertion = keys_gone("", &rows, dump(), 1000).await;
    assert_eq!(assertion.answer, Answer::Failed);
    assert_eq!(
        assertion.findings,
        ["later", "never was", "other", "stays"].map(|key| format!("row `{key}` has no key"))
    );
    assert_eq!((assertion.value, assertion.findings_total), (Some(4), 4));
    assert_eq!(
        assertion.detail,
        "6 rows, 4 missing, 2 keys have expired since the snapshot; 0 may be missing"
    );
    let assertion = keys_gone("missing_max = 1", &["expired", "stays"], dump(), 1000).await;
    // What may be missing proves nothing of what is there.
    assert_eq!(assertion.answer, Answer::CouldNotRun, "{}", assertion.detail);
    let detail = "1 key that a row names has expired since the snapshot and 1 missing: nothing was compared";
    assert_eq!(assertion.detail, detail);
}

#[tokio::test]
async fn a_reference_of_which_every_key_has_expired_has_compared_nothing() {
    let dump = Dump::sample(&[(3, "a", Some(1000)), (3, "b", Some(1000))]);
    let assertion = keys_gone("", &["a", "b", "b"], dump, 1000).await;
    assert_eq!(assertion.answer, Answer::CouldNotRun);
    let detail = "3 keys that rows name have expired since the snapshot: nothing was compared";
    assert_eq!(assertion.detail, detail);
}

#[test]
fn the_drill_before_is_asked_for_the_same_assertion() {
    let config = config("name = \"files\"");
    let value = |assertions: &[Assertion]| {
        let report = report(assertions.to_vec());
        earlier(&config, Some(&report))
    };
    let files = Assertion::held(Question::Reference, "files", "").with_value(4);
    let other = Assertion::held(Question::Expectation, "files", "").with_value(9);
    assert_eq!(value(&[other.clone(), files.clone()]), Some(4));
    assert_eq!(value(&[other]), None);
    assert_eq!(value(&[Assertion::could_not_run(Question::Reference, "files", "")]), None);
    assert_eq!(value(&[files.clone(), files]), None, "two of one name cannot be told apart");
    assert_eq!(earlier(&config, None), None);
}

fn report(assertions: Vec<Assertion>) -> Report {
    let id = crate::names::SnapshotId::new("20261101T030000Z-7f3a").unwrap();
    let time = id.time();
    Report {
        schema: crate::drill::SCHEMA.to_owned(),
        id: id.clone(),
        stack: "im".to_owned(),
        host: "h".to_owned(),
        lifeboat: "1".to_owned(),
        timezone: "UTC".to_owned(),
        way: crate::drill::Way::Restore,
        from: "repository".to_owned(),
        snapshot: id,
        snapshot_began: time,
        lab: "docker".to_owned(),
        began: time,
        ended: time,
        outcome: crate::drill::Outcome::Passed,
        problem: None,
        rto_seconds: None,
        objective_seconds: None,
        phases: Vec::new(),
        sources: Vec::new(),
        covers: None,
        assertions,
        notes: Vec::new(),
        trend: Vec::new(),
    }
}

#[tokio::test]
async fn a_prefix_is_taken_off_and_must_be_there() {
    let book = book(&[(b"2026/a.png", 1, A)]);
    let rows: [&[&str]; 3] = [&["/data/2026/a.png"], &["2026/a.png"], &["/data/"]];
    let assertion = asked(&book, "strip_prefix = \"/data/\"", &rows).await;
    assert_eq!(
        assertion.findings,
        ["row `2026/a.png` does not begin with `/data/`", "row `/data/` has nothing behind `/data/`"]
    );
    assert_eq!(assertion.value, Some(2));
}

#[tokio::test]
async fn odd_keys_are_compared_byte_by_byte() {
    let odd: [&[u8]; 8] = [
        "图 片/é.png".as_bytes(),
        b" leading and trailing ",
        b"line\nend\t",
        b"\xff\xfe not text",
        b"a'b\"c;--",
        b"100%_",
        b"\\",
        b"nul\0nul",
    ];
    let book = book(&odd.map(|key| (key, 1, A)));
    let rows = odd.map(|key| vec![Some(key.to_vec()), Some(A.as_bytes().to_vec()), Some(b"1".to_vec())]);
    let assertion = answer(&book, &config("orphans_max = 0"), rows, None).await.unwrap();
    assert_eq!(assertion.answer, Answer::Held, "{} {:?}", assertion.detail, assertion.findings);
    assert_eq!(assertion.detail, "8 rows, 0 missing; 8 objects, 0 without a row");
    // A blank, a line end, a letter of another form: each is another key.
    let near: [&[u8]; 4] = [b"line\nend", "图 片/e\u{301}.png".as_bytes(), b"leading and trailing", b"100%"];
    let rows = near.map(|key| vec![Some(key.to_vec())]);
    let assertion = answer(&book, &config(""), rows, None).await.unwrap();
    assert_eq!((assertion.value, assertion.findings_total), (Some(4), 4));
    assert!(assertion.findings.contains(&"row `im-files/line\\nend` has no object".to_owned()));
}

#[test]
fn what_is_shown_is_one_line_of_text() {
    assert_eq!(shown(b"\xffa\nb\x1b[31m\\"), "\\xffa\\nb\\u{1b}[31m\\\\");
    let long = shown("密".repeat(100_000).as_bytes());
    assert_eq!((long.chars().count(), long.ends_with('…')), (301, true));
}

#[tokio::test]
async fn what_is_no_sha_256_cannot_be_compared() {
    let book = book(&[(b"a", 1, A), (b"b", 1, A), (b"c", 1, A)]);
    let md5 = "d41d8cd98f00b204e9800998ecf8427e";
    let assertion = asked(&book, "", &[&["a", md5], &["b", A]]).await;
    assert_eq!(assertion.answer, Answer::CouldNotRun);
    assert_eq!(
        assertion.findings,
        [format!("row `im-files/a` says `{md5}`, which has the length of an MD5: a SHA-256 has 64 digits")]
    );
    assert!(assertion.detail.ends_with("; 1 hash or size cannot be compared"), "{}", assertion.detail);
    for (columns, why) in [
        (["a", "zz", "1"], "which is no SHA-256 as hex"),
        (["a", &A[..62], "1"], "which is no SHA-256 as hex"),
        (["a", A, "1.5"], "which is no number of bytes"),
        (["a", A, "-1"], "which is no number of bytes"),
    ] {
        let assertion = asked(&book, "", &[&columns]).await;
        assert_eq!(assertion.answer, Answer::CouldNotRun, "{columns:?}");
        assert!(assertion.findings[0].ends_with(why), "{:?}", assertion.findings);
    }
    let assertion = asked(&book, "", &[&["a", md5], &["b", B]]).await;
    assert_eq!(assertion.answer, Answer::Failed, "what is known to be wrong is worse than what is not known");
    assert_eq!(assertion.findings.len(), 2);
}

#[tokio::test]
async fn too_many_columns_are_not_passed_over() {
    let book = book(&[(b"a", 1, A)]);
    let failure = answer(&book, &config(""), [row(&["a", A, "1", "x"])], None).await.unwrap_err();
    assert!(failure.to_string().contains("returns 4 columns"), "{failure}");
}

#[tokio::test]
async fn a_reference_that_looked_at_nothing_has_not_held() {
    let (empty, full) = (book(&[]), book(&[(b"a", 1, A)]));
    let assertion = asked(&empty, "orphans_max = 0", &[]).await;
    assert_eq!(assertion.answer, Answer::CouldNotRun);
    assert_eq!(
        assertion.detail,
        "the query returned no rows and the bucket has no objects: nothing was compared"
    );
    let assertion = asked(&empty, "", &[&["-"], &[""]]).await;
    assert_eq!(
        assertion.detail,
        "none of the query's 2 rows names anything and the bucket has no objects: nothing was compared"
    );
    let assertion = asked(&full, "", &[]).await;
    assert_eq!(assertion.answer, Answer::CouldNotRun, "no row, and orphans may be as many as they are");
    assert!(assertion.detail.contains("`orphans_max` does not say"), "{}", assertion.detail);
    let assertion = asked(&full, "orphans_max = 0", &[]).await;
    assert_eq!(assertion.answer, Answer::Failed);
    assert_eq!(assertion.findings, ["object `im-files/a` has no row"]);
    assert_eq!(asked(&full, "orphans_max = 1", &[]).await.answer, Answer::Held);
    assert_eq!(asked(&empty, "", &[&["a"]]).await.answer, Answer::Failed, "everything is missing");
}

#[tokio::test]
async fn a_glob_that_matches_nothing_of_what_is_there_is_no_proof() {
    let book = book(&[(b"a", 1, A), (b"b", 1, A)]);
    let assertion = asked(&book, "orphans = \"im-files/*\"\norphans_max = 0", &[&["a"]]).await;
    assert_eq!(assertion.answer, Answer::CouldNotRun);
    assert!(assertion.detail.contains("`im-files/*` matches no object"), "{}", assertion.detail);
    assert_eq!(asked(&book, "orphans = \"im-files/*\"", &[&["a"]]).await.answer, Answer::Held);
}

/// `SQLite`'s own `GLOB` and Redis's patterns know no braces, and `[!a]` and `**` mean other things there.
#[tokio::test]
async fn a_glob_means_what_it_means_in_the_rest_of_the_policy() {
    let keys: [&[u8]; 6] = [b"2026/a.png", b"2026/x/a.jpg", b"2025/b.png", b"c.png", b"[d]", b"\xff.png"];
    let book = book(&keys.map(|key| (key, 1, A)));
    for (glob, orphans) in [
        ("**", vec![0, 1, 2, 3, 4, 5]),
        ("2026/*", vec![0, 1]),
        ("*.{png,jpg}", vec![0, 1, 2, 3, 5]),
        ("202[!6]/*", vec![2]),
        ("?.png", vec![3, 5]),
        ("[[]d]", vec![4]),
    ] {
        let more = format!("orphans = \"{glob}\"\norphans_max = 0");
        let assertion = asked(&book, &more, &[]).await;
        let expected: BTreeSet<String> = orphans
            .iter()
            .map(|at: &usize| format!("object `im-files/{}` has no row", shown(keys[*at])))
            .collect();
        assert_eq!(assertion.findings.into_iter().collect::<BTreeSet<_>>(), expected, "{glob}");
        let set = globset::GlobSet::builder().add(Glob::new(glob).unwrap()).build().unwrap();
        for key in keys.iter().filter_map(|key| std::str::from_utf8(key).ok()) {
            let matcher = compile(glob).unwrap();
            assert_eq!(rows::matches(&matcher, key.as_bytes()), set.is_match(key), "{glob} {key}");
        }
    }
}

#[tokio::test]
async fn a_hundred_thousand_rows_are_counted_and_some_are_named() {
    let mut book = ObjectBook::new().unwrap();
    for n in 0..100_000_u32 {
        book.note("minio", "im-files", format!("2026/{n:08}").as_bytes(), u64::from(n), A).unwrap();
    }
    // The order of the rows is not that of the keys, as in a table by another key.
    let rows = (0..100_000_u32).map(|n| {
        let n = (n * 7919) % 100_000;
        let key = if n.is_multiple_of(100) { format!("lost/{n}") } else { format!("2026/{n:08}") };
        let hash = if n % 1000 == 1 { B } else { A };
        row(&[&key, hash, &n.to_string()])
    });
    let assertion = answer(&book, &config("orphans_max = 0"), rows, None).await.unwrap();
    assert_eq!((assertion.answer, assertion.value), (Answer::Failed, Some(1000)));
    assert_eq!(assertion.findings_total, 1000 + 100 + 1000);
    assert_eq!(assertion.findings.len(), FINDINGS_MAX);
    for begin in ["row `im-files/lost/", "object `im-files/2026/"] {
        let count = assertion.findings.iter().filter(|finding| finding.starts_with(begin)).count();
        assert!(count >= 6, "each kind has its share: {:?}", assertion.findings);
    }
    // The next question begins with other rows.
    let rows = (0..100_000_u32).map(|n| row(&[&format!("2026/{n:08}")]));
    let assertion = answer(&book, &config("orphans_max = 0"), rows, None).await.unwrap();
    assert_eq!(assertion.answer, Answer::Held, "{}", assertion.detail);
}

#[tokio::test]
async fn both_sides_are_walked_by_key_and_never_sorted_in_memory() {
    let book = book(&[(b"a", 1, A)]);
    asked(&book, "", &[&["a"]]).await;
    let pages = book.pages();
    for sql in [rows::DIFFERENT, rows::READ, rows::OBJECTS] {
        let mut statement = pages.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let plan: Vec<String> =
            statement.query_map([0], |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains("COVERING INDEX rows_by_key") && plan.contains("objects_by_key"), "{plan}");
        assert!(!plan.contains("TEMP B-TREE") && !plan.contains("AUTOMATIC"), "{plan}");
    }
}
