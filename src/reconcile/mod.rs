//! The decision: from everything that was seen to what is to be done, with the reasons.
//!
//! Pure: no I/O, no clock, no randomness, no logging, ordered maps only. What it needs and was not given it asks for
//! ([`Decision::Ask`]); the engine finds out and asks again.

mod adoption;
mod by_hand;
mod decide;
mod draft;
mod fields;
mod guard;
mod lifecycle;
mod plan;
mod rules;
mod scene;
mod transfer;
mod view;

pub use adoption::{Candidate, Claimant, Evidence, Matching, Proposal, adoption_digest, match_accounts};
pub use by_hand::{ByHand, HandDecision, decide_by_hand};
pub use decide::decide;
pub(crate) use guard::harm_of_change;
pub use guard::{ApprovedPlan, Cause, Guard, Verdict};
pub use plan::{Decision, Group, Holdings, Note, PersonPlan, Plan, Rung, State, Step};
pub use rules::{Rules, Scope};
pub use scene::{Answers, Migration, Pass, Question, Scene};
