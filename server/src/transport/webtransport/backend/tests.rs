//! The backend over real QUIC on loopback.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::poll_fn};
use h3::quic::{RecvStream as _, SendStream as _};
use quinn::{Endpoint, ServerConfig, TransportConfig, crypto::rustls::QuicServerConfig};
use tokio::{task::JoinSet, time};

use super::{Opener, RecvStream};
use crate::{bench::quic, tls::Certificates};

pub(in super::super) const PATIENCE: Duration = Duration::from_secs(30);

/// A connection, as the server and as the client has it, and their endpoints.
pub(in super::super) struct Pair {
    pub(in super::super) server: quinn::Connection,
    pub(in super::super) client: quinn::Connection,
    _endpoints: [Endpoint; 2],
}

impl Pair {
    /// `uni_streams`: how many the client lets the server open.
    pub(in super::super) async fn connect(uni_streams: u32) -> Self {
        let certificates = Arc::new(Certificates::development(Duration::from_secs(1)).expect("made"));
        let crypto = QuicServerConfig::try_from(certificates.server_config(&[b"h3"]).expect("usable"));
        let config = ServerConfig::with_crypto(Arc::new(crypto.expect("usable")));
        let serving = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("bound");
        let mut transport = TransportConfig::default();
        transport.max_concurrent_uni_streams(uni_streams.into());
        let calling = quic::client(transport).expect("bound");
        let address = serving.local_addr().expect("bound");
        let connecting = calling.connect(address, "localhost").expect("an address");
        let accepting = async { serving.accept().await.expect("open").await };
        let (server, client) = tokio::join!(accepting, connecting);
        let (server, client) = (server.expect("connected"), client.expect("connected"));
        Self { server, client, _endpoints: [serving, calling] }
    }
}

#[tokio::test]
async fn a_stream_can_be_stopped_while_it_is_read() {
    let pair = Pair::connect(8).await;
    let (mut send, _recv) = pair.client.open_bi().await.expect("credit");
    send.write_all(b"begun").await.expect("sent");
    let (_, recv) = pair.server.accept_bi().await.expect("opened");
    let mut stream = RecvStream::new(Bytes::new(), recv);
    let read = poll_fn(|cx| stream.poll_data(cx)).await.expect("read");
    assert_eq!(read.as_deref(), Some(&b"begun"[..]));
    assert!(poll_fn(|cx| stream.poll_data(cx)).now_or_never().is_none(), "it waits for more");
    stream.stop_sending(0x10c);
    // Whatever it says now, it says it.
    let _ = poll_fn(|cx| stream.poll_data(cx)).now_or_never();
    let stopped = time::timeout(PATIENCE, send.stopped()).await.expect("told").expect("connected");
    assert_eq!(stopped.map(u64::from), Some(0x10c));
}

#[tokio::test]
async fn streams_beyond_the_credit_open_as_it_comes() {
    const STREAMS: usize = 60;
    let pair = Pair::connect(5).await;
    let mut opening = JoinSet::new();
    for _ in 0..STREAMS {
        let mut opener = Opener::new(pair.server.clone());
        opening.spawn(async move {
            let opened = poll_fn(|cx| h3::quic::OpenStreams::<Bytes>::poll_open_send(&mut opener, cx)).await;
            let Ok(mut stream) = opened else { panic!("the connection is open") };
            poll_fn(|cx| stream.poll_finish(cx)).await.expect("finished");
        });
    }
    let done = async {
        for _ in 0..STREAMS {
            pair.client.accept_uni().await.expect("opened").read_to_end(0).await.expect("empty");
        }
        while let Some(opened) = opening.join_next().await {
            opened.expect("no panic");
        }
    };
    time::timeout(PATIENCE, done).await.expect("every stream is opened in the end");
    // An opener can be given up and closed at any time.
    h3::quic::OpenStreams::<Bytes>::close(&mut Opener::new(pair.server), h3::error::Code::H3_NO_ERROR, b"");
}
