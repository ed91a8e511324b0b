"""What people look at has threads of its own: as many at once as there are, not for longer than it may, and nothing
that comes in or goes out waits for it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from otel_voice.edge import Rejected
from otel_voice.reads import THREADS, Threads
from otel_voice.store import FILE
from tests.running import SESSION, START_S, mark, running, until

pytestmark = pytest.mark.anyio
START_MS = START_S * 1000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def threads(anyio_backend: str) -> AsyncIterator[Threads]:
    threads = Threads("test")
    yield threads
    await threads.close()


async def test_whoever_waits_too_long_for_a_thread_is_told_to_come_again(threads: Threads) -> None:
    done, threads.wait_s = threading.Event(), 0.02
    taken = [asyncio.create_task(threads.run(done.wait)) for _ in range(THREADS)]
    await asyncio.sleep(0)
    with pytest.raises(Rejected) as refused:
        await threads.run(done.is_set)
    assert (refused.value.status, refused.value.retry_after) == (503, 2)
    patient = asyncio.create_task(threads.run(done.is_set, patiently=True))
    await asyncio.sleep(3 * threads.wait_s)
    done.set()
    assert await patient and all(await asyncio.gather(*taken))


async def test_a_thread_is_taken_until_its_work_is_done_whoever_has_gone(threads: Threads) -> None:
    done, threads.wait_s = threading.Event(), 0.02
    taken = [asyncio.create_task(threads.run(done.wait)) for _ in range(THREADS)]
    await asyncio.sleep(0)
    for task in taken:
        task.cancel()
    await asyncio.wait(taken)
    with pytest.raises(Rejected):
        await threads.run(done.is_set)
    done.set()
    assert await threads.run(done.is_set)


async def test_searches_of_many_keep_no_event_no_session_and_no_call_waiting(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        await app.post({"type": "turn_complete", "turn_id": "t", "ts": START_MS}, {"type": "session_end"})
        app.clock.now += 60
        await until(lambda: app.rows("SELECT 1 FROM sessions WHERE status = 'ended'"))
    async with running(tmp_path) as app:
        done, app.state.reads.searches.wait_s = threading.Event(), 0.2
        searching = [asyncio.create_task(app.state.reads.searches.run(done.wait)) for _ in range(40)]
        await asyncio.sleep(0)
        # It has to be read from the store first, as one has to that is looked at.
        assert (await app.post(mark())).status_code == 204
        assert (await app.client.get(f"/v1/sessions/{SESSION}/spans")).status_code == 200
        for path in ("/v1/sessions", "/v1/sessions/plots", "/v1/sessions?q=word"):
            answer = await app.client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert answer.json() == {"error": "too much is being looked at; try again"}
        done.set()
        await asyncio.gather(*searching, return_exceptions=True)


# As many calls as a search looks through for some milliseconds.
FILL = """
INSERT INTO calls (no, id, started_at, user_id)
WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000) SELECT n, n, n, 'somebody' FROM n
"""


async def test_a_search_that_takes_too_long_is_given_up_with_a_sentence(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        with closing(sqlite3.connect(app.data_dir / FILE)) as db, db:
            db.execute(FILL)
        limit, app.state.store.calls.limit_s = app.state.store.calls.limit_s, 0.0
        for path in ("/v1/sessions?q=nobody", "/v1/sessions/plots?q=some"):
            answer = await app.client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json() == {"error": "the search took longer than 5 s: narrow it"}
        app.state.store.calls.limit_s = limit
        for path in ("/v1/sessions?q=nobody", "/v1/sessions/plots?q=some"):
            assert (await app.client.get(path)).status_code == 200
