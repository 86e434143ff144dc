//! Single sessions are killed at moments of chance: what a reading gives is whole or none, and a restore goes on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lifeboat::{
    clock::Ground,
    error::ExitCode,
    event::NoMonitor,
    flow::{EntryMeta, FlowError, FlowResult, STREAM_DEPTH, Stage, channel, settle},
    mysql::MysqlSource,
    names::SourceName,
    policy::MysqlConfig,
};
use mysql_async::{Conn, prelude::Queryable};
use tokio::task::JoinHandle;

use crate::{
    failures::account,
    locks::rounds,
    resume::{AsyncHook, Restore, sample},
    rows::{Recorded, fill},
    snapshot::transfers,
    support::{Chance, Product, Server, own, processes},
};

crate::on_both!(
    a_reading_whose_sessions_are_killed_is_whole_or_fails,
    a_restore_whose_sessions_are_killed_again_and_again_ends_with_the_same,
);

/// Rows of the large table; a range has a tenth of them.
const ROWS: u32 = 10_000;

/// The rows of each entry of a table.
type Read = BTreeMap<String, Vec<u8>>;

/// Returns the sessions of an account, or those that are at work.
async fn sessions(conn: &mut Conn, user: &str, at_work: bool) -> Vec<u64> {
    let mut all = processes(conn).await;
    all.retain(|session| session.user == user && !(at_work && session.statement.is_empty()));
    all.sort_by_key(|session| session.id);
    all.into_iter().map(|session| session.id).collect()
}

/// Kills one of these sessions; returns whether it was still there.
async fn kill_one(conn: &mut Conn, ids: &[u64], chance: &mut Chance) -> bool {
    !ids.is_empty() && conn.query_drop(format!("KILL {}", ids[chance.below(ids.len())])).await.is_ok()
}

/// Fails unless it is told clearly that the server, and nothing else, went away.
fn check_told(error: FlowError, round: usize) {
    let FlowError::Failed(failure) = error else { panic!("round {round}: not a failure: {error}") };
    assert_eq!(failure.exit(), ExitCode::SourceDown, "round {round}: {:?}", failure.chain());
    assert!(!failure.hints().is_empty(), "round {round}: {:?}", failure.chain());
}

/// Reads a source, and calls `at_frame` before each frame of rows; the reading stands still meanwhile.
async fn read(config: &MysqlConfig, mut at_frame: impl AsyncFnMut(usize)) -> FlowResult<(Read, usize)> {
    let name = SourceName::new("mysql").unwrap();
    let source = MysqlSource::new(name, config.clone(), Ground::system(), NoMonitor::shared());
    let source = Box::new(source.ranges_of(u64::from(ROWS / 10)));
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let take = async {
        let (mut rows, mut frames) = (Read::new(), 0);
        while let Some(mut entry) = stream.next().await? {
            let is_rows = entry.meta.stage == Stage::Data;
            let of_entry = rows.entry(entry.meta.path.to_string()).or_default();
            while let Some(data) = entry.body.next().await? {
                if is_rows {
                    at_frame(frames).await;
                    frames += 1;
                    of_entry.extend_from_slice(&data);
                }
            }
        }
        assert!(stream.point().is_some(), "a finished stream has a point");
        Ok((rows, frames))
    };
    let (read, taken) = tokio::join!(lifeboat::flow::Source::read(source, sink, None), take);
    settle(read, taken).map(|((), taken)| taken)
}

/// Returns the rows of the large table, which nobody writes to, and the sum of all balances.
fn what_stays(read: &Read) -> (Vec<u8>, i64) {
    let of = |table: String| read.iter().filter(move |(path, _)| path.contains(&format!("/{table}/data")));
    let large: Vec<u8> = of("large".to_owned()).flat_map(|(_, rows)| rows.clone()).collect();
    let balance = |rows: &[u8]| String::from_utf8_lossy(rows).trim().split('\t').nth(1)?.parse::<i64>().ok();
    let sum = (0..4).flat_map(|n| of(format!("b{n}")).filter_map(|(_, rows)| balance(rows))).sum();
    (large, sum)
}

async fn a_reading_whose_sessions_are_killed_is_whole_or_fails(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("kill_read");
    server.run([format!("DROP DATABASE IF EXISTS {db}")]).await;
    let writers = transfers(&server, db).await;
    fill(&server, db, "large", "PRIMARY KEY (id)", ROWS).await;
    account(&server, db, &["ALL ON *.*"]).await;
    let mut config = server.as_user(server.only(&[db]), db, "x");
    config.threads = 3;
    let (whole, frames) = read(&config, async |_| {}).await.expect("nobody is killed");
    let whole = what_stays(&whole);
    assert_eq!((whole.0.split_inclusive(|byte| *byte == b'\n').count(), whole.1), (ROWS as usize, 4000));
    let (mut chance, mut conn, mut lost) = (Chance::new(), server.conn().await, 0);
    for round in 0..rounds(8) {
        let at = chance.below(frames);
        let mut killed = false;
        let read = read(&config, async |frame| {
            if frame == at {
                let ids = sessions(&mut conn, db, false).await;
                killed = kill_one(&mut conn, &ids, &mut chance).await;
            }
        });
        match read.await {
            Ok((read, _)) => assert!(what_stays(&read) == whole, "round {round}: rows are missing or torn"),
            Err(error) => {
                assert!(killed, "round {round} fails by itself: {error}");
                check_told(error, round);
                lost += 1;
            }
        }
    }
    eprintln!("{product:?}: {lost} of {} readings were lost with a session", rounds(8));
    assert!(lost > 0, "no killed session was missed");
    writers.stop().await;
    server.run([format!("DROP DATABASE {db}"), format!("DROP USER {db}")]).await;
}

/// Kills a session before a frame, or one that is at work when all frames were sent.
struct KillsOne<'a> {
    conn: Conn,
    /// The session that kills in the end, and how many statements it lets pass.
    later: Option<(Conn, usize)>,
    user: &'a str,
    frames_left: usize,
    chance: &'a mut Chance,
    over: Arc<AtomicBool>,
    killing: Option<JoinHandle<()>>,
}

#[async_trait::async_trait]
impl AsyncHook for KillsOne<'_> {
    async fn before(&mut self, meta: Option<&EntryMeta>) {
        if self.frames_left == 0 && self.later.is_none() {
            let ids = sessions(&mut self.conn, self.user, false).await;
            kill_one(&mut self.conn, &ids, self.chance).await;
        }
        self.frames_left = self.frames_left.wrapping_sub(1);
        if meta.is_some() {
            return;
        }
        if let Some((mut conn, mut statements)) = self.later.take() {
            let (over, user) = (Arc::clone(&self.over), self.user.to_owned());
            self.killing = Some(tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let ids = sessions(&mut conn, &user, true).await;
                    if !ids.is_empty() && statements == 0 {
                        let _gone_meanwhile = kill_one(&mut conn, &ids, &mut Chance::new()).await;
                        return;
                    }
                    statements = statements.saturating_sub(ids.len());
                }
            }));
        }
    }
}

async fn a_restore_whose_sessions_are_killed_again_and_again_ends_with_the_same(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("kill_load");
    let config = sample(&server, db).await;
    let recorded = Recorded::read(&config).await;
    account(&server, db, &["ALL ON *.*"]).await;
    let config = server.as_user(config, db, "x");
    let mut restore = Restore::of(&recorded, &config);
    let (mut chance, mut lost) = (Chance::new(), 0);
    for round in 0..rounds(10) {
        let frames_left = chance.below(restore.frames());
        // Every third time at the end: while indexes, keys and programs are made.
        let later = if round % 3 == 2 { Some((server.conn().await, chance.below(12))) } else { None };
        let over = Arc::new(AtomicBool::new(false));
        let conn = server.conn().await;
        let mut kills = KillsOne {
            conn,
            later,
            user: db,
            frames_left,
            chance: &mut chance,
            over: Arc::clone(&over),
            killing: None,
        };
        let ended = restore.run(&mut kills).await.expect("the program itself is not killed");
        over.store(true, Ordering::Relaxed);
        if let Some(killing) = kills.killing {
            killing.await.expect("the killer ends well");
        }
        match ended {
            Ok(_) => {
                restore.options.job = Some(Ground::system().hex(32));
                restore.options.resume = false;
            }
            Err(error) => {
                check_told(error, round);
                lost += 1;
            }
        }
    }
    eprintln!("{product:?}: {lost} of {} restores were lost with a session", rounds(10));
    assert!(lost > 0, "no killed session was missed");
    restore.finish().await;
    restore.check(&server, db).await;
    server.run([format!("DROP USER {db}")]).await;
}
