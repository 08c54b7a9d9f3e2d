//! What was decided.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::scene::Question;
use crate::domain::{
    Change, Conflict, DefguardId, Email, ExternalId, Failure, Harm, Intent, Leaving, Link, MappedField, Move,
    Mxid, Session, ThreePid,
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
    /// Each person whom the listing shows, and each linked one whom a complete listing does not show.
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
    /// Linked, and not in Defguard any more, or passed over by its list.
    Gone,
    /// Everything that would be done for them is kept back by the guard.
    Held,
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
            Self::Gone => "gone",
            Self::Held => "held",
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
    /// The account is locked in Synapse, and not by us.
    Locked,
    /// We locked the account.
    LockedByUs {
        /// Why.
        why: Leaving,
        /// When.
        at: DateTime<Utc>,
    },
    /// We deactivated the account.
    DeactivatedByUs {
        /// When.
        at: DateTime<Utc>,
    },
    /// We deactivated the account, and somebody else took that back.
    ReactivatedByOthers,
    /// It is not proved yet that they left.
    Away {
        /// What it looks like.
        why: Leaving,
        /// The first run that missed them.
        since: DateTime<Utc>,
        /// How many runs have missed them.
        runs: u32,
        /// How many have to.
        needed: u32,
        /// Not before this time.
        not_before: DateTime<Utc>,
    },
    /// They may have left; an incomplete list cannot tell.
    Missed,
    /// Nobody can use the account anyway: it is deactivated by somebody else, or not there.
    NoAccountInUse,
    /// The list passed them over; Defguard knows them under this very id.
    PassedOver,
    /// They left, and their account will be deactivated.
    DeactivationDue {
        /// When.
        at: DateTime<Utc>,
    },
    /// They left, and the config says that nothing is done.
    LeftAlone {
        /// How they left.
        why: Leaving,
    },
    /// They left, and their account is one that is never off-boarded.
    Protected {
        /// What protects it.
        why: String,
    },
    /// They left, and their account is a server admin's, which is not off-boarded by itself. Somebody has to see to it.
    AdminLeaver {
        /// How they left.
        why: Leaving,
    },
    /// A part of what would be done for them is kept back by the guard.
    Held {
        /// Which part.
        harm: Harm,
    },
    /// Somebody else has their username by now, and may have opened these sessions of their account.
    StrangerSessions {
        /// The sessions that were used since they were last seen.
        sessions: BTreeSet<Session>,
        /// When they were last seen, if that is known.
        since: Option<DateTime<Utc>>,
    },
    /// They have no account and need none.
    NoAccount,
    /// They wait for somebody with whom nothing can be done now.
    WaitsFor {
        /// That person.
        id: DefguardId,
    },
}

impl Note {
    /// Whether only a person can settle it, so that `status` shows it as long as it lasts.
    pub fn is_left_to_people(&self) -> bool {
        matches!(
            self,
            Self::Locked | Self::ReactivatedByOthers | Self::Protected { .. } | Self::AdminLeaver { .. }
        )
    }

    /// Whether it must not stay so.
    pub fn is_critical(&self) -> bool {
        matches!(self, Self::AdminLeaver { .. } | Self::StrangerSessions { .. })
    }
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
            Self::Locked => {
                f.write_str("the account is locked in Synapse, not by this service, and stays so")
            }
            Self::LockedByUs { why, at } => {
                write!(f, "locked by this service since {}: {why}", minute(*at))
            }
            Self::DeactivatedByUs { at } => write!(f, "deactivated by this service on {}", minute(*at)),
            Self::ReactivatedByOthers => {
                f.write_str("was deactivated by this service and reactivated by somebody else; it stays so")
            }
            Self::Away { why, since, runs, needed, not_before } => write!(
                f,
                "{} since {}: {runs} of {needed} runs, acted on from {} at the earliest",
                match why {
                    Leaving::OutOfScope => "out of scope",
                    _ => "missing from the list of people",
                },
                minute(*since),
                minute(*not_before)
            ),
            Self::Missed => f.write_str("may have left; an incomplete list cannot tell"),
            Self::NoAccountInUse => {
                f.write_str("the account is out of use already: not there, or deactivated by somebody else")
            }
            Self::PassedOver => f.write_str("the list passed them over; Defguard still knows them"),
            Self::DeactivationDue { at } => write!(f, "will be deactivated on {}", minute(*at)),
            Self::LeftAlone { why } => write!(f, "{why}, and off_boarding.{} = \"ignore\"", why.as_str()),
            Self::Protected { why } => write!(f, "is never off-boarded: {why}"),
            Self::AdminLeaver { why } => write!(
                f,
                "CRITICAL: {why}, and still a server admin; take the admin right away in Synapse, or set \
                 off_boarding.off_board_admins = true"
            ),
            Self::Held { harm } => {
                write!(f, "kept back by the guard: the account would {harm}; see `plan`")
            }
            Self::StrangerSessions { sessions, since } => {
                write!(
                    f,
                    "ALARM: somebody else has their username now and may have opened their account: {} session(s) used",
                    sessions.len()
                )?;
                match since {
                    Some(since) => write!(f, " since {}", minute(*since))?,
                    None => f.write_str(" at an unknown time")?,
                }
                let devices: Vec<&str> = sessions.iter().map(|session| session.device.as_str()).collect();
                write!(f, " (devices {})", devices.join(", "))
            }
            Self::NoAccount => f.write_str("has no account and gets none"),
            Self::WaitsFor { id } => write!(f, "waits for #{id}, with whom nothing can be done now"),
        }
    }
}

fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
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
    /// What else the journal has to tell when all is done.
    pub told: BTreeMap<DefguardId, Change>,
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
        /// The new name; empty takes the name off.
        display_name: String,
    },
    /// Go up or down the off-boarding ladder.
    Ladder {
        /// For whom.
        id: DefguardId,
        /// The account.
        mxid: Mxid,
        /// What is done.
        rung: Rung,
    },
}

/// One step on the off-boarding ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rung {
    /// Lock the account.
    Lock {
        /// Why.
        why: Leaving,
        /// Whether its sessions are to be ended next.
        end_sessions: bool,
    },
    /// End all sessions, and with them all notifications.
    EndSessions(Leaving),
    /// Deactivate the account, which we locked before.
    Deactivate(Leaving),
    /// Take our deactivation back, once the account has left all its rooms.
    Reactivate {
        /// What is put on it again, as far as nobody else has it by now.
        threepids: BTreeSet<ThreePid>,
    },
    /// Take our lock off.
    Unlock(Leaving),
}

impl Rung {
    /// Why something is taken from the account, if this does so.
    pub fn leaving(&self) -> Option<Leaving> {
        match self {
            Self::Lock { why, .. } | Self::EndSessions(why) | Self::Deactivate(why) => Some(*why),
            Self::Reactivate { .. } | Self::Unlock(_) => None,
        }
    }
}

impl Step {
    /// For whom.
    pub fn person(&self) -> DefguardId {
        match self {
            Self::Create { id, .. }
            | Self::Hold { id, .. }
            | Self::Name { id, .. }
            | Self::Ladder { id, .. } => *id,
        }
    }

    /// The account.
    pub fn mxid(&self) -> &Mxid {
        match self {
            Self::Create { mxid, .. }
            | Self::Hold { mxid, .. }
            | Self::Name { mxid, .. }
            | Self::Ladder { mxid, .. } => mxid,
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
