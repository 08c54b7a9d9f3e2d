//! What the daemon offers to others.

pub mod control;
pub mod health;
pub mod listener;
pub mod metrics;
pub mod monitor;
pub mod overview;
pub mod page;
pub mod systemd;
pub mod webhook;
