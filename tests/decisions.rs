//! Decisions that were wrong once, each with the smallest number of people that showed it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;

use chrono::TimeDelta;
use defguard_synapse_sync::{
    domain::{Conflict, DefguardId, OnConflict},
    engine::RunReport,
    reconcile::{Pass, State as Word},
};
use support::world::{Event, Kind, Policies, World};

fn joins(username: &str, email: &str) -> Event {
    Event::Joins { username: username.to_owned(), email: email.to_owned() }
}

fn hand_made(localpart: &str, email: Option<&str>) -> Event {
    Event::HandMade { localpart: localpart.to_owned(), email: email.map(str::to_owned), kind: Kind::Plain }
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
        for person in &report.people {
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
        let adopted =
            world(&[hand_made("ann", None), hand_made("shop", Some("a@x.org")), joins("ann", "a@x.org")]);
        let (report, asked) = runs(&adopted, &adopt).await;
        assert_eq!(told(&report)[&1], (Word::Adopt, vec!["email_taken"]));
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
