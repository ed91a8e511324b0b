"""Reads: what somebody looks at is found, mapped and written as JSON in a few threads that nothing else waits for.

What goes in and what goes out has the event loop's own executor, and never a place behind a search.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
from msgspec import Raw

from otel_voice.edge import Rejected

T = TypeVar("T")

# More would take the interpreter from the loop more often.
THREADS = 2
WAIT_S = 5.0


class Threads:
    """So many that work at once; whoever has waited for one for too long is told to come again."""

    def __init__(self, name: str) -> None:
        self._threads, self._free = ThreadPoolExecutor(THREADS, name), asyncio.Semaphore(THREADS)
        self.wait_s = WAIT_S

    async def run(self, work: Callable[[], T], patiently: bool = False) -> T:
        """What `work` gives. Raises Rejected: 503; `patiently` never does, for an answer that has begun."""
        try:
            async with asyncio.timeout(None if patiently else self.wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise Rejected(503, "too much is being looked at; try again", retry_after=2) from None
        asked = asyncio.get_running_loop().run_in_executor(self._threads, work)
        # Whoever asked may go away: the thread is taken until it is done.
        asked.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(asked)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)


class Reads:
    """Searches have threads of their own: a slow one keeps nobody from a call."""

    def __init__(self) -> None:
        self.searches, self.looks = Threads("searches"), Threads("looks")

    async def close(self) -> None:
        await self.searches.close()
        await self.looks.close()


def encoded(values: Iterable[object]) -> list[Raw]:
    """As JSON, one by one: the encoder lets go of the interpreter only between them."""
    return [Raw(msgspec.json.encode(value)) for value in values]
