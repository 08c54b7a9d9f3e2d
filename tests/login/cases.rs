//! What becomes of people who log in before and after they were provisioned, renamed, locked, replaced or in each other's
//! way.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    house::{PASSWORD, Room},
    support::{
        browser::{Browser, Outcome},
        synapse::user_path,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_provisioned_logs_in_to_that_account_with_that_name() {
    let room = Room::new("first").await;
    room.add("alice");
    room.sync().await;
    assert_eq!(room.accounts().await, ["alice"]);
    let before = room.display_name(&room.mxid("alice")).await;
    let outcome = room.log_in("alice").await;
    assert_eq!(outcome.mxid(), room.mxid("alice"));
    let Outcome::In { token, .. } = outcome else { unreachable!() };
    let whoami = room
        .synapse()
        .call(reqwest::Method::GET, "/_matrix/client/v3/account/whoami", Some(&token), None)
        .await;
    assert_eq!(whoami.body["user_id"], json!(room.mxid("alice")));
    assert_eq!(before, "alice first");
    assert_eq!(room.display_name(&room.mxid("alice")).await, before);
    assert_eq!(room.accounts().await, ["alice"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_logged_in_first_is_linked_and_gets_no_second_account() {
    let room = Room::with_policy("before", "adopt").await;
    let id = room.add("bob");
    assert_eq!(room.log_in("bob").await.mxid(), room.mxid("bob"));
    assert_eq!(room.display_name(&room.mxid("bob")).await, "bob before");
    // Accounts that were there before the first run become people's only with somebody's yes.
    room.sync_and_approve().await;
    assert_eq!(room.accounts().await, ["bob"]);
    assert_eq!(
        room.ids("bob").await,
        [format!("defguard-synapse-sync:before/{id}"), format!("oidc-Defguard:{}", room.n("bob"))]
    );
    assert_eq!(room.log_in("bob").await.mxid(), room.mxid("bob"));
    assert_eq!(room.accounts().await, ["bob"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_renamed_between_two_logins_keeps_the_account() {
    let room = Room::new("renamed").await;
    let id = room.add("carol");
    room.sync().await;
    assert_eq!(room.log_in("carol").await.mxid(), room.mxid("carol"));
    room.defguard().rename(id, &room.n("caroline"));
    room.sync().await;
    assert_eq!(room.log_in("caroline").await.mxid(), room.mxid("carol"));
    assert_eq!(room.accounts().await, ["carol"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_username_that_is_used_again_never_opens_the_old_account() {
    let room = Room::new("again").await;
    let old = room.add("dave");
    room.sync().await;
    // Into Synapse's cache of logins, too.
    assert_eq!(room.log_in("dave").await.mxid(), room.mxid("dave"));
    room.defguard().rename(old, &room.n("david"));
    let new = room.add_other("dave", "dave.two@example.com");
    assert_ne!(old, new);
    room.sync().await;
    let outcome = room.log_in("dave").await;
    assert_ne!(outcome.mxid(), room.mxid("dave"), "the old owner's account");
    assert_eq!(room.log_in("david").await.mxid(), room.mxid("dave"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_locked_is_refused_and_gets_no_other_account() {
    let room = Room::new("locked").await;
    room.add("erin");
    room.sync().await;
    let lock = |locked: bool| {
        let path = user_path(&room.mxid("erin"));
        let room = &room;
        async move {
            let reply = room.synapse().admin_put(&path, &json!({"locked": locked})).await;
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    };
    lock(true).await;
    match room.log_in("erin").await {
        Outcome::Refused(reply) => {
            assert_eq!((reply.status, &reply.body["errcode"]), (401, &json!("M_USER_LOCKED")));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(room.accounts().await, ["erin"]);
    lock(false).await;
    assert_eq!(room.log_in("erin").await.mxid(), room.mxid("erin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_disabled_in_defguard_cannot_log_in_there() {
    let room = Room::new("disabled").await;
    let id = room.add("frank");
    room.sync().await;
    room.defguard().set_active(id, false);
    match room.log_in("frank").await {
        Outcome::Page { status: 401, url, .. } => assert_eq!(url.path(), "/api/v1/auth"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_username_whose_owner_was_deleted_never_opens_their_account_for_somebody_else() {
    let room = Room::new("deleted").await;
    let old = room.add("dora");
    room.sync().await;
    assert_eq!(room.log_in("dora").await.mxid(), room.mxid("dora"));
    room.defguard().delete(old);
    room.add_other("dora", "dora.two@example.com");
    room.sync().await;
    let outcome = room.log_in("dora").await;
    assert!(!matches!(&outcome, Outcome::In { mxid, .. } if *mxid == room.mxid("dora")), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_disabled_is_locked_out_everywhere_until_the_sync_sees_them_back() {
    let room = Room::new("left").await;
    let id = room.add("kim");
    room.sync().await;
    let Outcome::In { token, .. } = room.log_in("kim").await else { panic!("no login") };
    let whoami = async || {
        let path = "/_matrix/client/v3/account/whoami";
        let reply = room.synapse().call(reqwest::Method::GET, path, Some(&token), None).await;
        reply.body["errcode"].as_str().unwrap_or("").to_owned()
    };
    room.defguard().set_active(id, false);
    room.sync().await;
    assert_eq!(whoami().await, "M_USER_LOCKED");
    // Back in Defguard, which lets them through, but not yet in Synapse.
    room.defguard().set_active(id, true);
    match room.log_in("kim").await {
        Outcome::Refused(reply) => assert_eq!(reply.body["errcode"], json!("M_USER_LOCKED")),
        other => panic!("{other:?}"),
    }
    room.sync().await;
    assert_eq!(room.log_in("kim").await.mxid(), room.mxid("kim"));
    assert_eq!(whoami().await, "");
    assert_eq!(room.accounts().await, ["kim"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_signed_without_a_key_is_refused_by_synapse() {
    let room = Room::new("hmac").await;
    room.add("judy");
    room.sync().await;
    room.defguard().state().provider.hmac = true;
    let outcome = room.log_in("judy").await;
    room.defguard().state().provider.hmac = false;
    match outcome {
        Outcome::Page { status: 400, text, .. } => assert!(text.contains("invalid_token"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_provisioned_only_nobody_gets_an_account_by_a_login() {
    let room = Room::new("only").await;
    room.close_registration(true).await;
    room.add("ivan");
    room.sync().await;
    room.add("late");
    assert_eq!(room.log_in("ivan").await.mxid(), room.mxid("ivan"));
    match room.log_in("late").await {
        Outcome::Page { status: 400, text, .. } => {
            assert!(text.contains("registrations are disabled"), "{text}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(room.accounts().await, ["ivan"]);
    room.sync().await;
    assert_eq!(room.log_in("late").await.mxid(), room.mxid("late"));
    room.close_registration(false).await;
}

/// Somebody has registered the localpart of a person before there was Defguard. What the first login opens, under each
/// policy, after a sync and a login.
async fn conflict(
    name: &'static str,
    policy: &str,
    same_email: bool,
    is_adopted: bool,
) -> (String, Vec<String>) {
    let room = Room::with_policy(name, policy).await;
    room.add("grace");
    let email =
        if same_email { format!("{}@example.com", room.n("grace")) } else { "else@example.com".to_owned() };
    let body = json!({"displayname": "Was here", "threepids": [{"medium": "email", "address": email}]});
    assert_eq!(room.synapse().put_account(&room.n("grace"), &body).await.status, 201);
    if is_adopted {
        room.sync_and_approve().await;
    } else {
        room.sync().await;
    }
    let outcome = room.log_in("grace").await;
    let mxid = outcome.mxid().replace(&format!("@{name}."), "").replace(":login.test", "");
    (mxid, room.accounts().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn under_report_the_login_never_opens_the_account_in_the_way() {
    // The sync leaves it alone; Synapse itself makes a second one, of which the sync has warned.
    let (mxid, accounts) = conflict("report", "report", true, false).await;
    assert_eq!((mxid.as_str(), accounts), ("grace1", vec!["grace".to_owned(), "grace1".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_adopt_the_login_opens_the_account_that_was_there() {
    let (mxid, accounts) = conflict("adopt", "adopt", false, true).await;
    assert_eq!((mxid.as_str(), accounts), ("grace", vec!["grace".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_adopt_if_same_email_the_login_opens_only_an_account_with_the_same_address() {
    let (mxid, accounts) = conflict("same", "adopt-if-same-email", true, true).await;
    assert_eq!((mxid.as_str(), accounts), ("grace", vec!["grace".to_owned()]));
    let (mxid, _) = conflict("other", "adopt-if-same-email", false, false).await;
    assert_eq!(mxid, "grace1");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_suffix_the_login_opens_the_account_that_was_made_with_a_number() {
    let (mxid, accounts) = conflict("suffix", "suffix", true, false).await;
    assert_eq!((mxid.as_str(), accounts), ("grace1", vec!["grace".to_owned(), "grace1".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_people_in_a_row_open_fifty_right_accounts() {
    let room = Room::new("fifty").await;
    for number in 0..50 {
        room.add(&format!("p{number}"));
    }
    room.sync().await;
    let mut opened = BTreeMap::new();
    for number in 0..50 {
        let who = format!("p{number}");
        let outcome = room.log_in(&who).await;
        opened.insert(room.mxid(&who), outcome.mxid().to_owned());
    }
    let wrong: Vec<_> = opened.iter().filter(|(wanted, got)| wanted != got).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(room.accounts().await.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_login_asks_for_no_consent_and_no_password() {
    let room = Room::new("twice").await;
    room.add("heidi");
    room.sync().await;
    let mut browser = Browser::default();
    let name = room.n("heidi");
    let first = browser.log_in(room.synapse(), "oidc-Defguard", &name, PASSWORD).await;
    let steps = browser.visited.len();
    assert!(browser.visited.iter().any(|step| step.ends_with("/consent")), "{:?}", browser.visited);
    let second = browser.log_in(room.synapse(), "oidc-Defguard", &name, "not asked for").await;
    assert_eq!(first.mxid(), second.mxid());
    let again = &browser.visited[steps..];
    assert!(!again.iter().any(|step| step.ends_with("/consent") || step.starts_with("POST")), "{again:?}");
}
