//! How a daemon could be, for tests of what it shows.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use defguard_synapse_sync::{
    domain::{
        Applied, Away, Backoff, Change, Completeness, Conflict, DefguardId, Failure, FailureClass, Harm,
        Held, HeldStep, HoldReason, Leaving, Lifecycle, Link, MappedField, Mxid, OffBoarding,
        OurDeactivation, OurLock, Peer, RunId, RunRecord, ServerName, Standoff, Subject, Twins, Username,
    },
    engine::{PersonReport, RunReport},
    http::{Meter as _, TryResult},
    reconcile::{Pass, State},
    serve::{
        health::{Health, Use},
        metrics::{Metrics, WebhookResult},
        overview::{Memory, Overview, Watched},
    },
};

pub fn now() -> DateTime<Utc> {
    "2026-11-02T12:00:00Z".parse().unwrap()
}

pub fn ago(minutes: i64) -> DateTime<Utc> {
    now() - TimeDelta::minutes(minutes)
}

pub fn mxid(localpart: &str) -> Mxid {
    let server = ServerName::try_from("example.org").unwrap();
    Mxid::parse(&format!("@{localpart}:example.org"), &server).unwrap()
}

/// Just started: nothing is known.
pub fn young() -> Overview {
    Overview {
        now: now(),
        started: ago(0),
        working: true,
        next: Some((now() + TimeDelta::minutes(5), Pass::Frequent)),
        running_since: None,
        waiting: 0,
        success_due: Some(now() + TimeDelta::minutes(10)),
        health: Health::default(),
        off_boarding: OffBoarding { deactivate_after: Some(TimeDelta::days(30)), ..OffBoarding::default() },
        memory: Ok(Memory::default()),
        store_bytes: Some(512),
    }
}

/// 335 people, and nothing to do.
pub fn calm() -> Overview {
    let runs = (0..48).map(|n| run(48 - n, i64::try_from(n).unwrap() * 5 + 2)).collect();
    let people = BTreeMap::from([("in_step".to_owned(), 333), ("disabled".to_owned(), 2)]);
    Overview {
        started: ago(60 * 24 * 3),
        health: Health {
            defguard: Use::Usable,
            synapse: Use::Usable,
            store: Use::Usable,
            last_success: Some(ago(2)),
            people: Some(people),
            admin_leavers: BTreeMap::new(),
        },
        memory: Ok(Memory { links: (1..=333).map(link).collect(), runs, ..Memory::default() }),
        store_bytes: Some(3 << 20),
        ..young()
    }
}

/// The same with everything that can go wrong.
pub fn troubled() -> Overview {
    let mut overview = calm();
    let memory = overview.memory.as_mut().unwrap();
    let conflicts = [
        Conflict::LocalpartTaken { mxid: mxid("alice"), owner: None, not_adopted: None },
        Conflict::LocalpartTwins {
            mxid: mxid("bob"),
            people: Twins { named: vec![DefguardId(402), DefguardId(407)], count: 2 },
        },
        Conflict::UsernameReused { mxid: mxid("carol"), owner: DefguardId(17) },
        Conflict::Unmappable {
            field: MappedField::Localpart,
            why: "the template failed: `dörte.müller` has no @".to_owned(),
        },
        Conflict::EmailTaken { mxid: mxid("emil"), owner: Some(DefguardId(12)) },
    ];
    memory.conflicts = (401..)
        .zip(conflicts)
        .map(|(id, conflict)| {
            let standoff = Standoff {
                username: Username::new(format!("conflicting-{id}")),
                conflicts: vec![conflict],
                fingerprint: String::new(),
                since: ago(60 * 30),
            };
            (DefguardId(id), standoff)
        })
        .collect();
    let failing = Failure::new(
        Peer::Synapse,
        FailureClass::Transient,
        "writing the account @person-3:example.org",
        "status 500, M_UNKNOWN: Internal server error",
    )
    .mend("look into Synapse's log at this time");
    memory.failing = BTreeMap::from([(
        DefguardId(3),
        Backoff { failures: 7, until: now() + TimeDelta::minutes(40), since: ago(60 * 26), last: failing },
    )]);
    memory.unfinished = 1;
    let mut life = |id, lifecycle| memory.links.get_mut(&DefguardId(id)).unwrap().lifecycle = lifecycle;
    let away = |why, minutes| Away { why, since: ago(minutes), runs: 1, last_seen: Some(ago(minutes + 5)) };
    let locked = |why, days: i64| OurLock { why, at: ago(days * 24 * 60), sessions_due: false };
    life(20, Lifecycle { away: Some(away(Leaving::Gone, 8)), ..Lifecycle::default() });
    life(21, Lifecycle { away: Some(away(Leaving::OutOfScope, 45)), ..Lifecycle::default() });
    life(22, Lifecycle { locked: Some(locked(Leaving::Gone, 12)), ..Lifecycle::default() });
    life(23, Lifecycle { locked: Some(locked(Leaving::Disabled, 3)), ..Lifecycle::default() });
    let deactivated = OurDeactivation { at: ago(60), threepids: BTreeSet::new(), restoring: false };
    life(
        24,
        Lifecycle {
            locked: Some(locked(Leaving::Gone, 31)),
            deactivated: Some(deactivated),
            ..Lifecycle::default()
        },
    );
    memory.hold = Some(held());
    overview.health.admin_leavers = BTreeMap::from([(DefguardId(9), Leaving::Disabled)]);
    overview.health.defguard = Use::Unusable { since: ago(17), failure: rejected() };
    overview.health.last_success = Some(ago(22));
    overview.success_due = Some(ago(12));
    overview.waiting = 2;
    overview.running_since = Some(now() - TimeDelta::seconds(4));
    overview
}

pub fn rejected() -> Failure {
    Failure::new(
        Peer::Defguard,
        FailureClass::Unauthorised,
        "logging in",
        "status 401: the username or the password is wrong",
    )
    .mend("Check `defguard.username` and the password file.")
}

/// 31 people who would be locked, and three who would lose an address.
pub fn held() -> Held {
    let step = |id: i64, harm| HeldStep {
        id: DefguardId(id),
        mxid: mxid(&format!("person-{id}")),
        harm,
        target: String::new(),
    };
    let locks = (100..=130).map(|id| step(id, Harm::LockGone));
    let steps: BTreeSet<HeldStep> = locks.chain((200..203).map(|id| step(id, Harm::Email))).collect();
    let reason = HoldReason {
        why: "31 of 335 people are missing from the list, more than 10 %".to_owned(),
        mend: "see whether Defguard lost people; if they are really gone, approve with `approve`".to_owned(),
    };
    Held { digest: Some(Held::digest_of(&steps)), since: ago(50), reasons: vec![reason], steps }
}

/// Text that would be a program in a page that does not escape it.
pub fn hostile() -> Overview {
    let mut overview = troubled();
    let script = "</style><script>alert(1)</script><img src=x onerror=alert(2)> \"'&";
    let memory = overview.memory.as_mut().unwrap();
    for standoff in memory.conflicts.values_mut() {
        standoff.username = Username::new(script);
        standoff.conflicts = vec![Conflict::Unmappable { field: MappedField::Email, why: script.to_owned() }];
    }
    for backoff in memory.failing.values_mut() {
        let failure = &mut backoff.last;
        (failure.what, failure.why, failure.mend) = (script.into(), script.into(), Some(script.into()));
    }
    for run in &mut memory.runs {
        run.summary = script.to_owned();
    }
    let held = memory.hold.as_mut().unwrap();
    held.reasons = vec![HoldReason { why: script.to_owned(), mend: script.to_owned() }];
    held.digest = Some(script.to_owned());
    for link in memory.links.values_mut() {
        link.username = Username::new(script);
    }
    overview
}

fn link(id: i64) -> (DefguardId, Link) {
    let name = format!("person-{id}");
    let link = Link {
        id: DefguardId(id),
        username: Username::new(name.clone()),
        subject: Some(Subject::new(name.clone())),
        mxid: mxid(&name),
        applied: Applied::default(),
        lifecycle: Lifecycle::default(),
        former: BTreeSet::new(),
    };
    (DefguardId(id), link)
}

/// Runs of all kinds, the first one with many changes.
fn run(id: u64, minutes_ago: i64) -> RunRecord {
    let began = ago(minutes_ago);
    let (changed, failed, exit_code, millis) = match id {
        1 => (333, 0, 0, 41_000),
        7 => (4, 1, 3, 3_100),
        20..=22 => (0, 0, 5, 10_000),
        _ if id.is_multiple_of(9) => {
            (id % 5, u64::from(id.is_multiple_of(2)), if id.is_multiple_of(2) { 3 } else { 0 }, 2_400)
        }
        _ => (0, 0, 0, 380),
    };
    let summary = match exit_code {
        5 => "Defguard: reading the list of people: no answer in time".to_owned(),
        _ => format!("335 people, {changed} changed, 0 in conflict, {failed} failed"),
    };
    RunRecord {
        id: RunId(id),
        began,
        ended: began + TimeDelta::milliseconds(millis),
        full: id.is_multiple_of(12),
        exit_code,
        summary,
        people: BTreeMap::new(),
        changes: BTreeMap::from([("created".to_owned(), changed)]),
        failed,
    }
}

/// A daemon that is as it is told.
pub struct Fixed(pub Overview);

impl Watched for Fixed {
    fn working(&self) -> bool {
        self.0.working
    }

    fn look(&self) -> Overview {
        self.0.clone()
    }
}

pub fn fixed(overview: Overview) -> Arc<dyn Watched> {
    Arc::new(Fixed(overview))
}

/// Counts something in every family.
pub fn counted(metrics: &Metrics) {
    for (peer, endpoint) in [(Peer::Defguard, "user_list"), (Peer::Synapse, "user_write")] {
        let status = TryResult::Status(http::StatusCode::OK);
        metrics.request(peer, endpoint, status, Duration::from_millis(12));
        metrics.request(peer, endpoint, TryResult::TimedOut, Duration::from_secs(60));
        metrics.retry(peer, FailureClass::Transient);
    }
    let person = PersonReport {
        id: DefguardId(1),
        username: Username::new("person-1"),
        state: State::Create,
        mxid: Some(mxid("person-1")),
        conflicts: Vec::new(),
        notes: Vec::new(),
        steps: Vec::new(),
        done: vec![Change::Created],
        failure: None,
        put_off: None,
    };
    let failed = PersonReport { done: Vec::new(), failure: Some(rejected()), ..person.clone() };
    metrics.run(&RunReport {
        run: Some(RunId(1)),
        pass: Pass::Frequent,
        began: ago(1),
        ended: now(),
        dry_run: false,
        completeness: Some(Completeness::Complete),
        people: vec![person, failed],
        unknown: Vec::new(),
        held: None,
        failure: None,
        interrupted: false,
    });
    metrics.webhook(WebhookResult::accepted);
}
