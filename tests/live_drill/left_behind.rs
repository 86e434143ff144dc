//! Whatever ends a drill, nothing of its lab stays; and what could not be run has not passed.

use rustix::process::Signal;

use crate::{
    host::{Service, works},
    own, remains,
    stage::{send, wait_until},
    stored,
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_drill_that_was_killed_is_cleared_away_by_the_next() {
    let stack = own("drillkill");
    let (town, _) = stored(&stack).await;
    let mut child = town.stage.start(&["--json", "drill"]);
    wait_until("the lab has servers", || remains(&stack).len() >= 4);
    send(&child, Signal::KILL);
    child.wait().unwrap();
    let left = remains(&stack);
    assert!(!left.is_empty(), "a killed process removes nothing");
    let mut second = town.stage.start(&["--json", "drill"]);
    wait_until("the next one has its lab", || {
        let now = remains(&stack);
        now.len() >= 4 && left.iter().all(|id| !now.contains(id))
    });
    send(&second, Signal::TERM);
    assert_eq!(second.wait().unwrap().code(), Some(130));
    assert_eq!(remains(&stack), Vec::<String>::new(), "who is asked to end removes the lab");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_drill_that_was_killed_is_cleared_away_when_the_service_starts() {
    let stack = own("drillserve");
    let (town, _) = stored(&stack).await;
    let mut child = town.stage.start(&["--json", "drill"]);
    wait_until("the lab has servers", || remains(&stack).len() >= 4);
    send(&child, Signal::KILL);
    let killed = std::time::Instant::now();
    child.wait().unwrap();
    let service = Service::start(&town.stage);
    wait_until("nothing is left of the lab", || remains(&stack).is_empty());
    println!("from SIGKILL until nothing was left: {} ms", killed.elapsed().as_millis());
    service.says("removed 1 labs that drills had left behind");
    assert_eq!(works(&town.stage), Vec::<String>::new());
    service.stop();
    town.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_lab_that_cannot_be_is_no_drill_that_passed() {
    let stack = own("drillnolab");
    let (town, _) = stored(&stack).await;
    town.stage.edit(|text| text.replacen("[drill]\n", "[drill]\nsocket = \"/nowhere/docker.sock\"\n", 1));
    let ran = town.run(&["--json", "drill"]).ends(42).json();
    assert_eq!((&ran["passed"], &ran["outcome"]), (&false.into(), &"could_not_run".into()), "{ran:#}");
    town.stage.edit(|text| text.replacen("socket = \"/nowhere/docker.sock\"\n", "", 1));
    town.stage.edit(|text| text.replacen("memory_mib = 2048", "memory_mib = 12", 1));
    let ran = town.run(&["--json", "drill"]).ends(42).json();
    assert_eq!(ran["outcome"], "could_not_run", "{ran:#}");
    let listed = town.run(&["--json", "snapshots"]).ends(0).json();
    assert_eq!(listed["snapshots"][0]["proven"], false, "{listed:#}");
    assert_eq!(remains(&stack), Vec::<String>::new());
    town.end().await;
}
