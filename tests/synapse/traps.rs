use defguard_synapse_sync::{
    domain::{AccountPatch, FailureClass, Field, Lookup, Mxid},
    ports::Homeserver as _,
    synapse::Synapse,
};
use serde_json::json;

use crate::{
    Account, adapter, addresses, email, emails, ids, login, marker, mxid, named, proxied,
    support::synapse::{shared, user_path},
    with_emails, with_ids,
};

async fn found(synapse: &Synapse, mxid: &Mxid) -> Account {
    match synapse.get(mxid).await {
        Lookup::Found(account) => account,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_external_id_of_somebody_else_leaves_a_half_made_account_behind() {
    let (synapse, proxy) = proxied().await;
    let (holder, late) = (mxid("trap-holder"), mxid("trap-late"));
    synapse.put(&holder, &with_ids([login("trap-held")])).await.unwrap();
    proxy.clear();
    let patch = AccountPatch {
        display_name: Field::Set("Late".to_owned()),
        threepids: emails(&["trap-late@x.org"]),
        external_ids: ids([login("trap-held"), marker("trap/late")]),
        ..AccountPatch::default()
    };
    let failure = synapse.put(&late, &patch).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(failure.why.contains("another account has one of the external ids"), "{failure}");
    assert!(failure.mend.is_some());
    assert_eq!(proxy.writes().len(), 1, "it is not tried again");

    let half = found(&synapse, &late).await;
    assert_eq!(half.summary.display_name.as_deref(), Some("Late"));
    assert_eq!(addresses(&half), ["trap-late@x.org"]);
    assert_eq!(
        Some(half.external_ids),
        ids([marker("trap/late")]),
        "the marker came first, so it shows whose it is"
    );
    assert_eq!(synapse.find_by_external_id(&login("trap-held")).await, Lookup::Found(holder));
    let again = synapse.put(&late, &AccountPatch::default()).await.unwrap();
    assert!(!again.created, "the second try finds the account there");
}

#[tokio::test]
async fn a_marker_of_somebody_else_leaves_an_account_without_any_id_behind() {
    let synapse = adapter().await;
    let (holder, late) = (mxid("trap-marker-holder"), mxid("trap-marker-late"));
    synapse.put(&holder, &with_ids([marker("trap/marked")])).await.unwrap();
    let patch = with_ids([login("trap-marker-late"), marker("trap/marked")]);
    assert_eq!(synapse.put(&late, &patch).await.unwrap_err().class, FailureClass::Permanent);
    assert!(found(&synapse, &late).await.external_ids.is_empty());
}

#[tokio::test]
async fn an_external_id_of_somebody_else_stops_an_update_half_way() {
    let synapse = adapter().await;
    let (holder, other) = (mxid("trap-upd-holder"), mxid("trap-upd-other"));
    synapse.put(&holder, &with_ids([login("trap-upd-held")])).await.unwrap();
    synapse.put(&other, &with_ids([login("trap-upd-own")])).await.unwrap();
    let patch = AccountPatch {
        threepids: emails(&["trap-upd@x.org"]),
        external_ids: ids([login("trap-upd-held")]),
        ..AccountPatch::default()
    };
    assert_eq!(synapse.put(&other, &patch).await.unwrap_err().class, FailureClass::Permanent);
    let half = found(&synapse, &other).await;
    assert_eq!(Some(half.external_ids.clone()), ids([login("trap-upd-own")]), "its own ids stay");
    assert_eq!(addresses(&half), ["trap-upd@x.org"], "what came before the ids is done");
}

#[tokio::test]
async fn an_invalid_address_leaves_a_half_made_account_behind() {
    let synapse = adapter().await;
    let account = mxid("trap-bad-mail");
    let patch = AccountPatch {
        threepids: emails(&["two@at@x.org"]),
        external_ids: ids([login("trap-bad-mail")]),
        ..AccountPatch::default()
    };
    let failure = synapse.put(&account, &patch).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(failure.why.contains("e-mail"), "{failure}");
    assert!(failure.mend.is_some());
    let half = found(&synapse, &account).await;
    assert!(half.threepids.is_empty() && half.external_ids.is_empty());
}

#[tokio::test]
async fn an_invalid_address_takes_the_old_ones_away() {
    let synapse = adapter().await;
    let account = mxid("trap-wiped");
    synapse.put(&account, &with_emails(&["trap-wiped@x.org"])).await.unwrap();
    synapse.put(&account, &with_emails(&["no address"])).await.unwrap_err();
    assert!(found(&synapse, &account).await.threepids.is_empty());
}

#[tokio::test]
async fn an_address_of_somebody_else_moves_without_a_word() {
    let synapse = adapter().await;
    let (old, new) = (mxid("trap-mail-old"), mxid("trap-mail-new"));
    let address = email("trap-moved@x.org");
    synapse.put(&old, &with_emails(&[address.as_str()])).await.unwrap();
    assert_eq!(
        synapse.find_by_email(&address).await,
        Lookup::Found(old.clone()),
        "the look-up before shows it"
    );
    assert!(synapse.put(&new, &with_emails(&[address.as_str()])).await.unwrap().account.has_email(&address));
    assert!(found(&synapse, &old).await.threepids.is_empty());
    assert_eq!(synapse.find_by_email(&address).await, Lookup::Found(new));
}

#[tokio::test]
async fn an_address_in_its_canonical_spelling_is_left_in_place() {
    let (synapse, shared) = (adapter().await, shared().await);
    let account = mxid("trap-canonical");
    let address = email("Trap-Canonical@X.org");
    synapse.put(&account, &with_emails(&[address.as_str()])).await.unwrap();
    let before = shared.account("trap-canonical").await.body["threepids"].clone();
    synapse.put(&account, &with_emails(&[address.as_str()])).await.unwrap();
    assert_eq!(shared.account("trap-canonical").await.body["threepids"], before, "not even its times change");
}

#[tokio::test]
async fn a_removed_external_id_goes_on_being_found_until_it_is_listed_again() {
    let synapse = adapter().await;
    let account = mxid("trap-stale");
    let (old, new) = (login("trap-stale-old"), login("trap-stale-new"));
    synapse.put(&account, &with_ids([old.clone()])).await.unwrap();
    assert_eq!(synapse.find_by_external_id(&old).await, Lookup::Found(account.clone()));
    synapse.put(&account, &with_ids([new.clone()])).await.unwrap();
    assert!(!found(&synapse, &account).await.external_ids.contains(&old));
    assert_eq!(
        synapse.find_by_external_id(&old).await,
        Lookup::Found(account.clone()),
        "from Synapse's cache"
    );

    synapse.put(&account, &with_ids([old.clone(), new.clone()])).await.unwrap();
    synapse.put(&account, &with_ids([new.clone()])).await.unwrap();
    assert_eq!(synapse.find_by_external_id(&old).await, Lookup::Absent, "evicted");
    assert_eq!(synapse.find_by_external_id(&new).await, Lookup::Found(account));
}

#[tokio::test]
async fn an_external_id_listed_on_its_new_owner_is_found_there() {
    let synapse = adapter().await;
    let (old, new) = (mxid("trap-id-old"), mxid("trap-id-new"));
    let id = login("trap-id-moved");
    synapse.put(&old, &with_ids([id.clone()])).await.unwrap();
    assert_eq!(synapse.find_by_external_id(&id).await, Lookup::Found(old.clone()));
    synapse.put(&old, &with_ids([])).await.unwrap();
    synapse.put(&new, &with_ids([id.clone()])).await.unwrap();
    assert_eq!(synapse.find_by_external_id(&id).await, Lookup::Found(new));
}

#[tokio::test]
async fn two_accounts_swap_their_ids_by_dropping_one_first() {
    let synapse = adapter().await;
    let (a, b) = (mxid("trap-swap-a"), mxid("trap-swap-b"));
    let (x, y) = (login("trap-swap-x"), login("trap-swap-y"));
    synapse.put(&a, &with_ids([x.clone(), marker("swap/a")])).await.unwrap();
    synapse.put(&b, &with_ids([y.clone(), marker("swap/b")])).await.unwrap();
    for id in [&x, &y] {
        assert!(matches!(synapse.find_by_external_id(id).await, Lookup::Found(_)));
    }
    synapse.put(&a, &with_ids([y.clone(), marker("swap/a")])).await.unwrap_err();
    synapse.put(&a, &with_ids([marker("swap/a")])).await.unwrap();
    synapse.put(&b, &with_ids([x.clone(), marker("swap/b")])).await.unwrap();
    synapse.put(&a, &with_ids([y.clone(), marker("swap/a")])).await.unwrap();
    assert_eq!(synapse.find_by_external_id(&x).await, Lookup::Found(b));
    assert_eq!(synapse.find_by_external_id(&y).await, Lookup::Found(a));
}

#[tokio::test]
async fn the_ids_outlive_a_deactivation_and_the_address_does_not() {
    let (synapse, shared) = (adapter().await, shared().await);
    let account = mxid("trap-gone");
    let patch = AccountPatch {
        threepids: emails(&["trap-gone@x.org"]),
        external_ids: ids([login("trap-gone"), marker("trap/gone")]),
        ..AccountPatch::default()
    };
    synapse.put(&account, &patch).await.unwrap();
    assert_eq!(shared.put_account("trap-gone", &json!({ "deactivated": true })).await.status, 200);
    let gone = found(&synapse, &account).await;
    assert!(gone.summary.deactivated && gone.threepids.is_empty());
    assert_eq!(Some(gone.external_ids), patch.external_ids);
    assert_eq!(synapse.find_by_external_id(&marker("trap/gone")).await, Lookup::Found(account));
}

#[tokio::test]
async fn a_limited_display_name_is_waited_out() {
    let (synapse, proxy) = proxied().await;
    let account = mxid("trap-limited");
    synapse.put(&account, &AccountPatch::default()).await.unwrap();
    limit(&account, 2).await;
    for n in 0..4 {
        let name = format!("Name {n}");
        assert_eq!(
            synapse.put(&account, &named(&name)).await.unwrap().account.summary.display_name,
            Some(name)
        );
    }
    let statuses: Vec<_> = proxy.writes().iter().filter_map(|seen| seen.status).collect();
    assert!(statuses.contains(&429), "Synapse did limit: {statuses:?}");
}

#[tokio::test]
async fn a_limit_in_the_middle_of_a_larger_write_is_handed_on() {
    let (synapse, proxy) = proxied().await;
    let account = mxid("trap-half-limited");
    synapse.put(&account, &AccountPatch::default()).await.unwrap();
    limit(&account, 1).await;
    let path = user_path(account.as_str());
    let mut tries = 0;
    while shared().await.admin_put(&path, &json!({ "displayname": "Used up" })).await.status != 429 {
        tries += 1;
        assert!(tries < 20, "Synapse does not limit");
    }
    proxy.clear();
    let patch = AccountPatch { threepids: emails(&["trap-half@x.org"]), ..named("Half done") };
    // The bucket may hold a token again by now; then the next write is the one that is limited.
    let failure = loop {
        match synapse.put(&account, &patch).await {
            Ok(_) => {
                let emptied = with_emails(&[]);
                synapse.put(&account, &emptied).await.unwrap();
                proxy.clear();
            }
            Err(failure) => break failure,
        }
    };
    assert!(matches!(failure.class, FailureClass::RateLimited(Some(_))), "{failure}");
    assert!(failure.why.contains("the display name was written"), "{failure}");
    assert!(failure.mend.unwrap().contains("override_ratelimit"));
    assert_eq!(proxy.writes().len(), 1, "it is not tried again");
    let half = found(&synapse, &account).await;
    assert_eq!(half.summary.display_name.as_deref(), Some("Half done"));
    assert!(half.threepids.is_empty());
}

/// Gives an account a small message rate, so that its limit is reached and over soon.
async fn limit(account: &Mxid, per_second: u32) {
    let path = format!("/_synapse/admin/v1/users/{account}/override_ratelimit");
    let body = json!({ "messages_per_second": per_second, "burst_count": 1 });
    assert_eq!(shared().await.admin_post(&path, &body).await.status, 200);
}
