//! The whole service on a real Synapse: a stand-in Defguard on one side, Synapse behind a counting proxy on the other,
//! and between them the engine as the program puts it together, or the program itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod adopt;
mod by_hand;
mod conflicts;
mod daemon;
mod defguard;
mod drift;
mod everybody;
mod faults;
mod ground;
mod guard;
mod hazards;
mod killed;
mod killed_leaving;
mod leaving;
mod monitoring;
mod names;
mod notices;
mod process;
mod profile;
mod stream;
mod undo;
mod webhook;

#[path = "../support/mod.rs"]
mod support;
