//! Who is asking.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
    response::Response,
};
use defguard_synapse_sync::ports::Clock;

use super::super::state::NoSession;
use super::{Shared, message};

/// Somebody with a usable session or API token.
pub struct Caller {
    pub id: i64,
}

/// An administrator.
pub struct Admin {
    pub id: i64,
}

/// A User-Agent header, which every change needs. (The facts do not say whether it is looked for before the session;
/// here it is the argument's place in the handler: after.)
pub struct Agent;

/// The value of the session cookie.
pub fn session_cookie(headers: &HeaderMap) -> Option<String> {
    cookie(headers, "defguard_session")
}

/// The value of a cookie.
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|value| value.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.to_owned())
    })
}

fn identify(headers: &HeaderMap, shared: &Shared) -> Result<Caller, Response> {
    let now = shared.time.now();
    let mut state = shared.state();
    // Without a licence the Authorization header is ignored; with one, the cookie is. 1.x needs none for small servers.
    if (state.licence || state.is_old())
        && let Some(value) = headers.get(header::AUTHORIZATION)
    {
        let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| message(401, "Invalid auth header"))?;
        let owner = state.tokens.get(token).map(|token| token.owner);
        let owner = owner.filter(|id| state.people.get(*id).is_some_and(|row| row.is_active));
        let id = owner.ok_or_else(|| message(401, "Invalid API token"))?;
        if !state.is_admin(id) {
            return Err(message(403, "Token authentication is not allowed for normal users"));
        }
        return Ok(Caller { id });
    }
    let cookie = session_cookie(headers).ok_or_else(|| message(401, "Session is required"))?;
    let session = state.session(&cookie, now).map_err(|error| match error {
        NoSession::Unknown => message(401, "Session not found"),
        NoSession::Expired => message(401, "Session expired"),
    })?;
    if session.verified { Ok(Caller { id: session.owner }) } else { Err(message(401, "MFA not verified")) }
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        identify(&parts.headers, shared)
    }
}

impl FromRequestParts<Arc<Shared>> for Admin {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        let caller = identify(&parts.headers, shared)?;
        if shared.state().is_admin(caller.id) {
            Ok(Self { id: caller.id })
        } else {
            Err(message(403, "access denied"))
        }
    }
}

impl FromRequestParts<Arc<Shared>> for Agent {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Response> {
        if parts.headers.contains_key(header::USER_AGENT) {
            Ok(Self)
        } else {
            Err(message(400, "Missing UserAgent header"))
        }
    }
}
