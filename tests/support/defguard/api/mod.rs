//! The REST API: one file for each group of endpoints.

mod auth;
mod caller;
mod groups;
mod misc;
mod oauth;
mod users;
mod webhooks;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use serde_json::{Value, json};

use super::{Shared, state::Refused};

type App = axum::extract::State<Arc<Shared>>;

pub fn router(shared: Arc<Shared>) -> Router {
    let v1 = Router::new()
        .route("/auth", post(auth::login))
        .route("/auth/totp/verify", post(auth::verify_totp))
        .route("/auth/logout", post(auth::logout))
        .route("/session-info", get(misc::session_info))
        .route("/me", get(users::me))
        .route("/info", get(misc::info))
        .route("/enterprise_info", get(misc::enterprise_info))
        .route("/health", get(misc::health))
        .route("/user", get(users::list).post(users::create))
        // Two fixed paths that hide people with these usernames.
        .route("/user/available", post(users::available))
        .route("/user/change_password", put(users::change_password))
        .route("/user/{username}", get(users::find).put(users::put).delete(users::delete))
        .route("/user/{username}/api_token", get(auth::list_tokens).post(auth::create_token))
        .route("/group", get(groups::names).post(groups::create))
        .route("/group-info", get(groups::info))
        .route(
            "/group/{id}",
            get(groups::find).post(groups::add_member).put(groups::put).delete(groups::delete),
        )
        .route("/group/{id}/user/{username}", delete(groups::remove_member))
        .route("/oauth", get(oauth::list).post(oauth::create))
        .route(
            "/oauth/{client_id}",
            get(oauth::find).put(oauth::put).post(oauth::set_state).delete(oauth::delete),
        )
        .route("/oauth/authorize", get(oauth::authorize).post(oauth::consent))
        .route("/oauth/token", post(oauth::token))
        .route("/oauth/userinfo", get(oauth::userinfo))
        .route("/oauth/discovery/keys", get(oauth::keys))
        .route("/webhook", get(webhooks::list).post(webhooks::add))
        .route("/webhook/{id}", put(webhooks::put).post(webhooks::switch).delete(webhooks::delete));
    Router::new()
        .nest("/api/v1", v1)
        .route("/.well-known/openid-configuration", get(oauth::discovery))
        .route("/auth/login", get(oauth::login_page))
        .route("/consent", get(oauth::consent_page))
        // Any other GET gets the web page, any other method 405.
        .fallback_service(get(misc::web_page))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), misc::other_modes))
        .layer(DefaultBodyLimit::max(256 * 1024))
        .with_state(shared)
}

fn answer(status: u16, body: Value) -> Response {
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

fn message(status: u16, text: &str) -> Response {
    answer(status, json!({"msg": text}))
}

/// How a refused change of a person is answered.
fn refused(why: Refused, username: &str) -> Response {
    match why {
        Refused::Invalid => answer(400, json!({})),
        Refused::Taken => message(500, "Internal server error"),
        Refused::Unknown => message(404, &format!("user {username} not found")),
    }
}

/// `{"data": …, "pagination": …}` of one page.
fn paginated(data: Vec<Value>, page: u64, size: u64, total: usize) -> Response {
    let total = u64::try_from(total).unwrap();
    let pages = total.div_ceil(size);
    answer(
        200,
        json!({
            "data": data,
            "pagination": {
                "current_page": page,
                "page_size": size,
                "total_items": total,
                "total_pages": pages,
                "next_page": (page < pages).then_some(page + 1),
            }
        }),
    )
}

/// `page` and `per_page`. Anything but a u32, and a key given twice, is refused by the framework with 400 text/plain.
#[derive(Debug, serde::Deserialize)]
struct Paging {
    page: Option<u32>,
    per_page: Option<u32>,
}

impl Paging {
    /// The page, and the size of pages, cut silently to what is allowed.
    fn of(&self) -> (u64, u64) {
        (u64::from(self.page.unwrap_or(1).max(1)), u64::from(self.per_page.unwrap_or(50).clamp(1, 100)))
    }
}
