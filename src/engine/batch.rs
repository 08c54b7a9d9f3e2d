//! `revert` and `migrate finish`: changes by hand for many people, shown first, done only when confirmed, journalled like
//! everything else.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Engine, Progress, StepText,
    apply::Applied,
    gather::{Gathered, MOST_ROUNDS, NOTHING_HELD, no_end},
    report::code_of,
};
use crate::{
    domain::{Change, DefguardId, Entry, Failure, Harm, Mxid, RunId, Username, hex},
    ports::{JournalFilter, Outcome},
    reconcile::{Batch, BatchDecision, BatchPlan, LeftAsIs, Pass, Rung, Step, decide_finish, decide_revert},
};

/// What a change by hand for many people does or did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchReport {
    /// Everybody whom it is about.
    pub people: Vec<BatchPerson>,
    /// Names that were asked for and that nobody has.
    pub unknown: Vec<String>,
    /// Stands for the steps that are shown, so that whoever confirms them gets no others.
    pub digest: String,
    /// Whether it was done; otherwise it was only shown.
    pub done: bool,
    /// Whether it was asked to end early.
    pub interrupted: bool,
    /// Why it is not done, if it is refused.
    pub refused: Option<String>,
    /// Why it ended early.
    pub failure: Option<Failure>,
}

/// What it does or did for one person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchPerson {
    /// Who.
    pub id: DefguardId,
    /// Their username, if it is known.
    pub username: Option<Username>,
    /// Their account, if it is known.
    pub mxid: Option<Mxid>,
    /// What is written, in order.
    pub steps: Vec<StepText>,
    /// What is left as it is, and why.
    pub left: Vec<LeftAsIs>,
    /// What should be known before it is done.
    pub warnings: Vec<String>,
    /// What was done.
    pub changes: Vec<Change>,
    /// What failed.
    pub failure: Option<Failure>,
    /// Why it was not done after all.
    pub put_off: Option<String>,
}

impl BatchReport {
    fn refused(why: String) -> Self {
        Self {
            people: Vec::new(),
            unknown: Vec::new(),
            digest: String::new(),
            done: false,
            interrupted: false,
            refused: Some(why),
            failure: None,
        }
    }

    /// The exit code for it: 0 done, 1 refused, 3 some people failed, 4 our memory cannot be trusted, 5 a server was
    /// unusable.
    pub fn exit_code(&self) -> u8 {
        if let Some(failure) = &self.failure {
            return code_of(failure);
        }
        if self.refused.is_some() {
            return 1;
        }
        let failed = self.people.iter().any(|person| person.failure.is_some() || person.put_off.is_some());
        if failed || self.interrupted || !self.unknown.is_empty() { 3 } else { 0 }
    }
}

/// What a wish comes to.
enum Wished {
    Refused(String),
    Do { plan: BatchPlan, unknown: Vec<String> },
}

impl Engine {
    /// Shows what a change by hand for many people would do, or does it if it is `confirmed`. `shown` is the digest of what
    /// was shown before: if other steps are due by now, it is refused.
    pub async fn batch(
        &self,
        wish: &Batch,
        confirmed: bool,
        shown: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<BatchReport, Failure> {
        let _turn = self.turn(progress).await;
        let (mut seen, wished) = self.read(self.find_out_batch(wish)).await?;
        let (plan, unknown) = match wished {
            Wished::Refused(why) => return Ok(BatchReport::refused(why)),
            Wished::Do { plan, unknown } => (plan, unknown),
        };
        let mut report = BatchReport {
            unknown,
            digest: digest(&plan),
            people: people(&seen, &plan, None),
            ..BatchReport::refused(String::new())
        };
        report.refused = None;
        if !confirmed {
            return Ok(report);
        }
        if shown.is_some_and(|shown| shown != report.digest) {
            let why = "something has changed since it was shown what would be done; look at it again";
            report.refused = Some(why.to_owned());
            return Ok(report);
        }
        if plan.groups.is_empty() {
            report.done = true;
            return Ok(report);
        }
        self.claim_by_hand(&mut seen).await?;
        self.forget_absences(&mut seen, &plan)?;
        let applied = self.groups(&seen, &plan.groups, None, progress).await?;
        report.people = people(&seen, &plan, Some(&applied));
        report.done = true;
        report.interrupted = applied.interrupted;
        report.failure = applied.stopped;
        Ok(report)
    }

    /// Reads both servers, finishes the journal of an interrupted run, and decides on the wish.
    async fn find_out_batch(&self, wish: &Batch) -> Result<(Gathered, Wished), Failure> {
        let mut seen = self.gather().await?;
        // What an interrupted run did has to be in the journal before more is done to the same accounts.
        self.recover(&mut seen, false).await?;
        let (mut unknown, mut only) = (Vec::new(), BTreeSet::new());
        let mut journal = Vec::new();
        if let Batch::Revert { run, people } = wish {
            journal = self.journal_since(*run)?;
            let mut touched = journal.iter().filter(|entry| entry.run == Some(*run)).map(|entry| entry.id);
            for name in people {
                // Whoever is known nowhere else any more is still in the journal.
                let number = name.strip_prefix('#').and_then(|id| id.parse().ok().map(DefguardId));
                match seen.resolve(name).or_else(|| number.filter(|id| touched.any(|it| it == *id))) {
                    Some(id) => {
                        only.insert(id);
                    }
                    None => unknown.push(name.clone()),
                }
            }
            if only.is_empty() && !people.is_empty() {
                return Ok((seen, Wished::Do { plan: BatchPlan::default(), unknown }));
            }
        }
        let only = (!only.is_empty()).then_some(&only);
        let nobody = BTreeSet::new();
        for _ in 0..MOST_ROUNDS {
            let decision = {
                let scene = seen.scene(Pass::Frequent, &nobody, &nobody, &NOTHING_HELD);
                match wish {
                    Batch::Revert { run, .. } => decide_revert(&scene, *run, &journal, only),
                    Batch::FinishMigration => {
                        let held = seen.standing.hold.as_ref();
                        let migrates = |held: &crate::domain::Held| {
                            held.steps.iter().any(|step| step.harm == Harm::Migrate)
                        };
                        decide_finish(&scene, held.is_some_and(migrates))
                    }
                }
            };
            match decision {
                BatchDecision::Do(mut plan) => {
                    leave_the_unclear(&seen, &mut plan);
                    return Ok((seen, Wished::Do { plan, unknown }));
                }
                BatchDecision::Refused(why) => return Ok((seen, Wished::Refused(why))),
                BatchDecision::Failed(failure) => return Err(failure),
                BatchDecision::Ask(questions) => self.find_answers(questions, &mut seen.answers).await?,
            }
        }
        Err(no_end())
    }

    /// The journal from the first line of a run on.
    fn journal_since(&self, run: RunId) -> Result<Vec<Entry>, Failure> {
        let of_run = self.store.journal(&JournalFilter { run: Some(run), ..JournalFilter::default() })?;
        let Some(since) = of_run.iter().map(|entry| entry.at).min() else { return Ok(Vec::new()) };
        self.store.journal(&JournalFilter { since: Some(since), ..JournalFilter::default() })
    }

    /// Whoever is unlocked by hand has to be missed anew before they are locked again. Remembered before the first write,
    /// so that it holds even if the work is cut short.
    fn forget_absences(&self, seen: &mut Gathered, plan: &BatchPlan) -> Result<(), Failure> {
        let mut outcome = Outcome::default();
        for (id, after) in plan.groups.iter().flat_map(|group| &group.links) {
            let (Some(after), Some(link)) = (after, seen.links.get_mut(id)) else { continue };
            if after.lifecycle.away.is_none() && link.lifecycle.away.take().is_some() {
                outcome.links.insert(*id, Some(link.clone()));
            }
        }
        if outcome == Outcome::default() { Ok(()) } else { self.store.record(&outcome) }
    }
}

/// Nothing is done for people of whom it is not known what an interrupted run did for them.
fn leave_the_unclear(seen: &Gathered, plan: &mut BatchPlan) {
    let unclear = |id: &DefguardId| seen.unclear.contains(id);
    let (left, groups) = std::mem::take(&mut plan.groups)
        .into_iter()
        .partition::<Vec<_>, _>(|group| group.people.iter().any(unclear));
    plan.groups = groups;
    for id in left.iter().flat_map(|group| &group.people) {
        let why = "it could not be found out what an interrupted run did for them; try again later";
        let left = LeftAsIs { what: "everything".to_owned(), why: why.to_owned() };
        plan.left.entry(*id).or_default().push(left);
    }
}

/// A step in words. That somebody is unlocked by hand says nothing of why.
fn text(step: &Step) -> StepText {
    match step {
        Step::Ladder { mxid, rung: Rung::Unlock(_), .. } => StepText(format!("unlock {mxid}")),
        step => StepText::of(step),
    }
}

fn digest(plan: &BatchPlan) -> String {
    let steps = plan.groups.iter().flat_map(|group| group.steps.iter().map(text));
    let links = plan
        .groups
        .iter()
        .flat_map(|group| group.links.iter().map(|(id, link)| StepText(format!("{id} {}", link.is_some()))));
    let text: Vec<String> = steps.chain(links).map(|StepText(text)| text).collect();
    hex(text.join("\n").as_bytes(), 8)
}

fn people(seen: &Gathered, plan: &BatchPlan, applied: Option<&Applied>) -> Vec<BatchPerson> {
    let group_of: BTreeMap<DefguardId, _> =
        plan.groups.iter().flat_map(|group| group.people.iter().map(move |id| (*id, group))).collect();
    let everybody: BTreeSet<DefguardId> = group_of.keys().chain(plan.left.keys()).copied().collect();
    let person = |id: DefguardId| {
        let link = seen.links.get(&id);
        let listed = seen.listing.people().get(&id).map(|person| person.username.clone());
        let group = group_of.get(&id);
        let done = group.and_then(|group| applied?.groups.get(&group.key));
        let steps = group.into_iter().flat_map(|group| group.steps.iter().filter(|step| step.person() == id));
        let mut steps: Vec<StepText> = steps.map(text).collect();
        if group.is_some_and(|group| group.made.contains_key(&id)) {
            steps.push(StepText("forget the link".to_owned()));
        }
        BatchPerson {
            id,
            username: listed.or_else(|| link.map(|link| link.username.clone())),
            mxid: link.map(|link| link.mxid.clone()),
            left: plan.left.get(&id).cloned().unwrap_or_default(),
            warnings: plan.warnings.get(&id).cloned().unwrap_or_default(),
            changes: done.and_then(|done| done.done.get(&id)).cloned().unwrap_or_default(),
            failure: done.and_then(|done| done.failed.clone()).map(|(_, failure)| failure),
            put_off: done.and_then(|done| done.put_off.clone()),
            steps,
        }
    };
    everybody.into_iter().map(person).collect()
}
