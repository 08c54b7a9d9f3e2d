//! How far an account is on its way out: the off-boarding ladder, and what we did on it.

use std::{collections::BTreeSet, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Change, ThreePid};

/// Why somebody is not to use their account any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaving {
    /// Disabled in Defguard.
    Disabled,
    /// Not in Defguard any more.
    Gone,
    /// The group filter does not let them in any more.
    OutOfScope,
}

impl Leaving {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Disabled, Self::Gone, Self::OutOfScope];

    /// The name for config, tables, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Gone => "gone",
            Self::OutOfScope => "out_of_scope",
        }
    }
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "disabled in Defguard",
            Self::Gone => "gone from Defguard",
            Self::OutOfScope => "out of scope",
        })
    }
}

/// Where a link is on the ladder. The default is the ground: the account is in use. As everything that is stored and has
/// defaults, it refuses keys that it does not know: one that was damaged must not be taken for one that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// They were missed, or found out of scope, and it is not proved yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<Away>,
    /// We locked the account and nobody has unlocked it since. A lock that is not noted here is somebody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<OurLock>,
    /// We deactivated the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deactivated: Option<OurDeactivation>,
}

impl Lifecycle {
    /// Whether the account is in use as far as we are concerned.
    pub fn is_ground(&self) -> bool {
        *self == Self::default()
    }

    /// What a change that was done means for the ladder.
    pub fn after(&mut self, change: &Change, at: DateTime<Utc>) {
        match change {
            Change::Locked { why, end_sessions } => {
                self.locked = Some(OurLock { why: *why, at, sessions_due: *end_sessions });
            }
            Change::Unlocked { .. } => self.locked = None,
            Change::SessionsEnded { .. } => {
                if let Some(locked) = &mut self.locked {
                    locked.sessions_due = false;
                }
            }
            Change::Deactivated { before, .. } => {
                let threepids = before.threepids.clone();
                self.deactivated = Some(OurDeactivation { at, threepids, restoring: false });
            }
            Change::Reactivated => {
                if let Some(deactivated) = &mut self.deactivated {
                    deactivated.restoring = true;
                }
            }
            _ => {}
        }
    }

    /// Whether we took the use of the account away.
    pub fn is_off_boarded(&self) -> bool {
        self.locked.is_some() || self.deactivated.is_some()
    }
}

/// An absence that is being proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Away {
    /// What it looks like: gone, or out of scope.
    pub why: Leaving,
    /// The first run that missed them.
    pub since: DateTime<Utc>,
    /// How many runs in a row missed them, as far as they are needed.
    pub runs: u32,
    /// The last run before that which still saw them, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<DateTime<Utc>>,
}

/// A lock of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OurLock {
    /// Why.
    pub why: Leaving,
    /// When.
    pub at: DateTime<Utc>,
    /// Whether the sessions are still to be ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sessions_due: bool,
}

/// A deactivation of ours, with what is given back when they return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OurDeactivation {
    /// When.
    pub at: DateTime<Utc>,
    /// The e-mail addresses and phone numbers that Synapse took off.
    pub threepids: BTreeSet<ThreePid>,
    /// Whether the account is in use again and only lacks these.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restoring: bool,
}

/// A device with which somebody is logged in to an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The device id.
    pub device: String,
    /// When it was last used, if that is known.
    pub last_used: Option<DateTime<Utc>>,
}

/// What Synapse takes off an account for good when it is deactivated.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Belongings {
    /// The display name.
    pub display_name: Option<String>,
    /// E-mail addresses and phone numbers.
    pub threepids: BTreeSet<ThreePid>,
    /// The external ids, which stay.
    pub external_ids: BTreeSet<super::ExternalId>,
    /// The rooms that it is in.
    pub rooms: BTreeSet<String>,
}

/// Names and addresses are personal data.
impl fmt::Debug for Belongings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Belongings").field("rooms", &self.rooms.len()).finish_non_exhaustive()
    }
}
