//! Keeps the accounts of one Synapse homeserver in step with the people in one Defguard instance.

pub mod assemble;
pub mod cli;
pub mod command;
pub mod config;
pub mod daemon;
pub mod defguard;
pub mod domain;
pub mod engine;
pub mod http;
pub mod mapping;
pub mod ports;
pub mod reconcile;
pub mod schedule;
pub mod serve;
pub mod store;
pub mod synapse;
