//! A real Synapse for tests and the sandbox: installed from PyPI, started on loopback with SQLite in a directory of
//! its own, and gone with the process that started it.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "every test binary uses another part, and a test that cannot start may stop"
)]

mod config;
mod venv;

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hmac::{Hmac, Mac as _};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sha1::Sha1;
use tempfile::TempDir;
use tokio::sync::OnceCell;

pub use self::{
    config::{Options, Tell, defguard_provider},
    venv::VERSION,
};

/// The password of every account that [`Synapse::register_user`] makes.
pub const PASSWORD: &str = "correct horse battery staple";

/// How long a start may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// An answer of Synapse: status and body, null if it is not JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Value,
}

/// An account that was registered for a test.
#[derive(Debug, Clone)]
pub struct User {
    /// Its MXID.
    pub mxid: String,
    /// An access token of it.
    pub token: String,
}

/// A running Synapse; it ends when this is dropped, or with the process.
pub struct Synapse {
    python: PathBuf,
    port: u16,
    server_name: String,
    data: TempDir,
    child: Mutex<Option<Child>>,
    admin: User,
    client: Client,
}

/// One Synapse with the default options for all tests of this process: `sync.test`, registration closed. Each test
/// keeps to localparts of its own.
pub async fn shared() -> &'static Synapse {
    static SHARED: OnceCell<Result<Synapse, String>> = OnceCell::const_new();
    // A failure is kept, too, so that not every test goes through it.
    SHARED.get_or_init(|| Synapse::start(Options::default())).await.as_ref().unwrap()
}

impl Synapse {
    /// Installs Synapse if need be, starts it, makes the admin `admin`, and waits until everything is ready. The
    /// error says why not, with the end of Synapse's log.
    pub async fn start(options: Options) -> Result<Self, String> {
        let tell: Tell = options.progress.clone().unwrap_or_else(|| Arc::new(to_stderr));
        let python = {
            let tell = tell.clone();
            tokio::task::spawn_blocking(move || venv::python(&*tell))
                .await
                .map_err(|error| error.to_string())??
        };
        tell("starting Synapse");
        // Connections are not kept: they would belong to the runtime of one test.
        let client = Client::builder()
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|error| error.to_string())?;
        let data = TempDir::with_prefix("synapse-").map_err(|error| error.to_string())?;
        let mut synapse = Self {
            python,
            port: 0,
            server_name: options.server_name.clone(),
            data,
            child: Mutex::new(None),
            admin: User { mxid: format!("@admin:{}", options.server_name), token: String::new() },
            client,
        };
        // Between the choice of a free port and its use somebody else can take it.
        let mut tries = 0;
        loop {
            synapse.port = free_port().map_err(|error| error.to_string())?;
            config::write(synapse.data.path(), synapse.port, &options).map_err(|error| error.to_string())?;
            match synapse.start_again().await {
                Ok(()) => break,
                Err(why) if tries < 5 && why.contains("Address already in use") => tries += 1,
                Err(why) => return Err(why),
            }
        }
        if options.admin {
            synapse.admin = synapse.register("admin", true).await?;
            synapse.wait_for_background_updates().await?;
        }
        tell("Synapse is ready");
        Ok(synapse)
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What stands behind the colon of every MXID.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// The MXID of a localpart.
    pub fn mxid(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.server_name)
    }

    /// The server admin.
    pub fn admin_mxid(&self) -> &str {
        &self.admin.mxid
    }

    /// The server admin's access token.
    pub fn admin_token(&self) -> &str {
        &self.admin.token
    }

    /// The process id of Synapse, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().unwrap().as_ref().map(Child::id)
    }

    /// The homeserver.yaml that Synapse runs with.
    pub fn config_file(&self) -> PathBuf {
        self.data.path().join(config::FILE)
    }

    /// The directory of further files of config, empty at first.
    pub fn config_directory(&self) -> PathBuf {
        self.data.path().join(config::DIRECTORY)
    }

    /// Looks at accounts with this token of a server admin from now on.
    pub fn look_as(&mut self, mxid: &str, token: &str) {
        self.admin = User { mxid: mxid.to_owned(), token: token.to_owned() };
    }

    /// The last lines of what Synapse logged.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.data.path().join("synapse.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Ends Synapse at once, as a power cut would. The data stays.
    pub fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends Synapse as the end of this process would: it notices by itself, and removes its data.
    pub fn let_go(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            // Waiting closes the pipe.
            let _ = child.wait();
        }
    }

    /// Starts a stopped Synapse with its data on its port, and waits until it answers.
    pub async fn start_again(&self) -> Result<(), String> {
        self.stop();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.data.path().join("synapse.log"))
            .map_err(|error| error.to_string())?;
        let child = Command::new(&self.python)
            .args(["-c", include_str!("guard.py")])
            .arg(self.data.path())
            .arg("--config-path")
            .arg(self.config_file())
            .arg("--config-path")
            .arg(self.config_directory())
            .current_dir(self.data.path())
            // Ctrl-C is for the sandbox, which ends Synapse when it has ended its own work.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.python.display()))?;
        *self.child.lock().unwrap() = Some(child);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(answer) = self.client.get(format!("{}/health", self.url())).send().await
                && answer.status().is_success()
            {
                return Ok(());
            }
            let ended = match &mut *self.child.lock().unwrap() {
                Some(child) => child.try_wait().map_err(|error| error.to_string())?,
                None => return Err("Synapse was stopped while it started".to_owned()),
            };
            if let Some(status) = ended {
                return Err(format!("Synapse ended while it started ({status}):\n{}", self.log_tail()));
            }
            if Instant::now() > deadline {
                return Err(format!("Synapse does not answer after {PATIENCE:?}:\n{}", self.log_tail()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn wait_for_background_updates(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.admin_get("/_synapse/admin/v1/background_updates/status").await;
            if status.body["current_updates"].as_object().is_some_and(serde_json::Map::is_empty) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("Synapse's background updates do not end: {status:?}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends any request.
    pub async fn call(&self, method: Method, path: &str, token: Option<&str>, body: Option<&Value>) -> Reply {
        let mut request = self.client.request(method, format!("{}{path}", self.url()));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log_tail()));
        let status = answer.status().as_u16();
        let body = answer.bytes().await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log_tail()));
        Reply { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    /// A GET as admin.
    pub async fn admin_get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, Some(self.admin_token()), None).await
    }

    /// A PUT as admin.
    pub async fn admin_put(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::PUT, path, Some(self.admin_token()), Some(body)).await
    }

    /// A POST as admin.
    pub async fn admin_post(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::POST, path, Some(self.admin_token()), Some(body)).await
    }

    /// An account as the admin API shows it.
    pub async fn account(&self, localpart: &str) -> Reply {
        self.admin_get(&user_path(&self.mxid(localpart))).await
    }

    /// Writes to an account by the admin API; makes it if there is none.
    pub async fn put_account(&self, localpart: &str, body: &Value) -> Reply {
        self.admin_put(&user_path(&self.mxid(localpart)), body).await
    }

    /// All accounts, as the list shows them.
    pub async fn accounts(&self) -> Vec<Value> {
        let path = "/_synapse/admin/v2/users?deactivated=true&locked=true&limit=1000000";
        let Value::Array(users) = self.admin_get(path).await.body["users"].take() else {
            panic!("no list of accounts\n{}", self.log_tail())
        };
        users
    }

    /// Registers an account with [`PASSWORD`], as `register_new_matrix_user` does.
    pub async fn register_user(&self, localpart: &str, admin: bool) -> User {
        self.register(localpart, admin).await.unwrap()
    }

    async fn register(&self, localpart: &str, admin: bool) -> Result<User, String> {
        let path = "/_synapse/admin/v1/register";
        let nonce = self.call(Method::GET, path, None, None).await;
        let nonce = nonce.body["nonce"].as_str().ok_or("no nonce")?.to_owned();
        let mut mac = Hmac::<Sha1>::new_from_slice(config::SHARED_SECRET.as_bytes())
            .map_err(|error| error.to_string())?;
        let kind = if admin { "admin" } else { "notadmin" };
        mac.update([nonce.as_str(), localpart, PASSWORD, kind].join("\0").as_bytes());
        let mac: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let body = json!({
            "nonce": nonce, "username": localpart, "password": PASSWORD, "admin": admin, "mac": mac,
        });
        let reply = self.call(Method::POST, path, None, Some(&body)).await;
        match (reply.body["user_id"].as_str(), reply.body["access_token"].as_str()) {
            (Some(mxid), Some(token)) => Ok(User { mxid: mxid.to_owned(), token: token.to_owned() }),
            _ => Err(format!("cannot register {localpart}: {reply:?}\n{}", self.log_tail())),
        }
    }

    /// Tries to log in with a password; a success has an `access_token`.
    pub async fn login_password(&self, localpart: &str, password: &str) -> Reply {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": localpart },
            "password": password,
        });
        self.call(Method::POST, "/_matrix/client/v3/login", None, Some(&body)).await
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The admin API's path of an account.
pub fn user_path(mxid: &str) -> String {
    let encoded = percent_encoding::utf8_percent_encode(mxid, percent_encoding::NON_ALPHANUMERIC);
    format!("/_synapse/admin/v2/users/{encoded}")
}

/// Tells progress past the test harness, which would keep it back until the end.
fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "synapse: {line}");
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
