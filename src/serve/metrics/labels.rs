//! The labels, each with a bounded set of values.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

use crate::{
    domain::{FailureClass, Peer},
    http::TryResult,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Build {
    pub(super) version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) peer: &'static str,
    pub(super) endpoint: &'static str,
    pub(super) status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndpointLabels {
    pub(super) peer: &'static str,
    pub(super) endpoint: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RetryLabels {
    pub(super) peer: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RunLabels {
    pub(super) kind: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ActionLabels {
    pub(super) kind: &'static str,
    pub(super) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Kind {
    pub(super) kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PeerLabels {
    pub(super) peer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StateLabels {
    pub(super) state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HarmLabels {
    pub(super) harm: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LeaverLabels {
    pub(super) why: &'static str,
    pub(super) stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WebhookLabels {
    pub(super) result: WebhookResult,
}

/// What became of a delivery of the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the values of the label")]
pub enum WebhookResult {
    /// It was taken and is worked on.
    accepted,
    /// It had no token, or a wrong one.
    unauthorized,
    /// It was larger than what is read.
    too_large,
    /// It was no event that is known.
    malformed,
    /// Too many came at once.
    limited,
}

impl WebhookResult {
    /// All that there are.
    pub(super) const ALL: [Self; 5] =
        [Self::accepted, Self::unauthorized, Self::too_large, Self::malformed, Self::limited];
}

pub(super) fn peer(peer: Peer) -> &'static str {
    match peer {
        Peer::Defguard => "defguard",
        Peer::Synapse => "synapse",
        Peer::Store => "store",
    }
}

pub(super) fn class(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Transient => "transient",
        FailureClass::RateLimited(_) => "rate_limited",
        FailureClass::Unauthorised => "unauthorised",
        FailureClass::Permanent => "permanent",
        FailureClass::Malformed => "malformed",
        FailureClass::NeedsPerson => "needs_person",
    }
}

/// A status that the standards know as its number, any other by its first digit.
pub(super) fn status(result: TryResult) -> &'static str {
    let status = match result {
        TryResult::Status(status) => status,
        TryResult::NotSent => return "not_sent",
        TryResult::TimedOut => return "timed_out",
        TryResult::Cut => return "cut",
        TryResult::TooLarge => return "too_large",
    };
    match status.as_u16() {
        200 => "200",
        201 => "201",
        202 => "202",
        204 => "204",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        409 => "409",
        413 => "413",
        429 => "429",
        500 => "500",
        501 => "501",
        502 => "502",
        503 => "503",
        504 => "504",
        other => match other / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "other",
        },
    }
}
