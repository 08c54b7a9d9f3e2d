//! Stories that went wrong once, each with the smallest number of people that showed it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;

use chrono::TimeDelta;
use defguard_synapse_sync::{
    domain::{
        Backoff, Change, Conflict, CreateMode, DefguardId, Failure, FailureClass, GuardLimits, OnConflict,
        OnLeave, Peer,
    },
    engine::{Progress, RunReport, RunRequest},
    reconcile::{ByHand, Pass, State as Word},
};
use support::world::{
    Event, Extra, Fault, Kind, LISTING, NO_LIMITS, Policies, World, happen, login_id, marker, mxid, now,
    world,
};

fn joins(username: &str) -> Event {
    Event::Joins { username: username.to_owned(), email: format!("{username}@x.org") }
}

fn renamed(id: i64, username: &str) -> Event {
    Event::Renamed(DefguardId(id), username.to_owned())
}

fn hand_made(localpart: &str) -> Event {
    Event::HandMade { localpart: localpart.to_owned(), email: None, kind: Kind::Plain }
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

/// One after the other.
const IN_TURN: Policies = Policies {
    on_conflict: OnConflict::Report,
    display_name: defguard_synapse_sync::domain::FieldPolicy::OnChange,
    email: defguard_synapse_sync::domain::FieldPolicy::Enforce,
    open_registration: false,
    create: CreateMode::EmptyFirst,
    concurrency: 1,
    on_leave: OnLeave::Lock,
    sessions_on_lock: None,
    deactivate_after_days: None,
    guard: NO_LIMITS,
};

#[test]
fn an_account_that_turns_up_at_any_moment_of_a_run_is_never_linked() {
    now(async {
        for policies in [IN_TURN, Policies { create: CreateMode::OneRequest, ..IN_TURN }] {
            for at in 1..20 {
                // What takes our ids off again fails once as well. (If the store cannot be written to at that moment, it is
                // as with a crash: an account made in the same minutes cannot be told from our own.)
                for cut in [None, Some(at + 1), Some(at + 2), Some(at + 3)] {
                    let world = world(&[joins("ann")]);
                    let mut faults = vec![(at, Fault::Happens(hand_made("ann")))];
                    faults.extend(cut.map(|cut| (cut, Fault::RateLimited)));
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
                faulty(&world, &IN_TURN, &[(at, fault.clone())]).await;
                if world.state().accounts.contains_key(&mxid("ann")) {
                    continue;
                }
                happen(&world, &[hand_made("ann")]);
                let report = world.calm(&IN_TURN, Pass::Frequent).await;
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
                let one = faulty(&world, &IN_TURN, &[(first, Fault::CrashAfter)]).await;
                let two = faulty(&world, &IN_TURN, &[(second, Fault::CrashBefore)]).await;
                finished += usize::from(one.is_none() && two.is_none());
                world.calm(&IN_TURN, Pass::Frequent).await;
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
        for at in 4..24 {
            let world = world(&[joins("ann")]);
            world.calm(&policies, Pass::Frequent).await;
            happen(&world, &[renamed(1, "anna")]);
            let before = world.state().writes.len();
            faulty(&world, &policies, &[(at, Fault::ReplyLost)]).await;
            let state = world.state();
            let writes = state.writes[before..].iter().filter(|write| {
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

fn link(person: &str, localpart: &str) -> ByHand {
    ByHand::Link { person: person.to_owned(), mxid: mxid(localpart).as_str().to_owned() }
}

/// Ann logged in before there was a sync, and an admin made another account for her.
fn two_accounts() -> World {
    let ann = Event::Joins { username: "ann".to_owned(), email: String::new() };
    world(&[hand_made("wanted"), ann, Event::LogsIn(DefguardId(1))])
}

#[test]
fn a_link_by_hand_that_is_cut_short_is_finished_by_the_next_sync() {
    now(async {
        for cut in ["ann", "wanted"] {
            let world = two_accounts();
            let engine = world.engine(&IN_TURN);
            world.state().unreachable = Some(mxid(cut));
            engine.by_hand(&link("ann", "wanted"), true, None, &()).await.unwrap_err();
            world.state().unreachable = None;
            world.state().backoff.clear();
            if cut == "ann" {
                // Nothing was done: her login is still on the first account, which only a person can settle.
                let done = engine.by_hand(&link("ann", "wanted"), true, None, &()).await.unwrap();
                assert_eq!(done.refused, None);
            }
            world.calm(&IN_TURN, Pass::Frequent).await;
            let report = world.calm(&IN_TURN, Pass::Frequent).await;
            assert_eq!(report.people[0].state, Word::InStep, "{cut}");
            assert_eq!(opens(&world, "ann").as_deref(), Some("wanted"), "{cut}");
            assert!(world.state().intents.is_empty(), "{cut}");
        }
    });
}

#[test]
fn a_link_by_hand_that_ends_at_any_moment_leaves_no_login_that_opens_the_wrong_account() {
    now(async {
        for at in 1..40 {
            for renamed_meanwhile in [false, true] {
                let world = two_accounts();
                let probe = world
                    .by_hand(&IN_TURN, &link("ann", "wanted"), BTreeMap::from([(at, Fault::CrashAfter)]))
                    .await;
                let begun = world.state().links.contains_key(&DefguardId(1));
                // Somebody tries the name, so Synapse has in its cache what it opened at that moment.
                happen(&world, &[Event::TriesName("ann".to_owned())]);
                if renamed_meanwhile {
                    happen(&world, &[renamed(1, "anna")]);
                }
                for pass in [Pass::Frequent, Pass::Full] {
                    world.calm(&IN_TURN, pass).await;
                }
                let subject = if renamed_meanwhile { "anna" } else { "ann" };
                let login_moved =
                    begun && !world.state().accounts[&mxid("ann")].external_ids.contains(&login_id("ann"));
                if login_moved {
                    assert_eq!(opens(&world, subject).as_deref(), Some("wanted"), "at {at}");
                    assert!(world.state().intents.is_empty(), "at {at}");
                }
                if login_moved && renamed_meanwhile {
                    assert_eq!(opens(&world, "ann"), None, "at {at}");
                }
                if probe {
                    assert!(login_moved, "at {at}");
                }
            }
        }
    });
}

#[test]
fn a_change_by_hand_does_only_what_was_shown() {
    now(async {
        let world = two_accounts();
        let engine = world.engine(&IN_TURN);
        let shown = engine.by_hand(&link("ann", "wanted"), false, None, &()).await.unwrap();
        assert!(!shown.steps.is_empty());
        happen(&world, &[renamed(1, "anna")]);
        let done = engine.by_hand(&link("#1", "wanted"), true, Some(&shown.steps), &()).await.unwrap();
        assert!(done.refused.is_some() && done.done.is_none());
        assert!(world.state().links.is_empty());
        let shown = engine.by_hand(&link("#1", "wanted"), false, None, &()).await.unwrap();
        let done = engine.by_hand(&link("#1", "wanted"), true, Some(&shown.steps), &()).await.unwrap();
        assert_eq!(done.refused, None);
    });
}

#[test]
fn a_creation_that_comes_through_late_is_not_taken_for_a_strangers() {
    now(async {
        for create in [CreateMode::EmptyFirst, CreateMode::OneRequest] {
            let policies = Policies { create, ..IN_TURN };
            let world = world(&[joins("ann")]);
            world.state().slow = true;
            let report = world.calm(&policies, Pass::Frequent).await;
            assert_eq!(report.exit_code(), 0, "{create:?}");
            assert_eq!(world.state().links.len(), 1, "{create:?}");
            assert_eq!(opens(&world, "ann").as_deref(), Some("ann"), "{create:?}");
        }
    });
}

#[test]
fn whoever_logs_in_at_any_moment_of_a_run_still_can_after_it() {
    now(async {
        let start = world(&[joins("ann")]);
        let probe = start.fork();
        probe.calm(&IN_TURN, Pass::Frequent).await;
        for at in 1..=probe.calls() {
            let world = start.fork();
            faulty(&world, &IN_TURN, &[(at, Fault::Happens(Event::LogsIn(DefguardId(1))))]).await;
            world.state().cache.clear();
            assert!(opens(&world, "ann").is_some(), "at {at}");
        }
    });
}

#[test]
fn an_address_that_somebody_got_since_the_look_up_is_not_moved_without_a_word() {
    now(async {
        let taken = || Event::HandMade {
            localpart: "shop".to_owned(),
            email: Some("new@x.org".to_owned()),
            kind: Kind::Plain,
        };
        let newcomer = world(&[joins("ann"), Event::NewEmail(DefguardId(1), "new@x.org".to_owned())]);
        let changed = world(&[joins("ann")]);
        changed.calm(&IN_TURN, Pass::Frequent).await;
        happen(&changed, &[Event::NewEmail(DefguardId(1), "new@x.org".to_owned())]);
        for start in [newcomer, changed] {
            let probe = start.fork();
            probe.calm(&IN_TURN, Pass::Frequent).await;
            let mut robbing = Vec::new();
            for at in 4..=probe.calls() {
                let world = start.fork();
                let before = world.state().writes.len();
                faulty(&world, &IN_TURN, &[(at, Fault::Happens(taken()))]).await;
                if world.state().writes[before..].iter().any(|write| write.robbed.is_some()) {
                    robbing.push(at);
                }
            }
            // Between the last look and the write itself, a line is written to the store; nothing closes that moment.
            assert!(robbing.len() <= 2, "calls {robbing:?} of {}", probe.calls());
        }
    });
}

#[test]
fn the_look_ups_of_a_run_end_when_the_program_is_asked_to_end() {
    now(async {
        let world = world(&[]);
        for n in 0..50 {
            happen(&world, &[joins(&format!("p{n}"))]);
        }
        let engine = world.engine(&IN_TURN);
        let everybody = RunRequest::everybody(Pass::Frequent);
        let run = engine.run(&everybody, &());
        let end = async {
            while world.state().single.len() < 5 {
                tokio::task::yield_now().await;
            }
            engine.stop().cancel();
        };
        let (report, ()) = tokio::join!(run, end);
        assert!(report.interrupted);
        assert_eq!(report.exit_code(), 3);
        assert!(world.state().single.len() < 20, "{}", world.state().single.len());
        assert!(world.state().writes.is_empty());
    });
}

#[test]
fn somebody_who_is_put_off_after_a_failure_still_counts_as_failed() {
    now(async {
        let start = world(&[joins("ann")]);
        let mut put_off = 0;
        for at in 4..16 {
            let world = start.fork();
            let Some(report) = faulty(&world, &IN_TURN, &[(at, Fault::Refused)]).await else { continue };
            if report.exit_code() != 3 || world.state().backoff.is_empty() {
                continue;
            }
            // The next run comes half a day later.
            world.state().now -= TimeDelta::hours(12);
            let report = world.calm(&IN_TURN, Pass::Frequent).await;
            assert_eq!(report.people[0].state, Word::Postponed);
            assert_eq!(report.exit_code(), 3);
            put_off += 1;
        }
        assert!(put_off > 1, "{put_off}");
    });
}

#[test]
fn nobody_is_put_off_because_our_credentials_do_not_work() {
    now(async {
        let start = world(&[joins("ann"), joins("bob")]);
        let probe = start.fork();
        probe.calm(&IN_TURN, Pass::Frequent).await;
        for at in 4..=probe.calls() {
            let world = start.fork();
            let Some(report) = faulty(&world, &IN_TURN, &[(at, Fault::Unauthorised)]).await else { continue };
            assert!(world.state().backoff.is_empty(), "at {at}");
            if let Some(failure) = report.failure {
                assert_eq!(failure.class, FailureClass::Unauthorised, "at {at}");
            }
        }
    });
}

#[test]
fn a_transfer_that_has_begun_is_gone_on_with_after_a_minute_at_the_latest() {
    now(async {
        let policies = IN_TURN;
        let world = world(&[joins("ann"), joins("bob")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[Event::NamesGoRound([1, 2].map(DefguardId).to_vec())]);
        let last = Failure::new(Peer::Synapse, FailureClass::Transient, "a call", "a test");
        {
            // They failed often before this.
            let mut state = world.state();
            let before = Backoff { failures: 12, until: state.now, since: state.now, last };
            state.backoff.extend([1, 2].map(|id| (DefguardId(id), before.clone())));
        }
        // The first write is done, then Synapse goes away for the other account.
        world.state().unreachable = Some(mxid("bob"));
        faulty(&world, &policies, &[]).await;
        let state = world.state();
        assert!(!state.intents.is_empty());
        for backoff in state.backoff.values() {
            assert_eq!(backoff.until - state.now, TimeDelta::minutes(1));
        }
    });
}

#[test]
fn refusals_about_single_people_do_not_end_a_run() {
    now(async {
        let start = world(&[]);
        for n in 0..30 {
            happen(&start, &[joins(&format!("p{n}"))]);
        }
        let faults: Vec<(usize, Fault)> = (5..17).map(|at| (at, Fault::Refused)).collect();
        let report = faulty(&start, &IN_TURN, &faults).await.unwrap();
        assert_eq!(report.failure, None);
        assert!(start.state().links.len() > 15);
        // Without a clear answer the server counts as unusable.
        let faults: Vec<(usize, Fault)> = (5..17).map(|at| (at, Fault::RateLimited)).collect();
        let report = faulty(&start, &IN_TURN, &faults).await.unwrap();
        assert!(report.failure.is_some());
    });
}

#[test]
fn an_account_that_was_changed_since_its_adoption_was_decided_is_decided_on_again() {
    now(async {
        let policies = Policies { on_conflict: OnConflict::Adopt, ..IN_TURN };
        let start = world(&[joins("bob")]);
        // What the first run would adopt is held.
        start.calm(&policies, Pass::Frequent).await;
        happen(&start, &[joins("ann"), hand_made("ann")]);
        let probe = start.fork();
        probe.calm(&policies, Pass::Frequent).await;
        assert_eq!(probe.state().links.len(), 2);
        let mut too_late = Vec::new();
        for at in 4..=probe.calls() {
            let world = start.fork();
            faulty(&world, &policies, &[(at, Fault::Happens(Event::Locked("ann".to_owned(), true)))]).await;
            let state = world.state();
            let locked_then = |write: &&support::world::Write| {
                write.before.as_ref().is_some_and(|account| account.summary.locked)
            };
            if state.writes.iter().any(|write| locked_then(&write)) {
                too_late.push(at);
            }
        }
        // Between the look and the write there is another look, for what stands on the account, and a line in the store.
        assert!(too_late.len() <= 4, "{too_late:?} of {}", probe.calls());
    });
}

#[test]
fn a_creation_is_written_to_the_store_twice() {
    now(async {
        let world = world(&[joins("ann")]);
        world.calm(&IN_TURN, Pass::Frequent).await;
        world.state().stored = 0;
        happen(&world, &[joins("bob")]);
        world.calm(&IN_TURN, Pass::Frequent).await;
        // The number of the run, the claim to the homeserver, the creation before it and after it, what the run saw, and
        // the run.
        assert_eq!(world.state().stored, 6);
    });
}

#[test]
fn a_run_ends_when_nobody_gets_a_clear_answer_but_not_when_each_is_refused() {
    now(async {
        let people: Vec<Event> = (0..40).map(|n| joins(&format!("p{n}"))).collect();
        for (class, tried) in [
            (FailureClass::Malformed, 8),
            (FailureClass::RateLimited(None), 8),
            (FailureClass::Transient, 8),
            (FailureClass::Unauthorised, 1),
            (FailureClass::Permanent, 40),
        ] {
            let world = world(&people);
            world.state().writes_fail = Some(class);
            let report = faulty(&world, &IN_TURN, &[]).await.unwrap();
            let failed = report.people.iter().filter(|person| person.failure.is_some());
            assert_eq!(failed.count(), tried, "{class:?}");
            let stopped = report.failure.map(|failure| failure.class);
            assert_eq!(stopped, (tried < 40).then_some(class), "{class:?}");
        }
    });
}

#[test]
fn the_homeserver_is_asked_who_it_is_at_each_full_pass() {
    now(async {
        let world = world(&[joins("ann")]);
        let engine = world.engine(&IN_TURN);
        for (pass, asked) in [(Pass::Frequent, 1), (Pass::Frequent, 1), (Pass::Full, 2), (Pass::Frequent, 2)]
        {
            engine.run(&RunRequest::everybody(pass), &()).await;
            assert_eq!(world.state().identified, asked, "{pass:?}");
        }
    });
}

#[test]
fn a_change_by_hand_first_completes_the_journal_of_a_run_that_was_cut_short() {
    now(async {
        let mut completed = 0;
        for at in 4..20 {
            let world = world(&[joins("ann")]);
            world.calm(&IN_TURN, Pass::Frequent).await;
            happen(&world, &[renamed(1, "anna")]);
            let before = world.state().writes.len();
            faulty(&world, &IN_TURN, &[(at, Fault::CrashAfter)]).await;
            let told = |world: &World| {
                let state = world.state();
                state
                    .journal
                    .iter()
                    .filter(|entry| matches!(entry.change, Change::ExternalIds { .. }))
                    .count()
            };
            let lost = told(&world) < world.state().writes.len() - before;
            world.by_hand(&IN_TURN, &ByHand::Unlink { person: "#1".to_owned() }, BTreeMap::new()).await;
            let written = world.state().writes[before..]
                .iter()
                .filter(|write| {
                    let ids = |account: &Option<defguard_synapse_sync::domain::Account>| {
                        account.as_ref().map(|account| account.external_ids.clone())
                    };
                    ids(&write.before) != ids(&write.after)
                })
                .count();
            assert_eq!(told(&world), written, "at {at}");
            completed += usize::from(lost);
        }
        assert!(completed > 1, "{completed}");
    });
}

/// Counts how often it is told to wait.
#[derive(Default)]
struct Waits(std::sync::atomic::AtomicUsize);

impl Progress for Waits {
    fn waiting(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn step(&self, _done: usize, _total: usize) {}
}

#[test]
fn whoever_has_to_wait_for_a_run_is_told_so() {
    now(async {
        let world = world(&[joins("ann")]);
        let engine = world.engine(&IN_TURN);
        let waits = Waits::default();
        let everybody = RunRequest::everybody(Pass::Frequent);
        let (report, explained) = tokio::join!(engine.run(&everybody, &()), engine.explain("ann", &waits));
        assert_eq!(report.exit_code(), 0);
        assert!(explained.unwrap().is_some());
        assert_eq!(waits.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        engine.explain("ann", &waits).await.unwrap();
        assert_eq!(waits.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    });
}

/// Limits that two people reach.
const ONE_A_DAY: GuardLimits = GuardLimits { min_count: 1, percent: 0, max_count: 1, shrink_percent: 100 };

fn names_go_round(ids: &[i64]) -> Event {
    Event::NamesGoRound(ids.iter().copied().map(DefguardId).collect())
}

#[test]
fn the_guard_comes_to_an_end_when_what_it_holds_keeps_others_waiting() {
    now(async {
        let policies = Policies { guard: ONE_A_DAY, ..IN_TURN };
        let world = world(&[joins("ann"), joins("bob"), joins("cid")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[names_go_round(&[1, 2])]);
        let held = world.calm(&policies, Pass::Frequent).await.held.unwrap();
        assert_eq!(held.steps.len(), 2);
        // Cid waits for somebody whose change is held; without him the change of one alone is held.
        happen(&world, &[names_go_round(&[1, 3, 2]), Event::Active(DefguardId(2), false)]);
        let report = world.calm(&policies, Pass::Frequent).await;
        assert_eq!(report.failure, None);
        assert!(world.state().accounts[&mxid("bob")].summary.locked, "a hold delays nobody's lock");
        for _ in 0..4 {
            let Some(digest) = world.calm(&policies, Pass::Frequent).await.held.and_then(|held| held.digest)
            else {
                break;
            };
            let approval = RunRequest { approve: Some(digest), ..RunRequest::everybody(Pass::Frequent) };
            world.run(&policies, &approval, BTreeMap::new()).await;
        }
        assert_eq!(world.calm(&policies, Pass::Frequent).await.held, None);
        assert_eq!(opens(&world, "cid").as_deref(), Some("ann"));
    });
}

#[test]
fn a_login_on_an_account_that_only_its_marker_ties_to_somebody_can_be_taken() {
    now(async {
        let policies = IN_TURN;
        let world = world(&[joins("ann"), joins("bob")]);
        world.calm(&policies, Pass::Frequent).await;
        // What we knew of Ann is lost, she is out of scope, and Bob has her username.
        happen(&world, &[Event::LinkLost(DefguardId(1)), Event::Group(DefguardId(1), true)]);
        happen(&world, &[names_go_round(&[1, 2])]);
        let report = world.calm(&policies, Pass::Frequent).await;
        assert!(report.people.iter().all(|person| person.failure.is_none()));
        assert_eq!(opens(&world, "ann").as_deref(), Some("bob"));
    });
}

#[test]
fn whoever_takes_the_name_of_somebody_who_comes_back_does_not_open_their_account() {
    now(async {
        let policies = Policies { on_leave: OnLeave::Deactivate, ..IN_TURN };
        let world = world(&[joins("ann"), joins("bob"), Event::Active(DefguardId(1), true)]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[Event::Active(DefguardId(1), false)]);
        for _ in 0..3 {
            world.calm(&policies, Pass::Frequent).await;
        }
        assert!(world.state().accounts[&mxid("ann")].summary.deactivated);
        happen(&world, &[Event::Active(DefguardId(1), true), names_go_round(&[1, 2])]);
        world.calm(&policies, Pass::Frequent).await;
        assert!(!world.state().accounts[&mxid("ann")].summary.deactivated);
        assert_eq!(opens(&world, "ann").as_deref(), Some("bob"));
        world.calm(&policies, Pass::Frequent).await;
        assert_eq!(opens(&world, "bob").as_deref(), Some("ann"));
    });
}

#[test]
fn a_login_that_is_washed_off_after_a_crash_is_not_named_by_the_link_any_more() {
    now(async {
        let policies = IN_TURN;
        let start = world(&[joins("ann")]);
        start.calm(&policies, Pass::Frequent).await;
        happen(&start, &[joins("Ann")]);
        start.calm(&policies, Pass::Frequent).await;
        happen(&start, &[Event::Active(DefguardId(1), false), names_go_round(&[1, 2])]);
        let probe = start.fork();
        probe.calm(&policies, Pass::Frequent).await;
        for at in 1..=probe.calls() {
            let world = start.fork();
            faulty(&world, &policies, &[(at, Fault::CrashBefore)]).await;
            for _ in 0..2 {
                world.calm(&policies, Pass::Frequent).await;
            }
            happen(&world, &[names_go_round(&[1, 2]), Event::Active(DefguardId(1), true)]);
            for _ in 0..2 {
                world.calm(&policies, Pass::Frequent).await;
            }
            assert_eq!(opens(&world, "ann").as_deref(), Some("ann"), "after a crash at {at}");
        }
    });
}

#[test]
fn beside_another_daemon_nothing_is_made() {
    now(async {
        let start = world(&[joins("ann"), joins("bob")]);
        let probe = start.fork();
        probe.calm(&IN_TURN, Pass::Frequent).await;
        for at in 1..=probe.calls() {
            let world = start.fork();
            faulty(&world, &IN_TURN, &[(at, Fault::SecondRuns)]).await;
            let state = world.state();
            for (localpart, id) in [("ann", 1), ("bob", 2)] {
                let Some(account) = state.accounts.get(&mxid(localpart)) else { continue };
                assert!(account.external_ids.contains(&marker(id)), "{localpart}, the other at {at}");
                assert!(
                    account.external_ids.contains(&login_id(localpart)),
                    "{localpart}, the other at {at}"
                );
            }
        }
    });
}

#[test]
fn an_old_copy_of_the_store_takes_nobody_elses_lock_off() {
    now(async {
        let policies = IN_TURN;
        let world = world(&[joins("ann")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[Event::Active(DefguardId(1), false)]);
        world.calm(&policies, Pass::Frequent).await;
        let old = world.state().memories[0].clone();
        happen(&world, &[Event::Active(DefguardId(1), true)]);
        world.calm(&policies, Pass::Frequent).await;
        assert!(!world.state().accounts[&mxid("ann")].summary.locked);
        happen(&world, &[Event::Locked("ann".to_owned(), true)]);
        world.state().memories[0] = old;
        let report = world.calm(&policies, Pass::Frequent).await;
        assert!(world.state().accounts[&mxid("ann")].summary.locked);
        assert_eq!(report.exit_code(), 4);
        assert_eq!(report.held.unwrap().digest, None);
    });
}

#[test]
fn what_was_noted_while_the_clock_was_wrong_does_not_last() {
    now(async {
        let world = world(&[joins("ann")]);
        let year = 60 * 24 * 365;
        happen(&world, &[Event::Clock(year)]);
        for at in 4..14 {
            faulty(&world, &IN_TURN, &[(at, Fault::Refused)]).await;
        }
        happen(&world, &[Event::Clock(-year)]);
        world.calm(&IN_TURN, Pass::Frequent).await;
        assert_eq!(opens(&world, "ann").as_deref(), Some("ann"));
    });
}

#[test]
fn people_to_whom_nothing_is_done_do_not_keep_the_guard_holding() {
    now(async {
        let policies = Policies {
            on_leave: OnLeave::Ignore,
            guard: GuardLimits { shrink_percent: 0, ..ONE_A_DAY },
            ..IN_TURN
        };
        let world = world(&[joins("ann"), joins("bob"), joins("cid")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[1, 2].map(|id| Event::Leaves(DefguardId(id))));
        assert_eq!(world.calm(&policies, Pass::Frequent).await.held, None);
    });
}

#[test]
fn a_run_that_lasts_longer_than_its_claim_renews_it() {
    now(async {
        let start = world(&[joins("ann"), joins("bob"), joins("cid")]);
        let probe = start.fork();
        probe.calm(&IN_TURN, Pass::Frequent).await;
        let (mut renewed, mut made) = (0, 0);
        for at in 8..probe.calls() {
            let world = start.fork();
            faulty(&world, &IN_TURN, &[(at, Fault::Happens(Event::Clock(14)))]).await;
            let state = world.state();
            let left = state.record.as_ref().unwrap().until - state.now;
            renewed += usize::from(left == TimeDelta::minutes(15));
            made += state.links.len();
        }
        assert!(renewed > 5, "{renewed}");
        assert!(made > 3 * renewed, "{made}");
    });
}

#[test]
fn a_sync_of_one_person_leaves_no_link_that_names_a_login_which_is_anothers() {
    now(async {
        let start = world(&[joins("ann"), joins("bob")]);
        start.calm(&IN_TURN, Pass::Frequent).await;
        happen(&start, &[names_go_round(&[1, 2]), Event::Group(DefguardId(1), true)]);
        let bob = RunRequest { only: ["#2".to_owned()].into(), ..RunRequest::everybody(Pass::Frequent) };
        let probe = start.fork();
        probe.run(&IN_TURN, &bob, BTreeMap::new()).await;
        for at in 1..=probe.calls() {
            let world = start.fork();
            world.run(&IN_TURN, &bob, BTreeMap::from([(at, Fault::CrashBefore)])).await;
            world.run(&IN_TURN, &bob, BTreeMap::new()).await;
            world.calm(&IN_TURN, Pass::Frequent).await;
            let state = world.state();
            let naming = state
                .links
                .values()
                .filter(|link| link.subject.as_ref().is_some_and(|subject| subject.as_str() == "ann"));
            assert_eq!(naming.count(), 1, "after a crash at {at}");
        }
    });
}
