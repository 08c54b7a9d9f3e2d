//! One person by their username.

use defguard_synapse_sync::{
    domain::{FailureClass, Lookup},
    ports::Directory,
};

use super::{
    as_admin, assert_explained, client, name,
    support::defguard::{Fault, NewPerson, StandIn},
    unknown,
};

#[tokio::test]
async fn a_person_is_found_as_the_list_shows_them() {
    let server = StandIn::start().await;
    server.load_recorded();
    let defguard = client(&server, as_admin());
    let listing = defguard.list().await.unwrap();
    for username in ["user001", "user000", "UpperCase20", "uppercase20"] {
        let found = defguard.find(&name(username)).await;
        let person = found.found().unwrap();
        assert_eq!(listing.people().get(&person.id), Some(person));
    }
}

#[tokio::test]
async fn absent_is_only_who_defguard_itself_does_not_know() {
    let server = StandIn::start().await;
    let id = server.add_person(NewPerson::named("alice"));
    let defguard = client(&server, as_admin());
    assert_eq!(defguard.find(&name("bob")).await, Lookup::Absent);
    assert_eq!(defguard.find(&name("Alice")).await, Lookup::Absent);
    assert!(defguard.find(&name("alice")).await.found().is_some());
    server.rename(id, "alice-married");
    assert_eq!(defguard.find(&name("alice")).await, Lookup::Absent);
    assert_eq!(defguard.find(&name("alice-married")).await.found().unwrap().id.0, id);
}

#[tokio::test]
async fn usernames_that_the_api_hides_are_unknown_and_explained() {
    let server = StandIn::start().await;
    let defguard = client(&server, as_admin());
    for hidden in ["available", "change_password"] {
        server.add_person(NewPerson::named(hidden));
        let failure = unknown(defguard.find(&name(hidden)).await);
        assert_explained(&failure, FailureClass::Permanent, "status 405", "renamed");
    }
    assert_eq!(defguard.list().await.unwrap().people().len(), 3);
}

#[tokio::test]
async fn a_username_cannot_lead_a_look_up_astray() {
    let server = StandIn::start().await;
    server.add_person(NewPerson::named("alice"));
    let defguard = client(&server, as_admin());
    for strange in
        ["", ".", "..", "alice/", "../user/alice", "alice?x", "alice#x", "al\tice", "%61lice", "ü", "a b"]
    {
        let found = defguard.find(&name(strange)).await;
        assert!(found.found().is_none(), "{strange:?}: {found:?}");
    }
    // What is encoded properly is really asked for.
    assert_eq!(defguard.find(&name("alice/")).await, Lookup::Absent);
    assert!(matches!(defguard.find(&name("..")).await, Lookup::Unknown(_)));
}

#[tokio::test]
async fn somebody_else_in_the_answer_is_not_taken_for_the_one_asked_for() {
    let server = StandIn::start().await;
    server.add_person(NewPerson::named("alice"));
    server.faults().add(Fault::edit(|body| body["user"]["username"] = "bob".into()).on("/api/v1/user/alice"));
    let failure = unknown(client(&server, as_admin()).find(&name("alice")).await);
    assert_explained(&failure, FailureClass::Malformed, "somebody else", "cache");
}
