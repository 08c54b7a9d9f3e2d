//! What the store finds on the disk: values of its trees, and the files of the database.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::LazyLock,
    thread,
    time::Duration,
};

use chrono::{DateTime, Utc};
use defguard_synapse_sync::{
    domain::{
        Applied, Backoff, Change, DefguardId, Entry, ExternalId, Failure, FailureClass, Instance, Intent,
        Leaving, Lifecycle, Link, Mxid, OurLock, Peer, RunId, RunRecord, ServerName, Standing, Standoff,
        Subject, Username,
    },
    ports::{JournalFilter, Outcome, ServerPair, Store as _},
    store::{Identity, Opened, SledStore},
};
use proptest::{prelude::*, sample::Index};
use tempfile::TempDir;

use crate::{
    cases,
    damage::{Damage, Edit, damage},
};

const PEOPLE: i64 = 8;
/// What the trees are called on disk, as long as there is a store: to read it with other eyes.
const TREES: [&str; 7] = ["links", "intents", "backoff", "standoffs", "runs", "journal", "meta"];

fn server() -> ServerName {
    ServerName::try_from("example.org").unwrap()
}

fn mxid(id: i64) -> Mxid {
    Mxid::parse(&format!("@person{id}:example.org"), &server()).unwrap()
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn outcome(id: i64) -> Outcome {
    let who = DefguardId(id);
    let link = Link {
        id: who,
        username: Username::new(format!("person{id}")),
        subject: Some(Subject::new(format!("person{id}"))),
        mxid: mxid(id),
        applied: Applied { display_name: Some(format!("Person Nr. {id}")), ..Applied::default() },
        lifecycle: Lifecycle {
            locked: Some(OurLock { why: Leaving::Gone, at: at(id), sessions_due: true }),
            ..Lifecycle::default()
        },
        former: BTreeSet::from([ExternalId {
            auth_provider: "oidc-old".to_owned(),
            external_id: id.to_string(),
        }]),
    };
    let line = |change| Entry { run: Some(RunId(1)), at: at(id), id: who, mxid: mxid(id), change };
    let backoff = Backoff {
        failures: 1,
        until: at(60),
        since: at(0),
        last: Failure::new(Peer::Synapse, FailureClass::Transient, "writing", "later"),
    };
    let standoff = Standoff {
        username: Username::new(format!("person{id}")),
        conflicts: Vec::new(),
        fingerprint: "0123456789abcdef".to_owned(),
        since: at(id),
    };
    Outcome {
        links: BTreeMap::from([(who, Some(link))]),
        journal: vec![
            line(Change::Created),
            line(Change::DisplayName { before: None, after: Some(format!("Person Nr. {id}")) }),
        ],
        backoff: BTreeMap::from([(who, Some(backoff))]),
        standoffs: BTreeMap::from([(who, Some(standoff))]),
        ..Outcome::default()
    }
}

fn intent(id: i64) -> Intent {
    Intent {
        group: DefguardId(id),
        begun: at(id),
        creates: BTreeMap::from([(DefguardId(id), mxid(id))]),
        moves: BTreeSet::new(),
        pending: Vec::new(),
    }
}

fn run(id: u64) -> RunRecord {
    RunRecord {
        id: RunId(id),
        began: at(0),
        ended: at(1),
        full: false,
        exit_code: 0,
        summary: "nothing to do".to_owned(),
        people: BTreeMap::from([("in step".to_owned(), 335)]),
        changes: BTreeMap::new(),
        failed: 0,
    }
}

fn pair() -> ServerPair {
    ServerPair {
        instance: Instance::new("hq"),
        defguard_url: "https://defguard.example.org/".to_owned(),
        server_name: server(),
    }
}

fn standing() -> Standing {
    Standing { generation: 7, lost: Some("its snapshot file is missing".to_owned()), ..Standing::default() }
}

fn open(dir: &Path) -> Result<(SledStore, Opened), Failure> {
    SledStore::open(dir, &Identity::new(0xb0b))
}

/// Everything that the store tells, each part by itself.
#[derive(Debug, PartialEq)]
struct Told {
    links: Result<BTreeMap<DefguardId, Link>, Failure>,
    intents: Result<Vec<Intent>, Failure>,
    backoff: Result<BTreeMap<DefguardId, Backoff>, Failure>,
    standoffs: Result<BTreeMap<DefguardId, Standoff>, Failure>,
    runs: Result<Vec<RunRecord>, Failure>,
    journal: Result<Vec<Entry>, Failure>,
}

fn told(store: &SledStore) -> Told {
    Told {
        links: store.links(),
        intents: store.intents(),
        backoff: store.backoff(),
        standoffs: store.standoffs(),
        runs: store.runs(100),
        journal: store.journal(&JournalFilter::default()),
    }
}

impl Told {
    fn failures(&self) -> Vec<&Failure> {
        let all = [
            self.links.as_ref().err(),
            self.intents.as_ref().err(),
            self.backoff.as_ref().err(),
            self.standoffs.as_ref().err(),
            self.runs.as_ref().err(),
            self.journal.as_ref().err(),
        ];
        all.into_iter().flatten().collect()
    }

    /// How many things are as they were, of those of one tree.
    fn same(&self, other: &Self, tree: &str) -> usize {
        fn of<T: PartialEq>(mine: &Result<Vec<T>, Failure>, other: &Result<Vec<T>, Failure>) -> usize {
            let (Ok(mine), Ok(other)) = (mine, other) else { return 0 };
            mine.iter().filter(|item| other.contains(item)).count()
        }
        fn list<T: Clone>(
            map: &Result<BTreeMap<DefguardId, T>, Failure>,
        ) -> Result<Vec<(DefguardId, T)>, Failure> {
            map.clone().map(|map| map.into_iter().collect())
        }
        match tree {
            "links" => of(&list(&self.links), &list(&other.links)),
            "backoff" => of(&list(&self.backoff), &list(&other.backoff)),
            "standoffs" => of(&list(&self.standoffs), &list(&other.standoffs)),
            "intents" => of(&self.intents, &other.intents),
            "runs" => of(&self.runs, &other.runs),
            "journal" => of(&self.journal, &other.journal),
            _ => 0,
        }
    }
}

/// A state directory with some of its content behind a snapshot and some not, and what is in it.
static USED: LazyLock<(TempDir, Told)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    for half in [1..=PEOPLE / 2, PEOPLE / 2 + 1..=PEOPLE] {
        let (store, _) = open(dir.path()).unwrap();
        store.bind(&pair()).unwrap();
        let run_id = store.next_run().unwrap();
        for id in half {
            store.begin(&intent(id)).unwrap();
            store.record(&outcome(id)).unwrap();
        }
        store.add_run(&run(run_id.0)).unwrap();
        store.set_standing(&standing()).unwrap();
    }
    // Opening it writes a snapshot, so what is told has to be told by a copy.
    let copy = copied(dir.path());
    let told = told(&open(copy.path()).unwrap().0);
    assert!(told.failures().is_empty(), "{told:?}");
    assert_eq!(told.links.as_ref().unwrap().len(), 8);
    assert_eq!(told.journal.as_ref().unwrap().len(), 16);
    (dir, told)
});

fn copied(dir: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let to = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                fs::create_dir(&to)?;
                copy(&entry.path(), &to)?;
            } else {
                fs::copy(entry.path(), &to)?;
            }
        }
        Ok(())
    }
    let to = tempfile::tempdir().unwrap();
    copy(dir, to.path()).unwrap();
    to
}

/// Opens the database below the store's feet. After a close, sled's lock can be held for some milliseconds more, and
/// nothing tells when it is free; the store itself tries again for the same reason.
fn raw(database: &Path) -> sled::Db {
    for _ in 0..500 {
        match sled::open(database) {
            Ok(db) => return db,
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the lock of the database never became free");
}

/// Where the old database is now, if it was set aside.
fn remains(dir: &Path, opened: &Opened) -> std::path::PathBuf {
    dir.join(if matches!(opened, Opened::Lost { .. }) { "store.lost-1" } else { "store" })
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn a_damaged_value_is_reported_with_its_place_and_stays_and_all_others_are_still_read(
        tree in prop::sample::select(&TREES[..6]),
        key in any::<Index>(),
        damage in damage(),
    ) {
        let (base, clean) = &*USED;
        let dir = copied(base.path());
        let db = raw(&dir.path().join("store"));
        let values = db.open_tree(tree).unwrap();
        let count = values.len();
        let (key, whole) = values.iter().nth(key.index(count)).unwrap().unwrap();
        let mut place = None;
        let damaged = match &damage {
            Damage::Json(..) => {
                let (text, at) = damage.to_json(std::str::from_utf8(&whole[1..]).unwrap());
                place = at;
                [&whole[..1], &text].concat()
            }
            _ => damage.to_bytes(&whole),
        };
        values.insert(&key, damaged.clone()).unwrap();
        drop((values, db));

        let (store, opened) = open(dir.path()).unwrap();
        prop_assert_eq!(opened, Opened::Existing);
        let now = told(&store);
        let failures = now.failures();
        let unreadable = !failures.is_empty();
        if let [failure] = failures.as_slice() {
            prop_assert!(failure.what.ends_with(&format!("in `{tree}`")), "{}", failure);
            prop_assert!(failure.mend.is_some() && failure.class == FailureClass::Permanent, "{}", failure);
            let shown = format!("{failure:?}");
            prop_assert!(!shown.contains("Person") && !shown.contains("example.org"), "{}", shown);
        } else {
            prop_assert_eq!(failures.len(), 0);
            prop_assert!(!matches!(damage, Damage::Cut(_)), "a value that was cut short was read");
            prop_assert!(now.same(clean, tree) >= count - 1);
            let renamed = matches!(&damage, Damage::Json(_, Edit::Rename)) && place.is_some_and(|place| place.keys);
            prop_assert!(!(tree == "links" && renamed), "a part of a link was forgotten unseen");
        }
        for other in TREES.iter().filter(|other| **other != tree) {
            prop_assert_eq!(now.same(clean, other), clean.same(clean, other), "{}", other);
        }
        // The others' work goes on, and pruning takes nothing whose age cannot be read.
        store.record(&Outcome { standoffs: BTreeMap::new(), ..outcome(1000) }).unwrap();
        let pruned = store.prune(at(1_000_000));
        let aged = matches!(tree, "runs" | "journal");
        prop_assert!(pruned.is_ok() || (unreadable && aged));
        drop(store);
        if unreadable && (pruned.is_err() || !aged) {
            let left = raw(&dir.path().join("store")).open_tree(tree).unwrap().get(&key).unwrap();
            prop_assert_eq!(left.map(|left| left.to_vec()), Some(damaged));
        }
    }

    #[test]
    fn a_store_whose_own_notes_are_damaged_is_refused_or_set_aside_or_used_whole(
        key in any::<Index>(),
        damage in damage(),
    ) {
        let (base, clean) = &*USED;
        let dir = copied(base.path());
        let db = raw(&dir.path().join("store"));
        let notes = db.open_tree("meta").unwrap();
        let (key, whole) = notes.iter().nth(key.index(notes.len())).unwrap().unwrap();
        let damaged = match (&damage, whole.first()) {
            (Damage::Json(..), Some(1)) => {
                let text = std::str::from_utf8(&whole[1..]).unwrap();
                [&whole[..1], &damage.to_json(text).0].concat()
            }
            _ => damage.to_bytes(&whole),
        };
        notes.insert(&key, damaged.clone()).unwrap();
        drop((notes, db));

        let opened = match open(dir.path()) {
            Err(failure) => {
                prop_assert_eq!(failure.class, FailureClass::Permanent, "{}", failure);
                prop_assert!(failure.mend.is_some(), "{}", failure);
                let db = raw(&dir.path().join("store"));
                let left = db.open_tree("meta").unwrap().get(&key).unwrap();
                prop_assert_eq!(left.map(|left| left.to_vec()), Some(damaged));
                return Ok(());
            }
            Ok((store, Opened::Existing)) => {
                prop_assert_eq!(&told(&store), clean);
                let before = store.runs(100).unwrap();
                if let Ok(run_id) = store.next_run() {
                    prop_assert!(before.iter().all(|run| run.id < run_id), "a number of a run is given twice");
                }
                let _ = store.bind(&pair());
                if matches!(damage, Damage::Json(_, Edit::Rename | Edit::Twice(_))) && key == b"standing" {
                    let kept = store.standing();
                    prop_assert!(kept.is_err() || kept == Ok(standing()), "{:?}", kept);
                }
                Opened::Existing
            }
            Ok((_, opened)) => opened,
        };
        // Wherever it is now, everything is still there.
        let db = raw(&remains(dir.path(), &opened));
        for (tree, least) in [("links", 8), ("journal", 16), ("runs", 2)] {
            prop_assert_eq!(db.open_tree(tree).unwrap().len(), least, "{}", tree);
        }
    }

    #[test]
    fn a_damaged_file_is_refused_or_set_aside_or_nothing_is_missing(
        file in any::<Index>(),
        damage in damage().prop_filter("bytes", |damage| !matches!(damage, Damage::Json(..))),
    ) {
        let (base, clean) = &*USED;
        let dir = copied(base.path());
        let mut files: Vec<_> = [dir.path().to_owned(), dir.path().join("store")]
            .iter()
            .flat_map(|dir| fs::read_dir(dir).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file() && !path.ends_with("store.lock"))
            .collect();
        files.sort();
        let path = file.get(&files);
        let bytes = fs::read(path).unwrap();
        // sled makes its file larger than what is in it.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let mut damaged = damage.to_bytes(&bytes[..used]);
        if matches!(damage, Damage::Flip(_)) {
            damaged.extend(&bytes[used..]);
        }
        fs::write(path, &damaged).unwrap();

        match open(dir.path()) {
            Err(failure) => {
                prop_assert_eq!(failure.class, FailureClass::Permanent, "{}", failure);
                prop_assert!(failure.mend.is_some(), "{}", failure);
                // sled clears what is behind the damage when it opens a database, so this is no matter of course.
                prop_assert!(fs::read(path).unwrap() == damaged, "{} changed", path.display());
            }
            Ok((store, Opened::Existing)) => prop_assert_eq!(&told(&store), clean, "{}", path.display()),
            Ok((store, opened)) => {
                prop_assert!(matches!(opened, Opened::Lost { .. }), "{:?}", opened);
                let moved = remains(dir.path(), &opened).join(path.file_name().unwrap());
                prop_assert!(path.parent() == Some(dir.path()) || fs::read(moved).unwrap() == damaged);
                prop_assert_eq!(store.links().unwrap().len(), 0);
            }
        }
    }
}
