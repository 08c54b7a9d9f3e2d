//! Python's operators.

use std::cmp::Ordering;

use minijinja::{Error, Value};

use super::{
    arguments::size,
    format, print, text_filters,
    value::{Answer, Kind, LARGEST, cannot, compare, contains, equal, fails, tuple},
};

/// A binary operator.
pub(super) fn binary(op: &str, a: &Value, b: &Value) -> Answer {
    let ordering = |wanted: &[Ordering]| {
        no_undefined(a, b)?;
        compare(op, a, b).map(|order| Value::from(order.is_some_and(|order| wanted.contains(&order))))
    };
    match op {
        "==" => Ok(Value::from(equal(a, b))),
        "!=" => Ok(Value::from(!equal(a, b))),
        "<" => ordering(&[Ordering::Less]),
        "<=" => ordering(&[Ordering::Less, Ordering::Equal]),
        ">" => ordering(&[Ordering::Greater]),
        ">=" => ordering(&[Ordering::Greater, Ordering::Equal]),
        "in" => contains(b, a).map(Value::from),
        "~" => {
            let text = format!("{}{}", print::string(a)?, print::string(b)?);
            if text.len() > LARGEST { Err(cannot("a text of such a length")) } else { Ok(Value::from(text)) }
        }
        "%" if matches!(Kind::of(a), Kind::Str(_)) => arithmetic(op, a, b),
        _ => {
            no_undefined(a, b)?;
            arithmetic(op, a, b)
        }
    }
}

fn no_undefined(a: &Value, b: &Value) -> Result<(), Error> {
    if a.is_undefined() || b.is_undefined() {
        return Err(fails("an operand is undefined (there is no such claim or variable)"));
    }
    Ok(())
}

fn type_error(op: &str, a: &Kind<'_>, b: &Kind<'_>) -> Error {
    fails(format!("unsupported operand type(s) for {op}: '{}' and '{}'", a.name(), b.name()))
}

fn arithmetic(op: &str, a: &Value, b: &Value) -> Answer {
    let (ka, kb) = (Kind::of(a), Kind::of(b));
    if let (Some(x), Some(y)) = (ka.index(), kb.index()) {
        return integers(op, x, y);
    }
    if let (Some(x), Some(y)) = (float(&ka), float(&kb)) {
        return floats(op, x?, y?);
    }
    match (op, &ka, &kb) {
        ("%", Kind::Str(_), _) if a.is_safe() => Err(cannot("`%` on escaped text (`|e`, `|safe`)")),
        ("%", Kind::Str(text), _) => format::percent(text, b).map(Value::from),
        ("+", Kind::Str(x), Kind::Str(y)) => {
            let escaped = |value: &Value, text: &str| {
                if value.is_safe() { text.to_owned() } else { text_filters::escape(text) }
            };
            bounded(x.len() + y.len())?;
            Ok(if a.is_safe() || b.is_safe() {
                Value::from_safe_string(format!("{}{}", escaped(a, x), escaped(b, y)))
            } else {
                Value::from(format!("{x}{y}"))
            })
        }
        ("+", Kind::List(x), Kind::List(y)) => Ok(Value::from([x.as_slice(), y].concat())),
        ("+", Kind::Tuple(x), Kind::Tuple(y)) => Ok(tuple([x.as_slice(), y].concat())),
        ("*", _, _) if repeats(&ka).is_some() && kb.index().is_some() => repeat(a, b),
        ("*", _, _) if repeats(&kb).is_some() && ka.index().is_some() => repeat(b, a),
        (_, Kind::Dict(_) | Kind::View(_) | Kind::Bytes(_) | Kind::Other, _)
        | (_, _, Kind::Dict(_) | Kind::View(_) | Kind::Bytes(_) | Kind::Other) => {
            Err(cannot("arithmetic with such values"))
        }
        _ => Err(type_error(op, &ka, &kb)),
    }
}

fn bounded(len: usize) -> Result<(), Error> {
    if len > LARGEST { Err(cannot("a text or list of such a length")) } else { Ok(()) }
}

fn repeats(kind: &Kind<'_>) -> Option<usize> {
    match kind {
        Kind::Str(text) => Some(text.len()),
        Kind::List(items) | Kind::Tuple(items) => Some(items.len()),
        _ => None,
    }
}

fn repeat(what: &Value, times: &Value) -> Answer {
    let kind = Kind::of(what);
    let times = size(times)?;
    bounded(repeats(&kind).unwrap_or(0).saturating_mul(times))?;
    match kind {
        Kind::Str(text) if what.is_safe() => Ok(Value::from_safe_string(text.repeat(times))),
        Kind::Str(text) => Ok(Value::from(text.repeat(times))),
        Kind::List(items) => Ok(Value::from(vec![items; times].concat())),
        Kind::Tuple(items) => Ok(tuple(vec![items; times].concat())),
        _ => Err(cannot("repeating such a value")),
    }
}

/// A number as a float if that loses nothing; `None` for what is no number.
fn float(kind: &Kind<'_>) -> Option<Result<f64, Error>> {
    match kind {
        Kind::Float(f) => Some(Ok(*f)),
        other => other.index().map(exact),
    }
}

fn exact(i: i128) -> Result<f64, Error> {
    if i.unsigned_abs() > 1 << 53 {
        return Err(cannot("turning such a large integer into a float"));
    }
    #[allow(clippy::cast_precision_loss)]
    let f = i as f64;
    Ok(f)
}

fn integers(op: &str, x: i128, y: i128) -> Answer {
    let too_large = || cannot("integers of more than 38 digits");
    let zero = || fails("division by zero");
    let value = match op {
        "+" => x.checked_add(y),
        "-" => x.checked_sub(y),
        "*" => x.checked_mul(y),
        "/" if y == 0 => return Err(zero()),
        "/" => return Ok(Value::from(exact(x)? / exact(y)?)),
        "//" | "%" => {
            if y == 0 {
                return Err(zero());
            }
            let remainder = x.checked_rem(y).ok_or_else(too_large)?;
            let quotient = x.checked_div(y).ok_or_else(too_large)?;
            let borrow = remainder != 0 && (remainder < 0) != (y < 0);
            Some(match (op, borrow) {
                ("//", true) => quotient - 1,
                ("//", false) => quotient,
                (_, true) => remainder + y,
                (_, false) => remainder,
            })
        }
        "**" if y < 0 => return floats(op, exact(x)?, exact(y)?),
        "**" => match u32::try_from(y) {
            Ok(y) => x.checked_pow(y),
            Err(_) if (0..=1).contains(&x) => Some(x),
            Err(_) => None,
        },
        _ => return Err(cannot(&format!("the operator {op}"))),
    };
    value.map(Value::from).ok_or_else(too_large)
}

fn floats(op: &str, x: f64, y: f64) -> Answer {
    let zero = || fails("float division by zero");
    let result = match op {
        "+" => x + y,
        "-" => x - y,
        "*" => x * y,
        "/" if y == 0.0 => return Err(zero()),
        "/" => x / y,
        "//" | "%" => {
            if y == 0.0 {
                return Err(zero());
            }
            // As in CPython's `_float_div_mod`.
            let mut remainder = x % y;
            let mut quotient = (x - remainder) / y;
            if remainder == 0.0 {
                remainder = 0.0_f64.copysign(y);
            } else if (y < 0.0) != (remainder < 0.0) {
                remainder += y;
                quotient -= 1.0;
            }
            if op == "%" {
                remainder
            } else if quotient == 0.0 {
                0.0_f64.copysign(x / y)
            } else {
                let floor = quotient.floor();
                if quotient - floor > 0.5 { floor + 1.0 } else { floor }
            }
        }
        "**" if x == 0.0 && y < 0.0 => return Err(fails("0.0 cannot be raised to a negative power")),
        "**" if x < 0.0 && y.is_finite() && y.fract() != 0.0 => return Err(cannot("complex numbers")),
        "**" => {
            let power = x.powf(y);
            if power.is_infinite() && x.is_finite() && y.is_finite() {
                return Err(fails("Numerical result out of range"));
            }
            power
        }
        _ => return Err(cannot(&format!("the operator {op}"))),
    };
    // Jinja2 trips over infinity where it comes from constants.
    if result.is_finite() { Ok(Value::from(result)) } else { Err(cannot("infinite numbers")) }
}

/// `-a`
pub(super) fn negate(a: &Value) -> Answer {
    match Kind::of(a) {
        Kind::Undefined => Err(fails("the operand is undefined")),
        Kind::Float(f) => Ok(Value::from(-f)),
        kind => match kind.index() {
            Some(i) => i.checked_neg().map(Value::from).ok_or_else(|| cannot("such a large integer")),
            None => Err(fails(format!("bad operand type for unary -: '{}'", kind.name()))),
        },
    }
}
