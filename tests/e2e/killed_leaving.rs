//! The program killed (SIGKILL) before and after every write that takes an account from somebody or gives it back.

use std::collections::BTreeMap;

use defguard_synapse_sync::{domain::Change, reconcile::Pass};
use serde_json::{Value, json};

use crate::{
    faults::several,
    ground::Ground,
    support::proxy::{Match, Seen, any},
};

/// Who is in the story.
struct People {
    /// Becomes disabled.
    disabled: i64,
    /// Is gone.
    gone: i64,
    /// Was disabled and locked, and is enabled again.
    back: i64,
    /// Stays.
    stays: i64,
}

/// What is done with the accounts of leavers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ladder {
    /// One run that locks two and unlocks one.
    Lock,
    /// The run after it, which deactivates.
    Deactivate,
}

/// Everything before the run that is killed.
async fn begin(name: &str, ladder: Ladder) -> (Ground, People) {
    let ground = Ground::new(name)
        .await
        .with("synapse.concurrency", "1")
        .with("off_boarding.absence_min_age", "\"1s\"")
        .with("off_boarding.sessions_on_lock", "\"end\"");
    let [disabled, gone, back, stays] = ["disabled", "gone", "back", "stays"].map(|who| ground.add(who));
    ground.sync().await;
    for who in ["disabled", "gone", "back", "stays"] {
        ground.put(who, json!({"password": "known to the test"})).await;
        let login = ground.synapse.login_password(&ground.n(who), "known to the test").await;
        assert_eq!(login.status, 200, "{login:?}");
    }
    ground.defguard.set_active(back, false);
    ground.defguard.delete(gone);
    ground.sync().await;
    assert!(ground.is_locked("back").await);
    // What has to pass is time itself: `absence_min_age`.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    ground.defguard.set_active(back, true);
    ground.defguard.set_active(disabled, false);
    let ground = if ladder == Ladder::Deactivate {
        ground.sync().await;
        ground.with("off_boarding.gone", "\"deactivate\"").with("off_boarding.disabled", "\"deactivate\"")
    } else {
        ground
    };
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    ground.proxy.clear();
    (ground, People { disabled, gone, back, stays })
}

/// How it must be in the end, whatever happened on the way.
async fn end(ground: &Ground, people: &People, ladder: Ladder) {
    for _ in 0..3 {
        ground.sync().await;
    }
    let deactivated = ladder == Ladder::Deactivate;
    for (who, locked) in [("disabled", true), ("gone", true), ("back", false), ("stays", false)] {
        let account = ground.synapse.account(&ground.n(who)).await.body;
        assert_eq!(account["locked"], locked, "{}: {who} {account:#}", ground.name);
        assert_eq!(account["deactivated"], locked && deactivated, "{}: {who} {account:#}", ground.name);
        let sessions = ground.admin_list(who, "v2", "devices", "devices").await;
        let journal = ground.journal();
        assert_eq!(sessions, usize::from(who == "stays"), "{}: {who}: {journal:#?}", ground.name);
    }
    // Each change is told once, whether it was seen to succeed or found done.
    let mut told: BTreeMap<(i64, &str), usize> = BTreeMap::new();
    for entry in ground.journal() {
        *told.entry((entry.id.0, entry.change.kind())).or_default() += 1;
    }
    let mut expected = BTreeMap::from([
        ((people.disabled, "locked"), 1),
        ((people.gone, "locked"), 1),
        ((people.back, "locked"), 1),
        ((people.back, "unlocked"), 1),
    ]);
    for id in [people.disabled, people.gone, people.back] {
        expected.insert((id, "sessions_ended"), 1);
    }
    if deactivated {
        expected.insert((people.disabled, "deactivated"), 1);
        expected.insert((people.gone, "deactivated"), 1);
    }
    for id in [people.disabled, people.gone, people.back, people.stays] {
        expected.insert((id, "created"), 1);
    }
    assert_eq!(told, expected, "{}: {:#?}", ground.name, ground.journal());
    if deactivated {
        for entry in ground.journal() {
            if let Change::Deactivated { before, .. } = &entry.change {
                assert_eq!(before.threepids.len(), 1, "{}: what was lost is not told", ground.name);
            }
        }
    }
    ground.nothing_to_do().await;
    // It is our lock still, which we take off.
    ground.defguard.set_active(people.disabled, true);
    let mut report = ground.run(Pass::Frequent).await;
    // An account that was deactivated is given back when Synapse has left all its rooms.
    for _ in 0..50 {
        if report.people.iter().any(|person| person.put_off.is_some()) {
            report = ground.run(Pass::Frequent).await;
        }
    }
    let account = ground.synapse.account(&ground.n("disabled")).await.body;
    assert_eq!((&account["locked"], &account["deactivated"]), (&json!(false), &json!(false)), "{report:#?}");
    assert_eq!(ground.account("disabled").await.emails.len(), 1);
    ground.nothing_to_do().await;
}

/// The writes to accounts, and the log-outs.
fn writes() -> Match {
    any().target("/_synapse/admin/v2/users/").body("{")
}

fn is_write(seen: &Seen) -> bool {
    seen.is_write() && seen.body != Value::Null
}

async fn undisturbed(name: &str, ladder: Ladder) -> usize {
    let (ground, people) = begin(name, ladder).await;
    ground.program(&["sync"]).await.with_code(0);
    let writes = ground.proxy.requests().iter().filter(|seen| is_write(seen)).count();
    end(&ground, &people, ladder).await;
    writes
}

async fn killed(name: String, ladder: Ladder, nth: usize, after: bool) {
    let (ground, people) = begin(&name, ladder).await;
    let proxy = &ground.proxy;
    let point = writes().nth(nth);
    let mut held = if after { proxy.hold_after(point) } else { proxy.hold_before(point) };
    let process = ground.start(&["sync"]);
    tokio::select! {
        () = held.reached() => {}
        () = process.gone() => panic!("{name} never came to write {nth}: {:?}", process.ended().await),
    }
    assert_eq!(process.kill().await.signal, Some(9));
    // What is held before Synapse never gets there once its sender is gone.
    proxy.wait_until(|seen| seen.iter().all(|seen| seen.status.is_some() || seen.given_up)).await;
    drop(held);
    proxy.remove_all();
    end(&ground, &people, ladder).await;
}

async fn killed_everywhere(ladder: Ladder, name: &str, least: usize) {
    let writes = undisturbed(&format!("{name}plain"), ladder).await;
    assert!(writes >= least, "{writes}");
    let points = (1..=writes).flat_map(|nth| [(nth, false), (nth, true)]);
    let stories = points.map(|(nth, after)| {
        let name = format!("{name}{nth}{}", if after { "after" } else { "before" });
        Box::pin(killed(name, ladder, nth, after)) as std::pin::Pin<Box<dyn Future<Output = ()>>>
    });
    several(stories.collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_every_lock_unlock_and_log_out_the_next_run_ends_right_and_tells_each_once() {
    // Two locks with a log-out each, and an unlock.
    killed_everywhere(Ladder::Lock, "killlock", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_every_deactivation_the_next_run_ends_right_and_nothing_that_was_lost_is_forgotten() {
    killed_everywhere(Ladder::Deactivate, "killdeact", 2).await;
}
