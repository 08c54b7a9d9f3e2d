//! What most verbs begin with: the config, the log, and whoever answers: the running daemon or this process.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    arguments::Global,
    log::{self, Log},
    output::{Bar, Exit, complain, complain_failure, complain_findings},
};
use crate::{
    assemble::{self, SystemClock},
    command::{Answer, Command, execute},
    config::{self, ControlSettings, Environment, Finding, Settings},
    domain::{Failure, FailureClass, Peer},
    engine::{Engine, Progress},
    mapping::Templates,
    ports::{Clock as _, ServerPair, Snapshot, Store},
    serve::control,
    store::{self, Identity, Opened, SledStore},
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
            if let Ok(texts) = config::load_templates(path, &Environment::of_process()) {
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

/// Opens the store, and makes it if there is none.
pub(super) fn store(settings: &Settings) -> Result<Arc<dyn Store>, Failure> {
    let (store, opened) = assemble::store(settings, random())?;
    if let Opened::Lost { why } = &opened {
        tracing::warn!(
            why,
            directory = %settings.state.directory.display(),
            "the store was lost: nobody is off-boarded until `state rebuild` has found the links again"
        );
    }
    Ok(store)
}

#[allow(clippy::disallowed_methods, reason = "the one place where a new store gets its name")]
fn random() -> u128 {
    rand::random()
}

/// One use of the program: its log is begun once, whatever is asked then.
pub(super) struct Session<'g> {
    global: &'g Global,
    control: ControlSettings,
    log: Log,
}

impl<'g> Session<'g> {
    /// Reads as much of the config as is needed to ask the daemon: whoever only asks it need not be able to read the
    /// secrets.
    pub(super) fn open(global: &'g Global) -> Result<Self, Exit> {
        let asking = config::load_asking(&global.config, &Environment::of_process());
        let (control, settings) = asking.map_err(|findings| {
            complain_findings(&findings);
            Exit::Usage
        })?;
        Ok(Self { global, control, log: log::begin(&settings, global, false) })
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

    /// Has the daemon take a command on, and does not wait for the answer.
    pub(super) async fn leave(&self, command: &Command) -> Result<(), Exit> {
        let taken = Taken::default();
        let asked = control::ask(&self.control.socket, command, &taken);
        let answer = tokio::select! {
            answer = asked => answer.map_err(|failure| complain_failure(&failure))?,
            () = taken.0.notified() => return Ok(()),
        };
        match answer {
            None => {
                complain(
                    "error: no daemon is running, so nobody can do it later\n  → without --no-wait it is done here",
                );
                Err(Exit::Failed)
            }
            Some(Answer::Failed(failure)) => Err(complain_failure(&failure)),
            Some(Answer::Refused(why)) => {
                complain(&format!("error: {why}"));
                Err(Exit::Failed)
            }
            Some(_) => Ok(()),
        }
    }

    async fn ask(&self, command: &Command, bar: &Bar) -> Result<Option<Answer>, Failure> {
        let socket = &self.control.socket;
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
        let (settings, _) = load(&self.global.config)?;
        let engine = engine(&settings, command).map_err(|failure| complain_failure(&failure))?;
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
        if let Answer::Run(report) = &answer
            && self.log.journal
        {
            report.log();
        }
        Ok(answer)
    }
}

/// Tells when the daemon has taken on what it was asked for.
#[derive(Default)]
struct Taken(tokio::sync::Notify);

impl Progress for Taken {
    fn taken(&self) {
        self.0.notify_one();
    }

    fn step(&self, _done: usize, _total: usize) {}
}

/// Begins an empty store with everything that another one remembered.
pub(super) fn import(settings: &Settings, snapshot: &Snapshot) -> Result<(), Failure> {
    if let Some(pair) = &snapshot.pair {
        let here = ServerPair {
            instance: settings.defguard.instance.clone(),
            defguard_url: settings.defguard.url.to_string(),
            ..pair.clone()
        };
        let differences = pair.differences(&here);
        if !differences.is_empty() {
            let why = format!("it belongs to another pair of servers: {}", differences.join("; "));
            return Err(Failure::new(Peer::Store, FailureClass::NeedsPerson, "importing", why)
                .mend("put the config right, or import another file"));
        }
    }
    refuse_root(settings)?;
    SledStore::import(&settings.state.directory, &Identity::new(random()), snapshot)
}

/// Has a question answered by the daemon if one is running, else in this process, and says nothing itself.
pub(super) async fn ask_quietly(settings: &Settings, command: &Command) -> Result<Answer, Failure> {
    let bar = Bar::new();
    let answer = match control::ask(&settings.control.socket, command, bar.as_ref()).await? {
        Some(answer) => answer,
        None => execute(&engine(settings, command)?, command, bar.as_ref()).await,
    };
    bar.clear();
    match answer {
        Answer::Failed(failure) => Err(failure),
        answer => Ok(answer),
    }
}

/// The engine for a command. One that only looks cannot write to Synapse, and makes no store.
fn engine(settings: &Settings, command: &Command) -> Result<Engine, Failure> {
    let templates = assemble::templates(&settings.templates).map_err(|findings| {
        let what = "compiling the templates";
        let why = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Failure::new(Peer::Store, FailureClass::Permanent, what, why)
    })?;
    // What cannot be found out is found out, and explained, when the store is opened.
    let no_store = matches!(store::exists(&settings.state.directory), Ok(false));
    if command.only_looks() {
        let store = if no_store { Arc::new(store::Nothing) } else { own_store(settings)? };
        return assemble::engine_that_only_looks(settings, templates, store);
    }
    assemble::engine(settings, templates, own_store(settings)?)
}

/// Opens the store of this process.
fn own_store(settings: &Settings) -> Result<Arc<dyn Store>, Failure> {
    refuse_root(settings)?;
    store(settings)
}

/// The store is not opened as root if it is another user's: files that root makes in it would keep that user's daemon from
/// starting.
fn refuse_root(settings: &Settings) -> Result<(), Failure> {
    let owner = fs::metadata(settings.state.directory.join("store.lock")).map(|file| file.uid());
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
    Ok(())
}

/// The daemon gave another kind of answer than was asked for.
pub(super) fn unexpected() -> Exit {
    complain(
        "error: the daemon gave an answer of another kind\n  → use the same version of the program as the daemon",
    );
    Exit::Failed
}
