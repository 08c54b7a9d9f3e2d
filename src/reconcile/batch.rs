//! Changes that an admin asks for and that concern many people at once: what they come to, before anything is done.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{plan::Group, scene::Question};
use crate::domain::{DefguardId, Failure, RunId};

/// What an admin asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub enum Batch {
    /// Put back what one run changed.
    Revert {
        /// The run.
        run: RunId,
        /// Only for these people: username, `#` and id, or MXID; empty: everybody.
        people: BTreeSet<String>,
    },
    /// Take the logins under a former `idp_id` or `subject_template` off.
    FinishMigration,
}

/// Something that is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeftAsIs {
    /// What it is.
    pub what: String,
    /// Why it is left.
    pub why: String,
}

/// The work, and what should be known before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchPlan {
    /// The work, in groups that are independent of each other.
    pub groups: Vec<Group>,
    /// What is left as it is, person by person.
    pub left: BTreeMap<DefguardId, Vec<LeftAsIs>>,
    /// What the admin should know before they say yes, person by person.
    pub warnings: BTreeMap<DefguardId, Vec<String>>,
}

impl BatchPlan {
    pub(super) fn leave(&mut self, id: DefguardId, what: impl Into<String>, why: impl Into<String>) {
        self.left.entry(id).or_default().push(LeftAsIs { what: what.into(), why: why.into() });
    }

    pub(super) fn warn(&mut self, id: DefguardId, what: String) {
        self.warnings.entry(id).or_default().push(what);
    }
}

/// What comes of it.
#[derive(Debug, Clone)]
pub enum BatchDecision {
    /// These things have to be found out first.
    Ask(BTreeSet<Question>),
    /// It could not be found out.
    Failed(Failure),
    /// It is not done; why.
    Refused(String),
    /// This is to be done.
    Do(BatchPlan),
}
