//! Which accounts that are there already are whose: for a homeserver that had people before it was joined to Defguard.
//! A match is a proposal; an account becomes somebody's by `link` only, for which an admin has to say yes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{
    scene::{Question, Scene},
    view::{Stop, View, digest},
};
use crate::domain::{
    Account, Certainty, DefguardId, ExternalId, Failure, Lookup, Mapped, Mxid, Person, Username,
};

/// What ties an account to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Their login opens it already.
    ExternalId,
    /// It has their e-mail address.
    Email,
    /// It has the name that the template gives them.
    Localpart,
    /// It has that name with a number behind it and the same display name: perhaps a second account.
    Sibling,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExternalId => "their login opens it",
            Self::Email => "same e-mail",
            Self::Localpart => "same name",
            Self::Sibling => "same name and a number",
        })
    }
}

/// An account that may be somebody's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The account.
    pub mxid: Mxid,
    /// What speaks for it.
    pub by: BTreeSet<Evidence>,
    /// Why it is never adopted by itself.
    pub unfit: Option<String>,
}

impl Candidate {
    /// How sure it is.
    pub fn certainty(&self) -> Certainty {
        if self.by.contains(&Evidence::ExternalId) {
            Certainty::Certain
        } else if self.by.contains(&Evidence::Email) {
            Certainty::Likely
        } else {
            Certainty::Guess
        }
    }
}

/// A person and the accounts that may be theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimant {
    /// Who.
    pub id: DefguardId,
    /// Their username.
    pub username: Username,
    /// The accounts; the surest first.
    pub candidates: Vec<Candidate>,
}

/// Who may have which account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proposal {
    /// One account each, and nobody else wants it.
    pub matched: Vec<Claimant>,
    /// Several accounts each.
    pub duplicates: Vec<Claimant>,
    /// One account each that cannot be proposed, and why.
    pub left: Vec<(Claimant, String)>,
    /// The people in scope to whom no account is tied by anything.
    pub without: BTreeSet<DefguardId>,
    /// The people who could not be looked at.
    pub failed: BTreeMap<DefguardId, Failure>,
}

/// The outcome of the matching.
#[derive(Debug, Clone)]
pub enum Matching {
    /// These things have to be found out first.
    Ask(BTreeSet<Question>),
    /// This is proposed.
    Propose(Proposal),
}

/// Matches the active people in scope who have no account with the accounts that are nobody's. `only` restricts it to
/// some people; empty means everybody.
pub fn match_accounts(scene: &Scene<'_>, only: &BTreeSet<DefguardId>) -> Matching {
    let view = View::new(scene);
    let siblings = Siblings::new(&view);
    let mut proposal = Proposal::default();
    let mut claimants = Vec::new();
    for (id, person) in scene.people {
        let Some(mapped) = scene.mapped.get(id) else { continue };
        let wanted = view.is_wanted(*id) && (only.is_empty() || only.contains(id));
        if !wanted || scene.links.contains_key(id) {
            continue;
        }
        match candidates(&view, &siblings, person, mapped) {
            Ok(None) => {}
            Ok(Some(candidates)) => {
                claimants.push(Claimant { id: *id, username: person.username.clone(), candidates });
            }
            Err(Stop::Failed(failure)) => {
                proposal.failed.insert(*id, *failure);
            }
            Err(Stop::Pending | Stop::Waits(_)) => {}
        }
    }
    if view.has_questions() {
        return Matching::Ask(view.into_questions());
    }
    sort(claimants, &mut proposal);
    Matching::Propose(proposal)
}

/// The digest of what is approved: of whom, which account, and how sure it is.
pub fn adoption_digest(scene: &Scene<'_>, matches: &[Claimant]) -> String {
    let mut lines: Vec<String> = matches
        .iter()
        .flat_map(|claimant| {
            claimant
                .candidates
                .iter()
                .map(|candidate| format!("{} {} {:?}", claimant.id, candidate.mxid, candidate.certainty()))
        })
        .collect();
    lines.sort();
    let text = format!("{} {}\n{}", scene.rules.instance, scene.rules.auth_provider, lines.join("\n"));
    digest(&text).chars().take(16).collect()
}

/// The accounts with a number behind a name, by the name.
struct Siblings<'a>(BTreeMap<&'a str, Vec<&'a Mxid>>);

impl<'a> Siblings<'a> {
    fn new(view: &View<'a>) -> Self {
        let mut siblings: BTreeMap<&str, Vec<&Mxid>> = BTreeMap::new();
        for mxid in view.scene.accounts.keys() {
            let stem = mxid.localpart().trim_end_matches(|c: char| c.is_ascii_digit());
            if !stem.is_empty() && stem.len() < mxid.localpart().len() {
                siblings.entry(stem).or_default().push(mxid);
            }
        }
        Self(siblings)
    }

    fn of(&self, localpart: &str) -> &[&'a Mxid] {
        self.0.get(localpart).map_or(&[], Vec::as_slice)
    }
}

/// The accounts that may be a person's; `None` if one carries their marker, which the next sync takes up.
fn candidates(
    view: &View<'_>,
    siblings: &Siblings<'_>,
    person: &Person,
    mapped: &Mapped,
) -> Result<Option<Vec<Candidate>>, Stop> {
    let scene = view.scene;
    let rules = scene.rules;
    // All are asked for before any answer is looked at, so that one round answers them.
    let marked = view.holder(&ExternalId::marker(&rules.instance, person.id));
    let subject = mapped.subject.as_ref().ok();
    let login = subject.map(|subject| ExternalId::login(&rules.auth_provider, subject));
    let opened = login.as_ref().map(|login| view.holder(login));
    let email = mapped.email.as_ref().ok().and_then(Option::as_ref);
    let mailbox = email.map(|email| view.mailbox(email));
    let named = mapped.localpart.as_ref().ok().map(|localpart| Mxid::new(localpart, &rules.server));
    let named = named.filter(|mxid| scene.accounts.contains_key(mxid)).map(|mxid| view.account(&mxid));
    let marked = marked?;
    let opened = opened.transpose()?.flatten();
    let mailbox = mailbox.transpose()?.flatten();
    let named = named.transpose()?.flatten();
    if marked.is_some() {
        return Ok(None);
    }
    let mut found: BTreeMap<&Mxid, (&Account, BTreeSet<Evidence>)> = BTreeMap::new();
    for (account, evidence) in
        [(opened, Evidence::ExternalId), (mailbox, Evidence::Email), (named, Evidence::Localpart)]
    {
        if let Some(account) = account.filter(|account| view.owner(account).is_none()) {
            found.entry(&account.summary.mxid).or_insert((account, BTreeSet::new())).1.insert(evidence);
        }
    }
    if !found.is_empty()
        && let Ok(localpart) = &mapped.localpart
    {
        for sibling in siblings.of(localpart.as_str()) {
            if found.contains_key(sibling) || !looks_alike(view, sibling, mapped, &found) {
                continue;
            }
            if let Some(account) = view.account(sibling)?
                && view.owner(account).is_none()
            {
                found.insert(&account.summary.mxid, (account, BTreeSet::from([Evidence::Sibling])));
            }
        }
    }
    let mut candidates: Vec<Candidate> = found
        .into_values()
        .map(|(account, by)| Candidate {
            mxid: account.summary.mxid.clone(),
            by,
            unfit: view.unfit(account, subject).map(str::to_owned),
        })
        .collect();
    candidates.sort_by_key(|candidate| (std::cmp::Reverse(candidate.certainty()), candidate.mxid.clone()));
    Ok(Some(candidates))
}

/// Whether an account with a number behind the name may be a second one of the same person: nobody else would get it,
/// and it has the display name of the person or of their other account.
fn looks_alike(
    view: &View<'_>,
    sibling: &Mxid,
    mapped: &Mapped,
    found: &BTreeMap<&Mxid, (&Account, BTreeSet<Evidence>)>,
) -> bool {
    let shown = |summary: Option<&crate::domain::AccountSummary>| {
        summary.and_then(|summary| summary.display_name.clone())
    };
    let Some(name) = shown(view.scene.accounts.get(sibling)) else { return false };
    let of_person = mapped.display_name.as_ref().is_ok_and(|own| own.as_ref() == Some(&name));
    let of_others = found.values().any(|(account, _)| account.summary.display_name.as_ref() == Some(&name));
    (of_person || of_others) && view.linked_to(sibling).is_none() && !view.is_somebodys_name(sibling)
}

fn sort(claimants: Vec<Claimant>, proposal: &mut Proposal) {
    let mut wanted: BTreeMap<Mxid, Vec<(DefguardId, Certainty)>> = BTreeMap::new();
    for claimant in &claimants {
        for candidate in candidates_in_earnest(claimant) {
            let claim = (claimant.id, candidate.certainty());
            wanted.entry(candidate.mxid.clone()).or_default().push(claim);
        }
    }
    for claimant in claimants {
        match claimant.candidates.as_slice() {
            [] => {
                proposal.without.insert(claimant.id);
            }
            [only] => match only.unfit.clone().or_else(|| rivals(&wanted, only, claimant.id)) {
                Some(why) => proposal.left.push((claimant, why)),
                None => proposal.matched.push(claimant),
            },
            _ => proposal.duplicates.push(claimant),
        }
    }
}

fn candidates_in_earnest(claimant: &Claimant) -> impl Iterator<Item = &Candidate> {
    claimant.candidates.iter().filter(|candidate| !candidate.by.contains(&Evidence::Sibling))
}

/// Who else may have the account. Whose login opens it has it before those who only share a name or an address.
fn rivals(
    wanted: &BTreeMap<Mxid, Vec<(DefguardId, Certainty)>>,
    candidate: &Candidate,
    id: DefguardId,
) -> Option<String> {
    let own = candidate.certainty();
    let others: Vec<String> = wanted
        .get(&candidate.mxid)?
        .iter()
        .filter(|(other, certainty)| {
            *other != id && (own < Certainty::Certain || *certainty == Certainty::Certain)
        })
        .map(|(other, _)| format!("#{other}"))
        .collect();
    (!others.is_empty()).then(|| format!("it may be that of {} as well", others.join(", ")))
}

impl<'a> View<'a> {
    /// The account that has an e-mail address.
    fn mailbox(&self, email: &crate::domain::Email) -> Result<Option<&'a Account>, Stop> {
        match self.scene.answers.emails.get(email) {
            None => Err(self.ask(Question::Email(email.clone()))),
            Some(Lookup::Found(mxid)) => self.account(mxid),
            Some(Lookup::Absent) => Ok(None),
            Some(Lookup::Unknown(failure)) => Err(Stop::Failed(Box::new(failure.clone()))),
        }
    }
}
