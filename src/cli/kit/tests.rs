//! The sheet as people hold it, and its code as a phone reads it.

use chrono::{TimeZone, Utc};

use super::{
    sheet::{Languages, Sheet},
    *,
};

fn kit() -> Facts {
    let key = |lead: &str, letter: &str, length: usize| format!("{lead}{}", letter.repeat(length));
    Facts {
        stack: "im-suite".to_owned(),
        timezone: chrono_tz::Asia::Shanghai,
        made: Utc.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).unwrap(),
        version: "0.0.0".to_owned(),
        repository: "0123456789abcdef0123456789abcdef".to_owned(),
        place: "s3 endpoint=https://minio:9000 bucket=a&b".to_owned(),
        offsites: vec![("oss".to_owned(), "oss bucket=im-suite-backups".to_owned())],
        recipients: vec![key("age1", "q", 58), key("age1", "p", 58)],
        index_recipients: vec![key("age1", "z", 58)],
        signers: vec![key("RWQ", "a", 53)],
        maintainers: vec![key("RWQ", "m", 53)],
        revoked: vec![(key("RWQ", "a", 53), 41)],
        policy: "stack = \"im-suite\"\n[repository]\nstore = \"s3\"\n".to_owned(),
        is_folder: false,
    }
}

const BOTH: Languages = Languages { en: true, zh: true };

#[test]
fn the_page_to_print_has_all_of_it_in_both_languages() {
    let page = html::page(&Sheet::new(&kit(), &[]), BOTH).unwrap();
    insta::assert_snapshot!(page);
    for foreign in ["<script", "http-equiv", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn the_page_can_be_in_one_language() {
    let sheet = Sheet::new(&kit(), &["safe in room 3".to_owned(), "<b> & \"c\"".to_owned()]);
    let page = html::page(&sheet, Languages { en: false, zh: true }).unwrap();
    assert!(page.contains("恢复手册") && !page.contains("Recovery sheet"));
    assert!(page.contains("<dd>safe in room 3</dd><dt></dt><dd>&lt;b&gt; &amp; &quot;c&quot;</dd>"));
    let text = text::page(&sheet, Languages { en: true, zh: false });
    assert!(text.contains("safe in room 3") && !text.contains("恢复"));
}

#[test]
fn the_text_has_all_of_it_too() {
    insta::assert_snapshot!(text::page(&Sheet::new(&kit(), &["safe in room 3".to_owned()]), BOTH));
}

#[test]
fn a_phone_reads_the_facts_off_the_page() {
    const SCALE: usize = 4;
    let page = html::page(&Sheet::new(&kit(), &[]), BOTH).unwrap();
    let after = |lead: &str| page.split_once(lead).unwrap().1.split('"').next().unwrap().to_owned();
    let side: usize = after("viewBox=\"0 0 ").split(' ').next().unwrap().parse().unwrap();
    let mut dark = vec![false; side * side];
    for run in after("<path d=\"").split('M').filter(|run| !run.is_empty()) {
        let numbers: Vec<usize> =
            run.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        let [x, y, length] = numbers[..3] else { panic!("{run}") };
        dark[y * side + x..y * side + x + length].fill(true);
    }
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(side * SCALE, side * SCALE, |x, y| {
        if dark[y / SCALE * side + x / SCALE] { 0 } else { 255 }
    });
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1);
    let (_, read) = grids[0].decode().unwrap();
    assert_eq!(read, kit().facts().to_string());
}

#[test]
fn a_note_with_a_key_in_it_is_refused_and_not_repeated() {
    let failure = check_notes(&["age-secret-key-1hunter2".to_owned()]).unwrap_err();
    assert_eq!(failure.exit(), ExitCode::Usage);
    assert!(!failure.chain().join("").contains("hunter2"));
}

#[test]
fn facts_that_no_code_can_hold_are_refused_with_a_way_out() {
    let many = Facts { recipients: vec!["age1".repeat(20); 60], ..kit() };
    let failure = html::page(&Sheet::new(&many, &[]), BOTH).unwrap_err();
    assert!(failure.hints()[0].contains("--text"));
}
