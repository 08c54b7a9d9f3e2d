//! Defguard as an OpenID provider: what it says about itself, and its OpenID apps (`docs/facts/defguard.md` section 7).

use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::SecretString;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use url::Url;

use super::{
    Defguard, MOST_PAGES, PER_PAGE, endpoint,
    explain::{Asked, refuse_old_version, unanswered},
    wire::ShapeError,
};
use crate::{
    domain::{Failure, FailureClass},
    http::Answer,
};

/// An OpenID app, which Defguard's API calls a client.
#[derive(Debug, Clone, Deserialize)]
pub struct App {
    /// What identifies it, in a login and in Defguard's API. It never changes.
    pub client_id: String,
    /// The secret that it proves itself with.
    pub client_secret: SecretString,
    /// What can be changed.
    #[serde(flatten)]
    pub data: AppData,
}

/// What can be changed about an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppData {
    /// What people see when they are asked for consent. Several apps can have the same.
    pub name: String,
    /// Where a login may lead back to.
    #[serde(rename = "redirect_uri")]
    pub redirect_uris: Vec<String>,
    /// The scopes that a login may ask for. A login that asks for another one is refused.
    #[serde(rename = "scope")]
    pub scopes: Vec<String>,
    /// Whether anybody can log in by it.
    pub enabled: bool,
}

/// What Defguard says about itself as an OpenID provider, spelled as it spells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Discovery {
    /// Who signs; with a slash at the end.
    pub issuer: String,
    /// Where people are sent to log in.
    pub authorization_endpoint: String,
    /// Where Synapse redeems a code.
    pub token_endpoint: String,
    /// Where claims can be asked for.
    pub userinfo_endpoint: String,
    /// Where the keys are published.
    pub jwks_uri: String,
}

#[derive(Deserialize)]
struct AppPage {
    data: Vec<App>,
    pagination: Pagination,
}

#[derive(Deserialize)]
struct Pagination {
    next_page: Option<u64>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Defguard {
    /// What Defguard says about itself as an OpenID provider. Everybody may ask.
    pub async fn discovery(&self) -> Result<Discovery, Failure> {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend([".well-known", "openid-configuration"]);
        }
        self.ask_anonymously(self.asked("asking Defguard how people log in", None), &url).await
    }

    /// How many keys Defguard publishes that a login's token can be verified with. None means that it signs with the
    /// secret of each app (HS256), which Synapse does not take.
    pub async fn signing_keys(&self) -> Result<usize, Failure> {
        let url = endpoint(&self.url, &["oauth", "discovery", "keys"]);
        let asked = self.asked("reading the keys that Defguard signs logins with", None);
        let set: KeySet = self.ask_anonymously(asked, &url).await?;
        Ok(set.keys.iter().filter(|key| key.get("kty").and_then(Value::as_str) == Some("RSA")).count())
    }

    /// All OpenID apps, from all pages. Only administrators see them.
    pub async fn apps(&self) -> Result<Vec<App>, Failure> {
        let asked = self.asked("reading the list of OpenID apps", None);
        let mut apps: Vec<App> = Vec::new();
        let mut next = Some(1);
        while let Some(number) = next.filter(|number| *number <= MOST_PAGES) {
            let mut url = endpoint(&self.url, &["oauth"]);
            url.query_pairs_mut().append_pair("page", &number.to_string()).append_pair("per_page", PER_PAGE);
            let page: AppPage = self.get(asked, &url, |answer| read(&asked, answer)).await?;
            // A page that leads back, or nowhere, ends the list.
            next = page.pagination.next_page.filter(|next| *next == number + 1 && !page.data.is_empty());
            for app in page.data {
                // Rows can move from page to page while they are read.
                if !apps.iter().any(|known| known.client_id == app.client_id) {
                    apps.push(app);
                }
            }
        }
        Ok(apps)
    }

    /// Makes a new app. Not to be repeated: Defguard makes another one each time.
    pub async fn create_app(&self, data: &AppData) -> Result<App, Failure> {
        let asked = self.asked("making the OpenID app", None);
        let url = endpoint(&self.url, &["oauth"]);
        let answer = self
            .write(asked, Method::POST, &url, &json!(data))
            .await
            .map_err(|failure| unknown_outcome(failure, &data.name))?;
        read(&asked, &answer)
    }

    /// Changes an app, which keeps its id and its secret.
    pub async fn change_app(&self, client_id: &str, data: &AppData) -> Result<(), Failure> {
        let asked = self.asked("correcting the OpenID app", None);
        let url = endpoint(&self.url, &["oauth", client_id]);
        let answer = self.write(asked, Method::PUT, &url, &json!(data)).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(asked
                .failure(FailureClass::Permanent, "the app is gone")
                .mend("Somebody deleted it at this moment. Run the command again."));
        }
        asked.expect_json(&answer)
    }

    /// Sends a request as it is, one time; an answer of whatever status.
    pub(super) async fn send(&self, asked: Asked<'_>, request: RequestBuilder) -> Result<Answer, Failure> {
        self.http.once(asked.what, request).await.map_err(unanswered)
    }

    async fn ask_anonymously<T: DeserializeOwned>(&self, asked: Asked<'_>, url: &Url) -> Result<T, Failure> {
        self.http
            .repeated(|| async move {
                let answer = self.send(asked, self.http.client().get(url.clone())).await?;
                refuse_old_version(&asked, &answer)?;
                read(&asked, &answer)
            })
            .await
    }
}

pub(super) fn read<T: DeserializeOwned>(asked: &Asked<'_>, answer: &Answer) -> Result<T, Failure> {
    asked.expect_json(answer)?;
    let value: Value =
        serde_json::from_slice(&answer.body).map_err(|_| asked.misshapen(&ShapeError::NotJson))?;
    // Its error could quote a secret.
    serde_json::from_value(value)
        .map_err(|_| asked.misshapen(&ShapeError::Shape("it is not as Defguard 2.x sends it")))
}

/// The app may have been made although no answer came.
fn unknown_outcome(failure: Failure, name: &str) -> Failure {
    if failure.class == FailureClass::Transient {
        return failure.mend(format!(
            "Run the command again: it finds the app {name} if Defguard made it in spite of this."
        ));
    }
    failure
}
