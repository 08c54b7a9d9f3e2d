//! The memory of somebody who has none yet, for questions before the first run: to look makes no store.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::{
    domain::{
        Backoff, DefguardId, Entry, Failure, FailureClass, Intent, Link, Peer, RunId, RunRecord, Standing,
        Standoff,
    },
    ports::{JournalFilter, Kept, Outcome, ServerPair, Snapshot, Store},
};

/// Remembers nothing and refuses to be told anything.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

fn refused(what: &str) -> Failure {
    Failure::new(
        Peer::Store,
        FailureClass::Permanent,
        what,
        "there is no store yet, and a question makes none",
    )
}

impl Store for Nothing {
    fn id(&self) -> String {
        String::new()
    }

    fn bind(&self, _pair: &ServerPair) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }

    fn standing(&self) -> Result<Standing, Failure> {
        Ok(Standing::default())
    }

    fn set_standing(&self, _standing: &Standing) -> Result<(), Failure> {
        Err(refused("writing how things stand"))
    }

    fn links(&self) -> Result<BTreeMap<DefguardId, Link>, Failure> {
        Ok(BTreeMap::new())
    }

    fn intents(&self) -> Result<Vec<Intent>, Failure> {
        Ok(Vec::new())
    }

    fn backoff(&self) -> Result<BTreeMap<DefguardId, Backoff>, Failure> {
        Ok(BTreeMap::new())
    }

    fn standoffs(&self) -> Result<BTreeMap<DefguardId, Standoff>, Failure> {
        Ok(BTreeMap::new())
    }

    fn begin(&self, _intent: &Intent) -> Result<(), Failure> {
        Err(refused("remembering what is about to be done"))
    }

    fn record(&self, _outcome: &Outcome) -> Result<(), Failure> {
        Err(refused("remembering what was done"))
    }

    fn next_run(&self) -> Result<RunId, Failure> {
        Err(refused("beginning a run"))
    }

    fn add_run(&self, _run: &RunRecord) -> Result<(), Failure> {
        Err(refused("remembering a run"))
    }

    fn runs(&self, _limit: usize) -> Result<Vec<RunRecord>, Failure> {
        Ok(Vec::new())
    }

    fn journal(&self, _filter: &JournalFilter) -> Result<Vec<Entry>, Failure> {
        Ok(Vec::new())
    }

    fn prune(&self, _before: DateTime<Utc>) -> Result<(), Failure> {
        Ok(())
    }

    fn forget(&self, _id: DefguardId, _dry_run: bool) -> Result<Kept, Failure> {
        Ok(Kept::default())
    }

    fn snapshot(&self) -> Result<Snapshot, Failure> {
        Err(refused("reading what is remembered"))
    }
}
