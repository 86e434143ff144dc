//! A MySQL server that goes away, before a night or in the middle of it.

use std::fmt::Write as _;

use mysql_async::prelude::Queryable;

use crate::{
    between::Held,
    night::{NIGHT, Night},
    stage::{closed_port, ran},
    support::{Product, Server, own, processes},
};

const PASSWORD: &str = "correct-horse-battery";

/// A database of the shared server, and an account that only its nights use.
struct Account {
    server: Server,
    name: String,
}

impl Account {
    async fn new(what: &str) -> Self {
        let account = Self { server: Server::shared(Product::Mysql).await, name: own(what) };
        let name = &account.name;
        account
            .server
            .run([
                format!("DROP DATABASE IF EXISTS {name}"),
                format!("CREATE DATABASE {name}"),
                format!("CREATE TABLE {name}.big (id INT PRIMARY KEY, v LONGTEXT)"),
                format!("DROP USER IF EXISTS {name}"),
            ])
            .await;
        account.comes().await;
        account
    }

    async fn comes(&self) {
        let name = &self.name;
        let create = format!("CREATE USER {name} IDENTIFIED BY '{PASSWORD}'");
        self.server.run([create, format!("GRANT ALL ON *.* TO {name}")]).await;
    }

    /// Fills the table with so many rows of 8 MB.
    async fn fill(&self, rows: usize) {
        let insert = |row| format!("INSERT INTO {}.big VALUES ({row}, REPEAT('x', 8000000))", self.name);
        self.server.run((0..rows).map(insert)).await;
    }

    /// Adds the account to a policy.
    fn add_to(&self, night: &Night) {
        night.stage.secret("mysql", PASSWORD);
        let mut source =
            String::from("[[source]]\nname = \"mysql\"\nkind = \"mysql\"\nexclude = [\"accounts\"]\n");
        let name = &self.name;
        let (port, file) = (self.server.config.port, night.stage.at("secrets/mysql"));
        write!(source, "port = {port}\nuser = \"{name}\"\ndatabases = [\"{name}\"]\n").unwrap();
        writeln!(source, "password = {{ file = \"{file}\" }}").unwrap();
        night.stage.append(&source);
    }

    /// Lets the policy lead to another port.
    fn lead(night: &Night, from: u16, to: u16) {
        night.stage.edit(|policy| policy.replace(&format!("port = {from}\n"), &format!("port = {to}\n")));
    }

    async fn kill_all(&self) {
        let mut conn = self.server.conn().await;
        let mut sessions = processes(&mut conn).await;
        sessions.retain(|session| session.user == self.name);
        assert!(!sessions.is_empty());
        for session in sessions {
            conn.query_drop(format!("KILL {}", session.id)).await.unwrap();
        }
    }

    async fn end(self) {
        let name = &self.name;
        self.server.run([format!("DROP DATABASE {name}"), format!("DROP USER IF EXISTS {name}")]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_connection_that_is_killed_half_way_is_a_failed_run_one_message_and_no_snapshot() {
    let account = Account::new("killed").await;
    let night = Night::new().await;
    account.add_to(&night);
    night.passes(0);
    let (kept, made) = (night.kept(), night.snapshots());
    assert_eq!((made.len(), night.told().len()), (1, 0));

    account.fill(8).await;
    let port = account.server.config.port;
    let held = Held::before(port, 2 << 20).await;
    Account::lead(&night, port, held.port);
    let program = night.stage.start(&NIGHT);
    held.is_full.cancelled().await;
    account.kill_all().await;
    held.release.cancel();
    ran(&program.wait_with_output().unwrap()).ends(20);
    night.has_failed("127.0.0.1:");
    assert_eq!((night.snapshots(), night.kept()), (made, kept));
    // Whoever looks again has nothing new to tell.
    night.stage.run(&["serve", "--once"]).ends(0);
    let told = night.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("backup failed"), "{told:?}");

    Account::lead(&night, held.port, port);
    night.passes(0);
    assert_eq!((night.open(), night.snapshots().len()), (Vec::new(), 2));
    let told = night.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("over"), "{told:?}");
    night.stage.run(&["verify", "--read-data"]).ends(0);
    account.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_wrong_password_a_host_that_is_down_and_an_account_that_is_gone_are_each_a_failed_run() {
    let account = Account::new("nights").await;
    let night = Night::new().await;
    account.add_to(&night);
    night.passes(0);
    let (name, port, nobody) = (&account.name, account.server.config.port, closed_port());

    account.server.run([format!("ALTER USER {name} IDENTIFIED BY 'another-one'")]).await;
    night.passes(20).hides(PASSWORD);
    night.has_failed(&format!("`{name}`"));
    account.server.run([format!("ALTER USER {name} IDENTIFIED BY '{PASSWORD}'")]).await;
    night.passes(0);
    assert_eq!(night.open(), Vec::<String>::new());

    Account::lead(&night, port, nobody);
    night.passes(20);
    night.has_failed(&format!("127.0.0.1:{nobody}"));
    Account::lead(&night, nobody, port);
    night.passes(0);
    assert_eq!(night.open(), Vec::<String>::new());

    account.server.run([format!("DROP USER {name}")]).await;
    night.passes(20).hides(PASSWORD);
    night.has_failed(&format!("`{name}`"));
    account.comes().await;
    night.passes(0);
    assert_eq!(night.open(), Vec::<String>::new());

    assert_eq!(night.snapshots().len(), 4, "one for each night that went well");
    let told = night.told();
    assert_eq!(told.len(), 6, "each fault and its end, once: {told:?}");
    account.end().await;
}
