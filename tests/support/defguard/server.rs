//! The HTTP server: hyper by hand, so that a connection can be closed without an answer; behind it the axum router.

use std::{convert::Infallible, io, net::Ipv4Addr, sync::Arc};

use axum::{Router, body::Body, http::HeaderValue, response::Response};
use bytes::Bytes;
use defguard_synapse_sync::ports::Clock as _;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::{body::Incoming, header, service::Service as _};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use url::Url;

use super::{Shared, api, faults::Action};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub user_agent: Option<String>,
    /// `None` until answered, and for good if the connection was cut.
    pub status: Option<u16>,
}

#[derive(Debug, Default)]
pub struct Log {
    pub requests: Vec<Request>,
    pub most_at_once: usize,
    under_way: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("the connection is cut on purpose")]
struct Cut;

pub async fn start(shared: Arc<Shared>) -> (Url, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let router = TowerToHyperService::new(api::router(Arc::clone(&shared)));
    let server = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (shared, router) = (Arc::clone(&shared), router.clone());
            connections.spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    serve(Arc::clone(&shared), router.clone(), request)
                });
                // An error is a client that went away or a cut on purpose.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
            while connections.try_join_next().is_some() {}
        }
    });
    (url, server)
}

async fn serve(
    shared: Arc<Shared>,
    router: TowerToHyperService<Router>,
    request: hyper::Request<Incoming>,
) -> Result<Response, Cut> {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method.to_string(), parts.uri.path().to_owned());
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let entry = Entry::new(
        &shared,
        Request {
            method: method.clone(),
            path: path.clone(),
            user_agent: parts
                .headers
                .get(header::USER_AGENT)
                .map(|v| String::from_utf8_lossy(v.as_bytes()).into()),
            status: None,
            query: query.clone(),
        },
    );
    let page = url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == "page")
        .and_then(|(_, page)| page.parse().ok());
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let (delay, action) = shared.faults.lock().unwrap().for_request(&method, &path, page);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut response = match action {
        Some(Action::Cut) => return Err(Cut),
        Some(Action::Answer { status, headers, body }) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Body::from(body)).unwrap()
        }
        action => {
            let answer: Result<Response, Infallible> =
                router.call(hyper::Request::from_parts(parts, Body::from(body))).await;
            let Ok(answer) = answer;
            match action {
                Some(Action::LoseAnswer) => return Err(Cut),
                Some(action) => spoil(answer, &action).await,
                None => answer,
            }
        }
    };
    let version = HeaderValue::from_str(&shared.state().version).unwrap();
    let dropped = response.headers_mut().remove(DROPPED);
    response.headers_mut().insert(VERSION, version);
    let date = shared.time.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    response.headers_mut().insert(header::DATE, HeaderValue::from_str(&date).unwrap());
    if path != "/.well-known/openid-configuration" {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(name) = dropped {
        response.headers_mut().remove(name.to_str().unwrap());
    }
    entry.answered(response.status().as_u16());
    Ok(response)
}

const VERSION: &str = "defguard-component-version";
/// Carries the name of a header that is to be dropped past the place where all headers are set.
const DROPPED: &str = "x-dropped";

async fn spoil(answer: Response, action: &Action) -> Response {
    let (mut parts, body) = answer.into_parts();
    let body: Bytes = body.collect().await.unwrap().to_bytes();
    let half = body.slice(..body.len() / 2);
    let body = match action {
        Action::CutBody => {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            let cut = Err(io::Error::from(io::ErrorKind::ConnectionReset));
            return Response::from_parts(parts, Body::from_stream(stream::iter([Ok(half), cut])));
        }
        Action::Truncate => half,
        Action::Edit(edit) => match serde_json::from_slice::<Value>(&body) {
            Ok(mut value) => {
                edit(&mut value);
                Bytes::from(value.to_string())
            }
            Err(_) => body,
        },
        Action::DropHeader(name) => {
            parts.headers.insert(DROPPED, HeaderValue::from_static(name));
            body
        }
        Action::Answer { .. } | Action::Delay(_) | Action::Cut | Action::LoseAnswer => body,
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body))
}

/// A line of the log while its request is under way.
struct Entry<'a> {
    shared: &'a Shared,
    position: usize,
}

impl<'a> Entry<'a> {
    fn new(shared: &'a Shared, request: Request) -> Self {
        let mut log = shared.log.lock().unwrap();
        log.requests.push(request);
        log.under_way += 1;
        log.most_at_once = log.most_at_once.max(log.under_way);
        let position = log.requests.len() - 1;
        drop(log);
        Self { shared, position }
    }

    fn answered(&self, status: u16) {
        if let Some(request) = self.shared.log.lock().unwrap().requests.get_mut(self.position) {
            request.status = Some(status);
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.shared.log.lock().unwrap().under_way -= 1;
    }
}
