//! Jinja2's filters that make numbers.

use minijinja::{Error, Value};

use super::{
    arguments::{Arguments, integer},
    arithmetic, casing,
    value::{Answer, Kind, cannot, fails, iterate},
};

/// Applies one of `abs`, `int`, `float`, `round`, `filesizeformat`, `sum`.
pub(super) fn apply(name: &str, value: &Value, args: &Arguments) -> Answer {
    match name {
        "abs" => {
            args.places::<0>(name, 0)?;
            match Kind::of(value) {
                Kind::Float(f) => Ok(Value::from(f.abs())),
                kind => match kind.index() {
                    Some(i) => i.checked_abs().map(Value::from).ok_or_else(|| cannot("such a large integer")),
                    None => Err(fails(format!("bad operand type for abs(): '{}'", kind.name()))),
                },
            }
        }
        "int" => {
            let [default, base] = args.bind(name, ["default", "base"], 0)?;
            let base = base.as_ref().map(integer).transpose()?.unwrap_or(10);
            Ok(int(value, base)?.unwrap_or_else(|| default.unwrap_or_else(|| Value::from(0))))
        }
        "float" => {
            let [default] = args.bind(name, ["default"], 0)?;
            Ok(match float(value)? {
                Some(f) => Value::from(f),
                None => default.unwrap_or_else(|| Value::from(0.0)),
            })
        }
        "round" => round(value, args),
        "filesizeformat" => {
            let [binary] = args.bind(name, ["binary"], 0)?;
            let Some(bytes) = float(value)? else {
                return Err(fails("could not convert the value to float"));
            };
            filesize(bytes, binary.is_some_and(|binary| binary.is_true()))
        }
        _ => {
            let [attribute, start] = args.bind(name, ["attribute", "start"], 0)?;
            if attribute.is_some_and(|attribute| !attribute.is_none()) {
                return Err(cannot("`sum` of an attribute"));
            }
            let mut sum = start.unwrap_or_else(|| Value::from(0));
            if sum.as_str().is_some() {
                return Err(fails("sum() can't sum strings [use ''.join(seq) instead]"));
            }
            for item in iterate(value)? {
                sum = arithmetic::binary("+", &sum, &item)?;
            }
            Ok(sum)
        }
    }
}

/// Python's `int()` as the filter uses it; `None` if it fails.
fn int(value: &Value, base: i128) -> Result<Option<Value>, Error> {
    let from_float = |f: f64| {
        if !f.is_finite() {
            return Ok(None);
        }
        if f.abs() >= 1e18 {
            return Err(cannot("turning such a large float into an integer"));
        }
        // Within these bounds the whole part fits.
        #[allow(clippy::cast_possible_truncation)]
        let whole = f.trunc() as i64;
        Ok(Some(Value::from(whole)))
    };
    match Kind::of(value) {
        Kind::Undefined => Err(cannot("the filter `int` on something undefined")),
        Kind::Str(text) => match parse_int(text, base)? {
            Some(i) => Ok(Some(Value::from(i))),
            None => match parse_float(text)? {
                Some(f) => from_float(f),
                None => Ok(None),
            },
        },
        Kind::Float(f) => {
            if f.is_infinite() {
                // `int(inf)` is an OverflowError, which the filter's first `except` does not catch.
                return Err(fails("cannot convert float infinity to integer"));
            }
            from_float(f)
        }
        Kind::Bytes(_) => Err(cannot("the filter `int` on bytes")),
        kind => Ok(kind.index().map(Value::from)),
    }
}

fn float(value: &Value) -> Result<Option<f64>, Error> {
    match Kind::of(value) {
        Kind::Undefined => Err(cannot("the filter `float` on something undefined")),
        Kind::Str(text) => parse_float(text),
        Kind::Float(f) => Ok(Some(f)),
        Kind::Bytes(_) => Err(cannot("the filter `float` on bytes")),
        kind => match kind.index() {
            Some(i) if i.unsigned_abs() <= 1 << 53 => {
                #[allow(clippy::cast_precision_loss)]
                let f = i as f64;
                Ok(Some(f))
            }
            Some(_) => Err(cannot("turning such a large integer into a float")),
            None => Ok(None),
        },
    }
}

/// The text of a number without white space around it and underscores between digits.
fn cleaned(text: &str, digit: fn(char) -> bool) -> Result<Option<String>, Error> {
    let text = text.trim_matches(casing::is_space);
    if text.chars().any(|c| !c.is_ascii() && casing::is_digit(c)) {
        return Err(cannot("numbers in digits outside ASCII"));
    }
    let mut out = String::new();
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '_' {
            let fits = |c: char| digit(c);
            if !(fits(before) && chars.peek().is_some_and(|c| fits(*c))) {
                return Ok(None);
            }
        } else {
            out.push(c);
        }
        before = c;
    }
    Ok(Some(out))
}

fn parse_int(text: &str, base: i128) -> Result<Option<i128>, Error> {
    let radix = match u32::try_from(base) {
        Ok(base @ 2..=36) => base,
        Ok(0) => return Err(cannot("the filter `int` with base 0")),
        _ => return Ok(None),
    };
    let Some(text) = cleaned(text, |c| c.is_ascii_alphanumeric())? else { return Ok(None) };
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefix = match radix {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let digits = match digits.get(..2) {
        Some(head) if !prefix.is_empty() && head.eq_ignore_ascii_case(prefix) => {
            digits.get(2..).unwrap_or_default()
        }
        _ => digits,
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    match i128::from_str_radix(digits, radix) {
        Ok(i) => Ok(Some(if negative { -i } else { i })),
        Err(_) => Err(cannot("integers of more than 38 digits")),
    }
}

fn parse_float(text: &str) -> Result<Option<f64>, Error> {
    let Some(text) = cleaned(text, |c| c.is_ascii_digit())? else { return Ok(None) };
    // Rust takes the same forms as Python: digits, a point, an exponent, `inf`, `infinity` and `nan`.
    match text.parse::<f64>() {
        Ok(f) if f.is_finite() => Ok(Some(f)),
        // Jinja2 trips over infinity where it comes from constants.
        Ok(_) => Err(cannot("infinite numbers and NaN")),
        Err(_) => Ok(None),
    }
}

fn round(value: &Value, args: &Arguments) -> Answer {
    let [precision, method] = args.bind("round", ["precision", "method"], 0)?;
    let precision = precision.as_ref().map(integer).transpose()?.unwrap_or(0);
    let method = method.unwrap_or_else(|| Value::from("common"));
    let method = method.as_str().unwrap_or_default();
    let kind = Kind::of(value);
    if !["common", "ceil", "floor"].contains(&method) {
        return Err(fails("method must be common, ceil or floor"));
    }
    if !(0..=15).contains(&precision) {
        return Err(cannot("rounding to such a precision"));
    }
    let places = usize::try_from(precision).unwrap_or(0);
    match (&kind, method) {
        (Kind::Float(f), "common") if f.is_finite() => {
            // Both languages round the exact binary value, half to even.
            Ok(Value::from(format!("{f:.places$}").parse().unwrap_or(*f)))
        }
        (Kind::Float(f), "common") => Ok(Value::from(*f)),
        (Kind::Bool(_) | Kind::Int(_), "common") => Ok(Value::from(kind.index().unwrap_or(0))),
        (Kind::Float(_) | Kind::Bool(_) | Kind::Int(_), method) => {
            let Some(f) = float(value)? else { return Err(fails("a real number is required")) };
            let scale = 10_f64.powi(i32::try_from(precision).unwrap_or(0));
            let scaled = f * scale;
            if scaled.is_nan() || scaled.abs() >= 9_007_199_254_740_992.0 {
                return Err(cannot("rounding such a large number"));
            }
            let whole = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
            // Python's ceil and floor give an integer, which knows no negative zero.
            Ok(Value::from((whole + 0.0) / scale))
        }
        _ => Err(fails(format!("type {} doesn't define __round__ method", kind.name()))),
    }
}

fn filesize(bytes: f64, binary: bool) -> Answer {
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes.is_nan() || bytes.is_infinite() {
        return Err(cannot("`filesizeformat` of such a number"));
    }
    if bytes == 1.0 {
        return Ok(Value::from("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::from(format!("{} Bytes", bytes.trunc() + 0.0)));
    }
    let mut out = String::new();
    for (at, prefix) in ["k", "M", "G", "T", "P", "E", "Z", "Y"].iter().enumerate() {
        let unit = base.powi(i32::try_from(at).unwrap_or(0) + 2);
        let prefix = if binary { format!("{}iB", prefix.to_uppercase()) } else { format!("{prefix}B") };
        out = format!("{:.1} {prefix}", base * bytes / unit);
        if bytes < unit {
            break;
        }
    }
    Ok(Value::from(out))
}
