//! The Matrix room that notices go to, as the service's own account, by single requests without any state of a client.

use std::time::Duration;

use async_trait::async_trait;
use matrix_sdk::{
    Client, HttpError, SessionMeta, SessionTokens,
    authentication::matrix::MatrixSession,
    config::RequestConfig,
    ruma::{
        OwnedRoomId, OwnedRoomOrAliasId, OwnedTransactionId, OwnedUserId, RoomId, RoomOrAliasId, UserId,
        api::{
            client::{
                account::whoami,
                alias::get_alias,
                membership::{join_room_by_id, joined_rooms},
                message::send_message_event,
                state::get_state_event_for_key,
            },
            error::ErrorKind,
        },
        events::{StateEventType, room::message::RoomMessageEventContent},
    },
    store::RoomLoadSettings,
};
use reqwest::{Certificate, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::OnceCell;
use url::Url;

use crate::{
    domain::{Failure, FailureClass, Peer},
    ports::Noticeboard,
};

/// The longest that a single try may take. A notice is not worth more waiting.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How often a request is repeated; the library's own default goes on for a quarter of an hour.
const RETRIES: usize = 2;

/// What is needed to write to a room.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the homeserver is.
    pub url: Url,
    /// The access token of the service's account.
    pub token: SecretString,
    /// Certificate authorities (PEM) that are trusted beside the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// The room.
    pub room: OwnedRoomOrAliasId,
}

/// A room on the homeserver. Nothing is asked before it is needed.
#[derive(Debug)]
pub struct MatrixRoom {
    options: Options,
    client: OnceCell<(Client, OwnedUserId)>,
}

impl MatrixRoom {
    /// The room of these options.
    pub fn new(options: Options) -> Self {
        Self { options, client: OnceCell::new() }
    }

    fn failure(&self, class: FailureClass, why: impl Into<String>) -> Failure {
        Failure::new(Peer::Synapse, class, format!("looking at the room {}", self.options.room), why)
    }

    /// The client, and who we are.
    async fn client(&self) -> Result<&(Client, OwnedUserId), Failure> {
        self.client
            .get_or_try_init(|| async {
                // Who we are has to be asked with the token, and the token goes with a session that names us. For single
                // requests only the token counts.
                let nobody = UserId::parse("@unknown:unknown.invalid")
                    .map_err(|error| self.failure(FailureClass::Permanent, error.to_string()))?;
                let client = self.log_in(nobody).await?;
                let own =
                    client.send(whoami::v3::Request::new()).await.map_err(|error| self.explain(error))?;
                Ok((client, own.user_id))
            })
            .await
    }

    async fn log_in(&self, user_id: OwnedUserId) -> Result<Client, Failure> {
        let unusable = |why: String| self.failure(FailureClass::Permanent, why);
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("defguard-synapse-sync/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none());
        if let Some(pem) = &self.options.ca_pem {
            let authorities =
                Certificate::from_pem_bundle(pem).map_err(|error| unusable(error.to_string()))?;
            http = http.tls_certs_merge(authorities);
        }
        let client = Client::builder()
            .homeserver_url(self.options.url.as_str())
            .http_client(http.build().map_err(|error| unusable(error.to_string()))?)
            .request_config(RequestConfig::new().retry_limit(RETRIES).timeout(TIMEOUT))
            .build()
            .await
            .map_err(|error| unusable(error.to_string()))?;
        let session = MatrixSession {
            meta: SessionMeta { user_id, device_id: "NOTICES".into() },
            tokens: SessionTokens {
                access_token: self.options.token.expose_secret().to_owned(),
                refresh_token: None,
            },
        };
        client
            .matrix_auth()
            .restore_session(session, RoomLoadSettings::default())
            .await
            .map_err(|error| unusable(error.to_string()))?;
        Ok(client)
    }

    /// The id of the room.
    async fn room(&self, client: &Client) -> Result<OwnedRoomId, Failure> {
        let alias = match <&RoomId>::try_from(self.options.room.as_ref() as &RoomOrAliasId) {
            Ok(room) => return Ok(room.to_owned()),
            Err(alias) => alias.to_owned(),
        };
        match client.send(get_alias::v3::Request::new(alias)).await {
            Ok(found) => Ok(found.room_id),
            Err(error) if matches!(error.client_api_error_kind(), Some(ErrorKind::NotFound)) => Err(self
                .failure(FailureClass::Permanent, "the homeserver knows no such alias")
                .mend("see whether notices.room is spelled right, or give the room's id")),
            Err(error) => Err(self.explain(error)),
        }
    }

    async fn is_in(&self, client: &Client, room: &RoomId) -> Result<bool, Failure> {
        let joined =
            client.send(joined_rooms::v3::Request::new()).await.map_err(|error| self.explain(error))?;
        Ok(joined.joined_rooms.iter().any(|joined| joined == room))
    }

    fn not_in(&self, own: &UserId) -> Failure {
        self.failure(FailureClass::Permanent, format!("{own}, the account of this service, is not in it"))
            .mend(format!("invite {own} there; the daemon accepts it by itself"))
    }

    /// Refuses an encrypted room: nothing here encrypts, and Synapse would take plain text all the same.
    async fn refuse_encrypted(&self, client: &Client, room: OwnedRoomId) -> Result<(), Failure> {
        let event_type = StateEventType::RoomEncryption;
        let request = get_state_event_for_key::v3::Request::new(room, event_type, String::new());
        match client.send(request).await {
            Ok(_) => Err(self
                .failure(FailureClass::Permanent, "it is encrypted, and this service cannot encrypt")
                .mend("make another room without encryption for notices; encryption cannot be switched off")),
            Err(error) if matches!(error.client_api_error_kind(), Some(ErrorKind::NotFound)) => Ok(()),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// What went wrong, without the address, which can hold the room's name.
    fn explain(&self, error: HttpError) -> Failure {
        if let Some(refusal) = error.as_client_api_error() {
            let status = refusal.status_code.as_u16();
            let code =
                error.client_api_error_kind().map_or_else(String::new, |kind| format!(" {}", kind.errcode()));
            let (class, mend) = match status {
                401 => (
                    FailureClass::Unauthorised,
                    "the access token (synapse.token_file) is not valid any more; put a new one there",
                ),
                403 => (
                    FailureClass::Permanent,
                    "let the service's account send messages there (its power level in the room)",
                ),
                429 => (FailureClass::RateLimited(None), "it is tried again later"),
                500.. => (FailureClass::Transient, "look at Synapse's log"),
                _ => (FailureClass::Permanent, "see whether notices.room is right"),
            };
            return self.failure(class, format!("status {status}{code}")).mend(mend);
        }
        let why = match error {
            HttpError::Reqwest(error) => error.without_url().to_string(),
            other => other.to_string(),
        };
        self.failure(FailureClass::Transient, why)
            .mend("see whether Synapse runs and can be reached at synapse.url")
    }
}

#[async_trait]
impl Noticeboard for MatrixRoom {
    async fn examine(&self) -> Result<(), Failure> {
        let (client, own) = self.client().await?;
        let room = self.room(client).await?;
        if !self.is_in(client, &room).await? {
            return Err(self.not_in(own));
        }
        self.refuse_encrypted(client, room).await
    }

    async fn post(&self, text: &str, key: &str) -> Result<(), Failure> {
        let (client, own) = self.client().await?;
        let room = self.room(client).await?;
        if !self.is_in(client, &room).await? {
            // An invitation is accepted; without one, or a room that is open, we may not.
            let joined = client.send(join_room_by_id::v3::Request::new(room.clone())).await;
            joined.map_err(|_| self.not_in(own))?;
        }
        self.refuse_encrypted(client, room.clone()).await?;
        let content = RoomMessageEventContent::text_plain(text);
        let request = send_message_event::v3::Request::new(room, OwnedTransactionId::from(key), &content)
            .map_err(|error| self.failure(FailureClass::Permanent, error.to_string()))?;
        client.send(request).await.map(drop).map_err(|error| self.explain(error))
    }
}
