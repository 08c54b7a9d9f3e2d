//! The methods of Python's `str`.

use minijinja::{Error, Value};

use super::{
    arguments::{Arguments, integer, size, text},
    casing, format, print,
    value::{Answer, Kind, LARGEST, cannot, equal, fails, iterate, length, tuple},
};

/// Every attribute of Python's `str` that a template could name; only [`IMPLEMENTED`] ones can be called.
pub(super) const METHODS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// Calls a method. The result of a method of escaped text (`Markup`) is escaped text again; where Python would
/// escape the arguments as well, it is refused.
pub(super) fn call(value: &Value, subject: &str, method: &str, args: &Arguments) -> Answer {
    if value.is_safe() && !(args.places.is_empty() && args.names.is_empty()) {
        return Err(cannot("a method with arguments on escaped text (`|e`, `|safe`, `|tojson`)"));
    }
    let answer = plain(subject, method, args)?;
    if !value.is_safe() {
        return Ok(answer);
    }
    match Kind::of(&answer) {
        Kind::Str(text) => Ok(Value::from_safe_string(text.to_owned())),
        Kind::Bool(_) => Ok(answer),
        _ => Err(cannot("this method on escaped text (`|e`, `|safe`, `|tojson`)")),
    }
}

fn bool_of(text: &str, class: fn(char) -> bool) -> Value {
    Value::from(!text.is_empty() && text.chars().all(class))
}

fn plain(s: &str, method: &str, args: &Arguments) -> Answer {
    let none = || args.places::<0>(method, 0).map(|_| ());
    Ok(match method {
        "upper" => none().map(|()| Value::from(s.to_uppercase()))?,
        "lower" => none().map(|()| Value::from(s.to_lowercase()))?,
        "title" => none().map(|()| Value::from(casing::title(s)))?,
        "capitalize" => none().map(|()| Value::from(casing::capitalize(s)))?,
        "swapcase" => none().map(|()| Value::from(casing::swapcase(s)))?,
        "casefold" => none().map(|()| Value::from(caseless::default_case_fold_str(s)))?,
        "isalpha" => none().map(|()| bool_of(s, casing::is_alpha))?,
        "isalnum" => none().map(|()| bool_of(s, casing::is_alnum))?,
        "isascii" => none().map(|()| Value::from(s.is_ascii()))?,
        "isdecimal" => none().map(|()| bool_of(s, casing::is_decimal))?,
        "isdigit" => none().map(|()| bool_of(s, casing::is_digit))?,
        "isspace" => none().map(|()| bool_of(s, casing::is_space))?,
        "islower" => none().map(|()| Value::from(casing::is_lower(s)))?,
        "isupper" => none().map(|()| Value::from(casing::is_upper(s)))?,
        "istitle" => none().map(|()| Value::from(casing::is_titled(s)))?,
        "isprintable" => none().map(|()| Value::from(s.chars().all(print::printable)))?,
        "isnumeric" => {
            none()?;
            if s.chars().any(|c| !c.is_ascii() && casing::is_alpha(c)) {
                return Err(cannot("isnumeric() of letters outside ASCII"));
            }
            bool_of(s, casing::is_number)
        }
        "isidentifier" => {
            none()?;
            if !s.is_ascii() {
                return Err(cannot("isidentifier() outside ASCII"));
            }
            let starts = s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            Value::from(starts && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.places(method, 0)?;
            strip(s, method, chars.as_ref())?
        }
        "split" | "rsplit" => {
            let [separator, most] = args.bind(method, ["sep", "maxsplit"], 0)?;
            let most = most.as_ref().map(integer).transpose()?.unwrap_or(-1);
            let most = usize::try_from(most).ok();
            let separator = separator.filter(|separator| !separator.is_none());
            let separator = separator.as_ref().map(|separator| text(method, separator)).transpose()?;
            let parts = split(s, separator, most, method == "rsplit")?;
            Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
        }
        "splitlines" => {
            let [keep] = args.bind(method, ["keepends"], 0)?;
            let keep = keep.is_some_and(|keep| keep.is_true());
            Value::from(casing::splitlines(s, keep).into_iter().map(Value::from).collect::<Vec<_>>())
        }
        "partition" | "rpartition" => {
            let [separator] = args.places(method, 1)?;
            let separator = text(method, &separator.unwrap_or_default())?.to_owned();
            partition(s, &separator, method == "rpartition")?
        }
        "replace" => {
            let [old, new, count] = args.places(method, 2)?;
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            let count = count.as_ref().map(integer).transpose()?.unwrap_or(-1);
            Value::from(replace(s, text(method, &old)?, text(method, &new)?, count)?)
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = args.places(method, 1)?;
            let affix = affix.unwrap_or_default();
            let affix = text(method, &affix)?;
            let rest = if method == "removeprefix" { s.strip_prefix(affix) } else { s.strip_suffix(affix) };
            Value::from(rest.unwrap_or(s))
        }
        "startswith" | "endswith" => {
            let [affix, start, end] = args.places(method, 1)?;
            let Some(part) = window(s, start.as_ref(), end.as_ref())? else { return Ok(Value::from(false)) };
            let holds = |affix: &Value| -> Result<bool, Error> {
                let affix = text(method, affix)?;
                Ok(if method == "startswith" { part.2.starts_with(affix) } else { part.2.ends_with(affix) })
            };
            let affix = affix.unwrap_or_default();
            match Kind::of(&affix) {
                Kind::Tuple(items) => {
                    let mut any = false;
                    for item in &items {
                        any = any || holds(item)?;
                    }
                    Value::from(any)
                }
                _ => holds(&affix).map(Value::from)?,
            }
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [part, start, end] = args.places(method, 1)?;
            let part = part.unwrap_or_default();
            search(s, method, text(method, &part)?, start.as_ref(), end.as_ref())?
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = args.places(method, 1)?;
            let fill = match &fill {
                Some(fill) => {
                    let mut chars = text(method, fill)?.chars();
                    match (chars.next(), chars.next()) {
                        (Some(c), None) => c,
                        _ => return Err(fails("The fill character must be exactly one character long")),
                    }
                }
                None => ' ',
            };
            Value::from(pad(s, method, size(&width.unwrap_or_default())?, fill))
        }
        "zfill" => {
            let [width] = args.places(method, 1)?;
            let missing = size(&width.unwrap_or_default())?.saturating_sub(s.chars().count());
            let sign = s.chars().next().filter(|c| "+-".contains(*c)).map_or(0, char::len_utf8);
            let (sign, digits) = s.split_at(sign);
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        "expandtabs" => {
            let [width] = args.bind(method, ["tabsize"], 0)?;
            let width = width.as_ref().map(size).transpose()?.unwrap_or(8);
            Value::from(expandtabs(s, width)?)
        }
        "join" => {
            let [items] = args.places(method, 1)?;
            let mut parts = Vec::new();
            for (at, item) in iterate(&items.unwrap_or_default())?.iter().enumerate() {
                let Some(part) = item.as_str() else {
                    return Err(fails(format!(
                        "sequence item {at}: expected str instance, {} found",
                        Kind::of(item).name()
                    )));
                };
                if item.is_safe() {
                    return Err(cannot("join() of escaped text"));
                }
                parts.push(part.to_owned());
            }
            bounded(parts.iter().map(String::len).sum::<usize>() + s.len() * parts.len())?;
            Value::from(parts.join(s))
        }
        "format" => Value::from(format::braces(s, args)?),
        "encode" => {
            let [encoding, errors] = args.bind(method, ["encoding", "errors"], 0)?;
            let encoding = encoding.as_ref().map(|e| text(method, e)).transpose()?.unwrap_or("utf-8");
            let encoding = encoding.to_ascii_lowercase();
            match encoding.as_str() {
                _ if errors.is_some() => return Err(cannot("encode() with an error handler")),
                "utf-8" | "utf8" => Value::from_bytes(s.as_bytes().to_vec()),
                "ascii" | "us-ascii" if s.is_ascii() => Value::from_bytes(s.as_bytes().to_vec()),
                "ascii" | "us-ascii" => return Err(fails("'ascii' codec can't encode the text")),
                _ => return Err(cannot("encode() to anything but UTF-8 and ASCII")),
            }
        }
        "translate" => {
            let [table] = args.places(method, 1)?;
            Value::from(translate(s, &table.unwrap_or_default())?)
        }
        _ => return Err(cannot(&format!("the method {method}() of a text"))),
    })
}

/// Refuses a text that would be larger than any real claim can make it.
fn bounded(bytes: usize) -> Result<(), Error> {
    if bytes > LARGEST { Err(cannot("a text of such a length")) } else { Ok(()) }
}

/// `str.strip()` and its like; `chars` is a set of characters.
pub(super) fn strip(s: &str, method: &str, chars: Option<&Value>) -> Answer {
    let chars = chars.filter(|chars| !chars.is_none()).map(|chars| text(method, chars)).transpose()?;
    let drop = |c: char| chars.map_or_else(|| casing::is_space(c), |set| set.contains(c));
    Ok(Value::from(match method {
        "lstrip" => s.trim_start_matches(drop),
        "rstrip" => s.trim_end_matches(drop),
        _ => s.trim_matches(drop),
    }))
}

fn split<'a>(
    s: &'a str,
    separator: Option<&str>,
    most: Option<usize>,
    from_right: bool,
) -> Result<Vec<&'a str>, Error> {
    let limit = most.map_or(usize::MAX, |most| most.saturating_add(1));
    let Some(separator) = separator else {
        return Ok(split_space(s, most, from_right));
    };
    if separator.is_empty() {
        return Err(fails("empty separator"));
    }
    if from_right {
        let mut parts: Vec<_> = s.rsplitn(limit, separator).collect();
        parts.reverse();
        return Ok(parts);
    }
    Ok(s.splitn(limit, separator).collect())
}

fn split_space(s: &str, most: Option<usize>, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = s;
    loop {
        rest = if from_right {
            rest.trim_end_matches(casing::is_space)
        } else {
            rest.trim_start_matches(casing::is_space)
        };
        if rest.is_empty() {
            break;
        }
        let cut = if from_right {
            rest.char_indices().rfind(|(_, c)| casing::is_space(*c)).map(|(at, c)| at + c.len_utf8())
        } else {
            rest.find(casing::is_space)
        };
        match cut {
            Some(cut) if most.is_none_or(|most| parts.len() < most) => {
                let (left, right) = rest.split_at(cut);
                parts.push(if from_right { right } else { left });
                rest = if from_right { left } else { right };
            }
            _ if from_right => {
                // What is left keeps its own white space in front only if it was not split any further.
                parts.push(if cut.is_none() { rest.trim_start_matches(casing::is_space) } else { rest });
                break;
            }
            _ => {
                parts.push(rest);
                break;
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn partition(s: &str, separator: &str, from_right: bool) -> Answer {
    if separator.is_empty() {
        return Err(fails("empty separator"));
    }
    let found = if from_right { s.rsplit_once(separator) } else { s.split_once(separator) };
    Ok(tuple(match found {
        Some((left, right)) => vec![left.into(), separator.into(), right.into()],
        None if from_right => vec!["".into(), "".into(), s.into()],
        None => vec![s.into(), "".into(), "".into()],
    }))
}

/// `str.replace()`; a negative count means all.
pub(super) fn replace(s: &str, old: &str, new: &str, count: i128) -> Result<String, Error> {
    bounded(s.len().saturating_add((s.len() + 1).saturating_mul(new.len())).min(s.len().saturating_add(
        if old.is_empty() { s.chars().count() + 1 } else { s.matches(old).count() }.saturating_mul(new.len()),
    )))?;
    Ok(match usize::try_from(count) {
        Ok(count) => s.replacen(old, new, count),
        Err(_) => s.replace(old, new),
    })
}

/// The part of a text between two optional offsets, with the offsets; `None` if the first is behind the end.
fn window<'a>(
    s: &'a str,
    start: Option<&Value>,
    end: Option<&Value>,
) -> Result<Option<(usize, usize, &'a str)>, Error> {
    let chars = s.chars().count();
    let clamp = |offset: Option<&Value>, default: usize| -> Result<usize, Error> {
        let Some(offset) = offset.filter(|offset| !offset.is_none()) else { return Ok(default) };
        let offset = integer(offset)?;
        let offset = if offset < 0 { offset + chars as i128 } else { offset };
        Ok(usize::try_from(offset.max(0)).unwrap_or(usize::MAX))
    };
    let (start, end) = (clamp(start, 0)?, clamp(end, chars)?.min(chars));
    if start > end {
        return Ok(None);
    }
    let byte = |at: usize| s.char_indices().nth(at).map_or(s.len(), |(byte, _)| byte);
    Ok(s.get(byte(start)..byte(end)).map(|part| (start, end, part)))
}

fn search(s: &str, method: &str, part: &str, start: Option<&Value>, end: Option<&Value>) -> Answer {
    let window = window(s, start, end)?;
    if method == "count" {
        return Ok(Value::from(window.map_or(0, |(_, _, text)| text.matches(part).count())));
    }
    let found = window.and_then(|(from, _, text)| {
        let byte = if method.starts_with('r') { text.rfind(part) } else { text.find(part) }?;
        text.get(..byte).map(|before| from + before.chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if method.ends_with("index") => Err(fails("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

/// `str.center()`, `ljust()` and `rjust()`.
pub(super) fn pad(s: &str, method: &str, width: usize, fill: char) -> String {
    let len = s.chars().count();
    let missing = width.saturating_sub(len);
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // Python puts the odd one to the left if the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    let fill = |n: usize| fill.to_string().repeat(n);
    format!("{}{s}{}", fill(left), fill(missing - left))
}

fn expandtabs(s: &str, width: usize) -> Result<String, Error> {
    bounded(s.len().saturating_add(s.matches('\t').count().saturating_mul(width)))?;
    let (mut out, mut column) = (String::new(), 0);
    for c in s.chars() {
        if c == '\t' {
            if width > 0 {
                let spaces = width - column % width;
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
        } else {
            out.push(c);
            column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
        }
    }
    Ok(out)
}

fn translate(s: &str, table: &Value) -> Result<String, Error> {
    let Kind::Dict(pairs) = Kind::of(table) else {
        return Err(cannot("translate() with anything but a dictionary"));
    };
    let mut out = String::new();
    for c in s.chars() {
        let entry = pairs.iter().find(|(key, _)| Kind::of(key).index() == Some(i128::from(u32::from(c))));
        match entry.map(|(_, value)| (Kind::of(value), value)) {
            None => out.push(c),
            Some((Kind::None, _)) => {}
            Some((Kind::Str(text), _)) => out.push_str(text),
            Some((Kind::Int(code), _)) => match u32::try_from(code).ok().and_then(char::from_u32) {
                Some(c) => out.push(c),
                None => return Err(fails("character mapping must be in range(0x110000)")),
            },
            Some((other, _)) => {
                return Err(fails(format!(
                    "character mapping must return integer, None or str, not {}",
                    other.name()
                )));
            }
        }
        bounded(out.len())?;
    }
    Ok(out)
}

/// The methods of bytes that make sense in a template.
pub(super) fn call_bytes(bytes: &[u8], method: &str, args: &Arguments) -> Answer {
    match method {
        "decode" if args.places.is_empty() && args.names.is_empty() => std::str::from_utf8(bytes)
            .map(Value::from)
            .map_err(|_| fails("'utf-8' codec can't decode the bytes")),
        _ => Err(cannot(&format!("the method {method}() of bytes"))),
    }
}

/// The methods of lists and tuples that do not change them.
pub(super) fn call_list(value: &Value, method: &str, args: &Arguments) -> Answer {
    match method {
        "count" => {
            let [item] = args.places(method, 1)?;
            let item = item.unwrap_or_default();
            let count = iterate(value)?.iter().filter(|other| equal(other, &item)).count();
            Ok(Value::from(count))
        }
        "index" => {
            let [item] = args.places(method, 1)?;
            let item = item.unwrap_or_default();
            match iterate(value)?.iter().position(|other| equal(other, &item)) {
                Some(at) => Ok(Value::from(at)),
                None => Err(fails("the value is not in list")),
            }
        }
        "copy" => args.places::<0>(method, 0).map(|_| value.clone()),
        // The translation lets `pop` through only on a list that nothing else can see.
        "pop" => {
            let [at] = args.places(method, 0)?;
            let at = at.as_ref().map(integer).transpose()?.unwrap_or(-1);
            let len = length(value)? as i128;
            let at = if at < 0 { at + len } else { at };
            let items = iterate(value)?;
            usize::try_from(at)
                .ok()
                .and_then(|at| items.get(at).cloned())
                .ok_or_else(|| fails("pop index out of range"))
        }
        _ => Err(cannot(&format!("the method {method}() of a list"))),
    }
}
