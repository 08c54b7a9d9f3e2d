//! The two recorded ways in which a list that seems whole lacks somebody who is there (`docs/facts/defguard.md`
//! section 3), again and again for the same person: proof of absence has to hold where counting does not.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
};

use defguard_synapse_sync::{
    domain::{Completeness, DefguardId},
    reconcile::Pass,
};

use crate::{
    ground::Ground,
    support::defguard::{Heap, NewPerson, State},
};

/// More than a page.
const PEOPLE: usize = 110;
const PER_PAGE: usize = 100;

/// What happens between the two pages of a list.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Hazard {
    /// Somebody on the first page is deleted and somebody is created: whoever came first on the second page slips to the
    /// first, which was read already.
    Slip,
    /// Somebody on the second page is renamed, and their new row takes the place of a deleted one on the first page.
    Rename,
}

/// Plays a trick on readings of the list, and keeps what they showed.
struct Trick {
    hazard: Hazard,
    /// Whom the list is to lack.
    victim: i64,
    name: String,
    /// For so many readings more.
    left: usize,
    /// Who will be deleted.
    leavers: Vec<i64>,
    gone: Vec<i64>,
    readings: Vec<BTreeSet<i64>>,
}

impl Trick {
    fn page(&mut self, state: &mut State, page: u64, ids: &[i64]) {
        if page == 1 {
            self.readings.push(BTreeSet::new());
        }
        self.readings.last_mut().unwrap().extend(ids);
        if self.left > 0 && page == 1 {
            self.left -= 1;
            self.play(state);
        }
        if self.left > 0 && ids.len() < PER_PAGE {
            self.prepare(state);
        }
    }

    /// Puts the victim where the trick works.
    fn prepare(&self, state: &mut State) {
        let at = match self.hazard {
            Hazard::Slip => PER_PAGE,
            Hazard::Rename => usize::MAX,
        };
        place(state, self.victim, at);
    }

    /// Every count is the same before and after.
    fn play(&mut self, state: &mut State) {
        let leaver = self.leavers.remove(0);
        state.delete(leaver).unwrap();
        self.gone.push(leaver);
        let number = self.gone.len();
        if self.hazard == Hazard::Rename {
            state.people.vacuum();
            let username = format!("{}.married{number}", self.name);
            state.people.update(self.victim, |row| row.username = username);
        }
        state.create(NewPerson::named(&format!("{}.new{number}", self.name))).unwrap();
    }
}

/// Puts somebody's row at a place, as a table that is written anew may have it. The others keep their order.
fn place(state: &mut State, id: i64, at: usize) {
    let mut rows: Vec<_> = state.people.rows().cloned().collect();
    let from = rows.iter().position(|row| row.id == id).unwrap();
    let row = rows.remove(from);
    rows.insert(at.min(rows.len()), row);
    state.people = Heap::default();
    rows.into_iter().for_each(|row| state.people.insert(row));
}

/// A company of more than a page, with accounts.
struct Company {
    ground: Ground,
    people: Vec<i64>,
    trick: Arc<Mutex<Trick>>,
}

impl Company {
    async fn new(name: &str, hazard: Hazard, group: bool) -> Self {
        let ground = Ground::new(name)
            .await
            .with("off_boarding.absence_min_age", "\"1s\"")
            .with("guard.min_count", "100");
        let people: Vec<i64> = (0..PEOPLE).map(|number| ground.add(&format!("p{number}"))).collect();
        if group {
            people.iter().for_each(|id| ground.defguard.set_groups(*id, &["staff"]));
        }
        ground.sync().await;
        let trick = Arc::new(Mutex::new(Trick {
            hazard,
            victim: people[70],
            name: name.to_owned(),
            left: 0,
            leavers: people[..50].to_vec(),
            gone: Vec::new(),
            readings: Vec::new(),
        }));
        let watched = Arc::clone(&trick);
        ground
            .defguard
            .faults()
            .on_every_page(move |state, page, ids| watched.lock().unwrap().page(state, page, ids));
        Self { ground, people, trick }
    }

    fn trick(&self) -> MutexGuard<'_, Trick> {
        self.trick.lock().unwrap()
    }

    /// One run in which so many readings of the list lack the victim. They are taken for complete, and the victim keeps
    /// their account.
    async fn deceived(&self, readings: usize) {
        let victim = {
            let mut state = self.ground.defguard.state();
            let mut trick = self.trick();
            trick.left = readings;
            trick.readings.clear();
            trick.prepare(&mut state);
            trick.victim
        };
        let report = self.ground.run(Pass::Frequent).await;
        assert_eq!(report.completeness, Some(Completeness::Complete), "{report:#?}");
        {
            let mut trick = self.trick();
            trick.left = 0;
            for (number, shown) in trick.readings.iter().take(readings).enumerate() {
                assert!(!shown.contains(&victim), "reading {number} showed #{victim}");
            }
        }
        assert!(self.ground.defguard.state().people.get(victim).is_some());
        assert!(!self.ground.is_locked(&self.name_of(victim)).await, "{report:#?}");
        let links = self.ground.engine().store().links().unwrap();
        assert!(links[&DefguardId(victim)].lifecycle.locked.is_none());
    }

    /// The name of somebody in this test, by which their account is called.
    fn name_of(&self, id: i64) -> String {
        format!("p{}", self.people.iter().position(|person| *person == id).unwrap())
    }

    /// What has to pass between two lists that prove an absence is time itself: `absence_min_age`.
    async fn time_passes(&self) {
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }

    /// In the end those who are gone are locked, and nobody else is.
    async fn only_the_gone_are_locked(&self) {
        self.ground.run(Pass::Frequent).await;
        self.time_passes().await;
        self.ground.run(Pass::Frequent).await;
        let gone = self.trick().gone.clone();
        assert!(gone.len() >= 3);
        for id in &self.people {
            let locked = self.ground.is_locked(&self.name_of(*id)).await;
            assert_eq!(locked, gone.contains(id), "#{id}, gone are {gone:?}");
        }
        self.ground.nothing_to_do().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_slips_to_a_page_that_was_read_when_one_is_deleted_and_one_created_is_not_locked() {
    let company = Company::new("slips", Hazard::Slip, false).await;
    // Not a single list shows them, a second look in the same run included.
    for _ in 0..4 {
        company.deceived(usize::MAX).await;
        company.time_passes().await;
    }
    company.only_the_gone_are_locked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_renamed_while_the_list_is_read_is_not_locked_though_the_old_name_is_gone() {
    let company = Company::new("renames", Hazard::Rename, true).await;
    for _ in 0..4 {
        company.deceived(usize::MAX).await;
        company.time_passes().await;
    }
    company.only_the_gone_are_locked().await;
    let victim = company.trick().victim;
    let times = company.trick().gone.len();
    let account = company.ground.opens(&format!("married{times}")).await;
    assert_eq!(account, Some(company.name_of(victim)));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_in_no_group_and_renamed_while_the_list_is_read_is_seen_again_by_the_next_list() {
    let company = Company::new("hazrenamed", Hazard::Rename, false).await;
    // A list that shows them starts the count again, however often one before it did not.
    for _ in 0..4 {
        company.deceived(1).await;
        company.time_passes().await;
        company.ground.run(Pass::Frequent).await;
        company.time_passes().await;
    }
    company.only_the_gone_are_locked().await;
}
