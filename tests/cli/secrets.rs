//! No secret is ever printed, whatever is asked to be logged.

use reqwest::Method;
use serde_json::json;

use crate::{
    Output, World, finish,
    support::defguard::{ADMIN_PASSWORD, NewPerson},
};

impl World {
    async fn traced(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.env("RUST_LOG", "trace");
        finish(command, "").await
    }

    /// Whatever would let somebody in.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = vec![ADMIN_PASSWORD.to_owned(), self.synapse.admin_token().to_owned()];
        secrets.extend(self.defguard.state().sessions.keys().cloned());
        secrets
    }
}

fn search(secrets: &[String], what: &str, text: &str) {
    for secret in secrets {
        if let Some(at) = text.find(secret.as_str()) {
            let line = text[..at].rsplit('\n').next().unwrap_or_default();
            panic!("{what} printed a secret, in the line that begins with {line:?}");
        }
    }
}

#[tokio::test]
async fn no_secret_is_printed_by_any_verb_at_the_level_trace() {
    let world = World::new("mark").await;
    world.defguard.add_person(NewPerson::named("mark-ann"));
    let token = "marked-webhook-token-0123456789";
    let file = world.write("webhook-token", token);
    let path = "/_matrix/client/v3/createRoom";
    let made =
        world.synapse.call(Method::POST, path, Some(world.synapse.admin_token()), Some(&json!({}))).await;
    let room = made.body["room_id"].as_str().unwrap();
    world.configure(&format!(
        "\n[webhook]\nlisten = \"127.0.0.1:9118\"\ntoken_file = {file:?}\n[notices]\nroom = {room:?}\n"
    ));
    for arguments in [&["setup", "webhook"][..], &["setup", "webhook"]] {
        let shown = world.traced(arguments).await.ends_with(0);
        search(&[token.to_owned()], "setup webhook", &format!("{}{}", shown.out, shown.err));
    }
    for arguments in [&["check"][..], &["sync"], &["sync", "--full"], &["explain", "mark-ann"], &["status"]] {
        let shown = world.traced(arguments).await.ends_with(0);
        assert!(shown.err.contains("TRACE"), "{arguments:?} traced nothing");
        search(&world.secrets(), &arguments.join(" "), &format!("{}{}", shown.out, shown.err));
    }
}

#[tokio::test]
async fn no_secret_is_in_the_log_of_a_daemon_at_the_level_trace() {
    let world = World::new("markd").await;
    world.defguard.add_person(NewPerson::named("markd-ann"));
    let mut command = world.command(&["run"]);
    command.env("RUST_LOG", "trace");
    let daemon = tokio::task::spawn_blocking(|| crate::Daemon::start(command)).await.unwrap();
    world.run(&["sync"]).await.ends_with(0);
    let secrets = world.secrets();
    assert!(secrets.len() > 2, "nobody has logged in to Defguard");
    let (_, log) = daemon.end().await;
    assert!(log.contains("TRACE"));
    search(&secrets, "run", &log);
}

#[tokio::test]
async fn no_secret_is_printed_when_a_server_refuses_it() {
    let world = World::new("markw").await;
    world.write("defguard-password", "marked-wrong-password");
    world.write("synapse-token", "syt_marked_wrong_token");
    let secrets = ["marked-wrong-password".to_owned(), "syt_marked_wrong_token".to_owned()];
    for arguments in [&["check"][..], &["sync"], &["plan", "--json"]] {
        let shown = world.traced(arguments).await.ends_with(5);
        search(&secrets, &arguments.join(" "), &format!("{}{}", shown.out, shown.err));
    }
}
