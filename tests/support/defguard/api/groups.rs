//! The endpoints for groups, which 2.x knows by number.

use std::collections::BTreeSet;

use axum::{
    Json,
    extract::{Path, Query, State},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::state::{Group, State as Database};
use super::{
    App, Paging, answer,
    caller::{Admin, Agent},
    message, paginated,
};

pub async fn names(_: Admin, State(shared): App, Query(paging): Query<Paging>) -> Response {
    let state = shared.state();
    let (page, size) = paging.of();
    let (skip, take) = (usize::try_from((page - 1) * size).unwrap(), usize::try_from(size).unwrap());
    let data = state.groups.iter().skip(skip).take(take).map(|group| json!(group.name)).collect();
    paginated(data, page, size, state.groups.len())
}

/// All groups with all members, in one statement.
pub async fn info(_: Admin, State(shared): App) -> Response {
    let state = shared.state();
    answer(200, state.groups.iter().map(|group| state.group_info(group)).collect())
}

pub async fn find(_: Admin, State(shared): App, Path(id): Path<i64>) -> Response {
    let state = shared.state();
    match state.groups.iter().find(|group| group.id == id) {
        Some(group) => answer(200, state.group_info(group)),
        None => no_group(id),
    }
}

#[derive(Deserialize)]
pub struct GroupBody {
    name: String,
    members: Vec<String>,
    is_admin: bool,
}

/// An unknown member is 404, but the group is there by then.
pub async fn create(_: Admin, _: Agent, State(shared): App, Json(new): Json<GroupBody>) -> Response {
    let mut state = shared.state();
    if state.groups.iter().any(|group| group.name == new.name) {
        return message(500, "Internal server error");
    }
    state.group_or_new(&new.name).is_admin = new.is_admin;
    for member in &new.members {
        // The text of this 404 is not in the facts.
        let Some(id) = state.id_of(member) else { return message(404, &format!("User {member} not found")) };
        state.group_or_new(&new.name).members.insert(id);
    }
    answer(201, json!({"name": new.name, "members": new.members, "is_admin": new.is_admin}))
}

#[derive(Deserialize)]
pub struct Member {
    username: String,
}

pub async fn add_member(
    _: Admin,
    _: Agent,
    State(shared): App,
    Path(id): Path<i64>,
    Json(member): Json<Member>,
) -> Response {
    let mut state = shared.state();
    let Some(person) = state.id_of(&member.username) else {
        return message(404, &format!("User {} not found", member.username));
    };
    with_group(&mut state, id, |group| {
        group.members.insert(person);
        Value::Null
    })
}

pub async fn remove_member(
    _: Admin,
    _: Agent,
    State(shared): App,
    Path((id, username)): Path<(i64, String)>,
) -> Response {
    let mut state = shared.state();
    let Some(person) = state.id_of(&username) else {
        return message(404, &format!("User {username} not found"));
    };
    with_group(&mut state, id, |group| {
        group.members.remove(&person);
        json!({})
    })
}

/// Replaces the members, passing over unknown ones, and renames. (The answer's body is not in the facts.)
pub async fn put(
    _: Admin,
    _: Agent,
    State(shared): App,
    Path(id): Path<i64>,
    Json(new): Json<GroupBody>,
) -> Response {
    let mut state = shared.state();
    let members: BTreeSet<i64> = new.members.iter().filter_map(|name| state.id_of(name)).collect();
    with_group(&mut state, id, |group| {
        (group.name, group.members, group.is_admin) = (new.name, members, new.is_admin);
        json!({})
    })
}

pub async fn delete(_: Admin, _: Agent, State(shared): App, Path(id): Path<i64>) -> Response {
    let mut state = shared.state();
    let is_admin = |group: &&Group| group.is_admin;
    if state.groups.iter().filter(is_admin).all(|group| group.id == id)
        && state.groups.iter().any(|group| group.id == id)
    {
        // The last admin group; the body of this 400 is not in the facts.
        return answer(400, json!({}));
    }
    let before = state.groups.len();
    state.groups.retain(|group| group.id != id);
    if state.groups.len() == before { no_group(id) } else { answer(200, Value::Null) }
}

fn with_group(state: &mut Database, id: i64, change: impl FnOnce(&mut Group) -> Value) -> Response {
    match state.groups.iter_mut().find(|group| group.id == id) {
        Some(group) => answer(200, change(group)),
        None => no_group(id),
    }
}

/// The text is not in the facts.
fn no_group(id: i64) -> Response {
    message(404, &format!("Group {id} not found"))
}
