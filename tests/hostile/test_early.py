"""Offences by subscriptions that stand in the CONNECT, and against the stream that the server opens for them."""

import asyncio
import base64
import random

import pytest
from fulmar_bin import prefixed
from measure import MB
from quic import address, dial
from sessions import PING, PONG, malformed_frames, message, publish_in_bulk

CONNECTION = 1536 * 1024
SESSIONS = 16


def path(frames, attach=False):
    text = frames if isinstance(frames, str) else base64.urlsafe_b64encode(frames).decode().rstrip("=")
    return f"/wt?{'attach&' * attach}subscribe={text}"


def subscribes(channels):
    return b"".join(message(type="subscribe", channel=channel, ref=n + 1) for n, channel in enumerate(channels))


async def test_malformed_queries(server, offences):
    url, dice = address(server), random.Random(7)
    whole = subscribes(f"event:w{n:02}" for n in range(16))
    bad = [prefixed(frame) for frame in malformed_frames() if len(frame) < 2000]
    # Behind those that are none of these frames, what is whole; and any beginning that ends amid a frame.
    bad += [subscribes(["event:w"]) + frame for frame in bad[::7]]
    bad += [whole[:-cut] for cut in range(1, len(whole)) if cut % (len(whole) // 16)]
    bad += [dice.randbytes(dice.randrange(1, 3000)) for _ in range(100)] + [whole * 40]
    bad += ["%", "A", "=", "..", "A" * 15_000, "&subscribe=", "subscribe=subscribe="]

    async def one(queries):
        async with dial(url) as client:
            client.greet()
            for query in queries:
                await client.credit()
                refused = client.connect_request(path(query))
                await refused.until(lambda it: it.status() is not None, "the answer to a malformed query")
                assert refused.status() == 400, (refused.status(), query)
                if refused.stop_code is None:
                    refused.write(b"", end=True)
            assert await client.is_alive()

    async def attack():
        await asyncio.gather(*(one(bad[n::4]) for n in range(4)))
        return f"400 for each of {len(bad)}"

    await offences.run("wt: malformed subscriptions in the CONNECT", attack, 4 * CONNECTION)


@pytest.mark.parametrize("how", ["reset", "stop", "end", "no credit", "no flow", "left", "promised"])
async def test_streams_of_the_server(server, offences, how):
    """On each of 32 sessions a stream with 16 subscriptions."""
    url = address(server)
    channels = [f"event:early{n}" for n in range(16)]

    def change(connection):
        if how == "no credit":
            connection._local_max_streams_bidi.value = connection._local_max_streams_bidi.sent = 0

    async def one():
        async with dial(url, change, **({"max_stream_data": 300} if how == "no flow" else {})) as client:
            client.greet()
            kept = []
            for _ in range(SESSIONS):
                await client.credit()
                kept.append(await client.session(path(subscribes(channels), attach=how == "promised")))
            given = [it for it in client.streams.values() if it.id % 4 == 1]
            if how != "no credit":
                given = [client.streams.setdefault(4 * n + 1, type(kept[0])(client, 4 * n + 1)) for n in range(SESSIONS)]
                for stream in given:
                    await stream.until(lambda it: it.data, "the first word on a stream of the server")
            assert how != "no credit" or not given
            for stream in given:
                if how in ("reset", "stop"):
                    stream.stop(0)
                if how == "reset":
                    stream.reset(1)
                if how == "end":
                    stream.write(b"", end=True)
                if how == "promised":
                    # Which nobody reads before an attach, and there is none.
                    stream.write(PING * 2000)
            await publish_in_bulk(server, channels[0], 2)
            if how == "left":
                client.abandon()
                return
            for session in kept:
                if how != "promised":
                    await client.credit()
                    control = client.wt_stream(session, PING)
                    await control.until(lambda it: it.data.startswith(PONG), "the pong that shows a session to live")
                session.write(b"", end=True)
            for session in kept:
                await session.over("the end of a session")
            assert client.terminated is None, client.fate()

    async def attack():
        await asyncio.gather(one(), one())
        return "the sessions go on"

    # What is published in bulk is kept by its channel, 0.4 MB each time. Who has left is found when QUIC's idle timeout is over.
    # Until then it is written to: what its window takes, and a batch for each stream. 2 to 13 MB were seen.
    most = 2 * CONNECTION + (16 if how == "left" else 4) * MB
    await offences.run(f"wt: 32 streams of the server: {how}", attack, most, kept=4 * MB, back=45)
