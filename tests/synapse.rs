//! The Synapse adapter against a real Synapse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod support;

use defguard_synapse_sync::http::HttpOptions;
use defguard_synapse_sync::ports::Homeserver as _;
use defguard_synapse_sync::synapse;
use support::synapse::shared;

#[tokio::test]
async fn smoke() {
    let s = shared().await;
    let a = synapse::Synapse::new(synapse::Options {
        url: s.url().parse().unwrap(),
        token: s.admin_token().to_owned().into(),
        http: HttpOptions::default(),
    })
    .unwrap();
    println!("{:?}", a.identify().await);
    println!("{:?}", a.list().await);
}
