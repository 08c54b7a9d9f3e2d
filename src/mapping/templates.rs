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
            // PostgreSQL cannot store NUL, and Synapse would answer 500 (`docs/facts/synapse.md` section 1).
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use matrix_sdk::ruma::server_name;

    use super::*;
    use crate::{
        domain::{DefguardId, EmailProblem, LocalpartProblem, Username},
        mapping::ProblemKind,
    };

    fn person() -> Person {
        Person {
            id: DefguardId(9),
            username: Username::new("J.Doe"),
            first_name: "Jane".into(),
            last_name: "Doe".into(),
            name: "Jane Doe".into(),
            email: " Jane@Example.ORG".into(),
            phone: Some("+48 1".into()),
            groups: BTreeSet::from(["admins".to_owned()]),
            is_active: true,
            enrolled: true,
            is_admin: false,
        }
    }

    fn sources(localpart: &str, display_name: &str, email: &str) -> TemplateSources {
        TemplateSources {
            subject: None,
            localpart: Some(localpart.into()),
            display_name: Some(display_name.into()),
            email: Some(email.into()),
        }
    }

    fn scopes() -> Scopes {
        Scopes::new(["openid", "profile", "email"])
    }

    fn compiled(localpart: &str, display_name: &str, email: &str) -> Templates {
        Templates::compile(&sources(localpart, display_name, email), Purpose::People).unwrap()
    }

    fn mapped(templates: &Templates, person: &Person) -> Mapped {
        templates.map(person, &scopes(), &server_name!("example.org").to_owned())
    }

    #[test]
    fn a_person_gets_what_a_login_would_give() {
        let templates =
            compiled("{{ user.sub }}", "{{ user.given_name }} {{ user.family_name }}", "{{ user.email }}");
        let mapped = mapped(&templates, &person());
        assert_eq!(mapped.subject.unwrap().as_str(), "J.Doe");
        assert_eq!(mapped.localpart.unwrap().as_str(), "j.doe");
        assert_eq!(mapped.display_name.unwrap().unwrap(), "Jane Doe");
        assert_eq!(mapped.email.unwrap().unwrap().as_str(), "jane@example.org");
    }

    #[test]
    fn defguards_own_fields_work_in_display_name_and_email_but_not_at_a_login() {
        let display_name =
            "{{ user.first_name }} {{ user['last_name'] }} {{ user.get('phone') }} {{ user.id }}";
        let templates = compiled("{{ user.sub }}", display_name, "{{ user.username }}@example.org");
        let mapped = mapped(&templates, &person());
        assert_eq!(mapped.display_name.unwrap().unwrap(), "Jane Doe +48 1 9");
        assert_eq!(mapped.email.unwrap().unwrap().as_str(), "j.doe@example.org");
        let login = templates.map_as_login(&person(), &scopes(), &server_name!("example.org").to_owned());
        assert_eq!(login.display_name.unwrap(), None);
        assert_eq!(login.email.unwrap().unwrap().as_str(), "@example.org");
    }

    #[test]
    fn a_claim_wins_over_a_field_of_the_same_name() {
        let templates = compiled("{{ user.sub }}", "{{ user.groups|join }}{{ user.name }}", "");
        let server = server_name!("example.org").to_owned();
        let person = Person { name: "  ".into(), ..person() };
        let with_claim = templates.map(&person, &Scopes::new(["openid", "profile", "groups"]), &server);
        assert_eq!(with_claim.display_name.unwrap().unwrap(), "admins");
        assert_eq!(with_claim.email.unwrap(), None);
    }

    #[test]
    fn fields_that_are_no_claims_are_refused_where_they_would_tell_who_somebody_is() {
        for template in [
            "{{ user.first_name }}",
            "{{ user['username'] }}",
            "{{ user.get('id') }}",
            "{{ user|attr('phone') }}",
            "x\n{% if user.sub %} {{ user.first_name }}{% endif %}",
        ] {
            let sources = sources(template, "", "");
            let problems = Templates::compile(&sources, Purpose::People).unwrap_err();
            assert_eq!(problems.len(), 1, "{template}: {problems:?}");
            assert_eq!(problems[0].field, MappedField::Localpart);
            assert_eq!(problems[0].kind, ProblemKind::Refused);
            assert!(problems[0].instead.is_some(), "{template}");
            assert!(Templates::compile(&sources, Purpose::Claims).is_ok(), "{template}");
        }
    }

    #[test]
    fn every_problem_of_every_template_is_told_at_once_with_its_place() {
        let problems = Templates::compile(
            &sources("{{ user.first_name }}", "a\n b {{ user.name|nosuch }}", "{{ user.email "),
            Purpose::People,
        )
        .unwrap_err();
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("localpart_template line 1 column"), "{}", told[0]);
        assert!(told[0].contains("user.given_name"), "{}", told[0]);
        assert!(told[1].starts_with("display_name_template line 2 column"), "{}", told[1]);
        assert!(told[2].starts_with("email_template line 1"), "{}", told[2]);
    }

    #[test]
    fn what_only_a_login_knows_is_refused_for_people() {
        for template in [
            "{{ user.iss }}",
            "{{ user }}",
            "{{ user|length }}",
            "{{ user or 1 }}",
            "{{ 'exp' in user }}",
            "{% set u = user %}{{ u.sub }}",
        ] {
            let sources = sources("{{ user.sub }}", template, "");
            assert!(Templates::compile(&sources, Purpose::People).is_err(), "{template}");
            assert!(Templates::compile(&sources, Purpose::Claims).is_ok(), "{template}");
        }
    }

    #[test]
    fn one_template_that_fails_for_a_person_leaves_the_others_alone() {
        let templates = compiled("{{ user.nickname.split() }}", "{{ user.name }}", "{{ user.email }}x@");
        let mapped = mapped(&templates, &person());
        assert!(matches!(mapped.localpart, Err(MappingError::Template(_))));
        assert_eq!(mapped.email, Err(MappingError::Email(EmailProblem::NotOneAt)));
        assert_eq!(mapped.display_name.unwrap().as_deref(), Some("Jane Doe"));
        assert!(mapped.subject.is_ok());
    }

    #[test]
    fn what_synapse_would_not_register_or_postgresql_not_store_does_not_get_through() {
        let templates = compiled("{{ user.sub }}", "{{ user.name }}", "{{ user.email }}");
        let odd = Person {
            username: Username::new("123"),
            name: "\0Jane\0".into(),
            email: "a\0@x.org".into(),
            ..person()
        };
        let mapped_odd = mapped(&templates, &odd);
        assert_eq!(mapped_odd.localpart, Err(MappingError::Localpart(LocalpartProblem::Numeric)));
        assert_eq!(mapped_odd.display_name.unwrap().as_deref(), Some("Jane"));
        assert_eq!(mapped_odd.email, Err(MappingError::Email(EmailProblem::Control)));
        let nobody = mapped(&templates, &Person { username: Username::new(" "), ..person() });
        assert_eq!(nobody.subject, Err(MappingError::EmptySubject));
        let control = mapped(&templates, &Person { username: Username::new("a\0b"), ..person() });
        assert!(matches!(control.subject, Err(MappingError::Template(_))));
    }

    #[test]
    fn missing_templates_are_synapses_defaults() {
        let templates = Templates::compile(&TemplateSources::default(), Purpose::Claims).unwrap();
        let claims = claims(&person(), &scopes());
        let rendered = templates.render(&claims, true).unwrap();
        let expected =
            Rendered { localpart: None, display_name: None, emails: vec![], subject: "J.Doe".into() };
        assert_eq!(rendered, expected);
        let empty = TemplateSources { subject: Some(String::new()), ..sources("", "", "") };
        let rendered = Templates::compile(&empty, Purpose::Claims).unwrap().render(&claims, true).unwrap();
        assert_eq!(rendered, Rendered { localpart: Some(String::new()), ..expected });
    }

    #[test]
    fn an_endless_template_ends() {
        let loops = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
        let mapped = mapped(&compiled(loops, "", ""), &person());
        assert!(matches!(mapped.localpart, Err(MappingError::Template(_))));
    }
}
