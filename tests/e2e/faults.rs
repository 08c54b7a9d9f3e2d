//! Synapse that fails, answers that are lost, and accounts that turn up at the wrong moment.

use std::{collections::BTreeMap, future::Future, pin::Pin};

use defguard_synapse_sync::domain::{Change, FailureClass};
use reqwest::Method;
use serde_json::json;

use crate::{
    ground::{Account, Ground, State, account_at, accounts_of, check_journal, of, set},
    support::{
        proxy::{Held, Seen, any, on},
        synapse::{self as server, Synapse, user_path},
    },
};

// ---- an account that turns up between look-up and create ----

/// Makes a stranger's account at the moment in which ours is about to be made.
fn stranger_before_our_write(ground: &Ground, who: &str) {
    let (synapse, localpart) = (ground.synapse, ground.n(who));
    let (email, id) = (ground.email("stranger"), format!("oidc-github:{}", ground.n("stranger")));
    let target = user_path(&ground.mxid(who));
    let target = percent_encoding::percent_decode_str(&target).decode_utf8().unwrap().into_owned();
    ground.proxy.before(on(Method::PUT, &target).nth(1), move || {
        let mut body = Ground::body(std::slice::from_ref(&id), std::slice::from_ref(&email));
        body["displayname"] = json!("Stranger");
        let localpart = localpart.clone();
        async move {
            assert_eq!(synapse.put_account(&localpart, &body).await.status, 201);
        }
    });
}

fn stranger(ground: &Ground) -> Account {
    Account {
        name: Some("Stranger".to_owned()),
        emails: set([ground.email("stranger")]),
        phones: set([]),
        ids: set([format!("oidc-github:{}", ground.n("stranger"))]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_turns_up_before_an_empty_request_is_left_as_it_is() {
    let ground = Ground::new("turnsup").await.with("synapse.create", "\"empty-first\"");
    let (alice, bob) = (ground.add("alice"), ground.add("bob"));
    stranger_before_our_write(&ground, "alice");
    let report = ground.run(defguard_synapse_sync::reconcile::Pass::Frequent).await;
    assert_eq!(report.exit_code(), 3, "{report:#?}");
    assert!(of(&report, alice).put_off.as_deref().unwrap().contains("appeared"), "{report:#?}");
    assert_eq!(of(&report, bob).done, [Change::Created]);
    assert_eq!(ground.account("alice").await, stranger(&ground));
    let report = ground.sync().await;
    assert_eq!(of(&report, alice).conflicts[0].kind(), "localpart_taken");
    assert_eq!(ground.account("alice").await, stranger(&ground));
    assert_eq!(ground.opens("alice").await, None);
    assert_eq!(ground.journal().len(), 1);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_turns_up_before_a_full_request_is_never_linked_and_said_to_be_an_incident() {
    let ground = Ground::new("incident").await.with("synapse.create", "\"one-request\"");
    let id = ground.add("alice");
    stranger_before_our_write(&ground, "alice");
    let report = ground.run(defguard_synapse_sync::reconcile::Pass::Frequent).await;
    assert_eq!(report.exit_code(), 3, "{report:#?}");
    let failure = of(&report, id).failure.clone().unwrap();
    assert!(failure.why.contains("made by somebody else"), "{failure}");
    assert!(failure.mend.unwrap().contains("empty-first"));
    let account = ground.account("alice").await;
    assert!(!account.ids.contains(&ground.login("alice")), "{account:?}");
    assert!(!account.ids.contains(&ground.marker(id)), "{account:?}");
    assert_eq!(ground.opens("alice").await, None);
    assert_eq!(ground.holder("defguard-synapse-sync", &format!("incident/{id}")).await, None);
    // Nothing is taken for ours afterwards, not even by somebody who asks for this person.
    let report = ground.sync_person(id).await;
    assert_eq!(of(&report, id).conflicts.len(), 1, "{report:#?}");
    assert_eq!(of(&report, id).conflicts[0].kind(), "localpart_taken");
    assert!(ground.engine().store().links().unwrap().is_empty());
    assert!(!ground.journal().iter().any(|entry| entry.change == Change::Created), "{:#?}", ground.journal());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_turns_up_while_an_answer_is_lost_is_not_taken_for_ours() {
    let ground = Ground::new("lostturn").await.with("synapse.create", "\"empty-first\"");
    let id = ground.add("alice");
    // Our first request never arrives, and a stranger comes before we look again.
    let (synapse, localpart) = (ground.synapse, ground.n("alice"));
    let target = format!("users/{}", ground.mxid("alice"));
    ground.proxy.cut_before(on(Method::PUT, &target).nth(1));
    ground.proxy.before(on(Method::GET, &target).nth(2), move || {
        let localpart = localpart.clone();
        async move {
            let body = json!({"displayname": "Stranger", "external_ids": [
                {"auth_provider": "oidc-github", "external_id": localpart}
            ]});
            assert_eq!(synapse.put_account(&localpart, &body).await.status, 201);
        }
    });
    let report = ground.run(defguard_synapse_sync::reconcile::Pass::Frequent).await;
    let account = ground.account("alice").await;
    assert_eq!((account.name.as_deref(), account.ids.len()), (Some("Stranger"), 1), "{report:#?}");
    ground.proxy.remove_all();
    ground.sync_person(id).await;
    let account = ground.account("alice").await;
    assert_eq!((account.name.as_deref(), account.ids.len()), (Some("Stranger"), 1));
}

// ---- how many at once ----

#[tokio::test(flavor = "multi_thread")]
async fn never_more_accounts_than_the_config_allows_are_written_at_once() {
    let ground = Ground::new("atonce").await.with("synapse.concurrency", "2");
    let ground = ground.with("synapse.create", "\"one-request\"");
    let people = ["a", "b", "c", "d", "e", "f"];
    for who in people {
        ground.add(who);
    }
    let held: Vec<_> = (1..=people.len())
        .map(|nth| ground.proxy.hold_before(on(Method::PUT, "/v2/users/").nth(nth)))
        .collect();
    let sync = ground.start(&["sync"]);
    let arrived = |count: usize| {
        let proxy = &ground.proxy;
        async move {
            proxy.wait_until(|seen| seen.iter().filter(|seen| seen.is_write()).count() >= count).await;
        }
    };
    // Two are always held, and each that is let go makes room for one more.
    arrived(2).await;
    for (at, held) in held.iter().enumerate() {
        held.release();
        arrived(people.len().min(at + 3)).await;
    }
    sync.ended().await.with_code(0);
    assert_eq!(ground.proxy.most_writes_at_once(), 2);
    assert_eq!(ground.writes().len(), people.len());
    assert_eq!(accounts_of(&ground).await.len(), people.len());
}

// ---- lost answers ----

type Check<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One story with the n-th write cut, before or after it gets to Synapse. It has to end right in the run itself or in
/// the next one.
async fn cut(name: String, after: bool, nth: usize, mode: &str) {
    let ground = Ground::new(&name).await.with("synapse.create", &format!("{mode:?}"));
    let ids = begin(&ground).await;
    let (before, lines) = (accounts_of(&ground).await, ground.journal().len());
    change(&ground, &ids);
    let writes = any().target("/v2/users/").body("{").nth(nth);
    if after {
        ground.proxy.cut_after(writes)
    } else {
        ground.proxy.cut_before(writes)
    };
    let report = ground.run(defguard_synapse_sync::reconcile::Pass::Frequent).await;
    ground.proxy.remove_all();
    if report.exit_code() != 0 {
        assert_eq!(report.exit_code(), 3, "{name}: {report:#?}");
        ground.sync_failed_too().await;
    }
    end(&ground, &ids, &before, lines).await;
}

/// Four people with accounts, every login in Synapse's cache.
pub async fn begin(ground: &Ground) -> [i64; 4] {
    let ids = ["old", "one", "two", "name"].map(|who| ground.add(who));
    ground.sync().await;
    for who in ["old", "one", "two", "name"] {
        ground.opens(who).await;
    }
    ground.proxy.clear();
    ids
}

/// One gets another username, two swap theirs, one gets another name and address, and somebody is new.
pub fn change(ground: &Ground, &[old, one, two, name]: &[i64; 4]) {
    ground.rename(old, "new");
    ground.rename(one, "aside");
    ground.rename(two, "one");
    ground.rename(one, "two");
    ground.set_first_name(name, "Other");
    ground.set_email(name, &ground.email("other"));
    ground.add("fresh");
}

/// How it has to be when all is done.
pub async fn end(
    ground: &Ground,
    &[old, one, two, name]: &[i64; 4],
    before: &BTreeMap<String, Account>,
    lines: usize,
) {
    let fresh = ground.defguard.id_of(&ground.n("fresh"));
    for (login, account) in [
        ("old", None),
        ("new", Some("old")),
        ("one", Some("two")),
        ("two", Some("one")),
        ("name", Some("name")),
        ("fresh", Some("fresh")),
    ] {
        assert_eq!(ground.opens(login).await.as_deref(), account, "{}: login {login}", ground.name);
    }
    let expected: BTreeMap<String, Account> = [
        ("old", old, "new", "old", "old Person"),
        ("one", one, "two", "one", "one Person"),
        ("two", two, "one", "two", "two Person"),
        ("name", name, "name", "other", "Other Person"),
        ("fresh", fresh, "fresh", "fresh", "fresh Person"),
    ]
    .into_iter()
    .map(|(who, id, login, email, name)| {
        let account = Account {
            name: Some(name.to_owned()),
            emails: set([ground.email(email)]),
            phones: set([]),
            ids: set([ground.login(login), ground.marker(id)]),
        };
        (ground.n(who), account)
    })
    .collect();
    assert_eq!(accounts_of(ground).await, expected, "{}", ground.name);
    let journal = ground.journal();
    let made: Vec<_> = journal[lines..].iter().filter(|entry| entry.change == Change::Created).collect();
    assert_eq!(made.len(), 1, "{}: {journal:#?}", ground.name);
    check_journal(ground, &journal[lines..], before).await;
    ground.nothing_to_do().await;
    ground.proxy.clear();
    ground.full().await;
    assert_eq!(ground.writes(), [""; 0]);
    assert_eq!(ground.engine().store().intents().unwrap(), []);
}

/// How many writes the story takes when nothing goes wrong.
async fn writes(mode: &str) -> usize {
    let ground = Ground::new(&format!("plain-{mode}")).await.with("synapse.create", &format!("{mode:?}"));
    let ids = begin(&ground).await;
    let (before, lines) = (accounts_of(&ground).await, ground.journal().len());
    change(&ground, &ids);
    ground.sync().await;
    let writes = ground.writes().len();
    end(&ground, &ids, &before, lines).await;
    writes
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_write_is_cut_off_everything_ends_right_and_nothing_is_doubled() {
    let mode = "empty-first";
    let writes = writes(mode).await;
    assert!((9..14).contains(&writes), "{writes}");
    let cuts = (1..=writes).flat_map(|nth| [(nth, false), (nth, true)]);
    let mut cuts: Vec<Check<'_>> = cuts
        .map(|(nth, after)| {
            let name = format!("cut{nth}{}", if after { "after" } else { "before" });
            Box::pin(cut(name, after, nth, mode)) as Check<'_>
        })
        .collect();
    cuts.push(Box::pin(cut("cutone-before".to_owned(), false, 1, "one-request")));
    for nth in 1..=3 {
        cuts.push(Box::pin(cut(format!("cutone{nth}after"), true, nth, "one-request")));
    }
    several(cuts).await;
}

/// Does all, some at a time: most of them is waiting.
pub async fn several(tasks: Vec<Check<'_>>) {
    use futures_util::StreamExt as _;
    futures_util::stream::iter(tasks).for_each_concurrent(6, |task| task).await;
}

/// Synapse changes addresses by taking off first and adding then, and can end in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_which_only_a_part_took_effect_is_finished_and_told_whole() {
    let ground = Ground::new("half").await;
    let id = ground.add("alice");
    ground.sync().await;
    let before = accounts_of(&ground).await;
    ground.set_email(id, &ground.email("other"));
    let writes = || on(Method::PUT, "/v2/users/").nth(1);
    let (synapse, localpart) = (ground.synapse, ground.n("alice"));
    ground.proxy.before(writes(), move || {
        let localpart = localpart.clone();
        async move {
            assert_eq!(synapse.put_account(&localpart, &json!({"threepids": []})).await.status, 200);
        }
    });
    ground.proxy.cut_before(writes());
    ground.sync().await;
    assert_eq!(ground.account("alice").await.emails, set([ground.email("other")]));
    check_journal(&ground, &ground.journal()[1..], &before).await;
    ground.nothing_to_do().await;
}

// ---- Synapse that is down, or lets us in no more ----

#[tokio::test(flavor = "multi_thread")]
async fn a_synapse_that_is_down_before_or_during_a_run_loses_nothing() {
    let options = server::Options { server_name: "down.test".to_owned(), ..server::Options::default() };
    let synapse: &'static Synapse = Box::leak(Box::new(Synapse::start(options).await.unwrap()));
    let ground = Ground::on(synapse, "down").await;
    let ids = begin(&ground).await;
    let (before, lines) = (accounts_of(&ground).await, ground.journal().len());
    change(&ground, &ids);
    // Down before the run.
    synapse.stop();
    let ended = ground.program(&["sync"]).await.with_code(5);
    assert!(ended.err.contains("Synapse") && ended.err.contains('→'), "{}", ended.err);
    synapse.start_again().await.unwrap();
    // Down in the middle of it, with three writes done and others on their way.
    ground.proxy.clear();
    let writes = || any().target("/v2/users/").body("{");
    let held: Vec<_> = (4..=20).map(|nth| ground.proxy.hold_before(writes().nth(nth))).collect();
    let sync = ground.start(&["sync", "--json"]);
    let three_are_done = |seen: &[Seen]| {
        let writes = seen.iter().filter(|seen| seen.is_write());
        writes.clone().filter(|seen| seen.status.is_some()).count() == 3 && writes.count() > 3
    };
    ground.proxy.wait_until(three_are_done).await;
    synapse.stop();
    held.iter().for_each(Held::release);
    let ended = sync.ended().await;
    assert!(matches!(ended.code, Some(3 | 5)), "{ended:?}");
    ground.proxy.remove_all();
    synapse.start_again().await.unwrap();
    ground.sync_failed_too().await;
    end(&ground, &ids, &before, lines).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_in_the_middle_of_a_run_ends_it_and_is_explained() {
    let ground = Ground::new("revoked")
        .await
        .with("synapse.concurrency", "1")
        .with("synapse.create", "\"one-request\"");
    let admin = ground.synapse.register_user(&ground.n("admin"), true).await;
    ground.secret("synapse-token", &admin.token);
    let ids = ["a", "b", "c", "d"].map(|who| ground.add(who));
    let synapse = ground.synapse;
    ground.proxy.before(any().target("/v2/users/").body("{").nth(3), move || {
        let token = admin.token.clone();
        async move {
            let path = "/_matrix/client/v3/logout";
            assert_eq!(synapse.call(Method::POST, path, Some(&token), Some(&json!({}))).await.status, 200);
        }
    });
    let ended = ground.program(&["sync"]).await.with_code(5);
    assert!(ended.err.contains("401") && ended.err.contains("token"), "{}", ended.err);
    let made =
        |accounts: BTreeMap<String, Account>| accounts.values().filter(|it| !it.ids.is_empty()).count();
    assert_eq!(made(accounts_of(&ground).await), 2);
    ground.proxy.remove_all();
    ground.program(&["sync"]).await.with_code(5);
    // Another token, and it goes on where it stopped; whoever was in hand is not kept waiting for long.
    ground.secret("synapse-token", ground.synapse.admin_token());
    for id in ids {
        let report = ground.sync_person(id).await;
        assert_eq!(report.exit_code(), 0, "{report:#?}");
    }
    assert_eq!(made(accounts_of(&ground).await), 4);
    assert_eq!(ground.journal().len(), 4);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_synapse_refuses_concerns_this_person_only() {
    let ground = Ground::new("refuses").await;
    let (bad, good) = (ground.add("bad"), ground.add("good"));
    let answer =
        json!({"errcode": "M_EXCLUSIVE", "error": "This user ID is reserved by an application service."});
    ground.proxy.answer(on(Method::PUT, &ground.mxid("bad")), 400, answer);
    let report = ground.run(defguard_synapse_sync::reconcile::Pass::Frequent).await;
    assert_eq!(report.exit_code(), 3);
    let failure = of(&report, bad).failure.clone().unwrap();
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(failure.to_string().contains("application service"), "{failure}");
    assert_eq!(of(&report, good).state, State::Create);
    // The next run leaves the person in peace for a while, and one for them does not.
    ground.proxy.clear();
    let report = ground.run(defguard_synapse_sync::reconcile::Pass::Frequent).await;
    assert_eq!(report.exit_code(), 3, "whoever is put off still counts as failed");
    assert_eq!(of(&report, bad).state, State::Postponed);
    assert_eq!(ground.writes(), [""; 0]);
    ground.proxy.remove_all();
    let report = ground.sync_person(bad).await;
    assert_eq!(of(&report, bad).done, [Change::Created]);
    assert!(account_at(ground.synapse, &ground.n("bad")).await.is_some());
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_display_name_that_synapse_limits_is_written_all_the_same() {
    let ground = Ground::new("limited").await.with("synapse.create", "\"one-request\"");
    let id = ground.add("alice");
    ground.sync().await;
    // The person's own bucket for messages, which an admin's change of the name counts against, is empty.
    for _ in 0..10 {
        ground.put("alice", json!({"displayname": "alice Person"})).await;
    }
    ground.set_first_name(id, "Other");
    let report = ground.run(defguard_synapse_sync::reconcile::Pass::Frequent).await;
    let report = if report.exit_code() == 0 { report } else { ground.sync_person(id).await };
    assert_eq!(report.exit_code(), 0, "{report:#?}");
    assert_eq!(ground.account("alice").await.name.as_deref(), Some("Other Person"));
    let names = ground.journal().iter().filter(|entry| entry.change.kind() == "display_name").count();
    assert_eq!(names, 1);
    ground.nothing_to_do().await;
}
