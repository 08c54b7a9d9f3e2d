//! Accounts that are in the way, under each policy; people who get in each other's way; people without a usable name.

use defguard_synapse_sync::domain::Change;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::{
    ground::{Ground, State, account_at, accounts_of, conflicts, of, set},
    support::synapse::{self as server, Synapse, user_path},
};

/// A second Synapse for several tests, on which everybody can register, guests too, and a bridge has accounts.
pub async fn open() -> &'static Synapse {
    static OPEN: OnceCell<Synapse> = OnceCell::const_new();
    OPEN.get_or_init(|| async {
        let bridge = tempfile::NamedTempFile::new().unwrap();
        let registration = json!({
            "id": "bridge", "url": null, "as_token": "as-token", "hs_token": "hs-token",
            "sender_localpart": "bridge-bot", "rate_limited": false,
            "namespaces": { "users": [{ "exclusive": true, "regex": "@bridged.*:open.test" }] },
        });
        std::fs::write(bridge.path(), registration.to_string()).unwrap();
        let mut options = server::Options {
            server_name: "open.test".to_owned(),
            enable_registration: true,
            ..server::Options::default()
        };
        options.extra.insert("app_service_config_files".to_owned(), json!([bridge.path()]));
        Synapse::start(options).await.unwrap()
    })
    .await
}

/// A number that nobody else has.
fn phone(ground: &Ground, who: &str) -> String {
    ground.n(who).bytes().fold("49".to_owned(), |number, byte| format!("{number}{}", byte % 10))
}

fn policy(policy: &str) -> String {
    format!("{policy:?}")
}

/// Three strangers' accounts under names that people of Defguard have: one with the person's own address, one with
/// another one, one that somebody opens with another login of the same provider; each with things of its own.
async fn strangers(name: &str, on_conflict: &str) -> (Ground, [i64; 3]) {
    let ground = Ground::new(name).await.with("accounts.on_conflict", &policy(on_conflict));
    for (who, emails) in [("same", "same"), ("other", "stranger"), ("claimed", "claimed")] {
        let mut ids = vec![format!("oidc-github:{}", ground.n(who))];
        if who == "claimed" {
            ids.push(ground.login("somebody-else"));
        }
        let mut body = Ground::body(&ids, &[ground.email(emails)]);
        body["displayname"] = json!("Was here");
        body["threepids"]
            .as_array_mut()
            .unwrap()
            .push(json!({"medium": "msisdn", "address": phone(&ground, who)}));
        ground.put(who, body).await;
    }
    let people = ["same", "other", "claimed"].map(|who| ground.add(who));
    (ground, people)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_in_the_way_is_reported_and_left_as_it_is() {
    let (ground, people) = strangers("report", "report").await;
    let before = accounts_of(&ground).await;
    ground.proxy.clear();
    let report = ground.sync().await;
    for id in people {
        assert_eq!(conflicts(&report, id), ["localpart_taken"]);
        assert!(of(&report, id).conflicts[0].mend().contains("link USER"));
    }
    assert_eq!(ground.writes(), [""; 0]);
    assert_eq!(accounts_of(&ground).await, before);
    assert!(ground.journal().is_empty());
    // A conflict that is known costs nothing.
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_the_same_address_is_adopted_with_all_that_it_has_and_another_one_is_not() {
    let (ground, [same, other, claimed]) = strangers("adoptmail", "adopt-if-same-email").await;
    let before = accounts_of(&ground).await;
    let report = ground.approve().await;
    assert_eq!(of(&report, same).done[0], Change::Adopted);
    let account = ground.account("same").await;
    let github = format!("oidc-github:{}", ground.n("same"));
    assert_eq!(account.ids, set([github, ground.login("same"), ground.marker(same)]));
    assert_eq!(
        (account.emails, account.phones),
        (set([ground.email("same")]), set([phone(&ground, "same")]))
    );
    // "on-change" has nothing to compare with yet.
    assert_eq!(account.name.as_deref(), Some("Was here"));
    for (id, who, why) in [(other, "other", "e-mail"), (claimed, "claimed", "another login")] {
        assert_eq!(conflicts(&report, id), ["localpart_taken"]);
        let said = of(&report, id).conflicts[0].to_string();
        assert!(said.contains(why), "{said}");
        assert_eq!(ground.account(who).await, before[&ground.n(who)]);
    }
    ground.nothing_to_do().await;
    ground.set_first_name(same, "Renamed");
    ground.sync().await;
    assert_eq!(ground.account("same").await.name.as_deref(), Some("Renamed Person"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_adopted_whatever_its_address_if_the_policy_says_so() {
    let (ground, [same, other, claimed]) = strangers("adopt", "adopt").await;
    let report = ground.approve().await;
    assert_eq!(of(&report, same).state, State::Adopt);
    assert_eq!(of(&report, other).state, State::Adopt);
    assert_eq!(conflicts(&report, claimed), ["localpart_taken"]);
    let account = ground.account("other").await;
    // The address that the stranger put there stays beside the person's own.
    assert_eq!(account.emails, set([ground.email("stranger"), ground.email("other")]));
    assert!(account.ids.contains(&ground.marker(other)) && account.ids.contains(&ground.login("other")));
    assert_eq!(ground.opens("other").await.as_deref(), Some("other"));
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_put_behind_a_name_that_is_taken_if_the_policy_says_so() {
    let (ground, [same, other, _]) = strangers("suffix", "suffix").await;
    ground.put("other1", json!({})).await;
    let before = ground.account("other").await;
    let report = ground.sync().await;
    assert_eq!(of(&report, other).mxid.as_ref().unwrap().as_str(), ground.mxid("other2"));
    assert_eq!(ground.account("other2").await.ids, set([ground.login("other"), ground.marker(other)]));
    assert_eq!(ground.account("other").await, before);
    // The address stays where it is until a person says otherwise; the account is there all the same.
    assert_eq!(conflicts(&report, same), ["email_taken"]);
    let account = ground.account("same1").await;
    assert_eq!(account.ids, set([ground.login("same"), ground.marker(same)]));
    assert!(account.emails.is_empty());
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_bots_bridges_and_our_own_account_are_never_adopted() {
    let synapse = open().await;
    let ground = Ground::on(synapse, "never").await.with("accounts.on_conflict", "\"adopt\"");
    synapse.register_user(&ground.n("admin"), true).await;
    ground.put("bot", json!({"user_type": "bot"})).await;
    ground.put("locked", json!({})).await;
    ground.put("locked", json!({"locked": true})).await;
    ground.put("deactivated", json!({})).await;
    ground.put("deactivated", json!({"deactivated": true})).await;
    let reply = synapse
        .call(
            reqwest::Method::POST,
            "/_matrix/client/v3/register",
            Some("as-token"),
            Some(&json!({"type": "m.login.application_service", "username": "bridged"})),
        )
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let people =
        [("admin", "server admin"), ("bot", "bot"), ("locked", "locked"), ("deactivated", "deactivated")]
            .map(|(who, why)| (ground.add(who), ground.mxid(who), why));
    let bridged = ground.defguard.add_person(ground.new_person("b").email("bridged@example.com"));
    let own = ground.defguard.add_person(ground.new_person("own").email("admin@elsewhere.example.com"));
    let fine = ground.add("fine");
    let before = accounts_of(&ground).await;
    ground.proxy.clear();
    let report = ground.sync().await;
    let others = [
        (bridged, synapse.mxid("bridged"), "application service"),
        (own, synapse.mxid("admin"), "this service itself"),
    ];
    for (id, mxid, why) in people.into_iter().chain(others) {
        let person = of(&report, id);
        assert_eq!(conflicts(&report, id), ["localpart_taken"], "{mxid} {person:?}");
        let said = person.conflicts[0].to_string();
        assert!(said.contains(why) && said.contains(&mxid), "{said}");
    }
    // An empty request goes first by itself.
    assert_eq!(ground.writes(), ["PUT fine", "PUT fine displayname,external_ids,threepids"]);
    assert_eq!(of(&report, fine).state, State::Create);
    let mut after = accounts_of(&ground).await;
    after.remove(&ground.n("fine"));
    assert_eq!(after, before);
    let bridged = synapse.admin_get(&user_path(&synapse.mxid("bridged"))).await;
    assert_eq!(bridged.body["external_ids"], json!([]));
    ground.nothing_to_do().await;
}

/// Somebody who logged in before provisioning: an account with the subject and nothing else of ours, at their own
/// localpart or at another one.
async fn logged_in_before(on_conflict: &str) -> (Ground, [i64; 2]) {
    let ground =
        Ground::new(&format!("login-{on_conflict}")).await.with("accounts.on_conflict", &policy(on_conflict));
    ground.put("usual", Ground::body(&[ground.login("usual")], &[ground.email("usual")])).await;
    ground.put("elsewhere1", Ground::body(&[ground.login("elsewhere")], &[])).await;
    let people = ["usual", "elsewhere"].map(|who| ground.add(who));
    (ground, people)
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_logged_in_before_is_a_candidate_for_adoption_and_never_gets_a_second_account() {
    for (on_conflict, adopted) in [
        ("report", [false, false]),
        ("adopt-if-same-email", [true, false]),
        ("adopt", [true, true]),
        ("suffix", [false, false]),
    ] {
        let (ground, people) = logged_in_before(on_conflict).await;
        // What the first run would adopt waits for a person.
        let report = if adopted[0] { ground.approve().await } else { ground.sync().await };
        for ((id, adopted), mxid) in people.into_iter().zip(adopted).zip(["usual", "elsewhere1"]) {
            let account = ground.account(mxid).await;
            if adopted {
                assert_eq!(of(&report, id).state, State::Adopt, "{on_conflict} {mxid}");
                assert!(account.ids.contains(&ground.marker(id)), "{on_conflict} {mxid}");
                assert_eq!(account.ids.len(), 2);
            } else {
                assert_eq!(conflicts(&report, id), ["logged_in_before"], "{on_conflict} {mxid}");
                assert_eq!(account.ids.len(), 1);
            }
        }
        assert_eq!(accounts_of(&ground).await.len(), 2, "{on_conflict}");
        ground.nothing_to_do().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_twins_get_nothing_until_one_of_them_has_the_name() {
    let template = "\"{{ user.sub | lower }}\"";
    let ground = Ground::new("twins").await.with("templates.localpart_template", template);
    let upper = ground.defguard.add_person(ground.new_person("Anna").email(&ground.email("anna.one")));
    let lower = ground.defguard.add_person(ground.new_person("anna").email(&ground.email("anna.two")));
    let report = ground.sync().await;
    for (id, other) in [(upper, lower), (lower, upper)] {
        assert_eq!(conflicts(&report, id), ["localpart_twins"]);
        assert!(of(&report, id).conflicts[0].to_string().contains(&format!("#{other}")));
    }
    assert_eq!(accounts_of(&ground).await.len(), 0);
    ground.nothing_to_do().await;
    let shown = ground.program(&["explain", &ground.n("Anna")]).await.with_code(0).out;
    assert!(shown.contains(&format!("{} (#{lower})", ground.n("anna"))), "{shown}");
    // Disabled, one is out of the way; back again, the one with the account keeps it.
    ground.defguard.set_active(upper, false);
    let report = ground.sync().await;
    assert_eq!(of(&report, lower).state, State::Create);
    ground.defguard.set_active(upper, true);
    let report = ground.sync().await;
    assert_eq!(of(&report, lower).state, State::InStep);
    assert_eq!(conflicts(&report, upper), ["localpart_taken"]);
    assert_eq!(ground.account("anna").await.ids, set([ground.login("anna"), ground.marker(lower)]));
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_twins_are_told_apart_by_a_number_if_the_policy_says_so() {
    let template = "\"{{ user.sub | lower }}\"";
    let ground = Ground::new("twins2").await.with("templates.localpart_template", template);
    let ground = ground.with("accounts.on_conflict", "\"suffix\"");
    ground.defguard.add_person(ground.new_person("Anna").email(&ground.email("anna.one")));
    ground.defguard.add_person(ground.new_person("anna").email(&ground.email("anna.two")));
    ground.sync().await;
    assert_eq!(ground.opens("Anna").await.as_deref(), Some("anna"));
    assert_eq!(ground.opens("anna").await.as_deref(), Some("anna1"));
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_on_a_strangers_account_stays_there() {
    let ground = Ground::new("mailtaken").await;
    ground.put("stranger", Ground::body(&[], &[ground.email("new"), ground.email("changed")])).await;
    let linked = ground.add("linked");
    ground.sync().await;
    let new = ground.add("new");
    ground.set_email(linked, &ground.email("changed"));
    ground.set_first_name(linked, "Still");
    let stranger = ground.account("stranger").await;
    let report = ground.sync().await;
    assert_eq!(conflicts(&report, new), ["email_taken"]);
    assert_eq!(conflicts(&report, linked), ["email_taken"]);
    let account = ground.account("new").await;
    assert_eq!(account.ids, set([ground.login("new"), ground.marker(new)]));
    assert!(account.emails.is_empty());
    assert_eq!(ground.account("stranger").await, stranger);
    let account = ground.account("linked").await;
    // What does not depend on the address goes on.
    assert_eq!(account.name.as_deref(), Some("Still Person"));
    assert_eq!(account.emails, set([ground.email("linked")]));
    ground.nothing_to_do().await;
    // The stranger gives them up: a run for these people, or a full pass, finds out.
    ground.put("stranger", json!({"threepids": []})).await;
    ground.full().await;
    assert_eq!(ground.account("new").await.emails, set([ground.email("new")]));
    assert_eq!(ground.account("linked").await.emails, set([ground.email("changed")]));
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_without_a_usable_name_fail_alone() {
    let ground = Ground::new("unmappable").await;
    let nobody = ground.defguard.add_person(ground.new_person("nobody").email(""));
    let digits =
        ground.defguard.add_person(ground.new_person("digits").email("12345@unmappable.example.com"));
    let long = format!("{}@example.com", "x".repeat(250));
    let long = ground.defguard.add_person(ground.new_person("long").email(&long));
    let fine = ground.add("fine");
    ground.proxy.clear();
    let report = ground.sync().await;
    for (id, why) in [(nobody, "empty"), (digits, "digits"), (long, "255")] {
        assert_eq!(conflicts(&report, id), ["unmappable"]);
        let said = of(&report, id).conflicts[0].to_string();
        assert!(said.contains(why) && said.contains("localpart_template"), "{said}");
    }
    assert_eq!(of(&report, fine).state, State::Create);
    assert_eq!(ground.writes(), ["PUT fine displayname,external_ids,threepids"]);
    assert_eq!(account_at(ground.synapse, "12345").await, None);
    ground.nothing_to_do().await;
}
