//! WebTransport over HTTP/3: draft-ietf-webtrans-http3-02, as browsers speak it, on quinn, h3 and h3-webtransport.
//!
//! One task drives each QUIC connection and polls all accepting on it; a task serves each session's CONNECT stream, and
//! one each stream. They all belong to the driver, and end with it.

mod backend;
mod congestion;
mod driver;
mod early;
mod requests;
mod session;
mod stream;

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use axum::Router;
use quinn::{
    AckFrequencyConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig,
    crypto::rustls::QuicServerConfig,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{congestion::FlooredConfig, driver::Driver};
use crate::{
    access::Access,
    admission::{Admission, Admitted},
    hub::Hub,
    limits,
    tls::Certificates,
};

/// A bound QUIC endpoint.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
}

/// What every connection of a listener shares.
#[derive(Clone, Debug)]
struct Shared {
    hub: Arc<Hub>,
    access: Arc<Access>,
    router: Router,
    stop: CancellationToken,
}

impl Listener {
    /// Binds `address`. Accepts nothing yet.
    ///
    /// # Errors
    /// The system's, or an unusable certificate.
    pub fn bind(address: SocketAddr, certificates: &Arc<Certificates>) -> io::Result<Self> {
        let mut tls = certificates.server_config(&[b"h3"]).map_err(io::Error::other)?;
        // What a client sends before its address is proved could be anybody's, and sent twice.
        tls.max_early_data_size = 0;
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport_config()));
        config
            .max_incoming(limits::QUIC_INCOMING)
            .incoming_buffer_size(limits::QUIC_INCOMING_BUFFER)
            .incoming_buffer_size_total(limits::QUIC_INCOMING_BUFFERS);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&address.into())?;
        let endpoint =
            Endpoint::new(EndpointConfig::default(), Some(config), socket.into(), Arc::new(TokioRuntime))?;
        Ok(Self { endpoint })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Serves until `stop`; `tasks` owns the connections.
    pub async fn serve(
        self,
        hub: Arc<Hub>,
        access: Arc<Access>,
        router: Router,
        admission: Arc<Admission>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let shared = Shared { hub, access, router, stop: stop.clone() };
        loop {
            let incoming = tokio::select! {
                () = stop.cancelled() => break,
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => incoming,
                    None => break,
                },
            };
            let peer = incoming.remote_address().ip();
            // Under pressure an address has to prove itself before it costs anything, or counts against its owner.
            if !incoming.remote_address_validated() && incoming.may_retry() && admission.is_pressed(peer) {
                let _ = incoming.retry();
                continue;
            }
            let Some(admitted) = admission.admit(peer) else {
                incoming.refuse();
                continue;
            };
            tasks.spawn(serve_connection(Box::pin(Driver::establish(incoming, shared.clone())), admitted));
        }
        // The endpoint lives on until its last connection is gone.
        self.endpoint.set_server_config(None);
        tasks.wait().await;
        self.endpoint.wait_idle().await;
    }
}

/// The bounds of a connection.
pub(crate) fn transport_config() -> TransportConfig {
    let mut config = TransportConfig::default();
    // A client that acknowledges values sends enough packets for QUIC's own acknowledgements to travel in.
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(limits::QUIC_ACK_THRESHOLD.into());
    config
        .ack_frequency_config(Some(acks))
        .max_concurrent_bidi_streams(limits::QUIC_BIDI_STREAMS.into())
        .max_concurrent_uni_streams(limits::QUIC_UNI_STREAMS.into())
        .stream_receive_window(limits::QUIC_STREAM_WINDOW.into())
        .receive_window(limits::QUIC_RECEIVE_WINDOW.into())
        .send_window(limits::QUIC_SEND_WINDOW)
        .crypto_buffer_size(limits::QUIC_CRYPTO_BUFFER)
        .datagram_send_buffer_size(limits::DATAGRAM_SEND_BUFFER)
        .datagram_receive_buffer_size(Some(limits::DATAGRAM_RECEIVE_BUFFER))
        .keep_alive_interval(Some(limits::QUIC_KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(limits::QUIC_IDLE).ok())
        .congestion_controller_factory(Arc::new(FlooredConfig::default()));
    config
}

/// `establishing` is boxed, so that a connection's task does not stay as large as its handshake was.
async fn serve_connection(
    establishing: Pin<Box<impl Future<Output = Option<Box<Driver>>>>>,
    admitted: Admitted,
) {
    let established = Box::pin(time::timeout(limits::TLS_DEADLINE, establishing)).await;
    let Ok(Some(mut driver)) = established else { return };
    admitted.complete();
    driver.run().await;
}
