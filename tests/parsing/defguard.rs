//! Defguard's JSON.

use std::{
    collections::BTreeSet,
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use defguard_synapse_sync::{
    assemble::SystemClock,
    defguard::{Auth, Defguard, Options},
    domain::{DefguardId, Failure, FailureClass, Listing, Lookup, Username},
    http::HttpOptions,
    ports::Directory as _,
};
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::Value;

use crate::{
    cases,
    damage::{Damage, Edit, damage},
    server::{RUNTIME, Reply, Server},
};

const PASSWORD: &str = "Admin-pass123!";
const COOKIE: &str = "xLVugH8p2A8gLfn91HO6SWSV";
/// The keys of a person that this program reads.
const READ: [&str; 11] = [
    "id",
    "username",
    "first_name",
    "last_name",
    "name",
    "email",
    "phone",
    "groups",
    "is_active",
    "enrolled",
    "is_admin",
];

/// The recorded listing, page by page.
static PAGES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let pages: Vec<Value> =
        serde_json::from_str(include_str!("../data/defguard/listing-335-people.json")).unwrap();
    pages.iter().map(Value::to_string).collect()
});

/// The body of a recording.
fn recorded(text: &str) -> String {
    let head = text.rfind("\n< ").unwrap();
    text[head..].split_once("\n\n").unwrap().1.trim().to_owned()
}

fn http() -> HttpOptions {
    HttpOptions { timeout: Duration::from_secs(20), tries: 1, ..HttpOptions::default() }
}

fn client(server: &Server, auth: Auth) -> Defguard {
    let options = Options { relist: 0, ..Options::new(server.url.clone(), auth) };
    Defguard::new(options, http(), std::sync::Arc::new(SystemClock)).unwrap()
}

fn token() -> Auth {
    Auth::Token(SecretString::from("dg-token"))
}

fn page(number: usize) -> String {
    format!("GET /api/v1/user?page={number}&per_page=100")
}

/// A server with the recorded listing and a client of it.
struct Ground {
    server: Server,
    defguard: Defguard,
    clean: Listing,
}

static GROUND: LazyLock<Mutex<Ground>> = LazyLock::new(|| {
    let server = Server::start();
    for (number, body) in (1..).zip(PAGES.iter()) {
        server.set(&page(number), Reply::json(200, body.clone()));
    }
    let defguard = client(&server, token());
    let clean = RUNTIME.block_on(defguard.list()).unwrap();
    assert!(clean.is_complete());
    assert_eq!(clean.people().len(), 335);
    Mutex::new(Ground { server, defguard, clean })
});

/// What is recorded of people must not get into an error.
fn tells_nobody(failure: &Failure) -> Result<(), TestCaseError> {
    let shown = format!("{failure} {failure:?}");
    for personal in ["@example", "ngström", "user0", "Bearer", PASSWORD, COOKIE] {
        prop_assert!(!shown.contains(personal), "{shown}");
    }
    Ok(())
}

/// Who is on which page.
static ON_PAGE: LazyLock<Vec<BTreeSet<DefguardId>>> = LazyLock::new(|| {
    let ids = |page: &String| -> BTreeSet<DefguardId> {
        let page: Value = serde_json::from_str(page).unwrap();
        let rows = page["data"].as_array().unwrap();
        rows.iter().map(|row| DefguardId(row["id"].as_i64().unwrap())).collect()
    };
    PAGES.iter().map(ids).collect()
});

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn a_damaged_page_is_refused_or_makes_the_listing_incomplete_or_changes_only_who_is_on_it(
        number in 1_usize..=4,
        damage in damage(),
    ) {
        let ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        let (body, place) = damage.to_json(&PAGES[number - 1]);
        ground.server.set(&page(number), Reply::json(200, body));
        let listed = RUNTIME.block_on(ground.defguard.list());
        ground.server.set(&page(number), Reply::json(200, PAGES[number - 1].clone()));

        let listing = match listed {
            Ok(listing) => listing,
            Err(failure) => {
                prop_assert_eq!(failure.class, FailureClass::Malformed, "{}", failure);
                return tells_nobody(&failure);
            }
        };
        prop_assert!(!matches!(damage, Damage::Cut(_)), "a page that was cut off was read");
        let clean = ground.clean.people();
        for person in clean.values().filter(|person| !ON_PAGE[number - 1].contains(&person.id)) {
            match listing.people().get(&person.id) {
                Some(listed) => prop_assert_eq!(listed, person),
                // Somebody of the damaged page now has their id.
                None => prop_assert!(!listing.is_complete()),
            }
        }
        if listing.is_complete() {
            prop_assert_eq!(listing.people().len(), clean.len());
        }
        let Some(place) = place else { return Ok(()) };
        let read = READ.iter().any(|key| place.is(&["data", "*", key]));
        let row = place.is(&["data", "*"]) && !matches!(damage, Damage::Json(_, Edit::Rename));
        if row || (read && place.keys) {
            prop_assert!(!listing.is_complete(), "a person that cannot be read went unseen");
        }
        if place.is_in(&["data", "*", "*"]) && !READ.iter().any(|key| place.is_in(&["data", "*", key])) {
            prop_assert_eq!(&listing, &ground.clean, "a key that is not read made a difference");
        }
        prop_assert!(!(place.is_in(&["pagination", "*"]) && place.keys && !place.is(&["pagination", "page_size"])));
    }

    #[test]
    fn a_damaged_answer_about_one_person_is_never_their_absence_and_never_somebody_else(
        damage in damage(),
        found in any::<bool>(),
    ) {
        static BODIES: LazyLock<[String; 2]> = LazyLock::new(|| [
            recorded(include_str!("../data/defguard/04-get-404.http")),
            recorded(include_str!("../data/defguard/04-get-ok.http")),
        ]);
        let ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, status) = if found { ("user001", 200) } else { ("doesnotexist", 404) };
        let (body, place) = damage.to_json(&BODIES[usize::from(found)]);
        let text = String::from_utf8_lossy(&body).into_owned();
        ground.server.set(&format!("GET /api/v1/user/{name}"), Reply::json(status, body));
        match RUNTIME.block_on(ground.defguard.find(&Username::new(name))) {
            Lookup::Found(person) => {
                prop_assert!(found);
                prop_assert_eq!(person.username.as_str(), name);
                if let Some(place) = place {
                    let read = READ.iter().any(|key| place.is(&["user", key]));
                    prop_assert!(!(place.keys && (read || place.is(&["user"]))), "{}", text);
                }
            }
            Lookup::Absent => {
                prop_assert!(!found, "{}", text);
                prop_assert!(text.contains("user doesnotexist not found"), "{}", text);
                prop_assert!(!place.is_some_and(|place| place.keys && place.is(&["msg"])), "{}", text);
            }
            Lookup::Unknown(failure) => tells_nobody(&failure)?,
        }
    }

    #[test]
    fn a_damaged_list_of_groups_is_refused_or_lacks_nobody_of_the_other_groups(damage in damage()) {
        let ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = recorded(include_str!("../data/defguard/04-group-info.http"));
        let groups: Vec<Value> = serde_json::from_str(&whole).unwrap();
        let (body, place) = damage.to_json(&whole);
        ground.server.set("GET /api/v1/group-info", Reply::json(200, body));
        let names = match RUNTIME.block_on(ground.defguard.group_members()) {
            Ok(names) => names,
            Err(failure) => return tells_nobody(&failure),
        };
        let Some(place) = place else { return Ok(()) };
        prop_assert!(!(place.keys && place.is(&["*", "members"])));
        for (at, group) in groups.iter().enumerate() {
            if place.path.first() == Some(&at.to_string()) || place.path.is_empty() {
                continue;
            }
            for member in group["members"].as_array().unwrap() {
                prop_assert!(names.contains(&Username::new(member.as_str().unwrap())), "{}", member);
            }
        }
    }

    #[test]
    fn a_damaged_answer_about_ourselves_is_an_error_or_a_name(damage in damage()) {
        let ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        let whole: Value =
            serde_json::from_str(&recorded(include_str!("../data/defguard/04-get-ok.http"))).unwrap();
        let (body, place) = damage.to_json(&whole["user"].to_string());
        ground.server.set("GET /api/v1/me", Reply::json(200, body));
        match RUNTIME.block_on(ground.defguard.own_username()) {
            Ok(name) => {
                prop_assert!(name.is_some_and(|name| !name.as_str().is_empty()));
                prop_assert!(!place.is_some_and(|place| place.keys && READ.iter().any(|key| place.is(&[key]))));
            }
            Err(failure) => tells_nobody(&failure)?,
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn a_damaged_login_is_an_error_or_a_login_and_shows_no_secret(
        damage in damage(),
        of_the_cookie in any::<bool>(),
        second_factor in any::<bool>(),
    ) {
        let server = Server::start();
        let (status, body) = if second_factor {
            (201, recorded(include_str!("../data/defguard/01-mfa-login.http")))
        } else {
            (200, recorded(include_str!("../data/defguard/01-login-ok.http")))
        };
        let cookie = format!("defguard_session={COOKIE}; HttpOnly; SameSite=Lax; Path=/; Domain=localhost");
        let (body, cookie) = if of_the_cookie {
            (body.into_bytes(), damage.to_bytes(cookie.as_bytes()))
        } else {
            (damage.to_json(&body).0, cookie.into_bytes())
        };
        let sendable = cookie.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
        let cookie = sendable.then_some(cookie);
        server.set("POST /api/v1/auth", Reply { cookie, ..Reply::json(status, body) });
        for (number, body) in (1..).zip(PAGES.iter()) {
            server.set(&page(number), Reply::json(200, body.clone()));
        }
        let auth = Auth::Session {
            username: "admin".to_owned(),
            password: SecretString::from(PASSWORD),
            totp_secret: None,
        };
        match RUNTIME.block_on(client(&server, auth).list()) {
            Ok(listing) => prop_assert!(listing.is_complete()),
            Err(failure) => tells_nobody(&failure)?,
        }
    }
}
