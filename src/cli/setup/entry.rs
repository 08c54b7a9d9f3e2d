//! The entry of `oidc_providers` that ties Synapse to Defguard, as text. Pure.

use std::{fmt::Write as _, path::Path};

use crate::defguard::Discovery;

/// The scopes whose claims the templates use, and the phone number for those who want it.
pub(super) const SCOPES: [&str; 4] = ["openid", "profile", "email", "phone"];
/// The username, which is unique in Defguard but for case; an address's first half need not be.
pub(super) const LOCALPART: &str = "{{ user.preferred_username }}";
/// The claims of a login: `first_name` and `last_name` are none, and would leave the name empty.
pub(super) const DISPLAY_NAME: &str = "{{ user.given_name }} {{ user.family_name }}";
/// The address in Defguard.
pub(super) const EMAIL: &str = "{{ user.email }}";

/// One entry.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) idp_id: &'a str,
    pub(super) idp_name: &'a str,
    pub(super) discovery: &'a Discovery,
    pub(super) client_id: &'a str,
    pub(super) client_secret_path: &'a Path,
    pub(super) localpart_template: &'a str,
    pub(super) display_name_template: &'a str,
    pub(super) email_template: &'a str,
    /// Whether only people can log in who have an account already.
    pub(super) provisioned_only: bool,
}

impl Entry<'_> {
    /// A file of its own.
    pub(super) fn file(&self) -> String {
        format!(
            "# Written by `defguard-synapse-sync setup oidc`.\n\
             #\n\
             # Synapse merges its files key by key: if another file has `oidc_providers`, too, one of the two lists is\n\
             # lost. All providers belong into one list.\n\
             oidc_providers:\n{}",
            self.item()
        )
    }

    /// The entry as an item of a list that is there already.
    pub(super) fn item(&self) -> String {
        let mut text = String::new();
        let mut line = |indent: usize, key: &str, value: &str| {
            let _ = writeln!(text, "{:indent$}{key}: {value}", "");
        };
        line(2, "- idp_id", &quoted(self.idp_id));
        line(4, "idp_name", &quoted(self.idp_name));
        line(4, "discover", "false");
        // Spelled as Defguard does, with the slash: Synapse compares it with each login's token.
        line(4, "issuer", &quoted(&self.discovery.issuer));
        if !self.discovery.issuer.starts_with("https://") {
            // Synapse takes no other issuer without this.
            line(4, "skip_verification", "true");
        }
        line(4, "client_id", &quoted(self.client_id));
        line(4, "client_secret_path", &quoted(&self.client_secret_path.display().to_string()));
        line(4, "scopes", &format!("[{}]", SCOPES.map(quoted).join(", ")));
        line(4, "authorization_endpoint", &quoted(&self.discovery.authorization_endpoint));
        line(4, "token_endpoint", &quoted(&self.discovery.token_endpoint));
        line(4, "userinfo_endpoint", &quoted(&self.discovery.userinfo_endpoint));
        line(4, "jwks_uri", &quoted(&self.discovery.jwks_uri));
        if self.provisioned_only {
            line(4, "enable_registration", "false");
        }
        line(4, "user_mapping_provider", "");
        line(6, "config", "");
        line(8, "localpart_template", &quoted(self.localpart_template));
        line(8, "display_name_template", &quoted(self.display_name_template));
        line(8, "email_template", &quoted(self.email_template));
        text.replace(": \n", ":\n")
    }
}

/// A text as YAML reads it back, whatever is in it: YAML's quoted texts are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn discovery(issuer: &str) -> Discovery {
        Discovery {
            issuer: issuer.to_owned(),
            authorization_endpoint: format!("{issuer}a"),
            token_endpoint: format!("{issuer}t"),
            userinfo_endpoint: format!("{issuer}u"),
            jwks_uri: format!("{issuer}k"),
        }
    }

    fn read(issuer: &str, provisioned_only: bool) -> (String, Value) {
        let discovery = discovery(issuer);
        let entry = Entry {
            idp_id: "Defguard",
            idp_name: "Our \"login\": #1",
            discovery: &discovery,
            client_id: "0123",
            client_secret_path: Path::new("/etc/x y"),
            localpart_template: LOCALPART,
            display_name_template: DISPLAY_NAME,
            email_template: EMAIL,
            provisioned_only,
        };
        let text = entry.file();
        let value = serde_saphyr::from_str(&text).unwrap();
        (text, value)
    }

    #[test]
    fn an_entry_is_read_back_as_it_was_meant() {
        let (text, value) = read("https://d/", false);
        assert_eq!(
            value,
            json!({"oidc_providers": [{
                "idp_id": "Defguard", "idp_name": "Our \"login\": #1", "discover": false, "issuer": "https://d/",
                "client_id": "0123", "client_secret_path": "/etc/x y",
                "scopes": ["openid", "profile", "email", "phone"],
                "authorization_endpoint": "https://d/a", "token_endpoint": "https://d/t",
                "userinfo_endpoint": "https://d/u", "jwks_uri": "https://d/k",
                "user_mapping_provider": {"config": {
                    "localpart_template": LOCALPART, "display_name_template": DISPLAY_NAME, "email_template": EMAIL,
                }},
            }]})
        );
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
    }

    #[test]
    fn only_what_was_asked_for_closes_registration_and_only_plain_http_skips_the_check() {
        let entry = |issuer, only| read(issuer, only).1["oidc_providers"][0].clone();
        assert_eq!(entry("https://d/", true)["enable_registration"], json!(false));
        assert_eq!(entry("https://d/", false).get("enable_registration"), None);
        assert_eq!(entry("http://d/", false)["skip_verification"], json!(true));
        assert_eq!(entry("https://d/", false).get("skip_verification"), None);
    }
}
