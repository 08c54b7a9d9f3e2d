//! What can go wrong when a server is asked, sorted by what the caller does next.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Whom we were talking to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// The Defguard server, our source.
    Defguard,
    /// The Synapse homeserver, our target.
    Synapse,
    /// Our own store on disk.
    Store,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Defguard => "Defguard",
            Self::Synapse => "Synapse",
            Self::Store => "the store",
        })
    }
}

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Nothing can be said about the outcome: cut connection, time-out, 5xx. Worth another try later.
    Transient,
    /// Asked too often; wait this long if the server said so.
    RateLimited(Option<Duration>),
    /// Our credentials are not (or no longer) good for this. Trying again makes it worse.
    Unauthorised,
    /// The server refused this very request; the same request will be refused again.
    Permanent,
    /// Nothing may be done before a person has looked: our own memory is not the one that belongs here.
    NeedsPerson,
    /// An answer of a shape that this program does not know: wrong URL, proxy page, other version.
    Malformed,
}

/// A failure with everything a person needs to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{peer}: {what}: {why}")]
pub struct Failure {
    /// Whom we asked.
    pub peer: Peer,
    /// What the caller does next.
    pub class: FailureClass,
    /// What we were doing, such as `reading the list of people`.
    pub what: String,
    /// What came back and what it means.
    pub why: String,
    /// What a person can do about it.
    pub mend: Option<String>,
}

impl Failure {
    /// A failure without a mend.
    pub fn new(peer: Peer, class: FailureClass, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { peer, class, what: what.into(), why: why.into(), mend: None }
    }

    /// The same failure with what a person can do about it.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

/// The answer to "is there such a thing?", in which "I could not find out" is never "it is gone".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It is there.
    Found(T),
    /// The server itself said, in the right shape, that there is none.
    Absent,
    /// It could not be found out.
    Unknown(Failure),
}

impl<T> Lookup<T> {
    /// The thing, if it was found.
    pub fn found(&self) -> Option<&T> {
        match self {
            Self::Found(thing) => Some(thing),
            Self::Absent | Self::Unknown(_) => None,
        }
    }
}
