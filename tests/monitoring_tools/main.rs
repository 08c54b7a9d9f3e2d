//! What the daemon shows, as Prometheus and a browser take it. `tests/monitoring_tools/run` runs these tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on may stop; requests go to our own listener"
)]

mod browser;
mod prometheus;

#[path = "../support/overview.rs"]
mod overview;

use std::{process::Command, sync::Arc};

use axum::Router;
use defguard_synapse_sync::serve::{listener::Listener, metrics::Metrics, monitor, overview::Overview};
use overview::{counted, fixed};
use tokio_util::sync::CancellationToken;

/// A listener with a daemon behind it that is as it is told.
struct Serving {
    url: String,
    address: String,
    stop: CancellationToken,
}

impl Serving {
    /// `more` are routes beside ours.
    async fn of(overview: Overview, names: bool, more: Router) -> Self {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), "monitoring.listen").await.unwrap();
        let metrics = Arc::new(Metrics::new(overview.started));
        counted(&metrics);
        let address = listener.address().to_string();
        let stop = CancellationToken::new();
        let router = monitor::router(fixed(overview), metrics, names).merge(more);
        tokio::spawn(listener.serve(router, stop.clone()));
        Self { url: format!("http://{address}"), address, stop }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs a tool to its end while this runtime goes on serving; gives what it printed.
async fn tool(mut command: Command) -> (bool, String) {
    tokio::task::spawn_blocking(move || {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.success(), text.concat())
    })
    .await
    .unwrap()
}
