//! Cron expressions.

use std::fmt;

use cron::Schedule;

/// A cron expression that was checked, as it was written and as it is understood.
#[derive(Clone)]
pub struct CronText {
    text: String,
    schedule: Schedule,
}

impl CronText {
    /// Reads an expression; see [`parse_cron`].
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), schedule: parse_cron(text)? })
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The expression as it is understood.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }
}

impl fmt::Display for CronText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for CronText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// Reads a cron expression of 5 fields (minute, hour, day of month, month, day of week), of 6 (seconds before them)
/// or of 7 (years behind them), or one of the words `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. The error
/// is a sentence for the admin.
pub fn parse_cron(text: &str) -> Result<Schedule, String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let (whole, weekday) = match fields.as_slice() {
        [word] if word.starts_with('@') => ((*word).to_owned(), ""),
        [_, _, _, _, weekday] => (format!("0 {}", fields.join(" ")), *weekday),
        [_, _, _, _, _, weekday] | [_, _, _, _, _, weekday, _] => (fields.join(" "), *weekday),
        _ => {
            return Err(format!(
                "a cron expression has 5 fields (minute, hour, day of month, month, day of week), 6 with seconds \
                 before them, or 7 with years behind them; this one has {}",
                fields.len()
            ));
        }
    };
    if has_number(weekday, "0") {
        return Err(
            "the day of the week is counted from 1 for Sunday to 7 for Saturday, and there is no 0: write Sun"
                .to_owned(),
        );
    }
    whole.parse().map_err(|_| {
        "this is no cron expression: a field is *, a number, a name (Mon, Jan), a range such as 1-5 or a list such \
         as 0,30, each perhaps with a step behind a slash, within what the field can be"
            .to_owned()
    })
}

/// Whether the day of the week is given by number. Elsewhere 1 is Monday; here it is Sunday.
pub(super) fn counts_weekdays(text: &str) -> bool {
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

fn has_number(field: &str, number: &str) -> bool {
    field
        .split(',')
        .filter_map(|part| part.split('/').next())
        .flat_map(|part| part.split('-'))
        .any(|part| part == number)
}
