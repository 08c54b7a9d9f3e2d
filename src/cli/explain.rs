//! `explain`.

use super::{
    arguments::{self, Global},
    output::{Exit, complain_unknown, moment, say, say_json},
    page::{self, Names, Page, for_person, named},
    session::{Session, unexpected},
    sync::change,
};
use crate::{
    command::{Answer, Command},
    domain::{Conflict, DefguardId, MappedField, Person},
    engine::{Explanation, StepText, TemplateValue},
    forecast::{Judgement, Login},
    reconcile::{Note, State},
};

pub(super) async fn explain(global: &Global, verb: &arguments::Explain) -> Result<Exit, Exit> {
    let session = Session::open(global)?;
    let command = Command::Explain { person: verb.person.clone() };
    let Answer::Explanation(explanation) = session.answer(&command).await? else {
        return Err(unexpected());
    };
    if global.json {
        say_json(&explanation)?;
    }
    let Some(explanation) = explanation else {
        complain_unknown(&verb.person);
        return Err(Exit::Failed);
    };
    if !global.json {
        say(&show(&explanation, page::width()));
    }
    Ok(Exit::Done)
}

/// An explanation for people.
fn show(explanation: &Explanation, width: Option<usize>) -> String {
    let report = &explanation.report;
    let known = explanation.usernames.iter().map(|(id, username)| (*id, username));
    let names: Names = known.chain([(report.id, &report.username)]).collect();
    let mut page = Page::new(width);
    page.line("", &format!("{} is number {} in Defguard.", report.username, report.id));
    match &explanation.person {
        Some(person) => who(&mut page, person),
        None => page.line("  ", "The list of people does not show them (any more)."),
    }
    if !explanation.templates.is_empty() {
        page.heading("What the templates give");
        for given in &explanation.templates {
            page.value(label(given.template), &template_value(given));
        }
    }
    page.heading("Their account in Synapse");
    page.line("  ", &account(explanation));
    for conflict in &report.conflicts {
        page.heading("What stands in the way");
        page.line("  ", &format!("{}.", names.spell(&conflict.to_string())));
        if let Some(more) = twins(explanation, conflict) {
            page.line("  ", &more);
        }
        page.line("  → ", &for_person(&conflict.mend(), report.username.as_str()));
    }
    if let Some(failure) = &report.failure {
        page.heading("What failed");
        page.line("  ", &failure.to_string());
        if let Some(mend) = &failure.mend {
            page.line("  → ", mend);
        }
    }
    page.heading("What a sync would do now");
    page.line("  ", &verdict(explanation));
    for step in &report.steps {
        page.line("  - ", &step.0);
    }
    if !explanation.together_with.is_empty() {
        let others: Vec<String> = explanation.together_with.iter().map(|id| names.of(*id)).collect();
        let others = named(&others);
        page.line("  ", &format!("In one go with {others}, since something changes hands between them."));
    }
    if let Some(why) = &report.put_off
        && explanation.person.is_some()
    {
        page.line("  ", why);
    }
    login(&mut page, explanation, &names);
    let notes: Vec<&Note> = report
        .notes
        .iter()
        .filter(|note| !matches!(note, Note::OutOfScope { .. } | Note::NoAccount))
        .collect();
    if !notes.is_empty() {
        page.heading("Good to know");
        for note in notes {
            page.line("  ", &names.spell(&note.to_string()));
        }
    }
    if !explanation.journal.is_empty() {
        page.heading("What was done last (UTC)");
        for entry in &explanation.journal {
            page.line(&format!("  {}  ", moment(entry.at)), &change(&entry.change));
        }
    }
    page.finish()
}

fn who(page: &mut Page, person: &Person) {
    let groups: Vec<&str> = person.groups.iter().map(String::as_str).collect();
    let state = match (person.is_active, person.enrolled) {
        (false, _) => "disabled",
        (true, false) => "active; has not finished enrolment",
        (true, true) => "active",
    };
    page.value("name", &visible(&person.name));
    page.value("e-mail", &visible(&person.email));
    page.value("groups", &if groups.is_empty() { "none".to_owned() } else { groups.join(", ") });
    page.value("state", state);
}

/// A text that can be seen: in quotes where its ends or its being empty could not be.
fn visible(text: &str) -> String {
    match text {
        "" => "none".to_owned(),
        text if text.trim() != text => format!("\"{text}\""),
        text => text.to_owned(),
    }
}

fn label(template: MappedField) -> &'static str {
    match template {
        MappedField::Subject => "subject",
        MappedField::Localpart => "localpart",
        MappedField::DisplayName => "display name",
        MappedField::Email => "e-mail",
    }
}

fn template_value(given: &TemplateValue) -> String {
    match (&given.value, &given.error) {
        (_, Some(why)) => format!("nothing usable: {why}"),
        (Some(value), None) => visible(value),
        (None, None) if given.template == MappedField::DisplayName => {
            "nothing, so Synapse takes the localpart".to_owned()
        }
        (None, None) => "nothing".to_owned(),
    }
}

/// What a template gives today.
fn given(explanation: &Explanation, wanted: MappedField) -> Option<&str> {
    explanation.templates.iter().find(|given| given.template == wanted)?.value.as_deref()
}

fn account(explanation: &Explanation) -> String {
    match (&explanation.link, explanation.report.state, &explanation.report.mxid) {
        (Some(link), _, _) => {
            let locked = explanation.report.notes.contains(&Note::Locked);
            let state = if link.lifecycle.deactivated.is_some() {
                ", which we deactivated"
            } else if link.lifecycle.locked.is_some() {
                ", which we locked"
            } else if locked {
                ", which is locked, not by us"
            } else {
                ""
            };
            format!("{}{state}", link.mxid)
        }
        (None, State::Create, Some(mxid)) => format!("None yet; it will be {mxid}."),
        (None, State::Adopt | State::Relink, Some(mxid)) => {
            format!("None is known to be theirs yet; it will be {mxid}, which exists.")
        }
        (None, _, _) => "None.".to_owned(),
    }
}

/// Why people with different usernames want one account.
fn twins(explanation: &Explanation, conflict: &Conflict) -> Option<String> {
    let (Conflict::LocalpartTwins { .. } | Conflict::LocalpartTaken { .. }) = conflict else { return None };
    let own = explanation.report.username.as_str();
    let others: Vec<DefguardId> = conflict.others();
    let twin = explanation
        .usernames
        .iter()
        .filter(|(id, _)| **id != explanation.report.id && others.contains(id))
        .map(|(_, username)| username.as_str())
        .find(|other| *other != own && other.to_lowercase() == own.to_lowercase())?;
    (given(explanation, MappedField::Localpart)? == own.to_lowercase()).then(|| {
        format!(
            "Upper and lower case tell people apart in Defguard, but not accounts in Synapse: {own} and {twin} become \
             the same."
        )
    })
}

fn verdict(explanation: &Explanation) -> String {
    let report = &explanation.report;
    let out_of_scope = report.notes.iter().find_map(|note| match note {
        Note::OutOfScope { why } => Some(why.as_str()),
        _ => None,
    });
    let taken_out = report.steps.iter().any(|StepText(step)| {
        ["lock ", "end all sessions ", "deactivate "].iter().any(|begin| step.starts_with(begin))
    });
    if explanation.person.is_none() {
        return match (report.state, report.steps.is_empty()) {
            (State::Gone, false) if taken_out => {
                "Take their account out of use, since they are gone:".to_owned()
            }
            (State::Gone, false) => "Only this, until it is proved that they are gone:".to_owned(),
            (State::Gone, true) => "Nothing now: they are not in the list of people.".to_owned(),
            _ => "Nothing: the list of people does not show them, and that alone proves nothing.".to_owned(),
        };
    }
    let text = match report.state {
        State::InStep => "Nothing: all is in step.",
        State::Create => "Create an account for them:",
        State::Adopt => "Make an account that exists theirs:",
        State::Relink => "Take the link up again, which the ownership marker on the account proves.",
        State::Update => "Bring their account up to date:",
        State::Conflict => "Nothing, until somebody solves what stands in the way.",
        State::Disabled if taken_out => "Take their account out of use, since they are disabled:",
        State::Disabled if explanation.link.is_some() => "Nothing more: they are disabled in Defguard.",
        State::Disabled => "Nothing: they are disabled in Defguard, and somebody disabled gets no account.",
        State::Gone => "Nothing now: they are not in the list of people.",
        State::Held => "Nothing before somebody approves of it: the guard holds it; see `plan`.",
        State::OutOfScope if taken_out => "Take their account out of use, since they are out of scope:",
        State::OutOfScope => {
            return match out_of_scope {
                Some(why) => format!("Nothing, since the sync does not concern them: {why}."),
                None => "Nothing, since the sync does not concern them.".to_owned(),
            };
        }
        State::Withheld => "Nothing: it could not be decided now.",
        State::Postponed => {
            return format!(
                "Nothing yet: it failed lately and is tried again later; `sync {}` tries at once.",
                report.username
            );
        }
        State::Failed => "Nothing: their account could not be looked at.",
    };
    text.to_owned()
}

/// What Synapse would do at their next login, and whether that is what we want.
fn login(page: &mut Page, explanation: &Explanation, names: &Names) {
    let Some(forecast) = &explanation.login else { return };
    page.heading("What a login would do now");
    page.line("  ", &format!("{}.", sentence(&names.spell(&forecast.login.to_string()))));
    for conflict in &explanation.report.conflicts {
        if let (Conflict::LocalpartTwins { mxid, .. }, Login::Creates { .. }) = (conflict, &forecast.login) {
            page.line(
                "  ",
                &format!("Whoever of them logs in first gets {mxid}, and the next one an account with a number behind it."),
            );
        }
    }
    if let Judgement::Unwanted { why, mend } = &forecast.judgement {
        page.line("  ", &format!("That is not as it should be: {}.", names.spell(why)));
        page.line("  → ", mend);
    }
    if matches!(forecast.login, Login::Creates { .. }) && !explanation.login_rules.known {
        page.line(
            "  ",
            "This takes Synapse's defaults for granted, since homeserver.yaml is not read (synapse.homeserver_config).",
        );
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_whose_ends_cannot_be_seen_is_quoted() {
        assert_eq!(visible(""), "none");
        assert_eq!(visible(" Ann "), "\" Ann \"");
        assert_eq!(visible("Ann B"), "Ann B");
    }
}
