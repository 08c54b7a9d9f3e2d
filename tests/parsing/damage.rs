//! Ways to damage a text, and which of them must be noticed.

use proptest::{prelude::*, sample::Index};
use serde_json::Value;

/// What happens to a body.
#[derive(Debug, Clone)]
pub(crate) enum Damage {
    /// Everything from here on is missing.
    Cut(Index),
    /// Single bits are flipped.
    Flip(Vec<(Index, u8)>),
    /// Something happens to one value of the JSON.
    Json(Index, Edit),
}

/// What happens to one value.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// It is taken out, with its key.
    Remove,
    /// Something else stands there.
    Replace(&'static str),
    /// Something is nested so deep in its place.
    Deep(usize, bool),
    /// Its key is another one.
    Rename,
    /// Its key stands there twice, with this as the second value.
    Twice(&'static str),
}

/// Where in a JSON text the damage is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The keys and positions that lead there.
    pub(crate) path: Vec<String>,
    /// Whether a key is missing or stands twice there.
    pub(crate) keys: bool,
}

impl Place {
    /// Whether this value, or one that holds it, is the one at a path; `*` stands for any step.
    pub(crate) fn is_in(&self, path: &[&str]) -> bool {
        self.path.len() >= path.len()
            && path.iter().zip(&self.path).all(|(step, mine)| *step == "*" || step == mine)
    }

    /// Whether it is exactly this value.
    pub(crate) fn is(&self, path: &[&str]) -> bool {
        self.path.len() == path.len() && self.is_in(path)
    }
}

/// Texts to put in the place of a value: other types, numbers that fit nowhere, texts that are no names.
const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1.5",
    "1e400",
    "-0",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "123456789012345678901234567890",
    "\"\"",
    "\" \"",
    "\"x\"",
    "\"1\"",
    "\"true\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"@x:elsewhere.test\"",
    "\"@:sync.test\"",
    "\"../..\"",
    "[]",
    "{}",
    "[null]",
    "[[]]",
    "{\"\": {}}",
    "NaN",
    "",
];

/// Any damage.
pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        1 => any::<Index>().prop_map(Damage::Cut),
        2 => prop::collection::vec((any::<Index>(), 0_u8..8), 1..4).prop_map(Damage::Flip),
        5 => (any::<Index>(), edit()).prop_map(|(at, edit)| Damage::Json(at, edit)),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        2 => Just(Edit::Remove),
        1 => Just(Edit::Rename),
        4 => prop::sample::select(VALUES).prop_map(Edit::Replace),
        1 => (prop::sample::select(vec![10, 100, 130, 20_000]), any::<bool>()).prop_map(|(n, end)| Edit::Deep(n, end)),
        2 => prop::sample::select(VALUES).prop_map(Edit::Twice),
    ]
}

impl Damage {
    /// Does it to a JSON text. Gives the place if the damage is to one value.
    pub(crate) fn to_json(&self, text: &str) -> (Vec<u8>, Option<Place>) {
        match self {
            Self::Json(at, edit) => {
                let value: Value = serde_json::from_str(text).unwrap();
                let mut paths = Vec::new();
                every_path(&value, &mut Vec::new(), &mut paths);
                let path = at.get(&paths);
                let keys = matches!(edit, Edit::Remove | Edit::Rename | Edit::Twice(_))
                    && path.last().is_some_and(|key| key.parse::<usize>().is_err());
                (edited(value, path, edit).into_bytes(), Some(Place { path: path.clone(), keys }))
            }
            _ => (self.to_bytes(text.as_bytes()), None),
        }
    }

    /// Does it to any bytes. Damage to JSON leaves them as they are.
    pub(crate) fn to_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Self::Cut(at) if !bytes.is_empty() => bytes.truncate(at.index(bytes.len())),
            Self::Flip(flips) if !bytes.is_empty() => {
                for (at, bit) in flips {
                    let at = at.index(bytes.len());
                    bytes[at] ^= 1 << bit;
                }
            }
            _ => {}
        }
        bytes
    }
}

fn every_path(value: &Value, here: &mut Vec<String>, all: &mut Vec<Vec<String>>) {
    all.push(here.clone());
    let inside: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (step, value) in inside {
        here.push(step);
        every_path(value, here, all);
        here.pop();
    }
}

/// Stands for the value while the rest is written out.
const HERE: &str = "\u{1F527}here\u{1F527}";

fn edited(mut value: Value, path: &[String], edit: &Edit) -> String {
    let raw = |value: &Value| serde_json::to_string(value).unwrap();
    let Some((last, above)) = path.split_last() else {
        return match edit {
            Edit::Remove => String::new(),
            Edit::Rename => raw(&value),
            Edit::Replace(text) => (*text).to_owned(),
            Edit::Deep(levels, ended) => deep(*levels, *ended),
            // There is no key at the top: the whole text stands twice.
            Edit::Twice(text) => format!("{}{text}", raw(&value)),
        };
    };
    let holder = above.iter().fold(&mut value, |value, step| match value {
        Value::Array(list) => &mut list[step.parse::<usize>().unwrap()],
        value => value.get_mut(step).unwrap(),
    });
    let (old, key) = match holder {
        Value::Object(map) if matches!(edit, Edit::Remove) => (map.shift_remove(last), true),
        Value::Object(map) if matches!(edit, Edit::Rename) => {
            let old = map.shift_remove(last).unwrap();
            map.insert(format!("{last}_"), old.clone());
            (Some(old), true)
        }
        Value::Object(map) => (map.insert(last.clone(), Value::from(HERE)), true),
        Value::Array(list) if matches!(edit, Edit::Remove) => {
            (Some(list.remove(last.parse().unwrap())), false)
        }
        Value::Array(list) => {
            let here = &mut list[last.parse::<usize>().unwrap()];
            let new = if matches!(edit, Edit::Rename) { here.clone() } else { Value::from(HERE) };
            (Some(std::mem::replace(here, new)), false)
        }
        _ => unreachable!("a path leads through lists and objects"),
    };
    let new = match edit {
        Edit::Remove | Edit::Rename => String::new(),
        Edit::Replace(text) => (*text).to_owned(),
        Edit::Deep(levels, ended) => deep(*levels, *ended),
        Edit::Twice(text) if key => {
            format!("{}, {}: {text}", raw(&old.unwrap()), raw(&Value::from(last.as_str())))
        }
        Edit::Twice(text) => format!("{}, {text}", raw(&old.unwrap())),
    };
    raw(&value).replacen(&raw(&Value::from(HERE)), &new, 1)
}

fn deep(levels: usize, ended: bool) -> String {
    let end = "]".repeat(if ended { levels } else { 0 });
    format!("{}{}{end}", "[".repeat(levels), if ended { "1" } else { "" })
}

#[test]
fn damage_does_what_it_says() {
    let value: Value = serde_json::from_str(r#"{"a": [1, {"b": 2}]}"#).unwrap();
    let path = |steps: &[&str]| steps.iter().map(|step| (*step).to_owned()).collect::<Vec<_>>();
    for (steps, edit, text) in [
        (&["a", "1", "b"][..], Edit::Twice("3"), r#"{"a":[1,{"b":2, "b": 3}]}"#),
        (&["a", "1", "b"], Edit::Remove, r#"{"a":[1,{}]}"#),
        (&["a", "0"], Edit::Replace("{}"), r#"{"a":[{},{"b":2}]}"#),
        (&["a", "1", "b"], Edit::Rename, r#"{"a":[1,{"b_":2}]}"#),
        (&["a"], Edit::Deep(2, true), r#"{"a":[[1]]}"#),
        (&[], Edit::Remove, ""),
    ] {
        assert_eq!(edited(value.clone(), &path(steps), &edit), text);
    }
}
