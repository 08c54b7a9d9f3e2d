//! The four templates together, and what they make of a person or of claims.

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::{
    Purpose,
    claims::{Scopes, UserObject, claims, fields_from_claims, own_fields},
    engine::Engine,
    localpart,
    refused::TemplateProblem,
};
use crate::domain::{Email, Localpart, Mapped, MappedField, MappingError, Person, ServerName, Subject};

/// The templates as they stand in the config (`user_mapping_provider.config` of the provider in homeserver.yaml).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TemplateSources {
    /// `subject_template`; missing or empty it is `{{ user.sub }}`.
    pub subject: Option<String>,
    /// `localpart_template`; without it Synapse asks people for a localpart at their first login.
    pub localpart: Option<String>,
    /// `display_name_template`
    pub display_name: Option<String>,
    /// `email_template`
    pub email: Option<String>,
}

impl TemplateSources {
    /// What Synapse makes of the old key `subject_claim`.
    pub fn subject_of_claim(claim: &str) -> String {
        format!("{{{{ user.{claim} }}}}")
    }
}

/// What `render` prints: the return values of Synapse's `get_remote_user_id` and `map_user_attributes`.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Rendered {
    /// Escaped for an MXID; `None` without a template.
    pub localpart: Option<String>,
    /// `None` without a template or if it came out empty.
    pub display_name: Option<String>,
    /// One address at most, not in canonical form.
    pub emails: Vec<String>,
    /// The remote user id.
    pub subject: String,
}

/// Names and addresses are personal data.
impl std::fmt::Debug for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rendered(…)")
    }
}

/// The four templates, compiled.
#[derive(Debug)]
pub struct Templates {
    subject: Engine,
    localpart: Option<Engine>,
    display_name: Option<Engine>,
    email: Option<Engine>,
}

impl Templates {
    /// Compiles the templates as Synapse's `JinjaOidcMappingProvider.parse_config` does.
    ///
    /// # Errors
    ///
    /// Every problem of every template: what Synapse would not load either, and what this program refuses.
    pub fn compile(sources: &TemplateSources, purpose: Purpose) -> Result<Self, Vec<TemplateProblem>> {
        let mut problems = Vec::new();
        let mut compile = |field, source: &str| match Engine::compile(field, purpose, source) {
            Ok(engine) => Some(engine),
            Err(found) => {
                problems.extend(found);
                None
            }
        };
        let subject = sources.subject.as_deref().filter(|source| !source.is_empty());
        let subject = compile(MappedField::Subject, subject.unwrap_or("{{ user.sub }}"));
        let mut optional =
            |field, source: &Option<String>| source.as_deref().and_then(|source| compile(field, source));
        let localpart = optional(MappedField::Localpart, &sources.localpart);
        let display_name = optional(MappedField::DisplayName, &sources.display_name);
        let email = optional(MappedField::Email, &sources.email);
        match subject {
            Some(subject) if problems.is_empty() => Ok(Self { subject, localpart, display_name, email }),
            _ => Err(problems),
        }
    }

    /// What the templates make of a person for their account. In the templates for display name and e-mail,
    /// Defguard's own fields work beside the claims.
    pub fn map(&self, person: &Person, scopes: &Scopes, server: &ServerName) -> Mapped {
        self.map_with(person, scopes, server, &own_fields(person))
    }

    /// What a login would make of a person: claims only. Where this differs from [`Templates::map`], the template
    /// uses fields that are no claims.
    pub fn map_as_login(&self, person: &Person, scopes: &Scopes, server: &ServerName) -> Mapped {
        self.map_with(person, scopes, server, &Map::new())
    }

    fn map_with(
        &self,
        person: &Person,
        scopes: &Scopes,
        server: &ServerName,
        fields: &Map<String, Json>,
    ) -> Mapped {
        let claims = claims(person, scopes);
        let none = Map::new();
        let render = |engine: &Engine, field, fields: &Map<String, Json>| {
            engine.render(field, UserObject::new(&claims, fields)).map_err(MappingError::Template)
        };
        let optional = |engine: &Option<Engine>, field| match engine {
            Some(engine) => render(engine, field, fields),
            None => Ok(String::new()),
        };
        Mapped {
            subject: render(&self.subject, MappedField::Subject, &none).and_then(|text| {
                match text.as_str() {
                    "" => Err(MappingError::EmptySubject),
                    text if text.chars().any(char::is_control) => {
                        Err(MappingError::Template("the subject has a control character".to_owned()))
                    }
                    text => Ok(Subject::new(text)),
                }
            }),
            localpart: match &self.localpart {
                Some(engine) => render(engine, MappedField::Localpart, &none)
                    .and_then(|text| Ok(Localpart::new(&localpart::escape(&text), server)?)),
                None => Err(MappingError::Template(
                    "there is no localpart_template, so Synapse lets people choose".to_owned(),
                )),
            },
            // PostgreSQL cannot store NUL, and Synapse would answer 500 (`facts/synapse.md` section 1).
            display_name: optional(&self.display_name, MappedField::DisplayName)
                .map(|text| Some(text.replace('\0', "")).filter(|text| !text.is_empty())),
            email: optional(&self.email, MappedField::Email).and_then(|text| match text.as_str() {
                "" => Ok(None),
                text => Ok(Some(Email::canonical(text)?)),
            }),
        }
    }

    /// What Synapse computes from claims. Unless `claims_only`, Defguard's own fields are filled in from the claims
    /// for the templates of display name and e-mail.
    ///
    /// # Errors
    ///
    /// The template that fails, and how: at a login this would be an error page.
    pub fn render(&self, claims: &Map<String, Json>, claims_only: bool) -> Result<Rendered, String> {
        self.render_after(claims, claims_only, 0)
    }

    /// Like [`Templates::render`], after this many localparts were found taken: Synapse then appends the number.
    ///
    /// # Errors
    ///
    /// As for [`Templates::render`].
    pub fn render_after(
        &self,
        claims: &Map<String, Json>,
        claims_only: bool,
        failures: u32,
    ) -> Result<Rendered, String> {
        let none = Map::new();
        let fields = if claims_only { Map::new() } else { fields_from_claims(claims) };
        let run = |engine: &Engine, field: MappedField, fields: &Map<String, Json>| {
            engine
                .render(field, UserObject::new(claims, fields))
                .map_err(|error| format!("{}: {error}", field.template_key()))
        };
        let subject = run(&self.subject, MappedField::Subject, &none)?;
        let localpart = match &self.localpart {
            Some(engine) => {
                let mut localpart = localpart::escape(&run(engine, MappedField::Localpart, &none)?);
                if failures > 0 {
                    localpart.push_str(&failures.to_string());
                }
                Some(localpart)
            }
            None => None,
        };
        let optional = |engine: &Option<Engine>, field| match engine {
            Some(engine) => {
                run(engine, field, &fields).map(|text| Some(text).filter(|text| !text.is_empty()))
            }
            None => Ok(None),
        };
        let display_name = optional(&self.display_name, MappedField::DisplayName)?;
        let emails = optional(&self.email, MappedField::Email)?.into_iter().collect();
        Ok(Rendered { localpart, display_name, emails, subject })
    }
}
