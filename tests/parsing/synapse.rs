//! Synapse's JSON. The answers are those of Synapse 1.163.2.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use defguard_synapse_sync::{
    domain::{
        Account, AccountPatch, AccountSummary, DefguardId, Email, ExternalId, Failure, FailureClass,
        Instance, Lookup, Mxid, ServerName,
    },
    http::HttpOptions,
    ports::Homeserver as _,
    synapse::{Options, Synapse},
};
use proptest::prelude::*;
use secrecy::SecretString;

use crate::{
    cases,
    damage::{Damage, damage},
    server::{RUNTIME, Reply, Server},
};

const USERS: &str = include_str!("../data/synapse/users.json");
const USER: &str = include_str!("../data/synapse/user.json");
const FOUND: &str = include_str!("../data/synapse/found.json");
const NOT_FOUND: &str = include_str!("../data/synapse/not-found.json");
const CONFLICT: &str = include_str!("../data/synapse/conflict.json");
/// Requests without which nothing goes, and their answers.
const WHO: [(&str, u16, &str); 4] = [
    ("GET /_matrix/client/v3/account/whoami", 200, include_str!("../data/synapse/whoami.json")),
    ("GET /_synapse/admin/v1/server_version", 200, include_str!("../data/synapse/version.json")),
    (
        "GET /_synapse/admin/v1/users/@admin:sync.test/admin",
        200,
        include_str!("../data/synapse/is-admin.json"),
    ),
    ("GET /_matrix/client/v1/auth_metadata", 404, include_str!("../data/synapse/unrecognized.json")),
];
const LIST: &str = "GET /_synapse/admin/v2/users?deactivated=true&locked=true&guests=true&limit=1000000";
/// The keys of an account that this program reads, of the list and of one.
const READ: [&str; 7] = ["name", "displayname", "deactivated", "locked", "admin", "is_guest", "user_type"];
const READ_OF_ONE: [&str; 4] = ["threepids", "external_ids", "appservice_id", "creation_ts"];
const TOKEN: &str = "syt_secret_token";

struct Ground {
    server: Server,
    synapse: Synapse,
    accounts: BTreeMap<Mxid, AccountSummary>,
}

fn synapse(server: &Server) -> Synapse {
    let http = HttpOptions { timeout: Duration::from_secs(20), tries: 1, ..HttpOptions::default() };
    Synapse::new(Options { url: server.url.clone(), token: SecretString::from(TOKEN), http }).unwrap()
}

static GROUND: LazyLock<Mutex<Ground>> = LazyLock::new(|| {
    let server = Server::start();
    for (request, status, body) in WHO {
        server.set(request, Reply::json(status, body));
    }
    server.set(LIST, Reply::json(200, USERS));
    let synapse = synapse(&server);
    let accounts = RUNTIME.block_on(synapse.list()).unwrap();
    assert_eq!(accounts.len(), 5);
    Mutex::new(Ground { server, synapse, accounts })
});

fn alice() -> Mxid {
    Mxid::parse("@alice:sync.test", &ServerName::try_from("sync.test").unwrap()).unwrap()
}

fn marker() -> ExternalId {
    ExternalId::marker(&Instance::new("hq"), DefguardId(1))
}

fn tells_nobody(failure: &Failure) -> Result<(), TestCaseError> {
    let shown = format!("{failure} {failure:?}");
    for personal in ["@example.com", "alice Person", TOKEN] {
        prop_assert!(!shown.contains(personal), "{shown}");
    }
    Ok(())
}

/// Which key of an account is damaged as a key.
fn lacks_a_key(place: &crate::damage::Place) -> bool {
    place.keys && READ.iter().chain(&READ_OF_ONE).any(|key| place.is(&[key]))
}

/// An account that was read from a damaged answer is the one that was asked for, with all that is kept of it.
fn is_alice(
    account: &Account,
    place: Option<&crate::damage::Place>,
    body: &str,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(&account.summary.mxid, &alice());
    let Some(place) = place else { return Ok(()) };
    prop_assert!(!lacks_a_key(place), "{}", body);
    if !place.is_in(&["external_ids"]) && !place.path.is_empty() {
        prop_assert!(account.external_ids.contains(&marker()), "{}", body);
    }
    if !place.is_in(&["threepids"]) && !place.path.is_empty() {
        prop_assert_eq!(account.threepids.len(), 1, "{}", body);
    }
    let of_an_id = place.keys && (place.is_in(&["external_ids", "*", "*"]));
    let of_a_pid = place.keys && ["medium", "address"].iter().any(|key| place.is(&["threepids", "*", key]));
    prop_assert!(!of_an_id && !of_a_pid, "{}", body);
    Ok(())
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_damaged_list_of_accounts_is_refused_or_differs_only_where_it_is_damaged(damage in damage()) {
        let ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        let (body, place) = damage.to_json(USERS);
        let text = String::from_utf8_lossy(&body).into_owned();
        ground.server.set(LIST, Reply::json(200, body));
        let accounts = match RUNTIME.block_on(ground.synapse.list()) {
            Ok(accounts) => accounts,
            Err(failure) => {
                prop_assert_eq!(failure.class, FailureClass::Malformed, "{}", failure);
                return tells_nobody(&failure);
            }
        };
        let whole_text_was_cut = matches!(damage, Damage::Cut(_)) && text.trim_end().len() < USERS.trim_end().len();
        prop_assert!(!whole_text_was_cut, "{}", text);
        let same = accounts.iter().filter(|(mxid, account)| ground.accounts.get(*mxid) == Some(account)).count();
        match place {
            // One value is in one row.
            Some(place) => {
                prop_assert!(same >= 4, "{}", text);
                prop_assert!(!place.keys || place.is_in(&["users", "*"]), "{}", text);
                prop_assert!(!(place.keys && READ.iter().any(|key| place.is(&["users", "*", key]))), "{}", text);
            }
            None => prop_assert!(same >= 2, "{}", text),
        }
    }

    #[test]
    fn a_damaged_account_is_refused_or_read_as_the_one_that_was_asked_for(damage in damage(), status in 0..3) {
        let ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        let target = "/_synapse/admin/v2/users/@alice:sync.test";
        let (status, whole) = [(200, USER), (404, NOT_FOUND), (200, NOT_FOUND)][status as usize];
        let (body, place) = damage.to_json(whole);
        let text = String::from_utf8_lossy(&body).into_owned();
        ground.server.set(&format!("GET {target}"), Reply::json(status, body));
        match RUNTIME.block_on(ground.synapse.get(&alice())) {
            Lookup::Found(account) => {
                prop_assert_eq!(whole, USER, "{}", text);
                is_alice(&account, place.as_ref(), &text)?;
            }
            Lookup::Absent => {
                prop_assert_eq!(status, 404);
                prop_assert!(text.contains("\"M_NOT_FOUND\""), "{}", text);
                prop_assert!(!place.is_some_and(|place| place.keys && place.is(&["errcode"])), "{}", text);
            }
            Lookup::Unknown(failure) => tells_nobody(&failure)?,
        }
    }

    #[test]
    fn a_damaged_look_up_is_refused_or_names_an_account_of_this_server(
        damage in damage(),
        found in any::<bool>(),
        by_email in any::<bool>(),
    ) {
        let ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, whole) = if found { (200, FOUND) } else { (404, NOT_FOUND) };
        let (body, place) = damage.to_json(whole);
        let text = String::from_utf8_lossy(&body).into_owned();
        let asked = if by_email {
            "/_synapse/admin/v1/threepid/email/users/alice@example.com"
        } else {
            "/_synapse/admin/v1/auth_providers/defguard-synapse-sync/users/hq/1"
        };
        ground.server.set(&format!("GET {asked}"), Reply::json(status, body));
        let answer = RUNTIME.block_on(async {
            match by_email {
                true => ground.synapse.find_by_email(&Email::canonical("alice@example.com").unwrap()).await,
                false => ground.synapse.find_by_external_id(&marker()).await,
            }
        });
        match answer {
            Lookup::Found(mxid) => {
                prop_assert!(found && mxid.as_str().ends_with(":sync.test"), "{}", text);
                prop_assert!(!place.is_some_and(|place| place.keys), "{}", text);
            }
            Lookup::Absent => {
                prop_assert!(!found && text.contains("\"M_NOT_FOUND\""), "{}", text);
                prop_assert!(!place.is_some_and(|place| place.keys && place.is(&["errcode"])), "{}", text);
            }
            Lookup::Unknown(failure) => tells_nobody(&failure)?,
        }
    }

    #[test]
    fn a_damaged_answer_to_a_write_is_no_success_of_another_account(damage in damage(), status in 0..3) {
        let ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, whole) = [(200, USER), (201, USER), (409, CONFLICT)][status as usize];
        let (body, place) = damage.to_json(whole);
        let text = String::from_utf8_lossy(&body).into_owned();
        ground.server.set("PUT /_synapse/admin/v2/users/@alice:sync.test", Reply::json(status, body));
        let patch = AccountPatch {
            external_ids: Some(BTreeSet::from([marker()])),
            ..AccountPatch::default()
        };
        match RUNTIME.block_on(ground.synapse.put(&alice(), &patch)) {
            Ok(written) => {
                prop_assert!(status != 409);
                prop_assert_eq!(written.created, status == 201);
                is_alice(&written.account, place.as_ref(), &text)?;
            }
            Err(failure) => tells_nobody(&failure)?,
        }
    }
}

/// What is asked before an account is taken from its owner, and what Synapse answers.
const DEVICES: &str = r#"{"devices":[{"device_id":"ABC","display_name":"Element on a phone","last_seen_ip":"10.0.0.1","last_seen_user_agent":"x","last_seen_ts":1795633754724,"user_id":"@alice:sync.test"},{"device_id":"DEF","display_name":null,"last_seen_ip":null,"last_seen_user_agent":null,"last_seen_ts":null,"user_id":"@alice:sync.test"}],"total":2}"#;
const PUSHERS: &str = r#"{"pushers":[{"app_display_name":"Email Notifications","app_id":"m.email","data":{},"device_display_name":"alice@example.com","kind":"email","lang":"en","profile_tag":"","pushkey":"alice@example.com"}],"total":1}"#;
const ROOMS: &str = r#"{"joined_rooms":["!a:sync.test","!b:sync.test"],"total":2}"#;
const RECORD: &str = r#"{"store":"00000000000000000000000000000007","generation":7,"holder":"0123abcd","until":"2026-11-02T12:00:00Z"}"#;

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_damaged_answer_about_what_an_account_has_is_refused_or_lacks_nothing_else(damage in damage(), which in 0..3) {
        let ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, whole, list) = [
            ("v2/users/@alice:sync.test/devices", DEVICES, "devices"),
            ("v1/users/@alice:sync.test/pushers", PUSHERS, "pushers"),
            ("v1/users/@alice:sync.test/joined_rooms", ROOMS, "joined_rooms"),
        ][which as usize];
        let (body, place) = damage.to_json(whole);
        let text = String::from_utf8_lossy(&body).into_owned();
        ground.server.set(&format!("GET /_synapse/admin/{path}"), Reply::json(200, body));
        let (counted, of) = match which {
            0 => (RUNTIME.block_on(ground.synapse.sessions(&alice())).map(|found| found.len()), 2),
            1 => (RUNTIME.block_on(ground.synapse.email_pushers(&alice())).map(|found| found.len()), 1),
            _ => (RUNTIME.block_on(ground.synapse.rooms(&alice())).map(|found| found.len()), 2),
        };
        match counted {
            Ok(counted) => {
                let Some(place) = place else { return Ok(()) };
                prop_assert!(!place.is(&[list]) || !place.keys, "{}", text);
                prop_assert!(counted >= of - usize::from(place.is_in(&[list]) || place.path.is_empty()), "{}", text);
                prop_assert!(!(place.keys && place.is(&["devices", "*", "device_id"])), "{}", text);
            }
            Err(failure) => tells_nobody(&failure)?,
        }
    }

    #[test]
    fn a_damaged_record_of_ours_is_never_taken_for_none(damage in damage()) {
        let ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        let own = Mxid::parse("@admin:sync.test", &ServerName::try_from("sync.test").unwrap()).unwrap();
        let (body, place) = damage.to_json(RECORD);
        let text = String::from_utf8_lossy(&body).into_owned();
        let path = "GET /_matrix/client/v3/user/@admin:sync.test/account_data/defguard-synapse-sync.state.hq";
        ground.server.set(path, Reply::json(200, body));
        match RUNTIME.block_on(ground.synapse.service_record(&own, &Instance::new("hq"))) {
            Ok(None) => prop_assert_eq!(text, "{}"),
            Ok(Some(_)) => prop_assert!(!place.is_some_and(|place| place.keys), "{}", text),
            Err(failure) => tells_nobody(&failure)?,
        }
    }
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn a_server_that_describes_itself_badly_is_refused_or_described_truly(
        damage in damage(),
        which in 0_usize..4,
    ) {
        let server = Server::start();
        let mut place = None;
        for (at, (request, status, body)) in WHO.iter().enumerate() {
            let reply = if at == which {
                let (body, damaged) = damage.to_json(body);
                place = damaged;
                Reply::json(*status, body)
            } else {
                Reply::json(*status, *body)
            };
            server.set(request, reply);
        }
        match RUNTIME.block_on(synapse(&server).identify()) {
            Ok(info) => {
                // Another name in the answer is another account; what it may do is asked for anew.
                prop_assert!(info.own.as_str().ends_with(info.server_name.as_str()));
                prop_assert!(!(which == 2 && place.is_some_and(|place| place.keys && place.is(&["admin"]))));
            }
            Err(failure) => tells_nobody(&failure)?,
        }
    }
}
