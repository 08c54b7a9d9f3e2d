//! The cases of [`Notices`], and its laws.

use proptest::prelude::*;

use super::*;
use crate::domain::{Conflict, Harm, HeldStep, HoldReason, Mxid, ServerName, Username};

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + minute * 60, 0).unwrap()
}

fn mxid(id: i64) -> Mxid {
    let server = ServerName::try_from("example.org").unwrap();
    Mxid::parse(&format!("@u{id}:example.org"), &server).unwrap()
}

fn held(ids: &[i64], since: i64) -> Held {
    let steps: BTreeSet<HeldStep> = ids
        .iter()
        .map(|id| HeldStep {
            id: DefguardId(*id),
            mxid: mxid(*id),
            harm: Harm::LockGone,
            target: String::new(),
        })
        .collect();
    let reasons = vec![HoldReason { why: "many".to_owned(), mend: "look".to_owned() }];
    Held { digest: Some(Held::digest_of(&steps)), since: at(since), reasons, steps }
}

fn standoffs(people: &[(i64, i64)]) -> BTreeMap<DefguardId, Standoff> {
    let standoff = |id: i64, since: i64| Standoff {
        username: Username::new(format!("secret-name-{id}")),
        conflicts: vec![Conflict::Vanished { mxid: mxid(id) }],
        fingerprint: String::new(),
        since: at(since),
    };
    people.iter().map(|(id, since)| (DefguardId(*id), standoff(*id, *since))).collect()
}

fn well() -> Sight {
    Sight { held: None, source: Source::Usable, conflicts: BTreeMap::new() }
}

fn down() -> Sight {
    Sight { source: Source::Unusable("no answer in time".to_owned()), ..well() }
}

struct Room {
    notices: Notices,
}

impl Room {
    fn new() -> Self {
        Self { notices: Notices::new(TimeDelta::hours(1), &BTreeMap::new()) }
    }

    /// What is said after a run at that minute.
    fn run(&mut self, minute: i64, sight: Sight) -> Option<String> {
        self.notices.observe(sight, at(minute));
        self.look(minute)
    }

    fn look(&mut self, minute: i64) -> Option<String> {
        let notice = self.notices.due(at(minute))?;
        self.notices.tried(&notice, true, at(minute));
        Some(notice.text)
    }
}

#[test]
fn what_is_held_is_said_once_with_the_command_that_lets_it_run() {
    let mut room = Room::new();
    let sight = |ids: &[i64]| Sight { held: Some(held(ids, 3)), ..well() };
    let text = room.run(5, sight(&[1, 2])).unwrap();
    insta::assert_snapshot!(text, @r"
    The guard has been holding a part of the plan since 2027-01-15 08:03 UTC.
    - 2 accounts would be locked because their owners are gone
    - why: many; look
    See it with: defguard-synapse-sync plan
    If it is right: defguard-synapse-sync approve a9d48d305901
    ");
    assert_eq!(room.run(10, sight(&[1, 2])), None);
    // Other steps are other news, but the same matter.
    assert_eq!(room.run(14, sight(&[1, 2, 3])), None);
    assert!(room.look(15).unwrap().contains("3 accounts"));
    assert_eq!(room.run(40, well()), None);
}

#[test]
fn defguard_is_reported_after_an_hour_and_when_it_is_back() {
    let mut room = Room::new();
    assert_eq!(room.run(0, down()), None);
    assert_eq!(room.run(55, down()), None);
    assert!(room.look(60).unwrap().contains("since 2027-01-15 08:00 UTC"));
    assert_eq!(room.run(200, down()), None);
    // A run that did not come so far says nothing about it.
    assert_eq!(room.run(205, Sight { source: Source::Unknown, ..well() }), None);
    insta::assert_snapshot!(room.run(210, well()).unwrap(), @"Defguard can be used again; it could not since 2027-01-15 08:00 UTC.");
    assert_eq!(room.run(215, well()), None);
    // A short one is not worth a word.
    assert_eq!((room.run(220, down()), room.run(250, well())), (None, None));
    assert_eq!(room.run(251, down()), None);
    assert_eq!(room.run(300, down()), None);
    assert!(room.run(311, down()).is_some());
}

#[test]
fn conflicts_are_gathered_and_each_is_said_once() {
    let mut room = Room::new();
    let sight = |people: &[(i64, i64)]| Sight { conflicts: standoffs(people), ..well() };
    let text = room.run(0, sight(&[(1, 0)])).unwrap();
    insta::assert_snapshot!(text, @r"
    1 person is newly in conflict:
    - #1: vanished
    See each with: defguard-synapse-sync explain '#NUMBER'
    ");
    assert_eq!(room.run(3, sight(&[(1, 0), (2, 3)])), None);
    assert_eq!(room.run(6, sight(&[(1, 0), (2, 3), (3, 6)])), None);
    let text = room.look(10).unwrap();
    assert!(text.starts_with("2 people are newly in conflict (3 in all):\n- #2"), "{text}");
    assert_eq!(room.run(60, sight(&[(1, 0)])), None);
    assert!(room.run(65, sight(&[(2, 65)])).unwrap().contains("#2"));
    let many: Vec<(i64, i64)> = (10..40).map(|id| (id, 80)).collect();
    let text = room.run(80, sight(&many)).unwrap();
    assert!(text.contains("30 people") && text.contains("and 20 more") && text.len() < 600, "{text}");
    assert!(!text.contains("secret-name"));
}

#[test]
fn conflicts_from_before_the_start_are_no_news() {
    let before = standoffs(&[(1, 0), (2, 0)]);
    let mut room = Room { notices: Notices::new(TimeDelta::hours(1), &before) };
    let sight = |people: &[(i64, i64)]| Sight { conflicts: standoffs(people), ..well() };
    assert_eq!(room.run(5, sight(&[(1, 0), (2, 0)])), None);
    assert!(room.run(10, sight(&[(1, 0), (2, 10)])).unwrap().contains("#2"));
}

#[test]
fn several_matters_are_one_message_and_another_matter_does_not_wait() {
    let mut room = Room::new();
    let both = Sight { held: Some(held(&[1], 0)), conflicts: standoffs(&[(2, 0)]), ..well() };
    let text = room.run(0, both.clone()).unwrap();
    assert!(text.contains("guard") && text.contains("#2"), "{text}");
    let mut room = Room::new();
    assert!(room.run(0, Sight { held: None, ..both.clone() }).unwrap().contains("#2"));
    assert!(room.run(1, both).unwrap().contains("guard"));
}

#[test]
fn what_could_not_be_said_is_said_later() {
    let mut notices = Notices::new(TimeDelta::hours(1), &BTreeMap::new());
    notices.observe(Sight { held: Some(held(&[1], 0)), ..well() }, at(0));
    let first = notices.due(at(0)).unwrap();
    notices.tried(&first, false, at(0));
    assert_eq!(notices.due(at(9)), None);
    let second = notices.due(at(10)).unwrap();
    assert_eq!(second, first);
    notices.tried(&second, true, at(10));
    assert_eq!(notices.due(at(100)), None);
    // After a start it has the same key, by which the homeserver knows that it was said.
    let mut again = Notices::new(TimeDelta::hours(1), &BTreeMap::new());
    again.observe(Sight { held: Some(held(&[1], 0)), ..well() }, at(20));
    assert_eq!(again.due(at(20)).unwrap().key, first.key);
}

fn sight() -> impl Strategy<Value = Sight> {
    let source = prop_oneof![
        3 => Just(Source::Usable),
        2 => Just(Source::Unusable("why".to_owned())),
        1 => Just(Source::Unknown),
    ];
    let hold = proptest::option::of((proptest::collection::vec(0_i64..3, 1..3), 0_i64..3));
    let conflicts = proptest::collection::vec((0_i64..4, 0_i64..3), 0..4);
    (source, hold, conflicts).prop_map(|(source, hold, conflicts)| Sight {
        source,
        held: hold.map(|(ids, since)| held(&ids, since)),
        conflicts: standoffs(&conflicts),
    })
}

proptest! {
    /// About one matter there are never two messages within ten minutes; whatever lasts is told in the end, and then
    /// nothing is told any more.
    #[test]
    fn no_matter_is_told_twice_in_ten_minutes_and_nothing_that_lasts_is_left_untold(
        runs in proptest::collection::vec((sight(), 0_i64..30, any::<bool>()), 1..40),
    ) {
        let mut notices = Notices::new(TimeDelta::hours(1), &BTreeMap::new());
        let mut now = 0;
        let mut said: BTreeMap<Matter, DateTime<Utc>> = BTreeMap::new();
        let mut say = |notices: &mut Notices, now: i64, heard: bool| {
            let Some(notice) = notices.due(at(now)) else { return Ok(false) };
            prop_assert!(!notice.text.is_empty());
            for matter in &notice.matters {
                if let Some(before) = said.insert(*matter, at(now)) {
                    prop_assert!(at(now) - before >= PAUSE, "{matter:?}");
                }
            }
            notices.tried(&notice, heard, at(now));
            Ok(true)
        };
        let last = runs.last().unwrap().0.clone();
        for (sight, pause, heard) in runs {
            now += pause;
            notices.observe(sight, at(now));
            say(&mut notices, now, heard)?;
        }
        for _ in 0..30 {
            now += 10;
            notices.observe(last.clone(), at(now));
            say(&mut notices, now, true)?;
        }
        let told: BTreeSet<News> = notices.news(at(now));
        prop_assert!(told.is_subset(&notices.told), "{:?}", notices);
        now += 10;
        prop_assert!(!say(&mut notices, now, true)?);
    }
}
