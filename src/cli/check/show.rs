//! Findings and forecasts for people and for programs.

use serde::Serialize;

use crate::{
    cli::{
        arguments::{Check, Global},
        output::{Exit, say, say_json},
        page::{self, Names, Page, person},
    },
    diagnosis::{Finding, Level},
    forecast::{Forecast, Forecasts, Judgement},
};

/// Prints what was found.
pub(super) fn give(
    global: &Global,
    verb: &Check,
    findings: &[Finding],
    logins: Option<&Forecasts>,
) -> Result<(), Exit> {
    #[derive(Serialize)]
    struct Both<'a> {
        findings: &'a [Finding],
        logins: Option<&'a Forecasts>,
    }
    match (global.json, verb.people) {
        (true, true) => say_json(&Both { findings, logins }),
        (true, false) => say_json(&findings),
        (false, _) => {
            say(&page(findings, logins, verb.verbose, page::width()));
            Ok(())
        }
    }
}

/// The findings, the logins, and in the last line whether all is well.
fn page(findings: &[Finding], logins: Option<&Forecasts>, verbose: bool, width: Option<usize>) -> String {
    let mut page = Page::new(width);
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => "ok",
            Level::Advice => "ADVICE",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        let place = finding.at.as_ref().map_or_else(String::new, |at| format!("{at}: "));
        page.line(&format!("{mark:<8} {:<10} ", finding.about), &format!("{place}{}", finding.found));
        if let Some(why) = &finding.why {
            page.line(&format!("{:20}", ""), &format!("{why}."));
        }
        if let Some(mend) = &finding.mend {
            page.line(&format!("{:19} → ", ""), mend);
        }
    }
    if let Some(logins) = logins {
        show_logins(&mut page, logins, verbose);
    }
    page.gap();
    page.line("", &sum(findings));
    page.finish()
}

fn sum(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let times = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let advice = match count(Level::Advice) {
        0 => String::new(),
        1 => " There is 1 piece of advice.".to_owned(),
        pieces => format!(" There are {pieces} pieces of advice."),
    };
    let text = match (errors, warnings) {
        (0, 0) => "All is well.".to_owned(),
        (0, warnings) => format!("It works; {} to look at.", times(warnings, "warning")),
        (errors, 0) => format!("It cannot work so: {}.", times(errors, "error")),
        (errors, warnings) => {
            format!("It cannot work so: {} and {}.", times(errors, "error"), times(warnings, "warning"))
        }
    };
    format!("{text}{advice}")
}

fn show_logins(page: &mut Page, logins: &Forecasts, verbose: bool) {
    let names: Names = logins.usernames.iter().map(|(id, username)| (*id, username)).collect();
    let rows = |is: fn(&Judgement) -> bool| -> Vec<[String; 3]> {
        logins.people.iter().filter(|one| is(&one.judgement)).map(|one| row(one, &names)).collect()
    };
    let unwanted = rows(Judgement::is_unwanted);
    if !unwanted.is_empty() {
        page.heading("Next logins that would not be as they should:");
        page.table(["person", "what would happen", "why not, and what to do"], unwanted);
    }
    let unclear = rows(|judgement| *judgement == Judgement::Unclear);
    if !unclear.is_empty() {
        page.heading("Next logins that cannot be told:");
        page.table(["person", "what would happen", ""], unclear);
    }
    let wanted = rows(|judgement| *judgement == Judgement::Wanted);
    if verbose && !wanted.is_empty() {
        page.heading("Next logins that are as they should be:");
        page.table(["person", "what would happen", ""], wanted);
    }
    for (mxid, people) in logins.meeting() {
        let people: Vec<String> = people.iter().map(ToString::to_string).collect();
        let text = format!(
            "{}: whoever of them logs in first gets {mxid}, the others one with a number behind it.",
            page::named(&people)
        );
        page.gap();
        page.line("", &text);
    }
    if !logins.complete {
        page.gap();
        page.line("", "The list of people was incomplete, so somebody may be missing here.");
    }
    if !logins.rules.known {
        page.gap();
        page.line(
            "",
            "homeserver.yaml is not read (synapse.homeserver_config), so this takes Synapse's defaults for granted: a login \
             makes accounts, and ties none by its name.",
        );
    }
}

fn row(one: &Forecast, names: &Names) -> [String; 3] {
    let name = person(Some(one.username.as_str()), one.id);
    let said = match &one.judgement {
        Judgement::Unwanted { why, mend } => format!("{}\n→ {mend}", names.spell(why)),
        Judgement::Wanted | Judgement::Unclear => String::new(),
    };
    [name, names.spell(&one.login.to_string()), said]
}
