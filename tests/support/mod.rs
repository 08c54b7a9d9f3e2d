//! What the tests and the sandbox need beside the crate: a real Synapse and a proxy before it.

pub mod proxy;
pub mod synapse;
