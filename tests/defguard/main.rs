//! The Defguard adapter against the stand-in, and the stand-in against what a real Defguard was recorded to answer.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod failures;
mod listing;
mod login;
mod lookup;
mod openid;
mod recordings;
mod stand_in;

use std::time::Duration;

use defguard_synapse_sync::{
    defguard::{Auth, Defguard, Options},
    domain::{Failure, FailureClass, Lookup, Person, Username},
    http::HttpOptions,
};
use secrecy::SecretString;
use serde_json::Value;
use support::defguard::{ADMIN_PASSWORD, StandIn};

/// The path of logins.
const AUTH: &str = "/api/v1/auth";
/// The path of the list.
const LIST: &str = "/api/v1/user";

fn session(username: &str, password: &str) -> Auth {
    Auth::Session { username: username.to_owned(), password: SecretString::from(password), totp_secret: None }
}

fn as_admin() -> Auth {
    session("admin", ADMIN_PASSWORD)
}

fn token(token: &str) -> Auth {
    Auth::Token(SecretString::from(token))
}

/// Options with pauses that no test has to wait for.
fn options(server: &StandIn, auth: Auth) -> Options {
    Options { relist_pause: Duration::from_millis(1), ..Options::new(server.url(), auth) }
}

fn http() -> HttpOptions {
    HttpOptions {
        timeout: Duration::from_secs(20),
        tries: 3,
        pause: Duration::from_millis(1),
        ..HttpOptions::default()
    }
}

fn client(server: &StandIn, auth: Auth) -> Defguard {
    Defguard::new(options(server, auth), http(), server.time()).unwrap()
}

fn name(text: &str) -> Username {
    Username::new(text)
}

fn unknown(lookup: Lookup<Person>) -> Failure {
    match lookup {
        Lookup::Unknown(failure) => failure,
        other => panic!("{other:?} instead of a failure"),
    }
}

/// A failure that is explained in these words.
#[track_caller]
fn assert_explained(failure: &Failure, class: FailureClass, why: &str, mend: &str) {
    assert_eq!(failure.class, class, "{failure}");
    assert!(failure.why.contains(why), "{:?} lacks {why:?}", failure.why);
    let given = failure.mend.as_deref().unwrap_or_default();
    assert!(given.contains(mend), "{given:?} lacks {mend:?}");
}

/// An answer as it came.
#[derive(Debug)]
struct Raw {
    status: u16,
    kind: String,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Raw {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request as it is, without the adapter.
#[allow(clippy::disallowed_methods, reason = "tests of the stand-in send what no client of ours would")]
async fn raw(
    server: &StandIn,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Raw {
    let url = server.url().join(path).unwrap();
    // Without certificates it is made in no time.
    let client = reqwest::Client::builder()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let mut request = client.request(method.parse().unwrap(), url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.body(body.to_owned());
    }
    let response = request.send().await.unwrap();
    let headers = response.headers().clone();
    let kind = headers.get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
    Raw { status: response.status().as_u16(), kind, headers, body: response.text().await.unwrap() }
}
