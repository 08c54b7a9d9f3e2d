//! `render`: what the templates make of claims from standard input.

use std::io::{self, IsTerminal as _};

use super::{
    arguments::{self, Global},
    output::{Exit, complain, complain_findings},
};
use crate::{
    assemble::sources,
    config::{self, Environment, homeserver_yaml},
    mapping::{
        Purpose, TemplateSources, Templates,
        render::{Options, render_all},
    },
};

pub(super) fn render(global: &Global, verb: &arguments::Render) -> Result<Exit, Exit> {
    let given =
        [&verb.subject_template, &verb.localpart_template, &verb.display_name_template, &verb.email_template];
    let sources = if given.iter().any(|template| template.is_some()) {
        TemplateSources {
            subject: verb.subject_template.clone(),
            localpart: verb.localpart_template.clone(),
            display_name: verb.display_name_template.clone(),
            email: verb.email_template.clone(),
        }
    } else if verb.homeserver_config.is_empty() {
        let texts =
            config::load_templates(&global.config, &Environment::of_process()).map_err(|findings| {
                complain_findings(&findings);
                Exit::Usage
            })?;
        sources(&texts)
    } else {
        let texts = homeserver_yaml::templates_from(&verb.homeserver_config).map_err(|finding| {
            complain_findings(&[finding]);
            Exit::Usage
        })?;
        sources(&texts)
    };
    let templates = Templates::compile(&sources, Purpose::Claims).map_err(|problems| {
        for problem in problems {
            complain(&format!("error: {problem}"));
        }
        Exit::Usage
    })?;
    if io::stdin().is_terminal() {
        complain("type claims as JSON; Ctrl-D ends");
    }
    let options = Options { claims_only: verb.claims_only };
    match render_all(&templates, options, io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => Ok(Exit::Done),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        Err(error) => {
            complain(&format!("error: {error}"));
            Err(Exit::Failed)
        }
    }
}
