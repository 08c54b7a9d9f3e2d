//! New people, and people whose name or address changes.

use defguard_synapse_sync::domain::Change;
use serde_json::json;

use crate::ground::{Account, Ground, State, accounts_of, check_journal, of, set};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_person_gets_an_account_with_all_that_is_theirs_and_then_costs_nothing() {
    let ground = Ground::new("new").await;
    let id = ground.add("alice");
    let report = ground.sync().await;
    assert_eq!(of(&report, id).state, State::Create);
    assert_eq!(of(&report, id).done, [Change::Created]);
    assert_eq!(ground.writes(), ["PUT alice displayname,external_ids,threepids"]);
    let expected = Account {
        name: Some("alice Person".to_owned()),
        emails: set([ground.email("alice")]),
        phones: set([]),
        ids: set([ground.login("alice"), ground.marker(id)]),
    };
    assert_eq!(ground.account("alice").await, expected);
    assert_eq!(ground.opens("alice").await.as_deref(), Some("alice"));
    ground.nothing_to_do().await;
    assert_eq!(ground.account("alice").await, expected);
    // A full pass looks at everybody, and writes nothing either.
    ground.proxy.clear();
    ground.full().await;
    assert_eq!(ground.writes(), [""; 0]);
    assert!(!ground.proxy.single_person_requests().is_empty());
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_in_one_request_where_the_config_says_so() {
    let ground = Ground::new("onerequest").await.with("synapse.create", "\"one-request\"");
    let id = ground.add("alice");
    ground.sync().await;
    assert_eq!(ground.writes(), ["PUT alice displayname,external_ids,threepids"]);
    let account = ground.account("alice").await;
    assert_eq!(account.name.as_deref(), Some("alice Person"));
    assert_eq!(account.ids, set([ground.login("alice"), ground.marker(id)]));
    assert_eq!(account.emails, set([ground.email("alice")]));
    assert_eq!(ground.journal().len(), 1);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_people_and_those_out_of_scope_get_no_account() {
    let ground = Ground::new("scope").await.with("scope.exclude_groups", "[\"no-*\"]");
    let disabled = ground.add("disabled");
    ground.defguard.set_active(disabled, false);
    let excluded = ground.add("excluded");
    ground.defguard.set_groups(excluded, &["no-matrix"]);
    let wanted = ground.add("wanted");
    let report = ground.sync().await;
    assert_eq!(of(&report, disabled).state, State::Disabled);
    assert_eq!(of(&report, excluded).state, State::OutOfScope);
    assert_eq!(of(&report, wanted).state, State::Create);
    let own = ground.defguard.id_of("admin");
    assert_eq!(of(&report, own).state, State::OutOfScope);
    assert_eq!(accounts_of(&ground).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_setting_of_the_scope_decides_who_gets_an_account() {
    let table: [(&str, &str, &[&str]); 6] = [
        // Nothing is changed: everybody but the account that the service itself uses.
        ("scope.require_enrolled", "false", &["both", "guest", "member", "nogroup", "unenrolled"]),
        ("scope.include_groups", "[\"matrix\"]", &["both", "member"]),
        ("scope.exclude_groups", "[\"no-*\"]", &["guest", "member", "nogroup", "unenrolled"]),
        ("scope.exclude_users", "[\"*.guest\"]", &["both", "member", "nogroup", "unenrolled"]),
        ("scope.require_enrolled", "true", &["both", "guest", "member", "nogroup"]),
        (
            "scope.include_own_account",
            "true",
            &["both", "guest", "member", "nogroup", "service", "unenrolled"],
        ),
    ];
    for (at, (key, value, expected)) in table.into_iter().enumerate() {
        let ground = Ground::new(&format!("scope{at}")).await.with(key, value);
        let ground = {
            let username = format!("{:?}", ground.n("service"));
            ground.with("defguard.username", &username)
        };
        // In Synapse there is an `admin` already.
        let own = ground.defguard.id_of("admin");
        ground.rename(own, "service");
        ground.set_email(own, &ground.email("service"));
        ground.add("nogroup");
        ground.add("guest");
        ground.defguard.add_person(ground.new_person("unenrolled").password(None));
        ground.defguard.add_person(ground.new_person("member").groups(&["matrix"]));
        ground.defguard.add_person(ground.new_person("both").groups(&["matrix", "no-chat"]));
        let report = ground.sync().await;
        let made: Vec<String> = accounts_of(&ground).await.into_keys().collect();
        let expected: Vec<String> = expected.iter().map(|who| ground.n(who)).collect();
        assert_eq!(made, expected, "{key} = {value}: {report:#?}");
        ground.nothing_to_do().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_display_name_travels_alone_and_everything_else_stays() {
    let ground = Ground::new("rename-display").await;
    let id = ground.add("alice");
    ground.sync().await;
    let before = accounts_of(&ground).await;
    ground.proxy.clear();
    ground.set_first_name(id, "Алиса 🌻");
    let report = ground.sync().await;
    assert_eq!(of(&report, id).state, State::Update);
    assert_eq!(ground.bodies("alice"), [json!({"displayname": "Алиса 🌻 Person"})]);
    assert_eq!(ground.account("alice").await.name.as_deref(), Some("Алиса 🌻 Person"));
    let journal = ground.journal();
    assert_eq!(journal.len(), 2);
    check_journal(&ground, &journal[1..], &before).await;
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_address_takes_the_place_of_the_old_one_and_what_others_put_there_stays() {
    let ground = Ground::new("mail").await;
    let id = ground.add("alice");
    ground.sync().await;
    let mut ids = vec![ground.login("alice"), ground.marker(id)];
    ids.push("oidc-github:mail-alice-there".to_owned());
    let mut body = Ground::body(&ids, &[ground.email("alice"), ground.email("private")]);
    body["threepids"].as_array_mut().unwrap().push(json!({"medium": "msisdn", "address": "491511234567"}));
    ground.put("alice", body).await;
    let before = accounts_of(&ground).await;
    ground.proxy.clear();
    ground.set_email(id, &ground.email("wonder").to_uppercase());
    ground.sync().await;
    let bodies = ground.bodies("alice");
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(bodies[0].as_object().unwrap().keys().collect::<Vec<_>>(), ["threepids"]);
    let account = ground.account("alice").await;
    assert_eq!(account.emails, set([ground.email("wonder"), ground.email("private")]));
    assert_eq!(account.phones, set(["491511234567".to_owned()]));
    assert_eq!(account.ids, ids.into_iter().collect());
    check_journal(&ground, &ground.journal()[1..], &before).await;
    ground.nothing_to_do().await;
    // The MXID stays, although the template would give another one now.
    assert_eq!(ground.find_account("wonder").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_gone_or_no_address_any_more_does_no_harm() {
    let ground = Ground::new("nomail").await;
    let (gone, broken) = (ground.add("gone"), ground.add("broken"));
    ground.sync().await;
    ground.set_email(gone, "");
    ground.set_email(broken, "two@at@example.com");
    ground.proxy.clear();
    let report = ground.sync().await;
    // An empty address takes the old one off; a broken one leaves it and is noted.
    assert_eq!(ground.account("gone").await.emails, set([]));
    assert_eq!(ground.account("broken").await.emails, set([ground.email("broken")]));
    assert!(!of(&report, broken).notes.is_empty());
    assert_eq!(ground.writes(), ["PUT gone threepids"]);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn name_and_address_that_change_together_are_two_requests() {
    let ground = Ground::new("both").await;
    let id = ground.add("alice");
    ground.sync().await;
    ground.proxy.clear();
    ground.set_first_name(id, "Other");
    ground.set_email(id, &ground.email("other"));
    ground.sync().await;
    assert_eq!(ground.writes(), ["PUT alice threepids", "PUT alice displayname"]);
    ground.nothing_to_do().await;
}

/// What the display name is: made; after the owner chose one; after a full pass; after a change in Defguard; after the
/// owner chose once more, and a full pass.
async fn names_under(policy: &str) -> [String; 5] {
    let ground =
        Ground::new(&format!("name-{policy}")).await.with("accounts.display_name", &format!("{policy:?}"));
    let id = ground.add("alice");
    ground.sync().await;
    let mut names = vec![ground.account("alice").await.name];
    ground.put("alice", json!({"displayname": "Chosen"})).await;
    ground.sync().await;
    names.push(ground.account("alice").await.name);
    ground.full().await;
    names.push(ground.account("alice").await.name);
    ground.set_first_name(id, "New");
    ground.sync().await;
    names.push(ground.account("alice").await.name);
    ground.put("alice", json!({"displayname": "Chosen again"})).await;
    ground.full().await;
    names.push(ground.account("alice").await.name);
    ground.nothing_to_do().await;
    names.into_iter().map(Option::unwrap).collect::<Vec<_>>().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_policy_for_display_names_does_what_it_says() {
    let (enforce, on_change, initial, ignore) = tokio::join!(
        names_under("enforce"),
        names_under("on-change"),
        names_under("initial"),
        names_under("ignore")
    );
    let made = "alice Person";
    assert_eq!(enforce, [made, made, made, "New Person", "New Person"]);
    assert_eq!(on_change, [made, "Chosen", "Chosen", "New Person", "Chosen again"]);
    assert_eq!(initial, [made, "Chosen", "Chosen", "Chosen", "Chosen again"]);
    assert_eq!(ignore, ["name-ignore.alice", "Chosen", "Chosen", "Chosen", "Chosen again"]);
}

/// Whether the account has Defguard's address: made; after it was taken off by hand, and a full pass; and which of its
/// addresses it has after a change in Defguard.
async fn addresses_under(policy: &str) -> [Vec<&'static str>; 3] {
    let ground = Ground::new(&format!("mail-{policy}")).await.with("accounts.email", &format!("{policy:?}"));
    let id = ground.add("alice");
    ground.sync().await;
    let mut seen = Vec::new();
    let (first, second) = (ground.email("alice"), ground.email("second"));
    let shown = |account: Account| {
        [("first", &first), ("second", &second)]
            .into_iter()
            .filter(|(_, email)| account.emails.contains(*email))
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    seen.push(shown(ground.account("alice").await));
    ground.put("alice", json!({"threepids": []})).await;
    ground.full().await;
    seen.push(shown(ground.account("alice").await));
    ground.set_email(id, &second);
    ground.sync().await;
    seen.push(shown(ground.account("alice").await));
    ground.nothing_to_do().await;
    seen.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_policy_for_addresses_does_what_it_says() {
    let (enforce, on_change, initial, ignore) = tokio::join!(
        addresses_under("enforce"),
        addresses_under("on-change"),
        addresses_under("initial"),
        addresses_under("ignore")
    );
    assert_eq!(enforce, [vec!["first"], vec!["first"], vec!["second"]]);
    assert_eq!(on_change, [vec!["first"], vec![], vec!["second"]]);
    assert_eq!(initial, [vec!["first"], vec![], vec![]]);
    assert_eq!(ignore, [vec![], vec![], vec![] as Vec<&str>]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let ground = Ground::new("dry").await;
    let id = ground.add("alice");
    let ended = ground.program(&["plan", "--json"]).await.with_code(0);
    let report = ended.json();
    let alice =
        report["people"].as_array().unwrap().iter().find(|person| person["id"] == id).unwrap().clone();
    assert_eq!(alice["state"], "create");
    assert_eq!(alice["done"], json!([]));
    assert_eq!(ground.writes(), [""; 0]);
    assert_eq!(ground.find_account("alice").await, None);
    let ended = ground.program(&["sync", "--dry-run"]).await.with_code(0);
    assert!(ended.out.contains(&ground.mxid("alice")) && ended.out.contains("create"), "{}", ended.out);
    assert_eq!(ground.writes(), [""; 0]);
    assert!(ground.journal().is_empty());
}
