//! The daemon: start order, schedule, signals, and the end of work in an orderly way.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    command::{Answer, Command, DaemonStatus, execute},
    domain::{Failure, FailureClass, Peer},
    engine::{
        Engine, Progress, RunReport, RunRequest,
        queue::{Consumer, Queue, queue},
    },
    ports::Clock,
    reconcile::Pass,
    schedule::Timetable,
    serve::control::{Executor, Socket},
};

/// How many different wishes may wait for their turn.
const WAITING_RUNS: usize = 100;

/// The schedule is looked at again at least so often, since the clock can be put right and machines sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What the daemon is made of.
pub struct Daemon {
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    timetable: Timetable,
    catch_up: bool,
    /// Draws the part of the jitter, 0 to 1.
    draw: fn() -> f64,
}

/// What the parts of the daemon share.
struct Shared {
    engine: Arc<Engine>,
    queue: Queue<RunRequest, Arc<RunReport>>,
    started: DateTime<Utc>,
    next: Mutex<Option<(DateTime<Utc>, Pass)>>,
    watchers: Watchers,
}

/// Everybody who wants to know how far the run under way is.
#[derive(Default)]
struct Watchers(Mutex<Vec<std::sync::Weak<dyn Progress>>>);

impl Watchers {
    fn add(&self, watcher: &Arc<dyn Progress>) {
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(watcher));
    }
}

impl Progress for Watchers {
    fn step(&self, done: usize, total: usize) {
        for watcher in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(watcher) = watcher.upgrade() {
                watcher.step(done, total);
            }
        }
    }
}

#[async_trait]
impl Executor for Shared {
    async fn execute(&self, command: Command, progress: Arc<dyn Progress>) -> Answer {
        match command {
            Command::Sync(request) if !request.dry_run => {
                self.watchers.add(&progress);
                if self.queue.running().is_some() {
                    progress.waiting();
                }
                let submitted = match self.queue.submit(request) {
                    Ok(submitted) => submitted,
                    Err(refused) => return Answer::Refused(refused.to_string()),
                };
                match submitted.result().await {
                    Ok(report) => Answer::Run(Box::new((*report).clone())),
                    Err(abandoned) => Answer::Refused(abandoned.to_string()),
                }
            }
            command => match execute(&self.engine, &command, progress.as_ref()).await {
                Answer::Status(mut status) => {
                    status.daemon = Some(DaemonStatus {
                        started: self.started,
                        next: *self.next.lock().unwrap_or_else(PoisonError::into_inner),
                        running: self.queue.running().is_some(),
                    });
                    Answer::Status(status)
                }
                answer => answer,
            },
        }
    }
}

impl Daemon {
    /// Puts a daemon together; `draw` gives the part of the jitter to take, 0 to 1.
    pub fn new(
        engine: Engine,
        clock: Arc<dyn Clock>,
        timetable: Timetable,
        catch_up: bool,
        draw: fn() -> f64,
    ) -> Self {
        Self { engine: Arc::new(engine), clock, timetable, catch_up, draw }
    }

    /// Runs until a signal (SIGTERM or SIGINT) asks for the end; then the people in hand are finished. A second signal
    /// ends the program at once.
    pub async fn run(self, socket: &Path) -> Result<(), Failure> {
        let socket = Socket::bind(socket).await?;
        let stop = self.engine.stop().clone();
        let signals = tokio::spawn(watch_signals(stop.clone())?);
        let (queue, consumer) = queue(WAITING_RUNS);
        let shared = Arc::new(Shared {
            engine: Arc::clone(&self.engine),
            queue: queue.clone(),
            started: self.clock.now(),
            next: Mutex::new(None),
            watchers: Watchers::default(),
        });
        tracing::info!("the daemon is up");
        let executor: Arc<dyn Executor> = Arc::clone(&shared) as Arc<dyn Executor>;
        let server = tokio::spawn(socket.serve(executor, stop.clone().cancelled_owned()));
        let worker = tokio::spawn(work(Arc::clone(&shared), consumer));
        self.tick(&shared, &stop).await;
        queue.close();
        // The run under way ends after the people in hand, then its askers get their answers.
        let ended = worker.await;
        let _ = server.await;
        signals.abort();
        tracing::info!("the daemon ends");
        ended.map_err(|error| {
            Failure::new(
                Peer::Store,
                FailureClass::Permanent,
                "working",
                format!("the worker broke down: {error}"),
            )
        })
    }

    /// Puts a run into the queue at each tick.
    async fn tick(&self, shared: &Shared, stop: &CancellationToken) {
        if self.catch_up {
            let _ = shared.queue.submit(RunRequest::everybody(Pass::Frequent));
        }
        let mut since = self.clock.now();
        while let Some((at, planned)) = self.timetable.next(since, (self.draw)()) {
            *shared.next.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, planned));
            let now = loop {
                let now = self.clock.now();
                let left = (at - now).to_std().unwrap_or_default();
                // A clock that was put back makes the times anew.
                if left.is_zero() || now < since {
                    break now;
                }
                tokio::select! {
                    () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
                    () = stop.cancelled() => return,
                }
            };
            let put_back = now < since;
            // After a long sleep it is the full pass, if that was missed.
            let pass = self.timetable.due(since, now).unwrap_or(planned);
            since = now;
            if put_back {
                continue;
            }
            if let Err(refused) = shared.queue.submit(RunRequest::everybody(pass)) {
                tracing::warn!(%refused, "the scheduled run was not taken");
            }
        }
        stop.cancelled().await;
    }
}

/// Does the runs, one after the other.
async fn work(shared: Arc<Shared>, mut consumer: Consumer<RunRequest, Arc<RunReport>>) {
    while let Some(ticket) = consumer.next().await {
        let report = Arc::new(shared.engine.run(ticket.key(), &shared.watchers).await);
        log_run(&report);
        ticket.finish(report);
    }
}

fn log_run(report: &RunReport) {
    let run = report.run.map(|run| run.0);
    let summary = report.summary();
    match (report.exit_code(), &report.failure) {
        (0, _) => tracing::info!(run, summary, "sync done"),
        (code, Some(failure)) => {
            tracing::error!(run, code, summary, mend = failure.mend.as_deref(), "sync failed");
        }
        (code, None) => tracing::warn!(run, code, summary, "sync done in part"),
    }
    for person in report.people.iter().filter(|person| person.failure.is_some()) {
        if let Some(failure) = &person.failure {
            tracing::warn!(person = %person.id, %failure, "failed for this person");
        }
    }
}

/// Cancels the token at the first signal and ends the program at the second.
fn watch_signals(stop: CancellationToken) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Peer::Store, FailureClass::Permanent, "listening for signals", error.to_string())
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        let mut asked = false;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if asked {
                tracing::warn!("ending at once");
                std::process::exit(1);
            }
            asked = true;
            tracing::info!("ending after the people in hand; another signal ends at once");
            stop.cancel();
        }
    })
}
