//! What the ownership marker on one account says about our links.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::Rules;
use crate::domain::{
    Account, Applied, DefguardId, ExternalId, Lifecycle, Link, Mapped, MappedField, Mxid, Person, Subject,
    Username,
};

/// What an account is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It carries no marker of ours.
    NotOurs,
    /// The link that we have says the same.
    Known(DefguardId),
    /// The link as the account shows it.
    Link(Box<Link>),
    /// Marker and links contradict each other.
    Contradiction {
        /// Whom the marker names.
        id: DefguardId,
        /// What contradicts what.
        why: String,
    },
}

/// Finds the link of one account. A link that says the same is believed only if our memory is `trusted`, which an old copy
/// is not; else the account is looked at as if nothing were known of it. A link that says something else is left alone.
pub fn find_link(
    account: &Account,
    rules: &Rules,
    links: &BTreeMap<DefguardId, Link>,
    linked_to: &BTreeMap<Mxid, DefguardId>,
    person: impl Fn(DefguardId) -> (Option<Person>, Option<Mapped>),
    trusted: bool,
) -> Found {
    let mxid = &account.summary.mxid;
    let marked: Vec<DefguardId> =
        account.external_ids.iter().filter_map(|id| id.marked_person(&rules.instance)).collect();
    let Some(id) = marked.first().copied() else { return Found::NotOurs };
    let contradiction = |why: String| Found::Contradiction { id, why };
    if marked.len() > 1 {
        let people = marked.iter().map(|id| format!("#{id}")).collect::<Vec<_>>().join(" and ");
        return contradiction(format!("{mxid} carries the ownership markers of {people}"));
    }
    let known = links.get(&id);
    if let Some(link) = known.filter(|link| link.mxid != *mxid) {
        return contradiction(format!(
            "{mxid} carries the ownership marker of #{id}, who is linked to {} here",
            link.mxid
        ));
    }
    if let Some(other) = linked_to.get(mxid).filter(|other| **other != id) {
        return contradiction(format!(
            "{mxid} carries the ownership marker of #{id} and is linked to #{other} here"
        ));
    }
    if trusted && known.is_some() {
        return Found::Known(id);
    }
    let (listed, mapped) = person(id);
    let subject = subject(account, rules, mapped.as_ref());
    let username = listed
        .map(|person| person.username)
        .or_else(|| known.map(|link| link.username.clone()))
        .unwrap_or_else(|| {
            Username::new(subject.as_ref().map_or_else(|| mxid.localpart().to_owned(), ToString::to_string))
        });
    let former = known.map(|link| &link.former & &account.external_ids).unwrap_or_default();
    let link = Link {
        id,
        username,
        subject,
        mxid: mxid.clone(),
        applied: Applied {
            unseen: BTreeSet::from([MappedField::DisplayName, MappedField::Email]),
            ..Applied::default()
        },
        // Nothing tells whose a lock is, so it counts as somebody else's.
        lifecycle: Lifecycle::default(),
        former,
    };
    if known == Some(&link) { Found::Known(id) } else { Found::Link(Box::new(link)) }
}

/// The subject that the account carries. Of several, the one that the person has now.
fn subject(account: &Account, rules: &Rules, mapped: Option<&Mapped>) -> Option<Subject> {
    let logins: Vec<&ExternalId> = account.logins(&rules.auth_provider).collect();
    let wanted = mapped.and_then(|mapped| mapped.subject.as_ref().ok());
    match logins.as_slice() {
        [only] => Some(Subject::new(only.external_id.as_str())),
        several => {
            wanted.filter(|wanted| several.iter().any(|id| id.external_id == wanted.as_str())).cloned()
        }
    }
}
