use std::time::Duration;

use defguard_synapse_sync::{
    domain::FailureClass,
    http::HttpOptions,
    ports::Homeserver as _,
    synapse::{Options, Synapse},
};
use reqwest::Method;
use serde_json::json;

use crate::{
    Proxy, adapter, adapter_with, matrix_error, mxid, open, proxied,
    support::{
        proxy::{any, on},
        synapse::{VERSION, shared, user_path},
    },
};

#[tokio::test]
async fn the_server_says_its_name_its_version_and_who_we_are() {
    let info = adapter().await.identify().await.unwrap();
    assert_eq!(info.server_name.as_str(), "sync.test");
    assert_eq!(info.own, mxid("admin"));
    assert_eq!(info.version, std::env::var("TEST_SYNAPSE_VERSION").unwrap_or_else(|_| VERSION.to_owned()));
}

#[tokio::test]
async fn asking_who_is_there_writes_nothing_and_is_about_nobody() {
    let (synapse, proxy) = proxied().await;
    synapse.identify().await.unwrap();
    assert!(!proxy.requests().is_empty());
    assert!(proxy.writes().is_empty(), "{:?}", proxy.writes());
    assert!(proxy.single_person_requests().is_empty());
}

#[tokio::test]
async fn registration_is_known_to_be_open_or_closed() {
    assert!(!adapter().await.identify().await.unwrap().open_registration);
    let open = open().await;
    assert!(adapter_with(&open.url(), open.admin_token()).identify().await.unwrap().open_registration);
}

#[tokio::test]
async fn registration_counts_as_open_when_it_cannot_be_found_out() {
    let (synapse, proxy) = proxied().await;
    let register = || on(Method::POST, "/_matrix/client/v3/register");
    let unknown = [
        proxy.answer(register(), 429, matrix_error("M_LIMIT_EXCEEDED", "Too Many Requests")),
        proxy.answer(register(), 403, "<html>blocked</html>"),
        proxy.answer(register(), 503, ""),
        proxy.cut_before(register()),
    ];
    for rule in unknown {
        assert!(synapse.identify().await.unwrap().open_registration);
        proxy.remove(rule);
    }
    assert!(!synapse.identify().await.unwrap().open_registration);
}

#[tokio::test]
async fn a_token_that_is_not_valid_is_explained_and_not_shown() {
    let synapse = adapter_with(&shared().await.url(), "syt_bad_token");
    let failure = synapse.identify().await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Unauthorised);
    assert!(failure.why.contains("not (or no longer) valid"), "{failure}");
    assert!(failure.mend.as_ref().unwrap().contains("new access token"));
    assert!(!format!("{failure:?}").contains("syt_bad_token"));
    assert_eq!(synapse.list().await.unwrap_err().class, FailureClass::Unauthorised);
}

#[tokio::test]
async fn a_token_of_somebody_who_is_no_admin_is_explained() {
    let shared = shared().await;
    let user = shared.register_user("id-nobody", false).await;
    let synapse = adapter_with(&shared.url(), &user.token);
    let failure = synapse.identify().await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Unauthorised);
    assert!(failure.why.contains("You are not a server admin"), "{failure}");
    assert!(failure.mend.unwrap().contains("server admin"));
    assert_eq!(synapse.list().await.unwrap_err().class, FailureClass::Unauthorised);
}

#[tokio::test]
async fn an_admin_who_is_locked_is_told_so() {
    let shared = shared().await;
    let user = shared.register_user("id-locked-admin", true).await;
    assert_eq!(shared.admin_put(&user_path(&user.mxid), &json!({ "locked": true })).await.status, 200);
    let failure = adapter_with(&shared.url(), &user.token).identify().await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Unauthorised);
    assert!(failure.why.contains("locked"), "{failure}");
}

#[tokio::test]
async fn a_synapse_too_old_is_refused_with_the_version_that_is_needed_and_why() {
    let (synapse, proxy) = proxied().await;
    let version = on(Method::GET, "/_synapse/admin/v1/server_version");
    proxy.answer(version.clone().nth(1), 200, json!({ "server_version": "1.92.3" }));
    let failure = synapse.identify().await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    for part in ["1.92", "1.93", "locked"] {
        assert!(failure.why.contains(part), "{failure}");
    }
    proxy.answer(version.nth(1), 200, json!({ "server_version": "1.93.0" }));
    assert_eq!(synapse.identify().await.unwrap().version, "1.93.0");
}

#[tokio::test]
async fn something_else_than_synapse_behind_the_url_is_explained() {
    let (synapse, proxy) = proxied().await;
    let cases = [
        (200, "<html><title>Welcome</title></html>".to_owned(), "web page"),
        (404, "<html>404 nginx</html>".to_owned(), "web page"),
        (
            404,
            matrix_error("M_UNRECOGNIZED", "Unrecognized request").to_string(),
            "does not know the admin API",
        ),
        (404, "404 page not found".to_owned(), "without a Matrix error"),
        (200, "[]".to_owned(), "not of the expected shape"),
        (200, json!({ "server_version": "dendrite" }).to_string(), "does not begin with two numbers"),
    ];
    for (status, body, part) in cases {
        let rule = proxy.answer(any(), status, body);
        let failure = synapse.identify().await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Malformed, "{failure}");
        assert!(failure.why.contains(part), "{part}: {failure}");
        assert!(failure.mend.is_some(), "{failure}");
        proxy.remove(rule);
    }
    proxy.answer_with(any(), 302, &[("location", "https://login.example.org/start?to=alice")], "");
    let failure = synapse.identify().await.unwrap_err();
    assert!(failure.why.contains("a redirect (302) to https://login.example.org"), "{failure}");
}

#[tokio::test]
async fn a_server_that_is_away_or_broken_is_asked_again_a_few_times() {
    let (synapse, proxy) = proxied().await;
    proxy.cut_before(any().times(2));
    synapse.identify().await.unwrap();
    proxy.remove_all();
    proxy.clear();
    proxy.answer(any(), 502, "<html>Bad Gateway</html>");
    let failure = synapse.identify().await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Transient);
    assert_eq!(proxy.requests().len(), 3);

    let url = proxy.url();
    drop(proxy);
    let failure = adapter_with(&url, "token").identify().await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Transient);
    assert!(failure.why.contains("could not connect"), "{failure}");
    assert!(failure.mend.unwrap().contains("whether Synapse is running"));
}

#[tokio::test]
async fn the_server_name_is_asked_once() {
    let (synapse, proxy) = proxied().await;
    for _ in 0..3 {
        synapse.list().await.unwrap();
    }
    let asked = proxy.requests().iter().filter(|seen| seen.path.ends_with("/account/whoami")).count();
    assert_eq!((asked, proxy.requests().len()), (1, 4));
}

#[tokio::test]
async fn a_slow_answer_is_given_up() {
    let shared = shared().await;
    let proxy = Proxy::start(&shared.url()).await;
    let synapse = Synapse::new(Options {
        url: proxy.url().parse().unwrap(),
        token: shared.admin_token().to_owned().into(),
        http: HttpOptions { timeout: Duration::from_millis(50), tries: 1, ..HttpOptions::default() },
    })
    .unwrap();
    let _held = proxy.hold_before(any());
    let failure = synapse.list().await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Transient);
    assert!(failure.why.contains("no answer in time"), "{failure}");
}
