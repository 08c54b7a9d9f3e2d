//! Jinja2's global functions.

use std::sync::Mutex;

use minijinja::Value;

use super::{
    arguments::{Arguments, integer},
    objects::{Cycler, Dict, Joiner, Namespace, Range},
    ops,
    value::{Answer, cannot, fails, iterate, pairs},
};

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
                            let [key, value] = ops::unpack(&pair, 2)?.try_into().map_err(|_| {
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
