//! `check`: the config, both servers, our rights there, and the templates on every person.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use serde::Serialize;

use super::{
    arguments::Global,
    output::{Exit, say, say_json, table},
    session,
};
use crate::{
    assemble::{self, SystemClock},
    config::Settings,
    domain::{Completeness, Failure, Listing, Mapped},
    mapping::{Scopes, Templates},
    ports::{Clock, HomeserverInfo},
};

/// How many people an item names before it only counts them.
const NAMED: usize = 8;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Item {
    level: Level,
    what: String,
    found: String,
    mend: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

pub(super) async fn check(global: &Global) -> Result<Exit, Exit> {
    let (settings, templates) = session::load(&global.config)?;
    session::log(&settings, false);
    let mut items = vec![Item::ok("config", format!("{} is understood", global.config.display()))];
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let info = match assemble::homeserver(&settings) {
        Ok(homeserver) => homeserver.identify().await,
        Err(failure) => Err(failure),
    };
    let listing = match assemble::directory(&settings, clock) {
        Ok(directory) => directory.list().await,
        Err(failure) => Err(failure),
    };
    let info = note_homeserver(&mut items, &settings, info);
    if let (Some(listing), Some(info)) = (note_directory(&mut items, listing), info) {
        note_people(&mut items, &settings, &templates, &listing, &info);
    }
    let worst = items.iter().map(|item| item.level).fold(Level::Ok, |worst, level| match (worst, level) {
        (Level::Error, _) | (_, Level::Error) => Level::Error,
        (Level::Warning, _) | (_, Level::Warning) => Level::Warning,
        _ => Level::Ok,
    });
    if global.json {
        say_json(&items)?;
    } else {
        say(&show(&items));
    }
    Ok(if worst == Level::Error { Exit::Unusable } else { Exit::Done })
}

impl Item {
    fn ok(what: &str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.to_owned(), found: found.into(), mend: None }
    }

    fn warning(what: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warning, what: what.to_owned(), found: found.into(), mend: Some(mend.into()) }
    }

    fn failure(what: &str, failure: &Failure) -> Self {
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

fn note_directory(items: &mut Vec<Item>, listing: Result<Listing, Failure>) -> Option<Listing> {
    let listing = match listing {
        Ok(listing) => listing,
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
    Some(listing)
}

/// Where a template leaves a hole, where two people meet, and what a login would make of the fields that only
/// Defguard's own list has.
fn note_people(
    items: &mut Vec<Item>,
    settings: &Settings,
    templates: &Templates,
    listing: &Listing,
    info: &HomeserverInfo,
) {
    let scopes = Scopes::new(settings.defguard.scopes.iter().cloned());
    let scope = assemble::options(settings).scope;
    let mut holes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut localparts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut differ: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut looked_at = 0;
    for person in listing.people().values().filter(|person| person.is_active && scope.includes(person)) {
        looked_at += 1;
        let mapped = templates.map(person, &scopes, &info.server_name);
        for hole in holes_of(&mapped) {
            holes.entry(hole).or_default().push(person.username.to_string());
        }
        if let Ok(localpart) = &mapped.localpart {
            localparts.entry(localpart.to_string()).or_default().push(person.username.to_string());
        }
        let login = templates.map_as_login(person, &scopes, &info.server_name);
        for field in differences(&mapped, &login) {
            differ.entry(field).or_default().push(person.username.to_string());
        }
    }
    items.push(Item::ok("templates", format!("rendered for {looked_at} active people in scope")));
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
            format!("{} all become @{localpart}", named(&people)),
            "none of them gets an account of that name until they are told apart; see `explain`",
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

fn named(people: &[String]) -> String {
    let mut text = people.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if people.len() > NAMED {
        let _ = write!(text, " and {} more", people.len() - NAMED);
    }
    text
}

fn show(items: &[Item]) -> String {
    let mut rows = table(["", "what", "found", "what to do"]);
    for item in items {
        let mark = match item.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "ERROR",
        };
        rows.add_row([
            mark.to_owned(),
            item.what.clone(),
            item.found.clone(),
            item.mend.clone().unwrap_or_default(),
        ]);
    }
    rows.to_string()
}
