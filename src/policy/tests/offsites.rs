//! What a policy says of copies.

use super::*;

#[test]
fn a_lock_has_an_end_and_a_mode_needs_one() {
    let more = r#"
[[offsite]]
name = "a"
store = "s3"
options = { bucket = "b" }
lock_mode = "governance"
[[offsite]]
name = "b"
store = "s3"
options = { bucket = "c" }
lock_days = 3000
[[offsite]]
name = "c"
store = "s3"
options = { bucket = "d" }
lock_days = 30
lock_mode = "for ever"
[schedule]
lock = "never"
"#;
    insta::assert_snapshot!(told_with(more), @r#"
    policy `p.toml` has 4 problems
    p.toml:16:13: `lock_mode` needs `lock_days`
    p.toml:21:13: `lock_days` must be from 1 to 366
    p.toml:27:13: `lock_mode` cannot be "for ever"
    p.toml:29:8: `lock` is no time of a schedule: invalid pattern: Pattern must have 5 fields when seconds are disallowed
    hint: Line 16: Say for how long: lock_days = 30.
    hint: Line 21: Each sync renews the lock of what is kept, so 30 days are enough for years.
    hint: Line 27: Use `governance` or `compliance`.
    hint: Line 29: Five fields: minute, hour, day of month, month, day of week, as "0 2 * * *".
    "#);
}

#[test]
fn the_harder_lock_is_the_default_and_stronger_than_the_other() {
    let stack = parse(&format!(
        "{SMALL}{}",
        "[[offsite]]\nname = \"a\"\nstore = \"s3\"\noptions = { bucket = \"b\" }\n"
    ));
    let stack = stack.unwrap();
    assert_eq!(stack.offsites[0].settings.lock_mode(), LockMode::Compliance);
    assert!(LockMode::Compliance > LockMode::Governance);
}

#[test]
fn how_an_offsite_is_filled_is_checked() {
    let offsite = |name: &str, settings: &str| {
        format!(
            "[[offsite]]\nname = \"{name}\"\nstore = \"fs\"\noptions = {{ root = \"/{name}\" }}\n{settings}\n"
        )
    };
    let more = [
        offsite("a", "limit_mib_per_second = 0"),
        offsite("b", "concurrency = 17\nreread_percent = 101"),
        offsite("c", "concurrency = 0"),
        offsite("d", "concurrency = 16\nreread_percent = 0\nlimit_mib_per_second = 1"),
    ]
    .concat();
    insta::assert_snapshot!(told_with(&more), @"
    policy `p.toml` has 4 problems
    p.toml:15:24: `limit_mib_per_second` cannot be 0
    p.toml:20:15: `concurrency` must be from 1 to 16
    p.toml:21:18: `reread_percent` must be from 0 to 100
    p.toml:26:15: `concurrency` must be from 1 to 16
    hint: Line 15: Leave it out to send as fast as the line allows.
    ");
}
