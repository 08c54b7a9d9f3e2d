//! The arguments of a call, bound as Python binds them.

use minijinja::{Error, Value};

use super::value::{Kind, LARGEST, cannot, fails};

/// The arguments of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Arguments {
    /// By position.
    pub(super) places: Vec<Value>,
    /// By keyword.
    pub(super) names: Vec<(String, Value)>,
}

impl Arguments {
    /// Splits what minijinja hands to a function.
    pub(super) fn of(args: &[Value]) -> Self {
        let mut arguments = Self::default();
        for arg in args {
            if arg.is_kwargs() {
                let named = arg.as_object().and_then(|object| object.try_iter_pairs());
                for (key, value) in named.into_iter().flatten() {
                    arguments.names.push((key.to_string(), value));
                }
            } else {
                arguments.places.push(arg.clone());
            }
        }
        arguments
    }

    /// Binds to the parameters of a Python function, of which the first `required` have no default.
    pub(super) fn bind<const N: usize>(
        &self,
        what: &str,
        parameters: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N], Error> {
        if self.places.len() > N {
            return Err(fails(format!("{what}() takes at most {N} arguments ({} given)", self.places.len())));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(&self.places) {
            *slot = Some(value.clone());
        }
        for (name, value) in &self.names {
            let Some(slot) = parameters.iter().position(|p| p == name).and_then(|at| bound.get_mut(at))
            else {
                return Err(fails(format!("{what}() got an unexpected keyword argument '{name}'")));
            };
            if slot.replace(value.clone()).is_some() {
                return Err(fails(format!("{what}() got multiple values for argument '{name}'")));
            }
        }
        for (slot, name) in bound.iter().zip(parameters).take(required) {
            if slot.is_none() {
                return Err(fails(format!("{what}() missing required argument '{name}'")));
            }
        }
        Ok(bound)
    }

    /// Binds to a Python function that takes no keywords.
    pub(super) fn places<const N: usize>(
        &self,
        what: &str,
        required: usize,
    ) -> Result<[Option<Value>; N], Error> {
        if !self.names.is_empty() {
            return Err(fails(format!("{what}() takes no keyword arguments")));
        }
        if self.places.len() > N || self.places.len() < required {
            return Err(fails(format!("{what}() got a wrong number of arguments ({})", self.places.len())));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(&self.places) {
            *slot = Some(value.clone());
        }
        Ok(bound)
    }
}

/// A text argument, as Python's string methods demand it.
pub(super) fn text<'a>(what: &str, value: &'a Value) -> Result<&'a str, Error> {
    value.as_str().ok_or_else(|| fails(format!("{what}: must be str, not {}", Kind::of(value).name())))
}

/// An integer argument.
pub(super) fn integer(value: &Value) -> Result<i128, Error> {
    let kind = Kind::of(value);
    kind.index().ok_or_else(|| fails(format!("'{}' object cannot be interpreted as an integer", kind.name())))
}

/// A count or width: negative is nothing; what could never be filled is refused.
pub(super) fn size(value: &Value) -> Result<usize, Error> {
    let size = integer(value)?.max(0);
    match usize::try_from(size) {
        Ok(size) if size <= LARGEST => Ok(size),
        _ => Err(cannot("a text or list of such a length")),
    }
}
