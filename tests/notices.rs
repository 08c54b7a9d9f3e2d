//! The room that notices go to, on a real Synapse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod support;

use defguard_synapse_sync::{
    domain::{Failure, FailureClass},
    notices::{MatrixRoom, Options},
    ports::Noticeboard as _,
};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use support::synapse::{Synapse, User, shared};

/// Somebody who makes rooms, and the account of the service.
struct Ground {
    synapse: &'static Synapse,
    owner: User,
    service: User,
}

impl Ground {
    async fn new(name: &str) -> Self {
        let synapse = shared().await;
        let owner = synapse.register_user(&format!("{name}.owner"), false).await;
        let service = synapse.register_user(&format!("{name}.service"), false).await;
        Self { synapse, owner, service }
    }

    async fn call(&self, user: &User, method: Method, path: &str, body: Value) -> Value {
        let path = format!("/_matrix/client/v3/{path}");
        let reply = self.synapse.call(method, &path, Some(&user.token), Some(&body)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body
    }

    /// A room of the owner's.
    async fn room(&self, how: Value) -> String {
        let made = self.call(&self.owner, Method::POST, "createRoom", how).await;
        made["room_id"].as_str().unwrap().to_owned()
    }

    async fn join(&self, room: &str) {
        self.call(&self.service, Method::POST, &format!("join/{room}"), json!({})).await;
    }

    fn board(&self, room: &str) -> MatrixRoom {
        self.board_with(room, &self.service.token)
    }

    fn board_with(&self, room: &str, token: &str) -> MatrixRoom {
        MatrixRoom::new(Options {
            url: self.synapse.url().parse().unwrap(),
            token: SecretString::from(token),
            ca_pem: None,
            room: room.try_into().unwrap(),
        })
    }

    /// What the service has said in a room, oldest first.
    async fn said(&self, room: &str) -> Vec<String> {
        let path = format!("rooms/{room}/messages?dir=f&limit=100");
        let events = self.call(&self.owner, Method::GET, &path, json!({})).await;
        let events = events["chunk"].as_array().unwrap().clone();
        let mine = events
            .iter()
            .filter(|it| it["type"] == "m.room.message" && it["sender"] == self.service.mxid.as_str());
        mine.map(|it| it["content"]["body"].as_str().unwrap().to_owned()).collect()
    }

    async fn nothing_was_said(&self, room: &str) {
        assert_eq!(self.said(room).await, [""; 0]);
    }
}

#[track_caller]
fn refused(result: Result<(), Failure>, why: &str) -> Failure {
    let failure = result.unwrap_err();
    assert!(failure.why.contains(why), "{failure:?}");
    assert!(failure.mend.is_some(), "{failure:?}");
    failure
}

#[tokio::test]
async fn a_notice_arrives_in_a_room_by_id_or_alias_and_once_for_a_key() {
    let ground = Ground::new("noticeplain").await;
    let room = ground.room(json!({"preset": "public_chat", "room_alias_name": "noticeplain"})).await;
    ground.join(&room).await;
    let board = ground.board(&room);
    board.examine().await.unwrap();
    board.post("first\nline", "key-1").await.unwrap();
    board.post("first\nline", "key-1").await.unwrap();
    // Another process of the same account's token.
    let by_alias = ground.board(&format!("#noticeplain:{}", ground.synapse.server_name()));
    by_alias.examine().await.unwrap();
    by_alias.post("first\nline", "key-1").await.unwrap();
    by_alias.post("second", "key-2").await.unwrap();
    assert_eq!(ground.said(&room).await, ["first\nline", "second"]);
}

#[tokio::test]
async fn an_encrypted_room_is_refused_and_nothing_is_said_there() {
    let ground = Ground::new("noticesecret").await;
    let room = ground
        .room(json!({
            "preset": "public_chat",
            "initial_state": [{
                "type": "m.room.encryption", "state_key": "",
                "content": {"algorithm": "m.megolm.v1.aes-sha2"},
            }],
        }))
        .await;
    ground.join(&room).await;
    let board = ground.board(&room);
    refused(board.examine().await, "it is encrypted");
    refused(board.post("text", "key").await, "it is encrypted");
    ground.nothing_was_said(&room).await;
}

#[tokio::test]
async fn a_room_that_becomes_encrypted_is_refused_from_then_on() {
    let ground = Ground::new("noticelater").await;
    let room = ground.room(json!({"preset": "public_chat"})).await;
    ground.join(&room).await;
    let board = ground.board(&room);
    board.post("before", "key-1").await.unwrap();
    let path = format!("rooms/{room}/state/m.room.encryption");
    ground.call(&ground.owner, Method::PUT, &path, json!({"algorithm": "m.megolm.v1.aes-sha2"})).await;
    refused(board.post("after", "key-2").await, "it is encrypted");
    assert_eq!(ground.said(&room).await, ["before"]);
}

#[tokio::test]
async fn a_room_that_the_account_is_not_in_is_refused_until_it_is_invited() {
    let ground = Ground::new("noticeout").await;
    let room = ground.room(json!({"preset": "private_chat"})).await;
    let board = ground.board(&room);
    for failure in [
        refused(board.examine().await, "is not in it"),
        refused(board.post("text", "key").await, "is not in it"),
    ] {
        assert!(failure.why.contains(&ground.service.mxid), "{failure:?}");
        assert!(failure.mend.unwrap().contains("invite"));
    }
    ground
        .call(
            &ground.owner,
            Method::POST,
            &format!("rooms/{room}/invite"),
            json!({"user_id": ground.service.mxid}),
        )
        .await;
    board.post("text", "key").await.unwrap();
    board.examine().await.unwrap();
    assert_eq!(ground.said(&room).await, ["text"]);
}

#[tokio::test]
async fn a_room_that_is_not_there_and_a_right_that_is_missing_are_said_clearly() {
    let ground = Ground::new("noticewrong").await;
    let alias = format!("#nowhere:{}", ground.synapse.server_name());
    refused(ground.board(&alias).examine().await, "knows no such alias");
    refused(ground.board("!nowhere:sync.test").examine().await, "is not in it");
    let room = ground
        .room(json!({"preset": "public_chat", "power_level_content_override": {"events_default": 50}}))
        .await;
    ground.join(&room).await;
    let failure = refused(ground.board(&room).post("text", "key").await, "status 403");
    assert!(failure.mend.unwrap().contains("power level"));
    ground.nothing_was_said(&room).await;
    let failure = refused(ground.board_with(&room, "syt_wrong").examine().await, "status 401");
    assert_eq!(failure.class, FailureClass::Unauthorised);
    assert!(!format!("{failure:?}").contains("syt_wrong"));
}

#[tokio::test]
async fn a_homeserver_that_does_not_answer_is_given_up_soon() {
    let board = MatrixRoom::new(Options {
        url: "http://127.0.0.1:1/".parse().unwrap(),
        token: SecretString::from("syt_marked_token"),
        ca_pem: None,
        room: "!a:example.org".try_into().unwrap(),
    });
    let failure =
        tokio::time::timeout(std::time::Duration::from_secs(60), board.examine()).await.unwrap().unwrap_err();
    assert_eq!(failure.class, FailureClass::Transient);
    assert!(!format!("{board:?}{failure:?}").contains("syt_marked_token"));
}
