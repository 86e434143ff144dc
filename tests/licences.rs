//! Every crate that is built in may be passed on under terms that docs/dependencies.md allows.
//!
//! The crates are those of this machine's platform, tests' own ones too, as the lock file has them.

#![expect(clippy::unwrap_used, reason = "what cannot be read fails the test")]

use std::{collections::BTreeSet, env::consts::ARCH, fs, path::Path, process::Command};

use serde_json::Value;

/// Returns the licences that have a row under the heading of docs/dependencies.md.
fn allowed() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dependencies.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Licences")).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    rows.map(|(name, _)| name.to_owned()).collect()
}

/// Returns the names of crates, with the terms that they come under.
fn terms() -> Vec<(String, String)> {
    let platform = format!("{ARCH}-unknown-linux-gnu");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let text = |package: &Value, field: &str| package[field].as_str().unwrap_or_default().to_owned();
    packages.iter().map(|package| (text(package, "name"), text(package, "license"))).collect()
}

/// Returns whether terms can be met with what is allowed: an SPDX expression, or names with `/` between, as it was
/// written once.
fn are_met(terms: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = terms.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any_of(&words, &mut at, allowed) && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any_of(words, at, allowed);
        *at += 1;
        return met && words.get(*at - 1) == Some(&")");
    }
    match words.get(*at..*at + 2) {
        Some(["WITH", exception]) => {
            *at += 2;
            // An exception only adds permissions.
            allowed.contains(*word) || allowed.contains(&format!("{word} WITH {exception}"))
        }
        _ => allowed.contains(*word),
    }
}

#[test]
fn every_crate_comes_under_terms_that_are_allowed() {
    let (allowed, terms) = (allowed(), terms());
    assert!(allowed.len() > 5 && terms.len() > 300, "{} licences, {} crates", allowed.len(), terms.len());
    let refused: Vec<String> = terms
        .into_iter()
        .filter(|(_, terms)| !are_met(terms, &allowed))
        .map(|(name, terms)| format!("{name}: {terms:?}"))
        .collect();
    assert!(refused.is_empty(), "not allowed in docs/dependencies.md:\n{}", refused.join("\n"));
}

#[test]
fn terms_are_met_as_they_are_meant() {
    let allowed = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).into();
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-2.0-only OR MIT",
        "(MIT OR GPL-3.0) AND ISC",
        "Apache-2.0 WITH LLVM-exception",
        "MIT AND (ISC)",
    ] {
        assert!(are_met(good, &allowed), "{good}");
    }
    for bad in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "GPL-2.0 WITH x", "MIT )", "MIT ISC"]
    {
        assert!(!are_met(bad, &allowed), "{bad}");
    }
}
