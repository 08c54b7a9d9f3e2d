//! `/metrics`.

use std::{collections::BTreeMap, time::Duration};

use defguard_synapse_sync::{
    domain::{Change, Completeness, DefguardId, Failure, FailureClass, Leaving, Peer, RunId, Username},
    engine::{PersonReport, RunReport},
    http::{Meter as _, TryResult},
    reconcile::{Pass, State},
    serve::metrics::WebhookResult,
};

use crate::{
    Monitor,
    overview::{ago, calm, mxid, now, rejected, troubled, young},
};

const PREFIX: &str = "defguard_synapse_sync_";

/// The samples of the text format, by name and labels without the prefix.
fn samples(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.strip_prefix(PREFIX).unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

async fn metrics(monitor: &Monitor) -> BTreeMap<String, f64> {
    samples(&monitor.text("/metrics").await.1)
}

fn person(id: i64, state: State) -> PersonReport {
    PersonReport {
        id: DefguardId(id),
        username: Username::new(format!("person-{id}")),
        state,
        mxid: Some(mxid(&format!("person-{id}"))),
        conflicts: Vec::new(),
        notes: Vec::new(),
        steps: Vec::new(),
        done: Vec::new(),
        failure: None,
        put_off: None,
    }
}

fn report(people: Vec<PersonReport>) -> RunReport {
    RunReport {
        run: Some(RunId(1)),
        pass: Pass::Frequent,
        began: ago(1),
        ended: now(),
        dry_run: false,
        completeness: Some(Completeness::Complete),
        people,
        unknown: Vec::new(),
        held: None,
        failure: None,
        interrupted: false,
    }
}

#[tokio::test]
async fn both_formats_say_the_same_each_in_its_own_way() {
    let monitor = Monitor::of(calm()).await;
    monitor.metrics.run(&report(Vec::new()));
    let open = monitor.get("/metrics", "application/openmetrics-text; version=1.0.0").await;
    assert_eq!(open.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let open = open.text().await.unwrap();
    let plain = monitor.get("/metrics", "text/plain; version=0.0.4").await;
    assert_eq!(plain.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let plain = plain.text().await.unwrap();
    assert!(open.ends_with("\n# EOF\n") && !plain.contains("# EOF"));
    assert!(open.contains("# TYPE defguard_synapse_sync_runs counter"), "{open}");
    assert!(plain.contains("# TYPE defguard_synapse_sync_runs_total counter"), "{plain}");
    // The bounds of histograms are spelled in two ways.
    let without_bounds = |text: &str| -> BTreeMap<String, f64> {
        samples(text).into_iter().filter(|(name, _)| !name.contains("_bucket")).collect()
    };
    assert_eq!(without_bounds(&open), without_bounds(&plain));
    assert_eq!(samples(&open).len(), samples(&plain).len());
}

#[tokio::test]
async fn a_run_is_counted_with_what_became_of_whom() {
    let monitor = Monitor::of(calm()).await;
    let created = PersonReport { done: vec![Change::Created], ..person(1, State::Create) };
    let failure = Failure::new(Peer::Synapse, FailureClass::Transient, "writing", "status 500");
    let failed = PersonReport { failure: Some(failure), ..person(2, State::Update) };
    let put_off = PersonReport { put_off: Some("changed meanwhile".to_owned()), ..person(3, State::Adopt) };
    let locked = Change::Locked { why: Leaving::Disabled, end_sessions: false };
    let left = PersonReport { done: vec![locked], ..person(5, State::Disabled) };
    let idle = [person(4, State::InStep), person(6, State::Disabled), person(7, State::Held)];
    monitor.metrics.run(&report([vec![created, failed, put_off, left], idle.into()].concat()));
    monitor.metrics.run(&RunReport { pass: Pass::Full, ..report(Vec::new()) });
    let seen = metrics(&monitor).await;
    for (name, value) in [
        ("runs_total{kind=\"frequent\",outcome=\"partly\"}", 1.0),
        ("runs_total{kind=\"full\",outcome=\"done\"}", 1.0),
        ("run_duration_seconds_sum{kind=\"frequent\"}", 60.0),
        ("run_duration_seconds_count{kind=\"frequent\"}", 1.0),
        ("actions_total{kind=\"create\",result=\"done\"}", 1.0),
        ("actions_total{kind=\"update\",result=\"failed\"}", 1.0),
        ("actions_total{kind=\"adopt\",result=\"put_off\"}", 1.0),
        ("actions_total{kind=\"off_board\",result=\"done\"}", 1.0),
        ("changes_total{kind=\"created\"}", 1.0),
        ("changes_total{kind=\"locked\"}", 1.0),
        ("changes_total{kind=\"stranger_sessions\"}", 0.0),
    ] {
        assert_eq!(seen.get(name), Some(&value), "{name} in {seen:#?}");
    }
    assert_eq!(seen.keys().filter(|name| name.starts_with("actions_total")).count(), 4, "{seen:#?}");
}

#[tokio::test]
async fn requests_and_retries_are_counted_by_peer_endpoint_and_status() {
    let monitor = Monitor::of(calm()).await;
    let status = |code| TryResult::Status(reqwest::StatusCode::from_u16(code).unwrap());
    let took = Duration::from_millis(30);
    for result in [status(200), status(200), status(429), status(418), TryResult::TimedOut] {
        monitor.metrics.request(Peer::Synapse, "user", result, took);
    }
    monitor.metrics.retry(Peer::Synapse, FailureClass::RateLimited(None));
    monitor.metrics.webhook(WebhookResult::unauthorized);
    let seen = metrics(&monitor).await;
    let requests = |status: &str| {
        seen.get(&format!("http_requests_total{{peer=\"synapse\",endpoint=\"user\",status=\"{status}\"}}"))
    };
    assert_eq!(requests("200"), Some(&2.0), "{seen:#?}");
    assert_eq!(
        (requests("429"), requests("4xx"), requests("timed_out")),
        (Some(&1.0), Some(&1.0), Some(&1.0))
    );
    let seconds = "http_request_duration_seconds_bucket{peer=\"synapse\",endpoint=\"user\",le=\"0.05\"}";
    assert_eq!(seen.get(seconds), Some(&5.0), "{seen:#?}");
    assert_eq!(seen.get("http_retries_total{peer=\"synapse\",reason=\"rate_limited\"}"), Some(&1.0));
    assert_eq!(seen.get("webhook_deliveries_total{result=\"unauthorized\"}"), Some(&1.0));
}

#[tokio::test]
async fn what_is_looked_at_is_as_it_is_now() {
    let seen = metrics(&Monitor::of(troubled()).await).await;
    for (name, value) in [
        ("people_linked", 333.0),
        ("people{state=\"in_step\"}", 333.0),
        ("people{state=\"conflict\"}", 0.0),
        ("people_in_conflict", 5.0),
        ("conflicts{kind=\"localpart_taken\"}", 1.0),
        ("people_failing", 1.0),
        ("failing_since_timestamp_seconds", ago(60 * 26).timestamp() as f64),
        ("groups_unfinished", 1.0),
        ("hold_active", 1.0),
        ("hold_since_timestamp_seconds", ago(50).timestamp() as f64),
        ("held_steps{harm=\"lock_gone\"}", 31.0),
        ("held_steps{harm=\"email\"}", 3.0),
        ("held_steps{harm=\"deactivate\"}", 0.0),
        ("leavers{why=\"gone\",stage=\"missed\"}", 1.0),
        ("leavers{why=\"out_of_scope\",stage=\"missed\"}", 1.0),
        ("leavers{why=\"gone\",stage=\"locked\"}", 1.0),
        ("leavers{why=\"disabled\",stage=\"locked\"}", 1.0),
        ("leavers{why=\"gone\",stage=\"deactivated\"}", 1.0),
        ("leavers_who_are_admins", 1.0),
        (
            "next_deactivation_timestamp_seconds",
            (ago(12 * 24 * 60) + chrono::TimeDelta::days(30)).timestamp() as f64,
        ),
        ("runs_waiting", 2.0),
        ("run_in_progress", 1.0),
        ("peer_usable{peer=\"defguard\"}", 0.0),
        ("peer_usable{peer=\"synapse\"}", 1.0),
        ("peer_usable{peer=\"store\"}", 1.0),
        ("credentials_rejected{peer=\"defguard\"}", 1.0),
        ("credentials_rejected{peer=\"synapse\"}", 0.0),
        ("last_success_timestamp_seconds", ago(22).timestamp() as f64),
        ("success_due_timestamp_seconds", ago(12).timestamp() as f64),
        ("store_size_bytes", f64::from(3 << 20)),
        ("build_info{version=\"0.1.0\"}", 1.0),
    ] {
        assert_eq!(seen.get(name), Some(&value), "{name} in {seen:#?}");
    }
}

#[tokio::test]
async fn what_is_not_known_yet_has_no_value_and_a_store_that_cannot_be_read_shows() {
    let seen = metrics(&Monitor::of(young()).await).await;
    assert!(
        !seen.keys().any(|name| name.starts_with("people{") || name.starts_with("peer_usable")),
        "{seen:#?}"
    );
    assert_eq!(seen.get("last_success_timestamp_seconds"), Some(&0.0));
    let failure = Failure::new(Peer::Store, FailureClass::Permanent, "reading `links`", "damaged");
    let mut overview = calm();
    overview.memory = Err(failure);
    let seen = metrics(&Monitor::of(overview).await).await;
    assert_eq!(seen.get("peer_usable{peer=\"store\"}"), Some(&0.0), "{seen:#?}");
}

#[tokio::test]
async fn nothing_of_a_person_is_in_a_metric() {
    let mut overview = troubled();
    overview.health.synapse = overview.health.defguard.clone();
    let monitor = Monitor::naming(overview, true).await;
    let failed = PersonReport { failure: Some(rejected()), ..person(2, State::Update) };
    monitor.metrics.run(&report(vec![failed]));
    let (_, text) = monitor.text("/metrics").await;
    for personal in ["person-", "conflicting-", "alice", "example.org", "dörte"] {
        assert!(!text.contains(personal), "{personal}: {text}");
    }
}
