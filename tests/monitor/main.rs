//! What the daemon tells those who watch it, on a real listener, from a daemon that is as the test says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on may stop; requests go to our own listener"
)]

mod exposition;
mod health;
mod page;
mod shipped;

#[path = "../support/overview.rs"]
mod overview;

use std::sync::Arc;

use defguard_synapse_sync::serve::{listener::Listener, metrics::Metrics, monitor, overview::Overview};
use overview::counted;
use reqwest::{Response, StatusCode};
use tokio_util::sync::CancellationToken;

/// A listener with a daemon behind it that is as it is told.
struct Monitor {
    url: String,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Monitor {
    async fn of(overview: Overview) -> Self {
        Self::naming(overview, false).await
    }

    async fn naming(overview: Overview, names: bool) -> Self {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), "monitoring.listen").await.unwrap();
        let metrics = Arc::new(Metrics::new(overview.started));
        let url = format!("http://{}", listener.address());
        let stop = CancellationToken::new();
        let router = monitor::router(overview::fixed(overview), Arc::clone(&metrics), names);
        tokio::spawn(listener.serve(router, stop.clone()));
        Self { url, metrics, stop }
    }

    async fn get(&self, path: &str, accept: &str) -> Response {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(format!("{}{path}", self.url)).header("accept", accept).send().await.unwrap()
    }

    async fn text(&self, path: &str) -> (StatusCode, String) {
        let answer = self.get(path, "*/*").await;
        (answer.status(), answer.text().await.unwrap())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
