"""Coroutine tests, for the conftest of each suite to import."""

import asyncio
import inspect

import pytest

TEST_DEADLINE = 120


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs each in an event loop of its own, under one deadline."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def run():
        async with asyncio.timeout(TEST_DEADLINE) as limit:
            try:
                await test(**arguments)
            except TimeoutError:
                assert not limit.expired(), f"the test did not end within {TEST_DEADLINE} s"
                raise

    asyncio.run(run())
    return True
