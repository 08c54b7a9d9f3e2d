//! What `setup oidc` is to do, decided before anything is done.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;

use super::{
    app::{self, AppStep, Undecided},
    arguments::Oidc,
    entry::{self, Entry},
    files::{self, FOR_THE_GROUP, FileStep},
    refuse, service_config,
    wishes::{self, DefguardLogin, Wishes},
};
use crate::{
    cli::output::{Exit, complain},
    config::{Place, homeserver, homeserver_yaml},
    defguard::{App, AppData, Discovery},
};

/// Stands in the entry for what only Defguard can give.
const NOT_KNOWN_YET: &str = "(given by Defguard when the app is made)";

/// Everything that is to be done, decided before anything is.
pub(super) struct Plan {
    pub(super) app: AppStep,
    /// The app as Defguard has it; `None` until it is made.
    pub(super) known: Option<App>,
    pub(super) entry: EntryStep,
    pub(super) secret_file: PathBuf,
    pub(super) secret: FileStep,
    pub(super) config: FileStep,
    pub(super) password_file: Option<PathBuf>,
    /// What is to be minded, in full sentences.
    pub(super) mind: Vec<String>,
}

/// What becomes of the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryStep {
    /// Into a file of its own.
    File(PathBuf, FileStep),
    /// Printed, to be put somewhere by hand: why, and whether the list is there already.
    Print { why: String, list_exists: bool },
}

/// What was asked for, and what was found, as far as the texts depend on it.
pub(super) struct Scene<'a> {
    pub(super) verb: &'a Oidc,
    pub(super) wishes: &'a Wishes,
    pub(super) discovery: &'a Discovery,
    pub(super) idp_id: String,
    idp_name: String,
    localpart_template: String,
    display_name_template: String,
    email_template: String,
    provisioned_only: bool,
    pub(super) config: &'a Path,
}

impl<'a> Scene<'a> {
    pub(super) fn new(
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
        // What was chosen before holds until something else is; of somebody else's entry only the names of new people do.
        let file = entry_file(verb, wishes)?;
        let ours = present.filter(|_| {
            wishes.homeserver.providers_at.iter().all(|place| file.as_ref() == Some(&place.file))
        });
        let text = |given: &Option<String>, before: Option<&Option<String>>, default: &str| {
            let before = before.and_then(Option::as_ref);
            given.as_ref().or(before).map_or_else(|| default.to_owned(), Clone::clone)
        };
        Ok(Self {
            idp_name: text(&verb.idp_name, ours.map(|entry| &entry.idp_name), "Defguard"),
            localpart_template: text(
                &verb.localpart_template,
                present.map(|entry| &entry.localpart_template),
                entry::LOCALPART,
            ),
            display_name_template: text(
                &verb.display_name_template,
                ours.map(|entry| &entry.display_name_template),
                entry::DISPLAY_NAME,
            ),
            email_template: text(&verb.email_template, ours.map(|entry| &entry.email_template), entry::EMAIL),
            provisioned_only: verb
                .provisioned_only
                .unwrap_or_else(|| present.is_some_and(|entry| entry.provisioned_only)),
            verb,
            wishes,
            discovery,
            idp_id,
            config,
        })
    }

    pub(super) fn plan(&self, apps: &[App]) -> Result<Plan, Exit> {
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
            entry_file(self.verb, wishes)?,
            self.verb.print,
        );
        let replace = self.verb.go.replace;
        let reader = self.synapse_user()?;
        let step = |path: &Path, wanted: Option<&str>, is_open: bool, replace| {
            let present = files::present(path).map_err(|why| {
                complain(&format!("error: {why}"));
                Exit::Failed
            })?;
            let present = present.as_ref().map(|text| text.expose_secret());
            Ok(FileStep::of(present, wanted, is_open, replace))
        };
        let entry = match entry {
            EntryStep::File(path, _) => {
                let text = known.map(|app| self.entry(&app.client_id, &secret_file).file());
                let is_open = files::is_open_to(&path, reader, FOR_THE_GROUP);
                let step = step(&path, text.as_deref(), is_open, replace)?;
                EntryStep::File(path, step)
            }
            print => print,
        };
        let secret = known.map(|app| app.client_secret.expose_secret());
        Ok(Plan {
            mind: self.mind(),
            secret: step(
                &secret_file,
                secret,
                files::is_open_to(&secret_file, reader, FOR_THE_GROUP),
                replace,
            )?,
            // Whatever else is in it is somebody's work.
            config: step(self.config, Some(&service_config::text(wishes, &self.idp_id)), true, false)?,
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
            idp_name: &self.idp_name,
            discovery: self.discovery,
            client_id,
            client_secret_path: secret_file,
            localpart_template: &self.localpart_template,
            display_name_template: &self.display_name_template,
            email_template: &self.email_template,
            provisioned_only: self.provisioned_only,
        }
    }

    pub(super) fn entry_text(&self, plan: &Plan) -> String {
        let client_id = plan.known.as_ref().map_or(NOT_KNOWN_YET, |app| &app.client_id);
        let entry = self.entry(client_id, &plan.secret_file);
        match plan.entry {
            EntryStep::Print { list_exists: true, .. } => entry.item(),
            _ => entry.file(),
        }
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
    pub(super) fn synapse_user(&self) -> Result<Option<(u32, u32)>, Exit> {
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
}

impl Plan {
    pub(super) fn changes_something(&self) -> bool {
        let writes = |step: FileStep| matches!(step, FileStep::Write | FileStep::Replace | FileStep::Adjust);
        !matches!(self.app, AppStep::Keep(_))
            || self.password_file.is_some()
            || writes(self.secret)
            || self.config == FileStep::Write
            || matches!(&self.entry, EntryStep::File(_, step) if writes(*step))
    }

    /// Why nothing is done at all: a file is in the way.
    pub(super) fn refused(&self) -> Option<String> {
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

/// Where the entry goes: what was given, if Synapse reads it there, else into the last directory that Synapse reads.
fn entry_file(verb: &Oidc, wishes: &Wishes) -> Result<Option<PathBuf>, Exit> {
    let paths = &wishes.homeserver_config;
    let Some(given) = &verb.entry_file else {
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
