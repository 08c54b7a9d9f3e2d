//! Laws that hold whatever people, admins and networks do, tried on random stories in the world in memory.
//! `PROPTEST_CASES` sets how many stories each law is tried on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use defguard_synapse_sync::{
    domain::{
        Account, Change, Completeness, CreateMode, DefguardId, FieldPolicy, GuardLimits, Harm, Held,
        HeldStep, Leaving, Mxid, OnConflict, OnLeave, SessionsOnLock, ThreePid,
    },
    engine::{Engine, RunReport, RunRequest},
    reconcile::{Note, Pass, State as Word},
};
use proptest::{prelude::*, sample::select};
use support::world::{
    ACCOUNTS, By, Event, Extra, Fault, Kind, LISTING, Memory, NO_LIMITS, PROTECTED, PROVIDER, Policies,
    SECOND_LISTING, State, World, instance, login_id, marker, now,
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
    /// How many minutes after the run before.
    gap: i64,
    /// Whether the process was started anew.
    restart: bool,
    /// What befalls our memory before the run.
    upheaval: Option<Upheaval>,
    /// What somebody approves of.
    approve: Option<Approve>,
}

impl Round {
    /// A run for everybody before which nothing happened.
    fn quiet(pass: Pass) -> Self {
        Self {
            events: Vec::new(),
            pass,
            only: None,
            faults: BTreeMap::new(),
            gap: HALF_A_DAY,
            restart: true,
            upheaval: None,
            approve: None,
        }
    }

    /// A run in which what was held last is approved of.
    fn approving(pass: Pass) -> Self {
        Self { approve: Some(Approve::Last), ..Self::quiet(pass) }
    }
}

/// In minutes.
const HALF_A_DAY: i64 = 720;

/// What befalls the memory of a daemon.
#[derive(Debug, Clone)]
enum Upheaval {
    /// The store is gone, and perhaps what the homeserver keeps of it as well.
    Wiped { record: bool },
    /// The store is replaced by the copy that was made so many runs ago.
    Older(usize),
    /// A second daemon is set up, with a copy of the store or with one of its own.
    SecondIsSetUp { copy: bool },
    /// It runs.
    SecondRuns,
    /// An admin stops the second daemon and puts the newest copy of the store back.
    Mended,
    /// An admin has the links found again by the markers.
    Rebuilt,
}

/// What somebody says yes to.
#[derive(Debug, Clone, Copy)]
enum Approve {
    /// What was held last.
    Last,
    /// What was held some time.
    Former(usize),
}

const NAMES: [&str; 10] = ["ann", "Ann", "ANN", "bob", "Bob", "cid", "dan", "eve", "_odd", PROTECTED];
const LOCALPARTS: [&str; 8] = ["ann", "ann1", "bob", "bob1", "cid", "dan", "eve", PROTECTED];
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
        2 => (id(), any::<bool>()).prop_map(|(id, out)| Event::Group(id, out)),
        1 => (id(), any::<bool>()).prop_map(|(id, staff)| Event::Staff(id, staff)),
        3 => id().prop_map(Event::Leaves),
        2 => id().prop_map(Event::LogsIn),
        4 => text(&NAMES).prop_map(Event::TriesName),
        2 => (text(&LOCALPARTS), prop::option::of(text(&EMAILS)), kind)
            .prop_map(|(localpart, email, kind)| Event::HandMade { localpart, email, kind }),
        2 => (text(&LOCALPARTS), extra()).prop_map(|(localpart, extra)| Event::Foreign(localpart, extra)),
        1 => (text(&LOCALPARTS), text(&["Mine", "Own"])).prop_map(|(localpart, name)| Event::OwnDisplayName(localpart, name)),
        1 => text(&LOCALPARTS).prop_map(Event::Deactivated),
        1 => text(&LOCALPARTS).prop_map(Event::Reactivated),
        1 => (text(&LOCALPARTS), any::<bool>()).prop_map(|(localpart, admin)| Event::Admin(localpart, admin)),
        1 => text(&LOCALPARTS).prop_map(Event::Notifies),
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
    let known = (on_conflict, field(), field(), any::<bool>(), create, select(vec![1_usize, 8]));
    let on_leave = select(vec![OnLeave::Lock, OnLeave::Lock, OnLeave::Deactivate, OnLeave::Ignore]);
    let sessions = select(vec![None, None, Some(SessionsOnLock::Keep), Some(SessionsOnLock::End)]);
    let deactivate_after = select(vec![None, None, Some(0), Some(1), Some(20)]);
    let leavers = (on_leave, sessions, deactivate_after);
    (known, leavers).prop_map(
        |((on_conflict, display_name, email, open_registration, create, concurrency), leavers)| Policies {
            on_conflict,
            display_name,
            email,
            open_registration,
            create,
            concurrency,
            on_leave: leavers.0,
            sessions_on_lock: leavers.1,
            deactivate_after_days: leavers.2,
            guard: NO_LIMITS,
        },
    )
}

/// Limits that even these small worlds reach.
fn limits() -> impl Strategy<Value = GuardLimits> {
    select(vec![
        GuardLimits { min_count: 1, percent: 10, max_count: 50, shrink_percent: 30 },
        GuardLimits { min_count: 2, percent: 0, max_count: 2, shrink_percent: 10 },
        GuardLimits { min_count: 1, percent: 60, max_count: 1, shrink_percent: 0 },
    ])
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
    let any = event().prop_filter("makes no account", |event| {
        !matches!(
            event,
            Event::HandMade { .. }
                | Event::LogsIn(_)
                | Event::LinkLost(_)
                | Event::Foreign(..)
                | Event::Deactivated(_)
                | Event::Reactivated(_)
        )
    });
    prop_oneof![6 => any, 1 => clock()]
}

/// A jump of our clock, of minutes or of weeks.
fn clock() -> impl Strategy<Value = Event> {
    prop_oneof![(-60_i64..60), (-40_000_i64..40_000)].prop_map(Event::Clock)
}

/// What befalls one reading of the list of people.
fn listing_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        2 => id().prop_map(Fault::Missing),
        6 => (id(), prop::option::of(text(&NAMES)))
            .prop_map(|(lacks, renamed)| Fault::Deceives { lacks, renamed }),
        1 => (0_usize..5).prop_map(Fault::Truncated),
        1 => (id(), any::<bool>()).prop_map(|(id, differs)| Fault::Doubled { id, differs }),
        1 => Just(Fault::Stale),
    ]
}

fn faults() -> impl Strategy<Value = BTreeMap<usize, Fault>> {
    let any_call = prop::collection::btree_map(4_usize..70, fault(), 0..6);
    let listing = prop::option::weighted(0.4, listing_fault());
    let second = prop::option::weighted(0.2, listing_fault());
    let accounts = prop::option::weighted(0.1, Just(Fault::Stale));
    (any_call, listing, second, accounts).prop_map(|(mut faults, listing, second, accounts)| {
        let places = [(LISTING, listing), (SECOND_LISTING, second), (ACCOUNTS, accounts)];
        faults.extend(places.into_iter().filter_map(|(place, fault)| Some((place, fault?))));
        faults
    })
}

/// What can go wrong in a story.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// Servers, network, disk, clock and process.
    Faults,
    /// All that, the store itself, and a second daemon.
    Memory,
}

fn round(trouble: Trouble) -> impl Strategy<Value = Round> {
    let faults = match trouble {
        Trouble::None => Just(BTreeMap::new()).boxed(),
        Trouble::Faults => faults().boxed(),
        Trouble::Memory => {
            let second = prop::collection::btree_map(1_usize..50, Just(Fault::SecondRuns), 0..3);
            (prop_oneof![Just(BTreeMap::new()), faults()], second)
                .prop_map(|(mut faults, second)| {
                    // A lease lasts longer than a run, unless the clock jumps in the middle of it.
                    faults.retain(|_, fault| !matches!(fault, Fault::Happens(Event::Clock(_))));
                    faults.extend(second);
                    faults
                })
                .boxed()
        }
    };
    let event = match trouble {
        Trouble::None => event().boxed(),
        Trouble::Faults => prop_oneof![30 => event(), 1 => clock()].boxed(),
        // A single link does not get lost where the whole memory does, and comes back.
        Trouble::Memory => {
            event().prop_filter("loses no link", |event| !matches!(event, Event::LinkLost(_))).boxed()
        }
    };
    let upheaval = match trouble {
        Trouble::Memory => prop::option::weighted(
            0.5,
            prop_oneof![
                1 => any::<bool>().prop_map(|record| Upheaval::Wiped { record }),
                2 => (0_usize..4).prop_map(Upheaval::Older),
                2 => any::<bool>().prop_map(|copy| Upheaval::SecondIsSetUp { copy }),
                3 => Just(Upheaval::SecondRuns),
                1 => Just(Upheaval::Mended),
                2 => Just(Upheaval::Rebuilt),
            ],
        )
        .boxed(),
        _ => Just(None).boxed(),
    };
    let approve = prop_oneof![
        4 => Just(None),
        2 => Just(Some(Approve::Last)),
        1 => (0_usize..4).prop_map(|back| Some(Approve::Former(back)))
    ];
    let only = prop_oneof![5 => Just(None), 1 => id().prop_map(Some)];
    let gap = select(vec![5_i64, 45, HALF_A_DAY, HALF_A_DAY]);
    let when = (gap, any::<bool>(), upheaval, approve);
    (prop::collection::vec(event, 0..7), pass(), only, faults, when).prop_map(
        |(events, pass, only, faults, (gap, restart, upheaval, approve))| Round {
            events,
            pass,
            only,
            faults,
            gap,
            restart,
            upheaval,
            approve,
        },
    )
}

fn rounds(trouble: Trouble) -> impl Strategy<Value = Vec<Round>> {
    let first = (prop::collection::vec(joining(), 2..7), round(trouble)).prop_map(|(mut events, round)| {
        events.extend(round.events);
        Round { events, only: None, upheaval: None, ..round }
    });
    (first, prop::collection::vec(round(trouble), 0..6))
        .prop_map(|(first, later)| std::iter::once(first).chain(later).collect())
}

fn story(trouble: Trouble) -> impl Strategy<Value = Story> {
    (policies(), rounds(trouble)).prop_map(|(policies, rounds)| Story { policies, rounds })
}

/// A story in which the guard holds things.
fn guarded(trouble: Trouble) -> impl Strategy<Value = Story> {
    (story(trouble), limits())
        .prop_map(|(story, guard)| Story { policies: Policies { guard, ..story.policies }, ..story })
}

/// Plays stories. The laws that hold at all times are checked on the way.
struct Player {
    world: World,
    policies: Policies,
    /// The process, as long as it lives.
    engine: Option<Engine>,
    /// Copies of the store, one after each run.
    copies: Vec<Memory>,
    /// What was held, run by run.
    held: Vec<Held>,
    wiped: usize,
}

impl Player {
    fn new(policies: &Policies) -> Self {
        Self::of(World::new(), policies)
    }

    fn of(world: World, policies: &Policies) -> Self {
        let (copies, held) = (Vec::new(), Vec::new());
        Self { world, policies: *policies, engine: None, copies, held, wiped: 0 }
    }

    async fn all(policies: &Policies, rounds: &[Round]) -> Self {
        let mut player = Self::new(policies);
        for round in rounds {
            player.play(round).await;
        }
        player
    }

    /// One round: what happens, then the run.
    async fn play(&mut self, round: &Round) -> Option<RunReport> {
        if let Some(upheaval) = &round.upheaval {
            self.befalls(upheaval).await;
        }
        let calm = round.faults.is_empty();
        let approved = self.approved(round);
        let before = {
            let mut state = self.world.state();
            state.pause = TimeDelta::zero();
            state.now += TimeDelta::minutes(round.gap);
            state.becomes_past();
            for event in &round.events {
                state.happens(event);
            }
            state.clone()
        };
        let only = round.only.iter().map(|id| format!("#{id}")).collect();
        let approve = approved.as_ref().and_then(|held| held.digest.clone());
        let request = RunRequest { only, approve, ..RunRequest::everybody(round.pass) };
        let unapproved = if calm && approved.is_some() {
            let world = self.world.fork();
            world
                .run(&self.policies, &RunRequest { approve: None, ..request.clone() }, BTreeMap::new())
                .await;
            Some(world.state().clone())
        } else {
            None
        };
        if round.restart {
            self.engine = None;
        }
        let engine = self.engine.take().unwrap_or_else(|| self.world.engine(&self.policies));
        let report = self.world.run_of(&engine, &request, round.faults.clone()).await;
        if report.is_some() {
            self.engine = Some(engine);
        }
        let after = {
            let mut state = self.world.state();
            state.pause = TimeDelta::hours(12);
            if let Some(report) = &report
                && round.only.is_none()
                && report.failure.is_none()
            {
                let seen: Vec<_> =
                    report.people.iter().filter(|it| it.state != Word::Gone).map(|it| it.id).collect();
                state.passed_over.retain(|id, _| !seen.contains(id));
            }
            state.clone()
        };
        self.copies.extend(after.memories.iter().cloned());
        self.held.extend(report.as_ref().and_then(|report| report.held.clone()));

        only_owned_accounts_are_written(&self.policies, &before, &after);
        the_ladder_is_kept(&self.policies, &before, &after);
        nobody_loses_their_login(&before, &after);
        what_others_put_there_stays(&after);
        let doubt = before.is_in_doubt(0, "here");
        let clock = |fault: &Fault| matches!(fault, Fault::Happens(Event::Clock(_)));
        if doubt && !round.faults.values().any(clock) {
            after.nothing_harmful_since(before.writes.len(), before.ended.len(), 0);
        }
        let settled = calm && round.only.is_none() && !doubt;
        links_stay_what_they_are(&before, &after, settled && self.policies.guard == NO_LIMITS);
        let completeness = report.as_ref().and_then(|report| report.completeness.as_ref());
        if matches!(completeness, Some(Completeness::Incomplete(_))) {
            an_incomplete_listing_creates_nobody(&before, &after);
        }
        if calm {
            let report = report.as_ref().unwrap();
            assert_eq!(report.failure, None);
            // Beside another daemon everybody is put off.
            if !doubt {
                nobody_fails_without_a_fault(report);
            }
            nobody_is_robbed(&before, &after);
            if let (Some(unapproved), Some(approved)) = (&unapproved, &approved) {
                only_what_was_approved_of_is_done(&self.policies, &before, unapproved, &after, approved);
            }
        }
        if settled {
            logins_open_the_right_account(&after, report.as_ref().unwrap());
        }
        report
    }

    /// What is approved of in a round.
    fn approved(&self, round: &Round) -> Option<Held> {
        let back = match round.approve? {
            Approve::Last => 0,
            Approve::Former(back) => back,
        };
        self.held.iter().rev().nth(back).filter(|held| held.digest.is_some()).cloned()
    }

    async fn befalls(&mut self, upheaval: &Upheaval) {
        if matches!(upheaval, Upheaval::Rebuilt) {
            self.rebuild().await;
        }
        let mut state = self.world.state();
        match upheaval {
            Upheaval::Wiped { record } => {
                self.wiped += 1;
                state.memories[0] = Memory::empty(&format!("wiped-{}", self.wiped));
                if *record {
                    state.record = None;
                }
            }
            Upheaval::Older(back) => {
                let own = self.copies.iter().filter(|copy| copy.store_id == state.store_id);
                if let Some(copy) = own.rev().nth(*back).cloned() {
                    state.memories[0] = copy;
                }
            }
            Upheaval::SecondIsSetUp { copy: true } => state.memories[1] = state.memories[0].clone(),
            Upheaval::SecondIsSetUp { copy: false } => state.memories[1] = Memory::empty("second"),
            Upheaval::SecondRuns => {
                drop(state);
                self.world.second_runs();
                self.copies.push(self.world.state().memories[1].clone());
                return;
            }
            Upheaval::Mended => self.mend(&mut state),
            Upheaval::Rebuilt => {}
        }
        drop(state);
        // A store changes only while nobody has it open.
        self.engine = None;
    }

    /// An admin has the links found again. Nobody knows any more who locked the accounts of those that were.
    async fn rebuild(&self) {
        let (writes, ended) = {
            let state = self.world.state();
            (state.writes.len(), state.ended.len())
        };
        self.world.engine(&self.policies).rebuild(true, &()).await.unwrap();
        let mut state = self.world.state();
        assert_eq!((state.writes.len(), state.ended.len()), (writes, ended), "it changes no account");
        state.forget_who_is_not_noted();
    }

    /// An admin stops the second daemon and puts the newest copy of the store back.
    fn mend(&self, state: &mut State) {
        let all = self.copies.iter().chain(&state.memories).filter(|memory| state.is_newest(memory));
        let newest = all.max_by_key(|memory| (memory.standing.generation, memory.next_run)).cloned();
        state.memories[1] = Memory::empty("second");
        if let Some(newest) = newest {
            let moved = newest.store_id != state.store_id;
            state.memories[0] = newest;
            if moved {
                // It knows nothing of what the store before it had locked.
                state.forget_who_is_not_noted();
            }
        }
    }

    /// Runs without faults, after which nothing must be left to do. What is held is approved of.
    async fn settle(&mut self) {
        {
            let mut state = self.world.state();
            self.mend(&mut state);
        }
        let lost = {
            let state = self.world.state();
            !state.is_newest(&state.memories[0])
        };
        if lost {
            self.rebuild().await;
        }
        self.engine = None;
        // What is to happen some day happens when that has come.
        for _ in 0..2 {
            self.world.state().now += TimeDelta::days(60);
            self.come_to_rest().await;
        }
    }

    async fn come_to_rest(&mut self) {
        let mut quiet = 0;
        for pass in [Pass::Frequent, Pass::Full, Pass::Frequent].into_iter().cycle().take(30) {
            let writes = self.world.state().writes.len();
            let report = self.play(&Round::quiet(pass)).await.unwrap();
            quiet = if self.world.state().writes.len() == writes { quiet + 1 } else { 0 };
            if let Some(held) = report.held {
                quiet = 0;
                // As long as nothing that it would hold is proved, there is nothing to approve of.
                assert_eq!(held.digest.is_none(), held.steps.is_empty(), "held for good: {held:?}");
                let again = self.play(&Round::quiet(pass)).await.unwrap().held;
                if let Some(digest) = again.and_then(|held| held.digest)
                    && Some(&digest) == held.digest.as_ref()
                {
                    let report = self.play(&Round::approving(pass)).await.unwrap();
                    // Something else can be due by now, or so little be left that nothing needs to be approved of.
                    if let Some(left) = report.held.filter(|left| !left.steps.is_empty()) {
                        assert!(!left.steps.is_subset(&held.steps), "what is approved of is done: {left:?}");
                    }
                }
            }
            if quiet == 3 {
                return;
            }
        }
        panic!("it does not converge");
    }
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

/// Whether an account is one that is never taken out of use.
fn is_protected(account: &Account) -> bool {
    let summary = &account.summary;
    summary.admin
        || summary.guest
        || summary.user_type.is_some()
        || account.appservice.is_some()
        || [PROTECTED, "sync"].contains(&summary.mxid.localpart())
}

/// Nobody who is there, active and in scope loses the use of their account; others' locks and deactivations stay; no
/// protected account is touched; and nobody is deactivated against the config. What counts is how things were when they
/// were last looked at right before the write.
fn the_ladder_is_kept(policies: &Policies, before: &State, after: &State) {
    for write in &after.writes[before.writes.len()..] {
        let (Some(was), Some(is)) = (&write.before, &write.after) else { continue };
        let (mxid, owner) = (&write.mxid, write.owner);
        assert_eq!(was.summary.admin, is.summary.admin);
        let locks = !was.summary.locked && is.summary.locked;
        let deactivates = !was.summary.deactivated && is.summary.deactivated;
        if locks || deactivates {
            assert!(owner.is_some(), "{mxid} is nobody's");
            assert!(!(write.wanted && write.wanted_when_asked), "{mxid} of #{owner:?} was taken out of use");
            assert_ne!(policies.on_leave, OnLeave::Ignore);
            let read = write.read.as_ref().unwrap();
            assert!(!is_protected(read), "{mxid} is protected");
        }
        if deactivates {
            assert!(
                was.summary.locked || write.read.as_ref().unwrap().summary.locked,
                "{mxid} was not locked"
            );
            let wished = policies.on_leave == OnLeave::Deactivate || policies.deactivate_after_days.is_some();
            assert!(wished, "{mxid} was deactivated");
        }
        if was.summary.locked && !is.summary.locked {
            assert_eq!(write.locked_by, Some(By::Us), "the lock of {mxid} was taken off");
        }
        if was.summary.deactivated && !is.summary.deactivated {
            assert_eq!(write.deactivated_by, Some(By::Us), "{mxid} was reactivated");
            assert!(!write.leaving_rooms, "{mxid} was reactivated too early");
        }
    }
    for ended in &after.ended[before.ended.len()..] {
        assert!(!(ended.wanted && ended.wanted_when_asked), "sessions of {} were ended", ended.mxid);
    }
}

/// Nobody loses the login that is theirs. (Whoever is renamed while a run is going on gets the new one by the next.)
fn nobody_loses_their_login(before: &State, after: &State) {
    for write in &after.writes[before.writes.len()..] {
        let (Some(was), Some(is), Some(owner)) = (&write.before, &write.after, write.owner) else { continue };
        let names: Vec<_> =
            [before, after].iter().filter_map(|state| Some(&state.people.get(&owner)?.username)).collect();
        let [then, now] = names[..] else { continue };
        let login = login_id(now.as_str());
        // One that is only listed to get it out of Synapse's cache was not there before the run.
        let had = before.accounts.get(&write.mxid).is_some_and(|had| had.external_ids.contains(&login));
        let lost = had && was.external_ids.contains(&login) && !is.external_ids.contains(&login);
        let wanted = before.is_wanted(owner) && after.is_wanted(owner);
        assert!(!(lost && then == now && wanted), "{} of #{owner} lost {login}", write.mxid);
    }
}

/// What can do harm among the writes of a run, as far as it was done to accounts that were there before.
fn harmful(before: &State, after: &State) -> BTreeSet<(DefguardId, Mxid, Harm)> {
    let emails = |account: &Account| -> BTreeSet<ThreePid> {
        account.threepids.iter().filter(|threepid| threepid.medium == "email").cloned().collect()
    };
    let mut found = BTreeSet::new();
    for write in &after.writes[before.writes.len()..] {
        let (Some(was), Some(is), Some(owner)) = (&write.before, &write.after, write.owner) else { continue };
        if !before.accounts.contains_key(&write.mxid) {
            continue;
        }
        let deactivates = !was.summary.deactivated && is.summary.deactivated;
        let loses_login = was.external_ids.difference(&is.external_ids).any(|id| !id.is_marker());
        let harms = [
            (!was.summary.locked && is.summary.locked, Harm::LockGone),
            (deactivates, Harm::Deactivate),
            (loses_login, Harm::Relink),
            (!deactivates && !emails(was).is_subset(&emails(is)), Harm::Email),
            (was.summary.display_name != is.summary.display_name, Harm::DisplayName),
        ];
        found.extend(
            harms.iter().filter(|(done, _)| *done).map(|(_, harm)| (owner, write.mxid.clone(), *harm)),
        );
    }
    found
}

/// An approval lets run what it stands for, and nothing else that would not have run without it; but for what had to wait
/// for it and is so little that the guard lets it through.
fn only_what_was_approved_of_is_done(
    policies: &Policies,
    before: &State,
    unapproved: &State,
    after: &State,
    approved: &Held,
) {
    let kind = |harm: Harm| match harm {
        Harm::LockDisabled | Harm::LockOutOfScope => Harm::LockGone,
        harm => harm,
    };
    let step = |step: &HeldStep| (step.id, step.mxid.clone(), kind(step.harm));
    let approved: BTreeSet<_> = approved.steps.iter().map(step).collect();
    let anyway = harmful(before, unapproved);
    let done = harmful(before, after);
    let mut others: BTreeMap<Harm, BTreeSet<DefguardId>> = BTreeMap::new();
    for (id, _, harm) in done.iter().filter(|step| !approved.contains(step) && !anyway.contains(step)) {
        others.entry(*harm).or_default().insert(*id);
    }
    let in_use = before.links.values().filter(|link| !link.lifecycle.is_off_boarded()).count();
    for (harm, people) in others {
        assert!(people.len() <= policies.guard.allowed(in_use), "{harm:?} of {people:?} without approval");
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
    for write in after.writes[before.writes.len()..].iter().filter(|write| write.by == 0) {
        let was = write.before.as_ref().expect("nobody is created");
        let is = write.after.as_ref().unwrap();
        assert_eq!(was.external_ids, is.external_ids, "no external id changes");
    }
}

fn nobody_fails_without_a_fault(report: &RunReport) {
    assert_eq!(report.failure, None);
    for person in &report.people {
        assert_eq!(person.failure, None, "#{} failed without a fault", person.id);
        let put_off = person.put_off.as_ref().filter(|why| !why.contains("still leaving its rooms"));
        assert_eq!(put_off, None, "#{} was put off without a fault", person.id);
    }
}

fn nobody_is_robbed(before: &State, after: &State) {
    for write in &after.writes[before.writes.len()..] {
        assert_eq!(write.robbed, None, "an e-mail address moved without a word to {}", write.mxid);
        assert_eq!(write.refused, None, "a write to {} was refused", write.mxid);
    }
}

fn logins_open_the_right_account(state: &State, report: &RunReport) {
    // What the guard holds, and whoever waits for it, is as it was.
    let held: BTreeSet<DefguardId> =
        report.held.iter().flat_map(|held| &held.steps).map(|step| step.id).collect();
    for person in &report.people {
        let waits = |note: &Note| matches!(note, Note::Held { .. } | Note::WaitsFor { .. });
        if !state.is_wanted(person.id) || held.contains(&person.id) || person.notes.iter().any(waits) {
            continue;
        }
        let opened = state.opens(state.people[&person.id].username.as_str());
        let own = state.links.get(&person.id).map(|link| &link.mxid);
        if own.is_some() && person.conflicts.is_empty() && person.put_off.is_none() {
            assert_eq!(opened.as_ref(), own, "the login of #{} ({:?})", person.id, person.state);
        }
        // Synapse refuses a login that opens a deactivated account.
        if let Some(opened) = opened.as_ref().filter(|opened| !state.accounts[*opened].summary.deactivated) {
            let owner = state.links.iter().find(|(_, link)| link.mxid == *opened).map(|(id, _)| *id);
            assert!(
                owner.is_none_or(|owner| owner == person.id
                    || !state.is_wanted(owner)
                    || held.contains(&owner)),
                "the login of #{} ({:?}) opens {opened}, the account of #{owner:?}",
                person.id,
                person.state
            );
        }
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
        let known = [Word::InStep, Word::Conflict, Word::Disabled, Word::OutOfScope, Word::Gone];
        assert!(known.contains(&person.state), "#{} is {:?}", person.id, person.state);
    }
    assert_eq!(report.held, None);
    everybody_is_where_they_belong(&state, policies);
}

/// Whoever left has lost the use of their account, as far as the config says so and nothing protects it; all others have
/// it, but for what others took from them.
fn everybody_is_where_they_belong(state: &State, policies: &Policies) {
    for (id, link) in &state.links {
        let Some(account) = state.accounts.get(&link.mxid) else { continue };
        let (mxid, life, summary) = (&link.mxid, &link.lifecycle, &account.summary);
        let locked_by = state.locked_by.get(mxid).copied();
        assert_eq!(summary.locked, locked_by.is_some());
        let deactivated_by = state.deactivated_by.get(mxid).copied();
        if summary.deactivated && deactivated_by == Some(By::Others) {
            continue;
        }
        assert_eq!(life.locked.is_some(), locked_by == Some(By::Us), "what we know of the lock of {mxid}");
        if state.is_wanted(*id) {
            assert_ne!(locked_by, Some(By::Us), "{mxid} of #{id} is still locked");
            assert!(!summary.deactivated, "{mxid} of #{id} is still deactivated");
            assert_eq!(life.away, None);
            continue;
        }
        let why = match state.people.get(id) {
            None => Leaving::Gone,
            Some(person) if !person.is_active => Leaving::Disabled,
            Some(_) => Leaving::OutOfScope,
        };
        if policies.on_leave == OnLeave::Ignore {
            assert_eq!(locked_by.filter(|by| *by == By::Us), None);
            continue;
        }
        let not_theirs = account.is_marked() && account.owner(&instance()) != Some(*id);
        if not_theirs || (is_protected(account) && locked_by != Some(By::Us)) {
            continue;
        }
        // Whose deactivation somebody else took back is left to them.
        if life.deactivated.is_some() && !summary.deactivated {
            continue;
        }
        assert!(summary.locked || summary.deactivated, "{mxid} of #{id}, who is {why}, is in use");
        let deactivate = policies.on_leave == OnLeave::Deactivate
            || (policies.deactivate_after_days.is_some() && why != Leaving::Disabled);
        if locked_by == Some(By::Us) && deactivate && !is_protected(account) {
            assert!(summary.deactivated, "{mxid} of #{id}, who is {why}, is not deactivated");
        }
        let end = policies.sessions_on_lock.unwrap_or(match why {
            Leaving::Disabled => SessionsOnLock::Keep,
            _ => SessionsOnLock::End,
        });
        if locked_by == Some(By::Us) && end == SessionsOnLock::End {
            let sessions = state.sessions.get(mxid).map_or(0, BTreeSet::len);
            assert_eq!(sessions, 0, "sessions of {mxid} of #{id}, who is {why}");
            let pushers = state.pushers.get(mxid).map_or(0, BTreeSet::len);
            assert_eq!(pushers, 0, "notifications of {mxid}");
        }
    }
}

/// The journal tells each change of an account once, with what was there before.
fn the_journal_is_true(state: &State) {
    type Told<'a> = BTreeMap<(&'a Mxid, String), i64>;
    let mut told: Told<'_> = BTreeMap::new();
    for entry in &state.journal {
        match &entry.change {
            Change::Adopted | Change::Relinked | Change::Linked | Change::Unlinked => {}
            Change::SessionsEnded { .. } | Change::StrangerSessions { .. } => {}
            Change::Locked { .. } => *told.entry((&entry.mxid, "locked".to_owned())).or_default() += 1,
            Change::Unlocked { .. } => *told.entry((&entry.mxid, "unlocked".to_owned())).or_default() += 1,
            Change::Deactivated { .. } => {
                *told.entry((&entry.mxid, "deactivated".to_owned())).or_default() += 1;
            }
            Change::Reactivated => *told.entry((&entry.mxid, "reactivated".to_owned())).or_default() += 1,
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
            // One that others changed before we could finish it, or that was made while the clock was wrong, is nobody's:
            // a conflict tells of it, or it is adopted. (That is told as found again if it was cut short.)
            let adopted = state.journal.iter().any(|entry| {
                matches!(entry.change, Change::Adopted | Change::Relinked) && entry.mxid == write.mxid
            });
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
        let deactivates = !was.summary.deactivated && is.summary.deactivated;
        let switches = [
            (!was.summary.locked && is.summary.locked, "locked"),
            (was.summary.locked && !is.summary.locked, "unlocked"),
            (deactivates, "deactivated"),
            (was.summary.deactivated && !is.summary.deactivated, "reactivated"),
        ];
        for (_, what) in switches.iter().filter(|(done, _)| *done) {
            *seen.entry((&write.mxid, (*what).to_owned())).or_default() += 1;
        }
        if emails(was) != emails(is) && !deactivates {
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
    fn without_faults_it_converges_and_then_asks_nothing(story in story(Trouble::None)) {
        now(async {
            let mut player = Player::all(&story.policies, &story.rounds).await;
            player.settle().await;
            is_settled(&player.world, &story.policies).await;
            the_journal_is_true(&player.world.state());
        });
    }

    #[test]
    fn a_frequent_run_right_after_a_calm_one_asks_nothing(story in story(Trouble::None)) {
        now(async {
            let policies = Policies { on_leave: OnLeave::Ignore, ..story.policies };
            let mut player = Player::all(&policies, &story.rounds).await;
            let report = player.play(&Round::quiet(Pass::Frequent)).await.unwrap();
            // What the guard holds is looked at in every run.
            if report.held.is_some() {
                return;
            }
            player.world.state().single.clear();
            player.world.calm(&policies, Pass::Frequent).await;
            assert_eq!(player.world.state().single, Vec::<String>::new());
        });
    }

    #[test]
    fn after_any_faults_it_converges_and_then_asks_nothing(story in story(Trouble::Faults)) {
        now(async {
            let mut player = Player::all(&story.policies, &story.rounds).await;
            player.settle().await;
            is_settled(&player.world, &story.policies).await;
            the_journal_is_true(&player.world.state());
        });
    }

    #[test]
    fn what_the_guard_holds_stays_held_until_it_is_approved_of(story in guarded(Trouble::None)) {
        now(async {
            let mut player = Player::all(&story.policies, &story.rounds).await;
            player.settle().await;
            is_settled(&player.world, &story.policies).await;
            the_journal_is_true(&player.world.state());
        });
    }

    #[test]
    fn after_any_faults_what_is_held_can_be_approved_of_and_then_it_converges(story in guarded(Trouble::Faults)) {
        now(async {
            let mut player = Player::all(&story.policies, &story.rounds).await;
            player.settle().await;
            is_settled(&player.world, &story.policies).await;
        });
    }

    #[test]
    fn whatever_befalls_our_memory_nobody_is_harmed(story in story(Trouble::Memory)) {
        now(async {
            let mut player = Player::all(&story.policies, &story.rounds).await;
            player.settle().await;
            is_settled(&player.world, &story.policies).await;
        });
    }

    #[test]
    fn how_many_are_worked_on_at_once_makes_no_difference(story in story(Trouble::None)) {
        now(async {
            let mut outcomes = Vec::new();
            for concurrency in [1, 8] {
                let policies = Policies { concurrency, ..story.policies };
                let player = Player::all(&policies, &story.rounds).await;
                outcomes.push(outcome(&player.world.state()));
            }
            assert_eq!(outcomes[0], outcomes[1]);
        });
    }

    #[test]
    fn a_crash_anywhere_changes_nothing_in_the_end(story in story(Trouble::None), at in 0.0..1.0_f64, after: bool, again: bool) {
        now(async {
            let policies = &story.policies;
            let (last, earlier) = story.rounds.split_last().unwrap();
            let mut player = Player::all(policies, earlier).await;
            {
                let mut state = player.world.state();
                for event in &last.events {
                    state.happens(event);
                }
            }
            let last = Round { events: Vec::new(), ..last.clone() };
            let mut calm = Player::of(player.world.fork(), policies);
            calm.play(&last).await;
            let calls = calm.world.calls();
            calm.settle().await;

            let crash = if after { Fault::CrashAfter } else { Fault::CrashBefore };
            let at = 1 + (at * calls as f64) as usize;
            for _ in 0..if again { 2 } else { 1 } {
                let faults = BTreeMap::from([(at, crash.clone())]);
                player.play(&Round { faults, ..last.clone() }).await;
            }
            player.play(&last).await;
            player.settle().await;
            is_settled(&player.world, policies).await;
            assert_eq!(outcome(&calm.world.state()), outcome(&player.world.state()));
            the_journal_is_true(&player.world.state());
        });
    }

    #[test]
    fn a_dry_run_writes_nothing_anywhere(story in guarded(Trouble::Memory)) {
        now(async {
            let mut player = Player::new(&story.policies);
            for round in &story.rounds {
                player.play(round).await;
                let world = &player.world;
                let (writes, stored) = { let state = world.state(); (state.writes.len(), state.stored) };
                for pass in [Pass::Frequent, Pass::Full] {
                    let request = RunRequest { dry_run: true, ..RunRequest::everybody(pass) };
                    world.run(&story.policies, &request, BTreeMap::new()).await.unwrap();
                }
                let state = world.state();
                assert_eq!((state.writes.len(), state.stored, state.ended.len()), (writes, stored, state.ended.len()));
            }
        });
    }

    #[test]
    fn an_account_that_turns_up_during_a_run_is_not_taken_over(
        story in story(Trouble::None),
        localpart in text(&LOCALPARTS),
        at in 4_usize..40,
    ) {
        now(async {
            let policies =
                Policies { create: CreateMode::EmptyFirst, on_conflict: OnConflict::Report, ..story.policies };
            let mut player = Player::new(&policies);
            for round in &story.rounds {
                let hand_made = Event::HandMade { localpart: localpart.clone(), email: None, kind: Kind::Plain };
                let round = Round { faults: BTreeMap::from([(at, Fault::Happens(hand_made))]), ..round.clone() };
                player.play(&round).await;
            }
            player.settle().await;
            is_settled(&player.world, &policies).await;
        });
    }
}

#[test]
fn the_words_of_the_world_are_the_words_of_the_program() {
    assert_eq!(login_id("ann").to_string(), "oidc-Defguard:ann");
    assert_eq!(marker(7).to_string(), "defguard-synapse-sync:hq/7");
}
