//! Keeps the accounts of one Synapse homeserver in step with the people in one Defguard instance.

pub mod domain;
pub mod http;
pub mod mapping;
pub mod ports;
