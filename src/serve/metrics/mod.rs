//! The metrics: what is counted while the service works, and what is looked at when somebody asks.
//!
//! Every label has a bounded set of values; no label holds anything of a person. The names are in base units and begin
//! with [`PREFIX`].

mod gauges;
mod labels;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use prometheus_client::{
    encoding::{prometheus_text, text},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use self::{
    gauges::Gauges,
    labels::{
        ActionLabels, Build, EndpointLabels, Kind, RequestLabels, RetryLabels, RunLabels, WebhookLabels,
    },
};
use super::{
    overview::Overview,
    webhook::{self, Outcome},
};
use crate::{
    domain::{Change, FailureClass, Peer},
    engine::{PersonReport, RunReport},
    http::{Meter, TryResult},
    reconcile::{Pass, State},
};

pub use labels::WebhookResult;

/// What the name of every metric begins with.
pub const PREFIX: &str = "defguard_synapse_sync";

/// Upper bounds for requests, in seconds; an answer takes a few milliseconds to a minute.
const REQUEST_SECONDS: [f64; 9] = [0.005, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

/// Upper bounds for runs, in seconds; one that has nothing to do takes less than one, the first one of ten thousand people
/// an hour.
const RUN_SECONDS: [f64; 10] = [0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

/// Makes histograms with fixed bounds.
#[derive(Debug, Clone)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// All metrics of one daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<EndpointLabels, Histogram, Bounds>,
    retries: Family<RetryLabels, Counter>,
    runs: Family<RunLabels, Counter>,
    run_seconds: Family<Kind, Histogram, Bounds>,
    actions: Family<ActionLabels, Counter>,
    changes: Family<Kind, Counter>,
    webhook: Family<WebhookLabels, Counter>,
    gauges: Gauges,
    /// What is looked at is set and written out by one asker at a time.
    turn: Mutex<()>,
}

impl webhook::Counter for Metrics {
    fn count(&self, outcome: Outcome) {
        self.webhook(match outcome {
            Outcome::Accepted => WebhookResult::accepted,
            Outcome::Unauthorised => WebhookResult::unauthorized,
            Outcome::TooLarge => WebhookResult::too_large,
            Outcome::Malformed => WebhookResult::malformed,
            Outcome::Limited => WebhookResult::limited,
        });
    }
}

impl Metrics {
    /// All of them, at nought.
    pub fn new(started: DateTime<Utc>) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let gauges = Gauges::register(&mut registry);
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "The version that runs, as a label; always 1", build);
        gauges.start.set(seconds(started));
        let metrics = Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(Bounds(&REQUEST_SECONDS)),
            retries: Family::default(),
            runs: Family::default(),
            run_seconds: Family::new_with_constructor(Bounds(&RUN_SECONDS)),
            actions: Family::default(),
            changes: Family::default(),
            webhook: Family::default(),
            gauges,
            turn: Mutex::new(()),
            registry,
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register(
            "http_requests",
            "Tries of requests to Defguard and Synapse, by what came of them",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time from sending a request to the last byte of the answer",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        registry.register(
            "http_retries",
            "Requests that were sent again, by what the try before met with",
            self.retries.clone(),
        );
        registry.register("runs", "Runs, by how they ended", self.runs.clone());
        registry.register_with_unit(
            "run_duration",
            "Time that a run took",
            Unit::Seconds,
            self.run_seconds.clone(),
        );
        // What has not happened yet is nought, so that its first time is a rise.
        for kind in ["frequent", "full"] {
            for outcome in OUTCOMES {
                drop(self.runs.get_or_create(&RunLabels { kind, outcome }));
            }
        }
        for result in WebhookResult::ALL {
            drop(self.webhook.get_or_create(&WebhookLabels { result }));
        }
        let alarm = Change::StrangerSessions { sessions: BTreeSet::new() };
        drop(self.changes.get_or_create(&Kind { kind: alarm.kind() }));
        registry.register(
            "actions",
            "What was to be done for a person, by what became of it",
            self.actions.clone(),
        );
        registry.register(
            "changes",
            "Single changes to accounts and links that were done, as they stand in the journal",
            self.changes.clone(),
        );
        registry.register(
            "webhook_deliveries",
            "Webhook deliveries from Defguard, by what became of them",
            self.webhook.clone(),
        );
        self
    }

    /// Counts a run.
    pub fn run(&self, report: &RunReport) {
        let kind = if report.pass == Pass::Full { "full" } else { "frequent" };
        let outcome = outcome(report.exit_code());
        self.runs.get_or_create(&RunLabels { kind, outcome }).inc();
        let took = (report.ended - report.began).as_seconds_f64().max(0.0);
        self.run_seconds.get_or_create(&Kind { kind }).observe(took);
        for person in &report.people {
            if let Some(kind) = action(person) {
                self.actions.get_or_create(&ActionLabels { kind, result: result(person) }).inc();
            }
            self.changes(&person.done);
        }
    }

    /// Counts changes that were done.
    pub fn changes(&self, done: &[Change]) {
        for change in done {
            self.changes.get_or_create(&Kind { kind: change.kind() }).inc();
        }
    }

    /// Counts a delivery of the webhook.
    pub fn webhook(&self, result: WebhookResult) {
        self.webhook.get_or_create(&WebhookLabels { result }).inc();
    }

    /// Everything in the text format of OpenMetrics 1.0.
    pub fn open_metrics(&self, overview: &Overview) -> Result<String, fmt::Error> {
        self.written(overview, text::encode)
    }

    /// Everything in the text format 0.0.4 of Prometheus.
    pub fn text(&self, overview: &Overview) -> Result<String, fmt::Error> {
        self.written(overview, prometheus_text::encode)
    }

    fn written(
        &self,
        overview: &Overview,
        encode: impl FnOnce(&mut String, &Registry) -> fmt::Result,
    ) -> Result<String, fmt::Error> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.gauges.set(overview);
        let mut body = String::new();
        encode(&mut body, &self.registry)?;
        Ok(body)
    }
}

impl Meter for Metrics {
    fn request(&self, peer: Peer, endpoint: &'static str, result: TryResult, took: Duration) {
        let peer = labels::peer(peer);
        let status = labels::status(result);
        self.requests.get_or_create(&RequestLabels { peer, endpoint, status }).inc();
        self.request_seconds.get_or_create(&EndpointLabels { peer, endpoint }).observe(took.as_secs_f64());
    }

    fn retry(&self, peer: Peer, class: FailureClass) {
        let reason = labels::class(class);
        self.retries.get_or_create(&RetryLabels { peer: labels::peer(peer), reason }).inc();
    }
}

/// A moment as seconds since 1970.
fn seconds(moment: DateTime<Utc>) -> f64 {
    // Exact to a microsecond for some centuries.
    #[allow(clippy::cast_precision_loss)]
    let micros = moment.timestamp_micros() as f64;
    micros / 1e6
}

/// How runs can end, in a word.
const OUTCOMES: [&str; 5] = ["done", "partly", "held", "unusable", "failed"];

fn outcome(exit_code: u8) -> &'static str {
    let [done, partly, held, unusable, failed] = OUTCOMES;
    match exit_code {
        0 => done,
        3 => partly,
        4 => held,
        5 => unusable,
        _ => failed,
    }
}

/// What is to be done for somebody, if anything is.
fn action(person: &PersonReport) -> Option<&'static str> {
    let idle = person.steps.is_empty() && person.done.is_empty();
    match person.state {
        state @ (State::Create | State::Adopt | State::Relink | State::Update) => Some(state.as_str()),
        State::Disabled | State::OutOfScope | State::Gone if !idle => Some("off_board"),
        // Somebody can be in step or in conflict, and something is done for others of the group at their account.
        State::InStep | State::Conflict if !idle => Some(State::Update.as_str()),
        _ => None,
    }
}

/// What became of it.
fn result(person: &PersonReport) -> &'static str {
    if person.failure.is_some() {
        "failed"
    } else if person.put_off.is_some() {
        "put_off"
    } else {
        "done"
    }
}
