//! The house style as a test: what a reader should never have to point out.
//!
//! Habits are shorter (functions of 40 lines, files of 500); these are the ends of patience.

#![expect(clippy::unwrap_used, reason = "what cannot be read fails the test")]

mod source;

use std::{fs, path::Path};

use source::{block_end, code_of, files, line_of};

const COLUMNS_MAX: usize = 120;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;

/// File names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 10] =
    ["util", "utils", "common", "helper", "helpers", "manager", "misc", "stuff", "imp", "types"];

/// Words that are left behind by accident; put together here so that this file does not hold them.
const LEFTOVERS: [&str; 8] = [
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("HA", "CK:"),
    concat!("db", "g!("),
    concat!("to", "do!("),
    concat!("unimplemented", "!("),
    concat!("<<<<", "<<< "),
    concat!(">>>>", ">>> "),
];

/// Endings of files that people write.
const WRITTEN: [&str; 12] =
    ["rs", "toml", "md", "sh", "yml", "yaml", "html", "css", "sql", "py", "service", "timer"];

/// Returns what is wrong with the tree under `root`.
fn faults(root: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files(root) {
        let shown = file.strip_prefix(root).unwrap().display().to_string();
        let extension = file.extension().map(|extension| extension.to_string_lossy().into_owned());
        // Scripts have no ending at all.
        if !extension.as_deref().is_none_or(|extension| WRITTEN.contains(&extension)) {
            continue;
        }
        let Ok(text) = fs::read_to_string(&file) else { continue };
        faults
            .extend(leftovers(&text).map(|(line, word)| format!("{shown}:{line}: `{word}` was left behind")));
        if extension.as_deref() == Some("rs") {
            let wrong = in_rust(&file, &text);
            faults.extend(wrong.into_iter().map(|(line, what)| format!("{shown}:{line}: {what}")));
        }
    }
    faults
}

fn leftovers(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    LEFTOVERS
        .into_iter()
        .flat_map(move |word| text.match_indices(word).map(move |(at, _)| (line_of(text, at), word)))
}

/// Returns what is wrong with one Rust file, and where.
fn in_rust(file: &Path, text: &str) -> Vec<(usize, String)> {
    let mut faults = Vec::new();
    let stem = file.file_stem().unwrap().to_string_lossy();
    let folder = file.parent().and_then(Path::file_name).map(|name| name.to_string_lossy());
    for name in [Some(stem), folder.filter(|_| file.ends_with("mod.rs"))].into_iter().flatten() {
        if EMPTY_NAMES.contains(&name.as_ref()) {
            faults.push((1, format!("`{name}` says nothing: name the file after what is inside")));
        }
    }
    if !text.starts_with("//! ") {
        faults.push((1, "the file does not open with `//!` and what it is for".to_owned()));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        faults.push((lines, format!("{lines} lines: split the file ({FILE_LINES_MAX} are the most)")));
    }
    let code = code_of(text);
    for (number, (line, code)) in text.lines().zip(code.lines()).enumerate() {
        let columns = line.chars().count();
        // A literal is as wide as what it shows; breaking a sentence would hide it from a search.
        let is_inside_literal = code.trim().is_empty() && !line.trim_start().starts_with("//");
        if columns > COLUMNS_MAX && !is_inside_literal && !line.contains('"') {
            faults.push((number + 1, format!("{columns} columns ({COLUMNS_MAX} are the most)")));
        }
        if line.ends_with([' ', '\t']) {
            faults.push((number + 1, "blanks at the end of the line".to_owned()));
        }
    }
    faults.extend(long_functions(&code));
    faults
}

fn long_functions(code: &str) -> Vec<(usize, String)> {
    let mut faults = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() || code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let (begin, end) = (line_of(code, at), line_of(code, block_end(code, at)));
        let lines = end - begin + 1;
        if lines > FUNCTION_LINES_MAX {
            faults.push((begin, format!("`{name}` has {lines} lines ({FUNCTION_LINES_MAX} are the most)")));
        }
    }
    faults
}

#[test]
fn the_tree_is_tidy() {
    let faults = faults(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn what_is_not_tidy_is_caught() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let body = "    call(\"}\");\n".repeat(FUNCTION_LINES_MAX - 1);
    write("src/a.rs", &format!("//! A.\n\nfn long() {{\n{body}}}\nfn short() {{}}\n"));
    write("src/b.rs", &format!("// B.\n// {}\nfn f();  \n", "é".repeat(COLUMNS_MAX - 2)));
    write("src/common/mod.rs", "//! C.\n");
    write("src/d.rs", &format!("//! D.\n{}", "\n".repeat(FILE_LINES_MAX)));
    write("docs/e.md", &format!("word\n{} later\n", LEFTOVERS[0]));
    write("docs/picture.svg", LEFTOVERS[0]);
    write("target/f.rs", LEFTOVERS[0]);
    assert_eq!(
        faults(dir.path()),
        [
            format!("docs/e.md:2: `{}` was left behind", LEFTOVERS[0]),
            "src/a.rs:3: `long` has 71 lines (70 are the most)".to_owned(),
            "src/b.rs:1: the file does not open with `//!` and what it is for".to_owned(),
            "src/b.rs:2: 121 columns (120 are the most)".to_owned(),
            "src/b.rs:3: blanks at the end of the line".to_owned(),
            "src/common/mod.rs:1: `common` says nothing: name the file after what is inside".to_owned(),
            "src/d.rs:801: 801 lines: split the file (800 are the most)".to_owned(),
        ]
    );
}
