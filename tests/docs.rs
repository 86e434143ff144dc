//! The documents as a test: what they list is what there is.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use lifeboat::{jobs::doctor, repo::format::FORMAT, status::Kind};

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

/// Returns the headings of a page, as links write them.
fn headings(page: &str) -> BTreeSet<String> {
    page.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect()
}

#[test]
fn every_finding_has_its_heading_in_the_runbook_and_no_heading_is_left_over() {
    let laws: Vec<_> = doctor::laws().collect();
    for law in &laws {
        let page = read(&format!("docs/runbook/{}.md", law.page));
        assert!(headings(&page).contains(&law.heading()), "{}: no heading {}", law.page, law.heading());
    }
    let known: BTreeSet<String> = laws.iter().map(|law| law.heading()).collect();
    for page in laws.iter().map(|law| law.page).collect::<BTreeSet<_>>() {
        let text = read(&format!("docs/runbook/{page}.md"));
        let ids = headings(&text).into_iter().filter(|heading| !heading.contains(' '));
        let lost: Vec<String> = ids.filter(|heading| !known.contains(heading)).collect();
        assert!(lost.is_empty(), "{page}: nothing is looked at for {lost:?}");
    }
}

#[test]
fn every_kind_of_incident_has_its_page() {
    for kind in Kind::ALL {
        let text = read(&format!("docs/runbook/{}.md", kind.word()));
        for heading in ["What to do now", "It is over"] {
            assert!(headings(&text).contains(heading), "{}: no “{heading}”", kind.word());
        }
    }
}

#[test]
fn every_page_of_the_runbook_opens_in_chinese_and_is_in_the_index() {
    let is_chinese = |text: &str| text.chars().filter(|c| ('\u{4e00}'..='\u{9fff}').contains(c)).count() > 1;
    let index = read("docs/runbook/README.md");
    for entry in fs::read_dir(root().join("docs/runbook")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = read(&format!("docs/runbook/{name}"));
        let mut lines = text.lines();
        let title = lines.next().unwrap();
        assert!(title.starts_with("# ") && is_chinese(title) && title.contains(" · "), "{name}: {title}");
        let summary: Vec<&str> = lines.skip(1).take_while(|line| line.starts_with("> ")).collect();
        assert!((2..=3).contains(&summary.len()) && summary.iter().all(|line| is_chinese(line)), "{name}");
        assert!(name == "README.md" || index.contains(&format!("({name})")), "{name} is not in the index");
    }
}

#[test]
fn every_command_of_the_runbook_is_a_verb() {
    let known = verbs();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("docs/runbook")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for (at, start) in text.match_indices("lifeboat ") {
            // A command, not the name in a sentence.
            if !text[..at].ends_with(['`', '$']) && !text[..at].ends_with("$ ") {
                continue;
            }
            let mut words = text[at + start.len()..].split_whitespace();
            let verb = loop {
                match words.next() {
                    Some("--policy" | "--identity") => drop(words.next()),
                    Some(word) => {
                        break word.trim_matches(['`', ',', '.', ':', ';', ')']).trim_end_matches("`s");
                    }
                    None => break "",
                }
            };
            if !known.contains(verb) {
                wrong.push(format!("{}: lifeboat {verb}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "no such verbs:\n{}", wrong.join("\n"));
}

/// Returns the verbs of the command line, as the program itself lists them.
fn verbs() -> BTreeSet<String> {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_lifeboat")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let list = help.split_once("Commands:").unwrap().1.split_once("\n\n").unwrap().0;
    list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Returns the Rust files below these folders, with their text.
fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// Returns whether a file may be this module: it, or the folder that it lies in, has its name, perhaps behind a prefix.
fn is_module(path: &Path, module: &str) -> bool {
    let fits = |name: Option<&std::ffi::OsStr>| {
        let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name == module || name.ends_with(&format!("_{module}"))
    };
    fits(path.file_stem()) || fits(path.parent().and_then(Path::file_name))
}

/// Returns what is wrong with the rows of a page `| trap | test |`, whose second cells name tests in back-ticks.
fn wrong_rows(page: &str, sources: &[(PathBuf, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let rows = page.lines().filter(|line| line.starts_with("| ") && *line != "| trap | test |");
    for row in rows {
        let cell = row.trim_end_matches([' ', '|']).rsplit_once(" | ").map_or("", |(_, cell)| cell);
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("no test: {row}"));
        }
        for name in names {
            let (modules, test) = name.rsplit_once("::").unwrap_or(("", name));
            let module = modules.rsplit("::").next().unwrap_or_default();
            let is_there = |(path, text): &(PathBuf, String)| {
                (module.is_empty() || is_module(path, module)) && text.contains(&format!("fn {test}("))
            };
            if !sources.iter().any(is_there) {
                wrong.push(format!("no such test: {name}"));
            }
        }
    }
    wrong
}

#[test]
fn every_trap_names_tests_that_are_there() {
    let sources = sources(&["src", "tests"]);
    let mut pages = 0;
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with("-traps.md") {
            continue;
        }
        let page = read(&format!("docs/{name}"));
        assert!(page.contains("| trap | test |\n|---|---|\n| "), "{name} has no table of traps");
        let wrong = wrong_rows(&page, &sources);
        assert!(wrong.is_empty(), "docs/{name}:\n{}", wrong.join("\n"));
        pages += 1;
    }
    assert!(pages > 0, "there is no such page");
}

#[test]
fn a_trap_without_a_test_or_with_one_that_is_gone_is_told() {
    let sources =
        [(PathBuf::from("tests/live/mysql_locks.rs"), "async fn it_holds(product: P) {}".to_owned())];
    let page = "| trap | test |\n|---|---|\n| a | `locks::it_holds`, `it_holds` |\n| b `x` | |\n| c | `locks::it_hold` |\n\
                | d | `rows::it_holds` |";
    let told = ["no test: | b `x` | |", "no such test: locks::it_hold", "no such test: rows::it_holds"];
    assert_eq!(wrong_rows(page, &sources), told);
}
