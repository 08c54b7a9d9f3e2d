//! What notices say. They name people by number only: a room has more readers than the log.

use chrono::{DateTime, Utc};

use crate::domain::{DefguardId, Held, Standoff};

/// How many people, or reasons, are named one by one.
const NAMED: usize = 10;

fn moment(at: DateTime<Utc>) -> String {
    format!("{} UTC", at.format("%Y-%m-%d %H:%M"))
}

/// The guard holds something.
pub(super) fn held(held: &Held) -> String {
    let mut text = format!("The guard has been holding a part of the plan since {}.", moment(held.since));
    for (harm, count) in held.counts() {
        text.push_str(&format!(
            "\n- {count} {} would {harm}",
            if count == 1 { "account" } else { "accounts" }
        ));
    }
    for reason in held.reasons.iter().take(NAMED) {
        text.push_str(&format!("\n- why: {}; {}", reason.why, reason.mend));
    }
    text.push_str("\nSee it with: defguard-synapse-sync plan");
    if let Some(digest) = &held.digest {
        text.push_str(&format!("\nIf it is right: defguard-synapse-sync approve {digest}"));
    }
    text
}

/// Defguard has been unusable for long.
pub(super) fn down(since: DateTime<Utc>, why: &str) -> String {
    format!(
        "Defguard could not be used since {}, so no account has been brought in step: {why}\nSee: \
         defguard-synapse-sync check",
        moment(since)
    )
}

/// Defguard can be used again.
pub(super) fn up(since: DateTime<Utc>) -> String {
    format!("Defguard can be used again; it could not since {}.", moment(since))
}

/// People are newly in conflict, out of `all` who are.
pub(super) fn conflicts(new: &[(&DefguardId, &Standoff)], all: usize) -> String {
    let mut text = match new.len() {
        1 => "1 person is newly in conflict".to_owned(),
        count => format!("{count} people are newly in conflict"),
    };
    if all > new.len() {
        text.push_str(&format!(" ({all} in all)"));
    }
    text.push(':');
    for (id, standoff) in new.iter().take(NAMED) {
        let kinds: Vec<String> =
            standoff.conflicts.iter().map(|conflict| conflict.kind().replace('_', " ")).collect();
        text.push_str(&format!("\n- #{id}: {}", kinds.join(", ")));
    }
    if new.len() > NAMED {
        text.push_str(&format!("\n- and {} more", new.len() - NAMED));
    }
    text.push_str("\nSee each with: defguard-synapse-sync explain '#NUMBER'");
    text
}
