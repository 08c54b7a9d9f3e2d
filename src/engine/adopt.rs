//! `adopt`: shows which accounts that are there already are whose, and links them once their digest is approved.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    Engine, Progress,
    gather::{Gathered, MOST_ROUNDS, NOTHING_HELD, no_end},
};
use crate::{
    domain::{Activity, Certainty, Change, Completeness, DefguardId, Failure, Lookup, Mxid, Username},
    reconcile::{
        Candidate, Claimant, Group, HandDecision, Matching, Pass, Proposal, adoption_digest, decide_by_hand,
        match_accounts,
    },
};

/// What is asked of `adopt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptRequest {
    /// Only these people, by username, `#` and id, or MXID; empty: everybody.
    #[serde(default)]
    pub only: BTreeSet<String>,
    /// The least certainty of a match that is proposed.
    pub least: Certainty,
    /// The digest that was shown and is approved; without it nothing is written.
    #[serde(default)]
    pub approved: Option<String>,
}

/// An account that is, or can become, somebody's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Who.
    pub id: DefguardId,
    /// Their username.
    pub username: Username,
    /// The account and what speaks for it.
    #[serde(flatten)]
    pub account: Candidate,
    /// How sure it is.
    pub certainty: Certainty,
    /// What an admin should know before they say yes.
    pub warnings: Vec<String>,
}

/// One of several accounts that may be one person's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Double {
    /// The account and what speaks for it.
    #[serde(flatten)]
    pub account: Candidate,
    /// How much it is used; `None` if it could not be found out.
    pub activity: Option<Activity>,
}

/// Somebody who may have several accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubles {
    /// Who.
    pub id: DefguardId,
    /// Their username.
    pub username: Username,
    /// The accounts.
    pub accounts: Vec<Double>,
}

/// Somebody whose account is not proposed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Who.
    pub id: DefguardId,
    /// Their username.
    pub username: Username,
    /// The account, if there is one.
    pub mxid: Option<Mxid>,
    /// Why not.
    pub why: String,
}

/// What became of one match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adopted {
    /// Who.
    pub id: DefguardId,
    /// Their username.
    pub username: Username,
    /// The account.
    pub mxid: Mxid,
    /// What was done.
    pub done: Vec<Change>,
    /// Why it was not, or not all of it.
    pub trouble: Option<String>,
}

/// What `adopt` shows or did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adoption {
    /// How far the list of people can be trusted.
    pub completeness: Completeness,
    /// What is proposed, and covered by the digest; the surest first.
    pub matches: Vec<Match>,
    /// What is less sure than was asked for, and so not proposed.
    pub less_sure: Vec<Match>,
    /// The people with several accounts.
    pub doubles: Vec<Doubles>,
    /// The accounts that are not proposed.
    pub left: Vec<Left>,
    /// How many people are linked already.
    pub linked: usize,
    /// How many people have no account of any kind; the sync makes one.
    pub without: usize,
    /// The names that were asked for and that nobody has.
    pub unknown: Vec<String>,
    /// The digest of the matches; `None` if there are none.
    pub digest: Option<String>,
    /// What was done; `None` if it was only shown.
    pub done: Option<Vec<Adopted>>,
    /// Why it is not done, if it is refused.
    pub refused: Option<String>,
}

impl Engine {
    /// Shows which accounts may be whose, or links them if their digest is approved.
    pub async fn adopt(&self, request: &AdoptRequest, progress: &dyn Progress) -> Result<Adoption, Failure> {
        let _turn = self.turn(progress).await;
        let (seen, mut adoption, groups) = self.read(self.find_out_adoption(request)).await?;
        let Some(approved) = &request.approved else { return Ok(adoption) };
        if adoption.refused.is_some() {
            return Ok(adoption);
        }
        if adoption.digest.as_ref() != Some(approved) {
            adoption.refused = Some(match &adoption.digest {
                Some(now) => format!(
                    "something has changed since {approved} was shown, or other people or another certainty were asked \
                     for; what would be done now has the digest {now}"
                ),
                None => "there is nothing to adopt".to_owned(),
            });
            return Ok(adoption);
        }
        let work: Vec<Group> = groups.values().cloned().collect();
        let applied = self.groups(&seen, &work, None, progress).await?;
        let stopped = applied.stopped.as_ref().map(Failure::to_string);
        let adopted = adoption.matches.iter().map(|found| {
            let done = groups.get(&found.id).and_then(|group| applied.groups.get(&group.key));
            let trouble = match done {
                None => Some(stopped.clone().unwrap_or_else(|| "it was asked to end before".to_owned())),
                Some(done) => {
                    let failed = done.failed.as_ref().map(|(_, failure)| failure.to_string());
                    failed.or_else(|| done.put_off.clone())
                }
            };
            Adopted {
                id: found.id,
                username: found.username.clone(),
                mxid: found.account.mxid.clone(),
                done: done.and_then(|done| done.done.get(&found.id)).cloned().unwrap_or_default(),
                trouble,
            }
        });
        adoption.done = Some(adopted.collect());
        Ok(adoption)
    }

    async fn find_out_adoption(
        &self,
        request: &AdoptRequest,
    ) -> Result<(Gathered, Adoption, BTreeMap<DefguardId, Group>), Failure> {
        let mut seen = self.gather().await?;
        self.recover(&mut seen, request.approved.is_none()).await?;
        let mut only = BTreeSet::new();
        let mut unknown = Vec::new();
        for name in &request.only {
            match seen.resolve(name) {
                Some(id) => {
                    only.insert(id);
                }
                None => unknown.push(name.clone()),
            }
        }
        let nobody = !request.only.is_empty() && only.is_empty();
        let proposal = if nobody { Proposal::default() } else { self.match_all(&mut seen, &only).await? };
        let mut left: Vec<Left> = proposal.left.iter().map(|(claimant, why)| left(claimant, why)).collect();
        left.extend(proposal.failed.iter().filter_map(|(id, failure)| {
            let username = seen.listing.people().get(id)?.username.clone();
            Some(Left { id: *id, username, mxid: None, why: failure.to_string() })
        }));
        let (chosen, less): (Vec<Claimant>, Vec<Claimant>) =
            proposal.matched.into_iter().partition(|claimant| {
                claimant.candidates.iter().all(|candidate| candidate.certainty() >= request.least)
            });
        let (mut matches, mut groups, mut proposed) = (Vec::new(), BTreeMap::new(), Vec::new());
        for claimant in chosen {
            let Some(candidate) = claimant.candidates.first() else { continue };
            match self.decide_link(&mut seen, claimant.id, &candidate.mxid).await? {
                Ok((group, warnings)) => {
                    groups.insert(claimant.id, group);
                    matches.extend(matched(&claimant, warnings));
                    proposed.push(claimant);
                }
                Err(why) => left.push(self::left(&claimant, &why)),
            }
        }
        let none = (BTreeSet::new(), BTreeSet::new());
        let digest = adoption_digest(&seen.scene(Pass::Frequent, &none.0, &none.1, &NOTHING_HELD), &proposed);
        matches.sort_by_key(|found: &Match| (std::cmp::Reverse(found.certainty), found.username.clone()));
        let complete = seen.listing.is_complete();
        let adoption = Adoption {
            completeness: seen.listing.completeness().clone(),
            digest: (complete && !matches.is_empty()).then_some(digest),
            matches,
            less_sure: less.iter().flat_map(|claimant| matched(claimant, Vec::new())).collect(),
            doubles: self.doubles(&proposal.duplicates).await,
            left,
            linked: seen.links.len(),
            without: proposal.without.len(),
            unknown,
            done: None,
            refused: (!complete)
                .then(|| "the list of people in Defguard could not be read completely; try again".to_owned()),
        };
        Ok((seen, adoption, groups))
    }

    async fn match_all(&self, seen: &mut Gathered, only: &BTreeSet<DefguardId>) -> Result<Proposal, Failure> {
        let none = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..MOST_ROUNDS {
            match match_accounts(&seen.scene(Pass::Frequent, &none.0, &none.1, &NOTHING_HELD), only) {
                Matching::Propose(proposal) => return Ok(proposal),
                Matching::Ask(questions) => self.find_answers(questions, &mut seen.answers).await?,
            }
        }
        Err(no_end())
    }

    /// What `link` would do, or why it would refuse.
    async fn decide_link(
        &self,
        seen: &mut Gathered,
        id: DefguardId,
        mxid: &Mxid,
    ) -> Result<Result<(Group, Vec<String>), String>, Failure> {
        if seen.unclear.contains(&id) {
            return Ok(Err("it could not be found out what an interrupted run did for them".to_owned()));
        }
        let (afresh, postponed) = (BTreeSet::from([id]), BTreeSet::new());
        for _ in 0..MOST_ROUNDS {
            match decide_by_hand(
                &seen.scene(Pass::Frequent, &afresh, &postponed, &NOTHING_HELD),
                id,
                Some(mxid),
            ) {
                HandDecision::Do { group, warnings } => return Ok(Ok((group, warnings))),
                HandDecision::Refused(why) => return Ok(Err(why)),
                HandDecision::Failed(failure) => return Ok(Err(failure.to_string())),
                HandDecision::Ask(questions) => self.find_answers(questions, &mut seen.answers).await?,
            }
        }
        Err(no_end())
    }

    async fn doubles(&self, duplicates: &[Claimant]) -> Vec<Doubles> {
        let accounts: BTreeSet<Mxid> = duplicates
            .iter()
            .flat_map(|claimant| claimant.candidates.iter().map(|candidate| candidate.mxid.clone()))
            .collect();
        let mut asked = stream::iter(accounts)
            .map(|mxid| async move {
                let seen = self.homeserver.last_seen(&mxid).await;
                let rooms = self.homeserver.rooms(&mxid).await;
                (mxid, seen, rooms)
            })
            .buffer_unordered(self.options.concurrency.max(1));
        let mut activity: BTreeMap<Mxid, Activity> = BTreeMap::new();
        while let Some((mxid, seen, rooms)) = asked.next().await {
            if let (Lookup::Found(last_seen), Ok(rooms)) = (seen, rooms) {
                activity.insert(mxid, Activity { last_seen, rooms: rooms.len() });
            }
        }
        duplicates
            .iter()
            .map(|claimant| Doubles {
                id: claimant.id,
                username: claimant.username.clone(),
                accounts: claimant
                    .candidates
                    .iter()
                    .map(|candidate| Double {
                        activity: activity.get(&candidate.mxid).cloned(),
                        account: candidate.clone(),
                    })
                    .collect(),
            })
            .collect()
    }
}

fn matched(claimant: &Claimant, warnings: Vec<String>) -> Option<Match> {
    let candidate = claimant.candidates.first()?;
    Some(Match {
        id: claimant.id,
        username: claimant.username.clone(),
        certainty: candidate.certainty(),
        account: candidate.clone(),
        warnings,
    })
}

fn left(claimant: &Claimant, why: &str) -> Left {
    Left {
        id: claimant.id,
        username: claimant.username.clone(),
        mxid: claimant.candidates.first().map(|candidate| candidate.mxid.clone()),
        why: why.to_owned(),
    }
}
