//! Help, wrong arguments, and configs that cannot be used.

use std::fs;

use insta::assert_snapshot;
use serde_json::json;
use tempfile::TempDir;

use crate::{alone, keys};

const VERBS: [&str; 20] = [
    "run",
    "sync",
    "plan",
    "approve",
    "explain",
    "adopt",
    "link",
    "unlink",
    "status",
    "journal",
    "revert",
    "forget",
    "state",
    "state export",
    "state import",
    "state rebuild",
    "migrate finish",
    "render",
    "check",
    "setup",
];

#[tokio::test]
async fn every_verb_has_its_help() {
    assert_snapshot!("help", alone(&["--help"], "").await.ends_with(0).out);
    for verb in VERBS {
        let asked: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let name = format!("help_{}", verb.replace(' ', "_"));
        assert_snapshot!(name, alone(&asked, "").await.ends_with(0).out);
    }
    for what in ["synapse", "oidc", "webhook"] {
        let help = alone(&["setup", what, "--help"], "").await.ends_with(0).out;
        assert_snapshot!(format!("help_setup_{what}"), help);
    }
}

#[tokio::test]
async fn wrong_arguments_are_a_usage_error() {
    for arguments in [
        &[][..],
        &["synch"],
        &["sync", "--force"],
        &["explain"],
        &["link", "ann"],
        &["journal", "--run", "last"],
        &["revert"],
        &["revert", "5", "--yes", "--dry-run"],
        &["state"],
        &["state", "import"],
        &["migrate"],
        &["render", "--homeserver-config", "x", "--localpart-template", "y"],
    ] {
        let shown = alone(arguments, "").await.ends_with(2);
        assert_eq!(shown.out, "", "{arguments:?}");
        assert!(shown.err.contains("--help") || shown.err.contains("Usage:"), "{arguments:?}: {shown:?}");
    }
}

#[tokio::test]
async fn a_config_that_is_not_there_is_said_by_every_verb() {
    for verb in [
        &["run"][..],
        &["sync"],
        &["plan"],
        &["explain", "ann"],
        &["link", "ann", "@ann:x"],
        &["unlink", "ann"],
        &["status"],
        &["journal"],
        &["revert", "5"],
        &["forget", "ann"],
        &["state", "export"],
        &["state", "import", "file"],
        &["state", "rebuild"],
        &["migrate", "finish"],
        &["render"],
    ] {
        let shown = alone(&[&["--config", "/nonexistent/config.toml"], verb].concat(), "").await.ends_with(2);
        assert!(
            shown.err.contains("/nonexistent/config.toml") && shown.err.contains("--config"),
            "{shown:?}"
        );
        assert_eq!(shown.out, "");
    }
    let shown = alone(&["--config", "/nonexistent/config.toml", "check"], "").await.ends_with(2);
    assert!(shown.out.contains("/nonexistent/config.toml") && shown.out.contains("1 error"), "{shown:?}");
}

#[tokio::test]
async fn check_shows_every_mistake_of_a_config_at_once_with_its_line() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("config.toml");
    let text = r#"[defguard]
url = "defguard.example.com"
username = "matrix-sync"
password = "hunter2"

[synapse]
url = "http://127.0.0.1:8008"
token_file = "synapse-token"
idp-id = "Defguard"

[templates]
localpart_template = "{{ user.email | upper( }}"

[schedule]
sync = "every minute"
"#;
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let shown = alone(&["--config", path, "check"], "").await.ends_with(2);
    assert_snapshot!("check_of_a_bad_config", shown.out.replace(path, "config.toml"));
    assert!(!shown.out.contains("hunter2") && !shown.err.contains("hunter2"));
    let items = alone(&["--config", path, "check", "--json"], "").await.ends_with(2).json();
    assert_eq!(
        keys(&items[0]),
        ["kind", "level", "what", "found", "why", "mend", "file", "line", "column", "key"]
    );
    let url = items.as_array().unwrap().iter().find(|item| item["key"] == "defguard.url").unwrap();
    assert_eq!((&url["file"], &url["line"], &url["column"]), (&json!(path), &json!(2), &json!(7)));
    assert!(items.as_array().unwrap().iter().filter(|item| item["level"] == "error").count() >= 4);
}
