"""Going on with a session from the client's own positions (PROTOCOL.md section 4, "Recovery" and "Attaching")."""

import asyncio
import contextlib

import cursors
import pytest
import wt
from server import DEADLINE, View, check_error, name, offsets, publish, start_configured, within
from test_sessions import ENCODINGS, attach, bearer, new_session, send
from ws import open_ws

CONFIGURATION = """
session_grace_seconds = 1

[api]
key_file = "{key_file}"

[namespaces.event]
class = "event"
subscribe = true
publish = true
count = 5

[namespaces.state]
class = "state"
subscribe = true
publish = true

[namespaces.write]
class = "event"
publish = true
"""
KEY = "a key that only its owner knows"


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory):
    """A server that keeps a session for a second without a connection."""
    running = start_configured(tmp_path_factory.mktemp("forgetful"), CONFIGURATION, KEY)
    yield running
    running.stop()


def at(message):
    return {"channel": message["channel"], "epoch": message["epoch"], "offset": message["offset"]}


async def resume(connection, session, positions, ref=8):
    answer = await connection.ask(type="attach", id=session["id"], secret=session["secret"], positions=positions, ref=ref)
    assert answer["type"] == "attached" and answer["session"] == session["id"], answer
    return answer["resumed"]


async def until_reaped(server, session, others=0):
    """The server has forgotten the session; its client is told so as ever. To ask for it by its secret would keep it."""
    async with server.http(headers={"authorization": f"Bearer {KEY}"}) as http:
        async with within(DEADLINE, "the session to be reaped"):
            while (await http.get("/api/stats")).json()["sessions"] > others:
                await asyncio.sleep(0.05)
        check_error(await send(http, session, type="unsubscribe", channel=name()), 401, "unknown_session")


@contextlib.asynccontextmanager
async def over(server, transport):
    """A connection, or the control stream of one."""
    if transport == "webtransport":
        async with wt.open_wt(server) as session:
            yield session.open_stream()
    else:
        async with open_ws(server, transport == "bin") as ws:
            yield ws


TRANSPORTS = pytest.mark.parametrize("transport", ["json", "bin", "webtransport"])


@TRANSPORTS
async def test_a_named_channel_goes_on_after_its_position(server, transport):
    """The others as without positions: what was given there is in doubt."""
    named, state, unnamed = name(), name("state"), name()
    async with server.http() as http, open_ws(server) as before, over(server, transport) as after:
        session = await new_session(http)
        await attach(before, session)
        for channel in (named, state):
            await before.subscribe(channel)
        first = await publish(http, state, "old", key="k")
        kept = [at(m) for m in [await before.until("publication")]]
        assert (kept[0]["epoch"], kept[0]["offset"]) == first
        epoch, _ = await publish(http, unnamed, "given")
        # It was asked for from a position once, and is not now.
        assert (await before.subscribe(unnamed, position={"epoch": epoch, "offset": 0}))["recovered"] is True
        await publish(http, named, "arrived")
        got = await before.publications(2)
        kept += [at(m) for m in got if m["channel"] == named]
        # What the client did not take before the connection broke, as far as its positions say.
        missed = [(await publish(http, named, n))[1] for n in range(3)]
        _, newer = await publish(http, state, "new", key="k")
        await before.publications(4)
        assert await resume(after, session, kept) is True
        assert (await before.closed())[0] == 4900
        subscribed, events, values = {}, [], []
        while len(subscribed) < 3 or len(events) < 3 or not values:
            message = await after.until("subscribed", "publication", "reset")
            assert message["type"] != "reset", message
            if message["type"] == "subscribed":
                assert "ref" not in message, message
                subscribed[message["channel"]] = message
            elif message["channel"] == named:
                events.append(message["offset"])
            else:
                assert message["channel"] == state, message
                values.append(message["offset"])
        assert (events, values) == (missed, [newer])
        assert [subscribed[p["channel"]]["offset"] for p in kept] == [p["offset"] for p in kept]
        assert [subscribed[c].get("recovered") for c in (named, state, unnamed)] == [True, True, None]
        gaps = [m["channel"] for m in after.kept if m["type"] == "gap"]
        while not gaps:
            gaps.append((await after.until("gap"))["channel"])
        assert gaps == [unnamed]


@TRANSPORTS
async def test_a_position_that_is_not_covered_is_told(server, transport):
    events, state = name(), name("state")
    async with server.http() as http, open_ws(server) as before, over(server, transport) as after:
        session = await new_session(http)
        await attach(before, session)
        epoch, _ = await publish(http, events, "one")
        await publish(http, state, "value", key="k")
        for channel in (events, state):
            await before.subscribe(channel)
        ahead = {"channel": events, "epoch": epoch, "offset": 99}
        other = {"channel": state, "epoch": "other", "offset": 1}
        assert await resume(after, session, [ahead, other]) is True
        told = {}
        while len(told) < 6:
            message = await after.recv("subscribed, gap or reset, and publications")
            told[message["channel"], message["type"]] = message
            if message["type"] in ("gap", "reset", "publication"):
                assert (message["channel"], "subscribed") in told, told
        for channel, kind in ((events, "gap"), (state, "reset")):
            assert told[channel, "subscribed"]["recovered"] is False
            assert told[channel, "subscribed"]["epoch"] == told[channel, kind]["epoch"] == told[channel, "publication"]["epoch"]
        assert told[events, "subscribed"]["offset"] == told[events, "gap"]["offset"] == 0


@TRANSPORTS
async def test_subscribed_says_whether_a_position_is_recovered(server, transport):
    async with server.http() as http, over(server, transport) as connection:
        for namespace in ("event", "state", "signal"):
            channel = name(namespace)
            epoch, offset = await publish(http, channel, "x")
            ahead = offset + 1
            cases = [
                ({}, None),
                ({"position": {"epoch": epoch, "offset": offset}}, True),
                ({"position": {"epoch": epoch, "offset": 0}}, True),
                ({"position": {"epoch": epoch, "offset": ahead}}, False),
                ({"position": {"epoch": "other", "offset": offset}}, False),
                ({"after": cursors.build((channel, epoch, offset))}, True),
                ({"after": cursors.build((channel, epoch, ahead))}, False),
            ]
            for start, recovered in cases:
                answer = await connection.subscribe(channel, **start)
                assert answer.get("recovered") is recovered, (namespace, start, answer)
                left = await connection.ask(type="unsubscribe", channel=channel)
                assert left["type"] == "unsubscribed", left


@ENCODINGS
async def test_a_query_says_whether_a_position_is_recovered(server, binary):
    channel, other = name(), name()
    async with server.http() as http:
        epoch, offset = await publish(http, channel, "x")
        for at_offset, recovered in ((offset, True), (offset + 1, False)):
            after = cursors.build((channel, epoch, at_offset))
            async with open_ws(server, binary, query=f"?channel={channel}&channel={other}&after={after}") as ws:
                told = [await ws.until("subscribed"), await ws.until("subscribed")]
                assert {m["channel"]: m.get("recovered") for m in told} == {channel: recovered, other: None}


async def test_send_says_whether_a_position_is_recovered(server):
    first, second = name(), name()
    async with server.http() as http:
        session = await new_session(http)
        epoch, offset = await publish(http, first, "x")
        answers = [
            (await send(http, session, type="subscribe", channel=first, position={"epoch": epoch, "offset": offset})).json(),
            (await send(http, session, type="subscribe", channel=second, position={"epoch": epoch, "offset": 1})).json(),
        ]
    assert [answer["recovered"] for answer in answers] == [True, False]


@TRANSPORTS
async def test_a_session_that_was_reaped_is_made_again(forgetful, transport):
    held, gone, state, afresh = name(), name(), name("state"), name()
    async with forgetful.http(headers={"authorization": f"Bearer {KEY}"}) as http:
        session = await new_session(http)
        async with open_ws(forgetful) as ws:
            await attach(ws, session)
            for channel in (held, gone, state, afresh):
                await ws.subscribe(channel)
            await publish(http, state, "a value", key="k")
            positions = [at(await ws.until("publication"))]
            await publish(http, held, "arrived")
            positions.append(at(await ws.until("publication")))
            await publish(http, gone, "arrived too")
            positions.append(at(await ws.until("publication")))
            first = await ws.ask(type="publish", channel=held, data="once", id="mine")
            _, other = await publish(http, held, "another's", id="mine")
        missed = [first["offset"], other, (await publish(http, held, "missed"))[1]]
        assert len(set(missed)) == 3, "ids are a publisher's own"
        newest = [(await publish(http, gone, n))[1] for n in range(9)][-5:]
        _, removed = await publish(http, state, removed=True, key="k")
        await until_reaped(forgetful, session)
        check_error(await http.post("/session/ticket", json={}, headers=bearer(session)), 401, "unknown_session")
        async with over(forgetful, transport) as connection:
            refused = await connection.ask(type="attach", id=session["id"], secret=session["secret"])
            assert refused["type"] == "error" and refused["error"]["code"] == "unknown_session", refused
            # The publish of which it may have missed the answer, again before anything else.
            assert await resume(connection, session, positions) is False
            again = await connection.ask(type="publish", channel=held, data="once", id="mine")
            assert {k: v for k, v in again.items() if k != "ref"} == {k: v for k, v in first.items() if k != "ref"}
            messages = list(connection.kept)
            while len([m for m in messages if m["type"] == "publication"]) < 9:
                messages.append(await connection.recv(f"what was missed; so far {messages}"))
            recovered = {m["channel"]: m["recovered"] for m in messages if m["type"] == "subscribed"}
            assert recovered == {held: True, state: True, gone: False}
            assert [m["channel"] for m in messages if m["type"] in ("gap", "reset")] == [gone]
            got = {c: offsets(m for m in messages if m["type"] == "publication" and m["channel"] == c) for c in (held, gone, state)}
            assert got == {held: missed, gone: newest, state: [removed]}
            # It is what it was: its secret works, and it has what was asked for, no more.
            check_error(await send(http, session, type="unsubscribe", channel=afresh), 409, "not_subscribed")
            assert (await send(http, session, type="subscribe", channel=afresh)).status_code == 200
            await connection.until("subscribed", channel=afresh)
            _, live = await publish(http, held, "live")
            assert (await connection.until("publication"))["offset"] == live


@ENCODINGS
async def test_a_session_made_again_without_channels(forgetful, binary):
    async with forgetful.http() as http, open_ws(forgetful, binary) as ws, open_ws(forgetful) as later:
        session = await new_session(http)
        await until_reaped(forgetful, session, others=2)
        assert await resume(ws, session, []) is False
        await ws.barrier()
        assert not ws.kept
        # The last wins here too, and finds it known.
        assert await resume(later, session, []) is True
        assert (await ws.closed())[0] == 4900


@TRANSPORTS
async def test_a_channel_that_cannot_be_read_is_named(forgetful, transport):
    forbidden, good = name("write"), name()
    async with forgetful.http() as http, over(forgetful, transport) as connection:
        session = await new_session(http)
        positions = [{"channel": channel, "epoch": "e", "offset": 1} for channel in (forbidden, good)]
        assert await resume(connection, session, positions) is True
        error = await connection.until("error")
        assert (error["channel"], error["error"]["code"]) == (forbidden, "forbidden") and "ref" not in error, error
        told = [m for m in connection.kept if m["type"] == "subscribed"] or [await connection.until("subscribed")]
        assert [m["channel"] for m in told] == [good]
        await connection.barrier()


@TRANSPORTS
async def test_positions_that_are_not_taken(server, transport):
    async with server.http() as http, over(server, transport) as connection:
        session = await new_session(http)
        one = {"channel": name(), "epoch": "e", "offset": 1}
        many = [one | {"channel": name()} for _ in range(129)]
        cases = [([one, one], "bad_message"), (many, "too_many_subscriptions"), ([one | {"channel": "a b"}], "bad_channel")]
        cases += [([one | {"epoch": "e!"}], "bad_cursor")]
        if transport == "json":
            cases += [([one | {"offset": 2**53}], "bad_cursor"), ([one | {"offset": -1}], "bad_json"), ({}, "bad_json"), ([{}], "bad_json")]
        for positions, code in cases:
            answer = await connection.ask(type="attach", id=session["id"], secret=session["secret"], positions=positions, ref=9) if code != "bad_json" else None
            if answer is None:
                await connection.send(type="attach", id=session["id"], secret=session["secret"], positions=positions)
                answer = await connection.until("error")
            assert answer["type"] == "error" and answer["error"]["code"] == code, (code, answer)
        assert await resume(connection, session, many[:128]) is True
        for _ in range(128):
            await connection.until("subscribed")


@ENCODINGS
async def test_a_connection_takes_positions_once(server, binary):
    async with server.http() as http, open_ws(server, binary) as ws:
        first, second = await new_session(http), await new_session(http)
        assert await resume(ws, first, []) is True
        answer = await ws.ask(type="attach", id=second["id"], secret=second["secret"], positions=[])
        assert answer["type"] == "error" and answer["error"]["code"] == "bad_message", answer
        await attach(ws, second)


@ENCODINGS
async def test_only_its_secret_makes_a_session_again(server, binary):
    async def sessions():
        return (await http.get("/api/stats")).json()["sessions"]

    async with server.http() as http, open_ws(server, binary) as ws:
        one, other = await new_session(http), await new_session(http)
        before = await sessions()
        own = one["secret"].split(".")[1]
        turned = own[:5] + ("A" if own[5] != "A" else "B") + own[6:]
        wrong = [
            {"id": one["id"], "secret": other["secret"]},
            {"id": one["id"], "secret": f"{other['id']}.{own}"},
            {"id": other["id"], "secret": f"{other['id']}.{own}"},
            {"id": one["id"], "secret": f"{one['id']}.{turned}"},
            {"id": "A" * 22, "secret": f"{'A' * 22}.{own}"},
            {"id": "A" * 22, "secret": one["secret"]},
            {"id": one["id"], "secret": own[1:]},
            {"id": "", "secret": ""},
        ]
        for credentials in wrong:
            answer = await ws.ask(type="attach", positions=[], **credentials)
            assert answer["type"] == "error" and answer["error"]["code"] == "unknown_session", (credentials, answer)
        assert await sessions() == before


class Moving:
    """A client that changes its transport. What it holds of a channel of events and of one of state."""

    def __init__(self, events, state):
        self.events, self.state = events, state
        self.places, self.got, self.view = {}, [], View()
        self.dropped, self.came = 0, asyncio.Event()
        self.trouble = []

    def take(self, message):
        kind, channel = message["type"], message.get("channel")
        if kind == "subscribed" and channel not in self.places:
            self.places[channel] = at(message)
        elif kind == "subscribed" and message.get("recovered") is not True:
            self.trouble.append(message)
        elif kind in ("gap", "reset", "synced", "error"):
            if channel != self.state or self.view.synced:
                self.trouble += [message] if kind != "synced" else []
            self.view.take(message)
            if kind == "synced":
                self.places[channel] = at(message)
        elif kind == "publication" and channel == self.events:
            if message["offset"] <= self.places[channel]["offset"]:
                self.dropped += 1
            else:
                self.got.append(message["offset"])
                self.places[channel] = at(message)
        elif kind == "publication":
            self.view.take(message)
        self.came.set()

    def count(self):
        return len(self.got)

    async def until(self, reached, awaited):
        async with within(DEADLINE, f"{awaited}; so far {len(self.got)} events, trouble {self.trouble}"):
            while not reached():
                self.came.clear()
                await self.came.wait()


async def pump(recv, take):
    while True:
        message = await recv()
        if message is wt.ENDED:
            return
        take(message)


@contextlib.asynccontextmanager
async def leg(server, transport, client, session):
    """One transport of a moving client. It goes on from where the client was when the one before was left."""
    async with contextlib.AsyncExitStack() as stack:
        if transport == "webtransport":
            webtransport = await stack.enter_async_context(wt.open_wt(server))
            connection = webtransport.open_stream()
            sources = [connection.recv, webtransport.datagram]
            take = client.take
        else:
            connection = await stack.enter_async_context(open_ws(server, transport == "bin"))
            sources = [connection.recv]

            def take(message):
                client.take(message)
                # Here everything is in order, so each publication is a position.
                if message["type"] == "publication" and message["channel"] == client.state and client.view.synced:
                    client.places[client.state] = at(message)

        if client.places:
            assert await resume(connection, session, list(client.places.values())) is True
        else:
            await attach(connection, session)
            for channel in (client.events, client.state):
                take(await connection.subscribe(channel))
        for message in connection.kept:
            take(message)
        async with asyncio.TaskGroup() as tasks:
            pumps = [tasks.create_task(pump(recv, take)) for recv in sources]
            yield
            for it in pumps:
                it.cancel()
        if transport == "webtransport" and (low := webtransport.receiver.position(client.state)) is not None:
            client.places[client.state]["offset"] = max(low, client.places[client.state]["offset"])


async def test_a_client_that_moves_between_transports_loses_nothing(server):
    """WebSocket, WebTransport and back, while somebody publishes; each leaves what is on its way behind."""
    client = Moving(name(), name("state"))
    published, values, stop = [], {}, asyncio.Event()

    async def publisher():
        async with server.http() as http:
            n = 0
            while not stop.is_set():
                n += 1
                published.append((await publish(http, client.events, n))[1])
                key = f"k{n % 7}"
                removed = n % 11 == 0
                await publish(http, client.state, **({"removed": True} if removed else {"data": n}), key=key)
                values.pop(key, None) if removed else values.update({key: n})

    async with server.http() as http:
        session = await new_session(http)
        publishing = asyncio.create_task(publisher())
        route = ["json", "webtransport", "bin", "webtransport", "json", "webtransport", "bin"]
        for transport in route[:-1]:
            before = client.count()
            async with leg(server, transport, client, session):
                await client.until(lambda before=before: client.count() >= before + 15 and client.view.synced, f"fifteen events over {transport}")
        async with leg(server, route[-1], client, session):
            before = client.count()
            await client.until(lambda: client.count() >= before + 15, "fifteen events on the last transport")
            stop.set()
            await publishing
            await client.until(lambda: client.got[-1] == published[-1] and client.view.values() == values, f"the end, {published[-1]} and {values}, not {client.view.values()}")
    assert client.trouble == []
    # The first subscription began when some had been published.
    assert client.got == published[published.index(client.got[0]) :]
    assert client.view.resets == 1, "the one of its first subscription"


async def test_a_move_before_the_old_connection_has_ended(server):
    """The client reads on both; what comes on the old one after the move is below its position or not there."""
    channel = name()
    async with server.http() as http, open_ws(server) as old, wt.open_wt(server) as new:
        session = await new_session(http)
        await attach(old, session)
        place = at(await old.subscribe(channel))
        sent = [(await publish(http, channel, n))[1] for n in range(20)]
        took = await old.publications(7)
        place = at(took[-1])
        control = new.open_stream()
        assert await resume(control, session, [place]) is True
        sent += [(await publish(http, channel, n))[1] for n in range(20)]
        rest = [m for m in control.kept if m["type"] == "publication"]
        rest += await control.publications(33 - len(rest), channel)
        assert offsets(took + rest) == sent
        assert not [m for m in control.kept if m["type"] in ("gap", "reset")]
        assert (await old.until("close"))["code"] == 4900
