//! The Unix control socket: the verbs of the command line, answered by the running daemon.
//!
//! One request is one command as JSON; the answer is one JSON object a line, first the progress, last the answer.

use std::{
    convert::Infallible,
    ffi::CString,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Request, State, connect_info::Connected},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
    serve::IncomingStream,
};
use nix::unistd::{Gid, Uid, User, getgrouplist};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

use crate::{
    command::{Answer, Command, Line},
    domain::{Failure, FailureClass, Peer},
    engine::{Progress, Stage},
};

/// How many lines of progress may wait for a slow reader before further ones are left out.
const WAITING_LINES: usize = 64;

/// What both ends call themselves.
const VERSION: &str = concat!("defguard-synapse-sync/", env!("CARGO_PKG_VERSION"));

/// The largest command that is read, in bytes.
const LARGEST_COMMAND: usize = 1 << 20;

/// What somebody can do who may not use the socket.
const HOW_TO_BE_ADMITTED: &str = "run this as root or as the service's user, or join its group";

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
    door: Door,
}

/// Who may ask: root, the owner of the socket, and the members of its group. The mode of the socket says the same, but
/// anybody who may change that file's mode could open it to more people than they know.
#[derive(Debug, Clone, Copy)]
struct Door {
    owner: u32,
    group: u32,
}

/// Who is at the other end of a connection, as the kernel says.
#[derive(Debug, Clone, Copy)]
struct Caller {
    ids: Option<(u32, u32)>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { ids: stream.io().peer_cred().ok().map(|peer| (peer.uid(), peer.gid())) }
    }
}

impl Door {
    /// Looks into the machine's list of users and groups.
    fn admits(self, (uid, gid): (u32, u32)) -> bool {
        uid == 0 || uid == self.owner || gid == self.group || is_member(uid, gid, self.group)
    }
}

fn is_member(uid: u32, gid: u32, group: u32) -> bool {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return false };
    let Ok(name) = CString::new(user.name) else { return false };
    getgrouplist(&name, Gid::from_raw(gid)).is_ok_and(|groups| groups.contains(&Gid::from_raw(group)))
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
        let made = fs::metadata(&young).map_err(io)?;
        fs::rename(&young, path).map_err(io)?;
        let door = Door { owner: made.uid(), group: made.gid() };
        Ok(Self { listener: Some(listener), path: path.to_owned(), door })
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
            .layer(middleware::from_fn_with_state(self.door, admit))
            .layer(middleware::map_response(name_version))
            .with_state(executor)
            .into_make_service_with_connect_info::<Caller>();
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

/// Lets in whoever may ask.
async fn admit(
    State(door): State<Door>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let admitted = match caller.ids {
        None => false,
        Some(ids) => tokio::task::spawn_blocking(move || door.admits(ids)).await.unwrap_or(false),
    };
    let (uid, gid) = caller.ids.unzip();
    if admitted {
        tracing::debug!(uid, "asked through the control socket");
        return next.run(request).await;
    }
    tracing::warn!(uid, gid, "somebody without the right to it asked through the control socket");
    let why = "this user is neither root nor the service's user nor a member of the group of the socket";
    (StatusCode::FORBIDDEN, why).into_response()
}

struct Lines(mpsc::Sender<Line>);

impl Progress for Lines {
    fn taken(&self) {
        let _ = self.0.try_send(Line::Taken);
    }

    fn waiting(&self) {
        let _ = self.0.try_send(Line::Waiting);
    }

    fn stage(&self, stage: Stage) {
        let _ = self.0.try_send(Line::Stage(stage));
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
            return Err(failed("this user may not use the socket".to_owned()).mend(HOW_TO_BE_ADMITTED));
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
        if status == StatusCode::FORBIDDEN {
            return Err(failed(why).mend(HOW_TO_BE_ADMITTED));
        }
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
                Line::Taken => progress.taken(),
                Line::Waiting => progress.waiting(),
                Line::Stage(stage) => progress.stage(stage),
                Line::Progress { done, total } => progress.step(done, total),
                Line::Answer(answer) => return Ok(Some(answer)),
            }
        }
        looked = buffer.len();
    }
    Err(failed("the daemon ended before it answered".to_owned()))
}
