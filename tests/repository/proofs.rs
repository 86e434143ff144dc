//! A proof is of one commit, is believed whole or not at all, and what somebody else puts in its place proves nothing.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Duration, Utc};
use lifeboat::{
    clock::Ground,
    crypt::{Identities, SigningKey, Trust},
    drill::{Assertion, Outcome, Question, Report, SCHEMA, SourceReport, Way},
    error::{ExitCode, Result},
    jobs::prune::{Asked, Planned, plan},
    names::{Key, PackId, SnapshotId, SourceName},
    repo::{
        Committed, CopyReport, Label, MemoryIndex, Place, Repository, Terms,
        format::{FORMAT, Proof, layout},
    },
    retention::Rules,
    store::{CountingStore, Delete, Fault, FaultStore, Get, MemoryStore, Store, Verb, Which},
};

use crate::{
    fixture::{AT_ONCE, Cargo, Ship, keys_under, noise, parcel},
    sync::{QUICK, Two},
};

const WAY: Way = Way::Restore;

fn cargo(seed: u64) -> Cargo {
    Cargo::of("minio", vec![parcel("a", noise(20_000, seed))])
}

fn source() -> SourceReport {
    SourceReport {
        name: "minio".into(),
        kind: "test".into(),
        point: DateTime::UNIX_EPOCH,
        version: None,
        lab_version: None,
        image: None,
        entries: 1,
        size_bytes: 20_000,
        seconds: 1.0,
    }
}

/// Returns what a drill found that asked one question.
fn found(ground: &Ground, snapshot: &SnapshotId, way: Way, outcome: Outcome) -> Report {
    let now: DateTime<Utc> = ground.clock.now();
    let assertion = match outcome {
        Outcome::Passed => Assertion::held(Question::Contents, "users", "the same"),
        Outcome::Failed => Assertion::failed(Question::Contents, "users", "row 7 differs"),
        Outcome::CouldNotRun => Assertion::could_not_run(Question::Contents, "users", "no lab"),
    };
    Report {
        schema: SCHEMA.into(),
        id: ground.id_at(now),
        stack: "im-suite".into(),
        host: "test".into(),
        lifeboat: "0".into(),
        timezone: "UTC".into(),
        way,
        from: "repository".into(),
        snapshot: snapshot.clone(),
        snapshot_began: now,
        lab: "memory".into(),
        began: now,
        ended: now + Duration::minutes(7),
        outcome,
        problem: None,
        rto_seconds: Some(61.5),
        objective_seconds: None,
        phases: Vec::new(),
        sources: vec![source()],
        covers: Some(vec![SourceName::new("minio").unwrap()]),
        assertions: vec![assertion],
        notes: Vec::new(),
        trend: Vec::new(),
    }
}

fn files() -> Vec<(String, Vec<u8>)> {
    let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    vec![
        file("report.json", "{\"row\": \"im.users 4711\"}"),
        file("report.json.minisig", "untrusted comment"),
    ]
}

async fn refs_of<S: Store + Clone + 'static>(ship: &Ship, store: &S, id: &SnapshotId) -> PackId {
    ship.reader(store).await.unwrap().snapshot(id).await.unwrap().refs_sha256
}

async fn record<S: Store + Clone + 'static>(ship: &Ship, store: &S, drill: &Report) -> Result<Proof> {
    let refs = refs_of(ship, store, &drill.snapshot).await;
    ship.prove(store).await?.record_drill(drill, refs, &files()).await
}

/// Makes a drill of this snapshot, an hour after what was before.
async fn drill<S: Store + Clone + 'static>(
    ship: &Ship,
    store: &S,
    id: &SnapshotId,
    outcome: Outcome,
) -> Proof {
    record(ship, store, &found(&ship.ground(), id, WAY, outcome)).await.unwrap()
}

/// Returns what is proven, by what whoever looks and whoever removes believes.
async fn proven<S: Store + Clone + 'static>(ship: &Ship, store: &S) -> Vec<SnapshotId> {
    let points = ship.reader(store).await.unwrap().restore_points().await.unwrap();
    let seen =
        ship.maintain(store).await.unwrap().inspect(&ship.now(), &ship.monitor()).await.unwrap().proven;
    assert_eq!(points.proven, seen);
    points.proven.into_keys().collect()
}

async fn launched() -> (Ship, MemoryStore, Committed) {
    let (ship, store) = Ship::launched_with_times().await;
    let made = ship.backup(&store, &cargo(1)).await.unwrap();
    (ship, store, made)
}

#[tokio::test]
async fn a_drill_that_passed_proves_the_commit_that_it_restored_and_tells_strangers_nothing() {
    let (ship, store, first) = launched().await;
    let second = ship.backup(&store, &cargo(2)).await.unwrap();
    assert_eq!(proven(&ship, &store).await, []);
    let proof = drill(&ship, &store, &first.id, Outcome::Passed).await;
    assert_eq!((proof.assertions, proof.sources, proof.rto_seconds), ([1, 0, 0], 1, Some(61.5)));
    assert_eq!(proof.covers, Some(vec![SourceName::new("minio").unwrap()]));
    assert_eq!(proven(&ship, &store).await, std::slice::from_ref(&first.id));
    let reader = ship.reader(&store).await.unwrap();
    let proofs = reader.proofs().await.unwrap();
    assert_eq!(proofs.good.iter().map(|one| &one.proof).collect::<Vec<_>>(), [&proof]);
    assert_eq!(reader.drill_report(&proof.drill).await.unwrap(), files());
    assert_eq!(reader.drill_report(&second.id).await.unwrap_err().exit(), ExitCode::Usage);
    // The host may look into what it sealed; names of rows lie nowhere in the clear.
    let (place, index) = (ship.place(&store, &Arc::default()), ship.index_key());
    let host = Repository::read(place, index, &ship.monitor()).await.unwrap();
    assert_eq!(host.drill_report(&proof.drill).await.unwrap(), files());
    for (key, bytes) in store.dump() {
        assert!(!bytes.windows(8).any(|window| window == b"im.users"), "{key}");
    }
    let report = ship.verify(&store).await;
    assert_eq!((report.proofs, report.damage), (1, vec![]));
}

#[tokio::test]
async fn only_a_restore_that_was_asked_something_and_passed_proves() {
    let (ship, store, made) = launched().await;
    let passed = || found(&ship.now(), &made.id, WAY, Outcome::Passed);
    let not_held = Assertion::failed(Question::Contents, "x", "y");
    for (what, report) in [
        ("by hand", Report { way: Way::ByHand, ..passed() }),
        ("failed", found(&ship.now(), &made.id, WAY, Outcome::Failed)),
        ("could not run", found(&ship.now(), &made.id, WAY, Outcome::CouldNotRun)),
        ("nothing asked", Report { assertions: Vec::new(), ..passed() }),
        ("nothing restored", Report { sources: Vec::new(), ..passed() }),
        ("contradicts itself", Report { assertions: vec![not_held], ..passed() }),
    ] {
        let fork = store.fork();
        record(&ship, &fork, &report).await.unwrap();
        assert_eq!(proven(&ship, &fork).await, [], "{what}");
        assert_eq!(ship.verify(&fork).await.damage, [], "{what}");
    }
    record(&ship, &store, &passed()).await.unwrap();
    assert_eq!(proven(&ship, &store).await, [made.id]);
}

#[tokio::test]
async fn a_proof_says_from_which_place_the_drill_restored_and_the_first_ones_are_believed_without() {
    let (ship, store, made) = launched().await;
    let of_copy = Report { from: "oss".into(), ..found(&ship.ground(), &made.id, WAY, Outcome::Passed) };
    let proof = record(&ship, &store, &of_copy).await.unwrap();
    assert_eq!(proof.from, Some(lifeboat::names::SourceName::new("oss").unwrap()));
    let lies = ship.reader(&store).await.unwrap().proofs().await.unwrap().good.remove(0).proof;
    assert_eq!(lies, proof);
    let mut first: serde_json::Value = serde_json::from_slice(&bytes_of(&proof)).unwrap();
    assert_eq!(first.as_object_mut().unwrap().remove("from").unwrap(), "oss");
    plant(&store, &proof.drill, first.to_string().as_bytes(), &ship.signing());
    assert_eq!(proven(&ship, &store).await, [made.id]);
}

#[tokio::test]
async fn the_last_drill_that_settles_it_counts() {
    use Outcome::{CouldNotRun, Failed, Passed};
    let (ship, store, made) = launched().await;
    for (outcomes, is_proven) in [
        (&[Passed, CouldNotRun][..], true),
        (&[Passed, Failed], false),
        (&[Passed, Failed, CouldNotRun], false),
        (&[Failed, Passed], true),
    ] {
        let fork = store.fork();
        for outcome in outcomes {
            drill(&ship, &fork, &made.id, *outcome).await;
        }
        assert_eq!(!proven(&ship, &fork).await.is_empty(), is_proven, "{outcomes:?}");
    }
}

#[tokio::test]
async fn what_came_back_too_slowly_is_proven_all_the_same() {
    let (ship, store, made) = launched().await;
    let held = || Assertion::held(Question::Contents, "users", "the same");
    let slow = || Assertion::failed(Question::Objective, "rto", "61 min of 60");
    let unasked = || Assertion::could_not_run(Question::Command, "app", "no lab");
    let lost = || Assertion::failed(Question::Contents, "users", "row 7 differs");
    for (assertions, is_proven) in [
        (vec![held(), slow()], true),
        (vec![slow()], false),
        (vec![held(), slow(), unasked()], false),
        (vec![held(), slow(), lost()], false),
    ] {
        let fork = store.fork();
        let outcome = Outcome::judge(&assertions, None);
        let of = |report: Report| Report { outcome, assertions: assertions.clone(), ..report };
        let report = of(found(&ship.ground(), &made.id, WAY, Outcome::Passed));
        record(&ship, &fork, &report).await.unwrap();
        assert_eq!(!proven(&ship, &fork).await.is_empty(), is_proven, "{report:?}");
        // One that is slow takes no earlier proof away either, nor does one that does not know.
        let fork = store.fork();
        drill(&ship, &fork, &made.id, Outcome::Passed).await;
        let report = of(found(&ship.ground(), &made.id, WAY, Outcome::Passed));
        record(&ship, &fork, &report).await.unwrap();
        assert_eq!(!proven(&ship, &fork).await.is_empty(), outcome != Outcome::Failed || is_proven);
    }
}

#[tokio::test]
async fn a_recording_that_dies_anywhere_is_believed_whole_or_not_at_all() {
    let (ship, store, made) = launched().await;
    let refs = refs_of(&ship, &store, &made.id).await;
    let mut deaths = 0;
    for (which, fault) in
        [(Which::Writes, Fault::Before), (Which::Writes, Fault::After), (Which::Reads, Fault::Before)]
    {
        for n in 1.. {
            let fork = FaultStore::new(store.fork());
            let report = found(&ship.ground(), &made.id, WAY, Outcome::Passed);
            fork.die_at(which, n, fault);
            let died = match ship.prove(&fork).await {
                Ok(repository) => repository.record_drill(&report, refs, &files()).await,
                Err(failure) => Err(failure),
            };
            let struck = fork.has_struck();
            fork.heal();
            assert_eq!(died.is_err(), struck, "{which:?} {n} {fault:?}");
            deaths += u64::from(struck);
            let reader = ship.reader(&fork).await.unwrap();
            let proofs = reader.proofs().await.unwrap();
            assert!(proofs.bad.is_empty() && proofs.gone.is_empty());
            let is_signed =
                fork.size(&layout::signature(&layout::drill(&report.id))).await.unwrap().is_some();
            assert_eq!(proofs.good.len(), usize::from(is_signed));
            assert_eq!(proven(&ship, &fork).await.len(), usize::from(is_signed));
            if is_signed {
                assert_eq!(reader.drill_report(&report.id).await.unwrap(), files(), "the report came first");
            }
            assert_eq!(ship.verify(&fork).await.damage, []);
            drill(&ship, &fork, &made.id, Outcome::Passed).await;
            assert_eq!(
                proven(&ship, &fork).await,
                std::slice::from_ref(&made.id),
                "the next one is not in its way"
            );
            if !struck {
                break;
            }
        }
    }
    assert!(deaths >= 3 + 3 + 4, "{deaths}");
}

/// Signs bytes and puts them where a proof of this drill would be.
fn plant(store: &MemoryStore, drill: &SnapshotId, bytes: &[u8], by: &SigningKey) {
    let key = layout::drill(drill);
    store.overwrite(&layout::signature(&key), by.sign(bytes, "lifeboat drill").unwrap());
    store.overwrite(&key, bytes.to_vec());
}

fn bytes_of(proof: &Proof) -> Vec<u8> {
    serde_json::to_vec(proof).unwrap()
}

#[tokio::test]
async fn what_is_no_proof_of_this_repository_proves_nothing_and_is_told() {
    let (ship, clean, made) = launched().await;
    let other = MemoryStore::new();
    ship.create(&other).await;
    let theirs = ship.backup(&other, &cargo(1)).await.unwrap();
    let moved = drill(&ship, &other, &theirs.id, Outcome::Passed).await;
    let scratch = clean.fork();
    let good = drill(&ship, &scratch, &made.id, Outcome::Passed).await;
    let (own, stranger) = (ship.signing(), SigningKey::generate().unwrap());
    let renamed = SnapshotId::new("20301231T000000Z-beef").unwrap();
    let (tampered, damaged) = (ExitCode::Tampering, ExitCode::Damage);
    let with_report = |object: Key| {
        let report =
            good.report.clone().map(|report| lifeboat::repo::format::SealedReport { object, ..report });
        bytes_of(&Proof { report, ..good.clone() })
    };
    for (what, drill, bytes, by, exit) in [
        ("a stranger's", &good.drill, bytes_of(&good), &stranger, tampered),
        ("another repository's", &moved.drill, bytes_of(&moved), &own, tampered),
        ("another drill's", &renamed, bytes_of(&good), &own, tampered),
        (
            "of other refs",
            &good.drill,
            bytes_of(&Proof { refs: PackId([7; 32]), ..good.clone() }),
            &own,
            tampered,
        ),
        ("of another's report", &good.drill, with_report(layout::config()), &own, tampered),
        ("junk", &good.drill, b"{\"format\": 3, \"junk\": true}".to_vec(), &own, damaged),
        ("no JSON", &good.drill, b"\xff\xfe".to_vec(), &own, damaged),
        ("huge", &good.drill, vec![b' '; (64 << 10) + 1], &own, damaged),
        ("newer", &good.drill, b"{\"format\": 99}".to_vec(), &own, ExitCode::NoRepository),
    ] {
        let store = clean.fork();
        plant(&store, drill, &bytes, by);
        assert_eq!(proven(&ship, &store).await, [], "{what}");
        let points = ship.reader(&store).await.unwrap().restore_points().await.unwrap();
        let refused: Vec<_> =
            points.refused.iter().map(|(key, failure)| (key.clone(), failure.exit())).collect();
        assert_eq!(refused, [(layout::drill(drill), exit)], "{what}");
        let damage = ship.verify(&store).await.damage;
        let told: Vec<_> = damage.iter().map(|one| (one.object.as_str(), one.tampering)).collect();
        assert_eq!(told, [(layout::drill(drill).as_str(), exit == tampered)], "{what}");
        let seen = ship.maintain(&store).await.unwrap().inspect(&ship.now(), &ship.monitor()).await.unwrap();
        seen.check(&BTreeSet::new()).expect_err("nothing is removed until somebody has looked");
        ship.assert_holds(&store, &made.id, &cargo(1)).await;
    }
    // The same without a signature is what a drill that died has left.
    clean.overwrite(&layout::drill(&good.drill), bytes_of(&good));
    assert_eq!(proven(&ship, &clean).await, []);
    assert_eq!(ship.verify(&clean).await.damage, []);
}

#[tokio::test]
async fn nobody_records_what_was_found_of_another_commit_or_without_being_a_signer() {
    let (ship, store, made) = launched().await;
    let report = found(&ship.now(), &made.id, WAY, Outcome::Passed);
    let repository = ship.prove(&store).await.unwrap();
    let failure = repository.record_drill(&report, PackId([7; 32]), &files()).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::Tampering);
    let (place, put) = (ship.place(&store, &Arc::default()), Arc::new(store.clone()));
    let stranger = Repository::prove(place, put, SigningKey::generate().unwrap()).await.err().unwrap();
    assert_eq!(stranger.exit(), ExitCode::KeyRefused);
    assert_eq!(keys_under(&store, layout::DRILLS), Vec::<Key>::new());
}

#[tokio::test]
async fn a_revoked_key_proves_nothing_and_is_no_damage() {
    let (ship, store, made) = launched().await;
    drill(&ship, &store, &made.id, Outcome::Passed).await;
    let chief = SigningKey::generate().unwrap().public();
    let (signer, last) = (ship.made.signer.as_str(), [(ship.made.signer.as_str(), 1)]);
    let trust = Trust::parse(&[signer], &[chief.as_str()], &last).unwrap();
    // The first config was signed by what was a writer then.
    let place = Place { trust, ..ship.place(&store, &Arc::default()) };
    let points = Repository::clear(place).await.unwrap().restore_points().await.unwrap();
    assert_eq!(points.snapshots.len(), 1, "what it committed before is believed");
    assert!(points.proven.is_empty() && points.refused.is_empty());
}

#[tokio::test]
async fn a_report_that_is_lost_or_changed_is_damage_and_its_proof_stays() {
    let (ship, store, made) = launched().await;
    let proof = drill(&ship, &store, &made.id, Outcome::Passed).await;
    let object = layout::drill_report(&proof.drill);
    let whole = store.get(&object, None).await.unwrap().to_vec();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (bytes, says) in [
        (None, "is missing"),
        (Some(flipped), "is not the report that was signed"),
        (Some(whole[1..].to_vec()), "instead of"),
    ] {
        let fork = store.fork();
        match bytes {
            Some(bytes) => fork.overwrite(&object, bytes),
            None => fork.delete(&object).await.unwrap(),
        }
        let damage = ship.verify(&fork).await.damage;
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert!(damage[0].object == object.as_str() && !damage[0].tampering, "{damage:?}");
        assert!(damage[0].what.contains(says), "{damage:?}");
        assert_eq!(damage[0].affects, [format!("the report of drill {}", proof.drill)]);
        assert_eq!(proven(&ship, &fork).await, std::slice::from_ref(&made.id));
        let failure = ship.reader(&fork).await.unwrap().drill_report(&proof.drill).await.unwrap_err();
        assert_eq!(failure.exit(), ExitCode::Damage);
    }
    store.delete(&layout::drill(&proof.drill)).await.unwrap();
    let damage = ship.verify(&store).await.damage;
    assert_eq!(
        damage.iter().map(|one| one.object.as_str()).collect::<Vec<_>>(),
        [layout::drill(&proof.drill).as_str()]
    );
}

#[tokio::test]
async fn keys_that_rotate_leave_proofs_as_they_are() {
    let (ship, store, made) = launched().await;
    let before = drill(&ship, &store, &made.id, Outcome::Passed).await;
    let keys = tempfile::tempdir().unwrap();
    let other = lifeboat::crypt::make_keys(keys.path(), "a second one").unwrap();
    let repository = ship.maintain(&store).await.unwrap();
    let index = vec![ship.made.index_recipient.clone()];
    repository.rotate(vec![other.recipient], index, &ship.index_key()).await.unwrap();
    assert_eq!(proven(&ship, &store).await, std::slice::from_ref(&made.id));
    let after = drill(&ship, &store, &made.id, Outcome::Passed).await;
    let identity = Identities::from_file(&keys.path().join(lifeboat::crypt::files::IDENTITY)).unwrap();
    for (identity, drill, opens) in [
        (ship.identities(), &before.drill, true),
        (identity.clone(), &before.drill, false),
        (identity, &after.drill, true),
        (ship.identities(), &after.drill, false),
    ] {
        let place = ship.place(&store, &Arc::default());
        let reader = Repository::read(place, identity, &ship.monitor()).await.unwrap();
        assert_eq!(reader.drill_report(drill).await.is_ok(), opens);
    }
    assert_eq!(ship.verify(&store).await.damage, []);
}

/// Copies as a host that syncs for the first time.
async fn copy<T: Store + Clone + 'static>(two: &Two, to: &T) -> Result<CopyReport> {
    let ship = &two.ship;
    let original = Repository::clear(ship.place(&two.original, &Arc::default())).await?;
    let to_place = ship.place(to, &Arc::<MemoryIndex>::default());
    original.copy_to(to_place, Arc::new(to.clone()), QUICK, &ship.now(), &ship.monitor()).await
}

#[tokio::test]
async fn a_sync_copies_proofs_last_and_in_the_order_of_their_making() {
    let two = Two::new().await;
    let proof = drill(&two.ship, &two.original, &two.made[1].0, Outcome::Passed).await;
    let to = CountingStore::new(two.offsite.clone());
    let report = copy(&two, &to).await.unwrap();
    assert_eq!((report.proofs, report.proofs_left, report.state.proven), (1, vec![], 1));
    let puts: Vec<String> =
        to.calls().into_iter().filter(|call| call.verb == Verb::Put).map(|call| call.at).collect();
    let key = layout::drill(&proof.drill);
    let order = [layout::drill_report(&proof.drill), key.clone(), layout::signature(&key)];
    let at = puts.iter().position(|put| put.starts_with(layout::DRILLS)).unwrap();
    assert_eq!(puts[at..at + 3], order.map(|key| key.to_string()));
    let last_refs = puts.iter().rposition(|put| put.starts_with(layout::REFS)).unwrap();
    assert!(last_refs < at);
    assert_eq!(proven(&two.ship, &two.offsite).await, [two.made[1].0.clone()]);
    assert_eq!(two.verify_copy().await.damage, []);
    let again = copy(&two, &two.offsite).await.unwrap();
    assert_eq!((again.proofs, again.state.proven), (0, 1));
}

#[tokio::test]
async fn a_copy_that_lost_some_of_a_proof_is_completed_by_the_next_sync() {
    let two = Two::new().await;
    let proof = drill(&two.ship, &two.original, &two.made[0].0, Outcome::Passed).await;
    copy(&two, &two.offsite).await.unwrap();
    let whole = two.offsite.dump();
    let key = layout::drill(&proof.drill);
    let all = [layout::drill_report(&proof.drill), key.clone(), layout::signature(&key)];
    for lost in 1..8_u32 {
        let fork = two.offsite.fork();
        for (n, key) in all.iter().enumerate().filter(|(n, _)| lost & (1 << n) != 0) {
            fork.delete(key).await.unwrap();
            assert!(n < 3);
        }
        let report = copy(&two, &fork).await.unwrap();
        assert_eq!((report.proofs, report.proofs_left, report.state.proven), (1, vec![], 1), "{lost:03b}");
        for key in &all {
            assert_eq!(fork.dump()[key], whole[key]);
        }
    }
}

#[tokio::test]
async fn a_sync_that_dies_anywhere_in_a_proof_is_finished_by_the_next_one() {
    let two = Two::new().await;
    drill(&two.ship, &two.original, &two.made[0].0, Outcome::Passed).await;
    for n in 1.. {
        let to = FaultStore::new(two.offsite.fork());
        to.die_at(Which::Writes, n, Fault::After);
        let died = copy(&two, &to).await;
        let struck = to.has_struck();
        to.heal();
        assert_eq!(died.is_err(), struck);
        let report = copy(&two, &to).await.unwrap();
        assert_eq!((report.proofs_left, report.state.proven), (vec![], 1), "{n}");
        assert_eq!(proven(&two.ship, &to).await, [two.made[0].0.clone()]);
        if !struck {
            assert!(n > 12, "{n}");
            break;
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_proof_keeps_no_snapshot_from_being_copied() {
    let mut two = Two::new().await;
    let proof = drill(&two.ship, &two.original, &two.made[0].0, Outcome::Passed).await;
    let key = layout::drill(&proof.drill);
    let (good, stranger) = (two.original.fork(), SigningKey::generate().unwrap());
    // Forged in the original, forged in the copy, and a report that is lost.
    for n in 0..3 {
        two.original = good.fork();
        two.offsite = MemoryStore::with_clock(Arc::new(two.ship.clock.clone()));
        match n {
            0 => plant(&two.original, &proof.drill, &bytes_of(&proof), &stranger),
            1 => plant(&two.offsite, &proof.drill, &bytes_of(&proof), &stranger),
            _ => two.original.delete(&layout::drill_report(&proof.drill)).await.unwrap(),
        }
        let report = copy(&two, &two.offsite).await.unwrap();
        assert_eq!((report.copied.len(), report.proofs, report.state.proven), (2, 0, 0), "{n}");
        assert_eq!(report.proofs_left.iter().map(|(key, _)| key).collect::<Vec<_>>(), [&key], "{n}");
        two.assert_copied(&[0, 1]).await;
        assert_eq!(proven(&two.ship, &two.offsite).await, []);
    }
}

/// Returns what retention would do with these counts.
async fn planned(ship: &Ship, store: &MemoryStore, last: u32) -> Planned {
    let asked = Asked {
        rules: Rules { last: Some(last), min_keep: 1, remove_percent_max: 100, ..Rules::default() },
        zone: chrono_tz::UTC,
        forget: BTreeSet::new(),
        delay_days: None,
        sharded: false,
        revoked: BTreeSet::new(),
        terms: Terms::default(),
    };
    plan(&ship.maintain(store).await.unwrap(), &asked, &ship.now(), &ship.monitor()).await.unwrap()
}

fn kept(planned: &Planned) -> Vec<(SnapshotId, Vec<String>)> {
    let all = planned.decided.keep.iter();
    all.map(|kept| (kept.id.clone(), kept.reasons.iter().map(ToString::to_string).collect())).collect()
}

#[tokio::test]
async fn the_newest_proven_snapshot_stays_until_a_newer_one_is_proven() {
    let (ship, store, first) = launched().await;
    let mut made = vec![first.id];
    for seed in 2..6 {
        made.push(ship.backup(&store, &cargo(seed)).await.unwrap().id);
    }
    drill(&ship, &store, &made[0], Outcome::Passed).await;
    drill(&ship, &store, &made[1], Outcome::Passed).await;
    drill(&ship, &store, &made[2], Outcome::Failed).await;
    let plan = planned(&ship, &store, 1).await;
    let newest =
        (made[4].clone(), vec!["last 1 of 1".to_owned(), "newest good, 1 of 1 (min_keep)".to_owned()]);
    let proven = |id: &SnapshotId| (id.clone(), vec!["newest proven".to_owned()]);
    assert_eq!(kept(&plan), [newest.clone(), proven(&made[1])]);
    assert_eq!(plan.proven, made[..2].iter().cloned().collect());
    drill(&ship, &store, &made[3], Outcome::Passed).await;
    assert_eq!(kept(&planned(&ship, &store, 1).await), [newest, proven(&made[3])]);
}

#[tokio::test]
async fn the_proof_of_a_forgotten_snapshot_stays_as_history() {
    let (ship, store, first) = launched().await;
    let proof = drill(&ship, &store, &first.id, Outcome::Passed).await;
    let second = ship.backup(&store, &cargo(2)).await.unwrap();
    ship.prune(&store, &[&first.id], AT_ONCE).await.unwrap();
    ship.backup(&store, &cargo(3)).await.unwrap();
    ship.prune(&store, &[], AT_ONCE).await.unwrap();
    assert_eq!(keys_under(&store, &format!("refs/{}", first.id)), Vec::<Key>::new());
    assert_eq!(keys_under(&store, layout::DRILLS).len(), 3);
    assert_eq!(proven(&ship, &store).await, []);
    assert_eq!(ship.verify(&store).await.damage, []);
    assert_eq!(ship.reader(&store).await.unwrap().drill_report(&proof.drill).await.unwrap(), files());
    // What was found before it was forgotten may still be written down.
    let late = found(&ship.now(), &first.id, WAY, Outcome::Passed);
    ship.prove(&store).await.unwrap().record_drill(&late, proof.refs, &[]).await.unwrap();
    assert_eq!(proven(&ship, &store).await, []);
    ship.assert_holds(&store, &second.id, &cargo(2)).await;
}

/// Makes a snapshot for which a person named the source.
async fn chosen(ship: &Ship, store: &MemoryStore, seed: u64) -> SnapshotId {
    let repository = ship.append(store, &Arc::default()).await.unwrap();
    let label = Label { chosen: true, ..Label::default() };
    ship.write_labelled(&repository, &[cargo(seed)], label).await.unwrap().id
}

#[tokio::test]
async fn a_snapshot_of_chosen_sources_displaces_nothing() {
    let (ship, store, first) = launched().await;
    let mut whole = vec![first.id];
    let mut named = Vec::new();
    for seed in 2..5 {
        named.push(chosen(&ship, &store, seed * 10).await);
        whole.push(ship.backup(&store, &cargo(seed)).await.unwrap().id);
    }
    named.push(chosen(&ship, &store, 77).await);
    let refs = ship.reader(&store).await.unwrap().refs().await.unwrap();
    for one in &refs {
        let is_chosen = named.contains(&one.snapshot);
        assert_eq!((one.format, one.chosen, one.is_whole()), (FORMAT, is_chosen, !is_chosen));
        assert_eq!(one.word(), if is_chosen { "chosen" } else { "complete" });
    }
    // A proof of one does not make it what a restore of everything could come from.
    drill(&ship, &store, &named[3], Outcome::Passed).await;
    let plan = planned(&ship, &store, 2).await;
    let of_whole: Vec<_> = kept(&plan).into_iter().filter(|(id, _)| whole.contains(id)).collect();
    assert_eq!(of_whole.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&whole[3], &whole[2]]);
    assert!(plan.decided.remove.iter().all(|gone| whole.contains(&gone.id)), "chosen ones are young");
    ship.clock.advance(Duration::days(8));
    let plan = planned(&ship, &store, 2).await;
    let stays = kept(&plan);
    let of_named: Vec<_> = stays.iter().filter(|(id, _)| named.contains(id)).collect();
    assert_eq!(of_named.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&named[3]], "{stays:?}");
    assert_eq!(of_named[0].1, ["newest partial, no complete one is newer"]);
    let of_whole: Vec<_> = stays.into_iter().filter(|(id, _)| whole.contains(id)).collect();
    assert_eq!(of_whole.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&whole[3], &whole[2]]);
}

#[tokio::test]
async fn a_snapshot_of_chosen_sources_lets_no_sweep_begin() {
    let (ship, store, first) = launched().await;
    ship.backup(&store, &cargo(2)).await.unwrap();
    assert!(ship.prune(&store, &[&first.id], AT_ONCE).await.unwrap().condemned > 0);
    chosen(&ship, &store, 3).await;
    assert_eq!(ship.prune(&store, &[], AT_ONCE).await.unwrap().swept.len(), 0);
    ship.backup(&store, &cargo(2)).await.unwrap();
    assert_eq!(ship.prune(&store, &[], AT_ONCE).await.unwrap().swept.len(), 1);
}
