//! What `setup oidc` does with what is there already: apps, entries, files. Synapse itself need not run for it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use regex::Regex;
use serde_json::{Value, json};

use crate::{
    house::{Output, run, secret},
    support::defguard::{ADMIN_PASSWORD, StandIn},
};

const CALLBACK: &str = "https://matrix.example.org/_synapse/client/oidc/callback";

/// A Defguard, and a machine with the files of a Synapse.
struct Machine {
    defguard: StandIn,
    home: tempfile::TempDir,
}

impl Machine {
    async fn new() -> Self {
        let machine = Self { defguard: StandIn::start().await, home: tempfile::tempdir().unwrap() };
        secret(&machine.path("defguard-password"), ADMIN_PASSWORD);
        secret(&machine.path("synapse-token"), "syt_token");
        fs::create_dir(machine.path("synapse")).unwrap();
        fs::create_dir(machine.path("synapse/conf.d")).unwrap();
        machine.write(
            "synapse/homeserver.yaml",
            "server_name: example.org\npublic_baseurl: https://matrix.example.org\n",
        );
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }

    async fn setup(&self, more: &[&str]) -> Output {
        let files =
            ["synapse/homeserver.yaml", "synapse/conf.d"].map(|name| self.path(name).display().to_string());
        let url = self.defguard.url();
        let mut arguments = vec![
            "setup",
            "oidc",
            "--defguard-url",
            url.as_str(),
            "--defguard-username",
            "admin",
            // Whoever runs the tests.
            "--synapse-user",
            "0",
            "--homeserver-config",
            &files[0],
            "--homeserver-config",
            &files[1],
        ];
        arguments.extend(more);
        run(self.home.path(), &arguments).await
    }

    /// The entry that Synapse would read.
    fn entry(&self) -> Value {
        let value: Value = serde_saphyr::from_str(&self.read("synapse/conf.d/defguard-oidc.yaml")).unwrap();
        value["oidc_providers"][0].clone()
    }

    fn add_app(&self, name: &str, redirect: &str, scopes: &[&str], enabled: bool) -> String {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.defguard.state().provider.add_app(name, vec![redirect.to_owned()], scopes, enabled).client_id
    }

    /// Requests that could have changed something in Defguard.
    fn writes(&self) -> Vec<String> {
        let requests = self.defguard.requests().into_iter();
        let writes = requests.filter(|request| request.method != "GET" && request.path != "/api/v1/auth");
        writes.map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    /// All files below the home, with what is in them.
    fn files(&self) -> Vec<(PathBuf, String)> {
        fn walk(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else {
                    found.push((path.clone(), fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let mut found = Vec::new();
        walk(self.home.path(), &mut found);
        found.sort();
        found
    }

    /// Text without what is another each time.
    fn steady(&self, text: &str) -> String {
        let text = text.replace(&self.home.path().display().to_string(), "HOME");
        let text = Regex::new(r"127\.0\.0\.1:\d{4,}").unwrap().replace_all(&text, "<address>").into_owned();
        let text = Regex::new(r"\.\d{8}T\d{6}Z\.bak").unwrap().replace_all(&text, ".<time>.bak").into_owned();
        self.defguard
            .apps()
            .iter()
            .fold(text, |text, app| text.replace(&app.client_id, &format!("<id {}>", app.id)))
    }
}

const ALL: [&str; 4] = ["openid", "profile", "email", "phone"];

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_everything_and_changes_nothing() {
    let machine = Machine::new().await;
    let before = machine.files();
    let output = machine.setup(&["--dry-run"]).await.ends_with(0);
    insta::assert_snapshot!("dry_run", machine.steady(&output.out));
    assert_eq!(machine.files(), before);
    assert_eq!(machine.writes(), [""; 0]);
    assert!(machine.defguard.apps().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn app_entry_secret_and_config_are_made_and_fit_together() {
    let machine = Machine::new().await;
    let output = machine.setup(&["--yes"]).await.ends_with(0);
    insta::assert_snapshot!("done", machine.steady(&output.out));
    let apps = machine.defguard.apps();
    let [app] = apps.as_slice() else { panic!("{apps:?}") };
    assert_eq!(
        (app.name.as_str(), app.redirect_uri.as_slice()),
        ("Matrix", [CALLBACK.to_owned()].as_slice())
    );
    assert_eq!(app.scope, ALL);
    assert!(app.enabled);
    let entry = machine.entry();
    assert_eq!(entry["issuer"], "https://defguard.example.com/");
    assert_eq!(entry["client_id"], json!(app.client_id));
    assert_eq!(entry["discover"], json!(false));
    assert_eq!(entry.get("enable_registration"), None);
    assert_eq!(machine.read("synapse/defguard-client-secret").trim_end(), app.client_secret);
    assert_eq!(entry["client_secret_path"], json!(machine.path("synapse/defguard-client-secret")));
    for name in ["synapse/defguard-client-secret", "synapse/conf.d/defguard-oidc.yaml"] {
        assert_eq!(machine.mode(name), 0o640, "{name}");
    }
    insta::assert_snapshot!("config", machine.steady(&machine.read("config.toml")));
    assert!(!format!("{}{}", output.out, output.err).contains(&app.client_secret), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_again_it_finds_everything_right_and_needs_no_flag() {
    let machine = Machine::new().await;
    machine.setup(&["--yes"]).await.ends_with(0);
    let before = machine.files();
    machine.defguard.forget_requests();
    let output = run(machine.home.path(), &["setup", "oidc"]).await.ends_with(0);
    assert!(output.out.contains("Nothing is to be done"), "{}", output.out);
    assert_eq!(machine.files(), before, "{}", output.out);
    assert_eq!(machine.writes(), [""; 0]);
    assert_eq!(machine.defguard.apps().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_on_a_later_page_is_found_and_used() {
    let machine = Machine::new().await;
    for number in 0..130 {
        machine.add_app(&format!("App {number}"), "https://else/", &["openid"], true);
    }
    let app = machine.add_app("Matrix", CALLBACK, &ALL, true);
    machine.setup(&["--yes"]).await.ends_with(0);
    assert_eq!(machine.defguard.apps().len(), 131);
    assert_eq!(machine.entry()["client_id"], json!(app));
    assert_eq!(machine.writes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_lacks_something_is_corrected_and_loses_nothing() {
    let machine = Machine::new().await;
    machine.add_app("Matrix", "https://other.example.org/callback", &["openid", "groups"], false);
    let before = machine.defguard.apps()[0].clone();
    let shown = machine.setup(&["--dry-run"]).await.ends_with(0);
    let plan = machine.steady(&shown.out).split("\n\n").next().unwrap().to_owned();
    insta::assert_snapshot!("correct", plan);
    machine.setup(&["--yes"]).await.ends_with(0);
    let apps = machine.defguard.apps();
    let [app] = apps.as_slice() else { panic!("{apps:?}") };
    assert_eq!(app.redirect_uri, ["https://other.example.org/callback", CALLBACK]);
    assert_eq!(app.scope, ["openid", "groups", "profile", "email", "phone"]);
    assert!(app.enabled);
    assert_eq!((&app.client_id, &app.client_secret), (&before.client_id, &before.client_secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_apps_none_is_guessed_and_none_is_added() {
    let machine = Machine::new().await;
    machine.add_app("Matrix", CALLBACK, &ALL, true);
    let second = machine.add_app("Matrix", CALLBACK, &ALL, true);
    let output = machine.setup(&["--yes"]).await.ends_with(1);
    assert!(output.err.contains("--client-id") && output.err.contains(&second), "{}", output.err);
    assert_eq!(machine.writes(), [""; 0]);
    machine.setup(&["--yes", "--client-id", &second]).await.ends_with(0);
    assert_eq!(machine.entry()["client_id"], json!(second));
    assert_eq!(machine.defguard.apps().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_list_of_providers_is_the_entry_is_printed_and_no_second_list_is_written() {
    let machine = Machine::new().await;
    machine.write(
        "synapse/homeserver.yaml",
        "server_name: example.org\npublic_baseurl: https://matrix.example.org/\noidc_providers:\n  - idp_id: github\n    \
         idp_name: GitHub\n    issuer: https://github.com/\n    client_id: x\n",
    );
    let output = machine.setup(&["--yes"]).await.ends_with(0);
    insta::assert_snapshot!("printed", machine.steady(&output.out));
    assert!(!machine.path("synapse/conf.d/defguard-oidc.yaml").exists());
    // What is printed fits below what is there.
    let item: String = output
        .out
        .lines()
        .skip_while(|line| !line.starts_with("  - idp_id"))
        .take_while(|line| !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect();
    let text = format!("{}{item}", machine.read("synapse/homeserver.yaml"));
    let value: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(value["oidc_providers"].as_array().unwrap().len(), 2);
    assert_eq!(value["oidc_providers"][1]["client_id"], json!(machine.defguard.apps()[0].client_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_in_a_later_file_counts_too_even_an_empty_one() {
    let machine = Machine::new().await;
    machine.write("synapse/conf.d/zz.yaml", "oidc_providers: []\n");
    let output = machine.setup(&["--yes"]).await.ends_with(0);
    assert!(output.out.contains("zz.yaml:1 has oidc_providers already"), "{}", output.out);
    assert!(!machine.path("synapse/conf.d/defguard-oidc.yaml").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_entry_is_replaced_only_when_told_to_and_the_old_one_is_kept() {
    let machine = Machine::new().await;
    machine.setup(&["--yes"]).await.ends_with(0);
    let before = machine.files();
    let refused = machine.setup(&["--yes", "--provisioned-only"]).await.ends_with(1);
    assert!(refused.err.contains("--replace"), "{}", refused.err);
    assert_eq!(machine.files(), before);
    let old = machine.read("synapse/conf.d/defguard-oidc.yaml");
    let output = machine.setup(&["--yes", "--provisioned-only", "--replace"]).await.ends_with(0);
    assert_eq!(machine.entry()["enable_registration"], json!(false), "{}", output.out);
    let directory = fs::read_dir(machine.path("synapse/conf.d")).unwrap();
    let kept: Vec<PathBuf> = directory
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().unwrap() == "bak")
        .collect();
    let [kept] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(fs::read_to_string(kept).unwrap(), old);
    // Nothing else was touched.
    assert_eq!(machine.files().len(), before.len() + 1);
    // What was chosen holds, until it is taken back.
    let again = machine.setup(&[]).await.ends_with(0);
    assert!(again.out.contains("Nothing is to be done"), "{}", again.out);
    machine.setup(&["--yes", "--provisioned-only=false", "--replace"]).await.ends_with(0);
    assert_eq!(machine.read("synapse/conf.d/defguard-oidc.yaml"), old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_everybody_can_read_is_closed_again() {
    let machine = Machine::new().await;
    machine.setup(&["--yes"]).await.ends_with(0);
    let file = machine.path("synapse/defguard-client-secret");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let shown = machine.setup(&["--dry-run"]).await.ends_with(0);
    assert!(shown.out.contains("let the right people read"), "{}", shown.out);
    machine.setup(&["--yes"]).await.ends_with(0);
    assert_eq!(machine.mode("synapse/defguard-client-secret"), 0o640);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_is_there_stays_as_it_is() {
    let machine = Machine::new().await;
    let mine = "[defguard]\nurl = \"https://defguard.example.com\"\n# mine\n[scope]\ninclude_groups = [\"matrix\"]\n";
    machine.write("config.toml", mine);
    let output = machine.setup(&["--yes", "--replace"]).await.ends_with(0);
    assert_eq!(machine.read("config.toml"), mine);
    assert!(output.out.contains("stays as it is"), "{}", output.out);
    assert!(output.err.contains("cannot be used yet"), "{}", output.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defguard_without_a_key_is_refused_before_anything_is_made() {
    let machine = Machine::new().await;
    machine.defguard.state().provider.hmac = true;
    let output = machine.setup(&["--yes"]).await.ends_with(5);
    assert!(output.err.contains("HS256") && output.err.contains("DEFGUARD_HMAC"), "{}", output.err);
    assert!(machine.defguard.apps().is_empty());
    assert!(!machine.path("config.toml").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_is_shown_only_when_asked_for() {
    let machine = Machine::new().await;
    machine.setup(&["--yes"]).await.ends_with(0);
    let secret = machine.defguard.apps()[0].client_secret.clone();
    for (more, shown) in [
        (&[][..], false),
        (&["--show-secret"], true),
        (&["--json"], false),
        (&["--json", "--show-secret"], true),
    ] {
        let output = machine.setup(more).await.ends_with(0);
        assert_eq!(format!("{}{}", output.out, output.err).contains(&secret), shown, "{more:?} {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_get_the_same_as_json() {
    let machine = Machine::new().await;
    let planned = machine.setup(&["--dry-run", "--json"]).await.ends_with(0).json();
    assert_eq!(planned["done"], json!(false));
    assert_eq!(planned["app"]["action"], "create");
    assert_eq!(planned["entry"]["action"], "write");
    let done = machine.setup(&["--yes", "--json"]).await.ends_with(0).json();
    assert_eq!(done["done"], json!(true));
    assert_eq!(done["app"]["client_id"], json!(machine.defguard.apps()[0].client_id));
    assert_eq!(done["entry"]["text"], json!(machine.read("synapse/conf.d/defguard-oidc.yaml")));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_script_everything_that_is_missing_is_said_at_once() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &["setup", "oidc"]).await.ends_with(2);
    for flag in ["--defguard-url", "--defguard-username", "--defguard-password-file"] {
        assert!(output.err.contains(flag), "{}", output.err);
    }
    let machine = Machine::new().await;
    let output = machine.setup(&[]).await.ends_with(1);
    assert!(output.err.contains("--yes"), "{}", output.err);
    assert!(machine.defguard.apps().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_localpart_of_new_people_and_the_idp_id_stay_as_the_homeserver_has_them() {
    let machine = Machine::new().await;
    machine.write(
        "synapse/homeserver.yaml",
        "server_name: example.org\noidc_providers:\n  - idp_id: dg\n    idp_name: Old\n    issuer: \
         https://defguard.example.com\n    client_id: gone\n    user_mapping_provider:\n      config:\n        \
         localpart_template: \"{{ user.email.split('@')[0] }}\"\n        display_name_template: \"{{ user.first_name \
         }}\"\n",
    );
    let entry = machine.setup(&["--dry-run", "--json"]).await.ends_with(0).json();
    let text = entry["entry"]["text"].as_str().unwrap();
    assert!(text.contains(r#"idp_id: "dg""#), "{text}");
    assert!(text.contains(r#"localpart_template: "{{ user.email.split('@')[0] }}""#), "{text}");
    assert!(
        text.contains(r#"display_name_template: "{{ user.given_name }} {{ user.family_name }}""#),
        "{text}"
    );
    // Without public_baseurl Synapse takes its server name.
    assert_eq!(
        entry["app"]["app"]["redirect_uri"],
        json!(["https://example.org/_synapse/client/oidc/callback"])
    );
    // The issuer that is written is spelled as Defguard spells it.
    assert!(text.contains(r#"issuer: "https://defguard.example.com/""#), "{text}");
}
