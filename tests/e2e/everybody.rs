//! The 335 recorded people.

use defguard_synapse_sync::domain::Change;
use serde_json::Value;

use crate::{
    conflicts::open,
    ground::{Ground, State, account_at, conflicts, of},
    support::{
        defguard::Fault,
        synapse::{Options, Synapse},
    },
};

const PEOPLE: usize = 335;

/// A Synapse for all of them at once.
async fn crowd(server_name: &str) -> &'static Synapse {
    let options = Options { server_name: server_name.to_owned(), ..Options::default() };
    Box::leak(Box::new(Synapse::start(options).await.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_recorded_people_get_accounts_or_a_reason_and_one_changed_person_costs_one_look() {
    let ground = Ground::on(crowd("crowd.test").await, "crowd").await;
    ground.defguard.load_recorded();
    let report = ground.sync().await;
    assert_eq!(report.people.len(), PEOPLE);
    let created = report.people.iter().filter(|person| person.done == [Change::Created]);
    for person in created.clone() {
        let localpart = person.mxid.as_ref().unwrap().localpart();
        let account = account_at(ground.synapse, localpart).await.unwrap();
        assert!(account.ids.contains(&format!("oidc-Defguard:{}", person.username)), "{account:?}");
        assert!(account.ids.contains(&ground.marker(person.id.0)), "{account:?}");
        let address = ground.defguard.state().people.get(person.id.0).unwrap().email.clone();
        assert!(account.name.is_some(), "{account:?}");
        assert!(account.emails.len() == 1 || address.is_empty() || !person.notes.is_empty(), "{account:?}");
    }
    let created = created.count();
    for person in report.people.iter().filter(|person| person.done.is_empty()) {
        let explained =
            !person.conflicts.is_empty() || !person.notes.is_empty() || person.state == State::Disabled;
        assert!(explained, "{person:?}");
    }
    assert!(created > 300, "{created}");
    ground.nothing_to_do().await;

    // One of them changes.
    let id = ground.defguard.id_of("user005");
    ground.set_first_name(id, "Changed");
    ground.proxy.clear();
    let report = ground.sync().await;
    assert_eq!(of(&report, id).state, State::Update);
    let about = ground.proxy.single_person_requests();
    assert!(about.len() <= 2, "{about:#?}");
    assert_eq!(ground.proxy.writes().len(), 1);

    // People move between the pages while they are read, in every reading: nobody is created, no login moves.
    ground.defguard.rename(ground.defguard.id_of("user030"), "renamed030");
    for reading in 0..8 {
        let mover = ground.defguard.id_of(&format!("user01{reading}"));
        ground.defguard.faults().after_page(1, move |state| {
            state.update(mover, |row| row.last_name = format!("Moved{reading}")).unwrap();
        });
    }
    ground.proxy.clear();
    let ended = ground.program(&["sync"]).await.with_code(5);
    assert!(ended.out.contains("incomplete"), "{}", ended.out);
    let harmful = |body: &Value| body.get("external_ids").is_some();
    assert!(!ground.proxy.writes().iter().any(|seen| harmful(&seen.body)), "{}", ended.out);
    ground.defguard.faults().clear();
    ground.sync().await;
    ground.nothing_to_do().await;

    // And all of them at once in the hands of somebody who says that there is nobody.
    ground.defguard.faults().add(Fault::everyone_gone());
    ground.proxy.clear();
    ground.program(&["sync"]).await.with_code(4);
    assert!(ground.proxy.writes().is_empty());
    ground.defguard.faults().clear();
    // The whole state is lost: every link is found again, with nothing written.
    std::fs::remove_dir_all(ground.path("state")).unwrap();
    ground.proxy.clear();
    ground.program(&["sync"]).await.with_code(4);
    let relinked = ground.journal().iter().filter(|entry| entry.change == Change::Relinked).count();
    assert_eq!(relinked, created);
    ground.program(&["state", "rebuild"]).await.with_code(0);
    assert!(ground.proxy.writes().is_empty());
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_whose_usernames_differ_in_case_only_are_told_apart_or_told_so() {
    let synapse = open().await;
    let ground = Ground::on(synapse, "casecrowd").await;
    let mut ground = ground.with("templates.localpart_template", "\"{{ user.sub | lower }}\"");
    // Only these of the recorded people, since other tests use this Synapse, too.
    ground.set("scope.exclude_users", "[\"user*\", \"admin\"]");
    ground.defguard.load_recorded();
    let report = ground.sync().await;
    let (upper, lower) = (ground.defguard.id_of("UpperCase20"), ground.defguard.id_of("uppercase20"));
    for id in [upper, lower] {
        assert_eq!(conflicts(&report, id), ["localpart_twins"]);
    }
    assert_eq!(account_at(synapse, "uppercase20").await, None);
    ground.nothing_to_do().await;
    for (who, other) in [("UpperCase20", lower), ("uppercase20", upper)] {
        let shown = ground.program(&["explain", who]).await.with_code(0).out;
        assert!(shown.contains(&format!("#{other}")) && shown.contains("rename one of them"), "{shown}");
    }
    ground.set("accounts.on_conflict", "\"suffix\"");
    ground.sync().await;
    let mut localparts = Vec::new();
    for (who, id) in [("UpperCase20", upper), ("uppercase20", lower)] {
        let localpart = ground.holder("oidc-Defguard", who).await.unwrap();
        assert!(account_at(synapse, &localpart).await.unwrap().ids.contains(&ground.marker(id)));
        localparts.push(localpart);
    }
    localparts.sort();
    assert_eq!(localparts, ["uppercase20", "uppercase201"]);
    ground.nothing_to_do().await;
}
