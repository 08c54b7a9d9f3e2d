//! In which order external ids and e-mail addresses change hands.
//!
//! Synapse refuses an external id that another account lists (409), and moves an e-mail address without a word. So the
//! old holder gives up first; where everybody waits for somebody else, one drops first and gets its own later.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Holdings;
use crate::domain::{DefguardId, Email, ExternalId, Mxid};

/// One account of a group with what it gives up and what it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hands {
    pub(super) id: DefguardId,
    pub(super) mxid: Mxid,
    /// Not there yet: it gets all its things at its creation.
    pub(super) new: bool,
    pub(super) gains: Things,
    pub(super) drops: Things,
}

/// External ids and e-mail addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Things {
    pub(super) ids: BTreeSet<ExternalId>,
    pub(super) emails: BTreeSet<Email>,
}

impl Things {
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.emails.is_empty()
    }

    fn is_disjoint(&self, other: &Self) -> bool {
        self.ids.is_disjoint(&other.ids) && self.emails.is_disjoint(&other.emails)
    }

    fn common(&self, other: &Self) -> Self {
        Self { ids: &self.ids & &other.ids, emails: &self.emails & &other.emails }
    }

    fn without(&self, other: &Self) -> Self {
        Self { ids: &self.ids - &other.ids, emails: &self.emails - &other.emails }
    }

    fn extend(&mut self, other: &Self) {
        self.ids.extend(other.ids.iter().cloned());
        self.emails.extend(other.emails.iter().cloned());
    }
}

/// One write in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) id: DefguardId,
    pub(super) mxid: Mxid,
    pub(super) new: bool,
    pub(super) change: Holdings,
}

/// Orders the writes of one group so that nothing is ever listed twice and everything ends where it belongs.
pub(super) fn sequence(hands: &[Hands]) -> Vec<Turn> {
    let mut wanted = Things::default();
    for hand in hands {
        wanted.extend(&hand.gains);
    }
    let mut waiting: BTreeMap<usize, Hands> = hands
        .iter()
        .filter(|hand| hand.new || !hand.gains.is_empty() || !hand.drops.is_empty())
        .cloned()
        .enumerate()
        .collect();
    let mut turns = Vec::new();
    while !waiting.is_empty() {
        let ready = waiting.iter().find_map(|(&at, hand)| {
            let free =
                waiting.iter().all(|(&other, holder)| other == at || holder.drops.is_disjoint(&hand.gains));
            free.then_some(at)
        });
        if let Some(hand) = ready.and_then(|at| waiting.remove(&at)) {
            turns.push(turn(&hand, &hand.gains, &hand.drops, &wanted));
            continue;
        }
        // A cycle: somebody drops first what the others wait for.
        let Some(hand) = waiting.values_mut().find(|hand| !hand.drops.is_disjoint(&wanted)) else { break };
        let first = hand.drops.common(&wanted);
        hand.drops = hand.drops.without(&first);
        turns.push(turn(hand, &Things::default(), &first, &wanted));
    }
    turns
}

fn turn(hand: &Hands, gains: &Things, drops: &Things, wanted: &Things) -> Turn {
    Turn {
        id: hand.id,
        mxid: hand.mxid.clone(),
        new: hand.new,
        change: Holdings {
            add_ids: gains.ids.clone(),
            drop_ids: &drops.ids & &wanted.ids,
            wash_ids: &drops.ids - &wanted.ids,
            add_emails: gains.emails.clone(),
            drop_emails: drops.emails.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::ServerName;

    fn id(n: usize) -> ExternalId {
        ExternalId { auth_provider: "oidc-Defguard".to_owned(), external_id: format!("s{n}") }
    }

    fn mxid(n: usize) -> Mxid {
        Mxid::parse(&format!("@u{n}:example.org"), &ServerName::try_from("example.org").unwrap()).unwrap()
    }

    /// Account n holds subject n now and gets subject `to[n]`.
    fn permutation(to: &[usize]) -> Vec<Hands> {
        (0..to.len())
            .map(|n| {
                let (gains, drops) = if to[n] == n { (None, None) } else { (Some(id(to[n])), Some(id(n))) };
                Hands {
                    id: DefguardId(n as i64),
                    mxid: mxid(n),
                    new: false,
                    gains: Things { ids: gains.into_iter().collect(), ..Things::default() },
                    drops: Things { ids: drops.into_iter().collect(), ..Things::default() },
                }
            })
            .collect()
    }

    /// Plays the turns as Synapse would and gives who holds what in the end.
    fn play(count: usize, turns: &[Turn]) -> BTreeMap<ExternalId, Mxid> {
        let mut held: BTreeMap<ExternalId, Mxid> = (0..count).map(|n| (id(n), mxid(n))).collect();
        for turn in turns {
            for id in turn.change.drop_ids.iter().chain(&turn.change.wash_ids) {
                assert_eq!(held.remove(id).as_ref(), Some(&turn.mxid), "drops only what it holds");
            }
            for id in &turn.change.add_ids {
                assert!(
                    held.insert(id.clone(), turn.mxid.clone()).is_none(),
                    "{id} would be refused with 409"
                );
            }
        }
        held
    }

    #[test]
    fn two_people_who_swap_need_three_writes() {
        let turns = sequence(&permutation(&[1, 0]));
        assert_eq!(turns.len(), 3);
        assert_eq!(play(2, &turns)[&id(0)], mxid(1));
        assert!(turns.iter().all(|turn| turn.change.wash_ids.is_empty()));
    }

    #[test]
    fn a_name_that_nobody_takes_is_washed() {
        let mut hands = permutation(&[0]);
        hands[0].gains.ids.insert(id(9));
        hands[0].drops.ids.insert(id(0));
        let turns = sequence(&hands);
        assert_eq!(turns.len(), 1);
        assert_eq!(turns[0].change.wash_ids, BTreeSet::from([id(0)]));
    }

    proptest! {
        #[test]
        fn any_permutation_ends_where_it_belongs(to in (1_usize..7).prop_flat_map(|n| Just((0..n).collect::<Vec<_>>()).prop_shuffle())) {
            let turns = sequence(&permutation(&to));
            let held = play(to.len(), &turns);
            for (n, target) in to.iter().enumerate() {
                prop_assert_eq!(&held[&id(*target)], &mxid(n));
            }
        }
    }
}
