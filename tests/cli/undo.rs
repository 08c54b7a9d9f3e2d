//! `revert`, `forget`, `state` and `migrate finish`: outputs and exit codes.

use std::fs;

use insta::assert_snapshot;

use crate::{World, exists, keys, support::defguard::NewPerson};

impl World {
    /// Text without numbers of people, which other tests do not share either.
    fn unnumbered(&self, text: &str) -> String {
        regex::Regex::new(r"#\d+").unwrap().replace_all(&self.steady(text), "#<id>").into_owned()
    }
}

#[tokio::test]
async fn a_revert_is_shown_first_with_what_cannot_be_put_back_and_what_the_next_sync_does() {
    let world = World::new("undo").await;
    let ann = world.defguard.add_person(NewPerson::named("undo-ann").name("Ann", "Old"));
    let bob = world.defguard.add_person(NewPerson::named("undo-bob"));
    world.run(&["sync"]).await.ends_with(0);
    world.defguard.update(ann, |row| row.last_name = "New".to_owned());
    world.defguard.set_active(bob, false);
    world.defguard.add_person(NewPerson::named("undo-cy"));
    world.run(&["sync"]).await.ends_with(0);
    let shown = world.run(&["revert", "2", "--dry-run"]).await.ends_with(0);
    assert_snapshot!("revert_shown", world.unnumbered(&shown.out));
    let asked = world.run(&["revert", "2"]).await.ends_with(1);
    assert!(asked.out.is_empty() && asked.err.contains("nobody can be asked here"), "{asked:?}");
    let done = world.run(&["revert", "2", "--yes"]).await.ends_with(0);
    assert_snapshot!("revert_done", world.unnumbered(&done.out));
    let journal = world.run(&["journal", "--run", "2"]).await.ends_with(0);
    assert_snapshot!("journal_of_a_run", world.unnumbered(&journal.out));
    // A second time there is nothing to put back, so nobody is asked.
    let again = world.run(&["revert", "2"]).await.ends_with(0);
    assert!(again.out.contains("Of run 2, 0 accounts would be put back."), "{again:?}");
    let report = world.run(&["revert", "2", "undo-nobody", "--yes", "--json"]).await.ends_with(3);
    assert!(report.err.contains("undo-nobody"), "{report:?}");
    assert_eq!(
        keys(&report.json()),
        ["people", "unknown", "digest", "done", "interrupted", "refused", "failure"]
    );
    let refused = world.run(&["revert", "77", "--yes"]).await.ends_with(1);
    assert!(refused.err.contains("the journal has nothing of run 77"), "{refused:?}");
}

#[tokio::test]
async fn a_person_is_forgotten_after_a_yes_and_the_link_stays() {
    let world = World::new("forget").await;
    world.defguard.add_person(NewPerson::named("forget-ann"));
    world.run(&["sync"]).await.ends_with(0);
    let asked = world.run(&["forget", "forget-ann"]).await.ends_with(1);
    assert_snapshot!("forget_asked", world.unnumbered(&asked.err));
    let done = world.run(&["forget", "forget-ann", "--yes"]).await.ends_with(0);
    assert_snapshot!("forget_done", world.unnumbered(&done.out));
    let journal = world.run(&["journal", "forget-ann", "--json"]).await.ends_with(0).json();
    assert_eq!(journal, serde_json::json!([]));
    let unknown = world.run(&["forget", "forget-nobody", "--yes"]).await.ends_with(1);
    assert!(unknown.err.contains("'#13'"), "{unknown:?}");
    let shown = world.run(&["forget", "#987654", "--yes", "--json"]).await.ends_with(0).json();
    assert_eq!(keys(&shown), ["id", "username", "kept", "linked", "done", "refused"]);
    world.run(&["sync"]).await.ends_with(0);
}

#[tokio::test]
async fn a_lost_state_is_rebuilt_and_the_report_says_what_nobody_can_know() {
    let world = World::new("rebuilt").await;
    let ann = world.defguard.add_person(NewPerson::named("rebuilt-ann"));
    let bob = world.defguard.add_person(NewPerson::named("rebuilt-bob"));
    world.run(&["sync"]).await.ends_with(0);
    world.defguard.set_active(ann, false);
    world.run(&["sync"]).await.ends_with(0);
    world.defguard.delete(bob);
    fs::remove_dir_all(world.state()).unwrap();
    let shown = world.run(&["state", "rebuild"]).await.ends_with(0);
    let accounts = regex::Regex::new(r"\d+ of \d+ accounts").unwrap();
    let steady = world.unnumbered(&shown.out);
    assert_snapshot!("rebuild", accounts.replace(&steady, "<all> accounts"));
    let again = world.run(&["state", "rebuild", "--json"]).await.ends_with(0).json();
    assert_eq!(
        keys(&again),
        [
            "accounts",
            "read",
            "found",
            "known",
            "locked",
            "contradictions",
            "unreadable",
            "interrupted",
            "trusted",
            "failure"
        ]
    );
    assert_eq!((again["known"].as_u64(), again["trusted"].as_bool()), (Some(2), Some(true)));
}

#[tokio::test]
async fn a_state_that_does_not_fit_or_is_not_there_is_not_imported_or_exported() {
    let world = World::new("carry").await;
    let none = world.run(&["state", "export"]).await.ends_with(1);
    assert!(none.err.contains("there is no store yet"), "{none:?}");
    world.defguard.add_person(NewPerson::named("carry-ann"));
    world.run(&["sync"]).await.ends_with(0);
    let file = world.home.path().join("state.jsonl");
    let path = file.to_str().unwrap();
    let shown = world.run(&["state", "export", path]).await.ends_with(0);
    assert!(shown.out.starts_with("Written: 1 link(s), 1 journal line(s), 1 run(s); "), "{shown:?}");
    fs::remove_dir_all(world.state()).unwrap();
    // A file of another Defguard.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"instance\":\"carry\"", "\"instance\":\"other\"")).unwrap();
    let refused = world.run(&["state", "import", path]).await.ends_with(4);
    assert!(refused.err.contains("`other` and is `carry`"), "{refused:?}");
    let missing = world.run(&["state", "import", "/nonexistent"]).await.ends_with(1);
    assert!(missing.err.contains("/nonexistent"), "{missing:?}");
    assert!(!exists(&world.state()));
    fs::write(&file, &text).unwrap();
    // While the daemon runs, its store is in use.
    let daemon = world.daemon().await;
    let busy = world.run(&["state", "import", path]).await.ends_with(1);
    assert!(busy.err.contains("another process holds the store"), "{busy:?}");
    assert_eq!(daemon.end().await.0, 0);
    world.run(&["state", "import", path]).await.ends_with(0);
    let finished = world.run(&["migrate", "finish", "--yes"]).await.ends_with(0);
    assert!(finished.out.contains("0 accounts lost a former login"), "{finished:?}");
}
