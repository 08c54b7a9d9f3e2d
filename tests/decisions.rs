//! Decisions that were wrong once, each with the smallest number of people that showed it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use defguard_synapse_sync::{
    domain::{Conflict, DefguardId, OnConflict},
    engine::{HandDone, RunReport, RunRequest},
    reconcile::{ByHand, Pass, State as Word},
};
use support::world::{
    Event, Fault, Kind, LISTING, OWN_ID, Policies, World, happen, instance, login_id, marker, mxid, now,
    world,
};

fn joins(username: &str, email: &str) -> Event {
    Event::Joins { username: username.to_owned(), email: email.to_owned() }
}

fn hand_made(localpart: &str, email: Option<&str>) -> Event {
    Event::HandMade { localpart: localpart.to_owned(), email: email.map(str::to_owned), kind: Kind::Plain }
}

/// Runs once, and says what a second run asks for.
async fn runs(world: &World, policies: &Policies) -> (RunReport, Vec<String>) {
    let report = world.calm(policies, Pass::Frequent).await;
    world.state().single.clear();
    world.calm(policies, Pass::Frequent).await;
    let asked = world.state().single.clone();
    (report, asked)
}

fn told(report: &RunReport) -> BTreeMap<i64, (Word, Vec<&'static str>)> {
    let kinds = |conflicts: &[Conflict]| conflicts.iter().map(Conflict::kind).collect();
    report.people.iter().map(|person| (person.id.0, (person.state, kinds(&person.conflicts)))).collect()
}

const SILENT: Vec<String> = Vec::new();

#[test]
fn of_many_people_with_one_localpart_each_conflict_names_a_few_and_counts_all() {
    now(async {
        let events: Vec<Event> = (0..64)
            .map(|n: u32| {
                let letters = "abcdef".char_indices().map(|(at, letter)| {
                    if n & (1 << at) == 0 { letter } else { letter.to_ascii_uppercase() }
                });
                joins(&letters.collect::<String>(), "")
            })
            .collect();
        let world = world(&events);
        let (report, asked) = runs(&world, &Policies::default()).await;
        assert_eq!(asked, SILENT);
        for person in report.people.iter().filter(|person| person.id != DefguardId(OWN_ID)) {
            let Conflict::LocalpartTwins { people, .. } = &person.conflicts[0] else { panic!("no twins") };
            assert_eq!((people.named.len(), people.count), (20, 64));
            assert!(person.conflicts[0].to_string().ends_with("#20 and 44 more"), "{}", person.conflicts[0]);
        }
        // Although not all are named, whoever is no longer one of them is noticed.
        happen(&world, &[Event::Renamed(DefguardId(64), "zoe".to_owned())]);
        let report = world.calm(&Policies::default(), Pass::Frequent).await;
        let Conflict::LocalpartTwins { people, .. } = &report.people[0].conflicts[0] else { panic!() };
        assert_eq!(people.count, 63);
        assert_eq!(report.people[63].state, Word::Create);
    });
}

#[test]
fn after_a_run_that_changed_the_link_of_somebody_in_conflict_the_next_one_asks_nothing() {
    now(async {
        let adopt = Policies { on_conflict: OnConflict::Adopt, ..Policies::default() };
        // What the very first run would adopt is held.
        let adopted = world(&[joins("zoe", "")]);
        adopted.calm(&adopt, Pass::Frequent).await;
        happen(
            &adopted,
            &[hand_made("ann", None), hand_made("shop", Some("a@x.org")), joins("ann", "a@x.org")],
        );
        let (report, asked) = runs(&adopted, &adopt).await;
        assert_eq!(told(&report)[&2], (Word::Adopt, vec!["email_taken"]));
        assert_eq!(asked, SILENT);

        let renamed = world(&[joins("ann", "")]);
        renamed.calm(&Policies::default(), Pass::Frequent).await;
        happen(
            &renamed,
            &[
                hand_made("shop", Some("a@x.org")),
                Event::NewEmail(DefguardId(1), "a@x.org".to_owned()),
                Event::Renamed(DefguardId(1), "eve".to_owned()),
            ],
        );
        let (report, asked) = runs(&renamed, &Policies::default()).await;
        assert_eq!(told(&report)[&1], (Word::Update, vec!["email_taken"]));
        assert_eq!(asked, SILENT);
    });
}

async fn by_hand(world: &World, wish: &ByHand) -> HandDone {
    world.engine(&Policies::default()).by_hand(wish, true, None, &()).await.unwrap()
}

fn link(person: &str, localpart: &str) -> ByHand {
    ByHand::Link { person: person.to_owned(), mxid: format!("@{localpart}:example.org") }
}

fn unlink(person: &str) -> ByHand {
    ByHand::Unlink { person: person.to_owned() }
}

/// Ann had an account, which was deactivated; then our memory of it was lost.
async fn deactivated_and_forgotten() -> World {
    let world = world(&[joins("ann", ""), hand_made("fresh", None)]);
    world.calm(&Policies::default(), Pass::Frequent).await;
    happen(&world, &[Event::Deactivated("ann".to_owned()), Event::LinkLost(DefguardId(1))]);
    let report = world.calm(&Policies::default(), Pass::Frequent).await;
    assert_eq!(told(&report)[&1], (Word::Conflict, vec!["deactivated"]));
    world
}

#[test]
fn a_deactivated_account_is_replaced_by_hand_although_the_link_was_lost() {
    now(async {
        let world = deactivated_and_forgotten().await;
        let done = by_hand(&world, &link("ann", "fresh")).await;
        assert_eq!(done.refused, None);
        let told_so = |warning: &String| warning.starts_with("@ann:example.org was theirs so far");
        assert!(done.warnings.iter().any(told_so), "{:?}", done.warnings);
        let (report, asked) = runs(&world, &Policies::default()).await;
        assert_eq!((told(&report)[&1].0, asked), (Word::InStep, SILENT));
        let state = world.state();
        assert_eq!(state.accounts[&mxid("ann")].external_ids, BTreeSet::new());
        assert_eq!(state.accounts[&mxid("fresh")].external_ids, BTreeSet::from([login_id("ann"), marker(1)]));
        assert_eq!(state.opens("ann"), Some(mxid("fresh")));
    });
}

#[test]
fn an_account_that_only_its_marker_ties_to_a_person_is_untied_by_hand() {
    now(async {
        let world = deactivated_and_forgotten().await;
        assert_eq!(by_hand(&world, &unlink("ann")).await.refused, None);
        assert_eq!(world.state().accounts[&mxid("ann")].external_ids, BTreeSet::new());
        assert_eq!(world.state().opens("ann"), None);
        let again = by_hand(&world, &unlink("ann")).await;
        assert!(again.refused.is_some());
    });
}

#[test]
fn an_address_on_an_account_of_others_keeps_nobody_from_getting_an_account() {
    now(async {
        let policies = Policies::default();
        let world = world(&[hand_made("shop", Some("a@x.org")), joins("ann", "a@x.org")]);
        let (report, asked) = runs(&world, &policies).await;
        assert_eq!(told(&report)[&1], (Word::Create, vec!["email_taken"]));
        assert_eq!(asked, SILENT);
        assert_eq!(world.state().opens("ann"), Some(mxid("ann")));
        // Once the address is free, it is hers.
        world.state().accounts.get_mut(&mxid("shop")).unwrap().threepids.clear();
        let report = world.calm(&policies, Pass::Full).await;
        assert_eq!(told(&report)[&1], (Word::Update, vec![]));
        assert_eq!(world.state().accounts[&mxid("ann")].threepids.len(), 1);
    });
}

#[test]
fn whoever_is_renamed_before_their_creation_leaves_no_account_that_their_successor_opens() {
    now(async {
        let policies = Policies { concurrency: 1, ..Policies::default() };
        let mut put_off = 0;
        for at in 4.. {
            let world = world(&[joins("ann", "")]);
            let renamed = Fault::Happens(Event::Renamed(DefguardId(1), "eve".to_owned()));
            let request = RunRequest::everybody(Pass::Frequent);
            let report = world.run(&policies, &request, BTreeMap::from([(at, renamed)])).await.unwrap();
            if world.faults_met() == 0 {
                break;
            }
            put_off += usize::from(report.people[0].put_off.is_some());
            // Later than that only the next run notices it, before anybody can have that name and log in.
            assert_eq!(report.people[0].put_off.is_some(), world.state().made.is_empty(), "at {at}");
            happen(&world, &[joins("ann", "")]);
            world.calm(&policies, Pass::Frequent).await;
            let state = world.state();
            let owner =
                |subject| state.opens(subject).and_then(|mxid| state.accounts[&mxid].owner(&instance()));
            let second = owner("ann");
            assert_ne!(second, Some(DefguardId(1)), "at {at}");
        }
        assert!(put_off >= 3, "the rename is noticed right before the creation: {put_off}");
    });
}

#[test]
fn a_sync_of_one_person_asks_about_nobody_else() {
    now(async {
        let policies = Policies::default();
        let events: Vec<Event> = (0..50).map(|n| joins(&format!("p{n}"), "")).collect();
        let world = world(&events);
        for (name, most) in [("p7", 8), ("nobody", 0)] {
            world.state().single.clear();
            let only = BTreeSet::from([name.to_owned()]);
            let request = RunRequest { only, ..RunRequest::everybody(Pass::Frequent) };
            let report = world.run(&policies, &request, BTreeMap::new()).await.unwrap();
            let asked = world.state().single.clone();
            assert!(asked.len() <= most, "{asked:?}");
            assert_eq!(report.people.len(), usize::from(name == "p7"));
        }
        assert_eq!(world.state().links.keys().collect::<Vec<_>>(), [&DefguardId(8)]);
        assert_eq!(world.state().standoffs.len(), 0);
        assert_eq!(told(&world.calm(&policies, Pass::Frequent).await)[&1].0, Word::Create);
    });
}

#[test]
fn a_sync_of_one_person_looks_at_whoever_wants_the_same() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann", ""), joins("Ann", ""), joins("bob", "")]);
        let only = BTreeSet::from(["ann".to_owned()]);
        let request = RunRequest { only, ..RunRequest::everybody(Pass::Frequent) };
        let report = world.run(&policies, &request, BTreeMap::new()).await.unwrap();
        assert_eq!(told(&report), BTreeMap::from([(1, (Word::Conflict, vec!["localpart_twins"]))]));

        // The new owner of a name that somebody gives up gets it in the same run.
        happen(&world, &[Event::Leaves(DefguardId(2))]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[Event::Renamed(DefguardId(1), "eve".to_owned()), joins("ann", "")]);
        let only = BTreeSet::from(["eve".to_owned()]);
        let request = RunRequest { only, ..RunRequest::everybody(Pass::Frequent) };
        let report = world.run(&policies, &request, BTreeMap::new()).await.unwrap();
        assert_eq!(report.people.len(), 2);
    });
}

#[test]
fn a_hint_is_about_one_person_only_if_it_is_clear_about_whom() {
    now(async {
        let policies = Policies::default();
        // #1 ann, #2 bob, #3 carol; then ann is deleted and somebody new, #4, is called ann.
        let world = world(&[joins("ann", ""), joins("bob", ""), joins("carol", "")]);
        world.calm(&policies, Pass::Frequent).await;
        happen(&world, &[Event::Leaves(DefguardId(1)), joins("ann", ""), joins("dora", "")]);
        // Everybody: the five, whoever is gone among them, and the account that the service itself uses. The new ann takes
        // the login off the old one.
        for (name, people) in
            [("#2", 1), ("bob", 1), ("#1", 6), ("ann", 6), ("#4", 2), ("#9", 6), ("nobody", 6), ("@bob:x", 6)]
        {
            let request = RunRequest::hinted(BTreeSet::from([name.to_owned()]));
            let request = RunRequest { dry_run: true, ..request };
            let report = world.run(&policies, &request, BTreeMap::new()).await.unwrap();
            assert_eq!(report.people.len(), people, "{name}: {report:#?}");
            assert_eq!((report.exit_code(), report.unknown.len()), (0, 0), "{name}");
        }
        // Whoever else there is to see to is seen to then.
        let request = RunRequest::hinted(BTreeSet::from(["ann".to_owned(), "#2".to_owned()]));
        let report = world.run(&policies, &request, BTreeMap::new()).await.unwrap();
        assert_eq!(told(&report)[&5].0, Word::Create);
        assert!(world.state().links.contains_key(&DefguardId(5)));
    });
}

#[test]
fn nobody_is_linked_by_hand_on_an_incomplete_listing() {
    now(async {
        let world = world(&[joins("ann", ""), hand_made("ann", None)]);
        world.state().lacks(DefguardId(9));
        let done = by_hand(&world, &link("ann", "ann")).await;
        assert!(done.refused.unwrap().contains("could not be read completely"));
        assert_eq!(world.state().writes.len(), 0);
        assert_eq!(by_hand(&world, &link("ann", "ann")).await.refused, None);
    });
}

#[test]
fn an_incomplete_listing_does_not_say_that_somebody_in_conflict_is_in_step() {
    now(async {
        let policies = Policies::default();
        let world = world(&[joins("ann", ""), joins("cid", "")]);
        world.calm(&policies, Pass::Frequent).await;
        let bob = DefguardId(3);
        happen(&world, &[joins("bob", ""), Event::LogsIn(bob), Event::Leaves(bob)]);
        happen(&world, &[Event::Renamed(DefguardId(1), "bob".to_owned())]);
        let report = world.calm(&policies, Pass::Frequent).await;
        assert_eq!(told(&report)[&1].1, ["subject_taken"]);
        let since = world.state().standoffs[&DefguardId(1)].since;
        let faults = BTreeMap::from([(LISTING, Fault::Missing(bob))]);
        let report = world.run(&policies, &RunRequest::everybody(Pass::Frequent), faults).await.unwrap();
        assert_ne!(told(&report)[&1].0, Word::InStep);
        assert_eq!(world.state().standoffs[&DefguardId(1)].since, since);
    });
}

#[test]
fn untying_an_account_that_is_marked_for_another_says_that_it_stays_as_it_is() {
    now(async {
        let world = world(&[joins("ann", "")]);
        world.calm(&Policies::default(), Pass::Frequent).await;
        let ids = BTreeSet::from([login_id("ann"), marker(9)]);
        world.state().accounts.get_mut(&mxid("ann")).unwrap().external_ids = ids.clone();
        let done = by_hand(&world, &unlink("ann")).await;
        assert!(
            done.warnings[0].ends_with("stays as it is; only the link is removed"),
            "{:?}",
            done.warnings
        );
        assert_eq!(world.state().accounts[&mxid("ann")].external_ids, ids);
        assert_eq!(world.state().links.len(), 0);
    });
}

#[test]
fn a_second_person_whose_marker_an_account_carries_is_not_linked_to_it() {
    now(async {
        let world = world(&[joins("ann", ""), joins("bob", "")]);
        let mut both = support::world::account("both", world.state().now);
        both.external_ids = BTreeSet::from([marker(1), marker(2)]);
        world.state().accounts.insert(mxid("both"), both);
        let (report, asked) = runs(&world, &Policies::default()).await;
        assert_eq!(told(&report)[&2], (Word::Conflict, vec!["marked_for_other"]));
        assert_eq!(asked, SILENT);
        assert_eq!(world.state().links.len(), 1);
    });
}
