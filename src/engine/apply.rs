//! Does the work of a plan: groups side by side, the steps of a group one after the other.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};

use super::{
    Engine, Progress,
    gather::Gathered,
    trust::Doubt,
    write::{Undone, Writer, took_effect},
};
use crate::{
    domain::{
        Backoff, Change, CreateMode, DefguardId, Entry, Failure, FailureClass, Intent, Link, Lookup, Mxid,
        Peer, Person, RunId,
    },
    ports::{JournalFilter, Outcome},
    reconcile::{ApprovedPlan, Group, Rung, Step},
};

/// After so many groups in a row without a clear answer the homeserver counts as unusable.
const MOST_FAILURES_IN_A_ROW: usize = 8;

/// The longest pause before a transfer that has begun is gone on with: a login may be on no account until then.
const LONGEST_TRANSFER_BACKOFF: TimeDelta = TimeDelta::minutes(1);

/// The longest pause before a person who fails again and again is looked at again.
pub(super) const LONGEST_BACKOFF: TimeDelta = TimeDelta::hours(6);

/// After so many doublings of a minute the longest pause is reached.
const MOST_DOUBLINGS: u32 = 9;

/// What became of a group.
#[derive(Debug, Default)]
pub(super) struct GroupDone {
    pub(super) done: BTreeMap<DefguardId, Vec<Change>>,
    pub(super) failed: Option<(DefguardId, Failure)>,
    pub(super) put_off: Option<String>,
}

impl GroupDone {
    fn put_off(why: impl Into<String>) -> Self {
        Self { put_off: Some(why.into()), ..Self::default() }
    }
}

/// The outcome of all groups.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) groups: BTreeMap<DefguardId, GroupDone>,
    /// Why no further groups were begun.
    pub(super) stopped: Option<Failure>,
    pub(super) interrupted: bool,
}

impl Applied {
    /// Whether nobody failed and nobody was put off.
    pub(super) fn all_done(&self) -> bool {
        self.groups.values().all(|group| group.failed.is_none() && group.put_off.is_none())
    }
}

impl Engine {
    /// Does the groups of a plan, several at once, until all are done or it is no use to go on.
    pub(super) async fn apply(
        &self,
        seen: &Gathered,
        plan: &ApprovedPlan,
        run: Option<RunId>,
        progress: &dyn Progress,
    ) -> Result<Applied, Failure> {
        self.groups(seen, &plan.plan().groups, run, progress).await
    }

    /// The same with groups to which an admin said yes, which the guard does not judge.
    pub(super) async fn groups(
        &self,
        seen: &Gathered,
        groups: &[Group],
        run: Option<RunId>,
        progress: &dyn Progress,
    ) -> Result<Applied, Failure> {
        // The failure after which no further groups are begun.
        let enough = OnceLock::new();
        let in_a_row = AtomicUsize::new(0);
        let (enough_ref, in_a_row) = (&enough, &in_a_row);
        let mut results = stream::iter(groups.iter().cloned())
            .map(|group| async move {
                if enough_ref.get().is_some() || self.stop.is_cancelled() {
                    return (group.key, Ok(None));
                }
                let done = self.group(seen, &group, run).await;
                if let Ok(done) = &done {
                    match &done.failed {
                        // A clear answer about this one account.
                        None => in_a_row.store(0, Ordering::Relaxed),
                        Some((_, failure)) if failure.class == FailureClass::Permanent => {
                            in_a_row.store(0, Ordering::Relaxed);
                        }
                        Some((_, failure)) => {
                            let failures = in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                            if failure.class == FailureClass::Unauthorised
                                || failures >= MOST_FAILURES_IN_A_ROW
                            {
                                let _ = enough_ref.set(failure.clone());
                            }
                        }
                    }
                }
                (group.key, done.map(Some))
            })
            .buffer_unordered(self.options.concurrency.max(1));
        let mut applied = Applied::default();
        let mut count = 0;
        while let Some((key, result)) = results.next().await {
            let Some(done) = result? else { continue };
            applied.groups.insert(key, done);
            count += 1;
            progress.step(count, groups.len());
        }
        applied.interrupted = self.stop.is_cancelled() && count < groups.len();
        drop(results);
        applied.stopped = enough.into_inner();
        Ok(applied)
    }

    /// Does one group. `Err` only if our own store failed, which ends the run.
    pub(super) async fn group(
        &self,
        seen: &Gathered,
        group: &Group,
        run: Option<RunId>,
    ) -> Result<GroupDone, Failure> {
        if let Some(why) = seen.doubt.as_ref().and_then(Doubt::forbids_all) {
            return Ok(GroupDone::put_off(why));
        }
        if !group.steps.is_empty() {
            match self.renew_claim(seen).await {
                Ok(None) => {}
                Ok(Some(why)) => return Ok(GroupDone::put_off(why)),
                Err(failure) => return Ok(GroupDone::put_off(failure.to_string())),
            }
        }
        if group.confirm
            && let Some(why) = self.changed_since(seen, group).await
        {
            return Ok(why);
        }
        if let Some(why) = self.adopted_account_changed(seen, group).await {
            return Ok(why);
        }
        let mut done = GroupDone::default();
        let unfinished = seen.intents.iter().find(|intent| intent.group == group.key);
        let mut intent = group.intent(self.clock.now());
        if let Some(unfinished) = unfinished {
            keep_in_mind(&mut intent, unfinished);
        }
        self.tie_by_hand(group, &intent)?;
        let mut writer = Writer {
            homeserver: self.homeserver.as_ref(),
            store: self.store.as_ref(),
            clock: self.clock.as_ref(),
            instance: &seen.rules.instance,
            run,
            // In doubt of our memory there may be another daemon that makes the same accounts.
            empty_first: seen.doubt.is_some()
                || match self.options.create {
                    CreateMode::Auto => seen.info.open_registration,
                    CreateMode::OneRequest => false,
                    CreateMode::EmptyFirst => true,
                },
            pause: self.options.retry_pause,
            off_board_admins: self.options.off_boarding.off_board_admins,
            intent,
            links: group.people.iter().filter_map(|id| Some((*id, seen.links.get(id)?.clone()))).collect(),
            kept_links: BTreeMap::new(),
            kept: Vec::new(),
            begun: false,
        };
        for step in &group.steps {
            let worth_it = match step {
                Step::Ladder { id, rung, .. } => self.still_due(seen, *id, rung).await,
                _ => Ok(()),
            };
            let outcome = match worth_it {
                Ok(()) => writer.step(step).await,
                Err(undone) => Err(undone),
            };
            match outcome {
                Ok(entries) => {
                    for entry in entries {
                        let run = run.map(|run| run.0);
                        let (person, action) = (entry.id.0, entry.change.kind());
                        tracing::info!(run, person, mxid = %entry.mxid, action, "done: {action} for {}", entry.mxid);
                        done.done.entry(entry.id).or_default().push(entry.change);
                    }
                }
                Err(Undone::Failed(failure)) if failure.peer == Peer::Store => return Err(failure),
                Err(Undone::Failed(failure)) => {
                    let (run, person) = (run.map(|run| run.0), step.person().0);
                    tracing::warn!(run, person, mxid = %step.mxid(), action = "failed", "failed: {failure}");
                    self.leave_off(seen, group, &writer, Some(&failure))?;
                    done.failed = Some((step.person(), failure));
                    return Ok(done);
                }
                Err(Undone::Changed(why)) => {
                    let (run, person) = (run.map(|run| run.0), step.person().0);
                    tracing::info!(run, person, mxid = %step.mxid(), action = "put_off", "put off to the next run: {why}");
                    self.leave_off(seen, group, &writer, None)?;
                    done.put_off = Some(why);
                    return Ok(done);
                }
            }
        }
        let mut outcome = Outcome {
            links: group.links.clone(),
            journal: std::mem::take(&mut writer.kept),
            backoff: self.relieved(seen, group),
            ..Outcome::default()
        };
        match unfinished {
            _ if group.steps.is_empty() => {}
            // Whether that one is settled as well does not depend on this group alone.
            Some(unfinished) => {
                outcome.continued = Some(Intent { pending: Vec::new(), ..unfinished.clone() });
            }
            None => {
                outcome.finished.insert(group.key);
            }
        }
        for (id, change) in &group.told {
            if let Some(link) = seen.links.get(id) {
                let (number, person, action) = (run.map(|run| run.0), id.0, change.kind());
                tracing::warn!(run = number, person, mxid = %link.mxid, action, "alarm: {action}");
                let (mxid, change) = (link.mxid.clone(), change.clone());
                outcome.journal.push(Entry { run, at: self.clock.now(), id: *id, mxid, change });
            }
        }
        for (id, change) in &group.made {
            // A creation was written down when it happened; the other ways to a link are written down with the link.
            let written = done.done.get(id).is_some_and(|changes| changes.contains(change));
            let mxid = group
                .links
                .get(id)
                .and_then(Option::as_ref)
                .or_else(|| seen.links.get(id))
                .map(|link| &link.mxid);
            if let (false, Some(mxid)) = (written, mxid) {
                let entry =
                    Entry { run, at: self.clock.now(), id: *id, mxid: mxid.clone(), change: change.clone() };
                let told = match change {
                    // Written down when it happened: in an earlier run, and before the first write.
                    Change::Created => self.is_told(*id, mxid)?,
                    Change::Linked => !group.steps.is_empty(),
                    _ => false,
                };
                if !told {
                    outcome.journal.push(entry);
                }
                done.done.entry(*id).or_default().insert(0, change.clone());
            }
        }
        self.store.record(&outcome)?;
        Ok(done)
    }

    /// Whether a step on the off-boarding ladder is still due, asked right before it.
    async fn still_due(&self, seen: &Gathered, id: DefguardId, rung: &Rung) -> Result<(), Undone> {
        match rung.leaving() {
            Some(why) => self.still_leaving(seen, id, why).await,
            None => Ok(()),
        }
    }

    /// Whether the journal has the creation of an account.
    fn is_told(&self, id: DefguardId, mxid: &Mxid) -> Result<bool, Failure> {
        let told = self.store.journal(&JournalFilter { id: Some(id), ..JournalFilter::default() })?;
        Ok(told.iter().any(|entry| entry.change == Change::Created && entry.mxid == *mxid))
    }

    /// Reads the people of a group again: what was planned holds only if they are still the same.
    async fn changed_since(&self, seen: &Gathered, group: &Group) -> Option<GroupDone> {
        for id in &group.people {
            let Some(person) = seen.listing.people().get(id) else { continue };
            let now = self.look_up(*id, &person.username).await;
            match now {
                Lookup::Found(now) if now == *person => {}
                Lookup::Found(_) => {
                    return Some(GroupDone::put_off(format!(
                        "#{id} was changed in Defguard while this run was going on"
                    )));
                }
                Lookup::Absent => {
                    return Some(GroupDone::put_off(format!(
                        "#{id} was renamed or deleted in Defguard while this run was going on"
                    )));
                }
                Lookup::Unknown(failure) => {
                    return Some(GroupDone { failed: Some((*id, failure)), ..GroupDone::default() });
                }
            }
        }
        None
    }

    /// One person as a new reading of the whole list shows them.
    pub(super) async fn listed(&self, id: DefguardId) -> Lookup<Person> {
        match self.directory.list().await {
            Ok(listing) => match listing.people().get(&id) {
                Some(person) => Lookup::Found(person.clone()),
                None => Lookup::Absent,
            },
            Err(failure) => Lookup::Unknown(failure),
        }
    }

    /// Those who failed before and did not now.
    fn relieved(&self, seen: &Gathered, group: &Group) -> BTreeMap<DefguardId, Option<Backoff>> {
        group.people.iter().filter(|id| seen.backoff.contains_key(id)).map(|id| (*id, None)).collect()
    }

    /// A link made by hand is remembered before the first write, without the login: if the work is cut short, the next
    /// sync goes on with it as with everybody's.
    fn tie_by_hand(&self, group: &Group, intent: &Intent) -> Result<(), Failure> {
        let mut outcome = Outcome::default();
        for (id, _) in group.made.iter().filter(|(_, change)| **change == Change::Linked) {
            let Some(Some(link)) = group.links.get(id) else { continue };
            outcome.links.insert(*id, Some(Link { subject: None, ..link.clone() }));
            let (mxid, change) = (link.mxid.clone(), Change::Linked);
            outcome.journal.push(Entry { run: None, at: self.clock.now(), id: *id, mxid, change });
        }
        if outcome == Outcome::default() || group.steps.is_empty() {
            return Ok(());
        }
        outcome.continued = Some(intent.clone());
        self.store.record(&outcome)
    }

    /// Whether an account that becomes somebody's is not what it was when that was decided: what kept others from being
    /// adopted may have come to be true of it.
    async fn adopted_account_changed(&self, seen: &Gathered, group: &Group) -> Option<GroupDone> {
        for (id, _) in group.made.iter().filter(|(_, change)| **change == Change::Adopted) {
            let Some(Some(link)) = group.links.get(id) else { continue };
            match (self.homeserver.get(&link.mxid).await, seen.answers.accounts.get(&link.mxid)) {
                (Lookup::Found(now), Some(Lookup::Found(then))) if now == *then => {}
                (Lookup::Found(_) | Lookup::Absent, _) => {
                    return Some(GroupDone::put_off(format!(
                        "{} was changed in Synapse while this run was going on",
                        link.mxid
                    )));
                }
                (Lookup::Unknown(failure), _) => {
                    return Some(GroupDone { failed: Some((*id, failure)), ..GroupDone::default() });
                }
            }
        }
        None
    }

    /// Ends the work on a group in the middle: what was done is recorded, and after a failure its people are put off,
    /// longer with each failure in a row.
    fn leave_off(
        &self,
        seen: &Gathered,
        group: &Group,
        writer: &Writer<'_>,
        failure: Option<&Failure>,
    ) -> Result<(), Failure> {
        let (journal, links) = (writer.kept.clone(), writer.kept_links.clone());
        let mut outcome = Outcome { journal, links, ..Outcome::default() };
        if !writer.kept.is_empty() {
            outcome.continued = Some(writer.intent.clone());
        }
        // Our credentials are nobody's fault.
        if let Some(failure) = failure.filter(|failure| failure.class != FailureClass::Unauthorised) {
            let now = self.clock.now();
            let half_done = !group.moves.is_empty()
                && (writer.begun || seen.intents.iter().any(|intent| intent.group == group.key));
            // Whoever is to lose the use of an account, or gets it back, is not kept waiting for hours either.
            let half_done = half_done || group.steps.iter().any(|step| matches!(step, Step::Ladder { .. }));
            let longest = if half_done { LONGEST_TRANSFER_BACKOFF } else { LONGEST_BACKOFF };
            let backoff = |id| next_backoff(seen.backoff.get(&id), failure, now, longest);
            outcome.backoff = group.people.iter().map(|id| (*id, Some(backoff(*id)))).collect();
        }
        if outcome == Outcome::default() { Ok(()) } else { self.store.record(&outcome) }
    }

    /// Completes the journal with the writes that had taken effect when the program ended between them and their line,
    /// and forgets the creations that had not begun: an account of that name that is there now is somebody else's. What
    /// cannot be found out puts off only those whom it concerns.
    pub(super) async fn recover(&self, seen: &mut Gathered, dry_run: bool) -> Result<(), Failure> {
        for intent in &mut seen.intents {
            let mut journal = Vec::new();
            let mut unknown = Vec::new();
            for entry in &intent.pending {
                match self.homeserver.get(&entry.mxid).await {
                    Lookup::Found(account) => {
                        journal.extend(took_effect(entry, &account, &seen.rules.instance));
                    }
                    Lookup::Absent => {}
                    Lookup::Unknown(failure) if failure.class == FailureClass::Unauthorised => {
                        return Err(failure);
                    }
                    Lookup::Unknown(_) => unknown.push(entry.clone()),
                }
            }
            let mut known = Intent { pending: unknown, ..intent.clone() };
            for (id, mxid) in &intent.creates {
                let made = |entry: &Entry| entry.change == Change::Created && entry.mxid == *mxid;
                if !(journal.iter().chain(&known.pending).any(made) || self.is_told(*id, mxid)?) {
                    known.creates.remove(id);
                }
            }
            let mut links = BTreeMap::new();
            for entry in &journal {
                if let Some(link) = seen.links.get_mut(&entry.id) {
                    link.lifecycle.after(&entry.change, entry.at);
                    links.insert(entry.id, Some(link.clone()));
                }
            }
            if !dry_run && known != *intent {
                let continued = Some(known.clone());
                self.store.record(&Outcome { journal, links, continued, ..Outcome::default() })?;
            }
            if !known.pending.is_empty() {
                seen.unclear.insert(known.group);
                seen.unclear.extend(known.creates.keys());
                seen.unclear.extend(known.pending.iter().map(|entry| entry.id));
            }
            *intent = known;
        }
        Ok(())
    }
}

/// A group that has the key of an unfinished one must not make its intent forgotten.
fn keep_in_mind(intent: &mut Intent, unfinished: &Intent) {
    for (id, mxid) in &unfinished.creates {
        intent.creates.entry(*id).or_insert_with(|| mxid.clone());
    }
    intent.moves.extend(unfinished.moves.iter().cloned());
}

/// One minute after the first failure, twice as long after each further one.
fn next_backoff(
    before: Option<&Backoff>,
    failure: &Failure,
    now: DateTime<Utc>,
    longest: TimeDelta,
) -> Backoff {
    let failures = before.map_or(0, |backoff| backoff.failures).saturating_add(1);
    let minutes = TimeDelta::minutes(1 << (failures - 1).min(MOST_DOUBLINGS));
    Backoff {
        failures,
        until: now + minutes.min(longest),
        since: before.map_or(now, |backoff| backoff.since),
        last: failure.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_fails_again_and_again_is_looked_at_again_after_six_hours_at_the_latest() {
        let failure = Failure::new(Peer::Synapse, FailureClass::Transient, "a call", "a test");
        let now = DateTime::<Utc>::UNIX_EPOCH;
        let mut backoff: Option<Backoff> = None;
        let mut before = TimeDelta::zero();
        for _ in 0..200 {
            let next = next_backoff(backoff.as_ref(), &failure, now, LONGEST_BACKOFF);
            let pause = next.until - now;
            assert!(pause >= before && pause <= LONGEST_BACKOFF, "{} failures: {pause}", next.failures);
            before = pause;
            backoff = Some(next);
        }
        assert_eq!(before, LONGEST_BACKOFF);
    }
}
