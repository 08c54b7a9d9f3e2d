//! What becomes of each person, first alone, then put together into groups that can be done independently.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    lifecycle::{Fate, stranger_sessions},
    plan::{Group, Note, PersonPlan, Plan, Rung, State, Step},
    scene::Scene,
    transfer::{Hands, Things, Turn, sequence},
    view::{Stop, View},
};
use crate::domain::{
    Account, Change, Conflict, DefguardId, ExternalId, Failure, Link, Move, Mxid, Person, Subject,
};

/// What becomes of one person, before it is known who exchanges what with whom.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) id: DefguardId,
    pub(super) state: State,
    pub(super) mxid: Option<Mxid>,
    /// The account has to be made.
    pub(super) new: bool,
    pub(super) gains: Things,
    pub(super) drops: Things,
    /// The display name to write.
    pub(super) name: Option<String>,
    /// External ids to take off accounts that are not linked: where an unfinished change by hand left them, or where they
    /// are another's by now.
    pub(super) washes: BTreeMap<Mxid, BTreeSet<ExternalId>>,
    /// From whom something comes, and what.
    pub(super) takes: BTreeMap<DefguardId, Things>,
    /// What is done to the account on the off-boarding ladder, before everything else.
    pub(super) rungs: Vec<Rung>,
    /// The link when all is done.
    pub(super) link: Option<Link>,
    /// What the journal has to tell beside what is done.
    pub(super) told: Option<Change>,
    /// How a link came about that did not exist before.
    pub(super) made: Option<Change>,
    pub(super) conflicts: Vec<Conflict>,
    pub(super) notes: Vec<Note>,
    pub(super) failure: Option<Failure>,
}

impl Draft {
    /// Nothing is done for this person.
    pub(super) fn idle(person: &Person, link: Option<&Link>, state: State) -> Self {
        Self::of(person.id, link, state)
    }

    /// Nothing is done for a person of whom only the link is known.
    pub(super) fn of(id: DefguardId, link: Option<&Link>, state: State) -> Self {
        Self {
            id,
            state,
            mxid: link.map(|link| link.mxid.clone()),
            new: false,
            gains: Things::default(),
            drops: Things::default(),
            name: None,
            washes: BTreeMap::new(),
            takes: BTreeMap::new(),
            rungs: Vec::new(),
            link: link.cloned(),
            told: None,
            made: None,
            conflicts: Vec::new(),
            notes: Vec::new(),
            failure: None,
        }
    }

    pub(super) fn conflict(mut self, conflict: Conflict) -> Self {
        self.conflicts.push(conflict);
        self
    }

    pub(super) fn conflicts(mut self, conflicts: Vec<Conflict>) -> Self {
        self.conflicts.extend(conflicts);
        self
    }

    pub(super) fn note(mut self, note: Note) -> Self {
        self.notes.push(note);
        self
    }

    /// Adds what the off-boarding ladder means for them.
    pub(super) fn fate(mut self, fate: Fate) -> Self {
        self.rungs.extend(fate.rungs);
        self.notes.extend(fate.notes);
        if let Some(link) = &mut self.link {
            link.lifecycle = fate.lifecycle;
        }
        self
    }

    /// What its account gives up and gets, and what accounts that are nobody's give up.
    pub(super) fn hands(&self) -> impl Iterator<Item = Hands> {
        let own = self.mxid.as_ref().map(|mxid| Hands {
            id: self.id,
            mxid: mxid.clone(),
            new: self.new,
            gains: self.gains.clone(),
            drops: self.drops.clone(),
        });
        let washed = self.washes.iter().map(|(mxid, ids)| Hands {
            id: self.id,
            mxid: mxid.clone(),
            new: false,
            gains: Things::default(),
            drops: Things { ids: ids.clone(), ..Things::default() },
        });
        own.into_iter().chain(washed)
    }

    /// The link does not name a login any more that leaves the account.
    fn forget_logins(&mut self, gone: &BTreeSet<ExternalId>) {
        if let Some(link) = &mut self.link {
            let names = |own: &Subject| gone.iter().any(|id| id.external_id == own.as_str());
            link.subject = link.subject.take().filter(|own| !names(own));
        }
    }

    fn has_work(&self) -> bool {
        self.new
            || !self.gains.is_empty()
            || !self.drops.is_empty()
            || !self.washes.is_empty()
            || self.name.is_some()
            || !self.rungs.is_empty()
    }

    /// Whether it is not known now what becomes of this person.
    fn is_undecided(&self) -> bool {
        matches!(self.state, State::Failed | State::Postponed | State::Withheld)
    }

    /// Takes back everything that would have been done, but for the off-boarding ladder.
    fn wait_for(&mut self, other: DefguardId, link: Option<&Link>) {
        let lifecycle = self.link.take().map(|link| link.lifecycle).unwrap_or_default();
        let (rungs, notes) = (std::mem::take(&mut self.rungs), std::mem::take(&mut self.notes));
        *self = Self::of(self.id, link, State::Withheld)
            .fate(Fate { rungs, lifecycle, notes })
            .note(Note::WaitsFor { id: other });
    }
}

/// Puts the drafts together into a plan; `None` if something has to be found out first.
pub(super) fn assemble(view: &View<'_>, mut drafts: BTreeMap<DefguardId, Draft>) -> Option<Plan> {
    hold_back(view, &mut drafts);
    raise_alarms(view, &mut drafts);
    hand_over(view, &mut drafts);
    correct_links(view, &mut drafts);
    let intents = finish_intents(view, &mut drafts);
    if view.has_questions() {
        return None;
    }
    let mut plan = Plan { groups: groups(view, &drafts), ..Plan::default() };
    let key_of: BTreeMap<DefguardId, DefguardId> =
        plan.groups.iter().flat_map(|group| group.people.iter().map(|id| (*id, group.key))).collect();
    plan.intents = intents
        .into_iter()
        .map(|(intent, people)| (intent, people.iter().filter_map(|id| key_of.get(id).copied()).collect()))
        .collect();
    // The next run compares with the links as this one leaves them.
    let mut links = view.scene.links.clone();
    for (id, link) in plan.groups.iter().flat_map(|group| &group.links) {
        links.extend(link.clone().map(|link| (*id, link)));
    }
    let scene = Scene { links: &links, ..*view.scene };
    let after = View::new(&scene);
    for (id, draft) in drafts {
        let linked = view.scene.complete && view.scene.links.contains_key(&id);
        if !linked && !view.scene.people.contains_key(&id) {
            continue;
        }
        let state = match draft.state {
            State::InStep | State::Withheld if draft.has_work() => State::Update,
            State::InStep if !draft.conflicts.is_empty() => State::Conflict,
            state => state,
        };
        let fingerprint =
            if draft.conflicts.is_empty() { String::new() } else { after.fingerprint(id, &draft.conflicts) };
        plan.people.insert(
            id,
            PersonPlan {
                state,
                mxid: draft.mxid,
                conflicts: draft.conflicts,
                fingerprint,
                notes: draft.notes,
                failure: draft.failure,
            },
        );
    }
    Some(plan)
}

/// Whoever takes something from a person that cannot be dealt with now waits for them.
fn hold_back(view: &View<'_>, drafts: &mut BTreeMap<DefguardId, Draft>) {
    loop {
        let stuck = drafts.values().find_map(|draft| {
            let blocker = draft.takes.keys().find(|owner| drafts.get(owner).is_none_or(Draft::is_undecided));
            blocker.map(|blocker| (draft.id, *blocker))
        });
        let Some((id, blocker)) = stuck else { return };
        if let Some(draft) = drafts.get_mut(&id) {
            draft.wait_for(blocker, view.scene.links.get(&id));
        }
    }
}

/// Whoever left may have left sessions behind that the new owner of their username has opened.
fn raise_alarms(view: &View<'_>, drafts: &mut BTreeMap<DefguardId, Draft>) {
    let robbed: BTreeSet<DefguardId> = drafts
        .values()
        .flat_map(|draft| draft.takes.iter().filter(|(_, things)| !things.ids.is_empty()))
        .map(|(owner, _)| *owner)
        .filter(|owner| !view.is_wanted(*owner))
        .collect();
    for owner in robbed {
        let Some(draft) = drafts.get_mut(&owner) else { continue };
        let Some(mxid) = &draft.mxid else { continue };
        // If it cannot be found out now, the whole decision is made anew.
        let Ok(Some(note)) = stranger_sessions(view, owner, mxid) else { continue };
        if let Note::StrangerSessions { sessions, .. } = &note {
            draft.told = Some(Change::StrangerSessions { sessions: sessions.clone() });
        }
        draft.notes.push(note);
    }
}

/// What somebody takes, the owner gives up. An owner without a link gives it up on the account that is marked as theirs.
fn hand_over(view: &View<'_>, drafts: &mut BTreeMap<DefguardId, Draft>) {
    let taken: Vec<(DefguardId, Things)> = drafts.values().flat_map(|draft| draft.takes.clone()).collect();
    for (owner, things) in taken {
        let Some(draft) = drafts.get_mut(&owner) else { continue };
        if draft.mxid.is_none() {
            for id in things.ids {
                if let Ok(Some(account)) = view.holder(&id) {
                    draft.washes.entry(account.summary.mxid.clone()).or_default().insert(id);
                }
            }
            continue;
        }
        draft.forget_logins(&things.ids);
        draft.drops.ids.extend(things.ids);
        draft.drops.emails.extend(things.emails);
    }
}

/// A run that did not get to the end may have taken a login off an account while the link still names it. Once another
/// person's link gets it, the old one has to say that it is gone, or nobody would notice when it is due again.
fn correct_links(view: &View<'_>, drafts: &mut BTreeMap<DefguardId, Draft>) {
    let links = view.scene.links;
    let is_theirs = |id: &DefguardId, subject: &Subject| {
        view.scene
            .mapped
            .get(id)
            .is_some_and(|mapped| mapped.subject.as_ref().is_ok_and(|own| own == subject))
    };
    // Whose it is by now, and whether only now; a run for one person may have left the other's link as it was.
    let mut owners: BTreeMap<Subject, (DefguardId, bool)> = BTreeMap::new();
    for draft in drafts.values() {
        let Some(subject) = draft.link.as_ref().and_then(|link| link.subject.as_ref()) else { continue };
        let before = links.get(&draft.id).and_then(|link| link.subject.as_ref());
        if before != Some(subject) {
            owners.insert(subject.clone(), (draft.id, true));
        } else if is_theirs(&draft.id, subject) {
            owners.entry(subject.clone()).or_insert((draft.id, false));
        }
    }
    for (id, old) in links {
        let Some(subject) = &old.subject else { continue };
        let passed_on =
            owners.get(subject).is_some_and(|(owner, new)| owner != id && (*new || !is_theirs(id, subject)));
        if !passed_on {
            continue;
        }
        let draft = drafts.entry(*id).or_insert_with(|| Draft::of(*id, Some(old), State::InStep));
        if let Some(link) = &mut draft.link
            && link.subject.as_ref() == Some(subject)
        {
            link.subject = None;
        }
    }
}

/// Adds what unfinished intents of earlier runs still need, and says on whose work each of them depends.
fn finish_intents(
    view: &View<'_>,
    drafts: &mut BTreeMap<DefguardId, Draft>,
) -> BTreeMap<DefguardId, BTreeSet<DefguardId>> {
    let mut waiting = BTreeMap::new();
    // What settles an intent can be about people whom an incomplete listing does not show.
    let intents = if view.scene.complete { view.scene.intents } else { &[] };
    for intent in intents {
        let mut people: BTreeSet<DefguardId> = intent.creates.keys().copied().collect();
        let mut known = intent.pending.is_empty();
        for moved in &intent.moves {
            match loose_end(view, drafts, intent.group, moved) {
                Ok(person) => people.extend(person),
                Err(_) => known = false,
            }
        }
        let drafted = people.iter().all(|id| drafts.get(id).is_none_or(|draft| !draft.is_undecided()));
        if known && drafted {
            waiting.insert(intent.group, people);
        }
    }
    waiting
}

/// Sees to an external id that an unfinished intent was moving; says whose work settles it.
fn loose_end(
    view: &View<'_>,
    drafts: &mut BTreeMap<DefguardId, Draft>,
    group: DefguardId,
    moved: &Move,
) -> Result<Option<DefguardId>, Stop> {
    let seen_to = |draft: &&Draft| draft.gains.ids.contains(&moved.id) || draft.drops.ids.contains(&moved.id);
    if let Some(draft) = drafts.values().find(seen_to) {
        return Ok(Some(draft.id));
    }
    let owner = drafts
        .values()
        .find(|draft| draft.link.as_ref().is_some_and(|link| link.mxid == moved.from))
        .map(|draft| draft.id)
        .or_else(|| view.linked_to(&moved.from));
    if let Some(holder) = view.holder(&moved.id)? {
        return Ok(owner.filter(|_| holder.summary.mxid == moved.from));
    }
    // On no account, and perhaps still answered from Synapse's cache.
    let Some(owner) = owner else {
        // It left an account that is nobody's, which only a change by hand does.
        let from = view.account(&moved.from)?;
        if from.is_none_or(Account::is_marked) {
            return Ok(None);
        }
        let link = view.scene.links.get(&group);
        let draft = drafts.entry(group).or_insert_with(|| Draft::of(group, link, State::InStep));
        if !draft.is_undecided() {
            draft.washes.entry(moved.from.clone()).or_default().insert(moved.id.clone());
        }
        return Ok(Some(group));
    };
    let draft =
        drafts.entry(owner).or_insert_with(|| Draft::of(owner, view.scene.links.get(&owner), State::InStep));
    if !draft.is_undecided() {
        // Or nobody would notice when it is due again.
        draft.forget_logins(&BTreeSet::from([moved.id.clone()]));
        draft.drops.ids.insert(moved.id.clone());
    }
    Ok(Some(owner))
}

/// Groups the people who exchange something and orders the work in each group.
fn groups(view: &View<'_>, drafts: &BTreeMap<DefguardId, Draft>) -> Vec<Group> {
    let mut leader: BTreeMap<DefguardId, DefguardId> = drafts.keys().map(|id| (*id, *id)).collect();
    for draft in drafts.values() {
        for owner in draft.takes.keys() {
            let (one, other) = (find(&leader, draft.id), find(&leader, *owner));
            leader.insert(one.max(other), one.min(other));
        }
    }
    let mut members: BTreeMap<DefguardId, Vec<&Draft>> = BTreeMap::new();
    for draft in drafts.values() {
        members.entry(find(&leader, draft.id)).or_default().push(draft);
    }
    members.into_iter().filter_map(|(key, drafts)| group(view, key, &drafts)).collect()
}

fn find(leader: &BTreeMap<DefguardId, DefguardId>, mut id: DefguardId) -> DefguardId {
    while let Some(next) = leader.get(&id).filter(|next| **next != id) {
        id = *next;
    }
    id
}

fn group(view: &View<'_>, key: DefguardId, drafts: &[&Draft]) -> Option<Group> {
    let hands: Vec<Hands> = drafts.iter().flat_map(|draft| draft.hands()).collect();
    let links: BTreeMap<DefguardId, Option<Link>> = drafts
        .iter()
        .filter(|draft| draft.link.is_some() && view.scene.links.get(&draft.id) != draft.link.as_ref())
        .map(|draft| (draft.id, draft.link.clone()))
        .collect();
    let mut group = order(key, drafts, &hands);
    group.links = links;
    (!group.steps.is_empty() || !group.links.is_empty()).then_some(group)
}

/// The steps of a group, in order. `hands` can name accounts beside those of the drafts.
pub(super) fn order(key: DefguardId, drafts: &[&Draft], hands: &[Hands]) -> Group {
    let by_id: BTreeMap<DefguardId, &Draft> = drafts.iter().map(|draft| (draft.id, *draft)).collect();
    let made = drafts.iter().filter_map(|draft| Some((draft.id, draft.made.clone()?))).collect();
    let told = drafts.iter().filter_map(|draft| Some((draft.id, draft.told.clone()?))).collect();
    let mut group = Group {
        key,
        people: by_id.keys().copied().collect(),
        steps: Vec::new(),
        links: BTreeMap::new(),
        made,
        told,
        moves: BTreeSet::new(),
        confirm: false,
    };
    // Whoever loses the use of an account loses it before anybody gets something from it.
    for draft in drafts {
        let Some(mxid) = &draft.mxid else { continue };
        let rung = |rung: &Rung| Step::Ladder { id: draft.id, mxid: mxid.clone(), rung: rung.clone() };
        group.steps.extend(draft.rungs.iter().map(rung));
        group.confirm |= !draft.rungs.is_empty();
    }
    for Turn { id, mxid, new, change } in sequence(hands) {
        if new {
            let display_name = by_id.get(&id).and_then(|draft| draft.name.clone());
            let email = change.add_emails.into_iter().next();
            group.confirm = true;
            group.steps.push(Step::Create { id, mxid, display_name, email, external_ids: change.add_ids });
            continue;
        }
        // A new login may have to leave again: if this run is cut short and the name changes once more before the next,
        // nothing else says that it was ours.
        let gained = change.add_ids.iter().filter(|id| !id.is_marker());
        let leaving = change.drop_ids.iter().chain(&change.wash_ids).chain(gained);
        group.moves.extend(leaving.map(|id| Move { id: id.clone(), from: mxid.clone() }));
        group.confirm |= change.changes_ids();
        group.steps.push(Step::Hold { id, mxid, change });
    }
    for draft in drafts.iter().filter(|draft| !draft.new) {
        if let (Some(mxid), Some(name)) = (&draft.mxid, &draft.name) {
            group.steps.push(Step::Name { id: draft.id, mxid: mxid.clone(), display_name: name.clone() });
        }
    }
    group
}
