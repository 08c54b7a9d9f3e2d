//! What Synapse's OIDC mapping templates make of a person: the same localpart, display name, e-mail and subject
//! that a login would give (`docs/facts/synapse.md` section 9). Pure: no I/O, no clock, no randomness.
//!
//! A template goes through these stages:
//!
//! - `translate` parses it with minijinja, refuses what cannot be done (`refused`) and writes it out again in
//!   terms of our functions;
//! - `engine` compiles that and runs it;
//! - the functions have Python's meaning: `value`, `objects` and `arguments` (kinds, equality, order, calls),
//!   `arithmetic` and `ops` (operators, look-ups), `globals`, `print` (`str` and `repr`), `strings`,
//!   `casing` and `format` (the methods of `str`), `filters`, `text_filters`, `numbers`, `wrap` and
//!   `checks` (Jinja2's filters and tests);
//! - `claims` builds the variable `user`, `localpart` escapes the result, and `templates` puts the four
//!   templates together. `render` is the pure part of the verb of that name.
//!
//! Upper and lower case and what can be printed are those of Rust's Unicode tables. Letters that are younger than
//! the tables of Synapse's Python (some rare scripts) are the one thing that can come out differently.

mod arguments;
mod arithmetic;
mod casing;
mod checks;
mod claims;
mod engine;
mod filters;
mod format;
mod globals;
mod localpart;
mod numbers;
mod objects;
mod ops;
mod print;
mod refused;
pub mod render;
mod strings;
mod templates;
mod text_filters;
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
