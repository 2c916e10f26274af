//! A stand-in for a network address translator, whose outer address can change.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::limits;

/// Passes the packets of one [`Connector`](crate::Connector) on to a server over IPv4, and back. To the server the
/// connector's sessions come from the relay, and when it [moves](Self::rebind), from elsewhere: that is how migration
/// is tested, since wtransport does not let a client's own socket be changed. While it [is held](Self::hold), the
/// connector is to the server as one that has stopped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    orders: mpsc::Sender<Order>,
    _task: JoinSet<()>,
}

/// What a relay is told, and where it answers.
enum Order {
    Rebind(oneshot::Sender<io::Result<SocketAddr>>),
    Hold(bool, oneshot::Sender<()>),
}

impl Relay {
    /// A relay to a server.
    ///
    /// # Errors
    /// Where there are no sockets to be had.
    pub async fn to(server: SocketAddr) -> io::Result<Self> {
        let inner = bind(Ipv4Addr::LOCALHOST).await?;
        let outer = bind(Ipv4Addr::UNSPECIFIED).await?;
        let address = inner.local_addr()?;
        let (orders, wanted) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(run(server, inner, outer, wanted));
        Ok(Self { address, orders, _task: task })
    }

    /// What the connector is to connect to in the server's place.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Moves to another outer port, which it gives.
    ///
    /// # Errors
    /// Where there is no socket to be had. The relay stays where it was.
    pub async fn rebind(&self) -> io::Result<SocketAddr> {
        self.order(Order::Rebind).await?
    }

    /// Holds what comes from either side, as far as its sockets keep it, or passes it on again.
    ///
    /// # Errors
    /// Where the relay has stopped.
    pub async fn hold(&self, held: bool) -> io::Result<()> {
        self.order(|done| Order::Hold(held, done)).await
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> io::Result<T> {
        let gone = || io::Error::other("the relay has stopped");
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

async fn bind(address: Ipv4Addr) -> io::Result<UdpSocket> {
    UdpSocket::bind((address, 0)).await
}

async fn run(server: SocketAddr, inner: UdpSocket, mut outer: UdpSocket, mut wanted: mpsc::Receiver<Order>) {
    let (mut out, mut back) = (vec![0; limits::PACKET_BYTES], vec![0; limits::PACKET_BYTES]);
    let (mut client, mut held) = (None, false);
    // A packet that cannot be sent or received is a lost one.
    loop {
        tokio::select! {
            Ok((length, from)) = inner.recv_from(&mut out), if !held => {
                client = Some(from);
                let _ = outer.send_to(&out[..length], server).await;
            }
            Ok((length, from)) = outer.recv_from(&mut back), if !held => {
                if let Some(client) = client.filter(|_| from == server) {
                    let _ = inner.send_to(&back[..length], client).await;
                }
            }
            order = wanted.recv() => match order {
                None => return,
                Some(Order::Hold(hold, done)) => {
                    held = hold;
                    let _ = done.send(());
                }
                Some(Order::Rebind(moved)) => {
                    let place = bind(Ipv4Addr::UNSPECIFIED).await.and_then(|socket| {
                        let address = socket.local_addr()?;
                        outer = socket;
                        Ok(address)
                    });
                    let _ = moved.send(place);
                }
            }
        }
    }
}
