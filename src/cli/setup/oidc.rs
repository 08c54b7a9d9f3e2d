//! `setup oidc`: the OpenID app in Defguard, the provider entry for Synapse, and this service's config.

use std::{path::Path, sync::Arc};

use secrecy::SecretString;

use super::{
    app::AppStep,
    arguments::Oidc,
    confirm,
    files::{self, FOR_ALL, FOR_THE_GROUP, FOR_THE_OWNER, FileStep, Owner},
    plan::{EntryStep, Plan, Scene},
    service_config,
    wishes::{self, DefguardLogin, Wishes},
};
use crate::{
    assemble::SystemClock,
    cli::{
        arguments::Global,
        output::{Exit, complain, complain_failure, complain_findings},
    },
    config::{self, Environment, Finding, homeserver_yaml},
    defguard::{self, App, Defguard, Discovery},
    domain::{Failure, FailureClass, Peer},
    http::HttpOptions,
    ports::Clock as _,
};

/// The user that the service runs as, by the README.
const SERVICE_USER: &str = "defguard-synapse-sync";

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

impl Scene<'_> {
    /// Writes all files; each is whole or not there.
    fn write(&self, plan: &Plan, app: &App) -> Result<(), String> {
        let now = SystemClock.now();
        let for_synapse = Owner::of_reader(self.synapse_user().ok().flatten());
        let for_service = service_owner();
        if let (Some(file), DefguardLogin::Password { password, .. }) =
            (&plan.password_file, &self.wishes.login)
        {
            files::write(file, password, FOR_THE_OWNER, for_service, now)?;
        }
        let put = |step: FileStep, path: &Path, text: &SecretString| match step {
            FileStep::Write | FileStep::Replace => {
                files::write(path, text, FOR_THE_GROUP, for_synapse, now).map(|_| ())
            }
            FileStep::Adjust => files::adjust(path, FOR_THE_GROUP, for_synapse),
            FileStep::Keep | FileStep::Refuse => Ok(()),
        };
        put(plan.secret, &plan.secret_file, &app.client_secret)?;
        if let EntryStep::File(path, step) = &plan.entry {
            put(*step, path, &self.entry_text(plan).into())?;
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
                // What the next command makes is no news.
                let to_come = !self.wishes.synapse_token_file.exists();
                let left: Vec<Finding> = findings
                    .into_iter()
                    .filter(|finding| !(to_come && finding.at.key == "synapse.token_file"))
                    .collect();
                if left.iter().any(Finding::is_error) {
                    complain(&format!("{} cannot be used yet:", self.config.display()));
                }
                complain_findings(&left);
            }
        }
        Ok(Exit::Done)
    }
}

/// Whose the secrets of this service are: its user's, if this is root and the user is there.
pub(super) fn service_owner() -> Owner {
    let user = files::user(SERVICE_USER).filter(|_| files::is_root());
    user.map_or_else(Owner::default, |(uid, _)| Owner::only(uid))
}
