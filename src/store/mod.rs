//! Our own memory on disk: [`crate::ports::Store`] on sled.
//!
//! Values are a version byte and JSON. sled has a checksum for each thing it writes; what its recovery hands out has
//! passed that, and is still checked for its shape here.

mod codec;
mod import;
pub mod lines;
mod nothing;
mod open;
mod place;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sled::{
    Batch, Db, Tree,
    transaction::{TransactionError, Transactional as _},
};

use self::{
    codec::{decode, encode, key_person, person_key, unreadable},
    place::{Counter, Place},
};
pub use self::{
    nothing::Nothing,
    open::{Identity, Opened},
    place::exists,
};
use crate::{
    domain::{
        Backoff, DefguardId, Entry, Failure, FailureClass, Intent, Link, Peer, RunId, RunRecord, Standing,
        Standoff,
    },
    ports::{JournalFilter, Kept, Outcome, ServerPair, Snapshot, Store},
};

const LINKS: &str = "links";
const INTENTS: &str = "intents";
const BACKOFF: &str = "backoff";
const STANDOFFS: &str = "standoffs";
const RUNS: &str = "runs";
const JOURNAL: &str = "journal";
const META: &str = "meta";
const KEY_PAIR: &[u8] = b"pair";
const KEY_STANDING: &[u8] = b"standing";
const KEY_NEXT_RUN: &[u8] = b"next_run";
const KEY_FLUSHES: &[u8] = b"flushes";
/// How many lines are removed in one go.
const PRUNE_BATCH: usize = 1000;

/// The store of one state directory. Its methods block the calling thread for the time of a flush to disk.
#[derive(Debug)]
pub struct SledStore {
    trees: Trees,
    db: Db,
    id: String,
    /// The key of the next journal line. Held during a transaction, so that lines are in the order of their keys and
    /// no two have the same.
    next_entry: Mutex<u64>,
    counter: Mutex<Counter>,
    /// Declared last, so that the directory is given free only after the database is closed.
    place: Place,
}

/// The parts of the database.
#[derive(Debug)]
struct Trees {
    links: Tree,
    intents: Tree,
    backoff: Tree,
    standoffs: Tree,
    runs: Tree,
    journal: Tree,
    meta: Tree,
}

impl Trees {
    fn open(db: &Db) -> sled::Result<Self> {
        Ok(Self {
            links: db.open_tree(LINKS)?,
            intents: db.open_tree(INTENTS)?,
            backoff: db.open_tree(BACKOFF)?,
            standoffs: db.open_tree(STANDOFFS)?,
            runs: db.open_tree(RUNS)?,
            journal: db.open_tree(JOURNAL)?,
            meta: db.open_tree(META)?,
        })
    }

    /// Whether anything is remembered.
    fn have_content(&self) -> bool {
        [&self.links, &self.intents, &self.backoff, &self.standoffs, &self.runs, &self.journal]
            .into_iter()
            .any(|tree| !tree.is_empty())
    }

    /// How often the database was flushed, as it says itself.
    fn flushes(&self) -> Result<u64, Failure> {
        let stored = self.meta.get(KEY_FLUSHES).map_err(failed("reading how often the store was flushed"))?;
        Ok(flushes(stored.as_deref()))
    }

    /// The key behind the last journal line.
    fn next_entry(&self) -> Result<u64, Failure> {
        match self.journal.last().map_err(failed("reading the end of the journal"))? {
            None => Ok(0),
            Some((key, _)) => number(JOURNAL, &key).map(|last| last.saturating_add(1)),
        }
    }
}

/// Turns an error of the database into a failure.
fn failed(what: &str) -> impl Fn(sled::Error) -> Failure + '_ {
    move |error| {
        let (class, why) = match &error {
            sled::Error::Io(error) => (FailureClass::Transient, error.to_string()),
            sled::Error::Corruption { .. } => {
                (FailureClass::Permanent, "the database on disk is damaged".to_owned())
            }
            other => (FailureClass::Permanent, other.to_string()),
        };
        let damaged = matches!(error, sled::Error::Corruption { .. });
        let failure = Failure::new(Peer::Store, class, what, why);
        if !damaged {
            return failure;
        }
        failure.mend(
            "put a copy of the state directory back, or move its directory `store` away and find the links again with \
             `state rebuild`",
        )
    }
}

fn number(tree: &str, key: &[u8]) -> Result<u64, Failure> {
    <[u8; 8]>::try_from(key)
        .map(u64::from_be_bytes)
        .map_err(|_| unreadable(tree, key, "its key is no number"))
}

/// A count of flushes; what is no such count counts for nothing.
fn flushes(stored: Option<&[u8]>) -> u64 {
    stored.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// Reads all values of a tree of people; `belongs` tells whether a value is the one of its key.
fn by_person<T: DeserializeOwned>(
    name: &str,
    tree: &Tree,
    belongs: impl Fn(DefguardId, &T) -> bool,
) -> Result<BTreeMap<DefguardId, T>, Failure> {
    let mut all = BTreeMap::new();
    for item in tree {
        let (key, bytes) = item.map_err(failed(&format!("reading `{name}`")))?;
        let (id, value) = (key_person(name, &key)?, decode(name, &key, &bytes)?);
        if !belongs(id, &value) {
            return Err(unreadable(name, &key, "it belongs to another person"));
        }
        all.insert(id, value);
    }
    Ok(all)
}

/// What becomes of one key: a new value, or none.
type Put = ([u8; 8], Option<Vec<u8>>);

fn puts<T: Serialize>(tree: &str, changes: &BTreeMap<DefguardId, Option<T>>) -> Result<Vec<Put>, Failure> {
    changes
        .iter()
        .map(|(id, value)| {
            Ok((person_key(*id), value.as_ref().map(|value| encode(tree, value)).transpose()?))
        })
        .collect()
}

impl SledStore {
    /// How many bytes the database takes on disk.
    pub fn size_on_disk(&self) -> Result<u64, Failure> {
        self.db.size_on_disk().map_err(failed("measuring the store"))
    }

    /// Flushes what was written. The count of flushes goes into the log behind what was written, and beside the database
    /// once that is on disk. If the database is later found with a smaller one, it has lost its end.
    fn flush(&self) -> Result<(), Failure> {
        let what = "flushing the store to disk";
        let more = |stored: Option<&[u8]>| Some(flushes(stored).saturating_add(1).to_be_bytes().to_vec());
        let counted = self.trees.meta.update_and_fetch(KEY_FLUSHES, more).map_err(failed(what))?;
        self.db.flush().map_err(failed(what))?;
        self.counter.lock().unwrap_or_else(PoisonError::into_inner).note(flushes(counted.as_deref()))
    }

    /// Removes what `old` is true of. A value that cannot be read stays, and is reported after the rest is done.
    fn remove_old<T: DeserializeOwned>(
        &self,
        name: &str,
        tree: &Tree,
        old: impl Fn(&T) -> bool,
    ) -> Result<(), Failure> {
        let what = format!("pruning `{name}`");
        let (mut batch, mut size, mut unreadable) = (Batch::default(), 0, None);
        for item in tree {
            let (key, bytes) = item.map_err(failed(&what))?;
            match decode(name, &key, &bytes) {
                Ok(value) if old(&value) => {
                    batch.remove(key);
                    size += 1;
                }
                Ok(_) => {}
                Err(failure) => unreadable = unreadable.or(Some(failure)),
            }
            if size == PRUNE_BATCH {
                tree.apply_batch(std::mem::take(&mut batch)).map_err(failed(&what))?;
                size = 0;
            }
        }
        tree.apply_batch(batch).map_err(failed(&what))?;
        unreadable.map_or(Ok(()), Err)
    }
}

impl Store for SledStore {
    fn id(&self) -> String {
        self.id.clone()
    }

    fn bind(&self, pair: &ServerPair) -> Result<Vec<String>, Failure> {
        let what = "checking which servers the store belongs to";
        let _writer = self.next_entry.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bytes) = self.trees.meta.get(KEY_PAIR).map_err(failed(what))? else {
            self.trees.meta.insert(KEY_PAIR, encode(META, pair)?).map_err(failed(what))?;
            self.flush()?;
            return Ok(Vec::new());
        };
        let stored: ServerPair = decode(META, KEY_PAIR, &bytes)?;
        Ok(stored.differences(pair))
    }

    fn standing(&self) -> Result<Standing, Failure> {
        let stored = self.trees.meta.get(KEY_STANDING).map_err(failed("reading how things stand"))?;
        stored.map_or_else(|| Ok(Standing::default()), |bytes| decode(META, KEY_STANDING, &bytes))
    }

    fn set_standing(&self, standing: &Standing) -> Result<(), Failure> {
        let bytes = encode(META, standing)?;
        self.trees.meta.insert(KEY_STANDING, bytes).map_err(failed("writing how things stand"))?;
        self.flush()
    }

    fn standoffs(&self) -> Result<BTreeMap<DefguardId, Standoff>, Failure> {
        by_person(STANDOFFS, &self.trees.standoffs, |_, _| true)
    }

    fn links(&self) -> Result<BTreeMap<DefguardId, Link>, Failure> {
        by_person(LINKS, &self.trees.links, |id, link: &Link| link.id == id)
    }

    fn intents(&self) -> Result<Vec<Intent>, Failure> {
        let all = by_person(INTENTS, &self.trees.intents, |group, intent: &Intent| intent.group == group)?;
        Ok(all.into_values().collect())
    }

    fn backoff(&self) -> Result<BTreeMap<DefguardId, Backoff>, Failure> {
        by_person(BACKOFF, &self.trees.backoff, |_, _| true)
    }

    fn begin(&self, intent: &Intent) -> Result<(), Failure> {
        self.trees
            .intents
            .insert(person_key(intent.group), encode(INTENTS, intent)?)
            .map_err(failed("writing an intent"))?;
        self.flush()
    }

    fn record(&self, outcome: &Outcome) -> Result<(), Failure> {
        if *outcome == Outcome::default() {
            return Ok(());
        }
        if let Some((id, _)) =
            outcome.links.iter().find(|(id, link)| link.as_ref().is_some_and(|link| link.id != **id))
        {
            let why =
                format!("the link for person {id} names another person; this is a mistake in this program");
            return Err(Failure::new(Peer::Store, FailureClass::Permanent, "recording what was done", why));
        }
        let (links, backoff) = (puts(LINKS, &outcome.links)?, puts(BACKOFF, &outcome.backoff)?);
        let standoffs = puts(STANDOFFS, &outcome.standoffs)?;
        let lines =
            outcome.journal.iter().map(|entry| encode(JOURNAL, entry)).collect::<Result<Vec<_>, _>>()?;
        let finished = outcome.finished.iter().map(|group| (*group, None));
        let continued = outcome.continued.iter().map(|intent| (intent.group, Some(intent)));
        let intents = puts(INTENTS, &finished.chain(continued).collect())?;

        let mut next = self.next_entry.lock().unwrap_or_else(PoisonError::into_inner);
        let journal: Vec<Put> =
            (*next..).zip(lines).map(|(number, line)| (number.to_be_bytes(), Some(line))).collect();
        let parts = [
            (&self.trees.links, links),
            (&self.trees.journal, journal),
            (&self.trees.backoff, backoff),
            (&self.trees.standoffs, standoffs),
            (&self.trees.intents, intents),
        ];
        let trees = parts.each_ref().map(|(tree, _)| *tree);
        trees[..]
            .transaction(|views| {
                for (view, (_, puts)) in views.iter().zip(&parts) {
                    for (key, value) in puts {
                        match value {
                            Some(value) => view.insert(key, value.as_slice())?,
                            None => view.remove(key)?,
                        };
                    }
                }
                Ok(())
            })
            .map_err(|error| transaction_failed("recording what was done", error))?;
        *next += outcome.journal.len() as u64;
        drop(next);
        self.flush()
    }

    fn next_run(&self) -> Result<RunId, Failure> {
        let what = "numbering the run";
        let _writer = self.next_entry.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match self.trees.meta.get(KEY_NEXT_RUN).map_err(failed(what))? {
            Some(bytes) => decode(META, KEY_NEXT_RUN, &bytes)?,
            None => 1_u64,
        };
        // No number is given twice, whatever is kept: it would replace the record of another run.
        let last = match self.trees.runs.last().map_err(failed(what))? {
            Some((key, _)) => number(RUNS, &key)?,
            None => 0,
        };
        let next = kept.max(last.saturating_add(1));
        self.trees.meta.insert(KEY_NEXT_RUN, encode(META, &next.saturating_add(1))?).map_err(failed(what))?;
        self.flush()?;
        Ok(RunId(next))
    }

    fn add_run(&self, run: &RunRecord) -> Result<(), Failure> {
        self.trees
            .runs
            .insert(run.id.0.to_be_bytes(), encode(RUNS, run)?)
            .map_err(failed("writing the record of the run"))?;
        self.flush()
    }

    fn runs(&self, limit: usize) -> Result<Vec<RunRecord>, Failure> {
        self.trees
            .runs
            .iter()
            .rev()
            .take(limit)
            .map(|item| {
                let (key, bytes) = item.map_err(failed("reading the runs"))?;
                let run: RunRecord = decode(RUNS, &key, &bytes)?;
                if number(RUNS, &key)? == run.id.0 {
                    Ok(run)
                } else {
                    Err(unreadable(RUNS, &key, "it belongs to another run"))
                }
            })
            .collect()
    }

    fn journal(&self, filter: &JournalFilter) -> Result<Vec<Entry>, Failure> {
        let wanted = |entry: &Entry| {
            filter.run.is_none_or(|run| entry.run == Some(run)) && filter.id.is_none_or(|id| entry.id == id)
        };
        let limit = filter.limit.unwrap_or(usize::MAX);
        let mut found = Vec::new();
        let mut newest_first = self.trees.journal.iter().rev();
        while found.len() < limit
            && let Some(item) = newest_first.next()
        {
            let (key, bytes) = item.map_err(failed("reading the journal"))?;
            let entry: Entry = decode(JOURNAL, &key, &bytes)?;
            if filter.since.is_some_and(|since| entry.at < since) {
                break;
            }
            if wanted(&entry) {
                found.push(entry);
            }
        }
        found.reverse();
        Ok(found)
    }

    fn prune(&self, before: DateTime<Utc>) -> Result<(), Failure> {
        /// As much of a run as its age takes.
        #[derive(Deserialize)]
        struct Ended {
            ended: DateTime<Utc>,
        }
        /// As much of a journal line as its age takes.
        #[derive(Deserialize)]
        struct At {
            at: DateTime<Utc>,
        }
        // All are looked at, since the clock may have been wrong for a while: one line from the future must not keep
        // all that come after it.
        let runs = self.remove_old(RUNS, &self.trees.runs, |run: &Ended| run.ended < before);
        let journal = self.remove_old(JOURNAL, &self.trees.journal, |entry: &At| entry.at < before);
        self.flush()?;
        runs.and(journal)
    }

    fn forget(&self, id: DefguardId, dry_run: bool) -> Result<Kept, Failure> {
        let what = "forgetting a person";
        // Held until all is removed, so that no line is added meanwhile.
        let _writer = self.next_entry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = Vec::new();
        for item in &self.trees.journal {
            let (key, bytes) = item.map_err(failed(what))?;
            let entry: Entry = decode(JOURNAL, &key, &bytes)?;
            if entry.id == id {
                lines.push(key);
            }
        }
        let key = person_key(id);
        let kept = Kept {
            lines: lines.len(),
            conflicts: self.trees.standoffs.contains_key(key).map_err(failed(what))?,
            failures: self.trees.backoff.contains_key(key).map_err(failed(what))?,
        };
        if dry_run || kept == Kept::default() {
            return Ok(kept);
        }
        (&self.trees.journal, &self.trees.standoffs, &self.trees.backoff)
            .transaction(|(journal, standoffs, backoff)| {
                for line in &lines {
                    journal.remove(line)?;
                }
                standoffs.remove(&key)?;
                backoff.remove(&key)?;
                Ok(())
            })
            .map_err(|error| transaction_failed(what, error))?;
        self.flush()?;
        Ok(kept)
    }

    fn snapshot(&self) -> Result<Snapshot, Failure> {
        let meta = |key: &[u8]| self.trees.meta.get(key).map_err(failed("reading what is remembered"));
        Ok(Snapshot {
            store: self.id.clone(),
            pair: meta(KEY_PAIR)?.map(|bytes| decode(META, KEY_PAIR, &bytes)).transpose()?,
            next_run: meta(KEY_NEXT_RUN)?.map_or(Ok(1), |bytes| decode(META, KEY_NEXT_RUN, &bytes))?,
            standing: self.standing()?,
            links: self.links()?.into_values().collect(),
            intents: self.intents()?,
            backoff: self.backoff()?,
            standoffs: self.standoffs()?,
            runs: self.runs(usize::MAX)?.into_iter().rev().collect(),
            journal: self.journal(&JournalFilter::default())?,
        })
    }
}

fn transaction_failed(what: &str, error: TransactionError<Infallible>) -> Failure {
    match error {
        TransactionError::Abort(never) => match never {},
        TransactionError::Storage(error) => failed(what)(error),
    }
}
