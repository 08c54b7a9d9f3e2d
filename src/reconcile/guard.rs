//! What a plan may do without a person saying yes. Refuses with a reason, never with a bare no; and what it refuses is
//! left out of the plan by deciding anew without it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    lifecycle::{harm_of, protected},
    plan::{Group, Plan, Rung, Step},
    scene::Scene,
};
use crate::domain::{
    Change, ConfigPrint, DefguardId, GuardLimits, Harm, Held, HeldStep, HoldReason, Link, Mxid, OnLeave, hex,
};

/// Everything that the guard goes by beside the plan.
#[derive(Debug, Clone)]
pub struct Guard<'a> {
    /// How much is let through.
    pub limits: GuardLimits,
    /// To whom something of each kind was done within the last day, by runs that nobody had approved of.
    pub recent: &'a BTreeMap<Harm, BTreeSet<DefguardId>>,
    /// What was held by the run before.
    pub before: Option<&'a Held>,
    /// The digest that a person approved of.
    pub approval: Option<&'a str>,
    /// The config under which nothing was held; `None` before the first run.
    pub accepted: Option<&'a ConfigPrint>,
    /// The config now.
    pub config: &'a ConfigPrint,
    /// Whether nobody has an account of ours yet.
    pub first_run: bool,
    /// Why our own memory cannot be trusted.
    pub distrust: Option<&'a HoldReason>,
}

/// A plan of which the guard lets everything through. Only [`Guard::approve`] makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct ApprovedPlan(Plan);

impl ApprovedPlan {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.0
    }

    /// Keeps only the groups in which one of these people is, for a sync of single people.
    pub fn restrict(&mut self, to: &BTreeSet<DefguardId>) {
        self.0.restrict(to);
    }
}

/// What makes the guard keep something back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Our own memory cannot be trusted.
    Distrust,
    /// The list of people lacks too many.
    MissingPeople,
    /// This part of the config changed.
    Config(&'static str),
    /// Nobody has an account of ours yet.
    FirstRun,
    /// Too many of a kind.
    TooMany(Harm),
    /// Somebody approved of something else.
    NotApproved,
}

/// What the guard says to a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// What is kept back.
    pub steps: BTreeSet<HeldStep>,
    /// Why.
    pub reasons: BTreeMap<Cause, HoldReason>,
    /// Whether an approval can let it run.
    pub approvable: bool,
}

impl Verdict {
    /// What is kept back, person by person, as the decision needs it.
    pub fn by_person(&self) -> BTreeMap<DefguardId, BTreeSet<Harm>> {
        let mut held: BTreeMap<DefguardId, BTreeSet<Harm>> = BTreeMap::new();
        for step in &self.steps {
            held.entry(step.id).or_default().insert(step.harm);
        }
        held
    }

    /// The digest that an approval has to name.
    pub fn digest(&self) -> Option<String> {
        (self.approvable && !self.steps.is_empty()).then(|| Held::digest_of(&self.steps))
    }
}

impl Guard<'_> {
    /// Judges a plan. `kept` is what was found to be kept back already, which the plan does not contain any more. It stays
    /// kept back even if there are few enough without it: what waited for it would come back with it.
    pub fn judge(&self, scene: &Scene<'_>, plan: &Plan, kept: &Verdict) -> Verdict {
        let steps: BTreeSet<HeldStep> = harms(scene, plan).union(&kept.steps).cloned().collect();
        let mut verdict = Verdict { approvable: self.distrust.is_none(), ..kept.clone() };
        let mut hold = |cause: Cause, reason: HoldReason, steps: Vec<HeldStep>| {
            verdict.reasons.insert(cause, reason);
            verdict.steps.extend(steps);
        };
        let of = |kinds: &[Harm]| -> Vec<HeldStep> {
            steps.iter().filter(|step| kinds.contains(&step.harm)).cloned().collect()
        };
        if let Some(reason) = self.distrust {
            hold(Cause::Distrust, reason.clone(), of(&Harm::ALL));
        }
        if let Some(reason) = missing_people(scene, self.limits) {
            hold(Cause::MissingPeople, reason, of(&[Harm::LockGone, Harm::Deactivate]));
        }
        for (part, reason, kinds) in self.config_changes() {
            let steps = of(&kinds);
            if !steps.is_empty() {
                hold(Cause::Config(part), reason, steps);
            }
        }
        let adopted = of(&[Harm::Adopt]);
        if self.first_run && !adopted.is_empty() {
            hold(
                Cause::FirstRun,
                HoldReason {
                    why: format!(
                        "the first run would make {} become people's that were there before",
                        accounts(adopted.len())
                    ),
                    mend: "look at each of them with `plan`".to_owned(),
                },
                adopted,
            );
        }
        let allowed = self.limits.allowed(in_use(scene));
        for harm in Harm::ALL.into_iter().filter(|harm| harm.is_counted()) {
            let steps = of(&[harm]);
            if let Some((count, over)) = self.too_many(harm, &steps, allowed) {
                hold(
                    Cause::TooMany(harm),
                    HoldReason {
                        why: format!(
                            "{} would {harm} within a day, and {allowed} are let through",
                            accounts(count)
                        ),
                        mend: mend(harm).to_owned(),
                    },
                    over,
                );
            }
        }
        verdict
    }

    /// Gives out the plan if nothing that is kept back is in it.
    pub fn approve(&self, scene: &Scene<'_>, plan: Plan, verdict: &Verdict) -> Option<ApprovedPlan> {
        let held = verdict.by_person();
        (!harms(scene, &plan).iter().any(|step| is_in(&held, step))).then_some(ApprovedPlan(plan))
    }

    /// Gives out what is left of a plan without the groups in which something is that is kept back.
    pub fn approve_rest(&self, scene: &Scene<'_>, mut plan: Plan, verdict: &Verdict) -> ApprovedPlan {
        let held = verdict.by_person();
        plan.groups.retain(|group| !harms_of(scene, group).iter().any(|step| is_in(&held, step)));
        ApprovedPlan(plan)
    }

    /// Gives out a plan with everything that is kept back, if a person approved of just this, or of more than is left of
    /// it by now.
    pub fn approved_by_hand(&self, plan: &Plan, verdict: &Verdict) -> Option<ApprovedPlan> {
        let approval = self.approval?;
        let just_this = verdict.digest().as_deref() == Some(approval);
        let less = self.before.is_some_and(|before| {
            before.digest.as_deref() == Some(approval)
                && !verdict.steps.is_empty()
                && verdict.steps.is_subset(&before.steps)
        });
        (verdict.approvable && (just_this || less)).then(|| ApprovedPlan(plan.clone()))
    }

    /// Which kinds are too many, with how many there would be and which of them are kept back. What was held before stays
    /// held and does not keep back what comes newly: one person's lock never waits for that of many.
    fn too_many(&self, harm: Harm, steps: &[HeldStep], allowed: usize) -> Option<(usize, Vec<HeldStep>)> {
        let planned: BTreeSet<DefguardId> = steps.iter().map(|step| step.id).collect();
        let none = BTreeSet::new();
        let recent = self.recent.get(&harm).unwrap_or(&none);
        let all = planned.union(recent).count();
        if planned.is_empty() || all <= allowed {
            return None;
        }
        let held_before: BTreeSet<DefguardId> = self
            .before
            .iter()
            .flat_map(|held| held.steps.iter())
            .filter(|step| step.harm == harm)
            .map(|step| step.id)
            .collect();
        let fresh: BTreeSet<DefguardId> = planned.difference(&held_before).copied().collect();
        let few = fresh.union(recent).count() <= allowed;
        let over = steps.iter().filter(|step| !few || held_before.contains(&step.id));
        Some((all, over.cloned().collect()))
    }

    /// What a change of the config does that no change of people would.
    fn config_changes(&self) -> Vec<(&'static str, HoldReason, Vec<Harm>)> {
        let Some(old) = self.accepted else { return Vec::new() };
        let new = self.config;
        let changed = |what: &str, put_back: &str| HoldReason {
            why: format!("{what} changed in the config since the last run that had nothing held"),
            mend: format!("if it was meant, approve of what it does; if not, put {put_back} back"),
        };
        let mut found = Vec::new();
        if old.scope != new.scope {
            let reason = changed("the group filter", "`[scope]`");
            found.push(("scope", reason, vec![Harm::LockOutOfScope]));
        }
        if old.subject_template != new.subject_template {
            let reason = changed("`subject_template`", "it");
            found.push(("subject_template", reason, vec![Harm::Relink, Harm::Migrate]));
        }
        if old.auth_provider != new.auth_provider {
            let reason = changed("`idp_id`", "it");
            found.push(("idp_id", reason, vec![Harm::Relink, Harm::Migrate]));
        }
        if old.display_name_template != new.display_name_template {
            let reason = changed("`display_name_template`", "it");
            found.push(("display_name_template", reason, vec![Harm::DisplayName]));
        }
        if old.email_template != new.email_template {
            found.push(("email_template", changed("`email_template`", "it"), vec![Harm::Email]));
        }
        found
    }
}

/// Whether this is kept back, whatever the account would be given.
fn is_in(held: &BTreeMap<DefguardId, BTreeSet<Harm>>, step: &HeldStep) -> bool {
    held.get(&step.id).is_some_and(|harms| harms.contains(&step.harm))
}

fn accounts(count: usize) -> String {
    if count == 1 { "1 account".to_owned() } else { format!("{count} accounts") }
}

fn mend(harm: Harm) -> &'static str {
    match harm {
        Harm::LockDisabled => "see in Defguard whether all of them are to be disabled",
        Harm::LockGone => "see in Defguard whether all of them are to be gone",
        Harm::LockOutOfScope => "see whether the groups in Defguard and `[scope]` are right",
        Harm::Deactivate => "see with `status` who they are; a deactivation cannot be taken back whole",
        Harm::Relink | Harm::Migrate => "see whether usernames in Defguard and `subject_template` are right",
        Harm::Email => "see whether addresses in Defguard and `email_template` are right",
        Harm::DisplayName => "see whether names in Defguard and `display_name_template` are right",
        Harm::Adopt => "see whether `on_conflict` is right",
        Harm::EndSessions | Harm::Restore => "see with `explain` what was done to the account before",
    }
}

/// How many linked accounts are in use as far as we are concerned.
fn in_use(scene: &Scene<'_>) -> usize {
    scene.links.values().filter(|link| !link.lifecycle.is_off_boarded()).count()
}

/// Whether the list lacks so many of the linked people that something is wrong with it.
fn missing_people(scene: &Scene<'_>, limits: GuardLimits) -> Option<HoldReason> {
    let mend = "look at the people in Defguard's web page. If they are there, something is wrong with Defguard or with the \
                way to it; if they were really deleted, wait until each absence is proved and approve of the locks";
    if scene.people.is_empty() && !scene.links.is_empty() {
        let why = "the list of people is empty".to_owned();
        return Some(HoldReason { why, mend: mend.to_owned() });
    }
    if !scene.complete {
        return None;
    }
    let in_use: Vec<&DefguardId> =
        scene.links.iter().filter(|(_, link)| would_be_locked(scene, link)).map(|(id, _)| id).collect();
    let missing = in_use.iter().filter(|id| !scene.people.contains_key(id)).count();
    (missing > limits.may_be_missing(in_use.len())).then(|| HoldReason {
        why: format!("the list of people lacks {missing} of the {} whose accounts are in use", in_use.len()),
        mend: mend.to_owned(),
    })
}

/// Whether something would be done to the account if its owner were gone.
fn would_be_locked(scene: &Scene<'_>, link: &Link) -> bool {
    let rules = &scene.rules.off_boarding;
    rules.gone != OnLeave::Ignore
        && !link.lifecycle.is_off_boarded()
        && scene.accounts.get(&link.mxid).is_some_and(|account| {
            let out_of_use = account.locked || account.deactivated;
            !out_of_use
                && protected(scene.rules, account).is_none()
                && (rules.off_board_admins || !account.admin)
        })
}

/// Everything in a plan that can do harm.
fn harms(scene: &Scene<'_>, plan: &Plan) -> BTreeSet<HeldStep> {
    plan.groups.iter().flat_map(|group| harms_of(scene, group)).collect()
}

fn harms_of(scene: &Scene<'_>, group: &Group) -> Vec<HeldStep> {
    let mut found = Vec::new();
    let mut add = |id: DefguardId, mxid: &Mxid, harm: Harm, target: String| {
        found.push(HeldStep { id, mxid: mxid.clone(), harm, target });
    };
    for step in &group.steps {
        match step {
            Step::Ladder { id, mxid, rung: Rung::Lock { why, .. } } => {
                add(*id, mxid, harm_of(*why), String::new())
            }
            Step::Ladder { id, mxid, rung: Rung::Deactivate(_) } => {
                add(*id, mxid, Harm::Deactivate, String::new());
            }
            Step::Ladder { id, mxid, rung: Rung::Unlock(_) | Rung::Reactivate { .. } } => {
                add(*id, mxid, Harm::Restore, String::new());
            }
            Step::Name { id, mxid, display_name } => {
                add(*id, mxid, Harm::DisplayName, hex(display_name.as_bytes(), 8));
            }
            Step::Hold { id, mxid, change } => {
                if !change.drop_emails.is_empty() {
                    let emails = change.drop_emails.iter().chain(&change.add_emails);
                    let text: Vec<&str> = emails.map(crate::domain::Email::as_str).collect();
                    add(*id, mxid, Harm::Email, hex(text.join(" ").as_bytes(), 8));
                }
                let drops = change.drop_ids.iter().chain(&change.wash_ids);
                let loses = drops.clone().any(|id| !id.is_marker());
                let (old, new) = (scene.links.get(id), group.links.get(id).and_then(Option::as_ref));
                let migrates = old.zip(new).is_some_and(|(old, new)| !new.former.is_subset(&old.former));
                if loses || migrates {
                    let ids = drops.chain(&change.add_ids).map(ToString::to_string);
                    let text = ids.collect::<Vec<_>>().join(" ");
                    let harm = if migrates { Harm::Migrate } else { Harm::Relink };
                    add(*id, mxid, harm, hex(text.as_bytes(), 8));
                }
            }
            Step::Ladder { id, mxid, rung: Rung::EndSessions(_) } => {
                // Those of an account that is locked in the same breath go with the lock.
                let locks = |step: &Step| matches!(step, Step::Ladder { id: of, rung: Rung::Lock { .. }, .. } if of == id);
                if !group.steps.iter().any(locks) {
                    add(*id, mxid, Harm::EndSessions, String::new());
                }
            }
            Step::Create { .. } => {}
        }
    }
    for (id, change) in &group.made {
        if let (Change::Adopted, Some(Some(link))) = (change, group.links.get(id)) {
            add(*id, &link.mxid, Harm::Adopt, String::new());
        }
    }
    found
}

/// What a journal line counts as, for what was done within the last day.
pub(crate) fn harm_of_change(change: &Change) -> Option<Harm> {
    match change {
        Change::Locked { why, .. } => Some(harm_of(*why)),
        Change::Deactivated { .. } => Some(Harm::Deactivate),
        Change::DisplayName { .. } => Some(Harm::DisplayName),
        Change::Emails { before, after } => (!before.is_subset(after)).then_some(Harm::Email),
        Change::ExternalIds { before, after } => {
            before.difference(after).any(|id| !id.is_marker()).then_some(Harm::Relink)
        }
        Change::Adopted => Some(Harm::Adopt),
        _ => None,
    }
}
