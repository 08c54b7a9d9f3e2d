//! `forget`.

use super::{
    arguments::{self, Global},
    output::{Exit, ask, complain, say, say_json},
    page::{self, Page, person},
    session::{Session, unexpected},
};
use crate::{
    command::{Answer, Command},
    engine::Forgotten,
};

pub(super) async fn forget(global: &Global, verb: &arguments::Forget) -> Result<Exit, Exit> {
    let session = Session::open(global)?;
    if !verb.yes {
        let shown = answer(&session, global, &verb.person, false).await?;
        complain(&show(&shown, page::width()));
        if !ask("Do it?", "--yes") {
            complain("nothing was changed");
            return Err(Exit::Failed);
        }
    }
    let done = answer(&session, global, &verb.person, true).await?;
    if global.json {
        say_json(&done)?;
    } else {
        say(&show(&done, page::width()));
    }
    Ok(Exit::Done)
}

async fn answer(
    session: &Session<'_>,
    global: &Global,
    person: &str,
    confirmed: bool,
) -> Result<Forgotten, Exit> {
    let command = Command::Forget { person: person.to_owned(), confirmed };
    let Answer::Forgotten(forgotten) = session.answer(&command).await? else { return Err(unexpected()) };
    if let Some(why) = &forgotten.refused {
        if global.json {
            say_json(&forgotten)?;
        }
        complain(&format!("error: {why}"));
        return Err(Exit::Failed);
    }
    Ok(*forgotten)
}

fn show(forgotten: &Forgotten, width: Option<usize>) -> String {
    let name = person(forgotten.username.as_ref().map(|username| username.as_str()), forgotten.id);
    let kept = &forgotten.kept;
    let mut page = Page::new(width);
    page.heading(&if forgotten.done {
        format!("Forgotten about {name}:")
    } else {
        format!("What would be forgotten about {name}:")
    });
    let lines =
        if kept.lines == 1 { "1 journal line".to_owned() } else { format!("{} journal lines", kept.lines) };
    page.line("  - ", &lines);
    if kept.conflicts {
        page.line("  - ", "the remembered conflicts, which the next sync finds again as long as they stand");
    }
    if kept.failures {
        page.line("  - ", "the remembered failures");
    }
    if let Some(mxid) = &forgotten.linked {
        page.heading("Mind:");
        page.line(
            "  - ",
            &format!(
                "the link to {mxid} stays, with their username and what was last written to the account; `unlink` takes \
                 it off"
            ),
        );
    }
    page.finish()
}
