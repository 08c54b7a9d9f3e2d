//! `link` and `unlink`: shown first, done only when confirmed, journalled like everything else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Engine, StepText, gather::answer};
use crate::{
    domain::{Change, DefguardId, Failure, FailureClass, Mxid, Peer, Username},
    reconcile::{ByHand, HandDecision, Pass, Scene, decide_by_hand},
};

/// What a change by hand does or did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandDone {
    /// For whom.
    pub id: DefguardId,
    /// Their username.
    pub username: Option<Username>,
    /// What is written, in order.
    pub steps: Vec<StepText>,
    /// What the admin should know before they say yes.
    pub warnings: Vec<String>,
    /// What was done; `None` if it was only shown.
    pub done: Option<Vec<Change>>,
    /// Why it is not done, if it is refused.
    pub refused: Option<String>,
}

impl Engine {
    /// Shows what a change by hand would do, or does it if it is `confirmed`.
    pub async fn by_hand(&self, wish: &ByHand, confirmed: bool) -> Result<HandDone, Failure> {
        let _turn = self.turn.lock().await;
        let mut seen = self.gather().await?;
        let (name, account) = match wish {
            ByHand::Link { person, mxid } => (person, Some(mxid)),
            ByHand::Unlink { person } => (person, None),
        };
        let refuse = |id: DefguardId, username: Option<Username>, why: String| HandDone {
            id,
            username,
            steps: Vec::new(),
            warnings: Vec::new(),
            done: None,
            refused: Some(why),
        };
        let Some(id) = seen.resolve(name) else {
            return Ok(refuse(
                DefguardId(0),
                None,
                format!("nobody in Defguard and no link of ours has the name {name}"),
            ));
        };
        let username = seen
            .listing
            .people()
            .get(&id)
            .map(|person| person.username.clone())
            .or_else(|| seen.links.get(&id).map(|link| link.username.clone()));
        let mxid = match account.map(|mxid| Mxid::parse(mxid, &seen.info.server_name)).transpose() {
            Ok(mxid) => mxid,
            Err(problem) => return Ok(refuse(id, username, problem.to_string())),
        };
        let afresh = BTreeSet::from([id]);
        let (group, warnings) = loop {
            let scene = Scene {
                people: seen.listing.people(),
                complete: seen.listing.is_complete(),
                mapped: &seen.mapped,
                links: &seen.links,
                accounts: &seen.accounts,
                answers: &seen.answers,
                intents: &seen.intents,
                standoffs: &seen.standoffs,
                postponed: &BTreeSet::new(),
                afresh: &afresh,
                pass: Pass::Frequent,
                rules: &seen.rules,
            };
            match decide_by_hand(&scene, id, mxid.as_ref()) {
                HandDecision::Do { group, warnings } => break (group, warnings),
                HandDecision::Refused(why) => return Ok(refuse(id, username, why)),
                HandDecision::Failed(failure) => return Err(failure),
                HandDecision::Ask(questions) => {
                    answer(self.homeserver.as_ref(), questions, &mut seen.answers, self.options.concurrency)
                        .await?;
                }
            }
        };
        let mut shown = HandDone {
            id,
            username,
            steps: group.steps.iter().map(StepText::of).collect(),
            warnings,
            done: None,
            refused: None,
        };
        if confirmed {
            let done = self.group(&seen, &group, None).await?;
            if let Some((_, failure)) = done.failed {
                return Err(failure);
            }
            if let Some(why) = done.put_off {
                return Err(Failure::new(
                    Peer::Synapse,
                    FailureClass::Transient,
                    "changing a link by hand",
                    why,
                )
                .mend("nothing is half-done that the next sync would not finish; try again"));
            }
            shown.done = Some(done.done.into_values().flatten().collect());
        }
        Ok(shown)
    }
}
