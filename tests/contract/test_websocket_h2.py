"""WebSocket by HTTP/2 extended CONNECT (RFC 8441)."""

import json

import pytest
from h2ws import CLOSE, H2, PING, PONG, TEXT
from raw import ws_frame
from server import name, publish

ENCODINGS = pytest.mark.parametrize("subprotocol", ["fulmar.v1.json", "fulmar.v1.bin"])


async def test_the_server_offers_it(server):
    async with H2(server) as connection:
        assert connection.enables_connect_protocol(), "SETTINGS_ENABLE_CONNECT_PROTOCOL is not 1"


@ENCODINGS
async def test_subscribe_and_publish(server, subprotocol):
    channel = name()
    async with server.http() as http, H2(server) as connection:
        ws = await connection.websocket(subprotocol=subprotocol)
        assert ws.status_code == 200, ws.headers
        assert ws.headers.get("sec-websocket-protocol") == subprotocol, ws.headers
        answer = await ws.ask(type="subscribe", channel=channel)
        assert answer["type"] == "subscribed", answer
        epoch, offset = await publish(http, channel, "over HTTP/2")
        got = await ws.until("publication")
        assert (got["channel"], got["epoch"], got["offset"], got["data"]) == (channel, epoch, offset, "over HTTP/2")
        answer = await ws.ask(type="publish", channel=channel, data="back")
        assert answer["type"] == "published", answer


async def test_no_subprotocol_is_json(server):
    async with H2(server) as connection:
        ws = await connection.websocket(subprotocol=None)
        assert ws.status_code == 200 and "sec-websocket-protocol" not in ws.headers, ws.headers
        assert (await ws.ask(type="ping", ref=1)) == {"type": "pong", "ref": 1}


async def test_several_on_one_connection(server):
    channels = [name() for _ in range(5)]
    async with server.http() as http, H2(server) as connection:
        sockets = [await connection.websocket(path=f"/ws?channel={c}") for c in channels]
        for ws in sockets:
            assert (await ws.ask(type="ping"))["type"] == "pong"
        for n, channel in enumerate(channels):
            await publish(http, channel, n)
        for n, ws in enumerate(sockets):
            got = await ws.until("publication")
            assert (got["channel"], got["data"]) == (channels[n], n)


async def test_ping_fragments_and_close(server):
    async with H2(server) as connection:
        ws = await connection.websocket()
        ws.write(ws_frame(PING, b"payload"))
        assert await ws.frame("the pong") == (PONG, b"payload")
        ws.write(ws_frame(TEXT, b'{"type":"ping",', fin=False))
        ws.write(ws_frame(0, b'"ref":9}'))
        opcode, payload = await ws.frame("the answer to a fragmented message")
        assert (opcode, json.loads(payload)) == (TEXT, {"type": "pong", "ref": 9})
        ws.write(ws_frame(CLOSE, (4321).to_bytes(2, "big") + b"bye"))
        opcode, payload = await ws.frame("the close frame")
        assert (opcode, payload[:2]) == (CLOSE, (4321).to_bytes(2, "big"))
        assert await ws.frame("the end of the stream") is None
        # The connection itself goes on.
        again = await connection.websocket()
        assert (await again.ask(type="ping", ref=1))["type"] == "pong"


async def test_large_payloads_pass_flow_control(server):
    """More than one HTTP/2 window in each direction."""
    channel = name()
    async with server.http() as http, H2(server) as connection:
        ws = await connection.websocket(subprotocol="fulmar.v1.json")
        assert (await ws.ask(type="subscribe", channel=channel))["type"] == "subscribed"
        for n in range(10):
            await publish(http, channel, str(n) * 60_000)
        for n in range(10):
            assert (await ws.until("publication"))["data"] == str(n) * 60_000


async def test_a_message_too_large(server):
    async with H2(server) as connection:
        head = b"\x82\xff" + (131_073).to_bytes(8, "big") + bytes(4)
        ws = await connection.websocket(subprotocol="fulmar.v1.bin")
        ws.write(head + bytes(1_000))
        opcode, payload = await ws.frame("the close frame")
        assert (opcode, payload[:2]) == (CLOSE, (1009).to_bytes(2, "big"))


async def test_unknown_subprotocol(server):
    async with H2(server) as connection:
        ws = await connection.websocket(subprotocol="graphql-ws")
        assert ws.status_code == 400, ws.headers
        assert json.loads(await ws.body())["error"]["code"] == "unknown_subprotocol"
