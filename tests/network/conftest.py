"""A server behind a router, in network namespaces that are removed whatever comes; and the table of how long clients went without events,
and servers with clients that had gone."""

import os
import pathlib
import signal
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "contract")]

import namespaces  # noqa: E402
from certificate import make  # noqa: E402
from coroutines import pytest_pyfunc_call  # noqa: E402, F401
from server import Server  # noqa: E402

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target")).resolve()
AGENT = os.environ.get("FULMAR_AGENT", str(TARGET / "debug/examples/agent"))
KEY = "a key that only the publisher knows"
CONFIGURATION = """
hosts = ["{address}"]

[api]
key_file = "{folder}/api.key"

[namespaces.event]
class = "event"
subscribe = true
publish = true
count = 100000
bytes = 67108864

[namespaces.state]
class = "state"
subscribe = true
"""
ROWS = []


def pytest_sessionstart():
    # What has to be removed is removed when pytest is terminated, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if why := namespaces.lacking():
        raise pytest.UsageError(f"connection migration cannot be tested: {why}")
    if not os.access(AGENT, os.X_OK):
        raise pytest.UsageError(f"connection migration cannot be tested: there is no {AGENT} (cargo build -p fulmar-client --example agent)")


@pytest.fixture
def network():
    with namespaces.Network() as made:
        yield made


@pytest.fixture
def server(network, tmp_path):
    make(tmp_path, namespaces.SERVER)
    (tmp_path / "api.key").write_text(KEY + "\n")
    (tmp_path / "api.key").chmod(0o600)
    (tmp_path / "fulmar.toml").write_text(CONFIGURATION.format(address=namespaces.SERVER, folder=tmp_path))
    running = Server(
        *("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"), "--config", str(tmp_path / "fulmar.toml")),
        http=f"{namespaces.SERVER}:8443", quic=f"{namespaces.SERVER}:{namespaces.QUIC_PORT}", where=network.inside(network.server),
    )
    running.certificate = str(tmp_path / "cert.pem")
    yield running
    ended = running.process.poll()
    running.stop()
    said = "".join(running.output[-20:])
    assert ended is None, f"the server ended during the test with status {ended}:\n{said}"
    assert "panicked" not in "".join(running.output), f"the server panicked:\n{said}"


@pytest.fixture
def table():
    """Takes (what happened, client, what came of it) for the end of the run."""
    return lambda *row: ROWS.append(row)


def pytest_terminal_summary(terminalreporter):
    if ROWS:
        terminalreporter.section("migrations, and clients that vanished")
    for row in ROWS:
        terminalreporter.write_line("{:<35} {:<23} {}".format(*row))
