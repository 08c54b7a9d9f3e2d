//! The directory as Defguard 2.x serves it: with an API token or a login of its own, page by page, and with a sober
//! judgement of how far the result can be trusted. What is relied on here is recorded in `docs/facts/defguard.md`.

mod endpoint;
mod explain;
mod openid;
mod probe;
mod session;
pub mod webhooks;
mod wire;

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use reqwest::{
    Method, StatusCode,
    header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

pub use self::{
    openid::{App, AppData, Discovery},
    probe::Licence,
};

use self::{
    explain::{Asked, Proof, defguard_message, refuse_old_version, unanswered},
    session::{Endpoints, Session},
    wire::PlacedPage,
};
use crate::{
    domain::{Completeness, Failure, FailureClass, Listing, Lookup, Page, Peer, Person, Username},
    http::{Answer, Http, HttpOptions},
    ports::{Clock, Directory},
};

/// As many people on a page as Defguard gives; more is cut silently (`docs/facts/defguard.md` section 2).
const PER_PAGE: &str = "100";
/// More pages than any server has: ten million people.
const MOST_PAGES: u64 = 100_000;

/// How we prove who we are.
#[derive(Debug, Clone)]
pub enum Auth {
    /// An API token of an administrator. Defguard accepts them only while it has an active licence.
    Token(SecretString),
    /// A login of our own; the account must be an administrator's.
    Session {
        /// The username, case-sensitive, or the e-mail address.
        username: String,
        /// The password.
        password: SecretString,
        /// The base32 secret of the second factor (TOTP), if the account has one.
        totp_secret: Option<SecretString>,
    },
}

/// What is needed to talk to one Defguard server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address of the server, without `/api`.
    pub url: Url,
    /// How we prove who we are.
    pub auth: Auth,
    /// How many pages are read at once after the first one. More than four gains nothing (`docs/facts/defguard.md`
    /// section 8).
    pub page_workers: usize,
    /// How often an incomplete listing is read again.
    pub relist: usize,
    /// The pause before an incomplete listing is read again.
    pub relist_pause: Duration,
    /// How long a refused login is not tried again; at least five minutes, as long as Defguard's own lock-out.
    pub login_cool_down: Duration,
}

impl Options {
    /// The usual options for a server.
    pub fn new(url: Url, auth: Auth) -> Self {
        Self {
            url,
            auth,
            page_workers: 4,
            relist: 3,
            relist_pause: Duration::from_secs(1),
            login_cool_down: Duration::from_secs(10 * 60),
        }
    }
}

/// A client for one Defguard server.
pub struct Defguard {
    http: Http,
    url: Url,
    credentials: Credentials,
    page_workers: usize,
    relist: usize,
    relist_pause: Duration,
}

enum Credentials {
    Token(HeaderValue),
    Session(Box<Session>),
}

impl fmt::Debug for Defguard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let auth = match self.credentials {
            Credentials::Token(_) => "token",
            Credentials::Session(_) => "session",
        };
        f.debug_struct("Defguard").field("auth", &auth).finish_non_exhaustive()
    }
}

impl Defguard {
    /// Makes a client; nothing is sent yet. Fails if the address, the token, the TOTP secret or the certificate
    /// authorities are unusable.
    pub fn new(options: Options, http: HttpOptions, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let Options { url, auth, page_workers, relist, relist_pause, login_cool_down } = options;
        let unusable = |why: &str| {
            Failure::new(Peer::Defguard, FailureClass::Permanent, "setting up the Defguard client", why)
        };
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(unusable("the address is neither http nor https")
                .mend("Set `defguard.url` to something like `https://defguard.example.com`."));
        }
        // They would be sent as an Authorization header of another kind.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unusable("the address has credentials in it")
                .mend("Take them out of `defguard.url`, and use `defguard.username` and a password file."));
        }
        let credentials = match auth {
            Auth::Token(token) => {
                let mut value =
                    HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).map_err(|_| {
                        unusable("the API token has characters that no token has")
                            .mend("Check the token file.")
                    })?;
                value.set_sensitive(true);
                Credentials::Token(value)
            }
            Auth::Session { username, password, totp_secret } => {
                let endpoints = Endpoints {
                    login: endpoint(&url, &["auth"]),
                    totp: endpoint(&url, &["auth", "totp", "verify"]),
                };
                let session = Session::new(
                    username,
                    password,
                    totp_secret.as_ref(),
                    endpoints,
                    login_cool_down,
                    clock,
                )?;
                Credentials::Session(Box::new(session))
            }
        };
        Ok(Self {
            http: Http::new(Peer::Defguard, http, endpoint::name)?,
            url,
            credentials,
            page_workers: page_workers.max(1),
            relist,
            relist_pause,
        })
    }

    fn asked<'a>(&self, what: &'static str, username: Option<&'a str>) -> Asked<'a> {
        let proof = match self.credentials {
            Credentials::Token(_) => Proof::Token,
            Credentials::Session(_) => Proof::Session,
        };
        Asked { what, proof, username }
    }

    /// Asks and reads, again and again as far as failures of this class may pass.
    async fn get<T>(
        &self,
        asked: Asked<'_>,
        url: &Url,
        read: impl Fn(&Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let read = &read;
        self.http
            .repeated(|| async move {
                let answer = self.once(asked, Method::GET, url, None).await?;
                refuse_old_version(&asked, &answer)?;
                read(&answer)
            })
            .await
    }

    /// Writes one time; an answer of whatever status.
    async fn write(
        &self,
        asked: Asked<'_>,
        method: Method,
        url: &Url,
        body: &Value,
    ) -> Result<Answer, Failure> {
        let answer = self.once(asked, method, url, Some(body)).await?;
        refuse_old_version(&asked, &answer)?;
        Ok(answer)
    }

    /// One answer of whatever status. A session that Defguard no longer knows is renewed once; nothing was done then.
    async fn once(
        &self,
        asked: Asked<'_>,
        method: Method,
        url: &Url,
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let send = |name: HeaderName, value: &HeaderValue| {
            let request = self.http.client().request(method.clone(), url.clone()).header(name, value.clone());
            let request = match body {
                Some(body) => request.json(body),
                None => request,
            };
            async move { self.http.once(asked.what, request).await.map_err(unanswered) }
        };
        let session = match &self.credentials {
            Credentials::Token(token) => return send(AUTHORIZATION, token).await,
            Credentials::Session(session) => session,
        };
        let mut pass = session.pass(&self.http).await?;
        let mut answer = send(COOKIE, &pass.cookie).await?;
        if session_refused(&answer) && !pass.fresh {
            pass = session.renew(&pass, &self.http).await?;
            answer = send(COOKIE, &pass.cookie).await?;
        }
        if session_refused(&answer) {
            session.useless(&pass, &asked.explain(&answer)).await;
        }
        Ok(answer)
    }

    async fn page(&self, number: u64) -> Result<PlacedPage, Failure> {
        let asked = self.asked("reading the list of people", None);
        let mut url = endpoint(&self.url, &["user"]);
        url.query_pairs_mut().append_pair("page", &number.to_string()).append_pair("per_page", PER_PAGE);
        self.get(asked, &url, |answer| {
            asked.expect_json(answer)?;
            let page = wire::page(&answer.body).map_err(|error| asked.misshapen(&error))?;
            if page.current != number {
                return Err(asked
                    .failure(
                        FailureClass::Malformed,
                        format!("page {number} was asked for and page {} came", page.current),
                    )
                    .mend("Something between us and Defguard changes the query or answers from a cache."));
            }
            if page.page.total_pages > MOST_PAGES {
                let why = format!("{} pages are announced, which cannot be", page.page.total_pages);
                return Err(asked.failure(FailureClass::Malformed, why).mend(
                    "The answer does not come from a working Defguard 2.x; check `defguard.url` and the server.",
                ));
            }
            Ok(page)
        })
        .await
    }

    /// Reads all pages one time: the first, the rest several at once (which is faster and so misses fewer people,
    /// `docs/facts/defguard.md` section 3), and what has grown beyond them meanwhile.
    async fn read_all(&self) -> Result<Vec<Page>, Failure> {
        let first = self.page(1).await?;
        let announced = first.page.total_pages;
        let mut next = first.next;
        let mut pages = vec![first.page];
        let mut ended = pages.iter().any(is_empty);
        if !ended {
            let mut rest =
                stream::iter(2..=announced).map(|number| self.page(number)).buffered(self.page_workers);
            while let Some(page) = rest.next().await {
                let page = page?;
                next = page.next;
                ended = is_empty(&page.page);
                pages.push(page.page);
                // Nothing comes after an empty page, however many are announced.
                if ended {
                    break;
                }
            }
        }
        while !ended && let Some(number) = next.filter(|next| *next == pages.len() as u64 + 1) {
            if number > MOST_PAGES {
                break;
            }
            let page = self.page(number).await?;
            next = page.next;
            ended = is_empty(&page.page);
            pages.push(page.page);
        }
        Ok(pages)
    }
}

#[async_trait]
impl Directory for Defguard {
    async fn list(&self) -> Result<Listing, Failure> {
        let mut best: Option<Listing> = None;
        for reading in 0..=self.relist {
            if reading > 0 {
                tokio::time::sleep(self.relist_pause).await;
            }
            let pages = match (self.read_all().await, &best) {
                (Ok(pages), _) => pages,
                (Err(failure), None) => return Err(failure),
                (Err(failure), Some(_)) => {
                    tracing::warn!(%failure, "the list of people could not be read again");
                    break;
                }
            };
            let malformed = pages.iter().any(|page| page.malformed > 0);
            let listing = Listing::assemble(pages);
            let why = match listing.completeness() {
                Completeness::Complete => return Ok(listing),
                Completeness::Incomplete(why) => why.clone(),
            };
            tracing::info!(reading, why = why.join("; "), "the list of people is incomplete");
            // Of two incomplete listings the fuller, and of two as full the newer.
            if best.as_ref().is_none_or(|best| listing.people().len() >= best.people().len()) {
                best = Some(listing);
            }
            // People who cannot be read do not get better by reading them again.
            if malformed && why.len() == 1 {
                break;
            }
        }
        Ok(best.unwrap_or_else(|| Listing::assemble(Vec::new())))
    }

    async fn find(&self, username: &Username) -> Lookup<Person> {
        let name = username.as_str();
        let asked = self.asked("looking up one person", Some(name));
        // These would change the path instead of becoming a part of it.
        if matches!(name, "" | "." | "..") {
            return Lookup::Unknown(
                asked.failure(FailureClass::Permanent, "no person in Defguard can have such a username"),
            );
        }
        let found = self
            .get(asked, &endpoint(&self.url, &["user", name]), |answer| {
                if says_absent(answer, name) {
                    return Ok(None);
                }
                asked.expect_json(answer)?;
                let person = wire::details(&answer.body).map_err(|error| asked.misshapen(&error))?;
                if person.username != *username {
                    return Err(asked
                        .failure(FailureClass::Malformed, "somebody else was answered than was asked for")
                        .mend(
                            "Something between us and Defguard changes the path or answers from a cache.",
                        ));
                }
                Ok(Some(person))
            })
            .await;
        match found {
            Ok(Some(person)) => Lookup::Found(person),
            Ok(None) => Lookup::Absent,
            Err(failure) => Lookup::Unknown(failure),
        }
    }

    async fn group_members(&self) -> Result<BTreeSet<Username>, Failure> {
        let asked = self.asked("reading the groups", None);
        self.get(asked, &endpoint(&self.url, &["group-info"]), |answer| {
            asked.expect_json(answer)?;
            wire::group_members(&answer.body).map_err(|error| asked.misshapen(&error))
        })
        .await
    }

    async fn own_username(&self) -> Result<Option<Username>, Failure> {
        let asked = self.asked("asking which account we use", None);
        self.get(asked, &endpoint(&self.url, &["me"]), |answer| {
            asked.expect_json(answer)?;
            let own = wire::user(&answer.body).map_err(|error| asked.misshapen(&error))?;
            Ok(Some(own.username))
        })
        .await
    }
}

/// Whether Defguard itself says that there is nobody of this very name. Any other 404 comes from somewhere else.
fn says_absent(answer: &Answer, username: &str) -> bool {
    answer.status == StatusCode::NOT_FOUND
        && defguard_message(answer).is_some_and(|message| message == format!("user {username} not found"))
}

/// Whether Defguard itself (and nothing before it) refuses our session.
fn session_refused(answer: &Answer) -> bool {
    answer.status == StatusCode::UNAUTHORIZED && defguard_message(answer).is_some()
}

fn is_empty(page: &Page) -> bool {
    page.people.is_empty() && page.malformed == 0
}

/// An address of the API under the base address, which may have a path of its own.
fn endpoint(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Only fails for addresses that cannot be a base, which `new` refuses.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(["api", "v1"]).extend(path);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_built_under_the_base_and_encodes_what_it_is_given() {
        for (base, path, url) in [
            ("http://h", &["user"][..], "http://h/api/v1/user"),
            ("http://h/", &["user", "a.b"], "http://h/api/v1/user/a.b"),
            ("http://h/dg/?x=1#y", &["user", "a/b"], "http://h/dg/api/v1/user/a%2Fb"),
            ("http://h/dg", &["user", "50% ü?#"], "http://h/dg/api/v1/user/50%25%20%C3%BC%3F%23"),
        ] {
            assert_eq!(endpoint(&Url::parse(base).unwrap(), path).as_str(), url);
        }
    }
}
