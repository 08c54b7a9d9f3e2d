//! The Synapse adapter against a real Synapse: each trap of `docs/facts/synapse.md` that concerns it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod faults;
mod identify;
mod mas;
mod reads;
mod traps;
mod writes;

#[path = "../support/mod.rs"]
mod support;

use std::{collections::BTreeSet, time::Duration};

use defguard_synapse_sync::{
    domain::{Account, AccountPatch, Email, ExternalId, Failure, Field, Lookup, Mxid, ServerName, ThreePid},
    http::HttpOptions,
    synapse::{Options, Synapse},
};
use serde_json::{Value, json};
use support::{
    proxy::Proxy,
    synapse::{self as server, shared},
};

/// The adapter, quick to try again.
fn adapter_with(url: &str, token: &str) -> Synapse {
    let http = HttpOptions { pause: Duration::from_millis(1), tries: 3, ..HttpOptions::default() };
    Synapse::new(Options { url: url.parse().unwrap(), token: token.to_owned().into(), http }).unwrap()
}

/// The adapter as admin of the shared Synapse.
async fn adapter() -> Synapse {
    let synapse = shared().await;
    adapter_with(&synapse.url(), synapse.admin_token())
}

/// The adapter as admin of the shared Synapse, with a proxy in between.
async fn proxied() -> (Synapse, Proxy) {
    let synapse = shared().await;
    let proxy = Proxy::start(&synapse.url()).await;
    (adapter_with(&proxy.url(), synapse.admin_token()), proxy)
}

/// A second Synapse for many tests, on which everybody can register, guests too, and a bridge has a namespace.
async fn open() -> &'static server::Synapse {
    static OPEN: tokio::sync::OnceCell<server::Synapse> = tokio::sync::OnceCell::const_new();
    OPEN.get_or_init(|| async {
        let bridge = tempfile::NamedTempFile::new().unwrap();
        let registration = json!({
            "id": "bridge", "url": null, "as_token": "as-token", "hs_token": "hs-token",
            "sender_localpart": "bridge-bot", "rate_limited": false,
            "namespaces": { "users": [{ "exclusive": true, "regex": "@bridge-.*:sync.test" }] },
        });
        std::fs::write(bridge.path(), registration.to_string()).unwrap();
        let mut options = server::Options { enable_registration: true, ..server::Options::default() };
        options.extra.insert("allow_guest_access".to_owned(), true.into());
        options.extra.insert("app_service_config_files".to_owned(), json!([bridge.path()]));
        server::Synapse::start(options).await.unwrap()
    })
    .await
}

fn mxid(localpart: &str) -> Mxid {
    Mxid::parse(&format!("@{localpart}:sync.test"), &ServerName::try_from("sync.test").unwrap()).unwrap()
}

fn email(text: &str) -> Email {
    Email::canonical(text).unwrap()
}

fn emails(addresses: &[&str]) -> Option<BTreeSet<ThreePid>> {
    Some(
        addresses
            .iter()
            .map(|address| ThreePid { medium: "email".to_owned(), address: (*address).to_owned() })
            .collect(),
    )
}

fn login(subject: &str) -> ExternalId {
    ExternalId { auth_provider: "oidc-Defguard".to_owned(), external_id: subject.to_owned() }
}

fn marker(id: &str) -> ExternalId {
    ExternalId { auth_provider: "defguard-synapse-sync".to_owned(), external_id: id.to_owned() }
}

fn ids<const N: usize>(ids: [ExternalId; N]) -> Option<BTreeSet<ExternalId>> {
    Some(ids.into())
}

fn named(name: &str) -> AccountPatch {
    AccountPatch { display_name: Field::Set(name.to_owned()), ..AccountPatch::default() }
}

fn with_ids<const N: usize>(list: [ExternalId; N]) -> AccountPatch {
    AccountPatch { external_ids: ids(list), ..AccountPatch::default() }
}

fn with_emails(addresses: &[&str]) -> AccountPatch {
    AccountPatch { threepids: emails(addresses), ..AccountPatch::default() }
}

fn unknown<T: std::fmt::Debug>(lookup: Lookup<T>) -> Failure {
    match lookup {
        Lookup::Unknown(failure) => failure,
        other => panic!("{other:?} instead of a failure"),
    }
}

fn addresses(account: &Account) -> Vec<&str> {
    account.threepids.iter().map(|pid| pid.address.as_str()).collect()
}

/// A Matrix error as Synapse writes it.
fn matrix_error(errcode: &str, error: &str) -> Value {
    json!({ "errcode": errcode, "error": error })
}
