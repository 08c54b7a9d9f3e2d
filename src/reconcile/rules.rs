//! What the admin has decided: scope and policies.

use std::fmt;

use globset::GlobSet;
use serde::{Deserialize, Serialize};

use crate::domain::{FieldPolicy, Instance, Mxid, OffBoarding, OnConflict, Person, ServerName, Username};

/// Whom the sync concerns.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Only members of a group whose name matches; `None`: everybody.
    pub include_groups: Option<GlobSet>,
    /// Nobody who is in a group whose name matches.
    pub exclude_groups: GlobSet,
    /// Nobody whose username matches one of these patterns.
    pub exclude_users: GlobSet,
    /// Only people who have finished enrolment.
    pub require_enrolled: bool,
    /// The account that this service itself uses in Defguard, which is left out.
    pub own_username: Option<Username>,
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            include_groups: None,
            exclude_groups: GlobSet::empty(),
            exclude_users: GlobSet::empty(),
            require_enrolled: false,
            own_username: None,
        }
    }
}

/// Why a person is out of scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum OutOfScope {
    OwnAccount,
    NoIncludedGroup,
    ExcludedGroup(String),
    ExcludedUser,
    NotEnrolled,
}

impl fmt::Display for OutOfScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnAccount => f.write_str("this is the account that the service itself uses in Defguard"),
            Self::NoIncludedGroup => f.write_str("in none of scope.include_groups"),
            Self::ExcludedGroup(group) => write!(f, "in the group {group}, which is in scope.exclude_groups"),
            Self::ExcludedUser => f.write_str("the username matches scope.exclude_users"),
            Self::NotEnrolled => {
                f.write_str("has not finished enrolment in Defguard (scope.require_enrolled)")
            }
        }
    }
}

impl OutOfScope {
    /// Whether this is the group filter's doing. Only that off-boards somebody: a name that is left out is to be left
    /// alone, and enrolment can begin anew for people who are here to stay.
    pub(super) fn is_by_group(&self) -> bool {
        matches!(self, Self::NoIncludedGroup | Self::ExcludedGroup(_))
    }
}

impl Scope {
    /// Whether the group filter leaves the person out, and nothing else does.
    pub fn leaves_out_by_group(&self, person: &Person) -> bool {
        self.leaves_out(person).is_some_and(|why| why.is_by_group())
    }

    /// Whether the sync concerns the person.
    pub fn includes(&self, person: &Person) -> bool {
        self.leaves_out(person).is_none()
    }

    /// Why the person is left out, or `None` if they are in scope.
    pub(super) fn leaves_out(&self, person: &Person) -> Option<OutOfScope> {
        if self.own_username.as_ref() == Some(&person.username) {
            Some(OutOfScope::OwnAccount)
        } else if self.exclude_users.is_match(person.username.as_str()) {
            Some(OutOfScope::ExcludedUser)
        } else if let Some(group) = person.groups.iter().find(|group| self.exclude_groups.is_match(group)) {
            Some(OutOfScope::ExcludedGroup(group.clone()))
        } else if let Some(included) = &self.include_groups
            && !person.groups.iter().any(|group| included.is_match(group))
        {
            Some(OutOfScope::NoIncludedGroup)
        } else if self.require_enrolled && !person.enrolled {
            Some(OutOfScope::NotEnrolled)
        } else {
            None
        }
    }
}

/// Everything about the two servers and the admin's wishes that the decision needs.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The name of the homeserver.
    pub server: ServerName,
    /// Our own account on the homeserver, never touched.
    pub own: Mxid,
    /// The auth provider of the OIDC logins, `oidc-<idp_id>`.
    pub auth_provider: String,
    /// The name of the Defguard server in the ownership markers.
    pub instance: Instance,
    /// What to do with accounts that are in the way.
    pub on_conflict: OnConflict,
    /// When display names are written.
    pub display_name: FieldPolicy,
    /// When e-mail addresses are written.
    pub email: FieldPolicy,
    /// Whom the sync concerns.
    pub scope: Scope,
    /// How far to go with those who leave.
    pub off_boarding: OffBoarding,
}
