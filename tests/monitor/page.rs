//! The status page.

use defguard_synapse_sync::serve::page::render;

use crate::{
    Monitor,
    overview::{calm, held, hostile, troubled, young},
};

#[tokio::test]
async fn the_page_loads_nothing_and_runs_nothing() {
    let answer = Monitor::of(troubled()).await.get("/", "text/html").await;
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'unsafe-inline'; img-src data:;"), "{policy}");
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let html = answer.text().await.unwrap();
    for forbidden in ["<script", "src=", "@import", "url(", "https://", "onload", "<form"] {
        assert!(!html.contains(forbidden), "{forbidden} in {html}");
    }
    // The namespace of the picture is a name, not an address.
    assert_eq!(html.matches("http://").count(), html.matches("http://www.w3.org/2000/svg").count());
}

#[test]
fn whatever_is_shown_is_shown_as_text() {
    for names in [true, false] {
        let html = render(&hostile(), names);
        assert!(!html.contains("<script") && !html.contains("<img"), "{html}");
        assert_eq!(html.matches("</style>").count(), 1);
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{html}");
    }
}

#[test]
fn people_are_numbers_unless_the_config_says_otherwise() {
    let html = render(&troubled(), false);
    for personal in ["person-3", "conflicting-", "alice", "@bob", "dörte"] {
        assert!(!html.contains(personal), "{personal} in {html}");
    }
    for shown in ["#401", "#3<", "link '#401' @…", "localpart_template gives nothing usable"] {
        assert!(html.contains(shown), "{shown} in {html}");
    }
    let html = render(&troubled(), true);
    for shown in ["conflicting-401 (#401)", "person-3 (#3)", "@alice:example.org", "dörte.müller"] {
        assert!(html.contains(shown), "{shown} in {html}");
    }
}

#[test]
fn the_first_line_says_how_things_are() {
    for (overview, mood) in
        [(young(), "No run yet"), (calm(), "All is well"), (troubled(), "Something is wrong")]
    {
        assert!(render(&overview, false).contains(&format!("<title>{mood} – ")), "{mood}");
    }
    let mut overview = troubled();
    (overview.health, overview.success_due) = (calm().health, calm().success_due);
    assert!(render(&overview, false).contains("<title>Somebody needs you – "));
    let memory = overview.memory.as_mut().unwrap();
    (memory.conflicts, memory.failing) = Default::default();
    assert!(render(&overview, false).contains("<title>Somebody needs you – "));
}

#[test]
fn the_page_says_what_is_wrong_since_when_and_what_to_do() {
    let html = render(&troubled(), false);
    for shown in [
        "refuses our credentials",
        "17 min ago",
        "the username or the password is wrong",
        "<code>defguard.username</code>",
        "overdue",
        "2 runs wait",
        "going on for 4 s",
        "failed 7 times",
        "in 40 min",
        "status 500, M_UNKNOWN",
    ] {
        assert!(html.contains(shown), "{shown} in {html}");
    }
}

#[test]
fn what_is_held_stands_there_with_the_command_that_approves_of_it() {
    let html = render(&troubled(), false);
    let digest = held().digest.unwrap();
    for shown in [
        "31 of 335 people are missing from the list",
        "<strong>31 accounts</strong> would be locked because their owners are gone:",
        "#118, #119 and 11 more",
        "<strong>3 accounts</strong> would lose an e-mail address:",
        &format!("<code>defguard-synapse-sync approve {digest}</code>"),
        "Not done, for 50 min by now",
    ] {
        assert!(html.contains(shown), "{shown} in {html}");
    }
    let mut overview = troubled();
    overview.memory.as_mut().unwrap().hold.as_mut().unwrap().digest = None;
    let html = render(&overview, false);
    assert!(html.contains("No approval lets this run") && !html.contains("<pre>"), "{html}");
    assert!(!render(&calm(), false).contains("Held by the guard"));
}

#[test]
fn those_on_the_way_out_have_their_countdown_the_soonest_first() {
    let html = render(&troubled(), true);
    let shown = [
        "person-21 (#21)</strong>: out of scope; missed by 1 run of 2, locked by the next run that misses them",
        "person-20 (#20)</strong>: gone from Defguard; missed by 1 run of 2, locked ",
        "person-22 (#22)</strong>: gone from Defguard; locked, deactivated ",
    ];
    let places: Vec<usize> =
        shown.iter().map(|text| html.find(text).unwrap_or_else(|| panic!("{text} in {html}"))).collect();
    assert!(places.is_sorted(), "{html}");
    for shown in [
        "in 22 min</time> at the earliest",
        "in 18 days</time>",
        "Locked by this service: 2. Deactivated by it: 1.",
    ] {
        assert!(html.contains(shown), "{shown} in {html}");
    }
    // Whoever is disabled is locked and stays so.
    assert!(!html.contains("person-23 (#23)"));
    assert!(
        html.contains("Left, and still a server admin: 1 person") && html.contains("person-9 (#9)"),
        "{html}"
    );
}

#[test]
fn the_charts_have_a_bar_for_every_run_in_which_something_was() {
    let overview = calm();
    let runs = &overview.memory.as_ref().unwrap().runs;
    let html = render(&overview, false);
    let bars = |class: &str| html.matches(&format!("<rect class=\"{class}\"")).count();
    assert_eq!(bars("time"), runs.len());
    assert_eq!(bars("failed"), runs.iter().filter(|run| run.failed > 0).count());
    assert_eq!(bars("changed"), runs.iter().filter(|run| run.changes.values().any(|n| *n > 0)).count());
    assert!(bars("changed") > 0 && bars("failed") > 0);
}

#[test]
fn long_lists_are_cut_and_say_so() {
    let mut overview = troubled();
    let memory = overview.memory.as_mut().unwrap();
    let standoff = memory.conflicts.values().next().unwrap().clone();
    memory.conflicts =
        (1..=250).map(|id| (defguard_synapse_sync::domain::DefguardId(id), standoff.clone())).collect();
    let html = render(&overview, false);
    assert!(html.contains("and 150 more: ") && !html.contains("#101<"), "{html}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    assert_eq!(Monitor::of(calm()).await.text("/favicon.ico").await.0, 404);
}
