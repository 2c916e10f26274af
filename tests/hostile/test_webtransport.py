"""Offences against WebTransport sessions: their streams, their datagrams, their CONNECT stream."""

import asyncio
import contextlib
import random
import signal

import pytest
import wt
from fulmar_bin import prefixed, split, varint
from measure import MB
from quic import DATA, address, dial, frame
from server import Server, name, within
from sessions import PING, PONG, answers, frames, lives, malformed_frames, message, publish_in_bulk, session_of

MESSAGE = 131_072
# Two windows of half a megabyte and the connection itself, as in test_http3.py.
CONNECTION = 1536 * 1024
REJECTED = 0x3994BD84
# HTTP/3 requests at once on a connection (limits.rs: HTTP3_REQUESTS).
REQUESTS = 100


async def test_malformed_frames(server, offences):
    url, bad, dice = address(server), malformed_frames(), random.Random(5)
    bad += [bytes([dice.choice(b"\x00\x0c\x20\x26\x7f\x80\xff")]) + dice.randbytes(dice.randrange(300)) for _ in range(300)]
    places = [{"channel": f"event:{n:0>249}", "epoch": "e" * 32, "offset": 2**53 - 1} for n in range(129)]
    wrong = [
        ({"type": "subscribe", "channel": "a b"}, "bad_channel"), ({"type": "subscribe", "channel": ""}, "bad_channel"),
        ({"type": "subscribe", "channel": "x" * 256}, "bad_channel"), ({"type": "subscribe", "channel": "event:w", "after": "x" * 3000}, "bad_cursor"),
        ({"type": "subscribe", "channel": "event:w", "after": "0000000000000000.e.0"}, "bad_cursor"),
        ({"type": "publish", "channel": "state:w", "key": "k" * 256, "data": 1}, "bad_key"), ({"type": "publish", "channel": "event:w", "id": "", "data": 1}, "bad_id"),
        ({"type": "publish", "channel": "event:w", "data": "d" * 65_537}, "payload_too_large"), ({"type": "attach", "id": "x", "secret": "y"}, "unknown_session"),
        ({"type": "attach", "id": "x", "secret": "y", "positions": places[:128]}, "unknown_session"),
        ({"type": "attach", "id": "x", "secret": "y", "positions": places}, "too_many_subscriptions"),
        ({"type": "unsubscribe", "channel": "event:never"}, "not_subscribed"),
    ]

    async def attack():
        async with session_of(url) as (client, session, control):
            stream = client.wt_stream(session, b"".join(map(prefixed, bad)))
            seen = await answers(stream, len(bad), "an error for each malformed frame")
            assert {it["frame"] for it in seen} == {"error"}, [it for it in seen if it["frame"] != "error"][:3]
            stream.data = b""
            stream.write(b"".join(message(**it) for it, _ in wrong))
            seen = await answers(stream, len(wrong), "an error for each message with a wrong name")
            assert [it.get("code") for it in seen] == [code for _, code in wrong], seen
            assert await lives(control)
        return f"an error for each of {len(bad) + len(wrong)}, and the session goes on"

    await offences.run("wt: malformed frames and names", attack, 2 * CONNECTION)


async def test_lengths_above_the_bound(server, offences):
    url = address(server)

    async def one(length):
        async with session_of(url) as (client, session, control):
            client.wt_stream(session, varint(length) + bytes(100))
            await session.over("the session's end")
            kind, value = session.data[-len(b"\x68\x43") :], session.data
            assert client.terminated is None or client.fate() == "closed 0x100", client.fate()
            told = [it for it in frames(control) if it["frame"] == "close"]
            assert [it["code"] for it in told] == [4901], (told, kind)
            # The capsule's code, in a DATA frame.
            assert (4901).to_bytes(4, "big") in value, value

    async def attack():
        lengths = [MESSAGE + 1, 1 << 30, 1 << 40, (1 << 62) - 1]
        await asyncio.gather(*(one(length) for length in lengths * 3))
        return "4901 in-band and by capsule"

    await offences.run("wt: frames that announce up to 2^62 bytes", attack, 12 * CONNECTION)


async def test_unknown_sessions_and_datagrams(server, offences):
    url, dice = address(server), random.Random(7)

    async def attack():
        async with session_of(url) as (client, session, control):
            streams = []
            for session_id in (session.id + 4, 400, 1, 2, 3, (1 << 62) - 1):
                for _ in range(20):
                    await client.credit()
                    streams.append(client.wt_stream(session_id, b"for nobody"))
            for stream in streams:
                await stream.until(lambda it: it.reset_code is not None and it.stop_code is not None, "the refusal of a stream of an unknown session")
            assert {(it.reset_code, it.stop_code) for it in streams} == {(REJECTED, REJECTED)}, {(it.reset_code, it.stop_code) for it in streams}
            datagrams = [b"", b"\xff", b"\x40", varint(400), varint((1 << 62) - 1), varint(session.id // 4), varint(session.id // 4) + b"\xff" * 1000]
            datagrams += [dice.randbytes(dice.randrange(1150)) for _ in range(300)]
            for datagram in datagrams:
                client.quic.send_datagram_frame(datagram)
                client.transmit()
            assert await lives(control)
        return "streams refused with 0x3994bd84, datagrams ignored"

    await offences.run("wt: unknown sessions, random datagrams", attack, CONNECTION)


async def test_a_flood_of_datagrams(server, offences):
    url = address(server)

    async def one():
        async with session_of(url) as (client, session, control):
            for _ in range(40):
                for _ in range(100):
                    client.quic.send_datagram_frame(varint(session.id // 4) + bytes(900))
                client.transmit()
                await asyncio.sleep(0)
            assert await lives(control)

    async def attack():
        await asyncio.gather(*(one() for _ in range(3)))
        return "nothing; the sessions go on"

    await offences.run("wt: 12,000 datagrams", attack, 3 * CONNECTION)


@pytest.mark.parametrize("how", ["reset", "end", "reset with a frame half written"])
async def test_streams_opened_and_ended(server, offences, how):
    url, count = address(server), 1500

    async def one():
        async with session_of(url) as (client, session, control):
            for _ in range(count):
                await client.credit()
                if how == "end":
                    client.wt_stream(session, message(type="subscribe", channel="event:w"), end=True)
                else:
                    client.wt_stream(session, b"" if how == "reset" else varint(100_000) + bytes(300)).reset(1)
                if client.terminated:
                    break
            assert await lives(control), client.fate()

    async def attack():
        await asyncio.gather(one(), one())
        return "the session goes on"

    await offences.run(f"wt: {2 * count} streams opened: {how}", attack, 2 * CONNECTION)


async def test_stop_sending_on_everything(server, offences):
    url, channel = address(server), "event:stopped"

    async def one():
        async with session_of(url) as (client, session, control):
            for _ in range(60):
                await client.credit()
                stream = client.wt_stream(session, message(type="subscribe", channel=channel, ref=1))
                await stream.until(lambda it: it.data, "subscribed")
                stream.stop(0)
                control.write(message(type="publish", channel=channel, data="x" * 1000))
            await control.until(lambda it: len(split(it.data)[0]) >= 60, "the answers to 60 publishes")
            control.stop(0)
            session.stop(0)
            client.greet and [it.stop(0) for it in list(client.streams.values()) if it.id % 4 == 3]
            return client.fate() or "goes on"

    async def attack():
        return "streams end; then " + ", ".join(sorted(set(await asyncio.gather(*(one() for _ in range(4))))))

    await offences.run("wt: STOP_SENDING on everything", attack, 4 * CONNECTION)


async def test_capsules(server, offences):
    url, dice = address(server), random.Random(9)
    close = varint(0x2843)
    tried = {
        "a close that is too short": close + prefixed(b"\0\0\0"),
        "a close with a long reason": close + prefixed(bytes(4 + 1025)),
        "a close of 2^40 bytes": close + varint(1 << 40) + bytes(100),
        "a close that is not UTF-8": close + prefixed(b"\0\0\0\0\xff\xff"),
        "a close": close + prefixed(b"\0\0\0\1"),
    }

    async def ends(name):
        async with session_of(url) as (client, session, _):
            session.write(frame(DATA, tried[name]))
            await session.over(f"the end of the session after {name}")

    async def goes_on(data):
        async with session_of(url) as (client, session, control):
            for at in range(0, len(data), 5_000):
                session.write(frame(DATA, data[at : at + 5_000]))
            assert await lives(control), client.fate()

    async def attack():
        unknown = b"".join(varint(0x1234 + dice.randrange(1000)) + prefixed(bytes(dice.randrange(40))) for _ in range(20_000))
        passed_over = varint(0x1234) + varint(1 << 40) + bytes(1_000_000)
        await asyncio.gather(*map(ends, tried), goes_on(unknown), goes_on(passed_over), goes_on(b"\xff" * 100_000))
        return "wrong closes end the session; others are passed over"

    await offences.run("wt: capsules", attack, 8 * CONNECTION)


async def test_sessions_opened_en_masse(server, offences):
    url = address(server)

    async def one():
        async with dial(url) as client:
            client.greet()
            kept = []
            for _ in range(16):
                await client.credit()
                kept.append(await client.session())
                await client.credit()
                control = client.wt_stream(kept[-1], PING)
                await control.until(lambda it: it.data == PONG, "the pong on a session's control stream")
            await client.credit()
            refused = client.connect_request()
            await refused.until(lambda it: it.status() is not None, "the answer to a 17th CONNECT")
            assert refused.status() == 429, refused.status()
            for session in kept:
                session.write(b"", end=True)
            for session in kept:
                await session.over("the end of a session")
            # Whose places are free again.
            await client.credit()
            await client.session()

    async def attack():
        await asyncio.gather(*(one() for _ in range(8)))
        return "16 sessions on a connection, 429 for the next"

    await offences.run("wt: 128 sessions on 8 connections", attack, 8 * CONNECTION)


async def test_unfinished_frames(server, offences):
    """On as many streams as the credit allows: together a session's hold a quarter of a megabyte (PROTOCOL.md, to come)."""
    url, connections = address(server), 2

    async def one():
        async with session_of(url) as (client, session, control):
            streams = []
            # Each stream that is served brings credit for more, up to 256.
            while len(streams) < 60 and client.terminated is None:
                await client.credit()
                streams.append(client.wt_stream(session, varint(MESSAGE) + bytes(1_000)))
            for stream in streams:
                stream.write(bytes(MESSAGE - 5_000))
            opened.release()
            await done.wait()
            assert client.terminated is None, client.fate()

    async def attack():
        nonlocal opened, done
        opened, done = asyncio.Semaphore(0), asyncio.Event()
        sessions = [asyncio.create_task(one()) for _ in range(connections)]
        async with within(30, "all streams of unfinished frames"):
            for _ in range(connections):
                await opened.acquire()
        # The flow of what the server takes comes to a stop by itself: nothing but time shows that it did.
        await asyncio.sleep(3)
        done.set()
        await asyncio.gather(*sessions)
        return "backpressure"

    opened = done = None
    await offences.run("wt: 120 unfinished frames on 2 sessions", attack, connections * (CONNECTION + MB // 4))


async def test_no_credit_for_what_is_subscribed(server, offences):
    """A hundred subscriptions, each on a stream for which the peer grants 200 bytes, to what is published in bulk."""
    url, channels, count = address(server), 100, 2

    async def one(n):
        async with session_of(url, max_stream_data=200) as (client, session, control):
            for channel in range(channels):
                await client.credit()
                stream = client.wt_stream(session, message(type="subscribe", channel=f"event:nocredit{channel}", ref=1))
                await stream.until(lambda it: it.data, "subscribed")
            ready[n].set()
            await published.wait()
            assert client.terminated is None, client.fate()

    async def attack():
        nonlocal ready, published
        ready, published = [asyncio.Event() for _ in range(count)], asyncio.Event()
        sessions = [asyncio.create_task(one(n)) for n in range(count)]
        async with within(60, "all subscriptions of the peers without credit"):
            await asyncio.gather(*(it.wait() for it in ready))
        for channel in range(channels):
            await publish_in_bulk(server, f"event:nocredit{channel}", 3)
        await asyncio.sleep(0)
        published.set()
        await asyncio.gather(*sessions)
        return "200 bytes on each stream"

    ready, published = [], asyncio.Event()
    # Two rounds of 3 publications of 60,000 bytes on each channel, in one encoding; and two connections.
    await offences.run("wt: 200 streams without credit, bulk events", attack, count * CONNECTION + channels * 6 * 2 * 60_000, kept=channels * 3 * 2 * 60_000)


async def test_an_unfinished_frame_is_given_up_after_ten_seconds(server):
    async with session_of(address(server)) as (client, session, control):
        streams = [client.wt_stream(session, varint(1_000) + bytes(10)) for _ in range(5)]
        whole = client.wt_stream(session, PING)
        for stream in streams:
            await stream.until(lambda it: it.reset_code is not None or it.stop_code is not None, "an unfinished frame to be given up", 14)
        assert await lives(control), "the session goes on"
        assert await lives(whole), "its other streams go on"
        assert whole.reset_code is None and whole.stop_code is None


async def test_more_requests_at_once_than_there_may_be(server):
    async with session_of(address(server)) as (client, session, control):
        channel = name()
        waiting = []
        # Subscriptions raise the credit for streams, so that requests are bounded by their own number only.
        for n in range(60):
            await client.credit()
            stream = client.wt_stream(session, message(type="subscribe", channel=f"{channel}{n}", ref=1))
            await stream.until(lambda it: it.data, "subscribed")
        for _ in range(REQUESTS + 1):
            await client.credit()
            waiting.append(client.request(path=f"/sse?channel={channel}"))
        for stream in waiting:
            await stream.until(lambda it: it.status() is not None or it.reset_code is not None, "an event stream or its refusal")
        assert sorted((it.status() or 0, it.reset_code or 0) for it in waiting) == [(0, 0x10B)] + [(200, 0)] * REQUESTS
        left = next(it for it in waiting if it.status())
        left.stop(0x10C)
        left.reset(0x10C)
        async with within(5, "the place of a request that its client has given up"):
            while True:
                await client.credit()
                again = client.request()
                if await again.over() != "reset 0x10b":
                    break
                await asyncio.sleep(0.05)
        assert again.status() == 200 and await lives(control)


async def test_the_first_stream_is_the_control_stream():
    """Two streams opened in one flight, in many sessions; the server's close comes on the first."""
    server = Server()
    try:
        async with contextlib.AsyncExitStack() as stack:
            sessions = []
            for _ in range(25):
                session = await stack.enter_async_context(wt.open_wt(server))
                first, second = session.open_stream(), session.open_stream()
                await first.barrier()
                await second.barrier()
                sessions.append((first, second))
            server.process.send_signal(signal.SIGTERM)
            told = []
            for streams in sessions:
                last = [await stream.recv("a close, or the end") for stream in streams]
                told.append([it is not wt.ENDED and it["type"] == "close" for it in last])
        assert told == [[True, False]] * 25, f"{sum(second for _, second in told)} of 25 closes came on the second stream"
    finally:
        server.stop()


