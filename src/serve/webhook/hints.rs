//! When to look at whom: collects the people that events name, each for a moment, and many of them as "everybody".
//!
//! Pure: the time is an argument, counted from any beginning that never goes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Whom to look at now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// These people, by `#` and id, or by username.
    People(BTreeSet<String>),
    /// Everybody: too many were named, or one that nobody can be looked up by.
    Everybody,
}

/// The people who were named and whose moment has not come yet.
#[derive(Debug)]
pub struct Pending {
    delay: Duration,
    most: usize,
    people: BTreeMap<String, Due>,
    everybody: Option<Due>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    /// When to look.
    at: Duration,
    /// When an event last asked for it.
    last: Duration,
}

impl Due {
    /// What is left after a look: an event that came less than the delay before it asks for one more.
    fn after_look(self, now: Duration, delay: Duration) -> Option<Self> {
        let again = self.last + delay;
        (again > now).then_some(Self { at: again, last: self.last })
    }
}

impl Pending {
    /// Each event is looked into after `delay`, and more than `most` people at once become everybody.
    pub fn new(delay: Duration, most: usize) -> Self {
        Self { delay, most, people: BTreeMap::new(), everybody: None }
    }

    /// An event named a person.
    pub fn note(&mut self, person: String, now: Duration) {
        if let Some(everybody) = &mut self.everybody {
            everybody.last = now;
            return;
        }
        let due = Due { at: now + self.delay, last: now };
        self.people.entry(person).and_modify(|due| due.last = now).or_insert(due);
        if self.people.len() > self.most {
            self.everybody = self.merged();
            self.people.clear();
        }
    }

    /// An event was about somebody unknown.
    pub fn note_everybody(&mut self, now: Duration) {
        let due = Due { at: now + self.delay, last: now };
        let earliest = self.everybody.or_else(|| self.merged()).map_or(due.at, |before| before.at);
        self.everybody = Some(Due { at: earliest.min(due.at), last: now });
        self.people.clear();
    }

    /// All people as one.
    fn merged(&self) -> Option<Due> {
        let at = self.people.values().map(|due| due.at).min()?;
        let last = self.people.values().map(|due| due.last).max()?;
        Some(Due { at, last })
    }

    /// When [`Pending::take`] will have something; `None` if nothing is waiting.
    pub fn next(&self) -> Option<Duration> {
        self.people.values().chain(&self.everybody).map(|due| due.at).min()
    }

    /// Takes out what is due.
    pub fn take(&mut self, now: Duration) -> Option<Wish> {
        if let Some(due) = self.everybody.filter(|due| due.at <= now) {
            self.everybody = due.after_look(now, self.delay);
            return Some(Wish::Everybody);
        }
        let due: BTreeSet<String> =
            self.people.iter().filter(|(_, due)| due.at <= now).map(|(person, _)| person.clone()).collect();
        if due.is_empty() {
            return None;
        }
        let delay = self.delay;
        self.people.retain(|person, waiting| {
            if !due.contains(person) {
                return true;
            }
            match waiting.after_look(now, delay) {
                Some(again) => {
                    *waiting = again;
                    true
                }
                None => false,
            }
        });
        Some(Wish::People(due))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DELAY: Duration = Duration::from_millis(500);
    const MOST: usize = 3;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn people(names: &[&str]) -> Option<Wish> {
        Some(Wish::People(names.iter().map(|name| (*name).to_owned()).collect()))
    }

    fn noted(events: &[(&str, u64)]) -> Pending {
        let mut pending = Pending::new(DELAY, MOST);
        for (person, at) in events {
            pending.note((*person).to_owned(), ms(*at));
        }
        pending
    }

    #[test]
    fn a_person_is_looked_at_once_when_the_delay_is_over() {
        let mut pending = noted(&[("#1", 100)]);
        assert_eq!(pending.next(), Some(ms(600)));
        assert_eq!(pending.take(ms(599)), None);
        assert_eq!(pending.take(ms(600)), people(&["#1"]));
        assert_eq!((pending.next(), pending.take(ms(9_000))), (None, None));
    }

    #[test]
    fn several_events_in_the_delay_are_one_look_and_one_more_for_those_that_came_late() {
        let mut pending = noted(&[("#1", 0), ("#1", 200), ("#1", 400)]);
        assert_eq!(pending.take(ms(500)), people(&["#1"]));
        assert_eq!(pending.next(), Some(ms(900)));
        assert_eq!(pending.take(ms(900)), people(&["#1"]));
        assert_eq!(pending.next(), None);
    }

    #[test]
    fn a_look_that_comes_late_serves_everything_before_it() {
        let mut pending = noted(&[("#1", 0), ("#2", 300), ("#1", 400)]);
        assert_eq!(pending.take(ms(3_000)), people(&["#1", "#2"]));
        assert_eq!(pending.next(), None);
    }

    #[test]
    fn a_burst_becomes_everybody_at_the_time_of_its_first_event() {
        let mut pending = noted(&[("#1", 0), ("#2", 10), ("#3", 20), ("#4", 30), ("#5", 40)]);
        assert_eq!(pending.next(), Some(ms(500)));
        assert_eq!(pending.take(ms(500)), Some(Wish::Everybody));
        assert_eq!(pending.next(), Some(ms(540)));
        assert_eq!(pending.take(ms(540)), Some(Wish::Everybody));
        assert_eq!(pending.next(), None);
        pending.note("#1".to_owned(), ms(600));
        assert_eq!(pending.take(ms(1_100)), people(&["#1"]));
    }

    #[test]
    fn an_event_about_somebody_unknown_asks_for_everybody_no_later_than_the_others() {
        let mut pending = noted(&[("#1", 0)]);
        pending.note_everybody(ms(300));
        assert_eq!(pending.take(ms(500)), Some(Wish::Everybody));
        assert_eq!(pending.take(ms(800)), Some(Wish::Everybody));
        assert_eq!(pending.next(), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        Note(u8),
        NoteEverybody,
        /// The one who takes is busy until then, or not.
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u64..400).prop_map(Step::Pass),
            6 => (0_u8..6).prop_map(Step::Note),
            1 => Just(Step::NoteEverybody),
            4 => Just(Step::Take),
        ]
    }

    proptest! {
        /// Whatever comes when: each event is followed by a look that takes in its person, not before the delay; when
        /// the looks are taken as they fall due, not later than twice the delay; and nothing is looked at twice for
        /// one event.
        #[test]
        fn every_event_is_looked_into_after_the_delay_and_soon(
            steps in proptest::collection::vec(step(), 0..120), prompt in any::<bool>(),
        ) {
            let mut pending = Pending::new(DELAY, MOST);
            let mut now = Duration::ZERO;
            let mut events: Vec<(Option<String>, Duration)> = Vec::new();
            let mut looks: Vec<(Wish, Duration)> = Vec::new();
            let look = |pending: &mut Pending, now: Duration, looks: &mut Vec<(Wish, Duration)>| {
                if let Some(wish) = pending.take(now) {
                    looks.push((wish, now));
                }
            };
            for step in steps {
                match step {
                    Step::Pass(time) => {
                        let until = now + ms(time);
                        while prompt && let Some(next) = pending.next().filter(|next| *next <= until) {
                            now = now.max(next);
                            look(&mut pending, now, &mut looks);
                        }
                        now = until;
                    }
                    Step::Note(n) => {
                        let person = format!("#{n}");
                        events.push((Some(person.clone()), now));
                        pending.note(person, now);
                    }
                    Step::NoteEverybody => {
                        events.push((None, now));
                        pending.note_everybody(now);
                    }
                    Step::Take => look(&mut pending, now, &mut looks),
                }
                prop_assert!(pending.people.len() <= MOST);
                prop_assert!(pending.everybody.is_none() || pending.people.is_empty());
            }
            while let Some(next) = pending.next() {
                now = now.max(next);
                look(&mut pending, now, &mut looks);
            }
            for (person, at) in &events {
                let served = looks.iter().find(|(wish, when)| {
                    *when >= *at + DELAY
                        && match (wish, person) {
                            (Wish::Everybody, _) => true,
                            (Wish::People(people), Some(person)) => people.contains(person),
                            (Wish::People(_), None) => false,
                        }
                });
                let Some((_, when)) = served else { return Err(TestCaseError::fail("an event was lost")) };
                prop_assert!(!prompt || *when <= *at + 2 * DELAY, "{person:?} at {at:?} only at {when:?}");
            }
            prop_assert!(looks.len() <= events.len());
        }
    }
}
