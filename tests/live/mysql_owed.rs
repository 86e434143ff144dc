//! Grants on routines that a restore was to give again when it died: whoever writes the same tables next gives them.

use lifeboat::{
    error::ExitCode,
    flow::{FlowError, WriteOptions},
};

use crate::{
    failures::account,
    on_both,
    resume::is_noted,
    support::{Product, own},
    swap::Scene,
};

on_both!(grants_that_a_dead_restore_owes_outlive_another_that_dies_as_it_makes_room);

fn replacing(n: u8) -> WriteOptions {
    let job = format!("{:060x}{n:04x}", std::process::id());
    WriteOptions { replace: true, job: Some(job), ..WriteOptions::default() }
}

async fn grants_that_a_dead_restore_owes_outlive_another_that_dies_as_it_makes_room(product: Product) {
    let (caller, poor) = (own("owed"), own("owed_poor"));
    // Who comes then: a third one, and the first one itself, anew.
    for then in [8, 6] {
        let mut scene = Scene::new(product, "owes").await;
        let db = scene.db.clone();
        // Where a table of no backup stays, programs make room one by one, and the server forgets the grants on them.
        scene.config.exclude.push(format!("{db}.extra"));
        scene
            .server
            .run([
                format!("DROP USER IF EXISTS {caller}"),
                format!("CREATE USER {caller}"),
                format!("CREATE PROCEDURE {db}.p () SELECT 'live'"),
                format!("GRANT EXECUTE ON PROCEDURE {db}.p TO {caller}"),
            ])
            .await;
        scene.recorded.write_cut(&scene.config, replacing(6)).await.expect_err("the stream breaks off");
        assert_eq!(scene.granted(&caller).await, "nothing");

        // All but the right to remove anything.
        let rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, REFERENCES, TRIGGER, EVENT, CREATE VIEW, \
                      SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EXECUTE, LOCK TABLES";
        let grants = [
            format!("{rights} ON {db}.*"),
            "ALL ON lifeboat_restore.*".to_owned(),
            "SELECT ON mysql.*".to_owned(),
            "PROCESS ON *.*".to_owned(),
        ];
        account(&scene.server, &poor, &grants.each_ref().map(String::as_str)).await;
        let config = scene.server.as_user(scene.config.clone(), &poor, "x");
        match scene.recorded.write(&config, replacing(7)).await {
            Err(FlowError::Failed(failure)) => {
                assert_eq!(failure.exit(), ExitCode::Failed);
                assert!(failure.chain().join(": ").contains("DROP"), "{failure:?}");
            }
            other => panic!("it may not drop a table, not {other:?}"),
        }
        let job = |n| replacing(n).job.unwrap();
        assert!(!is_noted(&scene.config, &job(6)).await, "the first one cannot go on");

        scene.recorded.write(&scene.config, replacing(then)).await.expect("the restore works");
        assert_eq!(scene.granted(&caller).await, "PROCEDURE p Execute", "given by {then}");
        scene.server.run([format!("DROP USER {caller}, {poor}")]).await;
        scene.end().await;
    }
}
