//! Who we are to Defguard: sessions, second factor, API tokens.

use std::time::Duration;

use chrono::TimeDelta;
use defguard_synapse_sync::{
    defguard::{Auth, Defguard, Options},
    domain::{FailureClass, Lookup},
    ports::{Clock, Directory},
};
use futures_util::future::join_all;
use secrecy::SecretString;
use serde_json::json;
use url::Url;

use super::{
    AUTH, LIST, as_admin, assert_explained, client, http, name, options, session,
    support::defguard::{Fault, NewPerson, StandIn},
    token, unknown,
};

const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
const VERIFY: &str = "/api/v1/auth/totp/verify";

/// An administrator with a second factor, and a login with `secret`.
fn with_second_factor(server: &StandIn, secret: Option<&str>) -> Auth {
    server.add_person(NewPerson::named("robot").password(Some("pw")).groups(&["admin"]).totp(SECRET));
    Auth::Session {
        username: "robot".to_owned(),
        password: SecretString::from("pw"),
        totp_secret: secret.map(SecretString::from),
    }
}

#[tokio::test]
async fn one_session_serves_everything() {
    let server = StandIn::start().await;
    let defguard = client(&server, as_admin());
    assert!(defguard.list().await.unwrap().is_complete());
    assert!(defguard.find(&name("admin")).await.found().is_some());
    assert_eq!(defguard.own_username().await.unwrap(), Some(name("admin")));
    assert_eq!(server.count("POST", AUTH), 1);
    let agent = server.requests()[0].user_agent.clone().unwrap();
    assert!(agent.starts_with("defguard-synapse-sync/"), "{agent}");
}

#[tokio::test]
async fn the_cookie_is_sent_although_its_domain_and_its_secure_flag_are_not_ours() {
    let server = StandIn::start().await;
    let cookie = super::raw(
        &server,
        "POST",
        AUTH,
        &[("user-agent", "x"), ("content-type", "application/json")],
        Some(&json!({"username": "admin", "password": super::ADMIN_PASSWORD}).to_string()),
    )
    .await;
    let cookie = cookie.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("Domain=defguard.example.com") && cookie.contains("; Secure"), "{cookie}");
    client(&server, as_admin()).list().await.unwrap();
}

#[tokio::test]
async fn requests_at_the_same_time_share_one_login() {
    let server = StandIn::start().await;
    server.faults().add(Fault::delay(Duration::from_millis(30)).on(AUTH));
    let defguard = client(&server, as_admin());
    let admin = name("admin");
    for round in 1..=2 {
        let found = join_all((0..8).map(|_| defguard.find(&admin))).await;
        assert!(found.iter().all(|found| found.found().is_some()));
        assert_eq!(server.count("POST", AUTH), round);
        server.end_sessions();
    }
}

#[tokio::test]
async fn a_session_that_has_ended_is_renewed_once() {
    let server = StandIn::start().await;
    let defguard = client(&server, as_admin());
    defguard.list().await.unwrap();
    server.time().advance(Duration::from_secs(8 * 86_400));
    server.forget_requests();
    defguard.list().await.unwrap();
    let seen: Vec<(String, Option<u16>)> =
        server.requests().into_iter().map(|request| (request.path, request.status)).collect();
    assert_eq!(seen, [(LIST.into(), Some(401)), (AUTH.into(), Some(200)), (LIST.into(), Some(200))]);
}

#[tokio::test]
async fn a_session_that_is_refused_though_new_does_not_lead_to_a_login_loop() {
    let server = StandIn::start().await;
    server.state().session_days = 0;
    let defguard = client(&server, as_admin());
    for _ in 0..3 {
        let failure = defguard.list().await.unwrap_err();
        assert_explained(&failure, FailureClass::Unauthorised, "Session expired", "0 days");
    }
    assert_eq!(server.count("POST", AUTH), 1);
    assert_eq!(server.count("GET", LIST), 1);
}

#[tokio::test]
async fn a_refused_login_is_not_tried_again_before_the_cool_down_is_over() {
    let server = StandIn::start().await;
    let mut options = options(&server, session("admin", "wrong"));
    // Shorter than Defguard's own lock-out cannot be had.
    options.login_cool_down = Duration::ZERO;
    let defguard = Defguard::new(options, http(), server.time()).unwrap();
    let failure = defguard.list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Unauthorised, "status 401", "Five failures");
    let admin = name("admin");
    for found in join_all((0..8).map(|_| defguard.find(&admin))).await {
        assert_explained(&unknown(found), FailureClass::Unauthorised, "not tried again", "Five failures");
    }
    assert_eq!(server.count("POST", AUTH), 1);
    server.time().advance(Duration::from_secs(299));
    defguard.list().await.unwrap_err();
    assert_eq!(server.count("POST", AUTH), 1);
    server.time().advance(Duration::from_secs(2));
    defguard.list().await.unwrap_err();
    assert_eq!(server.count("POST", AUTH), 2);
}

#[tokio::test]
async fn after_the_cool_down_a_mended_login_works_again() {
    let server = StandIn::start().await;
    let id = server.id_of("admin");
    server.add_person(NewPerson::named("robot").password(Some("later")).groups(&["admin"]));
    let robot = server.id_of("robot");
    server.set_active(robot, false);
    let defguard = client(&server, session("robot", "later"));
    defguard.list().await.unwrap_err();
    server.set_active(robot, true);
    defguard.list().await.unwrap_err();
    server.time().advance(Duration::from_secs(601));
    assert!(defguard.list().await.unwrap().people().keys().any(|person| person.0 == id));
}

#[tokio::test]
async fn a_lock_out_caused_by_others_is_explained_and_not_prolonged() {
    let server = StandIn::start().await;
    let now = server.time().now();
    for second in 0..5 {
        server.state().count_failure("admin", now + TimeDelta::seconds(second));
    }
    let defguard = client(&server, as_admin());
    for _ in 0..3 {
        let failure = defguard.list().await.unwrap_err();
        assert_explained(
            &failure,
            FailureClass::Unauthorised,
            "status 429: the account is locked out",
            "Anybody",
        );
    }
    assert_eq!(server.count("POST", AUTH), 1);
    server.time().advance(Duration::from_secs(601));
    defguard.list().await.unwrap();
}

#[tokio::test]
async fn logins_whose_answers_are_lost_stay_below_the_number_that_locks() {
    let server = StandIn::start().await;
    server.faults().add(Fault::lose_answer().on(AUTH));
    let defguard = client(&server, session("admin", "wrong"));
    let admin = name("admin");
    for found in join_all((0..6).map(|_| defguard.find(&admin))).await {
        assert_eq!(unknown(found).class, FailureClass::Transient);
    }
    assert_eq!(server.count("POST", AUTH), 3);
    let now = server.time().now();
    assert!(!server.state().is_locked_out("admin", now));
}

#[tokio::test]
async fn a_login_cut_once_is_made_again() {
    let server = StandIn::start().await;
    server.faults().add(Fault::cut().on(AUTH).times(1));
    client(&server, as_admin()).list().await.unwrap();
    assert_eq!(server.count("POST", AUTH), 2);
}

#[tokio::test]
async fn the_second_factor_is_given() {
    let server = StandIn::start().await;
    let auth = with_second_factor(&server, Some(SECRET));
    let defguard = client(&server, auth);
    assert_eq!(defguard.own_username().await.unwrap(), Some(name("robot")));
    assert_eq!((server.count("POST", AUTH), server.count("POST", VERIFY)), (1, 1));
}

#[tokio::test]
async fn a_code_that_would_arrive_after_its_step_is_not_sent() {
    let server = StandIn::start().await;
    let auth = with_second_factor(&server, Some(SECRET));
    let defguard = client(&server, auth);
    // Sent at once, it would be looked at in the next step.
    server.faults().add(Fault::delay(Duration::from_millis(300)).on(VERIFY));
    server.time().advance_to_end_of_totp_step(Duration::from_millis(150));
    defguard.own_username().await.unwrap();
    assert_eq!(server.count("POST", VERIFY), 1);
}

#[tokio::test]
async fn a_second_factor_without_a_secret_is_a_clear_error_and_tried_once() {
    let server = StandIn::start().await;
    let auth = with_second_factor(&server, None);
    let defguard = client(&server, auth);
    for _ in 0..2 {
        let failure = defguard.list().await.unwrap_err();
        assert_explained(&failure, FailureClass::Unauthorised, "second factor", "totp_secret_file");
    }
    assert_eq!(server.count("POST", AUTH), 1);
}

#[tokio::test]
async fn a_refused_code_is_explained_and_not_sent_again() {
    let server = StandIn::start().await;
    let auth = with_second_factor(&server, Some("MZXW6YTBOJRGC6TRMZXW6YTBOJRGC6TR"));
    let defguard = client(&server, auth);
    for _ in 0..3 {
        let failure = defguard.list().await.unwrap_err();
        assert_explained(&failure, FailureClass::Unauthorised, "one-time code was refused", "clocks");
    }
    assert_eq!((server.count("POST", AUTH), server.count("POST", VERIFY)), (1, 1));
}

#[tokio::test]
async fn an_account_that_is_no_administrator_is_told_so() {
    let server = StandIn::start().await;
    server.add_person(NewPerson::named("normal").password(Some("pw")));
    let defguard = client(&server, session("normal", "pw"));
    let failure = defguard.list().await.unwrap_err();
    assert_explained(
        &failure,
        FailureClass::Unauthorised,
        "status 403 `access denied`",
        "must be an administrator",
    );
    assert_eq!(server.count("POST", AUTH), 1);
}

#[tokio::test]
async fn the_own_username_is_known_even_after_a_login_by_mail() {
    let server = StandIn::start().await;
    let defguard = client(&server, session("ADMIN@example.com", super::ADMIN_PASSWORD));
    assert_eq!(defguard.own_username().await.unwrap(), Some(name("admin")));
}

#[tokio::test]
async fn a_login_answered_without_a_cookie_is_explained() {
    let server = StandIn::start().await;
    server.faults().add(Fault::drop_header("set-cookie").on(AUTH));
    let failure = client(&server, as_admin()).list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Malformed, "no session cookie", "Set-Cookie");
}

#[tokio::test]
async fn an_unfinished_wizard_is_explained_at_the_login() {
    let server = StandIn::start().await;
    server.state().wizard = true;
    let failure = client(&server, as_admin()).list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Permanent, "status 405", "wizard");
}

#[tokio::test]
async fn an_api_token_needs_no_login() {
    let server = StandIn::start().await;
    server.load_recorded();
    server.set_licence(true);
    let defguard = client(&server, token(&server.token_for("admin")));
    assert_eq!(defguard.list().await.unwrap().people().len(), 335);
    assert!(defguard.find(&name("user001")).await.found().is_some());
    assert_eq!(defguard.find(&name("nobody")).await, Lookup::Absent);
    assert_eq!(defguard.own_username().await.unwrap(), Some(name("admin")));
    assert!(server.requests().iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn an_api_token_that_is_ignored_for_want_of_a_licence_is_explained() {
    let server = StandIn::start().await;
    server.set_licence(true);
    let defguard = client(&server, token(&server.token_for("admin")));
    defguard.list().await.unwrap();
    server.set_licence(false);
    let failure = defguard.list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Unauthorised, "Session is required", "active licence");
    let failure = unknown(defguard.find(&name("admin")).await);
    assert_explained(&failure, FailureClass::Unauthorised, "Session is required", "active licence");
}

#[tokio::test]
async fn every_other_refusal_of_an_api_token_has_its_own_explanation() {
    let server = StandIn::start().await;
    server.set_licence(true);
    let failure = client(&server, token("dg-nonsense")).list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Unauthorised, "Invalid API token", "new API token");

    let robot = server.add_person(NewPerson::named("robot").groups(&["admin"]));
    let defguard = client(&server, token(&server.token_for("robot")));
    defguard.list().await.unwrap();
    server.set_groups(robot, &[]);
    let failure = defguard.list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Unauthorised, "status 403", "owner of the API token");
    server.set_active(robot, false);
    let failure = defguard.list().await.unwrap_err();
    assert_explained(&failure, FailureClass::Unauthorised, "owner is disabled", "active administrator");
}

#[tokio::test]
async fn credentials_that_cannot_work_are_refused_before_anything_is_sent() {
    let server = StandIn::start().await;
    let refused = |auth: Auth| Defguard::new(options(&server, auth), http(), server.time()).unwrap_err();
    assert_explained(&refused(token("dg-x\n")), FailureClass::Permanent, "API token", "token file");
    let auth = Auth::Session {
        username: "robot".to_owned(),
        password: SecretString::from("pw"),
        totp_secret: Some(SecretString::from("not base32!")),
    };
    assert_explained(&refused(auth), FailureClass::Permanent, "base32", "A-Z");
    let with_url = |url: &str| {
        let options = Options::new(Url::parse(url).unwrap(), as_admin());
        Defguard::new(options, http(), server.time()).unwrap_err()
    };
    assert_explained(
        &with_url("ftp://defguard"),
        FailureClass::Permanent,
        "neither http nor https",
        "https://",
    );
    let failure = with_url("http://robot:hunter2@defguard");
    assert_explained(&failure, FailureClass::Permanent, "credentials in it", "password file");
    assert!(!failure.to_string().contains("hunter2"));
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn neither_client_nor_options_show_a_secret() {
    let server = StandIn::start().await;
    let auth = with_second_factor(&server, Some(SECRET));
    let options = options(&server, auth);
    let shown = format!("{options:?}");
    let defguard = Defguard::new(options, http(), server.time()).unwrap();
    defguard.list().await.unwrap();
    for text in [shown, format!("{defguard:?}")] {
        assert!(!text.contains(SECRET) && !text.contains("\"pw\""), "{text}");
    }
}
