//! What setting up has to know of the homeserver's own config: where it is reached, by which secret accounts can be
//! registered, and which OIDC providers there are already. Read and merged as [`super::homeserver_yaml`] does it.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::{
    finding::{Finding, Place},
    homeserver_yaml::{self, Merged},
    yaml::{Node, Yaml},
};
use crate::domain::ServerName;

/// What was found in the homeserver's files.
#[derive(Debug)]
pub struct Homeserver {
    /// The files in Synapse's order.
    pub files: Vec<PathBuf>,
    /// The server name, if a file has one.
    pub server_name: Option<ServerName>,
    /// Where clients reach it, with a slash at the end: `public_baseurl`, or what Synapse takes without it
    /// (`synapse/config/server.py`).
    pub public_baseurl: Option<String>,
    /// By which secret accounts can be registered.
    pub shared_secret: Option<SharedSecret>,
    /// Every place with `oidc_providers` in it, replaced by a later file or not.
    pub providers_at: Vec<Place>,
    /// The providers that Synapse sees.
    pub providers: Vec<ProviderEntry>,
    /// Where `session_lifetime` is set, after which access tokens end.
    pub session_lifetime: Option<Place>,
}

/// How the homeserver has its registration shared secret.
#[derive(Debug)]
pub enum SharedSecret {
    /// In the config itself.
    Inline(SecretString),
    /// In a file of its own (`registration_shared_secret_path`).
    File(PathBuf),
}

/// One provider, as far as it has to be told from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderEntry {
    /// Its `idp_id`.
    pub idp_id: String,
    /// Its issuer.
    pub issuer: Option<String>,
    /// The app in Defguard that it uses.
    pub client_id: Option<String>,
    /// Its `idp_name`.
    pub idp_name: Option<String>,
    /// Its `localpart_template`, which decides the MXIDs of new people.
    pub localpart_template: Option<String>,
    /// Its `display_name_template`.
    pub display_name_template: Option<String>,
    /// Its `email_template`.
    pub email_template: Option<String>,
    /// Whether only people can log in who have an account already (`enable_registration: false`).
    pub provisioned_only: bool,
}

/// Reads the homeserver's files: files, or directories whose `*.yaml` files are read in sorted order.
pub fn survey(paths: &[PathBuf]) -> Result<Homeserver, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut merged = Merged::default();
    let mut providers_at = Vec::new();
    let files = homeserver_yaml::find_files(paths, &mut findings);
    for file in &files {
        match homeserver_yaml::parse(file) {
            Ok(keys) => {
                let here = keys.iter().filter(|(key, _)| *key == "oidc_providers");
                providers_at.extend(here.map(|(key, node)| homeserver_yaml::place(file, node, key)));
                merged.add(file, keys, &mut findings);
            }
            Err(finding) => findings.push(finding),
        }
    }
    // Warnings are for whoever uses the config, not for whoever completes it.
    findings.retain(Finding::is_error);
    let mut note = |result: Result<_, Finding>| result.map_err(|finding| findings.push(finding)).ok();
    let server_name = note(homeserver_yaml::server_name(&merged)).flatten();
    let mut text = |key| text(&merged, key).map_err(|finding| findings.push(finding)).ok().flatten();
    let base = text("public_baseurl")
        .or_else(|| server_name.as_ref().map(|name| format!("https://{name}/")))
        .map(|base| if base.ends_with('/') { base } else { format!("{base}/") });
    let inline = text("registration_shared_secret").filter(|secret| !secret.is_empty());
    let path = text("registration_shared_secret_path").filter(|path| !path.is_empty());
    let shared_secret = match (inline, path) {
        (Some(secret), _) => Some(SharedSecret::Inline(secret.into())),
        (None, Some(path)) => Some(SharedSecret::File(path.into())),
        (None, None) => None,
    };
    let providers = match homeserver_yaml::entries(&merged) {
        Ok(entries) => entries
            .iter()
            .map(|entry| ProviderEntry {
                idp_id: entry.idp_id.to_owned(),
                issuer: text_of(entry.node, &["issuer"]),
                client_id: text_of(entry.node, &["client_id"]),
                idp_name: text_of(entry.node, &["idp_name"]),
                localpart_template: template_of(entry.node, "localpart_template"),
                display_name_template: template_of(entry.node, "display_name_template"),
                email_template: template_of(entry.node, "email_template"),
                provisioned_only: entry
                    .node
                    .value
                    .get("enable_registration")
                    .is_some_and(|node| matches!(node.value, Yaml::Bool(false))),
            })
            .collect(),
        Err(finding) => {
            findings.push(finding);
            Vec::new()
        }
    };
    let session_lifetime = merged
        .get("session_lifetime")
        .filter(|(_, node)| node.value.is_something())
        .map(|(file, node)| homeserver_yaml::place(file, node, "session_lifetime"));
    if findings.is_empty() {
        Ok(Homeserver {
            files,
            server_name,
            public_baseurl: base,
            shared_secret,
            providers_at,
            providers,
            session_lifetime,
        })
    } else {
        Err(findings)
    }
}

/// The value of a key that is a text; `None` if it is not there or null.
fn text(merged: &Merged, key: &str) -> Result<Option<String>, Finding> {
    match merged.get(key) {
        None => Ok(None),
        Some((file, node)) => match &node.value {
            Yaml::Null => Ok(None),
            Yaml::Text(text) => Ok(Some(text.clone())),
            _ => Err(homeserver_yaml::wrong(file, node, key, "a text")),
        },
    }
}

/// A text at a path of keys.
fn text_of(node: &Node, path: &[&str]) -> Option<String> {
    let node = path.iter().try_fold(node, |node, key| node.value.get(key))?;
    match &node.value {
        Yaml::Text(text) => Some(text.clone()),
        _ => None,
    }
}

fn template_of(node: &Node, key: &str) -> Option<String> {
    text_of(node, &["user_mapping_provider", "config", key])
}

/// Where Debian keeps Synapse's config, as far as it is there.
pub fn usual_paths() -> Vec<PathBuf> {
    ["/etc/matrix-synapse/homeserver.yaml", "/etc/matrix-synapse/conf.d"]
        .iter()
        .map(PathBuf::from)
        .filter(|path| path.exists())
        .collect()
}

/// The directory among the paths into which a new file of config can be put: the last one.
pub fn directory(paths: &[PathBuf]) -> Option<&Path> {
    paths.iter().rev().map(PathBuf::as_path).find(|path| path.is_dir())
}
