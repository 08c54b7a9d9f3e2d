//! The templates and the claims that they are given.

use defguard_synapse_sync::mapping::{
    Purpose, TemplateSources, Templates,
    render::{Options, render_all},
};
use proptest::{prelude::*, sample::Index};
use serde_json::Value;

use crate::{cases, damage::damage};

const TEMPLATES: &[&str] = &[
    "{{ user.email.split('@')[0] }}",
    "{{ user.given_name }} {{ user.family_name }}",
    "{{ user.preferred_username | lower | replace('.', '_') }}",
    "{% if user.nickname %}{{ user.nickname }}{% elif 'admins' in user.groups %}a{% else %}b{% endif %}",
    "{% for g in user.groups if g != 'x' %}{{ loop.index }}:{{ g|title }}{{ ', ' if not loop.last }}{% endfor %}",
    "{% set n = (user.name or 'nobody').split() %}{{ n[0][:1] ~ n[-1] | default('x', true) }}",
    "{{ {'a': 1, 'b': [1, 2.5, none]}.get(user.sub, -1) + 2 ** 3 // 4 % 5 }}",
    "{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(user.email|localpart_from_email) }}{# end #}",
];

const CLAIMS: &str = r#"{"sub":"jdoe","name":"Jane Doe","given_name":"Jane","family_name":"Doe","preferred_username":"jdoe","email":"jane.doe@example.com","phone_number":"+1 23","groups":["admins","matrix users"],"updated_at":1.5,"address":{"country":"x"}}"#;

fn compiled(source: &str) -> Result<Templates, String> {
    let sources = TemplateSources {
        subject: None,
        localpart: Some(source.to_owned()),
        display_name: Some(source.to_owned()),
        email: Some(source.to_owned()),
    };
    Templates::compile(&sources, Purpose::Claims)
        .map_err(|problems| problems.iter().map(|problem| format!("{problem}\n")).collect())
}

/// Whatever the claims are, one line comes out for each of them: what was made of it, or why nothing was.
fn renders(templates: &Templates, input: &[u8]) -> Result<(), TestCaseError> {
    let mut out = Vec::new();
    render_all(templates, Options::default(), input, &mut out).unwrap();
    for line in String::from_utf8(out).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        prop_assert!(line.get("error").is_some() != line.get("subject").is_some(), "{}", line);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_damaged_template_is_explained_or_renders(
        template in prop::sample::select(TEMPLATES),
        damage in damage(),
        doubled in any::<Option<(Index, Index)>>(),
    ) {
        let mut text = String::from_utf8_lossy(&damage.to_bytes(template.as_bytes())).into_owned();
        // A part of it stands twice.
        if let Some((from, length)) = doubled {
            let chars: Vec<char> = text.chars().collect();
            if !chars.is_empty() {
                let from = from.index(chars.len());
                let part = &chars[from..from + length.index(chars.len() - from)];
                text = chars[..from].iter().chain(part).chain(&chars[from..]).collect();
            }
        }
        match compiled(&text) {
            Ok(templates) => renders(&templates, CLAIMS.as_bytes())?,
            Err(problems) => prop_assert!(problems.contains("_template"), "{}", problems),
        }
    }

    #[test]
    fn damaged_claims_are_explained_or_rendered(template in prop::sample::select(TEMPLATES), damage in damage()) {
        renders(&compiled(template).unwrap(), &damage.to_json(CLAIMS).0)?;
    }
}

#[test]
fn however_deep_or_long_a_template_is_it_is_an_error() {
    let many = |begin: &str, part: &str, end: &str| {
        [60_000, 9_000].map(|most| format!("{begin}{}{end}", part.repeat(most / part.len())))
    };
    for text in [
        many("{{ user", ".a", " }}"),
        many("{{ user", "[0]", " }}"),
        many("{{ user", "[:]", " }}"),
        many("{{ user", "()", " }}"),
        many("{{ user", "|upper", " }}"),
        many("{{ 1", "+1", " }}"),
        many("{{ 1", "**2", " }}"),
        many("{{ 1", "~1", " }}"),
        many("{{ 1", "<1", " }}"),
        many("{{ 1", " in 1", " }}"),
        many("{{ 1", " and 1", " }}"),
        many("{{ 1", " is defined", " }}"),
        many("{{ 1", " if 1 else 1", " }}"),
        many("{{ ", "-", "1 }}"),
        many("{{ ", "- ", "1 }}"),
        many("{{ ", "not ", "1 }}"),
        many("{{ ", "(", ""),
        many("{{ ", "[", ""),
        many("{{ ", "{1:", ""),
        many("{{ [", "1,", "] }}"),
        many("{{ user.a(", "1,", ") }}"),
        many("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
        many("", "{% if 1 %}", ""),
        many("", "{% for x in y %}", ""),
        many("", "{% filter e %}", ""),
        many("", "{% macro m() %}", ""),
    ]
    .as_flattened()
    {
        assert!(compiled(text).is_err(), "{}", &text[..100]);
    }
}
