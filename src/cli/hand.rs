//! `link` and `unlink`.

use super::{
    arguments::{Global, Link, Unlink},
    output::{Exit, ask, complain, say, say_json},
    session::{answer, unexpected},
    sync::change,
};
use crate::{
    command::{Answer, Command},
    engine::HandDone,
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
    if !yes {
        let shown = by_hand(global, &wish, false).await?;
        complain(&show(&shown));
        if !ask("Do it?") {
            complain("nothing was changed");
            return Err(Exit::Failed);
        }
    }
    let done = by_hand(global, &wish, true).await?;
    if global.json {
        say_json(&done)?;
    } else {
        say(&show(&done));
    }
    Ok(Exit::Done)
}

async fn by_hand(global: &Global, wish: &ByHand, confirmed: bool) -> Result<HandDone, Exit> {
    let command = Command::ByHand { wish: wish.clone(), confirmed };
    let Answer::ByHand(shown) = answer(global, &command).await? else { return Err(unexpected()) };
    if let Some(why) = &shown.refused {
        complain(&format!("error: {why}"));
        return Err(Exit::Failed);
    }
    Ok(*shown)
}

/// A change by hand for people: what will be done, or what was done.
fn show(shown: &HandDone) -> String {
    let name = shown.username.as_ref().map_or_else(String::new, |username| format!("{username} "));
    let mut lines = vec![format!("{name}#{}", shown.id)];
    match &shown.done {
        None => lines.extend(shown.steps.iter().map(|step| format!("  - {}", step.0))),
        Some(done) => lines.extend(done.iter().map(|done| format!("  - {}", change(done)))),
    }
    lines.extend(shown.warnings.iter().map(|warning| format!("  ! {warning}")));
    lines.join("\n")
}
