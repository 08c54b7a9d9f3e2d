//! `generate`: man pages and completions, from the very definition that the arguments are read by.

use std::{fs, path::Path};

use clap::CommandFactory as _;

use super::{
    arguments::{Arguments, Generate},
    output::{Exit, complain, say},
};

/// The name under which the shell calls us.
const NAME: &str = "defguard-synapse-sync";

pub(super) fn generate(verb: &Generate) -> Result<Exit, Exit> {
    match verb {
        Generate::Man { directory } => {
            fs::create_dir_all(directory)
                .and_then(|()| clap_mangen::generate_to(command(), directory))
                .map_err(|error| cannot_write(directory, &error))?;
        }
        Generate::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut command(), NAME, &mut text);
            say(&String::from_utf8_lossy(&text));
        }
    }
    Ok(Exit::Done)
}

/// The whole definition of the command line.
pub fn command() -> clap::Command {
    Arguments::command()
}

fn cannot_write(directory: &Path, error: &std::io::Error) -> Exit {
    complain(&format!("error: {} cannot be written to: {error}", directory.display()));
    Exit::Failed
}
