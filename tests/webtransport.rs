//! WebTransport as a client of another stack meets it, over real sockets.

mod support;

use fulmar_core::{
    Adopt, ChannelName, ClientMessage, CloseCode, Draft, Payload, StartRequest,
    codec::{
        binary::{self, Ack, Content, Entry, ServerFrame, Values},
        framing,
    },
};
use support::{Running, Session, Stream, binary_payload, frames, publication, within};
use tokio::{sync::watch, task::JoinSet};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_reach_fifty_sessions_in_order_once() {
    const EVENTS: u64 = 10_000;
    const SESSIONS: usize = 50;
    /// Less than the history holds, so that nobody has a reason to see a gap.
    const WINDOW: u64 = 5_000;
    let node = Running::start();
    let (progress, _) = watch::channel([0u64; SESSIONS]);
    let mut readers = JoinSet::new();
    for n in 0..SESSIONS {
        let session = Session::open(&node.url).await;
        let mut stream = session.subscribe("event:many").await;
        let progress = progress.clone();
        readers.spawn(async move {
            for expected in 1..=EVENTS {
                let frame = stream.frame().await;
                let (offset, payload) = publication(&frame);
                assert_eq!((offset, payload), (expected, expected.to_string().as_bytes()), "session {n}");
                if expected % 500 == 0 {
                    progress.send_modify(|progress| progress[n] = expected);
                }
            }
            drop(session);
        });
    }
    let mut slowest = progress.subscribe();
    for event in 1..=EVENTS {
        let caught_up = slowest.wait_for(|progress| progress.iter().all(|at| at + WINDOW >= event));
        within("progress of every session", caught_up).await.expect("readers live");
        node.publish("event:many", binary_payload(event.to_string())).await;
    }
    while let Some(done) = within("the last event", readers.join_next()).await {
        done.expect("no reader failed");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_goes_by_datagram_until_it_is_acknowledged() {
    let node = Running::start();
    node.publish("state:small", binary_payload("first")).await;
    let session = Session::open(&node.url).await;
    let mut stream = session.subscribe("state:small").await;
    for kind in [0x05, 0x01, 0x06] {
        assert_eq!(stream.frame().await[0], kind, "reset, the value, synced");
    }
    assert_eq!(brought(&by_stream(&mut stream).await), [(1, None)], "in sync");
    node.publish("state:small", binary_payload("second")).await;
    for number in 1..=3 {
        // As long as nothing is acknowledged, it comes again, and no low-water offset is told.
        let values = values(&session).await;
        assert_eq!(values.number, number);
        assert_eq!(brought(&values), [(0, Some((2, b"second".to_vec())))]);
    }
    acknowledge_stream(&mut stream, 1).await;
    // When it is, only the low-water offset is left to be told. More of the same may have been on its way.
    let told = async {
        loop {
            tokio::select! {
                values = values(&session) => {
                    acknowledge(&session, Ack { newest: values.number, bitmap: u64::MAX >> 2 });
                }
                told = by_stream(&mut stream) => break told,
            }
        }
    };
    assert_eq!(brought(&within("the position", Box::pin(told)).await), [(2, None)]);
    assert!(node.hub.counters().repairs.get() >= 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_in_parts_or_by_stream_where_they_do_not_fit() {
    let node = Running::start();
    let session = Session::open(&node.url).await;
    let mut stream = session.subscribe("state:large").await;
    for kind in [0x05, 0x06] {
        assert_eq!(stream.frame().await[0], kind, "reset, synced");
    }
    assert_eq!(by_stream(&mut stream).await.number, 1);
    acknowledge_stream(&mut stream, 1).await;
    let middle: Vec<u8> = (0..2_500_u32).map(|n| n as u8).collect();
    node.publish("state:large", binary_payload(middle.clone())).await;
    let mut parts = vec![None; 3];
    let mut newest = 0;
    while parts.contains(&None) {
        let values = values(&session).await;
        newest = values.number;
        for entry in values.entries {
            let Content::Part(part) = entry.content else { panic!("{entry:?}") };
            assert_eq!((part.offset.get(), part.length), (1, middle.len()));
            parts[part.index] = Some(part.bytes);
        }
    }
    assert_eq!(parts.into_iter().flatten().flatten().collect::<Vec<_>>(), middle);
    acknowledge(&session, Ack { newest, bitmap: u64::MAX >> 2 });

    let large = vec![b'x'; 20_000];
    node.publish("state:large", binary_payload(large.clone())).await;
    let values = loop {
        let values = by_stream(&mut stream).await;
        acknowledge_stream(&mut stream, values.number).await;
        // Meanwhile the channel may have been quiet for long enough to tell its position.
        if brought(&values).len() > 1 {
            break values;
        }
    };
    assert_eq!(brought(&values)[1].1, Some((2, large)));
    assert_eq!(brought(&by_stream(&mut stream).await), [(2, None)], "when its arrival is acknowledged");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_goes_by_datagram() {
    let node = Running::start();
    let session = Session::open(&node.url).await;
    let _stream = session.subscribe("signal:now").await;
    let signal = Draft { ttl: Some(support::PATIENCE), ..Draft::new(Payload::text("hey")) };
    node.publish("signal:now", signal).await;
    let datagram = within("a datagram", session.connection.receive_datagram()).await.expect("open");
    assert_eq!(publication(&frames(&datagram)[0]), (1, &b"hey"[..]));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_waits_for_another() {
    let node = Running::start();
    let session = Session::open(&node.url).await;
    // A stream that says nothing, not even whose it is.
    let mut silent = session.connection.quic_connection().open_bi().await.expect("open");
    silent.0.write_all(&[0x40]).await.expect("half a type");
    // A subscription whose stream nobody reads, with more than any window holds.
    let mut unread = session.stream().await;
    let message = ClientMessage::Subscribe {
        r#ref: None,
        channel: fulmar_core::ChannelName::parse("event:unread").expect("a name"),
        start: fulmar_core::StartRequest::Afresh,
    };
    unread.send(&message).await;
    unread.frame().await;
    for _ in 0..200 {
        node.publish("event:unread", binary_payload(vec![b'x'; 50_000])).await;
    }
    let mut stream = session.subscribe("event:read").await;
    node.publish("event:read", binary_payload("through")).await;
    let frame = stream.frame().await;
    assert_eq!(publication(&frame), (1, &b"through"[..]));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_wait_for_an_attach_that_was_promised() {
    let node = Running::start();
    let (_, secret) = node.hub.create_session().expect("room");
    let session = Session::open(&format!("{}?attach", node.url)).await;
    let mut control = session.stream().await;
    let mut streams = JoinSet::new();
    for n in 0..20 {
        let mut stream = session.stream().await;
        let channel = ChannelName::parse(&format!("event:{n}")).expect("a name");
        stream.send(&ClientMessage::Subscribe { r#ref: None, channel, start: StartRequest::Afresh }).await;
        streams.spawn(async move { stream.frame().await[0] });
    }
    let attach = ClientMessage::Attach { r#ref: None, id: String::new(), secret, adopt: Adopt::Fresh };
    control.send(&attach).await;
    assert_eq!(control.frame().await[0], 0x0c, "attached, as nothing was subscribed to before");
    while let Some(answer) = streams.join_next().await {
        assert_eq!(answer.expect("no panic"), 0x02, "subscribed");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_a_stream_ends_its_subscription_and_no_other() {
    let node = Running::start();
    let session = Session::open(&node.url).await;
    let mut first = session.subscribe("event:first").await;
    let mut second = session.subscribe("event:second").await;
    first.send.finish().await.expect("finished");
    assert_eq!(within("the end of the stream", first.try_frame()).await, None);
    // The name is free again, on another stream.
    let mut again = session.subscribe("event:first").await;
    node.publish("event:first", binary_payload("again")).await;
    node.publish("event:second", binary_payload("still")).await;
    assert_eq!(publication(&again.frame().await).1, b"again");
    assert_eq!(publication(&second.frame().await).1, b"still");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_the_client_on_its_control_stream() {
    let node = Running::start();
    let session = Session::open(&node.url).await;
    let mut control = session.stream().await;
    control.send(&ClientMessage::Ping { r#ref: None }).await;
    assert_eq!(control.frame().await[0], 0x0a, "pong");
    let (_, close) = tokio::join!(node.stop(), control.frame());
    let Ok(ServerFrame::Close { code, reason, retry: Some(_) }) = binary::decode_server(&close) else {
        panic!("not a close with a time to come back: {close:?}");
    };
    assert_eq!(
        (code, reason.as_str()),
        (u32::from(CloseCode::GoingAway.code()), CloseCode::GoingAway.reason())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_leaves_nothing_behind() {
    let node = Running::start();
    for _ in 0..20 {
        let session = Session::open(&node.url).await;
        session.subscribe("event:gone").await;
        session.connection.close(0u32.into(), b"");
    }
    within("the end of every session", async {
        while node.hub.census().0 > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.stop().await;
}

/// The next datagram of values.
async fn values(session: &Session) -> Values {
    let datagram = within("a datagram", session.connection.receive_datagram()).await.expect("open");
    let frame = frames(&datagram).remove(0);
    match binary::decode_server(&frame) {
        Ok(ServerFrame::Values(values)) => values,
        other => panic!("{other:?}"),
    }
}

/// The next frame of a stream, of values.
async fn by_stream(stream: &mut Stream) -> Values {
    let frame = stream.frame().await;
    match binary::decode_server(&frame) {
        Ok(ServerFrame::Values(values)) => values,
        other => panic!("{other:?}"),
    }
}

async fn acknowledge_stream(stream: &mut Stream, newest: u64) {
    let ack = framing::prefixed(&binary::encode_ack(Ack { newest, bitmap: 0 }));
    stream.send.write_all(&ack).await.expect("written");
}

/// A low-water offset, and an offset and its payload.
type Brought = (u64, Option<(u64, Vec<u8>)>);

/// What came; of parts no payload.
fn brought(values: &Values) -> Vec<Brought> {
    let entry = |entry: &Entry| match &entry.content {
        Content::Position => (entry.low.get(), None),
        Content::Whole(it) => {
            let payload = it.draft.payload.as_ref().expect("a value").bytes().to_vec();
            (entry.low.get(), Some((it.offset.get(), payload)))
        }
        Content::Part(part) => (entry.low.get(), Some((part.offset.get(), Vec::new()))),
    };
    values.entries.iter().map(entry).collect()
}

fn acknowledge(session: &Session, ack: Ack) {
    session.connection.send_datagram(framing::prefixed(&binary::encode_ack(ack))).expect("there is room");
}
