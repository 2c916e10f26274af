"""Processes that are asked by lines of JSON, as tests/parity/agent.mjs has it: {"n", "request"} in, {"n", "answer"} out."""

import asyncio
import json
import sys

from server import within

MAX_LINE = 16 << 20
CALL_DEADLINE = 60
END_DEADLINE = 10


class Failure(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Peer:
    """Such a process, seen from the test."""

    def __init__(self, name, process):
        self.name, self.process = name, process
        self.waiting, self.count = {}, 0
        self.reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, name, *command):
        pipe = asyncio.subprocess.PIPE
        return cls(name, await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=MAX_LINE))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.process.stdin.close()
        try:
            async with within(END_DEADLINE, f"{self.name} to end with its input"):
                await self.process.wait()
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            self.reading.cancel()
        assert self.process.returncode == 0, f"{self.name} ended with {self.process.returncode}"

    async def _read(self):
        while line := await self.process.stdout.readline():
            said = json.loads(line)
            self._settle(said["n"], said["answer"])
        for n in list(self.waiting):
            self._settle(n, {"error": {"code": "ended", "message": "the process ended"}})

    def _settle(self, n, answer):
        waiting = self.waiting.pop(n)
        if not waiting.done():
            waiting.set_result(answer)

    async def ask(self, op, **members):
        """The `ok` of the answer; its error is raised as an AssertionError."""
        what = f"{self.name}: {op} {json.dumps(members)[:200]}"
        self.count += 1
        n = self.count
        self.waiting[n] = asyncio.get_running_loop().create_future()
        self.process.stdin.write(json.dumps({"n": n, "request": {"op": op, **members}}).encode() + b"\n")
        async with within(CALL_DEADLINE, f"an answer to {what}"):
            answer = await self.waiting[n]
        assert "ok" in answer, f"{what}: {answer['error']['code']}: {answer['error']['message']}"
        return answer["ok"]


async def serve(run):
    """Answers what standard input asks by `await run(op, members)`, until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(MAX_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def answer(n, request):
        try:
            said = {"ok": await run(request.pop("op"), request)}
        except Failure as error:
            said = {"error": {"code": error.code, "message": str(error)}}
        except Exception as error:
            said = {"error": {"code": "failed", "message": f"{type(error).__name__}: {error}"}}
        print(json.dumps({"n": n, "answer": said}), flush=True)

    running = set()
    while line := await reader.readline():
        asked = json.loads(line)
        task = loop.create_task(answer(asked["n"], asked["request"]))
        running.add(task)
        task.add_done_callback(running.discard)
    for task in running:
        task.cancel()
