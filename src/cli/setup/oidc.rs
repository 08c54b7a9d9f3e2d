//! `setup oidc`: the OpenID app in Defguard, the provider entry for Synapse, and this service's config.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{
    app::{self, AppStep, Undecided},
    arguments::Oidc,
    confirm,
    entry::{self, Entry},
    files::{self, FOR_ALL, FOR_THE_GROUP, FOR_THE_OWNER, FileStep, Owner},
    refuse, service_config,
    wishes::{self, DefguardLogin, Wishes},
};
use crate::{
    assemble::SystemClock,
    cli::{
        arguments::Global,
        output::{Exit, complain, complain_failure, say, say_json},
        page::{self, Page},
    },
    config::{self, Environment, Place, homeserver, homeserver_yaml},
    defguard::{self, App, AppData, Defguard, Discovery},
    domain::{Failure, FailureClass, Peer},
    http::HttpOptions,
    ports::Clock as _,
};

/// The user that the service runs as, by the README.
pub(super) const SERVICE_USER: &str = "defguard-synapse-sync";
/// Stands in the entry for what only Defguard can give.
const NOT_KNOWN_YET: &str = "(given by Defguard when the app is made)";

/// Everything that is to be done, decided before anything is.
struct Plan {
    app: AppStep,
    /// The app as Defguard has it; `None` until it is made.
    known: Option<App>,
    entry: EntryStep,
    secret_file: PathBuf,
    secret: FileStep,
    config: FileStep,
    password_file: Option<PathBuf>,
    /// What is to be minded, in full sentences.
    mind: Vec<String>,
}

/// What becomes of the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum EntryStep {
    /// Into a file of its own.
    File(PathBuf, FileStep),
    /// Printed, to be put somewhere by hand: why, and whether the list is there already.
    Print { why: String, list_exists: bool },
}

/// What was asked for, and what was found, as far as the texts depend on it.
struct Scene<'a> {
    verb: &'a Oidc,
    wishes: &'a Wishes,
    discovery: &'a Discovery,
    idp_id: String,
    localpart_template: String,
    config: &'a Path,
}

pub(super) async fn oidc(global: &Global, verb: &Oidc) -> Result<Exit, Exit> {
    let config = wishes::whole(&global.config)?;
    let wishes = wishes::gather(&config, verb)?;
    let defguard = connect(&wishes).map_err(|failure| complain_failure(&failure))?;
    let (discovery, apps) = look(&defguard).await.map_err(|failure| complain_failure(&failure))?;
    let scene = Scene::new(verb, &wishes, &discovery, &config)?;
    let plan = scene.plan(&apps)?;
    let refused = plan.refused();
    if verb.go.dry_run || refused.is_some() {
        scene.give(global, &plan, false)?;
        return match refused {
            None => Ok(Exit::Done),
            Some(why) => {
                complain(&why);
                Err(Exit::Failed)
            }
        };
    }
    if plan.changes_something() {
        if !verb.go.yes {
            complain(&scene.show(&plan, false));
        }
        confirm(verb.go.yes)?;
    }
    let app = act(&defguard, &plan).await.map_err(|failure| complain_failure(&failure))?;
    let plan = Plan { known: Some(app.clone()), ..plan };
    scene.write(&plan, &app).map_err(|why| {
        complain(&format!("error: {why}\n  → run the command again afterwards: it goes on where it stopped"));
        Exit::Failed
    })?;
    let seen = scene.look_again(&plan, &app);
    scene.give(global, &plan, true)?;
    seen
}

fn connect(wishes: &Wishes) -> Result<Defguard, Failure> {
    let auth = match &wishes.login {
        DefguardLogin::Token { token, .. } => defguard::Auth::Token(token.clone()),
        DefguardLogin::Password { username, password, totp_secret, .. } => defguard::Auth::Session {
            username: username.clone(),
            password: password.clone(),
            totp_secret: totp_secret.clone(),
        },
    };
    let ca_pem = wishes.defguard_ca_file.as_ref().map(std::fs::read).transpose().map_err(|error| {
        Failure::new(
            Peer::Defguard,
            FailureClass::Permanent,
            "reading the certificate authorities",
            error.to_string(),
        )
        .mend("Give another --defguard-ca-file.")
    })?;
    let http = HttpOptions { ca_pem, ..HttpOptions::default() };
    Defguard::new(defguard::Options::new(wishes.defguard_url.clone(), auth), http, Arc::new(SystemClock))
}

/// What Defguard says about itself, and its apps. One that signs with nothing that Synapse could verify is refused.
async fn look(defguard: &Defguard) -> Result<(Discovery, Vec<App>), Failure> {
    let discovery = defguard.discovery().await?;
    if defguard.signing_keys().await? == 0 {
        return Err(Failure::new(
            Peer::Defguard,
            FailureClass::Permanent,
            "reading the keys that Defguard signs logins with",
            "it publishes no RSA key, so it signs with HS256, and Synapse would refuse every login",
        )
        .mend(
            "Give Defguard an RSA key: take DEFGUARD_HMAC out of its environment and restart it; 2.x makes a key by \
             itself then. (Before 2.0: `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsakey.pem`, \
             and DEFGUARD_OPENID_KEY with its path.)",
        ));
    }
    Ok((discovery, defguard.apps().await?))
}

/// Makes or corrects the app. What Defguard has afterwards is given back.
async fn act(defguard: &Defguard, plan: &Plan) -> Result<App, Failure> {
    match &plan.app {
        AppStep::Create(data) => defguard.create_app(data).await,
        AppStep::Keep(app) => Ok(app.clone()),
        AppStep::Correct { app, to, .. } => {
            defguard.change_app(&app.client_id, to).await?;
            let apps = defguard.apps().await?;
            apps.into_iter().find(|now| now.client_id == app.client_id && now.data == *to).ok_or_else(|| {
                Failure::new(
                    Peer::Defguard,
                    FailureClass::Malformed,
                    "correcting the OpenID app",
                    "Defguard accepted the change, but does not show it",
                )
                .mend("Look at the app in Defguard's web page, and run the command again.")
            })
        }
    }
}

impl<'a> Scene<'a> {
    fn new(
        verb: &'a Oidc,
        wishes: &'a Wishes,
        discovery: &'a Discovery,
        config: &'a Path,
    ) -> Result<Self, Exit> {
        let present = wishes.homeserver.providers.iter().find(|entry| {
            entry
                .issuer
                .as_deref()
                .is_some_and(|issuer| issuer.trim_end_matches('/') == discovery.issuer.trim_end_matches('/'))
        });
        let idp_id = verb
            .idp_id
            .clone()
            .or_else(|| present.map(|entry| entry.idp_id.clone()))
            .or_else(|| wishes.idp_id.clone())
            .unwrap_or_else(|| "Defguard".to_owned());
        if homeserver_yaml::auth_provider(&idp_id).is_none() {
            return Err(refuse(
                &format!("`{idp_id}` is no idp_id that Synapse takes"),
                "give --idp-id with A-Z, a-z, 0-9, '.', '_', '~' and '-' only",
            ));
        }
        let localpart_template = verb
            .localpart_template
            .clone()
            .or_else(|| present.and_then(|entry| entry.localpart_template.clone()))
            .unwrap_or_else(|| entry::LOCALPART.to_owned());
        Ok(Self { verb, wishes, discovery, idp_id, localpart_template, config })
    }

    fn plan(&self, apps: &[App]) -> Result<Plan, Exit> {
        let wishes = self.wishes;
        let wanted = AppData {
            name: self.verb.app_name.clone(),
            redirect_uris: vec![format!("{}_synapse/client/oidc/callback", wishes.public_baseurl)],
            scopes: entry::SCOPES.map(str::to_owned).to_vec(),
            enabled: true,
        };
        let in_use: Vec<String> =
            wishes.homeserver.providers.iter().filter_map(|entry| entry.client_id.clone()).collect();
        let app = app::choose(apps, &wanted, &in_use, self.verb.client_id.as_deref())
            .map_err(|undecided| complain_undecided(&undecided, self.verb))?;
        let known = match &app {
            AppStep::Create(_) => None,
            AppStep::Keep(app) | AppStep::Correct { app, .. } => Some(app),
        };
        let secret_file = self.secret_file()?;
        let entry = entry_place(
            &wishes.homeserver.providers_at,
            wishes.homeserver.providers.len(),
            self.entry_file()?,
            self.verb.print,
        );
        let replace = self.verb.go.replace;
        let step = |path: &Path, wanted: Option<&str>, replace| {
            let present = files::present(path).map_err(|why| {
                complain(&format!("error: {why}"));
                Exit::Failed
            })?;
            let present = present.as_ref().map(|text| text.expose_secret());
            Ok(FileStep::of(present, wanted, replace))
        };
        let entry = match entry {
            EntryStep::File(path, _) => {
                let text = known.map(|app| self.entry(&app.client_id, &secret_file).file());
                let step = step(&path, text.as_deref(), replace)?;
                EntryStep::File(path, step)
            }
            print => print,
        };
        let secret = known.map(|app| app.client_secret.expose_secret());
        Ok(Plan {
            mind: self.mind(),
            secret: step(&secret_file, secret, replace)?,
            // Whatever else is in it is somebody's work.
            config: step(self.config, Some(&service_config::text(wishes, &self.idp_id)), false)?,
            password_file: match &wishes.login {
                DefguardLogin::Password { file, typed: true, .. } => Some(file.clone()),
                _ => None,
            },
            known: known.cloned(),
            app,
            entry,
            secret_file,
        })
    }

    fn entry<'b>(&'b self, client_id: &'b str, secret_file: &'b Path) -> Entry<'b> {
        Entry {
            idp_id: &self.idp_id,
            idp_name: &self.verb.idp_name,
            discovery: self.discovery,
            client_id,
            client_secret_path: secret_file,
            localpart_template: &self.localpart_template,
            display_name_template: &self.verb.display_name_template,
            email_template: &self.verb.email_template,
            provisioned_only: self.verb.provisioned_only,
        }
    }

    fn entry_text(&self, plan: &Plan) -> String {
        let client_id = plan.known.as_ref().map_or(NOT_KNOWN_YET, |app| &app.client_id);
        let entry = self.entry(client_id, &plan.secret_file);
        match plan.entry {
            EntryStep::Print { list_exists: true, .. } => entry.item(),
            _ => entry.file(),
        }
    }

    /// Where the entry goes: what was given, if Synapse reads it there, else into the last directory that Synapse reads.
    fn entry_file(&self) -> Result<Option<PathBuf>, Exit> {
        let paths = &self.wishes.homeserver_config;
        let Some(given) = &self.verb.entry_file else {
            return Ok(homeserver::directory(paths).map(|directory| directory.join("defguard-oidc.yaml")));
        };
        let given = wishes::whole(given)?;
        let read = paths.contains(&given)
            || (given.extension().is_some_and(|end| end == "yaml")
                && given.parent().is_some_and(|directory| paths.iter().any(|path| path == directory)));
        if read {
            return Ok(Some(given));
        }
        Err(refuse(
            &format!("Synapse would not read {}", given.display()),
            "it must end in .yaml and be in a directory that is given with --homeserver-config (and that Synapse gets \
             with --config-path)",
        ))
    }

    fn secret_file(&self) -> Result<PathBuf, Exit> {
        match (&self.verb.client_secret_file, self.wishes.homeserver.files.first()) {
            (Some(given), _) => wishes::whole(given),
            (None, Some(first)) => {
                Ok(first.parent().unwrap_or(Path::new("/")).join("defguard-client-secret"))
            }
            (None, None) => Err(refuse(
                "the homeserver has no file of config",
                "name its files with --homeserver-config, or give --client-secret-file",
            )),
        }
    }

    /// Who is to read what is written for Synapse; `None` if that cannot be told.
    fn synapse_user(&self) -> Result<Option<(u32, u32)>, Exit> {
        let named = self.verb.synapse_user.as_deref();
        let user = named.map(|name| {
            files::user(name).ok_or_else(|| {
                refuse(&format!("this machine has no user `{name}`"), "give --synapse-user by name or number")
            })
        });
        let owner = self.wishes.homeserver.files.first().and_then(|file| files::owner_of(file));
        Ok(files::synapse_user(user.transpose()?, owner, files::user("matrix-synapse")))
    }

    fn mind(&self) -> Vec<String> {
        let mut mind = Vec::new();
        if !self.discovery.issuer.starts_with("https://") {
            mind.push(format!(
                "Defguard calls itself {}: without https, passwords cross the network in clear, and the entry needs \
                 `skip_verification`. Set the address of Defguard in its settings.",
                self.discovery.issuer
            ));
        }
        let base = &self.wishes.public_baseurl;
        if base.starts_with("http://")
            && !["127.0.0.1", "localhost", "[::1]"].iter().any(|host| base.contains(host))
        {
            mind.push(format!(
                "people reach the homeserver at {base}: without https, browsers drop the cookie that a login needs. Set \
                 public_baseurl to an address with https."
            ));
        }
        for entry in &self.wishes.homeserver.providers {
            if entry.issuer.as_deref() == Some(&self.discovery.issuer) && entry.idp_id != self.idp_id {
                mind.push(format!(
                    "the homeserver has a provider for this Defguard with the idp_id {}. Logins of existing accounts are \
                     kept under it; with {} nobody's login would find theirs.",
                    entry.idp_id, self.idp_id
                ));
            }
        }
        if matches!(self.synapse_user(), Ok(None)) && files::is_root() {
            mind.push(
                "only root can read the files that are written for Synapse. If Synapse runs as somebody else, give \
                 --synapse-user."
                    .to_owned(),
            );
        }
        mind
    }

    /// Writes all files; each is whole or not there.
    fn write(&self, plan: &Plan, app: &App) -> Result<(), String> {
        let now = SystemClock.now();
        let for_synapse = match self.synapse_user() {
            Ok(user) => user.filter(|_| files::is_root()).map_or_else(Owner::default, Owner::readable_by),
            Err(_) => Owner::default(),
        };
        let for_service = service_owner();
        if let (Some(file), DefguardLogin::Password { password, .. }) =
            (&plan.password_file, &self.wishes.login)
        {
            files::write(file, password, FOR_THE_OWNER, for_service, now)?;
        }
        if matches!(plan.secret, FileStep::Write | FileStep::Replace) {
            files::write(&plan.secret_file, &app.client_secret, FOR_THE_GROUP, for_synapse, now)?;
        }
        if let EntryStep::File(path, FileStep::Write | FileStep::Replace) = &plan.entry {
            files::write(path, &self.entry_text(plan).into(), FOR_THE_GROUP, for_synapse, now)?;
        }
        if plan.config == FileStep::Write {
            let text = SecretString::from(service_config::text(self.wishes, &self.idp_id));
            files::write(self.config, &text, FOR_ALL, Owner::default(), now)?;
        }
        Ok(())
    }

    /// Reads back what was written, as Synapse and as this service will read it.
    fn look_again(&self, plan: &Plan, app: &App) -> Result<Exit, Exit> {
        if let EntryStep::File(path, _) = &plan.entry {
            let after = wishes::survey(&self.wishes.homeserver_config)?;
            let there = after
                .providers
                .iter()
                .any(|entry| entry.idp_id == self.idp_id && entry.client_id.as_ref() == Some(&app.client_id));
            if !there {
                complain(&format!(
                    "error: {} was written, but is not what Synapse would see\n  → look for a later file with \
                     `oidc_providers` in it",
                    path.display()
                ));
                return Err(Exit::Failed);
            }
        }
        match config::load(self.config, &Environment::of_process(), SystemClock.now()) {
            Ok((settings, _)) => {
                let right = homeserver_yaml::auth_provider(&self.idp_id);
                if Some(&settings.synapse.auth_provider) != right.as_ref() {
                    complain(&format!(
                        "warning: {} is for the provider {}\n  → set idp_id = \"{}\" in [synapse]",
                        self.config.display(),
                        settings.synapse.auth_provider,
                        self.idp_id
                    ));
                }
            }
            // An entry that is still to be put into a file is missing there.
            Err(_) if matches!(plan.entry, EntryStep::Print { .. }) => {}
            Err(findings) => {
                complain(&format!("{} cannot be used yet:", self.config.display()));
                for finding in findings {
                    complain(&finding.to_string());
                }
            }
        }
        Ok(Exit::Done)
    }

    fn give(&self, global: &Global, plan: &Plan, done: bool) -> Result<(), Exit> {
        if global.json {
            return say_json(&self.json(plan, done));
        }
        say(&self.show(plan, done));
        Ok(())
    }

    fn show(&self, plan: &Plan, done: bool) -> String {
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

impl Plan {
    fn changes_something(&self) -> bool {
        let writes = |step: FileStep| matches!(step, FileStep::Write | FileStep::Replace);
        !matches!(self.app, AppStep::Keep(_))
            || self.password_file.is_some()
            || writes(self.secret)
            || self.config == FileStep::Write
            || matches!(&self.entry, EntryStep::File(_, step) if writes(*step))
    }

    /// Why nothing is done at all: a file is in the way.
    fn refused(&self) -> Option<String> {
        let entry = match &self.entry {
            EntryStep::File(path, FileStep::Refuse) => Some(path),
            _ => None,
        };
        let secret = (self.secret == FileStep::Refuse).then_some(&self.secret_file);
        let names: Vec<String> =
            [entry, secret].into_iter().flatten().map(|path| path.display().to_string()).collect();
        (!names.is_empty()).then(|| {
            format!(
                "error: {} is there already and differs; nothing was changed\n  → give --replace to replace it; a copy \
                 of the old one is kept beside it",
                names.join(" and ")
            )
        })
    }
}

/// Where the entry goes. A second file with `oidc_providers` would take the place of the whole list.
fn entry_place(at: &[Place], providers: usize, file: Option<PathBuf>, print: bool) -> EntryStep {
    let elsewhere = at.iter().rfind(|place| file.as_ref() != Some(&place.file));
    let print_since = |why: String, list_exists| EntryStep::Print { why, list_exists };
    match (elsewhere, file) {
        (Some(place), _) => print_since(format!("{} has oidc_providers already", position(place)), true),
        (None, Some(file)) if providers > 1 => {
            print_since(format!("{} has other providers, too", file.display()), true)
        }
        (None, _) if print => print_since("you asked for it".to_owned(), !at.is_empty()),
        (None, Some(file)) => EntryStep::File(file, FileStep::Write),
        (None, None) => {
            print_since("Synapse reads no directory of config that it could be put into".to_owned(), false)
        }
    }
}

fn position(place: &Place) -> String {
    match place.position {
        Some((line, _)) => format!("{}:{line}", place.file.display()),
        None => place.file.display().to_string(),
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
        (FileStep::Write | FileStep::Replace, true) => format!("{path} is written ({what}; mode {mode:04o})"),
        (FileStep::Refuse, _) => format!("{path} is there already and differs ({what})"),
    }
}

fn action(step: FileStep) -> &'static str {
    match step {
        FileStep::Keep => "keep",
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

fn complain_undecided(undecided: &Undecided, verb: &Oidc) -> Exit {
    match undecided {
        Undecided::NoSuch => complain(&format!(
            "error: Defguard has no OpenID app with the client id {}\n  → leave --client-id out, or look it up in \
             Defguard's web page",
            verb.client_id.as_deref().unwrap_or_default()
        )),
        Undecided::Several(ids) => complain(&format!(
            "error: several OpenID apps in Defguard could be the homeserver's: {}\n  → delete in Defguard's web page those \
             that nobody uses, or say which one it is with --client-id",
            ids.join(", ")
        )),
    }
    Exit::Failed
}

/// Whose the secrets of this service are: its user's, if this is root and the user is there.
pub(super) fn service_owner() -> Owner {
    let user = files::user(SERVICE_USER).filter(|_| files::is_root());
    user.map_or_else(Owner::default, |(uid, _)| Owner::only(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: &str) -> Place {
        Place { file: file.into(), position: Some((3, 1)), key: "oidc_providers".to_owned() }
    }

    #[test]
    fn the_entry_is_written_only_where_it_takes_nothing_away() {
        let ours = || Some(PathBuf::from("/c/ours.yaml"));
        let written = EntryStep::File("/c/ours.yaml".into(), FileStep::Write);
        assert_eq!(entry_place(&[], 0, ours(), false), written);
        assert_eq!(entry_place(&[at("/c/ours.yaml")], 1, ours(), false), written);
        let printed = |step: EntryStep| match step {
            EntryStep::Print { why, list_exists } => (why, list_exists),
            EntryStep::File(path, _) => panic!("{}", path.display()),
        };
        let (why, list) = printed(entry_place(&[at("/c/homeserver.yaml")], 1, ours(), false));
        assert_eq!((why.as_str(), list), ("/c/homeserver.yaml:3 has oidc_providers already", true));
        // One that a later file replaces counts, too: it comes back with the next change of the files.
        assert!(printed(entry_place(&[at("/c/homeserver.yaml"), at("/c/ours.yaml")], 1, ours(), false)).1);
        assert!(printed(entry_place(&[at("/c/ours.yaml")], 2, ours(), false)).1);
        assert!(!printed(entry_place(&[], 0, None, false)).1);
        assert!(!printed(entry_place(&[], 0, ours(), true)).1);
    }
}
