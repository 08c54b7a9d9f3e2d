//! Changes that an admin asks for by name: tying a person to an account, and untying them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    decide::take,
    draft::order,
    plan::{Group, State},
    scene::{Question, Scene},
    transfer::{Hands, Things},
    view::{Stop, View},
};
use crate::domain::{Account, Change, Conflict, DefguardId, ExternalId, Failure, Link, Mapped, Mxid};

/// What an admin asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub enum ByHand {
    /// This account is this person's.
    Link {
        /// The person: username or `#` and id.
        person: String,
        /// The account.
        mxid: String,
    },
    /// The account that is linked to this person is not theirs any more.
    Unlink {
        /// The person: username, `#` and id, or MXID.
        person: String,
    },
}

/// What comes of it.
#[derive(Debug, Clone)]
pub enum HandDecision {
    /// These things have to be found out first.
    Ask(BTreeSet<Question>),
    /// It is not done; why.
    Refused(String),
    /// It could not be found out.
    Failed(Failure),
    /// This is to be done, and this should be known before.
    Do {
        /// The work.
        group: Group,
        /// What the admin should know before they say yes.
        warnings: Vec<String>,
    },
}

enum No {
    Refused(String),
    Stop(Stop),
}

impl From<Stop> for No {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// Decides on a change by hand for the person `id`; `mxid` is the account to link, `None` to unlink.
pub fn decide_by_hand(scene: &Scene<'_>, id: DefguardId, mxid: Option<&Mxid>) -> HandDecision {
    let view = View::new(scene);
    let outcome = match mxid {
        Some(mxid) => link(&view, id, mxid),
        None => unlink(&view, id),
    };
    match outcome {
        Ok((group, warnings)) => HandDecision::Do { group, warnings },
        Err(No::Refused(why)) => HandDecision::Refused(why),
        Err(No::Stop(Stop::Failed(failure))) => HandDecision::Failed(*failure),
        Err(No::Stop(Stop::Waits(other))) => {
            HandDecision::Refused(format!("#{other} comes first, and failed lately; see `status`"))
        }
        Err(No::Stop(Stop::Pending)) => HandDecision::Ask(view.into_questions()),
    }
}

fn link(view: &View<'_>, id: DefguardId, mxid: &Mxid) -> Result<(Group, Vec<String>), No> {
    let scene = view.scene;
    let rules = scene.rules;
    let refuse = |why: String| Err(No::Refused(why));
    let (Some(person), Some(mapped)) = (scene.people.get(&id), scene.mapped.get(&id)) else {
        return refuse(format!("the list of people in Defguard does not show #{id}"));
    };
    // A link that lacks its login, because another account has it, is made good by saying it once more.
    let lacks_login =
        |link: &Link| link.mxid == *mxid && link.subject.as_ref() != mapped.subject.as_ref().ok();
    if let Some(link) = scene.links.get(&id).filter(|link| !lacks_login(link)) {
        return refuse(if link.mxid == *mxid {
            format!("{mxid} is already theirs")
        } else {
            format!("they are linked to {}; take that link off first with `unlink`", link.mxid)
        });
    }
    if !scene.complete {
        return refuse("the list of people in Defguard could not be read completely; try again".to_owned());
    }
    if *mxid == rules.own {
        return refuse(format!("{mxid} is the account that this service itself uses"));
    }
    if let Some(other) = view.linked_to(mxid).filter(|other| *other != id) {
        return refuse(format!(
            "{mxid} is linked to #{other}; take that link off first with `unlink '#{other}'`"
        ));
    }
    let Some(account) = view.account(mxid)? else {
        return refuse(format!("there is no account {mxid} on the homeserver"));
    };
    if account.summary.guest || account.appservice.is_some() {
        return refuse(format!("{mxid} is a guest or belongs to an application service (bridge)"));
    }
    if account.summary.deactivated {
        return refuse(format!("{mxid} is deactivated; reactivate it in Synapse first"));
    }
    if account.is_marked() && account.owner(&rules.instance) != Some(id) {
        return refuse(format!("{mxid} carries the ownership marker of somebody else"));
    }
    let mut warnings = Vec::new();
    if account.summary.admin {
        warnings
            .push(format!("{mxid} is a server admin: whoever is #{id} in Defguard can then log in as it"));
    }
    if let Some(kind) = &account.summary.user_type {
        warnings.push(format!("{mxid} has the user type {kind}"));
    }
    if account.summary.locked {
        warnings.push(format!("{mxid} is locked and stays so"));
    }
    let mut draft = take(view, person, mapped, account, State::Adopt, Change::Linked)?;
    let mut hands = Vec::new();
    if let Some(other) = view.holder(&ExternalId::marker(&rules.instance, id))?
        && other.summary.mxid != *mxid
    {
        hands.push(let_go(view, id, mapped, other)?);
        warnings.push(format!(
            "{} was theirs so far: it loses our marker and their login, and its sessions go on",
            other.summary.mxid
        ));
    }
    let mut left = Vec::new();
    for conflict in std::mem::take(&mut draft.conflicts) {
        match (&conflict, &mapped.subject) {
            (Conflict::SubjectTaken { mxid: other }, Ok(subject)) => {
                let login = ExternalId::login(&rules.auth_provider, subject);
                warnings.push(format!("their login opens {other} today; from now on it opens {mxid}"));
                draft.gains.ids.insert(login.clone());
                if let Some(link) = &mut draft.link {
                    link.subject = Some(subject.clone());
                }
                let drops = Things { ids: BTreeSet::from([login]), ..Things::default() };
                hands.push(Hands { id, mxid: other.clone(), new: false, gains: Things::default(), drops });
            }
            (Conflict::EmailTaken { .. } | Conflict::EmailTwins { .. }, _) => {
                warnings.push(format!("{conflict}: the address is left where it is"));
                left.push(conflict);
            }
            _ => return refuse(conflict.to_string()),
        }
    }
    draft.conflicts = left;
    if !draft.takes.is_empty() {
        let others = draft.takes.keys().map(|other| format!("#{other}")).collect::<Vec<_>>().join(", ");
        return refuse(format!("something of theirs is still on the account of {others}; run `sync` first"));
    }
    let foreign = account.logins(&rules.auth_provider).filter(|login| !draft.gains.ids.contains(login));
    for login in
        foreign.filter(|login| mapped.subject.as_ref().is_ok_and(|own| own.as_str() != login.external_id))
    {
        warnings.push(format!("{mxid} also opens for the login {}, which stays", login.external_id));
    }
    hands.extend(draft.hands());
    let mut group = order(id, &[&draft], &hands);
    group.links = BTreeMap::from([(id, draft.link.clone())]);
    Ok((group, warnings))
}

/// What an account of theirs to which no link leads gives up: our marker and their login.
fn let_go(view: &View<'_>, id: DefguardId, mapped: &Mapped, account: &Account) -> Result<Hands, No> {
    let rules = view.scene.rules;
    let mxid = account.summary.mxid.clone();
    if let Some(other) =
        view.linked_to(&mxid).or_else(|| account.owner(&rules.instance)).filter(|it| *it != id)
    {
        return Err(No::Refused(format!(
            "{mxid} carries the ownership marker of #{id} and is the account of #{other}; take the marker off it in \
             Synapse first"
        )));
    }
    let login = mapped.subject.as_ref().ok().map(|subject| ExternalId::login(&rules.auth_provider, subject));
    let ours = [Some(ExternalId::marker(&rules.instance, id)), login].into_iter().flatten();
    let ids = ours.filter(|id| account.external_ids.contains(id)).collect();
    let drops = Things { ids, ..Things::default() };
    Ok(Hands { id, mxid, new: false, gains: Things::default(), drops })
}

fn unlink(view: &View<'_>, id: DefguardId) -> Result<(Group, Vec<String>), No> {
    let scene = view.scene;
    let marker = ExternalId::marker(&scene.rules.instance, id);
    let mut warnings = Vec::new();
    let hands = if let Some(link) = scene.links.get(&id) {
        let mut drops = Things::default();
        match view.account(&link.mxid)? {
            None => warnings
                .push(format!("{} is not on the homeserver any more; only the link is removed", link.mxid)),
            Some(account) if account.is_marked() && !account.external_ids.contains(&marker) => {
                warnings.push(format!(
                    "{} carries the ownership marker of somebody else and stays as it is; only the link is removed",
                    link.mxid
                ));
            }
            Some(account) => {
                let subject = link.subject.as_ref();
                let login = subject.map(|subject| ExternalId::login(&scene.rules.auth_provider, subject));
                let ours = [Some(marker), login].into_iter().flatten();
                drops.ids.extend(ours.filter(|id| account.external_ids.contains(id)));
                warnings
                    .push(format!("their login does not open {} any more; its sessions go on", link.mxid));
                if link.applied.email.as_ref().is_some_and(|email| account.has_email(email)) {
                    warnings.push(format!(
                        "the e-mail address that Defguard has for them stays on {}; take it off in Synapse if the account \
                         is not theirs",
                        link.mxid
                    ));
                }
            }
        }
        Hands { id, mxid: link.mxid.clone(), new: false, gains: Things::default(), drops }
    } else {
        let (Some(account), Some(mapped)) = (view.holder(&marker)?, scene.mapped.get(&id)) else {
            return Err(No::Refused(format!("#{id} is linked to no account, and none carries their marker")));
        };
        let mxid = &account.summary.mxid;
        warnings.push(format!("their login does not open {mxid} any more; its sessions go on"));
        let_go(view, id, mapped, account)?
    };
    if scene.people.get(&id).is_some_and(|person| person.is_active) {
        let named = scene.mapped.get(&id).and_then(|mapped| mapped.localpart.as_ref().ok());
        warnings.push(match named.map(|localpart| Mxid::new(localpart, &scene.rules.server)) {
            Some(mxid) if mxid == hands.mxid => format!(
                "#{id} is active: unless they are linked to another account, the next sync reports that {mxid} is in the \
                 way, or deals with it as `on_conflict` says"
            ),
            Some(mxid) => format!("#{id} is active: the next sync looks for {mxid}, which the templates give"),
            None => format!("#{id} is active, and the templates give them no account of their own"),
        });
    }
    let mut group = order(id, &[], &[hands]);
    group.people = BTreeSet::from([id]);
    group.links = BTreeMap::from([(id, None)]);
    group.made = BTreeMap::from([(id, Change::Unlinked)]);
    // Done because somebody asked for it, whatever Defguard says about the person.
    group.confirm = false;
    Ok((group, warnings))
}
