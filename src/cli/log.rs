//! Where the log goes, and what a line of it looks like.

use std::{fs, io::IsTerminal as _, os::unix::fs::MetadataExt as _};

use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use super::arguments::Global;
use crate::config::{LogFormat, LogSettings};

/// The log of this process.
pub(super) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    /// Whether lines go to the journal with their fields.
    pub(super) journal: bool,
}

/// Begins to log: the daemon at the level of the config, the other verbs only warnings, unless they write into the
/// journal. `RUST_LOG` says otherwise.
///
/// What systemd started logs to the journal with fields. Anything else, and what was told a format by `--log-format`
/// or has `format = "json"` in its config, logs to standard error.
pub(super) fn begin(settings: &LogSettings, global: &Global, daemon: bool) -> Log {
    let given = global.log_format.map(LogFormat::from);
    let wants_journal = given.is_none() && settings.format == LogFormat::Text && stderr_is_the_journal();
    let journal = wants_journal.then(tracing_journald::layer).and_then(Result::ok);
    let to_journal = journal.is_some();
    let level = if daemon || to_journal { settings.level } else { Level::WARN };
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines: Box<dyn Layer<_> + Send + Sync> = match (journal, given.unwrap_or(settings.format)) {
        (Some(journal), _) => Box::new(journal.with_field_prefix(None)),
        (None, LogFormat::Json) => Box::new(fmt::layer().with_writer(std::io::stderr).json()),
        (None, LogFormat::Text) => {
            let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
            if daemon { Box::new(lines) } else { Box::new(lines.without_time().with_target(false)) }
        }
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Log { filter: handle, journal: to_journal }
}

impl Log {
    /// Logs at another level from now on.
    pub(super) fn set_level(&self, level: Level) {
        if let Err(error) = self.filter.reload(filter(level)) {
            tracing::warn!(%error, "the level of the log is left as it was");
        }
    }
}

fn filter(level: Level) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!("warn,defguard_synapse_sync={}", level.as_str().to_lowercase()))
    })
}

/// Whether standard error is the stream to the journal that systemd gave us: `JOURNAL_STREAM` names its device and
/// inode (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    fs::metadata("/proc/self/fd/2")
        .is_ok_and(|found| stream.to_str() == Some(&format!("{}:{}", found.dev(), found.ino())))
}
