//! The homeserver as Synapse's admin API shows it: implements [`Homeserver`].
//!
//! Reads are repeated when they fail in a way that may pass. Writes are not: Synapse's write is no transaction, so
//! after a failure the caller has to read the account again before it knows what is there (`docs/facts/synapse.md`
//! section 1).

mod endpoint;
mod explain;
mod identify;
mod off_board;
mod probe;
mod read_only;
mod register;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use http::{HeaderValue, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use url::Url;

use crate::{
    domain::{
        Account, AccountPatch, AccountSummary, Email, ExternalId, Failure, FailureClass, Instance, Lookup,
        Mxid, Peer, ServerName, ServiceRecord, Session,
    },
    http::{Answer, Http, HttpOptions},
    ports::{Homeserver, HomeserverInfo, Written},
};

pub use self::{
    identify::OLDEST_VERSION,
    probe::LoginFlows,
    read_only::ReadOnly,
    register::{Admin, NewAdmin, register_admin},
};

/// Everything in a path segment but the characters that RFC 3986 (section 2.3) calls unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// All accounts in one answer. Pages are cut by offset, so several of them could miss an account; one large page is
/// a snapshot, and Synapse has no upper limit (`docs/facts/synapse.md` section 6).
const LIST: &str = "/_synapse/admin/v2/users?deactivated=true&locked=true&guests=true&limit=1000000";

/// How to reach a Synapse.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its client and admin API are, such as `https://matrix.example.org`; a path in it is kept.
    pub url: Url,
    /// The access token of a server admin.
    pub token: SecretString,
    /// Limits of the HTTP client.
    pub http: HttpOptions,
}

/// A Synapse homeserver.
#[derive(Debug)]
pub struct Synapse {
    http: Http,
    base: String,
    token: SecretString,
    server_name: OnceCell<ServerName>,
}

impl Synapse {
    /// Makes a client; nothing is sent yet. Fails if the URL is no HTTP URL, the token cannot be sent, or
    /// the certificate authorities cannot be read.
    pub fn new(options: Options) -> Result<Self, Failure> {
        let Options { mut url, token, http } = options;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            let why = format!("`{}:` is not a scheme that Synapse can be reached with", url.scheme());
            return Err(Failure::new(
                Peer::Synapse,
                FailureClass::Permanent,
                "reading the homeserver's URL",
                why,
            )
            .mend("give the URL as https://matrix.example.org"));
        }
        if HeaderValue::from_str(token.expose_secret()).is_err() || token.expose_secret().is_empty() {
            let why =
                "the access token is empty, or has a line end or another character that no header can hold";
            return Err(Failure::new(
                Peer::Synapse,
                FailureClass::Permanent,
                "reading the access token",
                why,
            )
            .mend("put the token alone into its file, such as `syt_c3luYw_…`"));
        }
        url.set_query(None);
        url.set_fragment(None);
        let base = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self {
            http: Http::new(Peer::Synapse, http, endpoint::name)?,
            base,
            token,
            server_name: OnceCell::new(),
        })
    }

    /// A request with our token. The path must be percent-encoded already.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(self.token.expose_secret())
    }

    /// A request without our token.
    fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.client().request(method, format!("{}{path}", self.base))
    }

    /// Sends a request one time; an answer of any status is a success.
    async fn send(&self, what: &str, request: RequestBuilder) -> Result<Answer, Failure> {
        self.http.once(what, request).await.map_err(explain::unanswered)
    }

    /// Asks for something, a few times if need be; whatever is not a 200 of the right shape is a failure.
    async fn ask<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, Failure> {
        self.http
            .repeated(|| async {
                let answer = self.send(what, self.request(Method::GET, path)).await?;
                expect_ok(what, &answer)
            })
            .await
    }

    /// Asks for one thing, a few times if need be. `None` only if Synapse itself says that there is none.
    async fn look_up<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<Option<T>, Failure> {
        self.http
            .repeated(|| async {
                let answer = self.send(what, self.request(Method::GET, path)).await?;
                if answer.status == StatusCode::NOT_FOUND && wire::errcode_is(&answer, "M_NOT_FOUND") {
                    return Ok(None);
                }
                expect_ok(what, &answer).map(Some)
            })
            .await
    }

    /// The account that a look-up names.
    async fn find(&self, what: &str, path: &str) -> Result<Option<Mxid>, Failure> {
        let server = self.server_name().await?;
        match self.look_up::<wire::UserId>(what, path).await? {
            None => Ok(None),
            Some(found) => {
                Mxid::parse(&found.user_id, server).map(Some).map_err(|why| explain::malformed(what, why))
            }
        }
    }

    /// Our server name, asked once.
    async fn server_name(&self) -> Result<&ServerName, Failure> {
        self.server_name.get_or_try_init(|| async { Ok(self.whoami().await?.0) }).await
    }

    async fn write(&self, what: &str, mxid: &Mxid, patch: &AccountPatch) -> Result<Written, Failure> {
        let server = self.server_name().await?;
        let request = self.request(Method::PUT, &account_path(mxid)).json(&wire::body(patch));
        let answer = self.send(what, request).await?;
        let created = match answer.status {
            StatusCode::CREATED => true,
            StatusCode::OK => false,
            _ => return Err(explain::refused_write(what, &answer, patch)),
        };
        let account = wire::json::<wire::User>(&answer)
            .and_then(|user| user.account(server))
            .map_err(|why| explain::malformed_answer(what, &answer, why))?;
        expect_same(what, mxid, account).map(|account| Written { created, account })
    }
}

#[async_trait]
impl Homeserver for Synapse {
    async fn identify(&self) -> Result<HomeserverInfo, Failure> {
        self.identify_server().await
    }

    async fn list(&self) -> Result<BTreeMap<Mxid, AccountSummary>, Failure> {
        let what = "listing the accounts";
        let server = self.server_name().await?;
        let list: wire::UserList = self.ask(what, LIST).await?;
        list.accounts(server).map_err(|why| explain::malformed(what, why))
    }

    async fn get(&self, mxid: &Mxid) -> Lookup<Account> {
        let what = format!("reading the account {mxid}");
        let read = async {
            let server = self.server_name().await?;
            match self.look_up::<wire::User>(&what, &account_path(mxid)).await? {
                None => Ok(None),
                Some(user) => {
                    let account = user.account(server).map_err(|why| explain::malformed(&what, why))?;
                    expect_same(&what, mxid, account).map(Some)
                }
            }
        };
        looked_up(read.await)
    }

    async fn find_by_external_id(&self, id: &ExternalId) -> Lookup<Mxid> {
        // A login's subject can be an e-mail address; a marker holds nothing personal.
        let what = match id.is_marker() {
            true => format!("looking up the ownership marker {}", id.external_id),
            false => format!("looking up an external id of {}", id.auth_provider),
        };
        let (Some(provider), Some(subject)) = (segment(&id.auth_provider), segment(&id.external_id)) else {
            return Lookup::Unknown(explain::unaskable(&what));
        };
        looked_up(
            self.find(&what, &format!("/_synapse/admin/v1/auth_providers/{provider}/users/{subject}")).await,
        )
    }

    async fn find_by_email(&self, email: &Email) -> Lookup<Mxid> {
        let what = "looking up an e-mail address";
        let Some(address) = segment(email.as_str()) else {
            return Lookup::Unknown(explain::unaskable(what));
        };
        looked_up(self.find(what, &format!("/_synapse/admin/v1/threepid/email/users/{address}")).await)
    }

    async fn last_seen(&self, mxid: &Mxid) -> Lookup<Option<DateTime<Utc>>> {
        let what = format!("asking when {mxid} was last seen");
        let read = self.look_up::<wire::LastSeen>(&what, &account_path(mxid)).await;
        looked_up(read.map(|seen| seen.map(|seen| seen.moment())))
    }

    async fn put(&self, mxid: &Mxid, patch: &AccountPatch) -> Result<Written, Failure> {
        let what = format!("writing the account {mxid}");
        explain::sendable(&what, patch)?;
        // An answer of 429 to a patch of one step can be waited out: either nothing was done, or the same thing is
        // done again. With more steps some are done and some are not, and the caller has to read first.
        let repeatable =
            patch.display_name.is_keep() || (patch.threepids.is_none() && patch.external_ids.is_none());
        self.http
            .repeated(|| async {
                match self.write(&what, mxid, patch).await {
                    Err(failure) if repeatable && matches!(failure.class, FailureClass::RateLimited(_)) => {
                        Err(failure)
                    }
                    done => Ok(done),
                }
            })
            .await?
    }

    async fn sessions(&self, mxid: &Mxid) -> Result<BTreeSet<Session>, Failure> {
        self.read_sessions(mxid).await
    }

    async fn end_sessions(&self, mxid: &Mxid, devices: &BTreeSet<Session>) -> Result<(), Failure> {
        self.delete_devices(mxid, devices).await
    }

    async fn email_pushers(&self, mxid: &Mxid) -> Result<BTreeSet<String>, Failure> {
        self.read_email_pushers(mxid).await
    }

    async fn rooms(&self, mxid: &Mxid) -> Result<BTreeSet<String>, Failure> {
        self.read_rooms(mxid).await
    }

    async fn service_record(
        &self,
        own: &Mxid,
        instance: &Instance,
    ) -> Result<Option<ServiceRecord>, Failure> {
        self.read_record(own, instance).await
    }

    async fn keep_service_record(
        &self,
        own: &Mxid,
        instance: &Instance,
        record: &ServiceRecord,
    ) -> Result<(), Failure> {
        self.write_record(own, instance, record).await
    }
}

fn account_path(mxid: &Mxid) -> String {
    format!("/_synapse/admin/v2/users/{}", utf8_percent_encode(mxid.as_str(), SEGMENT))
}

/// A text as one segment of a path. `None` for the three that no URL can hold: nothing, and the two that every
/// client resolves as a step in the directory tree, however they are encoded (WHATWG URL, "dot path segments").
fn segment(text: &str) -> Option<String> {
    (!matches!(text, "" | "." | "..")).then(|| utf8_percent_encode(text, SEGMENT).to_string())
}

fn expect_ok<T: DeserializeOwned>(what: &str, answer: &Answer) -> Result<T, Failure> {
    if answer.status != StatusCode::OK {
        return Err(explain::refused(what, answer));
    }
    wire::json(answer).map_err(|why| explain::malformed_answer(what, answer, why))
}

fn expect_same(what: &str, asked: &Mxid, account: Account) -> Result<Account, Failure> {
    if account.summary.mxid == *asked {
        Ok(account)
    } else {
        Err(explain::malformed(what, format!("the answer is about {}", account.summary.mxid)))
    }
}

fn looked_up<T>(answer: Result<Option<T>, Failure>) -> Lookup<T> {
    match answer {
        Ok(Some(thing)) => Lookup::Found(thing),
        Ok(None) => Lookup::Absent,
        Err(failure) => Lookup::Unknown(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_exactly_one_segment_of_a_path() {
        for (text, encoded) in [
            ("alice", "alice"),
            ("a/b", "a%2Fb"),
            ("a b%", "a%20b%25"),
            ("a+b?c#d", "a%2Bb%3Fc%23d"),
            ("ü", "%C3%BC"),
            ("...", "..."),
        ] {
            assert_eq!(segment(text).as_deref(), Some(encoded));
            let url = Url::parse(&format!("http://h/users/{encoded}")).unwrap();
            assert_eq!(url.path(), format!("/users/{encoded}"), "the URL keeps it");
        }
        for lost in ["", ".", ".."] {
            assert_eq!(segment(lost), None, "{lost:?}");
        }
    }

    #[test]
    fn the_url_of_a_homeserver_keeps_its_path_and_loses_the_rest() {
        let synapse = |url: &str| {
            Synapse::new(Options {
                url: Url::parse(url).unwrap(),
                token: "secret".to_owned().into(),
                http: HttpOptions::default(),
            })
        };
        assert_eq!(synapse("https://m.example.org").unwrap().base, "https://m.example.org");
        assert_eq!(
            synapse("https://m.example.org/matrix/?a#b").unwrap().base,
            "https://m.example.org/matrix"
        );
        let failure = synapse("matrix:example.org").unwrap_err();
        assert_eq!(failure.class, FailureClass::Permanent);
    }

    #[test]
    fn a_token_is_checked_before_it_is_sent_and_never_shown() {
        let synapse = |token: &str| {
            Synapse::new(Options {
                url: Url::parse("http://m").unwrap(),
                token: token.to_owned().into(),
                http: HttpOptions::default(),
            })
        };
        for bad in ["", "syt_secret\n", "a\0b"] {
            let failure = synapse(bad).unwrap_err();
            assert!(!format!("{failure:?}").contains("syt_secret"), "{failure:?}");
        }
        assert!(!format!("{:?}", synapse("syt_secret").unwrap()).contains("syt_secret"));
    }
}
