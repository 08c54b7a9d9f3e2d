//! An account as Synapse shows it, and what can be written to it.

use std::{collections::BTreeSet, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{DefguardId, Email, ExternalId, Instance, Mxid};

/// What the list of all accounts shows of one (`GET /_synapse/admin/v2/users`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountSummary {
    /// Who it is.
    pub mxid: Mxid,
    /// The display name, `None` if it has none.
    pub display_name: Option<String>,
    /// Closed for good, until reactivated.
    pub deactivated: bool,
    /// Sessions are suspended.
    pub locked: bool,
    /// A server admin.
    pub admin: bool,
    /// A guest account.
    pub guest: bool,
    /// `bot`, `support` or a configured type; `None` for people.
    pub user_type: Option<String>,
}

/// A third-party identifier of an account: an e-mail address or a phone number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ThreePid {
    /// `email` or `msisdn`.
    pub medium: String,
    /// The address as Synapse keeps it.
    pub address: String,
}

impl ThreePid {
    /// An e-mail address.
    pub fn email(email: &Email) -> Self {
        Self { medium: "email".to_owned(), address: email.as_str().to_owned() }
    }
}

/// Addresses are personal data.
impl fmt::Debug for ThreePid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreePid({}…)", self.medium)
    }
}

/// One account, whole (`GET /_synapse/admin/v2/users/<mxid>`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What the list shows too.
    pub summary: AccountSummary,
    /// All its e-mail addresses and phone numbers.
    pub threepids: BTreeSet<ThreePid>,
    /// All its external ids, of every provider.
    pub external_ids: BTreeSet<ExternalId>,
    /// The application service (bridge) that made it.
    pub appservice: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created_at: i64,
}

impl Account {
    /// The person whose ownership marker the account carries.
    pub fn owner(&self, instance: &Instance) -> Option<DefguardId> {
        self.external_ids.iter().find_map(|id| id.marked_person(instance))
    }

    /// Whether it carries any ownership marker, be it of another instance.
    pub fn is_marked(&self) -> bool {
        self.external_ids.iter().any(ExternalId::is_marker)
    }

    /// Whether the account has this e-mail address.
    pub fn has_email(&self, email: &Email) -> bool {
        self.threepids.contains(&ThreePid::email(email))
    }

    /// The subjects by which a login of `auth_provider` opens it.
    pub fn logins<'a>(&'a self, auth_provider: &'a str) -> impl Iterator<Item = &'a ExternalId> + 'a {
        self.external_ids.iter().filter(move |id| id.auth_provider == auth_provider)
    }
}

/// Display names are personal data.
impl fmt::Debug for AccountSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountSummary")
            .field("mxid", &self.mxid)
            .field("deactivated", &self.deactivated)
            .field("locked", &self.locked)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

/// How much an account is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// When a client last did something with it; `None` if none ever did.
    pub last_seen: Option<DateTime<Utc>>,
    /// In how many rooms it is.
    pub rooms: usize,
}

/// What to do with one field.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field<T> {
    /// Do not send it.
    #[default]
    Keep,
    /// Make it this.
    Set(T),
    /// Take it away.
    Unset,
}

impl<T> Field<T> {
    /// Whether nothing is to be done.
    pub fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

/// The value can be personal data.
impl<T> fmt::Debug for Field<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "Keep",
            Self::Set(_) => "Set(…)",
            Self::Unset => "Unset",
        })
    }
}

/// The body of one write to an account. Only what is `Some` (or not `Keep`) is sent; the two lists are replaced
/// whole by Synapse, so they must have been read and merged before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountPatch {
    /// The display name. Each time it is sent to an existing account it costs one token of the person's own
    /// message rate (`docs/facts/synapse.md` section 1).
    pub display_name: Field<String>,
    /// All e-mail addresses and phone numbers.
    pub threepids: Option<BTreeSet<ThreePid>>,
    /// All external ids of every provider.
    pub external_ids: Option<BTreeSet<ExternalId>>,
    /// Whether the account is locked. Always sent alone, since Synapse stops at the first part that it refuses.
    pub locked: Option<bool>,
    /// Whether the account is deactivated. Always sent alone.
    pub deactivated: Option<bool>,
}

impl AccountPatch {
    /// Locks or unlocks.
    pub fn lock(locked: bool) -> Self {
        Self { locked: Some(locked), ..Self::default() }
    }

    /// Deactivates or reactivates.
    pub fn deactivate(deactivated: bool) -> Self {
        Self { deactivated: Some(deactivated), ..Self::default() }
    }

    /// Whether the body would be `{}`.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
