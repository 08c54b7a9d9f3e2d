//! The verbs while the daemon runs, and its control socket.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        net::UnixListener,
        process::CommandExt as _,
    },
    process::{self, Stdio},
    time::Duration,
};

use defguard_synapse_sync::{
    command::{Answer, Command},
    engine::{Progress, RunRequest},
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
    let mut command = world.command(&["status"]);
    if is_root() {
        // Nothing is forbidden to root: somebody else has to try.
        let copy = world.home.path().join("program");
        fs::copy(PROGRAM, &copy).unwrap();
        for (path, mode) in [
            (world.home.path().to_owned(), 0o755),
            (copy.clone(), 0o755),
            (world.config(), 0o644),
            (world.home.path().join("defguard-password"), 0o644),
            (world.home.path().join("synapse-token"), 0o644),
        ] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        command = process::Command::new(copy);
        command.arg("--config").arg(world.config()).arg("status").uid(65534).gid(65534);
    }
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

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
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
struct Told(mpsc::UnboundedSender<Option<(usize, usize)>>);

impl Progress for Told {
    fn waiting(&self) {
        self.0.send(None).unwrap();
    }

    fn step(&self, done: usize, total: usize) {
        self.0.send(Some((done, total))).unwrap();
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
    let wait = tokio::time::timeout(Duration::from_secs(60), second_heard.recv()).await;
    assert_eq!(wait.unwrap(), Some(None));
    held.release();
    // Of the run that is waited for, too.
    assert_eq!(second_heard.recv().await, Some(Some((1, 1))));
    assert_eq!(first_heard.recv().await, Some(Some((1, 1))), "nobody had to wait");
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
