//! Does the work of a plan: groups side by side, the steps of a group one after the other.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use chrono::TimeDelta;
use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::{
    Engine, Progress,
    gather::Gathered,
    write::{Undone, Writer, took_effect},
};
use crate::{
    domain::{
        Backoff, Change, CreateMode, DefguardId, Entry, Failure, FailureClass, Intent, Lookup, Mxid, Peer,
        RunId,
    },
    ports::{JournalFilter, Outcome},
    reconcile::Group,
};

/// After so many groups in a row without a clear answer the homeserver counts as unusable.
const MOST_FAILURES_IN_A_ROW: usize = 8;

/// The longest pause before a person who fails again and again is looked at again.
const LONGEST_BACKOFF: TimeDelta = TimeDelta::hours(6);

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

impl Engine {
    /// Does the groups, several at once, until all are done or it is no use to go on.
    pub(super) async fn apply(
        &self,
        seen: &Gathered,
        groups: &[Group],
        run: Option<RunId>,
        progress: &dyn Progress,
    ) -> Result<Applied, Failure> {
        let enough = CancellationToken::new();
        let in_a_row = AtomicUsize::new(0);
        let (enough, in_a_row) = (&enough, &in_a_row);
        let mut results = stream::iter(groups.iter().cloned())
            .map(|group| async move {
                if enough.is_cancelled() || self.stop.is_cancelled() {
                    return (group.key, Ok(None));
                }
                let done = self.group(seen, &group, run).await;
                if let Ok(done) = &done {
                    match &done.failed {
                        Some((_, failure)) if failure.class == FailureClass::Unauthorised => enough.cancel(),
                        Some((_, failure)) if failure.class == FailureClass::Transient => {
                            if in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_FAILURES_IN_A_ROW {
                                enough.cancel();
                            }
                        }
                        _ => in_a_row.store(0, Ordering::Relaxed),
                    }
                }
                (group.key, done.map(Some))
            })
            .buffer_unordered(self.options.concurrency.max(1));
        let mut applied = Applied::default();
        let mut last_failure = None;
        let mut count = 0;
        while let Some((key, result)) = results.next().await {
            let Some(done) = result? else { continue };
            if let Some((_, failure)) = &done.failed {
                last_failure = Some(failure.clone());
            }
            applied.groups.insert(key, done);
            count += 1;
            progress.step(count, groups.len());
        }
        applied.interrupted = self.stop.is_cancelled() && count < groups.len();
        if enough.is_cancelled() {
            applied.stopped = last_failure;
        }
        Ok(applied)
    }

    /// Does one group. `Err` only if our own store failed, which ends the run.
    pub(super) async fn group(
        &self,
        seen: &Gathered,
        group: &Group,
        run: Option<RunId>,
    ) -> Result<GroupDone, Failure> {
        if group.confirm
            && let Some(why) = self.changed_since(seen, group).await
        {
            return Ok(why);
        }
        let mut done = GroupDone::default();
        let unfinished = seen.intents.iter().find(|intent| intent.group == group.key);
        let mut intent = group.intent(self.clock.now());
        if let Some(unfinished) = unfinished {
            keep_in_mind(&mut intent, unfinished);
        }
        if !group.steps.is_empty() {
            self.store.begin(&intent)?;
        }
        let mut writer = Writer {
            homeserver: self.homeserver.as_ref(),
            store: self.store.as_ref(),
            clock: self.clock.as_ref(),
            instance: &seen.rules.instance,
            run,
            empty_first: match self.options.create {
                CreateMode::Auto => seen.info.open_registration,
                CreateMode::OneRequest => false,
                CreateMode::EmptyFirst => true,
            },
            pause: self.options.retry_pause,
            intent,
        };
        for step in &group.steps {
            match writer.step(step).await {
                Ok(entries) => {
                    for entry in entries {
                        tracing::info!(person = %entry.id, mxid = %entry.mxid, change = entry.change.kind(), "done");
                        done.done.entry(entry.id).or_default().push(entry.change);
                    }
                }
                Err(Undone::Failed(failure)) if failure.peer == Peer::Store => return Err(failure),
                Err(Undone::Failed(failure)) => {
                    tracing::warn!(person = %step.person(), mxid = %step.mxid(), %failure, "failed");
                    self.postpone(seen, group, &failure)?;
                    done.failed = Some((step.person(), failure));
                    return Ok(done);
                }
                Err(Undone::Changed(why)) => {
                    tracing::info!(person = %step.person(), mxid = %step.mxid(), why, "put off to the next run");
                    done.put_off = Some(why);
                    return Ok(done);
                }
            }
        }
        let mut outcome =
            Outcome { links: group.links.clone(), backoff: self.relieved(seen, group), ..Outcome::default() };
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
                if *change != Change::Created || !self.is_told(*id, mxid)? {
                    outcome.journal.push(entry);
                }
                done.done.entry(*id).or_default().insert(0, change.clone());
            }
        }
        self.store.record(&outcome)?;
        Ok(done)
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
            match self.directory.find(&person.username).await {
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

    /// Those who failed before and did not now.
    fn relieved(&self, seen: &Gathered, group: &Group) -> BTreeMap<DefguardId, Option<Backoff>> {
        group.people.iter().filter(|id| seen.backoff.contains_key(id)).map(|id| (*id, None)).collect()
    }

    /// Puts the people of a group off, longer with each failure in a row.
    fn postpone(&self, seen: &Gathered, group: &Group, failure: &Failure) -> Result<(), Failure> {
        let now = self.clock.now();
        let backoff = group
            .people
            .iter()
            .map(|id| (*id, Some(next_backoff(seen.backoff.get(id), failure, now))))
            .collect();
        self.store.record(&Outcome { backoff, ..Outcome::default() })
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
            if !dry_run && known != *intent {
                let continued = Some(known.clone());
                self.store.record(&Outcome { journal, continued, ..Outcome::default() })?;
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
fn next_backoff(before: Option<&Backoff>, failure: &Failure, now: chrono::DateTime<chrono::Utc>) -> Backoff {
    let failures = before.map_or(0, |backoff| backoff.failures).saturating_add(1);
    let minutes = 1_i64.checked_shl(failures - 1).unwrap_or(i64::MAX).clamp(1, LONGEST_BACKOFF.num_minutes());
    Backoff {
        failures,
        until: now + TimeDelta::minutes(minutes),
        since: before.map_or(now, |backoff| backoff.since),
        last: failure.clone(),
    }
}
