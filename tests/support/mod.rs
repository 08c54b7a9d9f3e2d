//! What the tests and the sandbox stand on: servers that behave as the recorded ones do, a real Synapse, and a world
//! in memory.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::result_large_err,
    reason = "shared by several test programs, each of which uses a part"
)]

pub mod browser;
pub mod defguard;
pub mod proxy;
pub mod synapse;
pub mod world;
