"""Subscriptions that stand in the CONNECT (PROTOCOL.md section 8)."""

import base64
import json

import fulmar_bin
import pytest
import wt
from server import name, publish
from test_configured import configured  # noqa: F401
from test_identity import become, minted
from test_resuming import at
from test_sessions import send
from ws import open_ws


def text(frames):
    return base64.urlsafe_b64encode(frames).decode().rstrip("=")


def path(*messages, attach=False):
    """Where a session with these subscriptions is asked for; their refs are 1, 2 and so on."""
    frames = [fulmar_bin.from_json({"type": "subscribe", "ref": n + 1} | message) for n, message in enumerate(messages)]
    return f"/wt?{'attach&' * attach}subscribe={text(b''.join(map(fulmar_bin.prefixed, frames)))}"


def subscribes(*channels, **options):
    return path(*({"channel": channel} for channel in channels), **options)


async def test_what_is_asked_for_with_the_connect_comes_with_its_answer(server):
    """Before the client has opened any stream; on each session of a connection on a stream of its own."""
    events, state, unread = name(), name("state"), name()
    async with server.http() as http, wt.quic(server) as client:
        await publish(http, state, "value", key="k")
        for _ in range(2):
            epoch, offset = await publish(http, events, "before")
            position = {"epoch": epoch, "offset": offset}
            await publish(http, events, "missed")
            wanted = {"channel": events, "position": position}, {"channel": state}, {"channel": events}, {"channel": unread, "position": position}
            session = await client.session(path=path(*wanted))
            stream = await session.stream_of_server()
            assert stream.id % 4 == 1
            answers = [await stream.recv() for _ in range(4)]
            assert [it["ref"] for it in answers] == [1, 2, 3, 4]
            assert [(it["type"], it.get("recovered")) for it in answers] == [("subscribed", True), ("subscribed", None), ("error", None), ("subscribed", False)]
            assert answers[2]["error"]["code"] == "already_subscribed"
            expected = {("publication", "missed"), ("gap", unread), ("reset", state), ("publication", "value"), ("synced", state)}
            seen = [await stream.recv(f"{expected}") for _ in expected]
            assert {(m["type"], m.get("data", m["channel"])) for m in seen} == expected, seen
            await publish(http, events, "live")
            assert [p["data"] for p in await stream.publications(1)] == ["live"]
            await publish(http, state, "changed", key="k")
            assert (await session.datagram())["data"] == "changed", "its acknowledgements are read on that stream"
            await publish(http, state, "value", key="k")
            assert session.opened.empty()


async def test_a_channel_that_may_not_be_read_gets_an_error_and_the_others_go_on(configured):  # noqa: F811
    readable = name("both")
    async with wt.open_wt(configured, path=subscribes(name("write"), readable, name("nowhere"))) as session, open_ws(configured) as publisher:
        stream = await session.stream_of_server()
        answers = [await stream.until("subscribed", "error", ref=ref) for ref in (1, 2, 3)]
        assert [(it.get("error") or {}).get("code") for it in answers] == ["forbidden", None, "forbidden"]
        await publisher.ask(type="publish", channel=readable, data="allowed")
        assert [p["data"] for p in await stream.publications(1)] == ["allowed"]


@pytest.mark.parametrize("promised", [True, False], ids=["promised", "not promised"])
async def test_a_fresh_attach_keeps_them(server, promised):
    channel, other, mine = name(), name(), name()
    secret, identity = minted()
    async with server.http() as http, wt.open_wt(server) as before, wt.quic(server) as client:
        held = before.open_stream()
        assert await become(held, secret) == (identity, False)
        await held.subscribe(other)
        first = await held.ask(type="publish", channel=mine, data="once", id="mine")
        session = await client.session(path=subscribes(channel, attach=promised))
        stream = await session.stream_of_server()
        await stream.until("subscribed", ref=1)
        await publish(http, channel, "before the attach")
        assert [p["data"] for p in await stream.publications(1)] == ["before the attach"]
        if promised:
            # What the client says there waits for who it is.
            stream.send(type="publish", channel=mine, data="once", id="mine", ref=2)
        control, another = session.open_stream(), session.open_stream()
        if promised:
            another.send(type="subscribe", channel=other, ref=1)
        assert await become(control, secret) == (identity, True)
        close = await held.until("close")
        assert close["code"] == 4900, close
        if promised:
            assert at(await stream.until("published", ref=2)) == at(first), "it is the same publisher"
            await another.until("subscribed", ref=1)
        assert at(await stream.ask(type="publish", channel=mine, data="once", id="mine", ref=3)) == at(first)
        await publish(http, channel, "behind the attach")
        assert [p["data"] for p in await stream.publications(1)] == ["behind the attach"]
        third = name()
        assert (await send(http, {"secret": secret}, type="subscribe", channel=third)).status_code == 200
        assert "ref" not in await control.until("subscribed", channel=third), "what POST /send asks for comes on the control stream"


@pytest.mark.parametrize("how", ["known", "positions"])
async def test_another_attach_is_refused_behind_them(server, how):
    channel = name()
    secret, identity = minted()
    async with server.http() as http, wt.open_wt(server, path=subscribes(channel, attach=True)) as session:
        stream, control = await session.stream_of_server(), session.open_stream()
        await stream.until("subscribed", ref=1)
        positions = {"positions": []} if how == "positions" else {}
        answer = await control.ask(type="attach", id=identity, secret=secret, **positions)
        assert answer["type"] == "error" and answer["error"]["code"] == "bad_message", answer
        await publish(http, channel, "as its own session")
        await stream.publications(1)


async def test_the_stream_is_one_of_the_session_and_not_its_control_stream(server):
    early, later, elsewhere = name(), name(), name()
    async with server.http() as http, wt.open_wt(server, path=subscribes(early, elsewhere)) as session:
        stream, control = await session.stream_of_server(), session.open_stream()
        await stream.barrier()
        await control.subscribe(later)
        answer = await stream.ask(type="unsubscribe", channel=later)
        assert answer["error"]["code"] == "not_subscribed", "it was made on another stream"
        other = session.open_stream()
        answer = await other.ask(type="unsubscribe", channel=early)
        assert answer["error"]["code"] == "not_subscribed", "likewise"
        assert (await control.ask(type="unsubscribe", channel=early))["type"] == "unsubscribed", "any of the session's"
        assert (await stream.ask(type="subscribe", channel=early))["type"] == "subscribed", "again"
        assert (await stream.ask(type="unsubscribe", channel=elsewhere))["type"] == "unsubscribed"
        stream.fin()
        await stream.ended()
        assert (await other.ask(type="subscribe", channel=early))["type"] == "subscribed", "they ended with their stream"
        await publish(http, early, "on the other")
        await other.publications(1)
        session.close(0, "done")
        await session.gone()
        await other.ended()


async def test_a_session_whose_server_has_a_stream_is_closed_as_any(server):
    secret, _ = minted()
    async with wt.open_wt(server, path=subscribes(name(), attach=True)) as session, wt.open_wt(server) as other:
        stream, control = await session.stream_of_server(), session.open_stream()
        await become(control, secret)
        await become(other.open_stream(), secret)
        assert (await control.until("close"))["code"] == 4900
        assert (await session.closed())[0] == 4900
        await stream.ended()


async def test_without_credit_the_stream_comes_when_there_is_some(server):
    channel, taken = name(), name()
    async with wt.quic(server, protocol=Miserly) as client:
        session = await client.session(path=subscribes(channel, taken))
        control = session.open_stream()
        await control.subscribe(taken)
        await control.barrier()
        assert session.opened.empty()
        client.allow(1)
        stream = await session.stream_of_server()
        assert (await stream.until("subscribed", "error", ref=1))["type"] == "subscribed"
        assert (await stream.until("subscribed", "error", ref=2))["error"]["code"] == "already_subscribed"


class Miserly(wt.Client):
    """Lets the server open no stream before it is told to."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.quic._local_max_streams_bidi.value = self.quic._local_max_streams_bidi.sent = 0

    def allow(self, streams):
        self.quic._local_max_streams_bidi.value = streams
        self.transmit()


async def test_what_the_client_says_there_does_not_wait_for_ever(server):
    """Nor for an `attach` that never comes: as on the other streams of such a session."""
    async with wt.open_wt(server, path=subscribes(name(), attach=True)) as session:
        stream = await session.stream_of_server()
        await stream.until("subscribed", ref=1)
        control = session.open_stream()
        control.write(b"")
        assert (await session.closed())[0] == 4001
        await stream.ended()


def frame(**message):
    return fulmar_bin.prefixed(fulmar_bin.from_json({"type": "subscribe", "ref": 1, "channel": "event:x"} | message))


OTHERS = [
    {"type": "ping"}, {"type": "pong"}, {"type": "unsubscribe"}, {"type": "publish", "data": "x"}, {"type": "attach", "id": "x", "secret": "y"},
    {"type": "attach", "secret": "y", "fresh": True},
]
MALFORMED = {
    "nothing": (b"", "bad_request", "no frame"),
    "a part": (frame()[:-1], "bad_request", "not whole"),
    "half a length": (frame() + b"\x40", "bad_request", "not whole"),
    "more than there may be": (fulmar_bin.varint(5000) + bytes(100), "bad_request", "longer"),
    "17": (frame() * 17, "bad_request", "16 frames"),
    "long": (frame(channel="x" * 240) * 13, "bad_request", "4096 characters"),
    "empty": (fulmar_bin.prefixed(b""), "bad_message", ""),
    "unknown": (fulmar_bin.prefixed(b"\x7f"), "bad_message", ""),
    "no name": (frame(channel="a b"), "bad_channel", ""),
    "no cursor": (frame(after="x"), "bad_cursor", ""),
} | {f"{other}": (frame() + frame(**other), "bad_request", "no subscribe") for other in OTHERS}
NO_BASE64URL = {
    "no base64": "subscribe=!",
    "padding": f"subscribe={text(frame(channel='xx'))}=",
    "base64": f"subscribe={base64.b64encode(frame(channel='event:???>>>')).decode()}",
    "percent": f"subscribe=%{text(frame())}",
}


@pytest.mark.parametrize("case", [*MALFORMED, *NO_BASE64URL, "twice"])
async def test_what_cannot_be_taken_is_told_in_the_answer(server, case):
    query, code, said = NO_BASE64URL.get(case), "bad_request", "base64url"
    if case in MALFORMED:
        frames, code, said = MALFORMED[case]
        query = f"attach&subscribe={text(frames)}"
    elif case == "twice":
        query, said = "&".join([f"subscribe={text(frame())}"] * 2), "twice"
    async with wt.quic(server) as client:
        refused = await client.session(path=f"/wt?{query}", expect=400)
        await refused.gone()
        problem = json.loads(refused.body)["error"]
        assert problem["code"] == code and said in problem["message"], problem
        # As much as there may be, behind it on the same connection.
        session = await client.session(path=subscribes(*(name() for _ in range(16))))
        stream = await session.stream_of_server()
        assert len([await stream.until("subscribed", ref=n + 1) for n in range(16)]) == 16
