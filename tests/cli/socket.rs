//! The verbs while the daemon runs, and its control socket.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        net::UnixListener,
    },
    process::{self, Stdio},
    time::Duration,
};

use defguard_synapse_sync::{
    command::{Answer, Command},
    engine::{Progress, RunRequest, Stage},
    reconcile::Pass,
    serve::control::ask,
};
use insta::assert_snapshot;
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    PROGRAM, World, exists, finish,
    support::{
        defguard::NewPerson,
        proxy::{Proxy, on},
    },
    unprivileged::is_root,
};

#[tokio::test]
async fn the_verbs_go_through_the_daemon_which_holds_the_store() {
    let world = World::new("sock").await;
    world.defguard.add_person(NewPerson::named("sock-ann"));
    world.synapse.put_account("sock-bob", &json!({})).await;
    world.defguard.add_person(NewPerson::named("sock-bob"));
    let daemon = world.daemon().await;
    let socket = world.home.path().join("control.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);

    assert!(world.run(&["plan"]).await.ends_with(0).out.contains("create the account"));
    let report = world.run(&["sync", "--json"]).await.ends_with(0).json();
    assert_eq!(report["run"], 1);
    world.run(&["sync", "sock-nobody"]).await.ends_with(3);
    assert!(world.run(&["explain", "sock-ann"]).await.ends_with(0).out.contains("all is in step"));
    assert_eq!(world.run(&["explain", "sock-nobody"]).await.code, 1);
    let status = world.run(&["status"]).await.ends_with(0);
    assert!(status.out.starts_with("The daemon has been up since"), "{status:?}");
    assert_snapshot!("status_of_a_daemon", world.steady(&status.out));
    world.run(&["link", "sock-bob", "@sock-bob:sync.test", "--yes"]).await.ends_with(0);
    assert!(world.run(&["journal", "sock-bob"]).await.ends_with(0).out.contains("by hand"));
    let check = world.run(&["check"]).await.ends_with(0);
    assert!(check.out.contains("ok       daemon     up since"), "{check:?}");

    // A second daemon is refused, whatever is said about the socket.
    let second = world.run(&["run"]).await.ends_with(1);
    assert!(second.err.contains("another process holds the store"), "{second:?}");

    let (code, log) = daemon.end().await;
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("sync done"), "{log}");
    for personal in ["sock-ann Person", "sock-ann@example.com", "Person"] {
        assert!(!log.contains(personal), "{personal} is in the log:\n{log}");
    }
    assert!(!exists(&socket));
    // Without it, the same store is opened here.
    let status = world.run(&["status"]).await.ends_with(0);
    assert!(status.out.starts_with("No daemon is running.\n2 people linked"), "{status:?}");
}

#[tokio::test]
async fn a_socket_that_a_killed_daemon_left_is_replaced() {
    let world = World::new("stale").await;
    drop(world.daemon().await);
    assert!(exists(&world.home.path().join("control.sock")));
    world.run(&["status"]).await.ends_with(0);
    let daemon = world.daemon().await;
    world.run(&["status"]).await.ends_with(0);
    assert_eq!(daemon.end().await.0, 0);
}

#[tokio::test]
async fn a_user_without_rights_on_the_socket_is_told_so() {
    let world = World::new("rights").await;
    let daemon = world.daemon().await;
    fs::set_permissions(world.home.path().join("control.sock"), fs::Permissions::from_mode(0o000)).unwrap();
    // Nothing is forbidden to root: somebody else has to try.
    let command = if is_root() { world.stranger(&["status"]) } else { world.command(&["status"]) };
    let shown = finish(command, "").await.ends_with(1);
    assert!(shown.err.contains("this user may not use the socket"), "{shown:?}");
    assert!(shown.err.contains("→ run this as root or as the service's user"), "{shown:?}");
    drop(daemon);
}

#[tokio::test]
async fn root_does_not_open_the_store_of_another_user() {
    if !is_root() {
        // Nobody else can open it anyhow.
        return;
    }
    let world = World::new("owner").await;
    world.run(&["sync"]).await.ends_with(0);
    chown(world.state().join("store.lock"), Some(65534), None).unwrap();
    let shown = world.run(&["status"]).await.ends_with(1);
    assert!(shown.err.contains("the user with the number 65534"), "{shown:?}");
    assert!(shown.err.contains("setpriv --reuid=65534"), "{shown:?}");
}

#[tokio::test]
async fn check_warns_of_a_socket_in_a_directory_where_others_can_write() {
    let world = World::new("wide").await;
    fs::set_permissions(world.home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let shown = world.run(&["check"]).await.ends_with(0);
    assert!(shown.out.contains("WARNING  socket") && shown.out.contains("mode 777"), "{shown:?}");
}

impl World {
    /// A verb as a user who has nothing to do with the service. They can read the config, and no secret.
    fn stranger(&self, arguments: &[&str]) -> process::Command {
        fs::set_permissions(self.config(), fs::Permissions::from_mode(0o644)).unwrap();
        self.as_user(STRANGER, STRANGER, arguments)
    }
}

/// A user and a group that nothing belongs to.
const STRANGER: u32 = 60_606;

#[tokio::test]
async fn who_may_ask_is_decided_by_who_they_are_and_not_only_by_the_mode_of_the_socket() {
    if !is_root() {
        // Nobody else can be somebody else.
        return;
    }
    let world = World::new("peer").await;
    // Files that are made here get the group of the directory, as a socket for admins can.
    chown(world.home.path(), None, Some(4_711)).unwrap();
    fs::set_permissions(world.home.path(), fs::Permissions::from_mode(0o2755)).unwrap();
    let daemon = world.daemon().await;
    let socket = world.home.path().join("control.sock");
    let made = fs::metadata(&socket).unwrap();
    assert_eq!((made.permissions().mode() & 0o777, made.uid(), made.gid()), (0o660, 0, 4_711));
    // Members of the group need nothing else: no secret, no store.
    fs::set_permissions(world.config(), fs::Permissions::from_mode(0o644)).unwrap();
    let member = world.as_user(STRANGER, 4_711, &["sync", "--json"]);
    assert_eq!(finish(member, "").await.ends_with(0).json()["run"], 1);
    // Somebody opened the socket to everybody.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let shown = finish(world.stranger(&["status"]), "").await.ends_with(1);
    assert!(shown.err.contains("neither root nor the service's user nor a member"), "{shown:?}");
    assert!(
        shown.err.contains("→ run this as root or as the service's user, or join its group"),
        "{shown:?}"
    );
    let (_, log) = daemon.end().await;
    assert!(log.contains("without the right to it") && log.contains("uid=60606"), "{log}");
}

#[tokio::test]
async fn the_socket_has_its_mode_whatever_the_umask_is() {
    let world = World::new("umask").await;
    for umask in ["000", "077", "177"] {
        let mut command = process::Command::new("sh");
        command.args(["-ec", "umask \"$1\"; shift; exec \"$@\"", "sh", umask, PROGRAM, "--config"]);
        command.arg(world.config()).arg("run");
        let daemon = tokio::task::spawn_blocking(|| crate::Daemon::start(command)).await.unwrap();
        let mode = fs::metadata(world.home.path().join("control.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660, "with the umask {umask}");
        assert_eq!(daemon.end().await.0, 0);
    }
}

#[tokio::test]
async fn whoever_only_asks_the_daemon_needs_no_secret_and_no_config_in_order() {
    let world = World::new("noread").await;
    world.defguard.add_person(NewPerson::named("noread-ann"));
    let daemon = world.daemon().await;
    fs::remove_file(world.home.path().join("synapse-token")).unwrap();
    fs::remove_file(world.home.path().join("defguard-password")).unwrap();
    let config = fs::read_to_string(world.config()).unwrap();
    fs::write(world.config(), config.replace("instance =", "instanz =")).unwrap();
    for verb in
        [&["sync", "noread-ann"][..], &["status"], &["plan"], &["explain", "noread-ann"], &["journal"]]
    {
        let shown = world.run(verb).await.ends_with(0);
        assert_eq!(shown.err, "", "{verb:?}");
    }
    assert_eq!(daemon.end().await.0, 0);
    // Without it, everything is needed, and what is missing is said.
    let shown = world.run(&["status"]).await.ends_with(2);
    assert!(shown.err.contains("synapse-token") && shown.err.contains("instanz"), "{shown:?}");
}

#[tokio::test]
async fn a_sync_that_nobody_waits_for_is_queued_once_and_done() {
    let world = World::new("nowait").await;
    world.defguard.add_person(NewPerson::named("nowait-ann"));
    let proxy = Proxy::start(&world.synapse.url()).await;
    world.configure_for(world.defguard.url().as_str(), &proxy.url(), "");
    let shown = world.run(&["sync", "--no-wait"]).await.ends_with(1);
    assert!(shown.err.contains("no daemon is running"), "{shown:?}");
    let daemon = world.daemon().await;
    let mut held = proxy.hold_before(on(http::Method::PUT, "nowait-ann"));
    world.run(&["sync", "--wait", "--no-wait"]).await.ends_with(0);
    held.reached().await;
    // However often it is asked for meanwhile.
    for _ in 0..3 {
        assert!(world.run(&["sync", "--no-wait"]).await.ends_with(0).out.contains("has taken it on"));
    }
    held.release();
    // Of its own, behind the one that waits already.
    let report = world.run(&["sync", "nowait-ann", "--json"]).await.ends_with(0).json();
    assert_eq!(report["run"], 3);
    let status = world.run(&["status", "--json"]).await.ends_with(0).json();
    assert_eq!(status["runs"].as_array().unwrap().len(), 3);
    drop(daemon);
}

#[tokio::test]
async fn a_daemon_of_another_version_is_explained() {
    let world = World::new("version").await;
    let listener = UnixListener::bind(world.home.path().join("control.sock")).unwrap();
    let answer = "HTTP/1.1 422 Unprocessable Entity\r\nserver: defguard-synapse-sync/9.9.9\r\ncontent-length: 7\r\n\r\nno such";
    let old = std::thread::spawn(move || {
        // The first connection only looks whether somebody is there.
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).unwrap() > 0 {
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    let shown = world.run(&["status"]).await.ends_with(1);
    assert!(shown.err.contains("the daemon is defguard-synapse-sync/9.9.9"), "{shown:?}");
    old.join().unwrap();
}

#[tokio::test]
async fn an_asker_who_goes_away_does_not_stop_the_run() {
    let world = World::new("away").await;
    world.defguard.add_person(NewPerson::named("away-ann"));
    let proxy = Proxy::start(&world.synapse.url()).await;
    world.configure_for(world.defguard.url().as_str(), &proxy.url(), "");
    let daemon = world.daemon().await;
    let mut held = proxy.hold_before(on(http::Method::PUT, "away-ann"));
    let asker = world.command(&["sync"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    held.reached().await;
    let pid = asker.id().to_string();
    assert!(process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let gone = tokio::task::spawn_blocking(|| asker.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(gone.status.code(), Some(1));
    let said = String::from_utf8(gone.stderr).unwrap();
    assert!(said.contains("the daemon goes on with it") && said.contains("`status`"), "{said}");
    held.release();
    // Waits for its turn behind the run that is going on.
    let report = world.run(&["sync", "--json"]).await.ends_with(0).json();
    assert_eq!(report["run"], 2);
    let journal = world.run(&["journal", "--json"]).await.ends_with(0).json();
    assert_eq!((&journal[0]["run"], &journal[0]["change"]["kind"]), (&json!(1), &json!("created")));
    drop(daemon);
}

/// Keeps what an asker is told.
struct Told(mpsc::UnboundedSender<Heard>);

#[derive(Debug, PartialEq)]
enum Heard {
    Taken,
    Waiting,
    Stage(Stage),
    Step(usize, usize),
}

impl Progress for Told {
    fn taken(&self) {
        self.0.send(Heard::Taken).unwrap();
    }

    fn waiting(&self) {
        self.0.send(Heard::Waiting).unwrap();
    }

    fn stage(&self, stage: Stage) {
        self.0.send(Heard::Stage(stage)).unwrap();
    }

    fn step(&self, done: usize, total: usize) {
        self.0.send(Heard::Step(done, total)).unwrap();
    }
}

#[tokio::test]
async fn whoever_asks_during_a_run_is_told_to_wait_then_how_far_it_is_and_then_the_outcome() {
    let world = World::new("told").await;
    world.defguard.add_person(NewPerson::named("told-ann"));
    let proxy = Proxy::start(&world.synapse.url()).await;
    world.configure_for(world.defguard.url().as_str(), &proxy.url(), "");
    let daemon = world.daemon().await;
    let socket = world.home.path().join("control.sock");
    let request = Command::Sync(RunRequest::everybody(Pass::Frequent));
    let ask = || {
        let (told, heard) = mpsc::unbounded_channel();
        let (socket, request) = (socket.clone(), request.clone());
        let answer = tokio::spawn(async move { ask(&socket, &request, &Told(told)).await });
        (answer, heard)
    };
    let mut held = proxy.hold_before(on(http::Method::PUT, "told-ann"));
    let (first, mut first_heard) = ask();
    held.reached().await;
    let (second, mut second_heard) = ask();
    for wanted in [Heard::Taken, Heard::Waiting] {
        let wait = tokio::time::timeout(Duration::from_secs(60), second_heard.recv()).await;
        assert_eq!(wait.unwrap(), Some(wanted));
    }
    held.release();
    // Of the run that is waited for, too.
    assert_eq!(second_heard.recv().await, Some(Heard::Step(1, 1)));
    let run = [Heard::Taken, Heard::Stage(Stage::Reading), Heard::Stage(Stage::Writing), Heard::Step(1, 1)];
    for wanted in run {
        assert_eq!(first_heard.recv().await, Some(wanted), "nobody had to wait");
    }
    for (answer, run, done) in [(first, 1, 1), (second, 2, 0)] {
        let Some(Answer::Run(report)) = answer.await.unwrap().unwrap() else { panic!("no report") };
        assert_eq!(report.run.unwrap().0, run);
        assert_eq!(report.people.iter().flat_map(|person| &person.done).count(), done, "{report:#?}");
    }
    drop(daemon);
}

#[tokio::test]
async fn a_log_in_json_has_one_object_a_line() {
    let world = World::new("logs").await;
    world.configure("[log]\nformat = \"json\"\nlevel = \"debug\"\n");
    let daemon = world.daemon().await;
    world.run(&["sync"]).await.ends_with(0);
    let (code, log) = daemon.end().await;
    assert_eq!(code, 0);
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(line["level"].is_string());
    }
}
