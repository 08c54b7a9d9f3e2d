//! The last look before an account is taken out of use: whoever comes back at that moment keeps it.

use super::{Engine, gather::Gathered, write::Undone};
use crate::domain::{DefguardId, FailureClass, Leaving, Listing, Lookup, Person, Username};

impl Engine {
    /// Whether a person is still leaving, asked right before the write. What was planned does not count any more.
    pub(super) async fn still_leaving(
        &self,
        seen: &Gathered,
        id: DefguardId,
        why: Leaving,
    ) -> Result<(), Undone> {
        let changed = |why: &str| Err(Undone::Changed(format!("#{id} {why}")));
        let listed = seen.listing.people().get(&id).map(|person| &person.username);
        let linked = seen.links.get(&id).map(|link| &link.username);
        let Some(username) = listed.or(linked) else { return changed("is not known any more") };
        // The list first, since it takes longest, and what is asked last is what counts.
        if why == Leaving::Gone {
            let list = self.second_look(seen).await?;
            if list.people().contains_key(&id) {
                return changed("is in the list of people again");
            }
            if !list.is_complete() {
                return changed(
                    "may be gone, but the list of people was incomplete when it was read once more",
                );
            }
        }
        if !self.is_still_ours(seen).await? {
            return Err(Undone::Changed("another daemon works on this homeserver by now".to_owned()));
        }
        let now = self.look_up(id, username).await;
        let now = match now {
            Lookup::Unknown(failure) => return Err(failure.into()),
            Lookup::Found(person) => Some(person).filter(|person| person.id == id),
            Lookup::Absent => None,
        };
        let still = match (why, &now) {
            (Leaving::Disabled, Some(person)) => !person.is_active,
            (Leaving::OutOfScope, Some(person)) => seen.rules.scope.leaves_out_by_group(person),
            (Leaving::Gone, None) => true,
            (Leaving::Gone, Some(_)) | (_, None) => false,
        };
        if still { Ok(()) } else { changed("was changed in Defguard while this run was going on") }
    }

    /// One person by name; by a new list if the name cannot be looked up (`docs/facts/defguard.md` section 4).
    pub(super) async fn look_up(&self, id: DefguardId, username: &Username) -> Lookup<Person> {
        match self.directory.find(username).await {
            Lookup::Unknown(failure) if failure.class == FailureClass::Permanent => self.listed(id).await,
            lookup => lookup,
        }
    }

    /// The list of people read once more in this run, after the decision.
    async fn second_look<'a>(&self, seen: &'a Gathered) -> Result<&'a Listing, Undone> {
        let list = seen.second_look.get_or_init(|| self.directory.list()).await;
        list.as_ref().map_err(|failure| Undone::Failed(failure.clone()))
    }
}
