"""Sessions over bare QUIC connections, and what to send on them."""

import contextlib

import fulmar_bin
from fulmar_bin import prefixed, split
from quic import dial

PING, PONG = prefixed(b"\x09\x07"), prefixed(b"\x0a\x07")


def message(**members):
    return prefixed(fulmar_bin.from_json(members))


@contextlib.asynccontextmanager
async def session_of(url, *arguments, **options):
    """(client, session, control stream), the control stream being the first."""
    async with dial(url, *arguments, **options) as client:
        client.greet()
        session = await client.session()
        control = client.wt_stream(session, PING)
        await control.until(lambda it: it.data.startswith(PONG), "the pong on the control stream")
        control.data = b""
        yield client, session, control


def frames(stream):
    return [fulmar_bin.decode(raw, "server") for raw in split(stream.data)[0]]


async def answers(stream, count, awaited):
    await stream.until(lambda it: len(split(it.data)[0]) >= count, awaited)
    return frames(stream)


async def lives(control):
    """The session still answers on its control stream."""
    before = len(control.data)
    control.write(PING)
    await control.until(lambda it: it.data[before:].endswith(PONG), "a pong that shows the session to live")
    return control.data[before:].endswith(PONG)


async def publish_in_bulk(server, channel, count):
    from ws import open_ws

    async with open_ws(server, binary=True) as publisher:
        await publisher.publish_many([{"channel": channel, "data": "x" * 60_000} for _ in range(count)])


def malformed_frames():
    whole = [
        fulmar_bin.from_json({"type": "subscribe", "ref": 5, "channel": "event:w", "position": {"epoch": "e", "offset": 3}}),
        fulmar_bin.from_json({"type": "publish", "ref": 5, "channel": "state:w", "key": "k", "id": "i", "data": "text"}),
        fulmar_bin.from_json({"type": "attach", "ref": 5, "id": "x", "secret": "y"}),
    ]
    # Cut anywhere before the payload, which is the rest of a frame and may be cut.
    frames = [frame[:cut] for frame in whole for cut in range(len(frame) - (5 if frame[0] == 0x23 else 0))]
    frames += [bytes([kind]) for kind in range(256) if kind not in (0x09, 0x0A)]
    frames += [b"\x21\x01" + length + b"ev" for length in (b"\x3f", b"\x7f\xff", b"\xbf\xff\xff\xff", b"\xff" * 8)]
    frames += [b"\x23\x01" + bytes([flags]) + b"\x07event:w" for flags in (0x03, 0x40, 0x80, 0xFF)]
    frames += [b"\x23\x01\x01\x07event:w\xff\xfe", b"\x23\x01\x02\x07event:w{", b"\x21\x00\x07event:w\x09", b"\x21\xff" + b"\xff" * 7 + b"\x07event:w\x00"]
    return frames
