//! Defguard's webhooks (`docs/facts/defguard.md` section 6): what is registered, what should be, and how to get there.

use std::fmt;

use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{
    Defguard, endpoint,
    explain::{Asked, refuse_old_version},
    wire::ShapeError,
};
use crate::{
    domain::{Failure, FailureClass},
    http::Answer,
};

/// A webhook as Defguard remembers it.
#[derive(Debug, Clone, Deserialize)]
pub struct Webhook {
    /// Its number in Defguard.
    pub id: i64,
    /// Where events are sent.
    pub url: String,
    /// What an admin wrote about it.
    pub description: String,
    /// What is sent along as a proof.
    pub token: SecretString,
    /// Whether it is switched on.
    pub enabled: bool,
    /// Whether new people are told.
    pub on_user_created: bool,
    /// Whether deleted people are told.
    pub on_user_deleted: bool,
    /// Whether changed people are told.
    pub on_user_modified: bool,
    /// Whether new hardware keys are told.
    pub on_hwkey_provision: bool,
}

/// What of a webhook is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// It is switched off.
    Disabled,
    /// It does not tell of everything that we want to know.
    Events,
    /// Its token is not ours.
    Token,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "it is switched off",
            Self::Events => "it does not send all of user created, modified and deleted",
            Self::Token => "its token is another one than that of webhook.token_file",
        })
    }
}

/// What has to be done for a webhook to be as it should be.
#[derive(Debug, Clone)]
pub enum Setup {
    /// Nothing.
    InPlace,
    /// It has to be added.
    Add,
    /// It has to be changed.
    Change {
        /// How it is now.
        now: Box<Webhook>,
        /// What is not right about it.
        differences: Vec<Difference>,
    },
}

/// Decides what has to be done so that events are sent to `url` with `token`. Defguard has each address once.
pub fn decide(webhooks: &[Webhook], url: &Url, token: &SecretString) -> Setup {
    let same = |webhook: &&Webhook| Url::parse(&webhook.url).is_ok_and(|known| known == *url);
    let Some(now) = webhooks.iter().find(same) else { return Setup::Add };
    let mut differences = Vec::new();
    if !now.enabled {
        differences.push(Difference::Disabled);
    }
    if !(now.on_user_created && now.on_user_deleted && now.on_user_modified) {
        differences.push(Difference::Events);
    }
    if now.token.expose_secret() != token.expose_secret() {
        differences.push(Difference::Token);
    }
    if differences.is_empty() {
        return Setup::InPlace;
    }
    Setup::Change { now: Box::new(now.clone()), differences }
}

impl Defguard {
    /// All webhooks that are registered.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, Failure> {
        let asked = self.asked("reading the webhooks", None);
        self.get(asked, &endpoint(&self.url, &["webhook"]), |answer| {
            asked.expect_json(answer)?;
            read(&answer.body).map_err(|error| asked.misshapen(&error))
        })
        .await
    }

    /// Registers a webhook for people who are created, changed and deleted.
    pub async fn add_webhook(&self, url: &Url, token: &SecretString) -> Result<(), Failure> {
        let asked = self.asked("registering the webhook", None);
        let body = body(url.as_str(), "defguard-synapse-sync", token, false);
        let url = endpoint(&self.url, &["webhook"]);
        let answer = self.write(asked, Method::POST, &url, &body).await?;
        done(&asked, &answer)
    }

    /// Switches a webhook on, for people who are created, changed and deleted, with this token. Its address, its
    /// description and what else it tells stay.
    pub async fn change_webhook(&self, now: &Webhook, token: &SecretString) -> Result<(), Failure> {
        let asked = self.asked("changing the webhook", None);
        let body = body(&now.url, &now.description, token, now.on_hwkey_provision);
        let url = endpoint(&self.url, &["webhook", &now.id.to_string()]);
        let answer = self.write(asked, Method::PUT, &url, &body).await?;
        done(&asked, &answer)
    }
}

fn body(url: &str, description: &str, token: &SecretString, on_hwkey_provision: bool) -> Value {
    json!({
        "url": url,
        "description": description,
        "token": token.expose_secret(),
        "enabled": true,
        "on_user_created": true,
        "on_user_deleted": true,
        "on_user_modified": true,
        "on_hwkey_provision": on_hwkey_provision,
    })
}

/// Defguard says 400 and 404 without a word.
fn done(asked: &Asked<'_>, answer: &Answer) -> Result<(), Failure> {
    refuse_old_version(asked, answer)?;
    match answer.status.as_u16() {
        400 => Err(asked
            .failure(FailureClass::Permanent, "status 400: Defguard does not take it")
            .mend("See in Defguard's settings whether there is a webhook with this address; take it out and try again.")),
        404 => Err(asked
            .failure(FailureClass::Permanent, "status 404: it is not there any more")
            .mend("Somebody took it out at this moment; try again.")),
        _ => asked.expect_json(answer),
    }
}

fn read(body: &[u8]) -> Result<Vec<Webhook>, ShapeError> {
    let value: Value = serde_json::from_slice(body).map_err(|_| ShapeError::NotJson)?;
    serde_json::from_value(value)
        .map_err(|_| ShapeError::Shape("it is not a list of webhooks as Defguard 2.x sends it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://matrix.example.com/webhook/defguard";

    fn webhook(change: impl FnOnce(&mut Value)) -> Webhook {
        let mut value = body(URL, "ours", &SecretString::from("right"), false);
        value["id"] = json!(3);
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn differences(webhooks: &[Webhook]) -> Option<Vec<Difference>> {
        match decide(webhooks, &Url::parse(URL).unwrap(), &SecretString::from("right")) {
            Setup::Add => None,
            Setup::InPlace => Some(Vec::new()),
            Setup::Change { now, differences } => {
                assert_eq!((now.id, differences.is_empty()), (3, false));
                Some(differences)
            }
        }
    }

    #[test]
    fn it_is_added_if_no_other_has_its_address_and_left_alone_if_it_is_right() {
        let other = webhook(|it| it["url"] = json!("https://other.example.com/"));
        let broken = webhook(|it| it["url"] = json!("no address"));
        assert_eq!(differences(&[]), None);
        assert_eq!(differences(&[other.clone(), broken]), None);
        assert_eq!(differences(&[other, webhook(|_| {})]), Some(vec![]));
        assert_eq!(
            differences(&[webhook(|it| it["url"] = json!(URL.replace("matrix", "MATRIX")))]),
            Some(vec![])
        );
    }

    #[test]
    fn everything_that_is_not_right_about_it_is_named() {
        for (key, value, difference) in [
            ("enabled", json!(false), Difference::Disabled),
            ("on_user_created", json!(false), Difference::Events),
            ("on_user_modified", json!(false), Difference::Events),
            ("on_user_deleted", json!(false), Difference::Events),
            ("token", json!("another"), Difference::Token),
        ] {
            assert_eq!(differences(&[webhook(|it| it[key] = value)]), Some(vec![difference]), "{key}");
        }
        let all = webhook(|it| {
            (it["enabled"], it["token"], it["on_user_deleted"]) = (json!(false), json!("x"), json!(false));
        });
        assert_eq!(
            differences(&[all]),
            Some(vec![Difference::Disabled, Difference::Events, Difference::Token])
        );
    }

    #[test]
    fn a_list_of_another_shape_is_refused_and_no_token_is_shown() {
        for body in ["", "{}", "[{}]", "[{\"id\": 1, \"token\": \"secret\"}]", "<html>"] {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
        assert!(!format!("{:?}", webhook(|_| {})).contains("right"));
    }
}
