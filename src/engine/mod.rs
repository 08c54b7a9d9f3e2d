//! Carries the decision out: gather → map → decide → apply → record, one way, one run after the other.
//!
//! The engine knows the ports and the decision, never an adapter. A run accepts no input but the question whom to look
//! at; everything else it reads anew.

mod adopt;
mod apply;
mod batch;
mod by_hand;
mod cycle;
mod gather;
mod guarded;
mod ladder;
mod leaving;
mod logins;
mod memory;
pub mod queue;
mod rebuild;
mod report;
mod trust;
mod write;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        ConfigPrint, CreateMode, Failure, FailureClass, FieldPolicy, GuardLimits, Instance, Mapped,
        OffBoarding, OnConflict, Peer, Person, ServerName,
    },
    forecast::LoginRules,
    ports::{Clock, Directory, Homeserver, HomeserverInfo, Store},
    reconcile::{Pass, Scope},
};

pub use adopt::{AdoptRequest, Adopted, Adoption, Double, Doubles, Left, Match};
pub use batch::{BatchPerson, BatchReport};
pub use by_hand::HandDone;
pub use memory::Forgotten;
pub use rebuild::{Contradiction, RebuildReport, Target};
pub use report::{Explanation, PersonReport, Progress, RunReport, Stage, StepText, Tally, TemplateValue};

/// What the templates make of a person, on the homeserver of this name.
pub type Mapper = Arc<dyn Fn(&Person, &ServerName) -> Mapped + Send + Sync>;

/// What the admin has decided, and how fast to go.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where Defguard is, to tell whether the store belongs to it.
    pub defguard_url: String,
    /// The auth provider of the OIDC logins, `oidc-<idp_id>`.
    pub auth_provider: String,
    /// The name of the Defguard server in the ownership markers.
    pub instance: Instance,
    /// What to do with accounts that are in the way.
    pub on_conflict: OnConflict,
    /// When display names are written.
    pub display_name: FieldPolicy,
    /// When e-mail addresses are written.
    pub email: FieldPolicy,
    /// Whom the sync concerns; the service's own account is added when it is known.
    pub scope: Scope,
    /// Whether the account that the service itself uses in Defguard is treated like everybody's.
    pub include_own_account: bool,
    /// How far to go with those who leave.
    pub off_boarding: OffBoarding,
    /// How much may happen without a person saying yes.
    pub guard: GuardLimits,
    /// The parts of the config that decide over whom and over what.
    pub config: ConfigPrint,
    /// Which machine and state directory this is, as a digest, to tell two daemons apart.
    pub holder: String,
    /// How long after a change nobody else may work on the homeserver.
    pub lease: chrono::TimeDelta,
    /// How accounts are made.
    pub create: CreateMode,
    /// How many people are worked on at once.
    pub concurrency: usize,
    /// The pause before a write that had no clear outcome is tried again.
    pub retry_pause: Duration,
    /// How long runs and journal are kept.
    pub keep: chrono::TimeDelta,
}

/// Whom a run is about, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct RunRequest {
    /// How thoroughly to look.
    pub pass: Pass,
    /// Only these people, by username, `#` and id, or MXID; empty: everybody.
    #[serde(default)]
    pub only: BTreeSet<String>,
    /// The names are hints and not what somebody wishes: if the list of people does not show one of them, or shows it
    /// of somebody else than the links do, the run is about everybody.
    #[serde(default)]
    pub or_everybody: bool,
    /// Decide only, change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// The digest of what the guard holds, which a person approved of.
    #[serde(default)]
    pub approve: Option<String>,
}

impl RunRequest {
    /// A run for everybody.
    pub fn everybody(pass: Pass) -> Self {
        Self { pass, only: BTreeSet::new(), or_everybody: false, dry_run: false, approve: None }
    }

    /// A run for people of whom somebody else says that they changed.
    pub fn hinted(only: BTreeSet<String>) -> Self {
        Self { only, or_everybody: true, ..Self::everybody(Pass::Frequent) }
    }
}

/// The engine with everything it works on.
pub struct Engine {
    directory: Arc<dyn Directory>,
    homeserver: Arc<dyn Homeserver>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    mapper: Mapper,
    /// What the templates make of the claims of a login alone.
    login_mapper: Mapper,
    login_rules: LoginRules,
    options: Options,
    /// Cancelled when the process is asked to end: people in hand are finished, no further ones are begun.
    stop: CancellationToken,
    /// What the homeserver said about itself; asked again at each full pass and after every failure.
    homeserver_info: Mutex<Option<HomeserverInfo>>,
    /// Whether the record in our account data was looked at since the start.
    record_seen: AtomicBool,
    /// Until when the homeserver is ours by the claim of the run under way; `None` if it made none.
    claimed_until: Mutex<Option<DateTime<Utc>>>,
    /// Runs and changes by hand never overlap.
    turn: Arc<Mutex<()>>,
}

impl Engine {
    /// Puts an engine together.
    pub fn new(
        directory: Arc<dyn Directory>,
        homeserver: Arc<dyn Homeserver>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        mapper: Mapper,
        options: Options,
    ) -> Self {
        Self {
            directory,
            homeserver,
            store,
            clock,
            login_mapper: Arc::clone(&mapper),
            login_rules: LoginRules::default(),
            mapper,
            options,
            stop: CancellationToken::new(),
            homeserver_info: Mutex::new(None),
            record_seen: AtomicBool::new(false),
            claimed_until: Mutex::new(None),
            turn: Arc::new(Mutex::new(())),
        }
    }

    /// The engine for a config that was read again, on the same store. It shares its turn and its end with this one, so
    /// that a run of the one and a run of the other never overlap.
    pub fn renewed(
        &self,
        directory: Arc<dyn Directory>,
        homeserver: Arc<dyn Homeserver>,
        mapper: Mapper,
        options: Options,
    ) -> Self {
        Self {
            stop: self.stop.clone(),
            turn: Arc::clone(&self.turn),
            ..Self::new(
                directory,
                homeserver,
                Arc::clone(&self.store),
                Arc::clone(&self.clock),
                mapper,
                options,
            )
        }
    }

    /// Tries both servers, and says of each that does not answer as it should why not.
    pub async fn first_contact(&self) -> Vec<Failure> {
        let (homeserver, directory) = tokio::join!(self.homeserver_info(), self.directory.own_username());
        [homeserver.err(), directory.err()].into_iter().flatten().collect()
    }

    /// Tells how Synapse deals with logins, and what the templates make of their claims, for forecasts; without it
    /// Synapse's defaults count, and what the templates make of a person.
    #[must_use]
    pub fn with_logins(mut self, rules: LoginRules, mapper: Mapper) -> Self {
        self.login_rules = rules;
        self.login_mapper = mapper;
        self
    }

    /// Cancelling this token lets the run under way finish the people in hand and end.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits until no run and no change by hand is going on, and says so if it has to wait.
    async fn turn(&self, progress: &dyn Progress) -> MutexGuard<'_, ()> {
        if let Ok(turn) = self.turn.try_lock() {
            return turn;
        }
        progress.waiting();
        self.turn.lock().await
    }

    /// Does what only reads, unless the process is asked to end.
    async fn read<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        self.stop.run_until_cancelled(work).await.unwrap_or_else(|| {
            Err(Failure::new(
                Peer::Store,
                FailureClass::Transient,
                "finding out how things are",
                "the program was asked to end",
            ))
        })
    }

    /// How far leavers are taken.
    pub fn off_boarding(&self) -> &OffBoarding {
        &self.options.off_boarding
    }

    /// Our own memory, for `status` and `journal`.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }
}
