//! The command line: arguments → command → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    defguard_synapse_sync::cli::main()
}
