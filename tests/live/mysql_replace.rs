//! What `--replace` removes, and what it leaves alone.

use lifeboat::{
    error::ExitCode,
    flow::{Fit, FlowError, FlowResult, Piece, Problem, STREAM_DEPTH, Tally, WriteOptions, channel, settle},
    policy::MysqlConfig,
};

use crate::{
    failures::account,
    rows::Recorded,
    support::{Product, Server, own, target},
};

crate::on_both!(
    what_no_backup_has_outlives_a_database_that_is_replaced,
    programs_make_room_where_their_database_is_not_dropped,
    what_a_server_refuses_is_left_out_only_where_it_does_not_know_it,
);

fn replacing() -> WriteOptions {
    WriteOptions { replace: true, ..WriteOptions::default() }
}

/// Returns the names of all that a database holds.
async fn all_of(server: &Server, db: &str) -> String {
    let sql = format!(
        "SELECT GROUP_CONCAT(name ORDER BY name) FROM (SELECT table_name AS name FROM information_schema.tables WHERE \
         table_schema = '{db}' UNION ALL SELECT routine_name FROM information_schema.routines WHERE routine_schema = \
         '{db}' UNION ALL SELECT event_name FROM information_schema.events WHERE event_schema = '{db}' UNION ALL \
         SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = '{db}') everything"
    );
    server.ask(&sql).await
}

/// Returns the grants on single routines of a database that an account has.
async fn granted(server: &Server, db: &str, account: &str) -> String {
    let sql = format!(
        "SELECT GROUP_CONCAT(routine_name, ' ', proc_priv ORDER BY routine_name) FROM mysql.procs_priv WHERE db = \
         '{db}' AND user = '{account}'"
    );
    server.ask(&sql).await
}

async fn what_no_backup_has_outlives_a_database_that_is_replaced(product: Product) {
    let server = Server::shared(product).await;
    let (db, caller) = (&own("spared"), &own("spared_u"));
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
            format!("CREATE TABLE {db}.users (id INT PRIMARY KEY, v VARCHAR(9))"),
            format!("INSERT INTO {db}.users VALUES (1, 'then')"),
            format!("CREATE PROCEDURE {db}.then_p() SELECT 1"),
            format!("CREATE VIEW {db}.seen AS SELECT id FROM {db}.users"),
            // The log refers to a table that is replaced, and has a trigger and a view of its own.
            format!(
                "CREATE TABLE {db}.log_a (id INT PRIMARY KEY, user INT, CONSTRAINT whose FOREIGN KEY (user) REFERENCES \
                 {db}.users (id))"
            ),
            format!("INSERT INTO {db}.log_a VALUES (7, 1)"),
            format!("CREATE TRIGGER {db}.log_t BEFORE INSERT ON {db}.log_a FOR EACH ROW SET NEW.user = 1"),
            format!("CREATE VIEW {db}.log_v AS SELECT id FROM {db}.log_a"),
        ])
        .await;
    let mut config = server.only(&[db]);
    config.exclude.push(format!("{db}.log_*"));
    let recorded = Recorded::read(&config).await;
    server
        .run([
            format!("UPDATE {db}.users SET v = 'now'"),
            format!("CREATE TABLE {db}.later (id INT PRIMARY KEY)"),
            format!("CREATE FUNCTION {db}.later_f() RETURNS INT DETERMINISTIC RETURN 1"),
            format!("CREATE EVENT {db}.later_e ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1"),
            format!("DROP USER IF EXISTS {caller}"),
            format!("CREATE USER {caller}"),
            format!("GRANT EXECUTE ON PROCEDURE {db}.then_p TO {caller}"),
            format!("GRANT EXECUTE ON FUNCTION {db}.later_f TO {caller}"),
        ])
        .await;
    let told =
        format!("database {db}: 3 tables, 3 programs; it keeps what no backup has: {db}.log_a, {db}.log_v");
    let state = target(&config).inspect(&recorded.inventory).await.expect("the target is looked at");
    assert_eq!(state.in_the_way, [told]);
    recorded.write(&config, replacing()).await.expect("it is replaced");
    assert_eq!(all_of(&server, db).await, "log_a,log_t,log_v,seen,then_p,users");
    assert_eq!(granted(&server, db, caller).await, "then_p Execute", "what it is for came back");
    assert_eq!(server.ask(&format!("SELECT v FROM {db}.users")).await, "then");
    assert_eq!(server.ask(&format!("SELECT CONCAT(id, user) FROM {db}.log_a")).await, "71");
    // The foreign key of what was kept holds on to the new table.
    let mut conn = server.conn().await;
    let refused =
        mysql_async::prelude::Queryable::query_drop(&mut conn, format!("DELETE FROM {db}.users")).await;
    assert!(refused.is_err(), "the log still refers to its user");
    conn.disconnect().await.expect("the server says goodbye");
    // Where only that is there, nothing is in the way.
    let kept_only: Vec<String> =
        [format!("DROP VIEW {db}.seen"), format!("DROP PROCEDURE {db}.then_p")].into();
    server.run(kept_only).await;
    server.run(["SET foreign_key_checks = 0".to_owned(), format!("DROP TABLE {db}.users")]).await;
    recorded.write(&config, WriteOptions::default()).await.expect("nothing is in the way");
    server.run([format!("DROP DATABASE {db}"), format!("DROP USER {caller}")]).await;
}

/// Writes a snapshot that lacks a table, as one that is partial does.
async fn write_partial(
    recorded: &Recorded,
    config: &MysqlConfig,
    lacks: &str,
    options: WriteOptions,
) -> FlowResult<Tally> {
    let (sink, stream) = channel(STREAM_DEPTH);
    let replay = async move {
        let come: Vec<String> = recorded.inventory.iter().filter(|item| *item != lacks).cloned().collect();
        sink.announce(come.clone()).await?;
        sink.report(Problem { what: lacks.to_owned(), why: "it could not be read".to_owned() }).await?;
        for (meta, pieces, trailer) in recorded.entries.iter().filter(|(meta, ..)| meta.item != lacks) {
            let mut body = sink.begin(meta.clone()).await?;
            for piece in pieces {
                if let Piece::Data(bytes) = piece {
                    body.write(bytes.clone()).await?;
                }
            }
            body.finish_with(trailer.clone()).await?;
        }
        for item in &come {
            sink.complete(item);
        }
        sink.finish(recorded.point.clone()).await
    };
    let (sent, written) = tokio::join!(replay, target(config).write(options, stream));
    settle(sent, written).map(|((), tally)| tally)
}

async fn programs_make_room_where_their_database_is_not_dropped(product: Product) {
    let server = Server::shared(product).await;
    let (db, caller) = (&own("partly"), &own("partly_u"));
    let programs = |word: &str| {
        vec![
            format!("CREATE PROCEDURE {db}.`a ``p`() SELECT '{word}' AS v"),
            format!("CREATE FUNCTION {db}.f() RETURNS VARCHAR(9) DETERMINISTIC RETURN '{word}'"),
            format!("CREATE EVENT {db}.e ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT '{word}'"),
            format!("CREATE OR REPLACE VIEW {db}.v AS SELECT '{word}' AS v"),
        ]
    };
    let mut all = vec![
        format!("DROP DATABASE IF EXISTS {db}"),
        format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
        format!("CREATE TABLE {db}.kept (id INT PRIMARY KEY)"),
        format!("CREATE TABLE {db}.users (id INT PRIMARY KEY, v VARCHAR(9))"),
        format!("CREATE TRIGGER {db}.t BEFORE INSERT ON {db}.users FOR EACH ROW SET NEW.v = 'then'"),
    ];
    all.extend(programs("then"));
    server.run(all).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    // Since then: other programs of these names, a trigger of that name on another table, and what is nobody else's.
    let mut since = vec![
        format!("DROP PROCEDURE {db}.`a ``p`"),
        format!("DROP FUNCTION {db}.f"),
        format!("DROP EVENT {db}.e"),
        format!("DROP TRIGGER {db}.t"),
        format!("CREATE TRIGGER {db}.t BEFORE INSERT ON {db}.kept FOR EACH ROW SET NEW.id = 9"),
        format!("CREATE PROCEDURE {db}.own() SELECT 1"),
        format!("INSERT INTO {db}.kept VALUES (1)"),
    ];
    since.extend(programs("now"));
    since.extend([
        format!("DROP USER IF EXISTS {caller}"),
        format!("CREATE USER {caller}"),
        format!("GRANT EXECUTE, ALTER ROUTINE ON PROCEDURE {db}.`a ``p` TO {caller} WITH GRANT OPTION"),
        format!("GRANT EXECUTE ON FUNCTION {db}.f TO {caller}"),
        format!("GRANT EXECUTE ON PROCEDURE {db}.own TO {caller}"),
    ]);
    server.run(since).await;
    let lacks = format!("{db}.kept");
    let tally = write_partial(&recorded, &config, &lacks, replacing()).await.expect("the rest comes");
    assert_eq!(tally.left_out, []);
    let notes = tally.notes.join("\n");
    for name in ["procedure `a ``p`", "function `f`", "event `e`", "trigger "] {
        assert!(notes.contains(name), "{name} is not in {notes}");
    }
    assert_eq!(server.ask(&format!("SELECT CONCAT({db}.f(), v) FROM {db}.v")).await, "thenthen");
    assert_eq!(server.ask(&format!("CALL {db}.`a ``p`()")).await, "then");
    server.run([format!("INSERT INTO {db}.users (id) VALUES (5)")]).await;
    assert_eq!(server.ask(&format!("SELECT v FROM {db}.users WHERE id = 5")).await, "then");
    assert_eq!(
        server.ask(&format!("SELECT CONCAT(COUNT(*)) FROM {db}.kept")).await,
        "1",
        "nothing replaces it"
    );
    assert_eq!(all_of(&server, db).await, "a `p,e,f,kept,own,t,users,v");
    assert_eq!(
        granted(&server, db, caller).await,
        "a `p Execute,Alter Routine,Grant,f Execute,own Execute",
        "grants outlive the routines that made room"
    );
    server.run([format!("DROP DATABASE {db}"), format!("DROP USER {caller}")]).await;
}

async fn what_a_server_refuses_is_left_out_only_where_it_does_not_know_it(product: Product) {
    let server = Server::shared(product).await;
    let (db, user) = (&own("unfit"), &own("unfit_u"));
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
            format!("CREATE TABLE {db}.t (id INT PRIMARY KEY)"),
            format!("CREATE PROCEDURE {db}.p() SELECT 1"),
        ])
        .await;
    let config = server.only(&[db]);
    let mut recorded = Recorded::read(&config).await;
    server.run([format!("DROP DATABASE {db}")]).await;
    let unfit = || WriteOptions { fit: Fit { leave_out: true, ..Fit::default() }, ..replacing() };

    // A right that is missing says nothing of the procedure.
    account(&server, user, &[&format!("SELECT, INSERT, CREATE, ALTER, INDEX, DROP ON {db}.*")]).await;
    let poor = server.as_user(config.clone(), user, "x");
    match recorded.write(&poor, unfit()).await {
        Err(FlowError::Failed(failure)) => {
            assert_eq!(failure.exit(), ExitCode::Failed);
            let told = failure.chain().join(": ");
            assert!(told.contains("make the routines") || told.contains("grants"), "{told}");
        }
        other => panic!("a failure, not {other:?}"),
    }
    // A word that the server does not know does.
    recorded.replace(&format!("{db}/routines.sql"), |script| {
        assert!(script.contains("SELECT 1"), "{script}");
        script.replace("SELECT 1", "SELEKT 1")
    });
    let failed = recorded.write(&config, replacing()).await;
    assert!(matches!(failed, Err(FlowError::Failed(_))), "nobody left it out: {failed:?}");
    let tally = recorded.write(&config, unfit()).await.expect("the rest comes");
    assert!(tally.notes.iter().any(|note| note.contains("could not be made")), "{:?}", tally.notes);
    server.run([format!("DROP DATABASE {db}"), format!("DROP USER {user}")]).await;
}
