//! What the engine needs from the outside world, as traits: adapters implement them, the engine knows nothing else.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::{
    Account, AccountPatch, AccountSummary, Backoff, DefguardId, Email, Entry, ExternalId, Failure, Instance,
    Intent, Link, Listing, Lookup, Mxid, Person, RunId, RunRecord, ServerName, ServiceRecord, Session,
    Standing, Standoff, Username,
};

/// The source: who there is.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Reads everybody. An incomplete listing is read again a few times before it is given out as such.
    async fn list(&self) -> Result<Listing, Failure>;

    /// Looks up one person by their username now.
    async fn find(&self, username: &Username) -> Lookup<Person>;

    /// The usernames of all who are in any group, deactivated people included. One consistent statement, unlike the list
    /// (`docs/facts/defguard.md` section 3): a name in it that the list does not show tells of somebody whom it passed over.
    async fn group_members(&self) -> Result<BTreeSet<Username>, Failure>;

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

    /// When a client last did something with an account, as far as Synapse has noted it down; `None` if never. Only for
    /// people to look at.
    async fn last_seen(&self, mxid: &Mxid) -> Lookup<Option<DateTime<Utc>>>;

    /// Writes one patch; creates the account if there is none. After any failure the outcome is unknown and parts of
    /// the patch may have been applied.
    async fn put(&self, mxid: &Mxid, patch: &AccountPatch) -> Result<Written, Failure>;

    /// The devices that are logged in to an account.
    async fn sessions(&self, mxid: &Mxid) -> Result<BTreeSet<Session>, Failure>;

    /// Logs these devices of an account out, which ends their notifications too. Ones that are gone already do no harm.
    async fn end_sessions(&self, mxid: &Mxid, devices: &BTreeSet<Session>) -> Result<(), Failure>;

    /// The addresses to which Synapse sends an account's notifications by e-mail. They belong to no device, and go on
    /// when all sessions have ended and the account is locked.
    async fn email_pushers(&self, mxid: &Mxid) -> Result<BTreeSet<String>, Failure>;

    /// The rooms that an account is in. Synapse gives an empty list for an account that is not there.
    async fn rooms(&self, mxid: &Mxid) -> Result<BTreeSet<String>, Failure>;

    /// What we keep in the account data of our own account, `own`, for this Defguard; `None` if nothing is there. Several
    /// Defguards can feed one homeserver, each with a daemon of its own.
    async fn service_record(&self, own: &Mxid, instance: &Instance)
    -> Result<Option<ServiceRecord>, Failure>;

    /// Replaces what we keep there.
    async fn keep_service_record(
        &self,
        own: &Mxid,
        instance: &Instance,
        record: &ServiceRecord,
    ) -> Result<(), Failure>;
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
}

impl ServerPair {
    /// What is not the same, each as a phrase with the value here and the one there.
    pub(crate) fn differences(&self, now: &Self) -> Vec<String> {
        [
            ("the Defguard instance", self.instance.as_str(), now.instance.as_str()),
            ("the URL of Defguard", &self.defguard_url, &now.defguard_url),
            ("the homeserver", self.server_name.as_str(), now.server_name.as_str()),
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
    /// Only from this time on; reading ends at the first older line.
    pub since: Option<DateTime<Utc>>,
    /// Only the newest so many.
    pub limit: Option<usize>,
}

/// Our own memory. Every method that writes returns after the flush to disk.
pub trait Store: Send + Sync {
    /// The id that was drawn when the store was begun.
    fn id(&self) -> String;

    /// Ties the store to a pair of servers the first time. Afterwards it says what is not the same, each as a phrase;
    /// nothing if it is the same pair.
    fn bind(&self, pair: &ServerPair) -> Result<Vec<String>, Failure>;

    /// What the store knows about itself.
    fn standing(&self) -> Result<Standing, Failure>;

    /// Replaces what the store knows about itself.
    fn set_standing(&self, standing: &Standing) -> Result<(), Failure>;

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

    /// Takes a person's journal lines, remembered conflicts and failures out, all or nothing, and says what there was.
    /// Their link and what is unfinished stay. `dry_run`: only says it.
    fn forget(&self, id: DefguardId, dry_run: bool) -> Result<Kept, Failure>;

    /// Everything that is remembered.
    fn snapshot(&self) -> Result<Snapshot, Failure>;
}

/// What is remembered about a person beside their link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept {
    /// How many journal lines.
    pub lines: usize,
    /// Whether conflicts are remembered.
    pub conflicts: bool,
    /// Whether failures are remembered.
    pub failures: bool,
}

/// Everything that a store remembers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The id of the store.
    pub store: String,
    /// The servers that it belongs to; `None` before the first run.
    pub pair: Option<ServerPair>,
    /// The number of the next run.
    pub next_run: u64,
    /// What it knows about itself.
    pub standing: Standing,
    /// All links, by id.
    pub links: Vec<Link>,
    /// The intents that were begun and not finished.
    pub intents: Vec<Intent>,
    /// The people who failed lately.
    pub backoff: BTreeMap<DefguardId, Backoff>,
    /// The conflicts that are remembered.
    pub standoffs: BTreeMap<DefguardId, Standoff>,
    /// All runs, oldest first.
    pub runs: Vec<RunRecord>,
    /// The journal, oldest first.
    pub journal: Vec<Entry>,
}

/// A place where people read what they should look at.
#[async_trait]
pub trait Noticeboard: Send + Sync {
    /// Looks whether something can be put up there. A failure says what is in the way and what to do.
    async fn examine(&self) -> Result<(), Failure>;

    /// Puts up a text. The same text with the same key is there once, however often it is put up in a short time.
    async fn post(&self, text: &str, key: &str) -> Result<(), Failure>;
}

/// The time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> DateTime<Utc>;
}
