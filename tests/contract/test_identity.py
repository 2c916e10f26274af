"""One identity on whatever connection: fresh attaches and secrets that clients make up (PROTOCOL.md sections 4, 7 and 8)."""

import base64
import hashlib
import os

import fulmar_bin
import pytest
import wt
from raw import EventStream
from server import check_error, name, publish
from test_resuming import TRANSPORTS, at, forgetful, over, until_reaped  # noqa: F401
from test_sessions import ENCODINGS, bearer, new_session, send, ticket
from ws import open_ws


async def become(connection, secret, ref=8, **identified):
    """The id of the session that a fresh attach takes over, and whether it was known."""
    answer = await connection.ask(type="attach", secret=secret, fresh=True, ref=ref, **identified)
    assert answer["type"] == "attached", answer
    return answer["session"], answer["resumed"]


def minted():
    """A secret that a client makes up, and the id of its session."""
    secret = os.urandom(24)
    session = encoded(hashlib.sha256(b"fulmar session:" + secret).digest()[:16])
    return f"{session}.{encoded(secret)}", session


def encoded(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@TRANSPORTS
async def test_a_fresh_attach_is_its_client_without_its_subscriptions(server, transport):
    channel, other, mine = name(), name(), name()
    async with server.http() as http, over(server, transport) as before, over(server, transport) as after:
        session = await new_session(http)
        assert await become(before, session["secret"]) == (session["id"], True)
        for subscribed in (channel, other):
            await before.subscribe(subscribed)
        first = await before.ask(type="publish", channel=mine, data="once", id="mine")
        epoch, offset = await publish(http, channel, "arrived")
        await before.publications(1)
        await publish(http, channel, "missed")
        assert await become(after, session["secret"], id=session["id"]) == (session["id"], True)
        close = await before.until("close")
        assert close["code"] == 4900, close
        # Behind the answer nothing comes unasked.
        await publish(http, other, "to nobody")
        await after.barrier()
        assert not after.kept
        assert (await after.subscribe(channel, position={"epoch": epoch, "offset": offset}))["recovered"] is True
        assert (await after.publications(1))[0]["data"] == "missed"
        again = await after.ask(type="publish", channel=mine, data="once", id="mine")
        assert at(again) == at(first), "it is the same publisher"
        # What POST /send does in its name still comes here.
        assert (await send(http, session, type="subscribe", channel=other)).status_code == 200
        assert "ref" not in await after.until("subscribed", channel=other)


@TRANSPORTS
async def test_what_was_subscribed_to_before_a_fresh_attach_goes_on(server, transport):
    channel, other, mine = name(), name(), name()
    secret, identity = minted()
    async with server.http() as http, over(server, transport) as before, over(server, transport) as after:
        assert await become(before, secret) == (identity, False)
        first = await before.ask(type="publish", channel=mine, data="once", id="mine")
        await before.subscribe(other)
        await after.subscribe(channel)
        await publish(http, channel, "as its own")
        await after.publications(1)
        assert await become(after, secret) == (identity, True)
        close = await before.until("close")
        assert close["code"] == 4900, close
        await publish(http, other, "to nobody")
        await publish(http, channel, "as that of the secret")
        assert [p["data"] for p in await after.publications(1)] == ["as that of the secret"]
        assert not [m for m in after.kept if m.get("channel") == other]
        again = await after.ask(type="publish", channel=mine, data="once", id="mine")
        assert at(again) == at(first), "it is the same publisher"
        assert (await send(http, {"secret": secret}, type="subscribe", channel=other)).status_code == 200
        assert "ref" not in await after.until("subscribed", channel=other)


@TRANSPORTS
async def test_a_secret_that_the_client_made_up_has_a_session(server, transport):
    secret, session = minted()
    async with server.http() as http, over(server, transport) as first, over(server, transport) as second, over(server, transport) as third:
        assert await become(first, secret) == (session, False)
        check_error(await send(http, {"secret": secret}, type="unsubscribe", channel=name()), 409, "not_subscribed")
        assert await become(second, secret, id=session) == (session, True)
        again = await second.ask(type="attach", secret=secret, fresh=True)
        assert again["type"] == "error" and again["error"]["code"] == "bad_message", again
        own = secret.split(".")[1]
        for wrong in ({"secret": ""}, {"secret": own[1:]}, {"secret": secret[:-1]}, {"secret": f"{encoded(bytes(16))}.{own}"}, {"secret": secret, "id": "s"}):
            answer = await third.ask(type="attach", fresh=True, **wrong)
            assert answer["type"] == "error" and answer["error"]["code"] == "unknown_session", (wrong, answer)
        await second.barrier()
        assert await become(third, own) == (session, True), "the id may be left out: it follows from the secret"


@ENCODINGS
async def test_a_fresh_attach_and_what_follows_need_no_answer_in_between(server, binary):
    """On a WebSocket messages are taken in the order in which they come."""
    channels = [name() for _ in range(20)]
    secret, session = minted()
    async with server.http() as http, open_ws(server, binary) as before:
        assert await become(before, secret) == (session, False)
        positions = []
        for channel in channels:
            epoch, offset = await publish(http, channel, "arrived")
            positions.append({"epoch": epoch, "offset": offset})
            await before.subscribe(channel)
            await publish(http, channel, "missed")
        async with open_ws(server, binary) as ws:
            await ws.send(type="attach", secret=secret, fresh=True, ref=1)
            for n, (channel, position) in enumerate(zip(channels, positions, strict=True)):
                await ws.send(type="subscribe", channel=channel, position=position, ref=n + 2)
            answers, got = [], {}
            while len(answers) <= len(channels) or len(got) < len(channels):
                message = await ws.until("attached", "subscribed", "error", "publication", awaited=f"{len(answers)} answers, {len(got)} publications")
                if message["type"] == "publication":
                    got[message["channel"]] = message["data"]
                else:
                    answers.append((message["type"], message.get("ref"), message.get("recovered")))
            assert answers == [("attached", 1, None)] + [("subscribed", n + 2, True) for n in range(len(channels))]
            assert got == dict.fromkeys(channels, "missed")


async def test_what_cannot_be_told_of_a_fresh_attach_is_refused(server):
    async with server.http() as http, open_ws(server) as ws:
        session = await new_session(http)
        credentials = {"type": "attach", "id": session["id"], "secret": session["secret"]}
        for wrong, code in (
            (credentials | {"fresh": True, "positions": []}, "bad_message"),
            (credentials | {"fresh": 1}, "bad_json"),
            ({"type": "attach", "secret": session["secret"]}, "bad_message"),
            ({"type": "attach", "secret": session["secret"], "fresh": False, "positions": []}, "bad_message"),
            ({"type": "attach", "id": session["id"], "fresh": True}, "bad_message"),
        ):
            await ws.send(**wrong)
            answer = await ws.until("attached", "error")
            assert answer["type"] == "error" and answer["error"]["code"] == code, (wrong, answer)
        await ws.subscribe(name())
        answer = await ws.ask(type="attach", id=session["id"], secret=session["secret"])
        assert answer["type"] == "error" and answer["error"]["code"] == "bad_message", "it has subscribed"


def silent(session, head):
    """A stream of which nothing is sent yet but its head, if that; and what is left of that."""
    stream_id = session.quic.get_next_available_stream_id()
    stream = session.client.streams[stream_id] = wt.Stream(session, stream_id)
    header = fulmar_bin.varint(0x41) + fulmar_bin.varint(session.id)
    session.quic.send_stream_data(stream_id, header if head else b"")
    session.client.transmit()
    return stream, b"" if head else header


async def arrived(session):
    """What was sent before has come to the server, and it had time for it."""
    for _ in range(5):
        await session.client.get("/healthz")


@pytest.mark.parametrize("head", [False, True], ids=["nothing", "head"])
async def test_streams_that_overtake_the_attach_wait_for_it(server, head):
    channels, mine = [name() for _ in range(4)], name()
    secret, identity = minted()
    async with server.http() as http, wt.open_wt(server, path="/wt?attach") as session:
        control, header = silent(session, head)
        streams = []
        for channel in channels:
            epoch, offset = await publish(http, channel, "arrived")
            await publish(http, channel, "missed")
            streams.append(session.open_stream())
            streams[-1].send(type="subscribe", channel=channel, position={"epoch": epoch, "offset": offset}, ref=1)
        streams[0].send(type="publish", channel=mine, data="once", id="mine", ref=2)
        await arrived(session)
        if header:
            control.write(header)
            await arrived(session)
        assert await become(control, secret) == (identity, False)
        for stream, channel in zip(streams, channels, strict=True):
            answer = await stream.until("subscribed", "error", ref=1)
            assert answer["type"] == "subscribed" and answer["channel"] == channel and answer["recovered"], answer
        published = await streams[0].until("published", "error", ref=2)
        for stream in streams:
            got = [m for m in stream.kept if m["type"] == "publication"] or await stream.publications(1)
            assert [m["data"] for m in got] == ["missed"]
        again = await send(http, {"secret": secret}, type="publish", channel=mine, data="once", id="mine")
        assert at(again.json()) == at(published), "it is the same publisher"
        # From then on each stream goes on by itself.
        open_stream, _ = silent(session, True)
        await session.open_stream().barrier()
        await open_stream.barrier()


async def test_an_attach_and_its_subscriptions_in_one_flight(server):
    """As often as the order of its streams could be a matter of chance."""
    secret, identity = minted()
    async with wt.quic(server) as client:
        for known in [False] + [True] * 9:
            session = await client.session(path="/wt?attach")
            control, streams = session.open_stream(), [session.open_stream() for _ in range(3)]
            channels = [name() for _ in streams]
            for stream, channel in zip(streams, channels, strict=True):
                stream.send(type="subscribe", channel=channel, ref=1)
            assert await become(control, secret) == (identity, known)
            for stream, channel in zip(streams, channels, strict=True):
                assert (await stream.until("subscribed", "error", ref=1))["channel"] == channel


@pytest.mark.parametrize("first", ["refused", "malformed", "another"])
async def test_an_attach_that_is_refused_or_not_sent_holds_up_nothing_more(server, first):
    channel = name()
    async with server.http() as http, wt.open_wt(server, path="/wt?attach") as session:
        control, stream = session.open_stream(), session.open_stream()
        stream.send(type="subscribe", channel=channel, ref=1)
        await arrived(session)
        if first == "refused":
            answer = await control.ask(type="attach", secret="wrong", fresh=True)
            assert answer["error"]["code"] == "unknown_session", answer
        elif first == "malformed":
            control.write(fulmar_bin.prefixed(b"\x24"))
            assert (await control.until("error"))["error"]["code"] == "bad_message"
        else:
            await control.barrier()
        assert (await stream.until("subscribed", "error", ref=1))["type"] == "subscribed"
        await publish(http, channel, "on a session of its own")
        await stream.publications(1)
        secret, identity = minted()
        answer = await control.ask(type="attach", secret=secret, id=identity)
        assert answer["error"]["code"] == "bad_message", "it has subscribed"
        assert await become(control, secret) == (identity, False)
        await publish(http, channel, "on that of the secret")
        await stream.publications(1)


async def test_streams_do_not_wait_for_ever(server):
    """The session is closed with a code that says to come back: what they wait for may have been lost on its way."""
    async with wt.open_wt(server, path="/wt?attach") as session:
        control, _ = silent(session, True)
        stream = session.open_stream()
        stream.send(type="subscribe", channel=name(), ref=1)
        close = await control.until("close")
        assert close["code"] == 4001, close
        assert (await session.closed())[0] == 4001
        await stream.ended()


async def test_without_the_promise_a_silent_control_stream_holds_up_nothing(server):
    for path in ("/wt", "/wt?attached"):
        async with wt.open_wt(server, path=path) as session:
            silent(session, True)
            await session.open_stream().subscribe(name())


async def make(http, secret):
    """What POST /session answers to whoever has a secret."""
    response = await http.post("/session", json={}, headers=bearer({"secret": secret}))
    assert response.status_code == 200 and "no-store" in response.headers["cache-control"], response.text
    return response.json()


async def test_a_session_is_made_again_without_a_connection(forgetful):  # noqa: F811
    """So a publisher that has none, or only reads by SSE or poll, is who it was."""
    secret, identity = minted()
    mine, channel = {"type": "publish", "channel": name(), "data": "once", "id": "mine"}, name()
    session = {"id": identity, "secret": secret}
    async with forgetful.http() as http:
        check_error(await send(http, session, **mine), 401, "unknown_session")
        assert await make(http, secret) == {"id": identity, "resumed": False}, "the secret is not repeated"
        first = (await send(http, session, **mine)).json()
        assert await make(http, secret) == {"id": identity, "resumed": True}
        async with await EventStream.open(forgetful, channel, ticket=await ticket(http, session)) as stream:
            assert (await send(http, session, type="publish", channel=channel, data="by itself")).status_code == 200
            assert (await stream.message())["data"] == "by itself"
            assert await make(http, secret) == {"id": identity, "resumed": True}
        await until_reaped(forgetful, session)
        assert await make(http, secret) == {"id": identity, "resumed": False}
        assert (await send(http, session, **mine)).json() == first, "it is the same publisher"
        async with open_ws(forgetful) as ws:
            assert await become(ws, secret) == (identity, True)


async def test_what_is_no_secret_makes_no_session(server):
    async with server.http() as http:
        one, other = await new_session(http), await new_session(http)
        before = (await http.get("/api/stats")).json()["sessions"]
        own = one["secret"].split(".")[1]
        for wrong in ("wrong", one["id"], own[1:], one["secret"][:-1], f"{other['id']}.{own}", "."):
            response = await http.post("/session", json={}, headers={"authorization": f"Bearer {wrong}"})
            check_error(response, 401, "unauthorized", wrong)
        assert (await http.get("/api/stats")).json()["sessions"] == before
        # Credentials of another kind are another's, of a proxy's perhaps.
        response = await http.post("/session", json={}, headers={"authorization": "Basic dTpw"})
        assert response.status_code == 200 and response.json()["secret"], response.text
