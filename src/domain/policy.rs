//! The policies by which an admin says how far this program may go with an account.

use serde::{Deserialize, Serialize};

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
