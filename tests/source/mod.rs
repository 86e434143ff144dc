//! Just enough knowledge of Rust's text to check rules on it: where the files are, and what is code in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns all files under `dir`, sorted; what is built or hidden is left out.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_symlink() || name.starts_with('.') || name == "target" || name == "vendor" {
            continue;
        }
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Returns the same text with comments and the insides of literals blanked, byte for byte and line for line.
pub fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    // Only whole literals and comments were blanked, so what is left is still UTF-8.
    String::from_utf8(code).unwrap()
}

/// Returns where the comment or literal that begins at `at` ends; `at` itself when there is none.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment_length(rest);
    }
    if rest[0] == b'r' && (at == 0 || !is_word(bytes[at - 1]) || bytes[at - 1] == b'b') {
        let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let close = [vec![b'"'], vec![b'#'; hashes]].concat();
            let inside = &rest[2 + hashes..];
            let length = inside.windows(close.len()).position(|window| window == close);
            return at + length.map_or(rest.len(), |length| 2 + hashes + length + close.len());
        }
    }
    match rest[0] {
        b'"' => at + quoted_length(rest, b'"'),
        // `'a'` and `'\n'` are characters, `'a` is a lifetime; other than ASCII has more bytes.
        b'\'' if rest.get(1) == Some(&b'\\') => at + quoted_length(rest, b'\''),
        b'\'' => match rest[1..].iter().take(5).position(|byte| *byte == b'\'') {
            Some(length) if length == 1 || (length > 1 && rest[1] >= 0x80) => at + length + 2,
            _ => at,
        },
        _ => at,
    }
}

/// Returns how long a block comment is; they nest.
fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Returns how long a literal is that ends at the next `quote` without a backslash before it.
fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Returns where the block ends that opens at or after `at`: after its `}`, or after a `;` before any `{`.
pub fn block_end(code: &str, at: usize) -> usize {
    let mut depth = 0;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return offset + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// Returns the number of the line that `at` lies in, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}
