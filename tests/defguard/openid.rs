//! The OpenID provider: what the facts say about it, and the adapter's way to it.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use defguard_synapse_sync::{defguard::AppData, domain::FailureClass};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use super::{
    Raw, as_admin, assert_explained, client, raw, session,
    support::defguard::{App, Fault, NORMAL_PASSWORD, NewPerson, StandIn},
};

const CALLBACK: &str = "http://synapse.test/callback";
/// That of RFC 7636, appendix B, and its challenge.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A provider with one app and one person, who has a session.
struct Login {
    server: StandIn,
    app: App,
    id: i64,
    cookie: String,
}

impl Login {
    async fn new() -> Self {
        let server = StandIn::start().await;
        let id = server.add_person(NewPerson::named("Alice").name("Alice", "Liddell").groups(&["staff"]));
        let scopes = ["openid", "profile", "email", "phone", "groups"].map(str::to_owned).to_vec();
        let app = server.state().provider.add_app("Matrix", vec![CALLBACK.to_owned()], scopes, true);
        let cookie = server.session_for("Alice", true);
        Self { server, app, id, cookie }
    }

    fn query(&self, more: &[(&str, &str)]) -> String {
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", &self.app.client_id),
            ("redirect_uri", CALLBACK),
            ("scope", "openid profile email groups"),
            ("state", "s1"),
            ("nonce", "n0nce"),
        ];
        pairs.retain(|(key, _)| !more.iter().any(|(other, _)| other == key));
        pairs.extend(more);
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    }

    async fn authorize(&self, cookie: Option<&str>, more: &[(&str, &str)]) -> Raw {
        let headers: Vec<(&str, &str)> = cookie.map(|cookie| ("cookie", cookie)).into_iter().collect();
        raw(&self.server, "GET", &format!("/api/v1/oauth/authorize?{}", self.query(more)), &headers, None)
            .await
    }

    async fn allow(&self, more: &[(&str, &str)]) -> Raw {
        let path = format!("/api/v1/oauth/authorize?{}&allow=true", self.query(more));
        raw(&self.server, "POST", &path, &[("cookie", &self.cookie)], None).await
    }

    /// A code, after consent.
    async fn code(&self, more: &[(&str, &str)]) -> String {
        field(&location(&self.allow(more).await), "code").unwrap()
    }

    async fn token(&self, code: &str, more: &[(&str, &str)]) -> Raw {
        let mut pairs = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", CALLBACK),
            ("client_id", &self.app.client_id),
            ("client_secret", &self.app.client_secret),
        ];
        pairs.retain(|(key, _)| !more.iter().any(|(other, _)| other == key));
        pairs.extend(more);
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        raw(&self.server, "POST", "/api/v1/oauth/token", &headers, Some(&body)).await
    }
}

#[track_caller]
fn location(answer: &Raw) -> String {
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.headers["location"].to_str().unwrap().to_owned()
}

fn field(url: &str, key: &str) -> Option<String> {
    let url = Url::parse(url).unwrap();
    url.query_pairs().find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}

/// A part of a token, decoded.
fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn a_login_goes_by_the_login_page_and_consent_and_next_time_straight_to_the_code() {
    let login = Login::new().await;
    let sent = login.authorize(None, &[]).await;
    assert_eq!(location(&sent), "/auth/login");
    assert!(sent.headers["set-cookie"].to_str().unwrap().starts_with("defguard_sign_in="));
    let asked = location(&login.authorize(Some(&login.cookie), &[]).await);
    assert!(asked.starts_with("/consent?"), "{asked}");
    let back = location(&login.allow(&[]).await);
    assert!(back.starts_with(CALLBACK) && field(&back, "state").unwrap() == "s1", "{back}");
    assert_eq!(field(&back, "code").unwrap().len(), 24);
    let straight = location(&login.authorize(Some(&login.cookie), &[]).await);
    assert!(field(&straight, "code").is_some(), "{straight}");
}

#[tokio::test]
async fn the_token_holds_the_claims_of_the_recorded_ones() {
    let login = Login::new().await;
    let code = login.code(&[]).await;
    let answer = login.token(&code, &[]).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    let keys: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["access_token", "refresh_token", "token_type", "id_token"]);
    let token = answer["id_token"].as_str().unwrap();
    let recorded: Value =
        serde_json::from_str(include_str!("../data/defguard/07-id-token-claims-groups.json")).unwrap();
    let claims = part(token, 1);
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&claims), names(&recorded));
    assert_eq!(claims["sub"], "Alice");
    assert_eq!(claims["groups"], json!(["staff"]));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 7 * 86_400);
    assert_eq!(claims["iss"], "https://defguard.example.com/");
    let keys = raw(&login.server, "GET", "/api/v1/oauth/discovery/keys", &[], None).await.json();
    assert_eq!(part(token, 0), json!({"alg": "RS256", "kid": keys["keys"][0]["kid"]}));
    // The signature is checked by Synapse, in the tests of logins.
    let access = format!("Bearer {}", answer["access_token"].as_str().unwrap());
    let info = raw(&login.server, "GET", "/api/v1/oauth/userinfo", &[("authorization", &access)], None).await;
    assert_eq!(
        info.json(),
        json!({
            "sub": "Alice", "name": "Alice Liddell", "given_name": "Alice", "family_name": "Liddell",
            "preferred_username": "Alice", "email": "Alice@example.com",
        })
    );
    let posted =
        raw(&login.server, "POST", "/api/v1/oauth/userinfo", &[("authorization", &access)], None).await;
    assert_eq!(posted.status, 405);
}

#[tokio::test]
async fn a_code_is_good_once_with_the_right_secret_and_the_right_verifier() {
    let login = Login::new().await;
    let refused = |answer: Raw| {
        assert_eq!((answer.status, answer.json()), (400, json!({"error": "unsupported_grant_type"})));
    };
    let code = login.code(&[]).await;
    assert_eq!(login.token(&code, &[]).await.status, 200);
    refused(login.token(&code, &[]).await);
    let code = login.code(&[]).await;
    refused(login.token(&code, &[("client_secret", "wrong")]).await);
    let code = login.code(&[("code_challenge", CHALLENGE), ("code_challenge_method", "S256")]).await;
    assert_eq!(login.token(&code, &[("code_verifier", "wrong")]).await.status, 400);
    let code = login.code(&[("code_challenge", CHALLENGE), ("code_challenge_method", "S256")]).await;
    assert_eq!(login.token(&code, &[("code_verifier", VERIFIER)]).await.status, 200);
    let plain = [("code_challenge", VERIFIER), ("code_challenge_method", "plain")];
    assert_eq!(field(&location(&login.allow(&plain).await), "error").unwrap(), "invalid_request");
}

#[tokio::test]
async fn a_refresh_needs_no_secret_and_gives_the_same_tokens() {
    let login = Login::new().await;
    let first = login.token(&login.code(&[]).await, &[]).await.json();
    let body = format!("grant_type=refresh_token&refresh_token={}", first["refresh_token"].as_str().unwrap());
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let again = raw(&login.server, "POST", "/api/v1/oauth/token", &headers, Some(&body)).await.json();
    assert_eq!(again["access_token"], first["access_token"]);
    assert_eq!(again["refresh_token"], first["refresh_token"]);
    assert_eq!(again.get("id_token"), None);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_goes_back_to_the_app_unless_the_address_is_not_its_own() {
    let login = Login::new().await;
    let error = |url: String| (url.split('?').next().unwrap().to_owned(), field(&url, "error").unwrap());
    let sent = |more: [(&'static str, &'static str); 1]| {
        let login = &login;
        async move { error(location(&login.authorize(Some(&login.cookie), &more).await)) }
    };
    let here = |code: &str| (CALLBACK.to_owned(), code.to_owned());
    assert_eq!(sent([("scope", "openid admin")]).await, here("invalid_scope"));
    let (to, _) = sent([("redirect_uri", "http://evil.test/")]).await;
    assert_eq!(to, "https://defguard.example.com/");
    login.server.state().provider.change_app(&login.app.client_id, |app| app.enabled = false);
    assert_eq!(sent([("state", "s2")]).await, here("unauthorized_client"));
}

#[tokio::test]
async fn without_a_key_tokens_are_signed_with_the_secret_of_the_app() {
    let login = Login::new().await;
    login.server.state().provider.hmac = true;
    let answer = login.token(&login.code(&[]).await, &[]).await.json();
    let token = answer["id_token"].as_str().unwrap();
    assert_eq!(part(token, 0), json!({"alg": "HS256"}));
    assert_eq!(client(&login.server, as_admin()).signing_keys().await.unwrap(), 0);
}

#[tokio::test]
async fn another_scope_ends_all_consents_and_so_does_taking_the_app_from_somebody() {
    let login = Login::new().await;
    login.code(&[]).await;
    let goes_straight =
        || async { location(&login.authorize(Some(&login.cookie), &[]).await).starts_with(CALLBACK) };
    assert!(goes_straight().await);
    let change =
        |change: fn(&mut App)| login.server.state().provider.change_app(&login.app.client_id, change);
    change(|app| app.name = "Chat".to_owned());
    assert!(goes_straight().await);
    change(|app| app.scope.push("more".to_owned()));
    assert!(!goes_straight().await);
}

#[tokio::test]
async fn whoever_is_disabled_is_sent_to_the_login_but_a_code_from_before_is_still_good() {
    let login = Login::new().await;
    let code = login.code(&[]).await;
    login.server.set_active(login.id, false);
    assert_eq!(location(&login.authorize(Some(&login.cookie), &[]).await), "/auth/login");
    assert_eq!(login.token(&code, &[]).await.status, 200);
}

// ---- the adapter ----

fn wanted(name: &str) -> AppData {
    AppData {
        name: name.to_owned(),
        redirect_uris: vec![CALLBACK.to_owned()],
        scopes: vec!["openid".to_owned()],
        enabled: true,
    }
}

#[tokio::test]
async fn apps_are_made_found_on_all_pages_and_changed() {
    let server = StandIn::start().await;
    let defguard = client(&server, as_admin());
    let made = defguard.create_app(&wanted("Matrix")).await.unwrap();
    assert_eq!(made.data, wanted("Matrix"));
    for number in 0..205 {
        server.state().provider.add_app(&format!("App {number}"), Vec::new(), Vec::new(), true);
    }
    let apps = defguard.apps().await.unwrap();
    assert_eq!(apps.len(), 206);
    assert_eq!(apps[0].client_id, made.client_id);
    assert!(!format!("{apps:?}").contains(made.client_secret.expose_secret()));
    let changed = AppData { enabled: false, ..wanted("Chat") };
    defguard.change_app(&made.client_id, &changed).await.unwrap();
    assert_eq!(defguard.apps().await.unwrap()[0].data, changed);
    let gone = defguard.change_app("gone", &changed).await.unwrap_err();
    assert_explained(&gone, FailureClass::Permanent, "gone", "again");
}

#[tokio::test]
async fn an_app_whose_making_was_not_answered_is_not_made_again_by_itself() {
    let server = StandIn::start().await;
    server.faults().add(Fault::lose_answer().on("/api/v1/oauth").method("POST"));
    let failure = client(&server, as_admin()).create_app(&wanted("Matrix")).await.unwrap_err();
    assert_explained(&failure, FailureClass::Transient, "", "finds the app Matrix");
    assert_eq!(server.apps().len(), 1);
}

#[tokio::test]
async fn who_may_not_see_the_apps_and_what_is_no_provider_is_explained() {
    let server = StandIn::start().await;
    server.load_recorded();
    let failure = client(&server, session("normal", NORMAL_PASSWORD)).apps().await.unwrap_err();
    assert_explained(&failure, FailureClass::Unauthorised, "403", "administrator");
    server.state().wizard = true;
    let failure = client(&server, as_admin()).discovery().await.unwrap_err();
    assert_explained(&failure, FailureClass::Malformed, "a web page", "wizard");
}

#[tokio::test]
async fn what_defguard_says_about_itself_is_spelled_as_it_spells_it() {
    let server = StandIn::start().await;
    let discovery = client(&server, as_admin()).discovery().await.unwrap();
    assert_eq!(discovery.issuer, "https://defguard.example.com/");
    assert_eq!(discovery.token_endpoint, "https://defguard.example.com/api/v1/oauth/token");
    assert_eq!(client(&server, as_admin()).signing_keys().await.unwrap(), 1);
    // Nobody has to log in for that.
    assert_eq!(server.count("POST", super::AUTH), 0);
}
