//! What is whole passes, from the repository and from a copy, and its proof counts.

use std::process::Command;

use serde_json::Value;

use crate::{remains, stored};

fn answers(drill: &Value) -> Vec<(String, String)> {
    let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    drill["assertions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text(one, "name"), text(one, "result")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_whole_stack_passes_and_its_signed_proof_is_stored() {
    let (town, snapshot) = stored("drillpass").await;
    let drilled = town.run(&["--json", "drill"]).ends(0).json();
    assert_eq!(drilled["passed"], true, "{drilled:#}");
    assert_eq!(drilled["snapshot"], snapshot.as_str());
    assert!(answers(&drilled).iter().all(|(_, answer)| answer == "held"), "{drilled:#}");
    let kinds: Vec<&str> =
        drilled["assertions"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    for kind in ["restored", "objective", "contents", "reference", "expectation", "command"] {
        assert!(kinds.contains(&kind), "{kinds:?} lack {kind}");
    }
    assert!(drilled["rto_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(remains("drillpass"), Vec::<String>::new());

    let folder = drilled["report"].as_str().unwrap();
    let public = town.stage.read("keys/signing.pub");
    for file in ["report.json", "report.html", "junit.xml"] {
        let checked = Command::new("minisign")
            .args(["-V", "-P", public.lines().last().unwrap(), "-m", &format!("{folder}/{file}")])
            .output()
            .unwrap();
        assert!(checked.status.success(), "{file}: {}", String::from_utf8_lossy(&checked.stderr));
    }
    let listed = town.run(&["--json", "snapshots"]).ends(0).json();
    assert_eq!(listed["snapshots"][0]["proven"], true, "{listed:#}");
    town.run(&["verify"]).ends(0);

    let by_hand = town.run(&["--json", "drill", "--by-hand"]).ends(0).json();
    assert_eq!(by_hand["passed"], true, "{by_hand:#}");
    assert_eq!(by_hand["way"], "by-hand");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_copy_passes_with_the_cold_key_only() {
    let (town, snapshot) = stored("drillcopy").await;
    let root = town.stage.at("copy");
    std::fs::create_dir(&root).unwrap();
    town.stage
        .append(&format!("[[offsite]]\nname = \"far\"\nstore = \"fs\"\noptions = {{ root = \"{root}\" }}\n"));
    town.run(&["sync"]).ends(0);
    // Another host: it has the recovery identity and the copy, and neither the repository nor the host's own keys.
    let identity = town.stage.at("cold.txt");
    std::fs::copy(town.stage.at("keys/identity.txt"), &identity).unwrap();
    std::fs::rename(town.stage.at("keys"), town.stage.at("keys-elsewhere")).unwrap();
    std::fs::rename(town.stage.at("repo"), town.stage.at("repo-elsewhere")).unwrap();
    let drilled = town.run(&["--json", "--identity", &identity, "drill", "--from", "far"]).ends(0).json();
    assert_eq!(drilled["passed"], true, "{drilled:#}");
    assert_eq!(
        (drilled["from"].as_str(), drilled["snapshot"].as_str()),
        (Some("far"), Some(snapshot.as_str()))
    );
    assert_eq!(drilled["proof"], false, "without a signing key nothing is proven to others");
    town.end().await;
}
