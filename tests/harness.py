"""The real driver, worker, slots and store code without Modal: `.map()` is a few threads of this process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from modalbatch.driver.drive import drive
from modalbatch.driver.runs import Request
from modalbatch.job import Job
from modalbatch.runtime.worker import Worker


@contextmanager
def module_path(folder: Path):
    """As in a container: the handler's folder on `sys.path`."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


class Pool:
    """Workers behind the shape of `Worker().process.map.aio`."""

    def __init__(self, job: Job, n_workers: int = 1) -> None:
        self.workers = [Worker(job.to_json()) for _ in range(n_workers)]
        self._threads = ThreadPoolExecutor(n_workers * 2)
        self.n_calls = 0

    async def map(
        self, feed: AsyncIterator[str], *, order_outputs: bool, return_exceptions: bool
    ) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        answers: asyncio.Queue = asyncio.Queue()
        end = object()

        async def pump() -> None:
            tasks = []
            async for text in feed:
                worker = self.workers[self.n_calls % len(self.workers)]
                self.n_calls += 1

                async def one(worker=worker, text=text) -> None:
                    try:
                        answer = await loop.run_in_executor(self._threads, worker.process, text)
                    except Exception as error:
                        answer = error
                    await answers.put(answer)

                tasks.append(asyncio.create_task(one()))
            await asyncio.gather(*tasks)
            await answers.put(end)

        pumping = asyncio.create_task(pump())
        while (answer := await answers.get()) is not end:
            yield answer
        await pumping

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self._threads.shutdown()


async def no_report(progress: dict) -> None:
    json.dumps(progress)


def run_job(job: Job, folder: Path, *, run_id: str, n_workers: int = 1, pool: Pool | None = None, **request) -> dict:
    """One run of the job with its handler and data below `folder`; the outcome."""
    with module_path(folder):
        own = pool or Pool(job, n_workers)
        try:
            wish = Request(run_id=run_id, roots={"": f"{folder}/"}, containers=n_workers, **request)
            return json.loads(asyncio.run(drive(job.to_json(), wish.to_text(), own.map, no_report)))
        finally:
            if not pool:
                own.close()
