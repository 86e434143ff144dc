//! A restore that goes on after its own earlier attempt: what that one still holds on the server, or told it.

use std::sync::Arc;

use lifeboat::{
    clock::Ground,
    error::ExitCode,
    event::NoMonitor,
    flow::{FlowError, Piece, STREAM_DEPTH, Stage, Target, WriteOptions, channel},
    mysql::{Choices, GtidRule, MysqlTarget},
    names::SourceName,
    policy::MysqlConfig,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

use crate::{
    rows::Recorded,
    support::{Process, Product, Server, own, processes},
};

crate::on_both!(
    sessions_that_a_cut_network_left_behind_are_ended,
    what_was_told_before_the_end_is_no_obstacle,
);

/// A way to a server that can be cut: what went through then stays open at the server's end, and nobody hears of it.
struct Way {
    port: u16,
    open: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>,
    /// The server's ends of what was cut.
    held: Arc<Mutex<Vec<std::net::TcpStream>>>,
}

impl Way {
    async fn to(config: &MysqlConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, held) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (place, opened, kept) =
            ((config.host.clone(), config.port), Arc::clone(&open), Arc::clone(&held));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = TcpStream::connect(place.clone()).await.unwrap().into_std().unwrap();
                kept.lock().await.push(server.try_clone().unwrap());
                let mut server = TcpStream::from_std(server).unwrap();
                opened.lock().await.push(tokio::spawn(async move {
                    let _either_way = copy_bidirectional(&mut client, &mut server).await;
                }));
            }
        });
        Self { port, open, held }
    }

    async fn cut(&self) {
        for way in self.open.lock().await.drain(..) {
            way.abort();
        }
    }
}

fn maker(config: &MysqlConfig, choices: Choices) -> MysqlTarget {
    let name = SourceName::new("mysql").unwrap();
    MysqlTarget::new(name, config.clone(), &Ground::system(), NoMonitor::shared()).choosing(choices)
}

async fn sessions_that_a_cut_network_left_behind_are_ended(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("cut");
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.t (id INT PRIMARY KEY)"),
            format!("INSERT INTO {db}.t VALUES (1), (2)"),
        ])
        .await;
    let mut config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    let way = Way::to(&config).await;
    (config.host, config.port) = ("127.0.0.1".to_owned(), way.port);
    let first = maker(&config, Choices::default());
    let (second, stranger) = (first.clone(), maker(&config, Choices::default()));
    let job = Ground::system().hex(32);
    let options = || WriteOptions { replace: true, job: Some(job.clone()), ..WriteOptions::default() };

    // The first attempt stands in the middle of a piece when the network is cut.
    let (sink, stream) = channel(STREAM_DEPTH);
    let writing = tokio::spawn(Box::new(first).write(options(), stream));
    sink.announce(recorded.inventory.clone()).await.unwrap();
    let mut last = None;
    for (meta, pieces, trailer) in &recorded.entries {
        let mut body = sink.begin(meta.clone()).await.unwrap();
        for piece in pieces {
            if let Piece::Data(bytes) = piece {
                body.write(bytes.clone()).await.unwrap();
            }
        }
        if meta.stage == Stage::Data {
            last = Some(body);
            break;
        }
        body.finish_with(trailer.clone()).await.unwrap();
    }
    let mut watch = server.conn().await;
    let loads = |all: Vec<Process>| {
        all.iter().filter(|one| one.statement.starts_with("LOAD DATA") && one.statement.contains(db)).count()
    };
    let mut tries = 0;
    while loads(processes(&mut watch).await) != 1 {
        tries += 1;
        assert!(tries < 600, "nobody loads rows");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    way.cut().await;
    writing.abort();
    drop((last, sink));
    assert_eq!(loads(processes(&mut watch).await), 1, "the server has not heard of it");

    // Another restore is none of theirs; the next attempt of this one is.
    let go_on = || WriteOptions { resume: true, ..options() };
    match recorded.write_to(Box::new(stranger), go_on()).await {
        Err(FlowError::Failed(failure)) => assert_eq!(failure.exit(), ExitCode::Busy, "{failure:?}"),
        other => panic!("busy, not {other:?}"),
    }
    recorded.write_to(Box::new(second), go_on()).await.expect("it goes on");
    assert_eq!(server.ask(&format!("SELECT CONCAT(COUNT(*)) FROM {db}.t")).await, "2");
    assert!(!way.held.lock().await.is_empty());
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn what_was_told_before_the_end_is_no_obstacle(product: Product) {
    let gtid: &[&str] = match product {
        Product::Mysql => &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
        Product::Mariadb => &["--server-id=79"],
    };
    let server = Server::empty_with(product, gtid).await;
    let db = "lbt_told";
    server.run([format!("CREATE DATABASE {db}"), format!("CREATE TABLE {db}.t (id INT PRIMARY KEY)")]).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    let (position, tell) = match product {
        Product::Mysql => {
            let set = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5";
            (set, format!("SET GLOBAL gtid_purged = '+{set}'"))
        }
        Product::Mariadb => ("7-5-1200", "SET GLOBAL gtid_slave_pos = '7-5-1200'".to_owned()),
    };
    let telling =
        |set: &str| Choices { gtid: Some((GtidRule::Append, set.to_owned())), ..Choices::default() };
    let job = Ground::system().hex(32);
    let options = || WriteOptions { replace: true, job: Some(job.clone()), ..WriteOptions::default() };

    let none = recorded.write_to(Box::new(maker(&config, telling(" "))), options()).await;
    match none {
        Err(FlowError::Failed(failure)) => {
            let told = failure.one_line();
            assert!(failure.exit() == ExitCode::Usage && told.contains("has no GTIDs"), "{told}");
        }
        other => panic!("a failure, not {other:?}"),
    }
    // An attempt that came as far as its rows, and then, as if it had been the same, told the server.
    let cut = recorded.write_cut(&config, options()).await;
    assert!(cut.is_err());
    server.run([tell]).await;
    let mut again = maker(&config, telling(position));
    again.inspect(&recorded.inventory).await.expect("it may be its own");
    let go_on = WriteOptions { resume: true, ..options() };
    recorded.write_to(Box::new(again), go_on).await.expect("it goes on");
    // A restore of its own is refused as before.
    let other = recorded.write_to(Box::new(maker(&config, telling(position))), options()).await;
    assert!(matches!(other, Err(FlowError::Failed(failure)) if failure.exit() == ExitCode::Usage));
}
