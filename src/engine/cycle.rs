//! One run from beginning to end, and the explanation of one person.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Engine, Explanation, PersonReport, Progress, RunReport, RunRequest, Stage,
    apply::Applied,
    gather::Gathered,
    report::{steps_of, template_values},
};
use crate::{
    domain::{DefguardId, Failure, Held, RunId, Standoff, Username},
    ports::{JournalFilter, Outcome},
    reconcile::{ApprovedPlan, Note, Pass, PersonPlan, Plan, State},
};

/// How many journal lines an explanation shows.
const EXPLAINED_ENTRIES: usize = 10;

/// What a run has found out before it changes anything.
struct Found {
    seen: Gathered,
    /// The people whom the run was asked for by name.
    asked: BTreeSet<DefguardId>,
    /// Whether it is about everybody.
    everybody: bool,
    plan: ApprovedPlan,
    /// What the guard keeps back of what would be done.
    held: Option<Held>,
    /// Whether a person approved of it.
    by_approval: bool,
}

impl Engine {
    /// Runs once. What goes wrong is in the report.
    pub async fn run(&self, request: &RunRequest, progress: &dyn Progress) -> RunReport {
        let _turn = self.turn(progress).await;
        let began = self.clock.now();
        let mut report = RunReport {
            run: None,
            pass: request.pass,
            began,
            ended: began,
            dry_run: request.dry_run,
            completeness: None,
            people: Vec::new(),
            unknown: Vec::new(),
            held: None,
            failure: None,
            interrupted: false,
        };
        if !request.dry_run {
            match self.store.next_run() {
                Ok(id) => report.run = Some(id),
                Err(failure) => {
                    report.failure = Some(failure);
                    return report;
                }
            }
        }
        if request.pass == Pass::Full {
            self.forget_homeserver_info().await;
        }
        if let Err(failure) = self.run_into(&mut report, request, progress).await {
            report.failure = Some(failure);
        }
        if report.failure.is_some() {
            self.forget_homeserver_info().await;
        }
        report.ended = self.clock.now();
        if let Some(id) = report.run
            && let Err(failure) = self.keep_run(&report, id)
        {
            report.failure.get_or_insert(failure);
        }
        report
    }

    fn keep_run(&self, report: &RunReport, id: RunId) -> Result<(), Failure> {
        self.store.add_run(&report.record(id))?;
        if report.pass == Pass::Full { self.store.prune(report.ended - self.options.keep) } else { Ok(()) }
    }

    async fn run_into(
        &self,
        report: &mut RunReport,
        request: &RunRequest,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        progress.stage(Stage::Reading);
        // Nothing is in hand yet, so a run that is asked to end ends at once.
        let Some(found) = self.stop.run_until_cancelled(self.find_out(report, request)).await else {
            report.interrupted = true;
            return Ok(());
        };
        let Some(Found { mut seen, asked, everybody, mut plan, held, by_approval }) = found? else {
            return Ok(());
        };
        if !everybody {
            plan.restrict(&asked);
        }
        let groups = &plan.plan().groups;
        let concerned: BTreeSet<DefguardId> = if everybody {
            plan.plan().people.keys().copied().collect()
        } else {
            groups.iter().flat_map(|group| group.people.iter().copied()).chain(asked).collect()
        };
        report.held = held.clone().filter(|held| {
            everybody || held.steps.is_empty() || held.steps.iter().any(|step| concerned.contains(&step.id))
        });
        let applied = if request.dry_run {
            None
        } else {
            // Before the first write: a hold that is not known could not be approved of after a crash.
            if everybody {
                self.keep_hold(&mut seen, held)?;
            }
            progress.stage(Stage::Writing);
            let applied = self.apply(&seen, &plan, report.run, progress).await?;
            self.remember(&seen, plan.plan(), &applied, &concerned)?;
            report.interrupted = applied.interrupted;
            report.failure.clone_from(&applied.stopped);
            if everybody {
                self.keep_standing(&mut seen, plan.plan(), &applied, by_approval)?;
            }
            Some(applied)
        };
        report.people = people_reports(&seen, plan.plan(), applied.as_ref(), &concerned);
        Ok(())
    }

    /// Reads both servers, finishes the journal of an interrupted run, and decides; `None` if the run is about people
    /// of whom none is known.
    async fn find_out(&self, report: &mut RunReport, request: &RunRequest) -> Result<Option<Found>, Failure> {
        let mut seen = self.gather().await?;
        report.completeness = Some(seen.listing.completeness().clone());
        self.recover(&mut seen, request.dry_run).await?;
        let mut asked = BTreeSet::new();
        let mut everybody = request.only.is_empty();
        for name in &request.only {
            if request.or_everybody {
                let (meant, clear) = seen.resolve_hint(name);
                asked.extend(meant);
                everybody |= !clear;
                continue;
            }
            match seen.resolve(name) {
                Some(id) => {
                    asked.insert(id);
                }
                None => report.unknown.push(name.clone()),
            }
        }
        if everybody {
            // Where somebody is asked for, nobody else is decided about.
            asked.clear();
        }
        if asked.is_empty() && !everybody {
            return Ok(None);
        }
        let guarded = self.decide_guarded(&mut seen, request, &asked).await?;
        Ok(Some(Found {
            seen,
            asked,
            everybody,
            plan: guarded.plan,
            held: guarded.held,
            by_approval: guarded.by_approval,
        }))
    }

    /// Keeps the conflicts in mind and drops the intents that are done with.
    fn remember(
        &self,
        seen: &Gathered,
        plan: &Plan,
        applied: &Applied,
        concerned: &BTreeSet<DefguardId>,
    ) -> Result<(), Failure> {
        let mut outcome = Outcome::default();
        let now = self.clock.now();
        let done = |key: &DefguardId| {
            applied.groups.get(key).is_some_and(|group| group.failed.is_none() && group.put_off.is_none())
        };
        // Whose work was not done is looked at again, conflict or not.
        let left_over: BTreeSet<DefguardId> = plan
            .groups
            .iter()
            .filter(|group| !done(&group.key))
            .flat_map(|group| group.people.iter().copied())
            .collect();
        for (id, person) in plan.people.iter().filter(|(id, _)| concerned.contains(id)) {
            let before = seen.standoffs.get(id);
            let listed = seen.listing.people().get(id).map(|listed| &listed.username);
            let after = listed.and_then(|username| standoff(person, username, before, now));
            let held = person.notes.iter().any(|note| matches!(note, Note::Held { .. }));
            let undecided = left_over.contains(id)
                || held
                || matches!(person.state, State::Failed | State::Postponed | State::Withheld);
            if undecided {
                continue;
            }
            // An incomplete listing leaves things undone that a remembered conflict would hide from the next run.
            if before != after.as_ref() && seen.listing.is_complete() {
                outcome.standoffs.insert(*id, after);
            }
            if seen.backoff.contains_key(id) {
                outcome.backoff.insert(*id, None);
            }
        }
        if seen.listing.is_complete() {
            let gone = |id: &&DefguardId| !plan.people.contains_key(id) && !left_over.contains(id);
            outcome.standoffs.extend(seen.standoffs.keys().filter(gone).map(|id| (*id, None)));
            outcome.backoff.extend(seen.backoff.keys().filter(gone).map(|id| (*id, None)));
        }
        for (intent, groups) in &plan.intents {
            if groups.iter().all(done) {
                outcome.finished.insert(*intent);
            }
        }
        if outcome == Outcome::default() { Ok(()) } else { self.store.record(&outcome) }
    }

    /// Explains one person, given by username, `#` and id, or MXID; `None` if nobody is known by that name. Nothing is
    /// changed.
    pub async fn explain(&self, name: &str, progress: &dyn Progress) -> Result<Option<Explanation>, Failure> {
        let _turn = self.turn(progress).await;
        let found = async {
            let mut seen = self.gather().await?;
            self.recover(&mut seen, true).await?;
            let Some(id) = seen.resolve(name) else { return Ok(None) };
            let request = RunRequest { dry_run: true, ..RunRequest::everybody(Pass::Frequent) };
            let guarded = self.decide_guarded(&mut seen, &request, &BTreeSet::from([id])).await?;
            let login = self.forecast(&mut seen, &BTreeSet::from([id]), &()).await?.pop();
            Ok(Some((seen, id, guarded.plan, login)))
        };
        let Some((seen, id, plan, login)) = self.read(found).await? else { return Ok(None) };
        let plan = plan.plan();
        let mut reports = people_reports(&seen, plan, None, &BTreeSet::from([id]));
        let link = seen.links.get(&id).cloned();
        let report = reports.pop().unwrap_or_else(|| PersonReport {
            id,
            username: link.as_ref().map_or_else(|| Username::new(name), |link| link.username.clone()),
            state: State::Withheld,
            mxid: link.as_ref().map(|link| link.mxid.clone()),
            conflicts: Vec::new(),
            notes: Vec::new(),
            steps: Vec::new(),
            done: Vec::new(),
            failure: None,
            put_off: Some("the list of people in Defguard does not show them".to_owned()),
        });
        let group = plan.groups.iter().find(|group| group.people.contains(&id));
        let together_with: Vec<DefguardId> = group
            .map(|group| group.people.iter().copied().filter(|other| *other != id).collect())
            .unwrap_or_default();
        let named =
            report.conflicts.iter().flat_map(|conflict| conflict.others()).chain(together_with.clone());
        let usernames: BTreeMap<DefguardId, Username> = named
            .filter_map(|id| {
                let listed = seen.listing.people().get(&id).map(|person| person.username.clone());
                Some((id, listed.or_else(|| seen.links.get(&id).map(|link| link.username.clone()))?))
            })
            .collect();
        Ok(Some(Explanation {
            person: seen.listing.people().get(&id).cloned(),
            templates: seen.mapped.get(&id).map(template_values).unwrap_or_default(),
            link,
            report,
            together_with,
            usernames,
            journal: self.store.journal(&JournalFilter {
                id: Some(id),
                limit: Some(EXPLAINED_ENTRIES),
                ..JournalFilter::default()
            })?,
            login,
            login_rules: self.login_rules,
        }))
    }
}

fn standoff(
    person: &PersonPlan,
    username: &Username,
    before: Option<&Standoff>,
    now: chrono::DateTime<chrono::Utc>,
) -> Option<Standoff> {
    if person.conflicts.is_empty() {
        return None;
    }
    let since =
        before.filter(|before| before.conflicts == person.conflicts).map_or(now, |before| before.since);
    Some(Standoff {
        username: username.clone(),
        conflicts: person.conflicts.clone(),
        fingerprint: person.fingerprint.clone(),
        since,
    })
}

fn people_reports(
    seen: &Gathered,
    plan: &Plan,
    applied: Option<&Applied>,
    concerned: &BTreeSet<DefguardId>,
) -> Vec<PersonReport> {
    let group_of: BTreeMap<DefguardId, _> =
        plan.groups.iter().flat_map(|group| group.people.iter().map(move |id| (*id, group))).collect();
    let mut reports = Vec::new();
    for (id, person) in plan.people.iter().filter(|(id, _)| concerned.contains(id)) {
        let listed = seen.listing.people().get(id).map(|listed| &listed.username);
        let Some(username) = listed.or(seen.links.get(id).map(|link| &link.username)) else { continue };
        let group = group_of.get(id);
        let done = group.and_then(|group| applied?.groups.get(&group.key));
        let steps = group.map(|group| steps_of(group, *id)).unwrap_or_default();
        let failed = done.and_then(|done| done.failed.as_ref());
        let postponed = person.state == State::Postponed;
        let last = postponed.then(|| seen.backoff.get(id)).flatten().map(|backoff| backoff.last.clone());
        let unclear = (postponed && last.is_none())
            .then(|| "it could not be found out what an interrupted run did for them".to_owned());
        reports.push(PersonReport {
            id: *id,
            username: username.clone(),
            state: person.state,
            mxid: person.mxid.clone(),
            conflicts: person.conflicts.clone(),
            notes: person.notes.clone(),
            done: done.and_then(|done| done.done.get(id)).cloned().unwrap_or_default(),
            failure: person
                .failure
                .clone()
                .or_else(|| failed.filter(|_| !steps.is_empty()).map(|(_, failure)| failure.clone()))
                .or(last),
            put_off: done.and_then(|done| done.put_off.clone()).filter(|_| !steps.is_empty()).or(unclear),
            steps,
        });
    }
    reports
}
