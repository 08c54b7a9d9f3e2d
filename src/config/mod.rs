//! The config: a TOML file, and the homeserver's own YAML files if it names them, checked as a whole.
//!
//! [`load`] gives either [`Settings`], whose values nobody need doubt, or every finding at once, each with its place,
//! what is wrong and what to do. Secrets come from files, systemd credentials or the environment; they are in no
//! finding and in no `Debug`.

mod check;
mod environment;
mod finding;
pub mod homeserver;
pub mod homeserver_yaml;
mod outline;
mod raw;
mod secrets;
mod settings;
mod yaml;

use std::path::Path;

use chrono::{DateTime, Utc};

pub use environment::Environment;
pub use finding::{Finding, Level, Place};
pub use outline::Outline;
pub use secrets::read_secret;
pub use settings::{
    AccountSettings, ControlSettings, DefguardAuth, DefguardSettings, Globs, LogFormat, LogSettings,
    MonitoringSettings, NoticeSettings, Pem, ScheduleSettings, ScopeSettings, Settings, StateSettings,
    SynapseSettings, TemplateText, TemplateTexts, WebhookSettings,
};

/// Reads and checks a config file. With the settings come the warnings; without them, every error and warning.
///
/// `now` decides whether a cron expression will ever come true.
pub fn load(
    path: &Path,
    env: &Environment,
    now: DateTime<Utc>,
) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    check(&read(path)?, path, env, now)
}

/// Reads the templates of a config file only, for which neither the secrets nor the servers need be at hand.
pub fn load_templates(path: &Path, env: &Environment) -> Result<TemplateTexts, Vec<Finding>> {
    let text = read(path)?;
    let mut document = raw::Document::parse(path, &text)?;
    let texts = check::templates(&mut document, env);
    let findings = document.findings();
    match texts {
        Some(texts) if !findings.iter().any(Finding::is_error) => Ok(texts),
        _ => Err(findings),
    }
}

/// Reads only what is needed to ask the daemon, for which neither the secrets nor the rest of the config need be in
/// order.
pub fn load_asking(path: &Path, env: &Environment) -> Result<(ControlSettings, LogSettings), Vec<Finding>> {
    let text = read(path)?;
    let mut document = raw::Document::parse(path, &text)?;
    let settings = check::asking(&mut document, env);
    let findings = document.findings();
    if findings.iter().any(Finding::is_error) { Err(findings) } else { Ok(settings) }
}

fn read(path: &Path) -> Result<String, Vec<Finding>> {
    std::fs::read(path)
        .map_err(|error| secrets::explain_io(&error))
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned()))
        .map_err(|why| {
            vec![check::whole(path).error(
                format!("the config cannot be read: {why}"),
                "Give the path of the config with --config, and let the user that this runs as read it.",
            )]
        })
}

/// Checks the text of a config; `file` is its name in findings.
pub fn check(
    text: &str,
    file: &Path,
    env: &Environment,
    now: DateTime<Utc>,
) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    let (settings, mut findings) = match raw::Document::parse(file, text) {
        Ok(mut document) => (check::settings(&mut document, env, now), document.close()),
        Err(findings) => (None, findings),
    };
    findings.sort_by_key(|finding| (finding.at.file != file, finding.at.position, finding.level));
    match settings {
        Some(settings) if !findings.iter().any(Finding::is_error) => Ok((settings, findings)),
        _ => Err(findings),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_example_has_every_key_in_its_table_and_no_other() {
        let example = include_str!("../../config/config.example.toml");
        let mut table = "";
        let mut documented = BTreeSet::new();
        for line in example.lines() {
            let line = line.trim_start_matches(['#', ' ']);
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                table = name;
                documented.insert(("", table));
            } else if let Some((key, _)) = line.split_once(" = ") {
                documented.insert((table, key));
            }
        }
        let mut document = raw::Document::parse(Path::new("x"), "").unwrap_or_else(|_| unreachable!());
        check::settings(&mut document, &Environment::empty(), DateTime::UNIX_EPOCH);
        assert_eq!(*document.known(), documented);
    }
}
