"""Publishes numbered events all the time, and the newest numbers as state.

    publisher.py BASE CERTIFICATE KEY

    start  {events, state, interval}  begins; an event and a value every `interval` seconds
    burst  {events, count, size}      events of `size` bytes at once, before `start`; {"first", "last"}: their positions
    last   {}                         {"n"}: how many events have been published
    stop   {}                         {"n", "values"}: ... and what the state's keys hold, when no more will be
    stats  {}                         what /api/stats says
"""

import asyncio
import pathlib
import ssl
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "contract")]

import httpx  # noqa: E402
from lines import serve  # noqa: E402
from server import publish  # noqa: E402

KEYS = 5


class Publisher:
    def __init__(self, http):
        self.http = http
        self.n, self.values = 0, {}
        self.task, self.stopping = None, asyncio.Event()

    async def burst(self, events, count, size):
        places = []
        for _ in range(count):
            self.n += 1
            epoch, offset = await publish(self.http, events, f"{self.n} ".ljust(size, "."))
            places.append({"epoch": epoch, "offset": offset})
        return {"first": places[0], "last": places[-1]}

    async def start(self, events, state, interval):
        async def run():
            while not self.stopping.is_set():
                n = self.n + 1
                await publish(self.http, events, {"n": n})
                self.n = n
                await publish(self.http, state, n, key=f"k{n % KEYS}")
                self.values[f"k{n % KEYS}"] = n
                await asyncio.sleep(interval)

        self.task = asyncio.create_task(run())
        return {}

    async def last(self):
        if self.task and self.task.done():
            self.task.result()
        return {"n": self.n}

    async def stop(self):
        self.stopping.set()
        await self.task
        return {"n": self.n, "values": self.values}

    async def stats(self):
        return (await self.http.get("/api/stats")).raise_for_status().json()


async def main(base, certificate, key):
    headers = {"authorization": f"Bearer {key}"}
    trusted = ssl.create_default_context(cafile=certificate)
    async with httpx.AsyncClient(base_url=base, headers=headers, verify=trusted, timeout=20, trust_env=False) as http:
        publisher = Publisher(http)
        await serve(lambda op, members: getattr(publisher, op)(**members))
        publisher.stopping.set()
        if publisher.task:
            await publisher.task


asyncio.run(main(*sys.argv[1:]))
