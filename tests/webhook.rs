//! The receiver of Defguard's webhook on a real socket: what it takes, what it refuses, and what it makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use defguard_synapse_sync::serve::webhook::{Counter, Hints, LARGEST_BODY, Outcome, PATH, Webhook, Wish};
use reqwest::{Client, Method, Response};
use secrecy::SecretString;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// How many deliveries there were of each outcome.
#[derive(Default)]
struct Deliveries(Mutex<BTreeMap<Outcome, u64>>);

impl Counter for Deliveries {
    fn count(&self, outcome: Outcome) {
        *self.0.lock().unwrap().entry(outcome).or_default() += 1;
    }
}

struct Receiver {
    address: std::net::SocketAddr,
    hints: Arc<Hints>,
    deliveries: Arc<Deliveries>,
    client: Client,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Receiver {
    async fn start() -> Self {
        let hints = Arc::new(Hints::new(Duration::from_millis(100)));
        let deliveries = Arc::<Deliveries>::default();
        let token = SecretString::from(TOKEN);
        let listen = "127.0.0.1:0".parse().unwrap();
        let counter = Arc::clone(&deliveries) as Arc<dyn Counter>;
        let webhook = Webhook::bind(listen, &token, Arc::clone(&hints), counter).await.unwrap();
        let address = webhook.address().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(webhook.serve(stop.clone().cancelled_owned()));
        Self { address, hints, deliveries, client: Client::new(), stop, server }
    }

    async fn send(&self, token: Option<&str>, body: impl Into<reqwest::Body>) -> Response {
        let mut request = self.client.post(format!("http://{}{PATH}", self.address)).body(body);
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        request.send().await.unwrap()
    }

    async fn status(&self, token: &str, body: impl Into<reqwest::Body>) -> u16 {
        self.send(Some(&format!("Bearer {token}")), body).await.status().as_u16()
    }

    fn counts(&self) -> BTreeMap<Outcome, u64> {
        self.deliveries.0.lock().unwrap().clone()
    }

    async fn wish(&self) -> Wish {
        tokio::time::timeout(Duration::from_secs(60), self.hints.next()).await.unwrap()
    }

    /// Nothing is waiting: what is asked for now comes alone.
    async fn asked_for_nothing(&self) {
        assert_eq!(self.status(TOKEN, r#"{"id": 424242}"#).await, 202);
        assert_eq!(self.wish().await, people(&["#424242"]));
    }
}

fn people(names: &[&str]) -> Wish {
    Wish::People(names.iter().map(|name| (*name).to_owned()).collect())
}

#[tokio::test]
async fn an_event_is_taken_with_202_and_its_person_is_looked_at() {
    let receiver = Receiver::start().await;
    let body = json!({"id": 7, "username": "alice", "is_active": true}).to_string();
    assert_eq!(receiver.status(TOKEN, body).await, 202);
    assert_eq!(receiver.wish().await, people(&["#7"]));
    assert_eq!(receiver.status(TOKEN, r#"{"username": "alice"}"#).await, 202);
    assert_eq!(receiver.status(TOKEN, r#"{"id": 8, "username": "bob"}"#).await, 202);
    let (mut named, both) = (BTreeSet::new(), BTreeSet::from(["alice".to_owned(), "#8".to_owned()]));
    while named != both {
        let Wish::People(people) = receiver.wish().await else { panic!("everybody") };
        named.extend(people);
        assert!(named.is_subset(&both), "{named:?}");
    }
    assert_eq!(receiver.counts(), BTreeMap::from([(Outcome::Accepted, 3)]));
}

#[tokio::test]
async fn a_wrong_token_is_401_counted_and_has_no_effect() {
    let receiver = Receiver::start().await;
    let longer = format!("Bearer {TOKEN}0");
    for token in [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer "),
        Some(TOKEN),
        Some("Bearer x123456789abcdef0123456789abcdef"),
        Some(&longer[..longer.len() - 2]),
        Some(&longer),
        Some("Basic MDEyMzQ1Njc4OWFiY2RlZg=="),
    ] {
        let answer = receiver.send(token, r#"{"id": 7}"#).await;
        assert_eq!(answer.status().as_u16(), 401, "{token:?}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    }
    assert_eq!(receiver.counts(), BTreeMap::from([(Outcome::Unauthorised, 9)]));
    receiver.asked_for_nothing().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_or_no_event_is_refused() {
    let receiver = Receiver::start().await;
    let body = |length: usize| {
        let start = r#"{"id": 7, "name": ""#;
        format!("{start}{}\"}}", "x".repeat(length - start.len() - 2))
    };
    assert_eq!(receiver.status(TOKEN, body(LARGEST_BODY)).await, 202);
    assert_eq!(receiver.wish().await, people(&["#7"]));
    assert_eq!(receiver.status(TOKEN, body(LARGEST_BODY + 1)).await, 413);
    // Without a length beforehand.
    let chunks = futures_util::stream::iter(
        body(LARGEST_BODY + 1)
            .into_bytes()
            .chunks(1000)
            .map(|c| Ok::<_, std::io::Error>(c.to_vec()))
            .collect::<Vec<_>>(),
    );
    assert_eq!(receiver.status(TOKEN, reqwest::Body::wrap_stream(chunks)).await, 413);
    for no_event in ["", "null", "[1]", "{}", "{\"id\": 7", "id=7"] {
        assert_eq!(receiver.status(TOKEN, no_event).await, 400, "{no_event}");
    }
    assert_eq!(
        receiver.counts(),
        BTreeMap::from([(Outcome::Accepted, 1), (Outcome::TooLarge, 2), (Outcome::Malformed, 6)])
    );
    receiver.asked_for_nothing().await;
}

#[tokio::test]
async fn only_a_post_to_the_one_path_is_answered() {
    let receiver = Receiver::start().await;
    for (method, path, status) in [
        (Method::GET, PATH, 405),
        (Method::PUT, PATH, 405),
        (Method::POST, "/", 404),
        (Method::POST, "/webhook/defguard/", 404),
    ] {
        let request = receiver.client.request(method.clone(), format!("http://{}{path}", receiver.address));
        let answer = request.bearer_auth(TOKEN).body(r#"{"id": 7}"#).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
    }
    assert_eq!(receiver.counts(), BTreeMap::new());
    receiver.asked_for_nothing().await;
}

#[tokio::test]
async fn a_flood_is_limited_and_becomes_one_look_at_everybody() {
    let receiver = Receiver::start().await;
    let mut limited = 0;
    for id in 1..=1_000 {
        match receiver.status(TOKEN, format!(r#"{{"id": {id}}}"#)).await {
            202 => {}
            429 => limited += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(receiver.counts().values().sum::<u64>(), 1_000);
    assert_eq!(receiver.counts().get(&Outcome::Limited).copied().unwrap_or_default(), limited);
    assert_eq!(receiver.wish().await, Wish::Everybody);
}

#[tokio::test]
async fn a_flood_without_the_token_is_limited_and_takes_nothing_from_those_who_have_it() {
    let receiver = Receiver::start().await;
    for _ in 0..200 {
        assert!(matches!(receiver.status("wrong", r#"{"id": 7}"#).await, 401 | 429));
    }
    let counts = receiver.counts();
    assert!(counts[&Outcome::Unauthorised] >= 20 && counts[&Outcome::Limited] > 0, "{counts:?}");
    assert_eq!(counts[&Outcome::Unauthorised] + counts[&Outcome::Limited], 200);
    receiver.asked_for_nothing().await;
}

#[tokio::test]
async fn a_sender_that_is_slow_or_goes_away_keeps_nobody_waiting() {
    let receiver = Receiver::start().await;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 50\r\n\r\n{{\"id\""
    );
    let mut slow = TcpStream::connect(receiver.address).await.unwrap();
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut gone = TcpStream::connect(receiver.address).await.unwrap();
    gone.write_all(head.as_bytes()).await.unwrap();
    drop(gone);
    receiver.asked_for_nothing().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), slow.read_to_end(&mut answer)).await;
    read.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 400"), "{answer:?}");
    receiver.stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), receiver.server).await.unwrap().unwrap();
}
