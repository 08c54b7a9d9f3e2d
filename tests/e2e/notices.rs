//! What people are told in a room about what the runs find.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    ground::Ground,
    process::{PATIENCE, Process},
    support::synapse::User,
};

/// A room that anybody may join, with somebody who reads in it.
struct Room {
    id: String,
    reader: User,
}

impl Room {
    async fn new(ground: &mut Ground, more: Value) -> Self {
        let reader = ground.synapse.register_user(&ground.n("reader"), false).await;
        let mut body = json!({"preset": "public_chat"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = "/_matrix/client/v3/createRoom";
        let made = ground.synapse.call(Method::POST, path, Some(&reader.token), Some(&body)).await;
        let id = made.body["room_id"].as_str().unwrap().to_owned();
        ground.set("notices.room", &format!("{id:?}"));
        Self { id, reader }
    }

    /// What the service has said, oldest first.
    async fn said(&self, ground: &Ground) -> Vec<String> {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=f&limit=100", self.id);
        let found = ground.synapse.call(Method::GET, &path, Some(&self.reader.token), None).await;
        let events = found.body["chunk"].as_array().unwrap().clone();
        let said = events.iter().filter(|event| event["type"] == "m.room.message");
        said.map(|event| event["content"]["body"].as_str().unwrap().to_owned()).collect()
    }
}

/// A daemon that can be asked.
async fn up(ground: &Ground) -> Process {
    let daemon = ground.start(&["run"]);
    daemon.says("the daemon is up").await;
    daemon
}

/// Waits until a message was sent.
async fn sent(ground: &Ground, daemon: &Process) {
    let sent = ground.proxy.wait_until(|seen| {
        seen.iter().any(|it| it.target().contains("/send/m.room.message/") && it.status == Some(200))
    });
    assert!(tokio::time::timeout(PATIENCE, sent).await.is_ok(), "no notice came:\n{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_said_once_and_by_number() {
    let mut ground = Ground::new("noticed").await;
    let room = Room::new(&mut ground, json!({})).await;
    ground.put("alice", json!({})).await;
    let id = ground.add("alice");
    let daemon = up(&ground).await;
    ground.program(&["sync"]).await.with_code(0);
    sent(&ground, &daemon).await;
    let said = room.said(&ground).await;
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(&format!("- #{id}: localpart taken")), "{said:?}");
    assert!(!said[0].contains(&ground.n("alice")), "{said:?}");
    ground.program(&["sync"]).await.with_code(0);
    daemon.terminate();
    daemon.ended().await.with_code(0);
    // Nor after a new start, though it lasts.
    let daemon = up(&ground).await;
    ground.program(&["sync"]).await.with_code(0);
    daemon.terminate();
    daemon.ended().await.with_code(0);
    assert_eq!(room.said(&ground).await, said);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guard_holds_is_said_with_the_command_that_approves_of_it() {
    let mut ground = Ground::new("noticeheld").await;
    let room = Room::new(&mut ground, json!({})).await;
    for who in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"] {
        ground.add(who);
    }
    ground.sync().await;
    ground.set("templates.display_name_template", "\"{{ user.first_name }} {{ user.first_name }}\"");
    let daemon = up(&ground).await;
    let report = ground.program(&["sync", "--json"]).await.with_code(4).json();
    sent(&ground, &daemon).await;
    let said = room.said(&ground).await;
    let digest = report["held"]["digest"].as_str().unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("12 accounts would get another display name"), "{said:?}");
    assert!(said[0].contains(&format!("defguard-synapse-sync approve {digest}")), "{said:?}");
    daemon.terminate();
    daemon.ended().await.with_code(0);
    // The same hold after a new start is the same message.
    ground.proxy.clear();
    let daemon = up(&ground).await;
    ground.program(&["sync"]).await.with_code(4);
    sent(&ground, &daemon).await;
    assert_eq!(room.said(&ground).await, said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_cannot_be_used_keeps_no_run_from_its_work() {
    let mut ground = Ground::new("noticeless").await;
    let encryption = json!({
        "type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"},
    });
    let room = Room::new(&mut ground, json!({"initial_state": [encryption]})).await;
    ground.put("alice", json!({})).await;
    ground.add("alice");
    ground.add("bob");
    let daemon = up(&ground).await;
    ground.program(&["sync"]).await.with_code(0);
    assert!(ground.find_account("bob").await.is_some());
    daemon.says("a notice was not sent").await;
    daemon.says("it is encrypted").await;
    ground.program(&["sync"]).await.with_code(0);
    assert_eq!(room.said(&ground).await, [""; 0]);
    daemon.terminate();
    daemon.ended().await.with_code(0);
}
