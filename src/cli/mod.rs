//! The command line, one file a verb.
//!
//! Exit codes: 0 done, 1 failed, 2 usage or config, 3 some people failed, 4 held by the guard, 5 source or target
//! unusable.

mod adopt;
mod arguments;
mod batch;
mod check;
mod explain;
mod forget;
mod generate;
mod hand;
mod journal;
mod log;
mod output;
mod page;
mod render;
mod run;
mod session;
mod setup;
mod state;
mod status;
mod sync;

use std::process::ExitCode;

use clap::Parser as _;

use self::{
    arguments::{Arguments, MigrateVerb, StateVerb, Verb},
    output::Exit,
};

pub use self::{generate::command, sync::show as show_report};

/// Reads the arguments, does what they say and gives the exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(&format!("error: the runtime cannot be started: {error}"));
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let exit = runtime.block_on(run_verb(&arguments));
    ExitCode::from(exit.unwrap_or_else(|exit| exit) as u8)
}

/// `Err` is an exit code too: that of a verb that ended early, after it said why.
async fn run_verb(arguments: &Arguments) -> Result<Exit, Exit> {
    let global = &arguments.global;
    match &arguments.verb {
        Verb::Run => run::run(global).await,
        Verb::Sync(verb) => sync::sync(global, verb).await,
        Verb::Plan(verb) => sync::plan(global, verb).await,
        Verb::Approve(verb) => sync::approve(global, verb).await,
        Verb::Explain(verb) => explain::explain(global, verb).await,
        Verb::Adopt(verb) => adopt::adopt(global, verb).await,
        Verb::Link(verb) => hand::link(global, verb).await,
        Verb::Unlink(verb) => hand::unlink(global, verb).await,
        Verb::Status => status::status(global).await,
        Verb::Journal(verb) => journal::journal(global, verb).await,
        Verb::Revert(verb) => batch::revert(global, verb).await,
        Verb::Forget(verb) => forget::forget(global, verb).await,
        Verb::State(verb) => match &verb.verb {
            StateVerb::Export(verb) => state::export(global, verb).await,
            StateVerb::Import(verb) => state::import(global, verb),
            StateVerb::Rebuild(verb) => state::rebuild(global, verb).await,
        },
        Verb::Migrate(verb) => match &verb.verb {
            MigrateVerb::Finish(verb) => batch::finish(global, verb).await,
        },
        Verb::Render(verb) => render::render(global, verb),
        Verb::Check(verb) => check::check(global, verb).await,
        Verb::Setup(verb) => setup::setup(global, verb).await,
        Verb::Generate(verb) => generate::generate(verb),
    }
}
