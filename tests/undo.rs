//! Stories in memory: taking a run back, finding lost links again, forgetting a person, and the way of an `idp_id`
//! migration from its begin to its end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use defguard_synapse_sync::{
    domain::{
        Change, DefguardId, ExternalId, Failure, FailureClass, FieldPolicy, GuardLimits, Harm, Lifecycle,
        MappedField, OnConflict, RunId, ServiceRecord, Subject,
    },
    engine::{BatchPerson, BatchReport, RebuildReport, RunReport, RunRequest},
    reconcile::{Batch, Pass},
};
use support::world::{
    Event, Extra, Fault, Kind, NO_LIMITS, Policies, World, happen, login_id, marker, mxid, now, world,
};

const NEW_PROVIDER: &str = "oidc-new";

fn joins(username: &str) -> Event {
    Event::Joins { username: username.to_owned(), email: format!("{username}@x.org") }
}

fn id(number: i64) -> DefguardId {
    DefguardId(number)
}

fn revert(run: u64) -> Batch {
    Batch::Revert { run: RunId(run), people: BTreeSet::new() }
}

async fn batch(world: &World, policies: &Policies, wish: &Batch) -> BatchReport {
    let report = world.engine(policies).batch(wish, true, None, &()).await.unwrap();
    assert!(report.done, "{report:#?}");
    report
}

async fn approve(world: &World, policies: &Policies, digest: &str) -> RunReport {
    let request = RunRequest { approve: Some(digest.to_owned()), ..RunRequest::everybody(Pass::Frequent) };
    world.run(policies, &request, BTreeMap::new()).await.unwrap()
}

async fn rebuild(world: &World, take_over: bool) -> Result<RebuildReport, Failure> {
    world.engine(&Policies::default()).rebuild(take_over, &()).await
}

#[track_caller]
fn of(report: &BatchReport, number: i64) -> &BatchPerson {
    report.people.iter().find(|person| person.id == id(number)).unwrap_or_else(|| panic!("{report:#?}"))
}

fn said(person: &BatchPerson) -> String {
    let left = person.left.iter().map(|left| format!("{}: {}", left.what, left.why));
    left.chain(person.warnings.clone()).collect::<Vec<_>>().join("\n")
}

fn locked(world: &World, name: &str) -> bool {
    world.state().accounts[&mxid(name)].summary.locked
}

fn ids(world: &World, name: &str) -> BTreeSet<ExternalId> {
    world.state().accounts[&mxid(name)].external_ids.clone()
}

fn shown(world: &World, name: &str) -> Option<String> {
    world.state().accounts[&mxid(name)].summary.display_name.clone()
}

fn emails(world: &World, name: &str) -> Vec<String> {
    world.state().accounts[&mxid(name)].threepids.iter().map(|it| it.address.clone()).collect()
}

/// The last run.
fn last_run(world: &World) -> u64 {
    world.state().next_run - 1
}

#[test]
fn a_wrong_mass_lock_is_taken_back_and_has_to_be_proved_anew() {
    now(async {
        let policies = Policies {
            guard: GuardLimits { min_count: 1, percent: 0, max_count: 1, shrink_percent: 100 },
            ..Policies::default()
        };
        let world = world(&[joins("ann"), joins("bob"), joins("cy"), joins("dee")]);
        let leave = Policies { guard: NO_LIMITS, ..policies };
        world.calm(&leave, Pass::Frequent).await;
        happen(&world, &[Event::Active(id(1), false), Event::Active(id(2), false), Event::Leaves(id(3))]);
        for _ in 0..2 {
            world.calm(&leave, Pass::Frequent).await;
        }
        let (disabled, gone) = (last_run(&world) - 1, last_run(&world));
        assert!(locked(&world, "ann") && locked(&world, "bob") && locked(&world, "cy"));

        let report = batch(&world, &leave, &revert(disabled)).await;
        assert_eq!(report.exit_code(), 0, "{report:#?}");
        assert!(!locked(&world, "ann") && !locked(&world, "bob") && locked(&world, "cy"));
        assert!(said(of(&report, 1)).contains("locks the account again"), "{report:#?}");
        let report = batch(&world, &leave, &revert(gone)).await;
        assert!(!locked(&world, "cy"));
        assert!(said(of(&report, 3)).contains("proved anew"), "{report:#?}");
        assert!(said(of(&report, 3)).contains("ended session(s)"), "{report:#?}");
        assert_eq!(world.state().links[&id(3)].lifecycle, Lifecycle::default());
        let by_hand = world.state().journal.iter().filter(|entry| entry.run.is_none()).count();
        assert_eq!(by_hand, 3, "each unlock is in the journal");

        // Whoever is gone is missed anew before it comes to that again; whoever is disabled is locked at once.
        happen(&world, &[Event::Active(id(1), true)]);
        world.calm(&leave, Pass::Frequent).await;
        assert!(!locked(&world, "ann") && locked(&world, "bob") && !locked(&world, "cy"));
        world.calm(&leave, Pass::Frequent).await;
        assert!(locked(&world, "cy"));
    });
}

#[test]
fn a_lock_that_is_not_that_of_the_run_any_more_stays() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann"), joins("bob"), joins("cy")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(
            &world,
            &[Event::Active(id(1), false), Event::Active(id(2), false), Event::Active(id(3), false)],
        );
        world.calm(&policies, Pass::Frequent).await;
        let run = last_run(&world);
        // Ann is unlocked and locked again by runs; Bob's lock is an admin's by now; Cy was unlocked by an admin.
        happen(&world, &[Event::Active(id(1), true), Event::Active(id(2), true)]);
        world.calm(&policies, Pass::Frequent).await;
        happen(
            &world,
            &[
                Event::Active(id(1), false),
                Event::Locked("bob".to_owned(), true),
                Event::Locked("cy".to_owned(), false),
            ],
        );
        let only =
            RunRequest { only: BTreeSet::from(["#1".to_owned()]), ..RunRequest::everybody(Pass::Frequent) };
        world.run(&policies, &only, BTreeMap::new()).await.unwrap();
        let report = batch(&world, &policies, &revert(run)).await;
        assert!(said(of(&report, 1)).contains(&format!("it is run {}", last_run(&world))), "{report:#?}");
        assert!(said(of(&report, 2)).contains("somebody else"), "{report:#?}");
        assert!(said(of(&report, 3)).contains("not locked any more"), "{report:#?}");
        assert!(locked(&world, "ann") && locked(&world, "bob"));
        assert!(report.people.iter().all(|person| person.changes.is_empty()));
        // The run that unlocked is not undone either.
        let report = batch(&world, &policies, &revert(run + 1)).await;
        assert!(said(of(&report, 1)).contains("the unlock: a lock is never put on by hand"), "{report:#?}");
    });
}

#[test]
fn names_and_addresses_are_put_back_and_stay_under_on_change() {
    now(async {
        let policies = Policies { email: FieldPolicy::OnChange, ..Policies::default() };
        let world = world(&[joins("ann"), joins("bob"), joins("cy")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(
            &world,
            &[
                Event::Foreign("ann".to_owned(), Extra::Email(1)),
                Event::NewName(id(1), "Wrong".to_owned()),
                Event::NewEmail(id(1), "wrong@x.org".to_owned()),
                Event::NewName(id(2), "Wrong too".to_owned()),
            ],
        );
        world.calm(&policies, Pass::Frequent).await;
        let run = last_run(&world);
        assert_eq!(shown(&world, "ann").as_deref(), Some("Wrong"));
        happen(&world, &[Event::OwnDisplayName("bob".to_owned(), "Bobby".to_owned())]);

        let report = batch(&world, &policies, &revert(run)).await;
        assert_eq!(shown(&world, "ann").as_deref(), Some("ann"));
        assert_eq!(emails(&world, "ann"), ["ann1@home.example", "ann@x.org"]);
        assert_eq!(shown(&world, "bob").as_deref(), Some("Bobby"));
        assert!(said(of(&report, 2)).contains("the display name: it was changed since"), "{report:#?}");
        assert_eq!(said(of(&report, 1)), "");
        for pass in [Pass::Frequent, Pass::Full] {
            world.calm(&policies, pass).await;
            assert_eq!(shown(&world, "ann").as_deref(), Some("ann"));
            assert_eq!(emails(&world, "ann"), ["ann1@home.example", "ann@x.org"]);
        }
        // Under "enforce" it is said that it does not last.
        happen(&world, &[Event::NewName(id(1), "Wronger".to_owned())]);
        world.calm(&policies, Pass::Frequent).await;
        let enforce = Policies { display_name: FieldPolicy::Enforce, ..policies };
        let report = batch(&world, &enforce, &revert(last_run(&world))).await;
        assert!(said(of(&report, 1)).contains("accounts.display_name = \"enforce\""), "{report:#?}");
        world.calm(&enforce, Pass::Frequent).await;
        assert_eq!(shown(&world, "ann").as_deref(), Some("Wronger"));
    });
}

#[test]
fn an_address_that_somebody_has_by_now_is_left() {
    now(async {
        let policies = Policies { email: FieldPolicy::OnChange, ..Policies::default() };
        let world = world(&[joins("ann")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[Event::NewEmail(id(1), "new@x.org".to_owned())]);
        world.calm(&policies, Pass::Frequent).await;
        let run = last_run(&world);
        let bob = Event::HandMade {
            localpart: "bob".to_owned(),
            email: Some("ann@x.org".to_owned()),
            kind: Kind::Plain,
        };
        happen(&world, &[bob]);
        let report = batch(&world, &policies, &revert(run)).await;
        assert!(said(of(&report, 1)).contains("on @bob:example.org by now"), "{report:#?}");
        assert_eq!(emails(&world, "ann"), ["new@x.org"]);
        assert_eq!(emails(&world, "bob"), ["ann@x.org"]);
    });
}

#[test]
fn swapped_logins_are_swapped_back_together() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann"), joins("bob")]);
        world.calm(&policies, Pass::Frequent).await;
        let before = (ids(&world, "ann"), ids(&world, "bob"));
        happen(&world, &[Event::NamesGoRound(vec![id(1), id(2)])]);
        world.calm(&policies, Pass::Frequent).await;
        assert_eq!(world.state().opens("ann").unwrap(), mxid("bob"));
        // Only one of the two cannot have it back, since the other keeps it.
        let one = Batch::Revert { run: RunId(last_run(&world)), people: BTreeSet::from(["#1".to_owned()]) };
        let report = batch(&world, &policies, &one).await;
        assert!(said(of(&report, 1)).contains("is on @bob:example.org by now"), "{report:#?}");

        let report = batch(&world, &policies, &revert(last_run(&world))).await;
        assert_eq!((ids(&world, "ann"), ids(&world, "bob")), before, "{report:#?}");
        assert_eq!(world.state().opens("ann").unwrap(), mxid("ann"));
        assert!(said(of(&report, 1)).contains("puts the login bob on the account again"), "{report:#?}");
        assert_eq!(world.state().links[&id(1)].subject, Some(Subject::new("ann")));
        // With the names put back there is nothing left to do.
        happen(&world, &[Event::NamesGoRound(vec![id(1), id(2)])]);
        world.calm(&policies, Pass::Full).await;
        assert_eq!((ids(&world, "ann"), ids(&world, "bob")), before);
    });
}

#[test]
fn an_adoption_is_taken_back_with_its_link_and_a_creation_is_not() {
    now(async {
        let adopt = Policies { on_conflict: OnConflict::Adopt, ..Policies::default() };
        let old = Event::HandMade {
            localpart: "ann".to_owned(),
            email: Some("old@x.org".to_owned()),
            kind: Kind::Plain,
        };
        let world = world(&[old, joins("bob")]);
        world.calm(&adopt, Pass::Frequent).await;
        let before = world.state().accounts[&mxid("ann")].clone();
        happen(&world, &[joins("ann"), joins("cy")]);
        let report = world.calm(&adopt, Pass::Frequent).await;
        assert_eq!(report.exit_code(), 0, "{report:#?}");
        assert!(world.state().links.contains_key(&id(2)));
        let report = batch(&world, &adopt, &revert(last_run(&world))).await;
        assert_eq!(world.state().accounts[&mxid("ann")], before);
        assert!(!world.state().links.contains_key(&id(2)));
        assert_eq!(world.state().opens("ann"), None);
        assert!(of(&report, 2).changes.contains(&Change::Unlinked));
        assert!(said(of(&report, 2)).contains("`on_conflict`"), "{report:#?}");
        assert!(said(of(&report, 3)).contains("the new account: nothing is ever deleted"), "{report:#?}");
        assert!(world.state().accounts.contains_key(&mxid("cy")));
        // Under "report" it then stands in the way, and stays as it is.
        world.calm(&Policies::default(), Pass::Frequent).await;
        assert_eq!(world.state().accounts[&mxid("ann")], before);
    });
}

#[test]
fn a_revert_that_is_cut_short_anywhere_can_be_begun_again() {
    now(async {
        let policies = Policies { concurrency: 1, ..Policies::default() };
        for at in 1..60 {
            let world = world(&[joins("ann"), joins("bob"), joins("cy")]);
            world.calm(&policies, Pass::Frequent).await;
            happen(
                &world,
                &[Event::Leaves(id(1)), Event::Active(id(2), false), Event::NewName(id(3), "X".to_owned())],
            );
            world.calm(&policies, Pass::Frequent).await;
            world.calm(&policies, Pass::Frequent).await;
            let last = last_run(&world);
            for run in [last, last - 1] {
                let wish = revert(run);
                // Dies at that call, and is asked again by a fresh process.
                let died = std::sync::Arc::new(tokio::sync::Notify::new());
                world.begin_script(died.clone(), BTreeMap::from([(at, Fault::CrashAfter)]));
                let engine = world.engine(&policies);
                tokio::select! {
                    biased;
                    () = died.notified() => {}
                    _ = engine.batch(&wish, true, None, &()) => {}
                }
                world.end_script();
                let report = batch(&world, &policies, &wish).await;
                assert_eq!(report.exit_code(), 0, "{at}: {report:#?}");
            }
            assert!(!locked(&world, "ann") && !locked(&world, "bob"), "{at}");
            assert_eq!(shown(&world, "cy").as_deref(), Some("cy"), "{at}");
            assert_eq!(world.state().links[&id(1)].lifecycle, Lifecycle::default(), "{at}");
            let unlocks = |name: &str| {
                let state = world.state();
                let of = state.journal.iter().filter(|entry| entry.mxid == mxid(name));
                of.filter(|entry| matches!(entry.change, Change::Unlocked { .. })).count()
            };
            assert_eq!((unlocks("ann"), unlocks("bob")), (1, 1), "{at}");
        }
    });
}

#[test]
fn a_run_of_which_the_journal_knows_nothing_is_refused() {
    now(async {
        let world = world(&[joins("ann")]);
        world.calm(&Policies::default(), Pass::Frequent).await;
        let report = world.engine(&Policies::default()).batch(&revert(99), true, None, &()).await.unwrap();
        assert_eq!((report.exit_code(), report.done), (1, false));
        assert!(report.refused.unwrap().contains("run 99"));
        // What was confirmed is what was shown.
        happen(&world, &[Event::NewName(id(1), "Wrong".to_owned())]);
        world.calm(&Policies::default(), Pass::Frequent).await;
        let wish = revert(last_run(&world));
        let shown_before = world.engine(&Policies::default()).batch(&wish, false, None, &()).await.unwrap();
        happen(&world, &[Event::OwnDisplayName("ann".to_owned(), "Annie".to_owned())]);
        let engine = world.engine(&Policies::default());
        let report = engine.batch(&wish, true, Some(&shown_before.digest), &()).await.unwrap();
        assert!(report.refused.unwrap().contains("something has changed"));
        assert_eq!(shown(&world, "ann").as_deref(), Some("Annie"));
    });
}

/// Everybody's links are gone, with everything else that was remembered.
fn lose_the_store(world: &World) {
    let mut state = world.state();
    state.links.clear();
    state.intents.clear();
    state.journal.clear();
    state.standoffs.clear();
    state.standing = defguard_synapse_sync::domain::Standing {
        lost: Some("the database that belongs here is gone".to_owned()),
        ..Default::default()
    };
    state.store_id = "second".to_owned();
}

#[test]
fn a_lost_store_takes_nobody_out_of_use_until_the_links_are_found_again() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann"), joins("bob"), joins("cy"), joins("dee")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[Event::Active(id(4), false)]);
        world.calm(&policies, Pass::Frequent).await;
        assert!(locked(&world, "dee"));
        lose_the_store(&world);
        happen(&world, &[Event::Active(id(1), false), Event::Leaves(id(2))]);
        for _ in 0..3 {
            let report = world.calm(&policies, Pass::Frequent).await;
            assert_eq!(report.exit_code(), 4, "{report:#?}");
        }
        assert!(!locked(&world, "ann") && !locked(&world, "bob"));

        let report = rebuild(&world, false).await.unwrap();
        assert_eq!((report.exit_code(), report.trusted), (0, true), "{report:#?}");
        assert_eq!(report.locked.iter().map(|it| it.id).collect::<Vec<_>>(), [id(4)]);
        let links = world.state().links.clone();
        assert_eq!(links.keys().copied().collect::<Vec<_>>(), [id(1), id(2), id(3), id(4)]);
        let bob = &links[&id(2)];
        assert_eq!((bob.username.as_str(), bob.subject.clone()), ("bob", Some(Subject::new("bob"))));
        assert_eq!(bob.applied.unseen, BTreeSet::from([MappedField::DisplayName, MappedField::Email]));

        let report = world.calm(&policies, Pass::Frequent).await;
        assert_eq!(report.exit_code(), 0, "{report:#?}");
        assert!(locked(&world, "ann") && !locked(&world, "bob"), "an absence is proved anew");
        world.calm(&policies, Pass::Frequent).await;
        assert!(locked(&world, "bob"));
        // Nobody knows whose the lock on Dee's account is.
        happen(&world, &[Event::Active(id(4), true)]);
        world.calm(&policies, Pass::Frequent).await;
        assert!(locked(&world, "dee"));
    });
}

#[test]
fn a_rebuild_that_is_cut_short_keeps_what_it_found_and_trusts_nothing_yet() {
    now(async {
        let policies = Policies { concurrency: 1, ..Policies::default() };
        let world = world(&[joins("ann"), joins("bob"), joins("cy")]);
        world.calm(&policies, Pass::Frequent).await;
        lose_the_store(&world);
        happen(&world, &[Event::Active(id(1), false)]);
        // The identity, two lists and our record come first.
        world.begin_script(Default::default(), BTreeMap::from([(8, Fault::Cut)]));
        let report = world.engine(&policies).rebuild(false, &()).await.unwrap();
        world.end_script();
        assert_eq!((report.exit_code(), report.unreadable.len()), (3, 1), "{report:#?}");
        assert!(!world.state().links.is_empty());
        assert_eq!(world.calm(&policies, Pass::Frequent).await.exit_code(), 4);
        assert!(!locked(&world, "ann"));
        assert_eq!(rebuild(&world, false).await.unwrap().exit_code(), 0);
        world.calm(&policies, Pass::Frequent).await;
        assert!(locked(&world, "ann"));
    });
}

#[test]
fn an_old_copy_is_brought_up_to_what_the_accounts_show_and_what_contradicts_it_is_said() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann"), joins("bob"), joins("cy"), joins("dee")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[Event::Active(id(4), false)]);
        world.calm(&policies, Pass::Frequent).await;
        let copy = world.fork();
        // Since then: Ann was renamed, Bob's link was taken off by hand, and Dee was enabled and locked by an admin.
        happen(&world, &[Event::Renamed(id(1), "anna".to_owned()), Event::Active(id(4), true)]);
        world.calm(&policies, Pass::Frequent).await;
        let unlink = defguard_synapse_sync::reconcile::ByHand::Unlink { person: "bob".to_owned() };
        assert!(world.by_hand(&policies, &unlink, BTreeMap::new()).await);
        happen(&world, &[Event::Locked("dee".to_owned(), true), Event::Leaves(id(2))]);
        {
            let (mut state, old) = (world.state(), copy.state());
            state.links = old.links.clone();
            state.journal = old.journal.clone();
            state.standing = old.standing.clone();
        }
        assert_eq!(world.calm(&policies, Pass::Frequent).await.exit_code(), 4);
        let report = rebuild(&world, false).await.unwrap();
        assert_eq!((report.exit_code(), report.trusted), (4, false), "{report:#?}");
        assert_eq!(report.contradictions.len(), 1);
        assert!(report.contradictions[0].why.contains("@bob:example.org"), "{report:#?}");
        assert_eq!(world.calm(&policies, Pass::Frequent).await.exit_code(), 4);
        assert!(world.by_hand(&policies, &unlink, BTreeMap::new()).await);
        assert_eq!(rebuild(&world, false).await.unwrap().exit_code(), 0);
        assert_eq!(world.state().links[&id(1)].subject, Some(Subject::new("anna")));
        for _ in 0..3 {
            assert_eq!(world.calm(&policies, Pass::Frequent).await.exit_code(), 0);
        }
        assert!(locked(&world, "dee"), "an admin's lock");
        assert!(!locked(&world, "bob"), "not ours any more");
    });
}

#[test]
fn a_marker_on_another_account_than_the_link_says_is_reported_and_nothing_is_overwritten() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann"), joins("bob")]);
        world.calm(&policies, Pass::Frequent).await;
        {
            let mut state = world.state();
            let link = state.links[&id(1)].clone();
            state.links.insert(id(1), defguard_synapse_sync::domain::Link { mxid: mxid("other"), ..link });
            state.standing.lost = Some("a test".to_owned());
        }
        let report = rebuild(&world, false).await.unwrap();
        assert_eq!(report.exit_code(), 4, "{report:#?}");
        assert!(report.contradictions[0].why.contains("@other:example.org"), "{report:#?}");
        assert_eq!(world.state().links[&id(1)].mxid, mxid("other"));
    });
}

#[test]
fn while_another_daemon_holds_the_lease_the_links_are_found_again_only_by_force() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann")]);
        world.calm(&policies, Pass::Frequent).await;
        {
            let mut state = world.state();
            let record = state.record.clone().unwrap();
            let until = state.now + TimeDelta::minutes(10);
            state.record = Some(ServiceRecord {
                holder: "there".to_owned(),
                store: "theirs".to_owned(),
                until,
                ..record
            });
        }
        let failure = rebuild(&world, false).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::NeedsPerson);
        assert!(failure.mend.unwrap().contains("--take-over"));
        // Nor is anything taken back by hand then.
        let failure = world.engine(&policies).batch(&revert(1), true, None, &()).await;
        assert!(failure.is_ok(), "there is nothing to put back of a creation");
        let report = rebuild(&world, true).await.unwrap();
        assert_eq!(report.exit_code(), 0, "{report:#?}");
        assert_eq!(world.state().record.as_ref().unwrap().holder, "here");
    });
}

#[test]
fn a_person_is_forgotten_but_for_their_link() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann"), joins("bob")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[Event::NewName(id(1), "Ann B".to_owned())]);
        world.calm(&policies, Pass::Frequent).await;
        let engine = world.engine(&policies);
        let shown = engine.forget(id(1), None, false, &()).await.unwrap();
        assert_eq!((shown.kept.lines, shown.done), (2, false));
        assert_eq!(world.state().journal.len(), 3);
        let done = engine.forget(id(1), None, true, &()).await.unwrap();
        assert_eq!((done.kept.lines, done.done, done.linked), (2, true, Some(mxid("ann"))));
        assert!(world.state().journal.iter().all(|entry| entry.id == id(2)));
        assert!(world.state().links.contains_key(&id(1)));
    });
}

#[test]
fn a_changed_idp_id_is_held_then_both_logins_open_the_account_and_then_only_the_new_one() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann"), joins("bob")]);
        world.calm(&policies, Pass::Frequent).await;
        let new = |name: &str| ExternalId::login(NEW_PROVIDER, &Subject::new(name));
        world.state().provider = NEW_PROVIDER.to_owned();
        let mut digests = BTreeSet::new();
        for pass in [Pass::Frequent, Pass::Full, Pass::Frequent] {
            let report = world.calm(&policies, pass).await;
            assert_eq!(report.exit_code(), 4, "{report:#?}");
            let held = report.held.unwrap();
            assert!(held.steps.iter().all(|step| step.harm == Harm::Migrate), "{held:#?}");
            assert_eq!(held.steps.len(), 2);
            digests.insert(held.digest.unwrap());
            assert_eq!(ids(&world, "ann"), BTreeSet::from([login_id("ann"), marker(1)]));
        }
        assert_eq!(digests.len(), 1, "the same steps have the same digest");
        let finish = |world: World| async move {
            world.engine(&policies).batch(&Batch::FinishMigration, true, None, &()).await.unwrap()
        };
        let refused = finish(world.clone()).await;
        assert!(refused.refused.unwrap().contains("the guard still holds"));

        let report = approve(&world, &policies, digests.first().unwrap()).await;
        assert_eq!(report.exit_code(), 0, "{report:#?}");
        assert_eq!(ids(&world, "ann"), BTreeSet::from([login_id("ann"), new("ann"), marker(1)]));
        for pass in [Pass::Frequent, Pass::Full] {
            assert_eq!(world.calm(&policies, pass).await.exit_code(), 0);
        }
        assert_eq!(ids(&world, "ann"), BTreeSet::from([login_id("ann"), new("ann"), marker(1)]));
        assert_eq!(world.state().links[&id(1)].former, BTreeSet::from([login_id("ann")]));

        // Whoever is renamed before the end loses the old name under both.
        happen(&world, &[Event::Renamed(id(2), "rob".to_owned())]);
        world.calm(&policies, Pass::Frequent).await;
        assert_eq!(ids(&world, "bob"), BTreeSet::from([new("rob"), marker(2)]));

        // Synapse remembers who carries the old login, until it is listed once more.
        world.state().happens(&Event::TriesName("ann".to_owned()));
        assert_eq!(world.state().opens("ann"), Some(mxid("ann")));
        let report = finish(world.clone()).await;
        assert_eq!((report.exit_code(), report.done), (0, true), "{report:#?}");
        assert_eq!(ids(&world, "ann"), BTreeSet::from([new("ann"), marker(1)]));
        assert_eq!(world.state().opens("ann"), None);
        assert!(world.state().links.values().all(|link| link.former.is_empty()));
        assert!(finish(world.clone()).await.people.is_empty(), "a second time there is nothing to do");
        let report = world.calm(&policies, Pass::Full).await;
        assert!(report.people.iter().all(|person| person.done.is_empty()), "{report:#?}");
    });
}

#[test]
fn whoever_is_renamed_together_with_the_idp_id_does_not_keep_the_old_name() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann"), joins("bob")]);
        world.calm(&policies, Pass::Frequent).await;
        world.state().provider = NEW_PROVIDER.to_owned();
        happen(&world, &[Event::Renamed(id(1), "anna".to_owned())]);
        let report = world.calm(&policies, Pass::Frequent).await;
        let digest = report.held.unwrap().digest.unwrap();
        let report = approve(&world, &policies, &digest).await;
        assert_eq!(report.exit_code(), 0, "{report:#?}");
        let new = ExternalId::login(NEW_PROVIDER, &Subject::new("anna"));
        assert_eq!(ids(&world, "ann"), BTreeSet::from([new, marker(1)]));
        assert_eq!(world.state().opens("ann"), None);
    });
}

#[test]
fn a_reverted_migration_leaves_one_login_and_can_be_done_again() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann")]);
        world.calm(&policies, Pass::Frequent).await;
        let before = ids(&world, "ann");
        world.state().provider = NEW_PROVIDER.to_owned();
        let digest = world.calm(&policies, Pass::Frequent).await.held.unwrap().digest.unwrap();
        approve(&world, &policies, &digest).await;
        batch(&world, &policies, &revert(last_run(&world))).await;
        assert_eq!(ids(&world, "ann"), before);
        // With the old idp_id back there is nothing to do and nothing to finish.
        world.state().provider = support::world::PROVIDER.to_owned();
        for pass in [Pass::Frequent, Pass::Full] {
            world.calm(&policies, pass).await;
        }
        assert_eq!(ids(&world, "ann"), before);
        assert!(world.state().links[&id(1)].former.is_empty());
    });
}
