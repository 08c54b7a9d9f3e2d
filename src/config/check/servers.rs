//! `[defguard]` and `[synapse]`: where the two servers are and how we log in.

use std::net::IpAddr;

use reqwest::Certificate;
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use super::{
    MINUTE, SECOND,
    mapping::{self, Origin},
};
use crate::{
    config::{
        environment::Environment,
        raw::Table,
        secrets::{self, Wanted},
        settings::{DefguardAuth, DefguardSettings, Pem, SynapseSettings},
    },
    domain::{CreateMode, Instance, Username},
};

const DEFGUARD_TOKEN: Wanted =
    Wanted { key: "token_file", name: "defguard-token", what: "the API token for Defguard" };
const DEFGUARD_PASSWORD: Wanted =
    Wanted { key: "password_file", name: "defguard-password", what: "the password for Defguard" };
const DEFGUARD_TOTP: Wanted = Wanted {
    key: "totp_secret_file",
    name: "defguard-totp-secret",
    what: "the secret of the second factor for Defguard",
};
const SYNAPSE_TOKEN: Wanted =
    Wanted { key: "token_file", name: "synapse-token", what: "the access token for Synapse" };

/// The source.
pub(super) fn defguard(
    mut table: Table<'_, '_>,
    origin: &Origin,
    env: &Environment,
) -> Option<DefguardSettings> {
    let url = base_url(&mut table, "the address at which Defguard's web page is reached");
    let instance = instance(&mut table);
    let auth = defguard_auth(&mut table, env);
    let ca = certificates(&mut table);
    let timeout = table.duration("timeout", MINUTE, SECOND, 10 * MINUTE);
    let page_workers = table.number(
        "page_workers",
        4,
        1..9,
        "more than 8 only make Defguard slower, whose database pool has 10 connections",
    );
    let scopes = mapping::scopes(&mut table, origin);
    table.close();
    Some(DefguardSettings {
        url: url?,
        instance: instance?,
        auth: auth?,
        ca,
        timeout,
        page_workers: page_workers as usize,
        scopes,
    })
}

fn instance(table: &mut Table<'_, '_>) -> Option<Instance> {
    let Some(name) = table.text("instance") else { return Some(Instance::new("default")) };
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if (1..=64).contains(&name.value.len()) && name.value.chars().all(fits) {
        return Some(Instance::new(name.value));
    }
    table.find(name.at.error(
        "the name goes into the ownership marker of every account, and this cannot stand there",
        "Use 1 to 64 of the characters a-z, 0-9, '.', '_' and '-'.",
    ));
    None
}

fn defguard_auth(table: &mut Table<'_, '_>, env: &Environment) -> Option<DefguardAuth> {
    let username = table.text("username");
    let token = secrets::source(table, &DEFGUARD_TOKEN, env);
    let password = secrets::source(table, &DEFGUARD_PASSWORD, env);
    let totp = secrets::source(table, &DEFGUARD_TOTP, env);

    if let Some(token) = token {
        let others =
            [username.map(|it| it.at), password.map(|it| it.at().clone()), totp.map(|it| it.at().clone())];
        for other in others.into_iter().flatten() {
            table.find(other.error(
                format!(
                    "there are two ways to log in to Defguard: an API token is given, too ({})",
                    token.at()
                ),
                "Keep either the API token, or the username with its password (and TOTP secret).",
            ));
        }
        return secrets::read(table, &DEFGUARD_TOKEN, &token).map(DefguardAuth::Token);
    }
    let Some(username) = username else {
        let (at, problem) = match password.or(totp) {
            Some(source) => {
                (source.at().clone(), "a secret for logging in to Defguard is given, but no username")
            }
            None => (table.missing("token_file"), "there is no way to log in to Defguard"),
        };
        table.find(at.error(
            problem,
            format!(
                "Give `username`, and the password: {} Or give an API token (which needs a licence in Defguard 2.x): {}",
                DEFGUARD_PASSWORD.ways(),
                DEFGUARD_TOKEN.ways()
            ),
        ));
        return None;
    };
    if username.value.trim().is_empty() {
        table
            .find(username.at.error("the username is empty", "Write the username of the service's account."));
    }
    let totp_secret = match totp {
        None => Some(None),
        Some(source) => totp_secret(table, &source).map(Some),
    };
    let password = match password {
        Some(source) => secrets::read(table, &DEFGUARD_PASSWORD, &source),
        None => {
            let finding = table
                .missing(DEFGUARD_PASSWORD.key)
                .error("the password that belongs to `username` is missing", DEFGUARD_PASSWORD.ways());
            table.find(finding);
            None
        }
    };
    Some(DefguardAuth::Session {
        username: Username::new(username.value),
        password: password?,
        totp_secret: totp_secret?,
    })
}

fn totp_secret(table: &mut Table<'_, '_>, source: &secrets::Source) -> Option<SecretString> {
    let secret = secrets::read(table, &DEFGUARD_TOTP, source)?;
    if totp_rs::Secret::try_from_base32(secret.expose_secret()).is_ok() {
        return Some(secret);
    }
    table.find(source.at().error(
        "the secret of the second factor is not base32 (A to Z and 2 to 7, without blanks)",
        "Take the text that Defguard shows below the QR code when TOTP is set up.",
    ));
    None
}

/// The target, and where its templates are written.
pub(super) fn synapse(mut table: Table<'_, '_>, env: &Environment) -> (Option<SynapseSettings>, Origin) {
    let url =
        base_url(&mut table, "the address of Synapse's main process, such as \"http://127.0.0.1:8008\"");
    let token = match secrets::source(&mut table, &SYNAPSE_TOKEN, env) {
        Some(source) => secrets::read(&mut table, &SYNAPSE_TOKEN, &source),
        None => {
            let finding = table
                .missing(SYNAPSE_TOKEN.key)
                .error("the access token of a server admin is missing", SYNAPSE_TOKEN.ways());
            table.find(finding);
            None
        }
    };
    let ca = certificates(&mut table);
    let timeout = table.duration("timeout", MINUTE, SECOND, 10 * MINUTE);
    let concurrency = table.number(
        "concurrency",
        4,
        1..17,
        "Synapse's main process uses one core, and beyond 8 only the waiting grows",
    );
    let create = table.choice(
        "create",
        &[
            ("auto", CreateMode::Auto),
            ("one-request", CreateMode::OneRequest),
            ("empty-first", CreateMode::EmptyFirst),
        ],
        CreateMode::Auto,
    );
    let idp_id = table.text("idp_id");
    let origin = mapping::origin(&mut table, idp_id.as_ref(), env);
    let auth_provider = mapping::auth_provider(&mut table, idp_id, &origin);
    table.close();
    let (server_name, homeserver) = match &origin {
        Origin::Homeserver(provider) => (provider.server_name.clone(), Some(provider.facts.clone())),
        Origin::Here | Origin::Unusable => (None, None),
    };
    let settings = || {
        Some(SynapseSettings {
            url: url?,
            token: token?,
            ca,
            timeout,
            concurrency: concurrency as usize,
            auth_provider: auth_provider?,
            create,
            server_name,
            homeserver,
        })
    };
    (settings(), origin)
}

/// The base address of a server. It is never shown: somebody may have put a password or a token into it.
fn base_url(table: &mut Table<'_, '_>, what: &str) -> Option<Url> {
    let text = table.required_text("url", "it says which server to talk to", &format!("Write {what}."))?;
    let mend =
        format!("Write {what}: http:// or https://, the host, and the port if it is not the usual one.");
    let mut url = match Url::parse(text.value.trim()) {
        Ok(url) => url,
        Err(error) => {
            table.find(text.at.error(format!("this is not an address: {error}"), mend));
            return None;
        }
    };
    let problem = if !matches!(url.scheme(), "http" | "https") {
        Some("only http:// and https:// can be used")
    } else if !url.username().is_empty() || url.password().is_some() {
        Some("there is a user or a password in the address; secrets are not taken from the config itself")
    } else if url.query().is_some() || url.fragment().is_some() {
        Some("there is a ? or a # in the address, which no base address has")
    } else if ["api", "_matrix", "_synapse"].iter().any(|part| has_segment(&url, part)) {
        Some("this is the address of one endpoint, not that of the server")
    } else {
        None
    };
    if let Some(problem) = problem {
        table.find(text.at.error(problem, mend));
        return None;
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        table.find(text.at.warning(
            "the connection is not encrypted: the token or password and everybody's data can be read on the way",
            "Use https://, or a network that nobody else is on.",
        ));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Some(url)
}

fn has_segment(url: &Url, segment: &str) -> bool {
    url.path_segments().is_some_and(|mut segments| segments.any(|part| part == segment))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

fn certificates(table: &mut Table<'_, '_>) -> Option<Pem> {
    let file = table.text("ca_file")?;
    let path = match secrets::absolute(&file) {
        Ok(path) => path,
        Err(finding) => {
            table.find(finding);
            return None;
        }
    };
    let mend = "Name a file with one or more certificates in PEM form (-----BEGIN CERTIFICATE-----).";
    let pem = match std::fs::read(&path) {
        Ok(pem) => pem,
        Err(error) => {
            let why = secrets::explain_io(&error);
            table.find(file.at.error(format!("{} cannot be read: {why}", path.display()), mend));
            return None;
        }
    };
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Some(Pem(pem)),
        _ => {
            table.find(file.at.error(format!("there is no certificate in {}", path.display()), mend));
            None
        }
    }
}
