"""Clients that vanish without a word are found on every transport, and leave nothing behind."""

import json
import os
import pathlib
import subprocess
import sys

import namespaces

VANISH = pathlib.Path(__file__).resolve().parent / "vanish.py"
# Two heartbeats and the deadline (limits.rs), and the pace at which it is looked.
BOUND = 2 * 20 + 10 + 1
DEADLINE = 150


def test_who_vanishes_is_found_and_leaves_nothing(table):
    where = f"fulmar-{os.getpid()}-vanish"
    namespaces.run("ip", "netns", "add", where)
    try:
        namespaces.run("ip", "-n", where, "link", "set", "lo", "up")
        command = [*namespaces.Network.inside(where), sys.executable, str(VANISH)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    finally:
        namespaces.run("ip", "netns", "del", where)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 13, sorted(found)
    for name, it in found.items():
        after = "  ".join(f"{what} {it['gone'].get(what, 'never')}" for what in it["empty"])
        table("vanished", name, f"gone after seconds: {after}")
    for name, it in found.items():
        late = {what: it["gone"].get(what) for what in it["empty"] if it["gone"].get(what, BOUND) >= BOUND}
        assert not late, f"{name}: not gone within {BOUND} s: {late}; at first {it['empty']}, at the end {it['last']}"
