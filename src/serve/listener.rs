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

/// How many connections may be open at once; further ones wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;

/// How long a client may take to send the head of a request, and keep an idle connection.
const HEAD: Duration = Duration::from_secs(10);

/// How long a connection may last in all.
const LONGEST_CONNECTION: Duration = Duration::from_secs(60);

/// How long requests under way are waited for at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The pause after the kernel could not give out a connection, which happens when no file descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
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
        Ok(Self { socket, address })
    }

    /// The address, with the port that was given if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then for a moment more, until the requests under way are answered.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let connections = TaskTracker::new();
        while let Some(accepted) = stop.run_until_cancelled(accept(&self.socket, &places)).await {
            match accepted {
                Ok((stream, place)) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(async move {
                        let _place = place;
                        if timeout(LONGEST_CONNECTION, converse(stream, router, stop)).await.is_err() {
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
async fn converse(stream: TcpStream, router: Router, stop: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
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
