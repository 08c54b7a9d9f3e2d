//! Jinja2's filters, and Synapse's own `localpart_from_email`.

use std::cmp::Ordering;

use minijinja::{Error, Value};

use super::{
    arguments::{Arguments, integer, size, text},
    casing, checks, numbers,
    objects::Once,
    ops, print, text_filters,
    value::{Answer, Kind, cannot, compare, equal, fails, hashable, iterate, length, pairs, sorted, tuple},
};

/// Every filter that Synapse's Jinja2 has.
pub(super) const NAMES: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "localpart_from_email",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// Applies a filter.
pub(super) fn apply(name: &str, value: &Value, args: &Arguments) -> Answer {
    match name {
        "upper"
        | "lower"
        | "title"
        | "capitalize"
        | "trim"
        | "string"
        | "center"
        | "wordcount"
        | "e"
        | "escape"
        | "forceescape"
        | "safe"
        | "striptags"
        | "replace"
        | "format"
        | "truncate"
        | "indent"
        | "wordwrap"
        | "urlencode"
        | "xmlattr"
        | "tojson"
        | "localpart_from_email" => text_filters::apply(name, value, args),
        "abs" | "int" | "float" | "round" | "filesizeformat" | "sum" => numbers::apply(name, value, args),
        "default" | "d" => {
            let [default, boolean] = args.bind(name, ["default_value", "boolean"], 0)?;
            let boolean = boolean.is_some_and(|boolean| boolean.is_true());
            if value.is_undefined() || boolean && !value.is_true() {
                return Ok(default.unwrap_or_else(|| Value::from("")));
            }
            Ok(value.clone())
        }
        "attr" => {
            let [attribute] = args.bind(name, ["name"], 1)?;
            let attribute = attribute.unwrap_or_default();
            match Kind::of(value) {
                // Unlike `a.name`, an entry of a plain dictionary does not count.
                Kind::Dict(_) if !ops::DICT_METHODS.contains(&text(name, &attribute)?) => {
                    Ok(Value::UNDEFINED)
                }
                Kind::User(user) => user.own_attribute(text(name, &attribute)?),
                Kind::Undefined => Err(cannot("the filter `attr` on something undefined")),
                _ => ops::attribute(value, text(name, &attribute)?),
            }
        }
        "count" | "length" => args.bind::<0>(name, [], 0).and_then(|_| length(value)).map(Value::from),
        "list" => args.bind::<0>(name, [], 0).and_then(|_| iterate(value)).map(Value::from),
        "first" => {
            args.bind::<0>(name, [], 0)?;
            Ok(match Kind::of(value) {
                Kind::Once(once) => once.next()?,
                _ => iterate(value)?.into_iter().next(),
            }
            .unwrap_or_default())
        }
        "last" => {
            args.bind::<0>(name, [], 0)?;
            Ok(reversible(value)?.pop().unwrap_or_default())
        }
        "items" => {
            args.bind::<0>(name, [], 0)?;
            Ok(Once::value(|out| {
                match pairs(value) {
                    Some(pairs) => out.extend(pairs.into_iter().map(|(k, v)| tuple(vec![k, v]))),
                    None if value.is_undefined() => {}
                    None => return Err(fails("Can only get item pairs from a mapping.")),
                }
                Ok(())
            }))
        }
        "reverse" => {
            args.bind::<0>(name, [], 0)?;
            match Kind::of(value) {
                Kind::Str(text) => {
                    let text = text.chars().rev().collect::<String>();
                    Ok(if value.is_safe() { Value::from_safe_string(text) } else { Value::from(text) })
                }
                Kind::Once(_) => {
                    let mut items = iterate(value)?;
                    items.reverse();
                    Ok(Value::from(items))
                }
                Kind::None | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) => {
                    Err(fails("argument must be iterable"))
                }
                _ => {
                    let mut items = reversible(value)?;
                    items.reverse();
                    Ok(Once::value(|out| {
                        out.append(&mut items);
                        Ok(())
                    }))
                }
            }
        }
        "join" => {
            let [separator, attribute] = args.bind(name, ["d", "attribute"], 0)?;
            let separator = separator.as_ref().map(print::string).transpose()?.unwrap_or_default();
            let mut parts = Vec::new();
            for item in iterate(value)? {
                let item = match attribute.as_ref().filter(|attribute| !attribute.is_none()) {
                    Some(attribute) => path(&item, attribute)?,
                    None => item,
                };
                parts.push(print::string(&item)?);
            }
            Ok(Value::from(parts.join(&separator)))
        }
        "sort" => {
            let [reverse, sensitive, attribute] =
                args.bind(name, ["reverse", "case_sensitive", "attribute"], 0)?;
            let sensitive = sensitive.is_some_and(|flag| flag.is_true());
            let mut keyed = Vec::new();
            for item in iterate(value)? {
                keyed.push((Value::from(keys(&item, attribute.as_ref(), sensitive)?), item));
            }
            sorted(keyed, reverse.is_some_and(|reverse| reverse.is_true())).map(Value::from)
        }
        "dictsort" => {
            let [sensitive, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"], 0)?;
            let by_value = match by.as_ref().map(|by| by.as_str()) {
                None | Some(Some("key")) => false,
                Some(Some("value")) => true,
                Some(_) => return Err(fails("You can only sort by either \"key\" or \"value\"")),
            };
            let sensitive = sensitive.is_some_and(|flag| flag.is_true());
            let Some(pairs) = pairs(value) else { return Err(fails("dictsort takes a dictionary")) };
            let mut keyed = Vec::new();
            for (k, v) in pairs {
                let key = if by_value { v.clone() } else { k.clone() };
                keyed.push((folded(key, sensitive), tuple(vec![k, v])));
            }
            sorted(keyed, reverse.is_some_and(|reverse| reverse.is_true())).map(Value::from)
        }
        "unique" => {
            let [sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
            let sensitive = sensitive.is_some_and(|flag| flag.is_true());
            Ok(Once::value(|out| {
                let mut seen = Vec::new();
                for item in iterate(value)? {
                    let key = folded(optional_path(&item, attribute.as_ref())?, sensitive);
                    hashable(&key)?;
                    if !seen.iter().any(|other| equal(other, &key)) {
                        seen.push(key);
                        out.push(item);
                    }
                }
                Ok(())
            }))
        }
        "min" | "max" => {
            let [sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
            let sensitive = sensitive.is_some_and(|flag| flag.is_true());
            let mut best: Option<(Value, Value)> = None;
            for item in iterate(value)? {
                let key = folded(optional_path(&item, attribute.as_ref())?, sensitive);
                let better = match &best {
                    None => true,
                    Some((other, _)) if name == "min" => compare("<", &key, other)? == Some(Ordering::Less),
                    Some((other, _)) => compare(">", &key, other)? == Some(Ordering::Greater),
                };
                if better {
                    best = Some((key, item));
                }
            }
            Ok(best.map(|(_, item)| item).unwrap_or_default())
        }
        "map" => Ok(Once::value(|out| map(value, args, out))),
        "select" | "reject" | "selectattr" | "rejectattr" => {
            Ok(Once::value(|out| select(name, value, args, out)))
        }
        "batch" => {
            let [count, fill] = args.bind(name, ["linecount", "fill_with"], 1)?;
            Ok(Once::value(|out| batch(value, &count.unwrap_or_default(), fill, out)))
        }
        "slice" => {
            let [slices, fill] = args.bind(name, ["slices", "fill_with"], 1)?;
            Ok(Once::value(|out| slice(value, &slices.unwrap_or_default(), fill, out)))
        }
        name if NAMES.contains(&name) => Err(cannot(&format!("the filter `{name}`"))),
        _ => Err(fails(format!("No filter named '{name}' found."))),
    }
}

/// What `reversed()` walks; generators cannot be.
fn reversible(value: &Value) -> Result<Vec<Value>, Error> {
    match Kind::of(value) {
        Kind::Once(_) => Err(fails("'generator' object is not reversible")),
        Kind::Undefined => Err(cannot("walking something undefined backwards")),
        _ => iterate(value),
    }
}

fn folded(value: Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value,
    }
}

/// The value at a path such as `emails.0` (`make_attrgetter`).
fn path(value: &Value, attribute: &Value) -> Answer {
    let Some(names) = attribute.as_str() else { return ops::item(value, attribute) };
    let mut value = value.clone();
    for name in names.split('.') {
        if name.starts_with("__") {
            return Err(cannot("Python's own attributes (`__…`)"));
        }
        let key = if !name.is_empty() && name.chars().all(casing::is_digit) {
            Value::from(name.parse::<i64>().map_err(|_| cannot("such an index"))?)
        } else {
            Value::from(name)
        };
        value = ops::item(&value, &key)?;
    }
    Ok(value)
}

fn optional_path(value: &Value, attribute: Option<&Value>) -> Answer {
    match attribute.filter(|attribute| !attribute.is_none()) {
        Some(attribute) => path(value, attribute),
        None => Ok(value.clone()),
    }
}

/// The keys to sort by: several attributes can be given, separated by commas.
fn keys(item: &Value, attribute: Option<&Value>, sensitive: bool) -> Result<Vec<Value>, Error> {
    match attribute.filter(|attribute| !attribute.is_none()) {
        None => Ok(vec![folded(item.clone(), sensitive)]),
        Some(attribute) => match attribute.as_str() {
            None => Ok(vec![folded(path(item, attribute)?, sensitive)]),
            Some(names) => names
                .split(',')
                .map(|name| path(item, &Value::from(name)).map(|value| folded(value, sensitive)))
                .collect(),
        },
    }
}

fn batch(value: &Value, count: &Value, fill: Option<Value>, out: &mut Vec<Value>) -> Result<(), Error> {
    let count = usize::try_from(integer(count)?).ok().filter(|n| *n > 0);
    let Some(count) = count else { return Err(cannot("`batch` by less than one")) };
    let mut batches: Vec<Vec<Value>> = iterate(value)?.chunks(count).map(<[Value]>::to_vec).collect();
    if let (Some(fill), Some(last)) = (fill.filter(|fill| !fill.is_none()), batches.last_mut()) {
        size(&Value::from(count))?;
        last.resize(count, fill);
    }
    out.extend(batches.into_iter().map(Value::from));
    Ok(())
}

fn slice(value: &Value, slices: &Value, fill: Option<Value>, out: &mut Vec<Value>) -> Result<(), Error> {
    let items = iterate(value)?;
    let slices = size(slices)?;
    if slices == 0 {
        return Err(cannot("`slice` into less than one"));
    }
    let (each, extra) = (items.len() / slices, items.len() % slices);
    let mut items = items.into_iter();
    for number in 0..slices {
        let take = each + usize::from(number < extra);
        let mut part: Vec<_> = items.by_ref().take(take).collect();
        if number >= extra {
            part.extend(fill.clone().filter(|fill| !fill.is_none()));
        }
        out.push(Value::from(part));
    }
    Ok(())
}

fn map(value: &Value, args: &Arguments, out: &mut Vec<Value>) -> Result<(), Error> {
    if !value.is_true() {
        return Ok(());
    }
    let attribute = args.names.iter().find(|(name, _)| name == "attribute");
    if let (Some((_, attribute)), true) = (attribute, args.places.is_empty()) {
        let mut default = None;
        for (name, value) in &args.names {
            match name.as_str() {
                "attribute" => {}
                "default" => default = Some(value).filter(|value| !value.is_none()),
                _ => return Err(fails(format!("Unexpected keyword argument '{name}'"))),
            }
        }
        if default.is_some() && attribute.as_str().is_some_and(|names| names.contains('.')) {
            return Err(cannot("`map` with a default and a path of several names"));
        }
        for item in iterate(value)? {
            let found = path(&item, attribute)?;
            out.push(match default {
                Some(default) if found.is_undefined() => default.clone(),
                _ => found,
            });
        }
        return Ok(());
    }
    let Some((filter, places)) = args.places.split_first() else {
        return Err(fails("map requires a filter argument"));
    };
    let Some(filter) = filter.as_str() else { return Err(fails("map requires the name of a filter")) };
    let args = Arguments { places: places.to_vec(), names: args.names.clone() };
    for item in iterate(value)? {
        out.push(apply(filter, &item, &args)?);
    }
    Ok(())
}

fn select(name: &str, value: &Value, args: &Arguments, out: &mut Vec<Value>) -> Result<(), Error> {
    if !value.is_true() {
        return Ok(());
    }
    let mut places = args.places.iter();
    let attribute = if name.ends_with("attr") {
        Some(places.next().ok_or_else(|| fails("Missing parameter for attribute name"))?)
    } else {
        None
    };
    let test = places.next();
    let args = Arguments { places: places.cloned().collect(), names: args.names.clone() };
    for item in iterate(value)? {
        let subject = match attribute {
            Some(attribute) => path(&item, attribute)?,
            None => item.clone(),
        };
        let holds = match test {
            Some(test) => {
                let Some(test) = test.as_str() else {
                    return Err(fails("the name of a test must be a text"));
                };
                checks::check(test, &subject, &args)?
            }
            None => subject.is_true(),
        };
        if holds == name.starts_with("select") {
            out.push(item);
        }
    }
    Ok(())
}
