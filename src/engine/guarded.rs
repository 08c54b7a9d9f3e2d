//! Decides under the eyes of the guard, and remembers what it holds.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use super::{
    Engine, RunRequest,
    apply::Applied,
    gather::{Gathered, MOST_ROUNDS, NOTHING_HELD, no_end},
    trust::Doubt,
};
use crate::{
    domain::{DefguardId, Failure, Harm, Held, HoldReason, Leaving, Watched},
    ports::JournalFilter,
    reconcile::{ApprovedPlan, Cause, Guard, Note, PersonPlan, Plan, Verdict, harm_of_change},
};

/// How far back what was done counts against the limits.
const WINDOW: TimeDelta = TimeDelta::hours(24);

/// A decision that the guard lets through.
pub(super) struct Guarded {
    pub(super) plan: ApprovedPlan,
    pub(super) held: Option<Held>,
    pub(super) by_approval: bool,
}

impl Engine {
    /// Decides, and decides anew without what the guard keeps back, until nothing of it is left in the plan.
    pub(super) async fn decide_guarded(
        &self,
        seen: &mut Gathered,
        request: &RunRequest,
        afresh: &BTreeSet<DefguardId>,
    ) -> Result<Guarded, Failure> {
        let whole = self.decide(seen, request.pass, afresh, &NOTHING_HELD).await?;
        seen.doubt = self.doubt(seen, &whole, request.dry_run).await?;
        let doubt = seen.doubt.as_ref().map(Doubt::reason);
        // Most runs have nothing to do, and need not read a day of the journal for it.
        let recent = if whole.groups.is_empty() { BTreeMap::new() } else { self.recent(seen)? };
        let before = seen.standing.hold.clone();
        let accepted = seen.standing.accepted.clone();
        let guard = Guard {
            limits: self.options.guard,
            recent: &recent,
            before: before.as_ref(),
            approval: request.approve.as_deref(),
            accepted: accepted.as_ref(),
            config: &self.options.config,
            first_run: seen.links.is_empty(),
            distrust: doubt.as_ref(),
        };
        let (mut plan, mut kept) = (whole, Verdict::default());
        for round in 0.. {
            let postponed = seen.postponed(afresh);
            let held = kept.by_person();
            let scene = seen.scene(request.pass, afresh, &postponed, &held);
            let verdict = guard.judge(&scene, &plan, &kept);
            if kept.steps.is_empty()
                && let Some(plan) = guard.approved_by_hand(&plan, &verdict)
            {
                return Ok(Guarded { plan, held: None, by_approval: true });
            }
            let done = verdict.steps == kept.steps;
            kept = verdict;
            // Whatever the decision still does against the guard's word is not done.
            let approved = done.then(|| guard.approve(&scene, plan.clone(), &kept)).flatten();
            let last = (round == MOST_ROUNDS).then(|| guard.approve_rest(&scene, plan, &kept));
            if let Some(plan) = approved.or(last) {
                kept.reasons.extend(request.approve.as_deref().map(not_approved));
                let held = held_from(seen, kept);
                return Ok(Guarded { plan, held, by_approval: false });
            }
            plan = self.decide(seen, request.pass, afresh, &kept.by_person()).await?;
        }
        Err(no_end())
    }

    /// To whom something was done within the last day, by runs that nobody had approved of.
    fn recent(&self, seen: &Gathered) -> Result<BTreeMap<Harm, BTreeSet<DefguardId>>, Failure> {
        let day = seen.now - WINDOW;
        // An approval from the future was given while the clock was wrong.
        let approved = seen.standing.approved_at.filter(|approved| *approved <= seen.now);
        let since = approved.map_or(day, |approved| approved.max(day));
        let mut recent: BTreeMap<Harm, BTreeSet<DefguardId>> = BTreeMap::new();
        let filter = JournalFilter { since: Some(since), ..JournalFilter::default() };
        for entry in self.store.journal(&filter)? {
            // What somebody did by hand was meant.
            if let (Some(_), Some(harm)) = (entry.run, harm_of_change(&entry.change)) {
                recent.entry(harm).or_default().insert(entry.id);
            }
        }
        Ok(recent)
    }

    /// Remembers what is held. A list that is not complete shows only a part of it.
    pub(super) fn keep_hold(&self, seen: &mut Gathered, held: Option<Held>) -> Result<(), Failure> {
        let part = !seen.listing.is_complete() && held.is_none();
        if part || seen.standing.hold == held {
            return Ok(());
        }
        seen.standing.hold = held;
        self.store.set_standing(&seen.standing)
    }

    /// Remembers, after a run for everybody, what it means for the next one.
    pub(super) fn keep_standing(
        &self,
        seen: &mut Gathered,
        plan: &Plan,
        applied: &Applied,
        by_approval: bool,
    ) -> Result<(), Failure> {
        let before = seen.standing.clone();
        let standing = &mut seen.standing;
        if by_approval {
            standing.approved_at = Some(self.clock.now());
        }
        if seen.listing.is_complete() {
            standing.last_look = Some(seen.now);
            standing.watched = watched(plan);
            // Whatever the new config does is done, or nobody is left to whom it could be done.
            let done = applied.stopped.is_none() && !applied.interrupted && applied.all_done();
            // A group filter does what it does only once that is proved.
            let filter = standing.accepted.as_ref().map(|accepted| &accepted.scope);
            let done = done && (filter == Some(&self.options.config.scope) || !self.is_proving_scope()?);
            if standing.accepted.is_none() || (standing.hold.is_none() && done) {
                standing.accepted = Some(self.options.config.clone());
            }
        }
        if *standing == before { Ok(()) } else { self.store.set_standing(standing) }
    }

    /// Whether somebody seems to be out of scope and it is not proved yet.
    fn is_proving_scope(&self) -> Result<bool, Failure> {
        Ok(self.store.links()?.values().any(|link| {
            let away = link.lifecycle.away.as_ref();
            away.is_some_and(|away| away.why == Leaving::OutOfScope) && link.lifecycle.locked.is_none()
        }))
    }
}

/// What is left to people.
fn watched(plan: &Plan) -> BTreeMap<DefguardId, Vec<Watched>> {
    let of = |person: &PersonPlan| -> Vec<Watched> {
        let Some(mxid) = &person.mxid else { return Vec::new() };
        let notes = person.notes.iter().filter(|note| note.is_left_to_people());
        let watched = |note: &Note| Watched {
            mxid: mxid.clone(),
            critical: note.is_critical(),
            what: note.to_string(),
        };
        notes.map(watched).collect()
    };
    let all = plan.people.iter().map(|(id, person)| (*id, of(person)));
    all.filter(|(_, watched)| !watched.is_empty()).collect()
}

/// An approval that lets nothing run.
fn not_approved(digest: &str) -> (Cause, HoldReason) {
    let reason = HoldReason {
        why: format!(
            "nothing is held with the digest {digest}, or more would be done by now than was approved of"
        ),
        mend: "look at `plan` again, and approve of what it shows".to_owned(),
    };
    (Cause::NotApproved, reason)
}

/// What is held from now on; `None` if nothing is.
fn held_from(seen: &Gathered, verdict: Verdict) -> Option<Held> {
    if verdict.reasons.is_empty() {
        return None;
    }
    let since = seen.standing.hold.as_ref().map_or(seen.now, |before| before.since);
    let digest = verdict.digest();
    let reasons = verdict.reasons.into_values().collect();
    Some(Held { digest, since, reasons, steps: verdict.steps })
}
