//! Stories that went wrong once, each with the smallest number of people that showed it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;

use chrono::TimeDelta;
use defguard_synapse_sync::{
    domain::{Change, Conflict, DefguardId, OnConflict},
    engine::{RunReport, RunRequest},
    reconcile::{Pass, State as Word},
};
use support::world::{Event, Extra, Fault, Kind, LISTING, Policies, World, login_id, marker, mxid};

fn joins(username: &str) -> Event {
    Event::Joins { username: username.to_owned(), email: format!("{username}@x.org") }
}

fn renamed(id: i64, username: &str) -> Event {
    Event::Renamed(DefguardId(id), username.to_owned())
}

fn hand_made(localpart: &str) -> Event {
    Event::HandMade { localpart: localpart.to_owned(), email: None, kind: Kind::Plain }
}

/// A world in which this has happened.
fn world(events: &[Event]) -> World {
    let world = World::new();
    happen(&world, events);
    world
}

fn happen(world: &World, events: &[Event]) {
    let mut state = world.state();
    state.now += TimeDelta::hours(1);
    for event in events {
        state.happens(event);
    }
}

fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

/// One frequent run in which this goes wrong.
async fn faulty(world: &World, policies: &Policies, faults: &[(usize, Fault)]) -> Option<RunReport> {
    let faults: BTreeMap<usize, Fault> = faults.iter().cloned().collect();
    world.run(policies, &RunRequest::everybody(Pass::Frequent), faults).await
}

/// How often the journal says that this account was made.
fn told_creations(world: &World, localpart: &str) -> usize {
    let state = world.state();
    let entries = state.journal.iter().filter(|entry| entry.mxid == mxid(localpart));
    entries.filter(|entry| entry.change == Change::Created).count()
}

fn opens(world: &World, subject: &str) -> Option<String> {
    world.state().opens(subject).map(|mxid| mxid.localpart().to_owned())
}

/// Accounts are made with an empty request first.
const EMPTY_FIRST: Policies = Policies {
    on_conflict: OnConflict::Report,
    display_name: defguard_synapse_sync::domain::FieldPolicy::OnChange,
    email: defguard_synapse_sync::domain::FieldPolicy::Enforce,
    open_registration: true,
    concurrency: 1,
};

#[test]
fn an_account_that_turns_up_at_any_moment_of_a_run_is_never_linked() {
    now(async {
        for policies in [EMPTY_FIRST, Policies { open_registration: false, ..EMPTY_FIRST }] {
            for at in 1..20 {
                // What takes our ids off again fails once as well.
                for cut in [None, Some(at + 1), Some(at + 2), Some(at + 3)] {
                    let world = world(&[joins("ann")]);
                    let mut faults = vec![(at, Fault::Happens(hand_made("ann")))];
                    faults.extend(cut.map(|cut| (cut, Fault::Cut)));
                    faulty(&world, &policies, &faults).await;
                    if world.state().made.contains(&mxid("ann"))
                        || !world.state().accounts.contains_key(&mxid("ann"))
                    {
                        continue;
                    }
                    for pass in [Pass::Frequent, Pass::Full] {
                        world.calm(&policies, pass).await;
                    }
                    let state = world.state();
                    let account = &state.accounts[&mxid("ann")];
                    assert!(account.external_ids.is_empty(), "at {at}, cut {cut:?}");
                    assert!(state.links.is_empty(), "at {at}, cut {cut:?}");
                    assert_eq!(told_creations_of(&state.journal), 0);
                }
            }
        }
    });
}

fn told_creations_of(journal: &[defguard_synapse_sync::domain::Entry]) -> usize {
    journal.iter().filter(|entry| entry.change == Change::Created).count()
}

#[test]
fn an_account_made_by_hand_after_a_refused_creation_is_not_taken_for_ours() {
    now(async {
        for fault in [Fault::Refused, Fault::Unauthorised, Fault::CrashBefore] {
            for at in 4..16 {
                let world = world(&[joins("ann")]);
                faulty(&world, &EMPTY_FIRST, &[(at, fault.clone())]).await;
                if world.state().accounts.contains_key(&mxid("ann")) {
                    continue;
                }
                happen(&world, &[hand_made("ann")]);
                let report = world.calm(&EMPTY_FIRST, Pass::Frequent).await;
                assert_eq!(report.people[0].state, Word::Conflict, "{fault:?} at {at}");
                assert!(world.state().accounts[&mxid("ann")].external_ids.is_empty());
            }
        }
    });
}

#[test]
fn a_creation_cut_short_twice_is_finished_with_its_name_and_told_once() {
    now(async {
        let mut finished = 0;
        for first in 4..20 {
            for second in 1..24 {
                let world = world(&[joins("ann"), Event::NewName(DefguardId(1), "Ann Smith".to_owned())]);
                let one = faulty(&world, &EMPTY_FIRST, &[(first, Fault::CrashAfter)]).await;
                let two = faulty(&world, &EMPTY_FIRST, &[(second, Fault::CrashBefore)]).await;
                finished += usize::from(one.is_none() && two.is_none());
                world.calm(&EMPTY_FIRST, Pass::Frequent).await;
                let state = world.state();
                let account = &state.accounts[&mxid("ann")];
                assert_eq!(account.summary.display_name.as_deref(), Some("Ann Smith"), "{first}, {second}");
                assert!(
                    account.external_ids.contains(&marker(1))
                        && account.external_ids.contains(&login_id("ann"))
                );
                drop(state);
                assert_eq!(told_creations(&world, "ann"), 1, "{first}, {second}");
            }
        }
        assert!(finished > 50, "both runs were cut short often enough: {finished}");
    });
}

#[test]
fn a_write_whose_reply_was_lost_is_in_the_journal() {
    now(async {
        let policies = Policies { concurrency: 1, ..Policies::default() };
        let mut told = 0;
        for at in 4..16 {
            let world = world(&[joins("ann")]);
            world.calm(&policies, Pass::Frequent).await;
            happen(&world, &[renamed(1, "anna")]);
            faulty(&world, &policies, &[(at, Fault::ReplyLost)]).await;
            let state = world.state();
            let writes = state.writes.iter().filter(|write| {
                write
                    .before
                    .as_ref()
                    .zip(write.after.as_ref())
                    .is_some_and(|(was, is)| was.external_ids != is.external_ids)
            });
            let entries = state
                .journal
                .iter()
                .filter(|entry| matches!(entry.change, Change::ExternalIds { .. }))
                .count();
            assert_eq!(writes.count(), entries, "at {at}");
            told += entries;
        }
        assert!(told > 12, "the rename was written: {told}");
    });
}

#[test]
fn whoever_gets_no_account_does_not_open_that_of_a_renamed_person_who_is_blocked() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann")]);
        world.calm(&policies, Pass::Frequent).await;
        // Somebody logs in as `anna` with an account of their own, then Ann is renamed to that name and another comes.
        happen(&world, &[joins("anna"), Event::LogsIn(DefguardId(2)), Event::Leaves(DefguardId(2))]);
        happen(&world, &[renamed(1, "anna"), joins("ann")]);
        let report = world.calm(&policies, Pass::Frequent).await;
        let kinds: Vec<&str> =
            report.people.iter().flat_map(|person| &person.conflicts).map(Conflict::kind).collect();
        assert_eq!(kinds, ["subject_taken", "localpart_taken"]);
        assert_eq!(opens(&world, "ann"), None);
    });
}

#[test]
fn a_conflict_does_not_hide_work_that_was_not_done() {
    now(async {
        let policies = Policies { concurrency: 1, ..Policies::default() };
        let world = world(&[joins("ann")]);
        world.calm(&policies, Pass::Frequent).await;
        let taken = Event::HandMade {
            localpart: "shop".to_owned(),
            email: Some("shop@x.org".to_owned()),
            kind: Kind::Plain,
        };
        happen(&world, &[taken, renamed(1, "anna"), Event::NewEmail(DefguardId(1), "shop@x.org".to_owned())]);
        let before = world.fork();
        faulty(&before, &policies, &[]).await;
        for at in 1..=before.calls() {
            let world = world.fork();
            faulty(&world, &policies, &[(at, Fault::Unauthorised)]).await;
            world.calm(&policies, Pass::Frequent).await;
            assert_eq!(opens(&world, "anna").as_deref(), Some("ann"), "at {at}");
            assert_eq!(opens(&world, "ann"), None, "at {at}");
        }
    });
}

#[test]
fn a_conflict_found_on_an_incomplete_listing_does_not_hide_a_rename() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann")]);
        world.calm(&policies, Pass::Frequent).await;
        let taken = Event::HandMade {
            localpart: "shop".to_owned(),
            email: Some("shop@x.org".to_owned()),
            kind: Kind::Plain,
        };
        happen(&world, &[taken, renamed(1, "anna"), Event::NewEmail(DefguardId(1), "shop@x.org".to_owned())]);
        faulty(&world, &policies, &[(LISTING, Fault::Missing(DefguardId(9)))]).await;
        assert_eq!(opens(&world, "anna"), None, "an incomplete listing changes no external id");
        world.calm(&policies, Pass::Frequent).await;
        assert_eq!(opens(&world, "anna").as_deref(), Some("ann"));
    });
}

#[test]
fn a_group_that_is_cut_short_does_not_forget_the_moves_of_an_earlier_one() {
    now(async {
        let policies = Policies { concurrency: 1, ..Policies::default() };
        let start = world(&[joins("ann"), joins("bob"), joins("cid")]);
        start.calm(&policies, Pass::Frequent).await;
        // All old logins have been used, so Synapse has them in its cache.
        happen(&start, &[1, 2, 3].map(|id| Event::LogsIn(DefguardId(id))));
        happen(&start, &[Event::NamesGoRound([1, 2, 3].map(DefguardId).to_vec())]);
        let calm = start.fork();
        faulty(&calm, &policies, &[]).await;
        for first in 1..=calm.calls() {
            let world = start.fork();
            faulty(&world, &policies, &[(first, Fault::CrashAfter)]).await;
            // Before the next run the names change again, so that nobody takes what was left behind.
            happen(&world, &[renamed(1, "dan"), renamed(2, "eve"), renamed(3, "fay")]);
            world.calm(&policies, Pass::Frequent).await;
            for (subject, own) in [("dan", "ann"), ("eve", "bob"), ("fay", "cid")] {
                assert_eq!(opens(&world, subject).as_deref(), Some(own), "after a crash at {first}");
            }
            for old in ["ann", "bob", "cid"] {
                assert_eq!(opens(&world, old), None, "{old} still opens an account after a crash at {first}");
            }
        }
    });
}

#[test]
fn a_move_is_kept_in_mind_while_others_of_its_group_fail_again() {
    use defguard_synapse_sync::domain::{Backoff, Failure, FailureClass, Peer};

    now(async {
        let policies = Policies { concurrency: 1, ..Policies::default() };
        let start = world(&[joins("ann"), joins("bob"), joins("cid")]);
        start.calm(&policies, Pass::Frequent).await;
        happen(&start, &[1, 2, 3].map(|id| Event::LogsIn(DefguardId(id))));
        happen(&start, &[Event::NamesGoRound([1, 2, 3].map(DefguardId).to_vec())]);
        let calm = start.fork();
        faulty(&calm, &policies, &[]).await;
        for first in 10..=calm.calls() {
            let cut = start.fork();
            faulty(&cut, &policies, &[(first, Fault::CrashAfter)]).await;
            happen(&cut, &[renamed(1, "dan"), renamed(2, "eve"), renamed(3, "fay")]);
            for late in [1, 2, 3].map(DefguardId) {
                for second in (5..24).step_by(2) {
                    let world = cut.fork();
                    let begun = world.state().now;
                    let backoff = Backoff {
                        failures: 1,
                        until: begun + TimeDelta::hours(20),
                        since: begun,
                        last: Failure::new(
                            Peer::Synapse,
                            FailureClass::Transient,
                            "a call",
                            "before the story",
                        ),
                    };
                    world.state().backoff.insert(late, backoff);
                    faulty(&world, &policies, &[(second, Fault::CrashAfter)]).await;
                    for pass in [Pass::Frequent, Pass::Frequent] {
                        world.calm(&policies, pass).await;
                    }
                    for old in ["ann", "bob", "cid"] {
                        assert_eq!(opens(&world, old), None, "{old} after {first}, {second} without #{late}");
                    }
                }
            }
        }
    });
}

#[test]
fn nothing_of_others_is_lost_when_a_renamed_person_swaps_back() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann"), joins("bob")]);
        world.calm(&policies, Pass::Frequent).await;
        let people = [1, 2].map(DefguardId).to_vec();
        happen(
            &world,
            &[
                Event::Foreign("ann".to_owned(), Extra::OtherProvider(0)),
                Event::Foreign("ann".to_owned(), Extra::Email(0)),
                Event::Foreign("bob".to_owned(), Extra::Phone(0)),
            ],
        );
        for _ in 0..2 {
            happen(&world, &[Event::NamesGoRound(people.clone()), Event::EmailsGoRound(people.clone())]);
            world.calm(&policies, Pass::Frequent).await;
        }
        let state = world.state();
        assert_eq!(state.accounts[&mxid("ann")].external_ids.len(), 3);
        assert_eq!(state.accounts[&mxid("ann")].threepids.len(), 2);
        assert_eq!(state.accounts[&mxid("bob")].threepids.len(), 2);
    });
}
