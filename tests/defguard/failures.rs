//! A Defguard that misbehaves, and something in front of it that answers in its place.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use defguard_synapse_sync::{
    defguard::{Defguard, Options},
    domain::{FailureClass, Peer},
    http::{HttpOptions, Meter, TryResult},
    ports::{Clock, Directory},
};
use reqwest::StatusCode;
use serde_json::json;

use super::{
    LIST, as_admin, assert_explained, client, http, name, options,
    support::defguard::{Fault, StandIn},
    token, unknown,
};

#[tokio::test]
async fn every_wrong_answer_to_the_list_is_its_own_explained_failure() {
    use FailureClass::{Malformed, Permanent, RateLimited, Transient, Unauthorised};
    let minute = Duration::from_secs(61);
    let cases = [
        (Fault::html(), Malformed, "a web page instead of JSON", "wizard", 1),
        (Fault::answer(200, "text/plain", "hi"), Malformed, "something that is not JSON", "defguard.url", 1),
        (
            Fault::redirect("https://sso.example.com/login?next=x"),
            Permanent,
            "`https://sso.example.com`",
            "defguard.url",
            1,
        ),
        (
            Fault::answer(400, "text/plain", "Failed to deserialize"),
            Permanent,
            "status 400 `Failed",
            "defguard.url",
            1,
        ),
        (Fault::answer(401, "text/html", "<h1>no</h1>"), Unauthorised, "not from Defguard", "proxy", 1),
        (Fault::answer(403, "text/html", "<h1>no</h1>"), Unauthorised, "status 403", "proxy", 1),
        (Fault::answer(404, "text/html", "<h1>no</h1>"), Malformed, "status 404", "defguard.url", 1),
        (Fault::answer(405, "text/plain", ""), Permanent, "status 405", "defguard.url", 1),
        (Fault::answer(408, "text/plain", ""), Transient, "after 30 s", "overloaded", 3),
        (
            Fault::answer(413, "text/plain", "length limit exceeded"),
            Permanent,
            "too large",
            "defguard.url",
            1,
        ),
        (Fault::answer(415, "text/plain", "Expected"), Permanent, "status 415", "2.x", 1),
        (Fault::answer(422, "text/plain", "missing field"), Permanent, "status 422", "2.x", 1),
        (Fault::rate_limited(61), RateLimited(Some(minute)), "a pause of 61 s", "DEFGUARD_RATELIMIT", 1),
        (
            Fault::json(429, &json!({"msg": "Too many login attempts"})),
            Unauthorised,
            "locked out",
            "five minutes",
            1,
        ),
        (
            Fault::json(500, &json!({"msg": "Internal server error"})),
            Transient,
            "`Internal server error`",
            "log",
            3,
        ),
        (Fault::answer(502, "text/html", "<h1>Bad Gateway</h1>"), Transient, "status 502", "proxy", 3),
        (Fault::cut(), Transient, "cut", "defguard.url", 3),
        (Fault::cut_body(), Transient, "cut", "defguard.url", 3),
        (Fault::truncate(), Malformed, "broken or cut off", "defguard.url", 1),
        (Fault::json(200, &json!({"data": []})), Malformed, "`pagination` is missing", "newer release", 1),
        (Fault::json(200, &json!(null)), Malformed, "`data` or `pagination` is not", "newer release", 1),
    ];
    let server = StandIn::start().await;
    server.load_recorded();
    let defguard = client(&server, as_admin());
    defguard.own_username().await.unwrap();
    for (fault, class, why, mend, tries) in cases {
        server.faults().clear();
        server.forget_requests();
        let shown = format!("{fault:?}");
        server.faults().add(fault.on(LIST));
        let failure = defguard.list().await.unwrap_err();
        assert_explained(&failure, class, why, mend);
        assert_eq!(server.count("GET", LIST), tries, "{shown}");
    }
    server.faults().clear();
    assert!(defguard.list().await.unwrap().is_complete());
}

#[tokio::test]
async fn the_same_trouble_on_a_later_page_fails_the_whole_reading() {
    let server = StandIn::start().await;
    server.load_recorded();
    let defguard = client(&server, as_admin());
    for fault in [Fault::html(), Fault::truncate(), Fault::answer(500, "text/plain", ""), Fault::cut()] {
        server.faults().clear();
        server.faults().add(fault.on(LIST).page(3));
        defguard.list().await.unwrap_err();
    }
}

#[tokio::test]
async fn trouble_that_passes_is_outlasted() {
    let server = StandIn::start().await;
    server.load_recorded();
    let defguard = client(&server, as_admin());
    for fault in [
        Fault::cut(),
        Fault::cut_body(),
        Fault::lose_answer(),
        Fault::rate_limited(0),
        Fault::answer(503, "text/html", "<h1>soon</h1>"),
        Fault::answer(408, "text/plain", ""),
    ] {
        server.faults().clear();
        server.faults().add(fault.on(LIST).times(2));
        assert_eq!(defguard.list().await.unwrap().people().len(), 335);
    }
}

#[tokio::test]
async fn a_slow_server_is_not_waited_for_for_ever() {
    let server = StandIn::start().await;
    server.faults().add(Fault::delay(Duration::from_secs(30)).on(LIST));
    let http = HttpOptions { timeout: Duration::from_millis(200), tries: 1, ..http() };
    let defguard = Defguard::new(options(&server, as_admin()), http, server.time()).unwrap();
    let failure = defguard.list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Transient, "no answer in time", "defguard.timeout");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_from_one_that_cuts() {
    let server = StandIn::start().await;
    let defguard = client(&server, token("dg-x"));
    server.stop().await;
    let failure = defguard.list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Transient, "could not connect", "defguard.url");
}

#[tokio::test]
async fn an_unfinished_wizard_answers_a_token_with_a_web_page() {
    let server = StandIn::start().await;
    server.state().wizard = true;
    let failure = client(&server, token("dg-x")).list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Malformed, "a web page", "wizard");
}

#[tokio::test]
async fn an_address_with_the_path_of_the_api_in_it_is_explained() {
    let server = StandIn::start().await;
    let url = server.url().join("/api/v1/").unwrap();
    let defguard = Defguard::new(Options::new(url, token("dg-x")), http(), server.time()).unwrap();
    let failure = defguard.list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Malformed, "a web page", "without `/api`");
}

#[tokio::test]
async fn an_older_server_is_refused_by_its_version_and_by_its_shape() {
    let server = StandIn::start().await;
    server.load_recorded();
    server.state().version = "1.6.6".to_owned();
    let token_for_admin = server.token_for("admin");
    for auth in [as_admin(), token(&token_for_admin)] {
        let failure = client(&server, auth).list().await.unwrap_err();
        assert_explained(&failure, FailureClass::Permanent, "Defguard 1.6.6; 2.0 or newer", "Update");
    }
    server.faults().add(Fault::drop_header("defguard-component-version"));
    let defguard = client(&server, token(&token_for_admin));
    let failure = defguard.list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Permanent, "one plain list, as 1.x does", "Update");
}

#[tokio::test]
async fn a_look_up_never_takes_trouble_for_absence() {
    let server = StandIn::start().await;
    server.set_licence(true);
    let defguard = client(&server, token(&server.token_for("admin")));
    let path = "/api/v1/user/alice";
    for (fault, class) in [
        (Fault::html(), FailureClass::Malformed),
        (Fault::answer(404, "text/html", "<h1>Not found</h1>"), FailureClass::Malformed),
        (Fault::answer(404, "text/plain", "user alice not found"), FailureClass::Malformed),
        (Fault::json(404, &json!({})), FailureClass::Malformed),
        (Fault::json(404, &json!({"msg": "user bob not found"})), FailureClass::Malformed),
        (Fault::json(404, &json!({"msg": "not found"})), FailureClass::Malformed),
        (Fault::json(200, &json!({"msg": "user alice not found"})), FailureClass::Malformed),
        (Fault::json(410, &json!({"msg": "user alice not found"})), FailureClass::Permanent),
        (Fault::json(200, &json!(null)), FailureClass::Malformed),
        (Fault::truncate(), FailureClass::Malformed),
        (Fault::cut(), FailureClass::Transient),
        (Fault::answer(500, "text/plain", ""), FailureClass::Transient),
        (Fault::json(401, &json!({"msg": "Session is required"})), FailureClass::Unauthorised),
        (Fault::json(403, &json!({"msg": "access denied"})), FailureClass::Unauthorised),
        (Fault::rate_limited(61), FailureClass::RateLimited(Some(Duration::from_secs(61)))),
    ] {
        server.faults().clear();
        let shown = format!("{fault:?}");
        server.faults().add(fault.on(path));
        let failure = unknown(defguard.find(&name("alice")).await);
        assert_eq!(failure.class, class, "{shown}: {failure}");
        assert!(!failure.to_string().contains("alice"), "{failure}");
    }
}

/// Remembers what it is told.
#[derive(Debug, Default)]
struct Counted(Mutex<Vec<(Peer, &'static str, TryResult)>>, AtomicUsize);

impl Meter for Counted {
    fn request(&self, peer: Peer, endpoint: &'static str, result: TryResult, _: Duration) {
        self.0.lock().unwrap().push((peer, endpoint, result));
    }

    fn retry(&self, peer: Peer, class: FailureClass) {
        assert_eq!((peer, class), (Peer::Defguard, FailureClass::Transient));
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn every_try_is_counted_with_how_it_ended() {
    let server = StandIn::start().await;
    let counted = Arc::new(Counted::default());
    let counting = |http| HttpOptions { meter: Some(Arc::clone(&counted) as Arc<dyn Meter>), ..http };
    let (options, time) = (options(&server, as_admin()), server.time());
    let connect =
        |http| Defguard::new(options.clone(), counting(http), Arc::clone(&time) as Arc<dyn Clock>).unwrap();
    let seen = || std::mem::take(&mut *counted.0.lock().unwrap());
    let ok = TryResult::Status(StatusCode::OK);
    let list = |result| (Peer::Defguard, "user_list", result);

    let defguard = connect(super::http());
    server.faults().add(Fault::cut_body().on(LIST).times(1));
    defguard.list().await.unwrap();
    assert_eq!(seen(), [(Peer::Defguard, "login", ok), list(TryResult::Cut), list(ok)]);
    server.faults().add(Fault::answer(503, "text/plain", "").on(LIST).times(1));
    defguard.list().await.unwrap();
    assert_eq!(seen(), [list(TryResult::Status(StatusCode::SERVICE_UNAVAILABLE)), list(ok)]);
    assert_eq!(counted.1.load(Ordering::SeqCst), 2);

    server.faults().add(Fault::delay(Duration::from_secs(30)).on(LIST));
    let once = HttpOptions { tries: 1, ..super::http() };
    let slow = connect(HttpOptions { timeout: Duration::from_millis(200), ..once.clone() });
    slow.list().await.unwrap_err();
    assert_eq!(seen().pop(), Some(list(TryResult::TimedOut)));
    server.faults().clear();
    let narrow = connect(HttpOptions { max_body: 200, ..once.clone() });
    narrow.list().await.unwrap_err();
    assert!(seen().iter().any(|(.., result)| *result == TryResult::TooLarge));
    let late = connect(once);
    server.stop().await;
    late.list().await.unwrap_err();
    assert_eq!(seen(), [(Peer::Defguard, "login", TryResult::NotSent)]);
}
