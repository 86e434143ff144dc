//! Accounts that are made anew: what cannot be made costs nobody an account, and nobody else a role.

use lifeboat::{
    error::Failure,
    flow::{FlowError, Tally, Weight, WriteOptions},
    mysql::{AccountsRule, Choices},
    policy::MysqlConfig,
};
use mysql_async::{Row, prelude::Queryable};

use crate::{
    on_both,
    rows::Recorded,
    support::{Product, Server, choosing},
};

on_both!(an_account_that_cannot_be_made_anew_is_there_as_it_was_and_nobody_loses_a_role);

const ACCOUNTS: &str = "accounts.sql";

fn anew() -> Choices {
    Choices { accounts: Some(AccountsRule::Replace), ..Choices::default() }
}

async fn restored(recorded: &Recorded, config: &MysqlConfig) -> Result<Tally, Failure> {
    let (target, _) = choosing(config, anew());
    recorded.write_to(target, WriteOptions::default()).await.map_err(|error| match error {
        FlowError::Failed(failure) => failure,
        other => panic!("the restore fails by itself: {other:?}"),
    })
}

/// Returns what the server shows of these accounts.
async fn shown(server: &Server, accounts: &[&str]) -> Vec<String> {
    let mut conn = server.conn().await;
    let mut all = Vec::new();
    for account in accounts {
        for what in ["CREATE USER", "GRANTS FOR"] {
            if what == "CREATE USER" && !account.contains('@') {
                continue;
            }
            let rows: Vec<Row> = conn.query(format!("SHOW {what} {account}")).await.unwrap();
            let lines = rows.into_iter().map(|row| mysql_async::from_row::<(String,)>(row).0);
            // A role of MariaDB shows what other roles bring it as well: those come from the snapshot.
            let own = format!(" TO `{account}`");
            all.extend(lines.filter(|line| account.contains('@') || line.ends_with(&own)));
        }
    }
    conn.disconnect().await.unwrap();
    all
}

/// Makes accounts that a role ties together, as the snapshot has them.
async fn team(server: &Server, product: Product) {
    // MariaDB gives each role to who makes it: here the administrator of the role is somebody else.
    let admin = if product == Product::Mariadb { " WITH ADMIN `worker`@`%`" } else { "" };
    server
        .run([
            "CREATE USER `worker`@`%` IDENTIFIED BY 'stored'".to_owned(),
            format!("CREATE ROLE dev{admin}"),
            "GRANT SELECT ON lbt_x.* TO dev".to_owned(),
        ])
        .await;
    if product == Product::Mysql {
        server.run(["GRANT dev TO worker WITH ADMIN OPTION", "SET DEFAULT ROLE dev TO worker"]).await;
    }
}

/// Makes what is on the target only, and changes what is in the snapshot.
async fn life(server: &Server, product: Product) {
    server
        .run([
            "CREATE USER `only_here`@`%` IDENTIFIED BY 'x'",
            "CREATE USER `proxied`@`%` IDENTIFIED BY 'x'",
            // MariaDB's administrator would have it else, and with it the role that it is given: both were kept.
            match product {
                Product::Mysql => "CREATE ROLE local_role",
                Product::Mariadb => "CREATE ROLE local_role WITH ADMIN `only_here`@`%`",
            },
        ])
        .await;
    // The administrator of the role gives it.
    let mut worker = server.conn_as("worker", "stored").await.unwrap();
    if product == Product::Mysql {
        worker.query_drop("SET ROLE ALL").await.unwrap();
    }
    for sql in ["GRANT dev TO `only_here`@`%` WITH ADMIN OPTION", "GRANT dev TO local_role"] {
        worker.query_drop(sql).await.unwrap_or_else(|error| panic!("{error} in {sql}"));
    }
    worker.disconnect().await.unwrap();
    let mut more = vec!["GRANT RELOAD ON *.* TO `worker`@`%`".to_owned()];
    if product == Product::Mysql {
        more.push("GRANT local_role TO `worker`@`%`".to_owned());
    }
    more.push(match product {
        Product::Mysql => "SET DEFAULT ROLE dev TO `only_here`@`%`".to_owned(),
        Product::Mariadb => "SET DEFAULT ROLE dev FOR `only_here`@`%`".to_owned(),
    });
    more.push(match product {
        Product::Mysql => "ALTER USER `worker`@`%` IDENTIFIED BY 'live' RETAIN CURRENT PASSWORD".to_owned(),
        Product::Mariadb => "ALTER USER `worker`@`%` IDENTIFIED BY 'live'".to_owned(),
    });
    server.run(more).await;
    let client = if product == Product::Mysql { "mysql" } else { "mariadb" };
    let proxy = "GRANT PROXY ON ''@'' TO 'root'@'%' WITH GRANT OPTION; GRANT PROXY ON `worker`@`%` TO `only_here`@`%`; \
                 GRANT PROXY ON `proxied`@`%` TO `worker`@`%`";
    server.exec(&[client, "-uroot", "-plbt-empty-root", "-S/lbt/server.sock", "-e", proxy]);
}

async fn an_account_that_cannot_be_made_anew_is_there_as_it_was_and_nobody_loses_a_role(product: Product) {
    let server = Server::empty(product).await;
    team(&server, product).await;
    let mut recorded = Recorded::read(&server.config).await;
    life(&server, product).await;
    let role = if product == Product::Mysql { "local_role@`%`" } else { "local_role" };
    let others = ["`only_here`@`%`", role];
    let all = ["`only_here`@`%`", role, "`worker`@`%`"];
    let before = (shown(&server, &all).await, shown(&server, &others).await);

    // A hash that no server takes, which is seen only when the account is made. MySQL shows a hash in hexadecimal,
    // or as text where all of it can be printed: a space ends both.
    let (word, end, no_hash) = match product {
        Product::Mysql => (" AS ", ' ', "0x24"),
        Product::Mariadb => ("PASSWORD '", '\'', "*123"),
    };
    let refused = |text: &str| {
        let begin = text.find("CREATE USER `worker`").expect("it is in the snapshot");
        let from = begin + text[begin..].find(word).expect("a hash") + word.len();
        let len = text[from..].find(end).expect("its end");
        format!("{}{no_hash}{}", &text[..from], &text[from + len..])
    };
    let good = std::cell::RefCell::new(String::new());
    recorded.replace(ACCOUNTS, |text| {
        good.replace(text.to_owned());
        refused(text)
    });
    let failure = restored(&recorded, &server.config).await.expect_err("no server takes that hash");
    assert!(failure.hints().iter().any(|hint| hint.contains("there again, as it was")), "{failure:?}");
    assert_eq!(shown(&server, &all).await, before.0);
    server.conn_as("worker", "live").await.expect("the live account is there");
    if product == Product::Mysql {
        server.conn_as("worker", "stored").await.expect("its second password too");
    }

    recorded.replace(ACCOUNTS, |_| good.borrow().clone());
    let tally = restored(&recorded, &server.config).await.expect("the accounts are made anew");
    server.conn_as("worker", "stored").await.expect("it is as the snapshot has it");
    server.conn_as("worker", "live").await.expect_err("and not as it was");
    assert_eq!(shown(&server, &others).await, before.1, "{:?}", tally.notes);
}

/// On MySQL alone: a role of MariaDB has no login that could be missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn roles_of_mysql_that_are_kept_need_not_fit() {
    let server = Server::empty(Product::Mysql).await;
    server
        .run(["CREATE ROLE ours", "GRANT ours TO root@'%'", "CREATE USER `other`@`%` IDENTIFIED BY 'x'"])
        .await;
    let mut recorded = Recorded::read(&server.config).await;
    recorded.replace(ACCOUNTS, |text| {
        // A login that this server has not got, for the role too.
        text.replace("WITH 'caching_sha2_password'", "WITH 'no_such_login'")
    });
    let (target, _) = choosing(&server.config, anew());
    let found = recorded.preflight_of(target, WriteOptions::default()).await;
    let unfit: Vec<&str> = found
        .remarks
        .iter()
        .filter(|one| one.weight == Weight::DoesNotFit)
        .map(|one| one.what.as_str())
        .collect();
    assert_eq!(unfit, ["account `other`@`%`"], "{:?}", found.remarks);
}
