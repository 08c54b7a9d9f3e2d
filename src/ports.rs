//! What the engine needs from the outside world, as traits: adapters implement them, the engine knows nothing else.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::{
    Account, AccountPatch, AccountSummary, Activity, Backoff, DefguardId, Email, Entry, ExternalId, Failure,
    Instance, Intent, Link, Listing, Lookup, Mxid, Person, RunId, RunRecord, ServerName, Standoff, Username,
};

/// The source: who there is.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Reads everybody. An incomplete listing is read again a few times before it is given out as such.
    async fn list(&self) -> Result<Listing, Failure>;

    /// Looks up one person by their username now.
    async fn find(&self, username: &Username) -> Lookup<Person>;

    /// The username of the account that this service itself uses in Defguard, if it can be known.
    async fn own_username(&self) -> Result<Option<Username>, Failure>;
}

/// What the homeserver says about itself and about us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeserverInfo {
    /// The part of every MXID behind the colon.
    pub server_name: ServerName,
    /// The account whose token we use.
    pub own: Mxid,
    /// Synapse's version, such as `1.163.2`.
    pub version: String,
    /// Whether anybody can register an account without Defguard; then an empty create comes before the filled one.
    pub open_registration: bool,
}

/// The outcome of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Whether the account did not exist before (201).
    pub created: bool,
    /// The account as the server describes it after the write.
    pub account: Account,
}

/// The target: which accounts there are.
#[async_trait]
pub trait Homeserver: Send + Sync {
    /// Asks who the server is, who we are, and whether we may do our work there.
    async fn identify(&self) -> Result<HomeserverInfo, Failure>;

    /// All accounts in one answer, deactivated and locked ones included.
    async fn list(&self) -> Result<BTreeMap<Mxid, AccountSummary>, Failure>;

    /// One account, whole.
    async fn get(&self, mxid: &Mxid) -> Lookup<Account>;

    /// The account that carries an external id. Synapse may answer from a stale cache: look at the account too.
    async fn find_by_external_id(&self, id: &ExternalId) -> Lookup<Mxid>;

    /// The account that has an e-mail address.
    async fn find_by_email(&self, email: &Email) -> Lookup<Mxid>;

    /// How much an account is used; only for people to look at.
    async fn activity(&self, mxid: &Mxid) -> Lookup<Activity>;

    /// Writes one patch; creates the account if there is none. After any failure the outcome is unknown and parts of
    /// the patch may have been applied.
    async fn put(&self, mxid: &Mxid, patch: &AccountPatch) -> Result<Written, Failure>;
}

/// The outcome of the work on one person, stored in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Links to put in place, `None` to remove.
    pub links: BTreeMap<DefguardId, Option<Link>>,
    /// Journal lines to add.
    pub journal: Vec<Entry>,
    /// Failure records to put in place, `None` to remove.
    pub backoff: BTreeMap<DefguardId, Option<Backoff>>,
    /// Conflicts to remember, `None` to forget.
    pub standoffs: BTreeMap<DefguardId, Option<Standoff>>,
    /// The intent of a transfer group that goes on, to be put in the place of the former one.
    pub continued: Option<Intent>,
    /// The transfer groups whose intents are done with.
    pub finished: BTreeSet<DefguardId>,
}

/// Between which servers the store remembers links. Ids of people mean nothing in another Defguard, and MXIDs nothing
/// on another homeserver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPair {
    /// The name of the Defguard server in ownership markers.
    pub instance: Instance,
    /// The URL of the Defguard server.
    pub defguard_url: String,
    /// The homeserver.
    pub server_name: ServerName,
    /// The auth provider of logins in Synapse, `oidc-` and the `idp_id`.
    pub auth_provider: String,
}

impl ServerPair {
    /// What is not the same, each as a phrase with the value here and the one there.
    pub(crate) fn differences(&self, now: &Self) -> Vec<String> {
        [
            ("the Defguard instance", self.instance.as_str(), now.instance.as_str()),
            ("the URL of Defguard", &self.defguard_url, &now.defguard_url),
            ("the homeserver", self.server_name.as_str(), now.server_name.as_str()),
            ("the auth provider", &self.auth_provider, &now.auth_provider),
        ]
        .into_iter()
        .filter(|(_, stored, now)| stored != now)
        .map(|(what, stored, now)| format!("{what} was `{stored}` and is `{now}`"))
        .collect()
    }
}

/// Which journal lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JournalFilter {
    /// Only of this run.
    pub run: Option<RunId>,
    /// Only of this person.
    pub id: Option<DefguardId>,
    /// Only the newest so many.
    pub limit: Option<usize>,
}

/// Our own memory. Every method that writes returns after the flush to disk.
pub trait Store: Send + Sync {
    /// Ties the store to a pair of servers the first time, and fails if it is tied to another one.
    fn bind(&self, pair: &ServerPair) -> Result<(), Failure>;

    /// All links.
    fn links(&self) -> Result<BTreeMap<DefguardId, Link>, Failure>;

    /// The intents that were begun and not finished.
    fn intents(&self) -> Result<Vec<Intent>, Failure>;

    /// The people who failed lately.
    fn backoff(&self) -> Result<BTreeMap<DefguardId, Backoff>, Failure>;

    /// The conflicts that are remembered.
    fn standoffs(&self) -> Result<BTreeMap<DefguardId, Standoff>, Failure>;

    /// Remembers what is about to be done.
    fn begin(&self, intent: &Intent) -> Result<(), Failure>;

    /// Remembers what was done, in one transaction.
    fn record(&self, outcome: &Outcome) -> Result<(), Failure>;

    /// The number of the next run.
    fn next_run(&self) -> Result<RunId, Failure>;

    /// Keeps a run.
    fn add_run(&self, run: &RunRecord) -> Result<(), Failure>;

    /// The newest runs first, so many at most.
    fn runs(&self, limit: usize) -> Result<Vec<RunRecord>, Failure>;

    /// The journal, oldest first.
    fn journal(&self, filter: &JournalFilter) -> Result<Vec<Entry>, Failure>;

    /// Drops runs and journal lines from before a time.
    fn prune(&self, before: DateTime<Utc>) -> Result<(), Failure>;
}

/// The time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> DateTime<Utc>;
}
