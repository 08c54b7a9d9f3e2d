//! The Unix control socket: the verbs of the command line, answered by the running daemon.
//!
//! One request is one command as JSON; the answer is one JSON object a line, first the progress, last the answer.

use std::{
    convert::Infallible,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, header},
    middleware,
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

use crate::{
    command::{Answer, Command, Line},
    domain::{Failure, FailureClass, Peer},
    engine::Progress,
};

/// How many lines of progress may wait for a slow reader before further ones are left out.
const WAITING_LINES: usize = 64;

/// What both ends call themselves.
const VERSION: &str = concat!("defguard-synapse-sync/", env!("CARGO_PKG_VERSION"));

/// The largest command that is read, in bytes.
const LARGEST_COMMAND: usize = 1 << 20;

/// How much of a refusal is shown, in characters.
const LONGEST_REFUSAL: usize = 400;

/// Whoever does what is asked through the socket.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Does it and says how far it is.
    async fn execute(&self, command: Command, progress: Arc<dyn Progress>) -> Answer;
}

/// A socket that is bound and removed again when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Socket {
    /// Binds the socket with mode 0660, whatever the umask. A socket that nobody listens on any more is replaced; one
    /// that answers is another daemon, which is refused.
    pub async fn bind(path: &Path) -> Result<Self, Failure> {
        let failed = |why: String| {
            Failure::new(
                Peer::Store,
                FailureClass::Permanent,
                format!("binding the control socket {}", path.display()),
                why,
            )
        };
        if UnixStream::connect(path).await.is_ok() {
            return Err(
                failed("a daemon answers there already".to_owned()).mend("stop the other daemon first")
            );
        }
        let io = |error: io::Error| {
            failed(error.to_string())
                .mend("make the directory of control.socket writable for this user, or set another one")
        };
        if let Some(directory) = path.parent() {
            // Where nobody else can make files, nobody else can put a socket of theirs in the place of ours.
            fs::DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(io)?;
        }
        // Made under another name and moved when its mode is right, so that it is never open to more people.
        let mut young = path.as_os_str().to_owned();
        young.push(".new");
        let young = PathBuf::from(young);
        match fs::remove_file(&young) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&young).map_err(io)?;
        fs::set_permissions(&young, fs::Permissions::from_mode(0o660)).map_err(io)?;
        fs::rename(&young, path).map_err(io)?;
        Ok(Self { listener: Some(listener), path: path.to_owned() })
    }

    /// Serves until `stop` is over.
    pub async fn serve(
        mut self,
        executor: Arc<dyn Executor>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(listener) = self.listener.take() else { return };
        let router = Router::new()
            .route("/command", post(command))
            .layer(axum::extract::DefaultBodyLimit::max(LARGEST_COMMAND))
            .layer(middleware::map_response(name_version))
            .with_state(executor);
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
            tracing::error!(%error, "the control socket failed");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was not removed");
        }
    }
}

/// Says with every answer, refusals too, which version gives it.
async fn name_version(mut response: Response) -> Response {
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static(VERSION));
    response
}

struct Lines(mpsc::Sender<Line>);

impl Progress for Lines {
    fn waiting(&self) {
        let _ = self.0.try_send(Line::Waiting);
    }

    fn step(&self, done: usize, total: usize) {
        // A reader that is too slow misses a line of progress, never the answer.
        let _ = self.0.try_send(Line::Progress { done, total });
    }
}

async fn command(
    State(executor): State<Arc<dyn Executor>>,
    Json(command): Json<Command>,
) -> impl IntoResponse {
    let (lines, reader) = mpsc::channel(WAITING_LINES);
    // A task of its own: what was begun is finished even if the asker goes away.
    tokio::spawn(async move {
        let answer = executor.execute(command, Arc::new(Lines(lines.clone()))).await;
        let _ = lines.send(Line::Answer(answer)).await;
    });
    let lines = futures_util::stream::unfold(reader, |mut reader| async move {
        let line = reader.recv().await?;
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(text)), reader))
    });
    Body::from_stream(lines)
}

/// Asks the daemon. `None` if none is running: there is no socket, or nobody listens on it.
pub async fn ask(path: &Path, command: &Command, progress: &dyn Progress) -> Result<Option<Answer>, Failure> {
    let what = format!("asking the daemon through {}", path.display());
    let failed = |why: String| Failure::new(Peer::Store, FailureClass::Transient, what.clone(), why);
    match UnixStream::connect(path).await {
        Ok(probe) => drop(probe),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(failed("this user may not use the socket".to_owned())
                .mend("run this as root or as the service's user, or join its group"));
        }
        Err(error) => return Err(failed(error.to_string())),
    }
    let broken = |error: reqwest::Error| failed(format!("the daemon ended before it answered ({error})"));
    let client = reqwest::Client::builder().unix_socket(path).build().map_err(broken)?;
    let request = client.post("http://daemon/command").json(command);
    #[allow(clippy::disallowed_methods, reason = "to our own daemon on this machine, not to a server")]
    let mut response = request.send().await.map_err(broken)?;
    let version = response.headers().get(header::SERVER).and_then(|name| name.to_str().ok());
    let mend = match version {
        Some(version) if version != VERSION => {
            format!("the daemon is {version} and this is {VERSION}: restart the daemon with the same version")
        }
        Some(_) => {
            "the daemon and this program call themselves the same version, so this is an error of theirs; \
                    please report it"
                .to_owned()
        }
        None => "what listens there is not this daemon; see whether control.socket is right".to_owned(),
    };
    if !response.status().is_success() {
        let status = response.status();
        let why = response.text().await.unwrap_or_default();
        let why: String = why.chars().take(LONGEST_REFUSAL).collect();
        return Err(failed(format!("{status}: {why}")).mend(mend));
    }
    let mut buffer = Vec::new();
    // An answer can be many megabytes in one line, so what was looked through is not looked through again.
    let mut looked = 0;
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.iter().skip(looked).position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=looked + end).collect();
            looked = 0;
            let line = serde_json::from_slice(&line)
                .map_err(|error| failed(format!("its answer cannot be read: {error}")).mend(mend.clone()))?;
            match line {
                Line::Waiting => progress.waiting(),
                Line::Progress { done, total } => progress.step(done, total),
                Line::Answer(answer) => return Ok(Some(answer)),
            }
        }
        looked = buffer.len();
    }
    Err(failed("the daemon ended before it answered".to_owned()))
}
