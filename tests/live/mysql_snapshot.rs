//! All connections see one instant, and hold what they see.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mysql_async::prelude::Queryable;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    rows::Recorded,
    support::{Product, Server, own},
};

crate::on_both!(
    transfers_during_a_reading_never_tear_it,
    a_table_cannot_vanish_while_it_is_read,
    a_reading_writes_nothing_to_the_binlog,
    migrations_wait_for_readings_and_do_not_fail,
);

/// What writers are told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Write,
    Rest,
    Stop,
}

/// Writers that go on until they are told to stop.
pub struct Writers {
    told: watch::Sender<Told>,
    /// By each of them.
    written: Vec<Arc<AtomicU64>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts writers; each runs `statements(writer, n)` as one transaction, n counting from 0.
    pub async fn start(
        server: &Server,
        count: u64,
        prepare: &'static str,
        statements: impl Fn(u64, u64) -> Vec<String> + Send + Sync + Clone + 'static,
    ) -> Self {
        let told = watch::Sender::new(Told::Write);
        let (mut written, mut tasks) = (Vec::new(), Vec::new());
        for writer in 0..count {
            let (mut told, done, statements) =
                (told.subscribe(), Arc::new(AtomicU64::new(0)), statements.clone());
            written.push(Arc::clone(&done));
            let mut conn = server.conn().await;
            conn.query_drop(prepare).await.expect("the session is prepared");
            tasks.push(tokio::spawn(async move {
                for n in 0.. {
                    let now = *told.wait_for(|told| *told != Told::Rest).await.expect("somebody tells it");
                    if now == Told::Stop {
                        return;
                    }
                    for statement in statements(writer, n) {
                        conn.query_drop(statement).await.expect("the writer writes");
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self { told, written, tasks }
    }

    fn done(&self) -> Vec<u64> {
        self.written.iter().map(|done| done.load(Ordering::Relaxed)).collect()
    }

    async fn until(&self, is_enough: impl Fn(Vec<u64>) -> bool) {
        while !is_enough(self.done()) {
            // A writer ends on its own only by an error, which the test is to show and not to wait for.
            assert!(!self.tasks.iter().any(JoinHandle::is_finished), "a writer failed");
            tokio::task::yield_now().await;
        }
    }

    /// Waits until `more` transactions were committed from now on.
    pub async fn progress(&self, more: u64) {
        let wanted = self.done().iter().sum::<u64>() + more;
        self.until(|done| done.iter().sum::<u64>() >= wanted).await;
    }

    /// Waits until each writer has committed `more` transactions from now on.
    pub async fn progress_of_each(&self, more: u64) {
        let before = self.done();
        self.until(|done| done.iter().zip(&before).all(|(now, before)| *now >= before + more)).await;
    }

    /// Lets writers begin nothing more while `resting` is waited for.
    pub async fn rest_for(&self, resting: impl Future<Output = ()>) {
        self.told.send_replace(Told::Rest);
        resting.await;
        self.go_on();
    }

    /// Lets writers write again, also where a rest was broken off.
    pub fn go_on(&self) {
        self.told.send_replace(Told::Write);
    }

    pub async fn stop(self) {
        self.told.send_replace(Told::Stop);
        for task in self.tasks {
            task.await.expect("the writer ends well");
        }
    }
}

/// Returns the fields of rows.
pub fn fields(rows: &[Vec<u8>]) -> Vec<Vec<String>> {
    let text = String::from_utf8(rows.concat()).expect("plain rows");
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// Makes four accounts of 1000 each and lets writers move money between them.
pub async fn transfers(server: &Server, db: &str) -> Writers {
    server.run([format!("CREATE DATABASE {db}")]).await;
    for table in 0..4 {
        server
            .run([
                format!("CREATE TABLE {db}.b{table} (id INT PRIMARY KEY, n BIGINT)"),
                format!("INSERT INTO {db}.b{table} VALUES (0, 1000)"),
            ])
            .await;
    }
    // Money moves between tables, so that different sessions read the two sides; in one order of tables, so
    // that the writers do not deadlock.
    let db = db.to_owned();
    Writers::start(server, 3, "DO 0", move |writer, n| {
        let (from, to) = ((writer + n) % 4, (writer + n * 3 + 1) % 4);
        let (first, second) = (from.min(to), from.max(to));
        let (sign, back) = if first == from { ("-", "+") } else { ("+", "-") };
        vec![
            "BEGIN".to_owned(),
            format!("UPDATE {db}.b{first} SET n = n {sign} 1"),
            format!("UPDATE {db}.b{second} SET n = n {back} 1"),
            "COMMIT".to_owned(),
        ]
    })
    .await
}

async fn transfers_during_a_reading_never_tear_it(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("bank");
    server.run([format!("DROP DATABASE IF EXISTS {db}")]).await;
    let writers = transfers(&server, db).await;
    let mut config = server.only(&[db]);
    config.threads = 4;
    for round in 0..8 {
        writers.progress(20).await;
        let recorded = Recorded::read(&config).await;
        let sum: i64 = (0..4)
            .map(|table| fields(&recorded.rows(&format!("b{table}")))[0][1].parse::<i64>().unwrap())
            .sum();
        assert_eq!(sum, 4000, "round {round}: {:?}", recorded.point);
    }
    writers.stop().await;
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn a_table_cannot_vanish_while_it_is_read(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("vanish");
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.a (id INT PRIMARY KEY)"),
            format!("CREATE TABLE {db}.z (id INT PRIMARY KEY)"),
            format!("INSERT INTO {db}.a VALUES (1)"),
            format!("INSERT INTO {db}.z VALUES (1)"),
        ])
        .await;
    let (sink, mut stream) = lifeboat::flow::channel(lifeboat::flow::STREAM_DEPTH);
    let take = async {
        let (mut entries, mut tried) = (0, false);
        while let Some(mut entry) = stream.next().await? {
            if !tried {
                tried = true;
                // The reading stands still at its first entry, and the tables are held.
                for change in ["DROP TABLE", "TRUNCATE TABLE"] {
                    let mut conn = server.conn().await;
                    conn.query_drop("SET SESSION lock_wait_timeout = 1").await.unwrap();
                    let dropped = conn.query_drop(format!("{change} {db}.z")).await;
                    assert!(dropped.is_err(), "{change} went through");
                }
            }
            while entry.body.next().await?.is_some() {}
            entries += 1;
        }
        Ok(entries)
    };
    let reading = crate::support::source(&server.only(&[db])).read(sink, None);
    let (read, taken) = tokio::join!(reading, take);
    let ((), entries) = lifeboat::flow::settle(read, taken).expect("the reading is whole");
    assert_eq!(entries, 7, "schema, two tables with layout and rows");
    server.run([format!("DROP TABLE {db}.z"), format!("DROP DATABASE {db}")]).await;
}

async fn a_reading_writes_nothing_to_the_binlog(product: Product) {
    let server = Server::empty(product).await;
    server.run(["CREATE DATABASE lbt_quiet", "CREATE TABLE lbt_quiet.t (a INT)"]).await;
    let first = Recorded::read(&server.config).await;
    let second = Recorded::read(&server.config).await;
    let position = |recorded: &Recorded| {
        let marks = &recorded.point.marks;
        (marks["binlog_file"].clone(), marks["binlog_pos"].clone(), marks.get("gtid").cloned())
    };
    assert_eq!(position(&first), position(&second));
}

async fn migrations_wait_for_readings_and_do_not_fail(product: Product) {
    let server = Server::empty(product).await;
    server
        .run(["CREATE DATABASE lbt_read", "CREATE DATABASE lbt_ddl", "CREATE TABLE lbt_read.t (a INT)"])
        .await;
    // A deadlock between a migration and our locks would end the migration with an error.
    let writers = Writers::start(&server, 2, "DO 0", |writer, n| {
        let table = format!("lbt_ddl.t{writer}");
        match n % 4 {
            0 => vec![format!("CREATE TABLE {table} (a INT PRIMARY KEY)")],
            1 => vec![format!("INSERT INTO {table} VALUES (1)"), format!("DELETE FROM {table}")],
            2 => vec![format!("ALTER TABLE {table} ADD COLUMN b INT")],
            _ => vec![format!("DROP TABLE {table}")],
        }
    })
    .await;
    let config = server.only(&["lbt_read"]);
    for _ in 0..10 {
        writers.progress(2).await;
        let both = tokio::join!(Recorded::read(&config), Recorded::read(&config));
        assert_eq!(both.0.inventory, both.1.inventory);
    }
    writers.stop().await;
}
