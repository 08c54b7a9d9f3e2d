//! What most verbs begin with: the config, the log, and whoever answers: the running daemon or this process.

use std::path::Path;

use tracing_subscriber::{EnvFilter, fmt};

use super::{
    arguments::Global,
    output::{Bar, Exit, complain, complain_failure, complain_findings},
};
use crate::{
    assemble::{self, SystemClock},
    command::{Answer, Command, execute},
    config::{self, Environment, LogFormat, Settings},
    engine::Engine,
    mapping::Templates,
    ports::Clock as _,
    serve::control,
    store::Opened,
};

/// Loads the config and compiles its templates; shows every finding.
pub(super) fn load(path: &Path) -> Result<(Settings, Templates), Exit> {
    let (settings, warnings) =
        config::load(path, &Environment::of_process(), SystemClock.now()).map_err(|findings| {
            complain_findings(&findings);
            Exit::Usage
        })?;
    complain_findings(&warnings);
    let templates = assemble::templates(&settings.templates).map_err(|findings| {
        complain_findings(&findings);
        Exit::Usage
    })?;
    Ok((settings, templates))
}

/// Begins to log to standard error: as the config says for the daemon, only warnings for the other verbs. `RUST_LOG`
/// says otherwise.
pub(super) fn log(settings: &Settings, daemon: bool) {
    let level = if daemon { settings.log.level } else { tracing::Level::WARN };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!("warn,defguard_synapse_sync={}", level.as_str().to_lowercase()))
    });
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log.format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text if daemon => builder.init(),
        LogFormat::Text => builder.without_time().with_target(false).init(),
    }
}

/// Opens the store and puts the engine together.
pub(super) fn engine(settings: &Settings, templates: Templates) -> Result<Engine, Exit> {
    let failed = |failure| complain_failure(&failure);
    let (store, opened) = assemble::store(settings, random()).map_err(failed)?;
    if let Opened::Lost { why } = &opened {
        tracing::warn!(
            why,
            directory = %settings.state.directory.display(),
            "the store was lost: links are found again by the ownership markers in Synapse"
        );
    }
    assemble::engine(settings, templates, store).map_err(failed)
}

#[allow(clippy::disallowed_methods, reason = "the one place where a new store gets its name")]
fn random() -> u128 {
    rand::random()
}

/// Has a command done by the daemon if one is running, else in this process.
pub(super) async fn answer(global: &Global, command: &Command) -> Result<Answer, Exit> {
    let (settings, templates) = load(&global.config)?;
    log(&settings, false);
    let bar = Bar::new();
    let asked = control::ask(&settings.control.socket, command, bar.as_ref()).await;
    let answer = match asked.map_err(|failure| complain_failure(&failure))? {
        Some(answer) => answer,
        None => {
            let engine = engine(&settings, templates)?;
            let stop = engine.stop().clone();
            // The people in hand are finished; a second Ctrl-C ends the program at once.
            let watch = tokio::spawn(async move {
                if tokio::signal::ctrl_c().await.is_ok() {
                    complain("ending after the people in hand; Ctrl-C again ends at once");
                    stop.cancel();
                    if tokio::signal::ctrl_c().await.is_ok() {
                        std::process::exit(i32::from(Exit::Failed as u8));
                    }
                }
            });
            let answer = execute(&engine, command, bar.as_ref()).await;
            watch.abort();
            answer
        }
    };
    bar.clear();
    match answer {
        Answer::Failed(failure) => Err(complain_failure(&failure)),
        Answer::Refused(why) => {
            complain(&format!("error: {why}"));
            Err(Exit::Failed)
        }
        answer => Ok(answer),
    }
}

/// The daemon gave another kind of answer than was asked for.
pub(super) fn unexpected() -> Exit {
    complain(
        "error: the daemon gave an answer of another kind; use the same version of the program as the daemon",
    );
    Exit::Failed
}
