"""How much all requests together may hold: said early, and given back at the end of each. How often one may call."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from starlette.types import Message, Receive

from otel_voice.edge import (
    ADDRESS_REQUESTS,
    IN_HAND_BYTES,
    LIMITED,
    SESSION_REQUESTS,
    UNDER_WAY,
    UNDER_WAY_BYTES,
    InHand,
    Limits,
    Load,
    Rejected,
    body_of,
    limited_as,
)

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


def refused(call: Callable[[], None]) -> Rejected | None:
    try:
        call()
    except Rejected as rejected:
        return rejected
    return None


def allowed_of(calls: int, call: Callable[[], None]) -> int:
    return sum(refused(call) is None for _ in range(calls))


async def test_a_session_may_call_so_often_at_once_and_then_as_time_gives_it_more() -> None:
    limits, began = Limits(), time.monotonic()
    allowed = allowed_of(SESSION_REQUESTS + 100, lambda: limits.session("a"))
    given_since = (time.monotonic() - began) * SESSION_REQUESTS / 60
    assert SESSION_REQUESTS <= allowed <= SESSION_REQUESTS + given_since + 1
    rejected = refused(lambda: limits.session("a"))
    assert rejected is not None
    assert (rejected.status, rejected.retry_after) == (429, 1)
    assert rejected.error.startswith("this session has sent more than 600 requests in a minute")
    assert refused(lambda: limits.session("b")) is None


async def test_an_address_has_a_limit_of_its_own_and_loopback_has_none() -> None:
    limits = Limits()
    allowed = allowed_of(ADDRESS_REQUESTS + 1_000, lambda: limits.address(("192.0.2.1", 1)))
    assert ADDRESS_REQUESTS <= allowed < ADDRESS_REQUESTS + 1_000
    rejected = refused(lambda: limits.address(("192.0.2.1", 2)))
    assert rejected is not None
    assert rejected.error.startswith("this address has sent more than 6000 requests in a minute")
    for client in (("192.0.2.2", 1), ("127.0.0.1", 1), None):
        assert refused(partial(limits.address, client)) is None
    assert allowed_of(ADDRESS_REQUESTS + 100, lambda: limits.address(("::1", 1))) == ADDRESS_REQUESTS + 100


@pytest.mark.parametrize(
    ("host", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002"),
        ("2001:db8:1:2::", "2001:0db8:0001:0002"),
        ("127.0.0.1", None),
        ("127.9.9.9", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("somebody", "somebody"),
        ("", None),
    ],
)
def test_an_address_of_ipv6_counts_as_its_network(host: str, counts_as: str | None) -> None:
    assert limited_as(host) == counts_as


async def test_however_many_sessions_call_only_so_many_are_remembered() -> None:
    limits, threads = Limits(), threading.active_count()
    for n in range(LIMITED + 5_000):
        limits.session(f"call-{n}")
    backend: Any = limits._session._store._backend
    assert len(backend.get_client()) == len(backend.expire_info) == LIMITED
    assert threading.active_count() == threads
