//! `setup synapse` on a real Synapse: the account, its token, its rate limit, and what is in the way.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use reqwest::Method;
use serde_json::json;

use crate::{
    house::{Output, run, secret},
    support::synapse::{Synapse, shared},
};

struct Machine {
    synapse: &'static Synapse,
    name: &'static str,
    home: tempfile::TempDir,
}

impl Machine {
    async fn new(name: &'static str) -> Self {
        Self { synapse: shared().await, name, home: tempfile::tempdir().unwrap() }
    }

    fn token_file(&self) -> PathBuf {
        self.home.path().join("synapse-token")
    }

    fn token(&self) -> String {
        fs::read_to_string(self.token_file()).unwrap().trim().to_owned()
    }

    async fn setup(&self, more: &[&str]) -> Output {
        let config = self.synapse.config_file().display().to_string();
        self.setup_with(&config, more).await
    }

    async fn setup_with(&self, config: &str, more: &[&str]) -> Output {
        let url = self.synapse.url();
        let mut arguments = vec![
            "setup",
            "synapse",
            "--synapse-url",
            &url,
            "--localpart",
            self.name,
            "--homeserver-config",
            config,
        ];
        arguments.extend(more);
        run(self.home.path(), &arguments).await
    }

    /// Text without what is another each time.
    fn steady(&self, text: &str) -> String {
        text.replace(&self.home.path().display().to_string(), "HOME")
            .replace(&self.synapse.url(), "http://<address>")
    }

    async fn is_unlimited(&self) -> bool {
        let path = format!("/_synapse/admin/v1/users/{}/override_ratelimit", self.synapse.mxid(self.name));
        self.synapse.admin_get(&path).await.body["messages_per_second"] == json!(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_is_made_and_its_token_is_for_its_owner_alone() {
    let machine = Machine::new("sync-one").await;
    let planned = machine.setup(&["--dry-run"]).await.ends_with(0);
    assert_eq!(machine.synapse.account("sync-one").await.status, 404, "{}", planned.out);
    let output = machine.setup(&["--yes"]).await.ends_with(0);
    insta::assert_snapshot!("made", machine.steady(&format!("{}---\n{}", planned.out, output.out)));
    assert_eq!(fs::metadata(machine.token_file()).unwrap().permissions().mode() & 0o7777, 0o600);
    let token = machine.token();
    assert!(!format!("{}{}", output.out, output.err).contains(&token));
    let whoami =
        machine.synapse.call(Method::GET, "/_matrix/client/v3/account/whoami", Some(&token), None).await;
    assert_eq!(whoami.body["user_id"], json!(machine.synapse.mxid("sync-one")));
    assert_eq!(machine.synapse.account("sync-one").await.body["admin"], json!(true));
    assert!(!machine.is_unlimited().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_is_kept_and_the_limit_can_be_taken_off_later() {
    let machine = Machine::new("sync-two").await;
    machine.setup(&["--yes"]).await.ends_with(0);
    let token = machine.token();
    let again = machine.setup(&[]).await.ends_with(0);
    assert!(again.out.contains("Nothing is to be done"), "{}", again.out);
    machine.setup(&["--yes", "--lift-rate-limit"]).await.ends_with(0);
    assert!(machine.is_unlimited().await);
    let again = machine.setup(&["--lift-rate-limit"]).await.ends_with(0);
    assert!(again.out.contains("Nothing is to be done"), "{}", again.out);
    assert_eq!(machine.token(), token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_good_for_nothing_is_replaced_only_when_told_to() {
    let machine = Machine::new("sync-three").await;
    secret(&machine.token_file(), "syt_gone");
    let refused = machine.setup(&["--yes"]).await.ends_with(1);
    assert!(refused.err.contains("--replace"), "{}", refused.err);
    assert_eq!(machine.token(), "syt_gone");
    assert_eq!(machine.synapse.account("sync-three").await.status, 404);
    machine.setup(&["--yes", "--replace"]).await.ends_with(0);
    assert_ne!(machine.token(), "syt_gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_explained_and_leaves_no_file() {
    let machine = Machine::new("sync-four").await;
    machine.synapse.register_user("sync-four", false).await;
    let output = machine.setup(&["--yes"]).await.ends_with(5);
    assert!(output.err.contains("--localpart"), "{}", output.err);
    assert!(!machine.token_file().exists());
    assert_eq!(machine.synapse.account("sync-four").await.body["admin"], json!(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_shared_secret_or_with_a_wrong_one_the_way_out_is_said() {
    let machine = Machine::new("sync-five").await;
    let config = machine.home.path().join("homeserver.yaml");
    fs::write(&config, "server_name: sync.test\n").unwrap();
    let config = config.display().to_string();
    let output = machine.setup_with(&config, &["--yes"]).await.ends_with(1);
    insta::assert_snapshot!("without_secret", machine.steady(&output.err));
    let wrong = machine.home.path().join("wrong");
    secret(&wrong, "not-the-secret");
    let wrong = wrong.display().to_string();
    let output = machine.setup(&["--yes", "--shared-secret-file", &wrong]).await.ends_with(5);
    assert!(output.err.contains("restart Synapse"), "{}", output.err);
    assert!(!machine.token_file().exists());
    assert_eq!(machine.synapse.account("sync-five").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_can_be_in_a_file_of_its_own_and_the_end_of_sessions_is_told() {
    let machine = Machine::new("sync-six").await;
    let shared_secret: serde_json::Value =
        serde_saphyr::from_str(&fs::read_to_string(machine.synapse.config_file()).unwrap()).unwrap();
    let file = machine.home.path().join("shared-secret");
    secret(&file, &format!("{}\n", shared_secret["registration_shared_secret"].as_str().unwrap()));
    let config = machine.home.path().join("homeserver.yaml");
    let text = format!(
        "server_name: sync.test\nregistration_shared_secret_path: {}\nsession_lifetime: 24h\n",
        file.display()
    );
    fs::write(&config, text).unwrap();
    let output = machine.setup_with(&config.display().to_string(), &["--yes"]).await.ends_with(0);
    assert!(
        output.out.contains("homeserver.yaml:3") && output.out.contains("session_lifetime"),
        "{}",
        output.out
    );
    assert!(!machine.token().is_empty());
}
