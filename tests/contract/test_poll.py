"""GET /poll: waiting, pages and snapshots (PROTOCOL.md section 7)."""

import asyncio
import time

import cursors
import pytest
from server import View, check_error, name, offsets, poll, poll_all, publish, within


async def test_the_first_answer_is_empty_and_gives_a_cursor(server):
    channel = name()
    async with server.http() as http:
        await publish(http, channel, "before")
        answer = await poll(http, channel)
        assert (answer["publications"], answer["more"]) == ([], False), answer
        assert set(cursors.parse(answer["cursor"])) == {cursors.fnv1a(channel)}
        await publish(http, channel, "after")
        again = await poll(http, channel, after=answer["cursor"])
        assert [p["data"] for p in again["publications"]] == ["after"]
        assert (await poll(http, channel, after=again["cursor"]))["publications"] == []


@pytest.mark.parametrize("wait", [{}, {"wait": "0"}], ids=["absent", "0"])
async def test_no_wait_answers_at_once(server, wait):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        async with within(15, "an answer to a poll that does not wait"):
            assert (await poll(http, channel, after=cursor, **wait))["publications"] == []


async def test_a_wait_lasts_until_its_time_is_over(server):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        began = time.monotonic()
        answer = await poll(http, channel, after=cursor, wait="1")
        assert time.monotonic() - began >= 0.9, "a wait of one second ended early"
        assert (answer["publications"], answer["more"]) == ([], False)
        await publish(http, channel, "later")
        assert [p["data"] for p in (await poll(http, channel, after=answer["cursor"]))["publications"]] == ["later"]


async def test_a_publication_ends_the_wait(server):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        for n in range(5):
            waiting = asyncio.create_task(poll(http, channel, after=cursor, wait="30"))
            await publish(http, channel, n)
            async with within(15, "the answer that a publication ends"):
                answer = await waiting
            assert [p["data"] for p in answer["publications"]] == [n]
            cursor = answer["cursor"]


async def test_more_than_30_counts_as_30(server):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        await publish(http, channel, 1)
        for wait in ("31", "3600", "1e9"):
            assert len((await poll(http, channel, after=cursor, wait=wait))["publications"]) == 1, wait


async def test_several_channels_in_one_answer(server):
    channels = [name() for _ in range(32)]
    async with server.http() as http:
        cursor = (await poll(http, *channels))["cursor"]
        assert len(cursor) <= 2_048, len(cursor)
        for n, channel in enumerate(channels):
            await publish(http, channel, n)
        answer = await poll_all(http, *reversed(channels), after=cursor)
        assert sorted((p["channel"], p["data"]) for p in answer["publications"]) == sorted(zip(channels, range(32)))
        assert len(answer["cursor"]) <= 2_048
        assert (await poll(http, *channels, after=answer["cursor"]))["publications"] == []


async def test_a_cursor_may_name_more_or_fewer_channels(server):
    here, there = name(), name()
    async with server.http() as http:
        both = (await poll(http, here, there))["cursor"]
        only = (await poll(http, here))["cursor"]
        await publish(http, here, "here")
        await publish(http, there, "there")
        assert [p["data"] for p in (await poll(http, here, after=both))["publications"]] == ["here"]
        # The channel that the cursor does not name starts from now on.
        assert [p["data"] for p in (await poll(http, here, there, after=only))["publications"]] == ["here"]


async def test_backlog_above_1_mib_comes_in_pages(server):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        published = [(await publish(http, channel, f"{n}:" + "x" * 60_000))[1] for n in range(45)]
        first = await poll(http, channel, after=cursor)
        assert first["more"] and 0 < len(first["publications"]) < 45
        answer = await poll_all(http, channel, after=cursor)
    assert offsets(answer["publications"]) == published
    assert answer["pages"] >= 3 and not answer["control"], (answer["pages"], answer["control"])


async def test_escapes_count_towards_the_page(server):
    """Control characters are six bytes each in JSON."""
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        published = [(await publish(http, channel, "\x01" * 20_000))[1] for n in range(20)]
        answer = await poll_all(http, channel, after=cursor)
    assert offsets(answer["publications"]) == published


async def snapshot(http, channel, keys, size=50_000):
    return {f"k{n}": (await publish(http, channel, f"{n}:" + "x" * size, key=f"k{n}"))[1] for n in range(keys)}


async def test_a_large_snapshot_comes_in_pages_and_is_complete(server):
    channel = name("state")
    async with server.http() as http:
        held = await snapshot(http, channel, 60)
        answer = await poll_all(http, channel)
    assert answer["pages"] >= 3
    assert {p["key"]: p["offset"] for p in answer["publications"]} == held
    assert offsets(answer["publications"]) == sorted(held.values()), "values come in the order of their offsets"
    assert [c["type"] for c in answer["control"]] == ["reset", "synced"], answer["control"]
    assert answer["control"][1]["offset"] >= max(held.values())


async def test_a_large_snapshot_ends_while_its_keys_change(server):
    """Each page is followed by as many changes as it held values; paging must end all the same, and miss nothing."""
    channel, view = name("state"), View()
    async with server.http() as http:
        await snapshot(http, channel, 60)
        newest = {f"k{n}": None for n in range(60)}
        turn, cursor, synced_at = 0, {}, None
        for page in range(1, 61):
            answer = await poll(http, channel, **cursor)
            view.poll(answer)
            cursor = {"after": answer["cursor"]}
            if view.synced:
                synced_at = page
                break
            for _ in range(max(20, len(answer["publications"]))):
                key = f"k{turn % 60}"
                newest[key] = f"changed {turn} " + "y" * 50_000
                await publish(http, channel, newest[key], key=key)
                turn += 1
        assert synced_at, "no synced after 60 pages: the snapshot runs away before its reader"
        assert view.resets == 1, "the snapshot began anew"
        rest = await poll_all(http, channel, **cursor)
        view.poll(rest)
    assert {k: v for k, v in view.values().items() if v[:7] == "changed"} == {k: v for k, v in newest.items() if v}
    assert set(view.values()) == set(newest)


async def test_a_key_removed_during_a_snapshot_is_gone_at_its_end(server):
    channel, view = name("state"), View()
    async with server.http() as http:
        await snapshot(http, channel, 60)
        answer = await poll(http, channel)
        assert answer["more"], "the snapshot should not fit in one answer"
        view.poll(answer)
        for key in ("k0", "k59"):
            await publish(http, channel, removed=True, key=key)
        view.poll(await poll_all(http, channel, after=answer["cursor"]))
    assert view.synced and set(view.values()) == {f"k{n}" for n in range(1, 59)}


async def test_events_and_state_in_one_answer(server):
    events, state = name(), name("state")
    async with server.http() as http:
        await publish(http, state, "held", key="k")
        first = await poll(http, events, state)
        assert [(c["type"], c["channel"]) for c in first["control"]] == [("reset", state), ("synced", state)]
        assert [p["data"] for p in first["publications"]] == ["held"]
        await publish(http, events, "event")
        await publish(http, state, "changed", key="k")
        second = await poll(http, events, state, after=first["cursor"])
    assert sorted(p["data"] for p in second["publications"]) == ["changed", "event"]
    assert second["control"] == []


async def test_control_has_positions(server):
    channel = name("state")
    async with server.http() as http:
        epoch, offset = await publish(http, channel, 1)
        control = (await poll(http, channel))["control"]
    for entry in control:
        assert (entry["channel"], entry["epoch"]) == (channel, epoch) and isinstance(entry["offset"], int), control
    assert control[-1]["type"] == "synced" and control[-1]["offset"] >= offset


async def test_answers_are_not_cached(server):
    async with server.http() as http:
        response = await http.get("/poll", params={"channel": name()})
    assert response.headers["content-type"].startswith("application/json")
    assert {"no-store", "no-cache"} & {p.strip() for p in response.headers.get("cache-control", "").split(",")}, response.headers


async def test_ticket_that_does_not_exist(server):
    async with server.http() as http:
        check_error(await http.get("/poll", params={"channel": name(), "ticket": "no-such-ticket"}), 401, "bad_ticket")
