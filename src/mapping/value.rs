//! Python's kinds of values over minijinja's [`Value`], and what every operation of Python needs of them: kind,
//! truth, length, iteration, equality, order, and the binding of call arguments.

use std::{cmp::Ordering, collections::VecDeque};

use minijinja::{
    Error, ErrorKind, Value,
    value::{Tuple, ValueKind},
};

use super::{
    claims::UserObject,
    objects::{Cycler, Dict, Joiner, Namespace, Once, Range, View},
};

/// The result of every operation.
pub(super) type Answer = Result<Value, Error>;

/// The longest text and the longest list that an operation may make. Real claims are far below; a template that
/// gets here would run Synapse out of memory or time.
pub(super) const LARGEST: usize = 1_000_000;

/// An error that Synapse would meet as well.
pub(super) fn fails(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

/// Something that Synapse would do and this program will not: it must never become a value.
pub(super) fn cannot(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("this program does not do what Synapse would do here: {what}"),
    )
}

/// What a value is to Python.
pub(super) enum Kind<'a> {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    User(&'a UserObject),
    View(&'a View),
    Once(&'a Once),
    Range(&'a Range),
    Cycler(&'a Cycler),
    Joiner(&'a Joiner),
    Namespace(&'a Namespace),
    /// A macro and anything else that is not handed around.
    Other,
}

impl<'a> Kind<'a> {
    pub(super) fn of(value: &'a Value) -> Self {
        match value.kind() {
            ValueKind::Undefined => return Self::Undefined,
            ValueKind::None => return Self::None,
            ValueKind::Bool => return Self::Bool(value.is_true()),
            ValueKind::Number if value.is_integer() => {
                return i128::try_from(value.clone()).map_or(Self::Other, Self::Int);
            }
            ValueKind::Number => return f64::try_from(value.clone()).map_or(Self::Other, Self::Float),
            ValueKind::String => return value.as_str().map_or(Self::Other, Self::Str),
            ValueKind::Bytes => return value.as_bytes().map_or(Self::Other, Self::Bytes),
            _ => {}
        }
        if let Some(user) = value.downcast_object_ref() {
            Self::User(user)
        } else if let Some(view) = value.downcast_object_ref() {
            Self::View(view)
        } else if let Some(once) = value.downcast_object_ref() {
            Self::Once(once)
        } else if let Some(range) = value.downcast_object_ref() {
            Self::Range(range)
        } else if let Some(cycler) = value.downcast_object_ref() {
            Self::Cycler(cycler)
        } else if let Some(joiner) = value.downcast_object_ref() {
            Self::Joiner(joiner)
        } else if let Some(namespace) = value.downcast_object_ref() {
            Self::Namespace(namespace)
        } else if let Some(dict) = value.downcast_object_ref::<Dict>() {
            Self::Dict(dict.0.clone())
        } else if value.is_tuple() {
            Self::Tuple(native_items(value))
        } else if value.kind() == ValueKind::Seq {
            Self::List(native_items(value))
        } else {
            Self::Other
        }
    }

    /// The name of the type in Python, as its errors have it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Undefined => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::User(_) => "UserInfo",
            Self::View(view) => view.name,
            Self::Once(_) => "generator",
            Self::Range(_) => "range",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
            Self::Namespace(_) => "Namespace",
            Self::Other => "object",
        }
    }

    /// The value as an integer where Python takes one: booleans count.
    pub(super) fn index(&self) -> Option<i128> {
        match self {
            Self::Bool(b) => Some(i128::from(*b)),
            Self::Int(i) => Some(*i),
            _ => None,
        }
    }
}

/// A tuple.
pub(super) fn tuple(items: Vec<Value>) -> Value {
    Value::from(Tuple::new(items))
}

fn native_items(value: &Value) -> Vec<Value> {
    value.try_iter().map(Iterator::collect).unwrap_or_default()
}

/// Turns JSON into values as Python's `json.loads` does.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::from(i),
            (None, Some(u)) => Value::from(u),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(s) => Value::from(s.as_str()),
        serde_json::Value::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        serde_json::Value::Object(map) => {
            Dict(map.iter().map(|(k, v)| (Value::from(k.as_str()), from_json(v))).collect()).value()
        }
    }
}

/// Iterates as Python's `iter`. A generator is used up by it.
pub(super) fn iterate(value: &Value) -> Result<Vec<Value>, Error> {
    Ok(match Kind::of(value) {
        Kind::Undefined => Vec::new(),
        Kind::Str(s) => s.chars().map(|c| Value::from(c.to_string())).collect(),
        Kind::List(items) | Kind::Tuple(items) => items,
        Kind::Dict(pairs) => pairs.into_iter().map(|(k, _)| k).collect(),
        Kind::User(user) => user.claims().iter().map(|(k, _)| Value::from(k.as_str())).collect(),
        Kind::View(view) => view.items.clone(),
        Kind::Once(once) => once.rest()?,
        Kind::Range(range) => range.items.clone(),
        Kind::Bytes(_) => return Err(cannot("iterating over bytes")),
        Kind::Namespace(_) | Kind::Other => return Err(cannot("iterating over such an object")),
        other => return Err(fails(format!("'{}' object is not iterable", other.name()))),
    })
}

/// The length as Python's `len`.
pub(super) fn length(value: &Value) -> Result<usize, Error> {
    Ok(match Kind::of(value) {
        Kind::Undefined => 0,
        Kind::Str(s) => s.chars().count(),
        Kind::List(items) | Kind::Tuple(items) => items.len(),
        Kind::Dict(pairs) => pairs.len(),
        Kind::User(user) => user.claims().len(),
        Kind::View(view) => view.items.len(),
        Kind::Range(range) => range.items.len(),
        Kind::Bytes(bytes) => bytes.len(),
        Kind::Other => return Err(cannot("the length of such an object")),
        other => return Err(fails(format!("object of type '{}' has no len()", other.name()))),
    })
}

/// The pairs of a dictionary.
pub(super) fn pairs(value: &Value) -> Option<Vec<(Value, Value)>> {
    match Kind::of(value) {
        Kind::Dict(pairs) => Some(pairs),
        Kind::User(user) => {
            Some(user.claims().iter().map(|(k, v)| (Value::from(k.as_str()), v.clone())).collect())
        }
        _ => None,
    }
}

/// Refuses what cannot be a key of a dictionary.
pub(super) fn hashable(value: &Value) -> Result<(), Error> {
    match Kind::of(value) {
        Kind::Tuple(items) => items.iter().try_for_each(hashable),
        kind @ (Kind::List(_) | Kind::Dict(_) | Kind::User(_)) => {
            Err(fails(format!("unhashable type: '{}'", kind.name())))
        }
        _ => Ok(()),
    }
}

enum Number {
    Int(i128),
    Float(f64),
}

fn number(kind: &Kind<'_>) -> Option<Number> {
    match kind {
        Kind::Float(f) => Some(Number::Float(*f)),
        other => other.index().map(Number::Int),
    }
}

/// The order of two numbers; an integer is compared with a float exactly, as Python does.
fn compare_numbers(a: &Number, b: &Number) -> Option<Ordering> {
    fn mixed(i: i128, f: f64) -> Option<Ordering> {
        if f.is_nan() {
            None
        } else if f >= 1e38 {
            Some(Ordering::Less)
        } else if f <= -1e38 {
            Some(Ordering::Greater)
        } else {
            // Within these bounds the whole part of the float fits.
            #[allow(clippy::cast_possible_truncation)]
            let whole = f.trunc() as i128;
            Some(i.cmp(&whole).then_with(|| 0.0_f64.partial_cmp(&f.fract()).unwrap_or(Ordering::Equal)))
        }
    }
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => Some(a.cmp(b)),
        (Number::Float(a), Number::Float(b)) => a.partial_cmp(b),
        (Number::Int(i), Number::Float(f)) => mixed(*i, *f),
        (Number::Float(f), Number::Int(i)) => mixed(*i, *f).map(Ordering::reverse),
    }
}

/// Python's `==`.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    let (a, b) = (Kind::of(a), Kind::of(b));
    if let (Some(a), Some(b)) = (number(&a), number(&b)) {
        return compare_numbers(&a, &b) == Some(Ordering::Equal);
    }
    let lists = |a: &[Value], b: &[Value]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b));
    match (&a, &b) {
        (Kind::Undefined, Kind::Undefined) | (Kind::None, Kind::None) => true,
        (Kind::Str(a), Kind::Str(b)) => a == b,
        (Kind::Bytes(a), Kind::Bytes(b)) => a == b,
        (Kind::List(a), Kind::List(b)) | (Kind::Tuple(a), Kind::Tuple(b)) => lists(a, b),
        (Kind::Range(a), Kind::Range(b)) => lists(&a.items, &b.items),
        (Kind::Dict(a), Kind::Dict(b)) => {
            a.len() == b.len()
                && a.iter().all(|(k, v)| b.iter().any(|(other, w)| equal(k, other) && equal(v, w)))
        }
        (Kind::User(a), Kind::User(b)) => std::ptr::eq(*a, *b),
        _ => false,
    }
}

/// Python's `<`, `>` and their like: `None` if neither is greater and they are not equal (NaN).
pub(super) fn compare(op: &str, a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    let (ka, kb) = (Kind::of(a), Kind::of(b));
    if let (Some(a), Some(b)) = (number(&ka), number(&kb)) {
        return Ok(compare_numbers(&a, &b));
    }
    match (&ka, &kb) {
        (Kind::Str(a), Kind::Str(b)) => Ok(Some(a.cmp(b))),
        (Kind::List(a), Kind::List(b)) | (Kind::Tuple(a), Kind::Tuple(b)) => {
            match a.iter().zip(b).find(|(a, b)| !equal(a, b)) {
                Some((a, b)) => compare(op, a, b),
                None => Ok(Some(a.len().cmp(&b.len()))),
            }
        }
        (Kind::View(_), _) | (_, Kind::View(_)) | (Kind::Bytes(_), Kind::Bytes(_)) => {
            Err(cannot("ordering such values"))
        }
        _ => Err(fails(format!(
            "'{op}' not supported between instances of '{}' and '{}'",
            ka.name(),
            kb.name()
        ))),
    }
}

/// Python's `in`.
pub(super) fn contains(container: &Value, item: &Value) -> Result<bool, Error> {
    match Kind::of(container) {
        Kind::Str(text) => match Kind::of(item) {
            Kind::Str(part) => Ok(text.contains(part)),
            other => {
                Err(fails(format!("'in <string>' requires string as left operand, not {}", other.name())))
            }
        },
        Kind::Dict(_) | Kind::User(_) => {
            hashable(item)?;
            Ok(iterate(container)?.iter().any(|key| equal(key, item)))
        }
        Kind::Once(once) => {
            while let Some(other) = once.next()? {
                if equal(&other, item) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Kind::Bytes(_) | Kind::Other | Kind::Namespace(_) => Err(cannot("`in` on such an object")),
        Kind::View(view) if view.name == "dict_items" || view.name == "dict_keys" => {
            hashable(item)?;
            Ok(view.items.iter().any(|other| equal(other, item)))
        }
        Kind::Undefined | Kind::List(_) | Kind::Tuple(_) | Kind::View(_) | Kind::Range(_) => {
            Ok(iterate(container)?.iter().any(|other| equal(other, item)))
        }
        other => Err(fails(format!("argument of type '{}' is not iterable", other.name()))),
    }
}

/// Python's stable `sorted`, by keys that were computed before. The error of a comparison ends it.
pub(super) fn sorted(mut items: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>, Error> {
    // A merge sort of our own: the one of the standard library may panic when a comparison fails half-way.
    fn sort(items: &mut Vec<(Value, Value)>, reverse: bool) -> Result<(), Error> {
        if items.len() < 2 {
            return Ok(());
        }
        let mut right = items.split_off(items.len() / 2);
        sort(items, reverse)?;
        sort(&mut right, reverse)?;
        let (mut left, mut right) = (VecDeque::from(std::mem::take(items)), VecDeque::from(right));
        while let (Some(a), Some(b)) = (left.front(), right.front()) {
            let order = if reverse { compare("<", &a.0, &b.0)? } else { compare("<", &b.0, &a.0)? };
            let next = if order == Some(Ordering::Less) { right.pop_front() } else { left.pop_front() };
            items.extend(next);
        }
        items.extend(left);
        items.extend(right);
        Ok(())
    }
    sort(&mut items, reverse)?;
    Ok(items.into_iter().map(|(_, item)| item).collect())
}
