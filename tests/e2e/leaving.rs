//! People who leave and come back: locked, logged out, deactivated, given back; and those who are never off-boarded.

use defguard_synapse_sync::{domain::Change, engine::RunReport, reconcile::Pass};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    ground::{Ground, State, of},
    support::{
        defguard::Fault,
        proxy::on,
        synapse::{Synapse, user_path},
    },
};

/// A password and a session of somebody, as a client has it.
struct Client<'a> {
    synapse: &'a Synapse,
    token: String,
    room: String,
}

impl<'a> Client<'a> {
    async fn of(ground: &Ground, synapse: &'a Synapse, who: &str) -> Self {
        ground.put(who, json!({"password": "known to the test"})).await;
        let login = synapse.login_password(&ground.n(who), "known to the test").await;
        let token = login.body["access_token"].as_str().unwrap().to_owned();
        let mut client = Self { synapse, token, room: String::new() };
        let room = client.call(Method::POST, "/_matrix/client/v3/createRoom", &json!({})).await;
        client.room = room.1["room_id"].as_str().unwrap().to_owned();
        client
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let reply = self.synapse.call(method, path, Some(&self.token), Some(body)).await;
        (reply.status, reply.body)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let reply = self.synapse.call(Method::GET, path, Some(&self.token), None).await;
        (reply.status, reply.body)
    }

    async fn devices(&self) -> usize {
        self.get("/_matrix/client/v3/devices").await.1["devices"].as_array().unwrap().len()
    }

    async fn rooms(&self) -> Value {
        self.get("/_matrix/client/v3/joined_rooms").await.1["joined_rooms"].clone()
    }

    async fn refused_with(&self, status: u16, errcode: &str) {
        let (got, body) = self.get("/_matrix/client/v3/account/whoami").await;
        assert_eq!((got, body["errcode"].as_str()), (status, Some(errcode)), "{body}");
    }
}

fn ground_with_quick_proof(ground: Ground) -> Ground {
    ground.with("off_boarding.absence_min_age", "\"1s\"")
}

/// Runs until an absence of at least a second is proved; gives the last report.
async fn until_proved(ground: &Ground) -> RunReport {
    ground.run(Pass::Frequent).await;
    // What has to pass is time itself: `absence_min_age`.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    ground.run(Pass::Frequent).await
}

fn changes(report: &RunReport, id: i64) -> Vec<&'static str> {
    of(report, id).done.iter().map(Change::kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_disabled_is_locked_in_one_sync_and_gets_everything_back_when_enabled() {
    let ground = Ground::new("disabled").await;
    let alice = ground.add("alice");
    ground.sync().await;
    let client = Client::of(&ground, ground.synapse, "alice").await;
    let rooms = client.rooms().await;
    ground.defguard.set_active(alice, false);
    ground.proxy.clear();
    let report = ground.sync().await;
    assert_eq!(changes(&report, alice), ["locked"]);
    assert_eq!(ground.bodies("alice"), [json!({"locked": true})], "the lock is sent alone");
    client.refused_with(401, "M_USER_LOCKED").await;
    ground.nothing_to_do().await;
    // While disabled, a changed name waits.
    ground.set_first_name(alice, "Later");
    ground.nothing_to_do().await;
    ground.defguard.set_active(alice, true);
    let report = ground.sync().await;
    assert_eq!(changes(&report, alice), ["unlocked", "display_name"]);
    assert_eq!(client.get("/_matrix/client/v3/account/whoami").await.0, 200, "the same session works again");
    assert_eq!((client.rooms().await, client.devices().await), (rooms, 1));
    assert_eq!(ground.account("alice").await.name.as_deref(), Some("Later Person"));
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_gone_is_locked_after_proof_and_logged_out_with_all_notifications() {
    let ground = ground_with_quick_proof(Ground::new("gone2").await);
    let (alice, bob) = (ground.add("alice"), ground.add("bob"));
    ground.sync().await;
    let client = Client::of(&ground, ground.synapse, "alice").await;
    let pusher = json!({
        "kind": "http", "app_id": "test", "pushkey": ground.n("key"), "app_display_name": "t",
        "device_display_name": "t", "lang": "en", "data": {"url": "http://127.0.0.1:9/_matrix/push/v1/notify"},
    });
    assert_eq!(client.call(Method::POST, "/_matrix/client/v3/pushers/set", &pusher).await.0, 200);
    let emails = ground.account("alice").await.emails;
    ground.defguard.delete(alice);
    let report = ground.sync().await;
    assert!(changes(&report, alice).is_empty(), "one list proves nothing");
    assert_eq!(client.get("/_matrix/client/v3/account/whoami").await.0, 200);
    let report = until_proved(&ground).await;
    assert_eq!(changes(&report, alice), ["locked", "sessions_ended"]);
    assert!(ground.is_locked("alice").await && !ground.is_locked("bob").await);
    assert_eq!(ground.admin_list("alice", "v2", "devices", "devices").await, 0);
    assert_eq!(ground.admin_list("alice", "v1", "pushers", "pushers").await, 0);
    assert_eq!(ground.account("alice").await.emails, emails);
    assert_eq!(of(&report, bob).state, State::InStep);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_by_email_end_with_the_sessions_and_the_address_stays() {
    // An account made with an address gets notifications there only where Synapse sends mail.
    let synapse = mailing().await;
    let ground = Ground::on(synapse, "mailed").await.with("off_boarding.sessions_on_lock", "\"end\"");
    let alice = ground.add("alice");
    ground.sync().await;
    assert_eq!(ground.admin_list("alice", "v1", "pushers", "pushers").await, 1);
    let emails = ground.account("alice").await.emails;
    assert_eq!(emails.len(), 1);
    ground.defguard.set_active(alice, false);
    let report = ground.sync().await;
    assert_eq!(changes(&report, alice), ["locked", "sessions_ended"]);
    assert_eq!(ground.admin_list("alice", "v1", "pushers", "pushers").await, 0);
    assert_eq!(ground.account("alice").await.emails, emails);
    ground.nothing_to_do().await;
}

/// A Synapse of its own that would send mail, to a port at which nobody listens.
async fn mailing() -> &'static Synapse {
    static MAILING: tokio::sync::OnceCell<Synapse> = tokio::sync::OnceCell::const_new();
    MAILING
        .get_or_init(|| async {
            let mut options = crate::support::synapse::Options {
                server_name: "mail.test".to_owned(),
                ..crate::support::synapse::Options::default()
            };
            let email = json!({
                "smtp_host": "127.0.0.1", "smtp_port": 9, "notif_from": "Matrix <noreply@mail.test>",
                "enable_notifs": true, "notif_for_new_users": true, "client_base_url": "http://127.0.0.1:9/",
            });
            options.extra.insert("email".to_owned(), email);
            Synapse::start(options).await.unwrap()
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deactivated_leaver_who_comes_back_has_account_and_address_again() {
    let ground = Ground::new("deactivated").await.with("off_boarding.disabled", "\"deactivate\"");
    let alice = ground.add("alice");
    ground.sync().await;
    let client = Client::of(&ground, ground.synapse, "alice").await;
    let before = ground.account("alice").await;
    ground.defguard.set_active(alice, false);
    let report = ground.sync().await;
    assert_eq!(changes(&report, alice), ["locked"], "the lock comes first");
    let report = ground.sync().await;
    assert_eq!(changes(&report, alice), ["deactivated"]);
    client.refused_with(401, "M_UNKNOWN_TOKEN").await;
    let told = ground.journal().into_iter().find_map(|entry| match entry.change {
        Change::Deactivated { before, .. } => Some(before),
        _ => None,
    });
    let told = told.unwrap();
    assert_eq!(told.rooms.iter().collect::<Vec<_>>(), [&client.room]);
    assert_eq!((told.display_name, told.threepids.len()), (before.name.clone(), 1));
    // The login stays on it: whoever tries is refused, instead of getting a second account.
    assert_eq!(ground.opens("alice").await.as_deref(), Some("alice"));
    assert!(ground.account("alice").await.emails.is_empty());
    ground.nothing_to_do().await;
    ground.defguard.set_active(alice, true);
    // As long as Synapse still leaves its rooms, it waits.
    let mut report = ground.run(Pass::Frequent).await;
    while of(&report, alice).put_off.is_some() {
        report = ground.run(Pass::Frequent).await;
    }
    assert_eq!(changes(&report, alice), ["reactivated", "emails", "unlocked"]);
    assert_eq!(ground.account("alice").await, before);
    assert!(!ground.is_locked("alice").await);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_enabled_again_right_before_the_lock_is_not_locked() {
    let ground = Ground::new("flipped").await;
    let alice = ground.add("alice");
    ground.sync().await;
    ground.defguard.set_active(alice, false);
    // The list shows a disabled person; when it has been read, she is enabled again.
    ground.defguard.faults().after_page(1, move |state| {
        state.update(alice, |row| row.is_active = true).unwrap();
    });
    ground.proxy.clear();
    let report = ground.run(Pass::Frequent).await;
    assert!(of(&report, alice).put_off.is_some(), "{report:#?}");
    assert_eq!(ground.writes(), [""; 0]);
    assert!(!ground.is_locked("alice").await);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_there_again_right_before_the_lock_of_the_gone_is_not_locked() {
    let ground = ground_with_quick_proof(Ground::new("undeleted").await);
    let alice = ground.add("alice");
    ground.sync().await;
    // Two lists do not show her, by whatever mistake; the look-up by name and the last list do.
    let hide = move |name: String| {
        Fault::edit(move |body| {
            let all = body["data"].as_array().unwrap().clone();
            let kept: Vec<Value> = all.iter().filter(|row| row["username"] != json!(name)).cloned().collect();
            let lacking = all.len() - kept.len();
            body["data"] = json!(kept);
            let total = body["pagination"]["total_items"].as_u64().unwrap();
            body["pagination"]["total_items"] = json!(total - lacking as u64);
        })
        .on("/api/v1/user")
    };
    ground.defguard.faults().add(hide(ground.n("alice")));
    ground.proxy.clear();
    let report = until_proved(&ground).await;
    assert!(changes(&report, alice).is_empty(), "found by name: {report:#?}");
    // Renamed as well, and in no group: nothing but the last list can tell.
    ground.rename(alice, "alicia");
    ground.defguard.faults().clear();
    ground.defguard.faults().add(hide(ground.n("alicia")).times(2));
    let report = until_proved(&ground).await;
    assert!(of(&report, alice).put_off.is_some(), "{report:#?}");
    assert_eq!(ground.writes(), [""; 0]);
    ground.sync().await;
    assert_eq!(ground.opens("alicia").await.as_deref(), Some("alice"));
    assert!(!ground.is_locked("alice").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_admins_stay_and_a_leaver_who_is_an_admin_is_an_alarm_until_solved() {
    let ground = Ground::new("adminlock").await;
    let (alice, boss) = (ground.add("alice"), ground.add("boss"));
    ground.sync().await;
    ground.put("alice", json!({"locked": true})).await;
    ground.put("boss", json!({"admin": true})).await;
    for active in [false, true, false] {
        ground.defguard.set_active(alice, active);
        ground.defguard.set_active(boss, active);
        ground.proxy.clear();
        let report = ground.sync().await;
        assert_eq!(ground.writes(), [""; 0]);
        assert!(ground.is_locked("alice").await && !ground.is_locked("boss").await);
        let notes = |id: i64| of(&report, id).notes.iter().map(ToString::to_string).collect::<String>();
        assert!(notes(alice).contains("not by this service"), "{}", notes(alice));
        assert_eq!(notes(boss).contains("CRITICAL"), !active, "{}", notes(boss));
    }
    ground.put("boss", json!({"admin": false})).await;
    ground.sync().await;
    assert!(ground.is_locked("boss").await);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_filter_locks_after_proof_and_gives_back_when_the_group_is_back() {
    let ground =
        ground_with_quick_proof(Ground::new("groups").await).with("scope.include_groups", "[\"matrix\"]");
    let alice = ground.add("alice");
    ground.defguard.set_groups(alice, &["matrix"]);
    ground.sync().await;
    ground.defguard.set_groups(alice, &[]);
    ground.sync().await;
    assert!(!ground.is_locked("alice").await);
    let report = until_proved(&ground).await;
    assert_eq!(changes(&report, alice), ["locked", "sessions_ended"]);
    ground.defguard.set_groups(alice, &["matrix"]);
    let report = ground.sync().await;
    assert_eq!(changes(&report, alice), ["unlocked"]);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_answer_is_lost_is_ours_and_is_taken_off_again() {
    let ground = Ground::new("locklost").await;
    let alice = ground.add("alice");
    ground.sync().await;
    ground.defguard.set_active(alice, false);
    let path = user_path(&ground.mxid("alice"));
    ground.proxy.cut_after(on(Method::PUT, &path).times(10));
    ground.run(Pass::Frequent).await;
    assert!(ground.is_locked("alice").await);
    ground.proxy.remove_all();
    ground.sync_person(alice).await;
    ground.defguard.set_active(alice, true);
    ground.sync().await;
    assert!(!ground.is_locked("alice").await);
    ground.nothing_to_do().await;
}
