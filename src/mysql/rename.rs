//! Another name for a database, in everything that a restore makes.
//!
//! What lifeboat wrote itself (`USE`, `ALTER DATABASE`) is rebuilt. What the server wrote (tables, views) is read token
//! by token, and a quoted name before a dot is a database's. What an author wrote (programs) is only touched where it
//! names the program and its table; a body that names the database itself is left as it is and told.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::{
    choices::Naming,
    ddl::quoted_len,
    layout::{Place, database_item, parse_item, path, table_item},
    sql::{Script, full, ident},
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{Coming, ComingEntry, EntryMeta},
};

/// Characters that a database's name may have.
const NAME_CHARS_MAX: usize = 64;

/// The names that databases get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Renames {
    new: BTreeMap<String, String>,
    old: BTreeMap<String, String>,
}

/// Why a statement cannot go by another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unclear {
    /// Something else in it is called like the database.
    Alias,
    /// It does not read like a program.
    Header,
}

impl std::fmt::Display for Unclear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Alias => {
                "something in it is called like the database, so that nobody can tell the two apart"
            }
            Self::Header => "its beginning does not read like a program's",
        })
    }
}

impl Unclear {
    /// Says it of an entry.
    pub fn failure(self, meta: &EntryMeta) -> Failure {
        Failure::new(ExitCode::Failed, format!("`{}` cannot be made by another name: {self}", meta.item))
    }
}

impl Renames {
    /// Returns the new names of the databases that these items are of or in.
    pub fn of(naming: &Naming, items: &[String]) -> Result<Self> {
        let databases: BTreeSet<String> = items.iter().filter_map(|item| Some(parse_item(item)?.0)).collect();
        let usage = |what: String| Failure::new(ExitCode::Usage, what);
        let name = |db: &String| match naming {
            Naming::Same => db.clone(),
            Naming::Into(name) => name.clone(),
            Naming::Beside(beside) | Naming::Swap { beside, .. } => format!("{db}{beside}"),
        };
        if matches!(naming, Naming::Into(_)) && databases.len() > 1 {
            let all: Vec<String> = databases.into_iter().collect();
            let what =
                format!("--into names one database, but {} are restored: {}", all.len(), all.join(", "));
            return Err(usage(what).hint("Say which one with --only."));
        }
        let mut renames = Self::default();
        for db in databases {
            let new = name(&db);
            if let Naming::Swap { was, .. } = naming {
                check_length(&format!("{db}{was}"))?;
            }
            check_length(&new)?;
            renames.old.insert(new.clone(), db.clone());
            renames.new.insert(db, new);
        }
        Ok(renames)
    }

    /// Returns the renames that were made before.
    pub fn known(names: &BTreeMap<String, String>) -> Self {
        let old = names.iter().map(|(old, new)| (new.clone(), old.clone())).collect();
        Self { new: names.clone(), old }
    }

    /// Returns the same the other way round.
    pub fn back(&self) -> Self {
        Self { new: self.old.clone(), old: self.new.clone() }
    }

    /// Gives the new name to an entry that only people and comparisons see: also where it lies.
    pub fn whole_meta(&self, meta: &mut EntryMeta) -> Result<()> {
        let Some(db) = meta.text("db").map(|db| self.get(db).to_owned()) else { return Ok(()) };
        let rest = meta.path.as_str().split_once('/').map_or("", |(_, rest)| rest);
        meta.path = path(&[&db, rest])?;
        meta.select = match parse_item(&meta.select) {
            Some((_, Some(table))) => table_item(&db, &table),
            _ => db.replace('%', "%25").replace('.', "%2E"),
        };
        self.meta(meta);
        Ok(())
    }

    /// Returns the name that a database goes by.
    pub fn get<'a>(&'a self, db: &'a str) -> &'a str {
        self.new.get(db).map_or(db, String::as_str)
    }

    /// Returns the name that a database had in the snapshot.
    pub fn original<'a>(&'a self, db: &'a str) -> &'a str {
        self.old.get(db).map_or(db, String::as_str)
    }

    /// Returns whether a database of the snapshot goes by another name.
    pub fn is_renamed(&self, db: &str) -> bool {
        self.get(db) != db
    }

    /// Returns what an item is called where it goes.
    pub fn item(&self, item: &str) -> String {
        match parse_item(item) {
            Some((db, None)) => database_item(self.get(&db)),
            Some((db, Some(table))) => table_item(self.get(&db), &table),
            None => item.to_owned(),
        }
    }

    /// Returns what items are called where they go.
    pub fn items(&self, items: &[String]) -> Vec<String> {
        items.iter().map(|item| self.item(item)).collect()
    }

    /// Returns the names that are others than before, by the old ones.
    pub fn changed(&self) -> BTreeMap<String, String> {
        self.new.iter().filter(|(old, new)| old != new).map(|(old, new)| (old.clone(), new.clone())).collect()
    }

    /// Gives the new name to an entry.
    pub fn meta(&self, meta: &mut EntryMeta) {
        if let Some(new) = meta.text("db").map(|db| self.get(db).to_owned()) {
            meta.attrs.insert("db".to_owned(), new.into());
            meta.item = self.item(&meta.item);
        }
    }

    /// Gives the new name to the statements of an entry that has it already.
    pub fn script(&self, meta: &EntryMeta, script: &mut Script) -> Result<(), Unclear> {
        let (Some(new), Some(kind)) = (meta.text("db"), meta.text("kind")) else { return Ok(()) };
        let old = self.original(new);
        if old == new {
            return Ok(());
        }
        for statement in &mut script.statements {
            *statement = self.statement(kind, old, new, statement)?;
        }
        Ok(())
    }

    fn statement(&self, kind: &str, old: &str, new: &str, text: &[u8]) -> Result<Vec<u8>, Unclear> {
        if text == format!("USE {}", ident(old)).as_bytes() {
            return Ok(format!("USE {}", ident(new)).into_bytes());
        }
        if let Some(rest) = text.strip_prefix(format!("ALTER DATABASE {} ", ident(old)).as_bytes()) {
            return Ok([format!("ALTER DATABASE {} ", ident(new)).as_bytes(), rest].concat());
        }
        let is_create = text.starts_with(b"CREATE ");
        match kind {
            "database" => Ok(first_name(text, new)),
            "view" => self.qualified(text, true),
            "triggers" | "routines" | "events" if is_create => header(text, new),
            "triggers" | "routines" | "events" => Ok(text.to_vec()),
            _ => self.qualified(text, false),
        }
    }

    /// Rewrites every quoted name of a database before a dot. In a view nothing else may have that name.
    fn qualified(&self, text: &[u8], is_view: bool) -> Result<Vec<u8>, Unclear> {
        let tokens = tokens(text);
        let mut edits = Vec::new();
        for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.kind == Kind::Quoted) {
            let before = at.checked_sub(1).map(|at| &text[tokens[at].from..tokens[at].to]);
            let after = tokens.get(at + 1).map(|next| &text[next.from..next.to]);
            if matches!(before, Some(b"." | b"@")) || after == Some(b"@") {
                continue;
            }
            let Some(new) = self.new.get(&token.name(text)) else { continue };
            if after == Some(b".") {
                edits.push((token.from, token.to, ident(new)));
            } else if is_view && !before.is_some_and(|word| word.eq_ignore_ascii_case(b"as")) {
                return Err(Unclear::Alias);
            }
        }
        Ok(edited(text, &edits))
    }

    /// Takes out the foreign keys whose parent does not come along, and names the parents of the others anew.
    /// What is taken out names its parent in full, as it was.
    pub fn foreign_keys(&self, at: &Place, all: &mut Vec<String>, come: &BTreeSet<Place>) -> Vec<String> {
        let mut apart = Vec::new();
        all.retain_mut(|definition| {
            let Some(parent) = Parent::of(definition) else { return true };
            let of_source = self.original(&at.db).to_owned();
            let parent_db = parent.db.clone().unwrap_or(of_source);
            let new = Place { db: self.get(&parent_db).to_owned(), table: parent.table.clone() };
            let comes = come.contains(&new);
            if comes {
                if parent.db.is_some() {
                    *definition = parent.named(definition, &new);
                }
            } else {
                apart.push(parent.named(definition, &Place { db: parent_db, table: new.table }));
            }
            comes
        });
        apart
    }
}

/// Returns what items of a snapshot are called where databases go by these other names.
pub fn renamed_items(names: &BTreeMap<String, String>, items: &[String]) -> Vec<String> {
    Renames::known(names).items(items)
}

fn check_length(name: &str) -> Result<()> {
    if name.chars().count() <= NAME_CHARS_MAX {
        return Ok(());
    }
    let what =
        format!("`{name}` is longer than the {NAME_CHARS_MAX} characters that a database's name may have");
    Err(Failure::new(ExitCode::Usage, what)
        .hint("Restore into a shorter name: --into SOURCE=mysql://HOST/NAME."))
}

/// The table that a foreign key refers to.
pub(super) struct Parent {
    /// Its database, where the text names it.
    pub db: Option<String>,
    /// Its name.
    pub table: String,
    from: usize,
    to: usize,
}

impl Parent {
    /// Finds the parent in the definition of a foreign key.
    pub fn of(definition: &str) -> Option<Self> {
        let text = definition.as_bytes();
        let tokens = tokens(text);
        let at = tokens.iter().position(|token| token.is_word(text, "REFERENCES"))?;
        let first = tokens.get(at + 1)?;
        let second = tokens.get(at + 2).filter(|dot| &text[dot.from..dot.to] == b".").and(tokens.get(at + 3));
        Some(match second {
            Some(table) => {
                Self { db: Some(first.name(text)), table: table.name(text), from: first.from, to: table.to }
            }
            None => Self { db: None, table: first.name(text), from: first.from, to: first.to },
        })
    }

    /// Returns the definition with another parent, named in full.
    pub fn named(&self, definition: &str, parent: &Place) -> String {
        let named = full(&parent.db, &parent.table);
        format!("{}{named}{}", &definition[..self.from], &definition[self.to..])
    }
}

/// Returns whether the body of a program names this database.
pub(super) fn names_database(program: &[u8], db: &str) -> bool {
    let tokens = tokens(program);
    let named = |pair: &[Token]| {
        matches!(pair[0].kind, Kind::Quoted | Kind::Word)
            && pair[0].name(program).eq_ignore_ascii_case(db)
            && &program[pair[1].from..pair[1].to] == b"."
    };
    tokens.windows(2).any(named)
}

/// Makes events that will not run by themselves, and returns how many would have.
pub(super) fn disable_events(script: &mut Script) -> usize {
    let mut count = 0;
    for statement in &mut script.statements {
        if let Some(disabled) = disable_event(statement) {
            *statement = disabled;
            count += 1;
        }
    }
    count
}

/// Makes an event that will not run by itself: `ENABLE` in the words that the server puts before the body.
fn disable_event(create: &[u8]) -> Option<Vec<u8>> {
    let tokens = tokens(create);
    let at = tokens.iter().position(|token| token.is_word(create, "PRESERVE"))?;
    let state = tokens.get(at + 1).filter(|token| token.is_word(create, "ENABLE"))?;
    let is_event = tokens[..at].iter().any(|token| token.is_word(create, "EVENT"));
    is_event.then(|| edited(create, &[(state.from, state.to, "DISABLE".to_owned())]))
}

/// Gives the first quoted name another.
fn first_name(text: &[u8], new: &str) -> Vec<u8> {
    match tokens(text).iter().find(|token| token.kind == Kind::Quoted) {
        Some(token) => edited(text, &[(token.from, token.to, ident(new))]),
        None => text.to_vec(),
    }
}

/// Gives the database's new name to a program and, if it is a trigger, to its table, where the author named it.
fn header(text: &[u8], new: &str) -> Result<Vec<u8>, Unclear> {
    let tokens = tokens(text);
    let kinds = ["TRIGGER", "PROCEDURE", "FUNCTION", "PACKAGE", "EVENT"];
    let is_kind = |token: &Token| kinds.iter().any(|kind| token.is_word(text, kind));
    let kind = tokens.iter().position(is_kind).ok_or(Unclear::Header)?;
    let skipped = ["IF", "NOT", "EXISTS", "BODY"];
    let after = tokens[kind + 1..].iter().position(|t| !skipped.iter().any(|word| t.is_word(text, word)));
    let name = kind + 1 + after.ok_or(Unclear::Header)?;
    let mut edits = Vec::new();
    let mut qualify = |at: usize| {
        if tokens.get(at + 1).is_some_and(|dot| &text[dot.from..dot.to] == b".") {
            edits.push((tokens[at].from, tokens[at].to, ident(new)));
        }
    };
    qualify(name);
    if tokens[kind].is_word(text, "TRIGGER") {
        let on = tokens[name..].iter().position(|token| token.is_word(text, "ON")).ok_or(Unclear::Header)?;
        if tokens.len() <= name + on + 1 {
            return Err(Unclear::Header);
        }
        qualify(name + on + 1);
    }
    Ok(edited(text, &edits))
}

fn edited(text: &[u8], edits: &[(usize, usize, String)]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    for (from, to, with) in edits {
        out.extend_from_slice(&text[at..*from]);
        out.extend_from_slice(with.as_bytes());
        at = *to;
    }
    out.extend_from_slice(&text[at..]);
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A name in quotes.
    Quoted,
    /// A text in quotes. Where a session reads double quotes as names, so does [`Token::name`].
    Text,
    Word,
    /// Any other byte.
    Mark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    kind: Kind,
    from: usize,
    to: usize,
}

impl Token {
    fn is_word(&self, text: &[u8], word: &str) -> bool {
        self.kind == Kind::Word && text[self.from..self.to].eq_ignore_ascii_case(word.as_bytes())
    }

    /// Returns the name without its quotes.
    fn name(&self, text: &[u8]) -> String {
        let all = &text[self.from..self.to];
        match self.kind {
            Kind::Quoted => {
                let inner =
                    String::from_utf8_lossy(all.get(1..all.len().saturating_sub(1)).unwrap_or_default());
                inner.replace("``", "`")
            }
            _ => String::from_utf8_lossy(all).into_owned(),
        }
    }
}

/// Divides a statement into what counts; blanks and comments are left out.
fn tokens(text: &[u8]) -> Vec<Token> {
    let (mut all, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let rest = &text[at..];
        let (kind, len) = match rest[0] {
            byte if byte.is_ascii_whitespace() => (None, 1),
            // What such a comment holds is carried out; only its borders are none.
            b'/' if rest.starts_with(b"/*!") || rest.starts_with(b"/*M!") => {
                let digits = rest.iter().skip(3).take_while(|b| b.is_ascii_digit() || **b == b'!').count();
                (None, 3 + digits)
            }
            b'*' if rest.starts_with(b"*/") => (None, 2),
            b'/' if rest.starts_with(b"/*") => (None, end_of(rest, b"*/")),
            b'#' => (None, end_of(rest, b"\n")),
            b'-' if rest.starts_with(b"-- ") || rest.starts_with(b"--\n") => (None, end_of(rest, b"\n")),
            b'`' => (Some(Kind::Quoted), quoted_len(rest)),
            b'\'' | b'"' => (Some(Kind::Text), quoted_len(rest)),
            byte if is_word(byte) => (Some(Kind::Word), rest.iter().take_while(|b| is_word(**b)).count()),
            _ => (Some(Kind::Mark), 1),
        };
        all.extend(kind.map(|kind| Token { kind, from: at, to: at + len }));
        at += len;
    }
    all
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

fn end_of(text: &[u8], mark: &[u8]) -> usize {
    text.windows(mark.len()).position(|found| found == mark).map_or(text.len(), |at| at + mark.len())
}

/// What would come, by the names that it goes by there.
pub(super) struct Renamed<'a> {
    pub coming: &'a mut dyn Coming,
    pub renames: &'a Renames,
}

#[async_trait]
impl Coming for Renamed<'_> {
    async fn next(&mut self) -> Result<Option<ComingEntry>> {
        let mut entry = self.coming.next().await?;
        if let Some(entry) = &mut entry {
            self.renames.meta(&mut entry.meta);
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn renames() -> Renames {
        Renames::of(&Naming::Beside("__lb".into()), &["im".into(), "im.users".into(), "o%2Ed.t".into()])
            .unwrap()
    }

    fn rewritten(kind: &str, text: &str) -> Result<String, Unclear> {
        let done = renames().statement(kind, "im", "im__lb", text.as_bytes())?;
        Ok(String::from_utf8(done).unwrap())
    }

    #[test]
    fn items_and_their_databases_get_the_new_name() {
        let renames = renames();
        assert_eq!(renames.item("im"), "im__lb");
        assert_eq!(renames.item("im.users"), "im__lb.users");
        assert_eq!(renames.item("o%2Ed.t"), "o%2Ed__lb.t");
        assert_eq!(renames.item("other.t"), "other.t");
        assert_eq!(renames.item("accounts"), "accounts");
        assert_eq!(renames.original("im__lb"), "im");
    }

    #[test]
    fn one_name_is_for_one_database() {
        let into = Naming::Into("im_old".into());
        assert_eq!(Renames::of(&into, &["im".into(), "im.t".into()]).unwrap().item("im.t"), "im_old.t");
        let failure = Renames::of(&into, &["im".into(), "shop.t".into()]).unwrap_err();
        assert_eq!(failure.exit(), ExitCode::Usage);
        assert!(failure.chain()[0].contains("im, shop"), "{failure:?}");
    }

    #[test]
    fn a_name_too_long_for_a_server_is_refused() {
        let long = "x".repeat(61);
        let failure = Renames::of(&Naming::Beside("__lb".into()), &[long]).unwrap_err();
        assert!(failure.chain()[0].contains("64 characters"), "{failure:?}");
    }

    #[test]
    fn what_the_server_wrote_goes_by_the_new_name_outside_of_texts() {
        let table = "CREATE TABLE `t` (`im` int DEFAULT nextval(`im`.`s`) COMMENT '`im`.`x`')";
        assert_eq!(
            rewritten("table", table).unwrap(),
            "CREATE TABLE `t` (`im` int DEFAULT nextval(`im__lb`.`s`) COMMENT '`im`.`x`')"
        );
        let view = "CREATE DEFINER=`im`@`im` VIEW `im`.`v` AS select `im`.`t`.`im` AS `im`,'`im`.' AS `y`,\
                    `im`.`f`(1) AS `z` from `im`.`t` join `other`.`im`";
        assert_eq!(
            rewritten("view", view).unwrap(),
            "CREATE DEFINER=`im`@`im` VIEW `im__lb`.`v` AS select `im__lb`.`t`.`im` AS `im`,'`im`.' AS `y`,\
             `im__lb`.`f`(1) AS `z` from `im__lb`.`t` join `other`.`im`"
        );
        assert_eq!(rewritten("view", "USE `im`").unwrap(), "USE `im__lb`");
        assert_eq!(
            rewritten("database", "CREATE DATABASE /*!32312 IF NOT EXISTS*/ `im` /*!40100 x */").unwrap(),
            "CREATE DATABASE /*!32312 IF NOT EXISTS*/ `im__lb` /*!40100 x */"
        );
    }

    #[test]
    fn a_view_with_an_alias_like_the_database_is_refused() {
        let view = "CREATE VIEW `im`.`v` AS select `im`.`a` AS `a` from `im`.`t` `im`";
        assert_eq!(rewritten("view", view), Err(Unclear::Alias));
    }

    #[test]
    fn a_program_goes_by_the_new_name_and_its_body_stays() {
        let trigger = "CREATE DEFINER=`root`@`%` TRIGGER im . `t1` BEFORE INSERT /* ON im.x */ ON im.t \
                       FOR EACH ROW INSERT INTO im.log VALUES (1)";
        assert_eq!(
            rewritten("triggers", trigger).unwrap(),
            "CREATE DEFINER=`root`@`%` TRIGGER `im__lb` . `t1` BEFORE INSERT /* ON im.x */ ON `im__lb`.t \
             FOR EACH ROW INSERT INTO im.log VALUES (1)"
        );
        let plain = "CREATE TRIGGER t1 BEFORE INSERT ON t FOR EACH ROW SET NEW.a = 1";
        assert_eq!(rewritten("triggers", plain).unwrap(), plain);
        assert_eq!(rewritten("triggers", "CREATE nonsense"), Err(Unclear::Header));
        let alter = "ALTER DATABASE `im` COLLATE utf8mb4_bin";
        assert_eq!(rewritten("routines", alter).unwrap(), "ALTER DATABASE `im__lb` COLLATE utf8mb4_bin");
        assert!(names_database(trigger.as_bytes(), "IM"));
        assert!(!names_database(b"CREATE PROCEDURE p () SELECT 'im.t' -- im.t", "im"));
    }

    #[test]
    fn only_the_state_of_an_event_is_changed() {
        let event = "CREATE DEFINER=`a`@`%` EVENT `PRESERVE ENABLE` ON SCHEDULE EVERY 1 DAY ON COMPLETION NOT \
                     PRESERVE ENABLE COMMENT 'PRESERVE ENABLE' DO SELECT 'ENABLE'";
        let disabled = String::from_utf8(disable_event(event.as_bytes()).unwrap()).unwrap();
        assert_eq!(disabled, event.replacen("PRESERVE ENABLE COMMENT", "PRESERVE DISABLE COMMENT", 1));
        assert_eq!(disable_event(disabled.as_bytes()), None);
        assert_eq!(disable_event(b"CREATE PROCEDURE `p`() PRESERVE ENABLE"), None);
    }

    #[test]
    fn a_foreign_key_whose_parent_stays_away_is_taken_out() {
        let place = |db: &str, table: &str| Place { db: db.into(), table: table.into() };
        let mut all = vec![
            "CONSTRAINT `a` FOREIGN KEY (`REFERENCES`) REFERENCES `users` (`id`)".to_owned(),
            "CONSTRAINT `b` FOREIGN KEY (`x`) REFERENCES `o.d`.`t` (`id`)".to_owned(),
            "CONSTRAINT `c` FOREIGN KEY (`x`) REFERENCES `away` (`id`) ON DELETE CASCADE".to_owned(),
        ];
        let come = BTreeSet::from([place("im__lb", "users"), place("o.d__lb", "t")]);
        let apart = renames().foreign_keys(&place("im__lb", "files"), &mut all, &come);
        assert_eq!(all.len(), 2);
        assert!(all[0].ends_with("REFERENCES `users` (`id`)"), "{all:?}");
        assert!(all[1].ends_with("REFERENCES `o.d__lb`.`t` (`id`)"), "{all:?}");
        assert_eq!(
            apart,
            ["CONSTRAINT `c` FOREIGN KEY (`x`) REFERENCES `im`.`away` (`id`) ON DELETE CASCADE"]
        );
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd_to_be_divided(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut end = 0;
            for token in tokens(&text) {
                prop_assert!(token.from >= end && token.to > token.from && token.to <= text.len());
                end = token.to;
            }
        }
    }
}
