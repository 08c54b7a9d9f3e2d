//! A real Synapse that leaves accounts and logins to the Matrix Authentication Service. In the service's place
//! stands what Synapse asks it for: its metadata, and whose a token is.

use axum::{
    Json, Router,
    routing::{get, post},
};
use defguard_synapse_sync::{
    domain::{AccountPatch, FailureClass, Lookup},
    ports::Homeserver as _,
};
use reqwest::Method;
use serde_json::json;

use crate::{
    Proxy, adapter_with, matrix_error, mxid,
    support::{
        proxy::on,
        synapse::{Options, Synapse},
    },
    unknown,
};

const SECRET: &str = "mas-in-tests";

/// Starts the stand-in and says where it is. It ends with the test's runtime.
async fn mas() -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let metadata = json!({ "issuer": url, "account_management_uri": format!("{url}account") });
    let token = json!({
        "active": true,
        "username": "admin",
        "scope": "urn:matrix:client:api:* urn:synapse:admin:*",
    });
    let service = Router::new()
        .route("/.well-known/openid-configuration", get(|| async { Json(metadata) }))
        .route("/oauth2/introspect", post(|| async { Json(token) }));
    tokio::spawn(async { axum::serve(listener, service).await });
    url
}

async fn delegating(mas: &str) -> Synapse {
    let mut options = Options { admin: false, oidc_provider: None, ..Options::default() };
    let service = json!({ "enabled": true, "endpoint": mas, "secret": SECRET });
    options.extra.insert("matrix_authentication_service".to_owned(), service);
    options.extra.insert("password_config".to_owned(), json!({ "enabled": false }));
    options.extra.insert("enable_3pid_changes".to_owned(), false.into());
    let synapse = Synapse::start(options).await.unwrap();
    let admin = json!({ "localpart": "admin" });
    let made = synapse.call(Method::POST, "/_synapse/mas/provision_user", Some(SECRET), Some(&admin)).await;
    assert_eq!(made.status, 201, "{made:?}");
    synapse
}

#[tokio::test]
async fn a_real_synapse_under_mas_is_refused_however_it_shows() {
    let server = delegating(&mas().await).await;
    let proxy = Proxy::start(&server.url()).await;
    let synapse = adapter_with(&proxy.url(), "token-of-mas");

    let by_metadata = synapse.identify().await.unwrap_err();
    let hidden = matrix_error("M_UNRECOGNIZED", "Unrecognized request");
    let rule = proxy.answer(on(Method::GET, "/auth_metadata"), 404, hidden);
    let by_missing_path = synapse.identify().await.unwrap_err();
    proxy.remove(rule);
    let by_create = synapse.put(&mxid("mas-new"), &AccountPatch::default()).await.unwrap_err();
    for failure in [by_metadata, by_missing_path, by_create] {
        assert_eq!(failure.class, FailureClass::Permanent, "{failure}");
        assert!(failure.why.contains("MAS"), "{failure}");
        assert!(failure.mend.is_some());
    }
    assert_eq!(synapse.get(&mxid("mas-new")).await, Lookup::Absent);
}

#[tokio::test]
async fn a_mas_that_is_away_says_nothing_about_accounts() {
    // A port on which nobody listens any more.
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let server = delegating(&format!("http://{}/", free.local_addr().unwrap())).await;
    drop(free);
    let synapse = adapter_with(&server.url(), "token-of-mas");
    assert_eq!(synapse.identify().await.unwrap_err().class, FailureClass::Transient);
    assert_eq!(unknown(synapse.get(&mxid("mas-away")).await).class, FailureClass::Transient);
}
