//! `setup`: what has to be in Defguard, in Synapse and on this machine before the service can work, in one command each.
//!
//! Each of them looks first, shows what it would do, asks, does it, and looks again. What is there already is used or
//! corrected; nothing is made twice, and no file is replaced without being told to and without a copy of the old one.

mod app;
mod arguments;
mod entry;
mod files;
mod oidc;
mod plan;
mod questions;
mod service_config;
mod show;
mod synapse;
mod webhook;
mod wishes;

use super::{
    arguments::Global,
    output::{Exit, ask, complain},
};

pub(super) use self::arguments::Setup;

pub(super) async fn setup(global: &Global, verb: &Setup) -> Result<Exit, Exit> {
    match verb {
        Setup::Oidc(verb) => oidc::oidc(global, verb).await,
        Setup::Synapse(verb) => synapse::synapse(global, verb).await,
        Setup::Webhook(verb) => webhook::webhook(global, verb).await,
    }
}

/// Asks whether to go on; `yes` was the answer already.
fn confirm(yes: bool) -> Result<(), Exit> {
    if yes || ask("Do it?", "--yes") {
        return Ok(());
    }
    complain("nothing was changed");
    Err(Exit::Failed)
}

/// Says what is wrong with what was given.
fn refuse(problem: &str, mend: &str) -> Exit {
    complain(&format!("error: {problem}\n  → {mend}"));
    Exit::Usage
}
