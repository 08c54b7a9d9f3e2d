//! A Defguard and a Synapse that `setup oidc` tied together, for all tests of logins; each has people, a config and a
//! state of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;
use tokio::{
    runtime::Runtime,
    sync::{Mutex, MutexGuard, OnceCell},
};

use crate::support::{
    browser::{Browser, Outcome},
    defguard::{ADMIN_PASSWORD, NewPerson, StandIn},
    synapse::{Options, Synapse},
};

/// The password of everybody here.
pub const PASSWORD: &str = "Login-pass123!";

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_defguard-synapse-sync");

/// What one use of the program gave.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Output {
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }

    /// Standard output, which must be one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the program to its end while this runtime goes on serving. Its files are all below `home`.
pub async fn run(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DEFGUARD_SYNAPSE_SYNC_") {
            command.env_remove(name);
        }
    }
    command
        .env("STATE_DIRECTORY", home.join("state"))
        .env("RUNTIME_DIRECTORY", home)
        .env_remove("RUST_LOG")
        .env_remove("CREDENTIALS_DIRECTORY")
        .arg("--config")
        .arg(home.join("config.toml"))
        .args(arguments)
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Writes a file that only its owner reads.
pub fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

pub struct House {
    pub defguard: StandIn,
    pub synapse: Synapse,
    /// In Synapse's own directory, which goes with it.
    home: PathBuf,
}

impl House {
    /// Both servers, tied together by `setup oidc` and nothing else.
    async fn new() -> Self {
        let defguard = StandIn::start().await;
        defguard.serve_logins();
        let options =
            Options { server_name: "login.test".to_owned(), oidc_provider: None, ..Options::default() };
        let synapse = Synapse::start(options).await.unwrap();
        let home = synapse.config_file().parent().unwrap().join("service");
        fs::create_dir(&home).unwrap();
        secret(&home.join("defguard-password"), ADMIN_PASSWORD);
        secret(&home.join("synapse-token"), synapse.admin_token());
        run(&home, &texts(&oidc_arguments(&defguard, &synapse))).await.ends_with(0);
        synapse.start_again().await.unwrap();
        Self { defguard, synapse, home }
    }
}

/// Arguments as the program takes them.
pub fn texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// `setup oidc` for two servers, without a question.
pub fn oidc_arguments(defguard: &StandIn, synapse: &Synapse) -> Vec<String> {
    let path = |path: PathBuf| path.display().to_string();
    [
        "setup",
        "oidc",
        "--yes",
        "--defguard-url",
        defguard.url().as_str(),
        "--defguard-username",
        "admin",
        "--homeserver-config",
        &path(synapse.config_file()),
        "--homeserver-config",
        &path(synapse.config_directory()),
        "--synapse-url",
        &synapse.url(),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// One test's part of the house, which it has for itself until it is dropped.
pub struct Room {
    house: MutexGuard<'static, House>,
    name: &'static str,
    home: tempfile::TempDir,
    policy: String,
}

impl Room {
    /// People of the test are in a group of its name, and nobody else is in the scope of its config.
    pub async fn new(name: &'static str) -> Self {
        static HOUSE: OnceCell<Mutex<House>> = OnceCell::const_new();
        // Its servers live longer than the runtime of any test.
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        let build = || async {
            let runtime = RUNTIME.get_or_init(|| Runtime::new().unwrap());
            Mutex::new(runtime.spawn(House::new()).await.unwrap())
        };
        let house = HOUSE.get_or_init(build).await.lock().await;
        let home = tempfile::Builder::new().prefix("room-").tempdir().unwrap();
        let room = Self { house, name, home, policy: "report".to_owned() };
        room.configure();
        room
    }

    pub async fn with_policy(name: &'static str, policy: &str) -> Self {
        let mut room = Self::new(name).await;
        policy.clone_into(&mut room.policy);
        room.configure();
        room
    }

    /// The config that `setup oidc` wrote, with a scope and an instance of this test.
    fn configure(&self) {
        let text = fs::read_to_string(self.house.home.join("config.toml")).unwrap();
        let text = text.replace("[defguard]\n", &format!("[defguard]\ninstance = \"{}\"\n", self.name));
        let more = format!(
            "[scope]\ninclude_groups = [\"{}\"]\n[accounts]\non_conflict = \"{}\"\n",
            self.name, self.policy
        );
        fs::write(self.home.path().join("config.toml"), format!("{text}\n{more}")).unwrap();
    }

    pub fn defguard(&self) -> &StandIn {
        &self.house.defguard
    }

    pub fn synapse(&self) -> &Synapse {
        &self.house.synapse
    }

    /// The name that somebody of this test really has.
    pub fn n(&self, who: &str) -> String {
        format!("{}.{who}", self.name)
    }

    pub fn mxid(&self, who: &str) -> String {
        self.synapse().mxid(&self.n(who))
    }

    /// Adds somebody, whose display name is to be `Who Of <test>`.
    pub fn add(&self, who: &str) -> i64 {
        let person =
            NewPerson::named(&self.n(who)).name(who, self.name).password(Some(PASSWORD)).groups(&[self.name]);
        self.defguard().add_person(person)
    }

    /// Adds somebody else with a username that somebody had before.
    pub fn add_other(&self, who: &str, email: &str) -> i64 {
        let person = NewPerson::named(&self.n(who))
            .name(who, self.name)
            .email(email)
            .password(Some(PASSWORD))
            .groups(&[self.name]);
        self.defguard().add_person(person)
    }

    pub async fn run(&self, arguments: &[&str]) -> Output {
        run(self.home.path(), arguments).await
    }

    /// A sync that ends well.
    pub async fn sync(&self) -> Value {
        self.run(&["--json", "sync"]).await.ends_with(0).json()
    }

    /// A sync whose held part is approved of, as an admin does who has looked at it.
    pub async fn sync_and_approve(&self) {
        let report = self.run(&["--json", "sync"]).await.ends_with(4).json();
        let digest = report["held"]["digest"].as_str().unwrap().to_owned();
        self.run(&["approve", &digest]).await.ends_with(0);
    }

    /// Lets nobody log in without an account, or everybody again, by `setup oidc` and a restart.
    pub async fn close_registration(&self, closed: bool) {
        let mut arguments = oidc_arguments(self.defguard(), self.synapse());
        arguments.push("--replace".to_owned());
        arguments.push(format!("--provisioned-only={closed}"));
        run(&self.house.home, &texts(&arguments)).await.ends_with(0);
        self.synapse().start_again().await.unwrap();
    }

    /// A login by a browser of its own.
    pub async fn log_in(&self, who: &str) -> Outcome {
        Browser::default().log_in(self.synapse(), "oidc-Defguard", &self.n(who), PASSWORD).await
    }

    /// The display name of an account, which must be there.
    pub async fn display_name(&self, mxid: &str) -> String {
        let localpart = mxid.trim_start_matches('@').split(':').next().unwrap();
        let reply = self.synapse().account(localpart).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body["displayname"].as_str().unwrap().to_owned()
    }

    /// The external ids of an account, as `provider:id`.
    pub async fn ids(&self, who: &str) -> Vec<String> {
        let reply = self.synapse().account(&self.n(who)).await;
        let mut ids: Vec<String> = reply.body["external_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| {
                format!("{}:{}", id["auth_provider"].as_str().unwrap(), id["external_id"].as_str().unwrap())
            })
            .collect();
        ids.sort();
        ids
    }

    /// All accounts of this test, by localpart without the test's name.
    pub async fn accounts(&self) -> Vec<String> {
        let prefix = format!("@{}.", self.name);
        let mut names: Vec<String> = self
            .synapse()
            .accounts()
            .await
            .iter()
            .filter_map(|account| account["name"].as_str().unwrap().strip_prefix(&prefix).map(str::to_owned))
            .map(|rest| rest.split(':').next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }
}
