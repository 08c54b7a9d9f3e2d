//! `setup webhook`: Defguard's webhook, as the config of this service says.

use std::sync::Arc;

use serde::Serialize;

use super::arguments::Webhook as Verb;
use crate::{
    assemble::{self, SystemClock},
    cli::{
        arguments::Global,
        log,
        output::{Exit, ask, complain, complain_failure, say, say_json},
        session,
    },
    config::WebhookSettings,
    defguard::{
        Defguard,
        webhooks::{Difference, Setup, Webhook, decide},
    },
    domain::{Failure, FailureClass, Peer},
};

/// What was found and what became of it, for programs.
#[derive(Debug, Serialize)]
struct Done {
    url: String,
    outcome: Outcome,
    differences: Vec<Difference>,
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Unchanged,
    Registered,
    Corrected,
}

/// Registers the webhook, or corrects it.
pub(super) async fn webhook(global: &Global, verb: &Verb) -> Result<Exit, Exit> {
    let (settings, _) = session::load(&global.config)?;
    log::begin(&settings.log, global, false);
    let Some(wanted) = &settings.webhook else {
        complain(&format!(
            "error: {}: there is no webhook to register\n  → give `webhook.listen` and `webhook.token_file`, and \
             `webhook.url` if Defguard runs on another machine",
            global.config.display()
        ));
        return Err(Exit::Usage);
    };
    let failed = |failure: Failure| complain_failure(&failure);
    let defguard = assemble::defguard(&settings, Arc::new(SystemClock)).map_err(failed)?;
    let found = decide(&defguard.webhooks().await.map_err(failed)?, &wanted.url, &wanted.token);
    let (outcome, differences) = match found {
        Setup::InPlace => (Outcome::Unchanged, Vec::new()),
        Setup::Add => {
            if !verb.dry_run {
                defguard.add_webhook(&wanted.url, &wanted.token).await.map_err(failed)?;
            }
            (Outcome::Registered, Vec::new())
        }
        Setup::Change { now, differences } => {
            if !verb.dry_run {
                correct(&defguard, &now, &differences, wanted, verb.replace).await?;
            }
            (Outcome::Corrected, differences)
        }
    };
    if outcome != Outcome::Unchanged && !verb.dry_run {
        look_again(&defguard, wanted).await.map_err(failed)?;
    }
    let done = Done { url: wanted.url.to_string(), outcome, differences, dry_run: verb.dry_run };
    if global.json {
        say_json(&done)?;
    } else {
        say(&show(&done));
    }
    Ok(Exit::Done)
}

/// Corrects it. Another token may be somebody's purpose, so it is only replaced by somebody's wish.
async fn correct(
    defguard: &Defguard,
    now: &Webhook,
    differences: &[Difference],
    wanted: &WebhookSettings,
    replace: bool,
) -> Result<(), Exit> {
    if differences.contains(&Difference::Token) && !replace {
        complain(&format!("{} is registered in Defguard, but {}.", wanted.url, Difference::Token));
        if !ask("Give it ours?", "--replace") {
            complain("nothing was changed");
            return Err(Exit::Failed);
        }
    }
    defguard.change_webhook(now, &wanted.token).await.map_err(|failure| complain_failure(&failure))
}

/// Defguard answers a registration without a word, so what it remembers is read again.
async fn look_again(defguard: &Defguard, wanted: &WebhookSettings) -> Result<(), Failure> {
    match decide(&defguard.webhooks().await?, &wanted.url, &wanted.token) {
        Setup::InPlace => Ok(()),
        Setup::Add | Setup::Change { .. } => Err(Failure::new(
            Peer::Defguard,
            FailureClass::Malformed,
            "reading the webhook again",
            "Defguard accepted it, but does not show it as it was sent",
        )
        .mend("look at the webhooks in Defguard's settings, and try again")),
    }
}

fn show(done: &Done) -> String {
    let Done { url, outcome, differences, dry_run } = done;
    let would = if *dry_run { "would be" } else { "was" };
    match outcome {
        Outcome::Unchanged => format!("{url} is registered in Defguard already, and right: nothing to do."),
        Outcome::Registered => {
            format!("{url} {would} registered in Defguard, for people created, modified and deleted.")
        }
        Outcome::Corrected => {
            let why: Vec<String> = differences.iter().map(ToString::to_string).collect();
            format!("{url} is registered in Defguard, but {}: that {would} corrected.", why.join(", and "))
        }
    }
}
