//! What the guard keeps back, and who is on the way out.

use maud::{Markup, html};

use super::{
    PROGRAM, SHOWN_PEOPLE, more,
    words::{Names, counted, moment, span, with_code},
};
use crate::{
    domain::{DefguardId, Harm, Held, Username},
    serve::overview::{Countdown, Memory, NextRung, Overview},
};

/// So many people of each kind of held steps are shown.
const SHOWN_HELD: usize = 20;

/// What is held, why, and how to let it run.
pub(super) fn held(memory: &Memory, overview: &Overview, names: Names) -> Markup {
    let Some(held) = &memory.hold else { return html! {} };
    html! {
        section {
            h2.warn { "Held by the guard" }
            p.dim { "Not done, for " (span(overview.now - held.since)) " by now, because:" }
            ul {
                @for reason in &held.reasons {
                    li {
                        p { (with_code(&names.show(&reason.why))) }
                        p.mend { (with_code(&names.show(&reason.mend))) }
                    }
                }
                @for (harm, count) in held.counts() {
                    li {
                        p { strong { (counted(count, "account", "accounts")) } " would " (harm) ":" }
                        p.small { (people(held, harm, memory, names)) }
                    }
                }
            }
            @match &held.digest {
                Some(digest) => {
                    p { code { (PROGRAM) " plan" } " shows all of it. If all of this is meant, let it run once:" }
                    pre { code { (PROGRAM) " approve " (digest) } }
                }
                None if held.steps.is_empty() => {}
                None => p { "No approval lets this run before the cause is mended." }
            }
        }
    }
}

/// The people to whom one kind of thing would be done.
fn people(held: &Held, harm: Harm, memory: &Memory, names: Names) -> String {
    let mut ids: Vec<DefguardId> =
        held.steps.iter().filter(|step| step.harm == harm).map(|step| step.id).collect();
    ids.dedup();
    let shown = ids.iter().take(SHOWN_HELD).map(|id| names.person(*id, username(memory, *id)));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if ids.len() > SHOWN_HELD {
        text.push_str(&format!(" and {} more", ids.len() - SHOWN_HELD));
    }
    text
}

/// Who left and is still a server admin.
pub(super) fn admins(memory: &Memory, overview: &Overview, names: Names) -> Markup {
    let leavers = &overview.health.admin_leavers;
    html! {
        @if !leavers.is_empty() {
            section {
                h2.bad { "Left, and still a server admin: " (counted(leavers.len(), "person", "people")) }
                ul {
                    @for (id, why) in leavers.iter().take(SHOWN_PEOPLE) {
                        li { strong { (names.person(*id, username(memory, *id))) } ": " (why) }
                    }
                }
                (more(leavers.len()))
                p.mend {
                    "A server admin is not locked by itself. Take the admin right away in Synapse, or set "
                    code { "off_boarding.off_board_admins = true" }
                }
            }
        }
    }
}

/// What comes next for those on the way out.
pub(super) fn ladder(memory: &Memory, overview: &Overview, names: Names) -> Markup {
    let countdowns = memory.countdowns(&overview.off_boarding);
    let (locked, deactivated) = memory.off_boarded();
    html! {
        @if !countdowns.is_empty() || locked + deactivated > 0 {
            section {
                h2 { "On the way out" }
                p.dim.small {
                    "Locked by this service: " (locked) ". Deactivated by it: " (deactivated) "."
                }
                @if !countdowns.is_empty() {
                    ul {
                        @for countdown in countdowns.iter().take(SHOWN_PEOPLE) {
                            li {
                                strong { (names.person(countdown.id, username(memory, countdown.id))) }
                                ": " (countdown.why) "; "
                                (next(countdown, overview))
                            }
                        }
                    }
                    (more(countdowns.len()))
                }
            }
        }
    }
}

fn next(countdown: &Countdown, overview: &Overview) -> Markup {
    let due = countdown.at <= overview.now;
    match countdown.next {
        NextRung::Lock { runs, needed } => html! {
            "missed by " (counted(runs as usize, "run", "runs")) " of " (needed) ", locked "
            @if due { "by the next run that misses them" } @else { (moment(countdown.at, overview)) " at the earliest" }
        },
        NextRung::Deactivate => html! {
            "locked, deactivated "
            @if due { "by the next run" } @else { (moment(countdown.at, overview)) }
        },
    }
}

fn username(memory: &Memory, id: DefguardId) -> Option<&Username> {
    memory.links.get(&id).map(|link| &link.username)
}
