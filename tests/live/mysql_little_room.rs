//! Servers whose temporary folder is full, and tables that a server keeps encrypted.

use lifeboat::{
    clock::Ground,
    error::{ExitCode, Failure},
    finding::Status,
    flow::{FlowError, STREAM_DEPTH, Stage, WriteOptions, channel, pipe, settle},
    mysql::examine::examine,
    names::SourceName,
};

use crate::{
    rows::Recorded,
    support::{Product, Server, own, source, target},
};

crate::on_both!(
    an_index_that_finds_no_room_leaves_a_restore_that_goes_on,
    a_source_that_runs_out_of_temporary_room_completes_nothing,
    tables_that_are_kept_encrypted_come_back_so_or_are_told,
    no_transaction_of_a_load_is_longer_than_group_replication_takes,
);

/// A server with few bytes for temporary files, in a folder that [`fill`] fills and [`clear`] clears.
async fn cramped(product: Product, more: &[&str]) -> Server {
    let mut arguments = vec!["--tmpdir=/lbt-tmp", "--skip-log-bin"];
    arguments.extend(more);
    let room = ["--tmpfs".to_owned(), "/lbt-tmp:size=16m,mode=1777".to_owned()];
    Server::empty_in(product, &arguments, &[], &room).await
}

/// Leaves so much room of the sixteen MiB.
fn fill(server: &Server, left_kib: u32) {
    let dd =
        format!("dd if=/dev/zero of=/lbt-tmp/fill bs=1k count={} 2>/dev/null; true", 16 * 1024 - left_kib);
    server.exec(&["sh", "-c", &dd]);
}

fn clear(server: &Server) {
    server.exec(&["rm", "/lbt-tmp/fill"]);
}

fn failure(error: FlowError) -> Failure {
    match error {
        FlowError::Failed(failure) => failure,
        other => panic!("not a failure: {other}"),
    }
}

async fn an_index_that_finds_no_room_leaves_a_restore_that_goes_on(product: Product) {
    let sort_buffer = match product {
        Product::Mysql => "--innodb-ddl-buffer-size=65536",
        Product::Mariadb => "--innodb-sort-buffer-size=65536",
    };
    let server = cramped(product, &[sort_buffer]).await;
    let numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)";
    let depth =
        if product == Product::Mysql { "cte_max_recursion_depth" } else { "max_recursive_iterations" };
    server
        .run([
            format!("SET SESSION {depth} = 100000"),
            "CREATE DATABASE lbt_room".to_owned(),
            "CREATE TABLE lbt_room.t (id INT PRIMARY KEY, v VARCHAR(300), KEY by_v (v))".to_owned(),
            format!(
                "INSERT INTO lbt_room.t {numbers} SELECT i, CONCAT(SHA2(i, 512), SHA2(i + 1, 512)) FROM n"
            ),
        ])
        .await;
    let config = server.only(&["lbt_room"]);
    let recorded = Recorded::read(&config).await;
    let job = || Some("5eed".repeat(16));
    // The index is sorted in twice 2.5 MiB; what the server lists of itself needs little.
    fill(&server, 1024);
    let options = WriteOptions { replace: true, job: job(), ..WriteOptions::default() };
    let lost = failure(recorded.write(&config, options).await.expect_err("the index finds no room"));
    let told = lost.chain().join(": ");
    assert!(lost.exit() == ExitCode::Failed && told.contains("build the indexes of `lbt_room.t`"), "{told}");
    let hints = lost.hints().join(" ");
    assert!(hints.contains("tmpdir") && hints.contains("--resume"), "{hints}");
    assert_eq!(server.ask("SELECT CONCAT(COUNT(*)) FROM lbt_room.t").await, "10000", "the rows stay");
    // Who looks at the server is told of it, once it was left alone for a while.
    let (name, ground) = (SourceName::new("mysql").unwrap(), Ground::system());
    for (began, status) in [("UTC_TIMESTAMP()", Status::Ok), ("'2025-01-01'", Status::Warn)] {
        server.run([format!("UPDATE lifeboat_restore.job SET began = {began}")]).await;
        let findings = examine(&name, &config, None, &ground).await;
        let left = findings.iter().find(|one| one.id == "mysql.ledger").expect("it is looked for");
        assert_eq!((left.status, left.detail.contains("did not end")), (status, status == Status::Warn));
    }
    clear(&server);
    let options = WriteOptions { replace: true, resume: true, job: job(), ..WriteOptions::default() };
    recorded.write(&config, options).await.expect("it goes on");
    let indexes = "SELECT GROUP_CONCAT(DISTINCT index_name ORDER BY index_name) FROM \
        information_schema.statistics WHERE table_schema = 'lbt_room'";
    assert_eq!(server.ask(indexes).await, "by_v,PRIMARY");
    assert!(Recorded::read(&config).await.rows("t") == recorded.rows("t"));
}

async fn a_source_that_runs_out_of_temporary_room_completes_nothing(product: Product) {
    // Its lists are made in files then, and not in memory; MySQL's are no files, and rows are never sorted.
    let server = cramped(product, &["--tmp-table-size=1024", "--sort-buffer-size=32K"]).await;
    server
        .run([
            "CREATE DATABASE lbt_room",
            "CREATE TABLE lbt_room.t (id INT PRIMARY KEY, v VARCHAR(300))",
            "INSERT INTO lbt_room.t VALUES (1, 'a'), (2, 'b')",
            "CREATE PROCEDURE lbt_room.p() SELECT 1",
        ])
        .await;
    let config = server.only(&["lbt_room"]);
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let take = async {
        while let Some(mut entry) = stream.next().await? {
            if entry.meta.stage == Stage::Data {
                fill(&server, 0);
            }
            while entry.body.next().await?.is_some() {}
        }
        Ok(stream.point().is_some())
    };
    let (read, taken) = tokio::join!(source(&config).read(sink, None), take);
    let settled = settle(read, taken);
    if product == Product::Mysql {
        assert!(settled.expect("it needs no temporary file").1);
        return;
    }
    let lost = failure(settled.expect_err("the server has no room"));
    let (told, hints) = (lost.chain().join(": "), lost.hints().join(" "));
    assert!(lost.exit() == ExitCode::Failed && told.contains("lbt_room"), "{told}");
    assert!(hints.contains("no room") && hints.contains("tmpdir"), "{hints}");
    clear(&server);
    Recorded::read(&config).await;
}

async fn tables_that_are_kept_encrypted_come_back_so_or_are_told(product: Product) {
    let db = &own("encrypted");
    let make = |option: &str| {
        [
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.secret (id INT PRIMARY KEY, v VARCHAR(20)) {option}"),
            format!("INSERT INTO {db}.secret VALUES (1, 'hush')"),
        ]
    };
    if product == Product::Mariadb {
        // The package has no plugin for keys: what a source with one has cannot be made here, and that is told.
        let server = Server::shared(product).await;
        server.run(make("")).await;
        let config = server.only(&[db]);
        let mut recorded = Recorded::read(&config).await;
        recorded.replace(&format!("{db}/secret/table.sql"), |script| {
            script.replace("ENGINE=InnoDB", "ENGINE=InnoDB `ENCRYPTED`=YES")
        });
        let options = WriteOptions { replace: true, ..WriteOptions::default() };
        let lost = failure(recorded.write(&config, options).await.expect_err("there is no key"));
        let told = lost.chain().join(": ");
        assert!(told.contains(&format!("make `{db}.secret`")), "{told}");
        server.run([format!("DROP DATABASE {db}")]).await;
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let manifest = write("mysqld.my", r#"{"components": "file://component_keyring_file"}"#);
    let keyring = write("keyring.cnf", r#"{"path": "/lbt/keyring", "read_only": false}"#);
    let mount =
        |path: &std::path::Path, inside: &str| ["-v".to_owned(), format!("{}:{inside}:ro", path.display())];
    let mut options = mount(&manifest, "/usr/sbin/mysqld.my").to_vec();
    options.extend(mount(&keyring, "/usr/lib/mysql/plugin/component_keyring_file.cnf"));
    let server = Server::empty_in(product, &[], &[], &options).await;
    // Made by root when the server was set up; the server itself runs as somebody else.
    server.exec(&["chmod", "666", "/lbt/keyring"]);
    server.run(make("ENCRYPTION='Y'")).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    let options = || WriteOptions { replace: true, ..WriteOptions::default() };
    recorded.write(&config, options()).await.expect("it has a key");
    let kept = format!("SELECT create_options FROM information_schema.tables WHERE table_schema = '{db}'");
    assert_eq!(server.ask(&kept).await, "ENCRYPTION='Y'");
    assert_eq!(server.ask(&format!("SELECT v FROM {db}.secret")).await, "hush");
    // A server without a keyring cannot make it, and says so.
    let bare = Server::shared(product).await;
    let lost = failure(recorded.write(&bare.only(&[db]), options()).await.expect_err("there is no key"));
    assert!(lost.hints().join(" ").contains("keyring"), "{lost:?}");
    let state = target(&bare.only(&[db])).inspect(&[]).await;
    assert!(state.is_ok());
    bare.run([format!("DROP DATABASE IF EXISTS {db}")]).await;
}

/// Its limit is one of bytes in the binlog; every server has such a limit, which is seldom set.
async fn no_transaction_of_a_load_is_longer_than_group_replication_takes(product: Product) {
    let source_server = Server::empty_with(product, &["--skip-log-bin"]).await;
    let target_server = Server::empty_with(product, &["--max-binlog-cache-size=149999616"]).await;
    let depth =
        if product == Product::Mysql { "cte_max_recursion_depth" } else { "max_recursive_iterations" };
    // Short as text, and 180 MB in a binlog.
    let columns: Vec<String> = (0..60).map(|n| format!("d{n} DECIMAL(65,0) NOT NULL DEFAULT 0")).collect();
    source_server
        .run([
            format!("SET SESSION {depth} = 200000"),
            "CREATE DATABASE lbt_short".to_owned(),
            format!("CREATE TABLE lbt_short.t (id INT PRIMARY KEY, {})", columns.join(", ")),
            "INSERT INTO lbt_short.t (id) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE \
             i < 100000) SELECT i FROM n"
                .to_owned(),
        ])
        .await;
    let (from, to) = (source_server.only(&["lbt_short"]), target_server.only(&["lbt_short"]));
    pipe(source(&from), target(&to), WriteOptions::default())
        .await
        .expect("the binlog has room for each piece");
    assert_eq!(target_server.ask("SELECT COUNT(*) FROM lbt_short.t").await, "100000");
}
