//! Whether our own memory can be trusted: compares the store with the record in our account data on the homeserver.

use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};

use super::{Engine, gather::Gathered};
use crate::{
    domain::{Failure, FailureClass, HoldReason, Mxid, Peer, ServiceRecord, Standing},
    reconcile::{Plan, State},
};

/// Why our own memory cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The store is not the one that worked here last.
    Lost(String),
    /// The store is an old copy: the homeserver has seen later changes of it.
    Old { ours: u64, theirs: u64 },
    /// Another daemon works on this homeserver.
    Doubled { until: DateTime<Utc> },
    /// It could not be found out.
    Unknown(Failure),
}

impl Doubt {
    /// Why nothing at all may be done now: another daemon may be in the middle of its work, and two that make accounts
    /// at the same moment take each other's for a stranger's.
    pub(super) fn forbids_all(&self) -> Option<String> {
        matches!(self, Self::Doubled { .. } | Self::Unknown(_)).then(|| self.reason().why)
    }

    pub(super) fn reason(&self) -> HoldReason {
        let rebuild = "find the links again with `state rebuild`";
        let (why, mend) = match self {
            Self::Lost(why) => (format!("what the service remembers is lost: {why}"), rebuild.to_owned()),
            Self::Old { ours, theirs } => (
                format!(
                    "the store is an old copy: it has made {ours} change(s), and the homeserver has seen {theirs} of it"
                ),
                format!("{rebuild}, or put the newest copy of the state directory back"),
            ),
            Self::Doubled { until } => (
                format!(
                    "another daemon works on this homeserver, with a lease until {}",
                    until.format("%Y-%m-%d %H:%M:%S UTC")
                ),
                "stop one of the two; the other goes on when the lease is over, or at once after `state rebuild`"
                    .to_owned(),
            ),
            Self::Unknown(failure) => (
                format!("it could not be found out whether another daemon works on this homeserver: {failure}"),
                failure.mend.clone().unwrap_or_else(|| "nothing: the next run asks again".to_owned()),
            ),
        };
        HoldReason { why, mend }
    }

    /// The same as the failure of something that is not done because of it.
    pub(super) fn failure(&self, what: &str) -> Failure {
        let HoldReason { why, mend } = self.reason();
        Failure::new(Peer::Store, FailureClass::NeedsPerson, what, why).mend(mend)
    }
}

/// Whether the store is the one that worked here last, and no old copy.
pub(super) fn is_trusted(standing: &Standing, record: Option<&ServiceRecord>, store: &str) -> bool {
    let newest = |record: &ServiceRecord| record.store == store && record.generation <= standing.generation;
    standing.lost.is_none() && record.is_none_or(newest)
}

/// Compares what the store knows about itself with what the homeserver keeps of it.
fn judge(
    standing: &Standing,
    record: Option<&ServiceRecord>,
    store: &str,
    holder: &str,
    now: DateTime<Utc>,
) -> Option<Doubt> {
    if let Some(why) = &standing.lost {
        return Some(Doubt::Lost(why.clone()));
    }
    let record = record?;
    if record.holder != holder && record.until > now {
        return Some(Doubt::Doubled { until: record.until });
    }
    if record.store != store {
        return Some(Doubt::Lost("another store was the last that worked on this homeserver".to_owned()));
    }
    (record.generation > standing.generation)
        .then_some(Doubt::Old { ours: standing.generation, theirs: record.generation })
}

impl Engine {
    /// Finds out whether our memory can be trusted, if that matters now: at the first run since the start, and before
    /// anything is changed. A run that is going to change something lays claim to the homeserver.
    pub(super) async fn doubt(
        &self,
        seen: &mut Gathered,
        plan: &Plan,
        dry_run: bool,
    ) -> Result<Option<Doubt>, Failure> {
        *self.claimed_until.lock().await = None;
        let changes = plan.groups.iter().any(|group| !group.steps.is_empty());
        if !changes && self.record_seen.load(Ordering::Relaxed) && seen.standing.lost.is_none() {
            return Ok(None);
        }
        let found = self.homeserver.service_record(&seen.info.own, &self.options.instance).await;
        let record = match found {
            Ok(record) => record,
            Err(failure) => return Ok(Some(Doubt::Unknown(failure))),
        };
        let found_again = plan.people.values().any(|person| person.state == State::Relink);
        if record.is_none() && seen.standing.generation == 0 && seen.links.is_empty() && found_again {
            let why =
                "accounts on the homeserver carry our ownership marker, and the store knows none of them";
            seen.standing.lost = Some(why.to_owned());
            if !dry_run {
                self.store.set_standing(&seen.standing)?;
            }
        }
        let (store, now) = (self.store.id(), self.clock.now());
        if let Some(doubt) = judge(&seen.standing, record.as_ref(), &store, &self.options.holder, now) {
            return Ok(Some(doubt));
        }
        self.record_seen.store(true, Ordering::Relaxed);
        if !changes || dry_run {
            return Ok(None);
        }
        let own = seen.info.own.clone();
        self.claim(&own, &mut seen.standing, record.as_ref()).await
    }

    /// Says on the homeserver that this store changes something now. The store is written first: a number that is higher
    /// here than there only means that a run was cut short.
    pub(super) async fn claim(
        &self,
        own: &Mxid,
        standing: &mut Standing,
        record: Option<&ServiceRecord>,
    ) -> Result<Option<Doubt>, Failure> {
        let known = record.map_or(0, |record| record.generation);
        standing.generation = standing.generation.max(known) + 1;
        self.store.set_standing(standing)?;
        let claim = self.claim_of(standing);
        if let Err(failure) = self.homeserver.keep_service_record(own, &self.options.instance, &claim).await {
            return Ok(Some(Doubt::Unknown(failure)));
        }
        // Two daemons that begin at the same moment both write; the one that wrote first sees it here.
        Ok(match self.homeserver.service_record(own, &self.options.instance).await {
            Ok(Some(found)) if found == claim => {
                *self.claimed_until.lock().await = Some(claim.until);
                None
            }
            Ok(Some(found)) => Some(Doubt::Doubled { until: found.until }),
            Ok(None) => {
                Some(Doubt::Lost("the record in our account data was removed at that moment".to_owned()))
            }
            Err(failure) => Some(Doubt::Unknown(failure)),
        })
    }

    /// What says that this store works on the homeserver from now on, for the time of a lease.
    fn claim_of(&self, standing: &Standing) -> ServiceRecord {
        ServiceRecord {
            store: self.store.id(),
            generation: standing.generation,
            holder: self.options.holder.clone(),
            until: self.clock.now() + self.options.lease,
        }
    }

    /// Lays claim to the homeserver for a change by hand of many accounts, or refuses it while our memory cannot be
    /// trusted.
    pub(super) async fn claim_by_hand(&self, seen: &mut Gathered) -> Result<(), Failure> {
        let record = self.homeserver.service_record(&seen.info.own, &self.options.instance).await?;
        let (store, now) = (self.store.id(), self.clock.now());
        let own = seen.info.own.clone();
        let doubt = match judge(&seen.standing, record.as_ref(), &store, &self.options.holder, now) {
            None => self.claim(&own, &mut seen.standing, record.as_ref()).await?,
            doubt => doubt,
        };
        doubt.map_or(Ok(()), |doubt| Err(doubt.failure("changing accounts by hand")))
    }

    /// Renews the claim of this run when half of its time is over, so that it lasts as long as the run. Says why nothing
    /// more may be done if somebody else works on the homeserver by now.
    pub(super) async fn renew_claim(&self, seen: &Gathered) -> Result<Option<String>, Failure> {
        let mut claimed_until = self.claimed_until.lock().await;
        let now = self.clock.now();
        if claimed_until.is_none_or(|until| until - now > self.options.lease / 2) {
            return Ok(None);
        }
        if !self.is_still_ours(seen).await? {
            return Ok(Some("another daemon works on this homeserver by now".to_owned()));
        }
        let claim = self.claim_of(&seen.standing);
        self.homeserver.keep_service_record(&seen.info.own, &self.options.instance, &claim).await?;
        *claimed_until = Some(claim.until);
        Ok(None)
    }

    /// Whether the homeserver is still ours to change, right before an account is taken out of use.
    pub(super) async fn is_still_ours(&self, seen: &Gathered) -> Result<bool, Failure> {
        let found = self.homeserver.service_record(&seen.info.own, &self.options.instance).await?;
        Ok(found.is_some_and(|record| {
            record.store == self.store.id()
                && record.holder == self.options.holder
                && record.generation == seen.standing.generation
        }))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn record(store: &str, holder: &str, generation: u64, minutes: i64) -> ServiceRecord {
        let until = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::minutes(minutes);
        ServiceRecord { store: store.to_owned(), holder: holder.to_owned(), generation, until }
    }

    fn doubt(generation: u64, record: Option<ServiceRecord>) -> Option<Doubt> {
        let standing = Standing { generation, ..Standing::default() };
        judge(&standing, record.as_ref(), "mine", "here", DateTime::<Utc>::UNIX_EPOCH)
    }

    #[test]
    fn a_store_is_trusted_if_it_was_the_last_to_work_here_and_is_not_older_than_that() {
        assert_eq!(doubt(0, None), None, "a first start");
        assert_eq!(doubt(3, None), None, "the record was emptied by hand");
        assert_eq!(doubt(3, Some(record("mine", "here", 3, 9))), None);
        assert_eq!(
            doubt(4, Some(record("mine", "here", 3, 9))),
            None,
            "cut short before the record was written"
        );
        assert_eq!(doubt(3, Some(record("mine", "there", 3, -9))), None, "moved to another machine");
        assert_eq!(doubt(2, Some(record("mine", "here", 3, -9))), Some(Doubt::Old { ours: 2, theirs: 3 }));
        assert!(matches!(doubt(0, Some(record("other", "here", 3, 9))), Some(Doubt::Lost(_))));
        assert!(matches!(doubt(5, Some(record("other", "there", 3, -9))), Some(Doubt::Lost(_))));
        for store in ["mine", "other"] {
            assert!(matches!(doubt(3, Some(record(store, "there", 3, 9))), Some(Doubt::Doubled { .. })));
        }
    }
}
