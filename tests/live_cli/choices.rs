//! What a person chooses about a restore stands in the plan, and is done.

use crate::town::Town;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_database_comes_back_beside_the_live_one_and_takes_its_place() {
    let town = Town::with_policy("choices").await;
    let (server, db) = (&town.mysql, &town.db);
    town.run(&["backup"]).ends(0);
    server.run([format!("DELETE FROM {db}.users WHERE id > 4")]).await;
    let count = async |db: &str| server.ask(&format!("SELECT CONCAT(COUNT(*)) FROM {db}.users")).await;
    let base = ["restore", "latest", "--source", "mysql"];

    let plan = town.run(&[&base[..], &["--beside", "--plan", "--json"]].concat()).ends(0).json();
    let source = &plan["plan"]["sources"][0];
    let beside = source["names"][db].as_str().unwrap().to_owned();
    assert!(beside.starts_with(&format!("{db}__lb_")), "{plan}");
    assert_eq!(
        (&source["choices"]["events"], &source["choices"]["accounts"]),
        (&"disabled".into(), &"none".into())
    );
    assert_eq!(source["in_the_way"], serde_json::json!([]), "the live database is in nobody's way");
    let shown = town.run(&[&base[..], &["--beside", "--binlog", "off", "--plan"]].concat()).ends(0).out;
    assert!(
        shown.contains(&format!("{db} goes by the name {beside}")) && shown.contains("binlog off"),
        "{shown}"
    );

    town.run(&[&base[..], &["--beside", "--yes", "demo"]].concat()).ends(0);
    assert_eq!((count(&beside).await, count(db).await), ("50".to_owned(), "5".to_owned()));
    // What is left of it is in the way of the next one.
    town.run(&[&base[..], &["--swap", "--yes", "demo"]].concat()).ends(21).tells(&beside);
    let only = format!("{db}.users");
    let words = ["--swap", "--replace", "--only", &only, "--yes", "demo", "--json"];
    let shown = town.run(&[&base[..], &["--swap", "--only", &only, "--plan"]].concat()).ends(0).out;
    assert!(shown.contains("stays in the old ones"), "{shown}");
    server.run([format!("DROP DATABASE {beside}")]).await;
    let json = town.run(&[&base[..], &words[..]].concat()).ends(0).json();
    assert_eq!(count(db).await, "50");
    assert_eq!(
        json["restored"][0]["verified"], "digests",
        "the rows were compared before the exchange: {json}"
    );
    let notes = json["restored"][0]["notes"].to_string();
    let was = notes.split("in database ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(count(&was).await, "5");
    let left =
        format!("SELECT CONCAT(COUNT(*)) FROM information_schema.schemata WHERE schema_name = '{beside}'");
    assert_eq!(server.ask(&left).await, "0");

    let into = format!("mysql=mysql:///{db}_old");
    town.run(&[&base[..], &["--into", &into, "--yes", "demo"]].concat()).ends(0);
    assert_eq!(count(&format!("{db}_old")).await, "50");
    server.run([format!("DROP DATABASE {db}_old"), format!("DROP DATABASE {was}")]).await;
    town.end().await;
}
