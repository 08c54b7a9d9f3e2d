//! `check`: the config, both servers, our rights there, the daemon, the disk, and the templates on every person.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::{
    arguments::Global,
    check_machine, log,
    output::{Exit, say, say_json},
    page::{self, Page, named},
    session,
};
use crate::{
    assemble::{self, SystemClock},
    config::{Finding, Settings},
    domain::{Completeness, Failure, Listing, Mapped, Mxid, Username},
    mapping::{Scopes, Templates},
    ports::{Clock, Directory, HomeserverInfo},
    reconcile::Scope,
};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(super) struct Item {
    level: Level,
    what: String,
    found: String,
    mend: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

pub(super) async fn check(global: &Global) -> Result<Exit, Exit> {
    let (settings, templates, warnings) = match session::read(&global.config) {
        Ok(read) => read,
        Err(findings) => {
            let items: Vec<Item> = findings.iter().map(Item::finding).collect();
            give(global, &items)?;
            return Err(Exit::Usage);
        }
    };
    log::begin(&settings.log, global, false);
    let mut items: Vec<Item> = warnings.iter().map(Item::finding).collect();
    items.push(Item::ok("config", format!("{} can be used", global.config.display())));
    check_machine::note(&mut items, &settings).await;
    let (info, people) = tokio::join!(homeserver(&settings), people(&settings));
    let info = note_homeserver(&mut items, &settings, info);
    let people = note_directory(&mut items, &settings, people);
    if let (Some((listing, scope)), Some(info)) = (people, info) {
        note_people(&mut items, &settings, &scope, &templates, &listing, &info);
    }
    give(global, &items)?;
    let worst = items.iter().map(|item| item.level).max();
    Ok(if worst == Some(Level::Error) { Exit::Unusable } else { Exit::Done })
}

fn give(global: &Global, items: &[Item]) -> Result<(), Exit> {
    if global.json {
        return say_json(&items);
    }
    say(&show(items, page::width()));
    Ok(())
}

async fn homeserver(settings: &Settings) -> Result<HomeserverInfo, Failure> {
    assemble::homeserver(settings)?.identify().await
}

/// Everybody in Defguard, and the username that is ours there.
async fn people(settings: &Settings) -> Result<(Listing, Option<Username>), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let directory: Arc<dyn Directory> = assemble::directory(settings, clock)?;
    let listing = directory.list().await?;
    let own = if settings.scope.include_own_account { None } else { directory.own_username().await? };
    Ok((listing, own))
}

impl Item {
    fn finding(finding: &Finding) -> Self {
        Self {
            level: if finding.is_error() { Level::Error } else { Level::Warning },
            what: "config".to_owned(),
            found: format!("{}: {}", finding.at, finding.problem),
            mend: Some(finding.mend.clone()),
        }
    }

    pub(super) fn ok(what: &str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.to_owned(), found: found.into(), mend: None }
    }

    pub(super) fn warning(what: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warning, what: what.to_owned(), found: found.into(), mend: Some(mend.into()) }
    }

    pub(super) fn failure(what: &str, failure: &Failure) -> Self {
        let found = failure.to_string();
        Self { level: Level::Error, what: what.to_owned(), found, mend: failure.mend.clone() }
    }
}

fn note_homeserver(
    items: &mut Vec<Item>,
    settings: &Settings,
    info: Result<HomeserverInfo, Failure>,
) -> Option<HomeserverInfo> {
    let info = match info {
        Ok(info) => info,
        Err(failure) => {
            items.push(Item::failure("Synapse", &failure));
            return None;
        }
    };
    items.push(Item::ok(
        "Synapse",
        format!("version {}, server name {}, we are its admin {}", info.version, info.server_name, info.own),
    ));
    if let Some(expected) = &settings.synapse.server_name
        && *expected != info.server_name
    {
        items.push(Item::warning(
            "Synapse",
            format!("homeserver.yaml says that its name is {expected}"),
            "see whether synapse.url and synapse.homeserver_config are of the same homeserver",
        ));
    }
    if info.open_registration {
        items.push(Item::ok(
            "Synapse",
            "people can register without Defguard, so accounts are made with an empty request first",
        ));
    }
    Some(info)
}

fn note_directory(
    items: &mut Vec<Item>,
    settings: &Settings,
    people: Result<(Listing, Option<Username>), Failure>,
) -> Option<(Listing, Scope)> {
    let (listing, own) = match people {
        Ok(people) => people,
        Err(failure) => {
            items.push(Item::failure("Defguard", &failure));
            return None;
        }
    };
    items.push(match listing.completeness() {
        Completeness::Complete => Item::ok("Defguard", format!("{} people", listing.people().len())),
        Completeness::Incomplete(why) => Item::warning(
            "Defguard",
            format!("the list of {} people is incomplete: {}", listing.people().len(), why.join("; ")),
            "run it again; if it stays so, see whether somebody writes to Defguard all the time",
        ),
    });
    let mut scope = assemble::options(settings).scope;
    if !settings.scope.include_own_account {
        scope.own_username = own;
    }
    Some((listing, scope))
}

/// Where a template leaves a hole, where two people meet, and what a login would make of the fields that only
/// Defguard's own list has.
fn note_people(
    items: &mut Vec<Item>,
    settings: &Settings,
    scope: &Scope,
    templates: &Templates,
    listing: &Listing,
    info: &HomeserverInfo,
) {
    let scopes = Scopes::new(settings.defguard.scopes.iter().cloned());
    let mut holes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut localparts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut differ: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut ourselves = Vec::new();
    let mut looked_at = 0;
    for person in listing.people().values().filter(|person| person.is_active && scope.includes(person)) {
        looked_at += 1;
        let mapped = templates.map(person, &scopes, &info.server_name);
        for hole in holes_of(&mapped) {
            holes.entry(hole).or_default().push(person.username.to_string());
        }
        if let Ok(localpart) = &mapped.localpart {
            localparts.entry(localpart.to_string()).or_default().push(person.username.to_string());
            if Mxid::new(localpart, &info.server_name) == info.own {
                ourselves.push(person.username.to_string());
            }
        }
        let login = templates.map_as_login(person, &scopes, &info.server_name);
        for field in differences(&mapped, &login) {
            differ.entry(field).or_default().push(person.username.to_string());
        }
    }
    items.push(Item::ok("templates", format!("rendered for all active people in scope: {looked_at}")));
    for (hole, people) in holes {
        items.push(Item::warning(
            "templates",
            format!("{hole}, for {}", named(&people)),
            "correct these people in Defguard, or write a template that works for them",
        ));
    }
    for (localpart, people) in localparts.into_iter().filter(|(_, people)| people.len() > 1) {
        items.push(Item::warning(
            "templates",
            format!("{} become the same, @{localpart}", named(&people)),
            "whoever of them has that account already keeps it, the others get none until they are told apart; see \
             `explain` about each of them",
        ));
    }
    if !ourselves.is_empty() {
        items.push(Item::warning(
            "templates",
            format!(
                "{} would become {}, the account whose token this service uses; it is never touched, so they get no \
                 account",
                named(&ourselves),
                info.own
            ),
            "make an account for this service in Synapse that has a name of its own, and take its token",
        ));
    }
    for (field, people) in differ {
        items.push(Item::warning(
            "templates",
            format!("a login would give another {field} than the sync, for {}", named(&people)),
            "the template uses fields that Defguard does not send at a login (first_name, last_name, username, phone …), \
             where Synapse sees nothing: use claims instead (given_name, family_name, preferred_username, phone_number), \
             here and in homeserver.yaml",
        ));
    }
}

fn holes_of(mapped: &Mapped) -> Vec<String> {
    let mut holes = Vec::new();
    if let Err(error) = &mapped.subject {
        holes.push(format!("subject_template gives nothing usable ({error}): they get no account"));
    }
    if let Err(error) = &mapped.localpart {
        holes.push(format!("localpart_template gives nothing usable ({error}): they get no account"));
    }
    match &mapped.display_name {
        Err(error) => holes.push(format!("display_name_template gives nothing usable ({error})")),
        Ok(None) => {
            holes.push("display_name_template gives nothing, so Synapse takes the localpart".to_owned())
        }
        Ok(Some(_)) => {}
    }
    match &mapped.email {
        Err(error) => {
            holes.push(format!("email_template gives nothing usable ({error}): the account has no address"))
        }
        Ok(None) => holes.push("email_template gives nothing: the account has no address".to_owned()),
        Ok(Some(_)) => {}
    }
    holes
}

fn differences(sync: &Mapped, login: &Mapped) -> Vec<&'static str> {
    let mut fields = Vec::new();
    if sync.display_name.as_ref().ok() != login.display_name.as_ref().ok() {
        fields.push("display name");
    }
    if sync.email.as_ref().ok() != login.email.as_ref().ok() {
        fields.push("e-mail address");
    }
    fields
}

/// The findings, and in the last line whether all is well.
fn show(items: &[Item], width: Option<usize>) -> String {
    let mut page = Page::new(width);
    for item in items {
        let mark = match item.level {
            Level::Ok => "ok",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        page.line(&format!("{mark:<8} {:<10} ", item.what), &item.found);
        if let Some(mend) = &item.mend {
            page.line(&format!("{:19} → ", ""), mend);
        }
    }
    let count = |level| items.iter().filter(|item| item.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let times = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    page.gap();
    page.line(
        "",
        &match (errors, warnings) {
            (0, 0) => "All is well.".to_owned(),
            (0, warnings) => format!("It works; {} to look at.", times(warnings, "warning")),
            (errors, 0) => format!("It cannot work so: {}.", times(errors, "error")),
            (errors, warnings) => {
                format!("It cannot work so: {} and {}.", times(errors, "error"), times(warnings, "warning"))
            }
        },
    );
    page.finish()
}
