"""WebSocket by HTTP/1.1 (PROTOCOL.md sections 4, 5, 7 and 9, and RFC 6455)."""

import json

import fulmar_bin
import pytest
import raw
import websockets
from server import b64, check_error, name, offsets, poll, publish, within
from ws import open_ws

ENCODINGS = pytest.mark.parametrize("binary", [False, True], ids=["json", "bin"])


@pytest.mark.parametrize(
    "offered,chosen",
    [
        (["fulmar.v1.json"], "fulmar.v1.json"),
        (["fulmar.v1.bin"], "fulmar.v1.bin"),
        (["other", "fulmar.v1.bin"], "fulmar.v1.bin"),
        ([], None),
    ],
    ids=str,
)
async def test_subprotocols(server, offered, chosen):
    async with open_ws(server, chosen == "fulmar.v1.bin", subprotocols=offered) as ws:
        assert ws.connection.subprotocol == chosen
        await ws.barrier()


async def test_unknown_subprotocol(server):
    for offered in ("fulmar.v2.json", "graphql-ws, mqtt", "FULMAR.V1.JSON"):
        headers = [("Host", f"127.0.0.1:{server.port}"), *raw.UPGRADE, ("Sec-WebSocket-Protocol", offered)]
        check_error(await raw.request(server.port, "GET", "/ws", headers), 400, "unknown_subprotocol", offered)


@ENCODINGS
async def test_subscribe_publish_unsubscribe(server, binary):
    here, there = name(), name()
    async with server.http() as http, open_ws(server, binary) as ws:
        started = await ws.subscribe(here, ref=5)
        assert started["ref"] == 5
        await ws.subscribe(there)
        answer = await ws.ask(type="publish", channel=here, data="mine", ref=6)
        assert answer["type"] == "published" and answer["offset"] > started["offset"], answer
        kept = [m for m in ws.kept if m["type"] == "publication"]
        mine = kept[0] if kept else await ws.until("publication")
        assert (mine["channel"], mine["offset"], mine["data"]) == (here, answer["offset"], "mine")
        gone = await ws.ask(type="unsubscribe", channel=here, ref=8)
        assert (gone["type"], gone["channel"]) == ("unsubscribed", here), gone
        ws.kept.clear()
        await publish(http, here, "to nobody")
        await publish(http, there, "still")
        await ws.until("publication", channel=there)
        await ws.barrier()
        assert not [m for m in ws.kept if m.get("channel") == here], ws.kept
        # A channel left can be subscribed again.
        await ws.subscribe(here)


@ENCODINGS
async def test_channels_in_the_url(server, binary):
    here, there = name(), name()
    async with server.http() as http:
        cursor = (await poll(http, here, there))["cursor"]
        await publish(http, here, 1)
        await publish(http, there, 2)
        async with open_ws(server, binary, query=f"?channel={here}&channel={there}") as live:
            await live.barrier()
            async with open_ws(server, binary, query=f"?channel={here}&channel={there}&after={cursor}") as replay:
                got = {m["channel"]: m["data"] for m in await replay.publications(2)}
                assert got == {here: 1, there: 2}
            await publish(http, here, 3)
            assert [m["data"] for m in await live.publications(1)] == [3]


@ENCODINGS
async def test_reading_on_from_a_position_and_from_a_cursor(server, binary):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        epoch, first = await publish(http, channel, 1)
        rest = [(await publish(http, channel, n))[1] for n in (2, 3)]
        async with open_ws(server, binary) as ws:
            await ws.subscribe(channel, after=cursor)
            assert offsets(await ws.publications(3)) == [first, *rest]
        async with open_ws(server, binary) as ws:
            answer = await ws.subscribe(channel, position={"epoch": epoch, "offset": first})
            assert (answer["epoch"], answer["offset"]) == (epoch, first)
            assert offsets(await ws.publications(2)) == rest


@pytest.mark.parametrize("query, batches", [("?batch", True), ("", False)])
async def test_batches_are_for_those_who_ask(server, query, batches):
    """What waits comes in few messages; what is large comes alone, and everything in its order."""
    channel, large = name(), "x" * 20_000
    sent = [*range(100), large, *range(100, 200)]
    async with server.http() as http, open_ws(server, binary=True) as publisher:
        cursor = (await poll(http, channel))["cursor"]
        await publisher.publish_many([{"channel": channel, "data": data} for data in sent])
        async with open_ws(server, binary=True, query=f"{query or '?'}&channel={channel}&after={cursor}") as ws:
            assert [m["data"] for m in await ws.publications(len(sent), channel)] == sent
            if not batches:
                assert set(ws.sizes) == {1}
                return
            assert len(ws.sizes) < 20, ws.sizes
            assert 1 in ws.sizes[1:], f"{large[:3]}... came with others: {ws.sizes}"


async def test_json_knows_no_batches(server):
    channel = name()
    async with server.http() as http, open_ws(server, binary=True) as publisher:
        cursor = (await poll(http, channel))["cursor"]
        await publisher.publish_many([{"channel": channel, "data": n} for n in range(50)])
        async with open_ws(server, query=f"?batch&channel={channel}&after={cursor}") as ws:
            assert [m["data"] for m in await ws.publications(50, channel)] == list(range(50))


@ENCODINGS
async def test_in_band_errors_leave_the_connection_open(server, binary):
    channel = name()
    cases = [
        ({"type": "subscribe", "channel": channel}, "already_subscribed"),
        ({"type": "unsubscribe", "channel": name()}, "not_subscribed"),
        ({"type": "subscribe", "channel": name(), "after": "garbage"}, "bad_cursor"),
        ({"type": "publish", "channel": name(), "data": "t" * 65_537}, "payload_too_large"),
        ({"type": "publish", "channel": name("state"), "data": 1, "key": "k" * 256}, "bad_key"),
        ({"type": "publish", "channel": name(), "data": 1, "id": "i" * 65}, "bad_id"),
        ({"type": "publish", "channel": name("signal"), "data": 1, "ttl_ms": 60_001}, "bad_ttl"),
        ({"type": "publish", "channel": name(), "data": 1, "priority": 16}, "bad_priority"),
        ({"type": "publish", "channel": name("signal"), "data": 1, "priority": 16}, "bad_priority"),
        ({"type": "publish", "channel": name("state"), "data": 1, "priority": 0}, "bad_priority"),
    ]
    async with open_ws(server, binary) as ws:
        await ws.subscribe(channel)
        for ref, (message, code) in enumerate(cases, 100):
            answer = await ws.ask(ref=ref, **message)
            assert answer["type"] == "error" and answer["error"]["code"] == code, (message, answer)
            assert answer["error"]["message"], answer
        await ws.barrier()


@pytest.mark.parametrize(
    "text",
    ["{", "", "nonsense", "[]", "1", "null", '"ping"', "{}", '{"type":7}', '{"type":"no-such-type"}', '{"type":"subscribe"}', '{"type":"publication","channel":"event:x","data":1}', '{"type":"ping","ref":0}', '{"type":"ping","ref":-1}', '{"type":"ping","ref":4294967296}', '{"type":"publish","channel":"event:x"}', '{"type":"publish","channel":"event:x","data":1,"b64":"AA=="}'],
)
async def test_malformed_json_messages(server, text):
    async with open_ws(server) as ws:
        await ws.connection.send(text)
        answer = await ws.recv("the error")
        assert answer["type"] == "error" and answer["error"]["code"] and answer["error"]["message"], answer
        await ws.barrier()


async def test_unknown_members_are_ignored(server):
    async with open_ws(server) as ws:
        answer = await ws.ask(type="ping", ref=3, later={"a": [1]})
        assert answer == {"type": "pong", "ref": 3}


BAD_FRAMES = {
    "empty": b"",
    "unknown type": b"\x7f\x01",
    "a server's frame": fulmar_bin.encode({"frame": "published", "ref": 1, "channel": "c", "epoch": "e", "offset": 1}),
    "cut short": b"\x21\x01\x05ev",
    "length beyond the end": b"\x21\x01\xff\xff\xff\xff\xff\xff\xff\xff",
    "bytes left over": b"\x09\x01\x00",
    "flags that must be 0": fulmar_bin.encode({"frame": "publish", "ref": 1, "channel": "event:x", "extra_flags": 0x40}),
    "payload kind 3": fulmar_bin.encode({"frame": "publish", "ref": 1, "channel": "event:x", "extra_flags": 0x03}),
    "kind of start 3": b"\x21\x01\x07event:x\x03",
    "channel not UTF-8": b"\x22\x01\x02\xff\xfe",
    "text not UTF-8": b"\x23\x01\x01\x07event:x\xff",
    "JSON not JSON": b"\x23\x01\x02\x07event:x{",
}


@pytest.mark.parametrize("what", BAD_FRAMES)
async def test_malformed_binary_messages(server, what):
    """Answered with an error, and the connection goes on."""
    async with open_ws(server, binary=True) as ws:
        await ws.connection.send(BAD_FRAMES[what])
        answer = await ws.recv("the error")
        assert answer["type"] == "error" and answer["error"]["code"] and answer["error"]["message"], answer
        await ws.barrier()


async def test_limit_of_subscriptions(server):
    async with open_ws(server) as ws:
        prefix = name()
        for n in range(128):
            await ws.subscribe(f"{prefix}-{n}")
        answer = await ws.ask(type="subscribe", channel=f"{prefix}-128")
        assert answer["type"] == "error" and answer["error"]["code"] == "too_many_subscriptions", answer
        await ws.ask(type="unsubscribe", channel=f"{prefix}-0")
        await ws.subscribe(f"{prefix}-128")


@ENCODINGS
async def test_pings_of_the_protocol_and_of_websocket(server, binary):
    async with open_ws(server, binary) as ws:
        assert await ws.ask(type="ping", ref=2**32 - 1) == {"type": "pong", "ref": 2**32 - 1}
        async with within(15, "the WebSocket pong with the ping's payload"):
            await (await ws.connection.ping(b"payload"))
        await ws.connection.pong(b"unsolicited")
        await ws.barrier()


async def test_fragmented_messages(server):
    channel = name()
    text = json.dumps({"type": "publish", "ref": 1, "channel": channel, "data": "grüße"}, ensure_ascii=False)
    async with open_ws(server) as ws:
        await ws.subscribe(channel)
        await ws.connection.send([text[:1], text[1:20], "", text[20:-4], text[-4:]])
        await ws.until("published", ref=1)
        publication = next((m for m in ws.kept if m["type"] == "publication"), None) or await ws.until("publication")
        assert publication["data"] == "grüße"
    async with open_ws(server, binary=True) as ws:
        frame = fulmar_bin.from_json({"type": "publish", "ref": 1, "channel": channel, "b64": b64(bytes(5_000))})
        await ws.connection.send([frame[:3], frame[3:4_000], frame[4_000:]])
        await ws.until("published", ref=1)


async def test_a_ping_between_fragments(server):
    headers = [("Host", f"127.0.0.1:{server.port}"), *raw.UPGRADE]
    async with await raw.Connection.open(server.port) as connection:
        await connection.request("GET", "/ws", headers)
        assert (await connection.head()).status_code == 101
        parts = [raw.ws_frame(1, b'{"type":"pi', fin=False), raw.ws_frame(9, b"between"), raw.ws_frame(0, b'ng","ref":5}')]
        connection.writer.write(b"".join(parts))
        frames = [await next_frame(connection) for _ in range(2)]
    assert [(opcode, payload) for opcode, payload in frames if opcode == 10] == [(10, b"between")], frames
    assert [json.loads(payload) for opcode, payload in frames if opcode == 1] == [{"type": "pong", "ref": 5}], frames


async def next_frame(connection):
    buffer = getattr(connection, "ws_buffer", b"")
    async with within(15, "a WebSocket frame or the end of the connection"):
        while (parsed := raw.ws_unframe(buffer)) is None:
            try:
                data = await connection.reader.read(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            buffer += data
    opcode, _, payload, connection.ws_buffer = parsed
    return opcode, payload


@pytest.mark.parametrize(
    "frame,code",
    [
        (raw.ws_frame(1, b'{"type":"ping","ref":1}', mask=False), 1002),
        (raw.ws_frame(1, b'{"type":"ping","ref":1}', rsv=4), 1002),
        (raw.ws_frame(3, b""), 1002),
        (raw.ws_frame(9, b"p" * 126), 1002),
        (raw.ws_frame(0, b"nothing to continue"), 1002),
        (raw.ws_frame(1, b"\xff\xfe"), 1007),
    ],
    ids=["unmasked", "reserved bit", "reserved opcode", "long ping", "stray continuation", "text not UTF-8"],
)
async def test_broken_websocket_frames_end_the_connection(server, frame, code):
    headers = [("Host", f"127.0.0.1:{server.port}"), *raw.UPGRADE]
    async with await raw.Connection.open(server.port) as connection:
        await connection.request("GET", "/ws", headers)
        assert (await connection.head()).status_code == 101
        connection.writer.write(frame + raw.ws_frame(1, b'{"type":"ping","ref":2}'))
        answers = []
        while (answer := await next_frame(connection)) is not None:
            answers.append(answer)
    assert not [a for a in answers if a[0] in (1, 2, 10) and b"pong" in a[1]], f"the connection went on: {answers}"
    assert [int.from_bytes(payload[:2], "big") for opcode, payload in answers if opcode == 8] == [code], answers


async def test_the_largest_message_is_taken(server):
    async with open_ws(server) as ws:
        message = '{"type":"ping","ref":1,"pad":"' + "x" * 131_072
        message = message[: 131_072 - 2] + '"}'
        await ws.connection.send(message)
        assert await ws.recv() == {"type": "pong", "ref": 1}


@ENCODINGS
@pytest.mark.parametrize("fragments", [1, 4])
async def test_a_message_too_large(server, binary, fragments):
    async with open_ws(server, binary) as ws:
        size = 131_073
        whole = bytes(size) if binary else "x" * size
        step = size // fragments + 1
        try:
            await ws.connection.send(whole if fragments == 1 else [whole[i : i + step] for i in range(0, size, step)])
        except websockets.ConnectionClosed:
            pass  # The server may close before it has read the whole; the code is what counts.
        assert (await ws.closed())[0] == 1009


@pytest.mark.parametrize("code,reason", [(1000, ""), (1000, "done"), (1001, ""), (4000, "x"), (4123, "eigener Grund"), (4999, "")])
async def test_close_is_answered_with_the_clients_code(server, code, reason):
    async with open_ws(server) as ws:
        await ws.connection.close(code, reason)
        assert (await ws.closed())[0] == code


async def test_a_connection_that_just_drops_is_no_harm(server):
    channel = name()
    async with server.http() as http:
        async with open_ws(server) as ws:
            await ws.subscribe(channel)
            ws.connection.transport.abort()
        async with open_ws(server) as ws:
            await ws.subscribe(channel)
            await publish(http, channel, 1)
            await ws.publications(1)
