//! Targets that are smaller, stricter or fuller than their source: what fits is restored, what does not is named.

use lifeboat::{
    error::{ExitCode, Failure},
    flow::{FlowError, WriteOptions},
};

use crate::{
    rows::Recorded,
    support::{Product, Server, own},
};

crate::on_both!(packets_are_as_long_as_the_target_takes);

fn failure(error: FlowError) -> Failure {
    match error {
        FlowError::Failed(failure) => failure,
        other => panic!("not a failure: {other}"),
    }
}

fn replacing() -> WriteOptions {
    WriteOptions { replace: true, ..WriteOptions::default() }
}

async fn packets_are_as_long_as_the_target_takes(product: Product) {
    let source = Server::shared(product).await;
    let (db, long) = (&own("packets"), &own("packets_long"));
    for name in [db, long] {
        source
            .run([
                format!("CREATE DATABASE {name}"),
                format!("CREATE TABLE {name}.t (id INT PRIMARY KEY, v LONGTEXT, b LONGBLOB, j JSON)"),
                format!("INSERT INTO {name}.t VALUES (1, REPEAT('v', 30000), REPEAT('b', 9000), '\"j\"')"),
            ])
            .await;
    }
    let numbers = "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 900)";
    source
        .run([
            format!("INSERT INTO {db}.t {numbers} SELECT i, REPEAT('x', 900), REPEAT('y', 900), '[]' FROM n"),
            format!("INSERT INTO {long}.t VALUES (7, REPEAT('v', 1500000), '', '[]')"),
        ])
        .await;
    let (fits, too_long) =
        (Recorded::read(&source.only(&[db])).await, Recorded::read(&source.only(&[long])).await);
    source.run([format!("DROP DATABASE {db}"), format!("DROP DATABASE {long}")]).await;
    let target = Server::empty_with(product, &["--max-allowed-packet=64K"]).await;
    let config = target.only(&[db, long]);
    for packet in ["65536", "1048576"] {
        for local_infile in ["ON", "OFF"] {
            target
                .run([
                    format!("SET GLOBAL max_allowed_packet={packet}"),
                    format!("SET GLOBAL local_infile={local_infile}"),
                ])
                .await;
            fits.write(&config, replacing()).await.expect("all rows fit");
            assert!(Recorded::read(&config).await.rows("t") == fits.rows("t"), "{packet} {local_infile}");
            target.run([format!("DROP DATABASE {db}")]).await;
            let written = too_long.write(&config, replacing()).await;
            if local_infile == "ON" {
                written.expect("a row that is streamed may be longer than a packet");
            } else {
                let failure = failure(written.expect_err("the row cannot be sent"));
                let told = failure.chain().join("\n");
                assert_eq!(failure.exit(), ExitCode::Failed, "{told}");
                assert!(told.contains("id=7") && told.contains(&format!("`{long}.t`")), "{told}");
                assert!(failure.hints()[0].contains("SET GLOBAL max_allowed_packet=2097152"), "{failure:?}");
                assert_eq!(target.ask(&format!("SELECT COUNT(*) FROM {long}.t")).await, "0");
            }
            target.run([format!("DROP DATABASE {long}")]).await;
        }
    }
}
