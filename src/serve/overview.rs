//! How the service is at one moment: what the metrics and the status page are made from.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::health::Health;
use crate::{
    domain::{Backoff, DefguardId, Failure, Link, RunRecord, Standoff},
    ports::Store,
    reconcile::Pass,
};

/// How many runs the status page shows.
const SHOWN_RUNS: usize = 48;

/// Whoever knows how the service is.
pub trait Watched: Send + Sync + 'static {
    /// Whether runs are taken and done: not while the daemon ends, and not if its worker broke down.
    fn working(&self) -> bool;

    /// Looks. Reads the store, and so may block for some milliseconds; asks no server.
    fn look(&self) -> Overview;
}

/// How the service is.
#[derive(Debug, Clone)]
pub struct Overview {
    /// The moment.
    pub now: DateTime<Utc>,
    /// When the daemon was started.
    pub started: DateTime<Utc>,
    /// Whether runs are still taken and done; not while it ends, and not if the worker broke down.
    pub working: bool,
    /// When the next run begins by the schedule, and how thoroughly it looks.
    pub next: Option<(DateTime<Utc>, Pass)>,
    /// Since when a run has been going on.
    pub running_since: Option<DateTime<Utc>>,
    /// How many wishes wait for their turn.
    pub waiting: usize,
    /// When a success is overdue: with the second run by the schedule after the last one.
    pub success_due: Option<DateTime<Utc>>,
    /// What the runs so far tell.
    pub health: Health,
    /// What the store says now.
    pub memory: Result<Memory, Failure>,
    /// How many bytes the store takes on disk, if that could be measured.
    pub store_bytes: Option<u64>,
}

/// What the store says.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// All links.
    pub links: BTreeMap<DefguardId, Link>,
    /// The people in conflict.
    pub conflicts: BTreeMap<DefguardId, Standoff>,
    /// The people who failed lately.
    pub failing: BTreeMap<DefguardId, Backoff>,
    /// How many groups of people an earlier run left unfinished.
    pub unfinished: usize,
    /// The last runs, newest first.
    pub runs: Vec<RunRecord>,
}

impl Memory {
    /// Reads it.
    pub fn read(store: &dyn Store) -> Result<Self, Failure> {
        Ok(Self {
            links: store.links()?,
            conflicts: store.standoffs()?,
            failing: store.backoff()?,
            unfinished: store.intents()?.len(),
            runs: store.runs(SHOWN_RUNS)?,
        })
    }
}
