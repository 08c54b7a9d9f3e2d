//! The golden test of the mapping: real Synapse's answers to templates and claims, value for value.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use defguard_synapse_sync::mapping::{Purpose, TemplateSources, Templates};
use serde_json::{Map, Value, json};

enum Outcome {
    Equal,
    Refused(String),
    Different(String),
}

fn sources(case: &Value) -> Option<TemplateSources> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let template = &case["template"];
    let one = text(template);
    let mut sources = TemplateSources::default();
    match case["kind"].as_str()? {
        "subject" => sources.subject = one,
        "localpart" => sources.localpart = one,
        "display_name" => sources.display_name = one,
        "email" => sources.email = one,
        "full" => {
            // A key that holds no text is an error in Synapse; the config reader says so before we are asked.
            let key = |name: &str| match template.get(name) {
                None => Some(None),
                Some(value) => text(value).map(Some),
            };
            sources.subject = match template.get("subject_claim").and_then(Value::as_str) {
                Some(claim) => Some(TemplateSources::subject_of_claim(claim)),
                None => key("subject_template")?,
            };
            sources.localpart = key("localpart_template")?;
            sources.display_name = key("display_name_template")?;
            sources.email = key("email_template")?;
        }
        other => panic!("an unknown kind of case: {other}"),
    }
    Some(sources)
}

fn judge(case: &Value) -> Outcome {
    let expected = &case["expected"];
    let fails = expected.get("error").is_some();
    let at_load = expected["stage"] == json!("parse_config");
    let Some(sources) = sources(case) else {
        return if at_load { Outcome::Equal } else { Outcome::Different("the config was not read".into()) };
    };
    let templates = match Templates::compile(&sources, Purpose::Claims) {
        Ok(_) if at_load => return Outcome::Different("compiled, and Synapse does not".into()),
        Ok(templates) => templates,
        Err(_) if at_load => return Outcome::Equal,
        Err(problems) => {
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            assert!(!problems.is_empty(), "refused without a reason");
            return Outcome::Refused(problems.join(" | "));
        }
    };
    let claims: &Map<String, Value> = case["userinfo"].as_object().unwrap();
    let failures = u32::try_from(case["failures"].as_u64().unwrap_or(0)).unwrap();
    match templates.render_after(claims, true, failures) {
        Err(_) if fails => Outcome::Equal,
        // An error that says so is no silent difference, but it is a case that Synapse can do.
        Err(error) if error.contains("this program does not do") => {
            Outcome::Refused(format!("(when run) {error}"))
        }
        Err(error) => Outcome::Different(format!("error: {error}")),
        Ok(_) if fails => Outcome::Different("rendered, and Synapse fails".into()),
        Ok(rendered) => {
            let ours = json!({
                "localpart": rendered.localpart,
                "display_name": rendered.display_name,
                "emails": rendered.emails,
                "remote_user_id": rendered.subject,
            });
            let mut differences = Vec::new();
            for (key, ours) in ours.as_object().unwrap() {
                if let Some(theirs) = expected.get(key)
                    && theirs != ours
                {
                    differences.push(format!("{key}: ours {ours}, Synapse's {theirs}"));
                }
            }
            if differences.is_empty() { Outcome::Equal } else { Outcome::Different(differences.join(", ")) }
        }
    }
}

/// Compares every case; gives the share of cases that are equal.
fn compare(text: &str) -> f64 {
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(!cases.is_empty());
    let (mut equal, mut different) = (0_u32, Vec::new());
    for case in &cases {
        let name = format!("{} {}", case["id"].as_str().unwrap(), case["template"]);
        match judge(case) {
            Outcome::Equal => equal += 1,
            Outcome::Refused(why) => println!("refused: {name}\n    {why}"),
            Outcome::Different(how) => different.push(format!("{name}\n    {how}")),
        }
    }
    assert!(different.is_empty(), "{} cases differ:\n{}", different.len(), different.join("\n"));
    println!("{equal} of {} are equal", cases.len());
    f64::from(equal) / f64::from(u32::try_from(cases.len()).unwrap())
}

#[test]
fn the_corpus_of_real_synapse_is_met_and_nothing_differs() {
    let equal = compare(include_str!("data/mapping_corpus.json"));
    assert!(equal >= 0.98, "only {equal} are equal");
}

#[test]
fn further_answers_of_real_synapse_are_met_and_nothing_differs() {
    let equal = compare(include_str!("data/mapping_more.json"));
    assert!(equal >= 0.93, "only {equal} are equal");
}
