"""What a server process holds: memory, descriptors, and what it says of itself."""

import os
import threading
import time
from dataclasses import dataclass

import httpx

MB = 1 << 20
# What `GET /api/stats` says of the node's own figures, which development mode publishes by itself.
CENSUS = ("sessions", "channels")


def pss(pid):
    """Proportional set size in bytes."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/{pid}/smaps_rollup has no Pss")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


@dataclass
class State:
    pss: int
    descriptors: int
    sessions: int
    channels: int
    channel_bytes: int

    def shown(self):
        return (
            f"{self.pss / MB:.1f} MB, {self.descriptors} descriptors, {self.sessions} sessions, {self.channels} channels "
            f"of {self.channel_bytes / MB:.1f} MB"
        )


class Gauge:
    """Looks at one server, over one connection that stays open so that it does not count itself."""

    def __init__(self, server):
        self.pid = server.process.pid
        self.http = httpx.Client(base_url=server.base, timeout=15, trust_env=False)

    def close(self):
        self.http.close()

    def stats(self):
        response = self.http.get("/api/stats")
        assert response.status_code == 200, f"/api/stats: {response.status_code} {response.text[:200]}"
        return response.json()

    def state(self):
        stats = self.stats()
        return State(pss(self.pid), descriptors(self.pid), stats["sessions"], stats["channels"], stats["channel_bytes"])

    def until(self, fits, seconds, awaited):
        """The first state that `fits`; what was awaited when there is none in time."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.state()
            if fits(state):
                return state
            assert time.monotonic() < deadline, f"waited {seconds} s in vain for {awaited}; now {state.shown()}"
            time.sleep(0.1)


class Peak:
    """The most that a process held while this was entered."""

    def __init__(self, pid, interval=0.1):
        self.pid, self.interval = pid, interval
        self.highest = pss(pid)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        while not self.over.wait(self.interval):
            try:
                self.highest = max(self.highest, pss(self.pid))
            except OSError:  # the process is gone, which the test finds by itself
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.highest = max(self.highest, pss(self.pid)) if os.path.exists(f"/proc/{self.pid}") else self.highest
