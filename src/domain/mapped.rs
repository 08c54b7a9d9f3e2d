//! What the four templates make of a person.

use serde::{Deserialize, Serialize};

use super::{Email, EmailProblem, Localpart, LocalpartProblem, Subject};

/// Why a template gave no value that could be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// The template failed for this person, with the engine's own words.
    #[error("the template failed: {0}")]
    Template(String),
    /// Synapse would not register the localpart.
    #[error(transparent)]
    Localpart(#[from] LocalpartProblem),
    /// Synapse would not take the e-mail address.
    #[error(transparent)]
    Email(#[from] EmailProblem),
    /// Nobody could be told apart by an empty subject.
    #[error("the subject is empty")]
    EmptySubject,
}

/// Which of the four templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MappedField {
    /// `subject_template`
    Subject,
    /// `localpart_template`
    Localpart,
    /// `display_name_template`
    DisplayName,
    /// `email_template`
    Email,
}

impl MappedField {
    /// The key of the template in the config and in homeserver.yaml.
    pub fn template_key(self) -> &'static str {
        match self {
            Self::Subject => "subject_template",
            Self::Localpart => "localpart_template",
            Self::DisplayName => "display_name_template",
            Self::Email => "email_template",
        }
    }
}

/// What the templates make of one person. Each value stands for itself: a display name that failed does not keep
/// the account from being linked.
#[derive(Clone, PartialEq, Eq)]
pub struct Mapped {
    /// What a login will send.
    pub subject: Result<Subject, MappingError>,
    /// The localpart for a new account.
    pub localpart: Result<Localpart, MappingError>,
    /// The display name; `None` leaves it to Synapse, which then takes the localpart for a new account.
    pub display_name: Result<Option<String>, MappingError>,
    /// The e-mail address, canonical; `None` if the template gave nothing.
    pub email: Result<Option<Email>, MappingError>,
}
