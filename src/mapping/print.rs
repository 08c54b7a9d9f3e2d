//! How Python prints: `str`, `repr`, and Jinja2's `tojson`.

use minijinja::{Error, Value};

use super::{
    objects::View,
    value::{Answer, Kind, cannot, fails, pairs, sorted, tuple},
};

/// Python's `str`.
pub(super) fn string(value: &Value) -> Result<String, Error> {
    match Kind::of(value) {
        Kind::Undefined => Ok(String::new()),
        Kind::Str(text) => Ok(text.to_owned()),
        _ => repr(value),
    }
}

/// What `{{ … }}` prints: Synapse's environment turns None into nothing.
pub(super) fn output(value: &Value) -> Result<String, Error> {
    if value.is_none() { Ok(String::new()) } else { string(value) }
}

/// Python's `repr`.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    Ok(match Kind::of(value) {
        Kind::Undefined => "Undefined".to_owned(),
        Kind::None => "None".to_owned(),
        Kind::Bool(b) => if b { "True" } else { "False" }.to_owned(),
        Kind::Int(i) => i.to_string(),
        Kind::Float(f) => float(f),
        Kind::Str(text) if value.is_safe() => format!("Markup({})", quoted(text)),
        Kind::Str(text) => quoted(text),
        Kind::Bytes(bytes) => byte_literal(bytes),
        Kind::List(items) => format!("[{}]", joined(&items)?),
        Kind::Tuple(items) if items.len() == 1 => format!("({},)", joined(&items)?),
        Kind::Tuple(items) => format!("({})", joined(&items)?),
        Kind::View(View { name, items }) => format!("{name}([{}])", joined(items)?),
        Kind::Range(range) if range.step == 1 => format!("range({}, {})", range.start, range.stop),
        Kind::Range(range) => format!("range({}, {}, {})", range.start, range.stop, range.step),
        Kind::Dict(_) | Kind::User(_) => {
            let mut parts = Vec::new();
            for (key, value) in pairs(value).unwrap_or_default() {
                parts.push(format!("{}: {}", repr(&key)?, repr(&value)?));
            }
            format!("{{{}}}", parts.join(", "))
        }
        Kind::Once(_) | Kind::Cycler(_) | Kind::Joiner(_) | Kind::Namespace(_) | Kind::Other => {
            return Err(cannot(
                "printing an object that Python prints with a memory address or in a form of its own; put \
                 `|list` or `|join` behind a filter such as `map`",
            ));
        }
    })
}

fn joined(items: &[Value]) -> Result<String, Error> {
    Ok(items.iter().map(repr).collect::<Result<Vec<_>, _>>()?.join(", "))
}

/// Python's `repr` of a float: the shortest digits that give the same float, with an exponent from 1e16 up and
/// below 1e-4.
pub(super) fn float(f: f64) -> String {
    if f.is_nan() {
        return "nan".to_owned();
    }
    if f.is_infinite() {
        return if f > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let mut scientific = format!("{f:e}");
    // Between two texts of that length that are equally near, Python takes the even digit and Rust does not.
    let places = scientific.split('e').next().unwrap_or_default().bytes().filter(u8::is_ascii_digit).count();
    let even = format!("{f:.*e}", places.saturating_sub(1));
    if even.parse() == Ok(f) {
        scientific = even;
    }
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let after_point = i32::try_from(places).unwrap_or(0) - 1 - exponent;
        format!("{f:.*}", usize::try_from(after_point.max(1)).unwrap_or(1))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
    }
}

/// Whether Python's `repr` shows the character as it is (`str.isprintable`).
pub(super) fn printable(c: char) -> bool {
    // Behind another character, `escape_debug` escapes what cannot be printed and nothing else but quotes and
    // backslashes.
    c == ' ' || !format!("a{c}").escape_debug().to_string().contains("\\u{") && !c.is_control()
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if printable(c) => out.push(c),
            c => match u32::from(c) {
                n @ 0..=0xff => out.push_str(&format!("\\x{n:02x}")),
                n @ 0x100..=0xffff => out.push_str(&format!("\\u{n:04x}")),
                n => out.push_str(&format!("\\U{n:08x}")),
            },
        }
    }
    out.push(quote);
    out
}

fn byte_literal(bytes: &[u8]) -> String {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    let mut out = format!("b{quote}");
    for &byte in bytes {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b if char::from(b) == quote => {
                out.push('\\');
                out.push(quote);
            }
            b' '..=b'~' => out.push(char::from(byte)),
            b => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out.push(quote);
    out
}

/// Jinja2's `tojson`: sorted keys, ASCII only, and nothing that HTML would take for markup.
pub(super) fn tojson(value: &Value) -> Answer {
    let mut out = String::new();
    json(value, &mut out)?;
    let safe =
        out.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").replace('\'', "\\u0027");
    Ok(Value::from_safe_string(safe))
}

fn json_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            c => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

fn json(value: &Value, out: &mut String) -> Result<(), Error> {
    match Kind::of(value) {
        Kind::None => out.push_str("null"),
        Kind::Bool(b) => out.push_str(if b { "true" } else { "false" }),
        Kind::Float(f) if f.is_nan() => out.push_str("NaN"),
        Kind::Float(f) if f.is_infinite() => out.push_str(if f > 0.0 { "Infinity" } else { "-Infinity" }),
        Kind::Int(_) | Kind::Float(_) => out.push_str(&repr(value)?),
        Kind::Str(text) => json_string(text, out),
        Kind::List(items) | Kind::Tuple(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                json(item, out)?;
            }
            out.push(']');
        }
        Kind::Dict(_) | Kind::User(_) => {
            let pairs = pairs(value).unwrap_or_default();
            let keyed = pairs.into_iter().map(|(k, v)| (k.clone(), tuple(vec![k, v]))).collect();
            out.push('{');
            for (at, pair) in sorted(keyed, false)?.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                let Kind::Tuple(pair) = Kind::of(pair) else { continue };
                let [key, value] = pair.as_slice() else { continue };
                match Kind::of(key) {
                    Kind::Str(text) => json_string(text, out),
                    Kind::None | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) => {
                        out.push('"');
                        json(key, out)?;
                        out.push('"');
                    }
                    other => {
                        return Err(fails(format!(
                            "keys must be str, int, float, bool or None, not {}",
                            other.name()
                        )));
                    }
                }
                out.push_str(": ");
                json(value, out)?;
            }
            out.push('}');
        }
        other => return Err(fails(format!("Object of type {} is not JSON serializable", other.name()))),
    }
    Ok(())
}
