//! One template, ready to run: a minijinja environment that has nothing but our functions.

use std::sync::Arc;

use minijinja::{
    AutoEscape, Environment, Error, State, UndefinedBehavior, Value,
    value::{Object, ObjectRepr},
};

use super::{
    Purpose,
    arguments::{Arguments, integer, text},
    arithmetic, casing, checks,
    claims::UserObject,
    filters, globals,
    objects::Dict,
    ops, print,
    refused::{ProblemKind, TemplateProblem},
    translate::translate,
    value::{Answer, fails, tuple},
};
use crate::domain::MappedField;

/// Enough for any template that maps a person; an endless loop ends here.
const FUEL: u64 = 2_000_000;

/// The functions that a translated template calls (see [`super::translate`]).
const FUNCTIONS: &[&str] = &[
    "_binary",
    "_negate",
    "_attribute",
    "_item",
    "_slice",
    "_method",
    "_call",
    "_global",
    "_filter",
    "_test",
    "_list",
    "_tuple",
    "_dict",
    "_loop",
    "_unpack",
    "_assign",
    "_loader",
];

#[derive(Debug)]
struct Function(&'static str);

impl Object for Function {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _state: &mut State<'_, '_>, args: &[Value]) -> Answer {
        run(self.0, args)
    }
}

fn run(function: &str, args: &[Value]) -> Answer {
    let undefined = Value::UNDEFINED;
    let at = |place: usize| args.get(place).unwrap_or(&undefined);
    let name = |place: usize| text(function, at(place));
    let rest = |place: usize| Arguments::of(args.get(place..).unwrap_or_default());
    match function {
        "_binary" => arithmetic::binary(name(0)?, at(1), at(2)),
        "_negate" => arithmetic::negate(at(0)),
        "_attribute" => ops::attribute(at(0), name(1)?),
        "_item" => ops::item(at(0), at(1)),
        "_slice" => ops::slice(at(0), at(1), at(2), at(3)),
        "_method" => ops::method(at(0), name(1)?, &rest(2)),
        "_call" => ops::call(at(0), &rest(1)),
        "_global" => globals::global(name(0)?, &rest(1)),
        "_filter" => filters::apply(name(0)?, at(1), &rest(2)),
        "_test" => checks::check(name(0)?, at(1), &rest(2)).map(Value::from),
        "_list" => Ok(Value::from(args.to_vec())),
        "_tuple" => Ok(tuple(args.to_vec())),
        "_dict" => {
            let mut dict = Dict::default();
            for pair in args.chunks_exact(2) {
                dict.insert(
                    pair.first().cloned().unwrap_or_default(),
                    pair.last().cloned().unwrap_or_default(),
                )?;
            }
            Ok(dict.value())
        }
        "_loop" => ops::loop_items(at(0), count(at(1))?),
        "_unpack" => ops::unpack(at(0), count(at(1))?).map(Value::from),
        "_assign" => ops::set_attribute(at(0), name(1)?, at(2)),
        _ => Err(fails("no loader for this environment specified")),
    }
}

fn count(value: &Value) -> Result<usize, Error> {
    integer(value).map(|count| usize::try_from(count).unwrap_or(0))
}

/// A compiled template.
pub(super) struct Engine(Environment<'static>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine(…)")
    }
}

impl Engine {
    /// Compiles a template, or says everything that is wrong with it.
    pub(super) fn compile(
        field: MappedField,
        purpose: Purpose,
        source: &str,
    ) -> Result<Self, Vec<TemplateProblem>> {
        let translated = translate(field, purpose, source)?;
        let mut env = Environment::empty();
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_fuel(Some(FUEL));
        env.set_formatter(|out, _, value| {
            let text = print::output(value)?;
            out.write_str(&text).map_err(|_| fails("the output could not be written"))
        });
        for name in FUNCTIONS {
            env.add_global(*name, Value::from_object(Function(name)));
        }
        for (number, literal) in translated.literals.into_iter().enumerate() {
            env.add_global(format!("k{number}"), literal);
        }
        env.add_template_owned(field.template_key(), translated.source).map_err(|error| {
            vec![TemplateProblem {
                field,
                kind: ProblemKind::Refused,
                line: None,
                column: None,
                why: format!("the template could not be prepared: {error}"),
                instead: None,
            }]
        })?;
        Ok(Self(env))
    }

    /// Renders for one person and strips white space as Python does. The error is in the engine's words.
    pub(super) fn render(&self, field: MappedField, user: UserObject) -> Result<String, String> {
        let template = self.0.get_template(field.template_key()).map_err(|error| describe(&error))?;
        let context = Value::from_pairs([("v_user", Value::from_object(user))]);
        let text = template.render(context).map_err(|error| describe(&error))?;
        Ok(text.trim_matches(casing::is_space).to_owned())
    }
}

fn describe(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}
