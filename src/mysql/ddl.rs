//! Takes a `CREATE TABLE` apart, so that secondary indexes and foreign keys can come after the data.
//!
//! The text is the server's own (`SHOW CREATE TABLE`), so a reader that knows quotes, escapes and
//! parentheses is enough; what it does not know stays where it is.

use std::collections::BTreeSet;

/// A `CREATE TABLE` in the parts that a restore applies one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// The statement without what is deferred.
    pub create: String,
    /// Definitions of secondary indexes, to be added in one `ALTER TABLE`.
    pub indexes: Vec<String>,
    /// Definitions of indexes that the server builds only one at a time.
    pub single_indexes: Vec<String>,
    /// Definitions of foreign keys.
    pub foreign_keys: Vec<String>,
}

impl Parts {
    /// Returns what of the indexes and foreign keys the table that is there, `create`, has not got yet.
    pub fn missing_in(&self, create: &str) -> Self {
        let there: BTreeSet<String> = all(create).iter().filter_map(|definition| name(definition)).collect();
        let missing = |wanted: &[String]| -> Vec<String> {
            let lacks = |definition: &&String| name(definition).is_none_or(|name| !there.contains(&name));
            wanted.iter().filter(lacks).cloned().collect()
        };
        Self {
            create: self.create.clone(),
            indexes: missing(&self.indexes),
            single_indexes: missing(&self.single_indexes),
            foreign_keys: missing(&self.foreign_keys),
        }
    }
}

/// Returns the names of the columns, in their order.
pub(super) fn columns(create: &str) -> Vec<String> {
    let is_column = |definition: &&&str| matches!(kind(definition), Kind::Column { .. });
    all(create).iter().filter(is_column).filter_map(|definition| name(definition)).collect()
}

/// Returns whether the table has a primary key.
pub(super) fn has_primary_key(create: &str) -> bool {
    all(create).iter().any(|definition| kind(definition) == Kind::Primary)
}

/// Returns what stands behind the name of a table in its definition: a name may hold parentheses.
pub(super) fn body(create: &str) -> Option<&str> {
    let name = create.find('`')?;
    let rest = &create[quoted_end(create, name)..];
    Some(&rest[rest.find('(')?..])
}

/// Returns what a definition asks of a server: all but the name, the foreign keys, and how far the table has counted.
pub(super) fn demands(create: &str) -> Option<String> {
    const COUNTED: &str = " AUTO_INCREMENT=";
    let create = split(create, false).create;
    let (.., close) = frame(&create)?;
    let options = &create[close..];
    let table = body(&create[..close])?;
    let Some(at) = outside(options, COUNTED) else { return Some(format!("{table}{options}")) };
    let rest = &options[at + COUNTED.len()..];
    Some(format!("{table}{}{}", &options[..at], &rest[word(rest).len()..]))
}

/// Returns the engine that a table is kept by.
pub(super) fn engine(create: &str) -> &str {
    const ENGINE: &str = " ENGINE=";
    let options = frame(create).map_or("", |(.., close)| &create[close..]);
    outside(options, ENGINE).map_or("", |at| word(&options[at + ENGINE.len()..]))
}

fn all(create: &str) -> Vec<&str> {
    frame(create).map_or_else(Vec::new, |(open, commas, close)| definitions(create, open, &commas, close))
}

/// Returns the quoted name of a definition, with the word before it that tells keys from constraints and columns.
fn name(definition: &str) -> Option<String> {
    let from = definition.find('`')?;
    let word = if definition.starts_with("CONSTRAINT") {
        "CONSTRAINT "
    } else if from == 0 {
        ""
    } else {
        "KEY "
    };
    Some(format!("{word}{}", &definition[from..quoted_end(definition, from)]))
}

/// What one definition inside the parentheses is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Column { auto_increment: bool },
    Primary,
    Index,
    SingleIndex,
    ForeignKey,
    Other,
}

/// Takes the statement apart. `defer_indexes` is false for tables whose indexes must stay (not `InnoDB`'s).
pub(super) fn split(create: &str, defer_indexes: bool) -> Parts {
    let whole = |create: &str| Parts {
        create: create.to_owned(),
        indexes: Vec::new(),
        single_indexes: Vec::new(),
        foreign_keys: Vec::new(),
    };
    let Some((open, commas, close)) = frame(create) else {
        return whole(create);
    };
    let definitions = definitions(create, open, &commas, close);
    let defer_indexes = defer_indexes && can_defer(&definitions);
    let collation = table_collation(&create[close..]);
    let mut parts = whole("");
    let mut kept = Vec::new();
    for definition in definitions {
        let list = match kind(definition) {
            Kind::ForeignKey => &mut parts.foreign_keys,
            Kind::Index if defer_indexes => &mut parts.indexes,
            Kind::SingleIndex if defer_indexes => &mut parts.single_indexes,
            _ => {
                kept.push(inheriting(definition, collation));
                continue;
            }
        };
        list.push(definition.to_owned());
    }
    parts.create = format!("{}(\n  {}\n{}", &create[..open], kept.join(",\n  "), &create[close..]);
    parts
}

/// Returns the statement with its checks without names: those of two tables that go by other names would clash, as a
/// database of MySQL has each name once.
pub(super) fn with_nameless_checks(create: &str) -> String {
    let Some((open, commas, close)) = frame(create) else { return create.to_owned() };
    let nameless = |definition: &&str| {
        let named = definition.strip_prefix("CONSTRAINT ").filter(|rest| rest.starts_with('`'));
        let check = named.map(|rest| rest[quoted_end(rest, 0)..].trim_start());
        check.filter(|rest| rest.starts_with("CHECK")).unwrap_or(definition).to_owned()
    };
    let kept: Vec<String> = definitions(create, open, &commas, close).iter().map(nameless).collect();
    format!("{}(\n  {}\n{}", &create[..open], kept.join(",\n  "), &create[close..])
}

/// Returns the statement whole, for a reader that takes it in one piece, with each collation that a column only
/// inherits left to be inherited.
pub(super) fn whole(create: &str) -> String {
    let Some((open, commas, close)) = frame(create) else { return create.to_owned() };
    let collation = table_collation(&create[close..]);
    let definitions = definitions(create, open, &commas, close);
    let kept: Vec<String> = definitions.iter().map(|definition| inheriting(definition, collation)).collect();
    format!("{}(\n  {}\n{}", &create[..open], kept.join(",\n  "), &create[close..])
}

fn definitions<'a>(create: &'a str, open: usize, commas: &[usize], close: usize) -> Vec<&'a str> {
    let mut starts = vec![open + 1];
    starts.extend(commas.iter().map(|at| at + 1));
    let ends = commas.iter().copied().chain([close]);
    starts.iter().zip(ends).map(|(from, to)| create[*from..to].trim()).collect()
}

/// Returns the collation that a table's options name.
fn table_collation(options: &str) -> Option<&str> {
    const COLLATE: &str = " COLLATE=";
    outside(options, COLLATE).map(|at| word(&options[at + COLLATE.len()..]))
}

/// Returns a column's definition without a `COLLATE` that only repeats the table's.
///
/// `SHOW CREATE TABLE` prints the collation also of a column that inherits it, and gives it away by printing
/// no `CHARACTER SET` before it. Taken literally it would become the column's own, and every later
/// `SHOW CREATE TABLE` would read differently (MySQL 8 and later: `is_explicit_collation` in the dictionary).
fn inheriting(definition: &str, table: Option<&str>) -> String {
    const COLLATE: &str = " COLLATE ";
    let is_column = definition.starts_with('`') && outside(definition, " CHARACTER SET ").is_none();
    match outside(definition, COLLATE).filter(|_| is_column) {
        Some(at) if Some(word(&definition[at + COLLATE.len()..])) == table => {
            let end = at + COLLATE.len() + table.map_or(0, str::len);
            format!("{}{}", &definition[..at], &definition[end..])
        }
        _ => definition.to_owned(),
    }
}

/// Returns where `wanted` stands outside of quotes and parentheses.
fn outside(text: &str, wanted: &str) -> Option<usize> {
    let (bytes, mut at, mut depth) = (text.as_bytes(), 0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'`' | b'\'' | b'"' => {
                at = quoted_end(text, at);
                continue;
            }
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ if depth == 0 && bytes[at..].starts_with(wanted.as_bytes()) => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Returns the word that a text begins with.
fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// Returns whether the table works without its secondary indexes: it has a primary key, and the column
/// that counts up, if any, is the first of it.
fn can_defer(definitions: &[&str]) -> bool {
    let Some(primary) = definitions.iter().find(|d| kind(d) == Kind::Primary) else {
        return false;
    };
    let counter = definitions.iter().find(|d| kind(d) == Kind::Column { auto_increment: true });
    counter.is_none_or(|column| {
        let name = &column[..quoted_end(column, 0)];
        primary.split_once('(').is_some_and(|(_, list)| list.starts_with(name))
    })
}

fn kind(definition: &str) -> Kind {
    if definition.starts_with('`') {
        let rest = unquoted(definition);
        return Kind::Column { auto_increment: rest.contains(" AUTO_INCREMENT") };
    }
    let words = unquoted(definition);
    let mut words = words.split_whitespace();
    match words.next().unwrap_or_default() {
        "PRIMARY" => Kind::Primary,
        "KEY" | "INDEX" | "UNIQUE" => Kind::Index,
        "FULLTEXT" | "SPATIAL" | "VECTOR" => Kind::SingleIndex,
        "FOREIGN" => Kind::ForeignKey,
        // The name between CONSTRAINT and what it is was blanked out.
        "CONSTRAINT" if words.next() == Some("FOREIGN") => Kind::ForeignKey,
        _ => Kind::Other,
    }
}

/// Returns the text with all that stands in quotes blanked out.
fn unquoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        if matches!(c, '`' | '\'' | '"') {
            out.push(' ');
            at = quoted_end(text, at);
        } else {
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

/// Returns where the quoted text that begins at `from` ends.
pub(super) fn quoted_end(text: &str, from: usize) -> usize {
    from + quoted_len(&text.as_bytes()[from..])
}

/// Returns the length of the quoted text that `text` begins with; a doubled quote belongs to it.
pub(super) fn quoted_len(text: &[u8]) -> usize {
    let quote = text[0];
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' if quote != b'`' => at += 2,
            byte if byte == quote && text.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Finds the parenthesis that opens the list of definitions, the commas that divide it and its end.
fn frame(create: &str) -> Option<(usize, Vec<usize>, usize)> {
    let bytes = create.as_bytes();
    let (mut at, mut depth, mut open, mut commas) = (0, 0_usize, None, Vec::new());
    while at < bytes.len() {
        match bytes[at] {
            b'`' | b'\'' | b'"' => {
                at = quoted_end(create, at);
                continue;
            }
            b'(' => {
                depth += 1;
                open.get_or_insert(at);
            }
            b')' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some((open?, commas, at));
                }
            }
            b',' if depth == 1 => commas.push(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Returns whether a table's secondary indexes may come later: only `InnoDB`'s, and neither where history is kept nor
/// where another engine holds a copy, for such a table takes no changes.
pub(super) fn defers(create: &str) -> bool {
    let options = create.rsplit_once("\n)").map_or("", |(_, options)| options);
    options.contains("ENGINE=InnoDB")
        && !options.contains(" SECONDARY_ENGINE=")
        && !create.contains("WITH SYSTEM VERSIONING")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_a_table_stands_behind_its_name() {
        assert_eq!(body("CREATE TABLE `a(``b` (\n  `id` int\n)"), Some("(\n  `id` int\n)"));
        assert_eq!(body("CREATE TABLE `a("), None);
    }

    #[test]
    fn a_collation_that_a_column_inherits_is_not_made_its_own() {
        let create = "CREATE TABLE `t` (\n  `a` varchar(9) COLLATE utf8mb4_unicode_ci NOT NULL COMMENT \
            'x COLLATE utf8mb4_unicode_ci',\n  \
            `b` char(4) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci,\n  `c` text COLLATE \
                utf8mb4_bin,\n  \
            `d` enum('(','COLLATE') COLLATE utf8mb4_unicode_ci GENERATED ALWAYS AS ((`a` COLLATE \
                utf8mb4_unicode_ci)) VIRTUAL\n\
            ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci";
        let parts = split(create, true);
        assert_eq!(parts.create.matches("COLLATE utf8mb4_unicode_ci").count(), 3, "{}", parts.create);
        assert!(parts.create.contains("`a` varchar(9) NOT NULL COMMENT 'x COLLATE utf8mb4_unicode_ci'"));
        assert!(parts.create.contains("`b` char(4) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"));
        assert!(parts.create.contains("`c` text COLLATE utf8mb4_bin"));
        assert!(
            parts
                .create
                .contains("enum('(','COLLATE') GENERATED ALWAYS AS ((`a` COLLATE utf8mb4_unicode_ci))")
        );
    }

    const MESSAGES: &str = "CREATE TABLE `messages` (
  `id` bigint NOT NULL AUTO_INCREMENT COMMENT 'KEY (''a'', \\'b\\'), UNIQUE',
  `odd``name, (` varchar(10) DEFAULT '),(',
  `g` int GENERATED ALWAYS AS ((`id` + 1)) VIRTUAL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `u` (`odd``name, (`),
  KEY `FOREIGN KEY` (`id`,`g`),
  FULLTEXT KEY `ft` (`odd``name, (`),
  CONSTRAINT `FOREIGN` CHECK ((`id` > 0)),
  CONSTRAINT `fk` FOREIGN KEY (`g`) REFERENCES `other` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB COMMENT='(x)'
/*!50100 PARTITION BY HASH (`id`)
PARTITIONS 4 */";

    #[test]
    fn indexes_and_foreign_keys_are_deferred() {
        let parts = split(MESSAGES, true);
        assert_eq!(parts.indexes, ["UNIQUE KEY `u` (`odd``name, (`)", "KEY `FOREIGN KEY` (`id`,`g`)"]);
        assert_eq!(parts.single_indexes, ["FULLTEXT KEY `ft` (`odd``name, (`)"]);
        assert_eq!(
            parts.foreign_keys,
            ["CONSTRAINT `fk` FOREIGN KEY (`g`) REFERENCES `other` (`id`) ON DELETE CASCADE"]
        );
        assert!(parts.create.contains("CONSTRAINT `FOREIGN` CHECK ((`id` > 0))\n) ENGINE=InnoDB"));
        assert!(parts.create.ends_with("PARTITIONS 4 */"));
    }

    #[test]
    fn a_table_that_needs_its_indexes_keeps_them() {
        let parts = split(MESSAGES, false);
        assert!(parts.indexes.is_empty() && parts.single_indexes.is_empty());
        assert_eq!(parts.foreign_keys.len(), 1);
        let no_primary = "CREATE TABLE `t` (\n  `a` int,\n  UNIQUE KEY `a` (`a`)\n) ENGINE=InnoDB";
        assert_eq!(split(no_primary, true).create, no_primary);
        let counts_second = "CREATE TABLE `t` (\n  `a` int,\n  `b` int AUTO_INCREMENT,\n  PRIMARY KEY \
            (`a`),\n  KEY `b` (`b`)\n)";
        assert_eq!(split(counts_second, true).create, counts_second);
    }

    #[test]
    fn what_a_table_has_already_is_not_added_again() {
        let parts = split(MESSAGES, true);
        assert_eq!(parts.missing_in(&parts.create), parts);
        let half = parts.create.replace(
            "  PRIMARY KEY (`id`),",
            "  PRIMARY KEY (`id`),\n  KEY `FOREIGN KEY` (`id`,`g`),\n  KEY `ft` (`g`),\n  CONSTRAINT `u` CHECK (1),",
        );
        let missing = parts.missing_in(&half);
        assert_eq!(missing.indexes, ["UNIQUE KEY `u` (`odd``name, (`)"]);
        assert_eq!((missing.single_indexes.len(), missing.foreign_keys.len()), (0, 1));
        let none = parts.missing_in(MESSAGES);
        assert!(none.indexes.is_empty() && none.single_indexes.is_empty() && none.foreign_keys.is_empty());
    }

    #[test]
    fn a_check_may_go_without_its_name() {
        let nameless = with_nameless_checks(MESSAGES);
        assert_eq!(nameless, MESSAGES.replace("CONSTRAINT `FOREIGN` CHECK", "CHECK"));
    }

    #[test]
    fn columns_and_engine_are_read_from_the_text() {
        assert_eq!(columns(MESSAGES), ["`id`", "`odd``name, (`", "`g`"]);
        assert_eq!(
            (engine(MESSAGES), engine("CREATE TABLE `t` (\n  `a` int\n) ENGINE=MyISAM")),
            ("InnoDB", "MyISAM")
        );
        assert_eq!(engine("CREATE TABLE `t`"), "");
        assert!(has_primary_key(MESSAGES));
        assert!(!has_primary_key(
            "CREATE TABLE `t` (\n  `a` int COMMENT ',\n  PRIMARY KEY',\n  KEY `PRIMARY KEY` (`a`)\n)"
        ));
    }

    #[test]
    fn a_text_that_is_no_table_stays_whole() {
        for odd in ["", "CREATE TABLE", "CREATE TABLE `a` (", "x ' ("] {
            assert_eq!(split(odd, true).create, odd);
        }
    }
}
