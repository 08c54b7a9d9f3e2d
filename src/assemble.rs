//! Puts the adapters and the engine together from a checked config.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    alive::Alive,
    config::{
        DefguardAuth, Finding, Globs, ScopeSettings, Settings, TemplateText, TemplateTexts,
        homeserver_yaml::Facts,
    },
    defguard::{self, Defguard},
    domain::{ConfigPrint, Failure, MappedField, Standing, Username, hex},
    engine::{self, Engine, Mapper},
    http::{HttpOptions, Meter},
    mapping::{Purpose, Scopes, TemplateSources, Templates},
    notices::{self, MatrixRoom},
    ports::{Clock, Directory, Homeserver, Noticeboard, Store},
    reconcile::Scope,
    schedule::Timetable,
    store::{Identity, Opened, SledStore},
    synapse::{self, ReadOnly, Synapse},
};

/// The machine's clock, the one place where the time is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where the time is asked for")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// Who is told of each request.
#[derive(Debug, Clone, Default)]
pub struct Observers {
    /// Is given a sign at each try.
    pub alive: Alive,
    /// Counts the tries.
    pub meter: Option<Arc<dyn Meter>>,
}

/// The client for Defguard.
pub fn directory(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Arc<dyn Directory>, Failure> {
    Ok(Arc::new(defguard(settings, clock)?))
}

/// The same with all that can be asked of Defguard, beside the port.
pub fn defguard(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Defguard, Failure> {
    observed_defguard(settings, clock, &Observers::default())
}

fn observed_defguard(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    observers: &Observers,
) -> Result<Defguard, Failure> {
    let auth = match &settings.defguard.auth {
        DefguardAuth::Token(token) => defguard::Auth::Token(token.clone()),
        DefguardAuth::Session { username, password, totp_secret } => defguard::Auth::Session {
            username: username.as_str().to_owned(),
            password: password.clone(),
            totp_secret: totp_secret.clone(),
        },
    };
    let options = defguard::Options {
        page_workers: settings.defguard.page_workers,
        ..defguard::Options::new(settings.defguard.url.clone(), auth)
    };
    let http = HttpOptions {
        timeout: settings.defguard.timeout,
        concurrency: settings.defguard.page_workers.max(1),
        ca_pem: settings.defguard.ca.as_ref().map(|pem| pem.0.clone()),
        alive: observers.alive.clone(),
        meter: observers.meter.clone(),
        ..HttpOptions::default()
    };
    Defguard::new(options, http, clock)
}

/// The client for Synapse.
pub fn homeserver(settings: &Settings) -> Result<Arc<dyn Homeserver>, Failure> {
    Ok(Arc::new(synapse(settings)?))
}

/// The same with all that can be asked of Synapse, for `check`.
pub fn synapse(settings: &Settings) -> Result<Synapse, Failure> {
    observed_synapse(settings, &Observers::default())
}

fn observed_synapse(settings: &Settings, observers: &Observers) -> Result<Synapse, Failure> {
    let http = HttpOptions {
        timeout: settings.synapse.timeout,
        concurrency: settings.synapse.concurrency,
        ca_pem: settings.synapse.ca.as_ref().map(|pem| pem.0.clone()),
        alive: observers.alive.clone(),
        meter: observers.meter.clone(),
        ..HttpOptions::default()
    };
    let options =
        synapse::Options { url: settings.synapse.url.clone(), token: settings.synapse.token.clone(), http };
    Synapse::new(options)
}

/// The bare texts of the templates.
pub fn sources(texts: &TemplateTexts) -> TemplateSources {
    let text = |text: &Option<TemplateText>| text.as_ref().map(|text| text.text.clone());
    TemplateSources {
        subject: Some(texts.subject.text.clone()),
        localpart: text(&texts.localpart),
        display_name: text(&texts.display_name),
        email: text(&texts.email),
    }
}

/// Compiles the templates. Every template that cannot be done is a finding at the place where it is written.
pub fn templates(texts: &TemplateTexts) -> Result<Templates, Vec<Finding>> {
    Templates::compile(&sources(texts), Purpose::People).map_err(|problems| {
        problems
            .into_iter()
            .map(|problem| {
                let place = match problem.field {
                    MappedField::Subject => Some(&texts.subject),
                    MappedField::Localpart => texts.localpart.as_ref(),
                    MappedField::DisplayName => texts.display_name.as_ref(),
                    MappedField::Email => texts.email.as_ref(),
                };
                let mend = problem
                    .instead
                    .clone()
                    .unwrap_or_else(|| "Write it in another way, and in homeserver.yaml too.".to_owned());
                place.unwrap_or(&texts.subject).at.error(problem.why.clone(), mend)
            })
            .collect()
    })
}

/// Makes the mapper that the engine uses.
pub fn mapper(templates: Arc<Templates>, scopes: &[String]) -> Mapper {
    let scopes = Scopes::new(scopes.iter().cloned());
    Arc::new(move |person, server| templates.map(person, &scopes, server))
}

/// The same for the claims of a login alone.
fn login_mapper(templates: Arc<Templates>, scopes: &[String]) -> Mapper {
    let scopes = Scopes::new(scopes.iter().cloned());
    Arc::new(move |person, server| templates.map_as_login(person, &scopes, server))
}

/// Opens the store. `random` names it if it is new.
pub fn store(settings: &Settings, random: u128) -> Result<(Arc<dyn Store>, Opened), Failure> {
    let (store, opened) = SledStore::open(&settings.state.directory, &Identity::new(random))?;
    if let Opened::Lost { why } = &opened {
        // Remembered until the links are rebuilt, however often the program is started until then.
        store.set_standing(&Standing { lost: Some(why.clone()), ..store.standing()? })?;
    }
    Ok((Arc::new(store), opened))
}

/// How long after a change nobody else may work on the homeserver.
const LEASE: TimeDelta = TimeDelta::minutes(15);

/// Which machine and state directory this is. Where the machine has no id, the directory has to do.
fn holder(settings: &Settings) -> String {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let directory = settings.state.directory.display();
    hex(format!("{} {directory}", machine.trim()).as_bytes(), 8)
}

/// The parts of the config that decide over whom and over what.
fn config_print(settings: &Settings) -> ConfigPrint {
    let text =
        |text: &Option<TemplateText>| hex(text.as_ref().map_or("", |text| text.text.as_str()).as_bytes(), 16);
    let ScopeSettings { include_groups, exclude_groups, .. } = &settings.scope;
    let scope = format!("{:?} {:?}", include_groups.patterns(), exclude_groups.patterns());
    ConfigPrint {
        scope: hex(scope.as_bytes(), 16),
        subject_template: hex(settings.templates.subject.text.as_bytes(), 16),
        display_name_template: text(&settings.templates.display_name),
        email_template: text(&settings.templates.email),
        auth_provider: settings.synapse.auth_provider.clone(),
    }
}

/// The engine's options.
pub fn options(settings: &Settings) -> engine::Options {
    let username = match &settings.defguard.auth {
        DefguardAuth::Session { username, .. } => Some(Username::new(username.as_str())),
        DefguardAuth::Token(_) => None,
    };
    engine::Options {
        defguard_url: settings.defguard.url.to_string(),
        auth_provider: settings.synapse.auth_provider.clone(),
        instance: settings.defguard.instance.clone(),
        on_conflict: settings.accounts.on_conflict,
        display_name: settings.accounts.display_name,
        email: settings.accounts.email,
        scope: Scope {
            include_groups: (!settings.scope.include_groups.is_empty())
                .then(|| set(&settings.scope.include_groups)),
            exclude_groups: set(&settings.scope.exclude_groups),
            exclude_users: set(&settings.scope.exclude_users),
            require_enrolled: settings.scope.require_enrolled,
            own_username: username.filter(|_| !settings.scope.include_own_account),
        },
        include_own_account: settings.scope.include_own_account,
        off_boarding: settings.off_boarding.clone(),
        guard: settings.guard,
        config: config_print(settings),
        holder: holder(settings),
        lease: LEASE,
        create: settings.synapse.create,
        concurrency: settings.synapse.concurrency,
        retry_pause: std::time::Duration::from_millis(500),
        keep: TimeDelta::days(i64::from(settings.state.keep_days)),
    }
}

fn set(globs: &Globs) -> globset::GlobSet {
    globs.set().clone()
}

/// The engine with everything it works on.
pub fn engine(settings: &Settings, templates: Templates, store: Arc<dyn Store>) -> Result<Engine, Failure> {
    observed_engine(settings, templates, store, &Observers::default())
}

/// The same, with somebody who counts its requests.
pub fn counted_engine(
    settings: &Settings,
    templates: Templates,
    store: Arc<dyn Store>,
    meter: Arc<dyn Meter>,
) -> Result<Engine, Failure> {
    observed_engine(settings, templates, store, &Observers { meter: Some(meter), ..Observers::default() })
}

/// The same, with all who observe its requests.
pub fn observed_engine(
    settings: &Settings,
    templates: Templates,
    store: Arc<dyn Store>,
    observers: &Observers,
) -> Result<Engine, Failure> {
    engine_on(settings, templates, Arc::new(observed_synapse(settings, observers)?), store, observers)
}

/// The daemon's engine for a config that was read again, on the same store.
pub fn renewed(
    engine: &Engine,
    settings: &Settings,
    templates: Templates,
    observers: &Observers,
) -> Result<Engine, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let templates = Arc::new(templates);
    let engine = engine.renewed(
        Arc::new(observed_defguard(settings, clock, observers)?),
        Arc::new(observed_synapse(settings, observers)?),
        mapper(Arc::clone(&templates), &settings.defguard.scopes),
        options(settings),
    );
    Ok(with_logins(engine, settings, templates))
}

/// An engine that cannot write to Synapse, for dry runs and questions.
pub fn engine_that_only_looks(
    settings: &Settings,
    templates: Templates,
    store: Arc<dyn Store>,
) -> Result<Engine, Failure> {
    engine_on(settings, templates, Arc::new(ReadOnly(synapse(settings)?)), store, &Observers::default())
}

fn engine_on(
    settings: &Settings,
    templates: Templates,
    homeserver: Arc<dyn Homeserver>,
    store: Arc<dyn Store>,
    observers: &Observers,
) -> Result<Engine, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let templates = Arc::new(templates);
    let engine = Engine::new(
        Arc::new(observed_defguard(settings, Arc::clone(&clock), observers)?),
        homeserver,
        store,
        clock,
        mapper(Arc::clone(&templates), &settings.defguard.scopes),
        options(settings),
    );
    Ok(with_logins(engine, settings, templates))
}

/// Tells an engine how Synapse deals with logins.
fn with_logins(engine: Engine, settings: &Settings, templates: Arc<Templates>) -> Engine {
    let rules = settings.synapse.homeserver.as_ref().map(Facts::login_rules).unwrap_or_default();
    engine.with_logins(rules, login_mapper(templates, &settings.defguard.scopes))
}

/// Where notices go, if they are wished.
pub fn noticeboard(settings: &Settings) -> Option<Arc<dyn Noticeboard>> {
    let notices = settings.notices.as_ref()?;
    Some(Arc::new(MatrixRoom::new(notices::Options {
        url: settings.synapse.url.clone(),
        token: settings.synapse.token.clone(),
        ca_pem: settings.synapse.ca.as_ref().map(|pem| pem.0.clone()),
        room: notices.room.clone(),
    })))
}

/// When the daemon runs.
pub fn timetable(settings: &Settings) -> Timetable {
    Timetable {
        frequent: settings.schedule.sync.clone(),
        full: Some(settings.schedule.full.clone()),
        jitter: TimeDelta::from_std(settings.schedule.jitter).unwrap_or_default(),
    }
}
