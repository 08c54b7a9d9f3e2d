//! Putting everything that `state export` wrote into an empty store.

use std::path::Path;

use serde::Serialize;
use sled::{Batch, transaction::Transactional as _};

use super::{
    BACKOFF, INTENTS, Identity, JOURNAL, KEY_NEXT_RUN, KEY_PAIR, KEY_STANDING, LINKS, META, RUNS, STANDOFFS,
    SledStore,
    codec::{encode, person_key},
    open::KEY_ID,
    transaction_failed,
};
use crate::{
    domain::{DefguardId, Failure, FailureClass, Peer},
    ports::Snapshot,
};

impl SledStore {
    /// Begins a store in the state directory, which must have none or an empty one, with everything of a snapshot, its id
    /// included: so what the homeserver keeps of that store tells whether this copy is old. All or nothing: a store that
    /// was only begun is empty when it is opened again. `identity` is used until all is there.
    pub fn import(dir: &Path, identity: &Identity, snapshot: &Snapshot) -> Result<(), Failure> {
        let (store, _) = Self::open(dir, identity)?;
        if store.trees.have_content() {
            return Err(Failure::new(
                Peer::Store,
                FailureClass::Permanent,
                "importing",
                format!("the store in {} remembers something already", dir.display()),
            )
            .mend(
                "stop the daemon, move `store` and `store.id` out of that directory, or set another state.directory, \
                 and import again",
            ));
        }
        let meta = |key: &'static [u8], value: Vec<u8>| (key.to_vec(), value);
        let mut known = vec![
            meta(KEY_ID, encode(META, &snapshot.store)?),
            meta(KEY_STANDING, encode(META, &snapshot.standing)?),
            meta(KEY_NEXT_RUN, encode(META, &snapshot.next_run)?),
        ];
        if let Some(pair) = &snapshot.pair {
            known.push(meta(KEY_PAIR, encode(META, pair)?));
        }
        let trees = &store.trees;
        let parts = [
            (&trees.meta, known),
            (&trees.links, by_id(LINKS, snapshot.links.iter().map(|link| (link.id, link)))?),
            (&trees.intents, by_id(INTENTS, snapshot.intents.iter().map(|intent| (intent.group, intent)))?),
            (&trees.backoff, by_id(BACKOFF, snapshot.backoff.iter().map(|(id, it)| (*id, it)))?),
            (&trees.standoffs, by_id(STANDOFFS, snapshot.standoffs.iter().map(|(id, it)| (*id, it)))?),
            (&trees.runs, by_number(RUNS, snapshot.runs.iter().map(|run| (run.id.0, run)))?),
            (&trees.journal, by_number(JOURNAL, (0..).zip(&snapshot.journal))?),
        ];
        let batches: Vec<Batch> = parts.iter().map(|(_, puts)| batch(puts)).collect();
        parts.each_ref().map(|(tree, _)| *tree)[..]
            .transaction(|views| {
                for (view, batch) in views.iter().zip(&batches) {
                    view.apply_batch(batch)?;
                }
                Ok(())
            })
            .map_err(|error| transaction_failed("importing", error))?;
        store.flush()?;
        // Last: until then what is there is not the store that belongs here, and is set aside when it is opened.
        store.place.set_id(&snapshot.store)
    }
}

type Put = (Vec<u8>, Vec<u8>);

fn batch(puts: &[Put]) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in puts {
        batch.insert(key.as_slice(), value.as_slice());
    }
    batch
}

fn by_id<'a, T: Serialize + 'a>(
    tree: &str,
    values: impl Iterator<Item = (DefguardId, &'a T)>,
) -> Result<Vec<Put>, Failure> {
    values.map(|(id, value)| Ok((person_key(id).to_vec(), encode(tree, value)?))).collect()
}

fn by_number<'a, T: Serialize + 'a>(
    tree: &str,
    values: impl Iterator<Item = (u64, &'a T)>,
) -> Result<Vec<Put>, Failure> {
    values.map(|(number, value)| Ok((number.to_be_bytes().to_vec(), encode(tree, value)?))).collect()
}
