//! What a run says about itself: to a terminal, to programs, to the store.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        Change, Completeness, Conflict, DefguardId, Entry, Failure, FailureClass, Held, Leaving, Link,
        Mapped, MappedField, MappingError, Mxid, Peer, Person, RunId, RunRecord, Username,
    },
    forecast::{Forecast, LoginRules},
    reconcile::{Group, Note, Pass, Rung, State, Step},
};

/// Told how the work goes on.
pub trait Progress: Send + Sync {
    /// The work was taken on, and is done whether or not somebody waits for it.
    fn taken(&self) {}

    /// The work waits until the run under way is done.
    fn waiting(&self) {}

    /// Another part of the work begins.
    fn stage(&self, _stage: Stage) {}

    /// `done` of `total` groups are done.
    fn step(&self, done: usize, total: usize);
}

/// The parts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Both servers are read, and it is decided what to do.
    Reading,
    /// What was decided is done.
    Writing,
}

impl Progress for () {
    fn step(&self, _done: usize, _total: usize) {}
}

/// What became of one person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PersonReport {
    /// Who.
    pub id: DefguardId,
    /// Their username.
    pub username: Username,
    /// In one word.
    pub state: State,
    /// Their account.
    pub mxid: Option<Mxid>,
    /// What stands in the way.
    pub conflicts: Vec<Conflict>,
    /// What else is worth knowing.
    pub notes: Vec<Note>,
    /// What is to be done, in order.
    pub steps: Vec<StepText>,
    /// What was done.
    pub done: Vec<Change>,
    /// What failed, now or, of somebody who is put off after failures, the last time.
    pub failure: Option<Failure>,
    /// Why the work was put off to the next run.
    pub put_off: Option<String>,
}

/// A step in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepText(pub String);

impl StepText {
    /// Says what a step does, without the values of personal fields.
    pub fn of(step: &Step) -> Self {
        let text = match step {
            Step::Create { mxid, display_name, email, external_ids, .. } => {
                let mut with: Vec<String> = external_ids.iter().map(ToString::to_string).collect();
                with.extend(display_name.as_ref().map(|_| "a display name".to_owned()));
                with.extend(email.as_ref().map(|_| "an e-mail address".to_owned()));
                format!("create {mxid} with {}", with.join(", "))
            }
            Step::Hold { mxid, change, .. } => {
                let mut parts = Vec::new();
                parts.extend(change.add_ids.iter().map(|id| format!("add {id}")));
                parts.extend(
                    change.drop_ids.iter().chain(&change.wash_ids).map(|id| format!("take off {id}")),
                );
                parts.extend(change.add_emails.iter().map(|_| "add an e-mail address".to_owned()));
                parts.extend(change.drop_emails.iter().map(|_| "take off an e-mail address".to_owned()));
                format!("on {mxid}: {}", parts.join(", "))
            }
            Step::Name { mxid, display_name, .. } if display_name.is_empty() => {
                format!("take the display name off {mxid}")
            }
            Step::Name { mxid, .. } => format!("change the display name of {mxid}"),
            Step::Ladder { mxid, rung, .. } => match rung {
                Rung::Lock { why, .. } => format!("lock {mxid}: {why}"),
                Rung::EndSessions(_) => format!("end all sessions of {mxid}"),
                Rung::Deactivate(why) => format!("deactivate {mxid}: {why}"),
                Rung::Reactivate { threepids } if threepids.is_empty() => format!("reactivate {mxid}"),
                Rung::Reactivate { .. } => format!("reactivate {mxid}, with the addresses that it had"),
                Rung::Unlock(Leaving::Disabled) => format!("unlock {mxid}: enabled again"),
                Rung::Unlock(_) => format!("unlock {mxid}: back again"),
            },
        };
        Self(text)
    }

    /// The step without the account, where that stands beside it.
    pub fn without(&self, mxid: Option<&Mxid>) -> String {
        let Some(mxid) = mxid else { return self.0.clone() };
        let step = self.0.strip_prefix(&format!("on {mxid}: ")).unwrap_or(&self.0);
        let step = step.strip_suffix(&format!(" of {mxid}")).unwrap_or(step);
        step.replacen(&format!(" {mxid}"), "", 1)
    }
}

/// How many people and changes of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// People by state.
    pub people: BTreeMap<String, u64>,
    /// Changes by kind.
    pub changes: BTreeMap<String, u64>,
    /// People for whom something failed.
    pub failed: u64,
}

/// The outcome of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Its number; `None` for a dry run.
    pub run: Option<RunId>,
    /// How thoroughly it looked.
    pub pass: Pass,
    /// When it began.
    pub began: DateTime<Utc>,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// Whether it only decided.
    pub dry_run: bool,
    /// How far the list of people could be trusted; `None` if it could not be read.
    pub completeness: Option<Completeness>,
    /// Everybody whom the run was about.
    pub people: Vec<PersonReport>,
    /// Names that were asked for and that nobody has.
    pub unknown: Vec<String>,
    /// What the guard keeps back, and why.
    #[serde(default)]
    pub held: Option<Held>,
    /// Why the run ended early or did nothing.
    pub failure: Option<Failure>,
    /// Whether the run was asked to end early.
    pub interrupted: bool,
}

impl RunReport {
    /// The exit code for it: 0 done, 1 failed, 3 some people failed, 4 held by the guard, 5 source or target unusable.
    pub fn exit_code(&self) -> u8 {
        if let Some(failure) = &self.failure {
            return code_of(failure);
        }
        if self.held.is_some() {
            return 4;
        }
        if matches!(self.completeness, Some(Completeness::Incomplete(_))) {
            return 5;
        }
        let failed = self.people.iter().any(|person| person.failure.is_some() || person.put_off.is_some());
        if failed || !self.unknown.is_empty() || self.interrupted { 3 } else { 0 }
    }

    /// Counts people and changes.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for person in &self.people {
            *tally.people.entry(person.state.as_str().to_owned()).or_default() += 1;
            tally.failed += u64::from(person.failure.is_some());
            for change in &person.done {
                *tally.changes.entry(change.kind().to_owned()).or_default() += 1;
            }
        }
        tally
    }

    /// One sentence about the run.
    pub fn summary(&self) -> String {
        if let Some(failure) = &self.failure {
            return failure.to_string();
        }
        let tally = self.tally();
        let changed = self.people.iter().filter(|person| !person.done.is_empty()).count();
        let planned = self
            .people
            .iter()
            .filter(|person| !person.steps.is_empty() || person.state == State::Relink)
            .count();
        let conflicts = self.people.iter().filter(|person| !person.conflicts.is_empty()).count();
        let change =
            if self.dry_run { format!("{planned} would change") } else { format!("{changed} changed") };
        let mut text = format!(
            "{}, {change}, {conflicts} in conflict, {} failed",
            if self.people.len() == 1 {
                "1 person".to_owned()
            } else {
                format!("{} people", self.people.len())
            },
            tally.failed
        );
        if let Some(held) = &self.held {
            text = format!("{text}; the guard holds {} step(s)", held.steps.len());
        }
        if let Some(Completeness::Incomplete(why)) = &self.completeness {
            text = format!("{text}; the list of people was incomplete ({})", why.join("; "));
        }
        text
    }

    /// Logs its outcome. What was done for whom was logged when it was done.
    pub fn log(&self) {
        let run = self.run.map(|run| run.0);
        // Who failed while something was done for them was logged then, too.
        for about in self.people.iter().filter(|about| about.steps.is_empty()) {
            if let Some(failure) = &about.failure {
                let (person, mxid) = (about.id.0, about.mxid.as_ref().map(tracing::field::display));
                tracing::warn!(run, person, mxid, action = "failed", "failed: {failure}");
            }
        }
        let summary = self.summary();
        match (self.exit_code(), &self.failure) {
            (0, _) => tracing::info!(run, "sync done: {summary}"),
            (code, Some(failure)) => {
                tracing::error!(run, code, mend = failure.mend.as_deref(), "sync failed: {summary}");
            }
            (code, None) => tracing::warn!(run, code, "sync done in part: {summary}"),
        }
    }

    /// What is kept of it in the store.
    pub fn record(&self, id: RunId) -> RunRecord {
        let tally = self.tally();
        RunRecord {
            id,
            began: self.began,
            ended: self.ended,
            full: self.pass == Pass::Full,
            exit_code: self.exit_code(),
            summary: self.summary(),
            people: tally.people,
            changes: tally.changes,
            failed: tally.failed,
        }
    }
}

/// The exit code for a failure of the whole.
pub(super) fn code_of(failure: &Failure) -> u8 {
    match (failure.class, failure.peer) {
        (FailureClass::NeedsPerson, _) => 4,
        (_, Peer::Store) => 1,
        _ => 5,
    }
}

/// Everything about one person: who they are, what the templates give, which account, and what would be done now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Who they are in Defguard; `None` if the list does not show them.
    pub person: Option<Person>,
    /// What each template gives.
    pub templates: Vec<TemplateValue>,
    /// Our link.
    pub link: Option<Link>,
    /// What would be done now and why.
    pub report: PersonReport,
    /// The people who are dealt with together with this one.
    pub together_with: Vec<DefguardId>,
    /// The usernames of all people named above.
    pub usernames: BTreeMap<DefguardId, Username>,
    /// What was last done for them, newest last.
    pub journal: Vec<Entry>,
    /// What Synapse would do at their next login; `None` if the list of people does not show them.
    #[serde(default)]
    pub login: Option<Forecast>,
    /// The rules by which that was worked out.
    #[serde(default)]
    pub login_rules: LoginRules,
}

/// What one template gives for a person: a value, nothing, or an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateValue {
    /// Which of them.
    pub template: MappedField,
    /// What it gives; `None` if that is nothing, or nothing usable.
    pub value: Option<String>,
    /// Why it gives nothing usable.
    pub error: Option<String>,
}

/// What the templates give, as text.
pub(super) fn template_values(mapped: &Mapped) -> Vec<TemplateValue> {
    let value = |template, result: Result<Option<String>, MappingError>| match result {
        Ok(value) => TemplateValue { template, value, error: None },
        Err(error) => TemplateValue { template, value: None, error: Some(error.to_string()) },
    };
    let subject = mapped.subject.clone().map(|subject| Some(subject.to_string()));
    let localpart = mapped.localpart.clone().map(|localpart| Some(localpart.to_string()));
    let email = mapped.email.clone().map(|email| email.map(|email| email.to_string()));
    vec![
        value(MappedField::Subject, subject),
        value(MappedField::Localpart, localpart),
        value(MappedField::DisplayName, mapped.display_name.clone()),
        value(MappedField::Email, email),
    ]
}

/// The steps of a group that concern one person.
pub(super) fn steps_of(group: &Group, id: DefguardId) -> Vec<StepText> {
    group.steps.iter().filter(|step| step.person() == id).map(StepText::of).collect()
}
