//! One HTTP client for both servers: bounded in time, size and number, repeating by class of failure, and never
//! letting a secret or an address into an error.

use std::{
    error::Error as _,
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use reqwest::{
    Certificate, Client, Method, Request, RequestBuilder, StatusCode, Url, header::HeaderMap, redirect,
};
use tokio::sync::Semaphore;

use crate::{
    alive::Alive,
    domain::{Failure, FailureClass, Peer},
};

/// What is the same for every request to one server.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// The longest a single try may take, from connecting to the last byte.
    pub timeout: Duration,
    /// How many requests may be under way at once.
    pub concurrency: usize,
    /// How many tries a request gets that may be repeated.
    pub tries: usize,
    /// The pause before the second try; it doubles with each further one, and has jitter.
    pub pause: Duration,
    /// The largest answer that is read, in bytes.
    pub max_body: usize,
    /// Certificate authorities (PEM) that are trusted beside the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Is given a sign at each try.
    pub alive: Alive,
    /// Who counts the requests.
    pub meter: Option<Arc<dyn Meter>>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            concurrency: 8,
            tries: 4,
            pause: Duration::from_millis(500),
            max_body: 256 << 20,
            ca_pem: None,
            alive: Alive::default(),
            meter: None,
        }
    }
}

/// Counts what goes over the wire. Told of every try, the repeated ones too.
pub trait Meter: fmt::Debug + Send + Sync {
    /// One try came to its end.
    fn request(&self, peer: Peer, endpoint: &'static str, result: TryResult, took: Duration);

    /// A failed try is about to be repeated.
    fn retry(&self, peer: Peer, class: FailureClass);
}

/// How one try ended, as far as it can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TryResult {
    /// An answer came, with this status.
    Status(StatusCode),
    /// No connection could be made.
    NotSent,
    /// No whole answer came in time.
    TimedOut,
    /// The connection was cut, or the answer was no HTTP.
    Cut,
    /// The answer was larger than what is read.
    TooLarge,
}

impl TryResult {
    fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::TimedOut
        } else if error.is_connect() {
            Self::NotSent
        } else {
            Self::Cut
        }
    }
}

/// Names the kind of request that a method and a path are, with one of a few words: never anything from the path.
pub type EndpointOf = fn(&Method, &Url) -> &'static str;

/// The longest pause that a server can make us take between two tries. Asked for more, we give up and say so.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How a failure begins whose request never left: nothing can have come of it.
pub const NOT_SENT: &str = "could not connect";

/// An answer of whatever status, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Whether the server says that the body is JSON.
    pub fn is_json(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("application/json"))
    }

    /// Whether the server says that the body is a web page.
    pub fn is_html(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("text/html"))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The pause that the server asks for in `Retry-After`, whole seconds. The other form, a date, is not read: neither
    /// server sends it, and it rests on two clocks; then the pause is ours.
    pub fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.trim().parse().ok().map(Duration::from_secs)
    }
}

/// The time that a server puts on its answer, to the second.
pub fn date(answer: &Answer) -> Option<DateTime<Utc>> {
    let date = DateTime::parse_from_rfc2822(answer.header("date")?).ok()?;
    Some(date.with_timezone(&Utc))
}

/// A client for one server.
#[derive(Debug)]
pub struct Http {
    client: Client,
    peer: Peer,
    options: HttpOptions,
    places: Semaphore,
    endpoint_of: EndpointOf,
}

impl Http {
    /// Makes a client; `endpoint_of` names its requests for who counts them. Fails if the certificate authorities cannot
    /// be read.
    pub fn new(peer: Peer, options: HttpOptions, endpoint_of: EndpointOf) -> Result<Self, Failure> {
        let refused =
            |why: String| Failure::new(peer, FailureClass::Permanent, "setting up the HTTP client", why);
        let mut builder = Client::builder()
            .user_agent(concat!("defguard-synapse-sync/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.timeout.min(Duration::from_secs(10)))
            .timeout(options.timeout)
            // A redirect would carry the token to whatever it names.
            .redirect(redirect::Policy::none());
        if let Some(pem) = &options.ca_pem {
            let authorities = Certificate::from_pem_bundle(pem)
                .map_err(|error| refused(format!("the certificate authorities cannot be read: {error}")))?;
            builder = builder.tls_certs_merge(authorities);
        }
        let client = builder.build().map_err(|error| refused(explain_transport(&error)))?;
        Ok(Self { client, peer, places: Semaphore::new(options.concurrency.max(1)), options, endpoint_of })
    }

    /// The client that requests are built with; [`Http::once`] or [`Http::repeated`] sends them.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a request one time. An answer of any status is `Ok`; `Err` means that the outcome is unknown.
    pub async fn once(&self, what: &str, request: RequestBuilder) -> Result<Answer, Failure> {
        let transient = |why: String| Failure::new(self.peer, FailureClass::Transient, what, why);
        let _place =
            self.places.acquire().await.map_err(|_| transient("the client is shut down".to_owned()))?;
        let (client, request) = request.build_split();
        let request = request.map_err(|error| transient(explain_transport(&error)))?;
        let endpoint = (self.endpoint_of)(request.method(), request.url());
        self.options.alive.sign();
        let began = Instant::now();
        let answer = self.exchange(&client, request).await;
        if let Some(meter) = &self.options.meter {
            let result = match &answer {
                Ok(answer) => TryResult::Status(answer.status),
                Err(Broken::Transport(error)) => TryResult::of(error),
                Err(Broken::TooLarge) => TryResult::TooLarge,
            };
            meter.request(self.peer, endpoint, result, began.elapsed());
        }
        answer.map_err(|broken| match broken {
            Broken::Transport(error) => transient(explain_transport(&error)),
            Broken::TooLarge => Failure::new(
                self.peer,
                FailureClass::Malformed,
                what,
                format!("the answer is larger than {} bytes", self.options.max_body),
            ),
        })
    }

    #[allow(clippy::disallowed_methods, reason = "the one place from which requests are sent")]
    async fn exchange(&self, client: &Client, request: Request) -> Result<Answer, Broken> {
        let mut response = client.execute(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > self.options.max_body {
                return Err(Broken::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body: body.freeze() })
    }

    /// Runs a try again as long as it fails in a way that may pass (`Transient`, `RateLimited`), a few times. Only
    /// for requests that do no harm when they are done twice. Whoever calls this does not repeat it once more: the pauses
    /// of one request can take minutes already.
    pub async fn repeated<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(self.options.pause)
            .with_max_delay(LONGEST_PAUSE)
            .with_max_times(self.options.tries.saturating_sub(1))
            .with_jitter()
            .build();
        loop {
            let failure = match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let asked = match failure.class {
                FailureClass::Transient => Duration::ZERO,
                FailureClass::RateLimited(asked) => asked.unwrap_or_default(),
                _ => return Err(failure),
            };
            match pauses.next() {
                Some(pause) if asked <= LONGEST_PAUSE => {
                    if let Some(meter) = &self.options.meter {
                        meter.retry(self.peer, failure.class);
                    }
                    tracing::debug!(peer = %self.peer, what = failure.what, why = failure.why, "trying again");
                    tokio::time::sleep(pause.max(asked)).await;
                }
                _ => return Err(failure),
            }
        }
    }
}

/// Why no answer came.
enum Broken {
    Transport(reqwest::Error),
    TooLarge,
}

impl From<reqwest::Error> for Broken {
    fn from(error: reqwest::Error) -> Self {
        Self::Transport(error)
    }
}

/// Says what went wrong on the way without the URL, which can hold names and addresses.
fn explain_transport(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        NOT_SENT
    } else if error.is_builder() {
        "the request could not be built"
    } else {
        "the connection was cut"
    };
    let mut deepest: Option<&dyn std::error::Error> = error.source();
    while let Some(next) = deepest.and_then(std::error::Error::source) {
        deepest = Some(next);
    }
    match deepest {
        Some(cause) => format!("{kind} ({cause})"),
        None => kind.to_owned(),
    }
}
