//! The OpenID provider: management of apps, and the endpoints of a login (`docs/facts/defguard.md` section 7). The two
//! web pages of a login, which are Defguard's own front end, are the stand-in's.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use defguard_synapse_sync::ports::Clock;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::super::oidc::{self, App as OpenIdApp, Code, Provider};
use super::{
    App, Paging, answer,
    caller::{Admin, Agent, Caller, cookie, session_cookie},
    message, paginated,
};

/// The cookie that remembers what somebody wanted who was sent to the login.
pub const SIGN_IN: &str = "defguard_sign_in";

// ---- apps ----

#[derive(Deserialize)]
pub struct NewApp {
    name: String,
    redirect_uri: Vec<String>,
    scope: Vec<String>,
    enabled: bool,
}

/// All that is refused is HTML in the name; how Defguard finds it is not in the facts.
fn invalid(name: &str) -> Option<Response> {
    name.contains(['<', '>']).then(|| message(400, "invalid name"))
}

pub async fn list(_: Admin, State(shared): App, Query(paging): Query<Paging>) -> Response {
    let state = shared.state();
    let apps = &state.provider.apps;
    if state.is_old() {
        return answer(200, apps.iter().map(OpenIdApp::info).collect());
    }
    let (page, size) = paging.of();
    let (skip, take) = (usize::try_from((page - 1) * size).unwrap(), usize::try_from(size).unwrap());
    paginated(apps.iter().skip(skip).take(take).map(OpenIdApp::info).collect(), page, size, apps.len())
}

pub async fn create(_: Admin, _: Agent, State(shared): App, Json(new): Json<NewApp>) -> Response {
    if let Some(refused) = invalid(&new.name) {
        return refused;
    }
    let app = shared.state().provider.add_app(&new.name, new.redirect_uri, new.scope, new.enabled);
    answer(201, app.info())
}

pub async fn find(caller: Caller, State(shared): App, Path(client_id): Path<String>) -> Response {
    let state = shared.state();
    match state.provider.app(&client_id) {
        Some(app) if state.is_admin(caller.id) => answer(200, app.info()),
        Some(app) => answer(200, json!({"client_id": app.client_id, "name": app.name, "scope": app.scope})),
        None => answer(404, json!({})),
    }
}

pub async fn put(
    _: Admin,
    _: Agent,
    State(shared): App,
    Path(client_id): Path<String>,
    Json(new): Json<NewApp>,
) -> Response {
    if let Some(refused) = invalid(&new.name) {
        return refused;
    }
    let found = shared.state().provider.change_app(&client_id, |app| {
        app.name = new.name;
        app.redirect_uri = new.redirect_uri;
        app.scope = new.scope;
        app.enabled = new.enabled;
    });
    answer(if found { 200 } else { 404 }, json!({}))
}

#[derive(Deserialize)]
pub struct NewState {
    enabled: bool,
}

pub async fn set_state(
    _: Admin,
    _: Agent,
    State(shared): App,
    Path(client_id): Path<String>,
    Json(new): Json<NewState>,
) -> Response {
    let found = shared.state().provider.change_app(&client_id, |app| app.enabled = new.enabled);
    answer(if found { 200 } else { 404 }, json!({}))
}

pub async fn delete(_: Admin, _: Agent, State(shared): App, Path(client_id): Path<String>) -> Response {
    let found = shared.state().provider.remove_app(&client_id);
    answer(if found { 200 } else { 404 }, json!({}))
}

// ---- what everybody may read ----

pub async fn discovery(State(shared): App) -> Response {
    answer(200, shared.state().provider.discovery())
}

pub async fn keys(State(shared): App) -> Response {
    answer(200, shared.state().provider.keys())
}

// ---- the login ----

#[derive(Deserialize)]
pub struct Wish {
    #[serde(default)]
    allow: bool,
    scope: String,
    response_type: String,
    client_id: String,
    redirect_uri: String,
    state: Option<String>,
    nonce: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
    prompt: Option<String>,
}

impl Wish {
    /// The query again, without the consent.
    fn query(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (key, value) in [
            ("scope", Some(&self.scope)),
            ("response_type", Some(&self.response_type)),
            ("client_id", Some(&self.client_id)),
            ("redirect_uri", Some(&self.redirect_uri)),
            ("state", self.state.as_ref()),
            ("nonce", self.nonce.as_ref()),
            ("prompt", self.prompt.as_ref()),
            ("code_challenge", self.code_challenge.as_ref()),
            ("code_challenge_method", self.code_challenge_method.as_ref()),
        ] {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        query.finish()
    }

    /// Why the request is refused, by the error code of OAuth.
    fn check<'a>(&self, provider: &'a Provider) -> Result<&'a OpenIdApp, &'static str> {
        let app = provider.app(&self.client_id).ok_or("unauthorized_client")?;
        if !app.enabled {
            return Err("unauthorized_client");
        }
        if !self.scope.split(' ').all(|scope| app.scope.iter().any(|known| known == scope)) {
            return Err("invalid_scope");
        }
        if self.response_type != "code" {
            return Err("invalid_request");
        }
        if !app.redirect_uri.contains(&self.redirect_uri) {
            return Err("access_denied");
        }
        if self.code_challenge.is_some() && self.code_challenge_method.as_deref() != Some("S256") {
            return Err("invalid_request");
        }
        Ok(app)
    }

    /// Back to the app with an error; a redirect URI that is not the app's is not gone to.
    fn refuse(&self, provider: &Provider, error: &str) -> Response {
        let known =
            provider.app(&self.client_id).is_some_and(|app| app.redirect_uri.contains(&self.redirect_uri));
        let mut url =
            if known { Url::parse(&self.redirect_uri).unwrap() } else { provider.defguard_url.clone() };
        url.query_pairs_mut().append_pair("error", error);
        if let Some(state) = &self.state {
            url.query_pairs_mut().append_pair("state", state);
        }
        redirect(url.as_str())
    }

    /// Back to the app with a code.
    fn grant(&self, provider: &mut Provider, owner: i64) -> Response {
        let code = provider.text(24);
        provider.codes.insert(
            code.clone(),
            Code {
                owner,
                client_id: self.client_id.clone(),
                redirect_uri: self.redirect_uri.clone(),
                scope: self.scope.clone(),
                nonce: self.nonce.clone(),
                challenge: self.code_challenge.clone(),
            },
        );
        let mut url = Url::parse(&self.redirect_uri).unwrap();
        url.query_pairs_mut().append_pair("code", &code);
        if let Some(state) = &self.state {
            url.query_pairs_mut().append_pair("state", state);
        }
        redirect(url.as_str())
    }
}

/// Where somebody is sent who comes with the browser.
pub async fn authorize(State(shared): App, Query(wish): Query<Wish>, headers: HeaderMap) -> Response {
    let now = shared.time.now();
    let mut state = shared.state();
    let app = match wish.check(&state.provider) {
        Ok(app) => app.id,
        Err(error) => return wish.refuse(&state.provider, error),
    };
    // That it is so with these two prompts is from Defguard's source.
    match wish.prompt.as_deref() {
        Some("none") => return wish.refuse(&state.provider, "login_required"),
        Some("consent") => return redirect(&format!("/consent?{}", wish.query())),
        _ => {}
    }
    let session = session_cookie(&headers).and_then(|cookie| state.session(&cookie, now).ok());
    let Some(session) = session.filter(|session| session.verified) else {
        let cookie = state.provider.text(40);
        let back = state.provider.defguard_url.join("api/v1/oauth/authorize").unwrap();
        state.provider.sign_ins.insert(cookie.clone(), format!("{back}?{}", wish.query()));
        let cookie =
            format!("{SIGN_IN}={cookie}; HttpOnly; SameSite=Lax; Path=/; {}", state.cookie_attributes());
        let mut response = redirect("/auth/login");
        response.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_str(&cookie).unwrap());
        return response;
    };
    if state.provider.consents.contains(&(session.owner, app)) {
        wish.grant(&mut state.provider, session.owner)
    } else {
        redirect(&format!("/consent?{}", wish.query()))
    }
}

/// The consent, which the page of the front end sends.
pub async fn consent(caller: Caller, State(shared): App, Query(wish): Query<Wish>) -> Response {
    let mut state = shared.state();
    if !wish.allow {
        return wish.refuse(&state.provider, "access_denied");
    }
    let app = match wish.check(&state.provider) {
        Ok(app) => app.id,
        Err(error) => return wish.refuse(&state.provider, error),
    };
    state.provider.consents.insert((caller.id, app));
    wish.grant(&mut state.provider, caller.id)
}

/// Every refusal of the token endpoint that is in the facts.
fn unsupported() -> Response {
    answer(400, json!({"error": "unsupported_grant_type"}))
}

pub async fn token(State(shared): App, headers: HeaderMap, body: String) -> Response {
    let now = shared.time.now();
    let form: std::collections::BTreeMap<String, String> =
        url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let field = |name: &str| form.get(name).map(String::as_str);
    let mut state = shared.state();
    match field("grant_type") {
        Some("authorization_code") => {}
        Some("refresh_token") => {
            // Without the app's own credentials, and with the same tokens again.
            let grant = state
                .provider
                .grants
                .iter()
                .find(|grant| Some(&*grant.refresh_token) == field("refresh_token"));
            return grant.map_or_else(unsupported, |grant| {
                answer(
                    200,
                    json!({
                        "access_token": grant.access_token, "refresh_token": grant.refresh_token,
                        "token_type": "bearer",
                    }),
                )
            });
        }
        _ => return unsupported(),
    }
    // A code is used up by whoever shows it, with or without the right secret.
    let Some((text, code)) = field("code").and_then(|code| state.provider.codes.remove_entry(code)) else {
        return unsupported();
    };
    let (id, secret) = match basic(&headers) {
        Some((id, secret)) => (id, secret),
        None => (
            field("client_id").unwrap_or_default().to_owned(),
            field("client_secret").unwrap_or_default().to_owned(),
        ),
    };
    let Some(app) = state.provider.app(&id).filter(|app| app.client_secret == secret).cloned() else {
        return unsupported();
    };
    if !app.enabled || code.client_id != app.client_id {
        return answer(400, json!({"error": "unauthorized_client"}));
    }
    if field("redirect_uri") != Some(&code.redirect_uri) {
        return answer(400, json!({"error": "unauthorized_client"}));
    }
    if let Some(challenge) = &code.challenge
        && !field("code_verifier").is_some_and(|verifier| oidc::is_verifier_of(verifier, challenge))
    {
        return answer(400, json!({"error": "invalid_request"}));
    }
    // Somebody who was disabled meanwhile still gets theirs.
    let Some(row) = state.people.get(code.owner).cloned() else { return unsupported() };
    let grant = state.provider.grant(code.owner, app.id, &code.scope);
    let groups = state.groups_of(row.id);
    let claims = oidc::claims(&row, &code.scope, Some(groups));
    let mut body = json!({
        "access_token": grant.access_token, "refresh_token": grant.refresh_token, "token_type": "bearer",
    });
    if code.scope.split(' ').any(|scope| scope == "openid") {
        let token = state.provider.id_token(&app, (&text, &code), claims, &grant, now, state.session_days);
        body["id_token"] = json!(token);
    }
    answer(200, body)
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let encoded = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

/// Never the groups. How a bad token is refused is from Defguard's source.
pub async fn userinfo(State(shared): App, headers: HeaderMap) -> Response {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else { return message(401, "Invalid session") };
    let state = shared.state();
    let grant = state.provider.grants.iter().find(|grant| grant.access_token == token);
    let Some((grant, row)) = grant.and_then(|grant| Some((grant, state.people.get(grant.owner)?))) else {
        return message(401, "Invalid token");
    };
    answer(200, Value::Object(oidc::claims(row, &grant.scope, None)))
}

// ---- the two pages of the front end ----

/// The login: sends what is typed to the API and goes where the answer says.
pub async fn login_page() -> Html<&'static str> {
    Html(
        r#"<!doctype html><title>Defguard: log in</title><h1>Log in</h1>
<form id="form"><input id="username" autocomplete="username" placeholder="username">
<input id="password" type="password" placeholder="password"><button>Log in</button></form><p id="error"></p>
<script>
document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const value = (id) => document.getElementById(id).value;
  const answer = await fetch("/api/v1/auth", {
    method: "POST", headers: {"content-type": "application/json"},
    body: JSON.stringify({username: value("username"), password: value("password")}),
  });
  if (answer.status === 200) location.href = (await answer.json()).url || "/";
  else document.getElementById("error").textContent = "The login was refused.";
});
</script>"#,
    )
}

/// The question for consent, which goes back with the query it came with.
pub async fn consent_page() -> Html<&'static str> {
    Html(
        r#"<!doctype html><title>Defguard: consent</title><h1>An app wants to know who you are</h1>
<form id="form" method="post"><button id="allow">Accept</button></form>
<script>
document.getElementById("form").action = "/api/v1/oauth/authorize" + location.search + "&allow=true";
</script>"#,
    )
}

/// Where a login goes on to, if it was begun by an app: the `url` of the login's answer. Taken once. (That the answer
/// carries it is from Defguard's source.)
pub fn wanted(provider: &mut Provider, headers: &HeaderMap) -> Value {
    cookie(headers, SIGN_IN)
        .and_then(|value| provider.sign_ins.remove(&value))
        .map_or(Value::Null, Value::from)
}

fn redirect(to: &str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, HeaderValue::from_str(to).unwrap())]).into_response()
}
