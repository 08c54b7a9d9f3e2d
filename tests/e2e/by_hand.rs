//! `link` and `unlink`, by the program itself.

use defguard_synapse_sync::domain::Change;
use serde_json::json;

use crate::ground::{Ground, accounts_of, conflicts, of, set};

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_settled_by_a_link() {
    let ground = Ground::new("link").await;
    let id = ground.add("alice");
    ground.put("alice", Ground::body(&[], &[ground.email("alice"), ground.email("private")])).await;
    assert_eq!(conflicts(&ground.sync().await, id), ["localpart_taken"]);
    let (alice, mxid) = (ground.n("alice"), ground.mxid("alice"));
    // Nobody can be asked here, so without --yes it is shown and not done.
    let shown = ground.program(&["link", &alice, &mxid]).await.with_code(1);
    assert!(shown.err.contains("--yes") && shown.err.contains(&mxid), "{}", shown.err);
    assert_eq!(ground.account("alice").await.ids, set([]));
    let done = ground.program(&["link", &alice, &mxid, "--yes"]).await.with_code(0);
    assert!(done.out.contains("linked by hand"), "{}", done.out);
    let account = ground.account("alice").await;
    assert_eq!(account.ids, set([ground.login("alice"), ground.marker(id)]));
    assert_eq!(account.emails, set([ground.email("alice"), ground.email("private")]));
    let journal = ground.journal();
    assert!(
        journal.iter().any(|entry| entry.change == Change::Linked && entry.run.is_none()),
        "{journal:#?}"
    );
    ground.sync().await;
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_cannot_be_right_is_refused_and_nothing_is_changed() {
    let ground = Ground::new("refused").await;
    ground.add("alice");
    let bob = ground.add("bob");
    ground.sync().await;
    ground.put("closed", json!({})).await;
    ground.put("closed", json!({"deactivated": true})).await;
    ground.put("marked", Ground::body(&["defguard-synapse-sync:elsewhere-refused/5".to_owned()], &[])).await;
    ground.put("free", json!({})).await;
    ground.defguard.add_person(ground.new_person("carol").email(""));
    let before = accounts_of(&ground).await;
    ground.proxy.clear();
    let carol_name = ground.n("carol");
    let own = ground.synapse.admin_mxid();
    for (person, mxid, why) in [
        ("refused.nobody", ground.mxid("free"), "nobody"),
        (&ground.n("alice"), ground.mxid("alice"), "already theirs"),
        (&ground.n("alice"), ground.mxid("free"), "unlink"),
        (&carol_name, ground.mxid("bob"), &format!("#{bob}")),
        (&carol_name, ground.mxid("nothing"), "no account"),
        (&carol_name, "@refused.free:elsewhere.test".to_owned(), "elsewhere.test"),
        (&carol_name, "free".to_owned(), "free"),
        (&carol_name, own.to_owned(), "this service itself"),
        (&carol_name, ground.mxid("closed"), "deactivated"),
        (&carol_name, ground.mxid("marked"), "marker of somebody else"),
    ] {
        let ended = ground.program(&["link", person, &mxid, "--yes"]).await.with_code(1);
        assert!(ended.err.contains(why), "{person} {mxid}: {}", ended.err);
    }
    let ended = ground.program(&["unlink", &carol_name, "--yes"]).await.with_code(1);
    assert!(ended.err.contains("linked to no account"), "{}", ended.err);
    assert_eq!(ground.writes(), [""; 0]);
    assert_eq!(accounts_of(&ground).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlinked_account_opens_for_nobody_and_can_be_linked_again() {
    let ground = Ground::new("unlink").await;
    let id = ground.add("alice");
    ground.sync().await;
    let mut before = ground.account("alice").await;
    assert_eq!(ground.opens("alice").await.as_deref(), Some("alice"));
    let alice = ground.n("alice");
    ground.program(&["unlink", &alice, "--yes"]).await.with_code(0);
    assert_eq!(ground.opens("alice").await, None);
    let account = ground.account("alice").await;
    assert_eq!(account.ids, set([]));
    assert_eq!(account.emails, before.emails);
    assert_eq!(ground.journal().last().unwrap().change, Change::Unlinked);
    let report = ground.sync().await;
    assert_eq!(conflicts(&report, id), ["localpart_taken"]);
    let mxid = ground.mxid("alice");
    ground.program(&["link", &alice, &mxid, "--yes"]).await.with_code(0);
    before.ids = set([ground.login("alice"), ground.marker(id)]);
    assert_eq!(ground.account("alice").await, before);
    assert_eq!(ground.opens("alice").await.as_deref(), Some("alice"));
    ground.sync().await;
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_takes_the_login_off_a_second_account_that_was_made_by_it() {
    let ground = Ground::new("second").await;
    // The account of old, and the one that Synapse made at the first login, with the address moved there.
    ground.put("alice", json!({"displayname": "Alice of old"})).await;
    ground.put("alice1", Ground::body(&[ground.login("alice")], &[ground.email("alice")])).await;
    assert_eq!(ground.opens("alice").await.as_deref(), Some("alice1"));
    let id = ground.add("alice");
    assert_eq!(conflicts(&ground.sync().await, id), ["logged_in_before"]);
    let done =
        ground.program(&["link", &ground.n("alice"), &ground.mxid("alice"), "--yes"]).await.with_code(0);
    assert!(done.out.contains(&ground.mxid("alice1")), "{}", done.out);
    assert_eq!(ground.opens("alice").await.as_deref(), Some("alice"));
    assert_eq!(ground.account("alice").await.ids, set([ground.login("alice"), ground.marker(id)]));
    assert_eq!(ground.account("alice1").await.ids, set([]));
    // The address is left where it is, and that is said.
    let report = ground.sync().await;
    assert_eq!(conflicts(&report, id), ["email_taken"]);
    assert_eq!(ground.account("alice1").await.emails, set([ground.email("alice")]));
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_renamed_who_logged_in_before_the_sync_saw_it_can_be_given_either_account() {
    let ground = Ground::new("tworoads").await;
    let id = ground.add("old");
    ground.sync().await;
    ground.rename(id, "new");
    ground.put("new", Ground::body(&[ground.login("new")], &[])).await;
    assert_eq!(ground.opens("new").await.as_deref(), Some("new"));
    let report = ground.sync().await;
    assert_eq!(conflicts(&report, id), ["subject_taken"]);
    ground.nothing_to_do().await;
    let said = of(&report, id).conflicts[0].mend();
    assert!(said.contains("unlink"), "{said}");
    // What it says is what helps.
    let (new, mxid) = (ground.n("new"), ground.mxid("old"));
    ground.program(&["unlink", &new, "--yes"]).await.with_code(0);
    ground.program(&["link", &new, &mxid, "--yes"]).await.with_code(0);
    assert_eq!(ground.opens("new").await.as_deref(), Some("old"));
    assert_eq!(ground.opens("old").await, None);
    assert_eq!(ground.account("old").await.ids, set([ground.login("new"), ground.marker(id)]));
    assert_eq!(ground.account("new").await.ids, set([]));
    ground.sync().await;
    ground.nothing_to_do().await;
}
