//! A restore that was interrupted goes on where it was: nothing is missing, and no row is there twice.

use std::{collections::BTreeSet, future::pending, time::Duration};

use lifeboat::{
    clock::Ground,
    error::{ExitCode, Failure},
    flow::{
        Attrs, EntryMeta, EntrySink, FlowError, FlowResult, Piece, STREAM_DEPTH, Selection, Stage, Tally,
        WriteOptions, channel, settle,
    },
    names::EntryPath,
    policy::MysqlConfig,
};
use mysql_async::prelude::Queryable;

use crate::{
    locks::rounds,
    rows::Recorded,
    support::{Chance, Product, Server, own, processes, target},
};

crate::on_both!(
    a_restore_that_is_killed_again_and_again_ends_with_the_same,
    a_connection_killed_while_rows_are_loaded_leaves_a_restore_that_goes_on,
    a_connection_killed_while_indexes_are_built_leaves_a_restore_that_goes_on,
    of_two_restores_into_one_database_the_second_is_refused,
    a_table_that_is_another_one_is_not_continued,
    rows_that_an_index_refuses_stay_and_the_way_on_is_told,
    a_target_with_settings_of_its_own_is_written_all_the_same,
    an_interrupted_restore_is_not_continued_over_another_one,
    an_interrupted_restore_may_go_on_after_one_of_another_table,
);

/// Rows of a table, and pieces that they are cut into.
const ROWS: usize = 400;
const PIECES: usize = 8;

/// A database that is made of all that can go wrong twice.
pub async fn sample(server: &Server, db: &str) -> MysqlConfig {
    let numbers =
        format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})");
    let text = "i, REPEAT(CHAR(97 + i MOD 26), 30)";
    server
        .run([
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.keyed (id INT PRIMARY KEY, v VARCHAR(40), UNIQUE KEY u (id, v), KEY k (v))"),
            format!("INSERT INTO {db}.keyed {numbers} SELECT {text} FROM n"),
            format!("CREATE TABLE {db}.keyless (id INT, v VARCHAR(40))"),
            format!("INSERT INTO {db}.keyless {numbers} SELECT i DIV 2, 'twice' FROM n"),
            format!("CREATE TABLE {db}.plain (id INT, v VARCHAR(40)) ENGINE=MyISAM"),
            format!("INSERT INTO {db}.plain {numbers} SELECT {text} FROM n"),
            format!("CREATE TABLE {db}.child (id INT PRIMARY KEY, up INT, KEY (up), FOREIGN KEY (up) REFERENCES keyed (id))"),
            format!("INSERT INTO {db}.child {numbers} SELECT i, i FROM n"),
            format!("CREATE TABLE {db}.log (id INT PRIMARY KEY AUTO_INCREMENT)"),
            format!("CREATE TRIGGER {db}.logs AFTER INSERT ON {db}.plain FOR EACH ROW INSERT INTO {db}.log VALUES (NULL)"),
            format!("CREATE VIEW {db}.seen AS SELECT id FROM {db}.keyed"),
            format!("CREATE PROCEDURE {db}.say() SELECT 1"),
        ])
        .await;
    server.only(&[db])
}

/// Cuts the rows of each table into pieces, as a larger table has them.
fn cut(recorded: &Recorded) -> Vec<(EntryMeta, Vec<Piece>, Attrs)> {
    let mut entries = Vec::new();
    for (meta, pieces, trailer) in &recorded.entries {
        let is_empty = trailer.get("rows").and_then(serde_json::Value::as_u64) == Some(0);
        if meta.stage != Stage::Data || is_empty {
            entries.push((meta.clone(), pieces.clone(), trailer.clone()));
            continue;
        }
        let bytes: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| match piece {
                Piece::Data(bytes) => bytes.to_vec(),
                Piece::Border => Vec::new(),
            })
            .collect();
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for (number, part) in lines.chunks((ROWS / PIECES).max(1)).enumerate() {
            let mut meta = meta.clone();
            meta.path = EntryPath::new(&format!("{}{number}", meta.path)).unwrap();
            let mut trailer = trailer.clone();
            trailer.insert("rows".to_owned(), part.len().into());
            let halves = part.chunks(part.len().div_ceil(2));
            entries.push((meta, halves.map(|half| Piece::Data(half.concat().into())).collect(), trailer));
        }
    }
    entries
}

pub struct Restore<'a> {
    recorded: &'a Recorded,
    entries: Vec<(EntryMeta, Vec<Piece>, Attrs)>,
    config: MysqlConfig,
    pub options: WriteOptions,
}

impl<'a> Restore<'a> {
    pub fn of(recorded: &'a Recorded, config: &MysqlConfig) -> Self {
        let job = Some(Ground::system().hex(32));
        let options = WriteOptions { replace: true, job, ..WriteOptions::default() };
        Self { recorded, entries: cut(recorded), config: config.clone(), options }
    }

    pub fn frames(&self) -> usize {
        self.entries.iter().map(|(_, pieces, _)| pieces.len()).sum()
    }

    /// Sends what is not done, and calls `at` before each frame.
    async fn replay(
        &self,
        sink: EntrySink,
        done: &BTreeSet<EntryPath>,
        at: &mut (dyn AsyncHook + Send),
    ) -> FlowResult<()> {
        sink.announce(self.recorded.inventory.clone()).await?;
        for (meta, pieces, trailer) in self.entries.iter().filter(|(meta, ..)| !done.contains(&meta.path)) {
            let mut body = sink.begin(meta.clone()).await?;
            for piece in pieces {
                at.before(Some(meta)).await;
                if let Piece::Data(bytes) = piece {
                    body.write(bytes.clone()).await?;
                }
            }
            body.finish_with(trailer.clone()).await?;
        }
        at.before(None).await;
        self.recorded.inventory.iter().for_each(|item| sink.complete(item));
        sink.finish(self.recorded.point.clone()).await
    }

    /// Runs until it ends, or until `at` says that the program is killed.
    pub async fn run(&mut self, at: &mut (dyn AsyncHook + Send)) -> Option<FlowResult<Tally>> {
        let mut target = target(&self.config);
        let done = match &self.options.job {
            Some(job) if self.options.resume => target.done(job).await.expect("the ledger is read"),
            _ => BTreeSet::new(),
        };
        let (sink, stream) = channel(STREAM_DEPTH);
        let mut writing = tokio::spawn(target.write(self.options.clone(), stream));
        let killed = at.killed();
        let ended = tokio::select! {
            (sent, written) = async { tokio::join!(self.replay(sink, &done, at), &mut writing) } => {
                Some(settle(sent, written.expect("the target does not break down")).map(|((), tally)| tally))
            }
            () = killed => None,
        };
        writing.abort();
        self.options.resume = true;
        ended
    }

    pub async fn finish(&mut self) -> Tally {
        self.run(&mut Nothing).await.expect("nobody kills it").expect("it ends well")
    }

    pub async fn check(&self, server: &Server, db: &str) {
        let again = Recorded::read(&self.config).await;
        let sorted = |recorded: &Recorded, table: &str| {
            let bytes = recorded.rows(table).concat();
            let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            lines.sort();
            lines
        };
        for table in ["keyed", "keyless", "plain", "child", "log"] {
            assert!(sorted(&again, table) == sorted(self.recorded, table), "`{table}` differs");
        }
        let definitions = |recorded: &Recorded| -> Vec<(EntryMeta, Vec<Piece>)> {
            let kept = recorded.entries.iter().filter(|(meta, ..)| meta.stage != Stage::Data);
            kept.map(|(meta, pieces, _)| (meta.clone(), pieces.clone())).collect()
        };
        assert_eq!(definitions(&again), definitions(self.recorded));
        let job = self.options.job.as_deref().unwrap();
        let state = target(&self.config).inspect(&[]).await.expect("the target is looked at");
        assert!(!state.unfinished.iter().any(|one| one == job), "{state:?}");
        server.run([format!("DROP DATABASE {db}")]).await;
    }
}

/// What a test does on the way.
#[async_trait::async_trait]
pub trait AsyncHook {
    /// Waits for whatever must be before the next frame of an entry, or before the end.
    async fn before(&mut self, meta: Option<&EntryMeta>);
    /// Ends when the program is killed.
    fn killed(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(pending())
    }
}

struct Nothing;

#[async_trait::async_trait]
impl AsyncHook for Nothing {
    async fn before(&mut self, _meta: Option<&EntryMeta>) {}
}

/// Kills the program before this frame.
struct Killed {
    frames_left: usize,
    now: std::sync::Arc<tokio::sync::Notify>,
}

#[async_trait::async_trait]
impl AsyncHook for Killed {
    async fn before(&mut self, _meta: Option<&EntryMeta>) {
        if self.frames_left == 0 {
            self.now.notify_one();
            pending::<()>().await;
        }
        self.frames_left -= 1;
    }

    fn killed(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let now = std::sync::Arc::clone(&self.now);
        Box::pin(async move { now.notified().await })
    }
}

/// Ends the session that runs a statement of this kind on this table, as soon as there is one.
async fn kill(server: &Server, kind: &str, table: &str) {
    let mut conn = server.conn().await;
    for _ in 0..600 {
        let mut all = processes(&mut conn).await;
        all.retain(|one| one.statement.starts_with(kind) && one.statement.contains(table));
        for session in &all {
            conn.query_drop(format!("KILL {}", session.id)).await.unwrap();
        }
        if !all.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody runs {kind} on {table}");
}

fn failure(ended: Option<FlowResult<Tally>>) -> Failure {
    match ended.expect("nobody kills the program").expect_err("the connection was killed") {
        FlowError::Failed(failure) => failure,
        other => panic!("not a failure: {other}"),
    }
}

async fn a_restore_that_is_killed_again_and_again_ends_with_the_same(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("resume_killed");
    let config = sample(&server, db).await;
    let recorded = Recorded::read(&config).await;
    let mut restore = Restore::of(&recorded, &config);
    let mut chance = Chance::new();
    for round in 0..rounds(12) {
        let frames_left = chance.below(restore.frames());
        let mut killed = Killed { frames_left, now: std::sync::Arc::default() };
        if let Some(ended) = restore.run(&mut killed).await {
            // Fewer frames were left than that: it was done.
            ended.unwrap_or_else(|error| panic!("round {round} fails: {error:?}"));
            restore.options.job = Some(Ground::system().hex(32));
            restore.options.resume = false;
        }
    }
    restore.finish().await;
    restore.check(&server, db).await;
}

struct KillsLoad<'a> {
    server: &'a Server,
    db: &'a str,
    halves: usize,
}

#[async_trait::async_trait]
impl AsyncHook for KillsLoad<'_> {
    async fn before(&mut self, meta: Option<&EntryMeta>) {
        if meta.is_some_and(|meta| meta.stage == Stage::Data && meta.text("table") == Some("keyless")) {
            self.halves += 1;
            // The second half of the third piece.
            if self.halves == 6 {
                kill(self.server, "LOAD DATA", &format!("`{}`.`keyless`", self.db)).await;
            }
        }
    }
}

async fn a_connection_killed_while_rows_are_loaded_leaves_a_restore_that_goes_on(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("resume_load");
    let config = sample(&server, db).await;
    let recorded = Recorded::read(&config).await;
    let mut restore = Restore::of(&recorded, &config);
    let lost = failure(restore.run(&mut KillsLoad { server: &server, db, halves: 0 }).await);
    assert_eq!(lost.exit(), ExitCode::SourceDown, "{:?}", lost.chain());
    restore.finish().await;
    restore.check(&server, db).await;
}

/// Keeps the indexes of a table from being built, and ends who waits for that.
struct KillsAlter {
    server: Server,
    db: String,
}

#[async_trait::async_trait]
impl AsyncHook for KillsAlter {
    async fn before(&mut self, meta: Option<&EntryMeta>) {
        if meta.is_some() {
            return;
        }
        let mut reader = self.server.conn().await;
        reader.query_drop("START TRANSACTION").await.unwrap();
        reader.query_drop(format!("SELECT 1 FROM {}.keyed LIMIT 1", self.db)).await.unwrap();
        let (server, db) = (Server::shared(self.product()).await, self.db.clone());
        tokio::spawn(async move {
            kill(&server, "ALTER TABLE", &format!("`{db}`.`keyed`")).await;
            drop(reader);
        });
    }
}

impl KillsAlter {
    fn product(&self) -> Product {
        if self.db.ends_with("my") { Product::Mysql } else { Product::Mariadb }
    }
}

async fn a_connection_killed_while_indexes_are_built_leaves_a_restore_that_goes_on(product: Product) {
    let server = Server::shared(product).await;
    let db = own(if product == Product::Mysql { "resume_my" } else { "resume_ma" });
    let config = sample(&server, &db).await;
    let recorded = Recorded::read(&config).await;
    let mut restore = Restore::of(&recorded, &config);
    let mut kills = KillsAlter { server: Server::shared(product).await, db: db.clone() };
    let lost = failure(restore.run(&mut kills).await);
    assert_eq!(lost.exit(), ExitCode::SourceDown, "{:?}", lost.chain());
    restore.finish().await;
    restore.check(&server, &db).await;
}

/// Stays before the end until it is told to go on.
struct Stays(std::sync::Arc<tokio::sync::Notify>, std::sync::Arc<tokio::sync::Notify>);

#[async_trait::async_trait]
impl AsyncHook for Stays {
    async fn before(&mut self, meta: Option<&EntryMeta>) {
        if meta.is_none() {
            self.0.notify_one();
            self.1.notified().await;
        }
    }
}

async fn of_two_restores_into_one_database_the_second_is_refused(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("resume_two");
    let config = sample(&server, db).await;
    let recorded = Recorded::read(&config).await;
    let (mut first, mut second) = (Restore::of(&recorded, &config), Restore::of(&recorded, &config));
    let (there, go_on): (std::sync::Arc<tokio::sync::Notify>, std::sync::Arc<tokio::sync::Notify>) =
        Default::default();
    let mut stays = Stays(there.clone(), go_on.clone());
    let (ended, ()) = tokio::join!(first.run(&mut stays), async {
        there.notified().await;
        let refused = failure(second.run(&mut Nothing).await);
        assert_eq!(refused.exit(), ExitCode::Busy, "{:?}", refused.chain());
        // One that notes nothing, as a salvage, is kept away as well.
        (second.options.job, second.options.replace) = (None, true);
        let refused = failure(second.run(&mut Nothing).await);
        assert_eq!(refused.exit(), ExitCode::Busy, "{:?}", refused.chain());
        go_on.notify_one();
    });
    ended.expect("nobody kills it").expect("the first ends well");
    first.check(&server, db).await;
}

async fn a_table_that_is_another_one_is_not_continued(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("resume_other");
    let config = sample(&server, db).await;
    let recorded = Recorded::read(&config).await;
    let mut restore = Restore::of(&recorded, &config);
    let frames_left = restore.frames() - 2;
    let mut killed = Killed { frames_left, now: std::sync::Arc::default() };
    assert!(restore.run(&mut killed).await.is_none(), "it is killed");
    server
        .run([format!("DROP TABLE {db}.keyed"), format!("CREATE TABLE {db}.keyed (id INT, other INT)")])
        .await;
    let refused = failure(restore.run(&mut Nothing).await);
    assert_eq!(refused.exit(), ExitCode::TargetNotEmpty, "{:?}", refused.chain());
    assert!(refused.to_string().contains(&format!("{db}.keyed")), "{refused}");
    // Begun anew, it removes what is there.
    restore.options.resume = false;
    restore.finish().await;
    restore.check(&server, db).await;
}

async fn rows_that_an_index_refuses_stay_and_the_way_on_is_told(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("resume_twice");
    let config = sample(&server, db).await;
    server.run([format!("ALTER TABLE {db}.keyed ADD UNIQUE KEY only (v, id)")]).await;
    let mut recorded = Recorded::read(&config).await;
    for (meta, pieces, _) in &mut recorded.entries {
        if meta.path.as_str().ends_with("keyed/table.sql") {
            let Piece::Data(bytes) = &pieces[0] else { unreachable!() };
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            *pieces = vec![Piece::Data(text.replace("(`v`,`id`)", "(`v`)").into())];
        }
    }
    let mut restore = Restore::of(&recorded, &config);
    let refused = failure(restore.run(&mut Nothing).await);
    assert_eq!(refused.exit(), ExitCode::Failed, "{:?}", refused.chain());
    assert!(refused.hints().iter().any(|hint| hint.contains("--resume")), "{:?}", refused.hints());
    assert_eq!(server.ask(&format!("SELECT CONCAT(COUNT(*)) FROM {db}.keyed")).await, ROWS.to_string());
    let state = target(&config).inspect(&[]).await.expect("the target is looked at");
    assert!(state.unfinished.contains(restore.options.job.as_ref().unwrap()), "{state:?}");
    // Begun anew with a good definition, the same job ends well, and its notes go.
    let good = Recorded {
        entries: without_unique(&recorded),
        inventory: recorded.inventory.clone(),
        point: recorded.point.clone(),
    };
    let mut anew = Restore::of(&good, &config);
    anew.options.job.clone_from(&restore.options.job);
    anew.finish().await;
    anew.check(&server, db).await;
}

fn without_unique(recorded: &Recorded) -> Vec<(EntryMeta, Vec<Piece>, Attrs)> {
    let mut entries = recorded.entries.clone();
    for (meta, pieces, _) in &mut entries {
        if meta.path.as_str().ends_with("keyed/table.sql") {
            let Piece::Data(bytes) = &pieces[0] else { unreachable!() };
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            *pieces = vec![Piece::Data(
                text.replace("UNIQUE KEY `only` (`v`)", "UNIQUE KEY `only` (`v`,`id`)").into(),
            )];
        }
    }
    entries
}

/// Switches `local_infile` off while rows are loaded.
struct SwitchesOff<'a>(&'a Server);

#[async_trait::async_trait]
impl AsyncHook for SwitchesOff<'_> {
    async fn before(&mut self, meta: Option<&EntryMeta>) {
        if meta.is_some_and(|meta| meta.path.as_str().ends_with("keyless/data.00001.tsv4")) {
            self.0.run(["SET GLOBAL local_infile=OFF"]).await;
        }
    }
}

async fn a_target_with_settings_of_its_own_is_written_all_the_same(product: Product) {
    let source = Server::shared(product).await;
    let db = &own("resume_settings");
    let config = sample(&source, db).await;
    source.run([format!("ALTER TABLE {db}.log AUTO_INCREMENT = 9000")]).await;
    let recorded = Recorded::read(&config).await;
    source.run([format!("DROP DATABASE {db}")]).await;
    let server = Server::empty(product).await;
    let read_only = if product == Product::Mysql { "transaction_read_only" } else { "tx_read_only" };
    server
        .run([
            "SET GLOBAL autocommit=0, GLOBAL completion_type=CHAIN, GLOBAL unique_checks=0".to_owned(),
            "SET GLOBAL sql_select_limit=2, GLOBAL sql_safe_updates=1, GLOBAL sql_auto_is_null=1".to_owned(),
            "SET GLOBAL sql_mode='ANSI,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES', GLOBAL time_zone='+05:00'"
                .to_owned(),
            format!("SET GLOBAL {read_only}=1"),
        ])
        .await;
    if product == Product::Mysql {
        server.run(["SET SESSION transaction_read_only=0", "SET GLOBAL sql_require_primary_key=ON"]).await;
    }
    let config = server.only(&[db]);
    let mut restore = Restore::of(&recorded, &config);
    let lost = failure(restore.run(&mut SwitchesOff(&server)).await);
    assert!(
        lost.hints().iter().any(|hint| hint.contains("local_infile")),
        "{:?} {:?}",
        lost.chain(),
        lost.hints()
    );
    restore.finish().await;
    // A server that starts again counts on from where the source was.
    server.restart().await;
    let mut conn = server.conn().await;
    conn.query_drop(format!("INSERT INTO {db}.log VALUES (NULL)")).await.unwrap();
    assert_eq!(conn.last_insert_id(), Some(9000));
    conn.query_drop(format!("DELETE FROM {db}.log")).await.unwrap();
    conn.query_drop(format!("ALTER TABLE {db}.log AUTO_INCREMENT = 9000")).await.unwrap();
    if product == Product::Mysql {
        server.run(["SET GLOBAL super_read_only=ON"]).await;
        let refused = failure(Restore::of(&recorded, &config).run(&mut Nothing).await);
        assert!(
            refused.hints()[0].contains("SET GLOBAL super_read_only=OFF"),
            "{:?} {:?}",
            refused.chain(),
            refused.hints()
        );
        server.run(["SET GLOBAL super_read_only=OFF"]).await;
    }
    restore.check(&server, db).await;
}

/// Returns whether the server has notes of this job.
pub async fn is_noted(config: &MysqlConfig, job: &str) -> bool {
    let state = target(config).inspect(&[]).await.expect("the target is looked at");
    state.unfinished.iter().any(|one| one == job)
}

async fn an_interrupted_restore_is_not_continued_over_another_one(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("resume_over");
    let config = sample(&server, db).await;
    let recorded = Recorded::read(&config).await;
    let (first, second) = (format!("{:064x}", std::process::id()), format!("{:064x}", !0_u64));
    let noting =
        |job: &str| WriteOptions { replace: true, job: Some(job.to_owned()), ..WriteOptions::default() };
    // One that notes what it does, and one that does not.
    for other in [noting(&second), WriteOptions { job: None, ..noting("") }] {
        recorded.write_cut(&config, noting(&first)).await.expect_err("the stream breaks off");
        assert!(is_noted(&config, &first).await, "it could be continued");
        let tally = recorded.write(&config, other).await.expect("the other one works");
        assert!(tally.notes.iter().any(|note| note.contains("cannot be continued")), "{:?}", tally.notes);
        assert!(!is_noted(&config, &first).await && !is_noted(&config, &second).await);
    }
    // One that ends before it has made anything leaves nothing to go on with.
    let (sink, stream) = channel(STREAM_DEPTH);
    let send = async {
        sink.announce(recorded.inventory.clone()).await?;
        drop(sink);
        FlowResult::Ok(())
    };
    let (sent, written) = tokio::join!(send, target(&config).write(noting(&first), stream));
    settle(sent, written).expect_err("nothing came");
    assert!(!is_noted(&config, &first).await);
    server.run([format!("DROP DATABASE IF EXISTS {db}")]).await;
}

async fn an_interrupted_restore_may_go_on_after_one_of_another_table(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("resume_beside");
    let config = sample(&server, db).await;
    let recorded = Recorded::read(&config).await;
    let job = |n: u8| Some(format!("{:060x}{n:04x}", std::process::id()));
    let of = |table: &str, n| {
        let only = Selection::new(&[format!("{db}.{table}")]).expect("a pattern");
        WriteOptions { replace: true, job: job(n), only, ..WriteOptions::default() }
    };
    recorded.write_cut(&config, of("keyed", 1)).await.expect_err("the stream breaks off");
    let is_told = |tally: &Tally| tally.notes.iter().any(|note| note.contains("cannot be continued"));
    let tally = recorded.write(&config, of("keyless", 2)).await.expect("the other table comes");
    assert!(!is_told(&tally), "{:?}", tally.notes);
    assert!(is_noted(&config, &job(1).unwrap()).await, "it has lost nothing");
    // The same table, and the database that it is in.
    let tally = recorded.write(&config, of("keyed", 3)).await.expect("the table comes");
    assert!(is_told(&tally), "{:?}", tally.notes);
    assert!(!is_noted(&config, &job(1).unwrap()).await);
    recorded.write_cut(&config, of("keyed", 1)).await.expect_err("the stream breaks off");
    let whole = WriteOptions { only: Selection::all(), ..of("", 4) };
    let tally = recorded.write(&config, whole).await.expect("the database comes");
    assert!(is_told(&tally), "{:?}", tally.notes);
    assert!(!is_noted(&config, &job(1).unwrap()).await);
    server.run([format!("DROP DATABASE {db}")]).await;
}
