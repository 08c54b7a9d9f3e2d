//! What else homeserver.yaml says about logins: for `check`, and for the forecast of the next login. Values of other
//! types than Synapse takes are passed over: it would not start with them.

use super::{EntryOf, Merged, place};
use crate::{
    config::{
        finding::Place,
        yaml::{Node, Yaml},
    },
    forecast::LoginRules,
};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where it stands; without a line if it is a default.
    pub at: Place,
}

/// The provider's entry, beside what the mapping needs of it (`synapse/config/oidc.py`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `issuer`
    pub issuer: Option<Given<String>>,
    /// `client_id`
    pub client_id: Option<Given<String>>,
    /// Whether Synapse asks the issuer for its endpoints (`discover`, by default yes).
    pub discover: bool,
    /// The endpoints that are written in the entry, by their key, which is that of the discovery document as well.
    pub endpoints: Vec<(&'static str, Given<String>)>,
    /// Whether Synapse takes an issuer without https (`skip_verification`).
    pub skip_verification: bool,
    /// `allow_existing_users`
    pub allow_existing_users: Given<bool>,
    /// Whether the provider may make accounts (`enable_registration`, by default yes).
    pub enable_registration: Given<bool>,
}

/// What holds for the whole homeserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// `public_baseurl` with its slash; without it `https://<server_name>/` (`synapse/config/server.py`).
    pub public_baseurl: Option<String>,
    /// Whether people can register without the provider (`enable_registration`).
    pub open_registration: Given<bool>,
    /// Whether people can log in with a password that Synapse keeps (`password_config`, by default yes).
    pub local_passwords: Given<bool>,
    /// Whether Synapse sends mail, so that a forgotten password can be set anew (`email`).
    pub sends_mail: Given<bool>,
    /// Where it is said that sessions end (`session_lifetime`, `nonrefreshable_access_token_lifetime`).
    pub sessions_end: Option<Place>,
    /// `sso.update_profile_information`
    pub update_profile_information: Given<bool>,
    /// `sso.client_whitelist`
    pub client_whitelist: Vec<Given<String>>,
}

/// Everything that is known of the homeserver's own config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The `idp_id`, and where the provider is written.
    pub idp_id: Given<String>,
    /// The provider's entry.
    pub entry: Entry,
    /// The rest.
    pub site: Site,
}

impl Facts {
    /// How Synapse deals with logins.
    pub fn login_rules(&self) -> LoginRules {
        LoginRules {
            allow_existing_users: self.entry.allow_existing_users.value,
            enable_registration: self.entry.enable_registration.value,
            update_profile_information: self.site.update_profile_information.value,
            known: true,
        }
    }

    /// Where Defguard sends the browser back to: Synapse itself works it out so (`OidcHandler._callback_url`).
    pub fn redirect_uri(&self) -> Option<String> {
        let base = self.site.public_baseurl.as_ref()?;
        Some(format!("{base}_synapse/client/oidc/callback"))
    }
}

/// The endpoints of an entry.
const ENDPOINTS: [&str; 4] = ["authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri"];

pub(super) fn read(entry: &EntryOf<'_>, merged: &Merged) -> Facts {
    let in_entry = |key| entry.node.value.get(key).map(|node| (entry.file, node));
    let text = |key: &'static str| {
        let (file, node) = in_entry(key)?;
        Some(Given { value: text_of(node)?, at: place(file, node, key) })
    };
    let flag = |key: &'static str, default: bool| match in_entry(key) {
        Some((file, node)) => Given { value: node.value.is_something(), at: place(file, node, key) },
        None => Given { value: default, at: Place { key: key.to_owned(), ..entry.at.clone() } },
    };
    Facts {
        idp_id: Given { value: entry.idp_id.to_owned(), at: entry.at.clone() },
        entry: Entry {
            issuer: text("issuer"),
            client_id: text("client_id"),
            discover: flag("discover", true).value,
            endpoints: ENDPOINTS.into_iter().filter_map(|key| Some((key, text(key)?))).collect(),
            skip_verification: flag("skip_verification", false).value,
            allow_existing_users: flag("allow_existing_users", false),
            enable_registration: flag("enable_registration", true),
        },
        site: site(entry, merged),
    }
}

fn site(entry: &EntryOf<'_>, merged: &Merged) -> Site {
    let missing = |key: &str| Place::key(entry.file, key);
    // A key of the top level, or one inside a table there.
    let find = |table: &'static str, key: &'static str| {
        let (file, node) = merged.get(table)?;
        if key.is_empty() {
            return Some((place(file, node, table), node));
        }
        let inner = node.value.get(key)?;
        Some((place(file, inner, &format!("{table}.{key}")), inner))
    };
    let flag = |table: &'static str, key: &'static str, default: bool| match find(table, key) {
        Some((at, node)) => Given { value: node.value.is_something(), at },
        None => Given { value: default, at: missing(if key.is_empty() { table } else { key }) },
    };
    let passwords = {
        let enabled = flag("password_config", "enabled", true);
        // Who has a password already may use it to confirm what they do, but not to log in.
        let reauth = find("password_config", "enabled")
            .is_some_and(|(_, node)| text_of(node).as_deref() == Some("only_for_reauth"));
        let kept = flag("password_config", "localdb_enabled", true).value;
        Given { value: enabled.value && !reauth && kept, ..enabled }
    };
    let server_name = merged.get("server_name").and_then(|(_, node)| text_of(node));
    let base = find("public_baseurl", "").and_then(|(_, node)| text_of(node));
    let mut base = base.or_else(|| server_name.map(|name| format!("https://{name}/")));
    if let Some(base) = base.as_mut().filter(|base| !base.ends_with('/')) {
        base.push('/');
    }
    let ends = ["session_lifetime", "nonrefreshable_access_token_lifetime"]
        .into_iter()
        .find_map(|key| find(key, "").filter(|(_, node)| !matches!(node.value, Yaml::Null)));
    let whitelist = match find("sso", "client_whitelist") {
        Some((_, node)) => match &node.value {
            Yaml::List(list) => list
                .iter()
                .filter_map(|one| {
                    let (file, _) = merged.get("sso")?;
                    Some(Given { value: text_of(one)?, at: place(file, one, "sso.client_whitelist") })
                })
                .collect(),
            _ => Vec::new(),
        },
        None => Vec::new(),
    };
    Site {
        public_baseurl: base,
        open_registration: flag("enable_registration", "", false),
        local_passwords: passwords,
        sends_mail: flag("email", "", false),
        sessions_end: ends.map(|(at, _)| at),
        update_profile_information: flag("sso", "update_profile_information", false),
        client_whitelist: whitelist,
    }
}

fn text_of(node: &Node) -> Option<String> {
    match &node.value {
        Yaml::Text(text) => Some(text.clone()),
        _ => None,
    }
}
