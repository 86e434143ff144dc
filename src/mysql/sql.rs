//! SQL as text: quoting names and values, and scripts that the stock client and we read alike.

use crate::error::{ExitCode, Failure, Result};

/// Quotes a name.
pub(super) fn ident(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Quotes a name inside a database.
pub(super) fn full(db: &str, name: &str) -> String {
    format!("{}.{}", ident(db), ident(name))
}

/// Quotes text, for sessions without `NO_BACKSLASH_ESCAPES` (all of ours).
pub(super) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\0' => out.push_str("\\0"),
            '\n' => out.push_str("\\n"),
            '\u{1a}' => out.push_str("\\Z"),
            _ => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// An account as SQL names it.
pub(super) fn account(user: &str, host: &str) -> String {
    format!("{}@{}", ident(user), ident(host))
}

/// Statements in order. As bytes it is what `mysql < file` reads; the delimiter is one that occurs in no
/// statement, so that reading it back needs no knowledge of SQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    /// The statements, without delimiters. Bytes, because each may be in a charset of its own.
    pub statements: Vec<Vec<u8>>,
}

impl Script {
    /// Adds a statement.
    pub fn push(&mut self, statement: impl Into<Vec<u8>>) {
        self.statements.push(statement.into());
    }

    /// Returns the script as the stock client reads it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let delimiter = self.delimiter();
        let mut out = format!("DELIMITER {delimiter}\n").into_bytes();
        for statement in &self.statements {
            out.extend_from_slice(statement);
            // A line of its own: a statement may end in a comment.
            out.extend_from_slice(format!("\n{delimiter}\n").as_bytes());
        }
        out.extend_from_slice(b"DELIMITER ;\n");
        out
    }

    fn delimiter(&self) -> String {
        let common = [";;", "$$", "//"].into_iter().map(str::to_owned);
        let unheard_of = (0_u32..).map(|n| format!(";;{n};;"));
        let absent = |mark: &String| self.statements.iter().all(|s| find(s, mark.as_bytes()).is_none());
        common.chain(unheard_of).find(absent).unwrap_or_else(|| unreachable!("the candidates do not end"))
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn parse(bytes: &[u8], path: &str) -> Result<Self> {
        Self::split(bytes)
            .ok_or_else(|| Failure::new(ExitCode::Damage, format!("entry `{path}` is not a whole script")))
    }

    fn split(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(b"DELIMITER ")?;
        let end = rest.iter().position(|b| *b == b'\n')?;
        let mut mark = vec![b'\n'];
        mark.extend_from_slice(&rest[..=end]);
        let mut rest = &rest[end + 1..];
        let mut statements = Vec::new();
        while let Some(at) = find(rest, &mark) {
            statements.push(rest[..at].to_vec());
            rest = &rest[at + mark.len()..];
        }
        (rest == b"DELIMITER ;\n").then_some(Self { statements })
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_values_are_quoted() {
        assert_eq!(ident("a`b"), "`a``b`");
        assert_eq!(full("a.b", "c"), "`a.b`.`c`");
        assert_eq!(literal("it's \\ a\nb\0"), "'it''s \\\\ a\\nb\\0'");
    }

    #[test]
    fn a_script_reads_as_the_stock_client_wants_it() {
        let mut script = Script::default();
        script.push("CREATE TABLE t (a INT)");
        assert_eq!(script.to_bytes(), b"DELIMITER ;;\nCREATE TABLE t (a INT)\n;;\nDELIMITER ;\n");
    }

    #[test]
    fn a_script_that_lost_its_end_is_damage() {
        let mut script = Script::default();
        script.push("SELECT 1");
        let bytes = script.to_bytes();
        for cut in 0..bytes.len() {
            assert_eq!(Script::parse(&bytes[..cut], "x").unwrap_err().exit(), ExitCode::Damage, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn every_script_survives(statements in prop::collection::vec("[;$/a\n]{0,12}", 0..5)) {
            let script = Script { statements: statements.into_iter().map(String::into_bytes).collect() };
            prop_assert_eq!(Script::parse(&script.to_bytes(), "x").unwrap(), script);
        }
    }
}
