//! What Synapse's OIDC mapping templates make of a person: the same localpart, display name, e-mail and subject
//! that a login would give (`facts/synapse.md` section 9). Pure: no I/O, no clock, no randomness.
//!
//! A template goes through these stages:
//!
//! - [`translate`] parses it with minijinja, refuses what cannot be done ([`refused`]) and writes it out again in
//!   terms of our functions;
//! - [`engine`] compiles that and runs it;
//! - the functions have Python's meaning: [`value`] (kinds, equality, order), [`ops`] (operators, look-ups, calls),
//!   [`print`] (`str` and `repr`), [`strings`], [`casing`] and [`format`] (the methods of `str`), [`filters`],
//!   [`numbers`], [`wrap`] and [`checks`] (Jinja2's filters and tests);
//! - [`claims`] builds the variable `user`, [`localpart`] escapes the result, and [`templates`] puts the four
//!   templates together. [`render`] is the pure part of the verb of that name.

mod casing;
mod checks;
mod claims;
mod engine;
mod filters;
mod format;
mod localpart;
mod numbers;
mod ops;
mod print;
mod refused;
pub mod render;
mod strings;
mod templates;
mod translate;
mod value;
mod wrap;

pub use claims::{Scopes, claims};
pub use localpart::escape as escape_localpart;
pub use refused::{ProblemKind, TemplateProblem};
pub use templates::{Rendered, TemplateSources, Templates};

/// What templates are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// For the people of a directory. What cannot be known before a login is refused: claims such as `exp`, and in
    /// the templates that tell who somebody is (subject, localpart) Defguard's own fields, which are no claims.
    People,
    /// For claims as they are given.
    Claims,
}
