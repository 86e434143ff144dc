//! Tells a server which transactions it has seen, after a restore that brought it all of them.
//!
//! *Order.* Whether the server will take the position is checked before anything is touched; it is told when all is in.
//! *Crash.* A restore that dies has told nothing.

use std::collections::BTreeMap;

use mysql_async::Conn;

use super::{
    choices::GtidRule,
    conn::{Flavor, Server, named, text},
    sql::literal,
};
use crate::error::{ExitCode, Failure, Result};

/// Fails when the server would not take the position later. `resumes`: an interrupted restore may have told it.
pub(super) async fn check(
    server: &Server,
    conn: &mut Conn,
    flavor: Flavor,
    (rule, position): (GtidRule, &str),
    resumes: bool,
) -> Result<()> {
    if position.trim().is_empty() {
        let what = format!("`{}`: the snapshot has no GTIDs: its source had given none", server.name);
        return Err(Failure::new(ExitCode::Usage, what).hint("Leave --gtid off."));
    }
    if position.contains(':') != (flavor == Flavor::Mysql) {
        let what = format!("`{}`: the snapshot's GTIDs are of another product than the server", server.name);
        return Err(Failure::new(ExitCode::Usage, what).hint("Leave --gtid off."));
    }
    if resumes && is_told(server, conn, flavor, position).await? {
        return Ok(());
    }
    match flavor {
        Flavor::Mysql => check_mysql(server, conn, rule, position).await,
        Flavor::Mariadb => check_mariadb(server, conn, rule, position).await,
    }
}

/// Tells the server. What it has to say against it, it says.
pub(super) async fn tell(
    server: &Server,
    conn: &mut Conn,
    flavor: Flavor,
    rule: GtidRule,
    position: &str,
) -> Result<()> {
    if rule == GtidRule::Append && is_told(server, conn, flavor, position).await? {
        // This restore, before it was interrupted: at its beginning the server had seen none of them.
        return Ok(());
    }
    let sql = match (flavor, rule) {
        (Flavor::Mysql, GtidRule::Append) => {
            format!("SET GLOBAL gtid_purged={}", literal(&format!("+{position}")))
        }
        (Flavor::Mysql, GtidRule::Replace) => format!("SET GLOBAL gtid_purged={}", literal(position)),
        (Flavor::Mariadb, GtidRule::Append) => {
            let now = one(server, conn, "SELECT @@GLOBAL.gtid_slave_pos").await?;
            let both: Vec<&str> =
                [now.as_str(), position].into_iter().filter(|part| !part.is_empty()).collect();
            format!("SET GLOBAL gtid_slave_pos={}", literal(&both.join(",")))
        }
        (Flavor::Mariadb, GtidRule::Replace) => format!("SET GLOBAL gtid_slave_pos={}", literal(position)),
    };
    server.run(conn, sql, "tell the server the snapshot's GTIDs").await
}

/// Returns whether the server counts all of the position as what it was told.
async fn is_told(server: &Server, conn: &mut Conn, flavor: Flavor, position: &str) -> Result<bool> {
    match flavor {
        Flavor::Mysql => {
            let sql = format!("SELECT GTID_SUBTRACT({}, @@GLOBAL.gtid_purged)", literal(position));
            Ok(one(server, conn, &sql).await?.is_empty())
        }
        Flavor::Mariadb => {
            let now = domains(&one(server, conn, "SELECT @@GLOBAL.gtid_slave_pos").await?);
            Ok(domains(position).iter().all(|(domain, part)| now.get(domain) == Some(part)))
        }
    }
}

async fn check_mysql(server: &Server, conn: &mut Conn, rule: GtidRule, position: &str) -> Result<()> {
    let set = literal(position);
    let own = match rule {
        GtidRule::Append => "@@GLOBAL.gtid_executed",
        GtidRule::Replace => "GTID_SUBTRACT(@@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged)",
    };
    let common =
        one(server, conn, &format!("SELECT GTID_SUBTRACT({set}, GTID_SUBTRACT({set}, {own}))")).await?;
    if !common.is_empty() {
        return Err(refused(server, &format!("the server has seen some of them: {common}")));
    }
    if rule == GtidRule::Replace {
        let lost = one(server, conn, &format!("SELECT GTID_SUBTRACT(@@GLOBAL.gtid_purged, {set})")).await?;
        if !lost.is_empty() {
            return Err(refused(server, &format!("the server had others, which it would forget: {lost}")));
        }
    }
    // What the restore writes counts up from what the server has seen: into what the snapshot holds, if it is its own.
    let uuid = one(server, conn, "SELECT @@GLOBAL.server_uuid").await?;
    if !server.leaves_binlog() && position.to_lowercase().contains(&uuid.to_lowercase()) {
        return Err(refused(
            server,
            "they are of this very server, and the restore would make the same anew",
        )
        .hint("Say --binlog off too."));
    }
    Ok(())
}

async fn check_mariadb(server: &Server, conn: &mut Conn, rule: GtidRule, position: &str) -> Result<()> {
    let rows = server.rows(conn, "SHOW ALL SLAVES STATUS", "ask whether the server is a replica").await?;
    let runs = |row| {
        ["Slave_IO_Running", "Slave_SQL_Running"]
            .iter()
            .any(|name| named(row, name).is_some_and(|state| state != "No"))
    };
    if rows.iter().any(runs) {
        return Err(refused(server, "the server is a replica that runs").hint("STOP ALL SLAVES; first."));
    }
    let now = domains(&one(server, conn, "SELECT @@GLOBAL.gtid_slave_pos").await?);
    let new = domains(position);
    let common: Vec<&str> =
        new.keys().filter(|domain| now.contains_key(*domain)).map(String::as_str).collect();
    if rule == GtidRule::Append && !common.is_empty() {
        return Err(refused(
            server,
            &format!("the server has a position in domain {} already", common.join(", ")),
        ));
    }
    Ok(())
}

/// Returns a position's parts by their domain.
fn domains(position: &str) -> BTreeMap<String, String> {
    let parts = position.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| (part.split('-').next().unwrap_or_default().to_owned(), part.to_owned())).collect()
}

fn refused(server: &Server, why: &str) -> Failure {
    let what =
        format!("`{}`: the server at {} will not take the snapshot's GTIDs", server.name, server.place());
    Failure::new(ExitCode::Usage, what).because(why.to_owned()).hint(
        "Leave --gtid off and let replicas begin at the snapshot's binlog position, or empty the server's history \
         first: RESET BINARY LOGS AND GTIDS; (MySQL 8.0 and MariaDB: RESET MASTER).",
    )
}

async fn one(server: &Server, conn: &mut Conn, sql: &str) -> Result<String> {
    let rows = server.rows(conn, sql, "ask the server's GTIDs").await?;
    Ok(rows.first().and_then(|row| text(row, 0)).unwrap_or_default().replace('\n', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_of_mariadb_has_a_part_for_each_domain() {
        assert!(domains("").is_empty());
        let both = domains("0-77-12,5-1-3");
        assert_eq!(both.keys().collect::<Vec<_>>(), ["0", "5"]);
    }
}
