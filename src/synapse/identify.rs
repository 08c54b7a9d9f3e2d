//! Who the server is, who we are there, and whether we can do our work.

use std::{borrow::Cow, collections::BTreeSet};

use http::{Method, StatusCode};
use matrix_sdk::ruma::api::{
    IncomingResponse as _, MatrixVersion, OutgoingRequest as _, SupportedVersions,
    auth_scheme::SendAccessToken, client::account::whoami,
};
use percent_encoding::utf8_percent_encode;
use reqwest::RequestBuilder;
use secrecy::ExposeSecret;

use crate::{
    domain::{Failure, FailureClass, Mxid, Peer, ServerName},
    http::Answer,
    ports::HomeserverInfo,
};

use super::{SEGMENT, Synapse, expect_ok, explain, wire};

/// The oldest Synapse that can be worked with, as major and minor version: the first whose list of accounts tells
/// which ones are locked. Before it a locked account could not be told from one in use. The look-ups by external
/// id (1.68) and by e-mail address (1.72) are older (`docs/facts/synapse.md` section 5).
pub const OLDEST_VERSION: (u32, u32) = (1, 93);

impl Synapse {
    /// Goes from what needs no token to what needs an admin's, so that the first failure is the one to mend.
    pub(super) async fn identify_server(&self) -> Result<HomeserverInfo, Failure> {
        let version = self.version().await?;
        self.refuse_delegation().await?;
        let (server_name, own) = self.whoami().await?;
        self.expect_admin(&own).await?;
        let open_registration = self.open_registration().await;
        Ok(HomeserverInfo { server_name, own, version, open_registration })
    }

    async fn version(&self) -> Result<String, Failure> {
        let what = "asking for Synapse's version";
        // A server that is no Synapse, or is not reached at this path, is found out here: no token is needed.
        let version: wire::ServerVersion = self.ask(what, "/_synapse/admin/v1/server_version").await?;
        check_version(what, &version.server_version)?;
        // An installation from a checkout adds branch and commit.
        Ok(version.server_version.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// Looks for MAS. Everybody may ask; other answers than a 200 prove nothing and are left to the admin check, whose
    /// path MAS takes away.
    async fn refuse_delegation(&self) -> Result<(), Failure> {
        let what = "asking who does the logins";
        let path = "/_matrix/client/v1/auth_metadata";
        let answer = self.http.repeated(|| self.send(what, self.anonymous(Method::GET, path))).await?;
        let metadata = wire::json::<serde_json::Map<String, serde_json::Value>>(&answer);
        if answer.status == StatusCode::OK && metadata.is_ok_and(|metadata| metadata.contains_key("issuer")) {
            return Err(explain::delegated(what));
        }
        Ok(())
    }

    /// The owner of our token and their server.
    pub(super) async fn whoami(&self) -> Result<(ServerName, Mxid), Failure> {
        let what = "asking whose access token ours is";
        self.http
            .repeated(|| async {
                let answer = self.send(what, self.whoami_request(what)?).await?;
                read_whoami(what, answer)
            })
            .await
    }

    fn whoami_request(&self, what: &str) -> Result<RequestBuilder, Failure> {
        let versions =
            SupportedVersions { versions: BTreeSet::from([MatrixVersion::V1_1]), features: BTreeSet::new() };
        let token = SendAccessToken::IfRequired(self.token.expose_secret());
        // The errors of these two steps could quote the token, so they are not shown.
        whoami::v3::Request::new()
            .try_into_http_request::<Vec<u8>>(&self.base, token, Cow::Owned(versions))
            .ok()
            .and_then(|request| reqwest::Request::try_from(request).ok())
            .map(|request| RequestBuilder::from_parts(self.http.client().clone(), request))
            .ok_or_else(|| {
                let why = "the homeserver's URL cannot be used for a request";
                Failure::new(Peer::Synapse, FailureClass::Permanent, what, why)
                    .mend("give the URL as https://matrix.example.org")
            })
    }

    async fn expect_admin(&self, own: &Mxid) -> Result<(), Failure> {
        let what = "asking whether the service account is a server admin";
        let path = format!("/_synapse/admin/v1/users/{}/admin", utf8_percent_encode(own.as_str(), SEGMENT));
        let is: wire::IsAdmin = self
            .http
            .repeated(|| async {
                let answer = self.send(what, self.request(Method::GET, &path)).await?;
                // Under MAS this path does not exist, while Synapse's version says that it does.
                if answer.status == StatusCode::NOT_FOUND && wire::errcode_is(&answer, "M_UNRECOGNIZED") {
                    return Err(explain::delegated(what));
                }
                expect_ok(what, &answer)
            })
            .await?;
        if is.admin { Ok(()) } else { Err(explain::not_admin(what, own)) }
    }

    /// Whether people can register without Defguard. What cannot be found out counts as yes, which costs one more
    /// request for each new account and is never wrong.
    async fn open_registration(&self) -> bool {
        let what = "asking whether registration is open";
        let ask = || {
            let request = self.anonymous(Method::POST, "/_matrix/client/v3/register");
            self.send(what, request.json(&serde_json::json!({})))
        };
        match self.http.repeated(ask).await {
            Ok(answer) => {
                !(answer.status == StatusCode::FORBIDDEN && wire::errcode_is(&answer, "M_FORBIDDEN"))
            }
            Err(failure) => {
                tracing::debug!(why = failure.why, "taking registration for open");
                true
            }
        }
    }
}

fn read_whoami(what: &str, answer: Answer) -> Result<(ServerName, Mxid), Failure> {
    if answer.status != StatusCode::OK {
        return Err(explain::refused(what, &answer));
    }
    let malformed = || explain::malformed_answer(what, &answer, "the answer does not name an account");
    let mut response = http::Response::new(&answer.body);
    *response.status_mut() = answer.status;
    let response = whoami::v3::Response::try_from_http_response(response).map_err(|_| malformed())?;
    let server = response.user_id.server_name().to_owned();
    let own = Mxid::parse(response.user_id.as_str(), &server).map_err(|_| malformed())?;
    Ok((server, own))
}

fn check_version(what: &str, version: &str) -> Result<(), Failure> {
    let (major, minor) = OLDEST_VERSION;
    let failure = |class, why| {
        Failure::new(Peer::Synapse, class, what, why)
            .mend(format!("update Synapse to {major}.{minor} or newer"))
    };
    match major_minor(version) {
        Some(found) if found >= OLDEST_VERSION => Ok(()),
        Some((found_major, found_minor)) => Err(failure(
            FailureClass::Permanent,
            format!(
                "Synapse {found_major}.{found_minor} is too old: before {major}.{minor} its list of accounts does not \
                 tell which ones are locked"
            ),
        )),
        None => Err(failure(
            FailureClass::Malformed,
            format!(
                "the version does not begin with two numbers, so it cannot be compared with {major}.{minor}"
            ),
        )),
    }
}

/// The first two numbers of a version such as `1.163.2` or `1.165.0rc1 (b=develop,1234abc)`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split('.');
    let number = |part: Option<&str>| {
        let part = part?;
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part.get(..digits)?.parse().ok()
    };
    Some((number(parts.next())?, number(parts.next())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_by_its_first_two_numbers() {
        for (text, version) in [
            ("1.163.2", Some((1, 163))),
            ("1.165.0rc1 (b=develop,1234abc)", Some((1, 165))),
            ("1.93rc1", Some((1, 93))),
            ("v2.0.0+vendor", Some((2, 0))),
            ("1", None),
            ("unknown", None),
            ("", None),
            ("1.99999999999", None),
        ] {
            assert_eq!(major_minor(text), version, "{text}");
        }
    }

    #[test]
    fn versions_count_as_numbers_and_not_as_text() {
        assert!(check_version("x", "1.93.0").is_ok());
        assert!(check_version("x", "1.163.2").is_ok());
        assert!(check_version("x", "2.0.0").is_ok());
        assert_eq!(check_version("x", "1.9.0").unwrap_err().class, FailureClass::Permanent);
        assert_eq!(check_version("x", "1.92.3").unwrap_err().class, FailureClass::Permanent);
        assert_eq!(check_version("x", "none").unwrap_err().class, FailureClass::Malformed);
    }
}
