//! What an answer that is no success means, and what a person can do about it. Pure: from answer to [`Failure`].
//!
//! Nothing of an answer is trusted to be JSON because of its status: Defguard sends JSON, plain text, a web page or
//! nothing (`docs/facts/defguard.md` sections 1, 2 and 9), and what stands before it sends what it likes.

use reqwest::StatusCode;
use url::Url;

use super::wire::{self, ShapeError};
use crate::{
    domain::{Failure, FailureClass, Peer},
    http::Answer,
};

/// How a request proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// By an API token.
    Token,
    /// By the cookie of a session.
    Session,
    /// Not at all: the login itself.
    Login,
}

/// A request, as far as its answer's meaning depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// What we were doing, such as `reading the list of people`.
    pub(super) what: &'static str,
    /// How it proved who it is.
    pub(super) proof: Proof,
    /// The username in its path, which must not be quoted.
    pub(super) username: Option<&'a str>,
}

const CHECK_URL: &str = "Check `defguard.url`: it must be the address that shows Defguard's own login page, without \
    `/api`. If it is right, something between us and Defguard (a reverse proxy, a firewall) gave this answer.";

/// A request to which there was no answer.
pub(super) fn unanswered(failure: Failure) -> Failure {
    if failure.mend.is_some() || failure.class != FailureClass::Transient {
        return failure;
    }
    failure.mend(
        "See whether Defguard is running and can be reached at `defguard.url` from here. If it is only slow, look at \
         its database, or give it longer with `defguard.timeout`.",
    )
}

impl Asked<'_> {
    /// A failure of this request.
    pub(super) fn failure(&self, class: FailureClass, why: impl Into<String>) -> Failure {
        Failure::new(Peer::Defguard, class, self.what, why)
    }

    /// Whether the answer is JSON with status 200 or 201.
    pub(super) fn expect_json(&self, answer: &Answer) -> Result<(), Failure> {
        if !matches!(answer.status, StatusCode::OK | StatusCode::CREATED) {
            return Err(self.explain(answer));
        }
        if answer.is_json() {
            return Ok(());
        }
        let kind = if answer.is_html() { "a web page" } else { "something that is not JSON" };
        Err(self
            .failure(FailureClass::Malformed, format!("status {} with {kind} instead of JSON", answer.status.as_u16()))
            .mend(
                "Defguard answers with its web page where it has no such API: while its first-run wizard is \
                 unfinished (finish it in the browser), and when the address is wrong. Check `defguard.url`: the \
                 server's own address, without `/api`.",
            ))
    }

    /// What a body of the wrong shape means.
    pub(super) fn misshapen(&self, error: &ShapeError) -> Failure {
        match error {
            ShapeError::PlainArray => self.too_old("an older version (it sent everybody in one plain list, as 1.x does)"),
            ShapeError::NotJson => self
                .failure(FailureClass::Malformed, "the answer says that it is JSON, but it is broken or cut off")
                .mend(CHECK_URL),
            ShapeError::Shape(part) => self
                .failure(FailureClass::Malformed, format!("the answer is JSON of an unknown shape: {part}"))
                .mend("This program knows Defguard 2.x. Look for a newer release of it, and check `defguard.url`."),
        }
    }

    /// What an answer of another status than the expected one means.
    pub(super) fn explain(&self, answer: &Answer) -> Failure {
        let status = answer.status;
        match status.as_u16() {
            300..=399 => self.redirected(answer),
            401 => self.unauthorised(answer),
            403 => self.forbidden(answer),
            404 => self
                .failure(FailureClass::Malformed, format!("status 404{}", self.quoted(answer)))
                .mend(CHECK_URL),
            405 => self.wrong_method(),
            408 => self
                .failure(FailureClass::Transient, "status 408: the server gave up on the request (Defguard does after 30 s)")
                .mend("Defguard or its database is overloaded or stuck; look at its log."),
            413 => self.failure(FailureClass::Permanent, "status 413: the request is too large for the server").mend(CHECK_URL),
            415 | 422 => self
                .failure(
                    FailureClass::Permanent,
                    format!("status {}: the server does not understand our request{}", status.as_u16(), self.quoted(answer)),
                )
                .mend("This program knows Defguard 2.x. Look for a newer release of it, and check `defguard.url`."),
            429 => self.too_many(answer),
            500..=599 => self
                .failure(FailureClass::Transient, format!("status {}{}", status.as_u16(), self.quoted(answer)))
                .mend("The fault is in Defguard or in a proxy before it; look at their logs. It is tried again later."),
            400..=499 => self
                .failure(FailureClass::Permanent, format!("status {}{}", status.as_u16(), self.quoted(answer)))
                .mend(CHECK_URL),
            other => self.failure(FailureClass::Malformed, format!("unexpected status {other}")).mend(CHECK_URL),
        }
    }

    fn redirected(&self, answer: &Answer) -> Failure {
        // Only the origin: the path can hold a username, the query a token.
        let to = answer.header("location").and_then(|location| Url::parse(location).ok()).map_or_else(
            || "another path".to_owned(),
            |url| format!("`{}`", url.origin().ascii_serialization()),
        );
        self.failure(
            FailureClass::Permanent,
            format!("status {}: redirected to {to}", answer.status.as_u16()),
        )
        .mend(
            "Redirects are not followed, since our credentials would go along. Put the final address into \
                 `defguard.url` (https instead of http, for instance).",
        )
    }

    fn unauthorised(&self, answer: &Answer) -> Failure {
        let refused = |why: String| self.failure(FailureClass::Unauthorised, why);
        let Some(message) = defguard_message(answer) else {
            return match self.proof {
                // Defguard says 401 `{}` to a wrong password, an unknown user and a disabled one alike.
                Proof::Login if answer.is_json() => refused(
                    "status 401: the login was refused. Defguard does not say why: the username (which is \
                     case-sensitive) or the password is wrong, or the account is disabled or has no password"
                        .to_owned(),
                )
                .mend(
                    "Log in to Defguard in a browser with exactly these credentials, then correct `defguard.username` \
                     or the password file. Five failures within a minute lock the account for five minutes.",
                ),
                _ => refused("status 401, but not from Defguard: something before it asks for credentials".to_owned())
                    .mend("A reverse proxy protects this address. Let this program reach Defguard's API without it."),
            };
        };
        match (self.proof, message.as_str()) {
            (Proof::Token, "Session is required") => refused(
                "status 401 `Session is required`, although an API token was sent: Defguard ignores API tokens".to_owned(),
            )
            .mend(
                "Defguard accepts API tokens only while it has an active licence: it is missing, expired, or its \
                 limits are exceeded (Defguard, Settings, License). Or a proxy strips the Authorization header. \
                 Without a licence use a session login: `defguard.username` and a password file.",
            ),
            (Proof::Token, "Invalid API token") => refused(
                "status 401 `Invalid API token`: the token is wrong or deleted, or its owner is disabled".to_owned(),
            )
            .mend("Make a new API token for an active administrator and put it into the token file."),
            (Proof::Login, "Invalid TOTP code") => refused(
                "status 401: the one-time code was refused. Defguard accepts the code of the present 30 seconds only"
                    .to_owned(),
            )
            .mend(
                "Either the clocks of the two machines differ (check NTP on both), or the TOTP secret is not the one \
                 that was shown when the second factor was set up. Refused codes count towards the lock-out, too.",
            ),
            (Proof::Session, "Session is required") => refused(
                "status 401 `Session is required`, although the session's cookie was sent".to_owned(),
            )
            .mend("Something between us and Defguard strips the Cookie header."),
            (Proof::Session, "MFA not verified") => refused(
                "status 401 `MFA not verified`: the session still lacks the second factor".to_owned(),
            )
            .mend("Set `defguard.totp_secret_file`, or use an account without a second factor."),
            (Proof::Session, _) => refused(format!("status 401{}: the session was refused", self.quoted(answer))).mend(
                "If this comes again and again, sessions are ended faster than they are used: look at the session \
                 lifetime in Defguard's settings (0 days ends them at once).",
            ),
            (Proof::Token | Proof::Login, _) => {
                refused(format!("status 401{}", self.quoted(answer))).mend("Check the credentials for Defguard.")
            }
        }
    }

    fn forbidden(&self, answer: &Answer) -> Failure {
        let why = format!("status 403{}", self.quoted(answer));
        let failure = self.failure(FailureClass::Unauthorised, why);
        if defguard_message(answer).is_none() {
            return failure.mend(CHECK_URL);
        }
        failure.mend(match self.proof {
            Proof::Token => "The owner of the API token must be an administrator of Defguard: put them into an admin group.",
            Proof::Session | Proof::Login => {
                "The account that logs in must be an administrator of Defguard: put it into an admin group."
            }
        })
    }

    fn wrong_method(&self) -> Failure {
        let why = "status 405: there is something else at this address";
        let failure = self.failure(FailureClass::Permanent, why);
        match self.proof {
            Proof::Login => failure.mend(
                "Defguard answers a login so while its first-run wizard is unfinished: finish it in the browser. \
                 Otherwise check `defguard.url`.",
            ),
            _ if self.username.is_some() => failure.mend(
                "Defguard's own API uses this path, so people with such a username (`available`, \
                 `change_password`) cannot be looked up one by one. They can be renamed in Defguard; the \
                 list of all people shows them.",
            ),
            _ => failure.mend(CHECK_URL),
        }
    }

    fn too_many(&self, answer: &Answer) -> Failure {
        // Two different things (`docs/facts/defguard.md` sections 1 and 9): the lock-out is JSON and says no time, the
        // rate limiter is text and does.
        let locked = defguard_message(answer).is_some() && answer.retry_after().is_none();
        if locked {
            return self
                .failure(FailureClass::Unauthorised, "status 429: the account is locked out after too many failed logins")
                .mend(
                    "Wait five minutes without running any command, then try again: Defguard locks an account for five \
                     minutes after five failed logins, and every further attempt starts them anew. Anybody who knows the username can cause that from outside; \
                     an API token (with a licence), or a username that nobody knows, is safe from it.",
                );
        }
        let pause = answer.retry_after();
        let wait =
            pause.map_or_else(String::new, |pause| format!("; it asks for a pause of {} s", pause.as_secs()));
        self.failure(FailureClass::RateLimited(pause), format!("status 429: asked too often{wait}"))
            .mend(
                "The rate limit of Defguard (DEFGUARD_RATELIMIT_PERSECOND, which is seconds for each request) or of \
                 a proxy is too tight for reading all people; widen it for this machine.",
            )
    }

    pub(super) fn too_old(&self, version: &str) -> Failure {
        self.failure(FailureClass::Permanent, format!("this is Defguard {version}; 2.0 or newer is needed"))
            .mend("Defguard 1.x has another API. Update Defguard to 2.x.")
    }

    /// A short excerpt of an error body that is worth quoting: Defguard's own message or plain text, without the
    /// username that was asked for, addresses, or control characters.
    fn quoted(&self, answer: &Answer) -> String {
        const LONGEST: usize = 100;
        let text = match defguard_message(answer) {
            Some(message) => message,
            None if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")) => {
                String::from_utf8_lossy(&answer.body[..answer.body.len().min(4 * LONGEST)]).into_owned()
            }
            None => return String::new(),
        };
        let words: Vec<&str> = text
            .split(|c: char| c.is_whitespace() || c.is_control())
            .filter(|word| !word.is_empty())
            .map(|word| if word.contains('@') || Some(word) == self.username { "…" } else { word })
            .collect();
        let mut short: String = words.join(" ").replace('`', "'");
        if let Some((end, _)) = short.char_indices().nth(LONGEST) {
            short.truncate(end);
            short.push('…');
        }
        if short.is_empty() { short } else { format!(" `{short}`") }
    }
}

/// The text of Defguard's own JSON error, if it is one.
pub(super) fn defguard_message(answer: &Answer) -> Option<String> {
    if answer.is_json() { wire::message(&answer.body) } else { None }
}

/// Refuses 1.x by the header that every answer of every version carries (`docs/facts/defguard.md` sections 9 and 10). A
/// proxy may strip it; the shape of the list tells then.
pub(super) fn refuse_old_version(asked: &Asked<'_>, answer: &Answer) -> Result<(), Failure> {
    let Some(version) = answer.header("defguard-component-version") else { return Ok(()) };
    let major: String = version.chars().take_while(char::is_ascii_digit).collect();
    match major.parse::<u32>() {
        Ok(major) if major < 2 => {
            let plain: String =
                version.chars().take(20).take_while(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
            Err(asked.too_old(&plain))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    fn answer(status: u16, kind: &str, body: &str, extra: &[(&'static str, &str)]) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_str(kind).unwrap());
        for (name, value) in extra {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::from(body.to_owned()) }
    }

    fn asked(proof: Proof) -> Asked<'static> {
        Asked { what: "reading the list of people", proof, username: None }
    }

    #[test]
    fn every_status_has_its_class_and_a_mend() {
        let json = "application/json";
        let text = "text/plain; charset=utf-8";
        let cases = [
            (
                answer(302, text, "", &[("location", "https://else.example.com/login?x=y")]),
                FailureClass::Permanent,
            ),
            (answer(400, text, "Failed", &[]), FailureClass::Permanent),
            (answer(401, json, r#"{"msg":"Session is required"}"#, &[]), FailureClass::Unauthorised),
            (answer(401, "text/html", "<h1>401</h1>", &[]), FailureClass::Unauthorised),
            (answer(403, json, r#"{"msg":"access denied"}"#, &[]), FailureClass::Unauthorised),
            (answer(404, text, "nope", &[]), FailureClass::Malformed),
            (answer(405, text, "", &[]), FailureClass::Permanent),
            (answer(408, text, "", &[]), FailureClass::Transient),
            (answer(413, text, "length limit exceeded", &[]), FailureClass::Permanent),
            (answer(415, text, "", &[]), FailureClass::Permanent),
            (answer(422, text, "missing field", &[]), FailureClass::Permanent),
            (answer(429, json, r#"{"msg":"Too many login attempts"}"#, &[]), FailureClass::Unauthorised),
            (
                answer(429, text, "Too Many Requests! Wait for 4s", &[("retry-after", "4")]),
                FailureClass::RateLimited(Some(Duration::from_secs(4))),
            ),
            (answer(429, "text/html", "<h1>slow down</h1>", &[]), FailureClass::RateLimited(None)),
            (answer(500, json, r#"{"msg":"Internal server error"}"#, &[]), FailureClass::Transient),
            (answer(502, "text/html", "<h1>Bad gateway</h1>", &[]), FailureClass::Transient),
            (answer(204, text, "", &[]), FailureClass::Malformed),
        ];
        for proof in [Proof::Token, Proof::Session, Proof::Login] {
            for (answer, class) in &cases {
                let failure = asked(proof).explain(answer);
                assert_eq!(failure.class, *class, "{proof:?} {}", answer.status);
                assert!(failure.mend.is_some(), "{proof:?} {}", answer.status);
                assert!(!failure.why.contains('<'), "{}", failure.why);
            }
        }
    }

    #[test]
    fn a_token_that_is_ignored_points_to_the_licence() {
        let answer = answer(401, "application/json", r#"{"msg":"Session is required"}"#, &[]);
        assert!(asked(Proof::Token).explain(&answer).mend.unwrap().contains("licence"));
        assert!(!asked(Proof::Session).explain(&answer).mend.unwrap().contains("licence"));
    }

    #[test]
    fn a_redirect_names_only_where_it_leads() {
        let answer =
            answer(302, "text/plain", "", &[("location", "https://else.example.com/u/alice?token=s3cret")]);
        let failure = asked(Proof::Session).explain(&answer);
        assert_eq!(failure.why, "status 302: redirected to `https://else.example.com`");
    }

    #[test]
    fn an_excerpt_is_short_and_shows_no_person() {
        let asked = Asked { username: Some("alice"), ..asked(Proof::Session) };
        let body =
            format!(r#"{{"msg":"user alice\n <alice@example.com> \u0007 is `odd` {}"}}"#, "x ".repeat(200));
        let failure = asked.explain(&answer(500, "application/json", &body, &[]));
        assert!(failure.why.starts_with("status 500 `user … … is 'odd' x x"), "{}", failure.why);
        assert!(failure.why.chars().count() < 130);
        assert!(!failure.why.contains("alice"));
    }

    #[test]
    fn only_a_major_version_below_two_is_refused() {
        let old = |version: &str| {
            let answer = answer(200, "application/json", "[]", &[("defguard-component-version", version)]);
            refuse_old_version(&asked(Proof::Token), &answer).is_err()
        };
        assert!(old("1.6.6"));
        assert!(old("0.9"));
        for fine in ["2.0.1+ea1a50c", "2.0.0-beta1", "3.1", "", "unknown"] {
            assert!(!old(fine), "{fine}");
        }
    }
}
