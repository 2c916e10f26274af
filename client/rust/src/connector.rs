//! Where sessions come from.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use tokio::time::timeout;
use wtransport::{Endpoint, endpoint::endpoint_side};

use crate::{client::Client, error::ConnectError, limits, trust::Trust};

/// A UDP socket, and whom to trust. Any number of sessions share the socket; clones share it too.
#[derive(Clone)]
pub struct Connector {
    endpoint: Arc<Endpoint<endpoint_side::Client>>,
}

impl Connector {
    /// Opens a socket, in a tokio runtime.
    ///
    /// # Errors
    /// Where there is no socket to be had.
    pub fn new(trust: &Trust) -> Result<Self, ConnectError> {
        Self::with(trust, true)
    }

    /// Likewise, for sessions whose server finds that they take no datagrams, so that everything comes by stream.
    ///
    /// # Errors
    /// Where there is no socket to be had.
    pub fn without_datagrams(trust: &Trust) -> Result<Self, ConnectError> {
        Self::with(trust, false)
    }

    fn with(trust: &Trust, datagrams: bool) -> Result<Self, ConnectError> {
        let endpoint = Endpoint::client(trust.config(datagrams)).map_err(ConnectError::Socket)?;
        Ok(Self { endpoint: Arc::new(endpoint) })
    }

    /// Opens a session; `url` is what the server's `GET /connect` gives as `webtransport.url`.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(&self, url: &str) -> Result<Client, ConnectError> {
        let opening = async {
            let connection = self.endpoint.connect(url).await?;
            Client::open(connection, self.clone()).await
        };
        timeout(limits::CONNECT_DEADLINE, opening).await.unwrap_or(Err(ConnectError::TimedOut))
    }

    /// Where the socket is bound.
    ///
    /// # Errors
    /// The system's.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Waits until the sessions that were closed have told their servers.
    pub async fn idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("address", &self.local_address().ok()).finish()
    }
}
