//! Identifiers, each with a type of its own so that none can stand in for another.

use std::fmt;

use matrix_sdk::ruma::{OwnedServerName, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

/// The name of the homeserver as it stands behind the colon of every MXID.
pub type ServerName = OwnedServerName;

/// The auth provider under which the ownership marker is kept in Synapse. No login provider can have this name:
/// Synapse prefixes those with `oidc-`, `saml` or `cas`.
pub const MARKER_PROVIDER: &str = "defguard-synapse-sync";

/// Defguard's numeric id of a person: the only thing about a person that never changes and is never re-used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DefguardId(pub i64);

impl fmt::Display for DefguardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps the text as it is.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text_id! {
    /// The name a person logs in to Defguard with. It is case-sensitive, can be changed, and can later be given to
    /// somebody else.
    Username
}

text_id! {
    /// What Synapse computes as the remote user id at an OIDC login (`subject_template`, by default the claim
    /// `sub`, which Defguard fills with the username).
    Subject
}

text_id! {
    /// The name of one Defguard server in our ownership markers, so that two of them can feed one homeserver.
    Instance
}

/// A pair of auth provider and external id, as Synapse keeps it on an account. Unique over the whole homeserver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExternalId {
    /// The provider, for a login by OIDC `oidc-` and the `idp_id`.
    pub auth_provider: String,
    /// The id of the person at that provider.
    pub external_id: String,
}

impl ExternalId {
    /// The id with which an OIDC login finds the account; `auth_provider` is `oidc-<idp_id>`.
    pub fn login(auth_provider: &str, subject: &Subject) -> Self {
        Self { auth_provider: auth_provider.to_owned(), external_id: subject.as_str().to_owned() }
    }

    /// The ownership marker of a person: no login uses it, it survives deactivation, and ownership rests on it alone.
    pub fn marker(instance: &Instance, id: DefguardId) -> Self {
        Self { auth_provider: MARKER_PROVIDER.to_owned(), external_id: format!("{instance}/{id}") }
    }

    /// The person whom this external id marks, if it is an ownership marker of `instance`.
    pub fn marked_person(&self, instance: &Instance) -> Option<DefguardId> {
        if self.auth_provider != MARKER_PROVIDER {
            return None;
        }
        let id = self.external_id.strip_prefix(instance.as_str())?.strip_prefix('/')?;
        id.parse().ok().map(DefguardId)
    }

    /// Whether this is an ownership marker, of whichever instance.
    pub fn is_marker(&self) -> bool {
        self.auth_provider == MARKER_PROVIDER
    }
}

impl fmt::Display for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.auth_provider, self.external_id)
    }
}

/// A localpart under which Synapse lets an account be registered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Localpart(String);

/// Why Synapse would refuse to register a localpart (its `check_username`, `docs/facts/synapse.md` section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocalpartProblem {
    /// Nothing is left of it.
    #[error("the localpart is empty")]
    Empty,
    /// Synapse keeps numeric localparts for guests.
    #[error("the localpart has digits only, which Synapse reserves for guests")]
    Numeric,
    /// A leading underscore is reserved for application services.
    #[error("the localpart begins with an underscore")]
    Underscore,
    /// A character outside `a-z0-9_-./=+`.
    #[error("the localpart has a character outside a-z, 0-9 and =_-./+")]
    Character,
    /// The whole MXID would be longer than 255 bytes.
    #[error("the MXID would be longer than 255 characters")]
    TooLong,
}

impl Localpart {
    /// Checks a localpart against the rules for new accounts on `server`.
    pub fn new(text: &str, server: &ServerName) -> Result<Self, LocalpartProblem> {
        if text.is_empty() {
            return Err(LocalpartProblem::Empty);
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"=_-./+".contains(&b)) {
            return Err(LocalpartProblem::Character);
        }
        if text.starts_with('_') {
            return Err(LocalpartProblem::Underscore);
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(LocalpartProblem::Numeric);
        }
        if text.len() + server.as_str().len() + 2 > 255 {
            return Err(LocalpartProblem::TooLong);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text, without `@` and server name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Localpart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Matrix user ID of an account on our own homeserver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mxid(OwnedUserId);

/// Why a text is no MXID of our homeserver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MxidProblem {
    /// Not of the form `@localpart:server`.
    #[error("`{0}` is not a Matrix user ID; it must look like @alice:example.org")]
    Malformed(String),
    /// On another homeserver.
    #[error("`{mxid}` is not on this homeserver, whose name is {server}")]
    Foreign {
        /// The MXID as given.
        mxid: String,
        /// Our server name.
        server: String,
    },
}

impl Mxid {
    /// The MXID of a localpart on `server`.
    pub fn new(localpart: &Localpart, server: &ServerName) -> Self {
        // A checked localpart and a checked server name make a valid MXID, and ruma has no cheaper infallible way.
        Self(OwnedUserId::try_from(format!("@{localpart}:{server}")).unwrap_or_else(|_| UserId::new(server)))
    }

    /// Reads an MXID, which must be on `server`. Accounts with localparts of old rules are accepted.
    pub fn parse(text: &str, server: &ServerName) -> Result<Self, MxidProblem> {
        let id = UserId::parse(text).map_err(|_| MxidProblem::Malformed(text.to_owned()))?;
        if id.server_name() == server {
            Ok(Self(id))
        } else {
            Err(MxidProblem::Foreign { mxid: text.to_owned(), server: server.to_string() })
        }
    }

    /// The whole id, `@localpart:server`.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The part between `@` and `:`.
    pub fn localpart(&self) -> &str {
        self.0.localpart()
    }
}

impl fmt::Display for Mxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerName {
        ServerName::try_from("example.org").unwrap()
    }

    #[test]
    fn a_localpart_is_accepted_exactly_when_synapse_registers_it() {
        let server = server();
        for good in ["a", "a=b", "with=3dsep", ".", "..", "-", "a/b", "p+q", "1a", "=5fx", "a_"] {
            assert!(Localpart::new(good, &server).is_ok(), "{good}");
        }
        for (bad, problem) in [
            ("", LocalpartProblem::Empty),
            ("123", LocalpartProblem::Numeric),
            ("_a", LocalpartProblem::Underscore),
            ("Alice", LocalpartProblem::Character),
            ("a b", LocalpartProblem::Character),
            ("ä", LocalpartProblem::Character),
            (&"x".repeat(243), LocalpartProblem::TooLong),
        ] {
            assert_eq!(Localpart::new(bad, &server), Err(problem), "{bad}");
        }
        assert!(Localpart::new(&"x".repeat(242), &server).is_ok());
    }

    #[test]
    fn an_mxid_of_another_server_is_refused() {
        assert!(Mxid::parse("@alice:example.org", &server()).is_ok());
        assert!(matches!(Mxid::parse("@alice:example.net", &server()), Err(MxidProblem::Foreign { .. })));
        assert!(matches!(Mxid::parse("alice", &server()), Err(MxidProblem::Malformed(_))));
    }

    #[test]
    fn a_marker_names_its_person_and_only_to_its_own_instance() {
        let marker = ExternalId::marker(&Instance::new("hq"), DefguardId(17));
        assert_eq!(marker.marked_person(&Instance::new("hq")), Some(DefguardId(17)));
        assert_eq!(marker.marked_person(&Instance::new("h")), None);
        assert_eq!(marker.marked_person(&Instance::new("other")), None);
    }
}
