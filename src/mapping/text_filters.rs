//! Jinja2's filters that make text of their input, or demand text.

use minijinja::{Error, Value};

use super::{
    arguments::{Arguments, integer, size, text},
    casing, format, globals, ops, print, strings,
    value::{Answer, Kind, cannot, fails, iterate, length, pairs, tuple},
    wrap,
};

/// Applies one of them.
pub(super) fn apply(name: &str, value: &Value, args: &Arguments) -> Answer {
    match name {
        "upper" | "lower" | "title" | "capitalize" => {
            args.bind::<0>(name, [], 0)?;
            let text = print::string(value)?;
            let text = match name {
                "upper" => text.to_uppercase(),
                "lower" => text.to_lowercase(),
                "title" => return Ok(Value::from(casing::filter_title(&text))),
                _ => casing::capitalize(&text),
            };
            Ok(as_escaped_as(value, text))
        }
        "trim" => {
            let [chars] = args.bind(name, ["chars"], 0)?;
            let text = print::string(value)?;
            let trimmed = strings::strip(&text, "strip", chars.as_ref())?;
            Ok(as_escaped_as(value, trimmed.as_str().unwrap_or_default().to_owned()))
        }
        "string" => {
            args.bind::<0>(name, [], 0)?;
            Ok(as_escaped_as(value, print::string(value)?))
        }
        "center" => {
            let [width] = args.bind(name, ["width"], 0)?;
            let width = width.as_ref().map(size).transpose()?.unwrap_or(80);
            Ok(as_escaped_as(value, strings::pad(&print::string(value)?, "center", width, ' ')))
        }
        "wordcount" => {
            args.bind::<0>(name, [], 0)?;
            let text = print::string(value)?;
            let words = text.split(|c| !(casing::is_alnum(c) || c == '_')).filter(|word| !word.is_empty());
            Ok(Value::from(words.count()))
        }
        "e" | "escape" | "forceescape" => {
            args.bind::<0>(name, [], 0)?;
            if value.is_safe() && name != "forceescape" {
                return Ok(value.clone());
            }
            Ok(Value::from_safe_string(escape(&print::string(value)?)))
        }
        "safe" => args.bind::<0>(name, [], 0).and_then(|_| print::string(value)).map(Value::from_safe_string),
        "striptags" => args.bind::<0>(name, [], 0).and_then(|_| striptags(&print::string(value)?)),
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"], 2)?;
            let (old, new) =
                (print::string(&old.unwrap_or_default())?, print::string(&new.unwrap_or_default())?);
            let count = count.filter(|count| !count.is_none());
            let count = count.as_ref().map(integer).transpose()?.unwrap_or(-1);
            if value.is_safe() {
                return Err(cannot("`replace` on escaped text (`|e`, `|safe`, `|tojson`)"));
            }
            strings::replace(&print::string(value)?, &old, &new, count).map(Value::from)
        }
        "format" => {
            if !args.places.is_empty() && !args.names.is_empty() {
                return Err(fails("can't handle positional and keyword arguments at the same time"));
            }
            if value.is_safe() {
                return Err(cannot("`format` on escaped text (`|e`, `|safe`)"));
            }
            let values = if args.names.is_empty() {
                tuple(args.places.clone())
            } else {
                globals::global("dict", &Arguments { places: Vec::new(), names: args.names.clone() })?
            };
            format::percent(&print::string(value)?, &values).map(Value::from)
        }
        "truncate" => truncate(value, args),
        "indent" => indent(value, args),
        "wordwrap" => wrap::wordwrap(value, args),
        "urlencode" => args.bind::<0>(name, [], 0).and_then(|_| urlencode(value)),
        "xmlattr" => xmlattr(value, args),
        "tojson" => {
            let [indent] = args.bind(name, ["indent"], 0)?;
            if indent.is_some_and(|indent| !indent.is_none()) {
                return Err(cannot("`tojson` with an indent"));
            }
            print::tojson(value)
        }
        "localpart_from_email" => {
            args.bind::<0>(name, [], 0)?;
            let Some(address) = value.as_str() else {
                return Err(fails("localpart_from_email takes a text"));
            };
            Ok(Value::from(address.rsplit_once('@').map_or(address, |(localpart, _)| localpart)))
        }
        _ => Err(cannot(&format!("the filter `{name}`"))),
    }
}

fn as_escaped_as(value: &Value, text: String) -> Value {
    if value.is_safe() { Value::from_safe_string(text) } else { Value::from(text) }
}

/// MarkupSafe's `escape`.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('>', "&gt;")
        .replace('<', "&lt;")
        .replace('\'', "&#39;")
        .replace('"', "&#34;")
}

fn truncate(value: &Value, args: &Arguments) -> Answer {
    let [limit, killwords, end, leeway] =
        args.bind("truncate", ["length", "killwords", "end", "leeway"], 0)?;
    let limit = limit.as_ref().map(integer).transpose()?.unwrap_or(255);
    let end = end.unwrap_or_else(|| Value::from("..."));
    let end = text("truncate", &end)?;
    let leeway = leeway.filter(|leeway| !leeway.is_none());
    let leeway = leeway.as_ref().map(integer).transpose()?.unwrap_or(5);
    let end_length = end.chars().count() as i128;
    if limit < end_length {
        return Err(fails(format!("expected length >= {end_length}, got {limit}")));
    }
    if leeway < 0 {
        return Err(fails(format!("expected leeway >= 0, got {leeway}")));
    }
    if length(value)? as i128 <= limit.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let Some(subject) = value.as_str().filter(|_| !value.is_safe()) else {
        return Err(cannot("`truncate` on anything but plain text"));
    };
    let keep = usize::try_from(limit - end_length).unwrap_or(usize::MAX);
    let cut: String = subject.chars().take(keep).collect();
    if killwords.is_some_and(|killwords| killwords.is_true()) {
        return Ok(Value::from(cut + end));
    }
    let words = cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words);
    Ok(Value::from(format!("{words}{end}")))
}

fn indent(value: &Value, args: &Arguments) -> Answer {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"], 0)?;
    let width = width.unwrap_or_else(|| Value::from(4));
    let indention = match width.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(size(&width)?),
    };
    let Some(subject) = value.as_str() else {
        return Err(fails(format!("indent takes a text, not {}", Kind::of(value).name())));
    };
    if value.is_safe() || width.is_safe() {
        return Err(cannot("`indent` on escaped text"));
    }
    let lines = casing::splitlines(&format!("{subject}\n"), false);
    let blank = blank.is_some_and(|blank| blank.is_true());
    let mut out = String::new();
    if first.is_some_and(|first| first.is_true()) {
        out.push_str(&indention);
    }
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&indention);
            }
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

/// MarkupSafe's `striptags`: comments and tags go, white space is collapsed, entities are resolved.
fn striptags(text: &str) -> Answer {
    let mut text = text.to_owned();
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        while let Some(start) = text.find(open) {
            let from = start + open.len();
            // A tag needs a closing mark behind its opening one.
            let Some(end) = text.get(from..).and_then(|rest| rest.find(close)) else { break };
            text.replace_range(start..from + end + close.len(), "");
        }
    }
    let text = text.split(casing::is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('&') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let entities =
            [("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#34;", "\"")];
        if let Some((entity, c)) = entities.iter().find(|(entity, _)| after.starts_with(entity)) {
            out.push_str(c);
            rest = after.get(entity.len()..).unwrap_or_default();
        } else if after.starts_with("& ") || after == "&" {
            out.push('&');
            rest = after.get(1..).unwrap_or_default();
        } else {
            return Err(cannot("`striptags` on text with rare HTML entities"));
        }
    }
    out.push_str(rest);
    Ok(Value::from(out))
}

fn quote(text: &str, query: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            b'/' if !query => out.push('/'),
            b' ' if query => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn urlencode(value: &Value) -> Answer {
    let url_quote = |value: &Value, query| match Kind::of(value) {
        Kind::Bytes(_) => Err(cannot("`urlencode` of bytes")),
        _ => print::string(value).map(|text| quote(&text, query)),
    };
    if matches!(Kind::of(value), Kind::Str(_) | Kind::None | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_)) {
        return url_quote(value, false).map(Value::from);
    }
    let items = match pairs(value) {
        Some(pairs) => pairs.into_iter().map(|(k, v)| vec![k, v]).collect(),
        None => iterate(value)?.iter().map(|pair| ops::unpack(pair, 2)).collect::<Result<Vec<_>, _>>()?,
    };
    let mut parts = Vec::new();
    for pair in items {
        let [key, value] = pair.as_slice() else { continue };
        parts.push(format!("{}={}", url_quote(key, true)?, url_quote(value, true)?));
    }
    Ok(Value::from(parts.join("&")))
}

fn xmlattr(value: &Value, args: &Arguments) -> Answer {
    let [autospace] = args.bind("xmlattr", ["autospace"], 0)?;
    let Some(pairs) = pairs(value) else {
        return Err(fails(format!("'{}' object has no attribute 'items'", Kind::of(value).name())));
    };
    let escaped = |value: &Value| -> Result<String, Error> {
        let text = print::string(value)?;
        Ok(if value.is_safe() { text } else { escape(&text) })
    };
    let mut parts = Vec::new();
    for (key, value) in pairs {
        if value.is_none() || value.is_undefined() {
            continue;
        }
        let name = text("xmlattr", &key)?;
        if name.contains(|c: char| " \t\n\r\x0b\x0c/>=".contains(c)) {
            return Err(fails(format!("Invalid character in attribute name: {name}")));
        }
        parts.push(format!("{}=\"{}\"", escaped(&key)?, escaped(&value)?));
    }
    let mut out = parts.join(" ");
    if autospace.is_none_or(|autospace| autospace.is_true()) && !out.is_empty() {
        out.insert(0, ' ');
    }
    Ok(Value::from(out))
}
