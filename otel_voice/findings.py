"""Findings: what a look at one thing found, and why somebody could not be asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Literal

import httpx
from msgspec import Struct


class Finding(Struct, frozen=True):
    """What one check found. `mend` is wrong; `look` is worth knowing, or could not be asked."""

    name: str
    state: Literal["ok", "look", "mend"]
    text: str


class NoAnswer(Exception):
    """Why somebody could not be asked, in a clause; with the status of the answer, if there was one."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status

    @property
    def is_final(self) -> bool:
        """Whether asking again is of no use."""
        return self.status is not None and self.status < 500 and self.status != 429


def ok(name: str, text: str) -> Finding:
    return Finding(name, "ok", text)


def look(name: str, text: str) -> Finding:
    return Finding(name, "look", text)


def mend(name: str, text: str) -> Finding:
    return Finding(name, "mend", text)


async def get(url: str, answer_s: float) -> httpx.Response:
    """Raises NoAnswer."""
    with as_no_answer(answer_s):
        async with asyncio.timeout(answer_s), httpx.AsyncClient(timeout=answer_s, trust_env=False) as http:
            return await http.get(url)


@contextlib.contextmanager
def as_no_answer(answer_s: float) -> Iterator[None]:
    try:
        yield
    except (TimeoutError, httpx.TimeoutException):
        raise NoAnswer(f"no answer within {answer_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoAnswer(f"{type(error).__name__}: {error}".rstrip(": ")) from error
