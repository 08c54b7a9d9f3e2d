//! `link` and `unlink`.

use super::{
    arguments::{Global, Link, Unlink},
    output::{Exit, ask, complain, say, say_json},
    page::{self, Names, Page, person},
    session::{Session, unexpected},
    sync::change,
};
use crate::{
    command::{Answer, Command},
    engine::{HandDone, StepText},
    reconcile::ByHand,
};

pub(super) async fn link(global: &Global, verb: &Link) -> Result<Exit, Exit> {
    let wish = ByHand::Link { person: verb.person.clone(), mxid: verb.mxid.clone() };
    go(global, wish, verb.yes).await
}

pub(super) async fn unlink(global: &Global, verb: &Unlink) -> Result<Exit, Exit> {
    go(global, ByHand::Unlink { person: verb.person.clone() }, verb.yes).await
}

async fn go(global: &Global, wish: ByHand, yes: bool) -> Result<Exit, Exit> {
    let session = Session::open(global)?;
    let mut steps = None;
    if !yes {
        let shown = by_hand(&session, global, &wish, false, None).await?;
        complain(&show(&shown, page::width()));
        if !ask("Do it?", "--yes") {
            complain("nothing was changed");
            return Err(Exit::Failed);
        }
        steps = Some(shown.steps);
    }
    let done = by_hand(&session, global, &wish, true, steps).await?;
    if global.json {
        say_json(&done)?;
    } else {
        say(&show(&done, page::width()));
    }
    Ok(Exit::Done)
}

async fn by_hand(
    session: &Session<'_>,
    global: &Global,
    wish: &ByHand,
    confirmed: bool,
    shown: Option<Vec<StepText>>,
) -> Result<HandDone, Exit> {
    let command = Command::ByHand { wish: wish.clone(), confirmed, shown };
    let Answer::ByHand(shown) = session.answer(&command).await? else { return Err(unexpected()) };
    if let Some(why) = &shown.refused {
        if global.json {
            say_json(&shown)?;
        }
        complain(&format!("error: {why}"));
        return Err(Exit::Failed);
    }
    Ok(*shown)
}

/// A change by hand for people: what will be done, or what was done.
fn show(shown: &HandDone, width: Option<usize>) -> String {
    let name = person(shown.username.as_ref().map(|username| username.as_str()), shown.id);
    let names: Names = shown.username.iter().map(|username| (shown.id, username)).collect();
    let mut page = Page::new(width);
    match &shown.done {
        None => {
            page.heading(&format!("What would be done for {name}:"));
            for step in &shown.steps {
                page.line("  - ", &step.0);
            }
            page.line("  - ", "remember it here");
        }
        Some(done) => {
            page.heading(&format!("Done for {name}:"));
            for done in done {
                page.line("  - ", &change(done));
            }
        }
    }
    if !shown.warnings.is_empty() {
        page.heading("Mind:");
        for warning in &shown.warnings {
            page.line("  - ", &names.spell(warning));
        }
    }
    page.finish()
}
