//! What the runs so far tell about the two servers and the store. No request is made for it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::{
    domain::{Completeness, DefguardId, Failure, FailureClass, Leaving, Peer, RunRecord},
    engine::{PersonReport, RunReport},
    reconcile::Note,
};

/// The three that a run needs.
pub const PEERS: [Peer; 3] = [Peer::Defguard, Peer::Synapse, Peer::Store];

/// Whether one of them can be used, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Use {
    /// Nothing is known yet.
    #[default]
    Untried,
    /// The last run that needed it could use it.
    Usable,
    /// The last run that needed it could not use it.
    Unusable {
        /// Since when.
        since: DateTime<Utc>,
        /// Why.
        failure: Failure,
    },
}

/// What the runs so far tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// The source.
    pub defguard: Use,
    /// The target.
    pub synapse: Use,
    /// Our own memory.
    pub store: Use,
    /// When a run for everybody last came to its end, with both servers usable. Single people may have failed in it.
    pub last_success: Option<DateTime<Utc>>,
    /// Everybody by state, from the last run for everybody; `None` if there was none since the start.
    pub people: Option<BTreeMap<String, u64>>,
    /// Who left and is still a server admin, from the last run for everybody.
    pub admin_leavers: BTreeMap<DefguardId, Leaving>,
}

impl Health {
    /// What is known at the start, from the runs of former processes, newest first. Which of them were for everybody is
    /// not kept; taking them for such at worst puts off an alarm by the time between two runs.
    pub fn from_runs(runs: &[RunRecord]) -> Self {
        let last_success = runs.iter().find(|run| got_through(run.exit_code) && !run.people.is_empty());
        let last_success = last_success.map(|run| run.ended);
        Self { last_success, ..Self::default() }
    }

    /// Learns from a run; `everybody` tells whether it was for all people.
    pub fn learn(&mut self, report: &RunReport, everybody: bool) {
        let at = report.ended;
        match (&report.failure, &report.completeness) {
            (Some(failure), completeness) => {
                if failure.peer != Peer::Defguard && completeness.is_some() {
                    self.judge_source(completeness.as_ref(), at);
                }
                self.of_mut(failure.peer).fails(failure, at);
            }
            // Asked to end before anything was read.
            (None, None) => {}
            (None, completeness) => {
                self.judge_source(completeness.as_ref(), at);
                self.synapse = Use::Usable;
                self.store = Use::Usable;
            }
        }
        if !everybody || report.dry_run || report.completeness.is_none() || report.failure.is_some() {
            return;
        }
        if !report.interrupted {
            self.people = Some(report.tally().people);
            self.admin_leavers = report.people.iter().filter_map(admin_leaver).collect();
            if got_through(report.exit_code()) {
                self.last_success = Some(at);
            }
        }
    }

    /// Whether one of them can be used.
    pub fn of(&self, peer: Peer) -> &Use {
        match peer {
            Peer::Defguard => &self.defguard,
            Peer::Synapse => &self.synapse,
            Peer::Store => &self.store,
        }
    }

    fn of_mut(&mut self, peer: Peer) -> &mut Use {
        match peer {
            Peer::Defguard => &mut self.defguard,
            Peer::Synapse => &mut self.synapse,
            Peer::Store => &mut self.store,
        }
    }

    fn judge_source(&mut self, completeness: Option<&Completeness>, at: DateTime<Utc>) {
        match completeness {
            Some(Completeness::Incomplete(why)) => {
                let why = format!("the list was incomplete ({})", why.join("; "));
                let failure =
                    Failure::new(Peer::Defguard, FailureClass::Transient, "reading the list of people", why);
                self.defguard.fails(&failure, at);
            }
            _ => self.defguard = Use::Usable,
        }
    }
}

impl Use {
    fn fails(&mut self, failure: &Failure, at: DateTime<Utc>) {
        let since = match self {
            Self::Unusable { since, .. } => *since,
            Self::Untried | Self::Usable => at,
        };
        *self = Self::Unusable { since, failure: failure.clone() };
    }

    /// Why it cannot be used.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Unusable { failure, .. } => Some(failure),
            Self::Untried | Self::Usable => None,
        }
    }
}

/// Whether somebody is one of those who left and are still server admins.
fn admin_leaver(person: &PersonReport) -> Option<(DefguardId, Leaving)> {
    person.notes.iter().find_map(|note| match note {
        Note::AdminLeaver { why } => Some((person.id, *why)),
        _ => None,
    })
}

/// Whether a run with this exit code saw both servers and got through: done, some people failed, or held.
fn got_through(exit_code: u8) -> bool {
    matches!(exit_code, 0 | 3 | 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{RunId, Username},
        reconcile::{Pass, State},
    };

    fn at(second: u32) -> DateTime<Utc> {
        format!("2026-01-01T12:00:{second:02}Z").parse().unwrap()
    }

    fn report(second: u32) -> RunReport {
        RunReport {
            run: Some(RunId(1)),
            pass: Pass::Frequent,
            began: at(second),
            ended: at(second),
            dry_run: false,
            completeness: Some(Completeness::Complete),
            people: Vec::new(),
            unknown: Vec::new(),
            held: None,
            failure: None,
            interrupted: false,
        }
    }

    fn failing(second: u32, peer: Peer, read: bool) -> RunReport {
        RunReport {
            completeness: read.then_some(Completeness::Complete),
            failure: Some(Failure::new(peer, FailureClass::Transient, "asking", "no answer")),
            ..report(second)
        }
    }

    #[test]
    fn a_run_that_gets_through_shows_that_all_three_can_be_used() {
        let mut health = Health::default();
        health.learn(&report(1), true);
        assert!(PEERS.iter().all(|peer| *health.of(*peer) == Use::Usable));
        assert_eq!(health.last_success, Some(at(1)));
        assert_eq!(health.people, Some(BTreeMap::new()));
    }

    #[test]
    fn a_failure_is_counted_against_the_one_that_failed_and_keeps_its_first_moment() {
        let mut health = Health::default();
        health.learn(&report(1), true);
        health.learn(&failing(2, Peer::Synapse, false), true);
        health.learn(&failing(3, Peer::Synapse, true), true);
        let Use::Unusable { since, .. } = &health.synapse else { panic!("{health:?}") };
        assert_eq!(*since, at(2));
        assert_eq!(health.defguard, Use::Usable);
        assert_eq!(health.last_success, Some(at(1)), "a run that failed is no success");
        health.learn(&report(4), true);
        assert_eq!(health.synapse, Use::Usable);
    }

    #[test]
    fn what_was_not_asked_stays_untried() {
        let mut health = Health::default();
        health.learn(&failing(1, Peer::Synapse, false), true);
        assert_eq!(health.defguard, Use::Untried);
        health.learn(&failing(2, Peer::Synapse, true), true);
        assert_eq!(health.defguard, Use::Usable, "its list was read before Synapse failed");
    }

    #[test]
    fn an_incomplete_list_makes_the_source_unusable_and_is_no_success() {
        let mut health = Health::default();
        let why = vec!["ids moved".to_owned()];
        health.learn(&RunReport { completeness: Some(Completeness::Incomplete(why)), ..report(1) }, true);
        assert!(health.defguard.failure().unwrap().why.contains("ids moved"));
        assert_eq!((health.synapse, health.last_success), (Use::Usable, None));
    }

    #[test]
    fn neither_single_people_nor_an_interrupted_run_are_a_success_for_everybody() {
        let mut health = Health::default();
        health.learn(&report(1), false);
        health.learn(&RunReport { interrupted: true, ..report(2) }, true);
        health.learn(&RunReport { interrupted: true, completeness: None, ..report(3) }, true);
        assert_eq!((health.last_success, health.people), (None, None));
    }

    #[test]
    fn a_new_process_takes_the_last_success_from_the_store() {
        let people = BTreeMap::from([("in_step".to_owned(), 3)]);
        let record = |id, exit_code| RunRecord {
            exit_code,
            people: people.clone(),
            ..report(id).record(RunId(id.into()))
        };
        // One that saw nobody, because the store is another's.
        let nobody = RunRecord { people: BTreeMap::new(), ..record(6, 4) };
        let runs = [nobody, record(5, 5), record(4, 1), record(3, 3), record(2, 0)];
        assert_eq!(Health::from_runs(&runs).last_success, Some(at(3)));
        assert_eq!(Health::from_runs(&runs[..3]).last_success, None);
    }

    #[test]
    fn whoever_left_as_a_server_admin_is_known_until_a_run_for_everybody_says_otherwise() {
        let note = Note::AdminLeaver { why: Leaving::Gone };
        let person = PersonReport {
            id: DefguardId(7),
            username: Username::new("root"),
            state: State::Gone,
            mxid: None,
            conflicts: Vec::new(),
            notes: vec![note],
            steps: Vec::new(),
            done: Vec::new(),
            failure: None,
            put_off: None,
        };
        let mut health = Health::default();
        health.learn(&RunReport { people: vec![person], ..report(1) }, true);
        assert_eq!(health.admin_leavers, BTreeMap::from([(DefguardId(7), Leaving::Gone)]));
        health.learn(&report(2), false);
        health.learn(&failing(3, Peer::Synapse, false), true);
        assert_eq!(health.admin_leavers.len(), 1);
        health.learn(&report(4), true);
        assert!(health.admin_leavers.is_empty());
    }
}
