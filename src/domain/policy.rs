//! The policies by which an admin says how far this program may go with an account.

use chrono::{DateTime, TimeDelta, Utc};
use globset::GlobSet;
use serde::{Deserialize, Serialize};

use super::{Leaving, Lifecycle, Mxid};

/// What becomes of a new person whose localpart (or subject) already belongs to an account that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// Nothing is done; the conflict is reported until somebody settles it by hand.
    #[default]
    Report,
    /// The account becomes theirs if it has the e-mail address that the person has in Defguard.
    AdoptIfSameEmail,
    /// The account becomes theirs.
    Adopt,
    /// They get a new account with a number behind the localpart, as Synapse itself does at a login.
    Suffix,
}

/// When a profile field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FieldPolicy {
    /// Whenever the account differs from Defguard.
    Enforce,
    /// Only when Defguard's value changed since it was last written or seen; a person's own choice stays.
    OnChange,
    /// Only when the account is created.
    Initial,
    /// Never.
    Ignore,
}

/// How an account is created. Synapse's admin API overwrites an account that appeared since the look-up
/// (`docs/facts/synapse.md`, further observations), so where others can make accounts an empty request goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CreateMode {
    /// `EmptyFirst` where the server lets people register themselves, `OneRequest` elsewhere, where only a first login
    /// in the few milliseconds between our look and our write can make the account.
    #[default]
    Auto,
    /// Everything in one request.
    OneRequest,
    /// An empty request, and the rest only after the answer 201.
    EmptyFirst,
}

/// How sure it is that an account is a person's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// Only the name is the same, which somebody else may have had before.
    Guess,
    /// It has their e-mail address.
    Likely,
    /// Their login opens it already.
    Certain,
}

impl Certainty {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guess => "guess",
            Self::Likely => "likely",
            Self::Certain => "certain",
        }
    }
}

/// What becomes of the account of somebody who leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLeave {
    /// It is locked: nobody can use it, and everything in it stays.
    #[default]
    Lock,
    /// It is locked, and deactivated by a later run: sessions, addresses and rooms are gone for good.
    Deactivate,
    /// Nothing.
    Ignore,
}

/// What becomes of the sessions of an account that is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionsOnLock {
    /// They stay and work again after an unlock; until then notifications go on to phones and by e-mail.
    Keep,
    /// They are ended, and notifications with them.
    End,
}

/// How far to go with those who leave, and how sure to be.
#[derive(Debug, Clone)]
pub struct OffBoarding {
    /// For those disabled in Defguard.
    pub disabled: OnLeave,
    /// For those gone from Defguard.
    pub gone: OnLeave,
    /// For those whom the group filter leaves out.
    pub out_of_scope: OnLeave,
    /// How long after our lock an account of somebody gone or out of scope is deactivated; `None`: never.
    pub deactivate_after: Option<TimeDelta>,
    /// What becomes of sessions; `None`: they are kept for the disabled and ended for all others.
    pub sessions_on_lock: Option<SessionsOnLock>,
    /// How many complete lists in a row have to miss somebody.
    pub absence_confirmations: u32,
    /// How long somebody has to have been missed.
    pub absence_min_age: TimeDelta,
    /// Whether server admins are off-boarded like everybody.
    pub off_board_admins: bool,
    /// MXIDs or localparts of accounts that are never off-boarded.
    pub protect: GlobSet,
}

impl Default for OffBoarding {
    fn default() -> Self {
        Self {
            disabled: OnLeave::Lock,
            gone: OnLeave::Lock,
            out_of_scope: OnLeave::Lock,
            deactivate_after: None,
            sessions_on_lock: None,
            absence_confirmations: 2,
            absence_min_age: TimeDelta::minutes(30),
            off_board_admins: false,
            protect: GlobSet::empty(),
        }
    }
}

impl OffBoarding {
    /// What becomes of somebody who leaves like this.
    pub fn on(&self, why: Leaving) -> OnLeave {
        match why {
            Leaving::Disabled => self.disabled,
            Leaving::Gone => self.gone,
            Leaving::OutOfScope => self.out_of_scope,
        }
    }

    /// What becomes of their sessions.
    pub fn sessions(&self, why: Leaving) -> SessionsOnLock {
        self.sessions_on_lock.unwrap_or(match why {
            Leaving::Disabled => SessionsOnLock::Keep,
            Leaving::Gone | Leaving::OutOfScope => SessionsOnLock::End,
        })
    }

    /// When an account that we locked is due to be deactivated, since its owner left like this; `None`: never, or it is
    /// not locked by us.
    pub fn deactivation_due(&self, life: &Lifecycle, why: Leaving) -> Option<DateTime<Utc>> {
        let locked = life.locked.as_ref()?;
        let begun = life.away.as_ref().map_or(locked.at, |away| away.since.max(locked.at));
        match (self.on(why), self.deactivate_after) {
            (OnLeave::Deactivate, _) => Some(begun),
            (OnLeave::Lock, Some(after)) if why != Leaving::Disabled => begun.checked_add_signed(after),
            _ => None,
        }
    }

    /// Whether the account is protected by name.
    pub fn protects(&self, mxid: &Mxid) -> bool {
        self.protect.is_match(mxid.as_str()) || self.protect.is_match(mxid.localpart())
    }
}

/// How much may happen without a person saying yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardLimits {
    /// So many of one kind are always let through, within a day.
    pub min_count: u32,
    /// So many percent of the accounts in use, if that is more.
    pub percent: u32,
    /// But never more than this.
    pub max_count: u32,
    /// If the list of people lacks more than so many percent of the linked people, nobody is taken for gone.
    pub shrink_percent: u32,
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self { min_count: 5, percent: 5, max_count: 50, shrink_percent: 10 }
    }
}

impl GuardLimits {
    /// How many changes of one kind are let through when so many accounts are in use.
    pub fn allowed(&self, in_use: usize) -> usize {
        let share = in_use.saturating_mul(self.percent as usize) / 100;
        share.max(self.min_count as usize).min(self.max_count as usize)
    }

    /// How many of the linked people may be missing from a list.
    pub fn may_be_missing(&self, linked: usize) -> usize {
        let share = linked.saturating_mul(self.shrink_percent as usize) / 100;
        share.max(self.min_count as usize)
    }
}
