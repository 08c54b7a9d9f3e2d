use defguard_synapse_sync::{
    domain::{Email, FailureClass, Lookup},
    ports::Homeserver as _,
    synapse::ReadOnly,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    adapter, adapter_with, addresses, email, login, marker, matrix_error, mxid, named, open, proxied,
    support::{
        proxy::{any, on},
        synapse::shared,
    },
    unknown, with_emails, with_ids,
};

#[tokio::test]
async fn the_list_shows_every_kind_of_account_with_its_marks() {
    let open = open().await;
    let synapse = adapter_with(&open.url(), open.admin_token());
    for (localpart, body) in [
        ("list-plain", json!({ "displayname": "Plain Person" })),
        ("list-unnamed", json!({ "displayname": "" })),
        ("list-locked", json!({})),
        ("list-gone", json!({})),
        ("list-bot", json!({ "user_type": "bot" })),
        ("list-admin", json!({ "admin": true })),
    ] {
        assert_eq!(open.put_account(localpart, &body).await.status, 201);
    }
    assert_eq!(open.put_account("list-locked", &json!({ "locked": true })).await.status, 200);
    assert_eq!(open.put_account("list-gone", &json!({ "deactivated": true })).await.status, 200);
    let guest =
        open.call(Method::POST, "/_matrix/client/v3/register?kind=guest", None, Some(&json!({}))).await;
    let guest = guest.body["user_id"].as_str().unwrap().to_owned();

    let list = synapse.list().await.unwrap();
    let of = |localpart: &str| list[&mxid(localpart)].clone();
    let plain = of("list-plain");
    assert_eq!(plain.display_name.as_deref(), Some("Plain Person"));
    assert!(!plain.deactivated && !plain.locked && !plain.admin && !plain.guest && plain.user_type.is_none());
    assert_eq!(of("list-unnamed").display_name, None);
    assert!(of("list-locked").locked);
    assert!(of("list-gone").deactivated);
    assert_eq!(of("list-bot").user_type.as_deref(), Some("bot"));
    assert!(of("list-admin").admin);
    let guest = list.iter().find(|(mxid, _)| mxid.as_str() == guest).unwrap().1;
    assert!(guest.guest);

    for localpart in ["list-plain", "list-locked", "list-gone", "list-bot"] {
        let Lookup::Found(account) = synapse.get(&mxid(localpart)).await else { panic!("{localpart}") };
        assert_eq!(account.summary, of(localpart), "the list and the account say the same");
    }
}

#[tokio::test]
async fn the_list_is_one_request_however_many_accounts_there_are() {
    let shared = shared().await;
    for n in 0..120 {
        assert_eq!(shared.put_account(&format!("many-{n}"), &json!({})).await.status, 201);
    }
    let (synapse, proxy) = proxied().await;
    synapse.identify().await.unwrap();
    proxy.clear();
    let list = synapse.list().await.unwrap();
    assert!((0..120).all(|n| list.contains_key(&mxid(&format!("many-{n}")))));
    assert_eq!(proxy.requests().len(), 1 + 1, "the list, and our server name once");
}

#[tokio::test]
async fn a_list_that_is_not_whole_is_no_list() {
    let (synapse, proxy) = proxied().await;
    let row = |name: &str| {
        json!({ "name": name, "displayname": null, "deactivated": false, "locked": false, "admin": false,
                "is_guest": false, "user_type": null })
    };
    let mut unlocked = row("@a:sync.test");
    unlocked.as_object_mut().unwrap().remove("locked");
    let bad = [
        json!({ "users": [row("@a:sync.test")], "total": 2, "next_token": "1" }),
        json!({ "users": [row("@a:sync.test"), row("@a:sync.test")], "total": 2 }),
        json!({ "users": [row("@a:sync.test")] }),
        json!({ "users": [unlocked], "total": 1 }),
        json!({ "users": [{}], "total": 1 }),
        json!({}),
        Value::Null,
    ];
    for body in bad {
        let rule = proxy.answer(on(Method::GET, "/v2/users?"), 200, &body);
        let failure = synapse.list().await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Malformed, "{body}");
        proxy.remove(rule);
    }
    let good = json!({ "users": [row("@a:sync.test"), row("no mxid")], "total": 2 });
    proxy.answer(on(Method::GET, "/v2/users?"), 200, good);
    assert_eq!(synapse.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn nobody_is_absent_unless_synapse_itself_says_so() {
    let (synapse, proxy) = proxied().await;
    let (account, id, address) = (mxid("read-nobody"), login("read-nobody"), email("read-nobody@x.org"));
    assert_eq!(synapse.get(&account).await, Lookup::Absent);
    assert_eq!(synapse.find_by_external_id(&id).await, Lookup::Absent);
    assert_eq!(synapse.find_by_email(&address).await, Lookup::Absent);

    for (status, body, class) in [
        (404, matrix_error("M_UNRECOGNIZED", "Unrecognized request").to_string(), FailureClass::Malformed),
        (404, "<html>not found</html>".to_owned(), FailureClass::Malformed),
        (404, String::new(), FailureClass::Malformed),
        (404, json!({ "errcode": 7 }).to_string(), FailureClass::Malformed),
        (410, matrix_error("M_NOT_FOUND", "Gone").to_string(), FailureClass::Permanent),
        (200, json!({}).to_string(), FailureClass::Malformed),
        (
            200,
            json!({ "user_id": "@a:elsewhere.test", "name": "@a:elsewhere.test" }).to_string(),
            FailureClass::Malformed,
        ),
        (400, matrix_error("M_INVALID_PARAM", "?").to_string(), FailureClass::Permanent),
        (500, matrix_error("M_UNKNOWN", "Internal server error").to_string(), FailureClass::Transient),
        (
            403,
            matrix_error("M_FORBIDDEN", "You are not a server admin").to_string(),
            FailureClass::Unauthorised,
        ),
    ] {
        let rule = proxy.answer(on(Method::GET, "read-nobody"), status, &body);
        for failure in [
            unknown(synapse.get(&account).await),
            unknown(synapse.find_by_external_id(&id).await),
            unknown(synapse.find_by_email(&address).await),
        ] {
            assert_eq!(failure.class, class, "{status} {body}: {failure}");
            assert!(failure.mend.is_some(), "{failure}");
        }
        proxy.remove(rule);
    }
    proxy.cut_before(any());
    assert_eq!(unknown(synapse.get(&account).await).class, FailureClass::Transient);
}

#[tokio::test]
async fn an_answer_about_somebody_else_is_not_taken() {
    let (synapse, proxy) = proxied().await;
    let other = shared().await.account("admin").await.body;
    proxy.answer(on(Method::GET, "read-asked"), 200, other);
    assert_eq!(unknown(synapse.get(&mxid("read-asked")).await).class, FailureClass::Malformed);
}

#[tokio::test]
async fn an_account_is_found_by_any_external_id_that_a_url_can_hold() {
    let synapse = adapter().await;
    for (n, subject) in
        ["o'brien", "Ünï cödé", "a/b/c", "50%41", "p+q r", "q?x=1#y", "...", "x@y", "\u{1f600}", "tab\there"]
            .iter()
            .enumerate()
    {
        let account = mxid(&format!("read-odd-{n}"));
        synapse.put(&account, &with_ids([login(subject), marker(&format!("odd/{n}"))])).await.unwrap();
        assert_eq!(synapse.find_by_external_id(&login(subject)).await, Lookup::Found(account), "{subject}");
    }
    assert_eq!(synapse.find_by_external_id(&login("O'BRIEN")).await, Lookup::Absent, "case matters");
    let other_provider = marker("o'brien");
    assert_eq!(synapse.find_by_external_id(&other_provider).await, Lookup::Absent);
}

#[tokio::test]
async fn a_value_that_no_url_can_hold_is_not_asked_for() {
    let (synapse, proxy) = proxied().await;
    for subject in ["", ".", ".."] {
        let failure = unknown(synapse.find_by_external_id(&login(subject)).await);
        assert_eq!(failure.class, FailureClass::Permanent);
    }
    assert!(proxy.requests().is_empty());
}

#[tokio::test]
async fn an_e_mail_address_is_kept_and_found_in_the_spelling_that_we_compute() {
    let synapse = adapter().await;
    for (n, text) in [
        " Read.Spelling@Example.ORG ",
        "straße-read@Straße.org",
        "İ-read@x.org",
        "o'brien-read@example.com",
        "plus+tag-read@example.com",
        "sla/sh-read@example.com",
        "per%cent-read@example.com",
        "ΣΑΣ-read@example.com",
        "@",
    ]
    .iter()
    .enumerate()
    {
        let account = mxid(&format!("read-mail-{n}"));
        let body = json!({ "threepids": [{ "medium": "email", "address": text }] });
        let written = shared().await.put_account(account.localpart(), &body).await;
        assert_eq!(written.status, 201, "{text}");
        let address = Email::canonical(text).unwrap();
        let Lookup::Found(kept) = synapse.get(&account).await else { panic!("{text}") };
        assert_eq!(addresses(&kept), [address.as_str()], "{text}");
        assert!(kept.has_email(&address));
        assert_eq!(synapse.find_by_email(&address).await, Lookup::Found(account), "{text}");
    }
}

#[tokio::test]
async fn a_dry_run_reads_everything_and_writes_nothing() {
    let (synapse, proxy) = proxied().await;
    let account = mxid("read-dry");
    synapse.put(&account, &with_ids([login("read-dry")])).await.unwrap();
    synapse.put(&account, &with_emails(&["read-dry@x.org"])).await.unwrap();
    proxy.clear();
    let dry = ReadOnly(synapse);
    dry.identify().await.unwrap();
    assert!(dry.list().await.unwrap().contains_key(&account));
    assert!(matches!(dry.get(&account).await, Lookup::Found(_)));
    assert_eq!(dry.find_by_external_id(&login("read-dry")).await, Lookup::Found(account.clone()));
    assert_eq!(dry.find_by_email(&email("read-dry@x.org")).await, Lookup::Found(account.clone()));
    assert_eq!(dry.put(&account, &named("Other")).await.unwrap_err().class, FailureClass::Permanent);
    assert!(proxy.writes().is_empty());
}
