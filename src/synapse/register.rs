//! Makes the server admin that this service works as, by the registration shared secret (Synapse's
//! `rest/admin/users.py`, `UserRegisterServlet`), and takes the rate limit off for it.

use hmac::{Hmac, Mac as _};
use http::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha1::Sha1;
use url::Url;

use super::{SEGMENT, Synapse, expect_ok, explain, wire};
use crate::{
    domain::{Failure, FailureClass, Mxid, Peer},
    http::{Http, HttpOptions},
};

/// Who is to be made.
#[derive(Debug, Clone)]
pub struct NewAdmin {
    /// The part of the MXID before the colon.
    pub localpart: String,
    /// What people see in the list of users.
    pub display_name: String,
    /// A password. Nobody needs to know it: the service uses the token.
    pub password: SecretString,
}

/// A server admin that was just made.
#[derive(Debug)]
pub struct Admin {
    /// Its MXID.
    pub mxid: String,
    /// An access token of it.
    pub token: SecretString,
}

#[derive(Deserialize)]
struct Nonce {
    nonce: String,
}

#[derive(Deserialize)]
struct Registered {
    user_id: String,
    access_token: SecretString,
}

#[derive(Deserialize)]
struct Limits {
    messages_per_second: Option<u64>,
    burst_count: Option<u64>,
}

/// Makes a server admin. The answer to a wrong secret, to a taken name and to a server without a secret each say what to
/// do.
pub async fn register_admin(
    url: &Url,
    options: HttpOptions,
    secret: &SecretString,
    admin: &NewAdmin,
) -> Result<Admin, Failure> {
    let what = "making the server admin of this service";
    let http = Http::new(Peer::Synapse, options, super::endpoint::name)?;
    let path = format!("{}/_synapse/admin/v1/register", url.as_str().trim_end_matches('/'));
    let ask = || async {
        let answer = http.once(what, http.client().get(&path)).await.map_err(explain::unanswered)?;
        // Under MAS this path does not exist.
        if answer.status == StatusCode::NOT_FOUND && wire::errcode_is(&answer, "M_UNRECOGNIZED") {
            return Err(explain::delegated(what));
        }
        expect_ok::<Nonce>(what, &answer)
    };
    let nonce = http.repeated(ask).await?.nonce;
    let mac = mac(secret, &nonce, &admin.localpart, &admin.password)?;
    let body = json!({
        "nonce": nonce,
        "username": admin.localpart,
        "displayname": admin.display_name,
        "password": admin.password.expose_secret(),
        "admin": true,
        "mac": mac,
    });
    let answer = http.once(what, http.client().post(&path).json(&body)).await.map_err(explain::unanswered)?;
    if answer.status != StatusCode::OK {
        return Err(explain::refused_registration(what, &answer, &admin.localpart));
    }
    let made: Registered =
        wire::json(&answer).map_err(|why| explain::malformed_answer(what, &answer, why))?;
    Ok(Admin { mxid: made.user_id, token: made.access_token })
}

/// What proves that we know the shared secret.
fn mac(
    secret: &SecretString,
    nonce: &str,
    localpart: &str,
    password: &SecretString,
) -> Result<String, Failure> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose_secret().as_bytes()).map_err(|_| {
        Failure::new(
            Peer::Synapse,
            FailureClass::Permanent,
            "using the registration shared secret",
            "it is unusable",
        )
    })?;
    mac.update([nonce, localpart, password.expose_secret(), "admin"].join("\0").as_bytes());
    Ok(mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Synapse {
    /// Whether an account may send as much as it likes.
    pub async fn is_unlimited(&self, mxid: &Mxid) -> Result<bool, Failure> {
        let limits: Limits =
            self.ask("asking for the rate limit of the account", &override_path(mxid)).await?;
        Ok(limits.messages_per_second == Some(0) && limits.burst_count == Some(0))
    }

    /// Lets an account send as much as it likes: kicks, and display names of others, count against whoever is behind the
    /// request.
    pub async fn lift_limit(&self, mxid: &Mxid) -> Result<(), Failure> {
        let what = "taking off the rate limit of the account";
        let body = json!({"messages_per_second": 0, "burst_count": 0});
        let request = self.request(Method::POST, &override_path(mxid)).json(&body);
        let answer = self.send(what, request).await?;
        expect_ok::<Limits>(what, &answer).map(|_| ())
    }
}

fn override_path(mxid: &Mxid) -> String {
    format!("/_synapse/admin/v1/users/{}/override_ratelimit", utf8_percent_encode(mxid.as_str(), SEGMENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_that_of_synapse() {
        // By Python's hmac module, as `register_new_matrix_user` uses it.
        let mac = mac(&"secret".to_owned().into(), "nonce", "alice", &"pass".to_owned().into()).unwrap();
        assert_eq!(mac, "f62fca97d1ba6f156e9f2a56cb77295fe732e6d5");
    }
}
