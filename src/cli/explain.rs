//! `explain`.

use std::fmt::Write as _;

use super::{
    arguments::{self, Global},
    output::{Exit, complain, moment, say, say_json},
    session::{answer, unexpected},
    sync::change,
};
use crate::{
    command::{Answer, Command},
    domain::{DefguardId, Person},
    engine::Explanation,
    reconcile::State,
};

pub(super) async fn explain(global: &Global, verb: &arguments::Explain) -> Result<Exit, Exit> {
    let command = Command::Explain { person: verb.person.clone() };
    let Answer::Explanation(explanation) = answer(global, &command).await? else { return Err(unexpected()) };
    let Some(explanation) = explanation else {
        complain(&format!(
            "error: nobody in Defguard and no link of ours has the name {}\n  → give a username as Defguard spells it \
             (upper and lower case matter), # and a number, or an MXID",
            verb.person
        ));
        return Err(Exit::Failed);
    };
    if global.json {
        say_json(&explanation)?;
    } else {
        say(&show(&explanation));
    }
    Ok(Exit::Done)
}

/// An explanation for people.
pub(super) fn show(explanation: &Explanation) -> String {
    let mut text = String::new();
    let report = &explanation.report;
    let named = |id: &DefguardId| {
        explanation
            .usernames
            .get(id)
            .map_or_else(|| format!("#{id}"), |username| format!("{username} (#{id})"))
    };
    let _ = writeln!(text, "{} is #{} in Defguard.", report.username, report.id);
    match &explanation.person {
        Some(person) => who(&mut text, person),
        None => text.push_str("  The list of people does not show them.\n"),
    }
    if !explanation.templates.is_empty() {
        text.push_str("\nWhat the templates give\n");
        for (field, value) in &explanation.templates {
            let value = match value {
                Ok(Some(value)) => value.clone(),
                Ok(None) if field == "display name" => "nothing, so Synapse takes the localpart".to_owned(),
                Ok(None) => "nothing".to_owned(),
                Err(why) => format!("nothing usable: {why}"),
            };
            let _ = writeln!(text, "  {field:<13} {value}");
        }
    }
    text.push_str("\nTheir account\n");
    match (&explanation.link, &report.mxid) {
        (Some(link), _) => {
            let login = link.subject.as_ref().map_or_else(
                || "no login opens it".to_owned(),
                |subject| format!("it opens at a login as `{subject}`"),
            );
            let _ = writeln!(text, "  {} is linked to them; {login}.", link.mxid);
        }
        (None, Some(mxid)) => {
            let _ = writeln!(text, "  none is linked yet; {mxid} is the one.");
        }
        (None, None) => text.push_str("  none is linked.\n"),
    }
    text.push_str("\nWhat a sync would do now\n");
    let _ = writeln!(text, "  {}", verdict(report.state));
    for step in &report.steps {
        let _ = writeln!(text, "  - {}", step.0);
    }
    if !explanation.together_with.is_empty() {
        let others: Vec<String> = explanation.together_with.iter().map(named).collect();
        let _ = writeln!(
            text,
            "  in one go with {}, since something changes hands between them",
            others.join(", ")
        );
    }
    for conflict in &report.conflicts {
        let others: Vec<String> =
            conflict.others().iter().filter(|id| **id != report.id).map(named).collect();
        let _ = writeln!(text, "\nWhat stands in the way\n  {conflict}.");
        if !others.is_empty() {
            let _ = writeln!(text, "  The others are {}.", others.join(", "));
        }
        let _ = writeln!(text, "  → {}", conflict.mend());
    }
    if let Some(failure) = &report.failure {
        let _ = writeln!(text, "\nWhat failed\n  {failure}");
        if let Some(mend) = &failure.mend {
            let _ = writeln!(text, "  → {mend}");
        }
    }
    if let Some(why) = &report.put_off {
        let _ = writeln!(text, "  {why}");
    }
    if !report.notes.is_empty() {
        text.push_str("\nGood to know\n");
        for note in &report.notes {
            let _ = writeln!(text, "  {note}");
        }
    }
    if !explanation.journal.is_empty() {
        text.push_str("\nWhat was done last\n");
        for entry in &explanation.journal {
            let _ = writeln!(text, "  {}  {}", moment(entry.at), change(&entry.change));
        }
    }
    text
}

fn who(text: &mut String, person: &Person) {
    let _ = writeln!(text, "  name          {:?}", person.name);
    let _ = writeln!(text, "  e-mail        {:?}", person.email);
    let groups: Vec<&str> = person.groups.iter().map(String::as_str).collect();
    let _ = writeln!(
        text,
        "  groups        {}",
        if groups.is_empty() { "none".to_owned() } else { groups.join(", ") }
    );
    let state = match (person.is_active, person.enrolled) {
        (false, _) => "disabled",
        (true, false) => "active, has not finished enrolment",
        (true, true) => "active",
    };
    let _ = writeln!(text, "  state         {state}");
}

fn verdict(state: State) -> &'static str {
    match state {
        State::InStep => "Nothing: all is in step.",
        State::Create => "Create an account for them.",
        State::Adopt => "Make an account that exists theirs.",
        State::Relink => "Take the link up again, which the ownership marker on the account proves.",
        State::Update => "Bring their account up to date.",
        State::Conflict => "Nothing, until somebody solves what stands in the way.",
        State::Disabled => "Nothing: they are disabled in Defguard, and somebody disabled gets no account.",
        State::OutOfScope => "Nothing: they are not among those whom the sync concerns.",
        State::Withheld => "Nothing: it could not be decided now.",
        State::Postponed => {
            "Nothing yet: it failed lately and is tried again later; `sync USER` tries at once."
        }
        State::Failed => "Nothing: their account could not be looked at.",
    }
}
