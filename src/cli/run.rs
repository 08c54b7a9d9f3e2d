//! `run`: the daemon.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    arguments::Global,
    log::{self, Log},
    output::{Exit, complain_failure},
    session,
};
use crate::{
    alive::Alive,
    assemble::{self, Observers, SystemClock, timetable},
    config::{Finding, Settings},
    daemon::{Daemon, Reload},
    engine::Engine,
    http::{LONGEST_PAUSE, Meter},
    ports::Clock as _,
    schedule::Timetable,
    serve::{metrics::Metrics, systemd::Systemd},
};

pub(super) async fn run(global: &Global) -> Result<Exit, Exit> {
    let (settings, templates) = session::load(&global.config)?;
    let log = log::begin(&settings.log, global, true);
    let clock = Arc::new(SystemClock);
    let metrics = Arc::new(Metrics::new(clock.now()));
    let systemd = Arc::new(Systemd::of_process(longest_silence(&settings)));
    let observers = Observers { alive: alive(&systemd), meter: Some(Arc::clone(&metrics) as Arc<dyn Meter>) };
    let engine = session::store(&settings)
        .and_then(|store| assemble::observed_engine(&settings, templates, store, &observers))
        .map_err(|failure| complain_failure(&failure))?;
    let socket = settings.control.socket.clone();
    let mut daemon = Daemon::new(engine, clock, timetable(&settings), settings.schedule.catch_up, draw)
        .monitored(&settings, metrics)
        .with_webhook(settings.webhook.clone());
    if let (Some(board), Some(notices)) = (assemble::noticeboard(&settings), &settings.notices) {
        daemon = daemon.with_notices(board, notices.unusable_after);
    }
    let again = Again {
        file: global.config.clone(),
        settings: Mutex::new(settings),
        log,
        systemd: Arc::clone(&systemd),
        observers,
    };
    match daemon.watched_by(systemd).reloaded_by(Arc::new(again)).run(&socket).await {
        Ok(()) => Ok(Exit::Done),
        Err(failure) => Err(complain_failure(&failure)),
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place where the jitter is drawn")]
fn draw() -> f64 {
    rand::random()
}

fn alive(systemd: &Arc<Systemd>) -> Alive {
    let systemd = Arc::clone(systemd);
    Alive::new(move || systemd.alive())
}

/// The longest time from one sign of life to the next while all is well: one try of a request, and the pause before
/// the next one.
fn longest_silence(settings: &Settings) -> Duration {
    settings.defguard.timeout.max(settings.synapse.timeout) + LONGEST_PAUSE
}

/// Reads the config again, as the daemon asks for it.
struct Again {
    file: PathBuf,
    /// Those that count now.
    settings: Mutex<Settings>,
    log: Log,
    systemd: Arc<Systemd>,
    observers: Observers,
}

impl Reload for Again {
    fn reload(&self, engine: &Engine) -> Option<(Engine, Timetable)> {
        let (mut new, templates, warnings) = match session::read(&self.file) {
            Ok(read) => read,
            Err(findings) => {
                findings.iter().for_each(tell);
                return None;
            }
        };
        warnings.iter().for_each(tell);
        let mut old = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keep_what_needs_a_restart(&old, &mut new) {
            tracing::warn!(key, "`{key}` was changed and needs a restart; it is left as it was");
        }
        let engine = match assemble::renewed(engine, &new, templates, &self.observers) {
            Ok(engine) => engine,
            Err(failure) => {
                tracing::error!(%failure, "the new config cannot be used");
                return None;
            }
        };
        if std::env::var_os("CREDENTIALS_DIRECTORY").is_some() {
            tracing::info!(
                "systemd hands over credentials only when a service starts: after a change of a secret, restart it"
            );
        }
        self.log.set_level(new.log.level);
        self.systemd.ask_for_patience(longest_silence(&new));
        let timetable = timetable(&new);
        *old = new;
        Some((engine, timetable))
    }
}

/// Keeps what a daemon that runs cannot change, and gives the keys of it that were changed.
fn keep_what_needs_a_restart(old: &Settings, new: &mut Settings) -> Vec<&'static str> {
    let mut keys = Vec::new();
    if old.state.directory != new.state.directory {
        keys.push("state.directory");
        new.state.directory.clone_from(&old.state.directory);
    }
    if old.control.socket != new.control.socket {
        keys.push("control.socket");
        new.control.socket.clone_from(&old.control.socket);
    }
    if old.monitoring != new.monitoring {
        keys.push("monitoring");
        new.monitoring.clone_from(&old.monitoring);
    }
    let webhook =
        |settings: &Settings| settings.webhook.as_ref().map(|webhook| (webhook.listen, webhook.delay));
    if webhook(old) != webhook(new) {
        keys.push("webhook");
        new.webhook.clone_from(&old.webhook);
    }
    let notices = |settings: &Settings| {
        settings.notices.as_ref().map(|notices| (notices.room.clone(), notices.unusable_after))
    };
    if notices(old) != notices(new) {
        keys.push("notices");
        new.notices.clone_from(&old.notices);
    }
    if old.log.format != new.log.format {
        keys.push("log.format");
        new.log.format = old.log.format;
    }
    keys
}

/// Logs a finding as it would stand on the terminal.
fn tell(finding: &Finding) {
    let mend = finding.mend.as_str();
    if finding.is_error() {
        tracing::error!(at = %finding.at, mend, "{}", finding.problem);
    } else {
        tracing::warn!(at = %finding.at, mend, "{}", finding.problem);
    }
}
