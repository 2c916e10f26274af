//! The sidecar's listener: HTTP/1.1 and HTTP/2, plain or over TLS.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Admission, Admitted},
    budget::Budgets,
    limits,
    transport::outlet::{Outlet, Prompt},
};

/// A bound listener.
#[derive(Debug)]
pub struct Sidecar {
    listener: TcpListener,
}

impl Sidecar {
    /// Binds `address`. Accepts nothing yet.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Accepted connections inherit it.
        socket.set_send_buffer_size(limits::TCP_SEND_BUFFER)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(Self { listener: TcpListener::from_std(socket.into())? })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then lets connections under way finish; `tasks` owns them.
    pub async fn serve(
        self,
        router: Router,
        tls: Option<Arc<rustls::ServerConfig>>,
        admission: Arc<Admission>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let acceptor = tls.map(TlsAcceptor::from);
        loop {
            let (stream, peer) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        pause_after(&error).await;
                        continue;
                    }
                },
            };
            // Closed at once, so that the client learns of it and tries elsewhere.
            let Some(admitted) = admission.admit(peer.ip()) else { continue };
            let (router, acceptor, stop) = (router.clone(), acceptor.clone(), stop.clone());
            tasks.spawn(async move {
                // What cannot be set up is gone already.
                let Ok(stream) = Prompt::new(stream) else { return };
                let outlet = stream.outlet();
                // Boxed, so that what TLS needs is not part of every connection's task.
                match acceptor {
                    None => serve_http(stream, outlet, router, admitted, stop).await,
                    Some(acceptor) => {
                        Box::pin(serve_tls(stream, outlet, acceptor, router, admitted, stop)).await;
                    }
                }
            });
        }
    }
}

/// Out of descriptors or memory is nothing that trying again at once would mend.
async fn pause_after(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "cannot accept a connection");
    time::sleep(Duration::from_millis(100)).await;
}

async fn serve_tls(
    stream: Prompt,
    outlet: Outlet,
    acceptor: TlsAcceptor,
    router: Router,
    admitted: Admitted,
    stop: CancellationToken,
) {
    let accepting = acceptor.accept_with(stream, |tls| tls.set_buffer_limit(Some(limits::TLS_BUFFER)));
    if let Ok(Ok(stream)) = time::timeout(limits::TLS_DEADLINE, accepting).await {
        serve_http(stream, outlet, router, admitted, stop).await;
    }
}

async fn serve_http<S>(stream: S, outlet: Outlet, router: Router, admitted: Admitted, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_DEADLINE)
        .max_buf_size(limits::HTTP1_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits::HTTP2_STREAMS)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
        .max_frame_size(limits::HTTP2_FRAME)
        .max_pending_accept_reset_streams(limits::HTTP2_RESETS)
        .max_header_list_size(limits::HTTP2_HEADER_LIST)
        .max_send_buf_size(limits::HTTP2_SEND_BUFFER)
        .keep_alive_interval(limits::HEARTBEAT)
        .keep_alive_timeout(limits::HEARTBEAT_DEADLINE);
    let way_out = outlet.clone();
    let service = TowerToHyperService::new(router);
    let (admitted, budgets) = (Arc::new(admitted), Budgets::of_connection());
    let service = service_fn({
        let admitted = admitted.clone();
        move |mut request: hyper::Request<Incoming>| {
            admitted.complete();
            // A WebSocket outlives the HTTP that it began with, and goes on to count as a connection.
            request.extensions_mut().insert(admitted.clone());
            request.extensions_mut().insert(budgets.clone());
            request.extensions_mut().insert(outlet.clone());
            service.call(request)
        }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // hyper's deadline for a request's head begins once it knows the version, which takes the peer's first bytes.
    let silent = async {
        time::sleep(limits::HEADER_DEADLINE).await;
        if admitted.is_complete() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = connection.as_mut() => {}
        () = silent => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // A peer that has vanished is not waited for.
            tokio::select! {
                _ = connection => {}
                () = way_out.quiet(limits::STOP_QUIET) => {}
            }
        }
    }
}
