"""Replay: a recording's events into a receiver, over HTTP, as a page would post them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx
import msgspec

from otel_voice.events import ProviderMessage
from otel_voice.receiver import Made
from otel_voice.recording import END_REASON, Recording
from otel_voice.summary import Summary

T = TypeVar("T")

BATCH = 100
# Well under what a receiver takes.
BATCH_BYTES = 2**19
# A page posts at most once a second.
EVERY_S = 1.0
TRIES = 8


class ReplayFailed(Exception):
    """One sentence."""


def replay(
    recording: Recording,
    endpoint: str,
    api_key: str | None,
    speed: float | None,
    on_progress: Callable[[int], None],
    session_id: str | None = None,
    agent_name: str | None = None,
) -> Summary:
    """Posts a recording and ends the session; durations stay as recorded, and the call ends now, whatever the `speed`
    (None: as fast as the receiver takes it). Raises ReplayFailed."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    with _client(endpoint) as http:
        new = {"session_id": session_id, "agent_name": agent_name}
        # Who is not there at the start is no receiver that restarts.
        answer = _call(http, "/v1/sessions", {key: value for key, value in new.items() if value}, headers, tries=1)
        made = _decoded(answer, Made)
        source = uuid.uuid4().hex
        length = (recording.end - recording.start) / 1000
        begun = time.time()
        ends = begun + (length / speed if speed else 0)
        sent = 0
        for events in _batches(recording.moved_to((ends - length) * 1000), speed, begun):
            body = {"source": source, "token": made.token, "sent_at": time.time() * 1000, "events": events}
            _call(http, f"/v1/sessions/{made.session_id}/events", body)
            on_progress(len(events))
            sent += len(events)
        end = {"reason": END_REASON, "last_seq": sent - 1, "source": source, "token": made.token}
        answer = _call(http, f"/v1/sessions/{made.session_id}/end", end)
        return _decoded(answer, Summary)


def _client(endpoint: str) -> httpx.Client:
    try:
        return httpx.Client(base_url=endpoint.rstrip("/"), timeout=30, trust_env=False)
    except httpx.InvalidURL as error:
        raise ReplayFailed(f"{endpoint} is no address of a receiver: {error}") from None


def _batches(events: list[ProviderMessage], speed: float | None, begun: float) -> Iterator[list[ProviderMessage]]:
    """Batches, each when its last event is due."""
    first, opened, size = events[0].ts or 0.0, begun, 0
    batch: list[ProviderMessage] = []
    for event in events:
        due = begun + ((event.ts or 0.0) - first) / 1000 / speed if speed else begun
        length = len(msgspec.json.encode(event))
        if batch and (due - opened > EVERY_S or len(batch) == BATCH or size + length > BATCH_BYTES):
            yield batch
            batch, opened, size = [], due, 0
        time.sleep(max(0.0, due - time.time()))
        batch.append(event)
        size += length
    yield batch


def _call(
    http: httpx.Client, path: str, body: object, headers: dict[str, str] | None = None, tries: int = TRIES
) -> httpx.Response:
    """One call, again while the receiver is away or busy: the events are numbered, so nothing counts twice."""
    content = msgspec.json.encode(body)
    error = ""
    for attempt in range(tries):
        wait = min(5.0, 0.1 * 2**attempt)
        try:
            answer = http.post(path, content=content, headers={"content-type": "application/json", **(headers or {})})
        except httpx.HTTPError as failure:
            error = f"{http.base_url} cannot be reached: {failure}"
        else:
            if answer.status_code in (200, 201, 204):
                return _whole(answer)
            error = f"{http.base_url} answered {answer.status_code}: {answer.text[:200]!r}"
            if answer.status_code not in (429, 503):
                break
            asked = answer.headers.get("retry-after", "")
            wait = min(float(asked), 30.0) if asked.isdecimal() else wait
        if attempt + 1 < tries:
            time.sleep(wait)
    raise ReplayFailed(error)


def _decoded(answer: httpx.Response, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=type_)
    except msgspec.DecodeError:
        raise ReplayFailed(f"{answer.url} is no receiver's: it answered {answer.text[:200]!r}") from None


def _whole(answer: httpx.Response) -> httpx.Response:
    """Of a recording every event counts."""
    if b'"rejected":[{' in answer.content:
        raise ReplayFailed(f"the receiver refused events: {answer.text[:500]!r}")
    return answer
