//! How moments, durations, numbers and people are written on the page.

use std::borrow::Cow;

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};

use crate::{
    domain::{Conflict, DefguardId, Username},
    serve::overview::Overview,
};

/// Whether people are named.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names(pub(super) bool);

impl Names {
    /// A person, by number, and by name if people are named.
    pub(super) fn person(self, id: DefguardId, username: Option<&Username>) -> String {
        match username {
            Some(username) if self.0 => format!("{username} (#{id})"),
            _ => format!("#{id}"),
        }
    }

    /// A text as it may be shown.
    pub(super) fn show(self, text: &str) -> Cow<'_, str> {
        if self.0 { Cow::Borrowed(text) } else { Cow::Owned(without_names(text)) }
    }

    /// What to do about somebody's trouble, with their number in the place of USER.
    pub(super) fn mend(self, mend: &str, id: DefguardId) -> Markup {
        with_code(&self.show(mend).replace("USER", &format!("'#{id}'")))
    }

    /// What stands in somebody's way. What a template said can hold anything of the person.
    pub(super) fn conflict(self, conflict: &Conflict) -> String {
        match conflict {
            Conflict::Unmappable { field, .. } if !self.0 => {
                format!("{} gives nothing usable", field.template_key())
            }
            _ => self.show(&conflict.to_string()).into_owned(),
        }
    }
}

/// A text without the MXIDs and addresses in it.
pub fn without_names(text: &str) -> String {
    let hide = |word: &str| {
        let Some(at) = word.find('@') else { return word.to_owned() };
        let begin =
            word[..at].rfind(|c: char| !part_of_a_name(c)).map_or(0, |last| last + char_length(word, last));
        let end = word
            .rfind(char::is_alphanumeric)
            .filter(|end| *end > at)
            .map_or(at + 1, |end| end + char_length(word, end));
        format!("{}@…{}", &word[..begin], &word[end..])
    };
    text.split(' ').map(hide).collect::<Vec<_>>().join(" ")
}

fn part_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '=' | '/' | '%')
}

fn char_length(text: &str, at: usize) -> usize {
    text[at..].chars().next().map_or(0, char::len_utf8)
}

/// A moment, as far from now as it is, with the moment itself to be read.
pub(super) fn moment(at: DateTime<Utc>, overview: &Overview) -> Markup {
    let away = at - overview.now;
    let text =
        if away > TimeDelta::zero() { format!("in {}", span(away)) } else { format!("{} ago", span(-away)) };
    html! { time datetime=(at.to_rfc3339()) title=(full(at)) { (text) } }
}

/// A moment to the minute.
pub(super) fn short(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// A moment in full.
pub(super) fn full(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A time span in its largest unit, or in two where one is too coarse.
pub(super) fn span(span: TimeDelta) -> String {
    let seconds = span.num_seconds();
    match seconds {
        ..1 => "0 s".to_owned(),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How long a run took.
pub(super) fn took(span: TimeDelta) -> String {
    let seconds = span.as_seconds_f64().max(0.0);
    if seconds < 10.0 { format!("{seconds:.1} s") } else { self::span(span) }
}

/// A number with its noun.
pub(super) fn counted(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// A size in a unit that people read.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut size = bytes as f64;
    let mut unit = "bytes";
    for larger in UNITS {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{size:.1} {unit}") }
}

/// A text in which what stands between backticks is code.
pub(super) fn with_code(text: &str) -> Markup {
    let parts = text.split('`').enumerate();
    html! {
        @for (n, part) in parts {
            @if n % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mxids_and_addresses_are_hidden_and_the_rest_stays() {
        for (text, hidden) in [
            ("@alice:example.org already belongs to #3", "@… already belongs to #3"),
            ("if @a.b=c:example.org:8448 is theirs, say so", "if @… is theirs, say so"),
            ("say `link USER @alice:example.org`; or", "say `link USER @…`; or"),
            ("(the address alice@example.org)", "(the address @…)"),
            ("a lone @ here", "a lone @… here"),
            ("nothing personal", "nothing personal"),
        ] {
            assert_eq!(without_names(text), hidden, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_hiding_fail_or_lets_a_name_through(before in ".{0,20}", after in ".{0,20}") {
            let hidden = without_names(&format!("{before} @wilhelmine:example.org {after}"));
            prop_assert!(!hidden.contains("wilhelmine"));
        }
    }

    #[test]
    fn spans_are_short() {
        for (seconds, text) in
            [(-5, "0 s"), (0, "0 s"), (59, "59 s"), (125, "2 min"), (7300, "2 h"), (400_000, "4 days")]
        {
            assert_eq!(span(TimeDelta::seconds(seconds)), text);
        }
        assert_eq!(took(TimeDelta::milliseconds(340)), "0.3 s");
        assert_eq!(size(512), "512 bytes");
        assert_eq!(size(3 << 20), "3.0 MiB");
    }
}
