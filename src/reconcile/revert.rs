//! Taking back what one run did: locks, display names, e-mail addresses and links, and only where the account still shows
//! what the run left.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    batch::{BatchDecision, BatchPlan},
    draft::{Draft, order},
    plan::{Rung, State},
    scene::Scene,
    view::{Stop, View},
};
use crate::domain::{
    Account, AccountSummary, Change, DefguardId, Email, Entry, ExternalId, FieldPolicy, Leaving, Link, Mxid,
    OnConflict, OnLeave, RunId, ThreePid,
};

const LOGINS: &str = "the external ids";
const EMAILS: &str = "the e-mail addresses";
const NAME: &str = "the display name";
const LOCK: &str = "the lock";

/// What a run did to one account, all its journal lines put together: what was there before the first, and what the last
/// one left.
#[derive(Debug, Default)]
struct Trace {
    locked: Option<Leaving>,
    name: Option<(Option<String>, Option<String>)>,
    emails: Option<(BTreeSet<String>, BTreeSet<String>)>,
    ids: Option<(BTreeSet<ExternalId>, BTreeSet<ExternalId>)>,
    /// How the account became this person's, if the run did that.
    made: Option<Change>,
    /// What cannot be put back.
    lost: Vec<(String, &'static str)>,
}

impl Trace {
    fn add(&mut self, change: &Change) {
        match change {
            Change::Locked { why, .. } => self.locked = Some(*why),
            Change::Unlocked { .. } => {
                self.locked = None;
                let why =
                    "a lock is never put on by hand: the next sync locks whoever is not to use their account";
                self.lost.push(("the unlock".to_owned(), why));
            }
            Change::DisplayName { before, after } => {
                let first = self.name.take().map_or_else(|| before.clone(), |(first, _)| first);
                self.name = Some((first, after.clone()));
            }
            Change::Emails { before, after } => {
                let first = self.emails.take().map_or_else(|| before.clone(), |(first, _)| first);
                self.emails = Some((first, after.clone()));
            }
            Change::ExternalIds { before, after } => {
                let first = self.ids.take().map_or_else(|| before.clone(), |(first, _)| first);
                self.ids = Some((first, after.clone()));
            }
            Change::Created => {
                let why = "nothing is ever deleted; what else there is to do is done in Synapse";
                self.lost.push(("the new account".to_owned(), why));
            }
            Change::Adopted | Change::Linked => self.made = Some(change.clone()),
            Change::Relinked => {
                let why = "it changed nothing in Synapse, and the marker proves whose the account is; if it is not theirs, \
                           use `unlink`";
                self.lost.push(("the link that was found again".to_owned(), why));
            }
            Change::Unlinked => {
                self.lost.push(("the link that was taken off".to_owned(), "say it anew with `link`"));
            }
            Change::SessionsEnded { devices } => {
                let why = "whoever was logged out has to log in again";
                self.lost.push((format!("{devices} ended session(s)"), why));
            }
            Change::Deactivated { .. } => {
                let why = "a deactivation cannot be taken back whole: sessions, rooms and addresses are gone. If the person \
                           is back in Defguard, the next sync reactivates the account; the journal shows what it had";
                self.lost.push(("the deactivation".to_owned(), why));
            }
            Change::Reactivated => {
                let why = "a deactivation is never done by hand: the next sync decides";
                self.lost.push(("the reactivation".to_owned(), why));
            }
            Change::StrangerSessions { .. } => {}
        }
    }
}

/// Decides how a run is taken back. `journal` is the journal from the first line of that run on; `only` the people whom it
/// is about, if not everybody.
pub fn decide_revert(
    scene: &Scene<'_>,
    run: RunId,
    journal: &[Entry],
    only: Option<&BTreeSet<DefguardId>>,
) -> BatchDecision {
    let of_run = || journal.iter().filter(|entry| entry.run == Some(run));
    if of_run().next().is_none() {
        return BatchDecision::Refused(format!(
            "the journal has nothing of run {run}: it changed nothing, or its lines are older than state.keep_days"
        ));
    }
    let mut traces: BTreeMap<(DefguardId, &Mxid), Trace> = BTreeMap::new();
    for entry in of_run().filter(|entry| only.is_none_or(|only| only.contains(&entry.id))) {
        traces.entry((entry.id, &entry.mxid)).or_default().add(&entry.change);
    }
    let view = View::new(scene);
    let mut plan = BatchPlan::default();
    for id in only.into_iter().flatten() {
        if !traces.keys().any(|(touched, _)| touched == id) {
            plan.leave(*id, "everything", format!("run {run} did nothing for them"));
        }
    }
    let mut drafts: BTreeMap<DefguardId, Draft> = BTreeMap::new();
    for ((id, mxid), trace) in &traces {
        let back = Back { view: &view, run, journal, id: *id, mxid, trace };
        match back.draft(&mut plan) {
            Ok(Some(draft)) => {
                drafts.insert(*id, draft);
            }
            Ok(None) | Err(Stop::Pending | Stop::Waits(_)) => {}
            Err(Stop::Failed(failure)) => plan.leave(*id, "everything", failure.to_string()),
        }
    }
    if let Err(Stop::Failed(failure)) = free(&view, &mut drafts, &mut plan) {
        return BatchDecision::Failed(*failure);
    }
    if view.has_questions() {
        return BatchDecision::Ask(view.into_questions());
    }
    for draft in drafts.values() {
        warn(&view, draft, &mut plan);
    }
    plan.groups = groups(&drafts);
    BatchDecision::Do(plan)
}

/// One account that a run changed.
struct Back<'a> {
    view: &'a View<'a>,
    run: RunId,
    journal: &'a [Entry],
    id: DefguardId,
    mxid: &'a Mxid,
    trace: &'a Trace,
}

impl Back<'_> {
    /// What is done to the account; `None` if nothing.
    fn draft(&self, plan: &mut BatchPlan) -> Result<Option<Draft>, Stop> {
        let scene = self.view.scene;
        let (id, mxid) = (self.id, self.mxid);
        for (what, why) in &self.trace.lost {
            plan.leave(id, what, *why);
        }
        if self.is_all_lost() {
            return Ok(None);
        }
        let everything = "everything else";
        let Some(link) = scene.links.get(&id).filter(|link| link.mxid == *mxid) else {
            plan.leave(id, everything, format!("{mxid} is not linked to them any more"));
            return Ok(None);
        };
        let Some(summary) = scene.accounts.get(mxid) else {
            plan.leave(id, everything, format!("{mxid} is not on the homeserver any more"));
            return Ok(None);
        };
        if summary.deactivated {
            plan.leave(id, everything, format!("{mxid} is deactivated"));
            return Ok(None);
        }
        let Some(account) = self.view.account(mxid)? else {
            plan.leave(id, everything, format!("{mxid} is not on the homeserver any more"));
            return Ok(None);
        };
        if account.is_marked() && account.owner(&scene.rules.instance) != Some(id) {
            plan.leave(id, everything, format!("{mxid} carries the ownership marker of somebody else"));
            return Ok(None);
        }
        let mut draft = Draft::of(id, Some(link), State::InStep);
        self.unlock(summary, link, &mut draft, plan);
        self.rename(summary, &mut draft, plan);
        self.address(account, &mut draft, plan);
        self.identify(account, &mut draft, plan);
        let does = !draft.rungs.is_empty()
            || draft.name.is_some()
            || !draft.gains.is_empty()
            || !draft.drops.is_empty()
            || draft.made.is_some();
        Ok(does.then_some(draft))
    }

    fn is_all_lost(&self) -> bool {
        let Trace { locked, name, emails, ids, made, lost: _ } = self.trace;
        locked.is_none() && name.is_none() && emails.is_none() && ids.is_none() && made.is_none()
    }

    /// Our lock comes off, if it is still that of this run.
    fn unlock(&self, summary: &AccountSummary, link: &Link, draft: &mut Draft, plan: &mut BatchPlan) {
        let Some(why) = self.trace.locked else { return };
        let of_lock = |entry: &&Entry| {
            let lock = matches!(entry.change, Change::Locked { .. } | Change::Unlocked { .. });
            lock && entry.id == self.id && entry.mxid == *self.mxid
        };
        let newest = self.journal.iter().rfind(of_lock).and_then(|entry| entry.run);
        if !summary.locked {
            plan.leave(self.id, LOCK, "the account is not locked any more");
        } else if link.lifecycle.locked.is_none() {
            plan.leave(self.id, LOCK, "the account is locked by somebody else by now");
        } else if newest != Some(self.run) {
            let later =
                newest.map_or_else(String::new, |run| format!("; it is run {run} that has to be reverted"));
            plan.leave(self.id, LOCK, format!("it was taken off and put on anew since{later}"));
        } else {
            draft.rungs.push(Rung::Unlock(why));
            if let Some(link) = &mut draft.link {
                link.lifecycle.locked = None;
                link.lifecycle.away = None;
            }
        }
    }

    fn rename(&self, summary: &AccountSummary, draft: &mut Draft, plan: &mut BatchPlan) {
        let Some((before, after)) = &self.trace.name else { return };
        if before == after {
            return;
        }
        if summary.display_name != *after {
            plan.leave(self.id, NAME, "it was changed since");
            return;
        }
        draft.name = Some(before.clone().unwrap_or_default());
        // What the templates give now counts as seen, so that "on-change" leaves the restored name alone.
        let mapped = self.view.scene.mapped.get(&self.id);
        if let (Some(Ok(wanted)), Some(link)) = (mapped.map(|mapped| &mapped.display_name), &mut draft.link) {
            link.applied.set_display_name(Some(wanted.clone()));
        }
    }

    fn address(&self, account: &Account, draft: &mut Draft, plan: &mut BatchPlan) {
        let Some((before, after)) = &self.trace.emails else { return };
        let read = |texts: BTreeSet<&String>| -> Option<BTreeSet<Email>> {
            texts.into_iter().map(|text| Email::canonical(text).ok()).collect()
        };
        let gone: BTreeSet<&String> = before.difference(after).collect();
        let come: BTreeSet<&String> = after.difference(before).collect();
        if gone.is_empty() && come.is_empty() {
            return;
        }
        let has = |text: &&String| {
            account.threepids.contains(&ThreePid { medium: "email".to_owned(), address: (*text).clone() })
        };
        if !come.iter().all(has) || gone.iter().any(has) {
            plan.leave(self.id, EMAILS, "they were changed since");
            return;
        }
        let (Some(gains), Some(drops)) = (read(gone), read(come)) else {
            plan.leave(self.id, EMAILS, "one of them is no e-mail address that can be written");
            return;
        };
        draft.gains.emails = gains;
        draft.drops.emails = drops;
        let mapped = self.view.scene.mapped.get(&self.id);
        if let (Some(Ok(wanted)), Some(link)) = (mapped.map(|mapped| &mapped.email), &mut draft.link) {
            link.applied.set_email(Some(wanted.clone()));
        }
    }

    /// The external ids, and with them the link if the run made it.
    fn identify(&self, account: &Account, draft: &mut Draft, plan: &mut BatchPlan) {
        let unlinks = self.trace.made.is_some();
        let none = (BTreeSet::new(), BTreeSet::new());
        let (before, after) = self.trace.ids.as_ref().unwrap_or(&none);
        // The marker of an account that stays theirs is no matter of one run.
        let counts = |id: &&ExternalId| unlinks || !id.is_marker();
        let gone: BTreeSet<ExternalId> = before.difference(after).filter(counts).cloned().collect();
        let come: BTreeSet<ExternalId> = after.difference(before).filter(counts).cloned().collect();
        if !come.is_subset(&account.external_ids) || !gone.is_disjoint(&account.external_ids) {
            plan.leave(self.id, LOGINS, "they were changed since, and the link with them stays");
            return;
        }
        if unlinks {
            draft.link = None;
            draft.made = Some(Change::Unlinked);
        } else if let Some(link) = &mut draft.link {
            let logins = |ids: &BTreeSet<ExternalId>| {
                ids.iter().find(|id| id.auth_provider == self.view.scene.rules.auth_provider).cloned()
            };
            if logins(&gone).is_some() || logins(&come).is_some() {
                link.subject = logins(&gone).map(|id| crate::domain::Subject::new(id.external_id));
            }
        }
        draft.gains.ids = gone;
        draft.drops.ids = come;
    }
}

/// Leaves out what somebody else has by now. What comes from another account of this very revert is free, unless that one
/// does not give it up after all.
fn free(view: &View<'_>, drafts: &mut BTreeMap<DefguardId, Draft>, plan: &mut BatchPlan) -> Result<(), Stop> {
    loop {
        let mut taken = None;
        for (id, draft) in &*drafts {
            for login in &draft.gains.ids {
                match view.holder(login) {
                    Ok(None) | Err(Stop::Pending | Stop::Waits(_)) => {}
                    Err(stop) => return Err(stop),
                    Ok(Some(account)) => {
                        let mxid = &account.summary.mxid;
                        let given = drafts
                            .values()
                            .any(|it| it.mxid.as_ref() == Some(mxid) && it.drops.ids.contains(login));
                        if !given {
                            taken = Some((*id, LOGINS, format!("{login} is on {mxid} by now")));
                        }
                    }
                }
            }
            for email in &draft.gains.emails {
                match view.holder_of_email(email) {
                    Ok(None) | Err(Stop::Pending | Stop::Waits(_)) => {}
                    Err(stop) => return Err(stop),
                    Ok(Some(mxid)) if draft.mxid.as_ref() == Some(mxid) => {}
                    Ok(Some(mxid)) => {
                        let given = drafts
                            .values()
                            .any(|it| it.mxid.as_ref() == Some(mxid) && it.drops.emails.contains(email));
                        if !given {
                            taken = Some((*id, EMAILS, format!("one of them is on {mxid} by now")));
                        }
                    }
                }
            }
        }
        let Some((id, what, why)) = taken else { return Ok(()) };
        plan.leave(id, what, why);
        if let Some(draft) = drafts.get_mut(&id) {
            let link = view.scene.links.get(&id);
            if what == EMAILS {
                draft.gains.emails.clear();
                draft.drops.emails.clear();
                if let (Some(now), Some(old)) = (&mut draft.link, link) {
                    now.applied.set_email(old.applied.email().map(|email| email.cloned()));
                }
            } else {
                draft.gains.ids.clear();
                draft.drops.ids.clear();
                if draft.made.take().is_some() {
                    draft.link = link.cloned();
                } else if let (Some(now), Some(old)) = (&mut draft.link, link) {
                    now.subject.clone_from(&old.subject);
                }
            }
        }
    }
}

/// What the next sync does to it again, and what to do about that.
fn warn(view: &View<'_>, draft: &Draft, plan: &mut BatchPlan) {
    let scene = view.scene;
    let rules = scene.rules;
    let (id, wanted) = (draft.id, view.is_wanted(draft.id));
    // The same for everybody, so that many are told in one line.
    let protect = ", or add the account to off_boarding.protect";
    if !draft.rungs.is_empty() && !wanted {
        let person = scene.people.get(&id);
        let proof = format!(
            "once that is proved anew, by {} runs over {} minutes",
            rules.off_boarding.absence_confirmations,
            rules.off_boarding.absence_min_age.num_minutes()
        );
        let again = |why: Leaving| rules.off_boarding.on(why) != OnLeave::Ignore;
        match person {
            Some(person) if !person.is_active && again(Leaving::Disabled) => plan.warn(
                id,
                format!(
                    "the next sync locks the account again, since they are disabled: enable them in Defguard{protect}"
                ),
            ),
            Some(person) if rules.scope.leaves_out_by_group(person) && again(Leaving::OutOfScope) => plan.warn(
                id,
                format!(
                    "the account is locked again {proof}, since they are out of scope: put their groups or `[scope]` \
                     right{protect}"
                ),
            ),
            None if again(Leaving::Gone) => plan.warn(
                id,
                format!(
                    "the account is locked again {proof}, since they are not in the list of people: put them back in \
                     Defguard{protect}"
                ),
            ),
            _ => {}
        }
    }
    let Some(mapped) = scene.mapped.get(&id).filter(|_| wanted) else { return };
    let differs = |name: &String| !matches!(&mapped.display_name, Ok(Some(wanted)) if wanted == name);
    if rules.display_name == FieldPolicy::Enforce && draft.name.as_ref().is_some_and(differs) {
        plan.warn(
            id,
            "the next sync writes Defguard's display name again, since accounts.display_name = \"enforce\": correct the \
             name in Defguard or the template, or set \"on-change\""
                .to_owned(),
        );
    }
    let emails = !draft.drops.emails.is_empty() || !draft.gains.emails.is_empty();
    let returns = matches!(&mapped.email, Ok(Some(wanted)) if draft.drops.emails.contains(wanted));
    if rules.email == FieldPolicy::Enforce && emails && returns {
        plan.warn(
            id,
            "the next sync puts Defguard's e-mail address on the account again, since accounts.email = \"enforce\": \
             correct the address in Defguard or the template, or set \"on-change\""
                .to_owned(),
        );
    }
    if draft.made.is_some() {
        let does = match rules.on_conflict {
            OnConflict::Adopt | OnConflict::AdoptIfSameEmail => "may adopt the account again",
            OnConflict::Report => "reports that the account is in the way",
            OnConflict::Suffix => "makes another account, with a number behind its name",
        };
        plan.warn(
            id,
            format!(
                "their login does not open the account any more; the next sync {does}: see `on_conflict`"
            ),
        );
    } else if let Ok(subject) = &mapped.subject
        && draft.drops.ids.contains(&ExternalId::login(&rules.auth_provider, subject))
    {
        plan.warn(
            id,
            format!(
                "the next sync puts the login {subject} on the account again: put their username, subject_template or \
                 idp_id back before it"
            ),
        );
    }
}

/// Those who exchange something are one group.
fn groups(drafts: &BTreeMap<DefguardId, Draft>) -> Vec<super::plan::Group> {
    let mut parts: Vec<BTreeSet<DefguardId>> = Vec::new();
    for (id, draft) in drafts {
        let exchanges = |other: &DefguardId| {
            drafts.get(other).is_some_and(|other| {
                let gives = |from: &Draft, to: &Draft| {
                    !from.drops.ids.is_disjoint(&to.gains.ids)
                        || !from.drops.emails.is_disjoint(&to.gains.emails)
                };
                gives(draft, other) || gives(other, draft)
            })
        };
        let (near, far): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| part.iter().any(exchanges));
        parts = far;
        parts.push(near.into_iter().flatten().chain([*id]).collect());
    }
    let mut groups = Vec::new();
    for part in parts {
        let (Some(key), members) =
            (part.first(), part.iter().filter_map(|id| drafts.get(id)).collect::<Vec<_>>())
        else {
            continue;
        };
        let hands: Vec<_> = members.iter().flat_map(|draft| draft.hands()).collect();
        let mut group = order(*key, &members, &hands);
        group.links = members.iter().map(|draft| (draft.id, draft.link.clone())).collect();
        // Done because somebody asked for it, whatever Defguard says about these people.
        group.confirm = false;
        groups.push(group);
    }
    groups
}
