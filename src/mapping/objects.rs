//! Python's objects that minijinja has no value for.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use minijinja::{
    Error, Value,
    value::{Enumerator, Object, ObjectRepr},
};

use super::value::{equal, fails, hashable};

/// A dictionary view (`dict.items()` and its like), which prints with its name.
#[derive(Debug)]
pub(super) struct View {
    pub(super) name: &'static str,
    pub(super) items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn is_true(self: &Arc<Self>) -> bool {
        !self.items.is_empty()
    }
}

/// A generator or iterator: it can be walked once, and fails only where the walk gets to the failure.
#[derive(Debug)]
pub(super) struct Once(Mutex<(VecDeque<Value>, Option<String>)>);

impl Once {
    /// A generator over what `fill` puts into the list.
    pub(super) fn value(fill: impl FnOnce(&mut Vec<Value>) -> Result<(), Error>) -> Value {
        let mut items = Vec::new();
        let end = fill(&mut items).err().map(|error| error.detail().unwrap_or_default().to_owned());
        Value::from_object(Self(Mutex::new((items.into(), end))))
    }
    pub(super) fn next(&self) -> Result<Option<Value>, Error> {
        let mut state = locked(&self.0);
        match (state.0.pop_front(), &state.1) {
            (Some(item), _) => Ok(Some(item)),
            (None, Some(end)) => Err(fails(end.clone())),
            (None, None) => Ok(None),
        }
    }
    pub(super) fn rest(&self) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        while let Some(item) = self.next()? {
            items.push(item);
        }
        Ok(items)
    }
}

impl Object for Once {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// Python's `range`.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
    pub(super) items: Vec<Value>,
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn is_true(self: &Arc<Self>) -> bool {
        !self.items.is_empty()
    }
}

/// Jinja2's `cycler`.
#[derive(Debug)]
pub(super) struct Cycler {
    pub(super) items: Vec<Value>,
    pub(super) at: Mutex<usize>,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// Jinja2's `joiner`.
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) separator: Value,
    pub(super) used: Mutex<bool>,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// Jinja2's `namespace`. It stands in a list of one so that the template can assign to it.
#[derive(Debug)]
pub(super) struct Namespace(pub(super) Mutex<Vec<(String, Value)>>);

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// A lock that a panic elsewhere cannot spoil: the values behind it are whole at any time.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A dictionary in the order in which it was written. Keys that are equal in Python (`1`, `1.0`, `True`) are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Dict(pub(super) Vec<(Value, Value)>);

impl Dict {
    pub(super) fn insert(&mut self, key: Value, value: Value) -> Result<(), Error> {
        hashable(&key)?;
        match self.0.iter_mut().find(|(other, _)| equal(other, &key)) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
        Ok(())
    }
    pub(super) fn value(self) -> Value {
        Value::from_object(self)
    }
}

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.iter().find(|(k, _)| equal(k, key)).map(|(_, v)| v.clone())
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(k, _)| k.clone()).collect())
    }
}
