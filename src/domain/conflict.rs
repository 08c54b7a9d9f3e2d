//! Why a person could not be given an account, or not everything that is theirs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{DefguardId, MappedField, Mxid};

/// Several people who share something that only one can have. A wrong template can make it everybody, and everybody has
/// a conflict of their own that tells of it, so that only some are named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Twins {
    /// The first of them, by id.
    pub named: Vec<DefguardId>,
    /// How many they are.
    pub count: usize,
}

impl Twins {
    /// How many are named.
    pub const MOST_NAMED: usize = 20;

    /// Names the first of `people`, which are in the order of their ids.
    pub fn of(people: &[DefguardId]) -> Self {
        Self { named: people.iter().copied().take(Self::MOST_NAMED).collect(), count: people.len() }
    }
}

impl fmt::Display for Twins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.named.iter().map(|id| format!("#{id}")).collect::<Vec<_>>().join(", ");
        f.write_str(&named)?;
        match self.count.saturating_sub(self.named.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A frequent pass does not look for what the list of accounts does not show.
const SEEN_LATER: &str = "what is changed in Synapse is seen at the next full pass, or with `sync USER`";

/// Something that stands in the way and that only a person can solve. Nothing is written because of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Conflict {
    /// A template gives nothing usable for this person.
    Unmappable {
        /// Which template.
        field: MappedField,
        /// What is wrong with its result.
        why: String,
    },
    /// Several people map to one localpart, and none of them has it yet.
    LocalpartTwins {
        /// The account that none of them gets.
        mxid: Mxid,
        /// Who they are.
        people: Twins,
    },
    /// The localpart is taken by an account that is not this person's.
    LocalpartTaken {
        /// The account.
        mxid: Mxid,
        /// The person whose it is, if it is one of ours.
        owner: Option<DefguardId>,
        /// Why it was not adopted, if the policy would have it adopted.
        not_adopted: Option<String>,
    },
    /// Several people have one subject.
    SubjectTwins {
        /// Who they are.
        people: Twins,
    },
    /// An account that we did not make already opens for this person's login: they logged in before.
    LoggedInBefore {
        /// The account.
        mxid: Mxid,
        /// Why it was not adopted, if the policy would have it adopted.
        not_adopted: Option<String>,
    },
    /// The subject is on the account of somebody who does not give it up, because they are gone, disabled, out of scope or
    /// cannot be mapped: the username was used again.
    UsernameReused {
        /// The old owner's account.
        mxid: Mxid,
        /// The old owner.
        owner: DefguardId,
    },
    /// The new subject of a renamed person is on an account that is not ours, probably one made at a login.
    SubjectTaken {
        /// The account.
        mxid: Mxid,
    },
    /// The e-mail address is on another account.
    EmailTaken {
        /// The account.
        mxid: Mxid,
        /// The person whose it is, if it is one of ours.
        owner: Option<DefguardId>,
    },
    /// Several people have one e-mail address.
    EmailTwins {
        /// Who they are.
        people: Twins,
    },
    /// The linked account is not among the accounts of the homeserver.
    Vanished {
        /// The account.
        mxid: Mxid,
    },
    /// The linked account was deactivated in Synapse by somebody else.
    Deactivated {
        /// The account.
        mxid: Mxid,
    },
    /// Their account carries the ownership marker of somebody else.
    MarkedForOther {
        /// The account.
        mxid: Mxid,
    },
}

impl Conflict {
    /// The name of the kind, for tables, logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unmappable { .. } => "unmappable",
            Self::LocalpartTwins { .. } => "localpart_twins",
            Self::LocalpartTaken { .. } => "localpart_taken",
            Self::SubjectTwins { .. } => "subject_twins",
            Self::LoggedInBefore { .. } => "logged_in_before",
            Self::UsernameReused { .. } => "username_reused",
            Self::SubjectTaken { .. } => "subject_taken",
            Self::EmailTaken { .. } => "email_taken",
            Self::EmailTwins { .. } => "email_twins",
            Self::Vanished { .. } => "vanished",
            Self::Deactivated { .. } => "deactivated",
            Self::MarkedForOther { .. } => "marked_for_other",
        }
    }

    /// The people whom the conflict names.
    pub fn others(&self) -> Vec<DefguardId> {
        match self {
            Self::LocalpartTwins { people, .. }
            | Self::SubjectTwins { people }
            | Self::EmailTwins { people } => people.named.clone(),
            _ => self.owner().into_iter().collect(),
        }
    }

    /// The person whose account is in the way.
    pub fn owner(&self) -> Option<DefguardId> {
        match self {
            Self::LocalpartTaken { owner, .. } | Self::EmailTaken { owner, .. } => *owner,
            Self::UsernameReused { owner, .. } => Some(*owner),
            _ => None,
        }
    }

    /// The account that it is about.
    pub fn mxid(&self) -> Option<&Mxid> {
        match self {
            Self::LocalpartTwins { mxid, .. }
            | Self::LocalpartTaken { mxid, .. }
            | Self::LoggedInBefore { mxid, .. }
            | Self::UsernameReused { mxid, .. }
            | Self::SubjectTaken { mxid }
            | Self::EmailTaken { mxid, .. }
            | Self::Vanished { mxid }
            | Self::Deactivated { mxid }
            | Self::MarkedForOther { mxid } => Some(mxid),
            Self::Unmappable { .. } | Self::SubjectTwins { .. } | Self::EmailTwins { .. } => None,
        }
    }

    /// What a person can do about it.
    pub fn mend(&self) -> String {
        match self {
            Self::Unmappable { field, .. } => {
                format!(
                    "correct this person in Defguard, or change {} so that it works for them",
                    field.template_key()
                )
            }
            Self::LocalpartTwins { .. } => {
                "rename one of them in Defguard, say who gets the name with `link USER MXID` \
                 once there is such an account, or set `on_conflict = \"suffix\"`"
                    .to_owned()
            }
            Self::LocalpartTaken { mxid, owner: None, .. } => format!(
                "if {mxid} is theirs, say so with `link USER {mxid}`; if it is not, rename one of the two, or set \
                 `on_conflict = \"suffix\"`; {SEEN_LATER}"
            ),
            Self::LocalpartTaken { owner: Some(_), .. } => {
                "rename one of the two in Defguard, or set `on_conflict = \"suffix\"`".to_owned()
            }
            Self::SubjectTwins { .. } => {
                "change subject_template, here and in homeserver.yaml, so that it tells these people apart"
                    .to_owned()
            }
            Self::LoggedInBefore { mxid, .. } => format!(
                "if {mxid} is theirs, say so with `link USER {mxid}`; to have all such accounts adopted, set \
                 `on_conflict = \"adopt-if-same-email\"`; {SEEN_LATER}"
            ),
            Self::UsernameReused { mxid, owner } => format!(
                "if the old owner has left, lock or deactivate {mxid} in Synapse, then take their link off with \
                 `unlink '#{owner}'`; until then a login of this person opens the old account"
            ),
            Self::SubjectTaken { mxid } => format!(
                "a second account was probably made when they logged in under the new name, {mxid}: take their link off \
                 with `unlink USER`, then say with `link USER MXID` which of the two they are to keep"
            ),
            Self::EmailTaken { mxid, .. } => {
                format!("take the address off {mxid} in Synapse, or correct it in Defguard; {SEEN_LATER}")
            }
            Self::EmailTwins { .. } => "give each of them an address of their own in Defguard".to_owned(),
            Self::Vanished { mxid } => {
                format!(
                    "if {mxid} is really gone, take the link off with `unlink USER`; the next sync makes an account"
                )
            }
            Self::Deactivated { mxid } => format!(
                "reactivate {mxid} in Synapse if they are to have it back; if they are to have another one, take this one \
                 from them with `unlink USER` and say which with `link USER MXID`"
            ),
            Self::MarkedForOther { .. } => {
                "whose account it is stands in its external ids: take the wrong marker off in Synapse, or, if it is not \
                 theirs, the link with `unlink USER`"
                    .to_owned()
            }
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let because = |why: &Option<String>| why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        match self {
            Self::Unmappable { field, why } => {
                write!(f, "{} gives nothing usable: {why}", field.template_key())
            }
            Self::LocalpartTwins { mxid, people } => {
                write!(f, "{} people would all become {mxid}: {people}", people.count)
            }
            Self::LocalpartTaken { mxid, owner: Some(owner), .. } => {
                write!(f, "{mxid} already belongs to #{owner}")
            }
            Self::LocalpartTaken { mxid, owner: None, not_adopted } => {
                write!(f, "{mxid} already exists and is not known to be theirs{}", because(not_adopted))
            }
            Self::SubjectTwins { people } => {
                write!(f, "{} people have the same login subject: {people}", people.count)
            }
            Self::LoggedInBefore { mxid, not_adopted } => {
                write!(f, "their login already opens {mxid}, which was not made here{}", because(not_adopted))
            }
            Self::UsernameReused { mxid, owner } => {
                write!(
                    f,
                    "their login opens {mxid}, the account of #{owner}, from whom it cannot be taken: they are gone, \
                     disabled, out of scope or cannot be mapped"
                )
            }
            Self::SubjectTaken { mxid } => {
                write!(f, "they were renamed, and the new name already opens another account, {mxid}")
            }
            Self::EmailTaken { mxid, owner: Some(owner) } => {
                write!(f, "their e-mail address is on {mxid}, the account of #{owner}")
            }
            Self::EmailTaken { mxid, owner: None } => {
                write!(f, "their e-mail address is on {mxid}, which is not theirs")
            }
            Self::EmailTwins { people } => {
                write!(f, "{} people have the same e-mail address: {people}", people.count)
            }
            Self::Vanished { mxid } => write!(f, "their account {mxid} is not on the homeserver any more"),
            Self::Deactivated { mxid } => {
                write!(f, "their account {mxid} was deactivated in Synapse by somebody else")
            }
            Self::MarkedForOther { mxid } => {
                write!(f, "{mxid} carries the ownership marker of somebody else")
            }
        }
    }
}

/// A conflict that was found and is remembered, so that an unchanged one costs no request in the next run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standoff {
    /// The person's username, so that it can be shown without asking Defguard.
    pub username: super::Username,
    /// What stands in the way.
    pub conflicts: Vec<Conflict>,
    /// Everything known without a request on which the finding rests; as long as it is the same, so is the finding.
    pub fingerprint: String,
    /// When it was first found.
    pub since: chrono::DateTime<chrono::Utc>,
}
