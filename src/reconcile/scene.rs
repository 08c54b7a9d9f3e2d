//! Everything that the decision is made from, and what it may ask for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::domain::{
    Account, AccountSummary, DefguardId, Email, ExternalId, Intent, Link, Lookup, Mapped, Mxid, Person,
    Standoff,
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

/// Something the decision needs to know from Synapse.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// The whole account.
    Account(Mxid),
    /// Who carries an external id.
    ExternalId(ExternalId),
    /// Who has an e-mail address.
    Email(Email),
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
}
