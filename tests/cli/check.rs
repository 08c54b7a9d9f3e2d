//! `check` with a config that is right.

use insta::assert_snapshot;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{World, support::defguard::NewPerson};

#[tokio::test]
async fn check_says_in_its_last_line_whether_all_is_well() {
    let world = World::new("well").await;
    world.defguard.add_person(NewPerson::named("well-ann"));
    let shown = world.run(&["check"]).await.ends_with(0);
    assert_snapshot!("check_all_well", world.steady(&shown.out));
}

#[tokio::test]
async fn check_names_the_holes_that_templates_leave_and_the_people_who_meet() {
    let world = World::new("hole").await;
    world.defguard.add_person(NewPerson::named("hole-Twin").email("a@example.com"));
    world.defguard.add_person(NewPerson::named("hole-twin").email("b@example.com"));
    world.defguard.add_person(NewPerson::named("hole-bad").email("no address"));
    world.defguard.add_person(NewPerson::named("Admin").email("c@example.com"));
    let shown = world.run(&["check"]).await.ends_with(0);
    assert_snapshot!("check_with_holes", world.steady(&shown.out));
}

#[tokio::test]
async fn check_says_what_a_login_would_make_of_fields_that_are_no_claims() {
    let world = World::new("claims").await;
    world.defguard.add_person(NewPerson::named("claims-ann"));
    let config = std::fs::read_to_string(world.config()).unwrap();
    world.write("config.toml", &config.replace("user.given_name", "user.first_name"));
    let items = world.run(&["check", "--json"]).await.ends_with(0).json();
    let found = |text: &str| {
        items.as_array().unwrap().iter().any(|item| item["found"].as_str().unwrap_or_default().contains(text))
    };
    assert!(found("a login would give another display name than the sync, for claims-ann"), "{items}");
}

#[tokio::test]
async fn check_says_whether_notices_would_arrive() {
    let world = World::new("room").await;
    let owner = world.synapse.register_user("room-owner", false).await;
    let room = async |token: &str, body: Value| {
        let path = "/_matrix/client/v3/createRoom";
        let made = world.synapse.call(Method::POST, path, Some(token), Some(&body)).await;
        made.body["room_id"].as_str().unwrap().to_owned()
    };
    let encryption = json!({
        "type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"},
    });
    let admin = world.synapse.admin_token();
    for (room, code, level, found) in [
        (room(admin, json!({})).await, 0, "ok", "can be sent to"),
        (room(admin, json!({"initial_state": [encryption]})).await, 5, "error", "it is encrypted"),
        (
            room(&owner.token, json!({})).await,
            5,
            "error",
            "@admin:sync.test, the account of this service, is not in it",
        ),
    ] {
        world.configure(&format!("\n[notices]\nroom = {room:?}\n"));
        let items = world.run(&["check", "--json"]).await.ends_with(code).json();
        let item = items.as_array().unwrap().iter().find(|item| item["what"] == "notices").unwrap();
        assert_eq!(item["level"], level, "{item}");
        assert!(item["found"].as_str().unwrap().contains(found), "{item}");
        assert_eq!(item["mend"].is_string(), level == "error", "{item}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_used_ends_a_check_with_5_and_the_other_is_still_checked() {
    let world = World::new("down").await;
    world.write("synapse-token", "syt_wrong");
    let items = world.run(&["check", "--json"]).await.ends_with(5).json();
    let level = |what: &str| -> Value {
        let item = items.as_array().unwrap().iter().find(|item| item["what"] == what).unwrap();
        item["level"].clone()
    };
    assert_eq!((level("Synapse"), level("Defguard")), (json!("error"), json!("ok")));
    let shown = world.run(&["check"]).await.ends_with(5);
    assert!(shown.out.contains("It cannot work so: 1 error."), "{shown:?}");
}
