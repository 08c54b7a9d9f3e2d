//! The words of this program as types: who is in Defguard, what is in Synapse, and what ties the two.
//!
//! Nothing here does I/O, and nothing here knows another module of the crate.

mod account;
mod conflict;
mod email;
mod failure;
mod ids;
mod link;
mod listing;
mod mapped;
mod person;
mod policy;

pub use account::{Account, AccountPatch, AccountSummary, Activity, Field, ThreePid};
pub use conflict::{Conflict, Standoff, Twins};
pub use email::{Email, EmailProblem};
pub use failure::{Failure, FailureClass, Lookup, Peer};
pub use ids::{
    DefguardId, ExternalId, Instance, Localpart, LocalpartProblem, MARKER_PROVIDER, Mxid, MxidProblem,
    ServerName, Subject, Username,
};
pub use link::{Applied, Backoff, Change, Entry, Intent, Link, Move, RunId, RunRecord};
pub use listing::{Completeness, Listing, Page};
pub use mapped::{Mapped, MappedField, MappingError};
pub use person::Person;
pub use policy::{Certainty, CreateMode, FieldPolicy, OnConflict};
