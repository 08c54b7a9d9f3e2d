//! Taking back what a run did, a store that is lost, old or doubled, and a changed `idp_id`, on the real Synapse.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use defguard_synapse_sync::{domain::Change, reconcile::Pass};
use reqwest::Method;
use serde_json::json;

use crate::ground::{Ground, of, set};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

/// The token of a session of somebody, as a client has it.
async fn session(ground: &Ground, who: &str) -> String {
    ground.put(who, json!({"password": "known to the test"})).await;
    let login = ground.synapse.login_password(&ground.n(who), "known to the test").await;
    login.body["access_token"].as_str().unwrap().to_owned()
}

async fn whoami(ground: &Ground, token: &str) -> u16 {
    ground.synapse.call(Method::GET, WHOAMI, Some(token), None).await.status
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn state(ground: &Ground) -> PathBuf {
    ground.path("state")
}

/// Puts a copy of the state directory in its place.
fn restore(ground: &Ground, copied: &Path) {
    fs::remove_dir_all(state(ground)).unwrap();
    copy(copied, &state(ground));
}

/// Nothing of what takes an account out of use, or gives it back, was sent.
fn nobody_was_locked(ground: &Ground) {
    let wrote: Vec<String> = ground.writes().into_iter().filter(|write| write.contains("locked")).collect();
    assert_eq!(wrote, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_mass_lock_that_was_approved_is_reverted_and_the_same_sessions_work_again() {
    let ground = Ground::new("revert").await;
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let people: Vec<i64> = names.iter().map(|who| ground.add(who)).collect();
    ground.sync().await;
    let mut tokens = Vec::new();
    for who in names {
        tokens.push(session(&ground, who).await);
    }
    for id in &people {
        ground.defguard.set_active(*id, false);
    }
    let report = ground.approve().await;
    let run = report.run.unwrap().to_string();
    for token in &tokens {
        assert_eq!(whoami(&ground, token).await, 401);
    }
    let journal = ground.program(&["journal", "--run", &run]).await.with_code(0).out;
    assert_eq!(journal.matches("not locked before").count(), 7, "{journal}");

    // Shown first: what would be done, and that the next sync would lock them again.
    ground.proxy.clear();
    let shown = ground.program(&["revert", &run, "--dry-run"]).await.with_code(0).out;
    assert!(shown.contains("7 accounts would be put back"), "{shown}");
    assert!(shown.contains("enable them in Defguard"), "{shown}");
    let asked = ground.program(&["revert", &run]).await.with_code(1);
    assert!(
        asked.err.contains("--yes") && asked.err.contains("7 accounts would be put back"),
        "{}",
        asked.err
    );
    nobody_was_locked(&ground);
    for id in &people {
        ground.defguard.set_active(*id, true);
    }
    // Meanwhile an admin unlocked one by hand, which is said and left.
    ground.put("g", json!({"locked": false})).await;
    let done = ground.program(&["revert", &run, "--yes"]).await.with_code(0).out;
    assert!(done.contains("6 accounts were put back") && done.contains("is not locked any more"), "{done}");
    for token in &tokens {
        assert_eq!(whoami(&ground, token).await, 200, "the same session works again");
    }
    let by_hand = ground.journal();
    let unlocked = |entry: &&defguard_synapse_sync::domain::Entry| {
        entry.run.is_none() && matches!(entry.change, Change::Unlocked { .. })
    };
    assert_eq!(by_hand.iter().filter(unlocked).count(), 6, "{by_hand:#?}");
    ground.sync().await;
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_addresses_and_logins_of_a_run_are_put_back_for_single_people_through_the_daemon() {
    let ground = Ground::new("putback").await.with("accounts.email", "\"on-change\"");
    let (alice, bob) = (ground.add("alice"), ground.add("bob"));
    ground.sync().await;
    let before = ground.account("alice").await;
    ground.set_first_name(alice, "Wrong");
    ground.set_email(alice, &ground.email("wrong"));
    ground.rename(alice, "alicia");
    ground.set_first_name(bob, "Wrong");
    let run = ground.sync().await.run.unwrap().to_string();
    assert_ne!(ground.account("alice").await, before);
    let daemon = ground.start(&["run"]);
    daemon.says("the daemon is up").await;
    let done = ground.program(&["revert", &run, &format!("#{alice}"), "--yes", "--json"]).await.with_code(0);
    let people = done.json()["people"].as_array().unwrap().clone();
    assert_eq!((people.len(), people[0]["id"].as_i64()), (1, Some(alice)));
    assert!(people[0]["warnings"][0].as_str().unwrap().contains("puts the login"), "{people:#?}");
    assert_eq!(ground.account("alice").await, before);
    assert_eq!(ground.opens("alice").await.as_deref(), Some("alice"));
    assert_eq!(ground.opens("alicia").await, None);
    assert_eq!(ground.account("bob").await.name.as_deref(), Some("Wrong Person"));
    // With the username put back, the rest stays as it was put back: "on-change" sees no change.
    ground.rename(alice, "alice");
    ground.program(&["sync"]).await.with_code(0);
    assert_eq!(ground.account("alice").await, before);
    let ended = ground.program(&["revert", "999", "--yes"]).await.with_code(1);
    assert!(ended.err.contains("nothing of run 999"), "{}", ended.err);
    // What the journal has of a person is taken out, and only theirs.
    let shown = ground.program(&["forget", &ground.n("alice"), "--yes"]).await.with_code(0).out;
    assert!(shown.contains("journal lines") && shown.contains("the link to"), "{shown}");
    let left = ground.program(&["journal", "--json", "-n", "1000"]).await.with_code(0).json();
    assert!(left.as_array().unwrap().iter().all(|entry| entry["id"] == bob), "{left}");
    daemon.terminate();
    daemon.ended().await.with_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_locks_nobody_until_the_links_are_found_again() {
    let ground = Ground::new("lostlinks").await.with("off_boarding.absence_min_age", "\"1s\"");
    let (alice, bob, carol) = (ground.add("alice"), ground.add("bob"), ground.add("carol"));
    ground.sync().await;
    ground.defguard.set_active(carol, false);
    ground.sync().await;
    assert!(ground.is_locked("carol").await);
    fs::remove_dir_all(state(&ground).join("store")).unwrap();
    ground.defguard.set_active(alice, false);
    ground.defguard.delete(bob);
    ground.proxy.clear();
    for _ in 0..2 {
        let report = ground.run(Pass::Frequent).await;
        assert_eq!(report.exit_code(), 4, "{report:#?}");
        assert!(report.held.unwrap().reasons.iter().any(|reason| reason.mend.contains("state rebuild")));
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    nobody_was_locked(&ground);
    let shown = ground.program(&["state", "rebuild"]).await.with_code(0).out;
    assert!(shown.contains("Locked, and it cannot be known by whom"), "{shown}");
    assert!(shown.contains(&ground.mxid("carol")) && shown.contains("can be trusted again"), "{shown}");
    // It goes on: who is disabled is locked, who is gone is proved anew, and a lock of which nobody knows stays.
    ground.defguard.set_active(carol, true);
    let report = ground.sync().await;
    assert!(ground.is_locked("alice").await && !ground.is_locked("bob").await, "{report:#?}");
    assert!(ground.is_locked("carol").await);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    ground.sync().await;
    assert!(ground.is_locked("bob").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_the_state_directory_is_noticed_and_rebuilt() {
    let ground = Ground::new("oldcopy").await;
    let (alice, bob) = (ground.add("alice"), ground.add("bob"));
    ground.sync().await;
    let copied = ground.path("copy");
    copy(&state(&ground), &copied);
    ground.defguard.set_active(alice, false);
    ground.sync().await;
    ground.defguard.set_active(alice, true);
    ground.sync().await;
    restore(&ground, &copied);
    ground.defguard.set_active(bob, false);
    ground.proxy.clear();
    let ended = ground.program(&["sync"]).await.with_code(4);
    assert!(
        ended.out.contains("the store is an old copy") && ended.out.contains("state rebuild"),
        "{}",
        ended.out
    );
    nobody_was_locked(&ground);
    // Nor is anything done by hand with it.
    let ended = ground.program(&["revert", "1", "--yes"]).await.with_code(0);
    assert!(ended.out.contains("nothing is ever deleted"), "{}", ended.out);
    ground.program(&["state", "rebuild"]).await.with_code(0);
    ground.sync().await;
    assert!(ground.is_locked("bob").await && !ground.is_locked("alice").await);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_another_state_directory_changes_nothing_harmful_while_the_lease_lives() {
    let mut ground = Ground::new("doubled").await;
    let (alice, _) = (ground.add("alice"), ground.add("bob"));
    ground.sync().await;
    let second = ground.path("second");
    ground.set("state.directory", &format!("{:?}", second.to_str().unwrap()));
    ground.defguard.set_active(alice, false);
    ground.proxy.clear();
    let ended = ground.program(&["sync"]).await.with_code(4);
    assert!(ended.out.contains("another daemon works on this homeserver"), "{}", ended.out);
    let ended = ground.program(&["state", "rebuild"]).await.with_code(4);
    assert!(ended.err.contains("--take-over"), "{}", ended.err);
    nobody_was_locked(&ground);
    ground.program(&["state", "rebuild", "--take-over"]).await.with_code(0);
    ground.sync().await;
    assert!(ground.is_locked("alice").await);
    // The first one comes back and finds that it was replaced.
    let first = state(&ground);
    ground.set("state.directory", &format!("{:?}", first.to_str().unwrap()));
    ground.proxy.clear();
    ground.program(&["sync"]).await.with_code(4);
    nobody_was_locked(&ground);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_exported_is_imported_and_counts_as_an_old_copy_if_it_is_one() {
    let ground = Ground::new("export").await;
    let (alice, bob) = (ground.add("alice"), ground.add("bob"));
    ground.sync().await;
    let early = ground.path("early.jsonl");
    ground.program(&["state", "export", early.to_str().unwrap()]).await.with_code(0);
    assert_eq!(fs::metadata(&early).unwrap().permissions().mode() & 0o777, 0o600);
    ground.defguard.set_active(alice, false);
    ground.sync().await;
    let text = ground.program(&["state", "export"]).await.with_code(0).out;
    let late = ground.path("late.jsonl");
    fs::write(&late, &text).unwrap();
    // Not over what is there.
    let ended = ground.program(&["state", "import", late.to_str().unwrap()]).await.with_code(1);
    assert!(ended.err.contains("remembers something already"), "{}", ended.err);
    // Not half of it, and the line is named.
    fs::remove_dir_all(state(&ground)).unwrap();
    let cut = ground.path("cut.jsonl");
    let (third, _) = text.match_indices('\n').nth(2).unwrap();
    fs::write(&cut, &text[..third - 5]).unwrap();
    let ended = ground.program(&["state", "import", cut.to_str().unwrap()]).await.with_code(1);
    assert!(ended.err.contains("line 3: it ends too early"), "{}", ended.err);
    assert!(!state(&ground).exists());
    // The whole of it: as if nothing had happened.
    ground.program(&["state", "import", late.to_str().unwrap()]).await.with_code(0);
    assert_eq!(ground.program(&["state", "export"]).await.with_code(0).out, text);
    ground.nothing_to_do().await;
    ground.defguard.set_active(alice, true);
    ground.sync().await;
    assert!(!ground.is_locked("alice").await, "the lock is still known as ours");
    // One from before: an old copy.
    fs::remove_dir_all(state(&ground)).unwrap();
    ground.program(&["state", "import", early.to_str().unwrap()]).await.with_code(0);
    ground.defguard.set_active(bob, false);
    ground.program(&["sync"]).await.with_code(4);
    assert!(!ground.is_locked("bob").await);
    ground.program(&["state", "rebuild"]).await.with_code(0);
    ground.sync().await;
    assert!(ground.is_locked("bob").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_idp_id_is_held_then_both_logins_open_the_account_then_only_the_new_one() {
    let mut ground = Ground::new("migrate").await;
    let (alice, bob) = (ground.add("alice"), ground.add("bob"));
    ground.sync().await;
    ground.set("synapse.idp_id", "\"Other\"");
    let name = |who: &str| format!("migrate.{who}");
    let other = |who: &str| format!("oidc-Other:{}", name(who));
    ground.proxy.clear();
    let ended = ground.program(&["sync"]).await.with_code(4);
    assert!(ended.out.contains("`idp_id` changed in the config"), "{}", ended.out);
    ground.program(&["sync", "--full"]).await.with_code(4);
    assert_eq!(ground.writes(), [""; 0]);
    let refused = ground.program(&["migrate", "finish", "--yes"]).await.with_code(1);
    assert!(refused.err.contains("the guard still holds"), "{}", refused.err);

    let report = ground.approve().await;
    for (who, id) in [("alice", alice), ("bob", bob)] {
        assert_eq!(of(&report, id).done.len(), 1, "{report:#?}");
        for provider in ["oidc-Defguard", "oidc-Other"] {
            assert_eq!(ground.holder(provider, &name(who)).await.as_deref(), Some(who), "{provider}");
        }
        assert_eq!(ground.account(who).await.ids, set([ground.login(who), other(who), ground.marker(id)]));
    }
    ground.full().await;
    ground.nothing_to_do().await;

    let asked = ground.program(&["migrate", "finish"]).await.with_code(1);
    assert!(asked.err.contains("2 accounts would lose a former login"), "{}", asked.err);
    let done = ground.program(&["migrate", "finish", "--yes"]).await.with_code(0);
    assert!(done.out.contains("2 accounts lost a former login; the migration is finished"), "{}", done.out);
    for (who, id) in [("alice", alice), ("bob", bob)] {
        assert_eq!(ground.holder("oidc-Defguard", &name(who)).await, None);
        assert_eq!(ground.holder("oidc-Other", &name(who)).await.as_deref(), Some(who));
        assert_eq!(ground.account(who).await.ids, set([other(who), ground.marker(id)]));
    }
    ground.full().await;
    ground.nothing_to_do().await;
}
