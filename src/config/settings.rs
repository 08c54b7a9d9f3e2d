//! A config after its check. Whoever holds a [`Settings`] need not doubt any value in it.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use chrono_tz::Tz;
use globset::GlobSet;
use matrix_sdk::ruma::OwnedRoomOrAliasId;
use secrecy::SecretString;
use url::Url;

use super::{finding::Place, homeserver_yaml::Facts};
use crate::{
    domain::{CreateMode, FieldPolicy, GuardLimits, Instance, OffBoarding, OnConflict, ServerName, Username},
    schedule::Cron,
};

/// The whole config, checked. Only [`super::check`] makes one.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The source.
    pub defguard: DefguardSettings,
    /// Who of the people there is provisioned.
    pub scope: ScopeSettings,
    /// The target.
    pub synapse: SynapseSettings,
    /// The templates of Synapse's `user_mapping_provider`.
    pub templates: TemplateTexts,
    /// How far accounts may be touched.
    pub accounts: AccountSettings,
    /// How far to go with those who leave.
    pub off_boarding: OffBoarding,
    /// How much may happen without a person saying yes.
    pub guard: GuardLimits,
    /// When is synced.
    pub schedule: ScheduleSettings,
    /// Where links, runs and the journal are kept.
    pub state: StateSettings,
    /// How the other verbs reach the daemon.
    pub control: ControlSettings,
    /// Where Defguard's webhook is received, if it is.
    pub webhook: Option<WebhookSettings>,
    /// Where notices go, if they are wished.
    pub notices: Option<NoticeSettings>,
    /// Where the daemon tells how it is.
    pub monitoring: MonitoringSettings,
    /// What is logged.
    pub log: LogSettings,
    pub(super) _checked: Checked,
}

/// Proof that the check was passed.
#[derive(Debug, Clone)]
pub(super) struct Checked;

/// `[defguard]`
#[derive(Debug, Clone)]
pub struct DefguardSettings {
    /// The base address. Its path ends with a slash, so that `Url::join` with `api/v1/…` keeps all of it.
    pub url: Url,
    /// The name of this Defguard in the ownership markers.
    pub instance: Instance,
    /// How we log in.
    pub auth: DefguardAuth,
    /// Certificate authorities that are trusted beside the system's.
    pub ca: Option<Pem>,
    /// The longest a single try of a request may take.
    pub timeout: Duration,
    /// How many pages of the list of people are read at once.
    pub page_workers: usize,
    /// The scopes whose claims Synapse gets to see at a login.
    pub scopes: Vec<String>,
}

/// How we log in to Defguard.
#[derive(Debug, Clone)]
pub enum DefguardAuth {
    /// With an API token (needs a Defguard licence in 2.x).
    Token(SecretString),
    /// With a session, as a person does in the browser.
    Session {
        /// The account.
        username: Username,
        /// Its password.
        password: SecretString,
        /// The secret of its second factor (TOTP), in base32.
        totp_secret: Option<SecretString>,
    },
}

/// `[scope]`
#[derive(Debug, Clone)]
pub struct ScopeSettings {
    /// Only people in at least one of these groups; everybody if there is no pattern.
    pub include_groups: Globs,
    /// Nobody who is in one of these groups.
    pub exclude_groups: Globs,
    /// Nobody with one of these usernames.
    pub exclude_users: Globs,
    /// Only people who have finished enrolment.
    pub require_enrolled: bool,
    /// Whether the account that this service itself uses in Defguard gets an account in Synapse, too.
    pub include_own_account: bool,
}

/// Patterns for names, case-sensitive as Defguard's names are.
#[derive(Clone)]
pub struct Globs {
    pub(super) patterns: Vec<String>,
    pub(super) set: GlobSet,
}

impl Globs {
    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether one of the patterns fits the whole name.
    pub fn matches(&self, name: &str) -> bool {
        self.set.is_match(name)
    }

    /// The patterns, ready to match.
    pub fn set(&self) -> &GlobSet {
        &self.set
    }

    /// The patterns as they were written.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }
}

impl fmt::Debug for Globs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.patterns.fmt(f)
    }
}

/// `[synapse]`
#[derive(Debug, Clone)]
pub struct SynapseSettings {
    /// The base address of the main process. Its path ends with a slash, so that `Url::join` with `_synapse/…` keeps
    /// all of it.
    pub url: Url,
    /// The access token of a server admin.
    pub token: SecretString,
    /// Certificate authorities that are trusted beside the system's.
    pub ca: Option<Pem>,
    /// The longest a single try of a request may take.
    pub timeout: Duration,
    /// How many people are worked on at once.
    pub concurrency: usize,
    /// The auth provider of a login, as Synapse keeps it with each external id: `oidc-` and the `idp_id`.
    pub auth_provider: String,
    /// How an account is created.
    pub create: CreateMode,
    /// The server name in the homeserver's own config, if that is read; the server itself must say the same.
    pub server_name: Option<ServerName>,
    /// What the homeserver's own config says about logins, if that is read.
    pub homeserver: Option<Facts>,
}

/// The templates as texts; `crate::mapping` compiles them. What is `None` was not given, which Synapse takes as "no
/// value" (for the localpart: the person is asked at the first login).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateTexts {
    /// `subject_template`
    pub subject: TemplateText,
    /// `localpart_template`; always there in [`Settings`].
    pub localpart: Option<TemplateText>,
    /// `display_name_template`
    pub display_name: Option<TemplateText>,
    /// `email_template`
    pub email: Option<TemplateText>,
}

/// One template, and where it was written, so that what is wrong with it can be reported there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateText {
    /// The template.
    pub text: String,
    /// Where it was written.
    pub at: Place,
}

/// `[accounts]`
#[derive(Debug, Clone)]
pub struct AccountSettings {
    /// What becomes of a new person whose account already exists and is not ours.
    pub on_conflict: OnConflict,
    /// When the display name is written.
    pub display_name: FieldPolicy,
    /// When the e-mail address is written.
    pub email: FieldPolicy,
}

/// `[schedule]`
#[derive(Debug, Clone)]
pub struct ScheduleSettings {
    /// When the list of people is compared with what is known.
    pub sync: Cron,
    /// When every owned account is read and repaired.
    pub full: Cron,
    /// The time zone of both expressions.
    pub timezone: Tz,
    /// The longest random delay of a run, so that many servers do not start at once.
    pub jitter: Duration,
    /// Whether there is a run at the start of the daemon.
    pub catch_up: bool,
}

/// `[state]`
#[derive(Debug, Clone)]
pub struct StateSettings {
    /// The directory of the store.
    pub directory: PathBuf,
    /// How long runs and journal lines are kept, in days.
    pub keep_days: u32,
}

/// `[control]`
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// The Unix socket of the daemon.
    pub socket: PathBuf,
}

/// `[webhook]`, if something listens there.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// The address of the listener.
    pub listen: SocketAddr,
    /// The address at which Defguard reaches the listener, with the path.
    pub url: Url,
    /// What Defguard has to send to prove that an event is its own.
    pub token: SecretString,
    /// How long after an event the person is looked at.
    pub delay: Duration,
}

/// `[notices]`, if a room is named.
#[derive(Debug, Clone)]
pub struct NoticeSettings {
    /// The room.
    pub room: OwnedRoomOrAliasId,
    /// For how long Defguard has to be unusable before that is told.
    pub unusable_after: Duration,
}

/// `[monitoring]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitoringSettings {
    /// Where metrics, health and the status page are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Whether the config names that address. If it does not, a daemon that cannot have the usual one goes without it.
    pub listen_given: bool,
    /// Whether the status page names people; otherwise it gives their numbers.
    pub status_page_names: bool,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The least important lines that are still logged.
    pub level: tracing::Level,
    /// What a line looks like.
    pub format: LogFormat,
}

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Certificates in PEM form.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(pub Vec<u8>);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({} bytes)", self.0.len())
    }
}
