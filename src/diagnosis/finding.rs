//! A finding as data.

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use crate::config::{self, Place};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Advice,
    /// It works, and somebody should look at it.
    Warning,
    /// It cannot work so.
    Error,
}

/// What kind of finding it is; the name is for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// Something about a config file.
    Config,
    /// The daemon on this machine.
    Daemon,
    /// The state directory.
    State,
    /// The control socket.
    Socket,
    /// Whether Synapse can be used, with our token and its rights.
    Homeserver,
    /// Synapse and homeserver.yaml have different server names.
    ServerName,
    /// Whether Defguard can be used, and its list of people.
    Directory,
    /// Whether homeserver.yaml is read.
    HomeserverConfig,
    /// The running Synapse has another provider than homeserver.yaml.
    NotRestarted,
    /// Defguard publishes no key, so that its tokens cannot be verified.
    NoSigningKey,
    /// The issuer is spelled otherwise than Defguard spells it.
    IssuerDiffers,
    /// An endpoint is another one than Defguard's.
    EndpointDiffers,
    /// Synapse takes no issuer without https.
    InsecureIssuer,
    /// Defguard has no such app.
    AppMissing,
    /// The app is not enabled.
    AppDisabled,
    /// The app does not lead back to Synapse.
    AppRedirectUri,
    /// The app lacks a scope.
    AppScopes,
    /// The app is as it should be.
    App,
    /// Synapse does not offer the login.
    ProviderNotOffered,
    /// Synapse cannot send people to the login.
    ProviderUnreachable,
    /// Whether Synapse offers the login.
    Provider,
    /// Accounts carry logins of another `idp_id`.
    IdpIdChanged,
    /// Which logins accounts carry.
    ExternalIds,
    /// A template gives nothing usable for somebody.
    TemplateHole,
    /// Several people become the same.
    LocalpartCollision,
    /// A login gives something else than the sync.
    LoginDiffers,
    /// The templates on everybody.
    Templates,
    /// Accounts are linked by their name at a login.
    AllowExistingUsers,
    /// Synapse writes display names at each login.
    ProfileUpdates,
    /// People can register without Defguard.
    OpenRegistration,
    /// Whether only provisioned people can log in.
    ProvisionedOnly,
    /// A provisioned address opens a way around Defguard.
    PasswordReset,
    /// People can log in with passwords that Synapse keeps.
    LocalPasswords,
    /// A client gets tokens without a question.
    ClientWhitelist,
    /// Access tokens end.
    SessionLifetime,
    /// The account of our token is one that the sync would touch.
    OwnAccountWanted,
    /// Somebody's login opens the account of our token.
    OwnAccountLogin,
    /// Defguard's licence.
    Licence,
    /// Clocks differ.
    Clock,
    /// What logins would do.
    Logins,
    /// Whether notices would arrive in their room.
    Notices,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of finding.
    pub kind: Kind,
    /// How bad it is.
    pub level: Level,
    /// What it is about, in a word.
    pub about: &'static str,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: Option<String>,
    /// What to do about it: what to type or to write.
    pub mend: Option<String>,
    /// Where it stands, if it is about a file.
    pub at: Option<Place>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn ok(kind: Kind, about: &'static str, found: impl Into<String>) -> Self {
        Self { kind, level: Level::Ok, about, found: found.into(), why: None, mend: None, at: None }
    }

    /// Something to look at.
    pub fn warning(
        kind: Kind,
        about: &'static str,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, mend: Some(mend.into()), ..Self::ok(kind, about, found) }
    }

    /// Something that keeps it from working.
    pub fn error(kind: Kind, about: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::warning(kind, about, found, mend) }
    }

    /// Something that could be better.
    pub fn advice(
        kind: Kind,
        about: &'static str,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { level: Level::Advice, ..Self::warning(kind, about, found, mend) }
    }

    /// The same with why it matters.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// The same with where it stands.
    #[must_use]
    pub fn at(mut self, at: &Place) -> Self {
        self.at = Some(at.clone());
        self
    }
}

impl From<&config::Finding> for Finding {
    fn from(finding: &config::Finding) -> Self {
        let level = if finding.is_error() { Level::Error } else { Level::Warning };
        let mend = Some(finding.mend.clone());
        Self { level, mend, ..Self::ok(Kind::Config, "config", finding.problem.clone()) }.at(&finding.at)
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at = self.at.as_ref();
        let position = at.and_then(|at| at.position);
        let mut object = serializer.serialize_struct("Finding", 10)?;
        object.serialize_field("kind", &self.kind)?;
        object.serialize_field("level", &self.level)?;
        object.serialize_field("what", self.about)?;
        object.serialize_field("found", &self.found)?;
        object.serialize_field("why", &self.why)?;
        object.serialize_field("mend", &self.mend)?;
        object.serialize_field("file", &at.map(|at| &at.file))?;
        object.serialize_field("line", &position.map(|(line, _)| line))?;
        object.serialize_field("column", &position.map(|(_, column)| column))?;
        object.serialize_field("key", &at.map(|at| &at.key).filter(|key| !key.is_empty()))?;
        object.end()
    }
}
