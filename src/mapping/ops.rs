//! Jinja2's look-ups (`a.b`, `a['b']`, `a[1:2]`), calls, and assignments to several names.

use std::cmp::Ordering;

use minijinja::{Error, Value};

use super::{
    arguments::Arguments,
    claims::USER_METHODS,
    objects::{View, locked},
    strings,
    value::{Answer, Kind, cannot, equal, fails, hashable, iterate, pairs, tuple},
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
