//! Triggers, routines and events, one by one: which is missing, extra or another one.

use std::collections::BTreeMap;

use super::super::sql::Script;
use crate::{error::Result, flow::Oddity};

/// The words that say what a `CREATE` makes.
const MADE: [&str; 5] = ["TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "PACKAGE"];

/// A program: what it is, and its name.
type Name = (String, String);

/// Counts the programs of a script; one that cannot be read counts as one.
pub(super) fn count(script: &[u8]) -> u64 {
    Script::parse(script, "a script").map_or(1, |script| programs(&script).len() as u64)
}

/// Returns how two scripts of programs of database `db` differ, program by program: `trigger im.t_x is missing`.
pub fn differing_programs(db: &str, stored: Option<&[u8]>, found: Option<&[u8]>) -> Result<Vec<String>> {
    let read = |bytes: Option<&[u8]>| match bytes {
        None => Ok(BTreeMap::new()),
        Some(bytes) => Script::parse(bytes, "a script of programs").map(|script| programs(&script)),
    };
    let (stored, found) = (read(stored)?, read(found)?);
    let mut odd = Vec::new();
    let mut tell = |(what, name): &Name, oddity: Oddity| {
        odd.push(format!("{} {db}.{name} {}", what.to_lowercase(), oddity.verb()).escape_debug().to_string());
    };
    for (name, program) in &stored {
        match found.get(name) {
            None => tell(name, Oddity::Missing),
            Some(other) if other != program => tell(name, Oddity::Different),
            Some(_) => {}
        }
    }
    found.keys().filter(|name| !stored.contains_key(*name)).for_each(|name| tell(name, Oddity::Extra));
    Ok(odd)
}

/// Returns the programs of a script, each with the statements that make the session before it.
fn programs(script: &Script) -> BTreeMap<Name, Vec<Vec<u8>>> {
    let mut programs = BTreeMap::new();
    let mut before = Vec::new();
    for statement in &script.statements {
        before.push(statement.clone());
        if let Some(name) = made(statement) {
            programs.insert(name, std::mem::take(&mut before));
        }
    }
    programs
}

/// Returns what a statement makes.
fn made(statement: &[u8]) -> Option<Name> {
    let mut words = Words { rest: statement };
    if !words.next()?.is("CREATE") {
        return None;
    }
    let mut what = None;
    while what.is_none() {
        let word = words.next()?;
        what = MADE.into_iter().find(|made| word.is(made)).map(str::to_owned);
    }
    let mut what = what?;
    let mut word = words.next()?;
    if word.is("BODY") && what == "PACKAGE" {
        what.push_str(" BODY");
        word = words.next()?;
    }
    if word.is("IF") {
        // IF NOT EXISTS
        words.next()?;
        words.next()?;
        word = words.next()?;
    }
    let mut name = word.text;
    while words.rest.first() == Some(&b'.') {
        words.rest = &words.rest[1..];
        name = words.next()?.text;
    }
    Some((what, name))
}

struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text.eq_ignore_ascii_case(keyword)
    }
}

/// The words of a statement, as far as its name; signs between them are passed over, but for the dot of a full name.
struct Words<'a> {
    rest: &'a [u8],
}

impl Words<'_> {
    fn next(&mut self) -> Option<Word> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
        loop {
            match *self.rest.first()? {
                quote @ (b'`' | b'"' | b'\'') => return self.quoted(quote),
                b'/' if self.rest.starts_with(b"/*") => {
                    let end = self.rest.windows(2).position(|two| two == b"*/")?;
                    self.rest = &self.rest[end + 2..];
                }
                byte if is_part(byte) => {
                    let end = self.rest.iter().position(|byte| !is_part(*byte)).unwrap_or(self.rest.len());
                    let text = String::from_utf8_lossy(&self.rest[..end]).into_owned();
                    self.rest = &self.rest[end..];
                    return Some(Word { text, quoted: false });
                }
                _ => self.rest = &self.rest[1..],
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Option<Word> {
        let mut text = Vec::new();
        let mut at = 1;
        loop {
            let byte = *self.rest.get(at)?;
            if byte == quote {
                if self.rest.get(at + 1) != Some(&quote) {
                    break;
                }
                at += 1;
            }
            text.push(byte);
            at += 1;
        }
        self.rest = &self.rest[at + 1..];
        Some(Word { text: String::from_utf8_lossy(&text).into_owned(), quoted: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(statements: &[&str]) -> Vec<u8> {
        let mut script = Script::default();
        for statement in statements {
            script.push(*statement);
        }
        script.to_bytes()
    }

    #[test]
    fn a_program_is_known_by_its_name() {
        for (statement, what, name) in [
            (
                "CREATE DEFINER=`root`@`%` TRIGGER t1 BEFORE INSERT ON x FOR EACH ROW SET NEW.a = 1",
                "TRIGGER",
                "t1",
            ),
            ("CREATE DEFINER=`TRIGGER`@`%` PROCEDURE `od``d`() SELECT 1", "PROCEDURE", "od`d"),
            (
                "create /* FUNCTION y */ function if not exists `im`.`twice`(n INT) RETURNS INT",
                "FUNCTION",
                "twice",
            ),
            ("CREATE DEFINER=\"a\"@\"%\" EVENT \"later\" ON SCHEDULE EVERY 1 DAY", "EVENT", "later"),
            ("CREATE OR REPLACE DEFINER=`a`@`%` PACKAGE BODY p AS END", "PACKAGE BODY", "p"),
        ] {
            assert_eq!(made(statement.as_bytes()), Some((what.to_owned(), name.to_owned())), "{statement}");
        }
        assert_eq!(made(b"ALTER DATABASE `im` COLLATE x"), None);
        assert_eq!(made(b"CREATE"), None);
    }

    #[test]
    fn each_program_that_differs_is_named() {
        let stored =
            script(&["SET x=1", "CREATE TRIGGER a B", "SET x=1", "CREATE TRIGGER b B", "CREATE TRIGGER c C"]);
        let found =
            script(&["SET x=1", "CREATE TRIGGER a B", "SET x=2", "CREATE TRIGGER b B", "CREATE TRIGGER d C"]);
        assert_eq!(
            differing_programs("im", Some(&stored), Some(&found)).unwrap(),
            ["trigger im.b differs", "trigger im.c is missing", "trigger im.d is extra"]
        );
        assert_eq!(differing_programs("im", Some(&stored), None).unwrap().len(), 3);
        assert_eq!(count(&stored), 3);
    }
}
