//! A browser without a screen: follows redirects, keeps cookies by host, logs in at Defguard's page and consents.

use std::{collections::BTreeMap, fmt};

use reqwest::{Client, Method, Response, header, redirect};
use serde_json::{Value, json};
use url::Url;

use super::synapse::{Reply, Synapse};

/// What the client that wants to log in has given as its own address. Nothing is there; the way ends before it.
pub const CLIENT: &str = "http://client.test/done";

/// How a login ended.
pub enum Outcome {
    /// Synapse gave an access token.
    In { mxid: String, token: String },
    /// Synapse led back to the client, but did not take the login token.
    Refused(Reply),
    /// The way ended at a page: its address, status and text.
    Page { url: Url, status: u16, text: String },
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In { mxid, .. } => write!(f, "logged in as {mxid}"),
            Self::Refused(reply) => write!(f, "refused: {reply:?}"),
            Self::Page { url, status, text } => {
                // Of Synapse's pages only what stands between the tags of the body.
                let body =
                    text.split("<body").nth(1).unwrap_or(text).split("<svg").next().unwrap_or_default();
                let words = body
                    .split('<')
                    .filter_map(|part| part.split_once('>'))
                    .flat_map(|(_, text)| text.split_whitespace());
                write!(f, "{status} at {}: {}", url.path(), words.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

impl Outcome {
    /// The MXID of a login that went well.
    #[track_caller]
    pub fn mxid(&self) -> &str {
        match self {
            Self::In { mxid, .. } => mxid,
            other => panic!("the login failed: {other:?}"),
        }
    }
}

/// One person's browser.
pub struct Browser {
    client: Client,
    cookies: BTreeMap<(String, String), String>,
    /// Every address that was asked for, without its query.
    pub visited: Vec<String>,
}

impl Default for Browser {
    fn default() -> Self {
        let client = Client::builder().redirect(redirect::Policy::none()).user_agent("test-browser").build();
        Self { client: client.unwrap(), cookies: BTreeMap::new(), visited: Vec::new() }
    }
}

impl Browser {
    /// Logs in to Synapse by a provider, as one who knows the username and the password at Defguard.
    pub async fn log_in(
        &mut self,
        synapse: &Synapse,
        provider: &str,
        username: &str,
        password: &str,
    ) -> Outcome {
        let mut url =
            Url::parse(&format!("{}/_matrix/client/v3/login/sso/redirect/{provider}", synapse.url()))
                .unwrap();
        url.query_pairs_mut().append_pair("redirectUrl", CLIENT);
        let mut answer = self.send(Method::GET, &url, None).await;
        for _ in 0..20 {
            if let Some(next) = location(&url, &answer) {
                if next.as_str().starts_with(CLIENT) {
                    return redeem(synapse, &next).await;
                }
                url = next;
                answer = self.send(Method::GET, &url, None).await;
                continue;
            }
            match (answer.status().as_u16(), url.path()) {
                // What Defguard's page does with what is typed.
                (200, "/auth/login") => {
                    let api = url.join("/api/v1/auth").unwrap();
                    let body = json!({"username": username, "password": password});
                    let login = self.send(Method::POST, &api, Some(&body)).await;
                    let status = login.status().as_u16();
                    let text = login.text().await.unwrap();
                    let body: Value = serde_json::from_str(&text).unwrap_or_default();
                    let Some(next) = body["url"].as_str().filter(|_| status == 200) else {
                        return Outcome::Page { url: api, status, text };
                    };
                    url = Url::parse(next).unwrap();
                    answer = self.send(Method::GET, &url, None).await;
                }
                (200, "/consent") => {
                    let query = format!("{}&allow=true", url.query().unwrap());
                    url = url.join("/api/v1/oauth/authorize").unwrap();
                    url.set_query(Some(&query));
                    answer = self.send(Method::POST, &url, None).await;
                }
                (status, _) => {
                    let text = answer.text().await.unwrap();
                    // Synapse asks whether the client is to be trusted; the way on is a link in its page.
                    return match link_to_client(&text) {
                        Some(next) => redeem(synapse, &next).await,
                        None => Outcome::Page { url, status, text },
                    };
                }
            }
        }
        panic!("the way goes round: {:?}", self.visited)
    }

    async fn send(&mut self, method: Method, url: &Url, body: Option<&Value>) -> Response {
        let mut plain = url.clone();
        plain.set_query(None);
        self.visited.push(format!("{method} {plain}"));
        let host = url.host_str().unwrap().to_owned();
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .filter(|((of, _), _)| *of == host)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let mut request = self.client.request(method, url.clone());
        if !cookies.is_empty() {
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        #[allow(clippy::disallowed_methods, reason = "a browser is no client of ours")]
        let answer = request.send().await.unwrap();
        for cookie in answer.headers().get_all(header::SET_COOKIE) {
            self.keep(&host, cookie.to_str().unwrap());
        }
        answer
    }

    /// Keeps a cookie as browsers do: by host, whatever the port, and none for another host. One that is for https only
    /// is kept, too: browsers trust the loopback interface as they trust https.
    fn keep(&mut self, host: &str, cookie: &str) {
        let mut parts = cookie.split(';').map(str::trim);
        let (name, value) = parts.next().unwrap().split_once('=').unwrap();
        let attributes: BTreeMap<String, &str> = parts
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .map(|(key, value)| (key.to_ascii_lowercase(), value))
            .collect();
        let other_host =
            attributes.get("domain").is_some_and(|domain| domain.trim_start_matches('.') != host);
        if other_host {
            return;
        }
        let key = (host.to_owned(), name.to_owned());
        let over = attributes.get("max-age").is_some_and(|age| age.starts_with('0') || age.starts_with('-'))
            || attributes.get("expires").is_some_and(|date| date.contains("1970"));
        if over {
            self.cookies.remove(&key);
        } else {
            self.cookies.insert(key, value.to_owned());
        }
    }
}

fn location(from: &Url, answer: &Response) -> Option<Url> {
    if !answer.status().is_redirection() {
        return None;
    }
    let to = answer.headers().get(header::LOCATION).unwrap().to_str().unwrap();
    Some(from.join(to).unwrap())
}

/// The link back to the client in Synapse's page.
fn link_to_client(page: &str) -> Option<Url> {
    let (_, rest) = page.split_once(&format!("href=\"{CLIENT}"))?;
    let (rest, _) = rest.split_once('"')?;
    Url::parse(&format!("{CLIENT}{}", rest.replace("&amp;", "&"))).ok()
}

/// Exchanges the login token, as the client does.
async fn redeem(synapse: &Synapse, back: &Url) -> Outcome {
    let token = back.query_pairs().find(|(key, _)| key == "loginToken").unwrap().1.into_owned();
    let body = json!({"type": "m.login.token", "token": token});
    let reply = synapse.call(Method::POST, "/_matrix/client/v3/login", None, Some(&body)).await;
    match (reply.body["user_id"].as_str(), reply.body["access_token"].as_str()) {
        (Some(mxid), Some(token)) => Outcome::In { mxid: mxid.to_owned(), token: token.to_owned() },
        _ => Outcome::Refused(reply),
    }
}
