//! A world in memory that implements all ports: a directory, a homeserver that behaves as Synapse does
//! (`docs/facts/synapse.md`), a store, and a clock. What goes wrong in it is written down beforehand, call by call.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code, unreachable_pub)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use defguard_synapse_sync::{
    domain::{
        Account, AccountPatch, AccountSummary, Backoff, ConfigPrint, CreateMode, DefguardId, Email, Entry,
        ExternalId, Failure, FailureClass, Field, FieldPolicy, GuardLimits, Instance, Intent, Link, Listing,
        Localpart, Lookup, Mapped, MappingError, Mxid, OffBoarding, OnConflict, OnLeave, Page, Peer, Person,
        RunId, RunRecord, ServerName, ServiceRecord, Session, SessionsOnLock, Standing, Standoff, Subject,
        ThreePid, Username,
    },
    engine::{Engine, Options, RunReport, RunRequest},
    ports::{
        Clock, Directory, Homeserver, HomeserverInfo, JournalFilter, Outcome, ServerPair, Store, Written,
    },
    reconcile::{ByHand, Pass, Scope},
};
use globset::{Glob, GlobSet};
use tokio::sync::Notify;

pub const PROVIDER: &str = "oidc-Defguard";
/// The place in the script of what befalls the list of people.
pub const LISTING: usize = 0;
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
    /// An admin locks or unlocks it.
    Locked(String, bool),
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

/// One write that the homeserver did, as it saw it.
#[derive(Debug, Clone)]
pub struct Write {
    pub mxid: Mxid,
    pub before: Option<Account>,
    pub after: Option<Account>,
    /// It was refused with this status after a part was done.
    pub refused: Option<u16>,
    /// Another account that lost an e-mail address by it.
    pub robbed: Option<Mxid>,
    /// Whose it was in our links at that moment.
    pub linked: bool,
}

#[derive(Debug, Clone)]
pub struct State {
    pub people: BTreeMap<DefguardId, Person>,
    pub next_id: i64,
    pub accounts: BTreeMap<Mxid, Account>,
    /// Synapse's cache of look-ups by external id.
    pub cache: BTreeMap<ExternalId, Option<Mxid>>,
    pub open_registration: bool,
    pub now: DateTime<Utc>,
    pub links: BTreeMap<DefguardId, Link>,
    pub intents: BTreeMap<DefguardId, Intent>,
    pub backoff: BTreeMap<DefguardId, Backoff>,
    pub standoffs: BTreeMap<DefguardId, Standoff>,
    pub standing: Standing,
    /// The id of the store, and what a copy of it was.
    pub store_id: String,
    /// Our own account data on the homeserver.
    pub record: Option<ServiceRecord>,
    /// The devices that are logged in to accounts.
    pub sessions: BTreeMap<Mxid, BTreeSet<Session>>,
    pub journal: Vec<Entry>,
    pub runs: Vec<RunRecord>,
    pub next_run: u64,
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
    calls: usize,
    faults: BTreeMap<usize, Fault>,
    /// How often the homeserver was asked who it is.
    pub identified: usize,
    /// Every write to an account fails like this.
    pub writes_fail: Option<FailureClass>,
    /// Writes to this account are cut.
    pub unreachable: Option<Mxid>,
    /// The homeserver does the next write only when another one comes.
    pub slow: bool,
    late: Vec<(Mxid, AccountPatch)>,
    dead: bool,
    died: Arc<Notify>,
    hit: usize,
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

/// The world; clones share it.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
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
            now: Utc.with_ymd_and_hms(2026, 11, 1, 8, 0, 0).unwrap(),
            links: BTreeMap::new(),
            intents: BTreeMap::new(),
            backoff: BTreeMap::new(),
            standoffs: BTreeMap::new(),
            standing: Standing::default(),
            store_id: "first".to_owned(),
            record: None,
            sessions: BTreeMap::new(),
            journal: Vec::new(),
            runs: Vec::new(),
            next_run: 1,
            stored: 0,
            writes: Vec::new(),
            single: Vec::new(),
            foreign: BTreeSet::new(),
            made: BTreeSet::new(),
            calls: 0,
            faults: BTreeMap::new(),
            identified: 0,
            writes_fail: None,
            unreachable: None,
            slow: false,
            late: Vec::new(),
            dead: false,
            died: Arc::new(Notify::new()),
            hit: 0,
        };
        let world = Self { state: Arc::new(Mutex::new(state)) };
        let own = account("sync", world.state().now);
        world.state().accounts.insert(own.summary.mxid.clone(), own);
        world
    }

    /// Everything in it, to look at and to change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A world of its own that is the same now.
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.state().clone())) }
    }

    /// A fresh engine on this world, as after a start of the process.
    pub fn engine(&self, policies: &Policies) -> Engine {
        self.state().open_registration = policies.open_registration;
        let options = Options {
            defguard_url: "https://defguard.example.org/".to_owned(),
            auth_provider: PROVIDER.to_owned(),
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
                ..OffBoarding::default()
            },
            guard: policies.guard,
            config: ConfigPrint {
                scope: String::new(),
                subject_template: String::new(),
                display_name_template: String::new(),
                email_template: String::new(),
                auth_provider: PROVIDER.to_owned(),
            },
            holder: "here".to_owned(),
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
        let died = Arc::new(Notify::new());
        {
            let mut state = self.state();
            state.died = died.clone();
            state.now += TimeDelta::hours(12);
            state.calls = 0;
            state.hit = 0;
            state.dead = false;
            state.faults = faults;
        }
        let engine = self.engine(policies);
        let report = tokio::select! {
            biased;
            () = died.notified() => None,
            report = engine.run(request, &()) => Some(report),
        };
        let mut state = self.state();
        let died = state.dead;
        state.faults.clear();
        state.dead = false;
        report.filter(|_| !died)
    }

    /// A confirmed change by hand, by a fresh process. Whether it was done.
    pub async fn by_hand(&self, policies: &Policies, wish: &ByHand, faults: BTreeMap<usize, Fault>) -> bool {
        let died = Arc::new(Notify::new());
        {
            let mut state = self.state();
            state.died = died.clone();
            state.calls = 0;
            state.dead = false;
            state.faults = faults;
        }
        let engine = self.engine(policies);
        let done = tokio::select! {
            biased;
            () = died.notified() => false,
            done = engine.by_hand(wish, true, None, &()) => done.is_ok_and(|done| done.done.is_some()),
        };
        let mut state = self.state();
        let died = state.dead;
        state.faults.clear();
        state.dead = false;
        done && !died
    }

    /// A run without faults for everybody.
    pub async fn calm(&self, policies: &Policies, pass: Pass) -> RunReport {
        self.run(policies, &RunRequest::everybody(pass), BTreeMap::new()).await.unwrap()
    }

    /// How many calls the last run made.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// How many faults the last run met.
    pub fn faults_met(&self) -> usize {
        self.state().hit
    }

    /// Counts a call and gives its fault. What happens in between happens now.
    fn call(&self) -> Option<Fault> {
        let mut state = self.state();
        if state.dead {
            return Some(Fault::CrashBefore);
        }
        state.calls += 1;
        let at = state.calls;
        let fault = state.faults.remove(&at)?;
        state.hit += 1;
        match fault {
            Fault::Happens(event) => {
                state.happens(&event);
                None
            }
            Fault::CrashBefore | Fault::CrashAfter => {
                state.dead = true;
                state.died.notify_one();
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
            None | Some(Fault::Happens(_) | Fault::Missing(_)) => work(&mut self.state()),
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

    /// A write to the store; only a crash can befall it.
    fn stored<T>(&self, work: impl FnOnce(&mut State) -> T) -> Result<T, Failure> {
        let dead = failure(Peer::Store, FailureClass::Permanent);
        match self.call() {
            Some(Fault::CrashBefore) => Err(dead),
            Some(Fault::CrashAfter) => {
                let mut state = self.state();
                state.stored += 1;
                work(&mut state);
                Err(dead)
            }
            _ => {
                let mut state = self.state();
                state.stored += 1;
                Ok(work(&mut state))
            }
        }
    }
}

impl State {
    /// The next list of people is not complete and lacks this one.
    pub fn lacks(&mut self, id: DefguardId) {
        self.faults.insert(LISTING, Fault::Missing(id));
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
                let session = Session { device, last_used: Some(self.now) };
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
        let mut made = account(&free, self.now);
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

    /// Synapse's PUT on an account (`docs/facts/synapse.md` sections 1 to 3).
    fn put(&mut self, mxid: &Mxid, patch: &AccountPatch) -> Result<Written, Failure> {
        let linked = self.links.values().any(|link| link.mxid == *mxid);
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
                let _ = self.put(&late, &patch);
                self.accounts.get(mxid).cloned()
            }
        };
        let mut write =
            Write { mxid: mxid.clone(), before, after: None, refused: None, robbed: None, linked };
        let result = self.put_into(mxid, patch, &mut write);
        write.after = self.accounts.get(mxid).cloned();
        if result.is_err() {
            write.refused = Some(if write.refused.is_some() { 409 } else { 400 });
        }
        self.writes.push(write);
        result
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
            self.accounts.insert(mxid.clone(), account(mxid.localpart(), self.now));
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
            for threepid in threepids {
                write.robbed = self.rob(threepid, mxid).or(write.robbed.take());
            }
            account.threepids.clone_from(threepids);
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
        if let (Some(deactivated), false) = (patch.deactivated, created) {
            account.summary.deactivated = deactivated;
            if deactivated {
                account.threepids.clear();
                self.sessions.remove(mxid);
                self.foreign.retain(|(of, extra)| of != mxid || matches!(extra, Extra::OtherProvider(_)));
            }
        }
        if let (Some(locked), false) = (patch.locked, created) {
            account.summary.locked = locked;
        }
        self.accounts.insert(mxid.clone(), account.clone());
        Ok(Written { created, account })
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
                    person.groups = out.then(|| "out".to_owned()).into_iter().collect();
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
                if let Some(account) = self.accounts.get_mut(&mxid) {
                    account.summary.deactivated = true;
                    account.threepids.clear();
                    self.foreign
                        .retain(|(of, extra)| *of != mxid || matches!(extra, Extra::OtherProvider(_)));
                }
            }
            Event::Locked(localpart, locked) => {
                if let Some(account) = self.accounts.get_mut(&mxid(localpart)) {
                    account.summary.locked = *locked;
                }
            }
            Event::LinkLost(id) => {
                self.links.remove(id);
            }
        }
    }

    fn hand_made(&mut self, localpart: &str, email: Option<&str>, kind: Kind) {
        let mxid = mxid(localpart);
        if self.accounts.contains_key(&mxid) {
            return;
        }
        let mut made = account(localpart, self.now);
        match kind {
            Kind::Plain => {}
            Kind::Admin => made.summary.admin = true,
            Kind::Bot => made.summary.user_type = Some("bot".to_owned()),
            Kind::Bridge => made.appservice = Some("bridge".to_owned()),
            Kind::Locked => made.summary.locked = true,
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

    /// Whether the person is active and in scope.
    pub fn is_wanted(&self, id: DefguardId) -> bool {
        self.people.get(&id).is_some_and(|person| person.is_active && person.groups.is_empty())
    }
}

#[async_trait]
impl Directory for World {
    async fn list(&self) -> Result<Listing, Failure> {
        let missing = self.state().faults.remove(&LISTING);
        let missing = missing.and_then(|fault| if let Fault::Missing(id) = fault { Some(id) } else { None });
        self.asynchronous(Peer::Defguard, |state| {
            let people = state.people.values().filter(|person| Some(person.id) != missing).cloned().collect();
            let total_items = state.people.len() as u64;
            // Wrong totals make a listing incomplete even where nobody is missing from it.
            let total_pages = if missing.is_some() { 2 } else { 1 };
            Ok(Listing::assemble(vec![Page { people, malformed: 0, total_items, total_pages }]))
        })
        .await
    }

    async fn find(&self, username: &Username) -> Lookup<Person> {
        self.lookup(Peer::Defguard, format!("person {username}"), |state| {
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
        self.asynchronous(Peer::Synapse, |state| {
            Ok(state.accounts.iter().map(|(mxid, account)| (mxid.clone(), account.summary.clone())).collect())
        })
        .await
    }

    async fn get(&self, mxid: &Mxid) -> Lookup<Account> {
        self.lookup(Peer::Synapse, format!("account {mxid}"), |state| state.accounts.get(mxid).cloned()).await
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
        self.asynchronous(Peer::Synapse, |state| state.put(mxid, patch)).await
    }

    async fn sessions(&self, mxid: &Mxid) -> Result<BTreeSet<Session>, Failure> {
        self.asynchronous(Peer::Synapse, |state| {
            state.single.push(format!("sessions of {mxid}"));
            Ok(state.sessions.get(mxid).cloned().unwrap_or_default())
        })
        .await
    }

    async fn end_sessions(&self, mxid: &Mxid, devices: &BTreeSet<Session>) -> Result<(), Failure> {
        self.asynchronous(Peer::Synapse, |state| {
            if let Some(sessions) = state.sessions.get_mut(mxid) {
                sessions.retain(|session| !devices.contains(session));
            }
            Ok(())
        })
        .await
    }

    async fn email_pushers(&self, _mxid: &Mxid) -> Result<BTreeSet<String>, Failure> {
        self.asynchronous(Peer::Synapse, |_| Ok(BTreeSet::new())).await
    }

    async fn rooms(&self, _mxid: &Mxid) -> Result<BTreeSet<String>, Failure> {
        self.asynchronous(Peer::Synapse, |_| Ok(BTreeSet::new())).await
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
        self.state().store_id.clone()
    }

    fn bind(&self, _pair: &ServerPair) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }

    fn standing(&self) -> Result<Standing, Failure> {
        Ok(self.state().standing.clone())
    }

    fn set_standing(&self, standing: &Standing) -> Result<(), Failure> {
        self.stored(|state| state.standing = standing.clone())
    }

    fn links(&self) -> Result<BTreeMap<DefguardId, Link>, Failure> {
        Ok(self.state().links.clone())
    }

    fn intents(&self) -> Result<Vec<Intent>, Failure> {
        Ok(self.state().intents.values().cloned().collect())
    }

    fn backoff(&self) -> Result<BTreeMap<DefguardId, Backoff>, Failure> {
        Ok(self.state().backoff.clone())
    }

    fn standoffs(&self) -> Result<BTreeMap<DefguardId, Standoff>, Failure> {
        Ok(self.state().standoffs.clone())
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
        Ok(self.state().runs.iter().rev().take(limit).cloned().collect())
    }

    fn journal(&self, filter: &JournalFilter) -> Result<Vec<Entry>, Failure> {
        let state = self.state();
        let wanted: Vec<Entry> = state
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
