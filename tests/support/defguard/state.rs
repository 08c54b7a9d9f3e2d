//! What the stand-in remembers, and every change that can be made to it, from a test or through the API.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    heap::Heap,
    oidc::Provider,
    person::{NewPerson, Row, ilike, is_phone, is_username},
    webhooks::Webhook,
};

/// The recorded listing of 335 people.
const RECORDED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/defguard/listing-335-people.json"));

/// The password of the first administrator.
pub const ADMIN_PASSWORD: &str = "Admin-pass123!";
/// The password of the recorded `normal`, who is no administrator.
pub const NORMAL_PASSWORD: &str = "Normal-pass123!";
/// The password of the recorded `mfauser`, who has a second factor.
pub const MFAUSER_PASSWORD: &str = "Mfauser-pass123!";
/// The second factor of the recorded `mfauser`.
pub const MFAUSER_TOTP: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

/// Failures within this time count towards the lock-out.
const FAILURE_WINDOW: TimeDelta = TimeDelta::seconds(60);
/// So many of them lock.
const MOST_FAILURES: usize = 5;
/// How long, counted from the last attempt.
const LOCK_OUT: TimeDelta = TimeDelta::minutes(5);

#[derive(Debug, Clone)]
pub struct Group {
    pub id: i64,
    pub name: String,
    pub is_admin: bool,
    pub members: BTreeSet<i64>,
}

#[derive(Debug, Clone)]
pub struct Session {
    pub owner: i64,
    pub expires: DateTime<Utc>,
    pub verified: bool,
}

#[derive(Debug, Clone)]
pub struct Token {
    pub id: i64,
    pub name: String,
    pub owner: i64,
    pub created: DateTime<Utc>,
}

#[derive(Debug, Clone, Default)]
struct Attempts {
    failures: Vec<DateTime<Utc>>,
    locked_at: Option<DateTime<Utc>>,
}

/// Why a change was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// 400 `{}`.
    Invalid,
    /// 500, since Defguard leaves it to the database's unique index.
    Taken,
    /// 404.
    Unknown,
}

/// Why a session is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSession {
    Unknown,
    Expired,
}

#[derive(Debug)]
pub struct State {
    pub people: Heap,
    pub groups: Vec<Group>,
    pub sessions: BTreeMap<String, Session>,
    pub tokens: BTreeMap<String, Token>,
    pub webhooks: Vec<Webhook>,
    /// Whether the licence is there and active: API tokens need it.
    pub licence: bool,
    /// Whether the first-run wizard is still unfinished.
    pub wizard: bool,
    /// What the header `defguard-component-version` says; `1.…` switches to the shapes of 1.x.
    pub version: String,
    /// The lifetime of a session; 0 days: it is expired at once.
    pub session_days: i64,
    pub provider: Provider,
    attempts: BTreeMap<String, Attempts>,
    next_person: i64,
    next_group: i64,
    next_secret: u64,
}

impl State {
    /// One administrator, `admin`, in one admin group. (A fresh 2.x has nobody until the wizard is finished.)
    pub fn new() -> Self {
        let mut state = Self {
            people: Heap::default(),
            groups: vec![Group { id: 1, name: "admin".to_owned(), is_admin: true, members: BTreeSet::new() }],
            sessions: BTreeMap::new(),
            tokens: BTreeMap::new(),
            webhooks: Vec::new(),
            licence: false,
            wizard: false,
            version: "2.0.1+ea1a50c".to_owned(),
            session_days: 7,
            provider: Provider::default(),
            attempts: BTreeMap::new(),
            next_person: 1,
            next_group: 2,
            next_secret: 1,
        };
        let admin = NewPerson::named("admin")
            .name("DefGuard", "Administrator")
            .password(Some(ADMIN_PASSWORD))
            .groups(&["admin"]);
        state.create(admin).unwrap();
        state
    }

    /// Replaces everybody by the 335 recorded people, in the recorded order.
    pub fn load_recorded(&mut self) {
        let pages: Vec<Value> = serde_json::from_str(RECORDED).unwrap();
        self.people = Heap::default();
        self.groups.retain(|group| group.id == 1);
        self.groups[0].members.clear();
        self.sessions.clear();
        self.tokens.clear();
        for info in pages.iter().flat_map(|page| page["data"].as_array().unwrap()) {
            let text = |key: &str| info[key].as_str().unwrap().to_owned();
            let flag = |key: &str| info[key].as_bool().unwrap();
            let row = Row {
                id: info["id"].as_i64().unwrap(),
                username: text("username"),
                first_name: text("first_name"),
                last_name: text("last_name"),
                email: text("email"),
                phone: info["phone"].as_str().map(str::to_owned),
                is_active: flag("is_active"),
                enrolled: flag("enrolled"),
                mfa_method: text("mfa_method"),
                ldap_pass_requires_change: flag("ldap_pass_requires_change"),
                email_mfa_enabled: flag("email_mfa_enabled"),
                authorized_apps: info["authorized_apps"].as_array().unwrap().clone(),
                devices: info["devices"].as_array().unwrap().clone(),
                password: match info["username"].as_str().unwrap() {
                    "admin" => Some(ADMIN_PASSWORD.to_owned()),
                    "normal" => Some(NORMAL_PASSWORD.to_owned()),
                    "mfauser" => Some(MFAUSER_PASSWORD.to_owned()),
                    _ => None,
                },
                totp_secret: flag("totp_enabled").then(|| MFAUSER_TOTP.to_owned()),
            };
            self.next_person = self.next_person.max(row.id + 1);
            for name in info["groups"].as_array().unwrap() {
                let group = self.group_or_new(name.as_str().unwrap());
                group.members.insert(row.id);
            }
            self.people.insert(row);
        }
    }

    // ---- people ----

    /// Adds somebody. As with a database sequence, a refusal by the unique index uses up an id.
    pub fn create(&mut self, new: NewPerson) -> Result<i64, Refused> {
        if !is_username(&new.username) || new.phone.as_deref().is_some_and(|phone| !is_phone(phone)) {
            return Err(Refused::Invalid);
        }
        if self.people.rows().any(|row| ilike(&row.email, &new.email)) {
            return Err(Refused::Invalid);
        }
        let id = self.next_person;
        self.next_person += 1;
        if self.people.named(&new.username).is_some() {
            return Err(Refused::Taken);
        }
        for group in &new.groups {
            self.group_or_new(group).members.insert(id);
        }
        self.people.insert(Row {
            id,
            username: new.username,
            first_name: new.first_name,
            last_name: new.last_name,
            email: new.email,
            phone: new.phone,
            is_active: new.is_active,
            enrolled: new.password.is_some(),
            mfa_method: if new.totp_secret.is_some() { "OneTimePassword" } else { "None" }.to_owned(),
            ldap_pass_requires_change: false,
            email_mfa_enabled: false,
            authorized_apps: Vec::new(),
            devices: Vec::new(),
            password: new.password,
            totp_secret: new.totp_secret,
        });
        Ok(id)
    }

    /// Changes a row as PUT does, which writes it twice. The username and the address stay unique.
    pub fn update(&mut self, id: i64, change: impl FnOnce(&mut Row)) -> Result<(), Refused> {
        let before = self.people.get(id).ok_or(Refused::Unknown)?;
        let mut after = before.clone();
        change(&mut after);
        if !is_username(&after.username) || after.phone.as_deref().is_some_and(|phone| !is_phone(phone)) {
            return Err(Refused::Invalid);
        }
        let clash = |row: &Row| {
            row.username == after.username || row.email.to_lowercase() == after.email.to_lowercase()
        };
        if self.people.rows().any(|row| row.id != id && clash(row)) {
            return Err(Refused::Taken);
        }
        let was_active = before.is_active;
        self.people.update(id, |row| *row = after.clone());
        self.people.update(id, |row| *row = after.clone());
        if was_active && !after.is_active {
            self.sessions.retain(|_, session| session.owner != id);
            self.tokens.retain(|_, token| token.owner != id);
        }
        Ok(())
    }

    pub fn delete(&mut self, id: i64) -> Result<(), Refused> {
        if !self.people.delete(id) {
            return Err(Refused::Unknown);
        }
        for group in &mut self.groups {
            group.members.remove(&id);
        }
        self.sessions.retain(|_, session| session.owner != id);
        self.tokens.retain(|_, token| token.owner != id);
        self.provider.consents.retain(|(owner, _)| *owner != id);
        self.provider.grants.retain(|grant| grant.owner != id);
        Ok(())
    }

    pub fn id_of(&self, username: &str) -> Option<i64> {
        self.people.named(username).map(|row| row.id)
    }

    pub fn is_admin(&self, id: i64) -> bool {
        self.groups.iter().any(|group| group.is_admin && group.members.contains(&id))
    }

    pub fn groups_of(&self, id: i64) -> Vec<String> {
        let mine = self.groups.iter().filter(|group| group.members.contains(&id));
        mine.map(|group| group.name.clone()).collect()
    }

    /// The `UserInfo`, in the shape of the version.
    pub fn info(&self, row: &Row) -> Value {
        let mut info = row.info(&self.groups_of(row.id), self.is_admin(row.id));
        let agreed =
            self.provider.apps.iter().filter(|app| self.provider.consents.contains(&(row.id, app.id)));
        let apps = info["authorized_apps"].as_array_mut().unwrap();
        apps.extend(agreed.map(|app| json!({"oauth2client_id": app.id, "oauth2client_name": app.name})));
        if self.is_old() {
            let fields = info.as_object_mut().unwrap();
            fields.shift_remove("name");
            fields.shift_remove("devices");
        }
        info
    }

    pub fn is_old(&self) -> bool {
        self.version.starts_with("1.")
    }

    /// `Domain` and `Secure` of every cookie follow defguard_url, not the request.
    pub fn cookie_attributes(&self) -> String {
        let url = &self.provider.defguard_url;
        let secure = if url.scheme() == "https" { "; Secure" } else { "" };
        format!("Domain={}{secure}", url.host_str().unwrap())
    }

    // ---- groups ----

    /// The group with this name; made if there is none.
    pub fn group_or_new(&mut self, name: &str) -> &mut Group {
        let position = self.groups.iter().position(|group| group.name == name).unwrap_or_else(|| {
            let id = self.next_group;
            self.next_group += 1;
            self.groups.push(Group { id, name: name.to_owned(), is_admin: false, members: BTreeSet::new() });
            self.groups.len() - 1
        });
        &mut self.groups[position]
    }

    /// Replaces somebody's groups; names of groups that do not exist are passed over.
    pub fn set_groups(&mut self, id: i64, names: &[String]) {
        for group in &mut self.groups {
            if names.contains(&group.name) {
                group.members.insert(id);
            } else {
                group.members.remove(&id);
            }
        }
    }

    /// The shape in `/group-info` and `/group/{id}`.
    pub fn group_info(&self, group: &Group) -> Value {
        let members: Vec<&str> = group
            .members
            .iter()
            .filter_map(|id| self.people.get(*id))
            .map(|row| row.username.as_str())
            .collect();
        json!({
            "id": group.id, "name": group.name, "is_admin": group.is_admin, "members": members, "vpn_locations": []
        })
    }

    // ---- sessions, tokens, lock-out ----

    /// Makes a session and gives its cookie value.
    pub fn open_session(&mut self, owner: i64, now: DateTime<Utc>, verified: bool) -> String {
        let cookie = format!("session{:017}", self.secret_number());
        let expires = now + TimeDelta::days(self.session_days);
        self.sessions.insert(cookie.clone(), Session { owner, expires, verified });
        cookie
    }

    /// The session of a cookie. The row of an expired one is deleted when it is seen.
    pub fn session(&mut self, cookie: &str, now: DateTime<Utc>) -> Result<Session, NoSession> {
        let session = self.sessions.get(cookie).cloned().ok_or(NoSession::Unknown)?;
        if session.expires <= now {
            self.sessions.remove(cookie);
            return Err(NoSession::Expired);
        }
        Ok(session)
    }

    /// Makes an API token.
    pub fn open_token(&mut self, owner: i64, name: &str, now: DateTime<Utc>) -> String {
        let number = self.secret_number();
        let token = format!("dg-token{number:027}");
        let id = i64::try_from(number).unwrap();
        self.tokens.insert(token.clone(), Token { id, name: name.to_owned(), owner, created: now });
        token
    }

    /// Whether logins under this very text are locked out; asking while locked starts the time anew.
    pub fn is_locked_out(&mut self, submitted: &str, now: DateTime<Utc>) -> bool {
        let Some(attempts) = self.attempts.get_mut(submitted) else { return false };
        match attempts.locked_at {
            Some(at) if now - at < LOCK_OUT => {
                attempts.locked_at = Some(now);
                true
            }
            Some(_) => {
                *attempts = Attempts::default();
                false
            }
            None => false,
        }
    }

    /// Counts a failed login or one-time code under the account's username.
    pub fn count_failure(&mut self, username: &str, now: DateTime<Utc>) {
        let attempts = self.attempts.entry(username.to_owned()).or_default();
        attempts.failures.retain(|at| now - *at < FAILURE_WINDOW);
        attempts.failures.push(now);
        if attempts.failures.len() >= MOST_FAILURES {
            attempts.locked_at = Some(now);
        }
    }

    fn secret_number(&mut self) -> u64 {
        self.next_secret += 1;
        self.next_secret - 1
    }
}
