//! What several test files share.

#![allow(missing_docs, unreachable_pub, dead_code)]

pub mod world;
