//! Sessions that go on with another connection, and from where their clients have got to.

use std::{
    hint,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use fulmar_core::{
    Adopt, ChannelName, ClientMessage, CloseCode, Code, Draft, Item, Payload, Position, Positions,
    PublicationId, ServerMessage, StartRequest,
    datagrams::Path,
    registry::{Capacity, Secret},
};

use futures_util::FutureExt as _;

use super::{Connection, DatagramBatch, Feed, Hub, Order, ReadBudget, feed::What, sha256};
use crate::namespace::{Namespace, Namespaces};

/// A hub that forgets a session as soon as it is without a connection and time is looked at.
fn hub() -> Arc<Hub> {
    let namespaces = Namespaces::new([
        ("event".to_owned(), Namespace::open(fulmar_core::Class::Event)),
        ("state".to_owned(), Namespace::open(fulmar_core::Class::State)),
    ]);
    Hub::new(namespaces, Duration::ZERO)
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).expect("a name")
}

fn subscribe(name: &str) -> ClientMessage {
    ClientMessage::Subscribe { r#ref: None, channel: channel(name), start: StartRequest::Afresh }
}

async fn publish(hub: &Hub, name: &str) -> Position {
    hub.publish("test", channel(name), Draft::new(Payload::text("x"))).await.expect("published")
}

struct Client {
    connection: Connection,
    feed: Feed,
}

impl Client {
    fn new(hub: &Arc<Hub>) -> Self {
        Self { connection: Connection::open(hub).expect("room"), feed: Feed::new(Order::Turns) }
    }

    /// What answers a message, in short.
    async fn ask(&self, message: ClientMessage) -> Vec<String> {
        let answers = self.connection.execute(&self.feed.handle(), message).await;
        answers.into_iter().map(|answer| short(&answer)).collect()
    }

    async fn attach(
        &self,
        (id, secret): &(String, String),
        positions: Option<&[(&str, Position)]>,
    ) -> Vec<String> {
        let positions = positions.map(|places| {
            let mut positions = Positions::default();
            for (name, position) in places {
                positions.push(channel(name), position.clone()).expect("once each");
            }
            positions
        });
        let (id, secret) = (id.clone(), secret.clone());
        self.ask(ClientMessage::Attach { r#ref: None, id, secret, adopt: positions.into() }).await
    }

    async fn attach_fresh(&self, id: &str, secret: &str) -> Vec<String> {
        let (id, secret) = (id.to_owned(), secret.to_owned());
        self.ask(ClientMessage::Attach { r#ref: None, id, secret, adopt: Adopt::Fresh }).await
    }

    async fn subscribe(&self, name: &str, start: StartRequest) -> Vec<String> {
        self.ask(ClientMessage::Subscribe { r#ref: None, channel: channel(name), start }).await
    }

    async fn publish(&self, name: &str, id: &str) -> Vec<String> {
        let id = Some(PublicationId::parse(id).expect("an id"));
        let draft = Draft { id, ..Draft::new(Payload::text("mine")) };
        self.ask(ClientMessage::Publish { r#ref: None, channel: channel(name), draft }).await
    }

    /// What there is to read, in short.
    fn read(&mut self) -> Vec<String> {
        let mut deliveries = Vec::new();
        self.connection.read(&mut self.feed, ReadBudget(usize::MAX), &mut deliveries);
        let short = deliveries.iter().map(|it| {
            let what = match &it.what {
                What::Subscribed(begins) => {
                    format!("subscribed {} {:?}", begins.position.offset, begins.recovered)
                }
                What::Item(Item::Publication(it, _)) => it.offset.to_string(),
                What::Item(Item::Gap(position, _)) => format!("gap {}", position.offset),
                What::Item(Item::Reset(position)) => format!("reset {}", position.offset),
                What::Item(Item::Synced(position)) => format!("synced {}", position.offset),
                What::Values(_) => "values".to_owned(),
            };
            format!("{} {what}", it.channel())
        });
        short.collect()
    }
}

fn short(message: &ServerMessage) -> String {
    match message {
        ServerMessage::Attached { resumed, .. } => format!("attached {resumed}"),
        ServerMessage::Subscribed { mark, recovered, .. } => {
            format!("subscribed {} {recovered:?}", mark.position.offset)
        }
        ServerMessage::Published { position, .. } => format!("published {}", position.offset),
        ServerMessage::Refused { channel, problem } => format!("{channel} {}", problem.code.as_str()),
        ServerMessage::Error(rejection) => rejection.problem.code.as_str().to_owned(),
        other => format!("{other:?}"),
    }
}

fn session(hub: &Hub) -> (String, String) {
    let (id, secret) = hub.create_session().expect("room");
    (id.to_string(), secret)
}

#[tokio::test]
async fn a_subscription_goes_on_after_its_clients_position_and_no_other() {
    let hub = hub();
    let session = session(&hub);
    let (mut old, mut new) = (Client::new(&hub), Client::new(&hub));
    assert_eq!(old.attach(&session, None).await, ["attached true"]);
    let first = publish(&hub, "event:a").await;
    let start = StartRequest::Position(first.clone());
    assert_eq!(old.subscribe("event:a", start.clone()).await, ["subscribed 1 Some(true)"]);
    let other = publish(&hub, "event:b").await;
    let start = StartRequest::Position(Position { offset: fulmar_core::Offset::ZERO, ..other });
    assert_eq!(old.subscribe("event:b", start).await, ["subscribed 0 Some(true)"]);
    for _ in 0..2 {
        publish(&hub, "event:a").await;
    }
    assert_eq!(old.read(), ["event:a 2", "event:a 3", "event:b 1"]);

    assert_eq!(new.attach(&session, Some(&[("event:a", first)])).await, ["attached true"]);
    assert_eq!(old.connection.close_code(), Some(CloseCode::Replaced));
    publish(&hub, "event:b").await;
    assert_eq!(old.read(), [""; 0], "the last wins");
    let expected = ["event:a subscribed 1 Some(true)", "event:a 2", "event:a 3"];
    let unnamed = ["event:b subscribed 1 None", "event:b gap 1", "event:b 2"];
    assert_eq!(new.read(), [expected, unnamed].concat());
    assert_eq!(new.read(), [""; 0]);
}

#[tokio::test]
async fn a_session_that_was_reaped_has_its_id_and_its_publications_when_it_is_made_again() {
    let hub = hub();
    let session = session(&hub);
    let first = {
        let client = Client::new(&hub);
        client.attach(&session, None).await;
        client.publish("event:a", "one").await
    };
    assert_eq!(first, ["published 1"]);
    hub.maintain();
    assert_eq!(hub.census().0, 0, "reaped");

    let mut client = Client::new(&hub);
    assert_eq!(client.attach(&session, None).await, [Code::UnknownSession.as_str()]);
    let at = publish(&hub, "event:a").await;
    publish(&hub, "event:a").await;
    let gone = Position { epoch: fulmar_core::Epoch::from_entropy(9), ..at.clone() };
    let places = [("event:a", at), ("other:b", gone.clone()), ("event:c", gone)];
    assert_eq!(client.attach(&session, Some(&places)).await, ["attached false", "other:b forbidden"]);
    assert_eq!(client.publish("event:a", "one").await, first, "not again");
    let read = client.read();
    let expected =
        ["event:a subscribed 2 Some(true)", "event:a 3", "event:c subscribed 0 Some(false)", "event:c gap 0"];
    assert_eq!(read, expected);
    assert_eq!(hub.census().0, 1, "the connection's own session is gone");
    drop(client);
    hub.maintain();
    assert_eq!(hub.census().0, 0);
}

#[tokio::test]
async fn positions_are_taken_once_on_a_connection() {
    let hub = hub();
    let client = Client::new(&hub);
    for (n, expected) in [(0, "attached true"), (1, "bad_message"), (2, "bad_message")] {
        let session = session(&hub);
        assert_eq!(client.attach(&session, Some(&[])).await, [expected], "{n}");
        if n > 0 {
            assert_eq!(client.attach(&session, None).await, ["attached true"], "{n}, without");
        }
    }
}

#[tokio::test]
async fn an_attach_that_is_refused_changes_nothing() {
    let hub = hub();
    let (first, second) = (session(&hub), session(&hub));
    let mut client = Client::new(&hub);
    let at = publish(&hub, "event:a").await;
    let places = [("event:a", at)];
    let mixed = (first.0.clone(), second.1.clone());
    let made_up = (first.0.clone(), format!("{}.{}", first.0, "A".repeat(32)));
    for wrong in [&mixed, &made_up] {
        for positions in [None, Some(places.as_slice())] {
            assert_eq!(client.attach(wrong, positions).await, ["unknown_session"]);
        }
    }
    assert_eq!(hub.census().0, 3, "its own and those two");
    assert_eq!(client.attach(&first, Some(&places)).await, ["attached true"], "its positions were not taken");
    assert_eq!(client.read(), ["event:a subscribed 1 Some(true)"]);
    assert_eq!(hub.census().0, 2, "its own has ended");

    let late = Client::new(&hub);
    hub.drain();
    assert_eq!(late.attach(&first, None).await, ["shutting_down"]);
    assert_eq!(client.connection.close_code(), None, "it was not replaced");
    drop(late);
    assert_eq!(hub.census().0, 2);
}

#[tokio::test]
async fn a_fresh_attach_takes_over_who_the_client_is_and_ends_its_subscriptions() {
    let hub = hub();
    let (id, secret) = session(&hub);
    let (mut old, mut new) = (Client::new(&hub), Client::new(&hub));
    assert_eq!(old.attach_fresh("", &secret).await, ["attached true"]);
    assert_eq!(old.subscribe("event:a", StartRequest::Afresh).await, ["subscribed 0 None"]);
    assert_eq!(old.subscribe("event:b", StartRequest::Afresh).await, ["subscribed 0 None"]);
    let first = publish(&hub, "event:a").await;
    assert_eq!(old.publish("event:c", "once").await, ["published 1"]);

    assert_eq!(new.attach_fresh(&id, &secret).await, ["attached true"]);
    assert_eq!(old.connection.close_code(), Some(CloseCode::Replaced));
    publish(&hub, "event:a").await;
    assert_eq!((old.read(), new.read()), (vec![], vec![]), "nobody has subscribed to it");
    assert_eq!(old.subscribe("event:b", StartRequest::Afresh).await, ["unknown_session"]);
    assert_eq!(new.subscribe("event:a", StartRequest::Position(first)).await, ["subscribed 1 Some(true)"]);
    assert_eq!(new.read(), ["event:a 2"]);
    assert_eq!(new.publish("event:c", "once").await, ["published 1"], "it is the same publisher");
    old.connection.end_feed(&old.feed);
    drop(old);
    publish(&hub, "event:a").await;
    assert_eq!(new.read(), ["event:a 3"], "the end of the connection before is none of its own");
}

#[tokio::test]
async fn a_fresh_attach_makes_the_session_of_a_secret_that_the_client_made() {
    let hub = hub();
    let secret = Secret::from_entropy([7; 24]);
    let minted = secret.reveal(secret.session(sha256));
    let own = minted.split_once('.').expect("an id and a secret").1;
    let client = Client::new(&hub);
    for wrong in ["", ".", &own[1..], &format!(".{own}"), &format!("{}.{own}", "A".repeat(22))] {
        assert_eq!(client.attach_fresh("", wrong).await, ["unknown_session"], "{wrong}");
    }
    assert_eq!(client.attach_fresh("another", &minted).await, ["unknown_session"]);
    assert_eq!(client.attach(&(String::new(), minted.clone()), Some(&[])).await, ["unknown_session"]);
    assert_eq!(client.attach_fresh("", &minted).await, ["attached false"]);
    assert_eq!(client.attach_fresh("", &minted).await, ["bad_message"], "once on a connection");
    assert_eq!(client.publish("event:c", "once").await, ["published 1"]);
    drop(client);
    assert_eq!(Client::new(&hub).attach_fresh("", &minted).await, ["attached true"]);
    hub.maintain();
    let again = Client::new(&hub);
    assert_eq!(again.attach_fresh("", &minted).await, ["attached false"]);
    assert_eq!(again.publish("event:c", "once").await, ["published 1"], "its ids are the channel's");
    assert_eq!(Client::new(&hub).attach_fresh("", own).await, ["attached true"], "the secret tells the id");
    assert_eq!(again.connection.close_code(), Some(CloseCode::Replaced));
}

#[tokio::test]
async fn a_fresh_attach_behind_subscriptions_keeps_them() {
    let hub = hub();
    let (id, secret) = session(&hub);
    let (mut old, mut new) = (Client::new(&hub), Client::new(&hub));
    assert_eq!(old.attach_fresh("", &secret).await, ["attached true"]);
    assert_eq!(old.publish("event:c", "once").await, ["published 1"]);
    assert_eq!(old.subscribe("event:b", StartRequest::Afresh).await, ["subscribed 0 None"]);
    hub.execute_for(&secret, subscribe("event:d")).await.expect("subscribed");

    assert_eq!(new.subscribe("event:a", StartRequest::Afresh).await, ["subscribed 0 None"]);
    publish(&hub, "event:a").await;
    assert_eq!(new.attach_fresh("another", &secret).await, ["unknown_session"]);
    assert_eq!((new.attach(&(id.clone(), secret.clone()), None)).await, ["bad_message"], "it has subscribed");
    assert_eq!(new.attach_fresh(&id, &secret).await, ["attached true"]);
    assert_eq!(new.attach_fresh(&id, &secret).await, ["bad_message"], "once on a connection");
    assert_eq!(hub.census().0, 1, "its own has become that of the secret");
    assert_eq!(old.connection.close_code(), Some(CloseCode::Replaced));
    for name in ["event:a", "event:b", "event:d"] {
        publish(&hub, name).await;
    }
    assert_eq!((old.read(), new.read()), (vec![], vec!["event:a 1".to_owned(), "event:a 2".to_owned()]));
    assert_eq!(old.subscribe("event:e", StartRequest::Afresh).await, ["unknown_session"]);
    assert_eq!(new.publish("event:c", "once").await, ["published 1"], "it is the same publisher");
    hub.execute_for(&secret, subscribe("event:e")).await.expect("it is its session now");
    assert_eq!(new.read(), ["event:e subscribed 0 None"]);

    old.connection.end_feed(&old.feed);
    drop(old);
    publish(&hub, "event:a").await;
    assert_eq!(new.read(), ["event:a 3"], "the end of the connection before is none of its own");
    drop(new);
    assert_eq!((hub.census().0, hub.detached_subscriptions()), (1, 2), "it stays, as any that has a secret");
    let mut again = Client::new(&hub);
    assert_eq!(again.attach(&(id, secret), None).await, ["attached true"]);
    assert_eq!(again.read().len(), 3, "two subscriptions, and a gap where something was given");
}

#[tokio::test]
async fn a_fresh_attach_behind_another_attach_leaves_that_session() {
    let hub = hub();
    let (first, second) = (session(&hub), session(&hub));
    for secret in [&second.1, &first.1] {
        for (_, secret) in [&first, &second] {
            hub.ensure_session(secret).expect("room");
        }
        let mut client = Client::new(&hub);
        assert_eq!(client.attach(&first, None).await, ["attached true"]);
        assert_eq!(client.attach_fresh("", secret).await, ["attached true"]);
        assert_eq!(client.connection.close_code(), None, "it has replaced nobody else");
        assert_eq!(client.subscribe("event:a", StartRequest::Afresh).await.len(), 1);
        publish(&hub, "event:a").await;
        assert_eq!(client.read().len(), 1);
        drop(client);
        assert_eq!((hub.census().0, hub.detached_subscriptions()), (2, 1));
        hub.maintain();
        assert_eq!(hub.census().0, 0, "sessions without a connection are reaped");
    }
    hub.ensure_session(&first.1).expect("room");
    hub.execute_for(&first.1, subscribe("event:a")).await.expect("subscribed");
    let client = Client::new(&hub);
    assert_eq!(client.attach(&first, None).await, ["attached true"]);
    assert_eq!(client.attach_fresh("", &second.1).await, ["bad_message"], "it has that one's subscriptions");
}

#[tokio::test]
async fn a_fresh_attach_behind_subscriptions_needs_no_room_and_no_stopping_server_takes_it() {
    let capacity = Capacity { sessions: 2, detached_subscriptions: 10 };
    let namespaces = Namespaces::new([("event".to_owned(), Namespace::open(fulmar_core::Class::Event))]);
    let hub = Hub::with_capacity(namespaces, Duration::ZERO, capacity);
    let (first, second) = (Client::new(&hub), Client::new(&hub));
    let secrets = [1, 2].map(|n| {
        let secret = Secret::from_entropy([n; 24]);
        secret.reveal(secret.session(sha256))
    });
    assert!(Connection::open(&hub).is_err(), "the node is full");
    assert_eq!(first.subscribe("event:a", StartRequest::Afresh).await, ["subscribed 0 None"]);
    assert_eq!(first.attach_fresh("", &secrets[0]).await, ["attached false"]);
    hub.drain();
    assert_eq!(second.attach_fresh("", &secrets[1]).await, ["shutting_down"]);
    hub.close_all(CloseCode::GoingAway);
    let codes = [&first, &second].map(|client| client.connection.close_code());
    assert_eq!(codes, [Some(CloseCode::GoingAway); 2], "it is told under its new name too");
}

#[tokio::test]
async fn whoever_sends_without_a_connection_keeps_the_session() {
    const GRACE: Duration = Duration::from_millis(500);
    let hub = Hub::new(Namespaces::new([]), GRACE);
    let (id, secret) = session(&hub);
    let no_channel = || ClientMessage::Unsubscribe { r#ref: None, channel: channel("event:a") };
    let begun = hub.now().monotonic;
    // Without a pause, so that it is never silent for so long.
    while hub.now().since(begun) < GRACE * 2 {
        let refused = hub.execute_for(&secret, no_channel()).await.expect_err("it has no subscription");
        assert_eq!(refused.code, Code::NotSubscribed);
        hub.maintain();
    }
    let heard = hub.now().monotonic;
    while hub.census().0 > 0 {
        assert!(hub.now().since(heard) < GRACE * 20, "it is reaped in the end");
        hub.maintain();
    }
    assert_eq!(hub.execute_for(&secret, no_channel()).await.expect_err("reaped").code, Code::UnknownSession);
    assert_eq!(hub.issue_ticket(&secret).expect_err("reaped").code, Code::UnknownSession);
    let again =
        |known| hub.ensure_session(&secret).is_ok_and(|it| (it.0.to_string(), it.1) == (id.clone(), known));
    assert!(again(false) && again(true), "it is made again, once");
    assert!(hub.issue_ticket(&secret).is_ok());
    assert_eq!(hub.ensure_session(&id).expect_err("no secret").code, Code::Unauthorized);
    hub.drain();
    assert_eq!(hub.ensure_session(&secret).expect_err("it stops").code, Code::ShuttingDown);
}

#[tokio::test]
async fn a_connection_that_was_replaced_ends_nothing_of_the_session() {
    let hub = hub();
    let session = session(&hub);
    let (old, mut new) = (Client::new(&hub), Client::new(&hub));
    assert_eq!(old.attach(&session, None).await, ["attached true"]);
    assert_eq!(old.subscribe("event:a", StartRequest::Afresh).await, ["subscribed 0 None"]);
    assert_eq!(new.attach(&session, None).await, ["attached true"]);
    let unsubscribe = ClientMessage::Unsubscribe { r#ref: None, channel: channel("event:a") };
    assert_eq!(old.ask(unsubscribe.clone()).await, ["unknown_session"]);
    publish(&hub, "event:a").await;
    assert_eq!(new.read(), ["event:a subscribed 0 None", "event:a 1"]);
    assert_eq!(new.ask(unsubscribe).await.len(), 1);
    publish(&hub, "event:a").await;
    assert_eq!(new.read(), [""; 0]);
}

#[tokio::test]
async fn what_sessions_without_a_connection_hold_together_is_bounded() {
    let capacity = Capacity { sessions: 20, detached_subscriptions: 3 };
    let namespaces = Namespaces::new([("event".to_owned(), Namespace::open(fulmar_core::Class::Event))]);
    let hub = Hub::with_capacity(namespaces, Duration::from_secs(30), capacity);
    let (one, other) = (session(&hub), session(&hub));
    for name in ["event:a", "event:b"] {
        hub.execute_for(&one.1, subscribe(name)).await.expect("subscribed");
    }
    let client = Client::new(&hub);
    client.attach(&other, None).await;
    client.subscribe("event:c", StartRequest::Afresh).await;
    assert_eq!(hub.detached_subscriptions(), 2, "those of the one without a connection");
    drop(client);
    assert_eq!(hub.detached_subscriptions(), 3);
    hub.execute_for(&other.1, subscribe("event:d")).await.expect("subscribed");
    assert_eq!(hub.detached_subscriptions(), 2, "the one that was there for longer gave way");
    let gone = hub.execute_for(&one.1, subscribe("event:e")).await.expect_err("it has ended");
    assert_eq!(gone.code, Code::UnknownSession);

    let client = Client::new(&hub);
    assert_eq!(client.attach(&other, None).await, ["attached true"]);
    assert_eq!(hub.detached_subscriptions(), 0);
    drop(client);
    let unsubscribe = ClientMessage::Unsubscribe { r#ref: None, channel: channel("event:c") };
    hub.execute_for(&other.1, unsubscribe).await.expect("unsubscribed");
    assert_eq!(hub.detached_subscriptions(), 1);
}

/// What went by datagram was given, as far as the server knows.
#[tokio::test]
async fn an_attach_without_positions_begins_anew_what_went_by_datagram() {
    let path = |_, _| Path { prefix: &[], room: 1_200, window: 100_000, burst: 16_384, rtt: Duration::ZERO };
    let hub = hub();
    let session = session(&hub);
    let (connection, datagrams) = Connection::open(&hub).expect("room").with_datagrams();
    let mut old = Client { connection, feed: Feed::new(Order::BesideDatagrams) };
    assert_eq!(old.attach(&session, None).await, ["attached true"]);
    let at = publish(&hub, "state:a").await;
    assert_eq!(old.subscribe("state:a", StartRequest::Position(at)).await, ["subscribed 1 Some(true)"]);
    assert_eq!(old.read(), ["state:a values"], "it is in sync");
    publish(&hub, "state:a").await;
    let mut batch = DatagramBatch::default();
    old.connection.read_datagrams(&datagrams, path, ReadBudget(usize::MAX), &mut batch);
    assert_eq!(batch.effects.packets.len(), 1);

    let mut new = Client::new(&hub);
    assert_eq!(new.attach(&session, None).await, ["attached true"]);
    let expected = ["state:a subscribed 1 None", "state:a reset 2", "state:a 2", "state:a synced 2"];
    assert_eq!(new.read(), expected);
}

/// As streams of WebTransport, which come in no order.
#[tokio::test]
async fn a_late_unsubscribe_ends_no_subscription_that_was_made_elsewhere_since() {
    let hub = hub();
    let Client { connection, feed: control } = Client::new(&hub);
    let (older, mut newer) = (Feed::new(Order::Turns).apart(), Feed::new(Order::Turns).apart());
    let ask = async |feed: &Feed, message| {
        let answers = connection.execute(&feed.handle(), message).await;
        answers.into_iter().map(|answer| short(&answer)).collect::<Vec<_>>().concat()
    };
    let unsubscribe = || ClientMessage::Unsubscribe { r#ref: None, channel: channel("event:a") };
    let subscribe =
        || ClientMessage::Subscribe { r#ref: None, channel: channel("event:a"), start: StartRequest::Afresh };
    let done = short(&ServerMessage::Unsubscribed { r#ref: None, channel: channel("event:a") });
    assert_eq!(ask(&older, subscribe()).await, "subscribed 0 None");
    assert_eq!(ask(&older, unsubscribe()).await, done);
    assert_eq!(ask(&older, subscribe()).await, "subscribed 0 None");
    assert_eq!(ask(&control, unsubscribe()).await, done);
    assert_eq!(ask(&newer, subscribe()).await, "subscribed 0 None");
    assert_eq!(ask(&older, unsubscribe()).await, "not_subscribed");
    connection.end_feed(&older);
    publish(&hub, "event:a").await;
    let mut deliveries = Vec::new();
    connection.read(&mut newer, ReadBudget(usize::MAX), &mut deliveries);
    assert_eq!(deliveries.len(), 1);
    assert_eq!(ask(&newer, unsubscribe()).await, done);
}

/// Frames of state are numbered for as long as a connection lasts.
#[tokio::test]
async fn a_connection_that_has_had_subscriptions_attaches_no_more() {
    let hub = hub();
    let (first, second) = (session(&hub), session(&hub));
    let client = Client::new(&hub);
    let unsubscribe = ClientMessage::Unsubscribe { r#ref: None, channel: channel("state:a") };
    assert_eq!(client.subscribe("state:a", StartRequest::Afresh).await.len(), 1);
    assert_eq!(client.ask(unsubscribe).await.len(), 1);
    assert_eq!(client.attach(&first, None).await, ["bad_message"]);
    let client = Client::new(&hub);
    assert_eq!(client.attach(&first, None).await, ["attached true"]);
    assert_eq!(client.attach(&second, None).await, ["attached true"], "there was no subscription");
}

/// On connections of their own.
#[test]
fn of_two_fresh_attaches_at_once_one_is_replaced() {
    let hub = hub();
    let secret = session(&hub).1;
    for _ in 0..1_000 {
        let clients = [Client::new(&hub), Client::new(&hub)];
        let there = AtomicUsize::new(0);
        let attach = |client: &Client| {
            let subscribed = client.subscribe("event:a", StartRequest::Afresh).now_or_never();
            assert_eq!(subscribed.expect("it waits for nothing").len(), 1);
            there.fetch_add(1, Ordering::SeqCst);
            while there.load(Ordering::SeqCst) < 2 {
                hint::spin_loop();
            }
            client.attach_fresh("", &secret).now_or_never().expect("it waits for nothing");
        };
        thread::scope(|scope| {
            let attach = &attach;
            for client in &clients {
                scope.spawn(move || attach(client));
            }
        });
        let replaced = clients.each_ref().map(|it| it.connection.close_code() == Some(CloseCode::Replaced));
        assert_ne!(replaced[0], replaced[1], "one of them");
        let [first, second] = clients;
        let (lost, kept) = if replaced[0] { (first, second) } else { (second, first) };
        drop(lost);
        assert_eq!((hub.census().0, hub.detached_subscriptions()), (1, 0));
        drop(kept);
        assert_eq!((hub.census().0, hub.detached_subscriptions()), (1, 1));
        hub.maintain();
        assert_eq!(hub.census().0, 0, "sessions without a connection are reaped");
    }
}

/// On streams of one connection.
#[test]
fn of_two_attaches_at_once_both_the_registry_and_the_connection_know_the_same_as_the_last() {
    let hub = hub();
    for _ in 0..1_000 {
        let session = session(&hub);
        let client = Client::new(&hub);
        // Without sleeping, so that they begin together.
        let there = AtomicUsize::new(0);
        let attach = || {
            there.fetch_add(1, Ordering::SeqCst);
            while there.load(Ordering::SeqCst) < 2 {
                hint::spin_loop();
            }
            let answers = client.attach(&session, None).now_or_never().expect("it waits for nothing");
            assert_eq!(answers, ["attached true"]);
        };
        thread::scope(|scope| {
            scope.spawn(attach);
            scope.spawn(attach);
        });
        drop(client);
        hub.maintain();
        assert_eq!(hub.census().0, 0, "sessions without a connection are reaped");
    }
}
