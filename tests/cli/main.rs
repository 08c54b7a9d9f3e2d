//! The command line as people and programs see it: the real program against the stand-in Defguard and a real Synapse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod check;
mod docs;
mod explain;
mod generate;
mod journald;
mod misconfigured;
mod notify;
mod render;
mod secrets;
mod setup;
mod socket;
mod undo;
mod unprivileged;
mod usage;
mod verbs;

#[path = "../support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use regex::Regex;
use serde_json::Value;
use support::{
    defguard::{ADMIN_PASSWORD, StandIn},
    synapse::{Synapse, shared},
};
use tempfile::TempDir;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_defguard-synapse-sync");

/// What one use of the program gave.
#[derive(Debug)]
struct Output {
    code: i32,
    out: String,
    err: String,
}

impl Output {
    /// Standard output, which must be one JSON value.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// The program with nothing of this process's environment that it looks at.
fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DEFGUARD_SYNAPSE_SYNC_") {
            command.env_remove(name);
        }
    }
    for name in ["COLUMNS", "RUST_LOG", "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end, giving it something to read, while this runtime goes on serving.
async fn finish(mut command: Command, input: &str) -> Output {
    let input = input.to_owned();
    tokio::task::spawn_blocking(move || {
        if !input.is_empty() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        Output {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    })
    .await
    .unwrap()
}

/// Uses the program without any server.
async fn alone(arguments: &[&str], input: &str) -> Output {
    let mut command = program();
    command.args(arguments);
    finish(command, input).await
}

/// A Defguard of its own, the shared Synapse, and a config for both. Tests keep to usernames of their own, which begin
/// with the name of the world.
struct World {
    name: &'static str,
    home: TempDir,
    defguard: StandIn,
    synapse: &'static Synapse,
}

impl World {
    async fn new(name: &'static str) -> Self {
        Self::on(name, shared().await).await
    }

    /// The same on a Synapse of its own.
    async fn on(name: &'static str, synapse: &'static Synapse) -> Self {
        let world = Self { name, home: TempDir::new().unwrap(), defguard: StandIn::start().await, synapse };
        world.join();
        world.write("defguard-password", ADMIN_PASSWORD);
        world.write("synapse-token", synapse.admin_token());
        world.configure("");
        world
    }

    /// Makes this Defguard the one to which Synapse's provider leads (no test here logs in), with the app for it.
    fn join(&self) {
        let provider = &mut self.defguard.state().provider;
        provider.defguard_url = "http://127.0.0.1:9/".parse().unwrap();
        let back = format!("{}/_synapse/client/oidc/callback", self.synapse.url());
        let scopes = ["openid", "profile", "email", "phone"].map(str::to_owned).to_vec();
        provider.add_app("Matrix", vec![back], scopes, true);
        provider.apps[0].client_id = "synapse".to_owned();
    }

    /// Writes a secret, or a config.
    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Writes the config, with more at its end.
    fn configure(&self, more: &str) {
        self.configure_for(self.defguard.url().as_str(), &self.synapse.url(), more);
    }

    fn configure_for(&self, defguard: &str, synapse: &str, more: &str) {
        let home = self.home.path().display();
        let name = self.name;
        let text = format!(
            r#"[defguard]
url = "{defguard}"
username = "admin"
password_file = "{home}/defguard-password"
instance = "{name}"

[synapse]
url = "{synapse}"
token_file = "{home}/synapse-token"
# One after the other, so that the journal has one order.
concurrency = 1

[templates]
localpart_template = "{{{{ user.preferred_username.lower() }}}}"
display_name_template = "{{{{ user.given_name }}}} {{{{ user.family_name }}}}"

[schedule]
jitter = "0s"
catch_up = false

[state]
directory = "{home}/state"

[control]
socket = "{home}/control.sock"

[monitoring]
listen = "off"
{more}"#
        );
        self.write("config.toml", &text);
    }

    fn config(&self) -> PathBuf {
        self.home.path().join("config.toml")
    }

    fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.arg("--config").arg(self.config()).args(arguments);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments), "").await
    }

    /// Text without what is another each time: times, numbers of seconds, the directory of this world.
    fn steady(&self, text: &str) -> String {
        let mut text = text.replace(&self.home.path().display().to_string(), "HOME");
        for (what, instead) in [
            (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "<time>"),
            (r"\(\d+\.\d s\)", "(<time>)"),
            (r"127\.0\.0\.1:\d+", "<address>"),
        ] {
            text = Regex::new(what).unwrap().replace_all(&text, instead).into_owned();
        }
        text
    }

    /// Starts the daemon and waits until it is up.
    async fn daemon(&self) -> Daemon {
        let command = self.command(&["run"]);
        tokio::task::spawn_blocking(move || Daemon::start(command)).await.unwrap()
    }
}

/// A running daemon. It ends when this is dropped.
struct Daemon {
    child: Child,
    log: Option<std::thread::JoinHandle<String>>,
}

impl Daemon {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        loop {
            let Some(line) = lines.next() else { panic!("the daemon ended:\n{seen}") };
            seen.push_str(&line.unwrap());
            seen.push('\n');
            if seen.contains("the daemon is up") {
                break;
            }
        }
        let log = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                seen.push_str(&line);
                seen.push('\n');
            }
            seen
        });
        Self { child, log: Some(log) }
    }

    /// Asks it to end, waits until it has, and gives its log.
    async fn end(mut self) -> (i32, String) {
        tokio::task::spawn_blocking(move || {
            let pid = self.child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            let code = self.child.wait().unwrap().code().unwrap_or(-1);
            (code, self.log.take().unwrap().join().unwrap())
        })
        .await
        .unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The keys of a JSON object.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Whether a file is there.
fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}
