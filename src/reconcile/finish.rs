//! The end of a migration: the logins under a former `idp_id` or `subject_template` leave the accounts.

use super::{
    batch::{BatchDecision, BatchPlan},
    draft::{Draft, order},
    plan::State,
    scene::Scene,
    view::{Stop, View},
};
use crate::domain::{DefguardId, ExternalId, Link};

/// Decides which logins leave which accounts.
pub fn decide_finish(scene: &Scene<'_>, is_held: bool) -> BatchDecision {
    if is_held {
        return BatchDecision::Refused(
            "the guard still holds logins under the new idp_id or subject_template; see `plan`, and `approve` them first"
                .to_owned(),
        );
    }
    if scene.migration.is_some() {
        return BatchDecision::Refused(
            "idp_id or subject_template was changed, and not all accounts have their new login yet; run `sync`, and see \
             `status` for what keeps it from ending"
                .to_owned(),
        );
    }
    let view = View::new(scene);
    let mut plan = BatchPlan::default();
    for (id, link) in scene.links.iter().filter(|(_, link)| !link.former.is_empty()) {
        match take_off(&view, *id, link, &mut plan) {
            Ok(()) | Err(Stop::Pending | Stop::Waits(_)) => {}
            Err(Stop::Failed(failure)) => return BatchDecision::Failed(*failure),
        }
    }
    if view.has_questions() { BatchDecision::Ask(view.into_questions()) } else { BatchDecision::Do(plan) }
}

fn take_off(view: &View<'_>, id: DefguardId, link: &Link, plan: &mut BatchPlan) -> Result<(), Stop> {
    let rules = &view.scene.rules;
    let what = "the former login";
    let mxid = &link.mxid;
    let mut draft = Draft::of(id, Some(link), State::Update);
    if let Some(account) = view.account(mxid)? {
        if account.is_marked() && account.owner(&rules.instance) != Some(id) {
            plan.leave(id, what, format!("{mxid} carries the ownership marker of somebody else"));
            return Ok(());
        }
        let present = link.subject.as_ref().map(|subject| ExternalId::login(&rules.auth_provider, subject));
        if present.as_ref().is_none_or(|login| !account.external_ids.contains(login)) {
            plan.leave(
                id,
                what,
                format!("{mxid} has no login under the present idp_id and subject_template, and would have none at all"),
            );
            return Ok(());
        }
        let leaves = |id: &&ExternalId| account.external_ids.contains(id) && Some(*id) != present.as_ref();
        draft.drops.ids.extend(link.former.iter().filter(leaves).cloned());
    }
    if let Some(link) = &mut draft.link {
        link.former.clear();
    }
    let hands: Vec<_> = draft.hands().collect();
    let mut group = order(id, &[&draft], &hands);
    group.links.insert(id, draft.link.clone());
    // Done because somebody asked for it, whatever Defguard says about the person.
    group.confirm = false;
    plan.groups.push(group);
    Ok(())
}
