//! What most verbs begin with: the config, the log, and whoever answers: the running daemon or this process.

use std::{fs, io::IsTerminal as _, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, fmt};

use super::{
    arguments::Global,
    output::{Bar, Exit, complain, complain_failure, complain_findings},
};
use crate::{
    assemble::{self, SystemClock},
    command::{Answer, Command, execute},
    config::{self, Environment, Finding, LogFormat, Settings},
    domain::{Failure, FailureClass, Peer},
    engine::Engine,
    mapping::Templates,
    ports::{Clock as _, Store},
    serve::control,
    store::{self, Opened},
};

/// Loads the config and compiles its templates: with them the warnings, without them every finding.
pub(super) fn read(path: &Path) -> Result<(Settings, Templates, Vec<Finding>), Vec<Finding>> {
    let mut findings = match config::load(path, &Environment::of_process(), SystemClock.now()) {
        Ok((settings, warnings)) => match assemble::templates(&settings.templates) {
            Ok(templates) => return Ok((settings, templates, warnings)),
            Err(errors) => warnings.into_iter().chain(errors).collect(),
        },
        Err(mut findings) => {
            // What is wrong with the templates is said in the same breath, if they can be read at all.
            if let Ok(texts) = config::load_templates(path) {
                findings.extend(assemble::templates(&texts).err().unwrap_or_default());
            }
            findings
        }
    };
    findings.sort_by_key(|finding: &Finding| (finding.at.file != path, finding.at.position, finding.level));
    Err(findings)
}

/// Loads the config and compiles its templates; shows every finding.
pub(super) fn load(path: &Path) -> Result<(Settings, Templates), Exit> {
    let (settings, templates, warnings) = read(path).map_err(|findings| {
        complain_findings(&findings);
        Exit::Usage
    })?;
    complain_findings(&warnings);
    Ok((settings, templates))
}

/// Begins to log to standard error: as the config says for the daemon, only warnings for the other verbs. `RUST_LOG`
/// says otherwise.
pub(super) fn log(settings: &Settings, daemon: bool) {
    let level = if daemon { settings.log.level } else { tracing::Level::WARN };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!("warn,defguard_synapse_sync={}", level.as_str().to_lowercase()))
    });
    let builder =
        fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match settings.log.format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text if daemon => builder.init(),
        LogFormat::Text => builder.without_time().with_target(false).init(),
    }
}

/// Opens the store, and makes it if there is none.
pub(super) fn store(settings: &Settings) -> Result<Arc<dyn Store>, Failure> {
    let (store, opened) = assemble::store(settings, random())?;
    if let Opened::Lost { why } = &opened {
        tracing::warn!(
            why,
            directory = %settings.state.directory.display(),
            "the store was lost: links are found again by the ownership markers in Synapse"
        );
    }
    Ok(store)
}

#[allow(clippy::disallowed_methods, reason = "the one place where a new store gets its name")]
fn random() -> u128 {
    rand::random()
}

/// One use of the program: its config is read and its log begun once, whatever is asked then.
pub(super) struct Session {
    settings: Settings,
}

impl Session {
    pub(super) fn open(global: &Global) -> Result<Self, Exit> {
        let (settings, _) = load(&global.config)?;
        log(&settings, false);
        Ok(Self { settings })
    }

    /// The same with settings that were read before.
    pub(super) fn of(settings: Settings) -> Self {
        Self { settings }
    }

    /// The config.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Has a question answered by the daemon if one is running, else in this process, and says nothing itself.
    pub(super) async fn try_answer(&self, command: &Command) -> Result<Answer, Failure> {
        let bar = Bar::new();
        let answer = match self.ask(command, &bar).await? {
            Some(answer) => answer,
            None => execute(&self.build(command)?, command, bar.as_ref()).await,
        };
        bar.clear();
        match answer {
            Answer::Failed(failure) => Err(failure),
            answer => Ok(answer),
        }
    }

    /// Has a command done by the daemon if one is running, else in this process.
    pub(super) async fn answer(&self, command: &Command) -> Result<Answer, Exit> {
        let bar = Bar::new();
        let answer = match self.ask(command, &bar).await.map_err(|failure| complain_failure(&failure))? {
            Some(answer) => answer,
            None => self.execute(command, &bar).await?,
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

    async fn ask(&self, command: &Command, bar: &Bar) -> Result<Option<Answer>, Failure> {
        let socket = &self.settings.control.socket;
        let asked = control::ask(socket, command, bar);
        // A handler for Ctrl-C stays for good; where nothing is changed it may just end the program, at a question too.
        if command.only_looks() {
            return asked.await;
        }
        tokio::select! {
            answer = asked => answer,
            Ok(()) = tokio::signal::ctrl_c() => Err(Failure::new(
                Peer::Store,
                FailureClass::Transient,
                format!("asking the daemon through {}", socket.display()),
                "you did not wait for the answer; the daemon goes on with it",
            )
            .mend("see what came of it with `status` and `journal`")),
        }
    }

    async fn execute(&self, command: &Command, bar: &Bar) -> Result<Answer, Exit> {
        let engine = self.engine(command)?;
        if command.only_looks() {
            return Ok(execute(&engine, command, bar).await);
        }
        let stop = engine.stop().clone();
        let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| {
            complain(&format!("error: Ctrl-C cannot be listened for: {error}"));
            Exit::Failed
        })?;
        let watch = tokio::spawn(async move {
            if interrupts.recv().await.is_some() {
                complain("ending after the people in hand; Ctrl-C again ends at once");
                stop.cancel();
                if interrupts.recv().await.is_some() {
                    std::process::exit(i32::from(Exit::Failed as u8));
                }
            }
        });
        let answer = execute(&engine, command, bar).await;
        watch.abort();
        Ok(answer)
    }

    /// The engine for a command, or a complaint.
    fn engine(&self, command: &Command) -> Result<Engine, Exit> {
        self.build(command).map_err(|failure| complain_failure(&failure))
    }

    /// The engine for a command. One that only looks cannot write to Synapse, and makes no store.
    fn build(&self, command: &Command) -> Result<Engine, Failure> {
        let settings = &self.settings;
        let templates = assemble::templates(&settings.templates).map_err(|findings| {
            let what = "compiling the templates";
            let why = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Failure::new(Peer::Store, FailureClass::Permanent, what, why)
        })?;
        // What cannot be found out is found out, and explained, when the store is opened.
        let no_store = matches!(store::exists(&settings.state.directory), Ok(false));
        if command.only_looks() {
            let store = if no_store { Arc::new(store::Nothing) } else { self.own_store()? };
            return assemble::engine_that_only_looks(settings, templates, store);
        }
        assemble::engine(settings, templates, self.own_store()?)
    }

    /// Opens the store, but not as root if it is another user's: files that root makes in it would keep that user's
    /// daemon from starting.
    fn own_store(&self) -> Result<Arc<dyn Store>, Failure> {
        let owner = fs::metadata(self.settings.state.directory.join("store.lock")).map(|file| file.uid());
        let user = fs::metadata("/proc/self").map(|process| process.uid());
        if let (Ok(owner), Ok(0)) = (owner, user)
            && owner != 0
        {
            return Err(Failure::new(
                Peer::Store,
                FailureClass::Permanent,
                "opening the store",
                format!("it belongs to the user with the number {owner}, and this is root"),
            )
            .mend(format!(
                "start the daemon and ask again, or run this as that user, for example with \
                 `setpriv --reuid={owner} --clear-groups`"
            )));
        }
        store(&self.settings)
    }
}

/// The daemon gave another kind of answer than was asked for.
pub(super) fn unexpected() -> Exit {
    complain(
        "error: the daemon gave an answer of another kind\n  → use the same version of the program as the daemon",
    );
    Exit::Failed
}
