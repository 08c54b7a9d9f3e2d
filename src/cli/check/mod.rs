//! `check`: the config, both servers, our rights there, the login between them, the daemon, the disk, and the templates
//! on every person.

mod gather;
mod machine;
mod show;

use std::collections::BTreeSet;

use self::gather::{OfDefguard, OfSynapse};
use super::{
    arguments::{Check, Global},
    log,
    output::Exit,
    session,
};
use crate::{
    assemble,
    command::{Answer, Command},
    config::{DefguardAuth, Settings, homeserver_yaml::Facts},
    diagnosis::{self as judge, Clocks, Finding, Kind, Level, Policies, SsoRedirect, Wanted},
    domain::{Completeness, DefguardId, Failure, Person},
    forecast::Forecasts,
    mapping::{Scopes, Templates},
};

pub(super) async fn check(global: &Global, verb: &Check) -> Result<Exit, Exit> {
    let (settings, templates, warnings) = match session::read(&global.config) {
        Ok(read) => read,
        Err(findings) => {
            let findings: Vec<Finding> = findings.iter().map(Finding::from).collect();
            show::give(global, verb, &findings, None)?;
            return Err(Exit::Usage);
        }
    };
    log::begin(&settings.log, global, false);
    let mut findings: Vec<Finding> = warnings.iter().map(Finding::from).collect();
    findings.push(Finding::ok(Kind::Config, "config", format!("{} can be used", global.config.display())));
    machine::look(&mut findings, &settings).await;
    let (synapse, defguard) = gather::both(&settings).await;
    let facts = settings.synapse.homeserver.as_ref();
    of_homeserver(&mut findings, &settings, &synapse);
    of_homeserver_config(&mut findings, &settings, facts);
    of_directory(&mut findings, &settings, &defguard);
    of_login(&mut findings, &settings, &synapse, &defguard);
    findings.extend(judge::judge_clocks(Clocks {
        defguard: defguard.clock,
        synapse: synapse.clock,
        one_time_codes: matches!(&settings.defguard.auth, DefguardAuth::Session { totp_secret: Some(_), .. }),
    }));
    let reachable = synapse.info.is_ok() && defguard.people.is_ok();
    of_people(&mut findings, &settings, &templates, &synapse, &defguard);
    let mut logins = None;
    if reachable {
        let active = active(&settings, &defguard).iter().map(|person| person.id).collect();
        of_links(&mut findings, &settings, &active).await;
        if verb.people {
            logins = of_logins(&mut findings, &settings).await;
        }
    }
    of_notices(&mut findings, &settings).await;
    show::give(global, verb, &findings, logins.as_ref())?;
    let worst = findings.iter().map(|finding| finding.level).max();
    Ok(if worst == Some(Level::Error) { Exit::Unusable } else { Exit::Done })
}

/// What could not be asked. What else is wrong was found all the same.
fn unasked(kind: Kind, about: &'static str, level: Level, failure: &Failure) -> Finding {
    Finding { level, mend: failure.mend.clone(), ..Finding::ok(kind, about, failure.to_string()) }
}

fn of_homeserver(findings: &mut Vec<Finding>, settings: &Settings, synapse: &OfSynapse) {
    let info = match &synapse.info {
        Ok(info) => info,
        Err(failure) => {
            findings.push(unasked(Kind::Homeserver, "Synapse", Level::Error, failure));
            return;
        }
    };
    findings.push(Finding::ok(
        Kind::Homeserver,
        "Synapse",
        format!("version {}, server name {}, we are its admin {}", info.version, info.server_name, info.own),
    ));
    if let Some(expected) = &settings.synapse.server_name
        && *expected != info.server_name
    {
        findings.push(Finding::warning(
            Kind::ServerName,
            "Synapse",
            format!("homeserver.yaml says that its name is {expected}"),
            "see whether synapse.url and synapse.homeserver_config are of the same homeserver",
        ));
    }
    if info.open_registration && settings.synapse.homeserver.is_none() {
        findings.push(Finding::ok(
            Kind::OpenRegistration,
            "Synapse",
            "people can register without Defguard, so accounts are made with an empty request first",
        ));
    }
    if let Some(own) = &synapse.own {
        let (provider, instance) = (&settings.synapse.auth_provider, &settings.defguard.instance);
        findings.extend(judge::judge_own_account(own, provider, instance));
    }
}

fn of_homeserver_config(findings: &mut Vec<Finding>, settings: &Settings, facts: Option<&Facts>) {
    match facts {
        Some(facts) => {
            let policies =
                Policies { display_name: settings.accounts.display_name, email: settings.accounts.email };
            findings.push(
                Finding::ok(Kind::HomeserverConfig, "Synapse", "its own config is read").at(&facts.idp_id.at),
            );
            findings.extend(judge::judge_homeserver_config(facts, policies));
        }
        None => findings.push(
            Finding::advice(
                Kind::HomeserverConfig,
                "Synapse",
                "homeserver.yaml is not read, so what stands there is not checked",
                "name its files in synapse.homeserver_config, and leave templates, scopes and idp_id out here",
            )
            .because("templates that are written twice come to differ one day"),
        ),
    }
}

fn of_directory(findings: &mut Vec<Finding>, settings: &Settings, defguard: &OfDefguard) {
    let listing = match &defguard.people {
        Ok((listing, _)) => listing,
        Err(failure) => {
            findings.push(unasked(Kind::Directory, "Defguard", Level::Error, failure));
            return;
        }
    };
    let count = listing.people().len();
    findings.push(match listing.completeness() {
        Completeness::Complete => Finding::ok(Kind::Directory, "Defguard", format!("{count} people")),
        Completeness::Incomplete(why) => Finding::warning(
            Kind::Directory,
            "Defguard",
            format!("the list of {count} people is incomplete: {}", why.join("; ")),
            "run it again; if it stays so, see whether somebody writes to Defguard all the time",
        ),
    });
    match &defguard.licence {
        Some(Ok(licence)) => {
            let by_token = matches!(settings.defguard.auth, DefguardAuth::Token(_));
            findings.push(judge::judge_licence(*licence, by_token));
        }
        Some(Err(failure)) => {
            findings.push(unasked(Kind::Licence, "Defguard", Level::Warning, failure));
        }
        None => {}
    }
}

/// The login between the two.
fn of_login(findings: &mut Vec<Finding>, settings: &Settings, synapse: &OfSynapse, defguard: &OfDefguard) {
    let facts = settings.synapse.homeserver.as_ref();
    let auth_provider = &settings.synapse.auth_provider;
    match &defguard.keys {
        Some(Ok(keys)) => findings.push(judge::judge_keys(*keys)),
        Some(Err(failure)) => {
            findings.push(unasked(Kind::NoSigningKey, "Defguard", Level::Warning, failure));
        }
        None => {}
    }
    let discovery = match &defguard.discovery {
        Some(Ok(discovery)) => {
            findings.extend(judge::judge_discovery(discovery, facts));
            Some(discovery)
        }
        Some(Err(failure)) => {
            findings.push(unasked(Kind::IssuerDiffers, "Defguard", Level::Warning, failure));
            None
        }
        None => None,
    };
    match &synapse.flows {
        Some(Ok(flows)) => {
            findings.push(judge::judge_offer(flows, auth_provider));
            if flows.password && facts.is_none() {
                let found = "people can log in with passwords that Synapse keeps, beside Defguard";
                findings.push(Finding::ok(Kind::LocalPasswords, "login", found));
            }
            findings.extend(judge::judge_external_ids(&synapse.accounts, auth_provider, &flows.providers));
        }
        Some(Err(failure)) => findings.push(unasked(Kind::Provider, "login", Level::Warning, failure)),
        None => {}
    }
    let redirect = match &synapse.redirect {
        Some(Ok(location)) => SsoRedirect::read(location),
        Some(Err(failure)) => {
            findings.push(unasked(Kind::ProviderUnreachable, "login", Level::Error, failure));
            None
        }
        None => None,
    };
    if let Some(redirect) = &redirect {
        findings.extend(judge::judge_running(redirect, facts, discovery));
    }
    match &defguard.apps {
        Some(Ok(apps)) => {
            if let Some(wanted) = wanted(settings, redirect.as_ref()) {
                findings.extend(judge::judge_app(apps, &wanted, facts));
            }
        }
        Some(Err(failure)) => findings.push(unasked(Kind::AppMissing, "login", Level::Warning, failure)),
        None => {}
    }
}

/// The app that a login uses: as homeserver.yaml says, or else as the running Synapse shows it.
fn wanted(settings: &Settings, redirect: Option<&SsoRedirect>) -> Option<Wanted> {
    let facts = settings.synapse.homeserver.as_ref();
    let written = facts.and_then(|facts| facts.entry.client_id.as_ref()).map(|given| given.value.clone());
    Some(Wanted {
        client_id: written.or_else(|| redirect.map(|redirect| redirect.client_id.clone()))?,
        redirect_uri: redirect
            .map(|redirect| redirect.redirect_uri.clone())
            .or_else(|| facts.and_then(Facts::redirect_uri)),
        scopes: match redirect {
            Some(redirect) if facts.is_none() => redirect.scopes.clone(),
            _ => settings.defguard.scopes.clone(),
        },
    })
}

/// The room for notices.
async fn of_notices(findings: &mut Vec<Finding>, settings: &Settings) {
    let (Some(board), Some(notices)) = (assemble::noticeboard(settings), &settings.notices) else { return };
    findings.push(match board.examine().await {
        Ok(()) => Finding::ok(Kind::Notices, "notices", format!("can be sent to {}", notices.room)),
        Err(failure) => Finding {
            level: Level::Error,
            mend: failure.mend,
            ..Finding::ok(Kind::Notices, "notices", format!("{}: {}", failure.what, failure.why))
        },
    });
}

/// The active people whom the sync concerns.
fn active<'a>(settings: &Settings, defguard: &'a OfDefguard) -> Vec<&'a Person> {
    let Ok((listing, own)) = &defguard.people else { return Vec::new() };
    let mut scope = assemble::options(settings).scope;
    if !settings.scope.include_own_account {
        scope.own_username.clone_from(own);
    }
    listing.people().values().filter(|person| person.is_active && scope.includes(person)).collect()
}

fn of_people(
    findings: &mut Vec<Finding>,
    settings: &Settings,
    templates: &Templates,
    synapse: &OfSynapse,
    defguard: &OfDefguard,
) {
    let Ok(info) = &synapse.info else { return };
    if defguard.people.is_err() {
        return;
    }
    let scopes = Scopes::new(settings.defguard.scopes.iter().cloned());
    findings.extend(judge::judge_templates(
        &active(settings, defguard),
        &settings.templates,
        templates,
        &scopes,
        &info.server_name,
        &info.own,
    ));
}

/// Who is provisioned stands in the store, which belongs to the daemon if one is running.
async fn of_links(findings: &mut Vec<Finding>, settings: &Settings, active: &BTreeSet<DefguardId>) {
    match session::ask_quietly(settings, &Command::Status).await {
        Ok(Answer::Status(status)) => {
            let provisioned = status.links.keys().filter(|id| active.contains(id)).count();
            let facts = settings.synapse.homeserver.as_ref();
            findings.extend(judge::judge_provisioning(facts, provisioned, active.len()));
        }
        Ok(_) => {}
        Err(failure) => {
            findings.push(unasked(Kind::ProvisionedOnly, "state", Level::Warning, &failure));
        }
    }
}

async fn of_logins(findings: &mut Vec<Finding>, settings: &Settings) -> Option<Forecasts> {
    let command = Command::Logins { only: BTreeSet::new() };
    let failure = match session::ask_quietly(settings, &command).await {
        Ok(Answer::Logins(forecasts)) => {
            findings.push(judge::judge_logins(&forecasts));
            return Some(*forecasts);
        }
        Ok(Answer::Failed(failure)) | Err(failure) => failure,
        Ok(_) => return None,
    };
    findings.push(unasked(Kind::Logins, "logins", Level::Error, &failure));
    None
}
