//! What a config says about where things are, read without any check: what setting up takes as given. A config that
//! cannot be used yet, since what it refers to is only about to be set up, can be read so.

use std::path::{Path, PathBuf};

/// Where things are. What is missing, or of another type than it should be, is `None` or empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// `defguard.url`
    pub defguard_url: Option<String>,
    /// `defguard.username`
    pub defguard_username: Option<String>,
    /// `defguard.password_file`
    pub defguard_password_file: Option<PathBuf>,
    /// `defguard.totp_secret_file`
    pub defguard_totp_secret_file: Option<PathBuf>,
    /// `defguard.token_file`
    pub defguard_token_file: Option<PathBuf>,
    /// `defguard.ca_file`
    pub defguard_ca_file: Option<PathBuf>,
    /// `synapse.url`
    pub synapse_url: Option<String>,
    /// `synapse.token_file`
    pub synapse_token_file: Option<PathBuf>,
    /// `synapse.ca_file`
    pub synapse_ca_file: Option<PathBuf>,
    /// `synapse.idp_id`
    pub idp_id: Option<String>,
    /// `synapse.homeserver_config`
    pub homeserver_config: Vec<PathBuf>,
}

impl Outline {
    /// Reads a config file. `None` if there is none; the error says why one that is there cannot be read.
    pub fn read(file: &Path) -> Result<Option<Self>, String> {
        match std::fs::read_to_string(file) {
            Ok(text) => Self::of(&text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(super::secrets::explain_io(&error)),
        }
    }

    fn of(text: &str) -> Result<Self, String> {
        // Its message quotes nothing of the file.
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| format!("it is not TOML: {}", error.message()))?;
        let value = |section: &str, key: &str| table.get(section)?.get(key);
        let text = |section, key| value(section, key)?.as_str().map(str::to_owned);
        let path = |section, key| text(section, key).map(PathBuf::from);
        Ok(Self {
            defguard_url: text("defguard", "url"),
            defguard_username: text("defguard", "username"),
            defguard_password_file: path("defguard", "password_file"),
            defguard_totp_secret_file: path("defguard", "totp_secret_file"),
            defguard_token_file: path("defguard", "token_file"),
            defguard_ca_file: path("defguard", "ca_file"),
            synapse_url: text("synapse", "url"),
            synapse_token_file: path("synapse", "token_file"),
            synapse_ca_file: path("synapse", "ca_file"),
            idp_id: text("synapse", "idp_id"),
            homeserver_config: value("synapse", "homeserver_config")
                .and_then(toml::Value::as_array)
                .map(|paths| paths.iter().filter_map(|path| path.as_str().map(PathBuf::from)).collect())
                .unwrap_or_default(),
        })
    }
}
