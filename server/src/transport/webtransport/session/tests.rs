//! What a session's datagrams hold, over real QUIC on loopback.

use std::time::Duration;

use fulmar_core::{ChannelName, Class, ClientMessage, Draft, Payload, StartRequest, codec::framing};
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;

use super::{
    super::backend::tests::{PATIENCE, Pair},
    Session,
};
use crate::{
    hub::{Connection, Feed, Hub, Order, ReadBudget},
    namespace::{Namespace, Namespaces},
};

const PUBLICATION: u8 = 0x01;
const VALUES: u8 = 0x0d;

/// What is packed ages while it waits for room, and signals can wait for long.
#[tokio::test]
async fn state_is_sent_before_the_signals_of_the_same_flush() {
    let pair = Pair::connect(8).await;
    let open = |name: &str, class| (name.to_owned(), Namespace::open(class));
    let namespaces = Namespaces::new([open("state", Class::State), open("signal", Class::Signal)]);
    let hub = Hub::new(namespaces, Duration::ZERO);
    let connection = Connection::open(&hub).expect("room");
    let (session, datagrams) =
        Session::new(0, pair.server.clone(), connection, false, CancellationToken::new());
    let mut stream = Feed::new(Order::BesideDatagrams);
    let names = ["signal:a", "state:a"].map(|name| ChannelName::parse(name).expect("a name"));
    for channel in names.clone() {
        let message = ClientMessage::Subscribe { r#ref: None, channel, start: StartRequest::Afresh };
        session.connection.execute(&stream.handle(), message).await;
    }
    // From here on state goes by datagram.
    session.connection.read(&mut stream, ReadBudget(usize::MAX), &mut Vec::new());
    for channel in names {
        hub.publish("test", channel, Draft::new(Payload::text("x"))).await.expect("published");
    }
    let mut sending = JoinSet::new();
    sending.spawn(session.send_datagrams(datagrams));
    for expected in [VALUES, PUBLICATION] {
        let datagram = time::timeout(PATIENCE, pair.client.read_datagram()).await.expect("in time");
        let datagram = datagram.expect("connected");
        // Behind a quarter of the session's id, 0.
        let frames = framing::split_datagram(&datagram[1..]).expect("frames");
        let types: Vec<_> = frames.iter().map(|frame| frame[0]).collect();
        assert_eq!(types, [expected]);
    }
}
