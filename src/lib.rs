//! Keeps the accounts of one Synapse homeserver in step with the people in one Defguard instance.
//!
//! # The way of a sync
//!
//! Gather → map → decide → apply → record: each arrow is a call from one module to the next, one way.
//!
//! - [`domain`]: the words that all others use: people, accounts, ids, links, conflicts, failures.
//! - [`ports`]: what the engine needs from outside, as traits: `Directory`, `Homeserver`, `Store`, `Clock`.
//! - [`mapping`]: what Synapse's own templates make of a person. Pure.
//! - [`reconcile`]: from everything that was seen to what is to be done, with the reasons. Pure.
//! - [`engine`]: reads through the ports, lets `mapping` and `reconcile` decide, does it, and records it; one run after
//!   the other. It knows no adapter.
//! - [`defguard`], [`synapse`], [`store`]: the adapters, which implement the ports and do not know each other; [`http`] is
//!   the client under the first two.
//! - [`forecast`]: what Synapse would do at a person's next login. Pure.
//! - [`diagnosis`]: what can be wrong with the way in which the servers and this service are joined. Pure.
//! - [`config`]: from the file to checked settings, with every mistake at once.
//! - [`assemble`]: puts adapters and engine together.
//! - [`schedule`], [`daemon`], [`serve`]: when it runs, the process that stays up, its control socket, and what it tells
//!   systemd; [`alive`] is the sign of life that its work gives.
//! - [`notices`]: what people are told in a Matrix room, and when.
//! - [`command`], [`cli`]: what can be asked of it, and the verbs that ask.
//!
//! # What holds everywhere
//!
//! - A sync accepts no input but the question whom to look at now; everything else is read anew.
//! - A decision is pure: no I/O, no clock, no randomness, no logging, ordered maps only. What decides does not act, and
//!   what acts does not decide.
//! - "I could not find out" is never the same value as "it is gone" ([`domain::Lookup`]).
//! - One person's failure stays that person's; the rest go on.
//! - A step is safe to repeat. What it is about to do is flushed before it, what it did after it; a crash between any two
//!   loses nothing and doubles nothing.
//! - What a server answers now counts, not what was planned: right before a write the account is read again, and the
//!   person too if external ids change. If they are not what they were, the work is put off and decided anew.
//! - Only what is ours is changed: accounts that carry our ownership marker or are linked, and on them only what we put
//!   there.

pub mod alive;
pub mod assemble;
pub mod cli;
pub mod command;
pub mod config;
pub mod daemon;
pub mod defguard;
pub mod diagnosis;
pub mod domain;
pub mod engine;
pub mod forecast;
pub mod http;
pub mod mapping;
pub mod notices;
pub mod ports;
pub mod reconcile;
pub mod schedule;
pub mod serve;
pub mod store;
pub mod synapse;
