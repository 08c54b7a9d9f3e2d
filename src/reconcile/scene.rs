//! Everything that the decision is made from, and what it may ask for.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::domain::{
    Account, AccountSummary, DefguardId, Email, ExternalId, Harm, Intent, Link, Lookup, Mapped, Mxid, Person,
    Session, Standoff, Username,
};

/// How thoroughly a run looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// Compares what the two lists show; reads single accounts only where something changed.
    Frequent,
    /// Reads every account that we own and repairs what the list does not show.
    Full,
}

/// Something the decision needs to know from one of the servers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// The whole account.
    Account(Mxid),
    /// Who carries an external id.
    ExternalId(ExternalId),
    /// Who has an e-mail address.
    Email(Email),
    /// Which sessions an account has.
    Sessions(Mxid),
    /// Who has this username in Defguard.
    Person(Username),
    /// The usernames of all who are in any group in Defguard.
    GroupMembers,
}

/// The answers found so far in this run.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Whole accounts.
    pub accounts: BTreeMap<Mxid, Lookup<Account>>,
    /// Who carries an external id, perhaps from Synapse's stale cache.
    pub external_ids: BTreeMap<ExternalId, Lookup<Mxid>>,
    /// Who has an e-mail address.
    pub emails: BTreeMap<Email, Lookup<Mxid>>,
    /// The sessions of accounts.
    pub sessions: BTreeMap<Mxid, Lookup<BTreeSet<Session>>>,
    /// Who has a username in Defguard.
    pub people: BTreeMap<Username, Lookup<Person>>,
    /// The usernames of all who are in any group in Defguard.
    pub group_members: Option<Lookup<BTreeSet<Username>>>,
}

/// Everything that is known when the decision is made.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The people as the directory shows them, by id.
    pub people: &'a BTreeMap<DefguardId, Person>,
    /// Whether the listing was found complete.
    pub complete: bool,
    /// What the templates make of each of them.
    pub mapped: &'a BTreeMap<DefguardId, Mapped>,
    /// Our links.
    pub links: &'a BTreeMap<DefguardId, Link>,
    /// All accounts of the homeserver.
    pub accounts: &'a BTreeMap<Mxid, AccountSummary>,
    /// What was found out in this run.
    pub answers: &'a Answers,
    /// What was begun and not finished by an earlier run. Of the accounts that it was to create only those are named
    /// that it did create.
    pub intents: &'a [Intent],
    /// The conflicts that are remembered.
    pub standoffs: &'a BTreeMap<DefguardId, Standoff>,
    /// The people who failed lately and whose time has not come yet.
    pub postponed: &'a BTreeSet<DefguardId>,
    /// The people whom somebody asks for by hand; empty: everybody. What is remembered about them is found out anew, and
    /// nothing is found out for people without an account who want nothing that these want.
    pub afresh: &'a BTreeSet<DefguardId>,
    /// How thoroughly to look.
    pub pass: Pass,
    /// Scope and policies.
    pub rules: &'a Rules,
    /// What the guard keeps back, person by person.
    pub held: &'a BTreeMap<DefguardId, BTreeSet<Harm>>,
    /// When it is.
    pub now: DateTime<Utc>,
    /// When a complete list was last seen.
    pub last_look: Option<DateTime<Utc>>,
    /// Whether logins are put beside the former ones, because `idp_id` or `subject_template` changed.
    pub migration: Option<&'a Migration>,
}

/// A change of `idp_id` or `subject_template`. New logins are put beside the former ones, which stay until it is finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// The auth provider under which the accounts carry their logins so far.
    pub from: String,
    /// Whether `subject_template` is still the same, so that another subject means another username.
    pub same_template: bool,
}
