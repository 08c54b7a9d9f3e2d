//! What is done to our own memory alone, without a look at the servers.

use serde::{Deserialize, Serialize};

use super::{Engine, Progress};
use crate::{
    domain::{DefguardId, Failure, Intent, Mxid, Username},
    ports::{Kept, Snapshot},
};

/// What is, or was, taken out of our memory about one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Who.
    pub id: DefguardId,
    /// Their username, if it is known.
    pub username: Option<Username>,
    /// What there is, or was.
    pub kept: Kept,
    /// The account that stays linked to them.
    pub linked: Option<Mxid>,
    /// Whether it was done; otherwise it was only shown.
    pub done: bool,
    /// Why it is not done, if it is refused.
    pub refused: Option<String>,
}

impl Engine {
    /// Shows what our memory has about a person beside their link, or takes it out if it is `confirmed`.
    pub async fn forget(
        &self,
        id: DefguardId,
        username: Option<Username>,
        confirmed: bool,
        progress: &dyn Progress,
    ) -> Result<Forgotten, Failure> {
        let _turn = self.turn(progress).await;
        let linked = self.store.links()?.get(&id).map(|link| link.mxid.clone());
        let concerns = |intent: &Intent| {
            intent.group == id
                || intent.creates.contains_key(&id)
                || intent.pending.iter().any(|entry| entry.id == id)
                || intent.moves.iter().any(|moved| Some(&moved.from) == linked.as_ref())
        };
        let mut forgotten = Forgotten {
            id,
            username,
            kept: Kept::default(),
            linked: linked.clone(),
            done: false,
            refused: None,
        };
        if self.store.intents()?.iter().any(concerns) {
            // What is unfinished is finished by what the journal says.
            let why = "an earlier run left something unfinished for them; run `sync` first";
            forgotten.refused = Some(why.to_owned());
            return Ok(forgotten);
        }
        forgotten.kept = self.store.forget(id, !confirmed)?;
        forgotten.done = confirmed;
        Ok(forgotten)
    }

    /// Everything that we remember, taken between two runs.
    pub async fn export(&self, progress: &dyn Progress) -> Result<Snapshot, Failure> {
        let _turn = self.turn(progress).await;
        self.store.snapshot()
    }
}
