//! What somebody changed in Synapse by hand, and a state that was lost.

use defguard_synapse_sync::{domain::Change, reconcile::Pass};
use serde_json::json;

use crate::ground::{Ground, State, accounts_of, check_journal, conflicts, of, set};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pass_repairs_what_was_changed_by_hand() {
    let ground = Ground::new("drift").await.with("accounts.display_name", "\"enforce\"");
    let ids = ["name", "mail", "subject", "marker", "all"].map(|who| (who, ground.add(who)));
    let id = |who: &str| ids.iter().find(|(name, _)| *name == who).unwrap().1;
    ground.sync().await;
    let right = accounts_of(&ground).await;
    let foreign = |who: &str| format!("oidc-github:{}", ground.n(who));
    ground.put("mail", json!({"threepids": [{"medium": "email", "address": ground.email("private")}]})).await;
    ground
        .put(
            "subject",
            Ground::body(&[ground.marker(id("subject")), foreign("subject")], &[ground.email("subject")]),
        )
        .await;
    ground.put("marker", Ground::body(&[ground.login("marker")], &[ground.email("marker")])).await;
    ground.put("all", json!({"displayname": "x", "external_ids": [], "threepids": []})).await;
    ground.put("name", json!({"displayname": "Own choice"})).await;
    let lines = ground.journal().len();
    // The frequent run compares what the list shows, and that is the name.
    ground.proxy.clear();
    ground.sync().await;
    let mut written = ground.writes();
    written.sort();
    assert_eq!(written, ["PUT all displayname", "PUT name displayname"]);
    let before = {
        let mut before = accounts_of(&ground).await;
        before.get_mut(&ground.n("name")).unwrap().name = Some("Own choice".to_owned());
        before.get_mut(&ground.n("all")).unwrap().name = Some("x".to_owned());
        before
    };
    ground.proxy.clear();
    ground.full().await;
    let mut written = ground.writes();
    written.sort();
    assert_eq!(
        written,
        [
            "PUT all external_ids,threepids",
            "PUT mail threepids",
            "PUT marker external_ids",
            "PUT subject external_ids"
        ]
    );
    let mut expected = right.clone();
    expected.get_mut(&ground.n("mail")).unwrap().emails.insert(ground.email("private"));
    expected.get_mut(&ground.n("subject")).unwrap().ids.insert(foreign("subject"));
    assert_eq!(accounts_of(&ground).await, expected);
    for who in ["subject", "all"] {
        assert_eq!(ground.opens(who).await.as_deref(), Some(who));
    }
    check_journal(&ground, &ground.journal()[lines..], &before).await;
    ground.nothing_to_do().await;
    ground.proxy.clear();
    ground.full().await;
    assert_eq!(ground.writes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_is_found_again_in_synapse_without_a_write() {
    let ground = Ground::new("lost").await;
    let (alice, bob) = (ground.add("alice"), ground.add("bob"));
    ground.sync().await;
    // Bob chose a name of his own; without a baseline that is not touched.
    ground.put("bob", json!({"displayname": "Bobby"})).await;
    let before = accounts_of(&ground).await;
    std::fs::remove_dir_all(ground.path("state")).unwrap();
    ground.proxy.clear();
    let report = ground.run(Pass::Frequent).await;
    assert_eq!(report.exit_code(), 4, "{report:#?}");
    assert!(report.held.as_ref().unwrap().reasons[0].mend.contains("state rebuild"), "{report:#?}");
    for id in [alice, bob] {
        assert_eq!(of(&report, id).state, State::Relink);
        assert_eq!(of(&report, id).done, [Change::Relinked]);
    }
    ground.program(&["state", "rebuild"]).await.with_code(0);
    assert_eq!(ground.writes(), [""; 0]);
    assert_eq!(accounts_of(&ground).await, before);
    ground.nothing_to_do().await;
    ground.set_first_name(bob, "Robert");
    ground.sync().await;
    assert_eq!(ground.account("bob").await.name.as_deref(), Some("Robert Person"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_the_state_was_lost_is_set_right_by_the_markers() {
    let ground = Ground::new("lost2").await;
    let (alice, bob, carol) = (ground.add("alice"), ground.add("bob"), ground.add("carol"));
    ground.sync().await;
    for who in ["alice", "bob", "carol"] {
        ground.opens(who).await;
    }
    std::fs::remove_dir_all(ground.path("state")).unwrap();
    // Alice and Bob swapped usernames meanwhile, and Carol has another one.
    ground.rename(alice, "aside");
    ground.rename(bob, "alice");
    ground.rename(alice, "bob");
    ground.rename(carol, "caroline");
    // No login moves before all links are there again.
    assert_eq!(ground.run(Pass::Frequent).await.exit_code(), 4);
    ground.program(&["state", "rebuild"]).await.with_code(0);
    ground.sync().await;
    for (login, account) in
        [("alice", Some("bob")), ("bob", Some("alice")), ("carol", None), ("caroline", Some("carol"))]
    {
        assert_eq!(ground.opens(login).await.as_deref(), account, "{login}");
    }
    assert_eq!(ground.account("carol").await.ids, set([ground.login("caroline"), ground.marker(carol)]));
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_somebody_deactivated_or_that_is_marked_for_another_is_left_alone() {
    let ground = Ground::new("foreign").await;
    let (closed, moved) = (ground.add("closed"), ground.add("moved"));
    ground.sync().await;
    ground.put("closed", json!({"deactivated": true})).await;
    let ids = [ground.login("moved"), ground.marker(999)];
    ground.put("moved", Ground::body(&ids, &[])).await;
    let before = accounts_of(&ground).await;
    for person in [closed, moved] {
        ground.set_first_name(person, "Other");
    }
    ground.proxy.clear();
    let report = ground.full().await;
    assert_eq!(conflicts(&report, closed), ["deactivated"]);
    assert_eq!(conflicts(&report, moved), ["marked_for_other"]);
    assert_eq!(ground.writes(), [""; 0]);
    assert_eq!(accounts_of(&ground).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_belongs_to_another_pair_of_servers_is_not_used() {
    let mut ground = Ground::new("pair").await;
    ground.add("alice");
    ground.sync().await;
    ground.set("defguard.instance", "\"elsewhere\"");
    ground.proxy.clear();
    let ended = ground.program(&["sync"]).await.with_code(4);
    assert!(ended.err.contains("`pair` and is `elsewhere`") && ended.err.contains("→"), "{}", ended.err);
    assert_eq!(ground.writes(), [""; 0]);
}
