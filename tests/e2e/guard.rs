//! What waits for a person: mass changes, a shrunken or empty list, a changed config; and what an approval lets run.

use defguard_synapse_sync::{
    domain::{Change, Harm, Held},
    engine::{RunReport, RunRequest},
    reconcile::Pass,
};

use crate::ground::{Ground, of};

const PEOPLE: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

/// Twelve people in step; five of a kind are let through within a day.
async fn company(name: &str) -> (Ground, Vec<i64>) {
    let ground = Ground::new(name).await.with("off_boarding.absence_min_age", "\"1s\"");
    let people = PEOPLE.iter().map(|who| ground.add(who)).collect();
    ground.sync().await;
    (ground, people)
}

async fn held(ground: &Ground) -> Held {
    let report = ground.run(Pass::Frequent).await;
    assert_eq!(report.exit_code(), 4, "{report:#?}");
    report.held.unwrap()
}

async fn approve(ground: &Ground, digest: &str) -> RunReport {
    ground
        .ask(&RunRequest { approve: Some(digest.to_owned()), ..RunRequest::everybody(Pass::Frequent) })
        .await
}

async fn locked(ground: &Ground) -> Vec<&'static str> {
    let mut locked = Vec::new();
    for who in PEOPLE {
        if ground.is_locked(who).await {
            locked.push(who);
        }
    }
    locked
}

fn count(held: &Held, harm: Harm) -> usize {
    held.steps.iter().filter(|step| step.harm == harm).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_are_disabled_at_once_wait_for_an_approval_and_one_more_does_not_wait_with_them() {
    let (ground, people) = company("massdisabled").await;
    for id in &people[..8] {
        ground.defguard.set_active(*id, false);
    }
    ground.proxy.clear();
    let first = held(&ground).await;
    assert_eq!(count(&first, Harm::LockDisabled), 8);
    assert_eq!(ground.writes(), [""; 0]);
    // One more, who has nothing to do with it, is locked at once.
    ground.defguard.set_active(people[8], false);
    let still = held(&ground).await;
    assert_eq!((still.digest.clone(), still.since), (first.digest.clone(), first.since));
    assert_eq!(locked(&ground).await, ["i"]);
    // The terminal says what is held, why, and how to let it run.
    let shown = ground.program(&["plan"]).await.with_code(4).out;
    let digest = first.digest.unwrap();
    for word in ["Held by the guard", "8 accounts would be locked", &format!("approve {digest}"), "→"] {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
    ground.program(&["approve", "0123456789ab"]).await.with_code(4);
    assert_eq!(locked(&ground).await, ["i"], "another digest lets nothing run");
    let shown = ground.program(&["approve", &digest]).await.with_code(0).out;
    assert!(shown.contains("locked: disabled in Defguard"), "{shown}");
    assert_eq!(locked(&ground).await, PEOPLE[..9]);
    ground.nothing_to_do().await;
    // It was good for once.
    assert!(ground.run(Pass::Frequent).await.held.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_good_for_what_was_shown_or_less_and_never_for_more() {
    let (ground, people) = company("approval").await;
    for id in &people[..6] {
        ground.defguard.set_active(*id, false);
    }
    let digest = held(&ground).await.digest.unwrap();
    // More than was approved of, all at once: nothing of it runs.
    for id in &people[6..12] {
        ground.defguard.set_active(*id, false);
    }
    let report = approve(&ground, &digest).await;
    assert_eq!(report.exit_code(), 4, "{report:#?}");
    assert!(report.held.unwrap().reasons.iter().any(|reason| reason.why.contains(&digest)));
    assert!(locked(&ground).await.is_empty());
    // Less than what is held by now: one is enabled again.
    let digest = held(&ground).await.digest.unwrap();
    ground.defguard.set_active(people[0], true);
    let report = approve(&ground, &digest).await;
    assert_eq!(report.exit_code(), 0, "{report:#?}");
    assert_eq!(locked(&ground).await, PEOPLE[1..]);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_lost_a_third_of_its_people_takes_nobody_for_gone() {
    let (ground, people) = company("shrunken").await;
    for id in &people[..6] {
        ground.defguard.delete(*id);
    }
    ground.proxy.clear();
    for _ in 0..2 {
        let held = held(&ground).await;
        let told = held.reasons.iter().any(|reason| reason.why.contains("lacks 6 of the 12"));
        assert!(told, "{held:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    // Once each absence is proved, a person can say that it is true.
    let held = held(&ground).await;
    assert_eq!(count(&held, Harm::LockGone), 6);
    assert_eq!(ground.writes(), [""; 0]);
    let report = approve(&ground, &held.digest.unwrap()).await;
    assert_eq!(report.exit_code(), 0, "{report:#?}");
    assert_eq!(locked(&ground).await, PEOPLE[..6]);
    ground.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_renames_everybody_is_held_and_people_who_change_their_own_name_are_not_kept_waiting()
{
    let (mut ground, people) = company("renamesall").await;
    let good = "\"{{ user.first_name }} {{ user.last_name }}\"";
    ground.set("templates.display_name_template", "\"{{ user.first_name }} {{ user.first_name }}\"");
    ground.proxy.clear();
    let first = held(&ground).await;
    assert_eq!(count(&first, Harm::DisplayName), 12);
    assert!(first.reasons.iter().any(|reason| reason.why.contains("display_name_template")), "{first:#?}");
    assert_eq!(ground.writes(), [""; 0]);
    // Other things go on.
    let new = ground.add("newcomer");
    ground.defguard.set_active(people[0], false);
    let report = ground.run(Pass::Frequent).await;
    assert_eq!(of(&report, new).done, [Change::Created]);
    assert_eq!(locked(&ground).await, ["a"]);
    // The template is put right: nothing is held any more, and nobody was renamed.
    ground.set("templates.display_name_template", good);
    ground.set_first_name(people[1], "Beatrice");
    let report = ground.run(Pass::Frequent).await;
    assert!(report.held.is_none(), "{report:#?}");
    assert_eq!(ground.account("b").await.name.as_deref(), Some("Beatrice Person"));
    assert_eq!(ground.account("c").await.name.as_deref(), Some("c Person"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrower_group_filter_locks_nobody_before_somebody_says_so() {
    let (mut ground, people) = company("narrow").await;
    for (index, id) in people.iter().enumerate() {
        ground.defguard.set_groups(*id, if index < 2 { &[] } else { &["matrix"] });
    }
    ground.set("scope.include_groups", "[\"matrix\"]");
    ground.run(Pass::Frequent).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    // Two would be few enough; but it was the config that changed, not the people.
    let held = held(&ground).await;
    assert_eq!(count(&held, Harm::LockOutOfScope), 2);
    assert!(held.reasons.iter().any(|reason| reason.why.contains("group filter")), "{held:#?}");
    assert!(locked(&ground).await.is_empty());
    let report = approve(&ground, &held.digest.unwrap()).await;
    assert_eq!(report.exit_code(), 0, "{report:#?}");
    assert_eq!(locked(&ground).await, ["a", "b"]);
    // From now on, whoever leaves the group is locked without a question.
    ground.defguard.set_groups(people[2], &[]);
    ground.run(Pass::Frequent).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(ground.run(Pass::Frequent).await.exit_code(), 0);
    assert_eq!(locked(&ground).await, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_runs_do_not_add_up_to_what_one_may_not_do() {
    let (ground, people) = company("drip").await;
    for (index, id) in people.iter().enumerate().take(6) {
        ground.defguard.set_active(*id, false);
        let report = ground.run(Pass::Frequent).await;
        assert_eq!(report.exit_code(), if index < 5 { 0 } else { 4 }, "{report:#?}");
    }
    assert_eq!(locked(&ground).await, PEOPLE[..5]);
}
