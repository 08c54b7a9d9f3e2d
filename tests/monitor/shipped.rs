//! The alerts and the dashboard that are shipped, against the metrics that there are.

use std::{collections::BTreeSet, fs, path::Path};

use regex::Regex;
use serde_json::Value;

use crate::{Monitor, counted, overview::troubled};

fn shipped(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The names of all metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"defguard_synapse_sync_[a-z_]+").unwrap();
    name.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

async fn samples() -> BTreeSet<String> {
    let monitor = Monitor::of(troubled()).await;
    counted(&monitor.metrics);
    let (_, text) = monitor.text("/metrics").await;
    names(&text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"))
}

#[tokio::test]
async fn every_metric_in_an_alert_or_on_the_dashboard_is_there() {
    let there = samples().await;
    for path in ["config/prometheus/alerts.yml", "config/grafana/dashboard.json"] {
        let used = names(&shipped(path));
        assert!(used.len() > 5, "{path} uses {used:?}");
        let missing: Vec<_> = used.difference(&there).collect();
        assert!(missing.is_empty(), "{path} uses {missing:?}, which is not among {there:#?}");
    }
}

#[tokio::test]
async fn every_metric_is_explained_and_no_other() {
    let first_column = Regex::new(r"(?m)^\| (`[^|]+) \|").unwrap();
    let name = Regex::new("`([a-z_]+)`").unwrap();
    let text = shipped("docs/metrics.md");
    let explained: BTreeSet<String> = first_column
        .captures_iter(&text)
        .flat_map(|row| {
            name.captures_iter(row.get(1).unwrap().as_str())
                .map(|name| name[1].to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    let parts = Regex::new("^defguard_synapse_sync_|_(bucket|sum|count)$").unwrap();
    let there: BTreeSet<String> =
        samples().await.iter().map(|name| parts.replace_all(name, "").into_owned()).collect();
    assert_eq!(explained, there);
}

#[test]
fn every_alert_has_a_test_in_which_it_comes_and_one_in_which_it_does_not() {
    let tests = shipped("config/prometheus/alerts_test.yml");
    let alert = Regex::new(r"(?m)^      - alert: (\w+)$").unwrap();
    let alerts = shipped("config/prometheus/alerts.yml");
    let mut seen = 0;
    for found in alert.captures_iter(&alerts) {
        let name = &found[1];
        let comes = Regex::new(&format!(r"alertname: {name}\n +exp_alerts:\n")).unwrap();
        assert!(comes.is_match(&tests), "no test in which {name} comes");
        assert!(
            tests.contains(&format!("alertname: {name}, exp_alerts: []")),
            "no test in which {name} does not"
        );
        seen += 1;
    }
    assert_eq!(seen, alerts.matches("- alert:").count());
}

#[test]
fn the_dashboard_has_no_two_panels_in_one_place() {
    let dashboard: Value = serde_json::from_str(&shipped("config/grafana/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut taken, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{panel}");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "two panels at {x}, {y}: {panel}");
            }
        }
    }
}
