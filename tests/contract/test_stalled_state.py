"""State over TCP: one current value per key. A reader that stops and comes back finds present values and no backlog: what the
buffers on the way hold, however much was published meanwhile (limits.rs, "stale")."""

import asyncio
import json
import socket
import ssl
import threading

import certificate
import pytest
from server import DEADLINE, Server, name, poll
from stalled import RECEIVE_BUFFER, UNSENT, VALUE, EventStream, Http2EventStream, Http2EventStreamWithoutWindow, SecureWebSocket, WebSocket
from ws import open_ws

TRANSPORTS = {
    "WebSocket": WebSocket,
    "WebSocket over TLS": SecureWebSocket,
    "SSE over HTTP/1.1": EventStream,
    "SSE over HTTP/2": Http2EventStream,
    "SSE over HTTP/2, no window": Http2EventStreamWithoutWindow,
}
NAMESPACES = "[namespaces.state]\nclass = 'state'\nsubscribe = true\npublish = true\n"


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stalled")
    certificate.make(folder, "127.0.0.1")
    (folder / "fulmar.toml").write_text(NAMESPACES)
    running = Server(
        "--config", str(folder / "fulmar.toml"), "--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")
    )
    yield running
    running.stop()


def publisher(server):
    if server.scheme == "http":
        return open_ws(server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return open_ws(server, ssl=context)


async def stall(server, transport, keys, count, size=VALUE):
    """Publishes 1 to `count`, to each of `keys` in turn, while a reader has stopped; then reads on until it has the newest of
    every key. The numbers and keys it got from then on, how many bytes that took, and how many can have been on their way."""
    channel, padding = name("state"), "x" * size
    newest = {f"k{n % keys}": n for n in range(1, count + 1)}
    async with publisher(server) as ws:
        reader = await asyncio.to_thread(TRANSPORTS[transport], server, channel)
        try:
            await asyncio.to_thread(reader.until, "synced")
            published, reading = threading.Event(), None
            if isinstance(reader, Http2EventStreamWithoutWindow):
                reading = asyncio.create_task(asyncio.to_thread(reader.stop, published))
            try:
                await ws.publish_many([{"channel": channel, "key": f"k{n % keys}", "data": [n, padding]} for n in range(1, count + 1)])
            finally:
                published.set()
                if reading:
                    await reading
            before, held, got = reader.count, {}, []

            def read_on():
                while held != newest:
                    message = reader.next()
                    assert message["type"] == "publication", message
                    key, number = message["key"], message["data"][0]
                    assert number > held.get(key, 0), f"{number} of {key} after {held[key]}"
                    held[key] = number
                    got.append((key, number))

            async with asyncio.timeout(DEADLINE):
                await asyncio.to_thread(read_on)
            return got, reader.count - before, reader.bound()
        finally:
            reader.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_backlog_of_a_reader_that_stopped_does_not_grow(server, secure, transport):
    where = secure if "TLS" in transport else server
    backlogs = []
    for count in (2_000, 20_000):
        got, size, bound = await stall(where, transport, 1, count)
        backlogs.append(size)
        newest = VALUE + 512
        assert size <= bound + newest, f"{size} bytes came, {len(got) - 1} stale values; {bound} can have been on their way"
        assert (len(got) - 1) * VALUE <= bound, f"{got}: stale values, and the newest"
    assert max(backlogs) <= 1.5 * min(backlogs) + UNSENT / 2, f"2,000 and 20,000 publications left {backlogs} bytes"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_of_each_of_many_keys_the_newest_comes(server, secure, transport):
    where = secure if "TLS" in transport else server
    count, value = 5_000, 1_024
    got, size, bound = await stall(where, transport, 100, count, value)
    assert size <= bound + 100 * (value + 512), f"{size} bytes, of which {bound} can have been on their way"
    # The newest values come once each, and in the order of their offsets.
    assert [number for _, number in got if number > count - 100] == list(range(count - 99, count + 1))


async def test_a_poll_that_is_not_read_is_one_answer_of_its_time(server):
    channel = name("state")
    backlogs = []
    for count in (2_000, 20_000):
        async with open_ws(server) as ws, server.http() as http:
            await ws.publish_many([{"channel": channel, "key": f"k{n}", "data": "x" * 2_000} for n in range(100)])
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            plain.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(plain, ("127.0.0.1", server.port))
            reader, writer = await asyncio.open_connection(sock=plain, limit=RECEIVE_BUFFER)
            try:
                head = f"Host: 127.0.0.1:{server.port}\r\n\r\n"
                writer.write(f"GET /poll?channel={channel} HTTP/1.1\r\n{head}".encode())
                # The answer has begun, so it has been made.
                async with asyncio.timeout(DEADLINE):
                    numbers = [{"channel": channel, "key": f"k{n % 100}", "data": n} for n in range(1, count + 1)]
                    answer = await read_answer(reader, stop=lambda: ws.publish_many(numbers))
                assert {p["data"] for p in answer["publications"]} == {"x" * 2_000}, "it is of the time when it was asked for"
                assert len(answer["publications"]) == 100
                again = await poll(http, channel, after=answer["cursor"])
                assert [p["data"] for p in again["publications"]] == list(range(count - 99, count + 1))
                backlogs.append(sum(len(p["data"]) for p in answer["publications"]))
            finally:
                writer.close()
    assert backlogs[0] == backlogs[1], backlogs


async def read_answer(reader, stop):
    """A poll's answer over HTTP/1.1; `stop` is awaited when its head has come."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    await stop()
    return json.loads(await reader.readexactly(length))
