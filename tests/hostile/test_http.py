"""Offences over HTTP/1.1 and HTTP/2: requests that are wrong, too long, or never whole."""

import asyncio
import contextlib
import os
import random

import cursors
import raw
from h2raw import DATA, END_STREAM, H2, HEADERS, PREFACE, frame, settings
from measure import MB
from server import check_error, publish, within

BODY = 131_072
# hyper's buffers and a task; what is read of a body on top (limits.rs: HTTP1_BUFFER, BODY_BYTES).
CONNECTION = 256 * 1024


async def ending(server, data, awaited, seconds=15):
    """The status of the answer to these bytes, or "closed" without one; waits until the server closes."""
    async with await raw.Connection.open(server.port) as connection:
        connection.writer.write(data)
        got = b""
        async with within(seconds, awaited):
            with contextlib.suppress(ConnectionError):
                while more := await connection.reader.read(65536):
                    got += more
    return int(got.split()[1]) if got.startswith(b"HTTP/1.1 ") else "closed"


def get(*lines, target=b"/healthz", version=b"HTTP/1.1"):
    return b"GET " + target + b" " + version + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(*lines, body=b"{}"):
    head = b"POST /session HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


WRONG = {
    "nothing but line breaks": (b"\r\n" * 20 + b"\0\r\n\r\n", {400, "closed"}),
    "NULs": (bytes(500) + b"\r\n\r\n", {400, "closed"}),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(500) + b"\r\n\r\n", {400, "closed"}),
    "HTTP/0.9": (b"GET /\r\n\r\n", {400, "closed"}),
    "HTTP/9.9": (get(version=b"HTTP/9.9"), {400, 505, "closed"}),
    "a preface cut": (PREFACE[:20] + b"x" * 100, {400, "closed"}),
    "a NUL in a header": (get(b"a: \0"), {400, "closed"}),
    "a space in a name": (get(b"a b: c"), {400, "closed"}),
    "no colon": (get(b"abc"), {400, "closed"}),
    "a folded line": (get(b"a: b", b" c: d"), {400, "closed"}),
    "two lengths": (post(b"Content-Length: 2", b"Content-Length: 3"), {400, "closed"}),
    "a length and chunks": (post(b"Content-Length: 2", b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"), {200, 400, "closed"}),
    "a negative length": (post(b"Content-Length: -2"), {400, "closed"}),
    "a length of 2^64": (post(b"Content-Length: 18446744073709551616"), {400, "closed"}),
    "a body above the bound": (post(b"Content-Length: 131073", body=b" " * (BODY + 1)), {413}),
    "chunks above the bound": (post(b"Transfer-Encoding: chunked", body=b"4000\r\n" + b" " * 0x4000 + b"\r\n" + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 4), {413}),
    "a chunk of 2^60": (post(b"Transfer-Encoding: chunked", body=b"1000000000000000\r\n" + b" " * (BODY + 1)), {400, 413}),
    "a chunk size that is none": (post(b"Transfer-Encoding: chunked", body=b"zz\r\n"), {400, 413, "closed"}),
    "a long chunk extension": (post(b"Transfer-Encoding: chunked", body=b"2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n"), {400, 413, "closed"}),
    "another transfer coding": (post(b"Transfer-Encoding: gzip"), {400, 501, "closed"}),
    "a body compressed": (post(b"Content-Encoding: gzip", b"Content-Length: 20", body=b"\x1f\x8b" + bytes(18)), {200, 400, 415}),
    "a long target": (get(target=b"/" + b"x" * 20_000), {414, 431, "closed"}),
    "a target of 60 KiB": (get(target=b"/" + b"x" * 60_000), {414, 431, "closed"}),
    "a long header": (get(b"a: " + b"x" * 20_000), {431, "closed"}),
    "200 headers": (get(*[b"a%d: b" % n for n in range(200)]), {431, "closed"}),
    "20,000 headers": (get(*[b"a: b"] * 20_000), {431, "closed"}),
    "endless header": (b"GET / HTTP/1.1\r\na: " + b"x" * 300_000, {431, "closed"}),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", {400, 404, 405, 421}),
    "an absolute target": (b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", {421}),
    "percent signs": (get(target=b"/poll?channel=%ff%00%zz&after=%"), {400}),
}


async def test_wrong_requests(server, offences):
    async def one(what):
        data, allowed = WRONG[what]
        saw = await ending(server, data, f"the end of a connection after {what}")
        return None if saw in allowed else f"{what}: {saw} instead of {allowed}"

    async def attack():
        wrong = [found for found in await asyncio.gather(*map(one, WRONG)) if found]
        assert not wrong, wrong
        return f"4xx or the end of the connection for each of {len(WRONG)}"

    await offences.run("http/1.1: wrong and oversized requests", attack, len(WRONG) * CONNECTION)


async def test_random_bytes(server, offences):
    dice = random.Random(11)

    async def attack():
        starts = [b"", b"GET ", b"POST / HTTP/1.1\r\n", PREFACE, PREFACE + settings()]
        for _ in range(10):
            await asyncio.gather(*(ending(server, dice.choice(starts) + dice.randbytes(dice.randrange(1, 20_000)) + b"\r\n\r\n", "the end of it") for _ in range(30)))
        return "4xx, GOAWAY or the end of the connection"

    await offences.run("http: random bytes", attack, 30 * CONNECTION)


async def test_wrong_names_and_cursors(server, offences):
    channel = "event:cursors"
    hashed = cursors.fnv1a(channel)
    bad = ["", "x", "~", "." * 100, "x" * 2049, f"{hashed}.e", f"{hashed}.e.-1", f"{hashed}.e.zzzzzzzzzzzzzz", f"{hashed}..0", f"{hashed}.{'e' * 33}.0",
           "0000000000000000.e.0", "~".join(f"{n:016x}.e.0" for n in range(33)), f"{hashed}.e.0.0.0", "\u00e9"]
    alien = [f"{hashed}.other.0", f"{hashed}.other.1y2p0ij32e", f"{hashed}.other.5.zz", f"{hashed}.e.0.0"]
    names = ["", "a b", "x" * 256, "event:\u00e9", "event:\0", "event:<script>", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")]

    async def attack():
        async with server.http() as http:
            for cursor in bad:
                for route in ("/poll", "/sse", "/ws"):
                    headers = dict(raw.UPGRADE) if route == "/ws" else {}
                    check_error(await http.get(route, params={"channel": channel, "after": cursor}, headers=headers), 400, "bad_cursor", f"{route} {cursor[:60]!r}")
            for cursor in alien:
                answer = (await http.get("/poll", params={"channel": channel, "after": cursor})).json()
                assert [c["type"] for c in answer["control"]] == ["gap"], (cursor, answer)
            for wrong in names:
                for route in ("/poll", "/sse"):
                    check_error(await http.get(route, params={"channel": wrong}), 400, "bad_channel", f"{route} {wrong[:20]!r}")
                check_error(await http.post("/api/publish", json={"channel": wrong, "data": 1}), 400, "bad_channel", f"publish {wrong[:20]!r}")
            check_error(await http.get("/poll", params=[("channel", f"c{n}") for n in range(33)]), 400, "too_many_channels", "33 channels")
            for wait in ("-1", "nan", "x", "1" * 400 + "x"):
                check_error(await http.get("/poll", params={"channel": channel, "wait": wait}), 400, "bad_wait", wait[:20])
            for secret in ("x", "." * 500, "a.b", "a.b.c"):
                for route in ("/send", "/session/ticket"):
                    response = await http.post(route, json={}, headers={"authorization": f"Bearer {secret}"})
                    assert response.status_code in (400, 401), (route, secret[:20], response.status_code)
            check_error(await http.get("/poll", params={"channel": channel, "ticket": "x" * 500}), 401, "bad_ticket", "a forged ticket")
        return "400 or 401 with its code; gap for cursors of another history"

    await offences.run("http: names, cursors, secrets that are none", attack, 8 * MB)


async def test_heads_and_bodies_that_never_come(server, offences):
    """By the server's own deadlines of ten seconds, which all are waited out at once: HTTP/1.1 and 2."""
    count = 40
    silent = {
        "says nothing": b"",
        "half a head": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
        "half a preface": PREFACE[:10],
        "a preface and nothing more": PREFACE + settings(),
        "half a body": post(b"Content-Length: 1000", body=b"{" + b" " * 500),
        "a length of 2^40": post(b"Content-Length: 1099511627776"),
        "a chunk without its end": post(b"Transfer-Encoding: chunked", body=b"400\r\n{"),
        "a request answered, and half of another": get().replace(b"close", b"keep-alive") + b"GET /healthz HT",
        "a request answered, and silence": get().replace(b"close", b"keep-alive"),
    }

    async def slow(what):
        """A byte now and then does not put the end off."""
        async with await raw.Connection.open(server.port) as connection:
            connection.writer.write(silent[what])

            async def drip():
                while True:
                    await asyncio.sleep(1)
                    connection.writer.write(b" ")

            dripping = asyncio.create_task(drip()) if what in ("half a head", "half a body") else None
            async with within(14, f"the end of a connection that {what}"):
                with contextlib.suppress(ConnectionError):
                    while await connection.reader.read(65536):
                        pass
            if dripping:
                dripping.cancel()

    async def unfinished_head():
        async with await H2.open(server) as h2:
            h2.write(frame(HEADERS, END_STREAM, 1, h2.head()))
            await h2.closed("the end of an HTTP/2 connection whose HEADERS are not whole", 14)

    async def unfinished_bodies():
        async with await H2.open(server) as h2:
            streams = range(1, 101, 2)
            for stream in streams:
                h2.request(stream, "POST", "/session", ("content-type", "application/json"), end=False)
                h2.write(frame(DATA, 0, stream, b"{" + b" " * 1000))
            await h2.until(lambda it: len(it.statuses.keys() | it.resets.keys()) == 50, "an answer to each body that does not end", 14)
            assert set(h2.statuses.values()) <= {413, 408}, h2.statuses
            assert await h2.is_alive(1001)

    async def attack():
        await asyncio.gather(*(slow(what) for what in silent for _ in range(count)), *(unfinished_head() for _ in range(count)), *(unfinished_bodies() for _ in range(5)))
        return "the end of the connection, or 413, within 14 s"

    await offences.run("http: heads and bodies that never come", attack, (len(silent) + 2) * count * CONNECTION, rounds=1, kept=24 * MB)


async def test_bodies_of_one_connection(server, offences):
    """100 bodies of 120 KiB, none of them whole, on each of 4 connections, as fast as flow control lets them."""
    connections, size = 4, 120 * 1024

    async def one():
        async with await H2.open(server) as h2:
            await h2.until(lambda it: it.initial != 65_535, "the server's SETTINGS")
            left = dict.fromkeys(range(1, 201, 2), size)
            for stream in left:
                h2.request(stream, "POST", "/session", ("content-type", "application/json"), end=False)
            with contextlib.suppress(TimeoutError):
                while any(left.values()) and not h2.over.is_set():
                    sent = 0
                    # Round and round, so that all bodies grow at once.
                    for stream in left:
                        part = h2.data(stream, min(left[stream], 4096))
                        left[stream] -= part
                        sent += part
                    if not sent:
                        # Nothing but time shows that the server takes no more.
                        async with asyncio.timeout(1):
                            await h2.changed.wait()
            assert h2.goaway is None and not h2.over.is_set(), h2.goaway
            return 100 * size - sum(left.values())

    async def attack():
        return f"backpressure after {[it // 1024 for it in await asyncio.gather(*(one() for _ in range(connections)))]} KiB"

    # What limits.rs says of an HTTP/2 connection without answers: heads 1 MiB, window 256 KiB, bodies 512 KiB, and tasks of
    # 64 KiB at most, of which 100 are far from it; 12 MiB would be the bodies alone.
    await offences.run("h2: 400 unfinished bodies on 4 connections", attack, connections * 4 * MB)


async def test_answers_that_are_not_read(server, offences):
    """A window of nothing, and 120 polls of a large history on each of 2 connections."""
    channel, connections = "event:unread2", 2
    async with server.http() as http:
        cursor = (await http.get("/poll", params={"channel": channel})).json()["cursor"]
        for _ in range(16):
            await publish(http, channel, "x" * 60_000)

    async def one():
        async with await H2.open(server, (4, 0)) as h2:
            for n in range(120):
                h2.request(2 * n + 1, "GET", f"/poll?channel={channel}&after={cursor}")
            await h2.until(lambda it: it.statuses, "the head of an answer")
            # How many others come until the server stops by itself, nothing but time shows.
            await asyncio.sleep(2)
            assert set(h2.statuses.values()) == {200} and h2.goaway is None, (h2.statuses, h2.goaway)
            return len(h2.statuses)

    async def attack():
        return f"the heads of {await asyncio.gather(*(one() for _ in range(connections)))} answers of 120"

    # CONNECTION_ANSWER_BYTES, and what is on its way to be sent: HTTP2_STREAMS x HTTP2_SEND_BUFFER.
    await offences.run("h2: 240 large answers not read, 2 connections", attack, connections * 4 * MB + 8 * MB)


async def test_event_streams_that_are_not_read(server, offences):
    channel, count = "event:unread3", 40

    async def attack():
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(count):
                stream = await stack.enter_async_context(await raw.EventStream.open(server, channel))
                stream.connection.writer.transport.pause_reading()
            async with server.http() as http:
                for _ in range(100):
                    await publish(http, channel, "x" * 60_000)
        return "backpressure; others are not held up"

    # A batch of 32 KiB and one publication for each, in hyper's buffer once more; and the channel's history of both rounds.
    await offences.run("sse: 40 event streams not read", attack, count * 2 * (CONNECTION) + 2 * 2 * 6 * MB, kept=20 * MB)
