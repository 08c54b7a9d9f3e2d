//! `render`.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{alone, support::synapse::shared};

#[tokio::test]
async fn templates_given_as_options_give_what_real_synapse_gave() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../data/mapping_corpus.json")).unwrap();
    let mut tried = 0;
    for case in cases.iter().filter(|case| case["kind"] == "full" && case["failures"] == 0) {
        let mut arguments = vec!["render".to_owned(), "--claims-only".to_owned()];
        for (key, option) in [
            ("subject_template", "--subject-template"),
            ("localpart_template", "--localpart-template"),
            ("display_name_template", "--display-name-template"),
            ("email_template", "--email-template"),
        ] {
            if let Some(template) = case["template"].get(key).and_then(Value::as_str) {
                arguments.push(format!("{option}={template}"));
            }
        }
        if arguments.len() != 2 + case["template"].as_object().unwrap().len() || arguments.len() == 2 {
            continue;
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let shown = alone(&arguments, &case["userinfo"].to_string()).await;
        let expected = &case["expected"];
        let (id, stage) = (&case["id"], &expected["stage"]);
        if stage == "parse_config" {
            assert_eq!(shown.code, 2, "{id}: {shown:?}");
            continue;
        }
        let given = shown.ends_with(0).json();
        if expected.get("error").is_some() {
            assert!(given["error"].is_string(), "{id}: {given}");
        } else {
            let mut given = given;
            given["remote_user_id"] = given["subject"].take();
            for key in ["localpart", "display_name", "emails", "remote_user_id"] {
                assert_eq!(given[key], expected[key], "{id}: {key}");
            }
        }
        tried += 1;
    }
    assert!(tried > 10, "only {tried} cases were tried");
}

#[tokio::test]
async fn an_array_and_json_lines_give_one_line_each_and_bad_input_an_error_in_its_place() {
    let template = "--localpart-template={{ user.sub }}";
    let shown = alone(&["render", template], r#"[{"sub":"a"},{"sub":"b"}]"#).await.ends_with(0);
    assert_eq!(shown.out.lines().count(), 2);
    let shown =
        alone(&["render", template], "{\"sub\":\"a\"}\nnonsense\n{\"sub\":\"b\"}\n").await.ends_with(0);
    let lines: Vec<Value> = shown.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], json!({"localpart": "a", "display_name": null, "emails": [], "subject": "a"}));
    assert!(lines[1]["error"].is_string());
    assert_eq!(lines[2]["localpart"], "b");
}

#[tokio::test]
async fn the_fields_of_defguard_are_left_out_with_claims_only() {
    let arguments = ["render", "--display-name-template={{ user.first_name }}"];
    let claims = r#"{"sub":"a","given_name":"Ann"}"#;
    assert_eq!(alone(&arguments, claims).await.json()["display_name"], "Ann");
    let claims_only = [&arguments[..], &["--claims-only"]].concat();
    assert_eq!(alone(&claims_only, claims).await.json()["display_name"], Value::Null);
}

#[tokio::test]
async fn a_template_that_cannot_be_done_is_a_usage_error_with_its_reason() {
    let shown = alone(&["render", "--localpart-template={{ user.sub | nosuchfilter }}"], "{}").await;
    let shown = shown.ends_with(2);
    assert!(shown.err.contains("localpart_template") && shown.err.contains("nosuchfilter"), "{shown:?}");
}

#[tokio::test]
async fn templates_come_from_the_config_without_its_secrets_or_from_the_homeserver() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("config.toml");
    let text = r#"[defguard]
url = "https://defguard.example.com"
username = "matrix-sync"
password_file = "/nonexistent/password"

[synapse]
url = "http://127.0.0.1:8008"
token_file = "/nonexistent/token"

[templates]
localpart_template = "of-{{ user.sub }}"
"#;
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let shown = alone(&["--config", path, "render"], r#"{"sub":"ann"}"#).await.ends_with(0).json();
    assert_eq!(shown["localpart"], "of-ann");

    let homeserver = shared().await.config_file();
    let arguments = ["render", "--homeserver-config", homeserver.to_str().unwrap()];
    let shown = alone(&arguments, r#"{"sub":"ann","email":"bob@example.com"}"#).await.ends_with(0).json();
    assert_eq!(shown["localpart"], "bob");
    let shown = alone(&["render", "--homeserver-config", "/nonexistent.yaml"], "{}").await.ends_with(2);
    assert!(shown.err.contains("/nonexistent.yaml"), "{shown:?}");
}
