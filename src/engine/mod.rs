//! When what is done, and in which order.

pub mod queue;
pub mod schedule;
