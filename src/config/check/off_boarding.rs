//! `[off_boarding]` and `[guard]`.

use std::time::Duration;

use chrono::TimeDelta;

use super::{super::raw::Table, HOUR, MINUTE, globs};
use crate::domain::{GuardLimits, OffBoarding, OnLeave, SessionsOnLock};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn off_boarding(mut table: Table<'_, '_>) -> OffBoarding {
    const ON_LEAVE: [(&str, OnLeave); 3] =
        [("lock", OnLeave::Lock), ("deactivate", OnLeave::Deactivate), ("ignore", OnLeave::Ignore)];
    let delta = |duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
    let mut on = |key| table.choice(key, &ON_LEAVE, OnLeave::Lock);
    let (disabled, gone, out_of_scope) = (on("disabled"), on("gone"), on("out_of_scope"));
    let deactivate_after = table.duration_if_given("deactivate_after", HOUR, 3650 * DAY).map(delta);
    let sessions_on_lock = table.choice(
        "sessions_on_lock",
        &[("keep", Some(SessionsOnLock::Keep)), ("end", Some(SessionsOnLock::End))],
        None,
    );
    let settings = OffBoarding {
        disabled,
        gone,
        out_of_scope,
        deactivate_after,
        sessions_on_lock,
        absence_confirmations: table.number(
            "absence_confirmations",
            2,
            2..101,
            "one list alone can lack somebody who is there",
        ),
        absence_min_age: delta(table.duration(
            "absence_min_age",
            30 * MINUTE,
            Duration::from_secs(1),
            30 * DAY,
        )),
        off_board_admins: table.flag("off_board_admins", false),
        protect: globs(&mut table, "protect").set().clone(),
    };
    table.close();
    settings
}

pub(super) fn guard(mut table: Table<'_, '_>) -> GuardLimits {
    let default = GuardLimits::default();
    let why = "the guard cannot be turned off; what it holds can be let run with `approve`";
    let settings = GuardLimits {
        min_count: table.number("min_count", default.min_count, 1..101, why),
        percent: table.number("percent", default.percent, 1..31, why),
        max_count: table.number("max_count", default.max_count, 1..1001, why),
        shrink_percent: table.number("shrink_percent", default.shrink_percent, 1..31, why),
    };
    table.close();
    settings
}
