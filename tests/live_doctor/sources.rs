//! Servers that are well, that refuse us, and that give too little.

use chrono::TimeDelta;
use lifeboat::{
    clock::Ground,
    finding::{Finding, Status},
    names::SourceName,
    policy::{RedisConfig, SecretRef},
};

use crate::{
    buckets::{Bucket, endpoint},
    finding,
    redis_lab::{self, Lab},
    stage::{Silent, Stage},
    support::{Product, Server, own},
    town::{Town, WRONG, secret_key},
};

fn not_ok(findings: &[Finding]) -> Vec<(&str, Status, &str)> {
    let wrong = findings.iter().filter(|one| one.status != Status::Ok);
    wrong.map(|one| (one.id.as_str(), one.status, one.detail.as_str())).collect()
}

fn of<'f>(findings: &'f [Finding], id: &str) -> &'f Finding {
    findings.iter().find(|one| one.id == id).unwrap_or_else(|| panic!("{id} is not in {findings:#?}"))
}

async fn mysql(config: &lifeboat::policy::MysqlConfig) -> Vec<Finding> {
    let (name, every) = (SourceName::new("mysql").unwrap(), Some(TimeDelta::days(1)));
    lifeboat::mysql::examine::examine(&name, config, every, &Ground::system()).await
}

async fn redis(config: &RedisConfig) -> Vec<Finding> {
    lifeboat::redis::examine::examine(&redis_lab::name(), config, &Ground::system()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_good_stack_has_nothing_to_look_at() {
    let town = Town::with_policy("doctor").await;
    let document = town.run(&["doctor", "mysql", "redis", "minio", "config", "--json"]).ends(0).json();
    let all = document["findings"].as_array().unwrap();
    assert!(all.iter().all(|one| one["status"] == "ok"), "{document:#}");
    let begins =
        |family: &str| all.iter().filter(|one| one["id"].as_str().unwrap().starts_with(family)).count();
    assert_eq!([begins("source.mysql."), begins("source.redis."), begins("source.minio.")], [8, 10, 6]);
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn mariadb_and_a_newer_redis_are_well_too() {
    let mariadb = Server::shared(Product::Mariadb).await;
    assert_eq!(not_ok(&mysql(&mariadb.config).await), []);
    for major in [7, 8] {
        let lab = Lab::start(major).await;
        assert_eq!(not_ok(&redis(&lab.config()).await), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_look_begins_no_synchronisation() {
    for major in [7, 8] {
        let lab = Lab::start(major).await;
        redis(&lab.config()).await;
        let stats: String = lab.say(0, "INFO stats").await;
        assert!(stats.contains("sync_full:0"), "redis {major}: {stats}");
        let persistence: String = lab.say(0, "INFO persistence").await;
        assert!(persistence.contains("rdb_bgsave_in_progress:0"), "redis {major}: {persistence}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn wrong_passwords_are_told_at_each_server_and_hide_no_other() {
    let town = Town::new("doctorwrong").await;
    town.stage.append(&town.mysql_source(town.mysql.config.port, WRONG));
    town.stage.append(&town.redis_source(town.redis_port(), WRONG));
    town.stage.append(&town.s3_source(&endpoint(), WRONG));
    town.stage.write("data/app.env", "COLOUR=blue\n");
    town.stage.add_files("config", "data");
    let document = town.run(&["doctor", "mysql", "redis", "minio", "config", "--json"]).ends(20).json();
    for (id, words) in [
        ("source.mysql.answers", "refuses user `root`"),
        ("source.redis.answers", "refused the password"),
        ("source.minio.answers", "SignatureDoesNotMatch"),
    ] {
        let found = finding(&document, id);
        assert_eq!(found["status"], "broken", "{found}");
        assert!(found["detail"].as_str().unwrap().contains(words), "{found}");
    }
    assert_eq!(finding(&document, "source.config.answers")["status"], "ok");
    town.end().await;
}

async fn each_missing_grant_is_named(product: Product) {
    let server = Server::shared(product).await;
    let (user, db) = (own("doctor"), own("doctor_db"));
    let rest = match product {
        Product::Mysql => "PROCESS, REPLICATION CLIENT, BACKUP_ADMIN",
        Product::Mariadb => "PROCESS, BINLOG MONITOR",
    };
    server
        .run([
            format!("CREATE DATABASE {db}"),
            format!("CREATE USER `{user}`@`%` IDENTIFIED BY 'less'"),
            format!("GRANT SELECT, SHOW VIEW, LOCK TABLES, {rest} ON *.* TO `{user}`@`%`"),
        ])
        .await;
    let config = server.as_user(server.only(&[&db]), &user, "less");
    let findings = mysql(&config).await;
    let grants = of(&findings, "mysql.grants").clone();
    assert_eq!(grants.status, Status::Broken);
    assert!(grants.detail.ends_with("lacks TRIGGER, EVENT, RELOAD"), "{grants:?}");
    // What the hint says is all that is needed, word for word.
    let hint = grants.hint.unwrap();
    server.run([hint.trim_end_matches(';')]).await;
    assert_eq!(not_ok(&mysql(&config).await), []);
    server.run([format!("DROP USER `{user}`@`%`"), format!("DROP DATABASE {db}")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn each_missing_grant_is_named_on_mysql() {
    each_missing_grant_is_named(Product::Mysql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn each_missing_grant_is_named_on_mariadb() {
    each_missing_grant_is_named(Product::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_a_redis_user_may_not_do_is_named() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "little").unwrap();
    let password = Some(SecretRef::File(secret.path().to_owned()));
    for major in [7, 8] {
        let lab = Lab::start(major).await;
        let all = "+psync +replconf +ping +info +config|get +acl|list +module|list +time";
        let () = lab.say(0, &format!("ACL SETUSER whole on >little {all}")).await;
        let () = lab.say(0, &format!("ACL SETUSER half on >little {}", all.replace("+psync ", ""))).await;
        let () = lab.say(0, "ACL SETUSER bare on >little +psync +replconf +ping").await;
        let config = |user: &str| RedisConfig {
            user: Some(user.to_owned()),
            password: password.clone(),
            ..lab.config()
        };
        assert_eq!(not_ok(&redis(&config("whole")).await), [], "redis {major}: the rights of the hint");
        let findings = redis(&config("half")).await;
        let rights = of(&findings, "redis.rights");
        assert_eq!((rights.status, rights.detail.as_str()), (Status::Broken, "refused: PSYNC (NOPERM)"));
        let findings = redis(&config("bare")).await;
        assert_eq!(of(&findings, "redis.rights").status, Status::Warn);
        assert_eq!(of(&findings, "redis.clock").status, Status::Unknown);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_redis_that_evicts_is_told() {
    let lab = Lab::start_with(
        7,
        &["--requirepass", redis_lab::PASSWORD, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"],
    )
    .await;
    let findings = redis(&lab.config()).await;
    assert_eq!(of(&findings, "redis.eviction").status, Status::Warn);
    assert!(of(&findings, "redis.appendonly").detail.starts_with("appendonly no"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_that_is_missing_or_closed_is_named() {
    let town = Town::new("doctorbucket").await;
    let gone = Bucket::absent("doctorgone");
    let source = town.s3_source(&endpoint(), &secret_key());
    let named = |name: &str| source.replace(&format!("[\"{}\"]", town.bucket.name), &format!("[\"{name}\"]"));
    town.take_only(&named(&gone.name));
    let document = town.run(&["doctor", "minio", "--json"]).ends(1).json();
    let found = finding(&document, "source.minio.buckets");
    assert_eq!(found["detail"], format!("not there: {}", gone.name));
    town.take_only(&named("lbt-no-such-*"));
    let document = town.run(&["doctor", "minio", "--json"]).ends(0).json();
    assert_eq!(finding(&document, "source.minio.buckets")["status"], "warn");

    let (name, client) = (&town.bucket.name, &town.bucket.client);
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny","Principal":"*","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::{name}/*"]}}]}}"#
    );
    client.put_bucket_policy().bucket(name).policy(policy).send().await.unwrap();
    town.take_only(&source);
    let ran = town.run(&["doctor", "minio", "--json"]);
    client.delete_bucket_policy().bucket(name).send().await.unwrap();
    let document = ran.ends(1).json();
    let found = finding(&document, "source.minio.read");
    assert_eq!(found["status"], "broken");
    assert!(found["detail"].as_str().unwrap().contains(name.as_str()), "{found}");
    assert_eq!(finding(&document, "source.minio.list")["status"], "ok");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as a server may be silent: run fixtures/test"]
async fn a_server_that_takes_connections_and_says_nothing_is_told_and_holds_up_no_other() {
    let stage = Stage::with_files();
    let (silent, mute) = (Silent::new(), Silent::new());
    stage.add_redis(silent.port(), "hush");
    stage.append(&format!(
        "[[source]]\nname = \"mysql\"\nkind = \"mysql\"\nport = {}\nuser = \"root\"\n",
        mute.port()
    ));
    let document = stage.run(&["doctor", "redis", "mysql", "config", "--json"]).ends(20).json();
    for (id, words) in [
        ("source.redis.answers", "did not answer for 20 seconds"),
        ("source.mysql.answers", "did not greet user `root` within 20 s"),
    ] {
        let found = finding(&document, id);
        assert_eq!(found["status"], "broken");
        assert!(found["detail"].as_str().unwrap().contains(words), "{found}");
    }
    assert_eq!(finding(&document, "source.config.readable")["status"], "ok");
}
