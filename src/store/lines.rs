//! The whole memory as JSON lines, for a copy that outlives the database: a header, and then one thing a line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::{Deserialize, Serialize};

use crate::{
    domain::{Backoff, DefguardId, Entry, Intent, Link, RunRecord, Standing, Standoff},
    ports::{ServerPair, Snapshot},
};

/// The version of the lines.
const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// What this is, and in which version.
    defguard_synapse_sync_state: u32,
    /// The id of the store.
    store: String,
    /// The servers that it belongs to.
    pair: Option<ServerPair>,
    /// The number of the next run.
    next_run: u64,
    /// How many lines follow, so that a file that was cut short is noticed.
    lines: usize,
}

/// As much of the first line as tells whether the rest can be read.
#[derive(Deserialize)]
struct Version {
    defguard_synapse_sync_state: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Standing(Box<Standing>),
    Link(Box<Link>),
    Intent(Box<Intent>),
    Backoff { id: DefguardId, last: Box<Backoff> },
    Standoff { id: DefguardId, found: Box<Standoff> },
    Run(Box<RunRecord>),
    Journal(Box<Entry>),
}

/// What is wrong with a line. It never shows the content, which is personal data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Problem {
    /// Which line, counting from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// Writes everything down.
pub fn write(snapshot: &Snapshot) -> Result<String, serde_json::Error> {
    let Snapshot { store, pair, next_run, standing, links, intents, backoff, standoffs, runs, journal } =
        snapshot.clone();
    let mut lines = vec![Line::Standing(Box::new(standing))];
    lines.extend(links.into_iter().map(|link| Line::Link(Box::new(link))));
    lines.extend(intents.into_iter().map(|intent| Line::Intent(Box::new(intent))));
    lines.extend(backoff.into_iter().map(|(id, last)| Line::Backoff { id, last: Box::new(last) }));
    lines.extend(standoffs.into_iter().map(|(id, found)| Line::Standoff { id, found: Box::new(found) }));
    lines.extend(runs.into_iter().map(|run| Line::Run(Box::new(run))));
    lines.extend(journal.into_iter().map(|entry| Line::Journal(Box::new(entry))));
    let header = Header { defguard_synapse_sync_state: VERSION, store, pair, next_run, lines: lines.len() };
    let mut text = serde_json::to_string(&header)?;
    text.push('\n');
    for line in &lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    Ok(text)
}

/// Reads what [`write`] wrote. Anything else is an error that names the line.
pub fn read(text: &str) -> Result<Snapshot, Problem> {
    let problem = |line: usize, why: String| Problem { line, why };
    let mut lines = text.lines().zip(1..);
    let Some((first, _)) = lines.next() else {
        return Err(problem(1, "there is nothing in it".to_owned()));
    };
    match serde_json::from_str::<Version>(first) {
        Ok(Version { defguard_synapse_sync_state: VERSION }) => {}
        Ok(Version { defguard_synapse_sync_state: other }) => {
            let why = format!("it has version {other}, and this program knows version {VERSION} only");
            return Err(problem(1, why));
        }
        Err(_) => return Err(problem(1, "this is no header of `state export`".to_owned())),
    }
    let header: Header = serde_json::from_str(first).map_err(|error| problem(1, explain(&error)))?;
    let mut snapshot = Snapshot {
        store: header.store,
        pair: header.pair,
        next_run: header.next_run,
        standing: Standing::default(),
        links: Vec::new(),
        intents: Vec::new(),
        backoff: BTreeMap::new(),
        standoffs: BTreeMap::new(),
        runs: Vec::new(),
        journal: Vec::new(),
    };
    if snapshot.store.is_empty() {
        return Err(problem(1, "the id of the store is missing".to_owned()));
    }
    let mut seen = Seen::default();
    let mut count = 0;
    for (text, number) in lines {
        count += 1;
        let line: Line = serde_json::from_str(text).map_err(|error| problem(number, explain(&error)))?;
        seen.check(&line).map_err(|why| problem(number, why))?;
        match line {
            Line::Standing(standing) => snapshot.standing = *standing,
            Line::Link(link) => snapshot.links.push(*link),
            Line::Intent(intent) => snapshot.intents.push(*intent),
            Line::Backoff { id, last } => {
                snapshot.backoff.insert(id, *last);
            }
            Line::Standoff { id, found } => {
                snapshot.standoffs.insert(id, *found);
            }
            Line::Run(run) => snapshot.runs.push(*run),
            Line::Journal(entry) => snapshot.journal.push(*entry),
        }
    }
    if count != header.lines {
        let why = format!("the header tells of {} lines below it, and there are {count}", header.lines);
        return Err(problem(count + 1, why));
    }
    if !seen.standing {
        return Err(problem(count + 1, "the line `standing` is missing".to_owned()));
    }
    Ok(snapshot)
}

/// What must not come twice.
#[derive(Default)]
struct Seen {
    standing: bool,
    keys: BTreeSet<String>,
}

impl Seen {
    fn check(&mut self, line: &Line) -> Result<(), String> {
        let mut once = |key: String| if self.keys.insert(key.clone()) { Ok(()) } else { Err(key) };
        match line {
            Line::Standing(_) if std::mem::replace(&mut self.standing, true) => {
                Err("the standing".to_owned())
            }
            Line::Standing(_) | Line::Journal(_) => Ok(()),
            Line::Link(link) => once(format!("the link of #{}", link.id))
                .and_then(|()| once(format!("a link to {}", link.mxid))),
            Line::Intent(intent) => once(format!("the intent of #{}", intent.group)),
            Line::Backoff { id, .. } => once(format!("the failures of #{id}")),
            Line::Standoff { id, .. } => once(format!("the conflicts of #{id}")),
            Line::Run(run) => once(format!("run {}", run.id)),
        }
        .map_err(|what| format!("{what} comes twice"))
    }
}

fn explain(error: &serde_json::Error) -> String {
    let mut text = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "it has another shape than expected",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is no JSON",
    }
    .to_owned();
    let _ = write!(text, " (at character {})", error.column());
    text
}
