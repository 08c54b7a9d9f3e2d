//! `state export`, `state import` and `state rebuild`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde_json::json;

use super::{
    arguments::{Export, Global, Import, Rebuild},
    log,
    output::{Exit, complain, complain_failure, say, say_json},
    page::{self, Page, person},
    session::{self, Session, unexpected},
};
use crate::{
    command::{Answer, Command},
    engine::{RebuildReport, Target},
    ports::Snapshot,
    store::lines,
};

pub(super) async fn export(global: &Global, verb: &Export) -> Result<Exit, Exit> {
    let session = Session::open(global)?;
    let Answer::Export(snapshot) = session.answer(&Command::Export).await? else { return Err(unexpected()) };
    let text =
        lines::write(&snapshot).map_err(|error| failed(&format!("it cannot be written down: {error}")))?;
    let Some(file) = &verb.file else {
        say(&text);
        return Ok(Exit::Done);
    };
    write(file, &text).map_err(|error| failed(&format!("writing {} failed: {error}", file.display())))?;
    tell(global, &snapshot, "Written", file)
}

/// Writes a file that only its owner can read; what was there before stays until it is whole.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut young = file.as_os_str().to_owned();
    young.push(".new");
    match fs::remove_file(&young) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&young)?;
    open.write_all(text.as_bytes())?;
    open.sync_all()?;
    fs::rename(&young, file)
}

pub(super) fn import(global: &Global, verb: &Import) -> Result<Exit, Exit> {
    let (settings, _) = session::load(&global.config)?;
    log::begin(&settings.log, global, false);
    let from = verb.file.display();
    let mut text = String::new();
    let read = if verb.file == Path::new("-") {
        io::stdin().read_to_string(&mut text)
    } else {
        fs::File::open(&verb.file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| failed(&format!("reading {from} failed: {error}")))?;
    let snapshot = lines::read(&text).map_err(|problem| {
        failed(&format!(
            "{from}, {problem}\n  → give a whole file that `state export` wrote; nothing was imported"
        ))
    })?;
    session::import(&settings, &snapshot).map_err(|failure| complain_failure(&failure))?;
    tell(global, &snapshot, "Imported", &verb.file)?;
    if !global.json {
        say("The next run sees whether the homeserver knows later changes of it, and says what to do then.");
    }
    Ok(Exit::Done)
}

fn tell(global: &Global, snapshot: &Snapshot, done: &str, file: &Path) -> Result<Exit, Exit> {
    let Snapshot { links, journal, runs, .. } = snapshot;
    let (links, journal, runs) = (links.len(), journal.len(), runs.len());
    if global.json {
        say_json(&json!({ "file": file, "links": links, "journal": journal, "runs": runs }))?;
    } else {
        let file = file.display();
        say(&format!("{done}: {links} link(s), {journal} journal line(s), {runs} run(s); {file}."));
    }
    Ok(Exit::Done)
}

fn failed(why: &str) -> Exit {
    complain(&format!("error: {why}"));
    Exit::Failed
}

pub(super) async fn rebuild(global: &Global, verb: &Rebuild) -> Result<Exit, Exit> {
    let session = Session::open(global)?;
    let command = Command::Rebuild { take_over: verb.take_over };
    let Answer::Rebuilt(report) = session.answer(&command).await? else { return Err(unexpected()) };
    if global.json {
        say_json(&report)?;
    } else {
        say(&show(&report, page::width()));
    }
    if let Some(failure) = &report.failure {
        complain_failure(failure);
    }
    Ok(Exit::from_code(report.exit_code()))
}

/// What was found, for people.
fn show(report: &RebuildReport, width: Option<usize>) -> String {
    /// So many accounts of each kind are named.
    const NAMED: usize = 20;
    let name = |target: &Target| person(Some(target.username.as_str()), target.id);
    let mut page = Page::new(width);
    if !report.found.is_empty() {
        page.heading("Links found again:");
        let row = |target: &Target| [name(target), target.mxid.to_string()];
        page.table(["person", "account"], report.found.iter().map(row).collect());
    }
    if !report.locked.is_empty() {
        page.heading("Locked, and it cannot be known by whom:");
        for target in report.locked.iter().take(NAMED) {
            page.line("  - ", &format!("{} of {}", target.mxid, name(target)));
        }
        if report.locked.len() > NAMED {
            page.line("  - ", &format!("and {} more; --json names them all", report.locked.len() - NAMED));
        }
        page.line(
            "    → ",
            "these locks count as somebody else's and stay. Whoever comes back has to be unlocked in Synapse: PUT \
             /_synapse/admin/v2/users/MXID with {\"locked\": false}",
        );
    }
    if !report.contradictions.is_empty() {
        page.heading("Contradictions, left as they are:");
        for contradiction in &report.contradictions {
            page.line("  ", &contradiction.why);
            page.line("    → ", &contradiction.mend);
        }
    }
    if !report.unreadable.is_empty() {
        page.heading("Not read:");
        for mxid in report.unreadable.iter().take(NAMED) {
            page.line("  - ", mxid.as_str());
        }
        if report.unreadable.len() > NAMED {
            page.line("  - ", &format!("and {} more", report.unreadable.len() - NAMED));
        }
    }
    page.gap();
    page.line(
        "",
        &format!(
            "{} of {} accounts read: {} link(s) found again, {} known already, {} contradiction(s).",
            report.read,
            report.accounts,
            report.found.len(),
            report.known,
            report.contradictions.len()
        ),
    );
    page.line(
        "",
        if report.trusted {
            "What is remembered can be trusted again: off-boarding goes on with the next sync."
        } else if report.interrupted || !report.unreadable.is_empty() {
            "Not all accounts were read, so nobody is off-boarded yet: run `state rebuild` again."
        } else {
            "Nobody is off-boarded before these contradictions are settled."
        },
    );
    page.finish()
}
