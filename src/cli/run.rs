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
};

pub(super) async fn run(global: &Global) -> Result<Exit, Exit> {
    let (settings, templates) = session::load(&global.config)?;
    session::log(&settings, true);
    let engine = session::store(&settings)
        .and_then(|store| assemble::engine(&settings, templates, store))
        .map_err(|failure| complain_failure(&failure))?;
    let mut daemon =
        Daemon::new(engine, Arc::new(SystemClock), timetable(&settings), settings.schedule.catch_up, draw)
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
