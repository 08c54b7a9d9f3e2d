//! A stand-in Defguard 2.x on a free port of the loopback interface, true to `docs/facts/defguard.md`; where those are
//! silent, a comment says so. It keeps state, can be changed through its API (with `curl`, too) or from the test, and
//! can be made to misbehave while it runs.

mod api;
mod faults;
mod heap;
mod oidc;
mod person;
mod server;
mod state;
pub mod totp;
mod webhooks;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use defguard_synapse_sync::ports::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use url::Url;

#[allow(unused_imports, reason = "each test program uses a part")]
pub use self::{
    faults::{Action, Fault, Faults},
    heap::Heap,
    oidc::App,
    person::{NewPerson, Row},
    server::Request,
    state::{ADMIN_PASSWORD, MFAUSER_PASSWORD, MFAUSER_TOTP, NORMAL_PASSWORD, Refused, State},
    webhooks::{Delivery, Event, Webhook, WebhookSettings},
};

/// What the server and the test share.
pub struct Shared {
    state: Mutex<State>,
    faults: Mutex<Faults>,
    log: Mutex<server::Log>,
    time: Arc<Time>,
    /// Where events wait for their delivery: in memory only.
    events: mpsc::UnboundedSender<Event>,
    deliveries: watch::Sender<Vec<Delivery>>,
    /// Whoever holds it keeps deletions from being committed.
    commit: Arc<tokio::sync::Mutex<()>>,
}

impl Shared {
    /// Puts an event into the queue of the worker.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The stand-in's clock: the real time, moved as far as the test likes.
#[derive(Debug, Default)]
pub struct Time {
    ahead: Mutex<TimeDelta>,
}

impl Time {
    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        *self.ahead.lock().unwrap() += TimeDelta::from_std(by).unwrap();
    }

    /// Moves the clock on until so little is left of a step of the one-time codes.
    pub fn advance_to_end_of_totp_step(&self, left: Duration) {
        let into = self.now().timestamp_millis() % 30_000;
        let left = i64::try_from(left.as_millis()).unwrap();
        *self.ahead.lock().unwrap() += TimeDelta::milliseconds((60_000 - left - into) % 30_000);
    }
}

impl Clock for Time {
    #[allow(
        clippy::disallowed_methods,
        reason = "the stand-in is a server of its own, with a clock of its own"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + *self.ahead.lock().unwrap()
    }
}

/// A running stand-in; it stops when it is dropped.
pub struct StandIn {
    shared: Arc<Shared>,
    url: Url,
    server: tokio::task::JoinHandle<()>,
    worker: tokio::task::JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
        self.worker.abort();
    }
}

impl StandIn {
    /// Starts with one administrator, `admin`, whose password is [`ADMIN_PASSWORD`].
    pub async fn start() -> Self {
        let (events, queued) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new()),
            faults: Mutex::default(),
            log: Mutex::default(),
            time: Arc::default(),
            events,
            deliveries: watch::Sender::default(),
            commit: Arc::default(),
        });
        let (url, server) = server::start(Arc::clone(&shared)).await;
        let worker = tokio::spawn(webhooks::deliver(Arc::clone(&shared), queued));
        Self { shared, url, server, worker }
    }

    /// Stops it, and returns when its port is closed.
    pub async fn stop(mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }

    /// The address, without `/api`.
    pub fn url(&self) -> Url {
        self.url.clone()
    }

    /// Says in the settings that this is the address of the server, so that browsers can log in here. Without it the
    /// issuer and the cookies are those of `https://defguard.example.com/`.
    pub fn serve_logins(&self) {
        self.state().provider.defguard_url = self.url.clone();
    }

    /// The OpenID apps.
    pub fn apps(&self) -> Vec<App> {
        self.state().provider.apps.clone()
    }

    /// The clock of this server, for a client that shall have the same.
    pub fn time(&self) -> Arc<Time> {
        Arc::clone(&self.shared.time)
    }

    /// Everything it remembers, for what has no method of its own here.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Replaces everybody by the 335 recorded people.
    pub fn load_recorded(&self) {
        self.state().load_recorded();
    }

    /// Adds somebody and gives their id.
    pub fn add_person(&self, person: NewPerson) -> i64 {
        self.state().create(person).unwrap()
    }

    /// The id of a username.
    pub fn id_of(&self, username: &str) -> i64 {
        self.state().id_of(username).unwrap()
    }

    /// Gives somebody another username.
    pub fn rename(&self, id: i64, username: &str) {
        self.update(id, |row| username.clone_into(&mut row.username));
    }

    pub fn set_active(&self, id: i64, active: bool) {
        self.update(id, |row| row.is_active = active);
    }

    /// Changes a row as PUT does.
    pub fn update(&self, id: i64, change: impl FnOnce(&mut Row)) {
        self.state().update(id, change).unwrap();
    }

    pub fn delete(&self, id: i64) {
        self.state().delete(id).unwrap();
    }

    /// Replaces somebody's groups, which are made if they are missing. The person's row is not written.
    pub fn set_groups(&self, id: i64, groups: &[&str]) {
        let mut state = self.state();
        let names: Vec<String> = groups.iter().map(|name| (*name).to_owned()).collect();
        for name in &names {
            state.group_or_new(name);
        }
        state.set_groups(id, &names);
    }

    /// Whether there is an active licence.
    pub fn set_licence(&self, active: bool) {
        self.state().licence = active;
    }

    /// Makes an API token for somebody.
    pub fn token_for(&self, username: &str) -> String {
        let now = self.shared.time.now();
        let mut state = self.state();
        let owner = state.id_of(username).unwrap();
        state.open_token(owner, "test", now)
    }

    /// Makes a session for somebody without a login and gives its cookie, `defguard_session=…`.
    pub fn session_for(&self, username: &str, verified: bool) -> String {
        let now = self.shared.time.now();
        let mut state = self.state();
        let owner = state.id_of(username).unwrap();
        format!("defguard_session={}", state.open_session(owner, now, verified))
    }

    /// Ends all sessions.
    pub fn end_sessions(&self) {
        self.state().sessions.clear();
    }

    // ---- as an administrator does it, through the API, of which webhooks are told ----

    /// A request of the administrator `admin`: the status and the body.
    #[allow(clippy::disallowed_methods, reason = "a person in a browser, not the service")]
    pub async fn api(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let url = self.url.join(&format!("api/v1/{path}")).unwrap();
        let request = reqwest::Client::new()
            .request(method, url)
            .header("cookie", self.session_for("admin", true))
            .header("user-agent", "browser")
            .json(body);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    /// POST /user; gives the id.
    pub async fn create_by_api(&self, person: &NewPerson) -> i64 {
        let body = json!({
            "username": person.username, "first_name": person.first_name, "last_name": person.last_name,
            "email": person.email, "phone": person.phone, "password": person.password,
        });
        let (status, info) = self.api(Method::POST, "user", &body).await;
        assert_eq!(status, 201, "{info}");
        info["id"].as_i64().unwrap()
    }

    /// PUT /user with what was there but for some keys.
    pub async fn change_by_api(&self, id: i64, keys: Value) {
        let (username, mut info) = {
            let state = self.state();
            let row = state.people.get(id).unwrap();
            (row.username.clone(), state.info(row))
        };
        for (key, value) in keys.as_object().unwrap() {
            info[key] = value.clone();
        }
        let (status, answer) = self.api(Method::PUT, &format!("user/{username}"), &info).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// DELETE /user; comes back when it is committed.
    pub async fn delete_by_api(&self, username: &str) {
        let (status, answer) = self.api(Method::DELETE, &format!("user/{username}"), &json!({})).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Keeps deletions from being committed as long as the guard is held.
    pub async fn hold_commits(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.shared.commit).lock_owned().await
    }

    /// What was delivered to webhooks so far.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.borrow().clone()
    }

    /// Waits until so many events were delivered, or could not be.
    pub async fn delivered(&self, count: usize) -> Vec<Delivery> {
        let mut deliveries = self.shared.deliveries.subscribe();
        let wait = deliveries.wait_for(|log| log.len() >= count);
        let log = tokio::time::timeout(Duration::from_secs(60), wait).await;
        log.unwrap_or_else(|_| panic!("{:?}", self.deliveries())).unwrap().clone()
    }

    /// What is made to go wrong.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.shared.faults.lock().unwrap()
    }

    /// What was asked so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.log.lock().unwrap().requests.clone()
    }

    /// How often a path was asked for.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.requests().iter().filter(|request| request.method == method && request.path == path).count()
    }

    /// How many requests were under way at the same time, at most.
    pub fn most_at_once(&self) -> usize {
        self.shared.log.lock().unwrap().most_at_once
    }

    pub fn forget_requests(&self) {
        let mut log = self.shared.log.lock().unwrap();
        log.requests.clear();
        log.most_at_once = 0;
    }
}
