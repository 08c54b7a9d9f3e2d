//! `explain` for people in every situation.

use insta::assert_snapshot;
use serde_json::json;

use crate::{World, keys, support::defguard::NewPerson};

async fn world() -> World {
    let world = World::new("expl").await;
    let defguard = &world.defguard;
    defguard.add_person(NewPerson::named("expl-healthy").name("Ann", "Able").groups(&["staff"]));
    defguard.add_person(NewPerson::named("expl-Twin").name("Bea", "Both").email("bea@example.com"));
    defguard.add_person(NewPerson::named("expl-twin").name("Bob", "Both").email("bob@example.com"));
    defguard.add_person(NewPerson::named("expl-taken").name("Cid", "Taken"));
    let gone = defguard.add_person(NewPerson::named("expl-gone").name("Dan", "Gone"));
    defguard.set_active(gone, false);
    defguard.add_person(NewPerson::named("expl-guest").name("Eve", "Guest").groups(&["guests"]));
    defguard.add_person(NewPerson::named("expl-before").name("Fay", "Before"));
    defguard.add_person(NewPerson::named("expl-nameless").name("", "").email("no address"));
    defguard.add_person(NewPerson::named("0815").name("Gus", "Number"));
    world.configure("[scope]\nexclude_groups = [\"guests\"]\n");
    world.synapse.put_account("expl-taken", &json!({})).await;
    let login = json!([{ "auth_provider": "oidc-Defguard", "external_id": "expl-before" }]);
    world.synapse.put_account("expl-fay", &json!({ "external_ids": login })).await;
    world
}

#[tokio::test]
async fn explain_says_in_words_who_somebody_is_what_is_done_and_why() {
    let world = world().await;
    assert_snapshot!(
        "before_the_first_sync",
        world.steady(&world.run(&["explain", "expl-healthy"]).await.out)
    );
    world.run(&["sync"]).await.ends_with(0);
    for (name, person) in [
        ("healthy", "expl-healthy"),
        ("case_twin", "expl-Twin"),
        ("conflict", "expl-taken"),
        ("disabled", "expl-gone"),
        ("out_of_scope", "expl-guest"),
        ("logged_in_before", "expl-before"),
        ("without_name_and_address", "expl-nameless"),
        ("unmappable", "0815"),
        ("own_account", "admin"),
    ] {
        let shown = world.run(&["explain", person]).await.ends_with(0);
        assert_snapshot!(name, world.steady(&shown.out));
        assert_eq!(shown.err, "");
    }
}

#[tokio::test]
async fn explain_says_what_becomes_of_those_who_have_an_account_when_things_change() {
    let world = World::new("later").await;
    let defguard = &world.defguard;
    let renamed = defguard.add_person(NewPerson::named("later-old"));
    let left = defguard.add_person(NewPerson::named("later-left"));
    let reused = defguard.add_person(NewPerson::named("later-reused"));
    defguard.add_person(NewPerson::named("later-Name"));
    let address = json!([{ "medium": "email", "address": "later-sharer@example.com" }]);
    world.synapse.put_account("later-holder", &json!({ "threepids": address })).await;
    world.run(&["sync"]).await.ends_with(0);
    defguard.rename(renamed, "later-new");
    defguard.set_active(left, false);
    defguard.delete(reused);
    defguard.add_person(NewPerson::named("later-reused"));
    defguard.add_person(NewPerson::named("later-name").email("other@example.com"));
    defguard.add_person(NewPerson::named("later-sharer"));
    for (name, person) in [
        ("renamed", "later-new"),
        ("disabled_with_an_account", "later-left"),
        ("username_used_again", "later-reused"),
        ("twin_of_somebody_linked", "later-name"),
        ("address_of_somebody_else", "later-sharer"),
        ("gone", &format!("#{reused}")),
    ] {
        let shown = world.run(&["explain", person]).await.ends_with(0);
        assert_snapshot!(name, world.steady(&shown.out));
    }
}

#[tokio::test]
async fn a_person_is_found_by_username_number_and_mxid() {
    let world = World::new("find").await;
    let id = world.defguard.add_person(NewPerson::named("find-me"));
    world.run(&["sync"]).await.ends_with(0);
    let expected = world.run(&["explain", "find-me"]).await.ends_with(0).out;
    for name in [format!("#{id}"), world.synapse.mxid("find-me")] {
        assert_eq!(world.run(&["explain", &name]).await.out, expected, "{name}");
    }
}

#[tokio::test]
async fn nobody_by_that_name_is_a_failure_with_advice() {
    let world = World::new("nobody").await;
    let shown = world.run(&["explain", "nobody-here"]).await.ends_with(1);
    assert_eq!(shown.out, "");
    assert!(shown.err.contains("nobody-here") && shown.err.contains("upper and lower case"), "{shown:?}");
    let shown = world.run(&["explain", "nobody-here", "--json"]).await.ends_with(1);
    assert_eq!(shown.json(), json!(null));
}

#[tokio::test]
async fn the_json_of_an_explanation_has_its_documented_keys() {
    let world = World::new("json").await;
    world.defguard.add_person(NewPerson::named("json-ann"));
    let shown = world.run(&["explain", "json-ann", "--json"]).await.ends_with(0).json();
    assert_eq!(
        keys(&shown),
        [
            "person",
            "templates",
            "link",
            "report",
            "together_with",
            "usernames",
            "journal",
            "login",
            "login_rules"
        ]
    );
    assert_eq!(shown["report"]["state"], "create");
    assert_eq!(shown["report"]["mxid"], world.synapse.mxid("json-ann"));
    assert_eq!(shown["login"]["login"]["kind"], "creates");
    assert_eq!(shown["login"]["judgement"]["is"], "unwanted");
}
