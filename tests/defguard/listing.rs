//! The list of all people: how it is read, and what can be missing from it (`docs/facts/defguard.md` section 3).

use std::time::Duration;

use defguard_synapse_sync::{
    defguard::{Defguard, Options},
    domain::{Completeness, DefguardId, FailureClass, Listing, Lookup},
    ports::Directory,
};
use serde_json::{Value, json};

use super::{
    LIST, as_admin, assert_explained, client, http, name, options,
    support::defguard::{Fault, NewPerson, StandIn},
};

/// A server with the recorded people, and a client that reads once only.
async fn recorded() -> (StandIn, Defguard) {
    let server = StandIn::start().await;
    server.load_recorded();
    let defguard = reading(&server, 0);
    (server, defguard)
}

fn reading(server: &StandIn, relist: usize) -> Defguard {
    let options = Options { relist, ..options(server, as_admin()) };
    Defguard::new(options, http(), server.time()).unwrap()
}

fn has(listing: &Listing, id: i64) -> bool {
    listing.people().contains_key(&DefguardId(id))
}

/// Whoever is at this place of the heap, counting from 0.
fn at(server: &StandIn, place: usize) -> i64 {
    server.state().people.rows().nth(place).unwrap().id
}

#[track_caller]
fn reasons(listing: &Listing) -> String {
    match listing.completeness() {
        Completeness::Complete => panic!("the listing is complete"),
        Completeness::Incomplete(why) => why.join("; "),
    }
}

#[tokio::test]
async fn the_recorded_people_are_read_whole_and_true() {
    let (server, defguard) = recorded().await;
    let listing = defguard.list().await.unwrap();
    assert!(listing.is_complete());
    assert_eq!(listing.people().len(), 335);
    assert_eq!(server.count("GET", LIST), 4);
    let recorded = include_str!("../data/defguard/listing-335-people.json");
    let pages: Vec<Value> = serde_json::from_str(recorded).unwrap();
    for info in pages.iter().flat_map(|page| page["data"].as_array().unwrap()) {
        let person = &listing.people()[&DefguardId(info["id"].as_i64().unwrap())];
        let mut groups: Vec<&str> =
            info["groups"].as_array().unwrap().iter().map(|g| g.as_str().unwrap()).collect();
        groups.sort_unstable();
        let read = json!({
            "username": person.username.as_str(), "first_name": person.first_name, "last_name": person.last_name,
            "name": person.name, "email": person.email, "phone": person.phone, "is_active": person.is_active,
            "enrolled": person.enrolled, "is_admin": person.is_admin, "groups": person.groups,
        });
        for (key, value) in read.as_object().unwrap() {
            let expected = if key == "groups" { json!(groups) } else { info[key].clone() };
            assert_eq!(*value, expected, "{key} of {}", person.id);
        }
    }
}

#[tokio::test]
async fn the_first_page_comes_first_and_the_others_so_many_at_once() {
    for (page_workers, most) in [(0, 1), (2, 2), (4, 3)] {
        let server = StandIn::start().await;
        server.load_recorded();
        server.faults().add(Fault::delay(Duration::from_millis(100)).on(LIST));
        let options = Options { page_workers, ..options(&server, as_admin()) };
        let defguard = Defguard::new(options, http(), server.time()).unwrap();
        assert!(defguard.list().await.unwrap().is_complete());
        assert_eq!(server.most_at_once(), most);
        let requests = server.requests().into_iter().filter(|request| request.path == LIST);
        let queries: Vec<String> = requests.map(|request| request.query).collect();
        assert_eq!(queries.len(), 4);
        assert_eq!(queries[0], "page=1&per_page=100");
    }
}

#[tokio::test]
async fn one_deleted_and_one_created_while_paging_hides_a_third_and_every_count_agrees() {
    let (server, defguard) = recorded().await;
    let (leaver, hidden) = (at(&server, 10), at(&server, 100));
    server.faults().after_page(1, move |state| {
        state.delete(leaver).unwrap();
        state.create(NewPerson::named("newcomer")).unwrap();
    });
    let listing = defguard.list().await.unwrap();
    assert!(listing.is_complete(), "no count can notice it");
    assert_eq!(listing.people().len(), 335);
    assert!(!has(&listing, hidden), "nobody touched them, and they are missing");
    assert!(has(&listing, leaver), "they are gone, and listed");
    let again = defguard.list().await.unwrap();
    assert!(again.is_complete() && has(&again, hidden) && !has(&again, leaver));
}

#[tokio::test]
async fn a_person_written_while_paging_is_listed_twice_and_hides_another() {
    let (server, defguard) = recorded().await;
    let (written, hidden) = (at(&server, 10), at(&server, 100));
    server.faults().after_page(1, move |state| state.update(written, |_| {}).unwrap());
    let listing = defguard.list().await.unwrap();
    assert!(reasons(&listing).contains("1 people were listed twice"));
    assert!(has(&listing, written) && !has(&listing, hidden));
    assert_eq!(listing.people().len(), 334);
}

#[tokio::test]
async fn an_incomplete_listing_is_read_again_until_it_is_complete() {
    let server = StandIn::start().await;
    server.load_recorded();
    let defguard = reading(&server, 3);
    for _ in 0..2 {
        server.faults().after_page(1, |state| {
            let id = state.people.rows().nth(10).unwrap().id;
            state.update(id, |_| {}).unwrap();
        });
    }
    let listing = defguard.list().await.unwrap();
    assert!(listing.is_complete());
    assert_eq!(listing.people().len(), 335);
    assert_eq!(server.count("GET", LIST), 3 * 4);
}

#[tokio::test]
async fn a_person_renamed_into_an_earlier_page_is_missing_and_their_old_name_is_a_real_404() {
    let (server, defguard) = recorded().await;
    for _ in 0..12 {
        let early = at(&server, 20);
        server.delete(early);
    }
    server.state().people.vacuum();
    let renamed = at(&server, 300);
    let old = server.state().people.get(renamed).unwrap().username.clone();
    server.faults().after_page(1, move |state| {
        state.update(renamed, |row| row.username = "married".to_owned()).unwrap();
    });
    let listing = defguard.list().await.unwrap();
    assert!(reasons(&listing).contains("listed twice"));
    assert!(!has(&listing, renamed));
    assert_eq!(defguard.find(&name(&old)).await, Lookup::Absent);
    assert_eq!(defguard.find(&name("married")).await.found().unwrap().id.0, renamed);
}

#[tokio::test]
async fn somebody_deleted_while_paging_moves_the_count() {
    let (server, defguard) = recorded().await;
    let (leaver, hidden) = (at(&server, 10), at(&server, 100));
    server.faults().after_page(1, move |state| state.delete(leaver).unwrap());
    let listing = defguard.list().await.unwrap();
    assert!(reasons(&listing).contains("moved from 335 to 334"));
    assert!(!has(&listing, hidden));
}

#[tokio::test]
async fn a_page_that_appears_while_reading_is_read_too() {
    let server = StandIn::start().await;
    for number in 0..199 {
        server.add_person(NewPerson::named(&format!("user{number:03}")));
    }
    server.faults().after_page(1, |state| {
        state.create(NewPerson::named("late")).unwrap();
    });
    let listing = reading(&server, 0).list().await.unwrap();
    assert_eq!(listing.people().len(), 201);
    assert!(reasons(&listing).contains("moved from 200 to 201"));
    assert!(reading(&server, 0).list().await.unwrap().is_complete());
}

#[tokio::test]
async fn wrong_totals_make_a_listing_incomplete_however_often_it_is_read() {
    let server = StandIn::start().await;
    server.load_recorded();
    server.faults().add(Fault::wrong_total(400));
    let listing = reading(&server, 2).list().await.unwrap();
    assert!(reasons(&listing).contains("400 people were announced and 335 were listed"));
    assert_eq!(listing.people().len(), 335);
    assert_eq!(server.count("GET", LIST), 3 * 4);
}

#[tokio::test]
async fn of_incomplete_listings_the_fullest_is_given_out() {
    let server = StandIn::start().await;
    server.load_recorded();
    server.faults().add(Fault::wrong_total(400));
    // The second of three readings lacks a page's people.
    server.faults().add(Fault::edit(|body| body["data"] = json!([])).on(LIST).page(4).after(1).times(1));
    let listing = reading(&server, 2).list().await.unwrap();
    assert_eq!(listing.people().len(), 335);
}

#[tokio::test]
async fn an_incomplete_listing_is_given_out_when_it_cannot_be_read_again() {
    let server = StandIn::start().await;
    server.load_recorded();
    // Of faults that fit, the first counts; so the totals are wrong until the connection is cut.
    server.faults().add(Fault::cut().on(LIST).page(1).after(1));
    server.faults().add(Fault::wrong_total(400));
    let listing = reading(&server, 3).list().await.unwrap();
    assert!(reasons(&listing).contains("400 people were announced"));
    assert_eq!(listing.people().len(), 335);
}

#[tokio::test]
async fn an_entry_that_is_no_person_spoils_neither_the_page_nor_the_time() {
    let server = StandIn::start().await;
    server.load_recorded();
    server.faults().add(Fault::edit(|body| body["data"][7]["email"] = json!(null)).on(LIST).page(2));
    let listing = reading(&server, 3).list().await.unwrap();
    assert_eq!(reasons(&listing), "1 entries could not be read as a person");
    assert_eq!(listing.people().len(), 334);
    assert_eq!(server.count("GET", LIST), 4, "reading again would not mend it");
}

#[tokio::test]
async fn a_list_of_nobody_is_no_list_since_whoever_asks_is_somebody() {
    let (server, defguard) = recorded().await;
    server.faults().add(Fault::everyone_gone());
    let listing = defguard.list().await.unwrap();
    assert!(reasons(&listing).contains("nobody is in it, not even whoever asks"), "{listing:?}");
    assert!(!listing.is_complete());
}

#[tokio::test]
async fn more_pages_than_there_can_be_are_refused_and_too_many_are_not_all_asked_for() {
    let server = StandIn::start().await;
    server.load_recorded();
    let defguard = reading(&server, 0);
    let pages =
        |count: u64| Fault::edit(move |body| body["pagination"]["total_pages"] = json!(count)).on(LIST);
    server.faults().add(pages(u64::MAX));
    let failure = defguard.list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Malformed, "pages are announced", "2.x");

    server.faults().clear();
    server.forget_requests();
    server.faults().add(pages(90_000));
    let listing = defguard.list().await.unwrap();
    assert!(reasons(&listing).contains("90000 pages were announced and 5 were read"));
    assert_eq!(listing.people().len(), 335);
    // The four pages, the empty one, and those that were under way with it.
    assert!(server.count("GET", LIST) <= 5 + 4);
}

#[tokio::test]
async fn a_page_other_than_the_one_asked_for_is_refused() {
    let (server, defguard) = recorded().await;
    server.faults().add(Fault::edit(|body| body["pagination"]["current_page"] = json!(1)).on(LIST));
    let failure = defguard.list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Malformed, "and page 1 came", "cache");
}

#[tokio::test]
async fn an_address_with_a_path_of_its_own_is_kept() {
    let server = StandIn::start().await;
    let url = server.url().join("/defguard/").unwrap();
    let defguard = Defguard::new(Options::new(url, as_admin()), http(), server.time()).unwrap();
    // There is nothing there, which is enough to see where the login went.
    defguard.list().await.unwrap_err();
    assert_eq!(server.requests()[0].path, "/defguard/api/v1/auth");
    client(&server, as_admin()).list().await.unwrap();
}
