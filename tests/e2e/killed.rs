//! The program killed (SIGKILL) at every point between two writes, and at random ones.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    faults::{begin, change, end, several},
    ground::{Ground, accounts_of},
    support::proxy::{Match, Seen, any},
};

/// Where to kill: at which request since the story began, of the writes only or of all, before it gets to Synapse or
/// after Synapse has done it and before the program knows.
#[derive(Debug, Clone, Copy)]
struct Point {
    nth: usize,
    writes: bool,
    after: bool,
}

impl Point {
    fn requests(self) -> Match {
        let all = any().target("/_synapse/");
        let requests = if self.writes { all.target("/v2/users/").body("{") } else { all };
        requests.nth(self.nth)
    }
}

/// How the story is told: by which verb, how accounts are created, how many people at once.
#[derive(Debug, Clone, Copy)]
struct How {
    verb: &'static str,
    create: &'static str,
    concurrency: usize,
}

const ONE_BY_ONE: How = How { verb: "sync", create: "one-request", concurrency: 1 };

async fn story(name: &str, how: How) -> Ground {
    Ground::new(name)
        .await
        .with("synapse.create", &format!("{:?}", how.create))
        .with("synapse.concurrency", &how.concurrency.to_string())
        .with("schedule.catch_up", "true")
}

/// One story that is killed at each of the points in turn, as far as it comes there, and finished by a normal run.
async fn killed(name: String, how: How, points: Vec<Point>) {
    let ground = story(&name, how).await;
    let ids = begin(&ground).await;
    let (before, lines) = (accounts_of(&ground).await, ground.journal().len());
    change(&ground, &ids);
    for (turn, point) in points.iter().enumerate() {
        let requests = point.requests();
        let proxy = &ground.proxy;
        let mut held = if point.after { proxy.hold_after(requests) } else { proxy.hold_before(requests) };
        let process = ground.start(&[how.verb]);
        let mut is_there = true;
        tokio::select! {
            () = held.reached() => {}
            () = process.gone() => is_there = false,
        }
        assert!(is_there || turn > 0, "{name} never came to {point:?}: {:?}", process.ended().await);
        if is_there {
            assert_eq!(process.kill().await.signal, Some(9));
            // What is held before Synapse never gets there once its sender is gone.
            proxy.wait_until(|seen| seen.iter().all(|seen| seen.status.is_some() || seen.given_up)).await;
        }
        drop(held);
        proxy.remove_all();
        proxy.clear();
    }
    ground.sync_failed_too().await;
    end(&ground, &ids, &before, lines).await;
}

/// The requests of the story when nobody is killed.
async fn undisturbed(name: &str, how: How) -> Vec<Seen> {
    let ground = story(name, how).await;
    let ids = begin(&ground).await;
    let (before, lines) = (accounts_of(&ground).await, ground.journal().len());
    change(&ground, &ids);
    ground.program(&["sync"]).await.with_code(0);
    let seen = ground.proxy.requests();
    end(&ground, &ids, &before, lines).await;
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_and_after_every_write_the_next_run_ends_right_and_nothing_is_done_twice() {
    let writes = undisturbed("killplain", ONE_BY_ONE).await.iter().filter(|seen| seen.is_write()).count();
    // Two for the rename, three for the swap, two for name and address, one for the new account.
    assert_eq!(writes, 8);
    let points = (1..=writes).flat_map(|nth| [false, true].map(|after| Point { nth, writes: true, after }));
    let mut stories: Vec<_> = points
        .map(|point| {
            let name = format!("kill{}{}", point.nth, if point.after { "after" } else { "before" });
            boxed(killed(name, ONE_BY_ONE, vec![point]))
        })
        .collect();
    // An account that is made by an empty request first has one point more.
    let how = How { create: "empty-first", ..ONE_BY_ONE };
    for (name, nth, after) in [("killempty1", 8, true), ("killempty2", 9, false), ("killempty3", 9, true)] {
        stories.push(boxed(killed(name.to_owned(), how, vec![Point { nth, writes: true, after }])));
    }
    several(stories).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_killed_in_the_middle_of_a_swap_goes_on_when_it_is_started_again() {
    let how = How { verb: "run", ..ONE_BY_ONE };
    let point = |nth, after| Point { nth, writes: true, after };
    several(vec![
        boxed(killed("daemonkill1".to_owned(), how, vec![point(3, true)])),
        boxed(killed("daemonkill2".to_owned(), how, vec![point(4, false), point(1, false)])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_points_and_again_while_it_recovers_the_next_run_ends_right() {
    let requests = undisturbed("killcount", ONE_BY_ONE).await.len();
    let mut random = StdRng::seed_from_u64(20_261_123);
    let stories = (0..10)
        .map(|story| {
            let mut point =
                |most| Point { nth: random.random_range(1..=most), writes: false, after: random.random() };
            let points = vec![point(requests - 2), point(requests / 2), point(requests / 2)];
            let create = if random.random() { "one-request" } else { "empty-first" };
            let how = How { create, concurrency: if random.random() { 1 } else { 4 }, ..ONE_BY_ONE };
            boxed(killed(format!("random{story}"), how, points))
        })
        .collect();
    several(stories).await;
}

fn boxed<'a>(story: impl Future<Output = ()> + 'a) -> std::pin::Pin<Box<dyn Future<Output = ()> + 'a>> {
    Box::pin(story)
}
