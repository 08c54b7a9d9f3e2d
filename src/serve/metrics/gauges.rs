//! What is looked at at the moment when somebody asks.

use std::{collections::BTreeMap, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{
    labels::{HarmLabels, Kind, LeaverLabels, PeerLabels, StateLabels, peer},
    seconds,
};
use crate::{
    domain::{FailureClass, Harm, Leaving, Lifecycle},
    reconcile::State,
    serve::{
        health::{PEERS, Use},
        overview::{Memory, NextRung, Overview},
    },
};

type Float = Gauge<f64, AtomicU64>;

/// The states that a person can be in, so that each has a line, also at nought.
const STATES: [State; 13] = [
    State::InStep,
    State::Create,
    State::Adopt,
    State::Relink,
    State::Update,
    State::Conflict,
    State::Disabled,
    State::OutOfScope,
    State::Gone,
    State::Held,
    State::Withheld,
    State::Postponed,
    State::Failed,
];

/// The gauges. A family without a line means that nothing is known yet.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    pub(super) start: Float,
    last_success: Float,
    success_due: Float,
    next_run: Float,
    running: Gauge,
    waiting: Gauge,
    usable: Family<PeerLabels, Gauge>,
    rejected: Family<PeerLabels, Gauge>,
    people: Family<StateLabels, Gauge>,
    linked: Gauge,
    in_conflict: Gauge,
    conflicts: Family<Kind, Gauge>,
    failing: Gauge,
    failing_since: Float,
    unfinished: Gauge,
    store_bytes: Gauge,
    holding: Gauge,
    hold_since: Float,
    held: Family<HarmLabels, Gauge>,
    leavers: Family<LeaverLabels, Gauge>,
    next_deactivation: Float,
    admin_leavers: Gauge,
}

impl Gauges {
    /// Makes them known to a registry.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        let mut timestamp = |name: &str, help: &str, gauge: &Float| {
            registry.register_with_unit(format!("{name}_timestamp"), help, Unit::Seconds, gauge.clone());
        };
        timestamp("start", "When the daemon was started", &gauges.start);
        timestamp(
            "last_success",
            "When a run for everybody last got through, both servers being usable; 0 if never",
            &gauges.last_success,
        );
        timestamp(
            "success_due",
            "When the second run by the schedule after the last success is due; 0 if there is none",
            &gauges.success_due,
        );
        timestamp(
            "next_run",
            "When the next run by the schedule begins; 0 if there is none",
            &gauges.next_run,
        );
        timestamp(
            "failing_since",
            "When the person who has been failing longest first failed; 0 if nobody fails",
            &gauges.failing_since,
        );
        timestamp(
            "hold_since",
            "Since when the guard has been holding without a break; 0 if it holds nothing",
            &gauges.hold_since,
        );
        timestamp(
            "next_deactivation",
            "When the next account that we locked is due to be deactivated; 0 if none is",
            &gauges.next_deactivation,
        );
        registry.register(
            "hold_active",
            "Whether the guard keeps something back until a person says yes: 1 or 0",
            gauges.holding.clone(),
        );
        registry.register(
            "held_steps",
            "What the guard keeps back, by what would befall the account",
            gauges.held.clone(),
        );
        registry.register(
            "leavers",
            "Linked people on the way out, by how they leave and how far they are: missed, locked, deactivated",
            gauges.leavers.clone(),
        );
        registry.register(
            "leavers_who_are_admins",
            "Who left and is still a server admin, which is not off-boarded by itself",
            gauges.admin_leavers.clone(),
        );
        registry.register("run_in_progress", "Whether a run is going on: 1 or 0", gauges.running.clone());
        registry.register("runs_waiting", "Runs that wait for their turn", gauges.waiting.clone());
        registry.register(
            "peer_usable",
            "Whether Defguard (source), Synapse (target) and the store could be used the last time: 1 or 0",
            gauges.usable.clone(),
        );
        registry.register(
            "credentials_rejected",
            "Whether a server refused our credentials the last time: 1 or 0",
            gauges.rejected.clone(),
        );
        registry.register(
            "people",
            "People in Defguard by what the last run for everybody found for them",
            gauges.people.clone(),
        );
        registry.register("people_linked", "People who have an account", gauges.linked.clone());
        registry.register("people_in_conflict", "People in conflict", gauges.in_conflict.clone());
        registry.register(
            "conflicts",
            "Conflicts by kind; somebody can have several",
            gauges.conflicts.clone(),
        );
        registry.register("people_failing", "People who failed lately", gauges.failing.clone());
        registry.register(
            "groups_unfinished",
            "Groups of people whose work an earlier run left unfinished",
            gauges.unfinished.clone(),
        );
        registry.register_with_unit(
            "store_size",
            "Size of the store on disk",
            Unit::Bytes,
            gauges.store_bytes.clone(),
        );
        gauges
    }

    /// Sets them to how things are.
    pub(super) fn set(&self, overview: &Overview) {
        let health = &overview.health;
        self.last_success.set(health.last_success.map_or(0.0, seconds));
        self.success_due.set(overview.success_due.map_or(0.0, seconds));
        self.next_run.set(overview.next.map_or(0.0, |(at, _)| seconds(at)));
        self.running.set(overview.running_since.is_some().into());
        self.waiting.set(count(overview.waiting));
        for of in PEERS {
            let labels = PeerLabels { peer: peer(of) };
            if *health.of(of) != Use::Untried {
                let failure = health.of(of).failure();
                let rejected = failure.is_some_and(|failure| failure.class == FailureClass::Unauthorised);
                self.usable.get_or_create(&labels).set(failure.is_none().into());
                self.rejected.get_or_create(&labels).set(rejected.into());
            }
        }
        if let Some(people) = &health.people {
            for state in STATES {
                let state = state.as_str();
                let number = people.get(state).copied().unwrap_or_default();
                self.people.get_or_create(&StateLabels { state }).set(number.try_into().unwrap_or(i64::MAX));
            }
        }
        if let Some(bytes) = overview.store_bytes {
            self.store_bytes.set(bytes.try_into().unwrap_or(i64::MAX));
        }
        self.admin_leavers.set(count(health.admin_leavers.len()));
        match &overview.memory {
            Ok(memory) => {
                self.set_memory(memory);
                self.set_ladder(memory, overview);
            }
            Err(failure) => {
                self.usable.get_or_create(&PeerLabels { peer: peer(failure.peer) }).set(0);
            }
        }
    }

    fn set_memory(&self, memory: &Memory) {
        self.linked.set(count(memory.links.len()));
        self.in_conflict.set(count(memory.conflicts.len()));
        let mut kinds: BTreeMap<&'static str, i64> = BTreeMap::new();
        for conflict in memory.conflicts.values().flat_map(|standoff| &standoff.conflicts) {
            *kinds.entry(conflict.kind()).or_default() += 1;
        }
        self.conflicts.clear();
        for (kind, number) in kinds {
            self.conflicts.get_or_create(&Kind { kind }).set(number);
        }
        self.failing.set(count(memory.failing.len()));
        let since = memory.failing.values().map(|backoff| backoff.since).min();
        self.failing_since.set(since.map_or(0.0, seconds));
        self.unfinished.set(count(memory.unfinished));
    }
}

impl Gauges {
    fn set_ladder(&self, memory: &Memory, overview: &Overview) {
        let hold = memory.hold.as_ref();
        self.holding.set(hold.is_some().into());
        self.hold_since.set(hold.map_or(0.0, |held| seconds(held.since)));
        for harm in Harm::ALL {
            let steps = hold.map_or(0, |held| held.steps.iter().filter(|step| step.harm == harm).count());
            self.held.get_or_create(&HarmLabels { harm: harm.as_str() }).set(count(steps));
        }
        for why in Leaving::ALL {
            for stage in ["missed", "locked", "deactivated"] {
                let stands =
                    memory.links.values().filter(|link| standing(&link.lifecycle) == Some((why, stage)));
                let labels = LeaverLabels { why: why.as_str(), stage };
                self.leavers.get_or_create(&labels).set(count(stands.count()));
            }
        }
        let countdowns = memory.countdowns(&overview.off_boarding);
        let next = countdowns.iter().find(|countdown| countdown.next == NextRung::Deactivate);
        self.next_deactivation.set(next.map_or(0.0, |countdown| seconds(countdown.at)));
    }
}

/// How somebody leaves and how far they are.
fn standing(life: &Lifecycle) -> Option<(Leaving, &'static str)> {
    let locked = life.locked.as_ref().map(|locked| locked.why);
    let away = life.away.as_ref().map(|away| away.why);
    if life.deactivated.is_some() {
        Some((away.or(locked).unwrap_or(Leaving::Gone), "deactivated"))
    } else if let Some(why) = locked {
        Some((away.unwrap_or(why), "locked"))
    } else {
        away.map(|why| (why, "missed"))
    }
}

fn count(number: usize) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
