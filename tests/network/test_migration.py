"""Clients whose address changes, behind their backs or not, while they receive."""

import asyncio
import time

import pytest
from namespaces import CLIENT_NET, ROUTER, ROUTER_TOO
from server import within
from watch import WAIT, watching

STACKS = ["aioquic", "quinn"]
BEFORE, AFTER = (20_000, 20_999), (30_000, 30_999)
# How long the path is dead between two addresses.
DEAD = 2
BURST, SIZE = 400, 50_000
# QUIC's idle timeout, and some.
IDLE = 45


def ports(bounds):
    return "{}-{}".format(*bounds)


def path_of(watch):
    """The one path that the server knows of."""
    paths = watch.network.paths()
    assert len(paths) == 1, f"more than one path before the address changed: {paths}"
    return next(iter(paths))


async def goes_on_at(watch, old, address, bounds=None):
    """The server sends to a new path and no longer to the old one, and no connection was begun on the new one."""
    now = watch.network.paths()
    new = [path for path in now if path != old]
    assert [path[0] for path in new] == [address], f"wanted one new path, from {address}: {now}"
    new = new[0]
    assert bounds is None or bounds[0] <= new[1] <= bounds[1], now
    await watch.flowing()
    later = watch.network.paths()
    assert later.keys() == now.keys() and later[old] == now[old], f"the server still uses {old}: {now}, then {later}"
    arrived, begun, left = later[new]
    assert arrived > now[new][0] and left > now[new][2], f"the server does not use {new}: {now}, then {later}"
    assert begun == 0, f"a connection was begun at {new}: {later}"
    return new


async def validated(watch, stack, began, since):
    """Where the client can tell: the server validated the path, but not before `began`; how long after `since`, in words."""
    if stack != "aioquic":
        return ""
    responses = await watch.ask("responses")
    assert responses and responses[0] > began, f"path responses at {responses}, the address changed after {began}"
    # An acknowledgement that was due can open the path while the change is still being made.
    return f", path validated after {max(0, responses[0] - since) * 1000:.0f} ms"


@pytest.mark.parametrize("stack", STACKS)
async def test_the_client_has_a_new_address(network, server, table, stack):
    async with watching(network, server, stack) as watch:
        await watch.begin()
        await watch.flowing()
        old, sockets = path_of(watch), network.sockets(watch.peer.process.pid)
        assert old[0] == network.address
        assert len(sockets) == 1 and sockets[0] in (f"*:{old[1]}", f"[::]:{old[1]}", f"0.0.0.0:{old[1]}"), f"{sockets}, of {old}"
        began = time.monotonic()
        address = network.move()
        changed = time.monotonic()
        async with watch.speaking():
            took = await watch.next_event(changed)
        assert await goes_on_at(watch, old, address) == (address, old[1])
        assert network.sockets(watch.peer.process.pid) == sockets
        count = await watch.settled()
        validation = await validated(watch, stack, began, changed)
    table("another address of the client", stack, f"next event after {took * 1000:.0f} ms{validation}; {count} events")


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("what", "address"), [("port", ROUTER), ("address", ROUTER_TOO)])
async def test_the_translator_forgets(network, server, table, stack, what, address):
    network.translate(ROUTER, ports(BEFORE))
    async with watching(network, server, stack) as watch:
        await watch.begin()
        await watch.flowing()
        old = path_of(watch)
        assert old[0] == ROUTER and BEFORE[0] <= old[1] <= BEFORE[1], old
        began = time.monotonic()
        network.translate(address, ports(AFTER))
        changed = time.monotonic()
        async with watch.speaking():
            took = await watch.next_event(changed)
        await goes_on_at(watch, old, address, AFTER)
        count = await watch.settled()
        validation = await validated(watch, stack, began, changed)
    table(f"another {what} of the translator", stack, f"next event after {took * 1000:.0f} ms{validation}; {count} events")


@pytest.mark.parametrize("stack", STACKS)
async def test_a_backlog_survives_a_dead_path(network, server, table, stack):
    async with watching(network, server, stack) as watch:
        watch.burst = BURST
        places = await watch.publisher.ask("burst", events=watch.events, count=BURST, size=SIZE)
        await watch.ask("subscribe", channel=watch.state)
        await watch.until(channel=watch.state, synced=True)
        await watch.publish()
        await watch.ask("subscribe", channel=watch.events, position=places["first"] | {"offset": places["first"]["offset"] - 1})
        await watch.until(publications=10)
        network.cut()
        died = time.monotonic()
        old = path_of(watch)
        address = network.move()
        async with watch.speaking():
            # How long the path is dead is what is tested.
            await asyncio.sleep(died + DEAD - time.monotonic())
            before = (await watch.digest())["count"]
            assert before < BURST, f"{before} of {BURST} events came before the path was dead"
            network.mend()
            mended = time.monotonic()
            await watch.until(publications=before + 1)
            took = time.monotonic() - mended
        whole = await watch.next_event(mended)
        await goes_on_at(watch, old, address)
        count = await watch.settled()
        validation = await validated(watch, stack, died, mended)
    said = f"next event {took * 1000:.0f} ms after the path was back, all {BURST - before} of the backlog after {whole * 1000:.0f} ms{validation}; {count} events"
    table(f"dead for {DEAD} s, and another address", stack, said)


def new_address(network):
    network.move()


def new_translation(network):
    network.translate(ROUTER_TOO, ports(AFTER))


@pytest.mark.parametrize(("what", "change"), [("another address of the client", new_address), ("another address of the translator", new_translation)])
async def test_a_websocket_has_to_come_back(network, server, table, what, change):
    if change is new_translation:
        network.translate(ROUTER, ports(BEFORE))
    async with watching(network, server, "websockets", "websocket") as watch:
        opening = {"transport": "websocket", "channels": [watch.events, watch.state]}
        await watch.ask("open", **opening)
        await watch.until(channel=watch.state, synced=True)
        await watch.publish()
        await watch.flowing()
        change(network)
        changed = time.monotonic()
        why = (await watch.ask("closed", timeout=WAIT * 1000))["reason"]
        lost = time.monotonic() - changed
        had, published = (await watch.digest())["count"], await watch.last()
        assert had < published, f"all of {published} events came over a connection that was lost"
        cursor = (await watch.ask("cursor"))["cursor"]
        watch.id = "second"
        await watch.ask("open", continues="first", after=cursor, **opening)
        took = await watch.next_event(changed)
        # The server may not yet know that the first connection is gone.
        count = await watch.settled(sessions=(1, 2))
    table(what, "WebSocket", f"lost after {lost * 1000:.0f} ms ({why}); next event after {took * 1000:.0f} ms, {published - had} missed and replayed; {count} events")


async def test_without_an_address_the_session_ends(network, server, table):
    """The other tests would notice if nothing had gone on."""
    async with watching(network, server, "aioquic") as watch, watching(network, server, "quinn") as other:
        for one in (watch, other):
            await one.begin()
            await one.flowing()
        assert (await watch.publisher.ask("stats"))["sessions"] == 2
        network.leave()
        left = time.monotonic()

        async def ends(one):
            why = (await one.ask("closed", timeout=IDLE * 1000))["reason"]
            return f"ended after {time.monotonic() - left:.0f} s ({why})"

        said = await asyncio.gather(ends(watch), ends(other))
        async with within(WAIT, "the server to end both sessions"):
            while (await watch.publisher.ask("stats"))["sessions"]:
                await asyncio.sleep(0.1)
        had, published = (await watch.digest())["count"], await watch.last()
        assert had < published, f"all of {published} events came to a client without an address"
        for stack, what in zip(STACKS, said):
            table("no address any more", stack, what)
