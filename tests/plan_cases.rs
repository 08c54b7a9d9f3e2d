//! Decides the cases of `tests/plan_cases`, each a file named as a sentence, and compares with what was found right.
//! After a change of the decision: `INSTA_UPDATE=always cargo test --test plan_cases`, then read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use defguard_synapse_sync::{
    domain::{
        Account, Applied, Away, DefguardId, Email, ExternalId, Failure, FailureClass, FieldPolicy, Instance,
        Intent, Leaving, Lifecycle, Link, Lookup, MappedField, MappingError, Move, Mxid, OffBoarding,
        OnConflict, OnLeave, OurDeactivation, OurLock, Peer, Person, Session, SessionsOnLock, Standoff,
        Subject, ThreePid, Username,
    },
    reconcile::{Answers, Decision, Pass, Plan, Question, Rules, Rung, Scene, Scope, Step, decide},
};
use globset::{Glob, GlobSet};
use serde::Deserialize;
use support::world::{self, PROVIDER, mxid, server};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Case {
    /// What the case shows, if the name does not say enough.
    about: String,
    pass: Pass,
    complete: bool,
    on_conflict: OnConflict,
    display_name: FieldPolicy,
    email: FieldPolicy,
    /// Every person's subject is their username in lower case, so that there can be twins.
    subject_lower_case: bool,
    scope: RawScope,
    leave: RawLeave,
    people: Vec<RawPerson>,
    /// People whom Defguard knows and the list passes over.
    passed_over: Vec<RawPerson>,
    /// Usernames whose look-up fails.
    unclear: BTreeSet<String>,
    links: Vec<RawLink>,
    accounts: Vec<RawAccount>,
    intents: Vec<RawIntent>,
    postponed: BTreeSet<i64>,
    /// External ids that Synapse answers from its stale cache, with the localpart.
    stale: BTreeMap<String, String>,
    /// External ids of which it cannot be found out who carries them.
    unknown: BTreeSet<String>,
    /// Decide once more, by what the list shows only, with the conflicts remembered.
    again: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            about: String::new(),
            pass: Pass::Frequent,
            complete: true,
            on_conflict: OnConflict::Report,
            display_name: FieldPolicy::OnChange,
            email: FieldPolicy::Enforce,
            subject_lower_case: false,
            scope: RawScope::default(),
            leave: RawLeave::default(),
            people: Vec::new(),
            passed_over: Vec::new(),
            unclear: BTreeSet::new(),
            links: Vec::new(),
            accounts: Vec::new(),
            intents: Vec::new(),
            postponed: BTreeSet::new(),
            stale: BTreeMap::new(),
            unknown: BTreeSet::new(),
            again: false,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawScope {
    include_groups: BTreeSet<String>,
    exclude_groups: BTreeSet<String>,
    exclude_users: BTreeSet<String>,
    require_enrolled: bool,
    own_username: Option<String>,
}

/// How far to go with those who leave; what is not said is the default.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawLeave {
    disabled: OnLeave,
    gone: OnLeave,
    out_of_scope: OnLeave,
    deactivate_after_days: Option<i64>,
    sessions: Option<SessionsOnLock>,
    admins: bool,
    protect: BTreeSet<String>,
}

impl Case {
    fn off_boarding(&self) -> OffBoarding {
        let leave = &self.leave;
        OffBoarding {
            disabled: leave.disabled,
            gone: leave.gone,
            out_of_scope: leave.out_of_scope,
            deactivate_after: leave.deactivate_after_days.map(TimeDelta::days),
            sessions_on_lock: leave.sessions,
            off_board_admins: leave.admins,
            protect: GlobSet::new(leave.protect.iter().map(|text| Glob::new(text).unwrap())).unwrap(),
            ..OffBoarding::default()
        }
    }
}

/// The time at which cases are decided.
fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 2, 12, 0, 0).unwrap()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPerson {
    id: i64,
    username: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    groups: BTreeSet<String>,
    #[serde(default = "yes")]
    active: bool,
    #[serde(default = "yes")]
    enrolled: bool,
    /// The templates that fail for them.
    #[serde(default)]
    fails: BTreeSet<MappedField>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    id: i64,
    account: String,
    subject: Option<String>,
    name: Option<String>,
    email: Option<String>,
    /// The fields without a baseline.
    #[serde(default)]
    unseen: BTreeSet<MappedField>,
    /// The username when last seen, if it is not the subject.
    username: Option<String>,
    /// Why they are away, for how many minutes, in how many runs.
    away: Option<(Leaving, i64, u32)>,
    /// Why and how many days ago we locked it.
    locked: Option<(Leaving, i64)>,
    /// How many days ago we deactivated it.
    deactivated: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccount {
    localpart: String,
    name: Option<String>,
    #[serde(default)]
    emails: Vec<String>,
    /// `login:ann`, `marker:1`, `branch:1` (the marker of another instance), `other:x`
    #[serde(default)]
    ids: Vec<String>,
    #[serde(default)]
    is: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIntent {
    group: i64,
    #[serde(default)]
    creates: BTreeMap<String, String>,
    /// External ids with the account that they leave.
    #[serde(default)]
    moves: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

fn external_id(text: &str) -> ExternalId {
    let (kind, id) = text.split_once(':').expect("kind:id");
    match kind {
        "login" => world::login_id(id),
        "marker" => world::marker(id.parse().unwrap()),
        "branch" => ExternalId::marker(&Instance::new("branch"), DefguardId(id.parse().unwrap())),
        "other" => ExternalId { auth_provider: "oidc-other".to_owned(), external_id: id.to_owned() },
        _ => panic!("unknown kind of external id: {kind}"),
    }
}

fn short(id: &ExternalId) -> String {
    if let Some(person) = id.marked_person(&world::instance()) {
        format!("marker:{person}")
    } else if id.auth_provider == PROVIDER {
        format!("login:{}", id.external_id)
    } else {
        id.to_string()
    }
}

fn email(text: &str) -> Email {
    Email::canonical(text).unwrap()
}

impl RawPerson {
    fn person(&self) -> Person {
        let mut person = world::person(self.id, &self.username);
        if let Some(name) = &self.name {
            person.name.clone_from(name);
        }
        person.email = self.email.clone().unwrap_or_default();
        person.groups.clone_from(&self.groups);
        person.is_active = self.active;
        person.enrolled = self.enrolled;
        person
    }
}

impl RawLink {
    fn link(&self) -> Link {
        Link {
            id: DefguardId(self.id),
            username: Username::new(
                self.username.clone().or_else(|| self.subject.clone()).unwrap_or_default(),
            ),
            subject: self.subject.as_ref().map(Subject::new),
            mxid: mxid(&self.account),
            applied: Applied {
                display_name: self.name.clone(),
                email: self.email.as_deref().map(email),
                unseen: self.unseen.clone(),
            },
            lifecycle: Lifecycle {
                away: self.away.map(|(why, minutes, runs)| Away {
                    why,
                    since: now() - TimeDelta::minutes(minutes),
                    runs,
                    last_seen: Some(now() - TimeDelta::minutes(minutes + 5)),
                }),
                locked: self.locked.map(|(why, days)| OurLock {
                    why,
                    at: now() - TimeDelta::days(days),
                    sessions_due: false,
                }),
                deactivated: self.deactivated.map(|days| OurDeactivation {
                    at: now() - TimeDelta::days(days),
                    threepids: self.email.iter().map(|text| ThreePid::email(&email(text))).collect(),
                    restoring: false,
                }),
            },
            former: BTreeSet::new(),
        }
    }
}

impl RawAccount {
    fn account(&self) -> Account {
        let mut account =
            world::account(&self.localpart, Utc.with_ymd_and_hms(2026, 11, 1, 8, 0, 0).unwrap());
        if let Some(name) = &self.name {
            account.summary.display_name = Some(name.clone());
        }
        account.threepids = self.emails.iter().map(|text| ThreePid::email(&email(text))).collect();
        account.external_ids = self.ids.iter().map(|text| external_id(text)).collect();
        for word in &self.is {
            match word.as_str() {
                "admin" => account.summary.admin = true,
                "bot" => account.summary.user_type = Some("bot".to_owned()),
                "guest" => account.summary.guest = true,
                "locked" => account.summary.locked = true,
                "deactivated" => account.summary.deactivated = true,
                "bridge" => account.appservice = Some("bridge".to_owned()),
                _ => panic!("unknown word: {word}"),
            }
        }
        account
    }
}

impl RawScope {
    fn scope(&self) -> Scope {
        let patterns = |patterns: &BTreeSet<String>| {
            GlobSet::new(patterns.iter().map(|text| Glob::new(text).unwrap())).unwrap()
        };
        Scope {
            include_groups: (!self.include_groups.is_empty()).then(|| patterns(&self.include_groups)),
            exclude_groups: patterns(&self.exclude_groups),
            exclude_users: patterns(&self.exclude_users),
            require_enrolled: self.require_enrolled,
            own_username: self.own_username.clone().map(Username::new),
        }
    }
}

/// Decides, answering from the accounts of the case. Gives the plan and what was asked.
fn decided(
    case: &Case,
    pass: Pass,
    standoffs: &BTreeMap<DefguardId, Standoff>,
) -> (Plan, BTreeSet<Question>) {
    let people: BTreeMap<DefguardId, Person> =
        case.people.iter().map(|raw| (DefguardId(raw.id), raw.person())).collect();
    let mapped = people
        .iter()
        .map(|(id, person)| {
            let mut mapped = world::map(person, &server());
            if case.subject_lower_case {
                mapped.subject = Ok(Subject::new(person.username.as_str().to_lowercase()));
            }
            let raw = case.people.iter().find(|raw| raw.id == id.0).unwrap();
            for field in &raw.fails {
                let error = MappingError::Template("it fails".to_owned());
                match field {
                    MappedField::Subject => mapped.subject = Err(error),
                    MappedField::Localpart => mapped.localpart = Err(error),
                    MappedField::DisplayName => mapped.display_name = Err(error),
                    MappedField::Email => mapped.email = Err(error),
                }
            }
            (*id, mapped)
        })
        .collect();
    let links = case.links.iter().map(|raw| (DefguardId(raw.id), raw.link())).collect();
    let accounts: BTreeMap<Mxid, Account> =
        case.accounts.iter().map(|raw| (mxid(&raw.localpart), raw.account())).collect();
    let summaries = accounts.iter().map(|(mxid, account)| (mxid.clone(), account.summary.clone())).collect();
    let intents: Vec<Intent> = case.intents.iter().map(RawIntent::intent).collect();
    let postponed = case.postponed.iter().copied().map(DefguardId).collect();
    let rules = Rules {
        server: server(),
        own: mxid("sync"),
        auth_provider: PROVIDER.to_owned(),
        instance: world::instance(),
        on_conflict: case.on_conflict,
        display_name: case.display_name,
        email: case.email,
        scope: case.scope.scope(),
        off_boarding: case.off_boarding(),
    };
    let mut answers = Answers::default();
    let mut asked = BTreeSet::new();
    for _ in 0..12 {
        let decision = decide(&Scene {
            people: &people,
            complete: case.complete,
            mapped: &mapped,
            links: &links,
            accounts: &summaries,
            answers: &answers,
            intents: &intents,
            standoffs,
            postponed: &postponed,
            afresh: &BTreeSet::new(),
            pass,
            rules: &rules,
            held: &BTreeMap::new(),
            now: now(),
            last_look: Some(now() - TimeDelta::minutes(5)),
            migration: None,
        });
        match decision {
            Decision::Plan(plan) => return (plan, asked),
            Decision::Ask(questions) => {
                for question in questions {
                    assert!(asked.insert(question.clone()), "asked twice: {question:?}");
                    answer(case, &accounts, &mut answers, question);
                }
            }
        }
    }
    panic!("it never stops asking");
}

fn answer(case: &Case, accounts: &BTreeMap<Mxid, Account>, answers: &mut Answers, question: Question) {
    fn found<T>(thing: Option<T>) -> Lookup<T> {
        thing.map_or(Lookup::Absent, Lookup::Found)
    }
    let with = |has: &dyn Fn(&Account) -> bool| {
        found(accounts.values().find(|account| has(account)).map(|account| account.summary.mxid.clone()))
    };
    match question {
        Question::Account(mxid) => {
            let account = found(accounts.get(&mxid).cloned());
            answers.accounts.insert(mxid, account);
        }
        Question::ExternalId(id) => {
            let answer = if case.unknown.iter().any(|text| external_id(text) == id) {
                Lookup::Unknown(Failure::new(
                    Peer::Synapse,
                    FailureClass::Transient,
                    "looking up an external id",
                    "no answer",
                ))
            } else if let Some((_, localpart)) = case.stale.iter().find(|(text, _)| external_id(text) == id) {
                Lookup::Found(mxid(localpart))
            } else {
                with(&|account| account.external_ids.contains(&id))
            };
            answers.external_ids.insert(id, answer);
        }
        Question::Email(email) => {
            let answer = with(&|account| account.has_email(&email));
            answers.emails.insert(email, answer);
        }
        Question::Sessions(mxid) => {
            let session = |device: &str, minutes| Session {
                device: device.to_owned(),
                last_used: Some(now() - TimeDelta::minutes(minutes)),
            };
            let sessions = BTreeSet::from([session("OLD", 10_000), session("NEW", 1)]);
            answers.sessions.insert(mxid, Lookup::Found(sessions));
        }
        Question::Person(username) => {
            let mut known = case.people.iter().chain(&case.passed_over);
            let answer = if case.unclear.contains(username.as_str()) {
                let why = "no answer";
                Lookup::Unknown(Failure::new(Peer::Defguard, FailureClass::Transient, "looking up", why))
            } else {
                found(known.find(|raw| raw.username == username.as_str()).map(RawPerson::person))
            };
            answers.people.insert(username, answer);
        }
        Question::GroupMembers => {
            let members = case.people.iter().chain(&case.passed_over).filter(|raw| !raw.groups.is_empty());
            let members = members.map(|raw| Username::new(&raw.username)).collect();
            answers.group_members = Some(Lookup::Found(members));
        }
    }
}

impl RawIntent {
    fn intent(&self) -> Intent {
        Intent {
            group: DefguardId(self.group),
            begun: Utc.with_ymd_and_hms(2026, 11, 1, 8, 0, 0).unwrap(),
            creates: self
                .creates
                .iter()
                .map(|(id, to)| (DefguardId(id.parse().unwrap()), mxid(to)))
                .collect(),
            moves: self
                .moves
                .iter()
                .map(|(id, from)| Move { id: external_id(id), from: mxid(from) })
                .collect(),
            pending: Vec::new(),
        }
    }
}

/// The plan in words that are easy to compare.
fn told(plan: &Plan, asked: &BTreeSet<Question>) -> String {
    let mut text = String::new();
    for question in asked {
        let _ = match question {
            Question::Account(mxid) => writeln!(text, "asked: account {mxid}"),
            Question::ExternalId(id) => writeln!(text, "asked: who has {}", short(id)),
            Question::Email(email) => writeln!(text, "asked: who has {email}"),
            Question::Sessions(mxid) => writeln!(text, "asked: sessions of {mxid}"),
            Question::Person(username) => writeln!(text, "asked: person {username}"),
            Question::GroupMembers => writeln!(text, "asked: all members of groups"),
        };
    }
    for (id, person) in &plan.people {
        let mxid = person.mxid.as_ref().map(|mxid| format!(" {mxid}")).unwrap_or_default();
        let _ = writeln!(text, "#{id} {}{mxid}", person.state.as_str());
        for conflict in &person.conflicts {
            let _ = writeln!(text, "    conflict {}: {conflict}", conflict.kind());
        }
        for note in &person.notes {
            let _ = writeln!(text, "    note: {note}");
        }
        if let Some(failure) = &person.failure {
            let _ = writeln!(text, "    failure: {failure}");
        }
    }
    for group in &plan.groups {
        let people = group.people.iter().map(|id| format!("#{id}")).collect::<Vec<_>>().join(" ");
        let confirm = if group.confirm { ", read again right before" } else { "" };
        let _ = writeln!(text, "group of {people}{confirm}");
        for step in &group.steps {
            let _ = writeln!(text, "    {}", step_told(step));
        }
        for (id, link) in group.links.iter().filter_map(|(id, link)| Some((id, link.as_ref()?))) {
            let _ = writeln!(
                text,
                "    link #{id} {} subject {} name {} e-mail {}",
                link.mxid,
                link.subject.as_ref().map_or("-", Subject::as_str),
                link.applied.display_name.as_deref().unwrap_or("-"),
                link.applied.email.as_ref().map_or("-", Email::as_str),
            );
            let life = &link.lifecycle;
            if let Some(away) = &life.away {
                let _ = writeln!(
                    text,
                    "        away {} in {} runs since {}",
                    away.why.as_str(),
                    away.runs,
                    away.since
                );
            }
            if let Some(locked) = &life.locked {
                let _ = writeln!(text, "        our lock {} of {}", locked.why.as_str(), locked.at);
            }
            if let Some(deactivated) = &life.deactivated {
                let _ = writeln!(text, "        our deactivation of {}", deactivated.at);
            }
            for field in &link.applied.unseen {
                let _ = writeln!(text, "        without a baseline for {}", field.template_key());
            }
        }
        for (id, made) in &group.made {
            let _ = writeln!(text, "    journal #{id} {}", made.kind());
        }
        for (id, told) in &group.told {
            let _ = writeln!(text, "    journal #{id} {}", told.kind());
        }
        for moved in &group.moves {
            let _ = writeln!(text, "    in mind: {} on {}", short(&moved.id), moved.from);
        }
    }
    for (intent, groups) in &plan.intents {
        let groups = groups.iter().map(|id| format!(" #{id}")).collect::<String>();
        let _ = writeln!(text, "the intent of #{intent} is settled by:{groups}");
    }
    text
}

fn step_told(step: &Step) -> String {
    match step {
        Step::Create { id, mxid, display_name, email, external_ids } => {
            let ids = external_ids.iter().map(|id| format!(" +{}", short(id))).collect::<String>();
            let name = display_name.as_deref().unwrap_or("-");
            let email = email.as_ref().map_or("-", Email::as_str);
            format!("#{id} create {mxid}{ids} name {name} e-mail {email}")
        }
        Step::Hold { id, mxid, change } => {
            let mut text = format!("#{id} change {mxid}");
            for (sign, ids) in
                [(" +", &change.add_ids), (" -", &change.drop_ids), (" wash off ", &change.wash_ids)]
            {
                for id in ids {
                    let _ = write!(text, "{sign}{}", short(id));
                }
            }
            for (sign, emails) in [("+", &change.add_emails), ("-", &change.drop_emails)] {
                for email in emails {
                    let _ = write!(text, " {sign}{email}");
                }
            }
            text
        }
        Step::Name { id, mxid, display_name } => format!("#{id} name {mxid} {display_name}"),
        Step::Ladder { id, mxid, rung } => match rung {
            Rung::Lock { why, .. } => format!("#{id} lock {mxid} {}", why.as_str()),
            Rung::EndSessions(_) => format!("#{id} end sessions of {mxid}"),
            Rung::Deactivate(why) => format!("#{id} deactivate {mxid} {}", why.as_str()),
            Rung::Reactivate { threepids } => {
                let emails: Vec<&str> = threepids.iter().map(|threepid| threepid.address.as_str()).collect();
                format!("#{id} reactivate {mxid} with {}", emails.join(" "))
            }
            Rung::Unlock(_) => format!("#{id} unlock {mxid}"),
        },
    }
}

#[test]
fn every_case_is_decided_as_was_found_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan_cases");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 25, "the cases are there");
    for name in names {
        let text = std::fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
        let case: Case = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (plan, asked) = decided(&case, case.pass, &BTreeMap::new());
        let mut text = told(&plan, &asked);
        if case.again {
            let standoffs = plan
                .people
                .iter()
                .filter(|(_, person)| !person.conflicts.is_empty())
                .map(|(id, person)| {
                    let standoff = Standoff {
                        username: Username::new("any"),
                        conflicts: person.conflicts.clone(),
                        fingerprint: person.fingerprint.clone(),
                        since: Utc.with_ymd_and_hms(2026, 11, 1, 8, 0, 0).unwrap(),
                    };
                    (*id, standoff)
                })
                .collect();
            let (plan, asked) = decided(&case, Pass::Frequent, &standoffs);
            let _ = write!(text, "\nagain, with the conflicts remembered\n{}", told(&plan, &asked));
        }
        insta::with_settings!({
            prepend_module_to_snapshot => false,
            omit_expression => true,
            description => case.about.clone(),
        }, {
            insta::assert_snapshot!(name.clone(), text);
        });
    }
}
