//! A reverse proxy before Synapse that counts every request and can cut, delay, answer and hold them.
//!
//! It runs in a thread of its own, so that a test may block, and may kill the other end at a named point.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "every test binary uses another part, and a test that cannot start may stop"
)]

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

/// One request that arrived at the proxy.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The path as it was sent, percent-encoded.
    pub path: String,
    /// The query as it was sent.
    pub query: Option<String>,
    /// The body as JSON, or null.
    pub body: Value,
    /// Whether it was sent on to Synapse.
    pub forwarded: bool,
    /// The status that was answered; `None` as long as there is no answer, and for ever if it was cut.
    pub status: Option<u16>,
    /// Whether the one who asked closed the connection before the answer.
    pub given_up: bool,
}

impl Seen {
    /// The path and query with every percent-encoding undone.
    pub fn target(&self) -> String {
        let path = percent_decode_str(&self.path).decode_utf8_lossy().into_owned();
        match &self.query {
            Some(query) => format!("{path}?{}", percent_decode_str(query).decode_utf8_lossy()),
            None => path,
        }
    }

    /// Whether it changes something by way of the admin API.
    pub fn is_write(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
            && self.path.starts_with("/_synapse/admin/")
    }

    /// Whether it is about one account of somebody: the account itself, or a look-up of one. The question whether
    /// the service account is an admin does not count.
    pub fn is_about_one_person(&self) -> bool {
        self.path.starts_with("/_synapse/admin/v2/users/")
            || self.path.starts_with("/_synapse/admin/v1/auth_providers/")
            || self.path.starts_with("/_synapse/admin/v1/threepid/")
    }
}

/// Which requests a rule is for. Without further conditions: all of them, every time.
#[derive(Debug, Clone)]
pub struct Match {
    method: Option<Method>,
    target: Vec<String>,
    body: Vec<String>,
    first: usize,
    times: usize,
}

/// Every request.
pub fn any() -> Match {
    Match { method: None, target: Vec::new(), body: Vec::new(), first: 1, times: usize::MAX }
}

/// Requests with this method whose path and query, decoded, hold this text.
pub fn on(method: Method, target: &str) -> Match {
    Match { method: Some(method), target: vec![target.to_owned()], ..any() }
}

impl Match {
    /// Only if path and query, decoded, hold this text, too.
    #[must_use]
    pub fn target(mut self, text: &str) -> Self {
        self.target.push(text.to_owned());
        self
    }

    /// Only if the body, as it is sent, holds this text.
    #[must_use]
    pub fn body(mut self, text: &str) -> Self {
        self.body.push(text.to_owned());
        self
    }

    /// Only the n-th of those that match, counting from 1.
    #[must_use]
    pub fn nth(self, n: usize) -> Self {
        Self { first: n, times: 1, ..self }
    }

    /// Only the first so many of those that match.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    fn fits(&self, seen: &Seen, body: &[u8]) -> bool {
        let target = seen.target();
        self.method.as_ref().is_none_or(|method| *method == seen.method)
            && self.target.iter().all(|text| target.contains(text))
            && self.body.iter().all(|text| String::from_utf8_lossy(body).contains(text))
    }
}

type Hook = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What a rule does.
#[derive(Clone)]
enum Action {
    CutBefore,
    CutAfter,
    Delay(Duration),
    Answer(u16, Vec<(String, String)>, String),
    Before(Hook),
    Hold { after: bool, at: Arc<watch::Sender<bool>>, go: watch::Receiver<bool> },
}

struct Rule {
    id: u64,
    matcher: Match,
    action: Action,
    matched: usize,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    rules: Vec<Rule>,
    rules_ever: u64,
    connections: usize,
    writes_now: usize,
    most_writes: usize,
    changed: watch::Sender<()>,
}

/// A rule in force; [`Proxy::remove`] ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

/// The proxy; it ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy before a server, such as `http://127.0.0.1:8008`.
    pub async fn start(upstream: &str) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = oneshot::channel::<()>();
        let (upstream, shared) = (upstream.trim_end_matches('/').to_owned(), state.clone());
        let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, upstream, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, state, stop: Some(stop), thread: Some(thread.unwrap()) }
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request since the start or the last [`Proxy::clear`], in the order of arrival.
    pub fn requests(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// Waits until the requests so far are as they are waited for.
    pub async fn wait_until(&self, mut fits: impl FnMut(&[Seen]) -> bool) {
        let mut changes = self.lock().changed.subscribe();
        loop {
            if fits(&self.lock().seen) {
                return;
            }
            changes.changed().await.unwrap();
        }
    }

    /// The requests that change something by way of the admin API.
    pub fn writes(&self) -> Vec<Seen> {
        self.requests().into_iter().filter(Seen::is_write).collect()
    }

    /// The requests that are about one account of somebody.
    pub fn single_person_requests(&self) -> Vec<Seen> {
        self.requests().into_iter().filter(Seen::is_about_one_person).collect()
    }

    /// How many connections were ever opened.
    pub fn connections(&self) -> usize {
        self.lock().connections
    }

    /// How many writes there ever were at once, from their arrival to the end of their answer.
    pub fn most_writes_at_once(&self) -> usize {
        self.lock().most_writes
    }

    /// Forgets the requests so far. The rules stay, and so does what they counted.
    pub fn clear(&self) {
        self.lock().seen.clear();
    }

    /// Cuts the connection before the request gets to Synapse.
    pub fn cut_before(&self, matcher: Match) -> RuleId {
        self.rule(matcher, Action::CutBefore)
    }

    /// Cuts the connection after Synapse has answered: the work is done, and the answer is lost.
    pub fn cut_after(&self, matcher: Match) -> RuleId {
        self.rule(matcher, Action::CutAfter)
    }

    /// Waits before the request is sent on.
    pub fn delay(&self, matcher: Match, pause: Duration) -> RuleId {
        self.rule(matcher, Action::Delay(pause))
    }

    /// Answers in Synapse's place. A body that does not begin with `<` goes out as JSON.
    pub fn answer(&self, matcher: Match, status: u16, body: impl ToString) -> RuleId {
        self.answer_with(matcher, status, &[], body)
    }

    /// The same with further headers.
    pub fn answer_with(
        &self,
        matcher: Match,
        status: u16,
        headers: &[(&str, &str)],
        body: impl ToString,
    ) -> RuleId {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.rule(matcher, Action::Answer(status, headers, body.to_string()))
    }

    /// Does something before the request is sent on, such as making an account turn up between look-up and create.
    /// The work is done in the proxy's thread.
    pub fn before<F>(&self, matcher: Match, hook: impl Fn() -> F + Send + Sync + 'static) -> RuleId
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.rule(matcher, Action::Before(Arc::new(move || Box::pin(hook()))))
    }

    /// Holds matching requests before they get to Synapse. One that is given up meanwhile never gets there.
    pub fn hold_before(&self, matcher: Match) -> Held {
        self.hold(matcher, false)
    }

    /// Holds the answers to matching requests: Synapse has done the work, and nobody knows yet.
    pub fn hold_after(&self, matcher: Match) -> Held {
        self.hold(matcher, true)
    }

    fn hold(&self, matcher: Match, after: bool) -> Held {
        let (at, reached) = watch::channel(false);
        let (release, go) = watch::channel(false);
        let id = self.rule(matcher, Action::Hold { after, at: Arc::new(at), go });
        Held { id, reached, release }
    }

    fn rule(&self, matcher: Match, action: Action) -> RuleId {
        let mut state = self.lock();
        state.rules_ever += 1;
        let id = state.rules_ever;
        state.rules.push(Rule { id, matcher, action, matched: 0 });
        RuleId(id)
    }

    /// Ends a rule.
    pub fn remove(&self, rule: RuleId) {
        self.lock().rules.retain(|other| other.id != rule.0);
    }

    /// Ends all rules.
    pub fn remove_all(&self) {
        self.lock().rules.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A point at which requests are held. Dropping it lets them go.
pub struct Held {
    /// The rule behind it.
    pub id: RuleId,
    reached: watch::Receiver<bool>,
    release: watch::Sender<bool>,
}

impl Held {
    /// Waits until a request has come to this point.
    pub async fn reached(&mut self) {
        self.reached.wait_for(|reached| *reached).await.unwrap();
    }

    /// Lets the requests go, those that come later too.
    pub fn release(&self) {
        let _ = self.release.send(true);
    }
}

async fn serve(listener: TcpListener, upstream: String, state: Arc<Mutex<State>>) {
    // No connection is kept, since one to a Synapse that was started anew meanwhile would fail.
    let client = Client::builder()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(120))
        .build()
        .unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        state.lock().unwrap().connections += 1;
        let (client, upstream, state) = (client.clone(), upstream.clone(), state.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| handle(request, &client, &upstream, &state));
            // An error is a cut connection, at one end or the other.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The whole way of one request. An error cuts the connection without an answer.
async fn handle(
    request: Request<Incoming>,
    client: &Client,
    upstream: &str,
    state: &Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let cut = || io::Error::from(io::ErrorKind::ConnectionAborted);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| cut())?.to_bytes();
    let (index, write, actions) = arrive(state, &head, &body);
    let mut watch = UnderWay { state, index, write, done: false };
    let answer = pass_on(head, body, (index, actions), client, upstream, state).await;
    watch.done = true;
    answer
}

/// What the rules say, and what Synapse answers.
async fn pass_on(
    head: http::request::Parts,
    body: Bytes,
    (index, actions): (usize, Vec<Action>),
    client: &Client,
    upstream: &str,
    state: &Mutex<State>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let cut = || io::Error::from(io::ErrorKind::ConnectionAborted);
    for action in &actions {
        match action {
            Action::CutBefore => return Err(cut()),
            Action::Delay(pause) => tokio::time::sleep(*pause).await,
            Action::Before(hook) => hook().await,
            Action::Hold { after: false, at, go } => held(at, go).await,
            Action::Answer(status, headers, body) => {
                let kind =
                    if body.starts_with('<') { "text/html; charset=utf-8" } else { "application/json" };
                let mut response = Response::builder().status(*status).header("content-type", kind);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                note(state, index, |seen| seen.status = Some(*status));
                return Ok(response.body(Full::from(body.clone())).unwrap());
            }
            Action::CutAfter | Action::Hold { after: true, .. } => {}
        }
    }
    note(state, index, |seen| seen.forwarded = true);
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut onward = client.request(head.method.clone(), format!("{upstream}{target}")).body(body);
    for (name, value) in &head.headers {
        if !HOP_BY_HOP.contains(&name.as_str()) {
            onward = onward.header(name, value);
        }
    }
    // A request that has left is done, even if the one who asked goes away.
    let answer = tokio::spawn(async move {
        let answer = onward.send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        Ok::<_, reqwest::Error>((status, headers, answer.bytes().await?))
    });
    let (status, headers, body) = answer.await.map_err(|_| cut())?.map_err(|_| cut())?;
    for action in &actions {
        match action {
            Action::CutAfter => return Err(cut()),
            Action::Hold { after: true, at, go } => held(at, go).await,
            _ => {}
        }
    }
    note(state, index, |seen| seen.status = Some(status.as_u16()));
    let mut response = Response::builder().status(status);
    for (name, value) in &headers {
        if !HOP_BY_HOP.contains(&name.as_str()) {
            response = response.header(name, value);
        }
    }
    Ok(response.body(Full::new(body)).unwrap())
}

/// Headers that belong to one connection only (RFC 9110, section 7.6.1), and those that are set anew.
const HOP_BY_HOP: [&str; 5] = ["connection", "keep-alive", "transfer-encoding", "content-length", "host"];

/// Writes a request down. Gives its place, whether it is a write, and the rules for it in the order in which they were
/// made.
fn arrive(state: &Mutex<State>, head: &http::request::Parts, body: &[u8]) -> (usize, bool, Vec<Action>) {
    let seen = Seen {
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        body: serde_json::from_slice(body).unwrap_or(Value::Null),
        forwarded: false,
        status: None,
        given_up: false,
    };
    let mut state = state.lock().unwrap();
    let mut actions = Vec::new();
    for rule in &mut state.rules {
        if rule.matcher.fits(&seen, body) {
            rule.matched += 1;
            let past = rule.matched.checked_sub(rule.matcher.first);
            if past.is_some_and(|past| past < rule.matcher.times) {
                actions.push(rule.action.clone());
            }
        }
    }
    let write = seen.is_write();
    if write {
        state.writes_now += 1;
        state.most_writes = state.most_writes.max(state.writes_now);
    }
    state.seen.push(seen);
    state.changed.send_replace(());
    (state.seen.len() - 1, write, actions)
}

/// A request from its arrival to its end. If it is dropped while the request waits, the request was given up.
struct UnderWay<'a> {
    state: &'a Mutex<State>,
    index: usize,
    write: bool,
    done: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.write {
            self.state.lock().unwrap().writes_now -= 1;
        }
        if !self.done {
            note(self.state, self.index, |seen| seen.given_up = true);
        }
    }
}

/// Adds to a request that was written down, unless it was forgotten meanwhile.
fn note(state: &Mutex<State>, index: usize, change: impl FnOnce(&mut Seen)) {
    let mut state = state.lock().unwrap();
    if let Some(seen) = state.seen.get_mut(index) {
        change(seen);
    }
    state.changed.send_replace(());
}

/// Waits at a point until it is released, or its owner is gone.
async fn held(at: &watch::Sender<bool>, go: &watch::Receiver<bool>) {
    at.send_replace(true);
    let _ = go.clone().wait_for(|go| *go).await;
}
