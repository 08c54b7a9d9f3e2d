//! What the daemon offers to others.

pub mod control;
pub mod systemd;
