//! What every repository carries for a person without this program: a text and a script.

use crate::names::Key;

/// The text.
const RECOVERY: &str = include_str!("RECOVERY.md");
/// The script.
const RECOVER: &str = include_str!("recover.sh");

/// Returns the names and contents of the files.
pub fn files() -> [(&'static str, &'static str); 2] {
    [("RECOVERY.md", RECOVERY), ("recover.sh", RECOVER)]
}

/// Returns the key of a file.
pub fn key(name: &str) -> Key {
    Key::new(name).unwrap_or_else(|error| panic!("{error}"))
}
