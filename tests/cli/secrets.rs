//! No secret is ever printed, whatever is asked to be logged.

use reqwest::Method;
use serde_json::json;
use std::{fs, process::Command};

use crate::{
    Daemon, Output, World, finish,
    notify::Systemd,
    support::defguard::{ADMIN_PASSWORD, NewPerson},
};

/// In every secret of this test that no server gives out.
const MARK: &str = "kUZ7marked";

impl World {
    fn traced(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.env("RUST_LOG", "trace");
        command
    }

    async fn run_traced(&self, arguments: &[&str]) -> Output {
        finish(self.traced(arguments), "{\"sub\": \"x\"}").await
    }

    /// Whatever would let somebody in.
    fn secrets(&self) -> Vec<String> {
        let mut secrets =
            vec![MARK.to_owned(), ADMIN_PASSWORD.to_owned(), self.synapse.admin_token().to_owned()];
        secrets.extend(self.defguard.state().sessions.keys().cloned());
        secrets.extend(self.defguard.state().tokens.keys().cloned());
        secrets
    }

    /// Takes the templates from a homeserver.yaml that is full of secrets.
    fn with_homeserver_yaml(&self) {
        let yaml = self.write(
            "homeserver.yaml",
            &format!(
                r#"
server_name: sync.test
registration_shared_secret: {MARK}
macaroon_secret_key: "{MARK}"
form_secret: '{MARK}'
database: {{name: psycopg2, args: {{password: {MARK}}}}}
oidc_providers:
  - idp_id: Defguard
    client_secret: {MARK}
    scopes: [openid, profile, email]
    user_mapping_provider:
      config:
        localpart_template: "{{{{ user.preferred_username.lower() }}}}"
"#
            ),
        );
        let config = fs::read_to_string(self.config()).unwrap();
        let (before, rest) = config.split_once("[templates]").unwrap();
        let (_, after) = rest.split_once("[schedule]").unwrap();
        let config = format!("{before}homeserver_config = [{yaml:?}]\n[schedule]{after}");
        fs::write(self.config(), config).unwrap();
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

fn search_all(world: &World, arguments: &[&str], shown: &Output) {
    search(&world.secrets(), &arguments.join(" "), &format!("{}{}", shown.out, shown.err));
}

#[tokio::test]
async fn no_secret_is_printed_by_any_verb_at_the_level_trace() {
    let world = World::new("mark").await;
    world.with_homeserver_yaml();
    world.defguard.add_person(NewPerson::named("mark-ann"));
    world.synapse.put_account("mark-bob", &serde_json::json!({})).await;
    world.defguard.add_person(NewPerson::named("mark-bob").email(""));
    for arguments in [
        &["check"][..],
        &["plan"],
        &["sync"],
        &["sync", "--full", "--json"],
        &["explain", "mark-ann"],
        &["explain", "mark-bob", "--json"],
        &["link", "mark-bob", "@mark-bob:sync.test", "--yes"],
        &["unlink", "mark-bob", "--yes"],
        &["status"],
        &["journal", "--json"],
        &["check", "--log-format", "json"],
    ] {
        // The homeserver.yaml is made up, which `check` notices.
        let wanted = if arguments[0] == "check" { 5 } else { 0 };
        let shown = world.run_traced(arguments).await.ends_with(wanted);
        assert!(shown.err.contains("TRACE"), "{arguments:?} traced nothing: {shown:?}");
        search_all(&world, arguments, &shown);
    }
    let shown = world.run_traced(&["render"]).await.ends_with(0);
    search_all(&world, &["render"], &shown);
}

#[tokio::test]
async fn no_secret_is_printed_about_the_webhook_and_the_notices() {
    let world = World::new("markh").await;
    world.defguard.add_person(NewPerson::named("markh-ann"));
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
        let shown = world.run_traced(arguments).await.ends_with(0);
        search(&[token.to_owned()], "setup webhook", &format!("{}{}", shown.out, shown.err));
    }
    for arguments in [&["check"][..], &["sync"], &["explain", "markh-ann"], &["status"]] {
        let shown = world.run_traced(arguments).await.ends_with(0);
        search_all(&world, arguments, &shown);
        search(&[token.to_owned()], &arguments.join(" "), &format!("{}{}", shown.out, shown.err));
    }
}

#[tokio::test]
async fn no_secret_is_in_the_log_of_a_daemon_at_the_level_trace() {
    let world = World::new("markd").await;
    world.with_homeserver_yaml();
    world.defguard.add_person(NewPerson::named("markd-ann"));
    let mut systemd = Systemd::listen(&world);
    let mut command = world.traced(&["run"]);
    command.env("NOTIFY_SOCKET", world.home.path().join("notify"));
    let daemon = tokio::task::spawn_blocking(|| Daemon::start(command)).await.unwrap();
    world.run(&["sync"]).await.ends_with(0);
    // Reads everything again, once as it is and once with another secret in the wrong place.
    let pid = daemon.child.id().to_string();
    let mut read_again = || {
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        systemd.wait("RELOADING=1");
        systemd.wait("READY=1");
    };
    read_again();
    let config = fs::read_to_string(world.config()).unwrap();
    fs::write(world.config(), config.replace("token_file = ", &format!("token = \"{MARK}\"\ntoken_file = ")))
        .unwrap();
    read_again();
    world.run(&["plan"]).await.ends_with(0);
    let secrets = world.secrets();
    assert!(secrets.len() > 3, "nobody has logged in to Defguard");
    let (_, log) = daemon.end().await;
    assert!(log.contains("TRACE") && log.contains("the config is left as it was"), "{log}");
    search(&secrets, "run", &log);
}

#[tokio::test]
async fn no_secret_is_printed_when_a_server_refuses_it() {
    let world = World::new("markw").await;
    world.write("defguard-password", &format!("{MARK}-password"));
    world.write("synapse-token", &format!("syt_{MARK}_token"));
    for arguments in [&["check"][..], &["sync"], &["plan", "--json"]] {
        let shown = world.run_traced(arguments).await.ends_with(5);
        search_all(&world, arguments, &shown);
    }
    // A second factor, and a token in the place of the password.
    world.write("defguard-password", ADMIN_PASSWORD);
    world.write("defguard-totp-secret", "JBSWY3DPEHPK3PXP");
    let config = fs::read_to_string(world.config()).unwrap();
    let password = "password_file = ";
    for (replaced, marks) in [
        (
            config.replace(
                password,
                &format!(
                    "totp_secret_file = {:?}\n{password}",
                    world.home.path().join("defguard-totp-secret")
                ),
            ),
            "JBSWY3DPEHPK3PXP",
        ),
        (config.replace("username = \"admin\"\n", "").replace(password, "token_file = "), ADMIN_PASSWORD),
    ] {
        fs::write(world.config(), replaced).unwrap();
        let shown = world.run_traced(&["sync"]).await.ends_with(5);
        search_all(&world, &["sync"], &shown);
        search(&[marks.to_owned()], "sync", &format!("{}{}", shown.out, shown.err));
    }
}
