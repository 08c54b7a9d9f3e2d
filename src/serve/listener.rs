//! An HTTP listener on TCP that no client can use up: connections are bounded in number, each of them in time.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::domain::{Failure, FailureClass, Peer};

/// What one listener gives its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many connections may be open at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// How long a client may take to send the head of a request, and keep an idle connection.
    pub head: Duration,
    /// How long a connection may last in all.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, head: Duration::from_secs(10), connection: Duration::from_secs(60) }
    }
}

/// How long requests under way are waited for at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The pause after the kernel could not give out a connection, which happens when no file descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

impl Listener {
    /// Binds an address. `key` is the key of the config that gives it.
    pub async fn bind(address: SocketAddr, key: &str) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::new(
                Peer::Store,
                FailureClass::Permanent,
                format!("listening on {address}"),
                error.to_string(),
            )
            .mend(format!("set {key} to an address of this machine and a port that nobody else uses"))
        };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address, limits: Limits::default() })
    }

    /// The same with other limits.
    #[must_use]
    pub fn limited(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The address, with the port that was given if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then for a moment more, until the requests under way are answered.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let connections = TaskTracker::new();
        while let Some(accepted) = stop.run_until_cancelled(accept(&self.socket, &places)).await {
            match accepted {
                Ok((stream, place)) => {
                    let (router, stop, limits) = (router.clone(), stop.clone(), self.limits);
                    connections.spawn(async move {
                        let _place = place;
                        if timeout(limits.connection, converse(stream, router, limits.head, stop))
                            .await
                            .is_err()
                        {
                            tracing::debug!("a connection lasted too long and was closed");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, address = %self.address, "no connection could be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        connections.close();
        let _ = timeout(LAST_ANSWERS, connections.wait()).await;
    }
}

async fn accept(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = socket.accept().await?;
    Ok((stream, place))
}

/// Answers the requests of one connection.
async fn converse(stream: TcpStream, router: Router, head: Duration, stop: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

    async fn serving(limits: Limits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), "x.listen").await.unwrap().limited(limits);
        let (address, stop) = (listener.address(), CancellationToken::new());
        let router = Router::new().route("/", get(|| async { "hello" }));
        (address, stop.clone(), tokio::spawn(listener.serve(router, stop)))
    }

    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(ASK).await.unwrap();
        let mut answer = vec![0; 1024];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_connection_serves_several_requests_and_the_end_does_not_wait_for_idle_ones() {
        let (address, stop, served) = serving(Limits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut stream).await.ends_with("hello"));
        assert!(ask(&mut stream).await.ends_with("hello"));
        stop.cancel();
        timeout(Duration::from_secs(60), served).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn a_client_that_never_finishes_its_request_is_cut_off() {
        let head = Duration::from_millis(50);
        let (address, ..) = serving(Limits { head, ..Limits::default() }).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nX: ").await.unwrap();
        let mut rest = Vec::new();
        timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_does_not_last_longer_than_it_may() {
        let connection = Duration::from_millis(50);
        let (address, ..) = serving(Limits { connection, ..Limits::default() }).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut stream).await.ends_with("hello"));
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await.unwrap();
    }

    #[tokio::test]
    async fn more_connections_than_there_are_places_wait_for_one() {
        let (address, ..) = serving(Limits { connections: 1, ..Limits::default() }).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut first).await.ends_with("hello"));
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(ASK).await.unwrap();
        let mut byte = [0; 1];
        assert!(timeout(Duration::from_millis(50), second.read(&mut byte)).await.is_err());
        drop(first);
        assert_eq!(timeout(Duration::from_secs(60), second.read(&mut byte)).await.unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_refused_with_the_key_to_change() {
        let first = Listener::bind(([127, 0, 0, 1], 0).into(), "x.listen").await.unwrap();
        let failure = Listener::bind(first.address(), "x.listen").await.unwrap_err();
        assert!(failure.what.contains(&first.address().to_string()), "{failure}");
        assert!(failure.mend.unwrap().contains("x.listen"));
    }
}
