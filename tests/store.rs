//! The store on a real disk: what was acknowledged stays, what is strange is seen, and nothing is half there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use chrono::{DateTime, Utc};
use defguard_synapse_sync::{
    domain::{
        Applied, Backoff, Change, DefguardId, Entry, Failure, FailureClass, Instance, Intent, Lifecycle,
        Link, Mxid, Peer, RunId, RunRecord, ServerName, Standing, Subject, Username,
    },
    ports::{JournalFilter, Outcome, ServerPair, Store as _},
    store::{Identity, Opened, SledStore},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

const FIRST: u128 = 0xa11ce;
const SECOND: u128 = 0xb0b;

fn server() -> ServerName {
    ServerName::try_from("example.org").unwrap()
}

fn mxid(id: i64) -> Mxid {
    Mxid::parse(&format!("@person{id}:example.org"), &server()).unwrap()
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn link(id: i64) -> Link {
    Link {
        lifecycle: Lifecycle::default(),
        former: BTreeSet::new(),
        id: DefguardId(id),
        username: Username::new(format!("person{id}")),
        subject: Some(Subject::new(format!("person{id}"))),
        mxid: mxid(id),
        applied: Applied {
            display_name: Some(format!("Person Nr. {id}")),
            email: None,
            ..Applied::default()
        },
    }
}

fn entry(id: i64, run: u64, second: i64, change: Change) -> Entry {
    Entry { run: Some(RunId(run)), at: at(second), id: DefguardId(id), mxid: mxid(id), change }
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

fn backoff(failures: u32) -> Backoff {
    Backoff {
        failures,
        until: at(60),
        since: at(0),
        last: Failure::new(
            Peer::Synapse,
            FailureClass::RateLimited(Some(Duration::from_secs(3))),
            "writing",
            "later",
        ),
    }
}

fn run(id: u64, second: i64) -> RunRecord {
    RunRecord {
        id: RunId(id),
        began: at(second),
        ended: at(second + 1),
        full: id.is_multiple_of(2),
        exit_code: 0,
        summary: "nothing to do".to_owned(),
        people: BTreeMap::from([("in step".to_owned(), 335)]),
        changes: BTreeMap::new(),
        failed: 0,
    }
}

/// What belongs together of one person's work: a link, two journal lines, a back-off record taken away, an intent
/// finished.
fn outcome(id: i64) -> Outcome {
    Outcome {
        links: BTreeMap::from([(DefguardId(id), Some(link(id)))]),
        journal: vec![
            entry(id, 1, id, Change::Created),
            entry(id, 1, id, Change::DisplayName { before: None, after: Some(format!("Person Nr. {id}")) }),
        ],
        backoff: BTreeMap::from([(DefguardId(id), None), (DefguardId(id + 1), Some(backoff(1)))]),
        finished: BTreeSet::from([DefguardId(id)]),
        ..Outcome::default()
    }
}

fn pair() -> ServerPair {
    ServerPair {
        instance: Instance::new("hq"),
        defguard_url: "https://defguard.example.org/".to_owned(),
        server_name: server(),
    }
}

fn open(dir: &Path, random: u128) -> (SledStore, Opened) {
    SledStore::open(dir, &Identity::new(random)).unwrap()
}

/// A state directory in which something was recorded.
fn used() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (store, opened) = open(dir.path(), FIRST);
    assert_eq!(opened, Opened::New);
    store.begin(&intent(1)).unwrap();
    store.record(&outcome(1)).unwrap();
    dir
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).collect()
}

fn lost(opened: Opened) -> String {
    match opened {
        Opened::Lost { why } => why,
        other => panic!("the store was found {other:?}"),
    }
}

#[test]
fn what_was_recorded_is_there_after_the_store_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, opened) = open(dir.path(), FIRST);
    assert_eq!(opened, Opened::New);
    assert_eq!(store.next_run().unwrap(), RunId(1));
    store.begin(&intent(1)).unwrap();
    store.begin(&intent(7)).unwrap();
    store.record(&outcome(1)).unwrap();
    store.record(&outcome(3)).unwrap();
    store.add_run(&run(1, 5)).unwrap();
    drop(store);

    let (store, opened) = open(dir.path(), SECOND);
    assert_eq!(opened, Opened::Existing);
    assert_eq!(store.links().unwrap(), BTreeMap::from([(DefguardId(1), link(1)), (DefguardId(3), link(3))]));
    assert_eq!(store.intents().unwrap(), [intent(7)]);
    assert_eq!(store.backoff().unwrap().into_keys().collect::<Vec<_>>(), [DefguardId(2), DefguardId(4)]);
    assert_eq!(store.backoff().unwrap()[&DefguardId(2)], backoff(1));
    assert_eq!(store.next_run().unwrap(), RunId(2));
    assert_eq!(store.runs(10).unwrap(), [run(1, 5)]);
    let journal = [outcome(1).journal, outcome(3).journal].concat();
    assert_eq!(store.journal(&JournalFilter::default()).unwrap(), journal);
}

#[test]
fn a_link_that_is_recorded_as_none_is_gone() {
    let dir = used();
    let (store, _) = open(dir.path(), SECOND);
    let unlinked = Outcome { links: BTreeMap::from([(DefguardId(1), None)]), ..Outcome::default() };
    store.record(&unlinked).unwrap();
    assert_eq!(store.links().unwrap(), BTreeMap::new());
}

#[test]
fn a_link_under_the_id_of_another_person_is_refused_before_anything_is_written() {
    let dir = used();
    let (store, _) = open(dir.path(), SECOND);
    let mut wrong = outcome(2);
    wrong.links = BTreeMap::from([(DefguardId(2), Some(link(3)))]);
    assert!(store.record(&wrong).is_err());
    assert_eq!(store.links().unwrap().len(), 1);
    assert_eq!(store.journal(&JournalFilter::default()).unwrap(), outcome(1).journal);
}

#[test]
fn the_journal_gives_the_newest_lines_that_fit_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), FIRST);
    let lines: Vec<Entry> = (0..300)
        .map(|n| {
            let run = if n == 100 { None } else { Some(RunId(n / 50)) };
            Entry { run, ..entry((n % 3) as i64, 0, n as i64, Change::Created) }
        })
        .collect();
    for part in lines.chunks(7) {
        store.record(&Outcome { journal: part.to_vec(), ..Outcome::default() }).unwrap();
    }
    let ask = |run: Option<u64>, id: Option<i64>, limit| {
        store
            .journal(&JournalFilter { run: run.map(RunId), id: id.map(DefguardId), limit, since: None })
            .unwrap()
    };
    assert_eq!(ask(None, None, None), lines);
    assert_eq!(ask(None, None, Some(5)), lines[295..]);
    assert_eq!(ask(None, None, Some(0)), []);
    assert_eq!(ask(Some(2), None, None), lines[101..150]);
    assert_eq!(ask(Some(2), None, Some(2)), lines[148..150]);
    assert_eq!(ask(Some(9), None, None), []);
    let of_one: Vec<_> = lines.iter().filter(|line| line.id == DefguardId(1)).cloned().collect();
    assert_eq!(ask(None, Some(1), None), of_one);
    assert_eq!(ask(None, Some(1), Some(4)), of_one[of_one.len() - 4..]);
    assert!(ask(Some(2), Some(1), None).iter().all(|e| e.run == Some(RunId(2)) && e.id == DefguardId(1)));
}

#[test]
fn pruning_drops_what_is_older_and_keeps_the_rest_even_if_the_clock_was_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), FIRST);
    let future = entry(1, 1, 999_999, Change::Created);
    let journal: Vec<Entry> =
        std::iter::once(future.clone()).chain((0..2500).map(|n| entry(1, 1, n, Change::Created))).collect();
    store.record(&Outcome { journal, ..Outcome::default() }).unwrap();
    for n in 0..20_u8 {
        store.add_run(&run(u64::from(n), i64::from(n) * 100)).unwrap();
    }
    store.prune(at(1000)).unwrap();

    let left = store.journal(&JournalFilter::default()).unwrap();
    assert_eq!(left.len(), 1501);
    assert_eq!(left[0], future);
    assert_eq!(left[1].at, at(1000));
    let runs: Vec<_> = store.runs(100).unwrap().into_iter().map(|run| run.id.0).collect();
    assert_eq!(runs, (10..20).rev().collect::<Vec<_>>());
    assert_eq!(store.runs(1).unwrap()[0].id, RunId(19));

    drop(store);
    let (store, _) = open(dir.path(), SECOND);
    store
        .record(&Outcome { journal: vec![entry(1, 2, 5000, Change::Adopted)], ..Outcome::default() })
        .unwrap();
    assert_eq!(
        store.journal(&JournalFilter { limit: Some(1), ..Default::default() }).unwrap()[0].at,
        at(5000)
    );
}

#[test]
fn lines_recorded_by_several_workers_at_once_are_all_there_and_in_order_of_their_worker() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), FIRST);
    thread::scope(|scope| {
        for worker in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..25 {
                    let line = entry(worker, 1, n, Change::Created);
                    store
                        .record(&Outcome { journal: vec![line.clone(), line], ..Outcome::default() })
                        .unwrap();
                }
            });
        }
    });
    for worker in 0..4 {
        let filter = JournalFilter { id: Some(DefguardId(worker)), ..JournalFilter::default() };
        let times: Vec<_> = store.journal(&filter).unwrap().into_iter().map(|line| line.at).collect();
        let expected: Vec<_> = (0..25).flat_map(|n| [at(n), at(n)]).collect();
        assert_eq!(times, expected);
    }
}

#[test]
fn a_new_state_directory_is_closed_to_others() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    drop(open(&dir, FIRST));
    for dir in [dir.clone(), dir.join("store")] {
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700, "{}", dir.display());
    }
}

#[test]
fn a_state_directory_that_cannot_be_used_is_explained() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    for dir in [file.clone(), file.join("below")] {
        let failure = SledStore::open(&dir, &Identity::new(FIRST)).unwrap_err();
        assert_eq!(failure.class, FailureClass::Permanent);
        assert!(failure.why.contains(&*dir.to_string_lossy()), "{failure}");
        assert!(failure.mend.unwrap().contains("state.directory"));
    }
}

#[test]
fn a_second_process_is_told_to_use_the_control_socket() {
    let dir = used();
    let _first = open(dir.path(), SECOND);
    // A lock taken through another open file keeps out just as one of another process does.
    let failure =
        SledStore::open_within(dir.path(), &Identity::new(SECOND), Duration::from_millis(120)).unwrap_err();
    assert!(failure.why.contains("another process holds the store"), "{failure}");
    assert!(failure.why.contains("control socket"), "{failure}");
    assert_eq!(failure.class, FailureClass::Transient);
}

#[test]
fn a_process_that_is_just_ending_is_waited_for() {
    let dir = used();
    let (first, _) = open(dir.path(), SECOND);
    thread::scope(|scope| {
        let second = scope.spawn(|| open(dir.path(), SECOND));
        // However the two threads fall, the second can only get in after the first let go.
        first.record(&outcome(2)).unwrap();
        drop(first);
        let (second, opened) = second.join().unwrap();
        assert_eq!(opened, Opened::Existing);
        assert_eq!(second.links().unwrap().len(), 2);
    });
}

#[test]
fn an_unfinished_snapshot_does_not_keep_the_store_from_opening() {
    let dir = used();
    let leftover = dir.path().join("store/snap.00000000000FFFFF.generating");
    fs::write(&leftover, b"half").unwrap();
    let (store, opened) = open(dir.path(), SECOND);
    assert_eq!(opened, Opened::Existing);
    assert_eq!(store.links().unwrap().len(), 1);
    assert!(!leftover.exists());
}

#[test]
fn a_store_without_its_snapshot_is_lost_and_its_remains_are_kept() {
    let dir = used();
    for path in snapshots(dir.path()) {
        fs::remove_file(path).unwrap();
    }
    let before = fs::read(dir.path().join("store/db")).unwrap();
    let (store, opened) = open(dir.path(), SECOND);
    let why = lost(opened);
    assert!(why.contains("snapshot") && why.contains("store.lost-1"), "{why}");
    assert_eq!(store.links().unwrap(), BTreeMap::new());
    assert_eq!(fs::read(dir.path().join("store.lost-1/db")).unwrap(), before);
    drop(store);
    assert_eq!(open(dir.path(), FIRST).1, Opened::Existing);
}

#[test]
fn a_database_that_is_gone_is_lost_and_not_new() {
    let dir = used();
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    assert!(lost(open(dir.path(), SECOND).1).contains("gone"));
    assert_eq!(open(dir.path(), FIRST).1, Opened::Existing);
}

#[test]
fn a_database_from_elsewhere_is_set_aside_and_can_be_put_back() {
    for damage in [
        (|dir: &Path| fs::remove_file(dir.join("store.id")).unwrap()) as fn(&Path),
        |dir| fs::write(dir.join("store.id"), "").unwrap(),
        |dir| fs::write(dir.join("store.id"), [0xff, 0xfe]).unwrap(),
        |dir| fs::write(dir.join("store.id"), format!("{SECOND:032x}")).unwrap(),
    ] {
        let dir = used();
        damage(dir.path());
        let (store, opened) = open(dir.path(), SECOND);
        let why = lost(opened);
        assert!(why.contains("store.id") && why.contains("store.lost-1"), "{why}");
        assert_eq!(store.links().unwrap(), BTreeMap::new());
        drop(store);

        fs::rename(dir.path().join("store"), dir.path().join("store.new")).unwrap();
        fs::rename(dir.path().join("store.lost-1"), dir.path().join("store")).unwrap();
        fs::write(dir.path().join("store.id"), format!("{FIRST:032x}")).unwrap();
        let (store, opened) = open(dir.path(), SECOND);
        assert_eq!(opened, Opened::Existing);
        assert_eq!(store.links().unwrap().len(), 1);
    }
}

#[test]
fn a_store_whose_making_was_interrupted_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), FIRST);
    store.bind(&ServerPair { defguard_url: "https://other.example".to_owned(), ..pair() }).unwrap();
    drop(store);
    fs::remove_file(dir.path().join("store.id")).unwrap();
    let (store, opened) = open(dir.path(), SECOND);
    assert_eq!(opened, Opened::New);
    assert_eq!(store.bind(&pair()).unwrap(), Vec::<String>::new());
    drop(store);
    assert_eq!(open(dir.path(), FIRST).1, Opened::Existing);
}

#[test]
fn a_store_tells_how_another_pair_of_servers_differs_from_its_own() {
    let dir = used();
    let (store, _) = open(dir.path(), SECOND);
    store.bind(&pair()).unwrap();
    assert_eq!(store.bind(&pair()).unwrap(), Vec::<String>::new());
    drop(store);

    let (store, _) = open(dir.path(), SECOND);
    let other = ServerPair { server_name: ServerName::try_from("example.net").unwrap(), ..pair() };
    assert_eq!(store.bind(&other).unwrap(), ["the homeserver was `example.org` and is `example.net`"]);
    assert_eq!(store.bind(&pair()).unwrap(), Vec::<String>::new(), "it stays tied to its own");
}

#[test]
fn what_a_store_knows_about_itself_survives_and_its_id_too() {
    let dir = used();
    let (store, _) = open(dir.path(), FIRST);
    let id = store.id();
    assert!(!id.is_empty());
    assert_eq!(store.standing().unwrap(), Standing::default());
    let standing = Standing { generation: 7, lost: Some("why".to_owned()), ..Standing::default() };
    store.set_standing(&standing).unwrap();
    drop(store);
    let (store, _) = open(dir.path(), SECOND);
    assert_eq!((store.id(), store.standing().unwrap()), (id, standing));
}

/// Opens the database below the store's feet. After a close, sled's lock can be held for some milliseconds more, and
/// nothing tells when it is free; the store itself tries again for the same reason.
fn raw(dir: &Path) -> sled::Db {
    for _ in 0..500 {
        match sled::open(dir.join("store")) {
            Ok(db) => return db,
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the lock of the database never became free");
}

#[test]
fn the_store_of_a_newer_version_is_refused() {
    let dir = used();
    let db = raw(dir.path());
    db.open_tree("meta").unwrap().insert("schema", b"\x012").unwrap();
    drop(db);
    let failure = SledStore::open(dir.path(), &Identity::new(SECOND)).unwrap_err();
    assert!(failure.why.contains("version 2"), "{failure}");
    assert!(failure.mend.unwrap().contains("newer"));
}

#[test]
fn a_value_that_cannot_be_read_is_an_error_with_its_place_and_stays_there() {
    let key = |id: u64| (id ^ (1 << 63)).to_be_bytes();
    for (tree, key, name) in [
        ("links", key(1), "1"),
        ("intents", key(4), "4"),
        ("backoff", key(2), "2"),
        ("journal", 1_u64.to_be_bytes(), "1"),
        ("runs", 1_u64.to_be_bytes(), "1"),
    ] {
        let dir = used();
        let (store, _) = open(dir.path(), SECOND);
        store.begin(&intent(4)).unwrap();
        store.add_run(&run(1, 0)).unwrap();
        drop(store);
        let db = raw(dir.path());
        let values = db.open_tree(tree).unwrap();
        let whole = values.get(key).unwrap().unwrap();
        let cut = whole[..whole.len() - 1].to_vec();
        values.insert(key, cut.clone()).unwrap();
        drop((values, db));

        let (store, opened) = open(dir.path(), SECOND);
        assert_eq!(opened, Opened::Existing);
        let failure = match tree {
            "links" => store.links().unwrap_err(),
            "intents" => store.intents().unwrap_err(),
            "backoff" => store.backoff().unwrap_err(),
            "runs" => store.runs(5).unwrap_err(),
            _ => store.journal(&JournalFilter::default()).unwrap_err(),
        };
        assert_eq!(failure.what, format!("reading `{name}` in `{tree}`"));
        assert_eq!(store.prune(at(1_000_000)).is_err(), ["journal", "runs"].contains(&tree));
        drop(store);
        assert_eq!(raw(dir.path()).open_tree(tree).unwrap().get(key).unwrap().unwrap(), cut);
    }
}

#[test]
fn a_damaged_database_is_an_error_that_says_what_to_do_and_deletes_nothing() {
    for file in ["db", "conf", "snap."] {
        let dir = used();
        let path = if file == "snap." {
            snapshots(dir.path()).remove(0)
        } else {
            dir.path().join("store").join(file)
        };
        let mut bytes = fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(50) {
            bytes[at] ^= 0x10;
        }
        fs::write(&path, &bytes).unwrap();
        let failure = SledStore::open(dir.path(), &Identity::new(SECOND)).unwrap_err();
        assert_eq!(
            (failure.class, &*failure.what),
            (FailureClass::Permanent, "opening the store"),
            "{failure}"
        );
        assert!(failure.mend.unwrap().contains("ownership markers"));
        assert_eq!(fs::read(&path).unwrap(), bytes, "{file}");
    }
}

/// How often the writing process is killed.
const KILLS: u64 = 16;
/// How many workers it has.
const WORKERS: i64 = 3;
/// The ids of one worker's people begin here.
const SPREAD: i64 = 1_000_000;

/// Not a test: the process that is killed. Each line that it prints says what the store has acknowledged.
#[test]
#[ignore = "run by the test that kills it, in a process of its own"]
fn writer_that_is_killed() {
    let dir = PathBuf::from(std::env::var_os("STORE_DIR").expect("run by the test that kills it"));
    let (store, opened) = open(&dir, FIRST);
    println!("opened {opened:?}");
    let links = store.links().unwrap();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (store, range) = (&store, worker * SPREAD..(worker + 1) * SPREAD);
            let begin = links.range(DefguardId(range.start)..DefguardId(range.end)).next_back();
            let begin = begin.map_or(range.start, |(id, _)| id.0 + 2);
            scope.spawn(move || {
                for id in (begin..).step_by(2) {
                    store.begin(&intent(id)).unwrap();
                    println!("begun {id}");
                    store.record(&outcome(id)).unwrap();
                    println!("recorded {id}");
                }
            });
        }
    });
}

fn start_writer(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_that_is_killed", "--ignored", "--nocapture"])
        .env("STORE_DIR", dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_any_point_the_store_has_all_that_it_acknowledged_and_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(20);
    let (mut begun, mut recorded) = (BTreeSet::new(), BTreeSet::new());
    for kill in 0..KILLS {
        let mut writer = start_writer(dir.path());
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        // Every other time it is killed at any moment, which can be while it opens the store; else after so many
        // acknowledgements.
        let mut left = if kill % 2 == 1 { 0 } else { random.random_range(1..60) };
        if left == 0 {
            thread::sleep(Duration::from_micros(random.random_range(0..25_000)));
        }
        while left > 0 {
            let line = lines.next().expect("the writer ended by itself").unwrap();
            left -= i32::from(take_note(&line, &mut begun, &mut recorded));
        }
        writer.kill().unwrap();
        // What it had still said before it died counts.
        for line in lines {
            take_note(&line.unwrap(), &mut begun, &mut recorded);
        }
        writer.wait().unwrap();

        let (store, opened) = open(dir.path(), SECOND);
        assert_eq!(opened, Opened::Existing, "after kill {kill}");
        check(&store, &mut begun, &mut recorded);
    }
    assert!(recorded.len() > KILLS as usize, "only {} outcomes were recorded", recorded.len());
}

fn take_note(line: &str, begun: &mut BTreeSet<i64>, recorded: &mut BTreeSet<i64>) -> bool {
    // A last line that was cut in its number would be taken for another one; a line is whole with its line end only,
    // and one `println!` is one write here, so there are no such lines.
    match line.split_once(' ') {
        Some(("begun", id)) => begun.insert(id.parse().unwrap()),
        Some(("recorded", id)) => recorded.insert(id.parse().unwrap()),
        _ => false,
    }
}

/// Compares what is there with what was acknowledged, and takes note of what is there beyond that: it was written,
/// and its acknowledgement killed on the way.
fn check(store: &SledStore, begun: &mut BTreeSet<i64>, recorded: &mut BTreeSet<i64>) {
    let links = store.links().unwrap();
    let journal = store.journal(&JournalFilter::default()).unwrap();
    let backoff = store.backoff().unwrap();
    let intents: BTreeSet<i64> = store.intents().unwrap().iter().map(|intent| intent.group.0).collect();

    let linked: BTreeSet<i64> = links.keys().map(|id| id.0).collect();
    assert!(recorded.is_subset(&linked), "acknowledged and gone: {:?}", recorded.difference(&linked));
    assert!((linked.len() - recorded.len()) as i64 <= WORKERS);
    recorded.clone_from(&linked);

    let mut lines: BTreeMap<i64, Vec<Entry>> = BTreeMap::new();
    for line in journal {
        lines.entry(line.id.0).or_default().push(line);
    }
    assert_eq!(lines.keys().copied().collect::<BTreeSet<_>>(), linked);
    for id in &linked {
        assert_eq!(links[&DefguardId(*id)], link(*id));
        assert_eq!(lines[id], outcome(*id).journal);
        assert!(backoff.contains_key(&DefguardId(id + 1)));
        assert!(!intents.contains(id), "{id} is recorded and its intent is still there");
    }
    assert_eq!(backoff.len(), linked.len());

    let open: BTreeSet<i64> = begun.difference(&linked).copied().collect();
    assert!(open.is_subset(&intents), "begun and forgotten: {:?}", open.difference(&intents));
    begun.extend(intents);
}
