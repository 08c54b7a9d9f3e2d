//! `adopt`: a homeserver that had people before it was joined to Defguard.

use defguard_synapse_sync::domain::Change;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    ground::{Ground, accounts_of, conflicts, set},
    process::Ended,
};

/// What `adopt` shows, for programs.
async fn shown(ground: &Ground, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["adopt", "--json"].iter().chain(arguments).copied().collect();
    ground.program(&arguments).await.with_code(0).json()
}

/// The pairs of a list, with the certainty.
fn pairs(ground: &Ground, list: &Value) -> Vec<(String, String, String)> {
    let short = |text: &Value| {
        let text = text.as_str().unwrap().trim_start_matches('@').split(':').next().unwrap();
        text.trim_start_matches(&format!("{}.", ground.name)).to_owned()
    };
    let mut pairs: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let certainty = one["certainty"].as_str().unwrap().to_owned();
            (short(&one["username"]), short(&one["mxid"]), certainty)
        })
        .collect();
    pairs.sort();
    pairs
}

fn is(who: &str, account: &str, certainty: &str) -> (String, String, String) {
    (who.to_owned(), account.to_owned(), certainty.to_owned())
}

async fn approve(ground: &Ground, more: &[&str], digest: &Value) -> Ended {
    let digest = digest.as_str().unwrap();
    let arguments: Vec<&str> = ["adopt", "--approve", digest].iter().chain(more).copied().collect();
    ground.program(&arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_the_accounts_that_they_had_once_the_digest_is_approved() {
    let ground = Ground::new("moving").await;
    // One who logged in before, one whose account has another name but the address, one with only the name.
    let ann = ground.add("ann");
    ground.put("annie", Ground::body(&[ground.login("ann")], &[])).await;
    let bob = ground.add("bob");
    ground.put("bobby", Ground::body(&[], &[ground.email("bob")])).await;
    ground.add("cid");
    ground.put("cid", json!({"displayname": "Cid of old"})).await;
    ground.add("new");
    let before = accounts_of(&ground).await;
    ground.proxy.clear();

    let first = shown(&ground, &[]).await;
    assert_eq!(
        pairs(&ground, &first["matches"]),
        [is("ann", "annie", "certain"), is("bob", "bobby", "likely")]
    );
    assert_eq!(pairs(&ground, &first["less_sure"]), [is("cid", "cid", "guess")]);
    assert_eq!((&first["without"], &first["linked"], &first["done"]), (&json!(1), &json!(0), &json!(null)));
    let page = ground.program(&["adopt"]).await.with_code(0).out;
    let command = format!("adopt --approve {}", first["digest"].as_str().unwrap());
    assert!(page.contains(&command) && page.contains("same e-mail"), "{page}");
    // To look has written nothing, neither there nor here.
    assert_eq!(ground.writes(), [""; 0]);
    assert_eq!(accounts_of(&ground).await, before);
    assert!(!ground.path("state").exists());

    let done = approve(&ground, &[], &first["digest"]).await.with_code(0);
    assert!(done.out.contains("2 people linked, 0 not"), "{}", done.out);
    assert_eq!(ground.account("annie").await.ids, set([ground.login("ann"), ground.marker(ann)]));
    assert_eq!(ground.account("bobby").await.ids, set([ground.login("bob"), ground.marker(bob)]));
    assert_eq!(ground.account("cid").await, before[&ground.n("cid")]);
    assert_eq!(ground.opens("ann").await.as_deref(), Some("annie"));
    assert_eq!(ground.opens("bob").await.as_deref(), Some("bobby"));
    let linked = ground.journal().iter().filter(|entry| entry.change == Change::Linked).count();
    assert_eq!(linked, 2);

    // The guess is done when it is asked for; whoever has none is made by the sync.
    let second = shown(&ground, &["--at-least", "guess"]).await;
    assert_eq!(pairs(&ground, &second["matches"]), [is("cid", "cid", "guess")]);
    approve(&ground, &["--at-least", "guess"], &second["digest"]).await.with_code(0);
    assert_eq!(ground.opens("cid").await.as_deref(), Some("cid"));
    let third = shown(&ground, &["--at-least", "guess"]).await;
    assert_eq!((&third["digest"], &third["linked"]), (&json!(null), &json!(3)));
    ground.sync().await;
    assert_eq!(accounts_of(&ground).await.len(), 4);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_counts_only_for_what_was_shown_with_it() {
    let ground = Ground::new("digest").await;
    ground.add("ann");
    ground.put("annie", Ground::body(&[], &[ground.email("ann")])).await;
    let first = shown(&ground, &[]).await;
    // One more match, and the digest is another.
    ground.add("bob");
    ground.put("bobby", Ground::body(&[], &[ground.email("bob")])).await;
    ground.proxy.clear();
    let refused = approve(&ground, &[], &first["digest"]).await.with_code(1);
    let second = shown(&ground, &[]).await;
    assert!(refused.err.contains(second["digest"].as_str().unwrap()), "{}", refused.err);
    approve(&ground, &[], &json!("0123456789abcdef")).await.with_code(1);
    assert_eq!(ground.writes(), [""; 0]);
    // For one person only, it is the first again.
    let ann = ground.n("ann");
    assert_eq!(shown(&ground, &[&ann]).await["digest"], first["digest"]);
    approve(&ground, &[&ann], &first["digest"]).await.with_code(0);
    assert_eq!(ground.opens("ann").await.as_deref(), Some("annie"));
    assert_eq!(ground.opens("bob").await, None);
    let nobody = ground.program(&["adopt", "digest.nobody"]).await.with_code(3);
    assert!(nobody.err.contains("digest.nobody"), "{}", nobody.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_are_shown_side_by_side_and_solved_by_hand() {
    let ground = Ground::new("double").await;
    let id = ground.add("alice");
    // The account of old, and the one that Synapse made at the first login, with the address moved there.
    let old = ground.synapse.register_user(&ground.n("alice"), false).await;
    ground.put("alice1", Ground::body(&[ground.login("alice")], &[ground.email("alice")])).await;
    for _ in 0..2 {
        let made = ground
            .synapse
            .call(Method::POST, "/_matrix/client/v3/createRoom", Some(&old.token), Some(&json!({})))
            .await;
        assert_eq!(made.status, 200, "{made:?}");
    }
    // Synapse writes down every few seconds who was seen, and tells nobody.
    while ground.synapse.account(&ground.n("alice")).await.body["last_seen_ts"].is_null() {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let before = accounts_of(&ground).await;
    let answer = shown(&ground, &["--at-least", "guess"]).await;
    assert_eq!((&answer["matches"], &answer["digest"]), (&json!([]), &json!(null)));
    let accounts = answer["doubles"][0]["accounts"].as_array().unwrap();
    let facts: Vec<_> = accounts
        .iter()
        .map(|one| (one["mxid"].as_str().unwrap(), &one["by"], &one["activity"]["rooms"]))
        .collect();
    let (second, first) = (ground.mxid("alice1"), ground.mxid("alice"));
    assert_eq!(
        facts,
        [
            (second.as_str(), &json!(["external_id", "email"]), &json!(0)),
            (first.as_str(), &json!(["localpart"]), &json!(2)),
        ]
    );
    assert!(accounts[1]["activity"]["last_seen"].is_string(), "{answer:#}");
    assert_eq!(accounts[0]["activity"]["last_seen"], json!(null));
    let page = ground.program(&["adopt"]).await.with_code(0).out;
    let advice = format!("link {} {first}", ground.n("alice"));
    assert!(page.contains(&advice) && page.contains("never"), "{page}");
    assert_eq!(accounts_of(&ground).await, before, "nothing is merged by itself");
    // What it says is what helps.
    ground.program(&["link", &ground.n("alice"), &first, "--yes"]).await.with_code(0);
    assert_eq!(ground.opens("alice").await.as_deref(), Some("alice"));
    assert_eq!(shown(&ground, &[]).await["doubles"], json!([]));
    assert_eq!(conflicts(&ground.sync().await, id), ["email_taken"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_a_number_and_the_same_display_name_is_shown_as_a_double() {
    let ground = Ground::new("sibling").await;
    ground.add("alice");
    ground.put("alice", Ground::body(&[], &[ground.email("alice")])).await;
    ground.put("alice", json!({"displayname": "Alice L"})).await;
    ground.put("alice7", json!({"displayname": "Alice L"})).await;
    // A number behind the name alone says nothing.
    ground.put("alice8", json!({"displayname": "Somebody else"})).await;
    let answer = shown(&ground, &[]).await;
    let accounts = answer["doubles"][0]["accounts"].as_array().unwrap();
    let mxids: Vec<&str> = accounts.iter().map(|one| one["mxid"].as_str().unwrap()).collect();
    assert_eq!(mxids, [ground.mxid("alice"), ground.mxid("alice7")]);
    assert_eq!(answer["digest"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_are_no_persons_and_those_that_two_may_claim_are_left_to_the_admin() {
    let ground = Ground::new("unfit").await;
    for (who, body) in [
        ("boss", json!({"admin": true})),
        ("robot", json!({"user_type": "bot"})),
        ("locked", json!({"locked": true})),
        ("gone", json!({"deactivated": true})),
    ] {
        ground.add(who);
        ground.put(who, json!({})).await;
        ground.put(who, body).await;
    }
    // One has the name, the other the address.
    ground.add("ann");
    ground.defguard.add_person(ground.new_person("bea").email(&ground.email("bea")));
    ground.put("ann", Ground::body(&[], &[ground.email("bea")])).await;
    let before = accounts_of(&ground).await;
    let answer = shown(&ground, &["--at-least", "guess"]).await;
    assert_eq!(answer["matches"], json!([]));
    let mut left: Vec<_> = answer["left"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let name = one["username"].as_str().unwrap().trim_start_matches("unfit.");
            (name, one["why"].as_str().unwrap())
        })
        .collect();
    left.sort_unstable();
    let whys: Vec<(&str, &str)> =
        left.iter().filter(|(name, _)| !["ann", "bea"].contains(name)).copied().collect();
    assert_eq!(
        whys,
        [
            ("boss", "it is a server admin"),
            ("gone", "it is deactivated"),
            ("locked", "it is locked"),
            ("robot", "it is a bot or of another special user type"),
        ]
    );
    let contested = left.iter().filter(|(_, why)| why.contains("may be that of"));
    assert_eq!(contested.count(), 2, "{left:?}");
    let page = ground.program(&["adopt", "--at-least", "guess"]).await.with_code(0).out;
    assert!(page.contains(&format!("link {} {}", ground.n("boss"), ground.mxid("boss"))), "{page}");
    assert_eq!(accounts_of(&ground).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_daemon_adopt_goes_through_its_socket() {
    let ground = Ground::new("adoptd").await;
    let daemon = ground.start(&["run"]);
    daemon.says("the daemon is up").await;
    let id = ground.add("ann");
    ground.put("annie", Ground::body(&[], &[ground.email("ann")])).await;
    let answer = shown(&ground, &[]).await;
    approve(&ground, &[], &answer["digest"]).await.with_code(0);
    assert_eq!(ground.account("annie").await.ids, set([ground.login("ann"), ground.marker(id)]));
    daemon.terminate();
    daemon.ended().await.with_code(0);
    ground.nothing_to_do().await;
}
