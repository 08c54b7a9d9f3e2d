//! What a config takes from the process's environment, as an argument, so that a test can give its own.

use std::{collections::BTreeMap, env, fmt, path::PathBuf};

/// The prefix of the environment variables that can hold a secret.
const PREFIX: &str = "DEFGUARD_SYNAPSE_SYNC_";

/// What systemd tells a service about its directories.
const DIRECTORIES: [&str; 3] = ["CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"];

/// The environment variables that the config looks at.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// An empty one.
    pub fn empty() -> Self {
        Self::default()
    }

    /// That of this process.
    pub fn of_process() -> Self {
        let variables = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(PREFIX) || DIRECTORIES.contains(&name.as_str()))
            .collect();
        Self { variables }
    }

    /// The same with one more variable.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// The name of the variable that can hold a secret, such as `DEFGUARD_SYNAPSE_SYNC_SYNAPSE_TOKEN` for
    /// `synapse-token`.
    pub(super) fn secret_variable(name: &str) -> String {
        format!("{PREFIX}{}", name.to_uppercase().replace('-', "_"))
    }

    /// A variable that is set to something.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The first directory in a variable; systemd separates several by colons.
    pub(super) fn directory(&self, name: &str) -> Option<PathBuf> {
        self.get(name)?.split(':').next().filter(|path| !path.is_empty()).map(PathBuf::from)
    }
}

/// The values can be secrets: only the names are shown.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}
