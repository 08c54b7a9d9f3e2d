//! Receives Defguard's webhook: an event is a key that says whom to look at, and nothing else in it is believed.
//!
//! Defguard delivers with one worker, without a time limit and without a second try (`docs/facts/defguard.md` section
//! 6), so each delivery is answered at once, whatever is going on here, and what is lost is found by the schedule.

mod hints;
mod limits;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    time::Instant,
};

use self::limits::Bucket;
use crate::domain::{Failure, FailureClass, Peer};

pub use self::hints::{Pending, Wish};

/// Where deliveries go.
pub const PATH: &str = "/webhook/defguard";

/// The largest body that is read, in bytes. Defguard's are a few hundred.
pub const LARGEST_BODY: usize = 64 * 1024;

/// More people than this, waiting at once, become one look at everybody. It costs no more requests but for changes.
const MOST_PEOPLE: usize = 5;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(5);

/// How many deliveries may be read at once. Defguard sends one after the other.
const AT_ONCE: usize = 32;

/// How many deliveries with the right token pass at once, and how many a second after that.
const KNOWN: (u32, u32) = (300, 50);

/// The same without the right token; whoever guesses tokens uses up nobody else's share.
const UNKNOWN: (u32, u32) = (20, 1);

/// The longest name that is taken for a username, in bytes. Defguard's have 63 at most.
const LONGEST_USERNAME: usize = 255;

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Somebody will be looked at.
    Accepted,
    /// The token was missing or wrong.
    Unauthorised,
    /// The body was larger than [`LARGEST_BODY`].
    TooLarge,
    /// The body was no event, or did not arrive.
    Malformed,
    /// There were too many deliveries.
    Limited,
}

impl Outcome {
    fn status(self) -> StatusCode {
        match self {
            Self::Accepted => StatusCode::ACCEPTED,
            Self::Unauthorised => StatusCode::UNAUTHORIZED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Limited => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

/// Whoever counts deliveries.
pub trait Counter: Send + Sync {
    /// One came.
    fn count(&self, outcome: Outcome);
}

/// What was asked for by events and not given out yet, shared by the receiver and the one who does it.
#[derive(Debug)]
pub struct Hints {
    pending: Mutex<Pending>,
    changed: Notify,
    began: Instant,
}

impl Hints {
    /// None yet; each event is looked into after `delay`.
    pub fn new(delay: Duration) -> Self {
        Self {
            pending: Mutex::new(Pending::new(delay, MOST_PEOPLE)),
            changed: Notify::new(),
            began: Instant::now(),
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event named a person, by `#` and id, or by username.
    pub fn note(&self, person: String) {
        self.pending().note(person, self.began.elapsed());
        self.changed.notify_one();
    }

    /// Something may have changed for anybody.
    pub fn note_everybody(&self) {
        self.pending().note_everybody(self.began.elapsed());
        self.changed.notify_one();
    }

    /// Waits until somebody is to be looked at. A call that is dropped while it waits takes nothing out.
    pub async fn next(&self) -> Wish {
        loop {
            let next = {
                let mut pending = self.pending();
                if let Some(wish) = pending.take(self.began.elapsed()) {
                    return wish;
                }
                pending.next()
            };
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(self.began + next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

/// The socket that deliveries come to, bound.
pub struct Webhook {
    listener: TcpListener,
    receiver: Arc<Receiver>,
}

struct Receiver {
    /// The hash of the token, so that a comparison tells nothing of its length either.
    token: [u8; 32],
    hints: Arc<Hints>,
    counter: Arc<dyn Counter>,
    places: Semaphore,
    known: Mutex<Bucket>,
    unknown: Mutex<Bucket>,
    began: Instant,
}

impl Webhook {
    /// Binds the address.
    pub async fn bind(
        listen: SocketAddr,
        token: &SecretString,
        hints: Arc<Hints>,
        counter: Arc<dyn Counter>,
    ) -> Result<Self, Failure> {
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            Failure::new(
                Peer::Store,
                FailureClass::Permanent,
                format!("listening for Defguard's webhook on {listen}"),
                error.to_string(),
            )
            .mend("set webhook.listen to an address of this machine and a port that is free")
        })?;
        let receiver = Arc::new(Receiver {
            token: hash(token.expose_secret()),
            hints,
            counter,
            places: Semaphore::new(AT_ONCE),
            known: Mutex::new(Bucket::new(KNOWN.0, KNOWN.1)),
            unknown: Mutex::new(Bucket::new(UNKNOWN.0, UNKNOWN.1)),
            began: Instant::now(),
        });
        Ok(Self { listener, receiver })
    }

    /// The address that is listened on.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is over.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) {
        let router = Router::new().route(PATH, post(deliver)).with_state(self.receiver);
        if let Err(error) = axum::serve(self.listener, router).with_graceful_shutdown(stop).await {
            tracing::error!(%error, "the webhook's socket failed");
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

async fn deliver(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let outcome = receiver.receive(request).await;
    receiver.counter.count(outcome);
    let status = outcome.status();
    if outcome == Outcome::Unauthorised {
        return (status, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response();
    }
    status.into_response()
}

impl Receiver {
    async fn receive(&self, request: Request) -> Outcome {
        let passes = |bucket: &Mutex<Bucket>| {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).take(self.began.elapsed())
        };
        let (parts, body) = request.into_parts();
        if !self.knows(&parts.headers) {
            if !passes(&self.unknown) {
                return Outcome::Limited;
            }
            tracing::warn!("a webhook delivery without the right token was refused");
            return Outcome::Unauthorised;
        }
        // What is refused for its number is not lost: Defguard does not send it again, so everybody is looked at.
        let Ok(_place) = self.places.try_acquire() else {
            self.hints.note_everybody();
            return Outcome::Limited;
        };
        if !passes(&self.known) {
            self.hints.note_everybody();
            return Outcome::Limited;
        }
        if announced(&parts.headers).is_some_and(|length| length > LARGEST_BODY as u64) {
            return Outcome::TooLarge;
        }
        let bytes = match tokio::time::timeout(BODY_TIME, read(body)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(outcome)) => return outcome,
            Err(_) => return Outcome::Malformed,
        };
        let Some(person) = key(&bytes) else {
            tracing::warn!("a webhook delivery had the right token, but named nobody");
            return Outcome::Malformed;
        };
        tracing::debug!(person, "Defguard sent an event");
        self.hints.note(person);
        Outcome::Accepted
    }

    /// Whether the token is ours. Takes the same time however much of it is right.
    fn knows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        hash(given).ct_eq(&self.token).into()
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body, but no more than [`LARGEST_BODY`] of it.
async fn read(body: Body) -> Result<Vec<u8>, Outcome> {
    use futures_util::StreamExt as _;
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Outcome::Malformed)?;
        if bytes.len() + chunk.len() > LARGEST_BODY {
            return Err(Outcome::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Who an event is about: by id, which stays the same when they are renamed, or by username, which is all that the
/// event of a deletion has.
fn key(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        id: Option<i64>,
        username: Option<String>,
    }
    let event: Event = serde_json::from_slice(body).ok()?;
    if let Some(id) = event.id {
        return (id > 0).then(|| format!("#{id}"));
    }
    // A name that begins so would be taken for an id or an MXID.
    event
        .username
        .filter(|name| !name.starts_with(['#', '@']) && (1..=LONGEST_USERNAME).contains(&name.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_is_a_key_by_id_or_else_by_username() {
        for (body, person) in [
            (r##"{"id": 7, "username": "alice", "is_active": false}"##, Some("#7")),
            (r##"{"username": "alice"}"##, Some("alice")),
            (r##"{"id": null, "username": "alice"}"##, Some("alice")),
            (r##"{"id": 0, "username": "alice"}"##, None),
            (r##"{"id": "7"}"##, None),
            (r##"{"username": "#7"}"##, None),
            (r##"{"username": "@alice:example.org"}"##, None),
            (r##"{"username": ""}"##, None),
            ("{}", None),
            ("[]", None),
            ("", None),
            ("\"alice\"", None),
        ] {
            assert_eq!(key(body.as_bytes()).as_deref(), person, "{body}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_body_holds_it_is_a_short_key_or_nothing(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(key) = key(&body) {
                prop_assert!((1..=LONGEST_USERNAME).contains(&key.len()));
            }
        }

        #[test]
        fn a_cut_event_is_no_key(cut in 1_usize..40) {
            let body = br#"{"id": 7, "username": "alice", "name": "Alice"}"#;
            prop_assert_eq!(key(&body[..body.len() - cut]), None);
        }
    }
}
