//! The arguments of all verbs.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{config::LogFormat, domain::Certainty};

use super::setup::Setup;

/// Where the config is if nothing else is said.
pub(super) const CONFIG: &str = "/etc/defguard-synapse-sync/config.toml";

/// Keeps the accounts of a Synapse homeserver in step with the people in Defguard.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    max_term_width = 100,
    after_help = "While the daemon runs, the verbs go through its control socket; else they do their work themselves.\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage or config, 3 some people failed, 4 held by the guard, \
                  5 Defguard or Synapse cannot be used."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Args)]
pub(super) struct Global {
    /// The config file
    #[arg(long, short, global = true, env = "DEFGUARD_SYNAPSE_SYNC_CONFIG", default_value = CONFIG, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Print JSON for programs instead of tables for people
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Log to standard error in this form, as lines or as one JSON object a line, and not to systemd's journal
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(super) log_format: Option<GivenFormat>,
}

/// A form of the log that is asked for on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum GivenFormat {
    Text,
    Json,
}

impl From<GivenFormat> for LogFormat {
    fn from(given: GivenFormat) -> Self {
        match given {
            GivenFormat::Text => Self::Text,
            GivenFormat::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the daemon: sync by the schedule in the config until SIGTERM or Ctrl-C
    Run,
    /// Bring accounts in step now, those of everybody or of single people
    Sync(Sync),
    /// Show what a sync would do, and change nothing
    Plan(Plan),
    /// Let run what the guard holds, once, and only what `plan` showed with this digest
    Approve(Approve),
    /// Explain one person: who they are, what each template gives, which account, what would be done and why
    Explain(Explain),
    /// Match accounts that are there already to people, show it, and link them once it is approved
    ///
    /// For a homeserver that had people before it was joined to Defguard. An account is matched by the login that it
    /// carries (certain), by its e-mail address (likely), or by its name alone (a guess). Nothing is written until the
    /// digest of what was shown is given with --approve.
    Adopt(Adopt),
    /// Say that an account is a person's
    Link(Link),
    /// Say that a person's account is not theirs any more
    Unlink(Unlink),
    /// Show how things are: links, conflicts, failures, the last runs
    Status,
    /// Show what was done, with what was there before
    Journal(Journal),
    /// Put back what one run did: locks, display names, e-mail addresses and links
    ///
    /// Only where the account still shows what the run left. It shows first what would be put back, what cannot be put
    /// back and why, and what the next sync would do again; then it asks.
    Revert(Revert),
    /// Take one person's data out of the journal, with their remembered conflicts and failures
    ///
    /// Their link stays, since it says whose the account is; take it off with `unlink`.
    Forget(Forget),
    /// Copy what is remembered out and in again, or find it again when it is lost
    State(State),
    /// End a change of idp_id or subject_template
    Migrate(Migrate),
    /// Show what the templates make of claims that are read from standard input
    ///
    /// Reads one object with claims, an array of them, or JSON lines, and prints one line of JSON for each:
    /// {"localpart":…,"display_name":…,"emails":[…],"subject":…} or {"error":…}. The templates come from the config,
    /// or from --homeserver-config, or from the four template options, of which a missing one is Synapse's default.
    Render(Render),
    /// Check the config, both servers, our rights there, the login between them, and the templates on every person
    Check(Check),
    /// Set up what the service needs in Defguard, in Synapse and on this machine
    #[command(subcommand)]
    Setup(Setup),
    /// Make the man pages and the completions of shells
    #[command(subcommand)]
    Generate(Generate),
}

#[derive(Debug, Subcommand)]
pub(super) enum Generate {
    /// Write one man page for the program and one for each verb
    Man {
        /// Where to; it is made if it is not there
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(super) struct Sync {
    /// Only these people: username, number in Defguard (as '#13', with the quotes), or MXID
    #[arg(value_name = "USER")]
    pub(super) people: Vec<String>,
    /// Decide only, change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Read every owned account and repair what the list of accounts does not show
    #[arg(long)]
    pub(super) full: bool,
    /// Wait for the end, show how far it is and what was done, and end with the exit code of the run; this is the
    /// default
    #[arg(long, overrides_with = "no_wait")]
    pub(super) wait: bool,
    /// Only tell the daemon, and do not wait
    #[arg(long, overrides_with = "wait", conflicts_with = "dry_run")]
    pub(super) no_wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct Plan {
    /// Only these people: username, number in Defguard (as '#13', with the quotes), or MXID
    #[arg(value_name = "USER")]
    pub(super) people: Vec<String>,
    /// Plan a full pass
    #[arg(long)]
    pub(super) full: bool,
}

#[derive(Debug, Args)]
pub(super) struct Approve {
    /// The digest that `plan` or `status` shows
    #[arg(value_name = "DIGEST")]
    pub(super) digest: String,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Username, number in Defguard (as '#13', with the quotes), or MXID
    #[arg(value_name = "USER")]
    pub(super) person: String,
}

/// The least certainty of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AtLeast {
    /// Their login opens it already
    Certain,
    /// It has their e-mail address
    Likely,
    /// It has their name
    Guess,
}

impl AtLeast {
    pub(super) fn as_str(self) -> &'static str {
        Certainty::from(self).as_str()
    }
}

impl From<AtLeast> for Certainty {
    fn from(least: AtLeast) -> Self {
        match least {
            AtLeast::Certain => Self::Certain,
            AtLeast::Likely => Self::Likely,
            AtLeast::Guess => Self::Guess,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Adopt {
    /// Only these people: username, or number in Defguard (as '#13', with the quotes)
    #[arg(value_name = "USER")]
    pub(super) people: Vec<String>,
    /// How sure a match must be
    #[arg(long, value_enum, default_value_t = AtLeast::Likely, value_name = "CERTAINTY")]
    pub(super) at_least: AtLeast,
    /// Link what was shown with this digest
    #[arg(long, value_name = "DIGEST")]
    pub(super) approve: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Forecast what Synapse would do at everybody's next login, too, which asks it about each person
    #[arg(long)]
    pub(super) people: bool,
    /// Show the logins that are as they should be, too
    #[arg(long, requires = "people")]
    pub(super) verbose: bool,
}

#[derive(Debug, Args)]
pub(super) struct Link {
    /// Username, or number in Defguard (as '#13', with the quotes)
    #[arg(value_name = "USER")]
    pub(super) person: String,
    /// The account, such as @alice:example.org
    pub(super) mxid: String,
    /// Do it without asking
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Unlink {
    /// Username, number in Defguard (as '#13', with the quotes), or MXID
    #[arg(value_name = "USER")]
    pub(super) person: String,
    /// Do it without asking
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Journal {
    /// Only for this person: username, number in Defguard (as '#13', with the quotes), or MXID
    #[arg(value_name = "USER")]
    pub(super) person: Option<String>,
    /// Only what this run did
    #[arg(long, value_name = "RUN")]
    pub(super) run: Option<u64>,
    /// The newest so many lines; without it 50, and with --run all
    #[arg(long, short = 'n', value_name = "LINES")]
    pub(super) limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct Revert {
    /// The run, as `status` and `journal` number it
    #[arg(value_name = "RUN")]
    pub(super) run: u64,
    /// Only for these people: username, number in Defguard (as '#13', with the quotes), or MXID
    #[arg(value_name = "USER")]
    pub(super) people: Vec<String>,
    /// Show it only, change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do it without asking
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Forget {
    /// Username, number in Defguard (as '#13', with the quotes), or MXID
    #[arg(value_name = "USER")]
    pub(super) person: String,
    /// Do it without asking
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct State {
    #[command(subcommand)]
    pub(super) verb: StateVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum StateVerb {
    /// Write everything that is remembered as JSON lines
    ///
    /// It holds names and addresses. A file is made with mode 0600, and a file of that name is replaced.
    Export(Export),
    /// Begin an empty store with what `state export` wrote
    ///
    /// The daemon must be stopped. Everything is taken or nothing. If the homeserver has seen later changes of that store,
    /// it counts as an old copy: nobody is off-boarded before `state rebuild`.
    Import(Import),
    /// Find the links again through the ownership markers on the accounts
    ///
    /// Reads every account once. What was found stays if it is interrupted; begun again, it goes through all accounts
    /// once more. When all were read and nothing contradicts them, off-boarding goes on.
    Rebuild(Rebuild),
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The file; standard output without it
    #[arg(value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file; - for standard input
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Rebuild {
    /// Go on although another daemon said lately that it works on this homeserver; only if it is surely stopped
    #[arg(long)]
    pub(super) take_over: bool,
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    #[command(subcommand)]
    pub(super) verb: MigrateVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum MigrateVerb {
    /// Take the logins under the former idp_id or subject_template off all accounts
    ///
    /// Until then both logins open an account. It is refused as long as some accounts lack their new login.
    Finish(Finish),
}

#[derive(Debug, Args)]
pub(super) struct Finish {
    /// Do it without asking
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Render {
    /// Take the templates from the homeserver's own YAML: a file, or a directory of files; can be given several times
    #[arg(long, value_name = "FILE", conflicts_with_all = ["subject_template", "localpart_template", "display_name_template", "email_template"])]
    pub(super) homeserver_config: Vec<PathBuf>,
    /// The template of the subject
    #[arg(long, value_name = "TEMPLATE")]
    pub(super) subject_template: Option<String>,
    /// The template of the localpart
    #[arg(long, value_name = "TEMPLATE")]
    pub(super) localpart_template: Option<String>,
    /// The template of the display name
    #[arg(long, value_name = "TEMPLATE")]
    pub(super) display_name_template: Option<String>,
    /// The template of the e-mail address
    #[arg(long, value_name = "TEMPLATE")]
    pub(super) email_template: Option<String>,
    /// Leave out the fields that Defguard's people have beside Synapse's claims
    #[arg(long)]
    pub(super) claims_only: bool,
}
