//! How the service is at one moment: what the metrics and the status page are made from.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::health::Health;
use crate::{
    domain::{Backoff, DefguardId, Failure, Held, Leaving, Link, OffBoarding, OnLeave, RunRecord, Standoff},
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
    /// How far the config has leavers taken.
    pub off_boarding: OffBoarding,
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
    /// What the guard keeps back.
    pub hold: Option<Held>,
}

/// Somebody on the way out, as far as time goes on without a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Countdown {
    /// Who.
    pub id: DefguardId,
    /// How they leave.
    pub why: Leaving,
    /// What comes next.
    pub next: NextRung,
    /// Not before this time.
    pub at: DateTime<Utc>,
}

/// What comes next on the off-boarding ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextRung {
    /// The lock, when the absence is proved: after so many of so many runs that missed them.
    Lock {
        /// How many runs have missed them.
        runs: u32,
        /// How many have to.
        needed: u32,
    },
    /// The deactivation of the account that we locked.
    Deactivate,
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
            hold: store.standing()?.hold,
        })
    }

    /// What comes next for those on the way out, the soonest first.
    pub fn countdowns(&self, off_boarding: &OffBoarding) -> Vec<Countdown> {
        let mut all: Vec<Countdown> = self
            .links
            .values()
            .filter_map(|link| {
                let life = &link.lifecycle;
                let (why, next, at) = match (&life.deactivated, &life.locked, &life.away) {
                    (Some(_), ..) => return None,
                    (None, Some(locked), away) => {
                        let why = away.as_ref().map_or(locked.why, |away| away.why);
                        (why, NextRung::Deactivate, off_boarding.deactivation_due(life, why)?)
                    }
                    (None, None, Some(away)) => {
                        let next = match off_boarding.on(away.why) {
                            OnLeave::Ignore => return None,
                            OnLeave::Lock | OnLeave::Deactivate => NextRung::Lock {
                                runs: away.runs,
                                needed: off_boarding.absence_confirmations.max(1),
                            },
                        };
                        (away.why, next, away.since + off_boarding.absence_min_age)
                    }
                    (None, None, None) => return None,
                };
                Some(Countdown { id: link.id, why, next, at })
            })
            .collect();
        all.sort_by_key(|countdown| (countdown.at, countdown.id));
        all
    }

    /// How many accounts we have locked and not deactivated, and how many we have deactivated.
    pub fn off_boarded(&self) -> (usize, usize) {
        let lives = || self.links.values().map(|link| &link.lifecycle);
        let locked = lives().filter(|life| life.locked.is_some() && life.deactivated.is_none()).count();
        (locked, lives().filter(|life| life.deactivated.is_some()).count())
    }
}
