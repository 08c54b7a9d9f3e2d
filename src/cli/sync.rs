//! `sync` and `plan`.

use std::fmt::Write as _;

use super::{
    arguments::{Global, Plan, Sync},
    output::{Exit, complain, complain_failure, say, say_json, table},
    session::{answer, unexpected},
};
use crate::{
    command::{Answer, Command},
    domain::{Change, Completeness},
    engine::{PersonReport, RunReport, RunRequest},
    reconcile::{Note, Pass, State},
};

pub(super) async fn sync(global: &Global, verb: &Sync) -> Result<Exit, Exit> {
    let pass = if verb.full { Pass::Full } else { Pass::Frequent };
    go(global, RunRequest { pass, only: verb.people.iter().cloned().collect(), dry_run: verb.dry_run }).await
}

pub(super) async fn plan(global: &Global, verb: &Plan) -> Result<Exit, Exit> {
    let pass = if verb.full { Pass::Full } else { Pass::Frequent };
    go(global, RunRequest { pass, only: verb.people.iter().cloned().collect(), dry_run: true }).await
}

async fn go(global: &Global, request: RunRequest) -> Result<Exit, Exit> {
    let Answer::Run(report) = answer(global, &Command::Sync(request)).await? else {
        return Err(unexpected());
    };
    if global.json {
        say_json(&report)?;
    } else {
        say(&show(&report));
        for name in &report.unknown {
            complain(&format!("error: nobody in Defguard and no link of ours has the name {name}"));
        }
        if let Some(failure) = &report.failure {
            complain_failure(failure);
        }
    }
    Ok(Exit::from_code(report.exit_code()))
}

/// A run for people: whom it changed, whom it could not help, and the sum.
pub fn show(report: &RunReport) -> String {
    let mut text = String::new();
    let done = if report.dry_run { "would do" } else { "done" };
    let mut changed = table(["person", "account", done]);
    let mut attention = table(["person", "what stands in the way", "what to do"]);
    let mut quiet = Vec::new();
    for person in &report.people {
        let name = format!("{} #{}", person.username, person.id);
        let did = did(report, person);
        if !did.is_empty() {
            let mxid = person.mxid.as_ref().map_or_else(String::new, ToString::to_string);
            changed.add_row([name.clone(), mxid, did.join("\n")]);
        }
        for conflict in &person.conflicts {
            attention.add_row([name.clone(), conflict.to_string(), conflict.mend()]);
        }
        if let Some(failure) = &person.failure {
            attention.add_row([name.clone(), failure.to_string(), failure.mend.clone().unwrap_or_default()]);
        }
        if let Some(why) = &person.put_off {
            attention.add_row([name.clone(), why.clone(), "nothing; the next run looks again".to_owned()]);
        }
        let notes = person.notes.iter().filter(|note| **note != Note::NoAccount).map(ToString::to_string);
        let notes: Vec<String> = match person.state {
            State::Disabled => vec!["disabled in Defguard".to_owned()],
            State::Postponed => vec!["failed lately, tried again later".to_owned()],
            State::Withheld => notes.chain(["not decided in this run".to_owned()]).collect(),
            _ => notes.collect(),
        };
        if !notes.is_empty() {
            quiet.push(format!("  {name}: {}", notes.join("; ")));
        }
    }
    for (title, table) in [("", changed), ("Needs somebody's attention:", attention)] {
        if table.row_iter().next().is_some() {
            let _ = writeln!(text, "{title}{}{table}\n", if title.is_empty() { "" } else { "\n" });
        }
    }
    if !quiet.is_empty() {
        let _ = writeln!(text, "Good to know:\n{}\n", quiet.join("\n"));
    }
    if let Some(Completeness::Incomplete(why)) = &report.completeness {
        let _ = writeln!(
            text,
            "The list of people was incomplete, so nobody was created and no login was moved:\n  {}\n",
            why.join("\n  ")
        );
    }
    if report.interrupted {
        text.push_str("The run was asked to end early; the next one goes on.\n");
    }
    if report.failure.is_none() {
        let run = report.run.map_or_else(String::new, |run| format!("run {run}: "));
        let seconds = (report.ended - report.began).num_milliseconds() as f64 / 1000.0;
        let _ = writeln!(text, "{run}{} ({seconds:.1} s)", report.summary());
    }
    text
}

fn did(report: &RunReport, person: &PersonReport) -> Vec<String> {
    if report.dry_run {
        let steps: Vec<String> = person.steps.iter().map(|step| step.0.clone()).collect();
        return match person.state {
            State::Relink if steps.is_empty() => {
                vec!["find the link again by the ownership marker".to_owned()]
            }
            _ => steps,
        };
    }
    person.done.iter().map(change).collect()
}

/// A change in words, without the values of personal fields.
pub(super) fn change(change: &Change) -> String {
    match change {
        Change::Created => "account created".to_owned(),
        Change::Adopted => "account adopted".to_owned(),
        Change::Relinked => "link found again by the ownership marker".to_owned(),
        Change::Linked => "linked by hand".to_owned(),
        Change::Unlinked => "unlinked by hand".to_owned(),
        Change::DisplayName { .. } => "display name changed".to_owned(),
        Change::Emails { .. } => "e-mail addresses changed".to_owned(),
        Change::ExternalIds { before, after } => {
            let added = after.difference(before).map(|id| format!("+{id}"));
            let gone = before.difference(after).map(|id| format!("-{id}"));
            format!("external ids: {}", added.chain(gone).collect::<Vec<_>>().join(", "))
        }
    }
}
