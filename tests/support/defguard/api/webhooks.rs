//! The endpoints for webhooks.

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{
    state::State as Database,
    webhooks::{Webhook, WebhookSettings},
};
use super::{
    App, answer,
    caller::{Admin, Agent},
};

/// A plain array, with the tokens in clear.
pub async fn list(_: Admin, State(shared): App) -> Response {
    answer(200, shared.state().webhooks.iter().map(Webhook::info).collect())
}

/// Answers without the id. An address that is there already is 400; it is not looked at otherwise.
pub async fn add(_: Admin, _: Agent, State(shared): App, Json(new): Json<WebhookSettings>) -> Response {
    let mut state = shared.state();
    if state.webhooks.iter().any(|webhook| webhook.settings.url == new.url) {
        return answer(400, json!({}));
    }
    let id = state.webhooks.iter().map(|webhook| webhook.id).max().unwrap_or(0) + 1;
    state.webhooks.push(Webhook { id, settings: new });
    answer(201, json!({}))
}

pub async fn put(
    _: Admin,
    _: Agent,
    State(shared): App,
    Path(id): Path<i64>,
    Json(new): Json<WebhookSettings>,
) -> Response {
    change(&mut shared.state(), id, |webhook| webhook.settings = new)
}

#[derive(Deserialize)]
pub struct Switch {
    enabled: bool,
}

pub async fn switch(
    _: Admin,
    _: Agent,
    State(shared): App,
    Path(id): Path<i64>,
    Json(switch): Json<Switch>,
) -> Response {
    change(&mut shared.state(), id, |webhook| webhook.settings.enabled = switch.enabled)
}

pub async fn delete(_: Admin, _: Agent, State(shared): App, Path(id): Path<i64>) -> Response {
    let mut state = shared.state();
    let before = state.webhooks.len();
    state.webhooks.retain(|webhook| webhook.id != id);
    answer(if state.webhooks.len() < before { 200 } else { 404 }, json!({}))
}

fn change(state: &mut Database, id: i64, change: impl FnOnce(&mut Webhook)) -> Response {
    let found = state.webhooks.iter_mut().find(|webhook| webhook.id == id);
    let status = if found.is_some() { 200 } else { 404 };
    if let Some(webhook) = found {
        change(webhook);
    }
    answer(status, Value::Object(serde_json::Map::new()))
}
