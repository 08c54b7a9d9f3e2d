//! The sign of life that work gives wherever it gets on.

use std::{fmt, sync::Arc};

/// Called at every step of the work, often and from anywhere; whoever watches over the process listens. The default
/// tells nobody.
#[derive(Clone, Default)]
pub struct Alive(Option<Arc<dyn Fn() + Send + Sync>>);

impl Alive {
    /// Tells this listener, which must not block.
    pub fn new(listener: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// The work got on.
    pub fn sign(&self) {
        if let Some(listener) = &self.0 {
            listener();
        }
    }
}

impl fmt::Debug for Alive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Alive(heard)" } else { "Alive(unheard)" })
    }
}
