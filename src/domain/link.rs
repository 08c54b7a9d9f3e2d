//! What the store remembers: links, intents, runs, the journal, failures.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Belongings, DefguardId, Email, ExternalId, Failure, Leaving, Lifecycle, MappedField, Mxid, Session,
    Subject, Username,
};

/// The tie between a person and the account that is theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Whose account it is.
    pub id: DefguardId,
    /// The username when last seen.
    pub username: Username,
    /// The subject that the account carries; `None` until it could be put there.
    pub subject: Option<Subject>,
    /// The account; it never changes.
    pub mxid: Mxid,
    /// What the templates gave when the account was last brought in step.
    pub applied: Applied,
    /// Where the account is on the off-boarding ladder.
    #[serde(default, skip_serializing_if = "Lifecycle::is_ground")]
    pub lifecycle: Lifecycle,
    /// Logins under a former `idp_id` or `subject_template`, which open the account until the migration is finished.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub former: BTreeSet<ExternalId>,
}

/// The baseline of the profile fields: what Defguard's templates gave when the account was last brought in step.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applied {
    /// The display name; `None` if the template gave nothing.
    pub display_name: Option<String>,
    /// The e-mail address that we put on the account, or that Defguard had when we first saw the account; `None` if
    /// there was none. It is the only address that is ever taken off again.
    pub email: Option<Email>,
    /// The fields of which there is no baseline yet: nothing is known of what Defguard had when the account became this
    /// person's.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unseen: BTreeSet<MappedField>,
}

impl Applied {
    /// The baseline of the display name; the outer `None` if there is none.
    pub fn display_name(&self) -> Option<Option<&String>> {
        (!self.unseen.contains(&MappedField::DisplayName)).then_some(self.display_name.as_ref())
    }

    /// The baseline of the e-mail address; the outer `None` if there is none.
    pub fn email(&self) -> Option<Option<&Email>> {
        (!self.unseen.contains(&MappedField::Email)).then_some(self.email.as_ref())
    }

    /// Sets the baseline of the display name.
    pub fn set_display_name(&mut self, baseline: Option<Option<String>>) {
        self.see(MappedField::DisplayName, baseline.is_some());
        self.display_name = baseline.flatten();
    }

    /// Sets the baseline of the e-mail address.
    pub fn set_email(&mut self, baseline: Option<Option<Email>>) {
        self.see(MappedField::Email, baseline.is_some());
        self.email = baseline.flatten();
    }

    fn see(&mut self, field: MappedField, seen: bool) {
        if seen {
            self.unseen.remove(&field);
        } else {
            self.unseen.insert(field);
        }
    }
}

/// Names and addresses are personal data.
impl fmt::Debug for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Applied(…)")
    }
}

/// An external id on its way off an account. Until it is listed on another account, or listed once more and taken
/// off in the very next request, Synapse may go on answering it from its cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Move {
    /// The id.
    pub id: ExternalId,
    /// The account that it leaves.
    pub from: Mxid,
}

/// What is about to be done to the accounts of one transfer group, flushed before the first write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The smallest person id in the group, which names it.
    pub group: DefguardId,
    /// When it was begun.
    pub begun: DateTime<Utc>,
    /// The accounts that are about to be created.
    pub creates: BTreeMap<DefguardId, Mxid>,
    /// The external ids that are about to leave an account, and the logins that are about to be put on one: if the
    /// work is cut short, those may have to leave it again.
    pub moves: BTreeSet<Move>,
    /// The journal lines of the write that is under way, kept if it turns out to have taken effect.
    pub pending: Vec<Entry>,
}

/// The number of a run, counting from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One line of the journal: one thing that was done, with what was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The run that did it; `None` for a change by hand (`link`, `unlink`).
    pub run: Option<RunId>,
    /// When.
    pub at: DateTime<Utc>,
    /// For whom.
    pub id: DefguardId,
    /// To which account.
    pub mxid: Mxid,
    /// What was done.
    pub change: Change,
}

/// What was done to an account or a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Change {
    /// The account was created.
    Created,
    /// An account that existed became this person's.
    Adopted,
    /// The link was found again by the ownership marker, which changed nothing in Synapse.
    Relinked,
    /// The link was made by hand.
    Linked,
    /// The link was taken off by hand.
    Unlinked,
    /// The display name was changed.
    DisplayName {
        /// What was there.
        before: Option<String>,
        /// What is there now.
        after: Option<String>,
    },
    /// The list of e-mail addresses was changed.
    Emails {
        /// What was there.
        before: BTreeSet<String>,
        /// What is there now.
        after: BTreeSet<String>,
    },
    /// The list of external ids was changed.
    ExternalIds {
        /// What was there.
        before: BTreeSet<ExternalId>,
        /// What is there now.
        after: BTreeSet<ExternalId>,
    },
    /// The account was locked.
    Locked {
        /// Why.
        why: Leaving,
        /// Whether its sessions were to be ended as well.
        end_sessions: bool,
    },
    /// Our lock was taken off.
    Unlocked {
        /// Why it had been locked.
        why: Leaving,
    },
    /// All sessions were ended, and with them the notifications to devices and by e-mail.
    SessionsEnded {
        /// How many devices were logged in.
        devices: u64,
    },
    /// The account was deactivated.
    Deactivated {
        /// Why.
        why: Leaving,
        /// What it had, most of which is gone for good.
        before: Belongings,
    },
    /// Our deactivation was taken back.
    Reactivated,
    /// The login of this person was used again by somebody else, who may have opened these sessions of their account.
    StrangerSessions {
        /// The sessions that were used since the person was last seen.
        sessions: BTreeSet<Session>,
    },
}

/// How often in a row a person failed, and when they are looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Failures in a row.
    pub failures: u32,
    /// Not before this time, unless somebody asks for them by hand.
    pub until: DateTime<Utc>,
    /// The first of these failures.
    pub since: DateTime<Utc>,
    /// The last failure.
    pub last: Failure,
}

/// What is kept of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its number.
    pub id: RunId,
    /// When it began.
    pub began: DateTime<Utc>,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// Whether it was a full pass.
    pub full: bool,
    /// How it ended, as exit code: 0 done, 3 some people failed, 4 the guard holds a part, 5 a server was
    /// unusable.
    pub exit_code: u8,
    /// One sentence about it.
    pub summary: String,
    /// People seen, by what became of them.
    pub people: BTreeMap<String, u64>,
    /// Things done, by kind.
    pub changes: BTreeMap<String, u64>,
    /// People for whom something failed.
    #[serde(default)]
    pub failed: u64,
}

impl Change {
    /// The name of the kind, for tables, logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Adopted => "adopted",
            Self::Relinked => "relinked",
            Self::Linked => "linked",
            Self::Unlinked => "unlinked",
            Self::DisplayName { .. } => "display_name",
            Self::Emails { .. } => "emails",
            Self::ExternalIds { .. } => "external_ids",
            Self::Locked { .. } => "locked",
            Self::Unlocked { .. } => "unlocked",
            Self::SessionsEnded { .. } => "sessions_ended",
            Self::Deactivated { .. } => "deactivated",
            Self::Reactivated => "reactivated",
            Self::StrangerSessions { .. } => "stranger_sessions",
        }
    }
}
