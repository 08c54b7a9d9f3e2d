//! Webhooks: what is registered, and the one worker that delivers events, one after the other, without a time limit and
//! without a second try.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Shared;

/// A registered webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub id: i64,
    pub settings: WebhookSettings,
}

/// All keys are needed: a missing one is 422.
#[derive(Debug, Clone, Deserialize)]
pub struct WebhookSettings {
    pub url: String,
    pub description: String,
    pub token: String,
    pub enabled: bool,
    pub on_user_created: bool,
    pub on_user_deleted: bool,
    pub on_user_modified: bool,
    pub on_hwkey_provision: bool,
}

impl Webhook {
    pub fn info(&self) -> Value {
        let it = &self.settings;
        json!({
            "id": self.id, "url": it.url, "description": it.description, "token": it.token, "enabled": it.enabled,
            "on_user_created": it.on_user_created, "on_user_deleted": it.on_user_deleted,
            "on_user_modified": it.on_user_modified, "on_hwkey_provision": it.on_hwkey_provision,
        })
    }

    fn wants(&self, event: &Event) -> bool {
        let it = &self.settings;
        it.enabled
            && match event {
                Event::Created(_) => it.on_user_created,
                Event::Modified(_) => it.on_user_modified,
                Event::Deleted(_) => it.on_user_deleted,
            }
    }
}

/// What webhooks are told of.
#[derive(Debug)]
pub enum Event {
    /// With the `UserInfo`.
    Created(Value),
    /// With the `UserInfo` after the change.
    Modified(Value),
    /// With the username.
    Deleted(String),
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Created(_) => "user_created",
            Self::Modified(_) => "user_modified",
            Self::Deleted(_) => "user_deleted",
        }
    }

    fn body(&self) -> Value {
        match self {
            Self::Created(info) | Self::Modified(info) => info.clone(),
            Self::Deleted(username) => json!({"username": username}),
        }
    }
}

/// An event that was sent, and the status of the answer if there was one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub event: &'static str,
    pub status: Option<u16>,
}

/// Delivers until nobody can send events any more. Redirects are followed, as the client's default is. (Whether the
/// webhooks are looked up when the event happens or when it is delivered is not in the facts; here it is the latter.)
#[allow(clippy::disallowed_methods, reason = "the stand-in is a server of its own")]
pub async fn deliver(shared: Arc<Shared>, mut events: mpsc::UnboundedReceiver<Event>) {
    let client = reqwest::Client::builder().user_agent("reqwest").build().unwrap();
    while let Some(event) = events.recv().await {
        let webhooks: Vec<Webhook> =
            shared.state().webhooks.iter().filter(|webhook| webhook.wants(&event)).cloned().collect();
        for webhook in webhooks {
            let request = client
                .post(&webhook.settings.url)
                .bearer_auth(&webhook.settings.token)
                .header("x-defguard-event", event.name())
                .json(&event.body());
            let status = request.send().await.ok().map(|answer| answer.status().as_u16());
            shared.deliveries.send_modify(|log| log.push(Delivery { event: event.name(), status }));
        }
    }
}
