"""How much all requests together may hold: said early, and given back at the end of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from starlette.types import Message, Receive

from otel_voice.edge import IN_HAND_BYTES, UNDER_WAY, UNDER_WAY_BYTES, InHand, Load, Rejected, body_of

pytestmark = pytest.mark.anyio
TEXT = (b"text/plain",)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


HEADERS = {b"content-type": b"text/plain"}


def sent(*chunks: bytes, whole: bool = True) -> Receive:
    """A POST whose body comes in these chunks; one that is not whole never ends."""
    left = list(chunks)

    async def receive() -> Message:
        if not left and not whole:
            await asyncio.Event().wait()
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left) or not whole}

    return receive


@contextlib.contextmanager
def working(load: Load, count: int) -> Iterator[list[InHand]]:
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(load.request()) for _ in range(count)]
        for part in parts:
            part.work()
        yield parts


async def test_a_request_on_top_of_too_many_is_503_before_anything_of_it_is_read() -> None:
    load = Load()
    with working(load, UNDER_WAY):
        with pytest.raises(Rejected) as rejected, load.request():
            pass
        assert (rejected.value.status, rejected.value.retry_after) == (503, 1)
    with load.request():
        assert load.under_way == 0


async def test_a_request_on_top_of_too_much_is_503_and_a_large_one_alone_is_none() -> None:
    load = Load()
    with contextlib.ExitStack() as large:
        for _ in range(UNDER_WAY_BYTES // 2**20 + 1):
            body = await body_of(HEADERS, sent(b"x" * 2**20), TEXT, large.enter_context(load.request()))
            assert len(body) == 2**20
        with pytest.raises(Rejected) as rejected, load.request():
            pass
        assert rejected.value.status == 503
    with load.request() as next_:
        assert await body_of(HEADERS, sent(b"x"), TEXT, next_) == b"x"


async def test_requests_that_are_still_being_sent_are_in_nobodys_way() -> None:
    load = Load()
    with contextlib.ExitStack() as slow:
        for _ in range(2 * UNDER_WAY):
            slow.enter_context(load.request())
        with load.request() as hand:
            assert await body_of(HEADERS, sent(b"x"), TEXT, hand) == b"x"


async def test_bodies_that_take_too_much_memory_together_are_503_and_give_it_back() -> None:
    load = Load()
    with working(load, 1) as (large,):
        large.take(IN_HAND_BYTES - 10)
        with load.request() as hand, pytest.raises(Rejected) as rejected:
            await body_of(HEADERS, sent(b"x" * 9, b"x" * 9), TEXT, hand)
        assert rejected.value.status == 503
        assert load.bytes == IN_HAND_BYTES - 10
    assert (load.bytes, load.under_way) == (0, 0)


async def test_a_body_that_does_not_come_is_408() -> None:
    load = Load(body_s=0.05)
    watching = asyncio.create_task(load.watch())
    with load.request() as hand, pytest.raises(Rejected) as rejected:
        await body_of(HEADERS, sent(b"x", whole=False), TEXT, hand)
    watching.cancel()
    assert (rejected.value.status, rejected.value.error) == (408, "body: it was not there within 0.05 s")
