//! The status page: from how the service is to HTML, without a script and without anything from elsewhere.
//!
//! Everything that is shown is escaped by the template language.

mod chart;
mod leavers;
mod words;

use maud::{DOCTYPE, Markup, PreEscaped, html};

pub use self::words::without_names;
use self::words::{Names, counted, full, moment, short, size, span, took, with_code};
use super::{
    health::{PEERS, Use},
    overview::{Memory, Overview},
};
use crate::{
    domain::{Failure, FailureClass, Peer},
    reconcile::Pass,
};

/// How many people a list shows.
const SHOWN_PEOPLE: usize = 100;

/// How many runs the table shows; the charts show all that are there.
const SHOWN_RUNS: usize = 10;

/// The program, as it is called in a shell.
const PROGRAM: &str = "defguard-synapse-sync";

/// After so many seconds a browser asks again.
const REFRESH: u32 = 60;

const STYLE: &str = include_str!("style.css");

/// A small picture for the tab: two arrows, one from each side.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath \
     d='M1 6h10L8 3h3l4 4H1zM15 10H5l3 3H5L1 9h14z' fill='%232f6fb3'/%3E%3C/svg%3E";

/// How things are, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mood {
    Good,
    Starting,
    Trouble,
    Bad,
}

impl Mood {
    fn of(overview: &Overview) -> Self {
        let uses = PEERS.map(|peer| overview.health.of(peer));
        let overdue = overview.success_due.is_some_and(|due| due < overview.now);
        let unusable = uses.iter().any(|of| of.failure().is_some());
        let admins = !overview.health.admin_leavers.is_empty();
        if !overview.working || overview.memory.is_err() || unusable || overdue || admins {
            return Self::Bad;
        }
        let trouble = overview.memory.as_ref().is_ok_and(|memory| {
            memory.hold.is_some() || !memory.conflicts.is_empty() || !memory.failing.is_empty()
        });
        if trouble {
            Self::Trouble
        } else if uses.iter().any(|of| **of == Use::Untried) {
            Self::Starting
        } else {
            Self::Good
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Good => "All is well",
            Self::Starting => "No run yet",
            Self::Trouble => "Somebody needs you",
            Self::Bad => "Something is wrong",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Starting => "dim",
            Self::Trouble => "warn",
            Self::Bad => "bad",
        }
    }
}

/// The whole page. With `names`, people are named; otherwise they are shown by their number in Defguard.
pub fn render(overview: &Overview, names: bool) -> String {
    let names = Names(names);
    let mood = Mood::of(overview);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                meta http-equiv="refresh" content=(REFRESH);
                title { (mood.text()) " – " (PROGRAM) }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header {
                        h1 { (PROGRAM) }
                        span.state.(mood.class()) { (mood.text()) }
                        span.dim.small { (full(overview.now)) }
                    }
                    (facts(overview))
                    (servers(overview, names))
                    @match &overview.memory {
                        Ok(memory) => {
                            (leavers::admins(memory, overview, names))
                            (leavers::held(memory, overview, names))
                            (conflicts(memory, overview, names))
                            (failing(memory, overview, names))
                            (leavers::ladder(memory, overview, names))
                            (runs(memory, overview, names))
                        }
                        Err(failure) => section { h2 { "The store cannot be read" } (trouble(failure, names)) }
                    }
                    (foot(overview))
                }
            }
        }
    };
    page.into_string()
}

fn facts(overview: &Overview) -> Markup {
    let memory = overview.memory.as_ref().ok();
    let number =
        |of: fn(&Memory) -> usize| memory.map_or_else(|| "?".to_owned(), |memory| of(memory).to_string());
    let mark = |of: fn(&Memory) -> usize, class: &'static str| {
        memory.filter(|memory| of(memory) > 0).map_or("", |_| class)
    };
    let in_conflict: fn(&Memory) -> usize = |memory| memory.conflicts.len();
    let failing: fn(&Memory) -> usize = |memory| memory.failing.len();
    let overdue = overview.success_due.is_some_and(|due| due < overview.now);
    html! {
        section {
            dl.facts {
                div {
                    dt { "Last success" }
                    dd class=(if overdue { "bad" } else { "" }) {
                        @match overview.health.last_success {
                            Some(at) => { (moment(at, overview)) small { (short(at)) } }
                            None => { "never" }
                        }
                        @if overdue { small { "overdue" } }
                    }
                }
                div {
                    dt { "Next run" }
                    dd {
                        @if let Some(since) = overview.running_since {
                            "now"
                            small { "going on for " (span(overview.now - since)) }
                        } @else if !overview.working {
                            "none"
                            small { "the daemon ends" }
                        } @else if let Some((at, pass)) = overview.next {
                            (moment(at, overview))
                            small { (short(at)) @if pass == Pass::Full { ", full" } }
                        } @else {
                            "none scheduled"
                        }
                        @if overview.waiting > 0 { small { (counted(overview.waiting, "run waits", "runs wait")) } }
                    }
                }
                div { dt { "People linked" } dd { (number(|memory| memory.links.len())) } }
                div { dt { "In conflict" } dd class=(mark(in_conflict, "warn")) { (number(in_conflict)) } }
                div { dt { "Failing" } dd class=(mark(failing, "bad")) { (number(failing)) } }
            }
            @if let Some(memory) = memory {
                @if memory.unfinished > 0 {
                    p.small.dim {
                        "Unfinished work of an earlier run: " (memory.unfinished) "; the next run goes on with it."
                    }
                }
            }
        }
    }
}

fn servers(overview: &Overview, names: Names) -> Markup {
    html! {
        section {
            h2 { "Servers" }
            ul {
                @for peer in PEERS {
                    li {
                        @let name = match peer { Peer::Store => "The store", Peer::Defguard => "Defguard", Peer::Synapse => "Synapse" };
                        @match overview.health.of(peer) {
                            Use::Untried => { (name) ": " span.dim { "not needed yet" } }
                            Use::Usable => {
                                (name) ": " span.good { "usable" }
                                @if peer == Peer::Store {
                                    @if let Some(bytes) = overview.store_bytes { span.dim { ", " (size(bytes)) } }
                                }
                            }
                            Use::Unusable { since, failure } => {
                                (name) ": "
                                span.bad {
                                    @if failure.class == FailureClass::Unauthorised { "refuses our credentials" }
                                    @else { "unusable" }
                                }
                                span.dim { ", noticed " (moment(*since, overview)) }
                                (trouble(failure, names))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What failed, and what to do about it.
fn trouble(failure: &Failure, names: Names) -> Markup {
    html! {
        p { (names.show(&format!("{}: {}", failure.what, failure.why))) }
        @if let Some(mend) = &failure.mend { p.mend { (with_code(&names.show(mend))) } }
    }
}

fn conflicts(memory: &Memory, overview: &Overview, names: Names) -> Markup {
    html! {
        @if !memory.conflicts.is_empty() {
            section {
                h2 { "In conflict: " (counted(memory.conflicts.len(), "person", "people")) }
                p.dim.small { "What stands in their way only a person can solve. " code { (PROGRAM) " explain '#NUMBER'" } " tells all about one of them." }
                ul {
                    @for (id, standoff) in memory.conflicts.iter().take(SHOWN_PEOPLE) {
                        li {
                            strong { (names.person(*id, Some(&standoff.username))) }
                            span.dim { " since " (moment(standoff.since, overview)) }
                            @for conflict in &standoff.conflicts {
                                p { (names.conflict(conflict)) }
                                p.mend { (names.mend(&conflict.mend(), *id)) }
                            }
                        }
                    }
                }
                (more(memory.conflicts.len()))
            }
        }
    }
}

fn failing(memory: &Memory, overview: &Overview, names: Names) -> Markup {
    html! {
        @if !memory.failing.is_empty() {
            section {
                h2 { "Failing: " (counted(memory.failing.len(), "person", "people")) }
                ul {
                    @for (id, backoff) in memory.failing.iter().take(SHOWN_PEOPLE) {
                        @let username = memory.links.get(id).map(|link| &link.username);
                        li {
                            strong { (names.person(*id, username)) }
                            span.dim {
                                " failed " (counted(backoff.failures as usize, "time", "times"))
                                ", first " (moment(backoff.since, overview))
                                @if backoff.until > overview.now { "; tried again " (moment(backoff.until, overview)) }
                                @else { "; tried again with the next run" }
                            }
                            (trouble(&backoff.last, names))
                        }
                    }
                }
                (more(memory.failing.len()))
                p.small.dim { "At once: " code { (PROGRAM) " sync '#NUMBER'" } }
            }
        }
    }
}

/// Says that a list is longer than what is shown of it.
fn more(all: usize) -> Markup {
    html! {
        @if all > SHOWN_PEOPLE {
            p.dim { "and " (all - SHOWN_PEOPLE) " more: " code { (PROGRAM) " status" } " shows all" }
        }
    }
}

fn runs(memory: &Memory, overview: &Overview, names: Names) -> Markup {
    html! {
        section {
            h2 { "The last runs" }
            @if memory.runs.is_empty() {
                p.dim { "There was none yet." }
            } @else {
                (chart::charts(&memory.runs))
                div.wide {
                    table {
                        thead {
                            tr {
                                th { "run" } th { "began" } th.extra { "kind" } th.extra { "took" } th { "outcome" }
                            }
                        }
                        tbody {
                            @for run in memory.runs.iter().take(SHOWN_RUNS) {
                                tr {
                                    td.n { (run.id) }
                                    td.n { (moment(run.began, overview)) }
                                    td.n.extra { @if run.full { "full" } @else { "frequent" } }
                                    td.n.extra { (took(run.ended - run.began)) }
                                    td {
                                        span class=(outcome_class(run.exit_code)) { (outcome(run.exit_code)) }
                                        ": " (names.show(&run.summary))
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn outcome(exit_code: u8) -> &'static str {
    match exit_code {
        0 => "done",
        3 => "done in part",
        4 => "held",
        5 => "unusable",
        _ => "failed",
    }
}

fn outcome_class(exit_code: u8) -> &'static str {
    match exit_code {
        0 => "good",
        3 | 4 => "warn",
        _ => "bad",
    }
}

fn foot(overview: &Overview) -> Markup {
    html! {
        footer.small.dim {
            p {
                "Version " (env!("CARGO_PKG_VERSION")) ", up for " (span(overview.now - overview.started)) ". "
                a href="/metrics" { "Metrics" } ", health: "
                a href="/health/live" { "live" } ", " a href="/health/ready" { "ready" } "."
            }
        }
    }
}
