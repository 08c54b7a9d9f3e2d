//! One thing after another: a queue of keyed jobs in which equal keys meet.
