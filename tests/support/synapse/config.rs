//! The configuration of a Synapse for tests.

use std::{fs, io, path::Path, sync::Arc};

use serde_json::{Map, Value, json};

/// The configuration's file name.
pub(super) const FILE: &str = "homeserver.yaml";

/// The name of the directory for further files.
pub(super) const DIRECTORY: &str = "conf.d";

/// With it anybody can register accounts, so it is good for tests only.
pub(super) const SHARED_SECRET: &str = "registration-in-tests";

/// Is told how far something is, one line at a time.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// How a Synapse is to be set up.
#[derive(Clone)]
pub struct Options {
    /// What stands behind the colon of every MXID.
    pub server_name: String,
    /// Whether anybody may register an account.
    pub enable_registration: bool,
    /// Whether to make the admin `admin`; Synapse cannot make one where it leaves accounts to MAS.
    pub admin: bool,
    /// The entry of `oidc_providers`.
    pub oidc_provider: Option<Value>,
    /// Further keys of homeserver.yaml; they take the place of the ones here.
    pub extra: Map<String, Value>,
    /// Where to tell how far the start is; standard error if nothing is given.
    pub progress: Option<Tell>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            server_name: "sync.test".to_owned(),
            enable_registration: false,
            admin: true,
            oidc_provider: Some(defguard_provider("http://127.0.0.1:9", "synapse", "secret")),
            extra: Map::new(),
            progress: None,
        }
    }
}

/// The provider entry that Defguard's documentation gives, for a Defguard at `issuer`.
pub fn defguard_provider(issuer: &str, client_id: &str, client_secret: &str) -> Value {
    let issuer = issuer.trim_end_matches('/');
    json!({
        "idp_id": "Defguard",
        "idp_name": "Defguard",
        "discover": false,
        // Without it Synapse takes only https for an issuer.
        "skip_verification": true,
        "issuer": format!("{issuer}/"),
        "client_id": client_id,
        "client_secret": client_secret,
        "scopes": ["openid", "profile", "email", "phone"],
        "authorization_endpoint": format!("{issuer}/api/v1/oauth/authorize"),
        "token_endpoint": format!("{issuer}/api/v1/oauth/token"),
        "userinfo_endpoint": format!("{issuer}/api/v1/oauth/userinfo"),
        "jwks_uri": format!("{issuer}/api/v1/oauth/discovery/keys"),
        "user_mapping_provider": { "config": {
            "localpart_template": "{{ user.email.split('@')[0] }}",
            "display_name_template": "{{ user.first_name }} {{ user.last_name }}",
            "email_template": "{{ user.email }}",
        }},
    })
}

/// Writes homeserver.yaml and what it refers to. JSON is YAML, too.
pub(super) fn write(data: &Path, port: u16, options: &Options) -> io::Result<()> {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).map_err(io::Error::other);
    let mut config = json!({
        "server_name": options.server_name,
        "public_baseurl": format!("http://127.0.0.1:{port}/"),
        "listeners": [{
            "port": port,
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "tls": false,
            "resources": [{ "names": ["client"] }],
        }],
        "database": { "name": "sqlite3", "args": { "database": data.join("homeserver.db") } },
        "log_config": data.join("log.yaml"),
        "pid_file": data.join("synapse.pid"),
        "media_store_path": data.join("media"),
        "enable_media_repo": false,
        // A key for tests: 32 bytes that everybody can read here.
        "signing_key": "ed25519 test AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "macaroon_secret_key": "macaroons-in-tests",
        "form_secret": "forms-in-tests",
        "registration_shared_secret": SHARED_SECRET,
        "enable_registration": options.enable_registration,
        "enable_registration_without_verification": options.enable_registration,
        "trusted_key_servers": [],
        "suppress_key_server_warning": true,
        "federation_domain_whitelist": [],
        "report_stats": false,
        "presence": { "enabled": false },
        "background_updates": { "sleep_enabled": false },
        // Hashing a password is not what is tested.
        "bcrypt_rounds": 4,
        "rc_login": {
            "address": { "per_second": 1000, "burst_count": 1000 },
            "account": { "per_second": 1000, "burst_count": 1000 },
        },
    });
    if let Some(provider) = &options.oidc_provider {
        config["oidc_providers"] = json!([provider]);
    }
    for (key, value) in &options.extra {
        config[key.as_str()] = value.clone();
    }
    let log = json!({
        "version": 1,
        "formatters": { "line": { "format": "%(asctime)s %(levelname)s %(name)s: %(message)s" } },
        "handlers": { "console": { "class": "logging.StreamHandler", "formatter": "line" } },
        "root": { "level": "WARNING", "handlers": ["console"] },
        "disable_existing_loggers": false,
    });
    fs::create_dir_all(data.join(DIRECTORY))?;
    fs::write(data.join("log.yaml"), pretty(&log)?)?;
    fs::write(data.join(FILE), pretty(&config)?)
}
