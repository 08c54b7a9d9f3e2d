//! Python's operators, Jinja2's look-ups (`a.b`, `a['b']`, `a[1:2]`), method calls and global functions.

use std::{cmp::Ordering, sync::Mutex};

use minijinja::{Error, Value};

use super::{
    claims::USER_METHODS,
    format, print, strings,
    value::{
        Answer, Arguments, Cycler, Dict, Joiner, Kind, LARGEST, Namespace, Range, View, cannot, compare,
        contains, equal, fails, hashable, integer, iterate, locked, pairs, size, tuple,
    },
};

const LIST_METHODS: &[&str] =
    &["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
pub(super) const DICT_METHODS: &[&str] = &[
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];
const NUMBER_ATTRIBUTES: &[&str] = &[
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "fromhex",
    "hex",
    "imag",
    "is_integer",
    "numerator",
    "real",
    "to_bytes",
];

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
                if value.is_safe() { text.to_owned() } else { super::filters::escape(text) }
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

fn is_method(kind: &Kind<'_>, name: &str) -> bool {
    let known = match kind {
        Kind::Str(_) => strings::METHODS,
        Kind::List(_) => LIST_METHODS,
        Kind::Tuple(_) => &["count", "index"],
        Kind::Dict(_) => DICT_METHODS,
        Kind::User(_) => USER_METHODS,
        Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) => NUMBER_ATTRIBUTES,
        Kind::View(_) => &["mapping", "isdisjoint"],
        Kind::Range(_) => &["start", "stop", "step", "count", "index"],
        Kind::Cycler(_) => &["next", "reset", "pos", "items"],
        Kind::Joiner(_) => &["sep", "used"],
        Kind::Bytes(_) | Kind::Other | Kind::Once(_) => return true,
        Kind::Undefined | Kind::None | Kind::Namespace(_) => &[],
    };
    known.contains(&name)
}

fn method_as_value(kind: &Kind<'_>, name: &str) -> Error {
    cannot(&format!("using the method or attribute `{name}` of a {} as a value", kind.name()))
}

/// `a.name`: the attribute first, then the entry.
pub(super) fn attribute(a: &Value, name: &str) -> Answer {
    let kind = Kind::of(a);
    if is_method(&kind, name) || a.is_safe() && matches!(name, "escape" | "unescape" | "striptags") {
        return Err(method_as_value(&kind, name));
    }
    Ok(match &kind {
        Kind::Undefined => return Err(undefined(name)),
        Kind::User(user) => user.attribute(name),
        Kind::Dict(pairs) => entry(pairs, &Value::from(name)),
        Kind::Namespace(names) => {
            let names = locked(&names.0);
            names.iter().find(|(other, _)| other == name).map(|(_, v)| v.clone()).unwrap_or_default()
        }
        Kind::Cycler(cycler) if name == "current" => {
            cycler.items.get(*locked(&cycler.at)).cloned().unwrap_or_default()
        }
        _ => Value::UNDEFINED,
    })
}

fn undefined(name: &str) -> Error {
    fails(format!("'{name}' is asked of something undefined (there is no such claim or variable)"))
}

fn entry(pairs: &[(Value, Value)], key: &Value) -> Value {
    pairs.iter().find(|(other, _)| equal(other, key)).map(|(_, value)| value.clone()).unwrap_or_default()
}

/// `a[key]`: the entry first, then the attribute. What is not there is undefined.
pub(super) fn item(a: &Value, key: &Value) -> Answer {
    let kind = Kind::of(a);
    if matches!(kind, Kind::Undefined) {
        return Err(undefined("an entry"));
    }
    let at = |len: usize| {
        let at = Kind::of(key).index()?;
        usize::try_from(if at < 0 { at + len as i128 } else { at }).ok()
    };
    let found = match &kind {
        Kind::Str(text) => at(text.chars().count()).and_then(|at| text.chars().nth(at)).map(|c| {
            if a.is_safe() { Value::from_safe_string(c.to_string()) } else { Value::from(c.to_string()) }
        }),
        Kind::List(items) | Kind::Tuple(items) => at(items.len()).and_then(|at| items.get(at).cloned()),
        Kind::Range(range) => at(range.items.len()).and_then(|at| range.items.get(at).cloned()),
        Kind::Dict(pairs) if hashable(key).is_ok() => {
            pairs.iter().find(|(other, _)| equal(other, key)).map(|(_, value)| value.clone())
        }
        Kind::User(user) => key.as_str().and_then(|key| user.get(key)),
        Kind::Bytes(_) => return Err(cannot("an entry of bytes")),
        _ => None,
    };
    match (found, key.as_str()) {
        (Some(found), _) => Ok(found),
        (None, Some(name)) if !matches!(kind, Kind::Dict(_)) || is_method(&kind, name) => attribute(a, name),
        (None, _) => Ok(Value::UNDEFINED),
    }
}

/// `a[start:stop:step]`
pub(super) fn slice(a: &Value, start: &Value, stop: &Value, step: &Value) -> Answer {
    let kind = Kind::of(a);
    let bound = |value: &Value| -> Result<Option<i128>, Error> {
        if value.is_none() {
            return Ok(None);
        }
        Kind::of(value).index().map(Some).ok_or_else(|| cannot("a slice by anything but integers"))
    };
    let items = match &kind {
        Kind::Str(text) => text.chars().map(|c| Value::from(c.to_string())).collect(),
        Kind::List(items) | Kind::Tuple(items) => items.clone(),
        Kind::Undefined => return Err(undefined("a slice")),
        // Jinja2 makes nothing of it if it comes from constants, and fails otherwise.
        other => return Err(cannot(&format!("a slice of a {}", other.name()))),
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    let picked = picked(items.len(), start, stop, step)?;
    let picked = picked.into_iter().filter_map(|at| items.get(at).cloned());
    Ok(match kind {
        Kind::Str(_) => {
            let text: String = picked.filter_map(|c| c.as_str().map(str::to_owned)).collect();
            if a.is_safe() { Value::from_safe_string(text) } else { Value::from(text) }
        }
        Kind::Tuple(_) => tuple(picked.collect()),
        _ => Value::from(picked.collect::<Vec<_>>()),
    })
}

/// The indices that a slice picks from a sequence of `len` (CPython's `PySlice_AdjustIndices`).
fn picked(len: usize, start: Option<i128>, stop: Option<i128>, step: i128) -> Result<Vec<usize>, Error> {
    if step == 0 {
        return Err(fails("slice step cannot be zero"));
    }
    let len = len as i128;
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |at: i128| if at < 0 { at.saturating_add(len).max(low) } else { at.min(high) };
    let first = start.map_or(if step > 0 { low } else { high }, clamp);
    let end = stop.map_or(if step > 0 { high } else { low }, clamp);
    let mut picked = Vec::new();
    let mut at = first;
    while if step > 0 { at < end } else { at > end } {
        picked.extend(usize::try_from(at).ok());
        at = at.saturating_add(step);
    }
    Ok(picked)
}

/// `a.method(…)`
pub(super) fn method(a: &Value, name: &str, args: &Arguments) -> Answer {
    let kind = Kind::of(a);
    match &kind {
        Kind::Undefined => return Err(undefined(name)),
        Kind::Str(text) if strings::METHODS.contains(&name) => return strings::call(a, text, name, args),
        Kind::Bytes(bytes) => return strings::call_bytes(bytes, name, args),
        Kind::List(_) if LIST_METHODS.contains(&name) => return strings::call_list(a, name, args),
        Kind::Tuple(_) if matches!(name, "count" | "index") => return strings::call_list(a, name, args),
        Kind::Dict(_) if DICT_METHODS.contains(&name) => return dict_method(a, name, args),
        Kind::User(user) if DICT_METHODS.contains(&name) => {
            if name == "get" {
                let [key, default] = args.places(name, 1)?;
                let key = key.unwrap_or_default();
                hashable(&key)?;
                let found = key.as_str().and_then(|key| user.get(key));
                return Ok(found.or(default).unwrap_or(Value::from(())));
            }
            return dict_method(a, name, args);
        }
        Kind::Cycler(cycler) if matches!(name, "next" | "reset") => {
            args.places::<0>(name, 0)?;
            let mut at = locked(&cycler.at);
            if name == "reset" {
                *at = 0;
                return Ok(Value::from(()));
            }
            let current = cycler.items.get(*at).cloned().unwrap_or_default();
            *at = (*at + 1) % cycler.items.len().max(1);
            return Ok(current);
        }
        _ => {}
    }
    let found = if is_method(&kind, name) { None } else { Some(attribute(a, name)?) };
    match found {
        Some(found) if found.is_undefined() => {
            Err(fails(format!("'{} object' has no attribute '{name}'", kind.name())))
        }
        Some(found) => call(&found, args),
        None => Err(cannot(&format!("the method {name}() of a {}", kind.name()))),
    }
}

fn dict_method(a: &Value, name: &str, args: &Arguments) -> Answer {
    let pairs = pairs(a).unwrap_or_default();
    let view = |name: &'static str, items: Vec<Value>| Ok(Value::from_object(View { name, items }));
    match name {
        "get" => {
            let [key, default] = args.places(name, 1)?;
            let key = key.unwrap_or_default();
            hashable(&key)?;
            let found = pairs.iter().find(|(other, _)| equal(other, &key)).map(|(_, value)| value.clone());
            Ok(found.or(default).unwrap_or(Value::from(())))
        }
        "keys" | "values" | "items" if !args.places.is_empty() || !args.names.is_empty() => {
            Err(fails(format!("dict.{name}() takes no arguments")))
        }
        "keys" => view("dict_keys", pairs.into_iter().map(|(k, _)| k).collect()),
        "values" => view("dict_values", pairs.into_iter().map(|(_, v)| v).collect()),
        "items" => view("dict_items", pairs.into_iter().map(|(k, v)| tuple(vec![k, v])).collect()),
        "copy" if matches!(Kind::of(a), Kind::Dict(_)) => args.places::<0>(name, 0).map(|_| a.clone()),
        _ => Err(cannot(&format!("the method {name}() of a dict"))),
    }
}

/// Calls a value that a template holds in a variable.
pub(super) fn call(a: &Value, args: &Arguments) -> Answer {
    match Kind::of(a) {
        Kind::Joiner(joiner) => {
            args.places::<0>("joiner", 0)?;
            let mut used = locked(&joiner.used);
            let text = if *used { joiner.separator.clone() } else { Value::from("") };
            *used = true;
            Ok(text)
        }
        Kind::Undefined => Err(fails("there is nothing of that name to call")),
        Kind::Other => Err(cannot("calling such a value")),
        kind => Err(fails(format!("'{}' object is not callable", kind.name()))),
    }
}

/// The global functions that can be called. `lipsum` is random and is not among them.
pub(super) const GLOBALS: &[&str] = &["range", "dict", "namespace", "cycler", "joiner"];

/// Calls a global function.
pub(super) fn global(name: &str, args: &Arguments) -> Answer {
    match name {
        "range" => range(args),
        "dict" | "namespace" => {
            if args.places.len() > 1 {
                return Err(fails(format!("{name} expected at most 1 argument")));
            }
            let mut dict = Dict::default();
            if let Some(first) = args.places.first() {
                match pairs(first) {
                    Some(pairs) => dict = Dict(pairs),
                    None => {
                        for pair in iterate(first)? {
                            let [key, value] = unpack(&pair, 2)?.try_into().map_err(|_| {
                                fails("dictionary update sequence element has a wrong length")
                            })?;
                            dict.insert(key, value)?;
                        }
                    }
                }
            }
            for (key, value) in &args.names {
                dict.insert(Value::from(key.as_str()), value.clone())?;
            }
            if name == "dict" {
                return Ok(dict.value());
            }
            let mut names = Vec::new();
            for (key, value) in dict.0 {
                let key = key.as_str().ok_or_else(|| cannot("a namespace with keys that are no text"))?;
                names.push((key.to_owned(), value));
            }
            Ok(Value::from_object(Namespace(Mutex::new(names))))
        }
        "cycler" => {
            if !args.names.is_empty() {
                return Err(fails("cycler() got an unexpected keyword argument"));
            }
            if args.places.is_empty() {
                return Err(fails("at least one item has to be provided"));
            }
            Ok(Value::from_object(Cycler { items: args.places.clone(), at: Mutex::new(0) }))
        }
        "joiner" => {
            let [separator] = args.bind(name, ["sep"], 0)?;
            let separator = separator.unwrap_or_else(|| Value::from(", "));
            Ok(Value::from_object(Joiner { separator, used: Mutex::new(false) }))
        }
        _ => Err(cannot(&format!("the function {name}()"))),
    }
}

fn range(args: &Arguments) -> Answer {
    let [first, second, step] = args.places("range", 1)?;
    let first = integer(&first.unwrap_or_default())?;
    let (start, stop) = match second {
        Some(stop) => (first, integer(&stop)?),
        None => (0, first),
    };
    let step = step.as_ref().map(integer).transpose()?.unwrap_or(1);
    if step == 0 {
        return Err(fails("range() arg 3 must not be zero"));
    }
    let mut items = Vec::new();
    let mut at = start;
    while if step > 0 { at < stop } else { at > stop } {
        if items.len() >= 100_000 {
            return Err(cannot("a range of such a length"));
        }
        items.push(Value::from(at));
        at = at.saturating_add(step);
    }
    Ok(Value::from_object(Range { start, stop, step, items }))
}

/// Spreads a value over `targets` names.
pub(super) fn unpack(value: &Value, targets: usize) -> Result<Vec<Value>, Error> {
    let items = match Kind::of(value) {
        // Unlike a loop, unpacking asks for an iterator and a missing claim has an empty one.
        Kind::Undefined => Vec::new(),
        _ => iterate(value)?,
    };
    match items.len().cmp(&targets) {
        Ordering::Less => {
            Err(fails(format!("not enough values to unpack (expected {targets}, got {})", items.len())))
        }
        Ordering::Greater => Err(fails(format!("too many values to unpack (expected {targets})"))),
        Ordering::Equal => Ok(items),
    }
}

/// The items of a `for` loop over `value`, spread over `targets` names if there is more than one.
pub(super) fn loop_items(value: &Value, targets: usize) -> Answer {
    let items = iterate(value)?;
    if targets < 2 {
        return Ok(Value::from(items));
    }
    let items = items.iter().map(|item| unpack(item, targets).map(Value::from));
    Ok(Value::from(items.collect::<Result<Vec<_>, _>>()?))
}

/// `{% set namespace.name = value %}`
pub(super) fn set_attribute(namespace: &Value, name: &str, value: &Value) -> Answer {
    let Kind::Namespace(names) = Kind::of(namespace) else {
        return Err(fails("cannot assign attribute on non-namespace object"));
    };
    let mut names = locked(&names.0);
    match names.iter_mut().find(|(other, _)| other == name) {
        Some((_, old)) => *old = value.clone(),
        None => names.push((name.to_owned(), value.clone())),
    }
    Ok(Value::from(()))
}
