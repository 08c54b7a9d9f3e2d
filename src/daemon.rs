//! The daemon: start order, schedule, signals, and the end of work in an orderly way.

mod watched;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use crate::{
    command::{Answer, Command, DaemonStatus, execute},
    config::{MonitoringSettings, Settings, WebhookSettings},
    domain::{Failure, FailureClass, Peer},
    engine::{
        Engine, Progress, RunReport, RunRequest, Stage,
        queue::{Consumer, Queue, Refused, queue},
    },
    notices::{Notices, Sight, Source},
    ports::{Clock, Noticeboard},
    reconcile::Pass,
    schedule::Timetable,
    serve::{
        control::{Executor, Socket},
        health::Health,
        listener::Listener,
        metrics::Metrics,
        monitor,
        overview::Watched,
        systemd::{Systemd, status_line},
        webhook::{Counter, Hints, Webhook, Wish},
    },
};

/// How many different wishes may wait for their turn.
const WAITING_RUNS: usize = 100;

/// In so many former runs the last success is looked for.
const REMEMBERED_RUNS: usize = 1000;

/// The schedule is looked at again at least so often, since the clock can be put right and machines sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The service is ready after this time, even if a server has not answered by then.
const FIRST_CONTACT: Duration = Duration::from_secs(20);

/// Reads the config again.
pub trait Reload: Send + Sync + 'static {
    /// The engine and the times of the new config; `None` if it cannot be used, which was logged, so that all stays as
    /// it was.
    fn reload(&self, engine: &Engine) -> Option<(Engine, Timetable)>;
}

/// What the daemon is made of.
pub struct Daemon {
    engine: Engine,
    clock: Arc<dyn Clock>,
    timetable: Timetable,
    catch_up: bool,
    /// Draws the part of the jitter, 0 to 1.
    draw: fn() -> f64,
    reload: Option<Arc<dyn Reload>>,
    systemd: Arc<Systemd>,
    webhook: Option<WebhookSettings>,
    /// Where people are told what to look at, and for how long Defguard has to be unusable before.
    notices: Option<(Arc<dyn Noticeboard>, Duration)>,
    metrics: Arc<Metrics>,
    /// How it is watched, and where the store is.
    monitoring: Option<(MonitoringSettings, PathBuf)>,
}

/// What the parts of the daemon share.
struct Shared {
    /// Both are replaced when the config is read again.
    engine: RwLock<Arc<Engine>>,
    timetable: RwLock<Timetable>,
    /// Tells whoever waits for a tick that the times are others.
    rescheduled: Notify,
    queue: Queue<RunRequest, Arc<RunReport>>,
    started: DateTime<Utc>,
    next: Mutex<Option<(DateTime<Utc>, Pass)>>,
    running_since: Mutex<Option<DateTime<Utc>>>,
    watchers: Watchers,
    systemd: Arc<Systemd>,
    /// The last run.
    runs: tokio::sync::watch::Sender<Option<Arc<RunReport>>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    health: Mutex<Health>,
    state_directory: Option<PathBuf>,
}

impl Shared {
    fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn timetable(&self) -> Timetable {
        self.timetable.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn next(&self) -> Option<(DateTime<Utc>, Pass)> {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_next(&self, next: Option<(DateTime<Utc>, Pass)>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Takes over what was read again. A run under way ends as it began.
    fn renew(&self, engine: Engine, timetable: Timetable) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(engine);
        *self.timetable.write().unwrap_or_else(PoisonError::into_inner) = timetable;
        self.rescheduled.notify_one();
    }
}

/// Everybody who wants to know how far the run under way is.
struct Watchers {
    people: Mutex<Vec<std::sync::Weak<dyn Progress>>>,
    systemd: Arc<Systemd>,
}

impl Watchers {
    fn add(&self, watcher: &Arc<dyn Progress>) {
        let mut watchers = self.people.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(watcher));
    }

    fn tell(&self, what: impl Fn(&dyn Progress)) {
        for watcher in self.people.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(watcher) = watcher.upgrade() {
                what(watcher.as_ref());
            }
        }
    }
}

impl Progress for Watchers {
    fn stage(&self, stage: Stage) {
        self.systemd.alive();
        self.tell(|watcher| watcher.stage(stage));
    }

    fn step(&self, done: usize, total: usize) {
        self.systemd.alive();
        self.tell(|watcher| watcher.step(done, total));
    }
}

#[async_trait]
impl Executor for Shared {
    async fn execute(&self, command: Command, progress: Arc<dyn Progress>) -> Answer {
        match command {
            Command::Sync(request) if !request.dry_run => {
                self.watchers.add(&progress);
                let waits = self.queue.running().is_some();
                let submitted = match self.queue.submit(request) {
                    Ok(submitted) => submitted,
                    Err(refused) => return Answer::Refused(refused.to_string()),
                };
                progress.taken();
                if waits {
                    progress.waiting();
                }
                match submitted.result().await {
                    Ok(report) => Answer::Run(Box::new((*report).clone())),
                    Err(abandoned) => Answer::Refused(abandoned.to_string()),
                }
            }
            command => match execute(&self.engine(), &command, progress.as_ref()).await {
                Answer::Status(mut status) => {
                    status.daemon = Some(DaemonStatus {
                        started: self.started,
                        next: self.next(),
                        running: self.queue.running().is_some(),
                    });
                    Answer::Status(status)
                }
                Answer::ByHand(hand) => {
                    self.metrics.changes(hand.done.as_deref().unwrap_or_default());
                    Answer::ByHand(hand)
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
        let metrics = Arc::new(Metrics::new(clock.now()));
        Self {
            engine,
            clock,
            timetable,
            catch_up,
            draw,
            reload: None,
            systemd: Arc::new(Systemd::of_process(Duration::ZERO)),
            webhook: None,
            notices: None,
            metrics,
            monitoring: None,
        }
    }

    /// Tells others how it is, as the config says. `metrics` also counts the requests of the engine.
    #[must_use]
    pub fn monitored(mut self, settings: &Settings, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self.monitoring = Some((settings.monitoring.clone(), settings.state.directory.clone()));
        self
    }

    /// The same that receives Defguard's webhook, too.
    #[must_use]
    pub fn with_webhook(mut self, webhook: Option<WebhookSettings>) -> Self {
        self.webhook = webhook;
        self
    }

    /// The same that tells people, too, what to look at; of Defguard if it was unusable for so long.
    #[must_use]
    pub fn with_notices(mut self, board: Arc<dyn Noticeboard>, unusable_after: Duration) -> Self {
        self.notices = Some((board, unusable_after));
        self
    }

    /// The same one, which at SIGHUP reads its config again in this way.
    #[must_use]
    pub fn reloaded_by(mut self, reload: Arc<dyn Reload>) -> Self {
        self.reload = Some(reload);
        self
    }

    /// The same one, which tells systemd how it is in this way.
    #[must_use]
    pub fn watched_by(mut self, systemd: Arc<Systemd>) -> Self {
        self.systemd = systemd;
        self
    }

    /// Runs until a signal (SIGTERM or SIGINT) asks for the end; then the people in hand are finished. A second signal
    /// ends the program at once.
    pub async fn run(self, socket: &Path) -> Result<(), Failure> {
        let socket = Socket::bind(socket).await?;
        let webhook = match &self.webhook {
            Some(settings) => Some(bind_webhook(settings, &self.metrics).await?),
            None => None,
        };
        let monitoring = match &self.monitoring {
            Some((settings, _)) => listen(settings).await?.map(|listener| (listener, settings)),
            None => None,
        };
        let stop = self.engine.stop().clone();
        let (queue, consumer) = queue(WAITING_RUNS);
        // If they cannot be read, the first run says so.
        let former_runs = self.engine.store().runs(REMEMBERED_RUNS).unwrap_or_default();
        let shared = Arc::new(Shared {
            engine: RwLock::new(Arc::new(self.engine)),
            timetable: RwLock::new(self.timetable),
            rescheduled: Notify::new(),
            queue: queue.clone(),
            started: self.clock.now(),
            next: Mutex::new(None),
            running_since: Mutex::new(None),
            watchers: Watchers { people: Mutex::default(), systemd: Arc::clone(&self.systemd) },
            systemd: self.systemd,
            runs: tokio::sync::watch::Sender::default(),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
            health: Mutex::new(Health::from_runs(&former_runs)),
            state_directory: self.monitoring.as_ref().map(|(_, directory)| directory.clone()),
        });
        let announcer = announcer(&shared, self.notices)?;
        let signals = tokio::spawn(watch_signals(Arc::clone(&shared), stop.clone(), self.reload)?);
        let executor: Arc<dyn Executor> = Arc::clone(&shared) as Arc<dyn Executor>;
        let server = tokio::spawn(socket.serve(executor, stop.clone().cancelled_owned()));
        let worked = CancellationToken::new();
        let watched: Arc<dyn Watched> = Arc::clone(&shared) as Arc<dyn Watched>;
        let monitor = monitoring.map(|(listener, settings)| {
            let routes = monitor::router(watched, Arc::clone(&self.metrics), settings.status_page_names);
            tokio::spawn(listener.serve(routes, worked.clone()))
        });
        let worker = tokio::spawn(work(Arc::clone(&shared), consumer));
        let webhook = webhook.map(|(webhook, hints)| {
            [
                tokio::spawn(webhook.serve(stop.clone().cancelled_owned())),
                tokio::spawn(follow(hints, queue.clone())),
            ]
        });
        let up = async {
            try_servers(&shared.engine()).await;
            shared.systemd.ready("up, and waiting for the first sync");
            tracing::info!("the daemon is up");
        };
        if stop.run_until_cancelled(up).await.is_some() {
            let clock = self.clock.as_ref();
            tick(&shared, clock, self.catch_up, self.draw, &stop).await;
        }
        queue.close();
        // The run under way ends after the people in hand, then its askers get their answers.
        let ended = worker.await;
        worked.cancel();
        let _ = server.await;
        // Not waited for: an answer that is still owed is lost, as one to a daemon that is not there.
        webhook.iter().flatten().chain(&announcer).for_each(tokio::task::JoinHandle::abort);
        if let Some(monitor) = monitor {
            let _ = monitor.await;
        }
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
}

/// Begins to tell people what the runs find, if it is wished.
fn announcer(
    shared: &Arc<Shared>,
    notices: Option<(Arc<dyn Noticeboard>, Duration)>,
) -> Result<Option<tokio::task::JoinHandle<()>>, Failure> {
    let Some((board, unusable_after)) = notices else { return Ok(None) };
    let unusable_after = TimeDelta::from_std(unusable_after).unwrap_or(TimeDelta::MAX);
    let notices = Notices::new(unusable_after, &shared.engine().store().standoffs()?);
    let clock = Arc::clone(&shared.clock);
    Ok(Some(tokio::spawn(announce(Arc::clone(shared), shared.runs.subscribe(), notices, board, clock))))
}

async fn bind_webhook(
    settings: &WebhookSettings,
    metrics: &Arc<Metrics>,
) -> Result<(Webhook, Arc<Hints>), Failure> {
    let hints = Arc::new(Hints::new(settings.delay));
    let counter = Arc::clone(metrics) as Arc<dyn Counter>;
    let webhook = Webhook::bind(settings.listen, &settings.token, Arc::clone(&hints), counter).await?;
    tracing::info!(address = %settings.listen, "listening for Defguard's webhook");
    Ok((webhook, hints))
}

/// Tries both servers, so that the log of every start says how they are.
async fn try_servers(engine: &Engine) {
    match tokio::time::timeout(FIRST_CONTACT, engine.first_contact()).await {
        Ok(failures) => {
            for failure in failures {
                let mend = failure.mend.as_deref();
                tracing::warn!(%failure, mend, "a server cannot be used yet; it is tried again at each sync");
            }
        }
        Err(_) => {
            tracing::warn!("a server has not answered yet; it is tried again at each sync");
        }
    }
}

/// Puts a run into the queue at each tick.
async fn tick(
    shared: &Shared,
    clock: &dyn Clock,
    catch_up: bool,
    draw: fn() -> f64,
    stop: &CancellationToken,
) {
    let mut since = clock.now();
    let mut timetable = shared.timetable();
    let mut planned = timetable.next(since, draw());
    shared.set_next(planned);
    if catch_up {
        let _ = shared.queue.submit(RunRequest::everybody(Pass::Frequent));
    }
    loop {
        let now = clock.now();
        let awakening = planned.map(|planned| awaken(&timetable, since, planned, now));
        let sleep = match awakening {
            Some(Awakening::Early(left)) => left.min(LONGEST_SLEEP),
            Some(Awakening::PutBack | Awakening::Due(_)) => Duration::ZERO,
            None => LONGEST_SLEEP,
        };
        if let Some(Awakening::Due(_) | Awakening::PutBack) = awakening {
            since = now;
            planned = timetable.next(since, draw());
            shared.set_next(planned);
        }
        if let Some(Awakening::Due(pass)) = awakening
            && let Err(refused) = shared.queue.submit(RunRequest::everybody(pass))
        {
            tracing::warn!(%refused, "the scheduled run was not taken");
        }
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = shared.rescheduled.notified() => {
                timetable = shared.timetable();
                planned = timetable.next(since, draw());
                shared.set_next(planned);
            }
            () = stop.cancelled() => return,
        }
    }
}

/// What a look at the clock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awakening {
    /// Nothing yet; so long it is still to wait.
    Early(Duration),
    /// The clock was put back, so the times have to be made anew.
    PutBack,
    /// This pass.
    Due(Pass),
}

/// Decides what to do at the moment `now`, when the pass `planned` is to begin at `at` and all ticks up to `since` were
/// seen to. After a long sleep it is the full pass, if a tick of it was missed.
fn awaken(
    timetable: &Timetable,
    since: DateTime<Utc>,
    (at, planned): (DateTime<Utc>, Pass),
    now: DateTime<Utc>,
) -> Awakening {
    if now < since {
        return Awakening::PutBack;
    }
    match (at - now).to_std() {
        Ok(left) if !left.is_zero() => Awakening::Early(left),
        _ => Awakening::Due(timetable.due(since, now).unwrap_or(planned)),
    }
}

/// Has the people looked at whom Defguard's events name, in one run after the other; what is named meanwhile gathers.
async fn follow(hints: Arc<Hints>, queue: Queue<RunRequest, Arc<RunReport>>) {
    loop {
        let request = match hints.next().await {
            Wish::People(people) => RunRequest::hinted(people),
            Wish::Everybody => RunRequest::everybody(Pass::Frequent),
        };
        match queue.submit(request) {
            // What fails is found by the schedule.
            Ok(submitted) => drop(submitted.result().await),
            Err(Refused::Full) => hints.note_everybody(),
            Err(Refused::Closed) => return,
        }
    }
}

/// Tells people what the runs find. Nothing of it can let a run fail; what could not be told is told later.
async fn announce(
    shared: Arc<Shared>,
    mut runs: tokio::sync::watch::Receiver<Option<Arc<RunReport>>>,
    mut notices: Notices,
    board: Arc<dyn Noticeboard>,
    clock: Arc<dyn Clock>,
) {
    let mut looks = tokio::time::interval(LONGEST_SLEEP);
    loop {
        tokio::select! {
            changed = runs.changed() => {
                if changed.is_err() {
                    return;
                }
                let report = runs.borrow_and_update().clone();
                let engine = shared.engine();
                let store = engine.store();
                let (Some(report), Ok(standing), Ok(conflicts)) = (report, store.standing(), store.standoffs()) else {
                    continue;
                };
                let sight = Sight { held: standing.hold, source: Source::of(&report), conflicts };
                notices.observe(sight, clock.now());
            }
            _ = looks.tick() => {}
        }
        if let Some(notice) = notices.due(clock.now()) {
            let posted = board.post(&notice.text, &notice.key).await;
            match &posted {
                Ok(()) => tracing::info!("a notice was sent"),
                Err(failure) => {
                    tracing::warn!(%failure, mend = failure.mend.as_deref(), "a notice was not sent");
                }
            }
            notices.tried(&notice, posted.is_ok(), clock.now());
        }
    }
}

/// Does the runs, one after the other. While there is nothing to do, the wait itself is the sign of life.
async fn work(shared: Arc<Shared>, mut consumer: Consumer<RunRequest, Arc<RunReport>>) {
    let patience = shared.systemd.interval().unwrap_or(Duration::MAX);
    loop {
        shared.systemd.alive();
        let ticket = match tokio::time::timeout(patience, consumer.next()).await {
            Err(_) => continue,
            Ok(None) => return,
            Ok(Some(ticket)) => ticket,
        };
        let running = |since| *shared.running_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        running(Some(shared.clock.now()));
        let report = Arc::new(shared.engine().run(ticket.key(), &shared.watchers).await);
        running(None);
        report.log();
        shared.runs.send_replace(Some(Arc::clone(&report)));
        shared.learn(ticket.key(), &report);
        let next = shared.next().map(|(at, _)| at);
        shared.systemd.status(&status_line(&report, next, shared.timetable().frequent.zone()));
        ticket.finish(report);
    }
}

/// Binds the address for those who watch. If the usual one, which the config does not name, cannot be had, the accounts
/// are kept in step all the same.
async fn listen(settings: &MonitoringSettings) -> Result<Option<Listener>, Failure> {
    let Some(address) = settings.listen else { return Ok(None) };
    match Listener::bind(address, "monitoring.listen").await {
        Ok(listener) => {
            tracing::info!(address = %listener.address(), "metrics and the status page are served");
            Ok(Some(listener))
        }
        Err(failure) if !settings.listen_given => {
            tracing::warn!(why = failure.why, mend = failure.mend, "no metrics are served: {}", failure.what);
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Reads the config again at SIGHUP, cancels the token at the first signal that asks for the end, and ends the program at
/// the second.
fn watch_signals(
    shared: Arc<Shared>,
    stop: CancellationToken,
    reload: Option<Arc<dyn Reload>>,
) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            Failure::new(Peer::Store, FailureClass::Permanent, "listening for signals", error.to_string())
        })
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        let mut asked = false;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {
                    if let Some(reload) = reload.clone().filter(|_| !asked) {
                        read_again(Arc::clone(&shared), reload).await;
                    }
                    continue;
                }
            }
            if asked {
                tracing::warn!("ending at once");
                std::process::exit(1);
            }
            asked = true;
            shared.systemd.stopping();
            tracing::info!("ending after the people in hand; another signal ends at once");
            stop.cancel();
        }
    })
}

/// Reads the config again and takes it over if it can be used.
async fn read_again(shared: Arc<Shared>, reload: Arc<dyn Reload>) {
    shared.systemd.reloading();
    let engine = shared.engine();
    let read = tokio::task::spawn_blocking(move || reload.reload(&engine)).await;
    match read {
        Ok(Some((engine, timetable))) => {
            shared.renew(engine, timetable);
            tracing::info!("the config was read again; it counts from the next sync on");
            shared.systemd.ready("the config was read again");
        }
        Ok(None) => {
            tracing::error!("the config is left as it was");
            shared.systemd.ready("the new config cannot be used, so the old one is kept; see the log");
        }
        Err(error) => {
            tracing::error!(%error, "reading the config again broke down; it is left as it was");
            shared.systemd.ready("the config could not be read again, so the old one is kept; see the log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Cron;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-01-{text}Z").parse().unwrap()
    }

    /// Every five minutes, and in full at three in the night, each with up to a minute of jitter.
    fn timetable() -> Timetable {
        let cron = |text| Cron::parse(text, chrono_tz::UTC, at("01T00:00:00")).unwrap();
        Timetable {
            frequent: cron("*/5 * * * *"),
            full: Some(cron("0 3 * * *")),
            jitter: TimeDelta::seconds(60),
        }
    }

    /// What each look at the clock asks for, from a start on. After each pass, and each time the clock was put back,
    /// the next one is planned as the daemon plans it.
    fn looks(start: &str, moments: &[&str]) -> Vec<Awakening> {
        let timetable = timetable();
        let mut since = at(start);
        let mut planned = timetable.next(since, 0.5).unwrap();
        let mut asked = Vec::new();
        for moment in moments {
            let awakening = awaken(&timetable, since, planned, at(moment));
            if !matches!(awakening, Awakening::Early(_)) {
                since = at(moment);
                planned = timetable.next(since, 0.5).unwrap();
            }
            asked.push(awakening);
        }
        asked
    }

    #[test]
    fn nothing_is_done_before_the_tick_and_its_jitter_are_over() {
        assert_eq!(
            looks("01T12:01:00", &["01T12:01:00", "01T12:05:29", "01T12:05:30", "01T12:05:31"]),
            [
                Awakening::Early(Duration::from_secs(270)),
                Awakening::Early(Duration::from_secs(1)),
                Awakening::Due(Pass::Frequent),
                Awakening::Early(Duration::from_secs(299)),
            ]
        );
    }

    #[test]
    fn a_full_pass_that_was_missed_while_the_machine_slept_is_done_at_the_awakening() {
        assert_eq!(
            looks("01T22:01:00", &["02T08:17:00", "02T08:20:30"]),
            [Awakening::Due(Pass::Full), Awakening::Due(Pass::Frequent)]
        );
        // However many frequent ones were missed, one is done.
        assert_eq!(
            looks("01T12:01:00", &["01T20:17:00", "01T20:17:01"]),
            [Awakening::Due(Pass::Frequent), Awakening::Early(Duration::from_secs(209))]
        );
    }

    #[test]
    fn a_clock_that_was_put_back_makes_the_times_anew() {
        assert_eq!(
            looks("05T12:01:00", &["05T12:05:30", "02T12:01:00", "02T12:01:00", "02T12:05:30"]),
            [
                Awakening::Due(Pass::Frequent),
                Awakening::PutBack,
                Awakening::Early(Duration::from_secs(270)),
                Awakening::Due(Pass::Frequent),
            ]
        );
    }

    #[test]
    fn a_clock_that_was_put_forth_brings_the_pass_at_once_and_only_once() {
        assert_eq!(
            looks("01T12:01:00", &["09T12:01:00", "09T12:01:01"]),
            [Awakening::Due(Pass::Full), Awakening::Early(Duration::from_secs(269))]
        );
    }

    #[tokio::test]
    async fn only_an_address_that_the_config_names_has_to_be_had() {
        let taken = Listener::bind(([127, 0, 0, 1], 0).into(), "x").await.unwrap();
        let settings = |listen_given| MonitoringSettings {
            listen: Some(taken.address()),
            listen_given,
            status_page_names: false,
        };
        assert!(listen(&settings(false)).await.unwrap().is_none());
        assert!(listen(&settings(true)).await.is_err());
        assert!(listen(&MonitoringSettings { listen: None, ..settings(true) }).await.unwrap().is_none());
    }
}
