//! Prometheus and its tools read what we serve.

use std::{
    fs::{self, File},
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::Router;
use serde_json::{Value, json};

use crate::{
    Serving,
    overview::{calm, troubled, young},
    tool,
};

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_no_fault_with_the_metrics() {
    let directory = tempfile::tempdir().unwrap();
    for (name, overview) in [("young", young()), ("calm", calm()), ("troubled", troubled())] {
        let serving = Serving::of(overview, false, Router::new()).await;
        let text = reqwest::get(format!("{}/metrics", serving.url)).await.unwrap().text().await.unwrap();
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]).stdin(File::open(&file).unwrap());
        assert_eq!(tool(promtool).await, (true, String::new()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_faults() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad");
    fs::write(&file, "# TYPE a counter\na 1\n").unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(File::open(&file).unwrap());
    assert!(!tool(promtool).await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_can_be_read() {
    let file = format!("{}/config/grafana/dashboard.json", env!("CARGO_MANIFEST_DIR"));
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let targets =
        dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<String> = targets
        .chain(dashboard["annotations"]["list"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "5m"))
        .collect();
    assert!(queries.len() > 10);
    // promtool reads queries only as a part of rules.
    let rules: Vec<Value> = (0..)
        .zip(&queries)
        .map(|(n, query)| json!({"record": format!("panel:{n}"), "expr": query}))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yml");
    fs::write(&file, json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "rules"]).arg(&file);
    let (fine, said) = tool(promtool).await;
    assert!(fine && said.contains(&format!("{} rules found", queries.len())), "{said}");
}

/// A Prometheus that ends with the test.
struct Prometheus {
    child: Child,
    api: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Asks until the answer is one that is wanted.
    async fn until(&self, query: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let url = format!("{}{query}", self.api);
            let answer = match reqwest::get(url).await {
                Ok(answer) => answer.json::<Value>().await.unwrap_or_default(),
                Err(_) => Value::Null,
            };
            if wanted(&answer) {
                return answer;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{query}: {answer}");
            // Prometheus has no event for "scraped".
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_scrapes_us_and_its_alerts_fire() {
    let serving = Serving::of(troubled(), false, Router::new()).await;
    let home = tempfile::tempdir().unwrap();
    let rules = format!("{}/config/prometheus/alerts.yml", env!("CARGO_MANIFEST_DIR"));
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules:?}]\nscrape_configs: \
         [{{job_name: sync, static_configs: [{{targets: [{:?}]}}]}}]\n",
        serving.address
    );
    fs::write(home.path().join("prometheus.yml"), config).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", home.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", home.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let prometheus = Prometheus { child, api: format!("http://127.0.0.1:{port}/api/v1/") };
    let linked = prometheus
        .until("query?query=defguard_synapse_sync_people_linked", |answer| {
            answer["data"]["result"][0]["value"][1].is_string()
        })
        .await;
    assert_eq!(linked["data"]["result"][0]["value"][1], "333");
    let targets = prometheus.until("targets", |answer| answer["data"]["activeTargets"][0].is_object()).await;
    assert_eq!(targets["data"]["activeTargets"][0]["lastError"], "", "{targets}");
    let alerts = prometheus
        .until("alerts", |answer| {
            let alerts = answer["data"]["alerts"].as_array();
            alerts.is_some_and(|alerts| alerts.iter().any(|alert| alert["state"] == "firing"))
        })
        .await;
    let firing =
        alerts["data"]["alerts"].as_array().unwrap().iter().filter(|alert| alert["state"] == "firing");
    let names: Vec<&str> = firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap()).collect();
    assert!(names.contains(&"DefguardSynapseSyncCredentialsRejected"), "{alerts:#}");
}
