//! Usernames and addresses that change, and change hands. Each login is looked up before, so that Synapse has it in its
//! cache, as it would after a login.

use std::collections::BTreeMap;

use crate::ground::{Account, Ground, State, accounts_of, check_journal, conflicts, of, set};

/// Gives people each other's usernames, by way of names that nobody has: Defguard does not let two have one.
fn hand_round(ground: &Ground, people: &[(i64, &str)]) {
    for (id, _) in people {
        ground.rename(*id, &format!("aside{id}"));
    }
    for (id, name) in people {
        ground.rename(*id, name);
    }
}

async fn open(ground: &Ground, logins: &[&str]) -> BTreeMap<String, Option<String>> {
    let mut opened = BTreeMap::new();
    for login in logins {
        opened.insert((*login).to_owned(), ground.opens(login).await);
    }
    opened
}

fn opening<const N: usize>(pairs: [(&str, Option<&str>); N]) -> BTreeMap<String, Option<String>> {
    pairs.into_iter().map(|(login, account)| (login.to_owned(), account.map(str::to_owned))).collect()
}

async fn in_step(ground: &Ground, before: &BTreeMap<String, Account>, lines: usize) {
    check_journal(ground, &ground.journal()[lines..], before).await;
    ground.nothing_to_do().await;
    ground.proxy.clear();
    ground.full().await;
    assert_eq!(ground.writes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_person_keeps_the_account_and_the_old_name_opens_nothing_any_more() {
    let ground = Ground::new("renamed").await;
    let id = ground.add("old");
    ground.sync().await;
    assert_eq!(ground.opens("old").await.as_deref(), Some("old"));
    let before = accounts_of(&ground).await;
    ground.rename(id, "new");
    let report = ground.sync().await;
    assert_eq!(of(&report, id).state, State::Update);
    assert_eq!(open(&ground, &["old", "new"]).await, opening([("old", None), ("new", Some("old"))]));
    assert_eq!(ground.account("old").await.ids, set([ground.login("new"), ground.marker(id)]));
    assert_eq!(ground.find_account("new").await, None);
    in_step(&ground, &before, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_renamed_there_and_back_again_has_their_first_login_again() {
    let ground = Ground::new("thereback").await;
    let id = ground.add("alice");
    ground.sync().await;
    for (name, other) in [("other", "alice"), ("alice", "other")] {
        assert_eq!(ground.opens(other).await.as_deref(), Some("alice"));
        ground.rename(id, name);
        ground.sync().await;
        assert_eq!(open(&ground, &[name, other]).await, opening([(name, Some("alice")), (other, None)]));
    }
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_who_swap_usernames_keep_their_accounts() {
    let ground = Ground::new("swap").await;
    let (alice, bob) = (ground.add("alice"), ground.add("bob"));
    ground.sync().await;
    open(&ground, &["alice", "bob"]).await;
    let before = accounts_of(&ground).await;
    hand_round(&ground, &[(alice, "bob"), (bob, "alice")]);
    ground.sync().await;
    assert_eq!(
        open(&ground, &["alice", "bob"]).await,
        opening([("alice", Some("bob")), ("bob", Some("alice"))])
    );
    assert_eq!(ground.account("alice").await.emails, set([ground.email("alice")]));
    assert_eq!(ground.account("alice").await.ids, set([ground.login("bob"), ground.marker(alice)]));
    in_step(&ground, &before, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_people_who_pass_their_usernames_on_in_a_ring_keep_their_accounts() {
    let ground = Ground::new("ring").await;
    let (a, b, c) = (ground.add("a"), ground.add("b"), ground.add("c"));
    ground.sync().await;
    open(&ground, &["a", "b", "c"]).await;
    let before = accounts_of(&ground).await;
    hand_round(&ground, &[(a, "b"), (b, "c"), (c, "a")]);
    let report = ground.sync().await;
    assert_eq!(of(&report, a).state, State::Update);
    assert_eq!(
        open(&ground, &["a", "b", "c"]).await,
        opening([("b", Some("a")), ("c", Some("b")), ("a", Some("c"))])
    );
    for (who, id) in [("a", a), ("b", b), ("c", c)] {
        assert_eq!(ground.account(who).await.emails, set([ground.email(who)]));
        assert!(ground.account(who).await.ids.contains(&ground.marker(id)));
    }
    in_step(&ground, &before, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_who_swap_addresses_both_have_the_right_one() {
    let ground = Ground::new("mailswap").await;
    let (alice, bob) = (ground.add("alice"), ground.add("bob"));
    ground.sync().await;
    let before = accounts_of(&ground).await;
    ground.set_email(alice, &ground.email("aside"));
    ground.set_email(bob, &ground.email("alice"));
    ground.set_email(alice, &ground.email("bob"));
    ground.sync().await;
    assert_eq!(ground.account("alice").await.emails, set([ground.email("bob")]));
    assert_eq!(ground.account("bob").await.emails, set([ground.email("alice")]));
    in_step(&ground, &before, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usernames_and_addresses_swapped_together_end_on_the_right_accounts() {
    let ground = Ground::new("allswap").await;
    let (alice, bob) = (ground.add("alice"), ground.add("bob"));
    ground.sync().await;
    open(&ground, &["alice", "bob"]).await;
    let before = accounts_of(&ground).await;
    hand_round(&ground, &[(alice, "bob"), (bob, "alice")]);
    ground.set_email(alice, &ground.email("aside"));
    ground.set_email(bob, &ground.email("alice"));
    ground.set_email(alice, &ground.email("bob"));
    ground.sync().await;
    assert_eq!(
        open(&ground, &["alice", "bob"]).await,
        opening([("alice", Some("bob")), ("bob", Some("alice"))])
    );
    assert_eq!(ground.account("alice").await.emails, set([ground.email("bob")]));
    assert_eq!(ground.account("bob").await.emails, set([ground.email("alice")]));
    in_step(&ground, &before, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_goes_to_somebody_else_is_taken_off_its_former_owner_first() {
    let ground = Ground::new("mailhands").await.with("templates.localpart_template", "\"{{ user.sub }}\"");
    let (carol, dave) = (ground.add("carol"), ground.add("dave"));
    ground.sync().await;
    // Carol's goes to Dave, and Dave's to somebody new.
    ground.set_email(carol, &ground.email("carol.new"));
    ground.set_email(dave, &ground.email("carol"));
    let erin = ground.defguard.add_person(ground.new_person("erin").email(&ground.email("dave")));
    ground.proxy.clear();
    let report = ground.sync().await;
    assert_eq!(of(&report, erin).state, State::Create);
    assert_eq!(ground.account("carol").await.emails, set([ground.email("carol.new")]));
    assert_eq!(ground.account("dave").await.emails, set([ground.email("carol")]));
    assert_eq!(ground.account("erin").await.emails, set([ground.email("dave")]));
    assert_eq!(ground.mailbox(&ground.email("carol")).await.as_deref(), Some("dave"));
    assert_eq!(
        ground.writes(),
        ["PUT carol threepids", "PUT dave threepids", "PUT erin displayname,external_ids,threepids"]
    );
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_username_of_somebody_deleted_or_disabled_never_opens_their_account_to_its_new_owner() {
    let ground = Ground::new("reused").await;
    let (deleted, disabled) = (ground.add("deleted"), ground.add("disabled"));
    ground.sync().await;
    for who in ["deleted", "disabled"] {
        // Synapse answers them from its cache from now on.
        assert_eq!(ground.opens(who).await.as_deref(), Some(who));
    }
    ground.defguard.delete(deleted);
    ground.rename(disabled, "gone");
    ground.defguard.set_active(disabled, false);
    let new = |who: &str, email: &str| {
        ground.defguard.add_person(ground.new_person(who).email(&ground.email(email)))
    };
    let (one, two) = (new("deleted", "newcomer1"), new("disabled", "newcomer2"));
    let report = ground.sync().await;
    for newcomer in [one, two] {
        assert_eq!(of(&report, newcomer).state, State::Create);
    }
    assert_eq!(
        open(&ground, &["deleted", "disabled"]).await,
        opening([("deleted", Some("newcomer1")), ("disabled", Some("newcomer2"))])
    );
    assert_eq!(ground.account("deleted").await.ids, set([ground.marker(deleted)]));
    assert_eq!(ground.account("disabled").await.ids, set([ground.marker(disabled)]));
    // Whoever is disabled is locked at once; whoever is only missing may have been renamed, and is not.
    assert!(ground.is_locked("disabled").await && !ground.is_locked("deleted").await);
    ground.sync().await;
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_username_that_its_owner_gave_up_goes_to_the_account_of_the_new_owner() {
    let ground = Ground::new("givenup").await;
    let old = ground.add("alice");
    ground.sync().await;
    assert_eq!(ground.opens("alice").await.as_deref(), Some("alice"));
    ground.rename(old, "alicia");
    let new = ground.defguard.add_person(ground.new_person("alice").email(&ground.email("newcomer")));
    let report = ground.sync().await;
    assert_eq!(of(&report, new).state, State::Create);
    assert_eq!(
        open(&ground, &["alice", "alicia"]).await,
        opening([("alice", Some("newcomer")), ("alicia", Some("alice"))])
    );
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_whose_localpart_is_the_renamed_owners_gets_nothing_and_takes_nothing() {
    let ground = Ground::new("oldpart").await.with("templates.localpart_template", "\"{{ user.sub }}\"");
    let old = ground.add("alice");
    ground.sync().await;
    assert_eq!(ground.opens("alice").await.as_deref(), Some("alice"));
    ground.rename(old, "alicia");
    let new = ground.defguard.add_person(ground.new_person("alice").email(&ground.email("newcomer")));
    let report = ground.sync().await;
    assert_eq!(conflicts(&report, new), ["localpart_taken"]);
    // The old owner's account does not open for the newcomer's login any more.
    assert_eq!(
        open(&ground, &["alice", "alicia"]).await,
        opening([("alice", None), ("alicia", Some("alice"))])
    );
    // The owner's link is another one by now, so the conflict is looked at once more.
    ground.sync().await;
    ground.nothing_to_do().await;
}
