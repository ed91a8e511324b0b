"""The span record that a session hands out, and the ids, which anybody can compute beforehand."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Literal

from msgspec import Struct

Value = str | bool | int | float | list[str]
Kind = Literal["session", "turn", "response", "tool", "user_speech", "agent_speech", "event"]

INTERNAL = "INTERNAL"
CLIENT = "CLIENT"

_HEX32 = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Beside /v1/sessions/{id} these are something else: two routes, and what a client takes out of a path.
ELSE = ("plots", "stream", ".", "..")


class Span(Struct):
    """A finished span (or, while `open`, a span so far), with OpenTelemetry's field names; ids are lower-case hex."""

    name: str
    trace_id: str
    span_id: str
    start_time_unix_nano: int
    end_time_unix_nano: int
    parent_span_id: str = ""
    kind: str = INTERNAL
    attributes: dict[str, Value] = {}
    status: Literal["UNSET", "ERROR"] = "UNSET"
    status_message: str = ""
    links: list[str] = []  # traceparents
    open: bool = False


def session_id(text: str) -> str:
    """The canonical form of a session id: a UUID in lower case with hyphens, anything else as it is.

    Raises ValueError with one sentence."""
    lower = text.lower()
    if _HEX32.fullmatch(lower):
        digits = lower.replace("-", "")
        if not digits.strip("0"):
            raise ValueError("session_id: the nil UUID names no session")
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    if not _SESSION_ID.fullmatch(text):
        raise ValueError("session_id: must be a UUID or 1 to 128 characters of [A-Za-z0-9._:-]")
    if text in ELSE:
        raise ValueError(
            f"session_id: none of {', '.join(ELSE)} names a session; in an address they are something else"
        )
    return text


def trace_id(session: str) -> str:
    """A UUID's own 128 bits, else the first half of the SHA-256 (the rule of Langfuse's `create_trace_id(seed)`)."""
    if len(session) == 36 and _HEX32.fullmatch(session):
        return session.replace("-", "")
    return sha256(session.encode()).hexdigest()[:32]


def span_id(trace: str, kind: Kind, key: str) -> str:
    """The first 8 bytes of the SHA-256 over `trace_id/kind/key`: a browser computes the same."""
    return sha256(f"{trace}/{kind}/{key}".encode()).hexdigest()[:16]


def root_id(trace: str) -> str:
    return span_id(trace, "session", "")


def traceparent(trace: str, span: str) -> str:
    return f"00-{trace}-{span}-01"
