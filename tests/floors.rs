//! The architecture as a test: a module imports lower floors only, siblings never meet, nobody imports all.
//!
//! Rust lets modules import each other in circles, and every large program ends up with some. Here an engine
//! cannot know the repository, the repository cannot know MySQL, and only `jobs` lets two engines meet.
//! Tests are exempt, and so is the binary, which stands on top.

#![expect(clippy::unwrap_used, reason = "what cannot be read fails the test")]

mod source;

use std::{
    fs,
    path::{Path, PathBuf},
};

use source::{block_end, code_of, files, line_of};

/// The floors, the lowest first. A new module gets its floor here, and a reason in `lib.rs`.
const FLOORS: [&[&str]; 8] = [
    &["names", "plain"],
    &["clock", "drill", "error", "event"],
    &["finding", "flow", "retention", "schedule", "status"],
    &["policy", "store", "crypt"],
    &["mysql", "redis", "s3", "files", "repo", "lab", "catalog", "notify", "report"],
    &["jobs"],
    &["serve"],
    &["cli"],
];

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// Returns the path of a file's module: `src/mysql/dump.rs` is `["mysql", "dump"]`.
fn module_of(file: &Path, src: &Path) -> Vec<String> {
    let inside = file.strip_prefix(src).unwrap().with_extension("");
    let mut parts: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// Blanks what is compiled for tests only.
fn without_tests(code: &str) -> String {
    let mut left = code.to_owned();
    while let Some(at) = left.find("#[cfg(test)]") {
        let end = block_end(&left, at);
        let blank: String = left[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        // Characters of more than one byte become one blank each; offsets are only used as lines.
        left.replace_range(at..end, &blank);
    }
    left
}

/// Returns how many inline modules lie around `at`.
fn inline_depth(code: &str, at: usize) -> usize {
    let opens = code[..at].match_indices("mod ").filter(|(open, _)| {
        let is_word = code[..*open].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let name_ends = code[*open + 4..].find(['{', ';']).map_or(code.len(), |end| open + 4 + end);
        !is_word && code[name_ends..].starts_with('{') && block_end(code, name_ends) > at
    });
    opens.count()
}

/// A name of the crate's top that a file imports, and the line.
type Import = (usize, String);

/// Returns the first names of a path or of each path of a `{…}` group.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '*').collect()
    };
    let Some(group) = path.trim_start().strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut begin) = (0, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(name(&group[begin..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&group[begin..at]));
                begin = at + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Returns what a file imports of the crate's top, by `crate::` or by climbing there with `super::`.
fn imports(code: &str, depth: usize) -> Vec<Import> {
    let mut found = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        found.extend(first_names(&code[at + path.len()..]).into_iter().map(|name| (line_of(code, at), name)));
    }
    for (at, _) in code.match_indices("super::") {
        let is_later_step = code[..at].ends_with("super::");
        if is_later_step || code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let mut rest = &code[at..];
        let mut climbs = 0;
        while let Some(next) = rest.strip_prefix("super::") {
            (rest, climbs) = (next, climbs + 1);
        }
        if climbs >= depth + inline_depth(code, at) {
            found.extend(first_names(rest).into_iter().map(|name| (line_of(code, at), name)));
        }
    }
    found.sort();
    found
}

/// Returns every import of `src` that does not go down.
fn faults(src: &Path, shown: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files(src) {
        let module = module_of(&file, src);
        let is_rust = file.extension().is_some_and(|extension| extension == "rs");
        let is_test = module.iter().any(|part| part == "tests");
        if !is_rust || is_test || matches!(module[0].as_str(), "lib" | "main") {
            continue;
        }
        let (top, place) = (&module[0], PathBuf::from(shown).join(file.strip_prefix(src).unwrap()));
        let place = place.display();
        let Some(mine) = floor_of(top) else {
            faults.push(format!("{place}:1: {top} has no floor; give it one in tests/floors.rs"));
            continue;
        };
        let code = without_tests(&code_of(&fs::read_to_string(&file).unwrap()));
        for (line, name) in imports(&code, module.len()) {
            let wrong = match floor_of(&name) {
                _ if name == *top => continue,
                Some(floor) if floor < mine => continue,
                Some(floor) => format!("may not import {name} (floor {floor})"),
                None if name == "*" => "may not import everything".to_owned(),
                None => format!("imports {name}, which has no floor"),
            };
            faults.push(format!("{place}:{line}: {top} (floor {mine}) {wrong}"));
        }
    }
    faults
}

#[test]
fn every_import_goes_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let faults = faults(&src, "src");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn imports_that_do_not_go_down_are_caught() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "mysql/mod.rs",
        "use crate::{\n    error::Result,\n    flow::{Source, repo},\n    repo::Pack,\n};\n",
    );
    write("mysql/dump.rs", "use super::Dump; // crate::repo\nfn f() { super::super::jobs::run() }\n");
    write(
        "store/mod.rs",
        "use crate::*;\nconst TEXT: &str = \"crate::jobs\";\nfn f<'a>() { crate::policy::x() }\n",
    );
    write("error.rs", "mod inner {\n    use super::Failure;\n}\nuse super::clock::Clock;\n");
    write("flow/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::jobs;\n}\nuse crate::clock::Clock;\n");
    write("flow/tests.rs", "use crate::jobs;\n");
    write("helper.rs", "");
    write("names.rs", "/* crate::error */ fn f() { let _ = '\"'; crate::error::g(r#\"\"#) }\n");
    assert_eq!(
        faults(dir.path(), "src"),
        [
            "src/error.rs:4: error (floor 1) may not import clock (floor 1)",
            "src/helper.rs:1: helper has no floor; give it one in tests/floors.rs",
            "src/mysql/dump.rs:2: mysql (floor 4) may not import jobs (floor 5)",
            "src/mysql/mod.rs:1: mysql (floor 4) may not import repo (floor 4)",
            "src/names.rs:1: names (floor 0) may not import error (floor 1)",
            "src/store/mod.rs:1: store (floor 3) may not import everything",
            "src/store/mod.rs:3: store (floor 3) may not import policy (floor 3)",
        ]
    );
}
