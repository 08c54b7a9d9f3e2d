//! What `check` asks of Defguard beside its people: the time, and the licence.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{Defguard, endpoint, openid};
use crate::{
    domain::{Failure, FailureClass},
    http,
};

/// Defguard's licence, as far as it can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Licence {
    /// Whether there is one.
    pub present: bool,
    /// Whether it is said to have run out.
    pub expired: bool,
}

#[derive(Deserialize)]
struct EnterpriseInfo {
    /// Null without a licence; what is in it otherwise differs from version to version.
    license_info: Option<LicenceInfo>,
}

#[derive(Deserialize)]
struct LicenceInfo {
    #[serde(default)]
    expired: bool,
}

impl Defguard {
    /// What can be seen of the licence. Whoever is logged in may ask.
    pub async fn licence(&self) -> Result<Licence, Failure> {
        let asked = self.asked("asking for the licence", None);
        let info: EnterpriseInfo = self
            .get(asked, &endpoint(&self.url, &["enterprise_info"]), |answer| openid::read(&asked, answer))
            .await?;
        let expired = info.license_info.as_ref().is_some_and(|info| info.expired);
        Ok(Licence { present: info.license_info.is_some(), expired })
    }

    /// What time it is there, to the second. Everybody may ask.
    pub async fn clock(&self) -> Result<DateTime<Utc>, Failure> {
        let asked = self.asked("asking for the time", None);
        let url = endpoint(&self.url, &["health"]);
        let answer = self.send(asked, self.http.client().get(url)).await?;
        http::date(&answer)
            .ok_or_else(|| asked.failure(FailureClass::Malformed, "the answer has no date in its headers"))
    }
}
