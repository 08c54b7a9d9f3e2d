//! Health, information, the web page, and the modes in which the whole server answers otherwise.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use defguard_synapse_sync::ports::Clock;
use serde_json::json;

use super::{
    App, answer,
    caller::{Caller, session_cookie},
};

pub async fn web_page() -> Response {
    ([(header::CONTENT_TYPE, "text/html")], "<html></html>\n").into_response()
}

/// `authorized` is true before the second factor, too. Never 401. (API tokens: not in the facts, not looked at.)
pub async fn session_info(State(shared): App, headers: HeaderMap) -> Response {
    let now = shared.time.now();
    let mut state = shared.state();
    let session = session_cookie(&headers).and_then(|cookie| state.session(&cookie, now).ok());
    let row = session.and_then(|session| state.people.get(session.owner));
    answer(
        200,
        json!({
            "active_wizard": null,
            "authorized": row.is_some(),
            "is_admin": row.is_some_and(|row| state.is_admin(row.id)),
            "username": row.map(|row| &row.username),
        }),
    )
}

pub async fn info(_: Caller, State(shared): App) -> Response {
    answer(
        200,
        json!({
            "version": shared.state().version,
            "network_present": false,
            "smtp_enabled": false,
            "ldap_info": {"enabled": false, "ad": false},
            "external_openid_enabled": false,
        }),
    )
}

/// What `license_info` holds with a licence is not in the facts.
pub async fn enterprise_info(_: Caller, State(shared): App) -> Response {
    let licence = if shared.state().licence { json!({"subscription": true}) } else { json!(null) };
    answer(200, json!({"license_info": licence}))
}

pub async fn health() -> &'static str {
    "alive"
}

/// The unfinished wizard, and what 1.x does not have.
pub async fn other_modes(State(shared): App, request: Request<Body>, next: Next) -> Response {
    let (wizard, old) = {
        let state = shared.state();
        (state.wizard, state.is_old())
    };
    let path = request.uri().path();
    let missing = (wizard && path != "/api/v1/health") || (old && path == "/api/v1/session-info");
    if !missing {
        return next.run(request).await;
    }
    if request.method() == Method::GET {
        web_page().await
    } else {
        StatusCode::METHOD_NOT_ALLOWED.into_response()
    }
}
