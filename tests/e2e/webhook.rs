//! Defguard's webhook: how soon a change is in Synapse, and what is done without it.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::{
    ground::{Ground, accounts_of, set},
    process::{PATIENCE, Process},
    support::{
        defguard::{Delivery, Fault},
        proxy::on,
    },
};

const TOKEN: &str = "a-token-that-is-long-enough-0123456789";

/// A port that is free, at least at this moment.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Hooked {
    ground: Ground,
    daemon: Process,
}

impl Hooked {
    /// A daemon that receives the webhook, which is registered with the program's own verb.
    async fn new(ground: Ground) -> Self {
        let port = free_port();
        ground.secret("webhook-token", TOKEN);
        let file = format!("{:?}", ground.path("webhook-token"));
        let ground =
            ground.with("webhook.listen", &format!("\"127.0.0.1:{port}\"")).with("webhook.token_file", &file);
        let daemon = ground.start(&["run"]);
        daemon.says("the daemon is up").await;
        ground.program(&["setup", "webhook"]).await.with_code(0);
        Self { ground, daemon }
    }

    async fn end(self) -> Ground {
        self.daemon.terminate();
        let ended = self.daemon.ended().await.with_code(0);
        assert!(!ended.err.contains(TOKEN) && !ended.err.contains("@example.com"), "{}", ended.err);
        self.ground
    }

    /// Waits for a write to somebody's account that was carried out.
    async fn written(&self, who: &str) {
        let mxid = self.ground.mxid(who);
        let written = self.ground.proxy.wait_until(|seen| {
            seen.iter().any(|seen| {
                seen.method == Method::PUT
                    && seen.target().ends_with(&mxid)
                    && matches!(seen.status, Some(200 | 201))
            })
        });
        let waited = tokio::time::timeout(PATIENCE, written).await;
        assert!(waited.is_ok(), "nothing was written to {mxid}:\n{}", self.daemon.log());
    }

    fn taken(&self, deliveries: &[Delivery]) {
        assert!(deliveries.iter().all(|it| it.status == Some(202)), "{deliveries:?}");
    }
}

/// Among 300 people, and with pages that take as long as those of a real Defguard.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_in_synapse_within_two_seconds_of_its_event() {
    let ground = Ground::new("hooked").await.with("scope.exclude_users", "[\"*.filler*\"]");
    for n in 0..300 {
        ground.add(&format!("filler{n}"));
    }
    ground.defguard.faults().add(Fault::delay(Duration::from_millis(160)).on("/api/v1/user").method("GET"));
    let hooked = Hooked::new(ground).await;
    let ground = &hooked.ground;
    let mut times = Vec::new();

    let began = Instant::now();
    let id = ground.defguard.create_by_api(&ground.new_person("alice")).await;
    hooked.written("alice").await;
    times.push(began.elapsed());
    assert_eq!(ground.account("alice").await.ids, set([ground.login("alice"), ground.marker(id)]));

    for name in ["Anna", "Berta", "Clara"] {
        ground.proxy.clear();
        let began = Instant::now();
        ground.defguard.change_by_api(id, json!({"first_name": name})).await;
        hooked.written("alice").await;
        times.push(began.elapsed());
        assert_eq!(ground.account("alice").await.name, Some(format!("{name} Person")));
    }

    ground.proxy.clear();
    let began = Instant::now();
    ground.defguard.change_by_api(id, json!({"username": ground.n("alina")})).await;
    hooked.written("alice").await;
    times.push(began.elapsed());

    let deliveries = ground.defguard.delivered(5).await;
    hooked.taken(&deliveries);
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_secs(2), "{times:?}");
    let ground = hooked.end().await;
    // The write of the rename was awaited, not the end of its run.
    ground.sync().await;
    assert_eq!(ground.opens("alina").await.as_deref(), Some("alice"));
    assert_eq!(ground.opens("alice").await, None);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_lost_is_made_up_for_by_the_schedule() {
    let ground = Ground::new("losthook").await.with("schedule.sync", "\"* * * * * *\"");
    let hooked = Hooked::new(ground).await;
    let ground = &hooked.ground;
    // Nobody listens where events are sent.
    for webhook in &mut ground.defguard.state().webhooks {
        webhook.settings.url = format!("http://127.0.0.1:{}/", free_port());
    }
    let id = ground.defguard.create_by_api(&ground.new_person("alice")).await;
    hooked.written("alice").await;
    ground.proxy.clear();
    ground.defguard.change_by_api(id, json!({"first_name": "Anna"})).await;
    hooked.written("alice").await;
    let deliveries = ground.defguard.delivered(2).await;
    assert!(deliveries.iter().all(|it| it.status.is_none()), "{deliveries:?}");
    assert_eq!(ground.account("alice").await.name.as_deref(), Some("Anna Person"));
    hooked.end().await.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_event_is_sent_for_is_found_by_the_schedule() {
    let ground = Ground::new("nohook").await.with("scope.include_groups", "[\"matrix\"]");
    let ground = ground.with("schedule.sync", "\"* * * * * *\"");
    let hooked = Hooked::new(ground).await;
    let ground = &hooked.ground;
    let id = ground.defguard.create_by_api(&ground.new_person("alice")).await;
    hooked.taken(&ground.defguard.delivered(1).await);
    hooked.daemon.says_times("sync done", hooked.daemon.count("sync done") + 2).await;
    assert_eq!(ground.find_account("alice").await, None);
    ground.defguard.set_groups(id, &["matrix"]);
    hooked.written("alice").await;
    assert_eq!(ground.defguard.deliveries().len(), 1);
    hooked.end().await.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_a_wrong_token_changes_nothing() {
    let hooked = Hooked::new(Ground::new("wronghook").await).await;
    let ground = &hooked.ground;
    ground.defguard.state().webhooks[0].settings.token = "another".to_owned();
    ground.defguard.create_by_api(&ground.new_person("alice")).await;
    let refused = Delivery { event: "user_created", status: Some(401) };
    assert_eq!(ground.defguard.delivered(1).await, [refused]);
    hooked.daemon.says("without the right token").await;
    // The token is put right, and the next event brings its own person only.
    ground.program(&["setup", "webhook", "--replace"]).await.with_code(0);
    ground.defguard.create_by_api(&ground.new_person("bob")).await;
    hooked.written("bob").await;
    assert_eq!(ground.find_account("alice").await, None);
    let ground = hooked.end().await;
    ground.sync().await;
    assert!(ground.find_account("alice").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_answered_while_a_run_is_held_up_and_their_people_come_next() {
    let hooked = Hooked::new(Ground::new("busyhook").await).await;
    let ground = &hooked.ground;
    let mut held = ground.proxy.hold_after(on(Method::PUT, "/v2/users/").nth(1));
    ground.defguard.create_by_api(&ground.new_person("alice")).await;
    held.reached().await;
    for who in ["bob", "carol", "dave"] {
        ground.defguard.create_by_api(&ground.new_person(who)).await;
    }
    hooked.taken(&ground.defguard.delivered(4).await);
    assert_eq!(hooked.daemon.count("sync done"), 0);
    held.release();
    for who in ["bob", "carol", "dave"] {
        hooked.written(who).await;
    }
    // One run for alice, and one or two for the three who came meanwhile.
    let ground = hooked.end().await;
    assert_eq!(accounts_of(&ground).await.len(), 4);
    ground.nothing_to_do().await;
    let runs = ground.engine().store().runs(100).unwrap().len();
    assert!((2..=4).contains(&runs), "{runs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_becomes_few_runs_in_which_everybody_is_looked_at() {
    let hooked = Hooked::new(Ground::new("bursthook").await).await;
    let ground = &hooked.ground;
    let people: Vec<String> = (0..30).map(|n| format!("p{n}")).collect();
    let created = people.iter().map(|who| async {
        let person = ground.new_person(who);
        ground.defguard.create_by_api(&person).await
    });
    futures_util::future::join_all(created).await;
    hooked.taken(&ground.defguard.delivered(30).await);
    for who in &people {
        hooked.written(who).await;
    }
    let ground = hooked.end().await;
    assert_eq!(accounts_of(&ground).await.len(), 30);
    ground.nothing_to_do().await;
    let runs = ground.engine().store().runs(100).unwrap();
    assert!(runs.len() <= 6, "{runs:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_names_nobody_for_sure_so_everybody_is_looked_at() {
    let hooked = Hooked::new(Ground::new("deletehook").await).await;
    let ground = &hooked.ground;
    let alice = ground.defguard.create_by_api(&ground.new_person("alice")).await;
    hooked.written("alice").await;
    hooked.daemon.says_times("sync done", 1).await;
    // Somebody of whom no event came is found by the way.
    ground.add("bob");
    // The event comes before the deletion is there for others to see.
    let commit = ground.defguard.hold_commits().await;
    let name = ground.n("alice");
    let deleted = ground.defguard.delete_by_api(&name);
    let seen = async {
        hooked.taken(&ground.defguard.delivered(2).await);
        drop(commit);
    };
    tokio::join!(deleted, seen);
    hooked.daemon.says_times("sync done", 2).await;
    hooked.written("bob").await;
    // Whoever has that name now is not taken for the one who had it.
    hooked.daemon.says_times("sync done", 2).await;
    let again = ground.defguard.create_by_api(&ground.new_person("alice")).await;
    assert_ne!(alice, again);
    hooked.daemon.says_times("sync done", 3).await;
    let ground = hooked.end().await;
    assert!(!ground.account("alice").await.ids.contains(&ground.marker(again)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_an_error_with_its_mend() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ground = Ground::new("takenhook").await;
    ground.secret("webhook-token", TOKEN);
    let file = format!("{:?}", ground.path("webhook-token"));
    let ground = ground
        .with("webhook.listen", &format!("\"{}\"", taken.local_addr().unwrap()))
        .with("webhook.token_file", &file);
    let ended = ground.program(&["run"]).await.with_code(1);
    assert!(
        ended.err.contains("Address already in use") && ended.err.contains("webhook.listen"),
        "{}",
        ended.err
    );
}
