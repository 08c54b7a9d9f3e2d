//! The templates and the claims that they are given.
