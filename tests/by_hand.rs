//! A repository is recovered by hand: its own `recover.sh`, and the command lines of its `RECOVERY.md`, with
//! stock tools only. Needs `age zstd jq minisign` (Debian packages of these names); fails where they are missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "by_hand/drilled.rs"]
mod drilled;
#[path = "repository/fixture.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod fixture;
mod terminal;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use bytes::Bytes;
use fixture::{AT_ONCE, Cargo, Ship, marked, noise, parcel};
use lifeboat::{
    crypt::{self, SigningKey, files},
    flow::Piece,
    names::SnapshotId,
    repo::format::layout,
    store::FsStore,
};
use tempfile::TempDir;

const TOOLS: [&str; 7] = ["age", "zstd", "tar", "jq", "sha256sum", "minisign", "bash"];

/// A repository in a folder with one snapshot of two sources.
struct Wreck {
    ship: Ship,
    dir: TempDir,
    id: SnapshotId,
    cargos: [Cargo; 2],
    /// What the snapshot before it holds.
    earlier: [Cargo; 2],
}

fn entries() -> Vec<fixture::Parcel> {
    let odd = [
        "a",
        "a/b",
        "a/b/c",
        "deep/x/y",
        "deep/x",
        "图片/héllo",
        "with  two spaces",
        " leading and trailing ",
        "back\\slash\\t\\n",
        "single'quote",
        "double\"quote",
        "$HOME `id` $(id) *",
        "-rf",
        "--help",
        "%",
        "100%25",
        "a%2Fb",
        "tab%09newline%0A",
        "semi;colon&pipe|",
        "#comment",
        "~",
        "[x]{y,z}?",
    ];
    let mut all: Vec<_> =
        odd.iter().enumerate().map(|(n, path)| parcel(path, noise(200 + n, n as u64))).collect();
    all.push(parcel("empty", ""));
    all.push(parcel("one", "x"));
    all.push(parcel("big", noise(6 << 20, 77)));
    let many: Vec<Bytes> = (0..4500).map(|n| noise(24, n)).collect();
    all.push(marked("many", &many));
    let long = format!("{}/x", "long".repeat(80));
    all.push(parcel(&long, "a name that no file system takes"));
    all
}

async fn wreck() -> Wreck {
    for tool in TOOLS {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap();
        assert!(found.status.success(), "`{tool}` is missing: apt-get install age zstd jq minisign");
    }
    let (ship, dir) = (Ship::new(), tempfile::tempdir().unwrap());
    let store = FsStore::create(dir.path().join("repository")).unwrap();
    ship.create(&store).await;
    let cargos =
        [Cargo::of("minio", entries()), Cargo::of("redis", vec![parcel("dump.rdb", noise(90_000, 5))])];
    let earlier = [Cargo::of("minio", vec![parcel("big", noise(6 << 20, 77))]), cargos[1].clone()];
    ship.backup_knowing(&store, &std::sync::Arc::default(), &earlier).await.unwrap();
    let id = ship.backup_knowing(&store, &std::sync::Arc::default(), &cargos).await.unwrap().id;
    Wreck { ship, dir, id, cargos, earlier }
}

impl Wreck {
    fn repository(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    fn identity(&self) -> PathBuf {
        self.ship.keys.path().join(files::IDENTITY)
    }

    fn recover(&self, out: &str, more: &[&str]) -> Output {
        let mut command = Command::new("bash");
        command.arg(self.repository().join("recover.sh"));
        command.arg("-o").arg(self.dir.path().join(out));
        if !more.contains(&"-i") {
            command.arg("-i").arg(self.identity());
        }
        command.args(more).current_dir(self.dir.path()).output().unwrap()
    }

    /// Asserts that recovery stops with a text and hands out nothing of the sources.
    fn assert_refuses(&self, out: &str, more: &[&str], text: &str) {
        let output = self.recover(out, more);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{told}");
        assert!(told.contains(text), "{told}");
        assert!(!self.dir.path().join(out).join("minio").exists(), "{told}");
    }

    /// Forgets the newest snapshot: its refs and its signature lie there until they are swept, its tombstone beside.
    async fn forget_the_newest(&self) {
        let store = FsStore::new(self.repository());
        self.ship.prune(&store, &[&self.id], AT_ONCE).await.unwrap();
        assert!(self.repository().join(layout::refs(&self.id, 0).as_str()).exists());
    }

    /// Runs the repository's script in a Debian that has nothing of ours: the repository and the identity cannot be
    /// written to there, and there is no network.
    fn recover_in_a_bare_debian(&self, out: &str, more: &[&str]) -> Output {
        let image = std::env::var("BARE_IMAGE").expect("no BARE_IMAGE: eval \"$(fixtures/stack env)\"");
        let out = self.dir.path().join(out);
        fs::create_dir(&out).unwrap();
        let bind = |from: &Path, to: &str, mode: &str| format!("{}:{to}:{mode}", from.display());
        let mut docker = Command::new("docker");
        docker.args(["run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp"]);
        docker.args(["-v", &bind(&self.repository(), "/repository", "ro")]);
        docker.args(["-v", &bind(&self.identity(), "/identity.txt", "ro")]);
        docker.args(["-v", &bind(&out, "/out", "rw"), &image]);
        docker.args(["bash", "/repository/recover.sh", "-i", "/identity.txt", "-o", "/out"]);
        docker.args(more).output().unwrap()
    }

    /// Asserts that what lies in `out` is what these cargos hold, and nothing else.
    fn assert_brought_back(&self, out: &str, cargos: &[Cargo]) {
        let root = self.dir.path().join(out);
        let mut got = BTreeMap::new();
        files_below(&root, &root, &mut got);
        for (name, bytes) in cargos.iter().flat_map(expected) {
            let found = got.remove(&name).unwrap_or_else(|| panic!("`{name}` is missing"));
            assert!(found == bytes, "`{name}` has other bytes");
        }
        let lists = cargos.iter().map(|cargo| format!("{}.entries.jsonl", cargo.name));
        let rest: Vec<String> = ["manifest.json".to_owned()].into_iter().chain(lists).collect();
        assert_eq!(got.into_keys().collect::<Vec<_>>(), rest);
    }

    fn overwrite(&self, key: &str, bytes: &[u8]) {
        let path = self.repository().join(key);
        let _ = fs::remove_file(&path);
        fs::write(path, bytes).unwrap();
    }

    fn bytes(&self, key: &str) -> Vec<u8> {
        fs::read(self.repository().join(key)).unwrap()
    }
}

fn content(parcel: &fixture::Parcel) -> Vec<u8> {
    let bytes = parcel.pieces.iter().filter_map(|piece| match piece {
        Piece::Data(bytes) => Some(bytes.to_vec()),
        Piece::Border => None,
    });
    bytes.flatten().collect()
}

/// Returns the files that recovery should make of a source.
fn expected(cargo: &Cargo) -> BTreeMap<String, Vec<u8>> {
    let paths: Vec<&str> = cargo.entries.iter().map(|entry| entry.meta.path.as_str()).collect();
    let place = |path: &str| {
        // What has something inside it cannot be a file of its own name.
        let is_folder =
            paths.iter().any(|other| other.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')));
        if path.len() > 300 {
            let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(path));
            return format!("{}%long-names/{hash}", cargo.name);
        }
        format!("{}/{path}{}", cargo.name, if is_folder { "%" } else { "" })
    };
    cargo.entries.iter().map(|entry| (place(entry.meta.path.as_str()), content(entry))).collect()
}

fn files_below(root: &Path, at: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
    for item in fs::read_dir(at).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            files_below(root, &path, into);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            into.insert(name, fs::read(path).unwrap());
        }
    }
}

#[tokio::test]
async fn the_repositorys_own_script_brings_back_every_byte() {
    let wreck = wreck().await;
    for (out, more) in
        [("by-latest", vec![]), ("by-id", vec!["-k", &wreck.ship.made.signer, wreck.id.as_str()])]
    {
        let output = wreck.recover(out, &more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        wreck.assert_brought_back(out, &wreck.cargos);
    }
}

#[tokio::test]
#[ignore = "needs the image of fixtures/stack: run fixtures/test"]
async fn a_bare_debian_without_us_and_without_a_network_brings_back_every_byte() {
    let wreck = wreck().await;
    for (out, more) in
        [("by-latest", vec![]), ("by-id", vec!["-k", &wreck.ship.made.signer, wreck.id.as_str()])]
    {
        let output = wreck.recover_in_a_bare_debian(out, &more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        wreck.assert_brought_back(out, &wreck.cargos);
    }
    let stranger = Ship::new();
    let output = wreck.recover_in_a_bare_debian("stranger", &["-k", &stranger.made.signer]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("config.json is not signed"));
}

#[tokio::test]
async fn what_prune_forgot_is_not_the_latest() {
    let wreck = wreck().await;
    wreck.forget_the_newest().await;
    let output = wreck.recover("pruned", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wreck.assert_brought_back("pruned", &wreck.earlier);
}

#[tokio::test]
#[ignore = "needs the image of fixtures/stack: run fixtures/test"]
async fn a_bare_debian_brings_back_what_prune_did_not_forget() {
    let wreck = wreck().await;
    wreck.forget_the_newest().await;
    let output = wreck.recover_in_a_bare_debian("pruned", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wreck.assert_brought_back("pruned", &wreck.earlier);
}

#[tokio::test]
async fn the_script_brings_back_an_older_snapshot_by_the_beginning_of_its_id() {
    let wreck = wreck().await;
    let output = wreck.recover("older", &["20251010T2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let big = fs::read(wreck.dir.path().join("older/minio/big")).unwrap();
    assert!(big == noise(6 << 20, 77));
    wreck.assert_refuses("none", &["2031"], "no committed snapshot fits 2031");
}

#[tokio::test]
async fn a_protected_identity_opens_all_by_hand_and_its_passphrase_is_asked_for_once() {
    let wreck = wreck().await;
    let phrase = "correct horse battery staple";
    let plain = fs::read_to_string(wreck.identity()).unwrap();
    let protected = crypt::protect(&plain, &phrase.into()).unwrap();
    fs::write(wreck.dir.path().join("identity.txt.age"), protected).unwrap();
    let mut here = Command::new("bash");
    here.current_dir(wreck.dir.path());
    let by_hand = |line: &str, phrase: &str| {
        let output = terminal::at_a_terminal(&here, line, &[("assphrase", phrase)]);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (opened, shown) = by_hand("age -d -o opened.txt identity.txt.age", phrase);
    assert!(opened, "{shown}");
    assert_eq!(fs::read_to_string(wreck.dir.path().join("opened.txt")).unwrap(), plain);
    let recover = "bash repository/recover.sh -i identity.txt.age -o";
    let (recovered, shown) = by_hand(&format!("{recover} out"), phrase);
    assert!(recovered, "{shown}");
    let big = fs::read(wreck.dir.path().join("out/minio/big")).unwrap();
    assert!(big == noise(6 << 20, 77));
    let (recovered, shown) = by_hand(&format!("{recover} none"), "another phrase");
    assert!(!recovered && shown.contains("the identity cannot be opened"), "{shown}");
}

#[tokio::test]
async fn the_script_refuses_keys_that_do_not_fit() {
    let wreck = wreck().await;
    let stranger = Ship::new();
    let identity = stranger.keys.path().join(files::IDENTITY);
    wreck.assert_refuses(
        "wrong-identity",
        &["-i", identity.to_str().unwrap()],
        "the manifest cannot be opened",
    );
    let index_key = wreck.ship.keys.path().join(files::INDEX);
    wreck.assert_refuses("index-key", &["-i", index_key.to_str().unwrap()], "cannot be opened");
    wreck.assert_refuses("wrong-signer", &["-k", &stranger.made.signer], "config.json is not signed");
    wreck.assert_refuses("no-identity", &["-i", "/nowhere"], "cannot be read");
}

#[tokio::test]
async fn the_script_refuses_what_was_changed_or_is_missing() {
    let wreck = wreck().await;
    let refs: serde_json::Value =
        serde_json::from_slice(&wreck.bytes(layout::refs(&wreck.id, 0).as_str())).unwrap();
    let pack = refs["packs"].as_object().unwrap().keys().next().unwrap().parse().unwrap();
    let manifest = layout::manifest(&wreck.id);
    for (key, name) in [(layout::pack(pack), "pack"), (manifest, "the manifest")] {
        let whole = wreck.bytes(key.as_str());
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        wreck.overwrite(key.as_str(), &flipped);
        wreck.assert_refuses(&format!("flipped-{}", name.len()), &[], "was changed");
        fs::remove_file(wreck.repository().join(key.as_str())).unwrap();
        wreck.assert_refuses(&format!("missing-{}", name.len()), &[], "is missing");
        wreck.overwrite(key.as_str(), &whole);
    }
    let output = wreck.recover("whole-again", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wreck.assert_refuses("whole-again/minio/a", &[], "is not empty");
}

#[tokio::test]
async fn the_script_refuses_forged_refs_and_configs() {
    let wreck = wreck().await;
    let key = layout::refs(&wreck.id, 0);
    let (bytes, signature) = (wreck.bytes(key.as_str()), wreck.bytes(layout::signature(&key).as_str()));
    // The true refs under a newer name.
    let newer = layout::refs(&SnapshotId::new("20301231T000000Z-beef").unwrap(), 0);
    wreck.overwrite(newer.as_str(), &bytes);
    wreck.assert_refuses("unsigned", &["2030"], "no committed snapshot fits");
    wreck.overwrite(layout::signature(&newer).as_str(), &signature);
    wreck.assert_refuses("renamed", &[], "was signed for another snapshot");
    // Refs by a stranger.
    let forged = String::from_utf8(bytes).unwrap().replace(wreck.id.as_str(), "20301231T000000Z-beef");
    let stranger = SigningKey::generate().unwrap();
    wreck.overwrite(newer.as_str(), forged.as_bytes());
    let by_stranger = stranger.sign(forged.as_bytes(), "refs").unwrap();
    wreck.overwrite(layout::signature(&newer).as_str(), by_stranger.as_bytes());
    wreck.assert_refuses("stranger", &[], "is not signed by");
    // The true snapshot can still be named.
    assert!(wreck.recover("named", &[wreck.id.as_str()]).status.success());
    // A config whose signature does not fit.
    let config = String::from_utf8(wreck.bytes(layout::CONFIG)).unwrap();
    wreck.overwrite(layout::CONFIG, config.replace("pack_size_bytes", "pack_size_bytez").as_bytes());
    wreck.assert_refuses("config", &[], "config.json is not signed");
    wreck.overwrite(layout::CONFIG, config.replace("\"format\": 3", "\"format\": 4").as_bytes());
    wreck.assert_refuses("format", &[], "formats 1 to 3 only");
}

#[tokio::test]
async fn the_script_passes_over_what_was_forgotten_and_says_why() {
    let wreck = wreck().await;
    let store = FsStore::new(wreck.repository());
    let terms = lifeboat::repo::Terms::default();
    wreck.ship.prune(&store, &[&wreck.id], terms).await.unwrap();
    let output = wreck.recover("latest", &[]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(told.contains(&format!("forgotten: {}.r0 (a test says so)", wreck.id)), "{told}");
    assert!(!wreck.dir.path().join("latest/minio/a").exists(), "it is the older one");
    // By its whole id it can still be had.
    assert!(wreck.recover("named", &[wreck.id.as_str()]).status.success());
    // A tombstone that nobody signed hides nothing: it is told.
    let tombstone = format!("tombstones/{}.g00000001.json", wreck.id);
    wreck.overwrite(&format!("{tombstone}.minisig"), b"untrusted comment: x\n");
    wreck.assert_refuses("forged", &[], "is not signed by");
}

#[tokio::test]
async fn the_script_checks_every_config_there_is() {
    let wreck = wreck().await;
    let mut config: serde_json::Value = serde_json::from_slice(&wreck.bytes(layout::CONFIG)).unwrap();
    config["revision"] = 1.into();
    let bytes = serde_json::to_vec(&config).unwrap();
    wreck.overwrite("config.r1.json", &bytes);
    wreck.assert_refuses("unsigned-config", &[], "config.r1.json is not signed by");
    let signature = wreck.ship.signing().sign(&bytes, "lifeboat config").unwrap();
    wreck.overwrite("config.r1.json.minisig", signature.as_bytes());
    assert!(wreck.recover("signed", &["-k", &wreck.ship.made.signer]).status.success());
}

#[test]
fn the_script_reads_a_repository_of_format_1() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1");
    let dir = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(golden.join("repo")).arg(dir.path()).status().unwrap();
    assert!(copied.success());
    let own = dir.path().join("repo/recover.sh");
    // The one that lies in it since then, and the one of today.
    for (name, script) in [("own", None), ("today", Some("src/repo/recover.sh"))] {
        if let Some(script) = script {
            fs::remove_file(&own).unwrap();
            fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(script), &own).unwrap();
        }
        let out = dir.path().join(name);
        let mut command = Command::new("bash");
        command.arg(&own).arg("-i").arg(golden.join("keys/identity.txt")).arg("-o").arg(&out);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read_to_string(out.join("config/tmp/g1/data/a.txt")).unwrap(), "hello\n");
        assert_eq!(fs::metadata(out.join("config/tmp/g1/data/noise.bin")).unwrap().len(), 300_000);
    }
}

#[tokio::test]
async fn the_command_lines_of_the_text_do_what_it_says() {
    let wreck = wreck().await;
    let text = String::from_utf8(wreck.bytes("RECOVERY.md")).unwrap();
    let lines: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| !line.contains("recover.sh"))
        .map(|line| line.split("   #").next().unwrap().split("  # ").next().unwrap().trim().to_owned())
        .collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    let refs: serde_json::Value =
        serde_json::from_slice(&wreck.bytes(layout::refs(&wreck.id, 0).as_str())).unwrap();
    fs::copy(wreck.identity(), wreck.repository().join("identity.txt")).unwrap();
    let run = |line: &str| {
        let output =
            Command::new("bash").args(["-c", line]).current_dir(wreck.repository()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let fill = |line: &str| {
        line.replace("<snapshot>", wreck.id.as_str()).replace("<signer>", &wreck.ship.made.signer)
    };
    assert!(run(&fill(&lines[0])).contains("Signature and comment signature verified"));
    let manifest: serde_json::Value = serde_json::from_str(&run(&fill(&lines[1]))).unwrap();
    assert_eq!(manifest["sources"][0]["name"], "minio");
    for pack in refs["packs"].as_object().unwrap().keys() {
        let named = |line: &str| line.replace("ab/abcd…", &format!("{}/{pack}", &pack[..2]));
        assert!(run(&named(&lines[2])).starts_with(pack.as_str()));
        run(&named(&lines[3]));
    }
    // The chunks of the Redis dump, one after the other, are the dump.
    let list = manifest["sources"][1]["list"][0].as_str().unwrap();
    let query = format!("jq -r '.body.chunks[]' chunks/{list}");
    let dump: Vec<u8> = run(&query)
        .lines()
        .flat_map(|id| fs::read(wreck.repository().join("chunks").join(id)).unwrap())
        .collect();
    assert!(dump == content(&wreck.cargos[1].entries[0]));
}

#[test]
fn a_signing_key_of_stock_minisign_without_checksum_is_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["-G", "-W", "-s", "signing.key", "-p", "signing.pub"];
    let made = Command::new("minisign").args(words).current_dir(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let failure = SigningKey::from_file(&dir.path().join("signing.key")).unwrap_err();
    assert!(failure.hints()[0].contains("keys new --signing"), "{:?}", failure.hints());
}

#[test]
fn the_script_is_clean() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/repo/recover.sh");
    for (tool, arguments) in [("bash", ["-n"].as_slice()), ("shellcheck", &["-s", "bash"])] {
        let ran = Command::new(tool).args(arguments).arg(&script).output();
        let output = ran.unwrap_or_else(|_| panic!("`{tool}` is missing: apt-get install shellcheck"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
