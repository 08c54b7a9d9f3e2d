//! `sync` and `plan`.

use std::collections::BTreeMap;

use super::{
    arguments::{Approve, Global, Plan, Sync},
    output::{Exit, complain_failure, complain_unknown, say, say_json},
    page::{self, Names, Page, Trouble, named, person},
    session::{Session, unexpected},
};
use crate::{
    command::{Answer, Command},
    domain::{Change, Completeness, Held, Mxid},
    engine::{PersonReport, RunReport, RunRequest, StepText},
    reconcile::{Note, Pass, State},
};

pub(super) async fn sync(global: &Global, verb: &Sync) -> Result<Exit, Exit> {
    let request = request(&verb.people, verb.full, verb.dry_run);
    if verb.no_wait {
        Session::open(global)?.leave(&Command::Sync(request)).await?;
        say("The daemon has taken it on; `status` and `journal` show what came of it.");
        return Ok(Exit::Done);
    }
    go(global, request).await
}

pub(super) async fn plan(global: &Global, verb: &Plan) -> Result<Exit, Exit> {
    go(global, request(&verb.people, verb.full, true)).await
}

pub(super) async fn approve(global: &Global, verb: &Approve) -> Result<Exit, Exit> {
    go(global, RunRequest { approve: Some(verb.digest.clone()), ..request(&[], false, false) }).await
}

fn request(people: &[String], full: bool, dry_run: bool) -> RunRequest {
    let pass = if full { Pass::Full } else { Pass::Frequent };
    RunRequest { only: people.iter().cloned().collect(), dry_run, ..RunRequest::everybody(pass) }
}

async fn go(global: &Global, request: RunRequest) -> Result<Exit, Exit> {
    let session = Session::open(global)?;
    let Answer::Run(report) = session.answer(&Command::Sync(request)).await? else {
        return Err(unexpected());
    };
    if global.json {
        say_json(&report)?;
    } else if report.failure.is_none() || !report.people.is_empty() {
        say(&show(&report));
    }
    for name in &report.unknown {
        complain_unknown(name);
    }
    if let Some(failure) = &report.failure {
        complain_failure(failure);
    }
    Ok(Exit::from_code(report.exit_code()))
}

/// A run for people: whom it changed, whom it could not help, and the sum. As wide as the terminal.
pub fn show(report: &RunReport) -> String {
    show_in(report, page::width())
}

fn show_in(report: &RunReport, width: Option<usize>) -> String {
    let names: Names = report.people.iter().map(|person| (person.id, &person.username)).collect();
    let mut page = Page::new(width);
    let changed = changed(report);
    if !changed.is_empty() {
        page.heading(if report.dry_run { "What would be done:" } else { "What was done:" });
        page.table(["person", "account", "change"], changed);
    }
    let troubles: Vec<Trouble> = report.people.iter().flat_map(|person| troubles(person, &names)).collect();
    if !troubles.is_empty() {
        page.heading("Needs somebody's attention:");
        page.troubles(troubles);
    }
    let remarks = remarks(report);
    if !remarks.is_empty() {
        page.heading("Good to know:");
        for (remark, people) in remarks {
            page.line("  ", &format!("{}: {}", named(&people), names.spell(&remark)));
        }
    }
    if let Some(held) = &report.held {
        show_held(&mut page, held, &names);
    }
    if let Some(Completeness::Incomplete(why)) = &report.completeness {
        page.heading("The list of people was incomplete, so nobody was created and no login was moved:");
        for why in why {
            page.line("  ", why);
        }
    }
    if report.interrupted {
        page.heading("The run was asked to end early; the next one goes on.");
    }
    if report.failure.is_none() {
        page.gap();
        let run = report.run.map_or_else(String::new, |run| format!("run {run}: "));
        let seconds = (report.ended - report.began).num_milliseconds() as f64 / 1000.0;
        page.line("", &format!("{run}{} ({seconds:.1} s)", report.summary()));
        if report.dry_run {
            page.line("", "This was a dry run: nothing was changed.");
        }
    }
    page.finish()
}

/// What the guard holds, why, and how to let it run.
pub(super) fn show_held(page: &mut Page, held: &Held, names: &Names) {
    /// So many accounts of each kind are named.
    const NAMED: usize = 10;
    page.heading("Held by the guard, and not done:");
    for reason in &held.reasons {
        page.line("  ", &reason.why);
        page.line("    → ", &reason.mend);
    }
    for (harm, count) in held.counts() {
        let accounts = if count == 1 { "1 account".to_owned() } else { format!("{count} accounts") };
        page.line("  ", &format!("{accounts} would {harm}:"));
        let of_kind = held.steps.iter().filter(|step| step.harm == harm);
        for step in of_kind.take(NAMED) {
            page.line("    - ", &format!("{} of {}", step.mxid, names.of(step.id)));
        }
        if count > NAMED {
            page.line("    - ", &format!("and {} more; `plan --json` names them all", count - NAMED));
        }
    }
    match &held.digest {
        Some(digest) => page.line(
            "  ",
            &format!(
                "If all of this is meant, let it run once with `defguard-synapse-sync approve {digest}`."
            ),
        ),
        None if held.steps.is_empty() => {}
        None => page.line("  ", "No approval lets this run before the cause is mended."),
    }
}

fn changed(report: &RunReport) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    for person in &report.people {
        let did: Vec<String> =
            if report.dry_run { would(person) } else { person.done.iter().map(change).collect() };
        if !did.is_empty() {
            let mxid = person.mxid.as_ref().map_or_else(String::new, Mxid::to_string);
            rows.push([page::person(Some(person.username.as_str()), person.id), mxid, did.join("\n")]);
        }
    }
    rows
}

/// What a dry run would do for a person, beside their account.
fn would(person: &PersonReport) -> Vec<String> {
    let made = match person.state {
        State::Create => Some("create the account"),
        State::Relink => Some("find the link again by the ownership marker"),
        State::Adopt => Some("adopt the account"),
        _ => None,
    };
    let steps = person.steps.iter().map(|StepText(step)| match &person.mxid {
        Some(mxid) => {
            let step = step.strip_prefix(&format!("on {mxid}: ")).unwrap_or(step);
            step.strip_suffix(&format!(" of {mxid}")).unwrap_or(step).to_owned()
        }
        None => step.clone(),
    });
    // A creation is one step and one word; what goes into it stands in `explain`.
    made.map(str::to_owned).into_iter().chain(steps.filter(|step| !step.starts_with("create "))).collect()
}

fn troubles(report: &PersonReport, names: &Names) -> Vec<Trouble> {
    let trouble = |what: String, mend: Option<String>| Trouble {
        id: report.id,
        username: report.username.to_string(),
        what: names.spell(&what),
        mend,
    };
    let conflicts =
        report.conflicts.iter().map(|conflict| trouble(conflict.to_string(), Some(conflict.mend())));
    let failure = report.failure.iter().map(|failure| trouble(failure.to_string(), failure.mend.clone()));
    let put_off = report
        .put_off
        .iter()
        .map(|why| trouble(why.clone(), Some("nothing to do: the next run looks again".to_owned())));
    conflicts.chain(failure).chain(put_off).collect()
}

/// What else is worth knowing, and about whom.
fn remarks(report: &RunReport) -> BTreeMap<String, Vec<String>> {
    let mut remarks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for about in &report.people {
        let notes = about.notes.iter().filter(|note| **note != Note::NoAccount).map(Note::to_string);
        let notes: Vec<String> = match about.state {
            State::Disabled => ["disabled in Defguard".to_owned()].into_iter().chain(notes).collect(),
            State::Gone => {
                ["not in the list of people in Defguard".to_owned()].into_iter().chain(notes).collect()
            }
            State::Postponed => vec!["failed lately, tried again later".to_owned()],
            State::Withheld => notes.chain(["not decided in this run".to_owned()]).collect(),
            _ => notes.collect(),
        };
        for note in notes {
            remarks.entry(note).or_default().push(person(Some(about.username.as_str()), about.id));
        }
    }
    remarks
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
        Change::Locked { why, .. } => format!("locked: {why}"),
        Change::Unlocked { .. } => "unlocked".to_owned(),
        Change::SessionsEnded { devices } => format!("{devices} session(s) ended"),
        Change::Deactivated { why, .. } => format!("deactivated: {why}"),
        Change::Reactivated => "reactivated".to_owned(),
        Change::StrangerSessions { sessions } => {
            format!("ALARM: {} session(s) may be a stranger's", sessions.len())
        }
    }
}
