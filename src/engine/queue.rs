//! One thing after another: a queue of keyed jobs in which equal keys meet.
//!
//! Whoever submits a key gets the result of a run of it that began after the submission. A key that waits already is
//! joined; a key that is running gets one more place, since what is running may have passed the point in question.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};

/// Makes a queue in which at most `limit` different keys can wait.
pub fn queue<K: Ord + Clone, R: Clone>(limit: usize) -> (Queue<K, R>, Consumer<K, R>) {
    let state =
        State { order: VecDeque::new(), waiting: BTreeMap::new(), running: None, limit, closed: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() });
    (Queue { shared: Arc::clone(&shared) }, Consumer { shared })
}

/// The end of the queue where jobs are put in; it can be cloned.
#[derive(Debug)]
pub struct Queue<K, R> {
    shared: Arc<Shared<K, R>>,
}

/// The end of the queue where jobs are taken out, one after another. When it is dropped, the queue is closed.
#[derive(Debug)]
pub struct Consumer<K: Ord + Clone, R> {
    shared: Arc<Shared<K, R>>,
}

/// A job that is running. As long as there is one, its consumer gives out no other.
#[derive(Debug)]
#[must_use]
pub struct Ticket<'a, K: Ord + Clone, R> {
    consumer: &'a mut Consumer<K, R>,
    key: K,
    result: watch::Sender<Option<R>>,
}

/// A job that was submitted. Nobody has to wait for it: it is run all the same.
#[derive(Debug, Clone)]
pub struct Submitted<R> {
    result: watch::Receiver<Option<R>>,
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many other keys as may wait are waiting.
    #[error("too many jobs are waiting; try again when some of them are done")]
    Full,
    /// The program is about to end.
    #[error("no more jobs are taken, since the program is ending")]
    Closed,
}

/// The job was given up before it had a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job was given up before it had a result")]
pub struct Abandoned;

#[derive(Debug)]
struct Shared<K, R> {
    state: Mutex<State<K, R>>,
    /// Wakes the consumer.
    changed: Notify,
}

#[derive(Debug)]
struct State<K, R> {
    /// The keys that wait, the oldest first; the same ones as in `waiting`.
    order: VecDeque<K>,
    /// Where the result of each waiting key will be sent.
    waiting: BTreeMap<K, watch::Sender<Option<R>>>,
    running: Option<K>,
    limit: usize,
    closed: bool,
}

impl<K, R> Shared<K, R> {
    fn state(&self) -> MutexGuard<'_, State<K, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.order.clear();
        // Dropping the senders tells those who wait.
        state.waiting.clear();
        drop(state);
        self.changed.notify_one();
    }
}

impl<K, R> Clone for Queue<K, R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K: Ord + Clone, R: Clone> Queue<K, R> {
    /// Puts a job in, or joins the one with the same key that waits already.
    pub fn submit(&self, key: K) -> Result<Submitted<R>, Refused> {
        let mut state = self.shared.state();
        if state.closed {
            return Err(Refused::Closed);
        }
        if let Some(sender) = state.waiting.get(&key) {
            return Ok(Submitted { result: sender.subscribe() });
        }
        if state.waiting.len() >= state.limit {
            return Err(Refused::Full);
        }
        let (sender, result) = watch::channel(None);
        state.order.push_back(key.clone());
        state.waiting.insert(key, sender);
        drop(state);
        self.shared.changed.notify_one();
        Ok(Submitted { result })
    }

    /// The key that is running.
    pub fn running(&self) -> Option<K> {
        self.shared.state().running.clone()
    }

    /// The keys that wait, in the order in which they will run.
    pub fn waiting(&self) -> Vec<K> {
        self.shared.state().order.iter().cloned().collect()
    }

    /// Whether no more jobs are taken.
    pub fn is_closed(&self) -> bool {
        self.shared.state().closed
    }

    /// Takes no more jobs and gives up those that wait. The one that is running can come to its end.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl<R: Clone> Submitted<R> {
    /// Waits for the result of the run.
    pub async fn result(mut self) -> Result<R, Abandoned> {
        let result = self.result.wait_for(Option::is_some).await.map_err(|_| Abandoned)?;
        result.clone().ok_or(Abandoned)
    }
}

impl<K: Ord + Clone, R> Consumer<K, R> {
    /// Waits for the next job; `None` when the queue is closed. A call that is dropped while it waits takes nothing
    /// out.
    pub async fn next(&mut self) -> Option<Ticket<'_, K, R>> {
        let (key, result) = loop {
            {
                let mut state = self.shared.state();
                if state.closed {
                    return None;
                }
                let first = state.order.pop_front();
                if let Some((key, result)) = first.and_then(|key| state.waiting.remove_entry(&key)) {
                    state.running = Some(key.clone());
                    break (key, result);
                }
            }
            self.shared.changed.notified().await;
        };
        Some(Ticket { consumer: self, key, result })
    }
}

impl<K: Ord + Clone, R> Drop for Consumer<K, R> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<K: Ord + Clone, R> Ticket<'_, K, R> {
    /// What is to be done.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Gives the result to all who submitted this job. A ticket that is dropped instead tells them that it was given
    /// up.
    pub fn finish(self, result: R) {
        // Nobody may be running any more when those who wait go on.
        self.consumer.shared.state().running = None;
        self.result.send_replace(Some(result));
    }
}

impl<K: Ord + Clone, R> Drop for Ticket<'_, K, R> {
    fn drop(&mut self) {
        self.consumer.shared.state().running = None;
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, future::Future, pin::pin, task::Poll};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    enum Job {
        Everyone,
        People(BTreeSet<&'static str>),
    }

    fn people(names: &[&'static str]) -> Job {
        Job::People(names.iter().copied().collect())
    }

    /// What a future gives if it is asked right now.
    fn now<F: Future>(future: F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match pin!(future).poll(&mut context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn equal_keys_that_wait_share_one_run_and_its_result() {
        let (queue, mut consumer) = queue(10);
        let first = queue.submit(people(&["alice", "bob"])).unwrap();
        let second = queue.submit(people(&["bob", "alice"])).unwrap();
        let other = queue.submit(Job::Everyone).unwrap();
        assert_eq!(queue.waiting(), [people(&["alice", "bob"]), Job::Everyone]);

        let ticket = now(consumer.next()).unwrap().unwrap();
        assert_eq!(ticket.key(), &people(&["alice", "bob"]));
        assert_eq!(queue.running(), Some(people(&["alice", "bob"])));
        ticket.finish(1);
        assert_eq!(queue.running(), None);
        assert_eq!(now(first.result()), Some(Ok(1)));
        assert_eq!(now(second.result()), Some(Ok(1)));
        assert_eq!(now(other.clone().result()), None);

        now(consumer.next()).unwrap().unwrap().finish(2);
        assert_eq!(now(other.result()), Some(Ok(2)));
        assert!(now(consumer.next()).is_none());
    }

    #[test]
    fn a_submission_during_the_run_gets_the_result_of_the_next_one() {
        let (queue, mut consumer) = queue(10);
        let before = queue.submit(Job::Everyone).unwrap();
        let ticket = now(consumer.next()).unwrap().unwrap();
        let during = [queue.submit(Job::Everyone).unwrap(), queue.submit(Job::Everyone).unwrap()];
        assert_eq!(queue.waiting(), [Job::Everyone]);
        ticket.finish(1);
        assert_eq!(now(before.result()), Some(Ok(1)));
        assert_eq!(now(during[0].clone().result()), None);
        now(consumer.next()).unwrap().unwrap().finish(2);
        for submitted in during {
            assert_eq!(now(submitted.result()), Some(Ok(2)));
        }
    }

    #[test]
    fn a_dropped_ticket_tells_those_who_wait_and_lets_the_next_one_run() {
        let (queue, mut consumer) = queue::<_, ()>(10);
        let given_up = queue.submit(Job::Everyone).unwrap();
        drop(now(consumer.next()).unwrap().unwrap());
        assert_eq!(now(given_up.result()), Some(Err(Abandoned)));
        assert_eq!(queue.running(), None);
        let again = queue.submit(Job::Everyone).unwrap();
        now(consumer.next()).unwrap().unwrap().finish(());
        assert_eq!(now(again.result()), Some(Ok(())));
    }

    #[test]
    fn a_full_queue_refuses_new_keys_and_lets_those_that_wait_be_joined() {
        let (queue, mut consumer) = queue(2);
        let everyone = queue.submit(Job::Everyone).unwrap();
        let alice = queue.submit(people(&["alice"])).unwrap();
        assert_eq!(queue.submit(people(&["bob"])).unwrap_err(), Refused::Full);
        queue.submit(people(&["alice"])).unwrap();
        now(consumer.next()).unwrap().unwrap().finish(1);
        queue.submit(people(&["bob"])).unwrap();
        assert_eq!(now(everyone.result()), Some(Ok(1)));
        assert_eq!(now(alice.result()), None);
    }

    #[test]
    fn a_closed_queue_gives_up_what_waits_and_lets_the_running_job_end() {
        let (queue, mut consumer) = queue(10);
        let running = queue.submit(Job::Everyone).unwrap();
        let ticket = now(consumer.next()).unwrap().unwrap();
        let waiting = queue.submit(people(&["alice"])).unwrap();
        queue.close();
        assert_eq!(now(waiting.result()), Some(Err(Abandoned)));
        assert_eq!(queue.submit(Job::Everyone).unwrap_err(), Refused::Closed);
        ticket.finish(1);
        assert_eq!(now(running.result()), Some(Ok(1)));
        assert!(matches!(now(consumer.next()), Some(None)));
    }

    #[test]
    fn a_dropped_consumer_closes_the_queue() {
        let (queue, consumer) = queue::<_, ()>(10);
        let waiting = queue.submit(Job::Everyone).unwrap();
        drop(consumer);
        assert_eq!(now(waiting.result()), Some(Err(Abandoned)));
        assert_eq!(queue.submit(Job::Everyone).unwrap_err(), Refused::Closed);
    }

    #[tokio::test]
    async fn a_waiting_consumer_is_woken_by_a_submission_and_by_the_end() {
        let (queue, mut consumer) = queue(10);
        let worker = tokio::spawn(async move {
            let mut done = 0;
            while let Some(ticket) = consumer.next().await {
                done += 1;
                ticket.finish(done);
            }
            done
        });
        assert_eq!(queue.submit(Job::Everyone).unwrap().result().await, Ok(1));
        assert_eq!(queue.submit(Job::Everyone).unwrap().result().await, Ok(2));
        queue.close();
        assert_eq!(worker.await.unwrap(), 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn every_submission_from_many_tasks_gets_a_run_that_began_after_it() {
        use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
        let (queue, mut consumer) = queue::<u8, u64>(8);
        let clock = Arc::new(AtomicU64::new(0));
        let runs = Arc::clone(&clock);
        let worker = tokio::spawn(async move {
            while let Some(ticket) = consumer.next().await {
                let began = runs.fetch_add(1, SeqCst);
                tokio::task::yield_now().await;
                ticket.finish(began);
            }
        });
        let submitters = (0..8).map(|n| {
            let (queue, clock) = (queue.clone(), Arc::clone(&clock));
            tokio::spawn(async move {
                for round in 0..200_u8 {
                    let submitted_at = clock.fetch_add(1, SeqCst);
                    let began = queue.submit((n + round) % 8).unwrap().result().await.unwrap();
                    assert!(began > submitted_at);
                }
            })
        });
        for submitter in submitters.collect::<Vec<_>>() {
            submitter.await.unwrap();
        }
        queue.close();
        worker.await.unwrap();
    }

    #[derive(Debug, Clone)]
    enum Step {
        Submit(u8),
        Begin,
        Finish,
        GiveUp,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u8..6).prop_map(Step::Submit),
            2 => Just(Step::Begin),
            2 => Just(Step::Finish),
            1 => Just(Step::GiveUp),
        ]
    }

    /// What one submission has to get: the run of its key with this number, counted over all keys.
    #[derive(Debug)]
    struct Expected {
        key: u8,
        submitted_before_run: usize,
        submitted: Submitted<usize>,
    }

    proptest! {
        /// Steps are a program for submitters and the one consumer. That two runs are never under way at once is
        /// seen to by the compiler: a ticket borrows the consumer.
        #[test]
        fn no_submission_is_lost_and_a_key_waits_at_most_once(steps in proptest::collection::vec(step(), 0..80)) {
            const LIMIT: usize = 4;
            let (queue, mut consumer) = queue::<u8, usize>(LIMIT);
            let (mut model, mut expected) = (VecDeque::<u8>::new(), Vec::<Expected>::new());
            // Each run: its key, and whether it was finished.
            let mut runs: Vec<(u8, bool)> = Vec::new();
            let mut steps = steps.into_iter().chain(std::iter::repeat_n([Step::Begin, Step::Finish], 10).flatten());

            let submit = |key, runs: usize, model: &mut VecDeque<u8>, expected: &mut Vec<Expected>| {
                let fits = model.contains(&key) || model.len() < LIMIT;
                match queue.submit(key) {
                    Ok(submitted) => {
                        prop_assert!(fits);
                        if !model.contains(&key) {
                            model.push_back(key);
                        }
                        expected.push(Expected { key, submitted_before_run: runs, submitted });
                    }
                    Err(refused) => prop_assert!(!fits && refused == Refused::Full),
                }
                prop_assert_eq!(queue.waiting(), model.iter().copied().collect::<Vec<_>>());
                Ok(())
            };
            while let Some(step) = steps.next() {
                match step {
                    Step::Submit(key) => submit(key, runs.len(), &mut model, &mut expected)?,
                    Step::Finish | Step::GiveUp => {}
                    Step::Begin => {
                        let Some(ticket) = now(consumer.next()).map(Option::unwrap) else {
                            prop_assert!(model.is_empty());
                            continue;
                        };
                        prop_assert_eq!(Some(*ticket.key()), model.pop_front());
                        prop_assert_eq!(queue.running(), Some(*ticket.key()));
                        runs.push((*ticket.key(), false));
                        let number = runs.len() - 1;
                        loop {
                            match steps.next() {
                                Some(Step::Submit(key)) => submit(key, runs.len(), &mut model, &mut expected)?,
                                Some(Step::Begin) => {}
                                Some(Step::Finish) | None => {
                                    runs[number].1 = true;
                                    ticket.finish(number);
                                    break;
                                }
                                Some(Step::GiveUp) => {
                                    drop(ticket);
                                    break;
                                }
                            }
                        }
                        prop_assert_eq!(queue.running(), None);
                    }
                }
            }
            for Expected { key, submitted_before_run, submitted } in expected {
                let run = (submitted_before_run..runs.len()).find(|number| runs[*number].0 == key);
                let result = now(submitted.result());
                match run {
                    Some(number) if runs[number].1 => prop_assert_eq!(result, Some(Ok(number))),
                    Some(_) => prop_assert_eq!(result, Some(Err(Abandoned))),
                    None => prop_assert!(false, "a submission of {} was lost", key),
                }
            }
        }
    }
}
