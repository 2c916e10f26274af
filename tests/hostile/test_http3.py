"""Offences against QUIC and HTTP/3: bytes on every kind of stream, before there is any session."""

import asyncio
import random

import pytest
from fulmar_bin import varint
from measure import MB
from quic import (
    BROWSER_SETTINGS, CANCEL_PUSH, CONTROL, DATA, DECODER, ENCODER, GOAWAY, HEADERS, MAX_PUSH_ID, PUSH, PUSH_PROMISE, SETTINGS, WT_BIDI, WT_UNI,
    address, dial, frame, head, settings,
)
from server import within

ENDLESS = 1 << 40
# Two windows of half a megabyte (limits.rs: QUIC_RECEIVE_WINDOW, QUIC_SEND_WINDOW) and the connection itself.
CONNECTION = 1536 * 1024
GET = ((":method", "GET"), (":scheme", "https"), (":authority", "127.0.0.1"), (":path", "/healthz"))
KINDS = [DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID, 0x21, 0x40]


def endless(kind):
    return frame(kind, bytes(100), length=ENDLESS)


# Control streams: what ends the connection, by RFC 9114 sections 6.2.1, 7.2 and 8.1.
CONTROL_STREAMS = {
    "no SETTINGS first": (frame(GOAWAY, b"\0"), {0x10A}),
    "DATA": (BROWSER_SETTINGS + frame(DATA, b"x"), {0x105}),
    "HEADERS": (BROWSER_SETTINGS + head(*GET), {0x105}),
    "SETTINGS twice": (BROWSER_SETTINGS * 2, {0x105}),
    "SETTINGS cut short": (frame(SETTINGS, b"\x08"), {0x106, 0x109}),
    "a setting of HTTP/2": (settings((2, 1)), {0x109}),
    "a setting twice": (settings((8, 1), (8, 1)), {0x109}),
    "a frame of HTTP/2": (BROWSER_SETTINGS + frame(2), {0x105}),
    **{f"2^40 bytes of {kind:#x}": (BROWSER_SETTINGS + endless(kind), {0x105, 0x107}) for kind in KINDS},
    "2^40 bytes of SETTINGS first": (endless(SETTINGS), {0x107}),
}
# Request streams: (bytes, FIN, what may come of it).
REQUESTS = {
    "DATA first": (frame(DATA, b"x"), False, {"closed 0x105"}),
    "SETTINGS": (BROWSER_SETTINGS, False, {"closed 0x105"}),
    "bytes in a row": (bytes(range(7, 200)), False, {"closed 0x105", "closed 0x107"}),
    "QPACK nonsense": (frame(HEADERS, b"\xff" * 50), False, {"closed 0x200"}),
    "QPACK of a dynamic table": (frame(HEADERS, b"\x01\x00\x80"), False, {"closed 0x200"}),
    "QPACK index far away": (frame(HEADERS, b"\0\0\xff\xff\xff\x7f"), False, {"closed 0x200"}),
    "QPACK Huffman padding": (frame(HEADERS, b"\0\0\x2f\xff" + b"\xff" * 260), False, {"closed 0x200"}),
    "HEADERS cut short": (head(*GET)[:9], True, {"closed 0x106", "reset 0x10d"}),
    "nothing at all": (b"", True, {"reset 0x10d"}),
    "no fields": (frame(HEADERS, b"\0\0"), False, {"reset 0x10e"}),
    "no method": (head(*GET[1:]), False, {"reset 0x10e"}),
    "upper case": (head(*GET, ("UP", "x")), True, {"reset 0x10e"}),
    "a line break": (head(*GET, ("x", "a\r\nb: c")), True, {"reset 0x10e"}),
    "an unknown pseudo field": (head(*GET, (":x", "y")), True, {"reset 0x10e"}),
    "400 fields of 16 KiB": (head(*GET, *[(f"h{n}", "v" * 20) for n in range(400)]), True, {"431"}),
    "3,000 fields of a byte": (head(*GET, *[("a", "0")] * 3000), True, {"431"}),
    "a field of 40 KiB": (head(*GET, ("a", "\x01~" * 20_000)), True, {"closed 0x107"}),
    **{f"2^40 bytes of {kind:#x}": (endless(kind), False, {"closed 0x105", "closed 0x107"}) for kind in KINDS},
    **{f"2^40 bytes of {kind:#x} behind a GET": (head(*GET) + endless(kind), False, {"closed 0x105", "closed 0x107"}) for kind in KINDS if kind != DATA},
    **{f"a stream of session {n}": (varint(WT_BIDI) + varint(n) + b"x", False, {"reset 0x3994bd84", "closed 0x108"}) for n in (0, 1, 400, (1 << 62) - 1)},
}
# Unidirectional streams that the connection survives: (bytes, code of STOP_SENDING or None).
SURVIVED = {
    "an unknown type": (varint(0x21) + b"abc", 0x103),
    "the greatest type": (varint((1 << 62) - 1) + bytes(3000), 0x103),
    "a session's": (varint(WT_UNI) + b"\x00hello", 0x103),
}


async def test_control_streams(server, offences):
    url = address(server)

    async def one(name):
        data, codes = CONTROL_STREAMS[name]
        async with dial(url) as client:
            client.greet(data)
            fate = await client.closed(awaited=f"the connection to be closed for {name} on the control stream")
        return None if fate in {f"closed {code:#x}" for code in codes} else f"{name}: {fate}"

    async def ended(how, name):
        async with dial(url) as client:
            control = client.greet()
            assert await client.is_alive()
            how(control)
            fate = await client.closed(awaited="the connection to be closed with its control stream")
        return None if fate == "closed 0x104" else f"{name}: {fate}"

    async def second():
        async with dial(url) as client:
            client.greet()
            client.greet()
            fate = await client.closed(awaited="the connection to be closed for a second control stream")
        return None if fate == "closed 0x103" else f"second: {fate}"

    async def attack():
        runs = [*map(one, CONTROL_STREAMS), ended(lambda it: it.reset(5), "reset"), ended(lambda it: it.write(b"", end=True), "FIN"), second()]
        wrong = [found for found in await asyncio.gather(*runs) if found]
        assert not wrong, wrong
        return f"the connection error of RFC 9114 for each of {len(runs)}"

    await offences.run("h3: control streams", attack, len(CONTROL_STREAMS) * CONNECTION)


async def test_request_streams(server, offences):
    url = address(server)

    async def one(name):
        data, end, allowed = REQUESTS[name]
        async with dial(url) as client:
            client.greet()
            stream = client.stream(data, end=end)
            saw = await stream.over(f"what comes of {name}")
            if saw == "end":
                # Streams can end just before their connection does.
                saw = str(stream.status()) if stream.status() else await client.closed(awaited=f"an answer to {name}, or the connection's end")
            if client.terminated is None:
                assert await client.is_alive(), (name, saw, client.fate())
        return None if saw in allowed else f"{name}: {saw} instead of {allowed}"

    async def attack():
        wrong = [found for found in await asyncio.gather(*map(one, REQUESTS)) if found]
        assert not wrong, wrong
        return f"the error of RFC 9114, or 431, for each of {len(REQUESTS)}"

    await offences.run("h3: request streams", attack, len(REQUESTS) * CONNECTION)


async def test_unidirectional_streams(server, offences):
    url = address(server)

    async def one(name):
        data, code = SURVIVED[name]
        async with dial(url) as client:
            client.greet()
            stream = client.stream(data, uni=True)
            await stream.until(lambda it: it.stop_code is not None, f"STOP_SENDING for {name}")
            assert stream.stop_code == code, (name, stream.stop_code)
            # And again and again, beyond any first credit.
            for _ in range(40):
                await client.credit(uni=True)
                again = client.stream(data, uni=True)
                await again.until(lambda it: it.stop_code is not None, f"STOP_SENDING for {name}, again")
            assert await client.is_alive(), name

    async def unread(kind):
        async with dial(url) as client:
            client.greet()
            client.stream(varint(kind) + b"\xff" * 300_000, uni=True)
            assert await client.is_alive(), f"with nonsense on stream type {kind}"

    async def attack():
        await asyncio.gather(*map(one, SURVIVED), unread(ENCODER), unread(DECODER))
        return "STOP_SENDING 0x103; the connection goes on"

    await offences.run("h3: unidirectional streams", attack, 5 * CONNECTION)


# h3 0.0.8 never reads the QPACK streams, so nothing on them can do harm; flow control bounds what they hold. And it takes
# the last of two pseudo fields, and them in any place. Strict: when h3 learns better, this says so.
H3_DOES_NOT_LOOK = pytest.mark.xfail(strict=True, reason="h3 0.0.8 does not look at it")


@pytest.mark.parametrize(
    "name,kind,data,end,codes",
    [
        ("a push stream of a client", PUSH, b"\0", False, {0x103}),
        pytest.param("QPACK encoder nonsense", ENCODER, b"\xff" * 100, False, {0x201}, marks=H3_DOES_NOT_LOOK),
        pytest.param("QPACK decoder nonsense", DECODER, b"\xff" * 100, False, {0x202}, marks=H3_DOES_NOT_LOOK),
        pytest.param("a QPACK table that was not granted", ENCODER, b"\x3f\xe1\x1f", False, {0x201}, marks=H3_DOES_NOT_LOOK),
        pytest.param("the end of the QPACK encoder stream", ENCODER, b"", True, {0x104}, marks=H3_DOES_NOT_LOOK),
    ],
    ids=lambda it: it if isinstance(it, str) and " " in it else "",
)
async def test_what_rfc_9114_makes_an_error_of_the_connection(server, name, kind, data, end, codes):
    async with dial(address(server)) as client:
        client.greet()
        client.stream(varint(kind) + data, uni=True, end=end)
        assert await client.is_alive() or client.terminated
        fate = await client.closed(1, f"the connection to be closed for {name}")
    assert fate in {f"closed {code:#x}" for code in codes}, fate


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([(":method", "GET"), *GET], marks=H3_DOES_NOT_LOOK),
        pytest.param([*GET, (":authority", "evil.example")], marks=H3_DOES_NOT_LOOK),
        pytest.param([*GET[:2], ("a", "b"), *GET[2:]], marks=H3_DOES_NOT_LOOK),
        [*GET, ("transfer-encoding", "chunked")],
        [*GET, ("connection", "close")],
    ],
    ids=["method twice", "authority twice", "pseudo field behind another", "transfer-encoding", "connection"],
)
async def test_requests_that_rfc_9114_calls_malformed(server, fields):
    """Section 4.2 and 4.3: to be answered with H3_MESSAGE_ERROR, since a proxy in front may read them otherwise."""
    async with dial(address(server)) as client:
        client.greet()
        stream = client.stream(head(*fields), end=True)
        saw = await stream.over("what comes of it")
    assert saw == "reset 0x10e" or stream.status() == 400, (saw, stream.status())


async def test_random_bytes_on_every_kind_of_stream(server, offences):
    url, dice = address(server), random.Random(3)
    starts = [b"", varint(HEADERS), varint(DATA), varint(WT_BIDI), varint(0x21)]
    types = [varint(kind) for kind in (CONTROL, PUSH, ENCODER, DECODER, WT_UNI)] + [b""]

    async def one(n):
        async with dial(url) as client:
            if n % 2:
                client.greet()
            for _ in range(6):
                uni = dice.random() < 0.5
                start = dice.choice(types if uni else starts)
                client.stream(start + dice.randbytes(dice.choice([1, 3, 20, 300, 5_000])), uni=uni, end=dice.random() < 0.3)

    async def attack():
        for _ in range(6):
            await asyncio.gather(*map(one, range(25)))
        async with dial(url) as client:
            client.greet()
            assert await client.is_alive()
        return "errors of the connection; others go on"

    await offences.run("h3: random bytes on all kinds of streams", attack, 25 * CONNECTION)


async def test_streams_and_requests_left_half_open(server, offences):
    """The server's own deadlines: 5 s for a stream to say what it is, 10 s for a head, a body, or any use of a connection."""
    url, connections = address(server), 12

    async def silent_streams():
        async with dial(url) as client:
            client.greet()
            streams = [client.stream(b"\x40") for _ in range(client.granted())]
            uni = [client.stream(b"\x40", uni=True) for _ in range(4)]
            seen = {await stream.over("a stream that does not say what it is to be refused") for stream in streams}
            for stream in uni:
                await stream.until(lambda it: it.stop_code is not None, "STOP_SENDING on a stream without a type")
            assert await client.is_alive(), (seen, client.fate())
        assert seen <= {"reset 0x10b", "reset 0x10d"}, seen

    async def slow_heads():
        async with dial(url) as client:
            client.greet()
            streams = [client.stream(head(*GET)[:10]) for _ in range(client.granted())]
            seen = {await stream.over("a head that does not come to be given up") for stream in streams}
            assert client.terminated or await client.is_alive(), (seen, client.fate())

    async def slow_bodies():
        async with dial(url) as client:
            client.greet()
            post = ("content-type", "application/json")
            streams = [client.request("POST", "/session", post, body=b"{" + b" " * 50_000, end=False) for _ in range(8)]
            seen = {await stream.over("a body that does not end to be given up") for stream in streams}
            assert client.terminated or await client.is_alive(), (seen, client.fate())

    async def nothing(greet):
        async with dial(url) as client:
            if greet:
                client.greet()
            return await client.closed(14, "an unused connection to be closed")

    async def no_credit(change, **options):
        async with dial(url, change, **options) as client:
            client.greet()
            return await client.closed(14, "a connection that grants no credit to be closed")

    def no_streams(quic):
        quic._local_max_streams_uni.value = 0

    def no_data(quic):
        quic._local_max_data.value = 0

    async def attack():
        runs = [kind() for kind in (silent_streams, slow_heads, slow_bodies) for _ in range(connections)]
        runs += [nothing(greet) for greet in (True, False) for _ in range(connections)]
        runs += [no_credit(change) for change in (no_streams, no_data) for _ in range(connections)]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*runs)
        return f"streams reset, connections closed, all within {asyncio.get_running_loop().time() - began:.0f} s"

    await offences.run("h3: half-open streams, heads, bodies, no credit", attack, 7 * connections * CONNECTION, rounds=1, kept=16 * MB)


async def test_connect_before_settings(server):
    """Legal: a server may see the request first, and waits for the settings that it needs, or does without."""
    async with dial(address(server)) as client:
        session = client.connect_request()
        client.greet()
        await session.until(lambda it: it.status() is not None, "the answer to CONNECT")
        assert session.status() == 200, session.status()
        stream = client.wt_stream(session, b"\x02\x09\x07")
        await stream.until(lambda it: it.data == b"\x02\x0a\x07", "the pong")


async def test_rapid_reset(server, offences):
    url = address(server)

    async def one():
        async with dial(url) as client:
            client.greet()
            for _ in range(1500):
                await client.credit()
                client.request().reset(0x10C)
            assert client.fate() in (None, "closed 0x107"), client.fate()
            assert client.terminated or await client.is_alive(), client.fate()
            return client.fate() or "goes on"

    async def attack():
        return ", ".join(sorted(set(await asyncio.gather(*(one() for _ in range(3))))))

    await offences.run("h3: 4,500 requests opened and reset", attack, 3 * CONNECTION)


async def test_stop_sending_on_everything(server, offences):
    """On answers, and on the server's own control stream, which RFC 9114 makes an error."""
    url = address(server)

    async def answers():
        async with dial(url) as client:
            client.greet()
            for _ in range(300):
                await client.credit()
                client.request(path="/poll?channel=event:w").stop(0x10C)
            assert await client.is_alive(), client.fate()

    async def critical():
        async with dial(url) as client:
            client.greet()
            assert await client.is_alive()
            for stream in [it for it in list(client.streams.values()) if it.id % 4 == 3]:
                stream.stop(0)
            await client.is_alive()

    async def attack():
        await asyncio.gather(*(answers() for _ in range(3)), *(critical() for _ in range(5)))
        return "nothing more on those streams; the connection goes on"

    await offences.run("h3: STOP_SENDING on every answer", attack, 8 * CONNECTION)


async def test_answers_that_are_not_read(server, offences):
    """Polls of a large history by a peer that grants no credit for the answers."""
    url, channel = address(server), "event:unread"
    import httpx

    async with httpx.AsyncClient(base_url=server.base, trust_env=False, timeout=15) as http:
        cursor = (await http.get("/poll", params={"channel": channel})).json()["cursor"]
        for _ in range(16):
            assert (await http.post("/api/publish", json={"channel": channel, "data": "x" * 60_000})).status_code == 200

    async def one():
        async with dial(url, max_stream_data=100) as client:
            client.greet()
            streams = []
            for _ in range(15):
                await client.credit()
                streams.append(client.request(path=f"/poll?channel={channel}&after={cursor}"))
            # The first comes; how many others come until the server stops by itself, nothing but time shows.
            await streams[0].until(lambda it: it.data, "the beginning of an answer")
            await asyncio.sleep(1)
            return sum(bool(it.data) for it in streams)

    async def attack():
        async with within(40, "the beginnings of all answers"):
            begun = await asyncio.gather(*(one() for _ in range(4)))
        return f"the beginnings of {begun} answers of 15"

    # A megabyte is what one answer to a poll may have (POLL_BYTES); a connection should not hold sixteen of them. Beside what
    # connections hold, the history's frames are encoded once, a megabyte, and the allocator has its say in as much.
    await offences.run("h3: 60 large answers not read, on 4 connections", attack, 4 * (CONNECTION + 2 * MB) + 2 * MB)
