//! Everything that is read from outside, damaged: an error or the truth, never a panic, and nothing lost unseen.
//!
//! What real servers answered is cut off, has bits flipped, and has single values taken out, put twice or replaced; then
//! it is read through the adapters. `PROPTEST_CASES` sets how often.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod config;
mod damage;
mod defguard;
mod server;
mod store;
mod synapse;
mod templates;

use proptest::test_runner::Config;

/// So many cases for each law, unless `PROPTEST_CASES` says otherwise.
fn cases(few: u32) -> Config {
    let config = Config { failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { Config { cases: few, ..config } }
}
