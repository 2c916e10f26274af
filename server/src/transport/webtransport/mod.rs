//! WebTransport stub while the rest is compiled.
use crate::{access::Access, hub::Hub, tls::Certificates};
use std::{io, net::SocketAddr, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
/// Listener
#[derive(Debug)]
pub struct Listener(SocketAddr);
impl Listener {
    /// bind
    pub fn bind(a: SocketAddr, _c: &Arc<Certificates>) -> io::Result<Self> {
        Ok(Self(a))
    }
    /// address
    pub fn address(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
    /// serve
    pub async fn serve(self, _h: Arc<Hub>, _a: Arc<Access>, _t: TaskTracker, _s: CancellationToken) {}
}
