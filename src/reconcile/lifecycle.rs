//! The off-boarding ladder: who is taken out of use, how sure that has to be, and who comes back.

use chrono::{DateTime, Utc};

use super::{
    plan::{Note, Rung},
    rules::Rules,
    view::{Stop, View},
};
use crate::domain::{
    Account, AccountSummary, Away, DefguardId, Harm, Leaving, Lifecycle, Link, Mxid, OnLeave,
    OurDeactivation, OurLock, Person, SessionsOnLock,
};

/// What the ladder means for one linked person.
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// What is done to the account, in order.
    pub(super) rungs: Vec<Rung>,
    /// Where the link is on the ladder when all is done.
    pub(super) lifecycle: Lifecycle,
    /// What an admin may want to know.
    pub(super) notes: Vec<Note>,
}

impl Fate {
    /// Nothing is done.
    pub(super) fn of(lifecycle: Lifecycle) -> Self {
        Self { lifecycle, ..Self::default() }
    }

    fn note(mut self, note: Note) -> Self {
        self.notes.push(note);
        self
    }
}

/// Somebody with a link who is wanted: what we took away is given back, and only that.
pub(super) fn stay(view: &View<'_>, link: &Link, summary: &AccountSummary) -> Fate {
    let mut fate = Fate { lifecycle: link.lifecycle.clone(), ..Fate::default() };
    let life = &mut fate.lifecycle;
    life.away = None;
    let harm = Harm::Restore;
    if life.is_off_boarded() && view.is_held(link.id, harm) {
        return fate.note(Note::Held { harm });
    }
    if let Some(ours) = life.deactivated.take()
        && (summary.deactivated || ours.restoring)
    {
        fate.rungs.push(Rung::Reactivate { threepids: ours.threepids });
    }
    match life.locked.take() {
        Some(ours) if summary.locked => fate.rungs.push(Rung::Unlock(ours.why)),
        None if summary.locked => fate.notes.push(Note::Locked),
        _ => {}
    }
    fate
}

/// Somebody with a link who is disabled, gone or out of scope. `person` is what the list shows of them.
pub(super) fn leave(
    view: &View<'_>,
    link: &Link,
    person: Option<&Person>,
    why: Leaving,
) -> Result<Fate, Stop> {
    let scene = view.scene;
    let policy = scene.rules.off_boarding.on(why);
    let mut fate = Fate { lifecycle: link.lifecycle.clone(), ..Fate::default() };
    if why == Leaving::Disabled || policy == OnLeave::Ignore {
        fate.lifecycle.away = None;
    }
    let Some(summary) = scene.accounts.get(&link.mxid) else { return Ok(fate) };
    if policy == OnLeave::Ignore {
        return Ok(if summary.locked { fate } else { fate.note(Note::LeftAlone { why }) });
    }
    if let Some(settled) = by_others(&mut fate.lifecycle, summary) {
        return Ok(fate.note(settled));
    }
    if let Some(ours) = &fate.lifecycle.deactivated {
        let at = ours.at;
        return Ok(fate.note(Note::DeactivatedByUs { at }));
    }
    if let Some(protected) = protected(scene.rules, summary) {
        fate.lifecycle.away = None;
        return Ok(fate.note(protected));
    }
    let proved = fate.lifecycle.locked.as_ref().is_some_and(|locked| locked.why == why);
    let in_question = why != Leaving::Disabled && !proved;
    if in_question && let Some(not_yet) = count(view, why, &mut fate.lifecycle) {
        return Ok(fate.note(not_yet));
    }
    if summary.admin && !scene.rules.off_boarding.off_board_admins {
        return Ok(fate.note(Note::AdminLeaver { why }));
    }
    if in_question && person.is_none() && is_still_there(view, link)? {
        fate.lifecycle.away = None;
        return Ok(fate.note(Note::PassedOver));
    }
    if fate.lifecycle.locked.is_some() {
        deactivate(view, link, person, why, fate)
    } else {
        lock(view, link, why, fate)
    }
}

/// What others did to the account since we last did something. It stays, and we go no further.
fn by_others(life: &mut Lifecycle, summary: &AccountSummary) -> Option<Note> {
    match (&life.deactivated, summary.deactivated) {
        (None, true) => return Some(Note::NoAccountInUse),
        (Some(ours), false) if ours.restoring => life.deactivated = None,
        (Some(_), false) => return Some(Note::ReactivatedByOthers),
        _ => {}
    }
    match (&life.locked, summary.locked) {
        (None, true) => Some(Note::Locked),
        (Some(_), false) => {
            // Whoever left has no use of the account, whoever took our lock off.
            life.locked = None;
            None
        }
        _ => None,
    }
}

/// Why an account is never off-boarded, as far as the list of accounts shows it.
pub(super) fn protected(rules: &Rules, summary: &AccountSummary) -> Option<Note> {
    let because = |why: &str| Some(Note::Protected { why: why.to_owned() });
    if summary.mxid == rules.own {
        because("it is the account that this service itself uses")
    } else if rules.off_boarding.protects(&summary.mxid) {
        because("it is in off_boarding.protect")
    } else if summary.guest {
        because("it is a guest")
    } else if summary.user_type.is_some() {
        because("it is a bot or of another special user type")
    } else {
        None
    }
}

/// Counts an absence; says how far it is as long as it has not lasted.
fn count(view: &View<'_>, why: Leaving, life: &mut Lifecycle) -> Option<Note> {
    let scene = view.scene;
    let rules = &scene.rules.off_boarding;
    let needed = rules.absence_confirmations.max(1);
    let away = counted(life.away.as_ref(), why, scene.now, scene.last_look, scene.complete, needed);
    let Some(away) = away else { return Some(Note::Missed) };
    let not_before = away.since + rules.absence_min_age;
    let (since, runs) = (away.since, away.runs);
    life.away = Some(away);
    let lasted = scene.complete && runs >= needed && scene.now >= not_before;
    (!lasted).then_some(Note::Away { why, since, runs, needed, not_before })
}

/// The absence after this run; `None` if an incomplete list says nothing and nothing was counted before.
fn counted(
    before: Option<&Away>,
    why: Leaving,
    now: DateTime<Utc>,
    last_look: Option<DateTime<Utc>>,
    complete: bool,
    needed: u32,
) -> Option<Away> {
    // A clock that was put back makes it begin anew.
    match before.filter(|away| away.why == why && away.since <= now) {
        Some(away) if complete => Some(Away { runs: (away.runs + 1).min(needed), ..away.clone() }),
        Some(away) => Some(away.clone()),
        None if complete => Some(Away { why, since: now, runs: 1, last_seen: last_look }),
        None => None,
    }
}

/// Whether Defguard knows the missing person after all: under their last username, or, after a rename, under a name that
/// stands in a group and that the list does not show (`docs/facts/defguard.md` section 3).
fn is_still_there(view: &View<'_>, link: &Link) -> Result<bool, Stop> {
    let by_name = view.person(&link.username);
    let members = view.group_members();
    let (by_name, members) = (by_name?, members?);
    if by_name.is_some_and(|person| person.id == link.id) {
        return Ok(true);
    }
    // All are asked for before the first answer is used, so that one round of questions does.
    let unknown: Vec<_> = members
        .iter()
        .filter(|name| !view.is_listed(name) && **name != link.username)
        .map(|name| view.person(name))
        .collect();
    for person in unknown {
        if person?.is_some_and(|person| person.id == link.id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The account as it is, if it is one that we may take out of use.
fn ours<'a>(view: &View<'a>, link: &Link) -> Result<Result<&'a Account, Note>, Stop> {
    let Some(account) = view.account(&link.mxid)? else { return Ok(Err(Note::NoAccountInUse)) };
    let because = |why: &str| Ok(Err(Note::Protected { why: why.to_owned() }));
    if account.appservice.is_some() {
        return because("it belongs to an application service");
    }
    if account.is_marked() && account.owner(&view.scene.rules.instance) != Some(link.id) {
        return because("it carries the ownership marker of somebody else");
    }
    Ok(Ok(account))
}

fn lock(view: &View<'_>, link: &Link, why: Leaving, mut fate: Fate) -> Result<Fate, Stop> {
    let harm = harm_of(why);
    if view.is_held(link.id, harm) {
        return Ok(fate.note(Note::Held { harm }));
    }
    if let Err(note) = ours(view, link)? {
        return Ok(fate.note(note));
    }
    let end_sessions = view.scene.rules.off_boarding.sessions(why) == SessionsOnLock::End;
    fate.rungs.push(Rung::Lock { why, end_sessions });
    if end_sessions {
        fate.rungs.push(Rung::EndSessions(why));
    }
    fate.lifecycle.locked = Some(OurLock { why, at: view.scene.now, sessions_due: false });
    Ok(fate)
}

/// Somebody whom we locked in an earlier run: they may have gone further away since, and their time may have come.
fn deactivate(
    view: &View<'_>,
    link: &Link,
    person: Option<&Person>,
    why: Leaving,
    mut fate: Fate,
) -> Result<Fate, Stop> {
    let scene = view.scene;
    let rules = &scene.rules.off_boarding;
    let Some(locked) = fate.lifecycle.locked.clone() else { return Ok(fate) };
    let ended = |why| rules.sessions(why) == SessionsOnLock::End;
    if locked.sessions_due || (locked.why != why && ended(why) && !ended(locked.why)) {
        let harm = Harm::EndSessions;
        if view.is_held(link.id, harm) {
            return Ok(fate.note(Note::Held { harm }));
        }
        fate.rungs.push(Rung::EndSessions(why));
    }
    fate.lifecycle.locked = Some(OurLock { why, at: locked.at, sessions_due: false });
    let due = rules.deactivation_due(&fate.lifecycle, why);
    fate.notes.push(Note::LockedByUs { why, at: locked.at });
    let Some(due) = due else { return Ok(fate) };
    if scene.now < due {
        return Ok(fate.note(Note::DeactivationDue { at: due }));
    }
    let harm = Harm::Deactivate;
    if view.is_held(link.id, harm) {
        return Ok(fate.note(Note::Held { harm }));
    }
    if person.is_none() && is_still_there(view, link)? {
        return Ok(fate.note(Note::PassedOver));
    }
    match ours(view, link)? {
        Err(note) => Ok(fate.note(note)),
        Ok(account) => {
            fate.rungs.push(Rung::Deactivate(why));
            fate.lifecycle.deactivated = Some(OurDeactivation {
                at: scene.now,
                threepids: account.threepids.clone(),
                restoring: false,
            });
            Ok(fate)
        }
    }
}

/// What the guard counts a lock as.
pub(super) fn harm_of(why: Leaving) -> Harm {
    match why {
        Leaving::Disabled => Harm::LockDisabled,
        Leaving::Gone => Harm::LockGone,
        Leaving::OutOfScope => Harm::LockOutOfScope,
    }
}

/// The sessions of an account that somebody else may have opened, because its owner's username is theirs by now.
pub(super) fn stranger_sessions(
    view: &View<'_>,
    owner: DefguardId,
    mxid: &Mxid,
) -> Result<Option<Note>, Stop> {
    let Some(sessions) = view.sessions(mxid)? else { return Ok(None) };
    let away = view.scene.links.get(&owner).and_then(|link| link.lifecycle.away.as_ref());
    let since = match away {
        Some(away) => away.last_seen,
        None => view.scene.last_look,
    };
    let later = |at: Option<DateTime<Utc>>| since.is_none_or(|since| at.is_none_or(|at| at >= since));
    let sessions: std::collections::BTreeSet<_> =
        sessions.iter().filter(|session| later(session.last_used)).cloned().collect();
    Ok((!sessions.is_empty()).then_some(Note::StrangerSessions { sessions, since }))
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, TimeZone};

    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 11, 1, 8, 0, 0).unwrap() + TimeDelta::minutes(minutes)
    }

    #[test]
    fn an_absence_is_counted_by_complete_lists_only() {
        let first = counted(None, Leaving::Gone, at(0), None, true, 2).unwrap();
        assert_eq!((first.runs, first.since), (1, at(0)));
        let same = counted(Some(&first), Leaving::Gone, at(5), None, false, 2).unwrap();
        assert_eq!(same, first, "an incomplete list neither counts nor forgets");
        let second = counted(Some(&first), Leaving::Gone, at(10), None, true, 2).unwrap();
        assert_eq!((second.runs, second.since), (2, at(0)));
        assert_eq!(counted(Some(&second), Leaving::Gone, at(15), None, true, 2).unwrap(), second);
        assert_eq!(counted(None, Leaving::Gone, at(0), None, false, 2), None);
    }

    #[test]
    fn an_absence_of_another_kind_and_one_from_the_future_begin_anew() {
        let gone = counted(None, Leaving::Gone, at(0), None, true, 2).unwrap();
        let other = counted(Some(&gone), Leaving::OutOfScope, at(40), None, true, 2).unwrap();
        assert_eq!((other.runs, other.since), (1, at(40)));
        let earlier = counted(Some(&gone), Leaving::Gone, at(-40), None, true, 2).unwrap();
        assert_eq!((earlier.runs, earlier.since), (1, at(-40)));
    }
}
