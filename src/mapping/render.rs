//! The pure part of the verb `render`: claims in, one line of JSON out for each.

use std::io::{self, BufRead, Write};

use serde_json::{Map, Value as Json, json};

use super::Templates;

/// How claims are rendered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Leave out Defguard's own fields, which Synapse does not know (`--claims-only`).
    pub claims_only: bool,
}

/// Reads one claims object, an array of them, or JSON lines, and writes one line for each:
/// `{"localpart":…,"display_name":…,"emails":[…],"subject":…}`, or `{"error":…}` where Synapse would fail or the
/// input is no claims object.
///
/// Objects of JSON lines may also span several lines or follow each other on one.
///
/// # Errors
///
/// Only reading and writing fail as a whole.
pub fn render_all(
    templates: &Templates,
    options: Options,
    mut input: impl BufRead,
    mut output: impl Write,
) -> io::Result<()> {
    let mut text = String::new();
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        // What is not UTF-8 becomes an error of this line, not of the whole input.
        match std::str::from_utf8(&line) {
            Ok(line) => text.push_str(line),
            Err(_) => {
                text.clear();
                write_line(&mut output, &error("the input is not UTF-8"))?;
            }
        }
        line.clear();
        match parse(&text) {
            Parsed::All(values) => {
                text.clear();
                for value in &values {
                    write_values(templates, options, value, &mut output)?;
                }
            }
            Parsed::Broken(values, why) => {
                text.clear();
                for value in &values {
                    write_values(templates, options, value, &mut output)?;
                }
                write_line(&mut output, &error(&why))?;
            }
            Parsed::Unfinished => {}
        }
    }
    if !text.trim().is_empty() {
        write_line(&mut output, &error("the input ends within a JSON value"))?;
    }
    Ok(())
}

enum Parsed {
    All(Vec<Result<Json, String>>),
    Broken(Vec<Result<Json, String>>, String),
    Unfinished,
}

/// Parses all JSON values of a text.
fn parse(text: &str) -> Parsed {
    let mut values = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Json>();
    let mut from = 0;
    loop {
        match stream.next() {
            None => return Parsed::All(values),
            Some(Ok(value)) => {
                let raw = text.get(from..stream.byte_offset()).unwrap_or_default();
                from = stream.byte_offset();
                values.push(exact(raw).map(|()| value));
            }
            // The values in front of an unfinished one are read again together with it.
            Some(Err(error)) if error.is_eof() => return Parsed::Unfinished,
            Some(Err(error)) => return Parsed::Broken(values, format!("not JSON: {error}")),
        }
    }
}

/// Refuses integers that would be read as floats, and would then print differently than in Python.
fn exact(raw: &str) -> Result<(), String> {
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '"' {
            while let Some(c) = chars.next() {
                match c {
                    '\\' => {
                        chars.next();
                    }
                    '"' => break,
                    _ => {}
                }
            }
        } else if c == '-' || c.is_ascii_digit() {
            let mut number = String::from(c);
            while let Some(c) = chars.next_if(|c| c.is_ascii_digit() || "+-.eE".contains(*c)) {
                number.push(c);
            }
            let whole = !number.contains(['.', 'e', 'E']);
            if whole && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                return Err(format!("the integer {number} is larger than this program can hold"));
            }
            if number == "-0" {
                return Err("the integer -0 is not supported".to_owned());
            }
        }
    }
    Ok(())
}

fn write_values(
    templates: &Templates,
    options: Options,
    value: &Result<Json, String>,
    output: &mut impl Write,
) -> io::Result<()> {
    match value {
        Ok(Json::Array(items)) => {
            for item in items {
                write_line(output, &one(templates, options, item))?;
            }
            Ok(())
        }
        Ok(item) => write_line(output, &one(templates, options, item)),
        Err(why) => write_line(output, &error(why)),
    }
}

fn write_line(output: &mut impl Write, line: &Json) -> io::Result<()> {
    writeln!(output, "{line}")
}

fn error(why: &str) -> Json {
    json!({ "error": why })
}

/// Renders one claims object.
pub fn one(templates: &Templates, options: Options, claims: &Json) -> Json {
    let claims: &Map<String, Json> = match claims {
        Json::Object(claims) => claims,
        _ => return error("claims must be a JSON object"),
    };
    match templates.render(claims, options.claims_only) {
        Ok(rendered) => json!({
            "localpart": rendered.localpart,
            "display_name": rendered.display_name,
            "emails": rendered.emails,
            "subject": rendered.subject,
        }),
        Err(why) => error(&why),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mapping::{Purpose, TemplateSources};

    fn templates() -> Templates {
        let sources = TemplateSources {
            localpart: Some("{{ user.sub }}".into()),
            display_name: Some("{{ user.first_name }} {{ user.family_name }}".into()),
            email: Some("{{ user.email }}".into()),
            ..TemplateSources::default()
        };
        Templates::compile(&sources, Purpose::Claims).unwrap()
    }

    fn rendered(input: &str, claims_only: bool) -> String {
        let mut output = Vec::new();
        render_all(&templates(), Options { claims_only }, input.as_bytes(), &mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    const ALICE: &str =
        r#"{"localpart":"alice","display_name":"Alice Liddell","emails":[],"subject":"alice"}"#;
    const CLAIMS: &str = r#"{"sub":"alice","given_name":"Alice","family_name":"Liddell"}"#;

    #[test]
    fn an_object_an_array_and_json_lines_give_one_line_each() {
        assert_eq!(rendered(CLAIMS, false), format!("{ALICE}\n"));
        assert_eq!(rendered(&format!("[{CLAIMS},\n{CLAIMS}]"), false), format!("{ALICE}\n{ALICE}\n"));
        assert_eq!(rendered(&format!("{CLAIMS}\n\n{CLAIMS}\n"), false), format!("{ALICE}\n{ALICE}\n"));
        assert_eq!(rendered(&CLAIMS.replace(',', ",\n"), false), format!("{ALICE}\n"));
        assert_eq!(rendered("", false), "");
        assert_eq!(rendered("[]", false), "");
    }

    #[test]
    fn claims_only_leaves_defguards_own_fields_out() {
        let line = rendered(CLAIMS, true);
        assert!(line.contains(r#""display_name":"Liddell""#), "{line}");
    }

    #[test]
    fn what_is_no_claims_object_is_an_error_of_its_own_line() {
        for bad in ["5", "\"x\"", "{\"sub\":", "nonsense", "{\"sub\": 99999999999999999999}"] {
            let lines = rendered(&format!("{CLAIMS}\n{bad}\n"), false);
            let lines: Vec<_> = lines.lines().collect();
            assert_eq!(lines.len(), 2, "{bad}: {lines:?}");
            assert_eq!(lines[0], ALICE);
            assert!(lines[1].starts_with(r#"{"error":"#), "{bad}: {}", lines[1]);
        }
        let lines = rendered(&format!("nonsense\n{CLAIMS}\n"), false);
        assert!(lines.ends_with(&format!("{ALICE}\n")), "{lines}");
    }

    fn json_value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            any::<String>().prop_map(Json::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
                prop::collection::vec(("[a-z]{0,6}", inner), 0..5)
                    .prop_map(|pairs| pairs.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_claims_make_rendering_panic(value in json_value(), other in json_value()) {
            let sources = TemplateSources {
                subject: Some("{{ user.v }}{{ [user.v, user.w] }}".into()),
                localpart: Some("{{ user.v ~ user.w }}{{ user.v|title }}{{ user.v|tojson }}".into()),
                display_name: Some(
                    "{{ user.v|string|truncate(5) }}{{ (user.v|string).split()|sort|join }}{{ user.v[1:] }}\
                     {{ user.v.x.y }}".into(),
                ),
                email: Some("{{ user.v + user.w }}{{ user.v|int }}{{ user.v|round }}{{ user.v < user.w }}".into()),
            };
            let claims = json!({"sub": "x", "v": value, "w": other});
            for template in [&sources.subject, &sources.localpart, &sources.display_name, &sources.email] {
                let sources = TemplateSources { subject: template.clone(), ..TemplateSources::default() };
                let templates = Templates::compile(&sources, Purpose::Claims).unwrap();
                one(&templates, Options::default(), &claims);
            }
        }
    }
}
