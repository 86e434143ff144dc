//! What stands in the way of a restore is told before anything is touched, and telling it touches nothing.

use lifeboat::flow::{Preflight, Selection, Weight, WriteOptions};

use crate::{
    rows::Recorded,
    support::{Product, Server},
};

crate::on_both!(
    a_plan_tells_what_is_needed_and_changes_nothing,
    what_blocks_is_told_of_a_server_that_is_set_otherwise
);

/// Counters of statements that would have changed something.
const CHANGES: &str = "SELECT GROUP_CONCAT(variable_name, '=', variable_value ORDER BY variable_name) FROM \
    {schema}.global_status WHERE variable_name IN ('Com_create_table', 'Com_create_db', 'Com_drop_table', 'Com_drop_db', \
    'Com_insert', 'Com_insert_select', 'Com_delete', 'Com_update', 'Com_load', 'Com_alter_table', 'Com_alter_db', \
    'Com_create_user', 'Com_drop_user', 'Com_grant', 'Com_truncate', 'Com_replace', 'Com_create_view', \
    'Com_create_procedure', 'Com_create_trigger', 'Com_create_event', 'Com_rename_table', \
    'Com_commit')";

async fn changes(server: &Server, product: Product) -> String {
    let schema = if product == Product::Mysql { "performance_schema" } else { "information_schema" };
    server.ask(&CHANGES.replace("{schema}", schema)).await
}

const SAMPLE: [&str; 12] = [
    "CREATE DATABASE lbt_pre CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    "USE lbt_pre",
    "CREATE TABLE keyed (id INT PRIMARY KEY, v VARCHAR(20), KEY (v))",
    "INSERT INTO keyed VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    "CREATE TABLE keyless (id INT)",
    "INSERT INTO keyless VALUES (7)",
    "CREATE TABLE wide (id INT PRIMARY KEY, b LONGBLOB)",
    "INSERT INTO wide VALUES (1, REPEAT('x', 3000000))",
    "CREATE VIEW seen AS SELECT id FROM keyed",
    "CREATE PROCEDURE p () SELECT 1",
    "CREATE DEFINER = nobody@nowhere PROCEDURE q () SELECT 1",
    "CREATE TRIGGER t BEFORE INSERT ON keyless FOR EACH ROW SET NEW.id = 1",
];

fn lines(found: &Preflight, weight: Weight) -> Vec<String> {
    let of_weight = found.remarks.iter().filter(|remark| remark.weight == weight);
    of_weight.map(|remark| format!("{}: {}", remark.what, remark.why)).collect()
}

async fn a_plan_tells_what_is_needed_and_changes_nothing(product: Product) {
    let server = Server::empty(product).await;
    server.run(SAMPLE).await;
    let config = server.only(&["lbt_pre"]);
    let recorded = Recorded::read(&config).await;
    server
        .run([
            "CREATE USER poor@'%' IDENTIFIED BY 'x'",
            "GRANT SELECT, INSERT, CREATE ON lbt_pre.* TO poor@'%'",
        ])
        .await;
    let checksum = "CHECKSUM TABLE lbt_pre.keyed, lbt_pre.keyless, lbt_pre.wide";
    let before = (changes(&server, product).await, server.ask(checksum).await);

    let found = recorded.preflight(&config, WriteOptions::default()).await;
    assert_eq!((found.tables, found.rows), (3, 5));
    assert!(found.needed_bytes > 6_000_000 && found.needed_bytes < 9_000_000, "{}", found.needed_bytes);
    assert!(found.room.contains("the server does not tell"), "{}", found.room);
    assert_eq!(lines(&found, Weight::Blocks), [""; 0]);
    assert_eq!(lines(&found, Weight::DoesNotFit), [""; 0]);
    let notes = lines(&found, Weight::Note);
    assert!(notes.iter().any(|note| note.starts_with("definer `nobody`@`nowhere`: ")), "{notes:?}");
    let only = Selection::new(&["lbt_pre.keyed[2..]".to_owned()]).unwrap();
    let ranged = recorded.preflight(&config, WriteOptions { only, ..WriteOptions::default() }).await;
    assert_eq!(ranged.in_the_way, ["table lbt_pre.keyed: 2 rows with id from 2"]);

    let poor = server.as_user(config.clone(), "poor", "x");
    let found = recorded.preflight(&poor, WriteOptions { replace: true, ..WriteOptions::default() }).await;
    let blocks = lines(&found, Weight::Blocks);
    let definer = if product == Product::Mysql { "SET_ANY_DEFINER" } else { "SET USER" };
    assert_eq!(blocks.len(), 2, "{blocks:?}");
    assert!(blocks[0].contains("from an account with SUPER only"), "a trigger, and a binlog: {blocks:?}");
    for privilege in ["ALTER", "INDEX", "DROP", "DELETE", "CREATE VIEW", "CREATE ROUTINE", "TRIGGER", definer]
    {
        assert!(blocks[1].contains(privilege), "{privilege}: {blocks:?}");
    }
    assert!(!blocks[1].contains("SELECT") && blocks[1].contains("TO `poor`@`%`"), "{blocks:?}");

    assert_eq!((changes(&server, product).await, server.ask(checksum).await), before, "nothing was changed");
}

async fn what_blocks_is_told_of_a_server_that_is_set_otherwise(product: Product) {
    let from = Server::shared(product).await;
    let db = crate::support::own("pre");
    let sample: Vec<String> = SAMPLE.iter().map(|one| one.replace("lbt_pre", &db)).collect();
    from.run([format!("DROP DATABASE IF EXISTS {db}")]).await;
    from.run(sample).await;
    from.run([
        format!("CREATE TABLE {db}.Twin (id INT PRIMARY KEY)"),
        format!("CREATE TABLE {db}.twin (id INT PRIMARY KEY)"),
        format!("CREATE VIEW {db}.Keyless AS SELECT 1 AS a"),
    ])
    .await;
    let recorded = Recorded::read(&from.only(&[&db])).await;
    from.run([format!("DROP DATABASE {db}")]).await;

    let mut arguments = vec!["--lower-case-table-names=1", "--local-infile=OFF", "--max-allowed-packet=2M"];
    if product == Product::Mysql {
        arguments.push("--sql-require-primary-key=ON");
    }
    let to = Server::empty_with(product, &arguments).await;
    let mut setup = vec!["CREATE USER some@'%' IDENTIFIED BY 'x'".to_owned()];
    let more =
        if product == Product::Mysql { ", ALLOW_NONEXISTENT_DEFINER, SET_ANY_DEFINER" } else { ", SET USER" };
    setup.push(format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, CREATE VIEW, SHOW VIEW, CREATE \
         ROUTINE, ALTER ROUTINE, TRIGGER, EVENT{more} ON *.* TO some@'%'"
    ));
    setup.push("SET GLOBAL read_only = ON".to_owned());
    to.run(setup).await;
    let config = to.as_user(to.only(&[&db]), "some", "x");
    let found = recorded.preflight(&config, WriteOptions::default()).await;
    let (blocks, notes) = (lines(&found, Weight::Blocks), lines(&found, Weight::Note));
    let twins = format!("{db}.Twin, {db}.twin: they differ by case only");
    assert!(blocks.iter().any(|line| line.starts_with(&twins)), "{blocks:?}");
    let twins = format!("{db}.Keyless, {db}.keyless: they differ by case only");
    assert!(blocks.iter().any(|line| line.starts_with(&twins)), "{blocks:?}");
    assert!(blocks.iter().any(|line| line.starts_with("read_only: ")), "{blocks:?}");
    if product == Product::Mysql {
        assert!(blocks.iter().any(|line| line.starts_with(&format!("{db}.keyless: "))), "{blocks:?}");
    }
    assert!(notes.iter().any(|line| line.starts_with("local_infile: ")), "{notes:?}");
    // What is inserted is not cut into packets.
    assert!(blocks.iter().any(|line| line.starts_with("max_allowed_packet: ")), "{blocks:?}");
    if product == Product::Mysql {
        to.run(["SET GLOBAL super_read_only = ON"]).await;
        let found = recorded.preflight(&to.only(&[&db]), WriteOptions::default()).await;
        assert!(
            lines(&found, Weight::Blocks).iter().any(|line| line.starts_with("super_read_only: ")),
            "{found:?}"
        );
    }
}
