//! E-mail addresses in the one spelling in which Synapse keeps them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An e-mail address in Synapse's canonical form. Any other spelling would be deleted and added again by every
/// write (`docs/facts/synapse.md` section 3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Email(String);

/// Why Synapse would refuse an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmailProblem {
    /// Synapse wants exactly one `@`.
    #[error("an address needs exactly one @")]
    NotOneAt,
    /// PostgreSQL cannot store it.
    #[error("the address has a control character")]
    Control,
}

impl Email {
    /// Brings an address into Synapse's canonical form (its `validate_email`): trimmed, the part before the `@`
    /// case-folded, the domain lower-cased.
    pub fn canonical(text: &str) -> Result<Self, EmailProblem> {
        let text = text.trim();
        if text.chars().any(char::is_control) {
            return Err(EmailProblem::Control);
        }
        let mut parts = text.split('@');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(local), Some(domain), None) => {
                Ok(Self(format!("{}@{}", caseless::default_case_fold_str(local), domain.to_lowercase())))
            }
            _ => Err(EmailProblem::NotOneAt),
        }
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Addresses are personal data: logs and errors show only that there is one.
impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_takes_the_spelling_that_synapse_stores() {
        for (text, canonical) in [
            (" Alice@Example.ORG ", "alice@example.org"),
            ("STRASSE@x.org", "strasse@x.org"),
            ("straße@Straße.org", "strasse@straße.org"),
            ("İ@x.org", "i\u{307}@x.org"),
            ("@", "@"),
            ("o'brien22@example.com", "o'brien22@example.com"),
        ] {
            assert_eq!(Email::canonical(text).unwrap().as_str(), canonical, "{text}");
        }
        for bad in ["", "not a mail", "two@at@x.org"] {
            assert_eq!(Email::canonical(bad), Err(EmailProblem::NotOneAt), "{bad}");
        }
    }
}
