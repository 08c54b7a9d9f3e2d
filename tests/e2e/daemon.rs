//! The daemon: its schedule, its end, and the verbs that go through its control socket.

use reqwest::Method;
use serde_json::json;

use crate::{
    ground::{Ground, accounts_of, set},
    support::proxy::on,
};

const UP: &str = "the daemon is up";

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_catches_up_keeps_its_schedule_and_ends_in_an_orderly_way() {
    let ground = Ground::new("schedule").await.with("schedule.sync", "\"* * * * * *\"");
    let ground = ground.with("schedule.catch_up", "true");
    let id = ground.add("alice");
    let daemon = ground.start(&["run"]);
    daemon.says("sync done").await;
    assert_eq!(ground.account("alice").await.ids, set([ground.login("alice"), ground.marker(id)]));
    ground.proxy.clear();
    ground.set_first_name(id, "Changed");
    ground
        .proxy
        .wait_until(|seen| {
            seen.iter().any(|seen| {
                let write = seen.method == Method::PUT && seen.path.contains("/v2/users/");
                write && seen.status == Some(200)
            })
        })
        .await;
    assert_eq!(ground.account("alice").await.name.as_deref(), Some("Changed Person"));
    let runs = daemon.count("sync done");
    daemon.says_times("sync done", runs + 2).await;
    assert_eq!(ground.writes(), ["PUT alice displayname"]);
    daemon.terminate();
    let ended = daemon.ended().await.with_code(0);
    // Names and addresses are not for the log.
    assert!(!ended.err.contains("Changed") && !ended.err.contains("@example.com"), "{}", ended.err);
    assert!(!ground.path("control.sock").exists());
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_asked_to_end_finishes_the_people_in_hand_and_no_others() {
    let ground = Ground::new("sigterm").await.with("schedule.catch_up", "true");
    let ground = ground.with("synapse.concurrency", "1").with("synapse.create", "\"empty-first\"");
    for who in ["a", "b", "c"] {
        ground.add(who);
    }
    let mut held = ground.proxy.hold_after(on(Method::PUT, "/v2/users/").nth(1));
    let daemon = ground.start(&["run"]);
    held.reached().await;
    daemon.terminate();
    daemon.says("ending after the people in hand").await;
    held.release();
    let ended = daemon.ended().await.with_code(0);
    assert!(ended.err.contains("sync done in part"), "{}", ended.err);
    let accounts = accounts_of(&ground).await;
    assert_eq!(accounts.len(), 1, "{accounts:#?}");
    assert_eq!(accounts[&ground.n("a")].emails, set([ground.email("a")]));
    assert_eq!(ground.journal().len(), 1);
    ground.proxy.remove_all();
    ground.sync().await;
    assert_eq!(accounts_of(&ground).await.len(), 3);
    assert_eq!(ground.journal().len(), 3);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_is_answered_by_the_daemon_that_holds_the_store() {
    let ground = Ground::new("socket").await;
    let daemon = ground.start(&["run"]);
    daemon.says(UP).await;
    let id = ground.add("alice");
    let planned = ground.program(&["plan"]).await.with_code(0);
    assert!(planned.out.contains(&ground.mxid("alice")) && planned.out.contains("create"), "{}", planned.out);
    assert_eq!(ground.find_account("alice").await, None);
    let report = ground.program(&["sync", "--json"]).await.with_code(0).json();
    let alice = report["people"].as_array().unwrap().iter().find(|person| person["id"] == id).unwrap();
    assert_eq!(alice["done"], json!([{"kind": "created"}]));
    let explained = ground.program(&["explain", &ground.n("alice"), "--json"]).await.with_code(0).json();
    assert_eq!(explained["report"]["state"], "in_step");
    assert_eq!(explained["link"]["mxid"], json!(ground.mxid("alice")));
    let explained = ground.program(&["explain", &ground.mxid("alice")]).await.with_code(0).out;
    assert!(explained.contains("all is in step"), "{explained}");
    ground.program(&["explain", "nobody.of.that.name"]).await.with_code(1);
    let status = ground.program(&["status", "--json"]).await.with_code(0).json();
    assert!(status["daemon"]["started"].is_string(), "{status}");
    assert_eq!(status["links"].as_object().unwrap().len(), 1);
    assert_eq!(status["runs"].as_array().unwrap().len(), 1);
    let journal = ground.program(&["journal", "--json"]).await.with_code(0).json();
    assert_eq!(journal.as_array().unwrap().len(), 1);
    let journal = ground.program(&["journal", &ground.n("alice")]).await.with_code(0).out;
    assert!(journal.contains("created"), "{journal}");
    ground.put("old", json!({})).await;
    let bob = ground.defguard.add_person(ground.new_person("bob").email(""));
    ground.program(&["link", &ground.n("bob"), &ground.mxid("old"), "--yes"]).await.with_code(0);
    assert_eq!(ground.account("old").await.ids, set([ground.login("bob"), ground.marker(bob)]));
    ground.program(&["unlink", &format!("#{bob}"), "--yes"]).await.with_code(0);
    assert_eq!(ground.account("old").await.ids, set([]));
    let unknown = ground.program(&["sync", "nobody.of.that.name"]).await.with_code(3);
    assert!(unknown.err.contains("nobody.of.that.name"), "{}", unknown.err);
    daemon.terminate();
    daemon.ended().await.with_code(0);
    // Without a daemon the same verbs work on the store themselves.
    let status = ground.program(&["status", "--json"]).await.with_code(0).json();
    assert_eq!(status["daemon"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused_and_the_first_one_goes_on() {
    let mut ground = Ground::new("seconddaemon").await;
    let daemon = ground.start(&["run"]);
    daemon.says(UP).await;
    let second = ground.program(&["run"]).await.with_code(1);
    assert!(second.err.contains("another process holds the store"), "{}", second.err);
    let first = std::fs::read_to_string(ground.file()).unwrap();
    // A store of its own, and the same socket.
    ground.set("state.directory", &format!("{:?}", ground.path("state2")));
    let second = ground.program(&["run"]).await.with_code(1);
    assert!(second.err.contains("a daemon answers there already"), "{}", second.err);
    std::fs::write(ground.file(), first).unwrap();
    ground.add("alice");
    ground.program(&["sync"]).await.with_code(0);
    assert!(ground.find_account("alice").await.is_some());
    daemon.terminate();
    daemon.ended().await.with_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_who_ask_for_a_sync_at_once_are_all_answered() {
    let ground = Ground::new("asks").await;
    let (alice, _) = (ground.add("alice"), ground.add("bob"));
    let daemon = ground.start(&["run"]);
    daemon.says(UP).await;
    let mut held = ground.proxy.hold_after(on(Method::PUT, "/v2/users/").nth(1));
    let first = ground.start(&["sync", "--json"]);
    held.reached().await;
    let person = format!("#{alice}");
    let others = [ground.start(&["sync", "--json"]), ground.start(&["sync", &person, "--json"])];
    // Looking is possible meanwhile.
    let status = ground.program(&["status", "--json"]).await.with_code(0).json();
    assert_eq!(status["daemon"]["running"], json!(true));
    held.release();
    let report = first.ended().await.with_code(0).json();
    let created = report["people"].as_array().unwrap().iter().filter(|person| person["state"] == "create");
    assert_eq!(created.count(), 2);
    for other in others {
        let report = other.ended().await.with_code(0).json();
        let created = report["people"].as_array().unwrap().iter().filter(|it| it["state"] == "create");
        assert!(matches!(created.count(), 0 | 2), "{report}");
    }
    assert_eq!(ground.writes().len(), 2);
    daemon.terminate();
    daemon.ended().await.with_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_killed_daemon_left_is_no_obstacle() {
    let ground = Ground::new("leftsocket").await;
    let daemon = ground.start(&["run"]);
    daemon.says(UP).await;
    daemon.kill().await;
    assert!(ground.path("control.sock").exists());
    ground.add("alice");
    ground.program(&["sync"]).await.with_code(0);
    let daemon = ground.start(&["run"]);
    daemon.says(UP).await;
    let status = ground.program(&["status", "--json"]).await.with_code(0).json();
    assert!(status["daemon"].is_object(), "{status}");
    daemon.terminate();
    daemon.ended().await.with_code(0);
}
