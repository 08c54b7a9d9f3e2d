//! One step on one account: read, merge, write, read back. Safe to repeat.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    domain::{
        Account, AccountPatch, Change, DefguardId, Email, Entry, ExternalId, Failure, FailureClass, Field,
        Instance, Intent, Link, Lookup, Mxid, Peer, RunId, ThreePid,
    },
    ports::{Clock, Homeserver, Outcome, Store},
    reconcile::{Holdings, Step},
};

/// How often a write without a clear outcome is tried.
pub(super) const TRIES: u32 = 3;

/// How often an external id is listed and taken off again if Synapse still answers it from its cache.
const WASHES: u32 = 3;

/// How far the clocks of the homeserver and of this machine may be apart.
const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::minutes(5);

/// How long the tries of one creation can take together. An account that is younger was made by somebody else.
const LONGEST_CREATION: TimeDelta = TimeDelta::minutes(10);

/// Why a step was not done.
#[derive(Debug)]
pub(super) enum Undone {
    /// It failed.
    Failed(Failure),
    /// The account is not what it was when the plan was made; the next run decides anew.
    Changed(String),
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Writes the steps of one group.
pub(super) struct Writer<'a> {
    pub(super) homeserver: &'a dyn Homeserver,
    pub(super) store: &'a dyn Store,
    pub(super) clock: &'a dyn Clock,
    pub(super) instance: &'a Instance,
    pub(super) run: Option<RunId>,
    pub(super) empty_first: bool,
    pub(super) pause: Duration,
    pub(super) off_board_admins: bool,
    pub(super) intent: Intent,
    /// The links of the people in the group, as they are now.
    pub(super) links: BTreeMap<DefguardId, Link>,
    /// Links that are to be recorded with whatever is recorded next: where an account is on the ladder must never be
    /// forgotten, or a lock of ours would look like somebody else's.
    pub(super) kept_links: BTreeMap<DefguardId, Option<Link>>,
    /// Journal lines that are to be recorded with whatever is recorded next.
    pub(super) kept: Vec<Entry>,
    /// Whether anything was sent, or was about to be.
    pub(super) begun: bool,
}

impl Writer<'_> {
    /// Does one step and gives its journal lines. Those of the last write are not recorded yet: they wait in `kept`.
    pub(super) async fn step(&mut self, step: &Step) -> Result<Vec<Entry>, Undone> {
        match step {
            Step::Create { id, mxid, display_name, email, external_ids } => {
                self.create(*id, mxid, display_name.as_deref(), email.as_ref(), external_ids).await
            }
            Step::Hold { id, mxid, change } => self.hold(*id, mxid, change).await,
            Step::Name { id, mxid, display_name } => self.name(*id, mxid, display_name).await,
            Step::Ladder { id, mxid, rung } => self.climb(*id, mxid, rung).await,
        }
    }

    async fn create(
        &mut self,
        id: DefguardId,
        mxid: &Mxid,
        display_name: Option<&str>,
        email: Option<&Email>,
        external_ids: &BTreeSet<ExternalId>,
    ) -> Result<Vec<Entry>, Undone> {
        let full = AccountPatch {
            display_name: display_name.map_or(Field::Keep, |name| Field::Set(name.to_owned())),
            threepids: email.map(|email| BTreeSet::from([ThreePid::email(email)])),
            external_ids: Some(external_ids.clone()),
            ..AccountPatch::default()
        };
        let entry = self.entry(id, mxid, Change::Created);
        self.begin(vec![entry.clone()])?;
        let mut tried = 0;
        // Whether a request to make it was sent, which can take effect late.
        let mut sent = false;
        loop {
            tried += 1;
            let there = match self.look(mxid, &full).await {
                Ok(there) => there,
                Err(undone) => {
                    if !sent {
                        self.disown(id)?;
                    }
                    return Err(undone);
                }
            };
            let attempt = match there {
                None => {
                    let again = std::mem::replace(&mut sent, true);
                    self.make(id, mxid, &full, again).await
                }
                Some(account) if sent && is_complete(&account, &full) => Ok(()),
                Some(account)
                    if sent
                        && (account.owner(self.instance) == Some(id) || is_half_made(&account, entry.at)) =>
                {
                    self.fill(mxid, &full).await
                }
                Some(_) => Err(self.leave(id, mxid)?),
            };
            match attempt {
                Ok(()) => break,
                Err(Undone::Failed(failure)) if tried < TRIES && may_pass(&failure) => self.wait(tried).await,
                Err(Undone::Failed(failure)) if failure.class != FailureClass::Transient => {
                    // Synapse may have refused only a part; if there is no account now, none will come of this.
                    if matches!(self.homeserver.get(mxid).await, Lookup::Absent) {
                        self.disown(id)?;
                    }
                    return Err(failure.into());
                }
                Err(undone) => return Err(undone),
            }
        }
        Ok(self.keep(vec![entry]))
    }

    /// What is at `mxid` now, which the list may not have shown. The last thing before the account is made.
    async fn look(&self, mxid: &Mxid, full: &AccountPatch) -> Result<Option<Account>, Undone> {
        self.are_free(mxid, full.threepids.iter().flatten()).await?;
        match self.homeserver.get(mxid).await {
            Lookup::Found(account) => Ok(Some(account)),
            Lookup::Absent => Ok(None),
            Lookup::Unknown(failure) => Err(failure.into()),
        }
    }

    /// Makes an account that is not there, and never takes over one that turns up at that moment. `again`: a request of
    /// ours without an answer went before, and can take effect at any time.
    async fn make(
        &mut self,
        id: DefguardId,
        mxid: &Mxid,
        full: &AccountPatch,
        again: bool,
    ) -> Result<(), Undone> {
        if self.empty_first || again {
            if self.homeserver.put(mxid, &AccountPatch::default()).await?.created {
                return self.fill(mxid, full).await;
            }
            return Err(if again {
                // An empty request to an account that is there changes nothing; what is on it tells whose it is.
                let why = format!("{mxid} appeared at that moment, perhaps by our own earlier request");
                Failure::new(Peer::Synapse, FailureClass::Transient, "creating an account", why).into()
            } else {
                self.leave(id, mxid)?
            });
        }
        let written = self.homeserver.put(mxid, full).await?;
        if written.created {
            return check(&written.account, full).map_err(Undone::Failed);
        }
        // Somebody else made it between our look and our write: it is not ours, so our ids come off again.
        // They come off even if that cannot be written down: left there, they would say that it is ours.
        let disowned = self.disown(id);
        self.take_back(mxid, &full.external_ids.clone().unwrap_or_default()).await?;
        disowned?;
        Err(Undone::Failed(
            Failure::new(
                Peer::Synapse,
                FailureClass::Permanent,
                "creating an account",
                format!(
                    "{mxid} was made by somebody else at the same moment, and our write replaced its external ids and its \
                     e-mail address"
                ),
            )
            .mend(format!(
                "our external ids were taken off again; set `synapse.create = \"empty-first\"` and see whose account \
                 {mxid} is: if the person has just logged in, it is theirs, so say `link #{id} {mxid}`; if not, check \
                 its e-mail address"
            )),
        ))
    }

    /// Takes our external ids off an account that is not ours. The failure is never one that may pass, so that nobody
    /// looks at the account again and takes it for one that we made.
    async fn take_back(&self, mxid: &Mxid, ours: &BTreeSet<ExternalId>) -> Result<(), Failure> {
        let mut tried = 0;
        loop {
            tried += 1;
            let failure = match self.homeserver.get(mxid).await {
                Lookup::Found(account) => match without(&account, ours) {
                    patch if patch.is_empty() => return Ok(()),
                    patch => match self.homeserver.put(mxid, &patch).await {
                        Ok(_) => return Ok(()),
                        Err(failure) => failure,
                    },
                },
                Lookup::Absent => return Ok(()),
                Lookup::Unknown(failure) => failure,
            };
            if tried < TRIES && may_pass(&failure) {
                self.wait(tried).await;
                continue;
            }
            return Err(Failure { class: FailureClass::Permanent, ..failure }.mend(format!(
                "{mxid} was made by somebody else at the same moment and carries our external ids now: take them off"
            )));
        }
    }

    /// The account at `mxid` turned up by itself. From now on nothing of ours says that we began to make it.
    fn leave(&mut self, id: DefguardId, mxid: &Mxid) -> Result<Undone, Failure> {
        self.disown(id)?;
        Ok(Undone::Changed(format!("{mxid} appeared in the meantime; it was left as it is")))
    }

    fn disown(&mut self, id: DefguardId) -> Result<(), Failure> {
        self.intent.creates.remove(&id);
        self.intent.pending.clear();
        self.record()
    }

    /// Completes an account that we made.
    async fn fill(&self, mxid: &Mxid, full: &AccountPatch) -> Result<(), Undone> {
        self.are_free(mxid, full.threepids.iter().flatten()).await?;
        let written = self.homeserver.put(mxid, full).await?;
        check(&written.account, full).map_err(Undone::Failed)
    }

    /// Whether e-mail addresses are on no account but this one. Synapse would move them without a word, and what the plan
    /// rests on was asked a while ago.
    async fn are_free(&self, mxid: &Mxid, added: impl Iterator<Item = &ThreePid>) -> Result<(), Undone> {
        for threepid in added.filter(|threepid| threepid.medium == "email") {
            let Ok(email) = Email::canonical(&threepid.address) else { continue };
            match self.homeserver.find_by_email(&email).await {
                Lookup::Found(holder) if holder != *mxid => {
                    return Err(Undone::Changed(format!(
                        "an e-mail address that {mxid} was to get is on {holder} by now"
                    )));
                }
                Lookup::Found(_) | Lookup::Absent => {}
                Lookup::Unknown(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    async fn hold(&mut self, id: DefguardId, mxid: &Mxid, change: &Holdings) -> Result<Vec<Entry>, Undone> {
        let mut kept = self.settle(id, mxid, |account| holding(account, change)).await?;
        if !change.wash_ids.is_empty() {
            kept.extend(self.settle(id, mxid, |account| without(account, &change.wash_ids)).await?);
            self.flush()?;
            kept.extend(self.evict(id, mxid, &change.wash_ids).await?);
        }
        Ok(kept)
    }

    /// Looks whether Synapse still answers an id that was taken off; if so, lists it and takes it off again.
    async fn evict(
        &mut self,
        id: DefguardId,
        mxid: &Mxid,
        washed: &BTreeSet<ExternalId>,
    ) -> Result<Vec<Entry>, Undone> {
        let mut kept = Vec::new();
        for external_id in washed {
            let change = Holdings { wash_ids: BTreeSet::from([external_id.clone()]), ..Holdings::default() };
            let mut left = WASHES;
            loop {
                match self.homeserver.find_by_external_id(external_id).await {
                    Lookup::Found(holder) if holder == *mxid && left > 0 => left -= 1,
                    Lookup::Found(holder) if holder == *mxid => {
                        let why = format!("Synapse still answers {mxid} for it from its cache");
                        let what = "taking an old login off an account";
                        let failure = Failure::new(Peer::Synapse, FailureClass::Permanent, what, why);
                        return Err(failure.mend("restart Synapse, which empties the cache").into());
                    }
                    Lookup::Found(_) | Lookup::Absent => break,
                    Lookup::Unknown(failure) => return Err(failure.into()),
                }
                kept.extend(self.settle(id, mxid, |account| holding(account, &change)).await?);
                kept.extend(self.settle(id, mxid, |account| without(account, &change.wash_ids)).await?);
            }
        }
        Ok(kept)
    }

    async fn name(&mut self, id: DefguardId, mxid: &Mxid, name: &str) -> Result<Vec<Entry>, Undone> {
        let renaming = |account: &Account| match account.summary.display_name.as_deref() {
            None if name.is_empty() => AccountPatch::default(),
            Some(shown) if shown == name => AccountPatch::default(),
            _ if name.is_empty() => AccountPatch { display_name: Field::Unset, ..AccountPatch::default() },
            _ => AccountPatch { display_name: Field::Set(name.to_owned()), ..AccountPatch::default() },
        };
        self.settle(id, mxid, renaming).await
    }

    /// Reads the account and writes what it lacks. A write without a clear outcome is followed by another look.
    pub(super) async fn settle(
        &mut self,
        id: DefguardId,
        mxid: &Mxid,
        patch: impl Fn(&Account) -> AccountPatch,
    ) -> Result<Vec<Entry>, Undone> {
        self.flush()?;
        let mut tried = 0;
        let mut kept = Vec::new();
        loop {
            tried += 1;
            // Reads that fail have been repeated already.
            let account = self.read(id, mxid).await?;
            kept.extend(self.catch_up(&account));
            let patch = patch(&account);
            if patch.is_empty() {
                return Ok(kept);
            }
            self.are_free(
                mxid,
                patch.threepids.iter().flatten().filter(|it| !account.threepids.contains(it)),
            )
            .await?;
            match self.write(id, mxid, &account, &patch).await {
                Ok(entries) => {
                    kept.extend(entries);
                    return Ok(kept);
                }
                Err(Undone::Failed(failure)) if tried < TRIES && may_pass(&failure) => self.wait(tried).await,
                Err(undone) => return Err(undone),
            }
        }
    }

    /// Writes down what a write without a clear outcome did change.
    pub(super) fn catch_up(&mut self, account: &Account) -> Vec<Entry> {
        let pending = std::mem::take(&mut self.intent.pending);
        let here = pending.iter().filter(|entry| entry.mxid == account.summary.mxid);
        let done = here.filter_map(|entry| took_effect(entry, account, self.instance)).collect();
        self.keep(done)
    }

    /// The account as it is now; never one that is marked as somebody else's.
    pub(super) async fn read(&self, id: DefguardId, mxid: &Mxid) -> Result<Account, Undone> {
        match self.homeserver.get(mxid).await {
            Lookup::Found(account) if account.is_marked() && account.owner(self.instance) != Some(id) => {
                Err(Undone::Changed(format!("{mxid} carries the ownership marker of somebody else by now")))
            }
            Lookup::Found(account) => Ok(account),
            Lookup::Absent => Err(Undone::Changed(format!("{mxid} is not there any more"))),
            Lookup::Unknown(failure) => Err(failure.into()),
        }
    }

    /// One write: what is about to change is remembered before, what did change after.
    async fn write(
        &mut self,
        id: DefguardId,
        mxid: &Mxid,
        before: &Account,
        patch: &AccountPatch,
    ) -> Result<Vec<Entry>, Undone> {
        let entries: Vec<Entry> =
            changes(before, patch).into_iter().map(|change| self.entry(id, mxid, change)).collect();
        self.begin(entries.clone())?;
        let written = self.homeserver.put(mxid, patch).await?;
        check(&written.account, patch)?;
        Ok(self.keep(entries))
    }

    pub(super) fn entry(&self, id: DefguardId, mxid: &Mxid, change: Change) -> Entry {
        Entry { run: self.run, at: self.clock.now(), id, mxid: mxid.clone(), change }
    }

    /// Remembers, before a write, what it is about to change.
    pub(super) fn begin(&mut self, pending: Vec<Entry>) -> Result<(), Failure> {
        self.begun = true;
        self.intent.pending = pending;
        if self.kept.is_empty() { self.store.begin(&self.intent) } else { self.record() }
    }

    /// After a write: what it changed is recorded with whatever is recorded next. Until then the store has it as
    /// pending.
    pub(super) fn keep(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        self.intent.pending.clear();
        for entry in &entries {
            if let Some(link) = self.links.get_mut(&entry.id) {
                let before = link.lifecycle.clone();
                link.lifecycle.after(&entry.change, entry.at);
                if link.lifecycle != before {
                    self.kept_links.insert(entry.id, Some(link.clone()));
                }
            }
        }
        self.kept.extend(entries.iter().cloned());
        entries
    }

    /// Records what waits for it.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        if self.kept.is_empty() { Ok(()) } else { self.record() }
    }

    fn record(&mut self) -> Result<(), Failure> {
        let (journal, links) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.kept_links));
        let continued = Some(self.intent.clone());
        self.store.record(&Outcome { journal, links, continued, ..Outcome::default() })
    }

    pub(super) async fn wait(&self, tried: u32) {
        tokio::time::sleep(self.pause * 2_u32.saturating_pow(tried - 1)).await;
    }
}

/// What a journal line that was pending when the program ended did change, as the account shows; `None` if nothing.
pub(super) fn took_effect(entry: &Entry, account: &Account, instance: &Instance) -> Option<Entry> {
    let change = match &entry.change {
        Change::Emails { before, after } => Change::Emails {
            before: before.clone(),
            after: brought_about(&emails(&account.threepids), before, after)?,
        },
        whole => {
            let done = match whole {
                Change::Created => {
                    account.owner(instance) == Some(entry.id) || is_half_made(account, entry.at)
                }
                Change::DisplayName { after, .. } => account.summary.display_name == *after,
                Change::ExternalIds { before, after } => shows(&account.external_ids, before, after),
                Change::Locked { .. } => account.summary.locked,
                Change::Unlocked { .. } => !account.summary.locked,
                Change::Deactivated { .. } => account.summary.deactivated,
                Change::Reactivated => !account.summary.deactivated,
                _ => false,
            };
            done.then(|| whole.clone())?
        }
    };
    Some(Entry { change, ..entry.clone() })
}

/// How far a list went from `before` to `after`. Synapse takes addresses off one by one before it adds one, and can end
/// in between (`docs/facts/synapse.md` sections 1 and 3).
fn brought_about<T: Ord + Clone>(
    now: &BTreeSet<T>,
    before: &BTreeSet<T>,
    after: &BTreeSet<T>,
) -> Option<BTreeSet<T>> {
    let gone = &(before - after) - now;
    let added = &(after - before) & now;
    (!gone.is_empty() || !added.is_empty()).then(|| &(before - &gone) | &added)
}

/// Whether a list went from `before` to `after`, whatever else others have done to it since.
fn shows<T: Ord + Clone>(now: &BTreeSet<T>, before: &BTreeSet<T>, after: &BTreeSet<T>) -> bool {
    (after - before).is_subset(now) && (before - after).is_disjoint(now)
}

/// Whether the account can only be one that we began to make at that time: nobody's, and made just then.
fn is_half_made(account: &Account, begun: DateTime<Utc>) -> bool {
    let earliest = (begun - CLOCK_DIFFERENCE).timestamp();
    let latest = (begun + LONGEST_CREATION + CLOCK_DIFFERENCE).timestamp();
    account.external_ids.is_empty() && (earliest..=latest).contains(&account.created_at)
}

pub(super) fn may_pass(failure: &Failure) -> bool {
    matches!(failure.class, FailureClass::Transient | FailureClass::RateLimited(_))
}

/// What an account lacks to hold what it should, with the ids to wash listed once more.
fn holding(account: &Account, change: &Holdings) -> AccountPatch {
    let ids = &(&(&account.external_ids - &change.drop_ids) | &change.add_ids) | &change.wash_ids;
    let drop: BTreeSet<ThreePid> = change.drop_emails.iter().map(ThreePid::email).collect();
    let add: BTreeSet<ThreePid> = change.add_emails.iter().map(ThreePid::email).collect();
    let threepids = &(&account.threepids - &drop) | &add;
    AccountPatch {
        // Listing an id is what evicts it from Synapse's cache, so it is listed even where it stands already.
        external_ids: (!change.wash_ids.is_empty() || ids != account.external_ids).then_some(ids),
        threepids: (threepids != account.threepids).then_some(threepids),
        ..AccountPatch::default()
    }
}

/// Takes external ids off.
fn without(account: &Account, gone: &BTreeSet<ExternalId>) -> AccountPatch {
    let rest = &account.external_ids - gone;
    AccountPatch { external_ids: (rest != account.external_ids).then_some(rest), ..AccountPatch::default() }
}

fn emails(threepids: &BTreeSet<ThreePid>) -> BTreeSet<String> {
    threepids
        .iter()
        .filter(|threepid| threepid.medium == "email")
        .map(|threepid| threepid.address.clone())
        .collect()
}

fn changes(before: &Account, patch: &AccountPatch) -> Vec<Change> {
    let mut changes = Vec::new();
    let after = match &patch.display_name {
        Field::Keep => None,
        Field::Set(name) => Some(Some(name.clone())),
        Field::Unset => Some(None),
    };
    if let Some(after) = after {
        changes.push(Change::DisplayName { before: before.summary.display_name.clone(), after });
    }
    if let Some(threepids) = &patch.threepids {
        changes.push(Change::Emails { before: emails(&before.threepids), after: emails(threepids) });
    }
    if let Some(ids) = &patch.external_ids
        && *ids != before.external_ids
    {
        changes.push(Change::ExternalIds { before: before.external_ids.clone(), after: ids.clone() });
    }
    changes
}

fn is_complete(account: &Account, patch: &AccountPatch) -> bool {
    check(account, patch).is_ok()
}

/// Whether the account shows what was written to it.
fn check(account: &Account, patch: &AccountPatch) -> Result<(), Failure> {
    let name = match &patch.display_name {
        Field::Keep => true,
        Field::Set(name) => account.summary.display_name.as_ref() == Some(name),
        Field::Unset => account.summary.display_name.is_none(),
    };
    let ids = patch.external_ids.as_ref().is_none_or(|ids| *ids == account.external_ids);
    let threepids = patch.threepids.as_ref().is_none_or(|threepids| *threepids == account.threepids);
    let missing =
        [(name, "the display name"), (threepids, "the e-mail addresses"), (ids, "the external ids")]
            .into_iter()
            .filter_map(|(right, what)| (!right).then_some(what))
            .collect::<Vec<_>>();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Peer::Synapse,
        FailureClass::Permanent,
        "writing an account",
        format!(
            "{} accepted the write, but does not show {} as written",
            account.summary.mxid,
            missing.join(" and ")
        ),
    )
    .mend("see whether somebody else changes this account at the same time; the next run compares again"))
}
