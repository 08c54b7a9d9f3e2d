//! The part of `check` that is about this machine: the daemon, the state directory, the control socket.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::super::output::moment;
use crate::{
    command::{Answer, Command},
    config::Settings,
    diagnosis::{Finding, Kind},
    serve::control,
    store,
};

/// Looks at the daemon and at what it needs on disk.
pub(super) async fn look(findings: &mut Vec<Finding>, settings: &Settings) {
    findings.push(daemon(&settings.control.socket).await);
    findings.push(state(&settings.state.directory));
    if let Some(directory) = settings.control.socket.parent()
        && let Some(found) = open_to_others(directory)
    {
        findings.push(Finding::warning(
            Kind::Socket, "socket",
            found,
            "put control.socket into a directory in which only the service's user can make files; under systemd, set \
             RuntimeDirectory=defguard-synapse-sync and leave control.socket at its default",
        ));
    }
}

async fn daemon(socket: &Path) -> Finding {
    match control::ask(socket, &Command::Status, &()).await {
        Ok(None) => Finding::ok(Kind::Daemon, "daemon", "none is running"),
        Ok(Some(Answer::Status(status))) => {
            let own = env!("CARGO_PKG_VERSION");
            if status.version != own {
                return Finding::warning(
                    Kind::Daemon,
                    "daemon",
                    format!("it is version {}, and this program is version {own}", status.version),
                    "restart the daemon with the new version",
                );
            }
            let since = status
                .daemon
                .map_or_else(String::new, |daemon| format!(" since {} UTC", moment(daemon.started)));
            Finding::ok(
                Kind::Daemon,
                "daemon",
                format!("up{since}; a config that was changed counts after a reload (SIGHUP) or a restart"),
            )
        }
        Ok(Some(_)) => Finding::warning(
            Kind::Daemon,
            "daemon",
            "it gave an answer of another kind",
            "use the same version of the program as the daemon",
        ),
        Err(failure) => Finding::warning(
            Kind::Daemon,
            "daemon",
            format!("{}: {}", failure.what, failure.why),
            failure.mend.unwrap_or_default(),
        ),
    }
}

/// Whether there is a state directory, and whether we can work in it.
fn state(directory: &Path) -> Finding {
    let shown = directory.display();
    match store::exists(directory) {
        Ok(_) => {}
        Err(error) => {
            return Finding::warning(
                Kind::State,
                "state",
                format!("{shown} cannot be looked into by this user: {error}"),
                "run this as the service's user, or make that user the owner of the directory",
            );
        }
    }
    match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::ok(
            Kind::State,
            "state",
            format!("{shown} does not exist yet; the first sync or systemd makes it"),
        ),
        Err(error) => {
            Finding::warning(Kind::State, "state", format!("{shown}: {error}"), "see what is there")
        }
        Ok(found) if !found.is_dir() => Finding::warning(
            Kind::State,
            "state",
            format!("{shown} is no directory"),
            "set another state.directory",
        ),
        Ok(_) => match can_write(directory) {
            Ok(()) => Finding::ok(Kind::State, "state", format!("{shown} can be written to")),
            Err(error) => Finding::warning(
                Kind::State,
                "state",
                format!("{shown} cannot be written to by this user: {error}"),
                "run this as the service's user, or make that user the owner of the directory",
            ),
        },
    }
}

/// Tries it, since rights are not all: the file system can be read-only or full.
fn can_write(directory: &Path) -> io::Result<()> {
    let trial = directory.join(format!(".check-{}", std::process::id()));
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&trial)?;
    fs::remove_file(trial)
}

/// Whether others than its owner can put something of theirs in the place of the socket.
fn open_to_others(directory: &Path) -> Option<String> {
    let mode = fs::metadata(directory).ok()?.mode();
    let (writable, sticky) = (mode & 0o022 != 0, mode & 0o1000 != 0);
    (writable && !sticky).then(|| {
        format!(
            "{} can be written to by others than its owner (mode {:o}), who could put a socket of theirs there",
            directory.display(),
            mode & 0o7777
        )
    })
}
