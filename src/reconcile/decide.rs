//! Who gets which account, and what has to change for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    draft::{Draft, assemble},
    fields,
    lifecycle::{Fate, leave, stay},
    plan::{Decision, Note, Rung, State},
    scene::{Pass, Scene},
    view::{Claim, Stop, View},
};
use crate::domain::{
    Account, Applied, Change, Conflict, DefguardId, ExternalId, FieldPolicy, Harm, Leaving, Lifecycle, Link,
    Localpart, Mapped, MappedField, Mxid, OnConflict, Person, Subject, Twins,
};

/// Decides what is to be done, or asks for what it does not know yet. The same scene always gives the same decision.
pub fn decide(scene: &Scene<'_>) -> Decision {
    let view = View::new(scene);
    // If only some are asked for, of those without an account only whoever wants what these want is looked at.
    let mut only: BTreeSet<DefguardId> =
        scene.afresh.iter().flat_map(|id| view.rivals(*id)).chain(scene.afresh.iter().copied()).collect();
    loop {
        let drafts = drafts(&view, (!scene.afresh.is_empty()).then_some(&only));
        if view.has_questions() {
            return Decision::Ask(view.into_questions());
        }
        let unlinked = |id: &DefguardId| !scene.links.contains_key(id);
        let known = only.len();
        only.extend(drafts.values().flat_map(|draft| draft.takes.keys().copied()).filter(unlinked));
        if scene.afresh.is_empty() || only.len() == known {
            let plan = assemble(&view, drafts);
            return plan.map_or_else(|| Decision::Ask(view.into_questions()), Decision::Plan);
        }
    }
}

/// What becomes of everybody; of those without an account only of `only`.
fn drafts(view: &View<'_>, only: Option<&BTreeSet<DefguardId>>) -> BTreeMap<DefguardId, Draft> {
    let scene = view.scene;
    let mut drafts: BTreeMap<DefguardId, Draft> = BTreeMap::new();
    let mut open: Vec<(&Person, &Mapped)> = Vec::new();
    for (id, person) in scene.people {
        let Some(mapped) = scene.mapped.get(id) else { continue };
        let link = scene.links.get(id);
        let draft = if let Some(standing) = not_wanted(view, person) {
            standing
        } else if scene.postponed.contains(id) {
            Draft::idle(person, link, State::Postponed)
        } else if let Some(link) = link {
            Linked { view, person, mapped, link }
                .draft()
                .unwrap_or_else(|stop| stopped(*id, Some(link), stop))
        } else if !scene.complete || only.is_some_and(|only| !only.contains(id)) {
            Draft::idle(person, None, State::Withheld)
        } else if let Some(conflicts) = view.remembered(*id) {
            Draft::idle(person, None, State::Conflict).conflicts(conflicts)
        } else {
            match (Unlinked { view, person, mapped }).draft() {
                Ok(Some(draft)) => {
                    without_an_account(view, draft, mapped).unwrap_or_else(|stop| stopped(*id, None, stop))
                }
                Ok(None) => {
                    open.push((person, mapped));
                    continue;
                }
                Err(stop) => stopped(*id, None, stop),
            }
        };
        drafts.insert(*id, draft);
    }
    for (id, link) in scene.links.iter().filter(|(id, _)| !scene.people.contains_key(id)) {
        // An incomplete list says nothing about who is not in it.
        if scene.complete {
            drafts.insert(*id, missing(view, link, only.is_none_or(|only| only.contains(id))));
        }
    }
    let mut given = Given::new(view, &drafts);
    for (person, mapped) in open {
        let draft = Newcomer { view, person, mapped }
            .draft(&given)
            .and_then(|draft| without_an_account(view, draft, mapped))
            .unwrap_or_else(|stop| stopped(person.id, None, stop));
        given.add(&draft);
        drafts.insert(person.id, draft);
    }
    drafts
}

/// The draft of a person whom the sync does not concern, or does not concern any more.
fn not_wanted(view: &View<'_>, person: &Person) -> Option<Draft> {
    let scene = view.scene;
    let link = scene.links.get(&person.id);
    let scope = scene.rules.scope.leaves_out(person);
    let (state, leaving) = match &scope {
        Some(why) if !why.is_by_group() => (State::OutOfScope, None),
        _ if !person.is_active => (State::Disabled, Some(Leaving::Disabled)),
        Some(_) => (State::OutOfScope, Some(Leaving::OutOfScope)),
        None => return None,
    };
    let mut draft = Draft::idle(person, link, state);
    if let (State::OutOfScope, Some(why)) = (state, &scope) {
        draft = draft.note(Note::OutOfScope { why: why.to_string() });
    }
    let Some(link) = link else { return Some(draft.note(Note::NoAccount)) };
    if scene.postponed.contains(&person.id) {
        return Some(Draft { notes: draft.notes, ..Draft::idle(person, Some(link), State::Postponed) });
    }
    let fate = match leaving {
        Some(why) => leave(view, link, Some(person), why),
        None => Ok(left_alone(view, person, link)),
    };
    Some(match fate {
        Ok(fate) => draft.fate(fate),
        Err(stop) => stopped(person.id, Some(link), stop),
    })
}

/// Somebody whom the config leaves alone by name, or whose enrolment has begun anew: they get back what we took.
fn left_alone(view: &View<'_>, person: &Person, link: &Link) -> Fate {
    match view.scene.accounts.get(&link.mxid) {
        Some(summary) if person.is_active && link.lifecycle.is_off_boarded() => stay(view, link, summary),
        _ => Fate::of(Lifecycle { away: None, ..link.lifecycle.clone() }),
    }
}

/// The draft of somebody with a link whom a complete list does not show. `looked_for`: whether the run is about them.
fn missing(view: &View<'_>, link: &Link, looked_for: bool) -> Draft {
    let draft = |state| Draft::of(link.id, Some(link), state);
    if view.scene.postponed.contains(&link.id) {
        return draft(State::Postponed);
    }
    if !looked_for {
        return draft(State::Gone);
    }
    match leave(view, link, None, Leaving::Gone) {
        Ok(fate) => draft(State::Gone).fate(fate),
        Err(stop) => stopped(link.id, Some(link), stop),
    }
}

fn stopped(id: DefguardId, link: Option<&Link>, stop: Stop) -> Draft {
    match stop {
        // The whole decision is made anew once the answers are there.
        Stop::Pending => Draft::of(id, link, State::Withheld),
        Stop::Failed(failure) => Draft { failure: Some(*failure), ..Draft::of(id, link, State::Failed) },
        Stop::Waits(other) => Draft::of(id, link, State::Withheld).note(Note::WaitsFor { id: other }),
    }
}

/// Whoever gets no account must not open that of somebody who was renamed and whose old login is theirs now.
fn without_an_account(view: &View<'_>, mut draft: Draft, mapped: &Mapped) -> Result<Draft, Stop> {
    if let (None, Ok(subject)) = (&draft.link, &mapped.subject) {
        take_off(view, &mut draft, subject)?;
    }
    Ok(draft)
}

/// Takes a login that a person cannot get off the account of an owner whose it is no longer.
fn take_off(view: &View<'_>, draft: &mut Draft, subject: &Subject) -> Result<(), Stop> {
    let login = ExternalId::login(&view.scene.rules.auth_provider, subject);
    if let Some(account) = view.holder(&login)?
        && let Some(owner) = view.owner(account).filter(|owner| *owner != draft.id)
        && view.gives_up_subject(owner, account, subject, draft.id)
    {
        if view.is_held(owner, Harm::Relink) {
            return Err(Stop::Waits(owner));
        }
        draft.takes.entry(owner).or_default().ids.insert(login);
    }
    Ok(())
}

/// A person with a link: the account is given, its contents are the question.
struct Linked<'a> {
    view: &'a View<'a>,
    person: &'a Person,
    mapped: &'a Mapped,
    link: &'a Link,
}

impl Linked<'_> {
    fn draft(&self) -> Result<Draft, Stop> {
        let scene = self.view.scene;
        let mxid = &self.link.mxid;
        let idle = Draft::idle(self.person, Some(self.link), State::InStep);
        let Some(summary) = scene.accounts.get(mxid) else {
            return self.unusable(idle, Conflict::Vanished { mxid: mxid.clone() });
        };
        if summary.deactivated && self.link.lifecycle.deactivated.is_none() {
            return self.unusable(idle, Conflict::Deactivated { mxid: mxid.clone() });
        }
        let fate = stay(self.view, self.link, summary);
        if summary.deactivated || fate.rungs.iter().any(|rung| matches!(rung, Rung::Reactivate { .. })) {
            // What else is due is seen once the account is in use again.
            return Ok(idle.fate(fate));
        }
        let remembered = self.view.remembered(self.person.id);
        let subject_is_due =
            matches!(&self.mapped.subject, Ok(subject) if self.link.subject.as_ref() != Some(subject));
        let email_is_due = fields::email_is_due(scene.rules.email, self.mapped, Some(&self.link.applied));
        let look = scene.pass == Pass::Full
            || scene.afresh.contains(&self.person.id)
            || self.view.is_unfinished(self.person.id)
            || scene.migration.is_some()
            || ((subject_is_due || email_is_due) && remembered.is_none());
        let account = if look { self.view.account(mxid)? } else { None };
        if look && account.is_none() {
            return self.unusable(idle, Conflict::Vanished { mxid: mxid.clone() });
        }
        let mut draft = idle;
        if let Some(link) = &mut draft.link {
            link.username.clone_from(&self.person.username);
        }
        if let Ok(localpart) = &self.mapped.localpart
            && localpart.as_str() != mxid.localpart()
        {
            draft = draft.note(Note::WouldBe { mxid: Mxid::new(localpart, &scene.rules.server) });
        }
        draft = draft.fate(fate);
        if let Some(account) = account {
            if account.is_marked() && account.owner(&scene.rules.instance) != Some(self.person.id) {
                return self.unusable(draft, Conflict::MarkedForOther { mxid: mxid.clone() });
            }
            let old = self.link.subject.as_ref();
            let subject = identify(self.view, &mut draft, self.mapped, account, old);
            let policy = scene.rules.email;
            let email =
                address(self.view, &mut draft, self.mapped, account, Some(&self.link.applied), policy);
            subject?;
            email?;
        } else if let Some(conflicts) = remembered {
            let not_theirs =
                conflicts.iter().any(|conflict| matches!(conflict, Conflict::MarkedForOther { .. }));
            draft = draft.conflicts(conflicts);
            if not_theirs {
                return Ok(draft);
            }
        } else {
            if let Err(error) = &self.mapped.subject {
                let why = error.to_string();
                draft = draft.conflict(Conflict::Unmappable { field: MappedField::Subject, why });
            }
            let change = fields::email(scene.rules.email, self.mapped, Some(&self.link.applied), None);
            draft.notes.extend(change.note);
            if let Some(link) = &mut draft.link {
                link.applied.set_email(change.baseline);
            }
        }
        let shown = summary.display_name.as_deref();
        naming(self.view, &mut draft, self.mapped, shown, Some(&self.link.applied), scene.rules.display_name);
        Ok(draft)
    }

    /// Nothing can be done with the account; but this person's login must not open somebody else's either.
    fn unusable(&self, draft: Draft, conflict: Conflict) -> Result<Draft, Stop> {
        let mut draft = draft.conflict(conflict);
        if let (true, None, Ok(subject)) =
            (self.view.scene.complete, self.view.remembered(self.person.id), &self.mapped.subject)
        {
            take_off(self.view, &mut draft, subject)?;
        }
        Ok(draft)
    }
}

/// Marker and subject of an account that is the person's. `old` is the subject that we put there. With none known (the
/// link or its subject was lost, or could never be put there) all other logins of our provider count as old, even one
/// that an admin put there meanwhile: one left behind could open the account for whoever gets that username next.
fn identify(
    view: &View<'_>,
    draft: &mut Draft,
    mapped: &Mapped,
    account: &Account,
    old: Option<&Subject>,
) -> Result<(), Stop> {
    let rules = view.scene.rules;
    // Under a changed idp_id or subject_template, the login that the account carries so far.
    let so_far =
        view.scene.migration.zip(old).map(|(migration, old)| ExternalId::login(&migration.from, old));
    let so_far = so_far.filter(|login| account.external_ids.contains(login));
    if let Some(link) = &mut draft.link {
        // What somebody else, or a run that was cut short, took off is not there any more. What a migration has not come
        // to yet is still to be found by it.
        link.subject = link.subject.take().filter(|subject| {
            so_far.is_some()
                || account.external_ids.contains(&ExternalId::login(&rules.auth_provider, subject))
        });
    }
    let marker = ExternalId::marker(&rules.instance, draft.id);
    let login = match &mapped.subject {
        Ok(subject) => Some((subject, ExternalId::login(&rules.auth_provider, subject))),
        Err(error) => {
            let why = error.to_string();
            draft.conflicts.push(Conflict::Unmappable { field: MappedField::Subject, why });
            None
        }
    };
    if !view.scene.complete {
        let lacks = |id: &ExternalId| !account.external_ids.contains(id);
        if lacks(&marker) || login.is_some_and(|(_, login)| lacks(&login)) {
            draft.state = State::Withheld;
        }
        return Ok(());
    }
    if !account.external_ids.contains(&marker) {
        draft.gains.ids.insert(marker);
    }
    let Some((subject, login)) = login else { return Ok(()) };
    let former = draft.link.as_ref().map(|link| link.former.clone()).unwrap_or_default();
    // Of a login under a former idp_id or subject_template, only that which names somebody else by now.
    let renamed = old.filter(|old| *old != subject);
    let stale = |id: &ExternalId| renamed.is_some_and(|old| old.as_str() == id.external_id) && *id != login;
    // Whoever was renamed meanwhile does not keep the old name under the old idp_id either: it can be somebody else's.
    let same_template = view.scene.migration.is_some_and(|migration| migration.same_template);
    let known_as = view.scene.links.get(&draft.id).map(|link| &link.username);
    let person = view.scene.people.get(&draft.id);
    let was_renamed = (same_template && old.is_some_and(|old| old != subject))
        || known_as.zip(person).is_some_and(|(old, person)| *old != person.username);
    let so_far = so_far.filter(|so_far| *so_far != login);
    let begun = so_far.clone().filter(|_| !was_renamed);
    let keeps = |id: &ExternalId| {
        begun.as_ref() == Some(id)
            || (former.contains(id) && (id.auth_provider == rules.auth_provider || !stale(id)))
    };
    let mut drops: BTreeSet<ExternalId> = BTreeSet::new();
    // What a run that was cut short put there for a name that has changed again.
    let left_over = account.logins(&rules.auth_provider).filter(|id| **id != login && view.is_moving(id));
    drops.extend(left_over.filter(|id| !keeps(id)).cloned());
    let outdated = account
        .logins(&rules.auth_provider)
        .filter(|id| **id != login && !keeps(id))
        .filter(|id| old.is_none_or(|old| old.as_str() == id.external_id));
    drops.extend(outdated.cloned());
    drops.extend(former.iter().filter(|id| account.external_ids.contains(id) && !keeps(id)).cloned());
    drops.extend(so_far.filter(|id| !keeps(id)));
    let gains = !account.external_ids.contains(&login);
    let harm = if begun.is_some() { Harm::Migrate } else { Harm::Relink };
    if view.is_held(draft.id, harm) && (gains || !drops.is_empty()) {
        draft.notes.push(Note::Held { harm });
        return Ok(());
    }
    if gains {
        match view.claim_subject(draft.id, subject)? {
            Claim::Free => {}
            Claim::From(owner) => draft.takes.entry(owner).or_default().ids.extend([login.clone()]),
            Claim::Blocked(conflict) => {
                if let Some(link) = &mut draft.link {
                    link.former.extend(begun);
                }
                draft.conflicts.push(conflict);
                draft.drops.ids.extend(left_over_only(&drops, view));
                return take_off(view, draft, subject);
            }
        }
        draft.gains.ids.insert(login.clone());
    }
    if let Some(link) = &mut draft.link {
        link.former.retain(|id| !drops.contains(id) && *id != login);
        link.former.extend(begun);
        link.subject = Some(subject.clone());
    }
    draft.drops.ids.extend(drops);
    Ok(())
}

/// Of the logins that are to leave an account, those that leave it even if the right one cannot be put there.
fn left_over_only(drops: &BTreeSet<ExternalId>, view: &View<'_>) -> Vec<ExternalId> {
    drops.iter().filter(|id| view.is_moving(id)).cloned().collect()
}

/// The e-mail address of an account that is the person's.
fn address(
    view: &View<'_>,
    draft: &mut Draft,
    mapped: &Mapped,
    account: &Account,
    before: Option<&Applied>,
    policy: FieldPolicy,
) -> Result<(), Stop> {
    let change = fields::email(policy, mapped, before, Some(account));
    if change.drop.is_some() && view.is_held(draft.id, Harm::Email) {
        draft.notes.push(Note::Held { harm: Harm::Email });
        return Ok(());
    }
    draft.notes.extend(change.note);
    if let Some(email) = &change.gain {
        match view.claim_email(draft.id, Some(&account.summary.mxid), email)? {
            Claim::Free => {}
            Claim::From(_) if !view.scene.complete => return Ok(()),
            Claim::From(owner) => draft.takes.entry(owner).or_default().emails.extend([email.clone()]),
            Claim::Blocked(conflict) => {
                draft.conflicts.push(conflict);
                return Ok(());
            }
        }
    }
    draft.gains.emails.extend(change.gain);
    draft.drops.emails.extend(change.drop);
    if let Some(link) = &mut draft.link {
        link.applied.set_email(change.baseline);
    }
    Ok(())
}

/// The display name of an account that is the person's.
fn naming(
    view: &View<'_>,
    draft: &mut Draft,
    mapped: &Mapped,
    shown: Option<&str>,
    before: Option<&Applied>,
    policy: FieldPolicy,
) {
    let change = fields::name(policy, mapped, shown, before);
    if change.write.is_some() && view.is_held(draft.id, Harm::DisplayName) {
        draft.notes.push(Note::Held { harm: Harm::DisplayName });
        return;
    }
    draft.notes.extend(change.note);
    draft.name = change.write;
    if let Some(link) = &mut draft.link {
        link.applied.set_display_name(change.baseline);
    }
}

/// A person without a link: is there an account that is theirs already?
struct Unlinked<'a> {
    view: &'a View<'a>,
    person: &'a Person,
    mapped: &'a Mapped,
}

impl Unlinked<'_> {
    /// `None` if no account is tied to them, neither by marker nor by subject.
    fn draft(&self) -> Result<Option<Draft>, Stop> {
        let rules = self.view.scene.rules;
        let marked = self.view.holder(&ExternalId::marker(&rules.instance, self.person.id));
        let subject = self.mapped.subject.as_ref().ok();
        let opened =
            subject.map(|subject| self.view.holder(&ExternalId::login(&rules.auth_provider, subject)));
        let marked = marked?;
        let opened = opened.transpose()?.flatten();
        if let Some(account) = marked {
            let mxid = &account.summary.mxid;
            if let Some(owner) = self.view.linked_to(mxid) {
                let taken =
                    Conflict::LocalpartTaken { mxid: mxid.clone(), owner: Some(owner), not_adopted: None };
                return Ok(Some(Draft::idle(self.person, None, State::Conflict).conflict(taken)));
            }
            if account.owner(&rules.instance) != Some(self.person.id) {
                let conflict = Conflict::MarkedForOther { mxid: mxid.clone() };
                return Ok(Some(Draft::idle(self.person, None, State::Conflict).conflict(conflict)));
            }
            // Our own creation, interrupted after the marker was there: it may lack other things.
            let (state, made) = if self.view.begun_creation(self.person.id).as_ref() == Some(mxid) {
                (State::Create, Change::Created)
            } else {
                (State::Relink, Change::Relinked)
            };
            return self.take(account, state, made).map(Some);
        }
        let idle = Draft::idle(self.person, None, State::Conflict);
        if let Err(error) = &self.mapped.subject {
            let why = error.to_string();
            return Ok(Some(idle.conflict(Conflict::Unmappable { field: MappedField::Subject, why })));
        }
        if let Some(mxid) = self.view.begun_creation(self.person.id)
            && let Some(account) = self.view.account(&mxid)?
            && self.view.is_still_nobodys(account)
        {
            return self.take(account, State::Create, Change::Created).map(Some);
        }
        let Some(account) = opened else { return Ok(None) };
        let mxid = account.summary.mxid.clone();
        match self.view.owner(account) {
            Some(owner)
                if subject.is_some_and(|subject| {
                    self.view.gives_up_subject(owner, account, subject, self.person.id)
                }) =>
            {
                Ok(None)
            }
            _ if let Some(people) = subject.and_then(|subject| self.view.subject_twins(subject)) => {
                Ok(Some(idle.conflict(Conflict::SubjectTwins { people })))
            }
            Some(owner) => Ok(Some(idle.conflict(Conflict::UsernameReused { mxid, owner }))),
            None => match self.view.adoption(account, self.mapped, subject) {
                Ok(()) => self.take(account, State::Adopt, Change::Adopted).map(Some),
                Err(not_adopted) => Ok(Some(idle.conflict(Conflict::LoggedInBefore { mxid, not_adopted }))),
            },
        }
    }

    fn take(&self, account: &Account, state: State, made: Change) -> Result<Draft, Stop> {
        take(self.view, self.person, self.mapped, account, state, made)
    }
}

/// Makes an account that exists this person's.
pub(super) fn take(
    view: &View<'_>,
    person: &Person,
    mapped: &Mapped,
    account: &Account,
    state: State,
    made: Change,
) -> Result<Draft, Stop> {
    let mxid = account.summary.mxid.clone();
    let link = Link {
        id: person.id,
        username: person.username.clone(),
        subject: None,
        mxid: mxid.clone(),
        applied: Applied::default(),
        lifecycle: Lifecycle::default(),
        former: BTreeSet::new(),
    };
    if state == State::Adopt && view.is_held(person.id, Harm::Adopt) {
        let held = Draft { mxid: Some(mxid), ..Draft::idle(person, None, State::Held) };
        return Ok(held.note(Note::Held { harm: Harm::Adopt }));
    }
    let mut draft = Draft::idle(person, Some(&link), state);
    if account.summary.deactivated {
        draft.state = State::Conflict;
        draft.link = None;
        return Ok(draft.conflict(Conflict::Deactivated { mxid }));
    }
    // What our own interrupted creation left undone is written as at a creation.
    let unfinished = made == Change::Created;
    let policy = |policy| match policy {
        FieldPolicy::Ignore => FieldPolicy::Ignore,
        _ if unfinished => FieldPolicy::Enforce,
        policy => policy,
    };
    // Logins that others put on an account that we adopt stay; on one that carries our marker or that we made they are
    // outdated.
    let only_ours = Subject::new("");
    let old = if state == State::Adopt { Some(&only_ours) } else { None };
    let subject = identify(view, &mut draft, mapped, account, old);
    let email = address(view, &mut draft, mapped, account, None, policy(view.scene.rules.email));
    subject?;
    email?;
    let shown = account.summary.display_name.as_deref();
    naming(view, &mut draft, mapped, shown, None, policy(view.scene.rules.display_name));
    draft.made = Some(made);
    Ok(draft)
}

/// Who gets which account by this decision, and who cannot all get the same.
struct Given<'a> {
    accounts: BTreeMap<Mxid, DefguardId>,
    /// The localparts that several people without an account would get.
    twins: BTreeMap<&'a Localpart, Twins>,
}

impl<'a> Given<'a> {
    fn new(view: &View<'a>, drafts: &BTreeMap<DefguardId, Draft>) -> Self {
        let without = |id: &DefguardId| drafts.get(id).is_none_or(|draft| draft.link.is_none());
        let twins = view.claimants().filter_map(|(localpart, people)| {
            let people: Vec<DefguardId> = people.iter().copied().filter(without).collect();
            (people.len() > 1).then(|| (localpart, Twins::of(&people)))
        });
        let mut given = Self { accounts: BTreeMap::new(), twins: twins.collect() };
        drafts.values().for_each(|draft| given.add(draft));
        given
    }

    fn add(&mut self, draft: &Draft) {
        if let (Some(_), Some(mxid)) = (&draft.link, &draft.mxid) {
            self.accounts.insert(mxid.clone(), draft.id);
        }
    }
}

/// A person to whom no account is tied: they get the one that the templates name.
struct Newcomer<'a> {
    view: &'a View<'a>,
    person: &'a Person,
    mapped: &'a Mapped,
}

impl Newcomer<'_> {
    fn draft(&self, given: &Given<'_>) -> Result<Draft, Stop> {
        let idle = Draft::idle(self.person, None, State::Conflict);
        let rules = self.view.scene.rules;
        let localpart = match &self.mapped.localpart {
            Ok(localpart) => localpart,
            Err(error) => {
                let why = error.to_string();
                return Ok(idle.conflict(Conflict::Unmappable { field: MappedField::Localpart, why }));
            }
        };
        let mxid = Mxid::new(localpart, &rules.server);
        let suffix = rules.on_conflict == OnConflict::Suffix;
        if let Some(people) = given.twins.get(localpart).filter(|_| !suffix) {
            return Ok(idle.conflict(Conflict::LocalpartTwins { mxid, people: people.clone() }));
        }
        if !self.view.is_taken(&mxid) && !given.accounts.contains_key(&mxid) {
            return self.create(mxid);
        }
        if suffix {
            return match self.view.free_with_suffix(localpart, |mxid| given.accounts.contains_key(mxid)) {
                Some(mxid) => self.create(mxid),
                None => Ok(idle.conflict(Conflict::LocalpartTaken { mxid, owner: None, not_adopted: None })),
            };
        }
        let Some(account) = self.view.account(&mxid)? else {
            // Only another spelling of the localpart exists; Synapse refuses this one as well.
            return Ok(idle.conflict(Conflict::LocalpartTaken { mxid, owner: None, not_adopted: None }));
        };
        let owner = self.view.owner(account).or_else(|| given.accounts.get(&mxid).copied());
        if owner.is_some() {
            return Ok(idle.conflict(Conflict::LocalpartTaken { mxid, owner, not_adopted: None }));
        }
        match self.view.adoption(account, self.mapped, None) {
            Ok(()) => take(self.view, self.person, self.mapped, account, State::Adopt, Change::Adopted),
            Err(not_adopted) => Ok(idle.conflict(Conflict::LocalpartTaken { mxid, owner, not_adopted })),
        }
    }

    fn create(&self, mxid: Mxid) -> Result<Draft, Stop> {
        let rules = self.view.scene.rules;
        let idle = Draft::idle(self.person, None, State::Conflict);
        let subject = match &self.mapped.subject {
            Ok(subject) => subject,
            Err(error) => {
                let why = error.to_string();
                return Ok(idle.conflict(Conflict::Unmappable { field: MappedField::Subject, why }));
            }
        };
        let login = ExternalId::login(&rules.auth_provider, subject);
        let mut draft = Draft::idle(self.person, None, State::Create);
        match self.view.claim_subject(self.person.id, subject)? {
            Claim::Free => {}
            Claim::From(owner) => draft.takes.entry(owner).or_default().ids.extend([login.clone()]),
            Claim::Blocked(conflict) => return Ok(idle.conflict(conflict)),
        }
        let mut applied = Applied::default();
        match &self.mapped.email {
            _ if rules.email == FieldPolicy::Ignore => applied.set_email(None),
            Ok(None) => {}
            Ok(Some(email)) => match self.view.claim_email(self.person.id, None, email)? {
                // They get their account without it; it stays due.
                Claim::Blocked(conflict) => draft = draft.conflict(conflict),
                claim => {
                    if let Claim::From(owner) = claim {
                        draft.takes.entry(owner).or_default().emails.insert(email.clone());
                    }
                    draft.gains.emails.insert(email.clone());
                    applied.email = Some(email.clone());
                }
            },
            Err(error) => {
                draft = draft.note(Note::NoValue { field: MappedField::Email, why: error.to_string() });
            }
        }
        match &self.mapped.display_name {
            Ok(name) => applied.display_name.clone_from(name),
            Err(error) => {
                draft = draft.note(Note::NoValue { field: MappedField::DisplayName, why: error.to_string() });
            }
        }
        draft.name = applied.display_name.clone().filter(|_| rules.display_name != FieldPolicy::Ignore);
        draft.gains.ids.insert(ExternalId::marker(&rules.instance, self.person.id));
        draft.gains.ids.insert(login);
        draft.new = true;
        draft.made = Some(Change::Created);
        draft.mxid = Some(mxid.clone());
        draft.link = Some(Link {
            id: self.person.id,
            username: self.person.username.clone(),
            subject: Some(subject.clone()),
            mxid,
            applied,
            lifecycle: Lifecycle::default(),
            former: BTreeSet::new(),
        });
        Ok(draft)
    }
}
