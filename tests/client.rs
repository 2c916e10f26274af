//! The native client against a server, over real sockets.

#[expect(dead_code, reason = "the sessions of wtransport's are for tests/webtransport.rs")]
mod support;

use std::time::Duration;

use fulmar_client::{
    ChannelName, Client, Connector, Draft, Ended, Event, Key, Lane, Offset, Payload, Position, Positions,
    Relay, RequestError, Start, StateView, Subscription, Trust,
};
use fulmar_core::{Code, PublicationId};
use support::{Running, binary_payload, within};

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).expect("a name")
}

async fn connect(node: &Running) -> Client {
    within("the session", Client::connect(&node.url, Trust::Insecure)).await.expect("accepted")
}

async fn subscribe(client: &Client, name: &str, start: Start) -> Subscription {
    within("the answer", client.subscribe(&channel(name), start)).await.expect("subscribed")
}

async fn next(subscription: &mut Subscription) -> Event {
    within("an event", subscription.next()).await.expect("it goes on")
}

/// Offset, payload and lane of a publication.
async fn publication(subscription: &mut Subscription) -> (u64, Vec<u8>, Lane) {
    match next(subscription).await {
        Event::Publication(it) => (it.offset.get(), it.payload.expect("a payload").bytes().to_vec(), it.lane),
        other => panic!("a publication: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_comes_back_and_a_position_reads_on() {
    let node = Running::start();
    let client = connect(&node).await;
    let mut events = subscribe(&client, "event:a", Start::Afresh).await;
    let begins = events.begins().clone();
    for n in 1..=3u8 {
        let place = client.publish(&channel("event:a"), binary_payload([n])).await.expect("published");
        assert_eq!(place.offset.get(), u64::from(n));
    }
    for n in 1..=3u8 {
        assert_eq!(publication(&mut events).await, (u64::from(n), vec![n], Lane::Stream));
    }
    let position = events.position().expect("a position").clone();
    assert_eq!((position.epoch.clone(), position.offset.get()), (begins.epoch.clone(), 3));
    events.unsubscribe().await.expect("unsubscribed");

    node.publish("event:a", binary_payload([4])).await;
    let mut again = subscribe(&client, "event:a", Start::Position(position)).await;
    assert_eq!(publication(&mut again).await, (4, vec![4], Lane::Stream));
    drop(again);
    let twice = subscribe(&client, "event:b", Start::Afresh).await;
    let refused = client.subscribe(&channel("event:b"), Start::Afresh).await.map(|_| ());
    assert!(matches!(refused, Err(RequestError::Refused(it)) if it.known() == Some(Code::AlreadySubscribed)));
    drop(twice);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_begins_on_the_stream_and_goes_on_by_datagram() {
    let node = Running::start();
    let key = Key::parse("k").expect("a key");
    let value = |text| Draft::value(key.clone(), Payload::text(text));
    node.publish("state:a", value("first")).await;
    let client = connect(&node).await;
    let mut state = subscribe(&client, "state:a", Start::Afresh).await;
    let mut view = StateView::default();
    while !view.is_synced() {
        view.apply(next(&mut state).await);
        assert_eq!(state.position().is_some(), view.is_synced(), "none within a snapshot");
    }
    assert_eq!(view.get(&key), Some(&Payload::text("first")));
    for (text, lane) in [(Payload::text("second"), Lane::Datagram), (large(), Lane::Stream)] {
        node.publish("state:a", Draft::value(key.clone(), text.clone())).await;
        let event = next(&mut state).await;
        assert!(matches!(&event, Event::Publication(it) if it.lane == lane), "{event:?}");
        assert!(view.apply(event));
        assert_eq!(view.get(&key), Some(&text));
    }
    // When all of it is acknowledged, the client is told that it has everything.
    let settled = async {
        while state.position().expect("a position").offset.get() < 3 {
            assert_eq!(state.try_next(), None);
            client.ping().await.expect("open");
        }
    };
    support::within("the position", settled).await;
    let after = Start::Position(state.position().expect("a position").clone());
    drop(state);
    node.publish("state:a", value("fourth")).await;
    // What has changed since comes on the stream, and nothing else.
    let mut state = subscribe(&client, "state:a", after).await;
    let event = next(&mut state).await;
    assert!(matches!(&event, Event::Publication(it) if it.offset.get() == 4), "{event:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_can_be_subscribed_to_at_once() {
    let node = Running::start();
    let client = connect(&node).await;
    // Often enough that the server sees the new stream before the end of the old.
    for _ in 0..200 {
        drop(subscribe(&client, "event:a", Start::Afresh).await);
    }
    node.stop().await;
}

/// What fits no datagram, and no parts.
fn large() -> Payload {
    Payload::text("x".repeat(20_000))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_loses_nothing_and_holds_up_nobody() {
    const EVENTS: u64 = 300;
    let node = Running::start();
    let client = connect(&node).await;
    let mut slow = subscribe(&client, "event:slow", Start::Afresh).await;
    let mut quick = subscribe(&client, "event:quick", Start::Afresh).await;
    for _ in 0..EVENTS {
        node.publish("event:slow", binary_payload(vec![b'x'; 20_000])).await;
    }
    node.publish("event:quick", binary_payload("through")).await;
    assert_eq!(publication(&mut quick).await.1, b"through");
    let held = client.counts().stream_bytes;
    assert!(held < EVENTS * 20_000 / 2, "{held} bytes were read for who does not read");
    for n in 1..=EVENTS {
        assert_eq!(publication(&mut slow).await.0, n);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_nobody_reads_waits_on_the_server_and_holds_up_nobody() {
    let node = Running::start();
    let client = connect(&node).await;
    let unread = subscribe(&client, "state:unread", Start::Afresh).await;
    let other = subscribe(&client, "state:other", Start::Afresh).await;
    nobody_reads(node, client, unread, other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_came_with_a_session_and_that_nobody_reads_does_so_too() {
    let node = Running::start();
    let (id, secret) = node.hub.create_session().expect("room");
    let id = id.to_string();
    let (before, client) = (connect(&node).await, connect(&node).await);
    before.attach(&id, &secret).await.expect("attached");
    let _left_behind = [
        subscribe(&before, "state:unread", Start::Afresh).await,
        subscribe(&before, "state:other", Start::Afresh).await,
    ];
    client.attach(&id, &secret).await.expect("attached");
    let mut came = Vec::new();
    for _ in 0..2 {
        came.push(within("the subscription", client.adopted()).await.expect("it came along"));
    }
    came.sort_by_key(|it| it.channel().to_string());
    let unread = came.pop().expect("two");
    let other = came.pop().expect("two");
    nobody_reads(node, client, unread, other).await;
}

async fn nobody_reads(node: Running, client: Client, mut unread: Subscription, mut other: Subscription) {
    const KEYS: u64 = 1_500;
    for state in [&mut unread, &mut other] {
        while !matches!(next(state).await, Event::Synced(_)) {}
    }
    let value = |n: u64, text: &str| {
        Draft::value(Key::parse(&n.to_string()).expect("a key"), Payload::text(text.to_owned()))
    };
    let both = async {
        for n in 1..=KEYS {
            node.publish("state:unread", value(n, "first")).await;
            node.publish("state:other", value(1, "x")).await;
            if n % 16 == 0 {
                while publication(&mut other).await.0 < n {}
            }
        }
    };
    within("what others read, as fast as it is published,", both).await;
    // What has fallen behind is no more sent by datagram, until it is read.
    let before = client.counts().datagrams;
    for n in 1..=KEYS {
        node.publish("state:unread", value(n, "second")).await;
    }
    node.publish("state:other", value(1, "last")).await;
    while publication(&mut other).await.0 <= KEYS {}
    let datagrams = client.counts().datagrams - before;
    assert!(datagrams < 20, "{datagrams} datagrams for who does not read");

    let (mut newest, mut streamed, mut view) = (0, 0, StateView::default());
    while view.iter().filter(|(_, it)| it.payload == Some(Payload::text("second"))).count() < KEYS as usize {
        let event = next(&mut unread).await;
        let Event::Publication(it) = &event else { panic!("{event:?}") };
        newest = newest.max(it.offset.get());
        streamed += u64::from(it.lane == Lane::Stream);
        assert!(view.apply(event), "nothing comes twice, or behind what is newer");
    }
    assert_eq!(newest, 2 * KEYS);
    assert!(streamed > KEYS * 9 / 10, "{streamed} of {KEYS} values that were published since came by stream");
    // All of it has been read, so it goes on as it began.
    let settled = async {
        while unread.position().expect("a position").offset.get() < newest {
            assert_eq!(unread.try_next(), None);
            client.ping().await.expect("open");
        }
    };
    support::within("the position", settled).await;
    node.publish("state:unread", value(1, "third")).await;
    let (offset, _, lane) = publication(&mut unread).await;
    assert_eq!((offset, lane), (newest + 1, Lane::Datagram));
    unread.unsubscribe().await.expect("it is there");
    assert_eq!(client.complaint(), None);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_connector_share_its_socket_and_end_apart() {
    let node = Running::start();
    let connector = Connector::new(&Trust::Insecure).expect("a socket");
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(within("a session", connector.connect(&node.url)).await.expect("accepted"));
    }
    let mut last = subscribe(&clients[19], "event:a", Start::Afresh).await;
    let mut first = subscribe(&clients[0], "event:a", Start::Afresh).await;
    clients[0].close(4123, "enough");
    assert_eq!(clients[0].closed().await.code, 4123);
    assert!(matches!(within("the end", first.next()).await, Err(Ended::Closed(close)) if close.code == 4123));
    let refused = clients[0].publish(&channel("event:a"), binary_payload("late")).await;
    assert!(matches!(refused, Err(RequestError::Closed(close)) if close.code == 4123));
    node.publish("event:a", binary_payload("still")).await;
    assert_eq!(publication(&mut last).await.1, b"still");
    clients.clear();
    drop(last);
    within("the end of every session", async {
        while node.hub.census().0 > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    within("the server being told", connector.idle()).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_brings_its_subscriptions_along() {
    let node = Running::start();
    let (id, secret) = node.hub.create_session().expect("room");
    let id = id.to_string();
    let (before, after) = (connect(&node).await, connect(&node).await);
    before.attach(&id, &secret).await.expect("attached");
    let mut events = subscribe(&before, "event:a", Start::Afresh).await;
    let wrong = before.attach(&id, "not the secret").await;
    assert!(matches!(wrong, Err(RequestError::Refused(_))), "{wrong:?}");

    after.attach(&id, &secret).await.expect("attached");
    assert_eq!(within("the end", before.closed()).await.code, 4900);
    assert!(
        matches!(within("the end", events.next()).await, Err(Ended::Closed(close)) if close.code == 4900)
    );
    let mut moved = within("the subscription", after.adopted()).await.expect("it came along");
    assert_eq!(moved.channel(), &channel("event:a"));
    node.publish("event:a", binary_payload("moved")).await;
    let mut seen = next(&mut moved).await;
    if matches!(seen, Event::Gap(_)) {
        seen = next(&mut moved).await;
    }
    assert!(matches!(seen, Event::Publication(it) if it.payload == Some(Payload::Binary("moved".into()))));
    // The name is free for a stream of its own at once, which what is told of the other does not end.
    drop(moved);
    let mut own = subscribe(&after, "event:a", Start::Afresh).await;
    after.ping().await.expect("open");
    node.publish("event:a", binary_payload("own")).await;
    assert_eq!(publication(&mut own).await.1, b"own");
    own.unsubscribe().await.expect("unsubscribed");
    assert_eq!(after.complaint(), None);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_from_its_clients_positions() {
    let node = Running::start();
    let (id, secret) = node.hub.create_session().expect("room");
    let id = id.to_string();
    let (before, after) = (connect(&node).await, connect(&node).await);
    before.attach(&id, &secret).await.expect("attached");
    let mut events = subscribe(&before, "event:a", Start::Afresh).await;
    assert_eq!(events.recovered(), None);
    for n in 1..=3u8 {
        node.publish("event:a", binary_payload([n])).await;
    }
    assert_eq!(publication(&mut events).await.0, 1);
    let mut positions = Positions::default();
    let read = events.position().expect("a position").clone();
    positions.push(channel("event:a"), read.clone()).expect("room");
    positions.push(channel("event:b"), Position { offset: Offset::MAX, ..read }).expect("room");

    assert!(after.resume(&id, &secret, Some(positions)).await.expect("attached"), "it was known");
    assert_eq!(within("the end", before.closed()).await.code, 4900);
    for _ in 0..2 {
        let mut moved = within("the subscription", after.adopted()).await.expect("it came along");
        if moved.channel() == &channel("event:a") {
            assert_eq!(moved.recovered(), Some(true));
            for n in 2..=3u8 {
                assert_eq!(publication(&mut moved).await, (u64::from(n), vec![n], Lane::Stream));
            }
        } else {
            assert_eq!((moved.channel(), moved.recovered()), (&channel("event:b"), Some(false)));
            assert!(matches!(next(&mut moved).await, Event::Gap(_)));
        }
    }
    assert_eq!(after.complaint(), None);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_who_it_was_and_subscribes_anew() {
    let node = Running::start();
    let (id, secret) = node.hub.create_session().expect("room");
    let (before, after) = (connect(&node).await, connect(&node).await);
    assert_eq!(before.identify(&secret).await.expect("attached"), (id.to_string(), true));
    let mine = Draft { id: Some(PublicationId::parse("mine").expect("an id")), ..binary_payload("once") };
    let first = before.publish(&channel("event:b"), mine.clone()).await.expect("published");
    let mut events = subscribe(&before, "event:a", Start::Afresh).await;
    node.publish("event:a", binary_payload("arrived")).await;
    assert_eq!(publication(&mut events).await.0, 1);
    let read = events.position().expect("a position").clone();
    node.publish("event:a", binary_payload("missed")).await;

    assert_eq!(after.identify(&secret).await.expect("attached"), (id.to_string(), true));
    assert_eq!(within("the end", before.closed()).await.code, 4900);
    let mut own = subscribe(&after, "event:a", Start::Position(read)).await;
    assert_eq!(publication(&mut own).await.1, b"missed");
    assert_eq!(after.publish(&channel("event:b"), mine).await.expect("published"), first);
    assert_eq!(after.complaint(), None);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_told_with_its_code() {
    let node = Running::start();
    let client = connect(&node).await;
    let mut events = subscribe(&client, "event:a", Start::Afresh).await;
    let (_, close) = tokio::join!(node.stop(), client.closed());
    assert_eq!((close.code, close.reason.as_str()), (4000, "going_away"));
    let retry = close.retry.expect("a time to come back");
    assert!((Duration::from_millis(500)..Duration::from_millis(1500)).contains(&retry), "{retry:?}");
    assert_eq!(within("the end", events.next()).await, Err(Ended::Closed(close)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_from_another_address() {
    let node = Running::start();
    let server = node.url.trim_start_matches("https://").trim_end_matches("/wt").parse().expect("an address");
    let relay = Relay::to(server).await.expect("sockets");
    let url = format!("https://{}/wt", relay.address());
    let client = within("the session", Client::connect(&url, Trust::Insecure)).await.expect("accepted");
    let mut events = subscribe(&client, "event:a", Start::Afresh).await;
    for n in 1..=4 {
        relay.rebind().await.expect("a socket");
        let place = within("the place", client.publish(&channel("event:a"), binary_payload("x"))).await;
        assert_eq!(place.expect("published").offset.get(), n);
        assert_eq!(publication(&mut events).await.0, n);
    }
    node.stop().await;
}
