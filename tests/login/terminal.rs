//! `setup oidc` on a terminal, which `script` (of every Debian) plays: it asks for what it does not know.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use crate::support::defguard::{ADMIN_PASSWORD, StandIn};

/// The longest that a question may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the program on a terminal and answers its questions, each when it comes. What stood on the terminal and the exit
/// code are given back.
fn talk(home: &Path, arguments: &str, answers: &[(&str, &str)]) -> (String, i32) {
    let program = env!("CARGO_BIN_EXE_defguard-synapse-sync");
    let line = format!("{program} --config {}/config.toml {arguments}", home.display());
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("COLUMNS", "200")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut part = [0; 1024];
        while let Ok(length) = screen.read(&mut part)
            && length > 0
        {
            let _ = sender.send(String::from_utf8_lossy(&part[..length]).into_owned());
        }
    });
    let mut shown = String::new();
    let mut seen = 0;
    for (question, answer) in answers {
        while !shown[seen..].contains(question) {
            let part = receiver.recv_timeout(PATIENCE);
            shown.push_str(&part.unwrap_or_else(|_| panic!("no {question:?} in:\n{shown}")));
        }
        seen = shown.len();
        keys.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    while let Ok(part) = receiver.recv_timeout(PATIENCE) {
        shown.push_str(&part);
    }
    let code = child.wait().unwrap().code().unwrap_or(-1);
    (shown.replace('\r', ""), code)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_everything_is_asked_for_and_the_password_is_not_shown() {
    let defguard = StandIn::start().await;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_owned();
    fs::create_dir(path.join("conf.d")).unwrap();
    fs::write(path.join("homeserver.yaml"), "server_name: example.org\n").unwrap();
    let url = defguard.url().to_string();
    let files = format!("{0}/homeserver.yaml {0}/conf.d", path.display());
    let (shown, code) = tokio::task::spawn_blocking(move || {
        talk(
            &path,
            "setup oidc",
            &[
                ("Defguard's web page:", &url),
                ("logs in as:", "admin"),
                ("Password of admin", ADMIN_PASSWORD),
                ("Synapse's config", &files),
                ("[http://127.0.0.1:8008]:", ""),
                ("Do it? [y/N]", "y"),
            ],
        )
    })
    .await
    .unwrap();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("What would be done:") && shown.contains("Done:"), "{shown}");
    assert!(!shown.contains(ADMIN_PASSWORD), "{shown}");
    assert_eq!(defguard.apps().len(), 1);
    let password = home.path().join("defguard-password");
    assert_eq!(fs::read_to_string(&password).unwrap().trim_end(), ADMIN_PASSWORD);
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&password).unwrap().permissions()) & 0o777,
        0o600
    );
    assert!(home.path().join("conf.d/defguard-oidc.yaml").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_say_yes_changes_nothing() {
    let defguard = StandIn::start().await;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_owned();
    fs::write(path.join("homeserver.yaml"), "server_name: example.org\n").unwrap();
    fs::write(path.join("defguard-password"), ADMIN_PASSWORD).unwrap();
    let arguments = format!(
        "setup oidc --defguard-url {} --defguard-username admin --homeserver-config {}/homeserver.yaml --synapse-url \
         http://127.0.0.1:8008",
        defguard.url(),
        path.display()
    );
    let (shown, code) =
        tokio::task::spawn_blocking(move || talk(&path, &arguments, &[("Do it? [y/N]", "")])).await.unwrap();
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("nothing was changed"), "{shown}");
    assert!(defguard.apps().is_empty());
    assert!(!home.path().join("config.toml").exists());
}
