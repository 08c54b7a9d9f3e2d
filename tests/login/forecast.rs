//! The forecast of the next login, held against the login itself.

use std::{fs, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use crate::{
    house::{PASSWORD, Room},
    support::{
        browser::{Browser, Outcome},
        defguard::NewPerson,
    },
};

impl Room {
    /// What `check --people` says about the people of this test.
    async fn forecasts(&self) -> Vec<Value> {
        let shown = self.run(&["check", "--people", "--json"]).await;
        let people = shown.json()["logins"]["people"].as_array().unwrap().clone();
        let prefix = format!("{}.", self.n("").trim_end_matches('.'));
        let of_test = |one: &Value| one["username"].as_str().unwrap().starts_with(&prefix);
        people.into_iter().filter(of_test).collect()
    }

    /// Logs everybody in whose login is forecast, one after the other, and compares. Gives the kinds by name.
    async fn each_comes_true(&self) -> Vec<(String, String)> {
        let mut seen = Vec::new();
        for forecast in self.forecasts().await {
            let name = forecast["username"].as_str().unwrap();
            let login = &forecast["login"];
            let kind = login["kind"].as_str().unwrap();
            let outcome = Browser::default().log_in(self.synapse(), "oidc-Defguard", name, PASSWORD).await;
            let came_true = match (kind, &outcome) {
                ("opens" | "links" | "creates", Outcome::In { mxid, .. }) => login["mxid"] == json!(mxid),
                ("refused", Outcome::Refused(reply)) => {
                    login["why"]["reason"] == "locked" && reply.body["errcode"] == "M_USER_LOCKED"
                }
                ("refused", Outcome::Page { status, url, text }) => match login["why"]["reason"].as_str() {
                    Some("deactivated") => *status == 403 && text.contains("deactivated"),
                    Some("registration_disabled") => text.contains("registrations are disabled"),
                    Some("localpart" | "email") => {
                        matches!(status, 400 | 500) && url.path().contains("callback")
                    }
                    _ => false,
                },
                ("not_let_in", Outcome::Page { status: 401, url, .. }) => url.path() == "/api/v1/auth",
                _ => false,
            };
            assert!(came_true, "forecast {login}, and came: {outcome:?}");
            let reason = login["why"]["reason"].as_str().map_or_else(String::new, |why| format!(" {why}"));
            let who = name.rsplit('.').next().unwrap().to_owned();
            seen.push((who, format!("{kind}{reason}")));
        }
        seen.sort();
        seen
    }

    /// The same while the provider's entry has more lines; afterwards it is as before.
    async fn with_entry(&self, lines: &[&str], test: impl Future<Output = ()>) {
        let directory = self.synapse().config_directory();
        let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
        let file = files
            .into_iter()
            .filter(|file| file.extension().is_some_and(|extension| extension == "yaml"))
            .find(|file| fs::read_to_string(file).unwrap().contains("oidc_providers"))
            .expect("the file of setup oidc");
        let before = fs::read_to_string(&file).unwrap();
        let issuer = before.lines().find(|line| line.trim_start().starts_with("issuer:")).unwrap();
        let indent = &issuer[..issuer.len() - issuer.trim_start().len()];
        let more: String = lines.iter().map(|line| format!("{indent}{line}\n")).collect();
        fs::write(&file, before.replace(issuer, &format!("{more}{issuer}"))).unwrap();
        self.synapse().start_again().await.unwrap();
        let outcome = AssertUnwindSafe(test).catch_unwind().await;
        fs::write(&file, before).unwrap();
        self.synapse().start_again().await.unwrap();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(who, kind)| ((*who).to_owned(), (*kind).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_rules_that_setup_writes_each_forecast_comes_true() {
    let room = Room::new("told").await;
    for who in ["linked", "locked", "closed"] {
        room.add(who);
    }
    let disabled = room.add("disabled");
    room.sync().await;
    room.defguard().set_active(disabled, false);
    for (who, body) in [("locked", json!({"locked": true})), ("closed", json!({"deactivated": true}))] {
        assert_eq!(room.synapse().put_account(&room.n(who), &body).await.status, 200);
    }
    // Nobody has these by a sync.
    room.add("new");
    for taken in ["taken", "twice", "twice1"] {
        assert_eq!(room.synapse().put_account(&room.n(taken), &json!({})).await.status, 201);
    }
    room.add("taken");
    room.add("twice");
    let ids = json!([{"auth_provider": "oidc-Defguard", "external_id": room.n("other")}]);
    let reply = room.synapse().put_account(&room.n("before"), &json!({"external_ids": ids})).await;
    assert_eq!(reply.status, 201);
    room.add("other");
    let bad = NewPerson::named(&room.n("bad")).email("two@at@example.com").password(Some(PASSWORD));
    room.defguard().add_person(bad.groups(&["told"]));
    let expected = pairs(&[
        ("bad", "refused email"),
        ("closed", "refused deactivated"),
        ("disabled", "not_let_in"),
        ("linked", "opens"),
        ("locked", "refused locked"),
        ("new", "creates"),
        ("other", "opens"),
        ("taken", "creates"),
        ("twice", "creates"),
    ]);
    assert_eq!(room.each_comes_true().await, expected);
    let accounts = room.accounts().await;
    for made in ["taken1", "twice2", "bad"] {
        assert!(accounts.iter().any(|name| name == made), "{made}: {accounts:?}");
    }
    // The half-made account of the bad address: the next login makes one more.
    let again = room.forecasts().await;
    let bad = again.iter().find(|one| one["username"] == json!(room.n("bad"))).unwrap();
    assert_eq!(bad["login"]["why"]["mxid"], json!(room.mxid("bad1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_allow_existing_users_each_forecast_comes_true() {
    let room = Room::new("exist").await;
    for (who, body) in [("there", json!({})), ("closed", json!({"deactivated": true}))] {
        assert_eq!(room.synapse().put_account(&room.n(who), &json!({})).await.status, 201);
        room.synapse().put_account(&room.n(who), &body).await;
        room.add(who);
    }
    room.add("new");
    room.with_entry(&["allow_existing_users: true"], async {
        let expected = pairs(&[("closed", "refused deactivated"), ("new", "creates"), ("there", "links")]);
        assert_eq!(room.each_comes_true().await, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_registration_each_forecast_comes_true() {
    let room = Room::new("shut").await;
    room.add("linked");
    room.sync().await;
    assert_eq!(room.synapse().put_account(&room.n("taken"), &json!({})).await.status, 201);
    room.add("taken");
    room.add("new");
    room.with_entry(&["enable_registration: false"], async {
        let expected = pairs(&[
            ("linked", "opens"),
            ("new", "refused registration_disabled"),
            ("taken", "refused registration_disabled"),
        ]);
        assert_eq!(room.each_comes_true().await, expected);
    })
    .await;
    assert_eq!(room.accounts().await, ["linked", "taken"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_check_names_only_the_logins_that_are_not_as_they_should_be() {
    let room = Room::new("page").await;
    room.add("right");
    room.sync().await;
    room.add("wrong");
    let shown = room.run(&["check", "--people"]).await.ends_with(0).out;
    let table = shown.split("Next logins that would not be as they should:").nth(1).unwrap();
    assert!(table.contains("page.wrong") && !table.contains("page.right"), "{shown}");
    assert!(table.contains("sync page.wrong"), "{shown}");
    let shown = room.run(&["check", "--people", "--verbose"]).await.ends_with(0).out;
    let table = shown.split("Next logins that are as they should be:").nth(1).unwrap();
    assert!(table.contains("page.right") && table.contains(&room.mxid("right")), "{shown}");
}
