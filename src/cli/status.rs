//! `status`.

use super::{
    arguments::Global,
    output::{Exit, complain, moment, say, say_json},
    page::{self, Names, Page, Trouble},
    session::{Session, unexpected},
    sync::show_held,
};
use crate::{
    command::{Answer, Command, Status},
    reconcile::Pass,
};

pub(super) async fn status(global: &Global) -> Result<Exit, Exit> {
    let session = Session::open(global)?;
    let Answer::Status(status) = session.answer(&Command::Status).await? else { return Err(unexpected()) };
    if global.json {
        say_json(&status)?;
    } else {
        say(&show(&status, page::width()));
    }
    let own = env!("CARGO_PKG_VERSION");
    if status.version != own {
        complain(&format!(
            "warning: the daemon is version {}, this program is version {own}",
            status.version
        ));
    }
    Ok(Exit::Done)
}

/// How things are, for people.
fn show(status: &Status, width: Option<usize>) -> String {
    let links = status.links.iter().map(|(id, link)| (*id, &link.username));
    let conflicts = status.conflicts.iter().map(|(id, standoff)| (*id, &standoff.username));
    let names: Names = conflicts.chain(links).collect();
    let mut page = Page::new(width);
    match &status.daemon {
        None => page.line("", "No daemon is running."),
        Some(daemon) => {
            let next = daemon.next.map_or_else(
                || "no further run is scheduled".to_owned(),
                |(at, pass)| {
                    let kind = if pass == Pass::Full { " (full)" } else { "" };
                    format!("next run {} UTC{kind}", moment(at))
                },
            );
            let now = if daemon.running { "a run is going on; " } else { "" };
            page.line(
                "",
                &format!("The daemon has been up since {} UTC; {now}{next}.", moment(daemon.started)),
            );
        }
    }
    let people = if status.links.len() == 1 { "1 person" } else { &format!("{} people", status.links.len()) };
    page.line(
        "",
        &format!(
            "{people} linked, {} in conflict, {} failing.",
            status.conflicts.len(),
            status.failing.len()
        ),
    );
    if status.unfinished > 0 {
        page.line(
            "",
            &format!(
                "Unfinished work of an earlier run: {}; the next run goes on with it.",
                status.unfinished
            ),
        );
    }
    if let Some(why) = &status.lost {
        page.heading("What the service remembers is lost, and nobody is locked before it is found again:");
        page.line("  ", why);
        page.line("    → ", "`state rebuild`");
    }
    if let Some(held) = &status.hold {
        show_held(&mut page, held, &names);
        page.line("  ", &format!("Held since {} UTC.", moment(held.since)));
    }
    if !status.watched.is_empty() {
        page.heading("Left to people:");
        for (id, watched) in &status.watched {
            for it in watched {
                page.line("  ", &format!("{} of {}: {}", it.mxid, names.of(*id), names.spell(&it.what)));
            }
        }
    }
    let leaving = ladder(status);
    if !leaving.is_empty() {
        page.heading("On their way out:");
        page.table(["person", "account", "since (UTC)", "what"], leaving);
    }
    if !status.conflicts.is_empty() {
        page.heading("In conflict:");
        page.troubles(conflicts_of(status, &names));
    }
    if !status.failing.is_empty() {
        page.heading("Failing:");
        for (id, backoff) in &status.failing {
            page.line("  ", &names.of(*id));
            page.line("    ", &backoff.last.to_string());
            if let Some(mend) = &backoff.last.mend {
                page.line("    → ", mend);
            }
            let often = if backoff.failures == 1 { "once" } else { &format!("{} times", backoff.failures) };
            page.line(
                "    ",
                &format!(
                    "failed {often} since {} UTC, tried again after {} UTC, or at once by `sync USER`",
                    moment(backoff.since),
                    moment(backoff.until)
                ),
            );
        }
    }
    if !status.runs.is_empty() {
        page.heading("The last runs:");
        let rows = status.runs.iter().map(|run| {
            let kind = if run.full { "full" } else { "frequent" };
            let exit = run.exit_code.to_string();
            [run.id.to_string(), moment(run.began), kind.to_owned(), exit, run.summary.clone()]
        });
        page.table(["run", "began (UTC)", "kind", "exit", "outcome"], rows.collect());
    }
    page.finish()
}

/// Where accounts are on the off-boarding ladder.
fn ladder(status: &Status) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    for link in status.links.values() {
        let life = &link.lifecycle;
        let (since, what) = if let Some(ours) = &life.deactivated {
            (ours.at, "deactivated by this service".to_owned())
        } else if let Some(ours) = &life.locked {
            (ours.at, format!("locked by this service: {}", ours.why))
        } else if let Some(away) = &life.away {
            (away.since, format!("seems to be {}; not proved, missed by {} run(s)", away.why, away.runs))
        } else {
            continue;
        };
        let person = page::person(Some(link.username.as_str()), link.id);
        rows.push([person, link.mxid.to_string(), moment(since), what]);
    }
    rows
}

fn conflicts_of(status: &Status, names: &Names) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    for (id, standoff) in &status.conflicts {
        for conflict in &standoff.conflicts {
            troubles.push(Trouble {
                id: *id,
                username: standoff.username.to_string(),
                what: format!("{}; since {} UTC", names.spell(&conflict.to_string()), moment(standoff.since)),
                mend: Some(conflict.mend()),
            });
        }
    }
    troubles
}
