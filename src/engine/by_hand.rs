//! `link` and `unlink`: shown first, done only when confirmed, journalled like everything else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    Engine, Progress, StepText,
    gather::{Gathered, MOST_ROUNDS, NOTHING_HELD, no_end},
};
use crate::{
    domain::{Change, DefguardId, Failure, FailureClass, Mxid, Peer, Username},
    reconcile::{ByHand, Group, HandDecision, Pass, decide_by_hand},
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

/// What a wish comes to.
enum Found {
    Refused(HandDone),
    Do(HandDone, Group),
}

impl Engine {
    /// Shows what a change by hand would do, or does it if it is `confirmed`. Whoever confirmed what they were `shown` gets
    /// that and nothing else: if other steps are due by now, it is refused.
    pub async fn by_hand(
        &self,
        wish: &ByHand,
        confirmed: bool,
        shown: Option<&[StepText]>,
        progress: &dyn Progress,
    ) -> Result<HandDone, Failure> {
        let _turn = self.turn(progress).await;
        let (seen, found) = self.read(self.find_out_by_hand(wish)).await?;
        let (mut done, group) = match found {
            Found::Refused(refused) => return Ok(refused),
            Found::Do(done, group) => (done, group),
        };
        if !confirmed {
            return Ok(done);
        }
        if shown.is_some_and(|shown| *shown != done.steps) {
            let why = "something has changed since it was shown what would be done; look at it again";
            done.refused = Some(why.to_owned());
            return Ok(done);
        }
        let again = match wish {
            ByHand::Link { person, .. } => {
                format!(
                    "see `explain {person}`; what was begun, the next sync or `sync {person}` goes on with"
                )
            }
            ByHand::Unlink { .. } => "the link stays until all is done; try again".to_owned(),
        };
        let outcome = self.group(&seen, &group, None).await?;
        if let Some((_, failure)) = outcome.failed {
            return Err(match &failure.mend {
                Some(mend) => {
                    let mend = format!("{mend}; then {again}");
                    failure.mend(mend)
                }
                None => failure.mend(again),
            });
        }
        if let Some(why) = outcome.put_off {
            return Err(Failure::new(Peer::Synapse, FailureClass::Transient, "changing a link by hand", why)
                .mend(again));
        }
        done.done = Some(outcome.done.into_values().flatten().collect());
        Ok(done)
    }

    /// Reads both servers, finishes the journal of an interrupted run, and decides on the wish.
    async fn find_out_by_hand(&self, wish: &ByHand) -> Result<(Gathered, Found), Failure> {
        let mut seen = self.gather().await?;
        // What an interrupted run did has to be in the journal before more is done to the same accounts.
        self.recover(&mut seen, false).await?;
        let (name, account) = match wish {
            ByHand::Link { person, mxid } => (person, Some(mxid)),
            ByHand::Unlink { person } => (person, None),
        };
        let of = |id: DefguardId, username: Option<Username>| HandDone {
            id,
            username,
            steps: Vec::new(),
            warnings: Vec::new(),
            done: None,
            refused: None,
        };
        let Some(id) = seen.resolve(name) else {
            let why = format!("nobody in Defguard and no link of ours has the name {name}");
            let nobody = HandDone { refused: Some(why), ..of(DefguardId(0), None) };
            return Ok((seen, Found::Refused(nobody)));
        };
        let listed = seen.listing.people().get(&id).map(|person| person.username.clone());
        let username = listed.or_else(|| seen.links.get(&id).map(|link| link.username.clone()));
        let refuse =
            |why: String| Found::Refused(HandDone { refused: Some(why), ..of(id, username.clone()) });
        let mxid = match account.map(|mxid| Mxid::parse(mxid, &seen.info.server_name)).transpose() {
            Ok(mxid) => mxid,
            Err(problem) => return Ok((seen, refuse(problem.to_string()))),
        };
        if seen.unclear.contains(&id) {
            let why = "it could not be found out what an interrupted run did for them; try again later";
            return Ok((seen, refuse(why.to_owned())));
        }
        let (afresh, postponed) = (BTreeSet::from([id]), BTreeSet::new());
        for _ in 0..MOST_ROUNDS {
            match decide_by_hand(
                &seen.scene(Pass::Frequent, &afresh, &postponed, &NOTHING_HELD),
                id,
                mxid.as_ref(),
            ) {
                HandDecision::Do { group, warnings } => {
                    let steps = group.steps.iter().map(StepText::of).collect();
                    let shown = HandDone { steps, warnings, ..of(id, username) };
                    return Ok((seen, Found::Do(shown, group)));
                }
                HandDecision::Refused(why) => return Ok((seen, refuse(why))),
                HandDecision::Failed(failure) => return Err(failure),
                HandDecision::Ask(questions) => self.find_answers(questions, &mut seen.answers).await?,
            }
        }
        Err(no_end())
    }
}
