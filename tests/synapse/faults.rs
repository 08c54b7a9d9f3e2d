use std::{sync::Arc, time::Duration};

use defguard_synapse_sync::{
    domain::{AccountPatch, FailureClass, Lookup},
    ports::Homeserver as _,
};
use reqwest::Method;
use serde_json::json;

use crate::{
    adapter, adapter_with, login, matrix_error, mxid, named, proxied,
    support::{
        proxy::on,
        synapse::{Options, Synapse, shared},
    },
    unknown, with_emails, with_ids,
};

#[tokio::test]
async fn a_write_whose_answer_is_lost_was_done_and_is_not_repeated() {
    let (synapse, proxy) = proxied().await;
    let account = mxid("fault-lost");
    proxy.cut_after(on(Method::PUT, "fault-lost").nth(1));
    let failure = synapse.put(&account, &with_ids([login("fault-lost")])).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Transient);
    assert_eq!(proxy.writes().len(), 1);
    let Lookup::Found(written) = synapse.get(&account).await else { panic!("it was not done") };
    assert!(written.external_ids.contains(&login("fault-lost")));
    assert!(!synapse.put(&account, &AccountPatch::default()).await.unwrap().created);
}

#[tokio::test]
async fn a_write_that_was_cut_on_its_way_is_not_repeated() {
    let (synapse, proxy) = proxied().await;
    let account = mxid("fault-cut");
    proxy.cut_before(on(Method::PUT, "fault-cut").nth(1));
    let failure = synapse.put(&account, &named("Cut")).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Transient);
    assert_eq!(proxy.writes().len(), 1);
    assert_eq!(synapse.get(&account).await, Lookup::Absent);
}

#[tokio::test]
async fn a_write_that_the_server_could_not_do_is_not_repeated() {
    let (synapse, proxy) = proxied().await;
    let cases = [
        (
            500,
            matrix_error("M_UNKNOWN", "Internal server error").to_string(),
            FailureClass::Transient,
            "Synapse failed",
        ),
        (502, "<html>Bad Gateway</html>".to_owned(), FailureClass::Transient, "could not serve"),
        (
            405,
            matrix_error("M_UNRECOGNIZED", "Unrecognized request").to_string(),
            FailureClass::Permanent,
            "only reads",
        ),
        (
            404,
            matrix_error("M_UNRECOGNIZED", "Unrecognized request").to_string(),
            FailureClass::Malformed,
            "does not know",
        ),
        (
            403,
            matrix_error(
                "M_FORBIDDEN",
                "User creation via the Admin API is not available when Synapse is delegating \
              authentication to MAS. Create the user via MAS instead.",
            )
            .to_string(),
            FailureClass::Permanent,
            "MAS",
        ),
        (
            400,
            matrix_error("M_USER_IN_USE", "User ID already taken.").to_string(),
            FailureClass::Transient,
            "at this very moment",
        ),
        (
            401,
            matrix_error("M_UNKNOWN_TOKEN", "Invalid access token").to_string(),
            FailureClass::Unauthorised,
            "no longer",
        ),
        (200, "<html>Welcome</html>".to_owned(), FailureClass::Malformed, "web page"),
        (
            201,
            json!({ "name": "@fault-other:sync.test" }).to_string(),
            FailureClass::Malformed,
            "expected shape",
        ),
        (405, "<html>Not Allowed</html>".to_owned(), FailureClass::Malformed, "web page"),
        (401, "<html>Please log in</html>".to_owned(), FailureClass::Malformed, "before Synapse"),
        (403, String::new(), FailureClass::Malformed, "before Synapse"),
        (204, String::new(), FailureClass::Malformed, "no Matrix error"),
    ];
    for (status, body, class, part) in cases {
        let rule = proxy.answer(on(Method::PUT, "fault-refused"), status, body);
        proxy.clear();
        let failure = synapse.put(&mxid("fault-refused"), &with_emails(&[])).await.unwrap_err();
        assert_eq!(failure.class, class, "{status}: {failure}");
        assert!(failure.why.contains(part), "{part}: {failure}");
        assert!(failure.mend.is_some(), "{failure}");
        assert_eq!(proxy.writes().len(), 1, "{failure}");
        proxy.remove(rule);
    }
}

#[tokio::test]
async fn a_write_that_a_proxy_sends_away_for_a_while_is_waited_for() {
    let (synapse, proxy) = proxied().await;
    let limited = json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests", "retry_after_ms": 5 });
    proxy.answer(on(Method::PUT, "fault-limited").times(1), 429, &limited);
    assert!(
        synapse.put(&mxid("fault-limited"), &with_emails(&["fault-limited@x.org"])).await.unwrap().created
    );
    assert_eq!(proxy.writes().len(), 2);
}

#[tokio::test]
async fn a_pause_that_is_too_long_is_not_waited_for() {
    let (synapse, proxy) = proxied().await;
    let limited =
        json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests", "retry_after_ms": 3_600_000 });
    proxy.answer(on(Method::PUT, "fault-long"), 429, &limited);
    let failure = synapse.put(&mxid("fault-long"), &named("Long")).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::RateLimited(Some(Duration::from_secs(3600))));
    assert_eq!(proxy.writes().len(), 1);
}

#[tokio::test]
async fn an_account_that_turns_up_between_look_up_and_create_shows_by_the_answer() {
    let (synapse, proxy) = proxied().await;
    let account = mxid("fault-between");
    assert_eq!(synapse.get(&account).await, Lookup::Absent);
    let server = shared().await;
    proxy.before(on(Method::PUT, "fault-between").nth(1), move || async move {
        server.register_user("fault-between", false).await;
    });
    let written = synapse.put(&account, &AccountPatch::default()).await.unwrap();
    assert!(!written.created);
    assert!(written.account.external_ids.is_empty());
}

#[tokio::test]
async fn a_held_request_waits_and_one_that_is_given_up_never_arrives() {
    let (synapse, proxy) = proxied().await;
    let synapse = Arc::new(synapse);
    let put = |localpart: &'static str| {
        let synapse = synapse.clone();
        tokio::spawn(async move { synapse.put(&mxid(localpart), &AccountPatch::default()).await })
    };
    let mut held = proxy.hold_before(on(Method::PUT, "fault-held-1"));
    let writing = put("fault-held-1");
    held.reached().await;
    assert_eq!(adapter().await.get(&mxid("fault-held-1")).await, Lookup::Absent);
    held.release();
    assert!(writing.await.unwrap().unwrap().created);

    let mut held = proxy.hold_after(on(Method::PUT, "fault-held-2"));
    let writing = put("fault-held-2");
    held.reached().await;
    assert!(!writing.is_finished());
    assert!(matches!(adapter().await.get(&mxid("fault-held-2")).await, Lookup::Found(_)), "the work is done");
    drop(held);
    assert!(writing.await.unwrap().unwrap().created);

    let mut held = proxy.hold_before(on(Method::PUT, "fault-held-3"));
    let writing = put("fault-held-3");
    held.reached().await;
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    proxy.wait_until(|seen| seen.iter().any(|seen| seen.given_up)).await;
    held.release();
    assert!(proxy.writes().iter().any(|seen| seen.path.contains("fault-held-3") && !seen.forwarded));
    assert_eq!(adapter().await.get(&mxid("fault-held-3")).await, Lookup::Absent);
}

#[tokio::test]
async fn synapse_goes_down_and_comes_back() {
    let server = Synapse::start(Options::default()).await.unwrap();
    let synapse = adapter_with(&server.url(), server.admin_token());
    let account = mxid("fault-down");
    synapse.put(&account, &with_ids([login("fault-down")])).await.unwrap();
    server.stop();
    assert_eq!(unknown(synapse.get(&account).await).class, FailureClass::Transient);
    assert_eq!(synapse.put(&account, &named("Down")).await.unwrap_err().class, FailureClass::Transient);
    assert_eq!(synapse.list().await.unwrap_err().class, FailureClass::Transient);
    assert_eq!(synapse.identify().await.unwrap_err().class, FailureClass::Transient);
    server.start_again().await.unwrap();
    assert!(synapse.list().await.unwrap().contains_key(&account));
    assert_eq!(synapse.find_by_external_id(&login("fault-down")).await, Lookup::Found(account));
}

#[tokio::test]
async fn a_synapse_for_tests_ends_with_the_process_that_started_it_and_leaves_nothing() {
    let server = Synapse::start(Options::default()).await.unwrap();
    let config = server.config_file();
    assert!(config.exists());
    server.let_go();
    assert!(!config.parent().unwrap().exists());
    assert!(tokio::net::TcpStream::connect(server.url().trim_start_matches("http://")).await.is_err());
}
