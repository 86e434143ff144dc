//! Foreign keys between tables that an exchange moves and tables that it does not: [`Ties`].

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::Conn;

use super::{
    conn::{Server, text},
    ddl,
    kept::Remains,
    layout::Place,
    patience::patiently,
    programs,
    rename::Parent,
    sql::{ident, literal},
};
use crate::error::{ExitCode, Failure, Result};

/// Foreign keys between what goes and what stays.
#[derive(Default)]
pub(super) struct Ties {
    /// Of tables that stay, to tables that go.
    pub children: Vec<Tie>,
    /// Of tables that go, to tables that stay.
    pub outward: Vec<Tie>,
    /// Of tables that an exchange that died put aside, to tables that go now: nobody wants them.
    pub stray: Vec<(Place, String)>,
}

/// A foreign key between what goes and what stays.
pub(super) struct Tie {
    pub child: Place,
    pub name: String,
    /// The definition, which names its parent in full.
    pub definition: String,
}

impl Ties {
    /// Finds the foreign keys between tables that go and tables that stay. A table that an exchange put aside counts as
    /// the one in whose place it was; one that died may have left foreign keys to such.
    pub async fn find(
        server: &Server,
        conn: &mut Conn,
        going: &BTreeSet<Place>,
        remains: &[Remains],
    ) -> Result<Self> {
        let aside: BTreeMap<&str, &str> = remains.iter().map(|one| (&*one.name, &*one.of)).collect();
        let of_going: BTreeSet<&str> = going.iter().map(|at| &*at.db).collect();
        let mut ties = Self::default();
        if of_going.is_empty() {
            return Ok(ties);
        }
        let list = of_going.iter().chain(aside.keys()).map(|db| literal(db)).collect::<Vec<_>>().join(",");
        let sql = format!(
            "SELECT DISTINCT table_schema, table_name, constraint_name, referenced_table_schema, referenced_table_name \
             FROM information_schema.key_column_usage WHERE referenced_table_name IS NOT NULL \
             AND (table_schema IN ({list}) OR referenced_table_schema IN ({list}))"
        );
        for row in &server.rows(conn, &sql, "look for foreign keys of the tables").await? {
            let get = |at| text(row, at).unwrap_or_default();
            let (child, name) = (Place { db: get(0), table: get(1) }, get(2));
            let mut parent = Place { db: get(3), table: get(4) };
            if aside.contains_key(&*child.db) {
                if going.contains(&parent) {
                    ties.stray.push((child, name));
                }
                continue;
            }
            if let Some(live) = aside.get(&*parent.db) {
                parent.db = (*live).to_owned();
            }
            let (child_goes, parent_goes) = (going.contains(&child), going.contains(&parent));
            if child_goes == parent_goes {
                continue;
            }
            let definition = definition_of(server, conn, &child, &name, &parent).await?;
            let list = if child_goes { &mut ties.outward } else { &mut ties.children };
            list.push(Tie { child, name, definition });
        }
        Ok(ties)
    }
}

/// Returns the definition of a foreign key, which names its parent in full and by this name.
async fn definition_of(
    server: &Server,
    conn: &mut Conn,
    child: &Place,
    name: &str,
    parent: &Place,
) -> Result<String> {
    let create = programs::create_table(server, conn, child).await?;
    let keys = ddl::split(&String::from_utf8_lossy(&create), false).foreign_keys;
    let begin = format!("CONSTRAINT {} ", ident(name));
    let key = keys.into_iter().find(|key| key.starts_with(&begin)).ok_or_else(|| {
        let what = format!("`{}`: the server does not show foreign key `{name}` of `{child}`", server.name);
        Failure::new(ExitCode::Failed, what)
    })?;
    Ok(Parent::of(&key).map_or_else(|| key.clone(), |found| found.named(&key, parent)))
}

/// Drops a foreign key if it is there.
pub(super) async fn untie(server: &Server, conn: &mut Conn, at: &Place, name: &str) -> Result<()> {
    let doing = format!("drop foreign key `{name}` of `{at}`");
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.table_constraints WHERE constraint_type = 'FOREIGN KEY' \
         AND table_schema = {} AND table_name = {} AND constraint_name = {}",
        literal(&at.db),
        literal(&at.table),
        literal(name)
    );
    let there = server.rows(conn, &sql, &doing).await?;
    if there.first().and_then(|row| text(row, 0)).is_none_or(|n| n == "0") {
        return Ok(());
    }
    let sql = format!("ALTER TABLE {} DROP FOREIGN KEY {}", at.sql(), ident(name));
    patiently(server, conn, &sql, &doing).await
}
