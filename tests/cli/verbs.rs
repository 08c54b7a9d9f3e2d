//! `sync`, `plan`, `status`, `journal`, `link` and `unlink`: outputs and exit codes.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use insta::assert_snapshot;
use serde_json::json;

use crate::{
    World, exists, keys,
    support::{
        defguard::{Fault, NewPerson},
        proxy::{Proxy, on},
    },
};

#[tokio::test]
async fn a_sync_lists_each_new_account_on_one_line_and_what_needs_attention_below() {
    let world = World::new("many").await;
    for n in 0..30 {
        world.defguard.add_person(NewPerson::named(&format!("many-{n:02}")));
    }
    world.defguard.add_person(NewPerson::named("many-Twin").email("a@example.com"));
    world.defguard.add_person(NewPerson::named("many-twin").email("b@example.com"));
    let gone = world.defguard.add_person(NewPerson::named("many-gone"));
    world.defguard.set_active(gone, false);
    let shown = world.run(&["sync"]).await.ends_with(0);
    assert_eq!(shown.err, "", "there is no bar where no terminal is");
    assert_eq!(shown.out.lines().filter(|line| line.contains("account created")).count(), 30);
    assert!(shown.out.lines().all(|line| line.trim_end() == line), "{shown:?}");
    let below = shown.out.split_once("Needs somebody's attention").unwrap().1;
    assert_snapshot!("sync_below_the_list", world.steady(below));
}

#[tokio::test]
async fn a_sync_changes_and_then_has_nothing_to_do() {
    let world = World::new("calm").await;
    let id = world.defguard.add_person(NewPerson::named("calm-ann").name("Ann", "Old"));
    world.run(&["sync"]).await.ends_with(0);
    world.defguard.update(id, |row| row.last_name = "New".to_owned());
    let plan = world.run(&["plan"]).await.ends_with(0);
    assert_snapshot!("plan", world.steady(&plan.out));
    assert_eq!(world.steady(&world.run(&["sync", "--dry-run"]).await.out), world.steady(&plan.out));
    let shown = world.run(&["sync", "calm-ann"]).await.ends_with(0);
    assert_snapshot!("sync_of_one_change", world.steady(&shown.out));
    let shown = world.run(&["sync"]).await.ends_with(0);
    assert_snapshot!("sync_with_nothing_to_do", world.steady(&shown.out));
    let journal = world.run(&["journal"]).await.ends_with(0);
    assert_snapshot!("journal", world.steady(&journal.out));
    let run = world.run(&["journal", "--run", "2", "--json"]).await.ends_with(0).json();
    assert_eq!(run[0]["change"], json!({ "kind": "display_name", "before": "Ann Old", "after": "Ann New" }));
    assert_eq!(run.as_array().unwrap().len(), 1);
    let status = world.run(&["status"]).await.ends_with(0);
    assert_snapshot!("status", world.steady(&status.out));
}

#[tokio::test]
async fn the_json_of_runs_and_status_has_its_documented_keys() {
    let world = World::new("keys").await;
    world.defguard.add_person(NewPerson::named("keys-ann"));
    let report = world.run(&["sync", "--json"]).await.ends_with(0).json();
    assert_eq!(
        keys(&report),
        [
            "run",
            "pass",
            "began",
            "ended",
            "dry_run",
            "completeness",
            "people",
            "unknown",
            "held",
            "failure",
            "interrupted"
        ]
    );
    let person = report["people"].as_array().unwrap().iter().find(|it| it["username"] == "keys-ann").unwrap();
    assert_eq!(
        keys(person),
        ["id", "username", "state", "mxid", "conflicts", "notes", "steps", "done", "failure", "put_off"]
    );
    assert_eq!(
        (person["state"].as_str(), &person["done"]),
        (Some("create"), &json!([{ "kind": "created" }]))
    );
    let plan = world.run(&["plan", "--json"]).await.ends_with(0).json();
    assert_eq!((&plan["run"], &plan["dry_run"]), (&json!(null), &json!(true)));
    let status = world.run(&["status", "--json"]).await.ends_with(0).json();
    assert_eq!(
        keys(&status),
        [
            "version",
            "daemon",
            "links",
            "conflicts",
            "failing",
            "unfinished",
            "hold",
            "lost",
            "watched",
            "runs"
        ]
    );
    let journal = world.run(&["journal", "keys-ann", "--json"]).await.ends_with(0).json();
    assert_eq!(keys(&journal[0]), ["run", "at", "id", "mxid", "change"]);
}

#[tokio::test]
async fn a_question_makes_no_store_and_a_dry_run_writes_nothing() {
    let world = World::new("dry").await;
    let proxy = Proxy::start(&world.synapse.url()).await;
    world.configure_for(world.defguard.url().as_str(), &proxy.url(), "");
    world.defguard.add_person(NewPerson::named("dry-ann"));
    for verb in [&["plan"][..], &["sync", "--dry-run"], &["explain", "dry-ann"], &["status"], &["journal"]] {
        world.run(verb).await.ends_with(0);
    }
    assert!(!exists(&world.state()), "a question made a store");
    assert_eq!(proxy.writes().len(), 0);
    world.run(&["sync"]).await.ends_with(0);
    assert!(exists(&world.state().join("store.id")));
}

#[tokio::test]
async fn exit_codes_tell_what_went_wrong() {
    let world = World::new("codes").await;
    world.defguard.add_person(NewPerson::named("codes-ann"));
    let proxy = Proxy::start(&world.synapse.url()).await;
    world.configure_for(world.defguard.url().as_str(), &proxy.url(), "");

    let shown = world.run(&["sync", "codes-ann", "codes-nobody"]).await.ends_with(3);
    assert!(shown.err.contains("codes-nobody"), "{shown:?}");

    world.defguard.add_person(NewPerson::named("codes-bob"));
    let rule = proxy.answer(
        on(http::Method::PUT, "codes-bob"),
        400,
        r#"{"errcode":"M_UNKNOWN","error":"not today"}"#,
    );
    let shown = world.run(&["sync"]).await.ends_with(3);
    assert!(shown.out.contains("codes-bob") && shown.out.contains("not today"), "{shown:?}");
    proxy.remove(rule);
    let status = world.run(&["status"]).await.ends_with(0);
    assert!(status.out.contains("failed once since"), "{status:?}");
    let shown = world.run(&["explain", "codes-bob"]).await.ends_with(0);
    assert!(!shown.out.is_empty());

    world.defguard.faults().add(Fault::html());
    let shown = world.run(&["sync"]).await.ends_with(5);
    assert!(shown.err.contains("error: Defguard:") && shown.err.contains("→"), "{shown:?}");
    assert_eq!(world.run(&["explain", "codes-ann"]).await.code, 5);
    let report = world.run(&["sync", "--json"]).await.ends_with(5).json();
    assert_eq!(report["failure"]["peer"], "defguard");
    world.defguard.faults().clear();

    // What only the store knows can be asked while a server is down.
    world.configure_for("http://127.0.0.1:9/", "http://127.0.0.1:9", "");
    world.run(&["status"]).await.ends_with(0);
    world.run(&["journal"]).await.ends_with(0);
}

#[tokio::test]
async fn a_link_is_shown_first_refused_with_a_reason_and_done_with_yes() {
    let world = World::new("hand").await;
    let id = world.defguard.add_person(NewPerson::named("hand-ann"));
    world.synapse.put_account("hand-ann", &json!({})).await;
    world.run(&["sync"]).await.ends_with(0);
    let mxid = world.synapse.mxid("hand-ann");

    let asked = world.run(&["link", "hand-ann", &mxid]).await.ends_with(1);
    assert_snapshot!("link_asked", world.steady(&asked.err).replace(&id.to_string(), "<id>"));
    assert_eq!(asked.out, "");
    for (arguments, why) in [
        (["link", "hand-ann", "@hand-none:sync.test", "--yes"], "there is no account"),
        (["link", "hand-ann", "@hand-ann:example.org", "--yes"], "not on this homeserver"),
        (["link", "hand-nobody", &mxid, "--yes"], "nobody"),
        (["link", "hand-ann", world.synapse.admin_mxid(), "--yes"], "this service itself uses"),
        (["unlink", "hand-ann", "--yes", "--json"], "linked to no account"),
    ] {
        let shown = world.run(&arguments).await.ends_with(1);
        assert!(shown.err.contains(why), "{arguments:?}: {shown:?}");
    }
    let done = world.run(&["link", "hand-ann", &mxid, "--yes"]).await.ends_with(0);
    assert_snapshot!("link_done", world.steady(&done.out).replace(&id.to_string(), "<id>"));
    let undone = world.run(&["unlink", "hand-ann", "--yes", "--json"]).await.ends_with(0).json();
    assert_eq!(keys(&undone), ["id", "username", "steps", "warnings", "done", "refused"]);
    let journal = world.run(&["journal", "hand-ann"]).await.ends_with(0);
    assert!(journal.out.contains("by hand") && journal.out.contains("unlinked"), "{journal:?}");
    let ids = &world.synapse.account("hand-ann").await.body["external_ids"];
    assert_eq!(*ids, json!([]));
}

#[tokio::test]
async fn the_journal_of_somebody_unknown_is_a_failure_with_advice() {
    let world = World::new("jour").await;
    let shown = world.run(&["journal", "jour-nobody"]).await.ends_with(1);
    assert!(shown.err.contains("'#13'"), "{shown:?}");
    let shown = world.run(&["journal"]).await.ends_with(0);
    assert_eq!(shown.out, "The journal has nothing about that.\n");
}

#[tokio::test]
async fn ctrl_c_lets_a_sync_finish_the_people_in_hand() {
    let world = World::new("ctrlc").await;
    for n in 0..20 {
        world.defguard.add_person(NewPerson::named(&format!("ctrlc-{n:02}")));
    }
    let proxy = Proxy::start(&world.synapse.url()).await;
    world.configure_for(world.defguard.url().as_str(), &proxy.url(), "");
    let mut held = proxy.hold_before(on(http::Method::PUT, "ctrlc-"));
    let mut sync =
        world.command(&["sync", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    held.reached().await;
    let pid = sync.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut said = BufReader::new(sync.stderr.take().unwrap());
    let (line, said) = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        (line, said)
    })
    .await
    .unwrap();
    assert!(line.contains("after the people in hand"), "{line}");
    held.release();
    let output = tokio::task::spawn_blocking(|| sync.wait_with_output().unwrap()).await.unwrap();
    drop(said);
    assert_eq!(output.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    let people = report["people"].as_array().unwrap();
    let made = people.iter().filter(|it| it["done"] == json!([{ "kind": "created" }])).count();
    assert!(made > 0 && made < 20, "{made} accounts were made");
    assert!(people.iter().all(|it| it["failure"].is_null()));
    let status = world.run(&["status"]).await.ends_with(0);
    assert!(status.out.contains(&format!("\n{made} pe")), "{status:?}");
    // The next one goes on.
    world.run(&["sync"]).await.ends_with(0);
    assert!(world.run(&["status"]).await.out.contains("\n20 people linked"));
}
