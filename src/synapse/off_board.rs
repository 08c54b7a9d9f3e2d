//! What off-boarding needs of Synapse beside the account itself: sessions, notifications, rooms, and the small record
//! in our own account data.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use http::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{json, value::RawValue};

use super::{SEGMENT, Synapse, expect_ok, explain};
use crate::domain::{Failure, FailureClass, Instance, Mxid, Peer, ServiceRecord, Session};

/// The type of our account data, to which the name of the Defguard server is added. Clients of our account pass over types that they do not know.
const RECORD_TYPE: &str = "defguard-synapse-sync.state";

/// `GET /_synapse/admin/v2/users/<mxid>/devices`
#[derive(Deserialize)]
struct Devices {
    devices: Vec<Device>,
    total: usize,
}

#[derive(Deserialize)]
struct Device {
    device_id: String,
    #[serde(default)]
    last_seen_ts: Option<i64>,
}

/// `GET /_synapse/admin/v1/users/<mxid>/pushers`
#[derive(Deserialize)]
struct Pushers {
    pushers: Vec<Pusher>,
    total: usize,
}

#[derive(Deserialize)]
struct Pusher {
    kind: String,
    pushkey: String,
}

/// `GET /_synapse/admin/v1/users/<mxid>/joined_rooms`
#[derive(Deserialize)]
struct Rooms {
    joined_rooms: BTreeSet<String>,
    total: usize,
}

/// A list that has fewer than it says would let something be passed over.
fn expect_whole(what: &str, listed: usize, total: usize) -> Result<(), Failure> {
    if listed == total {
        return Ok(());
    }
    Err(explain::malformed(what, format!("{listed} are listed and {total} are counted")))
}

impl Synapse {
    pub(super) async fn read_sessions(&self, mxid: &Mxid) -> Result<BTreeSet<Session>, Failure> {
        let what = format!("reading the sessions of {mxid}");
        let found: Devices = self.ask(&what, &of(mxid, 2, "devices")).await?;
        expect_whole(&what, found.devices.len(), found.total)?;
        let session = |device: Device| Session {
            device: device.device_id,
            last_used: device.last_seen_ts.and_then(DateTime::<Utc>::from_timestamp_millis),
        };
        Ok(found.devices.into_iter().map(session).collect())
    }

    pub(super) async fn delete_devices(
        &self,
        mxid: &Mxid,
        devices: &BTreeSet<Session>,
    ) -> Result<(), Failure> {
        if devices.is_empty() {
            return Ok(());
        }
        let what = format!("ending the sessions of {mxid}");
        let devices: Vec<&str> = devices.iter().map(|session| session.device.as_str()).collect();
        let body = json!({ "devices": devices });
        // To log out what is logged out already changes nothing, so it may be sent again.
        self.http
            .repeated(|| async {
                let request = self.request(Method::POST, &of(mxid, 2, "delete_devices")).json(&body);
                expect_ok::<IgnoredAny>(&what, &self.send(&what, request).await?).map(|_| ())
            })
            .await
    }

    pub(super) async fn read_email_pushers(&self, mxid: &Mxid) -> Result<BTreeSet<String>, Failure> {
        let what = format!("reading the notifications of {mxid}");
        let found: Pushers = self.ask(&what, &of(mxid, 1, "pushers")).await?;
        expect_whole(&what, found.pushers.len(), found.total)?;
        let by_email = found.pushers.into_iter().filter(|pusher| pusher.kind == "email");
        Ok(by_email.map(|pusher| pusher.pushkey).collect())
    }

    pub(super) async fn read_rooms(&self, mxid: &Mxid) -> Result<BTreeSet<String>, Failure> {
        let what = format!("reading the rooms of {mxid}");
        let found: Rooms = self.ask(&what, &of(mxid, 1, "joined_rooms")).await?;
        expect_whole(&what, found.joined_rooms.len(), found.total)?;
        Ok(found.joined_rooms)
    }

    pub(super) async fn read_record(
        &self,
        own: &Mxid,
        instance: &Instance,
    ) -> Result<Option<ServiceRecord>, Failure> {
        let what = "reading the record in our own account data";
        let found: Option<Box<RawValue>> = self.look_up(what, &record_path(own, instance)).await?;
        let Some(found) = found else { return Ok(None) };
        // Account data cannot be deleted in all versions, so an empty object is how it is emptied by hand.
        if serde_json::from_str::<BTreeMap<String, IgnoredAny>>(found.get()).is_ok_and(|keys| keys.is_empty())
        {
            return Ok(None);
        }
        serde_json::from_str(found.get()).map(Some).map_err(|_| {
            Failure::new(
                Peer::Synapse,
                FailureClass::Malformed,
                what,
                format!("what stands there under `{RECORD_TYPE}` was not written by this version"),
            )
            .mend(format!(
                "see which version of this program wrote it; to begin anew, put `{{}}` there: PUT {}",
                record_path(own, instance)
            ))
        })
    }

    pub(super) async fn write_record(
        &self,
        own: &Mxid,
        instance: &Instance,
        record: &ServiceRecord,
    ) -> Result<(), Failure> {
        let what = "writing the record in our own account data";
        let request = self.request(Method::PUT, &record_path(own, instance)).json(record);
        let answer = self.send(what, request).await?;
        if answer.status == StatusCode::OK { Ok(()) } else { Err(explain::refused(what, &answer)) }
    }
}

fn of(mxid: &Mxid, version: u8, part: &str) -> String {
    format!("/_synapse/admin/v{version}/users/{}/{part}", utf8_percent_encode(mxid.as_str(), SEGMENT))
}

fn record_path(own: &Mxid, instance: &Instance) -> String {
    format!(
        "/_matrix/client/v3/user/{}/account_data/{RECORD_TYPE}.{}",
        utf8_percent_encode(own.as_str(), SEGMENT),
        utf8_percent_encode(instance.as_str(), SEGMENT)
    )
}
