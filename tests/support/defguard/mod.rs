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

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use defguard_synapse_sync::ports::Clock;
use url::Url;

#[allow(unused_imports, reason = "each test program uses a part")]
pub use self::{
    faults::{Action, Fault, Faults},
    oidc::App,
    person::{NewPerson, Row},
    server::Request,
    state::{ADMIN_PASSWORD, MFAUSER_PASSWORD, MFAUSER_TOTP, NORMAL_PASSWORD, Refused, State},
};

/// What the server and the test share.
pub struct Shared {
    state: Mutex<State>,
    faults: Mutex<Faults>,
    log: Mutex<server::Log>,
    time: Arc<Time>,
}

impl Shared {
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
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl StandIn {
    /// Starts with one administrator, `admin`, whose password is [`ADMIN_PASSWORD`].
    pub async fn start() -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new()),
            faults: Mutex::default(),
            log: Mutex::default(),
            time: Arc::default(),
        });
        let (url, server) = server::start(Arc::clone(&shared)).await;
        Self { shared, url, server }
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
