//! Laws that hold whatever people, admins and networks do, tried on random stories in the world in memory.
//! `PROPTEST_CASES` sets how many stories each law is tried on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use defguard_synapse_sync::{
    domain::{Account, Change, CreateMode, DefguardId, FieldPolicy, Mxid, OnConflict, ThreePid},
    engine::{RunReport, RunRequest},
    reconcile::{Pass, State as Word},
};
use proptest::{prelude::*, sample::select};
use support::world::{
    Event, Extra, Fault, Kind, LISTING, PROVIDER, Policies, State, World, instance, login_id, marker, now,
};

/// What is done, run by run.
#[derive(Debug, Clone)]
struct Story {
    policies: Policies,
    rounds: Vec<Round>,
}

#[derive(Debug, Clone)]
struct Round {
    events: Vec<Event>,
    pass: Pass,
    /// Only this person is synced, and whoever is dealt with together with them.
    only: Option<DefguardId>,
    faults: BTreeMap<usize, Fault>,
}

impl Round {
    /// A run for everybody before which nothing happened.
    fn quiet(pass: Pass) -> Self {
        Self { events: Vec::new(), pass, only: None, faults: BTreeMap::new() }
    }
}

const NAMES: [&str; 9] = ["ann", "Ann", "ANN", "bob", "Bob", "cid", "dan", "eve", "_odd"];
const LOCALPARTS: [&str; 7] = ["ann", "ann1", "bob", "bob1", "cid", "dan", "eve"];
const EMAILS: [&str; 8] =
    ["a@x.org", "A@x.org", "b@x.org", "c@x.org", "stra\u{df}e@x.org", "strasse@x.org", "", "no address"];

fn id() -> impl Strategy<Value = DefguardId> {
    (1_i64..8).prop_map(DefguardId)
}

fn text(from: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(from).prop_map(str::to_owned)
}

fn ids() -> impl Strategy<Value = Vec<DefguardId>> {
    prop::collection::vec(id(), 2..5)
}

fn extra() -> impl Strategy<Value = Extra> {
    prop_oneof![
        (0_u8..2).prop_map(Extra::Email),
        (0_u8..2).prop_map(Extra::Phone),
        (0_u8..2).prop_map(Extra::OtherProvider)
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let kind = select(vec![
        Kind::Plain,
        Kind::Plain,
        Kind::Plain,
        Kind::Admin,
        Kind::Bot,
        Kind::Bridge,
        Kind::Locked,
        Kind::OtherInstance,
    ]);
    prop_oneof![
        4 => (text(&NAMES), text(&EMAILS)).prop_map(|(username, email)| Event::Joins { username, email }),
        4 => (id(), text(&NAMES)).prop_map(|(id, name)| Event::Renamed(id, name)),
        3 => ids().prop_map(Event::NamesGoRound),
        2 => ids().prop_map(Event::EmailsGoRound),
        2 => (id(), text(&EMAILS)).prop_map(|(id, email)| Event::NewEmail(id, email)),
        2 => (id(), text(&["A", "B", "", " "])).prop_map(|(id, name)| Event::NewName(id, name)),
        2 => (id(), any::<bool>()).prop_map(|(id, active)| Event::Active(id, active)),
        1 => (id(), any::<bool>()).prop_map(|(id, out)| Event::Group(id, out)),
        2 => id().prop_map(Event::Leaves),
        2 => id().prop_map(Event::LogsIn),
        4 => text(&NAMES).prop_map(Event::TriesName),
        2 => (text(&LOCALPARTS), prop::option::of(text(&EMAILS)), kind)
            .prop_map(|(localpart, email, kind)| Event::HandMade { localpart, email, kind }),
        2 => (text(&LOCALPARTS), extra()).prop_map(|(localpart, extra)| Event::Foreign(localpart, extra)),
        1 => (text(&LOCALPARTS), text(&["Mine", "Own"])).prop_map(|(localpart, name)| Event::OwnDisplayName(localpart, name)),
        1 => text(&LOCALPARTS).prop_map(Event::Deactivated),
        1 => (text(&LOCALPARTS), any::<bool>()).prop_map(|(localpart, locked)| Event::Locked(localpart, locked)),
        1 => id().prop_map(Event::LinkLost),
    ]
}

fn joining() -> impl Strategy<Value = Event> {
    (text(&NAMES), text(&EMAILS)).prop_map(|(username, email)| Event::Joins { username, email })
}

fn policies() -> impl Strategy<Value = Policies> {
    let field = || {
        select(vec![
            FieldPolicy::Enforce,
            FieldPolicy::Enforce,
            FieldPolicy::OnChange,
            FieldPolicy::OnChange,
            FieldPolicy::Initial,
            FieldPolicy::Ignore,
        ])
    };
    let on_conflict =
        select(vec![OnConflict::Report, OnConflict::AdoptIfSameEmail, OnConflict::Adopt, OnConflict::Suffix]);
    let create = select(vec![CreateMode::Auto, CreateMode::OneRequest, CreateMode::EmptyFirst]);
    (on_conflict, field(), field(), any::<bool>(), create, select(vec![1_usize, 8])).prop_map(
        |(on_conflict, display_name, email, open_registration, create, concurrency)| Policies {
            on_conflict,
            display_name,
            email,
            open_registration,
            create,
            concurrency,
            ..Policies::default()
        },
    )
}

fn pass() -> impl Strategy<Value = Pass> {
    select(vec![Pass::Frequent, Pass::Frequent, Pass::Full])
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::Cut),
        3 => Just(Fault::ReplyLost),
        1 => Just(Fault::Unauthorised),
        1 => Just(Fault::RateLimited),
        1 => Just(Fault::Refused),
        2 => Just(Fault::CrashBefore),
        2 => Just(Fault::CrashAfter),
        2 => happening().prop_map(Fault::Happens),
    ]
}

/// Something that can happen while a run is going on. Accounts that turn up have a law of their own, and what others
/// put on an account between our look and our write is lost: Synapse replaces the whole list.
fn happening() -> impl Strategy<Value = Event> {
    event().prop_filter("makes no account", |event| {
        !matches!(
            event,
            Event::HandMade { .. }
                | Event::LogsIn(_)
                | Event::LinkLost(_)
                | Event::Foreign(..)
                | Event::Deactivated(_)
        )
    })
}

fn faults() -> impl Strategy<Value = BTreeMap<usize, Fault>> {
    let any_call = prop::collection::btree_map(4_usize..70, fault(), 0..6);
    let listing = prop_oneof![6 => Just(None), 1 => id().prop_map(Some)];
    (any_call, listing).prop_map(|(mut faults, missing)| {
        if let Some(id) = missing {
            faults.insert(LISTING, Fault::Missing(id));
        }
        faults
    })
}

fn rounds(faulty: bool) -> impl Strategy<Value = Vec<Round>> {
    let faults = if faulty { faults().boxed() } else { Just(BTreeMap::new()).boxed() };
    let only = prop_oneof![5 => Just(None), 1 => id().prop_map(Some)];
    let later = (prop::collection::vec(event(), 0..7), pass(), only, faults.clone());
    let first =
        (prop::collection::vec(joining(), 2..7), prop::collection::vec(event(), 0..5), pass(), faults)
            .prop_map(|(mut events, more, pass, faults)| {
                events.extend(more);
                Round { events, pass, only: None, faults }
            });
    let later = later.prop_map(|(events, pass, only, faults)| Round { events, pass, only, faults });
    (first, prop::collection::vec(later, 0..4))
        .prop_map(|(first, later)| std::iter::once(first).chain(later).collect())
}

fn story(faulty: bool) -> impl Strategy<Value = Story> {
    (policies(), rounds(faulty)).prop_map(|(policies, rounds)| Story { policies, rounds })
}

/// Plays one round: what happens, then the run. The laws that hold at all times are checked on the way.
async fn play(world: &World, policies: &Policies, round: &Round) -> Option<RunReport> {
    let before = {
        let mut state = world.state();
        state.now += TimeDelta::hours(1);
        for event in &round.events {
            state.happens(event);
        }
        state.clone()
    };
    let only = round.only.iter().map(|id| format!("#{id}")).collect();
    let request = RunRequest { only, ..RunRequest::everybody(round.pass) };
    let report = world.run(policies, &request, round.faults.clone()).await;
    let after = world.state().clone();
    only_owned_accounts_are_written(policies, &before, &after);
    nobody_is_locked_out(&before, &after);
    what_others_put_there_stays(&after);
    links_stay_what_they_are(&before, &after, round.faults.is_empty() && round.only.is_none());
    if round.faults.values().any(|fault| matches!(fault, Fault::Missing(_))) {
        an_incomplete_listing_creates_nobody(&before, &after);
    }
    if round.faults.is_empty() {
        let report = report.as_ref().unwrap();
        nobody_fails_without_a_fault(report);
        nobody_is_robbed(&before, &after);
    }
    if round.faults.is_empty() && round.only.is_none() {
        let report = report.as_ref().unwrap();
        logins_open_the_right_account(&after, report);
    }
    report
}

fn only_owned_accounts_are_written(policies: &Policies, before: &State, after: &State) {
    let adopts = matches!(policies.on_conflict, OnConflict::Adopt | OnConflict::AdoptIfSameEmail);
    for write in &after.writes[before.writes.len()..] {
        let Some(was) = &write.before else { continue };
        if write.after.as_ref() == Some(was) {
            continue;
        }
        let untouchable = was.summary.admin
            || was.summary.user_type.is_some()
            || was.appservice.is_some()
            || was.summary.guest
            || was.summary.locked
            || was.summary.deactivated;
        let ours = was.owner(&instance()).is_some() || write.linked || after.made.contains(&write.mxid);
        assert!(
            ours || (adopts && !untouchable && !was.is_marked()),
            "{} was written and is nobody's of ours",
            write.mxid
        );
    }
}

fn nobody_is_locked_out(before: &State, after: &State) {
    for write in &after.writes[before.writes.len()..] {
        if let (Some(was), Some(is)) = (&write.before, &write.after) {
            assert_eq!(
                (was.summary.locked, was.summary.deactivated, was.summary.admin),
                (is.summary.locked, is.summary.deactivated, is.summary.admin)
            );
        }
    }
}

fn what_others_put_there_stays(after: &State) {
    for (mxid, extra) in &after.foreign {
        let account = &after.accounts[mxid];
        let localpart = mxid.localpart();
        let there = match extra {
            Extra::Email(n) => account.threepids.contains(&ThreePid {
                medium: "email".to_owned(),
                address: format!("{localpart}{n}@home.example"),
            }),
            Extra::Phone(n) => account
                .threepids
                .contains(&ThreePid { medium: "msisdn".to_owned(), address: format!("+49 {n}") }),
            Extra::OtherProvider(n) => account
                .external_ids
                .iter()
                .any(|id| id.auth_provider == "oidc-other" && id.external_id == format!("{localpart}{n}")),
        };
        assert!(there, "{extra:?} of {mxid} is gone");
    }
}

fn links_stay_what_they_are(before: &State, after: &State, calm: bool) {
    let mut accounts = BTreeSet::new();
    let mut subjects = BTreeSet::new();
    for (id, link) in &after.links {
        if let Some(old) = before.links.get(id) {
            assert_eq!(old.mxid, link.mxid, "an MXID never changes");
        }
        assert!(accounts.insert(&link.mxid), "{} is linked twice", link.mxid);
        // A run that did not get to the end may have left the old subject in the link of somebody who waits.
        if let (true, Some(subject)) = (calm, &link.subject) {
            assert!(subjects.insert(subject), "the subject {subject} is linked twice");
        }
    }
    for id in before.links.keys() {
        assert!(after.links.contains_key(id), "the link of #{id} is gone");
    }
}

fn an_incomplete_listing_creates_nobody(before: &State, after: &State) {
    for write in &after.writes[before.writes.len()..] {
        let was = write.before.as_ref().expect("nobody is created");
        let is = write.after.as_ref().unwrap();
        assert_eq!(was.external_ids, is.external_ids, "no external id changes");
    }
}

fn nobody_fails_without_a_fault(report: &RunReport) {
    assert_eq!(report.failure, None);
    for person in &report.people {
        assert_eq!(person.failure, None, "#{} failed without a fault", person.id);
        assert_eq!(person.put_off, None, "#{} was put off without a fault", person.id);
    }
}

fn nobody_is_robbed(before: &State, after: &State) {
    for write in &after.writes[before.writes.len()..] {
        assert_eq!(write.robbed, None, "an e-mail address moved without a word to {}", write.mxid);
        assert_eq!(write.refused, None, "a write to {} was refused", write.mxid);
    }
}

fn logins_open_the_right_account(state: &State, report: &RunReport) {
    for person in &report.people {
        if !state.is_wanted(person.id) {
            continue;
        }
        let opened = state.opens(state.people[&person.id].username.as_str());
        let own = state.links.get(&person.id).map(|link| &link.mxid);
        if own.is_some() && person.conflicts.is_empty() {
            assert_eq!(opened.as_ref(), own, "the login of #{} ({:?})", person.id, person.state);
        }
        // Synapse refuses a login that opens a deactivated account.
        if let Some(opened) = opened.as_ref().filter(|opened| !state.accounts[*opened].summary.deactivated) {
            let owner = state.links.iter().find(|(_, link)| link.mxid == *opened).map(|(id, _)| *id);
            assert!(
                owner.is_none_or(|owner| owner == person.id || !state.is_wanted(owner)),
                "the login of #{} ({:?}) opens {opened}, the account of #{owner:?}",
                person.id,
                person.state
            );
        }
    }
}

/// A few runs without faults, after which nothing must be left to do.
async fn settle(world: &World, policies: &Policies) {
    for pass in [Pass::Frequent, Pass::Full, Pass::Frequent] {
        play(world, policies, &Round::quiet(pass)).await;
    }
}

async fn is_settled(world: &World, policies: &Policies) {
    let (writes, links, journal) = {
        let mut state = world.state();
        state.single.clear();
        (state.writes.len(), state.links.clone(), state.journal.len())
    };
    let report = world.calm(policies, Pass::Frequent).await;
    let state = world.state();
    assert_eq!(state.single, Vec::<String>::new(), "a run with nothing to do asks for nothing single");
    assert_eq!(state.writes.len(), writes, "a run with nothing to do writes nothing");
    assert_eq!(state.links, links);
    assert_eq!(state.journal.len(), journal);
    assert_eq!(state.intents, BTreeMap::new(), "no intent is left");
    assert_eq!(state.backoff, BTreeMap::new(), "nobody is still counted as failing");
    for (id, cached) in &state.cache {
        if let Some(mxid) = cached {
            assert!(state.accounts[mxid].external_ids.contains(id), "Synapse still answers {mxid} for {id}");
        }
    }
    for person in &report.people {
        assert!(person.steps.is_empty(), "#{} still has steps", person.id);
        if person.state == Word::InStep {
            let account = &state.accounts[&state.links[&person.id].mxid];
            let login = login_id(state.people[&person.id].username.as_str());
            let logins: Vec<_> = account.logins(PROVIDER).collect();
            assert_eq!(logins, [&login], "the logins of #{}", person.id);
        }
        let known = [Word::InStep, Word::Conflict, Word::Disabled, Word::OutOfScope];
        assert!(known.contains(&person.state), "#{} is {:?}", person.id, person.state);
    }
}

/// The journal tells each change of an account once, with what was there before.
fn the_journal_is_true(state: &State) {
    type Told<'a> = BTreeMap<(&'a Mxid, String), i64>;
    let mut told: Told<'_> = BTreeMap::new();
    for entry in &state.journal {
        match &entry.change {
            Change::Adopted | Change::Relinked | Change::Linked | Change::Unlinked => {}
            Change::Created => {
                *told.entry((&entry.mxid, "created".to_owned())).or_default() += 1;
            }
            change => *told.entry((&entry.mxid, format!("{change:?}"))).or_default() += 1,
        }
    }
    let emails = |account: &Account| -> BTreeSet<String> {
        let emails = account.threepids.iter().filter(|threepid| threepid.medium == "email");
        emails.map(|threepid| threepid.address.clone()).collect()
    };
    let mut seen: Told<'_> = BTreeMap::new();
    let mut filling: Told<'_> = BTreeMap::new();
    for write in &state.writes {
        let Some(is) = &write.after else { continue };
        let Some(was) = &write.before else {
            // One that others changed before we could finish it is nobody's: a conflict tells of it, or it is adopted.
            let adopted =
                state.journal.iter().any(|entry| entry.change == Change::Adopted && entry.mxid == write.mxid);
            let ours = !adopted && state.accounts[&write.mxid].owner(&instance()).is_some();
            *if ours { &mut seen } else { &mut filling }
                .entry((&write.mxid, "created".to_owned()))
                .or_default() += 1;
            continue;
        };
        let mut changes = Vec::new();
        if was.summary.display_name != is.summary.display_name {
            let (before, after) = (was.summary.display_name.clone(), is.summary.display_name.clone());
            changes.push(Change::DisplayName { before, after });
        }
        if emails(was) != emails(is) {
            changes.push(Change::Emails { before: emails(was), after: emails(is) });
        }
        if was.external_ids != is.external_ids {
            let (before, after) = (was.external_ids.clone(), is.external_ids.clone());
            changes.push(Change::ExternalIds { before, after });
        }
        // What completes an account that we made is part of its creation, and need not be told again.
        let fills = was.owner(&instance()).is_none() && state.made.contains(&write.mxid);
        let count = if fills { &mut filling } else { &mut seen };
        for change in changes {
            *count.entry((&write.mxid, format!("{change:?}"))).or_default() += 1;
        }
    }
    for (what, times) in &seen {
        assert!(told.get(what).unwrap_or(&0) >= times, "{what:?} is not in the journal");
    }
    for (what, times) in &told {
        let happened = seen.get(what).unwrap_or(&0) + filling.get(what).unwrap_or(&0);
        assert!(*times <= happened, "{what:?} is in the journal more often than it happened");
    }
}

/// The account and the subject of a link.
type Ties = (Mxid, Option<String>);

/// What is the same however the work was interrupted.
fn outcome(state: &State) -> (BTreeMap<Mxid, Account>, BTreeMap<DefguardId, Ties>) {
    let accounts = state
        .accounts
        .iter()
        .map(|(mxid, account)| (mxid.clone(), Account { created_at: 0, ..account.clone() }));
    let links = state.links.iter().map(|(id, link)| {
        (*id, (link.mxid.clone(), link.subject.as_ref().map(|subject| subject.as_str().to_owned())))
    });
    (accounts.collect(), links.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_faults_it_converges_and_then_asks_nothing(story in story(false)) {
        now(async {
            let world = World::new();
            for round in &story.rounds {
                play(&world, &story.policies, round).await;
            }
            settle(&world, &story.policies).await;
            is_settled(&world, &story.policies).await;
            the_journal_is_true(&world.state());
        });
    }

    #[test]
    fn a_frequent_run_right_after_a_calm_one_asks_nothing(story in story(false)) {
        now(async {
            let world = World::new();
            for round in &story.rounds {
                play(&world, &story.policies, round).await;
            }
            play(&world, &story.policies, &Round::quiet(Pass::Frequent)).await;
            world.state().single.clear();
            world.calm(&story.policies, Pass::Frequent).await;
            assert_eq!(world.state().single, Vec::<String>::new());
        });
    }

    #[test]
    fn after_any_faults_it_converges_and_then_asks_nothing(story in story(true)) {
        now(async {
            let world = World::new();
            for round in &story.rounds {
                play(&world, &story.policies, round).await;
            }
            settle(&world, &story.policies).await;
            is_settled(&world, &story.policies).await;
            the_journal_is_true(&world.state());
        });
    }

    #[test]
    fn how_many_are_worked_on_at_once_makes_no_difference(story in story(false)) {
        now(async {
            let mut outcomes = Vec::new();
            for concurrency in [1, 8] {
                let world = World::new();
                let policies = Policies { concurrency, ..story.policies };
                for round in &story.rounds {
                    play(&world, &policies, round).await;
                }
                outcomes.push(outcome(&world.state()));
            }
            assert_eq!(outcomes[0], outcomes[1]);
        });
    }

    #[test]
    fn a_crash_anywhere_changes_nothing_in_the_end(story in story(false), at in 0.0..1.0_f64, after: bool, again: bool) {
        now(async {
            let policies = &story.policies;
            let world = World::new();
            let (last, earlier) = story.rounds.split_last().unwrap();
            for round in earlier {
                play(&world, policies, round).await;
            }
            {
                let mut state = world.state();
                for event in &last.events {
                    state.happens(event);
                }
            }
            let last = Round { events: Vec::new(), ..last.clone() };
            let calm = world.fork();
            play(&calm, policies, &last).await;
            let calls = calm.calls();
            settle(&calm, policies).await;

            let crash = if after { Fault::CrashAfter } else { Fault::CrashBefore };
            let at = 1 + (at * calls as f64) as usize;
            for _ in 0..if again { 2 } else { 1 } {
                let faults = BTreeMap::from([(at, crash.clone())]);
                play(&world, policies, &Round { faults, ..last.clone() }).await;
            }
            play(&world, policies, &last).await;
            settle(&world, policies).await;
            is_settled(&world, policies).await;
            assert_eq!(outcome(&calm.state()), outcome(&world.state()));
            the_journal_is_true(&world.state());
        });
    }

    #[test]
    fn a_dry_run_writes_nothing_anywhere(story in story(true)) {
        now(async {
            let world = World::new();
            for round in &story.rounds {
                play(&world, &story.policies, round).await;
                let (writes, stored) = { let state = world.state(); (state.writes.len(), state.stored) };
                for pass in [Pass::Frequent, Pass::Full] {
                    let request = RunRequest { dry_run: true, ..RunRequest::everybody(pass) };
                    world.run(&story.policies, &request, BTreeMap::new()).await.unwrap();
                }
                let state = world.state();
                assert_eq!((state.writes.len(), state.stored), (writes, stored));
            }
        });
    }

    #[test]
    fn an_account_that_turns_up_during_a_run_is_not_taken_over(
        story in story(false),
        localpart in text(&LOCALPARTS),
        at in 4_usize..40,
    ) {
        now(async {
            let policies =
                Policies { create: CreateMode::EmptyFirst, on_conflict: OnConflict::Report, ..story.policies };
            let world = World::new();
            for round in &story.rounds {
                let hand_made = Event::HandMade { localpart: localpart.clone(), email: None, kind: Kind::Plain };
                let round = Round { faults: BTreeMap::from([(at, Fault::Happens(hand_made))]), ..round.clone() };
                play(&world, &policies, &round).await;
            }
            settle(&world, &policies).await;
            is_settled(&world, &policies).await;
        });
    }
}

#[test]
fn the_words_of_the_world_are_the_words_of_the_program() {
    assert_eq!(login_id("ann").to_string(), "oidc-Defguard:ann");
    assert_eq!(marker(7).to_string(), "defguard-synapse-sync:hq/7");
}
