//! Tells systemd how the service is: ready, what it did last, that it is alive, that it reads its config again or ends.
//!
//! Without systemd (no `NOTIFY_SOCKET`) nothing is sent.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use sd_notify::NotifyState;

use crate::engine::RunReport;

/// The exit code of a run of which the guard holds a part.
const HELD: u8 = 4;

/// What a status line can hold, in characters.
const LONGEST_STATUS: usize = 300;

/// The way to systemd.
#[derive(Debug)]
pub struct Systemd {
    /// The watchdog's patience, if there is one.
    watchdog: Option<Duration>,
    last_ping: Mutex<Option<Instant>>,
}

impl Systemd {
    /// As the environment says. `longest_silence` is how long the work may honestly take from one sign of life to the
    /// next: a watchdog with less than twice that patience is asked for more.
    pub fn of_process(longest_silence: Duration) -> Self {
        let systemd = Self { watchdog: sd_notify::watchdog_enabled(), last_ping: Mutex::new(None) };
        systemd.ask_for_patience(longest_silence);
        systemd
    }

    /// Asks the watchdog for more patience, if it has less than twice the longest honest silence.
    pub fn ask_for_patience(&self, longest_silence: Duration) {
        let needed = longest_silence * 2;
        if self.watchdog.is_some_and(|patience| patience < needed) {
            send(&[NotifyState::WatchdogUsec(u32::try_from(needed.as_micros()).unwrap_or(u32::MAX))]);
        }
    }

    /// How often the worker has to show that it is alive while it has nothing to do.
    pub fn interval(&self) -> Option<Duration> {
        Some(self.watchdog? / 2)
    }

    /// The work got on. Signs in quick succession are one ping.
    pub fn alive(&self) {
        let Some(watchdog) = self.watchdog else { return };
        let now = Instant::now();
        let mut last = self.last_ping.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now - last < watchdog / 4) {
            return;
        }
        *last = Some(now);
        drop(last);
        send(&[NotifyState::Watchdog]);
    }

    /// All sockets are bound and both servers were tried, or the config was read again.
    pub fn ready(&self, status: &str) {
        send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// What `systemctl status` shows.
    pub fn status(&self, status: &str) {
        send(&[NotifyState::Status(&one_line(status))]);
    }

    /// The config is about to be read again; [`Systemd::ready`] ends that.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "systemd was not told of the reload"),
        }
    }

    /// The end has begun.
    pub fn stopping(&self) {
        send(&[NotifyState::Stopping, NotifyState::Status("ending after the people in hand")]);
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// A line break would begin another message.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_STATUS).collect()
}

/// One line about the last run and the next one, in the time zone of the schedule: `last sync 12:00:05 ok, 3 changed,
/// next 12:05`.
pub fn status_line(report: &RunReport, next: Option<DateTime<Utc>>, zone: Tz) -> String {
    let ended = report.ended.with_timezone(&zone);
    let changed = report.people.iter().filter(|person| !person.done.is_empty()).count();
    let failed = report.people.iter().filter(|person| person.failure.is_some()).count();
    let outcome = match (report.exit_code(), &report.failure) {
        (0, _) => format!("ok, {changed} changed"),
        (_, Some(failure)) => format!("failed ({failure})"),
        (HELD, None) => format!("done but for what the guard holds, {changed} changed"),
        (_, None) => format!("done in part, {changed} changed, {failed} failed"),
    };
    let next = next.map_or_else(String::new, |next| {
        let next = next.with_timezone(&zone);
        let format = if next.date_naive() == ended.date_naive() { "%H:%M" } else { "%Y-%m-%d %H:%M" };
        format!(", next {}", next.format(format))
    });
    format!("last sync {} {outcome}{next}", ended.format("%H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Failure, FailureClass, Peer},
        reconcile::Pass,
    };

    fn report(ended: &str, failure: Option<Failure>) -> RunReport {
        let ended = ended.parse().unwrap();
        RunReport {
            run: None,
            pass: Pass::Frequent,
            began: ended,
            ended,
            dry_run: false,
            completeness: None,
            people: Vec::new(),
            unknown: Vec::new(),
            held: None,
            failure,
            interrupted: false,
        }
    }

    #[test]
    fn the_status_line_says_when_the_last_sync_ended_how_and_when_the_next_one_begins() {
        let next = |text: &str| Some(text.parse().unwrap());
        let ok = report("2026-01-01T12:00:05Z", None);
        assert_eq!(
            status_line(&ok, next("2026-01-01T12:05:17Z"), Tz::UTC),
            "last sync 12:00:05 ok, 0 changed, next 12:05"
        );
        assert_eq!(
            status_line(&ok, next("2026-01-01T23:05:00Z"), chrono_tz::Europe::Berlin),
            "last sync 13:00:05 ok, 0 changed, next 2026-01-02 00:05"
        );
        let why =
            Failure::new(Peer::Defguard, FailureClass::Transient, "listing people", "no answer in time");
        let failed = report("2026-01-01T12:00:05Z", Some(why.clone()));
        assert_eq!(status_line(&failed, None, Tz::UTC), format!("last sync 12:00:05 failed ({why})"));
    }

    #[test]
    fn a_status_is_one_line_however_it_came() {
        assert_eq!(one_line("a\nREADY=1"), "a READY=1");
    }
}
