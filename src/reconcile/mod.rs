//! The decision: from everything that was seen to what is to be done, with the reasons.
//!
//! Pure: no I/O, no clock, no randomness, no logging, ordered maps only. What it needs and was not given it asks for
//! ([`Decision::Ask`]); the engine finds out and asks again.

mod adoption;
mod batch;
mod by_hand;
mod decide;
mod draft;
mod fields;
mod finish;
mod guard;
mod lifecycle;
mod plan;
mod rebuild;
mod revert;
mod rules;
mod scene;
mod transfer;
mod view;

pub use adoption::{Candidate, Claimant, Evidence, Matching, Proposal, adoption_digest, match_accounts};
pub use batch::{Batch, BatchDecision, BatchPlan, LeftAsIs};
pub use by_hand::{ByHand, HandDecision, decide_by_hand};
pub use decide::decide;
pub use finish::decide_finish;
pub(crate) use guard::harm_of_change;
pub use guard::{ApprovedPlan, Cause, Guard, Verdict};
pub use plan::{Decision, Group, Holdings, Note, PersonPlan, Plan, Rung, State, Step};
pub use rebuild::{Found, find_link};
pub use revert::decide_revert;
pub use rules::{Rules, Scope};
pub use scene::{Answers, Migration, Pass, Question, Scene};
