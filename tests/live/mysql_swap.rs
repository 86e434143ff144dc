//! Restored tables take the place of live ones in one act; whatever happens, no table is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use lifeboat::{
    event::{NoMonitor, SharedMonitor},
    flow::{Selection, WriteOptions},
    mysql::{Choices, Exchange, Naming},
    policy::MysqlConfig,
};
use mysql_async::prelude::Queryable;

use crate::{
    rows::Recorded,
    support::{Product, Server, own, processes, target, watched},
};

crate::on_both!(
    a_database_is_exchanged_whole_and_the_old_one_kept,
    one_table_is_exchanged_and_children_that_stay_follow_it,
    who_writes_and_reads_meanwhile_meets_no_gap,
    an_open_transaction_holds_an_exchange_up_at_the_act_and_not_before,
    an_exchange_that_cannot_end_puts_everything_back,
    an_exchange_whose_session_dies_puts_everything_back,
    an_exchange_that_dies_loses_no_table_and_can_be_run_again,
    grants_on_single_routines_outlive_their_routines,
    a_view_makes_room_for_a_table_of_its_name,
    an_exchange_that_cannot_end_leaves_no_database_and_no_view,
);

pub const BESIDE: &str = "__lb_1";
pub const WAS: &str = "__was_1";

async fn clear(server: &Server, db: &str) {
    let drops = ["_out", "", BESIDE, WAS, "__was_2", "__was_3"]
        .map(|suffix| format!("DROP DATABASE IF EXISTS {db}{suffix}"));
    server.run(["SET foreign_key_checks = 0".to_owned()].into_iter().chain(drops)).await;
}

/// A database of the shared server that goes away with its copies at the end.
pub struct Scene {
    pub server: Server,
    pub db: String,
    pub recorded: Recorded,
    pub config: MysqlConfig,
}

impl Scene {
    /// Makes the database, records it, and changes what is live.
    pub async fn new(product: Product, name: &str) -> Self {
        let server = Server::shared(product).await;
        let db = own(name);
        clear(&server, &db).await;
        server
            .run([
                format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
                format!("CREATE DATABASE {db}_out"),
                format!("USE {db}"),
                "CREATE TABLE users (id INT PRIMARY KEY, name VARCHAR(20), KEY (name), CONSTRAINT pos CHECK (id > 0))"
                    .to_owned(),
                "CREATE TABLE files (id INT PRIMARY KEY, owner INT, CONSTRAINT up FOREIGN KEY (owner) REFERENCES users (id))"
                    .to_owned(),
                "CREATE TABLE log (n INT PRIMARY KEY AUTO_INCREMENT, what VARCHAR(40))".to_owned(),
                "INSERT INTO users VALUES (1, 'old'), (2, 'old')".to_owned(),
                "INSERT INTO files VALUES (1, 1), (2, 2)".to_owned(),
                "CREATE VIEW names AS SELECT name FROM users".to_owned(),
                "CREATE PROCEDURE p () SELECT 'stored'".to_owned(),
                format!("CREATE TRIGGER {db}.t1 BEFORE INSERT ON {db}.users FOR EACH ROW INSERT INTO log (what) VALUES ('stored')"),
                "CREATE EVENT e ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01 00:00:00' DO DELETE FROM log".to_owned(),
            ])
            .await;
        let config = server.only(&[&db]);
        let recorded = Recorded::read(&config).await;
        server
            .run([
                format!("USE {db}"),
                format!("CREATE TABLE {db}_out.child (id INT PRIMARY KEY, u INT, CONSTRAINT far FOREIGN KEY (u) REFERENCES {db}.users (id) ON DELETE CASCADE)"),
                format!("INSERT INTO {db}_out.child VALUES (1, 1)"),
                "UPDATE users SET name = 'live'".to_owned(),
                "CREATE TABLE extra (id INT PRIMARY KEY)".to_owned(),
                "CREATE VIEW extra_view AS SELECT id FROM extra".to_owned(),
                "DROP TRIGGER t1".to_owned(),
                "CREATE TRIGGER live BEFORE INSERT ON users FOR EACH ROW INSERT INTO log (what) VALUES ('live')".to_owned(),
                "DROP PROCEDURE p".to_owned(),
                "CREATE FUNCTION q () RETURNS INT DETERMINISTIC RETURN 1".to_owned(),
            ])
            .await;
        Self { server, db, recorded, config }
    }

    /// Restores beside and returns what is to follow.
    pub async fn beside(&self, only: Option<&str>, was: &str) -> Exchange {
        self.beside_watched(only, was, NoMonitor::shared()).await
    }

    /// Restores beside and returns what is to follow, watched by `monitor`.
    pub async fn beside_watched(&self, only: Option<&str>, was: &str, monitor: SharedMonitor) -> Exchange {
        let naming = Naming::Swap { beside: BESIDE.to_owned(), was: was.to_owned() };
        let (target, exchange) = watched(&self.config, Choices { naming, ..Choices::default() }, monitor);
        let only =
            only.map(|table| Selection::new(&[format!("{}.{table}", self.db)]).unwrap()).unwrap_or_default();
        let options = WriteOptions { replace: true, only, ..WriteOptions::default() };
        self.recorded.write_to(target, options).await.expect("the restore beside works");
        exchange.expect("an exchange follows")
    }

    pub async fn ask(&self, sql: &str) -> String {
        self.server.ask(&sql.replace("{db}", &self.db)).await
    }

    /// Returns the names of all programs.
    pub async fn programs(&self) -> String {
        let sql = "SELECT GROUP_CONCAT(x ORDER BY x) FROM (\
            SELECT table_name AS x FROM information_schema.views WHERE table_schema = '{db}' UNION ALL \
            SELECT routine_name FROM information_schema.routines WHERE routine_schema = '{db}' UNION ALL \
            SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = '{db}' UNION ALL \
            SELECT event_name FROM information_schema.events WHERE event_schema = '{db}') AS t";
        self.ask(sql).await
    }

    pub async fn tables(&self, suffix: &str) -> String {
        let sql = "SELECT COALESCE(GROUP_CONCAT(table_name ORDER BY table_name), '') FROM information_schema.tables \
                   WHERE table_schema = '{db}+' AND table_type = 'BASE TABLE'";
        self.ask(&sql.replace('+', suffix)).await
    }

    /// Returns what an account may do with single routines.
    pub async fn granted(&self, account: &str) -> String {
        let sql = "SELECT COALESCE(GROUP_CONCAT(CONCAT(routine_type, ' ', routine_name, ' ', proc_priv) \
                   ORDER BY routine_type, routine_name), 'nothing') FROM mysql.procs_priv WHERE db = '{db}' AND user = '";
        self.ask(&format!("{sql}{account}'")).await
    }

    /// Returns where the foreign key of the table outside refers to.
    pub async fn parent(&self) -> String {
        let sql = "SELECT COALESCE(MAX(CONCAT(unique_constraint_schema, '.', referenced_table_name)), 'none') FROM \
                   information_schema.referential_constraints WHERE constraint_schema = '{db}_out'";
        self.ask(sql).await.replace(&self.db, "db")
    }

    /// Waits until the exchange waits for the tables, or does not any more.
    pub async fn until_moving(&self, wanted: bool) {
        let mut conn = self.server.conn().await;
        let db = format!("`{}`.", self.db);
        let is_move = |statement: &str| statement.starts_with("RENAME TABLE") && statement.contains(&db);
        while processes(&mut conn).await.iter().any(|one| is_move(&one.statement)) != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Checks that the live database is as [`Self::new`] left it.
    pub async fn is_untouched(&self) {
        assert_eq!(self.ask("SELECT GROUP_CONCAT(name) FROM {db}.users").await, "live,live");
        assert_eq!(self.tables("").await, "extra,files,log,users");
        assert_eq!(self.programs().await, "e,extra_view,live,names,q");
        assert_eq!(self.parent().await, "db.users");
        assert_eq!(self.tables(WAS).await, "", "nothing is left of the try");
        self.server.run([format!("INSERT INTO {}.users VALUES (7, 'x')", self.db)]).await;
        assert_eq!(self.ask("SELECT what FROM {db}.log").await, "live", "its trigger fires again");
    }

    pub async fn end(self) {
        clear(&self.server, &self.db).await;
    }
}

async fn a_database_is_exchanged_whole_and_the_old_one_kept(product: Product) {
    let scene = Scene::new(product, "swap_all").await;
    let exchange = scene.beside(None, WAS).await;
    assert_eq!(
        scene.ask("SELECT GROUP_CONCAT(name) FROM {db}.users").await,
        "live,live",
        "nothing is exchanged yet"
    );
    let notes = exchange.run().await.expect("the exchange works").join("\n");
    assert!(notes.contains(&format!("{}{WAS}", scene.db)), "{notes}");

    assert_eq!(scene.ask("SELECT GROUP_CONCAT(name) FROM {db}.users").await, "old,old");
    assert_eq!(scene.tables("").await, "files,log,users");
    assert_eq!(scene.programs().await, "e,names,p,t1");
    assert_eq!(scene.parent().await, "db.users", "the child that stays has the new parent");
    // What is in the database is what was stored, entry for entry.
    let now = Recorded::read(&scene.config).await;
    let told = |recorded: &Recorded| {
        let entries =
            recorded.entries.iter().map(|(meta, pieces, _)| (meta.path.to_string(), format!("{pieces:?}")));
        entries.collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(told(&now), told(&scene.recorded));

    assert_eq!(scene.tables(WAS).await, "extra,files,lifeboat_kept,log,users");
    assert_eq!(scene.ask(&format!("SELECT GROUP_CONCAT(name) FROM {{db}}{WAS}.users")).await, "live,live");
    let kept = scene.ask(&format!("SELECT GROUP_CONCAT(what) FROM {{db}}{WAS}.lifeboat_kept")).await;
    assert!(kept.contains("users/triggers.sql") && kept.contains("extra_view/view.sql"), "{kept}");
    assert_eq!(scene.tables(BESIDE).await, "");
    scene.server.run([format!("INSERT INTO {}.users VALUES (3, 'x')", scene.db)]).await;
    assert_eq!(scene.ask("SELECT what FROM {db}.log").await, "stored");
    scene.end().await;
}

async fn one_table_is_exchanged_and_children_that_stay_follow_it(product: Product) {
    let scene = Scene::new(product, "swap_one").await;
    let exchange = scene.beside(Some("users"), WAS).await;
    let notes = exchange.run().await.expect("the exchange works").join("\n");
    assert!(notes.contains("files") && notes.contains("child"), "{notes}");
    assert_eq!(scene.ask("SELECT GROUP_CONCAT(name) FROM {db}.users").await, "old,old");
    assert_eq!(scene.tables("").await, "extra,files,log,users");
    assert_eq!(scene.programs().await, "e,extra_view,names,q,t1", "only the table's trigger is another");
    assert_eq!(scene.tables(WAS).await, "lifeboat_kept,users");
    assert_eq!(scene.parent().await, "db.users");
    let definition = scene.ask("SELECT CONCAT(COUNT(*)) FROM information_schema.key_column_usage WHERE table_schema = '{db}' AND table_name = 'files' AND referenced_table_schema = '{db}'").await;
    assert_eq!(definition, "1");
    scene.server.run([format!("DELETE FROM {}.users WHERE id = 9", scene.db)]).await;
    let mut conn = scene.server.conn().await;
    let refused = conn.query_drop(format!("DELETE FROM {}.users WHERE id = 1", scene.db)).await;
    refused.expect_err("files still holds its user");
    conn.disconnect().await.unwrap();

    // A child alone: its parent stays, and it is tied to it again.
    let exchange = scene.beside(Some("files"), "__was_2").await;
    exchange.run().await.expect("the exchange works");
    let parents = scene.ask("SELECT GROUP_CONCAT(referenced_table_schema) FROM information_schema.key_column_usage WHERE table_schema = '{db}' AND table_name = 'files' AND referenced_table_name = 'users'").await;
    assert_eq!(parents, scene.db);
    scene.end().await;
}

/// Runs a statement; one that the server ends as a deadlock runs again, as in every program that writes.
async fn ask_again(conn: &mut mysql_async::Conn, sql: &str) {
    loop {
        let ran: mysql_async::Result<Vec<mysql_async::Row>> = conn.query(sql).await;
        match ran {
            Ok(_) => return,
            Err(mysql_async::Error::Server(error)) if error.code == 1213 => {}
            Err(error) => panic!("{error} in {sql}"),
        }
    }
}

async fn who_writes_and_reads_meanwhile_meets_no_gap(product: Product) {
    let scene = Scene::new(product, "swap_busy").await;
    let exchange = scene.beside(None, WAS).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut busy = Vec::new();
    for worker in 0..3_u64 {
        let (mut conn, db) = (scene.server.conn().await, scene.db.clone());
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        busy.push(tokio::spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let id = 1000 + n * 3 + worker;
                let all = [
                    format!("INSERT INTO {db}.users VALUES ({id}, 'busy')"),
                    format!("SELECT COUNT(*) FROM {db}.users JOIN {db}.files ON owner = users.id"),
                ];
                for sql in all {
                    ask_again(&mut conn, &sql).await;
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            conn.disconnect().await.unwrap();
        }));
    }
    let more_than = async |count: u64| {
        while done.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    more_than(30).await;
    exchange.run().await.expect("the exchange works");
    more_than(done.load(Ordering::Relaxed) + 30).await;
    stop.store(true, Ordering::Relaxed);
    for one in busy {
        one.await.expect("nobody met a missing table");
    }
    let written = done.load(Ordering::Relaxed);
    let rows = format!(
        "SELECT CONCAT((SELECT COUNT(*) FROM {{db}}.users WHERE name = 'busy') + (SELECT COUNT(*) FROM {{db}}{WAS}.users WHERE name = 'busy'))"
    );
    assert_eq!(scene.ask(&rows).await, written.to_string(), "each row is in the old table or in the new one");
    scene.end().await;
}

async fn an_open_transaction_holds_an_exchange_up_at_the_act_and_not_before(product: Product) {
    let scene = Scene::new(product, "swap_open").await;
    let exchange = scene.beside(Some("log"), WAS).await;
    let mut reader = scene.server.conn().await;
    reader.query_drop("START TRANSACTION").await.unwrap();
    reader.query_drop(format!("SELECT 1 FROM {}.log LIMIT 1", scene.db)).await.unwrap();
    let running = tokio::spawn(exchange.run());
    // What waits for the database itself holds all others up, and is not let go soon.
    scene.until_moving(true).await;
    reader.disconnect().await.unwrap();
    running.await.unwrap().expect("the exchange works");
    scene.end().await;
}

async fn an_exchange_that_cannot_end_puts_everything_back(product: Product) {
    let scene = Scene::new(product, "swap_fails").await;
    let exchange = scene.beside(Some("users"), WAS).await;
    // The name of the snapshot's trigger is taken by a table that stays.
    scene
        .server
        .run([format!(
            "CREATE TRIGGER {0}.t1 BEFORE INSERT ON {0}.extra FOR EACH ROW SET NEW.id = 1",
            scene.db
        )])
        .await;
    let failure = exchange.run().await.unwrap_err();
    assert!(failure.hints().iter().any(|hint| hint.contains("as it was before")), "{failure:?}");
    scene.server.run([format!("DROP TRIGGER {}.t1", scene.db)]).await;
    assert_eq!(scene.tables(BESIDE).await, "users", "what was restored waits beside");
    scene.is_untouched().await;
    scene.end().await;
}

/// Begins a transaction that uses a function of the live database: whoever drops it waits, after the act.
async fn user_of_a_function(scene: &Scene) -> mysql_async::Conn {
    let mut user = scene.server.conn().await;
    user.query_drop("START TRANSACTION").await.unwrap();
    let _one: Option<u64> = user.query_first(format!("SELECT {}.q()", scene.db)).await.unwrap();
    user
}

/// Waits until the exchange waits for the function, and returns the id of its session.
async fn waiting(scene: &Scene) -> u64 {
    let mut conn = scene.server.conn().await;
    let db = format!("`{}`.", scene.db);
    loop {
        let mut all = processes(&mut conn).await.into_iter();
        let drops = |statement: &str| statement.starts_with("DROP FUNCTION") && statement.contains(&db);
        if let Some(session) = all.find(|session| drops(&session.statement)) {
            return session.id;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn an_exchange_whose_session_dies_puts_everything_back(product: Product) {
    let scene = Scene::new(product, "swap_dies").await;
    let caller = own("swap_caller");
    let make = format!("CREATE USER {caller}");
    scene.server.run([make, format!("GRANT EXECUTE ON FUNCTION {}.q TO {caller}", scene.db)]).await;
    let exchange = scene.beside(None, WAS).await;
    let user = user_of_a_function(&scene).await;
    let running = tokio::spawn(exchange.run());
    let id = waiting(&scene).await;
    scene.server.run([format!("KILL {id}")]).await;
    user.disconnect().await.unwrap();
    let failure = running.await.unwrap().unwrap_err();
    assert!(failure.hints().iter().any(|hint| hint.contains("as it was before")), "{failure:?}");
    assert_eq!(scene.granted(&caller).await, "FUNCTION q Execute", "who could call it still can");
    scene.server.run([format!("DROP USER {caller}")]).await;
    scene.is_untouched().await;
    scene.end().await;
}

async fn an_exchange_that_dies_loses_no_table_and_can_be_run_again(product: Product) {
    let scene = Scene::new(product, "swap_crash").await;
    let exchange = scene.beside(None, WAS).await;
    let user = user_of_a_function(&scene).await;
    let running = tokio::spawn(exchange.run());
    waiting(&scene).await;
    // As a kill of the program does: nobody is left to put anything back.
    running.abort();
    running.await.unwrap_err();
    user.disconnect().await.unwrap();
    assert_eq!(scene.tables("").await, "files,log,users");
    assert_eq!(scene.ask("SELECT GROUP_CONCAT(name) FROM {db}.users").await, "old,old");
    assert_eq!(scene.tables(WAS).await, "extra,files,lifeboat_kept,log,users");
    let text = format!(
        "SELECT CONVERT(script USING utf8mb4) FROM {{db}}{WAS}.lifeboat_kept WHERE what LIKE '%users/triggers.sql'"
    );
    assert!(
        scene.ask(&text).await.contains("TRIGGER `live`") || scene.ask(&text).await.contains("TRIGGER live")
    );

    let exchange = scene.beside(None, "__was_2").await;
    exchange.run().await.expect("it can be run again");
    assert_eq!(scene.programs().await, "e,names,p,t1");
    assert_eq!(scene.ask("SELECT GROUP_CONCAT(name) FROM {db}.users").await, "old,old");
    assert_eq!(scene.ask(&format!("SELECT GROUP_CONCAT(name) FROM {{db}}{WAS}.users")).await, "live,live");
    assert_eq!(scene.parent().await, "db.users");
    scene.end().await;
}

async fn grants_on_single_routines_outlive_their_routines(product: Product) {
    let mut scene = Scene::new(product, "swap_grants").await;
    let (caller, role, db) = (own("swap_calls"), own("swap_role"), scene.db.clone());
    let mut all = vec![
        format!("CREATE USER {caller}"),
        format!("CREATE ROLE {role}"),
        format!("CREATE PROCEDURE {db}.p () SELECT 'live'"),
        format!("GRANT EXECUTE, ALTER ROUTINE ON PROCEDURE {db}.p TO {caller} WITH GRANT OPTION"),
        format!("GRANT EXECUTE ON FUNCTION {db}.q TO {caller}, {role}"),
    ];
    let mut expected = "FUNCTION q Execute,PROCEDURE p Execute,Alter Routine,Grant".to_owned();
    if product == Product::Mariadb {
        all.extend([
            "SET sql_mode = ORACLE".to_owned(),
            format!("CREATE PACKAGE {db}.k AS FUNCTION f RETURN INT; END"),
            format!("CREATE PACKAGE BODY {db}.k AS FUNCTION f RETURN INT AS BEGIN RETURN 1; END; END"),
            format!("GRANT EXECUTE ON PACKAGE {db}.k TO {caller}"),
            format!("GRANT EXECUTE ON PACKAGE BODY {db}.k TO {caller}"),
        ]);
        expected.push_str(",PACKAGE k Execute,PACKAGE BODY k Execute");
    }
    scene.server.run(all).await;
    assert_eq!(scene.granted(&caller).await, expected);
    scene.recorded = Recorded::read(&scene.config).await;
    let notes = scene.beside(None, WAS).await.run().await.expect("the exchange works");
    assert!(!notes.iter().any(|note| note.contains("grant went")), "{notes:?}");
    assert_eq!(scene.granted(&caller).await, expected);
    assert_eq!(scene.granted(&role).await, "FUNCTION q Execute");
    let kept = format!(
        "SELECT GROUP_CONCAT(CONVERT(script USING utf8mb4)) FROM {{db}}{WAS}.lifeboat_kept WHERE kind = 'grant'"
    );
    assert!(scene.ask(&kept).await.contains("GRANT Execute ON FUNCTION"), "they are kept as text too");

    // A database that is dropped as a whole leaves them, and they are good again with the routines.
    let options = WriteOptions { replace: true, ..WriteOptions::default() };
    scene.recorded.write_to(target(&scene.config), options).await.expect("the restore works");
    assert_eq!(scene.granted(&caller).await, expected);

    // Who cannot see them is told.
    let blind = own("swap_blind");
    scene
        .server
        .run([
            format!("CREATE USER {blind} IDENTIFIED BY 'x'"),
            format!("GRANT ALL ON `lbt%`.* TO {blind}"),
            format!(
                "GRANT RELOAD, PROCESS, {} ON *.* TO {blind}",
                match product {
                    Product::Mysql =>
                        "SYSTEM_VARIABLES_ADMIN, SET_ANY_DEFINER, CONNECTION_ADMIN, SYSTEM_USER, SHOW_ROUTINE, SUPER",
                    Product::Mariadb => "SUPER",
                }
            ),
        ])
        .await;
    if product == Product::Mariadb {
        // It has no privilege for the texts of routines alone.
        scene.server.run([format!("GRANT SELECT ON mysql.proc TO {blind}")]).await;
    }
    let seeing = scene.config.clone();
    scene.config = scene.server.as_user(seeing, &blind, "x");
    let notes = scene.beside(None, "__was_2").await.run().await.expect("the exchange works").join("\n");
    assert!(notes.contains("may not read grants on single routines"), "{notes}");
    scene.server.run([format!("DROP USER {caller}, {blind}"), format!("DROP ROLE {role}")]).await;
    scene.end().await;
}

async fn a_view_makes_room_for_a_table_of_its_name(product: Product) {
    let scene = Scene::new(product, "swap_view").await;
    let change = [
        format!("DROP TABLE {}.log", scene.db),
        format!("CREATE VIEW {0}.log AS SELECT id AS n, name AS what FROM {0}.users", scene.db),
    ];
    scene.server.run(&change).await;
    let is_view =
        "SELECT table_type FROM information_schema.tables WHERE table_schema = '{db}' AND table_name = 'log'";
    // One that cannot end brings the view back.
    let exchange = scene.beside(Some("[lu]*"), WAS).await;
    scene
        .server
        .run([format!(
            "CREATE TRIGGER {0}.t1 BEFORE INSERT ON {0}.extra FOR EACH ROW SET NEW.id = 1",
            scene.db
        )])
        .await;
    exchange.run().await.expect_err("the name of the trigger is taken");
    assert_eq!(scene.ask(is_view).await, "VIEW");
    assert_eq!(scene.ask("SELECT COUNT(*) FROM {db}.log").await, "2", "it shows what it showed");
    scene
        .server
        .run([format!("DROP TRIGGER {}.t1", scene.db), format!("DROP DATABASE {}{BESIDE}", scene.db)])
        .await;

    let notes = scene.beside(Some("log"), WAS).await.run().await.expect("the exchange works").join("\n");
    assert!(notes.contains("log made room"), "{notes}");
    assert_eq!(scene.ask(is_view).await, "BASE TABLE");
    let kept = scene.ask(&format!("SELECT GROUP_CONCAT(what) FROM {{db}}{WAS}.lifeboat_kept")).await;
    assert!(kept.contains("log/view.sql"), "{kept}");

    // And with the whole database.
    scene.server.run([format!("DROP TABLE {}.log", scene.db)].iter().chain(&change[1..])).await;
    scene.beside(None, "__was_2").await.run().await.expect("the exchange works");
    assert_eq!(scene.ask(is_view).await, "BASE TABLE");
    scene.end().await;
}

async fn an_exchange_that_cannot_end_leaves_no_database_and_no_view(product: Product) {
    let mut scene = Scene::new(product, "swap_leaves").await;
    let view = format!("{}/names/view.sql", scene.db);
    scene.recorded.replace(&view, |_| "DELIMITER ;;\nNONSENSE\n;;\nDELIMITER ;\n".to_owned());
    // A view alone, which was not there.
    scene.server.run([format!("DROP VIEW {}.names", scene.db)]).await;
    let exchange = scene.beside(Some("names"), WAS).await;
    let failure = exchange.run().await.expect_err("no server makes that view");
    assert!(failure.hints().iter().any(|hint| hint.contains("as it was before")), "{failure:?}");
    assert_eq!(scene.programs().await, "e,extra_view,live,q", "no stand-in is left");
    // A database that was not there.
    scene
        .server
        .run([format!("DROP TABLE {}_out.child", scene.db), format!("DROP DATABASE {}", scene.db)])
        .await;
    let exchange = scene.beside(None, WAS).await;
    let failure = exchange.run().await.expect_err("no server makes that view");
    assert!(failure.hints().iter().any(|hint| hint.contains("as it was before")), "{failure:?}");
    let left = "SELECT GROUP_CONCAT(schema_name ORDER BY LENGTH(schema_name)) FROM information_schema.schemata \
                WHERE schema_name LIKE '{db}%'";
    let left = scene.ask(left).await.replace(&scene.db, "db");
    assert_eq!(left, format!("db_out,db{BESIDE}"), "what was restored is beside");
    scene.end().await;
}
