//! What `check` asks of Synapse beside its accounts: the ways to log in, where a login leads, and the time. None of it
//! needs a token.

use chrono::{DateTime, Utc};
use http::Method;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;

use super::{SEGMENT, Synapse, expect_ok, explain};
use crate::{domain::Failure, http::date};

/// The ways to log in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginFlows {
    /// Whether with a password.
    pub password: bool,
    /// The providers, by the auth provider of their external ids.
    pub providers: Vec<String>,
}

#[derive(Deserialize)]
struct Flows {
    flows: Vec<Flow>,
}

#[derive(Deserialize)]
struct Flow {
    r#type: String,
    #[serde(default)]
    identity_providers: Vec<Provider>,
}

#[derive(Deserialize)]
struct Provider {
    id: String,
}

/// Where a client says that it wants its people back; nobody is led there.
const CLIENT: &str = "http://localhost/";

impl Synapse {
    /// The ways in which people can log in.
    pub async fn login_flows(&self) -> Result<LoginFlows, Failure> {
        let what = "asking how people can log in";
        let flows: Flows = self
            .http
            .repeated(|| async {
                let request = self.anonymous(Method::GET, "/_matrix/client/v3/login");
                expect_ok(what, &self.send(what, request).await?)
            })
            .await?;
        Ok(LoginFlows {
            password: flows.flows.iter().any(|flow| flow.r#type == "m.login.password"),
            providers: flows
                .flows
                .into_iter()
                .flat_map(|flow| flow.identity_providers)
                .map(|provider| provider.id)
                .collect(),
        })
    }

    /// Where Synapse sends people for a login by this provider; the address as it stands in the redirect.
    pub async fn login_redirect(&self, auth_provider: &str) -> Result<String, Failure> {
        let what = "asking where a login leads";
        let provider = utf8_percent_encode(auth_provider, SEGMENT);
        let path = format!("/_matrix/client/v3/login/sso/redirect/{provider}");
        let request = self.anonymous(Method::GET, &path).query(&[("redirectUrl", CLIENT)]);
        let answer = self.send(what, request).await?;
        match answer.header("location") {
            Some(location) if answer.status.is_redirection() => Ok(location.to_owned()),
            _ => Err(explain::malformed(
                what,
                format!("{} came back instead of a redirect to Defguard", answer.status),
            )
            .mend(
                "look into Synapse's log at this time: it cannot use the provider, or cannot reach Defguard",
            )),
        }
    }

    /// What time it is there, to the second.
    pub async fn clock(&self) -> Result<DateTime<Utc>, Failure> {
        let what = "asking for the time";
        let request = self.anonymous(Method::GET, "/_matrix/client/versions");
        let answer = self.send(what, request).await?;
        date(&answer).ok_or_else(|| explain::malformed(what, "the answer has no date in its headers"))
    }
}
