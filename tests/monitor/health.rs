//! `/health/live` and `/health/ready`.

use defguard_synapse_sync::{
    domain::{Failure, FailureClass, Peer},
    serve::{health::Use, overview::Overview},
};

use crate::{
    Monitor,
    overview::{ago, calm, young},
};

#[tokio::test]
async fn a_daemon_that_works_is_live_and_one_that_could_use_everything_is_ready() {
    let monitor = Monitor::of(calm()).await;
    assert_eq!(monitor.text("/health/live").await, (200.try_into().unwrap(), "live\n".to_owned()));
    assert_eq!(monitor.text("/health/ready").await, (200.try_into().unwrap(), "ready\n".to_owned()));
}

#[tokio::test]
async fn a_daemon_that_has_tried_nothing_yet_is_live_and_not_ready() {
    let monitor = Monitor::of(young()).await;
    assert_eq!(monitor.text("/health/live").await.0, 200);
    let (status, text) = monitor.text("/health/ready").await;
    assert_eq!(status, 503);
    assert!(text.contains("not ready: Defguard has not been needed yet\n"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_used_is_said_without_names() {
    let mut overview = calm();
    let what = "reading the account @alice:example.org";
    let failure = Failure::new(Peer::Synapse, FailureClass::Transient, what, "no answer in time");
    overview.health.synapse = Use::Unusable { since: ago(1), failure };
    let (status, text) = Monitor::of(overview).await.text("/health/ready").await;
    assert_eq!(status, 503);
    assert_eq!(text, "not ready: Synapse: reading the account @…: no answer in time\n");
}

#[tokio::test]
async fn a_daemon_that_does_no_more_runs_is_neither() {
    let monitor = Monitor::of(Overview { working: false, ..calm() }).await;
    assert_eq!(monitor.text("/health/live").await.0, 503);
    assert_eq!(monitor.text("/health/ready").await.0, 503);
}
