//! What was decided.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::scene::Question;
use crate::domain::{
    Change, Conflict, DefguardId, Email, ExternalId, Failure, Intent, Link, MappedField, Move, Mxid,
};

/// The outcome of the decision.
#[derive(Debug, Clone)]
pub enum Decision {
    /// These things have to be found out first.
    Ask(BTreeSet<Question>),
    /// This is to be done.
    Plan(Plan),
}

/// What is to be done, and about everybody why.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Each person whom the listing shows.
    pub people: BTreeMap<DefguardId, PersonPlan>,
    /// The work, in groups that are independent of each other.
    pub groups: Vec<Group>,
    /// The unfinished intents of earlier runs, with the groups that finish them; those without one are settled.
    pub intents: BTreeMap<DefguardId, BTreeSet<DefguardId>>,
}

/// What becomes of one person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PersonPlan {
    /// In one word.
    pub state: State,
    /// The account that is or becomes theirs.
    pub mxid: Option<Mxid>,
    /// What stands in the way of everything or of a part.
    pub conflicts: Vec<Conflict>,
    /// The state of everything on which these conflicts rest ([`crate::domain::Standoff::fingerprint`]).
    #[serde(skip)]
    pub fingerprint: String,
    /// What else an admin may want to know.
    pub notes: Vec<Note>,
    /// Why they could not be looked at.
    pub failure: Option<Failure>,
}

/// What becomes of a person, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Linked, nothing to do.
    InStep,
    /// Gets a new account.
    Create,
    /// Gets an account that already exists.
    Adopt,
    /// Gets the link back that the ownership marker proves.
    Relink,
    /// Linked, something is brought up to date.
    Update,
    /// Something stands in the way.
    Conflict,
    /// Disabled in Defguard.
    Disabled,
    /// Not among those whom the sync concerns.
    OutOfScope,
    /// Not decided because the listing was incomplete.
    Withheld,
    /// Failed lately, tried again later.
    Postponed,
    /// Could not be looked at.
    Failed,
}

impl State {
    /// The name for tables, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InStep => "in_step",
            Self::Create => "create",
            Self::Adopt => "adopt",
            Self::Relink => "relink",
            Self::Update => "update",
            Self::Conflict => "conflict",
            Self::Disabled => "disabled",
            Self::OutOfScope => "out_of_scope",
            Self::Withheld => "withheld",
            Self::Postponed => "postponed",
            Self::Failed => "failed",
        }
    }
}

/// Something worth knowing that keeps nothing from being done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Note {
    /// Why they are out of scope.
    OutOfScope {
        /// The rule that leaves them out.
        why: String,
    },
    /// A template gave nothing usable for a field that can be done without.
    NoValue {
        /// Which template.
        field: MappedField,
        /// What is wrong with its result.
        why: String,
    },
    /// Synapse takes no display name of more than 256 characters for an existing account.
    DisplayNameTooLong {
        /// How long it is, in characters.
        length: usize,
    },
    /// The templates would give another MXID today; MXIDs never change.
    WouldBe {
        /// What the templates would give.
        mxid: Mxid,
    },
    /// The account is locked in Synapse.
    Locked,
    /// They have no account and need none.
    NoAccount,
    /// They wait for somebody with whom nothing can be done now.
    WaitsFor {
        /// That person.
        id: DefguardId,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfScope { why } => f.write_str(why),
            Self::NoValue { field, why } => write!(f, "{} gives nothing usable: {why}", field.template_key()),
            Self::DisplayNameTooLong { length } => {
                write!(f, "the display name has {length} characters, Synapse changes it to at most 256")
            }
            Self::WouldBe { mxid } => write!(f, "the templates would give {mxid} today; MXIDs never change"),
            Self::Locked => f.write_str("the account is locked in Synapse"),
            Self::NoAccount => f.write_str("has no account and gets none"),
            Self::WaitsFor { id } => write!(f, "waits for #{id}, with whom nothing can be done now"),
        }
    }
}

/// People whose accounts exchange something, or one person alone. One worker does a group, in order; groups are
/// independent of each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The smallest id in it, which names it.
    pub key: DefguardId,
    /// Who is in it.
    pub people: BTreeSet<DefguardId>,
    /// What is written to Synapse, in order.
    pub steps: Vec<Step>,
    /// The links as they are when all is done, `None` for one that is taken off.
    pub links: BTreeMap<DefguardId, Option<Link>>,
    /// How links came about that did not exist before, for the journal.
    pub made: BTreeMap<DefguardId, Change>,
    /// The external ids that leave an account, and the logins that are put on one.
    pub moves: BTreeSet<Move>,
    /// Whether the people have to be read again right before, because external ids change or an account is made.
    pub confirm: bool,
}

/// One thing that is written to one account.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make the account.
    Create {
        /// For whom.
        id: DefguardId,
        /// The account.
        mxid: Mxid,
        /// The display name; `None` lets Synapse take the localpart.
        display_name: Option<String>,
        /// The e-mail address.
        email: Option<Email>,
        /// Subject and ownership marker.
        external_ids: BTreeSet<ExternalId>,
    },
    /// Change which external ids and e-mail addresses an account has; all others stay.
    Hold {
        /// For whom.
        id: DefguardId,
        /// The account.
        mxid: Mxid,
        /// What is added and taken off.
        change: Holdings,
    },
    /// Change the display name.
    Name {
        /// For whom.
        id: DefguardId,
        /// The account.
        mxid: Mxid,
        /// The new name.
        display_name: String,
    },
}

impl Step {
    /// For whom.
    pub fn person(&self) -> DefguardId {
        match self {
            Self::Create { id, .. } | Self::Hold { id, .. } | Self::Name { id, .. } => *id,
        }
    }

    /// The account.
    pub fn mxid(&self) -> &Mxid {
        match self {
            Self::Create { mxid, .. } | Self::Hold { mxid, .. } | Self::Name { mxid, .. } => mxid,
        }
    }
}

/// A change of the external ids and e-mail addresses of one account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holdings {
    /// External ids to list.
    pub add_ids: BTreeSet<ExternalId>,
    /// External ids to drop; another account of the group lists them later, which evicts them from Synapse's cache.
    pub drop_ids: BTreeSet<ExternalId>,
    /// External ids to list once more and to drop in the very next request, because no account lists them later.
    pub wash_ids: BTreeSet<ExternalId>,
    /// E-mail addresses to add.
    pub add_emails: BTreeSet<Email>,
    /// E-mail addresses to take off.
    pub drop_emails: BTreeSet<Email>,
}

impl Holdings {
    /// Whether external ids change.
    pub fn changes_ids(&self) -> bool {
        !(self.add_ids.is_empty() && self.drop_ids.is_empty() && self.wash_ids.is_empty())
    }
}

impl Plan {
    /// Keeps only the groups in which one of these people is, for a sync of single people.
    pub fn restrict(&mut self, to: &BTreeSet<DefguardId>) {
        self.groups.retain(|group| !group.people.is_disjoint(to));
    }
}

impl Group {
    /// What has to be remembered before the group is begun. An account whose creation is finished counts as one that
    /// is being made until all is done.
    pub fn intent(&self, begun: DateTime<Utc>) -> Intent {
        let creates = self
            .made
            .iter()
            .filter(|(_, change)| **change == Change::Created)
            .filter_map(|(id, _)| Some((*id, self.links.get(id)?.as_ref()?.mxid.clone())))
            .collect();
        Intent { group: self.key, begun, creates, moves: self.moves.clone(), pending: Vec::new() }
    }
}
