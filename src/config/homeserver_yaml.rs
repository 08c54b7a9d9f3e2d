//! The homeserver's own config files, read for the OIDC provider that leads to Defguard, so that its templates are
//! written in one place only.
//!
//! Files are found and merged as Synapse does it (`synapse/config/_base.py`, `find_config_files` and
//! `read_config_files`): in the order given, a directory standing for its `*.yaml` files in sorted order, and each
//! top-level key of a later file replacing that of an earlier one whole. YAML is read as PyYAML's `safe_load` does,
//! as far as the keys here go: `yes` and `no` are truth values, `<<` merges, and of two equal keys the last one wins.
//! Nothing else of the files is kept, and no finding quotes them: they are full of secrets.

mod facts;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_saphyr::Spanned;

use super::{
    finding::{Finding, Place},
    secrets::explain_io,
    settings::{TemplateText, TemplateTexts},
    yaml::{self, Node, Yaml},
};
use crate::{domain::ServerName, mapping::TemplateSources};

pub use facts::{Entry, Facts, Given, Site};

/// The mapping provider whose answers this program can work out, under its two names
/// (`synapse/config/oidc.py`, `DEFAULT_USER_MAPPING_PROVIDER` and `LEGACY_USER_MAPPING_PROVIDER`).
const JINJA_PROVIDERS: [&str; 2] = [
    "synapse.handlers.oidc.JinjaOidcMappingProvider",
    "synapse.handlers.oidc_handler.JinjaOidcMappingProvider",
];

/// What the homeserver's config says about the logins that come from Defguard.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Where the provider is written.
    pub at: Place,
    /// The provider's `idp_id`.
    pub idp_id: String,
    /// The auth provider of its external ids.
    pub auth_provider: String,
    /// The scopes whose claims Synapse gets to see.
    pub scopes: Vec<String>,
    /// Its templates.
    pub templates: TemplateTexts,
    /// The homeserver's `server_name`, if the files have one.
    pub server_name: Option<ServerName>,
    /// What else is said about logins.
    pub facts: Facts,
}

/// The auth provider under which Synapse keeps the external ids of an `idp_id`, `None` if it would refuse the id
/// (`synapse/config/oidc.py`, `_parse_oidc_config_dict` and `OIDC_PROVIDER_CONFIG_SCHEMA`).
pub fn auth_provider(idp_id: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._~-".contains(c);
    if idp_id.is_empty() || idp_id.len() > 250 || !idp_id.chars().all(fits) {
        return None;
    }
    // The one name without prefix is for those who came from the old `oidc_config`.
    Some(if idp_id == "oidc" { idp_id.to_owned() } else { format!("oidc-{idp_id}") })
}

/// The templates of the only OIDC provider in the files, for `render --homeserver-config`.
pub fn templates_from(paths: &[PathBuf]) -> Result<TemplateTexts, Finding> {
    let nowhere =
        || Place::key(Path::new("homeserver.yaml"), "").error("nothing was found in it", "Name a file.");
    read(paths, None)
        .map(|(provider, _)| provider.templates)
        .map_err(|findings| findings.into_iter().find(Finding::is_error).unwrap_or_else(nowhere))
}

/// Reads the files and picks the provider: the one with `wanted` as its `idp_id` (given with its place in our own
/// config), or the only one. With it come warnings.
pub fn read(
    paths: &[PathBuf],
    wanted: Option<(&str, &Place)>,
) -> Result<(Provider, Vec<Finding>), Vec<Finding>> {
    let mut findings = Vec::new();
    let mut merged = Merged::default();
    for file in find_files(paths, &mut findings) {
        match parse(&file) {
            Ok(keys) => merged.add(&file, keys, &mut findings),
            Err(finding) => findings.push(finding),
        }
    }
    if findings.iter().any(Finding::is_error) {
        return Err(findings);
    }
    let provider = pick(&merged, wanted, paths)
        .and_then(|entry| entry.provider(&merged, &mut findings))
        .map_err(|finding| findings.push(finding));
    match provider {
        Ok(provider) if !findings.iter().any(Finding::is_error) => Ok((provider, findings)),
        _ => Err(findings),
    }
}

/// The files that Synapse would read, in its order.
pub(super) fn find_files(paths: &[PathBuf], findings: &mut Vec<Finding>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match std::fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>()) {
            Ok(entries) => {
                let mut inside: Vec<PathBuf> = entries
                    .iter()
                    .map(std::fs::DirEntry::path)
                    .filter(|file| file.is_file() && file.as_os_str().as_encoded_bytes().ends_with(b".yaml"))
                    .collect();
                inside.sort();
                files.extend(inside);
            }
            Err(error) => findings.push(unreadable(path, &explain_io(&error))),
        }
    }
    files
}

fn unreadable(path: &Path, why: &str) -> Finding {
    Place::key(path, "").error(
        format!("the homeserver's config cannot be read: {why}"),
        "Let the service's user read it (on Debian: add the user to the group matrix-synapse), or take \
         `synapse.homeserver_config` out and copy idp_id, scopes and templates into our own config.",
    )
}

/// The top-level keys that matter here, with the file they come from.
#[derive(Default)]
pub(super) struct Merged {
    keys: BTreeMap<&'static str, (PathBuf, Node)>,
}

impl Merged {
    /// Puts the keys of one more file in the place of those that came before.
    pub(super) fn add(&mut self, file: &Path, keys: Vec<(&'static str, Node)>, findings: &mut Vec<Finding>) {
        let mut here: Vec<&str> = Vec::new();
        for (key, node) in keys {
            let at = place(file, &node, key);
            if here.contains(&key) {
                findings.push(at.warning(
                    "this key stands twice in the file, and Synapse takes the last one only",
                    "Put both together.",
                ));
            } else if let Some((earlier, before)) = self.keys.get(key).filter(|_| key.starts_with("oidc_"))
                && before.value.is_something()
            {
                findings.push(at.warning(
                    format!(
                        "this replaces the whole `{key}` of {}, as Synapse merges its files key by key",
                        earlier.display()
                    ),
                    "Write all OIDC providers into one file.",
                ));
            }
            here.push(key);
            self.keys.insert(key, (file.to_owned(), node));
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&(PathBuf, Node)> {
        self.keys.get(key)
    }
}

/// One entry of `oidc_providers`, or the old `oidc_config`.
pub(super) struct EntryOf<'a> {
    file: &'a Path,
    pub(super) node: &'a Node,
    pub(super) idp_id: &'a str,
    at: Place,
}

fn pick<'a>(
    merged: &'a Merged,
    wanted: Option<(&str, &Place)>,
    paths: &[PathBuf],
) -> Result<EntryOf<'a>, Finding> {
    let entries = entries(merged)?;
    let names = || entries.iter().map(|entry| format!("\"{}\"", entry.idp_id)).collect::<Vec<_>>().join(", ");
    let first = paths.first().map_or(Path::new(""), PathBuf::as_path);
    match wanted {
        _ if entries.is_empty() => Err(Place::key(first, "oidc_providers").error(
            "the homeserver has no OIDC provider, so nobody can log in from Defguard",
            "Add one as Defguard's documentation for Synapse says, or check that all of Synapse's config files are \
             named, in its order.",
        )),
        Some((id, at)) => {
            let names = names();
            let mut matching = entries.into_iter().filter(|entry| entry.idp_id == id);
            let found = matching.next().ok_or_else(|| {
                at.error(
                    "no OIDC provider of the homeserver has this idp_id",
                    format!("The homeserver has {names}."),
                )
            })?;
            match matching.next() {
                None => Ok(found),
                Some(second) => {
                    Err(second.at.error("two providers have the same idp_id, which Synapse refuses", "Rename one."))
                }
            }
        }
        None if entries.len() > 1 => Err(Place::key(first, "oidc_providers").error(
            format!("the homeserver has several OIDC providers: {}", names()),
            "Say which one leads to Defguard: idp_id = \"…\" in [synapse].",
        )),
        None => entries.into_iter().next().ok_or_else(|| Place::key(first, "").error("no provider", "Add one.")),
    }
}

/// All providers, as `_parse_oidc_provider_configs` finds them.
pub(super) fn entries(merged: &Merged) -> Result<Vec<EntryOf<'_>>, Finding> {
    let mut entries = Vec::new();
    if let Some((file, list)) = merged.get("oidc_providers") {
        let nodes = match &list.value {
            Yaml::Null => [].as_slice(),
            Yaml::List(nodes) => nodes.as_slice(),
            _ => return Err(wrong(file, list, "oidc_providers", "a list")),
        };
        for node in nodes {
            let at = place(file, node, "oidc_providers");
            let idp_id = match node.value.get("idp_id") {
                Some(Spanned { value: Yaml::Text(text), .. }) => text.as_str(),
                Some(other) => return Err(wrong(file, other, "idp_id", "a text")),
                None => {
                    return Err(at.error(
                        "a provider has no idp_id, which Synapse refuses",
                        "Give it one that never changes; the external ids of all accounts are kept under it.",
                    ));
                }
            };
            entries.push(EntryOf { file, node, idp_id, at });
        }
    }
    if let Some((file, node)) = merged.get("oidc_config")
        && node.value.get("enabled").is_some_and(|enabled| enabled.value.is_something())
    {
        let idp_id = match node.value.get("idp_id") {
            None => "oidc",
            Some(Spanned { value: Yaml::Text(text), .. }) => text.as_str(),
            Some(other) => return Err(wrong(file, other, "idp_id", "a text")),
        };
        entries.push(EntryOf { file, node, idp_id, at: place(file, node, "oidc_config") });
    }
    Ok(entries)
}

impl EntryOf<'_> {
    fn provider(self, merged: &Merged, findings: &mut Vec<Finding>) -> Result<Provider, Finding> {
        let auth_provider = auth_provider(self.idp_id).ok_or_else(|| {
            self.at.error(
                "the idp_id has a character in it that Synapse refuses",
                "Use A-Z, a-z, 0-9, '.', '_', '~', '-'.",
            )
        })?;
        Ok(Provider {
            facts: facts::read(&self, merged),
            idp_id: self.idp_id.to_owned(),
            auth_provider,
            scopes: self.scopes(findings)?,
            templates: self.templates()?,
            server_name: server_name(merged)?,
            at: self.at,
        })
    }

    /// The scopes whose claims are seen: all that are asked for, except that the user info endpoint, if Synapse asks
    /// that instead of the id token (`OidcProvider._uses_userinfo`), never has groups (`docs/facts/defguard.md` section 7).
    fn scopes(&self, findings: &mut Vec<Finding>) -> Result<Vec<String>, Finding> {
        let mut scopes = match self.node.value.get("scopes") {
            None => vec!["openid".to_owned()],
            Some(node) => match &node.value {
                Yaml::List(list) => list
                    .iter()
                    .map(|scope| match &scope.value {
                        Yaml::Text(text) => Ok(text.clone()),
                        _ => Err(wrong(self.file, scope, "scopes", "a list of texts")),
                    })
                    .collect::<Result<_, _>>()?,
                _ => return Err(wrong(self.file, node, "scopes", "a list of texts")),
            },
        };
        let endpoint =
            self.node.value.get("user_profile_method").is_some_and(
                |method| matches!(&method.value, Yaml::Text(text) if text == "userinfo_endpoint"),
            );
        let groups = scopes.iter().position(|scope| scope == "groups");
        if let Some(groups) = groups
            && (endpoint || !scopes.iter().any(|scope| scope == "openid"))
        {
            scopes.remove(groups);
            findings.push(self.at.warning(
                "Synapse takes the claims from Defguard's user info endpoint here, which never has the groups",
                "Leave out `user_profile_method`, and keep openid among the scopes, if a template uses the groups.",
            ));
        }
        Ok(scopes)
    }

    /// The templates, as `JinjaOidcMappingProvider.parse_config` (`synapse/handlers/oidc.py`) takes them.
    fn templates(&self) -> Result<TemplateTexts, Finding> {
        let mapping = self.node.value.get("user_mapping_provider");
        if let Some(module) = mapping.and_then(|mapping| mapping.value.get("module")) {
            match &module.value {
                Yaml::Text(name) if JINJA_PROVIDERS.contains(&name.as_str()) => {}
                Yaml::Text(_) => {
                    return Err(place(self.file, module, "user_mapping_provider.module").error(
                        "the homeserver maps people with a module of its own, whose answers only that module knows; \
                         accounts made here would not be those that a login opens",
                        "Use Synapse's own JinjaOidcMappingProvider (leave `module` out), or do not use this program.",
                    ));
                }
                _ => return Err(wrong(self.file, module, "user_mapping_provider.module", "a text")),
            }
        }
        let config = mapping.and_then(|mapping| mapping.value.get("config"));
        let at = config.or(mapping).unwrap_or(self.node);
        let get = |key: &str| config.and_then(|config| config.value.get(key));
        let template = |key: &'static str| match get(key) {
            None => Ok(None),
            Some(node) => match &node.value {
                Yaml::Text(text) => {
                    Ok(Some(TemplateText { text: text.clone(), at: place(self.file, node, key) }))
                }
                _ => Err(wrong(self.file, node, key, "a text in quotes")),
            },
        };
        let subject = match get("subject_template") {
            Some(node) if node.value.is_something() => template("subject_template")?,
            _ => None,
        };
        let subject = match subject {
            Some(subject) => subject,
            // The older way to name the claim.
            None => match get("subject_claim") {
                None => TemplateText {
                    text: "{{ user.sub }}".to_owned(),
                    at: place(self.file, at, "subject_template"),
                },
                Some(node) => match &node.value {
                    Yaml::Text(claim) => TemplateText {
                        text: TemplateSources::subject_of_claim(claim),
                        at: place(self.file, node, "subject_claim"),
                    },
                    _ => return Err(wrong(self.file, node, "subject_claim", "a text")),
                },
            },
        };
        Ok(TemplateTexts {
            subject,
            localpart: template("localpart_template")?,
            display_name: template("display_name_template")?,
            email: template("email_template")?,
        })
    }
}

pub(super) fn server_name(merged: &Merged) -> Result<Option<ServerName>, Finding> {
    let Some((file, node)) = merged.get("server_name") else { return Ok(None) };
    let Yaml::Text(name) = &node.value else { return Err(wrong(file, node, "server_name", "a text")) };
    ServerName::try_from(name.as_str()).map(Some).map_err(|_| {
        place(file, node, "server_name")
            .error("this is no server name", "Write the part of an MXID behind the colon.")
    })
}

pub(super) fn wrong(file: &Path, node: &Node, key: &str, wanted: &str) -> Finding {
    place(file, node, key).error(
        format!("Synapse would not start with this: {} is given", node.value.kind()),
        format!("Give {wanted}."),
    )
}

pub(super) fn place(file: &Path, node: &Node, key: &str) -> Place {
    Place { file: file.to_owned(), position: yaml::position(node.referenced), key: key.to_owned() }
}

/// Reads the keys that matter from one file. A file that is no mapping is passed over, as Synapse does.
pub(super) fn parse(file: &Path) -> Result<Vec<(&'static str, Node)>, Finding> {
    let bytes = std::fs::read(file).map_err(|error| unreadable(file, &explain_io(&error)))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(file, "it is not UTF-8 text"))?;
    yaml::parse(&text).map_err(|trouble| {
        Place { file: file.to_owned(), position: trouble.position, key: String::new() }
            .error(trouble.why, trouble.mend)
    })
}
