//! The routes by which the daemon tells how it is: metrics, health, the status page. They only read, and ask no server.

mod negotiate;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::Semaphore;

use self::negotiate::Format;
use super::{
    health::{PEERS, Use},
    metrics::Metrics,
    overview::{Overview, Watched},
    page,
};

/// What a page of ours may load: its own style, nothing else.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

/// What answers are made from.
struct Monitor {
    watched: Arc<dyn Watched>,
    metrics: Arc<Metrics>,
    names: bool,
    /// One look at a time, however many ask.
    turn: Semaphore,
}

/// The routes. `names` tells whether the status page names people.
pub fn router(watched: Arc<dyn Watched>, metrics: Arc<Metrics>, names: bool) -> Router {
    let monitor = Monitor { watched, metrics, names, turn: Semaphore::new(1) };
    Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics_text))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(Arc::new(monitor))
}

impl Monitor {
    /// Looks and makes something of it, off the threads that serve.
    async fn make<T: Send + 'static>(
        self: Arc<Self>,
        what: impl FnOnce(&Self, &Overview) -> T + Send + 'static,
    ) -> Result<T, Response> {
        let broken = |why: &str| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n"));
        let _turn = self.turn.acquire().await.map_err(|_| broken("the daemon ends"))?;
        let monitor = Arc::clone(&self);
        tokio::task::spawn_blocking(move || what(&monitor, &monitor.watched.look()))
            .await
            .map_err(|error| broken(&format!("the look at the service broke down: {error}")))
    }
}

async fn status_page(State(monitor): State<Arc<Monitor>>) -> Response {
    match monitor.make(|monitor, overview| page::render(overview, monitor.names)).await {
        Ok(html) => (
            [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
                (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY)),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
                (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            ],
            html,
        )
            .into_response(),
        Err(broken) => broken,
    }
}

async fn metrics_text(State(monitor): State<Arc<Monitor>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::wanted(accept);
    let encoded = monitor.make(move |monitor, overview| match format {
        Format::OpenMetrics => monitor.metrics.open_metrics(overview),
        Format::Text => monitor.metrics.text(overview),
    });
    let content: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, format.content_type()),
        (header::VARY, "accept"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    match encoded.await {
        Ok(Ok(body)) => (content, body).into_response(),
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics: {error}\n")),
        Err(broken) => broken,
    }
}

/// Whether the process does its work, so that restarting it would be no help. Reads no store.
async fn live(State(monitor): State<Arc<Monitor>>) -> Response {
    if monitor.watched.working() {
        text(StatusCode::OK, "live\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "not live: no more runs are done\n".to_owned())
    }
}

/// Whether it can do its work: both servers and the store could be used the last time that they were needed.
async fn ready(State(monitor): State<Arc<Monitor>>) -> Response {
    match monitor.make(|_, overview| obstacles(overview)).await {
        Ok(obstacles) if obstacles.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
        Ok(obstacles) => {
            let lines: String = obstacles.iter().map(|line| format!("not ready: {line}\n")).collect();
            text(StatusCode::SERVICE_UNAVAILABLE, lines)
        }
        Err(broken) => broken,
    }
}

/// What keeps the service from its work.
fn obstacles(overview: &Overview) -> Vec<String> {
    let mut obstacles = Vec::new();
    if !overview.working {
        obstacles.push("no more runs are done".to_owned());
    }
    for peer in PEERS {
        match overview.health.of(peer) {
            Use::Usable => {}
            Use::Untried => obstacles.push(format!("{peer} has not been needed yet")),
            Use::Unusable { failure, .. } => obstacles.push(page::without_names(&failure.to_string())),
        }
    }
    if let Err(failure) = &overview.memory {
        obstacles.push(failure.to_string());
    }
    obstacles
}

fn text(status: StatusCode, body: String) -> Response {
    let content = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, content, body).into_response()
}
