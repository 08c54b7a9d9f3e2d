//! A server on a free port of the loopback interface that answers each path with what it was told.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex},
};

use axum::{body::Body, extract::Request, response::Response};
use percent_encoding::percent_decode_str;
use tokio::{net::TcpListener, runtime::Runtime};
use url::Url;

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) cookie: Option<Vec<u8>>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, kind: "application/json", cookie: None, body: body.into() }
    }
}

/// All tests of this program share one runtime; laws are not asynchronous.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

pub(crate) struct Server {
    pub(crate) url: Url,
    replies: Arc<Mutex<BTreeMap<String, Reply>>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let replies = Arc::new(Mutex::new(BTreeMap::<String, Reply>::new()));
        let shared = Arc::clone(&replies);
        let answer = move |request: Request| {
            let shared = Arc::clone(&shared);
            async move {
                let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
                let target =
                    format!("{} {}", request.method(), percent_decode_str(target).decode_utf8_lossy());
                let reply = shared.lock().unwrap().get(&target).cloned();
                // Synapse's own answer to what it does not know.
                let reply = reply.unwrap_or_else(|| {
                    Reply::json(404, r#"{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}"#)
                });
                let mut response =
                    Response::builder().status(reply.status).header("content-type", reply.kind);
                if let Some(cookie) = reply.cookie {
                    response = response.header("set-cookie", cookie);
                }
                response.body(Body::from(reply.body)).unwrap()
            }
        };
        let listener = RUNTIME.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let app = axum::Router::new().fallback(answer);
        RUNTIME.spawn(async move { axum::serve(listener, app).await });
        Self { url, replies }
    }

    /// Sets the answer to a request such as `GET /path?query`.
    pub(crate) fn set(&self, request: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(request.to_owned(), reply);
    }
}
