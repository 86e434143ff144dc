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

on_both!(
    grants_that_a_dead_restore_owes_outlive_another_that_dies_as_it_makes_room,
    grants_that_went_with_what_was_in_the_way_are_given_by_whoever_comes_next,
);

fn job(n: u8) -> String {
    format!("{:060x}{n:04x}", std::process::id())
}

fn replacing(n: u8) -> WriteOptions {
    WriteOptions { replace: true, job: Some(job(n)), ..WriteOptions::default() }
}

/// All rights that a restore into the place of something needs, without those for accounts and settings.
const RIGHTS: [&str; 18] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "ALTER",
    "INDEX",
    "REFERENCES",
    "TRIGGER",
    "EVENT",
    "DROP",
    "CREATE VIEW",
    "SHOW VIEW",
    "CREATE ROUTINE",
    "ALTER ROUTINE",
    "EXECUTE",
    "LOCK TABLES",
    "CREATE TEMPORARY TABLES",
];

/// A database with a procedure that this account may call. A table of no backup stays in it, so that programs make room
/// one by one, and the server forgets the grants on them.
pub async fn callable(product: Product, name: &str, caller: &str) -> Scene {
    let mut scene = Scene::new(product, name).await;
    let db = scene.db.clone();
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
    scene
}

/// Begins a restore that fails for want of one right, as it makes room; it has the right on these routines.
async fn fails_without(product: Product, scene: &Scene, right: &str, but_on: &[&str]) {
    let poor = own("owed_poor");
    let rights: Vec<&str> = RIGHTS.into_iter().filter(|one| *one != right).collect();
    let grants = [
        format!("{} ON {}.*", rights.join(", "), scene.db),
        "ALL ON lifeboat_restore.*".to_owned(),
        "SELECT ON mysql.*".to_owned(),
        // The programs are those of an account that has it.
        if product == Product::Mysql { "SYSTEM_USER ON *.*" } else { "PROCESS ON *.*" }.to_owned(),
    ];
    account(&scene.server, &poor, &grants.each_ref().map(String::as_str)).await;
    let on = but_on.iter().map(|routine| format!("GRANT {right} ON {routine} TO {poor}"));
    scene.server.run([format!("USE {}", scene.db)].into_iter().chain(on)).await;
    let config = scene.server.as_user(scene.config.clone(), &poor, "x");
    match scene.recorded.write(&config, replacing(7)).await {
        Err(FlowError::Failed(failure)) => {
            assert_eq!(failure.exit(), ExitCode::Failed);
            let told = failure.chain().join(": ");
            assert!(told.contains("remove ") && told.contains("denied"), "{told}");
        }
        other => panic!("it lacks {right}: {other:?}"),
    }
    assert!(!is_noted(&scene.config, &job(7)).await, "there is no room yet");
    scene.server.run([format!("DROP USER {poor}")]).await;
}

async fn grants_that_a_dead_restore_owes_outlive_another_that_dies_as_it_makes_room(product: Product) {
    let caller = own("owed");
    // Who comes then: a third one, and the first one itself, anew.
    for then in [8, 6] {
        let scene = callable(product, "owes", &caller).await;
        scene.recorded.write_cut(&scene.config, replacing(6)).await.expect_err("the stream breaks off");
        assert_eq!(scene.granted(&caller).await, "nothing");
        fails_without(product, &scene, "DROP", &[]).await;
        assert!(!is_noted(&scene.config, &job(6)).await, "the first one cannot go on");
        scene.recorded.write(&scene.config, replacing(then)).await.expect("the restore works");
        assert_eq!(scene.granted(&caller).await, "PROCEDURE p Execute", "given by {then}");
        scene.server.run([format!("DROP USER {caller}")]).await;
        scene.end().await;
    }
}

async fn grants_that_went_with_what_was_in_the_way_are_given_by_whoever_comes_next(product: Product) {
    let caller = own("owing");
    for then in [8, 7] {
        let scene = callable(product, "owing", &caller).await;
        // It makes room behind the others.
        scene.server.run([format!("CREATE PROCEDURE {}.zz () SELECT 1", scene.db)]).await;
        fails_without(product, &scene, "ALTER ROUTINE", &["FUNCTION q", "PROCEDURE p"]).await;
        assert_eq!(scene.granted(&caller).await, "nothing", "the procedure has made room");
        scene.recorded.write(&scene.config, replacing(then)).await.expect("the restore works");
        assert_eq!(scene.granted(&caller).await, "PROCEDURE p Execute", "given by {then}");
        scene.server.run([format!("DROP USER {caller}")]).await;
        scene.end().await;
    }
}
