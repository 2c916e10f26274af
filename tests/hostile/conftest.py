"""Servers under attack, the witnesses beside them, and the table of what came of each offence."""

import asyncio
import contextlib
import json
import pathlib
import subprocess
import sys
import time

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "contract")]

from measure import MB, Gauge, Peak  # noqa: E402
from coroutines import pytest_pyfunc_call  # noqa: E402, F401
from server import Server  # noqa: E402

# An event that takes longer than this to reach a witness is late, what the witnesses' own process was late apart. Generous:
# machines are shared.
LATE = 2.5
# How long a server may take to give everything back: past its ten seconds for heads, bodies and idle connections.
RETURN = 16
# What an allocator may keep of a second round like the first.
KEPT = 6 * MB
ROWS = []


class Witnesses:
    """The process of `witnesses.py`, one line in and one line out."""

    def __init__(self, server):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "witnesses.py"), str(server.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        first = self._line("the witnesses to subscribe")
        assert not first["faults"], first["faults"][:5]
        self.count = first["ready"]

    def _line(self, awaited):
        line = self.process.stdout.readline()
        assert line, f"the witnesses' process ended with {self.process.poll()} while it was asked for {awaited}"
        return json.loads(line)

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._line(f"the answer to {command}")

    def stop(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Offences:
    """Runs offences against one server, and checks what they did to it and to everybody else."""

    def __init__(self, server):
        self.server = server
        self.gauge = Gauge(server)
        self.witnesses = Witnesses(server)
        self.sessions = self.witnesses.count + 1

    def close(self):
        self.witnesses.stop()
        self.gauge.close()

    async def run(self, name, attack, bound, rounds=2, kept=KEPT, back=RETURN):
        """Awaits `attack()`, which returns what the offender saw, `rounds` times.

        `bound` is what the server may hold on top of before, in bytes. When it is over, descriptors are those of before, and
        sessions the witnesses' and their publisher's (those of polls come and go); after the last round so are channels, and
        memory within `kept`, as they were before that round: an allocator keeps some, but not more each time.
        """
        await asyncio.to_thread(self.witnesses.tell, "begin")
        began, failed = time.monotonic(), None
        try:
            first = await asyncio.to_thread(self.gauge.state)
            with Peak(self.server.process.pid) as peak:
                before = first
                for _ in range(rounds - 1):
                    await attack()
                    before = await self._given_back(name, before, back)
                saw = await attack()
            grown = peak.highest - first.pss
            after = await self._given_back(name, before, back, kept)
        except BaseException as error:
            failed = error
            raise
        finally:
            report = await asyncio.to_thread(self.witnesses.tell, "end")
            if failed:
                ROWS.append((name, f"FAILED: {str(failed).splitlines()[0][:110]}", report, None, None, time.monotonic() - began))
        ROWS.append((name, saw, report, grown, after.pss - before.pss, time.monotonic() - began))
        assert report["events"] > 0 and report["arrivals"] == report["events"] * report["witnesses"], report
        assert not report["refused"], f"{name}: the publisher was refused: {report['refused'][:3]}"
        assert not report["faults"], f"{name}: {len(report['faults'])} faults of witnesses: {report['faults'][:5]}"
        assert report["max"] - report["own_lag"] <= LATE, f"{name}: a witness waited {report['max']:.2f} s for an event; worst of each kind: {report['worst']}"
        assert grown <= bound, f"{name}: the server grew by {grown / MB:.1f} MB; its bound here is {bound / MB:.1f} MB"

    async def _given_back(self, name, before, seconds, kept=None):
        def same(state):
            return (
                state.descriptors <= before.descriptors
                and state.sessions <= self.sessions
                and (kept is None or (state.pss <= before.pss + kept and state.channels <= before.channels))
            )

        what = "descriptors and sessions" + ("" if kept is None else f", channels, and memory within {kept / MB:.0f} MB,")
        assert self.server.process.poll() is None, f"{name}: the server ended with {self.server.process.poll()}"
        awaited = f"{what} to come back after {name} ({self.sessions} sessions); before: {before.shown()}"
        return await asyncio.to_thread(self.gauge.until, same, seconds, awaited)


@pytest.fixture(scope="module")
def server():
    running = Server()
    yield running
    ended = running.process.poll()
    running.stop()
    said = "".join(running.output[-20:])
    assert ended is None, f"the server ended during the tests with status {ended}:\n{said}"
    assert "panicked" not in "".join(running.output), f"the server panicked:\n{said}"


@pytest.fixture(scope="module")
def offences(server):
    running = Offences(server)
    yield running
    running.close()


def pytest_terminal_summary(terminalreporter):
    if not ROWS:
        return
    terminalreporter.section("offences")
    line = "{:<52} {:>6} {:>6} {:>6} {:>6}  {:>7} {:>7}  {:>5}  {}"
    terminalreporter.write_line(line.format("offence", "p50", "p99", "max", "lag", "grew", "kept", "took", "what the offender saw"))
    for name, saw, report, grown, kept, took in ROWS:
        ms = [f"{report[k] * 1000:.0f}" if report.get(k) is not None else "-" for k in ("p50", "p99", "max", "own_lag")]
        memory = ["-" if value is None else f"{value / MB:.1f}" for value in (grown, kept)]
        terminalreporter.write_line(line.format(name, *ms, *memory, f"{took:.1f}", saw))
    terminalreporter.write_line("p50, p99, max: lateness of events at witnesses in ms; lag: of their own process; grew, kept: Pss in MB; took: s")
