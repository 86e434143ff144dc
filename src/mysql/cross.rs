//! What another product or version calls otherwise: definitions are written in the target's words where that loses
//! nothing, and what the target cannot hold is named.
//!
//! Only words are changed, never values. What is looked for stands outside of quotes and comments; the comments that a
//! server executes (`/*!80023 INVISIBLE */`) are code. A word that the target knows is left as it is, so that a
//! restore into the same product changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::Conn;

use super::{
    conn::{Flavor, Server, text},
    ddl::quoted_end,
    sql::Script,
};
use crate::{error::Result, flow::EntryMeta};

/// What a server knows, and how what it does not know is said there.
#[derive(Clone, Debug)]
pub(super) struct Dialect {
    pub flavor: Flavor,
    /// The version's first two numbers.
    pub version: (u32, u32),
    pub collations: BTreeSet<String>,
    pub charsets: BTreeSet<String>,
    pub engines: BTreeSet<String>,
    pub auth_plugins: BTreeSet<String>,
    /// What the person wants in the place of a collation.
    pub wanted: BTreeMap<String, String>,
}

/// What became of a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fitted {
    /// What was written otherwise, a line each.
    pub mapped: BTreeSet<String>,
    /// Why the target cannot hold it, a line each.
    pub unfit: BTreeSet<String>,
    /// Whether any statement was written otherwise.
    pub reworded: bool,
}

/// SQL modes that only say what the other product does anyway, or that concern only how it shows tables.
const MODES_WITHOUT_EFFECT: [&str; 6] = [
    "NO_AUTO_CREATE_USER",
    "NO_FIELD_OPTIONS",
    "NO_KEY_OPTIONS",
    "NO_TABLE_OPTIONS",
    "TIME_ROUND_FRACTIONAL",
    "TIME_TRUNCATE_FRACTIONAL",
];
/// SQL modes that one product has and the other has not.
const MYSQL_MODES: [&str; 1] = ["TIME_TRUNCATE_FRACTIONAL"];
const MARIADB_MODES: [&str; 16] = [
    "DB2",
    "EMPTY_STRING_IS_NULL",
    "IGNORE_BAD_TABLE_OPTIONS",
    "MAXDB",
    "MSSQL",
    "MYSQL323",
    "MYSQL40",
    "NO_AUTO_CREATE_USER",
    "NO_FIELD_OPTIONS",
    "NO_KEY_OPTIONS",
    "NO_TABLE_OPTIONS",
    "ORACLE",
    "POSTGRESQL",
    "SIMULTANEOUS_ASSIGNMENT",
    "TIME_ROUND_FRACTIONAL",
    "TRADITIONAL_ORACLE",
];

impl Dialect {
    /// Asks a server what it knows.
    pub async fn of(
        server: &Server,
        conn: &mut Conn,
        wanted: &BTreeMap<String, String>,
    ) -> Result<(Self, String)> {
        let (flavor, shown) = server.version(conn).await?;
        let number = shown.split(' ').nth(1).unwrap_or_default();
        let mut parts = number.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        let mut list = async |sql: &str| -> Result<BTreeSet<String>> {
            let rows = server.rows(conn, sql, "ask what the server knows").await?;
            Ok(rows.iter().filter_map(|row| text(row, 0)).collect())
        };
        let mut collations = list("SELECT collation_name FROM information_schema.collations").await?;
        if flavor == Flavor::Mariadb && version >= (10, 10) {
            // Collations of several charsets are listed without one.
            let full = "SELECT full_collation_name FROM \
                information_schema.collation_character_set_applicability";
            collations.extend(list(full).await?);
        }
        let mut charsets = list("SELECT character_set_name FROM information_schema.character_sets").await?;
        charsets.insert("binary".to_owned());
        let engines =
            list("SELECT engine FROM information_schema.engines WHERE support IN ('YES', 'DEFAULT')").await?;
        let plugins = "SELECT plugin_name FROM information_schema.plugins WHERE plugin_type = \
            'AUTHENTICATION' AND plugin_status = 'ACTIVE'";
        let auth_plugins = list(plugins).await?;
        let wanted = wanted.clone();
        Ok((Self { flavor, version, collations, charsets, engines, auth_plugins, wanted }, shown))
    }

    /// Writes every statement of a script in the server's words.
    pub fn fit_script(&self, meta: &EntryMeta, script: &mut Script) -> Fitted {
        let mut fitted = Fitted::default();
        let is_table = meta.text("kind") == Some("table");
        let has_engine = matches!(meta.text("kind"), Some("table" | "definition" | "sequence"));
        for statement in &mut script.statements {
            // A program in another charset keeps its bytes; the words looked for are ASCII in all of them.
            let Ok(mut text) = std::str::from_utf8(statement).map(str::to_owned) else { continue };
            text = self.fit_modes(&text, &mut fitted);
            text = self.fit_words(&text, has_engine, &mut fitted);
            if is_table && text.starts_with("CREATE TABLE") {
                text = self.fit_table(&text, &mut fitted);
            }
            if text.as_bytes() != statement.as_slice() {
                *statement = text.into_bytes();
                fitted.reworded = true;
            }
        }
        if meta.text("kind") == Some("sequence") && self.flavor == Flavor::Mysql {
            fitted.unfit.insert("MySQL has no sequences".to_owned());
        }
        fitted
    }

    /// Returns what a collation is called on the server; `None` when nothing there is like it.
    pub fn collation(&self, name: &str) -> Option<String> {
        if let Some(wanted) = self.wanted.get(name) {
            return self.collations.contains(wanted).then(|| wanted.clone());
        }
        if self.collations.contains(name) {
            return Some(name.to_owned());
        }
        likely(name).into_iter().find(|like| self.collations.contains(like))
    }

    /// Replaces collations and, in a table, engines; notes charsets that are not there. A word is one of these only
    /// directly behind the word that says so: `charset(x)` is a function, and `engine` may be a column of a program.
    fn fit_words(&self, sql: &str, is_table: bool, fitted: &mut Fitted) -> String {
        let mut out = String::with_capacity(sql.len());
        let (mut done, mut before, mut last, mut last_end) = (0, "", "", 0);
        for (from, to) in words(sql) {
            let word = &sql[from..to];
            let is = |text: &str, wanted: &str| text.eq_ignore_ascii_case(wanted);
            let gap = sql[last_end..from].trim();
            let is_named = matches!(gap, "" | "=" | ":=")
                && !["DEFAULT", "LIKE", "WHERE"].iter().any(|other| is(word, other));
            let after_collate = ["COLLATE", "collation_connection", "collation_database"]
                .iter()
                .any(|wanted| is(last, wanted));
            let after_charset = is(last, "CHARSET")
                || is(last, "character_set_client")
                || (is(last, "SET") && is(before, "CHARACTER"));
            let new = if !is_named {
                None
            } else if after_collate {
                self.fit_collation(&word.to_lowercase(), fitted)
            } else if after_charset && !self.charsets.contains(&word.to_lowercase()) && !is(word, "utf8") {
                fitted.unfit.insert(format!("the server does not know charset {word}"));
                None
            } else if is_table && gap == "=" && is(last, "ENGINE") {
                self.fit_engine(word, fitted)
            } else {
                None
            };
            if let Some(new) = new {
                out.push_str(&sql[done..from]);
                out.push_str(&new);
                done = to;
            }
            (before, last, last_end) = (last, word, to);
        }
        out.push_str(&sql[done..]);
        out
    }

    fn fit_collation(&self, name: &str, fitted: &mut Fitted) -> Option<String> {
        match self.collation(name) {
            Some(same) if same == name => None,
            Some(other) => {
                let padding = match (pads(name), pads(&other)) {
                    (true, false) => ": spaces at the end of a text count from now on",
                    (false, true) => ": texts that differ by spaces at their end only are equal from now on",
                    _ => "",
                };
                fitted.mapped.insert(format!("collation {name} becomes {other}{padding}"));
                Some(other)
            }
            None => {
                fitted.unfit.insert(match self.wanted.get(name) {
                    Some(wanted) => format!("the server does not know collation {wanted} either"),
                    None => format!("the server does not know collation {name} (--map-collation {name}=…)"),
                });
                None
            }
        }
    }

    fn fit_engine(&self, name: &str, fitted: &mut Fitted) -> Option<String> {
        if self.engines.iter().any(|engine| engine.eq_ignore_ascii_case(name)) {
            return None;
        }
        // Engines that only keep rows: InnoDB keeps them too.
        if ["Aria", "MyISAM", "ROCKSDB", "TokuDB", "MEMORY"].contains(&name) {
            fitted.mapped.insert(format!("engine {name} becomes InnoDB"));
            return Some("InnoDB".to_owned());
        }
        fitted.unfit.insert(format!("the server has no engine {name}"));
        None
    }

    /// Leaves out SQL modes that the server does not know, where they have no effect there.
    fn fit_modes(&self, sql: &str, fitted: &mut Fitted) -> String {
        const MODE: &str = "SESSION sql_mode='";
        let Some((head, rest)) = sql.split_once(MODE).filter(|(head, _)| head.starts_with("SET ")) else {
            return sql.to_owned();
        };
        let Some((modes, rest)) = rest.split_once('\'') else { return sql.to_owned() };
        let unknown: &[&str] = match self.flavor {
            Flavor::Mysql => &MARIADB_MODES,
            Flavor::Mariadb => &MYSQL_MODES,
        };
        let mut kept = Vec::new();
        for mode in modes.split(',') {
            if !unknown.contains(&mode) {
                kept.push(mode);
            } else if MODES_WITHOUT_EFFECT.contains(&mode) {
                fitted.mapped.insert(format!("SQL mode {mode} is left out: it says nothing there"));
            } else {
                fitted.unfit.insert(format!("the server has no SQL mode {mode}"));
            }
        }
        format!("{head}{MODE}{}'{rest}", kept.join(","))
    }

    fn fit_table(&self, create: &str, fitted: &mut Fitted) -> String {
        match self.flavor {
            Flavor::Mysql => fit_for_mysql(create, fitted),
            Flavor::Mariadb => fit_for_mariadb(create, self.version, fitted),
        }
    }

    /// Returns whether a statement about an account is written in the other product's words.
    pub fn is_foreign(&self, statement: &str) -> bool {
        let code = blanked(statement);
        let words: &[&str] = match self.flavor {
            Flavor::Mysql => &[" IDENTIFIED BY PASSWORD ", " IDENTIFIED VIA "],
            Flavor::Mariadb => &[" PASSWORD HISTORY ", " PASSWORD EXPIRE DEFAULT ACCOUNT "],
        };
        words.iter().any(|word| code.contains(word))
    }

    /// Returns the login method of a `CREATE USER` that the server has not.
    pub fn unknown_login(&self, statement: &str) -> Option<String> {
        let is_known = |plugin: &str| self.auth_plugins.iter().any(|one| one.eq_ignore_ascii_case(plugin));
        logins(statement).into_iter().find(|plugin| !is_known(plugin))
    }
}

/// Returns the login methods that a `CREATE USER` names: one in MySQL's words (`WITH 'a' AS …`), one or more in
/// MariaDB's (`VIA a USING '…' OR b`).
fn logins(statement: &str) -> Vec<String> {
    const WITH: &str = " IDENTIFIED WITH ";
    const VIA: &str = " IDENTIFIED VIA ";
    let code = blanked(statement);
    if let Some(at) = code.find(WITH) {
        let quoted = statement[at + WITH.len()..].strip_prefix('\'');
        return quoted.and_then(|rest| rest.split('\'').next()).map(str::to_owned).into_iter().collect();
    }
    let Some(at) = code.find(VIA) else { return Vec::new() };
    let mut words = code[at + VIA.len()..].split_whitespace().filter(|word| *word != "USING");
    let mut all: Vec<String> = words.next().map(str::to_owned).into_iter().collect();
    while words.next() == Some("OR") {
        all.extend(words.next().map(str::to_owned));
    }
    all
}

/// Returns whether a collation takes spaces at the end of a text for nothing (`PAD SPACE`), by its name: MySQL's newer
/// ones and those that say so do not.
fn pads(collation: &str) -> bool {
    !collation.contains("_0900_") && !collation.contains("_nopad_") && collation != "binary"
}

/// Returns what is like a collation in another product, the best first.
///
/// MySQL's 0900 collations do not pad with spaces, and so the counterparts are those without padding: `a` and `a `
/// stay two keys.
fn likely(name: &str) -> Vec<String> {
    let list: &[&str] = match name {
        "utf8mb4_0900_ai_ci" => &["utf8mb4_uca1400_nopad_ai_ci", "utf8mb4_unicode_520_nopad_ci"],
        "utf8mb4_0900_as_ci" => &["utf8mb4_uca1400_nopad_as_ci"],
        "utf8mb4_0900_as_cs" => &["utf8mb4_uca1400_nopad_as_cs"],
        "utf8mb4_0900_bin" => &["utf8mb4_nopad_bin"],
        "utf8mb4_nopad_bin" => &["utf8mb4_0900_bin"],
        "utf8mb4_uca1400_ai_ci" | "utf8mb4_uca1400_nopad_ai_ci" => {
            &["utf8mb4_0900_ai_ci", "utf8mb4_unicode_520_ci"]
        }
        "utf8mb4_uca1400_as_ci" | "utf8mb4_uca1400_nopad_as_ci" => &["utf8mb4_0900_as_ci"],
        "utf8mb4_uca1400_as_cs" | "utf8mb4_uca1400_nopad_as_cs" => &["utf8mb4_0900_as_cs"],
        "utf8mb4_unicode_520_nopad_ci" => &["utf8mb4_0900_ai_ci"],
        "utf8mb3_uca1400_ai_ci" => &["utf8mb3_unicode_520_ci", "utf8_unicode_520_ci"],
        _ => &[],
    };
    let mut like: Vec<String> = list.iter().map(|one| (*one).to_owned()).collect();
    // Older servers write utf8 for utf8mb3.
    like.extend(name.strip_prefix("utf8mb3_").map(|rest| format!("utf8_{rest}")));
    like.extend(name.strip_prefix("utf8_").map(|rest| format!("utf8mb3_{rest}")));
    like
}

fn fit_for_mysql(create: &str, fitted: &mut Fitted) -> String {
    let code = blanked(create);
    for (word, why) in [
        ("WITH SYSTEM VERSIONING", "MySQL keeps no history of rows (system versioning)"),
        ("PERIOD FOR ", "MySQL has no periods"),
        (" PAGE_COMPRESSED", "MySQL has no page_compressed"),
        (" WITHOUT OVERLAPS", "MySQL has no periods"),
        ("VECTOR KEY", "MySQL has no vector indexes"),
        (" REF_SYSTEM_ID=", "MySQL writes the reference system of a geometry otherwise"),
    ] {
        if code.contains(word) {
            fitted.unfit.insert(why.to_owned());
        }
    }
    for line in code.lines().map(str::trim_start) {
        let kind = line.trim_start_matches(['`', ' ']).split([' ', '(', ',']).next().unwrap_or_default();
        if line.starts_with('`') && ["uuid", "inet4", "inet6", "xmltype"].contains(&kind) {
            fitted.unfit.insert(format!("MySQL has no type {}", kind.to_uppercase()));
        }
    }
    if code.to_ascii_lowercase().contains("nextval(") {
        fitted.unfit.insert("MySQL has no sequences".to_owned());
    }
    // JSON of MariaDB is a text whose column checks itself; a check of the table's own is no JSON.
    let is_json = |line: &str| {
        line.starts_with('`') && line.contains(" longtext ") && line.contains(" CHECK (json_valid(`")
    };
    if code.lines().map(str::trim_start).any(is_json) {
        fitted.mapped.insert("JSON stays text with a check, as MariaDB keeps it".to_owned());
    }
    let mut out = wrap_defaults(create, &code);
    for option in [" TRANSACTIONAL=", " PAGE_CHECKSUM="] {
        out = without_option(&out, option);
    }
    without_word(&out, " IGNORED", " INVISIBLE", true)
}

fn fit_for_mariadb(create: &str, version: (u32, u32), fitted: &mut Fitted) -> String {
    let code = blanked(create);
    for (word, why) in [
        ("/*!80016 NOT ENFORCED */", "MariaDB enforces every check"),
        (" ENGINE_ATTRIBUTE=", "MariaDB has no engine attributes"),
        (" SECONDARY_ENGINE=", "MariaDB has no secondary engines"),
    ] {
        if code.contains(word) {
            fitted.unfit.insert(why.to_owned());
        }
    }
    let has_expression = |line: &str| {
        let is_key = ["KEY ", "UNIQUE KEY "].iter().any(|word| line.starts_with(word));
        is_key && (line.contains("((") || line.contains(",("))
    };
    if code.lines().map(str::trim_start).any(has_expression) {
        fitted.unfit.insert("MariaDB has no indexes on expressions".to_owned());
    }
    let has_vector = |line: &str| line.starts_with('`') && line.contains(" vector(");
    if version < (11, 7) && code.lines().map(str::trim_start).any(has_vector) {
        fitted.unfit.insert("this MariaDB has no type VECTOR".to_owned());
    }
    let is_json = |line: &str| line.starts_with('`') && line.contains(" json");
    if code.lines().map(str::trim_start).any(is_json) {
        fitted.mapped.insert("JSON becomes text with a check, as MariaDB keeps it".to_owned());
    }
    let mut out = create.to_owned();
    for (what, from, to) in
        [("index", " /*!80000 INVISIBLE */", " IGNORED"), ("column", " /*!80023 INVISIBLE */", " INVISIBLE")]
    {
        if code.contains(from) {
            fitted.mapped.insert(format!("an invisible {what} is written as MariaDB does"));
            out = replace_code(&out, from, to);
        }
    }
    if code.contains("/*!80003 SRID ") {
        fitted
            .mapped
            .insert("the reference system of a column (SRID) is not kept; each value keeps its own".into());
    }
    if create.ends_with("/*!80016 ENCRYPTION='Y' */") {
        fitted.mapped.insert("the table's encryption is the server's own matter".to_owned());
    }
    without_not_null(&out)
}

/// Wraps a call in parentheses where `MariaDB` writes a default without them: `DEFAULT uuid()`.
fn wrap_defaults(create: &str, code: &str) -> String {
    const DEFAULT: &str = " DEFAULT ";
    let (mut out, mut done) = (String::with_capacity(create.len()), 0);
    for (at, _) in code.match_indices(DEFAULT) {
        let from = at + DEFAULT.len();
        let name = code[from..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let calls = !name.is_empty() && code[from + name.len()..].starts_with('(');
        if !calls || from < done || name.eq_ignore_ascii_case("current_timestamp") {
            continue;
        }
        let end = closing(code, from + name.len());
        out.push_str(&create[done..from]);
        out.push('(');
        out.push_str(&create[from..end]);
        out.push(')');
        done = end;
    }
    out.push_str(&create[done..]);
    out
}

/// Returns where the parenthesis that opens at `from` is closed.
fn closing(code: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' => depth += 1,
            b')' if depth <= 1 => return at + 1,
            b')' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Takes `NOT NULL` off generated columns, where `MariaDB` knows no such word; the values are the same.
fn without_not_null(create: &str) -> String {
    let code = blanked(create);
    let (mut out, mut done) = (String::with_capacity(create.len()), 0);
    for word in [" VIRTUAL NOT NULL", " STORED NOT NULL"] {
        for (at, _) in code.match_indices(word) {
            let from = at + word.len() - " NOT NULL".len();
            if from < done {
                continue;
            }
            out.push_str(&create[done..from]);
            done = at + word.len();
        }
    }
    out.push_str(&create[done..]);
    out
}

/// Takes an option with a number off the table.
fn without_option(create: &str, option: &str) -> String {
    let code = blanked(create);
    let Some(at) = code.rfind(option) else { return create.to_owned() };
    let rest = &code[at + option.len()..];
    let end = at + option.len() + rest.find([' ', '\n']).unwrap_or(rest.len());
    format!("{}{}", &create[..at], &create[end..])
}

/// Replaces a word behind the keys of a table.
fn without_word(create: &str, word: &str, new: &str, only_keys: bool) -> String {
    let lines = create.split('\n').map(|line| {
        let code = blanked(line);
        let is_key = ["KEY ", "UNIQUE KEY ", "FULLTEXT KEY ", "SPATIAL KEY "]
            .iter()
            .any(|key| code.trim_start().starts_with(key));
        match code.rfind(word).filter(|_| is_key || !only_keys) {
            Some(at) => format!("{}{new}{}", &line[..at], &line[at + word.len()..]),
            None => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Replaces text that stands outside of quotes.
fn replace_code(sql: &str, from: &str, to: &str) -> String {
    let code = blanked(sql);
    let (mut out, mut done) = (String::with_capacity(sql.len()), 0);
    for (at, _) in code.match_indices(from) {
        out.push_str(&sql[done..at]);
        out.push_str(to);
        done = at + from.len();
    }
    out.push_str(&sql[done..]);
    out
}

/// Returns the text with all that stands between quotes blanked out, byte for byte: places in one are places in the
/// other. The quotes of names stay.
fn blanked(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut at = 0;
    while at < sql.len() {
        let byte = sql.as_bytes()[at];
        if matches!(byte, b'`' | b'\'' | b'"') {
            let end = quoted_end(sql, at).min(sql.len());
            let inside = end.saturating_sub(at + 1);
            let mark = if byte == b'`' { '`' } else { ' ' };
            out.push(mark);
            out.extend(std::iter::repeat_n(' ', inside));
            at = end;
        } else {
            let c = sql[at..].chars().next().unwrap_or(' ');
            if c.is_ascii() {
                out.push(c);
            } else {
                out.extend(std::iter::repeat_n(' ', c.len_utf8()));
            }
            at += c.len_utf8();
        }
    }
    out
}

/// Returns where the words outside of quotes and comments are.
fn words(sql: &str) -> Vec<(usize, usize)> {
    let bytes = sql.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    while at < bytes.len() {
        let rest = &bytes[at..];
        at = if matches!(bytes[at], b'`' | b'\'' | b'"') {
            quoted_end(sql, at)
        } else if rest.starts_with(b"/*!") || rest.starts_with(b"/*M!") {
            // What is inside is executed; the version in front, if there is one, is no word.
            let mark = if rest[2] == b'M' { 4 } else { 3 };
            let digits = rest.iter().skip(mark).take_while(|byte| byte.is_ascii_digit()).count();
            at + mark + digits
        } else if rest.starts_with(b"/*") {
            sql[at..].find("*/").map_or(sql.len(), |end| at + end + 2)
        } else if rest.starts_with(b"-- ") || rest.starts_with(b"#") {
            sql[at..].find('\n').map_or(sql.len(), |end| at + end)
        } else if is_word(bytes[at]) {
            let length = rest.iter().take_while(|byte| is_word(**byte)).count();
            found.push((at, at + length));
            at + length
        } else {
            at + 1
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::Stage, names::EntryPath};

    fn dialect(flavor: Flavor) -> Dialect {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let collations = match flavor {
            Flavor::Mysql => set(&["utf8mb4_0900_ai_ci", "utf8mb4_bin", "latin1_swedish_ci"]),
            Flavor::Mariadb => set(&["utf8mb4_uca1400_nopad_ai_ci", "utf8mb4_bin", "latin1_swedish_ci"]),
        };
        Dialect {
            flavor,
            version: if flavor == Flavor::Mysql { (9, 7) } else { (10, 11) },
            collations,
            charsets: set(&["utf8mb4", "latin1", "binary"]),
            engines: set(&["InnoDB", "CSV"]),
            auth_plugins: set(&["caching_sha2_password"]),
            wanted: BTreeMap::new(),
        }
    }

    fn fit(dialect: &Dialect, kind: &str, sql: &str) -> (String, Vec<String>, Vec<String>) {
        let meta = EntryMeta::new(EntryPath::new("x").unwrap(), Stage::Schema, "d.t").with("kind", kind);
        let mut script = Script::default();
        script.push(sql);
        let fitted = dialect.fit_script(&meta, &mut script);
        let text = String::from_utf8(script.statements.pop().unwrap()).unwrap();
        (text, fitted.mapped.into_iter().collect(), fitted.unfit.into_iter().collect())
    }

    const MYSQL: &str = "CREATE TABLE `t` (
  `id` int NOT NULL COMMENT 'COLLATE utf8mb4_0900_ai_ci',
  `a` varchar(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci DEFAULT NULL,
  `h` int DEFAULT NULL /*!80023 INVISIBLE */,
  `j` json DEFAULT NULL,
  `g` int GENERATED ALWAYS AS ((`id` + 1)) VIRTUAL NOT NULL,
  PRIMARY KEY (`id`),
  KEY `i` (`a`) /*!80000 INVISIBLE */
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_ai_ci";

    #[test]
    fn a_table_of_mysql_is_written_in_the_words_of_mariadb() {
        let (text, mapped, unfit) = fit(&dialect(Flavor::Mariadb), "table", MYSQL);
        assert_eq!(unfit, [""; 0]);
        insta::assert_snapshot!(text, @r"
        CREATE TABLE `t` (
          `id` int NOT NULL COMMENT 'COLLATE utf8mb4_0900_ai_ci',
          `a` varchar(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_uca1400_nopad_ai_ci DEFAULT NULL,
          `h` int DEFAULT NULL INVISIBLE,
          `j` json DEFAULT NULL,
          `g` int GENERATED ALWAYS AS ((`id` + 1)) VIRTUAL,
          PRIMARY KEY (`id`),
          KEY `i` (`a`) IGNORED
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_uca1400_nopad_ai_ci
        ");
        assert_eq!(mapped.len(), 4, "{mapped:?}");
    }

    #[test]
    fn a_table_of_mariadb_is_written_in_the_words_of_mysql() {
        let create = "CREATE TABLE `t` (
  `id` int(11) NOT NULL,
  `u` char(36) DEFAULT uuid(),
  `at` timestamp NOT NULL DEFAULT current_timestamp() ON UPDATE current_timestamp(),
  `s` varchar(20) DEFAULT concat('a)',lower('B')) COMMENT ' DEFAULT uuid()',
  `j` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`j`)),
  PRIMARY KEY (`id`),
  KEY `s` (`s`) IGNORED
) ENGINE=Aria DEFAULT CHARSET=latin1 COLLATE=latin1_swedish_ci PAGE_CHECKSUM=1 COMMENT='PAGE_CHECKSUM=1'";
        let (text, mapped, unfit) = fit(&dialect(Flavor::Mysql), "table", create);
        assert_eq!(unfit, [""; 0]);
        insta::assert_snapshot!(text, @r"
        CREATE TABLE `t` (
          `id` int(11) NOT NULL,
          `u` char(36) DEFAULT (uuid()),
          `at` timestamp NOT NULL DEFAULT current_timestamp() ON UPDATE current_timestamp(),
          `s` varchar(20) DEFAULT (concat('a)',lower('B'))) COMMENT ' DEFAULT uuid()',
          `j` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`j`)),
          PRIMARY KEY (`id`),
          KEY `s` (`s`) INVISIBLE
        ) ENGINE=InnoDB DEFAULT CHARSET=latin1 COLLATE=latin1_swedish_ci COMMENT='PAGE_CHECKSUM=1'
        ");
        assert_eq!(mapped.len(), 2, "{mapped:?}");
    }

    #[test]
    fn what_the_same_product_wrote_stays_as_it_is() {
        let (text, mapped, unfit) = fit(&dialect(Flavor::Mysql), "table", MYSQL);
        assert_eq!((text.as_str(), mapped.len(), unfit.len()), (MYSQL, 0, 0));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (flavor, sql, why) in [
            (Flavor::Mysql, "CREATE TABLE `t` (\n  `u` uuid NOT NULL\n)", "type UUID"),
            (Flavor::Mysql, "CREATE TABLE `t` (\n  `a` int\n) WITH SYSTEM VERSIONING", "history"),
            (Flavor::Mysql, "CREATE TABLE `t` (\n  `a` int DEFAULT nextval(`d`.`s`)\n)", "sequences"),
            (Flavor::Mysql, "CREATE TABLE `t` (\n  `a` int\n) ENGINE=SPIDER", "no engine SPIDER"),
            (Flavor::Mariadb, "CREATE TABLE `t` (\n  `a` int,\n  KEY `k` (((`a` + 1)))\n)", "expressions"),
            (Flavor::Mariadb, "CREATE TABLE `t` (\n  `v` vector(3) NOT NULL\n)", "VECTOR"),
            (Flavor::Mariadb, "CREATE TABLE `t` (\n  `a` char(1) CHARACTER SET gb18030\n)", "gb18030"),
            (
                Flavor::Mariadb,
                "CREATE TABLE `t` (\n  `a` char(1) COLLATE utf8mb4_zh_0900_as_cs\n)",
                "zh_0900",
            ),
            (Flavor::Mariadb, "CREATE TABLE `t` (\n  CHECK ((`a` > 1)) /*!80016 NOT ENFORCED */\n)", "check"),
        ] {
            let (_, _, unfit) = fit(&dialect(flavor), "table", sql);
            assert!(unfit.len() == 1 && unfit[0].contains(why), "{sql}: {unfit:?}");
        }
        let plain = "CREATE TABLE `t` (\n  `uuid` int COMMENT 'uuid, KEY ((', `vector` int\n)";
        for flavor in [Flavor::Mysql, Flavor::Mariadb] {
            assert_eq!(fit(&dialect(flavor), "table", plain).2, [""; 0]);
        }
    }

    #[test]
    fn a_person_may_say_which_collation_it_becomes() {
        let mut dialect = dialect(Flavor::Mariadb);
        dialect.wanted.insert("utf8mb4_zh_0900_as_cs".into(), "utf8mb4_bin".into());
        let sql = "CREATE TABLE `t` (\n  `a` char(1) COLLATE utf8mb4_zh_0900_as_cs\n)";
        let (text, mapped, _) = fit(&dialect, "table", sql);
        assert!(text.contains("COLLATE utf8mb4_bin"));
        let told = "collation utf8mb4_zh_0900_as_cs becomes utf8mb4_bin: texts that differ by spaces at their end only \
                    are equal from now on";
        assert_eq!(mapped, [told]);
    }

    #[test]
    fn sessions_of_programs_are_mapped_and_their_text_is_not() {
        let mysql = dialect(Flavor::Mysql);
        let sql = "SET SESSION sql_mode='STRICT_TRANS_TABLES,NO_AUTO_CREATE_USER', SESSION \
            collation_connection=utf8mb4_uca1400_ai_ci";
        let (text, mapped, unfit) = fit(&mysql, "routines", sql);
        assert_eq!(
            text,
            "SET SESSION sql_mode='STRICT_TRANS_TABLES', SESSION collation_connection=utf8mb4_0900_ai_ci"
        );
        assert_eq!((mapped.len(), unfit.len()), (2, 0));
        let (_, _, unfit) = fit(&mysql, "routines", "SET SESSION sql_mode='ORACLE'");
        assert_eq!(unfit, ["the server has no SQL mode ORACLE"]);
        let body = "CREATE PROCEDURE p() SELECT 'COLLATE x' /* COLLATE x */ -- COLLATE x\n";
        assert_eq!(fit(&mysql, "routines", body).0, body);
        let hidden = "CREATE TABLE `t` (\n  `a` char(1) /*!COLLATE utf8mb4_uca1400_ai_ci */\n)";
        let (text, mapped, _) = fit(&mysql, "table", hidden);
        assert!(text.contains("/*!COLLATE utf8mb4_0900_ai_ci */"), "{text}");
        assert!(mapped[0].ends_with("spaces at the end of a text count from now on"), "{mapped:?}");
        let own = "CREATE TABLE `t` (\n  `a` text,\n  CONSTRAINT `c` CHECK (json_valid(`a`))\n)";
        assert_eq!(fit(&mysql, "table", own).1, [""; 0]);
        let database =
            "CREATE DATABASE `d` /*!40100 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_uca1400_ai_ci */";
        assert!(fit(&mysql, "database", database).0.contains("COLLATE utf8mb4_0900_ai_ci */"));
    }

    #[test]
    fn a_program_may_speak_of_charsets_and_engines() {
        for sql in [
            "CREATE VIEW `v` AS select charset(`t`.`name`) AS `c`,`t`.`name` collate UTF8MB4_BIN AS `d` from `t`",
            "CREATE PROCEDURE p() SELECT ENGINE FROM information_schema.tables WHERE engine = wanted",
            "CREATE PROCEDURE p() BEGIN SET character_set_client = @old, collation_connection = @was; SHOW CHARACTER \
             SET LIKE 'u%'; SELECT charset(x); CREATE TABLE t (a INT) ENGINE=SPIDER COLLATE DEFAULT; END",
        ] {
            for flavor in [Flavor::Mysql, Flavor::Mariadb] {
                let (text, mapped, unfit) = fit(&dialect(flavor), "routines", sql);
                assert_eq!((text.as_str(), mapped.len(), unfit), (sql, 0, vec![]), "{flavor:?}");
            }
        }
        let charset = "CREATE TABLE `t` (\n  `a` varchar(9) GENERATED ALWAYS AS (charset(`b`)) VIRTUAL\n)";
        assert_eq!(fit(&dialect(Flavor::Mysql), "table", charset).2, [""; 0]);
    }

    #[test]
    fn accounts_in_other_words_and_with_other_logins_are_told() {
        let mysql = dialect(Flavor::Mysql);
        let fits = "CREATE USER `a IDENTIFIED VIA x`@`%` IDENTIFIED WITH 'caching_sha2_password' AS 0x24 \
                    REQUIRE NONE PASSWORD EXPIRE DEFAULT ACCOUNT UNLOCK PASSWORD HISTORY DEFAULT";
        assert!(!mysql.is_foreign(fits) && dialect(Flavor::Mariadb).is_foreign(fits));
        assert_eq!(mysql.unknown_login(fits), None);
        assert!(mysql.is_foreign("CREATE USER `a`@`%` IDENTIFIED BY PASSWORD '*B1'"));
        let native = "CREATE USER `a`@`%` IDENTIFIED WITH 'mysql_native_password' AS '*B1'";
        assert_eq!(mysql.unknown_login(native).as_deref(), Some("mysql_native_password"));

        let mut mariadb = dialect(Flavor::Mariadb);
        mariadb.auth_plugins = ["mysql_native_password", "unix_socket"].map(str::to_owned).into();
        let either =
            "CREATE USER `a`@`%` IDENTIFIED VIA mysql_native_password USING '*B1 OR pam' OR unix_socket";
        assert_eq!(mariadb.unknown_login(either), None);
        assert_eq!(mariadb.unknown_login("CREATE USER `a`@`%` IDENTIFIED BY PASSWORD '*B1'"), None);
        let third = format!("{either} OR gssapi REQUIRE SSL");
        assert_eq!(mariadb.unknown_login(&third).as_deref(), Some("gssapi"));
        let only = "CREATE USER `a`@`%` IDENTIFIED VIA ed25519 USING 'x' REQUIRE NONE";
        assert_eq!(mariadb.unknown_login(only).as_deref(), Some("ed25519"));
    }
}
