"""Clients that stop reading for a while, and the server that tests of them run against."""

import contextlib

from server import offsets, publish, start_configured

KEY = "a-key-of-more-than-16-characters"
#: `short` skips to what is held, `strict` disconnects, `value` conflates. Each holds ten publications at most.
CONFIGURATION = """
[api]
key_file = "{key_file}"
[namespaces.event]
class = "event"
subscribe = true
publish = true
[namespaces.short]
class = "event"
count = 10
subscribe = true
publish = true
[namespaces.strict]
class = "event"
count = 10
overflow = "disconnect"
subscribe = true
publish = true
[namespaces.value]
class = "state"
count = 10
subscribe = true
publish = true
"""
HELD = 10
SIZE = 60_000
#: More than the buffers of any connection hold, so that reading stops inside the server.
COUNT = 160


def start(folder):
    return start_configured(folder, CONFIGURATION, KEY)


def api(server):
    return server.http(headers={"authorization": f"Bearer {KEY}"})


async def stats(server):
    async with api(server) as http:
        return (await http.get("/api/stats")).json()


@contextlib.contextmanager
def away(client):
    """A QUIC client hears nothing and says nothing for a while."""
    client.datagram_received = lambda data, address: None
    client.transmit = lambda: None
    yield
    del client.datagram_received, client.transmit


@contextlib.contextmanager
def stopped(transport):
    """A TCP client takes nothing for a while."""
    transport.pause_reading()
    yield
    transport.resume_reading()


async def flood(server, channel, witnesses, count=COUNT):
    """Publishes more than anybody's buffers hold, no faster than the witnesses take it, of values the newest; the offsets of all."""
    published = []
    async with api(server) as http:
        while len(published) < count:
            for _ in range(HELD // 2):
                published.append((await publish(http, channel, "x" * SIZE))[1])
            for witness in witnesses:
                if channel.startswith("value"):
                    await witness.until("publication", offset=published[-1])
                else:
                    assert offsets(await witness.publications(HELD // 2, channel)) == published[-HELD // 2 :], "a witness noticed"
    return published
