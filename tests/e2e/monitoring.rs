//! What a real daemon tells those who watch it, against what was counted at the servers.

#![allow(clippy::disallowed_methods, reason = "requests go to our own daemon")]

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::json;

use crate::{ground::Ground, process::Process, support::proxy::on};

/// Whoever watches a daemon.
struct Watcher(String);

impl Watcher {
    async fn of(daemon: &Process) -> Self {
        let address = daemon.says_behind("the status page are served address=").await;
        Self(format!("http://{address}"))
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.0)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// The samples without the prefix, by name and labels.
    async fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, text) = self.get("/metrics").await;
        assert_eq!(status, 200, "{text}");
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.strip_prefix("defguard_synapse_sync_").unwrap().to_owned(), value.parse().unwrap())
        };
        text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
    }
}

/// The sum of all samples whose names begin with a text.
fn sum(metrics: &BTreeMap<String, f64>, begin: &str) -> f64 {
    metrics.iter().filter(|(name, _)| name.starts_with(begin)).map(|(_, value)| value).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_counts_what_the_servers_count_and_asks_them_nothing_for_those_who_watch() {
    let ground = Ground::new("watched").await.with("monitoring.listen", "\"127.0.0.1:0\"");
    let alice = ground.add("alice");
    ground.put("bob", json!({})).await;
    let bob = ground.add("bob");
    let daemon = ground.start(&["run"]);
    let watcher = Watcher::of(&daemon).await;
    assert_eq!(watcher.get("/health/live").await.0, 200);
    assert_eq!(watcher.get("/health/ready").await.0, 503, "nothing was tried yet");
    daemon.says("the daemon is up").await;
    ground.program(&["sync"]).await.with_code(0);

    let (at_synapse, at_defguard) = (ground.proxy.requests(), ground.defguard.requests());
    let metrics = watcher.metrics().await;
    let statuses: BTreeMap<u16, f64> = at_synapse.iter().fold(BTreeMap::new(), |mut all, seen| {
        *all.entry(seen.status.unwrap()).or_default() += 1.0;
        all
    });
    for (status, number) in statuses {
        let of_status =
            |name: &&String| name.contains("peer=\"synapse\"") && name.contains(&format!("\"{status}\""));
        let counted: f64 = metrics
            .iter()
            .filter(|(name, _)| name.starts_with("http_requests_total") && of_status(name))
            .map(|(_, n)| n)
            .sum();
        assert_eq!(counted, number, "{status}: {metrics:#?}");
    }
    assert_eq!(sum(&metrics, "http_requests_total{peer=\"defguard\""), at_defguard.len() as f64);
    assert_eq!(sum(&metrics, "http_requests_total{peer=\"defguard\",endpoint=\"other\""), 0.0);
    assert_eq!(sum(&metrics, "http_requests_total{peer=\"synapse\",endpoint=\"other\""), 0.0);
    for (name, value) in [
        ("runs_total{kind=\"frequent\",outcome=\"done\"}", 1.0),
        ("actions_total{kind=\"create\",result=\"done\"}", 1.0),
        ("changes_total{kind=\"created\"}", 1.0),
        ("people_linked", 1.0),
        ("people_in_conflict", 1.0),
        ("conflicts{kind=\"localpart_taken\"}", 1.0),
        ("people{state=\"conflict\"}", 1.0),
        ("peer_usable{peer=\"defguard\"}", 1.0),
        ("peer_usable{peer=\"synapse\"}", 1.0),
        ("run_in_progress", 0.0),
        ("runs_waiting", 0.0),
    ] {
        assert_eq!(metrics.get(name), Some(&value), "{name}: {metrics:#?}");
    }
    for positive in ["last_success_timestamp_seconds", "success_due_timestamp_seconds", "store_size_bytes"] {
        assert!(metrics[positive] > 0.0, "{positive}: {metrics:#?}");
    }

    assert_eq!(watcher.get("/health/ready").await, (200, "ready\n".to_owned()));
    let (status, page) = watcher.get("/").await;
    assert_eq!(status, 200);
    assert!(page.contains(&format!("#{bob}")) && page.contains("Somebody needs you"), "{page}");
    for name in [ground.n("alice"), ground.n("bob")] {
        assert!(!page.contains(&name), "{name}: {page}");
    }
    assert_eq!(ground.proxy.requests().len(), at_synapse.len(), "watching asked Synapse for something");
    assert_eq!(ground.defguard.requests().len(), at_defguard.len(), "watching asked Defguard for something");

    // By hand, too.
    ground.program(&["unlink", &format!("#{alice}"), "--yes"]).await.with_code(0);
    let metrics = watcher.metrics().await;
    assert_eq!(metrics.get("changes_total{kind=\"unlinked\"}"), Some(&1.0), "{metrics:#?}");
    assert_eq!(metrics["people_linked"], 0.0);
    daemon.terminate();
    daemon.ended().await.with_code(0);
    assert!(reqwest::get(&watcher.0).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_shows_at_once_and_is_well_again_when_it_works() {
    let ground = Ground::new("unwell")
        .await
        .with("monitoring.listen", "\"127.0.0.1:0\"")
        .with("monitoring.status_page_names", "true");
    ground.add("alice");
    let daemon = ground.start(&["run"]);
    let watcher = Watcher::of(&daemon).await;
    let refusal = json!({"errcode": "M_UNKNOWN_TOKEN", "error": "Invalid access token passed."});
    ground.proxy.answer(on(Method::GET, "/"), 401, &refusal);
    ground.program(&["sync"]).await.with_code(5);
    let metrics = watcher.metrics().await;
    assert_eq!(metrics.get("credentials_rejected{peer=\"synapse\"}"), Some(&1.0), "{metrics:#?}");
    assert_eq!(metrics.get("peer_usable{peer=\"synapse\"}"), Some(&0.0), "{metrics:#?}");
    assert_eq!(metrics["runs_total{kind=\"frequent\",outcome=\"unusable\"}"], 1.0);
    assert_eq!(metrics["last_success_timestamp_seconds"], 0.0);
    let (status, text) = watcher.get("/health/ready").await;
    assert!(status == 503 && text.contains("not ready: Synapse: "), "{text}");
    let (_, page) = watcher.get("/").await;
    assert!(page.contains("Synapse: <span class=\"bad\">refuses our credentials"), "{page}");

    // The servers are well, and one person fails.
    ground.proxy.remove_all();
    ground.proxy.answer(on(Method::PUT, "/v2/users/"), 500, json!({"errcode": "M_UNKNOWN", "error": "?"}));
    ground.program(&["sync"]).await.with_code(3);
    let metrics = watcher.metrics().await;
    assert_eq!(metrics["people_failing"], 1.0);
    assert!(metrics["failing_since_timestamp_seconds"] > 0.0);
    assert_eq!(metrics.get("actions_total{kind=\"create\",result=\"failed\"}"), Some(&1.0), "{metrics:#?}");
    assert_eq!(metrics.get("credentials_rejected{peer=\"synapse\"}"), Some(&0.0), "{metrics:#?}");
    assert_eq!(watcher.get("/health/ready").await.0, 200, "one person is no reason to take the service away");
    assert!(watcher.get("/").await.1.contains("Failing: 1 person"));
    daemon.terminate();
    daemon.ended().await.with_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_under_way_can_be_watched_also_while_the_daemon_ends() {
    let ground = Ground::new("underway").await.with("monitoring.listen", "\"127.0.0.1:0\"");
    ground.add("alice");
    let daemon = ground.start(&["run"]);
    let watcher = Watcher::of(&daemon).await;
    let mut held = ground.proxy.hold_after(on(Method::PUT, "/v2/users/"));
    let sync = ground.start(&["sync"]);
    held.reached().await;
    assert_eq!(watcher.metrics().await["run_in_progress"], 1.0);
    assert!(watcher.get("/").await.1.contains("going on for"));
    daemon.terminate();
    daemon.says("ending after the people in hand").await;
    assert_eq!(watcher.metrics().await["run_in_progress"], 1.0);
    held.release();
    sync.ended().await;
    daemon.ended().await.with_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_ends_a_daemon_that_was_told_to_use_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ground = Ground::new("taken").await.with("monitoring.listen", &format!("\"{address}\""));
    let ended = ground.program(&["run"]).await.with_code(1);
    assert!(ended.err.contains(&format!("listening on {address}")), "{}", ended.err);
    assert!(ended.err.contains("monitoring.listen"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guard_holds_shows_with_the_command_that_lets_it_run() {
    let ground = Ground::new("holding")
        .await
        .with("monitoring.listen", "\"127.0.0.1:0\"")
        .with("guard.min_count", "1")
        .with("guard.percent", "1");
    let ids = ["a", "b", "c"].map(|who| ground.add(who));
    let daemon = ground.start(&["run"]);
    let watcher = Watcher::of(&daemon).await;
    ground.program(&["sync"]).await.with_code(0);
    assert_eq!(watcher.metrics().await["hold_active"], 0.0);
    ids[..2].iter().for_each(|id| ground.defguard.set_active(*id, false));
    ground.program(&["sync"]).await.with_code(4);
    let metrics = watcher.metrics().await;
    assert_eq!(metrics["hold_active"], 1.0, "{metrics:#?}");
    assert_eq!(metrics["held_steps{harm=\"lock_disabled\"}"], 2.0, "{metrics:#?}");
    assert_eq!(metrics["runs_total{kind=\"frequent\",outcome=\"held\"}"], 1.0);
    assert_eq!(watcher.get("/health/ready").await.0, 200, "it works, and waits for a person");
    let (_, page) = watcher.get("/").await;
    assert!(page.contains(&format!("#{}, #{}", ids[0], ids[1])), "{page}");
    let (_, command) = page.split_once("<pre><code>defguard-synapse-sync ").unwrap();
    let command: Vec<&str> = command.split_once("</code>").unwrap().0.split(' ').collect();
    ground.program(&command).await.with_code(0);
    let metrics = watcher.metrics().await;
    assert_eq!(metrics["hold_active"], 0.0, "{metrics:#?}");
    assert_eq!(metrics["leavers{why=\"disabled\",stage=\"locked\"}"], 2.0, "{metrics:#?}");
    assert_eq!(metrics["actions_total{kind=\"off_board\",result=\"done\"}"], 2.0, "{metrics:#?}");
    assert_eq!(sum(&metrics, "http_requests_total{peer=\"synapse\",endpoint=\"other\""), 0.0, "{metrics:#?}");
    assert_eq!(
        sum(&metrics, "http_requests_total{peer=\"defguard\",endpoint=\"other\""),
        0.0,
        "{metrics:#?}"
    );
    assert!(watcher.get("/").await.1.contains("Locked by this service: 2."));
    daemon.terminate();
    daemon.ended().await.with_code(0);
}
