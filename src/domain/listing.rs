//! The list of all people, and how far it can be trusted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DefguardId, Person};

/// Whether a listing can prove that somebody is *not* there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Completeness {
    /// Every page had the right shape, the ids are distinct, the counts agree and did not move.
    Complete,
    /// People may be missing; why.
    Incomplete(Vec<String>),
}

/// One page of the list with what the server said about the whole.
#[derive(Debug, Clone)]
pub struct Page {
    /// The people on it.
    pub people: Vec<Person>,
    /// How many entries could not be read as a person.
    pub malformed: usize,
    /// How many people there are, by the server's own count.
    pub total_items: u64,
    /// How many pages there are.
    pub total_pages: u64,
}

/// The people in Defguard as one reading of all pages showed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    people: BTreeMap<DefguardId, Person>,
    completeness: Completeness,
}

impl Listing {
    /// Puts the pages of one reading together and judges them. A person shown twice with the same content counts
    /// once; one shown twice with different content is left out, since it cannot be said which one is true.
    ///
    /// Even a listing that is found complete here can lack somebody (`docs/facts/defguard.md` section 3): absence needs
    /// more proof than one of them.
    pub fn assemble(pages: Vec<Page>) -> Self {
        let mut why = Vec::new();
        let total = pages.first().map_or(0, |page| page.total_items);
        if pages.is_empty() {
            why.push("no page was read".to_owned());
        }
        if let Some(moved) = pages.iter().find(|page| page.total_items != total) {
            why.push(format!(
                "the number of people moved from {total} to {} while reading",
                moved.total_items
            ));
        }
        if let Some(first) = pages.first()
            && first.total_pages.max(1) != pages.len() as u64
        {
            why.push(format!("{} pages were announced and {} were read", first.total_pages, pages.len()));
        }
        let malformed: usize = pages.iter().map(|page| page.malformed).sum();
        if malformed > 0 {
            why.push(format!("{malformed} entries could not be read as a person"));
        }
        let rows: usize = pages.iter().map(|page| page.people.len() + page.malformed).sum();
        if rows as u64 != total {
            why.push(format!("{total} people were announced and {rows} were listed"));
        }

        let mut people: BTreeMap<DefguardId, Person> = BTreeMap::new();
        let mut contradictions = Vec::new();
        let mut twice = 0_usize;
        for person in pages.into_iter().flat_map(|page| page.people) {
            match people.get(&person.id) {
                None => {
                    people.insert(person.id, person);
                }
                Some(other) => {
                    twice += 1;
                    if *other != person {
                        contradictions.push(person.id);
                    }
                }
            }
        }
        for id in contradictions {
            people.remove(&id);
        }
        if twice > 0 {
            why.push(format!("{twice} people were listed twice, so others may have been passed over"));
        }
        if people.is_empty() {
            why.push("nobody is in it, not even whoever asks".to_owned());
        }
        let completeness =
            if why.is_empty() { Completeness::Complete } else { Completeness::Incomplete(why) };
        Self { people, completeness }
    }

    /// The people, by id.
    pub fn people(&self) -> &BTreeMap<DefguardId, Person> {
        &self.people
    }

    /// How far the listing can be trusted.
    pub fn completeness(&self) -> &Completeness {
        &self.completeness
    }

    /// Whether the listing was found complete.
    pub fn is_complete(&self) -> bool {
        self.completeness == Completeness::Complete
    }
}
