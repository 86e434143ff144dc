//! An exchange and a restore that was interrupted in the same tables: it does not go on in those of somebody else.

use lifeboat::{
    error::ExitCode,
    flow::{FlowError, Selection, WriteOptions},
};
use mysql_async::prelude::Queryable;

use crate::{
    owed::callable,
    resume::is_noted,
    support::{Product, own},
    swap::{BESIDE, Scene, WAS},
};

crate::on_both!(
    an_interrupted_restore_does_not_go_on_in_exchanged_tables,
    an_exchange_that_puts_everything_back_leaves_an_interrupted_restore_to_go_on,
    a_restore_that_an_exchange_has_ended_stays_so_where_a_later_one_fails,
    grants_that_an_interrupted_restore_was_to_give_come_with_the_exchange,
);

/// Options of a restore in the place of what is there.
fn direct(n: u8) -> WriteOptions {
    let job = format!("{:060x}{n:04x}", std::process::id());
    WriteOptions { replace: true, job: Some(job), ..WriteOptions::default() }
}

/// Options that go on with it.
fn resuming(n: u8) -> WriteOptions {
    WriteOptions { replace: false, resume: true, ..direct(n) }
}

impl Scene {
    /// Begins a restore in the place of what is there; it breaks off behind the rows.
    async fn interrupted(&self, n: u8, only: Option<&str>) {
        let only = only.map(|table| Selection::new(&[format!("{}.{table}", self.db)]).unwrap());
        let options = WriteOptions { only: only.unwrap_or_default(), ..direct(n) };
        self.recorded.write_cut(&self.config, options).await.expect_err("the stream breaks off");
        assert!(self.goes_on(n).await, "it could be continued");
    }

    async fn goes_on(&self, n: u8) -> bool {
        is_noted(&self.config, &direct(n).job.unwrap()).await
    }
}

async fn an_interrupted_restore_does_not_go_on_in_exchanged_tables(product: Product) {
    let scene = Scene::new(product, "swap_notes").await;
    for only in [None, Some("users")] {
        scene.interrupted(1, None).await;
        let was = if only.is_none() { WAS } else { "__was_2" };
        let notes = scene.beside(only, was).await.run().await.expect("the exchange works").join("\n");
        assert!(notes.contains("cannot be continued"), "{notes}");
        assert!(!scene.goes_on(1).await);
        scene.server.run([format!("UPDATE {}.users SET name = 'ours'", scene.db)]).await;
        match scene.recorded.write(&scene.config, resuming(1)).await {
            Err(FlowError::Failed(failure)) => assert_eq!(failure.exit(), ExitCode::TargetNotEmpty),
            other => panic!("it is refused, not {other:?}"),
        }
        assert_eq!(scene.ask("SELECT GROUP_CONCAT(name) FROM {db}.users").await, "ours,ours");
    }
    // One of another table has lost nothing.
    scene.interrupted(2, Some("log")).await;
    let notes = scene.beside(Some("users"), "__was_3").await.run().await.expect("it works").join("\n");
    assert!(!notes.contains("cannot be continued"), "{notes}");
    assert!(scene.goes_on(2).await);
    let log = Selection::new(&[format!("{}.log", scene.db)]).unwrap();
    let going_on = WriteOptions { only: log, ..resuming(2) };
    scene.recorded.write(&scene.config, going_on).await.expect("it goes on");
    assert!(!scene.goes_on(2).await);
    scene.end().await;
}

async fn an_exchange_that_puts_everything_back_leaves_an_interrupted_restore_to_go_on(product: Product) {
    let scene = Scene::new(product, "swap_goes_on").await;
    scene.interrupted(3, None).await;
    let exchange = scene.beside(Some("users"), WAS).await;
    // The name of the snapshot's trigger is taken by a table that stays.
    let db = &scene.db;
    scene
        .server
        .run([
            format!("CREATE TABLE {db}.extra (id INT PRIMARY KEY)"),
            format!("CREATE TRIGGER {db}.t1 BEFORE INSERT ON {db}.extra FOR EACH ROW SET NEW.id = 1"),
        ])
        .await;
    let failure = exchange.run().await.unwrap_err();
    assert!(failure.hints().iter().any(|hint| hint.contains("as it was before")), "{failure:?}");
    assert!(scene.goes_on(3).await, "its tables are what they were");
    scene.server.run([format!("DROP TABLE {db}.extra")]).await;
    scene.recorded.write(&scene.config, resuming(3)).await.expect("it goes on");
    assert!(!scene.goes_on(3).await);
    assert_eq!(scene.ask("SELECT GROUP_CONCAT(name) FROM {db}.users").await, "old,old");
    assert_eq!(scene.programs().await, "e,names,p,t1");
    scene.end().await;
}

async fn a_restore_that_an_exchange_has_ended_stays_so_where_a_later_one_fails(product: Product) {
    let scene = Scene::new(product, "swap_ended").await;
    scene.interrupted(5, None).await;
    let db = &scene.db;
    // What an exchange leaves that dies after it moved the tables.
    scene
        .server
        .run([
            format!(
                "UPDATE lifeboat_restore.job SET accounts_begun = accounts_begun + 2 WHERE id IN \
                 (SELECT job FROM lifeboat_restore.written WHERE of_database = '{db}')"
            ),
            format!("CREATE TABLE {db}.extra (id INT PRIMARY KEY)"),
            format!("CREATE TRIGGER {db}.t1 BEFORE INSERT ON {db}.extra FOR EACH ROW SET NEW.id = 1"),
        ])
        .await;
    assert!(!scene.goes_on(5).await);
    scene.beside(Some("users"), WAS).await.run().await.unwrap_err();
    assert!(!scene.goes_on(5).await, "the tables are not those that it made");
    // One that works forgets it.
    scene.server.run([format!("DROP TABLE {db}.extra")]).await;
    scene.beside(Some("users"), "__was_2").await.run().await.expect("it works");
    scene.end().await;
}

async fn grants_that_an_interrupted_restore_was_to_give_come_with_the_exchange(product: Product) {
    let caller = own("swap_owed");
    let mut step = 0;
    let mut is_over = false;
    while !is_over {
        let scene = owing(product, &caller).await;
        assert_eq!(scene.granted(&caller).await, "nothing");
        is_over = !scene.dies(None, step).await;
        if !is_over {
            scene.server.run([format!("DROP DATABASE IF EXISTS {}{BESIDE}", scene.db)]).await;
            scene.beside(None, "__was_2").await.run().await.expect("it can be run again");
        }
        assert_eq!(scene.granted(&caller).await, "PROCEDURE p Execute", "died at step {step}");
        assert!(!scene.goes_on(4).await);
        step += 1;
        scene.end().await;
    }
    let scene = owing_and_dead_before_the_act(product, &caller).await;
    assert!(!scene.goes_on(4).await, "it is not known whether the tables were moved");
    scene.server.run([format!("DROP DATABASE {}{BESIDE}", scene.db)]).await;
    scene.beside(None, "__was_2").await.run().await.expect("it can be run again");
    assert_eq!(scene.granted(&caller).await, "PROCEDURE p Execute");
    scene.server.run([format!("DROP USER {caller}")]).await;
    scene.end().await;
}

/// Makes an interrupted restore that was to give this account a grant again.
async fn owing(product: Product, caller: &str) -> Scene {
    let scene = callable(product, "swap_owes", caller).await;
    scene.interrupted(4, None).await;
    scene
}

/// Kills an exchange that has ended an interrupted restore, and waits for the tables.
async fn owing_and_dead_before_the_act(product: Product, caller: &str) -> Scene {
    let scene = owing(product, caller).await;
    let exchange = scene.beside(None, WAS).await;
    let mut reader = scene.server.conn().await;
    reader.query_drop("START TRANSACTION").await.unwrap();
    reader.query_drop(format!("SELECT 1 FROM {}.users LIMIT 1", scene.db)).await.unwrap();
    let running = tokio::spawn(exchange.run());
    scene.until_moving(true).await;
    running.abort();
    running.await.unwrap_err();
    // Its statement waits a little longer than it does.
    scene.until_moving(false).await;
    reader.disconnect().await.unwrap();
    scene
}
