//! Servers that are down or refuse us: 20, the source and its address by name, a hint, no secret.

use crate::{
    buckets::endpoint,
    redis_lab::PASSWORD,
    stage::closed_port,
    town::{Town, WRONG},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_wrong_password_is_told_with_source_and_address() {
    let town = Town::new("wrong").await;
    let (mysql, redis) = (town.mysql.config.port, town.redis_port());
    for (source, name, address) in [
        (town.mysql_source(mysql, WRONG), "mysql", format!("127.0.0.1:{mysql}")),
        (town.redis_source(redis, WRONG), "redis", format!("127.0.0.1:{redis}")),
        (town.s3_source(&endpoint(), WRONG), "minio", endpoint()),
    ] {
        town.take_only(&source);
        refused(&town, name, &address);
    }
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_is_down_is_told_with_source_and_address() {
    let town = Town::new("down").await;
    let port = closed_port();
    let address = format!("127.0.0.1:{port}");
    for (source, name) in [
        (town.mysql_source(port, &town.mysql_password()), "mysql"),
        (town.redis_source(port, PASSWORD), "redis"),
        (town.s3_source(&format!("http://{address}"), &crate::town::secret_key()), "minio"),
    ] {
        town.take_only(&source);
        refused(&town, name, &address);
    }
    town.end().await;
}

#[track_caller]
fn refused(town: &Town, name: &str, address: &str) {
    let ran = town.run(&["backup"]).ends(20).tells("error: ").tells(" hint: ");
    let error = ran.err.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.contains(&format!("`{name}`")) && error.contains(address), "{}", ran.err);
    let json = town.run(&["backup", "--json"]).ends(20).json();
    assert_eq!((&json["schema"], &json["code"]), (&"lifeboat.failure/1".into(), &"source_down".into()));
    assert!(json["hints"][0].is_string(), "{json}");
    assert_eq!(town.run(&["snapshots"]).ends(0).out, "there is no snapshot yet\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn one_source_that_is_down_leaves_the_others_in_a_partial_snapshot() {
    let town = Town::with_policy("partial").await;
    let port = closed_port();
    let url = format!("redis://127.0.0.1:{}", town.redis_port());
    town.stage.edit(|text| text.replace(&url, &format!("redis://127.0.0.1:{port}")));
    let json = town.run(&["backup", "--json"]).ends(20).json();
    assert_eq!(json["status"], "partial");
    let told: Vec<(&str, &str)> = json["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|source| (source["name"].as_str().unwrap(), source["status"].as_str().unwrap()))
        .collect();
    let others = [("mysql", "complete"), ("redis", "failed"), ("minio", "complete"), ("config", "complete")];
    assert_eq!(told, others);
    assert!(json["sources"][1]["error"].to_string().contains(&port.to_string()), "{json}");
    let listed = town.run(&["snapshots", "--json"]).ends(0).json();
    assert_eq!(listed["snapshots"][0]["status"], "partial");
    town.end().await;
}
