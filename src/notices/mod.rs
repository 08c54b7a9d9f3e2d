//! Tells people in a Matrix room what they should look at: a plan that is held, Defguard unusable for long, new
//! conflicts.
//!
//! [`Notices`] decides what is to be told and when; it is pure, the time is an argument. [`MatrixRoom`] tells it.

mod matrix;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    domain::{Completeness, DefguardId, Held, Peer, Standoff, hex},
    engine::RunReport,
};

pub use self::matrix::{MatrixRoom, Options};

/// How long nothing more is said about the same matter.
const PAUSE: TimeDelta = TimeDelta::minutes(10);

/// What the notices are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Matter {
    Held,
    Source,
    Conflicts,
}

/// Whether a run could use Defguard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It could.
    Usable,
    /// It could not, and why.
    Unusable(String),
    /// It did not come so far.
    Unknown,
}

impl Source {
    /// What a run says about it.
    pub fn of(report: &RunReport) -> Self {
        match (&report.failure, &report.completeness) {
            (Some(failure), _) if failure.peer == Peer::Defguard => Self::Unusable(failure.to_string()),
            (_, Some(Completeness::Incomplete(why))) => {
                Self::Unusable(format!("the list of people was incomplete ({})", why.join("; ")))
            }
            (_, Some(Completeness::Complete)) => Self::Usable,
            (_, None) => Self::Unknown,
        }
    }
}

/// How things are after a run.
#[derive(Debug, Clone)]
pub struct Sight {
    /// What the guard holds.
    pub held: Option<Held>,
    /// Whether Defguard could be used.
    pub source: Source,
    /// The people in conflict.
    pub conflicts: BTreeMap<DefguardId, Standoff>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it says.
    pub text: String,
    /// The same for the same message, whichever process sends it.
    pub key: String,
    matters: BTreeSet<Matter>,
    /// What is told with it.
    news: BTreeSet<News>,
}

/// One thing that is told once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    /// The guard holds these steps.
    Held(String),
    /// Defguard has been unusable since then.
    Down(DateTime<Utc>),
    /// It can be used again after it was unusable since then.
    Up(DateTime<Utc>),
    /// Somebody is in conflict since then.
    Conflict(DefguardId, DateTime<Utc>),
}

impl News {
    fn matter(&self) -> Matter {
        match self {
            Self::Held(_) => Matter::Held,
            Self::Down(_) | Self::Up(_) => Matter::Source,
            Self::Conflict(..) => Matter::Conflicts,
        }
    }
}

#[derive(Debug, Clone)]
struct Outage {
    since: DateTime<Utc>,
    why: String,
}

/// What there is to tell, and what was told.
#[derive(Debug)]
pub struct Notices {
    unusable_after: TimeDelta,
    held: Option<Held>,
    outage: Option<Outage>,
    /// Since when Defguard was unusable, if that was told, and by now it can be used again.
    over: Option<DateTime<Utc>>,
    conflicts: BTreeMap<DefguardId, Standoff>,
    told: BTreeSet<News>,
    /// When it was last tried to say something about a matter.
    tried: BTreeMap<Matter, DateTime<Utc>>,
}

impl Notices {
    /// Nothing told yet. Conflicts that are known at the start are not news. (What the guard holds may be told again
    /// after a start; by its key it is the same message.)
    pub fn new(unusable_after: TimeDelta, conflicts: &BTreeMap<DefguardId, Standoff>) -> Self {
        Self {
            unusable_after,
            held: None,
            outage: None,
            over: None,
            conflicts: BTreeMap::new(),
            told: conflicts.iter().map(|(id, standoff)| News::Conflict(*id, standoff.since)).collect(),
            tried: BTreeMap::new(),
        }
    }

    /// A run has ended.
    pub fn observe(&mut self, sight: Sight, now: DateTime<Utc>) {
        self.held = sight.held;
        self.conflicts = sight.conflicts;
        match sight.source {
            Source::Unknown => {}
            Source::Unusable(why) => {
                let since = self.outage.as_ref().map_or(now, |outage| outage.since.min(now));
                self.outage = Some(Outage { since, why });
                self.over = None;
            }
            Source::Usable => {
                if let Some(outage) = self.outage.take()
                    && self.told.contains(&News::Down(outage.since))
                {
                    self.over = Some(outage.since);
                }
            }
        }
        // What is over for good need not be remembered.
        let news = self.news(now);
        let since = self.outage.as_ref().map(|outage| outage.since).or(self.over);
        self.told.retain(|told| news.contains(told) || matches!(told, News::Down(at) if Some(*at) == since));
    }

    /// Everything that is so now and worth telling, told or not.
    fn news(&self, now: DateTime<Utc>) -> BTreeSet<News> {
        let mut news = BTreeSet::new();
        if let Some(held) = &self.held {
            news.insert(News::Held(identity(held)));
        }
        if let Some(outage) = &self.outage
            && now - outage.since >= self.unusable_after
        {
            news.insert(News::Down(outage.since));
        }
        if let Some(since) = self.over {
            news.insert(News::Up(since));
        }
        news.extend(self.conflicts.iter().map(|(id, standoff)| News::Conflict(*id, standoff.since)));
        news
    }

    /// What is to be said now, in one message.
    pub fn due(&self, now: DateTime<Utc>) -> Option<Notice> {
        let quiet = |matter: Matter| {
            // A clock that was put back does not silence us.
            self.tried.get(&matter).is_none_or(|tried| now - *tried >= PAUSE || now < *tried)
        };
        let mut news = self.news(now);
        news.retain(|news| !self.told.contains(news) && quiet(news.matter()));
        if news.is_empty() {
            return None;
        }
        let mut lines = Vec::new();
        if let Some(held) = self.held.as_ref().filter(|_| news.iter().any(|it| matches!(it, News::Held(_)))) {
            lines.push(words::held(held));
        }
        if let Some(outage) = &self.outage
            && news.contains(&News::Down(outage.since))
        {
            lines.push(words::down(outage.since, &outage.why));
        }
        if let Some(since) = self.over.filter(|since| news.contains(&News::Up(*since))) {
            lines.push(words::up(since));
        }
        let conflicts: Vec<_> =
            self.conflicts.iter().filter(|(id, it)| news.contains(&News::Conflict(**id, it.since))).collect();
        if !conflicts.is_empty() {
            lines.push(words::conflicts(&conflicts, self.conflicts.len()));
        }
        let key = hex(format!("{news:?}").as_bytes(), 16);
        let matters = news.iter().map(News::matter).collect();
        Some(Notice { text: lines.join("\n\n"), key, matters, news })
    }

    /// It was said, or could not be said; then it is tried again after the pause.
    pub fn tried(&mut self, notice: &Notice, said: bool, now: DateTime<Utc>) {
        self.tried.extend(notice.matters.iter().map(|matter| (*matter, now)));
        if said {
            self.told.extend(notice.news.iter().cloned());
            self.over = self.over.filter(|since| !self.told.contains(&News::Up(*since)));
        }
    }
}

/// What is held, as far as it is the same matter: the steps, or, where no approval is good for anything, the reasons.
fn identity(held: &Held) -> String {
    let reasons = || held.reasons.iter().map(|reason| reason.why.as_str()).collect::<Vec<_>>().join("; ");
    format!("{} {}", held.digest.clone().unwrap_or_else(reasons), held.since.timestamp())
}

#[cfg(test)]
mod tests;
