//! One step on the off-boarding ladder: read, write alone, read back.

use std::collections::BTreeSet;

use super::write::{TRIES, Undone, Writer, may_pass};
use crate::{
    domain::{
        Account, AccountPatch, Belongings, Change, DefguardId, Email, Entry, Failure, FailureClass, Lookup,
        Mxid, Peer, ThreePid,
    },
    reconcile::Rung,
};

/// A switch on the account, and what it means if it is there already before we did anything.
struct Switch<'s> {
    change: Change,
    patch: AccountPatch,
    is_done: &'s (dyn Fn(&Account) -> bool + Sync),
    /// Somebody else did it, and it is theirs: we do not count it as ours.
    theirs: Option<&'s str>,
}

impl Writer<'_> {
    /// Does one rung and gives its journal lines.
    pub(super) async fn climb(
        &mut self,
        id: DefguardId,
        mxid: &Mxid,
        rung: &Rung,
    ) -> Result<Vec<Entry>, Undone> {
        match rung {
            Rung::Lock { why, end_sessions } => {
                let switch = Switch {
                    change: Change::Locked { why: *why, end_sessions: *end_sessions },
                    patch: AccountPatch::lock(true),
                    is_done: &|account| account.summary.locked,
                    theirs: Some("was locked by somebody else in the meantime"),
                };
                self.switch(id, mxid, switch).await
            }
            Rung::Unlock(why) => {
                let switch = Switch {
                    change: Change::Unlocked { why: *why },
                    patch: AccountPatch::lock(false),
                    is_done: &|account| !account.summary.locked,
                    theirs: None,
                };
                self.switch(id, mxid, switch).await
            }
            Rung::Deactivate(why) => {
                let account = self.read(id, mxid).await?;
                let before = Belongings {
                    display_name: account.summary.display_name.clone(),
                    threepids: account.threepids.clone(),
                    external_ids: account.external_ids.clone(),
                    rooms: self.homeserver.rooms(mxid).await?,
                };
                let switch = Switch {
                    change: Change::Deactivated { why: *why, before },
                    patch: AccountPatch::deactivate(true),
                    is_done: &|account| account.summary.deactivated,
                    theirs: Some("was deactivated by somebody else in the meantime"),
                };
                self.switch(id, mxid, switch).await
            }
            Rung::Reactivate { threepids } => self.reactivate(id, mxid, threepids).await,
            Rung::EndSessions(_) => self.end_sessions(id, mxid).await,
        }
    }

    async fn switch(
        &mut self,
        id: DefguardId,
        mxid: &Mxid,
        switch: Switch<'_>,
    ) -> Result<Vec<Entry>, Undone> {
        self.flush()?;
        let mut kept = Vec::new();
        let mut tried = 0;
        loop {
            tried += 1;
            let account = self.read(id, mxid).await?;
            kept.extend(self.catch_up(&account));
            if (switch.is_done)(&account) {
                return match switch.theirs {
                    Some(theirs) if kept.is_empty() => Err(Undone::Changed(format!("{mxid} {theirs}"))),
                    _ => Ok(kept),
                };
            }
            self.may_be_off_boarded(&account, &switch.patch)?;
            let entry = self.entry(id, mxid, switch.change.clone());
            self.begin(vec![entry.clone()])?;
            let failure = match self.homeserver.put(mxid, &switch.patch).await {
                Ok(written) if (switch.is_done)(&written.account) => {
                    kept.extend(self.keep(vec![entry]));
                    return Ok(kept);
                }
                Ok(_) => Failure::new(
                    Peer::Synapse,
                    FailureClass::Permanent,
                    "taking an account out of use, or giving it back",
                    format!("{mxid} accepted the write, but does not show it"),
                ),
                Err(failure) => failure,
            };
            if tried >= TRIES || !may_pass(&failure) {
                return Err(failure.into());
            }
            self.wait(tried).await;
        }
    }

    /// What protects an account may have come to be true since the decision.
    fn may_be_off_boarded(&self, account: &Account, patch: &AccountPatch) -> Result<(), Undone> {
        let takes_away = patch.locked == Some(true) || patch.deactivated == Some(true);
        let summary = &account.summary;
        let now = if summary.admin && !self.off_board_admins {
            "is a server admin by now"
        } else if summary.deactivated {
            "was deactivated in the meantime"
        } else if summary.guest || summary.user_type.is_some() || account.appservice.is_some() {
            "belongs to a bot, a bridge or a guest by now"
        } else {
            return Ok(());
        };
        if takes_away { Err(Undone::Changed(format!("{} {now}", summary.mxid))) } else { Ok(()) }
    }

    /// Takes our deactivation back once the account has left its rooms: Synapse goes on leaving them afterwards
    /// (`docs/facts/synapse.md` section 4). Then it gets back what nobody else has by now.
    async fn reactivate(
        &mut self,
        id: DefguardId,
        mxid: &Mxid,
        threepids: &BTreeSet<ThreePid>,
    ) -> Result<Vec<Entry>, Undone> {
        let account = self.read(id, mxid).await?;
        if account.summary.deactivated && !self.homeserver.rooms(mxid).await?.is_empty() {
            return Err(Undone::Changed(format!(
                "{mxid} is still leaving its rooms; the next run reactivates it"
            )));
        }
        let switch = Switch {
            change: Change::Reactivated,
            patch: AccountPatch::deactivate(false),
            is_done: &|account| !account.summary.deactivated,
            theirs: None,
        };
        let mut kept = self.switch(id, mxid, switch).await?;
        let mut free = BTreeSet::new();
        for threepid in threepids {
            if threepid.medium == "email" {
                let Ok(email) = Email::canonical(&threepid.address) else { continue };
                match self.homeserver.find_by_email(&email).await {
                    Lookup::Absent => {}
                    Lookup::Found(_) => continue,
                    Lookup::Unknown(failure) => return Err(failure.into()),
                }
            }
            free.insert(threepid.clone());
        }
        let restored = |account: &Account| {
            let all = &account.threepids | &free;
            AccountPatch { threepids: (all != account.threepids).then_some(all), ..AccountPatch::default() }
        };
        kept.extend(self.settle(id, mxid, restored).await?);
        Ok(kept)
    }

    /// Ends all sessions and the notifications by e-mail, which belong to none of them.
    async fn end_sessions(&mut self, id: DefguardId, mxid: &Mxid) -> Result<Vec<Entry>, Undone> {
        self.flush()?;
        // Looks at the marker: it must not be somebody else's account by now.
        let account = self.read(id, mxid).await?;
        let sessions = self.homeserver.sessions(mxid).await?;
        self.homeserver.end_sessions(mxid, &sessions).await?;
        let pushers = self.homeserver.email_pushers(mxid).await?;
        if !pushers.is_empty() {
            // Synapse takes another spelling of an address for another address: it removes the one and adds the other,
            // in canonical form again, and the notifications end with the removal (`docs/facts/synapse.md` section 3).
            let respelled = |threepid: &ThreePid| match threepid.medium.as_str() {
                "email" if pushers.contains(&threepid.address) => {
                    ThreePid { address: threepid.address.to_ascii_uppercase(), ..threepid.clone() }
                }
                _ => threepid.clone(),
            };
            let threepids = Some(account.threepids.iter().map(respelled).collect());
            let patch = AccountPatch { threepids, ..AccountPatch::default() };
            let written = self.homeserver.put(mxid, &patch).await?;
            if written.account.threepids != account.threepids {
                let why = format!("the e-mail addresses of {mxid} are not what they were");
                let what = "ending notifications by e-mail";
                return Err(Failure::new(Peer::Synapse, FailureClass::Transient, what, why).into());
            }
        }
        let devices = sessions.len() as u64;
        let entry = self.entry(id, mxid, Change::SessionsEnded { devices });
        Ok(self.keep(vec![entry]))
    }
}
