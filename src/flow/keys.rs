//! A range of keys of one table, as a person writes it: `im.messages[100..200]`.
//!
//! Both ends belong to the range, as in the shell's `{100..200}`; `..<` leaves the upper end out. An end that is not
//! written is open. A key of several columns stands in parentheses: `[(7,'a')..(7,'m')]`; one with fewer values than
//! columns means all keys that begin with them.

use std::fmt;

use crate::error::{ExitCode, Failure, Result};

/// The values of a key, or of its first columns.
pub type KeyValues = Vec<String>;

/// A range of keys of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The table, as `--only` names it.
    pub table: String,
    /// The first key of the range; `None`: from the beginning.
    pub from: Option<KeyValues>,
    /// The last key of the range; `None`: to the end.
    pub to: Option<KeyValues>,
    /// Whether the upper end belongs to the range.
    pub with_end: bool,
}

impl KeyRange {
    /// Reads a pattern; `None` when it is a glob: one with two dots between brackets at its end is none, unless it is
    /// of an object or a file, or spells a bracket of a table's own name (`im.t[[]1..2]`).
    pub fn parse(pattern: &str) -> Result<Option<Self>> {
        let Some((table, inside)) = brackets(pattern) else { return Ok(None) };
        let wrong = |why: &str| {
            Failure::new(ExitCode::Usage, format!("pattern `{pattern}` is no range of keys: {why}")).hint(
                "Write 'db.table[100..200]', [100..], [..200], ['a'..'m'], [(7,1)..(7,9)]; ..< leaves the upper end out.",
            )
        };
        if table.contains(['*', '?', '[', '{']) || !table.contains('.') {
            return Err(wrong("a table must stand before it, as db.table"));
        }
        let mut reader = Reader { rest: inside };
        let from = reader.end().map_err(wrong)?;
        reader.take("..").then_some(()).ok_or_else(|| wrong("`..` must stand between its ends"))?;
        let with_end = !reader.take("<");
        let to = reader.end().map_err(wrong)?;
        if !reader.rest.is_empty() {
            return Err(wrong("something stands behind its upper end; quote what is no number or date"));
        }
        if from.is_none() && to.is_none() {
            return Err(wrong("it has no end; leave the brackets out for the whole table"));
        }
        if to.is_none() && !with_end {
            return Err(wrong("`..<` needs an upper end"));
        }
        Ok(Some(Self { table: table.to_owned(), from, to, with_end }))
    }

    /// Returns whether keys between these two may be in the range. Only whole numbers in the first column are
    /// compared: text is ordered as its server orders it.
    pub fn may_hold(&self, first: &str, last: &str) -> bool {
        let number = |text: &str| text.parse::<i128>().ok();
        let bound = |end: &Option<KeyValues>| end.as_ref().and_then(|key| number(key.first()?));
        let (Some(first), Some(last)) = (number(first), number(last)) else { return true };
        bound(&self.from).is_none_or(|from| last >= from) && bound(&self.to).is_none_or(|to| first <= to)
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |key: &KeyValues| key.join(", ");
        let upper = if self.with_end { "included" } else { "left out" };
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "from {} to {}, {upper}", shown(from), shown(to)),
            (Some(from), None) => write!(f, "from {}", shown(from)),
            (None, Some(to)) => write!(f, "up to {}, {upper}", shown(to)),
            (None, None) => write!(f, "all"),
        }
    }
}

/// Returns what stands before the brackets at the end and what between them, where that holds two dots. What has a
/// slash before them is no table, and `[[]` is a glob's way to write a bracket.
fn brackets(pattern: &str) -> Option<(&str, &str)> {
    let (table, inside) = pattern.strip_suffix(']')?.split_once('[')?;
    let is_range = inside.contains("..") && !inside.starts_with("[]") && !table.contains('/');
    is_range.then_some((table, inside))
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.rest.trim_start().strip_prefix(word);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// Reads one end of the range: nothing, a value, or several in parentheses.
    fn end(&mut self) -> std::result::Result<Option<KeyValues>, &'static str> {
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() || self.rest.starts_with("..") {
            return Ok(None);
        }
        if !self.take("(") {
            return Ok(Some(vec![self.value()?]));
        }
        let mut values = vec![self.value()?];
        while self.take(",") {
            values.push(self.value()?);
        }
        if self.take(")") { Ok(Some(values)) } else { Err("a parenthesis is not closed") }
    }

    fn value(&mut self) -> std::result::Result<String, &'static str> {
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let Some(quote) = quote else { return self.bare() };
        let (mut value, mut rest) = (String::new(), &self.rest[1..]);
        loop {
            let end = rest.find(quote).ok_or("a quote is not closed")?;
            value.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            // A doubled quote is one that belongs to the text.
            let Some(more) = rest.strip_prefix(quote) else { break };
            value.push(quote);
            rest = more;
        }
        self.rest = rest.trim_start();
        Ok(value)
    }

    fn bare(&mut self) -> std::result::Result<String, &'static str> {
        let stops = [self.rest.find(".."), self.rest.find([',', '(', ')', '\'', '"', '[', ']', '<'])];
        let end = stops.into_iter().flatten().min().unwrap_or(self.rest.len());
        let value = self.rest[..end].trim().to_owned();
        self.rest = &self.rest[end..];
        if value.is_empty() { Err("a value is missing") } else { Ok(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(pattern: &str) -> KeyRange {
        KeyRange::parse(pattern).unwrap().unwrap_or_else(|| panic!("{pattern} is a range"))
    }

    fn key(values: &[&str]) -> KeyValues {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn both_ends_belong_to_a_range_unless_it_says_otherwise() {
        let both = range("im.messages[100..200]");
        assert_eq!((both.table.as_str(), both.with_end), ("im.messages", true));
        assert_eq!((both.from.clone(), both.to.clone()), (Some(key(&["100"])), Some(key(&["200"]))));
        assert_eq!(both.to_string(), "from 100 to 200, included");
        assert_eq!(range("im.m[-5..<7]").to_string(), "from -5 to 7, left out");
        assert_eq!(range("im.m[..9]").to_string(), "up to 9, included");
        assert_eq!(range("im.m[2025-01-02 03:04..]").to_string(), "from 2025-01-02 03:04");
    }

    #[test]
    fn text_is_quoted_and_keys_of_several_columns_stand_in_parentheses() {
        let text = range("im.users['it''s..'..\"m]\"]");
        assert_eq!((text.from, text.to), (Some(key(&["it's.."])), Some(key(&["m]"]))));
        let both = range("im.t[(7, 'a,b')..<(8)]");
        assert_eq!((both.from, both.to, both.with_end), (Some(key(&["7", "a,b"])), Some(key(&["8"])), false));
    }

    #[test]
    fn a_class_of_a_glob_is_no_range() {
        for glob in
            ["im.t[0-9]", "im.t[.]x", "im.*", "im.t[!a]", "bucket/x[a..b]", "/var/x[1..2]", "im.t[[]1..2]"]
        {
            assert_eq!(KeyRange::parse(glob).unwrap(), None, "{glob}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused_with_the_reason() {
        for (pattern, why) in [
            ("im.t[..]", "no end"),
            ("im.*[1..2]", "a table must stand"),
            ("im[1..2]", "a table must stand"),
            ("im.t[1..2..3]", "behind its upper end"),
            ("im.t['a..b]", "not closed"),
            ("im.t[(1,2..3]", "not closed"),
            ("im.t[(1,)..3]", "missing"),
            ("im.t[1..<]", "needs an upper end"),
        ] {
            let failure = KeyRange::parse(pattern).unwrap_err();
            assert!(failure.one_line().contains(why), "{pattern}: {}", failure.one_line());
        }
    }

    #[test]
    fn only_whole_numbers_rule_a_piece_out() {
        let hundreds = range("im.t[100..200]");
        assert!(!hundreds.may_hold("1", "99") && !hundreds.may_hold("201", "900"));
        assert!(
            hundreds.may_hold("1", "100") && hundreds.may_hold("200", "201") && hundreds.may_hold("a", "b")
        );
        assert!(!range("im.t[(100,5)..]").may_hold("1", "99"));
        assert!(range("im.t['a'..]").may_hold("1", "2") && range("im.t[1.5..]").may_hold("0", "1"));
    }
}
