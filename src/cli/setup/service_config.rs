//! The config of this service that goes with what was set up, as text. Pure.

use std::{fmt::Write as _, path::Path};

use super::wishes::{DefguardLogin, Wishes};

/// The text of a config.toml. Scopes and templates are taken from the homeserver's own files, so that they are written
/// once.
pub(super) fn text(wishes: &Wishes, idp_id: &str) -> String {
    let mut text = String::from(
        "# Written by `defguard-synapse-sync setup oidc`. config.example.toml explains every key that can be here.\n",
    );
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    line("\n[defguard]".to_owned());
    line(format!("url = {}", quoted(wishes.defguard_url.as_str())));
    match &wishes.login {
        DefguardLogin::Token { file, .. } => line(format!("token_file = {}", path(file))),
        DefguardLogin::Password { username, file, totp_secret_file, .. } => {
            line(format!("username = {}", quoted(username)));
            line(format!("password_file = {}", path(file)));
            if let Some(file) = totp_secret_file {
                line(format!("totp_secret_file = {}", path(file)));
            }
        }
    }
    if let Some(file) = &wishes.defguard_ca_file {
        line(format!("ca_file = {}", path(file)));
    }
    line("\n[synapse]".to_owned());
    line(format!("url = {}", quoted(wishes.synapse_url.as_str())));
    line(format!("token_file = {}", path(&wishes.synapse_token_file)));
    line(format!("idp_id = {}", quoted(idp_id)));
    line("# The scopes and the templates are taken from these.".to_owned());
    let files: Vec<String> = wishes.homeserver_config.iter().map(|file| path(file)).collect();
    line(format!("homeserver_config = [{}]", files.join(", ")));
    text
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}
