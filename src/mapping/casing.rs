//! Upper, lower and title case as Python has them, and its classes of characters.

use std::sync::LazyLock;

use regex::Regex;

/// Characters whose title case is neither themselves nor their upper case, with it.
const TITLE: &[(char, &str)] = &[
    ('ß', "Ss"),
    ('Ǆ', "ǅ"),
    ('ǆ', "ǅ"),
    ('Ǉ', "ǈ"),
    ('ǉ', "ǈ"),
    ('Ǌ', "ǋ"),
    ('ǌ', "ǋ"),
    ('Ǳ', "ǲ"),
    ('ǳ', "ǲ"),
    ('\u{587}', "\u{535}\u{582}"),
    ('\u{1fb2}', "\u{1fba}\u{345}"),
    ('\u{1fb3}', "\u{1fbc}"),
    ('\u{1fb4}', "\u{386}\u{345}"),
    ('\u{1fb7}', "\u{391}\u{342}\u{345}"),
    ('\u{1fc2}', "\u{1fca}\u{345}"),
    ('\u{1fc3}', "\u{1fcc}"),
    ('\u{1fc4}', "\u{389}\u{345}"),
    ('\u{1fc7}', "\u{397}\u{342}\u{345}"),
    ('\u{1ff2}', "\u{1ffa}\u{345}"),
    ('\u{1ff3}', "\u{1ffc}"),
    ('\u{1ff4}', "\u{38f}\u{345}"),
    ('\u{1ff7}', "\u{3a9}\u{342}\u{345}"),
    ('\u{fb00}', "Ff"),
    ('\u{fb01}', "Fi"),
    ('\u{fb02}', "Fl"),
    ('\u{fb03}', "Ffi"),
    ('\u{fb04}', "Ffl"),
    ('\u{fb05}', "St"),
    ('\u{fb06}', "St"),
    ('\u{fb13}', "\u{544}\u{576}"),
    ('\u{fb14}', "\u{544}\u{565}"),
    ('\u{fb15}', "\u{544}\u{56b}"),
    ('\u{fb16}', "\u{54e}\u{576}"),
    ('\u{fb17}', "\u{544}\u{56d}"),
];

/// Whether the character is a letter in title case (Unicode's Lt), such as `ǅ`.
fn is_title(c: char) -> bool {
    matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}'
        | '\u{1fa8}'..='\u{1faf}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title(c)
}

fn push_title(c: char, out: &mut String) {
    let small = u32::from(c);
    if is_title(c) || matches!(c, '\u{10d0}'..='\u{10fa}' | '\u{10fd}'..='\u{10ff}') {
        out.push(c);
    } else if matches!(c, '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}') {
        out.extend(char::from_u32(small + 8));
    } else if let Some((_, title)) = TITLE.iter().find(|(from, _)| *from == c) {
        out.push_str(title);
    } else {
        out.extend(c.to_uppercase());
    }
}

/// The lower case of each character of a text. Only the Greek capital sigma looks at its neighbours.
fn lower_each(text: &str) -> Vec<(char, String)> {
    let lower = text.to_lowercase();
    let mut at = 0;
    text.chars()
        .map(|c| {
            let len = c.to_lowercase().map(char::len_utf8).sum::<usize>();
            let part = lower.get(at..at + len).unwrap_or_default().to_owned();
            at += len;
            (c, part)
        })
        .collect()
}

/// `str.title()`: a capital behind everything that has no case, so `o'neil` becomes `O'Neil`.
pub(super) fn title(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for (c, lower) in lower_each(text) {
        if inside {
            out.push_str(&lower);
        } else {
            push_title(c, &mut out);
        }
        inside = is_cased(c);
    }
    out
}

/// `str.capitalize()`.
pub(super) fn capitalize(text: &str) -> String {
    let mut out = String::new();
    for (at, (c, lower)) in lower_each(text).into_iter().enumerate() {
        if at == 0 {
            push_title(c, &mut out);
        } else {
            out.push_str(&lower);
        }
    }
    out
}

/// `str.swapcase()`.
pub(super) fn swapcase(text: &str) -> String {
    let mut out = String::new();
    for (c, lower) in lower_each(text) {
        if c.is_uppercase() {
            out.push_str(&lower);
        } else if c.is_lowercase() {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// The filter `title`, which is not `str.title()`: words begin behind `-`, white space, `(`, `{`, `[` and `<`.
pub(super) fn filter_title(text: &str) -> String {
    let breaks = |c: char| is_space(c) || "-({[<".contains(c);
    let mut out = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        let mut chars = word.chars();
        if let Some(first) = chars.next() {
            out.extend(first.to_uppercase());
            out.push_str(&chars.as_str().to_lowercase());
        }
        word.clear();
    };
    for c in text.chars() {
        if breaks(c) {
            flush(&mut word, &mut out);
            out.push(c);
        } else {
            word.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
}

/// White space to Python's `str.strip()`, `str.split()` and `str.isspace()`.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

static LETTER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{L}$").ok());
static DECIMAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Nd}$").ok());
static NUMERIC: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{N}$").ok());

fn is(class: &LazyLock<Option<Regex>>, c: char) -> bool {
    class.as_ref().is_some_and(|class| class.is_match(c.encode_utf8(&mut [0; 4])))
}

/// `str.isalpha()` of one character.
pub(super) fn is_alpha(c: char) -> bool {
    c.is_ascii_alphabetic() || !c.is_ascii() && is(&LETTER, c)
}

/// `str.isdecimal()` of one character.
pub(super) fn is_decimal(c: char) -> bool {
    c.is_ascii_digit() || !c.is_ascii() && is(&DECIMAL, c)
}

/// `str.isdigit()` of one character: decimals, superscripts and digits in circles.
pub(super) fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c,
            '²'..='³' | '¹' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '\u{2070}' | '\u{2074}'..='\u{2079}'
            | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}' | '\u{2474}'..='\u{247c}'
            | '\u{2488}'..='\u{2490}' | '\u{24ea}' | '\u{24f5}'..='\u{24fd}' | '\u{24ff}'
            | '\u{2776}'..='\u{277e}' | '\u{2780}'..='\u{2788}' | '\u{278a}'..='\u{2792}'
            | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}' | '\u{11052}'..='\u{1105a}'
            | '\u{1f100}'..='\u{1f10a}')
}

/// `str.isnumeric()` of one character that is no letter (some Chinese letters are numbers too).
pub(super) fn is_number(c: char) -> bool {
    c.is_ascii_digit() || !c.is_ascii() && is(&NUMERIC, c)
}

/// `str.isalnum()` of one character; also, with the underscore, `\w` of Python's regular expressions.
pub(super) fn is_alnum(c: char) -> bool {
    is_alpha(c) || is_number(c)
}

/// Whether `str.istitle()` holds.
pub(super) fn is_titled(text: &str) -> bool {
    let (mut cased, mut inside) = (false, false);
    for c in text.chars() {
        if c.is_uppercase() || is_title(c) {
            if inside {
                return false;
            }
            (cased, inside) = (true, true);
        } else if c.is_lowercase() {
            if !inside {
                return false;
            }
            cased = true;
        } else {
            inside = false;
        }
    }
    cased
}

/// `str.isupper()`.
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title(c))
}

/// `str.islower()`.
pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title(c))
}

/// `str.splitlines()`.
pub(super) fn splitlines(text: &str, keep_ends: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if !matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
        {
            line.push(c);
            continue;
        }
        if keep_ends {
            line.push(c);
        }
        if c == '\r'
            && let Some(feed) = chars.next_if_eq(&'\n')
            && keep_ends
        {
            line.push(feed);
        }
        lines.push(std::mem::take(&mut line));
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}
