//! `run`: the daemon.

use std::sync::Arc;

use super::{
    arguments::Global,
    output::{Exit, complain_failure},
    session,
};
use crate::{
    assemble::{self, SystemClock, timetable},
    daemon::Daemon,
    http::Meter,
    ports::Clock as _,
    serve::metrics::Metrics,
};

pub(super) async fn run(global: &Global) -> Result<Exit, Exit> {
    let (settings, templates) = session::load(&global.config)?;
    session::log(&settings, true);
    let clock = Arc::new(SystemClock);
    let metrics = Arc::new(Metrics::new(clock.now()));
    let engine = session::store(&settings)
        .and_then(|store| {
            assemble::counted_engine(&settings, templates, store, Arc::clone(&metrics) as Arc<dyn Meter>)
        })
        .map_err(|failure| complain_failure(&failure))?;
    let mut daemon = Daemon::new(engine, clock, timetable(&settings), settings.schedule.catch_up, draw)
        .monitored(&settings, metrics)
        .with_webhook(settings.webhook.clone());
    if let (Some(board), Some(notices)) = (assemble::noticeboard(&settings), &settings.notices) {
        daemon = daemon.with_notices(board, notices.unusable_after);
    }
    match daemon.run(&settings.control.socket).await {
        Ok(()) => Ok(Exit::Done),
        Err(failure) => Err(complain_failure(&failure)),
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place where the jitter is drawn")]
fn draw() -> f64 {
    rand::random()
}
