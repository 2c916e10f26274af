"""Offences over WebSocket. Each round opens its own connections and leaves none."""

import asyncio
import json
import os
import random
import struct

import fulmar_bin
import pytest
import raw
from measure import MB
from raw import ws_frame, ws_unframe
from server import within
from sessions import malformed_frames

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MESSAGE = 131_072
# A connection that is served: its task, hyper's and tungstenite's buffers, one message under way and one batch (limits.rs).
CONNECTION = 1024 * 1024


class RawWs:
    """A WebSocket of which every byte is the test's."""

    def __init__(self, connection):
        self.connection, self.buffer = connection, b""

    @classmethod
    async def open(cls, server, subprotocol="fulmar.v1.json"):
        connection = await raw.Connection.open(server.port)
        headers = [("Host", f"127.0.0.1:{server.port}"), *raw.UPGRADE, ("Sec-WebSocket-Protocol", subprotocol)]
        await connection.request("GET", "/ws", headers)
        head = await connection.head()
        assert head.status_code == 101, head
        return cls(connection)

    def write(self, data):
        self.connection.writer.write(data)

    async def frame(self, awaited):
        """(opcode, payload), or None at the end."""
        async with within(15, awaited):
            while (parsed := ws_unframe(self.buffer)) is None:
                try:
                    data = await self.connection.reader.read(65536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self.buffer += data
        opcode, _, payload, self.buffer = parsed
        return opcode, payload

    async def close_code(self):
        """The code of the server's close; None when the connection ended without one."""
        while (frame := await self.frame("a close frame")) is not None:
            if frame[0] == CLOSE:
                return int.from_bytes(frame[1][:2], "big")
        return None

    def drop(self):
        self.connection.writer.transport.abort()


def deep(levels):
    return b'{"type":"publish","channel":"event:w","data":' + b"[" * levels + b"]" * levels + b"}"


def named(**members):
    return json.dumps({"type": "subscribe"} | members).encode()


PLACES = [{"channel": f"event:{n:0>249}", "epoch": "e" * 32, "offset": 2**53 - 1} for n in range(129)]
MALFORMED_JSON = [
    (b"", "bad_json"), (b"{", "bad_json"), (b"nonsense", "bad_json"), (b'{"type":"ping"', "bad_json"), (b"\xef\xbb\xbf{}", "bad_json"),
    (b"[]", None), (b"0", None), (b"null", None), (b"{}", None), (b'{"type":1}', None), (b'{"type":"nonsense"}', None),
    (b'{"type":"ping","ref":-1}', None), (b'{"type":"ping","ref":4294967296}', None), (b'{"type":"ping","ref":1e99}', None),
    (b'{"type":"publish","channel":"event:w","data":"\\ud800"}', None),
    (named(channel=""), "bad_channel"), (named(channel="x" * 256), "bad_channel"), (named(channel="a b"), "bad_channel"),
    (named(channel="event:\u00e9"), "bad_channel"), (named(channel="event:\0"), "bad_channel"), (named(), None), (named(channel=[]), None),
    (named(channel="event:w", after="x"), "bad_cursor"), (named(channel="event:w", after="~" * 2048), "bad_cursor"),
    (named(channel="event:w", after="0" * 4096), "bad_cursor"), (named(channel="event:w", after="0000000000000000.e.0"), "bad_cursor"),
    (named(channel="event:w", position={"epoch": "", "offset": 0}), None),
    (named(channel="event:w", position={"epoch": "e", "offset": 2**53}), None),
    (named(channel="event:w", position={"epoch": "e", "offset": -1}), None),
    (named(type="publish", channel="state:w", key="k" * 256, data=1), "bad_key"),
    (named(type="publish", channel="event:w", id="", data=1), "bad_id"), (named(type="publish", channel="event:w", id="i" * 65, data=1), "bad_id"),
    (named(type="publish", channel="event:w", b64="*"), "bad_payload"), (named(type="publish", channel="event:w", removed=True), "bad_payload"),
    (named(type="publish", channel="event:w", data="d" * 65_537), "payload_too_large"),
    (named(type="publish", channel="signal:w", data=1, ttl_ms=0), "bad_ttl"), (named(type="publish", channel="signal:w", data=1, ttl_ms=60_001), "bad_ttl"),
    (named(type="attach", id="x", secret="y"), "unknown_session"), (named(type="attach", id="\0", secret="." * 4096), "unknown_session"),
    (named(type="attach", id="x", secret="y", positions=PLACES[:128]), "unknown_session"), (named(type="attach", id="x", secret="y", positions=PLACES), "too_many_subscriptions"),
    (named(type="attach", id="x", secret="y", positions=PLACES[:1] * 2), "bad_message"), (named(type="attach", id="x", secret="y", positions=[[]] * 30_000), "bad_json"),
    (named(type="unsubscribe", channel="event:never"), "not_subscribed"),
]


async def test_malformed_json(server, offences):
    async def attack():
        ws = await RawWs.open(server)
        for text, code in MALFORMED_JSON:
            ws.write(ws_frame(TEXT, text))
            opcode, answer = await ws.frame(f"the answer to {text[:60]!r}")
            assert opcode == TEXT, (text[:60], opcode, answer)
            answer = json.loads(answer)
            assert answer["type"] == "error" and (code is None or answer["error"]["code"] == code), (text[:80], answer)
        # JSON for the grammar, however hard on who parses it: passed on, or refused, but nothing else.
        for text in (b'{"type":"publish","channel":"event:w","data":1e999}', deep(129), deep(60_000)):
            ws.write(ws_frame(TEXT, text))
            answer = json.loads((await ws.frame("the answer to strange JSON"))[1])
            assert answer["type"] in ("published", "error"), answer
        ws.write(ws_frame(TEXT, b'{"type":"ping","ref":9}'))
        assert json.loads((await ws.frame("the pong"))[1]) == {"type": "pong", "ref": 9}
        ws.drop()
        return f"an error for each of {len(MALFORMED_JSON)}, and the session goes on"

    await offences.run("ws: malformed JSON and names", attack, 2 * CONNECTION)


async def test_malformed_binary(server, offences):
    frames = malformed_frames()

    async def attack():
        ws = await RawWs.open(server, "fulmar.v1.bin")
        for frame in frames:
            ws.write(ws_frame(BINARY, frame))
            opcode, answer = await ws.frame(f"the answer to {frame!r}")
            assert (opcode, fulmar_bin.decode(answer)["frame"]) == (BINARY, "error"), (frame, opcode, answer)
        dice = random.Random(1)
        # Random bytes, none of which happens to be a whole frame of a type that is not answered.
        for _ in range(500):
            ws.write(ws_frame(BINARY, bytes([dice.choice(b"\x00\x0c\x20\x25\x7f\x80\xff")]) + dice.randbytes(dice.randrange(200))))
        for _ in range(500):
            opcode, answer = await ws.frame("the answer to random bytes")
            assert (opcode, fulmar_bin.decode(answer)["frame"]) == (BINARY, "error"), answer
        ws.write(ws_frame(BINARY, fulmar_bin.from_json({"type": "ping", "ref": 3})))
        assert fulmar_bin.decode((await ws.frame("the pong"))[1]) == {"frame": "pong", "ref": 3}
        ws.drop()
        return f"an error for each of {len(frames) + 500}, and the session goes on"

    await offences.run("ws: malformed binary frames", attack, 2 * CONNECTION)


def header(first, length):
    return bytes([first, 0x80 | 127]) + struct.pack(">Q", length) + bytes(4)


BREACHES = {
    "unmasked": (ws_frame(TEXT, b"{}", mask=False), {1002}),
    **{f"reserved bit {bit}": (ws_frame(TEXT, b"{}", rsv=bit), {1002}) for bit in (1, 2, 4)},
    "compressed nonsense": (ws_frame(BINARY, os.urandom(500), rsv=4), {1002}),
    **{f"opcode {opcode}": (ws_frame(opcode, b"x"), {1002}) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "long ping": (ws_frame(PING, bytes(126)), {1002}),
    "ping in pieces": (ws_frame(PING, b"x", fin=False), {1002}),
    "a continuation of nothing": (ws_frame(0, b"x"), {1002}),
    "text inside a fragmented text": (ws_frame(TEXT, b"x", fin=False) + ws_frame(TEXT, b"x"), {1002}),
    "not UTF-8": (ws_frame(TEXT, b"\xff\xfe"), {1007}),
    "a surrogate": (ws_frame(TEXT, b"\xed\xa0\x80"), {1007}),
    "cut UTF-8": (ws_frame(TEXT, b"\xf0\x9f"), {1007}),
    "close code 0": (ws_frame(CLOSE, b"\0\0"), {1002}),
    "close of one byte": (ws_frame(CLOSE, b"\x03"), {1002}),
    "close with a reason that is not UTF-8": (ws_frame(CLOSE, b"\x03\xe8\xff"), {1002, 1007}),
    **{f"{length} bytes announced": (header(0x81, length) + bytes(1000), {1009}) for length in (MESSAGE + 1, 1 << 31, 1 << 40, (1 << 63) - 1)},
    "a length with its top bit": (header(0x81, (1 << 64) - 1) + bytes(1000), {1002, 1009}),
    "fragments above the bound": (ws_frame(TEXT, b" " * 60_000, fin=False) + ws_frame(0, b" " * 60_000, fin=False) * 2, {1009}),
    "a message above the bound": (ws_frame(TEXT, b" " * (MESSAGE + 1)), {1009}),
}


async def test_breaches_of_rfc_6455(server, offences):
    async def one(name):
        data, codes = BREACHES[name]
        ws = await RawWs.open(server)
        ws.write(data)
        code = await ws.close_code()
        ws.drop()
        return name, code, codes

    async def attack():
        seen = await asyncio.gather(*(one(name) for name in BREACHES))
        wrong = [f"{name}: {code} instead of {codes}" for name, code, codes in seen if code not in codes]
        assert not wrong, wrong
        return f"1002, 1007 or 1009 for each of {len(seen)}"

    await offences.run("ws: breaches of RFC 6455", attack, len(BREACHES) * CONNECTION)


async def test_fragmented_without_end(server, offences):
    """As much as a message may have, in fragments of which the last never comes, on many connections; and empty ones."""
    count = 40

    async def attack():
        sockets = [await RawWs.open(server) for _ in range(count)]
        for ws in sockets:
            ws.write(ws_frame(TEXT, b" ", fin=False) + ws_frame(0, b" " * 1000, fin=False) * 130)
        endless = sockets[0]
        endless.write(ws_frame(0, b"", fin=False) * 20_000)
        # Control frames may come between, and say that everything before them was read.
        for ws in sockets:
            ws.write(ws_frame(PING, b"here"))
            assert await ws.frame("a pong between fragments") == (PONG, b"here")
        for ws in sockets:
            ws.drop()
        return "nothing, as RFC 6455 allows it; pings are answered"

    await offences.run("ws: fragments without end", attack, count * CONNECTION)


async def test_ping_flood(server, offences):
    async def attack():
        ws = await RawWs.open(server)
        for _ in range(100):
            ws.write(ws_frame(PING, b"p" * 100) * 500)
            await ws.connection.writer.drain()
            # Reads what has come, as a peer that only floods would not.
        ws.write(ws_frame(TEXT, b'{"type":"ping","ref":1}'))
        async with within(30, "the answer behind 50,000 pings"):
            while (frame := await ws.frame("a pong")) is not None and frame[0] != TEXT:
                pass
        assert frame is not None, "the connection ended"
        ws.drop()
        return "pongs, and its answer behind them"

    await offences.run("ws: 50,000 pings", attack, 4 * CONNECTION)


async def test_clients_that_never_read(server, offences):
    """They subscribe to what is published in bulk, ask without end, and read nothing: they cost their buffers, no more."""
    count, channel = 30, "event:never-read"

    async def attack():
        sockets = [await RawWs.open(server) for _ in range(count)]
        for ws in sockets:
            ws.write(ws_frame(TEXT, json.dumps({"type": "subscribe", "channel": channel}).encode()))
            assert await ws.frame("subscribed")
            ws.connection.writer.transport.pause_reading()
            ws.write(ws_frame(TEXT, b'{"type":"ping"}') * 5_000)
        publisher = await RawWs.open(server)
        for _ in range(100):
            publisher.write(ws_frame(TEXT, json.dumps({"type": "publish", "channel": channel, "data": "x" * 60_000}).encode()))
            await publisher.frame("published")
        for ws in [*sockets, publisher]:
            ws.drop()
        return "backpressure; others are not held up"

    # The history of the channel, which both rounds fill to the same height: 16 MiB and its encodings.
    await offences.run("ws: 30 clients that never read", attack, count * CONNECTION + 2 * 16 * MB, kept=40 * MB)


async def test_subscribing_and_leaving(server, offences):
    async def attack():
        sockets = [await RawWs.open(server) for _ in range(8)]
        both = b"".join(ws_frame(TEXT, json.dumps({"type": kind, "channel": "event:churn", "ref": 1}).encode()) for kind in ("subscribe", "unsubscribe"))

        async def churn(ws):
            answers = []
            for _ in range(10):
                ws.write(both * 100)
                for _ in range(200):
                    answers.append(json.loads((await ws.frame("an answer to churn"))[1])["type"])
            assert answers == ["subscribed", "unsubscribed"] * 1000, set(answers)

        await asyncio.gather(*(churn(ws) for ws in sockets))
        # More subscriptions than a session may have.
        ws = sockets[0]
        for n in range(140):
            ws.write(ws_frame(TEXT, json.dumps({"type": "subscribe", "channel": f"event:many{n}"}).encode()))
        kinds = [json.loads((await ws.frame("an answer"))[1]) for _ in range(140)]
        assert [k["type"] for k in kinds] == ["subscribed"] * 128 + ["error"] * 12, kinds[126:130]
        assert kinds[-1]["error"]["code"] == "too_many_subscriptions", kinds[-1]
        for ws in sockets:
            ws.drop()
        return "subscribed and unsubscribed in turn; too_many_subscriptions above 128"

    await offences.run("ws: 16,000 subscribe/unsubscribe", attack, 10 * CONNECTION)


@pytest.mark.parametrize("count", [1500])
async def test_opened_and_dropped(server, offences, count):
    async def attack():
        gate = asyncio.Semaphore(50)

        async def one():
            async with gate:
                (await RawWs.open(server)).drop()

        await asyncio.gather(*(one() for _ in range(count)))
        return "101 each time"

    await offences.run(f"ws: {count} opened and dropped", attack, 50 * CONNECTION)
