//! What the facts say about a real Defguard and no recording shows: the stand-in does the same.

use std::time::Duration;

use defguard_synapse_sync::ports::Clock;
use serde_json::{Value, json};

use super::{
    ADMIN_PASSWORD, AUTH, Raw, raw,
    support::defguard::{NewPerson, StandIn},
};

/// A server and an administrator's hands.
struct Hands {
    server: StandIn,
    cookie: String,
}

impl Hands {
    async fn new() -> Self {
        let server = StandIn::start().await;
        let cookie = server.session_for("admin", true);
        Self { server, cookie }
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Raw {
        let headers =
            [("cookie", self.cookie.as_str()), ("user-agent", "test"), ("content-type", "application/json")];
        let body = body.map(Value::to_string);
        raw(&self.server, method, &format!("/api/v1/{path}"), &headers, body.as_deref()).await
    }

    async fn info(&self, username: &str) -> Value {
        self.send("GET", &format!("user/{username}"), None).await.json()["user"].clone()
    }

    async fn login(&self, username: &str, password: &str) -> u16 {
        let body = json!({"username": username, "password": password});
        self.send("POST", "auth", Some(&body)).await.status
    }
}

fn new_user(username: &str, email: &str) -> Value {
    json!({"username": username, "first_name": "A", "last_name": "B", "email": email, "phone": null, "password": null})
}

#[tokio::test]
async fn a_person_is_created_changed_renamed_and_deleted_from_outside() {
    let hands = Hands::new().await;
    let made = hands.send("POST", "user", Some(&new_user("alice", "alice@example.com"))).await;
    assert_eq!(made.status, 201);
    let mut info = made.json();
    assert_eq!(info["enrolled"], false);
    info["first_name"] = json!("Alice");
    info["username"] = json!("alice-married");
    let changed = hands.send("PUT", "user/alice", Some(&info)).await;
    assert_eq!((changed.status, changed.body.as_str()), (200, "null"));
    assert_eq!(hands.send("GET", "user/alice", None).await.status, 404);
    let renamed = hands.info("alice-married").await;
    assert_eq!((&renamed["id"], &renamed["name"]), (&info["id"], &json!("Alice B")));
    let again = hands.send("POST", "user", Some(&new_user("alice", "other@example.com"))).await.json();
    assert_ne!(again["id"], info["id"]);
    assert_eq!(hands.send("DELETE", "user/alice", None).await.body, "null");
    let gone = hands.send("DELETE", "user/alice", None).await;
    assert_eq!((gone.status, gone.json()), (404, json!({"msg": "User alice not found"})));
    assert_eq!(hands.send("DELETE", "user/admin", None).await.status, 400);
}

#[tokio::test]
async fn what_is_taken_or_invalid_is_refused_as_recorded() {
    let hands = Hands::new().await;
    hands.server.add_person(NewPerson::named("user030"));
    hands.server.add_person(NewPerson::named("bob"));
    let post =
        async |username, email| hands.send("POST", "user", Some(&new_user(username, email))).await.status;
    assert_eq!(post("user030", "new@example.com").await, 500);
    assert_eq!(post("new", "USER030@example.com").await, 400);
    assert_eq!(post("new", "user0_0@example.com").await, 400, "the check is ILIKE");
    assert_eq!(post("-new", "new@example.com").await, 400);
    assert_eq!(post("User030", "new@example.com").await, 201, "usernames are case-sensitive");
    let bob = hands.info("bob").await;
    for (key, value, status) in [
        ("username", json!("user030"), 500),
        ("email", json!("User030@example.com"), 500),
        ("username", json!("b b"), 400),
        ("phone", json!(""), 400),
        ("is_active", json!("yes"), 422),
    ] {
        let mut changed = bob.clone();
        changed[key] = value;
        assert_eq!(hands.send("PUT", "user/bob", Some(&changed)).await.status, status, "{changed}");
    }
    for key in ["name", "devices"] {
        let mut lacking = bob.clone();
        lacking.as_object_mut().unwrap().remove(key);
        let answer = hands.send("PUT", "user/bob", Some(&lacking)).await;
        assert_eq!((answer.status, answer.kind.as_str()), (422, "text/plain; charset=utf-8"));
    }
    let mut admin = hands.info("admin").await;
    admin["is_active"] = json!(false);
    assert_eq!(hands.send("PUT", "user/admin", Some(&admin)).await.status, 400);
}

#[tokio::test]
async fn a_put_that_changes_groups_and_activity_loses_the_activity() {
    let hands = Hands::new().await;
    let bob = hands.server.add_person(NewPerson::named("bob"));
    let cookie = hands.server.session_for("bob", true);
    hands.server.set_groups(bob, &["staff"]);
    let mut info = hands.info("bob").await;
    info["groups"] = json!([]);
    info["is_active"] = json!(false);
    assert_eq!(hands.send("PUT", "user/bob", Some(&info)).await.status, 200);
    let after = hands.info("bob").await;
    assert_eq!((&after["groups"], &after["is_active"]), (&json!([]), &json!(true)));
    assert_eq!(hands.send("PUT", "user/bob", Some(&info)).await.status, 200);
    assert_eq!(hands.info("bob").await["is_active"], json!(false));
    let me = raw(&hands.server, "GET", "/api/v1/me", &[("cookie", &cookie)], None).await;
    assert_eq!((me.status, me.json()), (401, json!({"msg": "Session not found"})));
}

#[tokio::test]
async fn paging_is_cut_silently_and_nonsense_is_refused_in_plain_text() {
    let hands = Hands::new().await;
    hands.server.load_recorded();
    let cookie = hands.server.session_for("admin", true);
    let get = async |query: &str| {
        raw(&hands.server, "GET", &format!("/api/v1/user{query}"), &[("cookie", &cookie)], None).await
    };
    for (query, page, size, rows) in [
        ("", 1, 50, 50),
        ("?page=0&per_page=0", 1, 1, 1),
        ("?per_page=1000&page=4&filter=x", 4, 100, 35),
        ("?per_page=100&page=9", 9, 100, 0),
    ] {
        let body = get(query).await.json();
        assert_eq!(body["data"].as_array().unwrap().len(), rows, "{query}");
        assert_eq!(
            (&body["pagination"]["current_page"], &body["pagination"]["page_size"]),
            (&json!(page), &json!(size))
        );
    }
    for query in ["?page=x", "?page=", "?page=1&page=2", "?page=-1", "?page=4294967296"] {
        let answer = get(query).await;
        assert_eq!((answer.status, answer.kind.as_str()), (400, "text/plain; charset=utf-8"), "{query}");
    }
}

#[tokio::test]
async fn bodies_and_headers_that_the_framework_refuses_are_refused_in_plain_text() {
    let hands = Hands::new().await;
    let server = &hands.server;
    let json_kind = ("content-type", "application/json");
    let agent = ("user-agent", "x");
    let right = json!({"username": "admin", "password": ADMIN_PASSWORD}).to_string();
    assert_eq!(raw(server, "POST", AUTH, &[agent], Some(&right)).await.status, 415);
    assert_eq!(raw(server, "POST", AUTH, &[agent, json_kind], Some("{")).await.status, 400);
    assert_eq!(raw(server, "POST", AUTH, &[agent, json_kind], Some("{}")).await.status, 422);
    let huge = json!({"username": "admin", "password": "x".repeat(300_000)}).to_string();
    let answer = raw(server, "POST", AUTH, &[agent, json_kind], Some(&huge)).await;
    assert_eq!((answer.status, answer.kind.as_str()), (413, "text/plain; charset=utf-8"));
    assert_eq!(raw(server, "POST", AUTH, &[("user-agent", ""), json_kind], Some(&right)).await.status, 200);
    let body = new_user("alice", "alice@example.com").to_string();
    let answer =
        raw(server, "POST", "/api/v1/user", &[("cookie", &hands.cookie), json_kind], Some(&body)).await;
    assert_eq!((answer.status, answer.json()), (400, json!({"msg": "Missing UserAgent header"})));
}

#[tokio::test]
async fn wrong_methods_are_405_and_unknown_paths_are_a_web_page() {
    let hands = Hands::new().await;
    for (method, path) in [
        ("GET", "auth"),
        ("POST", "auth/"),
        ("POST", "nonexistent"),
        ("GET", "user/available"),
        ("DELETE", "user/available"),
        ("GET", "user/change_password"),
        ("PATCH", "user/admin"),
    ] {
        let answer = hands.send(method, path, None).await;
        assert_eq!((answer.status, answer.body.as_str()), (405, ""), "{method} {path}");
    }
    for path in ["nonexistent", "user/", "health/", "oauth/", "user/admin/nothing"] {
        let answer = hands.send("GET", path, None).await;
        assert_eq!((answer.status, answer.kind.as_str()), (200, "text/html"), "{path}");
    }
    let health = hands.send("GET", "health", None).await;
    assert_eq!((health.status, health.body.as_str()), (200, "alive"));
}

#[tokio::test]
async fn five_failures_lock_a_username_until_five_minutes_after_the_last_attempt() {
    let hands = Hands::new().await;
    for _ in 0..5 {
        assert_eq!(hands.login("admin", "wrong").await, 401);
    }
    assert_eq!(hands.login("admin", ADMIN_PASSWORD).await, 429);
    assert_eq!(hands.login("admin@example.com", ADMIN_PASSWORD).await, 200, "by mail the lock is not seen");
    hands.server.time().advance(Duration::from_secs(200));
    assert_eq!(hands.login("admin", ADMIN_PASSWORD).await, 429);
    hands.server.time().advance(Duration::from_secs(200));
    assert_eq!(hands.login("admin", ADMIN_PASSWORD).await, 429, "each attempt starts the time anew");
    hands.server.time().advance(Duration::from_secs(301));
    assert_eq!(hands.login("admin", ADMIN_PASSWORD).await, 200);
    assert_eq!(hands.login("ADMIN", ADMIN_PASSWORD).await, 401);
}

#[tokio::test]
async fn a_code_counts_in_its_own_step_only_and_more_than_once_in_it() {
    let hands = Hands::new().await;
    let secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
    hands.server.add_person(NewPerson::named("robot").totp(secret));
    hands.server.time().advance_to_end_of_totp_step(Duration::from_secs(15));
    let now = hands.server.time().now().timestamp();
    let verify = async |time: i64| {
        let cookie = hands.server.session_for("robot", false);
        let body = json!({"code": super::support::defguard::totp::code(secret, time)}).to_string();
        let headers = [("cookie", cookie.as_str()), ("content-type", "application/json")];
        raw(&hands.server, "POST", "/api/v1/auth/totp/verify", &headers, Some(&body)).await.status
    };
    assert_eq!(verify(now).await, 200);
    assert_eq!(verify(now).await, 200);
    assert_eq!(verify(now - 30).await, 401);
    assert_eq!(verify(now + 30).await, 401);
}

#[tokio::test]
async fn groups_are_known_by_number_and_do_not_move_rows() {
    let hands = Hands::new().await;
    hands.server.add_person(NewPerson::named("bob"));
    hands.server.add_person(NewPerson::named("carol"));
    let order: Vec<i64> = hands.server.state().people.rows().map(|row| row.id).collect();
    let body = json!({"name": "staff", "members": ["bob"], "is_admin": false});
    let made = hands.send("POST", "group", Some(&body)).await;
    assert_eq!((made.status, made.json()), (201, body.clone()));
    assert_eq!(hands.send("POST", "group", Some(&body)).await.status, 500);
    let odd = json!({"name": "odd", "members": ["nobody"], "is_admin": false});
    assert_eq!(hands.send("POST", "group", Some(&odd)).await.status, 404);
    assert_eq!(hands.send("GET", "group", None).await.json()["data"], json!(["admin", "staff", "odd"]));
    assert_eq!(hands.send("GET", "group/staff", None).await.status, 400);
    for _ in 0..2 {
        assert_eq!(hands.send("POST", "group/2", Some(&json!({"username": "carol"}))).await.body, "null");
    }
    assert_eq!(hands.send("GET", "group/2", None).await.json()["members"], json!(["bob", "carol"]));
    assert_eq!(hands.send("DELETE", "group/2/user/bob", None).await.body, "{}");
    assert_eq!(hands.info("carol").await["groups"], json!(["staff"]));
    assert_eq!(hands.send("DELETE", "group/1", None).await.status, 400);
    assert_eq!(hands.send("DELETE", "group/2", None).await.body, "null");
    assert_eq!(hands.info("carol").await["groups"], json!([]));
    let after: Vec<i64> = hands.server.state().people.rows().map(|row| row.id).collect();
    assert_eq!(order, after);
}

#[tokio::test]
async fn an_api_token_is_made_with_a_licence_and_ignored_without() {
    let hands = Hands::new().await;
    hands.server.set_licence(true);
    let made = hands.send("POST", "user/admin/api_token", Some(&json!({"name": "sync"}))).await;
    assert_eq!(made.status, 201);
    let bearer = format!("Bearer {}", made.json()["token"].as_str().unwrap());
    let get = async |headers: &[(&str, &str)]| {
        raw(&hands.server, "GET", "/api/v1/user", headers, None).await.status
    };
    let cookie = hands.cookie.as_str();
    assert_eq!(get(&[("authorization", &bearer)]).await, 200);
    assert_eq!(
        get(&[("authorization", "Basic eA=="), ("cookie", cookie)]).await,
        401,
        "the cookie is not looked at"
    );
    hands.server.set_licence(false);
    assert_eq!(get(&[("authorization", &bearer)]).await, 401);
    assert_eq!(get(&[("authorization", &bearer), ("cookie", cookie)]).await, 200);
}

#[tokio::test]
async fn an_older_server_lists_everybody_in_one_plain_array() {
    let hands = Hands::new().await;
    hands.server.load_recorded();
    let cookie = hands.server.session_for("admin", true);
    hands.server.state().version = "1.6.6".to_owned();
    let list = raw(&hands.server, "GET", "/api/v1/user?page=2", &[("cookie", &cookie)], None).await;
    assert_eq!(list.headers["defguard-component-version"], "1.6.6");
    let list = list.json();
    assert_eq!(list.as_array().unwrap().len(), 335);
    assert!(list[0].get("name").is_none() && list[0].get("devices").is_none());
    assert_eq!(hands.send("GET", "session-info", None).await.kind, "text/html");
}

#[tokio::test]
async fn rows_move_as_the_heap_has_room() {
    let server = StandIn::start().await;
    for username in ["b", "c", "d", "e"] {
        server.add_person(NewPerson::named(username));
    }
    let order = || {
        let state = server.state();
        state.people.rows().map(|row| row.username.clone()).collect::<Vec<String>>().join(" ")
    };
    assert_eq!(order(), "admin b c d e");
    server.update(server.id_of("b"), |row| row.phone = None);
    assert_eq!(order(), "admin c d e b", "a new version goes to the end");
    server.add_person(NewPerson::named("f"));
    assert_eq!(order(), "admin c d e b f", "dead versions leave no room before the vacuum");
    server.state().people.vacuum();
    server.add_person(NewPerson::named("g"));
    assert_eq!(order(), "admin g c d e b f", "then the first free place is taken");
    server.delete(server.id_of("c"));
    server.state().people.vacuum();
    server.rename(server.id_of("f"), "F");
    assert_eq!(order(), "admin g d e F b", "the second write takes the second free place");
}

fn hook(url: &str) -> Value {
    json!({
        "url": url, "description": "", "token": "secret", "enabled": true, "on_user_created": true,
        "on_user_deleted": true, "on_user_modified": true, "on_hwkey_provision": false,
    })
}

#[tokio::test]
async fn a_webhook_is_added_without_an_id_once_and_listed_with_its_token() {
    let hands = Hands::new().await;
    let made = hands.send("POST", "webhook", Some(&hook("no address"))).await;
    assert_eq!((made.status, made.body.as_str()), (201, "{}"));
    let again = hands.send("POST", "webhook", Some(&hook("no address"))).await;
    assert_eq!((again.status, again.body.as_str()), (400, "{}"));
    let mut short = hook("http://127.0.0.1:1/");
    short.as_object_mut().unwrap().remove("on_hwkey_provision");
    assert_eq!(hands.send("POST", "webhook", Some(&short)).await.status, 422);
    let listed = hands.send("GET", "webhook", None).await.json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["token"]), (1, &json!("secret")));
    let path = format!("webhook/{}", listed[0]["id"]);
    assert_eq!(hands.send("POST", &path, Some(&json!({"enabled": false}))).await.body, "{}");
    assert_eq!(hands.send("PUT", &path, Some(&hook("http://127.0.0.1:1/"))).await.body, "{}");
    assert_eq!(hands.send("GET", "webhook", None).await.json()[0]["url"], "http://127.0.0.1:1/");
    assert_eq!(hands.send("DELETE", &path, None).await.status, 200);
    for (method, body) in
        [("DELETE", None), ("PUT", Some(hook("x"))), ("POST", Some(json!({"enabled": true})))]
    {
        let gone = hands.send(method, &path, body.as_ref()).await;
        assert_eq!((gone.status, gone.body.as_str()), (404, "{}"), "{method}");
    }
}

/// A receiver that answers as it is told, and what it was sent: method, event, authorization, body.
async fn receiver(
    answer: impl Fn() -> axum::response::Response + Clone + Send + Sync + 'static,
) -> (String, tokio::sync::mpsc::UnboundedReceiver<(String, String, String, Value)>) {
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(
        async move |method: axum::http::Method, headers: axum::http::HeaderMap, body: axum::body::Bytes| {
            let text = |name: &str| {
                headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
            };
            let body = serde_json::from_slice(&body).unwrap_or_default();
            sender.send((method.to_string(), text("x-defguard-event"), text("authorization"), body)).unwrap();
            answer()
        },
    );
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, events)
}

#[tokio::test]
async fn events_are_sent_for_what_the_api_does_to_people_and_for_nothing_else() {
    use axum::response::IntoResponse as _;
    let hands = Hands::new().await;
    let (url, mut events) = receiver(|| "".into_response()).await;
    hands.send("POST", "webhook", Some(&hook(&url))).await;
    let bob = NewPerson::named("bob");
    let id = hands.server.create_by_api(&bob).await;
    // Without an event: what is no change of a person, what fails, and what does not come through this API.
    hands.send("POST", "group", Some(&json!({"name": "staff", "members": ["bob"], "is_admin": false}))).await;
    hands.send("POST", "group/2", Some(&json!({"username": "bob"}))).await;
    hands.send("DELETE", "group/2/user/bob", None).await;
    assert_eq!(hands.send("DELETE", "user/nobody", None).await.status, 404);
    assert_eq!(hands.send("POST", "user", Some(&json!({}))).await.status, 422);
    hands.server.update(id, |row| row.first_name = "by SQL".to_owned());
    hands.server.change_by_api(id, json!({"username": "robert", "is_active": false})).await;
    hands.server.change_by_api(id, json!({})).await;
    hands.server.delete_by_api("robert").await;
    hands.server.delivered(4).await;
    let mut seen = Vec::new();
    while let Ok((method, event, authorization, body)) = events.try_recv() {
        assert_eq!((method.as_str(), authorization.as_str()), ("POST", "Bearer secret"));
        seen.push((event, body["id"].as_i64(), body["username"].as_str().unwrap().to_owned()));
    }
    let event = |name: &str, id: Option<i64>, who: &str| (name.to_owned(), id, who.to_owned());
    assert_eq!(
        seen,
        [
            event("user_created", Some(id), "bob"),
            event("user_modified", Some(id), "robert"),
            event("user_modified", Some(id), "robert"),
            event("user_deleted", None, "robert"),
        ]
    );
}

#[tokio::test]
async fn an_event_is_tried_once_and_redirects_are_followed_with_the_token() {
    use axum::{http::StatusCode, response::IntoResponse as _};
    let hands = Hands::new().await;
    let (end, mut arrived) = receiver(|| "".into_response()).await;
    for (status, method) in [(302, "GET"), (307, "POST")] {
        let to = end.clone();
        let (url, _events) = receiver(move || {
            (StatusCode::from_u16(status).unwrap(), [("location", to.clone())]).into_response()
        })
        .await;
        hands.server.state().webhooks.clear();
        hands.send("POST", "webhook", Some(&hook(&url))).await;
        hands.server.create_by_api(&NewPerson::named(&format!("p{status}"))).await;
        assert_eq!(arrived.recv().await.unwrap().0, method);
    }
    let (url, mut failing) = receiver(|| StatusCode::INTERNAL_SERVER_ERROR.into_response()).await;
    hands.server.state().webhooks.clear();
    hands.send("POST", "webhook", Some(&hook(&url))).await;
    hands.server.create_by_api(&NewPerson::named("first")).await;
    hands.server.create_by_api(&NewPerson::named("second")).await;
    hands.server.delivered(4).await;
    let names = [failing.recv().await.unwrap().3, failing.recv().await.unwrap().3];
    assert_eq!(names.map(|body| body["username"].clone()), [json!("first"), json!("second")]);
    assert!(failing.try_recv().is_err());
}

#[tokio::test]
async fn a_deleted_person_is_still_there_until_the_deletion_is_committed() {
    use axum::response::IntoResponse as _;
    let hands = Hands::new().await;
    let (url, mut events) = receiver(|| "".into_response()).await;
    hands.send("POST", "webhook", Some(&hook(&url))).await;
    hands.server.add_person(NewPerson::named("bob"));
    let commit = hands.server.hold_commits().await;
    let told = async {
        assert_eq!(events.recv().await.unwrap().1, "user_deleted");
        assert_eq!(hands.info("bob").await["username"], "bob");
        drop(commit);
    };
    tokio::join!(hands.server.delete_by_api("bob"), told);
    assert_eq!(hands.send("GET", "user/bob", None).await.status, 404);
}
