//! `journal`.

use std::collections::BTreeSet;

use super::{
    arguments::{self, Global},
    output::{Exit, moment, say, say_json, table},
    session::{answer, unexpected},
};
use crate::{
    command::{Answer, Command},
    domain::{Change, RunId},
};

pub(super) async fn journal(global: &Global, verb: &arguments::Journal) -> Result<Exit, Exit> {
    let command =
        Command::Journal { run: verb.run.map(RunId), person: verb.person.clone(), limit: Some(verb.limit) };
    let Answer::Journal { entries, usernames } = answer(global, &command).await? else {
        return Err(unexpected());
    };
    if global.json {
        say_json(&entries)?;
        return Ok(Exit::Done);
    }
    if entries.is_empty() {
        say("nothing was done");
        return Ok(Exit::Done);
    }
    let mut lines = table(["when", "run", "person", "account", "what", "before", "after"]);
    for entry in entries {
        let name = usernames.get(&entry.id).map_or_else(String::new, |username| format!("{username} "));
        let [what, before, after] = columns(&entry.change);
        lines.add_row([
            moment(entry.at),
            entry.run.map_or_else(|| "by hand".to_owned(), |run| run.to_string()),
            format!("{name}#{}", entry.id),
            entry.mxid.to_string(),
            what,
            before,
            after,
        ]);
    }
    say(&lines.to_string());
    Ok(Exit::Done)
}

fn columns(change: &Change) -> [String; 3] {
    fn list<T: ToString>(items: &BTreeSet<T>) -> String {
        items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let plain = |what: &str| [what.to_owned(), String::new(), String::new()];
    match change {
        Change::Created => plain("created"),
        Change::Adopted => plain("adopted"),
        Change::Relinked => plain("link found again"),
        Change::Linked => plain("linked"),
        Change::Unlinked => plain("unlinked"),
        Change::DisplayName { before, after } => ["display name".to_owned(), text(before), text(after)],
        Change::Emails { before, after } => ["e-mail addresses".to_owned(), list(before), list(after)],
        Change::ExternalIds { before, after } => ["external ids".to_owned(), list(before), list(after)],
    }
}
