//! Assembly: a configuration becomes a running node. Start and stop order stand here and nowhere else.

use std::{fmt, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use fulmar_core::CloseCode;
use tokio::{task::JoinSet, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::Access,
    admission::Admission,
    assets,
    config::Config,
    development,
    http::{self, App, Asset, Directory, Sidecar},
    hub::Hub,
    limits,
    tls::{CertificateError, Certificates},
    transport::webtransport::Listener,
};

/// Why a node did not start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be bound.
    Bind {
        /// What for.
        what: &'static str,
        /// The flag that changes it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        why: std::io::Error,
    },
    /// There is no usable certificate.
    Certificate(CertificateError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { what, flag, address, why } => {
                write!(f, "cannot bind {address} for {what}: {why}; choose another with {flag} ADDR")
            }
            Self::Certificate(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<CertificateError> for StartError {
    fn from(why: CertificateError) -> Self {
        Self::Certificate(why)
    }
}

/// A node whose addresses are bound. It serves nothing before [`Self::run`].
#[derive(Debug)]
pub struct Node {
    config: Config,
    hub: Arc<Hub>,
    certificates: Arc<Certificates>,
    sidecar: Sidecar,
    listener: Listener,
    http: SocketAddr,
    quic: SocketAddr,
    assets: Vec<Asset>,
}

impl Node {
    /// Binds what the configuration says. To be called in a Tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn bind(config: Config) -> Result<Self, StartError> {
        let hub = Hub::new(config.namespaces.clone(), config.session_grace);
        let certificates = Arc::new(match &config.tls {
            Some((chain, key)) => Certificates::from_files(chain, key)?,
            None => Certificates::development(unix_time(&hub))?,
        });
        let (http, quic) = (config.http, config.quic);
        let failed = |what, flag, address| move |why| StartError::Bind { what, flag, address, why };
        let sidecar = Sidecar::bind(http).map_err(failed("HTTP", "--http", http))?;
        let http = sidecar.address().map_err(failed("HTTP", "--http", http))?;
        let listener = Listener::bind(quic, &certificates).map_err(failed("QUIC", "--quic", quic))?;
        let quic = listener.address().map_err(failed("QUIC", "--quic", quic))?;
        let mut assets = assets::client();
        if config.development {
            assets.extend(assets::page());
        }
        Ok(Self { config, hub, certificates, sidecar, listener, http, quic, assets })
    }

    /// Serves a file of the embedding program, also in place of one of ours.
    #[must_use]
    pub fn with_asset(mut self, asset: Asset) -> Self {
        self.assets.push(asset);
        self
    }

    /// Channels and sessions: what an embedding program publishes to.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Where the sidecar is bound.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where QUIC is bound.
    pub fn quic_address(&self) -> SocketAddr {
        self.quic
    }

    /// The URL to open.
    pub fn url(&self) -> String {
        format!("{}://{}/", self.scheme(), self.http)
    }

    fn scheme(&self) -> &'static str {
        if self.config.tls.is_some() { "https" } else { "http" }
    }

    /// Serves until `stop` is done, then ends what is open, and returns within the time that is configured for it.
    ///
    /// # Errors
    /// [`StartError`] when the certificate cannot be used for the sidecar.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), StartError> {
        let scheme = self.scheme();
        let Self { config, hub, certificates, sidecar, listener, http, quic, assets } = self;
        let tls = match &config.tls {
            Some(_) => Some(Arc::new(certificates.server_config(&[b"h2", b"http/1.1"])?)),
            None => None,
        };
        let access = Access::new(config.hosts, config.origins, scheme, http.port());
        let (connections, accepting, draining) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let patience = config.stop_deadline;
        let directory = Directory { quic, http, secure: tls.is_some(), certificates: certificates.clone() };
        let app = Arc::new(App {
            hub: hub.clone(),
            access: access.clone(),
            api: config.api,
            directory,
            tasks: connections.clone(),
        });

        let admission = |address| Admission::new(config.caps.of_listener(address), hub.counters().clone());
        let mut tasks = JoinSet::new();
        let router = http::router(app.clone(), assets);
        let quic = listener.serve(
            hub.clone(),
            Arc::new(access),
            router.clone(),
            admission(quic),
            connections.clone(),
            draining.clone(),
        );
        tasks.spawn(quic);
        tasks.spawn(sidecar.serve(router, tls, admission(http), connections.clone(), accepting.clone()));
        tasks.spawn(maintain(hub.clone(), certificates));
        if config.development {
            tasks.spawn(development::publish_figures(hub.clone()));
        }

        stop.await;
        let ending = async {
            // Nobody new is let in, and who asks for it by HTTP is told when to come back. WebTransport's clients are told of
            // the end by GOAWAY and DRAIN while their sessions go on.
            let sessions = hub.drain();
            draining.cancel();
            if sessions > 0 {
                time::sleep(limits::DRAIN.min(patience / 4)).await;
            }
            // What is in flight is finished, and everybody is told to come back elsewhere.
            accepting.cancel();
            hub.close_all(CloseCode::GoingAway);
            connections.close();
            connections.wait().await;
        };
        if time::timeout(patience, ending).await.is_err() {
            tracing::warn!(left = connections.len(), "connections did not end in time");
        }
        tasks.shutdown().await;
        Ok(())
    }
}

/// What time does to a node.
async fn maintain(hub: Arc<Hub>, certificates: Arc<Certificates>) {
    let mut ticks = time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        hub.maintain();
        match certificates.maintain(unix_time(&hub)) {
            Ok(true) => tracing::info!("development certificates have changed; see /connect"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the development certificate was not renewed"),
        }
    }
}

fn unix_time(hub: &Hub) -> Duration {
    Duration::from_millis(hub.now().unix_ms)
}
