//! From a document to [`Settings`]: every key is read, defaults are filled in, and what is wrong is collected.

mod events;
mod mapping;
mod monitoring;
mod off_boarding;
mod servers;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use globset::{GlobBuilder, GlobSetBuilder};

use super::{
    environment::Environment,
    finding::Place,
    raw::{Document, Table, nearest},
    secrets,
    settings::{
        AccountSettings, Checked, ControlSettings, Globs, LogFormat, LogSettings, ScheduleSettings,
        ScopeSettings, Settings, StateSettings, TemplateTexts,
    },
};
use crate::{
    domain::{FieldPolicy, OnConflict},
    schedule::Cron,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

const STATE_DIRECTORY: &str = "/var/lib/defguard-synapse-sync";
const RUNTIME_DIRECTORY: &str = "/run/defguard-synapse-sync";

/// The longest path of a Unix socket (`sun_path` in unix(7), without the closing NUL).
const LONGEST_SOCKET: usize = 107;

/// Reads all tables. `None` if something that has no default is missing or wrong; the reason is among the findings.
pub(super) fn settings(
    document: &mut Document<'_>,
    env: &Environment,
    now: DateTime<Utc>,
) -> Option<Settings> {
    let (synapse, origin) = servers::synapse(document.table("synapse"), env);
    let templates = mapping::templates(document.table("templates"), &origin);
    let defguard = servers::defguard(document.table("defguard"), &origin, env);
    let scope = scope(document.table("scope"));
    let accounts = accounts(document.table("accounts"));
    let off_boarding = off_boarding::off_boarding(document.table("off_boarding"));
    let guard = off_boarding::guard(document.table("guard"));
    let schedule = schedule(document.table("schedule"), now);
    let state = state(document.table("state"), env);
    let control = control(document.table("control"), env);
    let webhook = events::webhook(document.table("webhook"), env);
    let notices = events::notices(document.table("notices"));
    let monitoring = monitoring::monitoring(document.table("monitoring"));
    let log = log(document.table("log"));
    Some(Settings {
        defguard: defguard?,
        scope,
        synapse: synapse?,
        templates: templates?,
        accounts,
        off_boarding,
        guard,
        schedule: schedule?,
        state,
        control,
        webhook: webhook?,
        notices: notices?,
        monitoring,
        log,
        _checked: Checked,
    })
}

/// Reads nothing but the templates, in this config or in the homeserver's own.
pub(super) fn templates(document: &mut Document<'_>, env: &Environment) -> Option<TemplateTexts> {
    let mut synapse = document.table("synapse");
    let idp_id = synapse.text("idp_id");
    let origin = mapping::origin(&mut synapse, idp_id.as_ref(), env);
    mapping::templates(document.table("templates"), &origin)
}

/// Reads what is needed to ask the daemon.
pub(super) fn asking(document: &mut Document<'_>, env: &Environment) -> (ControlSettings, LogSettings) {
    (control(document.table("control"), env), log(document.table("log")))
}

fn scope(mut table: Table<'_, '_>) -> ScopeSettings {
    let settings = ScopeSettings {
        include_groups: globs(&mut table, "include_groups"),
        exclude_groups: globs(&mut table, "exclude_groups"),
        exclude_users: globs(&mut table, "exclude_users"),
        require_enrolled: table.flag("require_enrolled", false),
        include_own_account: table.flag("include_own_account", false),
    };
    table.close();
    settings
}

fn globs(table: &mut Table<'_, '_>, key: &'static str) -> Globs {
    let mut patterns = Vec::new();
    let mut set = GlobSetBuilder::new();
    for pattern in table.texts(key).map(|list| list.value).unwrap_or_default() {
        match GlobBuilder::new(&pattern.value).backslash_escape(true).build() {
            Ok(_) if pattern.value.is_empty() => table.find(pattern.at.error(
                "an empty pattern fits nobody",
                "Take it out, or write a name, perhaps with * or ? in it.",
            )),
            Ok(glob) => {
                set.add(glob);
                patterns.push(pattern.value);
            }
            Err(error) => table.find(pattern.at.error(
                format!("this is not a pattern: {}", error.kind()),
                "Write a name in which * stands for any text, ? for one character and [ab] for one of some; put a \
                 backslash before such a character to mean itself.",
            )),
        }
    }
    let set = set.build().unwrap_or_else(|error| {
        table.find(table.missing(key).error(
            format!("the patterns cannot be used together: {}", error.kind()),
            "Write fewer or shorter ones.",
        ));
        globset::GlobSet::empty()
    });
    Globs { patterns, set }
}

fn accounts(mut table: Table<'_, '_>) -> AccountSettings {
    const FIELD: [(&str, FieldPolicy); 4] = [
        ("enforce", FieldPolicy::Enforce),
        ("on-change", FieldPolicy::OnChange),
        ("initial", FieldPolicy::Initial),
        ("ignore", FieldPolicy::Ignore),
    ];
    let settings = AccountSettings {
        on_conflict: table.choice(
            "on_conflict",
            &[
                ("report", OnConflict::Report),
                ("adopt-if-same-email", OnConflict::AdoptIfSameEmail),
                ("adopt", OnConflict::Adopt),
                ("suffix", OnConflict::Suffix),
            ],
            OnConflict::Report,
        ),
        display_name: table.choice("display_name", &FIELD, FieldPolicy::OnChange),
        email: table.choice("email", &FIELD, FieldPolicy::Enforce),
    };
    table.close();
    settings
}

fn schedule(mut table: Table<'_, '_>, now: DateTime<Utc>) -> Option<ScheduleSettings> {
    let timezone = timezone(&mut table);
    let jitter = table.duration("jitter", 30 * SECOND, Duration::ZERO, HOUR);
    let sync = cron(&mut table, "sync", "*/5 * * * *", timezone, jitter, now);
    let full = cron(&mut table, "full", "17 3 * * *", timezone, jitter, now);
    let catch_up = table.flag("catch_up", true);
    table.close();
    Some(ScheduleSettings { sync: sync?, full: full?, timezone, jitter, catch_up })
}

fn timezone(table: &mut Table<'_, '_>) -> Tz {
    let Some(name) = table.text("timezone") else { return Tz::UTC };
    name.value.parse().unwrap_or_else(|_| {
        let hint = nearest(&name.value, TZ_VARIANTS.iter().map(|zone| zone.name()))
            .map_or_else(String::new, |zone| format!(" Did you mean \"{zone}\"?"));
        table.find(name.at.error(
            "there is no such time zone",
            format!("Write a name of the IANA list, such as \"Europe/Berlin\" or \"UTC\".{hint}"),
        ));
        Tz::UTC
    })
}

fn cron(
    table: &mut Table<'_, '_>,
    key: &'static str,
    default: &str,
    zone: Tz,
    jitter: Duration,
    now: DateTime<Utc>,
) -> Option<Cron> {
    let given = table.text(key);
    let at = given.as_ref().map_or_else(|| table.missing(key), |text| text.at.clone());
    let text = given.map_or_else(|| default.to_owned(), |text| text.value);
    let expression = match Cron::parse(&text, zone, now) {
        Ok(expression) => expression,
        Err(problem) => {
            table.find(at.error(problem.to_string(), format!("The default is \"{default}\".")));
            return None;
        }
    };
    if counts_weekdays(&text) {
        table.find(at.warning(
            "the day of the week is given by number, and here 1 is Sunday and 7 is Saturday, while 1 is Monday in a \
             crontab",
            "Write Mon, Tue, Wed, Thu, Fri, Sat, Sun instead.",
        ));
    }
    let first = expression.next(now);
    if let (Some(first), Some(second)) = (first, first.and_then(|first| expression.next(first))) {
        let gap = (second - first).to_std().unwrap_or_default();
        if gap < 10 * SECOND {
            table.find(at.warning(
                format!("this comes true every {}", humantime::format_duration(gap)),
                "Of 6 fields the first is the second: write 0 there, or leave it out.",
            ));
        } else if gap <= jitter {
            table.find(at.warning(
                "the random delay (`schedule.jitter`) is longer than the time between two runs",
                "Make `schedule.jitter` shorter, or let it run less often.",
            ));
        }
    }
    Some(expression)
}

/// Whether the day of the week is given by number. Elsewhere 1 is Monday; here it is Sunday.
fn counts_weekdays(text: &str) -> bool {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let weekday = match fields.as_slice() {
        [_, _, _, _, weekday] | [_, _, _, _, _, weekday] | [_, _, _, _, _, weekday, _] => *weekday,
        _ => return false,
    };
    // A step (behind a slash) counts nothing.
    weekday
        .split(',')
        .filter_map(|part| part.split('/').next())
        .any(|part| part.contains(|c: char| c.is_ascii_digit()))
}

fn state(mut table: Table<'_, '_>, env: &Environment) -> StateSettings {
    let default = env.directory("STATE_DIRECTORY").unwrap_or_else(|| PathBuf::from(STATE_DIRECTORY));
    let settings = StateSettings {
        directory: path(&mut table, "directory").unwrap_or(default),
        keep_days: table.number("keep_days", 400, 1..36501, "it is a number of days"),
    };
    table.close();
    settings
}

fn control(mut table: Table<'_, '_>, env: &Environment) -> ControlSettings {
    let given = table.text("socket");
    let at = given.as_ref().map_or_else(|| table.missing("socket"), |text| text.at.clone());
    let default = || env.directory("RUNTIME_DIRECTORY").unwrap_or_else(|| PathBuf::from(RUNTIME_DIRECTORY));
    let socket = match given.map(|text| secrets::absolute(&text)) {
        Some(Ok(socket)) => socket,
        Some(Err(finding)) => {
            table.find(finding);
            PathBuf::new()
        }
        None => default().join("control.sock"),
    };
    if socket.as_os_str().len() > LONGEST_SOCKET {
        table.find(at.error(
            format!("the path of a Unix socket can have {LONGEST_SOCKET} bytes, and this one has more"),
            "Choose a shorter path.",
        ));
    }
    table.close();
    ControlSettings { socket }
}

fn log(mut table: Table<'_, '_>) -> LogSettings {
    use tracing::Level;
    let settings = LogSettings {
        level: table.choice(
            "level",
            &[
                ("error", Level::ERROR),
                ("warn", Level::WARN),
                ("info", Level::INFO),
                ("debug", Level::DEBUG),
                ("trace", Level::TRACE),
            ],
            Level::INFO,
        ),
        format: table.choice(
            "format",
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            LogFormat::Text,
        ),
    };
    table.close();
    settings
}

fn path(table: &mut Table<'_, '_>, key: &'static str) -> Option<PathBuf> {
    let text = table.text(key)?;
    match secrets::absolute(&text) {
        Ok(path) => Some(path),
        Err(finding) => {
            table.find(finding);
            None
        }
    }
}

/// The place of the whole config, for findings about none of its keys.
pub(super) fn whole(file: &Path) -> Place {
    Place::key(file, "")
}
