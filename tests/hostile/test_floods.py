"""Floods: much of what is allowed once, from many connections and addresses' worth of ports; and the longest waits, all at once."""

import asyncio
import contextlib
import os
import random
import re
import shutil
import socket
import time

import fulmar_bin
import h2raw
import pytest
import raw
from h2raw import CONTINUATION, DATA, END_HEADERS, END_STREAM, H2, HEADERS, PRIORITY, RST_STREAM, WINDOW_UPDATE, frame, settings
from initials import Attempts
from measure import MB, Gauge
from quic import address, dial
from server import Server, within
from sessions import message, publish_in_bulk, session_of
from ws import open_ws

# An HTTP/2 connection's windows and buffers (limits.rs): 256 KiB received, 64 KiB on their way out, and what tells of 128 streams.
CONNECTION = 1024 * 1024


async def test_10000_tcp_connections(server, offences):
    """Closed at once, half of them by a reset, and some after a byte; twice."""
    count = 10_000

    async def attack():
        async def some(share):
            for n in range(share):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                if n % 10 == 0:
                    writer.write(b"G")
                if n % 2:
                    writer.transport.abort()
                else:
                    writer.close()

        async with within(30, f"{count} TCP connections to be accepted"):
            await asyncio.gather(*(some(count // 100) for _ in range(100)))
        return "accepted"

    await offences.run(f"tcp: 2 x {count} connections closed at once", attack, 100 * 256 * 1024)


async def test_random_udp(server, offences):
    url, dice = address(server), random.Random(13)
    versions = [b"\0\0\0\1", b"\0\0\0\0", b"\x6b\x33\x43\xcf", b"\x1a\x2a\x3a\x4a", b"\xff\0\0\x1d"]

    def packet():
        kind = dice.randrange(4)
        if kind == 0:
            return dice.randbytes(dice.choice([1, 2, 20, 100, 1200]))
        if kind == 1:  # a short header for a connection that is not there
            return bytes([0x40 | dice.randrange(64)]) + dice.randbytes(dice.randrange(20, 1200))
        # Long headers: known and unknown versions, tokens, lengths and connection ids of any length
        ids = b"".join(bytes([size]) + dice.randbytes(min(size, 255)) for size in (dice.choice([0, 8, 20, 21, 255]), dice.choice([0, 8, 20, 255])))
        return (bytes([0xC0 | dice.randrange(64)]) + dice.choice(versions) + ids + dice.randbytes(100)).ljust(1200, b"\0")

    async def attack():
        with Attempts(url, 32) as attempts:
            for n in range(10_000):
                attempts.send(n, packet())
                if n % 50 == 49:
                    await asyncio.sleep(0.005)
            return f"{attempts.answers} packets in answer (version negotiation, stateless resets)"

    await offences.run("quic: 20,000 packets of random bytes", attack, 16 * MB)


def flood_of_streams(h2, payload, *frames):
    """HEADERS of `payload` on ever new streams, each followed by `frames` of (kind, flags, payload)."""
    for stream in range(1, 40_000, 2):
        yield frame(HEADERS, END_HEADERS, stream, payload) + b"".join(frame(kind, flags, stream, rest) for kind, flags, rest in frames)


def bomb(h2):
    """One field of 4,000 bytes put into the table, and named 16,000 times over."""
    base = h2.head("GET", "/healthz", ("a", "b" * 3_900))
    return [frame(HEADERS, END_STREAM, 1, base + b"\xbe" * 10_000), frame(CONTINUATION, END_HEADERS, 1, b"\xbe" * 6_000)]


FLOODS = {
    "rapid reset": lambda h2: flood_of_streams(h2, h2.head(), (RST_STREAM, 0, bytes([0, 0, 0, 8]))),
    "rapid reset of the server's making": lambda h2: flood_of_streams(h2, h2.head("POST", "/session"), (WINDOW_UPDATE, 0, bytes(4))),
    "CONTINUATION without end": lambda h2: [frame(HEADERS, END_STREAM, 1, h2.head())] + [frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 10)] * 40_000,
    "empty CONTINUATION": lambda h2: [frame(HEADERS, END_STREAM, 1, h2.head())] + [frame(CONTINUATION, 0, 1)] * 100_000,
    "PING": lambda h2: [frame(h2raw.PING, payload=bytes(8)) * 10] * 8_000,
    "SETTINGS": lambda h2: [settings((4, 65_535), (1, 4096)) * 10] * 6_000,
    "empty DATA": lambda h2: [frame(HEADERS, END_HEADERS, 1, h2.head("POST", "/session", ("content-type", "application/json")))] + [frame(DATA, 0, 1) * 10] * 10_000,
    "PRIORITY": lambda h2: [frame(PRIORITY, 0, 2 * n + 1, bytes([0, 0, 0, 0, 9])) for n in range(60_000)],
    "WINDOW_UPDATE to overflow": lambda h2: [frame(WINDOW_UPDATE, payload=b"\x7f\xff\xff\xff")] * 10,
    "HPACK bomb": bomb,
    "HPACK nonsense": lambda h2: [frame(HEADERS, END_HEADERS, 1, b"\xff" * 1000)],
    "HPACK table of 2^30": lambda h2: [frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\xff\xff\xff\x03" + h2.head())],
    "a frame of 16 MB": lambda h2: [frame(DATA, 0, 1, bytes(100_000), length=(1 << 24) - 1)],
    "a push": lambda h2: [frame(h2raw.PUSH_PROMISE, END_HEADERS, 1, bytes([0, 0, 0, 2]) + h2.head())],
    "stream 0": lambda h2: [frame(HEADERS, END_HEADERS, 0, h2.head())],
    "an even stream": lambda h2: [frame(HEADERS, END_HEADERS, 2, h2.head())],
    "padding above the length": lambda h2: [frame(DATA, h2raw.PADDED, 1, b"\xff\0")],
    "300 streams at once": lambda h2: [frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, h2.head("GET", "/sse?channel=event:w")) for n in range(300)],
}
# Allowed without measure, or refused stream by stream: the connection may go on.
GOES_ON = {"PING", "SETTINGS", "PRIORITY", "300 streams at once", "rapid reset", "HPACK bomb", "empty DATA"}


async def test_http2_floods(server, offences):
    async def one(what):
        async with await H2.open(server) as h2:
            for n, data in enumerate(FLOODS[what](h2)):
                h2.write(data)
                if n % 200 == 199:
                    await h2.drain()
                    await asyncio.sleep(0)
                if h2.over.is_set():
                    break
            if what in GOES_ON and not h2.over.is_set():
                h2.write(frame(h2raw.PING, payload=b"lastping"))
                pongs = h2.pongs
                await h2.until(lambda it: it.pongs > pongs or it.goaway is not None, f"a pong or GOAWAY behind {what}")
                return "goes on" if h2.goaway is None else f"GOAWAY {h2.goaway}"
            return await h2.closed(f"the end of a connection with {what}")

    async def attack():
        seen = dict(zip(FLOODS, await asyncio.gather(*map(one, FLOODS))))
        wrong = {what: saw for what, saw in seen.items() if saw == "goes on" and what not in GOES_ON or saw == "GOAWAY 0"}
        assert not wrong, wrong
        return f"{sum(saw == 'goes on' for saw in seen.values())} go on, others: {sorted(set(seen.values()) - {'goes on'})}"

    await offences.run("h2: rapid reset, CONTINUATION, PING, bombs, ...", attack, len(FLOODS) * CONNECTION)


@pytest.mark.skipif(not shutil.which("slowhttptest"), reason="slowhttptest is not installed: tests/run installs it")
async def test_slowhttptest(server, offences):
    """Slowloris, slow bodies, slow reads and ranges, 200 connections each, for six seconds."""
    modes = {"slow heads": ["-H"], "slow bodies": ["-B"], "ranges": ["-R"], "slow reads": ["-X", "-w", "10", "-y", "20", "-n", "2", "-z", "5"]}

    async def one(what):
        url = f"http://127.0.0.1:{server.port}/" + ("session" if what == "slow bodies" else "")
        command = ["slowhttptest", *modes[what], "-c", "200", "-r", "100", "-l", "6", "-i", "2", "-p", "5", "-u", url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        try:
            async with within(25, f"slowhttptest with {what} to end"):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", said.decode(errors="replace"))
        verdicts = re.findall(r"service available:\s+(YES|NO)", plain)
        assert process.returncode == 0 and verdicts and set(verdicts) == {"YES"}, (what, verdicts, plain[-500:])
        return f"{what}: {plain.partition('Exit status:')[2].strip()}"

    async def attack():
        return "service available; " + ", ".join(await asyncio.gather(*map(one, modes)))

    await offences.run("slowhttptest -H -B -R -X, 800 connections", attack, 800 * 256 * 1024, rounds=1, kept=32 * MB)


async def test_the_longest_waits(server, offences):
    """Thirty seconds each, waited out at once: sessions in reserve, peers that vanish, never answer a ping, or take nothing."""
    url, made, peers, channel = address(server), 5_000, 20, "event:vanished"

    async def sessions():
        request = f"POST /session HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        async with await raw.Connection.open(server.port) as connection:
            for _ in range(made // 100):
                connection.writer.write(request * 100)
                for _ in range(100):
                    assert (await connection.answer()).status_code in (200, 201)

    async def vanish():
        """Subscribes, and is never heard of again: nothing is acknowledged, nothing closed."""
        async with session_of(url) as (client, session, control):
            stream = client.wt_stream(session, message(type="subscribe", channel=channel, ref=1))
            await stream.until(lambda it: it.data, "subscribed")
            client.abandon()

    async def mute():
        """Acknowledges everything, and says nothing: closed when nothing was heard for thirty seconds."""
        async with session_of(url) as (client, session, _):
            await session.over("the end of a session that says nothing", 36)

    def stall():
        """An SSE client that never reads, with a small window. Kept to the end of the test, so that only the server can end it."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(f"GET /sse?channel={channel} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        stalled.append(sock)

    stalled = []

    async def attack():
        for _ in range(peers):
            stall()
        muted = asyncio.gather(*(mute() for _ in range(peers)))
        await asyncio.gather(sessions(), *(vanish() for _ in range(peers)))
        await publish_in_bulk(server, channel, 40)
        now = await asyncio.to_thread(offences.gauge.state)
        assert now.sessions >= made, now
        await muted
        return f"{made} sessions, reaped after 30 s; closed connections"

    await publish_in_bulk(server, channel, 1)
    # Two kilobytes for a session; a send window of 512 KiB for each peer that withholds acknowledgements; the history, encoded once.
    bound = made * 2048 + 2 * peers * (512 + 256) * 1024 + 2 * 40 * 60_000 + peers * 512 * 1024
    try:
        await offences.run("sessions en masse, peers that vanish", attack, bound, rounds=1, back=20, kept=32 * MB)
    finally:
        for sock in stalled:
            sock.close()


async def test_quic_handshakes_that_nobody_goes_on_with(server, offences):
    """Initials at 2,000 a second, twice, with the ten seconds between that the server gives a handshake."""
    count, rate, longest = 5_000, 2_000, 11
    url, before = address(server), None

    async def attack():
        nonlocal before
        if before is not None:
            await asyncio.sleep(max(0, before + longest - time.monotonic()))
        with Attempts(url) as attempts:
            before = time.monotonic()
            for n in range(count):
                attempts.send(n, attempts.packet())
                if n % 20 == 19:
                    await asyncio.sleep(max(0, before + n / rate - time.monotonic()))
            before = time.monotonic()
            return f"{attempts.answers} packets in answer"

    # Half of HANDSHAKES, above which an address has to prove itself, in each wave, at what limits.rs gives a connection that only
    # connects and a little of TLS; and first packets (QUIC_INCOMING_BUFFERS).
    await offences.run(f"quic: 2 x {count} Initials", attack, 2 * 512 * 48 * 1024 + 8 * MB, kept=16 * MB)


async def test_subscriptions_cannot_fill_the_node():
    """As many empty channels as NODE_BYTES has room for and a few more, subscribed to by 4,232 WebSockets on 34 connections."""
    server, node_bytes = Server(), 512 * MB
    gauge = Gauge(server)

    async def connection(stack, number):
        h2 = await stack.enter_async_context(await H2.open(server, reading=True))
        await h2.until(lambda it: it.initial != 65_535 or it.statuses, "the server's SETTINGS")
        streams = range(1, 257 if number < 33 else 17, 2)
        for stream in streams:
            h2.websocket(stream, "fulmar.v1.bin")
        await h2.until(lambda it: len(it.statuses) == len(streams), "the WebSockets of a connection")
        assert set(h2.statuses.values()) == {200}, set(h2.statuses.values())
        for stream in streams:
            frames = [fulmar_bin.from_json({"type": "subscribe", "channel": f"event:{number}-{stream}-{n}"}) for n in range(124)]
            await h2.send(stream, b"".join(b"\x82" + bytes([0x80 | len(it)]) + bytes(4) + it for it in frames))

    try:
        async with contextlib.AsyncExitStack() as stack:
            async with within(60, "the subscriptions to be sent"):
                for number in range(34):
                    await connection(stack, number)
            looks = []

            def still(state):
                looks.append(state.channels)
                return len(looks) > 4 and len(set(looks[-4:])) == 1

            await asyncio.to_thread(gauge.until, still, 30, "the subscriptions to be carried out")
            async with server.http() as http:
                answers = []
                for _ in range(3):
                    began = time.monotonic()
                    response = await http.post("/api/publish", json={"channel": "event:victim", "data": 1})
                    answers.append((response.status_code, round(time.monotonic() - began, 2)))
            state = await asyncio.to_thread(gauge.state)
        assert state.channel_bytes <= node_bytes, f"{state.shown()} are above {node_bytes / MB:.0f} MB; publishing meanwhile: {answers}"
        assert {status for status, _ in answers} == {200}, answers
    finally:
        gauge.close()
        server.stop()


@pytest.fixture
def capped(tmp_path):
    """Servers with caps."""
    running = []

    def start(text):
        (tmp_path / "fulmar.toml").write_text(text + "\n[namespaces.event]\nclass = 'event'\nsubscribe = true\npublish = true\n")
        running.append(Server("--config", str(tmp_path / "fulmar.toml")))
        return running[-1]

    yield start
    for one in running:
        one.stop()


async def opened(server, count):
    """How many of `count` TCP connections are served, all being held open."""
    async with contextlib.AsyncExitStack() as stack:
        served = 0
        for _ in range(count):
            connection = await stack.enter_async_context(await raw.Connection.open(server.port))
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await connection.request("GET", "/healthz", [("Host", "127.0.0.1")])
                served += (await connection.answer()).status_code == 200
        return served


@pytest.mark.parametrize("setting", ["connections", "connections_per_address"])
async def test_caps_on_connections(capped, setting):
    server = capped(f"[limits]\n{setting} = 10")
    url = address(server)
    for _ in range(2):
        async with within(5, "the places of closed connections to be free"):
            while (served := await opened(server, 15)) != 10:
                assert served < 10, f"{served} connections are served where 10 are allowed"
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(refusable(url)) for _ in range(12)]
        refused = [it.fate() for it in clients if it.terminated]
        assert refused == ["closed 0x2"] * 2, [it.fate() for it in clients]


@contextlib.asynccontextmanager
async def refusable(url):
    async with dial(url) as client:
        yield client


async def test_websockets_count_as_connections(capped):
    """Their HTTP has ended; they have not."""
    server = capped("[limits]\nconnections = 3")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await (await stack.enter_async_context(open_ws(server))).barrier()
        assert await opened(server, 2) == 0
    async with within(5, "the places of closed WebSockets to be free"):
        while await opened(server, 3) != 3:
            pass


async def test_connections_that_say_nothing(capped):
    """They are handshakes until they have asked for something."""
    server = capped("[limits]\nhandshakes = 4")
    async with contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(await raw.Connection.open(server.port)) for _ in range(4)]
        assert await opened(server, 1) == 0
        for connection in silent:
            connection.writer.write(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
            assert (await connection.answer()).status_code == 200
        assert await opened(server, 4) == 4, "those that have asked leave room"


async def test_the_cap_on_handshakes(capped):
    """Handshakes that nobody goes on with fill it; others are turned away or made to prove their address, and served."""
    server = capped("[limits]\nhandshakes = 8")
    url = address(server)
    with Attempts(url, 8) as attempts:
        for n in range(200):
            attempts.send(n, attempts.packet())
        async with refusable(url) as client:
            assert client.terminated is None or client.terminated.error_code == 0x2, client.fate()
        assert os.path.exists(f"/proc/{server.process.pid}")
    async with within(14, "handshakes to be possible again once those are given up"):
        while True:
            async with refusable(url) as client:
                if client.terminated is None:
                    break
            await asyncio.sleep(0.2)
