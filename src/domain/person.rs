//! A person as Defguard knows them.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use super::{DefguardId, Username};

/// One person in Defguard (its `UserInfo`, `docs/facts/defguard.md` section 2).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Stays the same for ever.
    pub id: DefguardId,
    /// The login name, which can change hands.
    pub username: Username,
    /// Any text, possibly empty.
    pub first_name: String,
    /// Any text, possibly empty.
    pub last_name: String,
    /// What Defguard calls the full name: first name, blank, last name, not trimmed.
    pub name: String,
    /// Not validated by Defguard: can be empty or no address at all.
    pub email: String,
    /// The phone number, if there is one.
    pub phone: Option<String>,
    /// Names of the groups the person is in.
    pub groups: BTreeSet<String>,
    /// Whether the person may log in to Defguard.
    pub is_active: bool,
    /// Whether the person has finished enrolment (has a password or an external login).
    pub enrolled: bool,
    /// Whether the person is an administrator of Defguard.
    pub is_admin: bool,
}

/// Names, addresses and phone numbers are personal data: logs and errors show the id only.
impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Person")
            .field("id", &self.id)
            .field("is_active", &self.is_active)
            .finish_non_exhaustive()
    }
}
