use defguard_synapse_sync::{
    domain::{AccountPatch, FailureClass, Field, Localpart, Lookup, Mxid, ServerName, ThreePid},
    ports::Homeserver as _,
};
use serde_json::json;

use crate::{
    adapter, adapter_with, addresses, email, emails, ids, login, marker, mxid, named, open, proxied,
    support::synapse::shared, with_emails, with_ids,
};

#[tokio::test]
async fn one_request_makes_a_whole_account_and_shows_it() {
    let (synapse, proxy) = proxied().await;
    synapse.list().await.unwrap();
    proxy.clear();
    let account = mxid("put-whole");
    let patch = AccountPatch {
        display_name: Field::Set("Whole Person".to_owned()),
        threepids: emails(&["put-whole@x.org"]),
        external_ids: ids([login("put-whole"), marker("hq/1")]),
        ..AccountPatch::default()
    };
    let written = synapse.put(&account, &patch).await.unwrap();
    assert!(written.created);
    assert_eq!(written.account.summary.display_name.as_deref(), Some("Whole Person"));
    assert_eq!(addresses(&written.account), ["put-whole@x.org"]);
    assert_eq!(Some(&written.account.external_ids), patch.external_ids.as_ref());
    assert!(
        written.account.created_at > 1_700_000_000 && written.account.created_at < 100_000_000_000,
        "seconds"
    );
    assert_eq!(proxy.requests().len(), 1);
    assert_eq!(synapse.get(&account).await, Lookup::Found(written.account));
}

#[tokio::test]
async fn an_empty_write_tells_a_new_account_from_an_old_one_and_changes_nothing() {
    let synapse = adapter().await;
    let account = mxid("put-empty");
    assert!(synapse.put(&account, &AccountPatch::default()).await.unwrap().created);
    let filled = synapse.put(&account, &with_ids([login("put-empty")])).await.unwrap();
    let again = synapse.put(&account, &AccountPatch::default()).await.unwrap();
    assert!(!filled.created && !again.created);
    assert_eq!(again.account, filled.account);
    assert_eq!(
        again.account.summary.display_name.as_deref(),
        Some("put-empty"),
        "a new account is called its localpart"
    );
}

#[tokio::test]
async fn only_what_changes_is_sent() {
    let (synapse, proxy) = proxied().await;
    let account = mxid("put-keys");
    synapse.put(&account, &AccountPatch::default()).await.unwrap();
    proxy.clear();
    synapse.put(&account, &named("Name")).await.unwrap();
    synapse.put(&account, &with_emails(&["put-keys@x.org"])).await.unwrap();
    synapse.put(&account, &with_ids([login("put-keys")])).await.unwrap();
    let bodies: Vec<_> = proxy.writes().into_iter().map(|seen| seen.body).collect();
    let id = json!({ "auth_provider": "oidc-Defguard", "external_id": "put-keys" });
    assert_eq!(
        bodies,
        [
            json!({ "displayname": "Name" }),
            json!({ "threepids": [{ "medium": "email", "address": "put-keys@x.org" }] }),
            json!({ "external_ids": [id] }),
        ]
    );
    let Lookup::Found(kept) = synapse.get(&account).await else { panic!("it is gone") };
    assert_eq!(kept.summary.display_name.as_deref(), Some("Name"));
    assert!(kept.has_email(&email("put-keys@x.org")) && kept.external_ids.contains(&login("put-keys")));
}

#[tokio::test]
async fn a_display_name_can_be_taken_away() {
    let synapse = adapter().await;
    let unset = AccountPatch { display_name: Field::Unset, ..AccountPatch::default() };
    let fresh = synapse.put(&mxid("put-unset-fresh"), &unset).await.unwrap();
    assert!(fresh.created);
    assert_eq!(fresh.account.summary.display_name, None);
    let account = mxid("put-unset");
    synapse.put(&account, &named("Name")).await.unwrap();
    assert_eq!(synapse.put(&account, &unset).await.unwrap().account.summary.display_name, None);
    let blank = synapse.put(&account, &named("  ")).await.unwrap();
    assert_eq!(blank.account.summary.display_name, None, "Synapse keeps blanks as an empty name");
}

#[tokio::test]
async fn the_lists_are_replaced_whole() {
    let synapse = adapter().await;
    let account = mxid("put-lists");
    let phone = ThreePid { medium: "msisdn".to_owned(), address: "4915112345678".to_owned() };
    let foreign = crate::ExternalId { auth_provider: "saml".to_owned(), external_id: "put-lists".to_owned() };
    let mut all = emails(&["put-lists@x.org"]).unwrap();
    all.insert(phone.clone());
    let patch = AccountPatch {
        threepids: Some(all.clone()),
        external_ids: ids([login("put-lists"), foreign.clone()]),
        ..AccountPatch::default()
    };
    let written = synapse.put(&account, &patch).await.unwrap().account;
    assert_eq!((&written.threepids, written.external_ids.len()), (&all, 2));

    let written = synapse.put(&account, &with_ids([login("put-lists")])).await.unwrap().account;
    assert!(!written.external_ids.contains(&foreign), "what is not sent is gone");
    assert_eq!(written.threepids, all, "and the other list is not touched");
    let written = synapse.put(&account, &with_emails(&[])).await.unwrap().account;
    assert!(written.threepids.is_empty());
    assert_eq!(written.external_ids.len(), 1);
}

#[tokio::test]
async fn a_localpart_is_accepted_by_us_exactly_when_synapse_registers_it() {
    let synapse = adapter().await;
    let server = ServerName::try_from("sync.test").unwrap();
    let longest = "x".repeat(255 - "@:sync.test".len());
    let (longer, odd) = (format!("{longest}x"), "put-a/b=+.-_");
    for localpart in [
        longest.as_str(),
        &longer,
        odd,
        "=5fput",
        "_put",
        "12345",
        "1put",
        "putupperCASE",
        "put blank",
        "putä",
        ".",
        "..",
    ] {
        let Ok(account) = Mxid::parse(&format!("@{localpart}:sync.test"), &server) else {
            assert!(Localpart::new(localpart, &server).is_err(), "{localpart}");
            continue;
        };
        match synapse.put(&account, &AccountPatch::default()).await {
            Ok(written) => {
                assert!(written.created, "{localpart}");
                assert!(Localpart::new(localpart, &server).is_ok(), "{localpart}");
                assert!(matches!(synapse.get(&account).await, Lookup::Found(_)), "{localpart}");
            }
            Err(failure) => {
                assert!(Localpart::new(localpart, &server).is_err(), "{localpart}: {failure}");
                assert_eq!(failure.class, FailureClass::Permanent);
                assert!(failure.why.contains("M_INVALID_USERNAME"), "{failure}");
                assert!(failure.mend.unwrap().contains("localpart_template"));
                assert_eq!(synapse.get(&account).await, Lookup::Absent, "{localpart}");
            }
        }
    }
}

#[tokio::test]
async fn a_localpart_that_a_bridge_keeps_for_itself_is_explained() {
    let open = open().await;
    let synapse = adapter_with(&open.url(), open.admin_token());
    let failure = synapse.put(&mxid("bridge-alice"), &AccountPatch::default()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(failure.why.contains("bridge") && failure.why.contains("M_EXCLUSIVE"), "{failure}");
    assert!(failure.mend.is_some());
}

#[tokio::test]
async fn an_account_that_a_bridge_made_shows_it() {
    let open = open().await;
    let made = open
        .call(
            reqwest::Method::POST,
            "/_matrix/client/v3/register",
            Some("as-token"),
            Some(&json!({ "type": "m.login.application_service", "username": "bridge-bob" })),
        )
        .await;
    assert_eq!(made.status, 200, "{made:?}");
    let synapse = adapter_with(&open.url(), open.admin_token());
    let Lookup::Found(account) = synapse.get(&mxid("bridge-bob")).await else { panic!("it is not there") };
    assert_eq!(account.appservice.as_deref(), Some("bridge"));
}

#[tokio::test]
async fn a_display_name_is_limited_only_on_an_account_that_exists() {
    let synapse = adapter().await;
    let account = mxid("put-long-name");
    let (longest, longer) = ("\u{1f600}".repeat(256), "x".repeat(257));
    assert_eq!(
        synapse.put(&account, &named(&longer)).await.unwrap().account.summary.display_name,
        Some(longer.clone())
    );
    assert_eq!(
        synapse.put(&account, &named(&longest)).await.unwrap().account.summary.display_name,
        Some(longest)
    );
    let failure = synapse.put(&account, &named(&longer)).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(failure.why.contains("256"), "{failure}");
    assert!(failure.mend.unwrap().contains("display_name_template"));
}

#[tokio::test]
async fn a_nul_is_refused_before_anything_is_sent() {
    let (synapse, proxy) = proxied().await;
    let account = mxid("put-nul");
    for patch in [named("a\0b"), with_emails(&["a\0@x.org"]), with_ids([login("a\0b")])] {
        let failure = synapse.put(&account, &patch).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Permanent);
        assert!(failure.why.contains("NUL"), "{failure}");
    }
    assert!(proxy.requests().is_empty());
}

#[tokio::test]
async fn of_many_who_make_one_account_at_once_one_is_told_that_they_made_it() {
    let synapse = adapter().await;
    let account = mxid("put-race");
    let patch = AccountPatch::default();
    let results = futures_util::future::join_all((0..8).map(|_| synapse.put(&account, &patch))).await;
    let created = results.iter().flatten().filter(|written| written.created).count();
    assert_eq!(created, 1, "{results:?}");
    for failure in results.into_iter().filter_map(Result::err) {
        assert_eq!(failure.class, FailureClass::Transient, "{failure}");
    }
}

#[tokio::test]
async fn a_write_needs_an_admin() {
    let shared = shared().await;
    let user = shared.register_user("put-nobody", false).await;
    let synapse = adapter_with(&shared.url(), &user.token);
    let failure = synapse.put(&mxid("put-by-nobody"), &AccountPatch::default()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Unauthorised);
    assert!(failure.mend.unwrap().contains("server admin"));
    assert_eq!(shared.account("put-by-nobody").await.status, 404);
}
