//! The table of people as Postgres keeps it: an UPDATE never changes a row in place, it writes a new version
//! somewhere else, and a listing without ORDER BY shows rows in the order of the heap.
//!
//! Simplified: one slot holds one row version of whatever length; a dead version becomes free only when the table is
//! vacuumed; a new version takes the first free slot, or the end. (In real pages there are also HOT updates and pruning,
//! so a real PUT moves its row across a page border in about one of ten tries; here it always moves.)

use super::person::Row;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Heap {
    slots: Vec<Slot>,
}

#[derive(Debug, Clone)]
enum Slot {
    Live(Box<Row>),
    Dead,
    Free,
}

impl Heap {
    /// The rows in the order in which a listing shows them.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Live(row) => Some(&**row),
            Slot::Dead | Slot::Free => None,
        })
    }

    pub fn len(&self) -> usize {
        self.rows().count()
    }

    pub fn get(&self, id: i64) -> Option<&Row> {
        self.rows().find(|row| row.id == id)
    }

    pub fn named(&self, username: &str) -> Option<&Row> {
        self.rows().find(|row| row.username == username)
    }

    pub fn insert(&mut self, row: Row) {
        match self.slots.iter_mut().find(|slot| matches!(slot, Slot::Free)) {
            Some(slot) => *slot = Slot::Live(Box::new(row)),
            None => self.slots.push(Slot::Live(Box::new(row))),
        }
    }

    /// Writes a new version of a row.
    pub fn update(&mut self, id: i64, change: impl FnOnce(&mut Row)) -> bool {
        let Some(mut row) = self.get(id).cloned() else { return false };
        change(&mut row);
        let old = self.position(id);
        self.insert(row);
        self.kill(old);
        true
    }

    pub fn delete(&mut self, id: i64) -> bool {
        let old = self.position(id);
        self.kill(old);
        old.is_some()
    }

    /// Makes the places of dead versions usable again, and gives back those at the end.
    pub fn vacuum(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Dead) {
                *slot = Slot::Free;
            }
        }
        while matches!(self.slots.last(), Some(Slot::Free)) {
            self.slots.pop();
        }
    }

    fn position(&self, id: i64) -> Option<usize> {
        self.slots.iter().position(|slot| matches!(slot, Slot::Live(row) if row.id == id))
    }

    /// Postgres vacuums by itself after 50 dead rows plus a fifth of the live ones (its defaults), some time later;
    /// here at once.
    fn kill(&mut self, position: Option<usize>) {
        if let Some(position) = position {
            self.slots[position] = Slot::Dead;
        }
        let dead = self.slots.iter().filter(|slot| matches!(slot, Slot::Dead)).count();
        if dead > 50 + self.len() / 5 {
            self.vacuum();
        }
    }
}
