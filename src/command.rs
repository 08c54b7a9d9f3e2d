//! What can be asked of the service, in this process or through its control socket, and what it answers.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        Backoff, DefguardId, Entry, Failure, Held, Link, RunId, RunRecord, Standoff, Username, Watched,
    },
    engine::{
        AdoptRequest, Adoption, BatchReport, Engine, Explanation, Forgotten, HandDone, Progress,
        RebuildReport, RunReport, RunRequest, Stage, StepText,
    },
    forecast::Forecasts,
    ports::{JournalFilter, Snapshot},
    reconcile::{Batch, ByHand, Pass},
};

/// How many runs `status` shows.
const SHOWN_RUNS: usize = 10;

/// One wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum Command {
    /// Bring accounts in step, or only say what would be done.
    Sync(RunRequest),
    /// Explain one person.
    Explain {
        /// Username, `#` and id, or MXID.
        person: String,
    },
    /// Forecast what Synapse would do at the next login of everybody.
    Logins {
        /// Only of these people, by username, `#` and id, or MXID; empty: everybody.
        #[serde(default)]
        only: BTreeSet<String>,
    },
    /// Match the accounts that are there already to people, and link them once that is approved.
    Adopt(AdoptRequest),
    /// Tie or untie a person and an account.
    ByHand {
        /// What is wished.
        wish: ByHand,
        /// Whether to do it; otherwise it is only shown.
        confirmed: bool,
        /// The steps that were shown before it was confirmed; it is refused if others are due by now.
        #[serde(default)]
        shown: Option<Vec<StepText>>,
    },
    /// Change the accounts of many people at once by hand.
    Batch {
        /// What is wished.
        wish: Batch,
        /// Whether to do it; otherwise it is only shown.
        confirmed: bool,
        /// The digest of what was shown before it was confirmed; it is refused if other steps are due by now.
        #[serde(default)]
        shown: Option<String>,
    },
    /// Take what is remembered about a person beside their link out.
    Forget {
        /// Username, `#` and id, or MXID.
        person: String,
        /// Whether to do it; otherwise it is only shown.
        confirmed: bool,
    },
    /// Give out everything that is remembered.
    Export,
    /// Find the links again through the ownership markers.
    Rebuild {
        /// Whether to go on although another daemon holds the lease.
        take_over: bool,
    },
    /// How things are.
    Status,
    /// What was done.
    Journal {
        /// Only in this run.
        run: Option<RunId>,
        /// Only for this person: username, `#` and id, or MXID.
        person: Option<String>,
        /// The newest so many lines.
        limit: Option<usize>,
    },
}

impl Command {
    /// Whether it changes nothing, neither in Synapse nor in the store.
    pub fn only_looks(&self) -> bool {
        match self {
            Self::Sync(request) => request.dry_run,
            Self::ByHand { confirmed, .. }
            | Self::Batch { confirmed, .. }
            | Self::Forget { confirmed, .. } => !confirmed,
            Self::Adopt(request) => request.approved.is_none(),
            Self::Rebuild { .. } => false,
            Self::Explain { .. }
            | Self::Logins { .. }
            | Self::Export
            | Self::Status
            | Self::Journal { .. } => true,
        }
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer", content = "content")]
pub enum Answer {
    /// The report of a run.
    Run(Box<RunReport>),
    /// The explanation; `None` if nobody has that name.
    Explanation(Option<Box<Explanation>>),
    /// The next logins.
    Logins(Box<Forecasts>),
    /// Which accounts are whose.
    Adoption(Box<Adoption>),
    /// What a change by hand does or did.
    ByHand(Box<HandDone>),
    /// What a change by hand for many people does or did.
    Batch(Box<BatchReport>),
    /// What is, or was, remembered about a person.
    Forgotten(Box<Forgotten>),
    /// Everything that is remembered.
    Export(Box<Snapshot>),
    /// What was found through the ownership markers.
    Rebuilt(Box<RebuildReport>),
    /// How things are.
    Status(Box<Status>),
    /// The journal lines, oldest first, with the usernames known for them.
    Journal {
        /// The lines.
        entries: Vec<Entry>,
        /// Usernames by id.
        usernames: BTreeMap<DefguardId, Username>,
    },
    /// It failed.
    Failed(Failure),
    /// It was not taken.
    Refused(String),
}

/// One line of the answer through the control socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// `done` of `total` groups of people are done.
    Progress {
        /// Done so far.
        done: usize,
        /// All there are.
        total: usize,
    },
    /// The work was taken on, and is done whether or not the asker stays.
    Taken,
    /// The work waits until the run under way is done.
    Waiting,
    /// Another part of the work begins.
    Stage(Stage),
    /// The answer; the last line.
    Answer(Answer),
}

/// How things are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program that answers.
    pub version: String,
    /// What the daemon is about, if it is the daemon that answers.
    pub daemon: Option<DaemonStatus>,
    /// All links.
    pub links: BTreeMap<DefguardId, Link>,
    /// The people in conflict.
    pub conflicts: BTreeMap<DefguardId, Standoff>,
    /// The people who failed lately.
    pub failing: BTreeMap<DefguardId, Backoff>,
    /// How many groups of people an earlier run left unfinished.
    pub unfinished: usize,
    /// What the guard holds.
    pub hold: Option<Held>,
    /// Why the links cannot be trusted until they are rebuilt.
    pub lost: Option<String>,
    /// What is left to people, of the last run.
    pub watched: BTreeMap<DefguardId, Vec<Watched>>,
    /// The last runs, newest first.
    pub runs: Vec<RunRecord>,
}

/// What the daemon is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// When it was started.
    pub started: DateTime<Utc>,
    /// When the next run begins by the schedule, and how thoroughly it looks.
    pub next: Option<(DateTime<Utc>, Pass)>,
    /// Whether a run is going on.
    pub running: bool,
}

/// Does what is asked in this process. `Status` is answered without the daemon's part.
pub async fn execute(engine: &Engine, command: &Command, progress: &dyn Progress) -> Answer {
    match command {
        Command::Sync(request) => Answer::Run(Box::new(engine.run(request, progress).await)),
        Command::Explain { person } => match engine.explain(person, progress).await {
            Ok(explanation) => Answer::Explanation(explanation.map(Box::new)),
            Err(failure) => Answer::Failed(failure),
        },
        Command::Logins { only } => match engine.logins(only, progress).await {
            Ok(forecasts) => Answer::Logins(Box::new(forecasts)),
            Err(failure) => Answer::Failed(failure),
        },
        Command::Adopt(request) => match engine.adopt(request, progress).await {
            Ok(adoption) => Answer::Adoption(Box::new(adoption)),
            Err(failure) => Answer::Failed(failure),
        },
        Command::ByHand { wish, confirmed, shown } => {
            match engine.by_hand(wish, *confirmed, shown.as_deref(), progress).await {
                Ok(done) => Answer::ByHand(Box::new(done)),
                Err(failure) => Answer::Failed(failure),
            }
        }
        Command::Batch { wish, confirmed, shown } => {
            match engine.batch(wish, *confirmed, shown.as_deref(), progress).await {
                Ok(report) => Answer::Batch(Box::new(report)),
                Err(failure) => Answer::Failed(failure),
            }
        }
        Command::Forget { person, confirmed } => match forget(engine, person, *confirmed, progress).await {
            Ok(answer) => answer,
            Err(failure) => Answer::Failed(failure),
        },
        Command::Export => match engine.export(progress).await {
            Ok(snapshot) => Answer::Export(Box::new(snapshot)),
            Err(failure) => Answer::Failed(failure),
        },
        Command::Rebuild { take_over } => match engine.rebuild(*take_over, progress).await {
            Ok(report) => Answer::Rebuilt(Box::new(report)),
            Err(failure) => Answer::Failed(failure),
        },
        Command::Status => match status(engine) {
            Ok(status) => Answer::Status(Box::new(status)),
            Err(failure) => Answer::Failed(failure),
        },
        Command::Journal { run, person, limit } => match journal(engine, *run, person.as_deref(), *limit) {
            Ok(answer) => answer,
            Err(failure) => Answer::Failed(failure),
        },
    }
}

fn status(engine: &Engine) -> Result<Status, Failure> {
    let store = engine.store();
    let standing = store.standing()?;
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        daemon: None,
        links: store.links()?,
        conflicts: store.standoffs()?,
        failing: store.backoff()?,
        unfinished: store.intents()?.len(),
        hold: standing.hold,
        lost: standing.lost,
        watched: standing.watched,
        runs: store.runs(SHOWN_RUNS)?,
    })
}

fn journal(
    engine: &Engine,
    run: Option<RunId>,
    person: Option<&str>,
    limit: Option<usize>,
) -> Result<Answer, Failure> {
    let usernames = usernames(engine)?;
    let id = match person {
        None => None,
        Some(name) => match resolve(engine, &usernames, name)? {
            Some(id) => Some(id),
            None => return Ok(unknown(name)),
        },
    };
    let entries = engine.store().journal(&JournalFilter { run, id, limit, since: None })?;
    Ok(Answer::Journal { entries, usernames })
}

async fn forget(
    engine: &Engine,
    name: &str,
    confirmed: bool,
    progress: &dyn Progress,
) -> Result<Answer, Failure> {
    let usernames = usernames(engine)?;
    let Some(id) = resolve(engine, &usernames, name)? else { return Ok(unknown(name)) };
    let username = usernames.get(&id).cloned();
    Ok(Answer::Forgotten(Box::new(engine.forget(id, username, confirmed, progress).await?)))
}

/// The usernames that the store knows.
fn usernames(engine: &Engine) -> Result<BTreeMap<DefguardId, Username>, Failure> {
    let store = engine.store();
    let mut usernames: BTreeMap<DefguardId, Username> =
        store.standoffs()?.into_iter().map(|(id, standoff)| (id, standoff.username)).collect();
    usernames.extend(store.links()?.into_iter().map(|(id, link)| (id, link.username)));
    Ok(usernames)
}

/// Whom a name means: a username, `#` and an id, or an MXID.
fn resolve(
    engine: &Engine,
    usernames: &BTreeMap<DefguardId, Username>,
    name: &str,
) -> Result<Option<DefguardId>, Failure> {
    if let Some(id) = name.strip_prefix('#').and_then(|id| id.parse().ok()) {
        return Ok(Some(DefguardId(id)));
    }
    let links = engine.store().links()?;
    let linked = links.values().find(|link| link.mxid.as_str() == name).map(|link| link.id);
    let named = || usernames.iter().find(|(_, username)| username.as_str() == name).map(|(id, _)| *id);
    Ok(linked.or_else(named))
}

fn unknown(name: &str) -> Answer {
    Answer::Refused(format!(
        "nobody whom the store knows has the name {name}; whoever has no account any more is found by their number in \
         Defguard, such as '#13'"
    ))
}
