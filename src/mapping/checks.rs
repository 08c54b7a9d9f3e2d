//! Jinja2's tests (`x is …`).

use minijinja::{Error, Value};

use super::{
    arguments::Arguments,
    arithmetic, casing, filters, print,
    value::{Kind, cannot, equal, fails, length},
};

/// Every test that Jinja2 has built in.
pub(super) const NAMES: &[&str] = &[
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

/// Performs a test.
pub(super) fn check(name: &str, value: &Value, args: &Arguments) -> Result<bool, Error> {
    let kind = Kind::of(value);
    let operator = match name {
        "==" | "eq" | "equalto" => Some("=="),
        "!=" | "ne" => Some("!="),
        ">" | "gt" | "greaterthan" => Some(">"),
        ">=" | "ge" => Some(">="),
        "<" | "lt" | "lessthan" => Some("<"),
        "<=" | "le" => Some("<="),
        "in" => Some("in"),
        _ => None,
    };
    if let Some(operator) = operator {
        let [other] = if name == "in" { args.bind(name, ["seq"], 1)? } else { args.places(name, 1)? };
        return arithmetic::binary(operator, value, &other.unwrap_or_default())
            .map(|answer| answer.is_true());
    }
    if name == "divisibleby" {
        let [number] = args.bind(name, ["num"], 1)?;
        return modulo_is(value, &number.unwrap_or_default(), 0);
    }
    if name == "sameas" {
        let [other] = args.bind(name, ["other"], 1)?;
        return same(value, &other.unwrap_or_default());
    }
    args.bind::<0>(name, [], 0)?;
    Ok(match name {
        "odd" => modulo_is(value, &Value::from(2), 1)?,
        "even" => modulo_is(value, &Value::from(2), 0)?,
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "filter" => match value.as_str() {
            Some(name) => filters::NAMES.contains(&name),
            None => return Err(cannot("`is filter` of anything but a text")),
        },
        "test" => match value.as_str() {
            Some(name) => NAMES.contains(&name),
            None => return Err(cannot("`is test` of anything but a text")),
        },
        "none" => value.is_none(),
        "boolean" => matches!(kind, Kind::Bool(_)),
        "true" => matches!(kind, Kind::Bool(true)),
        "false" => matches!(kind, Kind::Bool(false)),
        "integer" => matches!(kind, Kind::Int(_)),
        "float" => matches!(kind, Kind::Float(_)),
        "number" => matches!(kind, Kind::Bool(_) | Kind::Int(_) | Kind::Float(_)),
        "string" => matches!(kind, Kind::Str(_)),
        "mapping" => matches!(kind, Kind::Dict(_) | Kind::User(_)),
        "lower" => casing::is_lower(&print::string(value)?),
        "upper" => casing::is_upper(&print::string(value)?),
        "sequence" => {
            !matches!(kind, Kind::View(_)) && (matches!(kind, Kind::Bytes(_)) || length(value).is_ok())
                // Asking something undefined for its `__getitem__` is no error.
                && !matches!(kind, Kind::Other)
        }
        "iterable" => matches!(
            kind,
            Kind::Undefined
                | Kind::Str(_)
                | Kind::Bytes(_)
                | Kind::List(_)
                | Kind::Tuple(_)
                | Kind::Dict(_)
                | Kind::User(_)
                | Kind::View(_)
                | Kind::Once(_)
                | Kind::Range(_)
        ),
        "callable" => match kind {
            Kind::Other | Kind::Undefined => return Err(cannot("`is callable` of such a value")),
            Kind::Joiner(_) => true,
            _ => false,
        },
        "escaped" => match kind {
            Kind::Undefined | Kind::Other => return Err(cannot("`is escaped` of such a value")),
            _ => value.is_safe(),
        },
        _ => return Err(fails(format!("No test named '{name}' found."))),
    })
}

fn modulo_is(value: &Value, by: &Value, wanted: i64) -> Result<bool, Error> {
    let remainder = arithmetic::binary("%", value, by)?;
    Ok(equal(&remainder, &Value::from(wanted)))
}

/// Python's `is`: it can be told only for values of which there is but one.
fn same(a: &Value, b: &Value) -> Result<bool, Error> {
    match (Kind::of(a), Kind::of(b)) {
        (Kind::None, Kind::None) => Ok(true),
        (Kind::Bool(a), Kind::Bool(b)) => Ok(a == b),
        (Kind::None | Kind::Bool(_), _) | (_, Kind::None | Kind::Bool(_)) => Ok(false),
        _ => Err(cannot("`is sameas` of anything but true, false and none")),
    }
}
