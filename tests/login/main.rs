//! Real logins: a real Synapse whose provider entry comes from `setup oidc`, the stand-in Defguard as the OpenID
//! provider, and a browser that goes the whole way to an access token.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod cases;
mod forecast;
mod from_nothing;
mod house;
mod setup_oidc;
mod setup_synapse;
mod terminal;

#[path = "../support/mod.rs"]
mod support;
