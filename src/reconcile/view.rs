//! The scene with the indexes and the questions that the decision needs.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::scene::{Pass, Question, Scene};
use crate::domain::{
    Account, Conflict, DefguardId, Email, ExternalId, Failure, FailureClass, FieldPolicy, Harm, Link,
    Localpart, Lookup, Mapped, Mxid, OnConflict, Person, Session, Subject, Twins, Username, hex,
};

/// Synapse gives up after so many suffixes at a login (`SsoHandler._MAP_USERNAME_RETRIES`).
const MOST_SUFFIXES: u32 = 1000;

/// Why a person cannot be decided on now.
#[derive(Debug)]
pub(super) enum Stop {
    /// A question was asked.
    Pending,
    /// It could not be found out.
    Failed(Box<Failure>),
    /// Somebody else comes first, and failed lately.
    Waits(DefguardId),
}

/// Whether something can become a person's.
#[derive(Debug)]
pub(super) enum Claim {
    Free,
    /// It is on the account of this person, who gives it up.
    From(DefguardId),
    Blocked(Conflict),
}

/// The people who share a value, in the order of their ids.
#[derive(Default)]
struct Sharers {
    people: Vec<DefguardId>,
    /// Stands for all of them in the fingerprint of each.
    digest: String,
}

impl Sharers {
    fn twins(&self) -> Option<Twins> {
        (self.people.len() > 1).then(|| Twins::of(&self.people))
    }
}

pub(super) struct View<'a> {
    pub(super) scene: &'a Scene<'a>,
    owners: BTreeMap<&'a Mxid, DefguardId>,
    /// Lower-cased, since Synapse registers no localpart that differs from another in case only.
    taken: BTreeSet<String>,
    localparts: BTreeMap<&'a Localpart, Sharers>,
    subjects: BTreeMap<&'a Subject, Sharers>,
    emails: BTreeMap<&'a Email, Sharers>,
    usernames: BTreeSet<&'a Username>,
    questions: RefCell<BTreeSet<Question>>,
}

impl<'a> View<'a> {
    pub(super) fn new(scene: &'a Scene<'a>) -> Self {
        let mut view = Self {
            scene,
            owners: scene.links.iter().map(|(id, link)| (&link.mxid, *id)).collect(),
            taken: scene.accounts.keys().map(|mxid| mxid.as_str().to_lowercase()).collect(),
            localparts: BTreeMap::new(),
            subjects: BTreeMap::new(),
            emails: BTreeMap::new(),
            usernames: scene.people.values().map(|person| &person.username).collect(),
            questions: RefCell::default(),
        };
        for (id, mapped) in scene.mapped {
            if !view.is_wanted(*id) {
                continue;
            }
            if let Ok(subject) = &mapped.subject {
                view.subjects.entry(subject).or_default().people.push(*id);
            }
            if let Ok(Some(email)) = &mapped.email {
                view.emails.entry(email).or_default().people.push(*id);
            }
            if let Ok(localpart) = &mapped.localpart
                && !scene.links.contains_key(id)
            {
                view.localparts.entry(localpart).or_default().people.push(*id);
            }
        }
        let all =
            view.localparts.values_mut().chain(view.subjects.values_mut()).chain(view.emails.values_mut());
        for sharers in all.filter(|sharers| sharers.people.len() > 1) {
            let mut text = String::new();
            for id in &sharers.people {
                let _ = writeln!(text, "{id} {}", link_text(scene.links.get(id)));
            }
            sharers.digest = digest(&text);
        }
        view
    }

    pub(super) fn into_questions(self) -> BTreeSet<Question> {
        self.questions.into_inner()
    }

    /// Whether something has to be found out before anything can be said.
    pub(super) fn has_questions(&self) -> bool {
        !self.questions.borrow().is_empty()
    }

    pub(super) fn ask(&self, question: Question) -> Stop {
        self.questions.borrow_mut().insert(question);
        Stop::Pending
    }

    /// Whether the person is there, active and in scope.
    pub(super) fn is_wanted(&self, id: DefguardId) -> bool {
        self.scene
            .people
            .get(&id)
            .is_some_and(|person| person.is_active && self.scene.rules.scope.leaves_out(person).is_none())
    }

    /// An account, whole; `None` if there is none.
    pub(super) fn account(&self, mxid: &Mxid) -> Result<Option<&'a Account>, Stop> {
        match self.scene.answers.accounts.get(mxid) {
            None => Err(self.ask(Question::Account(mxid.clone()))),
            Some(Lookup::Found(account)) => Ok(Some(account)),
            Some(Lookup::Absent) => Ok(None),
            Some(Lookup::Unknown(failure)) => Err(Stop::Failed(Box::new(failure.clone()))),
        }
    }

    /// The account that really carries an external id. What Synapse's look-up names is looked at, since it may
    /// answer from a stale cache (`docs/facts/synapse.md` section 2).
    pub(super) fn holder(&self, id: &ExternalId) -> Result<Option<&'a Account>, Stop> {
        match self.scene.answers.external_ids.get(id) {
            None => Err(self.ask(Question::ExternalId(id.clone()))),
            Some(Lookup::Found(mxid)) => {
                Ok(self.account(mxid)?.filter(|account| account.external_ids.contains(id)))
            }
            Some(Lookup::Absent) => Ok(None),
            Some(Lookup::Unknown(failure)) => Err(Stop::Failed(Box::new(failure.clone()))),
        }
    }

    /// The account that has an e-mail address.
    pub(super) fn holder_of_email(&self, email: &Email) -> Result<Option<&'a Mxid>, Stop> {
        match self.scene.answers.emails.get(email) {
            None => Err(self.ask(Question::Email(email.clone()))),
            Some(Lookup::Found(mxid)) => Ok(Some(mxid)),
            Some(Lookup::Absent) => Ok(None),
            Some(Lookup::Unknown(failure)) => Err(Stop::Failed(Box::new(failure.clone()))),
        }
    }

    /// Who has a username in Defguard now. A name that cannot be looked up at all (`docs/facts/defguard.md` section 4) is
    /// like one that nobody has: the list has those.
    pub(super) fn person(&self, username: &Username) -> Result<Option<&'a Person>, Stop> {
        match self.scene.answers.people.get(username) {
            None => Err(self.ask(Question::Person(username.clone()))),
            Some(Lookup::Found(person)) => Ok(Some(person)),
            Some(Lookup::Absent) => Ok(None),
            Some(Lookup::Unknown(failure)) if failure.class == FailureClass::Permanent => Ok(None),
            Some(Lookup::Unknown(failure)) => Err(Stop::Failed(Box::new(failure.clone()))),
        }
    }

    /// The usernames of all who are in any group.
    pub(super) fn group_members(&self) -> Result<&'a BTreeSet<Username>, Stop> {
        match &self.scene.answers.group_members {
            None => Err(self.ask(Question::GroupMembers)),
            Some(Lookup::Found(members)) => Ok(members),
            Some(Lookup::Absent) => Err(Stop::Pending),
            Some(Lookup::Unknown(failure)) => Err(Stop::Failed(Box::new(failure.clone()))),
        }
    }

    /// The sessions of an account; `None` if they could not be found out.
    pub(super) fn sessions(&self, mxid: &Mxid) -> Result<Option<&'a BTreeSet<Session>>, Stop> {
        match self.scene.answers.sessions.get(mxid) {
            None => Err(self.ask(Question::Sessions(mxid.clone()))),
            Some(Lookup::Found(sessions)) => Ok(Some(sessions)),
            Some(Lookup::Absent | Lookup::Unknown(_)) => Ok(None),
        }
    }

    /// Whether the list shows somebody with this username.
    pub(super) fn is_listed(&self, username: &Username) -> bool {
        self.usernames.contains(username)
    }

    /// Whether the guard keeps this back.
    pub(super) fn is_held(&self, id: DefguardId, harm: Harm) -> bool {
        self.scene.held.get(&id).is_some_and(|held| held.contains(&harm))
    }

    /// The person whose account it is, by a link or by our marker.
    pub(super) fn owner(&self, account: &Account) -> Option<DefguardId> {
        self.owners.get(&account.summary.mxid).copied().or_else(|| account.owner(&self.scene.rules.instance))
    }

    /// Whether the account at `mxid` belongs to somebody with a link.
    pub(super) fn linked_to(&self, mxid: &Mxid) -> Option<DefguardId> {
        self.owners.get(mxid).copied()
    }

    /// Whether something can be taken off an account of `owner`: the same accounts on which their own draft works.
    fn can_be_written(&self, owner: DefguardId, account: &Account) -> bool {
        let theirs = account.owner(&self.scene.rules.instance) == Some(owner);
        let comes_back =
            || self.scene.links.get(&owner).is_some_and(|link| link.lifecycle.deactivated.is_some());
        let in_use = !account.summary.deactivated || !self.is_wanted(owner) || comes_back();
        in_use && (theirs || !account.is_marked())
    }

    /// Whether the login on the account of `owner` is not theirs any more, now that `claimant` has it: their own login is
    /// another one, or they are not in Defguard and the claimant has their very username. The owner may be missing from
    /// the list only by accident; but whoever has the name now is not them.
    pub(super) fn gives_up_subject(
        &self,
        owner: DefguardId,
        account: &Account,
        subject: &Subject,
        claimant: DefguardId,
    ) -> bool {
        let gave_up = match self.scene.people.get(&owner) {
            Some(_) => self
                .mapped(owner)
                .is_some_and(|mapped| mapped.subject.as_ref().is_ok_and(|own| own != subject)),
            None => {
                let link = self.scene.links.get(&owner);
                let claimant = self.scene.people.get(&claimant);
                self.scene.complete
                    && link.zip(claimant).is_some_and(|(link, claimant)| link.username == claimant.username)
            }
        };
        gave_up && owner != claimant && self.can_be_written(owner, account)
    }

    /// Whether `owner` is an active person whose address is another one by now, so that the one that we put on their
    /// account leaves it.
    fn gives_up_email(&self, owner: DefguardId, account: &Account, email: &Email) -> bool {
        let elsewhere = self
            .mapped(owner)
            .is_some_and(|mapped| mapped.email.as_ref().is_ok_and(|own| own.as_ref() != Some(email)));
        // What they or an admin put there is not ours to take off.
        let ours =
            self.scene.links.get(&owner).is_some_and(|link| link.applied.email.as_ref() == Some(email));
        let acts = matches!(self.scene.rules.email, FieldPolicy::Enforce | FieldPolicy::OnChange);
        self.is_wanted(owner) && self.can_be_written(owner, account) && elsewhere && ours && acts
    }

    fn mapped(&self, id: DefguardId) -> Option<&'a Mapped> {
        self.scene.mapped.get(&id)
    }

    /// The people who share a login subject, if there are several.
    pub(super) fn subject_twins(&self, subject: &Subject) -> Option<Twins> {
        self.subjects.get(subject).and_then(Sharers::twins)
    }

    /// Whether a login subject can be put on the account of `id`.
    pub(super) fn claim_subject(&self, id: DefguardId, subject: &Subject) -> Result<Claim, Stop> {
        let login = ExternalId::login(&self.scene.rules.auth_provider, subject);
        let twins = self.subject_twins(subject);
        let Some(account) = self.holder(&login)? else {
            return Ok(twins.map_or(Claim::Free, |people| Claim::Blocked(Conflict::SubjectTwins { people })));
        };
        let mxid = account.summary.mxid.clone();
        match self.owner(account) {
            Some(owner) if owner == id => Ok(Claim::Free),
            Some(owner) => match twins {
                Some(people) => Ok(Claim::Blocked(Conflict::SubjectTwins { people })),
                None if self.gives_up_subject(owner, account, subject, id) => {
                    self.taken_unless_held(owner, Harm::Relink)
                }
                None => Ok(Claim::Blocked(Conflict::UsernameReused { mxid, owner })),
            },
            None => Ok(Claim::Blocked(Conflict::SubjectTaken { mxid })),
        }
    }

    /// Whether an e-mail address can be put on the account of `id`.
    pub(super) fn claim_email(
        &self,
        id: DefguardId,
        own: Option<&Mxid>,
        email: &Email,
    ) -> Result<Claim, Stop> {
        let twins = self.emails.get(email).and_then(Sharers::twins);
        let mxid = match self.scene.answers.emails.get(email) {
            None => return Err(self.ask(Question::Email(email.clone()))),
            Some(Lookup::Unknown(failure)) => return Err(Stop::Failed(Box::new(failure.clone()))),
            Some(Lookup::Absent) => {
                return Ok(
                    twins.map_or(Claim::Free, |people| Claim::Blocked(Conflict::EmailTwins { people }))
                );
            }
            Some(Lookup::Found(mxid)) if own == Some(mxid) => return Ok(Claim::Free),
            Some(Lookup::Found(mxid)) => mxid,
        };
        let account = self.account(mxid)?;
        let owner = account.and_then(|account| self.owner(account));
        match (owner, account) {
            (Some(owner), _) if owner == id => Ok(Claim::Free),
            (Some(owner), Some(account)) if self.gives_up_email(owner, account, email) => match twins {
                Some(people) => Ok(Claim::Blocked(Conflict::EmailTwins { people })),
                None => self.taken_unless_held(owner, Harm::Email),
            },
            (owner, _) => Ok(Claim::Blocked(Conflict::EmailTaken { mxid: mxid.clone(), owner })),
        }
    }

    /// It comes from `owner`, unless nothing can be done with them now, or the guard keeps back what they would lose.
    fn taken_unless_held(&self, owner: DefguardId, harm: Harm) -> Result<Claim, Stop> {
        let waits = self.scene.postponed.contains(&owner) || self.is_held(owner, harm);
        if waits { Err(Stop::Waits(owner)) } else { Ok(Claim::From(owner)) }
    }

    /// Whether the policy lets an account that is nobody's become this person's. The error says why not, if the policy
    /// would have it otherwise. `subject` is the login that the account carries for this person.
    pub(super) fn adoption(
        &self,
        account: &Account,
        mapped: &Mapped,
        subject: Option<&Subject>,
    ) -> Result<(), Option<String>> {
        let rules = self.scene.rules;
        match rules.on_conflict {
            OnConflict::Report | OnConflict::Suffix => return Err(None),
            OnConflict::AdoptIfSameEmail => {
                let same = matches!(&mapped.email, Ok(Some(email)) if account.has_email(email));
                if !same {
                    return Err(Some("it does not have their e-mail address".to_owned()));
                }
            }
            OnConflict::Adopt => {}
        }
        self.unfit(account, subject).map_or(Ok(()), |why| Err(Some(why.to_owned())))
    }

    /// Why an account never becomes anybody's but by hand. `subject` is the login that it may carry for the person.
    pub(super) fn unfit(&self, account: &Account, subject: Option<&Subject>) -> Option<&'static str> {
        let rules = self.scene.rules;
        let summary = &account.summary;
        let other_login = account
            .logins(&rules.auth_provider)
            .any(|id| subject.is_none_or(|subject| subject.as_str() != id.external_id));
        if summary.mxid == rules.own {
            Some("it is the account that this service itself uses")
        } else if summary.admin {
            Some("it is a server admin")
        } else if summary.guest {
            Some("it is a guest")
        } else if account.appservice.is_some() {
            Some("it belongs to an application service")
        } else if summary.user_type.is_some() {
            Some("it is a bot or of another special user type")
        } else if summary.deactivated {
            Some("it is deactivated")
        } else if summary.locked {
            Some("it is locked")
        } else if account.is_marked() {
            Some("it carries an ownership marker of another person or instance")
        } else if other_login {
            Some("another login of the same provider opens it")
        } else {
            None
        }
    }

    /// The account that we made for a person by an intent that is not finished.
    pub(super) fn begun_creation(&self, id: DefguardId) -> Option<Mxid> {
        let mxid = self.scene.intents.iter().find_map(|intent| intent.creates.get(&id))?;
        self.scene.accounts.contains_key(mxid).then(|| mxid.clone())
    }

    /// Whether nobody has laid hands on an account that, as the journal says, we made with an empty request. (Whether we
    /// made it at all is another question; the engine answers it, by the time at which the account was made.)
    pub(super) fn is_still_nobodys(&self, account: &Account) -> bool {
        account.external_ids.is_empty()
            && self.linked_to(&account.summary.mxid).is_none()
            && !(account.summary.admin || account.summary.guest || account.appservice.is_some())
    }

    /// Whether an unfinished intent of an earlier run was moving this external id.
    pub(super) fn is_moving(&self, id: &ExternalId) -> bool {
        self.scene.intents.iter().any(|intent| intent.moves.iter().any(|moved| moved.id == *id))
    }

    /// Whether an unfinished intent of an earlier run is about this person.
    pub(super) fn is_unfinished(&self, id: DefguardId) -> bool {
        let mxid = self.scene.links.get(&id).map(|link| &link.mxid);
        self.scene.intents.iter().any(|intent| {
            intent.group == id
                || intent.creates.contains_key(&id)
                || intent.moves.iter().any(|moved| Some(&moved.from) == mxid)
        })
    }

    /// Whether the templates give this account to somebody who has none.
    pub(super) fn is_somebodys_name(&self, mxid: &Mxid) -> bool {
        Localpart::new(mxid.localpart(), &self.scene.rules.server)
            .is_ok_and(|localpart| self.localparts.contains_key(&localpart))
    }

    /// Whether an account with this MXID, or one that differs in case only, exists.
    pub(super) fn is_taken(&self, mxid: &Mxid) -> bool {
        self.taken.contains(mxid.as_str())
    }

    /// The first free MXID with a number behind the localpart, as Synapse counts at a login, that is not the one which
    /// the templates give to somebody else.
    pub(super) fn free_with_suffix(
        &self,
        localpart: &Localpart,
        is_given: impl Fn(&Mxid) -> bool,
    ) -> Option<Mxid> {
        let server = &self.scene.rules.server;
        (1..MOST_SUFFIXES)
            .map_while(|n| Localpart::new(&format!("{localpart}{n}"), server).ok())
            .filter(|localpart| !self.localparts.contains_key(localpart))
            .map(|localpart| Mxid::new(&localpart, server))
            .find(|mxid| !self.is_taken(mxid) && !is_given(mxid))
    }

    /// The people without a link who would get something that is, or was, this person's.
    pub(super) fn rivals(&self, id: DefguardId) -> BTreeSet<DefguardId> {
        let mapped = self.mapped(id);
        let link = self.scene.links.get(&id);
        let localpart = mapped.and_then(|mapped| mapped.localpart.as_ref().ok());
        let subjects = [
            mapped.and_then(|mapped| mapped.subject.as_ref().ok()),
            link.and_then(|link| link.subject.as_ref()),
        ];
        let emails = [
            mapped.and_then(|mapped| mapped.email.as_ref().ok()?.as_ref()),
            link.and_then(|link| link.applied.email.as_ref()),
        ];
        let sharers = localpart.and_then(|localpart| self.localparts.get(localpart)).into_iter();
        sharers
            .chain(subjects.into_iter().flatten().filter_map(|subject| self.subjects.get(subject)))
            .chain(emails.into_iter().flatten().filter_map(|email| self.emails.get(email)))
            .flat_map(|sharers| sharers.people.iter().copied())
            .filter(|id| !self.scene.links.contains_key(id))
            .collect()
    }

    /// The localparts with the people without a link who map to them.
    pub(super) fn claimants(&self) -> impl Iterator<Item = (&'a Localpart, &[DefguardId])> {
        self.localparts.iter().map(|(localpart, sharers)| (*localpart, sharers.people.as_slice()))
    }

    /// The conflicts that were found before, if nothing on which they rest has changed since.
    pub(super) fn remembered(&self, id: DefguardId) -> Option<Vec<Conflict>> {
        if self.scene.pass == Pass::Full || self.scene.afresh.contains(&id) || self.is_unfinished(id) {
            return None;
        }
        let standoff = self.scene.standoffs.get(&id)?;
        let same = self.fingerprint(id, &standoff.conflicts) == standoff.fingerprint;
        same.then(|| standoff.conflicts.clone())
    }

    /// A digest of all that is known without a request and on which a finding about `id` rests.
    pub(super) fn fingerprint(&self, id: DefguardId, conflicts: &[Conflict]) -> String {
        let mut text = format!("{:?} {:?}", self.scene.rules.on_conflict, self.scene.rules.email);
        let concerned = conflicts.iter().filter_map(Conflict::owner).chain([id]).collect::<BTreeSet<_>>();
        for other in concerned {
            let _ = write!(text, "\n{other} {}", self.is_wanted(other));
            if let Some(mapped) = self.mapped(other) {
                let email = mapped.email.as_ref().map(|email| email.as_ref().map(Email::as_str));
                let _ = write!(text, " {:?} {:?} {email:?}", mapped.subject, mapped.localpart);
            }
            let _ = write!(text, " {}", link_text(self.scene.links.get(&other)));
        }
        if let Some(mapped) = self.mapped(id) {
            let localpart = mapped.localpart.as_ref().ok();
            let email = mapped.email.as_ref().ok().and_then(Option::as_ref);
            let sharers = [
                localpart.and_then(|localpart| self.localparts.get(localpart)),
                mapped.subject.as_ref().ok().and_then(|subject| self.subjects.get(subject)),
                email.and_then(|email| self.emails.get(email)),
            ];
            for digest in sharers.map(|sharers| sharers.map_or("", |sharers| &sharers.digest)) {
                let _ = write!(text, "\n{digest}");
            }
            // Whoever has an account does not ask for the one that the templates name.
            let named = localpart
                .filter(|_| !self.scene.links.contains_key(&id))
                .map(|localpart| Mxid::new(localpart, &self.scene.rules.server));
            for mxid in named.iter().chain(conflicts.iter().filter_map(Conflict::mxid)) {
                let summary = self.scene.accounts.get(mxid).map(|account| {
                    (account.admin, account.deactivated, account.locked, account.guest, &account.user_type)
                });
                let _ = write!(text, "\n{mxid} {summary:?} {:?}", self.linked_to(mxid));
            }
        }
        digest(&text)
    }
}

fn link_text(link: Option<&Link>) -> String {
    let Some(link) = link else { return String::new() };
    format!("{} {:?} {:?}", link.mxid, link.subject, link.applied.email.as_ref().map(Email::as_str))
}

pub(super) fn digest(text: &str) -> String {
    hex(text.as_bytes(), 32)
}
