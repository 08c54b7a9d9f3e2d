//! Jinja2's `wordwrap`, which is Python's `textwrap`.

use minijinja::Value;

use super::{
    arguments::{Arguments, integer, text},
    casing,
    value::{Answer, Kind, cannot, fails},
};

/// Applies the filter.
pub(super) fn wordwrap(value: &Value, args: &Arguments) -> Answer {
    let parameters = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, break_long, between, on_hyphens] = args.bind("wordwrap", parameters, 0)?;
    let width = width.as_ref().map(integer).transpose()?.unwrap_or(79);
    let break_long = break_long.is_none_or(|flag| flag.is_true());
    let between = between.filter(|between| !between.is_none()).unwrap_or_else(|| Value::from("\n"));
    let between = text("wordwrap", &between)?;
    let Some(subject) = value.as_str() else {
        return Err(fails(format!("wordwrap takes a text, not {}", Kind::of(value).name())));
    };
    if value.is_safe() {
        return Err(cannot("`wordwrap` on escaped text"));
    }
    if subject.contains('-') && on_hyphens.is_none_or(|flag| flag.is_true()) {
        return Err(cannot("`wordwrap` of a text with hyphens"));
    }
    let width = match usize::try_from(width) {
        Ok(width) if width > 0 => width,
        _ if subject.is_empty() => 1,
        _ => return Err(fails(format!("invalid width {width} (must be > 0)"))),
    };
    let lines = casing::splitlines(subject, false);
    let wrapped: Vec<_> = lines.iter().map(|line| wrap(line, width, break_long).join(between)).collect();
    Ok(Value::from(wrapped.join(between)))
}

/// The white space at which `textwrap` breaks; it knows ASCII only.
fn breaks(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// `TextWrapper._wrap_chunks`, with white space at the ends of lines dropped.
fn wrap(line: &str, width: usize, break_long: bool) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    for c in line.chars() {
        match chunks.last_mut() {
            Some(chunk) if chunk.chars().all(breaks) == breaks(c) => chunk.push(c),
            _ => chunks.push(c.to_string()),
        }
    }
    chunks.reverse();
    let len = |text: &str| text.chars().count();
    let blank = |text: &str| text.chars().all(casing::is_space);
    let mut lines = Vec::new();
    while !chunks.is_empty() {
        let mut current: Vec<String> = Vec::new();
        let mut used = 0;
        if !lines.is_empty() && chunks.last().is_some_and(|chunk| blank(chunk)) {
            chunks.pop();
        }
        while let Some(chunk) = chunks.pop() {
            if used + len(&chunk) > width {
                chunks.push(chunk);
                break;
            }
            used += len(&chunk);
            current.push(chunk);
        }
        if let Some(chunk) = chunks.pop_if(|chunk| len(chunk) > width) {
            if break_long {
                let left: String = chunk.chars().take(width - used).collect();
                chunks.push(chunk.chars().skip(width - used).collect());
                current.push(left);
            } else if current.is_empty() {
                current.push(chunk);
            } else {
                chunks.push(chunk);
            }
        }
        if current.last().is_some_and(|chunk| blank(chunk)) {
            current.pop();
        }
        if !current.is_empty() {
            lines.push(current.concat());
        }
    }
    lines
}
