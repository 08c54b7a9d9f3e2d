//! What the stand-in remembers as an OpenID provider: apps, consents, codes, tokens, and the key it signs with
//! (`docs/facts/defguard.md` section 7).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac as _};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::person::Row;

/// An OpenID app, which Defguard's API calls a client.
#[derive(Debug, Clone)]
pub struct App {
    pub id: i64,
    pub client_id: String,
    pub client_secret: String,
    pub name: String,
    pub redirect_uri: Vec<String>,
    pub scope: Vec<String>,
    pub enabled: bool,
}

impl App {
    /// As an administrator sees it, the secret in clear.
    pub fn info(&self) -> Value {
        json!({
            "id": self.id, "client_id": self.client_id, "client_secret": self.client_secret, "name": self.name,
            "redirect_uri": self.redirect_uri, "scope": self.scope, "enabled": self.enabled,
        })
    }
}

/// A code that was given out and not redeemed yet. (The facts say nothing of its lifetime; here it has no end.)
#[derive(Debug, Clone)]
pub struct Code {
    pub owner: i64,
    pub client_id: String,
    pub redirect_uri: String,
    pub scope: String,
    pub nonce: Option<String>,
    pub challenge: Option<String>,
}

/// The tokens of one person for one app.
#[derive(Debug, Clone)]
pub struct Grant {
    pub owner: i64,
    pub app: i64,
    pub scope: String,
    pub access_token: String,
    pub refresh_token: String,
}

/// See the module.
#[derive(Debug)]
pub struct Provider {
    /// The setting `defguard_url`: the issuer, and what cookies are bound to.
    pub defguard_url: Url,
    /// Whether the server was started with `DEFGUARD_HMAC=true`: no key, and HS256.
    pub hmac: bool,
    pub apps: Vec<App>,
    /// Who has agreed to which app.
    pub consents: BTreeSet<(i64, i64)>,
    pub codes: BTreeMap<String, Code>,
    pub grants: Vec<Grant>,
    /// The requests of people who were sent to the login, by the cookie they got for it.
    pub sign_ins: BTreeMap<String, String>,
    next_app: i64,
    next_text: u64,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            defguard_url: Url::parse("https://defguard.example.com/").unwrap(),
            hmac: false,
            apps: Vec::new(),
            consents: BTreeSet::new(),
            codes: BTreeMap::new(),
            grants: Vec::new(),
            sign_ins: BTreeMap::new(),
            next_app: 1,
            next_text: 1,
        }
    }
}

impl Provider {
    /// Adds an app. Neither the name nor anything else has to be new, and nothing but the name is looked at.
    pub fn add_app(
        &mut self,
        name: &str,
        redirect_uri: Vec<String>,
        scope: Vec<String>,
        enabled: bool,
    ) -> App {
        let app = App {
            id: self.next_app,
            client_id: self.text(16),
            client_secret: self.text(32),
            name: name.to_owned(),
            redirect_uri,
            scope,
            enabled,
        };
        self.next_app += 1;
        self.apps.push(app.clone());
        app
    }

    pub fn app(&self, client_id: &str) -> Option<&App> {
        self.apps.iter().find(|app| app.client_id == client_id)
    }

    /// Changes an app, which keeps its id and secret. Another scope ends all consents.
    pub fn change_app(&mut self, client_id: &str, change: impl FnOnce(&mut App)) -> bool {
        let Some(app) = self.apps.iter_mut().find(|app| app.client_id == client_id) else { return false };
        let before = app.clone();
        change(app);
        let (id, other_scope) = (before.id, app.scope != before.scope);
        if other_scope {
            self.consents.retain(|(_, app)| *app != id);
            self.grants.retain(|grant| grant.app != id);
        }
        true
    }

    pub fn remove_app(&mut self, client_id: &str) -> bool {
        let Some(app) = self.app(client_id).cloned() else { return false };
        self.apps.retain(|other| other.id != app.id);
        self.consents.retain(|(_, id)| *id != app.id);
        self.grants.retain(|grant| grant.app != app.id);
        true
    }

    /// Replaces the tokens of a person for an app by new ones.
    pub fn grant(&mut self, owner: i64, app: i64, scope: &str) -> Grant {
        self.grants.retain(|grant| (grant.owner, grant.app) != (owner, app));
        let grant = Grant {
            owner,
            app,
            scope: scope.to_owned(),
            access_token: self.text(24),
            refresh_token: self.text(24),
        };
        self.grants.push(grant.clone());
        grant
    }

    /// A text of letters and digits that nobody has yet.
    pub fn text(&mut self, length: usize) -> String {
        let number = self.next_text;
        self.next_text += 1;
        // Spread over all of the text, as random ones are.
        let digest = Sha256::digest(format!("stand-in {number}"));
        let text: String =
            BASE64_URL_SAFE_NO_PAD.encode(digest).chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{number}{text}").chars().take(length).collect()
    }

    /// The answer to the discovery, which is the same with and without a key.
    pub fn discovery(&self) -> Value {
        let at = |path: &str| self.defguard_url.join(path).unwrap().to_string();
        json!({
            "authorization_endpoint": at("api/v1/oauth/authorize"),
            "claims_supported": [
                "iss", "sub", "aud", "exp", "iat", "name", "given_name", "family_name", "email", "phone_number", "groups"
            ],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "id_token_signing_alg_values_supported": ["HS256", "RS256"],
            "issuer": self.defguard_url,
            "jwks_uri": at("api/v1/oauth/discovery/keys"),
            "response_types_supported": ["code"],
            "scopes_supported": ["openid", "profile", "email", "phone", "groups"],
            "subject_types_supported": ["public"],
            "token_endpoint": at("api/v1/oauth/token"),
            "userinfo_endpoint": at("api/v1/oauth/userinfo"),
        })
    }

    /// The published keys.
    pub fn keys(&self) -> Value {
        if self.hmac {
            return json!({"keys": []});
        }
        let key = key().public_key();
        let number = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({"keys": [{
            "e": number(key.exponent().big_endian_without_leading_zero()),
            "kid": kid(),
            "kty": "RSA",
            "n": number(key.modulus().big_endian_without_leading_zero()),
            "use": "sig",
        }]})
    }

    /// The signed id token that goes with a code, for so many days.
    pub fn id_token(
        &self,
        app: &App,
        (code, of): (&str, &Code),
        claims: Map<String, Value>,
        grant: &Grant,
        now: DateTime<Utc>,
        days: i64,
    ) -> String {
        let mut body = Map::new();
        body.insert("iss".to_owned(), json!(self.defguard_url));
        body.insert("aud".to_owned(), json!([app.client_id]));
        body.insert("exp".to_owned(), json!((now + TimeDelta::days(days)).timestamp()));
        body.insert("iat".to_owned(), json!(now.timestamp()));
        if let Some(nonce) = &of.nonce {
            body.insert("nonce".to_owned(), json!(nonce));
        }
        body.insert("at_hash".to_owned(), json!(half_hash(&grant.access_token)));
        body.insert("c_hash".to_owned(), json!(half_hash(code)));
        body.extend(claims);
        let header = if self.hmac { json!({"alg": "HS256"}) } else { json!({"alg": "RS256", "kid": kid()}) };
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&Value::Object(body)));
        let signature = if self.hmac { hs256(&app.client_secret, &signed) } else { rs256(&signed) };
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What the scopes let an app see of a person. Groups are for the id token only.
pub fn claims(row: &Row, scope: &str, groups: Option<Vec<String>>) -> Map<String, Value> {
    let has = |wanted: &str| scope.split(' ').any(|scope| scope == wanted);
    let mut claims = Map::new();
    let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    put("sub", json!(row.username));
    if has("profile") {
        put("name", json!(format!("{} {}", row.first_name, row.last_name)));
        put("given_name", json!(row.first_name));
        put("family_name", json!(row.last_name));
        put("preferred_username", json!(row.username));
    }
    if has("email") {
        put("email", json!(row.email));
    }
    if let Some(phone) = row.phone.as_ref().filter(|_| has("phone")) {
        put("phone_number", json!(phone));
    }
    if let Some(groups) = groups.filter(|_| has("groups")) {
        put("groups", json!(groups));
    }
    claims
}

/// Whether a verifier is that of an S256 challenge.
pub fn is_verifier_of(verifier: &str, challenge: &str) -> bool {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == challenge
}

/// The key of every stand-in of this process: RSA of 2048 bits, as Defguard makes one at its first start.
fn key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate(KeySize::Rsa2048).unwrap())
}

fn kid() -> String {
    let modulus = key().public_key().modulus().big_endian_without_leading_zero().to_vec();
    Sha256::digest(modulus).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn rs256(text: &str) -> Vec<u8> {
    let key = key();
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
    signature
}

fn hs256(secret: &str, text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// `at_hash` and `c_hash`: the left half of the digest.
fn half_hash(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(text)[..16])
}
