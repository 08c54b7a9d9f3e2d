//! `journal`.

use std::collections::BTreeSet;

use super::{
    arguments::{self, Global},
    output::{Exit, moment, say, say_json},
    page::{self, Names, Page},
    session::{Session, unexpected},
};
use crate::{
    command::{Answer, Command},
    domain::{Change, Entry, RunId},
};

/// So many lines are shown if nothing else is said.
const NEWEST: usize = 50;

pub(super) async fn journal(global: &Global, verb: &arguments::Journal) -> Result<Exit, Exit> {
    let session = Session::open(global)?;
    let limit = verb.limit.or_else(|| verb.run.is_none().then_some(NEWEST));
    let command = Command::Journal { run: verb.run.map(RunId), person: verb.person.clone(), limit };
    let Answer::Journal { entries, usernames } = session.answer(&command).await? else {
        return Err(unexpected());
    };
    if global.json {
        say_json(&entries)?;
    } else if entries.is_empty() {
        say("The journal has nothing about that.");
    } else {
        let names = usernames.iter().map(|(id, username)| (*id, username)).collect();
        say(&show(&entries, &names, page::width()));
    }
    Ok(Exit::Done)
}

fn show(entries: &[Entry], names: &Names, width: Option<usize>) -> String {
    let mut page = Page::new(width);
    let rows = entries.iter().map(|entry| {
        let run = entry.run.map_or_else(|| "by hand".to_owned(), |run| run.to_string());
        [moment(entry.at), run, names.of(entry.id), entry.mxid.to_string(), words(&entry.change)]
    });
    page.table(["when (UTC)", "run", "person", "account", "change"], rows.collect());
    page.finish()
}

/// A change in words, with what was there before.
fn words(change: &Change) -> String {
    let text = |value: &Option<String>| match value {
        Some(value) => format!("\"{value}\""),
        None => "none".to_owned(),
    };
    match change {
        Change::Created => "created".to_owned(),
        Change::Adopted => "adopted".to_owned(),
        Change::Relinked => "link found again".to_owned(),
        Change::Linked => "linked".to_owned(),
        Change::Unlinked => "unlinked".to_owned(),
        Change::DisplayName { before, after } => format!("display name {} → {}", text(before), text(after)),
        Change::Emails { before, after } => moved("e-mail addresses", before, after),
        Change::ExternalIds { before, after } => moved("external ids", before, after),
        Change::Deactivated { why, before } => {
            let items = |items: Vec<String>| {
                if items.is_empty() { "none".to_owned() } else { items.join(", ") }
            };
            format!(
                "deactivated: {why}\n  display name {}\n  addresses {}\n  external ids {}\n  rooms {}",
                text(&before.display_name),
                items(before.threepids.iter().map(|threepid| threepid.address.clone()).collect()),
                items(before.external_ids.iter().map(ToString::to_string).collect()),
                items(before.rooms.iter().cloned().collect())
            )
        }
        Change::Locked { why, end_sessions } => {
            let sessions = if *end_sessions { "its sessions were to end" } else { "its sessions stayed" };
            format!("locked: {why}\n  not locked before; {sessions}")
        }
        Change::Unlocked { why } => format!("unlocked\n  locked before by this service: {why}"),
        Change::Reactivated => "reactivated\n  deactivated before by this service".to_owned(),
        Change::StrangerSessions { sessions } => {
            let devices: Vec<&str> = sessions.iter().map(|session| session.device.as_str()).collect();
            format!("ALARM: sessions that may be a stranger's: {}", devices.join(", "))
        }
        other => super::sync::change(other),
    }
}

/// What came to a list and what went, and what stayed, so that the list before can be told.
fn moved<T: ToString + Ord>(what: &str, before: &BTreeSet<T>, after: &BTreeSet<T>) -> String {
    let gone = before.difference(after).map(|item| format!("\n- {}", item.to_string()));
    let new = after.difference(before).map(|item| format!("\n+ {}", item.to_string()));
    let kept = before.intersection(after).map(|item| format!("\n  {}", item.to_string()));
    format!("{what}{}", gone.chain(new).chain(kept).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_list_shows_what_went_what_came_and_what_stayed() {
        let set = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<BTreeSet<_>>();
        let change = Change::Emails { before: set(&["a@x", "b@x"]), after: set(&["b@x", "c@x"]) };
        assert_eq!(words(&change), "e-mail addresses\n- a@x\n+ c@x\n  b@x");
    }

    #[test]
    fn a_display_name_shows_what_was_there_before() {
        let change = Change::DisplayName { before: None, after: Some("Ann  B ".to_owned()) };
        assert_eq!(words(&change), "display name none → \"Ann  B \"");
    }
}
