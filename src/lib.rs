//! Keeps the accounts of one Synapse homeserver in step with the people in one Defguard instance.

pub mod config;
pub mod defguard;
pub mod domain;
pub mod engine;
pub mod http;
pub mod ports;
pub mod reconcile;
pub mod store;
pub mod synapse;
