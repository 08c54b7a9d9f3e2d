//! `[webhook]` and `[notices]`: how Defguard tells us that something happened, and where we tell people.
//!
//! Both may be left out. The outer `Option` of what these functions give is `None` if something is wrong, the inner one
//! if the part is not wished.

use std::{net::SocketAddr, time::Duration};

use matrix_sdk::ruma::RoomOrAliasId;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::{HOUR, MINUTE};
use crate::{
    config::{
        environment::Environment,
        raw::Table,
        secrets::{self, Source, Wanted},
        settings::{NoticeSettings, WebhookSettings},
    },
    serve::webhook::PATH,
};

const TOKEN: Wanted = Wanted { key: "token_file", name: "webhook-token", what: "the token of the webhook" };

/// Shorter tokens can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Such a change is in Synapse within two seconds of its event, at the default.
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// What is received.
pub(super) fn webhook(mut table: Table<'_, '_>, env: &Environment) -> Option<Option<WebhookSettings>> {
    let listen = table.text("listen");
    let source = secrets::source(&mut table, &TOKEN, env);
    let url = table.text("url");
    let delay =
        table.duration("delay", Duration::from_millis(500), Duration::from_millis(100), LONGEST_DELAY);
    let Some(listen) = listen else {
        let given = [
            url.map(|url| url.at),
            source.filter(|it| matches!(it, Source::File(_))).map(|it| it.at().clone()),
        ];
        for at in given.into_iter().flatten() {
            table.find(at.error(
                "nothing listens for the webhook, so this has no effect",
                "Give `webhook.listen`, such as \"127.0.0.1:9118\", or take this out.",
            ));
        }
        table.close();
        return Some(None);
    };
    let address = match listen.value.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        _ => {
            table.find(listen.at.error(
                "this is not an IP address with a port",
                "Write something like \"127.0.0.1:9118\" or \"[::1]:9118\".",
            ));
            None
        }
    };
    if address.is_some_and(|address| !address.ip().is_loopback()) {
        table.find(listen.at.warning(
            "others than this machine can reach it, and the token comes without encryption",
            "Listen on 127.0.0.1 or [::1], behind a proxy that takes https.",
        ));
    }
    let token = match &source {
        Some(source) => token(&mut table, source),
        None => {
            let finding = table.missing(TOKEN.key).error(
                "the token that Defguard has to send is missing",
                format!("Make one, for example with `openssl rand -hex 32`. {}", TOKEN.ways()),
            );
            table.find(finding);
            None
        }
    };
    let url = match url {
        Some(text) => {
            match Url::parse(&text.value).ok().filter(|url| matches!(url.scheme(), "http" | "https")) {
                Some(url) if url.username().is_empty() && url.password().is_none() => {
                    if !url.path().ends_with(PATH) {
                        table.find(text.at.warning(
                            format!("the path does not end with {PATH}, where the listener expects it"),
                            format!("Let the proxy change the path to {PATH}, or write it here."),
                        ));
                    }
                    Some(url)
                }
                _ => {
                    table.find(text.at.error(
                        "this is not an address that Defguard can send to",
                        format!("Write something like \"https://matrix.example.com{PATH}\"."),
                    ));
                    None
                }
            }
        }
        None => address.and_then(|address| Url::parse(&format!("http://{address}{PATH}")).ok()),
    };
    table.close();
    Some(Some(WebhookSettings { listen: address?, url: url?, token: token?, delay }))
}

fn token(table: &mut Table<'_, '_>, source: &Source) -> Option<SecretString> {
    let token = secrets::read(table, &TOKEN, source)?;
    let text = token.expose_secret();
    if !text.chars().all(|c| c.is_ascii_graphic()) {
        table.find(source.at().error(
            "the token of the webhook has characters that Defguard cannot send in a header",
            "Use letters and digits only, for example from `openssl rand -hex 32`.",
        ));
        return None;
    }
    if text.len() < SHORTEST_TOKEN {
        table.find(source.at().warning(
            format!(
                "the token of the webhook has fewer than {SHORTEST_TOKEN} characters, so it can be guessed"
            ),
            "Make a longer one, for example with `openssl rand -hex 32`.",
        ));
    }
    Some(token)
}

/// Who is told.
pub(super) fn notices(mut table: Table<'_, '_>) -> Option<Option<NoticeSettings>> {
    let room = table.text("room");
    let unusable_after = table.duration("unusable_after", HOUR, MINUTE, 7 * 24 * HOUR);
    let settings = match room {
        None => Some(None),
        Some(text) => match RoomOrAliasId::parse(&text.value) {
            Ok(room) => Some(Some(NoticeSettings { room, unusable_after })),
            Err(_) => {
                table.find(text.at.error(
                    "this is neither a room id nor an alias",
                    "Write something like \"!AbCdEf:example.com\" (in Element: room settings, Advanced) or \
                     \"#ops:example.com\".",
                ));
                None
            }
        },
    };
    table.close();
    settings
}
