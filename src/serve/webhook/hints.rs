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

/// How many delays a burst may put off the look at everybody.
const LONGEST_BURST: u32 = 10;

/// The people who were named and whose moment has not come yet.
#[derive(Debug)]
pub struct Pending {
    delay: Duration,
    most: usize,
    people: BTreeMap<String, Asked>,
    everybody: Option<Asked>,
    /// When something was last given out.
    taken: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    /// When the first event asked for it.
    first: Duration,
    /// When the last one did.
    last: Duration,
}

impl Asked {
    /// What is left after a look: an event that came less than the delay before it asks for one more.
    fn after_look(self, now: Duration, delay: Duration) -> Option<Self> {
        (self.last + delay > now).then_some(Self { first: self.last, last: self.last })
    }
}

impl Pending {
    /// Each event is looked into after `delay`, one look is at least that long after the other, and more than `most`
    /// people at once become everybody, who is looked at when the burst is over.
    pub fn new(delay: Duration, most: usize) -> Self {
        Self { delay, most, people: BTreeMap::new(), everybody: None, taken: None }
    }

    /// An event named a person.
    pub fn note(&mut self, person: String, now: Duration) {
        if let Some(everybody) = &mut self.everybody {
            everybody.last = now;
            return;
        }
        let asked = Asked { first: now, last: now };
        self.people.entry(person).and_modify(|asked| asked.last = now).or_insert(asked);
        if self.people.len() > self.most {
            self.note_everybody(now);
        }
    }

    /// An event was about somebody unknown.
    pub fn note_everybody(&mut self, now: Duration) {
        let waiting = self.people.values().chain(&self.everybody).map(|asked| asked.first).min();
        self.everybody = Some(Asked { first: waiting.unwrap_or(now), last: now });
        self.people.clear();
    }

    /// When [`Pending::take`] will have something; `None` if nothing is waiting.
    pub fn next(&self) -> Option<Duration> {
        let people = self.people.values().map(|asked| asked.first + self.delay);
        let due = people.chain(self.everybody.map(|asked| self.quiet(asked))).min()?;
        Some(self.taken.map_or(due, |taken| due.max(taken + self.delay)))
    }

    /// When a burst is over: nothing came for the delay, or it lasts too long.
    fn quiet(&self, asked: Asked) -> Duration {
        (asked.last + self.delay).min(asked.first + self.delay * LONGEST_BURST)
    }

    /// Takes out what is due.
    pub fn take(&mut self, now: Duration) -> Option<Wish> {
        self.next().filter(|next| *next <= now)?;
        self.taken = Some(now);
        if let Some(asked) = self.everybody {
            self.everybody = asked.after_look(now, self.delay);
            return Some(Wish::Everybody);
        }
        let mut due = BTreeSet::new();
        for (person, asked) in std::mem::take(&mut self.people) {
            if asked.first + self.delay > now {
                self.people.insert(person, asked);
                continue;
            }
            if let Some(again) = asked.after_look(now, self.delay) {
                self.people.insert(person.clone(), again);
            }
            due.insert(person);
        }
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
        assert_eq!(pending.next(), Some(ms(1_000)));
        assert_eq!(pending.take(ms(1_000)), people(&["#1"]));
        assert_eq!(pending.next(), None);
    }

    #[test]
    fn a_look_that_comes_late_serves_everything_before_it() {
        let mut pending = noted(&[("#1", 0), ("#2", 300), ("#1", 400)]);
        assert_eq!(pending.take(ms(3_000)), people(&["#1", "#2"]));
        assert_eq!(pending.next(), None);
    }

    #[test]
    fn of_a_stream_of_events_several_are_looked_at_together() {
        let mut pending = noted(&[("#1", 0), ("#2", 200), ("#3", 400)]);
        assert_eq!(pending.take(ms(500)), people(&["#1"]));
        assert_eq!(pending.next(), Some(ms(1_000)));
        assert_eq!(pending.take(ms(1_000)), people(&["#2", "#3"]));
        // After a pause the next one waits for nothing but its own delay.
        pending.note("#4".to_owned(), ms(5_000));
        assert_eq!(pending.next(), Some(ms(5_500)));
    }

    #[test]
    fn a_burst_becomes_one_look_at_everybody_when_it_is_over() {
        let mut pending = noted(&[("#1", 0), ("#2", 10), ("#3", 20), ("#4", 30), ("#5", 40)]);
        for n in 0..20 {
            pending.note(format!("#{n}"), ms(100 + n));
        }
        assert_eq!(pending.next(), Some(ms(619)));
        assert_eq!(pending.take(ms(618)), None);
        assert_eq!(pending.take(ms(619)), Some(Wish::Everybody));
        assert_eq!(pending.next(), None);
        pending.note("#1".to_owned(), ms(2_000));
        assert_eq!(pending.take(ms(2_500)), people(&["#1"]));
    }

    #[test]
    fn a_burst_without_end_is_looked_into_all_the_same() {
        let mut pending = noted(&[]);
        let mut looks = Vec::new();
        for at in (0..10_100).step_by(50) {
            pending.note(format!("#{at}"), ms(at));
            if pending.take(ms(at)).is_some() {
                looks.push(at);
            }
        }
        assert_eq!(looks, [5_000, 10_000]);
    }

    #[test]
    fn an_event_about_somebody_unknown_asks_for_everybody_in_the_place_of_the_others() {
        let mut pending = noted(&[("#1", 0)]);
        pending.note_everybody(ms(300));
        assert_eq!(pending.take(ms(799)), None);
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
        /// Whatever comes when: each event is followed by a look that takes in its person, not before the delay; two
        /// looks are never nearer than the delay; when they are taken as they fall due, none is later than three
        /// times the delay, or than the longest burst; and nobody is looked at without an event.
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
            let burst = looks.iter().any(|(wish, _)| *wish == Wish::Everybody);
            let latest = DELAY * if burst { LONGEST_BURST + 2 } else { 3 };
            prop_assert!(looks.is_sorted_by(|(_, before), (_, after)| *before + DELAY <= *after));
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
                prop_assert!(!prompt || *when <= *at + latest, "{person:?} at {at:?} only at {when:?}");
            }
            prop_assert!(looks.len() <= events.len());
        }
    }
}
