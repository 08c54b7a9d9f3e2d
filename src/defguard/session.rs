//! A login that is kept and shared: one at a time, no second attempt after a refusal.
//!
//! Defguard locks an account for five minutes after five failed logins within a minute, counts refused one-time codes
//! too, and starts the five minutes anew with every attempt made while locked (`docs/facts/defguard.md` section 1). So a
//! refusal closes the [`Gate`] for a while, whatever the engine asks for meanwhile.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{COOKIE, HeaderValue, SET_COOKIE};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::sync::Mutex;
use totp_rs::{Algorithm, Builder, Secret, Totp};
use url::Url;

use super::explain::{Asked, Proof, refuse_old_version, unanswered};
use crate::{
    domain::{Failure, FailureClass, Peer},
    http::{Answer, Http, NOT_SENT},
    ports::Clock,
};

/// The shortest time that a refused login is not repeated: as long as Defguard's own lock-out lasts.
const SHORTEST_COOL_DOWN: Duration = Duration::from_secs(5 * 60);
/// In this time Defguard counts failures, and so we count logins whose outcome never reached us.
const WINDOW: TimeDelta = TimeDelta::seconds(60);
/// How many logins of unknown outcome there may be in the window: less than the five that lock.
const MOST_UNKNOWN: usize = 3;
/// The time for which one code holds.
const STEP: u64 = 30;
/// With less than this left of a step, the code could arrive after its end.
const MARGIN: Duration = Duration::from_secs(2);

const LOGIN: &str = "logging in";

/// The cookie of a session that was usable when it was made.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    /// The value of the `Cookie` header.
    pub(super) cookie: HeaderValue,
    /// Which login it comes from.
    pub(super) login: u64,
    /// Whether the login was made for the very request that asked.
    pub(super) fresh: bool,
}

/// Where logins go.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    /// Username and password.
    pub(super) login: Url,
    /// The one-time code.
    pub(super) totp: Url,
}

/// A login that is made when it is needed and then kept.
pub(super) struct Session {
    username: String,
    password: SecretString,
    totp: Option<Totp>,
    endpoints: Endpoints,
    cool_down: Duration,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cookie: Option<HeaderValue>,
    logins: u64,
    gate: Gate,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("second_factor", &self.totp.is_some()).finish_non_exhaustive()
    }
}

impl Session {
    /// Prepares a login; fails if the TOTP secret cannot be read.
    pub(super) fn new(
        username: String,
        password: SecretString,
        totp_secret: Option<&SecretString>,
        endpoints: Endpoints,
        cool_down: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Failure> {
        let totp = totp_secret.map(read_totp_secret).transpose()?;
        let cool_down = cool_down.max(SHORTEST_COOL_DOWN);
        Ok(Self { username, password, totp, endpoints, cool_down, clock, state: Mutex::default() })
    }

    /// The session; logs in if there is none. Requests that ask at the same time share one login.
    pub(super) async fn pass(&self, http: &Http) -> Result<Pass, Failure> {
        let mut state = self.state.lock().await;
        self.kept_or_new(&mut state, http).await
    }

    /// A session other than `stale`, which was refused: the one that another request has made meanwhile, or a new one.
    pub(super) async fn renew(&self, stale: &Pass, http: &Http) -> Result<Pass, Failure> {
        let mut state = self.state.lock().await;
        if state.logins == stale.login {
            state.cookie = None;
        }
        self.kept_or_new(&mut state, http).await
    }

    /// Takes note that a session was refused although it was new, so that logging in again would not help.
    pub(super) async fn useless(&self, pass: &Pass, failure: &Failure) {
        let mut state = self.state.lock().await;
        if state.logins == pass.login {
            state.cookie = None;
            state.gate.close(self.clock.now(), failure.clone());
        }
    }

    async fn kept_or_new(&self, state: &mut State, http: &Http) -> Result<Pass, Failure> {
        if let Some(cookie) = &state.cookie {
            return Ok(Pass { cookie: cookie.clone(), login: state.logins, fresh: false });
        }
        let now = self.clock.now();
        state.gate.check(now, self.cool_down)?;
        // Noted before the request, so that one whose answer never comes is counted.
        state.gate.unknown.push(now);
        match self.log_in(http).await {
            Ok(cookie) => {
                state.gate.unknown.pop();
                state.cookie = Some(cookie.clone());
                state.logins += 1;
                Ok(Pass { cookie, login: state.logins, fresh: true })
            }
            Err(failure) => {
                match failure.class {
                    FailureClass::Transient if !failure.why.starts_with(NOT_SENT) => {}
                    FailureClass::Unauthorised => {
                        state.gate.unknown.pop();
                        state.gate.close(self.clock.now(), failure.clone());
                    }
                    _ => {
                        state.gate.unknown.pop();
                    }
                }
                Err(failure)
            }
        }
    }

    async fn log_in(&self, http: &Http) -> Result<HeaderValue, Failure> {
        #[derive(Serialize)]
        struct Credentials<'a> {
            username: &'a str,
            password: &'a str,
        }
        let asked = Asked { what: LOGIN, proof: Proof::Login, username: None };
        let body = Credentials { username: &self.username, password: self.password.expose_secret() };
        let request = http.client().post(self.endpoints.login.clone()).json(&body);
        let answer = http.once(asked.what, request).await.map_err(unanswered)?;
        refuse_old_version(&asked, &answer)?;
        asked.expect_json(&answer)?;
        let cookie = session_cookie(&answer).ok_or_else(|| {
            asked
                .failure(
                    FailureClass::Malformed,
                    "the login was accepted, but no session cookie came with it",
                )
                .mend("Something between us and Defguard strips the Set-Cookie header.")
        })?;
        // 201 means: accepted so far, the second factor is still missing.
        if answer.status.as_u16() == 201 {
            self.verify_code(http, &cookie).await?;
        }
        tracing::debug!("logged in to Defguard");
        Ok(cookie)
    }

    async fn verify_code(&self, http: &Http, cookie: &HeaderValue) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Code {
            code: String,
        }
        let asked = Asked { what: "sending the one-time code", proof: Proof::Login, username: None };
        let Some(totp) = &self.totp else {
            return Err(asked
                .failure(
                    FailureClass::Unauthorised,
                    "status 201: the account has a second factor, and no TOTP secret is configured",
                )
                .mend(
                    "Set `defguard.totp_secret_file` to a file with the secret that Defguard showed when TOTP was set \
                     up for this account, or use an account without a second factor.",
                ));
        };
        let wait = wait_for_a_fresh_step(self.clock.now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let code = totp.generate(unix_seconds(self.clock.now())).to_string();
        let request = http
            .client()
            .post(self.endpoints.totp.clone())
            .header(COOKIE, cookie.clone())
            .json(&Code { code });
        let answer = http.once(asked.what, request).await.map_err(unanswered)?;
        refuse_old_version(&asked, &answer)?;
        asked.expect_json(&answer)
    }
}

/// Whether a login may be tried.
#[derive(Debug, Default)]
struct Gate {
    refused: Option<(DateTime<Utc>, Failure)>,
    unknown: Vec<DateTime<Utc>>,
}

impl Gate {
    fn close(&mut self, now: DateTime<Utc>, failure: Failure) {
        self.refused = Some((now, failure));
    }

    /// Decides from the time alone. A clock that was set back by more than the cool-down opens the gate, too.
    fn check(&mut self, now: DateTime<Utc>, cool_down: Duration) -> Result<(), Failure> {
        let cool_down = TimeDelta::from_std(cool_down).unwrap_or(TimeDelta::MAX);
        if let Some((at, failure)) = &self.refused {
            let left = cool_down - (now - *at).abs();
            if left > TimeDelta::zero() {
                let mut again = failure.clone();
                again.why = format!(
                    "not tried again for another {} s, since the last attempt was refused: {}",
                    left.num_seconds().max(1),
                    failure.why
                );
                return Err(again);
            }
            self.refused = None;
        }
        self.unknown.retain(|at| (now - *at).abs() < WINDOW);
        if self.unknown.len() >= MOST_UNKNOWN {
            let why = format!(
                "not tried again yet: the outcome of {} logins within a minute is unknown, and five failures lock the \
                 account",
                self.unknown.len()
            );
            return Err(Failure::new(Peer::Defguard, FailureClass::Transient, LOGIN, why)
                .mend("Look whether Defguard is running and reachable; it is tried again by itself."));
        }
        Ok(())
    }
}

/// How long to wait so that enough is left of the step for the code to arrive in it.
fn wait_for_a_fresh_step(now: DateTime<Utc>) -> Duration {
    let into = Duration::from_millis(u64::try_from(now.timestamp_millis()).unwrap_or(0) % (STEP * 1000));
    let left = Duration::from_secs(STEP) - into;
    if left < MARGIN { left } else { Duration::ZERO }
}

fn unix_seconds(now: DateTime<Utc>) -> u64 {
    u64::try_from(now.timestamp()).unwrap_or(0)
}

/// Reads the secret as Defguard shows it: base32, blanks and lower case allowed. SHA-1, 6 digits, 30 s, no tolerance
/// (`docs/facts/defguard.md` section 1).
fn read_totp_secret(secret: &SecretString) -> Result<Totp, Failure> {
    let plain: String = secret
        .expose_secret()
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '=')
        .map(|c| c.to_ascii_uppercase())
        .collect();
    Secret::try_from_base32(&plain)
        .ok()
        .and_then(|secret| {
            Builder::new()
                .with_algorithm(Algorithm::SHA1)
                .with_digits(6)
                .with_skew(0)
                .with_step_duration(STEP)
                .with_secret(secret)
                .build()
                .ok()
        })
        .ok_or_else(|| {
            Failure::new(
                Peer::Defguard,
                FailureClass::Permanent,
                "reading the TOTP secret",
                "it is not a base32 text of at least 128 bits",
            )
            .mend("Put the secret into the file as Defguard shows it when TOTP is set up: letters A-Z and digits 2-7.")
        })
}

/// The session cookie by hand: a cookie jar would drop it where our URL is not the one in Defguard's settings, since
/// `Domain` and `Secure` follow those (`docs/facts/defguard.md` section 1).
fn session_cookie(answer: &Answer) -> Option<HeaderValue> {
    answer.headers.get_all(SET_COOKIE).iter().filter_map(|header| header.to_str().ok()).find_map(|header| {
        let pair = header.split(';').next()?.trim();
        let value = pair.strip_prefix("defguard_session=")?;
        let mut cookie = (!value.is_empty()).then(|| HeaderValue::from_str(pair).ok())??;
        cookie.set_sensitive(true);
        Some(cookie)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000 + millis).unwrap()
    }

    #[test]
    fn a_code_is_sent_only_with_two_seconds_left_in_its_step() {
        // 1_800_000_000 is the beginning of a step.
        assert_eq!(wait_for_a_fresh_step(at(0)), Duration::ZERO);
        assert_eq!(wait_for_a_fresh_step(at(28_000)), Duration::ZERO);
        assert_eq!(wait_for_a_fresh_step(at(28_001)), Duration::from_millis(1_999));
        assert_eq!(wait_for_a_fresh_step(at(29_999)), Duration::from_millis(1));
    }

    proptest! {
        #[test]
        fn after_the_wait_two_seconds_are_always_left(millis in 0_i64..10_000_000) {
            let wait = wait_for_a_fresh_step(at(millis));
            let then = at(millis + i64::try_from(wait.as_millis()).unwrap());
            prop_assert_eq!(wait_for_a_fresh_step(then), Duration::ZERO);
            prop_assert!(wait < MARGIN);
        }
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        // Appendix B, SHA-1, the last six of the eight digits.
        let secret = SecretString::from("gezd gnbv gy3t qojq gezd gnbv gy3t qojq");
        let totp = read_totp_secret(&secret).unwrap();
        for (time, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert_eq!(totp.generate(time).to_string(), code);
        }
    }

    #[test]
    fn a_broken_totp_secret_is_refused_without_showing_it() {
        for bad in ["", "0189", "hello world!", "GEZDGNBV"] {
            let failure = read_totp_secret(&SecretString::from(bad)).unwrap_err();
            assert_eq!(failure.class, FailureClass::Permanent);
            assert!(bad.is_empty() || !failure.why.contains(bad));
        }
    }

    #[test]
    fn a_refusal_closes_the_gate_for_the_cool_down_and_no_longer() {
        let five = Duration::from_secs(300);
        let mut gate = Gate::default();
        gate.check(at(0), five).unwrap();
        gate.close(at(0), Failure::new(Peer::Defguard, FailureClass::Unauthorised, LOGIN, "refused"));
        for millis in [0, 1, 299_999, -1, -299_999] {
            let failure = gate.check(at(millis), five).unwrap_err();
            assert_eq!(failure.class, FailureClass::Unauthorised);
            assert!(failure.why.ends_with("refused"), "{}", failure.why);
        }
        gate.check(at(300_000), five).unwrap();
    }

    #[test]
    fn logins_of_unknown_outcome_are_limited_below_the_number_that_locks() {
        let five = Duration::from_secs(300);
        let mut gate = Gate::default();
        for attempt in 0..3 {
            gate.check(at(attempt), five).unwrap();
            gate.unknown.push(at(attempt));
        }
        assert_eq!(gate.check(at(59_999), five).unwrap_err().class, FailureClass::Transient);
        gate.check(at(60_001), five).unwrap();
    }
}
