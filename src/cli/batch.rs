//! `revert` and `migrate finish`.

use std::collections::BTreeMap;

use super::{
    arguments::{Finish, Global, Revert},
    output::{Exit, ask, complain, complain_failure, complain_unknown, say, say_json},
    page::{self, Page, named, person},
    session::{Session, unexpected},
    sync::change,
};
use crate::{
    command::{Answer, Command},
    domain::RunId,
    engine::{BatchPerson, BatchReport},
    reconcile::Batch,
};

pub(super) async fn revert(global: &Global, verb: &Revert) -> Result<Exit, Exit> {
    let wish = Batch::Revert { run: RunId(verb.run), people: verb.people.iter().cloned().collect() };
    go(global, wish, verb.yes, verb.dry_run).await
}

pub(super) async fn finish(global: &Global, verb: &Finish) -> Result<Exit, Exit> {
    go(global, Batch::FinishMigration, verb.yes, false).await
}

async fn go(global: &Global, wish: Batch, yes: bool, dry_run: bool) -> Result<Exit, Exit> {
    let session = Session::open(global)?;
    let mut shown = None;
    if !yes {
        let report = batch(&session, global, &wish, false, None).await?;
        let nothing = report.people.iter().all(|person| person.steps.is_empty());
        if dry_run || nothing {
            return end(global, &wish, &report);
        }
        complain(&show(&wish, &report, page::width()));
        if !ask("Do it?", "--yes") {
            complain("nothing was changed");
            return Err(Exit::Failed);
        }
        shown = Some(report.digest);
    }
    let report = batch(&session, global, &wish, true, shown).await?;
    end(global, &wish, &report)
}

async fn batch(
    session: &Session<'_>,
    global: &Global,
    wish: &Batch,
    confirmed: bool,
    shown: Option<String>,
) -> Result<BatchReport, Exit> {
    let command = Command::Batch { wish: wish.clone(), confirmed, shown };
    let Answer::Batch(report) = session.answer(&command).await? else { return Err(unexpected()) };
    if let Some(why) = &report.refused {
        if global.json {
            say_json(&report)?;
        }
        complain(&format!("error: {why}"));
        return Err(Exit::from_code(report.exit_code()));
    }
    Ok(*report)
}

fn end(global: &Global, wish: &Batch, report: &BatchReport) -> Result<Exit, Exit> {
    if global.json {
        say_json(report)?;
    } else {
        say(&show(wish, report, page::width()));
    }
    for name in &report.unknown {
        complain_unknown(name);
    }
    if let Some(failure) = &report.failure {
        complain_failure(failure);
    }
    Ok(Exit::from_code(report.exit_code()))
}

/// A change by hand for many people, for people: what is written, what is left and why, and what to mind.
fn show(wish: &Batch, report: &BatchReport, width: Option<usize>) -> String {
    let name = |it: &BatchPerson| person(it.username.as_ref().map(|username| username.as_str()), it.id);
    let mut page = Page::new(width);
    let mut rows = Vec::new();
    for it in &report.people {
        let mxid = it.mxid.as_ref().map_or_else(String::new, ToString::to_string);
        let lines: Vec<String> = if report.done {
            it.changes.iter().map(change).collect()
        } else {
            it.steps.iter().map(|step| step.without(it.mxid.as_ref())).collect()
        };
        if !lines.is_empty() {
            rows.push([name(it), mxid, lines.join("\n")]);
        }
    }
    let changed = rows.len();
    if !rows.is_empty() {
        page.heading(if report.done { "What was done:" } else { "What would be done:" });
        page.table(["person", "account", "change"], rows);
    }
    grouped(&mut page, "What is left as it is:", report, &name, |it| {
        it.left.iter().map(|left| format!("{}: {}", left.what, left.why)).collect()
    });
    grouped(&mut page, "Mind:", report, &name, |it| it.warnings.clone());
    grouped(&mut page, "Not done:", report, &name, |it| {
        let failed = it.failure.iter().map(|failure| match &failure.mend {
            Some(mend) => format!("{failure}; {mend}"),
            None => failure.to_string(),
        });
        failed.chain(it.put_off.clone()).collect()
    });
    page.gap();
    let accounts = if changed == 1 { "1 account".to_owned() } else { format!("{changed} accounts") };
    let what = match (wish, report.done) {
        (Batch::Revert { run, .. }, false) => format!("Of run {run}, {accounts} would be put back."),
        (Batch::Revert { run, .. }, true) => format!("Of run {run}, {accounts} were put back."),
        (Batch::FinishMigration, false) => format!("{accounts} would lose a former login."),
        (Batch::FinishMigration, true) => {
            format!("{accounts} lost a former login; the migration is finished.")
        }
    };
    page.line("", &what);
    if report.interrupted {
        page.line("", "It was asked to end early; begin it again to go on.");
    }
    page.finish()
}

/// What several people have in common is said once.
fn grouped(
    page: &mut Page,
    heading: &str,
    report: &BatchReport,
    name: &dyn Fn(&BatchPerson) -> String,
    lines: impl Fn(&BatchPerson) -> Vec<String>,
) {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for it in &report.people {
        for line in lines(it) {
            all.entry(line).or_default().push(name(it));
        }
    }
    if all.is_empty() {
        return;
    }
    page.heading(heading);
    for (line, people) in all {
        page.line("  ", &named(&people));
        page.line("    ", &line);
    }
}
