//! The words of this program as types: who is in Defguard, what is in Synapse, and what ties the two.
//!
//! Nothing here does I/O, and nothing here knows another module of the crate.

mod account;
mod conflict;
mod email;
mod failure;
mod hold;
mod ids;
mod lifecycle;
mod link;
mod listing;
mod mapped;
mod person;
mod policy;
mod standing;

pub use account::{Account, AccountPatch, AccountSummary, Activity, Field, ThreePid};
pub use conflict::{Conflict, Standoff, Twins};
pub use email::{Email, EmailProblem};
pub use failure::{Failure, FailureClass, Lookup, Peer};
pub(crate) use hold::hex;
pub use hold::{Harm, Held, HeldStep, HoldReason};
pub use ids::{
    DefguardId, ExternalId, Instance, Localpart, LocalpartProblem, MARKER_PROVIDER, Mxid, MxidProblem,
    ServerName, Subject, Username,
};
pub use lifecycle::{Away, Belongings, Leaving, Lifecycle, OurDeactivation, OurLock, Session};
pub use link::{Applied, Backoff, Change, Entry, Intent, Link, Move, RunId, RunRecord};
pub use listing::{Completeness, Listing, Page};
pub use mapped::{Mapped, MappedField, MappingError};
pub use person::Person;
pub use policy::{
    Certainty, CreateMode, FieldPolicy, GuardLimits, OffBoarding, OnConflict, OnLeave, SessionsOnLock,
};
pub use standing::{ConfigPrint, ServiceRecord, Standing, Watched};
