//! When the passes begin: cron expressions in a time zone, with jitter.

use std::{fmt, str::FromStr as _};

use chrono::{DateTime, Datelike as _, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::{GapInfo, Tz};

use crate::reconcile::Pass;

/// The last year that the crate `cron` knows.
const LAST_YEAR: i32 = 2100;
/// Clocks are not put back by more than this (the most since 1970 were three hours, in Antarctica).
const LONGEST_FOLD: TimeDelta = TimeDelta::hours(4);

/// A cron expression in a time zone.
///
/// Ticks are moments at which the local clock shows a time that fits the expression. In the hour that comes twice in
/// autumn, they come twice as well; a tick in the hour that is missing in spring comes at the end of the gap, so that
/// a daily one is never left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    schedule: cron::Schedule,
    zone: Tz,
    text: String,
}

/// Why an expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronProblem {
    /// Too few or too many fields.
    #[error(
        "`{text}` has {count} fields; it must have 5 (minute, hour, day of month, month, day of week), or 6 with the \
         seconds in front, or 7 with the years behind as well"
    )]
    FieldCount {
        /// The expression.
        text: String,
        /// How many fields it has.
        count: usize,
    },
    /// One field is not understood.
    #[error("`{field}` is no {name} of a cron expression; {allowed}")]
    Field {
        /// The field.
        field: String,
        /// What it stands for.
        name: &'static str,
        /// What can stand there.
        allowed: &'static str,
    },
    /// A word with @ that is not known.
    #[error("`{0}` is not known; use @hourly, @daily, @weekly, @monthly or @yearly")]
    Shorthand(String),
    /// It never comes true.
    #[error("`{0}` names no time between now and the end of 2100")]
    Never(String),
}

/// The fields in their order, with what can stand in them.
const FIELDS: [(&str, &str); 7] = [
    ("second", "use 0 to 59, lists (0,30), ranges (0-29), steps (*/10) or *"),
    ("minute", "use 0 to 59, lists (0,30), ranges (0-29), steps (*/10) or *"),
    ("hour", "use 0 to 23, lists (6,18), ranges (8-17), steps (*/2) or *"),
    ("day of the month", "use 1 to 31, lists (1,15), ranges (1-7), steps (*/2), * or ?"),
    ("month", "use 1 to 12 or names such as JAN, lists, ranges upwards (JAN-MAR), steps or *"),
    (
        "day of the week",
        "use 1 to 7, where 1 is Sunday and 7 is Saturday (0 is refused), or better the names SUN to SAT; \
         ranges must go upwards from Sunday (MON-FRI, but not FRI-MON: write FRI,SAT,SUN,MON)",
    ),
    ("year", "use 1970 to 2100, lists, ranges, steps or *"),
];

impl Cron {
    /// Reads an expression of 5, 6 or 7 fields (with 5, it ticks in second 0) or one of `@hourly`, `@daily`,
    /// `@weekly`, `@monthly`, `@yearly`. It must tick at least once after `now`.
    ///
    /// In the day of the week, 1 is Sunday. If both days are restricted, a day must fit both, other than in the
    /// classic cron.
    pub fn parse(text: &str, zone: Tz, now: DateTime<Utc>) -> Result<Self, CronProblem> {
        let schedule = read(text)?;
        let cron = Self { schedule, zone, text: text.trim().to_owned() };
        match cron.next(now) {
            Some(_) => Ok(cron),
            None => Err(CronProblem::Never(cron.text)),
        }
    }

    /// The time zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first tick after a moment; `None` if there is no more.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !(1970..=LAST_YEAR).contains(&after.year()) {
            return None;
        }
        let local = self.next_local(self.local(after))?;
        let plain = self.moment(local, after)?;
        match self.in_repeated_time(after) {
            Some(repeated) if repeated < plain => Some(repeated),
            _ => Some(plain),
        }
    }

    /// The first fitting time after another on a clock that is never put forth or back.
    fn next_local(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        self.schedule.after(&after.and_utc()).next().map(|tick| tick.naive_utc())
    }

    fn local(&self, moment: DateTime<Utc>) -> NaiveDateTime {
        moment.with_timezone(&self.zone).naive_local()
    }

    /// The moment at which the local clock shows a time: of two, the first one after `after`; of none, the end of the
    /// gap.
    fn moment(&self, local: NaiveDateTime, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let found = self.zone.from_local_datetime(&local);
        let moments = [found.earliest(), found.latest()];
        let gap_end = || GapInfo::new(&local, &self.zone)?.end;
        moments
            .into_iter()
            .flatten()
            .map(|moment| moment.to_utc())
            .find(|moment| *moment > after)
            .or_else(|| gap_end().map(|end| end.to_utc()))
    }

    /// If the clock is put back soon after `after`: the first tick in the time that then comes once more. The local
    /// clock has shown that time before, so going forth on it passes over such a tick.
    fn in_repeated_time(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let offset = |moment: DateTime<Utc>| self.zone.offset_from_utc_datetime(&moment.naive_utc()).fix();
        let (old, new) = (offset(after), offset(after + LONGEST_FOLD));
        if new.local_minus_utc() >= old.local_minus_utc() {
            return None;
        }
        // The clock is put back between these two, in whole seconds.
        let (mut before, mut behind) = (after.timestamp(), (after + LONGEST_FOLD).timestamp());
        while behind - before > 1 {
            let middle = before + (behind - before) / 2;
            if offset(DateTime::from_timestamp(middle, 0)?) == old {
                before = middle;
            } else {
                behind = middle;
            }
        }
        let put_back = DateTime::from_timestamp(behind, 0)?;
        let tick = self.next_local(self.local(put_back) - TimeDelta::seconds(1))?;
        new.from_local_datetime(&tick).single().map(|moment| moment.to_utc())
    }
}

/// The expression as it was given.
impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

fn read(text: &str) -> Result<cron::Schedule, CronProblem> {
    let text = text.trim();
    if text.starts_with('@') {
        return cron::Schedule::from_str(text).map_err(|_| CronProblem::Shorthand(text.to_owned()));
    }
    let mut fields: Vec<&str> = text.split_whitespace().collect();
    match fields.len() {
        5 => fields.insert(0, "0"),
        6 | 7 => {}
        count => return Err(CronProblem::FieldCount { text: text.to_owned(), count }),
    }
    for (at, (field, (name, allowed))) in fields.iter().zip(FIELDS).enumerate() {
        // The other fields fit always, so what is refused is refused for this one.
        let mut alone = ["*"; 7];
        alone[at] = field;
        if !is_one_field(field) || cron::Schedule::from_str(&alone.join(" ")).is_err() {
            return Err(CronProblem::Field { field: (*field).to_owned(), name, allowed });
        }
    }
    cron::Schedule::from_str(&fields.join(" ")).map_err(|_| CronProblem::Never(text.to_owned()))
}

/// Whether a word has the form of one field. The crate would read `**` or `1MON` as two.
fn is_one_field(word: &str) -> bool {
    let plain = |text: &str| {
        !text.is_empty()
            && (text.bytes().all(|b| b.is_ascii_digit()) || text.bytes().all(|b| b.is_ascii_alphabetic()))
    };
    word.split(',').all(|item| {
        let (base, step) = item.split_once('/').map_or((item, None), |(base, step)| (base, Some(step)));
        let (from, to) = base.split_once('-').map_or((base, None), |(from, to)| (from, Some(to)));
        let base_fits = matches!(base, "*" | "?") || (plain(from) && to.is_none_or(plain));
        base_fits && step.is_none_or(plain)
    })
}

/// The two schedules, and by how much their beginnings are spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    /// When the frequent pass begins.
    pub frequent: Cron,
    /// When the full pass begins, if it has times of its own.
    pub full: Option<Cron>,
    /// Up to this long after the tick a pass begins.
    pub jitter: TimeDelta,
}

impl Timetable {
    /// When the next pass begins, and which one it is; always after `now`. `fraction` of the jitter (0 to 1, drawn at
    /// random by the caller) is added to the tick. If both tick at once, or the full one ticks while the frequent one
    /// waits for its jitter to pass, it is the full one. `None` if neither ticks any more.
    pub fn next(&self, now: DateTime<Utc>, fraction: f64) -> Option<(DateTime<Utc>, Pass)> {
        let full = self.next_full(now);
        let tick = self.frequent.next(now).into_iter().chain(full).min()?;
        let begin = tick + self.spread(fraction);
        let pass = if full.is_some_and(|full| full <= begin) { Pass::Full } else { Pass::Frequent };
        Some((begin, pass))
    }

    /// Which pass the ticks after `since` and up to `now` ask for, however many there were. Asked at each awakening
    /// with the moment of the one before, it passes over no tick, even if the machine slept or the clock was put
    /// right in between.
    pub fn due(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> Option<Pass> {
        let ticked = |tick: Option<DateTime<Utc>>| tick.is_some_and(|tick| tick <= now);
        if ticked(self.next_full(since)) {
            Some(Pass::Full)
        } else if ticked(self.frequent.next(since)) {
            Some(Pass::Frequent)
        } else {
            None
        }
    }

    fn next_full(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.full.as_ref().and_then(|full| full.next(now))
    }

    fn spread(&self, fraction: f64) -> TimeDelta {
        let longest = self.jitter.to_std().unwrap_or_default();
        let fraction = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) };
        TimeDelta::from_std(longest.mul_f64(fraction)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use chrono::Timelike as _;
    use proptest::prelude::*;

    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn start() -> DateTime<Utc> {
        utc("2026-01-01T00:00:00Z")
    }

    fn cron(text: &str, zone: Tz) -> Cron {
        Cron::parse(text, zone, start()).unwrap()
    }

    /// The first ticks after a moment, as UTC.
    fn ticks(text: &str, zone: Tz, after: &str, count: usize) -> Vec<String> {
        let cron = cron(text, zone);
        let ticks = std::iter::successors(cron.next(utc(after)), |tick| cron.next(*tick));
        ticks.take(count).map(|tick| tick.format("%m-%d %H:%M:%S").to_string()).collect()
    }

    #[test]
    fn five_fields_tick_in_second_zero_and_six_or_seven_as_they_say() {
        assert_eq!(
            ticks("*/5 * * * *", Tz::UTC, "2026-01-01T00:00:00Z", 2),
            ["01-01 00:05:00", "01-01 00:10:00"]
        );
        assert_eq!(ticks("30 */5 * * * *", Tz::UTC, "2026-01-01T00:00:00Z", 1), ["01-01 00:00:30"]);
        assert_eq!(
            ticks("0 0 0 1 1 * 2027,2028", Tz::UTC, "2026-01-01T00:00:00Z", 9),
            ["01-01 00:00:00", "01-01 00:00:00"]
        );
        assert_eq!(ticks("@daily", Tz::UTC, "2026-01-01T00:00:00Z", 1), ["01-02 00:00:00"]);
    }

    #[test]
    fn one_is_sunday() {
        // 2026-01-04 was a Sunday.
        for text in ["0 3 * * 1", "0 3 * * SUN", "0 3 * * sunday"] {
            assert_eq!(ticks(text, Tz::UTC, "2026-01-01T00:00:00Z", 1), ["01-04 03:00:00"], "{text}");
        }
        assert_eq!(ticks("0 3 * * 7", Tz::UTC, "2026-01-01T00:00:00Z", 1), ["01-03 03:00:00"]);
    }

    #[test]
    fn a_wrong_expression_is_explained_by_the_field_that_is_wrong() {
        let problem = |text: &str| Cron::parse(text, Tz::UTC, start()).unwrap_err().to_string();
        for (text, expected) in [
            ("", "has 0 fields"),
            ("* * * *", "has 4 fields"),
            ("* * * * * * * *", "has 8 fields"),
            ("1, 2 * * * * * *", "has 8 fields"),
            ("0 3 * * 0", "`0` is no day of the week"),
            ("0 3 * * 0", "1 is Sunday"),
            ("0 3 * * 8", "`8` is no day of the week"),
            ("0 3 * * FRI-MON", "ranges must go upwards"),
            ("60 3 * * *", "`60` is no minute"),
            ("*/0 3 * * *", "`*/0` is no minute"),
            ("0 24 * * *", "`24` is no hour"),
            ("0 0 32 * *", "`32` is no day of the month"),
            ("0 0 * 13 *", "`13` is no month"),
            ("61 0 0 * * *", "`61` is no second"),
            ("0 0 0 * * * 1969", "`1969` is no year"),
            ("** * * * *", "`**` is no minute"),
            ("0 0 * * 1MON", "`1MON` is no day of the week"),
            ("five * * * *", "`five` is no minute"),
            ("@reboot", "`@reboot` is not known"),
        ] {
            assert!(problem(text).contains(expected), "{text}: {}", problem(text));
        }
    }

    #[test]
    fn an_expression_that_never_ticks_again_is_refused() {
        for text in ["0 0 31 2 *", "0 0 0 1 1 * 2025", "0 0 30 FEB *"] {
            assert_eq!(Cron::parse(text, Tz::UTC, start()).unwrap_err(), CronProblem::Never(text.to_owned()));
        }
        assert!(cron("0 0 29 2 *", Tz::UTC).next(start()).is_some());
    }

    #[test]
    fn the_zone_is_that_of_the_local_clock() {
        assert_eq!(ticks("0 3 * * *", Tz::Europe__Berlin, "2026-01-01T00:00:00Z", 1), ["01-01 02:00:00"]);
        assert_eq!(ticks("0 3 * * *", Tz::Europe__Berlin, "2026-07-01T00:00:00Z", 1), ["07-01 01:00:00"]);
    }

    #[test]
    fn a_tick_in_the_hour_that_is_missing_in_spring_comes_at_its_end() {
        // Berlin, 2026-03-29: 02:00 CET is 03:00 CEST, which is 01:00 UTC.
        assert_eq!(
            ticks("30 2 * * *", Tz::Europe__Berlin, "2026-03-28T00:00:00Z", 3),
            ["03-28 01:30:00", "03-29 01:00:00", "03-30 00:30:00"]
        );
        assert_eq!(
            ticks("*/20 * * * *", Tz::Europe__Berlin, "2026-03-29T00:30:00Z", 3),
            ["03-29 00:40:00", "03-29 01:00:00", "03-29 01:20:00"]
        );
    }

    #[test]
    fn in_the_hour_that_comes_twice_in_autumn_ticks_come_twice() {
        // Berlin, 2026-10-25: 03:00 CEST is 02:00 CET, which is 01:00 UTC.
        assert_eq!(
            ticks("*/20 * * * *", Tz::Europe__Berlin, "2026-10-25T00:30:00Z", 6),
            [
                "10-25 00:40:00",
                "10-25 01:00:00",
                "10-25 01:20:00",
                "10-25 01:40:00",
                "10-25 02:00:00",
                "10-25 02:20:00"
            ]
        );
        assert_eq!(
            ticks("30 2 * * *", Tz::Europe__Berlin, "2026-10-24T12:00:00Z", 3),
            ["10-25 00:30:00", "10-25 01:30:00", "10-26 01:30:00"]
        );
    }

    fn table(frequent: &str, full: &str, jitter: i64) -> Timetable {
        Timetable {
            frequent: cron(frequent, Tz::UTC),
            full: Some(cron(full, Tz::UTC)),
            jitter: TimeDelta::seconds(jitter),
        }
    }

    #[test]
    fn when_both_tick_at_once_it_is_the_full_pass() {
        let table = table("*/5 * * * *", "0 3 * * *", 0);
        assert_eq!(
            table.next(utc("2026-01-01T02:50:00Z"), 0.5),
            Some((utc("2026-01-01T02:55:00Z"), Pass::Frequent))
        );
        assert_eq!(
            table.next(utc("2026-01-01T02:55:00Z"), 0.5),
            Some((utc("2026-01-01T03:00:00Z"), Pass::Full))
        );
    }

    #[test]
    fn a_full_tick_within_the_jitter_of_a_frequent_one_is_not_passed_over() {
        let table = table("*/5 * * * *", "1 3 * * *", 120);
        let (begin, pass) = table.next(utc("2026-01-01T02:55:00Z"), 0.75).unwrap();
        assert_eq!((begin, pass), (utc("2026-01-01T03:01:30Z"), Pass::Full));
        assert_eq!(table.due(utc("2026-01-01T02:55:00Z"), begin), Some(Pass::Full));
        let (begin, pass) = table.next(utc("2026-01-01T02:55:00Z"), 0.25).unwrap();
        assert_eq!((begin, pass), (utc("2026-01-01T03:00:30Z"), Pass::Frequent));
        assert_eq!(table.next(begin, 0.0), Some((utc("2026-01-01T03:01:00Z"), Pass::Full)));
    }

    #[test]
    fn after_a_long_sleep_one_pass_is_due_and_it_is_the_full_one_if_that_was_missed() {
        let table = table("*/5 * * * *", "0 3 * * *", 60);
        let due = |since: &str, now: &str| table.due(utc(since), utc(now));
        assert_eq!(due("2026-01-01T01:00:00Z", "2026-01-01T09:00:00Z"), Some(Pass::Full));
        assert_eq!(due("2026-01-01T03:00:00Z", "2026-01-01T09:00:00Z"), Some(Pass::Frequent));
        assert_eq!(due("2026-01-01T03:00:00Z", "2026-01-01T03:04:59Z"), None);
        assert_eq!(due("2026-01-01T03:10:00Z", "2026-01-01T03:00:00Z"), None);
    }

    #[test]
    fn a_strange_fraction_or_jitter_does_no_harm() {
        let mut table = table("*/5 * * * *", "0 3 * * *", 60);
        for (fraction, expected) in [(-1.0, 0), (2.0, 60), (f64::NAN, 0), (f64::INFINITY, 60)] {
            let (begin, _) = table.next(start(), fraction).unwrap();
            assert_eq!(begin, start() + TimeDelta::seconds(300 + expected));
        }
        table.jitter = TimeDelta::seconds(-5);
        assert_eq!(table.next(start(), 1.0).unwrap().0, start() + TimeDelta::seconds(300));
    }

    /// Minutes and hours of an expression, and whether a local time fits them.
    #[derive(Debug, Clone)]
    struct Plain {
        minutes: Vec<u32>,
        hours: Vec<u32>,
    }

    impl Plain {
        fn text(&self) -> String {
            let list = |of: &[u32]| of.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            format!("{} {} * * *", list(&self.minutes), list(&self.hours))
        }

        fn fits(&self, local: NaiveDateTime) -> bool {
            self.minutes.contains(&local.minute()) && self.hours.contains(&local.hour())
        }

        /// Looks at each minute after `after`: whether it fits, or ends a gap in which a time would have fitted.
        fn next_by_looking(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
            let minute = after.timestamp().div_euclid(60);
            (minute + 1..minute + 3 * 24 * 60).find_map(|minute| {
                let moment = DateTime::from_timestamp(minute * 60, 0)?;
                let local = moment.with_timezone(&zone).naive_local();
                let before = (moment - TimeDelta::minutes(1)).with_timezone(&zone).naive_local();
                let skipped = (local - before).num_minutes().max(1);
                let passed = (0..skipped).map(|n| local - TimeDelta::minutes(n));
                passed.into_iter().any(|time| self.fits(time)).then_some(moment)
            })
        }
    }

    fn plain() -> impl Strategy<Value = Plain> {
        (
            proptest::collection::btree_set(0_u32..60, 1..5),
            proptest::collection::btree_set(prop_oneof![0_u32..24, 0_u32..4], 1..6),
        )
            .prop_map(|(minutes, hours)| Plain {
                minutes: minutes.into_iter().collect(),
                hours: hours.into_iter().collect(),
            })
    }

    fn zone() -> impl Strategy<Value = Tz> {
        prop::sample::select(vec![
            Tz::UTC,
            Tz::Europe__Berlin,
            Tz::Europe__London,
            Tz::America__New_York,
            Tz::America__Santiago,
            Tz::Asia__Beirut,
            Tz::Asia__Kathmandu,
            Tz::Australia__Lord_Howe,
            Tz::Antarctica__Troll,
            Tz::Pacific__Apia,
        ])
    }

    /// A moment in the years 2024 to 2027, often close to one at which a clock is changed.
    fn moment() -> impl Strategy<Value = DateTime<Utc>> {
        let any = 1_704_067_200_i64..1_830_000_000;
        let near = (
            prop::sample::select(vec![
                1_774_746_000_i64, // Berlin, 2026-03-29 01:00 UTC
                1_792_890_000,     // Berlin, 2026-10-25 01:00 UTC
                1_772_953_200,     // New York, 2026-03-08 07:00 UTC
                1_793_512_800,     // New York, 2026-11-01 06:00 UTC
                1_775_314_800,     // Lord Howe, 2026-04-04 15:00 UTC
                1_791_041_400,     // Lord Howe, 2026-10-03 15:30 UTC
                1_775_358_000,     // Santiago, 2026-04-05 03:00 UTC
                1_788_667_200,     // Santiago, 2026-09-06 04:00 UTC
            ]),
            -8_000_i64..6_000,
        )
            .prop_map(|(change, off)| change + off);
        (prop_oneof![any, near], 0_u32..2)
            .prop_map(|(seconds, half)| DateTime::from_timestamp(seconds, half * 500_000_000).unwrap())
    }

    proptest! {
        #[test]
        fn the_next_tick_is_the_one_found_by_looking_at_each_minute(plain in plain(), zone in zone(), now in moment()) {
            let cron = Cron::parse(&plain.text(), zone, now).unwrap();
            prop_assert_eq!(cron.next(now), plain.next_by_looking(zone, now), "{} {}", plain.text(), zone);
        }

        #[test]
        fn the_next_tick_is_after_now_and_never_goes_back(
            plain in plain(), zone in zone(), now in moment(), later in 0_i64..200_000,
        ) {
            let cron = Cron::parse(&plain.text(), zone, now).unwrap();
            let later = now + TimeDelta::seconds(later);
            let (first, second) = (cron.next(now).unwrap(), cron.next(later).unwrap());
            prop_assert!(first > now);
            prop_assert!(second > later);
            prop_assert!(first <= second);
            prop_assert!(first > later || second > first);
        }

        #[test]
        fn a_pass_begins_after_now_and_within_the_jitter_of_its_tick(
            frequent in plain(), full in plain(), zone in zone(), now in moment(), jitter in 0_i64..4000,
            fraction in 0.0_f64..=1.0,
        ) {
            let table = Timetable {
                frequent: Cron::parse(&frequent.text(), zone, now).unwrap(),
                full: Some(Cron::parse(&full.text(), zone, now).unwrap()),
                jitter: TimeDelta::seconds(jitter),
            };
            let (begin, pass) = table.next(now, fraction).unwrap();
            let (tick, _) = table.next(now, 0.0).unwrap();
            prop_assert!(now < tick && tick <= begin && begin <= tick + table.jitter);
            prop_assert_eq!(table.due(now, begin), Some(pass));
        }

        #[test]
        fn no_text_makes_reading_an_expression_panic(text in "[-*/?,@0-9A-Za-z ]{0,30}") {
            let _ = Cron::parse(&text, Tz::UTC, start());
        }
    }
}
