//! Opening the database, and finding out whether it is the one that belongs here.

use std::{
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use sled::Db;

use super::{
    META, SledStore, Trees,
    codec::{decode, encode},
    failed,
    place::{Place, held},
};
use crate::domain::{Failure, FailureClass, Peer};

/// The version of the layout of the whole database.
const SCHEMA: u32 = 1;
/// How long a process that is just ending is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Ten thousand people need some MiB; sled's own choice would be a GiB.
const CACHE_BYTES: u64 = 64 << 20;

pub(super) const KEY_ID: &[u8] = b"id";
const KEY_SCHEMA: &[u8] = b"schema";

/// What a store is known by. It is drawn at random by the caller, and used only if a new database is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// An identity of 128 random bits.
    pub fn new(random: u128) -> Self {
        Self(format!("{random:032x}"))
    }
}

/// How the store was found. Whoever opens it has to look.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Opened {
    /// There was none; this one is new and empty.
    New,
    /// The one that was there before.
    Existing,
    /// There was one and it is lost; this one is new and empty. Links have to be found again by the ownership
    /// markers, and nothing that needs memory may be done before.
    Lost {
        /// What was found, and where the remains are.
        why: String,
    },
}

impl SledStore {
    /// Opens the store in the state directory, or begins one. Waits some seconds for a process that is just ending,
    /// and does all its work in the calling thread.
    pub fn open(dir: &Path, identity: &Identity) -> Result<(Self, Opened), Failure> {
        Self::open_within(dir, identity, PATIENCE)
    }

    /// As [`SledStore::open`], waiting for another process no longer than `patience`.
    pub fn open_within(
        dir: &Path,
        identity: &Identity,
        patience: Duration,
    ) -> Result<(Self, Opened), Failure> {
        let place = Place::take(dir, patience)?;
        place.tidy()?;
        if place.id()?.is_some() && place.is_beheaded()? {
            let why = "its snapshot file is missing";
            return Self::begin_after(place, identity, why);
        }

        place.keep_copy()?;
        let (db, trees, found) = match look(&place) {
            Ok(found) => found,
            Err(failure) => {
                place.put_back()?;
                return Err(failure);
            }
        };
        let verdict = match judge(place.id()?.as_deref(), found.as_deref(), trees.have_content()) {
            // sled takes damage in its log for the end of it, and opens without all that came after.
            Verdict::Ours if trees.flushes()? < place.flushes()? => Verdict::Strange {
                why: "the database lacks what was written last: it is damaged, or an older copy",
            },
            verdict => verdict,
        };
        match verdict {
            Verdict::Ours => {
                place.drop_copy()?;
                Ok((Self::new(place, db, trees)?, Opened::Existing))
            }
            Verdict::Fresh => {
                place.drop_copy()?;
                let (db, trees) = name(&place, db, trees, identity)?;
                Ok((Self::new(place, db, trees)?, Opened::New))
            }
            Verdict::Strange { why } => {
                drop((db, trees));
                Self::begin_after(place, identity, why)
            }
        }
    }

    /// Sets aside what is there, which must be closed, and begins a new store.
    fn begin_after(place: Place, identity: &Identity, why: &str) -> Result<(Self, Opened), Failure> {
        let why = format!("{why}; what was there is now in {}", place.set_aside()?.display());
        place.tidy()?;
        let (db, trees) = database(&place)?;
        let (db, trees) = name(&place, db, trees, identity)?;
        Ok((Self::new(place, db, trees)?, Opened::Lost { why }))
    }

    fn new(place: Place, db: Db, trees: Trees) -> Result<Self, Failure> {
        let next_entry = trees.next_entry()?;
        let counter = Mutex::new(place.counter()?);
        let id = place.id()?.unwrap_or_default();
        Ok(Self { trees, db, id, next_entry: Mutex::new(next_entry), counter, place })
    }
}

/// What is to be made of a database.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the one that belongs here.
    Ours,
    /// It is the first one here.
    Fresh,
    /// It cannot be said that it belongs here, or another one should be here.
    Strange {
        /// What was found.
        why: &'static str,
    },
}

/// Judges a database by the id beside it, the id in it, and whether it has content. The id is written into the
/// database first and beside it then: an empty database with an id and none beside it was never finished.
fn judge(expected: Option<&str>, found: Option<&str>, has_content: bool) -> Verdict {
    match (expected, found, has_content) {
        (Some(expected), Some(found), _) if expected == found => Verdict::Ours,
        (None, _, false) => Verdict::Fresh,
        (Some(_), _, false) => Verdict::Strange { why: "the database that belongs here is gone" },
        (None, _, true) => Verdict::Strange { why: "the file `store.id` is missing beside the database" },
        (Some(_), _, true) => Verdict::Strange { why: "the database is not the one named in `store.id`" },
    }
}

/// Gives an empty database its id and makes it the one that belongs here, tied to no servers yet.
///
/// sled writes a snapshot only when it opens a database that has something in it; so it is opened once more, and from
/// then on a missing snapshot is a loss.
fn name(place: &Place, db: Db, trees: Trees, identity: &Identity) -> Result<(Db, Trees), Failure> {
    // The count of the database before means nothing for this one.
    place.counter()?.reset()?;
    let mut batch = sled::Batch::default();
    batch.insert(KEY_ID, encode(META, &identity.0)?);
    batch.insert(KEY_SCHEMA, encode(META, &SCHEMA)?);
    trees
        .meta
        .clear()
        .and_then(|()| trees.meta.apply_batch(batch))
        .and_then(|()| db.flush())
        .map_err(failed("giving the new store its id"))?;
    drop((trees, db));
    let reopened = database(place)?;
    place.set_id(&identity.0)?;
    Ok(reopened)
}

/// Refuses a database that a newer version of this program has written.
fn check_schema(trees: &Trees) -> Result<(), Failure> {
    let what = "checking the version of the store";
    let Some(bytes) = trees.meta.get(KEY_SCHEMA).map_err(failed(what))? else {
        return Ok(());
    };
    let found: u32 = decode(META, KEY_SCHEMA, &bytes)?;
    if found == SCHEMA {
        return Ok(());
    }
    Err(Failure::new(
        Peer::Store,
        FailureClass::Permanent,
        what,
        format!("the store has version {found}, and this program knows version {SCHEMA} only"),
    )
    .mend("run the version of this program that wrote it, or a newer one; or use another state.directory"))
}

/// Opens the database and looks for its id.
fn look(place: &Place) -> Result<(Db, Trees, Option<String>), Failure> {
    let (db, trees) = database(place)?;
    check_schema(&trees)?;
    let found = trees.meta.get(KEY_ID).map_err(failed("reading the id of the store"))?;
    let found = found.map(|bytes| decode(META, KEY_ID, &bytes)).transpose()?;
    Ok((db, trees, found))
}

/// Opens sled. Our own lock keeps other processes out, so its lock can only be held by what is left of a store that
/// was just closed.
fn database(place: &Place) -> Result<(Db, Trees), Failure> {
    let patience_ends = Instant::now() + PATIENCE;
    let config = sled::Config::new().path(place.database()).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let db = loop {
        match config.open() {
            Ok(db) => break db,
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                if Instant::now() > patience_ends {
                    return Err(held());
                }
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => {
                return Err(failed("opening the store")(error).mend(
                    "if the disk is healthy and has room, move the directory `store` out of the state directory \
                     and start again: the links are found again by the ownership markers in Synapse",
                ));
            }
        }
    };
    let trees = Trees::open(&db).map_err(failed("opening the store"))?;
    Ok((db, trees))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_ours_only_if_both_ids_are_there_and_the_same() {
        for content in [false, true] {
            assert_eq!(judge(Some("a"), Some("a"), content), Verdict::Ours);
            for (expected, found) in
                [(None, None), (Some("a"), None), (None, Some("a")), (Some("a"), Some("b"))]
            {
                let verdict = judge(expected, found, content);
                assert_ne!(verdict, Verdict::Ours, "{expected:?} {found:?} {content}");
                assert_eq!(verdict == Verdict::Fresh, expected.is_none() && !content);
            }
        }
    }

    #[test]
    fn a_database_is_lost_and_not_new_if_another_one_should_be_here() {
        assert!(matches!(judge(Some("a"), None, false), Verdict::Strange { .. }));
        assert!(matches!(judge(Some("a"), Some("b"), false), Verdict::Strange { .. }));
        assert_eq!(judge(None, None, false), Verdict::Fresh);
        assert_eq!(judge(None, Some("a"), false), Verdict::Fresh);
    }
}
