//! What the guard keeps back until a person says yes.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{DefguardId, Mxid};

/// What can do harm if it is done to many at once, or for the wrong reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// Somebody disabled in Defguard is locked.
    LockDisabled,
    /// Somebody gone from Defguard is locked.
    LockGone,
    /// Somebody out of scope is locked.
    LockOutOfScope,
    /// An account is deactivated.
    Deactivate,
    /// The login that opens an account changes.
    Relink,
    /// A login under a new `idp_id` or `subject_template` is put beside the old one.
    Migrate,
    /// An account loses an e-mail address.
    Email,
    /// An account gets another display name.
    DisplayName,
    /// An account that was there before becomes somebody's.
    Adopt,
    /// All sessions of an account are ended that was locked before.
    EndSessions,
    /// Our lock or our deactivation is taken back. It does harm only if it was not ours.
    Restore,
}

impl Harm {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::LockDisabled,
        Self::LockGone,
        Self::LockOutOfScope,
        Self::Deactivate,
        Self::Relink,
        Self::Migrate,
        Self::Email,
        Self::DisplayName,
        Self::Adopt,
        Self::EndSessions,
        Self::Restore,
    ];

    /// The name for tables, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LockDisabled => "lock_disabled",
            Self::LockGone => "lock_gone",
            Self::LockOutOfScope => "lock_out_of_scope",
            Self::Deactivate => "deactivate",
            Self::Relink => "relink",
            Self::Migrate => "migrate",
            Self::Email => "email",
            Self::DisplayName => "display_name",
            Self::Adopt => "adopt",
            Self::EndSessions => "end_sessions",
            Self::Restore => "restore",
        }
    }

    /// Whether so many of it within a day are a sign that something is wrong.
    pub fn is_counted(self) -> bool {
        !matches!(self, Self::Migrate | Self::EndSessions | Self::Restore)
    }
}

/// In words, with whom it befalls before it: "12 accounts would …".
impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LockDisabled => "be locked because their owners are disabled",
            Self::LockGone => "be locked because their owners are gone",
            Self::LockOutOfScope => "be locked because their owners are out of scope",
            Self::Deactivate => "be deactivated",
            Self::Relink => "be opened by another login",
            Self::Migrate => "be opened by a login under a new idp_id or subject_template as well",
            Self::Email => "lose an e-mail address",
            Self::DisplayName => "get another display name",
            Self::Adopt => "become somebody's that were there before",
            Self::EndSessions => "lose its sessions",
            Self::Restore => "be unlocked or reactivated",
        })
    }
}

/// One thing that is kept back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldStep {
    /// For whom.
    pub id: DefguardId,
    /// To which account.
    pub mxid: Mxid,
    /// What would be done.
    pub harm: Harm,
    /// A digest of what the account would be given, so that an approval is good for this value only and holds no name.
    pub target: String,
}

/// Why something is kept back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HoldReason {
    /// What the guard found.
    pub why: String,
    /// What a person can do about it.
    pub mend: String,
}

/// The part of a plan that is not done before somebody approves of it, or before its cause is mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What an approval has to name; `None` if no approval can let it run, because our own memory cannot be trusted.
    pub digest: Option<String>,
    /// Since when the guard has been holding without a break.
    pub since: DateTime<Utc>,
    /// Why.
    pub reasons: Vec<HoldReason>,
    /// What is kept back, sorted.
    pub steps: BTreeSet<HeldStep>,
}

impl Held {
    /// The digest of a set of steps. It is the same for the same steps, whenever they are planned.
    pub fn digest_of(steps: &BTreeSet<HeldStep>) -> String {
        let mut text = String::new();
        for HeldStep { id, mxid, harm, target } in steps {
            let _ = writeln!(text, "{id} {mxid} {} {target}", harm.as_str());
        }
        hex(text.as_bytes(), 6)
    }

    /// How many steps there are of each kind.
    pub fn counts(&self) -> Vec<(Harm, usize)> {
        let of = |harm| self.steps.iter().filter(|step| step.harm == harm).count();
        Harm::ALL.into_iter().map(|harm| (harm, of(harm))).filter(|(_, count)| *count > 0).collect()
    }
}

/// The first bytes of the SHA-256 of some text, in hex.
pub(crate) fn hex(text: &[u8], bytes: usize) -> String {
    Sha256::digest(text).iter().take(bytes).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ServerName;

    fn step(id: i64, harm: Harm, target: &str) -> HeldStep {
        let server = ServerName::try_from("example.org").unwrap();
        let mxid = Mxid::parse(&format!("@u{id}:example.org"), &server).unwrap();
        HeldStep { id: DefguardId(id), mxid, harm, target: target.to_owned() }
    }

    #[test]
    fn a_digest_stands_for_these_steps_and_no_others() {
        let one = BTreeSet::from([step(1, Harm::LockGone, "")]);
        let same: BTreeSet<_> = [step(1, Harm::LockGone, "")].into();
        assert_eq!(Held::digest_of(&one), Held::digest_of(&same));
        for other in
            [step(2, Harm::LockGone, ""), step(1, Harm::LockDisabled, ""), step(1, Harm::LockGone, "x")]
        {
            assert_ne!(Held::digest_of(&one), Held::digest_of(&BTreeSet::from([other.clone()])));
            let both = BTreeSet::from([step(1, Harm::LockGone, ""), other]);
            assert_ne!(Held::digest_of(&one), Held::digest_of(&both));
        }
    }
}
