//! `adopt`.

use super::{
    arguments::{self, Global},
    output::{Exit, complain, complain_unknown, moment, say, say_json},
    page::{self, Names, Page, named, person},
    session::{Session, unexpected},
    sync::change,
};
use crate::{
    command::{Answer, Command},
    domain::Completeness,
    engine::{AdoptRequest, Adoption, Double, Doubles, Match},
};

pub(super) async fn adopt(global: &Global, verb: &arguments::Adopt) -> Result<Exit, Exit> {
    let session = Session::open(global)?;
    let request = AdoptRequest {
        only: verb.people.iter().cloned().collect(),
        least: verb.at_least.into(),
        approved: verb.approve.clone(),
    };
    let Answer::Adoption(adoption) = session.answer(&Command::Adopt(request)).await? else {
        return Err(unexpected());
    };
    if global.json {
        say_json(&adoption)?;
    } else {
        say(&show(&adoption, &again(verb), page::width()));
    }
    for name in &adoption.unknown {
        complain_unknown(name);
    }
    if let Some(why) = &adoption.refused {
        complain(&format!("error: {why}"));
        return Err(Exit::Failed);
    }
    let troubles = adoption.done.iter().flatten().any(|one| one.trouble.is_some());
    Ok(if troubles || !adoption.unknown.is_empty() { Exit::Partly } else { Exit::Done })
}

/// The command that approves what this one showed.
fn again(verb: &arguments::Adopt) -> String {
    let mut words = vec!["adopt".to_owned()];
    words.extend(verb.people.iter().map(|name| match name.starts_with('#') {
        true => format!("'{name}'"),
        false => name.clone(),
    }));
    if verb.at_least != arguments::AtLeast::Likely {
        words.push(format!("--at-least {}", verb.at_least.as_str()));
    }
    words.join(" ")
}

fn show(adoption: &Adoption, again: &str, width: Option<usize>) -> String {
    let names: Names = names(adoption).collect();
    let mut page = Page::new(width);
    if let Completeness::Incomplete(why) = &adoption.completeness {
        page.heading("The list of people was incomplete, so nothing can be approved:");
        why.iter().for_each(|why| page.line("  ", why));
    }
    match &adoption.done {
        Some(done) => {
            page.heading("What was done:");
            let rows = done.iter().map(|one| {
                let did = one.done.iter().map(change).chain(one.trouble.clone()).collect::<Vec<_>>();
                [person(Some(one.username.as_str()), one.id), one.mxid.to_string(), did.join("\n")]
            });
            page.table(["person", "account", "change"], rows.collect());
        }
        None if !adoption.matches.is_empty() => {
            page.heading("These accounts would be linked:");
            page.table(["person", "account", "certainty", "because"], rows(&adoption.matches));
        }
        None => {}
    }
    if adoption.done.is_none() && adoption.matches.iter().any(|found| !found.warnings.is_empty()) {
        page.heading("Mind:");
        for found in &adoption.matches {
            for warning in &found.warnings {
                page.line("  - ", &format!("{}: {}", found.username, names.spell(warning)));
            }
        }
    }
    if !adoption.doubles.is_empty() {
        page.heading("These people may have several accounts; nothing is merged by itself:");
        adoption.doubles.iter().for_each(|doubles| side_by_side(&mut page, doubles));
    }
    if !adoption.less_sure.is_empty() {
        page.heading("Less sure, and so not among them:");
        page.table(["person", "account", "certainty", "because"], rows(&adoption.less_sure));
        page.line("  → ", "to have these, too: --at-least guess; for one of them: `link USER MXID`");
    }
    if !adoption.left.is_empty() {
        page.heading("Left to you:");
        for left in &adoption.left {
            let name = person(Some(left.username.as_str()), left.id);
            let account = left.mxid.as_ref().map_or_else(String::new, |mxid| format!(" and {mxid}"));
            page.line("  ", &format!("{name}{account}: {}", names.spell(&left.why)));
            if let Some(mxid) = &left.mxid {
                page.line("    → ", &format!("if it is theirs: `link {} {mxid}`", left.username));
            }
        }
    }
    page.gap();
    page.line("", &sum(adoption));
    if let (None, Some(digest)) = (&adoption.done, &adoption.digest) {
        page.line("", &format!("Nothing was changed. To link them: {again} --approve {digest}"));
    }
    page.finish()
}

fn names(adoption: &Adoption) -> impl Iterator<Item = (crate::domain::DefguardId, &crate::domain::Username)> {
    let matches = adoption.matches.iter().chain(&adoption.less_sure).map(|one| (one.id, &one.username));
    let doubles = adoption.doubles.iter().map(|one| (one.id, &one.username));
    matches.chain(doubles).chain(adoption.left.iter().map(|one| (one.id, &one.username)))
}

fn rows(matches: &[Match]) -> Vec<[String; 4]> {
    let row = |found: &Match| {
        [
            person(Some(found.username.as_str()), found.id),
            found.account.mxid.to_string(),
            found.certainty.as_str().to_owned(),
            because(&found.account),
        ]
    };
    matches.iter().map(row).collect()
}

fn because(candidate: &crate::reconcile::Candidate) -> String {
    candidate.by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn side_by_side(page: &mut Page, doubles: &Doubles) {
    let name = doubles.username.as_str();
    page.line("  ", &person(Some(name), doubles.id));
    let row = |double: &Double| {
        let (seen, rooms) = match &double.activity {
            None => ("not known".to_owned(), "not known".to_owned()),
            Some(activity) => {
                (activity.last_seen.map_or_else(|| "never".to_owned(), moment), activity.rooms.to_string())
            }
        };
        let mut because = because(&double.account);
        if let Some(unfit) = &double.account.unfit {
            because.push_str(&format!("\n{unfit}"));
        }
        [double.account.mxid.to_string(), seen, rooms, because]
    };
    let rows = doubles.accounts.iter().map(row).collect();
    page.table(["account", "last seen (UTC)", "rooms", "because"], rows);
    let commands: Vec<String> =
        doubles.accounts.iter().map(|double| format!("`link {name} {}`", double.account.mxid)).collect();
    page.line(
        "    → ",
        &format!(
            "see which one they use, and say so with {}; then have them join their rooms with it, and deactivate the \
             other one in Synapse",
            named(&commands).replace(", ", " or ")
        ),
    );
}

fn sum(adoption: &Adoption) -> String {
    let people = |count: usize| if count == 1 { "1 person".to_owned() } else { format!("{count} people") };
    let matched = match &adoption.done {
        None => format!("{} matched", people(adoption.matches.len())),
        Some(done) => {
            let linked = done.iter().filter(|one| one.trouble.is_none()).count();
            format!("{} linked, {} not", people(linked), done.len() - linked)
        }
    };
    format!(
        "{matched}; {} with several accounts, {} less sure, {} left to you. {} linked before; {} without an account of \
         any kind, for whom `plan` says what a sync would do.",
        adoption.doubles.len(),
        adoption.less_sure.len(),
        adoption.left.len(),
        people(adoption.linked),
        people(adoption.without),
    )
}
