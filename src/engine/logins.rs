//! Finds out what Synapse would do at people's next logins.

use std::collections::{BTreeMap, BTreeSet};

use super::{Engine, Progress, gather::Gathered};
use crate::{
    domain::{DefguardId, ExternalId, Failure, Lookup, Mapped, Mxid, Person},
    forecast::{Forecast, Forecasts, Known, Login, Names, judge, next_login},
    reconcile::Question,
};

/// So many people are looked up before it is told how far it is.
const TOLD_EVERY: usize = 50;

impl Engine {
    /// Forecasts the next login of everybody whom the list of people shows, or of `only` these. Nothing is changed.
    pub async fn logins(
        &self,
        only: &BTreeSet<String>,
        progress: &dyn Progress,
    ) -> Result<Forecasts, Failure> {
        let _turn = self.turn(progress).await;
        let found = async {
            let mut seen = self.gather().await?;
            self.recover(&mut seen, true).await?;
            let wanted: BTreeSet<DefguardId> = match only.is_empty() {
                true => seen.listing.people().keys().copied().collect(),
                false => only.iter().filter_map(|name| seen.resolve(name)).collect(),
            };
            let people = self.forecast(&mut seen, &wanted, progress).await?;
            Ok((seen, people))
        };
        let (seen, people) = self.read(found).await?;
        let usernames = seen.listing.people().iter().map(|(id, person)| (*id, person.username.clone()));
        let linked = seen.links.iter().map(|(id, link)| (*id, link.username.clone()));
        Ok(Forecasts {
            rules: self.login_rules,
            complete: seen.listing.is_complete(),
            people,
            usernames: linked.chain(usernames).collect(),
        })
    }

    /// The next logins of `wanted`, by id; whom the list of people does not show is left out.
    pub(super) async fn forecast(
        &self,
        seen: &mut Gathered,
        wanted: &BTreeSet<DefguardId>,
        progress: &dyn Progress,
    ) -> Result<Vec<Forecast>, Failure> {
        let people: Vec<(Person, Mapped)> = seen
            .listing
            .people()
            .iter()
            .filter(|(id, _)| wanted.contains(id))
            .map(|(_, person)| (person.clone(), (self.login_mapper)(person, &seen.info.server_name)))
            .collect();
        let total = people.len();
        for (n, some) in people.chunks(TOLD_EVERY).enumerate() {
            self.find_holders(seen, some).await?;
            progress.step((n * TOLD_EVERY + some.len()).min(total), total);
        }
        let names = Names::new(&seen.info.server_name, &seen.accounts);
        let owners = seen.links.iter().map(|(id, link)| (&link.mxid, *id)).collect();
        Ok(people
            .iter()
            .map(|(person, mapped)| {
                let login = next_login(person, mapped, &self.holder(seen, mapped), &names, self.login_rules);
                let judgement = judge(person, &login, &known(seen, &owners, person, &login));
                Forecast { id: person.id, username: person.username.clone(), login, judgement }
            })
            .collect())
    }

    fn login_id(&self, mapped: &Mapped) -> Option<ExternalId> {
        mapped.subject.as_ref().ok().map(|subject| ExternalId::login(&self.options.auth_provider, subject))
    }

    /// What Synapse itself would find.
    fn holder(&self, seen: &Gathered, mapped: &Mapped) -> Lookup<Mxid> {
        let known = self.login_id(mapped).and_then(|id| seen.answers.external_ids.get(&id));
        known.cloned().unwrap_or(Lookup::Absent)
    }

    /// Looks up who carries the logins of some people, and whose accounts those are to which no link leads.
    async fn find_holders(&self, seen: &mut Gathered, people: &[(Person, Mapped)]) -> Result<(), Failure> {
        let ids = people
            .iter()
            .filter(|(person, _)| person.is_active)
            .filter_map(|(_, mapped)| self.login_id(mapped))
            .filter(|id| !seen.answers.external_ids.contains_key(id))
            .map(Question::ExternalId)
            .collect();
        self.find_answers(ids, &mut seen.answers).await?;
        let linked: BTreeSet<&Mxid> = seen.links.values().map(|link| &link.mxid).collect();
        let unknown = people
            .iter()
            .filter_map(|(_, mapped)| self.holder(seen, mapped).found().cloned())
            .filter(|mxid| !linked.contains(mxid) && !seen.answers.accounts.contains_key(mxid))
            .map(Question::Account)
            .collect();
        self.find_answers(unknown, &mut seen.answers).await
    }
}

fn known(seen: &Gathered, owners: &BTreeMap<&Mxid, DefguardId>, person: &Person, login: &Login) -> Known {
    let owner = |mxid: &Mxid| owner(seen, owners, mxid);
    let opened = match login {
        Login::Opens { mxid } | Login::Links { mxid } => Some(mxid),
        _ => None,
    };
    let linked = seen.links.get(&person.id).map(|link| link.mxid.clone());
    let marked = || opened.filter(|mxid| owner(mxid) == Some(person.id)).cloned();
    Known {
        in_scope: seen.rules.scope.includes(person),
        account: linked.or_else(marked),
        owner: opened.and_then(owner).filter(|owner| *owner != person.id),
        is_service: seen.rules.scope.own_username.as_ref() == Some(&person.username),
    }
}

/// Whose account it is, by a link or by the ownership marker.
fn owner(seen: &Gathered, owners: &BTreeMap<&Mxid, DefguardId>, mxid: &Mxid) -> Option<DefguardId> {
    owners.get(mxid).copied().or_else(|| {
        let account = seen.answers.accounts.get(mxid)?.found()?;
        account.owner(&seen.rules.instance)
    })
}
