import asyncio
import inspect

import pytest

from server import Server

TEST_DEADLINE = 120


@pytest.fixture(scope="session")
def server():
    running = Server()
    yield running
    ended = running.process.poll()
    running.stop()
    assert ended is None, f"the server ended during the tests with status {ended}:\n" + "".join(running.output[-50:])


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Coroutine tests: each in an event loop of its own, under one deadline."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def run():
        try:
            async with asyncio.timeout(TEST_DEADLINE) as limit:
                await test(**arguments)
        except TimeoutError:
            if limit.expired():
                raise AssertionError(f"the test did not end within {TEST_DEADLINE} s") from None
            raise

    asyncio.run(run())
    return True
