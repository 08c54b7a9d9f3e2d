//! Login, second factor, logout, API tokens.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use defguard_synapse_sync::ports::Clock;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{state::NoSession, totp};
use super::{
    App, Shared, answer,
    caller::{Admin, Agent, Caller, session_cookie},
    message, oauth,
};

/// A User-Agent header as login and logout want it: refused by the framework, in plain text.
pub struct TypedAgent;

impl FromRequestParts<Arc<Shared>> for TypedAgent {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Response> {
        if parts.headers.contains_key(header::USER_AGENT) {
            Ok(Self)
        } else {
            Err((axum::http::StatusCode::BAD_REQUEST, "Header of type `user-agent` was missing")
                .into_response())
        }
    }
}

#[derive(Deserialize)]
pub struct Credentials {
    username: String,
    password: String,
}

pub async fn login(
    _: TypedAgent,
    State(shared): App,
    headers: HeaderMap,
    Json(credentials): Json<Credentials>,
) -> Response {
    let now = shared.time.now();
    let mut state = shared.state();
    // The check uses the text as submitted, the count the account's username: an e-mail address gets past the lock.
    if state.is_locked_out(&credentials.username, now) {
        return message(429, "Too many login attempts");
    }
    let by_mail = |email: &str| {
        credentials.username.contains('@') && email.to_lowercase() == credentials.username.to_lowercase()
    };
    let row =
        state.people.rows().find(|row| row.username == credentials.username || by_mail(&row.email)).cloned();
    // The facts are silent on whether failures of unknown usernames are counted; here they are not.
    let Some(row) = row else { return answer(401, json!({})) };
    if !row.is_active || row.password.as_ref() != Some(&credentials.password) {
        state.count_failure(&row.username, now);
        return answer(401, json!({}));
    }
    let has_mfa = row.totp_secret.is_some();
    let cookie = state.open_session(row.id, now, !has_mfa);
    let mut response = if has_mfa {
        answer(
            201,
            json!({
                "mfa_method": row.mfa_method,
                "totp_available": true,
                "webauthn_available": false,
                "email_available": false,
            }),
        )
    } else {
        let url = oauth::wanted(&mut state.provider, &headers);
        answer(200, json!({"url": url, "user": state.info(&row)}))
    };
    let cookie = format!(
        "defguard_session={cookie}; HttpOnly; SameSite=Lax; Path=/; Max-Age={}; {}",
        state.session_days * 86_400,
        state.cookie_attributes()
    );
    response.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_str(&cookie).unwrap());
    response
}

#[derive(Deserialize)]
pub struct Code {
    code: String,
}

pub async fn verify_totp(State(shared): App, headers: HeaderMap, Json(code): Json<Code>) -> Response {
    let now = shared.time.now();
    let mut state = shared.state();
    let Some(cookie) = session_cookie(&headers) else { return message(401, "Session is required") };
    let session = match state.session(&cookie, now) {
        Ok(session) => session,
        Err(NoSession::Expired) => return message(401, "Session expired"),
        Err(NoSession::Unknown) => return message(401, "Session not found"),
    };
    let row = state.people.get(session.owner).unwrap().clone();
    if state.is_locked_out(&row.username, now) {
        return message(429, "Too many login attempts");
    }
    // Only the present step counts; the same code may come again inside it.
    let right =
        row.totp_secret.as_ref().is_some_and(|secret| totp::code(secret, now.timestamp()) == code.code);
    if !right {
        state.count_failure(&row.username, now);
        return message(401, "Invalid TOTP code");
    }
    state.sessions.get_mut(&cookie).unwrap().verified = true;
    let url = oauth::wanted(&mut state.provider, &headers);
    answer(200, json!({"url": url, "user": state.info(&row)}))
}

pub async fn logout(_: TypedAgent, _caller: Caller, State(shared): App, headers: HeaderMap) -> Response {
    if let Some(cookie) = session_cookie(&headers) {
        shared.state().sessions.remove(&cookie);
    }
    let mut response = answer(200, Value::Null);
    // The exact form of the clearing cookie is not in the facts.
    response.headers_mut().insert(
        header::SET_COOKIE,
        HeaderValue::from_static("defguard_session=; Path=/; Domain=defguard.example.com; Max-Age=0"),
    );
    response
}

#[derive(Deserialize)]
pub struct NewToken {
    name: String,
}

/// The licence is looked at before the session.
pub struct Licensed;

impl FromRequestParts<Arc<Shared>> for Licensed {
    type Rejection = Response;

    async fn from_request_parts(_: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        if shared.state().licence { Ok(Self) } else { Err(message(403, "Enterprise features are disabled")) }
    }
}

pub async fn create_token(
    _: Licensed,
    admin: Admin,
    _: Agent,
    State(shared): App,
    Path(username): Path<String>,
    Json(new): Json<NewToken>,
) -> Response {
    let now = shared.time.now();
    let mut state = shared.state();
    // For others: 403; its text is not in the facts.
    if state.id_of(&username) != Some(admin.id) {
        return message(403, "access denied");
    }
    answer(201, json!({"token": state.open_token(admin.id, &new.name, now)}))
}

pub async fn list_tokens(
    _: Licensed,
    _: Admin,
    State(shared): App,
    Path(username): Path<String>,
) -> Response {
    let state = shared.state();
    let Some(owner) = state.id_of(&username) else {
        return message(404, &format!("user {username} not found"));
    };
    let mine = state.tokens.values().filter(|token| token.owner == owner);
    answer(
        200,
        mine.map(|token| json!({"id": token.id, "name": token.name, "created_at": token.created})).collect(),
    )
}
