//! How the daemon is, for whoever watches it.

use std::{fs, io, path::Path, sync::PoisonError};

use chrono::{DateTime, Utc};

use super::Shared;
use crate::{
    engine::{RunReport, RunRequest},
    serve::overview::{Memory, Overview, Watched},
};

impl Shared {
    /// Takes note of what a run has shown.
    pub(super) fn learn(&self, request: &RunRequest, report: &RunReport) {
        self.metrics.run(report);
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.learn(report, request.only.is_empty());
    }

    /// The second tick after a moment, each as late as the jitter can make it.
    fn second_tick(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let timetable = self.timetable();
        let (first, _) = timetable.next(after, 1.0)?;
        timetable.next(first, 1.0).map(|(second, _)| second)
    }
}

impl Watched for Shared {
    fn working(&self) -> bool {
        !self.queue.is_closed()
    }

    fn look(&self) -> Overview {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let engine = self.engine();
        Overview {
            now: self.clock.now(),
            started: self.started,
            working: self.working(),
            next: self.next(),
            running_since: *self.running_since.lock().unwrap_or_else(PoisonError::into_inner),
            waiting: self.queue.waiting().len(),
            success_due: self.second_tick(health.last_success.unwrap_or(self.started)),
            health,
            off_boarding: engine.off_boarding().clone(),
            memory: Memory::read(engine.store()),
            store_bytes: self.state_directory.as_deref().and_then(|directory| size_below(directory).ok()),
        }
    }
}

/// The size of all files below a directory, in bytes.
fn size_below(directory: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // A file that goes away meanwhile has no size.
        let Ok(metadata) = entry.metadata() else { continue };
        size += if metadata.is_dir() { size_below(&entry.path())? } else { metadata.len() };
    }
    Ok(size)
}
