//! Asks both servers for everything that is judged. It judges nothing itself.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};

use crate::{
    assemble::{self, SystemClock},
    config::Settings,
    defguard::{self, Defguard},
    diagnosis,
    domain::{Account, AccountSummary, Failure, FailureClass, Listing, Lookup, Mxid, Username},
    ports::{Clock, Directory as _, Homeserver as _, HomeserverInfo},
    synapse::Synapse,
};

/// So many accounts are read to see which logins they carry.
const SAMPLE: usize = 100;

/// What Synapse says.
pub(super) struct OfSynapse {
    pub(super) info: Result<HomeserverInfo, Failure>,
    /// The rest is only asked if Synapse can be reached at all.
    pub(super) flows: Option<Result<diagnosis::LoginFlows, Failure>>,
    pub(super) redirect: Option<Result<String, Failure>>,
    /// How far its clock is ahead of ours.
    pub(super) clock: Option<TimeDelta>,
    /// The account of our token.
    pub(super) own: Option<Account>,
    /// Some accounts of people, whole.
    pub(super) accounts: Vec<Account>,
}

/// What Defguard says.
pub(super) struct OfDefguard {
    /// Everybody, and the username that is ours there.
    pub(super) people: Result<(Listing, Option<Username>), Failure>,
    /// The rest is only asked if Defguard can be reached at all.
    pub(super) discovery: Option<Result<diagnosis::Discovery, Failure>>,
    pub(super) keys: Option<Result<usize, Failure>>,
    pub(super) apps: Option<Result<Vec<diagnosis::App>, Failure>>,
    pub(super) licence: Option<Result<diagnosis::Licence, Failure>>,
    /// How far its clock is ahead of ours.
    pub(super) clock: Option<TimeDelta>,
}

pub(super) async fn both(settings: &Settings) -> (OfSynapse, OfDefguard) {
    tokio::join!(of_synapse(settings), of_defguard(settings))
}

async fn of_synapse(settings: &Settings) -> OfSynapse {
    let nothing =
        |info| OfSynapse { info, flows: None, redirect: None, clock: None, own: None, accounts: Vec::new() };
    let synapse = match assemble::synapse(settings) {
        Ok(synapse) => synapse,
        Err(failure) => return nothing(Err(failure)),
    };
    let info = synapse.identify().await;
    match &info {
        // How people log in can be asked without a token.
        Err(failure) if failure.class != FailureClass::Unauthorised => return nothing(info),
        _ => {}
    }
    let auth_provider = &settings.synapse.auth_provider;
    let (flows, clock) = tokio::join!(synapse.login_flows(), ahead(synapse.clock()));
    let flows =
        flows.map(|flows| diagnosis::LoginFlows { password: flows.password, providers: flows.providers });
    let offered = flows.as_ref().is_ok_and(|flows| flows.providers.contains(auth_provider));
    let redirect = if offered { Some(synapse.login_redirect(auth_provider).await) } else { None };
    let (own, accounts) = match &info {
        Ok(info) => (synapse.get(&info.own).await.found().cloned(), sample(&synapse, settings).await),
        Err(_) => (None, Vec::new()),
    };
    OfSynapse { info, flows: Some(flows), redirect, clock, own, accounts }
}

/// Some accounts of people, spread over all of them.
async fn sample(synapse: &Synapse, settings: &Settings) -> Vec<Account> {
    let Ok(all) = synapse.list().await else { return Vec::new() };
    let chosen = spread(&all);
    let read = stream::iter(chosen)
        .map(|mxid| async move {
            match synapse.get(&mxid).await {
                Lookup::Found(account) => Some(account),
                Lookup::Absent | Lookup::Unknown(_) => None,
            }
        })
        .buffered(settings.synapse.concurrency.max(1));
    read.filter_map(|account| async move { account }).collect().await
}

fn spread(all: &BTreeMap<Mxid, AccountSummary>) -> Vec<Mxid> {
    let people: Vec<&Mxid> = all
        .values()
        .filter(|account| !account.guest && account.user_type.is_none())
        .map(|account| &account.mxid)
        .collect();
    let step = people.len().div_ceil(SAMPLE).max(1);
    people.into_iter().step_by(step).cloned().collect()
}

async fn of_defguard(settings: &Settings) -> OfDefguard {
    let nothing =
        |people| OfDefguard { people, discovery: None, keys: None, apps: None, licence: None, clock: None };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let defguard = match assemble::defguard(settings, clock) {
        Ok(defguard) => defguard,
        Err(failure) => return nothing(Err(failure)),
    };
    let people = people(&defguard, settings).await;
    if people.is_err() {
        return nothing(people);
    }
    let (discovery, keys, apps, licence, clock) = tokio::join!(
        defguard.discovery(),
        defguard.signing_keys(),
        defguard.apps(),
        defguard.licence(),
        ahead(defguard.clock())
    );
    OfDefguard {
        people,
        discovery: Some(discovery.map(discovered)),
        keys: Some(keys),
        apps: Some(apps.map(|apps| apps.into_iter().map(app).collect())),
        licence: Some(licence.map(licensed)),
        clock,
    }
}

async fn people(defguard: &Defguard, settings: &Settings) -> Result<(Listing, Option<Username>), Failure> {
    let listing = defguard.list().await?;
    let own = if settings.scope.include_own_account { None } else { defguard.own_username().await? };
    Ok((listing, own))
}

/// How far a server's clock is ahead of ours: its answer was made about in the middle of the request, and says whole
/// seconds, which are half a second too few on the average.
async fn ahead(clock: impl Future<Output = Result<DateTime<Utc>, Failure>>) -> Option<TimeDelta> {
    let before = SystemClock.now();
    let there = clock.await.ok()?;
    let here = before + (SystemClock.now() - before) / 2;
    Some(there + TimeDelta::milliseconds(500) - here)
}

fn discovered(discovery: defguard::Discovery) -> diagnosis::Discovery {
    diagnosis::Discovery {
        issuer: discovery.issuer,
        endpoints: vec![
            ("authorization_endpoint", discovery.authorization_endpoint),
            ("token_endpoint", discovery.token_endpoint),
            ("userinfo_endpoint", discovery.userinfo_endpoint),
            ("jwks_uri", discovery.jwks_uri),
        ],
    }
}

fn app(app: defguard::App) -> diagnosis::App {
    diagnosis::App {
        client_id: app.client_id,
        name: app.data.name,
        redirect_uris: app.data.redirect_uris,
        scopes: app.data.scopes,
        enabled: app.data.enabled,
    }
}

fn licensed(licence: defguard::Licence) -> diagnosis::Licence {
    match (licence.present, licence.expired) {
        (false, _) => diagnosis::Licence::None,
        (true, true) => diagnosis::Licence::Expired,
        (true, false) => diagnosis::Licence::Active,
    }
}
