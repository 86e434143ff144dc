//! What a policy may say about Sentinels and clusters.

use super::*;

/// Checks that a Redis source of these lines has exactly these problems.
fn check(lines: &str, problems: &[&str]) {
    let told = told_with(&format!("[[source]]\nname = \"r\"\nkind = \"redis\"\n{lines}"));
    for problem in problems {
        assert!(told.contains(problem), "{problem}: {told}");
    }
    let count = problems.len();
    let counted = if count == 1 { "has a problem".to_owned() } else { format!("has {count} problems") };
    assert!(told.contains(&counted), "{told}");
}

#[test]
fn a_source_has_an_address_or_sentinels_that_know_it() {
    check("", &["`url` is missing in [[source]] r"]);
    check(
        "sentinels = [\"redis://a\", \"rediss://b\"]\nurl = \"redis://h\"\ncluster = true",
        &[
            ":14:27: `sentinels` are encrypted in part",
            ":15:7: `url` and `sentinels` exclude each other",
            ":16:11: `cluster` and `sentinels` exclude each other",
            "`sentinels` need `primary_name`",
        ],
    );
    check(
        "sentinels = [\"a:1\"]\nprimary_name = \"m\"\nsentinel_user = \"u\"",
        &[
            "`sentinels` must begin with redis:// or rediss://, not `a:1`",
            "`sentinel_user` needs `sentinel_password`",
        ],
    );
}

#[test]
fn what_only_sentinels_or_clusters_have_needs_them() {
    check(
        "url = \"redis://h\"\nnodes = [\"redis://i\"]\nprefer = \"primary\"\nsentinel_user = \"u\"",
        &[
            "`nodes` need `cluster = true`",
            "`prefer` needs `sentinels` or `cluster = true`",
            "`sentinel_user` needs `sentinels`",
        ],
    );
}

#[test]
fn a_restore_elsewhere_goes_to_that_one_server() {
    for lines in [
        "url = \"redis://h\"\ncluster = true\nnodes = [\"redis://i:7000\"]\nprefer = \"primary\"",
        "sentinels = [\"rediss://a\", \"rediss://b:5000\"]\nprimary_name = \"m\"\nca_file = \"/ca.pem\"",
    ] {
        let text = format!("{SMALL}[[source]]\nname = \"r\"\nkind = \"redis\"\n{lines}");
        let stack = parse(&text).unwrap();
        let of =
            |stack: &Stack| stack.sources.iter().find(|source| source.name.as_str() == "r").cloned().unwrap();
        let mut kind = of(&stack).kind;
        kind.redirect("redis://other:1").unwrap();
        let SourceKind::Redis(redis) = &kind else { panic!("{kind:?}") };
        assert_eq!(redis.addresses().collect::<Vec<_>>(), ["redis://other:1"]);
        assert!(!redis.cluster && redis.primary_name.is_none());
    }
}
