//! Writing to the terminal: text, JSON, complaints, questions, progress.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::page::clean;
use crate::{
    config::Finding,
    domain::{Failure, FailureClass, Peer},
    engine::{Progress, Stage},
};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Partly = 3,
    Held = 4,
    Unusable = 5,
}

impl Exit {
    pub(super) fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Done,
            2 => Self::Usage,
            3 => Self::Partly,
            4 => Self::Held,
            5 => Self::Unusable,
            _ => Self::Failed,
        }
    }

    /// How the program ends because of a failure.
    pub(super) fn of(failure: &Failure) -> Self {
        match (failure.class, failure.peer) {
            (FailureClass::NeedsPerson, _) => Self::Held,
            (_, Peer::Store) => Self::Failed,
            (_, Peer::Defguard | Peer::Synapse) => Self::Unusable,
        }
    }
}

/// Writes to standard output. A reader that went away is no error of ours.
pub(super) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") });
}

/// Writes to standard error. What servers said is in it, so nothing in it steers the terminal.
pub(super) fn complain(text: &str) {
    let text: Vec<_> = text.trim_end().lines().map(clean).collect();
    let _ = writeln!(io::stderr().lock(), "{}", text.join("\n"));
}

/// Writes JSON, indented.
pub(super) fn say_json<T: Serialize>(value: &T) -> Result<(), Exit> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        complain(&format!("error: the answer cannot be written as JSON: {error}"));
        Exit::Failed
    })?;
    say(&text);
    Ok(())
}

/// Says what failed and what to do about it.
pub(super) fn complain_failure(failure: &Failure) -> Exit {
    // What our own store and socket say needs no name before it.
    match failure.peer {
        Peer::Store => complain(&format!("error: {}: {}", failure.what, failure.why)),
        Peer::Defguard | Peer::Synapse => complain(&format!("error: {failure}")),
    }
    if let Some(mend) = &failure.mend {
        complain(&format!("  → {mend}"));
    }
    Exit::of(failure)
}

/// Says that nobody has a name that was given.
pub(super) fn complain_unknown(name: &str) {
    complain(&format!(
        "error: nobody in Defguard and no link of ours has the name {name}\n  → give a username as Defguard spells it \
         (upper and lower case matter), the number in Defguard as '#13' (with the quotes), or the MXID of a linked \
         account"
    ));
}

/// Shows findings on standard error.
pub(super) fn complain_findings(findings: &[Finding]) {
    for finding in findings {
        complain(&finding.to_string());
    }
}

/// A time for people, to the second; UTC, which is said where it is shown.
pub(super) fn moment(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Asks a yes-or-no question; anything but a yes is a no. Without a terminal nobody can answer; `option` does it then.
pub(super) fn ask(question: &str, option: &str) -> bool {
    if !io::stdin().is_terminal() {
        complain(&format!("nobody can be asked here: give {option} to do it"));
        return false;
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// A bar on the terminal, shown only if standard error is one.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Arc<Self> {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} done, {eta} left {msg}") {
            bar.set_style(style);
        }
        Arc::new(Self(bar))
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn waiting(&self) {
        complain("waiting for the run under way to end");
    }

    fn stage(&self, stage: Stage) {
        let text = match stage {
            Stage::Reading => "reading Defguard and Synapse",
            Stage::Writing => "writing to Synapse",
        };
        self.0.set_message(text);
        self.0.tick();
    }

    fn step(&self, done: usize, total: usize) {
        self.0.set_message("");
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
    }
}
