//! Sentinels: which server is the primary today, and which replicas it has.
//!
//! *Order.* The Sentinels are asked one after the other; the first that names a primary which says so itself is
//! believed. A Sentinel that was cut off names the one of before: that one has become a replica and says so.
//!
//! *Limits.* While a failover goes on they are asked again and again, as long as one of them, or the server that it
//! names, may come back; where all refuse us that ends at once.
//!
//! Nothing is said to a Sentinel but these questions: it needs the rights `+sentinel|get-master-addr-by-name` and
//! `+sentinel|replicas`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::redis::Value;
use tokio::time::{Instant, sleep};

use super::{
    cluster::text,
    control::Control,
    replica::{Chosen, choose},
    server::{Server, is_lasting, is_refusal, may_pass},
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    names::SourceName,
    policy::RedisConfig,
};

/// Where Sentinels listen when nothing else is said.
const PORT: u16 = 26_379;
/// How long is waited between two questions while a failover goes on.
const ASK_MILLISECONDS: u64 = 250;

/// What a Sentinel knows of the server.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    /// The Sentinel.
    pub(super) by: String,
    /// The primary.
    pub(super) primary: Server,
    /// Its replicas that work, the best first.
    pub(super) replicas: Vec<Server>,
}

/// Returns the server that takes writes: the policy's own, or the primary that its Sentinels name.
pub(super) async fn primary(name: &SourceName, config: &RedisConfig) -> Result<Server> {
    if config.sentinels.is_empty() {
        return Server::of(name, config);
    }
    Ok(ask(name, config).await?.primary)
}

/// Asks the Sentinels until one gives an answer that can be used.
pub(super) async fn ask(name: &SourceName, config: &RedisConfig) -> Result<Watched> {
    ask_each(name, config).await.map_err(|none| none.failure)
}

/// No Sentinel gave an answer that can be used.
struct NoneHeard {
    /// What to say of it.
    failure: Failure,
    /// Whether one may, a little later.
    may_pass: bool,
}

async fn ask_each(name: &SourceName, config: &RedisConfig) -> Result<Watched, NoneHeard> {
    let mut unheard = Vec::new();
    for url in &config.sentinels {
        match ask_one(name, config, url).await {
            Ok(watched) => return Ok(watched),
            Err(one) => unheard.push(one),
        }
    }
    // The failure that says most need not be that of the one that comes back.
    let may_pass = unheard.iter().any(|one| may_pass(&one.failure));
    let none = || Failure::new(ExitCode::Usage, format!("source `{name}` names no Sentinel"));
    Err(NoneHeard { failure: most_telling(unheard).unwrap_or_else(none), may_pass })
}

/// Why a Sentinel was not believed.
struct Unheard {
    failure: Failure,
    /// Whether it named a primary, which was none or did not answer: a failover may be going on.
    is_named: bool,
}

/// Returns the failure that says most: of a primary that was named, else of a Sentinel that refused us, else the last.
fn most_telling(mut unheard: Vec<Unheard>) -> Option<Failure> {
    unheard.sort_by_key(|one| (one.is_named, is_lasting(&one.failure)));
    unheard.pop().map(|one| one.failure)
}

/// Returns the server that a dump is pulled from; while a failover goes on, for as long as `patience`.
pub(super) async fn place(
    name: &SourceName,
    config: &RedisConfig,
    ground: &Ground,
    patience: Duration,
) -> Result<Chosen> {
    let until = Instant::now() + patience;
    loop {
        let chosen = match ask_each(name, config).await {
            Ok(watched) => choose(watched.primary, watched.replicas, config.prefer, ground)
                .await
                .map_err(|failure| NoneHeard { may_pass: may_pass(&failure), failure }),
            Err(none) => Err(none),
        };
        match chosen {
            Err(none) if none.may_pass && Instant::now() < until => {
                sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
            }
            chosen => return chosen.map_err(|none| none.failure),
        }
    }
}

async fn ask_one(name: &SourceName, config: &RedisConfig, url: &str) -> Result<Watched, Unheard> {
    let told = told_by(name, config, url).await;
    let watched = told.map_err(|failure| Unheard { failure, is_named: false })?;
    match is_primary(&Arc::new(watched.primary.clone())).await {
        Ok(()) => Ok(watched),
        Err(failure) => Err(Unheard { failure, is_named: true }),
    }
}

/// Asks one Sentinel; whether it is right is not looked at.
async fn told_by(name: &SourceName, config: &RedisConfig, url: &str) -> Result<Watched> {
    // The servers are let in to as the policy says; a Sentinel has a user and a password of its own.
    let like = Server::of(name, &RedisConfig { url: with_port(url), ..config.clone() })?;
    let account = RedisConfig {
        url: with_port(url),
        user: config.sentinel_user.clone(),
        password: config.sentinel_password.clone(),
        ..config.clone()
    };
    let sentinel = Arc::new(Server::of(name, &account)?);
    let watched = config.primary_name.as_deref().unwrap_or_default();
    let refused = |failure| not_let_in(&sentinel, failure);
    let mut control = Control::open(&sentinel).await.map_err(refused)?;
    let told: Result<Option<(String, u16)>> =
        control.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", watched]).await;
    let told = told.map_err(refused)?;
    let Some((host, port)) = told else {
        let what = format!("Sentinel {} watches no `{watched}`", sentinel.address());
        return Err(Failure::new(ExitCode::Usage, what).hint(
            "`redis-cli -p 26379 sentinel masters` lists the names: set `primary_name` of this source.",
        ));
    };
    let primary = like.elsewhere(&host, port);
    // Without this right the primary is read.
    let told: Vec<Value> = control.ask(&["SENTINEL", "REPLICAS", watched]).await.unwrap_or_default();
    let replicas = in_order(told.iter().filter_map(Replica::read).collect());
    let replicas = replicas.iter().map(|replica| like.elsewhere(&replica.host, replica.port)).collect();
    Ok(Watched { by: sentinel.address(), primary, replicas })
}

/// Tells of a refusal what a Sentinel wants; its user and password are not the servers'.
fn not_let_in(sentinel: &Server, failure: Failure) -> Failure {
    if !is_refusal(&failure) {
        return failure;
    }
    let what = format!("Sentinel {} does not answer our questions", sentinel.address());
    Failure::new(failure.exit(), what).because(failure).hint(
        "Set `sentinel_password`, and with ACL users `sentinel_user`, of this source: they are the Sentinels' own. The user needs +sentinel|get-master-addr-by-name and +sentinel|replicas.",
    )
}

/// Fails unless a server that was named as primary is one, as far as it may be asked.
async fn is_primary(server: &Arc<Server>) -> Result<()> {
    let mut control = Control::open(server).await?;
    let fields = control.info("replication").await.unwrap_or_default();
    match fields.get("role").map(String::as_str) {
        None | Some("master") => Ok(()),
        Some(_) => Err(server.down("a Sentinel names it as primary and it is a replica")),
    }
}

/// Adds the Sentinels' usual port to an address without one.
fn with_port(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    match host.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => url.to_owned(),
        _ => format!("{url}:{PORT}"),
    }
}

/// A replica as a Sentinel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replica {
    host: String,
    port: u16,
    priority: u64,
    offset: u64,
}

impl Replica {
    /// Reads a description, which is a list of names and values; `None` of one that is not in order.
    fn read(told: &Value) -> Option<Self> {
        let Value::Array(words) = told else { return None };
        let fields: BTreeMap<String, String> =
            words.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect();
        let number = |name: &str| fields.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let flags = fields.get("flags")?;
        let is_down = flags.split(',').any(|flag| ["s_down", "o_down", "disconnected"].contains(&flag));
        let is_linked = fields.get("master-link-status").is_some_and(|status| status == "ok");
        (!is_down && is_linked).then_some(())?;
        Some(Self {
            host: fields.get("ip")?.clone(),
            port: fields.get("port")?.parse().ok()?,
            priority: number("slave-priority"),
            offset: number("slave-repl-offset"),
        })
    }
}

/// Puts those first that can never become the primary, which are kept for such work; then those that are furthest.
fn in_order(mut replicas: Vec<Replica>) -> Vec<Replica> {
    replicas.sort_by_key(|replica| (replica.priority != 0, std::cmp::Reverse(replica.offset)));
    replicas
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn told(host: &str, flags: &str, link: &str, priority: &str, offset: &str) -> Value {
        let pairs = [
            ("ip", host),
            ("port", "6379"),
            ("flags", flags),
            ("master-link-status", link),
            ("slave-priority", priority),
            ("slave-repl-offset", offset),
        ];
        let said = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        Value::Array(pairs.iter().flat_map(|(name, value)| [said(name), said(value)]).collect())
    }

    #[test]
    fn replicas_that_do_not_work_are_left_out_and_the_spare_one_comes_first() {
        let told = [
            told("behind", "slave", "ok", "100", "7"),
            told("furthest", "slave", "ok", "100", "900"),
            told("down", "slave,s_down", "ok", "100", "999"),
            told("gone", "slave,disconnected", "ok", "0", "999"),
            told("cut", "slave", "err", "0", "999"),
            told("spare", "slave", "ok", "0", "5"),
            Value::Nil,
        ];
        let hosts: Vec<String> = in_order(told.iter().filter_map(Replica::read).collect())
            .into_iter()
            .map(|replica| replica.host)
            .collect();
        assert_eq!(hosts, ["spare", "furthest", "behind"]);
    }

    /// Plays a Sentinel that answers each command with this; returns its address and how often it was connected to.
    async fn played(answer: &'static str) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let count = Arc::new(AtomicUsize::new(0));
        let connections = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let mut command = [0; 512];
                while stream.read(&mut command).await.is_ok_and(|read| read > 0) {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        (url, count)
    }

    /// Asks for a place until the Sentinel at which is counted was asked twice; returns the failure if it ended before.
    async fn asked_twice(sentinels: Vec<String>, count: &AtomicUsize, patience: Duration) -> Option<Failure> {
        let name = SourceName::new("redis").unwrap();
        let config = RedisConfig { sentinels, primary_name: Some("main".into()), ..RedisConfig::default() };
        let ground = Ground::system();
        let asked_again = async {
            while count.load(Ordering::SeqCst) < 2 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            placed = place(&name, &config, &ground, patience) => Some(placed.unwrap_err()),
            () = asked_again => None,
        }
    }

    const REFUSALS: [&str; 2] = [
        "-NOAUTH Authentication required.\r\n",
        "-NOPERM this user has no permissions to run the 'sentinel' command\r\n",
    ];

    #[tokio::test]
    async fn sentinels_that_all_refuse_us_are_asked_once_and_one_that_has_no_time_again() {
        let minute = Duration::from_mins(1);
        for answer in REFUSALS {
            let (url, count) = played(answer).await;
            let failure = asked_twice(vec![url], &count, minute).await.unwrap();
            assert_eq!(failure.exit(), ExitCode::SourceDown, "{answer}{failure:?}");
            assert!(failure.hints()[0].contains("`sentinel_password`"), "{failure:?}");
        }
        let (url, count) = played("-LOADING Redis is loading the dataset in memory\r\n").await;
        assert!(asked_twice(vec![url], &count, minute).await.is_none());
    }

    #[tokio::test]
    async fn a_sentinel_that_is_down_is_waited_for_although_another_refuses_us() {
        let down = || "redis://127.0.0.1:1".to_owned();
        for answer in REFUSALS {
            let (url, count) = played(answer).await;
            let sentinels = vec![down(), url, down()];
            assert!(
                asked_twice(sentinels.clone(), &count, Duration::from_mins(1)).await.is_none(),
                "{answer}"
            );
            // One that stays down hides the refusal of no other.
            let never = AtomicUsize::new(0);
            let failure = asked_twice(sentinels, &never, Duration::ZERO).await.unwrap();
            assert!(failure.hints()[0].contains("`sentinel_password`"), "{failure:?}");
        }
    }

    #[test]
    fn a_primary_that_was_named_tells_more_than_a_refusal() {
        let server = Server::of(
            &SourceName::new("redis").unwrap(),
            &RedisConfig { url: "redis://h".into(), ..RedisConfig::default() },
        )
        .unwrap();
        let gone = || Unheard { failure: server.down("gone"), is_named: false };
        let refused = || Unheard { failure: server.refused("PING", "NOAUTH x"), is_named: false };
        let named = || Unheard { failure: server.down("a replica"), is_named: true };
        let told = |all: Vec<Unheard>| most_telling(all).unwrap().chain()[1].clone();
        assert_eq!(told(vec![named(), refused(), gone()]), "a replica");
        assert_eq!(told(vec![gone(), refused(), gone()]), "NOAUTH x");
        assert_eq!(told(vec![gone(), gone()]), "gone");
    }

    #[test]
    fn a_sentinel_without_a_port_listens_where_sentinels_do() {
        for (url, whole) in [
            ("redis://s1", "redis://s1:26379"),
            ("redis://s1:5000", "redis://s1:5000"),
            ("rediss://[::1]/", "rediss://[::1]:26379"),
            ("redis://[::1]:7", "redis://[::1]:7"),
        ] {
            assert_eq!(with_port(url), whole);
        }
    }
}
