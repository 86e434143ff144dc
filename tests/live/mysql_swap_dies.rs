//! A lifeboat that dies in the middle of an exchange: the next one heals what it left.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use lifeboat::{
    event::{Event, Monitor},
    flow::WriteOptions,
};
use mysql_async::prelude::Queryable;
use sha2::{Digest, Sha256};

use crate::{
    support::{Product, own},
    swap::{BESIDE, Scene, WAS},
};

crate::on_both!(
    whatever_step_an_exchange_dies_at_the_next_one_heals_it,
    a_foreign_key_that_died_with_an_exchange_of_its_parent_comes_back_with_any_other,
    a_good_exchange_whose_session_dies_in_the_end_is_good,
    two_exchanges_of_one_database_do_not_meet,
);

/// Ends who is watched at one of the steps of an exchange, as a kill of the program does: nobody is left to put
/// anything back.
struct Death {
    is_near: AtomicBool,
    steps: AtomicUsize,
    at: usize,
}

impl Death {
    fn at(step: usize) -> Arc<Self> {
        Arc::new(Self { is_near: AtomicBool::new(false), steps: AtomicUsize::new(0), at: step })
    }
}

impl Monitor for Death {
    fn event(&self, event: Event) {
        let Event::Step { what, .. } = event else { return };
        let is_now =
            self.is_near.load(Ordering::SeqCst) && self.steps.fetch_add(1, Ordering::SeqCst) == self.at;
        assert!(!is_now, "killed at step {}: {what}", self.at);
    }
}

impl Scene {
    /// Exchanges, and dies at one of the steps; returns whether there was such a step.
    pub async fn dies(&self, only: Option<&str>, step: usize) -> bool {
        let death = Death::at(step);
        let exchange = self.beside_watched(only, WAS, Arc::clone(&death) as _).await;
        death.is_near.store(true, Ordering::SeqCst);
        match tokio::spawn(exchange.run()).await {
            Ok(done) => {
                done.expect("the exchange works");
                false
            }
            Err(died) => {
                assert!(died.is_panic(), "{died}");
                true
            }
        }
    }

    /// Returns where the foreign keys of this table refer to.
    async fn parents_of(&self, table: &str) -> String {
        let sql = format!(
            "SELECT COALESCE(GROUP_CONCAT(unique_constraint_schema, '.', referenced_table_name), 'none') FROM \
             information_schema.referential_constraints WHERE constraint_schema = '{}' AND table_name = '{table}'",
            self.db
        );
        self.server.ask(&sql).await.replace(&self.db, "db")
    }
}

async fn whatever_step_an_exchange_dies_at_the_next_one_heals_it(product: Product) {
    let caller = own("swap_heals");
    let mut steps = 0;
    loop {
        let scene = Scene::new(product, "swap_steps").await;
        let db = &scene.db;
        scene
            .server
            .run([
                format!("DROP USER IF EXISTS {caller}"),
                format!("CREATE USER {caller}"),
                format!("CREATE PROCEDURE {db}.p () SELECT 'live'"),
                format!("GRANT EXECUTE ON PROCEDURE {db}.p TO {caller}"),
            ])
            .await;
        if !scene.dies(None, steps).await {
            scene.server.run([format!("DROP USER {caller}")]).await;
            scene.end().await;
            break;
        }
        // The first one died with what it had restored; or it is exchanged already.
        scene.server.run([format!("DROP DATABASE IF EXISTS {db}{BESIDE}")]).await;
        scene.beside(None, "__was_2").await.run().await.expect("it can be run again");

        let at = |what: &str| format!("{what} after a death at step {steps}");
        assert_eq!(scene.ask("SELECT GROUP_CONCAT(name) FROM {db}.users").await, "old,old", "{}", at("rows"));
        assert_eq!(scene.tables("").await, "files,log,users", "{}", at("tables"));
        assert_eq!(scene.programs().await, "e,names,p,t1", "{}", at("programs"));
        assert_eq!(scene.parent().await, "db.users", "{}", at("a foreign key"));
        assert_eq!(scene.granted(&caller).await, "PROCEDURE p Execute", "{}", at("a grant"));
        // The live tables are in one of the two places, and the text of their trigger is with them.
        let first = scene.tables(WAS).await;
        let was = if first.contains("users") { WAS } else { "__was_2" };
        assert!(was == WAS || first.is_empty(), "{}: {first}", at("remains"));
        let rows = scene.ask(&format!("SELECT GROUP_CONCAT(name) FROM {{db}}{was}.users")).await;
        assert_eq!(rows, "live,live", "{}", at("old rows"));
        let kept = format!(
            "SELECT COALESCE(MAX(CONVERT(script USING utf8mb4)), 'none') FROM {{db}}{was}.lifeboat_kept WHERE kind = "
        );
        let trigger = scene.ask(&format!("{kept}'triggers'")).await;
        assert!(trigger.contains("VALUES ('live')"), "{}: {trigger}", at("a trigger's text"));
        let key = scene.ask(&format!("{kept}'foreign key' AND of_table = 'child'")).await;
        let drop = key.find("DROP FOREIGN KEY `far`").expect("the old one goes first");
        assert!(key[drop..].contains(";;") && key[drop..].contains("ADD CONSTRAINT `far`"), "{key}");
        let dead = "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'lifeboat_kept' \
                    AND table_schema LIKE '{db}%' AND table_comment NOT LIKE '%has ended'";
        assert_eq!(scene.ask(dead).await, "0", "{}", at("what is not marked as ended"));
        scene.end().await;
        steps += 1;
    }
    assert!(steps >= 8, "{steps} steps");
}

async fn a_foreign_key_that_died_with_an_exchange_of_its_parent_comes_back_with_any_other(product: Product) {
    // Until it has died between the act and the foreign keys, and with one that is dropped and not made again.
    let mut seen = std::collections::BTreeSet::new();
    let mut step = 3;
    while seen.len() < 2 {
        let scene = Scene::new(product, "swap_keys").await;
        assert!(scene.dies(Some("users"), step).await, "foreign keys die at some step: {seen:?}");
        let now = [scene.parents_of("files").await, scene.parent().await];
        seen.extend(now.iter().filter(|parent| *parent != "db.users").cloned());
        // Another table is exchanged, which has nothing to do with it.
        scene.beside(Some("log"), "__was_2").await.run().await.expect("the exchange works");
        assert_eq!(
            [scene.parents_of("files").await, scene.parent().await],
            ["db.users", "db.users"],
            "{step}: {now:?}"
        );
        // And the table itself: nothing that is put aside holds it up.
        scene.server.run([format!("DROP DATABASE IF EXISTS {}{BESIDE}", scene.db)]).await;
        scene.beside(Some("users"), "__was_3").await.run().await.expect("the exchange works");
        assert_eq!(
            [scene.parents_of("files").await, scene.parent().await],
            ["db.users", "db.users"],
            "{step}"
        );
        scene.server.run([format!("DROP DATABASE {}__was_3", scene.db)]).await;
        scene.end().await;
        step += 1;
    }
    assert!(seen.contains("none") && seen.contains(&format!("db{WAS}.users")), "{seen:?}");
}

/// Kills the session of the exchange when all programs are made.
struct Killer {
    server: crate::support::Server,
    lock: String,
}

impl Monitor for Killer {
    fn event(&self, event: Event) {
        let Event::Step { what, .. } = event else { return };
        if !what.contains("grants on routines") {
            return;
        }
        let asking = async {
            let mut conn = self.server.conn().await;
            let sql = format!("SELECT IS_USED_LOCK('{}')", self.lock);
            let id: Option<Option<u64>> = conn.query_first(sql).await.unwrap();
            let id = id.flatten().expect("the exchange keeps others away");
            conn.query_drop(format!("KILL {id}")).await.unwrap();
            conn.disconnect().await.unwrap();
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(asking));
    }
}

/// Returns the name of the lock that keeps others away from a database.
fn lock_of(db: &str) -> String {
    format!("lifeboat_restore.{}", &hex::encode(Sha256::digest(format!("database {db}")))[..32])
}

async fn a_good_exchange_whose_session_dies_in_the_end_is_good(product: Product) {
    let scene = Scene::new(product, "swap_late").await;
    let server = crate::support::Server::shared(product).await;
    let killer = Killer { server, lock: lock_of(&scene.db) };
    let exchange = scene.beside_watched(None, WAS, Arc::new(killer)).await;
    let notes = exchange.run().await.expect("all is exchanged").join("\n");
    assert!(notes.contains("the exchange is good"), "{notes}");
    assert_eq!(scene.programs().await, "e,names,p,t1");
    scene.end().await;
}

async fn two_exchanges_of_one_database_do_not_meet(product: Product) {
    let scene = Scene::new(product, "swap_twice").await;
    let exchange = scene.beside(None, WAS).await;
    let mut other = scene.server.conn().await;
    let got: Option<u8> =
        other.query_first(format!("SELECT GET_LOCK('{}', 0)", lock_of(&scene.db))).await.unwrap();
    assert_eq!(got, Some(1));
    let failure = exchange.run().await.unwrap_err();
    assert_eq!(failure.exit(), lifeboat::error::ExitCode::Busy, "{failure:?}");
    assert_eq!(scene.programs().await, "e,extra_view,live,names,q", "nothing was touched");
    // So does a restore in its place.
    let options = WriteOptions { replace: true, ..WriteOptions::default() };
    let refused = scene.recorded.write(&scene.config, options).await;
    refused.expect_err("it waits for nobody for long");
    other.disconnect().await.unwrap();
    scene.end().await;
}
