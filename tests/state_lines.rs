//! Everything that a store remembers, written down as lines and read again, and a person who is forgotten.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use chrono::{DateTime, Utc};
use defguard_synapse_sync::{
    domain::{
        Applied, Away, Backoff, Belongings, Change, Conflict, DefguardId, Email, Entry, ExternalId, Failure,
        FailureClass, Instance, Intent, Leaving, Lifecycle, Link, MappedField, Move, Mxid, OurDeactivation,
        OurLock, Peer, RunId, RunRecord, ServerName, Session, Standing, Standoff, Subject, ThreePid,
        Username,
    },
    ports::{JournalFilter, Kept, Outcome, ServerPair, Snapshot, Store as _},
    store::{Identity, Opened, SledStore, lines},
};
use proptest::{collection::vec, prelude::*};

fn server() -> ServerName {
    ServerName::try_from("example.org").unwrap()
}

fn mxid(number: i64) -> Mxid {
    Mxid::parse(&format!("@person{number}:example.org"), &server()).unwrap()
}

fn time() -> impl Strategy<Value = DateTime<Utc>> {
    (0_i64..4_000_000_000).prop_map(|seconds| DateTime::from_timestamp(seconds, 0).unwrap())
}

fn texts() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set(any::<String>(), 0..3)
}

fn ids() -> impl Strategy<Value = BTreeSet<ExternalId>> {
    let id = any::<(String, String)>()
        .prop_map(|(auth_provider, external_id)| ExternalId { auth_provider, external_id });
    proptest::collection::btree_set(id, 0..3)
}

fn leaving() -> impl Strategy<Value = Leaving> {
    prop_oneof![Just(Leaving::Disabled), Just(Leaving::Gone), Just(Leaving::OutOfScope)]
}

fn threepids() -> impl Strategy<Value = BTreeSet<ThreePid>> {
    let threepid = any::<(String, String)>().prop_map(|(medium, address)| ThreePid { medium, address });
    proptest::collection::btree_set(threepid, 0..3)
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Created),
        Just(Change::Adopted),
        Just(Change::Relinked),
        Just(Change::Unlinked),
        Just(Change::Reactivated),
        any::<(Option<String>, Option<String>)>()
            .prop_map(|(before, after)| Change::DisplayName { before, after }),
        (texts(), texts()).prop_map(|(before, after)| Change::Emails { before, after }),
        (ids(), ids()).prop_map(|(before, after)| Change::ExternalIds { before, after }),
        (leaving(), any::<bool>()).prop_map(|(why, end_sessions)| Change::Locked { why, end_sessions }),
        leaving().prop_map(|why| Change::Unlocked { why }),
        any::<u64>().prop_map(|devices| Change::SessionsEnded { devices }),
        (leaving(), any::<Option<String>>(), threepids(), ids(), texts()).prop_map(
            |(why, display_name, threepids, external_ids, rooms)| Change::Deactivated {
                why,
                before: Belongings { display_name, threepids, external_ids, rooms },
            }
        ),
        (any::<String>(), proptest::option::of(time())).prop_map(|(device, last_used)| {
            Change::StrangerSessions { sessions: BTreeSet::from([Session { device, last_used }]) }
        }),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (any::<Option<u64>>(), time(), 0_i64..6, change()).prop_map(|(run, at, id, change)| Entry {
        run: run.map(RunId),
        at,
        id: DefguardId(id),
        mxid: mxid(id),
        change,
    })
}

fn lifecycle() -> impl Strategy<Value = Lifecycle> {
    let away = (leaving(), time(), any::<u32>(), proptest::option::of(time()))
        .prop_map(|(why, since, runs, last_seen)| Away { why, since, runs, last_seen });
    let locked = (leaving(), time(), any::<bool>()).prop_map(|(why, at, sessions_due)| OurLock {
        why,
        at,
        sessions_due,
    });
    let deactivated = (time(), threepids(), any::<bool>())
        .prop_map(|(at, threepids, restoring)| OurDeactivation { at, threepids, restoring });
    (proptest::option::of(away), proptest::option::of(locked), proptest::option::of(deactivated))
        .prop_map(|(away, locked, deactivated)| Lifecycle { away, locked, deactivated })
}

fn link(id: i64) -> impl Strategy<Value = Link> {
    (
        any::<String>(),
        any::<Option<String>>(),
        any::<Option<String>>(),
        any::<[bool; 2]>(),
        lifecycle(),
        ids(),
    )
        .prop_map(move |(username, subject, display_name, [email, unseen], lifecycle, former)| Link {
            id: DefguardId(id),
            username: Username::new(username),
            subject: subject.map(Subject::new),
            mxid: mxid(id),
            applied: Applied {
                display_name,
                email: email.then(|| Email::canonical("someone@example.org").unwrap()),
                unseen: unseen.then_some(MappedField::Email).into_iter().collect(),
            },
            lifecycle,
            former,
        })
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let links = proptest::collection::btree_set(0_i64..6, 0..5)
        .prop_flat_map(|ids| ids.into_iter().map(link).collect::<Vec<_>>());
    let intent = (vec(entry(), 0..3), time()).prop_map(|(pending, begun)| Intent {
        group: DefguardId(3),
        begun,
        creates: BTreeMap::from([(DefguardId(3), mxid(3))]),
        moves: BTreeSet::from([Move {
            id: ExternalId { auth_provider: "p".to_owned(), external_id: "x".to_owned() },
            from: mxid(4),
        }]),
        pending,
    });
    let numbers = (any::<u64>(), 1_u64..1000, any::<bool>(), "[0-9a-f]{32}");
    (links, vec(entry(), 0..20), proptest::option::of(intent), time(), numbers).prop_map(
        |(links, journal, intent, at, (generation, next_run, more, store))| Snapshot {
            store,
            pair: more.then(|| ServerPair {
                instance: Instance::new("hq"),
                defguard_url: "https://defguard.example.org/".to_owned(),
                server_name: server(),
            }),
            next_run,
            standing: Standing {
                generation,
                last_look: more.then_some(at),
                lost: more.then(|| "a test".to_owned()),
                ..Standing::default()
            },
            links,
            intents: intent.into_iter().collect(),
            backoff: more.then(|| (DefguardId(2), backoff(at))).into_iter().collect(),
            standoffs: more.then(|| (DefguardId(2), standoff(at))).into_iter().collect(),
            runs: (1..next_run.min(4)).map(|id| run(id, at)).collect(),
            journal,
        },
    )
}

fn backoff(at: DateTime<Utc>) -> Backoff {
    let last = Failure::new(Peer::Synapse, FailureClass::Transient, "a call", "a test");
    Backoff { failures: 3, until: at, since: at, last }
}

fn standoff(at: DateTime<Utc>) -> Standoff {
    let conflicts = vec![Conflict::Vanished { mxid: mxid(2) }];
    Standoff { username: Username::new("two"), conflicts, fingerprint: "f".to_owned(), since: at }
}

fn run(id: u64, at: DateTime<Utc>) -> RunRecord {
    RunRecord {
        id: RunId(id),
        began: at,
        ended: at,
        full: false,
        exit_code: 0,
        failed: 0,
        summary: String::new(),
        people: BTreeMap::new(),
        changes: BTreeMap::new(),
    }
}

proptest! {
    #[test]
    fn what_is_written_down_is_read_again(snapshot in snapshot()) {
        let text = lines::write(&snapshot).unwrap();
        prop_assert_eq!(lines::read(&text).unwrap(), snapshot);
    }

    #[test]
    fn a_text_that_was_cut_short_is_an_error_with_its_line(snapshot in snapshot(), at in any::<prop::sample::Index>()) {
        let text = lines::write(&snapshot).unwrap();
        let mut cut = at.index(text.len() - 1);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let problem = lines::read(&text[..cut]).unwrap_err();
        prop_assert!(problem.line >= 1 && problem.line <= text.lines().count());
    }

    #[test]
    fn flipped_bits_are_read_or_refused_and_never_shown(
        snapshot in snapshot(),
        flips in vec((any::<prop::sample::Index>(), 0_u8..8), 1..4),
    ) {
        let mut bytes = lines::write(&snapshot).unwrap().into_bytes();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Err(problem) = lines::read(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(!problem.to_string().contains("someone@"), "{problem}");
        }
    }
}

proptest! {
    // Each one is a database on disk.
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn a_store_that_was_imported_is_the_one_that_was_exported(snapshot in snapshot()) {
        let dir = tempfile::tempdir().unwrap();
        SledStore::import(dir.path(), &Identity::new(7), &snapshot).unwrap();
        let (store, opened) = SledStore::open(dir.path(), &Identity::new(8)).unwrap();
        prop_assert_eq!(opened, Opened::Existing);
        prop_assert_eq!(store.id(), snapshot.store.clone());
        prop_assert_eq!(store.snapshot().unwrap(), snapshot.clone());
        // It is not empty any more.
        drop(store);
        let again = SledStore::import(dir.path(), &Identity::new(9), &snapshot);
        let has_content = !(snapshot.links.is_empty() && snapshot.journal.is_empty() && snapshot.intents.is_empty()
            && snapshot.runs.is_empty() && snapshot.backoff.is_empty());
        prop_assert_eq!(again.is_err(), has_content);
        // What comes next is numbered behind it.
        let (store, _) = SledStore::open(dir.path(), &Identity::new(8)).unwrap();
        let line = Entry { run: None, at: DateTime::UNIX_EPOCH, id: DefguardId(9), mxid: mxid(9), change: Change::Created };
        store.record(&Outcome { journal: vec![line.clone()], ..Outcome::default() }).unwrap();
        let journal = store.journal(&JournalFilter::default()).unwrap();
        prop_assert_eq!(journal, [snapshot.journal.clone(), vec![line]].concat());
        prop_assert_eq!(store.next_run().unwrap(), RunId(snapshot.next_run));
    }
}

fn some_snapshot() -> Snapshot {
    let at = DateTime::UNIX_EPOCH;
    let entry =
        |id: i64, change| Entry { run: Some(RunId(1)), at, id: DefguardId(id), mxid: mxid(id), change };
    let name = |id: i64| entry(id, Change::DisplayName { before: None, after: Some("Somebody".to_owned()) });
    let link = |id: i64| Link {
        id: DefguardId(id),
        username: Username::new("somebody"),
        subject: None,
        mxid: mxid(id),
        applied: Applied::default(),
        lifecycle: Lifecycle::default(),
        former: BTreeSet::new(),
    };
    Snapshot {
        store: "0123456789abcdef0123456789abcdef".to_owned(),
        pair: None,
        next_run: 2,
        standing: Standing::default(),
        links: vec![link(1), link(2)],
        intents: Vec::new(),
        backoff: [1, 2].map(|id| (DefguardId(id), backoff(at))).into(),
        standoffs: [1, 2].map(|id| (DefguardId(id), standoff(at))).into(),
        runs: vec![run(1, at)],
        journal: vec![entry(1, Change::Created), entry(2, Change::Created), name(1), name(2)],
    }
}

#[test]
fn whoever_is_forgotten_is_in_the_journal_no_more_and_nobody_else_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let before = some_snapshot();
    SledStore::import(dir.path(), &Identity::new(7), &before).unwrap();
    let (store, _) = SledStore::open(dir.path(), &Identity::new(8)).unwrap();
    let kept = Kept { lines: 2, conflicts: true, failures: true };
    assert_eq!(store.forget(DefguardId(1), true).unwrap(), kept);
    assert_eq!(store.snapshot().unwrap(), before, "it was only asked");
    assert_eq!(store.forget(DefguardId(1), false).unwrap(), kept);
    drop(store);
    let (store, _) = SledStore::open(dir.path(), &Identity::new(8)).unwrap();
    let mut left = before;
    left.journal.retain(|entry| entry.id == DefguardId(2));
    left.backoff.remove(&DefguardId(1));
    left.standoffs.remove(&DefguardId(1));
    assert_eq!(store.snapshot().unwrap(), left);
    assert_eq!(store.forget(DefguardId(1), false).unwrap(), Kept::default());
}

#[test]
fn an_import_that_did_not_come_to_its_end_leaves_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    SledStore::import(dir.path(), &Identity::new(7), &some_snapshot()).unwrap();
    // The file beside the database is what is written last; until then it names the store that was begun for it.
    fs::write(dir.path().join("store.id"), format!("{:032x}\n", 7)).unwrap();
    let (store, opened) = SledStore::open(dir.path(), &Identity::new(8)).unwrap();
    assert!(matches!(opened, Opened::Lost { .. }), "{opened:?}");
    assert!(store.links().unwrap().is_empty());
    drop(store);
    SledStore::import(dir.path(), &Identity::new(9), &some_snapshot()).unwrap();
    let (store, opened) = SledStore::open(dir.path(), &Identity::new(8)).unwrap();
    assert_eq!(opened, Opened::Existing);
    assert_eq!(store.snapshot().unwrap(), some_snapshot());
}

#[test]
fn what_contradicts_itself_is_refused_with_its_line() {
    let mut twice = some_snapshot();
    twice.links.push(twice.links[0].clone());
    let mut same_account = some_snapshot();
    same_account.links[1].mxid = mxid(1);
    let whole = lines::write(&some_snapshot()).unwrap();
    let header = whole.lines().next().unwrap();
    for (text, line, why) in [
        (String::new(), 1, "nothing in it"),
        ("{\"links\": []}\n".to_owned(), 1, "no header"),
        (whole.replacen("_state\":1", "_state\":2", 1), 1, "version 2"),
        (whole.replacen(&some_snapshot().store, "", 1), 1, "id of the store"),
        (lines::write(&twice).unwrap(), 5, "the link of #1 comes twice"),
        (lines::write(&same_account).unwrap(), 4, "a link to @person1:example.org comes twice"),
        (whole.replacen("{\"link\":", "{\"lunk\":", 1), 3, "another shape"),
        (whole.replacen("{\"link\":{", "{\"link\":[", 1), 3, ""),
        (format!("{whole}{{\"journal\":1}}\n"), 14, "another shape"),
        (format!("{header}\n"), 1, "tells of 12 lines below it, and there are 0"),
        (whole.lines().take(8).collect::<Vec<_>>().join("\n"), 8, "there are 7"),
    ] {
        let problem = lines::read(&text).unwrap_err();
        assert_eq!(problem.line, line, "{problem}\n{text}");
        assert!(problem.why.contains(why), "{problem}");
    }
}
