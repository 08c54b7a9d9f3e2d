//! A world in memory that implements all ports: a directory, a homeserver that behaves as Synapse does
//! (`docs/facts/synapse.md`), a store, and a clock. What goes wrong in it is written down beforehand, call by call.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code, unreachable_pub)]

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use defguard_synapse_sync::{
    domain::{
        Account, AccountPatch, AccountSummary, Backoff, Change, ConfigPrint, CreateMode, DefguardId, Email,
        Entry, ExternalId, Failure, FailureClass, Field, FieldPolicy, GuardLimits, Instance, Intent, Link,
        Listing, Localpart, Lookup, Mapped, MappingError, Mxid, OffBoarding, OnConflict, OnLeave, Page, Peer,
        Person, RunId, RunRecord, ServerName, ServiceRecord, Session, SessionsOnLock, Standing, Standoff,
        Subject, ThreePid, Username,
    },
    engine::{Engine, Options, RunReport, RunRequest},
    ports::{
        Clock, Directory, Homeserver, HomeserverInfo, JournalFilter, Kept, Outcome, ServerPair, Snapshot,
        Store, Written,
    },
    reconcile::{ByHand, Pass, Scope},
};
use globset::{Glob, GlobSet};
use tokio::sync::Notify;

pub const PROVIDER: &str = "oidc-Defguard";
/// Our own account in Defguard.
pub const OWN_ID: i64 = 1000;
/// The place in the script of what befalls the first reading of the list of people in a run.
pub const LISTING: usize = 0;
/// The same for the second reading, which some runs do. Those after it count downwards.
pub const SECOND_LISTING: usize = usize::MAX;
/// The place in the script of what befalls the list of accounts.
pub const ACCOUNTS: usize = usize::MAX / 2;
/// The localpart that the config protects from off-boarding.
pub const PROTECTED: &str = "pat";
/// Nobody is passed over by more readings of the list than this without a run between them that saw them and came to its
/// end. Rows move only when they are written to at the very moment of a reading, so each passing over is an accident of
/// its own (`docs/facts/defguard.md` section 3); a third one for the same person is left to chance.
pub const MOST_PASSED_OVER: u32 = 2;
pub const INSTANCE: &str = "hq";

pub fn server() -> ServerName {
    ServerName::try_from("example.org").unwrap()
}

pub fn instance() -> Instance {
    Instance::new(INSTANCE)
}

pub fn mxid(localpart: &str) -> Mxid {
    Mxid::parse(&format!("@{localpart}:example.org"), &server()).unwrap()
}

pub fn login_id(subject: &str) -> ExternalId {
    ExternalId::login(PROVIDER, &Subject::new(subject))
}

pub fn marker(id: i64) -> ExternalId {
    ExternalId::marker(&instance(), DefguardId(id))
}

/// An active person with an e-mail address of their own.
pub fn person(id: i64, username: &str) -> Person {
    Person {
        id: DefguardId(id),
        username: Username::new(username),
        first_name: username.to_owned(),
        last_name: String::new(),
        name: username.to_owned(),
        email: format!("p{id}@example.com"),
        phone: None,
        groups: BTreeSet::new(),
        is_active: true,
        enrolled: true,
        is_admin: false,
    }
}

/// An account that nobody of ours made.
pub fn account(localpart: &str, created: DateTime<Utc>) -> Account {
    Account {
        summary: AccountSummary {
            mxid: mxid(localpart),
            display_name: Some(localpart.to_owned()),
            deactivated: false,
            locked: false,
            admin: false,
            guest: false,
            user_type: None,
        },
        threepids: BTreeSet::new(),
        external_ids: BTreeSet::new(),
        appservice: None,
        created_at: created.timestamp(),
    }
}

/// What Synapse's default templates would make of a person, much simplified.
pub fn map(person: &Person, server: &ServerName) -> Mapped {
    let name = person.name.trim();
    Mapped {
        subject: Ok(Subject::new(person.username.as_str())),
        localpart: Localpart::new(&person.username.as_str().to_ascii_lowercase(), server)
            .map_err(MappingError::from),
        display_name: Ok((!name.is_empty()).then(|| name.to_owned())),
        email: match person.email.as_str() {
            "" => Ok(None),
            text => Email::canonical(text).map(Some).map_err(MappingError::from),
        },
    }
}

/// What is to go wrong at one call of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No clear outcome, nothing was done.
    Cut,
    /// No clear outcome, but it was done.
    ReplyLost,
    Unauthorised,
    RateLimited,
    /// Refused.
    Refused,
    /// The process ends before the call.
    CrashBefore,
    /// The process ends after the call.
    CrashAfter,
    /// The list of people lacks this one, and says that it is not complete (directory lists only).
    Missing(DefguardId),
    /// The list of people lacks this one and looks complete: while the pages were read somebody else was deleted and
    /// another made, and this one may have been renamed (directory lists only).
    Deceives {
        lacks: DefguardId,
        renamed: Option<String>,
    },
    /// The list of people ends after so many (directory lists only).
    Truncated(usize),
    /// The list of people shows this one twice, perhaps with different content (directory lists only).
    Doubled {
        id: DefguardId,
        differs: bool,
    },
    /// The list shows what was true before the last things happened (lists only).
    Stale,
    /// The second daemon runs from beginning to end at this moment.
    SecondRuns,
    /// Something happens in Defguard or in Synapse.
    Happens(Event),
}

/// What people and admins do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Joins {
        username: String,
        email: String,
    },
    Renamed(DefguardId, String),
    /// Each takes the username of the next, the last that of the first.
    NamesGoRound(Vec<DefguardId>),
    EmailsGoRound(Vec<DefguardId>),
    NewEmail(DefguardId, String),
    NewName(DefguardId, String),
    Active(DefguardId, bool),
    Group(DefguardId, bool),
    Leaves(DefguardId),
    /// Somebody logs in by OIDC under this name.
    LogsIn(DefguardId),
    /// Somebody logs in with any name; nothing is made if it opens no account.
    TriesName(String),
    /// An admin makes an account by hand.
    HandMade {
        localpart: String,
        email: Option<String>,
        kind: Kind,
    },
    /// Something of others is put on an account.
    Foreign(String, Extra),
    OwnDisplayName(String, String),
    Deactivated(String),
    /// An admin takes a deactivation back.
    Reactivated(String),
    /// An admin locks or unlocks it.
    Locked(String, bool),
    /// Somebody becomes a server admin, or ceases to be one.
    Admin(String, bool),
    /// Somebody turns on notifications by e-mail, to an address of their account.
    Notifies(String),
    /// Somebody is in a group of people, or not; it decides nothing.
    Staff(DefguardId, bool),
    /// The clock of our machine jumps by so many minutes.
    Clock(i64),
    /// Our memory of this link is lost.
    LinkLost(DefguardId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Admin,
    Bot,
    Bridge,
    Locked,
    OtherInstance,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extra {
    Email(u8),
    Phone(u8),
    OtherProvider(u8),
}

/// Who did something to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Us,
    Others,
}

/// One write that the homeserver did, as it saw it.
#[derive(Debug, Clone)]
pub struct Write {
    /// Which daemon: 0 is the one of the story.
    pub by: usize,
    pub mxid: Mxid,
    pub before: Option<Account>,
    pub after: Option<Account>,
    /// It was refused with this status after a part was done.
    pub refused: Option<u16>,
    /// Another account that lost an e-mail address by it.
    pub robbed: Option<Mxid>,
    /// Whether it was somebody's in our links at that moment.
    pub linked: bool,
    /// Whose it is, by our marker or else by our links.
    pub owner: Option<DefguardId>,
    /// Whether the owner is active and in scope, now and when they were last asked for by name.
    pub wanted: bool,
    pub wanted_when_asked: bool,
    /// The account when the writer last read it.
    pub read: Option<Account>,
    /// Who had locked it, and who had deactivated it.
    pub locked_by: Option<By>,
    pub deactivated_by: Option<By>,
    /// It has not left all its rooms yet.
    pub leaving_rooms: bool,
}

/// One time that devices were logged out by us.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Which daemon.
    pub by: usize,
    pub mxid: Mxid,
    pub wanted: bool,
    pub wanted_when_asked: bool,
}

/// All that a daemon remembers: its store.
#[derive(Debug, Clone)]
pub struct Memory {
    /// The id of the store, which a copy of it has too.
    pub store_id: String,
    pub links: BTreeMap<DefguardId, Link>,
    pub intents: BTreeMap<DefguardId, Intent>,
    pub backoff: BTreeMap<DefguardId, Backoff>,
    pub standoffs: BTreeMap<DefguardId, Standoff>,
    pub standing: Standing,
    pub journal: Vec<Entry>,
    pub runs: Vec<RunRecord>,
    pub next_run: u64,
}

impl Memory {
    /// A store that was just begun.
    pub fn empty(store_id: &str) -> Self {
        Self {
            store_id: store_id.to_owned(),
            links: BTreeMap::new(),
            intents: BTreeMap::new(),
            backoff: BTreeMap::new(),
            standoffs: BTreeMap::new(),
            standing: Standing::default(),
            journal: Vec::new(),
            runs: Vec::new(),
            next_run: 1,
        }
    }
}

/// What is to befall one daemon in its run, and how far it has come.
#[derive(Debug, Clone, Default)]
struct Script {
    calls: usize,
    readings: usize,
    faults: BTreeMap<usize, Fault>,
    running: bool,
    dead: bool,
    died: Arc<Notify>,
    hit: usize,
}

/// What is there. It stands for the memory of the daemon of the story as well.
#[derive(Debug, Clone)]
pub struct State {
    /// What the daemon of the story remembers, and what a second one does.
    pub memories: [Memory; 2],
    scripts: [Script; 2],
    pub policies: Policies,
    pub people: BTreeMap<DefguardId, Person>,
    pub next_id: i64,
    pub accounts: BTreeMap<Mxid, Account>,
    /// Synapse's cache of look-ups by external id.
    pub cache: BTreeMap<ExternalId, Option<Mxid>>,
    pub open_registration: bool,
    /// What our clock shows.
    pub now: DateTime<Utc>,
    /// How far our clock is ahead of that of the homeserver.
    ahead: TimeDelta,
    /// How long after a run the next one comes.
    pub pause: TimeDelta,
    /// People and accounts before the last things happened, which a stale list shows.
    pub past: Option<Box<Past>>,
    /// How often the list has passed somebody over without a run that saw them since.
    pub passed_over: BTreeMap<DefguardId, u32>,
    /// Whether people were active and in scope when they were last asked for by name.
    asked: BTreeMap<(usize, DefguardId), bool>,
    /// Accounts as they were last read one by one.
    read: BTreeMap<(usize, Mxid), Account>,
    /// Who locked or deactivated the accounts that are.
    pub locked_by: BTreeMap<Mxid, By>,
    pub deactivated_by: BTreeMap<Mxid, By>,
    /// The rooms of accounts, and until when those that were deactivated go on leaving theirs.
    pub rooms: BTreeMap<Mxid, BTreeSet<String>>,
    pub leaving: BTreeMap<Mxid, DateTime<Utc>>,
    /// The addresses to which notifications are sent.
    pub pushers: BTreeMap<Mxid, BTreeSet<String>>,
    /// Where devices were logged out by us.
    pub ended: Vec<Ended>,
    /// The auth provider of logins in the config, `oidc-<idp_id>`.
    pub provider: String,
    /// Our own account data on the homeserver.
    pub record: Option<ServiceRecord>,
    /// The devices that are logged in to accounts.
    pub sessions: BTreeMap<Mxid, BTreeSet<Session>>,
    /// Whether anything was written to the store since this was last reset.
    pub stored: usize,
    /// The writes that Synapse did.
    pub writes: Vec<Write>,
    /// Requests for single accounts, external ids, addresses and people.
    pub single: Vec<String>,
    /// What others put on accounts, which has to stay.
    pub foreign: BTreeSet<(Mxid, Extra)>,
    /// Accounts that one of our writes made.
    pub made: BTreeSet<Mxid>,
    /// How often the homeserver was asked who it is.
    pub identified: usize,
    /// Every write to an account fails like this.
    pub writes_fail: Option<FailureClass>,
    /// Writes to this account are cut.
    pub unreachable: Option<Mxid>,
    /// The homeserver does the next write only when another one comes.
    pub slow: bool,
    late: Vec<(Mxid, AccountPatch)>,
}

/// What was there before the last things happened.
#[derive(Debug, Clone)]
pub struct Past {
    people: BTreeMap<DefguardId, Person>,
    accounts: BTreeMap<Mxid, Account>,
}

impl Deref for State {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.memories[0]
    }
}

impl DerefMut for State {
    fn deref_mut(&mut self) -> &mut Memory {
        &mut self.memories[0]
    }
}

impl PartialOrd for Extra {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Extra {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        format!("{self:?}").cmp(&format!("{other:?}"))
    }
}

/// What the admin decides, as far as the laws vary it.
#[derive(Debug, Clone, Copy)]
pub struct Policies {
    pub on_conflict: OnConflict,
    pub display_name: FieldPolicy,
    pub email: FieldPolicy,
    pub open_registration: bool,
    pub create: CreateMode,
    pub concurrency: usize,
    pub on_leave: OnLeave,
    pub sessions_on_lock: Option<SessionsOnLock>,
    pub deactivate_after_days: Option<i64>,
    pub guard: GuardLimits,
}

/// Limits that nothing in these small worlds reaches.
pub const NO_LIMITS: GuardLimits =
    GuardLimits { min_count: 1000, percent: 100, max_count: 1000, shrink_percent: 100 };

impl Default for Policies {
    fn default() -> Self {
        Self {
            on_conflict: OnConflict::Report,
            display_name: FieldPolicy::OnChange,
            email: FieldPolicy::Enforce,
            open_registration: false,
            create: CreateMode::Auto,
            concurrency: 4,
            on_leave: OnLeave::Lock,
            sessions_on_lock: None,
            deactivate_after_days: None,
            guard: NO_LIMITS,
        }
    }
}

/// The world as one daemon sees it; clones share it.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    /// Which daemon.
    who: usize,
}

fn failure(peer: Peer, class: FailureClass) -> Failure {
    Failure::new(peer, class, "a call", "by the script of the test")
}

impl World {
    pub fn new() -> Self {
        let state = State {
            people: BTreeMap::new(),
            next_id: 1,
            accounts: BTreeMap::new(),
            cache: BTreeMap::new(),
            open_registration: false,
            memories: [Memory::empty("first"), Memory::empty("second")],
            scripts: [Script::default(), Script::default()],
            policies: Policies::default(),
            now: Utc.with_ymd_and_hms(2026, 11, 1, 8, 0, 0).unwrap(),
            ahead: TimeDelta::zero(),
            pause: TimeDelta::hours(12),
            past: None,
            passed_over: BTreeMap::new(),
            asked: BTreeMap::new(),
            read: BTreeMap::new(),
            locked_by: BTreeMap::new(),
            deactivated_by: BTreeMap::new(),
            rooms: BTreeMap::new(),
            leaving: BTreeMap::new(),
            pushers: BTreeMap::new(),
            ended: Vec::new(),
            provider: PROVIDER.to_owned(),
            record: None,
            sessions: BTreeMap::new(),
            stored: 0,
            writes: Vec::new(),
            single: Vec::new(),
            foreign: BTreeSet::new(),
            made: BTreeSet::new(),
            identified: 0,
            writes_fail: None,
            unreachable: None,
            slow: false,
            late: Vec::new(),
        };
        let world = Self { state: Arc::new(Mutex::new(state)), who: 0 };
        let own = account("sync", world.state().now);
        // The list shows whoever asks for it.
        world.state().people.insert(DefguardId(OWN_ID), person(OWN_ID, "sync"));
        world.state().accounts.insert(own.summary.mxid.clone(), own);
        world
    }

    /// Everything in it, to look at and to change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A world of its own that is the same now.
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.state().clone())), who: self.who }
    }

    /// The same world as the second daemon sees it.
    pub fn second(&self) -> Self {
        Self { state: self.state.clone(), who: 1 }
    }

    /// What tells this daemon from the other.
    pub fn holder(&self) -> &'static str {
        ["here", "there"][self.who]
    }

    /// A fresh engine on this world, as after a start of the process.
    pub fn engine(&self, policies: &Policies) -> Engine {
        {
            let mut state = self.state();
            state.open_registration = policies.open_registration;
            state.policies = *policies;
        }
        let provider = self.state().provider.clone();
        let options = Options {
            defguard_url: "https://defguard.example.org/".to_owned(),
            auth_provider: provider.clone(),
            instance: instance(),
            on_conflict: policies.on_conflict,
            display_name: policies.display_name,
            email: policies.email,
            scope: Scope {
                exclude_groups: GlobSet::new([Glob::new("out").unwrap()]).unwrap(),
                ..Scope::default()
            },
            include_own_account: false,
            off_boarding: OffBoarding {
                disabled: policies.on_leave,
                gone: policies.on_leave,
                out_of_scope: policies.on_leave,
                deactivate_after: policies.deactivate_after_days.map(TimeDelta::days),
                sessions_on_lock: policies.sessions_on_lock,
                protect: GlobSet::new([Glob::new(PROTECTED).unwrap()]).unwrap(),
                ..OffBoarding::default()
            },
            guard: policies.guard,
            config: ConfigPrint {
                scope: String::new(),
                subject_template: String::new(),
                display_name_template: String::new(),
                email_template: String::new(),
                auth_provider: provider,
            },
            holder: self.holder().to_owned(),
            lease: TimeDelta::minutes(15),
            create: policies.create,
            concurrency: policies.concurrency,
            retry_pause: Duration::ZERO,
            keep: TimeDelta::days(100_000),
        };
        let world = Arc::new(self.clone());
        Engine::new(world.clone(), world.clone(), world.clone(), world, Arc::new(map), options)
    }

    /// One run of a fresh process, half a day after the one before. `None` if it died on the way.
    pub async fn run(
        &self,
        policies: &Policies,
        request: &RunRequest,
        faults: BTreeMap<usize, Fault>,
    ) -> Option<RunReport> {
        self.run_of(&self.engine(policies), request, faults).await
    }

    /// One run of this process. `None` if it died on the way.
    pub async fn run_of(
        &self,
        engine: &Engine,
        request: &RunRequest,
        faults: BTreeMap<usize, Fault>,
    ) -> Option<RunReport> {
        let died = {
            let mut state = self.state();
            let pause = state.pause;
            state.now += pause;
            state.begin(self.who, faults)
        };
        let report = tokio::select! {
            biased;
            () = died.notified() => None,
            report = engine.run(request, &()) => Some(report),
        };
        let died = self.state().end(self.who);
        report.filter(|_| !died)
    }

    /// A confirmed change by hand, by a fresh process. Whether it was done.
    pub async fn by_hand(&self, policies: &Policies, wish: &ByHand, faults: BTreeMap<usize, Fault>) -> bool {
        let died = self.state().begin(self.who, faults);
        let engine = self.engine(policies);
        let done = tokio::select! {
            biased;
            () = died.notified() => false,
            done = engine.by_hand(wish, true, None, &()) => done.is_ok_and(|done| done.done.is_some()),
        };
        let died = self.state().end(self.who);
        done && !died
    }

    /// A run of a fresh process of the second daemon, from beginning to end while everything else stands still.
    pub fn second_runs(&self) {
        let (second, policies) = (self.second(), self.state().policies);
        let run = move || {
            let (doubt, writes, ended) = {
                let mut state = second.state();
                state.begin(1, BTreeMap::new());
                (state.is_in_doubt(1, "there"), state.writes.len(), state.ended.len())
            };
            let everybody = RunRequest::everybody(Pass::Frequent);
            now(async { second.engine(&policies).run(&everybody, &()).await });
            let mut state = second.state();
            state.end(1);
            if doubt {
                state.nothing_harmful_since(writes, ended, 1);
            }
        };
        std::thread::spawn(run).join().unwrap();
    }

    /// From now on calls are counted, and this goes wrong at them.
    pub fn begin_script(&self, died: Arc<Notify>, faults: BTreeMap<usize, Fault>) {
        let mut state = self.state();
        state.begin(self.who, faults);
        state.scripts[self.who].died = died;
    }

    /// Nothing goes wrong any more.
    pub fn end_script(&self) {
        self.state().end(self.who);
    }

    /// A run without faults for everybody.
    pub async fn calm(&self, policies: &Policies, pass: Pass) -> RunReport {
        self.run(policies, &RunRequest::everybody(pass), BTreeMap::new()).await.unwrap()
    }

    /// How many calls the last run made.
    pub fn calls(&self) -> usize {
        self.state().scripts[self.who].calls
    }

    /// How many faults the last run met.
    pub fn faults_met(&self) -> usize {
        self.state().scripts[self.who].hit
    }

    /// Counts a call and gives its fault. What happens in between happens now.
    fn call(&self) -> Option<Fault> {
        let mut state = self.state();
        let script = &mut state.scripts[self.who];
        if script.dead {
            return Some(Fault::CrashBefore);
        }
        script.calls += 1;
        let at = script.calls;
        let fault = script.faults.remove(&at)?;
        script.hit += 1;
        match fault {
            Fault::Happens(event) => {
                state.happens(&event);
                None
            }
            Fault::SecondRuns => {
                drop(state);
                self.second_runs();
                None
            }
            Fault::CrashBefore | Fault::CrashAfter => {
                script.dead = true;
                script.died.notify_one();
                Some(fault)
            }
            fault => Some(fault),
        }
    }

    async fn asynchronous<T>(
        &self,
        peer: Peer,
        work: impl FnOnce(&mut State) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        tokio::task::yield_now().await;
        match self.call() {
            Some(Fault::Cut) => Err(failure(peer, FailureClass::Transient)),
            Some(Fault::ReplyLost) => {
                let _ = work(&mut self.state());
                Err(failure(peer, FailureClass::Transient))
            }
            Some(Fault::Unauthorised) => Err(failure(peer, FailureClass::Unauthorised)),
            Some(Fault::RateLimited) => Err(failure(peer, FailureClass::RateLimited(None))),
            Some(Fault::Refused) => Err(failure(peer, FailureClass::Permanent)),
            Some(Fault::CrashAfter) => {
                let _ = work(&mut self.state());
                std::future::pending().await
            }
            Some(Fault::CrashBefore) => std::future::pending().await,
            _ => work(&mut self.state()),
        }
    }

    async fn lookup<T>(
        &self,
        peer: Peer,
        what: String,
        work: impl FnOnce(&mut State) -> Option<T>,
    ) -> Lookup<T> {
        let found = self.asynchronous(peer, |state| {
            state.single.push(what);
            Ok(work(state))
        });
        match found.await {
            Ok(Some(found)) => Lookup::Found(found),
            Ok(None) => Lookup::Absent,
            Err(failure) => Lookup::Unknown(failure),
        }
    }

    /// A write to the store: the process can end before or after it, and it can fail, as on a full disk.
    fn stored<T>(&self, work: impl FnOnce(&mut Memory) -> T) -> Result<T, Failure> {
        let dead = failure(Peer::Store, FailureClass::Permanent);
        let fault = self.call();
        if matches!(fault, Some(Fault::CrashBefore | Fault::Cut)) {
            return Err(dead);
        }
        let mut state = self.state();
        state.stored += 1;
        let done = work(&mut state.memories[self.who]);
        if matches!(fault, Some(Fault::CrashAfter | Fault::ReplyLost)) { Err(dead) } else { Ok(done) }
    }

    /// What this daemon remembers.
    fn remembered<T>(&self, what: impl FnOnce(&Memory) -> T) -> Result<T, Failure> {
        Ok(what(&self.state().memories[self.who]))
    }
}

impl State {
    /// The next list of people is not complete and lacks this one.
    pub fn lacks(&mut self, id: DefguardId) {
        self.scripts[0].faults.insert(LISTING, Fault::Missing(id));
    }

    /// A daemon begins a run in which this befalls it.
    fn begin(&mut self, who: usize, faults: BTreeMap<usize, Fault>) -> Arc<Notify> {
        let died = Arc::new(Notify::new());
        let mut before = std::mem::take(&mut self.scripts[who].faults);
        before.extend(faults);
        self.scripts[who] = Script { faults: before, running: true, died: died.clone(), ..Script::default() };
        died
    }

    /// A daemon has ended its run; whether it died on the way.
    fn end(&mut self, who: usize) -> bool {
        let script = &mut self.scripts[who];
        script.faults.clear();
        script.running = false;
        std::mem::take(&mut script.dead)
    }

    /// What the clock of the homeserver shows.
    fn synapse_now(&self) -> DateTime<Utc> {
        self.now - self.ahead
    }

    /// Keeps in mind how everything is, for stale lists.
    pub fn becomes_past(&mut self) {
        self.past = Some(Box::new(Past { people: self.people.clone(), accounts: self.accounts.clone() }));
    }

    /// Whether what a daemon remembers is not what is true, as far as anybody can know: by what the homeserver keeps.
    pub fn is_in_doubt(&self, who: usize, holder: &str) -> bool {
        let memory = &self.memories[who];
        let Some(record) = &self.record else {
            // Both are lost: the store, and what the homeserver keeps of it.
            let ours =
                |account: &Account| account.owner(&instance()).is_some_and(|owner| self.is_wanted(owner));
            let begun = memory.standing.generation > 0 || !memory.links.is_empty();
            return memory.standing.lost.is_some() || (!begun && self.accounts.values().any(ours));
        };
        !self.is_newest(memory) || (record.holder != holder && record.until > self.now)
    }

    /// Whether no later memory has worked on this homeserver.
    pub fn is_newest(&self, memory: &Memory) -> bool {
        let newest = |record: &ServiceRecord| {
            record.store == memory.store_id && record.generation <= memory.standing.generation
        };
        memory.standing.lost.is_none() && self.record.as_ref().is_none_or(newest)
    }

    /// While what a daemon remembers is in doubt it takes nothing from anybody, and gives nothing back.
    pub fn nothing_harmful_since(&self, writes: usize, ended: usize, who: usize) {
        let made: BTreeSet<&Mxid> = self.writes[writes..]
            .iter()
            .filter(|write| write.before.is_none())
            .map(|write| &write.mxid)
            .collect();
        for write in self.writes[writes..].iter().filter(|write| write.by == who) {
            let (Some(was), Some(is)) = (&write.before, &write.after) else { continue };
            if made.contains(&write.mxid) {
                continue;
            }
            assert_eq!(was.summary, is.summary, "{} was changed in doubt", write.mxid);
            let lost: Vec<_> = was.external_ids.difference(&is.external_ids).collect();
            assert!(lost.is_empty(), "{} lost {lost:?} in doubt", write.mxid);
            assert!(was.threepids.is_subset(&is.threepids), "{} lost an address in doubt", write.mxid);
            assert_eq!(write.robbed, None, "in doubt");
        }
        let ended: Vec<_> = self.ended[ended..].iter().filter(|ended| ended.by == who).collect();
        assert!(ended.is_empty(), "sessions were ended in doubt: {ended:?}");
    }

    /// Whether a daemon whose memory is true takes a lock, or a deactivation, of this account for ours.
    fn is_believed(&self, mxid: &Mxid, lock: bool) -> bool {
        let pending = |memory: &Memory| {
            memory.intents.values().flat_map(|intent| &intent.pending).any(|entry| {
                entry.mxid == *mxid
                    && match entry.change {
                        Change::Locked { .. } | Change::Unlocked { .. } => lock,
                        Change::Deactivated { .. } | Change::Reactivated => !lock,
                        _ => false,
                    }
            })
        };
        let noted = |memory: &Memory| {
            memory.links.values().any(|link| {
                let life = &link.lifecycle;
                link.mxid == *mxid && if lock { life.locked.is_some() } else { life.deactivated.is_some() }
            })
        };
        self.memories.iter().any(|memory| self.is_newest(memory) && (pending(memory) || noted(memory)))
    }

    pub fn holder(&self, id: &ExternalId) -> Option<Mxid> {
        self.accounts
            .values()
            .find(|account| account.external_ids.contains(id))
            .map(|account| account.summary.mxid.clone())
    }

    /// The account that a login with this subject would open, through Synapse's cache.
    pub fn opens(&self, subject: &str) -> Option<Mxid> {
        let id = login_id(subject);
        self.cache.get(&id).cloned().unwrap_or_else(|| self.holder(&id))
    }

    fn look_up(&mut self, id: &ExternalId) -> Option<Mxid> {
        let holder = self.holder(id);
        self.cache.entry(id.clone()).or_insert(holder).clone()
    }

    fn rob(&mut self, threepid: &ThreePid, keeper: &Mxid) -> Option<Mxid> {
        let mut others = self.accounts.values_mut().filter(|account| account.summary.mxid != *keeper);
        others.find_map(|account| {
            let taken = threepid.medium == "email" && account.threepids.remove(threepid);
            taken.then(|| account.summary.mxid.clone())
        })
    }

    /// A login by OIDC: opens an account or makes one, as Synapse does with `allow_existing_users: false`.
    pub fn log_in(&mut self, person: &Person) {
        let mapped = map(person, &server());
        let login = login_id(person.username.as_str());
        if let Some(opened) = self.look_up(&login) {
            let summary = &self.accounts[&opened].summary;
            if !summary.locked && !summary.deactivated {
                let device = format!("{}-{}", person.username, person.id);
                let session = Session { device, last_used: Some(self.synapse_now()) };
                self.rooms.entry(opened.clone()).or_default().insert("!lobby:example.org".to_owned());
                self.sessions.entry(opened).or_default().insert(session);
            }
            return;
        }
        let Ok(localpart) = mapped.localpart else { return };
        let taken = |localpart: &str| {
            self.accounts.keys().any(|mxid| mxid.localpart().eq_ignore_ascii_case(localpart))
        };
        let free = std::iter::once(localpart.as_str().to_owned())
            .chain((1..).map(|n| format!("{localpart}{n}")))
            .find(|localpart| !taken(localpart))
            .unwrap();
        let mut made = account(&free, self.synapse_now());
        made.summary.display_name = mapped.display_name.ok().flatten();
        made.external_ids.insert(login.clone());
        if let Ok(Some(email)) = &mapped.email {
            let threepid = ThreePid::email(email);
            self.rob(&threepid, &made.summary.mxid.clone());
            made.threepids.insert(threepid);
        }
        self.accounts.insert(made.summary.mxid.clone(), made);
        self.cache.remove(&login);
        self.look_up(&login);
    }

    /// Synapse's PUT on an account (`docs/facts/synapse.md` sections 1 to 5).
    fn put(&mut self, by: usize, mxid: &Mxid, patch: &AccountPatch) -> Result<Written, Failure> {
        let before = self.accounts.get(mxid).cloned();
        if let Some(class) = self.writes_fail {
            return Err(failure(Peer::Synapse, class));
        }
        if self.unreachable.as_ref() == Some(mxid) {
            return Err(failure(Peer::Synapse, FailureClass::Transient));
        }
        if std::mem::take(&mut self.slow) {
            self.late.push((mxid.clone(), patch.clone()));
            return Err(failure(Peer::Synapse, FailureClass::Transient));
        }
        let before = match self.late.pop() {
            None => before,
            Some((late, patch)) => {
                let _ = self.put(by, &late, &patch);
                self.accounts.get(mxid).cloned()
            }
        };
        let linked = self.memories[by].links.values().any(|link| link.mxid == *mxid);
        let owner = self.owner(by, mxid);
        let mut write = Write {
            by,
            mxid: mxid.clone(),
            before,
            after: None,
            refused: None,
            robbed: None,
            linked,
            owner,
            wanted: owner.is_some_and(|owner| self.is_wanted(owner)),
            wanted_when_asked: self.was_wanted(by, owner),
            read: self.read.get(&(by, mxid.clone())).cloned(),
            locked_by: self.locked_by.get(mxid).copied(),
            deactivated_by: self.deactivated_by.get(mxid).copied(),
            leaving_rooms: self.is_leaving_rooms(mxid),
        };
        let result = self.put_into(mxid, patch, &mut write);
        write.after = self.accounts.get(mxid).cloned();
        if result.is_err() {
            write.refused = Some(if write.refused.is_some() { 409 } else { 400 });
        }
        self.writes.push(write);
        result
    }

    /// Whose account it is, by our marker or else by the links of this daemon.
    pub fn owner(&self, who: usize, mxid: &Mxid) -> Option<DefguardId> {
        let marked = self.accounts.get(mxid).and_then(|account| account.owner(&instance()));
        let linked = || self.memories[who].links.values().find(|link| link.mxid == *mxid).map(|link| link.id);
        marked.or_else(linked)
    }

    /// Whether somebody was active and in scope when this daemon last asked for them by name.
    fn was_wanted(&self, who: usize, owner: Option<DefguardId>) -> bool {
        owner.and_then(|owner| self.asked.get(&(who, owner))).is_none_or(|wanted| *wanted)
    }

    fn is_leaving_rooms(&self, mxid: &Mxid) -> bool {
        self.leaving.get(mxid).is_some_and(|until| *until > self.synapse_now())
            && self.rooms.get(mxid).is_some_and(|rooms| !rooms.is_empty())
    }

    fn put_into(&mut self, mxid: &Mxid, patch: &AccountPatch, write: &mut Write) -> Result<Written, Failure> {
        let refused = || failure(Peer::Synapse, FailureClass::Permanent);
        let created = !self.accounts.contains_key(mxid);
        if created {
            Localpart::new(mxid.localpart(), &server()).map_err(|_| refused())?;
            let taken = self.accounts.keys().any(|other| other.as_str().eq_ignore_ascii_case(mxid.as_str()));
            if taken {
                return Err(refused());
            }
            self.accounts.insert(mxid.clone(), account(mxid.localpart(), self.synapse_now()));
            self.made.insert(mxid.clone());
        }
        let mut account = self.accounts[mxid].clone();
        match &patch.display_name {
            Field::Keep => {}
            Field::Set(name) if !created && name.chars().count() > 256 => return Err(refused()),
            Field::Set(name) => account.summary.display_name = Some(name.trim().to_owned()),
            Field::Unset => account.summary.display_name = None,
        }
        self.accounts.insert(mxid.clone(), account.clone());
        if let Some(threepids) = &patch.threepids {
            // Compared is the text that was sent; stored is the canonical form.
            for gone in account.threepids.difference(threepids) {
                self.pushers.entry(mxid.clone()).or_default().remove(&gone.address);
            }
            let stored = threepids.iter().map(canonical).collect::<BTreeSet<_>>();
            for threepid in &stored {
                write.robbed = self.rob(threepid, mxid).or(write.robbed.take());
            }
            account.threepids = stored;
            self.accounts.insert(mxid.clone(), account.clone());
        }
        if let Some(ids) = &patch.external_ids {
            if ids.iter().any(|id| self.holder(id).is_some_and(|holder| holder != *mxid)) {
                write.refused = Some(409);
                return Err(refused());
            }
            account.external_ids.clone_from(ids);
            for id in ids {
                self.cache.remove(id);
            }
            self.accounts.insert(mxid.clone(), account.clone());
        }
        // On create both are ignored.
        self.accounts.insert(mxid.clone(), account);
        if let (Some(deactivated), false) = (patch.deactivated, created) {
            let was = self.accounts[mxid].summary.deactivated;
            self.deactivate(mxid, deactivated);
            if deactivated {
                // Somebody else did so between the look and the write: nobody can tell.
                let seen = self.read.get(&(write.by, mxid.clone()));
                let unseen = seen.is_some_and(|account| !account.summary.deactivated);
                if !was || unseen {
                    self.deactivated_by.insert(mxid.clone(), By::Us);
                }
            }
        }
        if let (Some(locked), false) = (patch.locked, created) {
            let was = self.accounts[mxid].summary.locked;
            self.lock(mxid, locked);
            if locked {
                let seen = self.read.get(&(write.by, mxid.clone()));
                let unseen = seen.is_some_and(|account| !account.summary.locked);
                if !was || unseen {
                    self.locked_by.insert(mxid.clone(), By::Us);
                }
            }
        }
        Ok(Written { created, account: self.accounts[mxid].clone() })
    }

    fn lock(&mut self, mxid: &Mxid, locked: bool) {
        let Some(account) = self.accounts.get_mut(mxid) else { return };
        account.summary.locked = locked;
        if !locked {
            self.locked_by.remove(mxid);
        }
    }

    /// Deactivates an account, which then leaves its rooms in the background for most of a day, or takes that back.
    fn deactivate(&mut self, mxid: &Mxid, deactivated: bool) {
        let until = self.synapse_now() + TimeDelta::hours(18);
        let Some(account) = self.accounts.get_mut(mxid) else { return };
        let was = std::mem::replace(&mut account.summary.deactivated, deactivated);
        if deactivated {
            account.threepids.clear();
            self.sessions.remove(mxid);
            self.pushers.remove(mxid);
            if !was {
                self.leaving.insert(mxid.clone(), until);
            }
            self.foreign.retain(|(of, extra)| of != mxid || matches!(extra, Extra::OtherProvider(_)));
        } else {
            self.deactivated_by.remove(mxid);
        }
    }

    /// Lets something happen. What cannot happen does not.
    pub fn happens(&mut self, event: &Event) {
        match event {
            Event::Joins { username, email } => {
                if self.people.values().any(|person| person.username.as_str() == username) {
                    return;
                }
                let mut person = person(self.next_id, username);
                self.next_id += 1;
                if self.free_email(email) {
                    person.email.clone_from(email);
                }
                self.people.insert(person.id, person);
            }
            Event::Renamed(id, username) => {
                if self.people.values().all(|person| person.username.as_str() != username)
                    && let Some(person) = self.people.get_mut(id)
                {
                    person.username = Username::new(username.clone());
                }
            }
            Event::NamesGoRound(ids) => {
                let ids = self.present(ids);
                let names: Vec<Username> = ids.iter().map(|id| self.people[id].username.clone()).collect();
                for (at, id) in ids.iter().enumerate() {
                    self.people.get_mut(id).unwrap().username = names[(at + 1) % names.len()].clone();
                }
            }
            Event::EmailsGoRound(ids) => {
                let ids = self.present(ids);
                let emails: Vec<String> = ids.iter().map(|id| self.people[id].email.clone()).collect();
                for (at, id) in ids.iter().enumerate() {
                    self.people.get_mut(id).unwrap().email.clone_from(&emails[(at + 1) % emails.len()]);
                }
            }
            Event::NewEmail(id, email) => {
                if self.free_email(email)
                    && let Some(person) = self.people.get_mut(id)
                {
                    person.email.clone_from(email);
                }
            }
            Event::NewName(id, name) => {
                if let Some(person) = self.people.get_mut(id) {
                    person.name.clone_from(name);
                }
            }
            Event::Active(id, active) => {
                if let Some(person) = self.people.get_mut(id) {
                    person.is_active = *active;
                }
            }
            Event::Group(id, out) => {
                if let Some(person) = self.people.get_mut(id) {
                    person.groups.retain(|group| group != "out");
                    person.groups.extend(out.then(|| "out".to_owned()));
                }
            }
            Event::Leaves(id) => {
                self.people.remove(id);
            }
            Event::LogsIn(id) => {
                if let Some(person) = self.people.get(id).cloned().filter(|person| person.is_active) {
                    self.log_in(&person);
                }
            }
            Event::TriesName(name) => {
                self.look_up(&login_id(name));
            }
            Event::HandMade { localpart, email, kind } => self.hand_made(localpart, email.as_deref(), *kind),
            Event::Foreign(localpart, extra) => {
                let Some(account) = self.accounts.get_mut(&mxid(localpart)) else { return };
                match extra {
                    Extra::Email(n) => account.threepids.insert(ThreePid {
                        medium: "email".to_owned(),
                        address: format!("{localpart}{n}@home.example"),
                    }),
                    Extra::Phone(n) => account
                        .threepids
                        .insert(ThreePid { medium: "msisdn".to_owned(), address: format!("+49 {n}") }),
                    Extra::OtherProvider(n) => account.external_ids.insert(ExternalId {
                        auth_provider: "oidc-other".to_owned(),
                        external_id: format!("{localpart}{n}"),
                    }),
                };
                self.foreign.insert((mxid(localpart), extra.clone()));
            }
            Event::OwnDisplayName(localpart, name) => {
                if let Some(account) = self.accounts.get_mut(&mxid(localpart)) {
                    account.summary.display_name = Some(name.clone());
                }
            }
            Event::Deactivated(localpart) => {
                let mxid = mxid(localpart);
                let active = self.accounts.get(&mxid).is_some_and(|account| !account.summary.deactivated);
                if active {
                    let by = if self.is_believed(&mxid, false) { By::Us } else { By::Others };
                    self.deactivate(&mxid, true);
                    self.deactivated_by.insert(mxid, by);
                }
            }
            Event::Reactivated(localpart) => self.deactivate(&mxid(localpart), false),
            Event::Locked(localpart, locked) => {
                let mxid = mxid(localpart);
                let other = self.accounts.get(&mxid).is_some_and(|account| account.summary.locked != *locked);
                if other {
                    // Unlocked and locked again between two looks: nobody can tell.
                    let by = if self.is_believed(&mxid, true) { By::Us } else { By::Others };
                    self.lock(&mxid, *locked);
                    if *locked {
                        self.locked_by.insert(mxid, by);
                    }
                }
            }
            Event::Admin(localpart, admin) => {
                if let Some(account) = self.accounts.get_mut(&mxid(localpart)) {
                    account.summary.admin = *admin;
                }
            }
            Event::Notifies(localpart) => {
                let mxid = mxid(localpart);
                let Some(account) =
                    self.accounts.get(&mxid).filter(|it| !(it.summary.deactivated || it.summary.locked))
                else {
                    return;
                };
                let address = account.threepids.iter().find(|threepid| threepid.medium == "email");
                let address = address.map(|threepid| threepid.address.clone());
                self.pushers.entry(mxid).or_default().extend(address);
            }
            Event::Staff(id, staff) => {
                if let Some(person) = self.people.get_mut(id) {
                    person.groups.retain(|group| group != "staff");
                    person.groups.extend(staff.then(|| "staff".to_owned()));
                }
            }
            Event::Clock(minutes) => {
                self.now += TimeDelta::minutes(*minutes);
                self.ahead += TimeDelta::minutes(*minutes);
            }
            Event::LinkLost(id) => {
                // Nobody knows any more who locked or deactivated the account.
                if let Some(link) = self.links.remove(id) {
                    self.forget_who(&link.mxid);
                }
            }
        }
    }

    /// What our memory does not call ours counts as others' from now on.
    pub fn forget_who_is_not_noted(&mut self) {
        for link in self.links.clone().into_values() {
            for (by, noted) in [
                (&mut self.locked_by, link.lifecycle.locked.is_some()),
                (&mut self.deactivated_by, link.lifecycle.deactivated.is_some()),
            ] {
                by.entry(link.mxid.clone()).and_modify(|by| *by = if noted { *by } else { By::Others });
            }
        }
    }

    fn forget_who(&mut self, mxid: &Mxid) {
        for by in [&mut self.locked_by, &mut self.deactivated_by] {
            by.entry(mxid.clone()).and_modify(|by| *by = By::Others);
        }
    }

    /// Whether an interrupted creation of ours hangs just now: what somebody makes by hand in these very minutes cannot be
    /// told from it.
    fn is_just_being_made(&self, mxid: &Mxid) -> bool {
        let mut intents = self.memories.iter().flat_map(|memory| memory.intents.values());
        intents.any(|intent| {
            let made = intent.creates.values().any(|made| made == mxid);
            made && (self.synapse_now() - intent.begun).abs() < TimeDelta::minutes(20)
        })
    }

    fn hand_made(&mut self, localpart: &str, email: Option<&str>, kind: Kind) {
        let mxid = mxid(localpart);
        if self.accounts.contains_key(&mxid) || self.is_just_being_made(&mxid) {
            return;
        }
        // What is made between two runs was not made in the minutes of the next one.
        let ago = if self.scripts[0].running { TimeDelta::zero() } else { TimeDelta::minutes(25) };
        let mut made = account(localpart, self.synapse_now() - ago);
        match kind {
            Kind::Plain => {}
            Kind::Admin => made.summary.admin = true,
            Kind::Bot => made.summary.user_type = Some("bot".to_owned()),
            Kind::Bridge => made.appservice = Some("bridge".to_owned()),
            Kind::Locked => {
                made.summary.locked = true;
                self.locked_by.insert(mxid.clone(), By::Others);
            }
            Kind::OtherInstance => {
                let id = ExternalId::marker(&Instance::new("branch"), DefguardId(self.accounts.len() as i64));
                made.external_ids.insert(id);
            }
        }
        if let Some(email) = email.and_then(|email| Email::canonical(email).ok()) {
            let threepid = ThreePid::email(&email);
            self.rob(&threepid, &mxid);
            made.threepids.insert(threepid);
        }
        self.accounts.insert(mxid, made);
    }

    fn free_email(&self, email: &str) -> bool {
        email.is_empty() || self.people.values().all(|person| !person.email.eq_ignore_ascii_case(email))
    }

    fn present(&self, ids: &[DefguardId]) -> Vec<DefguardId> {
        let mut seen = BTreeSet::new();
        ids.iter().copied().filter(|id| self.people.contains_key(id) && seen.insert(*id)).collect()
    }

    /// The list of people, with what befalls it.
    fn listed(&mut self, who: usize, fault: Option<&Fault>) -> Listing {
        let ids: Vec<_> = self.memories[who].links.keys().copied().collect();
        for id in ids.into_iter().filter(|id| !self.is_wanted(*id)).collect::<Vec<_>>() {
            self.asked.insert((who, id), false);
        }
        let mut people: Vec<Person> = self.people.values().cloned().collect();
        let total_items = people.len() as u64;
        let mut page = Page { people: Vec::new(), malformed: 0, total_items, total_pages: 1 };
        match fault {
            Some(Fault::Missing(id)) => {
                people.retain(|person| person.id != *id);
                // Wrong totals make a listing incomplete even where nobody is missing from it.
                page.total_pages = 2;
            }
            Some(Fault::Deceives { lacks, renamed }) => {
                let times = self.passed_over.entry(*lacks).or_default();
                if *times < MOST_PASSED_OVER && people.len() > 1 {
                    *times += 1;
                    people.retain(|person| person.id != *lacks);
                    page.total_items = people.len() as u64;
                    if let Some(name) = renamed {
                        self.happens(&Event::Renamed(*lacks, name.clone()));
                    }
                }
            }
            Some(Fault::Truncated(at)) => people.truncate(*at),
            Some(Fault::Doubled { id, differs }) => {
                if let Some(mut again) = self.people.get(id).cloned() {
                    again.is_active ^= differs;
                    people.push(again);
                }
            }
            Some(Fault::Stale) => {
                if let Some(past) = &self.past {
                    people = past.people.values().cloned().collect();
                    page.total_items = people.len() as u64;
                }
            }
            _ => {}
        }
        Listing::assemble(vec![Page { people, ..page }])
    }

    /// Whether the person is active and in scope.
    pub fn is_wanted(&self, id: DefguardId) -> bool {
        self.people.get(&id).is_some_and(|person| person.is_active && !person.groups.contains("out"))
    }
}

/// An address as Synapse stores it.
fn canonical(threepid: &ThreePid) -> ThreePid {
    match Email::canonical(&threepid.address) {
        Ok(email) if threepid.medium == "email" => ThreePid::email(&email),
        _ => threepid.clone(),
    }
}

#[async_trait]
impl Directory for World {
    async fn list(&self) -> Result<Listing, Failure> {
        let fault = {
            let mut state = self.state();
            let script = &mut state.scripts[self.who];
            let key = script.readings.checked_sub(1).map_or(LISTING, |after| SECOND_LISTING - after);
            script.readings += 1;
            script.faults.remove(&key)
        };
        let who = self.who;
        self.asynchronous(Peer::Defguard, |state| Ok(state.listed(who, fault.as_ref()))).await
    }

    async fn find(&self, username: &Username) -> Lookup<Person> {
        let who = self.who;
        self.lookup(Peer::Defguard, format!("person {username}"), |state| {
            let linked = state.memories[who].links.values().filter(|link| link.username == *username);
            let named = state.people.values().filter(|person| person.username == *username);
            let asked: Vec<_> = linked.map(|link| link.id).chain(named.map(|person| person.id)).collect();
            for id in asked {
                let wanted = state.is_wanted(id);
                state.asked.insert((who, id), wanted);
            }
            state.people.values().find(|person| person.username == *username).cloned()
        })
        .await
    }

    async fn group_members(&self) -> Result<BTreeSet<Username>, Failure> {
        self.asynchronous(Peer::Defguard, |state| {
            state.single.push("the groups".to_owned());
            let members = state.people.values().filter(|person| !person.groups.is_empty());
            Ok(members.map(|person| person.username.clone()).collect())
        })
        .await
    }

    async fn own_username(&self) -> Result<Option<Username>, Failure> {
        Ok(Some(Username::new("sync")))
    }
}

#[async_trait]
impl Homeserver for World {
    async fn identify(&self) -> Result<HomeserverInfo, Failure> {
        self.asynchronous(Peer::Synapse, |state| {
            state.identified += 1;
            Ok(HomeserverInfo {
                server_name: server(),
                own: mxid("sync"),
                version: "1.163.2".to_owned(),
                open_registration: state.open_registration,
            })
        })
        .await
    }

    async fn list(&self) -> Result<BTreeMap<Mxid, AccountSummary>, Failure> {
        let stale = self.state().scripts[self.who].faults.remove(&ACCOUNTS).is_some();
        self.asynchronous(Peer::Synapse, |state| {
            let past = state.past.as_ref().filter(|_| stale).map(|past| &past.accounts);
            let accounts = past.unwrap_or(&state.accounts);
            Ok(accounts.iter().map(|(mxid, account)| (mxid.clone(), account.summary.clone())).collect())
        })
        .await
    }

    async fn get(&self, mxid: &Mxid) -> Lookup<Account> {
        let who = self.who;
        self.lookup(Peer::Synapse, format!("account {mxid}"), |state| {
            let found = state.accounts.get(mxid).cloned();
            if let Some(account) = &found {
                state.read.insert((who, mxid.clone()), account.clone());
            }
            found
        })
        .await
    }

    async fn find_by_external_id(&self, id: &ExternalId) -> Lookup<Mxid> {
        self.lookup(Peer::Synapse, format!("external id {id}"), |state| state.look_up(id)).await
    }

    async fn find_by_email(&self, email: &Email) -> Lookup<Mxid> {
        self.lookup(Peer::Synapse, "e-mail address".to_owned(), |state| {
            let threepid = ThreePid::email(email);
            let holder = state.accounts.values().find(|account| account.threepids.contains(&threepid))?;
            Some(holder.summary.mxid.clone())
        })
        .await
    }

    async fn last_seen(&self, mxid: &Mxid) -> Lookup<Option<DateTime<Utc>>> {
        self.lookup(Peer::Synapse, format!("last seen of {mxid}"), |state| {
            state.accounts.contains_key(mxid).then_some(None)
        })
        .await
    }

    async fn put(&self, mxid: &Mxid, patch: &AccountPatch) -> Result<Written, Failure> {
        let who = self.who;
        self.asynchronous(Peer::Synapse, |state| state.put(who, mxid, patch)).await
    }

    async fn sessions(&self, mxid: &Mxid) -> Result<BTreeSet<Session>, Failure> {
        self.asynchronous(Peer::Synapse, |state| {
            state.single.push(format!("sessions of {mxid}"));
            Ok(state.sessions.get(mxid).cloned().unwrap_or_default())
        })
        .await
    }

    async fn end_sessions(&self, mxid: &Mxid, devices: &BTreeSet<Session>) -> Result<(), Failure> {
        let who = self.who;
        self.asynchronous(Peer::Synapse, |state| {
            if let Some(sessions) = state.sessions.get_mut(mxid) {
                let before = sessions.len();
                sessions.retain(|session| !devices.contains(session));
                if sessions.len() < before {
                    let owner = state.owner(who, mxid);
                    let wanted = owner.is_some_and(|owner| state.is_wanted(owner));
                    let wanted_when_asked = state.was_wanted(who, owner);
                    state.ended.push(Ended { by: who, mxid: mxid.clone(), wanted, wanted_when_asked });
                }
            }
            Ok(())
        })
        .await
    }

    async fn email_pushers(&self, mxid: &Mxid) -> Result<BTreeSet<String>, Failure> {
        self.asynchronous(Peer::Synapse, |state| Ok(state.pushers.get(mxid).cloned().unwrap_or_default()))
            .await
    }

    async fn rooms(&self, mxid: &Mxid) -> Result<BTreeSet<String>, Failure> {
        self.asynchronous(Peer::Synapse, |state| {
            if state.leaving.contains_key(mxid) && !state.is_leaving_rooms(mxid) {
                state.rooms.remove(mxid);
                state.leaving.remove(mxid);
            }
            Ok(state.rooms.get(mxid).cloned().unwrap_or_default())
        })
        .await
    }

    async fn service_record(
        &self,
        _own: &Mxid,
        _instance: &Instance,
    ) -> Result<Option<ServiceRecord>, Failure> {
        self.asynchronous(Peer::Synapse, |state| Ok(state.record.clone())).await
    }

    async fn keep_service_record(
        &self,
        _own: &Mxid,
        _instance: &Instance,
        record: &ServiceRecord,
    ) -> Result<(), Failure> {
        self.asynchronous(Peer::Synapse, |state| {
            state.record = Some(record.clone());
            Ok(())
        })
        .await
    }
}

impl Store for World {
    fn id(&self) -> String {
        self.state().memories[self.who].store_id.clone()
    }

    fn bind(&self, _pair: &ServerPair) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }

    fn standing(&self) -> Result<Standing, Failure> {
        self.remembered(|memory| memory.standing.clone())
    }

    fn set_standing(&self, standing: &Standing) -> Result<(), Failure> {
        self.stored(|state| state.standing = standing.clone())
    }

    fn links(&self) -> Result<BTreeMap<DefguardId, Link>, Failure> {
        self.remembered(|memory| memory.links.clone())
    }

    fn intents(&self) -> Result<Vec<Intent>, Failure> {
        self.remembered(|memory| memory.intents.values().cloned().collect())
    }

    fn backoff(&self) -> Result<BTreeMap<DefguardId, Backoff>, Failure> {
        self.remembered(|memory| memory.backoff.clone())
    }

    fn standoffs(&self) -> Result<BTreeMap<DefguardId, Standoff>, Failure> {
        self.remembered(|memory| memory.standoffs.clone())
    }

    fn begin(&self, intent: &Intent) -> Result<(), Failure> {
        self.stored(|state| {
            state.intents.insert(intent.group, intent.clone());
        })
    }

    fn record(&self, outcome: &Outcome) -> Result<(), Failure> {
        fn put<T: Clone>(into: &mut BTreeMap<DefguardId, T>, changes: &BTreeMap<DefguardId, Option<T>>) {
            for (id, change) in changes {
                match change {
                    Some(value) => into.insert(*id, value.clone()),
                    None => into.remove(id),
                };
            }
        }
        self.stored(|state| {
            put(&mut state.links, &outcome.links);
            put(&mut state.backoff, &outcome.backoff);
            put(&mut state.standoffs, &outcome.standoffs);
            state.journal.extend(outcome.journal.iter().cloned());
            if let Some(intent) = &outcome.continued {
                state.intents.insert(intent.group, intent.clone());
            }
            state.intents.retain(|group, _| !outcome.finished.contains(group));
        })
    }

    fn next_run(&self) -> Result<RunId, Failure> {
        self.stored(|state| {
            state.next_run += 1;
            RunId(state.next_run - 1)
        })
    }

    fn add_run(&self, run: &RunRecord) -> Result<(), Failure> {
        self.stored(|state| state.runs.push(run.clone()))
    }

    fn runs(&self, limit: usize) -> Result<Vec<RunRecord>, Failure> {
        self.remembered(|memory| memory.runs.iter().rev().take(limit).cloned().collect())
    }

    fn journal(&self, filter: &JournalFilter) -> Result<Vec<Entry>, Failure> {
        let state = self.state();
        let wanted: Vec<Entry> = state.memories[self.who]
            .journal
            .iter()
            .filter(|entry| filter.run.is_none_or(|run| entry.run == Some(run)))
            .filter(|entry| filter.id.is_none_or(|id| entry.id == id))
            .filter(|entry| filter.since.is_none_or(|since| entry.at >= since))
            .cloned()
            .collect();
        let skipped = filter.limit.map_or(0, |limit| wanted.len().saturating_sub(limit));
        Ok(wanted[skipped..].to_vec())
    }

    fn prune(&self, before: DateTime<Utc>) -> Result<(), Failure> {
        self.stored(|state| {
            state.journal.retain(|entry| entry.at >= before);
            state.runs.retain(|run| run.began >= before);
        })
    }

    fn forget(&self, id: DefguardId, dry_run: bool) -> Result<Kept, Failure> {
        let kept = {
            let state = self.state();
            let memory = &state.memories[self.who];
            Kept {
                lines: memory.journal.iter().filter(|entry| entry.id == id).count(),
                conflicts: memory.standoffs.contains_key(&id),
                failures: memory.backoff.contains_key(&id),
            }
        };
        if !dry_run {
            self.stored(|state| {
                state.journal.retain(|entry| entry.id != id);
                state.standoffs.remove(&id);
                state.backoff.remove(&id);
            })?;
        }
        Ok(kept)
    }

    fn snapshot(&self) -> Result<Snapshot, Failure> {
        let state = &self.state().memories[self.who];
        Ok(Snapshot {
            store: state.store_id.clone(),
            pair: None,
            next_run: state.next_run,
            standing: state.standing.clone(),
            links: state.links.values().cloned().collect(),
            intents: state.intents.values().cloned().collect(),
            backoff: state.backoff.clone(),
            standoffs: state.standoffs.clone(),
            runs: state.runs.clone(),
            journal: state.journal.clone(),
        })
    }
}

impl Clock for World {
    fn now(&self) -> DateTime<Utc> {
        self.state().now
    }
}

/// A world in which this has happened.
pub fn world(events: &[Event]) -> World {
    let world = World::new();
    happen(&world, events);
    world
}

/// Lets this happen, an hour after what was before.
pub fn happen(world: &World, events: &[Event]) {
    let mut state = world.state();
    state.now += TimeDelta::hours(1);
    for event in events {
        state.happens(event);
    }
}

/// Does the work on a runtime of its own.
pub fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}
