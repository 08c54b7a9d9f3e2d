//! What the daemon tells systemd, on a real notify socket.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use http::Method;
use regex::Regex;
use serde_json::json;

use crate::{
    World, exists,
    support::{
        defguard::NewPerson,
        proxy::{Proxy, on},
    },
};

/// Nothing here takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// The end of the socket that is systemd's, and what came out of it.
pub struct Systemd {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Systemd {
    pub fn listen(world: &World) -> Self {
        let socket = UnixDatagram::bind(world.home.path().join("notify")).unwrap();
        Self { socket, heard: Vec::new() }
    }

    /// The next message, if it comes in time.
    fn next(&mut self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
        self.heard.push(message.clone());
        Some(message)
    }

    /// Waits for a message that has a line beginning so, and gives the message.
    #[track_caller]
    pub fn wait(&mut self, line: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            let Some(message) = self.next(left) else { break };
            if message.lines().any(|found| found.starts_with(line)) {
                return message;
            }
        }
        panic!("{line} never came, but {:#?}", self.heard);
    }

    /// Everything that is there by now.
    fn drain(&mut self) {
        while self.next(Duration::from_millis(1)).is_some() {}
    }

    fn has(&self, line: &str) -> bool {
        self.heard.iter().any(|message| message.lines().any(|found| found.starts_with(line)))
    }
}

/// A daemon that may not even be up. It ends when this is dropped.
struct Running(Child);

impl Running {
    fn start(world: &World, mut command: Command, watchdog: Duration) -> Self {
        let log = fs::File::create(world.home.path().join("log")).unwrap();
        command
            .env("NOTIFY_SOCKET", world.home.path().join("notify"))
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Self(command.spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    fn end(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log(world: &World) -> String {
    fs::read_to_string(world.home.path().join("log")).unwrap()
}

/// Does what blocks while this runtime goes on serving.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

impl World {
    fn replace(&self, old: &str, new: &str) {
        let config = fs::read_to_string(self.config()).unwrap();
        assert!(config.contains(old), "{config}");
        fs::write(self.config(), config.replace(old, new)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unprivileged_daemon_is_ready_says_how_it_is_is_alive_reloads_and_stops() {
    let world = World::new("sd").await;
    world.defguard.add_person(NewPerson::named("sd-ann"));
    world.replace("catch_up = false", "catch_up = true\nsync = \"0 0 1 1 *\"");
    let mut systemd = Systemd::listen(&world);
    let daemon = Running::start(&world, world.unprivileged(&["run"]), Duration::from_secs(1));
    let (mut systemd, ready) = blocking(move || {
        let ready = systemd.wait("READY=1");
        (systemd, ready)
    })
    .await;
    assert!(exists(&world.home.path().join("control.sock")));
    assert!(ready.contains("STATUS=up"), "{ready}");
    // What a request may honestly take is more than this watchdog has patience for.
    assert!(systemd.has("WATCHDOG_USEC=240000000"), "{:#?}", systemd.heard);

    let (mut systemd, status) = blocking(move || {
        let status = systemd.wait("STATUS=last sync");
        systemd.wait("WATCHDOG=1");
        systemd.wait("WATCHDOG=1");
        (systemd, status)
    })
    .await;
    let wanted =
        Regex::new(r"^STATUS=last sync \d\d:\d\d:\d\d ok, 1 changed, next (\d{4}-\d\d-\d\d )?\d\d:\d\d\n$")
            .unwrap();
    assert!(wanted.is_match(&status), "{status}");

    systemd.heard.clear();
    daemon.signal("HUP");
    let (mut systemd, reloading) = blocking(move || {
        let reloading = systemd.wait("RELOADING=1");
        systemd.wait("READY=1");
        (systemd, reloading)
    })
    .await;
    assert!(Regex::new(r"(?m)^MONOTONIC_USEC=\d+$").unwrap().is_match(&reloading), "{reloading}");

    daemon.signal("TERM");
    let code = blocking(move || {
        systemd.wait("STOPPING=1");
        daemon.end()
    })
    .await;
    assert_eq!(code, Some(0), "{}", log(&world));
    assert!(!exists(&world.home.path().join("control.sock")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_not_ready_before_both_servers_were_tried() {
    let world = World::new("tried").await;
    let proxy = Proxy::start(&world.synapse.url()).await;
    world.configure_for(world.defguard.url().as_str(), &proxy.url(), "");
    let mut held = proxy.hold_before(on(Method::GET, "/"));
    let mut systemd = Systemd::listen(&world);
    let daemon = Running::start(&world, world.command(&["run"]), Duration::from_secs(600));
    held.reached().await;
    systemd.drain();
    assert!(!systemd.has("READY=1"), "{:#?}", systemd.heard);
    // It can be asked already.
    assert!(world.run(&["status"]).await.ends_with(0).out.contains("The daemon has been up"));
    held.release();
    blocking(move || systemd.wait("READY=1")).await;
    assert!(world.defguard.count("GET", "/api/v1/me") > 0);
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_cannot_be_used_are_logged_and_keep_nobody_from_being_ready() {
    let world = World::new("unusable").await;
    world.write("defguard-password", "wrong");
    world.write("synapse-token", "syt_wrong");
    let mut systemd = Systemd::listen(&world);
    let daemon = Running::start(&world, world.command(&["run"]), Duration::from_secs(600));
    blocking(move || systemd.wait("READY=1")).await;
    let log = log(&world);
    assert_eq!(log.matches("a server cannot be used yet").count(), 2, "{log}");
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_config_is_refused_at_a_reload_and_a_good_one_counts_from_then_on() {
    let world = World::new("reload").await;
    for who in ["reload-ann", "reload-bob"] {
        world.defguard.add_person(NewPerson::named(who));
    }
    world.configure("[scope]\nexclude_users = [\"reload-*\"]\n");
    let mut systemd = Systemd::listen(&world);
    let daemon = Running::start(&world, world.command(&["run"]), Duration::from_secs(600));
    let mut systemd = blocking(move || {
        systemd.wait("READY=1");
        systemd
    })
    .await;
    let created = |report: serde_json::Value| {
        report["people"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|person| person["state"] == json!("create"))
            .count()
    };
    assert_eq!(created(world.run(&["sync", "--json"]).await.ends_with(0).json()), 0);

    world.replace("exclude_users = [\"reload-*\"]", "exclude_user = [\"reload-bob\"]");
    daemon.signal("HUP");
    let (mut systemd, ready) = blocking(move || {
        systemd.wait("RELOADING=1");
        let ready = systemd.wait("READY=1");
        (systemd, ready)
    })
    .await;
    assert!(ready.contains("STATUS=the new config cannot be used"), "{ready}");
    assert!(log(&world).contains("there is no such key"), "{}", log(&world));
    assert_eq!(created(world.run(&["sync", "--json"]).await.ends_with(0).json()), 0);

    world.replace("exclude_user = ", "exclude_users = ");
    world.replace("/state\"", "/elsewhere\"");
    daemon.signal("HUP");
    blocking(move || {
        systemd.wait("RELOADING=1");
        systemd.wait("READY=1");
    })
    .await;
    assert!(log(&world).contains("state.directory"), "{}", log(&world));
    assert_eq!(created(world.run(&["sync", "--json"]).await.ends_with(0).json()), 1);
    // It goes on in the store that it began with.
    assert!(!exists(&world.home.path().join("elsewhere")));
    daemon.signal("TERM");
    assert_eq!(blocking(move || daemon.end()).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_gets_stuck_is_no_sign_of_life_and_a_second_signal_ends_it() {
    let world = World::new("stuck").await;
    world.defguard.add_person(NewPerson::named("stuck-ann"));
    let proxy = Proxy::start(&world.synapse.url()).await;
    world.configure_for(world.defguard.url().as_str(), &proxy.url(), "");
    let mut systemd = Systemd::listen(&world);
    let daemon = Running::start(&world, world.command(&["run"]), Duration::from_millis(200));
    let mut systemd = blocking(move || {
        systemd.wait("READY=1");
        systemd.wait("WATCHDOG=1");
        systemd
    })
    .await;
    let mut held = proxy.hold_before(on(Method::PUT, "stuck-ann"));
    world.run(&["sync", "--no-wait"]).await.ends_with(0);
    held.reached().await;
    let systemd = blocking(move || {
        systemd.drain();
        systemd.heard.clear();
        // Five times the time after which an idle worker would have shown itself.
        systemd.next(Duration::from_millis(500));
        systemd
    })
    .await;
    assert!(!systemd.has("WATCHDOG=1"), "{:#?}", systemd.heard);
    daemon.signal("TERM");
    let code = blocking(move || {
        let mut systemd = systemd;
        systemd.wait("STOPPING=1");
        daemon.signal("TERM");
        daemon.end()
    })
    .await;
    assert_eq!(code, Some(1), "{}", log(&world));
    assert!(log(&world).contains("ending at once"), "{}", log(&world));
}
