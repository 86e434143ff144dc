//! Data of modules: kept and given back whole, and refused where it would kill a server or not be taken.

use lifeboat::{
    clock::Ground,
    event::NoMonitor,
    flow::{Selection, Target, Verified, WriteOptions, pipe},
    redis::{RedisTarget, Waived, copies::CopySource},
};

use super::{
    ALL, dump_of, failed,
    redis_lab::{Lab, PASSWORD, name},
    redis_restore::{House, give, house, target, untouched},
};

/// Where Debian's package puts the module.
const MODULE: &str = "/usr/lib/redis/modules/redisearch.so";

/// Starts a server with a module, whose keys have types of their own.
async fn with_module(settings: &[&str]) -> Lab {
    let usual = ["--appendonly", "yes", "--requirepass", PASSWORD, "--loadmodule", MODULE];
    Lab::start_as("redisearch7", &[], &[&usual[..], settings].concat()).await
}

/// Stores data of the module, and some that is not.
async fn fill(lab: &Lab) {
    let _: redis::Value = lab.say(0, "FT.SUGADD words hello 1").await;
    let _: redis::Value = lab.say(0, "FT.SUGADD words help 2").await;
    let _: () = lab.say(2, "SET plain data").await;
}

async fn suggested(lab: &Lab) -> Vec<String> {
    lab.say(0, "FT.SUGGET words he").await
}

fn waiving(lab: &Lab, house: &House) -> Box<dyn Target> {
    let target = RedisTarget::new(name(), lab.config(), Ground::system(), NoMonitor::shared());
    let waived = Waived { modules: true, ..Waived::default() };
    Box::new(target.at_home(Some(house.home.clone())).waiving(waived))
}

/// R11, R17: a server without the module would exit after it has emptied itself.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn data_of_a_module_goes_only_where_the_module_is() {
    let (from, to, without) = tokio::join!(with_module(&[]), with_module(&[]), Lab::start(7));
    fill(&from).await;
    for lab in [&to, &without] {
        let _: () = lab.say(0, "SET old data").await;
    }
    let only = || WriteOptions { only: Selection::new(&["*".to_owned()]).unwrap(), ..ALL(true) };
    for options in [ALL(true), only()] {
        let failure = failed(pipe(from.source(), without.target(), options).await);
        assert!(failure.to_string().contains("lacks modules"), "{failure:?}");
        let hint = &failure.hints()[0];
        assert!(hint.contains("Load the modules") && hint.contains("--waive modules"), "{failure:?}");
        untouched(&without).await;
    }

    let tally = pipe(from.source(), to.target(), ALL(true)).await.unwrap();
    assert_eq!((tally.verified, to.sizes().await), (Verified::Digests, from.sizes().await));
    assert_eq!(suggested(&to).await, suggested(&from).await);
    let _: () = to.say(0, "FLUSHALL").await;
    let tally = pipe(from.source(), to.target(), only()).await.unwrap();
    assert_eq!((tally.verified, to.sizes().await), (Verified::Digests, from.sizes().await));
    assert_eq!(suggested(&to).await, ["help", "hello"]);
}

/// What a server held goes back into it key by key too: which modules it had is sealed with the copy.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_safety_copy_with_data_of_a_module_is_loaded_key_by_key() {
    let (lab, new) = tokio::join!(with_module(&["--rename-command", "REPLICAOF", ""]), Lab::start(7));
    fill(&lab).await;
    let held = (suggested(&lab).await, lab.sizes().await);
    let _: () = new.say(0, "SET new data").await;
    let (house, with_module, plain) = (house(), dump_of(&lab).await, dump_of(&new).await);
    let home = Some(&house.home);
    give(target(lab.config(), home, NoMonitor::shared()), &plain, ALL(true)).await.unwrap();
    assert_eq!(lab.sizes().await, [(0, 1)]);

    let config = lab.config();
    let open = async || {
        let (file, ground) = (&house.copies()[0], Ground::system());
        CopySource::open((&name(), &config), file, house.identities(), &ground).await.unwrap()
    };
    let copy = open().await;
    assert_eq!(copy.goes_into(&config).unwrap(), None);
    let tally =
        pipe(Box::new(copy), target(config.clone(), home, NoMonitor::shared()), ALL(true)).await.unwrap();
    assert_eq!(
        (tally.verified, (suggested(&lab).await, lab.sizes().await)),
        (Verified::Digests, held.clone())
    );

    // A dump that does not say which modules it needs, as copies of older versions: a person may know.
    let _: () = lab.say(0, "FLUSHALL").await;
    let failure = failed(give(target(config, home, NoMonitor::shared()), &with_module, ALL(true)).await);
    assert!(failure.hints()[0].contains("--waive modules"), "{failure:?}");
    give(waiving(&lab, &house), &with_module, ALL(true)).await.unwrap();
    assert_eq!((suggested(&lab).await, lab.sizes().await), held);
    // Who is wrong loses nothing.
    let without = Lab::start_with(7, &["--requirepass", PASSWORD, "--rename-command", "REPLICAOF", ""]).await;
    let _: () = without.say(0, "SET old data").await;
    let failure = failed(give(waiving(&without, &house), &with_module, ALL(true)).await);
    assert!(failure.hints().iter().any(|hint| hint.contains("was put back")), "{failure:?}");
    untouched(&without).await;
}
