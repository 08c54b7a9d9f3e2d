//! Templates, scopes and `idp_id`, which are written either in this config or in the homeserver's own.

use crate::config::{
    Environment,
    homeserver_yaml::{self, Provider},
    raw::{At, Table},
    secrets,
    settings::{TemplateText, TemplateTexts},
};

/// The templates, scopes and `idp_id` of Defguard's documentation for Synapse.
const SUBJECT_TEMPLATE: &str = "{{ user.sub }}";
const LOCALPART_TEMPLATE: &str = "{{ user.email.split('@')[0] }}";
const DISPLAY_NAME_TEMPLATE: &str = "{{ user.first_name }} {{ user.last_name }}";
const EMAIL_TEMPLATE: &str = "{{ user.email }}";
const SCOPES: [&str; 4] = ["openid", "profile", "email", "phone"];
const IDP_ID: &str = "Defguard";

/// Where templates, scopes and `idp_id` are written.
pub(super) enum Origin {
    /// In this config.
    Here,
    /// In the homeserver's own files.
    Homeserver(Box<Provider>),
    /// In the homeserver's own files, which cannot be used; the reason is among the findings.
    Unusable,
}

pub(super) fn scopes(table: &mut Table<'_, '_>, origin: &Origin) -> Vec<String> {
    match (table.texts("scopes"), origin) {
        (Some(scopes), Origin::Here) => {
            if !scopes.value.iter().any(|scope| scope.value == "openid") {
                table.find(scopes.at.error(
                    "without the scope openid there is no login by OpenID Connect",
                    "Write the list that stands in the `scopes` of the provider in homeserver.yaml.",
                ));
            }
            scopes.value.into_iter().map(|scope| scope.value).collect()
        }
        (None, Origin::Here) => SCOPES.map(str::to_owned).to_vec(),
        (Some(scopes), _) => {
            table.find(scopes.at.error(
                "the scopes are written twice: they come from the homeserver's own config (`synapse.homeserver_config`)",
                "Take them out here.",
            ));
            Vec::new()
        }
        (None, Origin::Homeserver(provider)) => provider.scopes.clone(),
        (None, Origin::Unusable) => Vec::new(),
    }
}

pub(super) fn auth_provider(
    table: &mut Table<'_, '_>,
    idp_id: Option<At<String>>,
    origin: &Origin,
) -> Option<String> {
    match (origin, idp_id) {
        (Origin::Homeserver(provider), _) => Some(provider.auth_provider.clone()),
        (Origin::Unusable, _) => None,
        (Origin::Here, None) => homeserver_yaml::auth_provider(IDP_ID),
        (Origin::Here, Some(id)) => {
            let name = homeserver_yaml::auth_provider(&id.value);
            if name.is_none() {
                table.find(id.at.error(
                    "Synapse would refuse this idp_id",
                    "Write the `idp_id` of the provider in homeserver.yaml: 1 to 250 of the characters A-Z, a-z, 0-9, \
                     '.', '_', '~' and '-'.",
                ));
            } else if id.value.starts_with("oidc-") {
                table.find(id.at.warning(
                    "Synapse itself puts `oidc-` before the idp_id, so that external ids would be kept under \
                     `oidc-oidc-…`, where no login finds them",
                    "Write the `idp_id` as it stands in homeserver.yaml.",
                ));
            }
            name
        }
    }
}

/// Reads the homeserver's own files, if they are named.
pub(super) fn origin(table: &mut Table<'_, '_>, idp_id: Option<&At<String>>, env: &Environment) -> Origin {
    let Some(paths) = table.texts("homeserver_config") else { return Origin::Here };
    if paths.value.is_empty() {
        table.find(paths.at.error(
            "the list is empty",
            "Write the paths that Synapse gets with --config-path, in the same order, or take the key out and fill \
             in [templates].",
        ));
        return Origin::Unusable;
    }
    let mut files = Vec::new();
    for path in &paths.value {
        match secrets::absolute_or_credential(path, env) {
            Ok(file) => files.push(file),
            Err(finding) => table.find(finding),
        }
    }
    if files.len() < paths.value.len() {
        return Origin::Unusable;
    }
    let (origin, findings) = match homeserver_yaml::read(&files, idp_id.map(|id| (id.value.as_str(), &id.at)))
    {
        Ok((provider, warnings)) => (Origin::Homeserver(Box::new(provider)), warnings),
        Err(findings) => (Origin::Unusable, findings),
    };
    for finding in findings {
        table.find(finding);
    }
    origin
}

pub(super) fn templates(mut table: Table<'_, '_>, origin: &Origin) -> Option<TemplateTexts> {
    let given = ["subject_template", "localpart_template", "display_name_template", "email_template"]
        .map(|key| (key, table.text(key)));
    if matches!(origin, Origin::Here) {
        let texts = own_templates(&mut table, given);
        table.close();
        return Some(texts);
    }
    for text in given.into_iter().filter_map(|(_, text)| text) {
        table.find(text.at.error(
            "the template is written twice: it comes from the homeserver's own config (`synapse.homeserver_config`)",
            "Take it out here; change it in homeserver.yaml.",
        ));
    }
    let texts = match origin {
        Origin::Homeserver(provider) => {
            if provider.templates.localpart.is_none() {
                table.find(provider.at.error(
                    "there is no `localpart_template` in the provider's `user_mapping_provider.config`: Synapse then \
                     asks each person for a name at the first login, so that no account can be made before it",
                    "Add a `localpart_template` to the homeserver's config.",
                ));
            }
            Some(provider.templates.clone())
        }
        Origin::Here | Origin::Unusable => None,
    };
    table.close();
    texts
}

fn own_templates(table: &mut Table<'_, '_>, given: [(&'static str, Option<At<String>>); 4]) -> TemplateTexts {
    if given.iter().all(|(_, text)| text.is_none()) {
        table.find(table.missing("localpart_template").warning(
            "no template is given, so those of Defguard's documentation are taken; if Synapse's own differ, people \
             get accounts with names that can never be changed",
            "Name the homeserver's own files in `synapse.homeserver_config`, or copy the templates from them into \
             [templates].",
        ));
    }
    let [subject, localpart, display_name, email] = given.map(|(key, text)| {
        let default = match key {
            "subject_template" => SUBJECT_TEMPLATE,
            "localpart_template" => LOCALPART_TEMPLATE,
            "display_name_template" => DISPLAY_NAME_TEMPLATE,
            _ => EMAIL_TEMPLATE,
        };
        match text {
            // As in Synapse, an empty subject template is its default.
            Some(text) if key != "subject_template" || !text.value.is_empty() => {
                TemplateText { text: text.value, at: text.at }
            }
            _ => TemplateText { text: default.to_owned(), at: table.missing(key) },
        }
    });
    if localpart.text.trim().is_empty() {
        table.find(localpart.at.error("without a localpart there can be no account", "Write a template."));
    }
    TemplateTexts {
        subject,
        localpart: Some(localpart),
        display_name: Some(display_name),
        email: Some(email),
    }
}
