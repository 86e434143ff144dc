//! Rows that refer to rows that are not there are told, whoever lost them.

use lifeboat::{
    flow::{Piece, Selection, Stage, WriteOptions},
    policy::MysqlConfig,
};

use crate::{
    rows::Recorded,
    support::{Product, Server, own},
};

crate::on_both!(
    a_source_that_had_orphans_is_restored_with_a_note,
    orphans_of_every_kind_of_foreign_key_are_found,
    a_parent_that_was_lost_on_the_way_is_found,
);

fn replacing(only: &[&str]) -> WriteOptions {
    let patterns: Vec<String> = only.iter().map(|pattern| (*pattern).to_owned()).collect();
    WriteOptions { replace: true, only: Selection::new(&patterns).unwrap(), ..WriteOptions::default() }
}

/// Runs statements in one session that checks no foreign key.
async fn unchecked(server: &Server, statements: Vec<String>) {
    let mut one = vec!["SET foreign_key_checks=0".to_owned()];
    one.extend(statements);
    server.run(one).await;
}

async fn family(server: &Server, db: &str) -> MysqlConfig {
    let other = format!("{db}_far");
    unchecked(
        server,
        vec![
            format!("CREATE DATABASE {db}"),
            format!("CREATE DATABASE {other}"),
            format!("CREATE TABLE {db}.parents (a INT, b VARCHAR(9), PRIMARY KEY (a, b))"),
            format!("INSERT INTO {db}.parents VALUES (1, 'x'), (2, 'y')"),
            format!(
                "CREATE TABLE {other}.children (id INT PRIMARY KEY, a INT, b VARCHAR(9), CONSTRAINT far \
                 FOREIGN KEY (a, b) REFERENCES {db}.parents (a, b))"
            ),
            format!("INSERT INTO {other}.children VALUES (1, 1, 'x'), (2, NULL, 'gone'), (3, 2, 'y')"),
            format!(
                "CREATE TABLE {db}.tree (id INT PRIMARY KEY, up INT, CONSTRAINT above FOREIGN KEY (up) \
                 REFERENCES {db}.tree (id))"
            ),
            format!("INSERT INTO {db}.tree VALUES (1, NULL), (2, 1), (3, 2)"),
        ],
    )
    .await;
    server.only(&[db, &other])
}

async fn end(server: &Server, db: &str) {
    unchecked(server, vec![format!("DROP DATABASE {db}_far"), format!("DROP DATABASE {db}")]).await;
}

async fn a_source_that_had_orphans_is_restored_with_a_note(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("orphans_had");
    let config = family(&server, db).await;
    let whole = Recorded::read(&config).await.write(&config, replacing(&[])).await.expect("all is restored");
    assert!(whole.notes.is_empty(), "{:?}", whole.notes);
    let rows: Vec<String> = (10..17).map(|id| format!("({id}, 9, 'z')")).collect();
    let insert = format!("INSERT INTO {db}_far.children VALUES {}", rows.join(", "));
    unchecked(&server, vec![insert]).await;
    let recorded = Recorded::read(&config).await;
    let tally = recorded.write(&config, replacing(&[])).await.expect("all is restored");
    let note = format!(
        "7 rows of {db}_far.children refer by far to {db}.parents, which has no such row: id=10; id=11; id=12; id=13; \
         id=14, …"
    );
    assert_eq!((tally.notes, tally.dangling), (vec![note], 0));
    assert_eq!(server.ask(&format!("SELECT CONCAT(COUNT(*)) FROM {db}_far.children")).await, "10");
    end(&server, db).await;
}

async fn orphans_of_every_kind_of_foreign_key_are_found(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("orphans_part");
    let config = family(&server, db).await;
    let recorded = Recorded::read(&config).await;
    // What is restored alone may refer to what is not there any more, be it itself, and the other way round.
    unchecked(
        &server,
        vec![
            format!("DELETE FROM {db}.parents WHERE a = 2"),
            format!("INSERT INTO {db}_far.children VALUES (4, 1, 'X')"),
        ],
    )
    .await;
    let child = format!("{db}_far.children");
    let tally = recorded.write(&config, replacing(&[&child])).await.expect("one table is restored");
    let told = format!("1 row of {child} refers by far to {db}.parents, which has no such row: id=3");
    assert_eq!((tally.notes, tally.dangling), (vec![told], 1));
    unchecked(&server, vec![format!("INSERT INTO {child} VALUES (5, 3, 'new')")]).await;
    let parent = format!("{db}.parents");
    let tally = recorded.write(&config, replacing(&[&parent])).await.expect("one table is restored");
    let told = format!("1 row of {child} refers by far to {db}.parents, which has no such row: a=3 b=new");
    assert_eq!((tally.notes, tally.dangling), (vec![told], 1));
    // A table may come without the one that it refers to: all of its rows refer to nothing.
    unchecked(&server, vec![format!("DROP TABLE {parent}")]).await;
    let tally = recorded.write(&config, replacing(&[&child])).await.expect("one table is restored");
    let told = format!("2 rows of {child} refer by far to {parent}, which has no such row: id=1; id=3");
    assert_eq!((tally.notes, tally.dangling), (vec![told], 2));
    let mut unchecked_options = replacing(&[&parent]);
    unchecked_options.verify = lifeboat::flow::Verify::Nothing;
    let tally = recorded.write(&config, unchecked_options).await.expect("one table is restored");
    assert_eq!((tally.notes, tally.dangling), (Vec::new(), 0));
    end(&server, db).await;
}

async fn a_parent_that_was_lost_on_the_way_is_found(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("orphans_lost");
    let config = family(&server, db).await;
    let mut recorded = Recorded::read(&config).await;
    for (meta, pieces, trailer) in &mut recorded.entries {
        if meta.stage == Stage::Data && meta.text("table") == Some("tree") {
            *pieces = vec![Piece::Data("1\t\\N\n3\t2\n".into())];
            trailer.insert("rows".to_owned(), 2.into());
        }
    }
    let tally = recorded.write(&config, replacing(&[])).await.expect("the stream is whole in itself");
    let told = format!("1 row of {db}.tree refers by above to {db}.tree, which has no such row: id=3");
    assert_eq!(tally.notes, [told]);
    end(&server, db).await;
}
