//! Which server is believed to be the one that was meant.

use std::sync::Arc;

use quinn_proto::RandomConnectionIdGenerator;
use wtransport::{
    ClientConfig,
    config::QuicTransportConfig,
    quinn::{AckFrequencyConfig, ConnectionIdGenerator, VarInt},
    tls::Sha256Digest,
};

use crate::limits;

/// How a server's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// By the certificate authorities of this system.
    SystemRoots,
    /// By the SHA-256 of the certificate, as `GET /connect` gives it. The certificate must be of ECDSA on P-256 and
    /// valid for two weeks at most, as browsers want it too.
    CertificateHashes(Vec<[u8; 32]>),
    /// Not at all. For tests over loopback.
    Insecure,
}

impl Trust {
    pub(crate) fn config(&self, datagrams: bool) -> ClientConfig {
        let builder = ClientConfig::builder().with_bind_default();
        let mut config = match self {
            Self::SystemRoots => builder.with_native_certs(),
            Self::CertificateHashes(hashes) => {
                builder.with_server_certificate_hashes(hashes.iter().copied().map(Sha256Digest::new))
            }
            Self::Insecure => builder.with_no_cert_validation(),
        }
        .build();
        config.quic_config_mut().transport_config(Arc::new(transport(datagrams)));
        // It stands in every packet of the server's, and tells apart the sessions of one socket only.
        let ids = || -> Box<dyn ConnectionIdGenerator> {
            Box::new(RandomConnectionIdGenerator::new(limits::CONNECTION_ID_BYTES))
        };
        config.quic_endpoint_config_mut().cid_generator(ids);
        config
    }
}

fn transport(datagrams: bool) -> QuicTransportConfig {
    let mut transport = QuicTransportConfig::default();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(limits::ACK_THRESHOLD));
    transport
        .ack_frequency_config(Some(acks))
        .stream_receive_window(VarInt::from_u32(limits::STREAM_WINDOW))
        .receive_window(VarInt::from_u32(limits::SESSION_WINDOW))
        .datagram_receive_buffer_size(datagrams.then_some(limits::DATAGRAM_BUFFER))
        // A server that speaks to an address which the client no longer has cannot know of it: the client has to speak.
        .keep_alive_interval(Some(limits::KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(limits::SERVER_STREAMS));
    transport
}
