//! The documents as a test: what they list is what there is.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use lifeboat::repo::format::FORMAT;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Returns the names that a table of Cargo.toml has.
fn crates(table: &str) -> BTreeSet<String> {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    manifest[table].as_table().unwrap().keys().cloned().collect()
}

/// Returns the crates that have a row under the heading of docs/dependencies.md.
fn explained(heading: &str) -> BTreeSet<String> {
    let text = read("docs/dependencies.md");
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    rows.filter(|(_, reason)| reason.trim_matches([' ', '|']).len() > 10)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Returns the markdown files that people read first, and all below docs/.
fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// Returns the targets of a document's links to files; what stands in code blocks is no link.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    // Every second part of the text lies between two fences.
    for prose in text.split("```").step_by(2) {
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let files = targets.map(|(target, _)| target.split('#').next().unwrap_or_default());
        found.extend(files.filter(|target| !target.is_empty() && !target.contains("://")));
    }
    found
}

#[test]
fn every_dependency_is_explained_and_nothing_else_is() {
    assert_eq!(crates("dependencies"), explained("Of the program"));
    assert_eq!(crates("dev-dependencies"), explained("Of the tests"));
}

#[test]
fn every_exit_code_is_in_the_readme() {
    let source = read("src/error.rs");
    let body = source.split_once("pub enum ExitCode {").unwrap().1.split_once("\n}").unwrap().0;
    let numbers: Vec<&str> = body
        .lines()
        .filter_map(|line| Some(line.split_once(" = ")?.1.trim_end_matches(',')))
        .filter(|number| number.parse::<u8>().is_ok())
        .collect();
    assert!(numbers.len() >= 15, "found only {numbers:?}");
    let readme = read("README.md");
    for number in numbers {
        let row = format!("| {number} |");
        assert!(readme.lines().any(|line| line.starts_with(&row)), "exit code {number} has no row");
    }
}

#[test]
fn every_link_leads_to_a_file() {
    let mut lost = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let folder = document.parent().unwrap();
        let missing = links(&text).into_iter().filter(|target| !folder.join(target).exists());
        lost.extend(missing.map(|target| format!("{}: {target}", document.display())));
    }
    assert!(lost.is_empty(), "links to nothing:\n{}", lost.join("\n"));
}

#[test]
fn links_in_prose_are_found_and_code_is_left_alone() {
    let text = "[a](b.md#c) [d](https://e) [f](#g)\n```\n[h](i)\n```\n[j](k/l.md)";
    assert_eq!(links(text), ["b.md", "k/l.md"]);
}

#[test]
fn every_module_has_its_place_in_the_architecture() {
    let text = read("docs/ARCHITECTURE.md");
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "lib" || name == "main" {
            continue;
        }
        assert!(text.contains(&format!("`{name}`")), "docs/ARCHITECTURE.md does not name `{name}`");
    }
}

#[test]
fn the_format_is_told_of_the_version_that_is_written() {
    let text = read("docs/FORMAT.md");
    assert!(text.starts_with(&format!("# The repository format, version {FORMAT}\n")));
    assert!(text.contains(&format!("constant `FORMAT` there is **{FORMAT}**")));
}
