//! A Defguard that misbehaves: nothing is changed that should not be, and what is wrong is said.

use std::time::Duration;

use serde_json::json;

use crate::{
    faults::several,
    ground::{Ground, State, accounts_of, of, set},
    process::Ended,
    support::defguard::Fault,
};

/// Three people with accounts; then one is renamed, one gets another display name and one is new.
async fn prepared(name: &str) -> (Ground, [i64; 4]) {
    let ground = Ground::new(name).await;
    let [renamed, changed, still] = ["renamed", "changed", "still"].map(|who| ground.add(who));
    ground.sync().await;
    ground.rename(renamed, "othername");
    ground.set_first_name(changed, "Changed");
    let new = ground.add("new");
    (ground, [renamed, changed, still, new])
}

/// With this fault the program ends with exit code 5, says these words, and writes nothing; without it all is done.
async fn nothing_happens(
    name: &str,
    fault: impl FnOnce(&mut Ground),
    mend: impl FnOnce(&mut Ground),
    words: &[&str],
) {
    let (mut ground, _) = prepared(name).await;
    let before = accounts_of(&ground).await;
    fault(&mut ground);
    ground.proxy.clear();
    let ended = ground.program(&["sync"]).await;
    says(name, &ended, words);
    assert_eq!(ground.writes(), [""; 0], "{name}");
    assert_eq!(accounts_of(&ground).await, before, "{name}");
    mend(&mut ground);
    ground.defguard.faults().clear();
    all_is_done(&ground).await;
}

/// The list is incomplete: nobody is created and no login moves, but a name may be written.
async fn only_harmless_things_happen(name: &str, fault: Fault, words: &[&str]) {
    let (ground, [renamed, ..]) = prepared(name).await;
    ground.defguard.faults().add(fault);
    ground.proxy.clear();
    let ended = ground.program(&["sync"]).await;
    says(name, &ended, words);
    assert!(ended.out.contains("incomplete"), "{name}: {}", ended.out);
    assert!(ground.writes().iter().all(|write| write == "PUT changed displayname"), "{:?}", ground.writes());
    assert_eq!(ground.find_account("new").await, None);
    assert!(ground.account("renamed").await.ids.contains(&ground.login("renamed")));
    assert!(ground.account("renamed").await.ids.contains(&ground.marker(renamed)));
    ground.defguard.faults().clear();
    all_is_done(&ground).await;
}

fn says(name: &str, ended: &Ended, words: &[&str]) {
    let said = format!("{}\n{}", ended.out, ended.err);
    assert_eq!(ended.code, Some(5), "{name}: {said}");
    for word in words {
        assert!(said.contains(word), "{name} does not say {word:?}: {said}");
    }
}

async fn all_is_done(ground: &Ground) {
    ground.sync().await;
    assert_eq!(ground.opens("othername").await.as_deref(), Some("renamed"));
    assert_eq!(ground.opens("renamed").await, None);
    assert_eq!(ground.account("changed").await.name.as_deref(), Some("Changed Person"));
    assert_eq!(ground.opens("new").await.as_deref(), Some("new"));
    ground.nothing_to_do().await;
}

fn listed(fault: Fault) -> impl FnOnce(&mut Ground) {
    move |ground| ground.defguard.faults().add(fault.on("/api/v1/user"))
}

fn as_before(_: &mut Ground) {}

#[tokio::test(flavor = "multi_thread")]
async fn a_defguard_that_gives_no_list_changes_nothing_and_says_why() {
    let slow = Fault::delay(Duration::from_secs(5));
    several(vec![
        Box::pin(nothing_happens("html", listed(Fault::html()), as_before, &["web page", "defguard.url"])),
        Box::pin(nothing_happens(
            "forbidden",
            |ground| {
                let person = ground.new_person("plain");
                let password = person.password.clone().unwrap();
                ground.defguard.add_person(person.email("plain"));
                ground.secret("plain-password", &password);
                ground.set("defguard.username", &format!("{:?}", ground.n("plain")));
                ground.set("defguard.password_file", &format!("{:?}", ground.path("plain-password")));
            },
            |ground| {
                let id = ground.defguard.id_of(&ground.n("plain"));
                ground.defguard.delete(id);
                ground.set("defguard.username", "\"admin\"");
                ground.set("defguard.password_file", &format!("{:?}", ground.path("defguard-password")));
            },
            &["403", "administrator"],
        )),
        Box::pin(nothing_happens(
            "licence",
            |ground| {
                let token = ground.defguard.token_for("admin");
                ground.secret("defguard-token", &token);
                ground.unset("defguard.username");
                ground.unset("defguard.password_file");
                ground.set("defguard.token_file", &format!("{:?}", ground.path("defguard-token")));
            },
            |ground| ground.defguard.set_licence(true),
            &["401", "Session is required", "licence"],
        )),
        Box::pin(nothing_happens(
            "timeout",
            listed(Fault::json(408, &json!({"msg": "Request Timeout"}))),
            as_before,
            &["408"],
        )),
        Box::pin(nothing_happens(
            "lockedout",
            |ground| {
                use defguard_synapse_sync::ports::Clock as _;
                let now = ground.defguard.time().now();
                for _ in 0..5 {
                    ground.defguard.state().count_failure("admin", now);
                }
            },
            |ground| ground.defguard.time().advance(Duration::from_secs(301)),
            &["429", "locked", "five minutes"],
        )),
        Box::pin(nothing_happens(
            "ratelimit",
            listed(Fault::rate_limited(300)),
            as_before,
            &["429", "300 s"],
        )),
        Box::pin(nothing_happens("cut", listed(Fault::cut()), as_before, &["Defguard", "connection"])),
        Box::pin(nothing_happens("cutbody", listed(Fault::cut_body()), as_before, &["Defguard"])),
        Box::pin(nothing_happens("truncated", listed(Fault::truncate()), as_before, &["Defguard"])),
        Box::pin(nothing_happens(
            "slow",
            |ground| {
                ground.set("defguard.timeout", "\"1s\"");
                ground.defguard.faults().add(slow.on("/api/v1/user"));
            },
            as_before,
            &["Defguard", "no answer"],
        )),
        Box::pin(nothing_happens(
            "onex",
            |ground| ground.defguard.state().version = "1.5.2".to_owned(),
            |ground| ground.defguard.state().version = "2.0.1".to_owned(),
            &["1.5.2", "2.0"],
        )),
        Box::pin(nothing_happens(
            "wizard",
            |ground| ground.defguard.state().wizard = true,
            |ground| ground.defguard.state().wizard = false,
            &["wizard"],
        )),
        Box::pin(nothing_happens(
            "servererror",
            listed(Fault::json(500, &json!({"msg": "Internal server error"}))),
            as_before,
            &["500"],
        )),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_list_creates_nobody_and_moves_no_login() {
    let twice = Fault::edit(|body| {
        let first = body["data"][0].clone();
        body["data"].as_array_mut().unwrap().push(first);
        body["data"].as_array_mut().unwrap().remove(1);
    });
    let malformed = Fault::edit(|body| body["data"][0]["id"] = json!("seven"));
    let fewer = Fault::edit(|body| {
        body["data"].as_array_mut().unwrap().pop();
    });
    several(vec![
        Box::pin(only_harmless_things_happen(
            "wrongtotal",
            Fault::wrong_total(17),
            &["17 people were announced"],
        )),
        Box::pin(only_harmless_things_happen("twice", twice.on("/api/v1/user"), &["listed twice"])),
        Box::pin(only_harmless_things_happen("fewer", fewer.on("/api/v1/user"), &["announced"])),
        Box::pin(only_harmless_things_happen(
            "malformed",
            malformed.on("/api/v1/user"),
            &["could not be read"],
        )),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_anybody_in_it_changes_nothing() {
    let (ground, _) = prepared("gone").await;
    let before = accounts_of(&ground).await;
    ground.defguard.faults().add(Fault::everyone_gone());
    ground.proxy.clear();
    let ended = ground.program(&["sync"]).await.with_code(4);
    assert!(ended.out.contains("the list of people is empty") && ended.out.contains("→"), "{}", ended.out);
    assert_eq!(ground.writes(), [""; 0]);
    assert_eq!(accounts_of(&ground).await, before);
    ground.defguard.faults().clear();
    all_is_done(&ground).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_is_changed_between_the_list_and_the_write_is_put_off() {
    let (ground, [renamed, ..]) = prepared("justnow").await;
    // The list still shows the name; a look at the person right before the write shows another one.
    let name = ground.n("changedagain");
    let id = renamed;
    ground.defguard.faults().after_page(1, move |state| {
        state.update(id, |row| row.username = name).unwrap();
    });
    ground.proxy.clear();
    let report = ground.run(defguard_synapse_sync::reconcile::Pass::Frequent).await;
    assert_eq!(report.exit_code(), 3, "{report:#?}");
    assert!(of(&report, renamed).put_off.is_some(), "{report:#?}");
    assert!(!ground.writes().iter().any(|write| write.contains("PUT renamed")), "{:?}", ground.writes());
    let report = ground.sync().await;
    assert_eq!(of(&report, renamed).state, State::Update);
    assert_eq!(ground.opens("changedagain").await.as_deref(), Some("renamed"));
    assert_eq!(ground.opens("othername").await, None);
    assert_eq!(ground.opens("renamed").await, None);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_address_of_defguard_says_so_and_can_be_put_right() {
    let ground = Ground::new("typo").await;
    let right = ground.defguard.url().to_string();
    let ground = ground.with("defguard.url", "\"http://127.0.0.1:1/\"");
    let ended = ground.program(&["sync"]).await.with_code(5);
    assert!(ended.err.contains("could not connect"), "{}", ended.err);
    let ground = ground.with("defguard.url", &format!("{right:?}"));
    let id = ground.add("alice");
    ground.program(&["sync"]).await.with_code(0);
    assert_eq!(ground.account("alice").await.ids, set([ground.login("alice"), ground.marker(id)]));
}
