//! The daemon on a real Synapse while people are changed without a pause, so that its lists of people really lack
//! somebody who is there.
//!
//! The stand-in knows which pages it gave out and who was there all through. A listing *deceives* if the daemon took it
//! for complete and it lacks such a person.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::Value;

use crate::{
    ground::Ground,
    support::{
        defguard::{NewPerson, State},
        proxy::Seen,
        synapse::{Options, Synapse},
    },
};

/// How many people there are at any time, beside the service's own: four pages, one after the other, which took the
/// recorded Defguard 0.46 s (`docs/facts/defguard.md` section 3).
const PEOPLE: usize = 330;
/// Writes for each page, in a thousandth: 5 a second, if a page takes as long as it took there. They are made when a page
/// has been read and before it is sent, so that it does not depend on the machine how many there are.
const WRITES_PER_PAGE: usize = 575;
/// So many writes are made from one sync to the next, in which nobody lists.
const WRITES_BETWEEN: usize = 2;

/// How many syncs, and how many of their lists must have deceived.
fn length() -> (usize, usize) {
    if std::env::var_os("DSS_LONG").is_some_and(|long| long == "1") { (200, 20) } else { (25, 3) }
}

/// One reading of all pages, as it was given out.
#[derive(Debug, Default, Clone)]
struct Reading {
    shown: BTreeSet<i64>,
    /// Who was there at each of its pages.
    present: BTreeSet<i64>,
    rows: usize,
    /// How many people there were, at each of its pages.
    totals: BTreeSet<usize>,
}

impl Reading {
    /// Whether there is no sign that anybody was passed over.
    fn seems_whole(&self) -> bool {
        self.rows == self.shown.len() && self.totals == BTreeSet::from([self.rows])
    }

    /// Who was there all through and was not shown.
    fn lacks(&self) -> Vec<i64> {
        self.present.difference(&self.shown).copied().collect()
    }
}

/// Who writes to Defguard, and what is true there.
struct Stream {
    random: StdRng,
    /// The name of the test, which is part of every name.
    name: String,
    flowing: bool,
    /// Writes that are due, in a thousandth.
    due: usize,
    written: BTreeMap<&'static str, usize>,
    names: usize,
    /// Everybody who ever was, with the localpart of the account that they get or would get.
    ever: BTreeMap<i64, String>,
    gone: BTreeSet<i64>,
    disabled: BTreeSet<i64>,
    /// Who was gone or disabled at any time since the sync began.
    away: BTreeSet<i64>,
    readings: Vec<Reading>,
}

impl Stream {
    fn new_person(&mut self) -> NewPerson {
        self.names += 1;
        let who = format!("{}.p{}", self.name, self.names);
        NewPerson::named(&who).name(&format!("p{}", self.names), "Person")
    }

    fn create(&mut self, state: &mut State, username: Option<String>) {
        let mut person = self.new_person();
        let localpart = person.username.clone();
        if let Some(username) = username {
            person.username = username;
        }
        let id = state.create(person).unwrap();
        self.ever.insert(id, localpart);
    }

    /// A page was read; the writes that fall into the time until the next one are made.
    fn page(&mut self, state: &mut State, page: u64, ids: &[i64]) {
        let present: BTreeSet<i64> = self.people(state).into_iter().collect();
        if page == 1 {
            self.readings.push(Reading { present: present.clone(), ..Reading::default() });
        }
        if let Some(reading) = self.readings.last_mut() {
            reading.shown.extend(ids);
            reading.rows += ids.len();
            reading.totals.insert(state.people.len());
            reading.present.retain(|id| present.contains(id));
        }
        if self.flowing {
            self.flow(state, WRITES_PER_PAGE);
        }
    }

    fn flow(&mut self, state: &mut State, thousandths: usize) {
        self.due += thousandths;
        while self.due >= 2000 {
            self.due -= 1000 * self.write(state);
        }
    }

    /// Makes one change to somebody and says how many writes it took.
    fn write(&mut self, state: &mut State) -> usize {
        let people = self.people(state);
        let id = *people.choose(&mut self.random).unwrap();
        let kind = self.random.random_range(0..10);
        let (what, writes) = match kind {
            0..=5 => {
                // Whoever was shown by the reading under way, since only their leaving moves those who were not.
                let shown = self.readings.last().map(|reading| &reading.shown);
                let shown: Vec<i64> = people
                    .iter()
                    .copied()
                    .filter(|id| shown.is_some_and(|shown| shown.contains(id)))
                    .collect();
                let id = shown.choose(&mut self.random).copied().unwrap_or(id);
                let username = state.people.get(id).unwrap().username.clone();
                state.delete(id).unwrap();
                self.gone.insert(id);
                self.away.insert(id);
                self.disabled.remove(&id);
                // Now and then the name is used again at once.
                let again = self.random.random_ratio(1, 8).then_some(username);
                self.create(state, again);
                ("deletes with creates", 2)
            }
            6 => {
                self.names += 1;
                let username = format!("{}.r{}", self.name, self.names);
                state.update(id, |row| row.username = username).unwrap();
                ("renames", 1)
            }
            7 => {
                let active = self.disabled.contains(&id);
                state.update(id, |row| row.is_active = active).unwrap();
                self.away.insert(id);
                if !self.disabled.remove(&id) {
                    self.disabled.insert(id);
                }
                ("people disabled or enabled", 1)
            }
            8 => {
                self.names += 1;
                let first = format!("first{}", self.names);
                state.update(id, |row| row.first_name = first).unwrap();
                ("names changed", 1)
            }
            _ => {
                state.update(id, |_| {}).unwrap();
                ("updates of nothing", 1)
            }
        };
        *self.written.entry(what).or_default() += writes;
        writes
    }

    /// Everybody in Defguard but the service's own account.
    fn people(&self, state: &State) -> Vec<i64> {
        state.people.rows().map(|row| row.id).filter(|id| self.ever.contains_key(id)).collect()
    }

    fn total(&self) -> usize {
        self.written.values().sum()
    }
}

/// The deployment, the stream, and what was seen of both.
struct Story {
    ground: Ground,
    stream: Arc<Mutex<Stream>>,
    /// Whose account has which localpart.
    owners: BTreeMap<String, i64>,
    /// Whose account was locked after the sync before.
    locked: BTreeSet<i64>,
    deceived: usize,
    complete: usize,
    readings: usize,
    approvals: usize,
}

impl Story {
    async fn begin(synapse: &'static Synapse, name: &str) -> Self {
        let ground = Ground::on(synapse, name)
            .await
            // One page after the other, as in the recording.
            .with("defguard.page_workers", "1")
            .with("synapse.create", "\"one-request\"")
            // Two lists in a row and a short time are proof, so that whoever lists lack twice could be locked; and as
            // much is let through as can be, so that it is not the guard that saves them.
            .with("off_boarding.absence_confirmations", "2")
            .with("off_boarding.absence_min_age", "\"1s\"")
            .with("guard.min_count", "100")
            .with("guard.percent", "30")
            .with("guard.max_count", "1000")
            .with("guard.shrink_percent", "30");
        let stream = Stream {
            random: StdRng::seed_from_u64(20_261_125),
            name: name.to_owned(),
            flowing: false,
            due: 0,
            written: BTreeMap::new(),
            names: 0,
            ever: BTreeMap::new(),
            gone: BTreeSet::new(),
            disabled: BTreeSet::new(),
            away: BTreeSet::new(),
            readings: Vec::new(),
        };
        let stream = Arc::new(Mutex::new(stream));
        {
            let (mut state, mut stream) = (ground.defguard.state(), stream.lock().unwrap());
            for _ in 0..PEOPLE {
                stream.create(&mut state, None);
            }
        }
        let watched = Arc::clone(&stream);
        let mut faults = ground.defguard.faults();
        faults.on_every_page(move |state, page, ids| watched.lock().unwrap().page(state, page, ids));
        drop(faults);
        Self {
            ground,
            stream,
            owners: BTreeMap::new(),
            locked: BTreeSet::new(),
            deceived: 0,
            complete: 0,
            readings: 0,
            approvals: 0,
        }
    }

    fn stream(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap()
    }

    /// Asks the daemon for a sync, and holds what it did against what was true.
    async fn sync(&mut self) -> Value {
        let before = self.active();
        {
            let mut stream = self.stream();
            stream.away.clear();
            stream.readings.clear();
        }
        self.ground.proxy.clear();
        let ended = self.ground.program(&["sync", "--json"]).await;
        // 3: somebody was changed while in hand; 4: held; 5: the list was incomplete each time it was read.
        assert!(matches!(ended.code, Some(0 | 3 | 4 | 5)), "{ended:?}");
        let report = ended.json();
        let readings = self.stream().readings.len();
        self.readings += readings;
        let whole: Vec<Reading> =
            self.stream().readings.iter().filter(|reading| reading.seems_whole()).cloned().collect();
        // A reading that seems whole is the last one of its list, and there is one list more where an absence is proved.
        assert_eq!(report["completeness"] == "complete", !whole.is_empty(), "{:#}", report["completeness"]);
        self.complete += whole.len();
        self.deceived += whole.iter().filter(|reading| !reading.lacks().is_empty()).count();
        if ended.code == Some(4) {
            self.approve(&report).await;
        }
        self.nobody_present_is_touched(&before).await;
        report
    }

    /// Who is there and not disabled.
    fn active(&self) -> BTreeSet<i64> {
        let state = self.ground.defguard.state();
        let stream = self.stream();
        let people = stream.people(&state).into_iter();
        people.filter(|id| !stream.disabled.contains(id)).collect()
    }

    /// Does what an admin would do who knows that people are leaving: lets go on what is held. Others may have left
    /// meanwhile; then it is held again, and the next sync asks again.
    async fn approve(&mut self, report: &Value) {
        let Some(digest) = report["held"]["digest"].as_str() else {
            panic!("held for good: {:#}", report["held"])
        };
        let ended = self.ground.program(&["approve", digest]).await;
        assert!(matches!(ended.code, Some(0 | 3 | 4 | 5)), "{ended:?}");
        self.approvals += 1;
    }

    /// Nobody who was there and active before, after and all through has lost anything.
    async fn nobody_present_is_touched(&mut self, before: &BTreeSet<i64>) {
        let here: BTreeSet<i64> = self.active().intersection(before).copied().collect();
        let (owners, safe): (_, BTreeSet<i64>) = {
            let stream = self.stream();
            let owners = stream.ever.iter().map(|(id, localpart)| (localpart.clone(), *id)).collect();
            (owners, here.difference(&stream.away).copied().collect())
        };
        self.owners = owners;
        for write in self.ground.proxy.writes() {
            let owner = self.owner_of(&write);
            if owner.is_some_and(|id| safe.contains(&id)) {
                assert!(!takes_away(&write), "{owner:?} is there, and this was written: {write:#?}");
            }
        }
        for account in self.ground.synapse.accounts().await {
            let localpart = localpart(account["name"].as_str().unwrap());
            let Some(id) = self.owners.get(localpart) else { continue };
            assert_eq!(account["deactivated"], false, "{account:#}");
            if account["locked"] == false {
                self.locked.remove(id);
            } else if self.locked.insert(*id) {
                // Somebody enabled again may wait for a list that shows them; nobody else has been locked before.
                assert!(!safe.contains(id), "#{id} is there, and their account is {account:#}");
            }
        }
    }

    fn owner_of(&self, write: &Seen) -> Option<i64> {
        let target = write.target();
        let mxid = target.split('/').find(|part| part.starts_with('@'))?;
        self.owners.get(localpart(mxid)).copied()
    }

    /// Who left and has an account that is not locked.
    async fn unlocked_leavers(&self) -> Vec<i64> {
        let gone = self.stream().gone.clone();
        let open =
            self.ground.synapse.accounts().await.into_iter().filter(|account| account["locked"] == false);
        open.filter_map(|account| self.owners.get(localpart(account["name"].as_str().unwrap())).copied())
            .filter(|id| gone.contains(id))
            .collect()
    }

    /// How it must be in the end.
    async fn everybody_is_where_they_belong(&self) {
        let (gone, disabled) = {
            let stream = self.stream();
            (stream.gone.clone(), stream.disabled.clone())
        };
        let mut locked = 0;
        for account in self.ground.synapse.accounts().await {
            let localpart = localpart(account["name"].as_str().unwrap());
            let Some(id) = self.owners.get(localpart) else { continue };
            let leaves = gone.contains(id) || disabled.contains(id);
            assert_eq!(account["locked"], leaves, "#{id}: gone {}, {account:#}", gone.contains(id));
            assert_eq!(account["deactivated"], false, "#{id}: {account:#}");
            locked += usize::from(gone.contains(id));
        }
        assert!(locked * 2 > gone.len(), "{locked} accounts of {} people who left", gone.len());
    }

    /// Everybody present has the account that was made for them, and on it our marker and their login.
    async fn everybody_has_their_login(&self) {
        let rows: Vec<(i64, String)> = {
            let (state, stream) = (self.ground.defguard.state(), self.stream());
            let people = stream.people(&state).into_iter();
            let people = people.filter(|id| !stream.disabled.contains(id));
            people.map(|id| (id, state.people.get(id).unwrap().username.clone())).collect()
        };
        for (id, username) in rows {
            let localpart = self.stream().ever[&id].clone();
            let account = crate::ground::account_at(self.ground.synapse, &localpart).await;
            let Some(account) = account else { panic!("#{id} has no account {localpart}") };
            assert!(account.ids.contains(&self.ground.marker(id)), "#{id}: {account:?}");
            assert!(account.ids.contains(&format!("oidc-Defguard:{username}")), "#{id}: {account:?}");
        }
    }
}

fn localpart(mxid: &str) -> &str {
    mxid.trim_start_matches('@').split(':').next().unwrap()
}

/// Whether a write takes an account from its owner: a lock, a deactivation, or external ids without our marker.
fn takes_away(write: &Seen) -> bool {
    let body = &write.body;
    let unlinks = body["external_ids"]
        .as_array()
        .is_some_and(|ids| !ids.iter().any(|id| id["auth_provider"] == "defguard-synapse-sync"));
    body["locked"] == true || body["deactivated"] == true || unlinks || write.path.contains("/deactivate/")
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_stream_of_writes_nobody_present_is_locked_and_everybody_gone_is() {
    let (syncs, least) = length();
    let options = Options { server_name: "stream.test".to_owned(), ..Options::default() };
    let synapse: &'static Synapse = Box::leak(Box::new(Synapse::start(options).await.unwrap()));
    let mut story = Story::begin(synapse, "stream").await;
    let daemon = story.ground.start(&["run"]);
    daemon.says("the daemon is up").await;
    story.ground.program(&["sync"]).await.with_code(0);

    story.stream().flowing = true;
    let began = Instant::now();
    for _ in 0..syncs {
        story.sync().await;
        let mut state = story.ground.defguard.state();
        story.stream().flow(&mut state, 1000 * WRITES_BETWEEN);
    }
    story.stream().flowing = false;
    let took = began.elapsed();
    {
        let stream = story.stream();
        println!(
            "{syncs} syncs in {took:?}: {} writes {:?}; {} readings, {} lists taken for complete, {} of them lacked \
             somebody; {} people left; {} approvals",
            stream.total(),
            stream.written,
            story.readings,
            story.complete,
            story.deceived,
            stream.gone.len(),
            story.approvals,
        );
    }
    assert!(story.deceived >= least, "only {} lists deceived", story.deceived);
    for kind in ["deletes with creates", "renames", "people disabled or enabled", "names changed"] {
        assert!(story.stream().written.contains_key(kind), "no {kind}");
    }

    // Now it is quiet, and everybody gone is proved to be gone.
    settle(&mut story).await;
    story.everybody_is_where_they_belong().await;
    story.everybody_has_their_login().await;
    daemon.terminate();
    daemon.ended().await.with_code(0);
}

/// Syncs until everybody who left is locked. Two lists that lack them and a second between those are enough for proof.
async fn settle(story: &mut Story) {
    for _ in 0..20 {
        story.sync().await;
        if story.unlocked_leavers().await.is_empty() {
            break;
        }
    }
    story.sync().await;
    story.ground.proxy.clear();
    story.ground.program(&["sync"]).await.with_code(0);
    assert_eq!(story.ground.writes(), [""; 0]);
}
