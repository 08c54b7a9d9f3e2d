//! What `setup oidc` would do, or did, for people and for programs.

use std::path::Path;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{
    app::AppStep,
    files::{FOR_ALL, FOR_THE_GROUP, FOR_THE_OWNER, FileStep},
    plan::{EntryStep, Plan, Scene},
    service_config,
};
use crate::cli::{
    arguments::Global,
    output::{Exit, say, say_json},
    page::{self, Page},
};

impl Scene<'_> {
    pub(super) fn give(&self, global: &Global, plan: &Plan, done: bool) -> Result<(), Exit> {
        if global.json {
            return say_json(&self.json(plan, done));
        }
        say(&self.show(plan, done));
        Ok(())
    }

    pub(super) fn show(&self, plan: &Plan, done: bool) -> String {
        let mut page = Page::new(page::width());
        let nothing = !plan.changes_something();
        page.heading(match (nothing, done) {
            (true, _) => "Nothing is to be done:",
            (false, true) => "Done:",
            (false, false) => "What would be done:",
        });
        let bullet = "  - ";
        let id = plan.known.as_ref().map_or("", |app| &app.client_id);
        match (&plan.app, done) {
            (AppStep::Create(data), _) => {
                let name = &data.name;
                page.line(
                    bullet,
                    &match done {
                        false => format!("make the OpenID app {name} in Defguard"),
                        true => format!("the OpenID app {name} in Defguard is made ({id})"),
                    },
                );
                page.line("      leads back to  ", &data.redirect_uris.join(", "));
                page.line("      scopes         ", &data.scopes.join(", "));
            }
            (AppStep::Keep(app), _) => {
                page.line(bullet, &format!("the OpenID app {} in Defguard is right ({id})", app.data.name));
            }
            (AppStep::Correct { app, changes, .. }, _) => {
                let name = &app.data.name;
                page.line(
                    bullet,
                    &match done {
                        false => format!("correct the OpenID app {name} in Defguard ({id}):"),
                        true => format!("the OpenID app {name} in Defguard is corrected ({id}):"),
                    },
                );
                for change in changes {
                    page.line("      ", change);
                }
            }
        }
        if let Some(file) = &plan.password_file {
            page.line(
                bullet,
                &file_line(FileStep::Write, file, "the password for Defguard", FOR_THE_OWNER, done),
            );
        }
        page.line(
            bullet,
            &file_line(plan.secret, &plan.secret_file, "the client secret, for Synapse", FOR_THE_GROUP, done),
        );
        match &plan.entry {
            EntryStep::File(path, step) => {
                page.line(bullet, &file_line(*step, path, "the provider entry", FOR_THE_GROUP, done));
            }
            EntryStep::Print { why, .. } => {
                page.line(bullet, &format!("the provider entry is only printed: {why}"));
            }
        }
        match plan.config {
            FileStep::Refuse | FileStep::Replace => {
                page.line(bullet, &format!("{} is there already and stays as it is", self.config.display()))
            }
            step => {
                page.line(bullet, &file_line(step, self.config, "the config of this service", FOR_ALL, done))
            }
        }
        let show_texts = self.verb.go.dry_run || matches!(plan.entry, EntryStep::Print { .. });
        if show_texts {
            page.heading(&match &plan.entry {
                EntryStep::File(path, _) => format!("{}:", path.display()),
                EntryStep::Print { list_exists: true, .. } => {
                    "Add this to that list, in the place of an item with the same idp_id:".to_owned()
                }
                EntryStep::Print { .. } => "Add this to Synapse's config:".to_owned(),
            });
            page.gap();
            verbatim(&mut page, &self.entry_text(plan));
        }
        if self.verb.go.dry_run && plan.config == FileStep::Write {
            page.heading(&format!("{}:", self.config.display()));
            page.gap();
            verbatim(&mut page, &service_config::text(self.wishes, &self.idp_id));
        }
        if let (true, Some(app)) = (self.verb.show_secret, &plan.known) {
            page.heading(&format!("The client secret is {}", app.client_secret.expose_secret()));
        }
        if !plan.mind.is_empty() {
            page.heading("Mind:");
            for mind in &plan.mind {
                page.line(bullet, mind);
            }
        }
        if done && !nothing {
            page.heading("Next:");
            if matches!(plan.entry, EntryStep::Print { .. }) {
                page.line(bullet, "put the entry above into Synapse's config");
            }
            page.line(bullet, "restart Synapse: `systemctl restart matrix-synapse`");
            if !self.wishes.synapse_token_file.exists() {
                page.line(
                    bullet,
                    "`defguard-synapse-sync setup synapse` makes the account that the service works as",
                );
            }
            page.line(bullet, "`defguard-synapse-sync check` asks both servers whether all of it fits");
            page.line(bullet, "`defguard-synapse-sync sync` makes the accounts, before people log in");
        }
        page.finish()
    }

    fn json(&self, plan: &Plan, done: bool) -> Value {
        let file = |step: FileStep, path: &Path| json!({"action": action(step), "file": path});
        let mut app = match &plan.app {
            AppStep::Create(data) => json!({"action": "create", "app": data}),
            AppStep::Keep(app) => json!({"action": "keep", "app": app.data}),
            AppStep::Correct { to, changes, .. } => {
                json!({"action": "correct", "app": to, "changes": changes})
            }
        };
        if let Some(known) = &plan.known {
            app["client_id"] = json!(known.client_id);
            if self.verb.show_secret {
                app["client_secret"] = json!(known.client_secret.expose_secret());
            }
        }
        let mut entry = match &plan.entry {
            EntryStep::File(path, step) => file(*step, path),
            EntryStep::Print { why, .. } => json!({"action": "print", "why": why}),
        };
        entry["text"] = json!(self.entry_text(plan));
        json!({
            "done": done, "app": app, "entry": entry,
            "client_secret_file": file(plan.secret, &plan.secret_file),
            "config": file(if plan.config == FileStep::Write { FileStep::Write } else { FileStep::Keep }, self.config),
            "mind": plan.mind,
        })
    }
}

fn file_line(step: FileStep, path: &Path, what: &str, mode: u32, done: bool) -> String {
    let path = path.display();
    match (step, done) {
        (FileStep::Keep, _) => format!("{path} is right ({what})"),
        (FileStep::Write, false) => format!("write {path} ({what}; mode {mode:04o})"),
        (FileStep::Replace, false) => {
            format!("replace {path} ({what}; mode {mode:04o}); the old one is kept beside it")
        }
        (FileStep::Adjust, false) => format!("let the right people read {path} ({what}; mode {mode:04o})"),
        (FileStep::Adjust, true) => format!("{path} is for the right people now ({what}; mode {mode:04o})"),
        (FileStep::Write | FileStep::Replace, true) => format!("{path} is written ({what}; mode {mode:04o})"),
        (FileStep::Refuse, _) => format!("{path} is there already and differs ({what})"),
    }
}

fn action(step: FileStep) -> &'static str {
    match step {
        FileStep::Keep => "keep",
        FileStep::Adjust => "adjust",
        FileStep::Write => "write",
        FileStep::Replace => "replace",
        FileStep::Refuse => "refuse",
    }
}

/// Text that is copied: no line of it is wrapped.
fn verbatim(page: &mut Page, text: &str) {
    for line in text.lines() {
        page.verbatim(line);
    }
}
