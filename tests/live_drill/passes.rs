//! What is whole passes, from the repository and from a copy, and its proof counts.

use std::process::Command;

use serde_json::Value;

use crate::{own, questions, remains, rename, stored, town::Town};

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
    let stack = own("drillpass");
    let (town, snapshot) = stored(&stack).await;
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
    assert_eq!(remains(&stack), Vec::<String>::new());

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
async fn a_share_of_the_objects_is_read_whole_and_with_it_those_of_rows_with_a_hash() {
    let town = Town::with_policy("drillshare").await;
    let (db, bucket) = (&town.db, &town.bucket.name);
    let mut statements = vec![format!("CREATE TABLE {db}.bulk (path VARCHAR(99), hash CHAR(64), size INT)")];
    for n in 0..130 {
        let (path, body) = (format!("bulk/{n}"), format!("object {n}"));
        town.bucket.put(&path, body.as_bytes()).await;
        statements
            .push(format!("INSERT INTO {db}.bulk VALUES ('{path}', SHA2('{body}', 256), LENGTH('{body}'))"));
        statements.push(format!("INSERT INTO {db}.files VALUES (1000 + {n}, '{path}')"));
    }
    town.mysql.run(&statements).await;
    let more = format!(
        "[[drill.reference]]\nname = \"hashes\"\nsource = \"mysql\"\nin = \"minio\"\nbucket = \"{bucket}\"\n\
         query = \"SELECT path, hash, size FROM {db}.bulk\"\norphans = \"bulk/*\"\norphans_max = 0\n"
    );
    let questions = questions(&town).replacen("[drill]\n", "[drill]\nobjects_percent = 1\n", 1);
    rename(&town, "drillshare");
    town.stage.append(&format!("{questions}{more}"));
    town.run(&["backup"]).ends(0);
    let drilled = town.run(&["--json", "drill"]).ends(0).json();
    assert_eq!(drilled["passed"], true, "{drilled:#}");
    let detail = |kind: &str, what: &str| -> String {
        let of_kind = drilled["assertions"].as_array().unwrap().iter().filter(|one| one["kind"] == kind);
        let mut named = of_kind.filter(|one| one["name"] == what || one["source"] == what);
        named.next().unwrap()["detail"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        detail("reference", "hashes"),
        "130 rows, 0 missing; 130 objects, 0 without a row; \
         the SHA-256 of 100 objects compared, of 30 only existence and size"
    );
    // A hundred of the bucket, and a hundred of those that have a hash: most of them are the same.
    let contents = detail("contents", "minio");
    let (_, read) = contents.split_once("bytes; ").unwrap();
    let (read, rest) = read.split_once(" of 150 objects read whole").unwrap();
    assert!((100..150).contains(&read.parse::<u32>().unwrap()), "{contents}");
    assert_eq!(rest, ", the rest by size and facts: the same");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_with_its_versions_passes_and_references_see_what_its_keys_show() {
    let stack = own("drillversions");
    let town = Town::with_policy("drillversions").await;
    town.bucket.keep_versions().await;
    for body in ["one", "two"] {
        town.bucket.put("versioned", body.as_bytes()).await;
        // An object that no row knows: hidden by a delete marker it is none.
        town.bucket.put("hidden", body.as_bytes()).await;
    }
    town.bucket.delete("hidden").await;
    let db = &town.db;
    town.mysql.run([format!("INSERT INTO {db}.files VALUES (1000, 'versioned')")]).await;
    rename(&town, &stack);
    town.stage.edit(|text| text.replace("\nkind = \"s3\"\n", "\nkind = \"s3\"\nversions = \"all\"\n"));
    town.stage.append(&questions(&town));
    town.run(&["backup"]).ends(0);
    let drilled = town.run(&["--json", "drill"]).ends(0).json();
    assert_eq!(drilled["passed"], true, "{drilled:#}");
    let is_asked = |one: &&serde_json::Value| one["kind"] == "contents" && one["source"] == "minio";
    let contents = drilled["assertions"].as_array().unwrap().iter().find(is_asked);
    assert!(contents.unwrap()["detail"].as_str().unwrap().ends_with(": the same"), "{contents:#?}");
    let listed = town.run(&["ls", "latest", "minio"]).ends(0);
    assert_eq!(listed.out.matches("%versions/").count(), 4, "{}", listed.out);
    town.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_copy_passes_with_the_cold_key_only() {
    let stack = own("drillcopy");
    let (town, snapshot) = stored(&stack).await;
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
