//! The arguments of `setup`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Setup {
    /// Register the OpenID app in Defguard, and write Synapse's provider entry and this service's config
    ///
    /// Looks for the app first, and uses or corrects one that is there. What is not given is taken from the config of
    /// this service and from the entry that was written before, if they are there; else it is asked for on a terminal.
    Oidc(Box<Oidc>),
    /// Make the server admin that this service works as in Synapse, and write its access token
    ///
    /// Needs the registration shared secret, which is taken from the homeserver's config.
    Synapse(Box<SynapseAdmin>),
    /// Register the webhook of this service's config in Defguard
    ///
    /// Looks for it first, and says so if it is there; switches it on if it is off.
    Webhook(Webhook),
}

/// How far a command goes.
#[derive(Debug, Args)]
pub(super) struct Go {
    /// Show everything that would be done, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do it without asking
    #[arg(long)]
    pub(super) yes: bool,
    /// Replace files that are there already and differ; a copy of each old one is kept beside it
    #[arg(long)]
    pub(super) replace: bool,
}

#[derive(Debug, Args)]
pub(super) struct HomeserverFiles {
    /// Synapse's own config, as Synapse gets it: a file, or a directory of files; can be given several times
    #[arg(long, value_name = "PATH")]
    pub(super) homeserver_config: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Defguard")]
pub(super) struct DefguardAccess {
    /// The address of Defguard's web page
    #[arg(long, value_name = "URL")]
    pub(super) defguard_url: Option<String>,
    /// The administrator that this service logs in as
    #[arg(long, value_name = "NAME")]
    pub(super) defguard_username: Option<String>,
    /// The file with the administrator's password; if there is none, the password is asked for and written there
    #[arg(long, value_name = "FILE")]
    pub(super) defguard_password_file: Option<PathBuf>,
    /// The file with the secret of the administrator's second factor
    #[arg(long, value_name = "FILE")]
    pub(super) defguard_totp_secret_file: Option<PathBuf>,
    /// The file with an API token, in the place of username and password
    #[arg(long, value_name = "FILE", conflicts_with_all = ["defguard_username", "defguard_password_file", "defguard_totp_secret_file"])]
    pub(super) defguard_token_file: Option<PathBuf>,
    /// Certificate authorities (PEM) to trust beside the system's
    #[arg(long, value_name = "FILE")]
    pub(super) defguard_ca_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Oidc {
    #[command(flatten)]
    pub(super) go: Go,
    #[command(flatten)]
    pub(super) homeserver: HomeserverFiles,
    #[command(flatten)]
    pub(super) defguard: DefguardAccess,
    /// The name of the app, which people see when they are asked for consent
    #[arg(long, value_name = "NAME", default_value = "Matrix", help_heading = "App")]
    pub(super) app_name: String,
    /// Which app to use, if several could be meant
    #[arg(long, value_name = "ID", help_heading = "App")]
    pub(super) client_id: Option<String>,
    /// Where people reach the homeserver; taken from the homeserver's config if it is not given
    #[arg(long, value_name = "URL", help_heading = "App")]
    pub(super) public_baseurl: Option<String>,
    /// The id of the provider in Synapse. External ids of accounts are kept under it: never change it [default: that of
    /// the provider that leads to this Defguard, else Defguard]
    #[arg(long, value_name = "ID", help_heading = "Entry for Synapse")]
    pub(super) idp_id: Option<String>,
    /// What people see on the login page [default: Defguard]
    #[arg(long, value_name = "NAME", help_heading = "Entry for Synapse")]
    pub(super) idp_name: Option<String>,
    /// What the MXID is made of [default: as in the homeserver's config, else {{ user.preferred_username }}]
    #[arg(long, value_name = "TEMPLATE", help_heading = "Entry for Synapse")]
    pub(super) localpart_template: Option<String>,
    /// What the display name is made of [default: {{ user.given_name }} {{ user.family_name }}]
    #[arg(long, value_name = "TEMPLATE", help_heading = "Entry for Synapse")]
    pub(super) display_name_template: Option<String>,
    /// What the e-mail address is made of [default: {{ user.email }}]
    #[arg(long, value_name = "TEMPLATE", help_heading = "Entry for Synapse")]
    pub(super) email_template: Option<String>,
    /// Let only people log in who have an account already, so that no login ever makes a second one; "=false" lets
    /// everybody in again
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Entry for Synapse"
    )]
    pub(super) provisioned_only: Option<bool>,
    /// The file for the entry [default: defguard-oidc.yaml in the last directory of --homeserver-config]
    #[arg(long, value_name = "FILE", help_heading = "Entry for Synapse")]
    pub(super) entry_file: Option<PathBuf>,
    /// Print the entry instead of writing it
    #[arg(long, conflicts_with = "entry_file", help_heading = "Entry for Synapse")]
    pub(super) print: bool,
    /// The file for the client secret, which Synapse reads [default: defguard-client-secret beside homeserver.yaml]
    #[arg(long, value_name = "FILE", help_heading = "Entry for Synapse")]
    pub(super) client_secret_file: Option<PathBuf>,
    /// The user that Synapse runs as [default: the owner of homeserver.yaml, or matrix-synapse]
    #[arg(long, value_name = "NAME", help_heading = "Entry for Synapse")]
    pub(super) synapse_user: Option<String>,
    /// Show the client secret, too
    #[arg(long, help_heading = "Entry for Synapse")]
    pub(super) show_secret: bool,
    /// Where this service reaches Synapse's main process [default: http://127.0.0.1:8008]
    #[arg(long, value_name = "URL", help_heading = "This service")]
    pub(super) synapse_url: Option<String>,
    /// The file with the access token that `setup synapse` writes [default: synapse-token beside the config]
    #[arg(long, value_name = "FILE", help_heading = "This service")]
    pub(super) synapse_token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Webhook {
    /// Correct its token without asking, if it is registered with another one
    #[arg(long)]
    pub(super) replace: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SynapseAdmin {
    #[command(flatten)]
    pub(super) go: Go,
    #[command(flatten)]
    pub(super) homeserver: HomeserverFiles,
    /// Where this service reaches Synapse's main process [default: http://127.0.0.1:8008]
    #[arg(long, value_name = "URL")]
    pub(super) synapse_url: Option<String>,
    /// Certificate authorities (PEM) to trust beside the system's
    #[arg(long, value_name = "FILE")]
    pub(super) synapse_ca_file: Option<PathBuf>,
    /// The localpart of the account; nobody in Defguard may map to it
    #[arg(long, value_name = "NAME", default_value = "defguard-sync")]
    pub(super) localpart: String,
    /// The file for the access token [default: synapse-token beside the config]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// The file with the registration shared secret, if the homeserver's config cannot be read
    #[arg(long, value_name = "FILE")]
    pub(super) shared_secret_file: Option<PathBuf>,
    /// Take Synapse's rate limit off for this account; under it, changes of many names or rooms wait
    #[arg(long)]
    pub(super) lift_rate_limit: bool,
}
