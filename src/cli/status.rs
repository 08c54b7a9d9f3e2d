//! `status`.

use std::fmt::Write as _;

use super::{
    arguments::Global,
    output::{Exit, moment, say, say_json, table},
    session::{answer, unexpected},
};
use crate::{
    command::{Answer, Command, Status},
    reconcile::Pass,
};

pub(super) async fn status(global: &Global) -> Result<Exit, Exit> {
    let Answer::Status(status) = answer(global, &Command::Status).await? else { return Err(unexpected()) };
    if global.json {
        say_json(&status)?;
    } else {
        say(&show(&status));
    }
    Ok(Exit::Done)
}

/// How things are, for people.
pub(super) fn show(status: &Status) -> String {
    let mut text = String::new();
    match &status.daemon {
        None => text.push_str("No daemon is running.\n"),
        Some(daemon) => {
            let next = daemon.next.map_or_else(
                || "no further run is scheduled".to_owned(),
                |(at, pass)| {
                    let kind = if pass == Pass::Full { " (full)" } else { "" };
                    format!("next run {}{kind}", moment(at))
                },
            );
            let now = if daemon.running { "a run is going on, " } else { "" };
            let _ = writeln!(text, "The daemon has been up since {}; {now}{next}.", moment(daemon.started));
        }
    }
    let _ = writeln!(
        text,
        "{} people linked, {} in conflict, {} failing.",
        status.links.len(),
        status.conflicts.len(),
        status.failing.len()
    );
    if status.unfinished > 0 {
        let _ = writeln!(
            text,
            "{} groups of people were left unfinished; the next run goes on with them.",
            status.unfinished
        );
    }
    if !status.conflicts.is_empty() {
        let mut conflicts = table(["person", "since", "what stands in the way", "what to do"]);
        for (id, standoff) in &status.conflicts {
            for conflict in &standoff.conflicts {
                let name = format!("{} #{id}", standoff.username);
                conflicts.add_row([name, moment(standoff.since), conflict.to_string(), conflict.mend()]);
            }
        }
        let _ = writeln!(text, "\n{conflicts}");
    }
    if !status.failing.is_empty() {
        let mut failing = table(["person", "failures", "tried again", "last failure"]);
        for (id, backoff) in &status.failing {
            let name = status.links.get(id).map_or_else(String::new, |link| format!("{} ", link.username));
            failing.add_row([
                format!("{name}#{id}"),
                format!("{} since {}", backoff.failures, moment(backoff.since)),
                moment(backoff.until),
                backoff.last.to_string(),
            ]);
        }
        let _ = writeln!(text, "\n{failing}");
    }
    if !status.runs.is_empty() {
        let mut runs = table(["run", "began", "kind", "exit", "outcome"]);
        for run in &status.runs {
            let kind = if run.full { "full" } else { "frequent" };
            runs.add_row([
                run.id.to_string(),
                moment(run.began),
                kind.to_owned(),
                run.exit_code.to_string(),
                run.summary.clone(),
            ]);
        }
        let _ = writeln!(text, "\n{runs}");
    }
    text
}
