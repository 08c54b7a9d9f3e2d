//! Finds the links again through the ownership markers on the accounts, when our own memory is lost or old.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    Engine, Progress,
    gather::Gathered,
    report::code_of,
    trust::{Doubt, is_trusted},
};
use crate::{
    domain::{
        Account, Change, DefguardId, Entry, Failure, FailureClass, Link, Lookup, Mxid, Standing, Username,
    },
    ports::Outcome,
    reconcile::{Found, find_link},
};

/// So many links are written to disk at once.
const AT_ONCE: usize = 50;

/// After so many accounts in a row that could not be read the homeserver counts as unusable.
const MOST_FAILURES_IN_A_ROW: usize = 8;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// How many accounts the homeserver has.
    pub accounts: usize,
    /// How many of them were read.
    pub read: usize,
    /// The links that were found and are remembered now.
    pub found: Vec<Target>,
    /// How many links were remembered already as the accounts show them.
    pub known: usize,
    /// Accounts of ours that are locked, and it cannot be known by whom.
    pub locked: Vec<Target>,
    /// Where markers and links contradict each other. The links were left as they are.
    pub contradictions: Vec<Contradiction>,
    /// The accounts that could not be read.
    pub unreadable: Vec<Mxid>,
    /// Whether it was asked to end early.
    pub interrupted: bool,
    /// Whether our memory can be trusted from now on, so that destructive steps run again.
    pub trusted: bool,
    /// Why it ended early.
    pub failure: Option<Failure>,
}

/// A person and their account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Who.
    pub id: DefguardId,
    /// Their username when last seen.
    pub username: Username,
    /// Their account.
    pub mxid: Mxid,
}

/// A link that says something else than the accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contradiction {
    /// Whom it is about.
    pub id: DefguardId,
    /// What contradicts what.
    pub why: String,
    /// What a person can do about it.
    pub mend: String,
}

impl Target {
    fn of(link: &Link) -> Self {
        Self { id: link.id, username: link.username.clone(), mxid: link.mxid.clone() }
    }
}

impl RebuildReport {
    /// The exit code for it: 0 done, 3 some accounts were not read, 4 contradictions have to be settled first, 5 a
    /// server was unusable.
    pub fn exit_code(&self) -> u8 {
        match &self.failure {
            Some(failure) => code_of(failure),
            None if self.interrupted || !self.unreadable.is_empty() => 3,
            None if self.trusted => 0,
            None => 4,
        }
    }
}

impl Engine {
    /// Reads every account and remembers the links that the markers prove. Our memory is trusted again only when all were
    /// read and nothing contradicts them. What was found stays remembered if the work is cut short.
    pub async fn rebuild(&self, take_over: bool, progress: &dyn Progress) -> Result<RebuildReport, Failure> {
        let _turn = self.turn(progress).await;
        let mut seen = self.read(self.gather()).await?;
        let own = seen.info.own.clone();
        let record = self.homeserver.service_record(&own, &self.options.instance).await?;
        if let Some(record) = record.as_ref().filter(|record| record.holder != self.options.holder)
            && record.until > self.clock.now()
            && !take_over
        {
            let doubt = Doubt::Doubled { until: record.until };
            return Err(doubt.failure("finding the links again").mend(
                "stop the other daemon first; if it is surely stopped, say so with --take-over, or wait until the lease is \
                 over",
            ));
        }
        let trusted = is_trusted(&seen.standing, record.as_ref(), &self.store.id());
        if !trusted && seen.standing.lost.is_none() {
            // If it is cut short, nothing says any more that some links were never found.
            seen.standing.lost = Some("the links were not all found again".to_owned());
            self.store.set_standing(&seen.standing)?;
        }
        // A store that was begun after the loss knows nothing but what was found since. One that worked here before, and
        // was not the last to do so, calls things true that may be so no longer.
        let is_old = !trusted && seen.standing.generation > 0 && record.is_some();
        let mut report = RebuildReport { accounts: seen.accounts.len(), ..RebuildReport::default() };
        let accounts = self.read_all(&seen, &mut report, progress, is_old).await?;
        if report.interrupted || report.failure.is_some() || !report.unreadable.is_empty() {
            report.trusted = false;
            return Ok(report);
        }
        if is_old {
            report.contradictions.extend(unmarked(&seen, &accounts, &report.contradictions));
        }
        if !trusted && !report.contradictions.is_empty() {
            let why = format!(
                "{} link(s) contradict the ownership markers on the accounts",
                report.contradictions.len()
            );
            self.store.set_standing(&Standing { lost: Some(why), ..seen.standing })?;
            return Ok(report);
        }
        seen.standing.lost = None;
        if !trusted {
            seen.standing.hold = None;
        }
        if is_old {
            // What an old copy calls unfinished was finished since, and taken further.
            let finished = seen.intents.iter().map(|intent| intent.group).collect();
            self.store.record(&Outcome { finished, ..Outcome::default() })?;
        }
        match self.claim(&own, &mut seen.standing, record.as_ref()).await? {
            None => report.trusted = true,
            Some(doubt) => return Err(doubt.failure("laying claim to the homeserver")),
        }
        Ok(report)
    }

    /// Reads every account, and writes links as they are found. Gives the people whom the accounts' markers name.
    async fn read_all(
        &self,
        seen: &Gathered,
        report: &mut RebuildReport,
        progress: &dyn Progress,
        is_old: bool,
    ) -> Result<BTreeMap<Mxid, Option<DefguardId>>, Failure> {
        let mut marked = BTreeMap::new();
        let linked_to: BTreeMap<Mxid, DefguardId> =
            seen.links.values().map(|link| (link.mxid.clone(), link.id)).collect();
        let person =
            |id: DefguardId| (seen.listing.people().get(&id).cloned(), seen.mapped.get(&id).cloned());
        let mut outcome = Outcome::default();
        let mut in_a_row = 0;
        let mut reads = stream::iter(seen.accounts.keys().cloned())
            .map(|mxid| async move {
                let lookup =
                    if self.stop.is_cancelled() { None } else { Some(self.homeserver.get(&mxid).await) };
                (mxid, lookup)
            })
            .buffer_unordered(self.options.concurrency.max(1));
        while let Some((mxid, lookup)) = reads.next().await {
            let account = match lookup {
                None => {
                    report.interrupted = true;
                    continue;
                }
                Some(Lookup::Found(account)) => account,
                Some(Lookup::Absent) => continue,
                Some(Lookup::Unknown(failure)) => {
                    report.unreadable.push(mxid);
                    in_a_row += 1;
                    if in_a_row >= MOST_FAILURES_IN_A_ROW || failure.class == FailureClass::Unauthorised {
                        report.failure = Some(failure);
                        break;
                    }
                    continue;
                }
            };
            in_a_row = 0;
            report.read += 1;
            progress.step(report.read, report.accounts);
            marked.insert(mxid, account.owner(&seen.rules.instance));
            let found = find_link(&account, &seen.rules, &seen.links, &linked_to, person, !is_old);
            self.take_down(seen, &account, found, report, &mut outcome);
            if outcome.links.len() >= AT_ONCE {
                self.store.record(&std::mem::take(&mut outcome))?;
            }
        }
        self.store.record(&outcome)?;
        report.found.sort_by_key(|target| target.id);
        report.locked.sort_by_key(|target| target.id);
        Ok(marked)
    }

    fn take_down(
        &self,
        seen: &Gathered,
        account: &Account,
        found: Found,
        report: &mut RebuildReport,
        outcome: &mut Outcome,
    ) {
        let link = match found {
            Found::NotOurs => return,
            Found::Contradiction { id, why } => {
                let mend = format!(
                    "see with `explain '#{id}'` whose account it is; then take the wrong link off with `unlink`, or the \
                     wrong marker in Synapse, and run `state rebuild` again"
                );
                report.contradictions.push(Contradiction { id, why, mend });
                return;
            }
            Found::Known(id) => {
                report.known += 1;
                seen.links.get(&id)
            }
            Found::Link(ref link) => {
                report.found.push(Target::of(link));
                let (id, mxid) = (link.id, link.mxid.clone());
                let at = self.clock.now();
                outcome.journal.push(Entry { run: None, at, id, mxid, change: Change::Relinked });
                outcome.links.insert(id, Some((**link).clone()));
                Some(&**link)
            }
        };
        if let Some(link) = link.filter(|link| account.summary.locked && link.lifecycle.locked.is_none()) {
            report.locked.push(Target::of(link));
        }
    }
}

/// The links of an old memory whose accounts do not carry the marker any more.
fn unmarked(
    seen: &Gathered,
    marked: &BTreeMap<Mxid, Option<DefguardId>>,
    told: &[Contradiction],
) -> Vec<Contradiction> {
    let told: BTreeSet<DefguardId> = told.iter().map(|contradiction| contradiction.id).collect();
    let bare = |link: &&Link| marked.get(&link.mxid).is_some_and(Option::is_none) && !told.contains(&link.id);
    let contradiction = |link: &Link| {
        let (id, mxid) = (link.id, &link.mxid);
        Contradiction {
            id,
            why: format!("#{id} is linked to {mxid} here, which carries no ownership marker any more"),
            mend: format!(
                "take the link off with `unlink '#{id}'`; if the account is theirs, say so again with `link '#{id}' {mxid}`; \
                 then run `state rebuild` again"
            ),
        }
    };
    seen.links.values().filter(bare).map(contradiction).collect()
}
