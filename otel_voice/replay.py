"""Replay: a recording's events into a receiver, over HTTP, as a page would post them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import httpx
import msgspec
from msgspec.structs import replace

from otel_voice.events import Accepted, Clock, Created, Ended, NewSession, SessionEnd, WireEvent
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


class Posted(NamedTuple):
    """An event, with its time by the clock of its sender, or an end; and when it came in the recording (ms)."""

    at: float
    source: str | None
    clock: Clock | None
    what: WireEvent | Ended


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
        new = msgspec.to_builtins(recording.new or NewSession())
        new |= {key: value for key, value in (("session_id", session_id), ("agent_name", agent_name)) if value}
        # Who is not there at the start is no receiver that restarts.
        answer = _call(http, "/v1/sessions", new, headers, tries=1)
        made = _decoded(answer, Made)
        length = (recording.end - recording.start) / 1000
        begun = time.time()
        ends = begun + (length / speed if speed else 0)
        shift = (ends - length) * 1000 - recording.start
        for request in _requests(_posted(recording, shift), speed, begun):
            body = {**request, "token": made.token}
            if "events" in request:
                _call(http, f"/v1/sessions/{made.session_id}/events", {**body, "sent_at": time.time() * 1000})
                on_progress(len(request["events"]))
            else:
                answer = _call(http, f"/v1/sessions/{made.session_id}/end", body)
        return _decoded(answer, Summary)


def _posted(recording: Recording, shift: float) -> list[Posted]:
    """What is told over HTTP, an end last: the one that there was, which says nothing new. A provider's frames come
    from a new source each time, a download's events from their own."""
    source = None if recording.is_download else uuid.uuid4().hex
    posted, reason = list[Posted](), END_REASON
    for line in recording.lines:
        what = line.what
        if isinstance(what, Accepted | Created):
            continue
        if isinstance(what, Ended | SessionEnd):
            reason = what.reason
        if isinstance(what, Ended):
            what = replace(what, source=source or what.source)
        else:
            offset = line.clock.offset if line.clock else 0.0
            what = replace(what, ts=(what.ts or 0.0) + shift - offset)
        posted.append(Posted(line.at, source or line.source, line.clock, what))
    if posted and isinstance(posted[-1].what, Ended):
        return posted
    last = posted[-1] if posted else Posted(recording.end, source, None, Ended(reason))
    return [*posted, last._replace(what=Ended(reason))]


def _client(endpoint: str) -> httpx.Client:
    if not endpoint.startswith(("http://", "https://")):
        whole = "it has to begin with http:// or https://, as http://127.0.0.1:8770"
        raise ReplayFailed(f"--endpoint {endpoint} is no address of a receiver: {whole}")
    try:
        return httpx.Client(base_url=endpoint.rstrip("/"), timeout=30, trust_env=False)
    except httpx.InvalidURL as error:
        raise ReplayFailed(f"--endpoint {endpoint} is no address of a receiver: {error}") from None


def _requests(posted: list[Posted], speed: float | None, begun: float) -> Iterator[dict[str, Any]]:
    """Ends, and batches of one source and clock, each when its last event is due."""
    opened, size = begun, 0
    batch: list[Posted] = []
    for each in posted:
        due = begun + (each.at - posted[0].at) / 1000 / speed if speed else begun
        length = len(msgspec.json.encode(each.what))
        is_full = due - opened > EVERY_S or len(batch) == BATCH or size + length > BATCH_BYTES
        if batch and (is_full or isinstance(each.what, Ended) or batch[0][1:3] != each[1:3]):
            yield _batch(batch)
            batch, opened, size = [], due, 0
        time.sleep(max(0.0, due - time.time()))
        if isinstance(each.what, Ended):
            yield _said(reason=each.what.reason, last_seq=each.what.last_seq, source=each.what.source)
        else:
            batch.append(each)
            size += length


def _batch(posted: list[Posted]) -> dict[str, Any]:
    return _said(source=posted[0].source, clock=posted[0].clock, events=[each.what for each in posted])


def _said(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


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
            error = f"no receiver can be reached at {http.base_url} ({failure})"
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
