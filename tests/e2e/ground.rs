//! One deployment for one test: people, accounts, proxy, config and state of its own, on a Synapse that tests share.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use defguard_synapse_sync::{
    assemble,
    config::{self, Environment, Settings},
    domain::{Change, DefguardId, Entry},
    engine::{Engine, PersonReport, RunReport, RunRequest},
    ports::{Clock as _, JournalFilter},
    reconcile::Pass,
};
use serde_json::{Value, json};

use crate::{
    process::{Ended, PATIENCE, Process},
    support::{
        defguard::{ADMIN_PASSWORD, NewPerson, StandIn},
        proxy::{Proxy, Seen},
        synapse::{self, Synapse},
    },
};

pub use defguard_synapse_sync::reconcile::State;

/// The templates of Defguard's documentation, and one run after the other unless a test starts it.
const CONFIG: &str = r#"
[defguard]
url = "$DEFGUARD"
username = "admin"
password_file = "$HOME/defguard-password"
instance = "$NAME"
[synapse]
url = "$SYNAPSE"
token_file = "$HOME/synapse-token"
concurrency = 4
[templates]
localpart_template = "{{ user.email.split('@')[0] }}"
display_name_template = "{{ user.first_name }} {{ user.last_name }}"
email_template = "{{ user.email }}"
[scope]
[off_boarding]
[guard]
[accounts]
on_conflict = "report"
display_name = "on-change"
email = "enforce"
[schedule]
sync = "0 0 1 1 *"
full = "0 0 1 1 *"
jitter = "0s"
catch_up = false
[state]
directory = "$HOME/state"
[control]
socket = "$HOME/control.sock"
[webhook]
[notices]
[monitoring]
listen = "off"
"#;

pub struct Ground {
    pub name: String,
    pub defguard: StandIn,
    pub synapse: &'static Synapse,
    pub proxy: Proxy,
    home: tempfile::TempDir,
    config: String,
}

/// An account as the admin API shows it, with the names of its test.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    pub name: Option<String>,
    pub emails: BTreeSet<String>,
    pub phones: BTreeSet<String>,
    /// As `provider:id`.
    pub ids: BTreeSet<String>,
}

impl Ground {
    /// A deployment on the shared Synapse. The name is part of every localpart and address, so no two tests meet.
    pub async fn new(name: &str) -> Self {
        Self::on(synapse::shared().await, name).await
    }

    pub async fn on(synapse: &'static Synapse, name: &str) -> Self {
        let defguard = StandIn::start().await;
        let proxy = Proxy::start(&synapse.url()).await;
        let home = tempfile::Builder::new().prefix("e2e-").tempdir().unwrap();
        let ground = Self { name: name.to_owned(), defguard, synapse, proxy, home, config: String::new() };
        ground.secret("defguard-password", ADMIN_PASSWORD);
        ground.secret("synapse-token", synapse.admin_token());
        let mut ground = ground;
        ground.config = CONFIG
            .replace("$DEFGUARD", ground.defguard.url().as_str())
            .replace("$SYNAPSE", &ground.proxy.url())
            .replace("$HOME", ground.home.path().to_str().unwrap())
            .replace("$NAME", name);
        ground.write_config();
        ground
    }

    pub fn secret(&self, name: &str, value: &str) {
        let path = self.home.path().join(name);
        fs::write(&path, value).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn write_config(&self) {
        fs::write(self.file(), &self.config).unwrap();
    }

    /// Sets a key that stands in the config, or adds it to a table: `("synapse.create", "\"empty-first\"")`.
    pub fn set(&mut self, key: &str, value: &str) {
        let (table, key) = key.split_once('.').unwrap();
        let mut lines: Vec<String> = self.config.lines().map(str::to_owned).collect();
        let start = lines.iter().position(|line| *line == format!("[{table}]")).unwrap() + 1;
        let end =
            lines[start..].iter().position(|line| line.starts_with('[')).map_or(lines.len(), |n| start + n);
        let line = format!("{key} = {value}");
        match lines[start..end].iter().position(|old| old.starts_with(&format!("{key} ="))) {
            Some(at) => lines[start + at] = line,
            None => lines.insert(start, line),
        }
        self.config = lines.join("\n");
        self.write_config();
    }

    /// Takes a key out of the config.
    pub fn unset(&mut self, key: &str) {
        let (_, key) = key.split_once('.').unwrap();
        let kept: Vec<&str> =
            self.config.lines().filter(|line| !line.starts_with(&format!("{key} ="))).collect();
        self.config = kept.join("\n");
        self.write_config();
    }

    /// The same by builder.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.set(key, value);
        self
    }

    pub fn file(&self) -> PathBuf {
        self.home.path().join("config.toml")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    // ---- people and their names ----

    /// The name that somebody of this test really has.
    pub fn n(&self, who: &str) -> String {
        format!("{}.{who}", self.name)
    }

    pub fn mxid(&self, who: &str) -> String {
        self.synapse.mxid(&self.n(who))
    }

    pub fn email(&self, who: &str) -> String {
        format!("{}@example.com", self.n(who))
    }

    pub fn new_person(&self, who: &str) -> NewPerson {
        NewPerson::named(&self.n(who)).name(who, "Person")
    }

    /// Adds `who` with the display name `who Person`.
    pub fn add(&self, who: &str) -> i64 {
        self.defguard.add_person(self.new_person(who))
    }

    pub fn rename(&self, id: i64, who: &str) {
        self.defguard.rename(id, &self.n(who));
    }

    pub fn set_email(&self, id: i64, email: &str) {
        self.defguard.update(id, |row| email.clone_into(&mut row.email));
    }

    pub fn set_first_name(&self, id: i64, name: &str) {
        self.defguard.update(id, |row| name.clone_into(&mut row.first_name));
    }

    /// The external id of somebody's login.
    pub fn login(&self, who: &str) -> String {
        format!("oidc-Defguard:{}", self.n(who))
    }

    /// The external id that marks a person's account.
    pub fn marker(&self, id: i64) -> String {
        format!("defguard-synapse-sync:{}/{id}", self.name)
    }

    // ---- what Synapse shows ----

    pub async fn account(&self, who: &str) -> Account {
        self.find_account(who).await.unwrap_or_else(|| panic!("there is no account {}", self.mxid(who)))
    }

    pub async fn find_account(&self, who: &str) -> Option<Account> {
        account_at(self.synapse, &self.n(who)).await
    }

    pub async fn is_locked(&self, who: &str) -> bool {
        self.synapse.account(&self.n(who)).await.body["locked"] == json!(true)
    }

    /// How many things the admin API lists of an account: `devices`, `pushers`.
    pub async fn admin_list(&self, who: &str, version: &str, part: &str, key: &str) -> usize {
        let path = format!("/_synapse/admin/{version}/users/{}/{part}", self.mxid(who));
        self.synapse.admin_get(&path).await.body[key].as_array().unwrap().len()
    }

    /// Whose account a login opens, by name of this test; `None` if nobody's. As a login does, this puts the answer
    /// into Synapse's cache.
    pub async fn opens(&self, who: &str) -> Option<String> {
        self.holder("oidc-Defguard", &self.n(who)).await
    }

    pub async fn holder(&self, provider: &str, id: &str) -> Option<String> {
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("/_synapse/admin/v1/auth_providers/{provider}/users/{id}");
        let reply = self.synapse.admin_get(&path).await;
        match reply.status {
            200 => Some(self.short(reply.body["user_id"].as_str().unwrap())),
            404 => None,
            _ => panic!("{reply:?}"),
        }
    }

    /// Who has an address.
    pub async fn mailbox(&self, email: &str) -> Option<String> {
        let reply = self.synapse.admin_get(&format!("/_synapse/admin/v1/threepid/email/users/{email}")).await;
        (reply.status == 200).then(|| self.short(reply.body["user_id"].as_str().unwrap()))
    }

    /// An MXID or localpart without what is the same for the whole test.
    fn short(&self, mxid: &str) -> String {
        let localpart = mxid.trim_start_matches('@').split(':').next().unwrap();
        localpart.strip_prefix(&format!("{}.", self.name)).unwrap_or(localpart).to_owned()
    }

    /// Changes an account as an admin of Synapse would by hand.
    pub async fn put(&self, who: &str, body: Value) {
        let reply = self.synapse.put_account(&self.n(who), &body).await;
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    }

    /// What the account at `who` has, in the form in which it is put.
    pub fn body(ids: &[String], emails: &[String]) -> Value {
        json!({
            "external_ids": ids.iter().map(|id| id_json(id)).collect::<Vec<_>>(),
            "threepids": emails.iter().map(|email| json!({"medium": "email", "address": email})).collect::<Vec<_>>(),
        })
    }

    // ---- the service in this process ----

    pub fn settings(&self) -> Settings {
        config::load(&self.file(), &Environment::empty(), assemble::SystemClock.now())
            .unwrap_or_else(|findings| panic!("{findings:?}"))
            .0
    }

    /// The engine as the program makes it, on the store of this test. It has to be dropped before the next one.
    pub fn engine(&self) -> Engine {
        let settings = self.settings();
        let templates = assemble::templates(&settings.templates).unwrap();
        let (store, _) = assemble::store(&settings, 7).unwrap();
        assemble::engine(&settings, templates, store).unwrap()
    }

    pub async fn run(&self, pass: Pass) -> RunReport {
        self.ask(&RunRequest::everybody(pass)).await
    }

    pub async fn ask(&self, request: &RunRequest) -> RunReport {
        let engine = self.engine();
        tokio::time::timeout(PATIENCE, engine.run(request, &())).await.unwrap()
    }

    /// A run that ends well.
    pub async fn sync(&self) -> RunReport {
        let report = self.run(Pass::Frequent).await;
        assert_eq!(report.exit_code(), 0, "{report:#?}");
        report
    }

    /// A full pass that ends well.
    pub async fn full(&self) -> RunReport {
        let report = self.run(Pass::Full).await;
        assert_eq!(report.exit_code(), 0, "{report:#?}");
        report
    }

    /// A run for one person, whatever failed before.
    pub async fn sync_person(&self, id: i64) -> RunReport {
        let only = BTreeSet::from([format!("#{id}")]);
        self.ask(&RunRequest { only, ..RunRequest::everybody(Pass::Frequent) }).await
    }

    /// A run for everybody by name, so that those who failed lately are not put off.
    pub async fn sync_failed_too(&self) -> RunReport {
        let ids = self.defguard.state().people.rows().map(|row| format!("#{}", row.id)).collect();
        let report = self.ask(&RunRequest { only: ids, ..RunRequest::everybody(Pass::Frequent) }).await;
        assert_eq!(report.exit_code(), 0, "{report:#?}");
        report
    }

    /// A run of which a part is held, and then its approval, which lets that part run.
    pub async fn approve(&self) -> RunReport {
        let held = self.run(Pass::Frequent).await;
        assert_eq!(held.exit_code(), 4, "{held:#?}");
        let approve = held.held.unwrap().digest;
        assert!(approve.is_some());
        let report = self.ask(&RunRequest { approve, ..RunRequest::everybody(Pass::Frequent) }).await;
        assert_eq!(report.exit_code(), 0, "{report:#?}");
        report
    }

    /// A run that finds nothing to do: no write, and no look at anybody.
    pub async fn nothing_to_do(&self) {
        self.proxy.clear();
        let report = self.sync().await;
        let about: Vec<String> = self.proxy.single_person_requests().iter().map(line).collect();
        assert_eq!(about, [""; 0], "{report:#?}");
        assert_eq!(self.writes(), [""; 0]);
        let done: Vec<_> = report.people.iter().filter(|person| !person.done.is_empty()).collect();
        assert!(done.is_empty(), "{done:#?}");
    }

    pub fn journal(&self) -> Vec<Entry> {
        self.engine().store().journal(&JournalFilter::default()).unwrap()
    }

    // ---- the program ----

    pub fn start(&self, arguments: &[&str]) -> Process {
        Process::start(&self.file(), arguments)
    }

    pub async fn program(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).ended().await
    }

    // ---- what was counted ----

    /// The writes since the proxy was last cleared, as `PUT alice keys`.
    pub fn writes(&self) -> Vec<String> {
        self.proxy
            .writes()
            .iter()
            .map(line)
            .map(|line| line.replace(&format!("{}.", self.name), ""))
            .collect()
    }

    /// The bodies of the writes to an account.
    pub fn bodies(&self, who: &str) -> Vec<Value> {
        let mxid = self.mxid(who);
        self.proxy
            .writes()
            .into_iter()
            .filter(|seen| seen.target().ends_with(&mxid))
            .map(|seen| seen.body)
            .collect()
    }
}

/// A request in short: method, localpart, keys of the body.
fn line(seen: &Seen) -> String {
    let target = seen.target();
    let last = target.rsplit('/').next().unwrap();
    let last = last.trim_start_matches('@').split(':').next().unwrap();
    let mut keys: Vec<&str> =
        seen.body.as_object().map(|body| body.keys().map(String::as_str).collect()).unwrap_or_default();
    keys.sort_unstable();
    format!("{} {last} {}", seen.method, keys.join(",")).trim_end().to_owned()
}

fn id_json(id: &str) -> Value {
    let (provider, id) = id.split_once(':').unwrap();
    json!({"auth_provider": provider, "external_id": id})
}

pub async fn account_at(synapse: &Synapse, localpart: &str) -> Option<Account> {
    let reply = synapse.account(localpart).await;
    match reply.status {
        200 => {}
        404 => return None,
        _ => panic!("{reply:?}"),
    }
    let list = |key: &str| reply.body[key].as_array().cloned().unwrap_or_default();
    let pids = |medium: &str| {
        let mine = list("threepids").into_iter().filter(|pid| pid["medium"] == medium);
        mine.map(|pid| pid["address"].as_str().unwrap().to_owned()).collect()
    };
    Some(Account {
        name: reply.body["displayname"].as_str().map(str::to_owned),
        emails: pids("email"),
        phones: pids("msisdn"),
        ids: list("external_ids")
            .iter()
            .map(|id| {
                format!("{}:{}", id["auth_provider"].as_str().unwrap(), id["external_id"].as_str().unwrap())
            })
            .collect(),
    })
}

/// What a run says about a person.
#[track_caller]
pub fn of(report: &RunReport, id: i64) -> &PersonReport {
    report
        .people
        .iter()
        .find(|person| person.id == DefguardId(id))
        .unwrap_or_else(|| panic!("nothing about #{id} in {report:#?}"))
}

/// The kinds of the conflicts of a person.
#[track_caller]
pub fn conflicts(report: &RunReport, id: i64) -> Vec<&'static str> {
    of(report, id).conflicts.iter().map(|conflict| conflict.kind()).collect()
}

pub fn set<const N: usize>(items: [String; N]) -> BTreeSet<String> {
    items.into()
}

/// Holds the journal against what happened: each account is created once, what a line found is what the line before it
/// left, and what the last one left is what Synapse shows. `before` is how the accounts were when the journal began.
pub async fn check_journal(ground: &Ground, entries: &[Entry], before: &BTreeMap<String, Account>) {
    let mut states: BTreeMap<String, Account> = before.clone();
    let mut created = BTreeSet::new();
    for entry in entries {
        let localpart = entry.mxid.localpart().to_owned();
        if entry.change == Change::Created {
            assert!(created.insert(localpart), "created twice: {entries:#?}");
            continue;
        }
        let Some(state) = states.get_mut(&localpart) else { continue };
        let ids = |ids: &BTreeSet<defguard_synapse_sync::domain::ExternalId>| -> BTreeSet<String> {
            ids.iter().map(ToString::to_string).collect()
        };
        match &entry.change {
            Change::DisplayName { before, after } => {
                assert_eq!(state.name, *before, "{entry:?} in {entries:#?}");
                state.name.clone_from(after);
            }
            Change::Emails { before, after } => {
                assert_eq!(state.emails, *before, "{entry:?} in {entries:#?}");
                state.emails.clone_from(after);
            }
            Change::ExternalIds { before, after } => {
                assert_eq!(state.ids, ids(before), "{entry:?} in {entries:#?}");
                state.ids = ids(after);
            }
            _ => {}
        }
    }
    for (localpart, state) in &states {
        let now = account_at(ground.synapse, localpart).await;
        assert_eq!(now.as_ref(), Some(state), "{localpart} after {entries:#?}");
    }
}

/// All accounts of a test as they are now.
pub async fn accounts_of(ground: &Ground) -> BTreeMap<String, Account> {
    let prefix = format!("@{}.", ground.name);
    let mut accounts = BTreeMap::new();
    for listed in ground.synapse.accounts().await {
        let mxid = listed["name"].as_str().unwrap();
        if mxid.starts_with(&prefix) {
            let localpart = mxid.trim_start_matches('@').split(':').next().unwrap().to_owned();
            let account = account_at(ground.synapse, &localpart).await.unwrap();
            accounts.insert(localpart, account);
        }
    }
    accounts
}
