//! Definitions that no session holds: views, routines, events, triggers and databases. Where the server has no
//! lock for them, or we may not take it, they are noted before the instant and compared at the end.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::Conn;

use super::super::{
    conn::{Server, text},
    layout::{Listed, Place, Wanted},
};
use crate::error::{ExitCode, Failure, Result};

/// Each asks for: kind, database, name, digest of the definition, and the table or view that it hangs on.
///
/// Events that end by themselves are not asked for: the server drops or disables them without anybody's doing.
const QUESTIONS: [&str; 5] = [
    "SELECT 'database', schema_name, '', \
     SHA2(CONCAT_WS('|', default_character_set_name, default_collation_name), 256), '' \
     FROM information_schema.schemata",
    "SELECT 'view', table_schema, table_name, SHA2(CONCAT_WS('|', view_definition, check_option, security_type, \
     definer, character_set_client, collation_connection), 256), table_name FROM information_schema.views",
    "SELECT LOWER(routine_type), routine_schema, routine_name, SHA2(CONCAT_WS('|', routine_definition, \
     last_altered, sql_mode, definer, security_type, routine_comment), 256), '' FROM information_schema.routines",
    "SELECT 'event', event_schema, event_name, SHA2(CONCAT_WS('|', event_definition, last_altered, sql_mode, \
     definer, interval_value, interval_field, starts, event_comment), 256), '' FROM information_schema.events \
     WHERE event_type = 'RECURRING' AND ends IS NULL",
    "SELECT 'trigger', trigger_schema, trigger_name, SHA2(CONCAT_WS('|', event_manipulation, action_timing, \
     action_order, action_statement, sql_mode, definer), 256), event_object_table \
     FROM information_schema.triggers",
];

/// What a definition belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Definition {
    kind: String,
    db: String,
    name: String,
}

impl std::fmt::Display for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dot = if self.name.is_empty() { "" } else { "." };
        write!(f, "{} `{}{dot}{}`", self.kind, self.db, self.name)
    }
}

/// A digest of each definition, and the table or view that it hangs on.
#[derive(Clone, Debug, Default)]
pub(super) struct Programs(BTreeMap<Definition, (String, String)>);

impl Programs {
    /// Notes the definitions of everything that is wanted.
    pub async fn note(server: &Server, conn: &mut Conn, wanted: &Wanted) -> Result<Self> {
        let mut noted = BTreeMap::new();
        for sql in QUESTIONS {
            for row in server.rows(conn, sql, "note the definitions").await? {
                let get = |at| text(&row, at).unwrap_or_default();
                let (name, on) = (Definition { kind: get(0), db: get(1), name: get(2) }, get(4));
                let is_wanted =
                    if on.is_empty() { wanted.database(&name.db) } else { wanted.table(&name.db, &on) };
                if is_wanted {
                    noted.insert(name, (get(3), on));
                }
            }
        }
        Ok(Self(noted))
    }

    /// Returns whether this database was there.
    pub fn has_database(&self, db: &str) -> bool {
        self.0.contains_key(&Definition {
            kind: "database".to_owned(),
            db: db.to_owned(),
            name: String::new(),
        })
    }

    /// Fails when what was read has another definition in `later`. Databases, tables and views that were made in
    /// between were not read, and neither was what hangs on them.
    pub fn check_same(&self, later: &Self, listed: &[Listed], server: &Server) -> Result<()> {
        let read: BTreeSet<&Place> = listed.iter().map(|listed| &listed.at).collect();
        let was_read = |name: &Definition, on: &str| {
            let at = Place { db: name.db.clone(), table: on.to_owned() };
            self.has_database(&name.db) && (on.is_empty() || read.contains(&at))
        };
        let all = self.0.iter().chain(&later.0);
        for (name, _) in all.filter(|(name, (_, on))| was_read(name, on)) {
            let (then, now) = (self.0.get(name), later.0.get(name));
            let what = match (then, now) {
                (Some(_), None) => "was dropped",
                (None, Some(_)) => "was made",
                (Some((then, _)), Some((now, _))) if then != now => "was changed",
                _ => continue,
            };
            let what = format!("`{}`: {name} {what} while the server was read", server.name);
            return Err(Failure::new(ExitCode::Failed, what)
                .hint("What was read may mix two definitions and was not kept.")
                .hint("Run this again when no migration is running."));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mysql::layout::TableKind, names::SourceName};

    fn noted(all: &[(&str, &str, &str, &str, &str)]) -> Programs {
        let of = |&(kind, db, name, digest, on): &(&str, &str, &str, &str, &str)| {
            let name = Definition { kind: kind.to_owned(), db: db.to_owned(), name: name.to_owned() };
            (name, (digest.to_owned(), on.to_owned()))
        };
        Programs(all.iter().map(of).collect())
    }

    fn compared(then: &Programs, now: &Programs) -> String {
        let config = toml::from_str("user = \"me\"").unwrap();
        let server = Server::new(&SourceName::new("mysql").unwrap(), &config, false).unwrap();
        let at = Place { db: "im".to_owned(), table: "v".to_owned() };
        let listed = [Listed { at, kind: TableKind::View }];
        let same = then.check_same(now, &listed, &server);
        same.map_or_else(|failure| failure.to_string(), |()| "the same".to_owned())
    }

    #[test]
    fn a_definition_that_changed_went_or_came_is_named() {
        let db = ("database", "im", "", "c", "");
        let then = noted(&[db, ("procedure", "im", "p", "1", ""), ("view", "im", "v", "1", "v")]);
        assert_eq!(compared(&then, &then.clone()), "the same");
        let now = noted(&[db, ("procedure", "im", "p", "2", ""), ("view", "im", "v", "1", "v")]);
        assert_eq!(compared(&then, &now), "`mysql`: procedure `im.p` was changed while the server was read");
        let now = noted(&[db, ("procedure", "im", "p", "1", "")]);
        assert_eq!(compared(&then, &now), "`mysql`: view `im.v` was dropped while the server was read");
        assert_eq!(
            compared(&now, &noted(&[db, ("event", "im", "e", "1", ""), ("procedure", "im", "p", "1", "")])),
            "`mysql`: event `im.e` was made while the server was read"
        );
        let now = noted(&[("database", "im", "", "d", "")]);
        assert_eq!(
            compared(&noted(&[db]), &now),
            "`mysql`: database `im` was changed while the server was read"
        );
    }

    #[test]
    fn what_was_made_meanwhile_and_not_read_changes_nothing() {
        let then = noted(&[("database", "im", "", "c", "")]);
        let now = noted(&[
            ("database", "im", "", "c", ""),
            ("database", "work", "", "c", ""),
            ("procedure", "work", "p", "1", ""),
            ("view", "im", "new", "1", "new"),
            ("trigger", "im", "t", "1", "new"),
        ]);
        assert_eq!(compared(&then, &now), "the same");
    }
}
