import pytest
from coroutines import pytest_pyfunc_call  # noqa: F401
from server import Server


@pytest.fixture(scope="session")
def server():
    running = Server()
    yield running
    ended = running.process.poll()
    running.stop()
    assert ended is None, f"the server ended during the tests with status {ended}:\n" + "".join(running.output[-50:])
