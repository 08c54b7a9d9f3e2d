//! Reads everything that a decision needs, and finds out what it asks for.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use tokio::sync::OnceCell;

use super::{Engine, Options, apply::LONGEST_BACKOFF, trust::Doubt};
use crate::{
    domain::{
        AccountSummary, Backoff, DefguardId, Failure, FailureClass, Harm, Intent, Link, Listing, Lookup,
        Mapped, Mxid, Peer, Standing, Standoff,
    },
    ports::{Directory, Homeserver, HomeserverInfo, ServerPair},
    reconcile::{Answers, Decision, Migration, Pass, Plan, Question, Rules, Scene, decide},
};

/// How many rounds of questions a decision may take. Each is one step deeper (person → external id → account), so
/// more than this would be an error of ours.
pub(super) const MOST_ROUNDS: usize = 12;

/// After so many look-ups without a clear answer the homeserver counts as unusable, instead of asking for everybody in turn.
const MOST_FAILED_LOOKUPS: usize = 10;

/// Everything that one run has read.
pub(super) struct Gathered {
    pub(super) rules: Rules,
    pub(super) info: HomeserverInfo,
    pub(super) listing: Listing,
    pub(super) mapped: BTreeMap<DefguardId, Mapped>,
    pub(super) accounts: BTreeMap<Mxid, AccountSummary>,
    pub(super) links: BTreeMap<DefguardId, Link>,
    pub(super) intents: Vec<Intent>,
    pub(super) standoffs: BTreeMap<DefguardId, Standoff>,
    pub(super) backoff: BTreeMap<DefguardId, Backoff>,
    pub(super) answers: Answers,
    /// The people of whom it could not be found out what an interrupted run did for them.
    pub(super) unclear: BTreeSet<DefguardId>,
    /// What the store knows about itself.
    pub(super) standing: Standing,
    /// A change of `idp_id` or `subject_template` that is not finished.
    pub(super) migration: Option<Migration>,
    /// When the run began to decide.
    pub(super) now: DateTime<Utc>,
    /// Why our own memory cannot be trusted.
    pub(super) doubt: Option<Doubt>,
    /// The list of people read once more, before anybody is taken for gone.
    pub(super) second_look: OnceCell<Result<Listing, Failure>>,
}

/// Nothing is kept back.
pub(super) static NOTHING_HELD: BTreeMap<DefguardId, BTreeSet<Harm>> = BTreeMap::new();

impl Gathered {
    /// What a decision is made from.
    pub(super) fn scene<'a>(
        &'a self,
        pass: Pass,
        afresh: &'a BTreeSet<DefguardId>,
        postponed: &'a BTreeSet<DefguardId>,
        held: &'a BTreeMap<DefguardId, BTreeSet<Harm>>,
    ) -> Scene<'a> {
        Scene {
            people: self.listing.people(),
            complete: self.listing.is_complete(),
            mapped: &self.mapped,
            links: &self.links,
            accounts: &self.accounts,
            answers: &self.answers,
            intents: &self.intents,
            standoffs: &self.standoffs,
            postponed,
            afresh,
            pass,
            rules: &self.rules,
            held,
            now: self.now,
            last_look: self.standing.last_look,
            migration: self.migration.as_ref(),
        }
    }

    /// The people whose time has not come yet after failures, or of whom it is not known what was done for them. A time
    /// further away than any pause was noted while the clock was wrong.
    pub(super) fn postponed(&self, afresh: &BTreeSet<DefguardId>) -> BTreeSet<DefguardId> {
        let waits =
            |backoff: &Backoff| backoff.until > self.now && backoff.until <= self.now + LONGEST_BACKOFF;
        self.backoff
            .iter()
            .filter(|(id, backoff)| waits(backoff) && !afresh.contains(id))
            .map(|(id, _)| *id)
            .chain(self.unclear.iter().copied())
            .collect()
    }

    /// The people whom a name given by hand can mean: a username, `#` and an id, or an MXID.
    pub(super) fn resolve(&self, name: &str) -> Option<DefguardId> {
        if let Some(id) = name.strip_prefix('#').and_then(|id| id.parse().ok().map(DefguardId)) {
            return (self.listing.people().contains_key(&id) || self.links.contains_key(&id)).then_some(id);
        }
        if name.starts_with('@') {
            let linked = self
                .links
                .values()
                .find(|link| link.mxid.as_str() == name || link.mxid.localpart() == &name[1..]);
            return linked.map(|link| link.id);
        }
        let listed = self
            .listing
            .people()
            .values()
            .find(|person| person.username.as_str() == name)
            .map(|person| person.id);
        listed.or_else(|| self.links.values().find(|link| link.username.as_str() == name).map(|link| link.id))
    }

    /// The people whom a hint can mean, and whether it is clear whom: the list shows one of them and no link has the
    /// name of another. `name` is a username, or `#` and an id.
    pub(super) fn resolve_hint(&self, name: &str) -> (BTreeSet<DefguardId>, bool) {
        let people = self.listing.people();
        if name.starts_with('#') {
            let id = self.resolve(name);
            return (id.into_iter().collect(), id.is_some_and(|id| people.contains_key(&id)));
        }
        let listed = people.values().find(|person| person.username.as_str() == name).map(|person| person.id);
        let linked = self.links.values().filter(|link| link.username.as_str() == name).map(|link| link.id);
        let meant: BTreeSet<DefguardId> = listed.into_iter().chain(linked).collect();
        let clear = listed.is_some() && meant.len() == 1;
        (meant, clear)
    }
}

impl Engine {
    /// Who the homeserver is, asked at each full pass and after a failure.
    pub(super) async fn homeserver_info(&self) -> Result<HomeserverInfo, Failure> {
        let mut known = self.homeserver_info.lock().await;
        if let Some(info) = known.as_ref() {
            return Ok(info.clone());
        }
        let info = self.homeserver.identify().await?;
        Ok(known.insert(info).clone())
    }

    /// Forgets what the homeserver said about itself.
    pub(super) async fn forget_homeserver_info(&self) {
        *self.homeserver_info.lock().await = None;
    }

    /// Reads both servers and the store.
    pub(super) async fn gather(&self) -> Result<Gathered, Failure> {
        let info = self.homeserver_info().await?;
        let (listing, accounts, own) =
            tokio::join!(self.directory.list(), self.homeserver.list(), self.directory.own_username());
        let (listing, accounts) = (listing?, accounts?);
        // Only now: a wrong address must not tie the store to it.
        let differences = self.store.bind(&ServerPair {
            instance: self.options.instance.clone(),
            defguard_url: self.options.defguard_url.clone(),
            server_name: info.server_name.clone(),
        })?;
        if !differences.is_empty() {
            return Err(foreign(&differences));
        }
        let mut rules = rules(&self.options, &info);
        if !self.options.include_own_account {
            rules.scope.own_username = own?;
        }
        let mapped = listing
            .people()
            .iter()
            .map(|(id, person)| (*id, (self.mapper)(person, &info.server_name)))
            .collect();
        let standing = self.store.standing()?;
        let migration = standing.accepted.as_ref().and_then(|accepted| {
            let now = &self.options.config;
            let same_template = accepted.subject_template == now.subject_template;
            let changed = accepted.auth_provider != now.auth_provider || !same_template;
            changed.then(|| Migration { from: accepted.auth_provider.clone(), same_template })
        });
        Ok(Gathered {
            standing,
            migration,
            now: self.clock.now(),
            doubt: None,
            second_look: OnceCell::new(),
            rules,
            info,
            listing,
            mapped,
            accounts,
            links: self.store.links()?,
            intents: self.store.intents()?,
            standoffs: self.store.standoffs()?,
            backoff: self.store.backoff()?,
            answers: Answers::default(),
            unclear: BTreeSet::new(),
        })
    }

    /// Decides, finding out whatever the decision asks for. What is `held` is left out.
    pub(super) async fn decide(
        &self,
        seen: &mut Gathered,
        pass: Pass,
        afresh: &BTreeSet<DefguardId>,
        held: &BTreeMap<DefguardId, BTreeSet<Harm>>,
    ) -> Result<Plan, Failure> {
        let postponed = seen.postponed(afresh);
        for _ in 0..MOST_ROUNDS {
            match decide(&seen.scene(pass, afresh, &postponed, held)) {
                Decision::Plan(plan) => return Ok(plan),
                Decision::Ask(questions) => self.find_answers(questions, &mut seen.answers).await?,
            }
        }
        Err(no_end())
    }

    /// Finds out what a decision asks for.
    pub(super) async fn find_answers(
        &self,
        questions: BTreeSet<Question>,
        answers: &mut Answers,
    ) -> Result<(), Failure> {
        let servers = (self.directory.as_ref(), self.homeserver.as_ref());
        answer(servers, questions, answers, self.options.concurrency).await
    }
}

/// The store was begun for other servers: ids of people mean nothing in another Defguard, and MXIDs nothing on another
/// homeserver.
fn foreign(differences: &[String]) -> Failure {
    Failure::new(
        Peer::Store,
        FailureClass::NeedsPerson,
        "checking which servers the store belongs to",
        format!("this store belongs to another pair of servers: {}", differences.join("; ")),
    )
    .mend(
        "put the config right, or use another state.directory, or move this one away; accounts that are ours are found \
         again with `state rebuild`",
    )
}

/// A decision that goes on asking, which would be an error of ours.
pub(super) fn no_end() -> Failure {
    Failure::new(
        Peer::Synapse,
        FailureClass::Malformed,
        "finding out what the accounts are",
        "each answer led to a further question, so nothing was changed",
    )
}

/// Finds the answers. A look-up that fails is an answer of its own (`Unknown`), unless so many fail without a clear
/// answer that the server counts as unusable.
async fn answer(
    (directory, homeserver): (&dyn Directory, &dyn Homeserver),
    questions: BTreeSet<Question>,
    answers: &mut Answers,
    concurrency: usize,
) -> Result<(), Failure> {
    enum Found {
        Account(Mxid, Lookup<crate::domain::Account>),
        ExternalId(crate::domain::ExternalId, Lookup<Mxid>),
        Email(crate::domain::Email, Lookup<Mxid>),
        Sessions(Mxid, Lookup<BTreeSet<crate::domain::Session>>),
        Person(crate::domain::Username, Lookup<crate::domain::Person>),
        GroupMembers(Lookup<BTreeSet<crate::domain::Username>>),
    }
    let mut found = stream::iter(questions)
        .map(|question| async move {
            match question {
                Question::Account(mxid) => {
                    let lookup = homeserver.get(&mxid).await;
                    Found::Account(mxid, lookup)
                }
                Question::ExternalId(id) => {
                    let lookup = homeserver.find_by_external_id(&id).await;
                    Found::ExternalId(id, lookup)
                }
                Question::Email(email) => {
                    let lookup = homeserver.find_by_email(&email).await;
                    Found::Email(email, lookup)
                }
                Question::Sessions(mxid) => {
                    let lookup = read(homeserver.sessions(&mxid).await);
                    Found::Sessions(mxid, lookup)
                }
                Question::Person(username) => {
                    let lookup = directory.find(&username).await;
                    Found::Person(username, lookup)
                }
                Question::GroupMembers => Found::GroupMembers(read(directory.group_members().await)),
            }
        })
        .buffer_unordered(concurrency.max(1));
    let mut failed = 0;
    while let Some(found) = found.next().await {
        let failure = match found {
            Found::Account(mxid, lookup) => keep(&mut answers.accounts, mxid, lookup),
            Found::ExternalId(id, lookup) => keep(&mut answers.external_ids, id, lookup),
            Found::Email(email, lookup) => keep(&mut answers.emails, email, lookup),
            Found::Sessions(mxid, lookup) => keep(&mut answers.sessions, mxid, lookup),
            Found::Person(username, lookup) => keep(&mut answers.people, username, lookup),
            Found::GroupMembers(lookup) => {
                let failure = unknown(&lookup);
                answers.group_members = Some(lookup);
                failure
            }
        };
        // What the server refuses of one person says nothing of the others.
        if let Some(failure) = failure.filter(|failure| failure.class != FailureClass::Permanent) {
            failed += 1;
            if failed >= MOST_FAILED_LOOKUPS || failure.class == FailureClass::Unauthorised {
                return Err(failure);
            }
        }
    }
    Ok(())
}

fn read<T>(result: Result<T, Failure>) -> Lookup<T> {
    result.map_or_else(Lookup::Unknown, Lookup::Found)
}

fn keep<K: Ord, T>(answers: &mut BTreeMap<K, Lookup<T>>, key: K, lookup: Lookup<T>) -> Option<Failure> {
    let failure = unknown(&lookup);
    answers.insert(key, lookup);
    failure
}

fn unknown<T>(lookup: &Lookup<T>) -> Option<Failure> {
    match lookup {
        Lookup::Unknown(failure) => Some(failure.clone()),
        Lookup::Found(_) | Lookup::Absent => None,
    }
}

fn rules(options: &Options, info: &HomeserverInfo) -> Rules {
    Rules {
        server: info.server_name.clone(),
        own: info.own.clone(),
        auth_provider: options.auth_provider.clone(),
        instance: options.instance.clone(),
        on_conflict: options.on_conflict,
        display_name: options.display_name,
        email: options.email,
        scope: options.scope.clone(),
        off_boarding: options.off_boarding.clone(),
    }
}
