//! What the store knows about itself, and what the homeserver keeps to tell whether that can be true.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{DefguardId, Held, Mxid};

/// The parts of the config that decide over whom and over what, as digests: a change of one of them can do what no
/// change of people would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigPrint {
    /// The group filter.
    pub scope: String,
    /// `subject_template`
    pub subject_template: String,
    /// `display_name_template`
    pub display_name_template: String,
    /// `email_template`
    pub email_template: String,
    /// The auth provider of logins, `oidc-<idp_id>`; as it is.
    pub auth_provider: String,
}

/// What the store knows about itself beside links and journal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Standing {
    /// How often a run of this store was about to change something. The homeserver keeps the same number
    /// ([`ServiceRecord`]), so that an old copy of the store is noticed.
    pub generation: u64,
    /// The config under which the last run had nothing held because of it.
    pub accepted: Option<ConfigPrint>,
    /// When something held was last let run by an approval. What was done before does not count against the limits.
    pub approved_at: Option<DateTime<Utc>>,
    /// When a complete list of people was last seen.
    pub last_look: Option<DateTime<Utc>>,
    /// Why the links cannot be trusted until they are rebuilt from the ownership markers.
    pub lost: Option<String>,
    /// What the guard is holding.
    pub hold: Option<Held>,
    /// What the last run for everybody found that nobody but a person can settle, such as a leaver who is a server admin
    /// or an account that somebody else locked.
    pub watched: BTreeMap<DefguardId, Vec<Watched>>,
}

/// Something about one linked person that is left to people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Watched {
    /// The account.
    pub mxid: Mxid,
    /// Whether it must not stay so.
    pub critical: bool,
    /// What it is.
    pub what: String,
}

/// What we keep in the account data of our own account on the homeserver. There it survives the loss of the store, and
/// another daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// The id of the store that last changed something.
    pub store: String,
    /// Its generation then.
    pub generation: u64,
    /// The machine and state directory that it runs on, as a digest.
    pub holder: String,
    /// Until when nobody else may change anything. It lasts longer than the time between two runs, and is renewed only
    /// by runs that change something.
    pub until: DateTime<Utc>,
}
