//! What Synapse's refusals mean, and what a person can do about them (`docs/facts/synapse.md` sections 1 to 3 and 7).

use std::time::Duration;

use http::StatusCode;
use url::Url;

use crate::{
    domain::{AccountPatch, Failure, FailureClass, Field, Mxid, Peer},
    http::Answer,
};

use super::wire::MatrixError;

const MEND_URL: &str = "check the homeserver's URL: `/_matrix` and `/_synapse/admin` below it must both reach Synapse's main \
     process, without a login page or a redirect in between";
const MEND_TOKEN: &str = "make a new access token for the service account (log it in, or register one with \
     `register_new_matrix_user --admin`) and put it where the config says";
const MEND_ADMIN: &str = "make the service account a server admin: `PUT /_synapse/admin/v1/users/<its MXID>/admin` with \
     {\"admin\": true}, sent by another admin, or `UPDATE users SET admin = 1` in the database";
const MEND_AWAY: &str =
    "see whether Synapse is running, and whether the homeserver's URL leads to it from here";
const MEND_LOG: &str = "look into Synapse's log at this time";
const MEND_RATE: &str = "take the limit off for the service account: `POST /_synapse/admin/v1/users/<its \
     MXID>/override_ratelimit` with {\"messages_per_second\": 0, \"burst_count\": 0}";
const MEND_WORKER: &str =
    "send every request below `/_synapse/admin` to Synapse's main process, not to a worker";

/// MAS keeps the accounts, so Synapse must not be asked to make any.
pub(super) fn delegated(what: &str) -> Failure {
    Failure::new(
        Peer::Synapse,
        FailureClass::Permanent,
        what,
        "this Synapse leaves accounts and logins to the Matrix Authentication Service (MAS), where accounts would have \
         to be made; one made in Synapse could never be logged in to",
    )
    .mend("use a Synapse with `oidc_providers` of its own; MAS is not supported")
}

/// The token is good, but its owner is no server admin.
pub(super) fn not_admin(what: &str, own: &Mxid) -> Failure {
    let why = format!("the access token belongs to {own}, who is not a server admin");
    Failure::new(Peer::Synapse, FailureClass::Unauthorised, what, why).mend(MEND_ADMIN)
}

/// An answer with no answer in it.
pub(super) fn malformed(what: &str, why: impl ToString) -> Failure {
    Failure::new(Peer::Synapse, FailureClass::Malformed, what, why.to_string()).mend(MEND_URL)
}

/// A success whose body cannot be understood.
pub(super) fn malformed_answer(what: &str, answer: &Answer, why: impl ToString) -> Failure {
    if answer.is_html() {
        malformed(what, format!("a web page came back ({}) where Synapse answers with JSON", answer.status))
    } else if answer.status.is_success() {
        malformed(what, why)
    } else {
        malformed(what, format!("{} came back without a Matrix error", answer.status))
    }
}

/// A request to which there was no answer.
pub(super) fn unanswered(failure: Failure) -> Failure {
    if failure.mend.is_some() { failure } else { failure.mend(MEND_AWAY) }
}

/// A value that no URL can hold.
pub(super) fn unaskable(what: &str) -> Failure {
    let why = "a value that is empty, `.` or `..` cannot be asked for, because no URL can hold it";
    Failure::new(Peer::Synapse, FailureClass::Permanent, what, why)
        .mend("change the template or the username so that the value is another one")
}

/// Checks what Synapse would choke on. PostgreSQL stores no NUL: Synapse on it answers 500, possibly with half of the
/// patch applied, while Synapse on SQLite stores it.
pub(super) fn sendable(what: &str, patch: &AccountPatch) -> Result<(), Failure> {
    let refused = |field: &str| {
        let why = format!("{field} holds a NUL character, which Synapse on PostgreSQL cannot store");
        Err(Failure::new(Peer::Synapse, FailureClass::Permanent, what, why)
            .mend("take the character out of the person's data in Defguard"))
    };
    if matches!(&patch.display_name, Field::Set(name) if name.contains('\0')) {
        return refused("the display name");
    }
    if patch.threepids.iter().flatten().any(|id| id.address.contains('\0')) {
        return refused("an e-mail address or phone number");
    }
    if patch.external_ids.iter().flatten().any(|id| id.external_id.contains('\0')) {
        return refused("an external id");
    }
    Ok(())
}

/// Any answer to a question that is not the one hoped for.
pub(super) fn refused(what: &str, answer: &Answer) -> Failure {
    let status = answer.status;
    let error = MatrixError::of(answer);
    let says = says(status, error.as_ref());
    let failure = |class, why: String| Failure::new(Peer::Synapse, class, what, why);
    let errcode = error.as_ref().map_or("", |error| error.errcode.as_str());
    match (status.as_u16(), errcode) {
        (401 | 403, "") => {
            failure(FailureClass::Malformed, format!("something before Synapse refused the access: {says}"))
                .mend(MEND_URL)
        }
        (401, "M_USER_LOCKED") => {
            failure(FailureClass::Unauthorised, format!("the service account is locked: {says}"))
                .mend("unlock the service account, sent by another admin")
        }
        (401, _) => failure(
            FailureClass::Unauthorised,
            format!("the access token is not (or no longer) valid: {says}"),
        )
        .mend(MEND_TOKEN),
        (403, _) => {
            failure(FailureClass::Unauthorised, format!("the service account may not do this: {says}"))
                .mend(MEND_ADMIN)
        }
        (404, "M_UNRECOGNIZED") => failure(
            FailureClass::Malformed,
            format!("this server does not know the admin API that was asked for: {says}"),
        )
        .mend(MEND_URL),
        (405, "M_UNRECOGNIZED") => failure(
            FailureClass::Permanent,
            format!("this process of the homeserver only reads accounts: {says}"),
        )
        .mend(MEND_WORKER),
        (408, _) => failure(FailureClass::Transient, format!("the request took too long to arrive: {says}"))
            .mend(MEND_AWAY),
        (429, _) => {
            let pause = pause(answer, error.as_ref());
            let asked = pause
                .map_or_else(String::new, |pause| format!(", to be asked again in {} ms", pause.as_millis()));
            failure(FailureClass::RateLimited(pause), format!("too many requests{asked}: {says}"))
                .mend(MEND_RATE)
        }
        (300..=399, _) => {
            failure(FailureClass::Malformed, format!("{} instead of an answer", redirect(answer)))
                .mend(MEND_URL)
        }
        (502..=504, _) => failure(
            FailureClass::Transient,
            format!("a proxy before Synapse, or Synapse itself, could not serve the request: {says}"),
        )
        .mend(MEND_AWAY),
        (500..=599, _) => failure(
            FailureClass::Transient,
            format!(
                "Synapse failed; it does so when its database is away, or cannot store what was sent: {says}"
            ),
        )
        .mend(MEND_LOG),
        (_, "") => malformed_answer(what, answer, "no Matrix error came back"),
        _ => failure(FailureClass::Permanent, says).mend(MEND_LOG),
    }
}

/// Any answer to a registration by the shared secret that is not a success.
pub(super) fn refused_registration(what: &str, answer: &Answer, localpart: &str) -> Failure {
    let Some(error) = MatrixError::of(answer) else { return refused(what, answer) };
    let says = says(answer.status, Some(&error));
    let permanent =
        |why: &str| Failure::new(Peer::Synapse, FailureClass::Permanent, what, format!("{why}: {says}"));
    match (answer.status.as_u16(), error.errcode.as_str()) {
        (400, "M_USER_IN_USE") => permanent(&format!("there is an account `{localpart}` already")).mend(
            "if it is the service's and its token was lost, log it in again and put the token into the token file \
             (README, Install); else give another name with --localpart",
        ),
        (400, "M_INVALID_USERNAME" | "M_EXCLUSIVE") => {
            permanent(&format!("Synapse makes no account `{localpart}`")).mend("give another name with --localpart")
        }
        (400, _) if error.error.contains("not enabled") => permanent("this Synapse runs without a registration shared secret")
            .mend(
                "set `registration_shared_secret_path` in homeserver.yaml and restart Synapse, or make the account by \
                 hand (README, Install)",
            ),
        (403, _) if error.error.contains("HMAC") => permanent("the registration shared secret is another one in the running Synapse")
            .mend("restart Synapse if its config was changed, or name the files that it really reads"),
        _ => refused(what, answer),
    }
}

/// Any answer to a write that is not a success. Whatever it is, parts of the patch may have been applied.
pub(super) fn refused_write(what: &str, answer: &Answer, patch: &AccountPatch) -> Failure {
    let Some(error) = MatrixError::of(answer) else { return refused(what, answer) };
    let says = says(answer.status, Some(&error));
    let permanent =
        |why: &str| Failure::new(Peer::Synapse, FailureClass::Permanent, what, format!("{why}: {says}"));
    match (answer.status.as_u16(), error.errcode.as_str()) {
        (400, "M_INVALID_USERNAME") => permanent("Synapse does not register an account with this localpart")
            .mend("change `localpart_template`, or the person's data that it uses"),
        (400, "M_EXCLUSIVE") => permanent("an application service (bridge) keeps this localpart for itself")
            .mend("change `localpart_template`, or the namespaces of the application service"),
        (400, "M_USER_IN_USE") => Failure::new(
            Peer::Synapse,
            FailureClass::Transient,
            what,
            format!("the account was made by somebody else at this very moment: {says}"),
        )
        .mend("nothing: the next run sees the account and decides anew"),
        (400, _) if error.error.contains("Displayname is too long") => {
            permanent("the display name is longer than the 256 characters that Synapse takes for an existing account")
                .mend("shorten the name in Defguard, or in `display_name_template`")
        }
        (400, _) if error.error.contains("email address") => permanent(
            "Synapse takes one of the e-mail addresses for none; the addresses that were on the account may be gone by now",
        )
        .mend("mend the address in Defguard; the next full run puts the others back"),
        (403, "M_FORBIDDEN") if error.error.contains("MAS") => delegated(what),
        (409, _) => permanent("another account has one of the external ids; the rest of the request may have been applied")
            .mend("`explain` the person to see which account it is"),
        (429, _) => {
            let mut failure = refused(what, answer);
            if !patch.display_name.is_keep() && (patch.threepids.is_some() || patch.external_ids.is_some()) {
                failure.why.push_str(" (the display name was written, the rest may not have been)");
            }
            failure
        }
        _ => refused(what, answer),
    }
}

/// Status, error code and text, as far as they are fit to be shown.
fn says(status: StatusCode, error: Option<&MatrixError>) -> String {
    match error {
        Some(error) => {
            format!("{} {} \"{}\"", status.as_u16(), tidy(&error.errcode, 64), tidy(&error.error, 200))
        }
        None => format!("HTTP {status}"),
    }
}

/// A text from outside, made short and harmless for a terminal and a log.
fn tidy(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(most).is_some() {
        short.push('…');
    }
    short
}

/// The pause that is asked for: the body is more exact than the header, which is rounded up to whole seconds.
fn pause(answer: &Answer, error: Option<&MatrixError>) -> Option<Duration> {
    error.and_then(|error| error.retry_after_ms).map(Duration::from_millis).or_else(|| answer.retry_after())
}

/// Where a redirect leads: only scheme and host, since the path can hold a person's name.
fn redirect(answer: &Answer) -> String {
    let to = answer.header("location").and_then(|to| Url::parse(to).ok());
    match to.as_ref().and_then(|url| url.host_str().map(|host| (url.scheme(), host))) {
        Some((scheme, host)) => format!("a redirect ({}) to {scheme}://{host}", answer.status.as_u16()),
        None => format!("a redirect ({})", answer.status.as_u16()),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, body: &str, headers: &[(&'static str, &str)]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: map,
            body: body.as_bytes().to_vec().into(),
        }
    }

    #[test]
    fn the_pause_is_taken_from_the_body_first_and_else_from_the_header() {
        let limited = r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":4764}"#;
        let failure = refused("x", &answer(429, limited, &[("retry-after", "5")]));
        assert_eq!(failure.class, FailureClass::RateLimited(Some(Duration::from_millis(4764))));
        let failure = refused("x", &answer(429, "slow down", &[("retry-after", "5")]));
        assert_eq!(failure.class, FailureClass::RateLimited(Some(Duration::from_secs(5))));
        let failure = refused("x", &answer(429, "", &[]));
        assert_eq!(failure.class, FailureClass::RateLimited(None));
    }

    #[test]
    fn a_redirect_is_named_without_its_path() {
        let failure =
            refused("x", &answer(302, "", &[("location", "https://login.example.org/alice?token=1")]));
        assert_eq!(failure.class, FailureClass::Malformed);
        assert!(failure.why.contains("https://login.example.org"), "{}", failure.why);
        assert!(!failure.why.contains("alice"), "{}", failure.why);
    }

    #[test]
    fn text_from_the_server_cannot_fill_or_break_a_terminal() {
        let long = format!(r#"{{"errcode":"M_UNKNOWN","error":"\u001b[2J{}"}}"#, "x".repeat(5000));
        let failure = refused("x", &answer(400, &long, &[]));
        assert!(failure.why.len() < 400 && !failure.why.contains('\u{1b}'), "{}", failure.why);
    }

    #[test]
    fn a_patch_with_a_nul_is_never_sent() {
        let patch = AccountPatch { display_name: Field::Set("a\0b".to_owned()), ..AccountPatch::default() };
        assert_eq!(sendable("x", &patch).unwrap_err().class, FailureClass::Permanent);
        assert!(sendable("x", &AccountPatch::default()).is_ok());
    }

    proptest! {
        #[test]
        fn every_refusal_is_explained_with_a_mend(status in 100_u16..=599, body in ".{0,80}", code in "M_[A-Z_]{1,20}") {
            for body in [body.clone(), serde_json::json!({ "errcode": code, "error": body }).to_string()] {
                let answer = answer(status, &body, &[]);
                for failure in [refused("x", &answer), refused_write("x", &answer, &AccountPatch::default())] {
                    prop_assert!(failure.mend.is_some(), "{failure}");
                    prop_assert!(!failure.why.is_empty());
                }
            }
        }
    }
}
