"""A hundred well-behaved sessions in a process of their own, and what they see of one channel while others offend.

    witnesses.py PORT   (commands on standard input, one line of JSON on standard output for each)

    begin   a section begins with the next event: {"began": n}
    end     it is over; once everybody has its events, or the patience is over: the section's report
    stop    the process ends

An event carries the moment at which it was due on the machine's monotonic clock, so what holds up the publisher counts as
lateness too. Nothing is forgiven: a gap, an event twice, one out of order or one that never came is in the report.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "contract")]

import raw  # noqa: E402
import wt  # noqa: E402
from urllib.parse import urlencode  # noqa: E402

CHANNEL = "event:witnessed"
RATE = 20
KINDS = {"ws-json": 30, "ws-bin": 30, "sse": 15, "poll": 13, "webtransport": 12}
PATIENCE = 10


@dataclasses.dataclass
class Target:
    """As much of `server.Server` as the clients need."""

    port: int

    @property
    def base(self):
        return f"http://127.0.0.1:{self.port}"

    def http(self):
        import httpx

        return httpx.AsyncClient(base_url=self.base, timeout=40, trust_env=False)


class Witness:
    def __init__(self, kind, number, events):
        self.name, self.kind, self.events = f"{kind} {number}", kind, events
        self.seen = 0
        self.faults = []
        self.ready = asyncio.Event()

    def take(self, message):
        """One message of the server's about the channel."""
        kind = message.get("type", "publication")
        if kind != "publication":
            if kind in ("gap", "reset", "close", "error"):
                self.faults.append(f"{self.name}: {json.dumps(message)}")
            return
        n, due = message["data"]["n"], message["data"]["due"]
        if n != self.seen + 1:
            self.faults.append(f"{self.name}: event {n} came after {self.seen}")
        self.seen = max(self.seen, n)
        self.events.arrived(n, time.monotonic() - due, self.kind)

    def fail(self, why):
        self.faults.append(f"{self.name}: {why}")
        self.ready.set()


class Events:
    """What was published, and how late each arrival was."""

    def __init__(self):
        self.published = 0
        self.refused = []
        self.latencies = {}
        self.lag = {}

    def arrived(self, n, latency, kind):
        self.latencies.setdefault(n, []).append((latency, kind))

    def forget(self, before):
        for n in [n for n in self.latencies if n < before]:
            del self.latencies[n]


async def websocket(target, witness, binary):
    from ws import open_ws

    async with open_ws(target, binary=binary, ping_interval=None) as connection:
        await connection.subscribe(CHANNEL)
        witness.ready.set()
        while True:
            message = await connection.connection.recv()
            witness.take(connection.codec.to_json(message) if binary else json.loads(message))


async def sse(target, witness):
    async with await raw.EventStream.open(target, CHANNEL) as stream:
        assert await stream.any_block("the first block of the event stream")
        witness.ready.set()
        while (message := await stream.message()) is not None:
            witness.take(message)
    witness.fail("the event stream ended")


async def poll(target, witness):
    async with await raw.Connection.open(target.port) as connection:
        after = {}  # nothing is awaited without a cursor
        while True:
            query = urlencode({"channel": CHANNEL} | after)
            await connection.request("GET", f"/poll?{query}", [("Host", f"127.0.0.1:{target.port}")])
            answer = await connection.answer()
            assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
            answer = answer.json()
            witness.ready.set()
            for message in answer["control"] + answer["publications"]:
                witness.take(message)
            after = {"after": answer["cursor"], "wait": "20"}


async def webtransport(target, witness):
    async with wt.open_wt(target) as session:
        control = session.open_stream()
        await control.barrier()
        stream = session.open_stream()
        await stream.subscribe(CHANNEL)
        witness.ready.set()

        async def answer_pings():
            while (message := wt.take(await control.inbox.get())) is not wt.ENDED:
                if message["type"] == "ping":
                    control.send(type="pong")

        answering = asyncio.create_task(answer_pings())
        try:
            while (message := wt.take(await stream.inbox.get())) is not wt.ENDED:
                witness.take(message)
        finally:
            answering.cancel()
    witness.fail("its stream ended")


async def serve(run, witness, *arguments):
    """Runs a witness to its end, which nobody asked for."""
    try:
        await run(*arguments)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it was, the report has to say it
        witness.fail(f"{type(error).__name__}: {error}")


async def publish(target, events):
    """Publishes at a steady rate without waiting for answers."""
    from ws import open_ws

    async with open_ws(target, ping_interval=None) as connection:

        async def read_answers():
            async for answer in connection.connection:
                if json.loads(answer)["type"] != "published":
                    events.refused.append(answer)

        reading = asyncio.create_task(read_answers())
        try:
            due = time.monotonic()
            while True:
                due += 1 / RATE
                await asyncio.sleep(max(0, due - time.monotonic()))
                events.published += 1
                await connection.send(type="publish", channel=CHANNEL, data={"n": events.published, "due": due}, ref=1)
        except Exception as error:  # noqa: BLE001 - goes into the report
            events.refused.append(f"the publisher ended: {type(error).__name__}: {error}")
        finally:
            reading.cancel()


async def watch_own_lag(events):
    """How late this process itself is, so that its own slowness can be told from the server's."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.02)
        events.lag[time.monotonic()] = time.monotonic() - began - 0.02


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


class Section:
    def __init__(self, events, witnesses):
        self.events, self.witnesses = events, witnesses
        self.first = events.published + 1
        self.began = time.monotonic()
        self.refused = len(events.refused)
        events.forget(self.first - 5 * RATE)

    async def report(self):
        last = self.events.published
        deadline = time.monotonic() + PATIENCE
        while any(w.seen < last for w in self.witnesses) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        faults = [fault for w in self.witnesses for fault in w.faults]
        faults += [f"{w.name}: event {last} had not come {PATIENCE} s later; the last was {w.seen}" for w in self.witnesses if w.seen < last]
        for witness in self.witnesses:
            witness.faults.clear()
        arrivals = [a for n in range(self.first, last + 1) for a in self.events.latencies.get(n, [])]
        latencies = sorted(latency for latency, _ in arrivals)
        worst = {}
        for latency, kind in arrivals:
            worst[kind] = max(latency, worst.get(kind, 0))
        lag = [lag for at, lag in self.events.lag.items() if at >= self.began]
        self.events.lag.clear()
        return {
            "events": last + 1 - self.first,
            "arrivals": len(arrivals),
            "witnesses": len(self.witnesses),
            "faults": faults,
            "refused": self.events.refused[self.refused :],
            "p50": percentile(latencies, 0.5),
            "p99": percentile(latencies, 0.99),
            "max": latencies[-1] if latencies else None,
            "worst": worst,
            "own_lag": max(lag, default=0),
        }


async def main(port):
    # What is measured is the server; where it is allowed, the measuring process goes first.
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    target, events = Target(port), Events()
    runs = {
        "ws-json": lambda w: websocket(target, w, False),
        "ws-bin": lambda w: websocket(target, w, True),
        "sse": lambda w: sse(target, w),
        "poll": lambda w: poll(target, w),
        "webtransport": lambda w: webtransport(target, w),
    }
    witnesses = [Witness(kind, n, events) for kind, count in KINDS.items() for n in range(count)]
    tasks = [asyncio.create_task(serve(runs[w.kind], w, w)) for w in witnesses]
    async with asyncio.timeout(30):
        for witness in witnesses:
            await witness.ready.wait()
    tasks.append(asyncio.create_task(publish(target, events)))
    tasks.append(asyncio.create_task(watch_own_lag(events)))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    def say(value):
        print(json.dumps(value), flush=True)

    say({"ready": len(witnesses), "faults": [fault for w in witnesses for fault in w.faults]})
    section = None
    while (line := (await lines.readline()).decode().strip()) not in ("", "stop"):
        if line == "begin":
            section = Section(events, witnesses)
            say({"began": section.first})
        elif line == "end":
            say(await section.report())
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=5)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
