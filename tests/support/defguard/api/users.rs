//! The endpoints for people.

use axum::{
    Json,
    extract::{Path, Query, State},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{person::NewPerson, state::Refused, webhooks::Event};
use super::{
    App, Paging, answer,
    caller::{Admin, Agent, Caller},
    message, paginated, refused,
};

/// `SELECT … LIMIT … OFFSET …` without ORDER BY, and a count by a query of its own.
pub async fn list(_: Admin, State(shared): App, Query(paging): Query<Paging>) -> Response {
    let mut state = shared.state();
    if state.is_old() {
        return answer(200, state.people.rows().map(|row| state.info(row)).collect());
    }
    let (page, size) = paging.of();
    let (skip, take) = (usize::try_from((page - 1) * size).unwrap(), usize::try_from(size).unwrap());
    let data = state.people.rows().skip(skip).take(take).map(|row| state.info(row)).collect();
    let ids: Vec<i64> = state.people.rows().skip(skip).take(take).map(|row| row.id).collect();
    let response = paginated(data, page, size, state.people.len());
    let hook = shared.faults.lock().unwrap().take_hook(page);
    if let Some(hook) = hook {
        hook(&mut state);
    }
    shared.faults.lock().unwrap().watch(&mut state, page, &ids);
    response
}

#[derive(Deserialize)]
pub struct NewUser {
    username: String,
    first_name: String,
    last_name: String,
    email: String,
    phone: Option<String>,
    password: Option<String>,
}

/// Rules for passwords are not in the facts; any is taken.
pub async fn create(_: Admin, _: Agent, State(shared): App, Json(new): Json<NewUser>) -> Response {
    let mut state = shared.state();
    let created = state.create(NewPerson {
        username: new.username.clone(),
        first_name: new.first_name,
        last_name: new.last_name,
        email: new.email,
        phone: new.phone,
        password: new.password,
        groups: Vec::new(),
        is_active: true,
        totp_secret: None,
    });
    match created {
        Ok(id) => {
            let info = state.info(state.people.get(id).unwrap());
            shared.tell(Event::Created(info.clone()));
            answer(201, info)
        }
        Err(why) => refused(why, &new.username),
    }
}

pub async fn find(caller: Caller, State(shared): App, Path(username): Path<String>) -> Response {
    let state = shared.state();
    // Which of the two comes first, rights or existence, is not in the facts.
    if !state.is_admin(caller.id) && state.id_of(&username) != Some(caller.id) {
        return message(403, "requires privileged access");
    }
    match state.people.named(&username) {
        Some(row) => answer(
            200,
            json!({"user": state.info(row), "security_keys": [], "biometric_enabled_devices": []}),
        ),
        None => refused(Refused::Unknown, &username),
    }
}

pub async fn me(caller: Caller, State(shared): App) -> Response {
    let state = shared.state();
    answer(200, state.info(state.people.get(caller.id).unwrap()))
}

/// The whole `UserInfo`: a missing key is 422, those that are not used included. (The facts name `name` and
/// `devices`; that all but `phone` are needed is taken from them being one type.)
#[derive(Deserialize)]
#[allow(dead_code, reason = "they must be there and are not used")]
pub struct PutUser {
    id: i64,
    username: String,
    first_name: String,
    last_name: String,
    name: String,
    email: String,
    phone: Option<String>,
    groups: Vec<String>,
    is_active: bool,
    enrolled: bool,
    is_admin: bool,
    mfa_enabled: bool,
    totp_enabled: bool,
    email_mfa_enabled: bool,
    mfa_method: String,
    ldap_pass_requires_change: bool,
    authorized_apps: Vec<Value>,
    devices: Vec<Value>,
}

pub async fn put(
    caller: Caller,
    _: Agent,
    State(shared): App,
    Path(username): Path<String>,
    Json(new): Json<PutUser>,
) -> Response {
    let mut state = shared.state();
    let by_admin = state.is_admin(caller.id);
    if !by_admin && state.id_of(&username) != Some(caller.id) {
        return message(403, "requires privileged access");
    }
    let Some(before) = state.people.named(&username).cloned() else {
        return refused(Refused::Unknown, &username);
    };
    let id = before.id;
    if by_admin && id == caller.id && !new.is_active {
        return answer(400, json!({}));
    }
    let known: Vec<String> = state
        .groups
        .iter()
        .filter(|group| new.groups.contains(&group.name))
        .map(|group| group.name.clone())
        .collect();
    let apps = new.authorized_apps;
    let groups_change = by_admin && known != state.groups_of(id);
    let changed = state.update(id, |row| {
        row.phone = new.phone;
        if !by_admin {
            row.mfa_method = new.mfa_method;
            return;
        }
        row.username = new.username;
        row.first_name = new.first_name;
        row.last_name = new.last_name;
        row.email = new.email;
        // Those that are no longer listed are revoked.
        row.authorized_apps.retain(|app| apps.contains(app));
        // The upstream bug: together with a change of groups, this one is lost.
        if !groups_change {
            row.is_active = new.is_active;
        }
    });
    if let Err(why) = changed {
        return refused(why, &username);
    }
    if by_admin {
        let listed: Vec<i64> = apps.iter().filter_map(|app| app["oauth2client_id"].as_i64()).collect();
        state.provider.consents.retain(|(owner, app)| *owner != id || listed.contains(app));
    }
    if groups_change {
        state.set_groups(id, &known);
    }
    // Also of a change by the person themselves, and if nothing is another than before.
    shared.tell(Event::Modified(state.info(state.people.get(id).unwrap())));
    answer(200, Value::Null)
}

/// The event is sent before the row is gone for others.
pub async fn delete(admin: Admin, _: Agent, State(shared): App, Path(username): Path<String>) -> Response {
    // With a capital, unlike the others.
    let unknown = || message(404, &format!("User {username} not found"));
    let found = shared.state().id_of(&username);
    let id = match found {
        None => return unknown(),
        Some(id) if id == admin.id => return answer(400, json!({})),
        Some(id) => id,
    };
    shared.tell(Event::Deleted(username.clone()));
    let _commit = shared.commit.lock().await;
    match shared.state().delete(id) {
        Ok(()) => answer(200, Value::Null),
        Err(_) => unknown(),
    }
}

#[derive(Deserialize)]
pub struct Available {
    username: String,
}

/// Only its path is in the facts; what it answers is a guess.
pub async fn available(_: Admin, State(shared): App, Json(asked): Json<Available>) -> Response {
    let free = shared.state().id_of(&asked.username).is_none();
    answer(if free { 200 } else { 400 }, json!({}))
}

#[derive(Deserialize)]
pub struct ChangePassword {
    old_password: String,
    new_password: String,
}

/// That it writes the row is in the facts; its body and answers are a guess.
pub async fn change_password(
    caller: Caller,
    _: Agent,
    State(shared): App,
    Json(change): Json<ChangePassword>,
) -> Response {
    let mut state = shared.state();
    if state.people.get(caller.id).and_then(|row| row.password.clone()) != Some(change.old_password) {
        return answer(400, json!({}));
    }
    state.people.update(caller.id, |row| row.password = Some(change.new_password));
    answer(200, json!({}))
}
